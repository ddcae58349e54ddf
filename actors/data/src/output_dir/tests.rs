use super::staging::Journal;
use super::*;
use crate::block_writer::{BlockWriter, part_name};
use arrow::array::{ArrayRef, Int64Array};
use arrow::record_batch::RecordBatch;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

fn batch(values: std::ops::Range<i64>) -> RecordBatch {
    RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from_iter_values(values)) as ArrayRef)]).unwrap()
}

fn write(output: &OutputDir, ordinal: u64, attempt: &str) -> BlockFile {
    let batch = batch(0..10);
    let options = WriteOptions::default();
    let mut writer = BlockWriter::create(&output.staging(), ordinal, attempt, batch.schema(), &options).unwrap();
    writer.write(&batch).unwrap();
    let [file] = writer.finish().unwrap().try_into().unwrap();
    file
}

fn options(mode: WriteMode) -> WriteOptions {
    WriteOptions { mode, ..WriteOptions::default() }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn prepare(dir: &Path, mode: WriteMode) -> Result<OutputDir, DataError> {
    OutputDir::prepare(dir.to_str().unwrap(), &options(mode), "run")
}

fn prepare_as(dir: &Path, mode: WriteMode, run: &str) -> OutputDir {
    OutputDir::prepare(dir.to_str().unwrap(), &options(mode), run).unwrap()
}

/// The run's process ends here, whatever it was doing.
fn die(mut output: OutputDir) {
    output.leave_staging = true;
    output.made.keep();
}

#[test]
fn a_directory_that_the_run_makes_appears_whole_and_nothing_else_does() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("a/b");
    let output = prepare(&dir, WriteMode::ErrorIfExists).unwrap();
    let files = [write(&output, 0, "x"), write(&output, 1, "x")];
    // A second attempt of the same task ends in the same file, and one that was given up
    // is not part of the result.
    assert_eq!(write(&output, 1, "y"), files[1]);
    fs::write(Path::new(&output.staging()).join("part-00000.parquet.z"), "half").unwrap();
    assert!(!dir.exists());
    let paths = output.commit(&files).unwrap();
    assert_eq!(names(&dir), ["part-00000.parquet", "part-00001.parquet"]);
    assert_eq!(names(dir.parent().unwrap()), ["b"]);
    assert_eq!(paths.len(), 2);
    assert_eq!(fs::metadata(&paths[0]).unwrap().len(), files[0].bytes);
}

#[test]
fn a_run_given_up_leaves_nothing_not_even_its_directories() {
    let root = tempfile::tempdir().unwrap();
    let output = prepare(&root.path().join("a/b"), WriteMode::ErrorIfExists).unwrap();
    write(&output, 0, "x");
    drop(output);
    assert!(names(root.path()).is_empty());
}

#[test]
fn a_writer_given_up_leaves_no_file() {
    let root = tempfile::tempdir().unwrap();
    let output = prepare(root.path(), WriteMode::ErrorIfExists).unwrap();
    let schema = batch(0..1).schema();
    drop(BlockWriter::create(&output.staging(), 0, "x", schema.clone(), &WriteOptions::default()).unwrap());
    assert_eq!(names(Path::new(&output.staging())), [OWNER]);
    let staging = output.staging();
    drop(output);
    let late = BlockWriter::create(&staging, 0, "x", schema, &WriteOptions::default());
    assert!(late.err().unwrap().to_string().contains("the run has ended"));
}

#[test]
fn a_commit_that_fails_half_way_puts_everything_back() {
    let root = tempfile::tempdir().unwrap();
    let output = prepare(root.path(), WriteMode::ErrorIfExists).unwrap();
    let first = output.commit(&[]).unwrap();
    assert!(first.is_empty());
    fs::write(root.path().join("part-00000.parquet"), "old").unwrap();
    let output = prepare(root.path(), WriteMode::Overwrite).unwrap();
    let file = write(&output, 0, "x");
    let missing = BlockFile { ordinal: 1, path: "part-00001.parquet".into(), ..file.clone() };
    assert!(matches!(output.commit(&[file, missing]), Err(DataError::Write { .. })));
    assert_eq!(names(root.path()), ["part-00000.parquet"]);
    assert_eq!(fs::read(root.path().join("part-00000.parquet")).unwrap(), b"old");
}

