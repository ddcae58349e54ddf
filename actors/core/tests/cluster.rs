//! Heads and nodes over QUIC, with real worker processes.
//!
//! The worker processes run this very binary, so it has a main function of its own: it works when
//! it is asked to, and else runs the tests below, one after the other. It understands what
//! `cargo test` and `cargo nextest` say to a test binary: `--list`, `--exact`, a filter.

#[path = "cluster/functions.rs"]
mod functions;

use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use mobula_core::client::{ActorOptions, Client, ClientSetup, ObjectHandle, TaskOptions};
use mobula_core::error::Error;
use mobula_core::messages::{
    GetClusterStatus, GetRefusals, ListActors, ListWorkers, NodeInfo, Strategy, WorkerInfo, WorkerKind, WorkerOutput,
};
use mobula_core::node::{Connection, ConnectionConfig, Head, HeadConfig, HeadNetwork, Node, NodeConfig, NodeError};
use mobula_core::registry::Registry;
use mobula_core::resources::{CPU, Resources};
use mobula_core::store::StoreConfig;
use mobula_core::value::{Encoding, Value};
use mobula_transport::Address;
use smallvec::smallvec;

use crate::functions::*;

/// The patience of every wait; generous, since it only matters when something is broken.
const WITHIN: Duration = Duration::from_secs(60);

/// Says which part of a cluster this process plays.
const ROLE: &str = "MOBULA_TEST_ROLE";

// ---- the cluster -------------------------------------------------------------------------------

struct Cluster {
    head: Option<Head>,
    nodes: Vec<Node>,
    address: SocketAddr,
    dir: tempfile::TempDir,
}

fn cpus(amount: f64) -> Resources {
    Resources::new().with(CPU, amount).unwrap()
}

fn store() -> StoreConfig {
    StoreConfig { capacity_bytes: Some(64 << 20), ..StoreConfig::default() }
}

fn head(dir: &std::path::Path, listen: SocketAddr, amount: f64) -> Result<Head, NodeError> {
    Head::start(HeadConfig {
        cluster: "test".to_owned(),
        name: "head".to_owned(),
        resources: cpus(amount),
        store: store(),
        traits: Default::default(),
        network: Some(HeadNetwork {
            listen,
            advertise: None,
            dir: dir.join("state"),
            credentials: dir.join("operator"),
        }),
    })
}

impl Cluster {
    /// A head with so many CPUs, and nodes.
    fn start(head_cpus: f64, nodes: &[f64]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let head = head(dir.path(), "127.0.0.1:0".parse().unwrap(), head_cpus).unwrap();
        let address = head.address().unwrap();
        let token = head.token().unwrap().clone();
        let mut cluster = Self { head: Some(head), nodes: Vec::new(), address, dir };
        for (n, amount) in nodes.iter().enumerate() {
            let credentials = mobula_core::node::join(address, &token).unwrap();
            let node = Node::start(NodeConfig {
                head: address,
                credentials,
                name: format!("node{n}"),
                resources: cpus(*amount),
                store: store(),
                traits: Default::default(),
                listen: None,
                advertise: None,
                dir: cluster.dir.path().join("state"),
            });
            cluster.nodes.push(node.unwrap());
        }
        cluster
    }

    fn head(&self) -> &Head {
        self.head.as_ref().unwrap()
    }

    fn connect(&self) -> Driver {
        Driver::connect(self.address, self.dir.path().join("operator")).unwrap()
    }

    fn stop(mut self) {
        for node in self.nodes.drain(..) {
            node.stop();
        }
        if let Some(head) = self.head.take() {
            head.stop();
        }
    }
}

struct Driver {
    connection: Connection,
    client: Client,
    output: Receiver<WorkerOutput>,
}

impl Driver {
    fn connect(address: SocketAddr, credentials: PathBuf) -> Result<Self, NodeError> {
        let binary = std::env::current_exe().unwrap();
        Self::connect_as(address, credentials, &binary, Registry::global().unwrap().digest())
    }

