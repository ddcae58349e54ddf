//! Processes that cannot outlive a test.
//!
//! A [`Family`] is a test's set of processes. Each of them carries the family's mark in its
//! environment, and so does every process it starts in turn; when the family is dropped,
//! whatever carries the mark is killed by its id. A family has a home of its own too, so that no
//! test sees another one's clusters and credentials, or the user's.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tempfile::TempDir;

use super::{DEADLINE, PAUSE, wait_until};

/// The variable that marks the processes of a family.
const MARK: &str = "MOBULA_TEST_FAMILY";

/// A test's processes and their home.
pub(crate) struct Family {
    home: TempDir,
    mark: String,
}

impl Family {
    /// A family without members.
    pub(crate) fn new() -> Self {
        let home = TempDir::with_prefix("mobula-test-").expect("a temporary directory");
        let mark = home.path().to_string_lossy().into_owned();
        Self { home, mark }
    }

    /// The family's home: a temporary directory.
    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    /// A path in the family's home.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// A command that runs in the family.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        let home = self.home.path();
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("MOBULA_") {
                command.env_remove(name);
            }
        }
        command
            .env(MARK, &self.mark)
            .env("HOME", home)
            .env("XDG_CONFIG_HOME", home.join("config"))
            .env("XDG_CACHE_HOME", home.join("cache"))
            .env("XDG_STATE_HOME", home.join("state"))
            .env("XDG_RUNTIME_DIR", home.join("run"))
            .env("RUST_BACKTRACE", "1")
            .env_remove("CI")
            .stdin(Stdio::null());
        command
    }

    /// The living processes of the family, by their id.
    pub(crate) fn living(&self) -> Vec<i32> {
        let wanted = format!("{MARK}={}", self.mark).into_bytes();
        let mut living = Vec::new();
        for entry in std::fs::read_dir("/proc").expect("/proc is mounted").flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            // A process may end while we look, and one that has ended has an empty environment.
            let Ok(environment) = std::fs::read(entry.path().join("environ")) else {
                continue;
            };
            if environment.split(|byte| *byte == 0).any(|variable| variable == wanted) {
                living.push(pid);
            }
        }
        living.sort_unstable();
        living
    }

    /// Waits until the family has no living process.
    pub(crate) fn wait_until_empty(&self) {
        wait_until("all processes of the family to end", || self.living().is_empty().then_some(()));
    }
}

impl Drop for Family {
    fn drop(&mut self) {
        // A process may start another while it is being killed.
        for _ in 0..100 {
            let living = self.living();
            if living.is_empty() {
                return;
            }
            for pid in living {
                if let Some(pid) = Pid::from_raw(pid) {
                    let _ = kill_process(pid, Signal::KILL);
                }
            }
            std::thread::sleep(PAUSE);
        }
        eprintln!("processes of {} do not die: {:?}", self.mark, self.living());
    }
}

/// What a program printed so far.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<String>>);

impl Log {
    /// All of it.
    pub(crate) fn text(&self) -> String {
        self.0.lock().expect("no reader of the log panics").clone()
    }

    fn follow(source: impl Read + Send + 'static) -> (Self, std::thread::JoinHandle<()>) {
        let log = Self::default();
        let sink = log.clone();
        let reader = std::thread::spawn(move || {
            let mut source = BufReader::new(source);
            let mut line = Vec::new();
            while source.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                sink.0.lock().expect("no reader of the log panics").push_str(&String::from_utf8_lossy(&line));
                line.clear();
            }
        });
        (log, reader)
    }
}

/// A running program. Dropping it kills its process group.
pub(crate) struct Program {
    name: String,
    child: Child,
    stdout: Log,
    stderr: Log,
    readers: Vec<std::thread::JoinHandle<()>>,
    status: Option<ExitStatus>,
}

/// What became of a program.
#[derive(Debug)]
pub(crate) struct Finished {
    /// How it ended.
    pub(crate) status: ExitStatus,
    /// What it printed.
    pub(crate) stdout: String,
    /// What it complained of.
    pub(crate) stderr: String,
}

