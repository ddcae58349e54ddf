//! Stores and clients in different processes, and stores of different nodes.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;

use mobula_transport::Credentials;
use mobula_transport::identity::{ClusterAuthority, Role};
use serde::{Deserialize, Serialize};

use super::*;

/// Set in the environment of a process that is to read an object: what, and where.
const READ: &str = "MOBULA_TEST_STORE_READER";

pub(super) fn bind() -> Endpoint {
    static AUTHORITY: OnceLock<ClusterAuthority> = OnceLock::new();
    let authority = AUTHORITY.get_or_init(|| ClusterAuthority::create("test").unwrap());
    bind_with(authority.credentials(Role::Node).unwrap())
}

fn bind_with(credentials: Credentials) -> Endpoint {
    let config = EndpointConfig {
        credentials: Some(credentials),
        ..EndpointConfig::default()
    };
    Endpoint::bind(config).unwrap()
}

#[derive(Serialize, Deserialize)]
struct ToRead {
    credentials: String,
    store: ProcessAddr,
    store_dir: String,
    host_proof: String,
    stored: StoredObject,
}

/// Another process with a client of `local`'s store, reading one object.
struct Reader {
    child: Child,
    say: ChildStdin,
    hear: BufReader<ChildStdout>,
    process: ProcessId,
}

impl Reader {
    fn start(local: &Local, credentials: &std::path::Path, stored: &StoredObject) -> Self {
        let to_read = ToRead {
            credentials: credentials.to_string_lossy().into_owned(),
            store: local.endpoint.process(),
            store_dir: local.store.store_dir(),
            host_proof: local.store.host_proof(),
            stored: stored.clone(),
        };
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "store::tests::processes::the_reading_process",
                "--exact",
                "--nocapture",
            ])
            .env(READ, serde_json::to_string(&to_read).unwrap())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let say = child.stdin.take().unwrap();
        let hear = BufReader::new(child.stdout.take().unwrap());
        let mut reader = Self {
            child,
            say,
            hear,
            process: ProcessId::random(),
        };
        reader.process = reader.answer("process ").parse().map(ProcessId).unwrap();
        reader
    }

    /// The rest of the first line that starts so; the test harness of the child talks too.
    fn answer(&mut self, prefix: &str) -> String {
        loop {
            let mut line = String::new();
            assert!(
                self.hear.read_line(&mut line).unwrap() > 0,
                "the reader ended"
            );
            if let Some(rest) = line.trim().strip_prefix(prefix) {
                return rest.to_owned();
            }
        }
    }

    fn sum(&mut self) -> String {
        writeln!(self.say).unwrap();
        self.answer("sum ")
    }
}

fn sum(data: &[u8]) -> String {
    format!("{:x}", xxhash_rust::xxh3::xxh3_64(data))
}

/// Not a test of its own: the other process of those below.
#[test]
fn the_reading_process() {
    let Ok(to_read) = std::env::var(READ) else {
        return;
    };
    let to_read: ToRead = serde_json::from_str(&to_read).unwrap();
    let endpoint = bind_with(Credentials::load(to_read.credentials.as_ref()).unwrap());
    let client = StoreClient::connect(
        &endpoint,
        to_read.store,
        &to_read.store_dir,
        &to_read.host_proof,
    )
    .unwrap();
    let value = client.get_blocking(&to_read.stored, SOON).unwrap();
    println!("\nprocess {}", endpoint.process().id.0);
    for line in std::io::stdin().lines() {
        line.unwrap();
        println!("\nsum {}", sum(&value.data));
    }
}

#[test]
fn a_process_that_reads_keeps_the_memory_until_it_dies() {
    let authority = ClusterAuthority::create("test").unwrap();
    let credentials = tempfile::tempdir().unwrap();
    authority
        .credentials(Role::Node)
        .unwrap()
        .save(credentials.path())
        .unwrap();
    let endpoint = bind_with(authority.credentials(Role::Node).unwrap());
    let local = Local::at(endpoint, 64 * MIB);
    let data = pattern(2 * MIB, 3);
    let stored = local
        .client
        .put(object(1), Encoding::RAW, &[&data])
        .unwrap();
    let mut reader = Reader::start(&local, credentials.path(), &stored);
    assert_eq!(reader.sum(), sum(&data));
    local.client.free(&[stored]);
    // As much as the store has, of the same size: none of it may be the reader's segment.
    for n in 2..30 {
        local
            .client
            .put(object(n), Encoding::RAW, &[&pattern(2 * MIB, n as u32)])
            .unwrap();
    }
    assert_eq!(reader.sum(), sum(&data));
    assert_eq!(local.stats().used_bytes, 29 * 2 * MIB as u64);
    reader.child.kill().unwrap();
    reader.child.wait().unwrap();
    local.store.process_died(reader.process);
    local.until("the dead reader's pin is gone", |stats| {
        stats.used_bytes == 28 * 2 * MIB as u64
    });
}
