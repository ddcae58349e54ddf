//! Brings what a worker prints to its driver, in whole lines, several at a time.

use std::sync::Arc;
use std::time::Duration;

use mobula_transport::{Address, Endpoint, Payload};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, timeout_at};

use crate::messages::WorkerOutput;
use crate::printed::{Lines, Mark};

/// Lines in one message to the driver.
const MAX_LINES: usize = 256;
/// Bytes in one message to the driver, before the last line.
const MAX_BYTES: usize = 256 << 10;
/// How long lines are gathered before they are sent.
const GATHER: Duration = Duration::from_millis(20);
/// Bytes of a worker's output that are read at once.
const READ_BYTES: usize = 32 << 10;

/// Where output comes from, and who shows it.
pub(super) struct Origin {
    pub(super) endpoint: Endpoint,
    pub(super) to: Address,
    /// The node's name.
    pub(super) node: String,
    pub(super) pid: u32,
    pub(super) stderr: bool,
}

/// Forwards a stream of a worker until it ends.
pub(super) async fn forward(mut output: impl AsyncRead + Unpin, mark: Mark, origin: Origin) {
    let mut lines = Lines::new(&mark);
    let mut batch = Batch { origin, task: None, lines: Vec::new(), bytes: 0, since: None };
    let mut piece = vec![0; READ_BYTES];
    loop {
        let read = match batch.since {
            None => output.read(&mut piece).await,
            Some(since) => match timeout_at(since + GATHER, output.read(&mut piece)).await {
                Ok(read) => read,
                Err(_) => {
                    batch.send();
                    continue;
                }
            },
        };
        match read {
            Ok(0) | Err(_) => break,
            Ok(read) => lines.push(&piece[..read], |task, line| batch.add(task, line)),
        }
    }
    lines.finish(|task, line| batch.add(task, line));
    batch.send();
}

/// Lines of one task that are sent together.
struct Batch {
    origin: Origin,
    task: Option<Arc<str>>,
    lines: Vec<String>,
    bytes: usize,
    /// Since when the first of them waits.
    since: Option<Instant>,
}

impl Batch {
    fn add(&mut self, task: Option<&Arc<str>>, line: String) {
        if self.task.as_ref() != task {
            self.send();
            self.task = task.cloned();
        }
        self.since.get_or_insert_with(Instant::now);
        self.bytes += line.len();
        self.lines.push(line);
        if self.lines.len() >= MAX_LINES || self.bytes >= MAX_BYTES {
            self.send();
        }
    }

    fn send(&mut self) {
        self.since = None;
        self.bytes = 0;
        if self.lines.is_empty() {
            return;
        }
        let Origin { endpoint, to, node, pid, stderr } = &self.origin;
        let message = WorkerOutput {
            node: node.clone(),
            pid: *pid,
            task: self.task.as_ref().map(ToString::to_string),
            stderr: *stderr,
            lines: std::mem::take(&mut self.lines),
        };
        // Nobody in particular sends it: what cannot be delivered is dropped.
        endpoint.send(None, *to, message, Payload::new());
    }
}
