//! One connection: the hello on either side, then a writer and a reader per lane, all of them
//! independent of each other, until it ends.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use quinn::{ConnectionError, ReadError, ReadToEndError, RecvStream, WriteError};
use rustls::pki_types::CertificateDer;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::JoinSet;

use super::hello::{HELLO_MAX_BYTES, Hello, HelloAnswer, decode, encode};
use super::{QuicNetwork, attempt_of, code, left};
use crate::actor::panic_text;
use crate::address::ProcessAddr;
use crate::config::MAX_FRAME_BYTES;
use crate::core::Core;
use crate::error::SendError;
use crate::frame::FrameReader;
use crate::identity::{Role, tls::role_in};
use crate::lane::LANES;
use crate::link::{Admission, Link, Made};
use crate::network::{Attempt, Connection, held_for_dead};
use crate::refusals::RefusalReason;

/// The largest piece read from a stream at once.
const READ_BYTES: usize = 256 * 1024;

struct Quic(quinn::Connection);

impl Connection for Quic {
    fn close(&self) {
        self.0.close(code::UNWANTED.into(), b"not wanted any more");
    }

    fn role(&self) -> Option<Role> {
        let chain = self.0.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
        role_in(chain.first()?)
    }
}

/// Dials `socket`, says hello, and on welcome makes the connection that of the peer's link.
/// Returns who answered. `link` is the link to connect, unless the peer is yet unknown.
pub(super) async fn connect(
    network: Arc<QuicNetwork>,
    core: Arc<Core>,
    socket: SocketAddr,
    link: Option<Arc<Link>>,
    previous: Option<u64>,
) -> Result<ProcessAddr, Attempt> {
    let connection = network.dial(socket).await?;
    let wanted = link.as_ref().map(|link| link.peer().id);
    let hello = Hello { from: core.process(), wanted, nonce: rand::random(), previous, born: core.born };
    let answer = tokio::time::timeout(core.limits.connect_timeout, say_hello(&connection, &hello)).await;
    let answer = match answer {
        Ok(answer) => answer?,
        Err(_) => return Err(Attempt::Failed("no answer to the hello".into())),
    };
    match answer {
        HelloAnswer::Welcome(peer, born) => {
            let link = match link {
                Some(link) => link,
                None => core.link(peer).map_err(|error| Attempt::Refused(error.to_string()))?,
            };
            let quic = Arc::new(Quic(connection.clone()));
            if core.link_dialled(&link, Made { nonce: hello.nonce, born, connection: quic }) {
                tokio::spawn(run(network, core, link, connection, hello.nonce));
            } else {
                connection.close(code::UNWANTED.into(), b"no longer needed");
            }
            Ok(peer)
        }
        HelloAnswer::Duplicate(peer) if link.is_none() => Ok(peer),
        HelloAnswer::Duplicate(_) => Err(Attempt::Duplicate),
        HelloAnswer::OtherProcess(peer) => {
            Err(Attempt::Gone(format!("another process, {}, answers at its address", peer.id)))
        }
        HelloAnswer::Refused(why) => Err(Attempt::Refused(why)),
        HelloAnswer::HeldForDead(why) => Err(held_for_dead(&why)),
    }
}

async fn say_hello(connection: &quinn::Connection, hello: &Hello) -> Result<HelloAnswer, Attempt> {
    let failed = |error: &dyn std::fmt::Display| match connection.close_reason() {
        Some(reason) => attempt_of(&reason),
        None => Attempt::Failed(error.to_string()),
    };
    let (mut send, mut receive) = connection.open_bi().await.map_err(|e| attempt_of(&e))?;
    let bytes = encode(hello).map_err(|error| Attempt::Refused(error.to_string()))?;
    send.write_all(&bytes).await.map_err(|error| failed(&error))?;
    send.finish().map_err(|error| failed(&error))?;
    let answer = receive.read_to_end(HELLO_MAX_BYTES).await.map_err(|error| failed(&error))?;
    decode(&answer).map_err(|error| Attempt::Refused(error.to_string()))
}

