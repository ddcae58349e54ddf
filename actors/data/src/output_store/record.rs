//! The record of a commit: what it makes visible, and what it deletes after that.
//!
//! Entry types: [`Record`], which a run writes before it begins, and [`finish_commits`], which
//! carries out what is left to do of those that were cut short. That is the way forward and never
//! back: whoever finds a record cannot know that its run is dead, and doing what that one does,
//! too, does no harm: what is complete stays so, what is deleted is gone.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::marks::{delete_mark, hidden_in, mark_of_record, record_of};
use super::{files_in, uploads_of};
use crate::block_writer::BlockFile;
use crate::error::DataError;
use crate::storage::{
    PendingUpload, RemoteEntry, StorageOptions, UploadState, complete, delete, put_small, read_small, upload_states,
};
use crate::write::WriteMode;

/// What a commit is about to do.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record {
    /// The files that become visible.
    pub(super) files: Vec<BlockFile>,
    /// Those that are deleted when they are.
    pub(super) replaced: Vec<RemoteEntry>,
}

impl Record {
    pub(super) fn uploads(&self) -> Vec<PendingUpload> {
        uploads_of(&self.files)
    }

    pub(super) fn write(&self, mark: &str, storage: &StorageOptions) -> Result<(), DataError> {
        let path = record_of(mark);
        let bytes = rmp_serde::to_vec(self).map_err(|e| DataError::Write { path: path.clone(), cause: e.to_string() });
        put_small(&path, Bytes::from(bytes?), storage)
    }

    /// Deletes what was replaced, if it still is what it was: another run may have written there since.
    pub(super) fn delete_replaced(&self, base: &str, storage: &StorageOptions) -> Result<(), DataError> {
        let there = files_in(base, storage)?;
        let there: BTreeMap<&str, &RemoteEntry> = there.iter().map(|entry| (entry.path.as_str(), entry)).collect();
        let is_old = |old: &&RemoteEntry| there.get(old.path.as_str()).is_some_and(|found| **found == **old);
        let old: Vec<String> = self.replaced.iter().filter(is_old).map(|old| old.path.clone()).collect();
        delete(&old, storage)
    }
}

/// A commit that was cut short and is done now.
pub(super) struct Finished {
    pub(super) mark: String,
    pub(super) files: Vec<BlockFile>,
}

/// Carries out what is left of all commits in the directory `base`. What cannot be finished, since
/// its uploads are gone, is in the way of a run of this `mode`, unless that replaces everything.
pub(super) fn finish_commits(
    base: &str,
    mode: WriteMode,
    storage: &StorageOptions,
) -> Result<Vec<Finished>, DataError> {
    let mut records = hidden_in(base, storage)?;
    records.retain(|entry| mark_of_record(&entry.path).is_some());
    let mut done = Vec::new();
    for (entry, bytes) in records.iter().zip(read_small(&records, storage)?) {
        // Without bytes it is gone: somebody else has finished it.
        let (Some(mark), Some(bytes)) = (mark_of_record(&entry.path), bytes) else {
            continue;
        };
        match rmp_serde::from_slice::<Record>(&bytes) {
            Ok(record) => done.extend(finish(base, mark, record, mode, storage)?),
            Err(error) => return Err(unfinishable(base, &entry.path, &format!("its record is unreadable: {error}"))),
        }
    }
    Ok(done)
}

fn finish(
    base: &str,
    mark: &str,
    record: Record,
    mode: WriteMode,
    storage: &StorageOptions,
) -> Result<Option<Finished>, DataError> {
    let uploads = record.uploads();
    let states = upload_states(&uploads, storage)?;
    let count = |state: UploadState| states.iter().filter(|found| **found == state).count();
    let (gone, visible) = (count(UploadState::Gone), count(UploadState::Complete));
    if gone > 0 && visible == 0 {
        tracing::info!(path = base, "a commit that was cut short had made nothing visible yet: it is given up");
        delete(&[record_of(mark)], storage)?;
        return Ok(None);
    }
    if gone > 0 {
        let cause = format!("{gone} of its {} files are gone", uploads.len());
        if mode != WriteMode::Overwrite {
            return Err(unfinishable(base, &record_of(mark), &cause));
        }
        tracing::warn!(path = base, cause, "a commit that was cut short cannot be finished: all of it is replaced");
        delete_mark(base, mark, storage)?;
        return Ok(None);
    }
    tracing::info!(path = base, "a commit that was cut short is finished");
    complete(&uploads, storage).map_err(|incomplete| half_committed(base, mark, &incomplete.error))?;
    record.delete_replaced(base, storage).map_err(|error| half_committed(base, mark, &error))?;
    delete_mark(base, mark, storage)?;
    Ok(Some(Finished { mark: mark.into(), files: record.files }))
}

/// A commit has ended half way.
pub(super) fn half_committed(base: &str, mark: &str, error: &DataError) -> DataError {
    DataError::HalfCommitted { path: base.into(), record: record_of(mark), cause: error.to_string() }
}

fn unfinishable(base: &str, record: &str, why: &str) -> DataError {
    let cause = format!(
        "an earlier run was cut short while its files were made visible, and that cannot be finished: {why}; overwrite \
         what is there, or delete {record} to keep it as it is"
    );
    DataError::Write { path: base.into(), cause }
}
