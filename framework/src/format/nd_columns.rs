//! Columns as arrays of `ndarray`.

use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray, BooleanArray, FixedSizeListArray, PrimitiveArray};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::{self, ArrowNativeType, ArrowPrimitiveType, DataType, Field, Schema};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use mobula_data::error::FormatError;
use ndarray::{Array, Array1, ArrayView1, ArrayViewD, Dimension, IxDyn};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{FromBatch, IntoBatch};
use crate::value::Batch;

/// Rows of a dataset as named columns that are read and written as arrays of `ndarray`. Numbers are
/// looked at where they lie, and those that are put in are not copied either.
///
/// ```
/// use mobula::{FormatError, NdColumns, ndarray, remote};
///
/// #[remote]
/// fn tip_share(mut trips: NdColumns) -> Result<NdColumns, FormatError> {
///     let share = &trips.view::<f64>("tip")? / &trips.view::<f64>("fare")?;
///     trips.insert("share", share)?;
///     Ok(trips)
/// }
///
/// # fn main() -> Result<(), FormatError> {
/// let mut trips = NdColumns::default();
/// trips.insert("fare", ndarray::array![10.0, 8.0])?;
/// trips.insert("tip", ndarray::array![1.0, 2.0])?;
/// assert_eq!(tip_share.call(trips)?.view::<f64>("share")?, ndarray::array![0.1, 0.25]);
/// # Ok(())
/// # }
/// ```
///
/// A column of lists of one size (Arrow's `FixedSizeList`) is an array of more dimensions
/// ([`tensor`](Self::tensor)); the first one is always that of the rows. Columns of other types pass
/// through.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NdColumns {
    columns: Vec<(String, ArrayRef)>,
    rows: usize,
}

impl NdColumns {
    /// The names of the columns, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|(name, _)| name.as_str())
    }

    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The column as Arrow has it.
    ///
    /// # Errors
    /// [`FormatError::MissingColumn`].
    pub fn arrow(&self, column: &str) -> Result<&ArrayRef, FormatError> {
        let found = self.columns.iter().find(|(name, _)| name == column).map(|(_, values)| values);
        found.ok_or_else(|| FormatError::MissingColumn {
            column: column.to_owned(),
            available: self.names().map(str::to_owned).collect(),
        })
    }

    /// A column of numbers, in place.
    ///
    /// # Errors
    /// [`FormatError`], if there is no such column, it has another type, or nulls.
    pub fn view<N: NdNumber>(&self, column: &str) -> Result<ArrayView1<'_, N>, FormatError> {
        let values = numbers::<N>(column, self.arrow(column)?)?;
        no_nulls(column, values.null_count())?;
        Ok(ArrayView1::from(values.values().as_ref()))
    }

    /// A column of numbers, copied, with `null` in the place of nulls.
    ///
    /// # Errors
    /// [`FormatError`], if there is no such column or it has another type.
    pub fn filled<N: NdNumber>(&self, column: &str, null: N) -> Result<Array1<N>, FormatError> {
        let values = numbers::<N>(column, self.arrow(column)?)?;
        Ok(values.iter().map(|value| value.unwrap_or(null)).collect())
    }

    /// A column of booleans, copied: Arrow keeps them as bits.
    ///
    /// # Errors
    /// [`FormatError`], if there is no such column, it has another type, or nulls.
    pub fn bools(&self, column: &str) -> Result<Array1<bool>, FormatError> {
        let values = self.arrow(column)?;
        let bools = values.as_boolean_opt().ok_or_else(|| wrong_type(column, values, &DataType::Boolean))?;
        no_nulls(column, bools.null_count())?;
        Ok(bools.values().iter().collect())
    }

    /// A column of lists of numbers, all of one size, in place; the lists may have such lists in
    /// turn. The first dimension is that of the rows.
    ///
    /// # Errors
    /// [`FormatError`], if there is no such column, it has another type, or nulls.
    pub fn tensor<N: NdNumber>(&self, column: &str) -> Result<ArrayViewD<'_, N>, FormatError> {
        let (mut shape, mut values) = (vec![self.rows], self.arrow(column)?);
        let (mut first, mut len) = (0, self.rows);
        while let Some(lists) = values.as_fixed_size_list_opt() {
            no_nulls(column, lists.slice(first, len).null_count())?;
            let size = lists.value_length() as usize;
            (first, len) = (lists.value_offset(first) as usize, len * size);
            shape.push(size);
            values = lists.values();
        }
        let numbers = numbers::<N>(column, values)?;
        no_nulls(column, numbers.slice(first, len).null_count())?;
        let numbers = &numbers.values()[first..first + len];
        ArrayViewD::from_shape(IxDyn(&shape), numbers).map_err(|error| unfit(column, &error))
    }

    /// Adds a column, or replaces the one of that name in its place. The first dimension is that of
    /// the rows; more of them make lists.
    ///
    /// # Errors
    /// [`FormatError::Length`], if it has not as many rows as the others.
    pub fn insert<N: NdNumber, D: Dimension>(
        &mut self,
        column: impl Into<String>,
        values: Array<N, D>,
    ) -> Result<(), FormatError> {
        let column = column.into();
        let (shape, len) = (values.shape().to_vec(), values.len());
        let Some((rows, sizes)) = shape.split_first() else {
            return Err(unfit(&column, &"an array without dimensions has no rows"));
        };
        let numbers = if values.is_standard_layout() {
            let (numbers, first) = values.into_raw_vec_and_offset();
            ScalarBuffer::from(numbers).slice(first.unwrap_or(0), len)
        } else {
            values.iter().copied().collect()
        };
        let mut values: ArrayRef = Arc::new(PrimitiveArray::<N::Arrow>::new(numbers, None));
        for size in sizes.iter().rev() {
            let item = Arc::new(Field::new_list_field(values.data_type().clone(), false));
            let size = i32::try_from(*size).map_err(|error| unfit(&column, &error))?;
            let lists = FixedSizeListArray::try_new(item, size, values, None);
            values = Arc::new(lists.map_err(|error| unfit(&column, &error))?);
        }
        self.put(column, values, *rows)
    }

    /// [`insert`](Self::insert) for booleans.
    ///
    /// # Errors
    /// [`FormatError::Length`], if it has not as many rows as the others.
    pub fn insert_bools(&mut self, column: impl Into<String>, values: &Array1<bool>) -> Result<(), FormatError> {
        let bools: BooleanArray = values.iter().map(|value| Some(*value)).collect();
        self.put(column.into(), Arc::new(bools), values.len())
    }

    /// Adds a column of Arrow's, or replaces the one of that name in its place.
    ///
    /// # Errors
    /// [`FormatError::Length`], if it has not as many rows as the others.
    pub fn insert_arrow(&mut self, column: impl Into<String>, values: ArrayRef) -> Result<(), FormatError> {
        let rows = values.len();
        self.put(column.into(), values, rows)
    }

    /// Takes a column out.
    ///
    /// # Errors
    /// [`FormatError::MissingColumn`].
    pub fn remove(&mut self, column: &str) -> Result<ArrayRef, FormatError> {
        let values = Arc::clone(self.arrow(column)?);
        self.columns.retain(|(name, _)| name != column);
        Ok(values)
    }

    fn put(&mut self, column: String, values: ArrayRef, rows: usize) -> Result<(), FormatError> {
        let is_only = self.columns.iter().all(|(name, _)| *name == column);
        if rows != self.rows && !is_only {
            return Err(FormatError::Length { column, rows, expected: self.rows });
        }
        self.rows = rows;
        match self.columns.iter_mut().find(|(name, _)| *name == column) {
            Some((_, old)) => *old = values,
            None => self.columns.push((column, values)),
        }
        Ok(())
    }
}

