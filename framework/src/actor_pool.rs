//! A pool of actors that share the work.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::{Duration, Instant};

use mobula_core::error::Error;

use crate::actor::RemoteHandle;
use crate::object::{ObjectRef, get, wait};
use crate::value::Value;

/// A call that waits for an idle actor.
type Waiting<H, T> = Box<dyn FnOnce(&H) -> ObjectRef<T> + Send>;

/// Work for a fixed number of actors: each takes one call at a time, and the next as soon as it has
/// ended.
///
/// ```
/// use mobula::{ActorPool, Config, remote};
///
/// struct Doubler;
///
/// #[remote]
/// impl Doubler {
///     fn new() -> Self { Self }
///     fn double(&self, x: i64) -> i64 { 2 * x }
/// }
///
/// #[mobula::main]
/// fn main() -> Result<(), mobula::Error> {
///     mobula::init(Config::default())?;
///     let mut pool = ActorPool::new([Doubler::remote(), Doubler::remote()]);
///     // In the order of the values; `map_unordered` gives what is ready first.
///     let doubled: Result<Vec<i64>, _> = pool.map(|actor, x| actor.double().remote(x), 0..4).collect();
///     assert_eq!(doubled?, [0, 2, 4, 6]);
///
///     pool.submit(|actor| actor.double().remote(21));
///     assert_eq!(pool.get_next()?, Some(42));
///     Ok(())
/// }
/// ```
///
/// A call that fails is a result like any other, and its actor is idle again: the pool does not
/// look after actors that have died. Give them `max_restarts`, or take them out.
pub struct ActorPool<H, T: Value> {
    idle: VecDeque<H>,
    /// Calls that no actor has yet, oldest first.
    waiting: VecDeque<Waiting<H, T>>,
    /// Calls under way, by number, with their actors.
    running: BTreeMap<u64, (ObjectRef<T>, H)>,
    /// Calls whose actor was given back, and whose result nobody has taken.
    ended: BTreeMap<u64, ObjectRef<T>>,
    /// The number of the next call that an actor gets.
    next_call: u64,
    /// The number of the next result that is given in order.
    next_result: u64,
}

impl<H: RemoteHandle, T: Value> ActorPool<H, T> {
    /// A pool of these actors.
    pub fn new(actors: impl IntoIterator<Item = H>) -> Self {
        Self {
            idle: actors.into_iter().collect(),
            waiting: VecDeque::new(),
            running: BTreeMap::new(),
            ended: BTreeMap::new(),
            next_call: 0,
            next_result: 0,
        }
    }

    /// Has an idle actor make this call, now or when there is one. The results are to be taken with
    /// [`get_next`](Self::get_next) or [`get_next_unordered`](Self::get_next_unordered), which is
    /// also when actors that have become idle get their next call.
    pub fn submit(&mut self, call: impl FnOnce(&H) -> ObjectRef<T> + Send + 'static) {
        self.waiting.push_back(Box::new(call));
        self.hand_out();
    }

    /// Whether there is a result to take, now or later.
    pub fn has_next(&self) -> bool {
        !self.waiting.is_empty() || !self.running.is_empty() || !self.ended.is_empty()
    }

    /// Whether an actor is idle and nothing waits for one.
    pub fn has_free(&self) -> bool {
        !self.idle.is_empty() && self.waiting.is_empty()
    }

    /// The next result in the order of the submissions, waiting for it; none when there is nothing
    /// to wait for. Results that [`get_next_unordered`](Self::get_next_unordered) has taken are
    /// passed over.
    ///
    /// # Errors
    /// The call's, which counts as taken.
    pub fn get_next(&mut self) -> Result<Option<T>, Error> {
        self.take_next(None)
    }

    /// [`get_next`](Self::get_next), waiting no longer than this.
    ///
    /// # Errors
    /// The call's; [`Error::TimedOut`], and then the result is still to be taken.
    pub fn get_next_timeout(&mut self, timeout: Duration) -> Result<Option<T>, Error> {
        self.take_next(Some(Deadline::after(timeout)))
    }

    /// The result that is ready first, waiting for one; none when there is nothing to wait for.
    ///
    /// # Errors
    /// The call's, which counts as taken.
    pub fn get_next_unordered(&mut self) -> Result<Option<T>, Error> {
        self.take_first(None)
    }

    /// [`get_next_unordered`](Self::get_next_unordered), waiting no longer than this.
    ///
    /// # Errors
    /// The call's; [`Error::TimedOut`], and then nothing was taken.
    pub fn get_next_unordered_timeout(&mut self, timeout: Duration) -> Result<Option<T>, Error> {
        self.take_first(Some(Deadline::after(timeout)))
    }

    /// Calls an actor for each value and gives the results in the order of the values, as they are
    /// asked for. What was submitted before and has not been taken is dropped, as is what the
    /// iterator leaves behind when it is dropped early.
    pub fn map<V>(
        &mut self,
        call: impl Fn(&H, V) -> ObjectRef<T> + Clone + Send + 'static,
        values: impl IntoIterator<Item = V>,
    ) -> impl Iterator<Item = Result<T, Error>>
    where
        V: Send + 'static,
    {
        self.submit_all(call, values);
        std::iter::from_fn(move || self.get_next().transpose())
    }

