//! What every step of a task did, how long it took, and what it held.
//!
//! Entry type: [`Meter`]. It has a line for where the rows come from ([`INPUT`]), one for every
//! operator, and one for the sink. One of them runs at a time, from [`runs`](Meter::runs) until the
//! next one does, so that the seconds of all lines are those of the task. What a line holds is told
//! by whoever hands batches on, in bytes of values; nothing is measured row by row.

use std::time::Duration;

use super::OperatorReport;
use crate::plan::shortened;
use crate::stage::{BlockTask, Branch, Combine, Input, StageOperator, StageSink};

/// The line of the read, or of what puts rows together. Those of the operators follow, in order.
pub(super) const INPUT: usize = 0;

/// The lines of a task.
pub(super) struct Meter<'a> {
    lines: Vec<Line>,
    clock: &'a dyn Fn() -> Duration,
    /// The line that runs now, and since when.
    running: usize,
    since: Duration,
}

struct Line {
    report: OperatorReport,
    /// What it holds for longer than one batch.
    kept: u64,
    /// The batch that it was given last.
    in_hand: u64,
}

impl<'a> Meter<'a> {
    /// The input runs from now on.
    pub(super) fn new(task: &BlockTask, branch: &Branch, sink: &StageSink, clock: &'a dyn Fn() -> Duration) -> Self {
        let names = std::iter::once(input_title(task, branch))
            .chain(branch.operators.iter().map(StageOperator::title))
            .chain(std::iter::once(sink.name().to_owned()));
        let report = |name| OperatorReport { name: shortened(name, NAME_CHARS), ..OperatorReport::default() };
        let lines = names.map(|name| Line { report: report(name), kept: 0, in_hand: 0 }).collect();
        Self { lines, clock, running: INPUT, since: clock() }
    }

    /// The line of the sink.
    pub(super) fn sink(&self) -> usize {
        self.lines.len() - 1
    }

    /// What errors call the step.
    pub(super) fn name(&self, line: usize) -> &str {
        &self.lines[line].report.name
    }

    /// From here on the time is that of `line`; gives the one it was.
    pub(super) fn runs(&mut self, line: usize) -> usize {
        let now = (self.clock)();
        self.lines[self.running].report.seconds += now.saturating_sub(self.since).as_secs_f64();
        self.since = now;
        std::mem::replace(&mut self.running, line)
    }

    pub(super) fn count(&mut self, line: usize, rows_in: usize, rows_out: usize) {
        let report = &mut self.lines[line].report;
        report.rows_in += rows_in as u64;
        report.rows_out += rows_out as u64;
    }

    /// A batch of so many bytes is given to it.
    pub(super) fn takes(&mut self, line: usize, bytes: u64) {
        let line = &mut self.lines[line];
        line.in_hand = bytes;
        line.holds(0);
    }

    /// It passes a batch of so many bytes on, and has it and the one it was given.
    pub(super) fn gives(&mut self, line: usize, bytes: u64) {
        let line = &mut self.lines[line];
        line.report.bytes_out += bytes;
        line.holds(bytes);
    }

    /// About so many bytes of the batch in its hand go on, without being copied.
    pub(super) fn lets_pass(&mut self, line: usize, bytes: u64) {
        self.lines[line].report.bytes_out += bytes;
    }

    /// What it holds now until it says otherwise, with the batch it was given.
    pub(super) fn keeps(&mut self, line: usize, bytes: u64) {
        let line = &mut self.lines[line];
        line.kept = bytes;
        line.in_hand = 0;
        line.holds(0);
    }

    /// The lines, from the input to the sink.
    pub(super) fn into_reports(mut self) -> Vec<OperatorReport> {
        self.runs(INPUT);
        self.lines.into_iter().map(|line| line.report).collect()
    }
}

impl Line {
    fn holds(&mut self, besides: u64) {
        let held = self.kept + self.in_hand + besides;
        self.report.memory_bytes = self.report.memory_bytes.max(held);
    }
}

fn input_title(task: &BlockTask, branch: &Branch) -> String {
    match (&task.input, &branch.combine) {
        (Input::Files { .. }, _) => branch.format.operator().to_owned(),
        (Input::Range { .. }, _) => "range".to_owned(),
        (Input::Objects(_), Combine::Stream) => "read blocks".to_owned(),
        (Input::Objects(_), combine) => combine.title().unwrap_or_default(),
    }
}

/// An operator whose expressions are longer than this is cut in reports.
const NAME_CHARS: usize = 1_000;
