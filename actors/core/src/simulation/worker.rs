//! A worker process: runs tasks for a simulated time, hosts actors, and submits what its tasks
//! submit, by the rules of `worker`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use mobula_transport::{Address, MailboxId, ProcessAddr};

use super::client::Client;
use super::message::{Answer, Ask, Body, Input, Outcome, Peer, Run, Then, Timer, Way};
use super::process::{Cx, MS, Out, SECOND};
use super::program::mix;
use super::world::gcs;
use crate::culprit::Culprit;
use crate::error::Error;
use crate::ids::{ActorId, JobId, LeaseId};
use crate::messages::{ActorExited, ClusterEvent, LeaseBlocked, StartActor, StopActor, Subscribe};

const REGISTERED_WITHIN: Duration = Duration::from_secs(30);
const SECOND_LOOK_US: u64 = 50 * MS;
const ARRIVES_WITHIN_US: u64 = 10 * SECOND;
const FOLLOW_AGAIN_US: u64 = 500 * MS;

/// A task or call that waits.
struct Call {
    client: Address,
    run: Run,
}

struct LeaseQueue {
    raylet: Address,
    tasks: VecDeque<Call>,
    active: bool,
    lent: u32,
}

#[derive(Clone, Copy)]
enum Place {
    Lease(LeaseId),
    Actor(ActorId),
}

/// A task or call that runs.
struct Running {
    call: Call,
    place: Place,
    /// Whether the next task of its lease runs when it ends.
    drains: bool,
    /// What it has submitted and waits for.
    waits: Option<Vec<u64>>,
}

/// An actor that lives here.
pub(super) struct Cell {
    pub(super) incarnation: u32,
    calls: VecDeque<Call>,
    busy: bool,
    pub(super) ended: Option<String>,
    failed: bool,
    counter: u64,
}

/// A worker's process.
pub(super) struct Worker {
    pub(super) raylet: Address,
    pub(super) start: u64,
    pub(super) client: Client,
    pub(super) actors: BTreeMap<ActorId, Cell>,
    leases: BTreeMap<LeaseId, LeaseQueue>,
    constructing: BTreeMap<(ActorId, u32), (Option<String>, Way)>,
    running: BTreeMap<u64, Running>,
    next_run: u64,
    cancelled: BTreeSet<(Address, u64, u32)>,
    /// The connection to the raylet broke.
    broken: bool,
}

impl Worker {
    pub(super) fn new(addr: ProcessAddr, raylet: ProcessAddr, start: u64, job: JobId) -> Self {
        let raylet = Address { process: raylet, mailbox: MailboxId::RAYLET };
        Self {
            raylet,
            start,
            client: Client::new(addr, raylet, job),
            leases: BTreeMap::new(),
            actors: BTreeMap::new(),
            constructing: BTreeMap::new(),
            running: BTreeMap::new(),
            next_run: 0,
            cancelled: BTreeSet::new(),
            broken: false,
        }
    }

