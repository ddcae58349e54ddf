//! Stores of several nodes under a seed, with paused time: partitions, broken connections and
//! crashes while objects are pulled and freed.

use mobula_transport::SendError;
use mobula_transport::sim::{SimNetwork, SimOptions};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;

/// Replays one history and shows what came of it.
const SEED: &str = "MOBULA_TEST_SEED";
const NODES: usize = 5;
const OBJECTS: u64 = 12;
const CAPACITY: usize = 1 << 20;
/// Values that a reader has at once.
const MOST_READ: usize = 12;
/// Longer than any deadline on the way: what has not ended by then never will.
const EVENTUALLY: Duration = Duration::from_secs(1000);

fn size_of(n: u64) -> usize {
    n as usize * 7_001 % 90_000
}

/// A history of some nodes; returns what came of every get, and the network's digest.
async fn history(seed: u64) -> (Vec<String>, u64) {
    let network = SimNetwork::new(seed, SimOptions::default());
    let mut random = StdRng::seed_from_u64(seed);
    let nodes: Vec<Local> =
        (0..NODES).map(|_| Local::with(network.endpoint(EndpointConfig::default()).unwrap(), CAPACITY, true)).collect();
    let ids: Vec<ProcessId> = nodes.iter().map(|node| node.endpoint.process().id).collect();
    let stored: Vec<StoredObject> = (0..OBJECTS)
        .map(|n| {
            let node = &nodes[random.random_range(0..NODES)];
            node.client.put(object(n), Encoding::RAW, &[&pattern(size_of(n), n as u32)]).unwrap()
        })
        .collect();

    let mut gets = Vec::new();
    let mut crashed = None;
    for _ in 0..60 {
        let (a, b) = (random.random_range(0..NODES), random.random_range(0..NODES));
        match random.random_range(0..12) {
            0 if a != b => network.partition(ids[a], ids[b]),
            1 | 2 if a != b => network.heal(ids[a], ids[b]),
            3 if a != b => network.break_connection(ids[a], ids[b]),
            4 if seed.is_multiple_of(4) && crashed.is_none() => {
                network.crash(ids[a]);
                crashed = Some(a);
            }
            _ => {
                let wanted = stored[random.random_range(0..stored.len())].clone();
                let client = nodes[a].client.clone();
                let live = crashed != Some(a);
                gets.push(tokio::spawn(async move {
                    let outcome = tokio::time::timeout(EVENTUALLY, client.fetch(&wanted)).await;
                    let outcome = outcome.expect("every get ends");
                    if let Ok(value) = &outcome {
                        let n = wanted.object.seq;
                        assert!(value.data == pattern(size_of(n), n as u32), "object {n}");
                    }
                    (live, wanted.object.seq, outcome.map(|value| value.len()))
                }));
            }
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(0..2000))).await;
    }
    let mut outcomes = Vec::new();
    for get in gets {
        outcomes.push(format!("{:?}", get.await.unwrap()));
    }

    for a in 0..NODES {
        for b in 0..a {
            network.heal(ids[a], ids[b]);
        }
    }
    let survivors: Vec<&Local> = (0..NODES).filter(|n| Some(*n) != crashed).map(|n| &nodes[n]).collect();
    if let Some(dead) = crashed {
        survivors.iter().for_each(|node| node.store.process_died(ids[dead]));
    }
    // Whoever owned them: all of them are freed, by a node that lives.
    survivors[0].client.free(&stored);
    tokio::time::sleep(EVENTUALLY).await;
    for node in survivors {
        let stats = node.stats();
        // Copies whose source crashed may stay until room is needed; nothing else may.
        let left = block_in_place(node);
        let copies = left.iter().all(|summary| summary.state == ObjectState::Copy && summary.pins == 0);
        assert!(copies && (crashed.is_some() || left.is_empty()), "{left:?}");
        assert!(crashed.is_some() || stats.used_bytes == 0, "{stats:?}");
    }
    (outcomes, network.digest())
}

/// The node's objects: its shards answer in place.
fn block_in_place(node: &Local) -> Vec<crate::store::messages::ObjectSummary> {
    let mut list = Box::pin(node.client.list(1000));
    let waker = std::task::Waker::noop();
    match list.as_mut().poll(&mut std::task::Context::from_waker(waker)) {
        std::task::Poll::Ready(list) => list.unwrap(),
        std::task::Poll::Pending => panic!("the shards of this process did not answer in place"),
    }
}

fn run(seed: u64) -> (Vec<String>, u64) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(history(seed))
}

