//! The bulk channel over QUIC: its own socket, thread and connections.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, oneshot};

use super::{CLOSE_GRACE, QuicNetwork, Sides, attempt_of, bind, code, handshake, quinn_endpoint, window_bytes};
use crate::address::{Address, ProcessAddr, ProcessId};
use crate::bulk::{
    BULK_REQUEST_MAX_BYTES, BulkBody, BulkNetwork, Fetch, Meter, TRANSPORT_MAILBOX, WhereIsBulk, no_source,
};
use crate::config::RuntimeChoice;
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
        let runtime = Runtime::start(RuntimeChoice::Own, "mobula-bulk").map_err(BindError::Thread)?;
        let listen = SocketAddr::new(self.network.local().ip(), 0);
        let failed = |source: io::Error| BindError::Socket { listen, source };
        let socket = bind(listen).map_err(failed)?;
        let port = socket.local_addr().map_err(failed)?.port();
        let window = window_bytes(&socket);
        let credentials = self.network.credentials();
        let sides = Sides::new(credentials, ALPN_BULK, false, &core.limits, window, 0)?;
        let endpoint = {
            let _inside = runtime.handle().enter();
            quinn_endpoint(socket, &sides, credentials).map_err(failed)?
        };
        let socket = SocketAddr::new(core.process().socket.ip(), port);
        let started = Arc::new(Started { runtime, endpoint, sides, socket, peers: Mutex::default() });
        started.runtime.spawn(listen_for_fetches(started.clone(), core.clone(), self.network.handshakes.clone()));
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
                Attempt::Refused(why) => SendError::Refused { why },
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

async fn listen_for_fetches(started: Arc<Started>, core: Arc<Core>, handshakes: Arc<Semaphore>) {
    while let Some(incoming) = started.endpoint.accept().await {
        let Ok(permit) = handshakes.clone().acquire_owned().await else { return };
        let config = started.sides.server(incoming.remote_address());
        let core = core.clone();
        tokio::spawn(async move {
            let Some(connection) = handshake(&core, incoming, config).await else { return };
            drop(permit);
            // Ends with the connection.
            while let Ok((send, receive)) = connection.accept_bi().await {
                tokio::spawn(serve_one(core.clone(), connection.clone(), send, receive));
            }
        });
    }
}

/// Answers one request. A receiver that takes nothing for [`Limits::bulk_stall`] is given up, so
/// that it holds no object in memory; if it has left meanwhile there is nobody to tell.
///
/// [`Limits::bulk_stall`]: crate::Limits::bulk_stall
async fn serve_one(
    core: Arc<Core>,
    connection: quinn::Connection,
    mut send: quinn::SendStream,
    mut receive: quinn::RecvStream,
) {
    let stopped = send.stopped();
    let left = async {
        // It also ends when all has arrived, which is not the same as leaving.
        if let Ok(None) = stopped.await {
            std::future::pending::<()>().await;
        }
    };
    let served = async {
        match open(&core, &mut receive).await? {
            Ok(body) => send_body(&core, &mut send, body).await,
            Err(error) => send_error(&core, &mut send, &error).await,
        }
    };
    let served = tokio::select! {
        served = served => served,
        () = left => Err(Unserved::Left),
    };
    match served {
        Ok(total_bytes) => {
            let path = connection.stats().path;
            tracing::debug!(
                total_bytes,
                rtt_us = path.rtt.as_micros() as u64,
                path.cwnd,
                path.lost_packets,
                path.congestion_events,
                path.current_mtu,
                "served"
            );
            core.metrics.bulk_bytes_out.fetch_add(total_bytes, Ordering::Relaxed);
        }
        Err(Unserved::Left) => {}
        Err(Unserved::Stalled) => {
            tracing::debug!(peer = %connection.remote_address(), "a bulk stream made no progress");
            // Both fail only if the stream has ended by itself.
            let _ = receive.stop(code::STALLED.into());
            let _ = send.reset(code::STALLED.into());
        }
    }
}

/// Why a request was not answered.
enum Unserved {
    /// The fetcher takes no answer, or the connection is lost.
    Left,
    /// Nothing moved for too long.
    Stalled,
}

/// Waits for progress no longer than the limit.
async fn progress<T, E>(core: &Core, step: impl Future<Output = Result<T, E>>) -> Result<T, Unserved> {
    match tokio::time::timeout(core.limits.bulk_stall, step).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(_)) => Err(Unserved::Left),
        Err(_) => Err(Unserved::Stalled),
    }
}

/// Reads a request and opens what it names. The source may take its time: the fetcher knows how
/// long it wants to wait.
async fn open(core: &Core, receive: &mut quinn::RecvStream) -> Result<Result<BulkBody, SendError>, Unserved> {
    let request = progress(core, receive.read_to_end(REQUEST_MAX_BYTES)).await?;
    let source = core.bulk_source.lock().clone();
    Ok(match (rmp_serde::from_slice::<BulkRequest>(&request), source) {
        (Err(error), _) => Err(SendError::Refused { why: error.to_string() }),
        (Ok(_), None) => Err(no_source()),
        (Ok(BulkRequest { from, request }), Some(source)) => source.open(from, request).await,
    })
}

