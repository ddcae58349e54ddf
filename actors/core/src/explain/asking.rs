//! Asks those who know: the owner, the GCS, the workers.

use std::time::Duration;

use mobula_transport::{Address, Endpoint, MailboxId, Message, Payload, ProcessAddr, SendError};
use uuid::Uuid;

use super::ids::{TaskName, one_of};
use super::judge::{judge, summary};
use super::{ActorExplanation, BundleExplanation, PlacementGroupExplanation, TaskExplanation};
use crate::error::Error;
use crate::ids::{ActorId, PlacementGroupId};
use crate::messages::{
    ActorDetails, ClusterStatus, ExplainActor, ExplainTask, FailedTask, GetClusterStatus, GroupInfo, ListActors,
    ListGroups, ListTasks, ListWorkers, NodeInfo, OwnedTask, PendingTask, Strategy, TaskInfo, TaskStage, WorkerInfo,
};
use crate::resources::{Resources, group};

/// How long one question may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Explains tasks, actors and placement groups of a cluster. Its methods wait for answers: they are
/// for user threads.
#[derive(Debug)]
pub struct Explainer {
    endpoint: Endpoint,
    gcs: Address,
}

impl Explainer {
    /// One that asks through this endpoint.
    pub fn new(endpoint: Endpoint, gcs: Address) -> Self {
        Self { endpoint, gcs }
    }

    /// Explains a task or call that is named as lists name it.
    ///
    /// # Errors
    /// [`Error::Invalid`] when nobody knows it, saying what ids look like; the failure to reach
    /// who does.
    pub fn task(&self, name: &TaskName) -> Result<TaskExplanation, Error> {
        let status = self.status()?;
        let (owner, workers) = self.owner_of(name, &status)?;
        self.explain_task(name, owner, &status, Some(workers))
    }

    /// Explains a task or call of a known owner.
    ///
    /// # Errors
    /// As [`task`](Self::task).
    pub fn task_of(&self, owner: Address, seq: u64) -> Result<TaskExplanation, Error> {
        let name: TaskName = format!("{}-{seq}", owner.process.id).parse()?;
        self.explain_task(&name, owner, &self.status()?, None)
    }

    /// Explains an actor, given the beginning of its id.
    ///
    /// # Errors
    /// [`Error::Invalid`] when nobody knows it, saying what ids look like; the failure to reach
    /// the head.
    pub fn actor(&self, id: &str) -> Result<ActorExplanation, Error> {
        let id = match Uuid::parse_str(id) {
            Ok(id) => id,
            Err(_) => {
                let known = self.ask_gcs(ListActors)?;
                one_of(id, "an actor", "actors", known.iter().map(|info| info.actor.0))?
            }
        };
        self.actor_of(ActorId(id))
    }

    /// Explains this actor.
    ///
    /// # Errors
    /// As [`actor`](Self::actor).
    pub fn actor_of(&self, actor: ActorId) -> Result<ActorExplanation, Error> {
        let Some(details) = self.ask_gcs(ExplainActor { actor })? else {
            let what = format!(
                "the head knows no actor {actor}: it ended long ago, its constructor's arguments are not ready, or it \
                 never was; `mobula list actors` shows those that are known"
            );
            return Err(Error::Invalid { what });
        };
        Ok(self.explain_actor(details, &self.status()?.view.nodes))
    }

    /// Explains a placement group, given the beginning of its id.
    ///
    /// # Errors
    /// [`Error::Invalid`] when nobody knows it, saying what ids look like; the failure to reach
    /// the head.
    pub fn placement_group(&self, id: &str) -> Result<PlacementGroupExplanation, Error> {
        let known = self.ask_gcs(ListGroups)?;
        let id = one_of(id, "a placement group", "placement-groups", known.iter().map(|info| info.group.0))?;
        self.explain_group(known, PlacementGroupId(id))
    }

    /// Explains this placement group.
    ///
    /// # Errors
    /// As [`placement_group`](Self::placement_group).
    pub fn placement_group_of(&self, group: PlacementGroupId) -> Result<PlacementGroupExplanation, Error> {
        self.explain_group(self.ask_gcs(ListGroups)?, group)
    }

