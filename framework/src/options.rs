//! Builders of a call's options: what a task or an actor needs and how it is treated.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use mobula_core::client::{self, RetryExceptions};
use mobula_core::error::Error;
use mobula_core::ids::NodeId;
use mobula_core::labels::NodeLabel;
use mobula_core::messages::{Strategy, WorkerKind};
use mobula_core::registry::RemoteFunction;
use mobula_core::resources::{CPU, GPU, MEMORY, Resources, group};

use crate::call::{Results, Signature, Streams};
use crate::placement_group::PlacementGroup;

/// How many calls of an actor with async methods run at once, unless told otherwise.
pub const ASYNC_MAX_CONCURRENCY: u32 = 1_000;

/// What the builders of tasks and actors have in common. They are two types, and not one over a
/// trait, so that a user needs no import to call their methods.
macro_rules! common_options {
    ($Options:ty) => {
        /// GPUs it needs while it lives; a fraction shares one. On a cluster it runs in a process of
        /// its own, which sees these GPUs and no others; [`gpu_ids`](crate::gpu_ids) names them.
        #[must_use]
        pub fn num_gpus(self, gpus: impl Into<f64>) -> Self {
            self.resource(GPU, gpus)
        }

        /// Bytes of heap it needs while it lives: for placement, not a limit.
        #[must_use]
        pub fn memory(self, bytes: u64) -> Self {
            self.resource(MEMORY, bytes as f64)
        }

        /// Spread such work over the nodes instead of filling one first.
        #[must_use]
        pub fn spread(self) -> Self {
            self.set(|options| options.strategy = Strategy::Spread)
        }

        /// On this node and nowhere else; it fails when the node is dead.
        #[must_use]
        pub fn on_node(self, node: NodeId) -> Self {
            self.set(|options| options.strategy = Strategy::NodeAffinity { node, soft: false })
        }

        /// On this node while that is possible, elsewhere otherwise.
        #[must_use]
        pub fn prefer_node(self, node: NodeId) -> Self {
            self.set(|options| options.strategy = Strategy::NodeAffinity { node, soft: true })
        }

        /// On a node whose labels satisfy all of these, and nowhere else; nodes get labels with
        /// `mobula start --labels zone=a,disk=ssd`.
        ///
        /// ```
        /// use mobula::{NodeLabel, remote};
        /// #[remote]
        /// fn near(x: i64) -> i64 {
        ///     x
        /// }
        ///
        /// let there = near
        ///     .options()
        ///     .node_labels([NodeLabel::is_in("zone", ["a", "b"]), NodeLabel::not_exists("spot")])
        ///     .prefer_node_labels([NodeLabel::exists("disk")]);
        /// ```
        #[must_use]
        pub fn node_labels(self, labels: impl IntoIterator<Item = NodeLabel>) -> Self {
            let labels = labels.into_iter().collect();
            self.set(|options| add_labels(&mut options.strategy, labels, Vec::new()))
        }

        /// On a node whose labels satisfy all of these while one has room, elsewhere otherwise.
        #[must_use]
        pub fn prefer_node_labels(self, labels: impl IntoIterator<Item = NodeLabel>) -> Self {
            let labels = labels.into_iter().collect();
            self.set(|options| add_labels(&mut options.strategy, Vec::new(), labels))
        }

        /// In the room of this placement group, in any of its bundles.
        #[must_use]
        pub fn placement_group(self, group: &PlacementGroup) -> Self {
            self.set(|options| options.group = Some(group.place(None)))
        }

        /// In this bundle of this placement group.
        #[must_use]
        pub fn placement_group_bundle(self, group: &PlacementGroup, index: u32) -> Self {
            self.change(|options| {
                group.check(index)?;
                options.group = Some(group.place(Some(index)));
                Ok(())
            })
        }

        /// In a process of its own. In a session without a cluster there is only one process: it
        /// runs in that, and takes the program along if it aborts.
        #[must_use]
        pub fn process_worker(self) -> Self {
            self.set(|options| options.kind = WorkerKind::Process)
        }

        fn set(self, set: impl FnOnce(&mut $Options)) -> Self {
            self.change(|options| {
                set(options);
                Ok(())
            })
        }

        fn change(mut self, change: impl FnOnce(&mut $Options) -> Result<(), Error>) -> Self {
            if let Ok(options) = &mut self.options
                && let Err(error) = change(Arc::make_mut(options))
            {
                self.options = Err(Arc::new(error));
            }
            self
        }
    };
}

/// The options of a task: `f.options().num_cpus(0.5).remote(..)`.
///
/// A value that makes no sense (a negative amount) does not fail here but in the `get` of the
/// results. Options can be kept and used for many calls, which is a little cheaper.
pub struct TaskOptions<F> {
    pub(crate) function: &'static RemoteFunction,
    pub(crate) options: Result<Arc<client::TaskOptions>, Arc<Error>>,
    signature: PhantomData<fn() -> F>,
}

