//! Why a head, node or connection could not be started, and what to do.

use std::net::SocketAddr;
use std::time::Duration;

use mobula_transport::identity::{IdentityError, JoinError, TokenError};
use mobula_transport::{BindError, SendError};

use crate::error::Error;
use crate::gcs::storage::StorageError;
use crate::resources::InvalidAmount;

/// Why a node could not be started, or a cluster not be reached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The endpoint could not be set up.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Not an address.
    #[error("{address:?} is not the address of a head, which looks like host:port: {why}")]
    Address {
        /// What was given.
        address: String,
        /// What is wrong with it.
        why: String,
    },
    /// Nothing answers there, or it does not take our credentials.
    #[error(
        "no cluster answers at {address}: {source}; start one with `mobula start --head`, or check the address and \
         the credentials (another cluster's, or an older one's at the same address, are refused)"
    )]
    NoCluster {
        /// Where.
        address: SocketAddr,
        /// What the network said.
        #[source]
        source: SendError,
    },
    /// The head has refused the node.
    #[error("the head refused this node: {why}")]
    Refused {
        /// Its reason.
        why: String,
    },
    /// The head did not answer.
    #[error("the head did not take this node in within {within:?}; is it overloaded, or stopping?")]
    Silent {
        /// How long was waited.
        within: Duration,
    },
    /// The token was not accepted.
    #[error("cannot join the cluster at {address}: {source}")]
    Join {
        /// The head.
        address: SocketAddr,
        /// Why.
        #[source]
        source: JoinError,
    },
    /// The token is not one.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// Credentials are missing or unreadable.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The head's state cannot be used.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A resource is not an amount.
    #[error(transparent)]
    Resource(#[from] InvalidAmount),
    /// The head refused the job, or the store could not be started.
    #[error(transparent)]
    Core(#[from] Error),
    /// A file or thread.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The environment of a worker process makes no sense.
    #[error("the environment variable MOBULA_WORKER is not what a raylet sets: {why}; unset it to run as a driver")]
    Environment {
        /// What is wrong.
        why: String,
    },
}

impl NodeError {
    pub(super) fn system(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::System { what, source }
    }
}
