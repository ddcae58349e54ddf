//! Lineage: how a task's stored results can be made again when their bytes are lost.
//!
//! An owner keeps the *recipe* of a stored result (function, arguments, options, attempts) as long
//! as the object lives, or the lineage of something that was made from it. A recipe holds the
//! recipes of its arguments, not their values: an intermediate result whose last reference is dropped
//! is freed at once, and made again if it is needed.
//!
//! ```text
//!   lost: a get, a worker that cannot bring an argument, a borrower says so, and which place it tried
//!     │ another place is known by now ──────────────────────────────▶ there
//!     │ being made again ─────────────── waits ──┐
//!     ▼                                          ▼
//!   arguments that are gone are made first,   the same task, its next attempt ──▶ the new place
//!   as tasks of their own
//! ```
//!
//! An entry stays settled meanwhile; who finds its bytes lost waits for the next place. Results of the
//! task that are still there stay where they are: the first commit wins.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use smallvec::SmallVec;

use self::plan::parts_first;
use super::entry::{Entry, ObjectHandle, Outcome};
use super::options::TaskOptions;
use super::pending::{Arg, Attempts, Pending, Work};
use super::{Client, Refs};
use crate::error::Error;
use crate::ids::{FunctionId, ObjectId};
use crate::registry::RemoteFunction;
use crate::value::Value;

mod plan;
#[cfg(test)]
mod tests;

/// What all recipes of a process may take together. Beyond it the oldest are forgotten, and their
/// objects cannot be made again.
const LINEAGE_LIMIT_BYTES: usize = 256 * 1024 * 1024;

/// What a recipe takes beside the bytes of its arguments, about.
const RECIPE_BYTES: usize = 512;

/// How an object came to be, which says whether it can be made again.
#[derive(Clone, Default)]
pub(crate) enum Origin {
    /// It was put.
    #[default]
    Put,
    /// A call of an actor returned it, and no task can do what it did.
    Call,
    /// A task or call yielded it.
    Stream,
    /// A task that may not run again returned it.
    Once,
    /// A task that may run again returned it, or a call that such a task can stand for.
    Task(Arc<Lineage>),
}

impl Origin {
    /// How it can be made again, or why it cannot.
    fn lineage(&self) -> Result<&Arc<Lineage>, &'static str> {
        match self {
            Self::Put => Err("it was put, and nothing can make it again"),
            Self::Call => Err("an actor's call returned it, and calls do not run again"),
            Self::Stream => Err("a stream yielded it, and streams do not run again for an item"),
            Self::Once => Err("the task that made it may not run again: its max_retries is 0"),
            Self::Task(lineage) => Ok(lineage),
        }
    }
}

/// What it takes to run a task again.
struct Recipe {
    seq: u64,
    function: &'static RemoteFunction,
    options: Arc<TaskOptions>,
    args: SmallVec<[Ingredient; 2]>,
    returns: SmallVec<[Weak<Entry>; 1]>,
    cost_bytes: usize,
    lineages: Arc<Counts>,
}

/// An argument, as it is remembered.
enum Ingredient {
    /// A value that travels in the message, and the references inside it.
    Value(Value, Vec<Weak<Entry>>),
    /// The result of a task that can be made again.
    Result { of: Arc<Lineage>, object: ObjectId, entry: Weak<Entry> },
    /// An object that cannot.
    Object { object: ObjectId, entry: Weak<Entry> },
}

/// How the results of a task can be made again.
pub(crate) struct Lineage(Mutex<State>);

struct State {
    /// None when it was forgotten.
    recipe: Option<Arc<Recipe>>,
    attempts: Attempts,
    /// The number of the run that is under way; 0 if none is.
    running: u64,
    runs: u64,
}

/// A task that is run again; when this is gone, it may be run once more.
pub(crate) struct Rerun {
    lineage: Arc<Lineage>,
    run: u64,
}

impl Rerun {
    /// The attempt has ended, after so many. To be called before its results are settled: who finds
    /// another one lost from now on begins anew.
    pub(crate) fn ended(&self, attempts: Attempts) -> Arc<Lineage> {
        let mut state = self.lineage.0.lock();
        if state.running == self.run {
            state.running = 0;
            state.attempts = attempts;
        }
        self.lineage.clone()
    }

