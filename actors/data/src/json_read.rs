//! Reading JSON lines: one object on each line.
//!
//! Entry types: [`infer`], the columns of a file as its first lines tell them, and
//! [`JsonReader`], which streams the lines of a part of a file in the unified schema. A field
//! that a line lacks is null there. What is no object, or does not fit its column's type, is an
//! error that names file, line and column; only then is the part read again, to find them.

use std::io::BufRead;
use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::json::ReaderBuilder;
use arrow::json::reader::{Decoder, infer_json_schema};
use arrow::record_batch::RecordBatch;

use crate::error::DataError;
use crate::pieces::Piece;
use crate::schema::{ColumnSource, Conform};
use crate::source_file::SourceFile;
use crate::text::{self, JsonOptions};
use crate::words::plain;

/// The columns of a file, and their types as its first lines tell them.
pub fn infer(file: &SourceFile, options: &JsonOptions) -> Result<SchemaRef, DataError> {
    let path = file.path();
    let mut lines = text::open_whole(file)?;
    if lines.fill_buf().map_err(|e| text::read_error(path, &e))?.trim_ascii_start().starts_with(b"[") {
        let cause = "it is a list: one object on each line is expected, without commas between them".into();
        return Err(DataError::BadLine { path: path.into(), line: 1, column: None, cause });
    }
    let schema = match infer_json_schema(lines, Some(options.infer_rows)) {
        Ok((schema, _)) => schema,
        Err(error) => {
            return Err(file.error(|path| {
                let found = locate(file, &(0..0), true, 0, &Arc::new(Schema::empty())).unwrap_or_else(Some);
                found.unwrap_or_else(|| bad_file(&path, plain(&error)))
            }));
        }
    };
    Ok(text::with_given_types(&schema, &options.types))
}

/// Streams the lines of a part of a file.
pub struct JsonReader {
    file: SourceFile,
    range: Range<u64>,
    /// The columns that are read, by the names they have in the file.
    schema: SchemaRef,
    lines: Box<dyn BufRead + Send>,
    decoder: Decoder,
    conform: Conform,
    batch_rows: usize,
    /// Lines that have been returned.
    rows: u64,
    is_over: bool,
}

impl JsonReader {
    /// Opens the lines of `file`, which is that of `piece`, that begin in `range`; the batches will
    /// have the columns of `schema`.
    pub fn open(
        file: SourceFile,
        piece: &Piece,
        range: Range<u64>,
        schema: &SchemaRef,
        batch_rows: usize,
    ) -> Result<JsonReader, DataError> {
        let mut fields: Vec<Field> = Vec::new();
        let mut sources = Vec::new();
        for (source, unified) in piece.columns.iter().zip(schema.fields()) {
            sources.push(match source {
                ColumnSource::Named(name) => {
                    fields.push(Field::new(name, unified.data_type().clone(), true));
                    ColumnSource::File(fields.len() as u32 - 1)
                }
                other => other.clone(),
            });
        }
        let file_schema = Arc::new(Schema::new(fields));
        let decoder = decoder(&file_schema, batch_rows);
        Ok(JsonReader {
            lines: text::open_lines(&file, &range)?,
            range,
            decoder: decoder.map_err(|e| bad_file(file.path(), plain(&e)))?,
            file,
            schema: file_schema,
            conform: Conform::new(Arc::clone(schema), sources),
            batch_rows,
            rows: 0,
            is_over: false,
        })
    }

    fn batch(&mut self) -> Result<Option<RecordBatch>, DataError> {
        match decode(&mut self.decoder, &mut self.lines, self.batch_rows) {
            Ok(None) => Ok(None),
            Ok(Some(batch)) => {
                self.rows += batch.num_rows() as u64;
                let conformed = self.conform.apply(&batch);
                conformed.map(Some).map_err(|cause| bad_file(self.file.path(), cause))
            }
            Err(ArrowError::IoError(_, error)) => Err(text::read_error(self.file.path(), &error)),
            Err(error) => Err(self.file.error(|path| {
                let found = locate(&self.file, &self.range, false, self.rows, &self.schema).unwrap_or_else(Some);
                found.unwrap_or_else(|| bad_file(&path, plain(&error)))
            })),
        }
    }
}

impl Iterator for JsonReader {
    type Item = Result<RecordBatch, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let batch = self.batch().transpose();
        self.is_over = !matches!(batch, Some(Ok(_)));
        batch
    }
}

fn decoder(schema: &SchemaRef, batch_rows: usize) -> Result<Decoder, ArrowError> {
    // A column of numbers and texts is one of texts.
    ReaderBuilder::new(Arc::clone(schema)).with_batch_size(batch_rows).with_coerce_primitive(true).build_decoder()
}

fn bad_file(path: &str, cause: String) -> DataError {
    DataError::BadFile { path: path.into(), format: "JSON".into(), cause }
}

/// The next batch of the lines.
fn decode(
    decoder: &mut Decoder,
    lines: &mut dyn BufRead,
    batch_rows: usize,
) -> Result<Option<RecordBatch>, ArrowError> {
    loop {
        let buffer = lines.fill_buf()?;
        let is_last = buffer.is_empty();
        let decoded = decoder.decode(buffer)?;
        lines.consume(decoded);
        if is_last || decoder.len() >= batch_rows && !decoder.has_partial_record() {
            return decoder.flush();
        }
    }
}

/// The first line after `rows` good ones that cannot be read.
fn locate(
    file: &SourceFile,
    range: &Range<u64>,
    whole: bool,
    rows: u64,
    schema: &SchemaRef,
) -> Result<Option<DataError>, DataError> {
    let path = file.path();
    let (mut lines, mut line) = match whole || range.start == 0 {
        true => (text::open_whole(file)?, 0),
        // The part begins with the first line that begins in it.
        false => (text::open_lines(file, range)?, text::lines_before(file, range.start - 1)? + 1),
    };
    let mut text = Vec::new();
    let mut at = 0;
    loop {
        text.clear();
        if lines.read_until(b'\n', &mut text).map_err(|e| text::read_error(path, &e))? == 0 {
            return Ok(None);
        }
        line += 1;
        if text.trim_ascii().is_empty() {
            continue;
        }
        at += 1;
        if at <= rows {
            continue;
        }
        let read = decoder(schema, 1).and_then(|mut decoder| decode(&mut decoder, &mut text.as_slice(), 2));
        if let Err(error) = read {
            let cause = match error {
                ArrowError::JsonError(cause) => cause,
                other => plain(&other),
            };
            // The reader says which field by a path of names.
            let column = cause.split("field '").nth(1).and_then(|rest| rest.split('\'').next()).map(str::to_owned);
            return Ok(Some(DataError::BadLine { path: path.into(), line, column, cause }));
        }
    }
}
