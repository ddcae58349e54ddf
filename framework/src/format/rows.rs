//! Rows as values of a serde type.

use std::any::type_name;
use std::ops::{Deref, DerefMut};

use arrow::datatypes::{FieldRef, Schema};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use mobula_data::error::FormatError;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_arrow::ErrorKind;
use serde_arrow::schema::{SchemaLike, TracingOptions};

use super::{FromBatch, IntoBatch};

/// Rows of a dataset as values of a type with serde: each field is the column of its name. A field
/// that may be null is an `Option`; a column without a field is left out.
///
/// ```
/// use mobula::{Rows, from_rows, remote};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Trip { zone: String, fare: f64, tip: Option<f64> }
///
/// #[derive(Serialize, Deserialize)]
/// struct Priced { zone: String, total: f64 }
///
/// #[remote]
/// fn price(trips: Rows<Trip>) -> Rows<Priced> {
///     trips.map(|trip| Priced { total: trip.fare + trip.tip.unwrap_or(0.0), zone: trip.zone })
/// }
///
/// let priced = from_rows([Trip { zone: "JFK".to_owned(), fare: 52.0, tip: None }]).map_batches(price);
/// ```
///
/// The columns of a result follow from its type: `i32` is Arrow's `Int32`, `String` is `Utf8`, a
/// `Vec` a list, a struct a struct. Where serde cannot tell without a value (dates of chrono's, for
/// one), they follow from the rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rows<T>(Vec<T>);

impl<T> Rows<T> {
    /// The rows that `row` makes of these.
    pub fn map<U>(self, row: impl FnMut(T) -> U) -> Rows<U> {
        self.0.into_iter().map(row).collect()
    }

    /// The rows that `row` makes of these, any number of each.
    pub fn flat_map<I: IntoIterator>(self, row: impl FnMut(T) -> I) -> Rows<I::Item> {
        self.0.into_iter().flat_map(row).collect()
    }

    /// The rows for which `keep` is true.
    #[must_use]
    pub fn filter(mut self, keep: impl FnMut(&T) -> bool) -> Self {
        self.0.retain(keep);
        self
    }

    /// The rows as a vector.
    pub fn into_vec(self) -> Vec<T> {
        self.0
    }
}

impl<T> Default for Rows<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> From<Vec<T>> for Rows<T> {
    fn from(rows: Vec<T>) -> Self {
        Self(rows)
    }
}

impl<T> FromIterator<T> for Rows<T> {
    fn from_iter<I: IntoIterator<Item = T>>(rows: I) -> Self {
        Self(rows.into_iter().collect())
    }
}

impl<T> IntoIterator for Rows<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a, T> IntoIterator for &'a Rows<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl<T> Deref for Rows<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T> DerefMut for Rows<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.0
    }
}

impl<T: DeserializeOwned> FromBatch for Rows<T> {
    fn from_batch(batch: RecordBatch) -> Result<Self, FormatError> {
        rows_of(&batch).map(Self)
    }
}

impl<T: Serialize + DeserializeOwned> IntoBatch for Rows<T> {
    fn into_batch(self) -> Result<RecordBatch, FormatError> {
        let fields = match Vec::<FieldRef>::from_type::<T>(options()) {
            Ok(fields) => fields,
            Err(error) if self.0.is_empty() => {
                let (type_name, cause) = (type_name::<T>().to_owned(), error.to_string());
                return Err(FormatError::NoRows { type_name, cause });
            }
            Err(_) => traced(&self.0)?,
        };
        batch_of(&fields, &self.0)
    }
}

/// The rows of a batch.
pub(crate) fn rows_of<T: DeserializeOwned>(batch: &RecordBatch) -> Result<Vec<T>, FormatError> {
    serde_arrow::from_record_batch(batch).map_err(|error| failed::<T>(&error, batch.schema_ref()))
}

/// The rows as batches of so many at most, with the columns that all of them together tell.
pub(crate) fn traced_batches<T: Serialize>(rows: &[T], batch_rows: usize) -> Result<Vec<RecordBatch>, FormatError> {
    if rows.is_empty() {
        let (type_name, cause) = (type_name::<T>().to_owned(), "there are none".to_owned());
        return Err(FormatError::NoRows { type_name, cause });
    }
    let fields = traced(rows)?;
    rows.chunks(batch_rows).map(|rows| batch_of(&fields, rows)).collect()
}

/// The columns that rows tell.
fn traced<T: Serialize>(rows: &[T]) -> Result<Vec<FieldRef>, FormatError> {
    Vec::<FieldRef>::from_samples(rows, options().allow_null_fields(true))
        .map_err(|error| failed::<T>(&error, &Schema::empty()))
}

fn batch_of<T: Serialize>(fields: &[FieldRef], rows: &[T]) -> Result<RecordBatch, FormatError> {
    let schema = Schema::new(fields.to_vec());
    let columns = serde_arrow::to_arrow(fields, rows).map_err(|error| failed::<T>(&error, &schema))?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
    RecordBatch::try_new_with_options(schema.into(), columns, &options)
        .map_err(|error| FormatError::Rows { type_name: type_name::<T>().to_owned(), cause: error.to_string() })
}

/// The types that other parts of a dataset give to texts, lists and enums.
fn options() -> TracingOptions {
    TracingOptions::default()
        .strings_as_large_utf8(false)
        .bytes_as_large_binary(false)
        .sequence_as_large_list(false)
        .enums_without_data_as_strings(true)
}

/// The error of a conversion, naming the column where it tells.
fn failed<T>(error: &serde_arrow::Error, schema: &Schema) -> FormatError {
    let message = error.message();
    match error.kind() {
        ErrorKind::MissingField { field } => return missing(field, schema),
        ErrorKind::NullabilityViolation { field: Some(field) } => return FormatError::Null { column: top(field) },
        _ => {}
    }
    // Serde's own words for a field that is not there.
    if let Some((_, field)) = message.split_once("missing field `") {
        return missing(field.trim_end_matches('`'), schema);
    }
    match column_in(&error.to_string()) {
        Some(column) => FormatError::Column { column, cause: message.to_owned() },
        None => FormatError::Rows { type_name: type_name::<T>().to_owned(), cause: message.to_owned() },
    }
}

fn missing(column: &str, schema: &Schema) -> FormatError {
    let available = schema.fields().iter().map(|field| field.name().clone()).collect();
    FormatError::MissingColumn { column: column.to_owned(), available }
}

/// The column in the notes that serde_arrow adds to an error: `field: "$.trip.fare"`.
fn column_in(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("field: \"")?;
    let (path, _) = rest.split_once('"')?;
    Some(top(path)).filter(|column| !column.is_empty())
}

/// The column in the path of a field.
fn top(path: &str) -> String {
    let path = path.strip_prefix("$.").unwrap_or(path);
    path.split('.').next().unwrap_or_default().trim_matches('$').to_owned()
}