    /// With a binary that the cluster is told of, and a digest.
    fn connect_as(
        address: SocketAddr,
        credentials: PathBuf,
        told: &std::path::Path,
        digest: u64,
    ) -> Result<Self, NodeError> {
        let binary = std::env::current_exe().unwrap();
        let connection = Connection::open(
            address,
            ConnectionConfig {
                credentials: Some(credentials),
                name: "test".to_owned(),
                digest,
                binary: Some(told.to_owned()),
                namespace: Some("ns".to_owned()),
                env: Default::default(),
                store: store(),
            },
        )?;
        let (tell, output) = channel();
        let tell = parking_lot::Mutex::new(tell);
        let client = Client::start(ClientSetup {
            endpoint: connection.endpoint().clone(),
            gcs: connection.gcs(),
            raylet: connection.raylet(),
            store: connection.store().clone(),
            job: connection.job(),
            namespace: connection.namespace().to_owned(),
            binary: Some(binary),
            output: Some(Box::new(move |line| drop(tell.lock().send(line)))),
        });
        Ok(Self { connection, client, output })
    }

    fn submit(&self, name: &str, options: &Arc<TaskOptions>) -> ObjectHandle {
        self.client.submit(function(name), smallvec![], options).remove(0)
    }

    fn numbers(&self, handles: &[ObjectHandle]) -> Vec<u64> {
        let values = self.client.get(handles, Some(WITHIN)).unwrap();
        values.iter().map(|value| u64::from_le_bytes(value.data[..].try_into().unwrap())).collect()
    }

    fn ask<M: mobula_transport::Message>(&self, to: Address, message: M) -> M::Reply {
        self.connection.endpoint().request_blocking(to, message, vec![], WITHIN).unwrap().0
    }

    fn workers(&self, raylet: Address) -> Vec<WorkerInfo> {
        self.ask(raylet, ListWorkers)
    }

    fn close(self) {
        self.client.shutdown();
        self.connection.close();
    }
}

/// Waits for something that becomes true.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + WITHIN;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn lives(pid: u64) -> bool {
    // A zombie has ended; its parent has yet to notice.
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or("").trim_start().starts_with('Z'))
}

fn options(kind: WorkerKind, strategy: Strategy) -> Arc<TaskOptions> {
    let mut options = TaskOptions::default();
    options.kind = kind;
    options.strategy = strategy;
    Arc::new(options)
}

// ---- tests -------------------------------------------------------------------------------------

fn tasks_of_a_job_share_a_process_that_ends_with_it() {
    let cluster = Cluster::start(2.0, &[]);
    let driver = cluster.connect();
    let shared = options(WorkerKind::Shared, Strategy::Default);
    let pids: Vec<ObjectHandle> = (0..20).map(|_| driver.submit(PID, &shared)).collect();
    let pids = driver.numbers(&pids);
    let worker = pids[0];
    assert!(pids.iter().all(|pid| *pid == worker), "{pids:?}");
    assert_ne!(worker, u64::from(std::process::id()));
    driver.close();
    eventually("the worker ends with its job", || !lives(worker));
    cluster.stop();
}

fn a_process_task_has_a_process_of_its_own() {
    let cluster = Cluster::start(2.0, &[]);
    let driver = cluster.connect();
    let own = options(WorkerKind::Process, Strategy::Default);
    let handles: Vec<ObjectHandle> = (0..2).map(|_| driver.submit(SLOW_PID, &own)).collect();
    let pids = driver.numbers(&handles);
    assert_ne!(pids[0], pids[1]);
    driver.close();
    eventually("they end", || pids.iter().all(|pid| !lives(*pid)));
    cluster.stop();
}

fn work_is_spread_over_nodes_and_objects_follow() {
    let cluster = Cluster::start(1.0, &[1.0, 1.0]);
    let driver = cluster.connect();
    let spread = options(WorkerKind::Shared, Strategy::Spread);
    let handles: Vec<ObjectHandle> = (0..100).map(|_| driver.submit(SLOW_PID, &spread)).collect();
    let mut pids = driver.numbers(&handles);
    pids.sort_unstable();
    pids.dedup();
    assert_eq!(pids.len(), 3, "one worker on each node");
    for node in &cluster.nodes {
        let on = |node: &NodeInfo| {
            let strategy = Strategy::NodeAffinity { node: node.node, soft: false };
            options(WorkerKind::Shared, strategy)
        };
        let made = driver.submit(LARGE, &on(node.info()));
        let args = smallvec![mobula_core::client::Arg::Object(made.clone())];
        let read = driver.client.submit(function(LENGTH), args, &on(cluster.head().info())).remove(0);
        assert_eq!(driver.numbers(&[read]), [3 << 20]);
        assert_eq!(driver.client.get(&[made], Some(WITHIN)).unwrap()[0].data.len(), 3 << 20);
    }
    driver.close();
    cluster.stop();
}

