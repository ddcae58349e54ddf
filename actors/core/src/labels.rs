//! Labels of nodes, and what work asks of them.
//!
//! A node is started with labels (`mobula start --labels zone=a,disk=ssd`); work says which it
//! needs ([`NodeLabel`] in [`Strategy::NodeLabels`](crate::messages::Strategy)).

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The labels of a node: keys and values.
pub type Labels = BTreeMap<String, String>;

/// Labels of one node.
pub const MAX_LABELS: usize = 64;
/// Characters of a key, and of a value.
pub const MAX_LABEL_CHARS: usize = 63;

/// A label that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{label:?} is not a label: {why}")]
pub struct InvalidLabel {
    /// What was given.
    pub label: String,
    /// What is wrong with it.
    pub why: String,
}

/// Checks the labels of a node.
///
/// # Errors
/// [`InvalidLabel`], which names the first that makes no sense.
pub fn check(labels: &Labels) -> Result<(), InvalidLabel> {
    let invalid = |label: &str, why: String| Err(InvalidLabel { label: label.to_owned(), why });
    if labels.len() > MAX_LABELS {
        return invalid(&format!("{} labels", labels.len()), format!("a node has at most {MAX_LABELS}"));
    }
    for (key, value) in labels {
        for (what, text) in [("key", key), ("value", value)] {
            let allowed = |letter: char| letter.is_ascii_alphanumeric() || "-_./".contains(letter);
            if text.is_empty() || text.len() > MAX_LABEL_CHARS || !text.chars().all(allowed) {
                let why =
                    format!("its {what} must have 1 to {MAX_LABEL_CHARS} letters, digits, or characters of \"-_./\"");
                return invalid(&format!("{key}={value}"), why);
            }
        }
    }
    Ok(())
}

/// Reads `key=value,key=value`.
///
/// ```
/// let labels = mobula_core::labels::parse("zone=a,disk=ssd").unwrap();
/// assert_eq!(labels["disk"], "ssd");
/// assert!(mobula_core::labels::parse("zone").is_err());
/// ```
///
/// # Errors
/// [`InvalidLabel`].
pub fn parse(text: &str) -> Result<Labels, InvalidLabel> {
    let mut labels = Labels::new();
    for label in text.split(',').map(str::trim).filter(|label| !label.is_empty()) {
        let invalid = |why: &str| InvalidLabel { label: label.to_owned(), why: why.to_owned() };
        let (key, value) = label.split_once('=').ok_or_else(|| invalid("write it as key=value"))?;
        if labels.insert(key.trim().to_owned(), value.trim().to_owned()).is_some() {
            return Err(invalid("its key is given twice"));
        }
    }
    check(&labels)?;
    Ok(labels)
}

/// What work asks of a node's labels.
///
/// ```
/// use mobula_core::labels::{NodeLabel, parse};
/// let node = parse("zone=a,disk=ssd").unwrap();
/// assert!(NodeLabel::is_in("zone", ["a", "b"]).holds(&node));
/// // A node without the label is not among those that have this value.
/// assert!(NodeLabel::not_in("gpu", ["old"]).holds(&node));
/// assert!(NodeLabel::not_exists("gpu").holds(&node));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeLabel {
    key: String,
    rule: Rule,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
enum Rule {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    NotExists,
}

impl NodeLabel {
    /// The node's label has one of these values.
    pub fn is_in<V: Into<String>>(key: impl Into<String>, values: impl IntoIterator<Item = V>) -> Self {
        Self { key: key.into(), rule: Rule::In(sorted(values)) }
    }

    /// The node's label has none of these values; it may have no such label at all.
    pub fn not_in<V: Into<String>>(key: impl Into<String>, values: impl IntoIterator<Item = V>) -> Self {
        Self { key: key.into(), rule: Rule::NotIn(sorted(values)) }
    }

    /// The node has this label, whatever its value.
    pub fn exists(key: impl Into<String>) -> Self {
        Self { key: key.into(), rule: Rule::Exists }
    }

    /// The node does not have this label.
    pub fn not_exists(key: impl Into<String>) -> Self {
        Self { key: key.into(), rule: Rule::NotExists }
    }

    /// Whether a node with these labels is meant.
    pub fn holds(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        match &self.rule {
            Rule::In(values) => value.is_some_and(|value| values.contains(value)),
            Rule::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            Rule::Exists => value.is_some(),
            Rule::NotExists => value.is_none(),
        }
    }
}

/// In order, so that the same question has one form.
fn sorted<V: Into<String>>(values: impl IntoIterator<Item = V>) -> Vec<String> {
    let mut values: Vec<String> = values.into_iter().map(Into::into).collect();
    values.sort_unstable();
    values.dedup();
    values
}

impl fmt::Display for NodeLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.rule {
            Rule::In(values) => write!(f, "{} in ({})", self.key, values.join(", ")),
            Rule::NotIn(values) => write!(f, "{} not in ({})", self.key, values.join(", ")),
            Rule::Exists => write!(f, "{} exists", self.key),
            Rule::NotExists => write!(f, "{} does not exist", self.key),
        }
    }
}

/// These in words, one after the other.
pub(crate) fn in_words(labels: &[NodeLabel]) -> String {
    labels.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_by_every_kind_of_node() {
        let rules = [
            NodeLabel::is_in("k", ["b", "a", "a"]),
            NodeLabel::not_in("k", ["a"]),
            NodeLabel::exists("k"),
            NodeLabel::not_exists("k"),
        ];
        for (labels, expected) in [
            ("k=a", [true, false, true, false]),
            ("k=c", [false, true, true, false]),
            ("x=a", [false, true, false, true]),
        ] {
            let labels = parse(labels).unwrap();
            assert_eq!(rules.clone().map(|rule| rule.holds(&labels)), expected, "{labels:?}");
        }
        assert_eq!(in_words(&rules), "k in (a, b), k not in (a), k exists, k does not exist");
    }

    #[test]
    fn labels_that_make_no_sense_are_named() {
        assert!(parse("").unwrap().is_empty());
        let long = format!("k={}", "v".repeat(MAX_LABEL_CHARS + 1));
        let many = (0..=MAX_LABELS).map(|n| format!("k{n}=v")).collect::<Vec<_>>().join(",");
        for (text, part) in [
            ("zone", "key=value"),
            ("zone=", "value must"),
            ("=a", "key must"),
            ("a b=c", "key must"),
            ("a=1,a=2", "twice"),
            (&long, "63 letters"),
            (&many, "at most 64"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
