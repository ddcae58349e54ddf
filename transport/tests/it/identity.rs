//! Who is let in, and what happens to those who are not.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use mobula_transport::identity::{ClusterAuthority, JoinError, JoinPolicy, JoinRefusal, JoinToken, Role, join};
use mobula_transport::{
    Credentials, DiscoverError, Endpoint, EndpointConfig, MailboxId, RefusalReason, Runner, SendError,
};

use crate::common::*;

const HOUR: Duration = Duration::from_secs(3600);

fn head() -> (Endpoint, Arc<JoinPolicy>) {
    let authority = ClusterAuthority::create("joining").unwrap();
    let credentials = authority.credentials(Role::Node).unwrap();
    let head = Endpoint::bind(EndpointConfig { credentials: Some(credentials), ..impatient() }).unwrap();
    let policy = Arc::new(JoinPolicy::new(authority, Role::Node));
    head.serve_join(policy.clone()).unwrap();
    (head, policy)
}

fn bind_with(credentials: Credentials) -> Endpoint {
    Endpoint::bind(EndpointConfig { credentials: Some(credentials), ..impatient() }).unwrap()
}

#[test]
fn a_token_is_worth_a_certificate() {
    let (head, policy) = head();
    let probe = head.spawn(Some(MailboxId::GCS), Runner::Inline, Probe::default);
    let text = policy.new_token(HOUR).to_string();
    let token: JoinToken = text.parse().unwrap();
    let credentials = join(head.process().socket, &token).unwrap();
    assert_eq!(credentials.cluster_id, policy.authority().cluster_id());
    let dir = tempfile::tempdir().unwrap();
    credentials.save(dir.path()).unwrap();
    let node = bind_with(Credentials::load(dir.path()).unwrap());
    assert_eq!(block_on(node.discover(head.process().socket, LONG)), Ok(head.process()));
    // Either side knows what the other's certificate was issued for.
    eventually("the head has the connection too", || head.role_of(node.process().id) == Some(Role::Node));
    assert!(node.role_of(head.process().id).is_some() && head.role_of(head.process().id).is_none());
    assert_eq!(ask(&node, probe, Add(1)), Ok(1));
    assert_eq!(head.metrics().refused_connections, 0);
    node.shutdown(LONG);
    head.shutdown(LONG);
}

#[test]
fn wrong_expired_and_foreign_tokens_are_refused() {
    let (head, policy) = head();
    let socket = head.process().socket;
    let good = policy.new_token(HOUR);
    let unknown = JoinToken { secret: [1; 32], ..good.clone() };
    assert!(matches!(join(socket, &unknown), Err(JoinError::Refused(JoinRefusal::UnknownToken))));
    let expired = policy.authority().token(Duration::ZERO);
    assert!(matches!(join(socket, &expired), Err(JoinError::Expired)));
    // A joiner that does not look at the date itself is told by the head.
    policy.allow(expired.clone());
    let backdated = JoinToken { expires_unix_s: good.expires_unix_s, ..expired };
    assert!(matches!(join(socket, &backdated), Err(JoinError::Expired)));
    let foreign = JoinToken { ca_fingerprint: [2; 32], ..good };
    assert!(matches!(join(socket, &foreign), Err(JoinError::WrongCluster { .. })));
    // The last one turned away from us, as one of another cluster does.
    eventually("all were counted", || head.refusals().token == 2 && head.refusals().certificate == 1);
    assert_eq!(head.refusals().total(), 3);
    head.shutdown(LONG);
}

#[test]
fn nobody_joins_at_a_process_that_does_not_serve_it() {
    let server = bind();
    let token = authority().token(HOUR);
    assert!(matches!(join(server.process().socket, &token), Err(JoinError::Unreachable { .. })));
    eventually("counted", || server.metrics().refused_connections == 1);
    let refusals = server.refusals();
    assert_eq!((refusals.protocol, refusals.total()), (1, 1));
    let last = refusals.last.unwrap();
    assert_eq!(last.reason, RefusalReason::Protocol);
    assert!(last.peer.ip().is_loopback() && last.peer.port() != 0);
    server.shutdown(LONG);
}

#[test]
fn a_certificate_of_another_cluster_is_refused_by_both_sides() {
    let server = bind();
    let probe = server.spawn(None, Runner::Inline, Probe::default);
    let other = ClusterAuthority::create("other").unwrap();
    let stranger = bind_with(other.credentials(Role::Operator).unwrap());
    let error = ask(&stranger, probe, Add(1)).unwrap_err();
    assert!(matches!(&error, SendError::Unreachable { why, .. } if why.contains("certificate")), "{error}");
    assert!(matches!(block_on(stranger.discover(server.process().socket, LONG)), Err(DiscoverError::Foreign { .. })));
    eventually("the stranger was counted", || server.refusals().certificate >= 2);
    let before = server.refusals().certificate;
    // Half a stranger: trusts this cluster, but holds another's certificate.
    let foreign = other.credentials(Role::Node).unwrap();
    let half = bind_with(Credentials { ca_pem: authority().ca_pem().to_owned(), ..foreign });
    assert!(matches!(ask(&half, probe, Add(1)), Err(SendError::Unreachable { .. })));
    eventually("counted", || server.refusals().certificate > before);
    assert_eq!(server.refusals().last.unwrap().reason, RefusalReason::Certificate);
    let friend = bind();
    assert_eq!(ask(&friend, probe, Add(1)), Ok(1));
    for endpoint in [server, stranger, half, friend] {
        endpoint.shutdown(Duration::ZERO);
    }
}

