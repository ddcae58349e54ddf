//! The working directories of jobs on this node: [`Envs`].
//!
//! A package is fetched like a binary, and unpacked once, into `<hash>` of a directory that goes with
//! the node. Workers of all jobs that have the same package share it. Those that no worker uses make
//! room for new ones.
//!
//! ```text
//!   envs/<hash> there? ──▶ it
//!        │ no
//!   fetch ──▶ binaries/<hash> ── unpack ──▶ envs/<hash>.new ── rename ──▶ envs/<hash>
//! ```

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::binaries::{Binaries, Failure, file_name, in_background};
use crate::messages::JobInfo;
use crate::package;

/// Directories that are kept though no worker uses them.
const KEEP_UNUSED: usize = 4;

/// The working directories on this node.
pub(super) struct Envs {
    directory: PathBuf,
    /// By hash; the lock of one that is being made is held.
    known: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// Those that are there, the most recently used last.
    used: Mutex<Vec<(String, Weak<WorkingDir>)>>,
}

/// A directory that stays while somebody holds this.
#[derive(Debug)]
pub(super) struct WorkingDir(PathBuf);

impl WorkingDir {
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Envs {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self { directory, known: Mutex::default(), used: Mutex::default() }
    }

    /// Where the workers of the job start; nothing if it is all the same.
    pub(super) async fn of(&self, job: &JobInfo, binaries: &Binaries) -> Result<Option<Arc<WorkingDir>>, Failure> {
        let Some(package) = &job.env.package else { return Ok(None) };
        let name = file_name(package);
        let making = self.known.lock().entry(name.clone()).or_default().clone();
        let _making = making.lock().await;
        let to = self.directory.join(&name);
        if !to.is_dir() {
            let fetched = binaries.fetched(job, package).await?;
            let not_made = |error: io::Error| {
                Failure::for_now(format!("the job's working directory could not be made at {}: {error}", to.display()))
            };
            in_background((fetched, to.clone()), |(package, to)| unpack(&package, &to)).await.map_err(not_made)?;
        }
        let (held, surplus) = self.hold(name, to);
        for other in surplus {
            self.remove(&other).await;
        }
        Ok(Some(held))
    }

    /// Removes a directory, unless somebody has come to use it after all.
    async fn remove(&self, name: &str) {
        let making = self.known.lock().get(name).cloned();
        let Some(Ok(_making)) = making.as_ref().map(|making| making.try_lock()) else { return };
        if self.used.lock().iter().any(|(other, _)| other == name) {
            return;
        }
        // What is left of it is made anew, or goes with the node.
        let removed = in_background(self.directory.join(name), std::fs::remove_dir_all).await;
        if let Err(error) = removed {
            tracing::debug!(%error, "a working directory that nobody uses could not be removed");
        }
    }

    /// Notes that it is used, and which are used no more and one too many.
    fn hold(&self, name: String, path: PathBuf) -> (Arc<WorkingDir>, Vec<String>) {
        let mut used = self.used.lock();
        let before = used.iter().position(|(other, _)| *other == name).map(|at| used.remove(at));
        let held = before.and_then(|(_, held)| held.upgrade()).unwrap_or_else(|| Arc::new(WorkingDir(path)));
        used.push((name, Arc::downgrade(&held)));
        let mut unused = used.iter().filter(|(_, held)| held.strong_count() == 0).count();
        let surplus = used.extract_if(.., |(_, held)| {
            let goes = held.strong_count() == 0 && unused > KEEP_UNUSED;
            unused -= usize::from(goes);
            goes
        });
        let surplus = surplus.map(|(name, _)| name).collect();
        (held, surplus)
    }
}

/// Unpacks beside the place, and gives it its name when it is whole.
fn unpack(package: &Path, to: &Path) -> io::Result<()> {
    let new = to.with_extension("new");
    if new.exists() {
        std::fs::remove_dir_all(&new)?;
    }
    std::fs::create_dir_all(&new)?;
    package::unpack(&mut BufReader::new(File::open(package)?), &new)?;
    std::fs::rename(&new, to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unused_directories_make_room_and_used_ones_stay() {
        let envs = Envs::new("/envs".into());
        let hold = |name: &str| envs.hold(name.to_owned(), format!("/envs/{name}").into());
        let (first, _) = hold("first");
        for name in ["a", "b", "c", "d"] {
            assert!(hold(name).1.is_empty(), "{name}");
        }
        // Used again, `a` is not the oldest any more.
        assert!(hold("a").1.is_empty());
        assert!(hold("e").1.is_empty(), "the one that is asked for is used");
        assert_eq!(hold("f").1, ["b"]);
        let (again, surplus) = hold("first");
        assert_eq!((again.path(), surplus), (first.path(), vec!["c".to_owned()]));
        drop((again, first));
        assert_eq!(hold("g").1, ["d"]);
    }
}
