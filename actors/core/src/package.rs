//! Files in one piece, always the same bytes for the same files: what a job's workers find in their
//! working directory.
//!
//! ```text
//!   MOBULAP1 | entry | entry | ...      in the order of their paths
//!   entry:  length of the path (4) | path, UTF-8, parts joined by / | executable (1) | size (8) | content
//! ```
//! Numbers are little-endian. Times and owners are left out: they are not the same anywhere. Links to
//! files are followed, empty directories left out.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

/// What a package begins with.
const MAGIC: &[u8; 8] = b"MOBULAP1";
/// The largest package.
pub const MAX_PACKAGE_BYTES: u64 = 512 << 20;
/// The most files in one.
pub const MAX_PACKAGE_FILES: usize = 100_000;
/// The longest path in one.
const MAX_PATH_BYTES: usize = 4_096;

/// Why files cannot be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// One cannot be read.
    #[error("{path}: {source}", path = .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// One is something else than a file or a directory.
    #[error("{path} is {what}; pack files and directories only", path = .path.display())]
    Kind {
        /// Which.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// Two have one name.
    #[error("{name} is given twice: files are put beside what is in the working directory, under their own names")]
    Twice {
        /// The name.
        name: String,
    },
    /// It would be too large.
    #[error(
        "its files have more than {} MiB together, which is the limit; leave out what workers do not need, or put \
         large data where all nodes see it", MAX_PACKAGE_BYTES >> 20
    )]
    TooLarge,
    /// It would have too many files.
    #[error("it has more than {MAX_PACKAGE_FILES} files, which is the limit; leave out what workers do not need")]
    TooMany,
}

/// Files by the path that they have in the package.
pub(crate) type Contents = BTreeMap<String, PathBuf>;

/// What a directory contains, links to files followed.
///
/// # Errors
/// [`PackError`].
pub(crate) fn directory(root: &Path) -> Result<Contents, PackError> {
    let mut contents = Contents::new();
    let mut open = vec![(root.to_owned(), String::new())];
    while let Some((path, prefix)) = open.pop() {
        for entry in std::fs::read_dir(&path).map_err(at(&path))? {
            let path = entry.map_err(at(&path))?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let Some(name) = name else { return Err(PackError::Kind { path, what: "not named in UTF-8" }) };
            let name = format!("{prefix}{name}");
            let link = path.symlink_metadata().map_err(at(&path))?.is_symlink();
            let data = path.metadata().map_err(at(&path))?;
            if data.is_file() {
                contents.insert(name, path);
            } else if data.is_dir() && !link {
                open.push((path, format!("{name}/")));
            } else {
                let what = if link { "a link to a directory" } else { "neither a file nor a directory" };
                return Err(PackError::Kind { path, what });
            }
            if contents.len() > MAX_PACKAGE_FILES {
                return Err(PackError::TooMany);
            }
        }
    }
    Ok(contents)
}

/// Adds a file under its own name.
///
/// # Errors
/// [`PackError`].
pub(crate) fn add_file(contents: &mut Contents, path: &Path) -> Result<(), PackError> {
    let data = path.metadata().map_err(at(path))?;
    let name = path.file_name().and_then(|name| name.to_str()).filter(|_| data.is_file());
    let Some(name) = name else {
        return Err(PackError::Kind { path: path.to_owned(), what: "no file, or not named in UTF-8" });
    };
    match contents.insert(name.to_owned(), path.to_owned()) {
        None => Ok(()),
        Some(_) => Err(PackError::Twice { name: name.to_owned() }),
    }
}

