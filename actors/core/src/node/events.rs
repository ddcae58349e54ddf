//! Drivers and workers hear who is dead.

use std::time::Duration;

use mobula_transport::{Address, Endpoint, MailboxId, Payload};

use crate::messages::{ClusterEvent, Subscribe};

/// The wait before a lost stream of events is begun again.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// Follows the cluster's events for as long as the endpoint lives: requests to processes that died
/// fail at once instead of after the network's patience.
pub(crate) fn follow(endpoint: &Endpoint, gcs: Address) -> tokio::task::AbortHandle {
    let following = endpoint.clone();
    endpoint.spawn_task(async move {
        let own = following.process().id;
        loop {
            let mut events = following.open_stream(gcs, Subscribe::Deaths, Vec::new());
            while let Some(Ok((event, _))) = events.next().await {
                let (processes, why) = match event {
                    ClusterEvent::NodeDied { node, why, processes } => {
                        let why = format!("its node {} died: {why}", node.name);
                        (processes.into_iter().chain([node.process]).collect(), why)
                    }
                    ClusterEvent::ProcessDied { process, ref why, .. } => {
                        let why = why.clone();
                        // The client hears who is to blame before it hears that the process is gone.
                        following.send(None, following.address_of(MailboxId::CLIENT), event, Payload::new());
                        (vec![process], why)
                    }
                    _ => continue,
                };
                for process in processes.into_iter().filter(|process| process.id != own) {
                    following.mark_gone(process.id, why.clone());
                }
            }
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    })
}
