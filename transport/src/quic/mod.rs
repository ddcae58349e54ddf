//! The QUIC network: one UDP socket per endpoint, which both dials and listens, and one mutually
//! authenticated connection per pair of processes.
//!
//! Everything runs on the endpoint's own thread. Messages travel in a few long-lived streams per
//! direction (lanes), written in batches; see `lane.rs`.

mod bulk;
mod config;
mod connection;
pub(crate) mod hello;
mod socket;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::address::ProcessAddr;
use crate::config::{Limits, Secret};
use crate::core::Core;
use crate::endpoint::BindError;
use crate::identity::tls::{self, ALPN_JOIN, SERVER_NAME};
use crate::identity::{Credentials, IdentityError, JoinPolicy, Unjoined, serve_join};
use crate::link::Link;
use crate::network::{Attempt, Network};
use crate::refusals::{RefusalReason, Refusals};

pub(crate) use bulk::QuicBulk;
pub(crate) use socket::{Bound, Sockets, SystemSockets};

/// Connections, of messages or of bulk, that may be on their way in at once, from the first
/// datagram to the end of the hello; more wait.
const MAX_HANDSHAKES: usize = 256;
/// Processes that may be joining at once; more are refused. They have no certificate yet and may
/// take their time, so they have a bound of their own.
const MAX_JOINS: usize = 16;
/// How long the last words of a closed endpoint may take to leave.
const CLOSE_GRACE: Duration = Duration::from_millis(50);

/// Application codes of closed connections.
pub(crate) mod code {
    /// The process has ended for good.
    pub(crate) const SHUT_DOWN: u32 = 1;
    /// The process has ended and will come back under the same id.
    pub(crate) const COMES_BACK: u32 = 16;
    /// The connection is not needed.
    pub(crate) const UNWANTED: u32 = 2;
    /// The peer sent what is not a frame or not a hello.
    pub(crate) const BAD_FRAME: u32 = 3;
    /// The peer has no certificate, or asks for what is not served.
    pub(crate) const REFUSED: u32 = 4;
    /// Too many others come in at this moment.
    pub(crate) const BUSY: u32 = 5;
    /// A bulk stream on which nothing moves.
    pub(crate) const STALLED: u32 = 6;
}

/// The QUIC configurations of one protocol: for loopback peers and for others.
pub(crate) struct Sides {
    client_loopback: quinn::ClientConfig,
    client_far: quinn::ClientConfig,
    server_loopback: Arc<quinn::ServerConfig>,
    server_far: Arc<quinn::ServerConfig>,
}

impl Sides {
    pub(crate) fn new(
        credentials: &Credentials,
        protocol: &[u8],
        joins: bool,
        limits: &Limits,
        window_bytes: usize,
        uni_streams: u32,
    ) -> Result<Self, IdentityError> {
        let crypto = |error: quinn::crypto::rustls::NoInitialCipherSuite| IdentityError::Crypto {
            what: "the QUIC set-up",
            why: error.to_string(),
        };
        let client = Arc::new(QuicClientConfig::try_from(tls::client(credentials, protocol)?).map_err(crypto)?);
        let server = Arc::new(QuicServerConfig::try_from(tls::server(credentials, protocol, joins)?).map_err(crypto)?);
        let tuning = |loopback| config::transport(limits, window_bytes, uni_streams, loopback);
        let client_with = |loopback| {
            let mut config = quinn::ClientConfig::new(client.clone());
            config.transport_config(tuning(loopback));
            config
        };
        let server_with = |loopback| {
            let mut config = quinn::ServerConfig::with_crypto(server.clone());
            config::bound_incoming(&mut config);
            config.transport_config(tuning(loopback));
            Arc::new(config)
        };
        Ok(Self {
            client_loopback: client_with(true),
            client_far: client_with(false),
            server_loopback: server_with(true),
            server_far: server_with(false),
        })
    }

    pub(crate) fn server(&self, peer: SocketAddr) -> Arc<quinn::ServerConfig> {
        if peer.ip().is_loopback() { self.server_loopback.clone() } else { self.server_far.clone() }
    }

