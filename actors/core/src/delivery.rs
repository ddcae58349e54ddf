//! What a failure to send means: the one place where it is interpreted.
//!
//! A process is given up only when it is known to be dead, or could not be reached within the
//! transport's window. A connection that broke is no death: both ends find out what got lost when
//! it is up again.

use std::time::Duration;

use mobula_transport::{Address, Endpoint, MailboxId, Message, Payload, SendError};

/// How long one try of [`insist`] waits for its answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// The pause before its second try; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Its longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What the sender of a message does about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The receiver will never answer again.
    Dead,
    /// It may or may not have arrived; the transport tells when the connection is up again, or
    /// that it is lost.
    Doubtful,
    /// The way is full: the same message later.
    Full,
    /// This message will never be taken, another one may.
    Refused,
}

/// What `error` means.
pub(crate) fn fate(error: &SendError) -> Fate {
    match error {
        SendError::Gone { .. } | SendError::NoSuchActor | SendError::Closed => Fate::Dead,
        SendError::MailboxFull { .. } => Fate::Full,
        SendError::UnknownMessage { .. }
        | SendError::Undecodable { .. }
        | SendError::TooLarge { .. }
        | SendError::WrongLength { .. }
        | SendError::Refused { .. }
        | SendError::Elsewhere { .. } => Fate::Refused,
        _ => Fate::Doubtful,
    }
}

/// Tells something of which nobody else would ever hear, in the name of the actor `from`: again and
/// again until it was answered, or the receiver is known to be dead. The receiver may see it twice.
pub(crate) fn insist<M: Message + Clone>(endpoint: &Endpoint, from: MailboxId, to: Address, message: M) {
    insist_after(endpoint.clone(), from, to, message, FIRST_PAUSE);
}

fn insist_after<M: Message + Clone>(endpoint: Endpoint, from: MailboxId, to: Address, message: M, pause: Duration) {
    let (again, later) = (message.clone(), endpoint.clone());
    endpoint.request_from(Some(from), to, message, Payload::new(), ANSWER_WITHIN, move |answer| {
        let Err(error) = answer else { return };
        match fate(&error) {
            Fate::Doubtful | Fate::Full => {
                tracing::debug!(%to, %error, "telling it again");
                later.clone().spawn_task(async move {
                    tokio::time::sleep(pause).await;
                    insist_after(later, from, to, again, (pause * 2).min(LONGEST_PAUSE));
                });
            }
            Fate::Dead => tracing::debug!(%to, %error, "nobody is left who would have to hear it"),
            Fate::Refused => tracing::warn!(%to, %error, "a message that matters was refused"),
        }
    });
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use mobula_transport::{EndpointConfig, Envelope, Mailbox, ProcessId};

    use crate::ids::ActorId;
    use crate::messages::ActorExited;

    use super::*;

    #[test]
    fn only_what_is_known_to_be_dead_is_dead() {
        let process = ProcessId::random();
        assert_eq!(fate(&SendError::Gone { process, why: String::new() }), Fate::Dead);
        assert_eq!(fate(&SendError::Unreachable { process, why: String::new() }), Fate::Doubtful);
        assert_eq!(fate(&SendError::MailboxFull { limit: 1 }), Fate::Full);
        assert_eq!(fate(&SendError::TooLarge { size_bytes: 2, limit_bytes: 1 }), Fate::Refused);
    }
    /// Says nothing the first times.
    struct Deaf(mpsc::Sender<u32>, std::sync::atomic::AtomicU32);

    impl Mailbox for Deaf {
        fn deliver(&self, envelope: Envelope) {
            let heard = self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let Ok((_, request)) = envelope.open::<ActorExited>() else { return };
            match heard {
                0 => request.fail(SendError::TimedOut { after: Duration::ZERO }),
                1 => request.fail(SendError::MailboxFull { limit: 1 }),
                // Dropped without an answer.
                2 => {}
                _ => request.reply(()),
            }
            let _ = self.0.send(heard);
        }
    }

    #[test]
    fn what_matters_is_told_until_it_is_answered() {
        let endpoint = Endpoint::in_process(EndpointConfig::default()).unwrap();
        let (tell, told) = mpsc::channel();
        let to = endpoint.address_of(MailboxId::GCS);
        endpoint.attach(MailboxId::GCS, std::sync::Arc::new(Deaf(tell, 0.into())));
        let exited = ActorExited { actor: ActorId::random(), incarnation: 0, why: String::new(), failed: true };
        insist(&endpoint, MailboxId::WORKER, to, exited);
        for expected in 0..4 {
            assert_eq!(told.recv_timeout(Duration::from_secs(30)), Ok(expected));
        }
        // Answered: nothing more comes.
        assert!(told.recv_timeout(FIRST_PAUSE * 10).is_err());
        endpoint.shutdown(Duration::ZERO);
    }
}