/// Why a connection that somebody else made has brought no hello.
enum NoHello {
    Left(String),
    TooLong,
    Silent,
}

/// Takes the hello of a connection somebody else made, and runs the connection if it counts. The
/// permit is given back when the hello is over.
pub(super) async fn accept(
    network: Arc<QuicNetwork>,
    core: Arc<Core>,
    connection: quinn::Connection,
    permit: OwnedSemaphorePermit,
) {
    let timeout = core.limits.connect_timeout;
    let peer = connection.remote_address();
    let hello = tokio::time::timeout(timeout, async {
        let (send, mut receive) = connection.accept_bi().await.map_err(|error| NoHello::Left(error.to_string()))?;
        match receive.read_to_end(HELLO_MAX_BYTES).await {
            Ok(bytes) => Ok((send, decode::<Hello>(&bytes))),
            Err(ReadToEndError::TooLong) => Err(NoHello::TooLong),
            Err(ReadToEndError::Read(error)) => Err(NoHello::Left(error.to_string())),
        }
    });
    let (mut send, hello) = match hello.await.unwrap_or(Err(NoHello::Silent)) {
        Ok(hello) => hello,
        Err(no_hello) => {
            match no_hello {
                NoHello::Left(why) => left(peer, &why),
                NoHello::TooLong => core.refusals.note(peer, RefusalReason::Protocol, &"its hello does not end"),
                NoHello::Silent => core.refusals.note(peer, RefusalReason::Silence, &"it sent no hello"),
            }
            connection.close(code::BAD_FRAME.into(), b"no hello");
            return;
        }
    };
    let us = core.process();
    let (answer, link) = match hello {
        Err(error) => {
            core.refusals.note(peer, RefusalReason::Protocol, &error);
            (HelloAnswer::Refused(error.to_string()), None)
        }
        Ok(hello) if hello.wanted.is_some_and(|wanted| wanted != us.id) => (HelloAnswer::OtherProcess(us), None),
        Ok(hello) if hello.from.id == us.id => {
            (HelloAnswer::Refused("a process cannot connect to itself".into()), None)
        }
        Ok(_) if core.is_closed() => (HelloAnswer::Refused("it is shutting down".into()), None),
        Ok(hello) => match core.link(hello.from) {
            Err(SendError::Gone { why, .. }) => (HelloAnswer::HeldForDead(why), None),
            Err(error) => (HelloAnswer::Refused(error.to_string()), None),
            Ok(link) => {
                let quic = Arc::new(Quic(connection.clone()));
                let made = Made { nonce: hello.nonce, born: hello.born, connection: quic };
                match core.link_accepted(&link, hello.previous, made) {
                    Admission::Welcome => (HelloAnswer::Welcome(us, core.born), Some((link, hello.nonce))),
                    Admission::Duplicate => (HelloAnswer::Duplicate(us), None),
                    Admission::Dead => (HelloAnswer::HeldForDead("declared dead".into()), None),
                }
            }
        },
    };
    let answered = tokio::time::timeout(timeout, async {
        let bytes = encode(&answer).ok()?;
        send.write_all(&bytes).await.ok()?;
        send.finish().ok()
    });
    if !matches!(answered.await, Ok(Some(()))) {
        // Without its answer the dialler has no connection, so we should not have one either.
        connection.close(code::BAD_FRAME.into(), b"the hello cannot be answered");
    }
    drop(permit);
    match link {
        Some((link, nonce)) => run(network, core, link, connection, nonce).await,
        None => {
            // The dialler closes when it has read the answer.
            let _ = tokio::time::timeout(timeout, connection.closed()).await;
            connection.close(code::UNWANTED.into(), b"");
        }
    }
}

