//! The key-value table.

use std::collections::BTreeMap;

use serde_bytes::ByteBuf;

use super::state::{Asker, Effect, Gcs, Reply, Write};
use crate::error::Error;

/// The largest value; larger ones belong into the object store.
const MAX_VALUE_BYTES: usize = 8 << 20;
/// How many keys there can be.
const MAX_KEYS: usize = 1_000_000;

impl Gcs {
    /// Sets a value; answers whether it was set.
    pub fn kv_put(&mut self, namespace: String, key: String, value: ByteBuf, overwrite: bool, asker: Asker) {
        let slot = (namespace, key);
        let exists = self.kv.contains_key(&slot);
        let answer = if value.len() > MAX_VALUE_BYTES {
            Err(Error::Invalid {
                what: format!(
                    "the value of key {:?} has {} bytes, {MAX_VALUE_BYTES} are allowed; put large values into the object store",
                    slot.1,
                    value.len()
                ),
            })
        } else if !exists && self.kv.len() >= MAX_KEYS {
            Err(Error::Invalid { what: format!("the cluster holds {MAX_KEYS} keys, which is its limit; delete some") })
        } else if exists && !overwrite {
            Ok(false)
        } else {
            self.emit(Effect::Write(Write::Kv {
                namespace: slot.0.clone(),
                key: slot.1.clone(),
                value: Some(value.clone()),
            }));
            self.kv.insert(slot, value);
            Ok(true)
        };
        self.emit(Effect::Answer(asker, Reply::Changed(answer)));
    }

    /// Removes a key; answers whether it was there.
    pub fn kv_delete(&mut self, namespace: String, key: String, asker: Asker) {
        let slot = (namespace, key);
        let existed = self.kv.remove(&slot).is_some();
        if existed {
            self.emit(Effect::Write(Write::Kv { namespace: slot.0, key: slot.1, value: None }));
        }
        self.emit(Effect::Answer(asker, Reply::Changed(Ok(existed))));
    }

    /// The value of a key.
    pub fn kv_get(&self, namespace: &str, key: &str) -> Option<ByteBuf> {
        self.kv.get(&(namespace.to_owned(), key.to_owned())).cloned()
    }

    /// The keys that start with a prefix, and the sizes of their values.
    pub fn kv_keys(&self, namespace: &str, prefix: &str) -> BTreeMap<String, u64> {
        self.kv
            .range((namespace.to_owned(), prefix.to_owned())..)
            .take_while(|((ns, key), _)| ns == namespace && key.starts_with(prefix))
            .map(|((_, key), value)| (key.clone(), value.len() as u64))
            .collect()
    }
}
