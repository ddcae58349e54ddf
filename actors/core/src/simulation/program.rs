//! What the drivers of a simulation do: random programs whose results a plain function foretells.

use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{Rng, RngExt};
use uuid::Uuid;

use super::process::{MS, SECOND};
use crate::ids::{ActorId, PlacementGroupId};
use crate::messages::{PlacementStrategy, WorkerKind};
use crate::resources::{CPU, Resources};

/// How long a program goes on.
pub(super) const PROGRAM_US: u64 = 14 * SECOND;
/// A resource that only some nodes have.
pub(super) const TOOL: &str = "tool";
/// Machines whose raylets have it.
pub(super) const TOOL_NODES: [usize; 2] = [0, 3];

/// What a task or call does.
#[derive(Debug, Default)]
pub(super) struct Code {
    /// No other has it.
    pub(super) id: u64,
    /// Which function it is: what is learned of its running time is learned for all of them.
    pub(super) function: u64,
    pub(super) run_us: u64,
    /// So many of its runs take their worker down.
    pub(super) crashes: u32,
    /// What it submits and waits for.
    pub(super) children: Vec<Arc<Code>>,
    /// A call of an actor, by which its counter grows.
    pub(super) call: bool,
    pub(super) amount: u64,
    pub(super) panics: bool,
}

/// What a task returns.
pub(super) fn mix(code: &Code, args: &[u64], children: &[u64]) -> u64 {
    let all = args.iter().chain(children);
    all.fold(code.id, |sum, value| (sum.rotate_left(7) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// What a task returns whose children all return what they should.
pub(super) fn expected(code: &Code, args: &[u64]) -> u64 {
    let children: Vec<u64> = code.children.iter().map(|child| expected(child, &[0])).collect();
    mix(code, args, &children)
}

/// Where a task may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Where {
    Anywhere,
    Spread,
    /// On this machine's node, as it is when the task is submitted.
    On {
        machine: usize,
        soft: bool,
    },
}

/// What a task or actor needs.
#[derive(Clone, Debug)]
pub(super) struct Need {
    pub(super) demand: Resources,
    pub(super) place: Where,
    pub(super) kind: WorkerKind,
    pub(super) group: Option<(PlacementGroupId, Option<u32>)>,
}

/// How an actor is made.
#[derive(Clone, Debug)]
pub(super) struct Made {
    pub(super) need: Need,
    pub(super) max_restarts: i32,
}

/// One step of a program.
#[derive(Clone, Debug)]
pub(super) enum Action {
    /// `deps` are earlier tasks and calls, by the number of their step.
    Task {
        code: Arc<Code>,
        deps: Vec<usize>,
        shape: Need,
        retries: u32,
    },
    Actor {
        actor: ActorId,
        spec: Made,
    },
    Call {
        actor: ActorId,
        code: Arc<Code>,
        deps: Vec<usize>,
    },
    Kill {
        actor: ActorId,
        no_restart: bool,
    },
    Cancel {
        of: usize,
    },
    Group {
        group: PlacementGroupId,
        strategy: PlacementStrategy,
        bundles: Vec<Resources>,
    },
    Await {
        group: PlacementGroupId,
    },
    Remove {
        group: PlacementGroupId,
    },
    /// The client forgets the queues that it does not use.
    Forget,
}

/// Steps and when they are taken, in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Program {
    pub(super) actions: Vec<(u64, Action)>,
}

pub(super) fn cpus(amount: f64) -> Resources {
    Resources::new().with(CPU, amount).unwrap_or_default()
}

/// A group that a program has made and not removed.
struct Open {
    group: PlacementGroupId,
    bundles: Vec<Resources>,
    until_us: u64,
}

/// Makes programs.
struct Author<'a> {
    random: &'a mut StdRng,
    /// Names what it makes; no other program has it.
    base: u64,
    made: u64,
    now_us: u64,
    actions: Vec<(u64, Action)>,
    /// Steps with a result.
    results: Vec<usize>,
    actors: Vec<ActorId>,
    groups: Vec<Open>,
}

