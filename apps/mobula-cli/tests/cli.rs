//! The command as people and scripts use it: real processes, exit codes, what is printed where.

use std::net::UdpSocket;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// The longest anything may take on a machine that does other things too.
const PATIENCE: Duration = Duration::from_secs(60);

/// A user with a home of its own, so that tests see neither each other's clusters nor the tester's.
struct User {
    home: TempDir,
}

impl User {
    fn new() -> Self {
        Self { home: tempfile::tempdir().unwrap() }
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mobula"));
        command
            .args(line.split_whitespace())
            .env("HOME", self.home.path())
            .env_remove("XDG_STATE_HOME")
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("MOBULA_ADDRESS")
            .env_remove("MOBULA_CREDENTIALS")
            .env_remove("MOBULA_TOKEN")
            .stdin(Stdio::null());
        command
    }

    fn run(&self, line: &str) -> Output {
        self.command(line).output().unwrap()
    }

    fn succeeds(&self, line: &str) -> String {
        let output = self.run(line);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "mobula {line}: {}\n{stderr}", output.status);
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.succeeds(line)).unwrap()
    }

    /// The one line that says what is wrong.
    fn fails(&self, line: &str) -> String {
        let output = self.run(line);
        assert!(!output.status.success(), "mobula {line} succeeded");
        assert!(output.stdout.is_empty(), "a failure prints to stderr only");
        String::from_utf8(output.stderr).unwrap()
    }

    /// A node in the foreground, ready; and what it said.
    fn start(&self, line: &str) -> (Node, Value) {
        use std::io::{BufRead, BufReader};
        let mut command = self.command(&format!("start --format json --object-store-memory 64M {line}"));
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut ready = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        (Node(child), serde_json::from_str(&ready).expect("the node is ready"))
    }
}

impl Drop for User {
    fn drop(&mut self) {
        // A failed test must not leave its daemons behind.
        drop(self.command("stop --force").output());
    }
}

struct Node(Child);

