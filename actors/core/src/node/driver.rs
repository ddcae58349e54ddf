//! [`Connection`]: a driver's way to a cluster.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use mobula_transport::identity::IdentityError;
use mobula_transport::{Address, Credentials, Endpoint, EndpointConfig, MailboxId, Payload};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::assembly::{NodeParts, NodeTraits, Plan};
use super::member::find_head;
use super::{NodeError, PackedEnv, RuntimeEnv, credentials_dir, describe_binary, events};
use crate::ids::JobId;
use crate::messages::{ClusterView, FinishJob, JobHeartbeat, JobLost, NodeInfo, RegisterJob};
use crate::raylet::server::HEAD_AWAITED;
use crate::resources::Resources;
use crate::store::{StoreClient, StoreConfig};

/// How long the head may take to take a job in.
const REGISTERED_WITHIN: Duration = Duration::from_secs(10);
/// Between the signs of life of a driver.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long the head may take to hear that the job is done.
const FINISHED_WITHIN: Duration = Duration::from_secs(2);
/// How long messages that are on their way have to arrive.
const FLUSH_WITHIN: Duration = Duration::from_millis(500);

/// What a driver connects with.
#[derive(Clone, Debug, Default)]
pub struct ConnectionConfig {
    /// Where its credentials are; the operator's unless given.
    pub credentials: Option<PathBuf>,
    /// The program's name.
    pub name: String,
    /// Its registry's digest.
    pub digest: u64,
    /// The binary that its workers run.
    pub binary: Option<PathBuf>,
    /// The namespace of its named actors, if the user chose one.
    pub namespace: Option<String>,
    /// What its workers find around them.
    pub env: RuntimeEnv,
    /// The store of the node that is started in this process when the cluster has none on this
    /// machine.
    pub store: StoreConfig,
}

/// A driver's connection: its endpoint, its job, and the node through which objects reach it.
#[derive(Debug)]
pub struct Connection {
    endpoint: Endpoint,
    gcs: Address,
    raylet: Address,
    node: NodeInfo,
    store: StoreClient,
    job: JobId,
    namespace: String,
    view: ClusterView,
    /// A node without resources in this process, where no other one is on this machine.
    own_node: Option<NodeParts>,
    /// What is sent to the nodes.
    env: PackedEnv,
    tasks: [AbortHandle; 2],
}

impl Connection {
    /// Connects to the head at `address`, registers a job, and finds the node on this machine, or
    /// starts one that only stores objects.
    ///
    /// # Errors
    /// [`NodeError`], which says what to do.
    pub fn open(address: SocketAddr, config: ConnectionConfig) -> Result<Self, NodeError> {
        let binary = match &config.binary {
            Some(path) => {
                Some(describe_binary(path).map_err(NodeError::system(format!("reading {}", path.display())))?)
            }
            None => None,
        };
        // Before the head hears of anything: what cannot be packed is no job.
        let env = config.env.pack()?;
        let (endpoint, gcs) = Self::ask(address, config.credentials.clone())?;
        let opened = Self::register(endpoint.clone(), gcs, binary, env, &config);
        if opened.is_err() {
            endpoint.shutdown(Duration::ZERO);
        }
        opened
    }

    /// An endpoint with the operator's credentials, and the GCS: for programs that only ask.
    ///
    /// # Errors
    /// [`NodeError`], which says what to do.
    pub fn ask(address: SocketAddr, credentials: Option<PathBuf>) -> Result<(Endpoint, Address), NodeError> {
        let dir = credentials.unwrap_or_else(credentials_dir);
        let endpoint = Self::bind(address, &dir)?;
        let gcs = find_head(&endpoint, address, &format!("the credentials in {}", dir.display()))?;
        Ok((endpoint, gcs))
    }

    fn bind(address: SocketAddr, credentials: &Path) -> Result<Endpoint, NodeError> {
        let credentials = Credentials::load(credentials).map_err(|error| match error {
            IdentityError::Missing { path } => NodeError::NoCredentials { dir: path },
            error => error.into(),
        })?;
        let listen = match address.ip() {
            IpAddr::V4(ip) if ip.is_loopback() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            other => local_ip_towards(other, address.port())
                .map_err(NodeError::system(format!("looking for the way to {address}")))?,
        };
        Ok(Endpoint::bind(EndpointConfig {
            listen: Some(SocketAddr::new(listen, 0)),
            credentials: Some(credentials),
            ..EndpointConfig::default()
        })?)
    }

