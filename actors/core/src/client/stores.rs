//! What the object stores of the cluster say of themselves.

use std::time::Duration;

use mobula_transport::{Address, MailboxId, Payload};

use super::Client;
use crate::error::Error;
use crate::store::messages::{GetStoreStats, StoreStats};

/// How long a store may take to answer; one that does not is left out.
const STORE_PATIENCE: Duration = Duration::from_secs(2);

impl Client {
    /// What the object stores of all living nodes hold and have done. A store that does not answer
    /// is left out.
    ///
    /// # Errors
    /// The failure to reach the GCS.
    pub fn store_stats(&self) -> Result<Vec<StoreStats>, Error> {
        let nodes = self.status()?.view.nodes;
        let ask = |process| {
            let store = Address { process, mailbox: MailboxId::STORE };
            self.endpoint().request_blocking(store, GetStoreStats, Payload::new(), STORE_PATIENCE)
        };
        let alive = nodes.iter().filter(|node| node.alive);
        Ok(alive.filter_map(|node| ask(node.process).ok()).map(|(stats, _)| stats).collect())
    }
}
