//! How nodes end: drained, killed, or with their head; and what must be gone afterwards.

use std::path::PathBuf;

use rustix::process::Signal;

use crate::support::binaries::{behaviour, binary};
use crate::support::cluster::{Cluster, is_alive};
use crate::support::process::Program;
use crate::support::wait_until;

/// A driver that keeps every CPU busy until it is dropped.
fn keep_busy(cluster: &Cluster) -> Program {
    let mut command = cluster.family().command(behaviour());
    command.args(["busy", "--address", cluster.address()]);
    let mut busy = Program::start("a busy driver", command);
    busy.wait_for_output("work under way", |output| output.contains("busy").then_some(()));
    busy
}

/// The shared memory of processes of this machine's clusters, by the nodes' ids.
fn shared_memory(cluster: &Cluster) -> Vec<PathBuf> {
    cluster
        .node_list()
        .iter()
        .map(|node| PathBuf::from(format!("/dev/shm/mobula-{}", node["node"].as_str().unwrap_or_default())))
        .collect()
}

#[test]
fn a_drained_cluster_leaves_nothing() {
    let mut cluster = Cluster::start(1, 1);
    let busy = keep_busy(&cluster);
    let memory = shared_memory(&cluster);
    assert!(memory.iter().all(|path| path.is_dir()), "where is the shared memory? {memory:?}");
    drop(busy);
    cluster.nodes()[0].signal(Signal::TERM);
    let ended = cluster.nodes()[0].wait();
    assert!(ended.success(), "a node that drains ends with 0, not {ended}");
    wait_until("the head to know that the node has left", || {
        let left = cluster.node_list().iter().filter(|node| is_alive(node)).count();
        (left == 1).then_some(())
    });
    cluster.head().signal(Signal::TERM);
    let ended = cluster.head().wait();
    assert!(ended.success(), "a head that drains ends with 0, not {ended}");
    cluster.family().wait_until_empty();
    assert!(memory.iter().all(|path| !path.exists()), "shared memory is left: {memory:?}");
}

#[test]
fn a_second_signal_stops_at_once() {
    // Draining alone would take longer than the test waits.
    let mut cluster = Cluster::start_with(0, 1, &["--drain", "3600"]);
    let _busy = keep_busy(&cluster);
    cluster.head().signal(Signal::INT);
    std::thread::sleep(std::time::Duration::from_millis(100));
    cluster.head().signal(Signal::INT);
    cluster.head().wait();
    wait_until("its workers to end", || (cluster.family().living().len() <= 1).then_some(()));
}

#[test]
fn a_killed_node_is_declared_dead_and_its_workers_end() {
    let mut cluster = Cluster::start(2, 1);
    let busy = keep_busy(&cluster);
    let name = "node-1";
    cluster.nodes()[0].signal(Signal::KILL);
    cluster.nodes()[0].wait();
    wait_until("the dead node to be declared dead", || {
        cluster.node_list().iter().any(|node| node["name"] == name && node["state"] == "DEAD").then_some(())
    });
    // What is left: the head, the other node, their workers and the driver.
    drop(busy);
    cluster.wait_for_nodes(2);
    // The cluster goes on: a node that joins is taken in, and work runs.
    cluster.join(1);
    cluster.wait_for_nodes(3);
    drop(keep_busy(&cluster));
}

#[test]
fn a_node_that_dies_while_the_head_is_away_is_declared_dead() {
    let mut cluster = Cluster::start(0, 0);
    let (dies, lives) = (cluster.join(1), cluster.join(1));
    cluster.wait_for_nodes(3);
    cluster.kill_head();
    cluster.nodes()[0].signal(Signal::KILL);
    cluster.nodes()[0].wait();
    cluster.restart_head(0);
    let is_known = |name: &str, state: &str| {
        let known = |node: &serde_json::Value| node["name"] == name && node["state"] == state;
        cluster.node_list().iter().any(known).then_some(())
    };
    wait_until("the dead node to be declared dead", || is_known(&dies, "DEAD"));
    wait_until("the other one to be back", || is_known(&lives, "ALIVE"));
    drop(keep_busy(&cluster));
}

