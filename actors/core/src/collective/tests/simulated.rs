//! Rings over the simulated network, under a seed and paused time: connections break while pieces
//! and answers are on their way.

use std::sync::Arc;

use mobula_transport::sim::{SimNetwork, SimOptions};
use mobula_transport::{Endpoint, EndpointConfig, Envelope, Mailbox};

use super::*;
use crate::collective::link::{Inbox, Incoming, Outbox, Outgoing};
use crate::collective::messages::{Lane, SendPiece};
use crate::collective::ring::{Course, Memory, Ring, Seat, apply, even_bounds};

/// Replays one history.
const SEED: &str = "MOBULA_TEST_SEED";
/// Longer than any deadline on the way: what has not ended by then never will.
const EVENTUALLY: Duration = Duration::from_secs(10_000);

/// A mailbox that takes pieces.
struct Receiver(Arc<Inbox>);

impl Mailbox for Receiver {
    fn deliver(&self, envelope: Envelope) {
        let Ok((message, mut request)) = envelope.open::<SendPiece>() else { return };
        let piece = request.take_payload().pop().unwrap_or_default();
        self.0.put(message.number, piece, request.into_replier());
    }
}

/// What a group's thread does, where nothing may block.
async fn member(mut data: Vec<f32>, seat: Seat, mut left: Incoming, mut right: Outgoing) -> Vec<f32> {
    let bounds = even_bounds(data.len(), seat.world);
    let mut memory = Memory::Whole(&mut data);
    for step in Ring::new(seat, Course::Both, &bounds, 8) {
        while (step.send && !right.has_room()) || (step.receive && !left.has_piece()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let len = step.piece.len() * size_of::<f32>();
        let op = ReduceOp::Sum;
        match (step.receive, step.send) {
            (false, _) => right.write(len, |out| apply(&step, op, &mut memory, &[], out)),
            (true, true) => {
                left.read(|piece| right.write(len, |out| apply(&step, op, &mut memory, piece, out)));
            }
            (true, false) => left.read(|piece| apply(&step, op, &mut memory, piece, &mut [])),
        }
    }
    // Until all has arrived: what is on its way is sent again by this process.
    while !right.is_read() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    data
}

async fn history(seed: u64) -> u64 {
    let network = SimNetwork::new(seed, SimOptions::default());
    let random = &mut StdRng::seed_from_u64(seed);
    let world = random.random_range(2..6);
    let endpoints: Vec<Endpoint> = (0..world).map(|_| network.endpoint(EndpointConfig::default()).unwrap()).collect();
    let inboxes: Vec<Arc<Inbox>> = (0..world).map(|_| Arc::default()).collect();
    let mailbox = MailboxId(77);
    for (endpoint, inbox) in endpoints.iter().zip(&inboxes) {
        endpoint.attach(mailbox, Arc::new(Receiver(inbox.clone())));
    }
    let len = random.random_range(0..1500);
    let data: Vec<Vec<f32>> =
        (0..world).map(|_| (0..len).map(|_| random.random_range(0..999) as f32).collect()).collect();
    let sums: Vec<f32> = (0..len).map(|at| data.iter().map(|data| data[at]).sum()).collect();
    let members: Vec<_> = (data.into_iter().enumerate())
        .map(|(rank, data)| {
            let seat = Seat { rank, world };
            let outgoing = Outgoing::messages(Arc::new(Outbox {
                member: std::sync::Weak::new(),
                endpoint: endpoints[rank].clone(),
                lane: Lane::Ring,
                rank: rank as u32,
                to: endpoints[seat.right()].address_of(mailbox),
                to_rank: seat.right() as u32,
                read: Default::default(),
                bell: Default::default(),
            }));
            tokio::spawn(member(data, seat, Incoming::messages(inboxes[rank].clone()), outgoing))
        })
        .collect();
    for _ in 0..random.random_range(0..12) {
        tokio::time::sleep(Duration::from_millis(random.random_range(0..300))).await;
        let rank = random.random_range(0..world);
        network.break_connection(endpoints[rank].process().id, endpoints[(rank + 1) % world].process().id);
    }
    for member in members {
        let sum = tokio::time::timeout(EVENTUALLY, member).await.expect("every call ends").unwrap();
        assert_eq!(sum, sums);
    }
    network.digest()
}

fn run(seed: u64) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(history(seed))
}

#[test]
fn no_piece_is_lost_or_doubled_when_connections_break() {
    let seeds = match std::env::var(SEED) {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (0..60).collect(),
    };
    for seed in seeds {
        let outcome = std::panic::catch_unwind(|| run(seed));
        assert!(outcome.is_ok(), "replay with: {SEED}={seed} cargo test -p mobula-core no_piece_is_lost");
    }
    assert_eq!(run(3), run(3), "the same seed is the same history");
}
