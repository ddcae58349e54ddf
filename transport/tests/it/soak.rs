//! Three processes talk over a network that breaks connections, cuts pairs off and heals them, by
//! seed: in the end everything has arrived, or whoever sent it was told that it may not have. The
//! network is the simulated one, or QUIC over sockets that lose and reorder packets.
//!
//! A failing seed names itself and the command that runs it alone.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use mobula_transport::sim::{LossyNetwork, LossyOptions, SimNetwork, SimOptions};
use mobula_transport::{
    Actor, Address, Endpoint, EndpointConfig, Envelope, Handlers, Mailbox, MailboxId, PeerEvent, ProcessId, Runner,
    SendError, message,
};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::common::*;

const SEEDS: u64 = 200;
/// Over QUIC, whose cryptography takes its time.
const LOSSY_SEEDS: u64 = 20;
/// Runs this seed alone.
const SEED_VARIABLE: &str = "MOBULA_SOAK_SEED";
const PROCESSES: usize = 3;
const STEPS: usize = 120;
/// Long enough for every backoff and every timeout to pass.
const SETTLE: Duration = Duration::from_secs(60);
/// Nothing waits for so long: every failure has a sign of its own.
const NEVER: Duration = Duration::from_secs(3600);
/// Where the numbered messages of one process arrive at another.
const EAR: MailboxId = MailboxId(500);
/// Message `n` is sent in the name of mailbox `RETURNS + n`, which hears if it comes back.
const RETURNS: u64 = 1_000_000;

/// The `n`-th message of process `from`.
#[derive(Serialize, Deserialize, Debug)]
struct Numbered {
    from: usize,
    n: u64,
}
message!(Numbered);

/// Who has received what, in the order of arrival: `(to, from, n)`.
type Arrived = Arc<Mutex<Vec<(usize, usize, u64)>>>;

struct Ear {
    process: usize,
    arrived: Arrived,
}

impl Mailbox for Ear {
    fn deliver(&self, envelope: Envelope) {
        let Ok((Numbered { from, n }, _)) = envelope.open::<Numbered>() else { panic!("only numbers are sent") };
        self.arrived.lock().push((self.process, from, n));
    }
}

/// Hears that a message came back.
struct Return {
    sent: (usize, u64),
    returned: Arc<Mutex<Vec<(usize, u64)>>>,
}

impl Mailbox for Return {
    fn deliver(&self, _: Envelope) {
        self.returned.lock().push(self.sent);
    }
}

/// Answers requests and serves streams. (A probe has timers, which under paused time are most of
/// the work.)
struct Server;

impl Actor for Server {
    const NAME: &'static str = "server";

    fn handlers(table: &mut Handlers<Self>) {
        table.on::<Add>(|_, Add(n), request, _| {
            request.reply(n);
        });
        table.on::<Count>(|_, Count(items), request, ctx| {
            let mut sink = request.into_stream();
            ctx.spawn(async move {
                for item in 0..items {
                    if sink.send(item).await.is_err() {
                        return;
                    }
                }
                sink.end();
            });
        });
    }
}

/// A one-way message that was sent.
struct Sent {
    from: usize,
    to: usize,
    n: u64,
    /// How many events the sender had heard by then.
    events: usize,
}

/// What the processes talk over.
#[derive(Clone)]
enum Net {
    Simulated(SimNetwork),
    Lossy(LossyNetwork),
}

impl Net {
    fn endpoint(&self) -> Endpoint {
        match self {
            Self::Simulated(network) => network.endpoint(EndpointConfig::default()).unwrap(),
            Self::Lossy(network) => network.endpoint(config()).unwrap(),
        }
    }

    /// The connection breaks, or the weather changes: packets get lost, up to half of them.
    fn disturb(&self, a: ProcessId, b: ProcessId, random: &mut StdRng) {
        match self {
            Self::Simulated(network) => network.break_connection(a, b),
            Self::Lossy(network) => {
                let loss = [0.0, 0.02, 0.2, 0.5][random.random_range(0..4)];
                let longest_ms = [1, 10, 80][random.random_range(0..3)];
                let delay = Duration::from_micros(50)..=Duration::from_millis(longest_ms);
                network.set_options(LossyOptions { loss, duplicates: 0.05, delay });
            }
        }
    }

    fn partition(&self, a: ProcessId, b: ProcessId) {
        match self {
            Self::Simulated(network) => network.partition(a, b),
            Self::Lossy(network) => network.partition(a, b),
        }
    }

    fn heal(&self, a: ProcessId, b: ProcessId) {
        match self {
            Self::Simulated(network) => network.heal(a, b),
            Self::Lossy(network) => network.heal(a, b),
        }
    }

