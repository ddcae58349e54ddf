//! Placement groups: making, awaiting and removing them.
//!
//! However many wait for a group in this process, the GCS is asked once, and only while somebody
//! waits.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use mobula_transport::MailboxId;

use super::entry::{Entry, Outcome};
use super::task_queue::TaskQueue;
use super::{Client, ObjectHandle};
use crate::delivery::insist;
use crate::error::Error;
use crate::ids::PlacementGroupId;
use crate::messages::{
    CreateGroup, GroupGone, GroupInfo, GroupSpec, LeasePending, ListGroups, PlacementStrategy, RemoveGroup, WaitGroup,
};
use crate::resources::{Resources, group};

/// The groups of which this client waits to hear. Only looked up by key.
pub(super) type Groups = HashMap<PlacementGroupId, Awaited>;

/// What is to be heard of a group.
pub(super) enum Awaited {
    /// Whether it is made.
    Made(Vec<Waiter>),
    /// When it is ready.
    Ready(Question<Waiter>),
    /// Nothing: it was refused, or removed before it was made.
    Refused(Error),
}

/// A question for a group that is under way, and who waits for its answer.
pub(crate) struct Question<W> {
    /// Who waited when it was asked.
    asked: Vec<W>,
    /// Who has come since: that the group was ready is perhaps old news to them.
    late: Vec<W>,
}

impl<W> Question<W> {
    pub(crate) fn of(waiters: Vec<W>) -> Self {
        Self { asked: waiters, late: Vec::new() }
    }

    /// One more waits for the answer.
    pub(crate) fn join(&mut self, waiter: W) {
        self.late.push(waiter);
    }

    /// It is asked, perhaps again. False when nobody waits any more.
    pub(crate) fn ask(&mut self, is_gone: impl Fn(&W) -> bool) -> bool {
        self.asked.append(&mut self.late);
        self.asked.retain(|waiter| !is_gone(waiter));
        !self.asked.is_empty()
    }

    /// It is answered, and who is to be told. Those who have come since and `doubts` still have to
    /// know: a raylet has told them meanwhile that the group's room is nowhere, and if the group is no
    /// more, it was so after this answer was given.
    pub(crate) fn answered(&mut self, doubts: impl Fn(&W) -> bool) -> Vec<W> {
        let mut told = std::mem::take(&mut self.asked);
        told.extend(self.late.extract_if(.., |waiter| !doubts(waiter)));
        told
    }
}

/// Who waits for a group. One that nobody waits for any more is gone.
pub(super) enum Waiter {
    /// It resolves when the group is ready.
    Entry(Weak<Entry>),
    /// Its tasks fail when there is no such group.
    Queue(Weak<TaskQueue>),
}

impl Waiter {
    fn is_gone(&self) -> bool {
        match self {
            Self::Entry(entry) => entry.strong_count() == 0,
            Self::Queue(queue) => queue.strong_count() == 0,
        }
    }

    /// Whether it has reason to believe that the group is no more.
    fn doubts(&self) -> bool {
        matches!(self, Self::Queue(_))
    }

    fn tell(self, client: &Client, ready: &Result<(), Error>) {
        match self {
            Self::Entry(entry) => {
                if let Some(entry) = entry.upgrade() {
                    entry.settle(match ready {
                        Ok(()) => Outcome::unit(),
                        Err(error) => Outcome::Failed(Box::new(error.clone())),
                    });
                }
            }
            Self::Queue(queue) => {
                if let (Some(queue), Err(error)) = (queue.upgrade(), ready) {
                    queue.end(client, error);
                }
            }
        }
    }
}

impl Client {
    /// Makes a placement group; its id is there at once. Why it cannot be made is said by
    /// [`group_ready`](Self::group_ready).
    pub fn create_group(
        &self,
        strategy: PlacementStrategy,
        bundles: Vec<Resources>,
        name: Option<String>,
        detached: bool,
    ) -> PlacementGroupId {
        let group = PlacementGroupId::random();
        self.0.groups.lock().insert(group, Awaited::Made(Vec::new()));
        self.ask_for_group(GroupSpec { group, job: self.job(), name, strategy, bundles, detached });
        group
    }

    /// Asks the GCS to make a group, until it has answered or nobody wants it any more. It knows a
    /// group by its id, so asking twice makes one.
    fn ask_for_group(&self, spec: GroupSpec) {
        let (client, group) = (self.clone(), spec.group);
        if !matches!(self.0.groups.lock().get(&group), Some(Awaited::Made(_))) {
            return;
        }
        self.ask_gcs(CreateGroup { spec: spec.clone() }, move |answer| match answer {
            Ok(made) => client.group_made(group, made),
            Err(error) if error.is_retriable() && client.is_open() => {
                tracing::debug!(%group, %error, "asking the GCS again to make the placement group");
                client.clone().again_soon(move || client.ask_for_group(spec));
            }
            Err(error) => {
                // It may have been made all the same, and nobody would ever use it.
                client.remove_group(group);
                client.group_made(group, Err(error.into()));
            }
        });
    }

    fn group_made(&self, group: PlacementGroupId, made: Result<(), Error>) {
        let mut groups = self.0.groups.lock();
        let Some(Awaited::Made(waiters)) = groups.get_mut(&group) else { return };
        let waiters = std::mem::take(waiters);
        groups.remove(&group);
        match made {
            Ok(()) if waiters.is_empty() => {}
            Ok(()) => {
                groups.insert(group, Awaited::Ready(Question::of(waiters)));
                drop(groups);
                self.ask_whether_ready(group);
            }
            Err(error) => {
                groups.insert(group, Awaited::Refused(error.clone()));
                drop(groups);
                let refused = Err(error);
                waiters.into_iter().for_each(|waiter| waiter.tell(self, &refused));
            }
        }
    }

