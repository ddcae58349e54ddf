//! Constants in expressions.
//!
//! Entry type: [`Scalar`], made from Rust values by `From` (which [`lit`](super::lit) calls).
//! Whole numbers become 64-bit ones, whatever their Rust type; the types of columns decide what
//! is computed with.

use std::fmt;

use arrow::array::Array;
use arrow::datatypes::IntervalMonthDayNano;
use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, Utc};
use datafusion_common::ScalarValue;
use serde::{Deserialize, Serialize};

use super::types::{TimeUnit, ValueType, Zone};

/// A constant in an expression.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Scalar {
    /// No value.
    Null,
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int64(i64),
    /// A whole number that may be too large for [`Scalar::Int64`].
    UInt64(u64),
    /// A floating-point number.
    Float64(f64),
    /// An exact number: `value` divided by 10 to the power of `scale`.
    Decimal {
        /// The digits, without the point.
        value: i128,
        /// How many digits there may be, 1 to 38.
        precision: u8,
        /// How many of them are behind the point.
        scale: i8,
    },
    /// A text.
    String(String),
    /// Bytes.
    Binary(Vec<u8>),
    /// Days since 1970.
    Date(i32),
    /// A point in time without a zone, in microseconds since 1970.
    TimestampUs(i64),
    /// A point in time since 1970.
    Timestamp {
        /// How many units.
        value: i64,
        /// What they are.
        unit: TimeUnit,
        /// With a zone the time is that of the world's clock; without one, of a clock on the wall.
        zone: Option<Zone>,
    },
    /// A span of time.
    Duration {
        /// How many units.
        value: i64,
        /// What they are.
        unit: TimeUnit,
    },
    /// A span of the calendar: a month is as long as the month it is added to.
    Interval {
        /// Months.
        months: i32,
        /// Days, 23 to 25 hours each where clocks change.
        days: i32,
        /// Billionths of a second.
        nanoseconds: i64,
    },
}

macro_rules! scalar_from {
    ($($from:ty => $variant:ident),* $(,)?) => {$(
        impl From<$from> for Scalar {
            fn from(value: $from) -> Scalar { Scalar::$variant(value.into()) }
        }
    )*};
}
scalar_from!(bool => Bool, i8 => Int64, i16 => Int64, i32 => Int64, i64 => Int64, u8 => Int64, u16 => Int64,
    u32 => Int64, f32 => Float64, f64 => Float64, &str => String, String => String, &String => String,
    Vec<u8> => Binary, &[u8] => Binary);

impl From<u64> for Scalar {
    fn from(value: u64) -> Self {
        i64::try_from(value).map_or(Self::UInt64(value), Self::Int64)
    }
}

impl From<usize> for Scalar {
    fn from(value: usize) -> Self {
        Self::from(value as u64)
    }
}

impl From<isize> for Scalar {
    fn from(value: isize) -> Self {
        Self::Int64(value as i64)
    }
}

impl From<NaiveDate> for Scalar {
    fn from(value: NaiveDate) -> Self {
        Self::Date(value.num_days_from_ce() - EPOCH_DAY)
    }
}

/// What is finer than a microsecond is cut off.
impl From<NaiveDateTime> for Scalar {
    fn from(value: NaiveDateTime) -> Self {
        Self::TimestampUs(value.and_utc().timestamp_micros())
    }
}

/// What is finer than a microsecond is cut off.
impl From<DateTime<Utc>> for Scalar {
    fn from(value: DateTime<Utc>) -> Self {
        let zone = Zone::new("UTC").ok();
        Self::Timestamp { value: value.timestamp_micros(), unit: TimeUnit::Microsecond, zone }
    }
}

impl<T: Into<Scalar>> From<Option<T>> for Scalar {
    fn from(value: Option<T>) -> Scalar {
        value.map_or(Scalar::Null, Into::into)
    }
}

