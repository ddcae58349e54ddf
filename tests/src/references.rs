//! References inside values: they keep their objects alive wherever they are, and no longer.

use mobula::{Bytes, Error, ObjectRef, get, kill, kill_and_restart, put, remote};
use serde::{Deserialize, Serialize};

use crate::gate::{Gate, pass, wait_until};
use crate::stores::wait_until_empty;
use crate::{Scenario, everywhere, on_cluster};

pub(crate) const SCENARIOS: &[Scenario] = &[
    everywhere("a reference inside an argument goes with the task", argument),
    everywhere("a task may hand back the references that it got", handed_back),
    everywhere("an actor keeps a reference that its caller has dropped", kept_by_an_actor),
    everywhere("a reference in the result of a nested task", nested_result),
    everywhere("a reference that went through three actors", three_borrowers),
    everywhere("an object holds the references inside it", container),
    everywhere("a constructor's references outlive a restart", constructor),
    everywhere("an actor that ends lets go of its references", actor_ends),
    everywhere("a long list of objects", long_list),
    everywhere("a freed object is gone though references remain", freed),
    everywhere("work that waits fails when its argument is freed", freed_while_work_waits),
    everywhere("an object's size and nodes are known to whoever has a reference", located),
    on_cluster("a borrower that is killed lets go of everything", killed_borrower),
];

/// Large enough for the store.
const SIZE: usize = 200 * 1024;

fn bytes(fill: u8) -> Bytes {
    Bytes::from(vec![fill; SIZE])
}

/// What the bytes were made with, if they are whole.
fn fill_of(bytes: &Bytes) -> u64 {
    assert!(bytes.len() == SIZE && bytes.iter().all(|byte| *byte == bytes[0]), "the bytes are damaged");
    u64::from(bytes[0])
}

type Refs = Vec<ObjectRef<Bytes>>;

#[remote]
fn make(fill: u8) -> Bytes {
    bytes(fill)
}

#[remote]
fn read(refs: Refs) -> Result<u64, Error> {
    Ok(get(refs)?.iter().map(fill_of).sum())
}

#[remote]
fn same(refs: Refs) -> Refs {
    refs
}

#[remote]
fn makes(fill: u8) -> Refs {
    vec![make.remote(fill), put(bytes(fill + 1)).expect("there is room")]
}

#[derive(Serialize, Deserialize)]
struct Wrapped {
    inner: ObjectRef<Refs>,
}

#[remote]
fn wraps(fill: u8) -> Wrapped {
    Wrapped { inner: makes.remote(fill) }
}

struct Keeper {
    kept: Refs,
}

#[remote]
impl Keeper {
    fn new(kept: Refs) -> Self {
        Self { kept }
    }

    fn keep(&mut self, refs: Refs) {
        self.kept.extend(refs);
    }

    fn hand_to(&mut self, other: KeeperHandle) -> Result<(), Error> {
        get(other.keep().remote(self.kept.clone()))
    }

    fn read(&mut self) -> Result<u64, Error> {
        Ok(get(&self.kept)?.iter().map(fill_of).sum())
    }

    fn let_go(&mut self) {
        self.kept.clear();
    }

    fn pid(&mut self) -> u32 {
        std::process::id()
    }
}

/// Time for what should not be freed to be freed all the same.
fn do_something_else() {
    for round in 0..20 {
        assert_eq!(get(read.remote(vec![make.remote(round)])).expect("it can be read"), u64::from(round));
    }
}

fn argument() {
    assert_eq!(get(read.remote(vec![make.remote(7)])).expect("the task gets it"), 7);
    wait_until_empty();
    assert_eq!(get(read.remote(vec![put(bytes(7)).expect("there is room")])).expect("the task gets it"), 7);
    wait_until_empty();
}

fn handed_back() {
    let back = same.remote(vec![put(bytes(3)).expect("there is room"), make.remote(4)]);
    let refs = get(&back).expect("two references");
    drop(back);
    do_something_else();
    assert_eq!(get(&refs).expect("both are there").iter().map(fill_of).sum::<u64>(), 7);
    drop(refs);
    wait_until_empty();
}

