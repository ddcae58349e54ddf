//! The thread behind an endpoint: a current-thread tokio runtime for timers, tasks and the
//! network, or the runtime of the caller in a simulation.
//!
//! One thread, not a pool: a multi-thread runtime was measured to halve the throughput of QUIC.

use std::future::Future;
use std::io;
use std::sync::mpsc;
use std::thread::{self, ThreadId};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use crate::config::RuntimeChoice;

pub(crate) struct Runtime {
    handle: Handle,
    own: Option<OwnThread>,
}

struct OwnThread {
    id: ThreadId,
    stop: Mutex<Option<oneshot::Sender<()>>>,
    ended: Mutex<mpsc::Receiver<()>>,
}

impl Runtime {
    /// Starts the runtime; its thread is called `name`.
    pub(crate) fn start(choice: RuntimeChoice, name: &str) -> io::Result<Self> {
        if choice == RuntimeChoice::Current {
            let handle = Handle::try_current().map_err(io::Error::other)?;
            return Ok(Self { handle, own: None });
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let (end, ended) = mpsc::channel();
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
            // Ends on `stop` and also when the runtime's owner is dropped.
            let _ = runtime.block_on(stopped);
            drop(runtime);
            let _ = end.send(());
        })?;
        let id = thread.thread().id();
        Ok(Self { handle, own: Some(OwnThread { id, stop: Mutex::new(Some(stop)), ended: Mutex::new(ended) }) })
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        self.handle.spawn(future).abort_handle()
    }

    /// Whether a caller may block until this runtime has made progress.
    pub(crate) fn may_wait_for(&self) -> bool {
        self.own.as_ref().is_some_and(|own| own.id != thread::current().id())
    }

    /// Stops the thread, waiting up to `patience` if the caller is another thread.
    pub(crate) fn stop(&self, patience: Duration) {
        let Some(own) = &self.own else { return };
        let Some(stop) = own.stop.lock().take() else { return };
        let _ = stop.send(());
        if self.may_wait_for() {
            let _ = own.ended.lock().recv_timeout(patience);
        }
    }
}