    fn ask<M: Message>(&self, to: Address, message: M) -> Result<M::Reply, SendError> {
        self.endpoint.request_blocking(to, message, Payload::new(), ANSWER_WITHIN).map(|(reply, _)| reply)
    }

    fn ask_gcs<M: Message>(&self, message: M) -> Result<M::Reply, Error> {
        Ok(self.ask(self.gcs, message)?)
    }

    fn status(&self) -> Result<ClusterStatus, Error> {
        self.ask_gcs(GetClusterStatus)
    }

    /// All workers of the cluster that can be asked. Nodes that do not answer are left out.
    fn workers(&self, status: &ClusterStatus) -> Vec<WorkerInfo> {
        let alive = status.view.nodes.iter().filter(|node| node.alive);
        let raylets = alive.map(|node| Address { process: node.process, mailbox: MailboxId::RAYLET });
        raylets.flat_map(|raylet| self.ask(raylet, ListWorkers).unwrap_or_default()).collect()
    }
}

/// Tasks.
impl Explainer {
    /// The process that has submitted it: a driver, or a worker. The workers come along.
    fn owner_of(&self, name: &TaskName, status: &ClusterStatus) -> Result<(Address, Vec<WorkerInfo>), Error> {
        let client = |process: ProcessAddr| Address { process, mailbox: MailboxId::CLIENT };
        let workers = self.workers(status);
        let driver = status.jobs.iter().find(|job| name.is_of(job.driver.id));
        if let Some(ended) = driver.filter(|job| job.ended_unix_s.is_some()) {
            let what = format!(
                "task {name} was submitted by {}, which has ended, and with it what it knew of its tasks",
                ended.name
            );
            return Err(Error::Invalid { what });
        }
        let worker = workers.iter().find(|worker| name.is_of(worker.process.id));
        match driver.map(|job| job.driver).or(worker.map(|worker| worker.process)) {
            Some(process) => Ok((client(process), workers)),
            None => Err(Error::Invalid {
                what: format!(
                    "no program or worker {} is known that could have submitted task {name}: a task's id looks like \
                     1f3a2b4c-17, and `mobula list tasks` shows those that wait, run, or ended lately",
                    name.owner()
                ),
            }),
        }
    }

    fn explain_task(
        &self,
        name: &TaskName,
        owner: Address,
        status: &ClusterStatus,
        workers: Option<Vec<WorkerInfo>>,
    ) -> Result<TaskExplanation, Error> {
        let mut explained = TaskExplanation::new(name);
        match self.ask(owner, ExplainTask { seq: name.seq })? {
            OwnedTask::Unknown => {
                let what = format!(
                    "there is no task {name}: its owner has submitted none with this number; `mobula list tasks` \
                     shows those that wait, run, or ended lately"
                );
                return Err(Error::Invalid { what });
            }
            OwnedTask::Failed(failed) => explained.fill_failed(*failed),
            OwnedTask::Pending(pending) => self.explain_pending(&mut explained, name, *pending, status)?,
            OwnedTask::Over => {
                let workers = workers.unwrap_or_else(|| self.workers(status));
                let seen = workers.iter().find_map(|worker| self.seen_by(worker.process, name));
                explained.fill_over(seen);
            }
        }
        Ok(explained)
    }

