//! Puts the actors together: a head, a node, a worker process, or all of it in one process.

use std::sync::mpsc;
use std::sync::Arc;
use std::time::Duration;

use mobula_transport::{Address, BindError, Endpoint, EndpointConfig};

use crate::gcs::{GcsConfig, Snapshot, storage::Volatile};
use crate::ids::NodeId;
use crate::messages::NodeInfo;
use crate::raylet::server::{RayletConfig, RayletEvent};
use crate::resources::Resources;

/// How long a node may take to be taken in by the head.
const REGISTERED_WITHIN: Duration = Duration::from_secs(10);
/// Between the heartbeats of a node.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// Why a node could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The endpoint could not be set up.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The head refused the node.
    #[error("the head refused this node: {why}")]
    Refused {
        /// Its reason.
        why: String,
    },
    /// The head did not answer.
    #[error("the head did not take this node in within {within:?}")]
    Silent {
        /// How long was waited.
        within: Duration,
    },
}

/// What a head in this process is started with.
#[derive(Clone, Debug)]
pub struct HeadConfig {
    /// The cluster's name.
    pub cluster: String,
    /// The node's name.
    pub name: String,
    /// What the node has; object-store memory included.
    pub resources: Resources,
}

/// A head with its node, in this process.
#[derive(Debug)]
pub struct Head {
    endpoint: Endpoint,
    gcs: Address,
    raylet: Address,
    info: NodeInfo,
}

impl Head {
    /// Starts GCS and raylet in this process, without a socket. Work runs in the worker that then
    /// registers itself at the raylet with start number 0.
    ///
    /// # Errors
    /// [`NodeError`] when a thread cannot be started.
    pub fn start(config: HeadConfig) -> Result<Self, NodeError> {
        let endpoint = Endpoint::in_process(EndpointConfig::default())?;
        let gcs_config = GcsConfig::new(config.cluster, endpoint.process().id);
        let gcs = crate::gcs::server::start(&endpoint, gcs_config, Snapshot::default(), Box::new(Volatile));
        let info = NodeInfo {
            node: NodeId::random(),
            name: config.name,
            process: endpoint.process(),
            head: true,
            available: config.resources.clone(),
            total: config.resources,
            alive: true,
            death_reason: None,
            store_dir: String::new(),
            host_proof: String::new(),
            pid: std::process::id(),
        };
        let (tell, events) = mpsc::channel();
        let raylet = crate::raylet::server::start(
            &endpoint,
            RayletConfig {
                info: info.clone(),
                gcs,
                launcher: None,
                heartbeat: HEARTBEAT,
                deaths: Arc::new(|_| {}),
                store_used_bytes: Arc::new(|| 0),
                // Nobody listens any more when the head has been dropped.
                events: Arc::new(move |event| drop(tell.send(event))),
            },
        );
        match events.recv_timeout(REGISTERED_WITHIN) {
            Ok(RayletEvent::Registered | RayletEvent::StopAsked(_)) => Ok(Self { endpoint, gcs, raylet, info }),
            Ok(RayletEvent::Refused(why)) => Err(NodeError::Refused { why }),
            Err(_) => Err(NodeError::Silent { within: REGISTERED_WITHIN }),
        }
    }

    /// The process's endpoint.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The GCS.
    pub fn gcs(&self) -> Address {
        self.gcs
    }

    /// The raylet.
    pub fn raylet(&self) -> Address {
        self.raylet
    }

    /// The node.
    pub fn info(&self) -> &NodeInfo {
        &self.info
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::Receiver;

    use mobula_transport::{Actor, Handlers, MailboxId, Runner};
    use smallvec::smallvec;

    use super::*;
    use crate::error::Error;
    use crate::ids::{ActorId, FunctionId, JobId};
    use crate::messages::*;
    use crate::resources::CPU;
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
            table.on::<StopActor>(|_, message, _, ctx| {
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
        let register =
            RegisterJob { driver: process, name: "t".into(), binary: None, digest: 7, namespace: None };
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
                max_restarts: 0,
                detached: false,
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
            near: None,
        };
        let endpoint = rig.head.endpoint();
        let want = WantLeases { client: rig.client, shape, target: 3, what: "t".into(), hops: 0 };
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
}