    pub(super) fn handle(&mut self, input: Input, cx: &mut Cx<'_>) {
        match input {
            Input::Start => {
                follow(cx);
                let register = Ask::RegisterWorker { start: self.start };
                cx.ask(MailboxId::WORKER, self.raylet, register, REGISTERED_WITHIN, Then::Welcomed);
            }
            Input::Answered { then: Then::Welcomed, answer } => {
                if !matches!(answer, Ok(Answer::Welcome(true))) {
                    self.leave("it was not welcome", cx);
                }
            }
            Input::Answered { then: Then::Stream, .. } => cx.after(FOLLOW_AGAIN_US, Timer::SubscribeAgain),
            Input::Timer(Timer::SubscribeAgain) => follow(cx),
            Input::Event(event) => heard(event, cx),
            Input::Timer(Timer::Leave) => self.leave("it was told to stop", cx),
            Input::Timer(Timer::RunEnds(run)) => self.run_ends(run, cx),
            Input::Timer(Timer::Constructed { actor, incarnation }) => self.constructed(actor, incarnation, cx),
            Input::Timer(Timer::LookAgain { client, tasks }) => {
                let missing = self.missing(client, tasks);
                if !missing.is_empty() {
                    cx.send(MailboxId::WORKER, client, Body::Missing(missing));
                }
            }
            Input::Timer(Timer::ForgetCancel { attempt }) => {
                let (client, seq, number) = attempt;
                if self.missing(client, vec![(seq, number)]).is_empty() {
                    cx.after(ARRIVES_WITHIN_US, Timer::ForgetCancel { attempt });
                } else {
                    self.cancelled.remove(&attempt);
                }
            }
            Input::Message { from, body } => {
                if let Some(body) = self.message(from, body, cx) {
                    self.client.handle(Input::Message { from, body }, cx);
                }
            }
            Input::Asked { way, ask, .. } => match ask {
                Ask::StartActor(start) => self.start_actor(&start, way, cx),
                Ask::StopActor(stop) => {
                    self.stop_actor(&stop, cx);
                    cx.answer(way, Answer::Unit);
                }
                other => unreachable!("nobody asks a worker this: {other:?}"),
            },
            Input::Peer(peer) => {
                match &peer {
                    Peer::Gone(process, _) if *process == self.raylet.process.id => {
                        return self.leave("its raylet is gone", cx);
                    }
                    Peer::Interrupted(process) if *process == self.raylet.process.id => self.broken = true,
                    Peer::Connected(process)
                        if *process == self.raylet.process.id && std::mem::take(&mut self.broken) =>
                    {
                        for (lease, queue) in &self.leases {
                            tell_raylet(*lease, queue.raylet, queue.lent > 0, cx);
                        }
                    }
                    _ => {}
                }
                self.client.handle(Input::Peer(peer), cx);
            }
            other => self.client.handle(other, cx),
        }
        self.resume(cx);
    }

    fn leave(&mut self, how: &str, cx: &mut Cx<'_>) {
        cx.out.push(Out::Exit { how: how.to_owned(), culprit: Culprit::Unknown });
    }

    /// Gives back what is the client's.
    fn message(&mut self, from: Address, body: Body, cx: &mut Cx<'_>) -> Option<Body> {
        match body {
            Body::Push { lease, raylet, runs } => {
                let queue = self.leases.entry(lease).or_insert_with(|| LeaseQueue {
                    raylet,
                    tasks: VecDeque::new(),
                    active: false,
                    lent: 0,
                });
                queue.tasks.extend(runs.into_iter().map(|run| Call { client: from, run }));
                self.next_task(lease, cx);
            }
            Body::Reclaim { lease, at_most } => {
                let mut seqs = Vec::new();
                if let Some(queue) = self.leases.get_mut(&lease) {
                    while seqs.len() < at_most as usize && queue.tasks.back().is_some_and(|task| task.client == from) {
                        seqs.extend(queue.tasks.pop_back().map(|task| task.run.seq));
                    }
                }
                seqs.reverse();
                cx.send(MailboxId::WORKER, from, Body::Returned { lease, seqs });
            }
            Body::StillHave(tasks) => {
                let missing = self.missing(from, tasks);
                if !missing.is_empty() {
                    cx.after(SECOND_LOOK_US, Timer::LookAgain { client: from, tasks: missing });
                }
            }
            Body::Cancel { seq, attempt, recursive } => {
                let of = (from, seq, attempt);
                self.cancelled.insert(of);
                let running = |running: &Running| running.call.is(&of);
                match self.running.iter().find(|(_, run)| running(run)).map(|(run, _)| *run) {
                    Some(run) if recursive => self.client.cancel_children(run, cx),
                    Some(_) => {}
                    None => cx.after(ARRIVES_WITHIN_US, Timer::ForgetCancel { attempt: of }),
                }
            }
            Body::PushCalls { actor, incarnation, runs } => self.push_calls(from, actor, incarnation, runs, cx),
            Body::StopWorker => cx.after(10 * MS, Timer::Leave),
            other => return Some(other),
        }
        None
    }

