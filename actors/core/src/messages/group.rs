//! Placement groups: room for several pieces of work, reserved all at once.
//!
//! ```text
//!   client ── CreateGroup, WaitGroup ──▶ GCS ── PrepareBundles, then CommitBundles ──▶ raylets
//!   client ── RemoveGroup ─────────────▶ GCS ── ReturnBundles ───────────────────────▶ raylets
//! ```

use mobula_transport::message;
use serde::{Deserialize, Serialize};

use super::lease::Shape;
use crate::error::Error;
use crate::ids::{JobId, PlacementGroupId};
use crate::resources::Resources;

/// How the bundles of a group lie to each other. Names as in Ray.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub enum PlacementStrategy {
    /// On as few nodes as possible.
    #[default]
    Pack,
    /// On as many nodes as possible.
    Spread,
    /// All on one node.
    StrictPack,
    /// Each on a node of its own.
    StrictSpread,
}

impl PlacementStrategy {
    /// Its name, as in Ray.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pack => "PACK",
            Self::Spread => "SPREAD",
            Self::StrictPack => "STRICT_PACK",
            Self::StrictSpread => "STRICT_SPREAD",
        }
    }
}

/// A placement group, as it was asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupSpec {
    /// Its id.
    pub group: PlacementGroupId,
    /// The job that made it.
    pub job: JobId,
    /// A name for people.
    pub name: Option<String>,
    /// How its bundles lie to each other.
    pub strategy: PlacementStrategy,
    /// What each bundle reserves.
    pub bundles: Vec<Resources>,
    /// Whether it outlives its job.
    pub detached: bool,
}

/// Client to GCS: make a placement group. Answered as soon as it is recorded.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CreateGroup {
    /// What to make.
    pub spec: GroupSpec,
}
message!(CreateGroup => Result<(), Error>);

/// Client to GCS: give the group's room back; actors in it end, tasks in it fail. One that is not
/// known is no error.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RemoveGroup {
    /// The group.
    pub group: PlacementGroupId,
}
message!(RemoveGroup => ());

/// Client to GCS: answered when all bundles are reserved, or with why they never will be; ask again
/// after a time-out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WaitGroup {
    /// The group.
    pub group: PlacementGroupId,
}
message!(WaitGroup => Result<(), Error>);

/// Anyone to GCS: the groups it knows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ListGroups;
message!(ListGroups => Vec<GroupInfo>);

/// A placement group, for people.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GroupInfo {
    /// Its id.
    pub group: PlacementGroupId,
    /// Its name.
    pub name: Option<String>,
    /// The job that made it.
    pub job: JobId,
    /// `PACK`, `SPREAD`, `STRICT_PACK` or `STRICT_SPREAD`.
    pub strategy: String,
    /// `PENDING`, `CREATED` or `RESCHEDULING`.
    pub state: String,
    /// What each bundle reserves, and on which node, once that is so.
    pub bundles: Vec<(Resources, Option<String>)>,
    /// Why it waits.
    pub reason: Option<String>,
}

/// GCS to raylet: set this much aside. Nobody can use it before [`CommitBundles`]. Refused with what
/// is free; all of them or none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PrepareBundles {
    /// The group.
    pub group: PlacementGroupId,
    /// Names this try to place the group.
    pub round: u64,
    /// Bundles by their index in the group.
    pub bundles: Vec<(u32, Resources)>,
}
message!(PrepareBundles => Result<(), Resources>);

/// GCS to raylet: what was set aside in this round may be used. False when it is not there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CommitBundles {
    /// The group.
    pub group: PlacementGroupId,
    /// The try.
    pub round: u64,
}
message!(CommitBundles => bool);

/// GCS to raylet: give the room back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReturnBundles {
    /// The group.
    pub group: PlacementGroupId,
    /// Only what was set aside in this try; everything of the group unless given.
    pub round: Option<u64>,
}
message!(ReturnBundles => ());

/// What a node holds of a group, from one round.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldBundles {
    /// The group.
    pub group: PlacementGroupId,
    /// The round in which they were set aside.
    pub round: u64,
    /// Their indices.
    pub indices: Vec<u32>,
    /// Whether they may be used.
    pub committed: bool,
}

/// Raylet to client, one way: the placement group that this shape lies in is no more.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GroupGone {
    /// The shape.
    pub shape: Shape,
    /// The group.
    pub group: PlacementGroupId,
}
message!(GroupGone);
