//! Sorting and shuffling more rows than fit into memory.
//!
//! `cargo bench -p mobula --bench larger_than_memory [-- GIGABYTES [BUDGET_MEGABYTES [DIR]]]` makes up
//! 20 GB (or GIGABYTES) of rows with eight columns, sorts them by one whose values are spread
//! like chance, and shuffles them, with a budget of 2,000 MB (or BUDGET_MEGABYTES): half for the
//! object store, which spills into DIR (the system's directory for temporary files unless
//! given), half for what the tasks hold. It checks that every row is there, that sorted rows are
//! in order, and prints the time, the most bytes that were spilled and the peak of memory: private memory
//! and what lies in the store's directory of shared memory, looked at ten times a second. A peak of
//! more than 1.25 times the budget is a failure.
//!
//! `cargo test` runs it too, with 2 GB and 256 MiB.

use std::collections::BTreeSet;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mobula::arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use mobula::arrow::datatypes::Int64Type;
use mobula::{Config, Dataset, ValueType, col, lit, range_in_blocks, remote};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const COLUMNS: u64 = 8;

/// What is to be known of rows to tell whether all are there and in order.
#[remote]
fn digest(batch: RecordBatch) -> Result<RecordBatch, String> {
    let column = |name: &str| {
        let column = batch.column_by_name(name).and_then(|column| column.as_primitive_opt::<Int64Type>());
        column.ok_or_else(|| format!("no whole numbers {name}"))
    };
    let (keys, ids) = (column("key")?, column("id")?);
    let sorted = keys.values().windows(2).all(|pair| pair[0] <= pair[1]);
    let sum = ids.values().iter().fold(0_i64, |sum, id| sum.wrapping_add(*id));
    let one = |value: i64| Arc::new(Int64Array::from(vec![value])) as ArrayRef;
    let last = keys.value(keys.len() - 1);
    let columns = [
        ("first", one(keys.value(0))),
        ("last", one(last)),
        ("rows", one(keys.len() as i64)),
        ("sum", one(sum)),
        ("sorted", one(i64::from(sorted))),
    ];
    RecordBatch::try_from_iter(columns).map_err(|error| error.to_string())
}

#[mobula::main]
fn main() -> Result<(), Box<dyn Error>> {
    let flags: BTreeSet<String> = std::env::args().filter(|argument| argument.starts_with("--")).collect();
    if flags.contains("--list") {
        // Those who run tests one by one find none here.
        return Ok(());
    }
    // Cargo says so when it is to measure.
    let measures = flags.contains("--bench");
    let (all_gigabytes, all_megabytes) = if measures { (20.0, 2000.0) } else { (2.0, 268.435_456) };
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let number =
        |index: usize, default: f64| arguments.get(index).and_then(|text| text.parse().ok()).unwrap_or(default);
    let (gigabytes, budget_megabytes) = (number(0, all_gigabytes), number(1, all_megabytes));
    let budget = (budget_megabytes * 1e6) as u64;
    let dir = arguments.get(2).map_or_else(std::env::temp_dir, Into::into);
    let spill = tempfile::Builder::new().prefix("mobula-spill-").tempdir_in(dir)?;
    let config = Config::default().object_store_memory(budget / 2).spill_dir(spill.path());
    let others = store_directories();
    let session = mobula::init(config)?;
    let stores = store_directories().difference(&others).cloned().collect();
    let peak = Peak::watch(stores, spill.path().to_owned());

    let rows = (gigabytes * 1e9) as u64 / (8 * COLUMNS);
    let block_rows = (budget / 32 / (8 * COLUMNS)).max(1);
    let table = || made_up(rows, rows.div_ceil(block_rows)).part_bytes(budget / 16);
    println!("{gigabytes} GB in {rows} rows, a budget of {budget_megabytes} MB");
    for (name, all, in_order) in [("sort", table().sort("key"), true), ("shuffle", table().random_shuffle(1), false)] {
        peak.reset();
        let started = Instant::now();
        check(&all, rows, in_order)?;
        let seconds = started.elapsed().as_secs_f64();
        let (memory, disk) = (peak.memory.load(Ordering::Relaxed), peak.disk.load(Ordering::Relaxed));
        println!(
            "{name:8} {seconds:8.1} s, {:6.0} MB/s, at most {:6.0} MB spilled, {:6.0} MB of memory",
            gigabytes * 1e3 / seconds,
            disk as f64 / 1e6,
            memory as f64 / 1e6
        );
        if memory > budget / 4 * 5 {
            return Err(format!("{name}: {memory} bytes of memory with a budget of {budget}").into());
        }
    }
    session.shutdown();
    Ok(())
}