    fn explain_pending(
        &self,
        explained: &mut TaskExplanation,
        name: &TaskName,
        pending: PendingTask,
        status: &ClusterStatus,
    ) -> Result<(), Error> {
        let PendingTask { function, name: given, attempts, demand, strategy, kind: _, actor, stage } = pending;
        explained.name = given.unwrap_or_else(|| plain(&function));
        explained.function = function;
        explained.attempts = attempts;
        explained.actor = actor.map(|actor| actor.to_string());
        let waits = !matches!(stage, TaskStage::Sent(..) | TaskStage::Cancelled);
        if waits && actor.is_none() {
            explained.demand = group::as_asked(&demand).to_units();
            explained.strategy = Some(strategy.to_string());
            explained.placement_group = group::group_of(&demand).map(|group| group.to_string());
        }
        match stage {
            TaskStage::Arguments(objects, count) => {
                explained.state = "PENDING_ARGS_AVAIL".to_owned();
                explained.waits_for = objects.iter().map(ToString::to_string).collect();
                explained.reason = Some(match count {
                    1 => "an argument is not ready".to_owned(),
                    count => format!("{count} arguments are not ready"),
                });
            }
            TaskStage::Line(ahead, queued) => {
                explained.state = "PENDING_NODE_ASSIGNMENT".to_owned();
                explained.ahead = Some(ahead);
                self.explain_line(explained, &demand, &strategy, queued, status)?;
            }
            TaskStage::Actor(ahead) => {
                explained.state = "PENDING_ACTOR".to_owned();
                explained.ahead = Some(ahead);
                explained.reason = Some(self.why_actor_waits(actor, ahead)?);
            }
            TaskStage::Cancelled => {
                explained.state = "CANCELLED".to_owned();
                explained.reason = Some("its results have failed; its code has not returned yet".to_owned());
            }
            TaskStage::Sent(worker, lease) => {
                explained.state = "SUBMITTED_TO_WORKER".to_owned();
                let node = lease.and_then(|lease| status.view.nodes.iter().find(|node| node.node == lease.node));
                explained.node = node.map(|node| node.name.clone());
                match self.seen_by(worker, name) {
                    Some(seen) => explained.fill_seen(seen),
                    None => explained.reason = Some("its worker is bringing its arguments, or has just ended".into()),
                }
            }
        }
        Ok(())
    }

    /// Why it waits for a lease, and what each node says to it.
    fn explain_line(
        &self,
        explained: &mut TaskExplanation,
        demand: &Resources,
        strategy: &Strategy,
        queued: u64,
        status: &ClusterStatus,
    ) -> Result<(), Error> {
        let asked = group::as_asked(demand);
        // A raylet that waits for more than room says what for; the name is that of its first task.
        let told = status.pending.iter().find(|pending| pending.demand == asked && pending.what == explained.name);
        let mut reason = match group::group_of(demand) {
            Some(id) => self.why_group_waits(id)?,
            None => {
                explained.nodes = judge(&status.view.nodes, demand, strategy);
                summary(&explained.nodes).to_owned()
            }
        };
        if let Some(told) = told.filter(|told| told.reason.contains("worker process")) {
            reason = told.reason.clone();
        }
        let ahead = explained.ahead.unwrap_or_default();
        if queued > 1 {
            reason.push_str(&format!("; {ahead} tasks of its shape come before it, of {queued} that wait"));
        }
        explained.reason = Some(reason);
        Ok(())
    }

    fn why_group_waits(&self, id: PlacementGroupId) -> Result<String, Error> {
        let groups = self.ask_gcs(ListGroups)?;
        Ok(match groups.into_iter().find(|info| info.group == id) {
            None => format!("placement group {id} is not there: it was removed, or is being made"),
            Some(info) if info.state == "CREATED" => {
                "the room of its placement group is in use: it waits until others in the group end".to_owned()
            }
            Some(info) => {
                let why = info.reason.map_or(String::new(), |reason| format!(": {reason}"));
                format!("its placement group is {}{why}", info.state)
            }
        })
    }

    fn why_actor_waits(&self, actor: Option<ActorId>, ahead: u64) -> Result<String, Error> {
        let details = match actor {
            Some(actor) => self.ask_gcs(ExplainActor { actor })?,
            None => None,
        };
        Ok(match details.map(|details| details.info) {
            None => "the arguments of the actor's constructor are not ready".to_owned(),
            Some(info) if info.state == "ALIVE" => match ahead {
                0 => "its actor was found just now".to_owned(),
                ahead => format!("{ahead} calls come before it, and one of them waits for its arguments"),
            },
            Some(info) => {
                let why = info.reason.map_or(String::new(), |reason| format!(": {reason}"));
                format!("its actor is {}{why}", info.state)
            }
        })
    }

    /// What a worker has seen of it: the latest attempt. One that does not answer has seen nothing.
    fn seen_by(&self, worker: ProcessAddr, name: &TaskName) -> Option<TaskInfo> {
        let address = Address { process: worker, mailbox: MailboxId::WORKER };
        let tasks = self.ask(address, ListTasks).ok()?;
        let name = name.to_string();
        let mine: Vec<TaskInfo> = tasks.into_iter().filter(|task| task.task == name).collect();
        // Those that run come before those that ended, the oldest end first.
        let running = mine.iter().position(|task| task.state == "RUNNING" || task.state == "QUEUED");
        let which = running.or_else(|| mine.len().checked_sub(1))?;
        mine.into_iter().nth(which)
    }
}

