//! What a simulation has seen, and the rules that hold after every event. The numbers are those of
//! ARCHITECTURE.md, "Invariants".

use std::collections::{BTreeMap, BTreeSet};

use mobula_transport::{Address, ProcessId};
use smallvec::smallvec;

use super::message::{Outcome, Run};
use super::process::Host;
use super::program::{Code, Made, Need, Where, cpus, expected};
use super::scenario::{Sabotage, Scenario};
use super::world::NODES;
use crate::error::Error;
use crate::ids::{ActorId, FunctionId, JobId, NodeId, PlacementGroupId};
use crate::messages::{ActorSpec, CallRules, Shape, Strategy, WorkerKind};
use crate::resources::group;

/// What a run went through.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stats {
    pub(super) seeds: u64,
    pub(super) events: u64,
    pub(super) messages: u64,
    pub(super) lost: u64,
    pub(super) crashes: u64,
    pub(super) breaks: u64,
    pub(super) partitions: u64,
    pub(super) stops: u64,
    pub(super) tasks: u64,
    pub(super) calls: u64,
    pub(super) groups: u64,
    pub(super) failed: u64,
}

impl Stats {
    pub(super) fn add(&mut self, other: &Self) {
        self.seeds += other.seeds;
        self.events += other.events;
        self.messages += other.messages;
        self.lost += other.lost;
        self.crashes += other.crashes;
        self.breaks += other.breaks;
        self.partitions += other.partitions;
        self.stops += other.stops;
        self.tasks += other.tasks;
        self.calls += other.calls;
        self.groups += other.groups;
        self.failed += other.failed;
    }
}

impl std::fmt::Display for Stats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} seeds: {} events, {} messages ({} lost), {} crashes, {} partitions, {} broken connections, {} stops; \
             {} tasks, {} actor calls, {} placement groups awaited; {} of them failed for a reason",
            self.seeds,
            self.events,
            self.messages,
            self.lost,
            self.crashes,
            self.partitions,
            self.breaks,
            self.stops,
            self.tasks,
            self.calls,
            self.groups,
            self.failed
        )
    }
}

/// What an actor's calls did, by its incarnation.
type Executed = BTreeMap<u32, Vec<u64>>;

/// What was seen so far.
pub(super) struct Record {
    pub(super) now_us: u64,
    pub(super) stats: Stats,
    pub(super) violation: Option<String>,
    pub(super) node_ids: [NodeId; NODES],
    pub(super) ended_drivers: BTreeSet<usize>,
    sabotage: Option<Sabotage>,
    spoiled: u64,
    runs: BTreeMap<u64, u32>,
    constructed: BTreeSet<(ActorId, u32)>,
    counters: BTreeMap<(ActorId, u32), u64>,
    executed: BTreeMap<(ProcessId, ActorId), Executed>,
    /// What a call returned when it ran.
    returned: BTreeMap<u64, u64>,
    cancelled: BTreeSet<u64>,
    pub(super) removed: BTreeSet<PlacementGroupId>,
    /// Actors that the programs may end.
    mortal: BTreeSet<ActorId>,
    calm: bool,
}

impl Record {
    pub(super) fn new(scenario: &Scenario) -> Self {
        use super::program::Action;
        let mut record = Self {
            now_us: 0,
            stats: Stats { seeds: 1, ..Stats::default() },
            violation: None,
            node_ids: [NodeId(uuid::Uuid::nil()); NODES],
            ended_drivers: BTreeSet::new(),
            sabotage: scenario.sabotage,
            spoiled: 0,
            runs: BTreeMap::new(),
            constructed: BTreeSet::new(),
            counters: BTreeMap::new(),
            executed: BTreeMap::new(),
            returned: BTreeMap::new(),
            cancelled: BTreeSet::new(),
            removed: BTreeSet::new(),
            mortal: BTreeSet::new(),
            calm: scenario.faults.is_empty(),
        };
        for (_, action) in scenario.programs.iter().flat_map(|program| &program.actions) {
            match action {
                Action::Kill { actor, .. } => drop(record.mortal.insert(*actor)),
                Action::Actor { actor, spec } if spec.need.group.is_some() => drop(record.mortal.insert(*actor)),
                Action::Call { actor, code, .. } if code.panics => drop(record.mortal.insert(*actor)),
                Action::Task { code, .. } if code.crashes > 0 => record.calm = false,
                Action::Remove { group } => drop(record.removed.insert(*group)),
                _ => {}
            }
        }
        record
    }

