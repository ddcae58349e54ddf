//! A plan for people, before it runs.
//!
//! Entry point: [`explain`]. It opens the files and runs nothing. How the rows of a stage are cut, and
//! which side of a join is given whole to every task, is decided when the stage before has run; so
//! of stages it says no more than where they end.

use std::fmt;
use std::path::Path;

use serde::Serialize;

use crate::executor::{RunError, opened};
use crate::expr::Expr;
use crate::optimise::optimise;
use crate::paths::absolute;
use crate::plan::{Compute, Exchange, LogicalPlan, Operator, Sink};
use crate::planner::plan_schema;
use crate::source::{ReadFiles, Source};
use crate::storage::shown;
use crate::write::{WriteMode, WriteOptions};

/// A plan as it is written and as it will run. It prints as the one that runs, and the other one below
/// it where that is different.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlanExplanation {
    /// The plan as it is written.
    pub plan: String,
    /// The plan as it will run: what its sources read, and where stages end.
    pub optimised: String,
    /// What there is to say of its stages; nothing if that is known only when it runs.
    pub stages: String,
    #[serde(skip)]
    is_rewritten: bool,
}

/// The plan as it is written and as it will run, on top of it where its rows go, if that is told.
///
/// # Errors
/// [`RunError`], for a plan that cannot run.
pub fn explain(plan: &LogicalPlan, sink: Option<&Sink>) -> Result<PlanExplanation, RunError> {
    let opened = opened(plan)?;
    let schema = plan_schema(&opened)?;
    if let Some(Sink::Write { options, .. }) = sink {
        options.check_alone()?;
        schema.as_ref().map_or(Ok(()), |schema| options.check(schema))?;
    }
    let better = optimise(&opened, matches!(sink, Some(Sink::Count)))?;
    let root = match sink {
        Some(Sink::Write { dir, options }) => {
            let dir = shown(&absolute(Path::new(dir))?);
            Some(format!("{} {dir} ({})", options.name(), how(options)))
        }
        other => other.map(ToString::to_string),
    };
    let written = opened.lines().into_iter().map(|(line, _)| line).collect();
    Ok(PlanExplanation {
        plan: below(root.as_deref(), written),
        optimised: below(root.as_deref(), noted(&better)),
        stages: stages(&better).to_owned(),
        is_rewritten: opened.to_string() != better.to_string(),
    })
}

impl fmt::Display for PlanExplanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "plan\n{}", self.optimised)?;
        if !self.stages.is_empty() {
            write!(f, "\n\n{}", self.stages)?;
        }
        if self.is_rewritten {
            write!(f, "\n\nas it is written\n{}", self.plan)?;
        }
        Ok(())
    }
}

/// The lines below a root, if there is one.
fn below(root: Option<&str>, lines: Vec<String>) -> String {
    match root {
        Some(root) => format!("{root}\n  {}", lines.join("\n  ")),
        None => lines.join("\n"),
    }
}

/// The plan's lines, with a mark where a stage ends and a line for what a source reads.
fn noted(plan: &LogicalPlan) -> Vec<String> {
    let mut lines = Vec::new();
    // Those right above a source go into it: a chain has no other nodes in between.
    let mut filters: Vec<&Expr> = Vec::new();
    for (mut line, node) in plan.lines() {
        if ends_stage(node) {
            line.push_str(" [exchange]");
        }
        let indent = line.len() - line.trim_start().len();
        lines.push(line);
        match node {
            LogicalPlan::Op { op: Operator::Filter { condition }, .. } => {
                filters.push(condition);
                continue;
            }
            LogicalPlan::Source(Source::Files(read)) => {
                lines.push(format!("{:indent$}  - {}", "", reads(read, &filters)));
            }
            _ => {}
        }
        filters.clear();
    }
    lines
}

/// What is read of files, and what is left out of them.
fn reads(read: &ReadFiles, filters: &[&Expr]) -> String {
    let mut text = String::new();
    if let Some(opened) = &read.opened {
        let (files, all) = (opened.files.len(), opened.unified.schema.fields().len());
        let columns = read.columns.as_ref().map_or(all, Vec::len);
        let s = if files == 1 { "" } else { "s" };
        let columns = if columns == all { format!("all {all}") } else { format!("{columns} of {all}") };
        text = format!("{files} file{s}, {columns} columns; ");
    }
    // The lowest one is asked first.
    let all = filters.iter().rev().map(|filter| (*filter).clone()).reduce(Expr::and);
    match all {
        Some(all) if read.pushdown => format!("{text}pushed down: {all}"),
        Some(_) => format!("{text}no filter pushed down, so that every dropped row is counted"),
        None => format!("{text}all rows"),
    }
}

/// Whether what is below a node has run before it begins.
fn ends_stage(node: &LogicalPlan) -> bool {
    match node {
        LogicalPlan::Exchange { exchange, .. } => !matches!(exchange, Exchange::ShuffleBlocks { .. }),
        LogicalPlan::Join { .. } | LogicalPlan::Zip { .. } => true,
        _ => false,
    }
}

