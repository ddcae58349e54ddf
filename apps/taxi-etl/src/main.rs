//! The program `taxi-etl`.

use std::error::Error;
use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Args, Parser, Subcommand, ValueEnum};
use mobula::print::{bytes, grouped, print, table};
use mobula::{Config, DEFAULT_LOG, DataError};
use mobula_data::planner::MAX_BATCH_ROWS;
use taxi_etl::calendar::Month;
use taxi_etl::clean::{Limits, read};
use taxi_etl::generate::{Generate, Generated, generate};
use taxi_etl::interrupt::Interrupt;
use taxi_etl::report::{bar, interrupted_text};
use taxi_etl::run::Run;
use taxi_etl::s3::S3Args;
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Rows of the month that is generated when nothing else is asked for.
const DEMO_ROWS: u64 = 3_000_000;

/// Works with the trip records of New York's taxis: reads yellow and green files, drops trips
/// without a real fare or distance, adds their duration, and writes one table.
///
/// Without any argument it makes up a month of trips, cleans it and shows the result.
#[derive(Debug, Parser)]
#[command(name = "taxi-etl", version, args_conflicts_with_subcommands = true, after_long_help = COLUMNS_HELP)]
struct Cli {
    #[command(flatten)]
    clean: CleanArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Args)]
struct CleanArgs {
    /// Trip files, directories of them, or patterns such as 'trips/*.parquet', here, at s3://… or
    /// at https://….
    #[arg(long, num_args = 1.., requires = "output")]
    input: Vec<PathBuf>,
    /// The directory of the result, here or at s3://…, which may not lie in the input. The files of an earlier run
    /// there, part-*.parquet, are replaced; another Parquet file there is an error.
    ///
    /// Nothing is seen there before the run is done: until then its files wait in a hidden directory, DIR/.mobula-… or,
    /// where there is no DIR yet, .DIR.mobula-… beside it. A run that was killed leaves that; the next one with the
    /// same output removes it. Of two runs at once into one directory here the one that is done first wins: the other
    /// ends with an error and replaces nothing.
    #[arg(long, requires = "input")]
    output: Option<PathBuf>,
    /// A running cluster; without it the work is done in this process.
    #[arg(long, value_name = "HOST:PORT", env = "MOBULA_ADDRESS")]
    address: Option<String>,
    /// The directory with the credentials for the cluster.
    #[arg(long, requires = "address")]
    credentials: Option<PathBuf>,
    /// At most so many blocks at once; twice the cluster's CPUs unless given.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    concurrency: Option<u64>,
    /// Rows per batch.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=MAX_BATCH_ROWS as u64))]
    batch_size: Option<u64>,
    /// About so many bytes of input, before compression, per file of the result; row groups are
    /// never split. 16 MiB unless given.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    block_bytes: Option<u64>,
    /// Which columns the result has.
    #[arg(long, value_enum, default_value_t = Columns::All)]
    columns: Columns,
    /// A query over the cleaned trips, which it calls trips; its rows are written instead.
    ///
    /// There are select with expressions, distinct, where, group by, having, order by, limit, joins by equal keys,
    /// union all, and queries in from, with and in. What there is not is refused by its name: window functions
    /// (over), correlated queries, exists, queries as values, intersect and except, grouping sets, offset. Rows that
    /// its conditions drop are told apart from those that the cleaning drops.
    #[arg(long, value_name = "QUERY")]
    sql: Option<String>,
    /// Show the plan, and run nothing: what is written where, what is read, and where stages end. As it is written,
    /// too, if it will run otherwise.
    #[arg(long)]
    explain: bool,
    /// Tell what every stage and operator did; in JSON that is always told.
    #[arg(long)]
    stats: bool,
    /// Go on where a run of the same plan over the same files was killed or interrupted, which must have been
    /// given `--resume` too; begin anew, and say why, where there is none. Rows and bytes read, and dropped
    /// rows, are those of this run; what is written is the whole result, of which `rows_resumed` and
    /// `blocks_resumed` are an earlier run's. In S3 what a killed run has uploaded takes room, unseen,
    /// until the same command is given again, or a day has passed and any other writes there
    #[arg(long)]
    resume: bool,
    #[command(flatten)]
    s3: S3Args,
    /// How the result is told.
    #[arg(long, value_enum, default_value_t = Format::Human)]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Columns {
    /// Those of the files, and the minutes of each trip.
    All,
    /// The eight features of a model of fares, and the fare: fares of 2.50 to 300 dollars, distances to
    /// 60 miles.
    Model,
}

