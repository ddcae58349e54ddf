//! Decoding the other columns of those rows only for which a condition is true, where few are.
//!
//! The columns of the condition are then decoded twice, and rows picked out of pages one by one.
//! On trips that takes half the time where three rows in a thousand are kept, and three times as
//! much where one in twelve is. So the first rows are looked at, and it is done for rare rows
//! only.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::BooleanArray;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowPredicateFn, ArrowReaderMetadata, ParquetRecordBatchReaderBuilder, RowFilter, RowSelection,
};

use super::in_file;
use crate::expr::{BoundExpr, Expr};
use crate::schema::{ColumnSource, Conform};
use crate::source_file::OpenFile;

/// A filter of the rows of `groups` for the reader, if `filter` keeps few of the first rows.
pub(super) fn row_filter(
    file: &OpenFile,
    metadata: &ArrowReaderMetadata,
    groups: Range<usize>,
    selection: Option<&RowSelection>,
    filter: &Expr,
    schema: &SchemaRef,
    columns: &[ColumnSource],
) -> Option<RowFilter> {
    let condition = Condition::new(filter, schema, columns)?;
    let all = columns.iter().filter_map(in_file).count();
    let rows = metadata.metadata().row_groups().get(groups.clone())?.iter().map(|group| group.num_rows()).sum::<i64>();
    if condition.roots.len() * 2 > all || usize::try_from(rows).ok()? < SAMPLE_ROWS * SAMPLES_AT_LEAST {
        return None;
    }
    let parquet_schema = metadata.parquet_schema();
    let projection = ProjectionMask::roots(parquet_schema, condition.roots.iter().copied());
    let mut sample = ParquetRecordBatchReaderBuilder::new_with_metadata(file.again().ok()?, metadata.clone())
        .with_row_groups(groups.collect())
        .with_projection(projection.clone())
        .with_batch_size(SAMPLE_ROWS)
        .with_limit(SAMPLE_ROWS);
    if let Some(selection) = selection {
        sample = sample.with_row_selection(selection.clone());
    }
    let (mut seen, mut kept) = (0, 0);
    for batch in sample.build().ok()? {
        let mask = condition.mask(&batch.ok()?)?;
        seen += mask.len();
        kept += mask.true_count();
    }
    if kept * RARE > seen {
        return None;
    }
    let predicate = move |batch: RecordBatch| {
        // What the condition fails on is kept: whoever evaluates it again will say what it is.
        let all = || BooleanArray::from(vec![true; batch.num_rows()]);
        Ok(condition.mask(&batch).unwrap_or_else(all))
    };
    Some(RowFilter::new(vec![Box::new(ArrowPredicateFn::new(projection, predicate))]))
}

/// A condition over the columns of a file.
struct Condition {
    /// The columns of the file that it needs, sorted.
    roots: Vec<usize>,
    conform: Conform,
    bound: BoundExpr,
}

impl Condition {
    fn new(filter: &Expr, schema: &SchemaRef, columns: &[ColumnSource]) -> Option<Condition> {
        let names = filter.columns();
        let indices: Vec<usize> = names.iter().map(|name| schema.index_of(name).ok()).collect::<Option<_>>()?;
        let own: Vec<&ColumnSource> = indices.iter().map(|i| columns.get(*i)).collect::<Option<_>>()?;
        let mut roots: Vec<usize> = own.iter().filter_map(|source| in_file(source)).collect();
        roots.sort_unstable();
        if roots.is_empty() {
            return None;
        }
        let place = |source: &ColumnSource| match in_file(source).map(|root| roots.binary_search(&root)) {
            Some(Ok(place)) => ColumnSource::File(place as u32),
            _ => source.clone(),
        };
        let schema = Arc::new(schema.project(&indices).ok()?);
        let bound = BoundExpr::bind_condition(filter, &schema, "read_parquet").ok()?;
        let conform = Conform::new(schema, own.into_iter().map(place).collect());
        Some(Condition { roots, conform, bound })
    }

    /// The rows for which it is true; none if it cannot be evaluated.
    fn mask(&self, batch: &RecordBatch) -> Option<BooleanArray> {
        self.bound.evaluate_mask(&self.conform.apply(batch).ok()?).ok()
    }
}

/// Rows that are looked at.
const SAMPLE_ROWS: usize = 4096;
/// So many times as many rows there must be, for looking at some to cost nothing.
const SAMPLES_AT_LEAST: usize = 16;
/// One in so many rows is rare.
const RARE: usize = 128;
