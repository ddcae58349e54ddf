//! Columns whose values are told by the names of directories, as Hive and Spark write them.
//!
//! Entry types: [`values_in`], the values that the directories of a file tell, and
//! [`directory`], the directory for some values. In `trips/zone=132/part-00000.parquet` every
//! row has 132 in the column `zone`, which is not in the file.
//!
//! A value is percent-encoded where it could be taken for something else; null is
//! `__HIVE_DEFAULT_PARTITION__`. Names tell no types: a column is int64 if all its values are
//! whole numbers, and a string otherwise.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, StringArray};
use arrow::datatypes::{DataType, Field};
use arrow::error::ArrowError;

use crate::schema::{ColumnSource, FileSchema, Key, Matching};

/// A column's name and the value it has in a whole file.
pub type HiveValue = (String, Option<String>);

/// What the directories between `base` and `file` tell, from the outermost. Of a name that comes
/// twice, the inner one counts.
#[must_use]
pub fn values_in(base: &Path, file: &Path) -> Vec<HiveValue> {
    let Ok(below) = file.strip_prefix(base) else {
        return Vec::new();
    };
    let mut values: Vec<HiveValue> = Vec::new();
    for directory in below.parent().into_iter().flat_map(Path::iter) {
        if let Some((name, value)) = directory.to_str().and_then(parse) {
            values.retain(|(known, _)| *known != name);
            values.push((name, value));
        }
    }
    values
}

/// The name of the directory that holds the rows with this value; a path has one for each
/// column.
#[must_use]
pub fn directory(name: &str, value: Option<&str>) -> String {
    let mut text = String::new();
    encode(name, &mut text);
    text.push('=');
    match value {
        None => text.push_str(NULL),
        // A text that says null is not null.
        Some(NULL) => text.push_str(&NULL.replacen('_', "%5F", 1)),
        Some(value) => encode(value, &mut text),
    }
    text
}

/// The column and value that the name of a directory tells, if it tells one.
#[must_use]
pub fn parse(directory: &str) -> Option<HiveValue> {
    let (name, value) = directory.split_once('=')?;
    if name.is_empty() {
        return None;
    }
    Some((decode(name), (value != NULL).then(|| decode(value))))
}

/// So many times a directory's value, as `data_type`.
pub(crate) fn value_array(value: &str, data_type: &DataType, rows: usize) -> Result<ArrayRef, ArrowError> {
    match data_type {
        DataType::Int64 => {
            let number = value.parse().map_err(|_| ArrowError::CastError(format!("{value:?} is no whole number")))?;
            Ok(Arc::new(Int64Array::from_value(number, rows)))
        }
        DataType::Utf8 => Ok(Arc::new(StringArray::from_iter_values(std::iter::repeat_n(value, rows)))),
        other => Err(ArrowError::CastError(format!("a directory's name gives no {other}"))),
    }
}

/// The columns that directories tell, over all files.
pub(crate) struct HiveColumns<'a> {
    files: &'a [FileSchema<'a>],
    matching: &'a Matching,
    columns: Vec<(Key, Field)>,
}

impl<'a> HiveColumns<'a> {
    /// In the order in which the files tell them.
    pub(crate) fn of(files: &'a [FileSchema<'a>], matching: &'a Matching) -> Self {
        let mut columns: Vec<(Key, Field)> = Vec::new();
        for (name, value) in files.iter().flat_map(|file| file.hive) {
            let (key, spelling) = matching.key(name);
            let place = columns.iter().position(|(known, _)| *known == key).unwrap_or_else(|| {
                columns.push((key, Field::new(spelling, DataType::Null, true)));
                columns.len() - 1
            });
            let field = &mut columns[place].1;
            match value.as_deref() {
                Some(value) if value.parse::<i64>().is_err() => field.set_data_type(DataType::Utf8),
                Some(_) if *field.data_type() == DataType::Null => field.set_data_type(DataType::Int64),
                _ => {}
            }
        }
        for (_, field) in &mut columns {
            if *field.data_type() == DataType::Null {
                field.set_data_type(DataType::Utf8);
            }
        }
        Self { files, matching, columns }
    }

    pub(crate) fn has(&self, key: &Key) -> bool {
        self.columns.iter().any(|(known, _)| known == key)
    }

    pub(crate) fn fields(&self) -> impl Iterator<Item = Field> {
        self.columns.iter().map(|(_, field)| field.clone())
    }

    /// Where the file at `file` has these columns.
    pub(crate) fn sources(&self, file: usize) -> impl Iterator<Item = ColumnSource> {
        let values = self.files[file].hive;
        self.columns.iter().map(move |(key, _)| {
            let told = values.iter().find(|(name, _)| self.matching.key(name).0 == *key);
            told.and_then(|(_, value)| value.clone()).map_or(ColumnSource::Missing, ColumnSource::Value)
        })
    }
}