    fn missing(&self, owner: Address, mut asked: Vec<(u64, u32)>) -> Vec<(u64, u32)> {
        let queued = self.leases.values().flat_map(|queue| &queue.tasks);
        let calls = self.actors.values().flat_map(|cell| &cell.calls);
        let running = self.running.values().map(|running| &running.call);
        let all = queued.chain(calls).chain(running).filter(|call| call.client == owner);
        let here: BTreeSet<(u64, u32)> = all.map(|call| (call.run.seq, call.run.attempt)).collect();
        asked.retain(|attempt| !here.contains(attempt));
        asked
    }

    // ---- tasks ----------------------------------------------------------------------------------

    fn next_task(&mut self, lease: LeaseId, cx: &mut Cx<'_>) {
        while let Some(queue) = self.leases.get_mut(&lease).filter(|queue| !queue.active) {
            let Some(call) = queue.tasks.pop_front() else { return };
            if self.cancelled.remove(&call.attempt()) {
                let error = Error::TaskCancelled { function: String::new() };
                tell(&call, Err(error), 0, cx);
                continue;
            }
            queue.active = true;
            cx.record.runs(&call.run.code);
            self.begin(call, Place::Lease(lease), cx);
        }
    }

    fn begin(&mut self, call: Call, place: Place, cx: &mut Cx<'_>) {
        self.next_run += 1;
        cx.after(call.run.code.run_us, Timer::RunEnds(self.next_run));
        self.running.insert(self.next_run, Running { call, place, drains: true, waits: None });
    }

    fn run_ends(&mut self, run: u64, cx: &mut Cx<'_>) {
        let Some(running) = self.running.get_mut(&run) else { return };
        let code = running.call.run.code.clone();
        if let Place::Actor(actor) = running.place {
            return self.call_ends(run, actor, cx);
        }
        if code.crashes >= cx.record.runs_of(code.id) {
            let (owner, seq) = (running.call.client.process.id, running.call.run.seq);
            let culprit = Culprit::Task { owner, seq };
            return cx.out.push(Out::Exit { how: "its task crashed it".to_owned(), culprit });
        }
        if code.children.is_empty() {
            let value = mix(&code, &running.call.run.args, &[]);
            return self.task_ends(run, Ok(value), cx);
        }
        // It submits others and waits for them: its CPU is free meanwhile.
        let children = code.children.iter().map(|child| self.client.submit_child(child, run, cx)).collect();
        if let Some(running) = self.running.get_mut(&run)
            && let Place::Lease(lease) = running.place
        {
            running.waits = Some(children);
            running.drains = false;
            let Some(queue) = self.leases.get_mut(&lease) else { return };
            queue.active = false;
            queue.lent += 1;
            if queue.lent == 1 {
                tell_raylet(lease, queue.raylet, true, cx);
            }
            self.next_task(lease, cx);
        }
    }

    /// Those whose children have all ended go on.
    fn resume(&mut self, cx: &mut Cx<'_>) {
        let settled = |seqs: &Vec<u64>| seqs.iter().all(|seq| self.client.results.contains_key(seq));
        let ready: Vec<u64> = self
            .running
            .iter()
            .filter(|(_, running)| running.waits.as_ref().is_some_and(settled))
            .map(|(run, _)| *run)
            .collect();
        for run in ready {
            let Some(running) = self.running.get_mut(&run) else { continue };
            let children = running.waits.take().unwrap_or_default();
            let results: Result<Vec<u64>, Error> =
                children.iter().filter_map(|seq| self.client.results.get(seq).cloned()).collect();
            let outcome = results.map(|values| mix(&running.call.run.code, &running.call.run.args, &values));
            if let Place::Lease(lease) = running.place
                && let Some(queue) = self.leases.get_mut(&lease)
            {
                queue.lent -= 1;
                running.drains = !queue.active;
                queue.active = true;
                if queue.lent == 0 {
                    tell_raylet(lease, queue.raylet, false, cx);
                }
            }
            self.task_ends(run, outcome, cx);
        }
    }

