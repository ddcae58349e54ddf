//! A cluster of one inside this process: head, raylet, store, worker and client at one endpoint.
//!
//! The same actors and the same messages as between processes; only nothing is launched.

use std::time::Duration;

use mobula_core::client::{Client, ClientSetup};
use mobula_core::error::Error;
use mobula_core::messages::{JobEnv, JobRegistered, RegisterJob, RegisterWorker};
use mobula_core::node::{Head, HeadConfig, NodeError, NodeTraits, Offer};
use mobula_core::resources::{InvalidAmount, Resources};
use mobula_core::worker::{Worker, WorkerSetup};

use super::{digest, output, program};
use crate::config::Config;

/// How long the parts may take to know each other; in one process it is microseconds.
const REGISTERED_WITHIN: Duration = Duration::from_secs(10);

/// The parts of a cluster in this process.
pub(super) struct Local {
    head: Head,
    worker: Worker,
}

/// Starts everything, in the order in which one needs the other.
pub(super) fn start(config: &Config) -> Result<(Client, Local), Error> {
    let digest = digest()?;
    check_env(config)?;
    let head = Head::start(HeadConfig {
        cluster: "local".to_owned(),
        name: "local".to_owned(),
        resources: resources(config)?,
        store: config.store(),
        traits: NodeTraits { labels: config.labels.clone(), ..NodeTraits::default() },
        network: None,
    })
    .map_err(|error| match error {
        NodeError::Core(error) => error,
        NodeError::Label(error) => Error::Invalid { what: error.to_string() },
        error => Error::System { what: "starting a local cluster".to_owned(), why: error.to_string() },
    })?;
    let endpoint = head.endpoint().clone();
    let (gcs, raylet) = (head.gcs(), head.raylet());
    let store = head.store().client();

    let job = RegisterJob {
        driver: endpoint.process(),
        name: program(config),
        binary: None,
        digest,
        namespace: config.namespace.clone(),
        env: JobEnv::default(),
    };
    let JobRegistered { job, .. } = endpoint.request_blocking(gcs, job, Vec::new(), REGISTERED_WITHIN)?.0?;
    let client = Client::start(ClientSetup {
        endpoint: endpoint.clone(),
        gcs,
        raylet,
        store: store.clone(),
        job,
        namespace: config.namespace.clone().unwrap_or_else(|| job.to_string()),
        binary: None,
        output: output::printer(config),
    });

    let worker = RegisterWorker { start: 0, process: endpoint.process(), pid: std::process::id(), job: None, digest };
    let registered = endpoint.request_blocking(raylet, worker, Vec::new(), REGISTERED_WITHIN)?.0;
    let config = registered.map_err(|why| Error::System { what: "starting the worker".to_owned(), why })?;
    let worker =
        Worker::start(WorkerSetup { endpoint, client: client.clone(), store, config, gcs, own_process: false })
            .map_err(|error| Error::Invalid { what: error.to_string() })?;
    Ok((client, Local { head, worker }))
}

impl Local {
    pub(super) fn shutdown(self) {
        self.worker.shutdown();
        self.head.stop();
    }
}

/// One that could not be made is refused here too; one that could is not applied: there is only this
/// process, and it has an environment and a directory already.
fn check_env(config: &Config) -> Result<(), Error> {
    if !config.runtime_env.is_empty() {
        config.runtime_env.pack()?;
        tracing::warn!(
            "Config::runtime_env changes nothing in a session inside this process: its tasks see this process's own \
             environment and working directory; on a cluster workers get them"
        );
    }
    Ok(())
}

/// What the node of a local cluster has: what was given, else what the machine has.
fn resources(config: &Config) -> Result<Resources, Error> {
    let invalid = |error: InvalidAmount| Error::Invalid { what: error.to_string() };
    let mut resources = Offer::default().resources().map_err(invalid)?;
    for (name, amount) in &config.resources {
        resources = resources.with(name, *amount).map_err(invalid)?;
    }
    Ok(resources)
}