#[test]
fn every_get_ends_and_everything_comes_back_whatever_the_network_does() {
    if let Some(seed) = std::env::var(SEED).ok().and_then(|seed| seed.parse().ok()) {
        println!("{:#?}", run(seed));
        return;
    }
    for seed in 0..24 {
        let outcome = std::panic::catch_unwind(|| run(seed));
        assert!(outcome.is_ok(), "replay it: {SEED}={seed} cargo test -p mobula-core store::tests::simulated");
    }
}

#[test]
fn one_seed_has_one_history() {
    assert_eq!(run(3), run(3));
}

#[test]
fn idle_memory_decays_within_ten_seconds() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let network = SimNetwork::new(1, SimOptions::default());
        let node = Local::with(network.endpoint(EndpointConfig::default()).unwrap(), 600 * MIB, true);
        let segments = |node: &Local| std::fs::read_dir(node.store.store_dir()).unwrap().count() - 2;
        // Never touched, so reserved but not faulted: this is cheap.
        let small = node.client.create(object(1), Encoding::RAW, 128 * MIB as u64).unwrap();
        let large = node.client.create(object(2), Encoding::RAW, 160 * MIB as u64).unwrap();
        drop(large);
        drop(small);
        assert_eq!((node.stats().idle_bytes, segments(&node)), (288 * MIB as u64, 2));
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(node.stats().idle_bytes, 288 * MIB as u64, "not at once: the next object may want it");
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!((node.stats().idle_bytes, segments(&node)), (128 * MIB as u64, 1), "the oldest goes first");
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(node.stats().idle_bytes, 128 * MIB as u64, "within the bound it stays");
    });
}

/// A source that falls silent in the middle is followed by the next one; without one the get fails
/// and says so. The memory that was reserved is free either way.
#[test]
fn a_pull_that_stalls_goes_on_elsewhere_or_fails() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let network = SimNetwork::new(5, SimOptions::default());
        let node = || Local::with(network.endpoint(EndpointConfig::default()).unwrap(), 64 * MIB, true);
        let (first, second, third) = (node(), node(), node());
        let ids = [&first, &second, &third].map(|node| node.endpoint.process().id);
        let data = pattern(20 * MIB, 1);
        let mut stored = first.client.put(object(1), Encoding::RAW, &[&data]).unwrap();
        second.client.put(object(1), Encoding::RAW, &[&data]).unwrap();
        stored.nodes.push(second.endpoint.process());

        let getting = (third.client.clone(), stored.clone());
        let get = tokio::spawn(async move { getting.0.fetch(&getting.1).await });
        while third.stats().used_bytes == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        network.partition(ids[0], ids[2]);
        assert!(get.await.unwrap().unwrap().data == data);
        assert_eq!(second.stats().served_bytes, data.len() as u64);

        let alone = first.client.put(object(2), Encoding::RAW, &[&data]).unwrap();
        let error = third.client.fetch(&alone).await.unwrap_err();
        assert!(matches!(&error, Error::ObjectLost { why, .. } if why.contains("from ")), "{error}");
        third.client.free(&[stored]);
        tokio::time::sleep(EVENTUALLY).await;
        assert_eq!(third.stats().used_bytes, 0, "{:?}", block_in_place(&third));
    });
}

/// A process of the node reads objects while its connection to the store breaks again and again,
/// with answers and releases on their way; others write over whatever becomes free.
async fn reading(seed: u64) {
    let network = SimNetwork::new(seed, SimOptions::default());
    let mut random = StdRng::seed_from_u64(seed);
    let node = Local::with(network.endpoint(EndpointConfig::default()).unwrap(), 4 << 20, true);
    let reader = network.endpoint(EndpointConfig::default()).unwrap();
    let ids = (node.endpoint.process().id, reader.process().id);
    let store = node.endpoint.process();
    let client = StoreClient::connect(&reader, store, &node.store.store_dir(), &node.store.host_proof()).unwrap();
    let mut read = Vec::new();
    for n in 0..150 {
        let stored = node.client.put(object(n), Encoding::RAW, &[&pattern(size_of(n), n as u32)]).unwrap();
        let getting = (client.clone(), stored.clone());
        let get = tokio::spawn(async move { getting.0.fetch(&getting.1).await });
        if random.random_range(0..3) == 0 {
            network.break_connection(ids.0, ids.1);
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(0..400))).await;
        node.client.free(&[stored]);
        // It may have been freed, or its answer lost, before it came.
        if let Ok(value) = get.await.unwrap() {
            read.push((n, value));
        }
        // Looking at all of them each time takes long.
        if (random.random() || read.len() > MOST_READ) && !read.is_empty() {
            read.swap_remove(random.random_range(0..read.len()));
        }
        if random.random_range(0..8) == 0 {
            tokio::time::sleep(Duration::from_secs(random.random_range(0..30))).await;
        }
        for (n, value) in &read {
            assert!(value.data == pattern(size_of(*n), *n as u32), "object {n} was written over");
        }
    }
    drop(read);
    tokio::time::sleep(EVENTUALLY).await;
    assert_eq!(node.stats().used_bytes, 0, "{:?}", block_in_place(&node));
}

