//! Extract, clean, load: trip files in, one cleaned table out.
//!
//! Entry type: [`Run`]. It needs a running session; whether that is this process or a cluster
//! makes no difference.

use std::path::PathBuf;
use std::time::Instant;

use indicatif::ProgressBar;
use mobula::{Dataset, DatasetStats, RunError, RunReport, StorageOptions, WriteMode, WriteOptions, sql};

use crate::clean::{Limits, clean, prepare_for_model, read};
use crate::interrupt::Interrupt;
use crate::report::Summary;

/// What to clean, and how.
#[derive(Debug, Clone)]
pub struct Run {
    /// Files, directories and patterns.
    pub inputs: Vec<PathBuf>,
    /// The directory of the result; the files that an earlier run wrote there are replaced.
    pub output: PathBuf,
    /// How stores are reached.
    pub storage: StorageOptions,
    /// Which trips are kept.
    pub limits: Limits,
    /// At most so many blocks at once.
    pub concurrency: Option<usize>,
    /// Bytes of input per block.
    pub block_bytes: Option<u64>,
    /// Rows per batch.
    pub batch_rows: Option<usize>,
    /// The result has the features of a model of fares, instead of all columns.
    pub for_model: bool,
    /// A query over the cleaned trips, called `trips`, whose rows are written instead of them.
    pub sql: Option<String>,
    /// Go on where a killed run of the same plan ended.
    pub resume: bool,
}

impl Run {
    /// The plan as it is written and as it will run.
    ///
    /// # Errors
    /// [`RunError`], for a plan that cannot run.
    pub fn explain(&self) -> Result<String, RunError> {
        self.trips()?.explain()
    }

    /// The rows that are written.
    fn trips(&self) -> Result<Dataset, RunError> {
        // Every dropped trip is counted, under the rule that dropped it.
        let mut trips = read(&self.inputs).storage(self.storage.clone()).pushdown(false);
        if let Some(rows) = self.batch_rows {
            trips = trips.batch_size(rows);
        }
        if let Some(bytes) = self.block_bytes {
            trips = trips.block_bytes(bytes);
        }
        let trips = trips.opened()?;
        let schema = trips.source_schema()?;
        let prepare = if self.for_model { prepare_for_model } else { clean };
        let cleaned = prepare(trips, &schema, &self.limits)?;
        match &self.sql {
            Some(query) => sql(query, &[("trips", &cleaned)]),
            None => Ok(cleaned),
        }
    }

    /// Runs it, telling `bar` how far it is, until it is done or interrupted.
    ///
    /// # Errors
    /// [`RunError`], naming file and cause. Nothing is left in the output then.
    pub fn run(&self, bar: &ProgressBar, interrupt: &Interrupt) -> Result<Summary, RunError> {
        let start = Instant::now();
        let mut cleaned = self.trips()?.resume(self.resume);
        if let Some(blocks) = self.concurrency {
            cleaned = cleaned.concurrency(blocks);
        }
        let (shown, waiting) = (bar.clone(), bar.clone());
        let mut last = String::new();
        let cleaned = cleaned
            .cancel_when(interrupt.flag())
            .on_progress(move |progress| {
                shown.set_length(progress.rows_total);
                shown.set_position(progress.rows_in);
            })
            .on_waiting(move |reason| {
                waiting.set_message(if reason.is_empty() { String::new() } else { format!("waits: {reason}") });
                // Who sees no bar is told once.
                if waiting.is_hidden() && !reason.is_empty() && reason != last {
                    tracing::warn!(reason, "the run waits");
                }
                reason.clone_into(&mut last);
            });
        let options = WriteOptions { mode: WriteMode::Overwrite, ..WriteOptions::default() };
        let report = cleaned.write(&self.output, options)?;
        Ok(summary(report, start.elapsed().as_secs_f64()))
    }
}

fn summary(report: RunReport, seconds: f64) -> Summary {
    let stats = DatasetStats::from(report.clone()).to_string();
    Summary {
        rows_read: report.rows_in,
        rows_written: report.rows_out,
        dropped_by_rule: report.dropped_by_filter(),
        files_written: report.files.len() as u64,
        files: report.files,
        bytes_read: report.bytes_in,
        bytes_written: report.bytes_out,
        zones_dropped: report.zones_dropped,
        blocks_by_node: report.tasks_by_node,
        blocks_resumed: report.blocks_resumed,
        stages: report.stages.clone(),
        stats,
        seconds,
        rows_per_second: report.rows_in as f64 / seconds.max(1e-9),
    }
}
