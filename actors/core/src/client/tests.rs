//! A client by itself: raylet and worker are played by the test.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use mobula_transport::{
    Endpoint, EndpointConfig, Envelope, Mailbox, MailboxId, Message, Payload, ProcessAddr, SendError,
};
use parking_lot::Mutex;
use smallvec::{SmallVec, smallvec};

use super::queues::QUEUES_KEPT;
use super::*;
use crate::ids::{LeaseId, NodeId};
use crate::messages::{
    Cancel, CancelTask, ForgetQueue, JobLost, LeaseGranted, LeaseRedirected, PushTasks, ReturnLeases, ReturnSpec,
    StillHave, StoredObject, TaskDone, TaskOutcome, TaskSpec, TasksMissing, WantLeases,
};
use crate::registry::{Code, RemoteFunction};
use crate::resources::{CPU, Resources};
use crate::store::{Store, StoreConfig, StoreHandle};
use crate::value::Encoding;

mod streaming;

const WITHIN: Duration = Duration::from_secs(20);

static NOTHING: RemoteFunction =
    RemoteFunction { name: "client tests: nothing", signature: "", group: "", code: Code::Task(|_| Ok(Vec::new())) };

/// What the raylet and the worker have heard.
#[derive(Debug)]
enum Heard {
    /// A queue was forgotten.
    Forget,
    Cancel(CancelTask),
    Push(PushTasks),
    /// Leases were given back.
    Returned,
    StillHave(StillHave),
}

/// Grants every lease that is wanted; the worker is a process with this very address.
struct Raylet {
    endpoint: Endpoint,
    /// How many, by queue.
    granted: Mutex<BTreeMap<u64, u64>>,
    /// Where it sends the next need instead.
    elsewhere: Arc<Mutex<Option<Address>>>,
    heard: Mutex<Sender<Heard>>,
}

impl Mailbox for Raylet {
    fn deliver(&self, envelope: Envelope) {
        if envelope.kind() == WantLeases::KIND {
            let Ok((want, _)) = envelope.open::<WantLeases>() else { return };
            let mut all = self.granted.lock();
            if let Some(to) = self.elsewhere.lock().take() {
                let (shape, queue, count) = (want.shape, want.queue, want.target);
                *all.entry(queue).or_default() += count;
                let redirected = LeaseRedirected { shape, queue, count, to, hops: 1 };
                // As from a thread of its own: the client is in the middle of asking.
                let (endpoint, client) = (self.endpoint.clone(), want.client);
                std::thread::spawn(move || {
                    endpoint.send(Some(MailboxId::RAYLET), client, redirected, Payload::new());
                });
                return;
            }
            for _ in all.get(&want.queue).copied().unwrap_or(0)..want.target {
                let seq = 1 + all.values().sum::<u64>();
                *all.entry(want.queue).or_default() += 1;
                let lease = LeaseId { node: NodeId(uuid::Uuid::from_u128(1)), seq };
                let grant = LeaseGranted {
                    lease,
                    shape: want.shape.clone(),
                    queue: want.queue,
                    worker: self.endpoint.process(),
                };
                self.endpoint.send(Some(MailboxId::RAYLET), want.client, grant, Payload::new());
            }
        } else if envelope.kind() == ForgetQueue::KIND {
            if envelope.open::<ForgetQueue>().is_ok() {
                let _ = self.heard.lock().send(Heard::Forget);
            }
        } else if envelope.kind() == ReturnLeases::KIND && envelope.open::<ReturnLeases>().is_ok() {
            let _ = self.heard.lock().send(Heard::Returned);
        }
    }
}

/// Tells the test what it was sent, or refuses it.
struct Played {
    heard: Mutex<Sender<Heard>>,
    refuse: Arc<Mutex<u32>>,
}

