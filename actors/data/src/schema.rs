//! One schema for files that do not agree.
//!
//! Entry types: [`unify`], which finds the common schema of some files and where each file
//! keeps each column of it, and [`Conform`], which turns a batch of one file into a batch of
//! that schema. Columns are matched by name (with or without case, with aliases), and types
//! widen: integers to wider integers, integers and floats to float64 (a whole number that a
//! float64 cannot hold is an error of the read), the null type to any other, every kind of string
//! to `Utf8`. A column that a file lacks is null there.
//!
//! Timestamps of different units become microseconds; what is finer is cut off. Timestamps of
//! one zone keep it, and differences between them are those of instants. Where files differ in
//! the zone, or some have none, the column becomes the time on the wall of each, without a zone:
//! differences across a change of the clocks are then off by it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit};
use serde::{Deserialize, Serialize};

use crate::error::DataError;
use crate::expr::ValueType;
use crate::hive::{HiveColumns, HiveValue};

mod conform;

pub use conform::Conform;

/// How the columns of files are matched to each other.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Matching {
    /// Names that differ only in case mean the same column.
    pub ignore_case: bool,
    /// Names to give to columns. They come first in the unified schema, in this order.
    pub names: Vec<ColumnName>,
    /// Columns that every file must have.
    pub required: Vec<String>,
    /// Every timestamp becomes microseconds, not only those on whose units files differ.
    pub microseconds: bool,
}

/// A name for a column that files spell in different ways.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ColumnName {
    /// The name in the unified schema.
    pub name: String,
    /// Other names of the same column. When all files that have it use the same one, the
    /// column keeps that name; otherwise it gets `name`.
    pub aliases: Vec<String>,
    /// The type when no file says one (all have the null type).
    pub default_type: Option<ValueType>,
}

/// A file's name and the schema found in it.
#[derive(Debug, Clone)]
pub struct FileSchema<'a> {
    /// Where the file is, for errors.
    pub path: &'a str,
    /// Its columns.
    pub schema: &'a Schema,
    /// Columns that have one value in the whole file, told by the directories it lies in.
    pub hive: &'a [HiveValue],
}

/// Where a file has a column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ColumnSource {
    /// Nowhere: it is null.
    Missing,
    /// In the column at this position.
    File(u32),
    /// In the fields of this name: of JSON, which has no positions.
    Named(String),
    /// In a directory's name: every row has this value.
    Value(String),
}

/// The common schema of some files.
#[derive(Debug, Clone, PartialEq)]
pub struct Unified {
    /// The columns, without metadata.
    pub schema: SchemaRef,
    /// For every file, where it has every column of `schema`.
    pub columns: Vec<Vec<ColumnSource>>,
    /// Timestamps that lost their zone, since files differ in it.
    pub zones_dropped: Vec<String>,
}

