//! `mobula list`: what there is of one kind, in the whole cluster.

use std::collections::BTreeMap;

use clap::{Args, ValueEnum};
use mobula_core::messages::{
    ActorInfo, ClusterStatus, GroupInfo, ListActors, ListGroups, ListPendingTasks, ListTasks, ListWorkers, NodeInfo,
    TaskInfo, WorkerInfo,
};
use mobula_core::resources::Resources;
use mobula_core::store::messages::{ListObjects, ObjectSummary, STORE_SHARD_BASE, STORE_SHARDS};
use mobula_transport::{Address, MailboxId, ProcessAddr, SendError};
use serde::Serialize;

use crate::cluster::{Cluster, ClusterArgs};
use crate::error::CliError;
use crate::output::{self, Format, Table, bytes, table};
use crate::status::{node_table, nodes_of};

/// What `mobula list` is given.
#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    /// What to list
    #[arg(value_enum)]
    kind: Kind,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// What to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// At most so many objects of each node, and tasks that wait in each process
    #[arg(long, default_value_t = 1000)]
    limit: u32,
}

/// What can be listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Machines, or parts of one
    Nodes,
    /// Actors, dead ones too for a while
    Actors,
    /// Tasks and calls that wait, run, or ended lately; with a job go its workers, and the tasks that
    /// they remember
    Tasks,
    /// Objects in the nodes' stores; small values travel in messages and are not there
    Objects,
    /// Processes that run tasks and actors
    Workers,
    /// Placement groups
    PlacementGroups,
}

/// Runs the command.
pub(crate) fn run(args: &ListArgs) -> Result<(), CliError> {
    let cluster = Cluster::connect(&args.cluster)?;
    let status = cluster.status()?;
    match args.kind {
        Kind::Nodes => {
            let nodes = nodes_of(&cluster, &status);
            show(args.format, &nodes, node_table)
        }
        Kind::Actors => {
            let actors: Vec<_> = cluster.ask_gcs(ListActors)?.iter().map(Actor::new).collect();
            show(args.format, &actors, actor_table)
        }
        Kind::Workers => {
            let workers: Vec<_> = workers(&cluster, &status).iter().map(Worker::new).collect();
            show(args.format, &workers, worker_table)
        }
        Kind::PlacementGroups => {
            let groups: Vec<_> = cluster.ask_gcs(ListGroups)?.into_iter().map(Group::from).collect();
            show(args.format, &groups, group_table)
        }
        Kind::Tasks => {
            let tasks = tasks(&cluster, &status, args.limit);
            show(args.format, &tasks, task_table)
        }
        Kind::Objects => {
            let objects = objects(&cluster, &status, args.limit);
            show(args.format, &objects, object_table)
        }
    }
}

fn show<T: Serialize>(format: Format, rows: &[T], table: impl Fn(&[T]) -> Table) -> Result<(), CliError> {
    match format {
        Format::Json => output::print_json(rows),
        Format::Human => output::print(&table(rows).to_string()),
    }
}

// ---- asking ------------------------------------------------------------------------------------

fn alive(status: &ClusterStatus) -> impl Iterator<Item = &NodeInfo> {
    status.view.nodes.iter().filter(|node| node.alive)
}

/// What a process answered; one that does not answer is named on stderr, and the list goes on
/// without it.
fn answer<T>(what: &str, answer: Result<Vec<T>, SendError>) -> Vec<T> {
    answer.unwrap_or_else(|error| {
        eprintln!("mobula: {what} is missing from the list: {error}");
        Vec::new()
    })
}

fn workers(cluster: &Cluster, status: &ClusterStatus) -> Vec<WorkerInfo> {
    let of = |node: &NodeInfo| {
        let raylet = Address { process: node.process, mailbox: MailboxId::RAYLET };
        answer(&format!("node {}", node.name), cluster.ask(raylet, ListWorkers))
    };
    alive(status).flat_map(of).collect()
}