#[test]
fn of_two_runs_at_once_one_succeeds_and_the_other_is_told() {
    let root = tempfile::tempdir().unwrap();
    for dir in [root.path().join("new"), tempfile::tempdir_in(root.path()).unwrap().keep()] {
        let one = prepare_as(&dir, WriteMode::ErrorIfExists, "one");
        let other = prepare_as(&dir, WriteMode::ErrorIfExists, "other");
        let files = [write(&one, 0, "x"), write(&one, 1, "x")];
        let other_files = [write(&other, 0, "x")];
        one.commit(&files).unwrap();
        let error = other.commit(&other_files).unwrap_err();
        assert!(matches!(error, DataError::OutputExists { .. }), "{error}");
        assert_eq!(names(&dir), ["part-00000.parquet", "part-00001.parquet"]);
    }
    // Of two that append, the result is both.
    let dir = root.path().join("append");
    let runs = ["one", "other"].map(|run| prepare_as(&dir, WriteMode::Append, run));
    let files = runs.each_ref().map(|run| [write(run, 0, "x")]);
    runs.into_iter().zip(&files).for_each(|(run, files)| drop(run.commit(files).unwrap()));
    assert_eq!(names(&dir), ["part-00000.parquet", "part-00001.parquet"]);
}

#[test]
fn of_two_runs_that_overwrite_the_first_one_wins() {
    let root = tempfile::tempdir().unwrap();
    for (name, old) in [("new", 0), ("old", 1), ("older", 2)] {
        let dir = root.path().join(name);
        for _ in 0..old {
            let before = prepare_as(&dir, WriteMode::Overwrite, "before");
            let files = [write(&before, 0, "x")];
            before.commit(&files).unwrap();
        }
        let runs = ["one", "other"].map(|run| prepare_as(&dir, WriteMode::Overwrite, run));
        let files = runs.each_ref().map(|run| [write(run, 0, "x")]);
        let [one, other] = runs;
        one.commit(&files[0]).unwrap();
        let winner = fs::metadata(dir.join("part-00000.parquet")).unwrap();
        let error = other.commit(&files[1]).unwrap_err();
        let DataError::OutputChanged { path, found } = &error else { panic!("{error}") };
        assert_eq!((Path::new(path), found.as_str()), (dir.as_path(), "part-00000.parquet"));
        let there = fs::metadata(dir.join("part-00000.parquet")).unwrap();
        assert_eq!((there.ino(), there.modified().unwrap()), (winner.ino(), winner.modified().unwrap()));
        assert_eq!(names(&dir), ["part-00000.parquet"]);
        // One that begins now knows of it.
        let next = prepare_as(&dir, WriteMode::Overwrite, "next");
        let files = [write(&next, 0, "x"), write(&next, 1, "x")];
        next.commit(&files).unwrap();
        assert_eq!(names(&dir).len(), 2);
    }
    assert_eq!(names(root.path()), ["new", "old", "older"]);
}

#[test]
fn only_what_another_run_has_put_there_is_in_the_way_of_an_overwrite() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path();
    let old = prepare(dir, WriteMode::Overwrite).unwrap();
    let files = [write(&old, 0, "x"), write(&old, 1, "x")];
    old.commit(&files).unwrap();
    let output = prepare(dir, WriteMode::Overwrite).unwrap();
    let files = [write(&output, 0, "x")];
    // Removed by hand, and other people's files: neither is another run's.
    fs::remove_file(dir.join("part-00001.parquet")).unwrap();
    fs::write(dir.join("notes.txt"), "").unwrap();
    output.commit(&files).unwrap();
    assert_eq!(names(dir), ["notes.txt", "part-00000.parquet"]);
    // What was added meanwhile would be lost.
    let output = prepare_as(dir, WriteMode::Overwrite, "over");
    let files = [write(&output, 0, "x")];
    let added = prepare_as(dir, WriteMode::Append, "added");
    let more = [write(&added, 0, "x")];
    added.commit(&more).unwrap();
    let error = output.commit(&files).unwrap_err();
    assert!(matches!(&error, DataError::OutputChanged { found, .. } if found == "part-00001.parquet"), "{error}");
    assert_eq!(names(dir), ["notes.txt", "part-00000.parquet", "part-00001.parquet"]);
}

