//! Jobs: the programs that connect.

use std::collections::BTreeMap;

use mobula_transport::{ProcessAddr, message};
use serde::{Deserialize, Serialize};

use super::cluster::ClusterView;
use crate::error::Error;
use crate::ids::JobId;

/// Driver to GCS: a program connects.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RegisterJob {
    /// The driver's process.
    pub driver: ProcessAddr,
    /// The program's name.
    pub name: String,
    /// The binary that its workers run; none when its tasks run in its own process.
    pub binary: Option<BinaryInfo>,
    /// Its registry's digest.
    pub digest: u64,
    /// The namespace of its named actors, if the user chose one.
    pub namespace: Option<String>,
    /// What its workers find around them.
    pub env: JobEnv,
}
message!(RegisterJob => Result<JobRegistered, Error>);

/// A program that workers run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BinaryInfo {
    /// The hash of its content, in hex.
    pub hash: String,
    /// Its size.
    pub size_bytes: u64,
    /// Where the driver has it; used in place by nodes of the same machine when the hash agrees.
    pub path: String,
}

/// What the workers of a job find around them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobEnv {
    /// Variables of their environment.
    pub vars: BTreeMap<String, String>,
    /// The package whose files lie in their working directory; fetched from the driver like a binary.
    pub package: Option<BinaryInfo>,
}

/// The answer to [`RegisterJob`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JobRegistered {
    /// The job.
    pub job: JobId,
    /// The nodes.
    pub view: ClusterView,
}

/// Driver to GCS: the program is done.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FinishJob {
    /// The job.
    pub job: JobId,
}
message!(FinishJob => ());

/// Driver to GCS, every second: the program still runs. False when the GCS has ended the job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JobHeartbeat {
    /// The job.
    pub job: JobId,
}
message!(JobHeartbeat => bool);

/// A job, as the GCS knows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JobInfo {
    /// The job.
    pub job: JobId,
    /// The program's name.
    pub name: String,
    /// The driver's process.
    pub driver: ProcessAddr,
    /// The binary of its workers.
    pub binary: Option<BinaryInfo>,
    /// Its registry's digest.
    pub digest: u64,
    /// The namespace of its named actors.
    pub namespace: String,
    /// When it started, seconds since 1970.
    pub started_unix_s: u64,
    /// When it ended, if it has.
    pub ended_unix_s: Option<u64>,
    /// What its workers find around them.
    #[serde(default)]
    pub env: JobEnv,
}

/// Raylet to GCS: a job of which it needs the binary.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GetJob {
    /// The job.
    pub job: JobId,
}
message!(GetJob => Option<JobInfo>);

/// A driver's connection to its own client: the job is over, though the program has not ended it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JobLost {
    /// How that came.
    pub why: String,
}
message!(JobLost);
