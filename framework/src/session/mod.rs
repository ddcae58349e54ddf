//! Sessions: a program's connection to its cluster, from `init` to `shutdown`.
//!
//! Most programs have one, made by [`init`]; the free functions of this crate use it. Others (the
//! tests of a library, say) hold several: [`Session::start`] makes one that only the threads that
//! [`enter`](Session::enter) it use.

use std::fmt;
use std::sync::Arc;

use mobula_core::client::{Client, Entered};
use mobula_core::error::Error;
use mobula_core::node::Connection;
use mobula_core::registry::Registry;
use parking_lot::Mutex;

use crate::config::Config;
use crate::object::{ObjectRef, put_with};
use crate::value::Value;

mod cluster;
mod local;
mod output;

/// The session that [`init`] made.
static PROCESS: Mutex<Option<Session>> = Mutex::new(None);

/// A running session. Clones are of the same session; one made by [`Session::start`] ends with
/// its last clone, the process's ([`init`]) with [`shutdown`] or the return of `main`.
#[derive(Clone)]
pub struct Session(Arc<Inner>);

struct Inner {
    client: Client,
    /// What is below the client; `None` when it has been ended.
    below: Mutex<Option<Below>>,
}

/// What carries a session.
enum Below {
    /// A cluster of one in this process.
    Local(Box<local::Local>),
    /// A connection to another.
    Cluster(Box<Connection>),
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.end();
    }
}

impl Inner {
    fn end(&self) {
        self.client.shutdown();
        // Not under the lock: ending may take a while.
        let below = self.below.lock().take();
        match below {
            Some(Below::Local(local)) => local.shutdown(),
            Some(Below::Cluster(connection)) => connection.close(),
            None => {}
        }
    }
}

/// Starts the process's session: a cluster of one in this process, or a connection to a running
/// cluster.
///
/// # Errors
/// [`Error::Invalid`] when the process has a session already (unless
/// [`Config::ignore_reinit_error`]), or a setting makes no sense; [`Error::System`] when the
/// cluster cannot be started or reached, saying what to do.
pub fn init(config: Config) -> Result<Session, Error> {
    let mut process = PROCESS.lock();
    if let Some(session) = &*process
        && session.0.client.is_open()
    {
        if config.ignore_reinit_error {
            return Ok(session.clone());
        }
        return Err(Error::Invalid {
            what: "init was called twice: shut the first session down, or set Config::ignore_reinit_error".to_owned(),
        });
    }
    let session = Session::start(config)?;
    Client::set_process(Some(session.0.client.clone()));
    *process = Some(session.clone());
    Ok(session)
}

/// Ends the process's session, if it has one.
pub fn shutdown() {
    // Taken out first: what the session's end drops may look for the process's session.
    let session = PROCESS.lock().take();
    if let Some(session) = session {
        session.shutdown();
    }
}

/// Ends the process's session when `main` returns.
pub struct EndSession;

impl Drop for EndSession {
    fn drop(&mut self) {
        shutdown();
    }
}

impl Session {
    /// Starts a session that is not the process's: only threads that [`enter`](Self::enter) it,
    /// and the tasks and references made there, use it.
    ///
    /// # Errors
    /// As [`init`], except that any number of sessions may run.
    pub fn start(config: Config) -> Result<Self, Error> {
        // A worker whose `main` is not `#[mobula::main]` must not start a session, and in it
        // workers like itself, without end.
        mobula_core::node::run_worker_if_asked();
        let (client, below) = match &config.address {
            Some(address) => {
                let (client, connection) = cluster::start(address, &config)?;
                (client, Below::Cluster(Box::new(connection)))
            }
            None => {
                let (client, local) = local::start(&config)?;
                (client, Below::Local(Box::new(local)))
            }
        };
        Ok(Self(Arc::new(Inner { client, below: Mutex::new(Some(below)) })))
    }

    /// Makes this the session of the thread until the guard is dropped. Guards nest.
    #[must_use = "the thread leaves the session when the guard is dropped"]
    pub fn enter(&self) -> Entered {
        self.0.client.enter()
    }

    /// Makes a value an object of this session.
    ///
    /// # Errors
    /// As [`put`](crate::put).
    pub fn put<T: Value>(&self, value: T) -> Result<ObjectRef<T>, Error> {
        put_with(&self.0.client, value)
    }

    /// Ends the session: everything pending fails, actors that are not detached end. Does nothing
    /// the second time.
    pub fn shutdown(&self) {
        self.0.end();
        let mut process = PROCESS.lock();
        if process.as_ref().is_some_and(|session| Arc::ptr_eq(&session.0, &self.0)) {
            Client::set_process(None);
            *process = None;
        }
    }

    /// The untyped client below, for what this crate has no name for.
    pub fn client(&self) -> &Client {
        &self.0.client
    }
}

/// A number that driver and workers compare: that of the registered functions.
fn digest() -> Result<u64, Error> {
    match Registry::global() {
        Ok(registry) => Ok(registry.digest()),
        Err(error) => Err(Error::Invalid { what: error.to_string() }),
    }
}

/// The program's name, for lists.
fn program(config: &Config) -> String {
    let binary = || std::env::current_exe().ok()?.file_stem()?.to_str().map(str::to_owned);
    config.name.clone().or_else(binary).unwrap_or_else(|| "program".to_owned())
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Session(job {})", self.0.client.job())
    }
}