fn encode(text: &str, to: &mut String) {
    for (index, c) in text.chars().enumerate() {
        // A name that begins with a dot is hidden.
        if c.is_ascii_control() || ENCODED.contains(c) || (index == 0 && c == '.') {
            to.push_str(&format!("%{:02X}", u32::from(c)));
        } else {
            to.push(c);
        }
    }
}

/// What is not percent-encoded properly stays as it is.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let digit = |offset: usize| bytes.get(at + offset).and_then(|b| char::from(*b).to_digit(16));
        match (byte, digit(1), digit(2)) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                decoded.push(*byte);
                at += 1;
            }
        }
    }
    String::from_utf8(decoded).unwrap_or_else(|_| text.to_owned())
}

/// The name of the directory of nulls, after the equals sign.
const NULL: &str = "__HIVE_DEFAULT_PARTITION__";

/// What Hive and Spark encode in the names of directories, besides control characters.
const ENCODED: &str = "\"#%'*/:=?\\{[]^";

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::Schema;
    use proptest::prelude::*;

    use crate::schema::unify;

    #[test]
    fn values_are_spelt_as_hive_and_spark_do() {
        assert_eq!(directory("zone", Some("132")), "zone=132");
        assert_eq!(directory("at", Some("2023-01-01 00:00:00")), "at=2023-01-01 00%3A00%3A00");
        assert_eq!(directory("a/b", Some("c=d")), "a%2Fb=c%3Dd");
        assert_eq!(directory("zone", None), "zone=__HIVE_DEFAULT_PARTITION__");
        assert_eq!(parse("zone=a%20b%zz"), Some(("zone".into(), Some("a b%zz".into()))));
        assert_eq!((parse("zone"), parse("=1")), (None, None));
    }

    #[test]
    fn only_directories_below_the_base_tell_values() {
        let of = |base: &str, file: &str| values_in(Path::new(base), Path::new(file));
        let value = |name: &str, value: &str| (name.to_owned(), Some(value.to_owned()));
        assert_eq!(of("/a", "/a/x=1/b/y=2/z=3.parquet"), [value("x", "1"), value("y", "2")]);
        assert_eq!(of("/a/x=1", "/a/x=1/y=2/f"), [value("y", "2")]);
        assert_eq!(of("/b", "/a/x=1/f"), []);
        assert_eq!(of("/a", "/a/x=1/x=2/f"), [value("x", "2")]);
    }

    #[test]
    fn types_are_found_over_all_files() {
        let schema =
            Schema::new(vec![Field::new("n", DataType::Int64, true), Field::new("Zone", DataType::Utf8, true)]);
        let told = |values: &[(&str, Option<&str>)]| -> Vec<HiveValue> {
            values.iter().map(|(name, value)| ((*name).to_owned(), value.map(str::to_owned))).collect()
        };
        let hive =
            [told(&[("zone", Some("1")), ("day", Some("01"))]), told(&[("zone", Some("x")), ("day", None)]), told(&[])];
        let files: Vec<_> = hive.iter().map(|hive| FileSchema { path: "f", schema: &schema, hive }).collect();
        let matching = Matching { ignore_case: true, ..Matching::default() };
        let unified = unify(&files, &matching).unwrap();
        let columns: Vec<_> =
            unified.schema.fields().iter().map(|f| (f.name().as_str(), f.data_type().clone())).collect();
        assert_eq!(columns, [("n", DataType::Int64), ("zone", DataType::Utf8), ("day", DataType::Int64)]);
        let value = |text: &str| ColumnSource::Value(text.into());
        assert_eq!(unified.columns[0], [ColumnSource::File(0), value("1"), value("01")]);
        assert_eq!(unified.columns[1], [ColumnSource::File(0), value("x"), ColumnSource::Missing]);
        assert_eq!(unified.columns[2], [ColumnSource::File(0), ColumnSource::Missing, ColumnSource::Missing]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3000))]
        #[test]
        fn a_directory_tells_what_it_was_named_for(name in "\\PC{1,12}", value in proptest::option::of("(\\PC|[\\x00-\\x20/%._=]){0,16}")) {
            let directory = directory(&name, value.as_deref());
            prop_assert!(!directory.contains('/') && !directory.contains('\0') && !directory.starts_with('.'));
            prop_assert_eq!(parse(&directory), Some((name, value)));
        }
    }
}