impl<F: Signature> TaskOptions<F> {
    #[doc(hidden)]
    pub fn new(function: &'static RemoteFunction) -> Self {
        let mut options = client::TaskOptions::default();
        options.returns = F::Results::COUNT;
        Self { function, options: Ok(Arc::new(options)), signature: PhantomData }
    }
}

impl<F: Signature> TaskOptions<F>
where
    F::Results: Streams,
{
    /// How many values it may have yielded that were not consumed; 16 by default, 4,096 at most. When
    /// there are so many, its iterator is not asked for the next one until there is room, and its
    /// CPU is lent to others meanwhile.
    #[must_use]
    pub fn backpressure_num_objects(self, objects: u32) -> Self {
        self.set(|options| options.backpressure_num_objects = objects)
    }
}

impl<F> TaskOptions<F> {
    common_options!(client::TaskOptions);

    /// CPUs it needs while it runs; a fraction is fine, and so is 0. 1 by default.
    #[must_use]
    pub fn num_cpus(self, cpus: impl Into<f64>) -> Self {
        self.resource(CPU, cpus)
    }

    /// An amount of any resource, named as the nodes that have it name it.
    #[must_use]
    pub fn resource(self, name: &str, amount: impl Into<f64>) -> Self {
        let amount = amount.into();
        self.change(|options| set_resource(&mut options.demand, name, amount))
    }

    /// A name for people: in lists, logs and errors.
    #[must_use]
    pub fn name(self, name: impl Into<String>) -> Self {
        self.set(|options| options.name = Some(name.into()))
    }

    /// How often it is run again when its worker or node is lost; 3 by default. Its own errors
    /// are not retried unless [`retry_exceptions`](Self::retry_exceptions) says so.
    #[must_use]
    pub fn max_retries(self, retries: u32) -> Self {
        self.set(|options| options.max_retries = retries)
    }

    /// Whether it is run again when its own code returns an error or panics. That counts against
    /// [`max_retries`](Self::max_retries); when none is left, the last error is the result.
    #[must_use]
    pub fn retry_exceptions(self, retry: bool) -> Self {
        let which = if retry { RetryExceptions::Always } else { RetryExceptions::Never };
        self.set(|options| options.retry_exceptions = which)
    }

    /// [`retry_exceptions`](Self::retry_exceptions) for errors of some types only: `accepts` is given
    /// the name of the error's type, as in [`Error::Application`], and of a panic
    /// [`PANIC_TYPE_NAME`](crate::PANIC_TYPE_NAME).
    ///
    /// ```
    /// # use mobula::remote;
    /// # #[derive(Debug)]
    /// # struct Timeout;
    /// # impl std::fmt::Display for Timeout {
    /// #     fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str("timeout") }
    /// # }
    /// # impl std::error::Error for Timeout {}
    /// #[remote]
    /// fn load(url: String) -> Result<i64, Timeout> {
    ///     # Ok(url.len() as i64)
    /// }
    ///
    /// let patient = load.options().max_retries(5).retry_exceptions_if(|name| name.ends_with("Timeout"));
    /// ```
    #[must_use]
    pub fn retry_exceptions_if(self, accepts: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        self.set(|options| options.retry_exceptions = RetryExceptions::If(Arc::new(accepts)))
    }
}

impl<F> Clone for TaskOptions<F> {
    fn clone(&self) -> Self {
        Self { function: self.function, options: self.options.clone(), signature: PhantomData }
    }
}

impl<F> fmt::Debug for TaskOptions<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TaskOptions of {}: ", self.function.name)?;
        fmt::Debug::fmt(&self.options, f)
    }
}

/// The options of an actor: `Counter::options().name("hits").remote(..)`.
///
/// As with [`TaskOptions`], a value that makes no sense fails the first call.
pub struct ActorOptions<C, F> {
    pub(crate) constructor: &'static RemoteFunction,
    pub(crate) options: Result<Arc<client::ActorOptions>, Arc<Error>>,
    class: PhantomData<fn() -> (C, F)>,
}

impl<C, F> ActorOptions<C, F> {
    common_options!(client::ActorOptions);

    #[doc(hidden)]
    pub fn new(constructor: &'static RemoteFunction) -> Self {
        Self { constructor, options: Ok(Arc::default()), class: PhantomData }
    }

    /// CPUs it holds while it lives. Unless given, it needs one to be placed and holds none.
    #[must_use]
    pub fn num_cpus(self, cpus: impl Into<f64>) -> Self {
        let cpus = cpus.into();
        self.change(|options| {
            set_resource(&mut options.placement_demand, CPU, cpus)?;
            set_resource(&mut options.demand, CPU, cpus)
        })
    }

    /// An amount of any resource, named as the nodes that have it name it.
    #[must_use]
    pub fn resource(self, name: &str, amount: impl Into<f64>) -> Self {
        if name == CPU {
            return self.num_cpus(amount);
        }
        let amount = amount.into();
        self.change(|options| {
            set_resource(&mut options.placement_demand, name, amount)?;
            set_resource(&mut options.demand, name, amount)
        })
    }

