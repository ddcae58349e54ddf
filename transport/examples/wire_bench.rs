//! Measures the transport: in process, and between two real processes on loopback.
//!
//! `cargo run --release -p mobula-transport --example wire_bench [PATTERN]`
//!
//! The program starts itself once more as the other process. Every case is repeated; the table
//! shows the median.

use std::env;
use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::BoxFuture;
use mobula_transport::identity::{ClusterAuthority, Role};
use mobula_transport::{
    Actor, Address, BulkBody, BulkSink, BulkSource, Credentials, Endpoint, EndpointConfig, Handlers, MailboxId,
    ProcessAddr, Runner, SendError, message,
};
use serde::{Deserialize, Serialize};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Failure = Box<dyn std::error::Error>;

const DEADLINE: Duration = Duration::from_secs(60);
const REPEATS: usize = 5;
const CREDENTIALS_VAR: &str = "WIRE_BENCH_CREDENTIALS";

/// About 64 bytes on the wire, beside the header.
#[derive(Serialize, Deserialize, Clone, Copy)]
struct Ping([u64; 7]);
message!(Ping => Ping);

#[derive(Serialize, Deserialize)]
struct Tell([u64; 7]);
message!(Tell);

#[derive(Serialize, Deserialize)]
struct Told;
message!(Told => u64);

#[derive(Default)]
struct Server {
    told: u64,
}

impl Actor for Server {
    const NAME: &'static str = "server";
    const MAILBOX_LIMIT: usize = 1 << 20;
    fn handlers(table: &mut Handlers<Self>) {
        table.on::<Ping>(|_, ping, request, _| request.reply(ping));
        table.on::<Tell>(|server, _, _, _| server.told += 1);
        table.on::<Told>(|server, _, request, _| request.reply(server.told));
    }
}

/// One GiB that is already in memory.
struct Gigabyte(Bytes);

impl BulkSource for Gigabyte {
    fn open(&self, _: ProcessAddr, _: Bytes) -> BoxFuture<'static, Result<BulkBody, SendError>> {
        let bytes = self.0.clone();
        Box::pin(async move { Ok(BulkBody::new(vec![bytes])) })
    }
}

/// Copies into memory that is already faulted in.
struct Copy {
    into: Arc<parking_lot::Mutex<Vec<u8>>>,
    at: usize,
}

impl BulkSink for Copy {
    fn begin(&mut self, _: u64) -> Result<(), SendError> {
        Ok(())
    }
    fn write(&mut self, chunk: &[u8]) -> Result<(), SendError> {
        self.into.lock()[self.at..self.at + chunk.len()].copy_from_slice(chunk);
        self.at += chunk.len();
        Ok(())
    }
    fn finish(&mut self) -> Result<(), SendError> {
        Ok(())
    }
}

fn main() -> Result<(), Failure> {
    if let Some(dir) = env::var_os(CREDENTIALS_VAR) {
        return serve(std::path::Path::new(&dir));
    }
    let pattern = env::args().nth(1).unwrap_or_default();
    let wanted = |name: &str| name.contains(&pattern);
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    println!("{:<44} {:>14}", "case", "median");

    let local = Endpoint::in_process(EndpointConfig::default())?;
    let inline = local.spawn(None, Runner::Inline, Server::default);
    let arbiter = local.spawn(None, Runner::Arbiter, Server::default);
    if wanted("in process: request, inline actor") {
        rate("in process: request, inline actor", 1_000_000, |n| callbacks(&local, inline, n, 1));
    }
    if wanted("in process: request_blocking, inline actor") {
        rate("in process: request_blocking, inline actor", 500_000, |n| blocking(&local, inline, n));
    }
    if wanted("in process: 1,000 in flight, arbiter actor") {
        rate("in process: 1,000 in flight, arbiter actor", 500_000, |n| {
            callbacks(&local, arbiter, n, 1000);
        });
    }
    if wanted("in process: one way, inline actor") {
        rate("in process: one way, inline actor", 1_000_000, |n| one_way(&local, inline, n));
    }

    let dir = env::temp_dir().join(format!("wire-bench-{}", std::process::id()));
    let authority = ClusterAuthority::create("bench")?;
    let credentials = authority.credentials(Role::Node)?;
    credentials.save(&dir)?;
    let (child, server) = start_child(&dir)?;
    let client = Endpoint::bind(EndpointConfig { credentials: Some(credentials), ..Default::default() })?;
    if wanted("processes: UDP ping-pong (the floor)") {
        time("processes: UDP ping-pong (the floor)", 20_000, |n| udp_floor(n).unwrap_or(()));
    }
    if wanted("processes: ping-pong, blocking") {
        time("processes: ping-pong, blocking", 10_000, |n| blocking(&client, server, n));
    }
    if wanted("processes: ping-pong, callbacks") {
        time("processes: ping-pong, callbacks", 10_000, |n| callbacks(&client, server, n, 1));
    }
    if wanted("processes: requests, 1,000 in flight") {
        rate("processes: requests, 1,000 in flight", 500_000, |n| {
            callbacks(&client, server, n, 1000);
        });
    }
    if wanted("processes: one way, batched") {
        rate("processes: one way, batched", 2_000_000, |n| one_way(&client, server, n));
    }
    if wanted("processes: bulk 1 GiB") {
        bulk(&client, server.process)?;
    }
    println!("{:?}", client.metrics());
    client.shutdown(Duration::from_secs(1));
    local.shutdown(Duration::ZERO);
    drop(child);
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

fn serve(dir: &std::path::Path) -> Result<(), Failure> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let endpoint = Endpoint::bind(EndpointConfig { credentials: Some(Credentials::load(dir)?), ..Default::default() })?;
    let address = endpoint.spawn(Some(MailboxId::WORKER), Runner::Inline, Server::default);
    endpoint.bulk().serve(Arc::new(Gigabyte(Bytes::from(vec![7; 1 << 30]))))?;
    println!("{}", serde_json::to_string(&address)?);
    loop {
        std::thread::park();
    }
}

