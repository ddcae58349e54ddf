//! Collectives: groups of tasks and actors, and what becomes of them when a member is lost.

use std::time::Duration;

use mobula::collective::{Group, GroupConfig, GroupError, ReduceOp};
use mobula::{Error, ObjectRef, get, remote};

use crate::gate::{Tally, count, tally_of, wait_until};
use crate::{Scenario, everywhere, on_cluster};

pub(crate) const SCENARIOS: &[Scenario] = &[
    everywhere("every member gets every result", results),
    everywhere("members that wait lend their CPU", lends_its_cpu),
    everywhere("actors keep their group from call to call", actors),
    everywhere("the driver may be a member", driver),
    everywhere("a group that a member leaves is formed anew", leaves),
    everywhere("members that disagree are all told", disagrees),
    everywhere("who does not come is named", missing),
    everywhere("groups of the same name follow each other", one_after_the_other),
    on_cluster("large data cross the network as they cross memory", over_the_network),
    on_cluster("a killed member is named to all, and a new group forms", killed),
];

/// Generous, since it only matters when something is broken.
const WITHIN: Duration = Duration::from_secs(60);

fn config(name: &str, world: u32, rank: u32) -> GroupConfig {
    GroupConfig::new(name, world, rank).join_timeout(WITHIN).patience(WITHIN)
}

#[remote]
fn makes_all_calls(name: String, world: u32, rank: u32) -> Result<u64, GroupError> {
    let mut group = Group::join(config(&name, world, rank))?;
    let mut sums: Vec<i64> = (0..10_000).map(|number| number * i64::from(rank + 1)).collect();
    group.allreduce(&mut sums, ReduceOp::Sum)?;
    let times = i64::from(world * (world + 1) / 2);
    assert!((0..).zip(&sums).all(|(number, sum)| *sum == number * times));

    let share = group.reduce_scatter(&[f64::from(rank); 11], ReduceOp::Max)?;
    assert_eq!(group.all_gather(&share)?, [f64::from(world - 1); 11]);

    let mut word = [u64::from(rank); 3];
    group.broadcast(&mut word, world - 1)?;
    assert_eq!(word, [u64::from(world - 1); 3]);

    group.send(&[rank as i32], (rank + 1) % world)?;
    assert_eq!(group.recv::<i32>((rank + world - 1) % world)?, [((rank + world - 1) % world) as i32]);
    group.barrier()?;
    Ok(word[0])
}

fn all_members(name: &str, world: u32) {
    let members: Vec<_> =
        (0..world).map(|rank| makes_all_calls.options().spread().remote(name.to_owned(), world, rank)).collect();
    assert_eq!(get(&members).expect("all calls succeed"), vec![u64::from(world - 1); world as usize]);
}

fn results() {
    all_members("results", 4);
}

/// More members than there are CPUs, one for each.
fn lends_its_cpu() {
    let cpus = mobula::cluster_resources().expect("a session")["CPU"] as u32;
    all_members("crowd", cpus + 3);
}

fn one_after_the_other() {
    for _ in 0..10 {
        all_members("again", 3);
    }
}

struct Member {
    group: Option<Group>,
    rank: u32,
}

#[remote]
impl Member {
    fn new(rank: u32) -> Self {
        Self { group: None, rank }
    }

    fn join(&mut self, name: String, world: u32) -> Result<u32, GroupError> {
        // The one before is left first.
        self.group = None;
        self.group = Some(Group::join(config(&name, world, self.rank))?);
        Ok(std::process::id())
    }

    fn leave(&mut self) {
        self.group = None;
    }

    fn sum(&mut self, entered: String, len: u64) -> Result<f32, GroupError> {
        count(&entered);
        let mut data = vec![self.rank as f32; len as usize];
        self.group.as_mut().expect("it has joined").allreduce(&mut data, ReduceOp::Sum)?;
        Ok(data[0])
    }
}

fn joined(members: &[MemberHandle], name: &str) -> Vec<u32> {
    let world = members.len() as u32;
    let joins: Vec<_> = members.iter().map(|member| member.join().remote(name.to_owned(), world)).collect();
    get(&joins).expect("the group forms")
}

fn sums(members: &[MemberHandle], entered: &Tally, len: u64) -> Vec<ObjectRef<f32>> {
    members.iter().map(|member| member.sum().remote(entered.path(), len)).collect()
}

/// All of these calls failed for the reason whose message holds `why`.
#[track_caller]
fn all_failed(calls: &[ObjectRef<f32>], why: &str) {
    for call in calls {
        match get(call) {
            Err(Error::Application { type_name, message, .. }) => {
                assert!(type_name.ends_with("GroupError"), "{type_name}");
                assert!(message.contains(why), "{message}");
            }
            other => panic!("expected an error with {why:?}, not {other:?}"),
        }
    }
}