/// Rows whose `key` is spread like chance; no two blocks hold the same.
fn made_up(rows: u64, blocks: u64) -> Dataset {
    let spread = |seed: i64| (col("id") * lit(2_654_435_761 + 2 * seed)) % lit(4_294_967_291_i64);
    let mut table = range_in_blocks(rows, blocks).with_column("key", spread(0));
    for column in 0..(COLUMNS - 2) as i64 {
        table = table.with_column(format!("value{column}"), spread(column + 1).cast(ValueType::Float64) / lit(7.0));
    }
    table
}

fn check(all: &Dataset, rows: u64, in_order: bool) -> Result<(), Box<dyn Error>> {
    let digests = all.clone().map_batches(digest).to_arrow()?;
    let column = |name: &str| digests.column_by_name(name).map(|c| c.as_primitive::<Int64Type>().values().to_vec());
    let column = |name: &str| column(name).ok_or_else(|| format!("no column {name}"));
    let found: i64 = column("rows")?.iter().sum();
    let sum = column("sum")?.iter().fold(0_i64, |sum, one| sum.wrapping_add(*one));
    let expected = (0..2).map(|half| if half == 0 { rows } else { rows - 1 });
    let expected = expected.fold(1_u128, |product, factor| product * u128::from(factor)) / 2;
    if found as u64 != rows || sum as u64 != expected as u64 {
        return Err(format!("{found} of {rows} rows, with a sum of {sum} instead of {expected}").into());
    }
    let (firsts, lasts) = (column("first")?, column("last")?);
    let ordered = column("sorted")?.iter().all(|sorted| *sorted == 1)
        && firsts.iter().skip(1).zip(&lasts).all(|(next, last)| next >= last);
    if ordered != in_order {
        return Err(format!("the rows are in order: {ordered}").into());
    }
    Ok(())
}

/// The most memory, and disk, that there was.
struct Peak {
    memory: Arc<AtomicU64>,
    disk: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
}

impl Peak {
    /// Looks at the memory of this process and of these stores, and at what is spilled.
    fn watch(stores: Vec<PathBuf>, spill: PathBuf) -> Self {
        let peak = Self { memory: Arc::default(), disk: Arc::default(), ended: Arc::default() };
        let (memory, disk, ended) = (Arc::clone(&peak.memory), Arc::clone(&peak.disk), Arc::clone(&peak.ended));
        std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                let shared: u64 = stores.iter().map(|store| disk_bytes(store)).sum();
                memory.fetch_max(private_bytes() + shared, Ordering::Relaxed);
                disk.fetch_max(disk_bytes(&spill), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        peak
    }

    fn reset(&self) {
        self.memory.store(0, Ordering::Relaxed);
        self.disk.store(0, Ordering::Relaxed);
    }
}

impl Drop for Peak {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

fn private_bytes() -> u64 {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    let field = |name: &str| {
        let line = rollup.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
    };
    field("Pss_Anon:")
}

/// The directories of all object stores of this machine.
fn store_directories() -> BTreeSet<PathBuf> {
    let entries = std::fs::read_dir("/dev/shm").into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// What the files below a directory take.
fn disk_bytes(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let mut bytes = 0;
    for entry in entries.flatten() {
        if let Ok(metadata) = entry.metadata() {
            bytes += if metadata.is_dir() { disk_bytes(&entry.path()) } else { metadata.blocks() * 512 };
        }
    }
    bytes
}
