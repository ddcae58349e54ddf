//! The CLI `mobula`: what it says to people and to programs.

use rustix::process::Signal;
use serde_json::Value;

use crate::support::binaries::{behaviour, binary};
use crate::support::cluster::{Cluster, free_port};
use crate::support::process::{Family, Program};
use crate::support::wait_until;

#[track_caller]
fn assert_has(object: &Value, names: &[&str]) {
    for name in names {
        assert!(object.get(name).is_some(), "no {name} in {object}");
    }
}

#[test]
fn status_without_a_cluster_says_how_to_start_one() {
    let family = Family::new();
    let mut command = family.command(binary("mobula"));
    command.arg("status");
    let finished = Program::run("mobula status", command).expect_failure("mobula status");
    assert!(finished.stderr.contains("mobula start --head"), "{}", finished.stderr);

    // An address is of no use without credentials for it.
    let address = format!("127.0.0.1:{}", free_port());
    let mut command = family.command(binary("mobula"));
    command.args(["status", "--address", &address]);
    let finished = Program::run("mobula status", command).expect_failure("mobula status");
    assert!(finished.stderr.contains("credentials"), "{}", finished.stderr);
}

#[test]
fn status_of_a_cluster_that_is_gone_says_how_to_start_one() {
    let mut cluster = Cluster::start(0, 1);
    cluster.head().signal(Signal::KILL);
    cluster.head().wait();
    let finished = Program::run("mobula status", cluster.mobula(&["status"])).expect_failure("mobula status");
    assert!(finished.stderr.contains(cluster.address()), "the address is not named: {}", finished.stderr);
    assert!(finished.stderr.contains("mobula start --head"), "{}", finished.stderr);
}

/// Its cluster is for the occasion: nothing of it stays, in whatever moment it is interrupted.
#[test]
fn an_interrupted_benchmark_leaves_nothing_behind() {
    for (signal, with_a_node) in [(Signal::TERM, false), (Signal::INT, true)] {
        let family = Family::new();
        let temporary = family.path("tmp");
        std::fs::create_dir(&temporary).expect("a directory");
        let files = || std::fs::read_dir(&temporary).expect("it is there").count();
        let mut command = family.command(binary("mobula"));
        command.env("TMPDIR", &temporary);
        command.args(["microbenchmark", "single client tasks sync", "--between-processes", "--seconds", "600"]);
        let mut program = Program::start("mobula microbenchmark", command);
        wait_until("its cluster", || {
            let dir = std::fs::read_dir(&temporary).expect("it is there").next()?.expect("an entry").path();
            // Each process has its log, the node after the head.
            dir.join(if with_a_node { "node.log" } else { "head.log" }).exists().then_some(())
        });
        program.signal(signal);
        let status = program.wait();
        assert!(!status.success(), "{status}");
        assert_eq!(files(), 0, "files were left");
        family.wait_until_empty();
    }
}

#[test]
fn wrong_arguments_are_refused_with_a_hint() {
    let family = Family::new();
    for arguments in [
        &["start"][..],
        &["start", "--head", "--num-cpus", "many"],
        &["start", "--head", "--labels", "zone"],
        &["list", "secrets"],
        &["no-such-command"],
    ] {
        let mut command = family.command(binary("mobula"));
        command.args(arguments);
        Program::run("mobula", command).expect_failure(&arguments.join(" "));
    }
    let address = format!("127.0.0.1:{}", free_port());
    let mut command = family.command(binary("mobula"));
    command.args(["start", "--address", &address, "--token", "not-a-token"]);
    Program::run("mobula start", command).expect_failure("a token that is none");
}

#[test]
fn status_and_lists_for_people_and_programs() {
    let cluster = Cluster::start(1, 2);
    let status = cluster.status();
    assert_has(&status, &["nodes", "pending"]);
    let nodes = status["nodes"].as_array().expect("nodes");
    assert_eq!(nodes.len(), 2, "{status}");
    for node in nodes {
        assert_has(node, &["node", "name", "state", "resources"]);
        assert_eq!(node["resources"]["CPU"]["total"].as_f64(), Some(2.0), "{node}");
    }
    for word in ["head", "node-1", "CPU"] {
        let shown = cluster.run(&["status"]).stdout;
        assert!(shown.contains(word), "no {word:?} in\n{shown}");
    }
    for what in ["nodes", "actors", "tasks", "objects", "workers"] {
        let listed = cluster.run(&["list", what, "--format", "json"]).json();
        assert!(listed.is_array(), "list {what}: {listed}");
        cluster.run(&["list", what]);
    }
    let listed = cluster.run(&["list", "nodes", "--format", "json"]).json();
    assert_eq!(listed.as_array().map(Vec::len), Some(2), "{listed}");
}

#[test]
fn a_demand_that_nobody_can_meet_is_pending_with_its_reason() {
    let cluster = Cluster::start(0, 1);
    let mut command = cluster.family().command(behaviour());
    command.args(["waits", "--address", cluster.address()]);
    let mut waits = Program::start("a driver that waits for GPUs", command);
    waits.wait_for_output("its start", |output| output.contains("waiting").then_some(()));
    let pending = wait_until("the demand to be shown", || {
        let pending = cluster.status()["pending"].clone();
        pending.as_array().is_some_and(|pending| !pending.is_empty()).then(|| pending[0].clone())
    });
    assert_has(&pending, &["demand", "count", "what", "reason", "infeasible"]);
    assert_eq!(pending["infeasible"], true, "{pending}");
    assert!(pending["reason"].as_str().is_some_and(|reason| reason.contains("GPU")), "{pending}");
    assert!(pending["what"].as_str().is_some_and(|what| what.contains("needs_gpus")), "{pending}");
    let shown = cluster.run(&["status"]).stdout;
    assert!(shown.contains("GPU"), "the reason is not shown:\n{shown}");

    // When the driver is gone, so is its demand.
    drop(waits);
    wait_until("the demand to be forgotten", || {
        cluster.status()["pending"].as_array().is_some_and(Vec::is_empty).then_some(())
    });
}

