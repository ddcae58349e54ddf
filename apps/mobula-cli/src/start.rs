//! `mobula start`: a head, or a node that joins one, in the foreground until it is told to stop.
//!
//! ```text
//!  start ─▶ ready (says so on stdout) ─▶ SIGINT, SIGTERM or StopNode ─▶ drains ─▶ ends
//!                                                                        │ a second signal
//!                                                                        ▼
//!                                                                   ends at once
//! ```
//!
//! With `--daemon` the same happens in a process of its own session; this one waits until that is
//! ready, passes on what it said, and leaves it behind.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use mobula_core::gcs::storage::StorageError;
use mobula_core::labels::{self, Labels};
use mobula_core::messages::NodeInfo;
use mobula_core::node::{
    DEFAULT_PORT, Head, HeadConfig, HeadNetwork, Node, NodeConfig, NodeError, NodeTraits, Offer, credentials_dir, join,
    parse_address, state_dir,
};
use mobula_core::raylet::server::{DEFAULT_MEMORY_THRESHOLD, MemoryWatch, RayletEvent};
use mobula_core::store::{HIGH_WATER_PERCENT, StoreConfig};
use mobula_transport::identity::JoinToken;
use serde::{Deserialize, Serialize};

use crate::daemon;
use crate::error::CliError;
use crate::output::{self, Format};
use crate::parse;
use crate::registry::{Registry, RunningNode};
use crate::signals::Signals;

/// How long work that runs may go on after a node was told to stop, unless another time is given.
const DRAIN_S: f64 = 30.0;
/// Said where it is open what to start.
const NEITHER: &str = "say what to start: `mobula start --head` starts a new cluster, `mobula start --address \
                       HOST:PORT --token TOKEN` a node that joins one (its head printed both; `mobula token` prints \
                       a new token)";
/// How often a node looks whether it was told to stop.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What `mobula start` is given.
#[derive(Args, Clone, Debug)]
pub(crate) struct StartArgs {
    /// Start a new cluster: its head, which is a node too
    #[arg(long, conflicts_with = "address")]
    head: bool,
    /// Join the cluster of this head
    #[arg(long, value_name = "HOST:PORT", requires = "token")]
    address: Option<String>,
    /// The join token that the head printed
    #[arg(long, value_name = "TOKEN", env = "MOBULA_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Where to listen; other machines reach the node only if this is an address that they can reach
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    host: IpAddr,
    /// On which UDP port to listen; 6380 for a head, a free one for a node, 0 means a free one
    #[arg(long)]
    port: Option<u16>,
    /// How many CPUs tasks may use; those of the machine by default
    #[arg(long, value_name = "AMOUNT")]
    num_cpus: Option<f64>,
    /// How many GPUs tasks may use; those of CUDA_VISIBLE_DEVICES, or of the machine, by default
    #[arg(long, value_name = "AMOUNT")]
    num_gpus: Option<f64>,
    /// How much memory tasks may ask for, in bytes (or 512M, 4G); by default 70 % of what is available
    /// besides the object store
    #[arg(long, value_name = "BYTES", value_parser = parse::bytes)]
    memory: Option<u64>,
    /// Resources of your own, as JSON: '{"license": 2}'
    #[arg(long, value_name = "JSON", value_parser = parse_resources)]
    resources: Option<Custom>,
    /// How much memory the node and its workers may use before a worker is ended, in bytes (or 512M,
    /// 4G); by default the machine's or control group's, whoever uses it
    #[arg(long, value_name = "BYTES", value_parser = parse::bytes, env = "MOBULA_MEMORY_LIMIT")]
    memory_limit: Option<u64>,
    /// The part of that memory which may be in use before a worker is ended; 1 ends none
    #[arg(long, value_name = "PART", default_value_t = DEFAULT_MEMORY_THRESHOLD, value_parser = parse::part)]
    memory_threshold: f64,
    /// Labels that tasks and actors can ask for
    #[arg(long, value_name = "KEY=VALUE,..", value_parser = parse_labels)]
    labels: Option<Labelled>,
    /// The size of the object store, in bytes (or 512M, 4G); 30 % of the machine's memory by default
    #[arg(long, value_name = "BYTES", value_parser = parse::bytes)]
    object_store_memory: Option<u64>,
    /// Where objects are written that have no room in memory; the system's directory for temporary
    /// files by default
    #[arg(long, value_name = "DIR")]
    spill_dir: Option<PathBuf>,
    /// How much of the disk such objects may take, in bytes (or 10G), 0 for nothing; 80 % of what is
    /// free there by default
    #[arg(long, value_name = "BYTES", value_parser = parse::bytes)]
    spill_limit: Option<u64>,
    /// From which part of its size on, in percent, the object store writes objects to disk
    #[arg(long, value_name = "PERCENT", default_value_t = HIGH_WATER_PERCENT, value_parser = clap::value_parser!(u8).range(0..=100))]
    spill_threshold: u8,
    /// Where the node keeps its state; a head started on the same directory again is the same cluster
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The node's name; the machine's by default
    #[arg(long)]
    name: Option<String>,
    /// The cluster's name (head only)
    #[arg(long, value_name = "NAME", default_value = "mobula", requires = "head")]
    cluster: String,
    /// Where a head writes the operator's credentials; $MOBULA_CREDENTIALS or ~/.config/mobula by default
    #[arg(long, value_name = "DIR", requires = "head")]
    credentials: Option<PathBuf>,
    /// How long running work may go on when the node is told to stop
    #[arg(long, value_name = "SECONDS", default_value_t = DRAIN_S, value_parser = parse::seconds)]
    drain: f64,
    /// Start in the background; `mobula stop` ends it
    #[arg(long)]
    daemon: bool,
    /// How to say that it is ready
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

type Custom = Arc<BTreeMap<String, f64>>;
type Labelled = Arc<Labels>;

/// What a node says when it is ready; one line of JSON with `--format json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Ready {
    /// The head's address.
    pub(crate) address: String,
    /// By which other nodes join; only a head has one.
    pub(crate) token: Option<String>,
    /// Where the operator's credentials were written; only by a head.
    pub(crate) credentials: Option<PathBuf>,
    /// The node's name.
    pub(crate) name: String,
    /// Its operating system id.
    pub(crate) pid: u32,
    /// Where its state is.
    pub(crate) dir: PathBuf,
}