/// What waits at its owners, the drivers and the workers, and what the workers have.
fn tasks(cluster: &Cluster, status: &ClusterStatus, limit: u32) -> Vec<Task> {
    let at = |process: &ProcessAddr, mailbox| Address { process: *process, mailbox };
    let workers = workers(cluster, status);
    let workers: Vec<_> = workers.iter().filter(|worker| is_reachable(&worker.process)).collect();
    let drivers = status.jobs.iter().filter(|job| job.ended_unix_s.is_none());
    let drivers = drivers.map(|job| (format!("driver {}", job.name), job.driver));
    let mut owners: Vec<(String, ProcessAddr)> = drivers.collect();
    owners.extend(workers.iter().map(|worker| (format!("worker {}", worker.pid), worker.process)));
    let mut all = Vec::new();
    for (what, process) in &owners {
        all.extend(answer(what, cluster.ask(at(process, MailboxId::CLIENT), ListPendingTasks { limit })));
    }
    for worker in &workers {
        let what = format!("worker {}", worker.pid);
        all.extend(answer(&what, cluster.ask(at(&worker.process, MailboxId::WORKER), ListTasks)));
    }
    all.into_iter().map(Task::new).collect()
}

/// A worker that has not registered yet has no address.
fn is_reachable(process: &ProcessAddr) -> bool {
    process.socket.port() != 0
}

fn objects(cluster: &Cluster, status: &ClusterStatus, limit: u32) -> Vec<Object> {
    let mut all = Vec::new();
    for node in alive(status) {
        let mut here = Vec::new();
        for shard in 0..STORE_SHARDS {
            let mailbox = MailboxId(STORE_SHARD_BASE.0 + shard);
            let address = Address { process: node.process, mailbox };
            here.extend(answer(&format!("store of {}", node.name), cluster.ask(address, ListObjects { limit })));
        }
        here.sort_by_key(|object: &ObjectSummary| object.object);
        here.truncate(limit as usize);
        all.extend(here.iter().map(|object| Object::new(object, &node.name)));
    }
    all
}

// ---- rows --------------------------------------------------------------------------------------

#[derive(Debug, Serialize)]
struct Actor {
    actor: String,
    class: String,
    name: Option<String>,
    state: String,
    node: Option<String>,
    pid: Option<u32>,
    restarts: u32,
    reason: Option<String>,
    job: String,
}

impl Actor {
    fn new(actor: &ActorInfo) -> Self {
        Self {
            actor: actor.actor.to_string(),
            class: actor.class.clone(),
            name: actor.name.clone(),
            state: actor.state.clone(),
            node: actor.node.clone(),
            pid: actor.pid,
            restarts: actor.restarts,
            reason: actor.reason.clone(),
            job: actor.job.to_string(),
        }
    }
}

fn actor_table(actors: &[Actor]) -> Table {
    let mut rows = table(&["actor", "class", "name", "state", "node", ">pid", ">restarts", "reason"]);
    for actor in actors {
        rows.add_row([
            short(&actor.actor),
            actor.class.clone(),
            or_dash(actor.name.as_ref()),
            actor.state.clone(),
            or_dash(actor.node.as_ref()),
            or_dash(actor.pid.as_ref()),
            actor.restarts.to_string(),
            actor.reason.clone().unwrap_or_default(),
        ]);
    }
    rows
}

#[derive(Debug, Serialize)]
struct Group {
    group: String,
    name: Option<String>,
    strategy: String,
    state: String,
    bundles: Vec<Bundle>,
    reason: Option<String>,
}

/// A bundle, and the node it is on.
#[derive(Debug, Serialize)]
struct Bundle {
    resources: BTreeMap<String, f64>,
    node: Option<String>,
}

impl From<GroupInfo> for Group {
    fn from(info: GroupInfo) -> Self {
        let bundle = |(resources, node): (Resources, _)| Bundle { resources: resources.to_units(), node };
        Self {
            group: info.group.to_string(),
            name: info.name,
            strategy: info.strategy,
            state: info.state,
            bundles: info.bundles.into_iter().map(bundle).collect(),
            reason: info.reason,
        }
    }
}

fn group_table(groups: &[Group]) -> Table {
    let mut rows = table(&["group", "name", "strategy", "state", "bundles", "reason"]);
    for group in groups {
        let bundles = group.bundles.iter().map(|bundle| {
            let resources: Vec<String> =
                bundle.resources.iter().map(|(name, amount)| format!("{name} {amount}")).collect();
            format!("{} on {}", resources.join(", "), or_dash(bundle.node.as_ref()))
        });
        rows.add_row([
            short(&group.group),
            or_dash(group.name.as_ref()),
            group.strategy.clone(),
            group.state.clone(),
            bundles.collect::<Vec<_>>().join("\n"),
            group.reason.clone().unwrap_or_default(),
        ]);
    }
    rows
}

