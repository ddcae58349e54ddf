//! What a command can fail with. Printed to stderr as one line; the exit code is then not 0.

use std::path::PathBuf;

use mobula_core::node::NodeError;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// A task, actor or object failed, or the session could not be started.
    #[error(transparent)]
    Mobula(Box<mobula::Error>),
    /// A node could not be started, or a cluster not be reached.
    #[error(transparent)]
    Node(Box<NodeError>),
    /// The result could not be written.
    #[error("the result cannot be written: {0}")]
    Output(#[source] std::io::Error),
    /// The result could not be written as JSON.
    #[error("the result cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// The operating system refused something.
    #[error("{what}: {why}")]
    System {
        /// What was tried.
        what: String,
        /// What the system said.
        why: std::io::Error,
    },
    /// A file could not be read or written.
    #[error("{path}: {why}", path = .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        why: std::io::Error,
    },
    /// The command was given something that makes no sense.
    #[error("{0}")]
    Usage(String),
    /// A case of the benchmark failed.
    #[error("{name}: {why}")]
    Case {
        /// Its name.
        name: &'static str,
        /// What happened.
        why: Box<CliError>,
    },
    /// A helper process did not do its part.
    #[error("{what}: {why}")]
    Child {
        /// Which process.
        what: String,
        /// What happened.
        why: String,
    },
}

impl From<mobula::Error> for CliError {
    fn from(error: mobula::Error) -> Self {
        Self::Mobula(Box::new(error))
    }
}

impl From<NodeError> for CliError {
    fn from(error: NodeError) -> Self {
        Self::Node(Box::new(error))
    }
}

impl CliError {
    /// An error of the operating system while `what` was tried.
    pub(crate) fn system(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |why| Self::System { what, why }
    }

    /// An error at a file.
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |why| Self::File { path, why }
    }
}
