//! Another implementation of S3, moto, and another client, boto3, as a second opinion.
//!
//! The packages go into a virtual environment under `target/`, made once and used again. Without
//! python3 or a package index this is skipped (in CI it fails).

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;

use bytes::Bytes;
use mobula_data::DataError;
use mobula_data::storage::{
    PendingUpload, Remote, StorageOptions, UploadState, abort, check_identity, complete, delete, list, put_small,
    upload_states, uploads_under,
};

use crate::{identity, keys, pattern, upload};

/// Pinned, so that an answer does not change under a test.
const PACKAGES: [&str; 1] = ["moto[s3,server]==5.2.5"];

const SERVER: &str = include_str!("moto_server.py");

/// A server in a process of its own, which ends with this.
struct Moto {
    process: Child,
    ask: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    url: String,
}

impl Moto {
    /// `None` skips the test.
    fn start() -> Option<Moto> {
        let mut command = Command::new(python()?);
        command.args(["-c", SERVER]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().unwrap();
        let ask = process.stdin.take();
        let mut answers = BufReader::new(process.stdout.take().unwrap());
        let mut port = String::new();
        answers.read_line(&mut port).unwrap();
        Some(Moto { process, ask, answers, url: format!("http://127.0.0.1:{}", port.trim()) })
    }

    fn options(&self) -> StorageOptions {
        StorageOptions {
            endpoint_url: Some(self.url.clone()),
            access_key_id: Some("key".into()),
            secret_access_key: Some("secret".into()),
            max_attempts: 3,
            ..StorageOptions::default()
        }
    }

    /// What boto3 says of an object: its size and its metadata.
    fn boto(&mut self, key: &str) -> Option<(u64, serde_json::Value)> {
        writeln!(self.ask.as_mut().unwrap(), "{key}").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        let found: Option<serde_json::Value> = serde_json::from_str(&answer).unwrap();
        found.map(|found| (found["size"].as_u64().unwrap(), found["marks"].clone()))
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        drop(self.ask.take());
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// One test, since the server takes seconds to start.
#[test]
fn moto_agrees() {
    let Some(mut moto) = Moto::start() else {
        return;
    };
    reads_and_lists(&moto.options());
    commits(&mut moto);
    cleans_up(&moto.options());
    identity::an_instance_role_writes_and_reads_at(&moto.url);
}

fn reads_and_lists(options: &StorageOptions) {
    assert_eq!(check_identity("s3://bucket", options), Ok(()));
    assert!(matches!(check_identity("s3://no-bucket", options), Err(DataError::NoSuchBucket { .. })));
    assert!(matches!(Remote::open("s3://bucket/x", options), Err(DataError::NotFound { .. })));
    let bytes = pattern(3 << 20);
    let path = "s3://bucket/read/a b+c%20ü.bin";
    put_small(path, bytes.clone(), options).unwrap();
    let file = Remote::open(path, options).unwrap();
    assert!(file.read(0..file.size()).unwrap() == bytes);
    assert!(file.read(100..2_000_000).unwrap() == bytes.slice(100..2_000_000));
    let entry = &list("s3://bucket/read/*", options).unwrap()[0];
    assert_eq!((entry.path.as_str(), entry.size, entry.etag.as_deref()), (path, 3 << 20, file.etag()));
    assert!(Remote::open_known(entry, options).unwrap().read(5..6).unwrap() == bytes.slice(5..6));

    put_small(path, Bytes::from(vec![0; 3 << 20]), options).unwrap();
    let error = file.read(100..2_000_000).unwrap_err();
    assert!(matches!(error, DataError::FileChanged { .. }), "{error}");

    let numbered = |n: u32| format!("s3://bucket/many/{n:04}");
    for n in 0..1100 {
        put_small(&numbered(n), Bytes::new(), options).unwrap();
    }
    assert_eq!(keys("s3://bucket/many", options).len(), 1100);
    delete(&(0..1100).map(numbered).collect::<Vec<_>>(), options).unwrap();
    assert!(matches!(list("s3://bucket/many", options), Err(DataError::NotFound { .. })));
}

fn commits(moto: &mut Moto) {
    let options = moto.options();
    let sizes = [0, 10, (20 << 20) + 1];
    let path = |n: usize| format!("s3://bucket/out/part-{n}");
    let uploads: Vec<_> =
        sizes.iter().enumerate().map(|(n, size)| upload(&path(n), &pattern(*size), &options).unwrap()).collect();
    assert_eq!(moto.boto("out/part-1"), None);
    complete(&uploads, &options).unwrap();
    complete(&uploads, &options).unwrap();
    for (n, size) in sizes.iter().enumerate() {
        let marks = serde_json::json!(["mobula-upload"]);
        assert_eq!(moto.boto(&format!("out/part-{n}")), Some((*size as u64, marks)));
        let file = Remote::open(&path(n), &options).unwrap();
        assert!(file.read(0..file.size()).unwrap() == pattern(*size));
    }

    // One that was aborted cannot be completed, and keeps no other back.
    let replaced = upload(&path(0), b"new", &options).unwrap();
    let fresh = upload("s3://bucket/out/fresh", b"new", &options).unwrap();
    let gone = upload("s3://bucket/out/gone", b"new", &options).unwrap();
    abort(std::slice::from_ref(&gone), &options).unwrap();
    abort(std::slice::from_ref(&gone), &options).unwrap();
    let all = [replaced, fresh, gone];
    use UploadState::{Complete, Gone};
    // What is pending is not asked here: this server's list of parts has another name than S3's.
    let error = complete(&all, &options).unwrap_err().error;
    assert!(matches!(&*error, DataError::Remote { path, .. } if path == "s3://bucket/out/gone"), "{error}");
    assert_eq!(upload_states(&all, &options).unwrap(), [Complete, Complete, Gone]);
    assert_eq!(keys("s3://bucket/out", &options), ["out/fresh", "out/part-0", "out/part-1", "out/part-2"]);
    assert_eq!(moto.boto("out/part-0").unwrap().0, 3);
}

fn cleans_up(options: &StorageOptions) {
    let kept = upload("s3://bucket/stale/a", b"kept", options).unwrap();
    let stale = upload("s3://bucket/stale/a", b"stale", options).unwrap();
    let other = upload("s3://bucket/other/a", b"other", options).unwrap();
    let place = |upload: &PendingUpload| (upload.path.clone(), upload.upload_id.clone());
    let mut both = [place(&kept), place(&stale)];
    both.sort();
    let mut found = uploads_under("s3://bucket/stale", options).unwrap();
    found.sort();
    assert_eq!(found, both);
    abort(std::slice::from_ref(&stale), options).unwrap();
    assert_eq!(uploads_under("s3://bucket/stale", options).unwrap(), [place(&kept)]);
    assert!(complete(&[stale], options).is_err());
    complete(&[kept, other], options).unwrap();
    assert_eq!(Remote::open("s3://bucket/stale/a", options).unwrap().read(0..4).unwrap(), "kept");
}

fn python() -> Option<PathBuf> {
    static ENVIRONMENT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match ENVIRONMENT.get_or_init(environment) {
        Ok(python) => Some(python.clone()),
        Err(reason) => {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "in CI nothing may be skipped: {reason}");
            // Not eprintln!: the runner of tests swallows what a test prints that way when it passes.
            let _ = writeln!(std::io::stderr(), "SKIPPED: {reason}");
            None
        }
    }
}

fn environment() -> Result<PathBuf, String> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let folder = target.join("moto-venv");
    let python = folder.join("bin").join("python");
    let ready = folder.join("ready");
    let packages = PACKAGES.join(" ");

    // Several test processes may come here at once; the first one makes it.
    let lock = File::create(target.join("moto-venv.lock")).map_err(|error| format!("no lock for moto: {error}"))?;
    lock.lock().map_err(|error| format!("no lock for moto: {error}"))?;
    if fs::read_to_string(&ready).is_ok_and(|made_of| made_of == packages) {
        return Ok(python);
    }
    let _ = fs::remove_dir_all(&folder);
    run(Command::new("python3").args(["-m", "venv"]).arg(&folder), "python3 with its venv module")?;
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]).args(PACKAGES);
    run(&mut pip, "a package index")?;
    fs::write(&ready, packages).map_err(|error| format!("{}: {error}", ready.display()))?;
    Ok(python)
}

fn run(command: &mut Command, needed: &str) -> Result<(), String> {
    match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("moto needs {needed}: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Err(format!("moto needs {needed}: {error}")),
    }
}
