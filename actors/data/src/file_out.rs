//! Where the bytes of a file go that is written: into a file of this machine, or up into a store.
//!
//! Entry types: [`FileOut`], either of them, and [`Upload`], an object on its way. An object has
//! its name from the start, but how a file is called depends on whether its block has others for
//! the same directory. So the beginning of an object is held back until that is known, or until
//! there is too much of it.

use std::fs::File;
use std::io::{self, Write};

use crate::error::DataError;
use crate::storage::{PendingUpload, RemoteWriter, StorageOptions};

/// Where the bytes of a file go.
pub(crate) enum FileOut {
    Local(File),
    Store(Upload),
}

/// An object that is being written.
pub(crate) struct Upload {
    /// Its path, if its block has no other for the same directory.
    pub(crate) alone: String,
    /// Its path, if its block has others.
    pub(crate) numbered: String,
    /// Its block may have others; if it has not, being called so does no harm.
    pub(crate) may_have_others: bool,
    pub(crate) storage: StorageOptions,
    state: State,
}

enum State {
    Held(Vec<u8>),
    Writing(RemoteWriter),
}

impl Upload {
    pub(crate) fn new(alone: String, numbered: String, may_have_others: bool, storage: StorageOptions) -> Self {
        Self { alone, numbered, may_have_others, storage, state: State::Held(Vec::new()) }
    }

    /// Uploads the rest. The object is not visible yet.
    pub(crate) fn finish(self, has_others: bool) -> Result<PendingUpload, DataError> {
        match self.state {
            State::Writing(writer) => writer.finish(),
            State::Held(bytes) => {
                let path = if has_others { &self.numbered } else { &self.alone };
                begin(path, &bytes, &self.storage)?.finish()
            }
        }
    }
}

fn begin(path: &str, bytes: &[u8], storage: &StorageOptions) -> Result<RemoteWriter, DataError> {
    let mut writer = RemoteWriter::create(path, storage)?;
    writer.write_all(bytes).map_err(|error| DataError::write(path.as_ref(), &error))?;
    Ok(writer)
}

impl Write for Upload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.state {
            State::Writing(writer) => return writer.write(bytes),
            State::Held(held) => held.extend_from_slice(bytes),
        }
        if let State::Held(held) = &self.state
            && held.len() >= MAX_HELD_BYTES
        {
            let path = if self.may_have_others { &self.numbered } else { &self.alone };
            self.state = State::Writing(begin(path, held, &self.storage).map_err(io::Error::other)?);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Write for FileOut {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            FileOut::Local(file) => file.write(bytes),
            FileOut::Store(upload) => upload.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            FileOut::Local(file) => file.flush(),
            FileOut::Store(upload) => upload.flush(),
        }
    }
}

/// How much of an object is held back: a part of an upload.
const MAX_HELD_BYTES: usize = 8 << 20;
