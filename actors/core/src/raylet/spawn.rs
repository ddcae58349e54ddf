//! Worker processes, really: [`Spawn`].
//!
//! One thread starts, watches and reads them all. It lives as long as the node, since a child asks
//! the system to be killed when the *thread* that started it ends (`PR_SET_PDEATHSIG`): whatever
//! happens to the node, its workers do not outlive it. Every worker is the head of a process group
//! of its own, so that what it has started is killed with it.
//!
//! Which binary they run is the business of `binaries`, in which directory that of `envs`, what they print that of `output`.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use mobula_transport::{Address, Endpoint, MailboxId, ProcessAddr};
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

use super::binaries::{Binaries, Failure};
use super::envs::{Envs, WorkingDir};
use super::output::{Origin, forward};
use super::workers::{Launch, LaunchEvent, Launcher, Report};
use crate::culprit;
use crate::messages::WorkerConfig;
use crate::node::{WORKER_VARIABLE, WorkerEnv};
use crate::printed::Mark;
use crate::worker::VISIBLE_GPUS_VARIABLE;

/// How long a dead worker's last lines may take to be read.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What the workers of a node need to know, and where its files are.
#[derive(Clone, Debug)]
pub struct SpawnConfig {
    /// The node, for its workers.
    pub worker: WorkerConfig,
    /// The raylet's process.
    pub raylet: ProcessAddr,
    /// The GCS.
    pub gcs: Address,
    /// The credentials that workers use.
    pub credentials: PathBuf,
    /// Where the node's store is, and its proof.
    pub store_dir: String,
    /// See [`crate::messages::NodeInfo::host_proof`].
    pub host_proof: String,
    /// Where fetched binaries are kept.
    pub binaries: PathBuf,
    /// Where jobs' working directories are unpacked.
    pub envs: PathBuf,
    /// Where workers leave word of who ended them.
    pub last_words: PathBuf,
}

/// Starts worker processes on this machine.
#[derive(Debug)]
pub struct Spawn {
    shared: Arc<Shared>,
    orders: mpsc::UnboundedSender<(Launch, Report)>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spawn").field("node", &self.config.worker.node_name).finish_non_exhaustive()
    }
}

struct Shared {
    endpoint: Endpoint,
    config: SpawnConfig,
    running: Mutex<HashMap<u64, Running>>,
    binaries: Binaries,
    envs: Envs,
}

impl Shared {
    /// Where the worker of this launch leaves word of who ended it.
    fn last_words(&self, start: u64) -> PathBuf {
        self.config.last_words.join(start.to_string())
    }
}

enum Running {
    /// Its binary is looked for.
    Preparing,
    /// Killed before it was started.
    Cancelled,
    /// It runs, as the head of this process group.
    Started(Pid),
}

impl Spawn {
    /// Starts the thread that starts the workers.
    ///
    /// # Errors
    /// What the system says when there can be no thread.
    pub fn start(endpoint: &Endpoint, config: SpawnConfig) -> io::Result<Self> {
        let binaries = Binaries::new(endpoint, config.binaries.clone());
        let envs = Envs::new(config.envs.clone());
        let shared = Arc::new(Shared { endpoint: endpoint.clone(), config, running: Mutex::default(), binaries, envs });
        // Bounded by the scheduler: it has few processes starting at once.
        let (orders, mut inbox) = mpsc::unbounded_channel::<(Launch, Report)>();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let serving = shared.clone();
        std::thread::Builder::new().name("mobula-spawn".to_owned()).spawn(move || {
            let local = tokio::task::LocalSet::new();
            local.block_on(&runtime, async {
                while let Some((launch, report)) = inbox.recv().await {
                    tokio::task::spawn_local(run(serving.clone(), launch, report));
                }
            });
        })?;
        Ok(Self { shared, orders })
    }
}

impl Launcher for Spawn {
    fn launch(&self, launch: Launch, report: Report) {
        let start = launch.start;
        self.shared.running.lock().insert(start, Running::Preparing);
        if let Err(mpsc::error::SendError((_, report))) = self.orders.send((launch, report)) {
            let why = "the thread that starts workers has ended".to_owned();
            report(LaunchEvent::Failed { start, why, for_good: true });
        }
    }

    fn kill(&self, start: u64) {
        if let Some(running) = self.shared.running.lock().get_mut(&start) {
            running.kill();
        }
    }

    fn kill_all(&self) {
        for running in self.shared.running.lock().values_mut() {
            running.kill();
        }
    }
}

impl Running {
    fn kill(&mut self) {
        match self {
            Self::Preparing => *self = Self::Cancelled,
            Self::Cancelled => {}
            Self::Started(group) => {
                // It may have ended by itself.
                let _ = kill_process_group(*group, Signal::KILL);
            }
        }
    }
}

impl Drop for Spawn {
    fn drop(&mut self) {
        self.kill_all();
    }
}

