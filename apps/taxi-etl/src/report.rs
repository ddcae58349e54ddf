//! What a person, or a program, is told.
//!
//! Entry types: [`Summary`], the result of a run as a table or as JSON, and [`bar`], a progress
//! bar that is silent when no one watches.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use mobula::print::{bytes, counted, grouped, table};
use mobula::{DataError, EarlierRun, RunError, RunReport, StageReport};
use serde::Serialize;
use serde_json::{Map, Value};

/// The result of a cleaning run. Of one that was resumed, what is read and dropped is what this run
/// has read and dropped, and what is written is all that is in the output.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Rows that were read.
    pub rows_read: u64,
    /// Rows in the output.
    pub rows_written: u64,
    /// Those of them that an earlier run had written, and this one did not read again.
    pub rows_resumed: u64,
    /// Rows that each rule of the cleaning dropped, in the order of the rules: a row is counted by
    /// the first rule it breaks.
    #[serde(serialize_with = "as_object")]
    pub dropped_by_rule: Vec<(String, u64)>,
    /// Rows that the conditions of the query dropped.
    #[serde(serialize_with = "as_object")]
    pub dropped_by_query: Vec<(String, u64)>,
    /// Files in the output.
    pub files_written: u64,
    /// Their absolute paths.
    pub files: Vec<String>,
    /// Bytes read, as they lie on disk.
    pub bytes_read: u64,
    /// Bytes of the files in the output.
    pub bytes_written: u64,
    /// Columns that have another name than in some file, with their names there.
    pub columns_renamed: BTreeMap<String, BTreeSet<String>>,
    /// Times that lost their zone, since files differ in it or some have none: they are the times
    /// on the wall of each file.
    pub zones_dropped: Vec<String>,
    /// How many blocks each node worked on.
    pub blocks_by_node: BTreeMap<String, u64>,
    /// Blocks that an earlier run had finished, and this one did not run again.
    pub blocks_resumed: u64,
    /// Blocks of the output in all.
    pub blocks_total: u64,
    /// What was resumed, or why nothing was; none if nothing was to be.
    pub resume: Option<String>,
    /// What every stage did.
    pub stages: Vec<StageReport>,
    /// The same as a table.
    #[serde(skip)]
    pub stats: String,
    /// From the first footer read to the last file in place.
    pub seconds: f64,
    /// Rows read per second.
    pub rows_per_second: f64,
}

impl Summary {
    /// The result as one JSON object.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Numbers, strings and lists always serialise.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// The result as a table.
    #[must_use]
    pub fn to_table(&self) -> String {
        let is_resumed = self.blocks_resumed > 0;
        let by = if is_resumed { " by this run" } else { "" };
        let size = |amount: u64| bytes(amount as f64);
        let mut table = table(&["", ">rows", ">bytes"]);
        let mut row = |what: String, rows: u64, bytes: String| {
            table.add_row([what, grouped(rows), bytes]);
        };
        row(format!("read{by}"), self.rows_read, size(self.bytes_read));
        for (rule, rows) in &self.dropped_by_rule {
            row(format!("dropped{by}, not {rule}"), *rows, String::new());
        }
        for (condition, rows) in &self.dropped_by_query {
            row(format!("dropped by the query{by}, not {condition}"), *rows, String::new());
        }
        if is_resumed {
            row("written by this run".to_owned(), self.rows_written.saturating_sub(self.rows_resumed), String::new());
            row("written by an earlier run".to_owned(), self.rows_resumed, String::new());
        }
        let written = if is_resumed { "written in all" } else { "written" };
        row(written.to_owned(), self.rows_written, size(self.bytes_written));
        format!(
            "{table}{}\n{}{}{} by {} in {:.2} s, {} rows/s",
            self.notes(),
            counted(self.files_written, "file"),
            // The files are those of all blocks, and the nodes had those of this run.
            if is_resumed { ", " } else { " of " },
            counted(self.blocks_by_node.values().sum(), "block"),
            self.nodes(),
            self.seconds,
            grouped(self.rows_per_second as u64)
        )
    }

    /// What is not as usual, a line each.
    fn notes(&self) -> String {
        let mut notes = String::new();
        if let Some(resume) = &self.resume {
            notes.push_str(&format!("\n{resume}"));
        }
        if !self.columns_renamed.is_empty() {
            let renamed = self.columns_renamed.iter().map(|(name, found)| {
                let found: Vec<&str> = found.iter().map(String::as_str).collect();
                format!("{} called {name}", found.join(" and "))
            });
            let renamed = renamed.collect::<Vec<_>>().join(", ");
            notes.push_str(&format!("\nFiles of both kinds, yellow and green: {renamed}."));
        }
        if !self.zones_dropped.is_empty() {
            notes.push_str(&format!(
                "\nThe files differ in the time zone of {}, or some have none: these are the times on the wall \
                 of each file, without a zone.",
                self.zones_dropped.join(" and ")
            ));
        }
        notes
    }

    fn nodes(&self) -> String {
        let nodes = self.blocks_by_node.iter();
        let nodes: Vec<String> = nodes.map(|(node, blocks)| format!("{node} ({blocks})")).collect();
        nodes.join(", ")
    }
}

