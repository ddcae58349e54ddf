//! A small world of three processes that pass references around, over connections that break, with
//! messages that are late or come twice, and processes that die; against the plain rule: an object
//! lives while somebody can reach it, and goes when nobody can.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;

use proptest::prelude::*;
use uuid::Uuid;

use super::*;

const PROCESSES: usize = 3;

fn address(process: usize) -> ProcessAddr {
    let id = ProcessId(Uuid::from_u128(process as u128 + 1));
    ProcessAddr { id, socket: SocketAddr::from(([127, 0, 0, 1], process as u16 + 1)) }
}

fn index_of(process: ProcessId) -> usize {
    process.0.as_u128() as usize - 1
}

fn owner_of(object: &ObjectId) -> usize {
    index_of(object.owner)
}

/// What travels between two processes.
#[derive(Clone, Debug)]
enum Message {
    Borrow {
        loans: Vec<Loan>,
        gate: u64,
    },
    Borrowed {
        loans: Vec<Loan>,
        gate: u64,
    },
    Return {
        loans: Vec<Loan>,
    },
    StillBorrowed {
        loans: Vec<Loan>,
    },
    NotBorrowed {
        loans: Vec<Loan>,
    },
    /// A task with a reference inside its argument.
    Task {
        task: u64,
        attempt: u32,
        object: ObjectId,
    },
    /// Its end, perhaps with a reference inside its result.
    Done {
        task: u64,
        attempt: u32,
        object: Option<ObjectId>,
    },
    Kept {
        task: u64,
        attempt: u32,
    },
    StillReturning {
        attempts: Vec<(u64, u32)>,
    },
    NotReturning {
        attempts: Vec<(u64, u32)>,
    },
}

/// What is to happen when all loans of a gate are acknowledged.
#[derive(Clone, Debug)]
enum Then {
    Done { to: usize, task: u64, attempt: u32, object: Option<ObjectId> },
    Kept { to: usize, task: u64, attempt: u32 },
}

/// Work that a process has submitted: it holds the argument.
#[derive(Debug)]
struct Pending {
    worker: usize,
    attempt: u32,
    object: ObjectId,
}

#[derive(Default)]
struct Process {
    alive: bool,
    /// The handles of each object: those of the user, and those that hold something for others.
    handles: BTreeMap<ObjectId, u32>,
    /// Owned objects that live.
    owned: BTreeSet<ObjectId>,
    borrowed: Borrowed<()>,
    lent: Lent<()>,
    /// The user's handles.
    mine: Vec<ObjectId>,
    pending: BTreeMap<u64, Pending>,
    /// Tasks that run here: whose, with which reference.
    running: Vec<(usize, u64, u32, ObjectId)>,
    returned: BTreeMap<(usize, u64, u32), ObjectId>,
    taking: BTreeSet<(usize, u64, u32)>,
    gates: BTreeMap<u64, (usize, Then, Vec<ObjectId>)>,
}

struct World {
    all: Vec<Process>,
    /// What is on its way from one to another, in order.
    wires: BTreeMap<(usize, usize), VecDeque<Message>>,
    next: u64,
}

