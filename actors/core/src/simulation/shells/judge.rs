//! Runs a scenario to its end, and looks whether the rules hold when everything has healed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mobula_transport::{Address, Endpoint, EndpointConfig, MailboxId, Message, Payload};
use tokio::time::Instant;

use super::cluster::Cluster;
use super::driver::{Driver, Phase};
use super::functions;
use crate::messages::{
    ExplainTask, GetClusterStatus, ListActors, ListGroups, ListPendingTasks, ListTasks, ListWorkers, OwnedTask,
};
use crate::simulation::faults::LONGEST_US;
use crate::simulation::record::Stats;
use crate::simulation::scenario::Scenario;
use crate::simulation::world::NODES;
use crate::store::messages::ObjectState;

/// How long after the last fault all that was submitted must have ended.
const PATIENCE: Duration = Duration::from_secs(240);
/// How long what nobody uses may take to go.
const CLEANING: Duration = Duration::from_secs(180);
/// How often it is looked.
const LOOK: Duration = Duration::from_secs(1);
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Waiting tasks that are told of.
const LISTED: u32 = 20;
/// Numbers of tasks that a driver is asked for.
const ASKED_FOR: u64 = 1000;

/// Runs a scenario; must be called where [`mobula_transport::sim::block_on`] runs it.
pub(super) async fn run(scenario: &Scenario) -> Result<Stats, String> {
    static NUMBER: AtomicU64 = AtomicU64::new(1);
    let cluster = Cluster::start(NUMBER.fetch_add(1, Ordering::Relaxed), scenario);
    functions::admit(&cluster);
    let judge = Judge {
        asking: cluster.network().endpoint(EndpointConfig::default()).expect("the simulated network refuses nobody"),
        cluster,
    };
    let outcome = judge.run(scenario).await;
    functions::dismiss(judge.cluster.number());
    outcome
}

struct Judge {
    cluster: Cluster,
    /// Asks in the name of the judge, whom nothing is kept from.
    asking: Endpoint,
}

