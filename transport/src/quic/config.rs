//! How quinn is tuned.
//!
//! Loopback carries datagrams of 64 KiB, and the size of a datagram is what counts there;
//! elsewhere quinn finds the path's size by itself. Windows never exceed the socket's buffers:
//! larger ones lose packets.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use quinn::congestion::CubicConfig;
use quinn::{IdleTimeout, TransportConfig, VarInt};
use socket2::{Domain, Protocol, Socket, Type};

use crate::config::Limits;

/// Asked of the system for either direction of a socket.
pub(crate) const SOCKET_BUFFER_BYTES: usize = 4 * 1024 * 1024;
/// The flow-control windows, unless the socket's buffers are smaller.
const WINDOW_BYTES: usize = 4 * 1024 * 1024;
/// The least a window is set to.
const MIN_WINDOW_BYTES: usize = 256 * 1024;
/// The datagrams on loopback: the largest that pass. Without segmentation offload, since ten of
/// them at once would exceed what the kernel takes, and fail without a word.
const LOOPBACK_MTU: u16 = 65_000;
/// The largest datagram the endpoint reads.
const MAX_DATAGRAM_BYTES: u16 = 65_507;
/// Streams for hellos, joins and bulk objects a peer may have open.
const MAX_BIDI_STREAMS: u32 = 64;

/// Binds a UDP socket with large buffers.
pub(crate) fn bind(addr: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    // The system may grant less; the windows follow what it granted.
    socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    Ok(socket.into())
}

/// The window that fits the socket.
pub(crate) fn window_bytes(socket: &UdpSocket) -> usize {
    let granted = socket2::SockRef::from(socket).recv_buffer_size().unwrap_or(0);
    granted.clamp(MIN_WINDOW_BYTES, WINDOW_BYTES)
}

/// The endpoint's side of the tuning.
pub(crate) fn endpoint() -> quinn::EndpointConfig {
    let mut config = quinn::EndpointConfig::default();
    if let Err(error) = config.max_udp_payload_size(MAX_DATAGRAM_BYTES) {
        tracing::warn!(%error, "large datagrams are not possible");
    }
    config
}

/// A connection's side of the tuning.
pub(crate) fn transport(
    limits: &Limits,
    window_bytes: usize,
    uni_streams: u32,
    loopback: bool,
) -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    let window = VarInt::from_u32(window_bytes as u32);
    config
        .stream_receive_window(window)
        .receive_window(window)
        .send_window(window_bytes as u64)
        .max_concurrent_uni_streams(uni_streams.into())
        .max_concurrent_bidi_streams(MAX_BIDI_STREAMS.into())
        .datagram_receive_buffer_size(None)
        .keep_alive_interval(Some(limits.keep_alive))
        .max_idle_timeout(IdleTimeout::try_from(limits.idle_timeout).ok());
    if loopback {
        let mut congestion = CubicConfig::default();
        // The default window is smaller than one datagram, which would never be sent.
        congestion.initial_window(window_bytes as u64);
        config
            .initial_mtu(LOOPBACK_MTU)
            .mtu_discovery_config(None)
            .enable_segmentation_offload(false)
            .congestion_controller_factory(Arc::new(congestion));
    }
    Arc::new(config)
}
