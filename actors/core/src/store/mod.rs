//! A node's objects in shared memory, and pulling them from other nodes.

use std::time::Duration;

use crate::error::Error;
use crate::ids::ObjectId;
use crate::messages::StoredObject;
use crate::value::{Encoding, Value};

/// The way to a node's store. Interim: there is no store yet, so every call says so.
#[derive(Clone, Debug, Default)]
pub struct StoreClient;

fn absent() -> Error {
    Error::System {
        what: "the object store".to_owned(),
        why: "this build has none".to_owned(),
    }
}

impl StoreClient {
    /// Writes an object.
    pub fn put(
        &self,
        _object: ObjectId,
        _encoding: Encoding,
        _parts: &[&[u8]],
    ) -> Result<StoredObject, Error> {
        Err(absent())
    }

    /// Reads an object, from another node if need be.
    pub fn get(
        &self,
        _object: &StoredObject,
        _deadline: Duration,
        then: impl FnOnce(Result<Value, Error>) + Send + 'static,
    ) {
        then(Err(absent()));
    }

    /// Reads an object.
    pub async fn fetch(&self, _object: &StoredObject) -> Result<Value, Error> {
        Err(absent())
    }

    /// Frees objects wherever they lie.
    pub fn free(&self, _objects: &[StoredObject]) {}
}
