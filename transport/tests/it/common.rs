//! Messages and actors the tests share.
#![allow(missing_docs)]

use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use mobula_transport::identity::{ClusterAuthority, Role};
use mobula_transport::{
    Actor, Address, Context, Endpoint, EndpointConfig, Handlers, Limits, Message, SendError, Undelivered, message,
};
use serde::{Deserialize, Serialize};

/// No test waits for this long unless something is broken.
pub const LONG: Duration = Duration::from_secs(60);

#[derive(Serialize, Deserialize, Debug)]
pub struct Add(pub i64);
message!(Add => i64);

/// Returns the payload as it came.
#[derive(Serialize, Deserialize, Debug)]
pub struct Echo(pub String);
message!(Echo => String);

/// One-way; the order of arrival is kept in the actor.
#[derive(Serialize, Deserialize, Debug)]
pub struct Note(pub u64);
message!(Note);

/// How many notes came, and whether in order.
#[derive(Serialize, Deserialize, Debug)]
pub struct Notes;
message!(Notes => (u64, bool));

/// Asks for the numbers below n as a stream.
#[derive(Serialize, Deserialize, Debug)]
pub struct Count(pub u64);
message!(Count => u64);

/// Never answered: the replier is kept.
#[derive(Serialize, Deserialize, Debug)]
pub struct Sleep;
message!(Sleep => ());

/// Dropped unanswered.
#[derive(Serialize, Deserialize, Debug)]
pub struct Drop;
message!(Drop => ());

#[derive(Serialize, Deserialize, Debug)]
pub struct Panic;
message!(Panic => ());

#[derive(Serialize, Deserialize, Debug)]
pub struct Stop;
message!(Stop => ());

/// Known to nobody.
#[derive(Serialize, Deserialize, Debug)]
pub struct Stranger;
message!(Stranger => ());

/// Sends a note to the given address, from the actor.
#[derive(Serialize, Deserialize, Debug)]
pub struct Forward(pub Address, pub u64);
message!(Forward => ());

/// What came back undelivered.
#[derive(Serialize, Deserialize, Debug)]
pub struct Bounced;
message!(Bounced => Vec<Undelivered>);

/// Ticks counted by the actor's timers: (one-shot, repeating).
#[derive(Serialize, Deserialize, Debug)]
pub struct Ticks;
message!(Ticks => (u64, u64));

#[derive(Default)]
pub struct Probe {
    sum: i64,
    notes: u64,
    unordered: bool,
    kept: Vec<mobula_transport::Replier<()>>,
    bounced: Vec<Undelivered>,
    ticks: (u64, u64),
}

impl Actor for Probe {
    const NAME: &'static str = "probe";
    const MAILBOX_LIMIT: usize = 1 << 18;

    fn handlers(table: &mut Handlers<Self>) {
        table.on::<Add>(|probe, Add(n), request, _| {
            probe.sum += n;
            request.reply(probe.sum);
        });
        table.on::<Echo>(|_, Echo(text), mut request, _| {
            let payload = request.take_payload();
            request.reply_with(text, payload);
        });
        table.on::<Note>(|probe, Note(n), _, _| {
            probe.unordered |= n != probe.notes;
            probe.notes += 1;
        });
        table.on::<Notes>(|probe, Notes, request, _| request.reply((probe.notes, !probe.unordered)));
        table.on::<Count>(|_, Count(n), request, ctx| {
            let mut sink = request.into_stream();
            ctx.spawn(async move {
                for i in 0..n {
                    if sink.send_with(i, vec![Bytes::from(i.to_string())]).await.is_err() {
                        return;
                    }
                }
                sink.end();
            });
        });
        table.on::<Sleep>(|probe, Sleep, request, _| probe.kept.push(request.into_replier()));
        table.on::<Drop>(|_, Drop, _, _| {});
        table.on::<Panic>(|_, Panic, _, _| panic!("asked to"));
        table.on::<Stop>(|_, Stop, request, ctx| {
            request.reply(());
            ctx.stop();
        });
        table.on::<Forward>(|_, Forward(to, n), request, ctx| {
            ctx.send(to, Note(n));
            request.reply(());
        });
        table.on::<Bounced>(|probe, Bounced, request, _| request.reply(probe.bounced.clone()));
        table.on::<Ticks>(|probe, Ticks, request, _| request.reply(probe.ticks));
    }

    fn started(&mut self, ctx: &mut Context<Self>) {
        ctx.later(Duration::from_millis(25), |probe, _| probe.ticks.0 += 1);
        let cancelled = ctx.later(Duration::from_millis(25), |probe, _| probe.ticks.0 += 100);
        ctx.cancel(cancelled);
        ctx.every(Duration::from_millis(10), |probe, _| probe.ticks.1 += 1);
    }

    fn undelivered(&mut self, what: Undelivered, _ctx: &mut Context<Self>) {
        self.bounced.push(what);
    }
}

/// Runs a future that needs no runtime.
pub fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// One authority for all tests of this binary.
pub fn authority() -> &'static ClusterAuthority {
    static AUTHORITY: OnceLock<ClusterAuthority> = OnceLock::new();
    AUTHORITY.get_or_init(|| ClusterAuthority::create("test").unwrap())
}

pub fn config() -> EndpointConfig {
    EndpointConfig { credentials: Some(authority().credentials(Role::Node).unwrap()), ..Default::default() }
}

/// Bounds under which a dead peer is noticed in about a second.
pub fn impatient() -> EndpointConfig {
    let limits = Limits {
        reconnect_window: Duration::from_millis(600),
        connect_timeout: Duration::from_millis(300),
        idle_timeout: Duration::from_millis(1000),
        keep_alive: Duration::from_millis(200),
        ..Limits::default()
    };
    EndpointConfig { limits, ..config() }
}

pub fn bind() -> Endpoint {
    Endpoint::bind(config()).unwrap()
}

pub fn ask<M: Message>(endpoint: &Endpoint, to: Address, message: M) -> Result<M::Reply, SendError> {
    endpoint.request_blocking(to, message, vec![], LONG).map(|(reply, _)| reply)
}

/// Waits until `condition` holds; only a broken endpoint makes this give up.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !condition() {
        assert!(begun.elapsed() < LONG, "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
