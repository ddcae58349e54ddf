//! Objects on their way between stores.
//!
//! An object travels from shared memory to shared memory: the serving store sends the pinned
//! bytes as they lie there, the pulling one writes them straight into the segment it reserved.

use std::sync::Arc;

use mobula_transport::{Endpoint, ProcessAddr};

use crate::ids::ObjectId;
use crate::store::client::StoreClient;
use crate::store::mapping::Mapping;
use crate::store::pull::Failure;
use crate::store::server::Shared;

/// How an object is fetched from another store.
pub(crate) trait Fetcher: Send + Sync {
    /// Fetches the object from `source` into the arrival's segment and tells `finish`. May block
    /// for as long as it takes to fault the segment's memory in, not for the network.
    fn fetch(&self, source: ProcessAddr, arrival: Arrival, finish: Finish);
}

/// What hears of the end of a fetch.
pub(crate) type Finish = Box<dyn FnOnce(Result<(), Failure>) + Send>;

/// An object that is arriving.
#[derive(Debug)]
pub(crate) struct Arrival {
    object: ObjectId,
    size_bytes: u64,
    mapping: Arc<Mapping>,
}

impl Arrival {
    pub(crate) fn new(object: ObjectId, size_bytes: u64, mapping: Arc<Mapping>) -> Self {
        Self {
            object,
            size_bytes,
            mapping,
        }
    }
}

struct NoNetwork;

impl Fetcher for NoNetwork {
    fn fetch(&self, _: ProcessAddr, arrival: Arrival, finish: Finish) {
        let Arrival {
            object,
            size_bytes,
            mapping,
        } = arrival;
        let why = format!("no bulk transport for {object} ({size_bytes} bytes into {mapping:?})");
        finish(Err(Failure::Source {
            why,
            passing: false,
        }));
    }
}

/// Serves this store's objects to others, and returns the way to fetch theirs.
pub(crate) fn start(_: &Endpoint, _: &StoreClient, _: &Arc<Shared>) -> Arc<dyn Fetcher> {
    Arc::new(NoNetwork)
}
