//! What a node has to say to a demand: [`judge`].

use serde::Serialize;

use crate::gcs::placement::takes_work;
use crate::labels::{NodeLabel, in_words};
use crate::messages::{NodeInfo, Strategy};
use crate::resources::{FRACTIONS_PER_UNIT, MEMORY, OBJECT_STORE_MEMORY, Resources};

/// Whether a node can run something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Verdict {
    /// It has room now.
    HasRoom,
    /// It will, when others end.
    Busy,
    /// It never can.
    Never,
}

/// What a node has to say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeVerdict {
    /// Its name.
    pub node: String,
    /// Whether it can run it.
    pub verdict: Verdict,
    /// What it lacks, in words; empty when it has room.
    pub why: String,
}

/// What each living node has to say to work that needs this and may run there, by name.
///
/// ```
/// use mobula_core::explain::judge;
/// use mobula_core::messages::Strategy;
/// use mobula_core::resources::Resources;
/// assert!(judge(&[], &Resources::new(), &Strategy::Default).is_empty());
/// ```
pub fn judge(nodes: &[NodeInfo], need: &Resources, strategy: &Strategy) -> Vec<NodeVerdict> {
    let mut verdicts: Vec<NodeVerdict> =
        nodes.iter().filter(|node| node.alive).map(|node| judge_one(node, need, strategy)).collect();
    verdicts.sort_by(|a, b| a.node.cmp(&b.node));
    verdicts
}

/// What follows from what all nodes say.
pub(super) fn summary(verdicts: &[NodeVerdict]) -> &'static str {
    let any = |verdict| verdicts.iter().any(|one| one.verdict == verdict);
    if any(Verdict::HasRoom) {
        "a node has room for it, by its last report"
    } else if any(Verdict::Busy) {
        "it waits until others end"
    } else if verdicts.is_empty() {
        "the cluster has no living node"
    } else {
        "no node of the cluster can ever run it; one that joins may"
    }
}

fn judge_one(node: &NodeInfo, need: &Resources, strategy: &Strategy) -> NodeVerdict {
    let (verdict, why) = if !takes_work(&node.total) {
        (Verdict::Never, "it only stores objects".to_owned())
    } else if let Strategy::NodeAffinity { node: wanted, soft: false } = strategy
        && *wanted != node.node
    {
        (Verdict::Never, format!("it is not node {wanted}, which was asked for"))
    } else if let Strategy::NodeLabels { hard, .. } = strategy
        && !strategy.allows(&node.labels)
    {
        let missed: Vec<NodeLabel> = hard.iter().filter(|label| !label.holds(&node.labels)).cloned().collect();
        (Verdict::Never, format!("its labels are not those that are asked for: {}", in_words(&missed)))
    } else {
        let lacks = missing(need, &node.total);
        let busy = missing(need, &node.available);
        if !lacks.is_empty() {
            let all = lacks.iter().map(|(name, fractions)| {
                let has = node.total.fractions(name);
                format!("it has {name} {}, {} is needed", shown(name, has), shown(name, *fractions))
            });
            (Verdict::Never, all.collect::<Vec<_>>().join("; "))
        } else if !busy.is_empty() {
            let all = busy.iter().map(|(name, fractions)| {
                let (free, has) = (node.available.fractions(name).max(0), node.total.fractions(name));
                let (free, has) = (shown(name, free), shown(name, has));
                format!("{name} {} is needed, {free} of {has} is free", shown(name, *fractions))
            });
            (Verdict::Busy, all.collect::<Vec<_>>().join("; "))
        } else {
            (Verdict::HasRoom, String::new())
        }
    };
    NodeVerdict { node: node.name.clone(), verdict, why }
}

/// What of `need` there is too little of.
fn missing<'a>(need: &'a Resources, has: &Resources) -> Vec<(&'a str, i64)> {
    need.iter().filter(|(name, fractions)| has.fractions(name) < *fractions).collect()
}

fn shown(name: &str, fractions: i64) -> String {
    let units = fractions as f64 / FRACTIONS_PER_UNIT as f64;
    if name == MEMORY || name == OBJECT_STORE_MEMORY { format!("{units} bytes") } else { units.to_string() }
}

