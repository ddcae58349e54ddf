//! The GCS's core by itself: scenarios here, random histories in a file of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mobula_transport::{Address, MailboxId, ProcessAddr, ProcessId, SendError};
use serde_bytes::ByteBuf;
use smallvec::smallvec;
use uuid::Uuid;

use super::{ActorState, Asker, Effect, Gcs, GcsConfig, Reply, Snapshot, Write};
use crate::error::Error;
use crate::ids::{ActorId, FunctionId, JobId, LeaseId, NodeId};
use crate::messages::*;
use crate::resources::{CPU, Resources};

mod deaths;
mod groups;
mod histories;
mod restarts;
mod watching;

fn process(n: u128) -> ProcessAddr {
    ProcessAddr { id: ProcessId(Uuid::from_u128(n)), socket: ProcessAddr::IN_PROCESS }
}

fn node(n: u128) -> NodeId {
    NodeId(Uuid::from_u128(n))
}

fn actor(n: u128) -> ActorId {
    ActorId(Uuid::from_u128(n))
}

fn job(n: u128) -> JobId {
    JobId(Uuid::from_u128(n))
}

fn cpus(amount: f64) -> Resources {
    Resources::new().with(CPU, amount).unwrap()
}

fn info(n: u128, total: f64) -> NodeInfo {
    NodeInfo {
        node: node(n),
        name: format!("n{n}"),
        process: process(n),
        head: false,
        total: cpus(total),
        available: cpus(total),
        labels: Default::default(),
        alive: true,
        death_reason: None,
        store_dir: String::new(),
        host_proof: String::new(),
        pid: 1,
    }
}

fn spec(n: u128) -> ActorSpec {
    ActorSpec {
        actor: actor(n),
        job: job(1),
        owner: Address { process: process(50), mailbox: MailboxId::CLIENT },
        class: "Counter".to_owned(),
        constructor: FunctionId(1),
        args: smallvec![],
        name: None,
        namespace: "ns".to_owned(),
        demand: Resources::new(),
        placement_demand: cpus(1.0),
        strategy: Strategy::Default,
        kind: WorkerKind::Shared,
        max_concurrency: 1,
        concurrency_groups: Vec::new(),
        max_restarts: 0,
        detached: false,
        rules: CallRules::default(),
    }
}

/// What has been asked of raylets and workers and waits for the test's answer.
#[derive(Clone, Debug)]
struct LeaseAsked {
    actor: ActorId,
    incarnation: u32,
    node: NodeId,
}

#[derive(Clone, Debug)]
struct StartAsked {
    actor: ActorId,
    incarnation: u32,
    lease: LeaseId,
}

/// A GCS with a world around it, and a disk.
struct Env {
    core: Gcs,
    now: Duration,
    next_asker: Asker,
    waiting: BTreeSet<Asker>,
    answers: BTreeMap<Asker, Reply>,
    leases_asked: Vec<LeaseAsked>,
    starts_asked: Vec<StartAsked>,
    started: BTreeSet<(ActorId, u32)>,
    /// Leases that are out, by whom.
    out: BTreeMap<LeaseId, (ActorId, u32)>,
    /// Incarnations told to stop.
    stopped: Vec<(ActorId, u32)>,
    next_lease: u64,
    alive_nodes: BTreeSet<u128>,
    published: Vec<ClusterEvent>,
    gone: Vec<ProcessId>,
    disk_actors: BTreeMap<ActorId, (ActorSpec, Vec<ByteBuf>, ActorState)>,
    disk_jobs: BTreeMap<JobId, JobInfo>,
    disk_nodes: BTreeMap<NodeId, NodeInfo>,
    disk_kv: BTreeMap<(String, String), ByteBuf>,
}

impl Env {
    fn new() -> Self {
        Self {
            core: Gcs::new(config()),
            now: Duration::ZERO,
            next_asker: 0,
            waiting: BTreeSet::new(),
            answers: BTreeMap::new(),
            leases_asked: Vec::new(),
            starts_asked: Vec::new(),
            started: BTreeSet::new(),
            out: BTreeMap::new(),
            stopped: Vec::new(),
            next_lease: 0,
            alive_nodes: BTreeSet::new(),
            published: Vec::new(),
            gone: Vec::new(),
            disk_actors: BTreeMap::new(),
            disk_jobs: BTreeMap::new(),
            disk_nodes: BTreeMap::new(),
            disk_kv: BTreeMap::new(),
        }
    }

    fn asker(&mut self) -> Asker {
        self.next_asker += 1;
        self.waiting.insert(self.next_asker);
        self.next_asker
    }

