//! Two endpoints over real QUIC on loopback.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mobula_transport::{
    Endpoint, EndpointConfig, Limits, MailboxId, Message, PeerEvent, ProcessAddr, ProcessId, Runner, SendError,
};
use parking_lot::Mutex;
use proptest::prelude::*;

use crate::common::*;

/// An endpoint with a probe, and one that talks to it.
fn pair(runner: Runner) -> (Endpoint, Endpoint, mobula_transport::Address) {
    let (server, client) = (bind(), bind());
    let probe = server.spawn(Some(MailboxId::WORKER), runner, Probe::default);
    (server, client, probe)
}

#[test]
fn requests_cross_the_network() {
    for runner in [Runner::Inline, Runner::Arbiter] {
        let (server, client, probe) = pair(runner);
        assert_eq!(ask(&client, probe, Add(2)), Ok(2));
        assert_eq!(ask(&client, probe, Add(3)), Ok(5));
        assert_eq!(ask(&client, probe, Drop), Err(SendError::Dropped));
        assert!(matches!(
            ask(&client, probe, Stranger),
            Err(SendError::UnknownMessage { name, kind }) if name == "Stranger" && kind == Stranger::kind()
        ));
        let nobody = server.address_of(MailboxId(99));
        assert_eq!(ask(&client, nobody, Add(1)), Err(SendError::NoSuchActor));
        assert_eq!(
            client.request_blocking(probe, Sleep, vec![], Duration::from_millis(20)),
            Err(SendError::TimedOut { after: Duration::from_millis(20) })
        );
        // The other direction uses the same connection.
        let back = client.spawn(None, runner, Probe::default);
        assert_eq!(ask(&server, back, Add(7)), Ok(7));
        assert_eq!((client.metrics().connections, server.metrics().connections), (1, 1));
        client.shutdown(LONG);
        server.shutdown(LONG);
    }
}

#[test]
fn a_hundred_thousand_one_way_messages_arrive_in_order() {
    let (server, client, probe) = pair(Runner::Inline);
    for n in 0..100_000 {
        client.send(None, probe, Note(n), vec![]);
    }
    assert_eq!(ask(&client, probe, Notes), Ok((100_000, true)));
    let sent = client.metrics();
    assert!(sent.messages_out >= 100_001, "{sent:?}");
    assert!(sent.batches_out < sent.messages_out / 2, "not batched: {sent:?}");
    client.shutdown(LONG);
    server.shutdown(LONG);
}

/// Both sides' first message at once, many times over: one connection, nothing lost.
#[test]
fn simultaneous_dials_lose_nothing() {
    for _ in 0..20 {
        let (left, right) = (bind(), bind());
        let at_left = left.spawn(None, Runner::Inline, Probe::default);
        let at_right = right.spawn(None, Runner::Inline, Probe::default);
        let asked = [left.request(at_right, Add(1), vec![], LONG), right.request(at_left, Add(2), vec![], LONG)];
        for (future, expected) in asked.into_iter().zip([1, 2]) {
            assert_eq!(block_on(future).unwrap().0, expected);
        }
        left.shutdown(LONG);
        right.shutdown(LONG);
    }
}

#[test]
fn payloads_arrive_whole() {
    let (server, client, probe) = pair(Runner::Inline);
    let part = prop_oneof![Just(0usize), 1..64usize, 4000..5000usize, 10_000..300_000usize];
    proptest!(ProptestConfig::with_cases(200), |(sizes in prop::collection::vec(part, 0..6), text in ".{0,200}", seed: u8)| {
        let payload: Vec<Bytes> = sizes
            .iter()
            .map(|n| (0..*n).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed)).collect())
            .collect();
        let answer = client.request_blocking(probe, Echo(text.clone()), payload.clone(), LONG);
        prop_assert_eq!(answer, Ok((text, payload)));
    });
    client.shutdown(LONG);
    server.shutdown(LONG);
}

#[test]
fn too_large_and_undecodable_are_typed() {
    let (server, client, probe) = pair(Runner::Inline);
    let big = vec![Bytes::from(vec![0; Limits::default().frame_bytes])];
    assert!(matches!(client.request_blocking(probe, Echo(String::new()), big, LONG), Err(SendError::TooLarge { .. })));
    // The same name, another shape: what a different version of a program would send.
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Impostor(String);
    impl Message for Impostor {
        type Reply = i64;
        const NAME: &'static str = Add::NAME;
    }
    assert!(matches!(
        ask(&client, probe, Impostor("x".into())),
        Err(SendError::Undecodable { name, .. }) if name == "Add"
    ));
    // And a reply nobody can decode.
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Other(i64);
    impl Message for Other {
        type Reply = String;
        const NAME: &'static str = Add::NAME;
    }
    assert!(matches!(ask(&client, probe, Other(1)), Err(SendError::Undecodable { .. })));
    // The connection took no harm.
    assert_eq!(ask(&client, probe, Add(1)), Ok(2));
    assert_eq!(client.metrics().connections, 1);
    client.shutdown(LONG);
    server.shutdown(LONG);
}

