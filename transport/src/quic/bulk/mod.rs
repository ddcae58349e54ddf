//! The bulk channel over QUIC: its own socket, thread and connections.

mod serve;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::{Bound, CLOSE_GRACE, QuicNetwork, Sides, attempt_of, code, quinn_endpoint};
use crate::address::{Address, ProcessAddr, ProcessId};
use crate::bulk::{BULK_REQUEST_MAX_BYTES, BulkNetwork, Fetch, Meter, TRANSPORT_MAILBOX, WhereIsBulk, no_source};
use crate::core::Core;
use crate::endpoint::{BindError, Endpoint};
use crate::error::SendError;
use crate::identity::tls::{ALPN_BULK, SERVER_NAME};
use crate::message::{Payload, decode};
use crate::network::Attempt;
use crate::runtime::Runtime;

/// The largest piece read from a stream at once.
const READ_BYTES: usize = 1024 * 1024;
/// The largest error answer.
const ERROR_MAX_BYTES: usize = 64 * 1024;
/// A request and who makes it.
const REQUEST_MAX_BYTES: usize = BULK_REQUEST_MAX_BYTES + 1024;
/// How long a process may take to say where its bulk socket is.
const WHERE_DEADLINE: Duration = Duration::from_secs(10);

const STATUS_BODY: u8 = 0;
const STATUS_ERROR: u8 = 1;

/// What the fetcher says first.
#[derive(Serialize, Deserialize)]
struct BulkRequest {
    from: ProcessAddr,
    request: Bytes,
}

/// The bulk channel of an endpoint; its thread starts at first need.
pub(crate) struct QuicBulk {
    network: Arc<QuicNetwork>,
    started: Mutex<Option<Arc<Started>>>,
}

struct Started {
    runtime: Runtime,
    endpoint: quinn::Endpoint,
    sides: Sides,
    socket: SocketAddr,
    peers: Mutex<HashMap<ProcessId, Arc<tokio::sync::Mutex<Option<quinn::Connection>>>>>,
}

impl QuicBulk {
    pub(crate) fn new(network: Arc<QuicNetwork>) -> Self {
        Self { network, started: Mutex::new(None) }
    }

    fn start(&self, core: &Arc<Core>) -> Result<Arc<Started>, BindError> {
        let mut slot = self.started.lock();
        if let Some(started) = &*slot {
            return Ok(started.clone());
        }
        let sockets = &self.network.sockets;
        let runtime = Runtime::start(sockets.bulk_runtime(), "mobula-bulk").map_err(BindError::Thread)?;
        let listen = SocketAddr::new(self.network.local().ip(), 0);
        let failed = |source: io::Error| BindError::Socket { listen, source };
        let inside = runtime.handle().enter();
        let Bound { inner, local, window_bytes } = sockets.bind(listen).map_err(failed)?;
        let credentials = self.network.credentials();
        let sides = Sides::new(credentials, ALPN_BULK, false, &core.limits, window_bytes, 0)?;
        let endpoint = quinn_endpoint(inner, &sides, &self.network.secret, &core.refusals).map_err(failed)?;
        drop(inside);
        let socket = SocketAddr::new(core.process().socket.ip(), local.port());
        let started = Arc::new(Started { runtime, endpoint, sides, socket, peers: Mutex::default() });
        started.runtime.spawn(serve::listen(started.clone(), core.clone(), self.network.handshakes.clone()));
        *slot = Some(started.clone());
        Ok(started)
    }
}

impl BulkNetwork for QuicBulk {
    fn serve(self: Arc<Self>, core: &Arc<Core>) -> Result<(), BindError> {
        self.start(core).map(drop)
    }

    fn fetch(self: Arc<Self>, core: Arc<Core>, fetch: Fetch) -> oneshot::Receiver<Result<u64, SendError>> {
        let (tell, told) = oneshot::channel();
        match self.start(&core) {
            Err(error) => {
                let _ = tell.send(Err(SendError::Refused { why: error.to_string() }));
            }
            Ok(started) => {
                let task = started.clone();
                started.runtime.spawn(async move {
                    let mut tell = tell;
                    tokio::select! {
                        fetched = task.fetch(&core, fetch) => {
                            // The fetcher may have gone meanwhile.
                            let _ = tell.send(fetched);
                        }
                        () = tell.closed() => {}
                    }
                });
            }
        }
        told
    }

    fn socket(&self) -> Option<SocketAddr> {
        self.started.lock().as_ref().map(|started| started.socket)
    }

    fn close(&self) {
        let Some(started) = self.started.lock().take() else { return };
        started.endpoint.close(code::SHUT_DOWN.into(), b"the process has shut down");
        let (tell, told) = std::sync::mpsc::channel::<()>();
        let task = started.clone();
        started.runtime.spawn(async move {
            let _ = tokio::time::timeout(CLOSE_GRACE, task.endpoint.wait_idle()).await;
            drop(tell);
        });
        if started.runtime.may_wait_for() {
            let _ = told.recv_timeout(2 * CLOSE_GRACE);
        }
        started.runtime.stop(CLOSE_GRACE);
    }
}

