//! Who may talk: the cluster's certificate authority, credentials and join tokens.

mod credentials;

pub use credentials::{Credentials, CredentialsError};
