//! What is computed for a group of rows.
//!
//! Entry type: [`Aggregate`], made by the functions of this module. It is plain data; how it is
//! computed is DataFusion's work ([`crate::exchange`] has the two halves, before and after the
//! exchange).

use std::fmt;

use serde::{Deserialize, Serialize};

/// A function over the rows of a group, and the name of the column it gives.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Aggregate {
    /// The function.
    pub function: AggregateFunction,
    /// The column it is computed of; none for a count of rows.
    pub column: Option<String>,
    /// The name of the result; `sum(fare)` and the like unless given.
    pub name: Option<String>,
    /// Nulls do not count. Otherwise one null makes the result null.
    pub ignore_nulls: bool,
}

/// What a group's rows are put into.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum AggregateFunction {
    /// How many rows, or how many values that are not null.
    Count,
    /// The sum.
    Sum,
    /// The mean.
    Mean,
    /// The least value; a NaN is greater than every number.
    Min,
    /// The greatest value.
    Max,
    /// The standard deviation of the sample (divided by n - 1); null for one value.
    Std,
    /// The variance of the sample (divided by n - 1); null for one value.
    Variance,
    /// The value in the middle, or the mean of the two there.
    Median,
    /// The value at this fraction of the sorted values, interpolated between its neighbours.
    Quantile(f64),
    /// How many different values.
    CountDistinct,
    /// The first value.
    First,
    /// The last value.
    Last,
    /// All values as a list, in order.
    Collect,
}

impl Aggregate {
    fn of(function: AggregateFunction, column: Option<String>) -> Self {
        Self { function, column, name: None, ignore_nulls: true }
    }

    /// Names the result.
    #[must_use]
    pub fn alias(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Whether nulls are left out (they are unless told otherwise); if not, one null makes the
    /// result null.
    #[must_use]
    pub fn ignore_nulls(mut self, ignore: bool) -> Self {
        self.ignore_nulls = ignore;
        self
    }

    /// The name of the column it gives.
    #[must_use]
    pub fn output(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.call())
    }

    fn call(&self) -> String {
        let column = self.column.as_deref().unwrap_or_default();
        match self.function {
            AggregateFunction::Quantile(q) => format!("quantile({column}, {q})"),
            function => format!("{}({column})", function.name()),
        }
    }
}

impl AggregateFunction {
    /// The name users know it by.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Sum => "sum",
            Self::Mean => "mean",
            Self::Min => "min",
            Self::Max => "max",
            Self::Std => "std",
            Self::Variance => "variance",
            Self::Median => "median",
            Self::Quantile(_) => "quantile",
            Self::CountDistinct => "count_distinct",
            Self::First => "first",
            Self::Last => "last",
            Self::Collect => "collect",
        }
    }
}

impl fmt::Display for Aggregate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{} as {name}", self.call()),
            None => f.write_str(&self.call()),
        }
    }
}

/// How many rows the group has; its column is called `count()`.
#[must_use]
pub fn count() -> Aggregate {
    Aggregate::of(AggregateFunction::Count, None)
}

macro_rules! of_column {
    ($($(#[$doc:meta])* $name:ident = $function:ident;)*) => {$(
        $(#[$doc])*
        pub fn $name(column: impl Into<String>) -> Aggregate {
            Aggregate::of(AggregateFunction::$function, Some(column.into()))
        }
    )*};
}

of_column! {
    /// How many values are not null.
    count_of = Count;
    /// The sum of the values. One of whole numbers that does not fit into 64 bits is an error.
    sum = Sum;
    /// Their mean.
    mean = Mean;
    /// The least of them.
    min = Min;
    /// The greatest of them.
    max = Max;
    /// The standard deviation of the sample.
    std = Std;
    /// The variance of the sample.
    variance = Variance;
    /// The value in the middle.
    median = Median;
    /// How many different values there are.
    count_distinct = CountDistinct;
    /// The first value.
    first = First;
    /// The last value.
    last = Last;
    /// All values as a list, in order.
    collect = Collect;
}

/// The value at the fraction `q` (0 to 1) of the sorted values.
pub fn quantile(column: impl Into<String>, q: f64) -> Aggregate {
    Aggregate::of(AggregateFunction::Quantile(q), Some(column.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_called_by_what_they_are() {
        assert_eq!(count().output(), "count()");
        assert_eq!(sum("B").output(), "sum(B)");
        assert_eq!(quantile("B", 0.5).output(), "quantile(B, 0.5)");
        assert_eq!(sum("B").alias("total").output(), "total");
        assert_eq!(sum("B").alias("total").to_string(), "sum(B) as total");
    }
}