impl Judge {
    async fn run(&self, scenario: &Scenario) -> Result<Stats, String> {
        // The cluster stands when the programs begin.
        tokio::time::sleep(LOOK).await;
        let programs = scenario.programs.iter().enumerate();
        let drivers: Vec<Driver> =
            programs.map(|(index, program)| Driver::start(&self.cluster, index, program.clone())).collect();
        self.cluster.drivers_are(&drivers);
        for (at_us, fault) in scenario.faults.clone() {
            let cluster = self.cluster.clone();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_micros(at_us)).await;
                cluster.inflict(&fault);
            });
        }
        let last_us = scenario.faults.iter().map(|(at_us, _)| *at_us).max().unwrap_or(0) + LONGEST_US;
        let healed = Instant::now() + Duration::from_micros(last_us);
        // I6: every wait ends.
        if let Err(why) = self.until(healed + PATIENCE, async || Self::not_yet(&drivers, &Phase::Done)).await {
            return Err(format!("{why}\n{}", self.of_waiting(scenario, &drivers).await));
        }
        tokio::time::sleep_until(healed).await;
        self.until(Instant::now() + CLEANING, async || self.disagreement().await).await?;
        // I7 and I8: what nobody uses is given back, and nothing is left of what nobody wants.
        drivers.iter().for_each(|driver| driver.go_to(Phase::Free));
        self.until(Instant::now() + CLEANING, async || {
            Self::not_yet(&drivers, &Phase::Free).or(self.left_over().await)
        })
        .await?;
        drivers.iter().for_each(|driver| driver.go_to(Phase::Over));
        self.until(Instant::now() + CLEANING, async || {
            Self::not_yet(&drivers, &Phase::Over).or(self.open_jobs().await)
        })
        .await?;
        Ok(self.cluster.record().lock().stats)
    }

    /// Goes on until nothing is amiss any more.
    async fn until(&self, deadline: Instant, amiss: impl AsyncFn() -> Option<String>) -> Result<(), String> {
        let begun = Instant::now();
        while let Some(why) = amiss().await {
            self.cluster.record().lock().now_us = begun.elapsed().as_micros() as u64;
            if Instant::now() > deadline {
                return Err(why);
            }
            tokio::time::sleep(LOOK).await;
            if let Some(violation) = self.cluster.record().lock().violation.take() {
                return Err(violation);
            }
        }
        match self.cluster.record().lock().violation.take() {
            Some(violation) => Err(violation),
            None => Ok(()),
        }
    }

    fn not_yet(drivers: &[Driver], phase: &Phase) -> Option<String> {
        let open = drivers.iter().find(|driver| !driver.is(phase))?;
        Some(format!("I6: driver {} waits in vain: {:?}", open.index, open.phase()))
    }

    /// What those wait for who wait, and what the processes say of it.
    async fn of_waiting(&self, scenario: &Scenario, drivers: &[Driver]) -> String {
        let mut told = Vec::new();
        for driver in drivers {
            if let Phase::Awaiting(n) = driver.phase() {
                told.push(format!("{:?}", scenario.programs[driver.index].actions[n]));
                let client = Address { process: driver.process, mailbox: MailboxId::CLIENT };
                let pending = self.ask_at(client, ListPendingTasks { limit: LISTED }).await;
                told.push(format!("driver {}: {pending:?}", driver.process));
                for seq in 1..ASKED_FOR {
                    match self.ask_at(client, ExplainTask { seq }).await {
                        Ok(OwnedTask::Pending(task)) => told.push(format!("its task {seq}: {task:?}")),
                        Ok(OwnedTask::Unknown) | Err(_) => break,
                        Ok(_) => {}
                    }
                }
            }
        }
        for node in self.cluster.nodes() {
            let workers = self.ask_at(node.parts.raylet(), ListWorkers).await;
            told.push(format!("{}: {workers:?}", node.parts.info().name));
        }
        for process in self.cluster.workers().addresses() {
            let tasks = self.ask_at(Address { process, mailbox: MailboxId::WORKER }, ListTasks).await;
            let open = tasks.map(|tasks| tasks.into_iter().filter(|task| task.state != "FINISHED").collect::<Vec<_>>());
            told.push(format!("worker {process}: {open:?}"));
        }
        told.join("\n")
    }

    async fn ask_at<M: Message>(&self, to: Address, message: M) -> Result<M::Reply, String> {
        let answer = self.asking.request(to, message, Payload::new(), ANSWER_WITHIN).await;
        answer.map(|(reply, _)| reply).map_err(|error| format!("{to} does not answer: {error}"))
    }

    async fn ask<M: Message>(&self, message: M) -> Result<M::Reply, String> {
        self.ask_at(self.cluster.gcs(), message).await
    }

    /// What head and workers do not agree on.
    async fn disagreement(&self) -> Option<String> {
        self.compare().await.err()
    }

    async fn compare(&self) -> Result<(), String> {
        let status = self.ask(GetClusterStatus).await?;
        let alive = status.view.nodes.iter().filter(|node| node.alive).count();
        if alive != NODES {
            return Err(format!("I7: the head knows {alive} living nodes"));
        }
        if let Some(pending) = status.pending.first() {
            return Err(format!("I7: somebody waits: {pending:?}"));
        }
        let mut living = BTreeMap::new();
        for (actor, _) in self.cluster.workers().hosted() {
            *living.entry(actor).or_insert(0) += 1;
        }
        for actor in self.ask(ListActors).await? {
            let expected = match actor.state.as_str() {
                "ALIVE" => 1,
                "DEAD" => 0,
                _ => return Err(format!("I6: an actor waits in vain: {actor:?}")),
            };
            let found = living.remove(&actor.actor).unwrap_or(0);
            if found != expected {
                return Err(format!("I3: {actor:?} lives {found} times"));
            }
        }
        match living.pop_first() {
            Some((actor, _)) => Err(format!("I3: {actor} lives, and the head does not know it")),
            None => Ok(()),
        }
    }

    /// What is left when nobody holds anything any more.
    async fn left_over(&self) -> Option<String> {
        self.look_for_rests().await.err()
    }

    async fn look_for_rests(&self) -> Result<(), String> {
        let status = self.ask(GetClusterStatus).await?;
        for node in status.view.nodes.iter().filter(|node| node.alive) {
            if node.available != node.total {
                return Err(format!("I8: of {} {} is free, of {}", node.name, node.available, node.total));
            }
        }
        if let Some(actor) = self.ask(ListActors).await?.iter().find(|actor| actor.state != "DEAD") {
            return Err(format!("I8: an actor is left: {actor:?}"));
        }
        if let Some(group) = self.ask(ListGroups).await?.first() {
            return Err(format!("I8: a placement group is left: {group:?}"));
        }
        for node in self.cluster.nodes() {
            let objects = node.parts.store().client().list(1000).await.map_err(|error| error.to_string())?;
            // Nobody tells a copy whose source has died that it is not needed; it goes when room is.
            let is_rest = |state| self.cluster.record().lock().is_calm() || state != ObjectState::Copy;
            if let Some(object) = objects.iter().find(|object| object.pins > 0 || is_rest(object.state)) {
                let name = &node.parts.info().name;
                return Err(format!("I8: an object is left in the store of {name}: {object:?}"));
            }
        }
        Ok(())
    }

    async fn open_jobs(&self) -> Option<String> {
        match self.ask(GetClusterStatus).await {
            Ok(status) => {
                let open = status.jobs.iter().find(|job| job.ended_unix_s.is_none())?;
                Some(format!("I8: a job is left: {open:?}"))
            }
            Err(why) => Some(why),
        }
    }
}
