//! Ids as people give them.

use std::fmt;
use std::str::FromStr;

use mobula_transport::ProcessId;
use uuid::Uuid;

use crate::error::Error;

/// Digits of an id that are enough to name one thing, if they name only one.
const LEAST_DIGITS: usize = 4;

/// A task or call as lists name it: its owner's first digits, and its number there.
///
/// ```
/// use mobula_core::explain::TaskName;
/// let name: TaskName = "1f3a2b4c-17".parse().unwrap();
/// // The result of a task names it too.
/// assert_eq!("1f3a2b4c-17.0".parse::<TaskName>().unwrap(), name);
/// assert!("17".parse::<TaskName>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskName {
    owner: String,
    /// The owner's number for it.
    pub seq: u64,
}

impl TaskName {
    /// Whether this process may own it.
    pub fn is_of(&self, process: ProcessId) -> bool {
        process.to_string() == self.owner
    }

    /// The first digits of its owner.
    pub fn owner(&self) -> &str {
        &self.owner
    }
}

impl FromStr for TaskName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let parsed = || {
            let (owner, number) = text.split_once('-')?;
            let number = number.split_once('.').map_or(number, |(number, _)| number);
            let is_owner = owner.len() == 8 && owner.bytes().all(|digit| digit.is_ascii_hexdigit());
            Some(Self { owner: owner.to_ascii_lowercase(), seq: number.parse().ok().filter(|_| is_owner)? })
        };
        parsed().ok_or_else(|| Error::Invalid {
            what: format!(
                "{text:?} is not a task's id, which looks like 1f3a2b4c-17 (or 1f3a2b4c-17.0 of its result); `mobula \
                 list tasks` shows those that wait, run, or ended lately"
            ),
        })
    }
}

impl fmt::Display for TaskName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.owner, self.seq)
    }
}

/// The one of these that a person means by the beginning of its id.
pub(super) fn one_of(text: &str, what: &str, list: &str, known: impl Iterator<Item = Uuid>) -> Result<Uuid, Error> {
    let text = text.to_ascii_lowercase().replace('-', "");
    let hex = (LEAST_DIGITS..=32).contains(&text.len()) && text.bytes().all(|digit| digit.is_ascii_hexdigit());
    let invalid = |what: String| Error::Invalid { what };
    if !hex {
        return Err(invalid(format!(
            "{text:?} is not the id of {what}, which has 32 digits and letters (the first {LEAST_DIGITS} do, if no \
             other begins with them); `mobula list {list}` shows them"
        )));
    }
    let mut found = known.filter(|id| id.simple().to_string().starts_with(&text));
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one),
        (None, _) => Err(invalid(format!(
            "there is no {thing} {text}; `mobula list {list}` shows those that are known",
            thing = what.trim_start_matches("an ").trim_start_matches("a ")
        ))),
        (Some(_), Some(_)) => Err(invalid(format!("several begin with {text}: give more of the id of {what}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_named_by_its_owner_and_number() {
        let owner = ProcessId(Uuid::from_u128(0x1f3a_2b4c << 96));
        let name: TaskName = "1F3A2B4C-17.2".parse().unwrap();
        assert!(name.is_of(owner) && name.seq == 17 && name.to_string() == "1f3a2b4c-17");
        for wrong in ["", "17", "1f3a2b4c", "1f3a2b4c-", "1f3a2b4c-x", "xf3a2b4c-1", "1f-1"] {
            let error = wrong.parse::<TaskName>().unwrap_err().to_string();
            assert!(error.contains("1f3a2b4c-17") && error.contains("list tasks"), "{error}");
        }
    }

    #[test]
    fn the_beginning_of_an_id_is_enough_when_only_one_has_it() {
        let ids = [0xaaaa_1111_u128, 0xaaaa_2222, 0xbbbb_0000].map(|id| Uuid::from_u128(id << 96));
        let find = |text: &str| one_of(text, "an actor", "actors", ids.into_iter());
        assert_eq!(find("bbbb").unwrap(), ids[2]);
        assert_eq!(find("AAAA2").unwrap(), ids[1]);
        for (text, part) in
            [("aaaa", "several"), ("cccc", "no actor cccc"), ("aaa", "32 digits"), ("zzzz", "32 digits")]
        {
            let error = find(text).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
