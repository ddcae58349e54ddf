//! The [`Endpoint`]: where a process's actors live and from where messages are sent.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use tokio::task::AbortHandle;

use crate::actor::{Actor, Runner};
use crate::address::{Address, MailboxId, ProcessAddr, ProcessId};
use crate::bulk::BulkNetwork;
use crate::config::{EndpointConfig, RuntimeChoice};
use crate::core::Core;
use crate::envelope::Envelope;
use crate::error::DiscoverError;
use crate::identity::{IdentityError, JoinPolicy, Role};
use crate::metrics::MetricsSnapshot;
use crate::network::Network;
use crate::peers::PeerEvent;
use crate::quic::{QuicBulk, QuicNetwork, Sockets, SystemSockets};
use crate::refusals::RefusalsSnapshot;
use crate::runtime::Runtime;

/// A process's place in the world of actors. Cheap to clone; call
/// [`shutdown`](Self::shutdown) when done, since actors keep their endpoint alive.
#[derive(Clone)]
pub struct Endpoint {
    core: Arc<Core>,
}

/// What receives envelopes: the raw seam below actors, for hot paths.
pub trait Mailbox: Send + Sync {
    /// Takes a message. Runs on the delivering thread and must not block.
    fn deliver(&self, envelope: Envelope);

    /// The endpoint is closing.
    fn close(&self) {}
}

/// How much longer than its drain time a shutdown may take.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);