/// Kills the first of so many nodes while this driver has work there, and expects that it copes.
fn lose_a_node(nodes: usize, driver: &str, has_work: &str) {
    let mut cluster = Cluster::start(nodes, 1);
    let mut command = cluster.family().command(behaviour());
    command.args([driver, "--address", cluster.address()]);
    let mut driver = Program::start("a driver that loses a node", command);
    driver.wait_for_output("its work on the node", |output| output.contains(has_work).then_some(()));
    cluster.nodes()[0].signal(Signal::KILL);
    let status = driver.wait();
    assert!(status.success(), "{status}\n{}\n{}", driver.stdout(), driver.stderr());
}

#[test]
fn tasks_of_a_killed_node_run_again() {
    lose_a_node(2, "survives", "under way");
}

#[test]
fn a_sort_that_loses_a_node_while_it_cuts_blocks_gives_the_same_rows() {
    lose_a_node(2, "data-0", "under way");
}

#[test]
fn a_sort_that_loses_parts_with_a_node_gives_the_same_rows() {
    lose_a_node(2, "data-1", "under way");
}

#[test]
fn a_shuffle_that_loses_a_node_gives_the_same_rows() {
    lose_a_node(2, "data-2", "under way");
}

#[test]
fn a_group_by_that_loses_a_node_gives_the_same_rows() {
    lose_a_node(2, "data-3", "under way");
}

#[test]
fn a_join_that_loses_a_node_gives_the_same_rows() {
    lose_a_node(2, "data-4", "under way");
}

#[test]
fn a_write_that_loses_a_node_writes_the_same_rows_once() {
    lose_a_node(2, "data-5", "under way");
}

#[test]
fn blocks_of_actors_that_are_lost_while_other_actors_take_them_are_made_again() {
    lose_a_node(2, "data-6", "under way");
}

#[test]
fn blocks_of_actors_that_are_lost_when_their_actors_are_gone_are_made_again() {
    lose_a_node(2, "data-7", "under way");
}

#[test]
fn work_that_is_bound_to_a_killed_node_fails() {
    lose_a_node(1, "bound", "bound to the node");
}

#[test]
fn a_node_whose_output_nobody_reads_lives_on() {
    let cluster = Cluster::start(0, 1);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut command = cluster.family().command(binary("mobula"));
    command.args(["start", "--address", cluster.address(), "--token", cluster.token(), "--num-cpus", "1", "--dir"]);
    command.arg(cluster.family().path("unread")).env("MOBULA_LOG", "debug");
    command.stdout(std::process::Stdio::null()).stderr(writer);
    let mut node = command.spawn().expect("the node starts");
    cluster.wait_for_nodes(2);
    // Each of these is worth a line of the log.
    for _ in 0..3 {
        cluster.run(&["list", "workers"]);
    }
    drop(keep_busy(&cluster));
    cluster.wait_for_nodes(2);
    let pid = rustix::process::Pid::from_raw(i32::try_from(node.id()).expect("an id fits")).expect("it is one");
    rustix::process::kill_process(pid, Signal::TERM).expect("it lives");
    let status = wait_until("the node to end", || node.try_wait().expect("a child can be waited for"));
    assert!(status.success(), "{status}");
}

#[test]
fn a_driver_whose_node_dies_goes_on_with_another() {
    // A driver is at home on the head's node, if that is on its machine.
    let mut cluster = Cluster::start(1, 1);
    let mut command = cluster.family().command(behaviour());
    command.args(["moves", "--address", cluster.address()]);
    let mut driver = Program::start("a driver that loses its node", command);
    driver.wait_for_output("its first task", |output| output.contains("at home").then_some(()));
    cluster.kill_head();
    cluster.restart_head(1);
    std::fs::write(cluster.family().path("head-is-away"), b"").expect("the family's home can be written");
    let status = driver.wait();
    assert!(status.success(), "{status}\n{}\n{}", driver.stdout(), driver.stderr());
}

#[test]
fn a_killed_head_leaves_no_processes_and_no_shared_memory() {
    let mut cluster = Cluster::start(1, 1);
    let busy = keep_busy(&cluster);
    let memory = shared_memory(&cluster);
    cluster.head().signal(Signal::KILL);
    cluster.head().wait();
    drop(busy);
    for node in cluster.nodes() {
        node.signal(Signal::TERM);
        node.wait();
    }
    cluster.family().wait_until_empty();
    // A killed process cannot clean up after itself; the next node on the machine does it.
    let successor = Cluster::start(0, 1);
    wait_until("the successor to clean up", || memory.iter().all(|path| !path.exists()).then_some(()));
    drop(successor);
}