#[test]
fn a_resumable_run_that_came_too_late_keeps_what_it_has_done() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("out");
    let options = partitioned(WriteMode::Overwrite);
    let late = resume(&dir, "late").unwrap();
    let done = write_zones(&late, 0, &[1, 2], &options);
    let quick = prepare_as(&dir, WriteMode::Overwrite, "quick");
    let files = [write(&quick, 0, "x")];
    quick.commit(&files).unwrap();
    assert!(matches!(late.commit(&done), Err(DataError::OutputChanged { .. })));
    assert_eq!(names(&dir), ["part-00000.parquet"]);
    // What it has done lies beside the output, which was not there when it began.
    let again = resume(&dir, "late").unwrap();
    assert_eq!(again.earlier(), Some(EarlierRun::Same));
    assert_eq!(again.finished().unwrap(), done);
    again.commit(&done).unwrap();
    assert_eq!(tree(&dir), ["zone=1/part-00000.parquet", "zone=2/part-00000.parquet"]);
    assert_eq!(names(root.path()), ["out"]);
}

#[test]
fn what_a_killed_run_left_beside_an_output_that_exists_now_is_removed() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("out");
    let killed = prepare_as(&dir, WriteMode::Overwrite, "killed");
    write(&killed, 0, "x");
    let alive = prepare_as(&dir, WriteMode::Overwrite, "alive");
    write(&alive, 0, "x");
    die(killed);
    fs::create_dir(&dir).unwrap();
    drop(prepare_as(&dir, WriteMode::Overwrite, "next"));
    assert_eq!(names(root.path()), [".out.mobula-alive", "out"]);
    drop(alive);
    assert_eq!(names(root.path()), ["out"]);
}

#[test]
fn what_a_run_was_moving_when_it_died_is_taken_back_before_another_moves_wherever_both_began() {
    let root = tempfile::tempdir().unwrap();
    // Whether the one that dies, and the other, began before there was a directory.
    for (dead_is_beside, own_is_beside) in [(true, false), (true, true), (false, true)] {
        let dir = root.path().join(format!("out-{dead_is_beside}-{own_is_beside}"));
        let begin = |run: &str, is_beside: bool| {
            if !is_beside && !dir.exists() {
                fs::create_dir(&dir).unwrap();
            }
            prepare_as(&dir, WriteMode::Append, run)
        };
        // Those that begin beside it begin first.
        let (killed, own) = if dead_is_beside {
            let killed = begin("killed", true);
            (killed, begin("own", own_is_beside))
        } else {
            let own = begin("own", true);
            (begin("killed", false), own)
        };
        fs::create_dir_all(&dir).unwrap();
        let files = [write(&own, 0, "x")];
        let moved = write(&killed, 0, "x");
        let staging = PathBuf::from(killed.staging());
        let moves = vec![(staging.join(&moved.path), dir.join(&moved.path))];
        Journal { made: Vec::new(), moves: moves.clone() }.write(&staging.join(JOURNAL)).unwrap();
        fs::rename(&moves[0].0, &moves[0].1).unwrap();
        die(killed);
        own.commit(&files).unwrap();
        assert_eq!(tree(&dir), ["part-00000.parquet"], "{dead_is_beside} {own_is_beside}");
        // Nothing is left to be taken back in its place.
        drop(prepare_as(&dir, WriteMode::Append, "next"));
        assert_eq!(tree(&dir), ["part-00000.parquet"], "{dead_is_beside} {own_is_beside}");
    }
    assert_eq!(names(root.path()), ["out-false-true", "out-true-false", "out-true-true"]);
}