/// Writes the package. A file that changes meanwhile is as long as it was when it was opened, or an
/// error.
///
/// # Errors
/// [`PackError`].
pub(crate) fn pack(contents: &Contents, to: &mut impl Write) -> Result<(), PackError> {
    let written = |path: &Path| {
        let path = path.to_owned();
        move |source| PackError::File { path, source }
    };
    let mut total = MAGIC.len() as u64;
    to.write_all(MAGIC).map_err(written(Path::new("the package")))?;
    for (name, path) in contents {
        let file = File::open(path).map_err(at(path))?;
        let data = file.metadata().map_err(at(path))?;
        total = total.saturating_add(data.len() + name.len() as u64 + 13);
        if total > MAX_PACKAGE_BYTES {
            return Err(PackError::TooLarge);
        }
        let executable = data.permissions().mode() & 0o111 != 0;
        let mut head = (name.len() as u32).to_le_bytes().to_vec();
        head.extend_from_slice(name.as_bytes());
        head.push(u8::from(executable));
        head.extend_from_slice(&data.len().to_le_bytes());
        to.write_all(&head).map_err(written(path))?;
        let copied = io::copy(&mut file.take(data.len()), to).map_err(at(path))?;
        if copied != data.len() {
            let source = io::Error::other("it became shorter while it was packed");
            return Err(PackError::File { path: path.clone(), source });
        }
    }
    Ok(())
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> PackError {
    let path = path.to_owned();
    move |source| PackError::File { path, source }
}

/// Puts the files of a package into a directory that is there.
///
/// # Errors
/// What the system says, or that this is no package.
pub(crate) fn unpack(from: &mut impl Read, to: &Path) -> io::Result<()> {
    let broken = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("not a package: {what}"));
    let mut magic = [0; MAGIC.len()];
    from.read_exact(&mut magic)?;
    if &magic != MAGIC {
        return Err(broken("it begins otherwise"));
    }
    let mut left = MAX_PACKAGE_BYTES;
    loop {
        let mut length = [0; 4];
        match from.read(&mut length[..1])? {
            0 => return Ok(()),
            _ => from.read_exact(&mut length[1..])?,
        }
        let length = u32::from_le_bytes(length) as usize;
        if length > MAX_PATH_BYTES {
            return Err(broken("a path is too long"));
        }
        let mut name = vec![0; length];
        from.read_exact(&mut name)?;
        let name = String::from_utf8(name).map_err(|_| broken("a path is not UTF-8"))?;
        let relative = Path::new(&name);
        // It comes from another process: nothing of it leaves the directory.
        if name.is_empty() || !relative.components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(broken("a path leads elsewhere"));
        }
        let mut head = [0; 9];
        from.read_exact(&mut head)?;
        let [executable, size @ ..] = head;
        let size = u64::from_le_bytes(size);
        left = left.checked_sub(size).ok_or_else(|| broken("it is too large"))?;
        let path = to.join(relative);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let mode = if executable == 0 { 0o600 } else { 0o700 };
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path)?;
        if io::copy(&mut from.take(size), &mut file)? != size {
            return Err(broken("it ends in the middle of a file"));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packed(root: &Path) -> Vec<u8> {
        let mut bytes = Vec::new();
        pack(&directory(root).unwrap(), &mut bytes).unwrap();
        bytes
    }

    fn write(root: &Path, name: &str, content: &[u8]) {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_packed_is_unpacked_and_always_the_same(
            files in prop::collection::btree_map("[a-c]{1,2}(/[d-f]{1,2}){0,2}\\.x", prop::collection::vec(any::<u8>(), 0..200), 0..12),
        ) {
            let (one, other, back) = (tempfile::tempdir()?, tempfile::tempdir()?, tempfile::tempdir()?);
            for (name, content) in &files {
                write(one.path(), name, content);
            }
            // Another order makes another directory of the same files.
            for (name, content) in files.iter().rev() {
                write(other.path(), name, content);
            }
            let bytes = packed(one.path());
            prop_assert_eq!(&bytes, &packed(other.path()));
            unpack(&mut &bytes[..], back.path())?;
            prop_assert_eq!(&bytes, &packed(back.path()));
            for (name, content) in &files {
                prop_assert_eq!(&std::fs::read(back.path().join(name))?, content);
            }
            // Cut short, it is no package (or one with fewer files), and nothing panics.
            let _ = unpack(&mut &bytes[..bytes.len() / 2], tempfile::tempdir()?.path());
        }

        #[test]
        fn anything_can_be_unpacked(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let to = tempfile::tempdir()?;
            let _ = unpack(&mut &[&MAGIC[..], &bytes[..]].concat()[..], to.path());
        }
    }

    #[test]
    fn programs_stay_programs_and_links_to_files_become_files() {
        let (root, back) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write(root.path(), "run.sh", b"#!/bin/sh\n");
        std::fs::set_permissions(root.path().join("run.sh"), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::symlink("run.sh", root.path().join("link")).unwrap();
        unpack(&mut &packed(root.path())[..], back.path()).unwrap();
        for name in ["run.sh", "link"] {
            let data = back.path().join(name).symlink_metadata().unwrap();
            assert!(data.is_file() && data.permissions().mode() & 0o111 != 0, "{name}");
        }
    }

    #[test]
    fn what_cannot_be_packed_is_named() {
        let root = tempfile::tempdir().unwrap();
        let missing = directory(&root.path().join("none")).unwrap_err().to_string();
        assert!(missing.contains("none"), "{missing}");
        std::os::unix::fs::symlink("/", root.path().join("all")).unwrap();
        let link = directory(root.path()).unwrap_err().to_string();
        assert!(link.contains("all is a link to a directory"), "{link}");
        std::fs::remove_file(root.path().join("all")).unwrap();

        write(root.path(), "a", b"");
        let mut contents = directory(root.path()).unwrap();
        let twice = add_file(&mut contents, &root.path().join("a")).unwrap_err().to_string();
        assert!(twice.starts_with("a is given twice"), "{twice}");
        // A hole in a file takes no disk, and counts all the same.
        File::create(root.path().join("hole")).unwrap().set_len(MAX_PACKAGE_BYTES).unwrap();
        let large = pack(&directory(root.path()).unwrap(), &mut io::sink()).unwrap_err().to_string();
        assert!(large.contains("512 MiB"), "{large}");
    }

    #[test]
    fn nothing_leaves_the_directory() {
        for name in ["../x", "/x", "a/../../x", "."] {
            let mut bytes = MAGIC.to_vec();
            bytes.extend((name.len() as u32).to_le_bytes());
            bytes.extend(name.as_bytes());
            bytes.extend([0; 9]);
            let to = tempfile::tempdir().unwrap();
            let error = unpack(&mut &bytes[..], to.path()).unwrap_err().to_string();
            assert!(error.contains("leads elsewhere"), "{name}: {error}");
        }
    }
}
