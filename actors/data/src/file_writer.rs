//! Writing one file of any format.
//!
//! Entry type: [`FileWriter`].

use std::io::{self, BufWriter, Write};
use std::path::Path;

use arrow::csv;
use arrow::datatypes::SchemaRef;
use arrow::json;
use arrow::json::writer::LineDelimited;
use arrow::record_batch::RecordBatch;
use flate2::write::GzEncoder;
use parquet::arrow::ArrowWriter;
use zstd::stream::write::Encoder as ZstdEncoder;

use crate::error::DataError;
use crate::file_out::FileOut;
use crate::parquet_write::{properties, write_error};
use crate::words::plain;
use crate::write::{Compression, WriteFormat, WriteOptions};

/// Writes one file. Errors name it by the path it was given.
pub(crate) enum FileWriter {
    Parquet(Box<ArrowWriter<FileOut>>),
    Text(Box<TextWriter>),
}

impl FileWriter {
    /// Starts the file at `path`, which is `file`, with the columns of `schema`.
    pub(crate) fn new(
        path: &Path,
        file: FileOut,
        schema: &SchemaRef,
        options: &WriteOptions,
    ) -> Result<Self, DataError> {
        if options.format == WriteFormat::Parquet {
            let writer = ArrowWriter::try_new(file, SchemaRef::clone(schema), Some(properties(options)));
            return Ok(Self::Parquet(Box::new(writer.map_err(|e| write_error(path, &e))?)));
        }
        let out = TextOut::new(file, options.compression).map_err(|e| DataError::write(path, &e))?;
        let mut writer = TextWriter { out, format: options.format.clone(), encoded: Vec::new() };
        // The header comes with the first batch; a file without rows has it, too.
        writer.write(path, &RecordBatch::new_empty(SchemaRef::clone(schema)))?;
        if let WriteFormat::Csv { header, .. } = &mut writer.format {
            *header = false;
        }
        Ok(Self::Text(Box::new(writer)))
    }

    /// Adds rows.
    pub(crate) fn write(&mut self, path: &Path, batch: &RecordBatch) -> Result<(), DataError> {
        match self {
            Self::Parquet(writer) => writer.write(batch).map_err(|e| write_error(path, &e)),
            Self::Text(writer) => writer.write(path, batch),
        }
    }

    /// About how many bytes the file would have if it ended now.
    pub(crate) fn bytes(&self) -> u64 {
        match self {
            Self::Parquet(writer) => (writer.bytes_written() + writer.in_progress_size()) as u64,
            Self::Text(writer) => writer.out.bytes(),
        }
    }

    /// About how many bytes of memory it holds.
    pub(crate) fn memory_bytes(&self) -> u64 {
        match self {
            Self::Parquet(writer) => writer.memory_size() as u64,
            Self::Text(writer) => writer.encoded.capacity() as u64,
        }
    }

    /// Ends the file, and gives back where it went.
    pub(crate) fn finish(self, path: &Path) -> Result<FileOut, DataError> {
        match self {
            Self::Parquet(writer) => writer.into_inner().map_err(|e| write_error(path, &e)),
            Self::Text(writer) => writer.out.finish().map_err(|e| DataError::write(path, &e)),
        }
    }
}

/// Writes text, batch by batch: a batch is encoded in memory first, so that an error of the
/// system's stays one.
pub(crate) struct TextWriter {
    out: TextOut,
    format: WriteFormat,
    encoded: Vec<u8>,
}

impl TextWriter {
    fn write(&mut self, path: &Path, batch: &RecordBatch) -> Result<(), DataError> {
        self.encoded.clear();
        let encoded = match self.format {
            WriteFormat::Csv { delimiter, header } => {
                let builder = csv::WriterBuilder::new().with_header(header).with_delimiter(delimiter);
                builder.build(&mut self.encoded).write(batch)
            }
            _ => {
                let builder = json::WriterBuilder::new().with_explicit_nulls(true);
                builder.build::<_, LineDelimited>(&mut self.encoded).write(batch)
            }
        };
        encoded.map_err(|e| DataError::Write { path: path.display().to_string(), cause: plain(&e) })?;
        self.out.write_all(&self.encoded).map_err(|e| DataError::write(path, &e))
    }
}

/// Where text goes, compressed or not.
enum TextOut {
    Plain(Counted),
    Gzip(GzEncoder<Counted>),
    Zstd(ZstdEncoder<'static, Counted>),
}

impl TextOut {
    fn new(file: FileOut, compression: Compression) -> io::Result<Self> {
        let out = Counted { file: BufWriter::new(file), bytes: 0 };
        Ok(match compression {
            Compression::Gzip => Self::Gzip(GzEncoder::new(out, flate2::Compression::default())),
            Compression::Zstd => Self::Zstd(ZstdEncoder::new(out, zstd::DEFAULT_COMPRESSION_LEVEL)?),
            _ => Self::Plain(out),
        })
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(out) => out.write_all(bytes),
            Self::Gzip(out) => out.write_all(bytes),
            Self::Zstd(out) => out.write_all(bytes),
        }
    }

    fn bytes(&self) -> u64 {
        match self {
            Self::Plain(out) => out.bytes,
            Self::Gzip(out) => out.get_ref().bytes,
            Self::Zstd(out) => out.get_ref().bytes,
        }
    }

    fn finish(self) -> io::Result<FileOut> {
        let out = match self {
            Self::Plain(out) => out,
            Self::Gzip(out) => out.finish()?,
            Self::Zstd(out) => out.finish()?,
        };
        out.file.into_inner().map_err(io::IntoInnerError::into_error)
    }
}

/// A file that knows how much was written to it.
struct Counted {
    file: BufWriter<FileOut>,
    bytes: u64,
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