#[test]
fn explain_says_why_something_waits() {
    let cluster = Cluster::start(1, 1);
    let mut command = cluster.family().command(behaviour());
    command.args(["unplaced", "--address", cluster.address()]);
    let mut driver = Program::start("a driver whose work has no room", command);
    let ids = driver.wait_for_output("its ids", |output| {
        let line = output.lines().find(|line| line.starts_with("unplaced ") && line.ends_with(" end"))?;
        let words = line.split(' ').skip(1).take(3);
        Some(words.map(|word| word.replace("Some(\"", "").replace("\")", "")).collect::<Vec<_>>())
    });
    for (kind, id) in ["task", "actor", "placement-group"].iter().zip(&ids) {
        let said = cluster.run(&["explain", kind, id, "--format", "json"]).json();
        assert!(said["state"].as_str().is_some_and(|state| state.starts_with("PENDING")), "{kind}: {said}");
        let shown = cluster.run(&["explain", kind, id]).stdout;
        for part in ["PENDING", "node head", "node node-1", "GPU 0, 16 is needed"] {
            assert!(shown.contains(part), "no {part:?} in\n{shown}");
        }
    }
    // The beginning of an id is enough, where people are shown no more.
    cluster.run(&["explain", "actor", &ids[1][..8]]);
    let listed = cluster.run(&["list", "tasks", "--format", "json"]).json();
    let waits = |state: &str| listed.as_array().is_some_and(|tasks| tasks.iter().any(|task| task["state"] == state));
    assert!(waits("PENDING_NODE_ASSIGNMENT") && waits("PENDING_ACTOR"), "{listed}");

    for (arguments, hint) in [
        (["explain", "task", "seventeen"], "1f3a2b4c-17"),
        (["explain", "task", "00000000-1"], "list tasks"),
        (["explain", "actor", "00000000"], "list actors"),
        (["explain", "placement-group", "0"], "list placement-groups"),
    ] {
        let finished = Program::run("mobula explain", cluster.mobula(&arguments)).expect_failure("an unknown id");
        assert!(finished.stderr.contains(hint), "{arguments:?}: {}", finished.stderr);
    }
}

#[test]
fn microbenchmark_speaks_json() {
    let family = Family::new();
    let mut command = family.command(binary("mobula"));
    command.args(["microbenchmark", "1:1 actor calls async", "--seconds", "0.2", "--format", "json"]);
    let report = Program::run("mobula microbenchmark", command).expect_success("mobula microbenchmark").json();
    let cases = report.as_array().unwrap_or_else(|| panic!("no list: {report}"));
    assert!(!cases.is_empty());
    for case in cases {
        assert_has(case, &["name", "per_second", "sd"]);
        assert!(case["per_second"].as_f64().is_some_and(|rate| rate > 0.0), "{case}");
    }
}

/// Every case but those of gigabytes, once: their names are those of Ray's own microbenchmark.
#[test]
fn every_case_of_the_microbenchmark_runs() {
    let cases = [
        "single client get calls",
        "single client put calls",
        "multi client put calls",
        "single client tasks and get batch",
        "single client get object containing 10k refs",
        "single client wait 1k refs",
        "single client tasks sync",
        "single client tasks async",
        "multi client tasks async",
        "1:1 actor calls sync",
        "1:1 actor calls async",
        "1:1 actor calls concurrent",
        "1:n actor calls async",
        "n:n actor calls async",
        "n:n actor calls with arg async",
        "init to first result",
    ];
    for place in [&[][..], &["--between-processes"]] {
        let family = Family::new();
        let mut command = family.command(binary("mobula"));
        command.args(["microbenchmark", &cases.join("|"), "--warmup", "0", "--seconds", "0", "--repeat", "1"]);
        command.args(["--format", "json"]).args(place);
        let report = Program::run("mobula microbenchmark", command).expect_success("mobula microbenchmark").json();
        let ran: Vec<&str> = report.as_array().into_iter().flatten().filter_map(|case| case["name"].as_str()).collect();
        for case in cases {
            let found = ran.iter().any(|name| name.starts_with(case));
            assert!(found, "{case} is not among {ran:?}");
        }
        family.wait_until_empty();
    }
}

#[test]
fn stop_ends_the_nodes_of_this_machine() {
    let mut cluster = Cluster::start(1, 1);
    let mut command = cluster.family().command(binary("mobula"));
    command.args(["stop", "--name", "nobody"]);
    let finished = Program::run("mobula stop --name nobody", command).expect_failure("a name that no node has");
    assert!(finished.stderr.contains("node-1"), "who is there is not said: {}", finished.stderr);
    let mut command = cluster.family().command(binary("mobula"));
    command.arg("stop");
    Program::run("mobula stop", command).expect_success("mobula stop");
    assert!(cluster.head().wait().success(), "the head did not end well");
    let node = cluster.nodes()[0].wait();
    assert!(node.success(), "the node did not end well");
    cluster.family().wait_until_empty();
}