/// On a head, where the handshake itself lets processes without a certificate in to join.
#[test]
fn without_a_certificate_no_message_is_read() {
    let (head, policy) = head();
    let probe = head.spawn(Some(MailboxId::GCS), Runner::Inline, Probe::default);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let nobody = Nobody::new(policy.authority().ca_pem(), b"mobula/1");
        let connection = nobody.connect(head.process().socket).await.unwrap();
        // Whatever it sends, the answer is the end of the connection.
        if let Ok(mut stream) = connection.open_uni().await {
            let _ = stream.write_all(&[0; 1000]).await;
        }
        let reason = connection.closed().await.to_string();
        assert!(reason.contains("no certificate"), "{reason}");
        let unknown = Nobody::new(policy.authority().ca_pem(), b"gopher/1");
        assert!(unknown.connect(head.process().socket).await.is_err());
    });
    eventually("counted", || head.refusals().certificate == 1 && head.refusals().protocol == 1);
    assert_eq!(head.metrics().messages_in, 0);
    assert_eq!(ask(&head, probe, Add(1)), Ok(1));
    head.shutdown(LONG);
}

/// Strangers that connect and then say nothing, with a certificate and without: they are given up
/// after a while, and the processes of the cluster come in all the time.
#[test]
fn silent_strangers_are_in_nobodys_way() {
    let (head, policy) = head();
    let to = head.process().socket;
    let probe = head.spawn(Some(MailboxId::GCS), Runner::Inline, Probe::default);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (silent, joiners) = runtime.block_on(async {
        let silent = Nobody::with_certificate(&policy.authority().credentials(Role::Node).unwrap());
        let mut kept = Vec::new();
        for _ in 0..5 {
            kept.push(silent.connect(to).await.unwrap());
        }
        let joiner = Nobody::new(policy.authority().ca_pem(), b"mobula-join/1");
        let mut joiners = Vec::new();
        while head.refusals().busy == 0 {
            assert!(joiners.len() < 100, "joining is not bounded");
            joiners.push(joiner.connect(to).await.unwrap());
        }
        ((silent, kept), (joiner, joiners))
    });
    let last = head.refusals().last.unwrap();
    assert_eq!(last.peer, joiners.0.endpoint.local_addr().unwrap());
    let member = bind_with(policy.authority().credentials(Role::Node).unwrap());
    assert_eq!(ask(&member, probe, Add(1)), Ok(1));
    // Too many are joining: the next one is told so.
    let refused = join(to, &policy.new_token(HOUR));
    assert!(matches!(&refused, Err(JoinError::Unreachable { why, .. }) if why.contains("too many")), "{refused:?}");
    eventually("the silent ones are given up", || head.refusals().silence >= 5);
    // When the joiners have left, others may join.
    drop((silent, joiners));
    eventually("somebody joins", || join(to, &policy.new_token(HOUR)).is_ok());
    member.shutdown(LONG);
    head.shutdown(LONG);
}

/// Who leaves in the middle of its handshake, or before its hello, was not refused.
#[test]
fn who_leaves_by_itself_was_not_refused() {
    let server = bind();
    let to = server.process().socket;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let leaving = Nobody::with_certificate(&authority().credentials(Role::Node).unwrap());
        let connection = leaving.connect(to).await.unwrap();
        connection.close(7u32.into(), b"changed my mind");
        leaving.endpoint.wait_idle().await;
        // And one that is: what came before it has been noticed by then.
        let rogue = Nobody::with_certificate(&authority().credentials(Role::Node).unwrap());
        let connection = rogue.connect(to).await.unwrap();
        let (mut send, mut receive) = connection.open_bi().await.unwrap();
        send.write_all(b"not a hello").await.unwrap();
        send.finish().unwrap();
        receive.read_to_end(4096).await.unwrap();
    });
    let refusals = server.refusals();
    assert_eq!((refusals.protocol, refusals.total()), (1, 1), "{refusals:?}");
    assert!(refusals.last.unwrap().why.contains("not a hello"));
    server.shutdown(LONG);
}

