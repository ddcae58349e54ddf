//! How links are connected: attempts with pauses, within a window.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Link;
use crate::address::ProcessAddr;
use crate::backoff::Backoff;
use crate::config::Limits;
use crate::core::Core;
use crate::error::DiscoverError;
use crate::network::Attempt;

impl Core {
    /// Finds out which process listens at `socket`.
    pub(crate) async fn discover(
        self: &Arc<Self>,
        socket: SocketAddr,
        deadline: Duration,
    ) -> Result<ProcessAddr, DiscoverError> {
        let Some(network) = self.network.get().cloned() else {
            return Err(DiscoverError::Refused { why: "this endpoint has no network".into() });
        };
        let limits = Limits { reconnect_window: deadline, ..self.limits };
        let seed = self.seed_of(u64::from(socket.port()));
        let core = self.clone();
        let (tell, told) = oneshot::channel();
        // On the endpoint's runtime, whatever the caller's is.
        self.spawn_task(async move {
            let mut backoff = Backoff::new(&limits, seed);
            let found = loop {
                let begun = Instant::now();
                let attempt = network.clone().discover(core.clone(), socket);
                let why = match tokio::time::timeout(deadline, attempt).await {
                    Ok(Ok(peer)) => break Ok(peer),
                    Ok(Err(Attempt::Refused(why) | Attempt::Gone(why))) => break Err(DiscoverError::Refused { why }),
                    Ok(Err(Attempt::Foreign(why))) => break Err(DiscoverError::Foreign { why }),
                    Ok(Err(Attempt::OtherProtocol(why))) => break Err(DiscoverError::OtherProtocol { why }),
                    Ok(Err(Attempt::Failed(why))) => why,
                    Ok(Err(Attempt::Up | Attempt::Duplicate)) | Err(_) => "no answer".to_owned(),
                };
                match backoff.next(begun.elapsed()) {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => {
                        tracing::debug!(%socket, why, "nobody found");
                        break Err(DiscoverError::Silent { after: deadline });
                    }
                }
            };
            let _ = tell.send(found);
        });
        told.await.unwrap_or(Err(DiscoverError::Closed))
    }
}

/// One round of dialling: connects a link, again and again within its window.
pub(super) async fn dial(core: Arc<Core>, link: Arc<Link>, round: u64) {
    let peer = link.peer();
    let Some(network) = core.network.get().cloned() else { return };
    let mut backoff = Backoff::new(&core.limits, core.seed_of(peer.id.0.as_u128() as u64));
    loop {
        let changed = link.changed.notified();
        let previous = {
            let phases = link.phases.lock();
            if !phases.dials(round) || core.is_closed() {
                return;
            }
            phases.previous()
        };
        let begun = Instant::now();
        let attempt = if peer.is_dialable() {
            network.clone().attempt(core.clone(), link.clone(), previous).await
        } else {
            Attempt::Failed("it does not listen".into())
        };
        let why = match attempt {
            Attempt::Up => return,
            Attempt::Gone(why) => return core.mark_gone(peer.id, why),
            Attempt::Refused(why) | Attempt::Foreign(why) | Attempt::OtherProtocol(why) => {
                return core.link_given_up(&link, round, why);
            }
            Attempt::Duplicate => "it is connecting to us, but has not arrived".to_owned(),
            Attempt::Failed(why) => why,
        };
        match backoff.next(begun.elapsed()) {
            None => return core.link_given_up(&link, round, why),
            Some(pause) => {
                let _ = tokio::time::timeout(pause, changed).await;
            }
        }
    }
}