impl Program {
    /// The program of the driver `index`.
    pub(super) fn random(random: &mut StdRng, index: usize) -> Self {
        let steps = random.random_range(10..45);
        let mut author = Author {
            random,
            base: (index as u64 + 1) << 32,
            made: 0,
            now_us: 0,
            actions: Vec::new(),
            results: Vec::new(),
            actors: Vec::new(),
            groups: Vec::new(),
        };
        for _ in 0..steps {
            author.now_us += author.random.random_range(0..2 * PROGRAM_US / steps);
            author.remove_due();
            author.step();
        }
        author.now_us = author.now_us.max(PROGRAM_US);
        author.groups.iter_mut().for_each(|open| open.until_us = 0);
        author.remove_due();
        Self { actions: author.actions }
    }
}

impl Author<'_> {
    fn one_in(&mut self, n: u32) -> bool {
        self.random.random_range(0..n) == 0
    }

    fn id(&mut self) -> u64 {
        self.made += 1;
        self.base + self.made
    }

    fn uuid(&mut self) -> Uuid {
        Uuid::from_u128(u128::from(self.id()) << 64 | u128::from(self.random.next_u64()))
    }

    fn push(&mut self, action: Action) {
        self.actions.push((self.now_us, action));
    }

    fn remove_due(&mut self) {
        let now_us = self.now_us;
        for open in self.groups.extract_if(.., |open| open.until_us <= now_us).collect::<Vec<_>>() {
            self.push(Action::Remove { group: open.group });
        }
    }

    fn step(&mut self) {
        match self.random.random_range(0..100) {
            0..45 => {
                let many = if self.one_in(6) { self.random.random_range(5..25) } else { 1 };
                let need = self.need();
                for _ in 0..many {
                    self.task(need.clone());
                }
            }
            45..55 => self.actor(),
            55..80 => {
                for _ in 0..self.random.random_range(1..5) {
                    self.call();
                }
            }
            80..84 => {
                if let Some(actor) = self.any_actor() {
                    let no_restart = self.one_in(2);
                    self.push(Action::Kill { actor, no_restart });
                }
            }
            84..89 => {
                if let Some(of) = self.any_result() {
                    self.push(Action::Cancel { of });
                }
            }
            89..97 => self.group(),
            _ => self.push(Action::Forget),
        }
    }

    fn any_result(&mut self) -> Option<usize> {
        let n = self.results.len();
        (n > 0).then(|| self.results[self.random.random_range(n.saturating_sub(8)..n)])
    }

    fn any_actor(&mut self) -> Option<ActorId> {
        let n = self.actors.len();
        (n > 0).then(|| self.actors[self.random.random_range(0..n)])
    }

    fn deps(&mut self) -> Vec<usize> {
        let many = self.random.random_range(0..4_usize).saturating_sub(1);
        (0..many).filter_map(|_| self.any_result()).collect()
    }

    /// Whether it lies in a group, and in which bundle of it.
    fn in_group(&mut self, demand: &Resources) -> Option<(PlacementGroupId, Option<u32>)> {
        if self.groups.is_empty() || !self.one_in(3) {
            return None;
        }
        let open = &self.groups[self.random.random_range(0..self.groups.len())];
        let fitting: Vec<u32> =
            (0..).zip(&open.bundles).filter(|(_, bundle)| bundle.covers(demand)).map(|(index, _)| index).collect();
        let index = *fitting.get(self.random.random_range(0..fitting.len().max(1)))?;
        Some((open.group, self.random.random::<bool>().then_some(index)))
    }

    fn need(&mut self) -> Need {
        let demand = match self.random.random_range(0..10) {
            0..4 => cpus(1.0),
            4..6 => cpus(0.5),
            6 => cpus(2.0),
            7 => cpus(0.1),
            8 => Resources::new(),
            _ => cpus(0.5).with(TOOL, 1.0).unwrap_or_default(),
        };
        let group = self.in_group(&demand);
        let place = match self.random.random_range(0..10) {
            _ if group.is_some() || demand.units(TOOL) > 0.0 => Where::Anywhere,
            0 | 1 => Where::Spread,
            // Only a node that never dies can be insisted on.
            2 => Where::On { machine: 0, soft: false },
            3 => Where::On { machine: self.random.random_range(0..5), soft: true },
            _ => Where::Anywhere,
        };
        let kind = if self.one_in(8) { WorkerKind::Process } else { WorkerKind::Shared };
        Need { demand, place, kind, group }
    }

    fn code(&mut self, run_us: u64) -> Code {
        Code { id: self.id(), function: self.random.random_range(0..4), run_us, ..Code::default() }
    }

    fn task(&mut self, shape: Need) {
        let run_us = match self.random.random_range(0..10) {
            0..5 => self.random.random_range(10..2 * MS),
            5..9 => self.random.random_range(MS..200 * MS),
            _ => self.random.random_range(SECOND / 2..3 * SECOND),
        };
        let mut code = self.code(run_us);
        let mut retries = [0, 1, 3, u32::MAX][self.random.random_range(0..4_usize)];
        if self.one_in(12) {
            code.crashes = self.random.random_range(1..3);
            retries = retries.max(code.crashes);
        } else if self.one_in(8) {
            let many = self.random.random_range(1..5);
            code.children = (0..many)
                .map(|_| {
                    let run_us = self.random.random_range(10..60 * MS);
                    Arc::new(self.code(run_us))
                })
                .collect();
        }
        let deps = self.deps();
        self.results.push(self.actions.len());
        self.push(Action::Task { code: Arc::new(code), deps, shape, retries });
    }

    fn actor(&mut self) {
        let demand = if self.one_in(3) { cpus(0.5) } else { Resources::new() };
        let group = self.in_group(&demand);
        let place = if group.is_none() && self.one_in(4) { Where::Spread } else { Where::Anywhere };
        let kind = if self.one_in(4) { WorkerKind::Process } else { WorkerKind::Shared };
        let max_restarts = [0, 1, -1][self.random.random_range(0..3_usize)];
        let actor = ActorId(self.uuid());
        self.actors.push(actor);
        let need = Need { demand, place, kind, group };
        self.push(Action::Actor { actor, spec: Made { need, max_restarts } });
    }

    fn call(&mut self) {
        let Some(actor) = self.any_actor() else { return };
        let run_us = self.random.random_range(10..30 * MS);
        let mut code = self.code(run_us);
        (code.call, code.amount) = (true, self.random.random_range(1..100));
        code.panics = self.one_in(40);
        let deps = if self.one_in(4) { self.deps() } else { Vec::new() };
        self.results.push(self.actions.len());
        self.push(Action::Call { actor, code: Arc::new(code), deps });
    }

    fn group(&mut self) {
        if self.groups.len() >= 2 {
            return;
        }
        use PlacementStrategy::{Pack, Spread, StrictPack, StrictSpread};
        let strategy = [Pack, Spread, StrictPack, StrictSpread][self.random.random_range(0..4_usize)];
        let many = self.random.random_range(1..4);
        let bundles: Vec<Resources> = (0..many)
            .map(|_| cpus(if strategy == StrictPack { 1.0 } else { f64::from(self.random.random_range(1..3_u8)) }))
            .collect();
        let group = PlacementGroupId(self.uuid());
        self.push(Action::Group { group, strategy, bundles: bundles.clone() });
        if self.one_in(2) {
            self.push(Action::Await { group });
        }
        let until_us = self.now_us + self.random.random_range(0..8 * SECOND);
        self.groups.push(Open { group, bundles, until_us });
    }
}
