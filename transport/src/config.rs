//! How an endpoint is set up: [`EndpointConfig`] and the bounds in [`Limits`].

use std::net::SocketAddr;
use std::time::Duration;

use crate::address::ProcessId;
use crate::identity::Credentials;

/// How to set up an [`Endpoint`](crate::Endpoint). `EndpointConfig::default()` is an endpoint of
/// this process alone.
#[derive(Debug, Clone, Default)]
pub struct EndpointConfig {
    /// Where to listen and dial from; `None` means 127.0.0.1 and a free port.
    pub listen: Option<SocketAddr>,
    /// Where others reach this endpoint, if not where it listens; an endpoint that listens on
    /// every interface (0.0.0.0) and says nothing here is reached over loopback only.
    pub advertise: Option<SocketAddr>,
    /// The process's certificate; without it no connection can be made.
    pub credentials: Option<Credentials>,
    /// Seed of the endpoint's random numbers (reconnect jitter, actors); `None`: from the system.
    pub seed: Option<u64>,
    /// Threads for [`Runner::Arbiter`](crate::Runner::Arbiter); 0 means 1.
    pub arbiters: usize,
    /// Whose thread carries timers, tasks and the network.
    pub runtime: RuntimeChoice,
    /// The process's id; `None`: a fresh random one.
    pub process: Option<ProcessId>,
    /// The process will come back under the same id: its shutdown does not declare it gone, others
    /// wait for it as for one that is unreachable. Only for actors whose state survives.
    pub comes_back: bool,
    /// Known to this process, to those that come after it in its place, and to nobody else: with it
    /// they disown the connections of their predecessor at the first word on them, where its peers
    /// would wait in vain until they time out. `None`: the private key of its credentials.
    pub secret: Option<Secret>,
    /// The bounds.
    pub limits: Limits,
}

/// Text that is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Whose thread carries an endpoint's timers and tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RuntimeChoice {
    /// A thread of the endpoint's own.
    #[default]
    Own,
    /// The tokio runtime the endpoint is created in: for tests with paused time and for
    /// simulations. Arbiter actors then run on the current actix arbiter.
    Current,
}

/// The bounds of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The largest message that may be sent or read, envelope and payload together; at most
    /// [`MAX_FRAME_BYTES`].
    pub frame_bytes: usize,
    /// Bytes that may wait in one lane towards one process; over it a send fails with
    /// [`SendError::MailboxFull`](crate::SendError::MailboxFull).
    pub lane_queue_bytes: usize,
    /// How long a lost or not yet made connection is tried again before the process counts as
    /// unreachable.
    pub reconnect_window: Duration,
    /// The pause before the second attempt; it doubles with every attempt.
    pub backoff_min: Duration,
    /// The longest pause between attempts.
    pub backoff_max: Duration,
    /// How long one attempt may take.
    pub connect_timeout: Duration,
    /// A connection on which nothing arrives for this long is lost.
    pub idle_timeout: Duration,
    /// How often a silent connection is tested.
    pub keep_alive: Duration,
    /// A bulk object whose receiver takes nothing for this long is not sent any further.
    pub bulk_stall: Duration,
}

/// The largest frame any endpoint reads.
pub const MAX_FRAME_BYTES: usize = 16 * 1024 * 1024;

impl Default for Limits {
    fn default() -> Self {
        Self {
            frame_bytes: MAX_FRAME_BYTES,
            lane_queue_bytes: 64 * 1024 * 1024,
            reconnect_window: Duration::from_secs(5),
            backoff_min: Duration::from_millis(20),
            backoff_max: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(2),
            idle_timeout: Duration::from_secs(10),
            keep_alive: Duration::from_secs(2),
            bulk_stall: Duration::from_secs(30),
        }
    }
}