fn a_task_whose_worker_dies_runs_again() {
    let cluster = Cluster::start(1.0, &[]);
    let driver = cluster.connect();
    let marker = cluster.dir.path().join("died").to_string_lossy().into_owned();
    let args = smallvec![mobula_core::client::Arg::Value(Value::new(Encoding::RAW, marker.into_bytes()))];
    let shared = options(WorkerKind::Shared, Strategy::Default);
    let handle = driver.client.submit(function(DIE_ONCE), args, &shared).remove(0);
    assert_eq!(driver.numbers(&[handle]), [7]);
    driver.close();
    cluster.stop();
}

fn an_actor_whose_process_is_killed_comes_back() {
    let cluster = Cluster::start(2.0, &[]);
    let driver = cluster.connect();
    let settings = ActorOptions { kind: WorkerKind::Process, max_restarts: 1, ..ActorOptions::default() };
    let actor = driver.client.create_actor(function(COUNTER), "Counter", smallvec![], settings);
    let call = |name: &str| driver.client.call(&actor, function(name), smallvec![], 1).remove(0);
    assert_eq!(driver.numbers(&[call(COUNT), call(COUNT)]), [1, 2]);
    let pid = driver.numbers(&[call(WHERE)])[0];
    let raw = rustix::process::Pid::from_raw(pid as i32).unwrap();
    rustix::process::kill_process(raw, rustix::process::Signal::KILL).unwrap();
    eventually("the actor is alive again", || {
        let listed = driver.ask(driver.connection.gcs(), ListActors);
        listed.iter().any(|actor| actor.state == "ALIVE" && actor.restarts == 1)
    });
    assert_eq!(driver.numbers(&[call(COUNT)]), [1], "it begins anew");
    assert_ne!(driver.numbers(&[call(WHERE)])[0], pid);
    driver.client.kill(&actor, true).unwrap();
    eventually("its process ends", || driver.workers(driver.connection.raylet()).is_empty());
    driver.close();
    cluster.stop();
}

fn what_workers_print_reaches_the_driver() {
    let cluster = Cluster::start(1.0, &[]);
    let driver = cluster.connect();
    let handle = driver.submit(SPEAK, &options(WorkerKind::Shared, Strategy::Default));
    driver.numbers(&[handle]);
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let output = driver.output.recv_timeout(WITHIN).unwrap();
        assert_eq!(output.node, "head");
        seen.extend(output.lines.into_iter().map(|line| (output.stderr, line)));
    }
    seen.sort();
    assert_eq!(seen, [(false, "good morning".to_owned()), (true, "good night".to_owned())]);
    driver.close();
    cluster.stop();
}

/// The next lines that workers print, with the names of their tasks, in the order of the alphabet.
fn printed(driver: &Driver, count: usize) -> Vec<(Option<String>, String)> {
    let mut seen = Vec::new();
    while seen.len() < count {
        let output = driver.output.recv_timeout(WITHIN).unwrap();
        seen.extend(output.lines.into_iter().map(|line| (output.task.clone(), line)));
    }
    seen.sort();
    seen
}

