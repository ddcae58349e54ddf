//! One leg of a stage while it runs: what is done with every block by the same kind of worker.
//!
//! Entry type: [`Leg`]. Most stages have one. Where a function needs something else than what is
//! before it (a GPU, actors of its own), it begins another one, and each block goes through the
//! legs as through the hands of runners: the next leg takes it as soon as it is there, while the
//! one before works on the blocks behind.
//!
//! ```text
//!   block ─▶ leg: read, decode ─▶ object in the store ─▶ leg: actors with GPUs ─▶ sink
//!            a task on any CPU                           hand it out first: what is nearly
//!                                                        done makes room
//! ```

use std::collections::BTreeSet;

use mobula_core::client::{Client, TaskOptions};
use mobula_core::messages::Strategy;

use super::RunError;
use super::crew::{Crew, UnderWay};
use super::live::Live;
use super::lower::Todo;
use super::needs::Needs;
use super::stage_run::Ran;
use super::task::{Order, encode};
use crate::execute::Progress;
use crate::stage::{Input, Stage};

/// A leg while it runs.
pub(super) struct Leg {
    pub(super) crew: Crew,
    pub(super) needs: Needs,
    /// How many objects each of its tasks gives.
    pub(super) objects: u32,
    /// Blocks that are handed out at once at most.
    pub(super) window: usize,
    /// What it is given; where a block has not come so far, nothing.
    pub(super) tasks: Vec<Option<Todo>>,
    pub(super) under_way: Vec<UnderWay>,
    /// What its tasks gave, by the places of their blocks and without their objects, if another leg
    /// has taken that.
    pub(super) ran: Vec<(usize, Ran)>,
    live: Live,
    /// Its blocks are handed out in source order: a single object sees its rows in theirs.
    in_order: bool,
    /// Blocks that have come, and wait for those before them.
    early: BTreeSet<usize>,
    /// All blocks before this one have come.
    next: usize,
}

impl Leg {
    /// Ready to run its tasks, `window` of them at once at most. They are all known, or none is yet.
    pub(super) fn new(
        client: &Client,
        stage: Stage,
        tasks: Vec<Option<Todo>>,
        needs: Needs,
        window: usize,
    ) -> Result<Self, RunError> {
        let mut submit = TaskOptions::default();
        let reads = |task: &Todo| !matches!(task.input, Input::Objects(_));
        // Blocks that are read from disk are independent: every node takes its share. Rows that
        // lie in the store are taken where they are.
        if tasks.iter().flatten().any(reads) {
            submit.strategy = Strategy::Spread;
        }
        let objects = stage.sink.objects();
        submit.name = Some(stage.title());
        submit.returns = 1 + objects;
        submit.demand = needs.demand.clone();
        let live = Live::begin();
        let order = encode(&Order { run: live.id, stage })?;
        let crew = Crew::new(client, order, submit, &needs, tasks.len());
        let in_order = needs.actors.is_some_and(|(_, max)| max == 1);
        let (under_way, ran, early) = (Vec::new(), Vec::new(), BTreeSet::new());
        Ok(Self { crew, needs, objects, window, tasks, under_way, ran, live, in_order, early, next: 0 })
    }

    /// A block does not come, since its end is known.
    pub(super) fn pass_by(&mut self, index: usize) {
        self.tasks[index] = None;
        self.comes(index, None);
    }

    /// A block has come; the first leg knows its rows, the others are told.
    pub(super) fn comes(&mut self, index: usize, rows: Option<Todo>) {
        if rows.is_some() {
            self.tasks[index] = rows;
        }
        self.early.insert(index);
        if !self.in_order {
            self.next = index;
        }
        while self.early.remove(&self.next) {
            if self.tasks[self.next].is_some() {
                self.crew.want(self.next);
            }
            self.next += 1;
        }
    }

    /// Whether one more of its blocks may be handed out.
    pub(super) fn has_room(&self) -> bool {
        self.under_way.len() < self.window
    }

    /// What its blocks in this process have done so far.
    pub(super) fn progress(&self) -> Progress {
        self.live.counters.sum()
    }

    /// Whether a block of its is in a worker's hands.
    pub(super) fn works(&self, client: &Client) -> bool {
        self.under_way.iter().any(|block| self.crew.works_on(client, block))
    }
}
