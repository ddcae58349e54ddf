//! The world: processes on machines, a clock that jumps from event to event, and faults.

use std::collections::{BTreeMap, BTreeSet};

use mobula_transport::{Address, MailboxId, ProcessAddr, ProcessId, SendError};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use uuid::Uuid;

use super::client::Driver;
use super::faults::Fault;
use super::head::{Disk, Head};
use super::message::{Answer, Input, Timer, Way};
use super::network::{Frame, Link};
use super::node::Node;
use super::process::{Cx, Host, MS, Out, Process, SECOND};
use super::record::Record;
use super::scenario::Scenario;
use super::worker::Worker;
use crate::culprit::Culprit;
use crate::ids::NodeId;

/// How many nodes there are, on a machine each.
pub(super) const NODES: usize = 5;
/// The machine of the head.
pub(super) const HEAD: usize = NODES;
/// The head keeps its id over restarts.
pub(super) const HEAD_PROCESS: u128 = 1;

/// Numbered so that what is printed of an id tells it from others.
pub(super) fn process(n: u128) -> ProcessAddr {
    ProcessAddr { id: ProcessId(Uuid::from_u128(n << 96)), socket: ProcessAddr::IN_PROCESS }
}

fn number(id: ProcessId) -> u128 {
    id.0.as_u128() >> 96
}

pub(super) fn gcs() -> Address {
    Address { process: process(HEAD_PROCESS), mailbox: MailboxId::GCS }
}

/// What happens next.
#[derive(Debug)]
pub(super) enum Event {
    Input { process: ProcessId, generation: u64, input: Input },
    Arrive { from: ProcessAddr, to: ProcessId, connection: u64, frame: Frame },
    Notice { at: ProcessId, peer: ProcessId, connection: u64 },
    Attempt { at: ProcessId, peer: ProcessId, round: u64 },
    GiveUp { at: ProcessId, peer: ProcessId, round: u64 },
    Silent { a: ProcessId, b: ProcessId, connection: u64 },
    Overdue { process: ProcessId, generation: u64, id: u64 },
    Fault(Fault),
    Spawn { node: ProcessId, start: u64, worker: u128 },
    Heal { a: usize, b: usize },
    GoOn { process: ProcessId, generation: u64 },
    HeadStarts,
    NodeStarts(usize),
}

/// The whole simulation.
pub(super) struct World {
    pub(super) now_us: u64,
    pub(super) random: StdRng,
    pub(super) delay_us: u64,
    pub(super) processes: BTreeMap<ProcessId, Process>,
    pub(super) links: BTreeMap<(ProcessId, ProcessId), Link>,
    pub(super) record: Record,
    pub(super) next_connection: u64,
    pub(super) next_round: u64,
    pub(super) next_ask: u64,
    pub(super) totals: Vec<crate::resources::Resources>,
    /// The process of each machine's raylet.
    pub(super) raylets: [Option<ProcessAddr>; NODES],
    events: BTreeMap<(u64, u64), Event>,
    next_event: u64,
    next_generation: u64,
    next_process: u128,
    /// Pairs of machines that do not hear each other, and how many faults keep them apart.
    apart: BTreeMap<(usize, usize), u32>,
    /// What the head has stored, while it is down.
    disk: Option<Disk>,
    /// The worker process of each start of a raylet, and starts that were given up.
    children: BTreeMap<(ProcessId, u64), ProcessId>,
    aborted: BTreeSet<(ProcessId, u64)>,
    trace: bool,
}

