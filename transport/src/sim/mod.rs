//! The simulated network: endpoints that exchange encoded frames inside one thread, under a seed.
//!
//! [`SimNetwork::endpoint`] makes endpoints like any other, on the current (current-thread)
//! tokio runtime. Between them the network delays every batch by a seeded time, keeping the
//! order per connection, and can be told to [partition](SimNetwork::partition) two processes,
//! [break](SimNetwork::break_connection) a connection, or [crash](SimNetwork::crash) a process.
//! With `start_paused` time a minute of silence costs nothing. Frames, links, reconnecting and
//! deadlines are the same code as over QUIC. [`LossyNetwork`] is the layer below: QUIC itself, over
//! sockets that lose, duplicate and reorder single packets.
//!
//! Actors under [`Runner::Arbiter`](crate::Runner::Arbiter) need [`block_on`] around the test;
//! inline actors do not.

mod bulk;
mod lossy;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

use crate::address::ProcessId;
use crate::config::{EndpointConfig, RuntimeChoice};
use crate::core::Core;
use crate::endpoint::{BindError, Endpoint};
use crate::error::SendError;
use crate::link::Link;
use crate::network::Connection;

pub use lossy::{LossyNetwork, LossyOptions};

/// How many deliveries the trace keeps one by one; the digest covers all of them.
const TRACE_LIMIT: usize = 100_000;
/// The port of every simulated process.
const SIM_PORT: u16 = 4711;

/// How the simulated network behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimOptions {
    /// How long a batch is on its way.
    pub delay: RangeInclusive<Duration>,
}

impl Default for SimOptions {
    fn default() -> Self {
        Self { delay: Duration::from_micros(50)..=Duration::from_millis(5) }
    }
}

/// A network inside one thread; clones are the same network.
#[derive(Clone)]
pub struct SimNetwork(Arc<Sim>);

/// One batch that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SimDelivery {
    /// When, since the network was made.
    pub at: Duration,
    /// The sender.
    pub from: ProcessId,
    /// The receiver.
    pub to: ProcessId,
    /// In which lane.
    pub lane: usize,
    /// How many bytes of frames.
    pub bytes: usize,
}

pub(crate) struct Sim {
    options: SimOptions,
    begun: Instant,
    state: Mutex<State>,
    /// Told when a partition begins or heals.
    changed: Notify,
}

struct State {
    random: StdRng,
    processes: BTreeMap<ProcessId, Process>,
    sockets: BTreeMap<SocketAddr, ProcessId>,
    /// Pairs that cannot hear each other, smaller id first.
    cut: BTreeSet<(ProcessId, ProcessId)>,
    connections: BTreeMap<u64, Weak<SimConnection>>,
    trace: Vec<SimDelivery>,
    digest: u64,
}

struct Process {
    core: Weak<Core>,
    alive: bool,
    /// It disowns the connections of an earlier process under its id, as QUIC does with a key that
    /// the successor knows.
    disowns: bool,
}

/// Runs a simulation on a current-thread runtime, with what actors under
/// [`Runner::Arbiter`](crate::Runner::Arbiter) need around them.
///
/// ```
/// let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
/// assert_eq!(mobula_transport::sim::block_on(runtime, async { 6 * 7 }), 42);
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn block_on<F: Future>(runtime: tokio::runtime::Runtime, future: F) -> F::Output {
    crate::arbiter::block_on(runtime, future)
}

impl SimNetwork {
    /// A network under `seed`; must be made inside the runtime that will run it.
    pub fn new(seed: u64, options: SimOptions) -> Self {
        Self(Arc::new(Sim {
            options,
            begun: Instant::now(),
            state: Mutex::new(State {
                random: StdRng::seed_from_u64(seed),
                processes: BTreeMap::new(),
                sockets: BTreeMap::new(),
                cut: BTreeSet::new(),
                connections: BTreeMap::new(),
                trace: Vec::new(),
                digest: seed,
            }),
            changed: Notify::new(),
        }))
    }

