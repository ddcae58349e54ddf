//! What is printed: every rate beside Ray's, and every ratio to what the hardware can do.

use std::time::Duration;

use serde::Serialize;

use super::cases::{Bound, PUT_GIGABYTES};
use super::hardware::Floors;
use super::{INIT, Line};
use crate::error::CliError;
use crate::output::{self, number};

/// Threads that wake each other on the way of a call and its answer inside one process: the one
/// that runs it, and the caller's.
const WAKE_UPS_INSIDE: u32 = 2;
/// The same between processes: on either side the user's thread and the one at the socket wake
/// each other. The wake-ups by the socket are part of the QUIC ping-pong.
const WAKE_UPS_BETWEEN: u32 = 4;

#[derive(Serialize)]
struct Entry {
    name: &'static str,
    per_second: f64,
    sd: f64,
}

/// A list of name, rate and deviation.
pub(super) fn json(lines: &[Line]) -> Result<(), CliError> {
    let entries: Vec<_> = lines
        .iter()
        .map(|line| Entry { name: line.name, per_second: line.measured.per_second, sd: line.measured.sd })
        .collect();
    output::print_json(&entries)
}

/// A table, then the floors.
pub(super) fn human(lines: &[Line], in_this_process: bool, idle_bytes: Option<u64>) -> Result<(), CliError> {
    let mut table = output::table(&[
        "case",
        ">per second",
        ">sd",
        ">Ray here",
        ">ratio",
        ">Ray published",
        "of what the hardware can do",
    ]);
    for line in lines {
        let rate = line.measured.per_second;
        let (ray, ratio, published) = match line.case {
            None => (String::new(), String::new(), String::new()),
            Some(case) => {
                let (least, most) = case.ray.published;
                let published =
                    if least == most { number(most) } else { format!("{} to {}", number(least), number(most)) };
                (number(case.ray.measured), format!("{}x", number(rate / case.ray.measured)), published)
            }
        };
        table.add_row([
            line.name.to_owned(),
            number(rate),
            number(line.measured.sd),
            ray,
            ratio,
            published,
            against_floor(line, in_this_process),
        ]);
    }
    output::print(&table.to_string())?;
    output::print(
        "Ray here: Ray 2.60.0 on the reference machine (2 virtual CPUs, 24 GiB). Ray published: on 64 virtual CPUs.",
    )?;

    let floors: Vec<_> = lines.iter().map(|line| line.floors).collect();
    for line in notes(&Floors::mean(&floors), in_this_process) {
        output::print(&line)?;
    }
    if let Some(bytes) = idle_bytes {
        output::print(&format!("memory of the process, idle after its first result: {}", output::bytes(bytes as f64)))?;
    }
    Ok(())
}

fn against_floor(line: &Line, in_this_process: bool) -> String {
    let (measured, floors) = (&line.measured, &line.floors);
    let Some(case) = line.case else {
        return if line.name == INIT { milliseconds(1.0 / measured.per_second) } else { String::new() };
    };
    match case.bound {
        Bound::None => String::new(),
        Bound::RoundTrip => match hops(floors, in_this_process) {
            Some(hops) => format!(
                "{} = {:.2} x the hops",
                microseconds(1.0 / measured.per_second),
                1.0 / measured.per_second / hops.as_secs_f64()
            ),
            None => String::new(),
        },
        Bound::Copy => {
            let Some(copy) = floors.copy else {
                return String::new();
            };
            // Ray's units are 8e8 for what are 8 x 100 x 2^20 bytes.
            let true_gigabytes = 1.048_576;
            let warm = percent(measured.per_second * true_gigabytes / copy.faulted);
            if case.name != PUT_GIGABYTES {
                return format!("{warm} of one thread's memcpy");
            }
            let cold = 0.8 * true_gigabytes / measured.first_call.as_secs_f64();
            format!("{warm} of a memcpy; first call {} of a memcpy into fresh pages", percent(cold / copy.fresh))
        }
    }
}

/// The least a call and its answer can take.
fn hops(floors: &Floors, in_this_process: bool) -> Option<Duration> {
    let wake_up = floors.wake_up?;
    if in_this_process {
        return Some(wake_up * WAKE_UPS_INSIDE);
    }
    Some(floors.quic_round_trip? + wake_up * WAKE_UPS_BETWEEN)
}

fn notes(floors: &Floors, in_this_process: bool) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(wake_up) = floors.wake_up {
        notes.push(format!("thread wake-up: {}", microseconds(wake_up.as_secs_f64())));
    }
    if let Some(round_trip) = floors.quic_round_trip {
        notes.push(format!(
            "QUIC ping-pong of 64 bytes between two processes: {}",
            microseconds(round_trip.as_secs_f64())
        ));
    }
    if let Some(hops) = hops(floors, in_this_process) {
        let sum = microseconds(hops.as_secs_f64());
        notes.push(if in_this_process {
            format!("the hops of a synchronous call: {WAKE_UPS_INSIDE} wake-ups = {sum}")
        } else {
            format!("the hops of a synchronous call: 1 QUIC ping-pong + {WAKE_UPS_BETWEEN} wake-ups = {sum}")
        });
    }
    if let Some(copy) = floors.copy {
        notes.push(format!(
            "memcpy of 800 MiB by one thread: {} GB/s into shared memory written before, {} GB/s into fresh pages",
            number(copy.faulted),
            number(copy.fresh)
        ));
    }
    notes
}

fn microseconds(seconds: f64) -> String {
    format!("{} us", number(seconds * 1e6))
}

fn milliseconds(seconds: f64) -> String {
    format!("{} ms", number(seconds * 1e3))
}

fn percent(ratio: f64) -> String {
    format!("{:.0} %", ratio * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::microbenchmark::cases::CASES;
    use crate::microbenchmark::hardware::Copying;
    use crate::microbenchmark::measure::Measured;

    fn line(name: &'static str, per_second: f64, first_call_ms: u64, floors: Floors) -> Line {
        let case = CASES.iter().find(|case| case.name == name);
        let measured = Measured { per_second, sd: 0.0, first_call: Duration::from_millis(first_call_ms) };
        Line { name, case, measured, floors }
    }

    #[test]
    fn a_synchronous_call_is_held_against_its_hops() {
        let mut floors = Floors { wake_up: Some(Duration::from_micros(25)), ..Floors::default() };
        let mut call = line("1:1 actor calls sync", 10_000.0, 1, floors);
        assert_eq!(against_floor(&call, true), "100 us = 2.00 x the hops");
        assert_eq!(against_floor(&call, false), "", "no ping-pong was measured");
        floors.quic_round_trip = Some(Duration::from_micros(100));
        call.floors = floors;
        assert_eq!(against_floor(&call, false), "100 us = 0.50 x the hops");
    }

    #[test]
    fn a_put_is_held_against_a_copy() {
        let floors = Floors { copy: Some(Copying { faulted: 10.0, fresh: 1.5 }), ..Floors::default() };
        let put = line(PUT_GIGABYTES, 8.0, 839, floors);
        assert_eq!(against_floor(&put, true), "84 % of a memcpy; first call 67 % of a memcpy into fresh pages");
        assert_eq!(against_floor(&line(INIT, 40.0, 1, floors), true), "25.0 ms");
    }
}
