//! A cluster for the occasion: a head without CPUs and a node with the machine's, each a process
//! of its own (`mobula start`), in a directory that goes with them.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use tempfile::TempDir;

use super::Target;
use crate::daemon::wait_until_ready;
use crate::error::CliError;
use crate::signals::Signals;
use crate::start::Ready;

/// How long a process may take to end when asked.
const ENDED_WITHIN: Duration = Duration::from_secs(5);
/// How often it is looked whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A running cluster; ends when dropped, or when a signal ends this process.
pub(super) struct Throwaway {
    target: Target,
    parts: Arc<Mutex<Option<Parts>>>,
}

/// What there is of it; dropped in this order, so that the node can still say goodbye to its head.
struct Parts {
    _node: Process,
    _head: Process,
    _dir: TempDir,
}

impl Throwaway {
    /// Starts both and waits until they are ready.
    pub(super) fn start() -> Result<Self, CliError> {
        let parts = Arc::new(Mutex::new(None));
        // Held while it starts: a signal waits until there is something to end.
        let mut starting = lock(&parts);
        let signals = Signals::watch()?;
        let ending = parts.clone();
        signals.next_ends(move || {
            let mut parts = lock(&ending);
            drop(parts.take());
            // Kept for ever: whoever else wants to end it waits for the end of the process.
            std::mem::forget(parts);
        });
        let dir = TempDir::with_prefix("mobula-").map_err(CliError::system("no temporary directory can be made"))?;
        let (head_dir, node_dir) = (dir.path().join("head"), dir.path().join("node"));
        let (head_process, head) = Process::start(
            dir.path(),
            "head",
            [
                "start".as_ref(),
                "--head".as_ref(),
                "--port=0".as_ref(),
                "--num-cpus=0".as_ref(),
                "--num-gpus=0".as_ref(),
                "--dir".as_ref(),
                head_dir.as_os_str(),
                // What is killed cannot clean up.
                "--spill-dir".as_ref(),
                dir.path().as_os_str(),
            ],
        )?;
        let token = head.token.clone().unwrap_or_default();
        let (node_process, _) = Process::start(
            dir.path(),
            "node",
            [
                "start".as_ref(),
                "--address".as_ref(),
                head.address.as_ref(),
                "--token".as_ref(),
                token.as_ref(),
                "--dir".as_ref(),
                node_dir.as_os_str(),
                "--spill-dir".as_ref(),
                dir.path().as_os_str(),
            ],
        )?;
        let target = Target {
            address: Some(head.address),
            credentials: Some(credentials(dir.path())),
            spill_dir: Some(dir.path().to_owned()),
        };
        *starting = Some(Parts { _node: node_process, _head: head_process, _dir: dir });
        drop(starting);
        Ok(Self { target, parts })
    }

    /// How to reach it.
    pub(super) fn target(&self) -> Target {
        self.target.clone()
    }
}

impl Drop for Throwaway {
    fn drop(&mut self) {
        drop(lock(&self.parts).take());
    }
}

fn lock(parts: &Mutex<Option<Parts>>) -> MutexGuard<'_, Option<Parts>> {
    parts.lock().unwrap_or_else(PoisonError::into_inner)
}

fn credentials(dir: &Path) -> std::path::PathBuf {
    dir.join("credentials")
}

/// A child that is asked to end when dropped, and made to if it does not.
struct Process(Child);

impl Process {
    /// Starts `mobula` with these arguments and waits until it says that it is ready.
    fn start<'a>(dir: &Path, name: &str, args: impl IntoIterator<Item = &'a OsStr>) -> Result<(Self, Ready), CliError> {
        let binary = std::env::current_exe().map_err(CliError::system("the program's own path is not known"))?;
        // What it says is shown only if it does not start.
        let log_path = dir.join(format!("{name}.log"));
        let log = File::create(&log_path).map_err(CliError::file(&log_path))?;
        let mut command = Command::new(binary);
        command
            .args(args)
            .args(["--name", name])
            .args(["--format", "json", "--drain", "1"])
            // Neither the user's credentials nor the list of the user's nodes are touched.
            .env("MOBULA_CREDENTIALS", credentials(dir))
            .env("XDG_STATE_HOME", dir)
            // A terminal's Ctrl-C is for this process, which then ends its cluster in good order.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log);
        // SAFETY: the closure only makes a system call; it allocates nothing and takes no lock.
        unsafe {
            command.pre_exec(|| {
                // The cluster must not outlive a benchmark that is killed.
                set_parent_process_death_signal(Some(Signal::TERM))?;
                Ok(())
            });
        }
        let child = command.spawn().map_err(CliError::system("a node of the cluster cannot be started"))?;
        let mut process = Self(child);
        let ready = wait_until_ready(&mut process.0, &log_path, 0)?;
        Ok((process, ready))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It is our child and was not waited for, so the number is still its own.
        if let Some(pid) = Pid::from_raw(self.0.id().cast_signed()) {
            // One that has ended already needs no signal.
            let _ = kill_process(pid, Signal::TERM);
        }
        let start = Instant::now();
        while start.elapsed() < ENDED_WITHIN {
            if !matches!(self.0.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(LOOK_EVERY);
        }
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