#[test]
fn pins_that_were_lost_with_a_connection_come_back() {
    for seed in 0..20 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let outcome = std::panic::catch_unwind(|| runtime.block_on(reading(seed)));
        assert!(outcome.is_ok(), "seed {seed}");
    }
}

/// A get goes on when the connection to the store of the node breaks under it, again and again, and
/// fails only when the store is out of reach for long.
async fn getting(seed: u64) {
    let network = SimNetwork::new(seed, SimOptions::default());
    let mut random = StdRng::seed_from_u64(seed);
    let node = Local::with(network.endpoint(EndpointConfig::default()).unwrap(), 4 << 20, true);
    let reader = network.endpoint(EndpointConfig::default()).unwrap();
    let (store, ids) = (node.endpoint.process(), (node.endpoint.process().id, reader.process().id));
    let client = StoreClient::connect(&reader, store, &node.store.store_dir(), &node.store.host_proof()).unwrap();
    let fetch = |stored: &StoredObject| {
        let (client, stored) = (client.clone(), stored.clone());
        tokio::spawn(async move { client.fetch(&stored).await })
    };
    for n in 0..40 {
        let stored = node.client.put(object(n), Encoding::RAW, &[&pattern(size_of(n), n as u32)]).unwrap();
        let get = fetch(&stored);
        for _ in 0..random.random_range(1..4) {
            tokio::time::sleep(Duration::from_micros(random.random_range(0..6000))).await;
            network.break_connection(ids.0, ids.1);
        }
        assert!(get.await.unwrap().unwrap().data == pattern(size_of(n), n as u32), "object {n}");
        node.client.free(&[stored]);
    }
    let stored = node.client.put(object(99), Encoding::RAW, &[&pattern(100, 1)]).unwrap();
    network.partition(ids.0, ids.1);
    let get = fetch(&stored);
    tokio::time::sleep(Duration::from_secs(30)).await;
    network.heal(ids.0, ids.1);
    assert!(get.await.unwrap().is_ok());
    network.partition(ids.0, ids.1);
    let other = StoredObject { object: object(100), ..stored };
    let error = tokio::time::timeout(EVENTUALLY, fetch(&other)).await.unwrap().unwrap().unwrap_err();
    assert!(matches!(error, Error::Send(SendError::Unreachable { .. })), "{error}");
}

#[test]
fn a_broken_connection_to_the_store_is_no_end_of_a_get() {
    for seed in 0..20 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let outcome = std::panic::catch_unwind(|| runtime.block_on(getting(seed)));
        assert!(outcome.is_ok(), "seed {seed}");
    }
}

/// The answer to a creation gets lost with the connection: the store is asked again, and the room that
/// was found before is free again.
async fn writing(seed: u64) {
    let network = SimNetwork::new(seed, SimOptions::default());
    let mut random = StdRng::seed_from_u64(seed);
    let node = Local::with(network.endpoint(EndpointConfig::default()).unwrap(), 4 << 20, true);
    let writer = network.endpoint(EndpointConfig::default()).unwrap();
    let (store, ids) = (node.endpoint.process(), (node.endpoint.process().id, writer.process().id));
    let client = StoreClient::connect(&writer, store, &node.store.store_dir(), &node.store.host_proof()).unwrap();
    let mut unheard = 0;
    for n in 0..40 {
        let (tell, mut told) = futures::channel::oneshot::channel();
        client.inner.ask_for_room(object(n), 0, Encoding::RAW, size_of(n) as u64, move |room| {
            tell.send(room).unwrap();
        });
        tokio::time::sleep(Duration::from_micros(random.random_range(0..4000))).await;
        let answered = told.try_recv().unwrap();
        unheard += u32::from(answered.is_none());
        network.break_connection(ids.0, ids.1);
        // A connection that breaks is no reason to have no room: the store is asked again.
        let segment = match answered {
            Some(room) => room.unwrap(),
            None => told.await.unwrap().unwrap(),
        };
        client.inner.tell_shard(&object(n), crate::store::messages::AbortObject { segment });
    }
    assert!(unheard > 0, "every answer came before the connection broke");
    tokio::time::sleep(EVENTUALLY).await;
    assert_eq!(node.stats().used_bytes, 0, "{:?}", block_in_place(&node));
}

#[test]
fn room_whose_answer_was_lost_with_a_connection_comes_back() {
    for seed in 0..20 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let outcome = std::panic::catch_unwind(|| runtime.block_on(writing(seed)));
        assert!(outcome.is_ok(), "seed {seed}");
    }
}
