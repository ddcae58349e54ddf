//! The types that a cast may name.
//!
//! Entry types: [`ValueType`], what Arrow and Parquet share, [`TimeUnit`] and [`Zone`]. A
//! `ValueType` is small, `Copy` and plain data, so that a plan can carry it; it prints and
//! parses as `int64`, `decimal(10, 2)` or `timestamp_us('Europe/Berlin')`.

use std::fmt;
use std::str::FromStr;

use arrow::array::timezone::Tz;
use arrow::datatypes::{self as arrow_types, DataType};
use serde::{Deserialize, Serialize};

use crate::error::DataError;

/// A type that a cast may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ValueType {
    /// Truth values.
    Bool,
    /// 8-bit whole numbers.
    Int8,
    /// 16-bit whole numbers.
    Int16,
    /// 32-bit whole numbers.
    Int32,
    /// 64-bit whole numbers.
    Int64,
    /// 8-bit whole numbers from 0.
    UInt8,
    /// 16-bit whole numbers from 0.
    UInt16,
    /// 32-bit whole numbers from 0.
    UInt32,
    /// 64-bit whole numbers from 0.
    UInt64,
    /// 16-bit floating-point numbers.
    Float16,
    /// 32-bit floating-point numbers.
    Float32,
    /// 64-bit floating-point numbers.
    Float64,
    /// Numbers of so many decimal digits, so many of them behind the point.
    Decimal(u8, i8),
    /// Text.
    String,
    /// Bytes.
    Binary,
    /// Days since 1970.
    Date,
    /// The time of day.
    Time(TimeUnit),
    /// Microseconds since 1970 without a zone.
    TimestampUs,
    /// Points in time: on the wall, or, with a zone, on the clock of the world.
    Timestamp(TimeUnit, Option<Zone>),
    /// Spans of time.
    Duration(TimeUnit),
}

/// What times are counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TimeUnit {
    /// Seconds.
    Second,
    /// Thousandths of a second.
    Millisecond,
    /// Millionths of a second.
    Microsecond,
    /// Billionths of a second.
    Nanosecond,
}

/// The name of a time zone, such as `Europe/Berlin`, `UTC` or `+02:00`. It holds the name itself,
/// not a pointer to it, so that a type that names a zone can be copied.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Zone {
    length: u8,
    name: [u8; ZONE_BYTES],
}

impl Zone {
    /// The zone called `name`; one that nobody knows is an error.
    ///
    /// ```
    /// use mobula_data::expr::Zone;
    /// assert_eq!(Zone::new("Asia/Tokyo").unwrap().as_str(), "Asia/Tokyo");
    /// assert!(Zone::new("Mars/Olympus").is_err());
    /// ```
    pub fn new(name: &str) -> Result<Self, DataError> {
        let unknown = |cause: String| DataError::InvalidPlan { operator: format!("time zone {name}"), cause };
        Tz::from_str(name).map_err(|e| unknown(e.to_string()))?;
        let mut bytes = [0; ZONE_BYTES];
        bytes
            .get_mut(..name.len())
            .ok_or_else(|| unknown(format!("no zone has a name of more than {ZONE_BYTES} bytes")))?
            .copy_from_slice(name.as_bytes());
        Ok(Self { length: name.len() as u8, name: bytes })
    }

    /// Its name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // The bytes are those of a text, so this is never the empty name.
        std::str::from_utf8(&self.name[..usize::from(self.length)]).unwrap_or_default()
    }
}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Zone({})", self.as_str())
    }
}

impl Serialize for Zone {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Zone {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Zone::new(&name).map_err(serde::de::Error::custom)
    }
}

impl TimeUnit {
    /// What stands behind the names of types that count in it.
    fn suffix(self) -> &'static str {
        match self {
            Self::Second => "s",
            Self::Millisecond => "ms",
            Self::Microsecond => "us",
            Self::Nanosecond => "ns",
        }
    }

    fn from_suffix(suffix: &str) -> Option<Self> {
        [Self::Second, Self::Millisecond, Self::Microsecond, Self::Nanosecond]
            .into_iter()
            .find(|unit| unit.suffix() == suffix)
    }

    pub(crate) fn to_arrow(self) -> arrow_types::TimeUnit {
        match self {
            Self::Second => arrow_types::TimeUnit::Second,
            Self::Millisecond => arrow_types::TimeUnit::Millisecond,
            Self::Microsecond => arrow_types::TimeUnit::Microsecond,
            Self::Nanosecond => arrow_types::TimeUnit::Nanosecond,
        }
    }

    pub(crate) fn from_arrow(unit: arrow_types::TimeUnit) -> Self {
        match unit {
            arrow_types::TimeUnit::Second => Self::Second,
            arrow_types::TimeUnit::Millisecond => Self::Millisecond,
            arrow_types::TimeUnit::Microsecond => Self::Microsecond,
            arrow_types::TimeUnit::Nanosecond => Self::Nanosecond,
        }
    }
}

