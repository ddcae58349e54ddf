//! Objects whose bytes are lost with a node: made again from their tasks, or failed with the reason.

use std::time::Duration;

use mobula::{Bytes, Error, Node, ObjectRef, Value, get_timeout, nodes, object_locations, put, remote, wait};
use mobula_core::client::Client;

use crate::gate::{Gate, Tally, count, pass, wait_until};
use crate::{Scenario, on_cluster};

pub(crate) const SCENARIOS: &[Scenario] = &[
    on_cluster("what is lost with its node is made again", made_again),
    on_cluster("what cannot be made again fails with the reason", failed),
    on_cluster("a second loss uses up the attempts", used_up),
    on_cluster("a stream goes on elsewhere, but its lost values fail with the reason", lost_from_a_stream),
];

/// An object as large as those of the house's acceptance tests.
const SIZE: usize = 10_000_000;
/// How long a get may take: nothing may hang.
const PATIENCE: Duration = Duration::from_secs(60);

fn get<T: Value>(object: &ObjectRef<T>) -> Result<T, Error> {
    get_timeout(object, PATIENCE)
}

// Two CPUs: the head, whose store the driver reads, has one.
#[remote(num_cpus = 2.0)]
fn make(tally: String, fill: u8) -> Bytes {
    count(&tally);
    Bytes::from(vec![fill; SIZE])
}

#[remote(num_cpus = 2.0)]
fn add_one(tally: String, bytes: Bytes) -> Bytes {
    count(&tally);
    bytes.iter().map(|byte| byte + 1).collect::<Vec<u8>>().into()
}

#[remote(num_cpus = 2.0, num_returns = 2)]
fn pair(tally: String) -> (Bytes, Bytes) {
    count(&tally);
    (Bytes::from(vec![1; SIZE]), Bytes::from(vec![2; SIZE]))
}

#[remote(num_cpus = 2.0)]
fn first_byte(bytes: Bytes) -> u8 {
    assert!(bytes.len() == SIZE && bytes.iter().all(|byte| *byte == bytes[0]), "the bytes are damaged");
    bytes[0]
}

#[remote]
fn first_byte_of(refs: Vec<ObjectRef<Bytes>>) -> Result<u8, Error> {
    Ok(get(&refs[0])?[0])
}

#[remote(num_cpus = 2.0)]
fn puts() -> ObjectRef<Bytes> {
    put(Bytes::from(vec![5; SIZE])).expect("there is room")
}

struct Reader {
    calls: Vec<u8>,
}

#[remote]
impl Reader {
    fn new() -> Self {
        Self { calls: Vec::new() }
    }

    fn read(&mut self, bytes: Bytes) -> Vec<u8> {
        self.calls.push(bytes[0]);
        self.calls.clone()
    }

    fn make(&mut self) -> Bytes {
        Bytes::from(vec![6; SIZE])
    }
}

/// A node that may be killed.
fn victim() -> Node {
    nodes().expect("the cluster answers").into_iter().find(|node| node.alive && !node.head).expect("one is left")
}

/// Kills it at once, with all that runs there.
fn kill(node: &Node) {
    let view = Client::current().expect("the driver has a session").status().expect("the cluster answers").view;
    let pid = view.nodes.iter().find(|info| info.node == node.id).expect("it is known").pid;
    let killed = std::process::Command::new("kill").args(["-KILL", &pid.to_string()]).status();
    assert!(killed.expect("kill can be run").success());
}

fn ready<T>(objects: &[ObjectRef<T>]) {
    let (_, rest) = wait(objects, objects.len(), PATIENCE).expect("they are waited for");
    assert!(rest.is_empty(), "{} are not made in time", rest.len());
}

fn is_on<T>(object: &ObjectRef<T>, node: &Node) -> bool {
    let locations = object_locations(std::slice::from_ref(object)).expect("the cluster answers");
    matches!(&locations[0], Some(place) if place.nodes == [node.id])
}

