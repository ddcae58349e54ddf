//! A real cluster on this machine: a head and two nodes, each a process of its own, and this
//! program as the driver that joins them.
//!
//! ```text
//! cargo run --example two_node_cluster
//!
//!   this program ──QUIC──▶ head      (no CPUs of its own)
//!                ──QUIC──▶ node "left"   starts this program again as its worker
//!                ──QUIC──▶ node "right"  likewise
//! ```

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use mobula::{Config, get, put, remote};

/// Which process runs this.
#[remote]
fn my_process() -> u32 {
    std::process::id()
}

/// Some work, and which process did it.
#[remote]
fn work(number: u64) -> (u64, u32) {
    std::thread::sleep(Duration::from_millis(20));
    (number * number, std::process::id())
}

#[remote]
fn sum(numbers: &[f64]) -> f64 {
    numbers.iter().sum()
}

#[mobula::main]
fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::temp_dir().join(format!("mobula-two-nodes-{}", std::process::id()));
    let ended = run(&folder);
    // Not there if the first node did not start; then its error is what counts.
    let _ = std::fs::remove_dir_all(&folder);
    ended
}

fn run(folder: &Path) -> Result<(), Box<dyn Error>> {
    // What one would type in three terminals: `mobula start --head`, and `mobula start --address
    // .. --token ..` twice.
    let mobula = mobula_binary()?;
    let head = Node::start(&mobula, folder, "head", &["--head", "--port", "0", "--num-cpus", "0"])?;
    let (address, token) = (head.said("address")?, head.said("token")?);
    let join = ["--address", &address, "--token", &token, "--num-cpus", "2"];
    let _left = Node::start(&mobula, folder, "left", &join)?;
    let _right = Node::start(&mobula, folder, "right", &join)?;

    let session = mobula::init(Config::default().address(&address).credentials(folder.join("credentials")))?;
    let nodes = mobula::nodes()?;
    println!("the cluster at {address}:");
    let mut names = BTreeMap::new();
    for node in nodes.iter().filter(|node| node.resources.get("CPU").is_some_and(|cpus| *cpus > 0.0)) {
        // Each node has started this program as its worker; ask for its process id.
        let process = get(my_process.options().on_node(node.id).remote())?;
        println!("  {} with {} CPUs, its worker is process {process}", node.name, node.resources["CPU"]);
        names.insert(process, node.name.clone());
    }
    println!("  and this driver is process {}", std::process::id());

    let tasks: Vec<_> = (1..=40).map(|number| work.remote(number)).collect();
    let mut tasks_by_node = BTreeMap::<&str, u32>::new();
    let mut total = 0;
    for (square, process) in get(&tasks)? {
        total += square;
        *tasks_by_node.entry(&names[&process]).or_default() += 1;
    }
    println!("40 tasks, sum {total}, by node: {tasks_by_node:?}");
    assert_eq!(tasks_by_node.len(), 2, "one of the nodes had nothing to do");

    // 16 MiB, put once here and read on both nodes.
    let numbers = put(vec![0.5; 2 << 20])?;
    for node in nodes.iter().filter(|node| names.values().any(|name| *name == node.name)) {
        let total = get(sum.options().on_node(node.id).remote(&numbers))?;
        println!("on {} the numbers sum up to {total}", node.name);
    }

    session.shutdown();
    println!("the nodes end with their processes");
    Ok(())
}

/// A node's process; killed when this is dropped, and its workers end with it.
struct Node {
    process: Child,
    ready: String,
}

impl Node {
    /// Starts one and waits until it says that it is ready.
    fn start(mobula: &Path, folder: &Path, name: &str, arguments: &[&str]) -> Result<Self, Box<dyn Error>> {
        let mut command = Command::new(mobula);
        command.args(["start", "--name", name, "--format", "json", "--object-store-memory", "256M"]);
        command.args(arguments).arg("--dir").arg(folder.join(name));
        // Everything it writes goes into our own folder.
        command.env("MOBULA_CREDENTIALS", folder.join("credentials")).env("XDG_STATE_HOME", folder.join("state"));
        let mut process = command.stdout(Stdio::piped()).spawn()?;
        let mut ready = String::new();
        if let Some(output) = process.stdout.take() {
            BufReader::new(output).read_line(&mut ready)?;
        }
        Ok(Self { process, ready })
    }

    /// One of the words in the line of JSON that it printed.
    fn said(&self, what: &str) -> Result<String, Box<dyn Error>> {
        let found = self.ready.split_once(&format!("\"{what}\":\"")).and_then(|(_, rest)| rest.split_once('"'));
        found.map(|(word, _)| word.to_owned()).ok_or_else(|| format!("no {what} in {:?}", self.ready).into())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The `mobula` command, built by the cargo that runs this example, or beside this program.
fn mobula_binary() -> Result<PathBuf, Box<dyn Error>> {
    let this = std::env::current_exe()?;
    let profile = this.ancestors().nth(2).ok_or("this program lies in target/PROFILE/examples")?;
    if let Some(cargo) = std::env::var_os("CARGO") {
        let mut build = Command::new(cargo);
        // Together with this example: alone, the command's dependencies have other features, and cargo
        // would build them all again.
        let both = ["build", "--quiet", "--workspace", "--bin", "mobula", "--example", "two_node_cluster"];
        build.args(both).current_dir(env!("CARGO_MANIFEST_DIR"));
        if profile.ends_with("release") {
            build.arg("--release");
        }
        if !build.status()?.success() {
            return Err("cargo could not build the command `mobula`".into());
        }
    }
    let mobula = profile.join("mobula");
    if mobula.is_file() { Ok(mobula) } else { Err(format!("build it first: there is no {}", mobula.display()).into()) }
}