impl FromBatch for NdColumns {
    fn from_batch(batch: RecordBatch) -> Result<Self, FormatError> {
        let fields = batch.schema_ref().fields().iter().map(|field| field.name().clone());
        Ok(Self { columns: fields.zip(batch.columns().iter().cloned()).collect(), rows: batch.num_rows() })
    }
}

impl IntoBatch for NdColumns {
    fn into_batch(self) -> Result<RecordBatch, FormatError> {
        let (fields, columns): (Vec<Field>, Vec<ArrayRef>) = self
            .columns
            .into_iter()
            .map(|(name, values)| (Field::new(name, values.data_type().clone(), true), values))
            .unzip();
        let options = RecordBatchOptions::new().with_row_count(Some(self.rows));
        RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)
            .map_err(|error| FormatError::Rows { type_name: "NdColumns".to_owned(), cause: error.to_string() })
    }
}

impl Serialize for NdColumns {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let batch = self.clone().into_batch().map_err(serde::ser::Error::custom)?;
        Batch::from(batch).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for NdColumns {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let batch = Batch::deserialize(deserializer)?.into_inner();
        Self::from_batch(batch).map_err(serde::de::Error::custom)
    }
}

/// A number that both Arrow and `ndarray` have.
pub trait NdNumber: sealed::Sealed + ArrowNativeType {
    #[doc(hidden)]
    type Arrow: ArrowPrimitiveType<Native = Self>;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! numbers {
    ($($number:ty => $arrow:ident,)*) => {$(
        impl sealed::Sealed for $number {}
        impl NdNumber for $number {
            type Arrow = datatypes::$arrow;
        }
    )*};
}

numbers! {
    i8 => Int8Type, i16 => Int16Type, i32 => Int32Type, i64 => Int64Type,
    u8 => UInt8Type, u16 => UInt16Type, u32 => UInt32Type, u64 => UInt64Type,
    f32 => Float32Type, f64 => Float64Type,
}

fn numbers<'a, N: NdNumber>(column: &str, values: &'a ArrayRef) -> Result<&'a PrimitiveArray<N::Arrow>, FormatError> {
    values.as_primitive_opt::<N::Arrow>().ok_or_else(|| wrong_type(column, values, &N::Arrow::DATA_TYPE))
}

fn wrong_type(column: &str, values: &ArrayRef, expected: &DataType) -> FormatError {
    let (found, expected) = (values.data_type().to_string(), expected.to_string());
    FormatError::WrongType { column: column.to_owned(), found, expected }
}

fn no_nulls(column: &str, nulls: usize) -> Result<(), FormatError> {
    if nulls == 0 { Ok(()) } else { Err(FormatError::Null { column: column.to_owned() }) }
}

fn unfit(column: &str, cause: &dyn std::fmt::Display) -> FormatError {
    FormatError::Column { column: column.to_owned(), cause: cause.to_string() }
}
