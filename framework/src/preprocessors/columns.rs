//! Which columns a preprocessor reads, and where what it makes of them goes.

use std::collections::BTreeSet;

use mobula_data::executor::RunError;
use mobula_data::plan::Operator;
use mobula_data::{DataError, Expr};

/// Columns, each with a place for the result: its own unless told otherwise.
#[derive(Debug, Clone)]
pub(super) struct Pairs {
    inputs: Vec<String>,
    outputs: Option<Vec<String>>,
}

impl Pairs {
    pub(super) fn of(inputs: Vec<String>) -> Self {
        Self { inputs, outputs: None }
    }

    pub(super) fn set_outputs(&mut self, outputs: Vec<String>) {
        self.outputs = Some(outputs);
    }

    /// The columns, checked.
    pub(super) fn inputs(&self, preprocessor: &str) -> Result<&[String], RunError> {
        let outputs = self.outputs.as_ref().unwrap_or(&self.inputs);
        check(&self.inputs, outputs).map_err(|cause| invalid(preprocessor, cause))?;
        Ok(&self.inputs)
    }

    /// Where the results go, in the order of the columns.
    pub(super) fn outputs(&self) -> &[String] {
        self.outputs.as_ref().unwrap_or(&self.inputs)
    }
}

fn check(inputs: &[String], outputs: &[String]) -> Result<(), String> {
    if inputs.is_empty() {
        return Err("name a column".to_owned());
    }
    if let Some(twice) = twice(inputs) {
        return Err(format!("column {twice} is named twice"));
    }
    if let Some(twice) = twice(outputs) {
        return Err(format!("two columns would be called {twice}"));
    }
    if inputs.len() != outputs.len() {
        return Err(format!("{} columns are to become {}: name as many", inputs.len(), outputs.len()));
    }
    Ok(())
}

/// An operator that computes these columns of the rows as they are.
pub(super) fn computed(columns: impl IntoIterator<Item = (String, Expr)>) -> Operator {
    let mut columns: Vec<(String, Expr)> = columns.into_iter().collect();
    match columns.len() {
        1 => {
            let (name, value) = columns.swap_remove(0);
            Operator::WithColumn { name, value }
        }
        _ => Operator::WithColumns { columns },
    }
}

/// A name that is there twice.
pub(super) fn twice(names: &[String]) -> Option<&String> {
    let mut seen = BTreeSet::new();
    names.iter().find(|name| !seen.insert(*name))
}

/// What is wrong with a preprocessor itself, or with what it was to learn of.
pub(super) fn invalid(preprocessor: &str, cause: String) -> RunError {
    DataError::InvalidPlan { operator: preprocessor.to_owned(), cause }.into()
}

/// A column of which there is nothing to learn.
pub(super) fn nothing_in(preprocessor: &str, column: &str) -> RunError {
    invalid(preprocessor, format!("column {column} has no value to learn of: all are null, or there are no rows"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(inputs: &[&str], outputs: &[&str]) -> String {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let mut pairs = Pairs::of(owned(inputs));
        pairs.set_outputs(owned(outputs));
        pairs.inputs("StandardScaler").err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn results_do_not_overwrite_each_other() {
        assert_eq!(error(&["a", "b"], &["b", "c"]), "");
        assert_eq!(error(&[], &[]), "StandardScaler: name a column");
        assert_eq!(error(&["a", "a"], &["b", "c"]), "StandardScaler: column a is named twice");
        assert_eq!(error(&["a", "b"], &["c", "c"]), "StandardScaler: two columns would be called c");
        assert_eq!(error(&["a", "b"], &["c"]), "StandardScaler: 2 columns are to become 1: name as many");
    }
}
