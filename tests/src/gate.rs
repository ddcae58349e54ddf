//! Tasks that wait until they are told to go on, and counters that survive their worker: files,
//! since all nodes of a test are on one machine.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long a task waits at most, so that a test that fails ends.
const PATIENCE: Duration = Duration::from_secs(60);

/// A file that tasks wait for.
pub(crate) struct Gate(PathBuf);

impl Gate {
    /// A closed gate.
    pub(crate) fn new() -> Self {
        Self(fresh("gate"))
    }

    /// What a task needs to [`pass`] it.
    pub(crate) fn path(&self) -> String {
        self.0.to_string_lossy().into_owned()
    }

    /// Lets everyone pass, now and later.
    pub(crate) fn open(&self) {
        fs::write(&self.0, b"").expect("the gate's file can be written");
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        // Whoever still waits goes on.
        self.open();
    }
}

/// Waits until the gate is open.
pub(crate) fn pass(gate: &str) {
    let deadline = Instant::now() + PATIENCE;
    while !std::path::Path::new(gate).exists() {
        assert!(Instant::now() < deadline, "the gate {gate} was never opened");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A file that grows by a byte each time something happens.
pub(crate) struct Tally(PathBuf);

impl Tally {
    /// Nothing happened yet.
    pub(crate) fn new() -> Self {
        Self(fresh("tally"))
    }

    /// What a task needs to [`count`] in it.
    pub(crate) fn path(&self) -> String {
        self.0.to_string_lossy().into_owned()
    }

    /// How often it happened.
    pub(crate) fn get(&self) -> u64 {
        tally_of(&self.path())
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// How often the tally's event happened.
pub(crate) fn tally_of(tally: &str) -> u64 {
    fs::metadata(tally).map_or(0, |metadata| metadata.len())
}

/// Counts one more and returns how many there are.
pub(crate) fn count(tally: &str) -> u64 {
    let mut file = fs::OpenOptions::new().create(true).append(true).open(tally).expect("the tally can be opened");
    file.write_all(b".").expect("the tally can be written");
    file.metadata().expect("the tally has a length").len()
}

/// Where the tests' files are: gone with the test.
pub(crate) fn folder() -> PathBuf {
    std::env::var_os("HOME").map_or_else(std::env::temp_dir, PathBuf::from)
}

/// A path that no other file of the tests has.
pub(crate) fn fresh(kind: &str) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    folder().join(format!("mobula-{kind}-{}-{number}", std::process::id()))
}

/// Looks at `condition` until it holds.
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
