//! The typed face on a running local session. One session serves all tests, as one serves a
//! program; what a test makes it owns.

use std::sync::OnceLock;
use std::time::Duration;

use mobula::{Config, Error, ObjectRef, Session, get, get_timeout, put, remote, wait};

/// The session of all tests here; tests of sessions themselves make their own.
fn session() -> &'static Session {
    static SESSION: OnceLock<Session> = OnceLock::new();
    SESSION.get_or_init(|| Session::start(Config::default().num_cpus(4)).unwrap())
}

#[remote]
fn add_one(n: i64) -> i64 {
    n + 1
}

#[remote(num_cpus = 0)]
fn free() -> String {
    "free".to_owned()
}

#[remote]
fn sleep_ms(ms: u64) -> u64 {
    std::thread::sleep(Duration::from_millis(ms));
    ms
}

#[test]
fn a_chain_of_tasks() {
    let _session = session().enter();
    let mut n = put(0).unwrap();
    for _ in 0..100 {
        n = add_one.remote(&n);
    }
    assert_eq!(get(&n).unwrap(), 100);
    assert_eq!(get(&free.remote()).unwrap(), "free");
}

#[test]
fn get_keeps_the_order_and_repeats_duplicates() {
    let _session = session().enter();
    let mut objects: Vec<ObjectRef<i64>> = (0..10).map(|n| add_one.remote(n)).collect();
    objects.push(objects[3].clone());
    assert_eq!(get(&objects).unwrap(), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 4]);
    let (n, text) = get((&objects[0], free.remote())).unwrap();
    assert_eq!((n, text.as_str()), (1, "free"));
    assert_eq!(get(&[] as &[ObjectRef<i64>]).unwrap(), [0; 0]);
}

#[test]
fn waiting() {
    let _session = session().enter();
    let quick: Vec<ObjectRef<i64>> = (0..4).map(|n| add_one.remote(n)).collect();
    let (ready, rest) = wait(&quick, 1, None).unwrap();
    assert_eq!((ready.len(), rest.len()), (1, 3));
    let (ready, rest) = wait(&quick, 4, None).unwrap();
    assert_eq!((ready.len(), rest.len()), (4, 0));

    let slow = [sleep_ms.remote(0_u64), sleep_ms.remote(2_000_u64)];
    let (ready, rest) = wait(&slow, 2, Duration::from_millis(500)).unwrap();
    assert_eq!((ready.len(), rest.len()), (1, 1));
    assert_eq!(get(&ready[0]).unwrap(), 0);
    let twice = [quick[0].clone(), quick[0].clone()];
    assert!(matches!(wait(&twice, 1, None), Err(Error::Invalid { .. })));
    assert!(wait::<i64>(&[], 1, None).unwrap().0.is_empty());
}

#[test]
fn a_get_that_times_out_can_be_repeated() {
    let _session = session().enter();
    let slow = sleep_ms.remote(400_u64);
    assert!(matches!(
        get_timeout(&slow, Duration::from_millis(100)),
        Err(Error::TimedOut { .. })
    ));
    assert_eq!(get(&slow).unwrap(), 400);
}
