//! The binaries that worker processes run: [`Binaries`].
//!
//! A job's binary is the driver's own file where this machine has it under the same path with the
//! same content, else it is fetched from the driver once, into `<hash>` of a directory that the
//! nodes of a machine may share. Content is never taken on trust: it is hashed again whenever the
//! file has changed since it was hashed last.
//!
//! ```text
//!   path of the driver ── has the hash? ──▶ run it there
//!          │ no
//!   binaries/<hash> ───── has the hash? ──▶ run it there
//!          │ no
//!   fetch ──▶ binaries/<hash>.<process>-<n> ── has the hash? ── rename ──▶ binaries/<hash>
//! ```
//!
//! Those that were not used for the longest time make room for new ones (`surplus`).

mod surplus;

use std::collections::HashMap;
use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use mobula_transport::{Address, Endpoint, MailboxId, Payload};
use parking_lot::Mutex;

use crate::messages::{BinaryInfo, FetchBinary, JobInfo};
use crate::node::hash_file;

/// One piece of a binary.
const PIECE_BYTES: u64 = 4 << 20;
/// How long one piece may take.
const PIECE_WITHIN: Duration = Duration::from_secs(30);
/// The largest binary.
const MAX_BINARY_BYTES: u64 = 8 << 30;
/// The most bytes of fetched binaries that a machine keeps; more only while they are in use.
const KEEP_BYTES: u64 = 4 << 30;
/// A half-fetched file to which nothing was written for so long belongs to a node that is dead.
const ABANDONED_AFTER: Duration = Duration::from_secs(600);

/// The binaries on this machine.
pub(super) struct Binaries {
    endpoint: Endpoint,
    directory: PathBuf,
    /// By hash; the lock of one that is being fetched is held. Other hashes do not wait for it.
    fetches: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

/// Why there is no process.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) why: String,
    /// Trying again is of no use.
    pub(super) for_good: bool,
}

impl Failure {
    pub(super) fn for_now(why: String) -> Self {
        Self { why, for_good: false }
    }

    fn for_good(why: String) -> Self {
        Self { why, for_good: true }
    }
}

impl Binaries {
    pub(super) fn new(endpoint: &Endpoint, directory: PathBuf) -> Self {
        Self { endpoint: endpoint.clone(), directory, fetches: Mutex::default() }
    }

    /// The job's binary, as a file of this machine.
    pub(super) async fn of(&self, job: &JobInfo) -> Result<PathBuf, Failure> {
        let Some(binary) = &job.binary else {
            let why = format!("job {} runs its tasks in its own process and has given no binary", job.name);
            return Err(Failure::for_good(why));
        };
        let in_place = PathBuf::from(&binary.path);
        if has_content(&in_place, binary).await {
            return Ok(in_place);
        }
        self.fetched(job, binary).await
    }

    /// A file that the job's driver serves, as one of this machine.
    pub(super) async fn fetched(&self, job: &JobInfo, binary: &BinaryInfo) -> Result<PathBuf, Failure> {
        let fetched = self.directory.join(file_name(binary));
        // Held while it is fetched: others that need it wait for this fetch.
        let fetch = self.fetches.lock().entry(binary.hash.clone()).or_default().clone();
        let _fetching = fetch.lock().await;
        // From here on it is not removed as one that nobody uses. Should it be, it is fetched again.
        let marked = in_background(fetched.clone(), |binary| match binary.exists() {
            true => surplus::mark_used(&binary),
            false => Ok(()),
        });
        if let Err(error) = marked.await {
            tracing::debug!(%error, binary = %fetched.display(), "cannot note that it is used");
        }
        if !has_content(&fetched, binary).await {
            self.fetch(job, binary, &fetched).await?;
        }
        Ok(fetched)
    }

    /// Gets the binary from the driver, piece by piece, and gives it its name when it is whole.
    async fn fetch(&self, job: &JobInfo, binary: &BinaryInfo, to: &Path) -> Result<(), Failure> {
        if binary.size_bytes > MAX_BINARY_BYTES {
            let why = format!("the binary has {} bytes, {MAX_BINARY_BYTES} are allowed", binary.size_bytes);
            return Err(Failure::for_good(why));
        }
        let failed = |error: io::Error| not_kept(to, binary, &error);
        let mut partial = in_background(to.to_owned(), Partial::create).await.map_err(failed)?;
        let driver = Address { process: job.driver, mailbox: MailboxId::CLIENT };
        let mut offset = 0;
        while offset < binary.size_bytes {
            let piece = self.piece(driver, binary, offset).await?;
            let got: u64 = piece.iter().map(|part| part.len() as u64).sum();
            if got == 0 {
                let why = "the driver's binary has become shorter: it was built again while it ran".to_owned();
                return Err(Failure::for_good(why));
            }
            offset += got;
            partial = in_background((partial, piece), Partial::write).await.map_err(failed)?;
        }
        if !has_content(&partial.path, binary).await {
            let why =
                "the driver's binary has another content than it said: it was built again while it ran".to_owned();
            return Err(Failure::for_good(why));
        }
        in_background((partial, to.to_owned()), Partial::finish).await.map_err(failed)
    }

