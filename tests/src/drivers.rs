//! Drivers that the tests of whole clusters need: busy ones, waiting ones, and one that loses a
//! node on the way.

use mobula::{Error, get, remote};

use crate::gate::{Gate, Tally, count, pass, wait_until};

/// A driver by its name.
pub(crate) fn find(name: &str) -> Option<fn() -> Result<(), Error>> {
    Some(match name {
        "busy" => busy,
        "late" => late,
        "waits" => waits,
        "survives" => survives,
        _ => return None,
    })
}

#[remote]
fn holds_its_cpu(tally: String, gate: String) -> u64 {
    let number = count(&tally);
    pass(&gate);
    number
}

fn cpus() -> Result<u64, Error> {
    Ok(mobula::cluster_resources()?["CPU"] as u64)
}

/// Keeps every CPU of the cluster busy until it is killed, or for as long as tasks wait.
fn busy() -> Result<(), Error> {
    let (tally, gate) = (Tally::new(), Gate::new());
    let cpus = cpus()?;
    let tasks: Vec<_> = (0..cpus).map(|_| holds_its_cpu.remote(tally.path(), gate.path())).collect();
    wait_until("work on every CPU", || tally.get() >= cpus);
    println!("busy");
    get(&tasks).map(drop)
}

#[remote]
fn same(number: u64) -> u64 {
    number
}

/// Has work before there is a node for it.
fn late() -> Result<(), Error> {
    let task = same.remote(5);
    println!("submitted");
    assert_eq!(get(&task)?, 5);
    Ok(())
}

#[remote(num_gpus = 16.0)]
fn needs_gpus() -> u64 {
    16
}

/// Waits for GPUs that nobody has.
fn waits() -> Result<(), Error> {
    let never = needs_gpus.remote();
    println!("waiting");
    get(&never).map(drop)
}

/// Has work on every CPU when it loses a node, and gets all of its results.
fn survives() -> Result<(), Error> {
    let (tally, gate) = (Tally::new(), Gate::new());
    let cpus = cpus()?;
    let living = || mobula::nodes().map_or(0, |nodes| nodes.iter().filter(|node| node.alive).count());
    let before = living();
    let tasks: Vec<_> = (0..cpus).map(|_| holds_its_cpu.remote(tally.path(), gate.path())).collect();
    wait_until("work on every CPU", || tally.get() >= cpus);
    println!("work under way");
    wait_until("a node to die", || living() < before);
    gate.open();
    let results = get(&tasks)?;
    assert_eq!(results.len() as u64, cpus);
    // One more run than tasks at least: that of the lost node was for nothing.
    assert!(tally.get() > cpus, "no task ran again");
    Ok(())
}
