//! Random tables of all types that Arrow, Parquet and DuckDB share.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, ArrowPrimitiveType, BinaryArray, BooleanArray, PrimitiveArray, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    TimeUnit, TimestampNanosecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow::ipc::writer::FileWriter;
use mobula::{Dataset, from_batches, read_parquet};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngExt};

/// The type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Int(DataTypeOfInt),
    Float32,
    Float64,
    Text,
    Binary,
    Date,
    Timestamp(TimeUnit, bool),
    Decimal,
    /// What a query has made, and no other query can name: a list.
    List,
}

/// Whole numbers, by their width; unsigned ones are `U`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DataTypeOfInt {
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
}

use DataTypeOfInt::{I8, I16, I32, I64, U8, U16, U32, U64};

pub(super) const KINDS: [Kind; 24] = [
    Kind::Bool,
    Kind::Int(I8),
    Kind::Int(I16),
    Kind::Int(I32),
    Kind::Int(I64),
    Kind::Int(U8),
    Kind::Int(U16),
    Kind::Int(U32),
    Kind::Int(U64),
    Kind::Float32,
    Kind::Float64,
    Kind::Float64,
    Kind::Float64,
    Kind::Float64,
    Kind::Text,
    Kind::Text,
    Kind::Binary,
    Kind::Date,
    Kind::Timestamp(TimeUnit::Second, false),
    Kind::Timestamp(TimeUnit::Millisecond, false),
    Kind::Timestamp(TimeUnit::Microsecond, true),
    Kind::Timestamp(TimeUnit::Nanosecond, false),
    Kind::Timestamp(TimeUnit::Nanosecond, true),
    Kind::Decimal,
];

impl Kind {
    pub(super) fn is_int(self) -> bool {
        matches!(self, Self::Int(_))
    }

    pub(super) fn is_signed(self) -> bool {
        matches!(self, Self::Int(I8 | I16 | I32 | I64))
    }

    pub(super) fn is_float(self) -> bool {
        matches!(self, Self::Float32 | Self::Float64)
    }

    pub(super) fn is_number(self) -> bool {
        self.is_int() || self.is_float() || self == Self::Decimal
    }
}

/// A column of a table or of a query.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) kind: Kind,
    /// Some of its values are NaN or a zero with a sign.
    pub(super) special: bool,
    /// Its values are computed with rounding: two engines may tell neighbours apart otherwise.
    pub(super) rounded: bool,
}

/// A table and its columns.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) rows: RecordBatch,
    pub(super) columns: Vec<Column>,
}

impl Table {
    /// A table with the number of each row in `row`, keys of few values and other columns.
    pub(super) fn random(rng: &mut StdRng) -> Self {
        let rows = *[0, 1, 7, 30, 60, 120, 120, 120].choose(rng).unwrap_or(&10);
        let number: PrimitiveArray<Int64Type> = (0..rows as i64).map(Some).collect();
        let mut columns = vec![Column { name: "row".into(), kind: Kind::Int(I64), special: false, rounded: false }];
        let mut arrays: Vec<ArrayRef> = vec![Arc::new(number)];
        let names: Vec<String> = ["k0", "k1", "k2", "v0", "v1", "v2", "v3"].map(str::to_owned).to_vec();
        for name in names {
            let kind =
                if name == "k0" { Kind::Int(*[I32, I64, U8].choose(rng).unwrap_or(&I64)) } else { any_kind(rng) };
            let special = kind.is_float() && rng.random_bool(0.5);
            let distinct = if name.starts_with('k') { rng.random_range(1..6) } else { rng.random_range(1..40) };
            let nulls = *[0.0, 0.1, 0.5, 1.0].choose(rng).unwrap_or(&0.1);
            let nulls = if nulls == 1.0 && rng.random_bool(0.7) { 0.2 } else { nulls };
            let indices: Vec<Option<i64>> =
                (0..rows).map(|_| (!rng.random_bool(nulls)).then(|| rng.random_range(0..distinct))).collect();
            arrays.push(array(kind, special, &indices));
            columns.push(Column { name, kind, special, rounded: false });
        }
        let named = columns.iter().zip(arrays).map(|(column, array)| (column.name.as_str(), array, true));
        Self { rows: RecordBatch::try_from_iter_with_nullable(named).expect("columns of one length"), columns }
    }

    /// The rows as a dataset: of batches, some without rows, or of Parquet files.
    pub(super) fn dataset(&self, rng: &mut StdRng, dir: &Path) -> Dataset {
        let blocks = *[1, 2, 5, 30].choose(rng).unwrap_or(&1);
        let mut cuts: Vec<usize> = (1..blocks).map(|_| rng.random_range(0..=self.rows.num_rows())).collect();
        cuts.extend([0, self.rows.num_rows()]);
        cuts.sort_unstable();
        let batches: Vec<RecordBatch> = cuts.windows(2).map(|cut| self.rows.slice(cut[0], cut[1] - cut[0])).collect();
        let dataset = if rng.random_bool(0.5) {
            from_batches(batches)
        } else {
            std::fs::create_dir_all(dir).expect("a folder");
            let group = rng.random_range(1..50);
            let files = batches.chunks(rng.random_range(1..=batches.len()));
            for (place, batches) in files.enumerate() {
                write_parquet(&dir.join(format!("{place:03}.parquet")), batches, group);
            }
            read_parquet(dir).block_bytes(*[1, 1000, 1 << 20].choose(rng).unwrap_or(&1)).pushdown(rng.random_bool(0.7))
        };
        let bytes = self.rows.get_array_memory_size() + blocks * 1000;
        match rng.random_range(0..3) {
            0 => dataset,
            parts => dataset.part_bytes((bytes / (4 * parts)) as u64),
        }
    }

