//! From a plan and the footers of its files to tasks.
//!
//! Entry type: [`plan`]. It is pure: footers go in, one fused [`Stage`] and a list of
//! [`BlockTask`]s come out. It checks every column and type it can know, prunes columns that
//! no one uses, stops reads where a limit allows it, and cuts the input into blocks by bytes.
//! How blocks are cut depends only on the files and the plan, never on how many workers there
//! will be, so the output does not either.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use serde::{Deserialize, Serialize};

use crate::error::DataError;
use crate::expr::BoundExpr;
use crate::parquet_read::FileFooter;
use crate::parquet_write::WriteOptions;
use crate::plan::{LogicalPlan, Operator, Sink};
use crate::schema::{self, FileSchema, Unified, unify};

/// A plan that can run.
#[derive(Debug, Clone)]
pub struct PhysicalPlan {
    /// What every task does.
    pub stage: Stage,
    /// The tasks, in source order.
    pub tasks: Vec<BlockTask>,
    /// The rows of all tasks together are cut to this many, in task order.
    pub limit: Option<u64>,
    /// The columns of the files, unified.
    pub input_schema: SchemaRef,
    /// The columns of the result; not known before it runs if a function makes them.
    pub output_schema: Option<SchemaRef>,
    /// See [`Unified::zones_dropped`].
    pub zones_dropped: Vec<String>,
}

/// What every task of a fused stage does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// The columns that are read.
    #[serde(with = "schema::wire")]
    pub schema: SchemaRef,
    /// Rows per batch.
    pub batch_rows: usize,
    /// The operators, from the source upwards.
    pub operators: Vec<Operator>,
    /// What happens to the rows.
    pub sink: StageSink,
}

impl Stage {
    /// Says where files wait; a stage that writes none ignores it.
    pub fn stage_in(&mut self, dir: String) {
        if let StageSink::WriteParquet { staging, .. } = &mut self.sink {
            *staging = dir;
        }
    }
}

/// What a task does with its rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum StageSink {
    /// Writes them to a file of its own.
    WriteParquet {
        /// The directory in which the files of the run wait for all to be done.
        staging: String,
        /// How they are written.
        options: WriteOptions,
        /// The columns, where they are known, so that a block without rows has them too.
        schema: Option<WireSchema>,
    },
    /// Counts them.
    Count,
    /// Returns them.
    Batches,
}

/// A schema that travels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WireSchema(#[serde(with = "schema::wire")] pub SchemaRef);

/// The work of one task: some rows of some files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockTask {
    /// Its place among the tasks, in source order.
    pub ordinal: u64,
    /// The rows, in source order.
    pub pieces: Vec<Piece>,
    /// Bytes of the columns that are read, before compression.
    pub expected_bytes: u64,
}

/// Some row groups of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// The file's place among the files of the plan.
    pub file: u64,
    /// Where the file is.
    pub path: String,
    /// Which row groups.
    pub row_groups: Range<u32>,
    /// The place in the file of the first row.
    pub first_row: u64,
    /// Rows in the row groups.
    pub group_rows: u64,
    /// Rows to read, from the first; fewer than `group_rows` where a limit ends the read.
    pub rows: u64,
    /// Where the file has the columns of the stage.
    pub columns: Vec<Option<u32>>,
}

/// Plans `plan` over files whose footers are `files`, in source order. `staging` is where a
/// written block waits for the others.
pub fn plan(plan: &LogicalPlan, sink: &Sink, files: &[FileFooter], staging: &str) -> Result<PhysicalPlan, DataError> {
    let source = plan.source();
    check_batch_rows("read_parquet", source.batch_rows)?;
    let schemas: Vec<FileSchema<'_>> =
        files.iter().map(|file| FileSchema { path: &file.path, schema: &file.schema }).collect();
    let unified = project(unify(&schemas, &source.matching)?, source.columns.as_deref())?;
    let operators: Vec<Operator> = plan.operators().into_iter().cloned().collect();
    let output_schema = check(&operators, &unified.schema)?;

    let (operators, needed) = prune(operators, &unified.schema, matches!(sink, Sink::Count));
    let limits = place_limits(operators, sink);
    let all_groups = needed.is_empty();
    let mut pieces = pieces(files, &unified, &needed);
    if let Some(rows) = limits.read {
        cut(&mut pieces, rows);
    }
    let target = if limits.one_task || all_groups { u64::MAX } else { source.block_bytes };
    let tasks = group(pieces, target);

    let schema = Arc::new(
        unified
            .schema
            .project(&needed)
            .map_err(|e| DataError::InvalidPlan { operator: "read_parquet".into(), cause: e.to_string() })?,
    );
    let sink = match sink {
        Sink::WriteParquet { options, .. } => StageSink::WriteParquet {
            staging: staging.into(),
            options: options.clone(),
            schema: output_schema.clone().map(WireSchema),
        },
        Sink::Count => StageSink::Count,
        Sink::Batches => StageSink::Batches,
    };
    Ok(PhysicalPlan {
        stage: Stage { schema, batch_rows: source.batch_rows, operators: limits.operators, sink },
        tasks,
        limit: limits.total,
        input_schema: unified.schema,
        output_schema,
        zones_dropped: unified.zones_dropped,
    })
}

