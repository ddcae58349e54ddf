//! `mobula status`: the nodes, what is used and free, and what waits and why.

use std::collections::BTreeMap;
use std::time::UNIX_EPOCH;

use clap::Args;
use mobula_core::messages::{ClusterStatus, GetRefusals, JobInfo, NodeInfo, PendingDemand};
use mobula_core::resources::{CPU, GPU, MEMORY, OBJECT_STORE_MEMORY};
use mobula_core::store::messages::{GetStoreStats, StoreStats};
use mobula_transport::{Address, MailboxId, RefusalsSnapshot};
use serde::Serialize;

use crate::cluster::{Cluster, ClusterArgs};
use crate::error::CliError;
use crate::output::{self, Format, Table, amount, bytes, counted, in_unit_of, table};

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

    /// A line or two, if there is anything to say; what exactly was wrong is for machines.
    fn in_words(&self, node: &str) -> Option<String> {
        let last = self.last.as_ref()?;
        let LastRefused { peer, reason, .. } = last;
        Some(format!("{node} refused {}\n  last: {peer} ({reason})", counted(self.total, "stranger")))
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
    /// Nothing where nobody knows: of a dead node.
    used: Option<f64>,
    total: f64,
}

/// A node. `mobula list nodes` prints it too.
#[derive(Debug, Serialize)]
pub(crate) struct Node {
    node: String,
    name: String,
    head: bool,
    labels: BTreeMap<String, String>,
    state: &'static str,
    reason: Option<String>,
    address: String,
    pid: u32,
    resources: BTreeMap<String, Amounts>,
    objects: Option<u64>,
    object_store_used_bytes: Option<u64>,
    spilling: Option<Spilling>,
    refused: Refused,
}

/// What a node's object store has written to disk, because it had no room in memory.
#[derive(Clone, Copy, Debug, Serialize)]
struct Spilling {
    /// What is there now.
    disk_bytes: u64,
    disk_objects: u64,
    disk_limit_bytes: u64,
    /// What was written, and read back, since the start.
    spilled_bytes: u64,
    spilled_objects: u64,
    restored_bytes: u64,
    restored_objects: u64,
    /// How many wait for room in memory now.
    waiting: u64,
}

impl Spilling {
    fn of(store: &StoreStats) -> Self {
        Self {
            disk_bytes: store.disk_bytes,
            disk_objects: store.disk_objects,
            disk_limit_bytes: store.disk_limit_bytes,
            spilled_bytes: store.spilled_bytes,
            spilled_objects: store.spilled_objects,
            restored_bytes: store.restored_bytes,
            restored_objects: store.restored_objects,
            waiting: store.waiting_for_room,
        }
    }

    /// For people; nothing where nothing was ever spilled and nobody waits.
    fn in_words(self, node: &str) -> Option<String> {
        if self.spilled_objects == 0 && self.waiting == 0 {
            return None;
        }
        let bytes = |amount: u64| bytes(amount as f64);
        let mut text = format!(
            "{node} has {} of {} on disk\n    spilled {} in {}, restored {} in {}\n",
            bytes(self.disk_bytes),
            bytes(self.disk_limit_bytes),
            bytes(self.spilled_bytes),
            counted(self.spilled_objects, "object"),
            bytes(self.restored_bytes),
            counted(self.restored_objects, "object"),
        );
        if self.waiting > 0 {
            text.push_str(&format!("    waiting for room in memory: {}\n", counted(self.waiting, "object")));
        }
        Some(text)
    }
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
                sum.used = Some(sum.used.unwrap_or_default() + amounts.used.unwrap_or_default());
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
    let mut resources = amounts(node);
    // Leases do not take from the store; the store itself knows what it holds.
    if let (Some(amounts), Some(store)) = (resources.get_mut(OBJECT_STORE_MEMORY), store) {
        amounts.used = Some(store.used_bytes as f64);
    }
    Node {
        node: node.node.to_string(),
        name: node.name.clone(),
        head: node.head,
        labels: node.labels.clone(),
        state: if node.alive { ALIVE } else { DEAD },
        reason: node.death_reason.clone(),
        address: node.process.socket.to_string(),
        pid: node.pid,
        resources,
        objects: store.map(|store| store.objects),
        object_store_used_bytes: store.map(|store| store.used_bytes),
        spilling: store.as_ref().map(Spilling::of),
        refused,
    }
}