/// A worker process from its binary to its end.
async fn run(shared: Arc<Shared>, launch: Launch, report: Report) {
    let start = launch.start;
    let mark = Mark::random();
    let outcome = launch_one(&shared, &launch, &mark).await;
    // Its working directory stays as long as it runs.
    let (mut child, _working_dir) = match outcome {
        Ok(launched) => launched,
        Err(failure) => {
            shared.running.lock().remove(&start);
            return report(LaunchEvent::Failed { start, why: failure.why, for_good: failure.for_good });
        }
    };
    let pid = child.id().unwrap_or(0);
    report(LaunchEvent::Spawned { start, pid });
    let to = Address { process: launch.job.driver, mailbox: MailboxId::CLIENT };
    let origin = |stderr| Origin {
        endpoint: shared.endpoint.clone(),
        to,
        node: shared.config.worker.node_name.clone(),
        pid,
        stderr,
    };
    let readers = [
        child.stdout.take().map(|out| tokio::task::spawn_local(forward(out, mark.clone(), origin(false)))),
        child.stderr.take().map(|err| tokio::task::spawn_local(forward(err, mark, origin(true)))),
    ];
    let ended = child.wait().await;
    // What it had started is not left behind.
    if let Some(mut running) = shared.running.lock().remove(&start) {
        running.kill();
    }
    for reader in readers.into_iter().flatten() {
        // Ends with the pipe; a panic in it was reported. Something that left the process group may
        // hold the pipe open, and the worker is over all the same.
        let _ = tokio::time::timeout(LAST_WORDS, reader).await;
    }
    let culprit = culprit::read(&shared.last_words(start));
    report(LaunchEvent::Exited { start, how: in_words(ended, pid, &shared.config.worker.node_name), culprit });
}

type Launched = (Child, Option<Arc<WorkingDir>>);

async fn launch_one(shared: &Shared, launch: &Launch, mark: &Mark) -> Result<Launched, Failure> {
    let for_now = |why: String| Failure { why, for_good: false };
    let binary = shared.binaries.of(&launch.job).await?;
    // It may be started in another directory.
    let binary = std::path::absolute(&binary).unwrap_or(binary);
    let working_dir = shared.envs.of(&launch.job, &shared.binaries).await?;
    let config = &shared.config;
    let env = WorkerEnv {
        start: launch.start,
        kind: launch.kind,
        mark: mark.clone(),
        last_words: shared.last_words(launch.start),
        raylet: config.raylet,
        gcs: config.gcs.process,
        credentials: config.credentials.clone(),
        store_dir: config.store_dir.clone(),
        host_proof: config.host_proof.clone(),
        job: launch.job.job,
        namespace: launch.job.namespace.clone(),
        config: config.worker.clone(),
        gpus: launch.gpus.clone(),
    };
    let env = serde_json::to_string(&env).map_err(|error| for_now(error.to_string()))?;
    let mut command = Command::new(&binary);
    if let Some(directory) = &working_dir {
        command.current_dir(directory.path());
    }
    // The node's own variables after those of the job, which cannot change them.
    command
        .envs(&launch.job.env.vars)
        .env(WORKER_VARIABLE, env)
        // Nobody sees devices that are not its own.
        .env(VISIBLE_GPUS_VARIABLE, launch.gpus.join(","))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let parent = rustix::process::getpid();
    // SAFETY: the closure runs in the child between fork and exec and makes system calls only,
    // which are safe after a fork; it takes no lock and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            // The parent may have died before the call: then nobody would send the signal.
            if rustix::process::getppid() != Some(parent) {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            // A node may do without them for itself, and children inherit that; user code with much
            // data is to have them. Where the kernel does not know of it there is nothing to undo.
            let _ = rustix::thread::disable_transparent_huge_pages(false);
            Ok(())
        });
    }
    let mut running = shared.running.lock();
    if matches!(running.get(&launch.start), Some(Running::Cancelled) | None) {
        return Err(for_now("it was given up on before it was started".to_owned()));
    }
    let child = command.spawn().map_err(|error| for_now(format!("{}: {error}", binary.display())))?;
    if let Some(pid) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
        running.insert(launch.start, Running::Started(pid));
    }
    Ok((child, working_dir))
}

/// How a worker ended, and which it was: what people see of it when its work fails.
fn in_words(ended: io::Result<ExitStatus>, pid: u32, node: &str) -> String {
    use std::os::unix::process::ExitStatusExt;
    let who = format!("its process (pid {pid} on node {node})");
    match ended {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("{who} ended with exit code {code}"),
            (None, Some(9)) => format!("{who} was killed (signal 9: by request, or for want of memory)"),
            (None, Some(signal)) => format!("{who} was ended by signal {signal}"),
            (None, None) => format!("{who} ended"),
        },
        Err(error) => format!("{who} was lost: {error}"),
    }
}