#[derive(Debug, Serialize)]
struct Worker {
    node: String,
    pid: u32,
    kind: String,
    state: String,
    leases: u32,
    gpus: Vec<String>,
    job: Option<String>,
    address: String,
}

impl Worker {
    fn new(worker: &WorkerInfo) -> Self {
        Self {
            node: worker.node.clone(),
            pid: worker.pid,
            kind: worker.kind.clone(),
            state: worker.state.clone(),
            leases: worker.leases,
            gpus: worker.gpus.clone(),
            job: worker.job.map(|job| job.to_string()),
            address: worker.process.socket.to_string(),
        }
    }
}

fn worker_table(workers: &[Worker]) -> Table {
    let mut rows = table(&["node", ">pid", "kind", "state", ">leases", "GPUs", "job"]);
    for worker in workers {
        rows.add_row([
            worker.node.clone(),
            worker.pid.to_string(),
            worker.kind.clone(),
            worker.state.clone(),
            worker.leases.to_string(),
            or_dash(Some(worker.gpus.join(",")).filter(|gpus| !gpus.is_empty()).as_ref()),
            worker.job.as_deref().map_or_else(|| "-".to_owned(), short),
        ]);
    }
    rows
}

#[derive(Debug, Serialize)]
struct Task {
    task: String,
    name: String,
    state: String,
    node: String,
    pid: u32,
    run_us: u64,
}

impl Task {
    fn new(task: TaskInfo) -> Self {
        let TaskInfo { task, name, state, node, pid, run_us } = task;
        Self { task, name, state, node, pid, run_us }
    }
}

fn task_table(tasks: &[Task]) -> Table {
    let mut rows = table(&["task", "name", "state", "node", ">pid", ">ran for"]);
    for task in tasks {
        rows.add_row([
            task.task.clone(),
            task.name.clone(),
            task.state.clone(),
            or_dash(Some(&task.node).filter(|node| !node.is_empty())),
            or_dash(Some(task.pid).filter(|pid| *pid > 0).as_ref()),
            format!("{:.3} s", task.run_us as f64 / 1e6),
        ]);
    }
    rows
}

#[derive(Debug, Serialize)]
struct Object {
    object: String,
    node: String,
    size_bytes: u64,
    state: &'static str,
    pins: u32,
    waiters: u32,
}

impl Object {
    fn new(object: &ObjectSummary, node: &str) -> Self {
        use mobula_core::store::messages::ObjectState;
        Self {
            object: object.object.to_string(),
            node: node.to_owned(),
            size_bytes: object.size_bytes,
            state: match object.state {
                ObjectState::Creating => "CREATING",
                ObjectState::Sealed => "SEALED",
                ObjectState::Copy => "COPY",
                ObjectState::Pulling => "PULLING",
                ObjectState::Spilled => "SPILLED",
            },
            pins: object.pins,
            waiters: object.waiters,
        }
    }
}

fn object_table(objects: &[Object]) -> Table {
    let mut rows = table(&["object", "node", ">size", "state", ">readers", ">waiting"]);
    for object in objects {
        rows.add_row([
            object.object.clone(),
            object.node.clone(),
            bytes(object.size_bytes as f64),
            object.state.to_owned(),
            object.pins.to_string(),
            object.waiters.to_string(),
        ]);
    }
    rows
}

/// The part of an id that people compare.
fn short(id: &str) -> String {
    id.chars().take(8).collect()
}

fn or_dash<T: ToString>(value: Option<&T>) -> String {
    value.map_or_else(|| "-".to_owned(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_a_row_for_each() {
        let tasks = [Task {
            task: "p-1".to_owned(),
            name: "add".to_owned(),
            state: "RUNNING".to_owned(),
            node: "n".to_owned(),
            pid: 5,
            run_us: 1_500,
        }];
        let text = task_table(&tasks).to_string();
        assert!(text.contains("RUNNING") && text.contains("0.002 s"), "{text}");
        assert_eq!(short("0123456789"), "01234567");
        assert_eq!(or_dash::<u32>(None), "-");
    }
}
