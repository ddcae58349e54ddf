//! `mobula status`: the nodes, what is used and free, and what waits and why.

use std::collections::BTreeMap;
use std::time::UNIX_EPOCH;

use clap::Args;
use mobula_core::messages::{ClusterStatus, GetRefusals, JobInfo, NodeInfo, PendingDemand};
use mobula_core::resources::{CPU, GPU, MEMORY, OBJECT_STORE_MEMORY, Resources};
use mobula_core::store::messages::{GetStoreStats, StoreStats};
use mobula_transport::{Address, MailboxId, RefusalsSnapshot};
use serde::Serialize;

use crate::cluster::{Cluster, ClusterArgs};
use crate::error::CliError;
use crate::output::{self, Format, amount, bytes, table};

/// What `mobula status` is given.
#[derive(Args, Debug)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// What to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Runs the command.
pub(crate) fn run(args: &StatusArgs) -> Result<(), CliError> {
    let cluster = Cluster::connect(&args.cluster)?;
    let status = cluster.status()?;
    let report = Report::new(&cluster.address, &status, &told_by(&cluster, &status));
    match args.format {
        Format::Json => output::print_json(&report),
        Format::Human => output::print(&human(&report)),
    }
}

/// What a node itself says; nothing where it is dead, or dies between two questions.
#[derive(Clone, Debug, Default)]
struct Told {
    store: Option<StoreStats>,
    refused: Refused,
}

/// What the nodes of the status say, in their order.
fn told_by(cluster: &Cluster, status: &ClusterStatus) -> Vec<Told> {
    status.view.nodes.iter().map(|node| if node.alive { told(cluster, node) } else { Told::default() }).collect()
}

fn told(cluster: &Cluster, node: &NodeInfo) -> Told {
    let at = |mailbox| Address { process: node.process, mailbox };
    let mut refused = Refused::default();
    refused.add(cluster.ask(at(MailboxId::RAYLET), GetRefusals).ok());
    if node.head {
        // It listens in two places, and strangers come to the GCS's.
        refused.add(cluster.ask_gcs(GetRefusals).ok());
    }
    Told { store: cluster.ask(at(MailboxId::STORE), GetStoreStats).ok(), refused }
}

/// The strangers that a node has refused since it started.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
struct Refused {
    total: u64,
    without_certificate: u64,
    other_protocol: u64,
    without_token: u64,
    silent: u64,
    last: Option<LastRefused>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct LastRefused {
    unix_s: u64,
    peer: String,
    reason: String,
    why: String,
}

impl Refused {
    fn add(&mut self, seen: Option<RefusalsSnapshot>) {
        let Some(seen) = seen else { return };
        self.total += seen.total();
        self.without_certificate += seen.certificate;
        self.other_protocol += seen.protocol;
        self.without_token += seen.token;
        self.silent += seen.silence;
        let last = seen.last.map(|last| LastRefused {
            unix_s: last.at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            peer: last.peer.to_string(),
            reason: last.reason.to_string(),
            why: last.why,
        });
        if last.as_ref().map(|last| last.unix_s) > self.last.as_ref().map(|last| last.unix_s) {
            self.last = last;
        }
    }

