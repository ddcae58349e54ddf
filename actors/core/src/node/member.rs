//! [`Node`]: a raylet and a store, joined to a head.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::ops::Deref;
use std::path::PathBuf;
use std::time::Duration;

use mobula_transport::identity::JoinToken;
use mobula_transport::{Address, Credentials, DiscoverError, Endpoint, EndpointConfig, MailboxId};

use super::NodeError;
use super::assembly::{NodeParts, NodeTraits, Plan, ProcessPlan, Processes};
use crate::resources::Resources;
use crate::store::StoreConfig;

/// How long a head is looked for.
const FOUND_WITHIN: Duration = Duration::from_secs(5);
/// How long the word that nobody listens may take.
const REFUSED_WITHIN: Duration = Duration::from_millis(500);

/// What a node is started with.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// The head.
    pub head: SocketAddr,
    /// A certificate of its cluster; see [`join`].
    pub credentials: Credentials,
    /// The node's name.
    pub name: String,
    /// What it has; the store's memory is added.
    pub resources: Resources,
    /// Its store.
    pub store: StoreConfig,
    /// What it is besides.
    pub traits: NodeTraits,
    /// Where it listens; on the loopback interface unless given.
    pub listen: Option<SocketAddr>,
    /// Where others find it, if not there.
    pub advertise: Option<SocketAddr>,
    /// Where it keeps binaries and what its workers need.
    pub dir: PathBuf,
}

/// Exchanges a join token for a certificate.
///
/// # Errors
/// [`NodeError::Join`] when nothing answers, or the token is wrong or has expired.
pub fn join(head: SocketAddr, token: &JoinToken) -> Result<Credentials, NodeError> {
    mobula_transport::identity::join(head, token).map_err(|source| NodeError::Join { address: head, source })
}

/// A running node.
#[derive(Debug)]
pub struct Node(NodeParts);

impl Node {
    /// Starts store and raylet, and waits until the head has taken the node in.
    ///
    /// # Errors
    /// [`NodeError`], which says what to do.
    pub fn start(config: NodeConfig) -> Result<Self, NodeError> {
        let listen = config.listen.unwrap_or(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0));
        let endpoint = Endpoint::bind(EndpointConfig {
            listen: Some(listen),
            advertise: config.advertise,
            credentials: Some(config.credentials.clone()),
            ..EndpointConfig::default()
        })?;
        let gcs = find_head(&endpoint, config.head, "the join token's")?;
        NodeParts::start(Plan {
            endpoint,
            gcs,
            name: config.name,
            head: false,
            resources: config.resources,
            store: config.store,
            traits: config.traits,
            processes: Some(Processes::Spawned(ProcessPlan { dir: config.dir, credentials: config.credentials })),
        })
        .map(Self)
    }

    /// Stops at once.
    pub fn stop(&self) {
        self.0.end();
    }
}

impl Deref for Node {
    type Target = NodeParts;
    fn deref(&self) -> &NodeParts {
        &self.0
    }
}

/// The GCS of the head at `address`; ends the endpoint when there is none. `credentials` are the
/// endpoint's, in words.
pub(super) fn find_head(endpoint: &Endpoint, address: SocketAddr, credentials: &str) -> Result<Address, NodeError> {
    let (tell, found) = std::sync::mpsc::channel();
    let asking = endpoint.clone();
    endpoint.spawn_task(async move {
        // Whoever asked may have given up.
        let _ = tell.send(asking.discover(address, FOUND_WITHIN).await);
    });
    let error = match found.recv_timeout(FOUND_WITHIN * 2).unwrap_or(Err(DiscoverError::Closed)) {
        Ok(process) => return Ok(Address { process, mailbox: MailboxId::GCS }),
        Err(error) => error,
    };
    endpoint.shutdown(Duration::ZERO);
    Err(match error {
        DiscoverError::Silent { .. } if nobody_listens(address) => NodeError::NoCluster { address },
        DiscoverError::Silent { after } => NodeError::NoAnswer { address, within: after },
        DiscoverError::OtherProtocol { why } => NodeError::NotMobula { address, why },
        DiscoverError::Foreign { why } => NodeError::OtherCluster { address, credentials: credentials.to_owned(), why },
        DiscoverError::Refused { why } => NodeError::NotAdmitted { address, why },
        error => NodeError::NotAdmitted { address, why: error.to_string() },
    })
}

/// Whether the system there says that no socket has this port. QUIC does not listen to that: anyone
/// could say it. It is good enough to word an error.
pub(super) fn nobody_listens(address: SocketAddr) -> bool {
    let any: SocketAddr = if address.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let asked = || {
        let socket = UdpSocket::bind(any)?;
        socket.connect(address)?;
        socket.set_read_timeout(Some(REFUSED_WITHIN))?;
        socket.send(&[])?;
        socket.recv(&mut [0])
    };
    asked().is_err_and(|error: std::io::Error| error.kind() == std::io::ErrorKind::ConnectionRefused)
}
