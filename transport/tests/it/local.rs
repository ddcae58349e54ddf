//! One process: both runners, requests, one-way messages, streams, deadlines.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use mobula_transport::{
    Actor, Address, Context, Endpoint, EndpointConfig, Envelope, Handlers, Mailbox, MailboxId, Message, Runner,
    RuntimeChoice, SendError, message,
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::common::*;

const BOTH: [Runner; 2] = [Runner::Inline, Runner::Arbiter];

fn endpoint() -> Endpoint {
    Endpoint::in_process(EndpointConfig::default()).unwrap()
}

#[test]
fn requests_are_answered_by_both_runners() {
    for runner in BOTH {
        let endpoint = endpoint();
        let probe = endpoint.spawn(None, runner, Probe::default);
        assert_eq!(ask(&endpoint, probe, Add(2)), Ok(2));
        assert_eq!(ask(&endpoint, probe, Add(3)), Ok(5));
        let payload = vec![Bytes::from_static(b"a"), Bytes::new(), Bytes::from_static(b"bc")];
        let answer = endpoint.request_blocking(probe, Echo("x".into()), payload.clone(), LONG);
        assert_eq!(answer, Ok(("x".to_owned(), payload)));
        assert_eq!(ask(&endpoint, probe, Drop), Err(SendError::Dropped));
        assert!(matches!(
            ask(&endpoint, probe, Stranger),
            Err(SendError::UnknownMessage { name, .. }) if name == "Stranger"
        ));
        assert_eq!(ask(&endpoint, probe, Stop), Ok(()));
        assert_eq!(ask(&endpoint, probe, Add(1)), Err(SendError::NoSuchActor));
        assert_eq!(endpoint.metrics().requests_in_flight, 0);
        endpoint.shutdown(LONG);
        assert_eq!(ask(&endpoint, probe, Add(1)), Err(SendError::Closed));
    }
}

#[test]
fn one_way_messages_keep_their_order() {
    for runner in BOTH {
        let endpoint = endpoint();
        let probe = endpoint.spawn(Some(MailboxId::WORKER), runner, Probe::default);
        for n in 0..100_000 {
            endpoint.send(None, probe, Note(n), vec![]);
        }
        assert_eq!(ask(&endpoint, probe, Notes), Ok((100_000, true)));
        endpoint.shutdown(LONG);
    }
}

#[test]
fn undelivered_messages_return_to_their_sender() {
    for runner in BOTH {
        let endpoint = endpoint();
        let probe = endpoint.spawn(None, runner, Probe::default);
        let nobody = endpoint.address_of(MailboxId(77));
        ask(&endpoint, probe, Forward(nobody, 1)).unwrap();
        let bounced = ask(&endpoint, probe, Bounced).unwrap();
        assert_eq!(bounced.len(), 1);
        assert_eq!((bounced[0].to, bounced[0].kind), (nobody, Note::kind()));
        assert_eq!(bounced[0].error, SendError::NoSuchActor);
        assert_eq!(endpoint.metrics().undelivered, 1);
        endpoint.shutdown(LONG);
    }
}

#[test]
fn a_panic_stops_the_actor_and_nothing_else() {
    for runner in BOTH {
        let endpoint = endpoint();
        let probe = endpoint.spawn(None, runner, Probe::default);
        let other = endpoint.spawn(None, runner, Probe::default);
        assert_eq!(ask(&endpoint, probe, Panic), Err(SendError::Dropped));
        assert_eq!(ask(&endpoint, other, Add(1)), Ok(1));
        assert_eq!(ask(&endpoint, probe, Add(1)), Err(SendError::NoSuchActor));
        endpoint.shutdown(LONG);
    }
}

/// Mailbox ids are reused on purpose by `Some(id)`: the newer actor gets the messages.
#[test]
fn the_newer_actor_of_an_id_counts() {
    let endpoint = endpoint();
    let first = endpoint.spawn(Some(MailboxId::GCS), Runner::Inline, Probe::default);
    assert_eq!(ask(&endpoint, first, Add(5)), Ok(5));
    let second = endpoint.spawn(Some(MailboxId::GCS), Runner::Inline, Probe::default);
    assert_eq!(first, second);
    assert_eq!(ask(&endpoint, second, Add(1)), Ok(1));
    endpoint.shutdown(LONG);
}

