//! Where the rows of a task come from, and how those of an exchange are put together.

use arrow::array::{ArrayRef, Int64Array};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use std::sync::Arc;

use super::{BlockContext, Run};
use crate::error::DataError;
use crate::exchange::aggregate::Final;
use crate::exchange::join::Joiner;
use crate::exchange::keys::failed;
use crate::exchange::rows::Gathered;
use crate::piece_reader::PieceReader;
use crate::pieces::Piece;
use crate::plan::{MapBatches, SortKey};
use crate::stage::{BlockTask, Branch, Combine, Input, LEFT, RIGHT, Slice};

/// Takes the rows of the task into its pipeline.
pub(super) fn feed(task: &BlockTask, branch: &Branch, run: &mut Run<'_>) -> Result<(), DataError> {
    match &task.input {
        Input::Files { pieces, .. } => files(pieces, branch, run),
        Input::Range { first, rows, .. } => range(*first, *rows, branch, run),
        Input::Objects(slices) => {
            let title = branch.combine.title().unwrap_or_default();
            match &branch.combine {
                Combine::Stream => stream(slices, branch, run),
                Combine::Sort { keys } => {
                    let mut rows = Gathered::new(gather(slices, LEFT, run.context)?, &title);
                    rows.sort(keys)?;
                    keep(&rows, run);
                    hand_on(&rows, branch, run)
                }
                Combine::Shuffle { seed } => {
                    let mut rows = Gathered::new(gather(slices, LEFT, run.context)?, &title);
                    rows.shuffle(*seed, task.ordinal);
                    keep(&rows, run);
                    hand_on(&rows, branch, run)
                }
                Combine::Aggregate(plan) => {
                    let mut groups = Final::new(plan)?;
                    each(slices, LEFT, run.context, &mut |states| groups.push(states).map(|()| true))?;
                    let all = groups.finish()?;
                    run.pipeline.input_keeps(groups.memory_bytes());
                    match all {
                        Some(batch) => chunks(&batch, branch, run).map(drop),
                        None => Ok(()),
                    }
                }
                Combine::Groups { keys, map } => groups(slices, keys, map, &title, run),
                Combine::Join(plan) => {
                    let mut joiner = Joiner::new(plan)?;
                    each(slices, RIGHT, run.context, &mut |batch| joiner.push_right(&batch).map(|()| true))?;
                    joiner.end_right();
                    for batch in parts_of(slices, LEFT, branch.batch_rows, run.context) {
                        let given = joiner.push_left(&batch?)?;
                        run.pipeline.input_keeps(joiner.memory_bytes());
                        for joined in given {
                            if !run.push(joined)? {
                                return Ok(());
                            }
                        }
                    }
                    while let Some(joined) = joiner.rest()? {
                        run.pipeline.input_keeps(joiner.memory_bytes());
                        if !run.push(joined)? {
                            break;
                        }
                    }
                    Ok(())
                }
                Combine::Zip { schema, .. } => zip(slices, schema, branch, run),
            }
        }
    }
}

/// The rows that are put together, where the input does more than to hand them on.
pub(super) fn rows_given(task: &BlockTask, branch: &Branch) -> Option<u64> {
    match (&task.input, &branch.combine) {
        (Input::Objects(_), Combine::Stream) | (Input::Files { .. } | Input::Range { .. }, _) => None,
        (Input::Objects(slices), _) => {
            Some(slices.iter().filter(|slice| slice.side <= RIGHT).map(|slice| slice.rows).sum())
        }
    }
}

