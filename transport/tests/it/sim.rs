//! The simulated network under paused time: the same endpoints, by seed.

use std::sync::Arc;
use std::time::Duration;

use mobula_transport::sim::{self, SimNetwork, SimOptions};
use mobula_transport::{Address, Endpoint, EndpointConfig, MailboxId, Message, PeerEvent, Runner, SendError};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::bulk::{Basket, Shop, fetch, goods};
use crate::common::*;

/// Runs `test` under paused time.
fn paused<F: Future>(test: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap().block_on(test)
}

fn two(seed: u64) -> (SimNetwork, Endpoint, Endpoint, Address) {
    let network = SimNetwork::new(seed, SimOptions::default());
    let server = network.endpoint(EndpointConfig::default()).unwrap();
    let client = network.endpoint(EndpointConfig::default()).unwrap();
    let probe = server.spawn(Some(MailboxId::WORKER), Runner::Inline, Probe::default);
    (network, server, client, probe)
}

async fn ask<M: Message>(from: &Endpoint, to: Address, message: M) -> Result<M::Reply, SendError> {
    from.request(to, message, vec![], LONG).await.map(|(reply, _)| reply)
}

/// Five processes that all talk to each other, with a broken connection in the middle.
async fn story(seed: u64) -> (u64, Vec<u64>) {
    let network = SimNetwork::new(seed, SimOptions::default());
    let endpoints: Vec<Endpoint> = (0..5).map(|_| network.endpoint(EndpointConfig::default()).unwrap()).collect();
    let probes: Vec<Address> = endpoints
        .iter()
        .map(|endpoint| endpoint.spawn(Some(MailboxId::WORKER), Runner::Inline, Probe::default))
        .collect();
    let mut outcomes = Vec::new();
    for round in 0..20 {
        let mut asked = Vec::new();
        for endpoint in &endpoints {
            for probe in &probes {
                asked.push(endpoint.request(*probe, Add(round), vec![], LONG));
            }
        }
        if round == 10 {
            network.break_connection(endpoints[0].process().id, endpoints[1].process().id);
        }
        for future in asked {
            outcomes.push(match future.await {
                Ok((sum, _)) => sum as u64,
                Err(SendError::Unreachable { .. }) => u64::MAX,
                Err(error) => panic!("{error}"),
            });
        }
    }
    (network.digest(), outcomes)
}

#[test]
fn the_same_seed_tells_the_same_story() {
    for seed in 0..10 {
        let first = paused(story(seed));
        assert_eq!(first, paused(story(seed)), "seed {seed}");
        assert_ne!(first.0, paused(story(seed + 100)).0, "seed {seed}");
    }
}

#[test]
fn one_way_messages_keep_their_order_and_cross_encoded() {
    paused(async {
        let (network, server, client, probe) = two(1);
        for n in 0..1000 {
            client.send(None, probe, Note(n), vec![]);
            if n % 10 == 0 {
                tokio::time::sleep(Duration::from_micros(300)).await;
            }
        }
        assert_eq!(ask(&client, probe, Notes).await, Ok((1000, true)));
        assert_eq!(server.metrics().messages_in, 1001);
        assert!(network.trace().len() > 50);
    });
}

#[test]
fn a_partition_makes_unreachable_and_healing_recovers() {
    paused(async {
        let (network, server, client, probe) = two(2);
        let events = Arc::new(Mutex::new(Vec::new()));
        let log = events.clone();
        client.watch_peers(move |event| log.lock().push(event));
        assert_eq!(ask(&client, probe, Add(1)).await, Ok(1));
        let (a, b) = (client.process().id, server.process().id);
        // A short silence is only a delay.
        network.partition(a, b);
        let waiting = client.request(probe, Add(1), vec![], LONG);
        tokio::time::sleep(Duration::from_secs(3)).await;
        network.heal(a, b);
        assert_eq!(waiting.await.unwrap().0, 2);
        assert_eq!(events.lock().len(), 1, "connected once");
        // A long one is the end of the connection, and then of hope.
        network.partition(a, b);
        let begun = Instant::now();
        let error = ask(&client, probe, Add(1)).await.unwrap_err();
        assert!(matches!(error, SendError::Unreachable { .. }), "{error}");
        assert_eq!(begun.elapsed().as_secs(), 10, "the idle timeout");
        while !matches!(events.lock().last(), Some(PeerEvent::Lost { .. })) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(matches!(events.lock()[1], PeerEvent::Interrupted { .. }));
        assert!((14..17).contains(&begun.elapsed().as_secs()), "the backoff window");
        network.heal(a, b);
        // Whether the lost request was carried out nobody knows; here it was not.
        assert_eq!(ask(&client, probe, Add(1)).await, Ok(3));
    });
}