/// Carries a link's lanes until the connection ends.
async fn run(network: Arc<QuicNetwork>, core: Arc<Core>, link: Arc<Link>, connection: quinn::Connection, nonce: u64) {
    let (mut writers, mut readers) = (JoinSet::new(), JoinSet::new());
    let fault = Fault::default();
    if let Some(guard) = network.writer_guard() {
        for lane in 0..LANES {
            let (core, link) = (core.clone(), link.clone());
            let carrier = Carrier { core, link, connection: connection.clone(), fault: fault.clone() };
            writers.spawn(write_lane(carrier, nonce, lane, guard.clone()));
        }
    }
    let ended = loop {
        match connection.accept_uni().await {
            Ok(stream) => {
                let (core, link) = (core.clone(), link.clone());
                let carrier = Carrier { core, link, connection: connection.clone(), fault: fault.clone() };
                readers.spawn(read_lane(carrier, stream));
            }
            Err(error) => break error,
        }
    };
    writers.shutdown().await;
    // What had arrived before the end is still delivered; then the streams end with the same
    // error.
    while readers.join_next().await.is_some() {}
    let fault = fault.lock().take();
    match &ended {
        ConnectionError::ApplicationClosed(close) if close.error_code == code::SHUT_DOWN.into() => {
            if link.is_current(nonce) {
                core.mark_gone(link.peer().id, "it has shut down".to_owned());
            }
        }
        ended => {
            let why = fault.unwrap_or_else(|| ended.to_string());
            core.link_interrupted(&link, nonce, &why);
        }
    }
}

/// Why we closed a connection.
type Fault = Arc<Mutex<Option<String>>>;

/// What the reader or the writer of one lane works with.
struct Carrier {
    core: Arc<Core>,
    link: Arc<Link>,
    connection: quinn::Connection,
    fault: Fault,
}

impl Carrier {
    /// Ends the connection: with one of its lanes dumb or deaf it is of no use.
    fn give_up(&self, why: String) {
        tracing::warn!(peer = %self.link.peer(), why, "closing the connection");
        self.connection.close(code::BAD_FRAME.into(), why.as_bytes());
        *self.fault.lock() = Some(why);
    }
}

/// Writes whatever is queued in one lane, until the lane or the connection ends.
async fn write_lane(carrier: Carrier, nonce: u64, lane: usize, _guard: mpsc::Sender<()>) {
    // Fails only with the connection.
    let Ok(mut stream) = carrier.connection.open_uni().await else { return };
    // Lane 0 before the others; a lane that has gone has no priority.
    let _ = stream.set_priority((LANES - lane) as i32);
    let metrics = &carrier.core.metrics;
    while let Some(mut batch) = poll_fn(|cx| carrier.link.lane(lane).poll_batch(nonce, cx)).await {
        match stream.write_all_chunks(&mut batch.chunks).await {
            Ok(()) => {}
            Err(WriteError::ConnectionLost(_)) => return,
            Err(error) => return carrier.give_up(format!("a lane cannot be written: {error}")),
        }
        metrics.messages_out.fetch_add(batch.frames, Ordering::Relaxed);
        metrics.bytes_out.fetch_add(batch.bytes as u64, Ordering::Relaxed);
        metrics.batches_out.fetch_add(1, Ordering::Relaxed);
    }
    // Drained: everything has left when the peer has acknowledged the end.
    if stream.finish().is_ok() {
        let _ = stream.stopped().await;
    }
}

/// Delivers what one lane brings.
async fn read_lane(carrier: Carrier, mut stream: RecvStream) {
    let mut reader = FrameReader::new(MAX_FRAME_BYTES);
    loop {
        let chunk = match stream.read_chunk(READ_BYTES, true).await {
            Ok(Some(chunk)) => chunk,
            // The peer drains its lanes before it leaves.
            Ok(None) | Err(ReadError::ConnectionLost(_)) => return,
            Err(error) => return carrier.give_up(format!("a lane cannot be read: {error}")),
        };
        // A raw mailbox that panics must not silence the lane; the connection is made anew.
        let received = catch_unwind(AssertUnwindSafe(|| carrier.core.receive(&carrier.link, &mut reader, chunk.bytes)));
        match received {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                carrier.core.metrics.bad_frames.fetch_add(1, Ordering::Relaxed);
                return carrier.give_up(format!("bad frame: {error}"));
            }
            Err(panic) => return carrier.give_up(format!("a mailbox panicked: {}", panic_text(&*panic))),
        }
    }
}
