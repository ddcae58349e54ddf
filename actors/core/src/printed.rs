//! What a worker process prints, and which task printed it.
//!
//! A raylet reads the stdout and stderr of its worker processes. Between the lines of a user, the
//! worker writes lines of its own there, which begin with a [`Mark`]: a text that the raylet has
//! made up for this process, so that no user prints one.
//!
//! ```text
//!   MARK clean        what follows was printed by the task `clean`
//!   3 rows dropped
//!   MARK              what follows was printed by nobody in particular
//! ```
//!
//! [`Lines`] is the reader's side: bytes in, lines with their tasks out. Who writes the marks, and
//! when, is [`crate::worker::output`]'s business.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A longer line is cut into several.
const MAX_LINE_BYTES: usize = 64 << 10;
/// A longer name of a task is cut.
const MAX_TASK_BYTES: usize = 256;

/// What the lines begin with that the worker itself writes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Mark(String);

impl Mark {
    /// One that nobody can guess.
    pub(crate) fn random() -> Self {
        Self(format!("::mobula-{}::", uuid::Uuid::new_v4().simple()))
    }

    /// The line after which everything is printed by `task`.
    pub(crate) fn line(&self, task: &str) -> String {
        let mut end = task.len().min(MAX_TASK_BYTES);
        while !task.is_char_boundary(end) {
            end -= 1;
        }
        let name: String = task[..end].chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        format!("{}{name}\n", self.0)
    }
}

/// Makes lines of what a process prints.
#[derive(Debug)]
pub(crate) struct Lines {
    mark: Vec<u8>,
    /// A line whose end has not come.
    begun: Vec<u8>,
    task: Option<Arc<str>>,
}

impl Lines {
    pub(crate) fn new(mark: &Mark) -> Self {
        Self { mark: mark.0.clone().into_bytes(), begun: Vec::new(), task: None }
    }

    /// The process has printed these bytes; `tell` gets each line that is whole now, without its
    /// end, and the task that printed it.
    pub(crate) fn push(&mut self, mut bytes: &[u8], mut tell: impl FnMut(Option<&Arc<str>>, String)) {
        while !bytes.is_empty() {
            let room = bytes.len().min(MAX_LINE_BYTES - self.begun.len());
            let end = bytes[..room].iter().position(|byte| *byte == b'\n');
            let (line, rest) = bytes.split_at(end.map_or(room, |end| end + 1));
            self.begun.extend_from_slice(line);
            bytes = rest;
            if end.is_some() {
                self.begun.pop();
                let line = std::mem::take(&mut self.begun);
                self.line(&line, &mut tell);
            } else if self.begun.len() == MAX_LINE_BYTES {
                // A mark in it, or the beginning of one, waits for the rest of its line.
                let keep = (1..MAX_LINE_BYTES).find(|at| begins_with_mark(&self.begun[*at..], &self.mark));
                let kept = self.begun.split_off(keep.unwrap_or(MAX_LINE_BYTES));
                let line = std::mem::replace(&mut self.begun, kept);
                tell(self.task.as_ref(), in_words(&line));
            }
        }
    }

    /// The process prints no more.
    pub(crate) fn finish(mut self, mut tell: impl FnMut(Option<&Arc<str>>, String)) {
        let line = std::mem::take(&mut self.begun);
        if !line.is_empty() {
            self.line(&line, &mut tell);
        }
    }

    fn line(&mut self, line: &[u8], tell: &mut impl FnMut(Option<&Arc<str>>, String)) {
        let Some(at) = line.windows(self.mark.len()).position(|window| window == self.mark) else {
            return tell(self.task.as_ref(), in_words(line));
        };
        // The task before may have left a line without its end.
        if at > 0 {
            tell(self.task.as_ref(), in_words(&line[..at]));
        }
        let name = in_words(&line[at + self.mark.len()..]);
        self.task = (!name.is_empty()).then(|| name.into());
    }
}

/// Whether `bytes` begins with the mark, as far as it goes.
fn begins_with_mark(bytes: &[u8], mark: &[u8]) -> bool {
    let both = bytes.len().min(mark.len());
    bytes[..both] == mark[..both]
}

fn in_words(line: &[u8]) -> String {
    String::from_utf8_lossy(line).trim_end_matches('\r').to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(mark: &Mark, bytes: &[u8], piece_bytes: usize) -> Vec<(Option<String>, String)> {
        let mut told = Vec::new();
        let mut tell = |task: Option<&Arc<str>>, line| told.push((task.map(ToString::to_string), line));
        let mut lines = Lines::new(mark);
        for piece in bytes.chunks(piece_bytes.max(1)) {
            lines.push(piece, &mut tell);
        }
        lines.finish(&mut tell);
        told
    }

    fn texts(told: Vec<(Option<String>, String)>) -> Vec<String> {
        told.into_iter().map(|(_, line)| line).collect()
    }

    #[test]
    fn lines_are_cut_at_their_ends_or_when_too_long() {
        let mut text = b"one\r\n\ntwo\n".to_vec();
        text.extend(vec![b'x'; MAX_LINE_BYTES + 1]);
        for piece_bytes in [7, 1 << 20] {
            let lines = texts(read(&Mark::random(), &text, piece_bytes));
            assert_eq!(lines[..3], ["one", "", "two"]);
            assert_eq!(lines[3..].iter().map(String::len).collect::<Vec<_>>(), [MAX_LINE_BYTES, 1]);
        }
    }

    #[test]
    fn a_line_belongs_to_the_task_that_was_marked_last() {
        let mark = Mark::random();
        let text = format!("0\n{}1\n1, no end{}2\n{}3", mark.line("a"), mark.line("b\nc"), mark.line(""));
        let expected = [(None, "0"), (Some("a"), "1"), (Some("a"), "1, no end"), (Some("b c"), "2"), (None, "3")];
        let told = read(&mark, text.as_bytes(), 5);
        let told: Vec<_> = told.iter().map(|(task, line)| (task.as_deref(), line.as_str())).collect();
        assert_eq!(told, expected);
    }

    #[test]
    fn somebody_elses_mark_is_a_line_like_any_other() {
        let line = Mark::random().line("a");
        assert_eq!(read(&Mark::random(), line.as_bytes(), 8), [(None, line.trim_end().to_owned())]);
    }

    #[test]
    fn a_long_name_is_cut_between_characters() {
        let mark = Mark::random();
        let told = read(&mark, format!("{}x", mark.line(&"é".repeat(MAX_TASK_BYTES))).as_bytes(), 64);
        assert_eq!(told, [(Some("é".repeat(MAX_TASK_BYTES / 2)), "x".to_owned())]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        /// However long the unfinished line before it, and however the bytes arrive.
        #[test]
        fn no_mark_is_missed(before in MAX_LINE_BYTES - 80..MAX_LINE_BYTES + 10, piece_bytes in 1_usize..100_000) {
            let mark = Mark::random();
            let text = format!("{}{}after\n", "x".repeat(before), mark.line("task"));
            let told = read(&mark, text.as_bytes(), piece_bytes.max(1_000));
            let printed: usize = told.iter().filter(|(task, _)| task.is_none()).map(|(_, line)| line.len()).sum();
            prop_assert_eq!(printed, before);
            prop_assert_eq!(told.last(), Some(&(Some("task".to_owned()), "after".to_owned())));
        }
    }
}
