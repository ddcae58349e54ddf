//! The wire's floor: 64 bytes there and back between two processes over one QUIC stream, with
//! nothing on top of quinn.
//!
//! ```text
//!  measuring process                      child: `mobula quic-echo`
//!    certificate and key ──── stdin ────▶   listens
//!    port                ◀─── stdout ────
//!    64 bytes ═════════════ QUIC ═══════▶   the same back, until the connection ends
//! ```

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, Endpoint, ServerConfig};
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::error::CliError;
use crate::microbenchmark::measure::median;

/// The name of the hidden command that echoes.
pub(crate) const ECHO_COMMAND: &str = "quic-echo";

/// How much goes there and back.
const MESSAGE_BYTES: usize = 64;
/// Rounds before anything counts.
const WARMUP_ROUNDS: usize = 500;
/// Rounds of which the median counts.
const ROUNDS: usize = 2_000;
/// The most that is read from stdin by the echoing process.
const SETUP_LIMIT_BYTES: u64 = 64 * 1024;
/// A connection that is silent so long has ended.
const PATIENCE: Duration = Duration::from_secs(10);

const NAME: &str = "localhost";

/// Starts the echoing process and measures a round trip to it.
pub(crate) fn round_trip() -> Result<Duration, CliError> {
    let pair = rcgen::generate_simple_self_signed(vec![NAME.to_owned()]).map_err(failed("a certificate"))?;
    let setup = Setup { certificate: pair.cert.der().to_vec(), key: pair.signing_key.serialize_der() };
    let binary = std::env::current_exe().map_err(CliError::system("the program's own path is not known"))?;
    let mut child = Command::new(binary)
        .arg(ECHO_COMMAND)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(CliError::system("the echoing process cannot be started"))?;
    let measured = (|| {
        // Both were asked for above.
        let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(failed("the echoing process")("it has no pipes"));
        };
        serde_json::to_writer(&mut stdin, &setup)?;
        stdin.flush().map_err(CliError::system("the echoing process does not listen"))?;
        drop(stdin);
        let mut port = String::new();
        BufReader::new(stdout)
            .read_line(&mut port)
            .map_err(CliError::system("the echoing process does not say its port"))?;
        let port = port.trim().parse::<u16>().map_err(failed("the echoing process's port"))?;
        runtime()?.block_on(ping(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), setup.certificate))
    })();
    // It ends by itself when the connection does; a failed run must not leave it behind.
    drop(child.kill());
    drop(child.wait());
    measured
}

async fn ping(to: SocketAddr, certificate: Vec<u8>) -> Result<Duration, CliError> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(certificate)).map_err(failed("the certificate"))?;
    let tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(failed("TLS"))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).map_err(failed("TLS"))?));
    let endpoint =
        Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).map_err(CliError::system("no UDP socket can be had"))?;
    let connecting = endpoint.connect_with(config, to, NAME).map_err(failed("a QUIC connection"))?;
    let connection = connecting.await.map_err(failed("a QUIC connection"))?;
    let (mut send, mut receive) = connection.open_bi().await.map_err(failed("a QUIC stream"))?;
    let mut message = [7; MESSAGE_BYTES];
    let mut rounds_s = Vec::with_capacity(ROUNDS);
    for round in 0..WARMUP_ROUNDS + ROUNDS {
        let start = Instant::now();
        send.write_all(&message).await.map_err(failed("writing to a QUIC stream"))?;
        receive.read_exact(&mut message).await.map_err(failed("reading from a QUIC stream"))?;
        if round >= WARMUP_ROUNDS {
            rounds_s.push(start.elapsed().as_secs_f64());
        }
    }
    connection.close(0_u8.into(), b"");
    endpoint.wait_idle().await;
    Ok(Duration::from_secs_f64(median(&mut rounds_s)))
}

/// What `mobula quic-echo` does.
pub(crate) fn echo() -> Result<(), CliError> {
    let mut setup = String::new();
    std::io::stdin()
        .take(SETUP_LIMIT_BYTES)
        .read_to_string(&mut setup)
        .map_err(CliError::system("the certificate cannot be read from stdin"))?;
    let setup: Setup = serde_json::from_str(&setup)?;
    runtime()?.block_on(async move {
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(setup.key));
        let tls = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(failed("TLS"))?
            .with_no_client_auth()
            .with_single_cert(vec![CertificateDer::from(setup.certificate)], key)
            .map_err(failed("the certificate"))?;
        let config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).map_err(failed("TLS"))?));
        let endpoint = Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into())
            .map_err(CliError::system("no UDP socket can be had"))?;
        let port = endpoint.local_addr().map_err(CliError::system("the socket has no address"))?.port();
        crate::output::print(&port.to_string())?;
        let incoming = tokio::time::timeout(PATIENCE, endpoint.accept()).await;
        let Ok(Some(incoming)) = incoming else {
            return Err(failed("the echoing process")("nobody connected"));
        };
        let connection = incoming.await.map_err(failed("a QUIC connection"))?;
        let (mut send, mut receive) = connection.accept_bi().await.map_err(failed("a QUIC stream"))?;
        let mut message = [0; MESSAGE_BYTES];
        // The end of the connection is the end of the work.
        while receive.read_exact(&mut message).await.is_ok() {
            if send.write_all(&message).await.is_err() {
                break;
            }
        }
        Ok(())
    })
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Setup {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

/// One thread, so that the only wake-ups in a round trip are those by the socket.
fn runtime() -> Result<tokio::runtime::Runtime, CliError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(CliError::system("no runtime can be started"))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn failed<E: std::fmt::Display>(what: &str) -> impl FnOnce(E) -> CliError {
    let what = what.to_owned();
    move |why| CliError::Child { what, why: why.to_string() }
}
