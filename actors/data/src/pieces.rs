//! Which parts of which files a stage reads, and how they are dealt to its tasks.
//!
//! Entry types: [`Piece`], some rows of a file; [`pieces`], all that a plan needs, [`cut`], which
//! ends the read after some rows, and [`group`], which makes blocks of them. All of it is pure:
//! it depends on the footers of the files and on the plan, never on how many workers there will
//! be, so the blocks of a result do not either.

use std::ops::Range;

use datafusion_common::ScalarValue;
use serde::{Deserialize, Serialize};

use crate::expr::Expr;
use crate::files::{FileFooter, TextFile};
use crate::hive::value_array;
use crate::prune::{Bounds, Pruner};
pub use crate::schema::ColumnSource;
use crate::schema::Unified;
use crate::storage::RemoteEntry;

/// Some rows of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// The file's place among the files of the plan.
    pub file: u64,
    /// Where the file is, as errors show it.
    pub path: String,
    /// The state in which it was found, if it is not on a machine: that state is read.
    pub remote: Option<RemoteEntry>,
    /// The size of the file when the plan was made.
    pub file_bytes: u64,
    /// Which part of the file.
    pub part: Part,
    /// The place in the file of the first row, if it is known.
    pub first_row: Option<u64>,
    /// Rows in the part, if it is known.
    pub group_rows: Option<u64>,
    /// Rows to read, from the first; fewer than `group_rows` where a limit ends the read. None
    /// means all of them.
    pub rows: Option<u64>,
    /// Where the file has the columns of the stage.
    pub columns: Vec<ColumnSource>,
}

/// A part of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Part {
    /// Row groups of a Parquet file.
    RowGroups(Range<u32>),
    /// The lines of a text file that begin within these bytes.
    Bytes(Range<u64>),
}

/// Everything of every file, in order, with its bytes in the columns that are read (`needed`, by
/// their positions in `unified`). What cannot hold a row for which `filter` is true is left
/// out.
#[must_use]
pub fn pieces(files: &[FileFooter], unified: &Unified, needed: &[usize], filter: Option<&Expr>) -> Vec<(Piece, u64)> {
    let pruner = filter.map(|filter| Pruner::new(filter, &unified.schema));
    let mut pieces = Vec::new();
    for (file, (footer, places)) in files.iter().zip(&unified.columns).enumerate() {
        let columns: Vec<ColumnSource> = needed.iter().map(|i| footer.source(&places[*i])).collect();
        let piece = |part, first_row, rows| Piece {
            file: file as u64,
            path: footer.path.clone(),
            remote: footer.remote.clone(),
            file_bytes: footer.bytes,
            part,
            first_row,
            group_rows: rows,
            rows,
            columns: columns.clone(),
        };
        let may_keep = |group: Option<usize>| {
            let bounds = |column: usize| bounds(footer, unified, &places[column], column, group);
            pruner.as_ref().is_none_or(|pruner| pruner.may_keep(&bounds))
        };
        if let Some(text) = &footer.text {
            if may_keep(None) {
                let part = |range: Range<u64>| (piece(Part::Bytes(range.clone()), None, None), range.end - range.start);
                pieces.extend(ranges(text).map(part));
            }
            continue;
        }
        let mut first_row = 0;
        for (index, group) in (0_u32..).zip(&footer.row_groups) {
            let from_file = columns.iter().filter_map(|source| match source {
                ColumnSource::File(column) => group.column_bytes.get(*column as usize),
                _ => None,
            });
            let bytes = from_file.sum();
            if may_keep(Some(index as usize)) {
                pieces.push((piece(Part::RowGroups(index..index + 1), Some(first_row), Some(group.rows)), bytes));
            }
            first_row += group.rows;
        }
    }
    pieces
}

