//! What can go wrong in a group, the same for all of its members.

use std::time::Duration;

use mobula_transport::SendError;
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// Why a group did not form, or ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum GroupError {
    /// The arguments contradict each other. The group is as before, but if the others have made
    /// the same call they wait for this member: make it rightly, or drop the group.
    #[error("{what}")]
    Invalid {
        /// What is wrong and what to do.
        what: String,
    },
    /// Not all members came in time.
    #[error("group {name:?} did not form within {after:?}: {} {ranks:?} did not come", rank_s(.ranks))]
    Missing {
        /// The group.
        name: String,
        /// Who did not come. Rank 0 gathers the others: when it is missing, only it is named.
        ranks: Vec<u32>,
        /// How long was waited.
        after: Duration,
    },
    /// The members want different groups of the same name.
    #[error("{what}")]
    Mismatch {
        /// Who wants what.
        what: String,
    },
    /// Neighbours called different methods, or the same with other lengths, types or operations.
    #[error(
        "the members of the group disagree: rank {left} is at {left_call}, rank {right} at {right_call}; all members must make the same calls in the same order"
    )]
    Disagreement {
        /// One of them.
        left: u32,
        /// What it called.
        left_call: String,
        /// The other one.
        right: u32,
        /// What that called.
        right_call: String,
    },
    /// The process of a member died.
    #[error("rank {rank} of the group died: {why}; join a new group of the same name to go on")]
    MemberDied {
        /// Whose.
        rank: u32,
        /// How.
        why: String,
    },
    /// A member left (its group was dropped) while it was still needed.
    #[error("rank {rank} has left the group; join a new group of the same name to go on")]
    MemberLeft {
        /// Who.
        rank: u32,
    },
    /// A member cannot be reached over the network.
    #[error("rank {rank} of the group cannot be reached: {why}; join a new group of the same name to go on")]
    Unreachable {
        /// Who.
        rank: u32,
        /// What the network said.
        why: String,
    },
    /// Nothing came from a neighbour for too long.
    #[error(
        "rank {waiting} waited {after:?} for rank {rank} in {call}: that, or one before it, is too late; see GroupConfig::patience"
    )]
    TimedOut {
        /// Who was waited for.
        rank: u32,
        /// Who waited.
        waiting: u32,
        /// What it waited in.
        call: String,
        /// How long.
        after: Duration,
    },
    /// The operating system refused something.
    #[error("{what}: {why}")]
    System {
        /// What was tried.
        what: String,
        /// What the system said.
        why: String,
    },
    /// The cluster could not be asked, or there is no session.
    #[error(transparent)]
    Cluster(#[from] Box<Error>),
}

impl From<Error> for GroupError {
    fn from(error: Error) -> Self {
        Self::Cluster(Box::new(error))
    }
}

impl GroupError {
    /// What it means that a message to `rank` failed.
    pub(super) fn of_send(rank: u32, error: &SendError) -> Self {
        match error {
            SendError::Gone { why, .. } => Self::MemberDied { rank, why: why.clone() },
            SendError::NoSuchActor | SendError::Dropped => Self::MemberLeft { rank },
            other => Self::Unreachable { rank, why: other.to_string() },
        }
    }
}

fn rank_s(ranks: &[u32]) -> &'static str {
    if ranks.len() == 1 { "rank" } else { "ranks" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_with_this_error_stay_small() {
        assert!(size_of::<GroupError>() < 128, "{} bytes", size_of::<GroupError>());
    }

    #[test]
    fn the_missing_are_named() {
        let error = GroupError::Missing { name: "g".into(), ranks: vec![1, 3], after: Duration::from_secs(2) };
        assert_eq!(error.to_string(), "group \"g\" did not form within 2s: ranks [1, 3] did not come");
    }
}