impl ValueType {
    /// The type as Arrow has it.
    pub(crate) fn to_arrow(self) -> DataType {
        match self {
            Self::Bool => DataType::Boolean,
            Self::Int8 => DataType::Int8,
            Self::Int16 => DataType::Int16,
            Self::Int32 => DataType::Int32,
            Self::Int64 => DataType::Int64,
            Self::UInt8 => DataType::UInt8,
            Self::UInt16 => DataType::UInt16,
            Self::UInt32 => DataType::UInt32,
            Self::UInt64 => DataType::UInt64,
            Self::Float16 => DataType::Float16,
            Self::Float32 => DataType::Float32,
            Self::Float64 => DataType::Float64,
            Self::Decimal(precision, scale) => DataType::Decimal128(precision, scale),
            Self::String => DataType::Utf8,
            Self::Binary => DataType::Binary,
            Self::Date => DataType::Date32,
            Self::Time(unit @ (TimeUnit::Second | TimeUnit::Millisecond)) => DataType::Time32(unit.to_arrow()),
            Self::Time(unit) => DataType::Time64(unit.to_arrow()),
            Self::TimestampUs => DataType::Timestamp(arrow_types::TimeUnit::Microsecond, None),
            Self::Timestamp(unit, zone) => DataType::Timestamp(unit.to_arrow(), zone.map(|zone| zone.as_str().into())),
            Self::Duration(unit) => DataType::Duration(unit.to_arrow()),
        }
    }

    /// The type that Arrow calls `data_type`, if a cast may name it.
    ///
    /// ```
    /// use arrow::datatypes::DataType;
    /// use mobula_data::expr::ValueType;
    /// assert_eq!(ValueType::from_arrow(&DataType::Date32), Some(ValueType::Date));
    /// assert_eq!(ValueType::from_arrow(&DataType::Null), None);
    /// ```
    #[must_use]
    pub fn from_arrow(data_type: &DataType) -> Option<Self> {
        Some(match data_type {
            DataType::Boolean => Self::Bool,
            DataType::Int8 => Self::Int8,
            DataType::Int16 => Self::Int16,
            DataType::Int32 => Self::Int32,
            DataType::Int64 => Self::Int64,
            DataType::UInt8 => Self::UInt8,
            DataType::UInt16 => Self::UInt16,
            DataType::UInt32 => Self::UInt32,
            DataType::UInt64 => Self::UInt64,
            DataType::Float16 => Self::Float16,
            DataType::Float32 => Self::Float32,
            DataType::Float64 => Self::Float64,
            DataType::Decimal128(precision, scale) => Self::Decimal(*precision, *scale),
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Self::String,
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView => Self::Binary,
            DataType::Date32 => Self::Date,
            DataType::Time32(unit) | DataType::Time64(unit) => Self::Time(TimeUnit::from_arrow(*unit)),
            DataType::Timestamp(arrow_types::TimeUnit::Microsecond, None) => Self::TimestampUs,
            DataType::Timestamp(unit, None) => Self::Timestamp(TimeUnit::from_arrow(*unit), None),
            DataType::Timestamp(unit, Some(zone)) => {
                Self::Timestamp(TimeUnit::from_arrow(*unit), Some(Zone::new(zone).ok()?))
            }
            DataType::Duration(unit) => Self::Duration(TimeUnit::from_arrow(*unit)),
            _ => return None,
        })
    }

    /// The type that a name without units and sizes stands for.
    fn simple(name: &str) -> Option<Self> {
        SIMPLE.iter().find(|(known, _)| *known == name).map(|(_, value_type)| *value_type)
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Decimal(precision, scale) => write!(f, "decimal({precision}, {scale})"),
            Self::Time(unit) => write!(f, "time_{}", unit.suffix()),
            Self::TimestampUs => f.write_str("timestamp_us"),
            Self::Timestamp(unit, None) => write!(f, "timestamp_{}", unit.suffix()),
            Self::Timestamp(unit, Some(zone)) => write!(f, "timestamp_{}('{}')", unit.suffix(), zone.as_str()),
            Self::Duration(unit) => write!(f, "duration_{}", unit.suffix()),
            simple => {
                let name = SIMPLE.iter().find(|(_, value_type)| value_type == simple).map(|(name, _)| *name);
                f.write_str(name.unwrap_or_default())
            }
        }
    }
}