impl Node {
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    fn exit_code(&mut self) -> Option<i32> {
        let mut code = None;
        eventually("the process ends", || match self.0.try_wait().unwrap() {
            Some(status) => {
                code = status.code();
                true
            }
            None => false,
        });
        code
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn alive(status: &Value) -> usize {
    status["nodes"].as_array().unwrap().iter().filter(|node| node["state"] == "ALIVE").count()
}

#[test]
fn without_a_cluster_the_errors_say_what_to_do() {
    let user = User::new();
    let error = user.fails("status");
    assert!(error.contains("mobula start --head"), "{error}");
    let error = user.fails("list actors --address 127.0.0.1:9");
    assert!(error.contains("credentials"), "{error}");
    assert!(user.succeeds("stop").contains("no node"));

    let error = user.fails("microbenchmark no-such-case");
    assert!(error.contains("no-such-case") && error.contains("1:1 actor calls sync"), "{error}");
    let error = user.fails("start --head --resources {\"CPU\":1}");
    assert!(error.contains("--num-cpus"), "{error}");
    let error = user.fails("start --address 127.0.0.1:9 --token nonsense");
    assert!(error.contains("token"), "{error}");
    let error = user.fails("start --head --num-cpus -1");
    assert!(error.contains("-1"), "{error}");
    let error = user.fails("start");
    assert!(error.contains("start --head") && error.contains("--address HOST:PORT --token TOKEN"), "{error}");
}

#[test]
fn a_second_head_in_one_directory_is_told_who_has_it() {
    let user = User::new();
    let (_head, ready) = user.start("--head --port 0 --num-cpus 0 --name first");
    let error = user.fails("start --head --port 0 --name second");
    let (address, pid) = (text(&ready["address"]), ready["pid"].to_string());
    for part in ["first", &pid, address, "mobula stop --name first", "--dir"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    // Another user's head, as far as the list of running nodes goes.
    let other = User::new();
    let error = other.fails(&format!("start --head --port 0 --dir {}", text(&ready["dir"])));
    assert!(error.contains("another head") && error.contains("--dir"), "{error}");
}

#[test]
fn a_second_cluster_leaves_the_first_ones_credentials_alone() {
    let user = User::new();
    let (_head, ready) = user.start("--head --port 0 --num-cpus 0 --name first");
    let other = user.home.path().join("other");
    let second = format!("start --head --port 0 --name second --dir {}", other.display());
    let error = user.fails(&second);
    assert!(error.contains(text(&ready["address"])) && error.contains("--credentials"), "{error}");
    assert_eq!(alive(&user.json("status --format json")), 1, "the first is still its operator's");
    // With a place of its own, or when the first is gone.
    let place = user.home.path().join("place");
    let arguments = format!("--head --port 0 --name second --dir {}", other.display());
    drop(user.start(&format!("{arguments} --credentials {}", place.display())));
    user.succeeds("stop --name first");
    let (_second, _) = user.start(&arguments);
    assert_eq!(alive(&user.json("status --format json")), 1);
}

#[test]
fn a_token_is_renewed_while_the_head_runs() {
    let user = User::new();
    let (_head, ready) = user.start("--head --port 0 --num-cpus 0 --name a");
    let address = text(&ready["address"]);
    let renewed = user.json("token --valid-for 1h --format json");
    assert_eq!((text(&renewed["address"]), renewed["valid_s"].as_u64()), (address, Some(3_600)));
    assert_ne!(renewed["token"], ready["token"]);
    // Both are good.
    for token in [&renewed["token"], &ready["token"]] {
        let (_node, joined) = user.start(&format!("--address {address} --token {} --num-cpus 1", text(token)));
        assert_eq!(text(&joined["address"]), address);
    }
    let people = user.succeeds("token");
    assert!(people.contains("within 24 h") && people.contains(&format!("--address {address} --token mobula1.")));
    // Nobody joins with one that has ended.
    let short = user.json("token --valid-for 1s --format json");
    std::thread::sleep(Duration::from_millis(1_100));
    let error = user.fails(&format!("start --address {address} --token {}", text(&short["token"])));
    assert!(error.contains("expired") && error.contains("mobula token"), "{error}");
    // Too long, and not the operator.
    let error = user.fails("token --valid-for 31d");
    assert!(error.contains("2592000"), "{error}");
    let stranger = user.home.path().join("node");
    let token = text(&renewed["token"]).parse().unwrap();
    let node = mobula_core::node::join(address.parse().unwrap(), &token).unwrap();
    node.save(&stranger).unwrap();
    let error = user.fails(&format!("token --address {address} --credentials {}", stranger.display()));
    assert!(error.contains("operator"), "{error}");
}

#[test]
fn who_answers_instead_of_a_head_is_said() {
    let user = User::new();
    let (_head, ready) = user.start("--head --port 0 --num-cpus 0 --name a");
    let mute = UdpSocket::bind("127.0.0.1:0").unwrap();
    let error = user.fails(&format!("status --address {}", mute.local_addr().unwrap()));
    assert!(error.contains("no Mobula head"), "{error}");
    let free = mute.local_addr().unwrap();
    drop(mute);
    let error = user.fails(&format!("status --address {free}"));
    assert!(error.contains("nobody listens") && error.contains("mobula start --head"), "{error}");

    let other = User::new();
    let error = other.fails(&format!("status --address {}", text(&ready["address"])));
    assert!(error.contains("no credentials in") && error.contains("--credentials"), "{error}");
    let (_head, _) = other.start("--head --port 0 --num-cpus 0 --name b");
    let error = other.fails(&format!("status --address {}", text(&ready["address"])));
    assert!(error.contains("not of the cluster") && error.contains("--credentials"), "{error}");
}

#[test]
fn a_cluster_of_three_processes_is_seen_used_and_stopped() {
    let user = User::new();
    let (mut head, ready) = user.start("--head --port 0 --num-cpus 0 --resources {\"x\":2} --name a");
    let (address, token) = (text(&ready["address"]).to_owned(), text(&ready["token"]).to_owned());
    assert!(Path::new(text(&ready["credentials"])).join("key.pem").exists());

    let join = format!("--address {address} --token {token} --num-cpus 2");
    let (mut node, _) = user.start(&format!("{join} --name b"));
    let started = user.json(&format!("start --daemon --format json --object-store-memory 64M {join} --name c"));
    assert_eq!(started["name"], "c");

    let status = user.json("status --format json");
    assert_eq!(alive(&status), 3, "{status}");
    assert_eq!(status["resources"]["CPU"]["total"], 4.0);
    assert_eq!(status["resources"]["x"]["total"], 2.0);
    assert_eq!(status["pending"], Value::Array(Vec::new()));
    let people = user.succeeds("status");
    assert!(people.contains("3 nodes alive") && people.contains("a (head)"), "{people}");

    // Work runs there, in processes of its own.
    let rates =
        user.json(&format!("microbenchmark 1:1 --address {address} --warmup 0 --seconds 0 --repeat 1 --format json"));
    let names: Vec<_> = rates.as_array().unwrap().iter().map(|rate| text(&rate["name"])).collect();
    assert!(names.contains(&"1:1 actor calls sync") && names.contains(&"1:1 actor calls concurrent"), "{names:?}");
    assert!(rates.as_array().unwrap().iter().all(|rate| rate["per_second"].as_f64().unwrap() > 0.0), "{rates}");
    for kind in ["nodes", "actors", "tasks", "objects", "workers"] {
        assert!(user.json(&format!("list {kind} --format json")).is_array());
        user.succeeds(&format!("list {kind}"));
    }
    let actors = user.json("list actors --format json");
    assert!(actors.as_array().unwrap().iter().all(|actor| actor["state"] == "DEAD"), "they ended with their job");

    // A node that is told to stop says goodbye.
    node.signal(Signal::TERM);
    assert_eq!(node.exit_code(), Some(0));
    assert_eq!(alive(&user.json("status --format json")), 2);

    let stopped = user.succeeds("stop");
    assert!(stopped.contains("node c") && stopped.contains("head a"), "{stopped}");
    assert_eq!(head.exit_code(), Some(0));
    let error = user.fails("status");
    assert!(error.contains(&address) && error.contains("mobula start --head"), "{error}");
}

#[test]
fn what_waits_is_shown_with_its_reason_and_runs_when_a_node_joins() {
    let user = User::new();
    let (_head, ready) = user.start("--head --port 0 --num-cpus 0 --name a");
    let (address, token) = (text(&ready["address"]), text(&ready["token"]));
    let line = format!("microbenchmark --address {address} --warmup 0 --seconds 0 --repeat 1 --format json");
    let mut program = user.command(&line).arg("client tasks sync").stdout(Stdio::null()).spawn().unwrap();

    let mut status = Value::Null;
    eventually("its task is seen to wait", || {
        status = user.json("status --format json");
        !status["pending"].as_array().unwrap().is_empty()
    });
    let pending = &status["pending"][0];
    assert_eq!(pending["demand"]["CPU"], 1.0, "{pending}");
    assert_eq!(pending["infeasible"], true, "{pending}");
    let reason = text(&pending["reason"]);
    assert!(reason.contains("CPU") || reason.contains("takes work"), "{pending}");
    assert!(user.succeeds("status").contains("can never run here"));

    let (_node, _) = user.start(&format!("--address {address} --token {token} --num-cpus 1"));
    assert!(program.wait().unwrap().success());
    // Nodes report what waits with their heartbeats.
    eventually("nothing waits any more", || user.json("status --format json")["pending"] == Value::Array(Vec::new()));
}

#[test]
fn a_second_signal_ends_a_node_at_once() {
    let user = User::new();
    let (mut head, _) = user.start("--head --port 0 --num-cpus 1");
    assert_eq!(user.json("list workers --format json"), Value::Array(Vec::new()));
    // Both may be seen before the draining begins; then they count as one.
    head.signal(Signal::INT);
    head.signal(Signal::INT);
    let code = head.exit_code();
    assert!(matches!(code, Some(0 | 130)), "{code:?}");
    assert!(user.succeeds("stop").contains("no node"));
}

#[test]
fn the_benchmark_runs_in_one_process_and_between_processes() {
    let user = User::new();
    for place in ["", "--between-processes"] {
        let line = format!("microbenchmark {place} --warmup 0 --seconds 0 --repeat 1 --format json");
        let mut command = user.command(&line);
        // One argument with spaces in it.
        command.arg("init to first result | 1:1 actor calls sync");
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let rates: Value = serde_json::from_slice(&output.stdout).unwrap();
        let names: Vec<_> = rates.as_array().unwrap().iter().map(|rate| text(&rate["name"])).collect();
        assert_eq!(names, ["init to first result", "1:1 actor calls sync"]);
    }
    // Nothing of it was written where the user's own clusters are.
    assert_eq!(std::fs::read_dir(user.home.path()).unwrap().count(), 0);
}
