//! A worker in this process, told what to do by the test.

use std::sync::atomic::AtomicBool;
use std::sync::mpsc;

use smallvec::smallvec;

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::*;
use crate::client::ClientSetup;
use crate::ids::{FunctionId, JobId, NodeId};
use crate::messages::{ActorSpec, CallRules, RegisterWorker, Strategy, TaskDone, WorkerKind};
use crate::node::Head;
use crate::registry::RemoteFunction;
use crate::resources::Resources;

mod streaming;

const WITHIN: Duration = Duration::from_secs(20);
const SLOW_MAKER: &str = "worker tests: slow maker";
const NOTHING: &str = "worker tests: nothing";
const WITH_PATH: &str = "worker-tests@0.1.0::some::module::nothing";

/// The slow maker goes on.
static GOES_ON: AtomicBool = AtomicBool::new(false);
/// What it had made was dropped.
static DROPPED: AtomicBool = AtomicBool::new(false);

struct Made;

impl Drop for Made {
    fn drop(&mut self) {
        DROPPED.store(true, Ordering::SeqCst);
    }
}

inventory::submit! {
    RemoteFunction {
        name: SLOW_MAKER,
        signature: "", group: "",
        code: Code::Constructor(|_| {
            eventually("the test lets it go on", || GOES_ON.load(Ordering::SeqCst));
            Ok(Box::new(Made))
        }),
    }
}
inventory::submit! {
    RemoteFunction { name: NOTHING, signature: "", group: "", code: Code::Task(|_| Ok(Vec::new())) }
}
inventory::submit! {
    RemoteFunction { name: WITH_PATH, signature: "", group: "", code: Code::Task(|_| Ok(Vec::new())) }
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + WITHIN;
    while !holds() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

struct Rig {
    head: Head,
    worker: Worker,
}

impl Rig {
    fn new() -> Self {
        let head = Head::of_one_cpu();
        let endpoint = head.endpoint().clone();
        let (gcs, store) = (head.gcs(), head.store().client());
        let client = Client::start(ClientSetup {
            endpoint: endpoint.clone(),
            gcs,
            raylet: head.raylet(),
            store: store.clone(),
            job: JobId::random(),
            namespace: "ns".to_owned(),
            binary: None,
            output: None,
        });
        let register = RegisterWorker { start: 0, process: endpoint.process(), pid: 1, job: None, digest: 7 };
        let config = endpoint.request_blocking(head.raylet(), register, vec![], WITHIN).unwrap().0.unwrap();
        let worker = Worker::start(WorkerSetup { endpoint, client, store, config, gcs, own_process: false }).unwrap();
        Self { head, worker }
    }

    fn address(&self) -> Address {
        self.head.endpoint().address_of(MailboxId::WORKER)
    }

    fn lease(&self, seq: u64) -> Arc<LeaseQueue> {
        self.worker.0.lease_queue(LeaseId { node: NodeId(Default::default()), seq }, self.head.raylet())
    }
}

#[test]
fn an_actor_stopped_while_it_is_made_is_dropped() {
    let rig = Rig::new();
    let spec = ActorSpec {
        actor: ActorId::random(),
        job: JobId::random(),
        owner: rig.head.endpoint().address_of(MailboxId::CLIENT),
        class: "Made".to_owned(),
        constructor: FunctionId::of(SLOW_MAKER),
        args: smallvec![],
        name: None,
        namespace: "ns".to_owned(),
        demand: Resources::new(),
        placement_demand: Resources::new(),
        strategy: Strategy::Default,
        kind: WorkerKind::Shared,
        max_concurrency: 1,
        concurrency_groups: Vec::new(),
        max_restarts: 0,
        detached: false,
        rules: CallRules::default(),
    };
    let actor = spec.actor;
    let lease = LeaseId { node: NodeId(Default::default()), seq: 1 };
    let (tell, told) = mpsc::channel();
    let start = StartActor { spec, incarnation: 3, lease };
    rig.head.endpoint().request_with(rig.address(), start, vec![], WITHIN, move |answer| {
        let _ = tell.send(answer.map(|(answer, _)| answer));
    });
    for (incarnation, why) in [(2, "another one"), (3, "not needed"), (3, "told again")] {
        let stop = StopActor { actor, incarnation, why: why.to_owned() };
        rig.head.endpoint().request_blocking(rig.address(), stop, vec![], WITHIN).unwrap();
    }
    GOES_ON.store(true, Ordering::SeqCst);
    let answer = told.recv_timeout(WITHIN).unwrap().unwrap();
    assert!(matches!(&answer, Err(Error::ActorDied { why, .. }) if why == "not needed"), "{answer:?}");
    assert!(DROPPED.load(Ordering::SeqCst));
    assert!(rig.worker.0.actors.lock().is_empty() && rig.worker.0.constructing.lock().is_empty());
}

/// An owner that asks, at the moment its result arrives, whether the worker still has the task.
struct Owner {
    worker: Arc<WorkerShared>,
    here: Address,
    told: Mutex<mpsc::Sender<bool>>,
}

impl Mailbox for Owner {
    fn deliver(&self, envelope: Envelope) {
        if let Ok((done, _)) = envelope.open::<TaskDone>() {
            let has = self.worker.history.runs(self.here, done.seq, done.attempt);
            let _ = self.told.lock().send(has);
        }
    }
}

#[test]
fn a_task_is_here_until_its_result_has_left() {
    let rig = Rig::new();
    let owner = MailboxId(77_777);
    let here = rig.head.endpoint().address_of(owner);
    let (tell, told) = mpsc::channel();
    let mailbox = Owner { worker: rig.worker.0.clone(), here, told: Mutex::new(tell) };
    rig.head.endpoint().attach(owner, Arc::new(mailbox));
    let function = FunctionId::of(NOTHING);
    let task = TaskSpec { seq: 5, attempt: 1, function, name: None, args: smallvec![], returns: 0, stream: None };
    let lease = LeaseId { node: NodeId(Default::default()), seq: 1 };
    let push = PushTasks { client: here, job: JobId::random(), lease, raylet: rig.head.raylet(), tasks: vec![task] };
    rig.head.endpoint().send(Some(owner), rig.address(), push, vec![]);
    assert!(told.recv_timeout(WITHIN).unwrap(), "its result was not taken yet, and it counted as lost");
    eventually("it is forgotten afterwards", || !rig.worker.0.history.runs(here, 5, 1));
}

#[test]
fn a_task_has_the_same_name_while_it_runs_and_after() {
    let rig = Rig::new();
    let (worker, client) = (&rig.worker.0, rig.head.endpoint().address_of(MailboxId::CLIENT));
    let names = || worker.list_tasks().into_iter().map(|task| (task.state, task.name)).collect::<Vec<_>>();
    let spec = |seq, name: Option<&str>| {
        let (function, args) = (FunctionId::of(WITH_PATH), smallvec![]);
        TaskSpec { seq, attempt: 1, function, name: name.map(str::to_owned), args, returns: 0, stream: None }
    };
    for (seq, given, shown) in [(1, None, "nothing"), (2, Some("a user's"), "a user's")] {
        worker.history.begin(client, &spec(seq, given), Instant::now(), seq);
        assert_eq!(names()[0], ("RUNNING".to_owned(), shown.to_owned()));
        worker.history.record(client, &spec(seq, given), false, 1);
        assert_eq!(names().last(), Some(&("FINISHED".to_owned(), shown.to_owned())));
    }
    // It failed before it could run.
    worker.history.record(client, &spec(3, Some("early")), true, 1);
    assert_eq!(names().last(), Some(&("FAILED".to_owned(), "early".to_owned())));
}

#[test]
fn the_queue_of_a_lease_stays_while_a_task_for_it_is_on_its_way() {
    let rig = Rig::new();
    // As the task that is being brought holds it.
    let held = rig.lease(0);
    for seq in 1..=2 * LEASES_KEPT as u64 {
        rig.lease(seq);
    }
    assert!(Arc::ptr_eq(&held, &rig.lease(0)), "a second queue for one lease");
    assert!(rig.worker.0.leases.lock().len() <= LEASES_KEPT + 1, "queues of ended leases are forgotten");
}
