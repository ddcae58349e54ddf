//! The store of a node: shards, and the front that serves the store as a whole.
//!
//! A [`shard`](shard::Shard) owns its part of the table and answers on the thread that asks; what
//! takes time (making a file, giving memory back, spilling) is done on other threads and answered from
//! there. The [`front`](front::Front) keeps the clients, the pulls and what happens after a while. All
//! of them are thin shells: [`table`](super::table), [`pull`](super::pull) and
//! [`spill`](super::spill) decide.
//!
//! ```text
//!   clients ──▶ shard 0..7 ──Pull──▶ front ──▶ Fetcher (bulk streams)
//!                  ▲    ◀── Pulled ────┘
//!                  └──── shared: pool (spiller + segments), disk (spill files)
//! ```

use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use mobula_transport::{Endpoint, MailboxId, Payload, ProcessId, Runner};

use crate::error::Error;
use crate::ids::NodeId;
use crate::store::bulk;
use crate::store::client::StoreClient;
use crate::store::directory::{SHARED_MEMORY, StoreDirectory};
use crate::store::disk::{self, Disk};
use crate::store::messages::{STORE_SHARD_BASE, STORE_SHARDS, StoreStats};
use crate::store::pool::{IO_THREADS, Pool, capacity_bytes};
use crate::store::spill::Limits;
use crate::store::spill::files::SPILL_FILE_BYTES;

mod front;
mod shard;
mod shared;

use self::front::Front;
use self::shard::Shard;
use self::shared::ProcessDied;
pub(crate) use self::shared::{ServeObject, Shared, ToServe};

/// Objects that one message may ask for.
pub const MAX_GET_OBJECTS: usize = 1 << 20;
/// Above this part of its capacity, in percent, a store spills.
pub const HIGH_WATER_PERCENT: u8 = 80;
/// Who waits for room in a store fails when nothing has moved for so long.
pub const ROOM_STALL: Duration = Duration::from_secs(20);
/// And after so long in any case. Whoever asks for room waits longer than this for an answer.
pub(crate) const LONGEST_ROOM_WAIT: Duration = Duration::from_secs(300);

/// How to set up a node's store.
#[derive(Clone, Debug, Default)]
pub struct StoreConfig {
    /// In which directory the store makes its own; `/dev/shm` unless given.
    pub base: Option<PathBuf>,
    /// How much memory it may take; 30 % of the machine's unless given. Never more than 90 % of
    /// what is free there.
    pub capacity_bytes: Option<u64>,
    /// In which directory the store makes the one for spilled objects; the system's for temporary
    /// files unless given (`/var/tmp` where that is in memory).
    pub spill_dir: Option<PathBuf>,
    /// How much of the disk spilled objects may take; 80 % of what is free there at the start unless
    /// given. With 0 nothing is spilled.
    pub spill_limit_bytes: Option<u64>,
    /// Above which part of its capacity, in percent, the store spills; [`HIGH_WATER_PERCENT`] unless
    /// given.
    pub high_water_percent: Option<u8>,
    /// How long whoever needs room waits while nothing moves; [`ROOM_STALL`] unless given.
    pub room_stall: Option<Duration>,
    /// Whether slow work is done on the thread that asks for it. For simulations: another thread
    /// would race with their paused time.
    pub in_place: bool,
}

/// A node's store. Start it once per endpoint.
#[derive(Debug)]
pub struct Store;

