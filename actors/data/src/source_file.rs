//! A file that rows are read from, wherever it is.
//!
//! Entry type: [`SourceFile`]. The readers of the formats know no other: it gives them bytes from
//! some place on, and is itself a source for the Parquet reader once it is open (`OpenFile`).
//! A remote file is read in the state in which it was found; that it changed since is an error.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;

use bytes::Bytes;
use parquet::errors::Result as ParquetResult;
use parquet::file::reader::{ChunkReader, Length};

use crate::error::DataError;
use crate::storage::{Remote, RemoteEntry, RemoteFile, RemoteRead, StorageOptions};

/// A file that rows are read from.
#[derive(Debug, Clone)]
pub enum SourceFile {
    /// At this path of this machine.
    Local(String),
    /// One state of a file elsewhere.
    Remote(RemoteFile),
}

impl SourceFile {
    /// The file at `path`; the one that `remote` tells, if it is elsewhere. Nothing is read yet.
    pub fn new(path: &str, remote: Option<&RemoteEntry>, storage: &StorageOptions) -> Result<SourceFile, DataError> {
        Ok(match remote {
            None => SourceFile::Local(path.into()),
            Some(entry) => SourceFile::Remote(Remote::open_known(entry, storage)?),
        })
    }

    /// Where it is, as errors show it.
    #[must_use]
    pub fn path(&self) -> &str {
        match self {
            SourceFile::Local(path) => path,
            SourceFile::Remote(file) => file.path(),
        }
    }

    /// Its bytes, as they lie there.
    pub fn size(&self) -> Result<u64, DataError> {
        match self {
            SourceFile::Local(path) => Ok(fs::metadata(path).map_err(|e| DataError::read(Path::new(path), &e))?.len()),
            SourceFile::Remote(file) => Ok(file.size()),
        }
    }

    /// Its bytes from `at` on.
    pub(crate) fn read_from(&self, at: u64) -> Result<Box<dyn Read + Send>, DataError> {
        match self {
            SourceFile::Local(path) => {
                let failed = |e: io::Error| DataError::read(Path::new(path), &e);
                let mut file = File::open(path).map_err(failed)?;
                file.seek(SeekFrom::Start(at)).map_err(failed)?;
                Ok(Box::new(file))
            }
            SourceFile::Remote(file) => match file.get_read(at) {
                Ok(read) => Ok(Box::new(read)),
                Err(error) => Err(self.error(|path| DataError::Read { path, cause: error.to_string() })),
            },
        }
    }

    /// Says that these ranges will be read, each from its start to its end. What is elsewhere is
    /// fetched ahead.
    pub(crate) fn will_read(&self, ranges: &[Range<u64>]) {
        if let SourceFile::Remote(file) = self {
            file.prefetch(ranges, MAX_AHEAD_BYTES);
        }
    }

    /// Opens it.
    pub(crate) fn open(&self) -> Result<OpenFile, DataError> {
        match self {
            SourceFile::Local(path) => {
                File::open(path).map(OpenFile::Local).map_err(|e| DataError::read(Path::new(path), &e))
            }
            SourceFile::Remote(file) => Ok(OpenFile::Remote(file.clone())),
        }
    }

    /// What a reader's error comes from, if that is this file, or else what `other` makes of it.
    /// Readers pass on only the text of some errors.
    pub(crate) fn error(&self, other: impl FnOnce(String) -> DataError) -> DataError {
        let own = match self {
            SourceFile::Local(_) => None,
            SourceFile::Remote(file) => file.take_error(),
        };
        own.unwrap_or_else(|| other(self.path().to_owned()))
    }
}

/// A file that is open.
#[derive(Debug)]
pub(crate) enum OpenFile {
    Local(File),
    Remote(RemoteFile),
}

impl OpenFile {
    /// The same file once more.
    pub(crate) fn again(&self) -> io::Result<OpenFile> {
        Ok(match self {
            OpenFile::Local(file) => OpenFile::Local(file.try_clone()?),
            OpenFile::Remote(file) => OpenFile::Remote(file.clone()),
        })
    }
}

impl Length for OpenFile {
    fn len(&self) -> u64 {
        match self {
            OpenFile::Local(file) => file.len(),
            OpenFile::Remote(file) => file.len(),
        }
    }
}

impl ChunkReader for OpenFile {
    type T = OpenRead;

    fn get_read(&self, start: u64) -> ParquetResult<OpenRead> {
        match self {
            OpenFile::Local(file) => file.get_read(start).map(OpenRead::Local),
            OpenFile::Remote(file) => file.get_read(start).map(OpenRead::Remote),
        }
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        match self {
            OpenFile::Local(file) => file.get_bytes(start, length),
            OpenFile::Remote(file) => file.get_bytes(start, length),
        }
    }
}

/// Reads an open file from some place on.
pub(crate) enum OpenRead {
    Local(BufReader<File>),
    Remote(RemoteRead),
}

impl Read for OpenRead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            OpenRead::Local(file) => file.read(buffer),
            OpenRead::Remote(file) => file.read(buffer),
        }
    }
}

/// How much of a remote file is fetched before it is asked for.
const MAX_AHEAD_BYTES: u64 = 64 << 20;