/// Why an endpoint could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// A thread or runtime could not be made.
    #[error("cannot start the endpoint's thread: {0}")]
    Thread(#[source] io::Error),
    /// The UDP socket could not be bound.
    #[error("cannot listen on {listen}: {source}; is the port taken?")]
    Socket {
        /// Where.
        listen: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// No credentials were given.
    #[error("an endpoint that talks to other processes needs credentials")]
    NoCredentials,
    /// The credentials are of no use.
    #[error(transparent)]
    Credentials(#[from] IdentityError),
}

impl Endpoint {
    /// An endpoint of this process alone.
    pub fn in_process(config: EndpointConfig) -> Result<Self, BindError> {
        let runtime = Runtime::start(config.runtime, "mobula-net").map_err(BindError::Thread)?;
        let core = Core::new(runtime, &config, ProcessAddr::IN_PROCESS, Arc::default());
        Ok(Self { core })
    }

    /// An endpoint that talks to other processes over QUIC. It listens where it dials from.
    pub fn bind(config: EndpointConfig) -> Result<Self, BindError> {
        Self::bind_at(config, Arc::new(SystemSockets))
    }

    /// [`bind`](Self::bind) with sockets that may be simulated.
    pub(crate) fn bind_at(config: EndpointConfig, sockets: Arc<dyn Sockets>) -> Result<Self, BindError> {
        let credentials = config.credentials.clone().ok_or(BindError::NoCredentials)?;
        let runtime = Runtime::start(config.runtime, "mobula-net").map_err(BindError::Thread)?;
        let refusals = Arc::default();
        let (network, local) = {
            let _inside = runtime.handle().enter();
            QuicNetwork::bind(sockets, config.listen, credentials, config.secret.clone(), config.limits, &refusals)?
        };
        let core = Core::new(runtime, &config, config.advertise.unwrap_or_else(|| dialable(local)), refusals);
        core.set_network(network.clone(), Arc::new(QuicBulk::new(network.clone())));
        *core.quic.lock() = Some(network.clone());
        core.spawn_task(network.listen(core.clone()));
        Ok(Self { core })
    }

    /// An endpoint over another network than QUIC, on the current runtime.
    pub(crate) fn over(
        network: Arc<dyn Network>,
        bulk: Arc<dyn BulkNetwork>,
        config: &EndpointConfig,
        socket: SocketAddr,
    ) -> Result<Self, BindError> {
        let runtime = Runtime::start(RuntimeChoice::Current, "").map_err(BindError::Thread)?;
        let core = Core::new(runtime, config, socket, Arc::default());
        core.set_network(network, bulk);
        Ok(Self { core })
    }

    pub(crate) fn of(core: Arc<Core>) -> Self {
        Self { core }
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// This process.
    pub fn process(&self) -> ProcessAddr {
        self.core.process()
    }

    /// The address of an actor of this process.
    pub fn address_of(&self, mailbox: MailboxId) -> Address {
        Address { process: self.process(), mailbox }
    }

    /// Starts an actor under `id`, or under a fresh id, and returns its address. An actor that
    /// had the id before no longer receives messages.
    pub fn spawn<A: Actor>(
        &self,
        id: Option<MailboxId>,
        runner: Runner,
        make: impl FnOnce() -> A + Send + 'static,
    ) -> Address {
        let id = id.unwrap_or_else(|| self.core.next_mailbox());
        let handlers = self.core.handlers::<A>();
        match runner {
            Runner::Inline => crate::inline::spawn(self, id, handlers, make),
            Runner::Arbiter => {
                crate::arbiter::spawn(self, &self.core.arbiters, id, handlers, make);
            }
        }
        self.address_of(id)
    }

    /// A fresh mailbox id, for [`attach`](Self::attach).
    pub fn fresh_mailbox(&self) -> MailboxId {
        self.core.next_mailbox()
    }

    /// Puts a raw mailbox under `id` and returns the one it replaces. On a closed endpoint the
    /// mailbox itself comes back.
    pub fn attach(&self, id: MailboxId, mailbox: Arc<dyn Mailbox>) -> Option<Arc<dyn Mailbox>> {
        self.core.attach(id, mailbox)
    }

    /// Takes the mailbox `id` away; later messages are answered [`SendError::NoSuchActor`](crate::SendError::NoSuchActor).
    pub fn detach(&self, id: MailboxId) -> Option<Arc<dyn Mailbox>> {
        self.core.detach(id)
    }

    /// Finds out which process listens at `socket`, connecting to it; tries again with backoff
    /// until `deadline`.
    ///
    /// # Errors
    /// [`DiscoverError`], by what answers there instead.
    pub async fn discover(&self, socket: SocketAddr, deadline: Duration) -> Result<ProcessAddr, DiscoverError> {
        self.core.discover(socket, deadline).await
    }

    /// Lets processes without a certificate join by the policy's tokens; for the head.
    pub fn serve_join(&self, policy: Arc<JoinPolicy>) -> Result<(), BindError> {
        let network = self.core.quic.lock().clone().ok_or(BindError::NoCredentials)?;
        Ok(network.serve_join(policy)?)
    }

    /// What the certificate of a connected process was issued for; `None` where there is no
    /// connection, and for this process itself.
    pub fn role_of(&self, process: ProcessId) -> Option<Role> {
        self.core.links.get(process)?.role()
    }

    /// Declares a process dead: requests to it, pending and later, fail at once with
    /// [`SendError::Gone`](crate::SendError::Gone).
    pub fn mark_gone(&self, process: ProcessId, why: String) {
        self.core.mark_gone(process, why);
    }

    /// Calls `watcher` on every change in what is known about other processes. It runs on the
    /// endpoint's thread or on the one that calls [`mark_gone`](Self::mark_gone), never on one
    /// that only sends, and must be short.
    pub fn watch_peers(&self, watcher: impl FnMut(PeerEvent) + Send + 'static) {
        self.core.peers.watch(Box::new(watcher));
    }

    /// What was counted so far.
    pub fn metrics(&self) -> MetricsSnapshot {
        let refused = self.core.refusals.snapshot().total();
        self.core.metrics.snapshot(self.core.requests_in_flight() as u64, refused)
    }

    /// Whom this endpoint has refused so far, why, and who was the last.
    pub fn refusals(&self) -> RefusalsSnapshot {
        self.core.refusals.snapshot()
    }

    /// Runs a future on the endpoint's thread. It must not block.
    pub fn spawn_task(&self, future: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        self.core.spawn_task(future)
    }

    /// The tokio runtime of the endpoint's thread.
    pub fn runtime(&self) -> &tokio::runtime::Handle {
        self.core.runtime.handle()
    }

    /// Refuses new messages, gives queued ones up to `drain` to leave, then ends actors,
    /// requests ([`SendError::Closed`](crate::SendError::Closed)) and threads. Blocks up to `drain`, except on the
    /// endpoint's own thread and in simulations, where it does not wait.
    pub fn shutdown(&self, drain: Duration) {
        if !self.core.close() {
            return;
        }
        if let Some(network) = self.core.network.get().cloned() {
            let core = self.core.clone();
            let (tell, told) = mpsc::channel();
            self.core.spawn_task(async move {
                network.close(core, drain).await;
                let _ = tell.send(());
            });
            if self.core.runtime.may_wait_for() {
                // Closing keeps to the drain time by itself; the rest is for its last words.
                let _ = told.recv_timeout(drain + CLOSE_PATIENCE);
            }
        }
        self.core.end(drain.max(CLOSE_PATIENCE));
    }

    pub(crate) fn seed_of(&self, salt: u64) -> u64 {
        self.core.seed_of(salt)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({})", self.process())
    }
}

/// Where others dial an endpoint that listens on `local`.
fn dialable(local: SocketAddr) -> SocketAddr {
    match local {
        SocketAddr::V4(addr) if addr.ip().is_unspecified() => (Ipv4Addr::LOCALHOST, addr.port()).into(),
        SocketAddr::V6(addr) if addr.ip().is_unspecified() => (Ipv6Addr::LOCALHOST, addr.port()).into(),
        addr => addr,
    }
}