    /// A rule does not hold. The first one counts.
    pub(super) fn violated(&mut self, what: String) {
        let at = self.now_us;
        self.violation.get_or_insert_with(|| format!("at {at} us: {what}"));
    }

    pub(super) fn driver_ended(&mut self, index: usize) {
        self.ended_drivers.insert(index);
    }

    // ---- what programs mean ---------------------------------------------------------------------

    pub(super) fn shape_of(&self, job: JobId, need: &Need) -> Shape {
        let demand = match need.group {
            Some((group, index)) => group::inside(group, index, &need.demand),
            None => need.demand.clone(),
        };
        let strategy = match need.place {
            Where::Anywhere => Strategy::Default,
            Where::Spread => Strategy::Spread,
            Where::On { machine, soft } => Strategy::NodeAffinity { node: self.node_ids[machine], soft },
        };
        Shape { job, demand, strategy, kind: need.kind, near: None, retriable: true }
    }

    pub(super) fn child_shape(&self, job: JobId) -> Shape {
        let (strategy, kind) = (Strategy::Default, WorkerKind::Shared);
        Shape { job, demand: cpus(0.5), strategy, kind, near: None, retriable: true }
    }

    pub(super) fn spec_of(&self, owner: Address, job: JobId, actor: ActorId, made: &Made) -> ActorSpec {
        let shape = self.shape_of(job, &made.need);
        let placement = Need { demand: cpus(1.0), ..made.need.clone() };
        ActorSpec {
            actor,
            job,
            owner,
            class: "Counter".to_owned(),
            constructor: FunctionId(1),
            args: smallvec![],
            name: None,
            namespace: "sim".to_owned(),
            demand: shape.demand,
            placement_demand: self.shape_of(job, &placement).demand,
            strategy: shape.strategy,
            kind: shape.kind,
            max_concurrency: 1,
            rules: CallRules::default(),
            concurrency_groups: Vec::new(),
            max_restarts: made.max_restarts,
            detached: false,
        }
    }

    pub(super) fn submitted(&mut self, code: &Code) {
        if code.call {
            self.stats.calls += 1;
        } else {
            self.stats.tasks += 1;
        }
    }

    pub(super) fn cancelled(&mut self, code: &Code) {
        self.cancelled.insert(code.id);
        self.cancelled.extend(code.children.iter().map(|child| child.id));
    }

    // ---- rules ----------------------------------------------------------------------------------

    /// A task begins to run.
    pub(super) fn runs(&mut self, code: &Code) {
        *self.runs.entry(code.id).or_default() += 1;
    }

    pub(super) fn runs_of(&self, code: u64) -> u32 {
        self.runs.get(&code).copied().unwrap_or(0)
    }

    /// How often this actor was made before.
    pub(super) fn next_incarnation(&mut self, actor: ActorId) -> u32 {
        let made = self.constructed.range((actor, 0)..=(actor, u32::MAX)).next_back();
        let next = made.map_or(0, |(_, incarnation)| incarnation + 1);
        self.constructed.insert((actor, next));
        next
    }

    pub(super) fn is_calm(&self) -> bool {
        self.calm
    }

    /// I3: an incarnation of an actor is made once.
    pub(super) fn constructs(&mut self, actor: ActorId, incarnation: u32) {
        if !self.constructed.insert((actor, incarnation)) {
            self.violated(format!("I3: incarnation {incarnation} of {actor} is made a second time"));
        }
    }

    /// I4 and I5: a call runs once, and those of a caller in their order.
    pub(super) fn calls(&mut self, of: (ActorId, u32), caller: ProcessId, run: &Run, counter: u64) {
        let (actor, incarnation) = of;
        let sum = self.counters.entry(of).or_default();
        *sum += run.code.amount;
        if *sum != counter {
            let sum = *sum;
            self.violated(format!("I4: the counter of {actor} is {counter}, its calls make {sum}"));
        }
        if self.returned.insert(run.code.id, counter).is_some() {
            self.violated(format!("I4: call {} of {actor} ran twice", run.code.id));
        }
        let executed = self.executed.entry((caller, actor)).or_default();
        let before = executed.range(..=incarnation).filter_map(|(_, seqs)| seqs.last()).max().copied();
        let after = executed.range(incarnation + 1..).filter_map(|(_, seqs)| seqs.first()).min().copied();
        executed.entry(incarnation).or_default().push(run.seq);
        if before.is_some_and(|before| before >= run.seq) || after.is_some_and(|after| after <= run.seq) {
            self.violated(format!(
                "I5: call {} of {actor} by {caller} overtook another: {before:?} {after:?}",
                run.seq
            ));
        }
    }

