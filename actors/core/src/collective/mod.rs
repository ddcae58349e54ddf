//! Collectives: what the members of a group do together with numbers that each of them has.
//!
//! [`Group::join`] makes a ring of actors, one per member, wherever they live; its methods reduce,
//! gather and hand round. They are calls for the threads of actors and tasks: they block, and lend
//! the CPU while they wait.
//!
//! ```text
//!   allreduce of 4 members: part p starts at member p+1, is added up on its way round,
//!   is whole at member p, and goes round once more
//!
//!          ┌────────────────────────────────────────────────┐
//!          ▼                                                │
//!     member 0 ── link ──▶ member 1 ── link ──▶ member 2 ── link ──▶ member 3
//!                          x1                   x1+x2                x1+x2+x3      part 0,
//!     x1+x2+x3+x0 ───────▶ keeps it ──────────▶ keeps it ──────────▶ keeps it      in pieces
//! ```
//!
//! A *link* leads from a member to the next one in bounded slots: through shared memory where both
//! see the same, in messages where they do not. Who waits for a piece, or for a free slot, is the
//! calling thread; it also does the adding, in the caller's own memory and the links' slots. The
//! member's mailbox only takes messages and never touches the data.
//!
//! **The order of additions** is fixed by the ring: part `p` of `n` members is
//! `((x[p+1] + x[p+2]) + ...) + x[p]`, counting round. Each sum is made by one member and handed to
//! the others, so that all of them get the same bits; how the data are cut into pieces, and what
//! arrives when, changes nothing.
//!
//! **Failures.** A member that dies, leaves while it is needed, or calls something else than its
//! neighbour ends the group: the call of every other member, or its next one, fails with the same
//! [`GroupError`]. Then all may join a new group under the same name.
//!
//! | module | what it is |
//! |---|---|
//! | `ring` | pure: which piece goes when, and what becomes of it |
//! | `element`, `call` | pure: the arithmetic; what members must agree on |
//! | `gathering` | pure: who has come to a group that is forming |
//! | `bell`, `segment`, `link` | waiting, slots in shared memory, the ways between members |
//! | `member`, `joining` | a member's mailbox and what it knows; how a group forms |
//! | `group` | the calls |
//!
//! The links' memory (half a MiB each by default) is not in the store's ledger. What this does not do:
//! survive the loss of a member (the caller does, with a new group), or reduce anything but numbers.

mod bell;
mod call;
mod element;
mod error;
mod gathering;
mod group;
mod joining;
mod link;
mod member;
mod messages;
mod ring;
mod segment;
#[cfg(test)]
mod tests;

pub use self::element::{Element, ReduceOp};
pub use self::error::GroupError;
pub use self::group::{Group, GroupConfig};
pub(crate) use self::member::Collectives;
