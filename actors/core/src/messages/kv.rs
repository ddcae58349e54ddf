//! The cluster's key-value table.

use std::collections::BTreeMap;

use mobula_transport::message;
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// A value in the cluster's key-value table.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KvPut {
    /// The namespace.
    pub namespace: String,
    /// The key.
    pub key: String,
    /// The value.
    #[serde(with = "serde_bytes")]
    pub value: Vec<u8>,
    /// Whether an existing value is replaced.
    pub overwrite: bool,
}
message!(KvPut => Result<bool, Error>);

/// The value of a key.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KvGet {
    /// The namespace.
    pub namespace: String,
    /// The key.
    pub key: String,
}
message!(KvGet => Option<serde_bytes::ByteBuf>);

/// Removes a key; true when it was there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KvDelete {
    /// The namespace.
    pub namespace: String,
    /// The key.
    pub key: String,
}
message!(KvDelete => Result<bool, Error>);

/// The keys that start with a prefix, in order.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KvKeys {
    /// The namespace.
    pub namespace: String,
    /// The prefix.
    pub prefix: String,
}
message!(KvKeys => BTreeMap<String, u64>);