/// A peer that cannot be reached has a bounded queue: what is over it bounces.
#[test]
fn a_full_queue_refuses() {
    let limits = Limits { lane_queue_bytes: 10_000, reconnect_window: LONG, ..impatient().limits };
    let client = Endpoint::bind(EndpointConfig { limits, ..config() }).unwrap();
    let nowhere = unreachable_process();
    let probe = client.spawn(None, Runner::Inline, Probe::default);
    let there = mobula_transport::Address { process: nowhere, mailbox: MailboxId::WORKER };
    for n in 0..300 {
        ask(&client, probe, Forward(there, n)).unwrap();
    }
    let bounced = ask(&client, probe, Bounced).unwrap();
    assert!((50..250).contains(&bounced.len()), "{}", bounced.len());
    assert!(bounced.iter().all(|b| b.error == SendError::MailboxFull { limit: 10_000 }));
    assert_eq!(ask(&client, there, Add(1)), Err(SendError::MailboxFull { limit: 10_000 }));
    client.shutdown(Duration::ZERO);
}

/// Bound and silent: nobody answers there.
fn unreachable_process() -> ProcessAddr {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = socket.local_addr().unwrap();
    // Kept open, so that nobody else gets the port.
    std::mem::forget(socket);
    ProcessAddr { id: ProcessId::random(), socket: addr }
}

#[test]
fn unreachable_is_not_gone() {
    let client = Endpoint::bind(impatient()).unwrap();
    let events = watch(&client);
    let nowhere = unreachable_process();
    let there = mobula_transport::Address { process: nowhere, mailbox: MailboxId::WORKER };
    let probe = client.spawn(None, Runner::Inline, Probe::default);
    ask(&client, probe, Forward(there, 1)).unwrap();
    let error = ask(&client, there, Add(1)).unwrap_err();
    assert!(matches!(&error, SendError::Unreachable { process, .. } if *process == nowhere.id), "{error}");
    assert!(error.is_retriable());
    eventually("the one-way message comes back", || ask(&client, probe, Bounced).unwrap().len() == 1);
    assert!(matches!(events.lock()[..], [PeerEvent::Lost { process, .. }] if process == nowhere.id));
    // Declared dead, it fails at once, and for good.
    client.mark_gone(nowhere.id, "its node is dead".into());
    let gone = SendError::Gone { process: nowhere.id, why: "its node is dead".into() };
    assert_eq!(ask(&client, there, Add(1)), Err(gone.clone()));
    assert!(!gone.is_retriable());
    assert!(matches!(events.lock()[1..], [PeerEvent::Gone { .. }]));
    client.shutdown(LONG);
}

#[test]
fn who_is_held_for_dead_learns_it() {
    let (server, client, probe) = pair(Runner::Inline);
    let events = watch(&client);
    assert_eq!(ask(&client, probe, Add(1)), Ok(1));
    server.mark_gone(client.process().id, "its node was silent".into());
    // It may first have to see that its connection was closed.
    eventually(
        "it learns that nobody will listen",
        || matches!(ask(&client, probe, Add(1)), Err(SendError::Gone { why, .. }) if why.contains("its node was silent")),
    );
    // Watchers hear of it on another thread than those who ask.
    eventually("watchers hear of it", || matches!(events.lock().last(), Some(PeerEvent::Gone { .. })));
    client.shutdown(LONG);
    server.shutdown(LONG);
}

fn watch(endpoint: &Endpoint) -> Arc<Mutex<Vec<PeerEvent>>> {
    let events = Arc::new(Mutex::new(Vec::new()));
    let log = events.clone();
    endpoint.watch_peers(move |event| log.lock().push(event));
    events
}

#[test]
fn a_peer_that_shuts_down_is_gone() {
    let (server, client, probe) = pair(Runner::Inline);
    let events = watch(&client);
    assert_eq!(ask(&client, probe, Add(1)), Ok(1));
    let waiting = client.request(probe, Sleep, vec![], LONG);
    ask(&client, probe, Add(1)).unwrap();
    server.shutdown(Duration::ZERO);
    // The probe may drop the request while it is taken down, before the connection closes.
    let answer = block_on(waiting);
    assert!(matches!(answer, Err(SendError::Gone { .. } | SendError::Dropped)), "{answer:?}");
    eventually("it is known to be gone", || matches!(ask(&client, probe, Add(1)), Err(SendError::Gone { .. })));
    // Watchers hear of it on another thread than those who ask.
    eventually("watchers hear of it", || matches!(events.lock().last(), Some(PeerEvent::Gone { .. })));
    client.shutdown(LONG);
}

