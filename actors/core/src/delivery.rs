//! What a failure to send means: the one place where it is interpreted.
//!
//! A process is given up only when it is known to be dead, or could not be reached within the
//! transport's window. A connection that broke is no death: both ends find out what got lost when
//! it is up again.

use mobula_transport::SendError;

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
        | SendError::Refused { .. } => Fate::Refused,
        _ => Fate::Doubtful,
    }
}

#[cfg(test)]
mod tests {
    use mobula_transport::ProcessId;

    use super::*;

    #[test]
    fn only_what_is_known_to_be_dead_is_dead() {
        let process = ProcessId::random();
        assert_eq!(fate(&SendError::Gone { process, why: String::new() }), Fate::Dead);
        assert_eq!(fate(&SendError::Unreachable { process, why: String::new() }), Fate::Doubtful);
        assert_eq!(fate(&SendError::MailboxFull { limit: 1 }), Fate::Full);
        assert_eq!(fate(&SendError::TooLarge { size_bytes: 2, limit_bytes: 1 }), Fate::Refused);
    }
}
