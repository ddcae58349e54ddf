//! How errors speak: of names that are not there, and of what other libraries say.
//!
//! Entry types: [`Known`], the names that there are, with the one that was perhaps meant, and
//! [`plain`], what an error of arrow, Parquet or DataFusion says without the names of its kinds.

use std::fmt;

use datafusion_common::DataFusionError;

/// The names that there are where another one was looked for, as a sentence goes on. The one that was
/// perhaps meant comes first: behind a list as long as a wide table it would not be seen.
pub(crate) struct Known<'a> {
    wanted: &'a str,
    /// How the list begins.
    are: &'static str,
    names: &'a [String],
}

impl<'a> Known<'a> {
    /// ` (did you mean a?); there are a, b`.
    pub(crate) fn there_are(wanted: &'a str, names: &'a [String]) -> Self {
        Self { wanted, are: "there are", names }
    }

    /// ` (did you mean a?); it has a, b`.
    pub(crate) fn it_has(wanted: &'a str, names: &'a [String]) -> Self {
        Self { wanted, are: "it has", names }
    }
}

impl fmt::Display for Known<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = near(self.wanted, self.names) {
            write!(f, " (did you mean `{name}`?)")?;
        }
        write!(f, "; {} {}", self.are, Names(self.names))
    }
}

/// A list of names as a sentence shows it, cut where it would not be read any more.
struct Names<'a>(&'a [String]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        f.write_str(&self.0[..self.0.len().min(NAMES_SHOWN)].join(", "))?;
        match self.0.len().saturating_sub(NAMES_SHOWN) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// The name that was perhaps meant by `wanted`: at most a third of its letters are others, whatever
/// their case. What stands before a point is a table in SQL, and counts only where names are as near
/// without it.
fn near<'a>(wanted: &str, names: &'a [String]) -> Option<&'a str> {
    let wanted = wanted.to_lowercase();
    let own = last_part(&wanted);
    let distance = |name: &String| {
        let name = name.to_lowercase();
        let last = last_part(&name);
        let distance = edits(own, last);
        let most = own.chars().count().max(last.chars().count()) / 3;
        (distance <= most).then(|| (distance, edits(&wanted, &name)))
    };
    let near = names.iter().filter_map(|name| Some((distance(name)?, name)));
    near.min_by_key(|(distance, _)| *distance).map(|(_, name)| name.as_str())
}

fn last_part(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

/// How many letters have to be put in, left out, replaced, or swapped with their neighbours to make
/// `other` of `one`.
fn edits(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in other.iter().enumerate() {
            let mut least = (above[j] + usize::from(a != b)).min(above[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *a == other[j - 1] && one[i - 1] == *b {
                least = least.min(before[j - 1] + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[other.len()]
}

/// What an error of arrow, Parquet or DataFusion says, without the names of the kinds of errors that
/// hold it: they say which library it comes from, which helps nobody.
pub(crate) fn plain(error: &dyn fmt::Display) -> String {
    let text = error.to_string();
    let mut said = text.split(DataFusionError::BACK_TRACE_SEP).next().unwrap_or_default();
    while let Some(rest) = PREFIXES.iter().find_map(|prefix| said.strip_prefix(prefix)) {
        said = rest;
    }
    said.to_owned()
}

/// How many names an error lists before it only counts the rest.
const NAMES_SHOWN: usize = 40;

/// The names of kinds of errors: DataFusion's, arrow's and Parquet's.
const PREFIXES: [&str; 25] = [
    "Arrow error: ",
    "DataFusion error: ",
    "Execution error: ",
    "Error during planning: ",
    "External error: ",
    "IO error: ",
    "Schema error: ",
    "SQL error: ",
    "This feature is not implemented: ",
    "Cast error: ",
    "Compute error: ",
    "Csv error: ",
    "Invalid argument error: ",
    "Io error: ",
    "Ipc error: ",
    "Json error: ",
    "Memory error: ",
    "Not yet implemented: ",
    "Parquet argument error: ",
    "Parser error: ",
    "Arrow: ",
    "EOF: ",
    "External: ",
    "NYI: ",
    "Parquet error: ",
];

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::error::ArrowError;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn long_lists_are_cut() {
        let names: Vec<String> = (0..50).map(|i| format!("c{i}")).collect();
        assert!(Known::there_are("fare", &names).to_string().ends_with("c39 and 10 more"));
        assert_eq!(Known::there_are("fare", &[]).to_string(), "; there are none");
        // What was perhaps meant is told before them, though it is not among those that are shown.
        assert!(Known::it_has("c_49", &names).to_string().starts_with(" (did you mean `c49`?); it has c0, c1, "));
    }

    #[test]
    fn a_name_that_is_nearly_right_is_offered() {
        let known = names(&["fare_amount", "tip_amount", "trips.PULocationID", "zones.fare", "x", "type"]);
        for (wanted, meant) in [
            ("fare_amout", Some("fare_amount")),
            ("fare_ammount", Some("fare_amount")),
            ("fareAmount", Some("fare_amount")),
            ("Tip_Amount", Some("tip_amount")),
            ("pulocationid", Some("trips.PULocationID")),
            ("t.pulocation", Some("trips.PULocationID")),
            ("tpye", Some("type")),
            ("z.fare", Some("zones.fare")),
            ("X", Some("x")),
            ("y", None),
            ("passenger_count", None),
            ("", None),
        ] {
            assert_eq!(near(wanted, &known), meant, "{wanted}");
        }
        let told = Known::there_are("fare_amout", &known[..2]).to_string();
        assert_eq!(told, " (did you mean `fare_amount`?); there are fare_amount, tip_amount");
    }

    #[test]
    fn of_two_near_names_the_nearer_is_offered() {
        assert_eq!(near("amount2", &names(&["amount", "amount1", "amount_2"])), Some("amount"));
        assert_eq!(near("b.amount", &names(&["a.amount", "bb.amount"])), Some("a.amount"));
        assert_eq!(near("bb.amoun", &names(&["a.amount", "bb.amount"])), Some("bb.amount"));
    }

    #[test]
    fn letters_are_counted_that_are_others() {
        for (one, other, distance) in [
            ("", "", 0),
            ("abc", "abc", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("abc", "acb", 1),
            ("ab", "ba", 1),
            ("kitten", "sitting", 3),
            ("zürich", "zurich", 1),
        ] {
            assert_eq!(edits(one, other), distance, "{one} {other}");
        }
    }

    #[test]
    fn what_a_library_says_is_told_without_the_kinds_of_its_errors() {
        let cast = ArrowError::CastError("Cannot cast string 'x' to value of Int32 type".into());
        let within = DataFusionError::ArrowError(Box::new(cast), None);
        assert_eq!(plain(&within), "Cannot cast string 'x' to value of Int32 type");
        assert_eq!(plain(&DataFusionError::Execution("no".into())), "no");
        assert_eq!(plain(&ArrowError::ParquetError("Parquet error: EOF: short".into())), "short");
        assert_eq!(plain(&ArrowError::DivideByZero), "Divide by zero error");
        assert_eq!(plain(&"a cause: Arrow error: stays"), "a cause: Arrow error: stays");
    }
}
