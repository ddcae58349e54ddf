//! Ctrl-C, SIGTERM and SIGHUP (the terminal is gone) as a flag: what runs takes back what it did,
//! but for finished blocks that can be gone on with; then the program ends, with 128 and the signal's
//! number as its exit code, as shells have it.
//!
//! Entry type: [`Interrupt`]. A second signal ends the program at once, whatever is left behind.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use tokio::signal::unix::{SignalKind, signal};

/// Whether the program was asked to end.
#[derive(Debug, Clone, Default)]
pub struct Interrupt {
    flag: Arc<AtomicBool>,
    /// Of the first signal.
    exit_code: Arc<AtomicU8>,
}

impl Interrupt {
    /// Watches from now on, on a thread of its own.
    ///
    /// # Errors
    /// What the system says when there can be no such thread or no such watch.
    pub fn watch() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let (mut interrupt, mut terminate, mut hang_up) = {
            let _inside = runtime.enter();
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?)
        };
        let watched = Self::default();
        let seen = watched.clone();
        let watch = async move {
            loop {
                let kind = tokio::select! {
                    _ = interrupt.recv() => SignalKind::interrupt(),
                    _ = terminate.recv() => SignalKind::terminate(),
                    _ = hang_up.recv() => SignalKind::hangup(),
                };
                let exit_code = exit_code_of(kind);
                if seen.is_set() {
                    std::process::exit(i32::from(exit_code));
                }
                // Before the flag: who sees that has the code.
                seen.exit_code.store(exit_code, Ordering::Relaxed);
                seen.flag.store(true, Ordering::Release);
            }
        };
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || runtime.block_on(watch))?;
        Ok(watched)
    }

    /// The flag itself.
    #[must_use]
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.flag)
    }

    /// Whether a signal came.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.flag.load(Ordering::Acquire)
    }

    /// With what the program ends if a signal came: 130 for Ctrl-C, 143 for SIGTERM, 129 where the
    /// terminal is gone.
    #[must_use]
    pub fn exit_code(&self) -> Option<u8> {
        self.is_set().then(|| self.exit_code.load(Ordering::Relaxed))
    }
}

/// 128 and the signal's number.
fn exit_code_of(signal: SignalKind) -> u8 {
    // The numbers of signals are small.
    128_u8.saturating_add(u8::try_from(signal.as_raw_value()).unwrap_or_default())
}