    fn join(&mut self, n: u128, total: f64) {
        let actors = self
            .out
            .iter()
            .filter(|(lease, _)| lease.node == node(n))
            .map(|(lease, (actor, incarnation))| HostedActor {
                actor: *actor,
                incarnation: *incarnation,
                lease: *lease,
                worker: process(1_000 + n),
            })
            .collect();
        let request =
            RegisterNode { info: info(n, total), actors, processes: vec![(process(1_000 + n), 7)], bundles: vec![] };
        if self.core.register_node(request, self.now).is_ok() {
            self.alive_nodes.insert(n);
        }
        self.absorb();
    }

    fn beat(&mut self, n: u128, free: f64) -> HeartbeatReply {
        let beat = Heartbeat {
            node: node(n),
            available: cpus(free),
            pending: vec![],
            store_used_bytes: 0,
            workers: 1,
            bundles: vec![],
        };
        let reply = self.core.heartbeat(beat, self.now);
        self.absorb();
        reply
    }

    fn register_job(&mut self, n: u128) {
        let asker = self.asker();
        let request = RegisterJob {
            driver: process(50),
            name: "p".into(),
            binary: None,
            digest: 1,
            namespace: None,
            env: JobEnv::default(),
        };
        self.core.register_job(job(n), request, self.now, asker);
        self.absorb();
    }

    fn create(&mut self, spec: ActorSpec) -> Asker {
        let asker = self.asker();
        self.core.create_actor(spec, vec![], self.now, asker);
        self.absorb();
        asker
    }

    fn resolve(&mut self, n: u128, from: u128) -> Asker {
        let asker = self.asker();
        self.core.resolve_actor(actor(n), process(from).id, self.now, asker);
        self.absorb();
        asker
    }

    fn kill(&mut self, n: u128, no_restart: bool) {
        let asker = self.asker();
        self.core.kill_actor(actor(n), no_restart, "killed", self.now, asker);
        self.absorb();
    }

    fn exit(&mut self, actor: ActorId, incarnation: u32, why: &str, failed: bool) {
        let asker = self.asker();
        let exited = ActorExited { actor, incarnation, why: why.to_owned(), failed };
        self.core.actor_exited(&exited, self.now, asker);
        self.absorb();
        assert!(self.answers.contains_key(&asker), "who says that an actor has ended hears that it was noted");
    }

    fn answer_lease(&mut self, at: usize, answer: LeaseAnswer) {
        if self.leases_asked.is_empty() {
            return;
        }
        let at = at % self.leases_asked.len();
        let asked = self.leases_asked.remove(at);
        let answer = match answer {
            LeaseAnswer::Granted => {
                self.next_lease += 1;
                let lease = LeaseId { node: asked.node, seq: self.next_lease };
                self.out.insert(lease, (asked.actor, asked.incarnation));
                Ok(Ok(ActorLease { lease, worker: process(1_000 + asked.node.0.as_u128()) }))
            }
            LeaseAnswer::NoRoom => {
                Ok(Err(LeaseActorError::NoRoom { node: String::new(), free: cpus(0.0), demand: cpus(1.0) }))
            }
            LeaseAnswer::Failed => Ok(Err(LeaseActorError::WorkerFailed("broken".to_owned()))),
            LeaseAnswer::Lost => Err(SendError::TimedOut { after: Duration::from_secs(1) }),
        };
        self.core.actor_leased(asked.actor, asked.incarnation, asked.node, answer, self.now);
        self.absorb();
    }

    fn answer_start(&mut self, at: usize, answer: StartAnswer) {
        if self.starts_asked.is_empty() {
            return;
        }
        let at = at % self.starts_asked.len();
        let asked = self.starts_asked.remove(at);
        let answer = match answer {
            StartAnswer::Made => Ok(Ok(())),
            StartAnswer::Failed => Ok(Err(Error::Invalid { what: "constructor".to_owned() })),
            StartAnswer::Lost => {
                self.out.remove(&asked.lease);
                Err(SendError::Gone { process: process(1).id, why: "died".to_owned() })
            }
        };
        self.core.actor_started(asked.actor, asked.incarnation, answer, self.now);
        self.absorb();
    }

    /// A worker process dies: its raylet reports every lease it had.
    fn worker_dies(&mut self, n: u128) {
        let lost: Vec<LeaseId> = self.out.keys().filter(|lease| lease.node == node(n)).copied().collect();
        for lease in lost {
            self.out.remove(&lease);
            self.starts_asked.retain(|asked| asked.lease != lease);
            self.core.lease_lost(lease, "signal 9", self.now);
            self.absorb();
        }
    }