impl TaskExplanation {
    fn new(name: &TaskName) -> Self {
        Self {
            task: name.to_string(),
            name: String::new(),
            function: String::new(),
            state: String::new(),
            reason: None,
            attempts: None,
            demand: Default::default(),
            strategy: None,
            placement_group: None,
            actor: None,
            waits_for: Vec::new(),
            ahead: None,
            nodes: Vec::new(),
            node: None,
            pid: None,
            run_us: None,
            error: None,
        }
    }

    fn fill_failed(&mut self, failed: FailedTask) {
        let FailedTask { function, name, attempts, actor, error } = failed;
        if let Error::Application { place, .. } | Error::Panicked { place, .. } = &error {
            (self.node, self.pid) = (Some(place.node.clone()), Some(place.pid));
        }
        self.state = "FAILED".to_owned();
        self.name = name.unwrap_or_else(|| plain(&function));
        self.function = function;
        self.attempts = attempts;
        self.actor = actor.map(|actor| actor.to_string());
        self.error = Some(error.to_string());
    }

    fn fill_over(&mut self, seen: Option<TaskInfo>) {
        self.state = "FINISHED".to_owned();
        match seen {
            Some(seen) => self.fill_seen(seen),
            None => {
                let why = "it ended, and no worker remembers where; or a value was put under this number";
                self.reason = Some(why.to_owned());
            }
        }
    }

    fn fill_seen(&mut self, seen: TaskInfo) {
        let TaskInfo { task: _, name, state, node, pid, run_us } = seen;
        if state == "QUEUED" {
            self.reason = Some("its worker has it, and has not begun".to_owned());
        } else {
            self.state = state;
            self.run_us = Some(run_us);
        }
        (self.name, self.node, self.pid) = (name, Some(node), Some(pid));
    }
}

/// Actors and groups.
impl Explainer {
    fn explain_actor(&self, details: ActorDetails, nodes: &[NodeInfo]) -> ActorExplanation {
        let ActorDetails { info, owner: _, need, strategy, max_restarts, ahead } = details;
        let group = group::group_of(&need);
        let waits = ahead.is_some() && group.is_none();
        let nodes = if waits { judge(nodes, &need, &strategy) } else { Vec::new() };
        let reason = match (info.reason, waits) {
            (None, true) => Some(summary(&nodes).to_owned()),
            (reason, _) => reason,
        };
        ActorExplanation {
            actor: info.actor.to_string(),
            class: info.class,
            name: info.name,
            state: info.state,
            reason,
            restarts: info.restarts,
            max_restarts,
            demand: group::as_asked(&need).to_units(),
            strategy: strategy.to_string(),
            placement_group: group.map(|group| group.to_string()),
            ahead,
            nodes,
            node: info.node,
            pid: info.pid,
            job: info.job.to_string(),
        }
    }

    fn explain_group(&self, known: Vec<GroupInfo>, id: PlacementGroupId) -> Result<PlacementGroupExplanation, Error> {
        let Some(info) = known.into_iter().find(|info| info.group == id) else {
            let why = "it was removed, or never made; `mobula list placement-groups` shows those that are known";
            return Err(Error::GroupRemoved { group: id, why: why.to_owned() });
        };
        let nodes = self.status()?.view.nodes;
        let explain = |(resources, node): (Resources, Option<String>)| BundleExplanation {
            nodes: if node.is_none() { judge(&nodes, &resources, &Strategy::Default) } else { Vec::new() },
            resources: resources.to_units(),
            node,
        };
        Ok(PlacementGroupExplanation {
            group: info.group.to_string(),
            name: info.name,
            strategy: info.strategy,
            state: info.state,
            reason: info.reason,
            bundles: info.bundles.into_iter().map(explain).collect(),
            job: info.job.to_string(),
        })
    }
}

/// The last part of a function's registered name.
fn plain(function: &str) -> String {
    function.rsplit("::").next().unwrap_or(function).to_owned()
}
