//! A driver: a real client that carries out a program on a thread of its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mobula_transport::{Address, Endpoint, MailboxId, Payload, ProcessAddr};
use parking_lot::Mutex;
use rand::RngExt;
use smallvec::{SmallVec, smallvec};
use tokio::time::Instant;

use super::cluster::Cluster;
use super::functions::{COUNT, COUNTER, TASK, constructor_args, function, number, read, words};
use crate::client::{ActorHandle, ActorOptions, Arg, Client, ClientSetup, InGroup, ObjectHandle, TaskOptions};
use crate::delivery::insist;
use crate::error::Error;
use crate::ids::{ActorId, JobId, PlacementGroupId};
use crate::messages::{Cancel, FinishJob, JobEnv, KillActor, RegisterJob, Strategy};
use crate::node::played::{follow, heartbeats};
use crate::registry::Registry;
use crate::resources::Resources;
use crate::simulation::message::Outcome;
use crate::simulation::program::{Action, Code, Need, Program, Where, cpus};
use crate::simulation::stage::{Life, Stage};
use crate::store::StoreClient;

/// How long the head may take to take a job in.
const REGISTERED_WITHIN: Duration = Duration::from_secs(10);
/// The pause before it is asked again, and between looks at what others do.
const AGAIN_AFTER: Duration = Duration::from_millis(500);
/// Larger than what travels in messages.
const PUT_EVERY: u64 = 7;

/// How far a driver is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Connecting,
    /// It carries out this action of so many.
    Acting(usize, usize),
    /// It waits for what this action makes.
    Awaiting(usize),
    /// It has heard of everything and holds its handles.
    Done,
    /// It has let go of everything.
    Free,
    /// Its job is finished, or it was killed, or the head has ended its job.
    Over,
}

/// A driver as others see it.
#[derive(Clone)]
pub(super) struct Driver {
    pub(super) index: usize,
    /// Its process.
    pub(super) process: ProcessAddr,
    phase: Arc<Mutex<Phase>>,
    /// What it is asked to come to: to be free, to be over.
    goal: Arc<Mutex<Phase>>,
    life: Life,
}

impl Driver {
    pub(super) fn start(cluster: &Cluster, index: usize, program: Program) -> Self {
        let endpoint = cluster.endpoint(index);
        let life = Life::of(endpoint.process().id);
        let driver = Self {
            index,
            process: endpoint.process(),
            phase: Arc::new(Mutex::new(Phase::Connecting)),
            goal: Arc::new(Mutex::new(Phase::Done)),
            life: life.clone(),
        };
        let (own, cluster, stage) = (driver.clone(), cluster.clone(), cluster.stage().of(life));
        let on = stage.clone();
        on.perform(move || Running::connect(own, cluster, stage, endpoint).run(program));
        driver
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase.lock().clone()
    }

    /// Whether it has come so far, or is over.
    pub(super) fn is(&self, phase: &Phase) -> bool {
        let now = self.phase();
        now == *phase || now == Phase::Over
    }

    pub(super) fn go_to(&self, phase: Phase) {
        *self.goal.lock() = phase;
    }

    pub(super) fn kill(&self, cluster: &Cluster) {
        if self.phase() == Phase::Over {
            return;
        }
        self.over(cluster);
        if let Some(process) = self.life.process() {
            cluster.crash(process, &self.life);
        }
    }

    fn over(&self, cluster: &Cluster) {
        *self.phase.lock() = Phase::Over;
        cluster.record().lock().driver_ended(self.index);
    }
}

/// A driver on its own thread.
struct Running {
    driver: Driver,
    cluster: Cluster,
    stage: Stage,
    endpoint: Endpoint,
    client: Client,
    job: JobId,
    /// What the actions have made, by their numbers.
    results: BTreeMap<usize, ObjectHandle>,
    /// Large values that were given to tasks.
    puts: BTreeMap<usize, u64>,
    actors: BTreeMap<ActorId, ActorHandle>,
    groups: BTreeMap<PlacementGroupId, (PlacementGroupId, Arc<[Resources]>)>,
}

impl Running {
    fn connect(driver: Driver, cluster: Cluster, stage: Stage, endpoint: Endpoint) -> Self {
        let gcs = cluster.gcs();
        let request = RegisterJob {
            driver: endpoint.process(),
            name: format!("driver{}", driver.index),
            binary: None,
            digest: Registry::global().expect("no function is registered twice").digest(),
            namespace: None,
            env: JobEnv::default(),
        };
        let job = loop {
            let asked = endpoint.request(gcs, request.clone(), Payload::new(), REGISTERED_WITHIN);
            match stage.block_on(asked) {
                Ok((Ok(registered), _)) => break registered.job,
                _ => stage.sleep(AGAIN_AFTER),
            }
        };
        heartbeats(&endpoint, gcs, job);
        follow(&endpoint, gcs);
        let (node, store) = loop {
            let node = cluster.node(driver.index);
            let store = node
                .as_ref()
                .map(|node| StoreClient::connect(&endpoint, node.process, &node.store_dir, &node.host_proof));
            match (node, store) {
                (Some(node), Some(Ok(store))) => break (node, store),
                _ => stage.sleep(AGAIN_AFTER),
            }
        };
        let client = Client::start(ClientSetup {
            endpoint: endpoint.clone(),
            gcs,
            raylet: Address { process: node.process, mailbox: MailboxId::RAYLET },
            store,
            job,
            namespace: job.to_string(),
            binary: None,
            output: None,
        });
        Self {
            driver,
            cluster,
            stage,
            endpoint,
            client,
            job,
            results: BTreeMap::new(),
            puts: BTreeMap::new(),
            actors: BTreeMap::new(),
            groups: BTreeMap::new(),
        }
    }