async fn send_body(core: &Core, send: &mut quinn::SendStream, mut body: BulkBody) -> Result<u64, Unserved> {
    let mut head = [STATUS_BODY; 9];
    head[1..].copy_from_slice(&body.total_bytes.to_le_bytes());
    progress(core, send.write_all(&head)).await?;
    let mut chunks = &mut body.chunks[..];
    while !chunks.is_empty() {
        let written = progress(core, send.write_chunks(chunks)).await?;
        chunks = &mut chunks[written.chunks..];
    }
    end(core, send).await?;
    Ok(body.total_bytes)
}

async fn send_error(core: &Core, send: &mut quinn::SendStream, error: &SendError) -> Result<u64, Unserved> {
    let mut answer = vec![STATUS_ERROR];
    rmp_serde::encode::write(&mut answer, error).map_err(|_| Unserved::Left)?;
    progress(core, send.write_all(&answer)).await?;
    end(core, send).await?;
    Ok(0)
}

/// Waits until the receiver has all of it: a window of bytes may still be on its way, and what is
/// on its way stays in memory.
async fn end(core: &Core, send: &mut quinn::SendStream) -> Result<(), Unserved> {
    send.finish().map_err(|_| Unserved::Left)?;
    progress(core, send.stopped()).await.map(drop)
}

#[cfg(test)]
mod tests {
    use futures::future::BoxFuture;

    use super::*;
    use crate::bulk::{BulkSink, BulkSource};
    use crate::config::{EndpointConfig, Limits};
    use crate::identity::{ClusterAuthority, Role};

    /// More than all windows and buffers between two processes.
    const OBJECT_BYTES: usize = 64 * 1024 * 1024;
    const LONG: Duration = Duration::from_secs(60);

    /// Serves one large object; whoever holds its bytes holds the token.
    struct Warehouse(Arc<()>);

    struct Held(Vec<u8>, #[allow(dead_code)] Arc<()>);

    impl AsRef<[u8]> for Held {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    impl BulkSource for Warehouse {
        fn open(&self, _: ProcessAddr, _: Bytes) -> BoxFuture<'static, Result<BulkBody, SendError>> {
            let held = Held(vec![7; OBJECT_BYTES], self.0.clone());
            Box::pin(async { Ok(BulkBody::new(vec![Bytes::from_owner(held)])) })
        }
    }

    struct Void;

    impl BulkSink for Void {
        fn begin(&mut self, _: u64) -> Result<(), SendError> {
            Ok(())
        }
        fn write(&mut self, _: &[u8]) -> Result<(), SendError> {
            Ok(())
        }
        fn finish(&mut self) -> Result<(), SendError> {
            Ok(())
        }
    }

    /// A peer that asks for nothing, and one that takes nothing of what it asked for, are given
    /// up, and the object's memory is free again; others are served meanwhile and afterwards.
    #[test]
    fn who_takes_nothing_holds_nothing() {
        let authority = ClusterAuthority::create("test").unwrap();
        let bind = |bulk_stall| {
            let credentials = Some(authority.credentials(Role::Node).unwrap());
            let limits = Limits { bulk_stall, ..Limits::default() };
            Endpoint::bind(EndpointConfig { credentials, limits, ..EndpointConfig::default() }).unwrap()
        };
        let (server, client) = (bind(Duration::from_millis(200)), bind(LONG));
        let token = Arc::new(());
        server.bulk().serve(Arc::new(Warehouse(token.clone()))).unwrap();
        let socket = server.core().bulk_network().unwrap().socket().unwrap();
        let raw = QuicBulk::new(client.core().quic.lock().clone().unwrap());
        let started = raw.start(client.core()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let connection = started.dial(client.core(), server.process(), socket).await.unwrap();
            let (mut silent, _keep) = connection.open_bi().await.unwrap();
            silent.write_all(b"x").await.unwrap();
            let (mut idle, mut full) = connection.open_bi().await.unwrap();
            let request = BulkRequest { from: client.process(), request: Bytes::new() };
            idle.write_all(&rmp_serde::to_vec(&request).unwrap()).await.unwrap();
            idle.finish().unwrap();
            let bulk = client.bulk();
            let fetch = || bulk.fetch(server.process(), Bytes::new(), Box::new(Void), LONG);
            assert_eq!(fetch().await, Ok(OBJECT_BYTES as u64));
            let stalled = quinn::VarInt::from_u32(code::STALLED);
            assert_eq!(tokio::time::timeout(LONG, silent.stopped()).await.unwrap(), Ok(Some(stalled)));
            assert_eq!(tokio::time::timeout(LONG, full.received_reset()).await.unwrap(), Ok(Some(stalled)));
            tokio::time::timeout(LONG, async {
                while Arc::strong_count(&token) > 2 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            })
            .await
            .expect("nobody holds the object");
            assert_eq!(fetch().await, Ok(OBJECT_BYTES as u64));
            assert!(broken_off(&quinn::ReadError::Reset(stalled)).contains("gave up"));
        });
        raw.close();
        client.shutdown(LONG);
        server.shutdown(LONG);
    }
}
