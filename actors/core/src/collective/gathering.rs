//! Who has come to a group that is forming: rank 0's list.
//!
//! Pure: it is told who comes and goes, and says what to answer. The mailbox of rank 0 keeps those
//! who wait for the answer.

use std::collections::BTreeMap;

use mobula_transport::{Address, ProcessId};

use super::error::GroupError;

/// The members of a group that is forming.
#[derive(Clone, Debug)]
pub(super) struct Gathering {
    name: String,
    world: u32,
    come: BTreeMap<u32, Address>,
}

impl Gathering {
    /// A group to which rank 0 has come.
    pub(super) fn new(name: String, world: u32, leader: Address) -> Self {
        Self { name, world, come: BTreeMap::from([(0, leader)]) }
    }

    /// A member comes, perhaps for the second time.
    pub(super) fn join(&mut self, rank: u32, world: u32, address: Address) -> Result<(), GroupError> {
        let name = &self.name;
        if world != self.world {
            let what = format!(
                "rank {rank} wants group {name:?} to have {world} members, rank 0 wants {}; give all members the same number",
                self.world
            );
            return Err(GroupError::Mismatch { what });
        }
        if rank == 0 || rank >= world {
            let what = format!("group {name:?} of {world} members has no place for another rank {rank}");
            return Err(GroupError::Mismatch { what });
        }
        match self.come.insert(rank, address) {
            Some(other) if other != address => {
                self.come.insert(rank, other);
                let what = format!(
                    "two members want to be rank {rank} of group {name:?}, at {other} and at {address}; give each its own rank"
                );
                Err(GroupError::Mismatch { what })
            }
            _ => Ok(()),
        }
    }

    /// A member does not wait any longer.
    pub(super) fn withdraw(&mut self, rank: u32, address: Address) {
        if rank != 0 && self.come.get(&rank) == Some(&address) {
            self.come.remove(&rank);
        }
    }

    /// A process is dead; its members do not come any more. Returns their ranks.
    pub(super) fn gone(&mut self, process: ProcessId) -> Vec<u32> {
        let gone = |rank: &u32, address: &mut Address| *rank != 0 && address.process.id == process;
        self.come.extract_if(.., gone).map(|(rank, _)| rank).collect()
    }

    /// Who has not come yet.
    pub(super) fn missing(&self) -> Vec<u32> {
        (0..self.world).filter(|rank| !self.come.contains_key(rank)).collect()
    }

    /// All members by their ranks, if they have come.
    pub(super) fn members(&self) -> Option<Vec<Address>> {
        let all = self.come.len() == self.world as usize;
        all.then(|| self.come.values().copied().collect())
    }
}

#[cfg(test)]
mod tests {
    use mobula_transport::{MailboxId, ProcessAddr};

    use super::*;

    fn address(number: u64) -> Address {
        let process = ProcessAddr { id: ProcessId::random(), socket: ProcessAddr::IN_PROCESS };
        Address { process, mailbox: MailboxId(number) }
    }

    #[test]
    fn a_group_forms_when_all_have_come() {
        let all = [address(0), address(1), address(2)];
        let mut gathering = Gathering::new("g".into(), 3, all[0]);
        assert_eq!(gathering.missing(), [1, 2]);
        gathering.join(2, 3, all[2]).unwrap();
        gathering.join(2, 3, all[2]).expect("its first question may have been lost");
        assert_eq!((gathering.missing(), gathering.members()), (vec![1], None));
        gathering.join(1, 3, all[1]).unwrap();
        assert_eq!(gathering.members(), Some(all.to_vec()));
    }

    #[test]
    fn who_does_not_fit_is_told_why() {
        let first = address(1);
        let mut gathering = Gathering::new("g".into(), 3, address(0));
        gathering.join(1, 3, first).unwrap();
        for (rank, world) in [(1, 3), (0, 3), (3, 3), (2, 4)] {
            assert!(matches!(gathering.join(rank, world, address(9)), Err(GroupError::Mismatch { .. })));
        }
        assert_eq!(gathering.missing(), [2]);
        gathering.join(2, 3, address(2)).unwrap();
        assert_eq!(gathering.members().unwrap()[1], first, "the first one stays");
    }

    #[test]
    fn who_waits_no_longer_makes_room() {
        let (leader, old, new) = (address(0), address(1), address(1));
        let mut gathering = Gathering::new("g".into(), 2, leader);
        gathering.join(1, 2, old).unwrap();
        gathering.withdraw(1, new);
        assert!(gathering.members().is_some(), "that was somebody else");
        gathering.withdraw(1, old);
        gathering.withdraw(0, leader);
        assert_eq!(gathering.missing(), [1]);
        gathering.join(1, 2, old).unwrap();
        assert_eq!(gathering.gone(leader.process.id), [] as [u32; 0]);
        assert_eq!(gathering.gone(old.process.id), [1]);
        gathering.join(1, 2, new).unwrap();
        assert_eq!(gathering.members(), Some(vec![leader, new]));
    }
}
