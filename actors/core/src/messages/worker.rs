//! Worker processes and the binary they run.

use mobula_transport::{ProcessAddr, message};
use serde::{Deserialize, Serialize};

use crate::ids::{JobId, NodeId};

/// Worker to raylet: a worker process (or the one in this process) is ready.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RegisterWorker {
    /// The number the raylet gave when it started the process; 0 for the worker in its own process.
    pub start: u64,
    /// The worker's process.
    pub process: ProcessAddr,
    /// Its operating system id.
    pub pid: u32,
    /// The job whose binary it is; none for the worker in the raylet's own process.
    pub job: Option<JobId>,
    /// Its registry's digest.
    pub digest: u64,
}
message!(RegisterWorker => Result<WorkerConfig, String>);

/// What a worker needs to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WorkerConfig {
    /// The node.
    pub node: NodeId,
    /// Its name, for people.
    pub node_name: String,
    /// Its CPUs, whole ones rounded up; the number of slots that run at once.
    pub slots: u32,
}

/// Raylet to worker, one way: finish what runs, then leave.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StopWorker {
    /// Why.
    pub why: String,
}
message!(StopWorker);

/// Raylet to driver, one way: what a worker printed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WorkerOutput {
    /// The node's name.
    pub node: String,
    /// The worker's operating system id.
    pub pid: u32,
    /// The task or actor, where it is known (process workers, tracing).
    pub task: Option<String>,
    /// Whether it went to stderr.
    pub stderr: bool,
    /// The lines, without their ends.
    pub lines: Vec<String>,
}
message!(WorkerOutput);

/// Raylet to driver: a piece of the job's binary, or of another file that it serves. The bytes are the reply's payload.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FetchBinary {
    /// Its content hash.
    pub hash: String,
    /// From which byte.
    pub offset: u64,
    /// How many at most (at most 4 MiB are sent).
    pub length: u64,
}
message!(FetchBinary => Result<u64, String>);

/// Anyone to raylet: its workers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ListWorkers;
message!(ListWorkers => Vec<WorkerInfo>);

/// A worker, for people.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WorkerInfo {
    /// The node's name.
    pub node: String,
    /// Its operating system id.
    pub pid: u32,
    /// Its process.
    pub process: ProcessAddr,
    /// `shared`, `process`, or `in-process`.
    pub kind: String,
    /// Its job.
    pub job: Option<JobId>,
    /// Leases it serves.
    pub leases: u32,
    /// The ids of their GPUs.
    pub gpus: Vec<String>,
    /// `STARTING`, `READY`, `STOPPING`.
    pub state: String,
}
