//! The seam between endpoints and what carries their bytes: QUIC, or the simulated network.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use crate::address::ProcessAddr;
use crate::core::Core;
use crate::identity::Role;
use crate::link::Link;

/// What carries bytes between processes.
pub(crate) trait Network: Send + Sync {
    /// Tries once to connect to the link's process, and moves the link to *up* on success.
    /// `previous` names the last connection, which this side holds for dead.
    fn attempt(self: Arc<Self>, core: Arc<Core>, link: Arc<Link>, previous: Option<u64>)
    -> BoxFuture<'static, Attempt>;

    /// Tries once to connect to whatever process listens at `socket`.
    fn discover(
        self: Arc<Self>,
        core: Arc<Core>,
        socket: SocketAddr,
    ) -> BoxFuture<'static, Result<ProcessAddr, Attempt>>;

    /// Lets queued frames leave for up to `drain`, then closes every connection.
    fn close(self: Arc<Self>, core: Arc<Core>, drain: Duration) -> BoxFuture<'static, ()>;
}

/// A connection, as far as a link needs to know it.
pub(crate) trait Connection: Send + Sync {
    /// Ends it; the peer is told that the connection is no longer wanted.
    fn close(&self);

    /// What the peer's certificate was issued for, where there are certificates.
    fn role(&self) -> Option<Role> {
        None
    }
}

/// The peer was told that this process is dead. It is wrong, but it will never talk to it again: for
/// this process it is as good as gone, and whoever waits for it is to know.
pub(crate) fn held_for_dead(why: &str) -> Attempt {
    Attempt::Gone(format!("it holds this process for dead ({why})"))
}

/// How one attempt to connect ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Attempt {
    /// The link is up.
    Up,
    /// The peer is connecting to us at the same time, and its connection counts.
    Duplicate,
    /// The address is answered, but by another process: the one that was meant is dead. Or it holds
    /// us for dead, and will never listen.
    Gone(String),
    /// Trying again is of no use.
    Refused(String),
    /// Nor here: one side's certificate is not of the other's cluster.
    Foreign(String),
    /// Nor here: what answers speaks another protocol.
    OtherProtocol(String),
    /// No answer.
    Failed(String),
}