    /// I2: a result is committed once (the client sees to that) and is what the model says.
    pub(super) fn ends(
        &mut self,
        code: &Code,
        args: &[Option<Outcome>],
        outcome: &Outcome,
        charged: u32,
        max_retries: u32,
    ) {
        match outcome {
            Ok(value) if code.call => {
                if self.returned.get(&code.id) != Some(value) {
                    self.violated(format!("I2: call {} returned {value} and did not run so", code.id));
                }
            }
            Ok(value) => {
                let values: Option<Vec<u64>> = args.iter().map(|arg| arg.clone()?.ok()).collect();
                let right = values.map(|values| expected(code, &values));
                if right != Some(*value) {
                    self.violated(format!("I2: task {} returned {value}, not {right:?}, of {args:?}", code.id));
                }
            }
            Err(error) => {
                self.stats.failed += 1;
                let inherited = args.iter().any(|arg| matches!(arg, Some(Err(of)) if of == error));
                if !inherited && !self.explains(code, error, charged, max_retries) {
                    self.violated(format!("I6: nothing explains why {code:?} failed: {error}"));
                }
            }
        }
    }

    /// I6: whether what went wrong explains an error.
    fn explains(&self, code: &Code, error: &Error, charged: u32, max_retries: u32) -> bool {
        match error {
            Error::TaskCancelled { .. } => {
                self.cancelled.contains(&code.id) || code.children.iter().any(|c| self.cancelled.contains(&c.id))
            }
            Error::WorkerDied { attempts, .. } => !self.calm && charged == *attempts && max_retries + 1 == *attempts,
            Error::GroupRemoved { group, .. } => self.removed.contains(group),
            // Who asks where an actor is has heard before that it was recorded.
            Error::ActorDied { why, .. } if why.contains("nobody has created it") => false,
            Error::ActorDied { actor, .. } => !self.calm || self.mortal.contains(actor),
            Error::ActorUnavailable { .. } => !self.calm,
            Error::Panicked { .. } => code.panics,
            _ => false,
        }
    }

    pub(super) fn group_settled(&mut self, ready: &Result<(), Error>) {
        self.stats.groups += 1;
        match ready {
            Ok(()) => {}
            Err(Error::GroupRemoved { group, .. }) if self.removed.contains(group) => {}
            Err(error) => self.violated(format!("I6: nothing explains why a group is not ready: {error}")),
        }
    }

    /// I1: what is leased and what is free make the total.
    pub(super) fn check_process(&mut self, host: &Host, id: ProcessId) {
        if let Host::Node(node) = host {
            let mut sum = node.core.available().clone();
            sum.add(&node.core.charged());
            if sum != *node.core.total() {
                let (free, out, total) = (node.core.available(), node.core.charged(), node.core.total());
                self.violated(format!("I1: raylet {id} has {free:?} free and {out:?} out of {total:?}"));
            }
        }
    }

    // ---- rules broken on purpose ----------------------------------------------------------------

    fn spoils(&mut self, how: Sabotage, every: u64) -> bool {
        if self.sabotage != Some(how) {
            return false;
        }
        self.spoiled += 1;
        self.spoiled.is_multiple_of(every)
    }

    pub(super) fn loses_return(&mut self) -> bool {
        self.spoils(Sabotage::LoseReturns, 3)
    }

    pub(super) fn maybe_wrong(&mut self, outcome: Outcome) -> Outcome {
        if self.spoils(Sabotage::WrongResults, 5) { outcome.map(|value| value ^ 1) } else { outcome }
    }

    pub(super) fn runs_twice(&mut self) -> bool {
        self.spoils(Sabotage::RunTwice, 3)
    }

    pub(super) fn answers_early(&self) -> bool {
        self.sabotage == Some(Sabotage::AnswerEarly)
    }
}
