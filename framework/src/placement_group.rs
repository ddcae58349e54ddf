//! Placement groups: room for several pieces of work, reserved all at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mobula_core::client::InGroup;
use mobula_core::error::Error;
use mobula_core::ids::PlacementGroupId;
use mobula_core::messages::{GroupInfo, PlacementStrategy};
use mobula_core::resources::{CPU, GPU, MEMORY, Resources};
use serde::{Deserialize, Serialize};

use crate::object::{ObjectRef, current, get_timeout};
use crate::options::set_resource;

/// What one bundle of a placement group reserves.
///
/// ```
/// let bundle = mobula::Bundle::cpus(2.0).gpus(0.5).resource("disk", 1.0);
/// ```
#[derive(Clone, Debug)]
pub struct Bundle(Result<Resources, Error>);

impl Bundle {
    /// So many CPUs.
    pub fn cpus(cpus: impl Into<f64>) -> Self {
        Self(Ok(Resources::new())).resource(CPU, cpus)
    }

    /// So many GPUs.
    #[must_use]
    pub fn gpus(self, gpus: impl Into<f64>) -> Self {
        self.resource(GPU, gpus)
    }

    /// So many bytes of heap.
    #[must_use]
    pub fn memory(self, bytes: u64) -> Self {
        self.resource(MEMORY, bytes as f64)
    }

    /// An amount of any resource, named as the nodes that have it name it.
    #[must_use]
    pub fn resource(mut self, name: &str, amount: impl Into<f64>) -> Self {
        let amount = amount.into();
        if let Ok(resources) = &mut self.0
            && let Err(error) = set_resource(resources, name, amount)
        {
            self.0 = Err(error);
        }
        self
    }
}

/// A placement group: bundles of resources on one or several nodes, reserved all or none.
///
/// Work runs in it with `options().placement_group(&group)` or
/// `options().placement_group_bundle(&group, index)`; it then uses the group's room and nothing
/// else. The group ends with the session that made it, with [`remove_placement_group`], or, if it
/// is [detached](PlacementGroupBuilder::detached), only with the latter. The handle may be sent to
/// tasks and actors.
///
/// ```
/// use mobula::{Bundle, Config, PlacementGroup, PlacementStrategy, remote};
/// #[remote]
/// fn square(x: i64) -> i64 {
///     x * x
/// }
///
/// #[mobula::main]
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     mobula::init(Config::default().num_cpus(4))?;
///     let group = PlacementGroup::new([Bundle::cpus(1), Bundle::cpus(1)])
///         .strategy(PlacementStrategy::Pack)
///         .create()?;
///     mobula::get(&group.ready())?;
///     let inside = square.options().placement_group_bundle(&group, 1);
///     assert_eq!(mobula::get(&inside.remote(7))?, 49);
///     mobula::remove_placement_group(&group)?;
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacementGroup {
    id: PlacementGroupId,
    bundles: Arc<[Resources]>,
}

impl PlacementGroup {
    /// A group of these bundles, to be [created](PlacementGroupBuilder::create).
    #[allow(clippy::new_ret_no_self, reason = "a group exists only when it was created")]
    pub fn new(bundles: impl IntoIterator<Item = Bundle>) -> PlacementGroupBuilder {
        PlacementGroupBuilder {
            bundles: bundles.into_iter().map(|bundle| bundle.0).collect(),
            strategy: PlacementStrategy::default(),
            name: None,
            detached: false,
        }
    }

    /// Its id.
    pub fn id(&self) -> PlacementGroupId {
        self.id
    }

    /// How many bundles it has.
    pub fn bundle_count(&self) -> u32 {
        // The head allows a thousand.
        u32::try_from(self.bundles.len()).unwrap_or(u32::MAX)
    }

    /// Resolves when all bundles are reserved, or to why they never will be. A group that no node
    /// has room for is waited for: nodes may join.
    pub fn ready(&self) -> ObjectRef<()> {
        match current() {
            Ok(client) => ObjectRef::new(client.group_ready(self.id)),
            Err(error) => ObjectRef::failed(error.into()),
        }
    }

