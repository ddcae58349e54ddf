//! Cleaning trips: read, filter, add a column, write, on plain threads.
//!
//! `cargo bench -p mobula-data --bench etl -- DIR [THREADS [BATCH_ROWS]]` prints rows per
//! second, processor time and peak memory for the yellow trips in DIR. It has no scheduler and
//! no store: it is the floor under the same work on a cluster.

use std::ops::ControlFlow;
use std::sync::Mutex;
use std::time::Instant;

use mobula_data::execute::{BlockContext, BlockReport, run_block};
use mobula_data::function::RegisteredFunctions;
use mobula_data::output_dir::OutputDir;
use mobula_data::parquet_read::FileFooter;
use mobula_data::parquet_write::WriteOptions;
use mobula_data::paths::expand;
use mobula_data::planner::plan;
use mobula_data::{DataError, LogicalPlan, Sink, col, lit};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<(), DataError> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let Some(dir) = arguments.first() else {
        println!("etl: name a directory of yellow trips to measure; nothing was run");
        return Ok(());
    };
    let number = |i: usize| arguments.get(i).and_then(|a| a.parse::<usize>().ok());
    let threads = number(1).unwrap_or(2);
    let mut logical = LogicalPlan::read_parquet([dir.as_str()])
        .filter(col("fare_amount").gt_eq(lit(2.5)))
        .filter(col("trip_distance").gt(lit(0.0)))
        .with_column("trip_duration_min", col("tpep_dropoff_datetime").minutes_since(col("tpep_pickup_datetime")));
    logical.source_mut().batch_rows = number(2).unwrap_or(logical.source().batch_rows);

    let start = Instant::now();
    let out = std::env::temp_dir().join(format!("mobula-bench-etl-{}", std::process::id()));
    let out = out.display().to_string();
    let options = WriteOptions::default();
    let output = OutputDir::prepare(&out, options.mode, "bench")?;
    let files = expand(&logical.source().paths)?;
    let footers: Vec<FileFooter> = files.iter().map(|f| FileFooter::read(f)).collect::<Result<_, _>>()?;
    let sink = Sink::WriteParquet { dir: out.clone(), options };
    let physical = plan(&logical, &sink, &footers, &output.staging())?;
    let tasks = Mutex::new(physical.tasks.iter());
    let work = || {
        let mut reports = Vec::new();
        loop {
            let Some(task) = tasks.lock().ok().and_then(|mut t| t.next()) else {
                return Ok(reports);
            };
            let context = BlockContext {
                functions: &RegisteredFunctions,
                progress: &|_| ControlFlow::Continue(()),
                clock: &|| start.elapsed(),
                attempt: "0",
            };
            reports.push(run_block(task, &physical.stage, &context)?.report);
        }
    };
    let mut reports: Vec<BlockReport> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let results = handles.into_iter().map(|h| h.join().unwrap_or(Err(DataError::Cancelled)));
        results.collect::<Result<Vec<_>, _>>()
    })?
    .concat();
    reports.sort_by_key(|r| r.ordinal);
    let files: Vec<_> = reports.iter().filter_map(|r| r.file.clone()).collect();
    let bytes: u64 = files.iter().map(|f| f.bytes).sum();
    output.commit(&files)?;
    let seconds = start.elapsed().as_secs_f64();
    let _ = std::fs::remove_dir_all(&out);
    let rows: u64 = reports.iter().map(|r| r.rows_in).sum();
    let kept: u64 = reports.iter().map(|r| r.rows_out).sum();
    println!(
        "{rows} rows in, {kept} out, {} tasks, {threads} threads: {seconds:.2} s, {:.2} million rows/s, {} MB out",
        reports.len(),
        rows as f64 / seconds / 1e6,
        bytes / 1_000_000,
    );
    for line in std::fs::read_to_string("/proc/self/status").unwrap_or_default().lines() {
        if line.starts_with("VmHWM") {
            println!("{line}");
        }
    }
    Ok(())
}
