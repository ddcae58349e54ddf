//! References inside values: how an [`ObjectHandle`] leaves a process and arrives in another.
//!
//! ```text
//!   0        16     24      28       29            45     47
//!   | owner  | seq  | index | family | IP address  | port |    little-endian
//! ```
//!
//! Who holds the object while its reference is on its way is said in [`super::borrowing`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use mobula_transport::{ProcessAddr, ProcessId};
use uuid::Uuid;

use super::Client;
use super::entry::ObjectHandle;
use crate::error::Error;
use crate::ids::ObjectId;

/// The length of a reference on the wire.
pub const WIRE_REF_BYTES: usize = 47;

impl ObjectHandle {
    /// The reference as it travels inside a value.
    pub fn to_wire(&self) -> [u8; WIRE_REF_BYTES] {
        let client = self.client();
        client.export(self);
        let id = self.id();
        let owner = self.0.lender().unwrap_or_else(|| client.address()).process;
        let mut wire = [0; WIRE_REF_BYTES];
        wire[..16].copy_from_slice(id.owner.0.as_bytes());
        wire[16..24].copy_from_slice(&id.seq.to_le_bytes());
        wire[24..28].copy_from_slice(&id.index.to_le_bytes());
        match owner.socket.ip() {
            IpAddr::V4(ip) => {
                wire[28] = 4;
                wire[29..33].copy_from_slice(&ip.octets());
            }
            IpAddr::V6(ip) => {
                wire[28] = 6;
                wire[29..45].copy_from_slice(&ip.octets());
            }
        }
        wire[45..].copy_from_slice(&owner.socket.port().to_le_bytes());
        wire
    }
}

impl Client {
    /// The handle for a reference that arrived inside a value.
    ///
    /// # Errors
    /// [`Error::Codec`] when the bytes are no reference.
    pub fn handle_from_wire(&self, wire: &[u8]) -> Result<ObjectHandle, Error> {
        let broken = |why: &str| Error::Codec {
            what: "an object reference".to_owned(),
            doing: "decoded".to_owned(),
            why: why.to_owned(),
        };
        let wire: &[u8; WIRE_REF_BYTES] = wire.try_into().map_err(|_| broken("it has the wrong length"))?;
        let take = |from: usize, to: usize| &wire[from..to];
        let array = |from: usize| -> [u8; 16] {
            let mut bytes = [0; 16];
            bytes.copy_from_slice(take(from, from + 16));
            bytes
        };
        let mut seq = [0; 8];
        seq.copy_from_slice(take(16, 24));
        let mut index = [0; 4];
        index.copy_from_slice(take(24, 28));
        let owner = ProcessId(Uuid::from_bytes(array(0)));
        let id = ObjectId { owner, seq: u64::from_le_bytes(seq), index: u32::from_le_bytes(index) };
        let ip = match wire[28] {
            4 => IpAddr::V4(Ipv4Addr::new(wire[29], wire[30], wire[31], wire[32])),
            6 => IpAddr::V6(Ipv6Addr::from(array(29))),
            _ => return Err(broken("it has an unknown address family")),
        };
        let socket = SocketAddr::new(ip, u16::from_le_bytes([wire[45], wire[46]]));
        Ok(self.handle_read(id, ProcessAddr { id: owner, socket }))
    }
}