/// The columns of the files of `plan`, unified, and those of its result where they are known.
pub fn schemas(plan: &LogicalPlan, files: &[FileFooter]) -> Result<(SchemaRef, Option<SchemaRef>), DataError> {
    let planned = self::plan(plan, &Sink::Batches, files, "")?;
    Ok((planned.input_schema, planned.output_schema))
}

/// The schema after an operator, with everything it names found and its types agreed. None
/// where only running it tells.
pub fn schema_after(operator: &Operator, schema: &SchemaRef) -> Result<Option<SchemaRef>, DataError> {
    let name = operator.to_string();
    Ok(match operator {
        Operator::Filter { condition } => {
            BoundExpr::bind_condition(condition, schema, &name)?;
            Some(Arc::clone(schema))
        }
        Operator::WithColumn { name: column, value } => {
            let field = BoundExpr::bind(value, schema, &name)?.field(column);
            let mut fields = schema.fields().to_vec();
            match schema.index_of(column) {
                Ok(index) => fields[index] = Arc::new(field),
                Err(_) => fields.push(Arc::new(field)),
            }
            Some(Arc::new(Schema::new(fields)))
        }
        Operator::Select { columns } => {
            let indices = select_indices(schema, columns, &name)?;
            let fields: Vec<_> = indices.iter().map(|i| Arc::clone(&schema.fields()[*i])).collect();
            Some(Arc::new(Schema::new(fields)))
        }
        Operator::Limit { .. } => Some(Arc::clone(schema)),
        Operator::MapBatches(map) => {
            check_batch_rows(&name, map.batch_rows.unwrap_or(1))?;
            None
        }
    })
}

/// Where `columns` are in `schema`.
pub(crate) fn select_indices(schema: &Schema, columns: &[String], operator: &str) -> Result<Vec<usize>, DataError> {
    let mut seen = BTreeSet::new();
    columns
        .iter()
        .map(|column| {
            if !seen.insert(column) {
                return Err(DataError::InvalidPlan {
                    operator: operator.into(),
                    cause: format!("column {column} is named twice"),
                });
            }
            schema.index_of(column).map_err(|_| DataError::UnknownColumn {
                operator: operator.into(),
                column: column.clone(),
                available: schema.fields().iter().map(|f| f.name().clone()).collect(),
            })
        })
        .collect()
}

fn check_batch_rows(operator: &str, rows: usize) -> Result<(), DataError> {
    if (1..=MAX_BATCH_ROWS).contains(&rows) {
        return Ok(());
    }
    Err(DataError::InvalidPlan {
        operator: operator.into(),
        cause: format!("a batch size of {rows} rows: it must be from 1 to {MAX_BATCH_ROWS}"),
    })
}

/// Keeps only the columns the read names, in the order it names them.
fn project(unified: Unified, columns: Option<&[String]>) -> Result<Unified, DataError> {
    let Some(columns) = columns else {
        return Ok(unified);
    };
    let indices = select_indices(&unified.schema, columns, "read_parquet")?;
    let fields: Vec<_> = indices.iter().map(|i| Arc::clone(&unified.schema.fields()[*i])).collect();
    let places = |file: &Vec<Option<usize>>| indices.iter().map(|i| file[*i]).collect();
    let mut zones_dropped = unified.zones_dropped;
    zones_dropped.retain(|name| columns.contains(name));
    let columns = unified.columns.iter().map(places).collect();
    Ok(Unified { schema: Arc::new(Schema::new(fields)), columns, zones_dropped })
}

/// The schema after all operators; as far as it can be known, all are checked.
fn check(operators: &[Operator], input: &SchemaRef) -> Result<Option<SchemaRef>, DataError> {
    let mut schema = Some(Arc::clone(input));
    for operator in operators {
        schema = match (&schema, operator) {
            (Some(known), operator) => schema_after(operator, known)?,
            // What is certain without the columns is checked all the same.
            (None, Operator::MapBatches(map)) => {
                check_batch_rows(&operator.to_string(), map.batch_rows.unwrap_or(1))?;
                None
            }
            (None, _) => None,
        };
    }
    Ok(schema)
}

/// Drops what no one uses: the operators that remain and the columns to read, by position.
fn prune(operators: Vec<Operator>, input: &Schema, only_count: bool) -> (Vec<Operator>, Vec<usize>) {
    // None: every column there is.
    let mut needed: Option<BTreeSet<String>> = only_count.then(BTreeSet::new);
    let mut kept = Vec::with_capacity(operators.len());
    for mut operator in operators.into_iter().rev() {
        match &mut operator {
            Operator::Filter { condition } => {
                if let Some(needed) = &mut needed {
                    needed.extend(condition.columns().into_iter().map(str::to_owned));
                }
            }
            Operator::WithColumn { name, value } => {
                if let Some(needed) = &mut needed {
                    if !needed.remove(name) {
                        continue;
                    }
                    needed.extend(value.columns().into_iter().map(str::to_owned));
                }
            }
            Operator::Select { columns } => {
                if let Some(needed) = &needed {
                    columns.retain(|column| needed.contains(column));
                }
                needed = Some(columns.iter().cloned().collect());
            }
            Operator::Limit { .. } => {}
            Operator::MapBatches(_) => needed = None,
        }
        kept.push(operator);
    }
    kept.reverse();
    let is_needed = |name: &str| needed.as_ref().is_none_or(|needed| needed.contains(name));
    let indices = (0..input.fields().len()).filter(|i| is_needed(input.field(*i).name())).collect();
    (kept, indices)
}

