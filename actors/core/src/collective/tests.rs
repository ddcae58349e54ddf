//! Groups whose members are threads of this process, with shared memory and with messages.

mod simulated;

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use mobula_transport::{Address, MailboxId, PeerEvent};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::member::Member;
use super::messages::{Lane, OpenLink};
use super::*;
use crate::client::{Client, ClientSetup};
use crate::ids::JobId;
use crate::messages::{KvKeys, KvPut};
use crate::node::Head;

/// The patience of every wait; it only matters when something is broken.
const WITHIN: Duration = Duration::from_secs(60);
const NAMESPACE: &str = "collective:ns";

struct Rig {
    head: Head,
    client: Client,
}

impl Rig {
    fn new() -> Self {
        let head = Head::of_one_cpu();
        let client = Client::start(ClientSetup {
            endpoint: head.endpoint().clone(),
            gcs: head.gcs(),
            raylet: head.raylet(),
            store: head.store().client(),
            job: JobId::random(),
            namespace: "ns".to_owned(),
            binary: None,
            output: None,
        });
        Self { head, client }
    }

    fn config(&self, name: &str, world: u32, rank: u32) -> GroupConfig {
        GroupConfig::new(name, world, rank).join_timeout(WITHIN).patience(WITHIN)
    }

    /// What each member of a group returns, by rank.
    fn members<R: Send>(
        &self,
        world: u32,
        change: impl Fn(GroupConfig) -> GroupConfig + Sync,
        member: impl Fn(Group) -> R + Sync,
    ) -> Vec<R> {
        thread::scope(|scope| {
            let start = |rank| {
                let (change, member) = (&change, &member);
                scope.spawn(move || {
                    member(Group::join_with(&self.client, change(self.config("g", world, rank))).unwrap())
                })
            };
            let threads: Vec<_> = (0..world).map(start).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    fn entries(&self) -> usize {
        let keys = KvKeys { namespace: NAMESPACE.to_owned(), prefix: String::new() };
        self.head.endpoint().request_blocking(self.head.gcs(), keys, vec![], WITHIN).unwrap().0.len()
    }

    fn files_of_links(&self) -> usize {
        let files = std::fs::read_dir(self.client.store().directory()).unwrap().flatten();
        files.filter(|file| file.file_name().to_str().unwrap().starts_with("link-")).count()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.client.shutdown();
        self.head.stop();
    }
}

fn sum(data: &[Vec<i64>], at: usize) -> i64 {
    data.iter().fold(0, |sum, data| sum.wrapping_add(data[at]))
}

/// A long random series of calls, compared with what one would do alone.
fn a_series_of_calls(world: u32, shared: bool, piece_bytes: u32, seed: u64) {
    let rig = Rig::new();
    let n = world as usize;
    let results = rig.members(
        world,
        |config| config.shared_memory(shared).piece_bytes(piece_bytes),
        |mut group| {
            let rank = group.rank() as usize;
            // The same numbers at all members.
            let random = &mut StdRng::seed_from_u64(seed);
            for _ in 0..60 {
                let len = [0, 1, n - 1, 40, random.random_range(0..2000)][random.random_range(0..5)];
                let data: Vec<Vec<i64>> = (0..n).map(|_| (0..len).map(|_| random.random()).collect()).collect();
                let root = random.random_range(0..world);
                let other = (root as usize + random.random_range(0..n)) % n;
                let lengths: Vec<usize> = (0..n).map(|_| random.random_range(0..50)).collect();
                match random.random_range(0..6) {
                    0 => {
                        let mut mine = data[rank].clone();
                        group.allreduce(&mut mine, ReduceOp::Sum).unwrap();
                        assert!((0..len).all(|at| mine[at] == sum(&data, at)));
                    }
                    1 => {
                        let mine = group.reduce_scatter(&data[rank], ReduceOp::Sum).unwrap();
                        let all = group.all_gather(&mine).unwrap();
                        assert!(all.len() == len && (0..len).all(|at| all[at] == sum(&data, at)));
                    }
                    2 => {
                        let total: usize = lengths.iter().sum();
                        let numbers: Vec<f64> = (0..total).map(|at| (at * (rank + 1)) as f64).collect();
                        let mine = group.reduce_scatter_parts(&numbers, &lengths, ReduceOp::Max).unwrap();
                        let all = group.all_gather_parts(&mine, &lengths).unwrap();
                        assert!(all.iter().enumerate().all(|(at, number)| *number == (at * n) as f64));
                    }
                    3 => {
                        let mut mine = data[rank].clone();
                        group.broadcast(&mut mine, root).unwrap();
                        assert_eq!(mine, data[root as usize]);
                    }
                    4 => group.barrier().unwrap(),
                    _ if other == root as usize => {}
                    _ if rank == root as usize => group.send(&data[rank], other as u32).unwrap(),
                    _ if rank == other => assert_eq!(group.recv::<i64>(root).unwrap(), data[root as usize]),
                    _ => {}
                }
            }
            group.barrier().unwrap();
        },
    );
    assert_eq!(results.len(), n);
    assert_eq!((rig.entries(), rig.files_of_links()), (0, 0), "nothing is left of a group that has formed");
}

#[test]
fn calls_through_shared_memory() {
    for (world, piece_bytes, seed) in [(1, 256, 1), (2, 64, 2), (3, 1024, 3), (4, 64, 4), (5, 4096, 5)] {
        a_series_of_calls(world, true, piece_bytes, seed);
    }
}

#[test]
fn calls_in_messages() {
    for (world, piece_bytes, seed) in [(1, 256, 6), (2, 64, 7), (3, 1024, 8), (4, 64, 9)] {
        a_series_of_calls(world, false, piece_bytes, seed);
    }
}

#[test]
fn without_room_for_shared_memory_members_use_messages() {
    let rig = Rig::new();
    std::fs::remove_dir_all(rig.client.store().directory()).unwrap();
    rig.members(
        3,
        |config| config,
        |mut group| {
            let mut data = vec![1_u64; 100_000];
            group.allreduce(&mut data, ReduceOp::Sum).unwrap();
            assert!(data.iter().all(|number| *number == 3));
        },
    );
}

#[test]
fn a_link_whose_memory_is_not_to_be_seen_is_refused() {
    let rig = Rig::new();
    let endpoint = rig.head.endpoint();
    let member = Member::start(endpoint, 1);
    let open = |file: Option<&str>| {
        let open = OpenLink { lane: Lane::Ring, rank: 0, file: file.map(str::to_owned) };
        endpoint.request_blocking(member.address(), open, vec![], WITHIN).unwrap().0
    };
    // As from another machine.
    assert!(!open(Some("/dev/shm/mobula-of-another-machine/link-1")));
    assert!(member.take_link(Lane::Ring, 0).is_none());
    assert!(open(None) && open(None), "the answer to the first question may have been lost");
    assert!(member.take_link(Lane::Ring, 0).is_some());
    assert!(member.take_link(Lane::Ring, 0).is_none(), "it is one link");
    member.leave(0, |_| 0);
}

#[test]
fn one_member_may_send_in_messages_and_the_others_not() {
    let rig = Rig::new();
    rig.members(
        3,
        |config| {
            let shared = config.rank != 1;
            config.shared_memory(shared)
        },
        |mut group| {
            let mut data = vec![group.rank() as f32; 100];
            group.allreduce(&mut data, ReduceOp::Sum).unwrap();
            assert_eq!(data, [3.0; 100]);
        },
    );
}

#[test]
fn floats_are_the_same_bits_for_all_members_whatever_the_pieces() {
    let rig = Rig::new();
    let mut all = Vec::new();
    for (shared, piece_bytes) in [(true, 64), (true, 4096), (false, 256)] {
        let results = rig.members(
            4,
            |config| config.shared_memory(shared).piece_bytes(piece_bytes),
            |mut group| {
                let random = &mut StdRng::seed_from_u64(group.rank().into());
                let mut data: Vec<f32> = (0..1001).map(|_| random.random_range(-1e6..1e6)).collect();
                group.allreduce(&mut data, ReduceOp::Sum).unwrap();
                data.into_iter().map(f32::to_bits).collect::<Vec<_>>()
            },
        );
        all.extend(results);
    }
    assert!(all.iter().all(|bits| *bits == all[0]));
}

#[test]
fn who_leaves_is_missed_in_the_next_call_and_not_before() {
    for shared in [true, false] {
        let rig = Rig::new();
        let results = rig.members(
            3,
            |config| config.shared_memory(shared).piece_bytes(64),
            |mut group| {
                let mut data = vec![1_i64; 1000];
                group.allreduce(&mut data, ReduceOp::Sum).unwrap();
                group.barrier().unwrap();
                if group.rank() == 1 {
                    return (group.rank(), Ok(()));
                }
                (group.rank(), group.allreduce(&mut data, ReduceOp::Sum))
            },
        );
        for (rank, result) in results {
            let wanted = if rank == 1 { Ok(()) } else { Err(GroupError::MemberLeft { rank: 1 }) };
            assert_eq!(result, wanted);
        }
        rig.members(3, |config| config, |mut group| group.barrier().expect("a new group of the same name"));
    }
}

#[test]
fn a_member_that_never_calls_does_not_keep_the_others_when_it_leaves() {
    let rig = Rig::new();
    let (release, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let results = rig.members(
        3,
        |config| config,
        |mut group| match group.rank() {
            0 => {
                // Until the others are in their call for sure, and a moment more.
                let _ = wait.lock().unwrap().recv();
                thread::sleep(Duration::from_millis(20));
                Ok(Vec::new())
            }
            rank => {
                if rank == 1 {
                    release.send(()).unwrap();
                }
                group.all_gather(&[rank as f64])
            }
        },
    );
    assert_eq!(results[1..], [Err(GroupError::MemberLeft { rank: 0 }), Err(GroupError::MemberLeft { rank: 0 })]);
}

type Call = fn(&mut Group) -> Result<(), GroupError>;

#[test]
fn who_calls_something_else_is_an_error_to_all() {
    let usual: Call = |group| group.allreduce(&mut [1.0_f32; 100], ReduceOp::Sum);
    let others: [Call; 8] = [
        |group| group.allreduce(&mut [1.0_f32; 101], ReduceOp::Sum),
        |group| group.allreduce(&mut [1.0_f32; 0], ReduceOp::Sum),
        |group| group.allreduce(&mut [1_i32; 100], ReduceOp::Sum),
        |group| group.allreduce(&mut [1.0_f32; 100], ReduceOp::Max),
        |group| group.broadcast(&mut [1.0_f32; 100], 0),
        |group| group.barrier(),
        |group| group.reduce_scatter(&[1.0_f32; 100], ReduceOp::Sum).map(drop),
        |group| group.all_gather(&[1.0_f32; 25]).map(drop),
    ];
    for (number, other) in others.into_iter().enumerate() {
        let rig = Rig::new();
        let results = rig.members(
            4,
            |config| config.shared_memory(number % 2 == 0),
            |mut group| {
                // A slow member may hear of it in the call before, a fast one in those after.
                group.barrier()?;
                if group.rank() == 2 { other(&mut group) } else { usual(&mut group) }?;
                group.barrier()?;
                group.barrier()
            },
        );
        for result in &results {
            assert!(matches!(result, Err(GroupError::Disagreement { .. })), "{number}: {results:?}");
        }
        rig.members(4, |config| config, |mut group| group.barrier().unwrap());
    }
}

#[test]
fn wrong_arguments_leave_the_group_whole() {
    let rig = Rig::new();
    rig.members(
        2,
        |config| config,
        |mut group| {
            let invalid = |result| assert!(matches!(result, Err(GroupError::Invalid { .. })));
            invalid(group.broadcast(&mut [1_i32], 2));
            invalid(group.send(&[1_i32], 2));
            let rank = group.rank();
            invalid(group.send(&[1_i32], rank));
            invalid(group.reduce_scatter_parts(&[1_i32; 3], &[1, 1], ReduceOp::Sum).map(drop));
            invalid(group.reduce_scatter_parts(&[1_i32; 3], &[1, 1, 1], ReduceOp::Sum).map(drop));
            invalid(group.all_gather_parts(&[1_i32; 3], &[1, 1]).map(drop));
            group.barrier().unwrap();
        },
    );
    for config in [
        GroupConfig::new("", 2, 0),
        GroupConfig::new("g", 0, 0),
        GroupConfig::new("g", 2, 2),
        GroupConfig::new("g", 2, 0).piece_bytes(8),
    ] {
        assert!(matches!(Group::join_with(&rig.client, config), Err(GroupError::Invalid { .. })));
    }
}

#[test]
fn what_was_sent_arrives_though_its_sender_has_left() {
    for shared in [true, false] {
        let rig = Rig::new();
        rig.members(
            2,
            |config| config.shared_memory(shared),
            |mut group| {
                if group.rank() == 0 {
                    group.send(&[1_u64, 2], 1).unwrap();
                    group.send::<f32>(&[], 1).unwrap();
                } else {
                    assert_eq!(group.recv::<u64>(0).unwrap(), [1, 2]);
                    assert!(group.recv::<f32>(0).unwrap().is_empty());
                    assert_eq!(group.recv::<u64>(0), Err(GroupError::MemberLeft { rank: 0 }));
                }
            },
        );
    }
}

#[test]
fn other_numbers_than_were_sent_are_a_disagreement() {
    let rig = Rig::new();
    let results = rig.members(
        2,
        |config| config,
        |mut group| {
            if group.rank() == 0 {
                group.send(&[1_u64, 2], 1).unwrap();
                group.barrier()
            } else {
                group.recv::<f64>(0).map(drop)
            }
        },
    );
    for result in results {
        let Err(GroupError::Disagreement { left_call, right_call, .. }) = result else { panic!("{result:?}") };
        assert_eq!((&*left_call, &*right_call), ("send 1 of 2 u64", "a recv of f64"));
    }
}

#[test]
fn who_does_not_come_is_named() {
    let rig = Rig::new();
    let soon = Duration::from_secs(1);
    for (missing, comes) in [([1], [0, 2]), ([0], [1, 2])] {
        thread::scope(|scope| {
            let threads = comes.map(|rank| {
                let config = rig.config("late", 3, rank).join_timeout(soon);
                scope.spawn(|| Group::join_with(&rig.client, config))
            });
            for joined in threads {
                let Err(GroupError::Missing { name, ranks, after }) = joined.join().unwrap() else { panic!() };
                assert_eq!((&*name, &ranks[..], after), ("late", &missing[..], soon));
            }
        });
        assert_eq!(rig.entries(), 0);
    }
}

#[test]
fn members_that_want_different_groups_are_told() {
    let rig = Rig::new();
    thread::scope(|scope| {
        let join = |world, rank| {
            let config = rig.config("odd", world, rank);
            let client = &rig.client;
            scope.spawn(move || Group::join_with(client, config))
        };
        let leader = join(2, 0);
        let stranger = join(3, 2);
        assert!(matches!(stranger.join().unwrap(), Err(GroupError::Mismatch { .. })));
        let follower = join(2, 1);
        assert!(leader.join().unwrap().is_ok() && follower.join().unwrap().is_ok());
    });
}

#[test]
fn what_a_dead_rank_0_left_in_the_table_is_replaced() {
    let rig = Rig::new();
    let nobody = Address { process: rig.head.endpoint().process(), mailbox: MailboxId(u64::MAX) };
    let value = rmp_serde::to_vec(&nobody).unwrap();
    let put = KvPut { namespace: NAMESPACE.to_owned(), key: "g".to_owned(), value, overwrite: true };
    rig.head.endpoint().request_blocking(rig.head.gcs(), put, vec![], WITHIN).unwrap().0.unwrap();
    rig.members(3, |config| config, |mut group| group.barrier().unwrap());
    assert_eq!(rig.entries(), 0);
}

#[test]
fn a_neighbour_that_is_only_slow_is_named_when_patience_ends() {
    let rig = Rig::new();
    let results = rig.members(
        2,
        |config| {
            let patience = if config.rank == 0 { Duration::from_millis(50) } else { WITHIN };
            config.patience(patience)
        },
        |mut group| {
            if group.rank() == 0 {
                return group.allreduce(&mut [1_i64; 10], ReduceOp::Sum);
            }
            // It calls something when the other one has given up.
            while group.barrier().is_ok() {}
            group.barrier()
        },
    );
    // Either of the two may notice first: the slow one comes late, or with another call.
    for result in results {
        assert!(matches!(
            result,
            Err(GroupError::TimedOut { rank: 1, waiting: 0, .. } | GroupError::Disagreement { .. })
        ));
    }
}

#[test]
fn a_dead_process_ends_the_calls_of_all() {
    let rig = Rig::new();
    let process = rig.head.endpoint().process().id;
    let (tell, told) = mpsc::channel();
    thread::scope(|scope| {
        let collectives = rig.client.collectives();
        scope.spawn(move || {
            told.recv().unwrap();
            thread::sleep(Duration::from_millis(20));
            collectives.peer_event(&PeerEvent::Gone { process, why: "killed".to_owned() });
        });
        let results = rig.members(
            3,
            |config| config,
            |mut group| {
                if group.rank() == 0 {
                    tell.send(()).unwrap();
                    return group.recv::<f32>(1).map(drop);
                }
                group.allreduce(&mut [1.0_f32; 5], ReduceOp::Min)
            },
        );
        for result in results {
            assert_eq!(result, Err(GroupError::MemberDied { rank: 0, why: "killed".to_owned() }));
        }
    });
}

#[test]
fn the_end_of_the_session_ends_the_calls() {
    let rig = Rig::new();
    thread::scope(|scope| {
        let group = |rank| Group::join_with(&rig.client, rig.config("g", 2, rank)).unwrap();
        let waits = scope.spawn(move || group(0).barrier());
        let idle = group(1);
        rig.client.shutdown();
        assert!(waits.join().unwrap().is_err());
        drop(idle);
    });
}
