//! Results for people: lines on stdout, tables, and numbers that read well.
//!
//! Results go to stdout and everything else (progress, hints, errors) to stderr, so that a pipe
//! sees only the result.

use std::io::{self, IsTerminal, Write};

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{Cell, CellAlignment, ContentArrangement, TableComponent};

/// A table, ready to be filled with rows and printed.
pub use comfy_table::Table;

/// Prints a result and a line end. A reader that has gone away (`| head`) is no failure.
///
/// # Errors
/// What the system says when stdout cannot be written.
pub fn print(text: &str) -> io::Result<()> {
    match writeln!(io::stdout().lock(), "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}

/// A table with these column heads; columns whose head starts with `>` are aligned to the right.
/// On a terminal it is not wider than that.
#[must_use]
pub fn table(heads: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_HORIZONTAL_ONLY);
    table.remove_style(TableComponent::HorizontalLines);
    table.remove_style(TableComponent::MiddleIntersections);
    // A table in a file or pipe is not cut to a width that nobody has.
    if io::stdout().is_terminal() {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    table.set_header(heads.iter().map(|head| Cell::new(head.trim_start_matches('>'))));
    for (column, head) in table.column_iter_mut().zip(heads) {
        if head.starts_with('>') {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// A number with commas between its thousands: `1,234,567`.
#[must_use]
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// So many of something: `1 file`, `2,000 files`.
#[must_use]
pub fn counted(number: u64, what: &str) -> String {
    format!("{} {what}{}", grouped(number), if number == 1 { "" } else { "s" })
}

/// Bytes in the largest unit that leaves at least one: `1.5 GiB`. Every size that a program of Mobula
/// prints is printed so.
#[must_use]
pub fn bytes(amount: f64) -> String {
    let (number, unit) = in_unit_of(amount, amount);
    format!("{number} {unit}")
}

/// Bytes in the unit in which `other` is shown, and that unit.
#[must_use]
pub fn in_unit_of(amount: f64, other: f64) -> (String, &'static str) {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let (mut amount, mut other, mut unit) = (amount, other, "B");
    for larger in UNITS {
        if other.abs() < 1024.0 {
            break;
        }
        (amount, other, unit) = (amount / 1024.0, other / 1024.0, larger);
    }
    (if unit == "B" { format!("{amount}") } else { format!("{amount:.1}") }, unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_grouped_and_things_counted() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(counted(1, "file"), "1 file");
        assert_eq!(counted(2_000, "file"), "2,000 files");
    }

    #[test]
    fn bytes_have_the_unit_that_reads_well() {
        let shown = [0, 999, 1_536, 3 << 20, 20 << 30, 5 << 50].map(|amount: u64| bytes(amount as f64));
        assert_eq!(shown, ["0 B", "999 B", "1.5 KiB", "3.0 MiB", "20.0 GiB", "5120.0 TiB"]);
    }

    #[test]
    fn numbers_stand_at_the_right() {
        let mut table = table(&["what", ">how many"]);
        table.add_row(["rows", "7"]);
        assert!(table.to_string().contains(" rows          7 "), "{table}");
    }
}
