//! References over processes: who holds what of whom.
//!
//! ```text
//!   borrower ── BorrowObjects ─▶ owner        owner ── StillBorrowed ─▶ borrower
//!   borrower ── ReturnObjects ─▶ owner        worker ─ StillReturning ▶ submitter
//!   submitter ─ ResultKept ────▶ worker
//! ```

use mobula_transport::{ProcessAddr, message};
use serde::{Deserialize, Serialize};

use super::task::Nodes;
use crate::ids::ObjectId;

/// A reference inside a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainedRef {
    /// Which of the results it is in.
    pub result: u32,
    /// What it refers to.
    pub object: ObjectId,
    /// The process that owns that.
    pub owner: ProcessAddr,
}

/// Borrower to owner: this process holds these objects, each under a number of its own. Answered
/// with those that the owner does not have. Coming twice changes nothing.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BorrowObjects {
    /// The objects and the borrower's numbers for the loans.
    pub loans: Vec<(ObjectId, u64)>,
}
message!(BorrowObjects => Vec<ObjectId>);

/// Borrower to owner: these loans are over. Told until it is answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReturnObjects {
    /// The objects and the borrower's numbers for the loans.
    pub loans: Vec<(ObjectId, u64)>,
}
message!(ReturnObjects => ());

/// Owner to borrower, now and then: do you still have these? Answered with those that it does not
/// have.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StillBorrowed {
    /// The objects and the borrower's numbers for the loans.
    pub loans: Vec<(ObjectId, u64)>,
}
message!(StillBorrowed => Vec<(ObjectId, u64)>);

/// Borrower to owner: where are these? Answered at once; `None` for what is not ready, failed or
/// unknown.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LocateObjects {
    /// The objects.
    pub objects: Vec<ObjectId>,
}
message!(LocateObjects => Vec<Option<ObjectPlace>>);

/// Where an object is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectPlace {
    /// Its size.
    pub size_bytes: u64,
    /// The processes (raylets) whose store has it; none for a small one, which its owner keeps.
    pub nodes: Nodes,
}

/// Borrower to owner: free the object's bytes, though references remain. Told until it is answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FreeObject {
    /// The object.
    pub object: ObjectId,
}
message!(FreeObject => ());

/// Submitter to worker: the references inside the results of these attempts are held by the
/// submitter itself from now on, or not needed. Told until it is answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ResultKept {
    /// The submitter's numbers of the tasks or calls, and the attempts.
    pub attempts: Vec<(u64, u32)>,
}
message!(ResultKept => ());

/// Worker to submitter, now and then: the worker holds the references inside the results of these
/// attempts for you. Answered with those for which it need not any more.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StillReturning {
    /// The submitter's numbers of the tasks or calls, and the attempts.
    pub attempts: Vec<(u64, u32)>,
}
message!(StillReturning => Vec<(u64, u32)>);
