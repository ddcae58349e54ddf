//! Where objects lie, and freeing them though references remain.

use std::collections::BTreeMap;
use std::sync::Arc;

use mobula_transport::{Address, MailboxId, Payload};

use super::entry::{Entry, Outcome};
use super::{Client, GCS_DEADLINE, ObjectHandle};
use crate::delivery::insist;
use crate::error::Error;
use crate::ids::ObjectId;
use crate::messages::{FreeObject, LocateObjects, Nodes, ObjectPlace};

impl Client {
    /// The sizes of the objects, and which processes' stores have them. `None` for what is not ready,
    /// or failed.
    ///
    /// # Errors
    /// [`Error::OwnerDied`] for an object of another process that does not answer.
    pub fn locate(&self, objects: &[ObjectHandle]) -> Result<Vec<Option<ObjectPlace>>, Error> {
        let mut places: Vec<Option<ObjectPlace>> = objects.iter().map(|object| place_of(&object.0)).collect();
        let mut foreign: BTreeMap<Address, Vec<usize>> = BTreeMap::new();
        for (position, object) in objects.iter().enumerate() {
            if let Some(owner) = object.0.lender() {
                foreign.entry(owner).or_default().push(position);
            }
        }
        for (owner, positions) in foreign {
            let question =
                LocateObjects { objects: positions.iter().map(|position| objects[*position].id()).collect() };
            let answer = self.endpoint().request_blocking(owner, question, Payload::new(), GCS_DEADLINE);
            let found = answer.map_err(|error| {
                let object = positions.first().map(|position| objects[*position].id());
                object
                    .map_or_else(|| error.clone().into(), |object| Error::OwnerDied { object, why: error.to_string() })
            })?;
            for (position, place) in positions.into_iter().zip(found.0) {
                places[position] = place;
            }
        }
        Ok(places)
    }

    /// Frees the objects' bytes everywhere, though references to them remain: getting one fails with
    /// [`Error::ObjectFreed`] from now on. One that is not ready is freed when it is. Returns at once.
    pub fn free(&self, objects: &[ObjectHandle]) {
        for object in objects {
            match object.0.lender() {
                None => self.free_owned(object.0.clone()),
                Some(owner) => {
                    object.0.forget(Error::ObjectFreed { object: object.id() });
                    insist(self.endpoint(), MailboxId::CLIENT, owner, FreeObject { object: object.id() });
                }
            }
        }
    }

    /// A borrower wants an object freed.
    pub(super) fn free_for_borrower(&self, object: &ObjectId) {
        if let Some(handle) = self.exported(object) {
            self.free_owned(handle.0);
        }
    }

    fn free_owned(&self, entry: Arc<Entry>) {
        let client = self.clone();
        let freed = entry.clone();
        entry.on_settled(move || {
            if let Some(Outcome::Stored(stored)) = freed.forget(Error::ObjectFreed { object: freed.id() }) {
                client.free_stored(&stored);
            }
        });
    }

    /// Where these objects of this process are.
    pub(super) fn places_of(&self, objects: &[ObjectId]) -> Vec<Option<ObjectPlace>> {
        objects.iter().map(|object| self.exported(object).and_then(|handle| place_of(&handle.0))).collect()
    }
}

fn place_of(entry: &Entry) -> Option<ObjectPlace> {
    match entry.outcome()? {
        Outcome::Inline(value) => Some(ObjectPlace { size_bytes: value.len() as u64, nodes: Nodes::new() }),
        Outcome::Stored(stored) => Some(ObjectPlace { size_bytes: stored.size_bytes, nodes: stored.nodes }),
        Outcome::Failed(_) => None,
    }
}
