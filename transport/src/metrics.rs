//! Counters of an endpoint.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        #[derive(Default)]
        pub(crate) struct Metrics {
            $(pub(crate) $name: AtomicU64,)*
        }

        /// What an endpoint has counted since it started.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        #[non_exhaustive]
        pub struct MetricsSnapshot {
            $($(#[$doc])* pub $name: u64,)*
            /// Requests that wait for their answer now.
            pub requests_in_flight: u64,
            /// Strangers refused; [`Endpoint::refusals`](crate::Endpoint::refusals) says why.
            pub refused_connections: u64,
        }

        impl Metrics {
            pub(crate) fn snapshot(&self, requests_in_flight: u64, refused_connections: u64) -> MetricsSnapshot {
                MetricsSnapshot {
                    $($name: self.$name.load(Ordering::Relaxed),)*
                    requests_in_flight,
                    refused_connections,
                }
            }
        }
    };
}

counters! {
    /// Frames read from other processes.
    messages_in,
    /// Frames written to other processes.
    messages_out,
    /// Bytes of frames read.
    bytes_in,
    /// Bytes of frames written.
    bytes_out,
    /// Reads that brought at least one frame.
    batches_in,
    /// Writes; each carries everything that was queued.
    batches_out,
    /// Bytes sent through the bulk channel.
    bulk_bytes_out,
    /// Bytes received through the bulk channel.
    bulk_bytes_in,
    /// Connections closed because of oversized or malformed frames.
    bad_frames,
    /// One-way messages that came back to an actor of this process.
    undelivered,
    /// Connections made.
    connections,
}