/// Two inline actors that send to each other, and one that sends to itself.
#[test]
fn inline_actors_may_call_in_a_circle() {
    #[derive(Serialize, Deserialize)]
    struct Ball {
        hops: u64,
    }
    message!(Ball);
    #[derive(Serialize, Deserialize)]
    struct Partner(Address);
    message!(Partner);
    #[derive(Serialize, Deserialize)]
    struct Hops;
    message!(Hops => u64);
    #[derive(Default)]
    struct Player {
        partner: Option<Address>,
        hops: u64,
    }
    impl Actor for Player {
        const NAME: &'static str = "player";
        fn handlers(table: &mut Handlers<Self>) {
            table.on::<Partner>(|player, Partner(to), _, _| player.partner = Some(to));
            table.on::<Ball>(|player, Ball { hops }, _, ctx: &mut Context<Self>| {
                player.hops += 1;
                if hops > 0
                    && let Some(partner) = player.partner
                {
                    ctx.send(partner, Ball { hops: hops - 1 });
                }
            });
            table.on::<Hops>(|player, Hops, request, _| request.reply(player.hops));
        }
    }
    let endpoint = endpoint();
    let left = endpoint.spawn(None, Runner::Inline, Player::default);
    let right = endpoint.spawn(None, Runner::Inline, Player::default);
    endpoint.send(None, left, Partner(right), vec![]);
    endpoint.send(None, right, Partner(left), vec![]);
    endpoint.send(None, left, Ball { hops: 100_000 }, vec![]);
    // Part of the circle may have been passed on to the endpoint's thread.
    let total = || ask(&endpoint, left, Hops).unwrap() + ask(&endpoint, right, Hops).unwrap();
    while total() < 100_001 {
        std::thread::yield_now();
    }
    endpoint.send(None, left, Partner(left), vec![]);
    endpoint.send(None, left, Ball { hops: 10 }, vec![]);
    while total() < 100_012 {
        std::thread::yield_now();
    }
    assert_eq!(total(), 100_012);
    endpoint.shutdown(LONG);
}

#[test]
fn many_threads_meet_one_inline_actor() {
    let endpoint = endpoint();
    let probe = endpoint.spawn(None, Runner::Inline, Probe::default);
    let answered = Arc::new(AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..10_000 {
                    let answered = answered.clone();
                    endpoint.request_with(probe, Add(1), vec![], LONG, move |answer| {
                        answer.unwrap();
                        answered.fetch_add(1, Ordering::Relaxed);
                    });
                }
            });
        }
    });
    while answered.load(Ordering::Relaxed) < 40_000 {
        std::thread::yield_now();
    }
    assert_eq!(ask(&endpoint, probe, Add(0)), Ok(40_000));
    endpoint.shutdown(LONG);
}

#[test]
fn a_full_mailbox_refuses() {
    struct Narrow;
    impl Actor for Narrow {
        const NAME: &'static str = "narrow";
        const MAILBOX_LIMIT: usize = 2;
        fn handlers(table: &mut Handlers<Self>) {
            // The actor is busy with the first message while it sends itself three more.
            table.on::<Forward>(|_, Forward(to, _), request, ctx| {
                for n in 0..3 {
                    ctx.send(to, Note(n));
                }
                request.reply(());
            });
            table.on::<Note>(|_, _, _, _| {});
            table.on::<Bounced>(|_, _, request, _| request.reply(vec![]));
        }
        fn undelivered(&mut self, what: mobula_transport::Undelivered, _: &mut Context<Self>) {
            assert_eq!(what.error, SendError::MailboxFull { limit: 2 });
        }
    }
    for runner in BOTH {
        let endpoint = endpoint();
        let narrow = endpoint.spawn(None, runner, || Narrow);
        ask(&endpoint, narrow, Forward(narrow, 0)).unwrap();
        // The bounce itself found the mailbox full and was counted, not lost unseen.
        assert_eq!(endpoint.metrics().undelivered, 1);
        // The two that fitted may still be in the queue.
        let mut answer = ask(&endpoint, narrow, Bounced);
        while answer == Err(SendError::MailboxFull { limit: 2 }) {
            answer = ask(&endpoint, narrow, Bounced);
        }
        assert_eq!(answer, Ok(vec![]));
        endpoint.shutdown(LONG);
    }
}

#[test]
fn raw_mailboxes_open_and_reject() {
    struct Raw(Mutex<Vec<u32>>);
    impl Mailbox for Raw {
        fn deliver(&self, envelope: Envelope) {
            self.0.lock().push(envelope.kind());
            if envelope.kind() == Add::kind() {
                if let Ok((Add(n), request)) = envelope.open::<Add>() {
                    request.reply(n + 1);
                }
            } else if envelope.kind() == Sleep::kind() {
                envelope.reject(SendError::Refused { why: "awake".into() });
            } else {
                // Opened as the wrong message, on purpose.
                assert!(envelope.open::<Add>().is_err());
            }
        }
    }
    let endpoint = endpoint();
    let raw = Arc::new(Raw(Mutex::default()));
    endpoint.attach(MailboxId::CLIENT, raw.clone());
    let to = endpoint.address_of(MailboxId::CLIENT);
    assert_eq!(ask(&endpoint, to, Add(1)), Ok(2));
    assert_eq!(ask(&endpoint, to, Sleep), Err(SendError::Refused { why: "awake".into() }));
    assert!(matches!(ask(&endpoint, to, Notes), Err(SendError::UnknownMessage { .. })));
    assert_eq!(*raw.0.lock(), [Add::kind(), Sleep::kind(), Notes::kind()]);
    assert!(endpoint.detach(MailboxId::CLIENT).is_some());
    assert_eq!(ask(&endpoint, to, Add(1)), Err(SendError::NoSuchActor));
    endpoint.shutdown(LONG);
}

