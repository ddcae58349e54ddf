//! SIGINT and SIGTERM: counted, and in the end obeyed.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::signal::unix::{SignalKind, signal};

use crate::error::CliError;

/// The exit code of a process that a signal ended.
const ENDED_BY_SIGNAL: i32 = 130;

/// The signals that this process got.
pub(crate) struct Signals {
    seen: Arc<AtomicUsize>,
    /// What to do before the process ends by the next one; without it they are only counted.
    before_end: Arc<Mutex<Option<Cleanup>>>,
}

type Cleanup = Box<dyn FnOnce() + Send>;

impl Signals {
    /// Counts from now on, on a thread of its own.
    pub(crate) fn watch() -> Result<Self, CliError> {
        let what = "signals cannot be watched";
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(CliError::system(what))?;
        let (mut interrupt, mut terminate) = {
            let _inside = runtime.enter();
            let interrupt = signal(SignalKind::interrupt()).map_err(CliError::system(what))?;
            (interrupt, signal(SignalKind::terminate()).map_err(CliError::system(what))?)
        };
        let watched = Self { seen: Arc::default(), before_end: Arc::default() };
        let (seen, before_end) = (watched.seen.clone(), watched.before_end.clone());
        let watch = async move {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                seen.fetch_add(1, Ordering::AcqRel);
                let cleanup = before_end.lock().unwrap_or_else(PoisonError::into_inner).take();
                if let Some(cleanup) = cleanup {
                    cleanup();
                    std::process::exit(ENDED_BY_SIGNAL);
                }
            }
        };
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || runtime.block_on(watch))
            .map_err(CliError::system(what))?;
        Ok(watched)
    }

    /// How many came so far.
    pub(crate) fn seen(&self) -> usize {
        self.seen.load(Ordering::Acquire)
    }

    /// The next one ends the process, after this was done.
    pub(crate) fn next_ends(&self, cleanup: impl FnOnce() + Send + 'static) {
        *self.before_end.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(cleanup));
    }
}