    /// Writes the rows where the oracle can read them.
    pub(super) fn write(&self, path: PathBuf) -> PathBuf {
        let file = File::create(&path).expect("a file");
        let mut writer = FileWriter::try_new(file, self.rows.schema_ref()).expect("a writer");
        writer.write(&self.rows).expect("written");
        writer.finish().expect("finished");
        path
    }
}

fn write_parquet(path: &Path, batches: &[RecordBatch], group: usize) {
    let options = WriterProperties::builder().set_max_row_group_row_count(Some(group)).build();
    let file = File::create(path).expect("a file");
    let mut writer = ArrowWriter::try_new(file, batches[0].schema(), Some(options)).expect("a writer");
    for batch in batches {
        writer.write(batch).expect("written");
    }
    writer.close().expect("closed");
}

fn any_kind(rng: &mut impl Rng) -> Kind {
    *KINDS.choose(rng).unwrap_or(&Kind::Bool)
}

fn array(kind: Kind, special: bool, indices: &[Option<i64>]) -> ArrayRef {
    let texts = ["", "a", "aa", "Z", "é", "ß", "zebra", "a b", "0", "-"];
    match kind {
        Kind::Bool => Arc::new(indices.iter().map(|i| i.map(|i| i % 2 == 0)).collect::<BooleanArray>()),
        Kind::Int(I8) => primitive::<Int8Type>(indices, |i| (i - 5) as i8),
        Kind::Int(I16) => primitive::<Int16Type>(indices, |i| (7 * i - 20) as i16),
        Kind::Int(I32) => primitive::<Int32Type>(indices, |i| (i - 2) as i32),
        // Far apart, and their sum still fits.
        Kind::Int(I64) => primitive::<Int64Type>(indices, |i| if i == 9 { 1 << 53 } else { i - 3 }),
        Kind::Int(U8) => primitive::<UInt8Type>(indices, |i| if i == 5 { 255 } else { i as u8 }),
        Kind::Int(U16) => primitive::<UInt16Type>(indices, |i| (1000 * i) as u16),
        Kind::Int(U32) => primitive::<UInt32Type>(indices, |i| if i == 4 { u32::MAX } else { i as u32 }),
        Kind::Int(U64) => primitive::<UInt64Type>(indices, |i| if i == 4 { 1 << 52 } else { i as u64 }),
        // Eighths: their sums are exact.
        Kind::Float32 => primitive::<Float32Type>(indices, |i| float(i, special) as f32),
        Kind::Float64 => primitive::<Float64Type>(indices, |i| float(i, special)),
        Kind::Text => Arc::new(
            indices
                .iter()
                .map(|i| i.map(|i| format!("{}{}", texts[i as usize % 10], "x".repeat(i as usize / 10))))
                .collect::<StringArray>(),
        ),
        Kind::Binary => {
            let bytes: Vec<Option<Vec<u8>>> =
                indices.iter().map(|i| i.map(|i| vec![255 - i as u8; i as usize % 3])).collect();
            Arc::new(BinaryArray::from_iter(bytes))
        }
        Kind::Date => primitive::<Date32Type>(indices, |i| (19_000 + 31 * i - 100) as i32),
        Kind::Timestamp(unit, zoned) => {
            let step: i64 = match unit {
                TimeUnit::Second => 3_600_000_000_000,
                TimeUnit::Millisecond => 1_001_000_000,
                TimeUnit::Microsecond => 1_000_001_000,
                TimeUnit::Nanosecond => 1_000_000_001,
            };
            let base = primitive::<TimestampNanosecondType>(indices, |i| 1_700_000_000_000_000_000 + (i - 10) * step);
            let zone = zoned.then(|| "Europe/Berlin".into());
            let utc = cast(&base, &DataType::Timestamp(unit, None)).expect("another unit");
            cast_to_zone(&utc, unit, zone)
        }
        Kind::Decimal => {
            let values: PrimitiveArray<Decimal128Type> =
                indices.iter().map(|i| i.map(|i| i128::from(i * 125 - 1000))).collect();
            Arc::new(values.with_precision_and_scale(10, 2).expect("it fits"))
        }
        Kind::List => unreachable!("no table has lists"),
    }
}

/// The same numbers, read as points in time of a zone.
fn cast_to_zone(array: &ArrayRef, unit: TimeUnit, zone: Option<Arc<str>>) -> ArrayRef {
    let numbers = cast(array, &DataType::Int64).expect("numbers");
    cast(&numbers, &DataType::Timestamp(unit, zone)).expect("timestamps")
}

fn float(index: i64, special: bool) -> f64 {
    match index {
        1 if special => f64::NAN,
        3 if special => -0.0,
        4 if special => 0.0,
        index => index as f64 * 0.625 - 2.0,
    }
}

fn primitive<T: ArrowPrimitiveType>(indices: &[Option<i64>], value: impl Fn(i64) -> T::Native) -> ArrayRef {
    Arc::new(indices.iter().map(|index| index.map(&value)).collect::<PrimitiveArray<T>>())
}
