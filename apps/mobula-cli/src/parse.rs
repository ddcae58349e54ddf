//! Arguments that are numbers with a meaning.

use std::time::Duration;

/// The longest time that can be asked for.
const MAX_SECONDS: f64 = 86_400.0;

/// Seconds, from 0 to a day.
pub(crate) fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=MAX_SECONDS).contains(&seconds) => Ok(seconds),
        _ => Err(format!("a number of seconds from 0 to {MAX_SECONDS}")),
    }
}

/// A part of a whole, more than 0 and at most 1.
pub(crate) fn part(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(part) if part > 0.0 && part <= 1.0 => Ok(part),
        _ => Err("a number above 0, at most 1".to_owned()),
    }
}

/// A time with its unit: `90s`, `30m`, `24h`, `7d`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "a whole number with its unit, such as 90s, 30m, 24h or 7d".to_owned();
    let unit_s = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3_600,
        Some('d') => 86_400,
        _ => return Err(wrong()),
    };
    // The unit is one byte.
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    number.checked_mul(unit_s).map(Duration::from_secs).ok_or_else(|| "too long".to_owned())
}

/// Bytes, with or without a unit: `123`, `512M`, `1.5GiB`.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.find(|letter: char| !letter.is_ascii_digit() && letter != '.') {
        Some(place) => text.split_at(place),
        None => (text, ""),
    };
    let scale = match unit.trim().trim_end_matches(['B', 'b']).trim_end_matches('i') {
        "" => 1.0,
        "k" | "K" => 1024.0,
        "m" | "M" => f64::from(1 << 20),
        "g" | "G" => f64::from(1 << 30),
        "t" | "T" => f64::from(1 << 20) * f64::from(1 << 20),
        _ => {
            return Err(format!("{unit:?} is no unit of bytes; there are K, M, G and T"));
        }
    };
    let number: f64 = digits.parse().map_err(|_| "not a number of bytes".to_owned())?;
    let bytes = number * scale;
    if bytes.is_finite() && bytes < u64::MAX as f64 { Ok(bytes as u64) } else { Err("too much".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_with_units() {
        assert_eq!(bytes("123"), Ok(123));
        assert_eq!(bytes("2K"), Ok(2048));
        assert_eq!(bytes("1.5GiB"), Ok(3 << 29));
        assert_eq!(bytes("64MB"), Ok(64 << 20));
        for wrong in ["", "x", "1X", "-1", "1e400G", "99999999T"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn times_have_a_unit() {
        for (text, seconds) in [("90s", 90), ("30m", 1_800), ("24h", 86_400), ("7d", 604_800)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)));
        }
        for wrong in ["", "h", "1", "-1h", "1.5h", "1é", "99999999999999999d"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn parts_are_of_one_whole() {
        assert_eq!(part("0.95"), Ok(0.95));
        assert_eq!(part("1"), Ok(1.0));
        for wrong in ["0", "1.1", "-1", "NaN", "95%"] {
            assert!(part(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn seconds_are_finite_and_not_negative() {
        assert_eq!(seconds("0.5"), Ok(0.5));
        for wrong in ["-1", "NaN", "inf", "1e9", "soon"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