impl Scalar {
    /// The value in a row of a column; none where no constant holds it, as of lists.
    ///
    /// ```
    /// use arrow::array::Int32Array;
    /// use mobula_data::expr::Scalar;
    /// assert_eq!(Scalar::in_row(&Int32Array::from(vec![7, 8]), 1), Some(Scalar::Int64(8)));
    /// ```
    #[must_use]
    pub fn in_row(column: &dyn Array, row: usize) -> Option<Self> {
        Self::from_datafusion(&ScalarValue::try_from_array(column, row).ok()?)
    }

    pub(crate) fn to_datafusion(&self) -> ScalarValue {
        match self {
            Scalar::Null => ScalarValue::Null,
            Scalar::Bool(v) => ScalarValue::from(*v),
            Scalar::Int64(v) => ScalarValue::from(*v),
            Scalar::UInt64(v) => ScalarValue::from(*v),
            Scalar::Float64(v) => ScalarValue::from(*v),
            Scalar::Decimal { value, precision, scale } => ScalarValue::Decimal128(Some(*value), *precision, *scale),
            Scalar::String(v) => ScalarValue::from(v.as_str()),
            Scalar::Binary(v) => ScalarValue::Binary(Some(v.clone())),
            Scalar::Date(v) => ScalarValue::Date32(Some(*v)),
            Scalar::TimestampUs(v) => ScalarValue::TimestampMicrosecond(Some(*v), None),
            Scalar::Timestamp { value, unit, zone } => {
                let zone = zone.map(|zone| zone.as_str().into());
                match unit {
                    TimeUnit::Second => ScalarValue::TimestampSecond(Some(*value), zone),
                    TimeUnit::Millisecond => ScalarValue::TimestampMillisecond(Some(*value), zone),
                    TimeUnit::Microsecond => ScalarValue::TimestampMicrosecond(Some(*value), zone),
                    TimeUnit::Nanosecond => ScalarValue::TimestampNanosecond(Some(*value), zone),
                }
            }
            Scalar::Duration { value, unit } => match unit {
                TimeUnit::Second => ScalarValue::DurationSecond(Some(*value)),
                TimeUnit::Millisecond => ScalarValue::DurationMillisecond(Some(*value)),
                TimeUnit::Microsecond => ScalarValue::DurationMicrosecond(Some(*value)),
                TimeUnit::Nanosecond => ScalarValue::DurationNanosecond(Some(*value)),
            },
            Scalar::Interval { months, days, nanoseconds } => {
                ScalarValue::IntervalMonthDayNano(Some(IntervalMonthDayNano::new(*months, *days, *nanoseconds)))
            }
        }
    }

