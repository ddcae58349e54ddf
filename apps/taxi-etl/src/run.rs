//! Extract, clean, load: trip files in, one cleaned table out.
//!
//! Entry type: [`Run`]. It needs a running session; whether that is this process or a cluster
//! makes no difference.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use indicatif::ProgressBar;
use mobula::{
    Dataset, DatasetStats, PlanExplanation, RunError, RunReport, StorageOptions, WriteMode, WriteOptions, sql,
};
use mobula_data::source::Source;

use crate::clean::{Limits, clean, model_rules, prepare_for_model, read, rules};
use crate::columns;
use crate::interrupt::Interrupt;
use crate::report::{Summary, resume_text};

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
    pub fn explain(&self) -> Result<PlanExplanation, RunError> {
        self.trips()?.explain_write(&self.output, how_written())
    }

    /// The conditions of the cleaning, as plans and reports print them.
    fn rules(&self) -> Vec<String> {
        let of_model = if self.for_model { model_rules() } else { Vec::new() };
        rules(&self.limits).iter().chain(&of_model).map(ToString::to_string).collect()
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
    /// [`RunError`], naming file and cause. Nothing is seen in the output then; finished blocks of one that
    /// can be resumed are kept.
    pub fn run(&self, bar: &ProgressBar, interrupt: &Interrupt) -> Result<Summary, RunError> {
        let start = Instant::now();
        let mut cleaned = self.trips()?.resume(self.resume);
        if let Some(blocks) = self.concurrency {
            cleaned = cleaned.concurrency(blocks);
        }
        let (shown, waiting) = (bar.clone(), bar.clone());
        let (mut last, mut stage) = (String::new(), None);
        let cleaned = cleaned
            .cancel_when(interrupt.flag())
            .on_progress(move |progress| {
                shown.set_position(progress.rows_in);
                shown.set_length(progress.rows_total);
                if stage.replace(progress.stage) != Some(progress.stage) {
                    // What an earlier run has done says nothing of how fast this one is.
                    shown.reset_eta();
                }
            })
            .on_waiting(move |reason| {
                waiting.set_message(if reason.is_empty() { String::new() } else { format!("waits: {reason}") });
                // Who sees no bar is told once.
                if waiting.is_hidden() && !reason.is_empty() && reason != last {
                    tracing::warn!(reason, "the run waits");
                }
                reason.clone_into(&mut last);
            });
        let report = cleaned.write(&self.output, how_written())?;
        let columns_renamed = cleaned.plan().sources().into_iter().find_map(|source| match source {
            Source::Files(read) => read.opened.as_deref().map(columns::renamed),
            _ => None,
        });
        let summary = self.summary(report, start.elapsed().as_secs_f64());
        Ok(Summary { columns_renamed: columns_renamed.unwrap_or_default(), ..summary })
    }

    fn summary(&self, report: RunReport, seconds: f64) -> Summary {
        let stats = DatasetStats::from(report.clone()).to_string();
        let (dropped_by_rule, dropped_by_query) = dropped(report.dropped_by_filter(), &self.rules());
        // The last stage writes, a task for each block.
        let blocks_total = report.stages.last().map_or(0, |stage| stage.tasks);
        Summary {
            rows_read: report.rows_in,
            rows_written: report.rows_out,
            rows_resumed: report.rows_resumed,
            dropped_by_rule,
            dropped_by_query,
            files_written: report.files.len() as u64,
            resume: self.resume.then(|| resume_text(&report, blocks_total, &self.output)),
            files: report.files,
            bytes_read: report.bytes_in,
            bytes_written: report.bytes_out,
            columns_renamed: BTreeMap::new(),
            zones_dropped: report.zones_dropped,
            blocks_by_node: report.tasks_by_node,
            blocks_resumed: report.blocks_resumed,
            blocks_total,
            stages: report.stages,
            stats,
            seconds,
            rows_per_second: report.rows_in as f64 / seconds.max(1e-9),
        }
    }
}

/// The files of an earlier run are replaced.
fn how_written() -> WriteOptions {
    WriteOptions { mode: WriteMode::Overwrite, ..WriteOptions::default() }
}

/// Conditions, and how many rows each dropped.
type Dropped = Vec<(String, u64)>;

/// What filters dropped, apart: the rules of the cleaning, and the conditions of the query. A query
/// that names the trips twice cleans them twice.
fn dropped(filters: Dropped, rules: &[String]) -> (Dropped, Dropped) {
    let mut by_rule: Dropped = rules.iter().map(|rule| (rule.clone(), 0)).collect();
    let mut by_query = Dropped::new();
    for (condition, rows) in filters {
        let dropped = if rules.contains(&condition) { &mut by_rule } else { &mut by_query };
        match dropped.iter_mut().find(|(known, _)| *known == condition) {
            Some((_, sum)) => *sum += rows,
            None => dropped.push((condition, rows)),
        }
    }
    (by_rule, by_query)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_and_conditions_of_the_query_are_told_apart() {
        let of =
            |list: &[(&str, u64)]| -> Dropped { list.iter().map(|(name, rows)| ((*name).into(), *rows)).collect() };
        let rules = ["fare >= 2.5", "miles > 0"].map(str::to_owned);
        // Trips joined with trips, of which one side is asked for tips.
        let filters = of(&[("fare >= 2.5", 3), ("miles > 0", 1), ("tip > 1", 7), ("fare >= 2.5", 3), ("miles > 0", 1)]);
        let (by_rule, by_query) = dropped(filters, &rules);
        assert_eq!(by_rule, of(&[("fare >= 2.5", 6), ("miles > 0", 2)]));
        assert_eq!(by_query, of(&[("tip > 1", 7)]));
        // All blocks were there: no filter has run.
        assert_eq!(dropped(Dropped::new(), &rules), (of(&[("fare >= 2.5", 0), ("miles > 0", 0)]), Dropped::new()));
    }
}
