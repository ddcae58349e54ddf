//! How files are written: the format, how they are cut, and what becomes of earlier ones.
//!
//! Entry type: [`WriteOptions`]. It is plain data; [`BlockWriter`](crate::block_writer) does what
//! it says, and [`OutputDir`](crate::output_dir) puts the files in their place; in a store,
//! `OutputStore` does.

use std::collections::BTreeSet;

use arrow::datatypes::Schema;
use serde::{Deserialize, Serialize};

use crate::error::DataError;
use crate::source::{CSV_EXTENSIONS, JSON_EXTENSIONS, PARQUET_EXTENSIONS};
use crate::storage::StorageOptions;

/// How files are written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteOptions {
    /// What is in the files.
    pub format: WriteFormat,
    /// How it is compressed: pages of Parquet, whole files of text.
    pub compression: Compression,
    /// What to do about an earlier run's output.
    pub mode: WriteMode,
    /// Columns whose values become the names of directories; they are not in the files.
    pub partition_by: Vec<String>,
    /// A file ends at so many rows.
    pub max_file_rows: Option<u64>,
    /// A file ends at about so many bytes.
    pub max_file_bytes: Option<u64>,
    /// Rows in a row group of a Parquet file at most.
    pub row_group_rows: u64,
    /// How the store is reached that they are written to; as for what is read, if not given.
    pub storage: Option<StorageOptions>,
}

/// What is in a file that is written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum WriteFormat {
    /// Parquet.
    #[default]
    Parquet,
    /// Comma-separated values. Nulls and empty texts are empty fields.
    Csv {
        /// What stands between two fields.
        delimiter: u8,
        /// The first line of every file names the columns.
        header: bool,
    },
    /// One JSON object on each line, with all columns, null or not. JSON has no NaN and no infinite
    /// numbers: they are null.
    Json,
}

/// How files are compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Compression {
    /// Not at all.
    None,
    /// Fast; of Parquet only.
    #[default]
    Snappy,
    /// Smaller, slower.
    Zstd,
    /// What everything can read.
    Gzip,
    /// Fast; of Parquet only.
    Lz4,
}

/// What to do about an earlier run's output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum WriteMode {
    /// Anything visible in the directory is an error.
    #[default]
    ErrorIfExists,
    /// The `part-` files of earlier runs are replaced, when this one succeeds, in the
    /// directories of values as well. Another file of the format in one of these directories is
    /// an error: a reader would mix it with the result. On a file system so is what another run
    /// has written there since this one began: the one that is done first wins.
    Overwrite,
    /// This run's files are added after those of earlier runs.
    Append,
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self {
            format: WriteFormat::default(),
            compression: Compression::default(),
            mode: WriteMode::default(),
            partition_by: Vec::new(),
            max_file_rows: None,
            max_file_bytes: None,
            row_group_rows: DEFAULT_ROW_GROUP_ROWS,
            storage: None,
        }
    }
}

impl WriteOptions {
    /// CSV with a header and commas, not compressed.
    #[must_use]
    pub fn csv() -> Self {
        let format = WriteFormat::Csv { delimiter: b',', header: true };
        Self { format, compression: Compression::None, ..Self::default() }
    }

    /// JSON lines, not compressed.
    #[must_use]
    pub fn json() -> Self {
        Self { format: WriteFormat::Json, compression: Compression::None, ..Self::default() }
    }