#[test]
fn what_a_killed_run_left_is_taken_back_by_the_next() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("out");
    let output = prepare_as(&dir, WriteMode::Overwrite, "first");
    let file = write(&output, 0, "x");
    output.commit(std::slice::from_ref(&file)).unwrap();
    let old = fs::read(dir.join("part-00000.parquet")).unwrap();

    // Killed between moving the old files away and the new ones in.
    let output = prepare_as(&dir, WriteMode::Overwrite, "killed");
    let staging = PathBuf::from(output.staging());
    fs::write(staging.join("part-00000.parquet"), "new").unwrap();
    fs::write(staging.join("part-00001.parquet"), "new").unwrap();
    let part = |ordinal| dir.join(part_name(ordinal, ".parquet"));
    let moves = vec![
        (part(0), staging.join("replaced-part-00000.parquet")),
        (staging.join("part-00000.parquet"), part(0)),
        (staging.join("part-00001.parquet"), part(1)),
    ];
    Journal { made: Vec::new(), moves: moves.clone() }.write(&staging.join(JOURNAL)).unwrap();
    for (from, to) in &moves[..2] {
        fs::rename(from, to).unwrap();
    }
    // As long as it lives, nobody touches what it has.
    drop(prepare_as(&dir, WriteMode::Overwrite, "beside"));
    assert_eq!(fs::read(part(0)).unwrap(), b"new");
    die(output);
    assert!(staging.exists());
    let next = prepare_as(&dir, WriteMode::Append, "next");
    assert_eq!(fs::read(part(0)).unwrap(), old);
    drop(next);
    assert_eq!(names(&dir), ["part-00000.parquet"]);

    // And one that was killed before it had made its directory.
    let fresh = root.path().join("fresh");
    let output = prepare_as(&fresh, WriteMode::ErrorIfExists, "killed");
    write(&output, 0, "x");
    die(output);
    assert_eq!(names(root.path()), [".fresh.mobula-killed", "out"]);
    drop(prepare_as(&fresh, WriteMode::ErrorIfExists, "next"));
    assert_eq!(names(root.path()), ["out"]);
}

#[test]
fn the_modes_treat_earlier_output_as_they_say() {
    let root = tempfile::tempdir().unwrap();
    let run = |mode| {
        let output = prepare(root.path(), mode)?;
        let files = [write(&output, 0, "x"), write(&output, 1, "x")];
        output.commit(&files)
    };
    run(WriteMode::ErrorIfExists).unwrap();
    assert!(matches!(run(WriteMode::ErrorIfExists), Err(DataError::OutputExists { .. })));
    run(WriteMode::Append).unwrap();
    assert_eq!(names(root.path()).len(), 4);
    run(WriteMode::Overwrite).unwrap();
    assert_eq!(names(root.path()), ["part-00000.parquet", "part-00001.parquet"]);
    fs::write(root.path().join("notes.txt"), "").unwrap();
    run(WriteMode::Overwrite).unwrap();
    fs::write(root.path().join("other.parquet"), "").unwrap();
    assert!(run(WriteMode::Overwrite).unwrap_err().to_string().contains("other.parquet"));
    assert_eq!(names(root.path()).len(), 4);
}

#[test]
fn a_full_disk_is_told_by_the_name_that_people_know() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("out");
    let output = prepare_as(&dir, WriteMode::Overwrite, "r");
    let full = io::Error::from(io::ErrorKind::StorageFull);
    let hidden = Path::new(&output.staging()).join("part-00000.parquet.1");
    let told = output.shown(DataError::write(&hidden, &full));
    assert!(matches!(&told, DataError::DiskFull { path, .. } if Path::new(path) == dir), "{told}");
    let elsewhere = DataError::write(Path::new("/elsewhere"), &full);
    assert_eq!(output.shown(elsewhere.clone()), elsewhere);
}

#[test]
fn what_cannot_be_written_is_named() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("file");
    fs::write(&file, "").unwrap();
    for dir in [file.clone(), file.join("below"), file.join("far/below"), PathBuf::from("/proc/mobula")] {
        let error = prepare(&dir, WriteMode::Overwrite).unwrap_err();
        assert!(matches!(error, DataError::Write { .. }), "{error}");
        assert!(error.to_string().contains(dir.to_str().unwrap()), "{error}");
    }
    assert_eq!(names(root.path()), ["file"]);
}

/// One batch dealt to directories by `zone`, with every file's rows.
fn partitioned(mode: WriteMode) -> WriteOptions {
    WriteOptions { partition_by: vec!["zone".into()], ..options(mode) }
}

fn write_zones(output: &OutputDir, ordinal: u64, zones: &[i64], options: &WriteOptions) -> Vec<BlockFile> {
    let n = Arc::new(Int64Array::from_iter_values(0..zones.len() as i64)) as ArrayRef;
    let zone = Arc::new(Int64Array::from(zones.to_vec())) as ArrayRef;
    let batch = RecordBatch::try_from_iter([("n", n), ("zone", zone)]).unwrap();
    let mut writer = BlockWriter::create(&output.staging(), ordinal, "x", batch.schema(), options).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap()
}

