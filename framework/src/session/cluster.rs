//! A connection to a running cluster.
//!
//! The program stays outside: its tasks run in worker processes that the nodes start from its
//! binary. Objects reach it through the store of a node on the same machine, or, where there is
//! none, through one in this process.

use mobula_core::client::{Client, ClientSetup};
use mobula_core::error::Error;
use mobula_core::node::{Connection, ConnectionConfig, NodeError, parse_address};

use super::{digest, output, program};
use crate::config::Config;

/// Connects to the head at `address` and registers the program as a job.
pub(super) fn start(address: &str, config: &Config) -> Result<(Client, Connection), Error> {
    if let Some(name) = config.resources.keys().chain(config.labels.keys()).next() {
        let what = format!(
            "{name} is given together with an address: the nodes of a running cluster have the resources and labels they were \
             started with; leave it out, or start a node with it"
        );
        return Err(Error::Invalid { what });
    }
    let failed = |error: NodeError| match error {
        NodeError::Core(error) => error,
        error => Error::System { what: format!("joining the cluster at {address}"), why: error.to_string() },
    };
    let binary = match &config.worker_binary {
        Some(path) => path.clone(),
        None => std::env::current_exe().map_err(|error| Error::System {
            what: "finding this program's binary, for the workers of the cluster".to_owned(),
            why: format!("{error}; name one with Config::worker_binary"),
        })?,
    };
    // The file may be built anew or removed while the program runs; what runs is still there.
    let served = if config.worker_binary.is_some() { binary.clone() } else { RUNNING_BINARY.into() };
    let place = parse_address(address).map_err(failed)?;
    let connection = Connection::open(
        place,
        ConnectionConfig {
            credentials: config.credentials.clone(),
            name: program(config),
            digest: digest()?,
            binary: Some(binary),
            namespace: config.namespace.clone(),
            env: config.runtime_env.clone(),
            store: config.store(),
        },
    )
    .map_err(failed)?;
    let client = Client::start(ClientSetup {
        endpoint: connection.endpoint().clone(),
        gcs: connection.gcs(),
        raylet: connection.raylet(),
        store: connection.store().clone(),
        job: connection.job(),
        namespace: connection.namespace().to_owned(),
        binary: Some(served),
        output: output::printer(config),
    });
    if let Some((hash, path)) = connection.served() {
        client.serve_file(hash, path);
    }
    Ok((client, connection))
}

/// The file of the running program, whatever has become of its name.
const RUNNING_BINARY: &str = "/proc/self/exe";
