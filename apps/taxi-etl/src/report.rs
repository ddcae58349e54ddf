//! What a person, or a program, is told.
//!
//! Entry types: [`Summary`], the result of a run as a table or as JSON, and [`bar`], a progress
//! bar that is silent when no one watches.

use std::collections::BTreeMap;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use mobula::StageReport;
use mobula::print::{counted, grouped, table};
use serde::Serialize;
use serde_json::{Map, Value};

/// The result of a cleaning run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Rows in the input.
    pub rows_read: u64,
    /// Rows in the output.
    pub rows_written: u64,
    /// Rows that each rule dropped, in the order of the rules: a row is counted by the first
    /// rule it breaks.
    #[serde(serialize_with = "as_object")]
    pub dropped_by_rule: Vec<(String, u64)>,
    /// Files in the output.
    pub files_written: u64,
    /// Their absolute paths.
    pub files: Vec<String>,
    /// Bytes read, as they lie on disk.
    pub bytes_read: u64,
    /// Bytes written.
    pub bytes_written: u64,
    /// Times that lost their zone, since files differ in it or some have none: they are the times
    /// on the wall of each file.
    pub zones_dropped: Vec<String>,
    /// How many blocks each node worked on.
    pub blocks_by_node: BTreeMap<String, u64>,
    /// Blocks that a killed run had finished, and this one did not run again.
    pub blocks_resumed: u64,
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
        let mut table = table(&["", ">rows", ">bytes"]);
        table.add_row(["read", &grouped(self.rows_read), &size(self.bytes_read)]);
        for (rule, rows) in &self.dropped_by_rule {
            table.add_row([&format!("dropped, not {rule}"), &grouped(*rows), ""]);
        }
        table.add_row(["written", &grouped(self.rows_written), &size(self.bytes_written)]);
        if self.blocks_resumed > 0 {
            table.add_row([&format!("of it by an earlier run: {}", counted(self.blocks_resumed, "block")), "", ""]);
        }
        let mut zones = String::new();
        if !self.zones_dropped.is_empty() {
            zones = format!(
                "\nThe files differ in the time zone of {}, or some have none: these are the times on the wall \
                 of each file, without a zone.",
                self.zones_dropped.join(" and ")
            );
        }
        format!(
            "{table}{zones}\n{} of {} by {} in {:.2} s, {} rows/s",
            counted(self.files_written, "file"),
            counted(self.blocks_by_node.values().sum(), "block"),
            self.nodes(),
            self.seconds,
            grouped(self.rows_per_second as u64)
        )
    }
}

impl Summary {
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

/// A number of bytes as a person says it.
#[must_use]
pub fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} KB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
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
            dropped_by_rule: vec![("fare_amount >= 2.5".into(), 1_051), ("trip_distance > 0".into(), 1_622)],
            files_written: 1,
            files: vec!["out/part-00000.parquet".into()],
            bytes_read: 3_000_000,
            bytes_written: 20_000_000,
            zones_dropped: Vec::new(),
            blocks_resumed: 0,
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
            "3.0 MB",
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
    fn sizes_read_well() {
        let sizes = [999, 1_500, 3_000_000, 20_000_000_000].map(size);
        assert_eq!(sizes, ["999 B", "1.5 KB", "3.0 MB", "20.0 GB"]);
    }
}
