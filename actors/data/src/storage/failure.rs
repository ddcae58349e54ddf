//! What an error of a store, a server or a connection means.
//!
//! Entry points: [`of_sdk`] and [`of_status`], which turn what came back into a [`Failure`], and
//! [`error`], which turns the last one into the [`DataError`] that people see. [`error_within`]
//! finds such an error again inside those of readers and writers.

use std::error::Error;
use std::io;
use std::time::Duration;

use aws_config::imds::client::error::{ImdsError, TokenError};
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

/// What to tell of a request about `path` that failed for good. A file behind a URL has no endpoint
/// but that of its path. `tried` and `advice` are for who is denied: where credentials were looked for,
/// and what to do.
pub(super) fn error(
    path: &str,
    operation: &str,
    endpoint: &str,
    tried: &[String],
    advice: &str,
    failed: Failed,
) -> DataError {
    let path = path.to_owned();
    let operation = operation.to_owned();
    let cause = failed.failure.cause;
    match failed.failure.kind {
        Kind::NotFound => DataError::NotFound { path },
        Kind::NoSuchBucket => DataError::NoSuchBucket { path, endpoint: endpoint.into() },
        Kind::Changed => DataError::FileChanged { path, cause },
        Kind::Denied => {
            let (tried, cause, hint) = (tried.to_vec(), cause.into(), advice.into());
            DataError::AccessDenied { path, operation, tried, cause, hint }
        }
        kind @ (Kind::Unreachable | Kind::Untrusted) => {
            let (host, hint) = host_of(&path, endpoint);
            let hint = if kind == Kind::Untrusted { "is the URL right?" } else { hint };
            let host = host.into();
            DataError::Unreachable { path, operation, host, attempts: failed.attempts, cause, hint: hint.into() }
        }
        _ => DataError::Remote { path, operation, attempts: failed.attempts, cause },
    }
}

/// What is asked for a path, where it should be, and what to look at when it is not there.
fn host_of(path: &str, endpoint: &str) -> (String, &'static str) {
    if endpoint.is_empty() {
        let host = path.split_once("://").and_then(|(scheme, rest)| Some((scheme, rest.split('/').next()?)));
        let url = host.map_or_else(|| path.to_owned(), |(scheme, host)| format!("{scheme}://{host}"));
        return (format!("the server at {url}"), "is it running, is the URL right?");
    }
    match endpoint.contains("://") {
        true => (format!("the store at {endpoint}"), "is it running, is the endpoint URL right?"),
        false => (endpoint.to_owned(), "is this machine online, is the region right?"),
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
        SdkError::TimeoutError(_) => of_connection(error),
        SdkError::DispatchFailure(dispatch) if dispatch.is_user() => Failure::lasting(chain(error)),
        SdkError::DispatchFailure(_) => of_connection(error),
        SdkError::ResponseError(_) => Failure::passing(chain(error)),
        _ => Failure::lasting(chain(error)),
    }
}