#[test]
fn streams_of_replies_end_fail_and_are_cancelled() {
    let endpoint = endpoint();
    let probe = endpoint.spawn(None, Runner::Inline, Probe::default);
    let runtime = endpoint.runtime().clone();
    let numbers = block_on(async {
        let mut stream = endpoint.open_stream(probe, Count(1000), vec![]);
        let mut numbers = Vec::new();
        while let Some(item) = stream.next().await {
            let (n, payload) = item.unwrap();
            assert_eq!(payload, [Bytes::from(n.to_string())]);
            numbers.push(n);
        }
        numbers
    });
    assert_eq!(numbers, (0..1000).collect::<Vec<_>>());

    block_on(async {
        // Cancelled: the producer, which waits for credit, gives up and goes away.
        let mut stream = endpoint.open_stream(probe, Count(u64::MAX), vec![]);
        assert_eq!(stream.next().await.unwrap().unwrap().0, 0);
        drop(stream);
        // Dropped without an end.
        let mut stream = endpoint.open_stream(probe, Drop, vec![]);
        assert_eq!(stream.next().await, Some(Err(SendError::Dropped)));
        assert_eq!(stream.next().await, None);
        // A single answer is a stream of one.
        let mut stream = endpoint.open_stream(probe, Add(4), vec![]);
        assert_eq!(stream.next().await.unwrap().unwrap().0, 4);
        assert_eq!(stream.next().await, None);
        // A stream for someone who wanted a single answer.
        let answer = endpoint.request(probe, Count(3), vec![], LONG).await;
        assert!(matches!(answer, Err(SendError::Refused { .. })));
    });
    drop(runtime);
    endpoint.shutdown(LONG);
}

/// With paused time: deadlines fire when they should, without a timer per request, and actors'
/// timers follow the same clock.
#[tokio::test(start_paused = true)]
async fn deadlines_and_timers_follow_paused_time() {
    let config = EndpointConfig { runtime: RuntimeChoice::Current, ..Default::default() };
    let endpoint = Endpoint::in_process(config).unwrap();
    let probe = endpoint.spawn(None, Runner::Inline, Probe::default);
    let begin = tokio::time::Instant::now();
    let late = endpoint.request(probe, Sleep, vec![], Duration::from_millis(500));
    let soon = endpoint.request(probe, Sleep, vec![], Duration::from_millis(30));
    assert_eq!(soon.await, Err(SendError::TimedOut { after: Duration::from_millis(30) }));
    assert_eq!(begin.elapsed().as_millis() / 10, 3);
    let (ticks, _) = endpoint.request(probe, Ticks, vec![], LONG).await.unwrap();
    assert!(ticks.0 == 1 && (2..=3).contains(&ticks.1), "{ticks:?}");
    assert_eq!(late.await, Err(SendError::TimedOut { after: Duration::from_millis(500) }));
    assert_eq!(begin.elapsed().as_millis() / 10, 50);
    // A future that is dropped stops waiting.
    drop(endpoint.request(probe, Sleep, vec![], LONG));
    assert_eq!(endpoint.metrics().requests_in_flight, 0);
    endpoint.shutdown(Duration::ZERO);
}

#[test]
fn actors_pipe_and_are_reached_from_other_threads() {
    #[derive(Serialize, Deserialize)]
    struct Compute(u64);
    message!(Compute => u64);
    struct Worker;
    impl Actor for Worker {
        const NAME: &'static str = "worker";
        fn handlers(table: &mut Handlers<Self>) {
            table.on::<Compute>(|_, Compute(n), request, ctx| {
                let replier = request.into_replier();
                let poster = ctx.poster();
                // A blocking job comes back through the poster, then through a future.
                std::thread::spawn(move || {
                    let square = n * n;
                    poster.post(move |_, ctx: &mut Context<Self>| {
                        ctx.pipe(async move { square + 1 }, |_, result, _| replier.reply(result));
                    });
                });
            });
        }
    }
    for runner in BOTH {
        let endpoint = endpoint();
        let worker = endpoint.spawn(None, runner, || Worker);
        assert_eq!(ask(&endpoint, worker, Compute(7)), Ok(50));
        endpoint.shutdown(LONG);
    }
}

#[test]
fn shutdown_fails_what_waits() {
    let endpoint = endpoint();
    let probe = endpoint.spawn(None, Runner::Arbiter, Probe::default);
    let waiting = endpoint.request(probe, Sleep, vec![], LONG);
    ask(&endpoint, probe, Add(1)).unwrap();
    endpoint.shutdown(LONG);
    // Either the actor went first and dropped the request, or the table did.
    let answer = block_on(waiting);
    assert!(matches!(answer, Err(SendError::Closed | SendError::Dropped)), "{answer:?}");
}
