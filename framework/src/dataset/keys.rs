//! What may name columns.

use mobula_data::plan::SortKey;

/// One column or several: a name, or a list of names.
pub trait Columns {
    /// The names, in order.
    fn into_columns(self) -> Vec<String>;
}

impl Columns for &str {
    fn into_columns(self) -> Vec<String> {
        vec![self.to_owned()]
    }
}

impl Columns for String {
    fn into_columns(self) -> Vec<String> {
        vec![self]
    }
}

impl Columns for &String {
    fn into_columns(self) -> Vec<String> {
        vec![self.clone()]
    }
}

impl<S: Into<String>, const N: usize> Columns for [S; N] {
    fn into_columns(self) -> Vec<String> {
        self.into_iter().map(Into::into).collect()
    }
}

impl<S: Into<String>> Columns for Vec<S> {
    fn into_columns(self) -> Vec<String> {
        self.into_iter().map(Into::into).collect()
    }
}

impl<S: AsRef<str>> Columns for &[S] {
    fn into_columns(self) -> Vec<String> {
        self.iter().map(|name| name.as_ref().to_owned()).collect()
    }
}

/// What to sort by: a column, a [`SortKey`], or a list of either. A column's least values come
/// first, and its nulls last.
pub trait SortKeys {
    /// The keys, the most important first.
    fn into_sort_keys(self) -> Vec<SortKey>;
}

impl SortKeys for &str {
    fn into_sort_keys(self) -> Vec<SortKey> {
        vec![SortKey::ascending(self)]
    }
}

impl SortKeys for SortKey {
    fn into_sort_keys(self) -> Vec<SortKey> {
        vec![self]
    }
}

impl<const N: usize> SortKeys for [&str; N] {
    fn into_sort_keys(self) -> Vec<SortKey> {
        self.into_iter().map(SortKey::ascending).collect()
    }
}

impl<const N: usize> SortKeys for [SortKey; N] {
    fn into_sort_keys(self) -> Vec<SortKey> {
        self.into_iter().collect()
    }
}

impl SortKeys for Vec<SortKey> {
    fn into_sort_keys(self) -> Vec<SortKey> {
        self
    }
}