    /// The constant that DataFusion has as `value`. Numbers may become wider; what none of ours
    /// holds, lists and structures among them, gives nothing.
    pub(crate) fn from_datafusion(value: &ScalarValue) -> Option<Self> {
        if value.is_null() {
            return Some(Self::Null);
        }
        Some(match value {
            ScalarValue::Boolean(Some(v)) => Self::Bool(*v),
            ScalarValue::Int8(Some(v)) => Self::from(*v),
            ScalarValue::Int16(Some(v)) => Self::from(*v),
            ScalarValue::Int32(Some(v)) => Self::from(*v),
            ScalarValue::Int64(Some(v)) => Self::from(*v),
            ScalarValue::UInt8(Some(v)) => Self::from(*v),
            ScalarValue::UInt16(Some(v)) => Self::from(*v),
            ScalarValue::UInt32(Some(v)) => Self::from(*v),
            ScalarValue::UInt64(Some(v)) => Self::from(*v),
            ScalarValue::Float32(Some(v)) => Self::from(*v),
            ScalarValue::Float64(Some(v)) => Self::from(*v),
            ScalarValue::Decimal128(Some(v), precision, scale) => {
                Self::Decimal { value: *v, precision: *precision, scale: *scale }
            }
            ScalarValue::Utf8(Some(v)) | ScalarValue::LargeUtf8(Some(v)) | ScalarValue::Utf8View(Some(v)) => {
                Self::from(v)
            }
            ScalarValue::Binary(Some(v)) | ScalarValue::LargeBinary(Some(v)) | ScalarValue::BinaryView(Some(v)) => {
                Self::Binary(v.clone())
            }
            ScalarValue::Date32(Some(v)) => Self::Date(*v),
            ScalarValue::TimestampMicrosecond(Some(v), None) => Self::TimestampUs(*v),
            ScalarValue::TimestampSecond(Some(v), zone) => timestamp(*v, TimeUnit::Second, zone.as_deref())?,
            ScalarValue::TimestampMillisecond(Some(v), zone) => timestamp(*v, TimeUnit::Millisecond, zone.as_deref())?,
            ScalarValue::TimestampMicrosecond(Some(v), zone) => timestamp(*v, TimeUnit::Microsecond, zone.as_deref())?,
            ScalarValue::TimestampNanosecond(Some(v), zone) => timestamp(*v, TimeUnit::Nanosecond, zone.as_deref())?,
            ScalarValue::DurationSecond(Some(v)) => Self::Duration { value: *v, unit: TimeUnit::Second },
            ScalarValue::DurationMillisecond(Some(v)) => Self::Duration { value: *v, unit: TimeUnit::Millisecond },
            ScalarValue::DurationMicrosecond(Some(v)) => Self::Duration { value: *v, unit: TimeUnit::Microsecond },
            ScalarValue::DurationNanosecond(Some(v)) => Self::Duration { value: *v, unit: TimeUnit::Nanosecond },
            ScalarValue::IntervalYearMonth(Some(months)) => Self::Interval { months: *months, days: 0, nanoseconds: 0 },
            ScalarValue::IntervalDayTime(Some(v)) => {
                Self::Interval { months: 0, days: v.days, nanoseconds: i64::from(v.milliseconds) * 1_000_000 }
            }
            ScalarValue::IntervalMonthDayNano(Some(v)) => {
                Self::Interval { months: v.months, days: v.days, nanoseconds: v.nanoseconds }
            }
            _ => return None,
        })
    }

    /// The value as text, cast to text by the kernel that casts columns.
    fn as_text(&self) -> String {
        let text = self.to_datafusion().cast_to(&arrow::datatypes::DataType::Utf8);
        text.map_or_else(|_| self.to_datafusion().to_string(), |text| text.to_string())
    }

    /// Whether it prints with a sign in front.
    pub(crate) fn is_negative(&self) -> bool {
        match self {
            Scalar::Int64(v) => *v < 0,
            Scalar::Float64(v) => v.is_sign_negative(),
            _ => false,
        }
    }
}

fn timestamp(value: i64, unit: TimeUnit, zone: Option<&str>) -> Option<Scalar> {
    let zone = zone.map(Zone::new).transpose().ok()?;
    Some(Scalar::Timestamp { value, unit, zone })
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cast = |f: &mut fmt::Formatter<'_>, to: ValueType| write!(f, "cast(\"{}\" as {to})", self.as_text());
        match self {
            Scalar::Null => f.write_str("null"),
            Scalar::Bool(v) => write!(f, "{v}"),
            Scalar::Int64(v) => write!(f, "{v}"),
            Scalar::UInt64(v) => write!(f, "{v}"),
            Scalar::Float64(v) if !v.is_finite() => write!(f, "cast(\"{v}\" as float64)"),
            Scalar::Float64(v) if v.abs() >= LONG_FLOAT => write!(f, "{v:e}"),
            Scalar::Float64(v) => write!(f, "{v}"),
            Scalar::Decimal { precision, scale, .. } => cast(f, ValueType::Decimal(*precision, *scale)),
            Scalar::String(v) => write!(f, "{v:?}"),
            Scalar::Binary(v) => {
                f.write_str("x'")?;
                v.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
                f.write_str("'")
            }
            Scalar::Date(_) => cast(f, ValueType::Date),
            Scalar::TimestampUs(_) => cast(f, ValueType::TimestampUs),
            Scalar::Timestamp { unit, zone, .. } => cast(f, ValueType::Timestamp(*unit, *zone)),
            Scalar::Duration { value, unit } => write!(f, "cast({value} as {})", ValueType::Duration(*unit)),
            Scalar::Interval { months, days, nanoseconds } => {
                write!(f, "interval \"{months} months {days} days {nanoseconds} nanoseconds\"")
            }
        }
    }
}

