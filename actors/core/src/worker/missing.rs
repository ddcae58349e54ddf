//! What this worker does not have of the work that an owner believes to be here, asked after a
//! broken connection; and what it tells its raylet again then.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use mobula_transport::{MailboxId, Payload, PeerEvent};
use parking_lot::Mutex;

use super::WorkerShared;
use crate::messages::{StillHave, TasksMissing};

/// What was not found is looked for again after this long. Work on its way from a queue to a
/// thread, or from a thread to its owner, is in neither place for a moment.
const SECOND_LOOK: Duration = Duration::from_millis(50);

impl WorkerShared {
    /// Answers what of it is not here, if anything.
    pub(super) fn look_for(self: &Arc<Self>, mut question: StillHave) {
        question.tasks = self.missing(&question);
        if question.tasks.is_empty() {
            return;
        }
        let worker = self.clone();
        self.endpoint.spawn_task(async move {
            tokio::time::sleep(SECOND_LOOK).await;
            let tasks = worker.missing(&question);
            if !tasks.is_empty() {
                let answer = TasksMissing { tasks };
                worker.endpoint.send(Some(MailboxId::WORKER), question.client, answer, Payload::new());
            }
        });
    }

    pub(super) fn missing(&self, question: &StillHave) -> Vec<(u64, u32)> {
        let owner = question.client;
        let mut waiting: HashSet<(u64, u32)> = HashSet::new();
        // In the order in which work passes through, so that it is not missed between two places.
        for (client, seq, attempt) in &*self.bringing.lock() {
            if *client == owner {
                waiting.insert((*seq, *attempt));
            }
        }
        let leases: Vec<_> = self.leases.lock().values().cloned().collect();
        for lease in leases {
            lease.waiting(owner, &mut waiting);
        }
        let actors: Vec<_> = self.actors.lock().values().cloned().collect();
        for actor in actors {
            actor.waiting(owner, &mut waiting);
        }
        let here = |seq, attempt| waiting.contains(&(seq, attempt)) || self.history.runs(owner, seq, attempt);
        question.tasks.iter().copied().filter(|(seq, attempt)| !here(*seq, *attempt)).collect()
    }

    /// After a broken connection the raylet is told again which CPUs are lent.
    pub(super) fn watch_raylet(self: &Arc<Self>) {
        let weak = Arc::downgrade(self);
        let broken = Mutex::new(BTreeSet::new());
        self.endpoint.watch_peers(move |event| {
            let Some(worker) = weak.upgrade() else { return };
            match event {
                PeerEvent::Interrupted { process, .. } => {
                    broken.lock().insert(process);
                }
                PeerEvent::Connected { process } if broken.lock().remove(&process) => {
                    let leases: Vec<_> = worker.leases.lock().values().cloned().collect();
                    for lease in leases {
                        lease.tell_again(process);
                    }
                    let actors: Vec<_> = worker.actors.lock().values().cloned().collect();
                    for actor in actors {
                        actor.tell_again(process);
                    }
                }
                PeerEvent::Lost { process, .. } | PeerEvent::Gone { process, .. } => {
                    broken.lock().remove(&process);
                }
                _ => {}
            }
        });
    }
}
