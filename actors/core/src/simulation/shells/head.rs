//! The head: the real GCS on a disk that is played.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mobula_transport::{Endpoint, EndpointConfig, Secret};
use parking_lot::Mutex;
use rand::RngExt;
use tokio::sync::mpsc;

use super::cluster::{Cluster, HEAD_SOCKET};
use crate::gcs::storage::{Committed, Storage};
use crate::gcs::{GcsConfig, Write};
use crate::simulation::head::Disk;
use crate::simulation::world::{HEAD_PROCESS, process};

/// A disk takes so long at most.
const LONGEST_COMMIT: Duration = Duration::from_millis(20);

/// The running head.
pub(super) struct Head {
    pub(super) endpoint: Endpoint,
    lives: Arc<AtomicBool>,
}

impl Head {
    /// Starts the head on what is on the disk.
    pub(super) fn start(cluster: &Cluster) -> Self {
        let endpoint = cluster.network().endpoint(EndpointConfig {
            process: Some(process(HEAD_PROCESS).id),
            listen: Some(HEAD_SOCKET),
            secret: Some(Secret("the head's".to_owned())),
            comes_back: true,
            ..EndpointConfig::default()
        });
        let endpoint = endpoint.expect("the simulated network refuses nobody");
        let lives = Arc::new(AtomicBool::new(true));
        let disk = cluster.disk().clone();
        let config = GcsConfig::new("simulated", endpoint.process().id);
        let snapshot = disk.lock().snapshot();
        let storage = Played::start(cluster, disk, lives.clone());
        crate::gcs::server::start(&endpoint, config, snapshot, Box::new(storage), None);
        Self { endpoint, lives }
    }

    /// What is not on the disk yet never comes there.
    pub(super) fn crash(self, cluster: &Cluster) {
        self.lives.store(false, Ordering::Release);
        cluster.network().crash(self.endpoint.process().id);
    }
}

type Group = (Vec<Write>, Option<Committed>);

/// Stores one group of writes after the other, each after a while.
struct Played {
    queue: mpsc::UnboundedSender<Group>,
    /// A rule is broken on purpose: it says so before it has stored anything.
    early: bool,
}

impl Played {
    fn start(cluster: &Cluster, disk: Arc<Mutex<Disk>>, lives: Arc<AtomicBool>) -> Self {
        // Bounded by what the GCS lets wait.
        let (queue, mut groups) = mpsc::unbounded_channel::<Group>();
        let (cluster, early) = (cluster.clone(), cluster.record().lock().answers_early());
        tokio::spawn(async move {
            while let Some((writes, done)) = groups.recv().await {
                let longest = if early { 50 * LONGEST_COMMIT } else { LONGEST_COMMIT };
                let pause = cluster.random(|random| random.random_range(Duration::ZERO..longest));
                tokio::time::sleep(pause).await;
                if !lives.load(Ordering::Acquire) {
                    return;
                }
                writes.into_iter().for_each(|write| disk.lock().store(write));
                if let Some(done) = done {
                    done(Ok(()));
                }
            }
        });
        Self { queue, early }
    }
}

impl Storage for Played {
    fn commit(&mut self, writes: Vec<Write>, done: Committed) -> Option<Committed> {
        if self.early {
            // Nobody listens when the head has crashed.
            let _ = self.queue.send((writes, None));
            return Some(done);
        }
        let _ = self.queue.send((writes, Some(done)));
        None
    }

    fn unstored_bytes(&self) -> usize {
        0
    }
}
