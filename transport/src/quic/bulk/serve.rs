//! The source's side of bulk over QUIC.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::Semaphore;

use super::super::{code, handshake};
use super::{BulkRequest, REQUEST_MAX_BYTES, STATUS_BODY, STATUS_ERROR, Started};
use crate::bulk::{BulkBody, no_source};
use crate::core::Core;
use crate::error::SendError;

/// Accepts connections and answers the requests that come over them, until the endpoint closes.
pub(super) async fn listen(started: Arc<Started>, core: Arc<Core>, handshakes: Arc<Semaphore>) {
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
    use std::time::Duration;

    use bytes::Bytes;
    use futures::future::BoxFuture;

    use super::super::{QuicBulk, broken_off};
    use super::*;
    use crate::address::ProcessAddr;
    use crate::bulk::{BulkNetwork, BulkSink, BulkSource};
    use crate::config::{EndpointConfig, Limits};
    use crate::endpoint::Endpoint;
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
