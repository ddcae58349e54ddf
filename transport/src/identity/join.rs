//! Joining a cluster: exchanging a token for a certificate.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use quinn::ReadToEndError;
use quinn::crypto::rustls::QuicClientConfig;
use serde::{Deserialize, Serialize};

use super::authority::{ClusterAuthority, KeyRequest, Role, cluster_id_of};
use super::credentials::{Credentials, IdentityError};
use super::tls::{PinnedAuthority, SERVER_NAME, joining_client};
use super::token::JoinToken;

/// How long a join may take, on either side.
const JOIN_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest request or answer.
const JOIN_MAX_BYTES: usize = 64 * 1024;
/// Tokens a head keeps; the oldest is dropped for a new one.
const MAX_TOKENS: usize = 64;

/// Why joining failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The token has ended.
    #[error("the join token has expired; `mobula token` prints a new one where the operator's credentials are")]
    Expired,
    /// The address is answered by another cluster (or by an impostor).
    #[error("the process at {addr} does not belong to the token's cluster; check the address")]
    WrongCluster {
        /// Who was asked.
        addr: SocketAddr,
    },
    /// The head refused.
    #[error("the head refused: {0}")]
    Refused(JoinRefusal),
    /// Nobody answered.
    #[error("no head answers at {addr}: {why}; check the address, and that the head runs")]
    Unreachable {
        /// Who was asked.
        addr: SocketAddr,
        /// What the network said.
        why: String,
    },
    /// No key could be made, or the certificate is of no use.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// Why a head refused a joiner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum JoinRefusal {
    /// No token with this secret.
    #[error("the token is not known to this head (it may have been restarted); `mobula token` prints one that is")]
    UnknownToken,
    /// The token has ended.
    #[error("the token has expired; `mobula token` prints a new one")]
    Expired,
    /// The request makes no sense.
    #[error("malformed request: {0}")]
    Malformed(String),
}

/// Who may join: what a head serves with
/// [`Endpoint::serve_join`](crate::Endpoint::serve_join).
#[derive(Debug)]
pub struct JoinPolicy {
    authority: ClusterAuthority,
    role: Role,
    tokens: Mutex<Vec<JoinToken>>,
}

impl JoinPolicy {
    /// Issues certificates of `authority` for `role`; no token is known yet.
    pub fn new(authority: ClusterAuthority, role: Role) -> Self {
        Self { authority, role, tokens: Mutex::default() }
    }

    /// Makes `token` known. Of more than 64 that have not expired the oldest is forgotten.
    pub fn allow(&self, token: JoinToken) {
        let mut tokens = self.tokens.lock();
        tokens.retain(|known| !known.is_expired());
        if tokens.len() >= MAX_TOKENS {
            tokens.remove(0);
        }
        tokens.push(token);
    }

    /// Makes a new token and makes it known.
    pub fn new_token(&self, valid: Duration) -> JoinToken {
        let token = self.authority.token(valid);
        self.allow(token.clone());
        token
    }

    /// The authority behind it.
    pub fn authority(&self) -> &ClusterAuthority {
        &self.authority
    }

    /// The answer to a request as it came over the wire.
    pub(crate) fn answer_bytes(&self, request: &[u8]) -> JoinAnswer {
        match rmp_serde::from_slice::<JoinRequest>(request) {
            Ok(request) => self.answer(&request),
            Err(error) => JoinAnswer::Refused(JoinRefusal::Malformed(error.to_string())),
        }
    }

    fn answer(&self, request: &JoinRequest) -> JoinAnswer {
        // Every token is compared, so that time does not tell which one nearly matched.
        let known = self.tokens.lock().iter().fold(None, |found, token| {
            if token.has_secret(&request.secret) { Some(token.is_expired()) } else { found }
        });
        match known {
            None => JoinAnswer::Refused(JoinRefusal::UnknownToken),
            Some(true) => JoinAnswer::Refused(JoinRefusal::Expired),
            Some(false) => match self.authority.issue(&request.request_pem, self.role) {
                Ok(cert_pem) => JoinAnswer::Granted { cert_pem, ca_pem: self.authority.ca_pem().to_owned() },
                Err(error) => JoinAnswer::Refused(JoinRefusal::Malformed(error.to_string())),
            },
        }
    }
}

#[derive(Serialize, Deserialize)]
pub(crate) struct JoinRequest {
    pub(crate) secret: [u8; 32],
    pub(crate) request_pem: String,
}

#[derive(Serialize, Deserialize)]
pub(crate) enum JoinAnswer {
    Granted { cert_pem: String, ca_pem: String },
    Refused(JoinRefusal),
}

