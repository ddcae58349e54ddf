//! The cluster's certificate authority.

use std::fmt;
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};

use super::credentials::{CA_FILE, Credentials, IdentityError, read, write_private};
use super::tls::{SERVER_NAME, role_name, sha256};
use super::token::JoinToken;
use crate::config::Secret;

const CA_KEY_FILE: &str = "ca-key.pem";
/// How long the authority and its certificates are valid.
const VALIDITY: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Certificates count from a day ago, for clocks that differ.
const CLOCK_SLACK: Duration = Duration::from_secs(24 * 3600);

/// What a certificate was issued for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// A node: raylet, store, workers.
    Node,
    /// A program that submits work.
    Driver,
    /// Whoever runs the cluster.
    Operator,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Node => "node",
            Self::Driver => "driver",
            Self::Operator => "operator",
        })
    }
}

/// The cluster's authority: a certificate and the key that signs all others. Lives on the head.
pub struct ClusterAuthority {
    ca_pem: String,
    key: KeyPair,
    fingerprint: [u8; 32],
}

impl ClusterAuthority {
    /// Makes a new authority (ECDSA P-256).
    pub fn create(cluster_name: &str) -> Result<Self, IdentityError> {
        let key = new_key()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, format!("mobula cluster {cluster_name}"));
        // Only the authority's own certificates, no authorities below it.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        set_validity(&mut params);
        let certificate = params.self_signed(&key).map_err(|error| crypto("the authority's certificate", &error))?;
        Self::from_parts(certificate.pem(), key)
    }

    fn from_parts(ca_pem: String, key: KeyPair) -> Result<Self, IdentityError> {
        let der = CertificateDer::from_pem_slice(ca_pem.as_bytes())
            .map_err(|error| malformed("authority certificate", &error))?;
        let fingerprint = sha256(&der);
        Ok(Self { ca_pem, key, fingerprint })
    }

    /// A secret that only who has this authority can make, the same one each time: for the process
    /// called `of` and its successors.
    pub fn secret(&self, of: &str) -> Secret {
        let labelled = format!("mobula secret of {of}: {}", self.key.serialize_pem());
        Secret(sha256(labelled.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Reads what [`save`](Self::save) wrote.
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        let path = dir.join(CA_KEY_FILE);
        if !path.exists() {
            return Err(IdentityError::Missing { path: dir.to_owned() });
        }
        let key = KeyPair::from_pem(&read(&path)?).map_err(|error| malformed("authority key", &error))?;
        Self::from_parts(read(&dir.join(CA_FILE))?, key)
    }

    /// Writes certificate and key into `dir`, readable by the owner alone.
    pub fn save(&self, dir: &Path) -> Result<(), IdentityError> {
        fs::create_dir_all(dir).map_err(|source| IdentityError::File { path: dir.to_owned(), source })?;
        write_private(&dir.join(CA_FILE), &self.ca_pem)?;
        write_private(&dir.join(CA_KEY_FILE), &self.key.serialize_pem())
    }

    /// The SHA-256 of the authority's certificate.
    pub fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }

    /// The cluster's id: the fingerprint in hexadecimal.
    pub fn cluster_id(&self) -> String {
        cluster_id_of(&self.fingerprint)
    }

    /// The authority's certificate.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// Signs a certificate for the key of a certificate request. Nothing but the key is taken
    /// from the request.
    pub fn issue(&self, request_pem: &str, role: Role) -> Result<String, IdentityError> {
        let request = CertificateSigningRequestParams::from_pem(request_pem)
            .map_err(|error| malformed("certificate request", &error))?;
        let issuer = Issuer::from_ca_cert_pem(&self.ca_pem, &self.key)
            .map_err(|error| malformed("authority certificate", &error))?;
        let mut params = CertificateParams::new(vec![SERVER_NAME.to_owned(), role_name(role)])
            .map_err(|error| crypto("a certificate", &error))?;
        params.distinguished_name.push(DnType::CommonName, format!("mobula {role}"));
        params.distinguished_name.push(DnType::OrganizationalUnitName, role.to_string());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params);
        let certificate =
            params.signed_by(&request.public_key, &issuer).map_err(|error| crypto("a certificate", &error))?;
        Ok(certificate.pem())
    }

    /// Makes a key and its certificate in one step, for a process on this machine.
    pub fn credentials(&self, role: Role) -> Result<Credentials, IdentityError> {
        let request = KeyRequest::new()?;
        let cert_pem = self.issue(&request.request_pem, role)?;
        Ok(request.into_credentials(cert_pem, self.ca_pem.clone(), self.cluster_id()))
    }

    /// A new join token that expires after `valid`.
    pub fn token(&self, valid: Duration) -> JoinToken {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        JoinToken { secret: rand::random(), ca_fingerprint: self.fingerprint, expires_unix_s: (now + valid).as_secs() }
    }
}

impl fmt::Debug for ClusterAuthority {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterAuthority({})", self.cluster_id())
    }
}

/// A fresh key and a request to certify it.
pub(super) struct KeyRequest {
    key_pem: String,
    pub(super) request_pem: String,
}

impl KeyRequest {
    pub(super) fn new() -> Result<Self, IdentityError> {
        let key = new_key()?;
        let request_pem = CertificateParams::default()
            .serialize_request(&key)
            .and_then(|request| request.pem())
            .map_err(|error| crypto("a certificate request", &error))?;
        Ok(Self { key_pem: key.serialize_pem(), request_pem })
    }

    pub(super) fn into_credentials(self, cert_pem: String, ca_pem: String, cluster_id: String) -> Credentials {
        Credentials { ca_pem, cert_pem, key_pem: self.key_pem, cluster_id }
    }
}

pub(super) fn cluster_id_of(fingerprint: &[u8; 32]) -> String {
    fingerprint.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn new_key() -> Result<KeyPair, IdentityError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|error| crypto("a key", &error))
}

fn set_validity(params: &mut CertificateParams) {
    let now = SystemTime::now();
    params.not_before = (now - CLOCK_SLACK).into();
    params.not_after = (now + VALIDITY).into();
}

fn crypto(what: &'static str, error: &dyn fmt::Display) -> IdentityError {
    IdentityError::Crypto { what, why: error.to_string() }
}

fn malformed(what: &'static str, error: &dyn fmt::Display) -> IdentityError {
    IdentityError::Malformed { what, why: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_says_what_it_was_issued_for() {
        let authority = ClusterAuthority::create("test").unwrap();
        for role in [Role::Node, Role::Driver, Role::Operator] {
            let pem = authority.credentials(role).unwrap().cert_pem;
            let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
            assert_eq!(super::super::tls::role_in(&certificate), Some(role));
        }
    }

    #[test]
    fn an_authority_comes_back_from_disk() {
        let dir = tempfile::tempdir().unwrap();
        let authority = ClusterAuthority::create("test").unwrap();
        authority.save(dir.path()).unwrap();
        let loaded = ClusterAuthority::load(dir.path()).unwrap();
        assert_eq!(authority.cluster_id(), loaded.cluster_id());
        assert_eq!(authority.cluster_id().len(), 64);
        let credentials = loaded.credentials(Role::Driver).unwrap();
        assert_eq!(credentials.cluster_id, authority.cluster_id());
        assert!(matches!(ClusterAuthority::load(&dir.path().join("none")), Err(IdentityError::Missing { .. })));
        assert!(matches!(authority.issue("no request", Role::Node), Err(IdentityError::Malformed { .. })));
    }
}
