//! What tasks and actors need is counted, in fractions too; a node never runs more than it has.
//!
//! ```text
//! cargo run --example resources
//! ```

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use mobula::{Config, Error, available_resources, cluster_resources, get, get_timeout, remote};

static RUNNING: AtomicU32 = AtomicU32::new(0);

/// How many of these ran at once while this one did. All tasks run in this process, so a static
/// can count them.
#[remote]
fn neighbours() -> u32 {
    let running = RUNNING.fetch_add(1, Ordering::SeqCst) + 1;
    std::thread::sleep(Duration::from_millis(5));
    RUNNING.fetch_sub(1, Ordering::SeqCst);
    running
}

/// Half a GPU each, for as long as it lives.
struct Model {
    name: String,
}

#[remote]
impl Model {
    fn new(name: String) -> Self {
        Self { name }
    }

    fn predict(&self, x: f64) -> String {
        format!("{} says {}", self.name, x * 2.0)
    }
}

#[mobula::main]
fn main() -> Result<(), Error> {
    // What the machine really has does not matter here: resources are numbers to count with.
    let config = Config::default().num_cpus(2.0).num_gpus(1.0).resource("tape_drive", 1.0);
    let session = mobula::init(config)?;
    println!("the cluster has {:?}", cluster_resources()?);

    for (cpus, at_most) in [(1.0, 2), (0.5, 4), (2.0, 1)] {
        let tasks: Vec<_> = (0..24).map(|_| neighbours.options().num_cpus(cpus).remote()).collect();
        let most = get(&tasks)?.into_iter().max().unwrap_or(0);
        println!("tasks of {cpus} CPU: never more than {most} at once");
        assert!(most <= at_most);
    }

    // Two models share the one GPU; a third waits until one of them is gone.
    let models = ["left", "right"].map(|name| Model::options().num_gpus(0.5).remote(name));
    for model in &models {
        println!("{}", get(model.predict().remote(21.0))?);
    }
    // The head hears what is free once a second.
    std::thread::sleep(Duration::from_millis(1_100));
    println!("with two models alive, free: {:?}", available_resources()?);
    let third = Model::options().num_gpus(0.5).remote("third");
    let waiting = third.predict().remote(1.0);
    if let Err(Error::TimedOut { .. }) = get_timeout(&waiting, Duration::from_millis(200)) {
        println!("the third model waits for half a GPU");
    }
    drop(models);
    println!("{}", get(&waiting)?);

    // Resources can be anything: this one says that only one task at a time has the tape drive.
    let tapes: Vec<_> =
        (0..4).map(|_| neighbours.options().num_cpus(0.0).resource("tape_drive", 1.0).remote()).collect();
    println!("on the tape drive, one at a time: {:?}", get(&tapes)?);

    session.shutdown();
    Ok(())
}
