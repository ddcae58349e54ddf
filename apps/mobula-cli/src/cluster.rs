//! The operator's connection to a running cluster: asks the GCS, the nodes and their workers;
//! submits nothing.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use mobula_core::explain::Explainer;
use mobula_core::messages::{ClusterStatus, GetClusterStatus};
use mobula_core::node::{Connection, credentials_dir, known_address, parse_address};
use mobula_transport::{Address, Endpoint, Message, Payload, SendError};

use crate::error::CliError;
use crate::registry::Registry;

/// How long one question may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How long goodbyes may take.
const DRAIN: Duration = Duration::from_millis(100);

/// Which cluster.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct ClusterArgs {
    /// The head's address; by default that of the cluster last started here
    #[arg(long, value_name = "HOST:PORT", env = "MOBULA_ADDRESS")]
    pub(crate) address: Option<String>,
    /// The directory with the credentials for the cluster; by default those that
    /// `mobula start --head` wrote
    #[arg(long, value_name = "DIR", env = "MOBULA_CREDENTIALS")]
    pub(crate) credentials: Option<PathBuf>,
}

/// A cluster that answers.
pub(crate) struct Cluster {
    endpoint: Endpoint,
    /// The head's address, as people write it.
    pub(crate) address: String,
    gcs: Address,
}

impl Cluster {
    /// Connects to the cluster that is meant.
    pub(crate) fn connect(args: &ClusterArgs) -> Result<Self, CliError> {
        let credentials = args.credentials.clone().unwrap_or_else(credentials_dir);
        let address = match &args.address {
            Some(address) => address.clone(),
            None => usual_address(&credentials)?,
        };
        let (endpoint, gcs) = Connection::ask(parse_address(&address)?, Some(credentials))?;
        Ok(Self { endpoint, address, gcs })
    }

    /// The cluster's state.
    pub(crate) fn status(&self) -> Result<ClusterStatus, CliError> {
        self.ask_gcs(GetClusterStatus)
    }

    /// One that explains what waits, runs or has failed there.
    pub(crate) fn explainer(&self) -> Explainer {
        Explainer::new(self.endpoint.clone(), self.gcs)
    }

    /// Asks the GCS.
    pub(crate) fn ask_gcs<M: Message>(&self, message: M) -> Result<M::Reply, CliError> {
        Ok(self.ask(self.gcs, message).map_err(mobula::Error::from)?)
    }

    /// Asks any actor.
    pub(crate) fn ask<M: Message>(&self, to: Address, message: M) -> Result<M::Reply, SendError> {
        self.endpoint.request_blocking(to, message, Payload::new(), ANSWER_WITHIN).map(|(reply, _)| reply)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.endpoint.shutdown(DRAIN);
    }
}

/// The cluster that the credentials were written for; else the one of which a node runs here.
fn usual_address(credentials: &Path) -> Result<String, CliError> {
    if let Some(address) = known_address(credentials) {
        return Ok(address);
    }
    let nodes = Registry::of_user().running()?;
    let addresses: BTreeSet<_> = nodes.into_iter().map(|node| node.address).collect();
    let mut addresses = addresses.into_iter();
    match (addresses.next(), addresses.next()) {
        (Some(only), None) => Ok(only),
        (None, _) => Err(CliError::Usage(
            "no cluster is known here: start one with `mobula start --head`, or name one with --address HOST:PORT"
                .to_owned(),
        )),
        (Some(first), Some(second)) => Err(CliError::Usage(format!(
            "nodes of several clusters run on this machine, say which with --address ({first}, {second}, ...)"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connect(address: Option<&str>, credentials: &Path) -> String {
        let args = ClusterArgs { address: address.map(str::to_owned), credentials: Some(credentials.to_owned()) };
        match Cluster::connect(&args) {
            Ok(cluster) => panic!("connected to {}", cluster.address),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn what_is_missing_is_said() {
        let empty = tempfile::tempdir().unwrap();
        let error = connect(Some("127.0.0.1:1"), empty.path());
        assert!(error.contains("no credentials"), "{error}");
        let error = connect(Some("127.0.0.1:port"), empty.path());
        assert!(error.contains("host:port"), "{error}");
    }
}