fn what_workers_print_names_its_task() {
    let cluster = Cluster::start(1.0, &[]);
    let driver = cluster.connect();
    let by = |task: &str, lines: [&str; 2]| lines.map(|line| (Some(task.to_owned()), line.to_owned()));
    let mut own = TaskOptions::default();
    own.kind = WorkerKind::Process;
    driver.numbers(&[driver.submit(SPEAK, &Arc::new(own.clone()))]);
    assert_eq!(printed(&driver, 2), by("speak", ["good morning", "good night"]));
    own.name = Some("hello".to_owned());
    driver.numbers(&[driver.submit(SPEAK, &Arc::new(own))]);
    assert_eq!(printed(&driver, 2), by("hello", ["good morning", "good night"]));

    let both = options(WorkerKind::Process, Strategy::Default);
    driver.numbers(&[SPEAK_AND_WAIT, SPEAK].map(|name| driver.submit(name, &both)));
    let mut expected = by("speak", ["good morning", "good night"]).to_vec();
    expected.extend(by("speak_and_wait", ["after", "before"]));
    assert_eq!(printed(&driver, 4), expected);

    let settings = ActorOptions { kind: WorkerKind::Process, ..ActorOptions::default() };
    let actor = driver.client.create_actor(function(COUNTER), "Counter", smallvec![], settings);
    driver.numbers(&[driver.client.call(&actor, function(GREET), smallvec![], 1).remove(0)]);
    assert_eq!(printed(&driver, 2), by("Counter", ["good morning", "good night"]));

    // In a shared worker only what is logged can be told apart.
    driver.numbers(&[driver.submit(LOG, &options(WorkerKind::Shared, Strategy::Default))]);
    let seen = printed(&driver, 2);
    assert_eq!(seen[0], (None, "printed".to_owned()));
    assert_eq!(seen[1].0.as_deref(), Some("log"));
    assert!(seen[1].1.ends_with("counted trips=3"), "{seen:?}");
    driver.close();
    cluster.stop();
}

fn a_binary_that_is_not_on_the_machine_is_fetched() {
    let cluster = Cluster::start(1.0, &[]);
    let elsewhere = cluster.dir.path().join("elsewhere");
    std::fs::copy(std::env::current_exe().unwrap(), &elsewhere).unwrap();
    let operator = cluster.dir.path().join("operator");
    let digest = Registry::global().unwrap().digest();
    let driver = Driver::connect_as(cluster.address, operator, &elsewhere, digest).unwrap();
    std::fs::remove_file(&elsewhere).unwrap();
    let handle = driver.submit(PID, &options(WorkerKind::Shared, Strategy::Default));
    let pid = driver.numbers(&[handle])[0];
    let runs = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap();
    assert!(runs.starts_with(cluster.dir.path().join("state").join("binaries")), "{runs:?}");
    driver.close();
    cluster.stop();
}

/// The binary lay where the driver has it, and was replaced after the first worker had started.
fn a_binary_that_has_changed_in_place_is_not_run() {
    let cluster = Cluster::start(1.0, &[]);
    let in_place = cluster.dir.path().join("in_place");
    std::fs::copy(std::env::current_exe().unwrap(), &in_place).unwrap();
    let operator = cluster.dir.path().join("operator");
    let digest = Registry::global().unwrap().digest();
    let driver = Driver::connect_as(cluster.address, operator, &in_place, digest).unwrap();
    let fetched_one_runs = || {
        let settings = ActorOptions { kind: WorkerKind::Process, ..ActorOptions::default() };
        let actor = driver.client.create_actor(function(COUNTER), "Counter", smallvec![], settings);
        let pid = driver.numbers(&[driver.client.call(&actor, function(WHERE), smallvec![], 1).remove(0)])[0];
        let runs = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap();
        runs.starts_with(cluster.dir.path().join("state").join("binaries"))
    };
    assert!(!fetched_one_runs());
    // As large as before, and as old, but another program.
    let old = in_place.metadata().unwrap();
    std::fs::remove_file(&in_place).unwrap();
    std::fs::write(&in_place, vec![0; old.len() as usize]).unwrap();
    std::fs::set_permissions(&in_place, old.permissions()).unwrap();
    std::fs::File::options().write(true).open(&in_place).unwrap().set_modified(old.modified().unwrap()).unwrap();
    assert!(fetched_one_runs());
    driver.close();
    cluster.stop();
}

fn a_stale_binary_is_refused_by_name() {
    let cluster = Cluster::start(1.0, &[]);
    let operator = cluster.dir.path().join("operator");
    let binary = std::env::current_exe().unwrap();
    let driver = Driver::connect_as(cluster.address, operator, &binary, 12_345).unwrap();
    for kind in [WorkerKind::Shared, WorkerKind::Shared, WorkerKind::Process] {
        let never = driver.submit(PID, &options(kind, Strategy::Default));
        match driver.client.get(&[never], Some(WITHIN)) {
            Err(Error::NoWorker { why, .. }) => assert!(why.contains("build both from the same sources"), "{why}"),
            other => panic!("there is no worker for it: {other:?}"),
        }
    }
    driver.close();
    cluster.stop();
}

