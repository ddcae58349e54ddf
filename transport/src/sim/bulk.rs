//! Bulk objects in the simulation: read from the source's process in pieces, each delayed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::oneshot;

use super::{Sim, silent};
use crate::bulk::{BulkNetwork, Fetch, Meter, no_source};
use crate::core::Core;
use crate::endpoint::BindError;
use crate::error::SendError;

/// Bytes that arrive at once.
const PIECE_BYTES: usize = 1024 * 1024;

pub(super) struct SimBulk(Arc<Sim>);

impl SimBulk {
    pub(super) fn new(sim: Arc<Sim>) -> Self {
        Self(sim)
    }

    async fn carry(&self, core: &Arc<Core>, fetch: Fetch) -> Result<u64, SendError> {
        let Fetch { peer, request, mut sink, stall } = fetch;
        let us = core.process();
        let stall = stall.min(core.limits.idle_timeout);
        self.pass(us.id, peer.id, stall).await?;
        let other = self.0.core(peer.id).ok_or_else(|| silent(peer.id))?;
        let source = other.bulk_source.lock().clone().ok_or_else(no_source)?;
        let body = source.open(us, request).await?;
        self.pass(peer.id, us.id, stall).await?;
        sink.begin(body.total_bytes)?;
        let mut meter = Meter::new(body.total_bytes);
        for piece in body.chunks.iter().flat_map(|chunk| chunk.chunks(PIECE_BYTES)) {
            self.pass(peer.id, us.id, stall).await?;
            meter.add(piece.len())?;
            sink.write(piece)?;
        }
        meter.end()?;
        sink.finish()?;
        core.metrics.bulk_bytes_in.fetch_add(body.total_bytes, Ordering::Relaxed);
        other.metrics.bulk_bytes_out.fetch_add(body.total_bytes, Ordering::Relaxed);
        Ok(body.total_bytes)
    }

    /// One crossing of the network; fails after `stall` of silence, or when the connection would be
    /// lost.
    async fn pass(
        &self,
        from: crate::ProcessId,
        to: crate::ProcessId,
        stall: std::time::Duration,
    ) -> Result<(), SendError> {
        tokio::time::sleep(self.0.delay()).await;
        let heard = async {
            loop {
                let changed = self.0.changed.notified();
                if self.0.connected(from, to) {
                    return;
                }
                changed.await;
            }
        };
        let peer = if self.0.core(from).is_some() { from } else { to };
        tokio::time::timeout(stall, heard).await.map_err(|_| silent(peer))
    }
}

impl BulkNetwork for SimBulk {
    fn serve(self: Arc<Self>, _: &Arc<Core>) -> Result<(), BindError> {
        Ok(())
    }

    fn fetch(self: Arc<Self>, core: Arc<Core>, fetch: Fetch) -> oneshot::Receiver<Result<u64, SendError>> {
        let (tell, told) = oneshot::channel();
        let runtime = core.clone();
        runtime.spawn_task(async move {
            let mut tell = tell;
            tokio::select! {
                biased;
                fetched = self.carry(&core, fetch) => {
                    // The fetcher may have gone meanwhile.
                    let _ = tell.send(fetched);
                }
                () = tell.closed() => {}
            }
        });
        told
    }

    fn socket(&self) -> Option<SocketAddr> {
        None
    }

    fn close(&self) {}
}
