//! Which pages of a file may hold rows for which a condition is true.

use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, RowSelection, RowSelector};
use parquet::errors::ParquetError;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaDataReader};

use super::{converter, in_file};
use crate::expr::Expr;
use crate::files::ColumnStatistics;
use crate::prune::Pruner;
use crate::schema::ColumnSource;
use crate::source_file::OpenFile;

/// The rows of `groups` whose pages may hold a row for which `filter` is true; none if that is
/// all of them, or if the file does not tell. The metadata that comes back knows the pages if
/// they had to be looked up.
pub(super) fn select(
    file: &OpenFile,
    metadata: ArrowReaderMetadata,
    groups: Range<usize>,
    filter: &Expr,
    schema: &SchemaRef,
    columns: &[ColumnSource],
) -> Result<(ArrowReaderMetadata, Option<RowSelection>), ParquetError> {
    let tested: Vec<(Pruner, usize, usize)> = Pruner::new(filter, schema)
        .split()
        .into_iter()
        .filter_map(|pruner| match pruner.columns()[..] {
            [column] => Some((pruner, column, in_file(columns.get(column)?)?)),
            _ => None,
        })
        .filter(|(_, _, root)| is_indexed(&metadata, groups.clone(), *root))
        .collect();
    if tested.is_empty() {
        return Ok((metadata, None));
    }
    let metadata = with_page_index(file, &metadata)?;
    let selections = tested.iter().filter_map(|(pruner, column, root)| {
        let unified = schema.field(*column).data_type();
        let keeps =
            |pages: &ColumnStatistics, page: usize, rows: u64| pruner.may_keep(&|_| pages.bounds(page, rows, unified));
        selection_of(&metadata, groups.clone(), *root, &keeps)
    });
    let selection = selections.reduce(|one, other| one.intersection(&other));
    Ok((metadata, selection.filter(|selection| selection.skipped_row_count() > 0)))
}

/// Whether the file tells of the pages of a column.
fn is_indexed(metadata: &ArrowReaderMetadata, groups: Range<usize>, root: usize) -> bool {
    let Some((leaf, _)) = converter(metadata, root) else {
        return false;
    };
    let groups = metadata.metadata().row_groups().get(groups).unwrap_or_default();
    groups
        .iter()
        .map(|group| group.column(leaf))
        .all(|chunk| chunk.column_index_offset().is_some() && chunk.offset_index_offset().is_some())
}

fn with_page_index(file: &OpenFile, metadata: &ArrowReaderMetadata) -> Result<ArrowReaderMetadata, ParquetError> {
    let known = metadata.metadata().as_ref().clone();
    let mut reader = ParquetMetaDataReader::new_with_metadata(known).with_page_index_policy(PageIndexPolicy::Optional);
    reader.read_page_indexes(file)?;
    let options = ArrowReaderOptions::new().with_schema(Arc::clone(metadata.schema()));
    ArrowReaderMetadata::try_new(Arc::new(reader.finish()?), options)
}

/// The rows of the pages that are kept.
fn selection_of(
    metadata: &ArrowReaderMetadata,
    groups: Range<usize>,
    root: usize,
    keeps: &dyn Fn(&ColumnStatistics, usize, u64) -> bool,
) -> Option<RowSelection> {
    let file = metadata.metadata();
    let (leaf, converter) = converter(metadata, root)?;
    let (column_index, offset_index) = (file.column_index()?, file.offset_index()?);
    let mut selectors: Vec<RowSelector> = Vec::new();
    for group in groups {
        let rows = usize::try_from(file.row_groups().get(group)?.num_rows()).ok()?;
        let pages = ColumnStatistics {
            mins: converter.data_page_mins(column_index, offset_index, [&group]).ok()?,
            maxes: converter.data_page_maxes(column_index, offset_index, [&group]).ok()?,
            nulls: converter.data_page_null_counts(column_index, offset_index, [&group]).ok()?,
        };
        let locations = offset_index.get(group)?.get(leaf)?.page_locations();
        let starts: Vec<usize> =
            locations.iter().map(|page| usize::try_from(page.first_row_index).ok()).collect::<Option<_>>()?;
        if starts.first() != Some(&0) || !starts.is_sorted() || starts.last().is_some_and(|last| *last > rows) {
            return None;
        }
        let ends = starts.iter().skip(1).chain([&rows]);
        for (page, (start, end)) in starts.iter().zip(ends).enumerate() {
            let page_rows = end - start;
            let kept = keeps(&pages, page, page_rows as u64);
            selectors.push(if kept { RowSelector::select(page_rows) } else { RowSelector::skip(page_rows) });
        }
    }
    Some(RowSelection::from(selectors))
}