    fn register(
        endpoint: Endpoint,
        gcs: Address,
        binary: Option<crate::messages::BinaryInfo>,
        env: PackedEnv,
        config: &ConnectionConfig,
    ) -> Result<Self, NodeError> {
        let request = RegisterJob {
            driver: endpoint.process(),
            name: config.name.clone(),
            binary,
            digest: config.digest,
            namespace: config.namespace.clone(),
            env: env.job.clone(),
        };
        let answer = endpoint.request_blocking(gcs, request, Payload::new(), REGISTERED_WITHIN);
        let registered = answer.map_err(crate::error::Error::from)?.0?;
        let job = registered.job;
        let tasks = [heartbeats(&endpoint, gcs, job), events::follow(&endpoint, gcs)];
        let (raylet, node, store, own_node) = match node_of_this_machine(&endpoint, &registered.view) {
            Some((node, store)) => (Address { process: node.process, mailbox: MailboxId::RAYLET }, node, store, None),
            None => {
                let parts = NodeParts::start(Plan {
                    endpoint: endpoint.clone(),
                    gcs,
                    name: format!("driver-{}", std::process::id()),
                    head: false,
                    resources: Resources::new(),
                    store: config.store.clone(),
                    traits: NodeTraits::default(),
                    processes: None,
                })?;
                (parts.raylet(), parts.info().clone(), parts.store().client(), Some(parts))
            }
        };
        Ok(Self {
            endpoint,
            gcs,
            raylet,
            node,
            store,
            job,
            namespace: config.namespace.clone().unwrap_or_else(|| job.to_string()),
            view: registered.view,
            own_node,
            env,
            tasks,
        })
    }

    /// The driver's endpoint.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The GCS.
    pub fn gcs(&self) -> Address {
        self.gcs
    }

    /// The raylet that is asked first.
    pub fn raylet(&self) -> Address {
        self.raylet
    }

    /// Its node.
    pub fn node(&self) -> &NodeInfo {
        &self.node
    }

    /// The store of that node.
    pub fn store(&self) -> &StoreClient {
        &self.store
    }

    /// The job.
    pub fn job(&self) -> JobId {
        self.job
    }

    /// The namespace of its named actors.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The cluster, as it was when the job was registered.
    pub fn view(&self) -> &ClusterView {
        &self.view
    }

    /// Files that nodes may fetch, by their hash, and where this process can read them as long as the
    /// connection lives.
    pub fn served(&self) -> Option<(String, PathBuf)> {
        self.env.served()
    }

    /// Tells the head that the job is done, and ends the endpoint.
    pub fn close(&self) {
        let done = FinishJob { job: self.job };
        if let Err(error) = self.endpoint.request_blocking(self.gcs, done, Payload::new(), FINISHED_WITHIN) {
            tracing::debug!(%error, "the head did not hear that the job is done");
        }
        for task in &self.tasks {
            task.abort();
        }
        match &self.own_node {
            Some(node) => node.drain(FINISHED_WITHIN),
            None => self.endpoint.shutdown(FLUSH_WITHIN),
        }
    }
}

/// Tells the head every second that the driver lives, and the client if that is of no use any more.
pub(crate) fn heartbeats(endpoint: &Endpoint, gcs: Address, job: JobId) -> AbortHandle {
    let beating = endpoint.clone();
    endpoint.spawn_task(async move {
        let mut heard = Instant::now();
        let why = loop {
            tokio::time::sleep(HEARTBEAT).await;
            match beating.request(gcs, JobHeartbeat { job }, Payload::new(), REGISTERED_WITHIN).await {
                Ok((true, _)) => heard = Instant::now(),
                Ok((false, _)) => {
                    // Perhaps it is this program that ends its job just now: then this task ends first.
                    tokio::time::sleep(FINISHED_WITHIN).await;
                    break "the head has ended this job: it did not hear of this program for too long".to_owned();
                }
                Err(error) if heard.elapsed() > HEAD_AWAITED => {
                    break format!("the head has not answered for {} s: {error}", HEAD_AWAITED.as_secs());
                }
                Err(_) => {}
            }
        };
        beating.send(None, beating.address_of(MailboxId::CLIENT), JobLost { why }, Payload::new());
    })
}

/// A living node whose store this process can read in place: one that takes work rather than
/// another driver's.
fn node_of_this_machine(endpoint: &Endpoint, view: &ClusterView) -> Option<(NodeInfo, StoreClient)> {
    let mut nodes: Vec<&NodeInfo> =
        view.nodes.iter().filter(|node| node.alive && crate::gcs::placement::takes_work(&node.total)).collect();
    nodes.sort_by_key(|node| (!node.head, node.node));
    nodes.into_iter().find_map(|node| {
        let store = StoreClient::connect(endpoint, node.process, &node.store_dir, &node.host_proof).ok()?;
        Some((node.clone(), store))
    })
}

/// The address of this machine from which `towards` is reached.
fn local_ip_towards(towards: IpAddr, port: u16) -> std::io::Result<IpAddr> {
    let any: SocketAddr = if towards.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = std::net::UdpSocket::bind(any)?;
    // Sends nothing: it only has the system choose a way.
    socket.connect((towards, port))?;
    Ok(socket.local_addr()?.ip())
}