/// Runs the command.
pub(crate) fn run(args: &StartArgs) -> Result<(), CliError> {
    if !args.head && args.address.is_none() {
        return Err(CliError::Usage(NEITHER.to_owned()));
    }
    let dir = directory(args)?;
    if args.daemon {
        return daemon::start(&dir, args.format);
    }
    // The allocator keeps what it once had in pieces of megabytes. Backed by huge pages, each is in
    // memory as a whole for the little that is used of it: ten times as much as without. Where the
    // kernel refuses, it stays so.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    // Before anything else has threads, and before anything could be lost by a signal.
    let signals = Signals::watch()?;
    let running = if args.head { start_head(args, &dir)? } else { start_node(args, &dir)? };
    let ready = running.ready(args, &dir);
    let info = running.info();
    let noted = RunningNode::this_process(info.name.clone(), args.head, ready.address.clone(), dir)?;
    let entry = Registry::of_user().enter(&noted)?;
    match args.format {
        Format::Json => output::print(&serde_json::to_string(&ready)?)?,
        Format::Human => output::print(&sentences(&ready, info))?,
    }
    let ended = serve(&running, &signals, Duration::from_secs_f64(args.drain));
    drop(entry);
    ended
}

enum Running {
    Head(Head),
    Node(Node, SocketAddr),
}

impl Running {
    fn info(&self) -> &NodeInfo {
        match self {
            Self::Head(head) => head.info(),
            Self::Node(node, _) => node.info(),
        }
    }

    fn next_event(&self, within: Duration) -> Option<RayletEvent> {
        match self {
            Self::Head(head) => head.next_event(within),
            Self::Node(node, _) => node.next_event(within),
        }
    }

    fn drain(&self, within: Duration) {
        match self {
            Self::Head(head) => head.drain(within),
            Self::Node(node, _) => node.drain(within),
        }
    }