/// Exchanges `token` for credentials with the head at `addr`. Blocks, for seconds at most.
pub fn join(addr: SocketAddr, token: &JoinToken) -> Result<Credentials, JoinError> {
    if token.is_expired() {
        return Err(JoinError::Expired);
    }
    let unreachable = |why: String| JoinError::Unreachable { addr, why };
    let token = token.clone();
    // A thread of its own, so that callers inside a runtime may join too.
    let worker = thread::Builder::new().name("mobula-join".into()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| JoinError::Unreachable { addr, why: error.to_string() })?;
        runtime.block_on(async {
            tokio::time::timeout(JOIN_TIMEOUT, exchange(addr, &token))
                .await
                .unwrap_or_else(|_| Err(JoinError::Unreachable { addr, why: format!("no answer in {JOIN_TIMEOUT:?}") }))
        })
    });
    worker
        .map_err(|error| unreachable(error.to_string()))?
        .join()
        .unwrap_or_else(|_| Err(unreachable("the joining thread failed".into())))
}

async fn exchange(addr: SocketAddr, token: &JoinToken) -> Result<Credentials, JoinError> {
    let unreachable = |error: &dyn std::fmt::Display| JoinError::Unreachable { addr, why: error.to_string() };
    let key = KeyRequest::new()?;
    let verifier = Arc::new(PinnedAuthority::new(token.ca_fingerprint));
    let tls = QuicClientConfig::try_from(joining_client(verifier.clone())?).map_err(|error| unreachable(&error))?;
    let local: SocketAddr = match addr {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let mut endpoint = quinn::Endpoint::client(local).map_err(|error| unreachable(&error))?;
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(tls)));
    let connecting = endpoint.connect(addr, SERVER_NAME).map_err(|error| unreachable(&error))?;
    let connection = match connecting.await {
        Ok(connection) => connection,
        Err(_) if verifier.was_refused() => return Err(JoinError::WrongCluster { addr }),
        Err(error) => return Err(unreachable(&error)),
    };
    let answer = async {
        let (mut send, mut receive) = connection.open_bi().await?;
        let request = JoinRequest { secret: token.secret, request_pem: key.request_pem.clone() };
        send.write_all(&rmp_serde::to_vec(&request)?).await?;
        send.finish()?;
        let answer = receive.read_to_end(JOIN_MAX_BYTES).await?;
        Ok::<JoinAnswer, Box<dyn std::error::Error + Send + Sync>>(rmp_serde::from_slice(&answer)?)
    }
    .await
    // Why the connection ended says more than that it did.
    .map_err(|error| connection.close_reason().map_or_else(|| unreachable(&error), |reason| unreachable(&reason)))?;
    connection.close(0u32.into(), b"joined");
    endpoint.wait_idle().await;
    match answer {
        JoinAnswer::Granted { cert_pem, ca_pem } => {
            Ok(key.into_credentials(cert_pem, ca_pem, cluster_id_of(&token.ca_fingerprint)))
        }
        JoinAnswer::Refused(JoinRefusal::Expired) => Err(JoinError::Expired),
        JoinAnswer::Refused(why) => Err(JoinError::Refused(why)),
    }
}

/// Why nobody joined over a connection.
pub(crate) enum Unjoined {
    /// The head refused.
    Refused(JoinRefusal),
    /// The joiner said nothing, or never read its answer.
    Silent,
    /// The joiner left before it was answered.
    Left(String),
}

/// The head's side of one join.
pub(crate) async fn serve(policy: &JoinPolicy, connection: quinn::Connection) -> Result<(), Unjoined> {
    let left = |error: &dyn std::fmt::Display| Unjoined::Left(error.to_string());
    let served = tokio::time::timeout(JOIN_TIMEOUT, async {
        let (mut send, mut receive) = connection.accept_bi().await.map_err(|error| left(&error))?;
        let request = match receive.read_to_end(JOIN_MAX_BYTES).await {
            Ok(request) => request,
            Err(ReadToEndError::TooLong) => {
                return Err(Unjoined::Refused(JoinRefusal::Malformed("the request does not end".into())));
            }
            Err(error) => return Err(left(&error)),
        };
        let answer = policy.answer_bytes(&request);
        let bytes = rmp_serde::to_vec(&answer).map_err(|error| left(&error))?;
        send.write_all(&bytes).await.map_err(|error| left(&error))?;
        send.finish().map_err(|error| left(&error))?;
        // The joiner closes when it has read the answer.
        connection.closed().await;
        match answer {
            JoinAnswer::Granted { .. } => Ok(()),
            JoinAnswer::Refused(why) => Err(Unjoined::Refused(why)),
        }
    })
    .await;
    connection.close(0u32.into(), b"");
    served.unwrap_or(Err(Unjoined::Silent))
}