#[test]
fn who_was_declared_dead_behind_a_partition_learns_it_when_that_heals() {
    paused(async {
        let (network, server, client, probe) = two(7);
        assert_eq!(ask(&client, probe, Add(1)).await, Ok(1));
        let (a, b) = (server.process().id, client.process().id);
        network.partition(a, b);
        server.mark_gone(b, "no heartbeat".into());
        assert!(matches!(ask(&client, probe, Add(1)).await, Err(SendError::Unreachable { .. })));
        network.heal(a, b);
        let error = ask(&client, probe, Add(1)).await.unwrap_err();
        assert!(matches!(&error, SendError::Gone { why, .. } if why.contains("no heartbeat")), "{error}");
    });
}

#[test]
fn undelivered_messages_return_over_the_network() {
    paused(async {
        let (network, server, client, probe) = two(3);
        let here = client.spawn(None, Runner::Inline, Probe::default);
        // The process lives, the actor does not exist.
        ask(&client, here, Forward(server.address_of(MailboxId(77)), 1)).await.unwrap();
        ask(&client, probe, Add(1)).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let bounced = ask(&client, here, Bounced).await.unwrap();
        assert_eq!(bounced.len(), 1);
        assert_eq!((bounced[0].to.mailbox, bounced[0].error.clone()), (MailboxId(77), SendError::NoSuchActor));
        // The process is dead.
        network.crash(server.process().id);
        ask(&client, here, Forward(probe, 1)).await.unwrap();
        tokio::time::sleep(Duration::from_secs(60)).await;
        // Sent over a connection that looked alive, it may have arrived for all anyone knows;
        // what is sent after that comes back.
        ask(&client, here, Forward(probe, 2)).await.unwrap();
        tokio::time::sleep(Duration::from_secs(60)).await;
        let bounced = ask(&client, here, Bounced).await.unwrap();
        assert!(matches!(bounced.last().unwrap().error, SendError::Unreachable { .. }));
    });
}

#[test]
fn a_successor_at_the_same_address_makes_the_crashed_process_gone() {
    paused(async {
        let (network, server, client, probe) = two(4);
        assert_eq!(ask(&client, probe, Add(1)).await, Ok(1));
        let waiting = client.request(probe, Sleep, vec![], LONG);
        network.crash(server.process().id);
        let listen = Some(server.process().socket);
        let heir = network.endpoint(EndpointConfig { listen, ..Default::default() }).unwrap();
        let there = heir.spawn(Some(MailboxId::WORKER), Runner::Inline, Probe::default);
        assert!(matches!(waiting.await, Err(SendError::Unreachable { .. })));
        assert!(matches!(ask(&client, probe, Add(1)).await, Err(SendError::Gone { .. })));
        assert_eq!(ask(&client, there, Add(5)).await, Ok(5));
        assert_eq!(client.discover(heir.process().socket, LONG).await, Ok(heir.process()));
    });
}

