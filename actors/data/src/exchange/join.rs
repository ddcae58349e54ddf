//! Two sides put together by their keys.
//!
//! Entry types: [`JoinPlan`], which travels with a stage, and [`Joiner`], DataFusion's hash join
//! over the rows of one task: all of the right side is taken first, then the left side passes
//! by, in order.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::compute::kernels::zip::zip;
use arrow::compute::{cast, is_not_null};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion_common::{DataFusionError, JoinType, NullEquality};
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions::Column;
use datafusion_physical_plan::ExecutionPlan;
use datafusion_physical_plan::joins::{HashJoinExec, PartitionMode};
use serde::{Deserialize, Serialize};

use crate::error::DataError;
use crate::exchange::flow::{Feed, Flow, flow_error};
use crate::exchange::keys::{failed, find, normalised, nullable};
use crate::plan::{Join, JoinKind};
use crate::schema::{self, common_type};

/// Which rows of which columns are joined.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JoinPlan {
    join: Join,
    #[serde(with = "schema::wire")]
    left: SchemaRef,
    #[serde(with = "schema::wire")]
    right: SchemaRef,
}

impl JoinPlan {
    /// Checks that the keys are there and can be compared.
    pub fn new(join: &Join, left: &SchemaRef, right: &SchemaRef) -> Result<Self, DataError> {
        let plan = Self { join: join.clone(), left: Arc::clone(left), right: Arc::clone(right) };
        if join.left_on.len() != join.right_on.len() || join.left_on.is_empty() {
            let cause =
                format!("{} keys of the left side and {} of the right", join.left_on.len(), join.right_on.len());
            return Err(plan.invalid(format!("{cause}: name one or more of each, as many of both")));
        }
        plan.key_types()?;
        let schema = plan.schema()?;
        let mut names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            let cause = format!("two columns would be called {}: rename one, or choose another suffix", twice[0]);
            return Err(plan.invalid(cause));
        }
        Ok(plan)
    }

    /// The columns of the result: those of the left side, then those of the right side that are
    /// no keys. Where rows of the right side may stand alone, the keys come from either side.
    pub fn schema(&self) -> Result<SchemaRef, DataError> {
        let mut fields: Vec<Field> = Vec::new();
        let types = self.key_types()?;
        for field in self.left.fields() {
            let mut field = field.as_ref().clone();
            if self.keeps_right() {
                if let Some(key) = self.join.left_on.iter().position(|name| name == field.name()) {
                    field = field.with_data_type(types[key].clone());
                }
                field = field.with_nullable(true);
            }
            fields.push(field);
        }
        for index in self.right_columns() {
            let field = self.right.field(index);
            let taken = self.left.index_of(field.name()).is_ok();
            let suffix = if taken { self.join.suffix.as_str() } else { "" };
            let may_be_null = field.is_nullable() || matches!(self.join.kind, JoinKind::Left | JoinKind::Full);
            let name = format!("{}{suffix}", field.name());
            fields.push(Field::new(name, field.data_type().clone(), may_be_null));
        }
        Ok(Arc::new(Schema::new(fields)))
    }

    /// The operator, as the plan prints it.
    #[must_use]
    pub fn operator(&self) -> String {
        self.join.to_string()
    }

    /// The keys of the left side and of the right side.
    #[must_use]
    pub fn keys(&self) -> (&[String], &[String]) {
        (&self.join.left_on, &self.join.right_on)
    }

    /// The type in which each pair of keys is compared.
    pub fn key_types(&self) -> Result<Vec<DataType>, DataError> {
        let operator = self.operator();
        let pair = |(left, right): (&String, &String)| {
            let l = self.left.field(find(&self.left, left, &operator)?).data_type();
            let r = self.right.field(find(&self.right, right, &operator)?).data_type();
            common_type(l, r)
                .ok_or_else(|| self.invalid(format!("{left} is {l} and {right} is {r}: cast one of them first")))
        };
        self.join.left_on.iter().zip(&self.join.right_on).map(pair).collect()
    }

    fn invalid(&self, cause: String) -> DataError {
        DataError::InvalidPlan { operator: self.operator(), cause }
    }

    /// Whether rows of the right side may stand alone.
    fn keeps_right(&self) -> bool {
        matches!(self.join.kind, JoinKind::Right | JoinKind::Full)
    }

    /// The columns of the right side that are in the result.
    fn right_columns(&self) -> Vec<usize> {
        if matches!(self.join.kind, JoinKind::Semi | JoinKind::Anti) {
            return Vec::new();
        }
        let is_key = |name: &String| self.join.right_on.contains(name);
        (0..self.right.fields().len()).filter(|index| !is_key(self.right.field(*index).name())).collect()
    }

    /// Whether every row of the left side finds its partners where only the right side is whole.
    #[must_use]
    pub fn may_broadcast_right(&self) -> bool {
        !self.keeps_right()
    }

    /// DataFusion collects its left side, which is our right one.
    fn join_type(&self) -> JoinType {
        match self.join.kind {
            JoinKind::Inner => JoinType::Inner,
            JoinKind::Left => JoinType::Right,
            JoinKind::Right => JoinType::Left,
            JoinKind::Full => JoinType::Full,
            JoinKind::Semi => JoinType::RightSemi,
            JoinKind::Anti => JoinType::RightAnti,
        }
    }
}