/// Which columns of files are taken for which.
const COLUMNS_HELP: &str = "\
Columns:
  Names are compared without their case, and have that of the TLC in the result.
  Where all files are of one kind, yellow or green, their times keep their names. Where both
  are read together,
    tpep_pickup_datetime and lpep_pickup_datetime    are called pickup_datetime,
    tpep_dropoff_datetime and lpep_dropoff_datetime  are called dropoff_datetime,
  in the result and to --sql, and the summary says so.
  A column that a file lacks is null for its trips: ehail_fee and trip_type for yellow ones,
  airport_fee for green ones.
  Every file must have fare_amount, trip_distance and both times. trip_duration_min is added.";

/// More trips than New York will see in a thousand years; the plan of so many still fits into memory.
const MAX_ROWS: u64 = 1_000_000_000_000;

#[derive(Debug, Subcommand)]
enum Command {
    /// Make up months of yellow trips: real columns, fares by the rules of 2023, real dirt.
    Generate(GenerateArgs),
}

#[derive(Debug, Args)]
struct GenerateArgs {
    /// Rows of all months together.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=MAX_ROWS))]
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
    /// Replace files of the same name; otherwise they are an error.
    #[arg(long)]
    overwrite: bool,
    /// How the result is told.
    #[arg(long, value_enum, default_value_t = Format::Human)]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A progress bar and a table.
    Human,
    /// One JSON object and nothing else on stdout; the paths in `files` are absolute.
    Json,
}

#[derive(Debug, Clone)]
struct Months(Vec<Month>);

fn months(text: &str) -> Result<Months, String> {
    Month::parse_range(text).map(Months)
}

