//! Who runs the blocks of a leg of a stage: tasks, or a pool of actors.
//!
//! Entry type: [`Crew`]. Tasks are submitted as they come. Actors are made and given blocks as
//! [`Pool`] decides; a block whose actor was lost with its worker or node runs again on another
//! one, whose state is new; what a block gave that is lost later is made again by a task. The actors of a leg end with the stage, or before, when they have nothing
//! to do and may be in the way of another leg.
//!
//! ```text
//!   block ─▶ tasks:  submit ────────────────────────────────▶ under way
//!         ─▶ actors: waits ─▶ call of an actor that is there ─▶ under way ─▶ lost? it waits again
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use mobula_core::client::{
    ActorHandle, ActorOptions, Arg, AsTask, CallOptions, Client, DEFAULT_MAX_RETRIES, ObjectHandle, TaskOptions,
};
use mobula_core::error::Error;
use mobula_core::messages::Strategy;
use mobula_core::value::Value;

use super::RunError;
use super::needs::Needs;
use super::pool::{Member, Pool, Step};
use super::stage_actor::{MAKE_ACTOR, RUN_ON_ACTOR};
use super::task::RUN_BLOCK;

/// A block under way: its report, and what it gives.
pub(super) struct UnderWay {
    pub(super) index: usize,
    pub(super) report: ObjectHandle,
    pub(super) objects: Vec<ObjectHandle>,
    member: Member,
}

/// Who runs the blocks of a leg.
pub(super) struct Crew {
    /// What all of them are told.
    order: Value,
    /// How tasks are submitted; actors are made by what it says of them, too.
    options: Arc<TaskOptions>,
    kind: Kind,
}

enum Kind {
    Tasks { wanted: VecDeque<usize> },
    Actors(Box<Actors>),
}

/// The actors of a leg.
struct Actors {
    client: Client,
    pool: Pool,
    /// A block that has ended well is run again as a task if what it gave is lost: its actor may be gone.
    as_task: Arc<CallOptions>,
    handles: BTreeMap<Member, ActorHandle>,
    /// Those that are being made, and when they are.
    making: Vec<(Member, ObjectHandle)>,
    /// How often a block was lost.
    losses: BTreeMap<usize, u32>,
    failed_starts: u32,
}

impl Crew {
    /// Tasks submitted by `options`, or the actors that `needs` asks for, for so many blocks.
    pub(super) fn new(client: &Client, order: Value, options: TaskOptions, needs: &Needs, blocks: usize) -> Self {
        let options = Arc::new(options);
        let kind = match needs.actors {
            None => Kind::Tasks { wanted: VecDeque::new() },
            Some((min, max)) => {
                let pool = Pool::new(min.min(blocks), max.min(blocks));
                let (handles, losses) = (BTreeMap::new(), BTreeMap::new());
                let (client, making) = (client.clone(), Vec::new());
                let as_task = AsTask { function: &RUN_BLOCK, options: options.clone(), first: order.clone() };
                let as_task = Arc::new(CallOptions { as_task: Some(as_task), ..CallOptions::default() });
                Kind::Actors(Box::new(Actors { client, pool, as_task, handles, making, losses, failed_starts: 0 }))
            }
        };
        Self { order, options, kind }
    }

    /// What people see of it.
    pub(super) fn name(&self) -> &str {
        self.options.name.as_deref().unwrap_or_default()
    }

    /// Whether a block may be wanted a second time, and so needs what it is given until it ends.
    pub(super) fn runs_again(&self) -> bool {
        matches!(self.kind, Kind::Actors(_))
    }

    /// Whether this block of its is in a worker's hands.
    pub(super) fn works_on(&self, client: &Client, block: &UnderWay) -> bool {
        matches!(self.kind, Kind::Actors(_)) || client.is_handed_out(&block.report)
    }

    /// Lets actors go that have nothing to do: somebody else may wait for their room. They are made
    /// again when there are blocks for them.
    pub(super) fn make_room(&mut self) {
        if let Kind::Actors(actors) = &mut self.kind {
            for member in actors.pool.rest() {
                actors.handles.remove(&member);
            }
        }
    }

    /// A block is to run.
    pub(super) fn want(&mut self, index: usize) {
        match &mut self.kind {
            Kind::Tasks { wanted } => wanted.push_back(index),
            Kind::Actors(actors) => actors.pool.want(index),
        }
    }