/// The same socket, another incarnation: the old one is gone, and the new one is a stranger that
/// never sees the old one's messages.
#[test]
fn a_restarted_peer_is_another_process() {
    let dir = tempfile::tempdir().unwrap();
    config().credentials.unwrap().save(dir.path()).unwrap();
    let client = Endpoint::bind(impatient()).unwrap();
    let mut first = Child::start(dir.path(), "127.0.0.1:0");
    let probe = first.probe;
    assert_eq!(ask(&client, probe, Add(1)), Ok(1));
    first.process.kill().unwrap();
    first.process.wait().unwrap();
    let second = Child::start(dir.path(), &probe.process.socket.to_string());
    assert_eq!(second.probe.process.socket, probe.process.socket);
    assert_ne!(second.probe.process.id, probe.process.id);
    assert_eq!(block_on(client.discover(probe.process.socket, LONG)), Ok(second.probe.process));
    assert_eq!(ask(&client, second.probe, Add(10)), Ok(10));
    eventually("the old one is known to be gone", || {
        matches!(ask(&client, probe, Add(1)), Err(SendError::Gone { .. }))
    });
    assert_eq!(ask(&client, second.probe, Add(10)), Ok(20));
    client.shutdown(LONG);
}

/// A process that comes back under its own id is unreachable for a while, never gone; its peers
/// find it again at once, without waiting for a timeout (there is none in this test).
#[test]
fn a_process_may_come_back_under_its_id() {
    let dir = tempfile::tempdir().unwrap();
    config().credentials.unwrap().save(dir.path()).unwrap();
    std::fs::write(dir.path().join("id"), ProcessId::random().0.to_string()).unwrap();
    let limits = Limits { idle_timeout: 10 * LONG, ..Limits::default() };
    let client = Endpoint::bind(EndpointConfig { limits, ..config() }).unwrap();
    let events = watch(&client);
    let mut first = Child::start(dir.path(), "127.0.0.1:0");
    let probe = first.probe;
    assert_eq!(ask(&client, probe, Add(5)), Ok(5));
    first.process.kill().unwrap();
    first.process.wait().unwrap();
    let second = Child::start(dir.path(), &probe.process.socket.to_string());
    assert_eq!(second.probe, probe);
    eventually("it is found again, and starts anew", || match ask(&client, probe, Add(1)) {
        Ok(sum) => {
            assert_eq!(sum, 1);
            true
        }
        Err(SendError::Unreachable { .. }) => false,
        Err(error) => panic!("{error}"),
    });
    assert!(events.lock().iter().all(|event| !matches!(event, PeerEvent::Gone { .. })));
    client.shutdown(LONG);
}

/// Somebody comes back under its id and connects before its predecessor's silence was noticed:
/// whoever talked to that one hears that messages may be lost before it hears of the connection.
#[test]
fn a_replaced_connection_is_an_interruption() {
    let (server, first, probe) = pair(Runner::Inline);
    let events = watch(&server);
    let at_first = first.spawn(Some(MailboxId::WORKER), Runner::Inline, Probe::default);
    assert_eq!(ask(&first, probe, Add(1)), Ok(1));
    let waiting = server.request(at_first, Sleep, vec![], LONG);
    assert_eq!(ask(&server, at_first, Add(1)), Ok(1));
    crash(&first);
    let process = first.process().id;
    let second = Endpoint::bind(EndpointConfig { process: Some(process), ..config() }).unwrap();
    assert_eq!(ask(&second, probe, Add(1)), Ok(2));
    assert!(matches!(block_on(waiting), Err(SendError::Unreachable { .. })));
    let connected = PeerEvent::Connected { process };
    let events = events.lock().clone();
    let [one, PeerEvent::Interrupted { .. }, two] = &events[..] else { panic!("{events:?}") };
    assert_eq!((one, two), (&connected, &connected));
    second.shutdown(LONG);
    server.shutdown(LONG);
}

/// A process of its own with a probe; killed when dropped.
struct Child {
    process: std::process::Child,
    probe: mobula_transport::Address,
}

impl Child {
    fn start(dir: &std::path::Path, listen: &str) -> Self {
        let _ = std::fs::remove_file(dir.join("address"));
        let process = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "quic::child_process", "--ignored"])
            .env("PROBE_DIR", dir)
            .env("PROBE_LISTEN", listen)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let mut probe = None;
        eventually("the child is up", || {
            probe = std::fs::read(dir.join("address")).ok().and_then(|text| serde_json::from_slice(&text).ok());
            probe.is_some()
        });
        Self { process, probe: probe.unwrap() }
    }
}