/// A progress bar over `rows` rows, on the terminal if there is one.
#[must_use]
pub fn bar(rows: u64, quiet: bool) -> ProgressBar {
    let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let template = "{bar:40.cyan} {human_pos}/{human_len} rows  {per_sec}  {eta} left  {msg}";
    // Shown as it is if the template were wrong.
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::with_draw_target(Some(rows), target).with_style(style);
    bar.enable_steady_tick(BAR_DRAWN_EVERY);
    bar
}

/// What was resumed, or why nothing was, of a run that was to be resumed and wrote to `output`.
#[must_use]
pub fn resume_text(report: &RunReport, blocks_total: u64, output: &Path) -> String {
    let output = output.display();
    let finished = counted(report.blocks_resumed + report.blocks_gone, "finished block");
    let gone = match report.blocks_gone {
        0 => String::new(),
        1 => format!("1 of {finished} is gone and is written again"),
        gone => format!("{} of {finished} are gone and are written again", grouped(gone)),
    };
    match (report.blocks_resumed, report.earlier) {
        (0, _) if !gone.is_empty() => format!("nothing to resume: for {output}, {gone}"),
        (0, Some(EarlierRun::Same)) => {
            format!("nothing to resume: the earlier run of this very command had finished no block for {output}")
        }
        (0, Some(EarlierRun::Other)) => format!(
            "nothing to resume: an earlier run for {output} was one of another plan, other files or other options; \
             what it had done is removed"
        ),
        (0, _) => {
            format!("nothing to resume: no earlier --resume run of this very command left anything for {output}")
        }
        (blocks, _) => {
            let and_gone = if gone.is_empty() { gone } else { format!("; {gone}") };
            format!("resumed: {blocks} of {} were there{and_gone}", counted(blocks_total, "block"))
        }
    }
}