    /// Nothing is wrong any more but that a packet gets lost now and then.
    fn calm(&self) {
        if let Self::Lossy(network) = self {
            network.set_options(LossyOptions::default());
        }
    }
}

struct Soak {
    network: Net,
    random: StdRng,
    endpoints: Vec<Endpoint>,
    servers: Vec<Address>,
    events: Vec<Arc<Mutex<Vec<PeerEvent>>>>,
    arrived: Arrived,
    returned: Arc<Mutex<Vec<(usize, u64)>>>,
    sent: Vec<Sent>,
    /// What was asked, by requests and streams; each ends with what it found.
    asked: Vec<tokio::task::JoinHandle<Result<(), String>>>,
}

impl Soak {
    fn new(seed: u64, network: Net) -> Self {
        let endpoints: Vec<Endpoint> = (0..PROCESSES).map(|_| network.endpoint()).collect();
        let (arrived, mut events, mut servers) = (Arrived::default(), Vec::new(), Vec::new());
        for (process, endpoint) in endpoints.iter().enumerate() {
            endpoint.attach(EAR, Arc::new(Ear { process, arrived: arrived.clone() }));
            servers.push(endpoint.spawn(Some(MailboxId::WORKER), Runner::Inline, || Server));
            let heard = Arc::new(Mutex::new(Vec::new()));
            events.push(heard.clone());
            endpoint.watch_peers(move |event| heard.lock().push(event));
        }
        let random = StdRng::seed_from_u64(seed);
        let (returned, sent, asked) = Default::default();
        Self { network, random, endpoints, servers, events, arrived, returned, sent, asked }
    }

    /// Two different processes.
    fn two(&mut self) -> (usize, usize) {
        let from = self.random.random_range(0..PROCESSES);
        (from, (from + self.random.random_range(1..PROCESSES)) % PROCESSES)
    }

    fn tell(&mut self, from: usize, to: usize) {
        let n = self.sent.len() as u64;
        let endpoint = &self.endpoints[from];
        let here = MailboxId(RETURNS + n);
        endpoint.attach(here, Arc::new(Return { sent: (from, n), returned: self.returned.clone() }));
        let events = self.events[from].lock().len();
        self.sent.push(Sent { from, to, n, events });
        endpoint.send(Some(here), self.endpoints[to].address_of(EAR), Numbered { from, n }, vec![]);
    }

    /// Asks for an answer, which must come or fail for a reason.
    fn ask(&mut self, from: usize, to: usize) {
        let answer = self.endpoints[from].request(self.servers[to], Add(1), vec![], NEVER);
        self.asked.push(tokio::spawn(async move {
            match answer.await {
                Ok(_) | Err(SendError::Unreachable { .. }) => Ok(()),
                Err(error) => Err(format!("a request failed: {error}")),
            }
        }));
    }

    /// Reads a stream, which must come whole and in order or fail for a reason.
    fn read(&mut self, from: usize, to: usize) {
        let items = self.random.random_range(0..300);
        let mut stream = self.endpoints[from].open_stream(self.servers[to], Count(items), vec![]);
        self.asked.push(tokio::spawn(async move {
            for expected in 0..items {
                match stream.next().await {
                    Some(Ok((item, _))) if item == expected => {}
                    Some(Err(SendError::Unreachable { .. })) => return Ok(()),
                    other => return Err(format!("item {expected} of {items} was {other:?}")),
                }
            }
            match stream.next().await {
                None | Some(Err(SendError::Unreachable { .. })) => Ok(()),
                other => Err(format!("after the last of {items}: {other:?}")),
            }
        }));
    }

    async fn run(&mut self) {
        for _ in 0..STEPS {
            let (from, to) = self.two();
            let (a, b) = (self.endpoints[from].process().id, self.endpoints[to].process().id);
            match self.random.random_range(0..100) {
                0..50 => {
                    for _ in 0..self.random.random_range(1..60) {
                        self.tell(from, to);
                    }
                }
                50..70 => {
                    for _ in 0..self.random.random_range(1..10) {
                        self.ask(from, to);
                    }
                }
                70..80 => self.read(from, to),
                80..90 => self.network.disturb(a, b, &mut self.random),
                90..95 => self.network.partition(a, b),
                _ => self.network.heal(a, b),
            }
            // Mostly moments, now and then longer than a connection survives in silence.
            let pause_us = match self.random.random_range(0..20) {
                0 => self.random.random_range(0..20_000_000),
                1..5 => self.random.random_range(0..100_000),
                5..12 => self.random.random_range(0..5_000),
                _ => 0,
            };
            tokio::time::sleep(Duration::from_micros(pause_us)).await;
        }
        for a in 0..PROCESSES {
            for b in 0..a {
                self.network.heal(self.endpoints[a].process().id, self.endpoints[b].process().id);
            }
        }
        self.network.calm();
        tokio::time::sleep(SETTLE).await;
    }

