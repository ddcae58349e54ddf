//! The place of a value in a list of constants.
//!
//! Entry type: [`IndexOf`]. A `case` over the constants would compare every row with every one of
//! them; here a row is looked up once, however many there are.

use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int64Array, Int64Builder};
use arrow::datatypes::{DataType, Schema};
use arrow::record_batch::RecordBatch;
use arrow::row::{RowConverter, SortField};
use arrow::util::display::array_value_to_string;
use datafusion_common::{DataFusionError, Result, ScalarValue};
use datafusion_expr::ColumnarValue;
use datafusion_physical_expr::PhysicalExpr;

/// The place, from 0, of a value among constants of its type. Null stays null.
#[derive(Debug)]
pub(super) struct IndexOf {
    value: Arc<dyn PhysicalExpr>,
    list: Vec<ScalarValue>,
    /// A value that is none of them is an error, and null otherwise.
    known: bool,
    places: Arc<Places>,
}

/// The constants by their keys in arrow's row format.
#[derive(Debug)]
struct Places {
    converter: RowConverter,
    by_key: HashMap<Box<[u8]>, i64>,
}

impl IndexOf {
    /// Of `value` among `list`, whose values have the type `data_type`, which is that of `value`.
    pub(super) fn new(
        value: Arc<dyn PhysicalExpr>,
        list: Vec<ScalarValue>,
        data_type: &DataType,
        known: bool,
    ) -> Result<Self> {
        let converter = RowConverter::new(vec![SortField::new(data_type.clone())])?;
        let mut by_key = HashMap::with_capacity(list.len());
        if !list.is_empty() {
            let constants = ScalarValue::iter_to_array(list.iter().cloned())?;
            let keys = converter.convert_columns(&[Arc::clone(&constants)])?;
            for (place, key) in (0_i64..).zip(keys.iter()) {
                if constants.is_valid(place as usize) {
                    by_key.entry(key.as_ref().into()).or_insert(place);
                }
            }
        }
        Ok(Self { value, list, known, places: Arc::new(Places { converter, by_key }) })
    }

    fn find(&self, values: &ArrayRef) -> Result<Int64Array> {
        let nulls = values.logical_nulls();
        let keys = self.places.converter.convert_columns(&[Arc::clone(values)])?;
        let mut found = Int64Builder::with_capacity(values.len());
        for (row, key) in keys.iter().enumerate() {
            if nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
                found.append_null();
                continue;
            }
            let place = self.places.by_key.get(key.as_ref()).copied();
            if self.known && place.is_none() {
                let value = array_value_to_string(values, row)?;
                return Err(DataFusionError::Execution(format!("{value:?} is none of the values that are known")));
            }
            found.append_option(place);
        }
        Ok(found.finish())
    }
}

impl PhysicalExpr for IndexOf {
    fn data_type(&self, _: &Schema) -> Result<DataType> {
        Ok(DataType::Int64)
    }

    fn nullable(&self, schema: &Schema) -> Result<bool> {
        Ok(!self.known || self.value.nullable(schema)?)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        let values = self.value.evaluate(batch)?.into_array(batch.num_rows())?;
        Ok(ColumnarValue::Array(Arc::new(self.find(&values)?)))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.value]
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        let value = children.into_iter().next().unwrap_or_else(|| Arc::clone(&self.value));
        let (list, places) = (self.list.clone(), Arc::clone(&self.places));
        Ok(Arc::new(Self { value, list, known: self.known, places }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for IndexOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({}", if self.known { "index_of_known" } else { "index_of" }, self.value)?;
        self.list.iter().try_for_each(|constant| write!(f, ", {constant}"))?;
        f.write_str(")")
    }
}

impl PartialEq for IndexOf {
    fn eq(&self, other: &Self) -> bool {
        self.value.eq(&other.value) && self.list == other.list && self.known == other.known
    }
}

impl Eq for IndexOf {}

impl Hash for IndexOf {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.value.hash(state);
        self.list.hash(state);
        self.known.hash(state);
    }
}