fn a_restarted_head_finds_nodes_actors_and_drivers_again() {
    let mut cluster = Cluster::start(0.0, &[2.0]);
    let driver = cluster.connect();
    let settings = ActorOptions { name: Some("counter".to_owned()), ..ActorOptions::default() };
    let actor = driver.client.create_actor(function(COUNTER), "Counter", smallvec![], settings);
    let count = || driver.client.call(&actor, function(COUNT), smallvec![], 1).remove(0);
    assert_eq!(driver.numbers(&[count()]), [1]);

    cluster.head.take().unwrap().stop();
    assert_eq!(driver.numbers(&[count()]), [2], "calls go on without the head");
    cluster.head = Some(head(cluster.dir.path(), cluster.address, 0.0).unwrap());

    eventually("the node and the actor are reported again", || {
        let status = driver.ask(driver.connection.gcs(), GetClusterStatus);
        let listed = driver.ask(driver.connection.gcs(), ListActors);
        status.view.nodes.iter().any(|node| node.alive && node.name == "node0")
            && listed.iter().any(|actor| actor.state == "ALIVE")
    });
    assert_eq!(driver.numbers(&[count()]), [3], "it is the same actor");
    let found = driver.client.find_actor("counter", None).unwrap();
    let counted = driver.client.call(&found, function(COUNT), smallvec![], 1).remove(0);
    assert_eq!(driver.numbers(&[counted]), [4]);
    let shared = options(WorkerKind::Shared, Strategy::Default);
    driver.numbers(&[driver.submit(PID, &shared)]);
    driver.close();
    cluster.stop();
}

fn a_drained_node_leaves_and_its_actors_move() {
    let mut cluster = Cluster::start(2.0, &[2.0]);
    let driver = cluster.connect();
    let leaving = cluster.nodes.remove(0);
    let strategy = Strategy::NodeAffinity { node: leaving.info().node, soft: true };
    let settings = ActorOptions { strategy, max_restarts: 1, ..ActorOptions::default() };
    let actor = driver.client.create_actor(function(COUNTER), "Counter", smallvec![], settings);
    let call = |name: &str| driver.client.call(&actor, function(name), smallvec![], 1).remove(0);
    let before = driver.numbers(&[call(WHERE)])[0];
    leaving.drain(Duration::from_millis(300));
    eventually("its worker is gone with it", || !lives(before));
    eventually("the actor lives elsewhere", || {
        let listed = driver.ask(driver.connection.gcs(), ListActors);
        listed.iter().any(|actor| actor.state == "ALIVE" && actor.node.as_deref() == Some("head"))
    });
    assert_eq!(driver.numbers(&[call(COUNT)]), [1]);
    driver.close();
    cluster.stop();
}

fn strangers_are_told_what_to_do() {
    let cluster = Cluster::start(1.0, &[]);
    let own = cluster.dir.path().join("operator");
    let nobody: SocketAddr = "127.0.0.1:9".parse().unwrap();
    let error = Driver::connect(nobody, own.clone()).err().unwrap().to_string();
    assert!(error.contains("nobody listens at 127.0.0.1:9") && error.contains("mobula start --head"), "{error}");
    let mute = UdpSocket::bind("127.0.0.1:0").unwrap();
    let error = Driver::connect(mute.local_addr().unwrap(), own.clone()).err().unwrap();
    assert!(matches!(error, NodeError::NoAnswer { .. }), "{error}");

    let other = Cluster::start(1.0, &[]);
    let error = Driver::connect(other.address, own).err().unwrap();
    assert!(matches!(error, NodeError::OtherCluster { .. }), "{error}");
    assert!(error.to_string().contains("operator are for"), "its directory is named: {error}");
    let error = Driver::connect(other.address, cluster.dir.path().join("nothing")).err().unwrap();
    assert!(matches!(error, NodeError::NoCredentials { .. }), "{error}");
    let token = cluster.head().token().unwrap().clone();
    let error = mobula_core::node::join(other.address, &token).unwrap_err();
    assert!(matches!(error, NodeError::Join { .. }), "{error}");
    // They did not trust us, so nobody refused them. Who guesses the secret is refused, and the
    // operator sees it.
    let guessed = mobula_transport::identity::JoinToken { secret: [1; 32], ..token };
    assert!(mobula_core::node::join(cluster.address, &guessed).is_err());
    let operator = cluster.connect();
    eventually("the stranger is counted", || operator.ask(operator.connection.gcs(), GetRefusals).token == 1);
    assert!(operator.ask(operator.connection.gcs(), GetRefusals).last.is_some());
    assert_eq!(operator.ask(operator.connection.raylet(), GetRefusals).total(), 0);
    operator.close();
    let error = head(cluster.dir.path(), "127.0.0.1:0".parse().unwrap(), 1.0).unwrap_err();
    assert!(error.to_string().contains("another head"), "{error}");
    other.stop();
    cluster.stop();
}