    /// [`map`](Self::map) that gives each result as soon as it is ready, whatever its value's place.
    pub fn map_unordered<V>(
        &mut self,
        call: impl Fn(&H, V) -> ObjectRef<T> + Clone + Send + 'static,
        values: impl IntoIterator<Item = V>,
    ) -> impl Iterator<Item = Result<T, Error>>
    where
        V: Send + 'static,
    {
        self.submit_all(call, values);
        std::iter::from_fn(move || self.get_next_unordered().transpose())
    }

    /// Adds an idle actor.
    pub fn push(&mut self, actor: H) {
        self.idle.push_back(actor);
        self.hand_out();
    }

    /// Takes an idle actor out, if there is one.
    pub fn pop_idle(&mut self) -> Option<H> {
        self.give_back();
        self.idle.pop_front()
    }

    fn submit_all<V: Send + 'static>(
        &mut self,
        call: impl Fn(&H, V) -> ObjectRef<T> + Clone + Send + 'static,
        values: impl IntoIterator<Item = V>,
    ) {
        self.drop_results();
        for value in values {
            let call = call.clone();
            self.submit(move |actor| call(actor, value));
        }
    }

    /// Forgets all results; their actors get the next calls when they have ended these.
    fn drop_results(&mut self) {
        self.waiting.clear();
        self.ended.clear();
        for (_, (_, actor)) in std::mem::take(&mut self.running) {
            // An actor's calls wait for each other, so it may as well have the next one now.
            self.idle.push_back(actor);
        }
        self.next_result = self.next_call;
    }

    /// Every idle actor gets a call, while there are any.
    fn hand_out(&mut self) {
        self.give_back();
        while !self.idle.is_empty()
            && let Some(call) = self.waiting.pop_front()
            && let Some(actor) = self.idle.pop_front()
        {
            let result = call(&actor);
            self.running.insert(self.next_call, (result, actor));
            self.next_call += 1;
        }
    }

    /// Actors whose calls have ended are idle again.
    fn give_back(&mut self) {
        for (number, (result, actor)) in self.running.extract_if(.., |_, (result, _)| result.is_settled()) {
            self.ended.insert(number, result);
            self.idle.push_back(actor);
        }
    }

    fn take_next(&mut self, deadline: Option<Deadline>) -> Result<Option<T>, Error> {
        loop {
            self.hand_out();
            if let Some(result) = self.ended.remove(&self.next_result) {
                self.next_result += 1;
                return get(&result).map(Some);
            }
            if let Some((result, _)) = self.running.get(&self.next_result) {
                wait_for(vec![result.clone()], deadline)?;
            } else if self.next_result < self.next_call {
                // It was taken out of order.
                self.next_result += 1;
            } else if self.waiting.is_empty() {
                return Ok(None);
            } else {
                self.wait_for_any(deadline)?;
            }
        }
    }

    fn take_first(&mut self, deadline: Option<Deadline>) -> Result<Option<T>, Error> {
        loop {
            self.hand_out();
            if let Some((_, result)) = self.ended.pop_first() {
                return get(&result).map(Some);
            }
            if self.running.is_empty() && self.waiting.is_empty() {
                return Ok(None);
            }
            self.wait_for_any(deadline)?;
        }
    }

    /// Waits until a call under way has ended.
    fn wait_for_any(&self, deadline: Option<Deadline>) -> Result<(), Error> {
        if self.running.is_empty() {
            let what = "the pool has work and no actors; push some".to_owned();
            return Err(Error::Invalid { what });
        }
        wait_for(self.running.values().map(|(result, _)| result.clone()).collect(), deadline)
    }
}

/// Until when is waited, and how long that was at the beginning.
#[derive(Clone, Copy)]
struct Deadline {
    /// None when no clock sees the end.
    at: Option<Instant>,
    timeout: Duration,
}

impl Deadline {
    fn after(timeout: Duration) -> Self {
        Self { at: Instant::now().checked_add(timeout), timeout }
    }
}

/// Waits until one of them is ready.
fn wait_for<T>(results: Vec<ObjectRef<T>>, deadline: Option<Deadline>) -> Result<(), Error> {
    let left = deadline.and_then(|deadline| deadline.at).map(|at| at.saturating_duration_since(Instant::now()));
    let (ready, _) = wait(results, 1, left)?;
    match deadline {
        Some(Deadline { timeout, .. }) if ready.is_empty() => Err(Error::TimedOut { after: timeout }),
        _ => Ok(()),
    }
}

impl<H, T: Value> fmt::Debug for ActorPool<H, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (idle, running, waiting) = (self.idle.len(), self.running.len(), self.waiting.len());
        write!(f, "ActorPool({idle} actors idle, {running} calls running, {waiting} waiting)")
    }
}
