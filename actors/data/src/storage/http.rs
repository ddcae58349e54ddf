//! Files behind `https://` and `http://`.
//!
//! Entry type: [`Http`]. A server has to say how large a file is; one that cannot send parts
//! may serve small files. Redirects are followed, never from `https` to `http`.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::config::http::{HttpRequest, HttpResponse};
use aws_sdk_s3::primitives::ByteStream;
use aws_smithy_http_client::Connector;
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_runtime_api::client::http::{HttpConnector, HttpConnectorSettings};
use bytes::Bytes;
use tokio::time::timeout;

use super::body::{Answer, Stat, parse_content_range, range_header};
use super::cache::Cache;
use super::failure::{self, RETRY_AFTER, chain, of_connection, of_status, retry_after};
use super::options::StorageOptions;
use super::retry::{Failed, Failure, Kind, Retry};
use crate::error::DataError;

/// Who asks servers for files.
#[derive(Debug)]
pub(super) struct Http {
    connector: Connector,
    retry: Retry,
    request_timeout: Duration,
    stall_timeout: Duration,
}

impl Http {
    /// The client for `options`: the one there is, or a new one.
    pub(super) async fn of(options: &StorageOptions) -> Result<Arc<Http>, DataError> {
        static CLIENTS: Cache<Http> = Cache::new();
        options.check()?;
        CLIENTS.get(options, async { Ok(Http::new(options)) }).await
    }

    fn new(options: &StorageOptions) -> Http {
        let settings = HttpConnectorSettings::builder().connect_timeout(options.connect_timeout).build();
        let connector = Connector::builder()
            .connector_settings(settings)
            .proxy_config(ProxyConfig::from_env())
            .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
            .build();
        Http {
            connector,
            retry: Retry::new(options),
            request_timeout: options.request_timeout,
            stall_timeout: options.stall_timeout,
        }
    }

    /// Which state the file is in.
    pub(super) async fn stat(&self, url: &str) -> Result<Stat, Failed> {
        self.retry.run(|| self.ask_stat(url)).await
    }

    /// The bytes of a range, which is not empty, of the file in the state `stat`.
    pub(super) async fn get(&self, url: &str, range: &Range<u64>, stat: &Stat) -> Result<Bytes, Failed> {
        let get = || async {
            let asked = range_header(range);
            let mut headers = vec![("range", asked.as_str())];
            // A weak name never matches, by definition; it is compared here.
            if let Some(etag) = stat.etag.as_deref().filter(|etag| !etag.starts_with(WEAK)) {
                headers.push(("if-match", etag));
            }
            let response = self.send("GET", url, &headers).await?;
            answer(success(response)?).bytes(range, stat, self.stall_timeout).await
        };
        self.retry.run(get).await
    }

    /// What to tell of a request about `path` that failed for good.
    pub(super) fn error(&self, path: &str, operation: &str, failed: Failed) -> DataError {
        let tried = ["none: the URL has to carry what is needed".to_owned()];
        failure::error(path, operation, "", &tried, "", failed)
    }

    async fn ask_stat(&self, url: &str) -> Result<Stat, Failure> {
        let head = self.send("HEAD", url, &[]).await?;
        let etag = header(&head, "etag");
        if head.status().is_success()
            && let Some(size) = header(&head, "content-length").and_then(|length| length.parse().ok())
        {
            return Ok(Stat { size, etag });
        }
        // A signed URL is for GET alone, and some servers know no HEAD.
        let get = self.send("GET", url, &[("range", "bytes=0-0")]).await?;
        let (status, etag) = (get.status().as_u16(), header(&get, "etag"));
        let size = match (status, header(&get, "content-range"), header(&get, "content-length")) {
            // Not even its first byte is there.
            (206 | 416, Some(range), _) => parse_content_range(&range)?.1,
            (200, _, Some(length)) => length.parse().ok(),
            (200 | 206, ..) => None,
            _ => return success(get).map(|_| Stat { size: 0, etag }),
        };
        match size {
            Some(size) => Ok(Stat { size, etag }),
            None => Err(Failure::lasting("the server does not say how large the file is")),
        }
    }