    fn run(mut self, program: Program) {
        let begun = Instant::now();
        for (n, (at_us, action)) in program.actions.iter().enumerate() {
            self.comes_to(Phase::Acting(n, program.actions.len()));
            let at = begun + Duration::from_micros(*at_us);
            self.stage.wait(&|| false, Some(at));
            self.carry_out(n, action);
            self.maybe_look(n);
        }
        let outcomes = self.outcomes(&program);
        if outcomes.values().any(|outcome| matches!(outcome, Err(Error::NoSession { .. }))) && !self.is_calm() {
            // The head did not hear of it for too long, and has ended its job.
            self.driver.over(&self.cluster);
            return self.finish();
        }
        self.judge(&program, &outcomes);
        self.comes_to(Phase::Done);
        self.until(Phase::Free);
        self.results.clear();
        self.actors.clear();
        for (group, _) in std::mem::take(&mut self.groups).into_values() {
            self.client.remove_group(group);
        }
        self.comes_to(Phase::Free);
        self.until(Phase::Over);
        self.finish();
    }

    fn finish(self) {
        self.client.close();
        insist(&self.endpoint, MailboxId::CLIENT, self.cluster.gcs(), FinishJob { job: self.job });
        // The endpoint stays for that; what it says to its client is of no use any more.
        self.endpoint.detach(MailboxId::CLIENT);
        self.driver.over(&self.cluster);
    }

    fn comes_to(&self, phase: Phase) {
        *self.driver.phase.lock() = phase;
    }

    fn until(&self, goal: Phase) {
        let reached = || {
            let now = self.driver.goal.lock().clone();
            now == goal || now == Phase::Over
        };
        while !reached() {
            self.stage.sleep(AGAIN_AFTER);
        }
    }

    fn is_calm(&self) -> bool {
        self.cluster.record().lock().is_calm()
    }

    fn carry_out(&mut self, n: usize, action: &Action) {
        match action {
            Action::Task { code, deps, shape, retries } => {
                let mut args = self.args(code, n, deps);
                if code.id.is_multiple_of(PUT_EVERY) {
                    // With no room, or no store, there is none.
                    if let Ok(put) = self.client.put(number(code.id, true)) {
                        self.puts.insert(n, code.id);
                        args.push(Arg::Object(put));
                    }
                }
                let options = Arc::new(TaskOptions {
                    demand: shape.demand.clone(),
                    strategy: self.strategy(shape),
                    group: self.group(shape),
                    kind: shape.kind,
                    max_retries: *retries,
                    ..TaskOptions::default()
                });
                self.cluster.record().lock().submitted(code);
                let made = self.client.submit(function(TASK), args, &options).remove(0);
                self.results.insert(n, made);
            }
            Action::Actor { actor, spec } => {
                let options = ActorOptions {
                    demand: spec.need.demand.clone(),
                    placement_demand: cpus(1.0),
                    strategy: self.strategy(&spec.need),
                    group: self.group(&spec.need),
                    kind: spec.need.kind,
                    max_restarts: spec.max_restarts,
                    ..ActorOptions::default()
                };
                let args = constructor_args(self.cluster.number(), *actor);
                let made = self.client.create_actor(function(COUNTER), "Counter", args, options);
                self.actors.insert(*actor, made);
            }
            Action::Call { actor, code, deps } => {
                let Some(handle) = self.actors.get(actor) else { return };
                self.cluster.record().lock().submitted(code);
                let made = self.client.call(handle, function(COUNT), self.args(code, n, deps), 1).remove(0);
                self.results.insert(n, made);
            }
            Action::Kill { actor, no_restart } => {
                let Some(handle) = self.actors.get(actor) else { return };
                let why = "it was killed by its program".to_owned();
                let kill = KillActor { actor: handle.id(), no_restart: *no_restart, why };
                insist(&self.endpoint, MailboxId::CLIENT, self.cluster.gcs(), kill);
            }
            Action::Cancel { of } => {
                if let (Some(object), Some(code)) = (self.results.get(of), self.cluster.code_of(self.driver.index, *of))
                {
                    self.cluster.record().lock().cancelled(&code);
                    self.client.cancel(object, Cancel::default());
                }
            }
            Action::Group { group, strategy, bundles } => {
                let made = self.client.create_group(*strategy, bundles.clone(), None, false);
                self.groups.insert(*group, (made, bundles.clone().into()));
            }
            Action::Await { group } => {
                if let Some((group, _)) = self.groups.get(group) {
                    self.results.insert(n, self.client.group_ready(*group));
                }
            }
            Action::Remove { group } => {
                if let Some((group, _)) = self.groups.get(group) {
                    self.client.remove_group(*group);
                }
            }
            // A real client does that by itself.
            Action::Forget => {}
        }
    }

