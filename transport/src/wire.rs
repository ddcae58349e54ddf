//! Between messages and frames: what is sent to other processes, and what they send.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use serde::Serialize;

use crate::address::{Address, MailboxId, ProcessId, Sender};
use crate::asker::Asker;
use crate::core::Core;
use crate::envelope::{Body, Envelope, RawReply};
use crate::error::{SendError, Undelivered};
use crate::frame::{Frame, FrameError, FrameReader, FrameType, Head, encode};
use crate::lane::lane_of;
use crate::link::Link;
use crate::message::{Payload, decode};

/// A thread keeps its encoding buffer between messages up to this size.
const KEEP_SCRATCH_BYTES: usize = 256 * 1024;

thread_local! {
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The way back to a process that waits for the fate of a message.
pub(crate) struct WayBack {
    pub(crate) core: Arc<Core>,
    pub(crate) link: Arc<Link>,
    pub(crate) lane: usize,
}

impl WayBack {
    /// An answer; if it cannot be sent, the asker gets the reason instead.
    pub(crate) fn answer<R: Serialize>(&self, frame_type: FrameType, id: u64, reply: &R, mut payload: Payload) {
        let head = Head { frame_type, kind: 0, mailbox: 0, sender: 0, correlation: id };
        if let Err(error) = self.core.transmit(&self.link, self.lane, head, Some(reply), &mut payload) {
            self.fail(id, &error);
        }
    }

    pub(crate) fn fail(&self, id: u64, error: &SendError) {
        let frame_type = FrameType::Fail;
        self.small(Head { frame_type, kind: 0, mailbox: 0, sender: 0, correlation: id }, Some(error));
    }

    pub(crate) fn end(&self, id: u64) {
        let frame_type = FrameType::End;
        self.small(Head { frame_type, kind: 0, mailbox: 0, sender: 0, correlation: id }, None);
    }

    pub(crate) fn undelivered(&self, sender: u64, mailbox: u64, kind: u32, error: &SendError) {
        let frame_type = FrameType::Undelivered;
        self.small(Head { frame_type, kind, mailbox: sender, sender: mailbox, correlation: 0 }, Some(error));
    }

    fn small(&self, head: Head, error: Option<&SendError>) {
        let sent = self.core.transmit(&self.link, self.lane, head, error, &mut Payload::new());
        if let Err(error) = sent {
            // The link has ended, and with it the asker's wait; or its queue is over twice full.
            tracing::debug!(peer = %self.link.peer(), %error, "an answer could not be sent");
        }
    }
}

impl Core {
    /// Encodes a frame on this thread and queues it for the link's process.
    pub(crate) fn transmit<T: Serialize>(
        self: &Arc<Self>,
        link: &Arc<Link>,
        lane: usize,
        head: Head,
        value: Option<&T>,
        payload: &mut Payload,
    ) -> Result<(), SendError> {
        use FrameType::{Ask, AskStream, Tell};
        let answer = !matches!(head.frame_type, Tell | Ask | AskStream);
        let mut scratch = SCRATCH.take();
        let pushed = encode(&mut scratch, head, std::any::type_name::<T>(), value, payload, self.limits.frame_bytes)
            .and_then(|()| link.lane(lane).push(&scratch, payload, answer, self.limits.lane_queue_bytes));
        if scratch.capacity() <= KEEP_SCRATCH_BYTES {
            SCRATCH.set(scratch);
        }
        pushed?;
        self.want_connection(link);
        Ok(())
    }

    /// Takes what was read from one lane of a link.
    pub(crate) fn receive(
        self: &Arc<Self>,
        link: &Arc<Link>,
        reader: &mut FrameReader,
        chunk: Bytes,
    ) -> Result<(), FrameError> {
        let bytes = chunk.len() as u64;
        let frames = reader.feed(chunk, |frame| self.accept(link, frame))?;
        self.metrics.bytes_in.fetch_add(bytes, Ordering::Relaxed);
        if frames > 0 {
            self.metrics.messages_in.fetch_add(frames as u64, Ordering::Relaxed);
            self.metrics.batches_in.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn accept(self: &Arc<Self>, link: &Arc<Link>, frame: Frame) {
        let Frame { head, envelope, payload } = frame;
        let Head { frame_type, kind, mailbox, sender, correlation } = head;
        match frame_type {
            FrameType::Tell | FrameType::Ask | FrameType::AskStream => {
                let to = MailboxId(mailbox);
                let from = (sender != 0).then_some(MailboxId(sender));
                let way = || WayBack { core: self.clone(), link: link.clone(), lane: lane_of(Some(to), from) };
                let asker = match frame_type {
                    FrameType::Ask => Asker::remote(way(), correlation, false),
                    FrameType::AskStream => Asker::remote(way(), correlation, true),
                    _ if from.is_some() => Asker::remote_sender(way(), sender, mailbox, kind),
                    _ => Asker::nobody(),
                };
                self.deliver(Envelope {
                    from: Sender { process: link.peer(), mailbox: from },
                    to,
                    kind,
                    body: Body::Wire(envelope),
                    payload,
                    asker,
                });
            }
            FrameType::Reply => self.answer(link.peer().id, correlation, RawReply::Wire(envelope, payload)),
            FrameType::Fail => {
                self.answer(link.peer().id, correlation, RawReply::Failed(error_of(&envelope)));
            }
            FrameType::Item => {
                if !self.stream_item(link.peer().id, correlation, RawReply::Wire(envelope, payload)) {
                    self.stream_cancel(link.peer().id, correlation);
                }
            }
            FrameType::End => self.stream_end(link.peer().id, correlation, None),
            FrameType::Credit => self.sinks().credit((link.peer().id, correlation), kind),
            FrameType::Cancel => self.sinks().close((link.peer().id, correlation)),
            FrameType::Undelivered => {
                let to = Address { process: link.peer(), mailbox: MailboxId(sender) };
                let error = error_of(&envelope);
                self.undelivered(MailboxId(mailbox), Undelivered { to, kind, error });
            }
        }
    }

    /// Tells the producer of stream `id` that `items` were read.
    pub(crate) fn stream_credit(self: &Arc<Self>, producer: ProcessId, id: u64, items: u32) {
        if producer == self.process().id {
            self.sinks().credit((producer, id), items);
        } else {
            self.control(producer, FrameType::Credit, id, items);
        }
    }

    /// Tells the producer of stream `id` that nobody reads it.
    pub(crate) fn stream_cancel(self: &Arc<Self>, producer: ProcessId, id: u64) {
        if producer == self.process().id {
            self.sinks().close((producer, id));
        } else {
            self.control(producer, FrameType::Cancel, id, 0);
        }
    }

    fn control(self: &Arc<Self>, peer: ProcessId, frame_type: FrameType, id: u64, kind: u32) {
        let Some(link) = self.links.get(peer) else { return };
        let head = Head { frame_type, kind, mailbox: 0, sender: 0, correlation: id };
        let sent = self.transmit::<()>(&link, lane_of(None, None), head, None, &mut Payload::new());
        if let Err(error) = sent {
            tracing::debug!(peer = %link.peer(), %error, "a stream's control frame was not sent");
        }
    }
}

fn error_of(envelope: &[u8]) -> SendError {
    decode("SendError", envelope).unwrap_or_else(|error| error)
}
