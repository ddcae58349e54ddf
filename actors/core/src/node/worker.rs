//! The main function of a process that a raylet has started.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use mobula_transport::{Address, Credentials, Endpoint, EndpointConfig, MailboxId, Payload, PeerEvent, ProcessAddr};
use serde::{Deserialize, Serialize};

use super::{NodeError, events};
use crate::client::{Client, ClientSetup};
use crate::culprit;
use crate::error::Error;
use crate::ids::JobId;
use crate::messages::{RegisterWorker, WorkerConfig, WorkerKind};
use crate::printed::Mark;
use crate::registry::Registry;
use crate::store::StoreClient;
use crate::worker::{self, Worker, WorkerSetup, output};

/// The environment variable by which a process knows that it is a worker.
pub const WORKER_VARIABLE: &str = "MOBULA_WORKER";
/// How long the raylet may take to take the worker in.
const REGISTERED_WITHIN: Duration = Duration::from_secs(20);
/// How long messages that are on their way have to arrive when the worker leaves.
const FLUSH_WITHIN: Duration = Duration::from_millis(500);
/// The exit code of a worker that the raylet refused.
const REFUSED: i32 = 78;

/// What a raylet tells the processes that it starts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WorkerEnv {
    /// The number to register with.
    pub start: u64,
    /// Which kind of worker it is.
    pub kind: WorkerKind,
    /// How it marks whose output it is.
    pub(crate) mark: Mark,
    /// Where it leaves word of whose code ended it.
    pub(crate) last_words: PathBuf,
    /// The raylet.
    pub raylet: ProcessAddr,
    /// The GCS.
    pub gcs: ProcessAddr,
    /// The directory of the credentials.
    pub credentials: PathBuf,
    /// The node's store.
    pub store_dir: String,
    /// See [`crate::messages::NodeInfo::host_proof`].
    pub host_proof: String,
    /// The job.
    pub job: JobId,
    /// The namespace of its named actors.
    pub namespace: String,
    /// The node, for the worker.
    pub config: WorkerConfig,
    /// The GPUs that it may use.
    pub gpus: Vec<String>,
}

/// Runs as a worker and never returns, if a raylet has started this process. To be called before
/// any user code.
pub fn run_worker_if_asked() {
    let Some(text) = std::env::var_os(WORKER_VARIABLE) else { return };
    // SAFETY: called before any user code, so that no other thread reads the environment; what the
    // user starts from here is not a worker.
    unsafe { std::env::remove_var(WORKER_VARIABLE) };
    let env = text
        .to_str()
        .ok_or_else(|| "not UTF-8".to_owned())
        .and_then(|text| serde_json::from_str(text).map_err(|error| error.to_string()));
    let outcome = match env {
        Ok(env) => worker_process_main(env),
        Err(why) => Err(NodeError::Environment { why }),
    };
    match outcome {
        Ok(()) => std::process::exit(0),
        Err(error) => {
            eprintln!("this worker process cannot work: {error}");
            std::process::exit(REFUSED);
        }
    }
}

/// Connects to the raylet, registers, and serves until the raylet says to leave or is gone.
///
/// # Errors
/// [`NodeError`] when the raylet cannot be reached or refuses the worker.
pub fn worker_process_main(env: WorkerEnv) -> Result<(), NodeError> {
    output::marks(env.mark.clone(), env.kind);
    output::log_to_driver();
    if let Err(error) = culprit::watch(&env.last_words) {
        tracing::warn!(%error, "should a task end this process, nobody will know which one it was");
    }
    worker::set_process_gpus(env.gpus.clone());
    let endpoint = Endpoint::bind(EndpointConfig {
        listen: Some(SocketAddr::new(env.raylet.socket.ip(), 0)),
        credentials: Some(Credentials::load(&env.credentials)?),
        ..EndpointConfig::default()
    })?;
    let raylet = Address { process: env.raylet, mailbox: MailboxId::RAYLET };
    let gone = raylet_gone(&endpoint, env.raylet);
    let (client, serving, register) = set_up(&endpoint, env)?;
    Client::set_process(Some(client.clone()));
    // Last: the first task may arrive right behind the answer.
    let answer = endpoint.request_blocking(raylet, register, Payload::new(), REGISTERED_WITHIN);
    answer.map_err(Error::from)?.0.map_err(|why| NodeError::Refused { why })?;
    let why = endpoint.runtime().block_on(async {
        tokio::select! {
            why = serving.told_to_stop() => why,
            why = gone => why.unwrap_or_else(|_| "the endpoint is gone".to_owned()),
        }
    });
    tracing::debug!(%why, "the worker leaves");
    serving.shutdown();
    client.shutdown();
    endpoint.shutdown(FLUSH_WITHIN);
    Ok(())
}

/// The client and the worker of the process with this endpoint, and with what it is to be registered
/// at its raylet.
pub(crate) fn set_up(endpoint: &Endpoint, env: WorkerEnv) -> Result<(Client, Worker, RegisterWorker), NodeError> {
    let registry = Registry::global().map_err(|error| Error::Invalid { what: error.to_string() })?;
    let gcs = Address { process: env.gcs, mailbox: MailboxId::GCS };
    let store = StoreClient::connect(endpoint, env.raylet, &env.store_dir, &env.host_proof)?;
    let register = RegisterWorker {
        start: env.start,
        process: endpoint.process(),
        pid: std::process::id(),
        job: Some(env.job),
        digest: registry.digest(),
    };
    let client = Client::start(ClientSetup {
        endpoint: endpoint.clone(),
        gcs,
        raylet: Address { process: env.raylet, mailbox: MailboxId::RAYLET },
        store: store.clone(),
        job: env.job,
        namespace: env.namespace,
        binary: None,
        output: None,
    });
    let setup = WorkerSetup {
        endpoint: endpoint.clone(),
        client: client.clone(),
        store,
        config: env.config,
        gcs,
        own_process: true,
    };
    let worker = Worker::start(setup).map_err(|error| Error::Invalid { what: error.to_string() })?;
    events::follow(endpoint, gcs);
    Ok((client, worker, register))
}

/// Resolves when the raylet's process is gone. One that is only silent may come back; should it be
/// dead, the system kills this process with it.
pub(crate) fn raylet_gone(endpoint: &Endpoint, raylet: ProcessAddr) -> tokio::sync::oneshot::Receiver<String> {
    let (tell, gone) = tokio::sync::oneshot::channel();
    let mut tell = Some(tell);
    endpoint.watch_peers(move |event| {
        if let PeerEvent::Gone { process, why } = event
            && process == raylet.id
            && let Some(tell) = tell.take()
        {
            // The worker may be leaving already.
            let _ = tell.send(format!("its raylet is gone: {why}"));
        }
    });
    gone
}
