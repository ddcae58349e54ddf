//! Servers for these tests: a store in a directory, a server of a few files, and what can go
//! wrong with both.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use mobula_data::storage::StorageOptions;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;

pub(crate) const KEY: &str = "AKIATESTS";
pub(crate) const SECRET: &str = "secret-of-tests";

type Body = UnsyncBoxBody<Bytes, io::Error>;
type Handler = Arc<dyn Fn(Request<Incoming>) -> BoxFuture<'static, Response<Full<Bytes>>> + Send + Sync>;

/// A server on a free port of this machine, which ends with it.
pub(crate) struct Server {
    address: SocketAddr,
    state: Arc<State>,
    root: tempfile::TempDir,
    _runtime: Runtime,
}

#[derive(Default)]
struct State {
    faults: Mutex<Vec<Fault>>,
    seen: Mutex<Vec<Seen>>,
}

/// What came in.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    pub(crate) uri: String,
    pub(crate) range: Option<String>,
    pub(crate) signed: bool,
    /// The region that the signature is for.
    pub(crate) region: Option<String>,
}

/// Something that goes wrong with some requests.
struct Fault {
    method: Method,
    uri_has: String,
    times: usize,
    what: What,
}

/// What goes wrong.
#[derive(Clone)]
pub(crate) enum What {
    /// The server answers so instead.
    Answers(u16, &'static [(&'static str, &'static str)], &'static str),
    /// It says nothing.
    Silent,
    /// It does what is asked and closes the connection without an answer.
    LosesAnswer,
    /// It closes the connection after so many bytes of the body.
    Drops(usize),
    /// It stops sending after so many bytes of the body.
    Stalls(usize),
    /// It sends so many bytes only, and says so.
    Shortens(usize),
    /// It sends another byte in this place.
    Corrupts(usize),
    /// This happens just before.
    After(Arc<dyn Fn() + Send + Sync>),
}

impl Server {
    /// A store with one bucket, `bucket`. Requests have to be signed with [`KEY`].
    pub(crate) fn s3() -> Server {
        Self::with_root(|root| s3(root, true))
    }

    /// The same, for whoever comes.
    pub(crate) fn public_s3() -> Server {
        Self::with_root(|root| s3(root, false))
    }

    pub(crate) fn files(files: Arc<Files>) -> Server {
        Self::with_root(|_| files.handler())
    }

    /// The same, with a certificate for `localhost` that is its own authority.
    pub(crate) fn secret_files(files: Arc<Files>) -> (Server, String) {
        let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = signed.signing_key.serialize_der().try_into().unwrap();
        let config =
            rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![signed.cert.der().clone()], key)
                .unwrap();
        let server = Self::new(|_| files.handler(), Some(TlsAcceptor::from(Arc::new(config))));
        (server, signed.cert.pem())
    }

    fn with_root(handler: impl FnOnce(&std::path::Path) -> Handler) -> Server {
        Self::new(handler, None)
    }

    fn new(handler: impl FnOnce(&std::path::Path) -> Handler, tls: Option<TlsAcceptor>) -> Server {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("bucket")).unwrap();
        let handler = handler(root.path());
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        runtime.spawn(serve(listener, tls, handler, Arc::clone(&state)));
        Server { address, state, root, _runtime: runtime }
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Options that reach it, with little patience for its faults.
    pub(crate) fn options(&self) -> StorageOptions {
        StorageOptions {
            endpoint_url: Some(self.url()),
            access_key_id: Some(KEY.into()),
            secret_access_key: Some(SECRET.into()),
            max_attempts: 3,
            first_wait: Duration::from_millis(1),
            ..StorageOptions::default()
        }
    }

    /// Another bucket.
    pub(crate) fn make_bucket(&self, name: &str) {
        std::fs::create_dir(self.root.path().join(name)).unwrap();
    }

    /// An object, without asking for it.
    pub(crate) fn put_file(&self, bucket: &str, key: &str, bytes: &[u8]) {
        std::fs::write(self.root.path().join(bucket).join(key), bytes).unwrap();
    }

    /// From now on, this goes wrong so often with requests of that kind.
    pub(crate) fn fault(&self, method: Method, uri_has: &str, times: usize, what: What) {
        self.state.faults.lock().unwrap().push(Fault { method, uri_has: uri_has.into(), times, what });
    }

    /// Requests of that kind, so far.
    pub(crate) fn seen(&self, method: Method, uri_has: &str) -> Vec<Seen> {
        let seen = self.state.seen.lock().unwrap();
        seen.iter().filter(|seen| seen.method == method && seen.uri.contains(uri_has)).cloned().collect()
    }

    /// All uploads that are not complete are gone, as where a rule of the bucket ends those that are old.
    pub(crate) fn lose_uploads(&self) {
        for entry in std::fs::read_dir(self.root.path()).unwrap() {
            let entry = entry.unwrap();
            if entry.file_name().to_string_lossy().starts_with(".upload") {
                std::fs::remove_file(entry.path()).unwrap();
            }
        }
    }

    /// How many parts of uploads the store has on its disk.
    pub(crate) fn stored_parts(&self) -> usize {
        let entries = std::fs::read_dir(self.root.path()).unwrap();
        entries.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().contains(".part-")).count()
    }
}