/// The columns of a side with its keys behind them, in the types in which they are compared.
fn with_keys(columns: &SchemaRef, types: &[DataType]) -> SchemaRef {
    let key = |(place, data_type): (usize, &DataType)| Field::new(format!("\0key{place}"), data_type.clone(), true);
    let fields = nullable(columns).fields().iter().map(|f| f.as_ref().clone()).collect::<Vec<_>>();
    Arc::new(Schema::new(fields.into_iter().chain(types.iter().enumerate().map(key)).collect::<Vec<_>>()))
}

/// Joins the rows of one task.
pub struct Joiner {
    plan: JoinPlan,
    operator: String,
    types: Vec<DataType>,
    result: SchemaRef,
    left: Feed,
    right: Feed,
    flow: Flow,
}

impl Joiner {
    /// Ready for the right side.
    pub fn new(plan: &JoinPlan) -> Result<Self, DataError> {
        let operator = plan.operator();
        let fail = |e: DataFusionError| flow_error(&operator, &e);
        let types = plan.key_types()?;
        let left = Feed::new(with_keys(&plan.left, &types));
        let right = Feed::new(with_keys(&plan.right, &types));
        let key = |side: &SchemaRef, place: usize| {
            let index = side.fields().len() - types.len() + place;
            Arc::new(Column::new(side.field(index).name(), index)) as Arc<dyn PhysicalExpr>
        };
        let on = (0..types.len()).map(|place| (key(&right.columns(), place), key(&left.columns(), place))).collect();
        let exec = HashJoinExec::try_new(
            right.plan().map_err(fail)?,
            left.plan().map_err(fail)?,
            on,
            None,
            &plan.join_type(),
            None,
            PartitionMode::CollectLeft,
            NullEquality::NullEqualsNothing,
            false,
        );
        let exec: Arc<dyn ExecutionPlan> = Arc::new(exec.map_err(fail)?);
        let flow = Flow::start(&exec, &operator)?;
        Ok(Self { plan: plan.clone(), result: plan.schema()?, operator, types, left, right, flow })
    }

    /// Rows of the right side.
    pub fn push_right(&mut self, batch: &RecordBatch) -> Result<(), DataError> {
        let batch = self.keyed(batch, &self.plan.join.right_on, &self.right.columns())?;
        self.right.push(batch);
        Ok(())
    }

    /// The right side is whole.
    pub fn end_right(&self) {
        self.right.end();
    }

    /// Rows of the left side; what belongs to them.
    pub fn push_left(&mut self, batch: &RecordBatch) -> Result<Vec<RecordBatch>, DataError> {
        let batch = self.keyed(batch, &self.plan.join.left_on, &self.left.columns())?;
        self.left.push(batch);
        let given = self.flow.drain()?;
        given.iter().map(|batch| self.shape(batch)).collect()
    }

    /// The next of what is left when the left side has ended.
    pub fn rest(&mut self) -> Result<Option<RecordBatch>, DataError> {
        self.left.end();
        let batch = self.flow.rest()?;
        batch.map(|batch| self.shape(&batch)).transpose()
    }