    fn task_ends(&mut self, run: u64, outcome: Outcome, cx: &mut Cx<'_>) {
        let Some(running) = self.running.remove(&run) else { return };
        self.cancelled.remove(&running.call.attempt());
        let outcome = cx.record.maybe_wrong(outcome);
        tell(&running.call, outcome, running.call.run.code.run_us, cx);
        if let Place::Lease(lease) = running.place
            && running.drains
        {
            if let Some(queue) = self.leases.get_mut(&lease) {
                queue.active = false;
            }
            self.next_task(lease, cx);
        }
    }

    // ---- actors ---------------------------------------------------------------------------------

    fn start_actor(&mut self, start: &StartActor, way: Way, cx: &mut Cx<'_>) {
        let (actor, incarnation) = (start.spec.actor, start.incarnation);
        cx.record.constructs(actor, incarnation);
        self.constructing.insert((actor, incarnation), (None, way));
        let takes_us = 1 + actor.0.as_u128() as u64 % 40 * MS;
        cx.after(takes_us, Timer::Constructed { actor, incarnation });
    }

    fn constructed(&mut self, actor: ActorId, incarnation: u32, cx: &mut Cx<'_>) {
        let Some((stopped, way)) = self.constructing.remove(&(actor, incarnation)) else { return };
        if let Some(why) = stopped {
            return cx.answer(way, Answer::Done(Err(Error::ActorDied { actor, why })));
        }
        let cell = Cell { incarnation, calls: VecDeque::new(), busy: false, ended: None, failed: false, counter: 0 };
        self.actors.insert(actor, cell);
        cx.answer(way, Answer::Done(Ok(())));
    }

    fn stop_actor(&mut self, stop: &StopActor, cx: &mut Cx<'_>) {
        if let Some((stopped, _)) = self.constructing.get_mut(&(stop.actor, stop.incarnation)) {
            stopped.get_or_insert(stop.why.clone());
            return;
        }
        if self.actors.get(&stop.actor).is_some_and(|cell| cell.incarnation == stop.incarnation) {
            self.end_cell(stop.actor, &stop.why, false, cx);
        }
    }

    fn push_calls(&mut self, from: Address, actor: ActorId, incarnation: u32, runs: Vec<Run>, cx: &mut Cx<'_>) {
        for run in runs {
            let call = Call { client: from, run };
            match self.actors.get_mut(&actor).filter(|cell| cell.incarnation == incarnation) {
                Some(cell) if cell.ended.is_none() => cell.calls.push_back(call),
                other => {
                    let why = other.and_then(|cell| cell.ended.clone());
                    let why = why.unwrap_or_else(|| "it does not live in this worker any more".to_owned());
                    tell(&call, Err(Error::ActorDied { actor, why }), 0, cx);
                }
            }
        }
        self.next_call(actor, cx);
    }

    fn next_call(&mut self, actor: ActorId, cx: &mut Cx<'_>) {
        while let Some(cell) = self.actors.get_mut(&actor).filter(|cell| !cell.busy) {
            let Some(call) = cell.calls.pop_front() else {
                if cell.ended.is_some() {
                    self.finish_cell(actor, cx);
                }
                return;
            };
            if self.cancelled.remove(&call.attempt()) {
                tell(&call, Err(Error::TaskCancelled { function: String::new() }), 0, cx);
                continue;
            }
            cell.busy = true;
            self.begin(call, Place::Actor(actor), cx);
        }
    }

