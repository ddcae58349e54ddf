//! Which nodes of this machine this user has started: one small file per node, so that
//! `mobula stop` finds them whatever their directories are.
//!
//! The files lie in `$XDG_STATE_HOME/mobula/running` (`~/.local/state` by default). A node writes
//! its file when it is ready and removes it when it ends; one that was killed leaves it behind,
//! and the next look removes it. A process id alone may have been given to another process
//! meanwhile, so the file carries the time at which the process started too.

use std::fs;
use std::io;
use std::path::PathBuf;

use mobula_core::node::state_dir;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde::{Deserialize, Serialize};

use crate::error::CliError;

/// A node of this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunningNode {
    /// Its operating system id.
    pub(crate) pid: u32,
    /// When that process started, in the system's own count.
    pub(crate) started_ticks: u64,
    /// Its name, for people.
    pub(crate) name: String,
    /// Whether it is a head.
    pub(crate) head: bool,
    /// The head's address.
    pub(crate) address: String,
    /// Where its state is.
    pub(crate) dir: PathBuf,
}

impl RunningNode {
    /// This process as a node.
    pub(crate) fn this_process(name: String, head: bool, address: String, dir: PathBuf) -> Result<Self, CliError> {
        let pid = std::process::id();
        let started_ticks = started_ticks(pid)
            .ok_or_else(|| CliError::Usage("/proc does not tell when this process started".to_owned()))?;
        Ok(Self { pid, started_ticks, name, head, address, dir })
    }

    /// Whether it still runs; a process that has ended but was not waited for does not.
    pub(crate) fn is_running(&self) -> bool {
        let exists = Pid::from_raw(self.pid.cast_signed()).is_some_and(|pid| test_kill_process(pid).is_ok());
        exists && started_ticks(self.pid) == Some(self.started_ticks)
    }

    /// Sends it a signal; one that has ended needs none.
    pub(crate) fn signal(&self, signal: Signal) -> Result<(), CliError> {
        if !self.is_running() {
            return Ok(());
        }
        let Some(pid) = Pid::from_raw(self.pid.cast_signed()) else {
            return Ok(());
        };
        match kill_process(pid, signal) {
            Err(error) if error != rustix::io::Errno::SRCH => Err(CliError::system(format!(
                "node {} (pid {}) cannot be signalled",
                self.name, self.pid
            ))(error.into())),
            _ => Ok(()),
        }
    }
}

/// The directory with a file per node.
pub(crate) struct Registry {
    dir: PathBuf,
}

impl Registry {
    /// This user's.
    pub(crate) fn of_user() -> Self {
        Self::at(state_dir("running"))
    }

    fn at(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Notes a node. The entry goes when the returned value does.
    pub(crate) fn enter(&self, node: &RunningNode) -> Result<Entry, CliError> {
        let path = self.dir.join(format!("{}.json", node.pid));
        fs::create_dir_all(&self.dir).map_err(CliError::file(&self.dir))?;
        let temporary = path.with_extension("new");
        fs::write(&temporary, serde_json::to_vec(node)?).map_err(CliError::file(&temporary))?;
        fs::rename(&temporary, &path).map_err(CliError::file(&path))?;
        Ok(Entry(path))
    }

    /// The nodes that run, in the order of their process ids. What the others left is removed.
    pub(crate) fn running(&self) -> Result<Vec<RunningNode>, CliError> {
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(CliError::file(&self.dir))?,
        };
        let mut nodes = Vec::new();
        for entry in entries {
            let path = entry.map_err(CliError::file(&self.dir))?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            // A file that goes while it is looked at belonged to a node that ended.
            let Ok(text) = fs::read(&path) else { continue };
            match serde_json::from_slice::<RunningNode>(&text) {
                Ok(node) if node.is_running() => nodes.push(node),
                _ => drop(fs::remove_file(&path)),
            }
        }
        nodes.sort_by_key(|node| node.pid);
        Ok(nodes)
    }
}

/// A node's file; removed when this is dropped.
#[must_use = "the node is listed as long as this lives"]
pub(crate) struct Entry(PathBuf);

impl Drop for Entry {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.0));
    }
}

/// Field 22 of `/proc/PID/stat`; none when the process is not there or has ended.
fn started_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may itself have spaces and parentheses.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(pid: u32, started_ticks: u64) -> RunningNode {
        RunningNode {
            pid,
            started_ticks,
            name: "n".to_owned(),
            head: true,
            address: "127.0.0.1:1".to_owned(),
            dir: PathBuf::from("/d"),
        }
    }

    #[test]
    fn only_what_runs_is_listed_and_the_rest_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::at(dir.path().join("running"));
        assert_eq!(registry.running().unwrap(), []);

        let this = RunningNode::this_process("a".to_owned(), false, "x:1".to_owned(), PathBuf::from("/a")).unwrap();
        let entry = registry.enter(&this).unwrap();
        // The same id, but another process: it started at another time.
        let reused = node(std::process::id(), this.started_ticks + 1);
        assert!(!reused.is_running());
        fs::write(dir.path().join("running/1.json"), serde_json::to_vec(&reused).unwrap()).unwrap();
        fs::write(dir.path().join("running/2.json"), "{").unwrap();

        assert_eq!(registry.running().unwrap(), [this]);
        assert_eq!(fs::read_dir(dir.path().join("running")).unwrap().count(), 1);
        drop(entry);
        assert_eq!(registry.running().unwrap(), []);
    }

    #[test]
    fn a_process_that_ended_needs_no_signal() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let ended = node(child.id(), 0);
        child.wait().unwrap();
        assert!(!ended.is_running());
        ended.signal(Signal::TERM).unwrap();
    }
}