    /// The most bytes that it has held at once: the right side and its hash table, mostly.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.flow.memory_bytes()
    }

    fn keyed(&self, batch: &RecordBatch, keys: &[String], schema: &SchemaRef) -> Result<RecordBatch, DataError> {
        let fail = |e: arrow::error::ArrowError| failed(&self.operator, &e);
        let mut columns = batch.columns().to_vec();
        for (key, data_type) in keys.iter().zip(&self.types) {
            let column = batch.column(find(batch.schema_ref(), key, &self.operator)?);
            columns.push(cast(column, data_type).map_err(fail)?);
        }
        let keyed = RecordBatch::try_new(Arc::clone(schema), columns).map_err(fail)?;
        let places: Vec<usize> = (batch.num_columns()..keyed.num_columns()).collect();
        normalised(&keyed, &places, &self.operator)
    }

    /// What DataFusion gives, with the columns of the result.
    fn shape(&self, batch: &RecordBatch) -> Result<RecordBatch, DataError> {
        let fail = |e: arrow::error::ArrowError| failed(&self.operator, &e);
        let plan = &self.plan;
        let (left_width, right_width) = (plan.left.fields().len(), plan.right.fields().len());
        let only_left = matches!(plan.join.kind, JoinKind::Semi | JoinKind::Anti);
        let left_start = if only_left { 0 } else { right_width + self.types.len() };
        let mut columns: Vec<ArrayRef> = batch.columns()[left_start..left_start + left_width].to_vec();
        if plan.keeps_right() {
            for (place, key) in plan.join.left_on.iter().enumerate() {
                let (ours, theirs) = (batch.column(left_start + left_width + place), batch.column(right_width + place));
                let either = zip(&is_not_null(ours).map_err(fail)?, ours, theirs).map_err(fail)?;
                columns[find(&plan.left, key, &self.operator)?] = either;
            }
        }
        columns.extend(plan.right_columns().into_iter().map(|index| Arc::clone(batch.column(index))));
        RecordBatch::try_new(Arc::clone(&self.result), columns).map_err(fail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int32Array, Int64Array, StringArray};
    use arrow::util::display::array_value_to_string;

    fn side(keys: &[Option<i64>], name: &str, values: &[&str]) -> RecordBatch {
        let keys: ArrayRef = Arc::new(Int64Array::from(keys.to_vec()));
        let values: ArrayRef = Arc::new(StringArray::from(values.to_vec()));
        RecordBatch::try_from_iter_with_nullable([("id", keys, true), (name, values, true)]).unwrap()
    }

    fn join(kind: JoinKind) -> Join {
        Join { kind, left_on: vec!["id".into()], right_on: vec!["id".into()], suffix: "_right".into() }
    }

    fn run(kind: JoinKind) -> Vec<String> {
        let left = side(&[Some(1), Some(2), None, Some(2)], "l", &["a", "b", "c", "d"]);
        let right = side(&[Some(2), Some(3), None, Some(2)], "r", &["x", "y", "z", "w"]);
        let plan = JoinPlan::new(&join(kind), &left.schema(), &right.schema()).unwrap();
        let mut joiner = Joiner::new(&plan).unwrap();
        joiner.push_right(&right).unwrap();
        joiner.end_right();
        let mut given = joiner.push_left(&left.slice(0, 2)).unwrap();
        given.extend(joiner.push_left(&left.slice(2, 2)).unwrap());
        while let Some(batch) = joiner.rest().unwrap() {
            given.push(batch);
        }
        let row = |batch: &RecordBatch, row: usize| {
            batch.columns().iter().map(|c| array_value_to_string(c, row).unwrap()).collect::<Vec<_>>().join(" ")
        };
        let mut rows: Vec<String> =
            given.iter().flat_map(|batch| (0..batch.num_rows()).map(move |r| row(batch, r))).collect();
        rows.sort();
        rows
    }

    #[test]
    fn every_kind_keeps_its_rows_and_null_equals_nothing() {
        let both = ["2 b w", "2 b x", "2 d w", "2 d x"];
        let with = |more: &[&str]| {
            let mut rows: Vec<String> = both.iter().chain(more).map(|row| (*row).to_owned()).collect();
            rows.sort();
            rows
        };
        assert_eq!(run(JoinKind::Inner), with(&[]));
        assert_eq!(run(JoinKind::Left), with(&["1 a ", " c "]));
        assert_eq!(run(JoinKind::Right), with(&["3  y", "  z"]));
        assert_eq!(run(JoinKind::Full), with(&["1 a ", " c ", "3  y", "  z"]));
        assert_eq!(run(JoinKind::Semi), ["2 b", "2 d"]);
        assert_eq!(run(JoinKind::Anti), [" c", "1 a"]);
    }

    #[test]
    fn keys_of_different_types_and_names_meet() {
        let left = side(&[Some(1), Some(2)], "name", &["a", "b"]);
        let keys: ArrayRef = Arc::new(Int32Array::from(vec![2, 5]));
        let names: ArrayRef = Arc::new(StringArray::from(vec!["x", "y"]));
        let right = RecordBatch::try_from_iter([("zone", keys), ("name", names)]).unwrap();
        let by = Join { right_on: vec!["zone".into()], ..join(JoinKind::Inner) };
        let plan = JoinPlan::new(&by, &left.schema(), &right.schema()).unwrap();
        let names: Vec<String> = plan.schema().unwrap().fields().iter().map(|f| f.name().clone()).collect();
        assert_eq!(names, ["id", "name", "name_right"]);
        let mut joiner = Joiner::new(&plan).unwrap();
        joiner.push_right(&right).unwrap();
        joiner.end_right();
        let given = joiner.push_left(&left).unwrap();
        let mut rows: usize = given.iter().map(RecordBatch::num_rows).sum();
        while let Some(batch) = joiner.rest().unwrap() {
            rows += batch.num_rows();
        }
        assert_eq!(rows, 1);
    }

    #[test]
    fn what_cannot_be_compared_is_told_before() {
        let left = side(&[Some(1)], "l", &["a"]).schema();
        let error = |join: &Join| JoinPlan::new(join, &left, &left).unwrap_err().to_string();
        let by = Join { right_on: vec!["l".into()], ..join(JoinKind::Inner) };
        assert_eq!(error(&by), "inner join on id = l: id is Int64 and l is Utf8: cast one of them first");
        let none = Join { left_on: vec![], right_on: vec![], ..join(JoinKind::Inner) };
        assert!(error(&none).contains("0 keys"));
        let clash = Join { suffix: String::new(), ..join(JoinKind::Inner) };
        assert!(error(&clash).contains("two columns would be called l"));
    }
}
