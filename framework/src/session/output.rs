//! What workers print, printed here with where it came from.

use std::io::Write;
use std::sync::mpsc;

use mobula_core::client::OutputLine;

use crate::config::Config;

/// What a session does with the output of its workers: prints it, unless told not to.
///
/// A thread of its own prints: whoever delivers the lines reads a socket, and a terminal that is
/// scrolled back, or a program that holds stdout's lock, may keep a printer waiting for long.
pub(super) fn printer(config: &Config) -> Option<Box<dyn Fn(OutputLine) + Send + Sync>> {
    if config.silence_workers {
        return None;
    }
    let (sender, lines) = mpsc::sync_channel::<OutputLine>(WAITING_LIMIT);
    let printing = std::thread::Builder::new().name("mobula-output".to_owned());
    if let Err(error) = printing.spawn(move || lines.iter().for_each(|output| print(&output))) {
        tracing::warn!(%error, "what workers print is not shown: no thread for it");
        return None;
    }
    Some(Box::new(move |output| {
        if sender.try_send(output).is_err() {
            tracing::warn!("workers print faster than it can be shown; some lines were left out");
        }
    }))
}

/// The most messages of workers that wait to be printed.
const WAITING_LIMIT: usize = 4_096;

/// Prints to the stream it was printed to there.
fn print(output: &OutputLine) {
    let text = format(output);
    // A closed terminal is no reason to fail a task's output, let alone a session.
    let _ = if output.stderr {
        std::io::stderr().lock().write_all(text.as_bytes())
    } else {
        std::io::stdout().lock().write_all(text.as_bytes())
    };
}

/// `(task pid=17, node=worker-2) line`, for every line.
fn format(output: &OutputLine) -> String {
    let task = output.task.as_deref().map(|task| format!("{task} ")).unwrap_or_default();
    let mut text = String::new();
    for line in &output.lines {
        text.push_str(&format!("({task}pid={}, node={}) {line}\n", output.pid, output.node));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_says_where_it_comes_from() {
        let output = |task: Option<&str>| OutputLine {
            node: "worker-2".to_owned(),
            pid: 17,
            task: task.map(str::to_owned),
            stderr: false,
            lines: vec!["one".to_owned(), String::new()],
        };
        assert_eq!(format(&output(None)), "(pid=17, node=worker-2) one\n(pid=17, node=worker-2) \n");
        assert!(format(&output(Some("clean"))).starts_with("(clean pid=17, node=worker-2) one\n"));
    }
}
