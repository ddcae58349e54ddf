//! What messages and the GCS promise, for fuzzers; see [`mobula_transport::fuzzing`].

use std::collections::BTreeMap;
use std::time::Duration;

use mobula_transport::{Message, ProcessId, fuzzing};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::gcs::{Effect, Gcs, GcsConfig, Reply, Snapshot, Write};
use crate::messages::{
    ClusterEvent, CreateActor, CreateGroup, GetObject, Heartbeat, KvPut, LeaseGranted, PrepareBundles, PushCalls,
    PushTasks, RegisterJob, RegisterNode, StartActor, TaskDone, TaskYielded, WantLeases,
};
use crate::store::messages::{CreateObject, GetObjects};

/// The rest as one of many messages, by the first byte: what can be read can be written, and read again
/// as the same.
pub fn messages(bytes: &[u8]) {
    let Some((kind, envelope)) = bytes.split_first() else { return };
    let all: &[fn(&[u8])] = &[
        message::<PushTasks>,
        message::<TaskDone>,
        message::<PushCalls>,
        message::<StartActor>,
        message::<CreateActor>,
        message::<WantLeases>,
        message::<LeaseGranted>,
        message::<RegisterNode>,
        message::<Heartbeat>,
        message::<ClusterEvent>,
        message::<RegisterJob>,
        message::<CreateGroup>,
        message::<PrepareBundles>,
        message::<GetObject>,
        message::<GetObjects>,
        message::<CreateObject>,
        message::<KvPut>,
        message::<TaskYielded>,
    ];
    all[usize::from(*kind) % all.len()](envelope);
}

fn message<M: Message>(envelope: &[u8]) {
    let Some(read) = fuzzing::open::<M>(envelope) else { return };
    let written = rmp_serde::to_vec(&read).ok();
    let again = written.as_deref().and_then(fuzzing::open::<M>).and_then(|again| rmp_serde::to_vec(&again).ok());
    assert!(written.is_some() && written == again, "{} changes when it is written again", M::NAME);
}

/// What is done to the GCS's table.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Operation {
    /// Namespace, key, value, and whether an older value may go.
    Put(String, String, ByteBuf, bool),
    /// Namespace and key.
    Delete(String, String),
    /// Namespace and key.
    Get(String, String),
    /// Namespace and the beginning of a key.
    Keys(String, String),
    /// The head is killed and started again with what it has stored.
    Restart,
}

/// Operations on the GCS's key-value table, one MessagePack value after the other, against a plain map:
/// every answer is the map's, and a head that is started again has what it has acknowledged.
pub fn gcs(bytes: &[u8]) {
    let config = || GcsConfig::new("fuzz", ProcessId(uuid::Uuid::nil()));
    let mut core = Gcs::restore(config(), Snapshot::default(), Duration::ZERO);
    let mut model: BTreeMap<(String, String), ByteBuf> = BTreeMap::new();
    let mut disk: BTreeMap<(String, String), ByteBuf> = BTreeMap::new();
    let mut rest = bytes;
    let mut asker = 0;
    while let Ok(operation) = rmp_serde::from_read::<_, Operation>(&mut rest) {
        asker += 1;
        let changed = match operation {
            Operation::Put(namespace, key, value, overwrite) => {
                core.kv_put(namespace.clone(), key.clone(), value.clone(), overwrite, asker);
                let slot = (namespace, key);
                let sets = overwrite || !model.contains_key(&slot);
                if sets {
                    model.insert(slot, value);
                }
                Some(sets)
            }
            Operation::Delete(namespace, key) => {
                core.kv_delete(namespace.clone(), key.clone(), asker);
                Some(model.remove(&(namespace, key)).is_some())
            }
            Operation::Get(namespace, key) => {
                let known = core.kv_get(&namespace, &key);
                assert_eq!(known.as_ref(), model.get(&(namespace, key)));
                None
            }
            Operation::Keys(namespace, prefix) => {
                let of = |(ns, key): &(String, String)| *ns == namespace && key.starts_with(&prefix);
                let expected: BTreeMap<String, u64> =
                    model.iter().filter(|(slot, _)| of(slot)).map(|((_, k), v)| (k.clone(), v.len() as u64)).collect();
                assert_eq!(core.kv_keys(&namespace, &prefix), expected);
                None
            }
            Operation::Restart => {
                let kv = disk.iter().map(|((ns, key), value)| (ns.clone(), key.clone(), value.clone())).collect();
                core = Gcs::restore(config(), Snapshot { kv, ..Snapshot::default() }, Duration::ZERO);
                None
            }
        };
        let mut answers = Vec::new();
        for effect in core.take_effects() {
            match effect {
                Effect::Write(Write::Kv { namespace, key, value: Some(value) }) => {
                    disk.insert((namespace, key), value);
                }
                Effect::Write(Write::Kv { namespace, key, value: None }) => {
                    disk.remove(&(namespace, key));
                }
                Effect::Answer(to, Reply::Changed(Ok(changed))) => answers.push((to, changed)),
                _ => {}
            }
        }
        assert_eq!(answers, changed.map(|changed| (asker, changed)).into_iter().collect::<Vec<_>>());
        assert_eq!(disk, model, "what is stored is not what was acknowledged");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn corpus(target: &str, fuzz: impl Fn(&[u8])) {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus").join(target);
        let mut files = 0;
        for file in std::fs::read_dir(&folder).unwrap() {
            fuzz(&std::fs::read(file.unwrap().path()).unwrap());
            files += 1;
        }
        assert!(files > 0, "{} is empty", folder.display());
    }

    #[test]
    fn the_corpus_breaks_no_promise() {
        corpus("messages", messages);
        corpus("gcs", gcs);
    }

    fn operation() -> impl Strategy<Value = Operation> {
        let text = || prop::sample::select(vec!["", "a", "ab", "b", "\u{10ffff}"]).prop_map(str::to_owned);
        prop_oneof![
            4 => (text(), text(), prop::collection::vec(any::<u8>(), 0..9), any::<bool>())
                .prop_map(|(ns, key, value, overwrite)| Operation::Put(ns, key, ByteBuf::from(value), overwrite)),
            2 => (text(), text()).prop_map(|(ns, key)| Operation::Delete(ns, key)),
            2 => (text(), text()).prop_map(|(ns, key)| Operation::Get(ns, key)),
            2 => (text(), text()).prop_map(|(ns, prefix)| Operation::Keys(ns, prefix)),
            1 => Just(Operation::Restart),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]
        #[test]
        fn the_table_is_a_map(operations in prop::collection::vec(operation(), 0..60)) {
            let bytes: Vec<u8> = operations.iter().flat_map(|operation| rmp_serde::to_vec(operation).unwrap()).collect();
            gcs(&bytes);
        }

        #[test]
        fn random_bytes_break_no_promise(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            messages(&bytes);
            gcs(&bytes);
        }
    }
}