fn made_again() {
    let node = victim();
    let [alone, needed, nested, called, both, chain] = [(); 6].map(|()| Tally::new());
    let making = make.options().prefer_node(node.id).max_retries(1);
    let adding = add_one.options().prefer_node(node.id);

    let for_get = making.remote(alone.path(), 1);
    let for_task = making.remote(needed.path(), 2);
    let for_borrower = making.remote(nested.path(), 3);
    let for_call = making.remote(called.path(), 4);
    let (one, two) = pair.options().prefer_node(node.id).remote(both.path());
    // Of these only the last is kept.
    let end = adding.remote(chain.path(), adding.remote(chain.path(), making.remote(chain.path(), 7)));
    let all = [&for_get, &for_task, &for_borrower, &for_call, &one, &two, &end].map(Clone::clone);
    ready(&all);
    assert!(all.iter().all(|object| is_on(object, &node)), "they were not made on {}", node.name);

    kill(&node);
    let reader = Reader::remote();
    let calls = [reader.read().remote(&for_call), reader.read().remote(Bytes::from_static(&[9]))];
    let tasks: Vec<_> = (0..4).map(|_| first_byte.remote(&for_task)).collect();
    let borrowed = first_byte_of.remote(vec![for_borrower.clone()]);
    assert_eq!(get(&for_get).expect("it is made again")[SIZE - 1], 1);
    for task in &tasks {
        assert_eq!(get(task).expect("the argument is made again"), 2);
    }
    assert_eq!(get(&borrowed).expect("the borrower reports the loss"), 3);
    // In the order in which they were made.
    assert_eq!(get(&calls[1]).expect("the call waits for the one before"), [4, 9]);
    assert_eq!((get(&one).expect("one")[0], get(&two).expect("two")[0]), (1, 2));
    assert_eq!(get(&end).expect("with all that it was made from")[0], 9);
    for (tally, runs) in [(&alone, 2), (&needed, 2), (&nested, 2), (&called, 2), (&chain, 6)] {
        assert_eq!(tally.get(), runs);
    }
    assert_eq!(both.get(), 2, "one run makes both");
}

fn failed() {
    let node = victim();
    let once = make.options().prefer_node(node.id).max_retries(0).remote(Tally::new().path(), 1);
    let reader = Reader::options().on_node(node.id).remote();
    let called = reader.make().remote();
    let others = get(&puts.options().prefer_node(node.id).remote()).expect("a reference");
    ready(&[once.clone(), called.clone(), others.clone()]);
    kill(&node);
    for (object, why) in [(&once, "max_retries is 0"), (&called, "calls do not run again")] {
        match get(object) {
            Err(error @ Error::ObjectLost { .. }) => assert!(error.to_string().contains(why), "{error}"),
            other => panic!("expected a lost object ({why}), not {other:?}"),
        }
    }
    match get(&others) {
        Err(Error::OwnerDied { .. }) => {}
        other => panic!("expected a dead owner, not {other:?}"),
    }
    // And what needs one fails with the same.
    assert!(matches!(get(&first_byte.remote(&once)), Err(Error::ObjectLost { .. })));
}

fn used_up() {
    let (node, tally) = (victim(), Tally::new());
    let object = make.options().prefer_node(node.id).max_retries(1).remote(tally.path(), 1);
    ready(std::slice::from_ref(&object));
    kill(&node);
    wait_until("the node to be dead", || {
        nodes().expect("the cluster answers").iter().any(|n| n.id == node.id && !n.alive)
    });
    assert_eq!(get(&first_byte.remote(&object)).expect("it is made again"), 1);
    let places = object_locations(std::slice::from_ref(&object)).expect("the cluster answers");
    let place = places[0].as_ref().expect("it is there").nodes[0];
    let second = nodes().expect("the cluster answers").into_iter().find(|node| node.id == place).expect("it is known");
    kill(&second);
    match get(&object) {
        Err(Error::AttemptsExhausted { attempts: 2, .. }) => assert_eq!(tally.get(), 2),
        other => panic!("expected that no attempt is left, not {other:?}"),
    }
}

/// Four values, the last two of them when the gate is open.
#[remote(num_cpus = 2.0)]
fn yields(tally: String, gate: String) -> impl Iterator<Item = Bytes> {
    count(&tally);
    (0..4).map(move |fill| {
        if fill == 2 {
            pass(&gate);
        }
        Bytes::from(vec![fill; SIZE])
    })
}

fn lost_from_a_stream() {
    let (node, tally, gate) = (victim(), Tally::new(), Gate::new());
    let mut stream = yields.options().prefer_node(node.id).remote(tally.path(), gate.path());
    let taken: Vec<_> = stream.by_ref().take(2).collect();
    assert!(taken.iter().all(|object| is_on(object, &node)), "they were not made on {}", node.name);
    kill(&node);
    wait_until("the task to run again", || tally.get() == 2);
    gate.open();
    for fill in [2, 3] {
        let next = stream.next_timeout(PATIENCE).expect("it goes on").expect("that is not the end");
        assert_eq!(get(&next).expect("it lies on another node")[0], fill);
    }
    assert!(stream.next_timeout(PATIENCE).expect("it ends").is_none());
    for object in &taken {
        match get(object) {
            Err(error @ Error::ObjectLost { .. }) => {
                assert!(error.to_string().contains("streams do not run again for an item"), "{error}");
            }
            other => panic!("expected a lost object, not {other:?}"),
        }
    }
}
