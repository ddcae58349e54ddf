//! Bringing arguments that lie in a store to this node.
//!
//! One that is not where it was said to lie is lost, or was made again elsewhere; only the submitter
//! knows. A task is handed back for that, and with it its lease, which the making may need. A call of
//! an actor keeps its place in the order meanwhile, so the worker asks, and lends the actor's CPU.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mobula_transport::{Address, MailboxId, Payload};
use parking_lot::Mutex;

use super::WorkerShared;
use super::actor::{ActorCell, Lent};
use super::call::Ended;
use crate::delivery::{Fate, fate};
use crate::error::Error;
use crate::messages::{ArgSpec, FindArgument, ReturnSpec, StoredObject, TaskSpec};
use crate::value::Value;

/// How long bringing an argument to this node may take; its progress is watched below this.
const ARGUMENT_DEADLINE: Duration = Duration::from_secs(600);
/// How long the submitter may take before it is asked again; it answers when the argument is there.
const FIND_DEADLINE: Duration = Duration::from_secs(30);
/// The pause before it is asked again when it could not be reached.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(200);

/// Whose business a lost argument is.
#[derive(Clone)]
pub(super) enum Lost {
    /// The work is handed back.
    HandBack,
    /// The worker asks where it is now, for a call of this actor.
    Ask(Arc<ActorCell>),
}

/// Why an argument is not here.
pub(super) enum Missing {
    /// It was not found where it was said to lie.
    Lost(Box<StoredObject>, String),
    Failed(Error),
}

impl From<Missing> for Ended {
    fn from(missing: Missing) -> Self {
        match missing {
            Missing::Lost(lost, why) => Self::ArgumentLost(lost, why),
            Missing::Failed(error) => Self::Failed(error),
        }
    }
}

impl From<Missing> for Error {
    fn from(missing: Missing) -> Self {
        match missing {
            Missing::Lost(lost, why) => Self::ObjectLost { object: lost.object, why },
            Missing::Failed(error) => error,
        }
    }
}

type Brought = Box<dyn FnOnce(Result<Value, Missing>) + Send>;

impl WorkerShared {
    /// Brings the arguments that lie in a store to this node, then calls `then`.
    pub(super) fn bring(
        self: &Arc<Self>,
        client: Address,
        spec: TaskSpec,
        inline: Vec<bytes::Bytes>,
        lost: Lost,
        then: impl FnOnce(&Arc<Self>, Address, TaskSpec, Result<Vec<Value>, Missing>) + Send + 'static,
    ) {
        let mut stored = Vec::new();
        let mut values: Vec<Option<Value>> = vec![None; spec.args.len()];
        let mut inline = inline.into_iter();
        for (position, arg) in spec.args.iter().enumerate() {
            match arg {
                ArgSpec::Inline(encoding) => {
                    values[position] = Some(Value::new(*encoding, inline.next().unwrap_or_default()));
                }
                ArgSpec::Stored(object) => stored.push((position, object.clone())),
            }
        }
        let (remaining, values) = (AtomicUsize::new(stored.len()), Mutex::new(values));
        let brought = (client, spec.seq, spec.attempt);
        self.bringing.lock().insert(brought);
        let seq = spec.seq;
        let finish = Mutex::new(Some((spec, then)));
        let gate = Arc::new((remaining, values, finish, Mutex::new(None::<Missing>)));
        for (position, object) in stored {
            let (gate, worker) = (gate.clone(), self.clone());
            let done = move |result| {
                let (remaining, values, finish, failure) = &*gate;
                match result {
                    Ok(value) => values.lock()[position] = Some(value),
                    Err(missing) => {
                        failure.lock().get_or_insert(missing);
                    }
                }
                if remaining.fetch_sub(1, Ordering::AcqRel) == 1
                    && let Some((spec, then)) = finish.lock().take()
                {
                    let result = match failure.lock().take() {
                        Some(missing) => Err(missing),
                        None => Ok(std::mem::take(&mut *values.lock()).into_iter().flatten().collect()),
                    };
                    then(&worker, client, spec, result);
                    worker.bringing.lock().remove(&brought);
                }
            };
            self.bring_one(client, seq, object, lost.clone(), Box::new(done));
        }
    }

    fn bring_one(self: &Arc<Self>, client: Address, seq: u64, object: StoredObject, lost: Lost, done: Brought) {
        let (worker, wanted) = (self.clone(), object.clone());
        self.store.get(&object, ARGUMENT_DEADLINE, move |result| match (result, lost) {
            (Ok(value), _) => done(Ok(value)),
            (Err(Error::ObjectLost { why, .. }), Lost::HandBack) => {
                done(Err(Missing::Lost(Box::new(wanted), why)));
            }
            (Err(Error::ObjectLost { why, .. }), Lost::Ask(cell)) => {
                let lent = cell.lend();
                worker.find(Asked { client, seq, lost: wanted, why, cell, lent }, done);
            }
            (Err(error), _) => done(Err(Missing::Failed(error))),
        });
    }

    /// Asks the submitter of a call where an argument is now.
    fn find(self: &Arc<Self>, asked: Asked, done: Brought) {
        let worker = self.clone();
        let Asked { client, seq, lost, why, .. } = &asked;
        let question = FindArgument { seq: *seq, lost: lost.clone(), why: why.clone() };
        let (from, to) = (Some(MailboxId::WORKER), *client);
        self.endpoint.request_from(from, to, question, Payload::new(), FIND_DEADLINE, move |answer| match answer {
            Ok((Ok(ReturnSpec::Inline(encoding)), payload)) => {
                drop(asked);
                done(Ok(Value::new(encoding, payload.into_iter().next().unwrap_or_default())));
            }
            Ok((Ok(ReturnSpec::Stored(found)), _)) => {
                let Asked { client, seq, cell, lent, .. } = asked;
                drop(lent);
                worker.bring_one(client, seq, found, Lost::Ask(cell), done);
            }
            Ok((Err(error), _)) => done(Err(Missing::Failed(error))),
            Err(error) if matches!(fate(&error), Fate::Doubtful | Fate::Full) => {
                worker.endpoint.clone().spawn_task(async move {
                    tokio::time::sleep(ASK_AGAIN_AFTER).await;
                    worker.find(asked, done);
                });
            }
            Err(error) => done(Err(Missing::Failed(error.into()))),
        });
    }
}

/// What a submitter is asked about an argument of a call.
struct Asked {
    client: Address,
    seq: u64,
    lost: StoredObject,
    why: String,
    cell: Arc<ActorCell>,
    lent: Lent,
}