    /// The name of the operator that writes.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self.format {
            WriteFormat::Parquet => "write_parquet",
            WriteFormat::Csv { .. } => "write_csv",
            WriteFormat::Json => "write_json",
        }
    }

    /// How the names of the files end.
    #[must_use]
    pub fn extension(&self) -> &'static str {
        match (&self.format, self.compression) {
            (WriteFormat::Parquet, _) => ".parquet",
            (WriteFormat::Csv { .. }, Compression::Gzip) => ".csv.gz",
            (WriteFormat::Csv { .. }, Compression::Zstd) => ".csv.zst",
            (WriteFormat::Csv { .. }, _) => ".csv",
            (WriteFormat::Json, Compression::Gzip) => ".json.gz",
            (WriteFormat::Json, Compression::Zstd) => ".json.zst",
            (WriteFormat::Json, _) => ".json",
        }
    }

    /// How the names of files end that a reader of the format would read.
    #[must_use]
    pub fn read_extensions(&self) -> &'static [&'static str] {
        match self.format {
            WriteFormat::Parquet => PARQUET_EXTENSIONS,
            WriteFormat::Csv { .. } => CSV_EXTENSIONS,
            WriteFormat::Json => JSON_EXTENSIONS,
        }
    }

    /// Whether rows of these columns can be written so.
    pub fn check(&self, schema: &Schema) -> Result<(), DataError> {
        self.check_alone()?;
        let mut seen = BTreeSet::new();
        for column in &self.partition_by {
            let Ok(field) = schema.field_with_name(column) else {
                return Err(DataError::UnknownColumn {
                    operator: self.name().into(),
                    column: column.clone(),
                    available: schema.fields().iter().map(|f| f.name().clone()).collect(),
                });
            };
            if !seen.insert(column) {
                return Err(self.invalid(format!("column {column} is named twice in partition_by")));
            }
            let data_type = field.data_type();
            if data_type.is_nested() || data_type.is_binary() || column.is_empty() {
                return Err(self.invalid(format!(
                    "column {column:?} is {data_type} and gives no directory names: partition by numbers, texts, \
                     dates or truth values"
                )));
            }
        }
        if !seen.is_empty() && seen.len() == schema.fields().len() {
            return Err(self.invalid("partition_by names all columns: nothing is left for the files".into()));
        }
        let mut in_files = schema.fields().iter().filter(|field| !seen.contains(field.name()));
        match in_files.find(|field| matches!(self.format, WriteFormat::Csv { .. }) && field.data_type().is_nested()) {
            Some(field) => Err(self.invalid(format!(
                "column {} is {}, which a field of CSV cannot hold: write JSON or Parquet, or leave it out",
                field.name(),
                field.data_type()
            ))),
            None => Ok(()),
        }
    }

    /// Whether the options make sense, whatever the columns are.
    pub fn check_alone(&self) -> Result<(), DataError> {
        let is_text = self.format != WriteFormat::Parquet;
        if is_text && matches!(self.compression, Compression::Snappy | Compression::Lz4) {
            return Err(self.invalid(format!(
                "there is no {:?} compression of text files: choose Gzip, Zstd or None",
                self.compression
            )));
        }
        if let WriteFormat::Csv { delimiter: delimiter @ (b'"' | b'\n' | b'\r' | 0x80..), .. } = self.format {
            return Err(self.invalid(format!("fields cannot be told apart by byte {delimiter:#04x}")));
        }
        if self.max_file_rows == Some(0) || self.max_file_bytes == Some(0) || self.row_group_rows == 0 {
            return Err(self.invalid("a file and a row group have at least one row and one byte".into()));
        }
        Ok(())
    }

    fn invalid(&self, cause: String) -> DataError {
        DataError::InvalidPlan { operator: self.name().into(), cause }
    }
}

/// Rows in a row group unless told otherwise.
pub const DEFAULT_ROW_GROUP_ROWS: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::{DataType, Field, Fields};

    fn schema() -> Schema {
        let nested = DataType::Struct(Fields::from(vec![Field::new("x", DataType::Int64, true)]));
        Schema::new(vec![
            Field::new("n", DataType::Int64, true),
            Field::new("s", DataType::Utf8, true),
            Field::new("nested", nested, true),
            Field::new("bytes", DataType::Binary, true),
        ])
    }

    #[test]
    fn what_cannot_be_written_is_refused_before_the_run() {
        let refused = |options: WriteOptions| options.check(&schema()).unwrap_err().to_string();
        let by = |columns: &[&str]| WriteOptions {
            partition_by: columns.iter().map(|c| (*c).to_owned()).collect(),
            ..WriteOptions::default()
        };
        assert_eq!(refused(by(&["m"])), "write_parquet: there is no column m; there are n, s, nested, bytes");
        assert!(refused(by(&["n", "n"])).contains("named twice"));
        assert!(refused(by(&["nested"])).contains("no directory names"));
        assert!(refused(by(&["bytes"])).contains("no directory names"));
        let two = schema().project(&[0, 1]).unwrap();
        assert!(by(&["n", "s"]).check(&two).unwrap_err().to_string().contains("all columns"));
        assert!(refused(WriteOptions::csv()).contains("column nested"));
        assert!(refused(WriteOptions { compression: Compression::Snappy, ..WriteOptions::json() }).contains("Snappy"));
        assert!(refused(WriteOptions { max_file_rows: Some(0), ..WriteOptions::json() }).contains("at least one"));
        let quotes = WriteFormat::Csv { delimiter: b'"', header: true };
        assert!(refused(WriteOptions { format: quotes, ..WriteOptions::csv() }).contains("0x22"));
        for options in [by(&["s"]), WriteOptions::json(), WriteOptions::default()] {
            options.check(&schema()).unwrap();
        }
        let gzip = WriteOptions { compression: Compression::Gzip, ..WriteOptions::csv() };
        gzip.check(&two).unwrap();
        assert_eq!((gzip.extension(), gzip.name()), (".csv.gz", "write_csv"));
    }
}
