//! Worker processes, really: [`Spawn`].
//!
//! One thread starts, watches and reads them all. It lives as long as the node, since a child asks
//! the system to be killed when the *thread* that started it ends (`PR_SET_PDEATHSIG`): whatever
//! happens to the node, its workers do not outlive it. Every worker is the head of a process group
//! of its own, so that what it has started is killed with it.
//!
//! The binary is the driver's own file where this machine has it under the same path with the same
//! content, else it is fetched from the driver once, into `binaries/<hash>`.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use mobula_transport::{Address, Endpoint, MailboxId, Payload, ProcessAddr};
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

use super::output::{Origin, forward};
use super::workers::{Launch, LaunchEvent, Launcher, Report};
use crate::messages::{BinaryInfo, FetchBinary, JobInfo, WorkerConfig};
use crate::node::{WORKER_VARIABLE, WorkerEnv, hash_file};
use crate::printed::Mark;

/// One piece of a binary.
const PIECE_BYTES: u64 = 4 << 20;
/// How long a dead worker's last lines may take to be read.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long one piece may take.
const PIECE_WITHIN: Duration = Duration::from_secs(30);
/// The largest binary.
const MAX_BINARY_BYTES: u64 = 8 << 30;

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
    /// By hash; the lock of one that is being looked for or fetched is held.
    binaries: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Option<PathBuf>>>>>,
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
        let shared = Arc::new(Shared {
            endpoint: endpoint.clone(),
            config,
            running: Mutex::default(),
            binaries: Mutex::default(),
        });
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
    let mut child = match outcome {
        Ok(child) => child,
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
    report(LaunchEvent::Exited { start, how: in_words(ended) });
}

struct Failure {
    why: String,
    for_good: bool,
}

async fn launch_one(shared: &Shared, launch: &Launch, mark: &Mark) -> Result<Child, Failure> {
    let for_now = |why: String| Failure { why, for_good: false };
    let binary = binary_of(shared, &launch.job).await?;
    let config = &shared.config;
    let env = WorkerEnv {
        start: launch.start,
        kind: launch.kind,
        mark: mark.clone(),
        raylet: config.raylet,
        gcs: config.gcs.process,
        credentials: config.credentials.clone(),
        store_dir: config.store_dir.clone(),
        host_proof: config.host_proof.clone(),
        job: launch.job.job,
        namespace: launch.job.namespace.clone(),
        config: config.worker.clone(),
    };
    let env = serde_json::to_string(&env).map_err(|error| for_now(error.to_string()))?;
    let mut command = Command::new(&binary);
    command
        .env(WORKER_VARIABLE, env)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let parent = rustix::process::getpid();
    // SAFETY: the closure runs in the child between fork and exec and makes two system calls,
    // which are safe after a fork; it takes no lock and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            // The parent may have died before the call: then nobody would send the signal.
            if rustix::process::getppid() != Some(parent) {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
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
    Ok(child)
}

fn in_words(ended: io::Result<ExitStatus>) -> String {
    use std::os::unix::process::ExitStatusExt;
    match ended {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("its process ended with exit code {code}"),
            (None, Some(9)) => "its process was killed (signal 9: by request, or for want of memory)".to_owned(),
            (None, Some(signal)) => format!("its process was ended by signal {signal}"),
            (None, None) => "its process ended".to_owned(),
        },
        Err(error) => format!("its process was lost: {error}"),
    }
}

/// The job's binary on this machine.
async fn binary_of(shared: &Shared, job: &JobInfo) -> Result<PathBuf, Failure> {
    let Some(binary) = &job.binary else {
        let why = format!("job {} runs its tasks in its own process and has given no binary", job.name);
        return Err(Failure { why, for_good: true });
    };
    // Held while it is fetched: others that need it wait for this fetch.
    let known = shared.binaries.lock().entry(binary.hash.clone()).or_default().clone();
    let mut known = known.lock().await;
    if let Some(path) = known.as_ref().filter(|path| path.exists()) {
        return Ok(path.clone());
    }
    let in_place = PathBuf::from(&binary.path);
    let fetched = shared.config.binaries.join(file_name(binary));
    let path = if has_content(&in_place, binary).await {
        in_place
    } else if has_content(&fetched, binary).await {
        fetched
    } else {
        fetch(shared, job, binary, &fetched).await?;
        fetched
    };
    *known = Some(path.clone());
    Ok(path)
}

/// The hash comes from another process: nothing of it but letters and digits becomes a path.
fn file_name(binary: &BinaryInfo) -> String {
    binary.hash.chars().filter(char::is_ascii_alphanumeric).take(64).collect()
}

async fn has_content(path: &Path, binary: &BinaryInfo) -> bool {
    if !path.metadata().is_ok_and(|data| data.is_file() && data.len() == binary.size_bytes) {
        return false;
    }
    let path = path.to_owned();
    let hashed = tokio::task::spawn_blocking(move || hash_file(&path)).await;
    matches!(hashed, Ok(Ok((hash, _))) if hash == binary.hash)
}

/// Gets the binary from the driver, piece by piece, and gives it its name when it is whole.
async fn fetch(shared: &Shared, job: &JobInfo, binary: &BinaryInfo, to: &Path) -> Result<(), Failure> {
    let local = |error: io::Error| Failure { why: format!("{}: {error}", to.display()), for_good: false };
    if binary.size_bytes > MAX_BINARY_BYTES {
        let why = format!("the binary has {} bytes, {MAX_BINARY_BYTES} are allowed", binary.size_bytes);
        return Err(Failure { why, for_good: true });
    }
    tokio::fs::create_dir_all(&shared.config.binaries).await.map_err(local)?;
    let partial = to.with_extension(format!("{}-{}", std::process::id(), shared.config.worker.node));
    let mut file = tokio::fs::File::create(&partial).await.map_err(local)?;
    let driver = Address { process: job.driver, mailbox: MailboxId::CLIENT };
    let mut offset = 0;
    while offset < binary.size_bytes {
        let piece = FetchBinary { hash: binary.hash.clone(), offset, length: PIECE_BYTES };
        let answer = shared.endpoint.request(driver, piece, Payload::new(), PIECE_WITHIN).await;
        let payload = match answer {
            Ok((Ok(_), payload)) => payload,
            Ok((Err(why), _)) => {
                return Err(Failure { why: format!("the driver did not give its binary: {why}"), for_good: true });
            }
            Err(error) => {
                return Err(Failure { why: format!("the driver did not give its binary: {error}"), for_good: false });
            }
        };
        let before = offset;
        for part in payload {
            tokio::io::AsyncWriteExt::write_all(&mut file, &part).await.map_err(local)?;
            offset += part.len() as u64;
        }
        if offset == before {
            let why = "the driver's binary has become shorter: it was built again while it ran".to_owned();
            return Err(Failure { why, for_good: true });
        }
    }
    tokio::io::AsyncWriteExt::flush(&mut file).await.map_err(local)?;
    file.set_permissions(std::fs::Permissions::from_mode(0o700)).await.map_err(local)?;
    drop(file.into_std().await);
    if !has_content(&partial, binary).await {
        // Best effort: a wrong file under a temporary name harms nobody.
        let _ = tokio::fs::remove_file(&partial).await;
        let why = "the driver's binary has another content than it said: it was built again while it ran".to_owned();
        return Err(Failure { why, for_good: true });
    }
    tokio::fs::rename(&partial, to).await.map_err(local)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_cannot_leave_its_directory() {
        let binary = BinaryInfo { hash: "../../etc/x".to_owned(), size_bytes: 0, path: String::new() };
        assert_eq!(file_name(&binary), "etcx");
    }
}