impl Started {
    async fn fetch(&self, core: &Arc<Core>, fetch: Fetch) -> Result<u64, SendError> {
        let Fetch { peer, request, mut sink, stall } = fetch;
        let unreachable = |why: String| SendError::Unreachable { process: peer.id, why };
        let lost = |error: &dyn std::fmt::Display| unreachable(error.to_string());
        let stalled = |_| unreachable(format!("the transfer made no progress for {stall:?}"));
        let connection = self.connection(core, peer).await?;
        let (mut send, mut receive) = connection.open_bi().await.map_err(|e| lost(&e))?;
        let request = rmp_serde::to_vec(&BulkRequest { from: core.process(), request })
            .map_err(|error| SendError::Refused { why: error.to_string() })?;
        tokio::time::timeout(stall, send.write_all(&request)).await.map_err(stalled)?.map_err(|e| lost(&e))?;
        send.finish().map_err(|e| lost(&e))?;

        let mut head = [0; 9];
        let answer = async {
            receive.read_exact(&mut head[..1]).await?;
            if head[0] == STATUS_BODY {
                receive.read_exact(&mut head[1..]).await?;
            }
            Ok::<(), quinn::ReadExactError>(())
        };
        tokio::time::timeout(stall, answer).await.map_err(stalled)?.map_err(|e| lost(&e))?;
        if head[0] != STATUS_BODY {
            let error = receive.read_to_end(ERROR_MAX_BYTES);
            let error = tokio::time::timeout(stall, error).await.map_err(stalled)?;
            let error = error.map_err(|e| lost(&e))?;
            return Err(decode("SendError", &error).unwrap_or_else(|error| error));
        }
        let mut length = [0; 8];
        length.copy_from_slice(&head[1..]);
        let total_bytes = u64::from_le_bytes(length);
        let outcome = async {
            sink.begin(total_bytes)?;
            let mut meter = Meter::new(total_bytes);
            loop {
                let chunk = receive.read_chunk(READ_BYTES, true);
                let chunk = tokio::time::timeout(stall, chunk).await.map_err(stalled)?;
                let Some(chunk) = chunk.map_err(|error| unreachable(broken_off(&error)))? else { break };
                meter.add(chunk.bytes.len())?;
                sink.write(&chunk.bytes)?;
            }
            meter.end()?;
            sink.finish()
        }
        .await;
        if let Err(error) = outcome {
            // The sender need not go on; the stream may already have ended.
            let _ = receive.stop(code::UNWANTED.into());
            return Err(error);
        }
        let path = connection.stats().path;
        tracing::debug!(peer = %peer, total_bytes, rtt_us = path.rtt.as_micros() as u64, path.lost_packets, path.current_mtu, "fetched");
        core.metrics.bulk_bytes_in.fetch_add(total_bytes, Ordering::Relaxed);
        Ok(total_bytes)
    }

    /// The bulk connection to `peer`, made if need be.
    async fn connection(&self, core: &Arc<Core>, peer: ProcessAddr) -> Result<quinn::Connection, SendError> {
        let slot = self.peers.lock().entry(peer.id).or_default().clone();
        // Held while connecting: others who fetch from the same process wait for the outcome.
        let mut slot = slot.lock().await;
        if let Some(connection) = &*slot
            && connection.close_reason().is_none()
        {
            return Ok(connection.clone());
        }
        *slot = None;
        self.forget_ended();
        let endpoint = Endpoint::of(core.clone());
        let transport = Address { process: peer, mailbox: TRANSPORT_MAILBOX };
        let found = endpoint.request(transport, WhereIsBulk, Payload::new(), WHERE_DEADLINE).await;
        let found = found.and_then(|(socket, _)| socket.ok_or_else(no_source));
        let connected = match found {
            Ok(socket) => self.dial(core, peer, socket).await,
            Err(error) => Err(error),
        };
        match connected {
            Ok(connection) => Ok(slot.insert(connection).clone()),
            Err(error) => {
                // Nothing is kept for processes that cannot be reached.
                self.peers.lock().remove(&peer.id);
                Err(error)
            }
        }
    }

    /// Forgets the connections that have ended. What is locked is being made.
    fn forget_ended(&self) {
        self.peers.lock().retain(|_, slot| match slot.try_lock() {
            Ok(slot) => slot.as_ref().is_some_and(|connection| connection.close_reason().is_none()),
            Err(_) => true,
        });
    }

    async fn dial(
        &self,
        core: &Arc<Core>,
        peer: ProcessAddr,
        socket: SocketAddr,
    ) -> Result<quinn::Connection, SendError> {
        let unreachable = |why: String| SendError::Unreachable { process: peer.id, why };
        let connecting = self
            .endpoint
            .connect_with(self.sides.client(socket), socket, SERVER_NAME)
            .map_err(|error| unreachable(error.to_string()))?;
        match tokio::time::timeout(core.limits.connect_timeout, connecting).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(match attempt_of(&error) {
                Attempt::Refused(why) | Attempt::Foreign(why) | Attempt::OtherProtocol(why) => {
                    SendError::Refused { why }
                }
                _ => unreachable(error.to_string()),
            }),
            Err(_) => Err(unreachable(format!("{socket} did not answer"))),
        }
    }
}

/// Why a body did not come to its end.
fn broken_off(error: &quinn::ReadError) -> String {
    match error {
        quinn::ReadError::Reset(why) if *why == code::STALLED.into() => {
            "the source gave up, since nothing was taken for too long".to_owned()
        }
        error => error.to_string(),
    }
}
