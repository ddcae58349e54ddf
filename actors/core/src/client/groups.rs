//! Placement groups: making, awaiting and removing them.

use std::collections::HashMap;

use mobula_transport::{MailboxId, SendError};

use super::entry::{Entry, Outcome};
use super::{Client, ObjectHandle};
use crate::delivery::insist;
use crate::error::Error;
use crate::ids::PlacementGroupId;
use crate::messages::{
    CreateGroup, GroupGone, GroupInfo, GroupSpec, ListGroups, PlacementStrategy, RemoveGroup, WaitGroup,
};
use crate::resources::Resources;

/// Who waits for the answer to the making of a group.
type Waiter = Box<dyn FnOnce(Result<(), Error>) + Send>;

/// The groups of this client whose making was not answered with yes. Only looked up by key.
pub(super) type Groups = HashMap<PlacementGroupId, Making>;

/// See [`Groups`].
pub(super) enum Making {
    /// No answer yet.
    Asked(Vec<Waiter>),
    /// It was refused.
    Refused(Error),
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
        self.0.groups.lock().insert(group, Making::Asked(Vec::new()));
        self.ask_for_group(GroupSpec { group, job: self.job(), name, strategy, bundles, detached });
        group
    }

    /// Asks the GCS to make a group, until it has answered. It knows a group by its id, so asking
    /// twice makes one.
    fn ask_for_group(&self, spec: GroupSpec) {
        let (client, group) = (self.clone(), spec.group);
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
        let before = {
            let mut groups = self.0.groups.lock();
            match &made {
                Ok(()) => groups.remove(&group),
                Err(error) => groups.insert(group, Making::Refused(error.clone())),
            }
        };
        if let Some(Making::Asked(waiters)) = before {
            waiters.into_iter().for_each(|waiter| waiter(made.clone()));
        }
    }

    /// Resolves to unit when all bundles of the group are reserved, or to why they never will be.
    pub fn group_ready(&self, group: PlacementGroupId) -> ObjectHandle {
        let entry = Entry::new(self.next_object(), None, self);
        let settle = {
            let entry = entry.clone();
            move |ready: Result<(), Error>| {
                entry.settle(match ready {
                    Ok(()) => Outcome::unit(),
                    Err(error) => Outcome::Failed(Box::new(error)),
                });
            }
        };
        let refused = match self.0.groups.lock().get_mut(&group) {
            Some(Making::Asked(waiters)) => {
                let client = self.clone();
                waiters.push(Box::new(move |made| match made {
                    Ok(()) => client.await_group(group, settle),
                    Err(error) => settle(Err(error)),
                }));
                return ObjectHandle(entry);
            }
            Some(Making::Refused(error)) => Some(error.clone()),
            None => None,
        };
        match refused {
            Some(error) => settle(Err(error)),
            None => self.await_group(group, settle),
        }
        ObjectHandle(entry)
    }

    /// Asks the GCS for a group's fate, until it has answered.
    fn await_group(&self, group: PlacementGroupId, settle: impl FnOnce(Result<(), Error>) + Send + 'static) {
        let client = self.clone();
        self.ask_gcs(WaitGroup { group }, move |answer| match answer {
            Ok(ready) => settle(ready),
            Err(error) if client.is_open() && !matches!(error, SendError::Closed) => {
                tracing::debug!(%group, %error, "asking the GCS again for the placement group");
                client.clone().again_soon(move || client.await_group(group, settle));
            }
            Err(error) => settle(Err(error.into())),
        });
    }

    /// Gives a group's room back: actors in it end, tasks in it fail. One that is not there is none.
    pub fn remove_group(&self, group: PlacementGroupId) {
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
        let queue = self.0.queues.lock().get(&gone.shape).cloned();
        if let Some(queue) = queue {
            let why = "it was removed".to_owned();
            queue.end(self, &Error::GroupRemoved { group: gone.group, why });
        }
    }
}
