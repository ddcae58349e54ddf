//! What must hold at the end, when everything has healed: I6 to I8 of ARCHITECTURE.md.

use super::message::Timer;
use super::process::SECOND;
use super::record::Stats;
use super::scenario::Scenario;
use super::world::World;

/// How long after the last fault all that was submitted must have ended, in simulated time. The
/// longest wait of the system itself is for nodes that do not come back after the head's restart,
/// and the longest pause between two questions for work in doubt is a minute.
const PATIENCE_US: u64 = 240 * SECOND;
/// How long idle leases, actors and groups may take to go.
const CLEANING_US: u64 = 120 * SECOND;
/// With more events something goes round in circles.
const MAX_EVENTS: u64 = 500_000;
/// How often it is looked.
const LOOK_US: u64 = SECOND;

/// Runs a scenario to its end.
pub(super) fn run(scenario: &Scenario, trace: bool) -> Result<Stats, String> {
    let mut world = World::new(scenario, trace);
    let last = scenario.faults.iter().map(|(at_us, _)| *at_us).max().unwrap_or(0) + super::faults::LONGEST_US;
    // I6: every wait ends.
    world.until(last + PATIENCE_US, |world| {
        let open = world.drivers().find(|driver| !driver.is_done());
        open.map(|driver| format!("I6: driver {} waits in vain: {}", driver.index, driver.describe()))
    })?;
    world.pass(last)?;
    // I7: what nobody uses is given back, and all agree on it.
    world.until(world.now_us + CLEANING_US, |world| world.disagreement(false))?;
    let drivers: Vec<_> = world.drivers().map(|driver| driver.addr()).collect();
    for driver in drivers {
        world.timer(driver.id, Timer::Farewell);
    }
    // I8: nothing is left of what nobody wants.
    world.until(world.now_us + CLEANING_US, |world| world.disagreement(true))?;
    Ok(world.record.stats)
}

impl World {
    /// Goes on until nothing is amiss any more.
    fn until(&mut self, deadline_us: u64, amiss: impl Fn(&Self) -> Option<String>) -> Result<(), String> {
        while let Some(why) = amiss(self) {
            if self.now_us > deadline_us {
                return Err(format!("at {} us: {why}", self.now_us));
            }
            self.pass(self.now_us + LOOK_US)?;
        }
        Ok(())
    }

    /// Lets time pass.
    fn pass(&mut self, until_us: u64) -> Result<(), String> {
        while self.now_us < until_us {
            if !self.step() {
                return Err("nothing happens any more".to_owned());
            }
            if self.record.stats.events > MAX_EVENTS {
                return Err(format!("at {} us: I6: too much happens, and nothing ends", self.now_us));
            }
            if let Some(violation) = self.record.violation.take() {
                return Err(violation);
            }
        }
        Ok(())
    }

    /// What raylets, workers and the head do not agree on; with `empty`, also what should be gone.
    fn disagreement(&self, empty: bool) -> Option<String> {
        let Some(head) = self.head() else { return Some("I7: there is no head".to_owned()) };
        let view = head.core.view();
        let alive: Vec<_> = view.nodes.iter().filter(|node| node.alive).collect();
        if alive.len() != self.nodes().count() {
            return Some(format!("I7: the head knows {} living nodes", alive.len()));
        }
        let actors = head.core.list_actors();
        for node in self.nodes() {
            let name = node.machine;
            let Some(known) = alive.iter().find(|known| known.node == node.id) else {
                return Some(format!("I7: the head does not know node {name}"));
            };
            if known.available != *node.core.available() || known.total != *node.core.total() {
                let (known, free) = (&known.available, node.core.available());
                return Some(format!("I7: the head believes that node {name} has {known:?} free, it has {free:?}"));
            }
            for other in self.nodes().filter(|other| other.id != node.id) {
                let Some(seen) = other.core.remote_nodes().find(|seen| seen.node == node.id) else {
                    return Some(format!("I7: node {} does not know node {name}", other.machine));
                };
                if seen.available != *node.core.available() || seen.total != *node.core.total() {
                    let (seen, free) = (&seen.available, node.core.available());
                    return Some(format!(
                        "I7: node {} believes that node {name} has {seen:?} free, it has {free:?}",
                        other.machine
                    ));
                }
            }
            for hosted in node.core.hosted_actors() {
                let living = actors.iter().find(|known| known.actor == hosted.actor);
                if living.is_none_or(|known| known.state != "ALIVE") {
                    return Some(format!("I8: node {name} keeps a lease for {hosted:?}, which is {living:?}"));
                }
            }
            if let Some(lease) = node.core.task_leases().first() {
                return Some(format!("I7: nobody has given back {lease:?} of node {name}"));
            }
            let pending = node.core.pending(node.now(self.now_us));
            if !pending.is_empty() {
                return Some(format!("I7: node {name} holds needs that nobody has: {pending:?}"));
            }
            let held = node.core.held_bundles();
            if empty && (!held.is_empty() || *node.core.available() != node.total || *node.core.total() != node.total) {
                return Some(format!("I8: node {name} is not free: {held:?}, {:?}", node.core));
            }
        }
        for actor in &actors {
            let living = actor.state == "ALIVE";
            if !living && actor.state != "DEAD" {
                return Some(format!("I6: an actor waits in vain: {actor:?}"));
            }
            if empty && living {
                return Some(format!("I8: an actor is left: {actor:?}"));
            }
            let cells: Vec<u32> = self
                .workers()
                .filter_map(|worker| worker.actors.get(&actor.actor))
                .filter(|cell| cell.ended.is_none())
                .map(|cell| cell.incarnation)
                .collect();
            if cells.len() != usize::from(living) {
                return Some(format!("I3: {actor:?} lives in {} workers: {cells:?}", cells.len()));
            }
        }
        let groups = head.core.list_groups();
        if let Some(left) = groups.iter().find(|left| empty || left.state != "CREATED") {
            return Some(format!("I8: a placement group is left: {left:?}"));
        }
        for worker in self.workers() {
            if !worker.is_idle() || !worker.client.is_idle() {
                return Some("I7: a worker runs what nobody waits for".to_owned());
            }
        }
        None
    }
}
