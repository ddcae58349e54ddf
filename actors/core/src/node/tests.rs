//! A head in this process, with a worker and a client that are not real.

use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use mobula_transport::{Actor, Address, Handlers, MailboxId, Runner};
use smallvec::smallvec;

use super::*;
use crate::error::Error;
use crate::ids::{ActorId, FunctionId, JobId};
use crate::messages::*;
use crate::resources::{CPU, Resources};
use crate::value::Encoding;

const WITHIN: Duration = Duration::from_secs(20);

/// A worker that makes every actor but those of class `bad`, and a client that notes its leases.
struct Side(mpsc::Sender<LeaseGranted>);

impl Actor for Side {
    const NAME: &'static str = "side";
    fn handlers(table: &mut Handlers<Self>) {
        table.on::<LeaseGranted>(|side, message, _, _| drop(side.0.send(message)));
        table.on::<LeasePending>(|_, _, _, _| {});
        table.on::<ReclaimIdle>(|_, _, _, _| {});
        table.on::<StartActor>(|_, message, request, _| {
            request.reply(match message.spec.class.as_str() {
                "bad" => Err(Error::Invalid { what: "no".to_owned() }),
                _ => Ok(()),
            });
        });
        table.on::<StopActor>(|_, message, request, ctx| {
            request.reply(());
            let gcs = ctx.endpoint().address_of(MailboxId::GCS);
            let (actor, incarnation) = (message.actor, message.incarnation);
            ctx.send(gcs, ActorExited { actor, incarnation, why: message.why, failed: false });
        });
    }
}

struct Rig {
    head: Head,
    job: JobId,
    client: Address,
    grants: Receiver<LeaseGranted>,
}

fn rig(cpus: f64) -> Rig {
    let head = Head::start(HeadConfig {
        cluster: "test".to_owned(),
        name: "n".to_owned(),
        resources: Resources::new().with(CPU, cpus).unwrap(),
        store: crate::store::StoreConfig { capacity_bytes: Some(1 << 20), ..Default::default() },
        traits: Default::default(),
        network: None,
    })
    .unwrap();
    let endpoint = head.endpoint().clone();
    let (tell, grants) = mpsc::channel();
    let both = tell.clone();
    endpoint.spawn(Some(MailboxId::WORKER), Runner::Inline, move || Side(tell));
    let client = endpoint.spawn(Some(MailboxId::CLIENT), Runner::Inline, move || Side(both));
    let process = endpoint.process();
    let register = RegisterWorker { start: 0, process, pid: 1, job: None, digest: 7 };
    let config = endpoint.request_blocking(head.raylet(), register, vec![], WITHIN).unwrap().0.unwrap();
    assert_eq!(config.slots, cpus.ceil() as u32);
    let register = RegisterJob {
        driver: process,
        name: "t".into(),
        binary: None,
        digest: 7,
        namespace: None,
        env: JobEnv::default(),
    };
    let job = endpoint.request_blocking(head.gcs(), register, vec![], WITHIN).unwrap().0.unwrap().job;
    Rig { head, job, client, grants }
}

impl Rig {
    fn ask<M: mobula_transport::Message>(&self, to: Address, message: M) -> M::Reply {
        self.head.endpoint().request_blocking(to, message, vec![], WITHIN).unwrap().0
    }

    fn spec(&self, class: &str, name: Option<&str>) -> ActorSpec {
        ActorSpec {
            actor: ActorId::random(),
            job: self.job,
            owner: self.client,
            class: class.to_owned(),
            constructor: FunctionId(1),
            args: smallvec![ArgSpec::Inline(Encoding::RAW)],
            name: name.map(str::to_owned),
            namespace: "ns".to_owned(),
            demand: Resources::new(),
            placement_demand: Resources::new().with(CPU, 1.0).unwrap(),
            strategy: Strategy::Default,
            kind: WorkerKind::Shared,
            max_concurrency: 1,
            concurrency_groups: Vec::new(),
            max_restarts: 0,
            detached: false,
            rules: CallRules::default(),
        }
    }
}

