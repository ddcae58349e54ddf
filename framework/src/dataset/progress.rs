//! A line for every stage of a run.

use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use mobula_data::executor::RunProgress;
use mobula_data::plan::Sink;

/// The lines of a run on a terminal; indicatif stays quiet elsewhere. They go when it ends.
pub(super) struct Bars {
    lines: MultiProgress,
    stages: Vec<ProgressBar>,
    sink: String,
}

impl Bars {
    pub(super) fn new(sink: &Sink) -> Self {
        Self { lines: MultiProgress::new(), stages: Vec::new(), sink: sink.to_string() }
    }

    /// How far the stage is.
    pub(super) fn tell(&mut self, progress: &RunProgress) {
        while self.stages.len() <= progress.stage {
            let bar = self.lines.add(ProgressBar::new(0));
            bar.set_style(style(progress.rows_total));
            bar.set_message(progress.operators.to_string());
            bar.enable_steady_tick(DRAWN_EVERY);
            self.stages.push(bar);
        }
        let bar = &self.stages[progress.stage];
        bar.set_length(if progress.rows_total > 0 { progress.rows_total } else { progress.tasks_total });
        bar.set_position(if progress.rows_total > 0 { progress.rows_in } else { progress.tasks_done });
        for done in &self.stages[..progress.stage] {
            if !done.is_finished() {
                done.finish();
            }
        }
    }

    /// Why nothing moves.
    pub(super) fn waits(&mut self, reason: &str) {
        if let Some(bar) = self.stages.last() {
            let sink = &self.sink;
            bar.set_message(if reason.is_empty() { sink.clone() } else { format!("{sink} waits: {reason}") });
        }
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        for bar in &self.stages {
            bar.finish_and_clear();
        }
    }
}

fn style(rows_total: u64) -> ProgressStyle {
    let template = match rows_total {
        0 => "{msg} {wide_bar} {human_pos}/{human_len} tasks, {eta} left",
        _ => "{msg} {wide_bar} {human_pos}/{human_len} rows, {per_sec}, {eta} left",
    };
    // Shown as it is if the template were wrong.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

const DRAWN_EVERY: Duration = Duration::from_millis(200);