    /// Resolves to unit when all bundles of the group are reserved, or to why they never will be.
    pub fn group_ready(&self, group: PlacementGroupId) -> ObjectHandle {
        let entry = Entry::new(self.next_object(), self);
        self.await_group(group, Waiter::Entry(Arc::downgrade(&entry)));
        ObjectHandle(entry)
    }

    fn await_group(&self, group: PlacementGroupId, waiter: Waiter) {
        let mut groups = self.0.groups.lock();
        match groups.get_mut(&group) {
            Some(Awaited::Made(waiters)) => waiters.push(waiter),
            Some(Awaited::Ready(question)) => question.join(waiter),
            Some(Awaited::Refused(error)) => {
                let refused = Err(error.clone());
                drop(groups);
                waiter.tell(self, &refused);
            }
            None => {
                groups.insert(group, Awaited::Ready(Question::of(vec![waiter])));
                drop(groups);
                self.ask_whether_ready(group);
            }
        }
    }

    /// Asks the GCS for a group's fate, while somebody waits for it.
    fn ask_whether_ready(&self, group: PlacementGroupId) {
        {
            let mut groups = self.0.groups.lock();
            let Some(Awaited::Ready(question)) = groups.get_mut(&group) else { return };
            if !question.ask(Waiter::is_gone) {
                groups.remove(&group);
                return;
            }
        }
        let client = self.clone();
        self.ask_gcs(WaitGroup { group }, move |answer| match answer {
            Ok(ready) => client.group_heard(group, &ready),
            Err(error) if error.is_retriable() && client.is_open() => {
                tracing::debug!(%group, %error, "asking the GCS again for the placement group");
                client.clone().again_soon(move || client.ask_whether_ready(group));
            }
            Err(error) => client.group_heard(group, &Err(error.into())),
        });
    }

    fn group_heard(&self, group: PlacementGroupId, ready: &Result<(), Error>) {
        let told = {
            let mut groups = self.0.groups.lock();
            let Some(Awaited::Ready(question)) = groups.get_mut(&group) else { return };
            question.answered(|waiter| ready.is_ok() && waiter.doubts())
        };
        // Asks again if somebody still has to know, and forgets the question if not.
        self.ask_whether_ready(group);
        told.into_iter().for_each(|waiter| waiter.tell(self, ready));
    }

    /// Gives a group's room back: actors in it end, tasks in it fail. One that is not there is none.
    pub fn remove_group(&self, group: PlacementGroupId) {
        let error = Error::GroupRemoved { group, why: "it was removed".to_owned() };
        // Whether it was made is not waited for any more, and it is not asked for again.
        self.group_made(group, Err(error));
        insist(self.endpoint(), MailboxId::CLIENT, self.gcs(), RemoveGroup { group });
    }

    /// All placement groups of the cluster.
    ///
    /// # Errors
    /// The failure to reach the GCS.
    pub fn list_groups(&self) -> Result<Vec<GroupInfo>, Error> {
        self.ask_gcs_blocking(ListGroups)
    }

    /// The raylet says that a shape's group is no more: nothing of that shape runs any more.
    pub(super) fn group_gone(&self, gone: &GroupGone) {
        let queue = self.0.queues.get(&gone.shape);
        if let Some(queue) = queue {
            let why = "it was removed".to_owned();
            queue.end(self, &Error::GroupRemoved { group: gone.group, why });
        }
    }

    /// No node has what this shape needs. If that is a group's room, the GCS knows whether there is
    /// such a group.
    pub(super) fn look_for_group(&self, pending: &LeasePending) {
        let queue = self.0.queues.get(&pending.shape).map(|queue| Arc::downgrade(&queue));
        if let (Some(group), Some(queue)) = (group::group_of(&pending.shape.demand), queue) {
            self.await_group(group, Waiter::Queue(queue));
        }
    }

    /// The session ends: nobody hears anything any more.
    pub(super) fn end_groups(&self, error: &Error) {
        let groups = std::mem::take(&mut *self.0.groups.lock());
        let ended = Err(error.clone());
        for awaited in groups.into_values() {
            let waiters = match awaited {
                Awaited::Made(waiters) => waiters,
                Awaited::Ready(mut question) => question.answered(|_| false),
                Awaited::Refused(_) => continue,
            };
            waiters.into_iter().for_each(|waiter| waiter.tell(self, &ended));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_a_group_was_there_is_no_answer_to_a_doubt_that_came_later() {
        let mut question = Question::of(vec!["a doubt", "a wait"]);
        assert!(question.ask(|_| false));
        question.join("a late wait");
        question.join("a late doubt");
        assert_eq!(question.answered(|who| who.contains("doubt")), ["a doubt", "a wait", "a late wait"]);
        assert!(question.ask(|_| false), "the doubt is still to be answered");
        assert_eq!(question.answered(|who| who.contains("doubt")), ["a late doubt"]);
        assert!(!question.ask(|_| false), "nobody waits any more");
    }

    #[test]
    fn what_is_gone_is_gone_for_all_of_them_and_for_the_dead_nothing_is_asked() {
        let mut question = Question::of(vec![1, 2]);
        question.join(3);
        assert!(question.ask(|who| *who == 2));
        question.join(4);
        assert_eq!(question.answered(|_| false), [1, 3, 4]);
        question.join(5);
        assert!(!question.ask(|who| *who == 5));
    }
}
