//! What an error of a store, a server or a connection means.
//!
//! Entry points: [`of_sdk`] and [`of_status`], which turn what came back into a [`Failure`], and
//! [`error`], which turns the last one into the [`DataError`] that people see. [`error_within`]
//! finds such an error again inside those of readers and writers.

use std::error::Error;
use std::io;
use std::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use super::retry::{Failed, Failure, Kind};
use crate::error::DataError;

/// The error of this crate inside an error of a reader or a writer, such as those of Parquet.
#[must_use]
pub fn error_within(error: &(dyn Error + 'static)) -> Option<DataError> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<DataError>() {
            return Some(found.clone());
        }
        // What such an error holds is not its source, but itself.
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(held) => Some(held),
            None => error.source(),
        };
    }
    None
}

/// What to tell of a request about `path` that failed for good.
pub(super) fn error(path: &str, operation: &str, endpoint: &str, tried: &[String], failed: Failed) -> DataError {
    let path = path.to_owned();
    let operation = operation.to_owned();
    let cause = failed.failure.cause;
    match failed.failure.kind {
        Kind::NotFound => DataError::NotFound { path },
        Kind::NoSuchBucket => DataError::NoSuchBucket { path, endpoint: endpoint.into() },
        Kind::Changed => DataError::FileChanged { path, cause },
        Kind::Denied => DataError::AccessDenied { path, operation, tried: tried.to_vec(), cause },
        _ => DataError::Remote { path, operation, attempts: failed.attempts, cause },
    }
}

/// What an error of the S3 client means.
pub(super) fn of_sdk<E>(error: &SdkError<E, HttpResponse>) -> Failure
where
    E: ProvideErrorMetadata + Error + 'static,
{
    if let Some(cause) = credentials_error(error) {
        return Failure::new(Kind::Denied, cause);
    }
    match error {
        SdkError::ServiceError(service) => {
            let response = service.raw();
            let header = |name: &str| response.headers().get(name);
            let failure = of_answer(
                response.status().as_u16(),
                service.err().code().unwrap_or_default(),
                service.err().message().unwrap_or_default(),
                retry_after(header(RETRY_AFTER)),
            );
            match header(BUCKET_REGION) {
                Some(region) if points_elsewhere(response.status().as_u16()) => {
                    Failure::new(Kind::OtherRegion(region.into()), failure.cause)
                }
                _ => failure,
            }
        }
        SdkError::TimeoutError(_) => Failure::passing(chain(error)),
        SdkError::DispatchFailure(dispatch) if dispatch.is_user() => Failure::lasting(chain(error)),
        SdkError::DispatchFailure(_) => of_connection(error),
        SdkError::ResponseError(_) => Failure::passing(chain(error)),
        _ => Failure::lasting(chain(error)),
    }
}

/// What an error of a connection means. A certificate does not get better by asking again.
pub(super) fn of_connection(error: &(dyn Error + 'static)) -> Failure {
    let cause = chain(error);
    let kind = if cause.contains("invalid peer certificate") { Kind::Lasting } else { Kind::Passing };
    Failure::new(kind, cause)
}

/// What the status of an HTTP answer means that is not a success.
pub(super) fn of_status(status: u16, retry_after: Option<Duration>) -> Failure {
    of_answer(status, "", "", retry_after)
}

fn of_answer(status: u16, code: &str, message: &str, retry_after: Option<Duration>) -> Failure {
    let cause = match (code, message) {
        ("", _) => format!("the server answered {status}"),
        (code, "") => format!("{code} (HTTP {status})"),
        (code, message) => format!("{code}: {} (HTTP {status})", message.trim_end_matches('.')),
    };
    let kind = match (status, code) {
        (_, "NoSuchBucket") => Kind::NoSuchBucket,
        (_, code) if THROTTLING.contains(&code) => Kind::Throttled(retry_after),
        (_, code) if PASSING.contains(&code) => Kind::Passing,
        (_, code) if DENIED.contains(&code) => Kind::Denied,
        (429 | 503, _) => Kind::Throttled(retry_after),
        (408 | 425 | 500 | 502 | 504, _) => Kind::Passing,
        (401 | 403, _) => Kind::Denied,
        (404 | 410, _) => Kind::NotFound,
        (412 | 416, _) => Kind::Changed,
        _ => Kind::Lasting,
    };
    Failure::new(kind, cause)
}

/// Whether an answer may mean that the bucket is in another region.
fn points_elsewhere(status: u16) -> bool {
    matches!(status, 301 | 302 | 307 | 400)
}

/// How long a server wants to be left alone.
pub(super) fn retry_after(header: Option<&str>) -> Option<Duration> {
    // It may also be a date, which needs a clock that agrees with the server's.
    header?.trim().parse().ok().map(Duration::from_secs)
}

/// What the errors of an error say, from the outermost in.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let said = error.to_string();
        if !text.ends_with(&said) {
            text = format!("{text}: {said}");
        }
        next = error.source();
    }
    text
}

fn credentials_error(error: &(dyn Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<CredentialsError>() {
            return Some(chain(error));
        }
        next = error.source();
    }
    None
}

/// Where S3 says in which region a bucket is.
pub(super) const BUCKET_REGION: &str = "x-amz-bucket-region";
/// Where a server says when to come back.
pub(super) const RETRY_AFTER: &str = "retry-after";
/// What stores say when they are asked too much.
const THROTTLING: [&str; 6] =
    ["SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequests", "ServiceUnavailable"];
/// What stores say when another attempt may end better, whatever the status.
const PASSING: [&str; 5] =
    ["InternalError", "RequestTimeout", "OperationAborted", "ConditionalRequestConflict", "IncompleteBody"];
/// What stores say of credentials, whatever the status.
const DENIED: [&str; 6] = [
    "AccessDenied",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "RequestTimeTooSkewed",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_apart() {
        let kind = |status, code| of_answer(status, code, "", None).kind;
        assert_eq!(kind(503, "SlowDown"), Kind::Throttled(None));
        assert_eq!(kind(400, "RequestTimeout"), Kind::Passing);
        assert_eq!(kind(400, "ExpiredToken"), Kind::Denied);
        assert_eq!(kind(404, "NoSuchBucket"), Kind::NoSuchBucket);
        assert_eq!(kind(404, "NoSuchKey"), Kind::NotFound);
        assert_eq!(kind(412, "PreconditionFailed"), Kind::Changed);
        assert_eq!(kind(400, "InvalidPart"), Kind::Lasting);
        assert_eq!(of_status(503, Some(Duration::from_secs(3))).kind, Kind::Throttled(Some(Duration::from_secs(3))));
    }

    #[test]
    fn an_error_is_found_again_in_what_wraps_it() {
        let error = DataError::NotFound { path: "s3://b/k".into() };
        let wrapped = parquet::errors::ParquetError::External(Box::new(io::Error::other(error.clone())));
        assert_eq!(error_within(&wrapped), Some(error));
        assert_eq!(error_within(&io::Error::other("else")), None);
    }
}
