//! [`Head`]: the GCS with a node beside it.

use std::net::SocketAddr;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mobula_transport::identity::{ClusterAuthority, JoinPolicy, JoinToken, Role};
use mobula_transport::{Credentials, Endpoint, EndpointConfig, Payload, ProcessId};

use super::assembly::{NodeParts, NodeTraits, Plan, ProcessPlan, Processes};
use super::member::nobody_listens;
use super::{Connection, NodeError, paths};
use crate::gcs::storage::{Durable, Storage, Volatile};
use crate::gcs::{GcsConfig, Snapshot};
use crate::messages::CloseGcs;
use crate::resources::Resources;
use crate::store::StoreConfig;

/// How long a join token is good for.
const TOKEN_VALID: Duration = Duration::from_secs(24 * 3600);
/// How long the GCS may take to store its last changes.
const CLOSED_WITHIN: Duration = Duration::from_secs(10);
/// How long the GCS's endpoint may take to send what it has accepted.
const FLUSH_WITHIN: Duration = Duration::from_millis(500);

/// What a head is started with.
#[derive(Clone, Debug, Default)]
pub struct HeadConfig {
    /// The cluster's name.
    pub cluster: String,
    /// The node's name.
    pub name: String,
    /// What the node has; the store's memory is added.
    pub resources: Resources,
    /// The node's store.
    pub store: StoreConfig,
    /// What the node is besides.
    pub traits: NodeTraits,
    /// How others reach it; none for a cluster of one inside this process.
    pub network: Option<HeadNetwork>,
}

/// How others reach a head.
#[derive(Clone, Debug)]
pub struct HeadNetwork {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where others find it, if not there.
    pub advertise: Option<SocketAddr>,
    /// Its state: the authority, the GCS's tables, binaries.
    pub dir: PathBuf,
    /// Where the operator's credentials are written.
    pub credentials: PathBuf,
}

/// A running head. It is also a node: [`NodeParts`].
#[derive(Debug)]
pub struct Head {
    parts: NodeParts,
    network: Option<Network>,
}

#[derive(Debug)]
struct Network {
    endpoint: Endpoint,
    token: JoinToken,
}

impl Head {
    /// Starts GCS, store and raylet, and waits until the node is part of the cluster.
    ///
    /// Without a network everything is in this process, nothing is kept, and work runs in the
    /// worker that then registers itself at the raylet with start number 0.
    ///
    /// # Errors
    /// [`NodeError`], which says what to do.
    pub fn start(config: HeadConfig) -> Result<Self, NodeError> {
        match config.network.clone() {
            None => Self::start_alone(config),
            Some(network) => Self::start_listening(config, network),
        }
    }

    fn start_alone(config: HeadConfig) -> Result<Self, NodeError> {
        let endpoint = Endpoint::in_process(EndpointConfig::default())?;
        let gcs_config = GcsConfig::new(config.cluster, endpoint.process().id);
        let gcs = crate::gcs::server::start(&endpoint, gcs_config, Snapshot::default(), Box::new(Volatile), None);
        let parts = NodeParts::start(Plan {
            endpoint,
            gcs,
            name: config.name,
            head: true,
            resources: config.resources,
            store: config.store,
            traits: config.traits,
            processes: None,
        })?;
        Ok(Self { parts, network: None })
    }

