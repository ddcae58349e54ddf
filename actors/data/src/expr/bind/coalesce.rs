//! The first value that is not null.
//!
//! Entry type: [`Coalesce`]. DataFusion's optimiser makes a `case` of it, which computes every
//! value twice; here each is computed once, and only for the rows that need it.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::compute::is_null;
use arrow::compute::kernels::zip::zip;
use arrow::datatypes::{DataType, Schema};
use arrow::record_batch::RecordBatch;
use datafusion_common::Result;
use datafusion_expr::ColumnarValue;
use datafusion_physical_expr::PhysicalExpr;

/// The first of some values that is not null; all have the same type.
#[derive(Debug, Eq)]
pub(super) struct Coalesce {
    first: Arc<dyn PhysicalExpr>,
    others: Vec<Arc<dyn PhysicalExpr>>,
}

impl Coalesce {
    pub(super) fn new(first: Arc<dyn PhysicalExpr>, others: Vec<Arc<dyn PhysicalExpr>>) -> Self {
        Self { first, others }
    }
}

impl PhysicalExpr for Coalesce {
    fn data_type(&self, schema: &Schema) -> Result<DataType> {
        self.first.data_type(schema)
    }

    fn nullable(&self, schema: &Schema) -> Result<bool> {
        for value in self.children() {
            if !value.nullable(schema)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        let mut values: ArrayRef = self.first.evaluate(batch)?.into_array(batch.num_rows())?;
        for other in &self.others {
            let missing = is_null(&values)?;
            if !missing.has_true() {
                break;
            }
            values = match other.evaluate_selection(batch, &missing)? {
                ColumnarValue::Array(other) => zip(&missing, &other, &values)?,
                ColumnarValue::Scalar(other) => zip(&missing, &other.to_scalar()?, &values)?,
            };
        }
        Ok(ColumnarValue::Array(values))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        std::iter::once(&self.first).chain(&self.others).collect()
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        let mut children = children.into_iter();
        let first = children.next().unwrap_or_else(|| Arc::clone(&self.first));
        Ok(Arc::new(Self::new(first, children.collect())))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Coalesce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "coalesce({}", self.first)?;
        self.others.iter().try_for_each(|other| write!(f, ", {other}"))?;
        f.write_str(")")
    }
}

// Derived, these would compare the pointers' types, which the compiler refuses.
impl PartialEq for Coalesce {
    fn eq(&self, other: &Self) -> bool {
        self.first.eq(&other.first) && self.others.eq(&other.others)
    }
}

impl Hash for Coalesce {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.children().hash(state);
    }
}