#[cfg(test)]
mod tests {
    use mobula_transport::{ProcessAddr, ProcessId};
    use uuid::Uuid;

    use super::*;
    use crate::ids::NodeId;
    use crate::resources::{CPU, GPU};

    fn amounts(cpus: f64, gpus: f64) -> Resources {
        Resources::new().with(CPU, cpus).unwrap().with(GPU, gpus).unwrap()
    }

    fn node(number: u128, total: Resources, available: Resources) -> NodeInfo {
        NodeInfo {
            node: NodeId(Uuid::from_u128(number)),
            name: format!("n{number}"),
            process: ProcessAddr { id: ProcessId::random(), socket: ProcessAddr::IN_PROCESS },
            head: false,
            total,
            available,
            labels: Default::default(),
            alive: true,
            death_reason: None,
            store_dir: String::new(),
            host_proof: String::new(),
            pid: 1,
        }
    }

    #[test]
    fn every_node_says_what_it_lacks() {
        let stores = Resources::new().with(OBJECT_STORE_MEMORY, 1e6).unwrap();
        let mut dead = node(9, amounts(8.0, 8.0), amounts(8.0, 8.0));
        dead.alive = false;
        let nodes = [
            node(1, amounts(4.0, 1.0), amounts(4.0, 1.0)),
            node(2, amounts(4.0, 2.0), amounts(0.5, 2.0)),
            node(3, amounts(4.0, 2.0), amounts(2.0, 2.0)),
            node(4, stores.clone(), stores),
            dead,
        ];
        let said: Vec<(Verdict, String)> = judge(&nodes, &amounts(1.0, 2.0), &Strategy::Default)
            .into_iter()
            .map(|verdict| (verdict.verdict, verdict.why))
            .collect();
        let expected = [
            (Verdict::Never, "it has GPU 1, 2 is needed"),
            (Verdict::Busy, "CPU 1 is needed, 0.5 of 4 is free"),
            (Verdict::HasRoom, ""),
            (Verdict::Never, "it only stores objects"),
        ];
        assert_eq!(said, expected.map(|(verdict, why)| (verdict, why.to_owned())));
    }

    #[test]
    fn a_node_that_was_not_asked_for_says_so() {
        let nodes = [1, 2].map(|number| node(number, amounts(1.0, 0.0), amounts(1.0, 0.0)));
        let at = |soft| Strategy::NodeAffinity { node: nodes[1].node, soft };
        let verdicts = |soft| judge(&nodes, &amounts(1.0, 0.0), &at(soft)).into_iter().map(|one| one.verdict);
        assert!(verdicts(false).eq([Verdict::Never, Verdict::HasRoom]));
        assert!(verdicts(true).eq([Verdict::HasRoom, Verdict::HasRoom]));
    }

    #[test]
    fn a_node_without_the_labels_says_which() {
        let mut labelled = node(1, amounts(1.0, 0.0), amounts(1.0, 0.0));
        labelled.labels = crate::labels::parse("zone=a").unwrap();
        let hard = vec![NodeLabel::is_in("zone", ["a"]), NodeLabel::exists("ssd")];
        let said = judge(&[labelled], &amounts(1.0, 0.0), &Strategy::NodeLabels { hard, soft: Vec::new() });
        assert_eq!(said[0].verdict, Verdict::Never);
        assert!(said[0].why.contains("ssd exists") && !said[0].why.contains("zone"), "{}", said[0].why);
    }

    #[test]
    fn what_all_say_together() {
        let said = |verdicts: &[Verdict]| {
            let all: Vec<_> = verdicts
                .iter()
                .map(|verdict| NodeVerdict { node: String::new(), verdict: *verdict, why: String::new() })
                .collect();
            summary(&all)
        };
        assert!(said(&[Verdict::Never, Verdict::Busy, Verdict::HasRoom]).contains("has room"));
        assert!(said(&[Verdict::Never, Verdict::Busy]).contains("others end"));
        assert!(said(&[Verdict::Never]).contains("no node"));
        assert!(said(&[]).contains("no living node"));
    }
}
