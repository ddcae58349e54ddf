//! Cleaning trips beside Polars, in turns on the same files.
//!
//! `cargo bench -p taxi-etl --bench beside_polars [-- ROWS [ROUNDS]]` generates 9 million trips
//! (or ROWS), cleans them with `taxi-etl` and with the streaming engine of Polars in the order
//! A B B A, three rounds (or ROUNDS), and prints medians, peak memory and the ratio. It needs
//! python3 with its venv module and a package index for Polars; without them it says so.
//!
//! Both clean the same: fare_amount >= 2.5, trip_distance > 0, the trip's minutes added, Snappy.
//! Seconds are each program's own, without the start of its process. Memory is the proportional
//! set size of the process (private memory, and its share of what is shared), looked at ten
//! times a second.

use std::error::Error;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

mod beside;

use beside::{python, run};

const PROGRAM: &str = include_str!("polars_clean.py");

struct Measured {
    seconds: f64,
    with_start_seconds: f64,
    peak_bytes: u64,
    rows: u64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let numbers: Vec<u64> = std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let rows = numbers.first().copied().unwrap_or(9_000_000);
    let rounds = numbers.get(1).copied().unwrap_or(3).max(1);
    let python = python()?;
    let dir = tempfile::tempdir()?;
    let (trips, out) = (dir.path().join("trips"), dir.path().join("clean"));

    let mut generate = Command::new(env!("CARGO_BIN_EXE_taxi-etl"));
    generate.args(["generate", "--months", "2023-01..2023-03", "--seed", "1", "--rows"]).arg(rows.to_string());
    let begun = Instant::now();
    let (_, _) = run(generate.arg("--output").arg(&trips))?;
    let seconds = begun.elapsed().as_secs_f64();
    println!("{rows} trips generated in {seconds:.2} s: {:.2} million rows/s", rows as f64 / seconds / 1e6);

    let mobula = || -> Result<Measured, Box<dyn Error>> {
        let mut clean = Command::new(env!("CARGO_BIN_EXE_taxi-etl"));
        clean.args(["--format", "json", "--input"]).arg(&trips).arg("--output").arg(&out);
        measure(&mut clean, &out)
    };
    let polars = || -> Result<Measured, Box<dyn Error>> {
        measure(Command::new(&python).args(["-c", PROGRAM]).arg(&trips).arg(&out), &out)
    };
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        ours.push(mobula()?);
        theirs.push(polars()?);
        theirs.push(polars()?);
        ours.push(mobula()?);
    }
    if ours[0].rows != theirs[0].rows {
        return Err(format!("taxi-etl keeps {} rows, Polars {}", ours[0].rows, theirs[0].rows).into());
    }
    println!("{} of {rows} rows kept by both; {} runs each", ours[0].rows, ours.len());
    println!("{:10} {:>9} {:>12} {:>15} {:>12}", "engine", "seconds", "with start", "million rows/s", "peak memory");
    for (name, runs) in [("taxi-etl", &ours), ("Polars", &theirs)] {
        let seconds = median(runs, |run| run.seconds);
        println!(
            "{name:10} {seconds:9.2} {:12.2} {:15.2} {:9.0} MB",
            median(runs, |run| run.with_start_seconds),
            rows as f64 / seconds / 1e6,
            runs.iter().map(|run| run.peak_bytes).max().unwrap_or_default() as f64 / 1e6,
        );
    }
    let ratio = median(&ours, |run| run.seconds) / median(&theirs, |run| run.seconds);
    println!("taxi-etl takes {ratio:.2} x the time of Polars");
    Ok(())
}

/// Runs a program that prints JSON with `seconds` and `rows_written`.
fn measure(command: &mut Command, out: &Path) -> Result<Measured, Box<dyn Error>> {
    let _ = std::fs::remove_dir_all(out);
    let begun = Instant::now();
    let (printed, peak_bytes) = run(command)?;
    let with_start_seconds = begun.elapsed().as_secs_f64();
    let report: serde_json::Value = serde_json::from_str(printed.trim())?;
    let field = |name: &str| report[name].as_f64().ok_or_else(|| format!("no {name} in {printed}"));
    Ok(Measured { seconds: field("seconds")?, with_start_seconds, peak_bytes, rows: field("rows_written")? as u64 })
}

fn median(runs: &[Measured], of: impl Fn(&Measured) -> f64) -> f64 {
    let mut values: Vec<f64> = runs.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    // A B B A: there is always an even number of runs.
    (values[middle - 1] + values[middle]) / 2.0
}