    fn node_dies(&mut self, n: u128) {
        self.alive_nodes.remove(&n);
        self.out.retain(|lease, _| lease.node != node(n));
        self.starts_asked.retain(|asked| asked.lease.node != node(n));
        self.leases_asked.retain(|asked| asked.node != node(n));
        self.core.node_died(node(n), "gone", self.now);
        self.absorb();
    }

    /// Workers do as they are told.
    fn stop_all(&mut self) {
        for (actor, incarnation) in std::mem::take(&mut self.stopped) {
            // One whose constructor still runs is not there yet; it is told again when it is made.
            let constructing =
                self.starts_asked.iter().any(|asked| (asked.actor, asked.incarnation) == (actor, incarnation));
            if !constructing && self.out.values().any(|held| *held == (actor, incarnation)) {
                self.exit(actor, incarnation, "told to", false);
            }
        }
    }

    fn pass(&mut self, ms: u64) {
        self.now += Duration::from_millis(ms);
        for n in self.alive_nodes.clone() {
            self.beat(n, 4.0);
        }
        self.core.job_heartbeat(job(1), self.now);
        self.core.tick(self.now);
        self.absorb();
    }

    fn restart(&mut self) {
        self.restart_alone();
        self.come_back();
    }

    /// The head restarts, and no node has noticed.
    fn restart_alone(&mut self) {
        let snapshot = Snapshot {
            actors: self.disk_actors.values().cloned().collect(),
            jobs: self.disk_jobs.values().cloned().collect(),
            nodes: self.disk_nodes.values().cloned().collect(),
            groups: vec![],
            kv: self.disk_kv.iter().map(|((ns, key), value)| (ns.clone(), key.clone(), value.clone())).collect(),
        };
        self.core = Gcs::restore(config(), snapshot, self.now);
        // Questions and answers in flight are lost with the process.
        self.waiting.clear();
        self.leases_asked.clear();
        self.starts_asked.clear();
        self.absorb();
    }

    /// The nodes notice that the head has restarted.
    fn come_back(&mut self) {
        for n in self.alive_nodes.clone() {
            assert!(matches!(self.beat(n, 4.0), HeartbeatReply::Unknown));
            self.join(n, 4.0);
        }
    }

    fn state(&self, n: u128) -> String {
        self.core.list_actors().into_iter().find(|info| info.actor == actor(n)).map_or(String::new(), |a| a.state)
    }

    /// Carries effects out, and checks what must hold after every event.
    fn absorb(&mut self) {
        for effect in self.core.take_effects() {
            match effect {
                Effect::Answer(asker, reply) => {
                    assert!(self.waiting.remove(&asker), "an asker is answered once");
                    self.answers.insert(asker, reply);
                }
                Effect::Forget(asker) => assert!(self.waiting.remove(&asker), "a forgotten asker was waiting"),
                Effect::LeaseActor { node, request, .. } => {
                    assert!(self.alive_nodes.contains(&node.0.as_u128()) || self.alive_nodes.is_empty());
                    let LeaseActor { actor, incarnation, .. } = request;
                    self.leases_asked.push(LeaseAsked { actor, incarnation, node });
                }
                Effect::CancelActorLease { actor, incarnation, .. } => {
                    self.leases_asked.retain(|asked| (asked.actor, asked.incarnation) != (actor, incarnation));
                    self.out.retain(|_, held| *held != (actor, incarnation));
                }
                Effect::StartActor { spec, incarnation, lease, .. } => {
                    assert!(self.started.insert((spec.actor, incarnation)), "an incarnation is made once");
                    self.starts_asked.push(StartAsked { actor: spec.actor, incarnation, lease });
                }
                Effect::StopActor { actor, incarnation, .. } => self.stopped.push((actor, incarnation)),
                Effect::ReturnLease { lease, .. } => drop(self.out.remove(&lease)),
                Effect::PrepareBundles { .. } | Effect::CommitBundles { .. } | Effect::ReturnBundles { .. } => {
                    panic!("there are no placement groups here");
                }
                Effect::Publish(event) => self.published.push(event),
                Effect::MarkGone(process, _) => self.gone.push(process),
                Effect::Write(write) => self.write(write),
            }
        }
        self.check();
    }