/// A head or a node in a process of its own, to be killed.
struct Kept(std::process::Child);

impl Kept {
    fn head(dir: &std::path::Path, listen: SocketAddr) -> (Self, SocketAddr, String) {
        let (kept, line) = Self::start(&["head", &dir.to_string_lossy(), &listen.to_string()]);
        let (address, token) = line.split_once(' ').unwrap();
        (kept, address.parse().unwrap(), token.to_owned())
    }

    fn node(dir: &std::path::Path, address: SocketAddr, token: &str, name: &str) -> Self {
        Self::start(&["node", &dir.to_string_lossy(), &address.to_string(), token, name]).0
    }

    /// Starts it and reads the one line that it prints when it is ready.
    fn start(role: &[&str]) -> (Self, String) {
        use std::io::BufRead;
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .env(ROLE, role.join("\n"))
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        std::io::BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "it did not start: {role:?}");
        (Self(child), line.trim().to_owned())
    }

    /// Without a chance to say goodbye.
    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// The other side of [`Kept`]; ends only by being killed.
fn play_role(role: &str) {
    let words: Vec<&str> = role.split('\n').collect();
    match words[..] {
        ["head", dir, listen] => {
            let head = head(std::path::Path::new(dir), listen.parse().unwrap(), 0.0).unwrap();
            println!("{} {}", head.address().unwrap(), head.token().unwrap());
            while head.next_event(WITHIN).is_none() {}
        }
        ["node", dir, address, token, name] => {
            let address = address.parse().unwrap();
            let credentials = mobula_core::node::join(address, &token.parse().unwrap()).unwrap();
            let node = Node::start(NodeConfig {
                head: address,
                credentials,
                name: name.to_owned(),
                resources: cpus(2.0),
                store: store(),
                traits: Default::default(),
                listen: None,
                advertise: None,
                dir: PathBuf::from(dir).join("state"),
            });
            let node = node.unwrap();
            println!("ready");
            while node.next_event(WITHIN).is_none() {}
        }
        _ => panic!("no such role: {words:?}"),
    }
}

fn a_killed_node_takes_its_workers_and_gives_up_its_actors() {
    let dir = tempfile::tempdir().unwrap();
    let (head, address, token) = Kept::head(dir.path(), "127.0.0.1:0".parse().unwrap());
    let first = Kept::node(dir.path(), address, &token, "first");
    let driver = Driver::connect(address, dir.path().join("operator")).unwrap();
    let settings = ActorOptions { max_restarts: 1, ..ActorOptions::default() };
    let actor = driver.client.create_actor(function(COUNTER), "Counter", smallvec![], settings);
    let call = |name: &str| driver.client.call(&actor, function(name), smallvec![], 1).remove(0);
    let worker = driver.numbers(&[call(WHERE)])[0];
    let second = Kept::node(dir.path(), address, &token, "second");

    first.kill();
    eventually("the system ends the worker with its node", || !lives(worker));
    eventually("the actor lives on the other node", || {
        let listed = driver.ask(driver.connection.gcs(), ListActors);
        listed.iter().any(|actor| actor.state == "ALIVE" && actor.node.as_deref() == Some("second"))
    });
    assert_eq!(driver.numbers(&[call(COUNT)]), [1]);
    let status = driver.ask(driver.connection.gcs(), GetClusterStatus);
    let dead = status.view.nodes.iter().find(|node| node.name == "first").unwrap();
    assert!(!dead.alive && dead.death_reason.is_some(), "{dead:?}");
    driver.close();
    second.kill();
    head.kill();
}

