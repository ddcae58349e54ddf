//! Reading CSV files.
//!
//! Entry types: [`infer`], the columns of a file as its first records tell them, and
//! [`CsvReader`], which streams the records of a part of a file in the unified schema. Fields
//! are parsed as the unified type right away; one that is not of that type is an error that
//! names file, line and column. Only then is the part read again, to find them.

use std::io::{self, BufRead};
use std::ops::Range;
use std::sync::Arc;

use arrow::csv::ReaderBuilder;
use arrow::csv::reader::{Decoder, Format};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use csv::ByteRecord;
use regex::Regex;

use crate::error::DataError;
use crate::pieces::Piece;
use crate::schema::{ColumnSource, Conform};
use crate::source_file::SourceFile;
use crate::text::{self, CsvOptions};
use crate::words::plain;

/// The columns of a file, and their types as its first records tell them.
pub fn infer(file: &SourceFile, options: &CsvOptions) -> Result<SchemaRef, DataError> {
    let format = format(options)?;
    let (schema, _) = match format.infer_schema(text::open_whole(file)?, Some(options.infer_rows)) {
        Ok(inferred) => inferred,
        Err(error) => return Err(Located { file, range: &(0..0), whole: true, options }.explain(0, &[], &error)),
    };
    let dated: Vec<usize> = (0..schema.fields().len()).filter(|i| schema.field(*i).data_type().is_temporal()).collect();
    let schema = match options.dates {
        true => Arc::new(schema),
        false => text::with_type(&schema, &dated, &DataType::Utf8),
    };
    Ok(text::with_given_types(&schema, &options.types))
}

/// Streams the records of a part of a file.
pub struct CsvReader {
    file: SourceFile,
    range: Range<u64>,
    options: CsvOptions,
    /// Of the columns that are read: the place in a record, the name and the type.
    columns: Vec<(usize, String, DataType)>,
    lines: Box<dyn BufRead + Send>,
    decoder: Decoder,
    conform: Conform,
    /// Records that have been returned.
    rows: u64,
    is_over: bool,
}

impl CsvReader {
    /// Opens the lines of `file`, which is that of `piece`, that begin in `range`; the batches will
    /// have the columns of `schema`.
    pub fn open(
        file: SourceFile,
        piece: &Piece,
        range: Range<u64>,
        options: &CsvOptions,
        schema: &SchemaRef,
        batch_rows: usize,
    ) -> Result<CsvReader, DataError> {
        let names = first_record(&file, options)?;
        let mut fields: Vec<Field> = names.iter().map(|name| Field::new(name, DataType::Utf8, true)).collect();
        let mut columns = Vec::new();
        let mut sources = Vec::new();
        for (source, unified) in piece.columns.iter().zip(schema.fields()) {
            let ColumnSource::File(index) = source else {
                sources.push(source.clone());
                continue;
            };
            let index = *index as usize;
            let Some(field) = fields.get_mut(index) else {
                return Err(DataError::FileChanged { path: piece.path.clone(), cause: "it has fewer columns".into() });
            };
            field.set_data_type(unified.data_type().clone());
            sources.push(ColumnSource::File(columns.len() as u32));
            columns.push((index, names[index].clone(), unified.data_type().clone()));
        }
        let header = options.has_header && range.start == 0;
        let decoder = ReaderBuilder::new(Arc::new(Schema::new(fields)))
            .with_format(format(options)?.with_header(header))
            .with_batch_size(batch_rows)
            .with_projection(columns.iter().map(|(index, ..)| *index).collect())
            .build_decoder();
        Ok(CsvReader {
            lines: text::open_lines(&file, &range)?,
            file,
            range,
            options: options.clone(),
            columns,
            decoder,
            conform: Conform::new(Arc::clone(schema), sources),
            rows: 0,
            is_over: false,
        })
    }

    fn batch(&mut self) -> Result<Option<RecordBatch>, DataError> {
        match decode(&mut self.decoder, &mut self.lines) {
            Ok(None) => Ok(None),
            Ok(Some(batch)) => {
                self.rows += batch.num_rows() as u64;
                let conformed = self.conform.apply(&batch);
                conformed.map(Some).map_err(|cause| bad_file(self.file.path(), cause))
            }
            Err(ArrowError::IoError(_, error)) => Err(text::read_error(self.file.path(), &error)),
            Err(error) => {
                let part = Located { file: &self.file, range: &self.range, whole: false, options: &self.options };
                Err(part.explain(self.rows, &self.columns, &error))
            }
        }
    }
}