    async fn piece(&self, driver: Address, binary: &BinaryInfo, offset: u64) -> Result<Payload, Failure> {
        let piece = FetchBinary { hash: binary.hash.clone(), offset, length: PIECE_BYTES };
        let why = |error: &dyn std::fmt::Display| format!("the driver did not give its binary: {error}");
        match self.endpoint.request(driver, piece, Payload::new(), PIECE_WITHIN).await {
            Ok((Ok(_), payload)) => Ok(payload),
            Ok((Err(error), _)) => Err(Failure::for_good(why(&error))),
            Err(error) => Err(Failure::for_now(why(&error))),
        }
    }
}

fn not_kept(to: &Path, binary: &BinaryInfo, error: &io::Error) -> Failure {
    let advice = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            format!("; it needs {} bytes: make room, or start the node with --dir on another disk", binary.size_bytes)
        }
        _ => String::new(),
    };
    Failure::for_now(format!("the job's binary could not be kept at {}: {error}{advice}", to.display()))
}

/// Disks make a thread wait, and the one that starts workers has others to serve.
pub(super) async fn in_background<I: Send + 'static, O: Send + 'static>(
    input: I,
    work: impl FnOnce(I) -> io::Result<O> + Send + 'static,
) -> io::Result<O> {
    tokio::task::spawn_blocking(move || work(input)).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// A file that is being fetched; removed when it is dropped before it is finished.
struct Partial {
    path: PathBuf,
    file: File,
}

impl Partial {
    fn create(to: PathBuf) -> io::Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        if let Some(directory) = to.parent() {
            std::fs::create_dir_all(directory)?;
            remove_abandoned(directory);
        }
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = to.with_extension(format!("{}-{number}", std::process::id()));
        Ok(Self { file: File::create(&path)?, path })
    }

    fn write((mut partial, piece): (Self, Vec<Bytes>)) -> io::Result<Self> {
        for part in piece {
            partial.file.write_all(&part)?;
        }
        Ok(partial)
    }

    fn finish((partial, to): (Self, PathBuf)) -> io::Result<()> {
        partial.file.set_permissions(Permissions::from_mode(0o700))?;
        std::fs::rename(&partial.path, &to)?;
        // Dropped now, it finds nothing under its name.
        if let Some(directory) = to.parent() {
            surplus::remove_surplus(directory, KEEP_BYTES);
        }
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // Under a name that nobody looks for it harms nobody, should this fail.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Removes what nodes that were killed in the middle of a fetch have left. Best effort.
fn remove_abandoned(directory: &Path) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    let partial = |path: &PathBuf| path.extension().is_some() && !surplus::is_mark(path);
    for path in entries.flatten().map(|entry| entry.path()).filter(partial) {
        let written = path.metadata().and_then(|data| data.modified());
        if written.is_ok_and(|written| written.elapsed().is_ok_and(|ago| ago > ABANDONED_AFTER)) {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// The hash comes from another process: nothing of it but letters and digits becomes a path.
pub(super) fn file_name(binary: &BinaryInfo) -> String {
    binary.hash.chars().filter(char::is_ascii_alphanumeric).take(64).collect()
}

/// Whether it is this binary; a file that has not changed is not read again.
async fn has_content(path: &Path, binary: &BinaryInfo) -> bool {
    if !path.metadata().is_ok_and(|data| data.is_file() && data.len() == binary.size_bytes) {
        return false;
    }
    let hashed = in_background(path.to_owned(), |path| hash_file(&path)).await;
    hashed.is_ok_and(|(hash, _)| hash == binary.hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binary(hash: &str) -> BinaryInfo {
        BinaryInfo { hash: hash.to_owned(), size_bytes: 0, path: String::new() }
    }

    #[test]
    fn a_hash_cannot_leave_its_directory() {
        assert_eq!(file_name(&binary("../../etc/x")), "etcx");
    }

    #[test]
    fn what_was_not_finished_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let files = || std::fs::read_dir(directory.path()).unwrap().count();
        let to = directory.path().join("abc");
        drop(Partial::create(to.clone()).unwrap());
        assert_eq!(files(), 0);

        let abandoned = File::create(directory.path().join("abc.17-0")).unwrap();
        let recent = std::time::SystemTime::now() - ABANDONED_AFTER / 2;
        abandoned.set_modified(recent).unwrap();
        let partial = Partial::write((Partial::create(to.clone()).unwrap(), vec![Bytes::from_static(b"12")])).unwrap();
        assert_eq!(files(), 2, "somebody may still write the other one");
        Partial::finish((partial, to.clone())).unwrap();
        assert_eq!(std::fs::read(&to).unwrap(), b"12");

        abandoned.set_modified(recent - ABANDONED_AFTER).unwrap();
        std::fs::set_permissions(&to, Permissions::from_mode(0o700)).unwrap();
        remove_abandoned(directory.path());
        assert_eq!(files(), 1);
        assert!(to.exists());
    }

    #[test]
    fn a_full_disk_says_what_to_do() {
        let mut binary = binary("abc");
        binary.size_bytes = 7;
        let full = not_kept(Path::new("/d/abc"), &binary, &io::ErrorKind::StorageFull.into());
        assert!(full.why.contains("/d/abc") && full.why.contains("needs 7 bytes: make room"), "{}", full.why);
        assert!(!full.for_good);
    }
}