fn s3(root: &std::path::Path, signed: bool) -> Handler {
    let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(root).unwrap());
    if signed {
        builder.set_auth(SimpleAuth::from_single(KEY, SECRET));
    }
    let service = builder.build();
    Arc::new(move |request| {
        let answer = hyper::service::Service::call(&service, request);
        async move {
            let (head, body) = answer.await.unwrap().into_parts();
            Response::from_parts(head, Full::new(BodyExt::collect(body).await.unwrap().to_bytes()))
        }
        .boxed()
    })
}

async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, handler: Handler, state: Arc<State>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (handler, state, tls) = (Arc::clone(&handler), Arc::clone(&state), tls.clone());
        let service = service_fn(move |request| answer(request, Arc::clone(&handler), Arc::clone(&state)));
        let http = hyper::server::conn::http1::Builder::new();
        tokio::spawn(async move {
            // Faults end connections, and clients do not trust every certificate.
            match tls {
                None => drop(http.serve_connection(TokioIo::new(stream), service).await),
                Some(tls) => {
                    let Ok(stream) = tls.accept(stream).await else {
                        return;
                    };
                    drop(http.serve_connection(TokioIo::new(stream), service).await);
                }
            }
        });
    }
}

async fn answer(request: Request<Incoming>, handler: Handler, state: Arc<State>) -> io::Result<Response<Body>> {
    let what = state.note(&request);
    let (length, then): (usize, fn() -> stream::BoxStream<'static, io::Result<Bytes>>) = match what {
        None => return Ok(whole(handler(request).await)),
        Some(What::Answers(status, headers, body)) => {
            let mut response = Response::new(Full::new(Bytes::from_static(body.as_bytes())));
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            for (name, value) in headers {
                response.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
            }
            return Ok(whole(response));
        }
        Some(What::Silent) => return std::future::pending().await,
        Some(What::LosesAnswer) => {
            handler(request).await;
            return Err(io::Error::other("the answer is lost"));
        }
        Some(What::After(happens)) => {
            tokio::task::spawn_blocking(move || happens()).await.unwrap();
            return Ok(whole(handler(request).await));
        }
        Some(What::Corrupts(at)) => {
            let (head, body) = handler(request).await.into_parts();
            let mut bytes = body.collect().await.unwrap().to_bytes().to_vec();
            bytes[at] ^= 1;
            return Ok(whole(Response::from_parts(head, Full::new(Bytes::from(bytes)))));
        }
        Some(What::Shortens(length)) => {
            let (mut head, body) = handler(request).await.into_parts();
            let bytes = body.collect().await.unwrap().to_bytes().slice(..length);
            head.headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
            return Ok(whole(Response::from_parts(head, Full::new(bytes))));
        }
        Some(What::Drops(length)) => (length, || {
            let dropped = async {
                // What was sent before leaves in the meantime.
                tokio::task::yield_now().await;
                Err(io::Error::other("dropped"))
            };
            stream::once(dropped).boxed()
        }),
        Some(What::Stalls(length)) => (length, || stream::pending().boxed()),
    };
    let (mut head, body) = handler(request).await.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    head.headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
    let sent = stream::iter([Ok(bytes.slice(..length))]).chain(then());
    let body = StreamBody::new(sent.map(|piece| piece.map(Frame::data)));
    Ok(Response::from_parts(head, UnsyncBoxBody::new(body)))
}

