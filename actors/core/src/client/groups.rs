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
    Ready(Vec<Waiter>),
    /// Nothing: it was refused, or removed before it was made.
    Refused(Error),
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
                groups.insert(group, Awaited::Ready(waiters));
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
            Some(Awaited::Made(waiters) | Awaited::Ready(waiters)) => waiters.push(waiter),
            Some(Awaited::Refused(error)) => {
                let refused = Err(error.clone());
                drop(groups);
                waiter.tell(self, &refused);
            }
            None => {
                groups.insert(group, Awaited::Ready(vec![waiter]));
                drop(groups);
                self.ask_whether_ready(group);
            }
        }
    }

    /// Asks the GCS for a group's fate, while somebody waits for it.
    fn ask_whether_ready(&self, group: PlacementGroupId) {
        {
            let mut groups = self.0.groups.lock();
            let Some(Awaited::Ready(waiters)) = groups.get_mut(&group) else { return };
            waiters.retain(|waiter| !waiter.is_gone());
            if waiters.is_empty() {
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
        let heard = {
            let mut groups = self.0.groups.lock();
            match groups.remove(&group) {
                Some(Awaited::Ready(waiters)) => waiters,
                Some(other) => {
                    groups.insert(group, other);
                    return;
                }
                None => return,
            }
        };
        heard.into_iter().for_each(|waiter| waiter.tell(self, ready));
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
            if let Awaited::Made(waiters) | Awaited::Ready(waiters) = awaited {
                waiters.into_iter().for_each(|waiter| waiter.tell(self, &ended));
            }
        }
    }
}
