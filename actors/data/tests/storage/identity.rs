//! Credentials from all places they may come from, and certificates.
//!
//! Where they come from, and which are trusted, is in the environment of a process. So each case is a process of its
//! own: this test binary again, with only [`as_whoever_this_process_is`] to run.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use hyper::Method;
use mobula_data::storage::{Remote, StorageOptions, check_identity, put_small};

use crate::server::{Files, KEY, SECRET, Server, What};

const CHILD: &str = "identity::as_whoever_this_process_is";
const ENDPOINT: &str = "STORAGE_TEST_ENDPOINT";
const TOKEN: &str = "/latest/api/token";
const ROLE: &str = "/latest/meta-data/iam/security-credentials/";

/// Not a test by itself: what the others run in processes of their own.
#[test]
fn as_whoever_this_process_is() {
    let Ok(endpoint) = std::env::var(ENDPOINT) else {
        return;
    };
    if endpoint.starts_with("https://") {
        let options = StorageOptions { max_attempts: 2, ..StorageOptions::default() };
        match Remote::open(&endpoint, &options).and_then(|file| file.read(1..4)) {
            Ok(bytes) => println!("\nread {}", String::from_utf8_lossy(&bytes)),
            Err(error) => println!("\nfailed: {error}"),
        }
        return;
    }
    let options = StorageOptions { endpoint_url: Some(endpoint), max_attempts: 2, ..StorageOptions::default() };
    if let Err(error) = check_identity("s3://bucket/x", &options) {
        println!("\ndenied: {error}");
        return;
    }
    put_small("s3://bucket/x", Bytes::from_static(b"mine"), &options).unwrap();
    assert_eq!(Remote::open("s3://bucket/x", &options).unwrap().read(0..4).unwrap(), "mine");
    println!("\nwritten and read");
}

/// What a process says that has only these variables.
fn child(endpoint: &str, home: &Path, variables: &[(&str, &str)]) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", CHILD, "--nocapture"]).env_clear().env("HOME", home);
    command.env(ENDPOINT, endpoint).envs(variables.iter().copied());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

/// An instance's metadata service, of which a role gives the key of the tests.
fn metadata_service() -> Server {
    let files = Arc::new(Files::default());
    let key = serde_json::json!({
        "Code": "Success",
        "Type": "AWS-HMAC",
        "AccessKeyId": KEY,
        "SecretAccessKey": SECRET,
        "Token": "session",
        "Expiration": "2099-01-01T00:00:00Z",
    });
    files.put(ROLE, "tests", None);
    files.put(&format!("{ROLE}tests"), key.to_string(), None);
    let server = Server::files(files);
    let token = What::Answers(200, &[("x-aws-ec2-metadata-token-ttl-seconds", "600")], "token");
    server.fault(Method::PUT, TOKEN, usize::MAX, token);
    server
}

pub(crate) fn an_instance_role_writes_and_reads_at(endpoint: &str) {
    let (metadata, home) = (metadata_service(), tempfile::tempdir().unwrap());
    let said = child(endpoint, home.path(), &[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &metadata.url())]);
    assert!(said.contains("written and read"), "{said}");
    assert_eq!(metadata.seen(Method::PUT, TOKEN).len(), 1);
    // Once for all that the process asked for.
    assert_eq!(metadata.seen(Method::GET, &format!("{ROLE}tests")).len(), 1);
}

#[test]
fn an_instance_role_is_who_asks() {
    an_instance_role_writes_and_reads_at(&Server::s3().url());
}

#[test]
fn the_environment_and_profiles_say_who_asks() {
    let (server, home) = (Server::s3(), tempfile::tempdir().unwrap());
    let key = [("AWS_ACCESS_KEY_ID", KEY), ("AWS_SECRET_ACCESS_KEY", SECRET)];
    let said = child(&server.url(), home.path(), &key);
    assert!(said.contains("written and read"), "{said}");

    std::fs::create_dir(home.path().join(".aws")).unwrap();
    let file = format!("[default]\n[work]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n");
    std::fs::write(home.path().join(".aws/credentials"), file).unwrap();
    let said = child(&server.url(), home.path(), &[("AWS_PROFILE", "work")]);
    assert!(said.contains("written and read"), "{said}");
}

#[test]
fn who_is_nobody_is_told_where_was_looked() {
    let (server, home) = (Server::s3(), tempfile::tempdir().unwrap());
    // Nobody answers there.
    let metadata = "http://127.0.0.1:9";
    let said = child(&server.url(), home.path(), &[("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata)]);
    for told in [
        "denied: cannot use s3://bucket/",
        "access denied: no credentials were found",
        "environment (AWS_ACCESS_KEY_ID is not set)",
        "profile default (neither",
        "web identity (",
        "container (",
        "instance role at http://127.0.0.1:9",
        "region us-east-1",
        &server.url(),
        "set AWS_ACCESS_KEY_ID",
        "name a `profile`",
        "ask it with `anonymous`",
    ] {
        assert!(said.contains(told), "{told} is not in: {said}");
    }
    told_in_order(&said);
}

/// What is wrong, then where was looked, then what to do.
fn told_in_order(said: &str) {
    let parts =
        ["no credentials were found", "credentials: environment", "instance role at", "; set AWS_ACCESS_KEY_ID"];
    let places: Vec<_> = parts.iter().map(|part| said.find(part).unwrap_or_else(|| panic!("{part}: {said}"))).collect();
    assert!(places.is_sorted(), "{said}");
}

/// A machine that is no instance may have something else where an instance has its metadata.
#[test]
fn what_is_no_metadata_service_is_told_in_a_few_words() {
    let (server, home) = (Server::s3(), tempfile::tempdir().unwrap());
    for (status, body) in [(403, "no"), (404, "who?"), (200, "welcome")] {
        let metadata = Server::files(Arc::new(Files::default()));
        metadata.fault(Method::PUT, TOKEN, usize::MAX, What::Answers(status, &[], body));
        let said = child(&server.url(), home.path(), &[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &metadata.url())]);
        let told =
            format!("no credentials were found: the metadata service of instances gave none (it answered {status})");
        assert!(said.contains(&told), "{said}");
        told_in_order(&said);
        for kind in ["IMDS", "while loading", "service error", "dispatch failure"] {
            let denied = said.lines().find(|line| line.starts_with("denied: ")).unwrap();
            assert!(!denied.contains(kind), "{kind} is in: {denied}");
        }
    }
}

#[test]
fn a_certificate_has_to_be_trusted() {
    let files = Arc::new(Files::default());
    files.put("/secret", "0123456789", None);
    let (server, certificate) = Server::secret_files(files);
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("trusted.pem");
    std::fs::write(&file, certificate).unwrap();
    let url = format!("https://localhost:{}/secret", server.port());
    let said = child(&url, home.path(), &[("SSL_CERT_FILE", file.to_str().unwrap())]);
    assert!(said.contains("read 123"), "{said}");
    let said = child(&url, home.path(), &[]);
    let told =
        format!("cannot reach the server at https://localhost:{} (its certificate is not trusted: ", server.port());
    assert!(said.contains(&told) && said.contains("invalid peer certificate") && !said.contains("tried"), "{said}");
}
