//! The work this process has submitted and not seen the end of.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use mobula_transport::Payload;
use parking_lot::Mutex;
use smallvec::SmallVec;

use super::actor_queue::ActorQueue;
use super::entry::{Entry, ObjectHandle, Outcome};
use super::lineage::Rerun;
use super::options::{CallOptions, TaskOptions};
use super::streaming::Streaming;
use super::task_queue::TaskQueue;
use crate::error::Error;
use crate::ids::{FunctionId, LeaseId, ObjectId};
use crate::messages::{ArgSpec, StoredObject, TaskSpec};
use crate::registry::RemoteFunction;
use crate::value::Value;

/// An argument of a task or call.
#[derive(Clone, Debug)]
pub enum Arg {
    /// A value, encoded.
    Value(Value),
    /// An object; the task runs when it is ready and gets its value.
    Object(ObjectHandle),
}

/// Where a piece of work goes.
pub(crate) enum Work {
    Task { options: Arc<TaskOptions>, queue: Option<Arc<TaskQueue>>, lease: Option<LeaseId> },
    Call { actor: Arc<ActorQueue>, options: Option<Arc<CallOptions>> },
}

/// A task or call whose end has not been seen.
pub(crate) struct Pending {
    pub(crate) function: &'static RemoteFunction,
    pub(crate) id: FunctionId,
    pub(crate) args: SmallVec<[Arg; 2]>,
    pub(crate) returns: SmallVec<[Arc<Entry>; 1]>,
    /// What it yields, if it streams; then it returns one unit at its end.
    pub(crate) stream: Option<Arc<Streaming>>,
    pub(crate) attempts: Attempts,
    pub(crate) work: Work,
    /// The number of the task of this process that submitted it; 0 if none did.
    pub(crate) parent: u64,
    /// Its results have failed already; it is only waited for until its worker is done with it.
    pub(crate) cancelled: bool,
    /// It has ended before, and makes lost results again.
    pub(crate) rerun: Option<Rerun>,
}

/// How often work was pushed, and how many of those pushes count against its retries.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Attempts {
    pushed: u32,
    charged: u32,
    spared: u32,
    ended_for_memory: u32,
}

/// How often a task runs again uncharged because something else has ended its worker. It may be
/// what the task itself has started there, an actor for example, which nobody can tell.
const MAX_SPARED: u32 = 16;

impl Attempts {
    /// Names the latest push, from 1; 0 while there was none. No number is used twice, so what is
    /// said of an earlier push is never taken for the present one.
    pub(crate) fn number(self) -> u32 {
        self.pushed
    }

    /// Those that count, from 1.
    pub(crate) fn charged(self) -> u32 {
        self.charged
    }

    /// It is pushed, and that counts until it is known not to have run.
    pub(crate) fn push(&mut self) {
        self.pushed += 1;
        self.charged += 1;
    }

    /// The latest push made it run, but something else ended its worker: it is not charged, unless
    /// that happens again and again. False when it is.
    pub(crate) fn spare(&mut self) -> bool {
        let spared = self.spared < MAX_SPARED;
        if spared {
            self.spared += 1;
            self.uncharge();
        }
        spared
    }

    /// It ran when its worker was ended for want of memory; that is not charged. How often that has
    /// happened.
    pub(crate) fn end_for_memory(&mut self) -> u32 {
        self.uncharge();
        self.ended_for_memory += 1;
        self.ended_for_memory
    }

    /// The latest push did not make it run.
    pub(crate) fn uncharge(&mut self) {
        self.charged = self.charged.saturating_sub(1);
    }
}

impl Pending {
    /// The error of the first argument that failed: the work then fails with it, unrun.
    pub(crate) fn failed_argument(&self) -> Option<Box<Error>> {
        self.args.iter().find_map(|arg| match arg {
            Arg::Object(handle) => match handle.0.outcome() {
                Some(Outcome::Failed(error)) => Some(error),
                _ => None,
            },
            Arg::Value(_) => None,
        })
    }

    /// The arguments that lie in a store.
    pub(crate) fn stored_arguments(&self) -> impl Iterator<Item = Box<StoredObject>> {
        self.args.iter().filter_map(|arg| match arg {
            Arg::Object(handle) => match handle.0.outcome() {
                Some(Outcome::Stored(stored)) => Some(stored),
                _ => None,
            },
            Arg::Value(_) => None,
        })
    }