fn amounts(node: &NodeInfo) -> BTreeMap<String, Amounts> {
    let of = |name: &str| {
        let total = node.total.units(name);
        Amounts { used: node.alive.then(|| total - node.available.units(name)), total }
    };
    node.total.iter().map(|(name, _)| (name.to_owned(), of(name))).collect()
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

// ---- for people: no line is wider than a terminal of 80 columns as long as names are short -------

fn human(report: &Report) -> String {
    let alive = report.nodes.iter().filter(|node| node.state == ALIVE).count();
    let dead = report.nodes.len() - alive;
    let running = report.jobs.iter().filter(|job| job.ended_unix_s.is_none()).count();
    let mut text = format!(
        "cluster {} at {}, up {}\n{} alive{}, {} running\n\n",
        report.cluster,
        report.address,
        output::duration(report.uptime_s),
        counted(alive as u64, "node"),
        if dead > 0 { format!(", {dead} dead") } else { String::new() },
        counted(running as u64, "job"),
    );
    let mut resources = table(&["resource", ">used", ">total"]);
    for (name, amounts) in &report.resources {
        resources.add_row([name.clone(), used(name, *amounts), quantity(name, amounts.total)]);
    }
    text.push_str(&format!("{resources}\n\n{}\n", resource_table(&report.nodes)));
    for line in others(&report.nodes).chain(labelled(&report.nodes)).chain(reasons(&report.nodes)) {
        text.push_str(&format!("\n{line}"));
    }
    for line in report.nodes.iter().filter_map(|node| node.spilling?.in_words(&node.name)) {
        text.push_str(&format!("\n{line}"));
    }
    for line in report.nodes.iter().filter_map(|node| node.refused.in_words(&node.name)) {
        text.push_str(&format!("\n{line}\n"));
    }
    if report.pending.is_empty() {
        text.push_str("\nnothing waits for resources");
    } else {
        text.push_str("\nwaiting for resources:");
    }
    for demand in &report.pending {
        text.push_str(&waiting(demand));
    }
    text
}

/// What each node has. Columns that no node has anything to say in are left out.
fn resource_table(nodes: &[Node]) -> Table {
    let has = |name: &str| nodes.iter().any(|node| node.resources.contains_key(name));
    let columns: Vec<_> = [(CPU, ">CPU"), (GPU, ">GPU"), (MEMORY, ">memory"), (OBJECT_STORE_MEMORY, ">object store")]
        .into_iter()
        .filter(|(name, _)| *name == CPU || has(name))
        .collect();
    let mut heads = vec!["node", "state"];
    heads.extend(columns.iter().map(|(_, head)| *head));
    let mut rows = table(&heads);
    for node in nodes {
        let mut row = vec![node.shown_name(), node.state.to_owned()];
        row.extend(columns.iter().map(|(name, _)| node.used_of(name)));
        rows.add_row(row);
    }
    rows
}

/// What living nodes have besides, a line each: names of resources are as long as users like.
fn others(nodes: &[Node]) -> impl Iterator<Item = String> {
    nodes.iter().filter(|node| node.state == ALIVE).filter_map(|node| {
        let custom = node.resources.keys().filter(|name| !KNOWN.contains(&name.as_str()));
        let custom: Vec<_> = custom.map(|name| format!("{name} {}", node.used_of(name))).collect();
        (!custom.is_empty()).then(|| format!("{} has {}\n", node.name, custom.join(", ")))
    })
}

/// The labels of living nodes, a line each.
fn labelled(nodes: &[Node]) -> impl Iterator<Item = String> {
    let labelled = nodes.iter().filter(|node| node.state == ALIVE && !node.labels.is_empty());
    labelled.map(|node| format!("{} is labelled {}\n", node.name, node.shown_labels()))
}

/// Why dead nodes are dead, a line each.
fn reasons(nodes: &[Node]) -> impl Iterator<Item = String> {
    let dead = nodes.iter().filter(|node| node.state == DEAD);
    dead.filter_map(|node| Some(format!("{} is dead: {}\n", node.name, node.reason.as_ref()?)))
}

fn waiting(demand: &Pending) -> String {
    let needs = demand.demand.iter().map(|(name, units)| format!("{name} {}", quantity(name, *units)));
    let needs: Vec<_> = needs.collect();
    let never = if demand.infeasible { "can never run here: " } else { "" };
    let asked = if demand.node.is_empty() { String::new() } else { format!(", asked of {}", demand.node) };
    format!("\n  {} x {}, needs {}{asked}\n      {never}{}", demand.count, demand.what, needs.join(", "), demand.reason,)
}

/// The nodes for people: where they are. What they have is in the status.
pub(crate) fn node_table(nodes: &[Node]) -> Table {
    // A column that would be empty is left out.
    let labelled = nodes.iter().any(|node| !node.labels.is_empty());
    let mut heads = vec!["node", "state", "address", ">pid", ">objects", "reason"];
    heads.extend(labelled.then_some("labels"));
    let mut rows = table(&heads);
    for node in nodes {
        let mut row = vec![
            node.shown_name(),
            node.state.to_owned(),
            node.address.clone(),
            node.pid.to_string(),
            node.objects.map_or_else(|| "-".to_owned(), |objects| objects.to_string()),
            node.reason.clone().unwrap_or_default(),
        ];
        row.extend(labelled.then(|| node.shown_labels()));
        rows.add_row(row);
    }
    rows
}

impl Node {
    /// How much of what it has is used; a dash where it has none, or nobody knows.
    fn used_of(&self, name: &str) -> String {
        match self.resources.get(name) {
            Some(amounts) if amounts.used.is_some() => of_total(name, *amounts),
            _ => "-".to_owned(),
        }
    }

    fn shown_labels(&self) -> String {
        let labels: Vec<_> = self.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        labels.join(", ")
    }

    fn shown_name(&self) -> String {
        format!("{}{}", self.name, if self.head { " (head)" } else { "" })
    }
}

/// The nodes of a status, for `mobula list nodes`.
pub(crate) fn nodes_of(cluster: &Cluster, status: &ClusterStatus) -> Vec<Node> {
    nodes(&status.view.nodes, &told_by(cluster, status))
}

const KNOWN: [&str; 4] = [CPU, GPU, MEMORY, OBJECT_STORE_MEMORY];

fn quantity(name: &str, units: f64) -> String {
    if name == MEMORY || name == OBJECT_STORE_MEMORY { bytes(units) } else { amount(units) }
}

fn used(name: &str, amounts: Amounts) -> String {
    amounts.used.map_or_else(|| "-".to_owned(), |used| quantity(name, used))
}

/// `1.5/4`, or `0.2/22.1 GiB`: the unit once, the total's.
fn of_total(name: &str, amounts: Amounts) -> String {
    let used = amounts.used.unwrap_or_default();
    if name == MEMORY || name == OBJECT_STORE_MEMORY {
        let (total, unit) = in_unit_of(amounts.total, amounts.total);
        // Some is not none.
        let used = match in_unit_of(used, amounts.total).0.as_str() {
            "0.0" if used > 0.0 => "<0.1".to_owned(),
            "0.0" => "0".to_owned(),
            used => used.to_owned(),
        };
        return format!("{used}/{total} {unit}");
    }
    format!("{}/{}", amount(used), amount(amounts.total))
}

#[cfg(test)]
mod tests {
    use mobula_core::ids::NodeId;
    use mobula_core::messages::ClusterView;
    use mobula_core::resources::Resources;
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
            labels: [("zone".to_owned(), name.to_owned())].into(),
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
            view: ClusterView { nodes: vec![node("a", true), node("b", true), node("c", false)] },
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
        let store = StoreStats {
            used_bytes: 1024,
            objects: 2,
            disk_bytes: 3 << 20,
            disk_limit_bytes: 1 << 30,
            spilled_bytes: 5 << 20,
            spilled_objects: 2,
            waiting_for_room: 1,
            ..StoreStats::default()
        };
        let refused = Refused { total: 2, silent: 2, last: Some(last), ..Refused::default() };
        let told = Told { store: Some(store), refused };
        let report = Report::new("h:1", &status(), &[told]);
        assert_eq!(report.resources[CPU], Amounts { used: Some(3.0), total: 8.0 });
        assert_eq!(report.resources[OBJECT_STORE_MEMORY], Amounts { used: Some(1024.0), total: 8192.0 });

        let text = human(&report);
        for part in [
            "cluster rays at h:1, up 1 min 1 s\n2 nodes alive, 1 dead, 0 jobs running",
            "c is dead: it was silent for 5 s",
            "a is labelled zone=a\n",
            "1.5/4",
            "1.0/4.0 KiB",
            "3 x train, needs GPU 1, asked of a",
            "can never run here: no node has GPU 1",
            "a has 3.0 MiB of 1.0 GiB on disk\n    spilled 5.0 MiB in 2 objects, restored 0 B in 0 objects",
            "waiting for room in memory: 1 object",
            "a refused 2 strangers\n  last: 10.0.0.9:17 (silence)",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }

    #[test]
    fn people_need_no_more_than_80_columns() {
        let mut status = status();
        for (node, custom) in status.view.nodes.iter_mut().zip([None, Some("license"), Some("camera")]) {
            let gib = f64::from(1 << 30);
            let mut total = Resources::new();
            for (name, amount) in [(CPU, 128.0), (GPU, 8.0), (MEMORY, 503.7 * gib), (OBJECT_STORE_MEMORY, 151.2 * gib)]
            {
                total = total.with(name, amount).unwrap();
            }
            if let Some(custom) = custom {
                total = total.with(custom, 2.0).unwrap();
            }
            (node.available, node.total) = (total.clone().with(CPU, 0.5).unwrap(), total);
            node.name = "ip-10-0-255".to_owned();
        }
        let report = Report::new("127.0.0.1:16380", &status, &[]);
        let text = human(&report);
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{line}\n{text}");
        }
        let dead = text.lines().find(|line| line.contains("DEAD")).unwrap();
        assert!(!dead.contains('/') && dead.matches(" -").count() == 4, "{dead}\n{text}");
        assert!(
            text.contains("127.5/128") && text.contains("ip-10-0-255 has license 0/2") && text.contains("0/503.7 GiB"),
            "{text}"
        );
        let nodes = node_table(&report.nodes[..2]).to_string();
        assert!(nodes.lines().all(|line| line.chars().count() <= 80), "{nodes}");
    }

    #[test]
    fn programs_get_used_total_and_reasons() {
        let report = Report::new("h:1", &status(), &[]);
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["resources"]["CPU"]["used"], 3.0);
        assert_eq!(json["nodes"][2]["state"], "DEAD");
        assert_eq!(json["nodes"][2]["resources"]["CPU"], serde_json::json!({ "used": null, "total": 4.0 }));
        assert_eq!(json["nodes"][0]["resources"]["CPU"]["total"], 4.0);
        assert_eq!(json["nodes"][0]["refused"]["total"], 0);
        assert_eq!(json["pending"][0]["demand"]["GPU"], 1.0);
        assert_eq!(json["pending"][0]["reason"], "no node has GPU 1");
    }
}
