//! Many things at once: nothing is lost when far more is asked for than there is room.

use mobula::{get, remote};

use crate::gate::{Gate, pass};
use crate::{Scenario, everywhere};

pub(crate) const SCENARIOS: &[Scenario] =
    &[everywhere("ten thousand actors alive at once", actors), everywhere("a long queue of tasks drains", queue)];

const ACTORS: u64 = 10_000;
const TASKS: u64 = 200_000;

struct Own {
    number: u64,
}

#[remote]
impl Own {
    fn new(number: u64) -> Self {
        Self { number }
    }

    fn add(&mut self, more: u64) -> u64 {
        self.number += more;
        self.number
    }
}

fn actors() {
    let actors: Vec<_> = (0..ACTORS).map(Own::remote).collect();
    for more in [1, 2] {
        let calls: Vec<_> = actors.iter().map(|actor| actor.add().remote(more)).collect();
        let added = if more == 1 { 1 } else { 3 };
        let answers = get(&calls).expect("every actor answers");
        assert!(answers.into_iter().eq((0..ACTORS).map(|number| number + added)), "round {more}");
    }
}

#[remote]
fn behind(gate: String) -> u64 {
    pass(&gate);
    0
}

#[remote]
fn same(number: u64) -> u64 {
    number
}

fn queue() {
    let gate = Gate::new();
    // Every CPU is held while the others are queued.
    let first: Vec<_> = (0..4).map(|_| behind.remote(gate.path())).collect();
    let tasks: Vec<_> = (0..TASKS).map(|number| same.remote(number)).collect();
    gate.open();
    assert_eq!(get(&first).expect("the first ones"), [0; 4]);
    assert!(get(&tasks).expect("all of them").into_iter().eq(0..TASKS));
}
