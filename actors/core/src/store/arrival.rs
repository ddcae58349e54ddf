//! An object on its way into this store's memory.
//!
//! To reserve and fault fresh memory takes about as long as the network takes to fill it, so both
//! happen at once: a thread of the pool prepares the segment step by step, from its start, and the
//! network's thread writes behind it. Where the network is faster, what arrives is written through
//! the file, which neither faults nor dies of a full /dev/shm.
//!
//! ```text
//!   pool's thread      reserve + fault  ────────▶ ready        made
//!                      ├───────────────────────────┤············┤
//!   network's thread   ├── written ──▶
//! ```
//! When both have ended, well or not, the end of the fetch is told ([`Landing`]).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::ids::ObjectId;
use crate::store::bulk::Fetcher;
use crate::store::directory::StoreDirectory;
use crate::store::ledger::Reserved;
use crate::store::mapping::{Mapping, Mappings};
use crate::store::pull::{Ask, Failure};
use crate::store::segment::SegmentId;
use crate::store::server::Shared;

/// Memory is prepared in steps of this size. While a step is reserved the file cannot be written,
/// so a step must not keep the network's thread waiting.
const STEP_BYTES: u64 = 8 << 20;

/// Where an object's bytes go as they arrive.
pub(crate) struct Arrival {
    pub(crate) object: ObjectId,
    pub(crate) size_bytes: u64,
    mapping: Arc<Mapping>,
    file: File,
    /// So many bytes from the first are reserved and faulted in.
    ready_bytes: AtomicU64,
    /// There is no memory for the rest.
    broken: AtomicBool,
}

impl Arrival {
    /// Writes the object's bytes from `offset` on. Only for the one who fetches the object.
    pub(crate) fn write(&self, offset: u64, chunk: &[u8]) -> io::Result<()> {
        if self.broken.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if offset + chunk.len() as u64 > self.size_bytes {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let ready = self.ready_bytes.load(Ordering::Acquire).saturating_sub(offset);
        let (fast, slow) = chunk.split_at(chunk.len().min(ready as usize));
        if !fast.is_empty() {
            // SAFETY: the segment was reserved for this arrival alone and is not in the table yet;
            // there is one fetch, so one writer.
            let room = unsafe { self.mapping.bytes_mut(offset as usize + fast.len()) };
            room[offset as usize..].copy_from_slice(fast);
        }
        if !slow.is_empty() {
            self.file.write_all_at(slow, offset + fast.len() as u64)?;
        }
        Ok(())
    }
}

/// Fetches the object from whom `ask` names into the segment that was reserved for it, and tells `ended`
/// where it is or why it is not. Blocks while memory is prepared, but not for the network.
pub(crate) fn fetch(
    shared: &Arc<Shared>,
    mappings: &Arc<Mappings>,
    fetcher: &dyn Fetcher,
    ask: Ask,
    (object, size_bytes): (ObjectId, u64),
    reserved: Reserved,
    ended: impl FnOnce(Result<SegmentId, Failure>) + Send + 'static,
) {
    let open = || {
        let file = shared.pool.begin(&reserved)?;
        let mapping = mappings.open(reserved.segment, true)?;
        Ok(Arrival {
            object,
            size_bytes,
            mapping,
            file,
            ready_bytes: AtomicU64::new(0),
            broken: AtomicBool::new(false),
        })
    };
    let opened = open();
    let landing = Arc::new(Landing {
        shared: shared.clone(),
        mappings: mappings.clone(),
        state: Mutex::new(Some(State { reserved, memory: None, fetched: None, ended: Box::new(ended) })),
    });
    match opened {
        Ok(arrival) => landing.prepare(&Arc::new(arrival), fetcher, &ask),
        Err(error) => landing.never_started(error),
    }
}

/// Brings the ends of preparing and of fetching together.
struct Landing {
    shared: Arc<Shared>,
    mappings: Arc<Mappings>,
    /// Absent when all is told.
    state: Mutex<Option<State>>,
}

struct State {
    reserved: Reserved,
    memory: Option<io::Result<()>>,
    fetched: Option<Result<(), Failure>>,
    ended: Box<dyn FnOnce(Result<SegmentId, Failure>) + Send>,
}

impl Landing {
    fn prepare(self: &Arc<Self>, arrival: &Arc<Arrival>, fetcher: &dyn Fetcher, ask: &Ask) {
        let (fresh, class_bytes) = match &*self.state.lock() {
            Some(state) => (state.reserved.fresh, state.reserved.class_bytes),
            None => return,
        };
        // A segment that was used before has its memory, and this process may know it already.
        let (mut at, end) =
            if fresh { (0, class_bytes) } else { (arrival.mapping.faulted_bytes() as u64, arrival.size_bytes) };
        let mut started = false;
        loop {
            arrival.ready_bytes.store(at, Ordering::Release);
            if !started && (at > 0 || at >= end) {
                started = true;
                let landing = self.clone();
                let finish = Box::new(move |fetched| landing.end(|state| state.fetched = Some(fetched)));
                fetcher.fetch(ask, arrival.clone(), finish);
            }
            if at >= end {
                break;
            }
            let next = (at + STEP_BYTES).min(end);
            if fresh && let Err(error) = StoreDirectory::reserve(&arrival.file, at, next) {
                if !started {
                    return self.never_started(error);
                }
                arrival.broken.store(true, Ordering::Relaxed);
                return self.end(|state| state.memory = Some(Err(error)));
            }
            arrival.mapping.fault_in(next.min(arrival.size_bytes) as usize);
            at = next;
        }
        self.end(|state| state.memory = Some(Ok(())));
    }

    fn never_started(&self, error: io::Error) {
        self.end(|state| {
            state.memory = Some(Err(error));
            state.fetched = Some(Ok(()));
        });
    }

    /// Notes an end, and if it was the last one, tells.
    fn end(&self, note: impl FnOnce(&mut State)) {
        let (reserved, memory, fetched, ended) = {
            let mut slot = self.state.lock();
            let Some(mut state) = slot.take() else { return };
            note(&mut state);
            match state {
                State { reserved, memory: Some(memory), fetched: Some(fetched), ended } => {
                    (reserved, memory, fetched, ended)
                }
                unfinished => {
                    *slot = Some(unfinished);
                    return;
                }
            }
        };
        let shared = self.shared.clone();
        if let Err(error) = memory {
            // Removing takes its time, and this may be the network's thread.
            let mappings = self.mappings.clone();
            let io = shared.pool.io().clone();
            io.run(move || {
                mappings.forget(&[reserved.segment]);
                ended(Err(Failure::Here(shared.pool.undo(&reserved, &error))));
            });
            return;
        }
        shared.pool.made(&reserved);
        if fetched.is_err() {
            shared.pool.recycle(reserved.segment);
        }
        ended(fetched.map(|()| reserved.segment));
    }
}