    /// A process on this network. Its id, its seed and its address come from the network's seed
    /// unless `config` names them; `listen` on the address of a dead process takes its place. If it
    /// has the same id and a `secret`, it disowns the connections of the dead one at once.
    pub fn endpoint(&self, config: EndpointConfig) -> Result<Endpoint, BindError> {
        let (process, seed, socket) = {
            let mut state = self.0.state.lock();
            let id = ProcessId(Uuid::from_u128(state.random.random()));
            let seed = state.random.random();
            let host = state.sockets.len() as u32 + 1;
            let free = SocketAddr::from((Ipv4Addr::from(0x0a00_0000 + host), SIM_PORT));
            (config.process.unwrap_or(id), seed, config.listen.unwrap_or(free))
        };
        let config = EndpointConfig {
            process: Some(process),
            seed: config.seed.or(Some(seed)),
            runtime: RuntimeChoice::Current,
            ..config
        };
        let bulk = Arc::new(bulk::SimBulk::new(self.0.clone()));
        let endpoint = Endpoint::over(self.0.clone(), bulk, &config, socket)?;
        let mut state = self.0.state.lock();
        let core = Arc::downgrade(endpoint.core());
        state.processes.insert(process, Process { core, alive: true, disowns: config.secret.is_some() });
        state.sockets.insert(socket, process);
        drop(state);
        self.0.changed.notify_waiters();
        Ok(endpoint)
    }

    /// Nothing passes between `a` and `b` until [`heal`](Self::heal). What is on its way waits;
    /// the connection is lost when the silence lasts for the idle timeout.
    pub fn partition(&self, a: ProcessId, b: ProcessId) {
        self.0.state.lock().cut.insert(pair(a, b));
        self.0.changed.notify_waiters();
        for connection in self.0.connections_between(a, Some(b)) {
            self.0.watch_silence(connection);
        }
    }

    /// Ends a partition.
    pub fn heal(&self, a: ProcessId, b: ProcessId) {
        self.0.state.lock().cut.remove(&pair(a, b));
        self.0.changed.notify_waiters();
    }

    /// Breaks the connection between `a` and `b`, if there is one; what was on its way is lost.
    /// Both notice at once and connect again.
    pub fn break_connection(&self, a: ProcessId, b: ProcessId) {
        for connection in self.0.connections_between(a, Some(b)) {
            connection.end("the connection broke");
        }
    }

    /// The process vanishes without a farewell: its actors end, and the others notice nothing
    /// but its silence.
    pub fn crash(&self, process: ProcessId) {
        let core = {
            let mut state = self.0.state.lock();
            let Some(process) = state.processes.get_mut(&process) else { return };
            process.alive = false;
            process.core.upgrade()
        };
        self.0.changed.notify_waiters();
        for connection in self.0.connections_between(process, None) {
            self.0.watch_silence(connection);
        }
        if let Some(core) = core {
            core.close();
            core.end(Duration::ZERO);
        }
    }

    /// What arrived, in order (the first hundred thousand batches).
    pub fn trace(&self) -> Vec<SimDelivery> {
        self.0.state.lock().trace.clone()
    }

    /// A digest of everything that arrived and when: equal for equal seeds and programs.
    pub fn digest(&self) -> u64 {
        self.0.state.lock().digest
    }
}

impl fmt::Debug for SimNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.state.lock();
        f.debug_struct("SimNetwork")
            .field("processes", &state.processes.len())
            .field("digest", &state.digest)
            .finish_non_exhaustive()
    }
}

impl Sim {
    fn delay(&self) -> Duration {
        self.state.lock().random.random_range(self.options.delay.clone())
    }

    fn nonce(&self) -> u64 {
        self.state.lock().random.random()
    }

    /// Whether `a` and `b` hear each other now.
    fn connected(&self, a: ProcessId, b: ProcessId) -> bool {
        let state = self.state.lock();
        let alive = |id| state.processes.get(id).is_some_and(|process| process.alive);
        alive(&a) && alive(&b) && !state.cut.contains(&pair(a, b))
    }

    /// Whether a connection carries anything now: between the very processes that made it, not
    /// their successors under the same ids.
    fn carries(&self, connection: &SimConnection) -> bool {
        let state = self.state.lock();
        let [a, b] = &connection.ends;
        let alive = |end: &End| {
            state.processes.get(&end.process).is_some_and(|process| process.alive && process.core.ptr_eq(&end.core))
        };
        alive(a) && alive(b) && !state.cut.contains(&pair(a.process, b.process))
    }

    /// Whether one end is a successor of the process that made the connection, and tells the other.
    fn is_disowned(&self, connection: &SimConnection) -> bool {
        let state = self.state.lock();
        let [a, b] = &connection.ends;
        let succeeds = |end: &End| {
            let process = state.processes.get(&end.process);
            process.is_some_and(|process| process.alive && process.disowns && !process.core.ptr_eq(&end.core))
        };
        (succeeds(a) || succeeds(b)) && !state.cut.contains(&pair(a.process, b.process))
    }

