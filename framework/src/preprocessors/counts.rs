//! Which values columns have, and how often.
//!
//! Entry type: [`Counted`]. One run counts for all columns: every batch becomes a row for each of
//! its values, which says whose it is, and these are grouped and added up.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int32Array, Int64Array, UInt32Array, new_null_array};
use arrow::compute::{concat, take};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use arrow::row::{Row, RowConverter, SortField};
use arrow::util::display::array_value_to_string;
use mobula_data::aggregate;
use mobula_data::executor::RunError;

use super::Scalar;
use super::columns::{invalid, nothing_in};
use super::learned::named;
use crate::{Dataset, remote};

/// A value of a column.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Counted {
    pub(super) value: Scalar,
    /// The value as people write it.
    pub(super) text: String,
    pub(super) rows: u64,
}

impl Counted {
    /// The values of each of `columns`, in order; nulls do not count. A column without any is an
    /// error.
    pub(super) fn of(dataset: &Dataset, preprocessor: &str, columns: &[String]) -> Result<Vec<Vec<Self>>, RunError> {
        let keys = (0..columns.len()).map(value_name);
        let counted = dataset
            .clone()
            .select(columns)
            .map_batches(count_values.with(columns.to_vec()))
            .group_by(std::iter::once(WHICH.to_owned()).chain(keys).collect::<Vec<_>>())
            .aggregate([aggregate::sum(COUNT).alias(COUNT)])
            .to_arrow()
            .map_err(|error| named(error, preprocessor))?;
        columns.iter().enumerate().map(|(place, column)| values(&counted, preprocessor, place, column)).collect()
    }
}

/// The values of the column at `place`, whose rows stand together.
fn values(counted: &RecordBatch, preprocessor: &str, place: usize, column: &str) -> Result<Vec<Counted>, RunError> {
    let which = counted.column(0).as_primitive::<Int32Type>().values();
    let ours = |of: &i32| *of < place as i32;
    let start = which.partition_point(ours);
    let rows = which.partition_point(|of| *of <= place as i32) - start;
    if rows == 0 {
        return Err(nothing_in(preprocessor, column));
    }
    let found = counted.column(1 + place).slice(start, rows);
    let counts = counted.column(counted.num_columns() - 1).slice(start, rows);
    let no_constant = || {
        let cause = format!("column {column} is {}, whose values cannot be told apart", found.data_type());
        invalid(preprocessor, cause)
    };
    let value = |(row, rows): (usize, &i64)| {
        let value = Scalar::in_row(&found, row).ok_or_else(no_constant)?;
        let text = array_value_to_string(&found, row).map_err(|_| no_constant())?;
        Ok(Counted { value, text, rows: rows.unsigned_abs() })
    };
    counts.as_primitive::<Int64Type>().values().iter().enumerate().map(value).collect()
}

/// A row for each value of each of `columns`: which of them it is of, the value under the name of
/// that column's place, and how often it is there.
#[remote]
fn count_values(batch: RecordBatch, columns: Vec<String>) -> Result<RecordBatch, ArrowError> {
    let found = columns.iter().map(|name| distinct(&batch, name)).collect::<Result<Vec<_>, _>>()?;
    let total: usize = found.iter().map(|(_, counts)| counts.len()).sum();
    let mut fields = vec![Field::new(WHICH, DataType::Int32, true)];
    let which = found.iter().enumerate().flat_map(|(place, (_, counts))| vec![place as i32; counts.len()]);
    let mut arrays: Vec<ArrayRef> = vec![Arc::new(Int32Array::from_iter_values(which))];
    let mut before = 0;
    for (place, (values, counts)) in found.iter().enumerate() {
        let nulls = |rows: usize| new_null_array(values.data_type(), rows);
        let (first, last) = (nulls(before), nulls(total - before - counts.len()));
        before += counts.len();
        fields.push(Field::new(value_name(place), values.data_type().clone(), true));
        arrays.push(concat(&[&first, values, &last])?);
    }
    fields.push(Field::new(COUNT, DataType::Int64, true));
    arrays.push(Arc::new(Int64Array::from_iter_values(found.into_iter().flat_map(|(_, counts)| counts))));
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)
}

/// The values of a column in the order in which they come, and how often each does.
fn distinct(batch: &RecordBatch, name: &str) -> Result<(ArrayRef, Vec<i64>), ArrowError> {
    let column = batch.column(batch.schema().index_of(name)?);
    let field = SortField::new(column.data_type().clone());
    if !RowConverter::supports_fields(std::slice::from_ref(&field)) {
        let cause = format!("column {name} is {}, whose values cannot be told apart", column.data_type());
        return Err(ArrowError::InvalidArgumentError(cause));
    }
    let keys = RowConverter::new(vec![field])?.convert_columns(&[Arc::clone(column)])?;
    let nulls = column.logical_nulls();
    let mut seen: HashMap<Row<'_>, usize> = HashMap::new();
    let (mut firsts, mut counts): (Vec<u32>, Vec<i64>) = (Vec::new(), Vec::new());
    for (row, key) in keys.iter().enumerate() {
        if nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
            continue;
        }
        match seen.entry(key) {
            Entry::Occupied(place) => counts[*place.get()] += 1,
            Entry::Vacant(place) => {
                place.insert(counts.len());
                firsts.push(row as u32);
                counts.push(1);
            }
        }
    }
    Ok((take(column, &UInt32Array::from(firsts), None)?, counts))
}

fn value_name(place: usize) -> String {
    format!("value {place}")
}

const WHICH: &str = "which";
const COUNT: &str = "count";
