//! The certificate of one process, and how it is kept on disk.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Only the owner may read the files.
const FILE_MODE: u32 = 0o600;
pub(super) const CA_FILE: &str = "ca.pem";
const CERT_FILE: &str = "cert.pem";
const KEY_FILE: &str = "key.pem";
const CLUSTER_FILE: &str = "cluster-id";

/// What a process needs to be let in: the authority's certificate, its own, and its key.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The cluster's authority.
    pub ca_pem: String,
    /// The process's certificate, issued by the authority.
    pub cert_pem: String,
    /// The process's private key.
    pub key_pem: String,
    /// The cluster's id: the fingerprint of its authority.
    pub cluster_id: String,
}

/// Why credentials or an authority could not be made, read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// A file could not be read or written.
    #[error("credentials file {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The directory holds no credentials.
    #[error("no credentials in {path}; start a head or join a cluster first")]
    Missing {
        /// The directory.
        path: PathBuf,
    },
    /// A certificate, key or request cannot be read.
    #[error("malformed {what}: {why}")]
    Malformed {
        /// What it should be.
        what: &'static str,
        /// What the parser said.
        why: String,
    },
    /// The cryptography library refused.
    #[error("cannot make {what}: {why}")]
    Crypto {
        /// What was being made.
        what: &'static str,
        /// What the library said.
        why: String,
    },
}

impl Credentials {
    /// Whether `dir` holds credentials.
    pub fn exist_in(dir: &Path) -> bool {
        dir.join(KEY_FILE).exists()
    }

    /// Writes the credentials into `dir`, readable by the owner alone.
    pub fn save(&self, dir: &Path) -> Result<(), IdentityError> {
        fs::create_dir_all(dir).map_err(|source| IdentityError::File { path: dir.to_owned(), source })?;
        write_private(&dir.join(CA_FILE), &self.ca_pem)?;
        write_private(&dir.join(CERT_FILE), &self.cert_pem)?;
        write_private(&dir.join(KEY_FILE), &self.key_pem)?;
        write_private(&dir.join(CLUSTER_FILE), &self.cluster_id)
    }

    /// Reads what [`save`](Self::save) wrote.
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        if !Self::exist_in(dir) {
            return Err(IdentityError::Missing { path: dir.to_owned() });
        }
        Ok(Self {
            ca_pem: read(&dir.join(CA_FILE))?,
            cert_pem: read(&dir.join(CERT_FILE))?,
            key_pem: read(&dir.join(KEY_FILE))?,
            cluster_id: read(&dir.join(CLUSTER_FILE))?,
        })
    }
}

impl fmt::Debug for Credentials {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("cluster_id", &self.cluster_id).finish_non_exhaustive()
    }
}

/// Writes a file that only its owner can read, replacing an older one whole.
pub(super) fn write_private(path: &Path, text: &str) -> Result<(), IdentityError> {
    let failed = |source| IdentityError::File { path: path.to_owned(), source };
    let temporary = path.with_extension("new");
    // A leftover of a crash may have other permissions; `mode` counts only for new files.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&temporary).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&temporary, path).map_err(failed)
}

pub(super) fn read(path: &Path) -> Result<String, IdentityError> {
    fs::read_to_string(path).map_err(|source| IdentityError::File { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn saved_credentials_are_private_and_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let credentials = Credentials {
            ca_pem: "ca".into(),
            cert_pem: "cert".into(),
            key_pem: "key".into(),
            cluster_id: "id".into(),
        };
        credentials.save(dir.path()).unwrap();
        credentials.save(dir.path()).unwrap();
        assert_eq!(Credentials::load(dir.path()).unwrap(), credentials);
        let mode = fs::metadata(dir.path().join(KEY_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, FILE_MODE);
        assert!(!format!("{credentials:?}").contains("key"));
        let empty = dir.path().join("empty");
        assert!(matches!(Credentials::load(&empty), Err(IdentityError::Missing { .. })));
    }
}