impl World {
    fn new() -> Self {
        let all = (0..PROCESSES).map(|_| Process { alive: true, ..Process::default() }).collect();
        Self { all, wires: BTreeMap::new(), next: 0 }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn send(&mut self, from: usize, to: usize, message: Message) {
        if self.all[from].alive && self.all[to].alive {
            self.wires.entry((from, to)).or_default().push_back(message);
        }
    }

    // ---- handles, as entries count them ----------------------------------------------------------

    fn hold(&mut self, process: usize, object: ObjectId) {
        let here = &mut self.all[process];
        let count = here.handles.entry(object).or_default();
        *count += 1;
        if *count == 1 && owner_of(&object) != process {
            let number = here.borrowed.next_number();
            here.borrowed.begin((object, number), address(owner_of(&object)), ());
        }
    }

    fn drop_handle(&mut self, process: usize, object: ObjectId) {
        let here = &mut self.all[process];
        let count = here.handles.get_mut(&object).expect("a handle that is there");
        *count -= 1;
        if *count > 0 {
            return;
        }
        here.handles.remove(&object);
        if owner_of(&object) == process {
            self.free_unused(process, object);
        } else {
            let number = here.borrowed.of[&object].number;
            here.borrowed.dropped(object, number);
        }
    }

    fn free_unused(&mut self, owner: usize, object: ObjectId) {
        let here = &mut self.all[owner];
        if !here.handles.contains_key(&object) && !here.lent.of.contains_key(&object) {
            here.owned.remove(&object);
        }
    }

    fn lent_ended(&mut self, owner: usize) {
        for object in self.all[owner].owned.clone() {
            self.free_unused(owner, object);
        }
    }

    /// Borrows the objects, as far as they are not; then does what is to be done.
    fn secure(&mut self, process: usize, objects: Vec<ObjectId>, then: Then) {
        let asked = self.all[process].borrowed.ask(objects.iter().copied());
        for object in &objects {
            self.hold(process, *object);
        }
        let gate = self.number();
        self.all[process].gates.insert(gate, (asked.len(), then, objects));
        for (owner, loans) in &asked {
            self.send(process, index_of(owner.id), Message::Borrow { loans: loans.clone(), gate });
            if !self.all[index_of(owner.id)].alive {
                self.pass(process, gate);
            }
        }
        if asked.is_empty() {
            self.open(process, gate);
        }
    }

    fn pass(&mut self, process: usize, gate: u64) {
        let Some((remaining, ..)) = self.all[process].gates.get_mut(&gate) else { return };
        *remaining -= 1;
        if *remaining == 0 {
            self.open(process, gate);
        }
    }

    fn open(&mut self, process: usize, gate: u64) {
        let Some((_, then, held)) = self.all[process].gates.remove(&gate) else { return };
        match then {
            Then::Done { to, task, attempt, object } => self.send(process, to, Message::Done { task, attempt, object }),
            Then::Kept { to, task, attempt } => {
                self.all[process].taking.remove(&(to, task, attempt));
                self.send(process, to, Message::Kept { task, attempt });
            }
        }
        held.into_iter().for_each(|object| self.drop_handle(process, object));
    }

    // ---- what users do ---------------------------------------------------------------------------

    fn put(&mut self, process: usize) {
        let object = ObjectId { owner: address(process).id, seq: self.number(), index: 0 };
        self.all[process].owned.insert(object);
        self.hold(process, object);
        self.all[process].mine.push(object);
    }

    fn pick(&self, process: usize, choice: usize) -> Option<usize> {
        let count = self.all[process].mine.len();
        (self.all[process].alive && count > 0).then(|| choice % count)
    }

    fn drop_mine(&mut self, process: usize, choice: usize) {
        if let Some(at) = self.pick(process, choice) {
            let object = self.all[process].mine.swap_remove(at);
            self.drop_handle(process, object);
        }
    }

    fn submit(&mut self, process: usize, worker: usize, choice: usize) {
        let Some(at) = self.pick(process, choice) else { return };
        if !self.all[worker].alive {
            return;
        }
        let (object, task) = (self.all[process].mine[at], self.number());
        self.hold(process, object);
        self.all[process].pending.insert(task, Pending { worker, attempt: 1, object });
        self.send(process, worker, Message::Task { task, attempt: 1, object });
    }

    /// A task ends: it keeps its reference or not, and returns one or not.
    fn end_task(&mut self, process: usize, choice: usize, keeps: bool, returns: bool) {
        if self.all[process].running.is_empty() {
            return;
        }
        let at = choice % self.all[process].running.len();
        let (to, task, attempt, object) = self.all[process].running.swap_remove(at);
        if keeps {
            self.all[process].mine.push(object);
        } else {
            self.drop_handle(process, object);
        }
        // Either what it got, if it still has it, or something else that it has.
        let held: Vec<ObjectId> = self.all[process].mine.clone();
        let result = (returns && !held.is_empty()).then(|| held[choice % held.len()]);
        let mut secure: Vec<ObjectId> =
            self.all[process].handles.contains_key(&object).then_some(object).into_iter().collect();
        if let Some(result) = result {
            self.hold(process, result);
            self.all[process].returned.insert((to, task, attempt), result);
            secure.push(result);
        }
        self.secure(process, secure, Then::Done { to, task, attempt, object: result });
    }

    // ---- messages --------------------------------------------------------------------------------

    fn arrive(&mut self, from: usize, to: usize, twice: bool) {
        let Some(wire) = self.wires.get_mut(&(from, to)) else { return };
        let Some(message) = wire.pop_front() else { return };
        // A borrower that has not heard the answer tells it again.
        if twice && matches!(message, Message::Borrow { .. } | Message::Return { .. }) {
            wire.push_back(message.clone());
        }
        if !self.all[to].alive {
            return;
        }
        match message {
            Message::Borrow { loans, gate } => {
                for loan in &loans {
                    if self.all[to].owned.contains(&loan.0) {
                        self.all[to].lent.lend(address(from), *loan, ());
                    }
                }
                self.send(to, from, Message::Borrowed { loans, gate });
            }
            Message::Borrowed { loans, gate } => {
                self.all[to].borrowed.acknowledged(&loans);
                self.pass(to, gate);
            }
            Message::Return { loans } | Message::NotBorrowed { loans } => {
                self.all[to].lent.given_back(address(from).id, &loans);
                self.lent_ended(to);
            }
            Message::StillBorrowed { loans } => {
                let loans = self.all[to].borrowed.not_held(loans);
                self.send(to, from, Message::NotBorrowed { loans });
            }
            Message::Task { task, attempt, object } => {
                self.hold(to, object);
                self.all[to].running.push((from, task, attempt, object));
            }
            Message::Done { task, attempt, object } => self.done(to, from, task, attempt, object),
            Message::Kept { task, attempt } => self.let_go(to, from, &[(task, attempt)]),
            Message::StillReturning { mut attempts } => {
                let here = &self.all[to];
                attempts.retain(|(task, attempt)| {
                    here.pending.get(task).is_none_or(|pending| pending.attempt != *attempt)
                        && !here.taking.contains(&(from, *task, *attempt))
                });
                self.send(to, from, Message::NotReturning { attempts });
            }
            Message::NotReturning { attempts } => self.let_go(to, from, &attempts),
        }
    }

    fn done(&mut self, process: usize, worker: usize, task: u64, attempt: u32, object: Option<ObjectId>) {
        let current = self.all[process].pending.get(&task).is_some_and(|pending| pending.attempt == attempt);
        if !current {
            return self.send(process, worker, Message::Kept { task, attempt });
        }
        let pending = self.all[process].pending.remove(&task).expect("it is current");
        if let Some(object) = object {
            self.hold(process, object);
            self.all[process].mine.push(object);
            self.all[process].taking.insert((worker, task, attempt));
            self.secure(process, vec![object], Then::Kept { to: worker, task, attempt });
        }
        self.drop_handle(process, pending.object);
    }

    fn let_go(&mut self, process: usize, submitter: usize, attempts: &[(u64, u32)]) {
        for (task, attempt) in attempts {
            if let Some(object) = self.all[process].returned.remove(&(submitter, *task, *attempt)) {
                self.drop_handle(process, object);
            }
        }
    }

    fn give_back(&mut self, process: usize) {
        for (owner, loans) in self.all[process].borrowed.take_back() {
            self.send(process, index_of(owner.id), Message::Return { loans });
        }
    }

    fn audit(&mut self, process: usize) {
        for (borrower, loans) in self.all[process].lent.questions() {
            if self.all[index_of(borrower.id)].alive {
                self.send(process, index_of(borrower.id), Message::StillBorrowed { loans });
            } else {
                self.all[process].lent.died(borrower.id);
                self.lent_ended(process);
            }
        }
        let returned: Vec<_> = self.all[process].returned.keys().copied().collect();
        for (submitter, task, attempt) in returned {
            if self.all[submitter].alive {
                self.send(process, submitter, Message::StillReturning { attempts: vec![(task, attempt)] });
            } else {
                self.let_go(process, submitter, &[(task, attempt)]);
            }
        }
    }

    /// The connection of two processes breaks; what is on its way is lost from some place on. What
    /// must arrive is told again, tasks and results that were lost run again.
    fn cut(&mut self, one: usize, other: usize, keep: usize) {
        for (from, to) in [(one, other), (other, one)] {
            let wire = self.wires.entry((from, to)).or_default();
            let lost = wire.split_off(keep.min(wire.len()));
            for message in lost {
                match message {
                    Message::Return { .. } | Message::Borrow { .. } | Message::Kept { .. } => {
                        self.send(from, to, message)
                    }
                    Message::Borrowed { loans, gate } => self.send(to, from, Message::Borrow { loans, gate }),
                    Message::Task { task, attempt, .. } => self.again(from, task, attempt),
                    Message::Done { task, attempt, .. } => self.again(to, task, attempt),
                    _ => {}
                }
            }
            let loans = self.all[from].borrowed.ask_again(address(to).id);
            if !loans.is_empty() {
                self.send(from, to, Message::Borrow { loans, gate: 0 });
            }
        }
    }

    fn again(&mut self, process: usize, task: u64, attempt: u32) {
        let next =
            self.all[process].pending.get_mut(&task).filter(|pending| pending.attempt == attempt).map(|pending| {
                pending.attempt += 1;
                (pending.worker, pending.attempt, pending.object)
            });
        if let Some((worker, attempt, object)) = next {
            self.send(process, worker, Message::Task { task, attempt, object });
        }
    }

    /// A process dies. The others hear of it when all that it has said has had its effect: that is
    /// what their moment of grace is for. Work that it has submitted counts for nothing any more:
    /// nobody holds its arguments.
    fn die(&mut self, process: usize) {
        self.all[process] = Process::default();
        self.calm();
        for other in 0..PROCESSES {
            let orphans: Vec<_> = self.all[other].running.extract_if(.., |(of, ..)| *of == process).collect();
            orphans.into_iter().for_each(|(.., object)| self.drop_handle(other, object));
        }
        for other in 0..PROCESSES {
            let lost: Vec<u64> =
                self.all[other].pending.iter().filter(|(_, p)| p.worker == process).map(|(task, _)| *task).collect();
            for task in lost {
                let pending = self.all[other].pending.remove(&task).expect("it was listed");
                self.drop_handle(other, pending.object);
            }
            let waiting: Vec<u64> = self.all[other].gates.keys().copied().collect();
            for gate in waiting {
                let owners = |object: &ObjectId| owner_of(object) == process;
                if self.all[other].gates[&gate].2.iter().any(owners) {
                    self.pass(other, gate);
                }
            }
            let returned: Vec<_> = self.all[other].returned.keys().filter(|(to, ..)| *to == process).copied().collect();
            for (to, task, attempt) in returned {
                self.let_go(other, to, &[(task, attempt)]);
            }
            self.all[other].lent.died(address(process).id);
            self.lent_ended(other);
        }
    }

    /// All that is on its way arrives.
    fn calm(&mut self) {
        while let Some((from, to)) = self.wires.iter().find(|(_, wire)| !wire.is_empty()).map(|(wire, _)| *wire) {
            self.arrive(from, to, false);
        }
    }

    // ---- the rule --------------------------------------------------------------------------------

    /// Whatever somebody who lives can reach is there, if its owner lives.
    fn check(&self) {
        for process in self.all.iter().filter(|process| process.alive) {
            for object in process.handles.keys() {
                let owner = &self.all[owner_of(object)];
                assert!(!owner.alive || owner.owned.contains(object), "{object} was freed too early");
            }
        }
    }

    fn step(&mut self, (what, a, b, choice): (u8, usize, usize, usize)) {
        let other = if a == b { (a + 1) % PROCESSES } else { b };
        match what {
            0 | 1 if self.all[a].alive => self.put(a),
            2..6 => self.submit(a, other, choice),
            6..9 => self.end_task(a, choice, choice % 3 == 0, choice % 2 == 0),
            9 | 10 => self.drop_mine(a, choice),
            11 => self.give_back(a),
            12 => self.audit(a),
            13 => self.cut(a, other, choice % 3),
            // Rarely: one of them is always left.
            14 if choice == 0 && a != 0 && self.all[a].alive => self.die(a),
            15 => self.arrive(a, other, true),
            _ => self.arrive(a, other, false),
        }
        self.check();
    }

    /// Everyone lets go of everything.
    fn end(&mut self) {
        for _ in 0..4 {
            self.calm();
            for process in 0..PROCESSES {
                while !self.all[process].running.is_empty() {
                    self.end_task(process, 0, false, false);
                }
                while !self.all[process].mine.is_empty() {
                    self.drop_mine(process, 0);
                }
            }
            self.check();
            self.calm();
            (0..PROCESSES).for_each(|process| self.give_back(process));
            self.calm();
            (0..PROCESSES).for_each(|process| self.audit(process));
            self.calm();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn an_object_lives_exactly_as_long_as_somebody_can_reach_it(
        steps in prop::collection::vec((0_u8..24, 0_usize..PROCESSES, 0_usize..PROCESSES, 0_usize..12), 0..120),
    ) {
        let mut world = World::new();
        steps.into_iter().for_each(|step| world.step(step));
        world.end();
        for process in world.all.iter().filter(|process| process.alive) {
            prop_assert!(process.handles.is_empty(), "somebody still holds {:?}", process.handles);
            prop_assert!(process.owned.is_empty(), "never freed: {:?}", process.owned);
            prop_assert!(process.lent.is_empty() && process.returned.is_empty() && process.gates.is_empty());
        }
    }
}

fn object(seq: u64) -> ObjectId {
    ObjectId { owner: address(0).id, seq, index: 0 }
}

#[test]
fn what_is_given_back_late_takes_no_later_loan_with_it() {
    let mut lent = Lent::default();
    lent.lend(address(1), (object(1), 7), ());
    lent.lend(address(1), (object(1), 9), ());
    assert!(lent.given_back(address(1).id, &[(object(1), 7)]).is_empty());
    assert_eq!(lent.given_back(address(1).id, &[(object(1), 9)]).len(), 1);
    assert!(lent.is_empty());
}

#[test]
fn a_borrower_that_stays_silent_counts_as_dead() {
    let mut lent = Lent::default();
    lent.lend(address(1), (object(1), 1), ());
    assert!(lent.silent(address(1).id, 5).is_empty());
    lent.heard_of(address(1).id);
    assert!(lent.silent(address(1).id, BORROWER_SILENCE_US + 5).is_empty());
    assert_eq!(lent.silent(address(1).id, 2 * BORROWER_SILENCE_US + 5).len(), 1);
    assert!(lent.is_empty());
}

#[test]
fn a_borrower_of_much_is_asked_about_all_of_it_in_turn() {
    let mut lent = Lent::default();
    let many = 2 * LOANS_PER_MESSAGE as u64 + 1;
    for seq in 0..many {
        lent.lend(address(1), (object(seq), 1), ());
    }
    let mut asked = BTreeSet::new();
    for _ in 0..3 {
        for (_, loans) in lent.questions() {
            assert!(loans.len() <= LOANS_PER_MESSAGE);
            asked.extend(loans);
        }
    }
    assert_eq!(asked.len() as u64, many);
}
