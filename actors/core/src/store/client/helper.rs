//! The client's timers, and its ear for what the store has to say.

use std::sync::Weak;

use mobula_transport::{Actor, Context, Handlers, TimerId};
use serde::{Deserialize, Serialize};

use super::{COUNT_AFTER, Inner, RELEASE_DELAY};
use crate::store::messages::SegmentsDropped;

/// Does one thing after the other: pins are counted or given back.
pub(super) struct Helper {
    inner: Weak<Inner>,
    deadline_timer: Option<TimerId>,
    count_timer: Option<TimerId>,
}

/// A client to its own helper: set a timer.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) enum Wake {
    /// Pins wait to be given back.
    Releases,
    /// They are to be given back now.
    Flush,
    /// The connection has changed: the pins are to be counted.
    Count,
    /// There is an earlier deadline.
    Deadlines,
}
mobula_transport::message!(Wake);

impl Actor for Helper {
    const NAME: &'static str = "store-client";

    fn handlers(table: &mut Handlers<Self>) {
        table.on::<SegmentsDropped>(|helper, message, _, _| {
            if let Some(inner) = helper.inner.upgrade() {
                inner.mappings.forget(&message.segments);
            }
        });
        table.on::<Wake>(|helper, message, _, ctx| match message {
            Wake::Releases => {
                ctx.later(RELEASE_DELAY, |helper, _| {
                    if let Some(inner) = helper.inner.upgrade() {
                        inner.state.lock().release_armed = false;
                        inner.give_back();
                    }
                });
            }
            Wake::Flush => {
                if let Some(inner) = helper.inner.upgrade() {
                    inner.give_back();
                }
            }
            Wake::Count => {
                // Anew with every change.
                if let Some(timer) = helper.count_timer.take() {
                    ctx.cancel(timer);
                }
                helper.count_timer = Some(ctx.later(COUNT_AFTER, Self::count_pins));
            }
            Wake::Deadlines => helper.look_at_deadlines(ctx),
        });
    }
}

impl Helper {
    pub(super) fn new(inner: Weak<Inner>) -> Self {
        Self { inner, deadline_timer: None, count_timer: None }
    }

    fn count_pins(&mut self, _: &mut Context<Self>) {
        self.count_timer = None;
        if let Some(inner) = self.inner.upgrade() {
            inner.count_pins();
        }
    }

    fn look_at_deadlines(&mut self, ctx: &mut Context<Self>) {
        let next = self.inner.upgrade().and_then(|inner| inner.sweep_deadlines(ctx.now()));
        if let Some(timer) = self.deadline_timer.take() {
            ctx.cancel(timer);
        }
        self.deadline_timer = next.map(|next| ctx.later(next, Self::look_at_deadlines));
    }
}
