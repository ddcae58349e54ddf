//! `taxi-etl` on a cluster that loses a node half way: the same files, and nothing beside them.
//!
//! `MOBULA_KILL_ROWS` says how many rows it cleans and `MOBULA_KILL_TIMES` how often it is disturbed:
//! 5000000 and 5 take a quarter of an hour in a debug build.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::binaries::binary;
use crate::support::cluster::{Cluster, is_alive};
use crate::support::process::{Finished, Program};
use crate::support::{setting, wait_until};
use crate::taxi::{assert_adds_up, command};

/// Rows when nobody asks for more.
const ROWS: u64 = 240_000;
/// A file each, and each a block of its own.
const MONTHS: &str = "2023-01..2023-12";
/// A block has one row group then.
const BLOCK_BYTES: &str = "1";
/// So that two blocks at once need both nodes.
const CPUS: u32 = 1;

/// Cleans on the cluster; does not wait for the end.
fn start(cluster: &Cluster, input: &Path, output: &Path) -> Program {
    let mut run = command(cluster.family(), output, &[input]);
    run.args(["--address", cluster.address(), "--block-bytes", BLOCK_BYTES, "--format", "json"]);
    Program::start("taxi-etl", run)
}

fn report(finished: Finished) -> Value {
    let report = finished.expect_success("taxi-etl").json();
    assert_adds_up(&report);
    report
}

/// What a reader of the directory finds: names and contents.
fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let entries = entries.map(|entry| entry.expect("an entry of a directory").path());
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    entries.map(|path| (name(&path), fs::read(&path).expect("a file can be read"))).collect()
}

/// The names in a directory, which may not be there.
fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// How many blocks of a run into `folder` are done: their files wait there.
fn blocks_done(folder: &Path) -> usize {
    let staging = names(folder).into_iter().filter(|name| name.contains(".mobula-"));
    let waiting = staging.flat_map(|name| names(&folder.join(name)));
    waiting.filter(|name| name.starts_with("part-") && name.ends_with(".parquet")).count()
}

/// Which of the cluster's nodes works, counted as they were started.
fn busy_node(cluster: &mut Cluster) -> Option<usize> {
    let list = cluster.node_list();
    let works = |node: &&Value| is_alive(node) && node["resources"]["CPU"]["used"].as_f64().is_some_and(|n| n > 0.0);
    let name = list.iter().find(works)?["name"].as_str()?.to_owned();
    cluster.nodes().iter().position(|node| node.name() == name)
}

#[test]
fn a_node_that_is_killed_half_way_changes_nothing_in_the_output() {
    let rows = setting("MOBULA_KILL_ROWS", ROWS);
    let mut cluster = Cluster::start(0, 0);
    for _ in 0..2 {
        cluster.join(CPUS);
    }
    cluster.wait_for_nodes(3);
    let input = cluster.family().path("trips");
    let mut generate = cluster.family().command(binary("taxi-etl"));
    generate.args(["generate", "--rows", &rows.to_string(), "--months", MONTHS, "--output"]).arg(&input);
    Program::run("taxi-etl generate", generate).expect_success("taxi-etl generate");

    let undisturbed = cluster.family().path("undisturbed");
    let expected = report(start(&cluster, &input, &undisturbed).finished());
    assert_eq!(expected["rows_read"], rows, "{expected}");
    let expected_files = files(&undisturbed);
    assert!(expected_files.len() > 4, "too few blocks to be half way: {expected}");

    for _ in 0..setting("MOBULA_KILL_TIMES", 1) {
        let folder = cluster.family().path("disturbed");
        fs::create_dir(&folder).expect("a directory");
        let output = folder.join("clean");
        let mut run = start(&cluster, &input, &output);
        let half = expected_files.len() / 2;
        wait_until("half of the blocks", || {
            assert!(run.try_wait().is_none(), "it ended before it was disturbed: {}", run.stderr());
            assert!(!output.exists(), "a reader sees what is not finished");
            (blocks_done(&folder) >= half).then_some(())
        });
        let victim = wait_until("a node at work", || busy_node(&mut cluster));
        let mut victim = cluster.nodes().remove(victim);
        victim.signal(Signal::KILL);
        victim.wait();
        let done_then = blocks_done(&folder);
        assert!(run.try_wait().is_none() && done_then < expected_files.len(), "it was too late: {done_then} blocks");
        cluster.join(CPUS);

        let disturbed = report(run.finished());
        for figure in ["rows_read", "rows_written", "dropped_by_rule", "files_written", "bytes_read", "bytes_written"] {
            assert_eq!(disturbed[figure], expected[figure], "{figure} of {disturbed}");
        }
        // Byte for byte: the same rows in the same order, and each block once.
        let found = files(&output);
        assert_eq!(found.keys().collect::<Vec<_>>(), expected_files.keys().collect::<Vec<_>>());
        assert!(found == expected_files, "the names are the same, what is in the files is not");
        assert_eq!(names(&folder), ["clean"], "something is left beside the output");
        println!("killed after {done_then} of {} blocks, all right", expected_files.len());
        fs::remove_dir_all(&folder).expect("it can be removed");
        cluster.wait_for_nodes(3);
    }
}
