//! What a run did, for people.

use std::fmt;
use std::ops::Deref;

use mobula_core::client::Client;
use mobula_core::store::messages::StoreStats;
use mobula_data::executor::{RunError, RunReport, StageReport};
use mobula_data::plan::Sink;

use super::Dataset;
use crate::print::{Table, bytes, counted, grouped, table};

/// What every stage of a run did, step by step; made by [`Dataset::stats`], or of the report of any
/// sink. It derefs to the report and prints as a table.
///
/// ```no_run
/// # fn main() -> Result<(), mobula::RunError> {
/// let trips = mobula::read_parquet("trips/").sort("fare_amount");
/// println!("{}", trips.stats()?);
/// println!("{}", mobula::DatasetStats::from(trips.write_parquet("sorted/")?));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct DatasetStats {
    /// What the run did.
    pub report: RunReport,
    /// What the cluster's object stores did on disk while it ran, if that was asked.
    pub disk: Option<StoreDisk>,
}

/// What object stores moved from memory to disk and back, for whoever it was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreDisk {
    /// Bytes that were written to disk, as memory had no room for them.
    pub spilled_bytes: u64,
    /// Bytes that were read back.
    pub restored_bytes: u64,
}

impl StoreDisk {
    /// Since the start of all living nodes.
    fn so_far(client: &Client) -> Result<Self, RunError> {
        let add = |sum: Self, store: StoreStats| Self {
            spilled_bytes: sum.spilled_bytes + store.spilled_bytes,
            restored_bytes: sum.restored_bytes + store.restored_bytes,
        };
        Ok(client.store_stats()?.into_iter().fold(Self::default(), add))
    }

    fn since(self, before: Self) -> Self {
        Self {
            spilled_bytes: self.spilled_bytes.saturating_sub(before.spilled_bytes),
            restored_bytes: self.restored_bytes.saturating_sub(before.restored_bytes),
        }
    }
}

impl Dataset {
    /// Runs the plan, throws its rows away, and tells what every stage and operator did.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn stats(&self) -> Result<DatasetStats, RunError> {
        let client = crate::object::current()?;
        let before = StoreDisk::so_far(&client)?;
        let mut report = self.run(&self.plan, &Sink::Blocks)?;
        report.blocks = None;
        let disk = StoreDisk::so_far(&client)?.since(before);
        Ok(DatasetStats { report, disk: Some(disk) })
    }
}

impl DatasetStats {
    /// A line for each stage, and below it one for each of its steps: how rows were read or put together,
    /// every operator, and the sink. What a stage or a sink gives on are the bytes that it stored or
    /// wrote; of an operator, those of the values that it passed on. A step's seconds are those of
    /// all tasks together, its memory is the most that it held at once in one task.
    #[must_use]
    pub fn to_table(&self) -> Table {
        let mut table = table(&[
            "stage",
            ">tasks",
            ">rows in",
            ">rows out",
            ">read",
            ">given on",
            ">spilled",
            ">memory",
            ">seconds",
            ">seconds of tasks",
        ]);
        for (number, stage) in (1..).zip(&self.report.stages) {
            table.add_row(line(number, stage));
            for operator in &stage.operators {
                table.add_row([
                    format!("     {}", shortened(&operator.name)),
                    String::new(),
                    grouped(operator.rows_in),
                    grouped(operator.rows_out),
                    if operator.bytes_in > 0 { bytes(operator.bytes_in as f64) } else { String::new() },
                    bytes(operator.bytes_out as f64),
                    String::new(),
                    bytes(operator.memory_bytes as f64),
                    String::new(),
                    format!("{:.2}", operator.seconds),
                ]);
            }
        }
        table
    }
}

fn line(number: u64, stage: &StageReport) -> [String; 10] {
    [
        format!("{number:>2}  {}", shortened(&stage.name)),
        grouped(stage.tasks),
        grouped(stage.rows_in),
        grouped(stage.rows_out),
        bytes(stage.bytes_in as f64),
        bytes(stage.bytes_out as f64),
        bytes(stage.spilled_bytes as f64),
        String::new(),
        format!("{:.2}", stage.seconds),
        format!("{:.2}", stage.task_seconds),
    ]
}

