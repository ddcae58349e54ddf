//! Objects on their way between stores.
//!
//! An object travels from shared memory to shared memory: the serving store sends the pinned
//! bytes as they lie there, the pulling one writes them straight into the segment it reserved.
//! On both sides the memory is faulted in by a thread of the pool that runs ahead of the network,
//! so that the threads that carry the bytes do not fault.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use mobula_transport::{BulkBody, BulkSink, BulkSource, Endpoint, ProcessAddr, SendError};
use serde::{Deserialize, Serialize};
use smallvec::smallvec;

use crate::error::Error;
use crate::ids::ObjectId;
use crate::messages::StoredObject;
use crate::store::client::{Pin, StoreClient};
use crate::store::mapping::Mapping;
use crate::store::messages::shard_of;
use crate::store::pull::Failure;
use crate::store::server::{Served, Shared};
use crate::value::Encoding;

/// How much of an object is faulted in before its first byte travels; the rest follows meanwhile.
const FAULT_AHEAD_BYTES: usize = 64 << 20;
/// How long a store waits for an object that is still being written before it refuses to serve it.
const SERVE_DEADLINE: Duration = Duration::from_secs(60);
/// A fetch without any progress for this long has failed.
const PROGRESS_DEADLINE: Duration = Duration::from_secs(70);

/// What one store asks another for, MessagePack.
#[derive(Debug, Serialize, Deserialize)]
struct PullRequest {
    object: ObjectId,
}

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
        Self { object, size_bytes, mapping }
    }
}

/// Serves this store's objects to others, and returns the way to fetch theirs.
pub(crate) fn start(
    endpoint: &Endpoint,
    client: &StoreClient,
    shared: &Arc<Shared>,
) -> Result<Arc<dyn Fetcher>, Error> {
    let server = Server { client: client.clone(), shared: shared.clone() };
    endpoint.bulk().serve(Arc::new(server)).map_err(|error| Error::System {
        what: "serving the object store's bytes to other nodes".to_owned(),
        why: error.to_string(),
    })?;
    Ok(Arc::new(BulkFetcher { endpoint: endpoint.clone() }))
}

struct BulkFetcher {
    endpoint: Endpoint,
}

impl Fetcher for BulkFetcher {
    fn fetch(&self, source: ProcessAddr, arrival: Arrival, finish: Finish) {
        let Arrival { object, size_bytes, mapping } = arrival;
        let request = match rmp_serde::to_vec(&PullRequest { object }) {
            Ok(request) => Bytes::from(request),
            Err(error) => {
                let (what, doing) = ("a pull request".to_owned(), "encoded".to_owned());
                let error = Error::Codec { what, doing, why: error.to_string() };
                return finish(Err(Failure::Here(error)));
            }
        };
        mapping.fault_in(FAULT_AHEAD_BYTES);
        let sink = Box::new(Sink { mapping: mapping.clone(), size_bytes, written_bytes: 0 });
        let fetched = self.endpoint.bulk().fetch(source, request, sink, PROGRESS_DEADLINE);
        self.endpoint.spawn_task(async move {
            let result = fetched
                .await
                .map(|_| ())
                .map_err(|error| Failure::Source { passing: error.is_retriable(), why: error.to_string() });
            finish(result);
        });
        mapping.fault_in(mapping.len());
    }
}

/// Writes what arrives into the segment.
struct Sink {
    mapping: Arc<Mapping>,
    size_bytes: u64,
    written_bytes: u64,
}

impl BulkSink for Sink {
    fn begin(&mut self, total_bytes: u64) -> Result<(), SendError> {
        if total_bytes == self.size_bytes {
            return Ok(());
        }
        let why = format!("the object has {total_bytes} bytes there, {} were expected", self.size_bytes);
        Err(SendError::Refused { why })
    }

    fn write(&mut self, chunk: &[u8]) -> Result<(), SendError> {
        let end = self.written_bytes + chunk.len() as u64;
        if end > self.size_bytes {
            let why = format!("more than the {} bytes announced", self.size_bytes);
            return Err(SendError::Refused { why });
        }
        // SAFETY: the segment was reserved for this pull alone and is not in the table yet.
        let room = unsafe { self.mapping.bytes_mut(end as usize) };
        room[self.written_bytes as usize..].copy_from_slice(chunk);
        self.written_bytes = end;
        Ok(())
    }

    fn finish(&mut self) -> Result<(), SendError> {
        if self.written_bytes == self.size_bytes {
            return Ok(());
        }
        let why = format!("{} of {} bytes came", self.written_bytes, self.size_bytes);
        Err(SendError::Refused { why })
    }
}

/// Gives objects to other stores.
struct Server {
    client: StoreClient,
    shared: Arc<Shared>,
}

impl BulkSource for Server {
    fn open(&self, peer: ProcessAddr, request: Bytes) -> BoxFuture<'static, Result<BulkBody, SendError>> {
        let (client, shared) = (self.client.clone(), self.shared.clone());
        Box::pin(async move {
            let PullRequest { object } = rmp_serde::from_slice(&request)
                .map_err(|error| SendError::Undecodable { name: "PullRequest".to_owned(), why: error.to_string() })?;
            // Of this node alone: a store does not pull in order to serve.
            let here =
                StoredObject { object, encoding: Encoding::RAW, size_bytes: 0, nodes: smallvec![client.store()] };
            let pin = client.pin(&here, Some(SERVE_DEADLINE)).await.map_err(refusal)?;
            shared.tell(shard_of(&object), Served { object, peer });
            let size_bytes = pin.size_bytes();
            let body = faulted(&shared, pin).await.map_err(refusal)?;
            shared.served_bytes.fetch_add(size_bytes, Ordering::Relaxed);
            Ok(BulkBody::new(vec![body]))
        })
    }
}

/// The pinned bytes, as soon as the first of them can be read without a fault.
async fn faulted(shared: &Shared, pin: Arc<Pin>) -> Result<Bytes, Error> {
    let (tell, told) = futures::channel::oneshot::channel();
    shared.pool.io().run(move || {
        let value = pin.value();
        let mapping = pin.mapping().cloned();
        let size = pin.size_bytes() as usize;
        drop(pin);
        if let Ok(mapping) = &mapping {
            mapping.fault_in(size.min(FAULT_AHEAD_BYTES));
        }
        // Whoever asked may have gone.
        let _ = tell.send(value);
        if let Ok(mapping) = mapping {
            mapping.fault_in(size);
        }
    });
    let value = told.await.unwrap_or(Err(Error::Send(SendError::Closed)))?;
    Ok(value.data)
}

fn refusal(error: Error) -> SendError {
    match error {
        Error::Send(error) => error,
        Error::TimedOut { after } => SendError::TimedOut { after },
        error => SendError::Refused { why: error.to_string() },
    }
}