    /// The next block that is handed out, with the arguments that `args` gives it.
    pub(super) fn hand_out(
        &mut self,
        client: &Client,
        args: &mut dyn FnMut(usize) -> Result<Vec<Arg>, RunError>,
    ) -> Result<Option<UnderWay>, RunError> {
        let order = || Arg::Value(self.order.clone());
        let (index, member, handles) = match &mut self.kind {
            Kind::Tasks { wanted } => {
                let Some(index) = wanted.pop_front() else { return Ok(None) };
                let args = std::iter::once(order()).chain(args(index)?).collect();
                (index, 0, client.submit(&RUN_BLOCK, args, &self.options))
            }
            Kind::Actors(actors) => loop {
                match actors.pool.step() {
                    None => return Ok(None),
                    Some(Step::Make(member)) => actors.make(member, order(), &self.options),
                    Some(Step::Hand(member, index)) => {
                        let actor = actors.handles.get(&member).ok_or_else(|| invalid("an actor has no handle"))?;
                        let args = args(index)?.into_iter().collect();
                        break (
                            index,
                            member,
                            client.call_with(
                                actor,
                                &RUN_ON_ACTOR,
                                args,
                                self.options.returns,
                                Some(actors.as_task.clone()),
                            ),
                        );
                    }
                }
            },
        };
        let mut handles = handles.into_iter();
        let report = handles.next().ok_or_else(|| invalid("a block was submitted without a result"))?;
        Ok(Some(UnderWay { index, report, objects: handles.collect(), member }))
    }

    /// What tells that actors were made.
    pub(super) fn making(&self) -> Vec<ObjectHandle> {
        match &self.kind {
            Kind::Tasks { .. } => Vec::new(),
            Kind::Actors(actors) => actors.making.iter().map(|(_, ready)| ready.clone()).collect(),
        }
    }

    /// The n-th of those that were being made is, or cannot be.
    ///
    /// # Errors
    /// Why it cannot, when that is no accident.
    pub(super) fn made(&mut self, position: usize) -> Result<(), RunError> {
        let Kind::Actors(actors) = &mut self.kind else { return Ok(()) };
        let (member, ready) = actors.making.remove(position);
        match actors.client.get(&[ready], None) {
            Ok(_) => actors.pool.made(member),
            Err(error) if is_lost(&error) && actors.failed_starts < DEFAULT_MAX_RETRIES => {
                actors.failed_starts += 1;
                actors.lose(member);
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// A block has ended. Whether it was lost with its actor and is to run again, which is then
    /// seen to.
    pub(super) fn ended(&mut self, block: &UnderWay, error: Option<&RunError>) -> bool {
        let Kind::Actors(actors) = &mut self.kind else { return false };
        actors.pool.ended(block.member);
        let Some(RunError::Core(error)) = error else { return false };
        if !is_lost(error) {
            return false;
        }
        actors.lose(block.member);
        let losses = actors.losses.entry(block.index).or_default();
        *losses += 1;
        let again = *losses <= DEFAULT_MAX_RETRIES;
        if again {
            actors.pool.want_again(block.index);
        }
        again
    }
}

impl Actors {
    /// Holds what a task of the stage would need while it lives. It is never made again under the
    /// same handle: then its blocks would wait for room for it, though other actors have time.
    fn make(&mut self, member: Member, order: Arg, options: &TaskOptions) {
        let options_of_actor = ActorOptions {
            demand: options.demand.clone(),
            placement_demand: options.demand.clone(),
            strategy: Strategy::Spread,
            ..ActorOptions::default()
        };
        let class = options.name.as_deref().unwrap_or_default();
        let actor = self.client.create_actor(&MAKE_ACTOR, class, [order].into_iter().collect(), options_of_actor);
        self.making.push((member, self.client.ready(&actor)));
        self.handles.insert(member, actor);
    }

    fn lose(&mut self, member: Member) {
        self.pool.lost(member);
        // Without a handle it ends, should it still live.
        self.handles.remove(&member);
    }
}

impl Drop for Actors {
    fn drop(&mut self) {
        // An actor ends with its last handle, and that is when its calls have ended: those that
        // nobody waits for any more are not to keep it.
        for member in self.pool.busy() {
            if let Some(Err(error)) = self.handles.get(&member).map(|actor| self.client.kill(actor, true)) {
                tracing::debug!(%error, "an actor of a stage was not told to end");
            }
        }
    }
}

/// Whether a worker or node was lost, and not the user's code at fault.
fn is_lost(error: &Error) -> bool {
    match error {
        Error::ActorDied { .. }
        | Error::ActorUnavailable { .. }
        | Error::WorkerDied { .. }
        | Error::OutOfMemory { .. } => true,
        Error::Send(error) => error.is_retriable(),
        _ => false,
    }
}

fn invalid(what: &str) -> RunError {
    RunError::Core(Error::Invalid { what: what.to_owned() })
}
