//! What the object stores of the cluster hold.

use mobula_core::client::Client;
use mobula_core::messages::NodeInfo;
use mobula_core::store::messages::{GetStoreStats, ListObjects, ObjectSummary, STORE_SHARD_BASE, STORE_SHARDS};
use mobula_transport::{Address, MailboxId, Payload};

use crate::gate::wait_until;

/// More objects than any scenario has.
const LIMIT: u32 = 1_000;
/// How long a store may take to list them.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

/// The objects in the stores of all living nodes.
pub(crate) fn objects() -> Vec<ObjectSummary> {
    let client = Client::current().expect("the driver has a session");
    let nodes = client.status().expect("the cluster answers").view.nodes;
    let mut all = Vec::new();
    for node in nodes.iter().filter(|node| node.alive) {
        for shard in 0..STORE_SHARDS {
            let store = Address { process: node.process, mailbox: MailboxId(STORE_SHARD_BASE.0 + shard) };
            let listed =
                client.endpoint().request_blocking(store, ListObjects { limit: LIMIT }, Payload::new(), PATIENCE);
            all.extend(listed.expect("the store answers").0);
        }
    }
    all
}

/// How many bytes the stores of all living nodes have taken from others so far.
pub(crate) fn pulled_bytes() -> u64 {
    let client = Client::current().expect("the driver has a session");
    let nodes = client.status().expect("the cluster answers").view.nodes;
    let pulled = |node: &NodeInfo| {
        let store = Address { process: node.process, mailbox: MailboxId::STORE };
        let stats = client.endpoint().request_blocking(store, GetStoreStats, Payload::new(), PATIENCE);
        stats.expect("the store answers").0.pulled_bytes
    };
    nodes.iter().filter(|node| node.alive).map(pulled).sum()
}

/// Waits until no store has an object any more.
pub(crate) fn wait_until_empty() {
    let mut left = Vec::new();
    // Not `wait_until` alone: what is left tells more than that something is.
    let empty = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        wait_until("empty stores", || {
            left = objects();
            left.is_empty()
        });
    }));
    assert!(empty.is_ok(), "these objects are still there: {left:?}");
}
