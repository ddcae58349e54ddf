//! When trips begin: months, the hours of a week, and the days on which no surcharge is due.
//!
//! Entry types: [`Month`] and `Hours`, which spreads the rows of a month over its hours as
//! demand in New York does.

use std::fmt;
use std::str::FromStr;

use chrono::{Datelike, NaiveDate, Weekday};

/// A month of a year.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Month {
    /// The year.
    pub year: i32,
    /// The month, from 1 to 12.
    pub month: u32,
}

impl Month {
    /// Parses `2023-01`, or `2023-01..2023-03` with both ends included.
    pub fn parse_range(text: &str) -> Result<Vec<Month>, String> {
        let (first, last) = match text.split_once("..") {
            Some((first, last)) => (first.parse::<Month>()?, last.parse::<Month>()?),
            None => (text.parse()?, text.parse()?),
        };
        if last < first {
            return Err(format!("{last} is before {first}: write FIRST..LAST"));
        }
        let months: Vec<Month> =
            std::iter::successors(Some(first), |m| Some(m.next())).take_while(|m| *m <= last).collect();
        if months.len() > MAX_MONTHS {
            return Err(format!("{} months: at most {MAX_MONTHS} in one run", months.len()));
        }
        Ok(months)
    }

    /// The days of the month.
    #[must_use]
    pub fn days(self) -> u32 {
        let next = self.next().first_day();
        u32::try_from(next.signed_duration_since(self.first_day()).num_days()).unwrap_or(31)
    }

    /// Midnight at its start, in microseconds since 1970.
    pub(crate) fn start_us(self) -> i64 {
        let epoch = NaiveDate::default();
        self.first_day().signed_duration_since(epoch).num_days() * 24 * HOUR_US
    }

    /// Whether an hour of the month is one of the weekday rush, 4 to 8 in the afternoon.
    pub(crate) fn is_rush(self, hour: usize) -> bool {
        let day = self.day(hour / 24);
        (16..20).contains(&(hour % 24)) && !matches!(day.weekday(), Weekday::Sat | Weekday::Sun) && !is_holiday(day)
    }

    fn first_day(self) -> NaiveDate {
        // `from_str` lets only months pass that the calendar has.
        NaiveDate::from_ymd_opt(self.year, self.month, 1).unwrap_or_default()
    }

    fn day(self, index: usize) -> NaiveDate {
        self.first_day() + chrono::Days::new(index as u64)
    }

    fn next(self) -> Month {
        match self.month {
            12 => Month { year: self.year + 1, month: 1 },
            month => Month { month: month + 1, ..self },
        }
    }
}

impl FromStr for Month {
    type Err = String;

    fn from_str(text: &str) -> Result<Month, String> {
        let wrong = || format!("{text:?} is not a month: write it as 2023-01");
        let (year, month) = text.split_once('-').ok_or_else(wrong)?;
        let month = Month { year: year.parse().map_err(|_| wrong())?, month: month.parse().map_err(|_| wrong())? };
        if (1..=12).contains(&month.month) && (2009..=2100).contains(&month.year) { Ok(month) } else { Err(wrong()) }
    }
}

impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:02}", self.year, self.month)
    }
}

/// How the rows of a month lie in its hours.
#[derive(Debug)]
pub(crate) struct Hours {
    /// The first row of every hour, and the number of rows at the end.
    first_rows: Vec<u64>,
}

impl Hours {
    /// Spreads `rows` over the hours of `month`.
    pub(crate) fn new(month: Month, rows: u64) -> Hours {
        let mut weights = Vec::new();
        for index in 0..month.days() as usize {
            let day = month.day(index);
            let (profile, level) = match day.weekday() {
                _ if is_holiday(day) => (&SUNDAY, 80),
                Weekday::Sun => (&SUNDAY, 88),
                Weekday::Sat => (&SATURDAY, 103),
                Weekday::Mon => (&WEEKDAY, 88),
                Weekday::Tue => (&WEEKDAY, 100),
                Weekday::Wed => (&WEEKDAY, 103),
                Weekday::Thu => (&WEEKDAY, 107),
                Weekday::Fri => (&WEEKDAY, 105),
            };
            let all: u64 = profile.iter().sum();
            weights.extend(profile.iter().map(|hour| hour * level * 1_000_000 / all));
        }
        let all: u128 = weights.iter().map(|w| u128::from(*w)).sum();
        let mut below = 0_u128;
        let mut first_rows = vec![0];
        for weight in weights {
            below += u128::from(weight);
            first_rows.push((u128::from(rows) * below / all) as u64);
        }
        Hours { first_rows }
    }

