//! The producing end of a stream, with owners that are hard of hearing.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::messages::{AwaitRoom, StreamNews, StreamSpec, TaskOutcome, TaskYielded};

const THREE: &str = "worker tests: three";
const ENDLESS: &str = "worker tests: endless";
const OWNER: MailboxId = MailboxId(77_778);

inventory::submit! {
    RemoteFunction {
        name: THREE,
        signature: "", group: "",
        code: Code::Stream(|_, outlet| {
            for _ in 0..3 {
                outlet.room()?;
                outlet.give(Value::unit())?;
            }
            Ok(())
        }),
    }
}
inventory::submit! {
    RemoteFunction {
        name: ENDLESS,
        signature: "", group: "",
        code: Code::Stream(|_, outlet| {
            loop {
                outlet.room()?;
                outlet.give(Value::new(crate::value::Encoding::RAW, vec![1; 200_000]))?;
            }
        }),
    }
}

#[derive(Debug)]
enum Heard {
    Room(u32),
    /// How it ended, and which items had been answered.
    Done(TaskOutcome, BTreeSet<u32>),
}

/// What an owner answers to an item: its number, and how often that was told before.
type Answers = fn(u32, u32) -> Result<StreamNews, Option<SendError>>;

struct Consumer {
    answers: Answers,
    told: Mutex<BTreeMap<u32, u32>>,
    rooms: Mutex<u32>,
    answered: Mutex<BTreeSet<u32>>,
    heard: Mutex<mpsc::Sender<Heard>>,
}

impl Mailbox for Consumer {
    fn deliver(&self, envelope: Envelope) {
        if envelope.kind() == TaskYielded::KIND {
            let Ok((item, request)) = envelope.open::<TaskYielded>() else { return };
            let before = {
                let mut told = self.told.lock();
                let before = told.entry(item.index).or_default();
                *before += 1;
                *before - 1
            };
            match (self.answers)(item.index, before) {
                Ok(news) => {
                    self.answered.lock().insert(item.index);
                    request.reply(news);
                }
                Err(Some(error)) => request.fail(error),
                // Dropped without an answer.
                Err(None) => {}
            }
        } else if envelope.kind() == AwaitRoom::KIND {
            let Ok((wait, request)) = envelope.open::<AwaitRoom>() else { return };
            let asked = std::mem::replace(&mut *self.rooms.lock(), 1);
            let _ = self.heard.lock().send(Heard::Room(wait.consumed));
            match asked {
                0 => request.fail(SendError::TimedOut { after: Duration::ZERO }),
                _ => request.reply(StreamNews::Consumed(wait.consumed)),
            }
        } else if let Ok((done, _)) = envelope.open::<TaskDone>() {
            let _ = self.heard.lock().send(Heard::Done(done.outcome, self.answered.lock().clone()));
        }
    }
}

impl Rig {
    /// Runs a stream for an owner that answers so.
    fn stream(&self, name: &str, stream: StreamSpec, answers: Answers) -> mpsc::Receiver<Heard> {
        let (tell, heard) = mpsc::channel();
        let owner = Consumer {
            answers,
            told: Mutex::default(),
            rooms: Mutex::default(),
            answered: Mutex::default(),
            heard: Mutex::new(tell),
        };
        let endpoint = self.head.endpoint();
        endpoint.attach(OWNER, Arc::new(owner));
        let function = FunctionId::of(name);
        let stream = Some(stream);
        let task = TaskSpec { seq: 6, attempt: 1, function, name: None, args: smallvec![], returns: 1, stream };
        let lease = LeaseId { node: NodeId(Default::default()), seq: 1 };
        let client = endpoint.address_of(OWNER);
        let push = PushTasks { client, job: JobId::random(), lease, raylet: self.head.raylet(), tasks: vec![task] };
        endpoint.send(Some(OWNER), self.address(), push, vec![]);
        heard
    }
}

#[test]
fn an_item_is_told_until_it_is_answered_and_the_end_comes_after_that() {
    let rig = Rig::new();
    let heard = rig.stream(THREE, StreamSpec { skip: 1, window: 2 }, |_, before| match before {
        0 => Err(Some(SendError::TimedOut { after: Duration::ZERO })),
        1 => Err(Some(SendError::MailboxFull { limit: 1 })),
        2 => Err(None),
        _ => Ok(StreamNews::Consumed(0)),
    });
    // The third one needs room, and that is asked for until it is answered.
    for _ in 0..2 {
        assert!(matches!(heard.recv_timeout(WITHIN).unwrap(), Heard::Room(1)));
    }
    match heard.recv_timeout(WITHIN).unwrap() {
        Heard::Done(TaskOutcome::Returned(_), answered) => {
            assert_eq!(answered, [2, 3].into(), "all but the one that its owner has");
        }
        other => panic!("not its end: {other:?}"),
    }
}

#[test]
fn a_stream_that_nobody_wants_ends_and_what_was_not_taken_is_thrown_away() {
    let rig = Rig::new();
    let heard = rig.stream(ENDLESS, StreamSpec { skip: 0, window: 8 }, |index, _| match index {
        1 => Ok(StreamNews::Consumed(0)),
        // It has been heard before: its bytes are somebody's.
        2 => Ok(StreamNews::Enough),
        _ => Ok(StreamNews::Unwanted),
    });
    match heard.recv_timeout(WITHIN).unwrap() {
        Heard::Done(TaskOutcome::Failed(error), _) => {
            assert!(matches!(*error, Error::TaskCancelled { .. }), "{error}");
        }
        other => panic!("not its end: {other:?}"),
    }
    eventually("only what counts is left", || rig.head.store().stats().objects == 2);
}

#[test]
fn a_stream_whose_owner_is_dead_ends_and_leaves_nothing() {
    let rig = Rig::new();
    let gone = |_, _| Err(Some(SendError::NoSuchActor));
    let heard = rig.stream(ENDLESS, StreamSpec { skip: 0, window: 8 }, gone);
    assert!(matches!(heard.recv_timeout(WITHIN).unwrap(), Heard::Done(TaskOutcome::Failed(_), _)));
    eventually("nothing is left", || rig.head.store().stats().objects == 0);
}