/// All files below, from `dir` on, hidden ones included.
fn tree(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for name in names(dir) {
        let path = dir.join(&name);
        match path.is_dir() {
            true => found.extend(tree(&path).into_iter().map(|below| format!("{name}/{below}"))),
            false => found.push(name),
        }
    }
    found
}

#[test]
fn the_modes_reach_the_directories_of_values() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("out");
    let run = |mode, zones: [&[i64]; 2]| {
        let options = partitioned(mode);
        let output = OutputDir::prepare(dir.to_str().unwrap(), &options, "run")?;
        let files: Vec<_> =
            (0..).zip(zones).flat_map(|(ordinal, zones)| write_zones(&output, ordinal, zones, &options)).collect();
        output.commit(&files)
    };
    let paths = run(WriteMode::ErrorIfExists, [&[1, 2, 1], &[2]]).unwrap();
    assert_eq!(tree(&dir), ["zone=1/part-00000.parquet", "zone=2/part-00000.parquet", "zone=2/part-00001.parquet"]);
    assert!(paths.iter().all(|path| Path::new(path).is_file()), "{paths:?}");
    assert!(matches!(run(WriteMode::ErrorIfExists, [&[1], &[]]), Err(DataError::OutputExists { .. })));
    run(WriteMode::Append, [&[], &[1, 3]]).unwrap();
    assert_eq!(
        tree(&dir)[..2],
        ["zone=1/part-00000.parquet", "zone=1/part-00003.parquet"],
        "numbers go on after the largest of the whole tree"
    );
    assert!(dir.join("zone=3/part-00003.parquet").exists());
    // Other people's directories are left alone.
    fs::create_dir(dir.join("other")).unwrap();
    fs::write(dir.join("other/part-00000.parquet"), "").unwrap();
    run(WriteMode::Overwrite, [&[2], &[4]]).unwrap();
    assert_eq!(tree(&dir), ["other/part-00000.parquet", "zone=2/part-00000.parquet", "zone=4/part-00001.parquet"]);
    assert_eq!(names(&dir), ["other", "zone=2", "zone=4"]);
    fs::write(dir.join("zone=2/mine.parquet"), "").unwrap();
    assert!(run(WriteMode::Overwrite, [&[2], &[]]).unwrap_err().to_string().contains("zone=2/mine.parquet"));
    assert_eq!(names(root.path()), ["out"]);
}

#[test]
fn a_commit_into_directories_that_fails_half_way_puts_everything_back() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("out");
    fs::create_dir_all(dir.join("zone=1")).unwrap();
    fs::write(dir.join("zone=1/part-00007.parquet"), "old").unwrap();
    let options = partitioned(WriteMode::Overwrite);
    let output = OutputDir::prepare(dir.to_str().unwrap(), &options, "run").unwrap();
    let mut files = write_zones(&output, 0, &[1, 2], &options);
    files.push(BlockFile { path: "zone=9/part-00009.parquet".into(), ..files[0].clone() });
    output.commit(&files).unwrap_err();
    assert_eq!(tree(&dir), ["zone=1/part-00007.parquet"]);
    assert_eq!(names(&dir), ["zone=1"]);
    assert_eq!(fs::read(dir.join("zone=1/part-00007.parquet")).unwrap(), b"old");
}

#[test]
fn what_a_killed_run_moved_into_directories_is_taken_back() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("out");
    fs::create_dir_all(&dir).unwrap();
    let options = partitioned(WriteMode::Append);
    let output = OutputDir::prepare(dir.to_str().unwrap(), &options, "killed").unwrap();
    let file = write_zones(&output, 0, &[1], &options).remove(0);
    let staging = PathBuf::from(output.staging());
    let moves = vec![(staging.join(&file.path), dir.join(&file.path))];
    Journal { made: vec![dir.join("zone=1")], moves }.write(&staging.join(JOURNAL)).unwrap();
    fs::create_dir(dir.join("zone=1")).unwrap();
    fs::rename(staging.join(&file.path), dir.join(&file.path)).unwrap();
    die(output);
    drop(prepare_as(&dir, WriteMode::Append, "next"));
    assert!(names(&dir).is_empty());
}