impl World {
    pub(super) fn new(scenario: &Scenario, trace: bool) -> Self {
        let mut world = Self {
            now_us: 0,
            random: StdRng::seed_from_u64(scenario.seed ^ 0x5eed_0fa1),
            delay_us: scenario.delay_us,
            processes: BTreeMap::new(),
            links: BTreeMap::new(),
            record: Record::new(scenario),
            next_connection: 0,
            next_round: 0,
            next_ask: 0,
            totals: scenario.totals.clone(),
            raylets: [None; NODES],
            events: BTreeMap::new(),
            next_event: 0,
            next_generation: 0,
            next_process: 1_000,
            apart: BTreeMap::new(),
            disk: Some(Disk::default()),
            children: BTreeMap::new(),
            aborted: BTreeSet::new(),
            trace,
        };
        world.start_head();
        for n in 0..NODES {
            world.start_node(n);
        }
        // The cluster stands when the programs begin.
        while world.now_us < SECOND && world.step() {}
        for (n, program) in scenario.programs.iter().enumerate() {
            let addr = process(100 + n as u128);
            let home = world.raylets[n].unwrap_or(addr);
            let driver = Driver::new(addr, home, n, program.clone());
            world.spawn(addr, n, Host::Driver(Box::new(driver)));
        }
        for (at_us, fault) in &scenario.faults {
            world.at(*at_us, Event::Fault(fault.clone()));
        }
        world
    }

    pub(super) fn at(&mut self, after_us: u64, event: Event) {
        self.next_event += 1;
        self.events.insert((self.now_us + after_us, self.next_event), event);
    }

    /// Something happens to a process, after what happens now.
    pub(super) fn input_soon(&mut self, process: ProcessId, input: Input) {
        self.input_after(0, process, input);
    }

    fn input_after(&mut self, us: u64, process: ProcessId, input: Input) {
        if let Some(generation) = self.processes.get(&process).map(|process| process.generation) {
            self.at(us, Event::Input { process, generation, input });
        }
    }

    fn spawn(&mut self, addr: ProcessAddr, machine: usize, host: Host) {
        self.next_generation += 1;
        let process = Process {
            addr,
            machine,
            generation: self.next_generation,
            host,
            stopped: None,
            gone: BTreeSet::new(),
            asking: BTreeMap::new(),
        };
        self.processes.insert(addr.id, process);
        self.input_soon(addr.id, Input::Start);
    }

    fn new_process(&mut self) -> ProcessAddr {
        self.next_process += 1;
        process(self.next_process)
    }

    fn start_head(&mut self) {
        let Some(disk) = self.disk.take() else { return };
        let head = Head::new(disk, self.now_us);
        self.spawn(process(HEAD_PROCESS), HEAD, Host::Head(Box::new(head)));
    }

    fn start_node(&mut self, n: usize) {
        if self.raylets[n].is_some() {
            return;
        }
        let addr = self.new_process();
        let node = Node::new(addr, NodeId(addr.id.0), n, self.totals[n].clone(), self.now_us);
        self.raylets[n] = Some(addr);
        self.record.node_ids[n] = node.id;
        self.spawn(addr, n, Host::Node(Box::new(node)));
    }

    /// The next event. False when there is none.
    pub(super) fn step(&mut self) -> bool {
        let Some(((at_us, _), event)) = self.events.pop_first() else { return false };
        self.now_us = at_us;
        self.record.stats.events += 1;
        self.record.now_us = at_us;
        match event {
            Event::Input { process, generation, input } => {
                if self.processes.get(&process).is_some_and(|process| process.generation == generation) {
                    self.input(process, input);
                }
            }
            Event::Arrive { from, to, connection, frame } => self.arrive(from, to, connection, frame),
            Event::Notice { at, peer, connection } => self.notice(at, peer, connection),
            Event::Attempt { at, peer, round } => self.attempt(at, peer, round),
            Event::GiveUp { at, peer, round } => self.give_up(at, peer, round),
            Event::Silent { a, b, connection } => self.silent(a, b, connection),
            Event::Overdue { process, generation, id } => {
                if self.processes.get(&process).is_some_and(|process| process.generation == generation) {
                    self.fail_asking(process, id, SendError::TimedOut { after: std::time::Duration::ZERO });
                }
            }
            Event::Fault(fault) => self.inflict(fault),
            Event::Spawn { node, start, worker } => self.spawn_worker(node, start, process(worker)),
            Event::Heal { a, b } => self.heal(a, b),
            Event::GoOn { process, generation } => self.go_on(process, generation),
            Event::HeadStarts => self.start_head(),
            Event::NodeStarts(n) => self.start_node(n),
        }
        true
    }