/// Finds the common schema of `files`. The columns that directories tell come last; one that a
/// file has as well is read from the directory's name, as all readers of such directories do.
pub fn unify(files: &[FileSchema<'_>], matching: &Matching) -> Result<Unified, DataError> {
    let hive = HiveColumns::of(files, matching);
    let mut columns: Vec<Column> = Vec::new();
    let mut positions: HashMap<Key, usize> = HashMap::new();
    for named in 0..matching.names.len() {
        positions.insert(Key::Named(named), columns.len());
        columns.push(Column::default());
    }
    for (file, FileSchema { path, schema, .. }) in files.iter().enumerate() {
        for (index, field) in schema.fields().iter().enumerate() {
            let (key, spelling) = matching.key(field.name());
            if hive.has(&key) {
                continue;
            }
            let position = *positions.entry(key).or_insert_with(|| {
                columns.push(Column::default());
                columns.len() - 1
            });
            let column = &mut columns[position];
            if let Some(first) = column.places.get(&file) {
                return Err(DataError::AmbiguousColumn {
                    path: (*path).into(),
                    name: spelling,
                    first: schema.field(*first).name().clone(),
                    second: field.name().clone(),
                });
            }
            column.add(file, index, path, field, spelling, matching.microseconds)?;
        }
        matching.check_required(&files[file])?;
    }
    let present = |(position, column): &(usize, Column)| *position >= matching.names.len() || !column.places.is_empty();
    let columns: Vec<_> = columns.into_iter().enumerate().filter(present).collect();
    let mut fields: Vec<Field> =
        columns.iter().map(|(position, column)| column.field(matching.names.get(*position), files.len())).collect();
    let place = |column: &Column, file| match column.places.get(&file) {
        Some(index) => ColumnSource::File(*index as u32),
        None => ColumnSource::Missing,
    };
    let dropped = columns.iter().zip(&fields).filter(|((_, column), _)| column.zone_dropped);
    let zones_dropped = dropped.map(|(_, field)| field.name().clone()).collect();
    let places = |file| columns.iter().map(|(_, column)| place(column, file)).chain(hive.sources(file)).collect();
    let columns = (0..files.len()).map(places).collect();
    fields.extend(hive.fields());
    Ok(Unified { schema: Arc::new(Schema::new(fields)), columns, zones_dropped })
}

/// The type that holds every value of both, if there is one.
#[must_use]
pub fn common_type(left: &DataType, right: &DataType) -> Option<DataType> {
    use DataType::{Float16, Float32, Float64, Int16, Int32, Int64, Null, Timestamp, UInt64};
    if left == right {
        return Some(left.clone());
    }
    Some(match (left, right) {
        (Null, other) | (other, Null) => other.clone(),
        (Timestamp(_, one), Timestamp(_, other)) if one == other => Timestamp(TimeUnit::Microsecond, one.clone()),
        (Timestamp(..), Timestamp(..)) => local_timestamp(),
        (Float16 | Float32, Float16 | Float32) => Float32,
        (a, b) if a.is_floating() && b.is_numeric() || a.is_numeric() && b.is_floating() => {
            let decimal = |t: &DataType| !t.is_floating() && !t.is_integer();
            if decimal(a) || decimal(b) {
                return None;
            }
            Float64
        }
        (a, b) if a.is_integer() && b.is_integer() => {
            let (a_bits, b_bits) = (a.primitive_width()?, b.primitive_width()?);
            if a.is_signed_integer() == b.is_signed_integer() {
                return Some(if a_bits > b_bits { a.clone() } else { b.clone() });
            }
            let (signed, unsigned) = if a.is_signed_integer() { (a_bits, b) } else { (b_bits, a) };
            // Every value of an unsigned type fits the next wider signed one.
            match (signed, unsigned) {
                (_, UInt64) => return None,
                (8, _) | (_, DataType::UInt32) => Int64,
                (4, _) | (_, DataType::UInt16) => Int32,
                _ => Int16,
            }
        }
        _ => return None,
    })
}

/// The type in which a column of type `data_type` is handled: one kind of string and of
/// binary, no dictionaries.
#[must_use]
pub fn plain_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Dictionary(_, values) => plain_type(values),
        DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::LargeBinary | DataType::BinaryView => DataType::Binary,
        other => other.clone(),
    }
}

/// Serialises a schema as Arrow's own flat buffer: for `#[serde(with = "schema::wire")]`.
pub mod wire {
    use super::{Arc, Schema, SchemaRef};
    use arrow::ipc::convert::{IpcSchemaEncoder, fb_to_schema};
    use serde::de::Error as _;
    use serde::{Deserializer, Serializer};

    /// Writes the schema.
    pub fn serialize<S: Serializer>(schema: &SchemaRef, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&to_bytes(schema))
    }

    /// Reads the schema; bytes that are none are an error.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SchemaRef, D::Error> {
        let bytes: bytes::Bytes = serde::Deserialize::deserialize(deserializer)?;
        from_bytes(&bytes).map(Arc::new).map_err(D::Error::custom)
    }

    /// The flat buffer of a schema.
    #[must_use]
    pub fn to_bytes(schema: &Schema) -> Vec<u8> {
        IpcSchemaEncoder::new().schema_to_fb(schema).finished_data().to_vec()
    }

    /// The schema in a flat buffer.
    pub fn from_bytes(bytes: &[u8]) -> Result<Schema, String> {
        arrow::ipc::root_as_schema(bytes).map(fb_to_schema).map_err(|e| format!("not an Arrow schema: {e}"))
    }
}

