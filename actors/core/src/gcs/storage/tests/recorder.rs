//! A disk in memory that notes what is done to it, and what is on it after a power cut at any time.
//!
//! ```text
//!   write  write  sync  write  write  write  sync
//!                  │                    ▲
//!     on disk ─────┘      each sector there or not, the last write cut anywhere
//! ```

use std::sync::{Arc, Mutex};

use redb::StorageBackend;

/// What a disk writes as a whole.
const SECTOR: usize = 512;

/// One thing that was done, or happened meanwhile.
#[derive(Clone, Debug)]
pub(super) enum Op {
    Write(usize, Arc<[u8]>),
    SetLen(usize),
    Sync,
    /// A head has begun, and told others by which ids it is known.
    Begun,
    /// So many commits were asked for.
    Asked(usize),
    /// The first so many are acknowledged.
    Acknowledged(usize),
}

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    log: Vec<Op>,
    /// Operations until it refuses, and how many it refuses then.
    refuses: Option<(usize, usize)>,
}

impl State {
    /// A write that is refused has still written its first half.
    fn refused(&mut self) -> bool {
        match &mut self.refuses {
            None => false,
            Some((0, 0)) => {
                self.refuses = None;
                false
            }
            Some((0, left)) => {
                *left -= 1;
                true
            }
            Some((until, _)) => {
                *until -= 1;
                false
            }
        }
    }
}

/// The disk. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub(super) struct Recorder(Arc<Mutex<State>>);

impl Recorder {
    /// A disk with this on it.
    pub(super) fn with(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(State { bytes, ..State::default() })))
    }

    pub(super) fn note(&self, op: Op) {
        self.0.lock().unwrap().log.push(op);
    }

    pub(super) fn log(&self) -> Vec<Op> {
        self.0.lock().unwrap().log.clone()
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().bytes.clone()
    }

    /// From the `after`th operation on, `times` of them fail.
    pub(super) fn refuse(&self, after: usize, times: usize) {
        self.0.lock().unwrap().refuses = Some((after, times));
    }
}

fn refusal() -> std::io::Error {
    std::io::ErrorKind::StorageFull.into()
}

impl StorageBackend for Recorder {
    fn len(&self) -> std::io::Result<u64> {
        Ok(self.0.lock().unwrap().bytes.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        let at = offset as usize;
        let state = self.0.lock().unwrap();
        let found = state.bytes.get(at..at + out.len()).ok_or(std::io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(found);
        Ok(())
    }

    fn set_len(&self, len: u64) -> std::io::Result<()> {
        let mut state = self.0.lock().unwrap();
        if state.refused() {
            return Err(refusal());
        }
        state.bytes.resize(len as usize, 0);
        state.log.push(Op::SetLen(len as usize));
        Ok(())
    }

    fn sync_data(&self) -> std::io::Result<()> {
        let mut state = self.0.lock().unwrap();
        if state.refused() {
            return Err(refusal());
        }
        state.log.push(Op::Sync);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        let mut state = self.0.lock().unwrap();
        let refused = state.refused();
        let data = if refused { &data[..data.len() / 2] } else { data };
        put(&mut state.bytes, offset as usize, data);
        state.log.push(Op::Write(offset as usize, data.into()));
        if refused { Err(refusal()) } else { Ok(()) }
    }
}

/// Writes what fits: a file that is too short has lost the news of its length.
fn put(bytes: &mut [u8], at: usize, data: &[u8]) {
    let end = bytes.len().min(at + data.len());
    if at < end {
        bytes[at..end].copy_from_slice(&data[..end - at]);
    }
}

/// A power cut: what is on the disk, and what was promised by then.
#[derive(Clone, Debug)]
pub(super) struct Cut {
    pub(super) bytes: Vec<u8>,
    /// Whether the head's ids were known to others.
    pub(super) begun: bool,
    pub(super) acknowledged: usize,
    pub(super) asked: usize,
}

/// A walk along a log, beginning with what was on the disk before it.
pub(super) struct Walk<'a> {
    log: &'a [Op],
    /// What a sync has made safe.
    safe: Vec<u8>,
    /// What follows it.
    unsafe_since: usize,
    /// As the program sees it.
    now: Vec<u8>,
    at: usize,
    begun: bool,
    acknowledged: usize,
    asked: usize,
}

impl<'a> Walk<'a> {
    pub(super) fn new(before: Vec<u8>, log: &'a [Op]) -> Self {
        Self { log, safe: before.clone(), unsafe_since: 0, now: before, at: 0, begun: false, acknowledged: 0, asked: 0 }
    }

    /// Goes one operation further.
    pub(super) fn step(&mut self) -> Option<&'a Op> {
        let op = self.log.get(self.at)?;
        self.at += 1;
        match op {
            Op::Sync => {
                self.safe.clone_from(&self.now);
                self.unsafe_since = self.at;
            }
            Op::Begun => self.begun = true,
            Op::Asked(n) => self.asked = *n,
            Op::Acknowledged(n) => self.acknowledged = *n,
            Op::Write(offset, data) => put(&mut self.now, *offset, data),
            Op::SetLen(len) => self.now.resize(*len, 0),
        }
        Some(op)
    }

    fn cut(&self, bytes: Vec<u8>) -> Cut {
        Cut { bytes, begun: self.begun, acknowledged: self.acknowledged, asked: self.asked }
    }

    /// Everything up to here is on disk.
    pub(super) fn cut_here(&self) -> Cut {
        self.cut(self.now.clone())
    }

    /// Everything up to here is on disk, and the first bytes of the next write.
    pub(super) fn cut_inside(&self, length: usize) -> Cut {
        let mut bytes = self.now.clone();
        if let Some(Op::Write(offset, data)) = self.log.get(self.at) {
            put(&mut bytes, *offset, &data[..length.min(data.len())]);
        }
        self.cut(bytes)
    }

    /// The lengths to which the next operation may be cut: at every sector, beside it, and one more.
    pub(super) fn lengths(&self, one_more: usize) -> Vec<usize> {
        let Some(Op::Write(_, data)) = self.log.get(self.at) else { return Vec::new() };
        let sectors = (0..data.len()).step_by(SECTOR).flat_map(|at| [at.saturating_sub(1), at, at + 1]);
        let mut lengths: Vec<usize> = sectors.chain([one_more % data.len().max(1)]).filter(|at| *at > 0).collect();
        lengths.sort_unstable();
        lengths.dedup();
        lengths
    }

    /// Of what is not safe, each sector is on disk if `keeps` says so.
    pub(super) fn cut_with_losses(&self, mut keeps: impl FnMut() -> bool) -> Cut {
        let mut bytes = self.safe.clone();
        for op in &self.log[self.unsafe_since..self.at] {
            match op {
                Op::SetLen(len) if keeps() => bytes.resize(*len, 0),
                Op::Write(offset, data) => {
                    for (n, sector) in data.chunks(SECTOR).enumerate() {
                        if keeps() {
                            put(&mut bytes, offset + n * SECTOR, sector);
                        }
                    }
                }
                Op::SetLen(_) | Op::Sync | Op::Begun | Op::Asked(_) | Op::Acknowledged(_) => {}
            }
        }
        self.cut(bytes)
    }
}
