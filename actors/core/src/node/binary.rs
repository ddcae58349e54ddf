//! A program's binary by the hash of its content.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use xxhash_rust::xxh3::Xxh3;

use crate::messages::BinaryInfo;

/// Read at once.
const PIECE_BYTES: usize = 1 << 20;

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
    let mut hasher = Xxh3::new();
    let mut piece = vec![0; PIECE_BYTES];
    let mut size_bytes = 0;
    loop {
        let read = file.read(&mut piece)?;
        if read == 0 {
            return Ok((format!("{:032x}", hasher.digest128()), size_bytes));
        }
        hasher.update(&piece[..read]);
        size_bytes += read as u64;
    }
}
