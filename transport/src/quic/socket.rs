//! The UDP socket, and the datagrams that arrive at it and belong to nobody.
//!
//! quinn drops what is no QUIC, and what belongs to no connection, without a word. Here it is
//! counted with the strangers. The ids of our connections bear a mark by which they are told from
//! others' ([`MarkedIds`]). The socket looks at every datagram as it comes in; a short one whose id
//! has no mark may still be the reset of a connection by a peer that has restarted, which only
//! quinn knows, so it is a stranger's when quinn asks about its id.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, ConnectionId, ConnectionIdGenerator, UdpPoller};
use quinn_proto::InvalidCid;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::config::RuntimeChoice;
use crate::identity::tls::sha256;
use crate::refusals::{RefusalReason, Refusals};

/// Random enough that nobody guesses one, and short, since every datagram has one.
const CONNECTION_ID_BYTES: usize = 8;
/// Of these the first are random, the others their mark.
const RANDOM_BYTES: usize = 4;
/// Datagrams that are remembered until quinn has asked about them.
const MAX_SUSPECTS: usize = 64;
/// Set in the first byte of a long header.
const LONG_HEADER: u8 = 0x80;

/// What is no QUIC of ours, as it is told.
const NO_QUIC: &str = "a datagram that is no QUIC, or belongs to no connection";

/// Marks the ids of our connections, and knows them again. A successor with the same private key
/// has the same mark, so it answers what was meant for its predecessor with the reset that tells
/// the sender. It protects nothing: who forges a mark is not counted as a stranger, that is all.
#[derive(Clone, Copy)]
struct Mark(u64);

impl Mark {
    fn new(secret: &str) -> Self {
        let mut labelled = b"mobula connection id: ".to_vec();
        labelled.extend_from_slice(secret.as_bytes());
        let mut seed = [0; 8];
        seed.copy_from_slice(&sha256(&labelled)[..8]);
        Self(u64::from_le_bytes(seed))
    }

    fn make(self, random: [u8; RANDOM_BYTES]) -> [u8; CONNECTION_ID_BYTES] {
        let mut id = [0; CONNECTION_ID_BYTES];
        id[..RANDOM_BYTES].copy_from_slice(&random);
        id[RANDOM_BYTES..].copy_from_slice(&self.of(&random));
        id
    }

    fn is_on(self, id: &[u8]) -> bool {
        id.len() == CONNECTION_ID_BYTES && id[RANDOM_BYTES..] == self.of(&id[..RANDOM_BYTES])
    }

    fn of(self, random: &[u8]) -> [u8; CONNECTION_ID_BYTES - RANDOM_BYTES] {
        (xxh3_64_with_seed(random, self.0) as u32).to_le_bytes()
    }
}

/// What a datagram seems to be.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    /// Of one of our connections, or the beginning of one.
    Ours,
    /// Of a connection with this id, which is none of ours.
    Unknown([u8; CONNECTION_ID_BYTES]),
    /// No QUIC.
    Garbage,
}

fn look_at(mark: Mark, datagram: &[u8]) -> Look {
    let Some((first, rest)) = datagram.split_first() else { return Look::Garbage };
    if first & LONG_HEADER != 0 {
        return match rest.first_chunk().map(|version| u32::from_be_bytes(*version)) {
            // Version negotiation, version 1, and its drafts.
            Some(0 | 1 | 0xff00_001d..=0xff00_0022) => Look::Ours,
            _ => Look::Garbage,
        };
    }
    match rest.first_chunk() {
        Some(id) if mark.is_on(id) => Look::Ours,
        Some(id) => Look::Unknown(*id),
        None => Look::Garbage,
    }
}

/// A socket that looks at what it receives.
struct Watched {
    inner: Arc<dyn AsyncUdpSocket>,
    door: Arc<Door>,
}

/// What the socket and the ids' generator share.
struct Door {
    mark: Mark,
    refusals: Arc<Refusals>,
    suspects: Mutex<VecDeque<([u8; CONNECTION_ID_BYTES], SocketAddr)>>,
}

impl Door {
    fn look(&self, datagram: &[u8], peer: SocketAddr) {
        match look_at(self.mark, datagram) {
            Look::Ours => {}
            Look::Garbage => self.refusals.note(peer, RefusalReason::Protocol, &NO_QUIC),
            Look::Unknown(id) => {
                let mut suspects = self.suspects.lock();
                suspects.truncate(MAX_SUSPECTS - 1);
                suspects.push_front((id, peer));
            }
        }
    }

