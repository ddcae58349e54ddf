//! Drivers that the tests of whole clusters need: busy ones, waiting ones, and such that lose a node
//! or the head on the way.

use mobula::{
    Bundle, Config, Error, PlacementGroup, RemoteHandle, RuntimeEnv, Session, explain, get, get_actor, get_actor_in,
    remote,
};

use crate::dataset_failures;
use crate::gate::{Gate, Tally, count, folder, pass, wait_until};

/// A driver by its name.
pub(crate) fn find(name: &str) -> Option<fn() -> Result<(), Error>> {
    Some(match name {
        "busy" => busy,
        "late" => late,
        "waits" => waits,
        "unplaced" => unplaced,
        "bad-env" => bad_env,
        "survives" => survives,
        "bound" => bound,
        "ends-actors" => ends_actors,
        "goes-through" => goes_through,
        "leaves-keeper" => leaves_keeper,
        "finds-keeper" => finds_keeper,
        "moves" => moves,
        "four-results" => crate::spilling::four_results,
        "data-0" => || dataset_failures::survives(0),
        "data-1" => || dataset_failures::survives(1),
        "data-2" => || dataset_failures::survives(2),
        "data-3" => || dataset_failures::survives(3),
        "data-4" => || dataset_failures::survives(4),
        "data-5" => || dataset_failures::survives(5),
        "data-6" => || dataset_failures::survives(6),
        "data-7" => || dataset_failures::survives(7),
        "chaos" => crate::chaos::driver,
        "soak" => crate::soak::driver,
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

/// So many numbers are too large to travel in a message.
const LARGE: usize = 100_000;

#[remote]
fn sevens() -> Vec<u64> {
    vec![7; LARGE]
}

/// Has work before there is a node for it.
fn late() -> Result<(), Error> {
    let task = same.remote(5);
    println!("submitted");
    assert_eq!(get(&task)?, 5);
    Ok(())
}

/// Loses the node that it asks first, and goes on with another one.
fn moves() -> Result<(), Error> {
    assert_eq!(get(&same.remote(1))?, 1);
    println!("at home");
    let killed = folder().join("head-is-away");
    let numbers = vec![7; LARGE];
    // What reads and writes large objects while it happens does not notice.
    while !killed.exists() {
        let made = sevens.remote();
        mobula::put(numbers.clone())?;
        assert_eq!(get(&made)?, numbers);
    }
    assert_eq!(get(&same.remote(2))?, 2);
    // Objects too.
    assert_eq!(get(&mobula::put(numbers.clone())?)?, numbers);
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

/// Has a task, an actor and a placement group for which there is no room, and says which they are.
fn unplaced() -> Result<(), Error> {
    let task = needs_gpus.remote();
    let actor = Mortal::options().num_gpus(16.0).remote();
    let group = PlacementGroup::new([Bundle::cpus(1.0).gpus(16.0)]).create()?;
    let call = actor.call().remote();
    wait_until("the head to know them", || explain(&actor).is_ok() && explain(&group).is_ok());
    println!("unplaced {task} {:?} {} end", actor.actor().id().map(|id| id.to_string()), group.id());
    get(&task).and(get(&call)).map(drop)
}

/// Asks for environments that cannot be made, in this process and on its cluster.
fn bad_env() -> Result<(), Error> {
    let nowhere = RuntimeEnv::default().working_dir(folder().join("nowhere"));
    let large = folder().join("large");
    // A hole takes no room on the disk.
    std::fs::File::create(&large).and_then(|file| file.set_len(1 << 30)).expect("the family's home can be written");
    for (env, part) in [(nowhere, "nowhere"), (RuntimeEnv::default().file(&large), "512 MiB")] {
        let address = std::env::args().skip_while(|argument| argument != "--address").nth(1);
        let on_cluster = address.map(|address| Config::default().address(address));
        for config in std::iter::once(Config::default()).chain(on_cluster) {
            match Session::start(config.runtime_env(env.clone())) {
                Err(error @ Error::RuntimeEnv { .. }) => assert!(error.to_string().contains(part), "{error}"),
                other => panic!("it cannot be made: {other:?}"),
            }
        }
    }
    Ok(())
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

/// Has work that may run on one node only, which dies: all of it fails, and soon.
fn bound() -> Result<(), Error> {
    let gate = Gate::new();
    let tally = Tally::new();
    let node = mobula::nodes()?.into_iter().find(|node| node.name == "node-1").expect("it has joined");
    let on = || holds_its_cpu.options().on_node(node.id);
    let runs = on().remote(tally.path(), gate.path());
    wait_until("work on the node", || tally.get() == 1);
    let waits = on().remote(tally.path(), gate.path());
    let actor = Mortal::options().on_node(node.id).num_cpus(0.0).max_restarts(5).remote();
    get(&actor.call().remote())?;
    println!("bound to the node");
    let died = || mobula::nodes().is_ok_and(|nodes| nodes.iter().any(|other| other.id == node.id && !other.alive));
    wait_until("the node to die", died);
    let late = on().remote(tally.path(), gate.path());
    for (which, task) in [("running", &runs), ("waiting", &waits), ("late", &late)] {
        let error = get(task).expect_err("there is no node for it");
        assert!(matches!(&error, Error::NoWorker { why, .. } if why.contains("dead")), "the {which} task: {error:?}");
    }
    let error = get(&actor.call().remote()).expect_err("nor for the actor");
    assert!(matches!(&error, Error::ActorDied { .. }), "{error:?}");
    let late = Mortal::options().on_node(node.id).remote();
    let error = get(&late.call().remote()).expect_err("nor for a new one");
    assert!(matches!(&error, Error::ActorDied { why, .. } if why.contains("dead")), "{error:?}");
    gate.open();
    get(&holds_its_cpu.options().prefer_node(node.id).remote(tally.path(), gate.path())).map(drop)
}

struct Mortal {
    calls: u64,
}

#[remote]
impl Mortal {
    fn new() -> Self {
        Self { calls: 0 }
    }

    fn call(&mut self) -> u64 {
        self.calls += 1;
        self.calls
    }

    fn fall(&mut self) -> u64 {
        panic!("it falls after {} calls", self.calls)
    }
}

struct Sum(u64);

#[remote]
impl Sum {
    fn new() -> Self {
        Self(0)
    }

    fn add(&mut self, more: u64) -> u64 {
        self.0 += more;
        self.0
    }
}

/// Uses an actor while the head is away, and asks for what needs the head.
fn goes_through() -> Result<(), Error> {
    let before = Sum::options().name("before").remote();
    assert_eq!(get(&before.add().remote(0))?, 0);
    println!("actors live");
    let away = folder().join("head-is-away");
    wait_until("the head to be away", || away.exists());
    assert_eq!(get(&before.add().remote(7))?, 7);
    assert_eq!(get(&before.add().remote(2))?, 9);
    let after = Sum::options().name("after").remote();
    let first = after.add().remote(5);
    let found = std::thread::spawn(|| {
        println!("the head is asked");
        get_actor::<Sum>("before")
    });
    assert_eq!(get(&first)?, 5);
    let found = found.join().expect("it does not panic")?;
    assert_eq!(get(&found.add().remote(1))?, 10);
    Ok(())
}

/// Leaves an actor behind that lives on.
fn leaves_keeper() -> Result<(), Error> {
    let keeper = Sum::options().name("keeper").namespace("kept").detached().max_restarts(1).remote();
    assert_eq!(get(&keeper.add().remote(7))?, 7);
    Ok(())
}

/// Finds the actor that another driver has left behind.
fn finds_keeper() -> Result<(), Error> {
    let keeper = get_actor_in::<Sum>("keeper", "kept")?;
    let mut sum = None;
    // A call that is on its way when its node dies fails.
    wait_until("the actor to answer", || {
        sum = get(&keeper.add().remote(0)).ok();
        sum.is_some()
    });
    println!("keeper has {} on {}", sum.unwrap_or_default(), explain(&keeper)?.node.unwrap_or_default());
    Ok(())
}

/// Has actors that end while the head is away, in every way an actor ends, and finds their names
/// and CPUs free when it is back.
fn ends_actors() -> Result<(), Error> {
    let falls = Mortal::options().num_cpus(1.0).name("falls").remote();
    let returns = Mortal::options().num_cpus(1.0).name("returns").max_restarts(1).remote();
    let dropped = Mortal::options().num_cpus(1.0).name("dropped").remote();
    get(&[falls.call().remote(), returns.call().remote(), dropped.call().remote()])?;
    println!("actors live");
    let away = folder().join("head-is-away");
    wait_until("the head to be away", || away.exists());
    for actor in [&falls, &returns] {
        assert!(get(&actor.fall().remote()).is_err(), "a panic is no result");
    }
    drop(dropped);
    println!("actors ended");
    for name in ["falls", "dropped"] {
        let free = || matches!(get_actor::<Mortal>(name), Err(Error::NoSuchActor { .. }));
        wait_until(&format!("the name {name} to be free"), free);
    }
    wait_until("the one that returns", || get(&returns.call().remote()).is_ok());
    let total = cpus()? as f64;
    // A head that is just back does not know every node yet.
    let free = || mobula::available_resources().map_or(0.0, |all| all.get("CPU").copied().unwrap_or(0.0));
    wait_until("the CPUs of the others", || free() >= total - 1.0);
    Ok(())
}
