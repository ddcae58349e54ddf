//! Whether two engines gave the same rows: values by what they mean, whatever their types are.

use std::cmp::Ordering;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Decimal128Type, Float64Type, Int32Type, TimeUnit, TimestampNanosecondType};

/// A value, by what it means.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Cell {
    Null,
    Bool(bool),
    /// A number times a power of ten, without zeros at its end.
    Exact(i128, i8),
    Float(f64),
    Text(String),
    Bytes(Vec<u8>),
    Day(i32),
    Nanoseconds(i64),
    List(Vec<Cell>),
}

/// How far two floats may be apart, relative to the larger one or, for those that are zero but for
/// rounding, at all.
const TOLERANCE: f64 = 1e-9;

impl Cell {
    fn number(&self) -> Option<f64> {
        match self {
            Self::Exact(digits, scale) => Some(*digits as f64 / 10_f64.powi(i32::from(*scale))),
            Self::Float(value) => Some(*value),
            _ => None,
        }
    }

    /// Whether they mean the same.
    fn is_close(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(..), Self::Exact(..)) => self == other,
            (Self::List(one), Self::List(two)) => {
                one.len() == two.len() && one.iter().zip(two).all(|(one, two)| one.is_close(two))
            }
            _ => match (self.number(), other.number()) {
                (Some(one), Some(two)) if one.is_nan() || two.is_nan() => one.is_nan() && two.is_nan(),
                (Some(one), Some(two)) => {
                    one == two || (one - two).abs() <= TOLERANCE * one.abs().max(two.abs()).max(1.0)
                }
                _ => self == other,
            },
        }
    }

    fn order(&self, other: &Self) -> Ordering {
        if let (Some(one), Some(two)) = (self.number(), other.number()) {
            return one.total_cmp(&two);
        }
        let rank = |cell: &Self| match cell {
            Self::Null => 0,
            Self::Bool(_) => 1,
            Self::Exact(..) | Self::Float(_) => 2,
            Self::Text(_) => 3,
            Self::Bytes(_) => 4,
            Self::Day(_) => 5,
            Self::Nanoseconds(_) => 6,
            Self::List(_) => 7,
        };
        match (self, other) {
            (Self::Bool(one), Self::Bool(two)) => one.cmp(two),
            (Self::Text(one), Self::Text(two)) => one.cmp(two),
            (Self::Bytes(one), Self::Bytes(two)) => one.cmp(two),
            (Self::Day(one), Self::Day(two)) => one.cmp(two),
            (Self::Nanoseconds(one), Self::Nanoseconds(two)) => one.cmp(two),
            (Self::List(one), Self::List(two)) => {
                let cells = one.iter().zip(two).map(|(one, two)| one.order(two));
                cells.fold(Ordering::Equal, Ordering::then).then(one.len().cmp(&two.len()))
            }
            _ => rank(self).cmp(&rank(other)),
        }
    }
}

/// The rows of batches.
pub(super) fn rows_of(batches: &[RecordBatch]) -> Vec<Vec<Cell>> {
    let mut rows = Vec::new();
    for batch in batches {
        let columns: Vec<Vec<Cell>> = batch.columns().iter().map(|column| cells(column.as_ref())).collect();
        rows.extend((0..batch.num_rows()).map(|row| columns.iter().map(|column| column[row].clone()).collect()));
    }
    rows
}

fn cells(array: &dyn Array) -> Vec<Cell> {
    let as_type = |to: &DataType| cast(array, to).unwrap_or_else(|error| panic!("{}: {error}", array.data_type()));
    let decimal = |scale: i8| {
        let array = as_type(&DataType::Decimal128(38, scale));
        array
            .as_primitive::<Decimal128Type>()
            .iter()
            .map(|value| value.map_or(Cell::Null, |v| exact(v, scale)))
            .collect()
    };
    match array.data_type() {
        DataType::Null => vec![Cell::Null; array.len()],
        DataType::Boolean => array.as_boolean().iter().map(|value| value.map_or(Cell::Null, Cell::Bool)).collect(),
        DataType::Decimal128(_, scale) => decimal(*scale),
        found if found.is_integer() => decimal(0),
        found if found.is_floating() => {
            let array = as_type(&DataType::Float64);
            // Zeros are equal whatever their sign.
            array.as_primitive::<Float64Type>().iter().map(|v| v.map_or(Cell::Null, |v| Cell::Float(v + 0.0))).collect()
        }
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
            let array = as_type(&DataType::Utf8);
            array.as_string::<i32>().iter().map(|v| v.map_or(Cell::Null, |v| Cell::Text(v.into()))).collect()
        }
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => {
            let array = as_type(&DataType::Binary);
            array.as_binary::<i32>().iter().map(|v| v.map_or(Cell::Null, |v| Cell::Bytes(v.into()))).collect()
        }
        DataType::Date32 => {
            let array = as_type(&DataType::Int32);
            array.as_primitive::<Int32Type>().iter().map(|v| v.map_or(Cell::Null, Cell::Day)).collect()
        }
        DataType::Timestamp(_, zone) => {
            let array = as_type(&DataType::Timestamp(TimeUnit::Nanosecond, zone.clone()));
            let array = array.as_primitive::<TimestampNanosecondType>();
            array.iter().map(|v| v.map_or(Cell::Null, Cell::Nanoseconds)).collect()
        }
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            list.iter().map(|values| values.map_or(Cell::Null, |values| Cell::List(cells(values.as_ref())))).collect()
        }
        other => panic!("a result has {other}"),
    }
}

fn exact(mut digits: i128, mut scale: i8) -> Cell {
    while scale > 0 && digits % 10 == 0 {
        digits /= 10;
        scale -= 1;
    }
    Cell::Exact(digits, scale)
}

/// What is different, if something is. In the columns `ordered` the rows must have one order.
pub(super) fn difference(found: &[Vec<Cell>], expected: &[Vec<Cell>], ordered: &[usize]) -> Option<String> {
    if found.len() != expected.len() {
        return Some(format!("{} rows where {} are expected", found.len(), expected.len()));
    }
    for (place, (one, two)) in found.iter().zip(expected).enumerate() {
        if let Some(column) = ordered.iter().find(|column| !one[**column].is_close(&two[**column])) {
            return Some(format!("row {place}, column {column}, in order: {one:?} where {two:?} is expected"));
        }
    }
    let sorted = |rows: &[Vec<Cell>]| {
        let mut rows = rows.to_vec();
        // Floats are looked at last: rows that differ by rounding alone stay side by side.
        let floats_last = |row: &[Cell]| -> Vec<Cell> {
            let (floats, others): (Vec<_>, Vec<_>) = row.iter().cloned().partition(|c| matches!(c, Cell::Float(_)));
            others.into_iter().chain(floats).collect()
        };
        rows.sort_by_cached_key(|row| Sortable(floats_last(row)));
        rows
    };
    let pairs = sorted(found).into_iter().zip(sorted(expected));
    let differs = |(one, two): &(Vec<Cell>, Vec<Cell>)| !one.iter().zip(two).all(|(one, two)| one.is_close(two));
    pairs.into_iter().find(differs).map(|(one, two)| format!("{one:?} where {two:?} is expected"))
}

struct Sortable(Vec<Cell>);

impl PartialEq for Sortable {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Sortable {}

impl PartialOrd for Sortable {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Sortable {
    fn cmp(&self, other: &Self) -> Ordering {
        let cells = self.0.iter().zip(&other.0).map(|(one, two)| one.order(two));
        cells.fold(Ordering::Equal, Ordering::then).then(self.0.len().cmp(&other.0.len()))
    }
}
