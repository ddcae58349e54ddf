//! The program `taxi-etl`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Args, Parser, Subcommand, ValueEnum};
use mobula_data::DataError;
use taxi_etl::calendar::Month;
use taxi_etl::generate::{Generate, generate};
use taxi_etl::report::{bar, grouped, size, table};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Works with the trip records of New York's taxis.
#[derive(Debug, Parser)]
#[command(name = "taxi-etl", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make up months of yellow trips: real columns, fares by the rules of 2023, real dirt.
    Generate(GenerateArgs),
}

#[derive(Debug, Args)]
struct GenerateArgs {
    /// Rows of all months together.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    rows: u64,
    /// The months, as 2023-01 or 2023-01..2023-03.
    #[arg(long, default_value = "2023-01", value_parser = months)]
    months: Months,
    /// Equal seeds give equal trips.
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Where the files go.
    #[arg(long)]
    output: PathBuf,
    /// How the result is told.
    #[arg(long, value_enum, default_value_t = Format::Human)]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A progress bar and a table.
    Human,
    /// One JSON object.
    Json,
}

#[derive(Debug, Clone)]
struct Months(Vec<Month>);

fn months(text: &str) -> Result<Months, String> {
    Month::parse_range(text).map(Months)
}

fn main() -> ExitCode {
    let Command::Generate(arguments) = Cli::parse().command;
    match run_generate(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("taxi-etl: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run_generate(arguments: GenerateArgs) -> Result<(), DataError> {
    let what = Generate {
        rows: arguments.rows,
        months: arguments.months.0,
        seed: arguments.seed,
        output: arguments.output,
        threads: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
    };
    let start = Instant::now();
    let bar = bar(what.rows, arguments.format == Format::Json);
    let files = generate(&what, &|rows| bar.inc(rows))?;
    bar.finish_and_clear();
    let seconds = start.elapsed().as_secs_f64();
    let per_second = what.rows as f64 / seconds;
    if arguments.format == Format::Json {
        let result = serde_json::json!({
            "rows_written": what.rows,
            "files_written": files.len(),
            "files": files.iter().map(|f| f.path.display().to_string()).collect::<Vec<_>>(),
            "bytes_written": files.iter().map(|f| f.bytes).sum::<u64>(),
            "seconds": seconds,
            "rows_per_second": per_second,
        });
        println!("{result:#}");
        return Ok(());
    }
    let mut table = table(["file", "rows", "bytes"]);
    for file in &files {
        table.add_row([
            file.path.display().to_string(),
            grouped(file.rows),
            size(file.bytes),
        ]);
    }
    println!(
        "{table}\n{seconds:.2} s, {} rows/s",
        grouped(per_second as u64)
    );
    Ok(())
}