fn kept_by_an_actor() {
    let keeper = Keeper::remote(Refs::new());
    let made = put(bytes(5)).expect("there is room");
    get(keeper.keep().remote(vec![made.clone(), make.remote(6)])).expect("it takes them");
    drop(made);
    do_something_else();
    assert_eq!(get(keeper.read().remote()).expect("they are there"), 11);
    get(keeper.let_go().remote()).expect("it lets go");
    wait_until_empty();
}

fn nested_result() {
    let wrapped = get(wraps.remote(20)).expect("a reference to references");
    do_something_else();
    let refs = get(&wrapped.inner).expect("the references");
    drop(wrapped);
    do_something_else();
    assert_eq!(get(read.remote(refs.clone())).expect("another task reads them"), 41);
    assert_eq!(get(&refs).expect("they are there").len(), 2);
    drop(refs);
    wait_until_empty();
}

fn three_borrowers() {
    let keepers = [(); 3].map(|()| Keeper::remote(Refs::new()));
    // Owned by the worker of a task, so that the first of them is a borrower already.
    get(keepers[0].keep().remote(get(makes.remote(30)).expect("two references"))).expect("the first");
    for pair in keepers.windows(2) {
        get(pair[0].hand_to().remote(pair[1].clone())).expect("it hands them on");
        get(pair[0].let_go().remote()).expect("it lets go");
        do_something_else();
    }
    assert_eq!(get(keepers[2].read().remote()).expect("the last one has them"), 61);
    get(keepers[2].let_go().remote()).expect("it lets go");
    wait_until_empty();
}

fn container() {
    let inner: Refs = (0..3).map(|fill| put(bytes(fill)).expect("there is room")).collect();
    let container = put(inner).expect("it is small");
    do_something_else();
    // Resolved for the task, which gets the references inside.
    assert_eq!(get(read.remote(&container)).expect("a task reads them"), 3);
    let inner = get(&container).expect("the references");
    drop(container);
    do_something_else();
    assert_eq!(get(inner).expect("they are there").iter().map(fill_of).sum::<u64>(), 3);
    wait_until_empty();
}

fn constructor() {
    let keeper = Keeper::options().max_restarts(1).remote(vec![put(bytes(9)).expect("there is room")]);
    assert_eq!(get(keeper.read().remote()).expect("it has the reference"), 9);
    get(keeper.let_go().remote()).expect("it lets go");
    do_something_else();
    kill_and_restart(&keeper).expect("it is made again");
    wait_until("the actor to be back", || matches!(get(keeper.read().remote()), Ok(9)));
    kill(&keeper).expect("it is ended");
    wait_until("the actor to be dead", || get(keeper.read().remote()).is_err());
    drop(keeper);
    wait_until_empty();
}

fn actor_ends() {
    let keeper = Keeper::remote(vec![make.remote(8)]);
    get(keeper.keep().remote(vec![make.remote(9)])).expect("it takes it");
    do_something_else();
    assert_eq!(get(keeper.read().remote()).expect("it has both"), 17);
    drop(keeper);
    wait_until_empty();
}

#[derive(Serialize, Deserialize)]
struct Link {
    next: Option<ObjectRef<Link>>,
}

fn long_list() {
    let mut list: Option<ObjectRef<Link>> = None;
    for _ in 0..100_000 {
        list = Some(put(Link { next: list }).expect("it is small"));
    }
    // One after the other, not each inside the one before.
    drop(list);
    do_something_else();
}

#[remote]
fn frees(refs: Refs) -> bool {
    mobula::free(&refs);
    matches!(get(refs), Err(Error::ObjectFreed { .. }))
}

fn is_freed<T: mobula::Value>(object: &ObjectRef<T>) -> bool {
    matches!(get(object), Err(Error::ObjectFreed { .. }))
}

#[remote]
fn holds_a_cpu(gate: String) {
    pass(&gate);
}

#[remote]
fn size(bytes: Bytes, _more: u64) -> u64 {
    bytes.len() as u64
}

struct Sizes;

#[remote]
impl Sizes {
    fn new() -> Self {
        Self
    }