    /// The living process that listens at `socket`.
    fn at(&self, socket: SocketAddr) -> Option<Arc<Core>> {
        let state = self.state.lock();
        let process = state.processes.get(state.sockets.get(&socket)?)?;
        if process.alive { process.core.upgrade() } else { None }
    }

    fn core(&self, process: ProcessId) -> Option<Arc<Core>> {
        self.state.lock().processes.get(&process)?.core.upgrade()
    }

    fn connections_between(&self, a: ProcessId, b: Option<ProcessId>) -> Vec<Arc<SimConnection>> {
        let mut state = self.state.lock();
        state.connections.retain(|_, connection| connection.strong_count() > 0);
        state
            .connections
            .values()
            .filter_map(Weak::upgrade)
            .filter(|connection| {
                let ids = [connection.ends[0].process(), connection.ends[1].process()];
                ids.contains(&a) && b.is_none_or(|b| ids.contains(&b))
            })
            .collect()
    }

    /// Ends a connection whose processes do not hear each other for the idle timeout.
    fn watch_silence(self: &Arc<Self>, connection: Arc<SimConnection>) {
        let sim = self.clone();
        tokio::spawn(async move {
            let deadline = Instant::now() + connection.idle_timeout;
            loop {
                let changed = sim.changed.notified();
                if sim.carries(&connection) {
                    return;
                }
                if sim.is_disowned(&connection) {
                    tokio::time::sleep(sim.delay()).await;
                    return connection.end("its process has a successor");
                }
                if tokio::time::timeout_at(deadline, changed).await.is_err() {
                    return connection.end("timed out");
                }
            }
        });
    }

    fn note(&self, delivery: SimDelivery) {
        let mut state = self.state.lock();
        let mut words = Vec::with_capacity(72);
        words.extend(delivery.at.as_nanos().to_le_bytes());
        words.extend(delivery.from.0.as_bytes());
        words.extend(delivery.to.0.as_bytes());
        words.extend((delivery.lane as u64).to_le_bytes());
        words.extend((delivery.bytes as u64).to_le_bytes());
        state.digest = xxhash_rust::xxh3::xxh3_64_with_seed(&words, state.digest);
        if state.trace.len() < TRACE_LIMIT {
            state.trace.push(delivery);
        }
    }
}

/// A connection between two simulated processes.
struct SimConnection {
    sim: Weak<Sim>,
    nonce: u64,
    /// The dialler's end and the accepter's.
    ends: [End; 2],
    idle_timeout: Duration,
    ended: AtomicBool,
    /// Told when the connection ends.
    end: Notify,
}

/// One end: a process and its link to the other one.
struct End {
    core: Weak<Core>,
    link: Arc<Link>,
    process: ProcessId,
}

impl End {
    fn process(&self) -> ProcessId {
        self.process
    }
}

impl SimConnection {
    fn is_over(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Ends the connection; both ends are told once.
    fn end(self: &Arc<Self>, why: &'static str) {
        if self.ended.swap(true, Ordering::AcqRel) {
            return;
        }
        self.end.notify_waiters();
        let connection = self.clone();
        // Not on the caller's stack, which may hold a link's lock.
        tokio::spawn(async move {
            for end in &connection.ends {
                if let Some(core) = end.core.upgrade() {
                    core.link_interrupted(&end.link, connection.nonce, why);
                }
            }
        });
    }

    /// Ends the connection because the process of `leaving` has shut down.
    fn farewell(self: &Arc<Self>, leaving: ProcessId) {
        if self.ended.swap(true, Ordering::AcqRel) {
            return;
        }
        self.end.notify_waiters();
        let Some(sim) = self.sim.upgrade() else { return };
        for end in self.ends.iter().filter(|end| end.process != leaving) {
            let (Some(core), delay) = (end.core.upgrade(), sim.delay()) else { continue };
            tokio::spawn(async move {
                tokio::time::sleep(delay).await;
                core.mark_gone(leaving, "it has shut down".to_owned());
            });
        }
    }
}

/// The handle a link holds of its connection.
struct Handle(Arc<SimConnection>);

impl Connection for Handle {
    fn close(&self) {
        self.0.end("the other side no longer wants the connection");
    }
}

fn pair(a: ProcessId, b: ProcessId) -> (ProcessId, ProcessId) {
    (a.min(b), a.max(b))
}

fn silent(process: ProcessId) -> SendError {
    SendError::Unreachable { process, why: "no answer".into() }
}
