//! What runs write down of blocks that are done, for one that does the same to go on with.
//!
//! Entry points: [`write_note`], the task's side, and [`earlier_runs`], the driver's, which finds
//! what there is to go on with. A note says which uploads are the files of a block; the blocks
//! count whose uploads are all there. It needs no mark: it is worth as much without its run.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;

use super::marks::{Mark, is_note};
use crate::block_writer::BlockFile;
use crate::error::DataError;
use crate::output_dir::parts::{name_of, part_ordinal};
use crate::storage::{PendingUpload, RemoteEntry, StorageOptions, UploadState, put_small, read_small, upload_states};

/// What earlier runs have done whose files have the same names.
#[derive(Debug, Default)]
pub(super) struct Earlier {
    /// The files of blocks, by the blocks' ordinals in the plan.
    pub(super) blocks: BTreeMap<u64, Vec<BlockFile>>,
    /// Those of the files that are visible, by their paths below the directory.
    pub(super) visible: BTreeSet<String>,
    /// How many more blocks were done of which not every file is there any more.
    pub(super) gone: u64,
}

impl Earlier {
    /// Adds blocks by their files, but for those that are known already.
    fn add(&mut self, first: u64, files: Vec<BlockFile>) {
        let mut blocks: BTreeMap<u64, Vec<BlockFile>> = BTreeMap::new();
        for file in files.into_iter().filter(|file| file.upload.is_some()) {
            // What the file's name says counts, not from where on its run has counted.
            if let Some(ordinal) = part_ordinal(name_of(&file.path)).and_then(|ordinal| ordinal.checked_sub(first)) {
                blocks.entry(ordinal).or_default().push(BlockFile { ordinal, ..file });
            }
        }
        for (ordinal, files) in blocks {
            self.blocks.entry(ordinal).or_insert(files);
        }
    }

    /// Keeps the blocks of which everything is there.
    fn keep_what_is_there(&mut self, states: &HashMap<String, UploadState>) {
        let state = |file: &BlockFile| file.upload.as_ref().and_then(|upload| states.get(&upload.upload_id)).copied();
        let is_there = |file: &BlockFile| state(file).is_some_and(|state| state != UploadState::Gone);
        let done = self.blocks.len();
        self.blocks.retain(|_, files| files.iter().all(is_there));
        self.gone = (done - self.blocks.len()) as u64;
        let files = self.blocks.values().flatten();
        let visible = files.filter(|file| state(file) == Some(UploadState::Complete));
        self.visible = visible.map(|file| file.path.clone()).collect();
    }
}

/// Writes down the files of blocks that are done.
pub(super) fn write_note(path: &str, files: &[BlockFile], storage: &StorageOptions) -> Result<(), DataError> {
    let failed = |e: rmp_serde::encode::Error| DataError::Write { path: path.into(), cause: e.to_string() };
    let bytes = rmp_serde::to_vec(files).map_err(failed)?;
    put_small(path, Bytes::from(bytes), storage)
}

/// What runs of this key have done that keep this `hidden` in a directory, by the ordinals of their
/// first blocks; and whether there were any. `committed` are the files of those that were ended just now.
pub(super) fn earlier_runs(
    hidden: &[RemoteEntry],
    key: &str,
    committed: Vec<(u64, Vec<BlockFile>)>,
    storage: &StorageOptions,
) -> Result<(BTreeMap<u64, Earlier>, bool), DataError> {
    let first_of = |path: &str| Mark::of(path).filter(|mark| mark.key == key)?.first;
    let found = !committed.is_empty() || hidden.iter().any(|entry| first_of(&entry.path).is_some());
    let mut runs: BTreeMap<u64, Earlier> = BTreeMap::new();
    for (first, files) in committed {
        runs.entry(first).or_default().add(first, files);
    }
    // Of two notes about a block, the one of the later run counts.
    let notes = hidden.iter().rev().filter(|entry| is_note(&entry.path));
    let (firsts, notes): (Vec<u64>, Vec<RemoteEntry>) =
        notes.filter_map(|entry| first_of(&entry.path).map(|first| (first, entry.clone()))).unzip();
    for (first, bytes) in firsts.into_iter().zip(read_small(&notes, storage)?) {
        if let Some(files) = bytes.and_then(|bytes| rmp_serde::from_slice::<Vec<BlockFile>>(&bytes).ok()) {
            runs.entry(first).or_default().add(first, files);
        }
    }
    let files = runs.values().flat_map(|run| run.blocks.values().flatten());
    let uploads: Vec<PendingUpload> = files.filter_map(|file| file.upload.clone()).collect();
    let states = upload_states(&uploads, storage)?;
    let states = uploads.into_iter().map(|upload| upload.upload_id).zip(states).collect();
    runs.values_mut().for_each(|run| run.keep_what_is_there(&states));
    Ok((runs, found))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with an upload of this id.
    fn file(path: &str, id: &str) -> BlockFile {
        let upload = serde_json::json!({
            "path": format!("s3://b/out/{path}"), "upload_id": id, "mark": "m", "size": 1, "parts": []
        });
        let upload = Some(serde_json::from_value(upload).unwrap());
        BlockFile { ordinal: 77, path: path.into(), bytes: 1, rows: 10, upload }
    }

    fn id(file: &BlockFile) -> &str {
        &file.upload.as_ref().unwrap().upload_id
    }

    fn ids(earlier: &Earlier) -> Vec<(u64, Vec<&str>)> {
        earlier.blocks.iter().map(|(ordinal, files)| (*ordinal, files.iter().map(id).collect())).collect()
    }

    #[test]
    fn blocks_are_known_by_their_names_and_the_first_note_counts() {
        let mut earlier = Earlier::default();
        earlier.add(4, vec![file("z=1/part-00005.parquet", "a"), file("z=2/part-00005.parquet", "b")]);
        earlier.add(4, vec![file("z=1/part-00005.parquet", "c"), file("part-00006-000.parquet", "d")]);
        // Before the first one, no file of a run, and not uploaded.
        let here = BlockFile { upload: None, ..file("part-00009.parquet", "g") };
        earlier.add(4, vec![file("part-00003.parquet", "e"), file("x.parquet", "f"), here]);
        assert_eq!(ids(&earlier), [(1, vec!["a", "b"]), (2, vec!["d"])]);
        assert!(earlier.blocks.values().flatten().all(|file| file.ordinal == 1 || file.ordinal == 2));
    }

    #[test]
    fn a_block_of_which_a_file_is_gone_is_not_done() {
        let mut earlier = Earlier::default();
        earlier.add(0, vec![file("z=1/part-00000.parquet", "a"), file("z=2/part-00000.parquet", "b")]);
        earlier.add(0, vec![file("z=1/part-00001.parquet", "c"), file("z=2/part-00001.parquet", "d")]);
        earlier.add(0, vec![file("part-00002.parquet", "e")]);
        let states = [
            ("a", UploadState::Pending),
            ("b", UploadState::Gone),
            ("c", UploadState::Pending),
            ("d", UploadState::Complete),
        ];
        earlier.keep_what_is_there(&states.map(|(id, state)| (id.to_owned(), state)).into());
        assert_eq!((ids(&earlier), earlier.gone), (vec![(1, vec!["c", "d"])], 2));
        assert_eq!(earlier.visible.iter().collect::<Vec<_>>(), ["z=2/part-00001.parquet"]);
    }
}
