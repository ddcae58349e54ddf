//! QUIC over a bad network: sockets that lose, duplicate, reorder and delay datagrams by seed.
//!
//! [`LossyNetwork::endpoint`] makes endpoints like [`Endpoint::bind`], with the same handshakes,
//! lanes, bulk streams and timeouts; only the sockets are not the system's. quinn takes its time
//! from tokio, so under `start_paused` time a minute of silence costs nothing here, too.
//!
//! What happens to the n-th datagram depends on the seed alone. Its content does not, since
//! cryptography has random numbers of its own; so a seed is one weather, not one history to the
//! last byte.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::SIM_PORT;
use crate::address::ProcessId;
use crate::config::{EndpointConfig, RuntimeChoice};
use crate::endpoint::{BindError, Endpoint};
use crate::quic::{Bound, Sockets};

/// The largest datagram that passes: what is left of an Ethernet frame.
const LARGEST_BYTES: usize = 1472;
/// Datagrams that a socket holds until they are read; more are lost, as they are by the system.
const INBOX_DATAGRAMS: usize = 4096;
/// What the buffers of a simulated socket have room for.
const WINDOW_BYTES: usize = 1024 * 1024;

/// How bad the network is.
#[derive(Debug, Clone, PartialEq)]
pub struct LossyOptions {
    /// The share of datagrams that never arrive, from 0 to 1.
    pub loss: f64,
    /// The share of datagrams that arrive twice, from 0 to 1.
    pub duplicates: f64,
    /// How long a datagram is on its way. Each has a time of its own, so they overtake each other.
    pub delay: RangeInclusive<Duration>,
}

impl Default for LossyOptions {
    fn default() -> Self {
        Self { loss: 0.02, duplicates: 0.02, delay: Duration::from_micros(100)..=Duration::from_millis(10) }
    }
}

/// A network of UDP sockets inside one thread; clones are the same network.
///
/// ```
/// use mobula_transport::identity::{ClusterAuthority, Role};
/// use mobula_transport::sim::{LossyNetwork, LossyOptions};
/// use mobula_transport::EndpointConfig;
///
/// let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
/// runtime.block_on(async {
///     let network = LossyNetwork::new(7, LossyOptions::default());
///     let authority = ClusterAuthority::create("doc")?;
///     let credentials = Some(authority.credentials(Role::Node)?);
///     let endpoint = network.endpoint(EndpointConfig { credentials, ..EndpointConfig::default() })?;
///     network.set_options(LossyOptions { loss: 0.5, ..LossyOptions::default() });
///     endpoint.shutdown(std::time::Duration::ZERO);
///     Ok::<(), Box<dyn std::error::Error>>(())
/// })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct LossyNetwork(Arc<Lossy>);

struct Lossy {
    state: Mutex<State>,
}

struct State {
    random: StdRng,
    options: LossyOptions,
    sockets: BTreeMap<SocketAddr, Weak<LossySocket>>,
    /// Every process has an address of its own.
    hosts: BTreeMap<ProcessId, IpAddr>,
    /// Pairs that do not hear each other, smaller one first.
    cut: BTreeSet<(IpAddr, IpAddr)>,
    lost: u64,
    carried: u64,
}

impl LossyNetwork {
    /// A network under `seed`.
    pub fn new(seed: u64, options: LossyOptions) -> Self {
        let state = State {
            random: StdRng::seed_from_u64(seed),
            options,
            sockets: BTreeMap::new(),
            hosts: BTreeMap::new(),
            cut: BTreeSet::new(),
            lost: 0,
            carried: 0,
        };
        Self(Arc::new(Lossy { state: Mutex::new(state) }))
    }

    /// A process on this network, on the current tokio runtime. It needs credentials, since it
    /// speaks QUIC.
    ///
    /// # Errors
    /// [`BindError`], as for [`Endpoint::bind`].
    pub fn endpoint(&self, config: EndpointConfig) -> Result<Endpoint, BindError> {
        let host = self.0.state.lock().hosts.len() as u32 + 1;
        let free = SocketAddr::from((Ipv4Addr::from(0x0a00_0000 + host), SIM_PORT));
        let listen = config.listen.unwrap_or(free);
        let config = EndpointConfig { listen: Some(listen), runtime: RuntimeChoice::Current, ..config };
        let endpoint = Endpoint::bind_at(config, Arc::new(self.clone()))?;
        self.0.state.lock().hosts.insert(endpoint.process().id, listen.ip());
        Ok(endpoint)
    }

    /// The network is as bad as this from now on.
    pub fn set_options(&self, options: LossyOptions) {
        self.0.state.lock().options = options;
    }

