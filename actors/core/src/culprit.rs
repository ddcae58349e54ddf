//! Whose code ended a worker process.
//!
//! In a shared worker tasks of many kinds run side by side. When one of them takes the process
//! down, only that one is charged with an attempt, so the worker leaves word of who it was: every
//! thread knows whose code it runs (`accuse`), and who ends the process (a fault, an abort, a
//! call of `exit`) does so on its own thread, where a handler writes that down. The raylet reads it
//! when the process is gone (`read`).
//!
//! Nothing is known of a process that was killed from outside, or by code on threads that a task
//! has started by itself.

use std::cell::Cell;
use std::ffi::c_int;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use mobula_transport::ProcessId;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Whose code ended a worker process, as far as is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Culprit {
    /// Nobody knows: it was killed, or the end came from a thread that belongs to no task.
    #[default]
    Unknown,
    /// This task.
    Task {
        /// Who submitted it.
        owner: ProcessId,
        /// Its number there.
        seq: u64,
    },
    /// An actor.
    Actor,
    /// Nobody in particular: the node ended it to save memory.
    Memory {
        /// What was in use.
        used_bytes: u64,
        /// Of how much.
        limit_bytes: u64,
    },
}

/// A kind, the owner and the number.
const RECORD_BYTES: usize = 1 + 16 + 8;
const KIND_TASK: u8 = 1;
const KIND_ACTOR: u8 = 2;

impl Culprit {
    fn to_bytes(self) -> [u8; RECORD_BYTES] {
        let mut record = [0; RECORD_BYTES];
        match self {
            // No worker says that of itself.
            Self::Unknown | Self::Memory { .. } => {}
            Self::Task { owner, seq } => {
                record[0] = KIND_TASK;
                record[1..17].copy_from_slice(owner.0.as_bytes());
                record[17..].copy_from_slice(&seq.to_le_bytes());
            }
            Self::Actor => record[0] = KIND_ACTOR,
        }
        record
    }

    fn from_bytes(record: &[u8]) -> Self {
        let Some(record) = record.first_chunk::<RECORD_BYTES>() else { return Self::Unknown };
        match record[0] {
            KIND_TASK => {
                let (mut owner, mut seq) = ([0; 16], [0; 8]);
                owner.copy_from_slice(&record[1..17]);
                seq.copy_from_slice(&record[17..]);
                Self::Task { owner: ProcessId(Uuid::from_bytes(owner)), seq: u64::from_le_bytes(seq) }
            }
            KIND_ACTOR => Self::Actor,
            _ => Self::Unknown,
        }
    }
}

thread_local! {
    /// Whose code the thread runs. Plain data, made at compile time: a handler may read it whatever
    /// the thread was doing.
    static ACCUSED: Cell<Culprit> = const { Cell::new(Culprit::Unknown) };
}

/// Until it is dropped, the thread runs this one's code.
pub(crate) fn accuse(who: Culprit) -> Accused {
    Accused { before: ACCUSED.replace(who) }
}

/// Whose code the thread runs.
#[cfg(test)]
pub(crate) fn accused() -> Culprit {
    ACCUSED.get()
}

/// See [`accuse`].
pub(crate) struct Accused {
    before: Culprit,
}

impl Drop for Accused {
    fn drop(&mut self) {
        ACCUSED.set(self.before);
    }
}

/// Signals by which code ends its own process.
const FATAL: [c_int; 6] = [libc::SIGABRT, libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP];

/// What the handlers need.
struct Watch {
    /// A child that it forks is not this process, and leaves no word in its name.
    pid: libc::pid_t,
    record: File,
    /// How the signals were handled before, in the order of [`FATAL`].
    before: [libc::sigaction; FATAL.len()],
}

static WATCH: OnceLock<Watch> = OnceLock::new();
/// Only the first who ends the process counts.
static WRITTEN: AtomicBool = AtomicBool::new(false);