/// The number of 1970-01-01 in the days of the common era.
const EPOCH_DAY: i32 = 719_163;

/// From here on a floating-point number prints with an exponent.
const LONG_FLOAT: f64 = 1e15;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rust_values_become_constants() {
        assert_eq!(Scalar::from(7_u64), Scalar::Int64(7));
        assert_eq!(Scalar::from(u64::MAX), Scalar::UInt64(u64::MAX));
        assert_eq!(Scalar::from(None::<i32>), Scalar::Null);
        assert_eq!(Scalar::from(NaiveDate::from_ymd_opt(2024, 2, 29).unwrap()), Scalar::Date(19_782));
        let noon = NaiveDate::from_ymd_opt(1970, 1, 2).unwrap().and_hms_opt(12, 0, 0).unwrap();
        assert_eq!(Scalar::from(noon), Scalar::TimestampUs(129_600_000_000));
    }

    fn one_of_each() -> Vec<Scalar> {
        let zone = Some(Zone::new("Europe/Berlin").unwrap());
        vec![
            Scalar::Null,
            Scalar::Bool(true),
            Scalar::Int64(-3),
            Scalar::UInt64(u64::MAX),
            Scalar::Float64(2.5),
            Scalar::Decimal { value: -12_345, precision: 10, scale: 2 },
            Scalar::String("it's \"so\"".into()),
            Scalar::Binary(vec![0, 255]),
            Scalar::Date(19_782),
            Scalar::TimestampUs(1),
            Scalar::Timestamp { value: 0, unit: TimeUnit::Second, zone: None },
            Scalar::Timestamp { value: 1_500, unit: TimeUnit::Millisecond, zone },
            Scalar::Timestamp { value: 1, unit: TimeUnit::Microsecond, zone },
            Scalar::Timestamp { value: 1, unit: TimeUnit::Nanosecond, zone: None },
            Scalar::Duration { value: 90, unit: TimeUnit::Second },
            Scalar::Interval { months: 1, days: -2, nanoseconds: 3 },
        ]
    }

    #[test]
    fn a_constant_survives_datafusion_and_the_wire() {
        for scalar in one_of_each() {
            assert_eq!(Scalar::from_datafusion(&scalar.to_datafusion()), Some(scalar.clone()));
            let bytes = rmp_serde::to_vec(&scalar).unwrap();
            assert_eq!(rmp_serde::from_slice::<Scalar>(&bytes).unwrap(), scalar);
        }
    }

    #[test]
    fn a_constant_prints_as_what_it_is() {
        let printed: Vec<_> = one_of_each().iter().map(ToString::to_string).collect();
        let expected = [
            "null",
            "true",
            "-3",
            "18446744073709551615",
            "2.5",
            "cast(\"-123.45\" as decimal(10, 2))",
            "\"it's \\\"so\\\"\"",
            "x'00ff'",
            "cast(\"2024-02-29\" as date)",
            "cast(\"1970-01-01T00:00:00.000001\" as timestamp_us)",
            "cast(\"1970-01-01T00:00:00\" as timestamp_s)",
            "cast(\"1970-01-01T01:00:01.500+01:00\" as timestamp_ms('Europe/Berlin'))",
            "cast(\"1970-01-01T01:00:00.000001+01:00\" as timestamp_us('Europe/Berlin'))",
            "cast(\"1970-01-01T00:00:00.000000001\" as timestamp_ns)",
            "cast(90 as duration_s)",
            "interval \"1 months -2 days 3 nanoseconds\"",
        ];
        assert_eq!(printed, expected);
        assert_eq!(Scalar::from(1e300).to_string(), "1e300");
        assert_eq!(Scalar::from(f64::NAN).to_string(), "cast(\"NaN\" as float64)");
    }
}