    /// Nothing passes between `a` and `b` until [`heal`](Self::heal).
    pub fn partition(&self, a: ProcessId, b: ProcessId) {
        let mut state = self.0.state.lock();
        if let Some(pair) = state.pair(a, b) {
            state.cut.insert(pair);
        }
    }

    /// Ends a partition.
    pub fn heal(&self, a: ProcessId, b: ProcessId) {
        let mut state = self.0.state.lock();
        if let Some(pair) = state.pair(a, b) {
            state.cut.remove(&pair);
        }
    }

    /// How many datagrams were carried and how many were lost so far.
    pub fn carried_and_lost(&self) -> (u64, u64) {
        let state = self.0.state.lock();
        (state.carried, state.lost)
    }
}

impl fmt::Debug for LossyNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.state.lock();
        f.debug_struct("LossyNetwork").field("options", &state.options).finish_non_exhaustive()
    }
}

impl State {
    fn pair(&self, a: ProcessId, b: ProcessId) -> Option<(IpAddr, IpAddr)> {
        let (a, b) = (*self.hosts.get(&a)?, *self.hosts.get(&b)?);
        Some((a.min(b), a.max(b)))
    }

    /// When the copies of a datagram arrive; none if it is lost.
    fn fate(&mut self, from: IpAddr, to: IpAddr, bytes: usize) -> Vec<Duration> {
        // Drawn in any case, so that the fates of the others do not depend on this one's.
        let [lost, twice] = [self.random.random::<f64>(), self.random.random::<f64>()];
        let delays = [0, 1].map(|_| self.random.random_range(self.options.delay.clone()));
        let cut = self.cut.contains(&(from.min(to), from.max(to)));
        if cut || bytes > LARGEST_BYTES || lost < self.options.loss {
            self.lost += 1;
            return Vec::new();
        }
        self.carried += 1;
        delays[..if twice < self.options.duplicates { 2 } else { 1 }].to_vec()
    }
}

impl Sockets for LossyNetwork {
    fn bind(&self, listen: SocketAddr) -> io::Result<Bound> {
        let mut state = self.0.state.lock();
        state.sockets.retain(|_, socket| socket.strong_count() > 0);
        let mut local = listen;
        if local.port() == 0 {
            local.set_port(SIM_PORT);
            while state.sockets.contains_key(&local) {
                local.set_port(local.port() + 1);
            }
        }
        if state.sockets.contains_key(&local) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let socket = Arc::new(LossySocket { network: self.0.clone(), local, inbox: Mutex::default() });
        state.sockets.insert(local, Arc::downgrade(&socket));
        Ok(Bound { inner: socket, local, window_bytes: WINDOW_BYTES })
    }

    fn bulk_runtime(&self) -> RuntimeChoice {
        RuntimeChoice::Current
    }
}

/// A socket of the network.
struct LossySocket {
    network: Arc<Lossy>,
    local: SocketAddr,
    inbox: Mutex<Inbox>,
}

#[derive(Default)]
struct Inbox {
    datagrams: VecDeque<(SocketAddr, Vec<u8>)>,
    reader: Option<Waker>,
}

impl LossySocket {
    fn arrive(&self, from: SocketAddr, datagram: Vec<u8>) {
        let mut inbox = self.inbox.lock();
        if inbox.datagrams.len() < INBOX_DATAGRAMS {
            inbox.datagrams.push_back((from, datagram));
        }
        let reader = inbox.reader.take();
        drop(inbox);
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

impl fmt::Debug for LossySocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LossySocket({})", self.local)
    }
}

impl AsyncUdpSocket for LossySocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Writable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let to = transmit.destination;
        let arrivals = self.network.state.lock().fate(self.local.ip(), to.ip(), transmit.contents.len());
        for after in arrivals {
            let (network, from, datagram) = (self.network.clone(), self.local, transmit.contents.to_vec());
            tokio::spawn(async move {
                tokio::time::sleep(after).await;
                let socket = network.state.lock().sockets.get(&to).and_then(Weak::upgrade);
                if let Some(socket) = socket {
                    socket.arrive(from, datagram);
                }
            });
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut inbox = self.inbox.lock();
        let mut count = 0;
        for (buf, meta) in bufs.iter_mut().zip(meta) {
            let Some((addr, datagram)) = inbox.datagrams.pop_front() else { break };
            let len = datagram.len().min(buf.len());
            buf[..len].copy_from_slice(&datagram[..len]);
            *meta = RecvMeta { addr, len, stride: len, ..RecvMeta::default() };
            count += 1;
        }
        if count > 0 {
            return Poll::Ready(Ok(count));
        }
        inbox.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

/// There is always room for another datagram.
#[derive(Debug)]
struct Writable;

impl UdpPoller for Writable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