    pub(crate) fn client(&self, peer: SocketAddr) -> quinn::ClientConfig {
        if peer.ip().is_loopback() { self.client_loopback.clone() } else { self.client_far.clone() }
    }
}

/// Makes quinn's endpoint on a socket; call it inside the runtime that will drive it.
pub(crate) fn quinn_endpoint(
    socket: Arc<dyn quinn::AsyncUdpSocket>,
    sides: &Sides,
    secret: &str,
    refusals: &Arc<Refusals>,
) -> std::io::Result<quinn::Endpoint> {
    socket::endpoint(socket, config::endpoint(secret), (*sides.server_far).clone(), secret, refusals.clone())
}

/// What an endpoint needs to talk over QUIC.
pub(crate) struct QuicNetwork {
    endpoint: quinn::Endpoint,
    sockets: Arc<dyn Sockets>,
    local: SocketAddr,
    sides: Mutex<Arc<Sides>>,
    credentials: Credentials,
    /// As in [`EndpointConfig`](crate::EndpointConfig).
    secret: String,
    limits: Limits,
    window_bytes: usize,
    joins: Mutex<Option<Arc<JoinPolicy>>>,
    handshakes: Arc<Semaphore>,
    joining: Arc<Semaphore>,
    /// Held by every writer; when the last one drops it, everything queued has left.
    writers: Mutex<Option<mpsc::Sender<()>>>,
    writers_done: Mutex<Option<mpsc::Receiver<()>>>,
}

impl QuicNetwork {
    /// Binds to `listen`; must run inside the endpoint's runtime.
    pub(crate) fn bind(
        sockets: Arc<dyn Sockets>,
        listen: Option<SocketAddr>,
        credentials: Credentials,
        secret: Option<Secret>,
        limits: Limits,
        refusals: &Arc<Refusals>,
    ) -> Result<(Arc<Self>, SocketAddr), BindError> {
        let listen = listen.unwrap_or_else(|| (Ipv4Addr::LOCALHOST, 0).into());
        let failed = |source| BindError::Socket { listen, source };
        let Bound { inner, local, window_bytes } = sockets.bind(listen).map_err(failed)?;
        let secret = secret.map_or_else(|| credentials.key_pem.clone(), |secret| secret.0);
        let sides = sides(&credentials, false, &limits, window_bytes)?;
        let endpoint = quinn_endpoint(inner, &sides, &secret, refusals).map_err(failed)?;
        let (writers, writers_done) = mpsc::channel(1);
        let network = Arc::new(Self {
            endpoint,
            sockets,
            local,
            sides: Mutex::new(Arc::new(sides)),
            credentials,
            secret,
            limits,
            window_bytes,
            joins: Mutex::default(),
            handshakes: Arc::new(Semaphore::new(MAX_HANDSHAKES)),
            joining: Arc::new(Semaphore::new(MAX_JOINS)),
            writers: Mutex::new(Some(writers)),
            writers_done: Mutex::new(Some(writers_done)),
        });
        Ok((network, local))
    }

    pub(crate) fn local(&self) -> SocketAddr {
        self.local
    }

    pub(crate) fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// Lets processes without a certificate present a token.
    pub(crate) fn serve_join(&self, policy: Arc<JoinPolicy>) -> Result<(), IdentityError> {
        let sides = sides(&self.credentials, true, &self.limits, self.window_bytes)?;
        *self.joins.lock() = Some(policy);
        *self.sides.lock() = Arc::new(sides);
        Ok(())
    }

    fn sides(&self) -> Arc<Sides> {
        self.sides.lock().clone()
    }

    /// Accepts connections until the endpoint closes.
    pub(crate) async fn listen(self: Arc<Self>, core: Arc<Core>) {
        while let Some(incoming) = self.endpoint.accept().await {
            let Ok(permit) = self.handshakes.clone().acquire_owned().await else { return };
            let (network, core) = (self.clone(), core.clone());
            tokio::spawn(async move {
                let Some(connection) = network.handshake(&core, incoming).await else { return };
                network.welcome(core, connection, permit).await;
            });
        }
    }