fn a_killed_head_comes_back_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let (head, address, token) = Kept::head(dir.path(), "127.0.0.1:0".parse().unwrap());
    let node = Kept::node(dir.path(), address, &token, "node");
    let driver = Driver::connect(address, dir.path().join("operator")).unwrap();
    let settings = ActorOptions { name: Some("counter".to_owned()), ..ActorOptions::default() };
    let actor = driver.client.create_actor(function(COUNTER), "Counter", smallvec![], settings);
    let count = || driver.client.call(&actor, function(COUNT), smallvec![], 1).remove(0);
    assert_eq!(driver.numbers(&[count()]), [1]);
    head.kill();
    assert_eq!(driver.numbers(&[count()]), [2], "calls go on without the head");
    let (head, again, _) = Kept::head(dir.path(), address);
    assert_eq!(again, address);
    eventually("the actor is reported again", || {
        let asked = driver.connection.endpoint().request_blocking(driver.connection.gcs(), ListActors, vec![], WITHIN);
        asked.is_ok_and(|(listed, _)| listed.iter().any(|actor| actor.state == "ALIVE"))
    });
    let found = driver.client.find_actor("counter", None).unwrap();
    let counted = driver.client.call(&found, function(COUNT), smallvec![], 1).remove(0);
    assert_eq!(driver.numbers(&[counted]), [3], "it is the same actor");
    driver.numbers(&[driver.submit(PID, &options(WorkerKind::Shared, Strategy::Default))]);
    driver.close();
    node.kill();
    head.kill();
}

// ---- the harness -------------------------------------------------------------------------------

const TESTS: &[(&str, fn())] = &[
    ("tasks_of_a_job_share_a_process_that_ends_with_it", tasks_of_a_job_share_a_process_that_ends_with_it),
    ("a_process_task_has_a_process_of_its_own", a_process_task_has_a_process_of_its_own),
    ("work_is_spread_over_nodes_and_objects_follow", work_is_spread_over_nodes_and_objects_follow),
    ("a_task_whose_worker_dies_runs_again", a_task_whose_worker_dies_runs_again),
    ("an_actor_whose_process_is_killed_comes_back", an_actor_whose_process_is_killed_comes_back),
    ("what_workers_print_reaches_the_driver", what_workers_print_reaches_the_driver),
    ("what_workers_print_names_its_task", what_workers_print_names_its_task),
    ("a_binary_that_is_not_on_the_machine_is_fetched", a_binary_that_is_not_on_the_machine_is_fetched),
    ("a_binary_that_has_changed_in_place_is_not_run", a_binary_that_has_changed_in_place_is_not_run),
    ("a_stale_binary_is_refused_by_name", a_stale_binary_is_refused_by_name),
    ("a_restarted_head_finds_nodes_actors_and_drivers_again", a_restarted_head_finds_nodes_actors_and_drivers_again),
    ("a_drained_node_leaves_and_its_actors_move", a_drained_node_leaves_and_its_actors_move),
    ("strangers_are_told_what_to_do", strangers_are_told_what_to_do),
    (
        "a_killed_node_takes_its_workers_and_gives_up_its_actors",
        a_killed_node_takes_its_workers_and_gives_up_its_actors,
    ),
    ("a_killed_head_comes_back_and_nothing_is_lost", a_killed_head_comes_back_and_nothing_is_lost),
];

fn main() -> ExitCode {
    mobula_core::node::run_worker_if_asked();
    if let Ok(role) = std::env::var(ROLE) {
        play_role(&role);
        return ExitCode::SUCCESS;
    }
    let args: Vec<String> = std::env::args().skip(1).collect();
    let flag = |name: &str| args.iter().any(|arg| arg == name);
    let filters: Vec<&String> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    if flag("--list") {
        if !flag("--ignored") {
            TESTS.iter().for_each(|(name, _)| println!("{name}: test"));
        }
        return ExitCode::SUCCESS;
    }
    if std::env::var_os("RUST_LOG").is_some() {
        tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    }
    let chosen = |name: &str| {
        filters.is_empty()
            || filters.iter().any(|filter| if flag("--exact") { name == *filter } else { name.contains(*filter) })
    };
    let mut failed = 0;
    for (name, test) in TESTS.iter().filter(|(name, _)| chosen(name)) {
        let begun = Instant::now();
        let passed = std::panic::catch_unwind(test).is_ok();
        println!("test {name} ... {} ({:.1?})", if passed { "ok" } else { "FAILED" }, begun.elapsed());
        failed += u8::from(!passed);
    }
    ExitCode::from(failed.min(1))
}
