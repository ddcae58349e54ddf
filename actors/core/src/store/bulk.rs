//! Objects on their way between stores.
//!
//! An object travels from shared memory to shared memory: the serving store sends the pinned
//! bytes as they lie there, the pulling one writes them straight into the segment it reserved.
//! On both sides a thread of the pool faults the memory in and runs ahead of the network, so that
//! the threads that carry the bytes do not fault (for the receiving side see
//! [`arrival`](super::arrival)).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use mobula_transport::{BulkBody, BulkSink, BulkSource, Endpoint, Payload, ProcessAddr, ProcessId, SendError};
use serde::{Deserialize, Serialize};
use smallvec::smallvec;

use crate::error::Error;
use crate::ids::ObjectId;
use crate::messages::StoredObject;
use crate::store::arrival::Arrival;
use crate::store::client::{Pin, StoreClient};
use crate::store::messages::shard_address;
use crate::store::pull::{Ask, Failure};
use crate::store::server::{ServeObject, Shared, ToServe};
use crate::value::Encoding;

/// How much of an object is faulted in before its first byte is sent; the rest follows meanwhile.
const FAULT_AHEAD_BYTES: usize = 64 << 20;
/// How long a store waits for an object that is still being written before it refuses to serve it.
const SERVE_DEADLINE: Duration = Duration::from_secs(60);
/// A fetch without any progress for this long has failed.
const PROGRESS_DEADLINE: Duration = Duration::from_secs(70);
/// How long a store waits for an object that it is pulling itself before it refuses to pass it on. Its
/// own pull has deadlines.
const RELAY_DEADLINE: Duration = Duration::from_secs(300);
/// A fetch from such a store without any progress for this long has failed.
const RELAY_PROGRESS_DEADLINE: Duration = Duration::from_secs(310);
/// How long a shard may take to say how an object is served.
const ASK_DEADLINE: Duration = Duration::from_secs(10);

/// What one store asks another for, MessagePack.
#[derive(Debug, Serialize, Deserialize)]
struct PullRequest {
    object: ObjectId,
    /// Who was to give it instead, and did not.
    failed: Vec<ProcessId>,
}

/// How an object is fetched from another store.
pub(crate) trait Fetcher: Send + Sync {
    /// Fetches the object from whom `ask` names into the arrival's segment and tells `finish`; does
    /// not wait for it.
    fn fetch(&self, ask: &Ask, arrival: Arc<Arrival>, finish: Finish);
}

/// What hears of the end of a fetch.
pub(crate) type Finish = Box<dyn FnOnce(Result<(), Failure>) + Send>;

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
    fn fetch(&self, ask: &Ask, arrival: Arc<Arrival>, finish: Finish) {
        let request = PullRequest { object: arrival.object, failed: ask.failed.clone() };
        let request = match rmp_serde::to_vec(&request) {
            Ok(request) => Bytes::from(request),
            Err(error) => {
                let (what, doing) = ("a pull request".to_owned(), "encoded".to_owned());
                let error = Error::Codec { what, doing, why: error.to_string() };
                return finish(Err(Failure::Here(error)));
            }
        };
        let sink = Box::new(Sink { arrival, written_bytes: 0 });
        let deadline = if ask.relay { RELAY_PROGRESS_DEADLINE } else { PROGRESS_DEADLINE };
        let fetched = self.endpoint.bulk().fetch(ask.process, request, sink, deadline);
        self.endpoint.spawn_task(async move {
            let result = fetched.await.map(|_| ()).map_err(|error| match error {
                SendError::Elsewhere { process } => Failure::Elsewhere(process),
                error => Failure::Source { passing: error.is_retriable(), why: error.to_string() },
            });
            finish(result);
        });
    }
}

/// Writes what arrives into the segment. The transport sees to it that as many bytes come as were
/// announced.
struct Sink {
    arrival: Arc<Arrival>,
    written_bytes: u64,
}

impl BulkSink for Sink {
    fn begin(&mut self, total_bytes: u64) -> Result<(), SendError> {
        let expected = self.arrival.size_bytes;
        if total_bytes == expected {
            return Ok(());
        }
        let why = format!("the object has {total_bytes} bytes there, {expected} were expected");
        Err(SendError::Refused { why })
    }

    fn write(&mut self, chunk: &[u8]) -> Result<(), SendError> {
        let written = self.arrival.write(self.written_bytes, chunk);
        written.map_err(|error| SendError::Refused { why: error.to_string() })?;
        self.written_bytes += chunk.len() as u64;
        Ok(())
    }

    fn finish(&mut self) -> Result<(), SendError> {
        Ok(())
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
            let PullRequest { object, failed } = rmp_serde::from_slice(&request)
                .map_err(|error| SendError::Undecodable { name: "PullRequest".to_owned(), why: error.to_string() })?;
            let shard = shard_address(client.store(), &object);
            let asked = ServeObject { object, peer, failed };
            let (to_serve, _) = shared.endpoint.request(shard, asked, Payload::new(), ASK_DEADLINE).await?;
            let deadline = match to_serve {
                ToServe::Now => SERVE_DEADLINE,
                ToServe::WhenPulled => RELAY_DEADLINE,
                ToServe::Elsewhere(process) => return Err(SendError::Elsewhere { process }),
            };
            // Of this node alone: a store does not pull in order to serve.
            let here =
                StoredObject { object, encoding: Encoding::RAW, size_bytes: 0, nodes: smallvec![client.store()] };
            let pin = client.pin(&here, Some(deadline)).await.map_err(refusal)?;
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