/// What is no QUIC at all, and what only looks like it: dropped and counted, with where it came
/// from.
#[test]
fn stray_datagrams_are_counted() {
    let server = bind();
    let probe = server.spawn(None, Runner::Inline, Probe::default);
    let stranger = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let strays: [&[u8]; 4] = [
        b"GET / HTTP/1.1",
        b"x",
        // A long header of no version, and a short one of no connection.
        &[0xff; 200],
        &[0x42; 1200],
    ];
    for stray in strays {
        stranger.send_to(stray, server.process().socket).unwrap();
    }
    eventually("counted", || server.refusals().protocol >= 4);
    let refusals = server.refusals();
    assert_eq!((refusals.protocol, refusals.total()), (4, 4), "{refusals:?}");
    let last = refusals.last.unwrap();
    assert_eq!((last.reason, last.peer), (RefusalReason::Protocol, stranger.local_addr().unwrap()));
    // One of the cluster, also when it comes, goes and comes again, is no stranger.
    for _ in 0..3 {
        let friend = bind();
        assert!(ask(&friend, probe, Add(1)).is_ok());
        friend.shutdown(Duration::ZERO);
    }
    assert_eq!(server.refusals().total(), 4);
    server.shutdown(LONG);
}

/// With a certificate, but sending garbage: the connection ends, the endpoint goes on.
#[test]
fn garbage_and_oversized_frames_close_the_connection() {
    let server = bind();
    let probe = server.spawn(None, Runner::Inline, Probe::default);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut oversized = vec![0; 40];
    oversized[..2].copy_from_slice(&[1, 1]);
    oversized[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
    for (n, frame) in [vec![0xff; 200], oversized].into_iter().enumerate() {
        runtime.block_on(async {
            let rogue = Nobody::with_certificate(&authority().credentials(Role::Node).unwrap());
            let connection = rogue.connect(server.process().socket).await.unwrap();
            rogue.hello(&connection).await;
            let mut stream = connection.open_uni().await.unwrap();
            stream.write_all(&frame).await.unwrap();
            let reason = connection.closed().await.to_string();
            assert!(reason.contains("frame"), "{reason}");
        });
        assert_eq!(server.metrics().bad_frames, n as u64 + 1);
    }
    // No hello at all, and garbage instead of one.
    runtime.block_on(async {
        let rogue = Nobody::with_certificate(&authority().credentials(Role::Node).unwrap());
        let connection = rogue.connect(server.process().socket).await.unwrap();
        let (mut send, mut receive) = connection.open_bi().await.unwrap();
        send.write_all(&[0x55; 3000]).await.unwrap();
        send.finish().unwrap();
        let answer = receive.read_to_end(4096).await.unwrap();
        assert!(String::from_utf8_lossy(&answer).contains("not a hello"));
    });
    // Datagrams that are not QUIC at all.
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for n in 0..200usize {
        socket.send_to(&vec![n as u8; n * 7], server.process().socket).unwrap();
    }
    let client = bind();
    assert_eq!(ask(&client, probe, Add(1)), Ok(1));
    client.shutdown(LONG);
    server.shutdown(LONG);
}

/// A hand-made QUIC client, for what the crate's own never does.
struct Nobody {
    endpoint: quinn::Endpoint,
}

impl Nobody {
    fn new(ca_pem: &str, protocol: &[u8]) -> Self {
        let mut config = Self::tls(ca_pem).with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        Self::over(config)
    }

    fn with_certificate(credentials: &Credentials) -> Self {
        use rustls::pki_types::pem::PemObject;
        let chain = vec![rustls::pki_types::CertificateDer::from_pem_slice(credentials.cert_pem.as_bytes()).unwrap()];
        let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(credentials.key_pem.as_bytes()).unwrap();
        let mut config = Self::tls(&credentials.ca_pem).with_client_auth_cert(chain, key).unwrap();
        config.alpn_protocols = vec![b"mobula/1".to_vec()];
        Self::over(config)
    }

    fn tls(ca_pem: &str) -> rustls::ConfigBuilder<rustls::ClientConfig, rustls::client::WantsClientCert> {
        use rustls::pki_types::pem::PemObject;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(rustls::pki_types::CertificateDer::from_pem_slice(ca_pem.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
    }

    fn over(config: rustls::ClientConfig) -> Self {
        let quic = quinn::crypto::rustls::QuicClientConfig::try_from(config).unwrap();
        let mut endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(quic)));
        Self { endpoint }
    }

    async fn connect(&self, to: SocketAddr) -> Result<quinn::Connection, quinn::ConnectionError> {
        self.endpoint.connect(to, "mobula").unwrap().await
    }

    /// The hello of a process called 7, as golden bytes.
    async fn hello(&self, connection: &quinn::Connection) {
        let mut hello = b"MBLA\x01\x00\x95\x92\xc4\x10".to_vec();
        hello.extend(7u128.to_be_bytes());
        hello.extend(b"\x81\xa2V4\x92\x94\x7f\x00\x00\x01\x50\xc0");
        hello.extend(b"\x03\xc0\x04");
        let (mut send, mut receive) = connection.open_bi().await.unwrap();
        send.write_all(&hello).await.unwrap();
        send.finish().unwrap();
        let answer = receive.read_to_end(4096).await.unwrap();
        assert!(answer.windows(7).any(|w| w == b"Welcome"), "{answer:?}");
    }
}
