//! The bulk channel: large objects from process to process, beside the messages.
//!
//! Streams of one QUIC connection share its congestion window, so bulk bytes travel over a
//! second connection per pair, made when first needed, with a socket and a thread of their own.
//! One stream per object, flow-controlled: at most a window of bytes is in flight.
//!
//! ```text
//!   fetcher                                       source
//!     message connection: where is your bulk? ---->
//!     <------------------------------- 10.0.0.2:4711
//!     bulk connection, one stream:
//!     who asks, request -------------------------->  BulkSource::open
//!     <--- 0, total bytes (8), body ...   BulkSink::begin, write, write ..., finish
//!     <--- 1, error                       fetch fails with it
//! ```
//! The body must be exactly as long as announced. A fetch fails when nothing arrives for the time
//! its caller allows; a source gives up a receiver that takes nothing for
//! [`Limits::bulk_stall`](crate::Limits::bulk_stall), so that no stalled peer keeps an object in
//! memory.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::address::{MailboxId, ProcessAddr};
use crate::core::Core;
use crate::endpoint::{BindError, Endpoint, Mailbox};
use crate::envelope::Envelope;
use crate::error::SendError;

/// The largest request for a bulk object.
pub const BULK_REQUEST_MAX_BYTES: usize = 64 * 1024;

/// What can be fetched from this process.
pub trait BulkSource: Send + Sync {
    /// Opens what `request` names for the process `peer`. Runs on the bulk thread and must not
    /// block; the future may wait.
    fn open(&self, peer: ProcessAddr, request: Bytes) -> BoxFuture<'static, Result<BulkBody, SendError>>;
}

/// An object to be sent: chunks that may own a mapping, so that nothing is copied.
#[derive(Debug, Clone, Default)]
pub struct BulkBody {
    /// The bytes.
    pub chunks: Vec<Bytes>,
    /// How many they are; announced first and checked by the receiver.
    pub total_bytes: u64,
}

impl BulkBody {
    /// A body of these chunks.
    pub fn new(chunks: Vec<Bytes>) -> Self {
        let total_bytes = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        Self { chunks, total_bytes }
    }
}

/// Where a fetched object goes. Called on the bulk thread.
pub trait BulkSink: Send {
    /// The announced length, before the first byte: reserve it here, or refuse.
    fn begin(&mut self, total_bytes: u64) -> Result<(), SendError>;
    /// The next bytes.
    fn write(&mut self, chunk: &[u8]) -> Result<(), SendError>;
    /// All of them have come. Not called for a failed fetch; the sink is dropped then.
    fn finish(&mut self) -> Result<(), SendError>;
}

/// The bulk channel of an endpoint; made by [`Endpoint::bulk`].
#[derive(Clone)]
pub struct Bulk {
    core: Arc<Core>,
}

impl Bulk {
    /// Serves `source` to the other processes of the cluster; replaces an earlier source.
    pub fn serve(&self, source: Arc<dyn BulkSource>) -> Result<(), BindError> {
        *self.core.bulk_source.lock() = Some(source);
        match self.core.bulk_network() {
            Some(network) => network.serve(&self.core),
            None => Ok(()),
        }
    }

    /// Fetches what `request` names from `peer` into `sink` and returns its length. Fails when
    /// nothing arrives for `stall`; there is no deadline for the whole.
    pub fn fetch(
        &self,
        peer: ProcessAddr,
        request: Bytes,
        sink: Box<dyn BulkSink>,
        stall: Duration,
    ) -> impl Future<Output = Result<u64, SendError>> + Send + 'static {
        let core = self.core.clone();
        async move {
            if core.is_closed() {
                return Err(SendError::Closed);
            }
            if request.len() > BULK_REQUEST_MAX_BYTES {
                return Err(SendError::TooLarge {
                    size_bytes: request.len() as u64,
                    limit_bytes: BULK_REQUEST_MAX_BYTES as u64,
                });
            }
            if peer.id == core.process().id {
                return fetch_here(&core, request, sink).await;
            }
            if let Some(gone) = core.peers.gone(peer.id) {
                return Err(gone);
            }
            let Some(network) = core.bulk_network() else {
                return Err(SendError::Unreachable { process: peer.id, why: "this endpoint has no network".into() });
            };
            let fetching = network.fetch(core, Fetch { peer, request, sink, stall });
            fetching.await.unwrap_or(Err(SendError::Closed))
        }
    }
}

