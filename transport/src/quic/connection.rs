//! One connection: the hello on either side, then a writer and a reader per lane, all of them
//! independent of each other, until it ends.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use quinn::{ConnectionError, ReadToEndError, RecvStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::hello::{HELLO_MAX_BYTES, Hello, HelloAnswer, decode, encode};
use super::{QuicNetwork, attempt_of, code, left};
use crate::actor::panic_text;
use crate::address::ProcessAddr;
use crate::config::MAX_FRAME_BYTES;
use crate::core::Core;
use crate::frame::FrameReader;
use crate::lane::LANES;
use crate::link::{Admission, Link, Made};
use crate::network::{Attempt, Connection};
use crate::refusals::RefusalReason;

/// The largest piece read from a stream at once.
const READ_BYTES: usize = 256 * 1024;

struct Quic(quinn::Connection);

impl Connection for Quic {
    fn close(&self) {
        self.0.close(code::UNWANTED.into(), b"not wanted any more");
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

/// Takes the hello of a connection somebody else made, and runs the connection if it counts.
pub(super) async fn accept(network: Arc<QuicNetwork>, core: Arc<Core>, connection: quinn::Connection) {
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
            Err(error) => (HelloAnswer::Refused(error.to_string()), None),
            Ok(link) => {
                let quic = Arc::new(Quic(connection.clone()));
                let made = Made { nonce: hello.nonce, born: hello.born, connection: quic };
                match core.link_accepted(&link, hello.previous, made) {
                    Admission::Welcome => (HelloAnswer::Welcome(us, core.born), Some((link, hello.nonce))),
                    Admission::Duplicate => (HelloAnswer::Duplicate(us), None),
                    Admission::Dead => (HelloAnswer::Refused("declared dead".into()), None),
                }
            }
        },
    };
    if let Ok(bytes) = encode(&answer)
        && send.write_all(&bytes).await.is_ok()
    {
        // The connection may already have ended; then there is nobody to finish for.
        let _ = send.finish();
    }
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
    if let Some(guard) = network.writer_guard() {
        for lane in 0..LANES {
            let (core, link) = (core.clone(), link.clone());
            writers.spawn(write_lane(core, link, connection.clone(), lane, guard.clone()));
        }
    }
    let fault = Fault::default();
    let ended = loop {
        match connection.accept_uni().await {
            Ok(stream) => {
                let (core, link) = (core.clone(), link.clone());
                readers.spawn(read_lane(core, link, connection.clone(), stream, fault.clone()));
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

/// Writes whatever is queued in one lane, until the lane or the connection ends.
async fn write_lane(
    core: Arc<Core>,
    link: Arc<Link>,
    connection: quinn::Connection,
    lane: usize,
    _guard: mpsc::Sender<()>,
) -> Option<()> {
    let mut stream = connection.open_uni().await.ok()?;
    // Lane 0 before the others; a lane that has gone has no priority.
    let _ = stream.set_priority((LANES - lane) as i32);
    while let Some(mut batch) = poll_fn(|cx| link.lane(lane).poll_batch(cx)).await {
        stream.write_all_chunks(&mut batch.chunks).await.ok()?;
        core.metrics.messages_out.fetch_add(batch.frames, Ordering::Relaxed);
        core.metrics.bytes_out.fetch_add(batch.bytes as u64, Ordering::Relaxed);
        core.metrics.batches_out.fetch_add(1, Ordering::Relaxed);
    }
    // Drained: everything has left when the peer has acknowledged the end.
    stream.finish().ok()?;
    let _ = stream.stopped().await;
    Some(())
}

/// Why a reader had to close the connection.
type Fault = Arc<Mutex<Option<String>>>;

/// Delivers what one lane brings.
async fn read_lane(
    core: Arc<Core>,
    link: Arc<Link>,
    connection: quinn::Connection,
    mut stream: RecvStream,
    fault: Fault,
) -> Option<()> {
    let mut reader = FrameReader::new(MAX_FRAME_BYTES);
    let why = loop {
        let chunk = stream.read_chunk(READ_BYTES, true).await.ok()??;
        // A raw mailbox that panics must not silence the lane; the connection is made anew.
        let received = catch_unwind(AssertUnwindSafe(|| core.receive(&link, &mut reader, chunk.bytes)));
        match received {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                core.metrics.bad_frames.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(peer = %link.peer(), %error, "closing the connection: bad frame");
                break error.to_string();
            }
            Err(panic) => {
                let why = panic_text(&*panic).to_owned();
                tracing::error!(peer = %link.peer(), why, "a mailbox panicked");
                break why;
            }
        }
    };
    connection.close(code::BAD_FRAME.into(), why.as_bytes());
    *fault.lock() = Some(why);
    Some(())
}
