//! What the text formats have in common: how they are read, and the lines of a part of a file.
//!
//! Entry types: [`CsvOptions`], [`JsonOptions`], and `open_lines`, which gives the lines that
//! begin within some bytes. A file that is cut into byte ranges is read as a whole would be: a
//! line belongs to the range in which its first byte lies, whatever range its last one lies in.
//!
//! ```text
//!  bytes    0         10        20
//!           a,1\nb,22\nc,333\nd,4\n
//!  pieces   |--------|---------|--|        a and b, c and d, nothing
//! ```

use std::io::{self, BufRead, BufReader, Read};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use flate2::read::MultiGzDecoder;
use serde::{Deserialize, Serialize};

use crate::error::DataError;
use crate::expr::ValueType;
use crate::source_file::SourceFile;
use crate::storage::error_within;

/// How CSV files are read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CsvOptions {
    /// What stands between two fields.
    pub delimiter: u8,
    /// The first record names the columns; they are `column_1` and so on otherwise.
    pub has_header: bool,
    /// What fields are put in that hold a delimiter or a line break; twice within, it means
    /// itself.
    pub quote: u8,
    /// What takes the meaning of a quote within a field, besides doubling it.
    pub escape: Option<u8>,
    /// Lines that begin with this are left out.
    pub comment: Option<u8>,
    /// Texts that mean null. An empty field always does.
    pub null_values: Vec<String>,
    /// How many records, from the first, decide the types of columns that are not given.
    pub infer_rows: usize,
    /// Types that are given rather than inferred, by the names of columns.
    pub types: Vec<(String, ValueType)>,
    /// Dates and times are recognised; they are texts otherwise.
    pub dates: bool,
    /// Quoted fields may hold line breaks. A file is then read by one task; where none does,
    /// saying so lets several read it.
    pub newlines_in_values: bool,
}

impl Default for CsvOptions {
    fn default() -> Self {
        Self {
            delimiter: b',',
            has_header: true,
            quote: b'"',
            escape: None,
            comment: None,
            null_values: Vec::new(),
            infer_rows: DEFAULT_INFER_ROWS,
            types: Vec::new(),
            dates: true,
            newlines_in_values: true,
        }
    }
}

/// How files of JSON lines are read: one object on each line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JsonOptions {
    /// How many lines, from the first, decide what columns there are and their types.
    pub infer_rows: usize,
    /// Types that are given rather than inferred, by the names of columns.
    pub types: Vec<(String, ValueType)>,
}

impl Default for JsonOptions {
    fn default() -> Self {
        Self { infer_rows: DEFAULT_INFER_ROWS, types: Vec::new() }
    }
}

/// How a text file is compressed, by the end of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TextCompression {
    None,
    Gzip,
    Zstd,
}

impl TextCompression {
    pub(crate) fn of(path: &str) -> Self {
        let ends = |end: &str| {
            path.len() > end.len() && path.as_bytes()[path.len() - end.len()..].eq_ignore_ascii_case(end.as_bytes())
        };
        match (ends(".gz"), ends(".zst")) {
            (true, _) => Self::Gzip,
            (_, true) => Self::Zstd,
            _ => Self::None,
        }
    }
}

/// All lines of a file. A byte order mark at its start is left out.
pub(crate) fn open_whole(file: &SourceFile) -> Result<Box<dyn BufRead + Send>, DataError> {
    let path = file.path();
    let failed = |e: io::Error| DataError::read(Path::new(path), &e);
    let file = file.read_from(0)?;
    let mut lines: Box<dyn BufRead + Send> = match TextCompression::of(path) {
        TextCompression::None => Box::new(BufReader::with_capacity(BUFFER_BYTES, file)),
        TextCompression::Gzip => Box::new(BufReader::with_capacity(BUFFER_BYTES, MultiGzDecoder::new(file))),
        TextCompression::Zstd => {
            let decoder = zstd::stream::read::Decoder::new(file).map_err(failed)?;
            Box::new(BufReader::with_capacity(BUFFER_BYTES, decoder))
        }
    };
    skip_mark(&mut lines).map_err(|e| read_error(path, &e))?;
    Ok(lines)
}

