//! Clusters of real processes: a head and nodes, all started by `mobula start`.

use std::net::UdpSocket;
use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;

use super::binaries::binary;
use super::process::{Family, Finished, Program};
use super::wait_until;

/// The object store of each node: enough for the tests, little for the machine.
const STORE_BYTES: &str = "268435456";

/// A head and its nodes.
pub(crate) struct Cluster {
    // Dropped in this order: the nodes before the head, what is left of them last.
    nodes: Vec<Program>,
    head: Program,
    address: String,
    token: String,
    started: usize,
    /// What else the head is started with.
    head_arguments: Vec<String>,
    family: Family,
}

impl Cluster {
    /// Starts a head and so many nodes, each with so many CPUs, and waits until all are there.
    pub(crate) fn start(nodes: usize, cpus: u32) -> Self {
        Self::start_with(nodes, cpus, &[])
    }

    /// The same with more arguments for the head.
    pub(crate) fn start_with(nodes: usize, cpus: u32, more: &[&str]) -> Self {
        let family = Family::new();
        let head_arguments: Vec<String> = more.iter().map(|argument| (*argument).to_owned()).collect();
        let (head, address, token) = start_head(&family, cpus, "0", &head_arguments);
        let mut cluster = Self { nodes: Vec::new(), head, address, token, started: 0, head_arguments, family };
        for _ in 0..nodes {
            cluster.join(cpus);
        }
        cluster.wait_for_nodes(nodes + 1);
        cluster
    }

    /// Kills the head without a chance to say goodbye.
    pub(crate) fn kill_head(&mut self) {
        self.head.signal(Signal::KILL);
        self.head.wait();
    }

    /// Starts the head again, where it was and with what it has stored.
    pub(crate) fn restart_head(&mut self, cpus: u32) {
        let port = self.address.rsplit(':').next().expect("an address has a port").to_owned();
        let (head, address, token) = start_head(&self.family, cpus, &port, &self.head_arguments);
        assert_eq!(address, self.address, "it is where it was");
        (self.head, self.token) = (head, token);
    }

    /// Starts one more node; does not wait for it. Returns its name.
    pub(crate) fn join(&mut self, cpus: u32) -> String {
        self.join_with(cpus, &[])
    }

    /// The same with more arguments for the node.
    pub(crate) fn join_with(&mut self, cpus: u32, more: &[&str]) -> String {
        self.started += 1;
        let name = format!("node-{}", self.started);
        let mut command = start(&self.family, &name, cpus);
        command.args(["--address", &self.address, "--token", &self.token]).args(more);
        if !more.contains(&"--object-store-memory") {
            command.args(["--object-store-memory", STORE_BYTES]);
        }
        self.nodes.push(Program::start(&name, command));
        name
    }

    /// Where it is reached.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// What a node needs to join it.
    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    /// The processes and their home.
    pub(crate) fn family(&self) -> &Family {
        &self.family
    }

    /// The head's process.
    pub(crate) fn head(&mut self) -> &mut Program {
        &mut self.head
    }

    /// The nodes' processes, in the order they were started.
    pub(crate) fn nodes(&mut self) -> &mut Vec<Program> {
        &mut self.nodes
    }

    /// A command of the CLI with these arguments and the cluster's address.
    pub(crate) fn mobula(&self, arguments: &[&str]) -> Command {
        let mut command = self.family.command(binary("mobula"));
        command.args(arguments).args(["--address", &self.address]);
        command
    }

    /// Runs a command of the CLI that must succeed.
    #[track_caller]
    pub(crate) fn run(&self, arguments: &[&str]) -> Finished {
        let what = format!("mobula {}", arguments.join(" "));
        Program::run(&what, self.mobula(arguments)).expect_success(&what)
    }

    /// What `mobula status --format json` says.
    #[track_caller]
    pub(crate) fn status(&self) -> Value {
        self.run(&["status", "--format", "json"]).json()
    }

    /// The nodes of the status.
    #[track_caller]
    pub(crate) fn node_list(&self) -> Vec<Value> {
        let status = self.status();
        status["nodes"].as_array().unwrap_or_else(|| panic!("no nodes in {status}")).clone()
    }

    /// Waits until so many nodes are alive.
    pub(crate) fn wait_for_nodes(&self, count: usize) {
        wait_until(&format!("{count} living nodes"), || {
            let living = self.node_list().iter().filter(|node| is_alive(node)).count();
            (living == count).then_some(())
        });
    }
}

fn start_head(family: &Family, cpus: u32, port: &str, more: &[String]) -> (Program, String, String) {
    let mut command = start(family, "head", cpus);
    command.args(["--head", "--port", port]).args(more);
    if !more.iter().any(|argument| argument == "--object-store-memory") {
        command.args(["--object-store-memory", STORE_BYTES]);
    }
    let mut head = Program::start("the head", command);
    let ready = head.wait_for_output("that it is ready", find_ready);
    let text = |name: &str| ready[name].as_str().unwrap_or_else(|| panic!("no {name} in {ready}")).to_owned();
    let (address, token) = (text("address"), text("token"));
    (head, address, token)
}

fn start(family: &Family, name: &str, cpus: u32) -> Command {
    let mut command = family.command(binary("mobula"));
    // Shown when a test fails.
    command.env("MOBULA_LOG", "debug");
    command
        .args(["start", "--name", name, "--num-cpus", &cpus.to_string()])
        .args(["--format", "json", "--dir"])
        .arg(family.path(name));
    command
}

/// What a node says when it is ready: one line of JSON.
fn find_ready(output: &str) -> Option<Value> {
    output.lines().find_map(|line| serde_json::from_str(line).ok()).filter(Value::is_object)
}

/// Whether a node of the status is alive.
pub(crate) fn is_alive(node: &Value) -> bool {
    node["state"] == "ALIVE"
}

/// A port that nobody uses now.
pub(crate) fn free_port() -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    socket.local_addr().expect("a bound socket has an address").port()
}