fn actors() {
    let entered = Tally::new();
    let members: Vec<_> = (0..3).map(Member::remote).collect();
    joined(&members, "actors");
    for len in [1, 5_000, 2, 300_000] {
        assert_eq!(get(&sums(&members, &entered, len)).expect("they agree"), [3.0; 3]);
    }
}

fn driver() {
    let tasks: Vec<_> = (1..3).map(|rank| makes_all_calls.remote("driver", 3, rank)).collect();
    let mut group = Group::join(config("driver", 3, 0)).expect("the tasks come");
    let mut sums: Vec<i64> = (0..10_000).collect();
    group.allreduce(&mut sums, ReduceOp::Sum).expect("they agree");
    assert!((0..).zip(&sums).all(|(number, sum)| *sum == number * 6));
    // Its part in the other calls is not taken: they are told.
    drop(group);
    for task in &tasks {
        assert!(matches!(get(task), Err(Error::Application { message, .. }) if message.contains("rank 0 has left")));
    }
}

fn leaves() {
    let entered = Tally::new();
    let members: Vec<_> = (0..3).map(Member::remote).collect();
    joined(&members, "left");
    let waiting = sums(&members[..2], &entered, 100);
    wait_until("two members to be in their call", || entered.get() == 2);
    get(&members[2].leave().remote()).expect("it may leave");
    all_failed(&waiting, "rank 2 has left the group");
    joined(&members, "left");
    assert_eq!(get(&sums(&members, &entered, 100)).expect("a new group"), [3.0; 3]);
}

fn disagrees() {
    let entered = Tally::new();
    let members: Vec<_> = (0..3).map(Member::remote).collect();
    joined(&members, "odd");
    let mut calls = sums(&members[..2], &entered, 100);
    calls.extend(sums(&members[2..], &entered, 99));
    all_failed(&calls, "disagree");
    joined(&members, "odd");
    assert_eq!(get(&sums(&members, &entered, 99)).expect("a new group"), [3.0; 3]);
}

#[remote]
fn only_joins(here: String, world: u32, rank: u32) -> Result<u32, GroupError> {
    count(&here);
    // What is measured is how long they wait for the others, not for a worker.
    wait_until("both to be here", || tally_of(&here) == 2);
    let group = Group::join(config("few", world, rank).join_timeout(Duration::from_secs(2)))?;
    Ok(group.rank())
}

fn missing() {
    let here = Tally::new();
    let come: Vec<_> = [0, 2].into_iter().map(|rank| only_joins.remote(here.path(), 4, rank)).collect();
    for member in &come {
        match get(member) {
            Err(Error::Application { message, .. }) => assert!(message.contains("ranks [1, 3]"), "{message}"),
            other => panic!("expected the missing ranks, not {other:?}"),
        }
    }
}

#[remote]
fn sums_up(name: String, world: u32, rank: u32, shared: bool) -> Result<u64, GroupError> {
    let mut group = Group::join(config(&name, world, rank).shared_memory(shared))?;
    // 8 MiB: many pieces per link.
    let mut data: Vec<f32> = (0..2 << 20).map(|at| (at % 1000) as f32 / (rank + 1) as f32).collect();
    group.allreduce(&mut data, ReduceOp::Sum)?;
    Ok(data.iter().fold(0_u64, |hash, number| hash.rotate_left(5) ^ u64::from(number.to_bits())))
}

fn over_the_network() {
    let mut hashes = Vec::new();
    for shared in [true, false] {
        let task = sums_up.options().process_worker().spread();
        let members: Vec<_> = (0..3).map(|rank| task.remote(format!("large-{shared}"), 3, rank, shared)).collect();
        hashes.extend(get(&members).expect("the sums arrive"));
    }
    assert!(hashes.iter().all(|hash| *hash == hashes[0]), "the same bits everywhere, on either way: {hashes:?}");
}

fn killed() {
    let entered = Tally::new();
    let start = |rank| Member::options().num_cpus(0.0).process_worker().remote(rank);
    let mut members: Vec<_> = (0..4).map(start).collect();
    let processes = joined(&members, "fragile");
    assert_eq!(get(&sums(&members, &entered, 1 << 20)).expect("all live"), [6.0; 4]);

    let others = || members.iter().enumerate().filter(|(rank, _)| *rank != 2).map(|(_, member)| member.clone());
    let waiting = sums(&others().collect::<Vec<_>>(), &entered, 1 << 20);
    wait_until("three members to be in their call", || entered.get() == 7);
    let killed = std::process::Command::new("kill").args(["-KILL", &processes[2].to_string()]).status();
    assert!(killed.expect("kill can be started").success());
    all_failed(&waiting, "rank 2 of the group died");

    members[2] = start(2);
    joined(&members, "fragile");
    assert_eq!(get(&sums(&members, &entered, 1 << 20)).expect("a new group"), [6.0; 4]);
}