/// What an error of a connection means: that there is none, or that it broke. The connector's errors
/// have no types of their own, only texts.
pub(super) fn of_connection(error: &(dyn Error + 'static)) -> Failure {
    let all = chain(error);
    // Asking again does not make a certificate better, nor a server speak TLS.
    if let Some(at) = all.find(CERTIFICATE) {
        return Failure::new(Kind::Untrusted, format!("its certificate is not trusted: {}", &all[at..]));
    }
    if all.contains(NOT_TLS) {
        return Failure::new(Kind::Untrusted, "it does not speak TLS: its URL begins with http:// then");
    }
    match unreachable(error, &all) {
        Some(cause) => Failure::new(Kind::Unreachable, cause),
        None => Failure::passing(all),
    }
}

/// Why no connection came about, where that is what `error` says; `all` is its chain.
fn unreachable(error: &(dyn Error + 'static), all: &str) -> Option<String> {
    if let Some((_, after)) = all.split_once(CONNECT_TIMEOUT) {
        let limit = after.split(':').next().unwrap_or_default();
        return Some(format!("no connection within {limit}"));
    }
    let mut next = Some(error);
    while let Some(error) = next {
        match error.downcast_ref::<io::Error>().map(io::Error::kind) {
            Some(io::ErrorKind::ConnectionRefused) => return Some("connection refused".into()),
            Some(io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable) => {
                return Some("no way leads there".into());
            }
            _ => {}
        }
        next = error.source();
    }
    if all.contains(DNS) {
        return Some(format!("no address is known for its name: {}", innermost(error)));
    }
    all.contains(CONNECT).then(|| innermost(error))
}

fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
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

/// Why there are no credentials, if that is what went wrong. Where was looked for them is told beside it.
fn credentials_error(error: &(dyn Error + 'static)) -> Option<String> {
    let error = within::<CredentialsError>(error)?;
    Some(match (error, within::<ImdsError>(error)) {
        (CredentialsError::CredentialsNotLoaded(_), _) => NO_CREDENTIALS.into(),
        // It is asked last, and on a machine that is no instance something else may answer there.
        (_, Some(metadata)) => {
            format!("{NO_CREDENTIALS}: the metadata service of instances gave none ({})", no_metadata(metadata))
        }
        _ => format!("{NO_CREDENTIALS}: {}", without_kinds(error)),
    })
}

/// What became of a question to the metadata service of an instance.
fn no_metadata(error: &ImdsError) -> String {
    let token = error.source().and_then(|source| source.downcast_ref::<SdkError<TokenError, HttpResponse>>());
    let answer = match error {
        ImdsError::ErrorResponse(answer) => Some(answer.response()),
        _ => token.and_then(|token| token.raw_response()),
    };
    match answer {
        Some(answer) => format!("it answered {}", answer.status().as_u16()),
        None => unreachable(error, &chain(error)).unwrap_or_else(|| innermost(error)),
    }
}

/// What an error of credentials says, without what only says that it is one.
fn without_kinds(error: &(dyn Error + 'static)) -> String {
    let mut said = error;
    while said.is::<CredentialsError>()
        && let Some(source) = said.source()
    {
        said = source;
    }
    chain(said)
}

/// The first error of this type in an error.
fn within<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// What is told of a search for credentials that found none.
const NO_CREDENTIALS: &str = "no credentials were found";

/// What TLS says of a certificate.
const CERTIFICATE: &str = "invalid peer certificate";
/// What TLS says when the other side speaks something else.
const NOT_TLS: &str = "received corrupt message of type InvalidContentType";
/// What the connector says when a connection does not come about in time, before the time.
const CONNECT_TIMEOUT: &str = "connect timeout occurred after ";
/// What the connector says when it finds no address.
const DNS: &str = "dns error";
/// What the connector says when there is no connection for another reason.
const CONNECT: &str = "client error (Connect)";
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

    /// An error that holds another one, as those of connectors do.
    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Holds {
        text: &'static str,
        source: Box<dyn Error + Send + Sync>,
    }

    fn connecting(held: impl Into<Box<dyn Error + Send + Sync>>) -> Failure {
        let connect = Holds { text: "client error (Connect)", source: held.into() };
        of_connection(&Holds { text: "dispatch failure", source: Box::new(connect) })
    }

    #[test]
    fn a_connection_that_does_not_come_about_is_told_apart_from_one_that_breaks() {
        let os = |kind: io::ErrorKind| io::Error::from(kind);
        let refused = Holds { text: "tcp connect error", source: Box::new(os(io::ErrorKind::ConnectionRefused)) };
        assert_eq!(connecting(refused), Failure::new(Kind::Unreachable, "connection refused"));
        let unroutable = connecting(os(io::ErrorKind::NetworkUnreachable));
        assert_eq!(unroutable, Failure::new(Kind::Unreachable, "no way leads there"));
        let unknown = io::Error::other("failed to lookup address information: Name or service not known");
        let unknown = connecting(Holds { text: "dns error", source: Box::new(unknown) });
        assert_eq!(unknown.kind, Kind::Unreachable);
        assert!(unknown.cause.starts_with("no address is known for its name: failed to lookup"), "{}", unknown.cause);
        let late = connecting(Holds {
            text: "HTTP connect timeout occurred after 5s",
            source: Box::new(io::Error::other("timed out")),
        });
        assert_eq!(late, Failure::new(Kind::Unreachable, "no connection within 5s"));
        let certificate = connecting(io::Error::other("invalid peer certificate: UnknownIssuer"));
        let told = "its certificate is not trusted: invalid peer certificate: UnknownIssuer";
        assert_eq!(certificate, Failure::new(Kind::Untrusted, told));
        let plain_http = connecting(io::Error::other("received corrupt message of type InvalidContentType"));
        assert_eq!(plain_http.kind, Kind::Untrusted);
        assert_eq!(connecting("tunnel error"), Failure::new(Kind::Unreachable, "tunnel error"));

        let broken = Holds { text: "client error (SendRequest)", source: Box::new(os(io::ErrorKind::ConnectionReset)) };
        assert_eq!(of_connection(&broken).kind, Kind::Passing);
    }

    #[test]
    fn of_credentials_it_is_told_what_happened_and_not_of_what_kind_it_was() {
        let told =
            |error: CredentialsError| credentials_error(&Holds { text: "dispatch failure", source: error.into() });
        let none = "no credentials were found";
        assert_eq!(told(CredentialsError::not_loaded("no providers in the chain provided credentials")).unwrap(), none);
        let nested = CredentialsError::provider_error("the token has expired");
        let expired = told(CredentialsError::provider_error(nested)).unwrap();
        assert_eq!(expired, format!("{none}: the token has expired"));
        let late = told(CredentialsError::provider_timed_out(Duration::from_secs(5))).unwrap();
        assert_eq!(late, format!("{none}: credentials provider timed out after 5 seconds"));
        assert_eq!(credentials_error(&Holds { text: "dispatch failure", source: "reset".into() }), None);
    }

    #[test]
    fn who_cannot_be_reached_is_named() {
        let host = |path: &str, endpoint: &str| host_of(path, endpoint).0;
        assert_eq!(host("s3://b/x", "http://127.0.0.1:9"), "the store at http://127.0.0.1:9");
        assert_eq!(host("s3://b/x", "s3 in eu-west-1"), "s3 in eu-west-1");
        assert_eq!(host("https://host:1/a/b", ""), "the server at https://host:1");
    }

    #[test]
    fn an_error_is_found_again_in_what_wraps_it() {
        let error = DataError::NotFound { path: "s3://b/k".into() };
        let wrapped = parquet::errors::ParquetError::External(Box::new(io::Error::other(error.clone())));
        assert_eq!(error_within(&wrapped), Some(error));
        assert_eq!(error_within(&io::Error::other("else")), None);
    }
}
