//! QUIC over sockets that lose, duplicate and reorder packets, under paused time. How messages fare
//! over many seeds is told in `soak.rs`.

use std::sync::Arc;
use std::time::Duration;

use mobula_transport::sim::{LossyNetwork, LossyOptions};
use mobula_transport::{Endpoint, MailboxId, PeerEvent, Runner, SendError};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::bulk::{Basket, Shop, fetch, goods};
use crate::common::*;

const SEEDS: u64 = 8;
/// Longer than the transport waits for anything.
const SILENCE: Duration = Duration::from_secs(40);
/// Nothing waits for so long.
const NEVER: Duration = Duration::from_secs(3600);

fn paused<F: Future>(test: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap().block_on(test)
}

fn weather(loss: f64) -> LossyOptions {
    LossyOptions { loss, ..LossyOptions::default() }
}

fn two(seed: u64, loss: f64) -> (LossyNetwork, Endpoint, Endpoint) {
    let network = LossyNetwork::new(seed, weather(loss));
    let endpoint = || network.endpoint(config()).unwrap();
    let (server, client) = (endpoint(), endpoint());
    server.bulk().serve(Arc::new(Shop)).unwrap();
    (network, server, client)
}

/// With one packet in ten lost QUIC hides it: no connection breaks, and all is there, in order.
#[test]
fn lost_packets_are_not_lost_messages() {
    for seed in 0..SEEDS {
        paused(async {
            let (network, server, client) = two(seed, 0.1);
            let probe = server.spawn(Some(MailboxId::WORKER), Runner::Inline, Probe::default);
            let broken = Arc::new(Mutex::new(Vec::new()));
            let heard = broken.clone();
            client.watch_peers(move |event| {
                if !matches!(event, PeerEvent::Connected { .. }) {
                    heard.lock().push(event);
                }
            });
            for n in 0..2000 {
                client.send(None, probe, Note(n), vec![vec![7; 300].into()]);
                if n % 50 == 0 {
                    tokio::time::sleep(Duration::from_millis(3)).await;
                }
            }
            let (notes, _) = client.request(probe, Notes, vec![], NEVER).await.unwrap();
            assert_eq!(notes, (2000, true), "seed {seed}");
            assert_eq!(*broken.lock(), [], "seed {seed}");
            let (carried, lost) = network.carried_and_lost();
            assert!(lost * 30 > carried, "seed {seed}: only {lost} of {carried} packets were lost");
        });
    }
}

/// Objects arrive whole or fail for a reason, whatever the network does, and when it has healed they
/// arrive.
#[test]
fn objects_arrive_whole_or_not_at_all() {
    for seed in 0..SEEDS {
        paused(async {
            let (network, server, client) = two(seed, 0.02);
            let (a, b) = (server.process().id, client.process().id);
            let mut random = StdRng::seed_from_u64(seed);
            let (mut whole, mut failed) = (0, 0);
            for _ in 0..12 {
                let n = random.random_range(0..1_000_000);
                let basket = Arc::new(Mutex::new(Basket::default()));
                let request = format!("goods {n}");
                let fetching = fetch(&client, server.process(), &request, &basket, Duration::from_secs(20));
                let storm = async {
                    tokio::time::sleep(Duration::from_millis(random.random_range(0..300))).await;
                    match random.random_range(0..4) {
                        0 => network.partition(a, b),
                        1 => network.set_options(weather(0.5)),
                        2 => network.set_options(weather(0.2)),
                        _ => network.set_options(weather(0.0)),
                    }
                    tokio::time::sleep(SILENCE).await;
                    network.heal(a, b);
                    network.set_options(weather(0.02));
                };
                let (fetched, ()) = tokio::join!(fetching, storm);
                let basket = basket.lock();
                match fetched {
                    Ok(bytes) => {
                        whole += 1;
                        assert!(bytes == n as u64 && basket.finished && basket.bytes == goods(n), "seed {seed}: {n}");
                    }
                    Err(SendError::Unreachable { .. }) => {
                        failed += 1;
                        assert!(!basket.finished, "seed {seed}: {n} bytes failed and are whole");
                    }
                    Err(error) => panic!("seed {seed}: {error}"),
                }
            }
            assert!(whole > 0 && failed < 12, "seed {seed}: {whole} whole, {failed} failed");
            // A connection that the last storm all but killed may still die of it; who comes after that
            // meets a healthy one.
            tokio::time::sleep(SILENCE).await;
            let basket = Arc::new(Mutex::new(Basket::default()));
            let fetched = fetch(&client, server.process(), "goods 300000", &basket, NEVER).await;
            assert_eq!(fetched, Ok(300_000), "seed {seed}: healed");
            assert!(basket.lock().bytes == goods(300_000));
        });
    }
}

/// Silence for longer than any patience: what waited hears that it may be lost, nothing waits for
/// ever, and afterwards the two talk as ever, with one packet in five lost.
#[test]
fn after_a_long_silence_all_is_well_again() {
    for seed in 0..SEEDS {
        paused(async {
            let (network, server, client) = two(seed, 0.2);
            let probe = server.spawn(Some(MailboxId::WORKER), Runner::Inline, Probe::default);
            let ask = || client.request(probe, Add(1), vec![], NEVER);
            assert!(ask().await.is_ok(), "seed {seed}");
            network.partition(server.process().id, client.process().id);
            let (first, second) = (ask().await, ask().await);
            for unheard in [first, second] {
                assert!(matches!(unheard, Err(SendError::Unreachable { .. })), "seed {seed}: {unheard:?}");
            }
            network.heal(server.process().id, client.process().id);
            tokio::time::sleep(SILENCE).await;
            let (sum, _) = ask().await.unwrap();
            assert!((2..=4).contains(&sum), "seed {seed}: {sum}");
        });
    }
}
