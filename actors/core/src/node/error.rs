//! Why a head, node or connection could not be started, and what to do.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use mobula_transport::BindError;
use mobula_transport::identity::{IdentityError, JoinError, TokenError};

use crate::error::Error;
use crate::gcs::storage::StorageError;
use crate::labels::InvalidLabel;
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
    /// Another head has its operator's credentials there.
    #[error(
        "{} holds the credentials of another cluster, whose head lives at {address}; stop that one, or give this one a \
         place of its own: --credentials DIR or MOBULA_CREDENTIALS, for all programs that are to reach it",
        credentials.display()
    )]
    CredentialsInUse {
        /// The directory.
        credentials: PathBuf,
        /// Where the other head is.
        address: SocketAddr,
    },
    /// Nobody listens there.
    #[error("nobody listens at {address}; start a cluster there with `mobula start --head`, or check the address")]
    NoCluster {
        /// Where.
        address: SocketAddr,
    },
    /// Nothing answers there, and nothing says that nobody listens.
    #[error(
        "nothing answers at {address} within {within:?}; either what listens there is no Mobula head, or a firewall \
         drops what is sent (Mobula speaks UDP): check host, port and firewall"
    )]
    NoAnswer {
        /// Where.
        address: SocketAddr,
        /// How long was waited.
        within: Duration,
    },
    /// What listens there is something else.
    #[error("what listens at {address} is no Mobula head ({why}); check host and port")]
    NotMobula {
        /// Where.
        address: SocketAddr,
        /// What the network said.
        why: String,
    },
    /// It is another cluster's head.
    #[error(
        "the head at {address} is not of the cluster that {credentials} are for ({why}); use that cluster's own: \
         --credentials DIR, MOBULA_CREDENTIALS or Config::credentials name their directory (a head that was started \
         on a new directory is a new cluster)"
    )]
    OtherCluster {
        /// Where.
        address: SocketAddr,
        /// Our credentials, for people.
        credentials: String,
        /// What TLS said.
        why: String,
    },
    /// The head wants no connection.
    #[error("the head at {address} refused the connection: {why}")]
    NotAdmitted {
        /// Where.
        address: SocketAddr,
        /// Its reason.
        why: String,
    },
    /// There are no credentials.
    #[error(
        "no credentials in {dir}: `mobula start --head` writes them there for who starts it; for a head elsewhere \
         copy its operator's and name their directory with --credentials DIR, MOBULA_CREDENTIALS or \
         Config::credentials", dir = .dir.display()
    )]
    NoCredentials {
        /// Where they were looked for.
        dir: PathBuf,
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
    /// More GPUs are offered than this process sees.
    #[error(
        "{asked} GPUs were asked for, but CUDA_VISIBLE_DEVICES names only {names}; unset it, name more there, or give \
         a smaller --num-gpus", names = if visible.is_empty() { "none".to_owned() } else { visible.join(",") }
    )]
    Gpus {
        /// How many were asked for.
        asked: f64,
        /// Those that are visible.
        visible: Vec<String>,
    },
    /// A label is none.
    #[error(transparent)]
    Label(#[from] InvalidLabel),
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
