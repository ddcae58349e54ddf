//! Files that are not on this machine: objects in S3, files behind `https://` and `http://`.
//!
//! Everything here blocks, and may be called from any thread that may block: one small runtime
//! per process, started when first needed, does the waiting. Entry types, by what one wants:
//!
//! - [`Remote::open`] gives a [`RemoteFile`], which reads ranges of one state of a file and is a
//!   source for the Parquet reader. If the file is replaced meanwhile, that is an error.
//! - [`list`] finds what a path, a directory or a pattern means.
//! - [`RemoteWriter`] uploads an object that nobody sees; what it leaves is a [`PendingUpload`],
//!   and [`complete`] makes many of them visible; [`abort`] gives them up. [`uploads_under`] finds
//!   what dead runs left, and [`upload_states`] what can still be made of it.
//! - [`delete`], [`put_small`] and [`exists`] are what a commit needs beside that.
//! - [`check_identity`] says in words why a store cannot be used.
//!
//! ```text
//! RemoteFile ─┐                  ┌─ S3 (signs, finds the bucket's region)
//! list        ├─ retry ─ attempt ┤
//! upload      ┘    │             └─ HTTP (follows redirects)
//!                  └ a request that fails for a passing reason is made again, later and later;
//!                    who is told to slow down holds back all requests of its client
//! ```
//!
//! Nothing is cached on disk, and no name but `s3`, `https` and `http` is known.

mod body;
mod cache;
mod chunks;
mod commit;
mod credentials;
mod failure;
mod fetch;
mod file;
mod http;
mod list;
mod location;
mod object;
mod objects;
mod options;
mod ranges;
mod retry;
mod runtime;
mod s3;
mod streams;
mod upload;
mod window;

pub use chunks::RemoteRead;
pub(crate) use commit::abort_listed;
pub use commit::{Incomplete, UploadState, abort, complete, upload_states, uploads_under};
pub use credentials::check_identity;
pub use failure::error_within;
pub use file::{Remote, RemoteFile};
pub(crate) use list::may_mean;
pub use list::{RemoteEntry, list};
pub use location::{Location, is_remote, shown};
pub(crate) use objects::read_small;
pub use objects::{delete, exists, put_small};
pub use options::StorageOptions;
pub use upload::{PendingUpload, RemoteWriter};