    /// One line, if there is anything to say.
    fn in_words(&self, node: &str) -> Option<String> {
        let last = self.last.as_ref()?;
        let LastRefused { peer, reason, why, .. } = last;
        Some(format!("{node} refused {}, last: {peer} ({reason}: {why})", count(self.total as usize, "stranger")))
    }
}

/// The state of a cluster, as it is printed.
#[derive(Debug, Serialize)]
struct Report {
    cluster: String,
    address: String,
    uptime_s: u64,
    resources: BTreeMap<String, Amounts>,
    nodes: Vec<Node>,
    pending: Vec<Pending>,
    jobs: Vec<Job>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
struct Amounts {
    used: f64,
    total: f64,
}

/// A node. `mobula list nodes` prints it too.
#[derive(Debug, Serialize)]
pub(crate) struct Node {
    node: String,
    name: String,
    head: bool,
    state: &'static str,
    reason: Option<String>,
    address: String,
    pid: u32,
    resources: BTreeMap<String, Amounts>,
    objects: Option<u64>,
    object_store_used_bytes: Option<u64>,
    refused: Refused,
}

#[derive(Debug, Serialize)]
struct Pending {
    what: String,
    count: u64,
    demand: BTreeMap<String, f64>,
    infeasible: bool,
    reason: String,
    node: String,
}

#[derive(Debug, Serialize)]
struct Job {
    job: String,
    name: String,
    namespace: String,
    state: &'static str,
    started_unix_s: u64,
    ended_unix_s: Option<u64>,
}

impl Report {
    fn new(address: &str, status: &ClusterStatus, told: &[Told]) -> Self {
        let nodes = nodes(&status.view.nodes, told);
        let mut resources = BTreeMap::<String, Amounts>::new();
        for node in nodes.iter().filter(|node| node.state == ALIVE) {
            for (name, amounts) in &node.resources {
                let sum = resources.entry(name.clone()).or_default();
                sum.used += amounts.used;
                sum.total += amounts.total;
            }
        }
        Self {
            cluster: status.cluster.clone(),
            address: address.to_owned(),
            uptime_s: status.uptime_s,
            resources,
            nodes,
            pending: status.pending.iter().map(pending).collect(),
            jobs: status.jobs.iter().map(job).collect(),
        }
    }
}

const ALIVE: &str = "ALIVE";
const DEAD: &str = "DEAD";

fn nodes(nodes: &[NodeInfo], told: &[Told]) -> Vec<Node> {
    let told = told.iter().cloned().chain(std::iter::repeat_with(Told::default));
    nodes.iter().zip(told).map(|(node, told)| describe(node, told)).collect()
}

fn describe(node: &NodeInfo, told: Told) -> Node {
    let Told { store, refused } = told;
    let mut resources = amounts(&node.total, &node.available);
    // Leases do not take from the store; the store itself knows what it holds.
    if let (Some(amounts), Some(store)) = (resources.get_mut(OBJECT_STORE_MEMORY), store) {
        amounts.used = store.used_bytes as f64;
    }
    Node {
        node: node.node.to_string(),
        name: node.name.clone(),
        head: node.head,
        state: if node.alive { ALIVE } else { DEAD },
        reason: node.death_reason.clone(),
        address: node.process.socket.to_string(),
        pid: node.pid,
        resources,
        objects: store.map(|store| store.objects),
        object_store_used_bytes: store.map(|store| store.used_bytes),
        refused,
    }
}

fn amounts(total: &Resources, available: &Resources) -> BTreeMap<String, Amounts> {
    let of = |name: &str| Amounts { used: total.units(name) - available.units(name), total: total.units(name) };
    total.iter().map(|(name, _)| (name.to_owned(), of(name))).collect()
}

fn pending(demand: &PendingDemand) -> Pending {
    Pending {
        what: demand.what.clone(),
        count: demand.count,
        demand: demand.demand.to_units(),
        infeasible: demand.infeasible,
        reason: demand.reason.clone(),
        node: demand.node.clone(),
    }
}

fn job(job: &JobInfo) -> Job {
    Job {
        job: job.job.to_string(),
        name: job.name.clone(),
        namespace: job.namespace.clone(),
        state: if job.ended_unix_s.is_some() { "ENDED" } else { "RUNNING" },
        started_unix_s: job.started_unix_s,
        ended_unix_s: job.ended_unix_s,
    }
}

fn human(report: &Report) -> String {
    let alive = report.nodes.iter().filter(|node| node.state == ALIVE).count();
    let running = report.jobs.iter().filter(|job| job.ended_unix_s.is_none()).count();
    let mut text = format!(
        "cluster {} at {}, up {}: {} alive, {} running\n\n",
        report.cluster,
        report.address,
        duration(report.uptime_s),
        count(alive, "node"),
        count(running, "job"),
    );
    let mut resources = table(&["resource", ">used", ">total"]);
    for (name, amounts) in &report.resources {
        resources.add_row([name.clone(), quantity(name, amounts.used), quantity(name, amounts.total)]);
    }
    text.push_str(&format!("{resources}\n\n{}\n", node_table(&report.nodes)));
    for line in report.nodes.iter().filter_map(|node| node.refused.in_words(&node.name)) {
        text.push_str(&format!("\n{line}\n"));
    }
    if report.pending.is_empty() {
        text.push_str("\nnothing waits for resources");
    } else {
        let mut pending = table(&["waits", ">how many", "needs", "asked of", "why"]);
        for demand in &report.pending {
            let needs: Vec<_> =
                demand.demand.iter().map(|(name, units)| format!("{name} {}", quantity(name, *units))).collect();
            let never = if demand.infeasible { "can never run here: " } else { "" };
            pending.add_row([
                demand.what.clone(),
                demand.count.to_string(),
                needs.join(", "),
                demand.node.clone(),
                format!("{never}{}", demand.reason),
            ]);
        }
        text.push_str(&format!("\n{pending}"));
    }
    text
}

/// The nodes for people.
pub(crate) fn node_table(nodes: &[Node]) -> comfy_table::Table {
    let mut rows =
        table(&["node", "state", ">CPU", ">GPU", ">memory", ">object store", ">objects", "other", "address", ">pid"]);
    for node in nodes {
        let used_of = |name: &str| match node.resources.get(name) {
            Some(amounts) => format!("{}/{}", quantity(name, amounts.used), quantity(name, amounts.total)),
            None => "-".to_owned(),
        };
        let custom = node.resources.keys().filter(|name| !KNOWN.contains(&name.as_str()));
        let other: Vec<_> = custom.map(|name| format!("{name} {}", used_of(name))).collect();
        let state = match &node.reason {
            Some(reason) => format!("{}: {reason}", node.state),
            None => node.state.to_owned(),
        };
        rows.add_row([
            format!("{}{}", node.name, if node.head { " (head)" } else { "" }),
            state,
            used_of(CPU),
            used_of(GPU),
            used_of(MEMORY),
            used_of(OBJECT_STORE_MEMORY),
            node.objects.map_or_else(|| "-".to_owned(), |objects| objects.to_string()),
            other.join(", "),
            node.address.clone(),
            node.pid.to_string(),
        ]);
    }
    rows
}

/// The nodes of a status, for `mobula list nodes`.
pub(crate) fn nodes_of(cluster: &Cluster, status: &ClusterStatus) -> Vec<Node> {
    nodes(&status.view.nodes, &told_by(cluster, status))
}

const KNOWN: [&str; 4] = [CPU, GPU, MEMORY, OBJECT_STORE_MEMORY];

fn quantity(name: &str, units: f64) -> String {
    if name == MEMORY || name == OBJECT_STORE_MEMORY { bytes(units) } else { amount(units) }
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use mobula_core::ids::NodeId;
    use mobula_core::messages::ClusterView;
    use mobula_transport::{ProcessAddr, ProcessId};

    use super::*;

    fn node(name: &str, alive: bool) -> NodeInfo {
        let total = Resources::new().with(CPU, 4.0).unwrap().with(OBJECT_STORE_MEMORY, 4096.0).unwrap();
        NodeInfo {
            node: NodeId::random(),
            name: name.to_owned(),
            process: ProcessAddr { id: ProcessId(uuid_of_zero()), socket: "127.0.0.1:6380".parse().unwrap() },
            head: name == "a",
            available: total.clone().with(CPU, 2.5).unwrap(),
            total,
            alive,
            death_reason: (!alive).then(|| "it was silent for 5 s".to_owned()),
            store_dir: String::new(),
            host_proof: String::new(),
            pid: 17,
        }
    }

    fn uuid_of_zero() -> uuid::Uuid {
        uuid::Uuid::nil()
    }

    fn status() -> ClusterStatus {
        ClusterStatus {
            cluster: "rays".to_owned(),
            view: ClusterView { version: 1, nodes: vec![node("a", true), node("b", true), node("c", false)] },
            pending: vec![PendingDemand {
                demand: Resources::new().with(GPU, 1.0).unwrap(),
                count: 3,
                what: "train".to_owned(),
                reason: "no node has GPU 1".to_owned(),
                infeasible: true,
                node: "a".to_owned(),
            }],
            jobs: Vec::new(),
            uptime_s: 61,
        }
    }

    #[test]
    fn dead_nodes_are_shown_but_not_counted() {
        let last = LastRefused {
            unix_s: 1,
            peer: "10.0.0.9:17".to_owned(),
            reason: "silence".to_owned(),
            why: "it said nothing".to_owned(),
        };
        let store = StoreStats { used_bytes: 1024, objects: 2, ..StoreStats::default() };
        let refused = Refused { total: 2, silent: 2, last: Some(last), ..Refused::default() };
        let told = Told { store: Some(store), refused };
        let report = Report::new("h:1", &status(), &[told]);
        assert_eq!(report.resources[CPU], Amounts { used: 3.0, total: 8.0 });
        assert_eq!(report.resources[OBJECT_STORE_MEMORY], Amounts { used: 1024.0, total: 8192.0 });

        let text = human(&report);
        for part in [
            "cluster rays at h:1, up 1 min 1 s: 2 nodes alive, 0 jobs running",
            "DEAD: it was silent",
            "1.5/4",
            "train",
            "can never run here: no node has GPU 1",
            "a refused 2 strangers, last: 10.0.0.9:17 (silence: it said nothing)",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }

    #[test]
    fn programs_get_used_total_and_reasons() {
        let report = Report::new("h:1", &status(), &[]);
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["resources"]["CPU"]["used"], 3.0);
        assert_eq!(json["nodes"][2]["state"], "DEAD");
        assert_eq!(json["nodes"][0]["resources"]["CPU"]["total"], 4.0);
        assert_eq!(json["nodes"][0]["refused"]["total"], 0);
        assert_eq!(json["pending"][0]["demand"]["GPU"], 1.0);
        assert_eq!(json["pending"][0]["reason"], "no node has GPU 1");
    }
}
