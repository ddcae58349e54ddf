//! Where a run writes to, be it a directory of a file system or one in a store.
//!
//! Entry type: [`Output`]. [`OutputDir`] and [`OutputStore`] say what becomes of the files.

use crate::block_writer::BlockFile;
use crate::error::DataError;
use crate::output_dir::{EarlierRun, OutputDir};
use crate::output_store::OutputStore;
use crate::storage::{PendingUpload, is_remote};
use crate::write::WriteOptions;

/// Where a run writes to.
#[derive(Debug)]
pub(crate) enum Output {
    Dir(OutputDir),
    Store(OutputStore),
}

impl Output {
    /// Makes everything ready for a run: after this, nothing is known to stand in the way of
    /// writing to `dir`. Equal runs have equal keys.
    pub(crate) fn prepare(dir: &str, options: &WriteOptions, run_key: &str, resume: bool) -> Result<Self, DataError> {
        match (is_remote(dir), resume) {
            (false, false) => {
                let run_id = format!("{:016x}", rand::random::<u64>());
                OutputDir::prepare(dir, options, &run_id).map(Output::Dir)
            }
            (false, true) => OutputDir::prepare_resumable(dir, options, run_key).map(Output::Dir),
            (true, resume) => {
                let prepared = OutputStore::prepare(dir, options, run_key, resume).map(Output::Store);
                prepared.map_err(DataError::preparing_output)
            }
        }
    }

    /// What tells the tasks of the run where their files go.
    pub(crate) fn staging(&self) -> String {
        match self {
            Output::Dir(dir) => dir.staging(),
            Output::Store(store) => store.staging(),
        }
    }

    /// The ordinal in the names of the files of the first task. Files in a directory get theirs
    /// when they are moved.
    pub(crate) fn first_ordinal(&self) -> u64 {
        match self {
            Output::Dir(_) => 0,
            Output::Store(store) => store.first_ordinal(),
        }
    }

    /// The files of blocks that an earlier run has finished.
    pub(crate) fn finished(&self) -> Result<Vec<BlockFile>, DataError> {
        match self {
            Output::Dir(dir) => dir.finished(),
            Output::Store(store) => Ok(store.finished()),
        }
    }

    /// How many blocks an earlier run has finished whose files are gone: a store may end uploads by itself.
    pub(crate) fn finished_and_gone(&self) -> u64 {
        match self {
            Output::Dir(_) => 0,
            Output::Store(store) => store.finished_and_gone(),
        }
    }

    /// What was found of earlier runs, if this one can be resumed.
    pub(crate) fn earlier(&self) -> Option<EarlierRun> {
        match self {
            Output::Dir(dir) => dir.earlier(),
            Output::Store(store) => store.earlier(),
        }
    }

    /// An error of a task, with the output's directory where it names what only the run knows.
    pub(crate) fn shown(&self, error: DataError) -> DataError {
        match self {
            Output::Dir(dir) => dir.shown(error),
            Output::Store(store) => store.shown(error),
        }
    }

    /// Makes the files of all tasks visible, in order, and returns their paths.
    pub(crate) fn commit(self, files: &[BlockFile]) -> Result<Vec<String>, DataError> {
        match self {
            Output::Dir(dir) => dir.commit(files),
            Output::Store(store) => store.commit(files),
        }
    }

    /// Ends a run that has failed; these are the uploads that are known of it.
    pub(crate) fn abandon(self, uploads: &[PendingUpload]) {
        match self {
            Output::Dir(dir) => drop(dir),
            Output::Store(store) => store.abandon(uploads),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::StorageOptions;

    #[test]
    fn an_output_in_a_store_that_is_not_there_is_named_as_one() {
        let storage = StorageOptions {
            // Nobody answers there.
            endpoint_url: Some("http://127.0.0.1:9".into()),
            access_key_id: Some("AKIATEST".into()),
            secret_access_key: Some("secret".into()),
            max_attempts: 1,
            ..StorageOptions::default()
        };
        let options = WriteOptions { storage: Some(storage), ..WriteOptions::default() };
        for resume in [false, true] {
            let error = Output::prepare("s3://bucket/out", &options, "key", resume).unwrap_err().to_string();
            assert!(error.starts_with("cannot prepare the output s3://bucket/out"), "{error}");
            let told = "cannot reach the store at http://127.0.0.1:9 (connection refused): is it running, is the \
                        endpoint URL right?";
            assert!(error.ends_with(told), "{error}");
        }
    }
}