fn whole(response: Response<Full<Bytes>>) -> Response<Body> {
    response.map(|body| UnsyncBoxBody::new(body.map_err(|never: Infallible| match never {})))
}

impl State {
    fn note(&self, request: &Request<Incoming>) -> Option<What> {
        let header = |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        let uri = request.uri().to_string();
        let method = request.method().clone();
        let signature = header("authorization");
        let region = signature.as_ref().and_then(|signature| Some(signature.split('/').nth(2)?.to_owned()));
        let (range, signed) = (header("range"), signature.is_some());
        self.seen.lock().unwrap().push(Seen { method: method.clone(), uri: uri.clone(), range, signed, region });
        let mut faults = self.faults.lock().unwrap();
        let fault = faults.iter_mut().find(|f| f.times > 0 && f.method == method && uri.contains(&f.uri_has))?;
        fault.times -= 1;
        Some(fault.what.clone())
    }
}

/// Files by their paths, with their ETags.
#[derive(Default)]
pub(crate) struct Files {
    pub(crate) files: Mutex<BTreeMap<String, (Bytes, Option<String>)>>,
    /// It sends whole files only.
    pub(crate) whole_only: bool,
    /// It knows no `HEAD`.
    pub(crate) no_head: bool,
    /// It takes no notice of `If-Match`.
    pub(crate) no_conditions: bool,
}

impl Files {
    pub(crate) fn put(&self, path: &str, bytes: impl Into<Bytes>, etag: Option<&str>) {
        self.files.lock().unwrap().insert(path.into(), (bytes.into(), etag.map(str::to_owned)));
    }

    fn handler(self: Arc<Self>) -> Handler {
        Arc::new(move |request| {
            let response = self.answer(&request);
            async move { response }.boxed()
        })
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let status = |status| Response::builder().status(status).body(Full::default()).unwrap();
        let header = |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap());
        let head = request.method() == Method::HEAD;
        if head && self.no_head {
            return status(StatusCode::FORBIDDEN);
        }
        let Some((bytes, etag)) = self.files.lock().unwrap().get(request.uri().path()).cloned() else {
            return status(StatusCode::NOT_FOUND);
        };
        if header("if-match").is_some_and(|wanted| etag.as_deref() != Some(wanted)) && !self.no_conditions {
            return status(StatusCode::PRECONDITION_FAILED);
        }
        let mut response = Response::builder();
        if let Some(etag) = etag {
            response = response.header(ETAG, etag);
        }
        let size = bytes.len();
        let Some((first, last)) = header("range").filter(|_| !self.whole_only).map(parse_range) else {
            let body = if head { Bytes::new() } else { bytes };
            return response.header(CONTENT_LENGTH, size).body(Full::new(body)).unwrap();
        };
        if first >= size {
            return response
                .status(416)
                .header(CONTENT_RANGE, format!("bytes */{size}"))
                .body(Full::default())
                .unwrap();
        }
        let last = last.min(size - 1);
        let response = response.status(206).header(CONTENT_RANGE, format!("bytes {first}-{last}/{size}"));
        response.body(Full::new(bytes.slice(first..=last))).unwrap()
    }
}

fn parse_range(header: &str) -> (usize, usize) {
    let (first, last) = header.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
    (first.parse().unwrap(), last.parse().unwrap())
}
