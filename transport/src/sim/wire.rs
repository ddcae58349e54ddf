//! How simulated processes connect, and how their frames travel.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::{End, Handle, Sim, SimConnection, SimDelivery};
use crate::address::ProcessAddr;
use crate::config::MAX_FRAME_BYTES;
use crate::core::Core;
use crate::error::SendError;
use crate::frame::FrameReader;
use crate::lane::{Batch, LANES};
use crate::link::{Admission, Link, Made};
use crate::network::{Attempt, Network, held_for_dead};

/// Batches of one lane that may be on their way.
const IN_FLIGHT: usize = 1024;

impl Network for Sim {
    fn attempt(
        self: Arc<Self>,
        core: Arc<Core>,
        link: Arc<Link>,
        previous: Option<u64>,
    ) -> BoxFuture<'static, Attempt> {
        Box::pin(async move {
            let socket = link.peer().socket;
            let connected = self.connect(core, socket, Some(link), previous).await;
            connected.map_or_else(|attempt| attempt, |_| Attempt::Up)
        })
    }

    fn discover(
        self: Arc<Self>,
        core: Arc<Core>,
        socket: SocketAddr,
    ) -> BoxFuture<'static, Result<ProcessAddr, Attempt>> {
        Box::pin(async move { self.connect(core, socket, None, None).await })
    }

    fn close(self: Arc<Self>, core: Arc<Core>, drain: Duration) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let process = core.process().id;
            core.links.all().iter().for_each(|link| link.drain());
            // What is queued leaves and arrives; then the farewell.
            let longest = *self.options.delay.end();
            tokio::time::sleep(drain.min(2 * longest)).await;
            for connection in self.connections_between(process, None) {
                connection.farewell(process);
            }
            if let Some(process) = self.state.lock().processes.get_mut(&process) {
                process.alive = false;
            }
            self.changed.notify_waiters();
        })
    }
}

impl Sim {
    async fn connect(
        self: &Arc<Self>,
        core: Arc<Core>,
        socket: SocketAddr,
        link: Option<Arc<Link>>,
        previous: Option<u64>,
    ) -> Result<ProcessAddr, Attempt> {
        let us = core.process();
        let begun = Instant::now();
        let timeout = core.limits.connect_timeout;
        let no_answer = || async move {
            tokio::time::sleep_until(begun + timeout).await;
            Attempt::Failed(format!("{socket} did not answer within {timeout:?}"))
        };
        tokio::time::sleep(self.delay()).await;
        let Some(other) = self.at(socket) else { return Err(no_answer().await) };
        let them = other.process();
        if !self.connected(us.id, them.id) {
            return Err(no_answer().await);
        }
        // What the accepter does with a hello.
        if link.as_ref().is_some_and(|link| link.peer().id != them.id) {
            tokio::time::sleep(self.delay()).await;
            return Err(Attempt::Gone(format!("another process, {}, answers at its address", them.id)));
        }
        if us.id == them.id {
            return Err(Attempt::Refused("a process cannot connect to itself".into()));
        }
        let refused = |error: &dyn std::fmt::Display| Attempt::Refused(error.to_string());
        if other.is_closed() {
            return Err(Attempt::Refused("it is shutting down".into()));
        }
        let theirs = other.link(us).map_err(|error| match error {
            SendError::Gone { why, .. } => held_for_dead(&why),
            error => refused(&error),
        })?;
        let anonymous = link.is_none();
        let ours = match link {
            Some(link) => link,
            None => core.link(them).map_err(|error| refused(&error))?,
        };
        let nonce = self.nonce();
        let connection = Arc::new(SimConnection {
            sim: Arc::downgrade(self),
            nonce,
            ends: [
                End { core: Arc::downgrade(&core), link: ours.clone(), process: us.id },
                End { core: Arc::downgrade(&other), link: theirs.clone(), process: them.id },
            ],
            idle_timeout: core.limits.idle_timeout,
            ended: AtomicBool::new(false),
            end: Notify::new(),
        });
        let handle = Arc::new(Handle(connection.clone()));
        let made = |core: &Core| Made { nonce, born: core.born, connection: handle.clone() };
        match other.link_accepted(&theirs, previous, made(&core)) {
            Admission::Welcome => {}
            Admission::Duplicate if anonymous => return Ok(them),
            Admission::Duplicate => return Err(Attempt::Duplicate),
            Admission::Dead => return Err(held_for_dead("declared dead")),
        }
        self.state.lock().connections.insert(nonce, Arc::downgrade(&connection));
        self.carry(&connection, 1);
        tokio::time::sleep(self.delay()).await;
        if connection.is_over() || !self.connected(us.id, them.id) {
            connection.end("the welcome did not arrive");
            return Err(no_answer().await);
        }
        if core.link_dialled(&ours, made(&other)) {
            self.carry(&connection, 0);
        } else {
            connection.end("no longer needed");
        }
        Ok(them)
    }