    /// The hour of the month in which `row` lies.
    pub(crate) fn of(&self, row: u64) -> usize {
        self.first_rows.partition_point(|first| *first <= row) - 1
    }

    /// The first row after `hour`.
    pub(crate) fn end(&self, hour: usize) -> u64 {
        self.first_rows[hour + 1]
    }
}

/// The legal holidays: no rush-hour surcharge, and the streets of a Sunday.
fn is_holiday(day: NaiveDate) -> bool {
    let nth = day.day().div_ceil(7);
    let last_of_month = day.checked_add_days(chrono::Days::new(7)).is_some_and(|d| d.month() != day.month());
    match (day.month(), day.day(), day.weekday()) {
        (1, 1, _) | (6, 19, _) | (7, 4, _) | (11, 11, _) | (12, 25, _) => true,
        (1 | 2, _, Weekday::Mon) => nth == 3,
        (5, _, Weekday::Mon) => last_of_month,
        (9, _, Weekday::Mon) => nth == 1,
        (10, _, Weekday::Mon) => nth == 2,
        (11, _, Weekday::Thu) => nth == 4,
        _ => false,
    }
}

/// Microseconds in an hour.
pub(crate) const HOUR_US: i64 = 3_600_000_000;
/// Months that one run may make: ten years.
const MAX_MONTHS: usize = 120;

/// Pickups by hour of day, of 1,000.
const WEEKDAY: [u64; 24] = [18, 11, 7, 5, 5, 8, 20, 38, 50, 50, 50, 52, 56, 58, 63, 65, 65, 72, 75, 67, 58, 54, 44, 30];
const SATURDAY: [u64; 24] =
    [62, 47, 36, 24, 13, 7, 12, 20, 30, 44, 56, 64, 70, 72, 73, 74, 74, 76, 78, 70, 60, 58, 60, 58];
const SUNDAY: [u64; 24] =
    [74, 60, 46, 31, 18, 9, 10, 15, 24, 40, 54, 62, 68, 70, 70, 68, 64, 62, 58, 48, 42, 38, 30, 22];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_parse_and_know_their_days() {
        let months = Month::parse_range("2022-12..2023-02").unwrap();
        let text: Vec<String> = months.iter().map(Month::to_string).collect();
        assert_eq!(text, ["2022-12", "2023-01", "2023-02"]);
        assert_eq!(months.iter().map(|m| m.days()).collect::<Vec<_>>(), [31, 31, 28]);
        assert_eq!(months[1].start_us(), 1_672_531_200_000_000);
        for wrong in ["2023", "2023-13", "2023-02..2023-01", "x-y", "2000-01..2100-12", "-2023-01"] {
            assert!(Month::parse_range(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn rush_hour_is_on_working_days() {
        let month: Month = "2023-01".parse().unwrap();
        // The 1st was a Sunday, the 16th a holiday, the 17th a Tuesday.
        let rush = |day: usize, hour| month.is_rush((day - 1) * 24 + hour);
        assert!(!rush(1, 17) && !rush(16, 17) && rush(17, 17) && rush(17, 16));
        assert!(!rush(17, 15) && !rush(17, 20) && !rush(21, 17));
    }

    #[test]
    fn every_row_has_an_hour_and_evenings_have_more() {
        let month: Month = "2023-02".parse().unwrap();
        let hours = Hours::new(month, 1_000_000);
        assert_eq!(hours.end(28 * 24 - 1), 1_000_000);
        for row in (0..1_000_000).step_by(997) {
            let hour = hours.of(row);
            assert!(row < hours.end(hour) && (hour == 0 || hours.end(hour - 1) <= row));
        }
        let rows = |hour: usize| hours.end(hour) - hours.end(hour - 1);
        assert!(rows(24 + 18) > 5 * rows(24 + 4));
        assert_eq!(Hours::new(month, 0).end(5), 0);
    }
}