    /// Something happens to a process now.
    pub(super) fn input(&mut self, id: ProcessId, input: Input) {
        let Some(process) = self.processes.get_mut(&id) else { return };
        if let Some(held) = &mut process.stopped {
            return held.push(input);
        }
        if self.trace {
            let name = process.host.name();
            println!("{:>10} {name} {:x}: {input:?}", self.now_us, number(id));
        }
        let addr = process.addr;
        let mut cx =
            Cx { now_us: self.now_us, me: addr, random: &mut self.random, record: &mut self.record, out: Vec::new() };
        process.host.handle(input, &mut cx);
        let out = cx.out;
        self.record.check_process(&process.host, addr.id);
        for out in out {
            self.carry_out(addr, out);
        }
    }

    fn carry_out(&mut self, me: ProcessAddr, out: Out) {
        let address = |mailbox| Address { process: me, mailbox };
        match out {
            Out::Send { from, to, body } => {
                self.send_frame(me, to.process, Frame::OneWay { from: address(from), to, body });
            }
            Out::Ask { from, to, ask, within, then } => {
                self.ask_frame(address(from), to, ask, within.as_micros() as u64, then);
            }
            Out::Answer { way, answer } => self.answer(me, way, answer),
            Out::Event { way, event } => self.send_frame(me, way.asker, Frame::Event { id: way.id, event }),
            Out::After { us, timer } => self.input_after(us, me.id, Input::Timer(timer)),
            Out::MarkGone { process, why } => self.mark_gone(me.id, process, why),
            Out::Launch { start } => self.launch(me.id, start),
            Out::Kill { start } => {
                self.aborted.insert((me.id, start));
                if let Some(worker) = self.children.get(&(me.id, start)).copied() {
                    self.kill(worker, "killed by its raylet", Culprit::Unknown);
                }
            }
            Out::Exit { how, culprit } => self.kill(me.id, &how, culprit),
        }
    }

    fn answer(&mut self, me: ProcessAddr, way: Way, answer: Result<Answer, SendError>) {
        self.send_frame(me, way.asker, Frame::Answer { id: way.id, lane: way.lane, answer });
    }

    fn launch(&mut self, node: ProcessId, start: u64) {
        let after = self.random.random_range(5 * MS..400 * MS);
        if self.random.random_range(0..40) == 0 {
            return self.input_after(after, node, Input::LaunchFailed { start });
        }
        let worker = number(self.new_process().id);
        self.at(after, Event::Spawn { node, start, worker });
    }

    fn spawn_worker(&mut self, node: ProcessId, start: u64, addr: ProcessAddr) {
        let Some(Process { host: Host::Node(raylet), machine, .. }) = self.processes.get(&node) else { return };
        let (Some(job), machine) = (raylet.job_of(start), *machine) else { return };
        if self.aborted.contains(&(node, start)) {
            return;
        }
        let worker = Worker::new(addr, process(number(node)), start, job);
        self.children.insert((node, start), addr.id);
        self.spawn(addr, machine, Host::Worker(Box::new(worker)));
    }