/// The other process; ends with this one, however it ends.
struct Other(Child);

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start_child(dir: &std::path::Path) -> Result<(Other, Address), Failure> {
    let mut child = Other(Command::new(env::current_exe()?).env(CREDENTIALS_VAR, dir).stdout(Stdio::piped()).spawn()?);
    let out = child.0.stdout.take().ok_or("no output")?;
    let mut line = String::new();
    BufReader::new(out).read_line(&mut line)?;
    Ok((child, serde_json::from_str(&line)?))
}

fn median(mut of: impl FnMut() -> f64) -> f64 {
    let mut all: Vec<f64> = (0..REPEATS).map(|_| of()).collect();
    all.sort_by(f64::total_cmp);
    all[REPEATS / 2]
}

fn rate(name: &str, n: u64, mut run: impl FnMut(u64)) {
    run(n / 10);
    let per_second = median(|| {
        let begun = Instant::now();
        run(n);
        n as f64 / begun.elapsed().as_secs_f64()
    });
    println!("{name:<44} {:>11.3} M/s", per_second / 1e6);
}

fn time(name: &str, n: u64, mut run: impl FnMut(u64)) {
    run(n / 10);
    let each_us = median(|| {
        let begun = Instant::now();
        run(n);
        begun.elapsed().as_secs_f64() * 1e6 / n as f64
    });
    println!("{name:<44} {each_us:>12.2} us");
}

fn blocking(endpoint: &Endpoint, to: Address, n: u64) {
    for _ in 0..n {
        endpoint.request_blocking(to, Ping([1; 7]), vec![], DEADLINE).expect("the server answers");
    }
}

/// `n` requests, `width` at a time: every answer sends the next request.
fn callbacks(endpoint: &Endpoint, to: Address, n: u64, width: u64) {
    struct Run {
        endpoint: Endpoint,
        to: Address,
        left: AtomicU64,
        answered: AtomicU64,
        n: u64,
        done: mpsc::Sender<()>,
    }
    fn next(run: &Arc<Run>) {
        // One more than the loop needs may be taken; it stays at zero.
        if run.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_err() {
            return;
        }
        let again = run.clone();
        run.endpoint.request_with(run.to, Ping([1; 7]), vec![], DEADLINE, move |answer| {
            answer.expect("the server answers");
            if again.answered.fetch_add(1, Ordering::Relaxed) + 1 == again.n {
                let _ = again.done.send(());
            }
            if again.to.process.id != again.endpoint.process().id || again.n == u64::MAX {
                next(&again);
            }
        });
    }
    let (done, finished) = mpsc::channel();
    let run =
        Arc::new(Run { endpoint: endpoint.clone(), to, left: AtomicU64::new(n), answered: AtomicU64::new(0), n, done });
    if to.process.id == endpoint.process().id {
        // In process an answer may come before the call returns; asking again from within it
        // would nest without end.
        for asked in 0..n {
            next(&run);
            while asked + 1 - run.answered.load(Ordering::Relaxed) >= width.max(2) {
                std::thread::yield_now();
            }
        }
    } else {
        (0..width).for_each(|_| next(&run));
    }
    finished.recv().expect("the run ends");
}

fn one_way(endpoint: &Endpoint, to: Address, n: u64) {
    let ask = || endpoint.request_blocking(to, Told, vec![], DEADLINE).expect("the server answers").0;
    let before = ask();
    for sent in 0..n {
        endpoint.send(None, to, Tell([1; 7]), vec![]);
        // The queue is bounded; a one-way sender that outruns it must wait by itself.
        if sent % 100_000 == 99_999 {
            ask();
        }
    }
    assert_eq!(ask() - before, n, "messages were lost");
}

/// Two threads, two sockets, 64 bytes: what the kernel and its wake-ups cost alone.
fn udp_floor(n: u64) -> std::io::Result<()> {
    let (left, right) = (UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?);
    left.connect(right.local_addr()?)?;
    right.connect(left.local_addr()?)?;
    let echo = std::thread::spawn(move || {
        let mut buffer = [0; 64];
        for _ in 0..n {
            let _ = right.recv(&mut buffer).and_then(|_| right.send(&buffer));
        }
    });
    let mut buffer = [0; 64];
    for _ in 0..n {
        left.send(&buffer)?;
        left.recv(&mut buffer)?;
    }
    let _ = echo.join();
    Ok(())
}

fn bulk(client: &Endpoint, from: ProcessAddr) -> Result<(), Failure> {
    let into = Arc::new(parking_lot::Mutex::new(vec![1; 1 << 30]));
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let fetch = || {
        let sink = Box::new(Copy { into: into.clone(), at: 0 });
        let begun = Instant::now();
        let fetched = runtime.block_on(client.bulk().fetch(from, Bytes::new(), sink, DEADLINE));
        assert_eq!(fetched, Ok(1 << 30));
        (1u64 << 30) as f64 / 1e9 / begun.elapsed().as_secs_f64()
    };
    let cold = fetch();
    println!("{:<44} {cold:>10.2} GB/s", "processes: bulk 1 GiB, first");
    println!("{:<44} {:>10.2} GB/s", "processes: bulk 1 GiB", median(fetch));
    Ok(())
}