impl Mailbox for Played {
    fn deliver(&self, envelope: Envelope) {
        let tell = |heard| {
            let _ = self.heard.lock().send(heard);
        };
        if envelope.kind() == PushTasks::KIND {
            let refuse = self.refuse.lock().checked_sub(1);
            if let Some(left) = refuse {
                *self.refuse.lock() = left;
                // The client hears of it, and asks this worker, before this returns.
                return envelope.reject(SendError::Refused { why: "the test wants it so".to_owned() });
            }
            if let Ok((push, _)) = envelope.open::<PushTasks>() {
                tell(Heard::Push(push));
            }
        } else if envelope.kind() == CancelTask::KIND {
            if let Ok((cancel, _)) = envelope.open::<CancelTask>() {
                tell(Heard::Cancel(cancel));
            }
        } else if envelope.kind() == StillHave::KIND
            && let Ok((question, _)) = envelope.open::<StillHave>()
        {
            tell(Heard::StillHave(question));
        }
    }
}

struct Rig {
    _base: tempfile::TempDir,
    endpoint: Endpoint,
    store: StoreHandle,
    client: Client,
    heard: Receiver<Heard>,
    /// How many pushes the worker refuses.
    refuse: Arc<Mutex<u32>>,
    /// Where the raylet sends the next need.
    elsewhere: Arc<Mutex<Option<Address>>>,
}

impl Rig {
    fn new() -> Self {
        let endpoint = Endpoint::in_process(EndpointConfig::default()).unwrap();
        let base = tempfile::tempdir_in("/dev/shm").unwrap();
        let here = Some(base.path().to_owned());
        let config = StoreConfig {
            base: here.clone(),
            spill_dir: here,
            capacity_bytes: Some(16 << 20),
            in_place: true,
            ..StoreConfig::default()
        };
        let store = Store::start(&endpoint, NodeId::random(), config).unwrap();
        let (tell, heard) = channel();
        let elsewhere = Arc::new(Mutex::new(None));
        let raylet = Raylet {
            endpoint: endpoint.clone(),
            granted: Mutex::default(),
            elsewhere: elsewhere.clone(),
            heard: Mutex::new(tell.clone()),
        };
        endpoint.attach(MailboxId::RAYLET, Arc::new(raylet));
        let refuse = Arc::new(Mutex::new(0));
        let played = Played { heard: Mutex::new(tell), refuse: refuse.clone() };
        endpoint.attach(MailboxId::WORKER, Arc::new(played));
        let client = Client::start(ClientSetup {
            endpoint: endpoint.clone(),
            gcs: endpoint.address_of(MailboxId::GCS),
            raylet: endpoint.address_of(MailboxId::RAYLET),
            store: store.client(),
            job: JobId::random(),
            namespace: "ns".to_owned(),
            binary: None,
            output: None,
        });
        Self { _base: base, endpoint, store, client, heard, refuse, elsewhere }
    }

    fn submit(&self, options: TaskOptions) -> ObjectHandle {
        self.client.submit(&NOTHING, smallvec![], &Arc::new(options)).pop().unwrap()
    }

    /// The next tasks that are pushed.
    fn pushed(&self) -> Vec<TaskSpec> {
        loop {
            if let Heard::Push(push) = self.heard.recv_timeout(WITHIN).unwrap() {
                return push.tasks;
            }
        }
    }

    fn one_pushed(&self) -> TaskSpec {
        let mut tasks = self.pushed();
        assert_eq!(tasks.len(), 1);
        tasks.remove(0)
    }

    fn say<M: Message>(&self, message: M) {
        let to = self.endpoint.address_of(MailboxId::CLIENT);
        self.endpoint.send(Some(MailboxId::WORKER), to, message, Payload::new());
    }

    /// The attempt stores its result, as a worker would.
    fn store(&self, task: &TaskSpec) -> StoredObject {
        let object = ObjectId { owner: self.endpoint.process().id, seq: task.seq, index: 0 };
        self.client.store().put_result(object, task.attempt, Encoding::RAW, &[&[task.attempt as u8; 200_000]]).unwrap()
    }