    fn ready(&self, args: &StartArgs, dir: &Path) -> Ready {
        let (address, token, credentials) = match self {
            Self::Head(head) => {
                let address = head.address().map(|address| address.to_string()).unwrap_or_default();
                (address, head.token().map(ToString::to_string), Some(operator_credentials(args)))
            }
            Self::Node(_, head) => (head.to_string(), None, None),
        };
        let name = self.info().name.clone();
        Ready { address, token, credentials, name, pid: std::process::id(), dir: dir.to_owned() }
    }
}

fn start_head(args: &StartArgs, dir: &Path) -> Result<Running, CliError> {
    let head = Head::start(HeadConfig {
        cluster: args.cluster.clone(),
        name: name(args),
        resources: offer(args).resources().map_err(NodeError::from)?,
        store: store(args),
        traits: traits(args),
        network: Some(HeadNetwork {
            listen: SocketAddr::new(args.host, args.port.unwrap_or(DEFAULT_PORT)),
            advertise: None,
            dir: dir.to_owned(),
            credentials: operator_credentials(args),
        }),
    })
    .map_err(|error| match error {
        NodeError::Storage(StorageError::InUse { .. }) => in_use(dir, error),
        error => error.into(),
    })?;
    Ok(Running::Head(head))
}

/// Names the head that holds the directory, if this user has started it.
fn in_use(dir: &Path, error: NodeError) -> CliError {
    let nodes = Registry::of_user().running().unwrap_or_default();
    match nodes.into_iter().find(|node| node.head && node.dir == dir) {
        Some(holder) => CliError::Usage(format!(
            "the head {name} (pid {pid}) at {address} keeps its state in {dir}: end it with `mobula stop --name {name}`, \
             or start this one with another --dir",
            name = holder.name,
            pid = holder.pid,
            address = holder.address,
            dir = dir.display(),
        )),
        None => error.into(),
    }
}

fn start_node(args: &StartArgs, dir: &Path) -> Result<Running, CliError> {
    // clap has seen to it that both are there.
    let (Some(address), Some(token)) = (&args.address, &args.token) else {
        return Err(CliError::Usage("a node needs --address and --token".to_owned()));
    };
    let head = parse_address(address)?;
    let token: JoinToken = token.parse().map_err(NodeError::from)?;
    let node = Node::start(NodeConfig {
        head,
        credentials: join(head, &token)?,
        name: name(args),
        resources: offer(args).resources().map_err(NodeError::from)?,
        store: store(args),
        traits: traits(args),
        listen: Some(SocketAddr::new(args.host, args.port.unwrap_or(0))),
        advertise: None,
        dir: dir.to_owned(),
    })?;
    Ok(Running::Node(node, head))
}

/// Until the node is told to stop; then drains it.
fn serve(running: &Running, signals: &Signals, drain: Duration) -> Result<(), CliError> {
    let why = loop {
        if signals.seen() > 0 {
            break "a signal asked for it".to_owned();
        }
        match running.next_event(LOOK_EVERY) {
            Some(RayletEvent::StopAsked(why)) => break why,
            Some(RayletEvent::Refused(why)) => {
                running.drain(Duration::ZERO);
                return Err(CliError::Usage(format!("the head does not want this node any more: {why}")));
            }
            Some(RayletEvent::Registered) | None => {}
        }
    };
    // Whoever read it may be gone.
    let _ = writeln!(
        std::io::stderr(),
        "mobula: stopping ({why}); running work may go on for {} s, another signal ends it at once",
        drain.as_secs()
    );
    // The workers end with this process; what the store left, the next node removes.
    signals.next_ends(|| {});
    running.drain(drain);
    Ok(())
}

// ---- what the arguments mean -------------------------------------------------------------------

fn directory(args: &StartArgs) -> Result<PathBuf, CliError> {
    let dir = match &args.dir {
        Some(dir) => dir.clone(),
        None => state_dir(&args.cluster),
    };
    if let Some(parent) = dir.parent() {
        std::fs::create_dir_all(parent).map_err(CliError::file(parent))?;
    }
    // What a cluster remembers is its owner's business.
    match std::fs::DirBuilder::new().mode(0o700).create(&dir) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(CliError::file(&dir)(error)),
        _ => {}
    }
    std::path::absolute(&dir).map_err(CliError::file(&dir))
}