/// Ends the read after `rows` rows. Where it is not known how many rows a piece has, it is read
/// whole, and so is what comes after it.
pub fn cut(pieces: &mut Vec<(Piece, u64)>, rows: u64) {
    let mut left = rows;
    pieces.retain_mut(|(piece, _)| match &mut piece.rows {
        Some(rows) => {
            *rows = left.min(*rows);
            left -= *rows;
            *rows > 0
        }
        None => left > 0,
    });
}

/// Groups pieces into blocks of about `target` bytes, told with each; pieces are never split.
/// There is always a first block, so that a result without rows still has its columns.
#[must_use]
pub fn group(pieces: Vec<(Piece, u64)>, target: u64) -> Vec<(Vec<Piece>, u64)> {
    let mut blocks: Vec<(Vec<Piece>, u64)> = Vec::new();
    let mut block = (Vec::new(), 0_u64);
    for (piece, bytes) in pieces {
        let together = block.1.saturating_add(bytes);
        if !block.0.is_empty() && (block.1 >= target || together > target.saturating_mul(2)) {
            blocks.push(std::mem::take(&mut block));
        }
        block.1 = block.1.saturating_add(bytes);
        match block.0.last_mut() {
            Some(last) if last.is_followed_by(&piece) => last.append(&piece),
            _ => block.0.push(piece),
        }
    }
    blocks.push(block);
    blocks
}

impl Piece {
    /// Whether a limit ends the read within the piece.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.rows != self.group_rows
    }

    /// Neighbours in one file are read in one go, unless a limit ended the first.
    fn is_followed_by(&self, next: &Piece) -> bool {
        let adjoin = match (&self.part, &next.part) {
            (Part::RowGroups(one), Part::RowGroups(other)) => one.end == other.start,
            (Part::Bytes(one), Part::Bytes(other)) => one.end == other.start,
            _ => false,
        };
        self.file == next.file && adjoin && !self.is_cut()
    }

    fn append(&mut self, next: &Piece) {
        match (&mut self.part, &next.part) {
            (Part::RowGroups(one), Part::RowGroups(other)) => one.end = other.end,
            (Part::Bytes(one), Part::Bytes(other)) => one.end = other.end,
            _ => {}
        }
        let sum = |a: Option<u64>, b: Option<u64>| a.zip(b).map(|(a, b)| a + b);
        self.group_rows = sum(self.group_rows, next.group_rows);
        self.rows = sum(self.rows, next.rows);
    }
}

/// The pieces of a text file: of about equal size, and one for an empty file.
fn ranges(text: &TextFile) -> impl Iterator<Item = Range<u64>> {
    let bytes = text.bytes;
    let count = text.piece_bytes.map_or(1, |piece| bytes.div_ceil(piece.max(1)).max(1));
    let each = bytes.div_ceil(count).max(1);
    // Rounding up may leave nothing for the last.
    (0..count)
        .map(move |i| (i * each).min(bytes)..((i + 1) * each).min(bytes))
        .filter(move |r| r.start < r.end || r.end == 0)
}

/// What is known of a column of the unified schema in a row group, or in the whole file.
fn bounds(
    footer: &FileFooter,
    unified: &Unified,
    source: &ColumnSource,
    column: usize,
    group: Option<usize>,
) -> Bounds {
    let unified_type = unified.schema.field(column).data_type();
    match source {
        ColumnSource::Missing => Bounds::NULL,
        ColumnSource::Named(_) => Bounds::UNKNOWN,
        ColumnSource::Value(value) => {
            let value = value_array(value, unified_type, 1).ok();
            let value = value.and_then(|array| ScalarValue::try_from_array(&array, 0).ok());
            value.map_or(Bounds::UNKNOWN, Bounds::constant)
        }
        ColumnSource::File(index) => {
            let statistics = footer.statistics.get(*index as usize);
            let rows = group.and_then(|group| footer.row_groups.get(group)).map(|group| group.rows);
            match (statistics, group, rows) {
                (Some(statistics), Some(group), Some(rows)) => statistics.bounds(group, rows, unified_type),
                _ => Bounds::UNKNOWN,
            }
        }
    }
}

#[cfg(test)]
mod tests;