    fn call_ends(&mut self, run: u64, actor: ActorId, cx: &mut Cx<'_>) {
        let Some(Running { call, .. }) = self.running.remove(&run) else { return };
        let Some(cell) = self.actors.get_mut(&actor) else { return };
        self.cancelled.remove(&call.attempt());
        cell.busy = false;
        let outcome = if call.run.code.panics {
            let place = Box::default();
            Err(Error::Panicked { place, message: "on purpose".to_owned(), location: String::new() })
        } else {
            cell.counter += call.run.code.amount;
            cx.record.calls((actor, cell.incarnation), call.client.process.id, &call.run, cell.counter);
            if cx.record.runs_twice() {
                cell.counter += call.run.code.amount;
                cx.record.calls((actor, cell.incarnation), call.client.process.id, &call.run, cell.counter);
            }
            Ok(cell.counter)
        };
        if call.run.code.panics {
            self.end_cell(actor, "a call panicked", true, cx);
        }
        tell(&call, outcome, call.run.code.run_us, cx);
        self.next_call(actor, cx);
    }

    fn end_cell(&mut self, actor: ActorId, why: &str, failed: bool, cx: &mut Cx<'_>) {
        let Some(cell) = self.actors.get_mut(&actor).filter(|cell| cell.ended.is_none()) else { return };
        cell.ended = Some(why.to_owned());
        cell.failed = failed;
        for call in std::mem::take(&mut cell.calls) {
            tell(&call, Err(Error::ActorDied { actor, why: why.to_owned() }), 0, cx);
        }
        if !cell.busy && !failed {
            self.finish_cell(actor, cx);
        }
    }

    fn finish_cell(&mut self, actor: ActorId, cx: &mut Cx<'_>) {
        let Some(cell) = self.actors.remove(&actor) else { return };
        let exited = ActorExited {
            actor,
            incarnation: cell.incarnation,
            why: cell.ended.unwrap_or_default(),
            failed: cell.failed,
        };
        cx.insist(MailboxId::WORKER, gcs(), Ask::Exited(exited));
    }

    /// Whether it runs or has anything waiting.
    pub(super) fn is_idle(&self) -> bool {
        self.running.is_empty() && self.leases.values().all(|queue| queue.tasks.is_empty())
    }
}

impl Call {
    fn attempt(&self) -> (Address, u64, u32) {
        (self.client, self.run.seq, self.run.attempt)
    }

    fn is(&self, attempt: &(Address, u64, u32)) -> bool {
        self.attempt() == *attempt
    }
}

fn tell(call: &Call, outcome: Outcome, run_us: u64, cx: &mut Cx<'_>) {
    let Run { seq, attempt, .. } = call.run;
    let done = Body::Done { seq, attempt, outcome, run_us: run_us as u32 };
    cx.send(MailboxId::WORKER, call.client, done);
}

fn tell_raylet(lease: LeaseId, raylet: Address, blocked: bool, cx: &mut Cx<'_>) {
    cx.send(MailboxId::WORKER, raylet, Body::Blocked(LeaseBlocked { lease, blocked }));
}

/// As `node::events`: drivers and workers hear who is dead.
pub(super) fn follow(cx: &mut Cx<'_>) {
    cx.ask(MailboxId::CLIENT, gcs(), Ask::Subscribe(Subscribe::Deaths), REGISTERED_WITHIN, Then::Stream);
}

/// What is made of an event that was followed.
pub(super) fn heard(event: ClusterEvent, cx: &mut Cx<'_>) {
    let (processes, why) = match event {
        ClusterEvent::NodeDied { node, why, processes } => (processes.into_iter().chain([node.process]).collect(), why),
        ClusterEvent::ProcessDied { process, why, culprit } => {
            let to = cx.address(MailboxId::CLIENT);
            cx.send(MailboxId::CLIENT, to, Body::Died { process: process.id, why: why.clone(), culprit });
            (vec![process], why)
        }
        _ => return,
    };
    for process in processes {
        if process.id != cx.me.id {
            cx.out.push(Out::MarkGone { process: process.id, why: why.clone() });
        }
    }
}
