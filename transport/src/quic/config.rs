//! How quinn is tuned.
//!
//! Loopback carries datagrams of 64 KiB, and the size of a datagram is what counts there;
//! elsewhere quinn finds the path's size by itself. Windows never exceed the socket's buffers:
//! larger ones lose packets.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use quinn::congestion::CubicConfig;
use quinn::crypto::{CryptoError, HmacKey};
use quinn::{IdleTimeout, TransportConfig, VarInt};
use socket2::{Domain, Protocol, Socket, Type};

use crate::config::Limits;
use crate::identity::tls::sha256;

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
/// Connections that may wait for their handshake; more are refused.
const MAX_INCOMING: usize = 1024;
/// What such a connection may send meanwhile: one datagram of the largest size and some more.
const INCOMING_BUFFER_BYTES: u64 = 128 * 1024;
/// What all of them together may send.
const INCOMING_BUFFERS_BYTES: u64 = 8 * 1024 * 1024;

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

/// The endpoint's side of the tuning. `secret` is known to this process and its successors.
pub(crate) fn endpoint(secret: &str) -> quinn::EndpointConfig {
    let mut config = quinn::EndpointConfig::new(Arc::new(ResetKey::new(secret)));
    if let Err(error) = config.max_udp_payload_size(MAX_DATAGRAM_BYTES) {
        tracing::warn!(%error, "large datagrams are not possible");
    }
    config
}

/// The accepting side's bounds on strangers.
pub(crate) fn bound_incoming(config: &mut quinn::ServerConfig) {
    config
        .max_incoming(MAX_INCOMING)
        .incoming_buffer_size(INCOMING_BUFFER_BYTES)
        .incoming_buffer_size_total(INCOMING_BUFFERS_BYTES);
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

/// Signs the resets by which a restarted process tells its peers, at once, that connections of
/// its predecessor are no more. The key comes from the process's private key, so a successor
/// with the same credentials has the same one, and nobody else.
struct ResetKey {
    inner: [u8; HMAC_BLOCK_BYTES],
    outer: [u8; HMAC_BLOCK_BYTES],
}

const HMAC_BLOCK_BYTES: usize = 64;

impl ResetKey {
    fn new(secret: &str) -> Self {
        let mut labelled = b"mobula stateless reset: ".to_vec();
        labelled.extend_from_slice(secret.as_bytes());
        let key = sha256(&labelled);
        let pad = |with: u8| {
            let mut block = [with; HMAC_BLOCK_BYTES];
            block.iter_mut().zip(key).for_each(|(byte, key)| *byte ^= key);
            block
        };
        Self { inner: pad(0x36), outer: pad(0x5c) }
    }

    /// HMAC-SHA256.
    fn hmac(&self, data: &[u8]) -> [u8; 32] {
        let inner = sha256(&[&self.inner, data].concat());
        sha256(&[&self.outer[..], &inner].concat())
    }
}

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature: &mut [u8]) {
        signature.copy_from_slice(&self.hmac(data));
    }

    fn signature_len(&self) -> usize {
        32
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        if self.hmac(data) == signature { Ok(()) } else { Err(CryptoError) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn successors_with_the_same_key_sign_the_same_resets() {
        let (key, same, other) = (ResetKey::new("a"), ResetKey::new("a"), ResetKey::new("b"));
        assert_eq!(key.hmac(b"id"), same.hmac(b"id"));
        assert_ne!(key.hmac(b"id"), other.hmac(b"id"));
        assert!(key.verify(b"id", &same.hmac(b"id")).is_ok());
        assert!(key.verify(b"id", &other.hmac(b"id")).is_err());
    }
}
