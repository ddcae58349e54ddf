//! What the members of a group say to each other's mailboxes.
//!
//! ```text
//!   rank r                      rank 0                         the member after
//!     JoinGroup ────────────────▶ gathers
//!     ◀──────────────── Formed ── all have come
//!     OpenLink ────────────────────────────────────────────────▶ here it is
//!     SendPiece, SendPiece ... (where memory is not shared) ───▶ answered when it is read
//!     MemberEnded ──▶ all: it has left, or the group has failed
//! ```
//! All of them are requests, sent again when the connection broke; a second arrival changes nothing.

use mobula_transport::{Address, message};
use serde::{Deserialize, Serialize};

use super::error::GroupError;

/// A member to rank 0: count me in. Answered when all have come, or not in time.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct JoinGroup {
    pub(super) rank: u32,
    pub(super) world: u32,
    pub(super) address: Address,
}
message!(JoinGroup => Result<Formed, GroupError>);

/// All have come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Formed {
    /// By rank.
    pub(super) members: Vec<Address>,
    /// The longest piece, as rank 0 has it.
    pub(super) piece_bytes: u32,
}

/// A member to rank 0: I wait no longer. Answered with who is missing.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Withdraw {
    pub(super) rank: u32,
    pub(super) address: Address,
}
message!(Withdraw => Vec<u32>);

/// Another rank 0: is this group still forming?
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct IsForming;
message!(IsForming => bool);

/// Which of the links between two members.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub(super) enum Lane {
    /// That of the ring.
    Ring,
    /// For what one member sends to another.
    Direct,
}

/// A member to one that it will send to: this is the link. Answered with whether it can be used.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct OpenLink {
    pub(super) lane: Lane,
    pub(super) rank: u32,
    /// The file of its memory; none when pieces come in messages.
    pub(super) file: Option<String>,
}
message!(OpenLink => bool);

/// A piece of a link without shared memory, beside the message. Answered when it has been read.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct SendPiece {
    pub(super) lane: Lane,
    pub(super) rank: u32,
    /// Counts up from 0.
    pub(super) number: u64,
}
message!(SendPiece);

/// A member to all others: there is nothing more to come from me.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct MemberEnded {
    pub(super) rank: u32,
    /// The calls that it has carried out.
    pub(super) calls: u64,
    /// The pieces that it has sent to the receiver directly.
    pub(super) direct: u64,
    /// Why the group is at its end, unless the member has only left.
    pub(super) failure: Option<GroupError>,
}
message!(MemberEnded);