/// What became of a run that was interrupted and ended with this error; one that `resumes` keeps what is
/// done.
#[must_use]
pub fn interrupted_text(error: &(dyn Error + 'static), resumes: bool) -> String {
    match error.downcast_ref::<RunError>() {
        // It was too late.
        Some(RunError::Data(half @ DataError::HalfCommitted { .. })) => format!("interrupted; {half}"),
        _ if resumes => "interrupted; nothing was written, and the blocks that are finished are kept: give the same \
                         command again, with --resume, to go on with them"
            .to_owned(),
        _ => "interrupted; nothing was written".to_owned(),
    }
}

/// How often the bar is drawn while nothing is told.
const BAR_DRAWN_EVERY: Duration = Duration::from_millis(200);

fn as_object<S: serde::Serializer>(rules: &[(String, u64)], serializer: S) -> Result<S::Ok, S::Error> {
    let object: Map<String, Value> = rules.iter().map(|(rule, n)| (rule.clone(), (*n).into())).collect();
    object.serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary() -> Summary {
        Summary {
            rows_read: 100_000,
            rows_written: 97_327,
            rows_resumed: 0,
            dropped_by_rule: vec![("fare_amount >= 2.5".into(), 1_051), ("trip_distance > 0".into(), 1_622)],
            dropped_by_query: Vec::new(),
            files_written: 1,
            files: vec!["out/part-00000.parquet".into()],
            bytes_read: 3_000_000,
            bytes_written: 20_000_000,
            columns_renamed: BTreeMap::new(),
            zones_dropped: Vec::new(),
            blocks_resumed: 0,
            blocks_total: 1,
            resume: None,
            stages: Vec::new(),
            stats: String::new(),
            blocks_by_node: BTreeMap::from([("local".into(), 1)]),
            seconds: 0.25,
            rows_per_second: 400_000.0,
        }
    }

    #[test]
    fn json_has_what_programs_ask_for() {
        let value: Value = serde_json::from_str(&summary().to_json()).unwrap();
        assert_eq!(value["rows_read"], 100_000);
        assert_eq!(value["rows_written"], 97_327);
        assert_eq!(value["dropped_by_rule"]["trip_distance > 0"], 1_622);
        assert_eq!(value["files_written"], 1);
        assert_eq!(value["seconds"], 0.25);
    }

    #[test]
    fn the_table_has_every_number() {
        let text = summary().to_table();
        for part in [
            "100,000",
            "97,327",
            "1,051",
            "not trip_distance > 0",
            "2.9 MiB",
            "19.1 MiB",
            "1 file of 1 block by local (1) in 0.25 s",
            "400,000",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }

    #[test]
    fn a_zone_that_is_dropped_is_told() {
        assert!(!summary().to_table().contains("zone"));
        let mixed = Summary { zones_dropped: vec!["pickup".into(), "dropoff".into()], ..summary() };
        assert!(mixed.to_table().contains("differ in the time zone of pickup and dropoff"));
        let value: Value = serde_json::from_str(&mixed.to_json()).unwrap();
        assert_eq!(value["zones_dropped"], serde_json::json!(["pickup", "dropoff"]));
    }

    #[test]
    fn of_a_resumed_run_it_is_told_what_is_of_which_run() {
        let whole = summary().to_table();
        assert!(!whole.contains("by this run") && !whole.contains("earlier") && !whole.contains("resume"), "{whole}");
        let resumed = Summary {
            rows_read: 40_000,
            rows_written: 97_327,
            rows_resumed: 60_000,
            blocks_resumed: 3,
            blocks_total: 5,
            resume: Some("resumed: 3 of 5 blocks were there".to_owned()),
            files_written: 5,
            blocks_by_node: BTreeMap::from([("local".into(), 2)]),
            ..summary()
        };
        let text = resumed.to_table();
        let lines: Vec<String> =
            text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        for line in [
            "read by this run 40,000 2.9 MiB",
            "dropped by this run, not trip_distance > 0 1,622",
            "written by this run 37,327",
            "written by an earlier run 60,000",
            "written in all 97,327 19.1 MiB",
            "resumed: 3 of 5 blocks were there",
            "5 files, 2 blocks by local (2) in 0.25 s, 400,000 rows/s",
        ] {
            assert!(lines.iter().any(|found| found == line), "{line} is missing in\n{text}");
        }
        let value: Value = serde_json::from_str(&resumed.to_json()).unwrap();
        assert_eq!(value["rows_resumed"], 60_000);
        assert_eq!(value["rows_written"], 97_327);
        assert_eq!(value["blocks_resumed"], 3);
        assert_eq!(value["blocks_total"], 5);
        assert_eq!(value["resume"], "resumed: 3 of 5 blocks were there");
    }

    #[test]
    fn why_nothing_is_resumed_is_told() {
        let told = |blocks_resumed, earlier| {
            let report = RunReport { blocks_resumed, earlier, ..RunReport::default() };
            resume_text(&report, 7, Path::new("/out"))
        };
        assert_eq!(told(3, Some(EarlierRun::Same)), "resumed: 3 of 7 blocks were there");
        assert_eq!(told(3, None), "resumed: 3 of 7 blocks were there");
        for (earlier, why) in [
            (Some(EarlierRun::Same), "had finished no block"),
            (Some(EarlierRun::Other), "other files or other options"),
            (Some(EarlierRun::Nothing), "no earlier --resume run"),
            (None, "no earlier --resume run"),
        ] {
            let text = told(0, earlier);
            assert!(text.starts_with("nothing to resume: ") && text.contains(why) && text.contains("/out"), "{text}");
        }
    }

    #[test]
    fn finished_blocks_that_are_gone_are_told() {
        let told = |blocks_resumed, blocks_gone| {
            let earlier = Some(EarlierRun::Same);
            let report = RunReport { blocks_resumed, blocks_gone, earlier, ..RunReport::default() };
            resume_text(&report, 7, Path::new("s3://b/out"))
        };
        let gone = "of 4 finished blocks are gone and are written again";
        assert_eq!(told(0, 4), format!("nothing to resume: for s3://b/out, 4 {gone}"));
        assert_eq!(told(2, 2), format!("resumed: 2 of 7 blocks were there; 2 {gone}"));
        let one = "resumed: 3 of 7 blocks were there; 1 of 4 finished blocks is gone and is written again";
        assert_eq!(told(3, 1), one);
    }

    #[test]
    fn who_interrupts_is_told_what_is_kept() {
        let cancelled = RunError::from(DataError::Cancelled);
        assert_eq!(interrupted_text(&cancelled, false), "interrupted; nothing was written");
        let resumes = interrupted_text(&cancelled, true);
        assert!(resumes.contains("are kept") && resumes.contains("--resume"), "{resumes}");
        let path = "s3://b/out/".to_owned();
        let half = DataError::HalfCommitted { path, record: "s3://b/out/.mobula-1".into(), cause: "later".into() };
        for resumes in [false, true] {
            let told = interrupted_text(&RunError::from(half.clone()), resumes);
            assert_eq!(told, format!("interrupted; {half}"));
        }
    }

    #[test]
    fn what_the_query_drops_is_told_apart() {
        let asked = Summary { dropped_by_query: vec![("tip_amount > 1".into(), 12_345)], ..summary() };
        assert!(asked.to_table().contains("dropped by the query, not tip_amount > 1"), "{}", asked.to_table());
        let value: Value = serde_json::from_str(&asked.to_json()).unwrap();
        assert_eq!(value["dropped_by_query"], serde_json::json!({ "tip_amount > 1": 12_345 }));
        assert_eq!(value["dropped_by_rule"].as_object().unwrap().len(), 2);
    }

    #[test]
    fn columns_with_another_name_are_told() {
        assert!(!summary().to_table().contains("called"));
        let found = ["lpep_pickup_datetime", "tpep_pickup_datetime"].map(str::to_owned);
        let columns_renamed = BTreeMap::from([("pickup_datetime".to_owned(), BTreeSet::from(found))]);
        let mixed = Summary { columns_renamed, ..summary() };
        let text = mixed.to_table();
        assert!(text.contains("lpep_pickup_datetime and tpep_pickup_datetime called pickup_datetime"), "{text}");
    }
}