    fn done(&self, task: &TaskSpec, stored: StoredObject) {
        let specs: SmallVec<[ReturnSpec; 1]> = smallvec![ReturnSpec::Stored(stored)];
        let outcome = TaskOutcome::Returned(specs);
        self.say(TaskDone { seq: task.seq, attempt: task.attempt, outcome, run_us: 1, refs: Vec::new() });
    }

    fn eventually(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + WITHIN;
        while !holds(self) {
            assert!(Instant::now() < deadline, "in vain: {what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn objects(&self) -> u64 {
        self.store.stats().objects
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.endpoint.shutdown(Duration::ZERO);
    }
}

#[test]
fn what_an_attempt_that_does_not_count_has_stored_is_freed() {
    let rig = Rig::new();
    let handle = rig.submit(TaskOptions::default());
    let first = rig.one_pushed();
    let lost = rig.store(&first);
    // Its result got lost, it seems; it runs again, and what the first attempt left is of no use.
    rig.say(TasksMissing { tasks: vec![(first.seq, first.attempt)] });
    let second = rig.one_pushed();
    assert_eq!((second.seq, second.attempt), (first.seq, 2));
    rig.eventually("the result of the lost attempt is freed", |rig| rig.objects() == 0);
    // It was only late.
    rig.store(&first);
    rig.done(&first, lost.clone());
    rig.eventually("the late result is freed", |rig| rig.objects() == 0);
    let stored = rig.store(&second);
    rig.done(&second, stored);
    rig.done(&first, lost);
    let value = rig.client.get(std::slice::from_ref(&handle), Some(WITHIN)).unwrap().remove(0);
    assert_eq!(value.data[0], 2, "the second attempt counts");
    assert_eq!(rig.objects(), 1, "a late end of the first one does not harm it");
    drop((value, handle));
    rig.eventually("it is freed with its last reference", |rig| rig.objects() == 0);
}

#[test]
fn a_message_that_the_worker_refuses_is_not_its_death() {
    let rig = Rig::new();
    *rig.refuse.lock() = 1;
    let handle = rig.submit(TaskOptions::default());
    // What it has is asked for, and what it does not have is sent again, under the same lease.
    let Heard::StillHave(question) = rig.heard.recv_timeout(WITHIN).unwrap() else { panic!("it is not asked") };
    assert_eq!(question.tasks.len(), 1);
    rig.say(TasksMissing { tasks: question.tasks });
    let Heard::Push(push) = rig.heard.recv_timeout(WITHIN).unwrap() else { panic!("the lease was returned") };
    assert_eq!((push.lease.seq, push.tasks[0].attempt), (1, 2));
    let stored = rig.store(&push.tasks[0]);
    rig.done(&push.tasks[0], stored);
    assert_eq!(rig.client.get(&[handle], Some(WITHIN)).unwrap().len(), 1);
}

#[test]
fn queues_that_nobody_uses_are_forgotten_here_and_by_their_raylets() {
    let rig = Rig::new();
    let demand = |n: usize| Resources::new().with(CPU, n as f64).unwrap();
    let kept = Arc::new(TaskOptions { demand: demand(1), ..TaskOptions::default() });
    let run = |options: &Arc<TaskOptions>| {
        let handle = rig.client.submit(&NOTHING, smallvec![], options).pop().unwrap();
        let task = rig.one_pushed();
        let outcome = TaskOutcome::Returned(smallvec![ReturnSpec::Inline(Encoding::RAW)]);
        rig.say(TaskDone { seq: task.seq, attempt: task.attempt, outcome, run_us: 1, refs: Vec::new() });
        rig.client.get(&[handle], Some(WITHIN)).unwrap();
    };
    run(&kept);
    for n in 2..=QUEUES_KEPT {
        run(&Arc::new(TaskOptions { demand: demand(n), ..TaskOptions::default() }));
    }
    rig.eventually("all leases go back", |rig| rig.client.0.queues.all().iter().all(|queue| queue.is_idle()));
    while rig.heard.try_recv().is_ok() {}
    run(&Arc::new(TaskOptions { demand: demand(QUEUES_KEPT + 1), ..TaskOptions::default() }));
    let left: BTreeSet<_> = rig.client.0.queues.all().iter().map(|queue| queue.shape().demand.clone()).collect();
    assert_eq!(left, [demand(1), demand(QUEUES_KEPT + 1)].into(), "what may be used again, and what is");
    let forgotten = rig.heard.try_iter().filter(|heard| matches!(heard, Heard::Forget)).count();
    assert_eq!(forgotten, QUEUES_KEPT - 1);
    // Another queue of a forgotten shape, and the one that stayed.
    run(&Arc::new(TaskOptions { demand: demand(2), ..TaskOptions::default() }));
    run(&kept);
}

#[test]
fn a_cancelled_task_keeps_its_lease_until_its_code_has_returned() {
    let rig = Rig::new();
    let options = TaskOptions { retry_exceptions: RetryExceptions::Always, ..TaskOptions::default() };
    let handle = rig.submit(options);
    let task = rig.one_pushed();
    rig.client.cancel(&handle, Cancel { force: true, recursive: false });
    let error = rig.client.get(std::slice::from_ref(&handle), Some(WITHIN)).unwrap_err();
    assert!(matches!(error, Error::TaskCancelled { .. }), "{error}");
    let Heard::Cancel(cancel) = rig.heard.recv_timeout(WITHIN).unwrap() else { panic!("its worker is not told") };
    assert_eq!((cancel.seq, cancel.attempt, cancel.children), (task.seq, 1, None));
    assert!(cancel.end_after.is_some_and(|grace| grace > Duration::ZERO), "others run in the same process");
    let queue = rig.client.task_queues().pop().unwrap();
    assert!(!queue.is_idle());
    let stored = rig.store(&task);
    rig.done(&task, stored);
    rig.eventually("its lease goes back", |_| queue.is_idle());
    rig.eventually("what it has stored is freed", |rig| rig.objects() == 0);
    assert!(rig.client.0.pending.drain().is_empty());
}

#[test]
fn a_cancelled_task_whose_attempt_is_lost_does_not_run_again() {
    let rig = Rig::new();
    let handle = rig.submit(TaskOptions::default());
    let task = rig.one_pushed();
    rig.client.cancel(&handle, Cancel::default());
    rig.say(TasksMissing { tasks: vec![(task.seq, task.attempt)] });
    rig.eventually("it is forgotten", |rig| rig.client.0.pending.with(task.seq, |_| ()).is_none());
    let queue = rig.client.task_queues().pop().unwrap();
    rig.eventually("its lease goes back", |_| queue.is_idle());
    assert!(!rig.heard.try_iter().any(|heard| matches!(heard, Heard::Push(_))));
}

#[test]
fn a_need_that_is_sent_to_a_raylet_known_to_be_dead_is_not_waited_for() {
    let rig = Rig::new();
    let dead = ProcessAddr { id: ProcessId::random(), socket: ProcessAddr::IN_PROCESS };
    rig.endpoint.mark_gone(dead.id, "its node died".to_owned());
    // The raylet that is asked has not heard of that yet.
    *rig.elsewhere.lock() = Some(Address { process: dead, mailbox: MailboxId::RAYLET });
    let _result = rig.submit(TaskOptions::default());
    assert_eq!(rig.one_pushed().attempt, 1);
}

#[test]
fn what_waits_fails_when_the_job_is_lost() {
    let rig = Rig::new();
    let fails = |object: &ObjectHandle| {
        let error = rig.client.get(std::slice::from_ref(object), Some(Duration::from_secs(20))).unwrap_err();
        assert!(matches!(&error, Error::NoSession { what } if what.contains("ended this job")), "{error}");
    };
    let waiting = rig.submit(TaskOptions::default());
    let lost = JobLost { why: "the head has ended this job".to_owned() };
    rig.endpoint.send(None, rig.client.address(), lost, Payload::new());
    fails(&waiting);
    fails(&rig.submit(TaskOptions::default()));
    rig.client.shutdown();
}
