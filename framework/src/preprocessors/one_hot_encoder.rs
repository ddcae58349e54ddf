//! Values to a column of 0 and 1 for each of them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use arrow::datatypes::Schema;
use mobula_data::executor::RunError;
use mobula_data::expr::ValueType;
use mobula_data::plan::Operator;
use mobula_data::{col, lit};
use serde::{Deserialize, Serialize};

use super::columns::{Pairs, computed, invalid, twice};
use super::counts::Counted;
use super::{Fitted, Preprocessor, Scalar};
use crate::Dataset;
use crate::dataset::Columns;

/// What it is called in errors.
pub(super) const NAME: &str = "OneHotEncoder";

/// Makes a column `city` with the values `Berlin` and `Bonn` two columns, `city_Berlin` and
/// `city_Bonn`, which are 1 where it has that value and 0 otherwise, and leaves `city` out. A value
/// that was not there when they were learned gives zeros only; null gives nulls. A column that is
/// called as one of them already is an error, where the columns are known before anything runs.
///
/// ```
/// use mobula::preprocessors::OneHotEncoder;
/// let encoder = OneHotEncoder::new(["city", "day"]).max_categories("city", 100);
/// ```
#[derive(Debug, Clone)]
pub struct OneHotEncoder {
    columns: Pairs,
    limits: BTreeMap<String, usize>,
}

/// A column that becomes several.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hot {
    /// The column.
    pub column: String,
    /// What it becomes, in the order of the values.
    pub outputs: Vec<OneHot>,
}

/// A column of 0 and 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OneHot {
    /// The value for which it is 1.
    pub value: Scalar,
    /// Its name.
    pub column: String,
}

impl OneHotEncoder {
    /// Encodes these columns.
    pub fn new(columns: impl Columns) -> Self {
        Self { columns: Pairs::of(columns.into_columns()), limits: BTreeMap::new() }
    }

    /// Makes a column of this one for its `most` most frequent values only. Of those that are as
    /// frequent as each other, the least come first.
    #[must_use]
    pub fn max_categories(mut self, column: impl Into<String>, most: usize) -> Self {
        self.limits.insert(column.into(), most);
        self
    }

    fn outputs(&self, column: &str, mut counted: Vec<Counted>) -> Vec<OneHot> {
        if let Some(most) = self.limits.get(column) {
            let mut order: Vec<usize> = (0..counted.len()).collect();
            order.sort_by_key(|place| Reverse(counted[*place].rows));
            order.truncate(*most);
            order.sort_unstable();
            counted = order.into_iter().map(|place| counted[place].clone()).collect();
        }
        let output = |counted: Counted| OneHot { column: format!("{column}_{}", counted.text), value: counted.value };
        counted.into_iter().map(output).collect()
    }
}

impl Preprocessor for OneHotEncoder {
    fn fit(&self, dataset: &Dataset) -> Result<Fitted, RunError> {
        let columns = self.columns.inputs(NAME)?;
        if let Some(other) = self.limits.keys().find(|limited| !columns.contains(limited)) {
            return Err(invalid(NAME, format!("column {other}, whose values are limited, is not encoded")));
        }
        let counted = columns.iter().zip(Counted::of(dataset, NAME, columns)?);
        let hot =
            counted.map(|(column, counted)| Hot { column: column.clone(), outputs: self.outputs(column, counted) });
        let hot: Vec<Hot> = hot.collect();
        let names: Vec<String> = hot.iter().flat_map(|hot| &hot.outputs).map(|one| one.column.clone()).collect();
        if let Some(name) = twice(&names) {
            return Err(invalid(NAME, format!("two columns would be called {name}: rename one of those encoded")));
        }
        // It would be left out with them.
        if let Some(name) = names.iter().find(|name| columns.contains(name)) {
            let cause = format!("{name} is one of the columns that are encoded, and would be one of values: rename it");
            return Err(invalid(NAME, cause));
        }
        Ok(Fitted::OneHotEncoder(hot))
    }
}

/// Whether rows of these columns have room for those of the values: what is there already would be
/// replaced otherwise.
pub(super) fn check(columns: &[Hot], schema: &Schema) -> Result<(), RunError> {
    let outputs: BTreeSet<&String> = columns.iter().flat_map(|hot| &hot.outputs).map(|one| &one.column).collect();
    match schema.fields().iter().find(|field| outputs.contains(field.name())) {
        Some(field) => {
            let cause = format!("there is a column {} already: rename it, or the one encoded", field.name());
            Err(invalid(NAME, cause))
        }
        None => Ok(()),
    }
}

pub(super) fn operators(columns: &[Hot]) -> Vec<Operator> {
    let one = |hot: &Hot, one: &OneHot| {
        (one.column.clone(), col(&hot.column).eq(lit(one.value.clone())).cast(ValueType::UInt8))
    };
    let ones = columns.iter().flat_map(|hot| hot.outputs.iter().map(|output| one(hot, output)));
    let encoded = columns.iter().map(|hot| hot.column.clone()).collect();
    vec![computed(ones), Operator::Drop { columns: encoded }]
}
