//! Some numbers of a row as one value.
//!
//! Entry type: [`Vector`]. What models are trained with is a list of numbers per row, all of the
//! same length: Arrow's fixed-size list, whose numbers lie one after the other in memory.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanBufferBuilder, FixedSizeListArray, PrimitiveArray};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{ArrowPrimitiveType, DataType, Field, FieldRef, Float32Type, Float64Type, Schema};
use arrow::record_batch::RecordBatch;
use datafusion_common::Result;
use datafusion_expr::ColumnarValue;
use datafusion_physical_expr::PhysicalExpr;

/// Values of one floating-point type, side by side. A null among them stays a null there.
#[derive(Debug, Eq)]
pub(super) struct Vector {
    values: Vec<Arc<dyn PhysicalExpr>>,
    /// 32 bits each; 64 otherwise.
    narrow: bool,
}

/// The type that the numbers of a vector have: 32-bit ones where no value needs more.
pub(super) fn element_type(types: &[DataType]) -> DataType {
    let fits = |t: &DataType| matches!(t, DataType::Float16 | DataType::Float32);
    if types.iter().all(fits) { DataType::Float32 } else { DataType::Float64 }
}

impl Vector {
    /// Of `values`, all of which have the type `element`.
    pub(super) fn new(values: Vec<Arc<dyn PhysicalExpr>>, element: &DataType) -> Self {
        Self { values, narrow: *element == DataType::Float32 }
    }

    fn item(&self) -> FieldRef {
        Arc::new(Field::new_list_field(if self.narrow { DataType::Float32 } else { DataType::Float64 }, true))
    }

    fn length(&self) -> i32 {
        i32::try_from(self.values.len()).unwrap_or(i32::MAX)
    }
}

/// The values of all columns, row after row.
fn side_by_side<T: ArrowPrimitiveType>(columns: &[ArrayRef], rows: usize) -> PrimitiveArray<T> {
    let columns: Vec<&PrimitiveArray<T>> = columns.iter().map(|column| column.as_primitive::<T>()).collect();
    let mut values = Vec::with_capacity(rows * columns.len());
    for row in 0..rows {
        values.extend(columns.iter().map(|column| column.values()[row]));
    }
    let nulls = columns.iter().any(|column| column.null_count() > 0).then(|| {
        let mut valid = BooleanBufferBuilder::new(values.len());
        for row in 0..rows {
            columns.iter().for_each(|column| valid.append(column.is_valid(row)));
        }
        NullBuffer::new(valid.finish())
    });
    PrimitiveArray::new(values.into(), nulls)
}

impl PhysicalExpr for Vector {
    fn data_type(&self, _: &Schema) -> Result<DataType> {
        Ok(DataType::FixedSizeList(self.item(), self.length()))
    }

    fn nullable(&self, _: &Schema) -> Result<bool> {
        Ok(false)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        let rows = batch.num_rows();
        let column = |value: &Arc<dyn PhysicalExpr>| value.evaluate(batch)?.into_array(rows);
        let columns = self.values.iter().map(column).collect::<Result<Vec<_>>>()?;
        let numbers: ArrayRef = match self.narrow {
            true => Arc::new(side_by_side::<Float32Type>(&columns, rows)),
            false => Arc::new(side_by_side::<Float64Type>(&columns, rows)),
        };
        let lists = FixedSizeListArray::try_new(self.item(), self.length(), numbers, None)?;
        Ok(ColumnarValue::Array(Arc::new(lists)))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        self.values.iter().collect()
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        Ok(Arc::new(Self { values: children, narrow: self.narrow }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Vector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("vector(")?;
        for (place, value) in self.values.iter().enumerate() {
            write!(f, "{}{value}", if place == 0 { "" } else { ", " })?;
        }
        f.write_str(")")
    }
}

// Derived, these would compare the pointers' types, which the compiler refuses.
impl PartialEq for Vector {
    fn eq(&self, other: &Self) -> bool {
        self.values.eq(&other.values) && self.narrow == other.narrow
    }
}

impl Hash for Vector {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.children().hash(state);
        self.narrow.hash(state);
    }
}