    fn write(&mut self, write: Write) {
        match write {
            Write::Actor(spec, payload) => {
                self.disk_actors.insert(spec.actor, (*spec, payload, ActorState::default()));
            }
            Write::ActorState(actor, state) => {
                self.disk_actors.get_mut(&actor).expect("its making was stored first").2 = state;
            }
            Write::ForgetActor(actor) => drop(self.disk_actors.remove(&actor)),
            Write::Job(info) => drop(self.disk_jobs.insert(info.job, *info)),
            Write::ForgetJob(job) => drop(self.disk_jobs.remove(&job)),
            Write::Node(info) => drop(self.disk_nodes.insert(info.node, *info)),
            Write::ForgetNode(node) => drop(self.disk_nodes.remove(&node)),
            Write::Group(_) | Write::ForgetGroup(_) => panic!("there are no placement groups here"),
            Write::Kv { namespace, key, value: Some(value) } => {
                self.disk_kv.insert((namespace, key), value);
            }
            Write::Kv { namespace, key, value: None } => drop(self.disk_kv.remove(&(namespace, key))),
        }
    }

    fn check(&self) {
        let listed = self.core.list_actors();
        let mut names = BTreeSet::new();
        for actor in listed.iter().filter(|actor| actor.state != "DEAD") {
            if let Some(name) = &actor.name {
                assert!(names.insert(name.clone()), "a name belongs to one living actor");
                let found = self.core.find_actor(name, "ns").expect("its bearer is found by it");
                assert_eq!(found.actor, actor.actor);
            }
        }
        assert_eq!(self.core.names.len(), names.len(), "the dead bear no names");
        for (id, entry) in &self.core.actors {
            if entry.spec.max_restarts >= 0 {
                assert!(entry.restarts <= entry.spec.max_restarts.unsigned_abs(), "{id} restarted too often");
            }
            assert!(!entry.is_dead() || entry.waiters.is_empty(), "who waits for the dead is answered");
        }
    }
}

fn config() -> GcsConfig {
    GcsConfig::new("test", process(999).id)
}

#[derive(Clone, Copy, Debug)]
enum LeaseAnswer {
    Granted,
    NoRoom,
    Failed,
    Lost,
}

#[derive(Clone, Copy, Debug)]
enum StartAnswer {
    Made,
    Failed,
    Lost,
}

#[test]
fn a_head_that_stood_still_does_not_take_that_for_the_silence_of_others() {
    let mut env = Env::new();
    env.join(1, 4.0);
    env.register_job(1);
    env.pass(250);
    let pause = Duration::from_secs(12);
    env.now += pause;
    env.core.ticks_after(pause, env.now);
    env.core.tick(env.now);
    env.absorb();
    assert!(matches!(env.beat(1, 4.0), HeartbeatReply::Known), "the node lives");
    assert!(env.core.job_heartbeat(job(1), env.now), "and so does the driver");
    // From then on silence counts.
    env.now += Duration::from_secs(6);
    env.core.ticks_after(Duration::from_millis(250), env.now);
    env.core.tick(env.now);
    env.absorb();
    assert!(matches!(env.beat(1, 4.0), HeartbeatReply::Unknown));
}

fn made(env: &mut Env) {
    env.answer_lease(0, LeaseAnswer::Granted);
    env.answer_start(0, StartAnswer::Made);
}

#[test]
fn an_actor_comes_to_life_and_its_waiters_hear() {
    let mut env = Env::new();
    let early = env.resolve(1, 60);
    env.join(1, 4.0);
    let created = env.create(spec(1));
    assert!(matches!(env.answers[&created], Reply::Done(Ok(()))));
    assert!(!env.answers.contains_key(&early));
    made(&mut env);
    assert!(matches!(env.answers[&early], Reply::Located(ActorLocation::Alive { incarnation: 0, .. })));
}

#[test]
fn a_dead_worker_restarts_the_actor_as_often_as_allowed() {
    let mut env = Env::new();
    env.join(1, 4.0);
    env.create(ActorSpec { max_restarts: 1, ..spec(1) });
    made(&mut env);
    env.worker_dies(1);
    assert_eq!(env.state(1), "RESTARTING");
    made(&mut env);
    assert_eq!(env.state(1), "ALIVE");
    env.worker_dies(1);
    assert_eq!(env.state(1), "DEAD");
    let asked = env.resolve(1, 60);
    let Reply::Located(ActorLocation::Dead(error)) = &env.answers[&asked] else { panic!("lives") };
    assert!(error.to_string().contains("signal 9") && error.to_string().contains("1 restarts"), "{error}");
}

