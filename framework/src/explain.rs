//! Why something waits, where it ran, why it failed.

use mobula_core::client::Client;
use mobula_core::error::Error;
use mobula_core::explain::{ActorExplanation, Explainer, PlacementGroupExplanation, TaskExplanation};

use crate::actor::RemoteHandle;
use crate::object::{ObjectRef, current, unshared};
use crate::placement_group::PlacementGroup;
use crate::stream::ObjectRefStream;

/// What [`explain`] can explain: a task or call by the reference to its result or by its stream, an actor by its
/// handle, a placement group.
pub trait Explain {
    /// What is said of it.
    type Explanation;

    #[doc(hidden)]
    fn explain(&self) -> Result<Self::Explanation, Error>;
}

/// Why a task, actor or placement group waits, where it ran, and why it failed. The explanation
/// prints as lines for people; `mobula explain` prints the same.
///
/// ```
/// use mobula::{Config, remote};
/// #[remote(num_gpus = 8.0)]
/// fn train(epochs: u32) -> f64 {
///     # f64::from(epochs)
/// }
///
/// #[mobula::main]
/// fn main() -> Result<(), mobula::Error> {
///     mobula::init(Config::default().num_cpus(2).num_gpus(0))?;
///     let model = train.remote(3);
///     let why = mobula::explain(&model)?;
///     assert_eq!(why.state, "PENDING_NODE_ASSIGNMENT");
///     assert!(why.nodes[0].why.contains("it has GPU 0, 8 is needed"), "{why}");
///     Ok(())
/// }
/// ```
///
/// # Errors
/// [`Error::NoSession`], the failure to reach who knows, and for what was never made its own error.
pub fn explain<E: Explain>(what: &E) -> Result<E::Explanation, Error> {
    what.explain()
}

impl<T> Explain for ObjectRef<T> {
    type Explanation = TaskExplanation;

    fn explain(&self) -> Result<TaskExplanation, Error> {
        let handle = self.handle().map_err(|error| Error::clone(error))?;
        explainer(handle.client()).task_of(handle.owner(), handle.id().seq)
    }
}

impl<T> Explain for ObjectRefStream<T> {
    type Explanation = TaskExplanation;

    fn explain(&self) -> Result<TaskExplanation, Error> {
        self.completed().explain()
    }
}

impl<H: RemoteHandle> Explain for H {
    type Explanation = ActorExplanation;

    fn explain(&self) -> Result<ActorExplanation, Error> {
        let actor = self.actor().handle().map_err(unshared)?;
        explainer(actor.client()).actor_of(actor.id())
    }
}

impl Explain for PlacementGroup {
    type Explanation = PlacementGroupExplanation;

    fn explain(&self) -> Result<PlacementGroupExplanation, Error> {
        explainer(&current()?).placement_group_of(self.id())
    }
}

fn explainer(client: &Client) -> Explainer {
    Explainer::new(client.endpoint().clone(), client.gcs())
}
