//! Group-by, sort, shuffle and join beside Polars and DuckDB, in turns on the same files.
//!
//! `cargo bench -p taxi-etl --bench operations [-- ROWS [ROUNDS]]` generates 9 million trips (or
//! ROWS), and has each engine do each operation in the order A B C C B A, two rounds (or ROUNDS), every
//! time in a process of its own, writing the result to Parquet (Snappy). It prints medians, peak
//! memory, and the ratio to the faster of the other two. It needs python3 with its venv module and
//! a package index for the others; without them it says so.
//!
//! - `group_by`: pickup zone; count, sum, mean, min, max, standard deviation and median of the fare;
//! - `sort`: by the fare, all columns;
//! - `shuffle`: all columns, seeded;
//! - `join`: with the table of zones.
//!
//! Seconds are each engine's own, without the start of its process. Memory is the proportional
//! set size of the process, looked at ten times a second.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use mobula::aggregate::{count, max, mean, median, min, std, sum};
use mobula::{Config, Dataset, JoinKind, from_batches, read_parquet};

mod beside;

use beside::{python, run};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PROGRAM: &str = include_str!("operations.py");
const OPERATIONS: [&str; 4] = ["group_by", "sort", "shuffle", "join"];
const ENGINES: [&str; 3] = ["Mobula", "Polars", "DuckDB"];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [child, operation, trips, zones, out] = arguments.as_slice()
        && child == "child"
    {
        return ours(operation, Path::new(trips), Path::new(zones), Path::new(out));
    }
    let numbers: Vec<u64> = arguments.iter().filter_map(|argument| argument.parse().ok()).collect();
    let wanted: Vec<&str> = OPERATIONS.into_iter().filter(|name| arguments.iter().any(|a| a == name)).collect();
    let wanted = if wanted.is_empty() { OPERATIONS.to_vec() } else { wanted };
    let rows = numbers.first().copied().unwrap_or(9_000_000);
    let rounds = numbers.get(1).copied().unwrap_or(2).max(1);
    let python = python()?;
    let dir = tempfile::tempdir()?;
    let (trips, zones, out) = (dir.path().join("trips"), dir.path().join("zones"), dir.path().join("out"));
    let mut generate = Command::new(env!("CARGO_BIN_EXE_taxi-etl"));
    generate.args(["generate", "--months", "2023-01..2023-03", "--seed", "1", "--rows"]).arg(rows.to_string());
    run(generate.arg("--output").arg(&trips))?;
    write_zones(&zones)?;
    let zone_file = std::fs::read_dir(&zones)?.next().ok_or("no zones were written")??.path();
    let one = |engine: &str, operation: &str| -> Result<(f64, u64), Box<dyn Error>> {
        let _ = std::fs::remove_dir_all(&out);
        let mut command = if engine == "Mobula" {
            let mut command = Command::new(std::env::current_exe()?);
            command.args(["child", operation]);
            command
        } else {
            let mut command = Command::new(&python);
            command.args(["-c", PROGRAM, engine, operation]);
            command
        };
        let (printed, peak) = run(command.arg(&trips).arg(&zone_file).arg(&out))?;
        // DuckDB draws its progress in front.
        let last = printed.trim().rfind('{').map_or("", |at| &printed.trim()[at..]);
        let report: serde_json::Value = serde_json::from_str(last)?;
        Ok((report["seconds"].as_f64().ok_or("no seconds")?, peak))
    };
    println!("{rows} trips, {} runs each", 2 * rounds);
    println!("{:10} {:10} {:>9} {:>12} {:>8}", "operation", "engine", "seconds", "peak memory", "ratio");
    for operation in wanted {
        let mut seconds: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        let mut peaks: BTreeMap<&str, u64> = BTreeMap::new();
        for _ in 0..rounds {
            for engine in ENGINES.iter().chain(ENGINES.iter().rev()) {
                let (took, peak) = one(engine, operation)?;
                seconds.entry(engine).or_default().push(took);
                let most = peaks.entry(engine).or_default();
                *most = peak.max(*most);
            }
        }
        let medians: BTreeMap<&str, f64> = seconds.into_iter().map(|(engine, all)| (engine, middle(all))).collect();
        let best_other = medians["Polars"].min(medians["DuckDB"]);
        for engine in ENGINES {
            let ratio = if engine == "Mobula" { format!("{:.2}", medians[engine] / best_other) } else { String::new() };
            let peak = peaks[engine] as f64 / 1e6;
            println!("{operation:10} {engine:10} {:9.2} {peak:9.0} MB {ratio:>8}", medians[engine]);
        }
    }
    Ok(())
}

/// Does one operation in this process.
fn ours(operation: &str, trips: &Path, zones: &Path, out: &Path) -> Result<(), Box<dyn Error>> {
    let session = mobula::init(Config::default())?;
    let started = Instant::now();
    let trips = read_parquet(trips);
    let fare = "fare_amount";
    let result: Dataset = match operation {
        "group_by" => trips.group_by("PULocationID").aggregate([
            count(),
            sum(fare),
            mean(fare),
            min(fare),
            max(fare),
            std(fare),
            median(fare),
        ]),
        "sort" => trips.sort(fare),
        "shuffle" => trips.random_shuffle(1),
        "join" => trips.join(read_parquet(zones), JoinKind::Inner, "PULocationID", "LocationID"),
        other => return Err(format!("no operation {other}").into()),
    };
    let report = result.write_parquet(out)?;
    let seconds = started.elapsed().as_secs_f64();
    if std::env::var_os("STAGES").is_some() {
        for stage in &report.stages {
            eprintln!(
                "{:60} {:4} tasks {:6.2} s, tasks {:6.2} s, {} rows, {} MB",
                stage.name,
                stage.tasks,
                stage.seconds,
                stage.task_seconds,
                stage.rows_out,
                stage.bytes_out / 1_000_000
            );
        }
    }
    session.shutdown();
    println!("{}", serde_json::json!({ "seconds": seconds }));
    Ok(())
}

/// The zones of the generator as a Parquet file.
fn write_zones(dir: &Path) -> Result<(), Box<dyn Error>> {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
    let zones = || 1..=265_i64;
    let columns: [(&str, ArrayRef); 3] = [
        ("LocationID", Arc::new(Int64Array::from_iter_values(zones()))),
        ("Borough", Arc::new(StringArray::from_iter_values(zones().map(|zone| format!("Borough {}", zone % 6))))),
        ("Zone", Arc::new(StringArray::from_iter_values(zones().map(|zone| format!("Zone {zone}"))))),
    ];
    let session = mobula::init(Config::default())?;
    from_batches([RecordBatch::try_from_iter(columns)?]).write_parquet(dir)?;
    session.shutdown();
    Ok(())
}

fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    // There and back: always an even number of runs.
    (values[half - 1] + values[half]) / 2.0
}