/// Reads what `Display` prints, in any case.
impl FromStr for ValueType {
    type Err = DataError;

    fn from_str(text: &str) -> Result<Self, DataError> {
        parse(text).ok_or_else(|| DataError::InvalidPlan {
            operator: "cast".into(),
            cause: format!(
                "there is no type {text}; there are {}, decimal(10, 2), timestamp_us, timestamp_us('Europe/Berlin'), \
                 time_us and duration_us, each also with s, ms or ns",
                SIMPLE.map(|(name, _)| name).join(", ")
            ),
        })
    }
}

fn parse(text: &str) -> Option<ValueType> {
    let (name, arguments) = match text.split_once('(') {
        Some((name, rest)) => (name.trim(), Some(rest.trim_end().strip_suffix(')')?)),
        None => (text.trim(), None),
    };
    let name = name.to_ascii_lowercase();
    match (ValueType::simple(&name), arguments) {
        (Some(simple), None) => return Some(simple),
        (None, Some(arguments)) if name == "decimal" => {
            let (precision, scale) = arguments.split_once(',')?;
            return Some(ValueType::Decimal(precision.trim().parse().ok()?, scale.trim().parse().ok()?));
        }
        _ => {}
    }
    let (kind, unit) = name.rsplit_once('_')?;
    let unit = TimeUnit::from_suffix(unit)?;
    match (kind, arguments) {
        ("timestamp", Some(zone)) => {
            Some(ValueType::Timestamp(unit, Some(Zone::new(zone.trim_matches(['\'', '"', ' '])).ok()?)))
        }
        ("timestamp", None) if unit == TimeUnit::Microsecond => Some(ValueType::TimestampUs),
        ("timestamp", None) => Some(ValueType::Timestamp(unit, None)),
        ("time", None) => Some(ValueType::Time(unit)),
        ("duration", None) => Some(ValueType::Duration(unit)),
        _ => None,
    }
}

/// The types whose name is all there is to know.
const SIMPLE: [(&str, ValueType); 15] = [
    ("bool", ValueType::Bool),
    ("int8", ValueType::Int8),
    ("int16", ValueType::Int16),
    ("int32", ValueType::Int32),
    ("int64", ValueType::Int64),
    ("uint8", ValueType::UInt8),
    ("uint16", ValueType::UInt16),
    ("uint32", ValueType::UInt32),
    ("uint64", ValueType::UInt64),
    ("float16", ValueType::Float16),
    ("float32", ValueType::Float32),
    ("float64", ValueType::Float64),
    ("string", ValueType::String),
    ("binary", ValueType::Binary),
    ("date", ValueType::Date),
];

/// The longest name of a zone; the longest that is in use has 32 bytes.
const ZONE_BYTES: usize = 39;

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<ValueType> {
        let mut all: Vec<_> = SIMPLE.iter().map(|(_, value_type)| *value_type).collect();
        all.extend([ValueType::Decimal(38, 10), ValueType::TimestampUs]);
        for unit in [TimeUnit::Second, TimeUnit::Millisecond, TimeUnit::Microsecond, TimeUnit::Nanosecond] {
            let zone = Zone::new("America/Argentina/ComodRivadavia").unwrap();
            all.extend([ValueType::Time(unit), ValueType::Duration(unit), ValueType::Timestamp(unit, Some(zone))]);
        }
        all
    }

    #[test]
    fn a_type_survives_print_wire_and_arrow() {
        for value_type in all() {
            assert_eq!(value_type.to_string().parse::<ValueType>().unwrap(), value_type);
            let bytes = rmp_serde::to_vec(&value_type).unwrap();
            assert_eq!(rmp_serde::from_slice::<ValueType>(&bytes).unwrap(), value_type);
            assert_eq!(ValueType::from_arrow(&value_type.to_arrow()), Some(value_type));
        }
    }

    #[test]
    fn an_unknown_type_is_refused_with_those_that_exist() {
        for text in ["int63", "decimal", "timestamp_us('Mars/Olympus')", "int64(3)", "time_us(", ""] {
            let error = text.parse::<ValueType>().unwrap_err().to_string();
            assert!(error.contains("float64") && error.contains(text), "{error}");
        }
    }

    #[test]
    fn old_names_stay_as_they_were_sent() {
        for (value_type, json) in [(ValueType::Int64, "\"Int64\""), (ValueType::TimestampUs, "\"TimestampUs\"")] {
            assert_eq!(serde_json::to_string(&value_type).unwrap(), json);
        }
    }
}