/// As much of it as a table has room for.
fn shortened(name: &str) -> String {
    match name.char_indices().nth(NAME_CHARS) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.to_owned(),
    }
}

/// Longer names of stages and operators are cut: an expression may be of any length.
const NAME_CHARS: usize = 60;

impl From<RunReport> for DatasetStats {
    fn from(report: RunReport) -> Self {
        Self { report, disk: None }
    }
}

impl Deref for DatasetStats {
    type Target = RunReport;

    fn deref(&self) -> &RunReport {
        &self.report
    }
}

impl fmt::Display for DatasetStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = &self.report;
        writeln!(f, "{}", self.to_table())?;
        // Rows that were not read again are not told as some of those that were read.
        let written = report.rows_out.saturating_sub(report.rows_resumed);
        write!(f, "{} rows of {} in {:.2} s", grouped(written), grouped(report.rows_in), report.seconds)?;
        if report.blocks_resumed > 0 {
            let (rows, tasks) = (grouped(report.rows_resumed), counted(report.blocks_resumed, "task"));
            write!(f, "; {rows} rows more, of {tasks} of the last stage, are an earlier run's")?;
        }
        match self.disk {
            Some(disk) if disk != StoreDisk::default() => {
                let (spilled, restored) = (bytes(disk.spilled_bytes as f64), bytes(disk.restored_bytes as f64));
                write!(f, "; meanwhile the object stores wrote {spilled} to disk and read {restored} back")
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mobula_data::execute::OperatorReport;

    #[test]
    fn a_run_prints_as_stages_and_operators() {
        let read = OperatorReport {
            name: "read_parquet".to_owned(),
            rows_in: 1_000,
            rows_out: 1_000,
            bytes_in: 1 << 20,
            bytes_out: 3 << 20,
            memory_bytes: 512 << 10,
            seconds: 0.5,
        };
        let filter = OperatorReport {
            name: "filter fare > 2.5".to_owned(),
            rows_out: 900,
            bytes_in: 0,
            bytes_out: 2_048,
            seconds: 0.75,
            ..read.clone()
        };
        let stage = StageReport {
            name: "read_parquet>filter".to_owned(),
            tasks: 4,
            rows_in: 1_000,
            rows_out: 900,
            bytes_in: 1 << 20,
            bytes_out: 512,
            spilled_bytes: 3 << 20,
            seconds: 0.5,
            task_seconds: 1.25,
            operators: vec![read, filter],
        };
        let long = StageReport { name: "x".repeat(99), ..StageReport::default() };
        let stages = vec![stage, long];
        let report = RunReport { rows_in: 1_000, rows_out: 900, seconds: 0.75, stages, ..RunReport::default() };
        let mut stats = DatasetStats::from(report);
        let text = stats.to_string();
        let lines: Vec<String> =
            text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        let expected = [
            "1 read_parquet>filter 4 1,000 900 1.0 MiB 512 B 3.0 MiB 0.50 1.25".to_owned(),
            "read_parquet 1,000 1,000 1.0 MiB 3.0 MiB 512.0 KiB 0.50".to_owned(),
            "filter fare > 2.5 1,000 900 2.0 KiB 512.0 KiB 0.75".to_owned(),
            format!("2 {}… 0 0 0 0 B 0 B 0 B 0.00 0.00", "x".repeat(NAME_CHARS)),
        ];
        assert!(lines.windows(4).any(|lines| lines == expected), "{text}");
        assert_eq!(lines.last().map(String::as_str), Some("900 rows of 1,000 in 0.75 s"));
        let resumed = RunReport { rows_out: 3_900, rows_resumed: 3_000, blocks_resumed: 3, ..stats.report.clone() };
        let told = "900 rows of 1,000 in 0.75 s; 3,000 rows more, of 3 tasks of the last stage, are an earlier run's";
        assert_eq!(DatasetStats::from(resumed).to_string().lines().last(), Some(told));
        stats.disk = Some(StoreDisk { spilled_bytes: 3 << 30, restored_bytes: 0 });
        assert!(stats.to_string().ends_with("stores wrote 3.0 GiB to disk and read 0 B back"));
    }
}