#[test]
fn leases_are_granted_and_come_back_in_one_process() {
    let rig = rig(2.0);
    let shape = Shape {
        job: rig.job,
        demand: Resources::new().with(CPU, 1.0).unwrap(),
        strategy: Strategy::Default,
        kind: WorkerKind::Shared,
        retriable: true,
        near: None,
    };
    let endpoint = rig.head.endpoint();
    let want = WantLeases { client: rig.client, shape, queue: 1, target: 3, what: "t".into(), hops: 0 };
    endpoint.send(Some(MailboxId::CLIENT), rig.head.raylet(), want, vec![]);
    let first = rig.grants.recv_timeout(WITHIN).unwrap();
    let second = rig.grants.recv_timeout(WITHIN).unwrap();
    assert_ne!(first.lease, second.lease);
    assert!(rig.grants.try_recv().is_err(), "two CPUs, two leases");
    let back = ReturnLeases { leases: vec![first.lease] };
    endpoint.send(Some(MailboxId::CLIENT), rig.head.raylet(), back, vec![]);
    rig.grants.recv_timeout(WITHIN).unwrap();
}

#[test]
fn actors_are_made_named_and_ended_in_one_process() {
    let rig = rig(1.0);
    let gcs = rig.head.gcs();
    let good = rig.spec("good", Some("hits"));
    rig.ask(gcs, CreateActor { spec: good.clone() }).unwrap();
    let taken = rig.ask(gcs, CreateActor { spec: rig.spec("good", Some("hits")) });
    assert!(matches!(taken, Err(Error::NameTaken { .. })), "{taken:?}");
    let place = rig.ask(gcs, ResolveActor { actor: good.actor });
    assert!(matches!(place, ActorLocation::Alive { incarnation: 0, .. }), "{place:?}");
    let found = rig.ask(gcs, FindActor { name: "hits".into(), namespace: "ns".into() });
    assert_eq!(found.map(|found| found.actor), Some(good.actor));

    let bad = rig.spec("bad", None);
    rig.ask(gcs, CreateActor { spec: bad.clone() }).unwrap();
    let ActorLocation::Dead(error) = rig.ask(gcs, ResolveActor { actor: bad.actor }) else { panic!("made") };
    assert!(matches!(*error, Error::Invalid { .. }), "{error}");

    rig.ask(gcs, KillActor { actor: good.actor, no_restart: true, why: "enough".into() }).unwrap();
    let ActorLocation::Dead(error) = rig.ask(gcs, ResolveActor { actor: good.actor }) else { panic!("lives") };
    assert!(error.to_string().contains("enough"), "{error}");
    rig.ask(gcs, CreateActor { spec: rig.spec("good", Some("hits")) }).unwrap();
    let states: Vec<String> = rig.ask(gcs, ListActors).into_iter().map(|actor| actor.state).collect();
    assert_eq!(states.iter().filter(|state| *state == "DEAD").count(), 2, "{states:?}");
}

#[test]
fn ten_thousand_actors_live_on_one_node() {
    let rig = rig(2.0);
    let gcs = rig.head.gcs();
    let (tell, told) = mpsc::channel();
    let endpoint = rig.head.endpoint();
    let actors: Vec<ActorId> = (0..10_000)
        .map(|_| {
            let spec = rig.spec("good", None);
            let actor = spec.actor;
            let tell = tell.clone();
            endpoint.request_with(gcs, CreateActor { spec }, vec![], WITHIN, move |answer| {
                tell.send(answer.map(|(answer, _)| answer)).unwrap();
            });
            actor
        })
        .collect();
    for _ in &actors {
        told.recv_timeout(WITHIN).unwrap().unwrap().unwrap();
    }
    let last = rig.ask(gcs, ResolveActor { actor: actors[actors.len() - 1] });
    assert!(matches!(last, ActorLocation::Alive { .. }), "{last:?}");
    let alive = rig.ask(gcs, ListActors).iter().filter(|actor| actor.state == "ALIVE").count();
    assert_eq!(alive, actors.len());
    rig.ask(gcs, FinishJob { job: rig.job });
    let dead = rig.ask(gcs, ListActors).iter().filter(|actor| actor.state == "DEAD").count();
    assert_eq!(dead, actors.len());
}
