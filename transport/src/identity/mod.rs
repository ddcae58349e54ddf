//! Who may talk: the cluster's certificate authority, credentials and join tokens.
//!
//! A head makes a [`ClusterAuthority`]. A process that has no certificate yet presents a
//! [`JoinToken`] and gets one:
//!
//! ```text
//!   joiner                                        head (serves joins)
//!     connect, ALPN "mobula-join/1" -------------->  no client certificate asked
//!     check: the head's chain ends in the authority
//!            whose fingerprint the token carries
//!     { secret, certificate request } ------------>  secret compared in constant time
//!     <----------- { certificate, authority } -----  or why not
//! ```
//! All other connections are mutually authenticated with certificates of the same authority.

mod authority;
mod credentials;
mod join;
pub(crate) mod tls;
mod token;

pub use authority::{ClusterAuthority, Role};
pub use credentials::{Credentials, IdentityError};
pub use join::{JoinError, JoinPolicy, JoinRefusal, join};
pub use token::{JoinToken, TokenError};

pub(crate) use join::{JoinAnswer, JoinRequest, Unjoined, serve as serve_join};