    /// Sends a request and follows redirects.
    async fn send(&self, method: &str, url: &str, headers: &[(&str, &str)]) -> Result<HttpResponse, Failure> {
        let mut url = url.to_owned();
        for _ in 0..=MAX_REDIRECTS {
            let call = self.connector.call(request(method, &url, headers)?);
            let response = match timeout(self.request_timeout, call).await {
                Ok(answer) => answer.map_err(|error| of_connection(&error))?,
                Err(_) => return Err(Failure::passing(format!("no answer within {:?}", self.request_timeout))),
            };
            match (response.status().as_u16(), header(&response, "location")) {
                (301 | 302 | 303 | 307 | 308, Some(to)) => url = redirected(&url, &to)?,
                _ => return Ok(response),
            }
        }
        Err(Failure::lasting(format!("the server redirects more than {MAX_REDIRECTS} times")))
    }
}

fn request(method: &str, url: &str, headers: &[(&str, &str)]) -> Result<HttpRequest, Failure> {
    let wrong = |what: &str| Failure::lasting(format!("the request cannot be made: {what}"));
    let url = url.split('#').next().unwrap_or_default();
    let mut request = HttpRequest::get(url).map_err(|error| wrong(&chain(&error)))?;
    request.set_method(method).map_err(|error| wrong(&chain(&error)))?;
    let ours = [("accept-encoding", "identity"), ("user-agent", USER_AGENT)];
    for (name, value) in ours.iter().chain(headers) {
        let added = request.headers_mut().try_insert((*name).to_owned(), (*value).to_owned());
        added.map_err(|error| wrong(&chain(&error)))?;
    }
    Ok(request)
}

fn success(response: HttpResponse) -> Result<HttpResponse, Failure> {
    if let Some(encoding) = header(&response, "content-encoding").filter(|encoding| encoding != "identity") {
        return Err(Failure::lasting(format!("the server sends the file encoded as {encoding}, unasked")));
    }
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let failure = of_status(status.as_u16(), retry_after(header(&response, RETRY_AFTER).as_deref()));
    Err(match failure.kind {
        Kind::Changed => Failure::changed(format!("the server no longer has what was opened ({})", status.as_u16())),
        _ => failure,
    })
}

fn answer(response: HttpResponse) -> Answer {
    Answer {
        content_range: header(&response, "content-range"),
        content_length: header(&response, "content-length").and_then(|length| length.parse().ok()),
        etag: header(&response, "etag"),
        body: ByteStream::new(response.into_body()),
    }
}

fn header(response: &HttpResponse, name: &str) -> Option<String> {
    response.headers().get(name).map(str::to_owned)
}

/// Where a redirect leads.
fn redirected(from: &str, to: &str) -> Result<String, Failure> {
    let scheme = if from.starts_with("https://") { "https" } else { "http" };
    let rest = &from[(scheme.len() + 3).min(from.len())..];
    let host = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
    let url = match to {
        _ if to.starts_with("https://") || to.starts_with("http://") => to.to_owned(),
        _ if to.starts_with("//") => format!("{scheme}:{to}"),
        _ if to.starts_with('/') => format!("{scheme}://{host}{to}"),
        _ => {
            // What stands behind the path may be a signature.
            let to = to.split(['?', '#']).next().unwrap_or_default();
            return Err(Failure::lasting(format!("the server redirects to {to}, which is not followed")));
        }
    };
    if scheme == "https" && !url.starts_with("https://") {
        return Err(Failure::lasting("the server redirects from https to http, which is not followed"));
    }
    Ok(url)
}

/// How many redirects are followed.
const MAX_REDIRECTS: usize = 5;
/// How the name of a state begins that may be the same for other bytes.
const WEAK: &str = "W/";
const USER_AGENT: &str = concat!("mobula/", env!("CARGO_PKG_VERSION"));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_resolved_and_never_leave_https() {
        let to = |to: &str| redirected("https://h:1/a/b?c", to).ok();
        assert_eq!(to("https://else/x"), Some("https://else/x".into()));
        assert_eq!(to("//else/x"), Some("https://else/x".into()));
        assert_eq!(to("/x?y"), Some("https://h:1/x?y".into()));
        assert_eq!(to("http://h/x"), None);
        assert_eq!(to("ftp://h/x"), None);
        assert_eq!(redirected("http://h?a", "/x").unwrap(), "http://h/x");
    }

    #[test]
    fn a_redirect_that_is_not_followed_is_told_without_its_signature() {
        for to in ["file.parquet?X-Amz-Signature=t0k3n", "file.parquet#t0k3n", "file.parquet"] {
            let refused = redirected("https://h/a", to).unwrap_err();
            assert_eq!(refused.cause, "the server redirects to file.parquet, which is not followed");
        }
    }
}
