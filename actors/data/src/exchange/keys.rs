//! Columns as keys whose order is that of bytes.
//!
//! Entry type: [`Keys`], arrow's row format of some columns of a batch. Two rows are equal, or in
//! order, when their bytes are; the bytes mean the same in every process. Zeros are one key
//! whatever their sign, and so are all NaNs.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, PrimitiveArray};
use arrow::compute::SortOptions;
use arrow::datatypes::{ArrowPrimitiveType, DataType, Float16Type, Float32Type, Float64Type, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use arrow::row::{RowConverter, Rows, SortField};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::error::DataError;
use crate::plan::SortKey;
use crate::words::plain;

/// The key columns of batches of one schema.
pub struct Keys {
    converter: RowConverter,
    columns: Vec<usize>,
    operator: String,
}

impl Keys {
    /// The columns `keys` of `schema`; `operator` is named in errors.
    pub fn sorted(keys: &[SortKey], schema: &Schema, operator: &str) -> Result<Self, DataError> {
        let columns: Vec<usize> =
            keys.iter().map(|key| find(schema, &key.column, operator)).collect::<Result<_, _>>()?;
        let options = |key: &SortKey| SortOptions::new(key.descending, key.nulls_first);
        let field = |(column, key): (&usize, &SortKey)| {
            SortField::new_with_options(schema.field(*column).data_type().clone(), options(key))
        };
        let fields: Vec<SortField> = columns.iter().zip(keys).map(field).collect();
        if !RowConverter::supports_fields(&fields) {
            let names: Vec<&str> = keys.iter().map(|key| key.column.as_str()).collect();
            let cause = format!("{} cannot be ordered or compared: choose other columns", names.join(", "));
            return Err(DataError::InvalidPlan { operator: operator.into(), cause });
        }
        let failed = |e: arrow::error::ArrowError| failed(operator, &e);
        Ok(Self { converter: RowConverter::new(fields).map_err(failed)?, columns, operator: operator.into() })
    }

    /// The columns named, least values and then nulls last.
    pub fn grouped(keys: &[String], schema: &Schema, operator: &str) -> Result<Self, DataError> {
        let keys: Vec<SortKey> = keys.iter().map(SortKey::ascending).collect();
        Self::sorted(&keys, schema, operator)
    }

    /// The keys of a batch.
    pub fn rows(&self, batch: &RecordBatch) -> Result<Rows, DataError> {
        let columns: Vec<ArrayRef> = self.columns.iter().map(|column| one_zero(batch.column(*column))).collect();
        self.converter.convert_columns(&columns).map_err(|e| failed(&self.operator, &e))
    }
}

/// The batch with one zero and one NaN in its key columns, so that equal keys have equal bits.
pub fn normalised(batch: &RecordBatch, columns: &[usize], operator: &str) -> Result<RecordBatch, DataError> {
    let is_float = |column: &&usize| batch.column(**column).data_type().is_floating();
    if !columns.iter().any(|column| is_float(&column)) {
        return Ok(batch.clone());
    }
    let mut arrays = batch.columns().to_vec();
    for column in columns.iter().filter(is_float) {
        arrays[*column] = one_zero(&arrays[*column]);
    }
    RecordBatch::try_new(batch.schema(), arrays).map_err(|e| failed(operator, &e))
}

/// The part, of `parts`, to which the key `bytes` belongs.
#[must_use]
pub fn hash_part(bytes: &[u8], parts: u64) -> u64 {
    xxh3_64_with_seed(bytes, HASH_SEED) % parts.max(1)
}

/// Where `column` is in `schema`.
pub fn find(schema: &Schema, column: &str, operator: &str) -> Result<usize, DataError> {
    schema.index_of(column).map_err(|_| DataError::UnknownColumn {
        operator: operator.into(),
        column: column.into(),
        available: schema.fields().iter().map(|f| f.name().clone()).collect(),
    })
}

/// An error of a kernel while `operator` ran.
pub fn failed(operator: &str, error: &dyn std::fmt::Display) -> DataError {
    DataError::Compute { operator: operator.into(), path: String::new(), cause: plain(error) }
}

/// The same columns, any of which may be null: what one batch happens not to hold, the next may.
pub fn nullable(schema: &Schema) -> SchemaRef {
    let fields = schema.fields().iter().map(|f| f.as_ref().clone().with_nullable(true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// Floats with one zero and one NaN; other arrays stay as they are.
pub(super) fn one_zero(array: &ArrayRef) -> ArrayRef {
    match array.data_type() {
        DataType::Float16 => {
            float_with::<Float16Type>(array, |v| if v.is_nan() { half_nan() } else { v + half_zero() })
        }
        DataType::Float32 => float_with::<Float32Type>(array, |v| if v.is_nan() { f32::NAN } else { v + 0.0 }),
        DataType::Float64 => float_with::<Float64Type>(array, |v| if v.is_nan() { f64::NAN } else { v + 0.0 }),
        _ => Arc::clone(array),
    }
}

fn float_with<T: ArrowPrimitiveType>(array: &ArrayRef, change: impl Fn(T::Native) -> T::Native) -> ArrayRef {
    let changed: PrimitiveArray<T> = array.as_primitive::<T>().unary(change);
    Arc::new(changed)
}

fn half_nan() -> <Float16Type as ArrowPrimitiveType>::Native {
    <Float16Type as ArrowPrimitiveType>::Native::NAN
}

fn half_zero() -> <Float16Type as ArrowPrimitiveType>::Native {
    <Float16Type as ArrowPrimitiveType>::Native::ZERO
}

/// Part of the format of what lies between two stages: all processes of a run use the same.
const HASH_SEED: u64 = 0x6d6f_6275_6c61;

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Float64Array, Int64Array, StringArray};

    fn batch() -> RecordBatch {
        let floats = Float64Array::from(vec![Some(0.0), Some(-0.0), None, Some(f64::NAN), Some(-f64::NAN), Some(1.5)]);
        let texts = StringArray::from(vec!["a", "b", "a", "a", "a", "a"]);
        let columns = [("f", Arc::new(floats) as ArrayRef), ("t", Arc::new(texts) as ArrayRef)];
        RecordBatch::try_from_iter_with_nullable(columns.map(|(n, c)| (n, c, true))).unwrap()
    }

    #[test]
    fn zeros_are_one_key_and_so_are_nans() {
        let batch = batch();
        let rows = Keys::grouped(&["f".into()], &batch.schema(), "group_by").unwrap().rows(&batch).unwrap();
        assert_eq!(rows.row(0), rows.row(1));
        assert_eq!(rows.row(3), rows.row(4));
        assert!(rows.row(0) < rows.row(5) && rows.row(5) < rows.row(3) && rows.row(3) < rows.row(2));
        let normal = normalised(&batch, &[0], "group_by").unwrap();
        let values = normal.column(0).as_primitive::<Float64Type>();
        assert!(values.value(1).is_sign_positive() && values.value(4).to_bits() == f64::NAN.to_bits());
        assert!(values.is_null(2));
    }

    #[test]
    fn keys_have_directions_of_their_own() {
        let batch = batch();
        let keys = [SortKey::ascending("t"), SortKey::descending("f").with_nulls_first()];
        let rows = Keys::sorted(&keys, &batch.schema(), "sort").unwrap().rows(&batch).unwrap();
        let mut order: Vec<usize> = (0..6).collect();
        order.sort_by(|a, b| rows.row(*a).cmp(&rows.row(*b)));
        assert_eq!(order, [2, 3, 4, 5, 0, 1]);
    }

    #[test]
    fn an_unknown_key_is_named_with_those_that_exist() {
        let error = Keys::grouped(&["g".into()], &batch().schema(), "group_by g").err().unwrap();
        assert_eq!(error.to_string(), "group_by g: there is no column g; there are f, t");
    }

    #[test]
    fn a_key_is_hashed_the_same_everywhere() {
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
        let batch = RecordBatch::try_from_iter([("n", numbers)]).unwrap();
        let rows = Keys::grouped(&["n".into()], &batch.schema(), "x").unwrap().rows(&batch).unwrap();
        let parts: Vec<u64> = rows.iter().map(|row| hash_part(row.as_ref(), 1000)).collect();
        assert_eq!(parts, PINNED);
    }

    const PINNED: [u64; 3] = [954, 146, 741];
}