fn resume(dir: &Path, key: &str) -> Result<OutputDir, DataError> {
    OutputDir::prepare_resumable(dir.to_str().unwrap(), &partitioned(WriteMode::Overwrite), key)
}

#[test]
fn a_run_goes_on_where_the_same_one_ended() {
    let root = tempfile::tempdir().unwrap();
    for (name, exists) in [("new", false), ("old", true)] {
        let dir = root.path().join(name);
        if exists {
            fs::create_dir(&dir).unwrap();
        }
        let options = partitioned(WriteMode::Overwrite);
        let first = resume(&dir, "key").unwrap();
        assert_eq!(first.finished().unwrap(), []);
        let done = write_zones(&first, 1, &[1, 2], &options);
        // Not done: its list is missing.
        write_zones(&first, 3, &[1], &options);
        fs::remove_file(Path::new(&first.staging()).join("part-00003.done")).unwrap();
        fs::write(Path::new(&first.staging()).join("zone=1/part-00004-000.parquet.y"), "half").unwrap();
        assert!(resume(&dir, "key").unwrap_err().to_string().contains("does the same"));
        die(first);

        let second = resume(&dir, "key").unwrap();
        assert_eq!(second.earlier(), Some(EarlierRun::Same));
        assert_eq!(second.finished().unwrap(), done);
        let staging = PathBuf::from(second.staging());
        let left: Vec<_> = done.iter().map(|file| file.path.clone()).collect();
        let mut expected = vec![OWNER.to_owned(), "part-00001.done".into()];
        expected.extend(left);
        assert_eq!(tree(&staging), expected);
        // Ended early without being killed: what is done stays all the same.
        drop(second);
        // A file that is gone makes its block one to be done again.
        fs::remove_file(staging.join(&done[0].path)).unwrap();
        let third = resume(&dir, "key").unwrap();
        assert_eq!(third.finished().unwrap(), []);
        let done = write_zones(&third, 0, &[5], &options);
        die(third);
        let fourth = resume(&dir, "key").unwrap();
        fourth.commit(&done).unwrap();
        assert_eq!(tree(&dir), ["zone=5/part-00000.parquet"]);
    }
    assert_eq!(names(root.path()), ["new", "old"]);
}

#[test]
fn what_cannot_be_resumed_is_removed() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("out");
    let options = partitioned(WriteMode::Overwrite);
    let end_early = || {
        let output = resume(&dir, "one").unwrap();
        assert_eq!(output.earlier(), Some(EarlierRun::Nothing));
        write_zones(&output, 0, &[1], &options);
        drop(output);
        assert_eq!(names(root.path()).len(), 1);
    };
    end_early();
    let other = resume(&dir, "other").unwrap();
    assert_eq!(other.earlier(), Some(EarlierRun::Other));
    assert!(other.finished().unwrap().is_empty() && names(root.path()).len() == 1);
    // With nothing done there is nothing to keep.
    drop(other);
    assert!(names(root.path()).is_empty());
    end_early();
    let plain = prepare(&dir, WriteMode::Overwrite).unwrap();
    assert_eq!(plain.earlier(), None);
    drop(plain);
    assert!(names(root.path()).is_empty());
}

#[test]
fn a_commit_that_was_killed_is_resumed() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("out");
    let options = partitioned(WriteMode::Overwrite);
    let output = resume(&dir, "key").unwrap();
    let files = write_zones(&output, 0, &[1, 2], &options);
    // Killed while the files were being gathered.
    let whole = Path::new(&output.staging()).join(WHOLE);
    fs::create_dir_all(whole.join("zone=1")).unwrap();
    fs::rename(Path::new(&output.staging()).join(&files[0].path), whole.join(&files[0].path)).unwrap();
    die(output);
    let output = resume(&dir, "key").unwrap();
    assert_eq!(output.finished().unwrap(), files);
    output.commit(&files).unwrap();
    assert_eq!(tree(&dir), ["zone=1/part-00000.parquet", "zone=2/part-00000.parquet"]);
    assert_eq!(names(root.path()), ["out"]);
}
