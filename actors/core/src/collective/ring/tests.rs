//! Members that are only queues, in every order of events that a seed can make.

use std::collections::VecDeque;
use std::fmt::Debug;

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

use super::*;
use crate::collective::element::Arithmetic;

/// What one member has and is at.
struct Member<'a, T> {
    steps: std::iter::Peekable<Ring<'a>>,
    memory: Memory<'a, T>,
}

/// Runs all members until none has anything left to do; a link has room for `room` pieces.
fn run<T: Element>(members: &mut [Member<'_, T>], op: ReduceOp, room: usize, random: &mut StdRng) {
    let world = members.len();
    // Link `r` leads to member `r`.
    let mut links: Vec<VecDeque<Vec<u8>>> = vec![VecDeque::new(); world];
    loop {
        let able: Vec<usize> = (0..world)
            .filter(|rank| {
                members[*rank].steps.peek().is_some_and(|step| {
                    (!step.receive || !links[*rank].is_empty())
                        && (!step.send || links[(*rank + 1) % world].len() < room)
                })
            })
            .collect();
        if able.is_empty() {
            break;
        }
        let rank = able[random.random_range(0..able.len())];
        let step = members[rank].steps.next().unwrap();
        let bytes = step.piece.len() * size_of::<T>();
        let incoming = if step.receive { links[rank].pop_front().unwrap() } else { Vec::new() };
        assert!(!step.receive || incoming.len() == bytes, "what comes is what is awaited");
        let mut outgoing = vec![0; if step.send { bytes } else { 0 }];
        apply(&step, op, &mut members[rank].memory, &incoming, &mut outgoing);
        if step.send {
            links[(rank + 1) % world].push_back(outgoing);
        }
    }
    assert!(members.iter_mut().all(|member| member.steps.peek().is_none()), "nobody waits for ever");
    assert!(links.iter().all(VecDeque::is_empty), "nothing is left over");
}

fn members<'a, T: Element>(
    course: Course,
    bounds: &'a [usize],
    piece_len: usize,
    memories: impl Iterator<Item = Memory<'a, T>>,
) -> Vec<Member<'a, T>> {
    let world = bounds.len() - 1;
    memories
        .enumerate()
        .map(|(rank, memory)| Member {
            steps: Ring::new(Seat { rank, world }, course, bounds, piece_len).peekable(),
            memory,
        })
        .collect()
}

/// The numbers of all members reduced one after the other in the documented order.
fn expected<T: Element>(data: &[Vec<T>], bounds: &[usize], op: ReduceOp) -> Vec<T> {
    let world = data.len();
    let mut all = Vec::new();
    for part in 0..world {
        let own = |member: usize| &data[member % world][bounds[part]..bounds[part + 1]];
        let mut sums = own(part + 1).to_vec();
        for next in 2..=world {
            let mut with = own(part + next).to_vec();
            T::combine_into_own(op, bytes_of(&sums), &mut with);
            sums = with;
        }
        all.append(&mut sums);
    }
    all
}

fn number<T: Element>(random: &mut StdRng) -> T {
    let mut number = [T::default()];
    random.fill_bytes(bytes_of_mut(&mut number));
    number[0]
}

#[track_caller]
fn assert_same_bits<T: Element + Debug>(a: &[T], b: &[T]) {
    assert_eq!(bytes_of(a), bytes_of(b), "{a:?} {b:?}");
}

/// All courses on `world` members with parts of these lengths.
fn all_courses<T: Element>(lengths: &[usize], op: ReduceOp, piece_len: usize, room: usize, seed: u64) {
    let random = &mut StdRng::seed_from_u64(seed);
    let (world, bounds) = (lengths.len(), bounds_of(lengths));
    let len = bounds[world];
    let data: Vec<Vec<T>> = (0..world).map(|_| (0..len).map(|_| number(random)).collect()).collect();
    let sums = if world == 1 { data[0].clone() } else { expected(&data, &bounds, op) };

    let mut whole = data.clone();
    let memories = whole.iter_mut().map(|data| Memory::Whole(data));
    run(&mut members(Course::Both, &bounds, piece_len, memories), op, room, random);
    for data in &whole {
        assert_same_bits(data, &sums);
    }

    let part = |rank: usize| bounds[rank]..bounds[rank + 1];
    let mut mine: Vec<Vec<T>> = (0..world).map(|rank| data[rank][part(rank)].to_vec()).collect();
    let memories = (mine.iter_mut().zip(&data).enumerate()).map(|(rank, (mine, data))| Memory::Part {
        data,
        mine,
        start: bounds[rank],
    });
    run(&mut members(Course::Reduce, &bounds, piece_len, memories), op, room, random);
    for (rank, mine) in mine.iter().enumerate() {
        assert_same_bits(mine, &sums[part(rank)]);
    }

    let mut gathered: Vec<Vec<T>> = vec![vec![T::default(); len]; world];
    for (rank, gathered) in gathered.iter_mut().enumerate() {
        gathered[part(rank)].copy_from_slice(&mine[rank]);
    }
    let memories = gathered.iter_mut().map(|data| Memory::Whole(data));
    run(&mut members(Course::Gather, &bounds, piece_len, memories), op, room, random);
    for data in &gathered {
        assert_same_bits(data, &sums);
    }
}