    /// Carries the lanes from one end of a connection to the other until it is over.
    fn carry(self: &Arc<Self>, connection: &Arc<SimConnection>, from: usize) {
        for lane in 0..LANES {
            let (depart, arrive) = mpsc::channel(IN_FLIGHT);
            tokio::spawn(depart_from(self.clone(), connection.clone(), from, lane, depart));
            tokio::spawn(arrive_at(self.clone(), connection.clone(), from, lane, arrive));
        }
    }
}

/// Takes batches from a lane and decides when they arrive.
async fn depart_from(
    sim: Arc<Sim>,
    connection: Arc<SimConnection>,
    from: usize,
    lane: usize,
    depart: mpsc::Sender<(Instant, Batch)>,
) {
    let link = connection.ends[from].link.clone();
    let mut last = Instant::now();
    loop {
        let over = connection.end.notified();
        if connection.is_over() {
            return;
        }
        let batch = tokio::select! {
            biased;
            () = over => return,
            batch = poll_fn(|cx| link.lane(lane).poll_batch(connection.nonce, cx)) => batch,
        };
        let Some(batch) = batch else { return };
        last = last.max(Instant::now() + sim.delay());
        if depart.send((last, batch)).await.is_err() {
            return;
        }
    }
}

/// Delivers batches when their time has come, unless the processes are cut off.
async fn arrive_at(
    sim: Arc<Sim>,
    connection: Arc<SimConnection>,
    from: usize,
    lane: usize,
    mut arrive: mpsc::Receiver<(Instant, Batch)>,
) {
    let (sender, receiver) = (&connection.ends[from], &connection.ends[1 - from]);
    let mut reader = FrameReader::new(MAX_FRAME_BYTES);
    while let Some((at, batch)) = arrive.recv().await {
        tokio::time::sleep_until(at).await;
        loop {
            let changed = sim.changed.notified();
            if connection.is_over() {
                return;
            }
            if sim.carries(&connection) {
                break;
            }
            // Held back until healed, or until the silence ends the connection.
            tokio::select! {
                biased;
                () = connection.end.notified() => return,
                () = changed => {}
            }
        }
        let Some(core) = receiver.core.upgrade() else { return };
        sim.note(SimDelivery {
            at: sim.begun.elapsed(),
            from: sender.process,
            to: receiver.process,
            lane,
            bytes: batch.bytes,
        });
        if let Some(core) = sender.core.upgrade() {
            use std::sync::atomic::Ordering::Relaxed;
            core.metrics.messages_out.fetch_add(batch.frames, Relaxed);
            core.metrics.bytes_out.fetch_add(batch.bytes as u64, Relaxed);
            core.metrics.batches_out.fetch_add(1, Relaxed);
        }
        for chunk in VecDeque::from(batch.chunks) {
            if core.receive(&receiver.link, &mut reader, chunk).is_err() {
                return connection.end("bad frame");
            }
        }
    }
}
