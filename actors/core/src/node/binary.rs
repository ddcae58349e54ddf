//! A program's binary by the hash of its content.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256};
use parking_lot::Mutex;

use crate::messages::BinaryInfo;

/// Read at once.
const PIECE_BYTES: usize = 1 << 20;
/// Files whose hash is remembered.
const MAX_REMEMBERED: usize = 64;

/// A file as it was when it was hashed: device, inode, size, and the times of its last changes. The
/// second of them nobody can set back.
type Version = (u64, u64, u64, [i64; 4]);

/// What was hashed before, so that a second session or node in this process does not read it again.
static REMEMBERED: Mutex<Option<HashMap<PathBuf, (Version, String)>>> = Mutex::new(None);

/// Describes the binary at `path`.
///
/// # Errors
/// What the system says when it cannot be read.
pub fn describe(path: &Path) -> std::io::Result<BinaryInfo> {
    let (hash, size_bytes) = hash_file(path)?;
    Ok(BinaryInfo { hash, size_bytes, path: path.to_string_lossy().into_owned() })
}

/// The hash of a file's content in hex, and its size.
pub(crate) fn hash_file(path: &Path) -> std::io::Result<(String, u64)> {
    let mut file = File::open(path)?;
    let data = file.metadata()?;
    let times = [data.mtime(), data.mtime_nsec(), data.ctime(), data.ctime_nsec()];
    let version = (data.dev(), data.ino(), data.len(), times);
    let known = REMEMBERED.lock().as_ref().and_then(|known| known.get(path).cloned());
    if let Some((_, hash)) = known.filter(|(hashed, _)| *hashed == version) {
        return Ok((hash, data.len()));
    }
    // It decides what is run: nobody must be able to make another file with the same hash.
    let mut context = Context::new(&SHA256);
    let mut piece = vec![0; PIECE_BYTES];
    let mut size_bytes = 0;
    loop {
        let read = file.read(&mut piece)?;
        if read == 0 {
            break;
        }
        context.update(&piece[..read]);
        size_bytes += read as u64;
    }
    let hash: String = context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let mut remembered = REMEMBERED.lock();
    let remembered = remembered.get_or_insert_default();
    if remembered.len() >= MAX_REMEMBERED {
        remembered.clear();
    }
    remembered.insert(path.to_owned(), (version, hash.clone()));
    Ok((hash, size_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_has_another_hash() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("binary");
        std::fs::write(&path, "abc").unwrap();
        let first = describe(&path).unwrap();
        assert_eq!(first.hash, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!((first.size_bytes, &describe(&path).unwrap()), (3, &first));
        std::fs::write(&path, "abcd").unwrap();
        assert_ne!(describe(&path).unwrap().hash, first.hash);
        assert!(describe(&dir.path().join("none")).is_err());
    }
}
