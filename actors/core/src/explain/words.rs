//! Explanations for people: a line or two for each thing that is known.

use std::collections::BTreeMap;
use std::fmt;

use super::{ActorExplanation, NodeVerdict, PlacementGroupExplanation, TaskExplanation, Verdict};
use crate::labels::in_words;
use crate::messages::Strategy;

/// Nodes that are shown one by one.
const MAX_NODES_SHOWN: usize = 20;

impl fmt::Display for TaskExplanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "task {} {}: {}", self.task, self.name, self.state)?;
        line(f, "why", self.reason.as_deref())?;
        line(f, "failed", self.error.as_deref())?;
        line(f, "ran", place(self.node.as_deref(), self.pid, self.run_us).as_deref())?;
        line(f, "function", Some(self.function.as_str()).filter(|function| !function.is_empty()))?;
        let attempts = self.attempts.map(|(made, allowed)| format!("{made} of {allowed}"));
        line(f, "attempts", attempts.as_deref())?;
        line(f, "actor", self.actor.as_deref())?;
        line(f, "group", self.placement_group.as_deref())?;
        line(f, "needs", amounts(&self.demand).as_deref())?;
        line(f, "strategy", self.strategy.as_deref())?;
        line(f, "waits for", Some(self.waits_for.join(", ")).filter(|objects| !objects.is_empty()).as_deref())?;
        verdicts(f, &self.nodes, "")
    }
}

impl fmt::Display for ActorExplanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "actor {} {}: {}", self.actor, self.class, self.state)?;
        line(f, "why", self.reason.as_deref())?;
        line(f, "name", self.name.as_deref())?;
        line(f, "lives", place(self.node.as_deref(), self.pid, None).as_deref())?;
        let restarts = match self.max_restarts {
            limit if limit < 0 => format!("{}, without limit", self.restarts),
            limit => format!("{} of {limit}", self.restarts),
        };
        line(f, "restarts", Some(&restarts))?;
        line(f, "group", self.placement_group.as_deref())?;
        line(f, "needs", amounts(&self.demand).as_deref())?;
        line(f, "strategy", Some(&self.strategy))?;
        let ahead = self.ahead.map(|ahead| format!("{ahead} with the same needs come first"));
        line(f, "in line", ahead.as_deref())?;
        verdicts(f, &self.nodes, "")
    }
}

impl fmt::Display for PlacementGroupExplanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "placement group {} {}: {}", self.group, self.strategy, self.state)?;
        line(f, "why", self.reason.as_deref())?;
        line(f, "name", self.name.as_deref())?;
        for (index, bundle) in self.bundles.iter().enumerate() {
            let what = amounts(&bundle.resources).unwrap_or_default();
            let at = match &bundle.node {
                Some(node) => format!("{what} on {node}"),
                None => format!("{what} on no node yet"),
            };
            line(f, &format!("bundle {index}"), Some(&at))?;
            verdicts(f, &bundle.nodes, "  ")?;
        }
        Ok(())
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("DEFAULT: nodes are filled to one half, then evenly"),
            Self::Spread => f.write_str("SPREAD: over all nodes in turn"),
            Self::NodeAffinity { node, soft: false } => write!(f, "NODE_AFFINITY: on node {node} only"),
            Self::NodeAffinity { node, soft: true } => write!(f, "NODE_AFFINITY: on node {node} if possible"),
            Self::NodeLabels { hard, soft } => {
                f.write_str("NODE_LABELS:")?;
                if !hard.is_empty() {
                    write!(f, " {}", in_words(hard))?;
                }
                if !soft.is_empty() {
                    write!(f, " if possible {}", in_words(soft))?;
                }
                Ok(())
            }
        }
    }
}

fn line(f: &mut fmt::Formatter<'_>, head: &str, text: Option<&str>) -> fmt::Result {
    match text {
        Some(text) => write!(f, "\n  {head:<10} {text}"),
        None => Ok(()),
    }
}

fn verdicts(f: &mut fmt::Formatter<'_>, verdicts: &[NodeVerdict], indent: &str) -> fmt::Result {
    for one in verdicts.iter().take(MAX_NODES_SHOWN) {
        let said = match one.verdict {
            Verdict::HasRoom => "has room",
            Verdict::Busy => "is busy: ",
            Verdict::Never => "can never run it: ",
        };
        write!(f, "\n  {indent}node {} {said}{}", one.node, one.why)?;
    }
    match verdicts.len().saturating_sub(MAX_NODES_SHOWN) {
        0 => Ok(()),
        more => write!(f, "\n  {indent}and {more} nodes more"),
    }
}

fn amounts(amounts: &BTreeMap<String, f64>) -> Option<String> {
    let parts: Vec<String> = amounts.iter().map(|(name, units)| format!("{name} {units}")).collect();
    Some(parts.join(", ")).filter(|text| !text.is_empty())
}

fn place(node: Option<&str>, pid: Option<u32>, run_us: Option<u64>) -> Option<String> {
    let mut text = format!("on node {}", node?);
    if let Some(pid) = pid {
        text.push_str(&format!(" (pid {pid})"));
    }
    if let Some(run_us) = run_us {
        text.push_str(&format!(" for {:.3} s", run_us as f64 / 1e6));
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explain::BundleExplanation;

    #[test]
    fn a_group_shows_its_bundles_and_what_nodes_say() {
        let never = NodeVerdict { node: "n".into(), verdict: Verdict::Never, why: "it has GPU 0, 1 is needed".into() };
        let group = PlacementGroupExplanation {
            group: "abc".into(),
            name: None,
            strategy: "PACK".into(),
            state: "PENDING".into(),
            reason: Some("because".into()),
            bundles: vec![BundleExplanation {
                resources: [("GPU".to_owned(), 1.0)].into(),
                node: None,
                nodes: vec![never; MAX_NODES_SHOWN + 2],
            }],
            job: "j".into(),
        };
        let text = group.to_string();
        assert!(text.starts_with("placement group abc PACK: PENDING\n  why        because\n"), "{text}");
        assert!(text.contains("bundle 0   GPU 1 on no node yet\n    node n can never run it: it has GPU 0"), "{text}");
        assert!(text.ends_with("and 2 nodes more"), "{text}");
    }
}