    /// quinn knows no connection with this id.
    fn unknown(&self, id: &[u8]) {
        let peer = self.suspects.lock().iter().find(|(suspect, _)| suspect == id).map(|(_, peer)| *peer);
        if let Some(peer) = peer {
            self.refusals.note(peer, RefusalReason::Protocol, &NO_QUIC);
        }
    }
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl AsyncUdpSocket for Watched {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.inner.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.inner.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let received = self.inner.poll_recv(cx, bufs, meta);
        if let Poll::Ready(Ok(count)) = received {
            for (buf, meta) in bufs.iter().zip(meta.iter()).take(count) {
                // One buffer may hold several datagrams of the same length.
                for datagram in buf[..meta.len].chunks(meta.stride.max(1)) {
                    self.door.look(datagram, meta.addr);
                }
            }
        }
        received
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

/// Makes the ids of our connections.
struct MarkedIds(Arc<Door>);

impl ConnectionIdGenerator for MarkedIds {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&self.0.mark.make(rand::random()))
    }

    /// Asked only about datagrams of no connection.
    fn validate(&self, id: &ConnectionId) -> Result<(), InvalidCid> {
        if self.0.mark.is_on(id) {
            return Ok(());
        }
        self.0.unknown(id);
        Err(InvalidCid)
    }

    fn cid_len(&self) -> usize {
        CONNECTION_ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// Where an endpoint's sockets come from: the system, or a network that is simulated.
pub(crate) trait Sockets: Send + Sync {
    /// A socket at `listen`; called inside the runtime that will drive it.
    fn bind(&self, listen: SocketAddr) -> io::Result<Bound>;

    /// Whose thread carries bulk.
    fn bulk_runtime(&self) -> RuntimeChoice;
}

/// A socket that datagrams arrive at.
pub(crate) struct Bound {
    pub(crate) inner: Arc<dyn AsyncUdpSocket>,
    pub(crate) local: SocketAddr,
    /// The window that its buffers have room for.
    pub(crate) window_bytes: usize,
}

/// The sockets of the operating system.
pub(crate) struct SystemSockets;

impl Sockets for SystemSockets {
    fn bind(&self, listen: SocketAddr) -> io::Result<Bound> {
        let socket = super::config::bind(listen)?;
        let (local, window_bytes) = (socket.local_addr()?, super::config::window_bytes(&socket));
        let inner = quinn::Runtime::wrap_udp_socket(&quinn::TokioRuntime, socket)?;
        Ok(Bound { inner, local, window_bytes })
    }

    fn bulk_runtime(&self) -> RuntimeChoice {
        RuntimeChoice::Own
    }
}

/// Makes quinn's endpoint on a socket; call it inside the runtime that will drive it. `secret` is
/// known to this process and its successors.
pub(super) fn endpoint(
    inner: Arc<dyn AsyncUdpSocket>,
    mut config: quinn::EndpointConfig,
    server: quinn::ServerConfig,
    secret: &str,
    refusals: Arc<Refusals>,
) -> io::Result<quinn::Endpoint> {
    let door = Arc::new(Door { mark: Mark::new(secret), refusals, suspects: Mutex::default() });
    let ids = door.clone();
    config.cid_generator(move || Box::new(MarkedIds(ids.clone())));
    let socket = Arc::new(Watched { inner, door });
    quinn::Endpoint::new_with_abstract_socket(config, Some(server), socket, Arc::new(quinn::TokioRuntime))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn successors_know_their_predecessors_ids() {
        let (mark, same, other) = (Mark::new("a"), Mark::new("a"), Mark::new("b"));
        let id = mark.make(*b"1234");
        assert!(mark.is_on(&id) && same.is_on(&id));
        assert!(!other.is_on(&id));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn our_datagrams_are_known(random: [u8; RANDOM_BYTES], first in 0x40u8..0x80, body in prop::collection::vec(any::<u8>(), 0..40)) {
            let mark = Mark::new("a");
            let datagram = [&[first][..], &mark.make(random), &body].concat();
            prop_assert_eq!(look_at(mark, &datagram), Look::Ours);
            prop_assert_ne!(look_at(Mark::new("b"), &datagram), Look::Ours);
        }

        #[test]
        fn text_is_never_ours(text in "[ -~\n]{0,60}") {
            prop_assert_ne!(look_at(Mark::new("a"), text.as_bytes()), Look::Ours);
        }
    }

    #[test]
    fn a_connection_begins_with_its_version() {
        let mark = Mark::new("a");
        assert_eq!(look_at(mark, &[0xc0, 0, 0, 0, 1, 8]), Look::Ours);
        assert_eq!(look_at(mark, &[0xc0, 0xff, 0, 0, 0x1d, 8]), Look::Ours);
        assert_eq!(look_at(mark, &[0xc0, 9, 9, 9, 9, 8]), Look::Garbage);
        assert_eq!(look_at(mark, &[0xc0, 0]), Look::Garbage);
        assert_eq!(look_at(mark, &[]), Look::Garbage);
    }
}