impl fmt::Debug for Bulk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bulk({})", self.core.process())
    }
}

impl Endpoint {
    /// The endpoint's bulk channel.
    pub fn bulk(&self) -> Bulk {
        Bulk { core: self.core().clone() }
    }
}

/// One fetch.
pub(crate) struct Fetch {
    pub(crate) peer: ProcessAddr,
    pub(crate) request: Bytes,
    pub(crate) sink: Box<dyn BulkSink>,
    pub(crate) stall: Duration,
}

/// What carries bulk bytes between processes.
pub(crate) trait BulkNetwork: Send + Sync {
    /// Makes this process's source reachable.
    fn serve(self: Arc<Self>, core: &Arc<Core>) -> Result<(), BindError>;
    /// Starts a fetch; it goes on even if the receiver is dropped.
    fn fetch(self: Arc<Self>, core: Arc<Core>, fetch: Fetch) -> oneshot::Receiver<Result<u64, SendError>>;
    /// Where others find this process's source, if it serves one.
    fn socket(&self) -> Option<SocketAddr>;
    /// Ends everything.
    fn close(&self);
}

async fn fetch_here(core: &Arc<Core>, request: Bytes, mut sink: Box<dyn BulkSink>) -> Result<u64, SendError> {
    let source = core.bulk_source.lock().clone();
    let Some(source) = source else { return Err(no_source()) };
    let body = source.open(core.process(), request).await?;
    sink.begin(body.total_bytes)?;
    let mut meter = Meter::new(body.total_bytes);
    for chunk in &body.chunks {
        meter.add(chunk.len())?;
        sink.write(chunk)?;
    }
    meter.end()?;
    sink.finish()?;
    Ok(body.total_bytes)
}

pub(crate) fn no_source() -> SendError {
    SendError::Refused { why: "that process serves no bulk objects".into() }
}

/// Compares the bytes that come with the announced length.
pub(crate) struct Meter {
    announced_bytes: u64,
    received_bytes: u64,
}

impl Meter {
    pub(crate) fn new(announced_bytes: u64) -> Self {
        Self { announced_bytes, received_bytes: 0 }
    }

    /// More bytes: an error as soon as they are too many.
    pub(crate) fn add(&mut self, bytes: usize) -> Result<(), SendError> {
        self.received_bytes += bytes as u64;
        if self.received_bytes > self.announced_bytes { Err(self.wrong()) } else { Ok(()) }
    }

    /// No more bytes: an error if they were too few.
    pub(crate) fn end(&self) -> Result<(), SendError> {
        if self.received_bytes < self.announced_bytes { Err(self.wrong()) } else { Ok(()) }
    }

    fn wrong(&self) -> SendError {
        SendError::WrongLength { announced_bytes: self.announced_bytes, received_bytes: self.received_bytes }
    }
}

/// Asks a process where its bulk socket is.
#[derive(Serialize, Deserialize)]
pub(crate) struct WhereIsBulk;
crate::message!(WhereIsBulk => Option<SocketAddr>);

/// The mailbox of the endpoint itself.
pub(crate) const TRANSPORT_MAILBOX: MailboxId = MailboxId(0);

/// Answers for the endpoint itself.
pub(crate) struct TransportMailbox(pub(crate) std::sync::Weak<Core>);

impl Mailbox for TransportMailbox {
    fn deliver(&self, envelope: Envelope) {
        let Ok((WhereIsBulk, request)) = envelope.open::<WhereIsBulk>() else { return };
        let Some(core) = self.0.upgrade() else { return };
        request.reply(core.bulk_network().and_then(|network| network.socket()));
    }
}