fn ops() -> impl Strategy<Value = ReduceOp> {
    prop_oneof![Just(ReduceOp::Sum), Just(ReduceOp::Min), Just(ReduceOp::Max)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn every_order_of_events_gives_the_same_bits(
        lengths in proptest::collection::vec(prop_oneof![3 => 0..40usize, 1 => Just(0)], 1..=8),
        op in ops(),
        piece_len in 1..9usize,
        // A hop's pieces and one more: with less, all could wait for room.
        room in BURST + 1..2 * BURST + 2,
        kind in 0..5,
        seed: u64,
    ) {
        match kind {
            0 => all_courses::<f32>(&lengths, op, piece_len, room, seed),
            1 => all_courses::<f64>(&lengths, op, piece_len, room, seed),
            2 => all_courses::<i32>(&lengths, op, piece_len, room, seed),
            3 => all_courses::<i64>(&lengths, op, piece_len, room, seed),
            _ => all_courses::<u64>(&lengths, op, piece_len, room, seed),
        }
    }

    #[test]
    fn sums_of_integers_are_the_plain_sums(
        world in 1..=8usize, len in prop_oneof![Just(0usize), 0..8usize, 0..300usize], seed: u64
    ) {
        let random = &mut StdRng::seed_from_u64(seed);
        let bounds = even_bounds(len, world);
        prop_assert_eq!(bounds[world], len);
        let mut data: Vec<Vec<i64>> = (0..world).map(|_| (0..len).map(|_| number(random)).collect()).collect();
        let sums: Vec<i64> =
            (0..len).map(|at| data.iter().fold(0i64, |sum, data| sum.wrapping_add(data[at]))).collect();
        let memories = data.iter_mut().map(|data| Memory::Whole(data));
        run(&mut members(Course::Both, &bounds, 3, memories), ReduceOp::Sum, BURST + 1, random);
        for data in &data {
            prop_assert_eq!(data, &sums);
        }
    }

    #[test]
    fn a_broadcast_is_one_part_that_is_gathered(
        world in 1..=8usize, root in 0..8usize, len in 0..200usize, seed: u64
    ) {
        let random = &mut StdRng::seed_from_u64(seed);
        let root = root % world;
        let mut lengths = vec![0; world];
        lengths[root] = len;
        let bounds = bounds_of(&lengths);
        let mut data: Vec<Vec<u64>> = (0..world).map(|_| (0..len).map(|_| number(random)).collect()).collect();
        let wanted = data[root].clone();
        let memories = data.iter_mut().map(|data| Memory::Whole(data));
        run(&mut members(Course::Gather, &bounds, 7, memories), ReduceOp::Sum, BURST + 1, random);
        for data in &data {
            prop_assert_eq!(data, &wanted);
        }
    }
}

#[test]
fn the_sum_goes_round_from_the_member_after() {
    // Where the order matters: 1e8 swallows a 1 that comes alone.
    let mut data = vec![vec![1e8f32, 1.0, 1.0], vec![1.0, 1e8, 1.0], vec![-1e8, 1.0, -1e8f32]];
    let bounds = even_bounds(3, 3);
    let memories = data.iter_mut().map(|data| Memory::Whole(data));
    run(&mut members(Course::Both, &bounds, 1, memories), ReduceOp::Sum, BURST + 1, &mut StdRng::seed_from_u64(1));
    let wanted = [(1.0 + -1e8) + 1e8, (1.0f32 + 1.0) + 1e8, (1.0 + 1.0) + -1e8f32];
    for data in &data {
        assert_same_bits(data, &wanted);
    }
}

#[test]
fn a_number_wins_over_a_nan_and_equals_stay_as_they_came() {
    let reduce = |op, incoming: f32, own: f32| {
        let mut own = [own];
        f32::combine_into_own(op, bytes_of(&[incoming]), &mut own);
        own[0]
    };
    for op in [ReduceOp::Min, ReduceOp::Max] {
        assert_eq!(reduce(op, f32::NAN, 1.0), 1.0);
        assert_eq!(reduce(op, 1.0, f32::NAN), 1.0);
        assert!(reduce(op, 0.0, -0.0).is_sign_positive());
        assert!(reduce(op, -0.0, 0.0).is_sign_negative());
    }
}
