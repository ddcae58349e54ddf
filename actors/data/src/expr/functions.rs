//! The functions that an expression may call by name: DataFusion's.
//!
//! Entry point: [`find`]. A function whose value is not decided by its arguments alone (`random`,
//! `now`) is refused: a task that is run again would give other rows than the first time, and
//! tasks would disagree about the time.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use datafusion_common::utils::datafusion_strsim::levenshtein;
use datafusion_expr::{ScalarUDF, Volatility};

/// The function called `name`, in any case. The error says what else there is.
pub(crate) fn find(name: &str) -> Result<Arc<ScalarUDF>, String> {
    let lower = name.to_ascii_lowercase();
    let Some(function) = FUNCTIONS.get(&lower) else {
        return Err(unknown(name, &[]));
    };
    if CASTS.contains(&function.name()) {
        return Err(format!("{name} is not available: use cast or try_cast"));
    }
    match function.signature().volatility {
        Volatility::Immutable => Ok(Arc::clone(function)),
        Volatility::Stable | Volatility::Volatile => Err(format!(
            "{name} is not decided by its arguments, so a task that is run again would give other values: pass a \
             constant instead"
        )),
    }
}

/// The function called `name`, even if [`find`] refuses it.
pub(crate) fn named(name: &str) -> Option<Arc<ScalarUDF>> {
    FUNCTIONS.get(&name.to_ascii_lowercase()).cloned()
}

/// All functions, without those that [`find`] refuses.
pub(crate) fn all() -> impl Iterator<Item = (&'static str, &'static Arc<ScalarUDF>)> {
    let all = FUNCTIONS.iter().filter(|(name, _)| find(name).is_ok());
    all.map(|(name, function)| (name.as_str(), function))
}

/// Says that there is no function `name`, and which of them and of `others` have a name like it.
pub(crate) fn unknown(name: &str, others: &[&str]) -> String {
    let lower = name.to_ascii_lowercase();
    let known = all().map(|(known, _)| known).chain(OWN).chain(others.iter().copied());
    let mut near: Vec<_> = known.map(|known| (levenshtein(&lower, known), known)).collect();
    near.retain(|(distance, known)| *distance <= lower.len().max(known.len()).div_ceil(3));
    near.sort_unstable();
    let near: Vec<_> = near.into_iter().take(NAMES_SHOWN).map(|(_, known)| known).collect();
    match near.is_empty() {
        true => format!("there is no function {name}"),
        false => format!("there is no function {name}; did you mean {}?", near.join(", ")),
    }
}

/// By name and by every other name, in lower case.
static FUNCTIONS: LazyLock<BTreeMap<String, Arc<ScalarUDF>>> = LazyLock::new(|| {
    let mut functions = BTreeMap::new();
    for function in datafusion_functions::all_default_functions() {
        for name in std::iter::once(function.name()).chain(function.aliases().iter().map(String::as_str)) {
            functions.insert(name.to_ascii_lowercase(), Arc::clone(&function));
        }
    }
    functions
});

/// Functions that DataFusion does not have; [`super::bind`] knows what they do.
const OWN: [&str; 4] = ["clip", "index_of", "index_of_known", "vector"];

/// Functions that DataFusion's optimiser makes casts of, and nothing else.
const CASTS: [&str; 4] = ["arrow_cast", "arrow_try_cast", "cast_to_type", "try_cast_to_type"];

/// How many names an error suggests.
const NAMES_SHOWN: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_is_found_by_any_of_its_names() {
        assert_eq!(find("LENGTH").unwrap().name(), "character_length");
        assert_eq!(find("pow").unwrap().name(), "power");
    }

    #[test]
    fn an_unknown_function_is_told_its_neighbours() {
        assert_eq!(find("uper").unwrap_err(), "there is no function uper; did you mean upper?");
        assert_eq!(find("zzzzzzzzzzzz").unwrap_err(), "there is no function zzzzzzzzzzzz");
    }

    #[test]
    fn a_function_that_gives_other_values_next_time_is_refused() {
        for name in ["random", "now", "uuid", "current_date"] {
            assert!(find(name).unwrap_err().contains("run again"), "{name}");
            assert!(all().all(|(known, _)| known != name));
        }
    }
}