#[test]
fn an_actor_that_ends_without_the_head_stays_ended() {
    // No work on the head, so that it takes no actor with it.
    let mut cluster = Cluster::start(0, 0);
    cluster.join(3);
    cluster.wait_for_nodes(2);
    let mut command = cluster.family().command(behaviour());
    command.args(["ends-actors", "--address", cluster.address()]);
    let mut driver = Program::start("a driver that ends its actors", command);
    driver.wait_for_output("its actors", |output| output.contains("actors live").then_some(()));
    cluster.kill_head();
    std::fs::write(cluster.family().path("head-is-away"), b"").expect("the family's home can be written");
    driver.wait_for_output("their end", |output| output.contains("actors ended").then_some(()));
    cluster.restart_head(0);
    let status = driver.wait();
    assert!(status.success(), "{status}\n{}\n{}", driver.stdout(), driver.stderr());
}

#[test]
fn what_needs_the_head_waits_for_it_and_the_rest_goes_on() {
    let mut cluster = Cluster::start(0, 0);
    cluster.join(3);
    cluster.wait_for_nodes(2);
    let mut command = cluster.family().command(behaviour());
    command.args(["goes-through", "--address", cluster.address()]);
    let mut driver = Program::start("a driver that outlives the head", command);
    driver.wait_for_output("its actor", |output| output.contains("actors live").then_some(()));
    cluster.kill_head();
    std::fs::write(cluster.family().path("head-is-away"), b"").expect("the family's home can be written");
    driver.wait_for_output("its questions", |output| output.contains("the head is asked").then_some(()));
    cluster.restart_head(0);
    let status = driver.wait();
    assert!(status.success(), "{status}\n{}\n{}", driver.stdout(), driver.stderr());
}

/// What a driver says that looks for the actor which another one has left behind.
fn keeper(cluster: &Cluster) -> String {
    let mut command = cluster.family().command(behaviour());
    command.args(["finds-keeper", "--address", cluster.address()]);
    Program::run("finds-keeper", command).expect_success("the actor is found").stdout
}

#[test]
fn a_detached_actor_outlives_its_driver_the_head_and_its_node() {
    let mut cluster = Cluster::start(0, 0);
    cluster.join(3);
    cluster.wait_for_nodes(2);
    let mut command = cluster.family().command(behaviour());
    command.args(["leaves-keeper", "--address", cluster.address()]);
    Program::run("leaves-keeper", command).expect_success("an actor is left behind");
    let said = keeper(&cluster);
    assert!(said.contains("keeper has 7 on node-1"), "{said}");
    cluster.kill_head();
    cluster.restart_head(0);
    let said = keeper(&cluster);
    assert!(said.contains("keeper has 7 on node-1"), "{said}");
    cluster.join(3);
    cluster.wait_for_nodes(3);
    cluster.nodes()[0].signal(Signal::KILL);
    cluster.nodes()[0].wait();
    let said = keeper(&cluster);
    assert!(said.contains("keeper has 0 on node-2"), "it has moved, its state anew: {said}");
}

#[test]
fn a_killed_driver_leaves_no_workers() {
    let cluster = Cluster::start(1, 1);
    let before = cluster.family().living().len();
    let busy = keep_busy(&cluster);
    assert!(cluster.family().living().len() > before + 1, "no worker processes were started");
    busy.signal(Signal::KILL);
    wait_until("its workers to end", || (cluster.family().living().len() == before).then_some(()));
    cluster.wait_for_nodes(2);
}

/// Building a program anew while it runs must not take its binary away from nodes that need it.
#[test]
fn a_program_whose_file_is_gone_still_gets_workers() {
    let mut cluster = Cluster::start(0, 0);
    let program = cluster.family().path("program");
    std::fs::copy(behaviour(), &program).expect("the driver can be copied");
    let mut command = cluster.family().command(&program);
    command.args(["late", "--address", cluster.address()]);
    let mut driver = Program::start("a driver whose file goes away", command);
    driver.wait_for_output("its task", |output| output.contains("submitted").then_some(()));
    std::fs::remove_file(&program).expect("the file can be removed");
    cluster.join(1);
    let status = driver.wait();
    assert!(status.success(), "{status}\n{}\n{}", driver.stdout(), driver.stderr());
}