/// This process is a worker: should its code end it, `path` says whose code it was.
///
/// # Errors
/// What the system says when the file cannot be made or a handler not be set.
pub(crate) fn watch(path: &Path) -> io::Result<()> {
    let record = File::create(path)?;
    // SAFETY: plain data, for which zeros are a valid value; each is overwritten below.
    let mut before: [libc::sigaction; FATAL.len()] = unsafe { std::mem::zeroed() };
    for (signal, before) in FATAL.into_iter().zip(&mut before) {
        // SAFETY: a null pointer asks only how the signal is handled now.
        check(unsafe { libc::sigaction(signal, ptr::null(), before) })?;
    }
    // SAFETY: it only asks.
    let pid = unsafe { libc::getpid() };
    if WATCH.set(Watch { pid, record, before }).is_err() {
        return Ok(());
    }
    for signal in FATAL {
        // SAFETY: as above; the mask stays empty.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = on_signal as *const () as usize;
        // On the alternate stack: the thread's own may be full.
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: the handler keeps to what is allowed in one; see there.
        check(unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) })?;
    }
    // SAFETY: the function unwinds never.
    check(unsafe { libc::atexit(on_exit) })
}

fn check(outcome: c_int) -> io::Result<()> {
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Writes down who it was, puts the earlier handler back and leaves the rest to it: a fault
/// happens again on return, any other signal is sent again.
///
/// It may run at any point of a thread's work. So it takes no lock and allocates nothing: it reads
/// a thread local that is plain data and a cell that was set before the handler was, and makes
/// system calls.
extern "C" fn on_signal(signal: c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the system passes a valid one.
    let code = unsafe { (*info).si_code };
    // One that comes from outside hits any thread.
    if code != libc::SI_USER {
        write_down();
    }
    let Some(watch) = WATCH.get() else { return };
    for (candidate, before) in FATAL.iter().zip(&watch.before) {
        if *candidate == signal {
            // SAFETY: what the system said about this signal before.
            unsafe { libc::sigaction(signal, before, ptr::null_mut()) };
        }
    }
    // A trap does not happen again by itself.
    if code <= 0 || signal == libc::SIGTRAP {
        // SAFETY: allowed in a handler; blocked until it returns.
        unsafe { libc::raise(signal) };
    }
}

extern "C" fn on_exit() {
    write_down();
}

fn write_down() {
    let who = ACCUSED.try_with(Cell::get).unwrap_or_default();
    if who != Culprit::Unknown
        && let Some(watch) = WATCH.get()
        // SAFETY: it only asks.
        && watch.pid == unsafe { libc::getpid() }
        && !WRITTEN.swap(true, Ordering::Relaxed)
    {
        let (record, file): (_, RawFd) = (who.to_bytes(), watch.record.as_raw_fd());
        // A record that cannot be written is an unknown culprit.
        // SAFETY: the bytes are valid for their length, and the file stays open.
        unsafe { libc::write(file, record.as_ptr().cast(), record.len()) };
    }
}

/// What a worker that is gone has left, and removes it.
pub(crate) fn read(path: &Path) -> Culprit {
    let record = std::fs::read(path).unwrap_or_default();
    // It is not there if the process never came that far.
    let _ = std::fs::remove_file(path);
    Culprit::from_bytes(&record)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(owner: u128, seq: u64, kind in 0..3) {
            let who = match kind {
                0 => Culprit::Unknown,
                1 => Culprit::Actor,
                _ => Culprit::Task { owner: ProcessId(Uuid::from_u128(owner)), seq },
            };
            prop_assert_eq!(Culprit::from_bytes(&who.to_bytes()), who);
        }

        #[test]
        fn anything_can_be_read(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let who = Culprit::from_bytes(&bytes);
            prop_assert!(bytes.len() >= RECORD_BYTES || who == Culprit::Unknown);
        }
    }

    #[test]
    fn a_thread_knows_whose_code_it_runs() {
        let outer = accuse(Culprit::Actor);
        let task = Culprit::Task { owner: ProcessId::random(), seq: 7 };
        let inner = accuse(task);
        assert_eq!(ACCUSED.get(), task);
        assert_eq!(std::thread::spawn(|| ACCUSED.get()).join().expect("it only looks"), Culprit::Unknown);
        drop(inner);
        assert_eq!(ACCUSED.get(), Culprit::Actor);
        drop(outer);
        assert_eq!(ACCUSED.get(), Culprit::Unknown);
    }
}