/// A process that comes back under its id connects before anybody has missed it: whoever talked
/// to its predecessor hears that messages may be lost, and only then of the new connection.
#[test]
fn a_replaced_connection_is_an_interruption() {
    paused(async {
        let (network, server, client, probe) = two(8);
        let events = Arc::new(Mutex::new(Vec::new()));
        let log = events.clone();
        client.watch_peers(move |event| log.lock().push(event));
        assert_eq!(ask(&client, probe, Add(1)).await, Ok(1));
        let here = client.spawn(Some(MailboxId::WORKER), Runner::Inline, Probe::default);
        let waiting = client.request(probe, Sleep, vec![], LONG);
        let process = server.process();
        network.crash(process.id);
        let config = EndpointConfig { process: Some(process.id), listen: Some(process.socket), ..Default::default() };
        let heir = network.endpoint(config).unwrap();
        assert_eq!(ask(&heir, here, Add(1)).await, Ok(1));
        assert!(matches!(waiting.await, Err(SendError::Unreachable { .. })));
        let connected = PeerEvent::Connected { process: process.id };
        let [first, PeerEvent::Interrupted { .. }, second] = &events.lock()[..] else {
            panic!("{:?}", events.lock());
        };
        assert_eq!((first, second), (&connected, &connected));
    });
}

/// With a secret that outlives the process, its successor disowns old connections at the first word
/// on them: nobody has to wait for a silence to last.
#[test]
fn a_successor_with_the_secret_ends_the_old_connections() {
    paused(async {
        let (network, server, client, probe) = two(9);
        assert_eq!(ask(&client, probe, Add(1)).await, Ok(1));
        let waiting = client.request(probe, Sleep, vec![], LONG);
        let process = server.process();
        network.crash(process.id);
        let secret = Some(mobula_transport::Secret("of both".to_owned()));
        let (process, listen) = (Some(process.id), Some(process.socket));
        let heir = network.endpoint(EndpointConfig { process, listen, secret, ..Default::default() }).unwrap();
        heir.spawn(Some(MailboxId::WORKER), Runner::Inline, Probe::default);
        let restarted = tokio::time::Instant::now();
        assert!(matches!(waiting.await, Err(SendError::Unreachable { .. })));
        assert!(restarted.elapsed() < Duration::from_secs(1), "{:?}", restarted.elapsed());
        assert_eq!(ask(&client, probe, Add(2)).await, Ok(2));
    });
}

#[test]
fn a_shut_down_process_says_farewell() {
    paused(async {
        let (_network, server, client, probe) = two(5);
        assert_eq!(ask(&client, probe, Add(1)).await, Ok(1));
        server.shutdown(Duration::ZERO);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(matches!(ask(&client, probe, Add(1)).await, Err(SendError::Gone { .. })));
    });
}

#[test]
fn bulk_and_streams_cross_the_simulation() {
    paused(async {
        let (network, server, client, probe) = two(6);
        server.bulk().serve(Arc::new(Shop)).unwrap();
        let basket = Arc::new(Mutex::new(Basket::default()));
        let from = server.process();
        assert_eq!(fetch(&client, from, "goods 5000000", &basket, LONG).await, Ok(5_000_000));
        assert_eq!(basket.lock().bytes, goods(5_000_000));
        let mut stream = client.open_stream(probe, Count(500), vec![]);
        for n in 0..500 {
            assert_eq!(stream.next().await.unwrap().unwrap().0, n);
        }
        assert_eq!(stream.next().await, None);
        network.partition(client.process().id, from.id);
        let cut = fetch(&client, from, "goods 1", &basket, Duration::from_secs(3)).await;
        assert!(matches!(cut, Err(SendError::Unreachable { .. })), "{cut:?}");
    });
}

/// Actix actors on the simulation's own thread, under the same paused clock.
#[test]
fn arbiter_actors_run_inside_the_simulation() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    sim::block_on(runtime, async {
        let network = SimNetwork::new(7, SimOptions::default());
        let server = network.endpoint(EndpointConfig::default()).unwrap();
        let client = network.endpoint(EndpointConfig::default()).unwrap();
        let probe = server.spawn(None, Runner::Arbiter, Probe::default);
        let begun = Instant::now();
        assert_eq!(ask(&client, probe, Add(1)).await, Ok(1));
        tokio::time::sleep(Duration::from_secs(60)).await;
        let (once, often) = ask(&client, probe, Ticks).await.unwrap();
        assert_eq!(once, 1);
        assert!((5_900..=6_010).contains(&often), "{often}");
        assert!(begun.elapsed() >= Duration::from_secs(60));
    });
}