#[test]
fn a_silent_node_dies_and_its_actors_move() {
    let mut env = Env::new();
    env.join(1, 4.0);
    env.create(ActorSpec { max_restarts: -1, ..spec(1) });
    made(&mut env);
    env.join(2, 4.0);
    env.alive_nodes.remove(&1);
    env.out.clear();
    for _ in 0..7 {
        env.pass(1_000);
    }
    assert!(env.published.iter().any(|event| matches!(event, ClusterEvent::NodeDied { node, processes, .. }
        if node.node == self::node(1) && processes == &[process(1_001)])));
    assert!(env.gone.contains(&process(1).id) && env.gone.contains(&process(1_001).id));
    assert_eq!(env.leases_asked[0].node, node(2));
    let again = RegisterNode { info: info(1, 4.0), actors: vec![], processes: vec![], bundles: vec![] };
    let refused = env.core.register_node(again, env.now).unwrap_err();
    assert!(refused.contains("restart it"), "{refused}");
}

#[test]
fn no_room_tries_another_node_and_then_waits_for_change() {
    let mut env = Env::new();
    env.join(1, 4.0);
    env.join(2, 4.0);
    env.create(spec(1));
    let first = env.leases_asked[0].node;
    env.answer_lease(0, LeaseAnswer::NoRoom);
    let second = env.leases_asked[0].node;
    assert_ne!(first, second);
    env.answer_lease(0, LeaseAnswer::NoRoom);
    assert!(env.leases_asked.is_empty(), "both said no");
    let status = env.core.status(env.now);
    assert!(status.pending[0].reason.contains("free now"), "{:?}", status.pending);
    env.beat(2, 4.0);
    assert_eq!(env.leases_asked[0].node, node(2));
}

#[test]
fn an_impossible_demand_waits_with_its_reason() {
    let mut env = Env::new();
    env.join(1, 4.0);
    env.create(ActorSpec { demand: cpus(9.0), ..spec(1) });
    let status = env.core.status(env.now);
    assert!(status.pending[0].infeasible && status.pending[0].reason.contains("CPU 9"), "{:?}", status.pending);
    env.join(2, 16.0);
    assert_eq!(env.leases_asked[0].node, node(2));
}

#[test]
fn a_job_ends_with_its_driver_and_takes_its_actors() {
    let mut env = Env::new();
    env.join(1, 4.0);
    env.register_job(1);
    env.create(ActorSpec { name: Some("a".into()), ..spec(1) });
    env.create(ActorSpec { detached: true, ..spec(2) });
    for _ in 0..2 {
        made(&mut env);
    }
    env.now += Duration::from_secs(4);
    env.beat(1, 4.0);
    env.now += Duration::from_secs(2);
    env.core.tick(env.now);
    env.absorb();
    assert_eq!((env.state(1).as_str(), env.state(2).as_str()), ("DEAD", "ALIVE"));
    assert!(env.gone.contains(&process(50).id));
    assert!(!env.core.job_heartbeat(job(1), env.now));
    assert!(env.published.iter().any(|event| matches!(event, ClusterEvent::JobFinished(_))));
}

#[test]
fn only_the_driver_finishes_its_job() {
    let mut env = Env::new();
    env.register_job(1);
    for (from, running) in [(61, true), (50, false)] {
        let asker = env.asker();
        env.core.finish_job(job(1), process(from).id, env.now, asker);
        env.absorb();
        assert!(matches!(env.answers[&asker], Reply::Finished));
        assert_eq!(env.core.job_heartbeat(job(1), env.now), running);
    }
}

#[test]
fn a_killed_actors_lease_comes_back_when_its_code_has_returned() {
    let mut env = Env::new();
    env.join(1, 4.0);
    env.create(spec(1));
    made(&mut env);
    env.kill(1, true);
    assert_eq!((env.out.len(), env.stopped.len()), (1, 1));
    env.stop_all();
    assert!(env.out.is_empty());
}

#[test]
fn killing_while_the_constructor_runs_leaves_nothing_behind() {
    let mut env = Env::new();
    env.join(1, 4.0);
    env.create(spec(1));
    env.answer_lease(0, LeaseAnswer::Granted);
    env.kill(1, true);
    env.answer_start(0, StartAnswer::Failed);
    assert!(env.out.is_empty());
}

#[test]
fn an_actor_nobody_created_is_dead_after_a_while() {
    let mut env = Env::new();
    let asked = env.resolve(77, 60);
    env.pass(11_000);
    assert!(matches!(env.answers[&asked], Reply::Located(ActorLocation::Dead(_))));
}