fn stages(plan: &LogicalPlan) -> &'static str {
    let nodes = plan.lines();
    let depends = |node: &LogicalPlan| match node {
        LogicalPlan::Op { op: Operator::Limit { .. }, .. } => true,
        LogicalPlan::Op { op: Operator::MapBatches(map), .. } => {
            map.compute != Compute::Tasks || !map.resources.is_empty()
        }
        _ => false,
    };
    if nodes.iter().any(|(_, node)| ends_stage(node)) {
        "A stage ends at every [exchange]: what is below it has run before what is above it begins."
    } else if nodes.iter().any(|(_, node)| depends(node)) {
        ""
    } else {
        "One stage: every task takes a block of the input through all of it."
    }
}

/// What becomes of earlier files, and of values in the names of directories.
fn how(options: &WriteOptions) -> String {
    let mode = match options.mode {
        WriteMode::ErrorIfExists => "error if exists",
        WriteMode::Overwrite => "overwrite",
        WriteMode::Append => "append",
    };
    match options.partition_by.as_slice() {
        [] => mode.to_owned(),
        columns => format!("{mode}, by {}", columns.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;
    use crate::expr::{col, lit};
    use crate::plan::SortKey;

    fn trips() -> LogicalPlan {
        let field = |name: &str| Field::new(name, DataType::Float64, true);
        let schema = Arc::new(Schema::new(vec![field("fare"), field("miles"), field("tip")]));
        LogicalPlan::Source(Source::Files(ReadFiles::of_columns(schema)))
    }

    fn write(mode: WriteMode) -> Sink {
        Sink::Write { dir: "/out".into(), options: WriteOptions { mode, ..WriteOptions::default() } }
    }

    #[test]
    fn what_is_read_and_written_is_told_and_an_equal_plan_once() {
        let plan = trips().filter(col("fare").gt(lit(2.5))).filter(col("miles").gt(lit(0.0)));
        let told = explain(&plan, Some(&write(WriteMode::Overwrite))).unwrap();
        let lines = [
            "plan",
            "write_parquet /out (overwrite)",
            "  filter miles > 0",
            "    filter fare > 2.5",
            "      read_parquet x",
            "        - 1 file, all 3 columns; pushed down: fare > 2.5 and miles > 0",
            "",
            "One stage: every task takes a block of the input through all of it.",
        ];
        assert_eq!(told.to_string(), lines.join("\n"));
        let mut counts_all = plan;
        counts_all.each_files_mut(&mut |read| read.pushdown = false);
        let told = explain(&counts_all, None).unwrap().to_string();
        assert!(told.contains("- 1 file, all 3 columns; no filter pushed down"), "{told}");
        assert!(told.starts_with("plan\nfilter miles > 0\n"), "{told}");
    }

    #[test]
    fn a_plan_that_is_run_otherwise_is_told_both_ways() {
        let sorted = trips().exchange(Exchange::Sort { keys: vec![SortKey::ascending("fare")] });
        let told = explain(&sorted.select(["fare"]), Some(&write(WriteMode::Append))).unwrap();
        let lines = [
            "plan",
            "write_parquet /out (append)",
            "  select fare",
            "    sort fare [exchange]",
            "      read_parquet x (fare)",
            "        - 1 file, 1 of 3 columns; all rows",
            "",
            "A stage ends at every [exchange]: what is below it has run before what is above it begins.",
            "",
            "as it is written",
            "write_parquet /out (append)",
            "  select fare",
            "    sort fare",
            "      read_parquet x",
        ];
        assert_eq!(told.to_string(), lines.join("\n"));
        let json: serde_json::Value = serde_json::from_str(&serde_json::to_string(&told).unwrap()).unwrap();
        assert_eq!(json["plan"], lines[10..].join("\n"));
        assert!(json["optimised"].as_str().unwrap().contains("1 of 3 columns"), "{json}");
    }

    #[test]
    fn filters_of_one_side_are_not_those_of_the_other() {
        let filtered = trips().filter(col("fare").gt(lit(1.0)));
        let zip = LogicalPlan::Zip { left: Arc::new(filtered), right: Arc::new(trips()) };
        let told = explain(&zip, None).unwrap();
        assert!(told.optimised.ends_with("- 1 file, all 3 columns; all rows"), "{told}");
        assert_eq!(told.optimised.matches("down: fare > 1").count(), 1, "{told}");
        let limited = trips().filter(col("fare").gt(lit(1.0))).limit(3);
        assert_eq!(explain(&limited, None).unwrap().stages, "", "it depends on the rows");
    }

    #[test]
    fn what_cannot_be_written_is_not_explained() {
        let options = WriteOptions { partition_by: vec!["zone".into()], ..WriteOptions::default() };
        let sink = Sink::Write { dir: "/out".into(), options };
        let error = explain(&trips(), Some(&sink)).unwrap_err();
        assert!(error.to_string().contains("zone"), "{error}");
    }
}