/// Where the limits of a plan take effect.
struct Limits {
    /// The operators of every task.
    operators: Vec<Operator>,
    /// No more than this many rows are read, over all tasks.
    read: Option<u64>,
    /// No more than this many rows are returned, over all tasks.
    total: Option<u64>,
    /// The rows must pass one task, which counts them.
    one_task: bool,
}

/// A limit right above operators that keep every row becomes a limit of the read. One at the
/// very top of rows that are returned or counted is met by every task and again over all of
/// them. Any other needs to see all rows in order, in one task.
fn place_limits(operators: Vec<Operator>, sink: &Sink) -> Limits {
    let mut limits = Limits { operators: Vec::new(), read: None, total: None, one_task: false };
    let last = operators.len().saturating_sub(1);
    for (index, operator) in operators.into_iter().enumerate() {
        let Operator::Limit { rows } = operator else {
            limits.operators.push(operator);
            continue;
        };
        if limits.operators.iter().all(keeps_rows) {
            limits.read = Some(limits.read.map_or(rows, |read| read.min(rows)));
            continue;
        }
        let at_the_top = index == last && !matches!(sink, Sink::WriteParquet { .. });
        if at_the_top && !limits.one_task {
            limits.total = Some(rows);
        } else {
            limits.one_task = true;
        }
        limits.operators.push(operator);
    }
    limits
}

/// Whether an operator gives exactly one row for every row.
fn keeps_rows(operator: &Operator) -> bool {
    matches!(operator, Operator::WithColumn { .. } | Operator::Select { .. })
}

/// Every row group of every file, with its bytes in the columns that are read.
fn pieces(files: &[FileFooter], unified: &Unified, needed: &[usize]) -> Vec<(Piece, u64)> {
    let mut pieces = Vec::new();
    for (file, (footer, places)) in files.iter().zip(&unified.columns).enumerate() {
        let columns: Vec<Option<usize>> = needed.iter().map(|i| places[*i]).collect();
        let mut first_row = 0;
        for (index, group) in (0_u32..).zip(&footer.row_groups) {
            let bytes = columns.iter().flatten().map(|c| group.column_bytes[*c]).sum();
            let piece = Piece {
                file: file as u64,
                path: footer.path.clone(),
                row_groups: index..index + 1,
                first_row,
                group_rows: group.rows,
                rows: group.rows,
                columns: columns.iter().map(|c| c.map(|c| c as u32)).collect(),
            };
            pieces.push((piece, bytes));
            first_row += group.rows;
        }
    }
    pieces
}

/// Ends the read after `rows` rows.
fn cut(pieces: &mut Vec<(Piece, u64)>, rows: u64) {
    let mut left = rows;
    pieces.retain_mut(|(piece, _)| {
        piece.rows = piece.rows.min(left);
        left -= piece.rows;
        piece.rows > 0
    });
}

/// Groups pieces into blocks of about `target` bytes; row groups are never split. There is
/// always a first block, so that a result without rows still has its columns.
fn group(pieces: Vec<(Piece, u64)>, target: u64) -> Vec<BlockTask> {
    let mut tasks = vec![BlockTask { ordinal: 0, pieces: Vec::new(), expected_bytes: 0 }];
    for (piece, bytes) in pieces {
        let full = |task: &BlockTask| {
            let together = task.expected_bytes.saturating_add(bytes);
            !task.pieces.is_empty() && (task.expected_bytes >= target || together > target.saturating_mul(2))
        };
        let ordinal = tasks.len() as u64;
        if tasks.last().is_none_or(full) {
            tasks.push(BlockTask { ordinal, pieces: Vec::new(), expected_bytes: 0 });
        }
        let Some(task) = tasks.last_mut() else {
            continue;
        };
        task.expected_bytes = task.expected_bytes.saturating_add(bytes);
        match task.pieces.last_mut() {
            // Neighbours in one file are read in one go, unless a limit ended the first.
            Some(last)
                if last.file == piece.file
                    && last.row_groups.end == piece.row_groups.start
                    && last.rows == last.group_rows =>
            {
                last.row_groups.end = piece.row_groups.end;
                last.group_rows += piece.group_rows;
                last.rows += piece.rows;
            }
            _ => task.pieces.push(piece),
        }
    }
    tasks
}

/// The largest batch: more rows than this in one batch serve no one and cost memory.
pub const MAX_BATCH_ROWS: usize = 1 << 24;

#[cfg(test)]
mod tests;
