//! Which task prints: the worker's side of [`crate::printed`].
//!
//! While user code runs, its thread knows under which name ([`prints_as`]). A process worker runs
//! one task at a time and marks its streams when another name's turn comes, so that whatever is
//! printed there can be told apart. In a shared worker tasks print side by side, and only what
//! goes through `tracing` ([`log_to_driver`]) can carry its task's name.

use std::cell::RefCell;
use std::io::{self, Write};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::logging::OF_WORKERS;
use crate::messages::WorkerKind;
use crate::printed::Mark;
use crate::registry::RemoteFunction;

/// The name under which a task or an actor is shown.
#[derive(Clone, Debug)]
pub(super) enum Label {
    /// A function's name. The hot path: no allocation.
    Function(&'static str),
    /// The name that a user gave.
    Given(Arc<str>),
}

impl Label {
    /// A task: the user's name for it, else the function's without its path.
    pub(super) fn of_task(function: &RemoteFunction, name: Option<&str>) -> Self {
        name.map_or_else(|| Self::Function(function.plain_name()), |name| Self::Given(name.into()))
    }

    /// An actor: its type.
    pub(super) fn of_actor(class: &str) -> Self {
        Self::Given(class.into())
    }

    fn text(&self) -> &str {
        match self {
            Self::Function(name) => name,
            Self::Given(name) => name,
        }
    }
}

thread_local! {
    /// Whose code the thread runs.
    static PRINTER: RefCell<Option<Label>> = const { RefCell::new(None) };
}

/// The streams of this process, when somebody reads them; stdout and stderr are the process's, and
/// so is this.
static STREAMS: OnceLock<Streams> = OnceLock::new();

struct Streams {
    mark: Mark,
    /// The name in the last mark; none in a shared worker, which marks only what it logs.
    marked: Option<Mutex<String>>,
}

/// This process is a worker of this kind, and its streams are read by who knows the mark.
pub(crate) fn marks(mark: Mark, kind: WorkerKind) {
    let marked = (kind == WorkerKind::Process).then(Mutex::default);
    // A process becomes a worker once.
    let _ = STREAMS.set(Streams { mark, marked });
}

/// Until it is dropped, what the thread prints is printed by this task.
pub(super) fn prints_as(label: Label) -> Printing {
    PRINTER.set(Some(label));
    goes_on();
    Printing
}

/// The thread goes on printing, after another task may have had its turn.
pub(super) fn goes_on() {
    let Some(Streams { mark, marked: Some(marked) }) = STREAMS.get() else { return };
    PRINTER.with_borrow(|printer| {
        let Some(label) = printer else { return };
        let mut marked = marked.lock();
        if *marked != label.text() {
            label.text().clone_into(&mut marked);
            let line = mark.line(label.text());
            // A stream that the user has closed shows nothing.
            let _ = write_at_once(io::stdout().lock(), line.as_bytes());
            let _ = write_at_once(io::stderr().lock(), line.as_bytes());
        }
    });
}

fn write_at_once(mut stream: impl Write, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes)?;
    stream.flush()
}

/// See [`prints_as`]. The streams of a process worker keep the last mark: what is printed between
/// two tasks comes from what the first has left behind.
pub(super) struct Printing;

impl Drop for Printing {
    fn drop(&mut self) {
        PRINTER.set(None);
    }
}

/// Prints what this process logs, so that it reaches the driver with its task's name.
pub(crate) fn log_to_driver() {
    let filter = EnvFilter::try_from_env("MOBULA_LOG").unwrap_or_else(|_| EnvFilter::new(OF_WORKERS));
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(Logged).with_ansi(false);
    // A stream that nobody reads is no reason to panic.
    let subscriber = subscriber.log_internal_errors(false);
    // A process that has one already keeps it.
    let _ = subscriber.try_init();
}

/// Writes each event to stderr, between marks where it belongs to a task.
struct Logged;

impl<'a> MakeWriter<'a> for Logged {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        Self
    }
}

impl Write for Logged {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let label = PRINTER.with_borrow(Clone::clone);
        match (STREAMS.get(), label) {
            // In a process worker everything is marked already.
            (Some(Streams { mark, marked: None }), Some(label)) => {
                // At once: no other thread's line comes between.
                let text = [mark.line(label.text()).as_bytes(), event, mark.line("").as_bytes()].concat();
                io::stderr().lock().write_all(&text)?;
            }
            _ => io::stderr().lock().write_all(event)?,
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Code;

    #[test]
    fn names_are_short() {
        let function = RemoteFunction {
            name: "taxi@0.1.0::steps::clean",
            signature: "",
            group: "",
            code: Code::Task(|_| Ok(vec![])),
        };
        assert_eq!(Label::of_task(&function, None).text(), "clean");
        assert_eq!(Label::of_task(&function, Some("more")).text(), "more");
    }
}