impl std::ops::Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Not a test: the program of [`Child`].
#[test]
#[ignore = "started by other tests"]
fn child_process() {
    let Some(dir) = std::env::var_os("PROBE_DIR").map(std::path::PathBuf::from) else { return };
    let listen = std::env::var("PROBE_LISTEN").unwrap().parse().unwrap();
    let credentials = mobula_transport::Credentials::load(&dir).unwrap();
    let endpoint = Endpoint::bind(EndpointConfig {
        listen: Some(listen),
        credentials: Some(credentials),
        limits: Limits { idle_timeout: 10 * LONG, ..Limits::default() },
        process: std::fs::read_to_string(dir.join("id")).ok().map(|id| ProcessId(id.parse().unwrap())),
        ..EndpointConfig::default()
    })
    .unwrap();
    let probe = endpoint.spawn(Some(MailboxId::WORKER), Runner::Inline, Probe::default);
    std::fs::write(dir.join("address"), serde_json::to_vec(&probe).unwrap()).unwrap();
    loop {
        std::thread::park();
    }
}

/// Stops an endpoint's thread without a farewell, as a killed process would.
fn crash(endpoint: &Endpoint) {
    let (tell, told) = std::sync::mpsc::channel::<()>();
    endpoint.spawn_task(async move {
        // The thread never runs again; the socket stays open, and dead.
        drop(tell);
        std::thread::sleep(Duration::from_secs(3600));
    });
    let _ = told.recv();
}

#[test]
fn streams_cross_the_network_with_backpressure() {
    let (server, client, probe) = pair(Runner::Inline);
    block_on(async {
        let mut stream = client.open_stream(probe, Count(1000), vec![]);
        for n in 0..1000 {
            assert_eq!(stream.next().await, Some(Ok((n, vec![Bytes::from(n.to_string())]))));
        }
        assert_eq!(stream.next().await, None);
    });
    // Nobody reads: the producer stops after its window.
    let before = server.metrics().messages_out;
    let mut stream = client.open_stream(probe, Count(u64::MAX), vec![]);
    let window = u64::from(mobula_transport::STREAM_WINDOW_ITEMS);
    eventually("the window is full", || server.metrics().messages_out >= before + window);
    ask(&client, probe, Add(1)).unwrap();
    assert_eq!(server.metrics().messages_out, before + window + 1);
    // Reading on makes room; dropping the stream ends the producer.
    block_on(async {
        for n in 0..1000 {
            assert_eq!(stream.next().await.unwrap().unwrap().0, n);
        }
        drop(stream);
        let mut none = client.open_stream(server.address_of(MailboxId(99)), Count(1), vec![]);
        assert_eq!(none.next().await, Some(Err(SendError::NoSuchActor)));
        assert_eq!(none.next().await, None);
    });
    eventually("the producer stops", || {
        let sent = server.metrics().messages_out;
        ask(&client, probe, Add(1)).unwrap();
        server.metrics().messages_out == sent + 1
    });
    client.shutdown(LONG);
    server.shutdown(LONG);
}

#[test]
fn a_lost_producer_ends_its_streams() {
    let server = Endpoint::bind(impatient()).unwrap();
    let client = Endpoint::bind(impatient()).unwrap();
    let probe = server.spawn(None, Runner::Inline, Probe::default);
    let mut stream = client.open_stream(probe, Count(u64::MAX), vec![]);
    let waiting = client.request(probe, Sleep, vec![], LONG);
    assert_eq!(block_on(stream.next()).unwrap().unwrap().0, 0);
    let events = watch(&client);
    crash(&server);
    let error = block_on(async {
        loop {
            if let Err(error) = stream.next().await.unwrap() {
                return error;
            }
        }
    });
    assert!(matches!(error, SendError::Unreachable { .. }), "{error}");
    assert!(matches!(block_on(waiting), Err(SendError::Unreachable { .. })));
    eventually("given up", || matches!(events.lock().last(), Some(PeerEvent::Lost { .. })));
    assert!(matches!(events.lock()[0], PeerEvent::Interrupted { .. }));
    client.shutdown(LONG);
}

#[test]
fn shutdown_drains_what_is_queued() {
    let (server, client, probe) = pair(Runner::Inline);
    for n in 0..50_000 {
        client.send(None, probe, Note(n), vec![Bytes::from_static(&[7; 100])]);
    }
    client.shutdown(LONG);
    // Drained means acknowledged, so the server has them.
    assert_eq!(ask(&server, probe, Notes), Ok((50_000, true)));
    server.shutdown(LONG);
}