    fn size(&mut self, bytes: Bytes, _more: u64) -> u64 {
        bytes.len() as u64
    }
}

fn freed_while_work_waits() {
    let (gate, object, actor) = (Gate::new(), put(bytes(1)).expect("there is room"), Sizes::remote());
    assert_eq!(get(&actor.size().remote(&object, 0)).expect("it lives"), SIZE as u64);
    let cpus = mobula::cluster_resources().expect("the cluster answers")["CPU"] as usize;
    let busy: Vec<_> = (0..cpus).map(|_| holds_a_cpu.remote(gate.path())).collect();
    // These wait for a lease, and this one for another argument, with the calls behind it.
    let tasks: Vec<_> = (0..20).map(|number| size.remote(&object, number)).collect();
    let late = size.remote(&object, 1);
    let calls: Vec<_> = std::iter::once(actor.size().remote(&object, &late))
        .chain((0..5).map(|number| actor.size().remote(&object, number)))
        .collect();
    mobula::free(std::slice::from_ref(&object));
    gate.open();
    get(&busy).expect("they end");
    // Those that had been sent before may have read it.
    for waited in tasks.iter().chain(&calls) {
        match get(waited) {
            Ok(found) => assert_eq!(found, SIZE as u64),
            Err(error) => assert!(matches!(error, Error::ObjectFreed { .. } | Error::ObjectLost { .. }), "{error}"),
        }
    }
    // The session and the actor are whole.
    let other = put(bytes(2)).expect("there is room");
    assert_eq!(get(&size.remote(&other, 0)).expect("tasks run"), SIZE as u64);
    assert_eq!(get(&actor.size().remote(&other, 0)).expect("the actor lives"), SIZE as u64);
}

fn freed() {
    let (large, small) = (put(bytes(1)).expect("there is room"), put(2_u8).expect("it is small"));
    let made = make.remote(3);
    mobula::free(&[large.clone(), made.clone()]);
    mobula::free(std::slice::from_ref(&small));
    assert!(is_freed(&large) && is_freed(&made) && is_freed(&small));
    // What needs it fails with the reason.
    assert!(matches!(get(read.remote(vec![large.clone()])), Err(Error::ObjectFreed { .. })));
    wait_until_empty();
    // Also by who has only borrowed it.
    let lent = put(bytes(4)).expect("there is room");
    assert!(get(frees.remote(vec![lent.clone()])).expect("the task ends"));
    wait_until("it to be freed here", || is_freed(&lent));
    wait_until_empty();
}

#[remote]
fn places(refs: Refs) -> Result<u64, Error> {
    let located = mobula::object_locations(&refs)?;
    Ok(located.iter().flatten().filter(|place| place.nodes.len() == 1).map(|place| place.size_bytes).sum())
}

fn located() {
    let refs = vec![put(bytes(1)).expect("there is room"), make.remote(2)];
    assert_eq!(get(&refs).expect("both").len(), 2);
    let here = mobula::object_locations(&refs).expect("the cluster answers");
    assert!(here.iter().flatten().all(|place| place.size_bytes == SIZE as u64 && place.nodes.len() == 1), "{here:?}");
    assert_eq!(here.iter().flatten().count(), 2);
    assert_eq!(get(places.remote(refs)).expect("a borrower may ask"), 2 * SIZE as u64);
    let small = mobula::object_locations(&[put(7_u8).expect("it is small")]).expect("the cluster answers");
    assert!(matches!(&small[0], Some(place) if place.nodes.is_empty()), "{small:?}");
    wait_until_empty();
}

fn killed_borrower() {
    let keeper = Keeper::options().process_worker().remote(vec![make.remote(1)]);
    get(keeper.keep().remote(vec![put(bytes(2)).expect("there is room")])).expect("it takes it");
    assert_eq!(get(keeper.read().remote()).expect("it has both"), 3);
    let pid = get(keeper.pid().remote()).expect("it lives");
    let killed = std::process::Command::new("kill").args(["-KILL", &pid.to_string()]).status();
    assert!(killed.expect("kill can be run").success());
    wait_until("the actor to be dead", || get(keeper.pid().remote()).is_err());
    wait_until_empty();
}