    /// It was cancelled: nobody wants its results.
    pub(crate) fn cancelled(&self) {
        let recipe = self.lineage.0.lock().recipe.take();
        drop(recipe);
    }
}

impl Drop for Rerun {
    fn drop(&mut self) {
        let mut state = self.lineage.0.lock();
        if state.running == self.run {
            state.running = 0;
        }
    }
}

impl Drop for Lineage {
    fn drop(&mut self) {
        // One after the other: what was made from what may be a chain longer than a stack allows.
        let mut recipes: Vec<Arc<Recipe>> = self.0.get_mut().recipe.take().into_iter().collect();
        while let Some(recipe) = recipes.pop() {
            let Some(mut recipe) = Arc::into_inner(recipe) else { continue };
            for ingredient in recipe.args.drain(..) {
                if let Ingredient::Result { of, .. } = ingredient
                    && let Some(mut lineage) = Arc::into_inner(of)
                {
                    recipes.extend(lineage.0.get_mut().recipe.take());
                }
            }
        }
    }
}

impl Drop for Recipe {
    fn drop(&mut self) {
        self.lineages.bytes.fetch_sub(self.cost_bytes, Ordering::Relaxed);
        self.lineages.recipes.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The lineages of a process, within their bound.
#[derive(Default)]
pub(super) struct Lineages {
    counts: Arc<Counts>,
    oldest_first: Mutex<VecDeque<Weak<Lineage>>>,
}

#[derive(Default)]
struct Counts {
    bytes: AtomicUsize,
    recipes: AtomicUsize,
}

impl Lineages {
    /// Remembers how the results of a task that has ended can be made again.
    pub(super) fn origin(&self, seq: u64, pending: &mut Pending) -> Origin {
        let (function, options, first) = match &pending.work {
            Work::Task { options, .. } => (pending.function, options.clone(), None),
            Work::Call { options, .. } => match options.as_ref().and_then(|options| options.as_task.as_ref()) {
                Some(task) => (task.function, task.options.clone(), Some(Ingredient::value(task.first.clone()))),
                None => return Origin::Call,
            },
        };
        if let Some(rerun) = &pending.rerun {
            return Origin::Task(rerun.ended(pending.attempts));
        }
        if options.max_retries == 0 {
            return Origin::Once;
        }
        let args: SmallVec<[_; 2]> = std::mem::take(&mut pending.args).into_iter().map(Ingredient::of).collect();
        // All calls of an actor share what it was made from.
        let cost_bytes = RECIPE_BYTES + args.iter().map(Ingredient::cost_bytes).sum::<usize>();
        let args = first.into_iter().chain(args).collect();
        let recipe = Recipe {
            seq,
            function,
            options,
            args,
            returns: pending.returns.iter().map(Arc::downgrade).collect(),
            cost_bytes,
            lineages: self.counts.clone(),
        };
        self.counts.recipes.fetch_add(1, Ordering::Relaxed);
        self.counts.bytes.fetch_add(cost_bytes, Ordering::Relaxed);
        let state = State { recipe: Some(Arc::new(recipe)), attempts: pending.attempts, running: 0, runs: 0 };
        let lineage = Arc::new(Lineage(Mutex::new(state)));
        self.remember(&lineage, LINEAGE_LIMIT_BYTES);
        Origin::Task(lineage)
    }

    fn remember(&self, lineage: &Arc<Lineage>, limit_bytes: usize) {
        let mut forgotten = Vec::new();
        let mut oldest_first = self.oldest_first.lock();
        oldest_first.push_back(Arc::downgrade(lineage));
        while self.counts.bytes.load(Ordering::Relaxed) > limit_bytes + forgotten_bytes(&forgotten)
            && let Some(oldest) = oldest_first.pop_front()
        {
            forgotten.extend(oldest.upgrade().and_then(|oldest| oldest.0.lock().recipe.take()));
        }
        // Most are gone long before it is their turn.
        if oldest_first.len() > 64 + 2 * self.counts.recipes.load(Ordering::Relaxed) {
            oldest_first.retain(|lineage| lineage.strong_count() > 0);
        }
        drop(oldest_first);
    }
}

fn forgotten_bytes(recipes: &[Arc<Recipe>]) -> usize {
    recipes.iter().map(|recipe| recipe.cost_bytes).sum()
}

impl Ingredient {
    fn of(arg: Arg) -> Self {
        match arg {
            Arg::Value(value) => Self::value(value),
            Arg::Object(handle) => match handle.0.outcome() {
                Some(Outcome::Inline(value)) => Self::value(value),
                _ => {
                    let entry = Arc::downgrade(&handle.0);
                    match handle.0.origin() {
                        Origin::Task(of) => Self::Result { of, object: handle.id(), entry },
                        _ => Self::Object { object: handle.id(), entry },
                    }
                }
            },
        }
    }

    fn value(mut value: Value) -> Self {
        let refs = std::mem::take(&mut value.refs);
        Self::Value(value, refs.iter().map(|handle| Arc::downgrade(&handle.0)).collect())
    }

    fn cost_bytes(&self) -> usize {
        match self {
            Self::Value(value, _) => value.len(),
            Self::Result { .. } | Self::Object { .. } => 0,
        }
    }
}

// ---- making it again -----------------------------------------------------------------------------

/// What a recipe's arguments are now.
#[derive(Default)]
struct Kitchen {
    /// Those that live, kept until they are used.
    alive: Vec<ObjectHandle>,
    /// The results of tasks that run again for it.
    made: HashMap<*const Lineage, SmallVec<[ObjectHandle; 1]>>,
}

impl Client {
    /// Runs the task that made this object again, unless that is under way.
    ///
    /// # Errors
    /// Why it cannot be made again.
    pub(super) fn make_again(&self, object: ObjectId, origin: &Origin, why: &str) -> Result<(), Error> {
        let lost = |more: &str| Error::ObjectLost { object, why: format!("{why}; {more}") };
        let lineage = origin.lineage().map_err(lost)?;
        let (recipe, attempts, run) = {
            let mut state = lineage.0.lock();
            if state.running != 0 {
                return Ok(());
            }
            let recipe = state.recipe(object).map_err(|more| match more {
                Unmade::Forgotten => lost(FORGOTTEN),
                Unmade::Exhausted(error) => error,
            })?;
            state.runs += 1;
            state.running = state.runs;
            (recipe, state.attempts, state.runs)
        };
        // From here on dropping it ends the run.
        let rerun = Rerun { lineage: lineage.clone(), run };
        let args = match self.ingredients(lineage, object, why) {
            Ok(args) => args,
            Err(error) => {
                drop(rerun);
                // Others may have found this run under way, and wait for it to make theirs.
                for entry in recipe.returns.iter().filter_map(Weak::upgrade) {
                    entry.settle(Outcome::Failed(Box::new(error.clone())));
                }
                return Err(error);
            }
        };
        let owner = self.address().process.id;
        let returns = recipe.returns.iter().zip(0..).map(|(entry, index)| {
            // One that nobody has any more is made, and freed, with the others.
            entry.upgrade().unwrap_or_else(|| Entry::new(ObjectId { owner, seq: recipe.seq, index }, self))
        });
        let returns = returns.collect();
        tracing::warn!(%object, function = recipe.function.name, why, "a lost object is made again");
        self.run_recipe(&recipe, args, returns, attempts, recipe.seq, Some(rerun));
        Ok(())
    }

    /// The arguments of a recipe; those that are gone are made again first.
    fn ingredients(&self, root: &Arc<Lineage>, object: ObjectId, why: &str) -> Result<SmallVec<[Arg; 2]>, Error> {
        let lost = |more: &str| Error::ObjectLost { object, why: format!("{why}; {more}") };
        let recipe_of = |lineage: &Arc<Lineage>| {
            let state = lineage.0.lock();
            // The root has been looked at, and runs.
            let recipe =
                if state.running == 0 { state.recipe(object) } else { state.recipe.clone().ok_or(Unmade::Forgotten) };
            recipe.map(|recipe| (recipe, state.attempts)).map_err(|unmade| match unmade {
                Unmade::Forgotten => lost(FORGOTTEN),
                Unmade::Exhausted(error) => error,
            })
        };
        let mut kitchen = Kitchen::default();
        let order = parts_first(root.clone(), Arc::as_ptr, |lineage| {
            let mut gone = Vec::new();
            for ingredient in &recipe_of(lineage)?.0.args {
                if let Ingredient::Result { of, entry, .. } = ingredient {
                    match entry.upgrade() {
                        Some(entry) => kitchen.alive.push(ObjectHandle(entry)),
                        None => gone.push(of.clone()),
                    }
                }
            }
            Ok::<_, Error>(gone)
        })?;
        let mut args = SmallVec::new();
        for lineage in order {
            let (recipe, attempts) = recipe_of(&lineage)?;
            args = recipe
                .args
                .iter()
                .map(|ingredient| kitchen.take(ingredient))
                .collect::<Result<_, _>>()
                .map_err(|more: String| lost(&more))?;
            if Arc::ptr_eq(&lineage, root) {
                break;
            }
            let (owner, seq) = (self.address().process.id, self.next_seq());
            let returns: SmallVec<[Arc<Entry>; 1]> =
                (0..).zip(&recipe.returns).map(|(index, _)| Entry::new(ObjectId { owner, seq, index }, self)).collect();
            kitchen.made.insert(Arc::as_ptr(&lineage), returns.iter().cloned().map(ObjectHandle).collect());
            self.run_recipe(&recipe, std::mem::take(&mut args), returns, attempts, seq, None);
        }
        Ok(args)
    }

    fn run_recipe(
        &self,
        recipe: &Recipe,
        args: SmallVec<[Arg; 2]>,
        returns: SmallVec<[Arc<Entry>; 1]>,
        attempts: Attempts,
        seq: u64,
        rerun: Option<Rerun>,
    ) {
        // Those of a task are small by now; what an actor was made from need not be.
        let args = self.store_large(args);
        let dependencies = self.unsettled(&args);
        let pending = Pending {
            function: recipe.function,
            id: FunctionId::of(recipe.function.name),
            args,
            returns,
            stream: None,
            attempts,
            work: Work::Task { options: recipe.options.clone(), queue: None, lease: None },
            parent: 0,
            cancelled: false,
            rerun,
        };
        self.0.pending.insert(seq, Box::new(pending));
        if !self.is_open() {
            self.fail_pending(seq, &super::no_session());
        }
        if dependencies.is_empty() {
            self.dependencies_ready(seq);
        } else {
            self.wait_for(dependencies, move |client| client.dependencies_ready(seq));
        }
    }
}

const FORGOTTEN: &str = "how it was made is forgotten, since too much had to be remembered";

/// Why there is no recipe.
enum Unmade {
    Forgotten,
    Exhausted(Error),
}

impl State {
    fn recipe(&self, object: ObjectId) -> Result<Arc<Recipe>, Unmade> {
        let recipe = self.recipe.clone().ok_or(Unmade::Forgotten)?;
        let attempts = recipe.options.max_retries.saturating_add(1);
        if self.attempts.charged() >= attempts {
            let function = recipe.function.name.to_owned();
            return Err(Unmade::Exhausted(Error::AttemptsExhausted { object, function, attempts }));
        }
        Ok(recipe)
    }
}

impl Kitchen {
    fn take(&self, ingredient: &Ingredient) -> Result<Arg, String> {
        let freed = |object: ObjectId| {
            format!("{object}, which it was made from, has been freed, and nothing can make that again")
        };
        match ingredient {
            Ingredient::Value(value, refs) => {
                let held: Option<Vec<_>> = refs.iter().map(|entry| entry.upgrade().map(ObjectHandle)).collect();
                let held = held.ok_or("a reference inside a value that it was made from has been dropped")?;
                Ok(Arg::Value(Value { refs: Refs::from(held), ..value.clone() }))
            }
            Ingredient::Result { of, object, entry } => {
                let made = || self.made.get(&Arc::as_ptr(of)).and_then(|made| made.get(object.index as usize)).cloned();
                entry.upgrade().map(ObjectHandle).or_else(made).map(Arg::Object).ok_or_else(|| freed(*object))
            }
            Ingredient::Object { object, entry } => {
                entry.upgrade().map(ObjectHandle).map(Arg::Object).ok_or_else(|| freed(*object))
            }
        }
    }
}