    /// A name by which [`get_actor`](crate::get_actor) finds it, unique in its namespace while it
    /// lives.
    #[must_use]
    pub fn name(self, name: impl Into<String>) -> Self {
        self.set(|options| options.name = Some(name.into()))
    }

    /// The namespace of its name; the session's by default.
    #[must_use]
    pub fn namespace(self, namespace: impl Into<String>) -> Self {
        self.set(|options| options.namespace = Some(namespace.into()))
    }

    /// Take the living actor of this name, if there is one, instead of failing. `remote` then asks
    /// the head, and waits for its answer.
    #[must_use]
    pub fn get_if_exists(self) -> Self {
        self.set(|options| options.get_if_exists = true)
    }

    /// Let it outlive the program that made it; end it with [`kill`](crate::kill).
    #[must_use]
    pub fn detached(self) -> Self {
        self.set(|options| options.detached = true)
    }

    /// How many `&self` calls, sync or async, may run at once; 1 by default, 1,000 for a type that
    /// has async methods. `&mut self` calls always run alone, across their awaits, too.
    ///
    /// A call of an async method costs no thread while it waits. What blocks in it holds up a
    /// thread of the runtime on which all of them run: await there (`ObjectRef`s can be awaited),
    /// or leave the method sync.
    #[must_use]
    pub fn max_concurrency(self, calls: u32) -> Self {
        self.change(|options| {
            options.max_concurrency = calls;
            if calls > 0 {
                return Ok(());
            }
            Err(Error::Invalid { what: "max_concurrency 0: an actor that runs no call is of no use".to_owned() })
        })
    }

    #[doc(hidden)]
    #[must_use]
    pub fn __concurrency_group(self, name: &str, calls: u32) -> Self {
        self.change(|options| {
            if calls == 0 {
                let what = format!("concurrency group {name} = 0: a group that runs no call is of no use");
                return Err(Error::Invalid { what });
            }
            options.concurrency_groups.push((name.to_owned(), calls));
            Ok(())
        })
    }

    /// How often it is made anew (by its constructor) when its worker or node is lost; 0 by
    /// default, -1 without end. That holds while the constructor runs, too; but an error or a panic
    /// of the constructor's own code is its end, and surfaces on the first call.
    #[must_use]
    pub fn max_restarts(self, restarts: i32) -> Self {
        self.set(|options| options.max_restarts = restarts)
    }

    /// How often each of its calls is made again when it was lost with the actor's worker; 0 by
    /// default, -1 without end.
    ///
    /// By default a call runs at most once: one whose worker is lost fails, since nobody knows
    /// whether it ran. With retries it is made again, and may run more than once; the calls of one
    /// caller reach the next incarnation in the order in which they were made. (Where only a
    /// connection broke, the actor lives on, and what got lost may arrive behind later calls.) That
    /// there is a next incarnation is up to [`max_restarts`](Self::max_restarts).
    ///
    /// Errors of the method's own code are no losses: see
    /// [`Method::retry_exceptions`](crate::Method::retry_exceptions).
    #[must_use]
    pub fn max_task_retries(self, retries: i32) -> Self {
        self.set(|options| options.rules.max_task_retries = retries)
    }

    /// The most calls of the actor that one process may have made and that have not ended; without
    /// a limit by default. One more fails at once, with [`Error::PendingCallsLimitExceeded`].
    #[must_use]
    pub fn max_pending_calls(self, calls: u32) -> Self {
        self.change(|options| {
            options.rules.max_pending_calls = Some(calls);
            if calls > 0 {
                return Ok(());
            }
            Err(Error::Invalid { what: "max_pending_calls 0: no call could ever be made".to_owned() })
        })
    }
}

impl<C, F> Clone for ActorOptions<C, F> {
    fn clone(&self) -> Self {
        Self { constructor: self.constructor, options: self.options.clone(), class: PhantomData }
    }
}

impl<C, F> fmt::Debug for ActorOptions<C, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ActorOptions of {}: ", self.constructor.name)?;
        fmt::Debug::fmt(&self.options, f)
    }
}

/// Demands and prefers labels besides those that the strategy has; another strategy gives way.
fn add_labels(strategy: &mut Strategy, demanded: Vec<NodeLabel>, preferred: Vec<NodeLabel>) {
    let (mut hard, mut soft) = match std::mem::take(strategy) {
        Strategy::NodeLabels { hard, soft } => (hard, soft),
        _ => (Vec::new(), Vec::new()),
    };
    hard.extend(demanded);
    soft.extend(preferred);
    *strategy = Strategy::NodeLabels { hard, soft };
}

pub(crate) fn set_resource(demand: &mut Resources, name: &str, amount: f64) -> Result<(), Error> {
    if group::is_of_group(name) {
        let what = format!("a resource cannot be named {name}: `_group_` marks the room of placement groups");
        return Err(Error::Invalid { what });
    }
    let set = std::mem::take(demand).with(name, amount).map_err(|error| Error::Invalid { what: error.to_string() })?;
    *demand = set;
    Ok(())
}
