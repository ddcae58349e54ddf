//! The behaviour that users rely on, in one process and on a cluster: the same scenarios, since
//! there is one path (principle 2). They are in this package's driver program, `src/`.

use rustix::process::Signal;

use crate::support::binaries::behaviour;
use crate::support::cluster::Cluster;
use crate::support::process::{Family, Program};
use crate::support::wait_until;

fn in_one_process(group: &str) {
    let family = Family::new();
    let mut command = family.command(behaviour());
    command.arg(group);
    Program::run(group, command).expect_success(group);
    family.wait_until_empty();
}

fn on_a_cluster(group: &str) {
    on(&Cluster::start(2, 2), group);
}

fn on(cluster: &Cluster, group: &str) {
    let mut command = cluster.family().command(behaviour());
    command.args([group, "--address", cluster.address()]);
    Program::run(group, command).expect_success(group);
}

#[test]
fn values_in_one_process() {
    in_one_process("values");
}

#[test]
fn values_on_a_cluster() {
    on_a_cluster("values");
}

#[test]
fn arguments_in_one_process() {
    in_one_process("arguments");
}

#[test]
fn arguments_on_a_cluster() {
    on_a_cluster("arguments");
}

#[test]
fn actors_in_one_process() {
    in_one_process("actors");
}

#[test]
fn actors_on_a_cluster() {
    on_a_cluster("actors");
}

#[test]
fn actor_life_in_one_process() {
    in_one_process("actor-life");
}

#[test]
fn actor_life_on_a_cluster() {
    on_a_cluster("actor-life");
}

#[test]
fn actor_sharing_in_one_process() {
    in_one_process("actor-sharing");
}

#[test]
fn actor_sharing_on_a_cluster() {
    on_a_cluster("actor-sharing");
}

#[test]
fn async_actors_in_one_process() {
    in_one_process("async-actors");
}

#[test]
fn async_actors_on_a_cluster() {
    on_a_cluster("async-actors");
}

#[test]
fn cancelling_in_one_process() {
    in_one_process("cancel");
}

#[test]
fn cancelling_on_a_cluster() {
    on_a_cluster("cancel");
}

#[test]
fn cancelling_by_force_on_a_cluster() {
    on_a_cluster("cancel-by-force");
}

#[test]
fn collectives_in_one_process() {
    in_one_process("collectives");
}

#[test]
fn collectives_on_a_cluster() {
    on_a_cluster("collectives");
}

#[test]
fn spilling_in_one_process() {
    in_one_process("spilling");
}

#[test]
fn spilling_with_many_gets_in_one_process() {
    in_one_process("spilling-many-gets");
}

#[test]
fn spilling_to_a_full_disk_in_one_process() {
    in_one_process("spilling-bounded");
}

#[test]
fn spilling_to_a_full_disk_on_a_cluster() {
    let bounded = ["--object-store-memory", "75M", "--spill-dir", "/dev/shm", "--spill-limit", "100M"];
    on(&Cluster::start_with(0, 2, &bounded), "spilling-bounded");
}

#[test]
fn four_results_of_half_a_store_are_spilled_and_three_come_back() {
    let cluster = Cluster::start_with(0, 2, &["--object-store-memory", "100M", "--spill-dir", "/dev/shm"]);
    let mut command = cluster.family().command(behaviour());
    command.args(["four-results", "--address", cluster.address()]);
    let mut driver = Program::start("a driver with four results", command);
    driver.wait_for_output("its results", |output| output.contains("results were read").then_some(()));
    let counts = ["spilled_bytes", "spilled_objects", "restored_bytes", "restored_objects"];
    let figures = wait_until("all of them to be on disk", || {
        let status = cluster.status();
        let figures = counts.map(|name| status["nodes"][0]["spilling"][name].as_u64().unwrap_or_default());
        (figures[1] == 4).then_some(figures)
    });
    assert_eq!(figures, [200 << 20, 4, 150 << 20, 3]);
    std::fs::write(cluster.family().path("counted"), b"").expect("the family's home can be written");
    let status = driver.wait();
    assert!(status.success(), "{status}\n{}\n{}", driver.stdout(), driver.stderr());
}

#[test]
fn spilling_on_a_cluster() {
    on(&Cluster::start_with(0, 2, &["--object-store-memory", "75M", "--spill-dir", "/dev/shm"]), "spilling");
}

#[test]
fn spilling_with_many_gets_on_a_cluster() {
    let cluster = Cluster::start_with(0, 2, &["--object-store-memory", "75M", "--spill-dir", "/dev/shm"]);
    on(&cluster, "spilling-many-gets");
    let status = cluster.status();
    let spilling = &status["nodes"][0]["spilling"];
    assert!(spilling["spilled_objects"].as_u64() > Some(50), "{spilling}");
    assert!(spilling["restored_bytes"].as_u64() > Some(1 << 30), "{spilling}");
    let text = cluster.run(&["status"]).stdout;
    assert!(text.contains("head has ") && text.contains(" on disk"), "{text}");
    // The driver has gone, and with it all that it owned.
    wait_until("nothing is left on disk", || {
        (cluster.status()["nodes"][0]["spilling"]["disk_bytes"] == 0).then_some(())
    });
}

/// What Ray's own tests ask of its datasets, and more of the kind.
const DATA: [&str; 10] = [
    "datasets",
    "data-map",
    "data-groups",
    "data-sort",
    "data-shuffle",
    "data-repartition",
    "data-split",
    "data-sides",
    "data-laziness",
    "data-files",
];