    /// What is sent to the worker; inline values are added to `payload`. Every argument has settled
    /// before work is pushed.
    ///
    /// # Errors
    /// An argument that has failed since: it was freed, or lost for good. Then `payload` is as before.
    pub(crate) fn to_spec(&self, seq: u64, payload: &mut Payload) -> Result<TaskSpec, Box<Error>> {
        let parts = payload.len();
        let mut args = SmallVec::with_capacity(self.args.len());
        for arg in &self.args {
            match arg {
                Arg::Value(value) => {
                    payload.push(value.data.clone());
                    args.push(ArgSpec::Inline(value.encoding));
                }
                Arg::Object(handle) => match handle.0.outcome() {
                    Some(Outcome::Inline(value)) => {
                        payload.push(value.data);
                        args.push(ArgSpec::Inline(value.encoding));
                    }
                    Some(Outcome::Stored(stored)) => args.push(ArgSpec::Stored(*stored)),
                    Some(Outcome::Failed(error)) => {
                        payload.truncate(parts);
                        return Err(error);
                    }
                    // The callers wait for every argument, and none is ever unsettled again.
                    None => unreachable!("pushed with an unsettled argument"),
                },
            }
        }
        let name = match &self.work {
            Work::Task { options, .. } => options.name.clone(),
            Work::Call { .. } => None,
        };
        Ok(TaskSpec {
            seq,
            attempt: self.attempts.number(),
            function: self.id,
            name,
            args,
            returns: self.returns.len() as u32,
            stream: self.stream.as_ref().map(|stream| stream.begins(self.attempts.number())),
        })
    }

    /// The argument that is this object.
    pub(crate) fn argument(&self, object: &ObjectId) -> Option<ObjectHandle> {
        self.args.iter().find_map(|arg| match arg {
            Arg::Object(handle) if handle.id() == *object => Some(handle.clone()),
            _ => None,
        })
    }

    /// All results fail with this error.
    pub(crate) fn fail(self, error: &Error) {
        self.settle_failed(error);
    }

    pub(crate) fn settle_failed(&self, error: &Error) {
        if let Some(rerun) = &self.rerun {
            rerun.ended(self.attempts);
        }
        if let Some(stream) = &self.stream {
            stream.ends(Some(error));
        }
        for entry in &self.returns {
            entry.settle(Outcome::Failed(Box::new(error.clone())));
        }
    }
}

/// The most bytes of inline arguments in one message; far below what a frame may have.
pub(crate) const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// How many bytes these parts have.
pub(crate) fn payload_bytes(payload: &[bytes::Bytes]) -> usize {
    payload.iter().map(bytes::Bytes::len).sum()
}

const SHARDS: usize = 16;

/// Numbers that count up hash to themselves.
#[derive(Default)]
pub(crate) struct SeqHasher(u64);

impl Hasher for SeqHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
    fn write_u64(&mut self, seq: u64) {
        // The table takes its control byte from the high bits, which a plain counter leaves zero.
        self.0 = seq.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

type Shard = HashMap<u64, Box<Pending>, BuildHasherDefault<SeqHasher>>;

/// All pending work, by number.
#[derive(Default)]
pub(crate) struct PendingTable {
    shards: [Mutex<Shard>; SHARDS],
}

impl PendingTable {
    fn shard(&self, seq: u64) -> &Mutex<Shard> {
        &self.shards[seq as usize % SHARDS]
    }

    pub(crate) fn insert(&self, seq: u64, pending: Box<Pending>) {
        self.shard(seq).lock().insert(seq, pending);
    }

    /// Takes the work out, if this attempt is the current one.
    pub(crate) fn take_attempt(&self, seq: u64, attempt: u32) -> Option<Box<Pending>> {
        let mut shard = self.shard(seq).lock();
        if shard.get(&seq).is_some_and(|pending| pending.attempts.number() == attempt) {
            shard.remove(&seq)
        } else {
            None
        }
    }

    pub(crate) fn take(&self, seq: u64) -> Option<Box<Pending>> {
        self.shard(seq).lock().remove(&seq)
    }

    pub(crate) fn with<R>(&self, seq: u64, f: impl FnOnce(&mut Pending) -> R) -> Option<R> {
        self.shard(seq).lock().get_mut(&seq).map(|pending| f(pending))
    }

    /// The numbers of what satisfies this, in order.
    pub(crate) fn find(&self, satisfies: impl Fn(&Pending) -> bool) -> Vec<u64> {
        let mut seqs = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock();
            seqs.extend(shard.iter().filter(|(_, pending)| satisfies(pending)).map(|(seq, _)| *seq));
        }
        seqs.sort_unstable();
        seqs
    }

    /// What the task with this number has submitted, in order.
    pub(crate) fn submitted_by(&self, run: u64) -> Vec<u64> {
        self.find(|pending| pending.parent == run)
    }

    /// Takes everything out, in the order it was submitted.
    pub(crate) fn drain(&self) -> Vec<(u64, Box<Pending>)> {
        let mut all: Vec<_> = self.shards.iter().flat_map(|shard| std::mem::take(&mut *shard.lock())).collect();
        all.sort_by_key(|(seq, _)| *seq);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_push_that_does_not_count_still_has_a_number_of_its_own() {
        let mut attempts = Attempts::default();
        attempts.push();
        attempts.uncharge();
        attempts.push();
        assert_eq!((attempts.number(), attempts.charged()), (2, 1));
    }
}