    async fn handshake(&self, core: &Core, incoming: quinn::Incoming) -> Option<quinn::Connection> {
        let peer = incoming.remote_address();
        handshake(core, incoming, self.sides().server(peer)).await
    }

    /// A connection past its handshake: a join, or a process of the cluster. The permit is that
    /// of who comes in.
    async fn welcome(self: Arc<Self>, core: Arc<Core>, connection: quinn::Connection, permit: OwnedSemaphorePermit) {
        let peer = connection.remote_address();
        if protocol_of(&connection).as_deref() == Some(ALPN_JOIN) {
            drop(permit);
            let policy = self.joins.lock().clone();
            let Some(policy) = policy else { return };
            let Ok(_joining) = self.joining.try_acquire() else {
                connection.close(code::BUSY.into(), b"too many are joining; try again");
                core.refusals.note(peer, RefusalReason::Busy, &"too many are joining");
                return;
            };
            match serve_join(&policy, connection).await {
                Ok(()) => {}
                Err(Unjoined::Refused(why)) => core.refusals.note(peer, RefusalReason::Token, &why),
                Err(Unjoined::Silent) => core.refusals.note(peer, RefusalReason::Silence, &"it did not join in time"),
                Err(Unjoined::Left(why)) => left(peer, &why),
            }
            return;
        }
        // With joins served the handshake does not insist on a certificate; this does.
        if connection.peer_identity().is_none() {
            connection.close(code::REFUSED.into(), b"no certificate");
            core.refusals.note(peer, RefusalReason::Certificate, &"it has no certificate");
            return;
        }
        connection::accept(self, core, connection, permit).await;
    }

    /// Dials `socket` and completes the handshake.
    pub(super) async fn dial(&self, socket: SocketAddr) -> Result<quinn::Connection, Attempt> {
        let config = self.sides().client(socket);
        let connecting = self
            .endpoint
            .connect_with(config, socket, SERVER_NAME)
            .map_err(|error| Attempt::Failed(error.to_string()))?;
        match tokio::time::timeout(self.limits.connect_timeout, connecting).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(attempt_of(&error)),
            Err(_) => Err(Attempt::Failed(format!("{socket} did not answer within {:?}", self.limits.connect_timeout))),
        }
    }

    fn writer_guard(&self) -> Option<mpsc::Sender<()>> {
        self.writers.lock().clone()
    }
}

impl Network for QuicNetwork {
    fn attempt(
        self: Arc<Self>,
        core: Arc<Core>,
        link: Arc<Link>,
        previous: Option<u64>,
    ) -> BoxFuture<'static, Attempt> {
        Box::pin(async move {
            let socket = link.peer().socket;
            connection::connect(self, core, socket, Some(link), previous)
                .await
                .map_or_else(|attempt| attempt, |_| Attempt::Up)
        })
    }

    fn discover(
        self: Arc<Self>,
        core: Arc<Core>,
        socket: SocketAddr,
    ) -> BoxFuture<'static, Result<ProcessAddr, Attempt>> {
        Box::pin(connection::connect(self, core, socket, None, None))
    }

    fn close(self: Arc<Self>, core: Arc<Core>, drain: Duration) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            core.links.all().iter().for_each(|link| link.drain());
            drop(self.writers.lock().take());
            let done = self.writers_done.lock().take();
            if let Some(mut done) = done {
                // Nobody sends; it ends when the last writer is through.
                let _ = tokio::time::timeout(drain, done.recv()).await;
            }
            if core.comes_back {
                self.endpoint.close(code::COMES_BACK.into(), b"the process will come back");
            } else {
                self.endpoint.close(code::SHUT_DOWN.into(), b"the process has shut down");
            }
            let _ = tokio::time::timeout(CLOSE_GRACE, self.endpoint.wait_idle()).await;
        })
    }
}

