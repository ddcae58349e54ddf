//! What processes log when `MOBULA_LOG` does not say.
//!
//! Entry points: [`OF_PROGRAMS`] and `OF_WORKERS`, for an `EnvFilter`. The warnings of the AWS SDK
//! are left out of both: it warns of every place without credentials where it looks for some, and
//! what came of it is in the error of the run.

/// What programs log: warnings and errors.
pub const OF_PROGRAMS: &str = "warn,aws=error";

/// What workers log: what users say, and Mobula's own warnings.
pub(crate) const OF_WORKERS: &str =
    "info,mobula=warn,mobula_core=warn,mobula_data=warn,mobula_transport=warn,aws=error";

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::Arc;

    use parking_lot::Mutex;
    use tracing_subscriber::EnvFilter;

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is written of some events under a filter.
    fn written(filter: &str) -> String {
        let to = Written::default();
        let writer = to.clone();
        let log = tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::try_new(filter).unwrap())
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .finish();
        tracing::subscriber::with_default(log, || {
            tracing::warn!(target: "aws_config::imds::region", "failed to load region from IMDS");
            tracing::warn!(target: "aws_smithy_runtime::client", "unrecognized");
            tracing::error!(target: "aws_sdk_s3", "broken");
            tracing::warn!(target: "mobula_data::storage", "ours");
            tracing::info!(target: "taxi", "of a user");
        });
        let bytes = to.0.lock().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn what_the_sdk_only_warns_of_is_not_shown() {
        for (filter, of_user) in [(OF_PROGRAMS, false), (OF_WORKERS, true)] {
            let text = written(filter);
            assert!(!text.contains("IMDS") && !text.contains("unrecognized"), "{text}");
            assert!(text.contains("broken") && text.contains("ours"), "{text}");
            assert_eq!(text.contains("of a user"), of_user, "{text}");
        }
        // Who asks for them sees them.
        assert!(written("aws=warn").contains("IMDS"));
    }
}
