//! Typed messages between actors, in process and over QUIC.
//!
//! Everything in Mobula is an actor, and this crate is how a message reaches one. An
//! [`Endpoint`] is a process's place in that world: [`Endpoint::spawn`] starts an [`Actor`],
//! [`Endpoint::request`] asks one, [`Endpoint::send`] tells one. An [`Address`] in this process
//! gets the message moved, not serialised; one in another process gets it over QUIC.
//!
//! What cannot be delivered is never lost silently: a request fails with a [`SendError`], a
//! one-way message returns to its sender as [`Undelivered`]. *Gone* (known dead) is kept apart
//! from *unreachable*.
//!
//! The crate knows nothing of any particular actor.

mod actor;
mod address;
mod arbiter;
mod asker;
mod backoff;
mod bulk;
mod config;
mod core;
mod endpoint;
mod envelope;
mod error;
mod frame;
#[doc(hidden)]
pub mod fuzzing;
pub mod identity;
mod inline;
mod lane;
mod link;
mod message;
mod metrics;
mod network;
mod peers;
mod pending;
mod quic;
mod refusals;
mod runtime;
mod sending;
pub mod sim;
mod stream;
mod wire;

pub use actor::{Actor, Context, Handlers, Poster, Runner, TimerId};
pub use address::{Address, MailboxId, ProcessAddr, ProcessId, Sender};
pub use bulk::{BULK_REQUEST_MAX_BYTES, Bulk, BulkBody, BulkSink, BulkSource};
pub use config::{EndpointConfig, Limits, MAX_FRAME_BYTES, RuntimeChoice, Secret};
pub use endpoint::{BindError, Endpoint, Mailbox};
pub use envelope::{Answered, Envelope, Replier, Request};
pub use error::{DiscoverError, SendError, Undelivered, Unsent};
pub use identity::Credentials;
pub use message::{Message, Payload, wire_kind};
pub use metrics::MetricsSnapshot;
pub use peers::PeerEvent;
pub use refusals::{LastRefusal, RefusalReason, RefusalsSnapshot};
pub use sending::RequestFuture;
pub use stream::{ReplySink, ReplyStream, STREAM_WINDOW_ITEMS};