    /// A process dies. The workers of a raylet die with it.
    pub(super) fn kill(&mut self, id: ProcessId, how: &str, culprit: Culprit) {
        let Some(process) = self.processes.remove(&id) else { return };
        if self.trace {
            println!("{:>10} {} {:x} dies: {how}", self.now_us, process.host.name(), number(id));
        }
        self.forget_links(id);
        match process.host {
            Host::Head(head) => {
                let late = self.random.random_range(0..3);
                self.disk = Some(head.crash(late));
                let after = self.random.random_range(100 * MS..6 * SECOND);
                self.at(after, Event::HeadStarts);
            }
            Host::Node(node) => {
                let own = (id, 0)..(id, u64::MAX);
                let workers: Vec<ProcessId> = self.children.range(own).map(|(_, worker)| *worker).collect();
                for worker in workers {
                    self.kill(worker, "its raylet died", Culprit::Unknown);
                }
                self.raylets[node.machine] = None;
                let after = self.random.random_range(500 * MS..8 * SECOND);
                self.at(after, Event::NodeStarts(node.machine));
            }
            Host::Worker(worker) => {
                let (raylet, start) = (worker.raylet.process.id, worker.start);
                self.children.remove(&(raylet, start));
                let after = self.random.random_range(0..20 * MS);
                self.input_after(after, raylet, Input::Exited { start, how: how.to_owned(), culprit });
            }
            Host::Driver(driver) => self.record.driver_ended(driver.index),
        }
    }

    // ---- machines that do not hear each other, processes that stop ------------------------------

    pub(super) fn are_apart(&self, a: ProcessId, b: ProcessId) -> bool {
        let machine = |id| self.processes.get(&id).map(|process| process.machine);
        match (machine(a), machine(b)) {
            (Some(a), Some(b)) => self.apart.contains_key(&(a.min(b), a.max(b))),
            _ => false,
        }
    }

    pub(super) fn part(&mut self, a: usize, b: usize, for_us: u64) {
        *self.apart.entry((a.min(b), a.max(b))).or_default() += 1;
        self.at(for_us, Event::Heal { a, b });
        let between: Vec<(ProcessId, ProcessId)> = self.links.keys().copied().collect();
        for (one, other) in between {
            if self.are_apart(one, other) {
                self.watch_silence(one, other);
            }
        }
    }

    fn heal(&mut self, a: usize, b: usize) {
        let key = (a.min(b), a.max(b));
        if let Some(count) = self.apart.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.apart.remove(&key);
                self.release_held();
            }
        }
    }

    pub(super) fn stop(&mut self, id: ProcessId, for_us: u64) {
        let Some(process) = self.processes.get_mut(&id).filter(|process| process.stopped.is_none()) else { return };
        process.stopped = Some(Vec::new());
        let generation = process.generation;
        self.at(for_us, Event::GoOn { process: id, generation });
        for peer in self.links_of(id) {
            self.watch_silence(id, peer);
        }
    }

    fn go_on(&mut self, id: ProcessId, generation: u64) {
        let Some(process) = self.processes.get_mut(&id).filter(|process| process.generation == generation) else {
            return;
        };
        for input in process.stopped.take().unwrap_or_default() {
            self.input(id, input);
        }
    }

    // ---- what the checks and the faults look for ------------------------------------------------

    /// The raylets that live, with their machine.
    pub(super) fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.processes.values().filter_map(|process| match &process.host {
            Host::Node(node) => Some(&**node),
            _ => None,
        })
    }

    pub(super) fn workers(&self) -> impl Iterator<Item = &Worker> {
        self.processes.values().filter_map(|process| match &process.host {
            Host::Worker(worker) => Some(&**worker),
            _ => None,
        })
    }

    pub(super) fn drivers(&self) -> impl Iterator<Item = &Driver> {
        self.processes.values().filter_map(|process| match &process.host {
            Host::Driver(driver) => Some(&**driver),
            _ => None,
        })
    }

    pub(super) fn head(&self) -> Option<&Head> {
        match self.processes.get(&process(HEAD_PROCESS).id).map(|process| &process.host) {
            Some(Host::Head(head)) => Some(head),
            _ => None,
        }
    }

    /// Lets a driver do something.
    pub(super) fn timer(&mut self, process: ProcessId, timer: Timer) {
        self.input_soon(process, Input::Timer(timer));
    }
}
