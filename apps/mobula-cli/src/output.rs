//! How results are printed: tables for people ([`mobula::print`]), JSON for programs.

use mobula::print::grouped;
pub(crate) use mobula::print::{Table, bytes, counted, in_unit_of, table};
use serde::Serialize;

use crate::error::CliError;

/// What a command prints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Tables and sentences.
    #[default]
    Human,
    /// One JSON document.
    Json,
}

/// Prints a result and a line end.
pub(crate) fn print(text: &str) -> Result<(), CliError> {
    mobula::print::print(text).map_err(CliError::Output)
}

/// Prints a result as one JSON document.
pub(crate) fn print_json<T: Serialize + ?Sized>(value: &T) -> Result<(), CliError> {
    print(&serde_json::to_string_pretty(value)?)
}

/// A number with three digits that count, thousands grouped: `1,234,567`, `12.3`, `0.00123`.
pub(crate) fn number(value: f64) -> String {
    if !value.is_finite() {
        return "-".to_owned();
    }
    if value.abs() >= 1000.0 {
        let sign = if value < 0.0 { "-" } else { "" };
        return format!("{sign}{}", grouped(value.abs().round() as u64));
    }
    let decimals = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        0.0 => 0,
        size => 2 - size.log10().floor() as i32,
    };
    format!("{value:.*}", usize::try_from(decimals).unwrap_or(0))
}

/// A time in the two units that matter; the second one only where there is something of it.
pub(crate) fn duration(seconds: u64) -> String {
    let two = |large: u64, unit, small: u64, lesser| match small {
        0 => format!("{large} {unit}"),
        small => format!("{large} {unit} {small} {lesser}"),
    };
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => two(seconds / 60, "min", seconds % 60, "s"),
        3_600..172_800 => two(seconds / 3_600, "h", seconds % 3_600 / 60, "min"),
        _ => two(seconds / 86_400, "days", seconds % 86_400 / 3_600, "h"),
    }
}

/// An amount of a resource without needless decimals: `2`, `0.5`.
pub(crate) fn amount(value: f64) -> String {
    // Rust prints the shortest text that reads back as the same number.
    format!("{}", (value * 1e4).round() / 1e4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_three_digits_and_group_thousands() {
        for (value, text) in [
            (0.0, "0"),
            (1_234_567.4, "1,234,567"),
            (-1000.0, "-1,000"),
            (999.6, "1000"),
            (123.4, "123"),
            (12.34, "12.3"),
            (1.234, "1.23"),
            (0.001_234, "0.00123"),
            (f64::NAN, "-"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn bytes_choose_their_unit() {
        assert_eq!(bytes(17.0), "17 B");
        assert_eq!(bytes(1536.0), "1.5 KiB");
        assert_eq!(bytes(3.0 * f64::from(1 << 30)), "3.0 GiB");
    }

    #[test]
    fn times_have_two_units_at_most() {
        for (seconds, text) in [
            (0, "0 s"),
            (60, "1 min"),
            (61, "1 min 1 s"),
            (86_400, "24 h"),
            (93_660, "26 h 1 min"),
            (604_800, "7 days"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn amounts_have_no_needless_decimals() {
        assert_eq!(amount(2.0), "2");
        assert_eq!(amount(0.1 + 0.2), "0.3");
    }
}
