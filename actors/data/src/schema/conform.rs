//! From the batches of one file to those of the unified schema.

use std::sync::Arc;

use arrow::array::timezone::Tz;
use arrow::array::{Array, ArrayRef, AsArray, RecordBatchOptions, new_null_array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Int64Type, SchemaRef, TimeUnit, TimestampMicrosecondType, UInt64Type};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use arrow::temporal_conversions::timestamp_us_to_datetime;
use chrono::{Offset, TimeZone};

use super::{ColumnSource, local_timestamp};
use crate::hive;
use crate::words::plain;

/// Turns the batches that one file gives into batches of the unified schema.
#[derive(Debug, Clone)]
pub struct Conform {
    schema: SchemaRef,
    sources: Vec<ColumnSource>,
}

impl Conform {
    /// `sources` says, for every column of `schema`, which column of the file's batches it is.
    #[must_use]
    pub fn new(schema: SchemaRef, sources: Vec<ColumnSource>) -> Self {
        debug_assert_eq!(schema.fields().len(), sources.len());
        Self { schema, sources }
    }

    /// The batch with the unified columns. A failure names the column.
    pub fn apply(&self, batch: &RecordBatch) -> Result<RecordBatch, String> {
        let columns = self
            .schema
            .fields()
            .iter()
            .zip(&self.sources)
            .map(|(field, source)| match source {
                ColumnSource::File(index) => conform_array(batch.column(*index as usize), field.data_type())
                    .map_err(|e| format!("column {}: {}", field.name(), plain(&e))),
                ColumnSource::Missing | ColumnSource::Named(_) => {
                    Ok(new_null_array(field.data_type(), batch.num_rows()))
                }
                ColumnSource::Value(value) => hive::value_array(value, field.data_type(), batch.num_rows())
                    .map_err(|e| format!("column {}: {}", field.name(), plain(&e))),
            })
            .collect::<Result<Vec<_>, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options).map_err(|e| plain(&e))
    }
}

/// The values of a file's column as the unified type.
fn conform_array(array: &ArrayRef, to: &DataType) -> Result<ArrayRef, ArrowError> {
    let from = array.data_type();
    if from == to {
        return Ok(Arc::clone(array));
    }
    check_exact(array, to)?;
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    match (from, to) {
        (DataType::Timestamp(_, Some(zone)), DataType::Timestamp(TimeUnit::Microsecond, None)) => {
            // Casting to `None` would keep the instant in UTC; trips are told by the clock on
            // the wall of the zone they were written in.
            let zone: Tz = zone.parse()?;
            let instants = cast_with_options(array, &local_timestamp(), &strict)?;
            let instants = instants.as_primitive::<TimestampMicrosecondType>();
            Ok(Arc::new(instants.unary_opt::<_, TimestampMicrosecondType>(|us| wall_clock_us(us, zone))))
        }
        _ => cast_with_options(array, to, &strict),
    }
}

/// The wall-clock time of an instant in a zone; none for instants no calendar reaches.
fn wall_clock_us(instant_us: i64, zone: Tz) -> Option<i64> {
    let utc = timestamp_us_to_datetime(instant_us)?;
    let offset_s = zone.offset_from_utc_datetime(&utc).fix().local_minus_utc();
    instant_us.checked_add(i64::from(offset_s) * 1_000_000)
}

/// Checks that whole numbers stay what they are: a float64 holds all of them only up to 2^53.
fn check_exact(array: &ArrayRef, to: &DataType) -> Result<(), ArrowError> {
    let too_large = match (array.data_type(), to) {
        (DataType::Int64, DataType::Float64) => {
            let mut values = array.as_primitive::<Int64Type>().iter().flatten();
            values.find(|value| value.unsigned_abs() > EXACT_IN_FLOAT64).map(|value| value.to_string())
        }
        (DataType::UInt64, DataType::Float64) => {
            let mut values = array.as_primitive::<UInt64Type>().iter().flatten();
            values.find(|value| *value > EXACT_IN_FLOAT64).map(|value| value.to_string())
        }
        _ => None,
    };
    too_large.map_or(Ok(()), |value| {
        Err(ArrowError::CastError(format!(
            "{value} is a whole number here and the column has fractions in another file; float64, which both become, \
             cannot hold it"
        )))
    })
}

/// Up to here a float64 holds every whole number.
const EXACT_IN_FLOAT64: u64 = 1 << 53;

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int32Array, Int64Array, LargeStringArray, TimestampNanosecondArray, UInt64Array};
    use arrow::datatypes::{Field, Schema};

    #[test]
    fn zones_become_the_clock_on_the_wall() {
        // 2023-01-01T05:00Z and 2023-07-01T04:00Z are both midnight in New York.
        let instants = vec![1_672_549_200_000_000_000, 1_688_184_000_000_000_000];
        let array: ArrayRef =
            Arc::new(TimestampNanosecondArray::from(instants.clone()).with_timezone("America/New_York"));
        let local = conform_array(&array, &local_timestamp()).unwrap();
        let local = local.as_primitive::<TimestampMicrosecondType>();
        assert_eq!(local.values()[..], [1_672_531_200_000_000, 1_688_169_600_000_000]);
        let array: ArrayRef = Arc::new(TimestampNanosecondArray::from(instants).with_timezone("UTC"));
        let local = conform_array(&array, &local_timestamp()).unwrap();
        assert_eq!(local.as_primitive::<TimestampMicrosecondType>().value(0), 1_672_549_200_000_000);
    }

    #[test]
    fn a_whole_number_that_a_float_cannot_hold_is_refused() {
        let to = &DataType::Float64;
        let of = |values: Vec<Option<i64>>| conform_array(&(Arc::new(Int64Array::from(values)) as ArrayRef), to);
        let exact = of(vec![Some(1 << 53), None, Some(-(1 << 53))]).unwrap();
        assert_eq!(exact.null_count(), 1);
        assert!(of(vec![Some((1 << 53) + 1)]).unwrap_err().to_string().contains("9007199254740993"));
        let unsigned: ArrayRef = Arc::new(UInt64Array::from(vec![u64::MAX]));
        assert!(conform_array(&unsigned, to).is_err());
    }

    #[test]
    fn batches_conform() {
        let batch = RecordBatch::try_from_iter([
            ("n", Arc::new(Int32Array::from(vec![1, 2])) as ArrayRef),
            ("s", Arc::new(LargeStringArray::from(vec!["a", "b"])) as ArrayRef),
        ])
        .unwrap();
        let to = Arc::new(Schema::new(vec![
            Field::new("s", DataType::Utf8, true),
            Field::new("n", DataType::Float64, true),
            Field::new("none", DataType::Float64, true),
        ]));
        let conform =
            Conform::new(Arc::clone(&to), vec![ColumnSource::File(1), ColumnSource::File(0), ColumnSource::Missing]);
        let out = conform.apply(&batch).unwrap();
        assert_eq!(out.schema(), to);
        assert_eq!(out.column(2).null_count(), 2);
        let empty = Conform::new(Arc::new(Schema::empty()), vec![]).apply(&batch).unwrap();
        assert_eq!(empty.num_rows(), 2);
    }
}