#[mobula::main]
fn main() -> ExitCode {
    let cli = Cli::parse();
    log_to_stderr();
    let interrupt = match Interrupt::watch() {
        Ok(interrupt) => interrupt,
        Err(error) => {
            eprintln!("taxi-etl: signals cannot be watched: {error}");
            return ExitCode::FAILURE;
        }
    };
    let resumes = cli.command.is_none() && cli.clean.resume;
    let done = match cli.command {
        Some(Command::Generate(arguments)) => run_generate(arguments, &interrupt),
        None => run_clean(cli.clean, &interrupt),
    };
    match (done, interrupt.exit_code()) {
        (Ok(()), _) => ExitCode::SUCCESS,
        (Err(error), Some(exit_code)) => {
            eprintln!("taxi-etl: {}", interrupted_text(error.as_ref(), resumes));
            ExitCode::from(exit_code)
        }
        (Err(error), None) => {
            eprintln!("taxi-etl: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Warnings and errors, or what `MOBULA_LOG` asks for (`MOBULA_LOG=mobula_core=debug`).
fn log_to_stderr() {
    let filter = EnvFilter::try_from_env("MOBULA_LOG").unwrap_or_else(|_| EnvFilter::new(DEFAULT_LOG));
    let colours = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours);
    // Nobody may read it any more, or its disk be full: that is no reason to panic.
    log.log_internal_errors(false).init();
}

fn run_clean(arguments: CleanArgs, interrupt: &Interrupt) -> Result<(), Box<dyn Error>> {
    let quiet = arguments.format == Format::Json;
    let demo = arguments.output.is_none();
    let mut config = Config::default().name("taxi-etl");
    if let Some(address) = arguments.address.filter(|address| !address.is_empty()) {
        config = config.address(address);
    }
    if let Some(directory) = arguments.credentials {
        config = config.credentials(directory);
    }
    // First of all: without a cluster there is no use in making up trips.
    let session = mobula::init(config)?;
    let (inputs, output) = match arguments.output {
        Some(output) => (arguments.input, output),
        None => demo_paths(quiet, interrupt)?,
    };
    let run = Run {
        storage: arguments.s3.checked(inputs.iter().chain([&output]))?,
        inputs,
        output,
        limits: Limits::default(),
        concurrency: arguments.concurrency.map(|blocks| usize::try_from(blocks).unwrap_or(usize::MAX)),
        block_bytes: arguments.block_bytes,
        batch_rows: arguments.batch_size.map(|rows| usize::try_from(rows).unwrap_or(usize::MAX)),
        for_model: arguments.columns == Columns::Model,
        sql: arguments.sql,
        resume: arguments.resume,
    };
    if arguments.explain {
        let explained = run.explain()?;
        print(&if quiet { serde_json::to_string_pretty(&explained)? } else { explained.to_string() })?;
        session.shutdown();
        return Ok(());
    }
    let plain = !run.for_model && run.sql.is_none();
    let bar = bar(0, quiet);
    let result = run.run(&bar, interrupt);
    bar.finish_and_clear();
    let summary = result?;
    print(&if quiet { summary.to_json() } else { summary.to_table() })?;
    if arguments.stats && !quiet {
        print(&format!("\n{}", summary.stats))?;
    }
    if demo && !quiet && plain {
        print(&format!("\nThe first of them, as they lie in {}:", run.output.display()))?;
        let columns = ["pickup", "dropoff"].map(|end| format!("tpep_{end}_datetime"));
        let rest = ["trip_distance", "fare_amount", "trip_duration_min"].map(str::to_owned);
        read(&run.output)
            .storage(run.storage.clone())
            .select(columns.into_iter().chain(rest).collect::<Vec<_>>())
            .show(5)?;
    }
    session.shutdown();
    Ok(())
}

/// Generates a month of trips where the user's caches are kept, in the place of the last one.
fn demo_paths(quiet: bool, interrupt: &Interrupt) -> Result<(Vec<PathBuf>, PathBuf), Box<dyn Error>> {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
    let base = cache.unwrap_or_else(std::env::temp_dir).join("mobula").join("taxi-etl");
    let trips = base.join("generated");
    if !quiet {
        print(&format!("Making up a month of {} trips in {}", grouped(DEMO_ROWS), trips.display()))?;
    }
    let what = Generate {
        rows: DEMO_ROWS,
        months: Month::parse_range("2023-01")?,
        seed: 42,
        output: trips,
        threads: threads(),
        overwrite: true,
    };
    let files = with_bar(&what, quiet, interrupt)?;
    Ok((files.into_iter().map(|file| file.path).collect(), base.join("cleaned")))
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn with_bar(what: &Generate, quiet: bool, interrupt: &Interrupt) -> Result<Vec<Generated>, DataError> {
    let bar = bar(what.rows, quiet);
    let files = generate(what, &|rows| {
        bar.inc(rows);
        if interrupt.is_set() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    bar.finish_and_clear();
    files
}

fn run_generate(arguments: GenerateArgs, interrupt: &Interrupt) -> Result<(), Box<dyn Error>> {
    let what = Generate {
        rows: arguments.rows,
        months: arguments.months.0,
        seed: arguments.seed,
        output: std::path::absolute(arguments.output)?,
        threads: threads(),
        overwrite: arguments.overwrite,
    };
    let start = Instant::now();
    let files = with_bar(&what, arguments.format == Format::Json, interrupt).map_err(|error| match error {
        DataError::OutputExists { .. } => format!("{error}, or replace it with --overwrite"),
        error => error.to_string(),
    })?;
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
        print(&format!("{result:#}"))?;
        return Ok(());
    }
    let mut table = table(&["file", ">rows", ">bytes"]);
    for file in &files {
        table.add_row([file.path.display().to_string(), grouped(file.rows), bytes(file.bytes as f64)]);
    }
    print(&format!("{table}\n{seconds:.2} s, {} rows/s", grouped(per_second as u64)))?;
    Ok(())
}