    /// Now and then the program looks at what it has so far, and waits a little for it.
    fn maybe_look(&self, n: usize) {
        let (looks, patience_ms) =
            self.cluster.random(|random| (random.random_range(0..8), random.random_range(1..400)));
        let all: Vec<ObjectHandle> = self.results.range(n.saturating_sub(6)..).map(|(_, made)| made.clone()).collect();
        let patience = Some(Duration::from_millis(patience_ms));
        match looks {
            // What they find is looked at in the end.
            0 => drop(self.client.get(&all, patience)),
            1 => drop(self.client.wait(&all, all.len() / 2, patience)),
            _ => {}
        }
    }

    fn args(&self, code: &Code, n: usize, deps: &[usize]) -> SmallVec<[Arg; 2]> {
        let mut args: SmallVec<[Arg; 2]> = smallvec![words(self.cluster.number(), code.id, n as u64)];
        args.extend(deps.iter().filter_map(|dep| self.results.get(dep)).map(|made| Arg::Object(made.clone())));
        args
    }

    fn strategy(&self, need: &Need) -> Strategy {
        match need.place {
            Where::Anywhere => Strategy::Default,
            Where::Spread => Strategy::Spread,
            Where::On { machine, soft } => {
                Strategy::NodeAffinity { node: self.cluster.record().lock().node_ids[machine], soft }
            }
        }
    }

    fn group(&self, need: &Need) -> Option<InGroup> {
        let (group, index) = need.group?;
        let (group, bundles) = self.groups.get(&group)?;
        Some(InGroup { group: *group, index, bundles: bundles.clone() })
    }

    /// Waits for everything.
    fn outcomes(&self, program: &Program) -> BTreeMap<usize, Outcome> {
        let mut outcomes = BTreeMap::new();
        for (n, made) in &self.results {
            self.comes_to(Phase::Awaiting(*n));
            let got = self.client.get(std::slice::from_ref(made), None);
            let is_group = matches!(program.actions[*n].1, Action::Await { .. });
            let outcome = got.map(|values| if is_group { 0 } else { read(&values[0]) });
            outcomes.insert(*n, outcome.map_err(|error| self.in_the_programs_words(error)));
        }
        outcomes
    }

    /// Programs have names of their own for actors and groups.
    fn in_the_programs_words(&self, error: Error) -> Error {
        let actor_of = |real: ActorId| {
            self.actors.iter().find(|(_, handle)| handle.id() == real).map_or(real, |(actor, _)| *actor)
        };
        match error {
            Error::ActorDied { actor, why } => Error::ActorDied { actor: actor_of(actor), why },
            Error::ActorUnavailable { actor, why } => Error::ActorUnavailable { actor: actor_of(actor), why },
            Error::GroupRemoved { group: real, why } => {
                let group = self.groups.iter().find(|(_, (group, _))| *group == real).map_or(real, |(group, _)| *group);
                Error::GroupRemoved { group, why }
            }
            error => error,
        }
    }

    /// Whether everything came to what it should have.
    fn judge(&self, program: &Program, outcomes: &BTreeMap<usize, Outcome>) {
        let mut record = self.cluster.record().lock();
        for (n, outcome) in outcomes {
            let (code, deps, max_retries) = match &program.actions[*n].1 {
                Action::Task { code, deps, retries, .. } => (code, deps, *retries),
                Action::Call { code, deps, .. } => (code, deps, 0),
                _ => {
                    let ready = outcome.as_ref().map(drop).map_err(Clone::clone);
                    record.group_settled(&ready);
                    continue;
                }
            };
            let mut args = vec![Some(Ok(*n as u64))];
            args.extend(deps.iter().filter(|dep| self.results.contains_key(dep)).map(|dep| outcomes.get(dep).cloned()));
            args.extend(self.puts.get(n).map(|put| Some(Ok(*put))));
            // Also an argument may have been there when it was needed, and be lost since.
            let is_lost = |of: &Outcome| matches!(of, Err(Error::ObjectLost { .. } | Error::AttemptsExhausted { .. }));
            // So may one be that was to be made again where there is no group any more.
            let is_gone =
                |of: &Outcome| matches!(of, Err(Error::GroupRemoved { group, .. }) if record.removed.contains(group));
            let lacks = args.iter().flatten().any(|arg| is_lost(arg) || (outcome.is_ok() && is_gone(arg)));
            if (is_lost(outcome) || lacks) && !record.is_calm() {
                record.stats.failed += 1;
                continue;
            }
            let charged = match outcome {
                Err(Error::WorkerDied { attempts, .. }) => *attempts,
                _ => 0,
            };
            record.ends(code, &args, outcome, charged, max_retries);
        }
    }
}