    /// Returns how many messages were lost with their senders told, and how many were sent.
    async fn check(&mut self) -> (usize, usize) {
        // What was asked has found its end.
        for asked in std::mem::take(&mut self.asked) {
            assert!(asked.is_finished(), "something still waits");
            asked.await.unwrap().unwrap();
        }
        // The events come in their order.
        for (process, events) in self.events.iter().enumerate() {
            for peer in &self.endpoints {
                well_ordered(process, &events.lock(), peer);
            }
        }
        // Nothing came twice or out of order.
        let arrived = self.arrived.lock().clone();
        for to in 0..PROCESSES {
            for from in 0..PROCESSES {
                let numbers = arrived.iter().filter(|a| (a.0, a.1) == (to, from)).map(|a| a.2);
                assert!(numbers.is_sorted_by(|a, b| a < b), "twice or out of order, from {from} to {to}");
            }
        }
        // Everything has arrived, has come back, or its sender knows that it may be lost.
        let arrived: BTreeSet<_> = arrived.into_iter().collect();
        let returned: BTreeSet<_> = self.returned.lock().iter().copied().collect();
        let mut told = 0;
        for Sent { from, to, n, events } in &self.sent {
            if arrived.contains(&(*to, *from, *n)) || returned.contains(&(*from, *n)) {
                continue;
            }
            let peer = self.endpoints[*to].process().id;
            let warned = self.events[*from].lock()[*events..]
                .iter()
                .any(|event| matches!(event, PeerEvent::Interrupted { process, .. } if *process == peer));
            assert!(warned, "message {n} from {from} to {to} vanished");
            told += 1;
        }
        // And all is well again.
        for from in 0..PROCESSES {
            for to in 0..PROCESSES {
                let answer = self.endpoints[from].request(self.servers[to], Add(1), vec![], NEVER).await;
                assert!(answer.is_ok(), "{from} cannot ask {to}: {answer:?}");
            }
        }
        (told, self.sent.len())
    }
}

/// `( Connected Interrupted )* [ Connected ] Lost`, again and again.
fn well_ordered(process: usize, events: &[PeerEvent], peer: &Endpoint) {
    let peer = peer.process().id;
    let mut up = false;
    for event in events {
        let good = match event {
            PeerEvent::Connected { process } if *process == peer => !std::mem::replace(&mut up, true),
            PeerEvent::Interrupted { process, .. } if *process == peer => std::mem::replace(&mut up, false),
            PeerEvent::Lost { process, .. } if *process == peer => !up,
            PeerEvent::Gone { process, .. } => *process != peer,
            _ => true,
        };
        assert!(good, "process {process} heard {event:?} out of order: {events:#?}");
    }
}

fn soak(seed: u64, network: impl FnOnce(u64) -> Net) -> (usize, usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut soak = Soak::new(seed, network(seed));
        soak.run().await;
        let counts = soak.check().await;
        for endpoint in &soak.endpoints {
            endpoint.shutdown(Duration::ZERO);
        }
        counts
    })
}

fn soak_seeds(seeds: u64, test: &str, network: impl Fn(u64) -> Net) {
    let alone = std::env::var(SEED_VARIABLE).ok().map(|seed| seed.parse().unwrap());
    let seeds = alone.map_or(0..seeds, |seed| seed..seed + 1);
    let (mut told, mut sent) = (0, 0);
    for seed in seeds {
        match catch_unwind(AssertUnwindSafe(|| soak(seed, &network))) {
            Ok((lost, all)) => {
                assert!(lost < all, "seed {seed}: nothing arrived");
                (told, sent) = (told + lost, sent + all);
            }
            Err(panic) => {
                eprintln!("seed {seed} failed; replay it with");
                eprintln!("  {SEED_VARIABLE}={seed} cargo test -p mobula-transport --test it soak::{test}");
                resume_unwind(panic);
            }
        }
    }
    println!("{told} of {sent} messages were lost");
    // One seed may be nothing but bad weather, all of them are not.
    assert!(told < sent / 2, "hardly anything arrived: {told} of {sent} messages were lost");
}

#[test]
fn everything_arrives_or_its_sender_is_told() {
    soak_seeds(SEEDS, "everything_arrives_or_its_sender_is_told", |seed| {
        Net::Simulated(SimNetwork::new(seed, SimOptions::default()))
    });
}

#[test]
fn over_quic_too_everything_arrives_or_its_sender_is_told() {
    soak_seeds(LOSSY_SEEDS, "over_quic_too_everything_arrives_or_its_sender_is_told", |seed| {
        Net::Lossy(LossyNetwork::new(seed, LossyOptions::default()))
    });
}
