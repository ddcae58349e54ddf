//! The node of this process: the raylet that is asked first, and the store that objects are read in.
//!
//! A worker ends with its node. A driver does not: it looks for another node, first of all for one
//! whose store it can read too.

use std::sync::atomic::Ordering;
use std::time::Duration;

use mobula_transport::{Address, MailboxId, ProcessId, SendError};
use parking_lot::RwLock;
use tokio::time::Instant;

use super::Client;
use crate::delivery::{Fate, fate};
use crate::gcs::placement::takes_work;
use crate::messages::{ClusterStatus, GetClusterStatus, NodeInfo};
use crate::store::StoreClient;

/// How long another home is waited for by who reads or writes an object.
const MOVED_WITHIN: Duration = Duration::from_secs(60);
/// How often it is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Where a client is at home.
pub(super) struct Home(RwLock<(Address, StoreClient)>);

impl Home {
    pub(super) fn new(raylet: Address, store: StoreClient) -> Self {
        Self(RwLock::new((raylet, store)))
    }
}

/// Whether the store that answered so may have gone with its node. One that cannot be reached has been
/// tried for a while.
pub(super) fn may_have_gone(error: &SendError) -> bool {
    matches!(fate(error), Fate::Dead | Fate::Doubtful)
}

/// Who waits for another home, and is told that there is none when the runtime ends first.
struct Told<F: FnOnce(bool)>(Option<F>);

impl<F: FnOnce(bool)> Told<F> {
    fn tell(mut self, moved: bool) {
        if let Some(then) = self.0.take() {
            then(moved);
        }
    }
}

impl<F: FnOnce(bool)> Drop for Told<F> {
    fn drop(&mut self) {
        if let Some(then) = self.0.take() {
            then(false);
        }
    }
}

impl Client {
    /// The raylet that is asked first.
    pub fn raylet(&self) -> Address {
        self.0.home.0.read().0
    }

    /// The node's store.
    pub fn store(&self) -> StoreClient {
        self.0.home.0.read().1.clone()
    }

    /// A process is dead, or out of reach. If this client was at home there, it looks for another
    /// home, until there is one.
    pub(super) fn home_lost(&self, process: ProcessId) {
        if self.raylet().process.id == process && !self.0.homeless.swap(true, Ordering::AcqRel) {
            tracing::warn!(%process, "the node that this process asks first is gone; looking for another one");
            self.look_for_home(process);
        }
    }

    /// A process is reached again. If it is the home that was given up, that is kept.
    pub(super) fn home_found(&self, process: ProcessId) {
        if self.raylet().process.id == process {
            self.0.homeless.store(false, Ordering::Release);
        }
    }

    /// Calls `then` when this client is at home elsewhere than on the dead node with this process: with
    /// whether objects can be read and written there.
    pub(super) fn when_moved(&self, from: ProcessId, then: impl FnOnce(bool) + Send + 'static) {
        let (client, told) = (self.clone(), Told(Some(then)));
        self.0.endpoint.spawn_task(async move {
            let since = Instant::now();
            let reads = loop {
                if client.store().store().id != from {
                    break true;
                }
                let has_moved = client.raylet().process.id != from && !client.0.homeless.load(Ordering::Acquire);
                if has_moved || !client.is_open() || since.elapsed() > MOVED_WITHIN {
                    break false;
                }
                tokio::time::sleep(LOOK_EVERY).await;
            };
            told.tell(reads);
        });
    }

    fn look_for_home(&self, lost: ProcessId) {
        let client = self.clone();
        self.ask_gcs(GetClusterStatus, move |answer| {
            if !client.is_open() || !client.0.homeless.load(Ordering::Acquire) {
                return;
            }
            // Reading what proves a store waits for a disk at worst.
            let again = client.clone();
            client.endpoint().runtime().spawn_blocking(move || {
                let client = again;
                match answer.ok().and_then(|status| client.another_home(&status, lost)) {
                    Some((raylet, store)) => client.move_to(lost, raylet, store),
                    None => client.clone().again_soon(move || client.look_for_home(lost)),
                }
            });
        });
    }

    fn another_home(&self, status: &ClusterStatus, lost: ProcessId) -> Option<(Address, Option<StoreClient>)> {
        let mut nodes: Vec<&NodeInfo> = status
            .view
            .nodes
            .iter()
            .filter(|node| node.alive && node.process.id != lost && takes_work(&node.total))
            .collect();
        nodes.sort_by_key(|node| (!node.head, node.node));
        let at = |node: &NodeInfo| Address { process: node.process, mailbox: MailboxId::RAYLET };
        let near = nodes.iter().find_map(|node| {
            let store = StoreClient::connect(self.endpoint(), node.process, &node.store_dir, &node.host_proof).ok()?;
            Some((at(node), Some(store)))
        });
        near.or_else(|| nodes.first().map(|node| (at(node), None)))
    }

    fn move_to(&self, lost: ProcessId, raylet: Address, store: Option<StoreClient>) {
        let before = {
            let mut home = self.0.home.0.write();
            home.0 = raylet;
            store.map(|store| std::mem::replace(&mut home.1, store))
        };
        if let Some(before) = &before {
            before.leave();
        }
        // Not under the lock: it says goodbye.
        drop(before);
        self.0.homeless.store(false, Ordering::Release);
        tracing::info!(raylet = %raylet.process, "another node is asked first from now on");
        for queue in self.task_queues() {
            queue.moves(self, lost);
        }
    }
}
