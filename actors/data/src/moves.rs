//! Making directories and moving files so that all of it can be taken back.
//!
//! Entry types: [`MadeDirectories`] and [`Moves`]; both take back what they did when they are
//! dropped, unless they are told to keep it. Nothing that exists is ever replaced.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use crate::error::DataError;

/// Directories that a run made. Dropped, it removes those that are empty again.
#[derive(Debug, Default)]
pub struct MadeDirectories(Vec<PathBuf>);

impl MadeDirectories {
    /// Makes `dir` and whatever is missing above it.
    pub fn make(dir: &Path) -> io::Result<Self> {
        let above = dir.ancestors().filter(|path| !path.as_os_str().is_empty());
        let missing: Vec<&Path> = above.take_while(|path| !path.exists()).collect();
        let mut made = Self::default();
        for path in missing.into_iter().rev() {
            match fs::create_dir(path) {
                Ok(()) => made.0.push(path.to_path_buf()),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
        if dir.is_dir() {
            return Ok(made);
        }
        Err(io::Error::from(io::ErrorKind::NotADirectory))
    }

    /// They stay.
    pub fn keep(&mut self) {
        self.0.clear();
    }
}

impl Drop for MadeDirectories {
    fn drop(&mut self) {
        for made in self.0.iter().rev() {
            // One that is not empty has become somebody else's.
            let _ = fs::remove_dir(made);
        }
    }
}

/// Files that a run moved. Dropped, it moves them back.
#[derive(Debug, Default)]
pub struct Moves(Vec<(PathBuf, PathBuf)>);

impl Moves {
    /// Moves `from` to `to`, where nothing may be.
    pub fn rename(&mut self, from: &Path, to: &Path) -> Result<(), DataError> {
        match rename_new(from, to) {
            Ok(()) => {
                self.0.push((from.to_path_buf(), to.to_path_buf()));
                Ok(())
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Err(DataError::OutputExists {
                path: to.parent().unwrap_or(to).display().to_string(),
                found: to.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            }),
            Err(e) => Err(DataError::write(to, &e)),
        }
    }

    /// They stay where they are now.
    pub fn keep(mut self) {
        self.0.clear();
    }

    /// Moves everything back, the last first; false if something could not be.
    pub fn undo(mut self) -> bool {
        self.take_back()
    }

    fn take_back(&mut self) -> bool {
        let mut all = true;
        while let Some((from, to)) = self.0.pop() {
            if let Err(error) = rename_new(&to, &from) {
                tracing::error!(path = %to.display(), to = %from.display(), %error, "cannot move a file back");
                all = false;
            }
        }
        all
    }
}

impl Drop for Moves {
    fn drop(&mut self) {
        self.take_back();
    }
}

/// Renames, and fails where `to` exists. On a file system that cannot do both in one step, two
/// runs at the same moment are not kept apart.
pub fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
            if to.symlink_metadata().is_ok() {
                return Err(io::Error::from(io::ErrorKind::AlreadyExists));
            }
            fs::rename(from, to)
        }
        done => done.map_err(Into::into),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moves_are_taken_back_and_replace_nothing() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        for name in ["a", "b", "c"] {
            fs::write(path(name), name).unwrap();
        }
        let mut moves = Moves::default();
        moves.rename(&path("a"), &path("x")).unwrap();
        let error = moves.rename(&path("b"), &path("c")).unwrap_err();
        assert!(matches!(error, DataError::OutputExists { found, .. } if found == "c"));
        drop(moves);
        assert!(path("a").exists() && !path("x").exists());
        assert_eq!(fs::read(path("c")).unwrap(), b"c");

        let mut moves = Moves::default();
        moves.rename(&path("a"), &path("x")).unwrap();
        moves.keep();
        assert!(path("x").exists());
    }

    #[test]
    fn directories_that_were_made_go_unless_they_hold_something() {
        let root = tempfile::tempdir().unwrap();
        drop(MadeDirectories::make(&root.path().join("a/b/c")).unwrap());
        assert!(!root.path().join("a").exists());
        let made = MadeDirectories::make(&root.path().join("a/b")).unwrap();
        fs::write(root.path().join("a/file"), "").unwrap();
        drop(made);
        assert!(root.path().join("a").exists() && !root.path().join("a/b").exists());
    }
}