/// What makes two columns of different files the same.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    /// An entry of [`Matching::names`].
    Named(usize),
    /// Any other name, in the case in which names are compared.
    Other(String),
}

impl Matching {
    /// Whether two names mean the same column, aliases aside.
    #[must_use]
    pub fn same(&self, a: &str, b: &str) -> bool {
        if self.ignore_case { a.eq_ignore_ascii_case(b) } else { a == b }
    }

    /// The column that `name` means, and how its name is spelt properly.
    pub(crate) fn key(&self, name: &str) -> (Key, String) {
        for (index, named) in self.names.iter().enumerate() {
            let spellings = std::iter::once(&named.name).chain(&named.aliases);
            if let Some(spelling) = spellings.into_iter().find(|s| self.same(s, name)) {
                return (Key::Named(index), spelling.clone());
            }
        }
        let key = if self.ignore_case { name.to_ascii_lowercase() } else { name.to_owned() };
        (Key::Other(key), name.to_owned())
    }

    fn check_required(&self, file: &FileSchema<'_>) -> Result<(), DataError> {
        let names = || file.schema.fields().iter().map(|f| f.name()).chain(file.hive.iter().map(|(name, _)| name));
        for required in &self.required {
            let (wanted, _) = self.key(required);
            if !names().any(|name| self.key(name).0 == wanted) {
                return Err(DataError::MissingColumn {
                    path: file.path.into(),
                    column: required.clone(),
                    available: names().cloned().collect(),
                });
            }
        }
        Ok(())
    }
}

/// A column of the unified schema while it is being found.
#[derive(Debug, Default)]
struct Column {
    places: HashMap<usize, usize>,
    spellings: BTreeSet<String>,
    first_spelling: Option<String>,
    data_type: Option<(DataType, String)>,
    nullable: bool,
    zone_dropped: bool,
}

impl Column {
    fn add(
        &mut self,
        file: usize,
        index: usize,
        path: &str,
        field: &FieldRef,
        spelling: String,
        microseconds: bool,
    ) -> Result<(), DataError> {
        let found = match plain_type(field.data_type()) {
            DataType::Timestamp(_, zone) if microseconds => DataType::Timestamp(TimeUnit::Microsecond, zone),
            other => other,
        };
        self.places.insert(file, index);
        self.nullable |= field.is_nullable();
        if let Some((DataType::Timestamp(_, known), _)) = &self.data_type
            && let DataType::Timestamp(_, zone) = &found
        {
            self.zone_dropped |= known != zone;
        }
        let unified = match &self.data_type {
            None => found,
            Some((known, known_path)) => common_type(known, &found).ok_or_else(|| DataError::TypeConflict {
                column: spelling.clone(),
                left: known.to_string(),
                left_path: known_path.clone(),
                right: found.to_string(),
                right_path: path.into(),
            })?,
        };
        self.data_type = Some((unified, path.into()));
        self.first_spelling.get_or_insert_with(|| spelling.clone());
        self.spellings.insert(spelling);
        Ok(())
    }

    fn field(&self, named: Option<&ColumnName>, files: usize) -> Field {
        let first = self.first_spelling.clone().unwrap_or_default();
        let name = match named {
            Some(named) if self.spellings.len() > 1 => named.name.clone(),
            _ => first,
        };
        let data_type = self.data_type.as_ref().map_or(DataType::Null, |(t, _)| t.clone());
        let data_type = match (data_type, named.and_then(|n| n.default_type)) {
            (DataType::Null, Some(default)) => default.to_arrow(),
            (found, _) => found,
        };
        Field::new(name, data_type, self.nullable || self.places.len() < files)
    }
}

fn local_timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, None)
}

#[cfg(test)]
mod tests;
