//! Placement groups: made, awaited, removed. As `client::groups`.

use mobula_transport::{MailboxId, SendError};

use super::super::message::{Answer, Ask, Then, Timer};
use super::super::process::Cx;
use super::super::world::gcs;
use super::{Client, GCS_WITHIN, RETRY_US};
use crate::client::groups::Question;
use crate::error::Error;
use crate::ids::PlacementGroupId;
use crate::messages::{GroupGone, GroupSpec, PlacementStrategy, Shape};
use crate::resources::{Resources, group};

/// What is to be heard of a group.
pub(super) enum Awaited {
    Made(Vec<Waiter>),
    Ready(Question<Waiter>),
    Refused(Error),
}

/// Who waits for a group.
pub(super) enum Waiter {
    Result(u64),
    Queue(Shape),
}

impl Client {
    pub(in crate::simulation) fn create_group(
        &mut self,
        group: PlacementGroupId,
        strategy: PlacementStrategy,
        bundles: Vec<Resources>,
        cx: &mut Cx<'_>,
    ) {
        self.groups.insert(group, Awaited::Made(Vec::new()));
        let spec = GroupSpec { group, job: self.job, name: None, strategy, bundles, detached: false };
        self.ask_for_group(spec, cx);
    }

    pub(super) fn ask_for_group(&mut self, spec: GroupSpec, cx: &mut Cx<'_>) {
        if matches!(self.groups.get(&spec.group), Some(Awaited::Made(_))) {
            let then = Then::GroupMade(spec.clone());
            cx.ask(MailboxId::CLIENT, gcs(), Ask::CreateGroup(spec), GCS_WITHIN, then);
        }
    }

    pub(super) fn group_answered(&mut self, spec: GroupSpec, answer: Result<Answer, SendError>, cx: &mut Cx<'_>) {
        match answer {
            Ok(Answer::Done(made)) => self.group_made(spec.group, made, cx),
            Err(error) if error.is_retriable() => cx.after(RETRY_US, Timer::GroupAgain(spec)),
            Err(error) => {
                self.remove_group(spec.group, cx);
                self.group_made(spec.group, Err(error.into()), cx);
            }
            Ok(other) => unreachable!("{other:?}"),
        }
    }

    fn group_made(&mut self, group: PlacementGroupId, made: Result<(), Error>, cx: &mut Cx<'_>) {
        let Some(Awaited::Made(waiters)) = self.groups.get_mut(&group) else { return };
        let waiters = std::mem::take(waiters);
        self.groups.remove(&group);
        match made {
            Ok(()) if waiters.is_empty() => {}
            Ok(()) => {
                self.groups.insert(group, Awaited::Ready(Question::of(waiters)));
                self.ask_whether_ready(group, cx);
            }
            Err(error) => {
                self.groups.insert(group, Awaited::Refused(error.clone()));
                self.tell(waiters, &Err(error), cx);
            }
        }
    }

    /// Settles when the group is ready, or never will be.
    pub(in crate::simulation) fn group_ready(&mut self, group: PlacementGroupId, cx: &mut Cx<'_>) -> u64 {
        let seq = self.next_seq();
        self.await_group(group, Waiter::Result(seq), cx);
        seq
    }

    fn await_group(&mut self, group: PlacementGroupId, waiter: Waiter, cx: &mut Cx<'_>) {
        match self.groups.get_mut(&group) {
            Some(Awaited::Made(waiters)) => waiters.push(waiter),
            Some(Awaited::Ready(question)) => question.join(waiter),
            Some(Awaited::Refused(error)) => {
                let refused = Err(error.clone());
                self.tell(vec![waiter], &refused, cx);
            }
            None => {
                self.groups.insert(group, Awaited::Ready(Question::of(vec![waiter])));
                self.ask_whether_ready(group, cx);
            }
        }
    }

    pub(super) fn ask_whether_ready(&mut self, group: PlacementGroupId, cx: &mut Cx<'_>) {
        let Some(Awaited::Ready(question)) = self.groups.get_mut(&group) else { return };
        if question.ask(|_| false) {
            cx.ask(MailboxId::CLIENT, gcs(), Ask::WaitGroup(group), GCS_WITHIN, Then::GroupReady(group));
        } else {
            self.groups.remove(&group);
        }
    }

    pub(super) fn ready_answered(
        &mut self,
        group: PlacementGroupId,
        answer: Result<Answer, SendError>,
        cx: &mut Cx<'_>,
    ) {
        let ready = match answer {
            Ok(Answer::Done(ready)) => ready,
            Err(error) if error.is_retriable() => return cx.after(RETRY_US, Timer::ReadyAgain(group)),
            Err(error) => Err(error.into()),
            Ok(other) => unreachable!("{other:?}"),
        };
        let Some(Awaited::Ready(question)) = self.groups.get_mut(&group) else { return };
        let told = question.answered(|waiter| ready.is_ok() && matches!(waiter, Waiter::Queue(_)));
        self.ask_whether_ready(group, cx);
        self.tell(told, &ready, cx);
    }

    fn tell(&mut self, waiters: Vec<Waiter>, ready: &Result<(), Error>, cx: &mut Cx<'_>) {
        for waiter in waiters {
            match (waiter, ready) {
                (Waiter::Result(seq), ready) => {
                    cx.record.group_settled(ready);
                    self.settle(seq, ready.clone().map(|()| 0), cx);
                }
                (Waiter::Queue(shape), Err(error)) => self.end_queue(&shape, error, cx),
                (Waiter::Queue(_), Ok(())) => {}
            }
        }
    }

    pub(in crate::simulation) fn remove_group(&mut self, group: PlacementGroupId, cx: &mut Cx<'_>) {
        let error = Error::GroupRemoved { group, why: "it was removed".to_owned() };
        self.group_made(group, Err(error), cx);
        cx.insist(MailboxId::CLIENT, gcs(), Ask::RemoveGroup(group));
    }

    pub(super) fn group_gone(&mut self, gone: &GroupGone, cx: &mut Cx<'_>) {
        let error = Error::GroupRemoved { group: gone.group, why: "it was removed".to_owned() };
        self.end_queue(&gone.shape, &error, cx);
    }

    /// Nothing of this shape can run any more.
    fn end_queue(&mut self, shape: &Shape, error: &Error, cx: &mut Cx<'_>) {
        for seq in self.step(shape, cx, |s, _, out| s.end(out)) {
            self.fail(seq, error, cx);
        }
    }

    pub(super) fn look_for_group(&mut self, shape: &Shape, cx: &mut Cx<'_>) {
        if let Some(group) = group::group_of(&shape.demand).filter(|_| self.queues.contains_key(shape)) {
            self.await_group(group, Waiter::Queue(shape.clone()), cx);
        }
    }
}