fn sides(credentials: &Credentials, joins: bool, limits: &Limits, window_bytes: usize) -> Result<Sides, IdentityError> {
    let lanes = crate::lane::LANES as u32;
    Sides::new(credentials, tls::ALPN_MESSAGES, joins, limits, window_bytes, lanes)
}

/// Completes the handshake of a connection somebody else makes; counts who is refused.
pub(crate) async fn handshake(
    core: &Core,
    incoming: quinn::Incoming,
    config: Arc<quinn::ServerConfig>,
) -> Option<quinn::Connection> {
    let peer = incoming.remote_address();
    let failed = |error: quinn::ConnectionError| {
        match refusal_of(&error) {
            Some(reason) => core.refusals.note(peer, reason, &error),
            None => left(peer, &error),
        }
        None
    };
    let connecting = match incoming.accept_with(config) {
        Ok(connecting) => connecting,
        Err(error) => return failed(error),
    };
    match tokio::time::timeout(core.limits.connect_timeout, connecting).await {
        Ok(Ok(connection)) => Some(connection),
        Ok(Err(error)) => failed(error),
        Err(_) => {
            core.refusals.note(peer, RefusalReason::Silence, &"the handshake took too long");
            None
        }
    }
}

/// Why we refused whoever was making this connection; `None` if it left by itself.
fn refusal_of(error: &quinn::ConnectionError) -> Option<RefusalReason> {
    use quinn::ConnectionError as E;
    match error {
        E::TransportError(error) if u64::from(error.code) == NO_COMMON_PROTOCOL => Some(RefusalReason::Protocol),
        E::TransportError(error) if is_tls(error.code) => Some(RefusalReason::Certificate),
        E::TransportError(_) | E::VersionMismatch => Some(RefusalReason::Protocol),
        // It said so itself: our certificate is not of its cluster.
        E::ConnectionClosed(close) if is_tls(close.error_code) => Some(RefusalReason::Certificate),
        E::TimedOut => Some(RefusalReason::Silence),
        E::ConnectionClosed(_) | E::ApplicationClosed(_) | E::Reset | E::LocallyClosed | E::CidsExhausted => None,
    }
}

/// Somebody left before it had come in.
fn left(peer: SocketAddr, why: &dyn std::fmt::Display) {
    tracing::debug!(%peer, %why, "a connection ended before it was made");
}

/// The TLS alert `no_application_protocol`, as QUIC carries it.
const NO_COMMON_PROTOCOL: u64 = 0x100 + 120;

/// Codes 0x100 to 0x1ff carry TLS alerts: certificates that do not fit, mostly.
fn is_tls(code: quinn::TransportErrorCode) -> bool {
    (0x100..0x200).contains(&u64::from(code))
}

/// The protocol both sides agreed on.
pub(crate) fn protocol_of(connection: &quinn::Connection) -> Option<Vec<u8>> {
    let data = connection.handshake_data()?;
    data.downcast::<quinn::crypto::rustls::HandshakeData>().ok()?.protocol
}

/// What a failed connection means for trying again.
pub(crate) fn attempt_of(error: &quinn::ConnectionError) -> Attempt {
    use quinn::ConnectionError as E;
    match error {
        E::TransportError(error) if u64::from(error.code) == NO_COMMON_PROTOCOL => {
            Attempt::OtherProtocol(error.to_string())
        }
        E::ConnectionClosed(close) if u64::from(close.error_code) == NO_COMMON_PROTOCOL => {
            Attempt::OtherProtocol(close.to_string())
        }
        E::TransportError(error) if is_tls(error.code) => {
            Attempt::Foreign(format!("it has no certificate of this cluster: {error}"))
        }
        E::ConnectionClosed(close) if is_tls(close.error_code) => {
            Attempt::Foreign(format!("it does not accept our certificate: {close}"))
        }
        E::ApplicationClosed(close) if close.error_code == code::REFUSED.into() => Attempt::Refused(close.to_string()),
        E::VersionMismatch => Attempt::OtherProtocol(error.to_string()),
        error => Attempt::Failed(error.to_string()),
    }
}