    /// Waits until all bundles are reserved; false when they were not in time.
    ///
    /// # Errors
    /// Why they never will be, or [`Error::NoSession`].
    pub fn wait(&self, timeout: Duration) -> Result<bool, Error> {
        match get_timeout(&self.ready(), timeout) {
            Ok(()) => Ok(true),
            Err(Error::TimedOut { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Its room, or that of one bundle.
    pub(crate) fn place(&self, index: Option<u32>) -> InGroup {
        InGroup { group: self.id, index, bundles: self.bundles.clone() }
    }

    pub(crate) fn check(&self, index: u32) -> Result<(), Error> {
        if index < self.bundle_count() {
            return Ok(());
        }
        let last = self.bundle_count() - 1;
        let what = format!("the placement group has bundles 0 to {last}, there is no {index}");
        Err(Error::Invalid { what })
    }
}

/// What a placement group is to be.
#[derive(Clone, Debug)]
pub struct PlacementGroupBuilder {
    bundles: Result<Vec<Resources>, Error>,
    strategy: PlacementStrategy,
    name: Option<String>,
    detached: bool,
}

impl PlacementGroupBuilder {
    /// How the bundles lie to each other; packed by default.
    #[must_use]
    pub fn strategy(mut self, strategy: PlacementStrategy) -> Self {
        self.strategy = strategy;
        self
    }

    /// A name for people.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Let it outlive the session that makes it.
    #[must_use]
    pub fn detached(mut self) -> Self {
        self.detached = true;
        self
    }

    /// Makes the group, and does not wait for its room.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a bundle that makes no sense, [`Error::NoSession`].
    pub fn create(self) -> Result<PlacementGroup, Error> {
        let bundles = self.bundles?;
        if bundles.is_empty() {
            return Err(Error::Invalid { what: "a placement group needs at least one bundle".to_owned() });
        }
        if let Some(index) = bundles.iter().position(Resources::is_empty) {
            return Err(Error::Invalid { what: format!("bundle {index} of the placement group reserves nothing") });
        }
        let id = current()?.create_group(self.strategy, bundles.clone(), self.name, self.detached);
        Ok(PlacementGroup { id, bundles: bundles.into() })
    }
}

/// The placement group of this name, a detached one of an earlier session for example. Of several
/// it is any.
///
/// # Errors
/// [`Error::Invalid`] when there is none, or the failure to reach the head.
pub fn get_placement_group(name: &str) -> Result<PlacementGroup, Error> {
    let found = current()?.list_groups()?.into_iter().find(|info| info.name.as_deref() == Some(name));
    match found {
        Some(info) => {
            Ok(PlacementGroup { id: info.group, bundles: info.bundles.into_iter().map(|(bundle, _)| bundle).collect() })
        }
        None => {
            let what = format!(
                "there is no placement group named {name:?}; names are given with PlacementGroup::new(..).name(..)"
            );
            Err(Error::Invalid { what })
        }
    }
}

/// Gives a group's room back: tasks in it fail with [`Error::GroupRemoved`], actors in it end after
/// the call that they run. Code of theirs that runs in a shared worker is not interrupted. Removing one twice does nothing.
///
/// # Errors
/// [`Error::NoSession`].
pub fn remove_placement_group(group: &PlacementGroup) -> Result<(), Error> {
    current()?.remove_group(group.id);
    Ok(())
}

/// A placement group as the head knows it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PlacementGroupState {
    /// Its id.
    pub id: PlacementGroupId,
    /// Its name.
    pub name: Option<String>,
    /// `PACK`, `SPREAD`, `STRICT_PACK` or `STRICT_SPREAD`.
    pub strategy: String,
    /// `PENDING`, `CREATED` or `RESCHEDULING`.
    pub state: String,
    /// What each bundle reserves, and the name of its node once it is reserved.
    pub bundles: Vec<(BTreeMap<String, f64>, Option<String>)>,
    /// Why it waits.
    pub reason: Option<String>,
}

impl From<GroupInfo> for PlacementGroupState {
    fn from(info: GroupInfo) -> Self {
        Self {
            id: info.group,
            name: info.name,
            strategy: info.strategy,
            state: info.state,
            bundles: info.bundles.into_iter().map(|(bundle, node)| (bundle.to_units(), node)).collect(),
            reason: info.reason,
        }
    }
}

/// The placement groups of the cluster.
///
/// # Errors
/// [`Error::NoSession`], or the failure to reach the head.
pub fn placement_groups() -> Result<Vec<PlacementGroupState>, Error> {
    Ok(current()?.list_groups()?.into_iter().map(PlacementGroupState::from).collect())
}