#[test]
fn datasets_in_one_process() {
    DATA.iter().for_each(|group| in_one_process(group));
}

#[test]
fn datasets_on_a_cluster() {
    let three_nodes = Cluster::start(2, 2);
    DATA.iter().for_each(|group| on(&three_nodes, group));
}

#[test]
fn explaining_in_one_process() {
    in_one_process("explain");
}

#[test]
fn explaining_on_a_cluster() {
    on_a_cluster("explain");
}

#[test]
fn failures_in_one_process() {
    in_one_process("failures");
}

#[test]
fn failures_on_a_cluster() {
    on_a_cluster("failures");
}

#[test]
fn gpus_in_one_process() {
    in_one_process("gpus");
}

#[test]
fn gpus_on_a_cluster() {
    on(&Cluster::start_with(0, 4, &["--num-gpus", "4"]), "gpus");
}

#[test]
fn labels_on_a_cluster() {
    let mut cluster = Cluster::start_with(0, 2, &["--labels", "zone=head"]);
    cluster.join_with(2, &["--labels", "zone=node,disk=ssd"]);
    cluster.wait_for_nodes(2);
    on(&cluster, "labels");
    let shown = cluster.run(&["status"]).stdout;
    assert!(shown.contains("node-1 is labelled disk=ssd, zone=node"), "{shown}");
    let listed = cluster.run(&["list", "nodes", "--format", "json"]).json();
    assert!(listed[0]["labels"]["zone"].is_string(), "{listed}");
}

#[test]
fn many_in_one_process() {
    in_one_process("many");
}

#[test]
fn many_on_a_cluster() {
    on_a_cluster("many");
}

#[test]
fn memory_in_one_process() {
    in_one_process("memory");
}

#[test]
fn memory_on_a_cluster() {
    on_a_cluster("memory");
}

#[test]
fn a_node_short_of_memory_ends_what_costs_least() {
    on(&Cluster::start_with(0, 4, &["--memory-limit", "384M"]), "short-of-memory");
}

#[test]
fn placement_in_one_process() {
    in_one_process("placement");
}

#[test]
fn placement_on_a_cluster() {
    on_a_cluster("placement");
}

#[test]
fn references_in_one_process() {
    in_one_process("references");
}

#[test]
fn references_on_a_cluster() {
    on_a_cluster("references");
}

#[test]
fn runtime_environments_in_one_process() {
    // Nothing can be seen of it there, but that the session runs.
    in_one_process("runtime-env");
}

#[test]
fn runtime_environments_on_a_cluster() {
    let mut cluster = Cluster::start(1, 2);
    on(&cluster, "runtime-env");
    let mut command = cluster.family().command(behaviour());
    command.args(["bad-env", "--address", cluster.address()]);
    Program::run("bad-env", command).expect_success("what cannot be made is refused");
    // With the nodes go the copies.
    let copies = |cluster: &Cluster| {
        let nodes = ["head", "node-1"].map(|name| cluster.family().path(name).join("nodes"));
        let entries = |path: &std::path::Path| {
            let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
            entries.map(|entry| entry.path()).collect::<Vec<_>>()
        };
        nodes.iter().flat_map(|nodes| entries(nodes)).flat_map(|node| entries(&node.join("envs"))).count()
    };
    assert_eq!(copies(&cluster), 2);
    cluster.nodes()[0].signal(Signal::TERM);
    cluster.nodes()[0].wait();
    assert_eq!(copies(&cluster), 1);
}

#[test]
fn lost_objects_on_a_cluster() {
    // The driver reads from the head's store, and each scenario kills nodes that have two CPUs.
    let mut cluster = Cluster::start(0, 1);
    for _ in 0..6 {
        cluster.join(2);
    }
    cluster.wait_for_nodes(7);
    let mut command = cluster.family().command(behaviour());
    command.args(["lost-objects", "--address", cluster.address()]);
    Program::run("lost-objects", command).expect_success("lost-objects");
}

#[test]
fn nesting_on_two_cpus_in_one_process() {
    in_one_process("two-cpus");
}

#[test]
fn nesting_on_two_cpus_on_a_cluster() {
    on(&Cluster::start(0, 2), "two-cpus");
}

#[test]
fn work_is_balanced_on_three_nodes_of_seven_cpus() {
    on(&Cluster::start(2, 7), "seven-cpus");
}

#[test]
fn work_and_groups_are_placed_on_two_nodes_of_four_cpus() {
    let cluster = Cluster::start(1, 4);
    on(&cluster, "two-nodes");
    on(&cluster, "two-nodes-groups");
    // What groups had is known to be free everywhere.
    on(&cluster, "two-nodes");
}

#[test]
fn scheduling_in_one_process() {
    in_one_process("scheduling");
}

#[test]
fn scheduling_on_a_cluster() {
    on_a_cluster("scheduling");
}

#[test]
fn lost_calls_in_one_process() {
    in_one_process("lost-calls");
}

#[test]
fn lost_calls_on_a_cluster() {
    on_a_cluster("lost-calls");
}

#[test]
fn lost_workers_on_a_cluster() {
    on_a_cluster("lost-workers");
}

#[test]
fn streaming_in_one_process() {
    in_one_process("streaming");
}

#[test]
fn streaming_on_a_cluster() {
    on_a_cluster("streaming");
}

#[test]
fn streaming_from_lost_workers_on_a_cluster() {
    on_a_cluster("streaming-lost-workers");
}

#[test]
fn stuck_tasks_in_one_process() {
    in_one_process("stuck");
}

#[test]
fn stuck_tasks_on_a_cluster() {
    on_a_cluster("stuck");
}