    fn start_listening(config: HeadConfig, network: HeadNetwork) -> Result<Self, NodeError> {
        let dir = &network.dir;
        std::fs::create_dir_all(dir).map_err(NodeError::system(format!("making {}", dir.display())))?;
        let (storage, snapshot, ids) = Durable::open(&dir.join("gcs.redb"))?;
        let authority = authority(&config.cluster, &dir.join("authority"))?;
        let credentials = authority.credentials(Role::Node)?;
        keep_others_credentials(&network.credentials, &credentials.cluster_id)?;
        let endpoint = Endpoint::bind(EndpointConfig {
            listen: Some(network.listen),
            advertise: network.advertise,
            credentials: Some(credentials.clone()),
            process: Some(ProcessId(ids.process)),
            comes_back: true,
            secret: Some(authority.secret("gcs")),
            ..EndpointConfig::default()
        })?;
        let operator = authority.credentials(Role::Operator)?;
        let joining = Arc::new(JoinPolicy::new(authority, Role::Node));
        let token = joining.new_token(TOKEN_VALID);
        endpoint.serve_join(joining.clone())?;
        let gcs_config = GcsConfig::new(config.cluster, endpoint.process().id);
        let storage: Box<dyn Storage> = Box::new(storage);
        let gcs = crate::gcs::server::start(&endpoint, gcs_config, snapshot, storage, Some(joining));

        let beside = Endpoint::bind(EndpointConfig {
            listen: Some(SocketAddr::new(network.listen.ip(), 0)),
            advertise: None,
            credentials: Some(credentials.clone()),
            ..EndpointConfig::default()
        })?;
        let parts = NodeParts::start(Plan {
            endpoint: beside,
            gcs,
            name: config.name,
            head: true,
            resources: config.resources,
            store: config.store,
            traits: config.traits,
            processes: Some(Processes::Spawned(ProcessPlan { dir: dir.clone(), credentials })),
        });
        let parts = match parts {
            Ok(parts) => parts,
            Err(error) => {
                endpoint.shutdown(FLUSH_WITHIN);
                return Err(error);
            }
        };
        // Last, so that whoever finds them finds a head that answers.
        operator.save(&network.credentials)?;
        paths::write_address(&network.credentials, gcs.process.socket)
            .map_err(NodeError::system(format!("writing into {}", network.credentials.display())))?;
        Ok(Self { parts, network: Some(Network { endpoint, token }) })
    }

    /// Where others reach the head; none when it is alone in this process.
    pub fn address(&self) -> Option<SocketAddr> {
        self.network.as_ref().map(|_| self.parts.gcs().process.socket)
    }

    /// The token by which nodes join; none when the head is alone in this process.
    pub fn token(&self) -> Option<&JoinToken> {
        self.network.as_ref().map(|network| &network.token)
    }

    /// The endpoint of the GCS; the raylet's when the head is alone in this process.
    pub fn gcs_endpoint(&self) -> &Endpoint {
        self.network.as_ref().map_or(self.parts.endpoint(), |network| &network.endpoint)
    }

    /// Takes no new work, waits for what runs until the deadline, and stops.
    pub fn drain(&self, within: Duration) {
        self.parts.drain(within);
        self.end_network();
    }

    /// Stops at once.
    pub fn stop(&self) {
        self.parts.end();
        self.end_network();
    }

    fn end_network(&self) {
        if let Some(network) = &self.network {
            let gcs = self.parts.gcs();
            if let Err(error) = network.endpoint.request_blocking(gcs, CloseGcs, Payload::new(), CLOSED_WITHIN) {
                tracing::warn!(%error, "the GCS did not store its last changes in time");
            }
            network.endpoint.shutdown(FLUSH_WITHIN);
        }
    }
}

#[cfg(test)]
impl Head {
    /// A cluster of one CPU in this process.
    pub(crate) fn of_one_cpu() -> Self {
        Self::start(HeadConfig {
            cluster: "test".to_owned(),
            name: "n".to_owned(),
            resources: Resources::new().with(crate::resources::CPU, 1.0).unwrap(),
            store: StoreConfig { capacity_bytes: Some(1 << 20), ..StoreConfig::default() },
            traits: NodeTraits::default(),
            network: None,
        })
        .unwrap()
    }
}

impl Deref for Head {
    type Target = NodeParts;
    fn deref(&self) -> &NodeParts {
        &self.parts
    }
}

/// Credentials of another cluster are not overwritten while its head lives: nobody could tell it
/// anything any more.
fn keep_others_credentials(dir: &std::path::Path, cluster_id: &str) -> Result<(), NodeError> {
    let Ok(theirs) = Credentials::load(dir) else { return Ok(()) };
    let address = paths::known_address(dir).and_then(|text| paths::parse_address(&text).ok());
    let Some(address) = address.filter(|_| theirs.cluster_id != cluster_id) else { return Ok(()) };
    if nobody_listens(address) {
        return Ok(());
    }
    match Connection::ask(address, Some(dir.to_owned())) {
        Ok((endpoint, _)) => {
            endpoint.shutdown(Duration::ZERO);
            Err(NodeError::CredentialsInUse { credentials: dir.to_owned(), address })
        }
        // It does not answer, or it is another one by now.
        Err(_) => Ok(()),
    }
}

/// The cluster's authority: the same one after a restart.
fn authority(cluster: &str, dir: &std::path::Path) -> Result<ClusterAuthority, NodeError> {
    if dir.exists() {
        return Ok(ClusterAuthority::load(dir)?);
    }
    let authority = ClusterAuthority::create(cluster)?;
    authority.save(dir)?;
    Ok(authority)
}