impl Store {
    /// Makes the store's directories, removes what crashed predecessors left, and starts the
    /// store's actors at `endpoint`.
    ///
    /// # Errors
    /// [`Error::System`] when one of the directories cannot be made.
    pub fn start(endpoint: &Endpoint, node: NodeId, config: StoreConfig) -> Result<StoreHandle, Error> {
        let base = config.base.unwrap_or_else(|| {
            let shared = PathBuf::from(SHARED_MEMORY);
            if shared.is_dir() { shared } else { std::env::temp_dir() }
        });
        let failed = |error: std::io::Error| Error::System {
            what: format!("setting up the object store in {}", base.display()),
            why: error.to_string(),
        };
        let directory = StoreDirectory::create(&base, node).map_err(failed)?;
        let capacity_bytes = capacity_bytes(&base, config.capacity_bytes).map_err(failed)?;
        let spill_base = config.spill_dir.unwrap_or_else(disk::default_base);
        let failed = |error: std::io::Error| Error::System {
            what: format!(
                "setting up {} for spilled objects (--spill-dir and Config::spill_dir name another directory)",
                spill_base.display()
            ),
            why: error.to_string(),
        };
        let disk = Disk::create(&spill_base, node, config.in_place).map_err(failed)?;
        let percent = u64::from(config.high_water_percent.unwrap_or(HIGH_WATER_PERCENT).min(100));
        let limits = Limits {
            capacity_bytes,
            high_water_bytes: capacity_bytes / 100 * percent,
            disk_bytes: disk::limit_bytes(&spill_base, config.spill_limit_bytes).map_err(failed)?,
            file_bytes: SPILL_FILE_BYTES,
            stall: config.room_stall.unwrap_or(ROOM_STALL),
            longest_wait: LONGEST_ROOM_WAIT,
            directory: disk.path().to_string_lossy().into_owned(),
        };
        let (store_dir, proof) = (directory.path().to_string_lossy().into_owned(), directory.proof().to_owned());
        let shared = Arc::new_cyclic(|this: &Weak<Shared>| {
            let this = this.clone();
            let carry_out = Box::new(move |effects, decays| {
                if let Some(shared) = this.upgrade() {
                    shared.carry_out(effects, decays);
                }
            });
            let io_threads = if config.in_place { 0 } else { IO_THREADS };
            Shared::new(Pool::new(directory, limits, io_threads, carry_out), disk, endpoint.clone())
        });
        for index in 0..STORE_SHARDS {
            let shard = Shard::new(shared.clone(), index);
            endpoint.spawn(Some(MailboxId(STORE_SHARD_BASE.0 + index)), Runner::Inline, move || shard);
        }
        let client = StoreClient::connect(endpoint, endpoint.process(), &store_dir, &proof)?;
        let fetcher = bulk::start(endpoint, &client, &shared)?;
        let front = Front::new(shared.clone(), client.clone(), fetcher);
        endpoint.spawn(Some(MailboxId::STORE), Runner::Inline, move || front);
        Ok(StoreHandle { shared, client })
    }
}

/// A running store.
#[derive(Clone, Debug)]
pub struct StoreHandle {
    shared: Arc<Shared>,
    client: StoreClient,
}

impl StoreHandle {
    /// The store's directory, for [`StoreClient::connect`].
    pub fn store_dir(&self) -> String {
        self.shared.pool.directory().path().to_string_lossy().into_owned()
    }

    /// The proof that a process sees the store's directory.
    pub fn host_proof(&self) -> String {
        self.shared.pool.directory().proof().to_owned()
    }

    /// A client in the store's own process.
    pub fn client(&self) -> StoreClient {
        self.client.clone()
    }

    /// A process is dead: what it read is released, what it was writing is given up, what it owned
    /// is freed. Only for processes that really are dead: one that lives could see memory that is
    /// used again.
    pub fn process_died(&self, process: ProcessId) {
        let endpoint = &self.shared.endpoint;
        for index in 0..STORE_SHARDS {
            let shard = endpoint.address_of(MailboxId(STORE_SHARD_BASE.0 + index));
            endpoint.send(None, shard, ProcessDied { process }, Payload::new());
        }
        endpoint.send(None, endpoint.address_of(MailboxId::STORE), ProcessDied { process }, Payload::new());
    }

    /// What the store holds and has done.
    pub fn stats(&self) -> StoreStats {
        self.shared.stats()
    }

    /// Where its spilled objects are.
    pub fn spill_dir(&self) -> PathBuf {
        self.shared.disk.path().to_owned()
    }

    /// Ends the store's actors and removes its directories. Values that are still alive stay
    /// readable. Blocks while memory is given back.
    pub fn shutdown(&self) {
        let endpoint = &self.shared.endpoint;
        let shards = (0..STORE_SHARDS).map(|index| MailboxId(STORE_SHARD_BASE.0 + index));
        for mailbox in shards.chain([MailboxId::STORE]) {
            if let Some(actor) = endpoint.detach(mailbox) {
                actor.close();
            }
        }
        for removed in [self.shared.pool.directory().remove(), self.shared.disk.remove()] {
            if let Err(error) = removed {
                tracing::warn!(%error, "cannot remove a directory of the object store");
            }
        }
    }
}