impl Iterator for CsvReader {
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

/// The next batch of the lines.
fn decode(decoder: &mut Decoder, lines: &mut dyn BufRead) -> Result<Option<RecordBatch>, ArrowError> {
    loop {
        let decoded = decoder.decode(lines.fill_buf()?)?;
        lines.consume(decoded);
        if decoded == 0 || decoder.capacity() == 0 {
            return decoder.flush();
        }
    }
}

/// The names of the columns of a file, or as many made up if it has no header.
fn first_record(file: &SourceFile, options: &CsvOptions) -> Result<Vec<String>, DataError> {
    let mut reader = records(text::open_whole(file)?, options);
    let mut record = ByteRecord::new();
    reader.read_byte_record(&mut record).map_err(|e| csv_error(file.path(), e))?;
    let name = |(index, field)| match options.has_header {
        true => String::from_utf8_lossy(field).into_owned(),
        false => format!("column_{}", index + 1),
    };
    Ok(record.iter().enumerate().map(name).collect())
}

fn records<R: io::Read>(lines: R, options: &CsvOptions) -> csv::Reader<R> {
    csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .delimiter(options.delimiter)
        .quote(options.quote)
        .escape(options.escape)
        .comment(options.comment)
        .from_reader(lines)
}

fn format(options: &CsvOptions) -> Result<Format, DataError> {
    let texts: Vec<String> = options.null_values.iter().map(|text| regex::escape(text)).collect();
    let nulls = Regex::new(&format!("^(?:|{})$", texts.join("|")))
        .map_err(|e| DataError::InvalidPlan { operator: "read_csv".into(), cause: e.to_string() })?;
    let mut format =
        Format::default().with_header(options.has_header).with_delimiter(options.delimiter).with_quote(options.quote);
    // Without texts of its own the reader compares with nothing, which is quicker.
    if !texts.is_empty() {
        format = format.with_null_regex(nulls);
    }
    if let Some(escape) = options.escape {
        format = format.with_escape(escape);
    }
    if let Some(comment) = options.comment {
        format = format.with_comment(comment);
    }
    Ok(format)
}

fn csv_error(path: &str, error: csv::Error) -> DataError {
    let cause = plain(&error);
    match error.into_kind() {
        csv::ErrorKind::Io(error) => text::read_error(path, &error),
        _ => bad_file(path, cause),
    }
}

fn bad_file(path: &str, cause: String) -> DataError {
    DataError::BadFile { path: path.into(), format: "CSV".into(), cause }
}

/// A part of a file in which something is wrong.
struct Located<'a> {
    file: &'a SourceFile,
    range: &'a Range<u64>,
    /// The range does not matter: it is the whole file.
    whole: bool,
    options: &'a CsvOptions,
}

impl Located<'_> {
    /// Where an error of the reader's comes from, which tells only that there is something.
    fn explain(&self, rows: u64, columns: &[(usize, String, DataType)], error: &ArrowError) -> DataError {
        self.file.error(|path| {
            let found = self.locate(rows, columns).unwrap_or_else(Some);
            found.unwrap_or_else(|| bad_file(&path, plain(error)))
        })
    }

    /// The first record after `rows` good ones that does not have as many fields as the first of
    /// the file, or has one that is not of its column's type.
    fn locate(&self, rows: u64, columns: &[(usize, String, DataType)]) -> Result<Option<DataError>, DataError> {
        let (lines, before) = match self.whole || self.range.start == 0 {
            true => (text::open_whole(self.file)?, 0),
            false => {
                // The part begins with the first line that begins in it.
                let before = text::lines_before(self.file, self.range.start.saturating_sub(1))?;
                (text::open_lines(self.file, self.range)?, before + 1)
            }
        };
        let expected = first_record(self.file, self.options)?.len();
        let good = rows + u64::from(self.options.has_header && self.range.start == 0);
        let mut reader = records(lines, self.options);
        let mut record = ByteRecord::new();
        let mut at = 0;
        while reader.read_byte_record(&mut record).map_err(|e| csv_error(self.file.path(), e))? {
            if at >= good
                && let Some((column, cause)) = self.wrong(&record, expected, columns)
            {
                let line = before + record.position().map_or(0, csv::Position::line);
                return Ok(Some(DataError::BadLine { path: self.file.path().into(), line, column, cause }));
            }
            at += 1;
        }
        Ok(None)
    }

    /// What is wrong with a record, and in which column.
    fn wrong(
        &self,
        record: &ByteRecord,
        expected: usize,
        columns: &[(usize, String, DataType)],
    ) -> Option<(Option<String>, String)> {
        if record.len() != expected {
            return Some((None, format!("it has {} fields where the first line has {expected}", record.len())));
        }
        if let Some(field) = record.iter().position(|field| std::str::from_utf8(field).is_err()) {
            let name = columns.iter().find(|(index, ..)| *index == field).map(|(_, name, _)| name.clone());
            return Some((Some(name.unwrap_or_else(|| format!("number {}", field + 1))), "it is not UTF-8".into()));
        }
        columns.iter().find_map(|(index, name, data_type)| {
            let field = std::str::from_utf8(&record[*index]).ok()?;
            let is_null = field.is_empty() || self.options.null_values.iter().any(|null| null == field);
            (!is_null && !is_of_type(field, data_type)).then(|| {
                let cause = format!(
                    "{field:?} is no {data_type}, which the first {} rows say the column is; infer from more rows, \
                     or name the column's type",
                    self.options.infer_rows
                );
                (Some(name.clone()), cause)
            })
        })
    }
}

/// Whether the reader can read a field as `data_type`.
fn is_of_type(field: &str, data_type: &DataType) -> bool {
    let schema = Schema::new(vec![Field::new("field", data_type.clone(), true)]);
    let mut decoder = ReaderBuilder::new(Arc::new(schema)).with_batch_size(1).build_decoder();
    let line = format!("\"{}\"\n", field.replace('"', "\"\""));
    decode(&mut decoder, &mut line.as_bytes()).is_ok()
}
