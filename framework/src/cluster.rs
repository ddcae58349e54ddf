//! What the cluster has and what is free.

use std::collections::BTreeMap;

use mobula_core::error::Error;
use mobula_core::ids::NodeId;
use mobula_core::messages::{ClusterStatus, NodeInfo};
use mobula_core::resources::Resources;

use crate::object::current;

/// A node of the cluster.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Node {
    /// Its id, for `options().on_node(..)`.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// Whether it is the head.
    pub head: bool,
    /// Its labels, for `options().node_labels(..)`.
    pub labels: BTreeMap<String, String>,
    /// Whether it is alive; dead ones are remembered for a while.
    pub alive: bool,
    /// Why it is dead.
    pub death_reason: Option<String>,
    /// What it has.
    pub resources: BTreeMap<String, f64>,
    /// What of it is free, as last reported (every second).
    pub available: BTreeMap<String, f64>,
}

impl From<NodeInfo> for Node {
    fn from(info: NodeInfo) -> Self {
        Self {
            id: info.node,
            name: info.name,
            head: info.head,
            labels: info.labels,
            alive: info.alive,
            death_reason: info.death_reason,
            resources: info.total.to_units(),
            available: info.available.to_units(),
        }
    }
}

/// The nodes of the cluster, those lately dead too.
///
/// # Errors
/// [`Error::NoSession`], or the failure to reach the head.
pub fn nodes() -> Result<Vec<Node>, Error> {
    Ok(current()?.status()?.view.nodes.into_iter().map(Node::from).collect())
}

/// What all living nodes have together: `CPU`, `GPU`, `memory`, `object_store_memory` (bytes) and
/// custom resources.
///
/// # Errors
/// As [`nodes`].
pub fn cluster_resources() -> Result<BTreeMap<String, f64>, Error> {
    Ok(sum(&current()?.status()?, |node| &node.total))
}

/// What is free on all living nodes together, as last reported (every second). It names all that
/// [`cluster_resources`] names, with 0 for what is all in use. A head that has just started again
/// knows the resources of the nodes that have already told it.
///
/// # Errors
/// As [`nodes`].
pub fn available_resources() -> Result<BTreeMap<String, f64>, Error> {
    let status = current()?.status()?;
    let mut free: BTreeMap<_, _> = sum(&status, |node| &node.total).into_keys().map(|name| (name, 0.0)).collect();
    free.extend(sum(&status, |node| &node.available));
    Ok(free)
}

fn sum(status: &ClusterStatus, of: impl Fn(&NodeInfo) -> &Resources) -> BTreeMap<String, f64> {
    let mut all = Resources::new();
    for node in status.view.nodes.iter().filter(|node| node.alive) {
        all.add(of(node));
    }
    all.to_units()
}
