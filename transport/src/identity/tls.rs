//! TLS set-ups: one provider (aws-lc-rs), TLS 1.3 only, AES-128-GCM first.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme, version::TLS13,
};

use super::authority::Role;
use super::credentials::{Credentials, IdentityError};

/// The name in every certificate of a cluster: who a process is is told by its certificate's
/// authority, not by a host name.
pub(crate) const SERVER_NAME: &str = "mobula";

/// The second name in a certificate: what it was issued for.
pub(super) fn role_name(role: Role) -> String {
    format!("{role}.{SERVER_NAME}")
}

/// What a certificate was issued for; its chain has been verified before.
pub(crate) fn role_in(certificate: &CertificateDer<'_>) -> Option<Role> {
    let parsed = ParsedCertificate::try_from(certificate).ok()?;
    [Role::Node, Role::Driver, Role::Operator].into_iter().find(|role| {
        ServerName::try_from(role_name(*role)).is_ok_and(|name| verify_server_name(&parsed, &name).is_ok())
    })
}
/// Messages between processes with certificates.
pub(crate) const ALPN_MESSAGES: &[u8] = b"mobula/1";
/// Bulk bytes between processes with certificates.
pub(crate) const ALPN_BULK: &[u8] = b"mobula-bulk/1";
/// A process that has no certificate yet.
pub(crate) const ALPN_JOIN: &[u8] = b"mobula-join/1";

/// The cryptography of every connection.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    // Enough, and the fastest of the three.
    provider.cipher_suites = vec![
        aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
        aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
        aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    Arc::new(provider)
}

/// SHA-256, as the TLS provider computes it.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    use rustls::crypto::hash::Hash;
    let suite = aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
    let hash: &dyn Hash = match suite {
        rustls::SupportedCipherSuite::Tls13(suite) => suite.common.hash_provider,
        #[allow(unreachable_patterns)]
        _ => unreachable!("a TLS 1.3 suite by its name"),
    };
    let mut digest = [0; 32];
    digest.copy_from_slice(hash.hash(bytes).as_ref());
    digest
}

/// The server side. With `joins`, clients without a certificate may connect under
/// [`ALPN_JOIN`]; whoever accepts must look at the protocol that was agreed.
pub(crate) fn server(credentials: &Credentials, protocol: &[u8], joins: bool) -> Result<ServerConfig, IdentityError> {
    let parsed = Parsed::new(credentials)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(parsed.roots, provider());
    let verifier = if joins { verifier.allow_unauthenticated() } else { verifier };
    let verifier = verifier.build().map_err(crypto)?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(crypto)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(parsed.chain, parsed.key)
        .map_err(crypto)?;
    config.alpn_protocols = vec![protocol.to_vec()];
    if joins {
        config.alpn_protocols.push(ALPN_JOIN.to_vec());
    }
    Ok(config)
}

/// The client side, for processes with credentials.
pub(crate) fn client(credentials: &Credentials, protocol: &[u8]) -> Result<ClientConfig, IdentityError> {
    let parsed = Parsed::new(credentials)?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(crypto)?
        .with_root_certificates(parsed.roots)
        .with_client_auth_cert(parsed.chain, parsed.key)
        .map_err(crypto)?;
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok(config)
}

/// The client side of a join: trusts the authority with the given fingerprint.
pub(crate) fn joining_client(verifier: Arc<PinnedAuthority>) -> Result<ClientConfig, IdentityError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(crypto)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN_JOIN.to_vec()];
    Ok(config)
}

struct Parsed {
    roots: Arc<RootCertStore>,
    /// The certificate and the authority's, by which a joiner knows the cluster.
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Parsed {
    fn new(credentials: &Credentials) -> Result<Self, IdentityError> {
        let malformed = |what| {
            move |error: rustls::pki_types::pem::Error| IdentityError::Malformed { what, why: error.to_string() }
        };
        let authority = CertificateDer::from_pem_slice(credentials.ca_pem.as_bytes())
            .map_err(malformed("authority certificate"))?;
        let certificate =
            CertificateDer::from_pem_slice(credentials.cert_pem.as_bytes()).map_err(malformed("certificate"))?;
        let key = PrivateKeyDer::from_pem_slice(credentials.key_pem.as_bytes()).map_err(malformed("key"))?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone()).map_err(crypto)?;
        Ok(Self { roots: Arc::new(roots), chain: vec![certificate, authority], key })
    }
}

/// Accepts a server whose chain ends in the authority with a known fingerprint.
#[derive(Debug)]
pub(crate) struct PinnedAuthority {
    fingerprint: [u8; 32],
    algorithms: WebPkiSupportedAlgorithms,
    mismatch: AtomicBool,
}

impl PinnedAuthority {
    pub(crate) fn new(fingerprint: [u8; 32]) -> Self {
        let algorithms = provider().signature_verification_algorithms;
        Self { fingerprint, algorithms, mismatch: AtomicBool::new(false) }
    }

    /// Whether a server was refused for its authority.
    pub(crate) fn was_refused(&self) -> bool {
        self.mismatch.load(Ordering::Acquire)
    }
}

impl ServerCertVerifier for PinnedAuthority {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let pinned = chain.iter().find(|of_chain| sha256(of_chain) == self.fingerprint);
        let Some(authority) = pinned else {
            self.mismatch.store(true, Ordering::Release);
            return Err(CertificateError::UnknownIssuer.into());
        };
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?
            .verify_server_cert(certificate, &[], name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("only TLS 1.3 is spoken".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn crypto(error: impl std::fmt::Display) -> IdentityError {
    IdentityError::Crypto { what: "the TLS set-up", why: error.to_string() }
}

#[cfg(test)]
mod tests {
    #[test]
    fn sha256_is_sha256() {
        assert_eq!(super::sha256(b"abc")[..4], [0xba, 0x78, 0x16, 0xbf]);
    }
}