fn files(pieces: &[Piece], branch: &Branch, run: &mut Run<'_>) -> Result<(), DataError> {
    for piece in pieces {
        if run.pipeline.is_full() {
            break;
        }
        let reader = PieceReader::open(
            piece,
            &branch.format,
            &branch.storage,
            &branch.schema,
            branch.batch_rows,
            branch.filter.as_ref(),
        )?;
        run.bytes_in += reader.bytes();
        run.pipeline.reads(&piece.path);
        for batch in reader {
            if !run.push(batch?)? {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn range(first: u64, rows: u64, branch: &Branch, run: &mut Run<'_>) -> Result<(), DataError> {
    let (mut next, end) = (first, first + rows);
    while next < end {
        let until = end.min(next + branch.batch_rows as u64);
        let options = RecordBatchOptions::new().with_row_count(Some((until - next) as usize));
        let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(next as i64..until as i64));
        let columns = branch.schema.fields().iter().map(|_| Arc::clone(&ids)).collect();
        let batch = RecordBatch::try_new_with_options(Arc::clone(&branch.schema), columns, &options)
            .map_err(|e| failed("range", &e))?;
        if !run.push(batch)? {
            break;
        }
        next = until;
    }
    Ok(())
}

fn stream(slices: &[Slice], branch: &Branch, run: &mut Run<'_>) -> Result<(), DataError> {
    for batch in parts_of(slices, LEFT, branch.batch_rows, run.context) {
        if !run.push(batch?)? {
            break;
        }
    }
    Ok(())
}

/// The rows are held until all have been handed on; putting them into their order took more.
fn keep(rows: &Gathered<'_>, run: &mut Run<'_>) {
    run.pipeline.input_keeps(rows.most_bytes());
    run.pipeline.input_keeps(rows.held_bytes());
}

fn hand_on(rows: &Gathered<'_>, branch: &Branch, run: &mut Run<'_>) -> Result<(), DataError> {
    for start in (0..rows.len()).step_by(branch.batch_rows) {
        let end = rows.len().min(start + branch.batch_rows);
        if !run.push(rows.batch(start, end)?)? {
            break;
        }
    }
    Ok(())
}

fn groups(
    slices: &[Slice],
    keys: &[String],
    map: &MapBatches,
    title: &str,
    run: &mut Run<'_>,
) -> Result<(), DataError> {
    let mut rows = Gathered::new(gather(slices, LEFT, run.context)?, title);
    let keys: Vec<SortKey> = keys.iter().map(SortKey::ascending).collect();
    let starts = rows.group(&keys)?;
    keep(&rows, run);
    let ends = starts.iter().skip(1).copied().chain([rows.len()]);
    for (start, end) in starts.iter().copied().zip(ends) {
        let group = rows.batch(start, end)?;
        let result = run.context.functions.call(&map.function, &map.params, group)?;
        if !run.push(result)? {
            break;
        }
    }
    Ok(())
}

/// Walks along both sides at once, as far as each of their batches goes.
fn zip(
    slices: &[Slice],
    schema: &arrow::datatypes::SchemaRef,
    branch: &Branch,
    run: &mut Run<'_>,
) -> Result<(), DataError> {
    let mut right = parts_of(slices, RIGHT, branch.batch_rows, run.context);
    let mut held: Option<RecordBatch> = None;
    for left in parts_of(slices, LEFT, branch.batch_rows, run.context) {
        let mut left = left?;
        while left.num_rows() > 0 {
            let next = match held.take() {
                Some(batch) => batch,
                None => right.next().transpose()?.ok_or_else(|| failed("zip", &"the right side has fewer rows"))?,
            };
            let rows = left.num_rows().min(next.num_rows());
            let mut columns = left.slice(0, rows).columns().to_vec();
            columns.extend(next.slice(0, rows).columns().iter().cloned());
            let options = RecordBatchOptions::new().with_row_count(Some(rows));
            let batch = RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
                .map_err(|e| failed("zip", &e))?;
            if !run.push(batch)? {
                return Ok(());
            }
            left = left.slice(rows, left.num_rows() - rows);
            held = Some(next.slice(rows, next.num_rows() - rows)).filter(|rest| rest.num_rows() > 0);
        }
    }
    Ok(())
}

fn chunks(batch: &RecordBatch, branch: &Branch, run: &mut Run<'_>) -> Result<bool, DataError> {
    for start in (0..batch.num_rows()).step_by(branch.batch_rows) {
        if !run.push(batch.slice(start, branch.batch_rows.min(batch.num_rows() - start)))? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// All rows of a side, where they are.
fn gather(slices: &[Slice], side: u32, context: &BlockContext<'_>) -> Result<Vec<RecordBatch>, DataError> {
    let mut batches = Vec::new();
    each(slices, side, context, &mut |batch| {
        batches.push(batch);
        Ok(true)
    })?;
    Ok(batches)
}

/// Hands the rows of every object of a side to `take`, until it has enough.
pub(super) fn each(
    slices: &[Slice],
    side: u32,
    context: &BlockContext<'_>,
    take: &mut dyn FnMut(RecordBatch) -> Result<bool, DataError>,
) -> Result<(), DataError> {
    for batch in parts_of(slices, side, usize::MAX, context) {
        if !take(batch?)? {
            break;
        }
    }
    Ok(())
}

/// The rows of a side, `batch_rows` at most at a time.
fn parts_of<'a>(
    slices: &'a [Slice],
    side: u32,
    batch_rows: usize,
    context: &'a BlockContext<'a>,
) -> impl Iterator<Item = Result<RecordBatch, DataError>> + 'a {
    let ours = slices.iter().enumerate().filter(move |(_, slice)| slice.side == side);
    ours.flat_map(move |(index, slice)| {
        let rows = match (context.object)(index) {
            Ok(Some(batch)) => Ok(rows_of(&batch, slice)),
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        };
        let (batch, error) = match rows {
            Ok(batch) => (batch, None),
            Err(error) => (None, Some(Err(error))),
        };
        let cut = batch.into_iter().flat_map(move |batch| {
            let step = batch_rows.min(batch.num_rows()).max(1);
            (0..batch.num_rows()).step_by(step).map(move |start| {
                let rows = step.min(batch.num_rows() - start);
                Ok(batch.slice(start, rows))
            })
        });
        error.into_iter().chain(cut)
    })
}

fn rows_of(batch: &RecordBatch, slice: &Slice) -> Option<RecordBatch> {
    let first = usize::try_from(slice.first_row).unwrap_or(usize::MAX).min(batch.num_rows());
    let rows = usize::try_from(slice.rows).unwrap_or(usize::MAX).min(batch.num_rows() - first);
    (rows > 0).then(|| batch.slice(first, rows))
}
