//! What a job's workers find around them: [`RuntimeEnv`], packed by the driver.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::binary::hash_file;
use crate::error::Error;
use crate::messages::{BinaryInfo, JobEnv};
use crate::package::{self, Contents};
use crate::worker::VISIBLE_GPUS_VARIABLE;

/// Variables that nodes set for their workers by themselves.
const RESERVED: [&str; 2] = [super::WORKER_VARIABLE, VISIBLE_GPUS_VARIABLE];

/// What the workers of a job find around them, whatever node they are on.
///
/// A directory and files are packed when the program connects, sent to each node once (named by the
/// hash of their content), and unpacked there; workers start in the unpacked directory. They are
/// copies: what a worker changes there nobody else sees on another node, and the driver never does.
///
/// ```
/// use mobula_core::node::RuntimeEnv;
/// let env = RuntimeEnv::default().working_dir("assets").env_var("RUST_LOG", "info").file("/data/model.bin");
/// assert!(!env.is_empty());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct RuntimeEnv {
    working_dir: Option<PathBuf>,
    env_vars: BTreeMap<String, String>,
    files: Vec<PathBuf>,
}

impl RuntimeEnv {
    /// Workers start in a copy of this directory.
    pub fn working_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.working_dir = Some(directory.into());
        self
    }

    /// Workers have this variable in their environment.
    pub fn env_var(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env_vars.insert(name.into(), value.into());
        self
    }

    /// A copy of this file lies in the workers' working directory, under its own name.
    pub fn file(mut self, path: impl Into<PathBuf>) -> Self {
        self.files.push(path.into());
        self
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Checks it, and packs what is to be sent.
    ///
    /// # Errors
    /// [`Error::RuntimeEnv`], which says what to do.
    pub fn pack(&self) -> Result<PackedEnv, Error> {
        for (name, value) in &self.env_vars {
            if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
                return Err(Error::RuntimeEnv { why: format!("{name:?} cannot be a variable of an environment") });
            }
            if RESERVED.contains(&name.as_str()) {
                return Err(Error::RuntimeEnv { why: format!("{name} is set by the nodes themselves") });
            }
        }
        let mut packed = PackedEnv { job: JobEnv { vars: self.env_vars.clone(), package: None }, file: None };
        if let Some(contents) = self.contents()? {
            let (file, package) = write_package(&contents)?;
            (packed.file, packed.job.package) = (Some(file), Some(package));
        }
        Ok(packed)
    }

    fn contents(&self) -> Result<Option<Contents>, Error> {
        let refused = |error: package::PackError| Error::RuntimeEnv { why: error.to_string() };
        let mut contents = match &self.working_dir {
            Some(directory) if !directory.is_dir() => {
                let why = format!("its working directory {} is not there, or is no directory", directory.display());
                return Err(Error::RuntimeEnv { why });
            }
            Some(directory) => package::directory(directory).map_err(refused)?,
            None if self.files.is_empty() => return Ok(None),
            None => Contents::new(),
        };
        for path in &self.files {
            package::add_file(&mut contents, path).map_err(refused)?;
        }
        Ok(Some(contents))
    }
}

/// A [`RuntimeEnv`] as nodes are told of it, and the package that is sent to them.
#[derive(Debug, Default)]
pub struct PackedEnv {
    pub(super) job: JobEnv,
    /// It has no name any more: it is gone with this process, however that ends.
    file: Option<File>,
}

impl PackedEnv {
    /// The package's hash, and where this process can read it.
    pub(super) fn served(&self) -> Option<(String, PathBuf)> {
        let (file, package) = (self.file.as_ref()?, self.job.package.as_ref()?);
        Some((package.hash.clone(), path_of(file)))
    }
}

fn path_of(file: &File) -> PathBuf {
    Path::new("/proc/self/fd").join(file.as_raw_fd().to_string())
}

/// Writes a file without a name.
fn write_package(contents: &Contents) -> Result<(File, BinaryInfo), Error> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("mobula-env-{}-{number}", std::process::id()));
    let failed = |error: std::io::Error| Error::RuntimeEnv { why: format!("{}: {error}", path.display()) };
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
    std::fs::remove_file(&path).map_err(failed)?;
    let mut writer = BufWriter::new(&file);
    package::pack(contents, &mut writer).map_err(|error| Error::RuntimeEnv { why: error.to_string() })?;
    writer.flush().map_err(failed)?;
    drop(writer);
    let (hash, size_bytes) = hash_file(&path_of(&file)).map_err(failed)?;
    // No node finds it in place: it is fetched.
    Ok((file, BinaryInfo { hash, size_bytes, path: String::new() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_files_have_the_same_hash() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("a"), "1").unwrap();
        let env = RuntimeEnv::default().working_dir(directory.path()).env_var("A", "b");
        let hash = |env: &RuntimeEnv| env.pack().unwrap().job.package.unwrap().hash;
        let first = hash(&env);
        assert_eq!(first, hash(&env));
        std::fs::write(directory.path().join("a"), "2").unwrap();
        assert_ne!(first, hash(&env));
        let packed = env.pack().unwrap();
        let (served, path) = packed.served().unwrap();
        assert_eq!(hash_file(&path).unwrap().0, served);
        assert!(RuntimeEnv::default().env_var("A", "b").pack().unwrap().served().is_none());
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (env, part) in [
            (RuntimeEnv::default().working_dir("/no/such/dir"), "/no/such/dir"),
            (RuntimeEnv::default().file("/no/such/file"), "/no/such/file"),
            (RuntimeEnv::default().env_var("A=B", "c"), "A=B"),
            (RuntimeEnv::default().env_var(super::super::WORKER_VARIABLE, "c"), "by the nodes"),
        ] {
            let error = env.pack().unwrap_err();
            assert!(matches!(error, Error::RuntimeEnv { .. }) && error.to_string().contains(part), "{error}");
        }
    }
}