fn operator_credentials(args: &StartArgs) -> PathBuf {
    args.credentials.clone().unwrap_or_else(credentials_dir)
}

fn name(args: &StartArgs) -> String {
    args.name.clone().unwrap_or_else(|| {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        // Several nodes of one machine are told apart.
        if args.head { host } else { format!("{host}-{}", std::process::id()) }
    })
}

fn offer(args: &StartArgs) -> Offer {
    let custom = args.resources.iter().flat_map(|resources| resources.iter());
    Offer {
        num_cpus: args.num_cpus,
        num_gpus: args.num_gpus,
        memory_bytes: args.memory,
        custom: custom.map(|(name, amount)| (name.clone(), *amount)).collect(),
    }
}

fn store(args: &StartArgs) -> StoreConfig {
    StoreConfig {
        capacity_bytes: args.object_store_memory,
        spill_dir: args.spill_dir.clone(),
        spill_limit_bytes: args.spill_limit,
        high_water_percent: Some(args.spill_threshold),
        ..StoreConfig::default()
    }
}

fn traits(args: &StartArgs) -> NodeTraits {
    let memory = MemoryWatch { limit_bytes: args.memory_limit, threshold: args.memory_threshold };
    NodeTraits { labels: args.labels.as_deref().cloned().unwrap_or_default(), memory }
}

fn parse_labels(text: &str) -> Result<Labelled, String> {
    labels::parse(text).map(Arc::new).map_err(|error| error.to_string())
}

fn parse_resources(text: &str) -> Result<Custom, String> {
    let resources: BTreeMap<String, f64> =
        serde_json::from_str(text).map_err(|error| format!("{error}; write it as '{{\"name\": 1}}'"))?;
    use mobula_core::resources::{CPU, GPU, MEMORY, OBJECT_STORE_MEMORY};
    for (name, flag) in
        [(CPU, "--num-cpus"), (GPU, "--num-gpus"), (MEMORY, "--memory"), (OBJECT_STORE_MEMORY, "--object-store-memory")]
    {
        if resources.contains_key(name) {
            return Err(format!("{name} is given with {flag}"));
        }
    }
    Ok(Arc::new(resources))
}

/// What a person reads when the node is ready.
pub(crate) fn sentences(ready: &Ready, info: &NodeInfo) -> String {
    let mut text = format!("node {} is ready with {}", ready.name, resources(info));
    match (&ready.token, &ready.credentials) {
        (Some(token), Some(credentials)) => text.push_str(&format!(
            "\nthe cluster's head is at {address}\n\n\
             to join with another node (for a day; `mobula token` prints a new token):\n  mobula start --address {address} --token {token}\n\
             to look at it:\n  mobula status\n\
             to use it from a program:\n  mobula::init(Config::default().address(\"{address}\"))\n\n\
             the operator's credentials are in {credentials}",
            address = ready.address,
            credentials = credentials.display(),
        )),
        _ => text.push_str(&format!("\nit has joined the cluster at {}", ready.address)),
    }
    text.push_str("\nCtrl-C or `mobula stop` ends it");
    text
}

fn resources(info: &NodeInfo) -> String {
    use mobula_core::resources::{MEMORY, OBJECT_STORE_MEMORY};
    let parts: Vec<_> = info
        .total
        .to_units()
        .into_iter()
        .map(|(name, units)| match name.as_str() {
            MEMORY | OBJECT_STORE_MEMORY => format!("{name} {}", output::bytes(units)),
            _ => format!("{name} {}", output::amount(units)),
        })
        .collect();
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_are_json_and_not_those_with_a_flag() {
        assert_eq!(parse_resources(r#"{"x": 1, "y": 0.5}"#).unwrap()["y"], 0.5);
        assert!(parse_resources("x=1").unwrap_err().contains("{\"name\": 1}"));
        assert!(parse_resources(r#"{"CPU": 1}"#).unwrap_err().contains("--num-cpus"));
    }
}