impl Finished {
    /// Fails, showing the output, unless the program ended well.
    #[track_caller]
    pub(crate) fn expect_success(self, what: &str) -> Self {
        assert!(
            self.status.success(),
            "{what}: {}\n--- stdout\n{}\n--- stderr\n{}",
            self.status,
            self.stdout,
            self.stderr
        );
        self
    }

    /// Fails, showing the output, unless the program ended with an error that is no panic.
    #[track_caller]
    pub(crate) fn expect_failure(self, what: &str) -> Self {
        let all = format!("{}\n--- stdout\n{}\n--- stderr\n{}", self.status, self.stdout, self.stderr);
        assert!(self.status.code().is_some_and(|code| code != 0), "{what} should fail with an exit code: {all}");
        assert!(!self.stderr.contains("panicked at"), "{what} panicked: {all}");
        self
    }

    /// The output as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("not JSON ({error}):\n{}\n--- stderr\n{}", self.stdout, self.stderr))
    }
}

impl Program {
    /// Starts a command in a process group of its own and follows what it prints.
    pub(crate) fn start(name: &str, mut command: Command) -> Self {
        command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        let (stdout, first) = Log::follow(child.stdout.take().expect("stdout is piped"));
        let (stderr, second) = Log::follow(child.stderr.take().expect("stderr is piped"));
        Self { name: name.to_owned(), child, stdout, stderr, readers: vec![first, second], status: None }
    }

    /// Runs a command to its end.
    pub(crate) fn run(name: &str, command: Command) -> Finished {
        let mut program = Self::start(name, command);
        program.wait();
        program.finished()
    }

    /// The operating system's id.
    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a process id fits")
    }

    /// By what name it was started.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What it printed so far.
    pub(crate) fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// What it complained of so far.
    pub(crate) fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Waits until something it printed, on either stream, satisfies `found`.
    pub(crate) fn wait_for_output<T>(&mut self, what: &str, mut found: impl FnMut(&str) -> Option<T>) -> T {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let ended = self.try_wait();
            let all = format!("{}\n{}", self.stdout(), self.stderr());
            if let Some(value) = found(&all) {
                return value;
            }
            if let Some(status) = ended {
                panic!("{} ended ({status}) before {what}:\n{all}", self.name);
            }
            assert!(Instant::now() < deadline, "{} did not print {what}:\n{all}", self.name);
            std::thread::sleep(PAUSE);
        }
    }

    /// Sends a signal to the program itself.
    pub(crate) fn signal(&self, signal: Signal) {
        if self.status.is_none()
            && let Some(pid) = Pid::from_raw(self.pid())
        {
            let _ = kill_process(pid, signal);
        }
    }

    /// Whether, and how, it has ended.
    pub(crate) fn try_wait(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().expect("a child can be waited for");
        }
        self.status
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.try_wait() {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "{} does not end:\n--- stdout\n{}\n--- stderr\n{}",
                self.name,
                self.stdout(),
                self.stderr()
            );
            std::thread::sleep(PAUSE);
        }
    }

    /// What became of it, once it has ended.
    pub(crate) fn finished(mut self) -> Finished {
        let status = self.wait();
        // A grandchild may hold the pipes open; what the program itself wrote is there by then.
        let deadline = Instant::now() + std::time::Duration::from_secs(2);
        while self.readers.iter().any(|reader| !reader.is_finished()) && Instant::now() < deadline {
            std::thread::sleep(PAUSE);
        }
        Finished { status, stdout: self.stdout(), stderr: self.stderr() }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if self.try_wait().is_none() {
            if let Some(group) = Pid::from_raw(self.pid()) {
                let _ = kill_process_group(group, Signal::KILL);
            }
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            eprintln!("=== {}\n--- stdout\n{}\n--- stderr\n{}", self.name, self.stdout(), self.stderr());
        }
    }
}