/// The lines of a file that begin within `range`. A compressed file is not cut: all its lines
/// are in any range that begins at 0.
pub(crate) fn open_lines(file: &SourceFile, range: &Range<u64>) -> Result<Box<dyn BufRead + Send>, DataError> {
    let (path, size) = (file.path(), file.size()?);
    if TextCompression::of(path) != TextCompression::None {
        file.will_read(std::slice::from_ref(&(0..size)));
        return open_whole(file);
    }
    if size < range.end {
        let cause = format!("it had {} bytes or more and has {size}", range.end);
        return Err(DataError::FileChanged { path: path.into(), cause });
    }
    let failed = |e: io::Error| DataError::read(Path::new(path), &e);
    // The line that a byte before the range belongs to is another range's; if that byte ends it,
    // nothing is skipped but that byte.
    let mut at = range.start.saturating_sub(1);
    // The last line may go on after the range.
    file.will_read(std::slice::from_ref(&(at..range.end.saturating_add(BUFFER_BYTES as u64).min(size))));
    let mut file = BufReader::with_capacity(BUFFER_BYTES, file.read_from(at)?);
    if range.start > 0 {
        at += file.skip_until(b'\n').map_err(failed)? as u64;
    } else {
        at += skip_mark(&mut file).map_err(failed)?;
    }
    Ok(Box::new(Lines { file, left: range.end.saturating_sub(at), is_over: range.end <= at, line_end: None }))
}

/// How many lines end before byte `at` of a file that is not compressed.
pub(crate) fn lines_before(file: &SourceFile, at: u64) -> Result<u64, DataError> {
    let path = file.path();
    let failed = |e: io::Error| DataError::read(Path::new(path), &e);
    let mut file = BufReader::with_capacity(BUFFER_BYTES, file.read_from(0)?).take(at);
    let mut lines = 0;
    loop {
        let buffer = file.fill_buf().map_err(failed)?;
        if buffer.is_empty() {
            return Ok(lines);
        }
        lines += memchr::memchr_iter(b'\n', buffer).count() as u64;
        let bytes = buffer.len();
        file.consume(bytes);
    }
}

/// An error of reading the text of `path`: a compressed file that is damaged is no error of the
/// system's.
pub(crate) fn read_error(path: &str, error: &io::Error) -> DataError {
    if let Some(error) = error_within(error) {
        return error;
    }
    let bad_file = |format: &str| {
        let (path, format) = (path.into(), format.into());
        DataError::BadFile { path, format, cause: error.to_string() }
    };
    match (error.raw_os_error(), TextCompression::of(path)) {
        (None, TextCompression::Gzip) => bad_file("gzip"),
        (None, TextCompression::Zstd) => bad_file("zstd"),
        _ => DataError::read(Path::new(path), error),
    }
}

/// The schema with some columns of another type.
pub(crate) fn with_type(schema: &Schema, columns: &[usize], data_type: &DataType) -> SchemaRef {
    let typed = |(index, field): (usize, &Arc<Field>)| match columns.contains(&index) {
        true => Arc::new(field.as_ref().clone().with_data_type(data_type.clone())),
        false => Arc::clone(field),
    };
    Arc::new(Schema::new(schema.fields().iter().enumerate().map(typed).collect::<Vec<_>>()))
}

/// The inferred schema with the types that are given.
pub(crate) fn with_given_types(schema: &Schema, types: &[(String, ValueType)]) -> SchemaRef {
    let mut schema = Arc::new(schema.clone());
    for (name, given) in types {
        if let Ok(index) = schema.index_of(name) {
            schema = with_type(&schema, &[index], &given.to_arrow());
        }
    }
    schema
}

fn skip_mark(lines: &mut impl BufRead) -> io::Result<u64> {
    if !lines.fill_buf()?.starts_with(BYTE_ORDER_MARK) {
        return Ok(0);
    }
    lines.consume(BYTE_ORDER_MARK.len());
    Ok(BYTE_ORDER_MARK.len() as u64)
}

/// The lines that begin in the next `left` bytes of a file, the last one whole.
struct Lines {
    file: BufReader<Box<dyn Read + Send>>,
    /// Bytes to where no more lines begin.
    left: u64,
    is_over: bool,
    /// In the buffer that was handed out: where the last line ends.
    line_end: Option<usize>,
}

impl BufRead for Lines {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.line_end = None;
        if self.is_over {
            return Ok(&[]);
        }
        let buffer = self.file.fill_buf()?;
        // The last byte of the range may end a line, after which none begins.
        let within = usize::try_from(self.left.saturating_sub(1)).unwrap_or(usize::MAX);
        if within >= buffer.len() {
            return Ok(buffer);
        }
        match memchr::memchr(b'\n', &buffer[within..]) {
            Some(end) => {
                let end = within + end + 1;
                self.line_end = Some(end);
                Ok(&buffer[..end])
            }
            None => Ok(buffer),
        }
    }

    fn consume(&mut self, bytes: usize) {
        self.is_over |= self.line_end == Some(bytes);
        self.left = self.left.saturating_sub(bytes as u64);
        self.file.consume(bytes);
    }
}

impl Read for Lines {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let bytes = self.fill_buf()?.read(to)?;
        self.consume(bytes);
        Ok(bytes)
    }
}

/// How many rows decide the types of columns unless told otherwise.
pub const DEFAULT_INFER_ROWS: usize = 10_000;
/// Bytes read at once.
const BUFFER_BYTES: usize = 256 << 10;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
