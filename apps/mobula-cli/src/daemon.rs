//! `mobula start --daemon`: the same command in a session of its own.
//!
//! The child is started with `--format json`; its first line says that it is ready. What it
//! writes to stderr goes into a file of its directory, whose end is shown when it fails.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::error::CliError;
use crate::output::{self, Format};
use crate::start::Ready;

/// The flag that is not passed on.
const DAEMON: &str = "--daemon";
/// How much of the log is shown when the node fails to start.
const LOG_TAIL_BYTES: u64 = 4 * 1024;

/// Starts this very command again in the background and waits until it is ready.
pub(crate) fn start(dir: &Path, format: Format) -> Result<(), CliError> {
    // Nodes that share a directory do not share a log; an id that comes again only goes on in it.
    let log_path = dir.join(format!("log-{}.txt", std::process::id()));
    let log = OpenOptions::new().create(true).append(true).open(&log_path).map_err(CliError::file(&log_path))?;
    let log_from = log.metadata().map_err(CliError::file(&log_path))?.len();
    let binary = std::env::current_exe().map_err(CliError::system("the program's own path is not known"))?;
    let mut command = Command::new(binary);
    command.args(without_daemon(std::env::args().skip(1))).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
    // SAFETY: `setsid` only makes a system call; it allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(|| {
            rustix::process::setsid()?;
            Ok(())
        });
    }
    let mut child = command.spawn().map_err(CliError::system("the node's process cannot be started"))?;
    let ready = wait_until_ready(&mut child, &log_path, log_from)?;
    match format {
        Format::Json => output::print(&serde_json::to_string(&ready)?),
        Format::Human => output::print(&sentences(&ready, &log_path)),
    }
}

/// The arguments of the child: no `--daemon`, and JSON whatever this process prints.
fn without_daemon(args: impl Iterator<Item = String>) -> Vec<String> {
    let mut kept = Vec::new();
    let mut args = args.filter(|arg| arg != DAEMON);
    while let Some(arg) = args.next() {
        if arg == "--format" {
            args.next();
        } else if !arg.starts_with("--format=") {
            kept.push(arg);
        }
    }
    kept.extend(["--format".to_owned(), "json".to_owned()]);
    kept
}

/// What a child that was started with `--format json` says when it is ready, or the new end of its
/// log when it ended before.
pub(crate) fn wait_until_ready(child: &mut Child, log: &Path, log_from: u64) -> Result<Ready, CliError> {
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout)
            .read_line(&mut line)
            .map_err(CliError::system("the node's process does not say that it is ready"))?;
    }
    if !line.is_empty() {
        return Ok(serde_json::from_str(&line)?);
    }
    let status = child.wait().map_err(CliError::system("the node's process cannot be waited for"))?;
    let why = format!("{status}\n{}", tail(log, log_from));
    Err(CliError::Child { what: "the node did not start".to_owned(), why: why.trim_end().to_owned() })
}

fn tail(path: &Path, from: u64) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(path)?;
        let len = file.metadata()?.len();
        file.seek(SeekFrom::Start(from.max(len.saturating_sub(LOG_TAIL_BYTES))))?;
        let mut bytes = Vec::new();
        file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_else(|error| format!("(its log {} cannot be read: {error})", path.display()))
}

fn sentences(ready: &Ready, log: &Path) -> String {
    let mut text =
        format!("node {} runs in the background (pid {}), its log is {}", ready.name, ready.pid, log.display());
    if let Some(token) = &ready.token {
        text.push_str(&format!(
            "\nthe cluster's head is at {address}\n\nto join with another node (for a day; `mobula token` prints a new token):\n  mobula start --address {address} --token {token}",
            address = ready.address
        ));
    }
    if let Some(credentials) = &ready.credentials {
        text.push_str(&format!("\nthe operator's credentials are in {}", credentials.display()));
    }
    text.push_str("\n`mobula stop` ends it");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_child_is_given_the_same_without_the_background() {
        let given = ["start", "--head", "--daemon", "--format", "human", "--port", "0", "--format=json"];
        let kept = without_daemon(given.iter().map(ToString::to_string));
        assert_eq!(kept, ["start", "--head", "--port", "0", "--format", "json"]);
    }

    #[test]
    fn only_the_new_end_of_a_log_is_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.txt");
        std::fs::write(&path, "old\nnew\n").unwrap();
        assert_eq!(tail(&path, 4), "new\n");
        assert!(tail(&dir.path().join("none"), 0).contains("cannot be read"));
    }
}
