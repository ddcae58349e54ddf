//! Plans as trees, however deep.
//!
//! A loop that adds one column at a time makes a plan of as many levels, in whatever thread its user
//! has. So it is walked, compared, printed and dropped without a stack that is as deep. What
//! [`LogicalPlan::check_levels`] lets through can also be planned and run: whoever calls himself
//! for every level asks for room ([`deep`](crate::stack::deep)).

use std::fmt;
use std::sync::{Arc, LazyLock};

use super::{LogicalPlan, MAX_LEVELS, Operator};
use crate::error::DataError;
use crate::source::{ReadFiles, Source};

impl LogicalPlan {
    /// The plans right below this one, in order.
    #[must_use]
    pub fn inputs(&self) -> Vec<&LogicalPlan> {
        match self {
            Self::Source(_) => Vec::new(),
            Self::Op { input, .. } | Self::Exchange { input, .. } => vec![input],
            Self::Join { left, right, .. } | Self::Zip { left, right } => vec![left, right],
            Self::Union { inputs } => inputs.iter().map(AsRef::as_ref).collect(),
        }
    }

    /// The sources at the leaves, from left to right.
    #[must_use]
    pub fn sources(&self) -> Vec<&Source> {
        let nodes = self.nodes().into_iter();
        nodes.filter_map(|(_, plan)| if let Self::Source(source) = plan { Some(source) } else { None }).collect()
    }

    /// Changes how all files of the plan are read, from left to right.
    pub fn each_files_mut(&mut self, change: &mut dyn FnMut(&mut ReadFiles)) {
        let mut waiting = vec![self];
        while let Some(plan) = waiting.pop() {
            match plan {
                Self::Source(Source::Files(read)) => change(read),
                Self::Source(_) => {}
                Self::Op { input, .. } | Self::Exchange { input, .. } => waiting.push(Arc::make_mut(input)),
                Self::Join { left, right, .. } | Self::Zip { left, right } => {
                    waiting.extend([Arc::make_mut(right), Arc::make_mut(left)]);
                }
                Self::Union { inputs } => waiting.extend(inputs.iter_mut().rev().map(Arc::make_mut)),
            }
        }
    }

    /// Refuses a plan that is deeper than what can run, or has an expression that is.
    ///
    /// # Errors
    /// [`DataError::InvalidPlan`] and [`DataError::Expression`], saying how deep it is and may be.
    pub fn check_levels(&self) -> Result<(), DataError> {
        let nodes = self.nodes();
        let levels = nodes.iter().map(|(level, _)| *level).max().unwrap_or_default();
        if levels > MAX_LEVELS {
            let cause = format!(
                "a plan of {levels} operators, one on top of the other, where {MAX_LEVELS} can be used: add columns \
                 with one with_columns, put conditions together with and, or materialize a part of the plan"
            );
            return Err(DataError::InvalidPlan { operator: shortened(self.title(), SHOWN_CHARS), cause });
        }
        for (_, plan) in nodes {
            if let Self::Op { op, .. } = plan {
                let title = || shortened(op.to_string(), SHOWN_CHARS);
                op.expressions().into_iter().try_for_each(|expr| expr.check_levels(title))?;
            }
        }
        Ok(())
    }

    /// All nodes, from the top and from left to right, with how many are above each.
    fn nodes(&self) -> Vec<(usize, &LogicalPlan)> {
        let mut nodes = Vec::new();
        let mut waiting = vec![(0, self)];
        while let Some((level, plan)) = waiting.pop() {
            nodes.push((level, plan));
            waiting.extend(plan.inputs().into_iter().rev().map(|input| (level + 1, input)));
        }
        nodes
    }

    /// The lines in which the plan prints, each with its node.
    pub(crate) fn lines(&self) -> Vec<(String, &LogicalPlan)> {
        let indent = |level: usize| level.min(INDENTED_LEVELS) * 2;
        let nodes = self.nodes().into_iter();
        nodes.map(|(level, plan)| (format!("{:width$}{}", "", plan.title(), width = indent(level)), plan)).collect()
    }

    /// The node itself, without what is below it.
    fn title(&self) -> String {
        match self {
            Self::Source(source) => source.to_string(),
            Self::Op { op, .. } => op.to_string(),
            Self::Exchange { exchange, .. } => exchange.to_string(),
            Self::Join { join, .. } => join.to_string(),
            Self::Union { .. } => "union".into(),
            Self::Zip { .. } => "zip".into(),
        }
    }

    /// Takes the inputs out of it, which it must not be looked at without.
    fn take_inputs(&mut self) -> Vec<Arc<LogicalPlan>> {
        let take = |input: &mut Arc<LogicalPlan>| std::mem::replace(input, Arc::clone(&NOTHING));
        match self {
            Self::Source(_) => Vec::new(),
            Self::Op { input, .. } | Self::Exchange { input, .. } => vec![take(input)],
            Self::Join { left, right, .. } | Self::Zip { left, right } => vec![take(left), take(right)],
            Self::Union { inputs } => std::mem::take(inputs),
        }
    }
}

impl Operator {
    /// The same operator, whose expressions are no deeper than they need be.
    pub(crate) fn balanced(&self) -> Self {
        let mut op = self.clone();
        op.expressions_mut().into_iter().for_each(|expr| expr.balance());
        op
    }
}

/// What stands in the place of an input that was taken.
static NOTHING: LazyLock<Arc<LogicalPlan>> = LazyLock::new(|| Arc::new(LogicalPlan::Union { inputs: Vec::new() }));

/// One after the other, not each in the drop of the one above it. What others still hold is theirs.
impl Drop for LogicalPlan {
    fn drop(&mut self) {
        let mut waiting = self.take_inputs();
        while let Some(input) = waiting.pop() {
            if let Some(mut plan) = Arc::into_inner(input) {
                waiting.append(&mut plan.take_inputs());
            }
        }
    }
}

impl PartialEq for LogicalPlan {
    fn eq(&self, other: &Self) -> bool {
        let mut waiting = vec![(self, other)];
        while let Some((one, other)) = waiting.pop() {
            let same = match (one, other) {
                (Self::Source(one), Self::Source(other)) => one == other,
                (Self::Op { op: one, .. }, Self::Op { op: other, .. }) => one == other,
                (Self::Exchange { exchange: one, .. }, Self::Exchange { exchange: other, .. }) => one == other,
                (Self::Join { join: one, .. }, Self::Join { join: other, .. }) => one == other,
                (Self::Union { inputs: one }, Self::Union { inputs: other }) => one.len() == other.len(),
                (Self::Zip { .. }, Self::Zip { .. }) => true,
                _ => false,
            };
            if !same {
                return false;
            }
            waiting.extend(one.inputs().into_iter().zip(other.inputs()));
        }
        true
    }
}

impl fmt::Display for LogicalPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.lines().into_iter().map(|(line, _)| line).collect();
        f.write_str(&lines.join("\n"))
    }
}

/// All that decides the rows of the plan, node by node, with how many are above each.
impl fmt::Debug for LogicalPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut list = f.debug_list();
        for (level, plan) in self.nodes() {
            match plan {
                Self::Source(source) => list.entry(&(level, source)),
                Self::Op { op, .. } => list.entry(&(level, op)),
                Self::Exchange { exchange, .. } => list.entry(&(level, exchange)),
                Self::Join { join, .. } => list.entry(&(level, join)),
                Self::Union { .. } | Self::Zip { .. } => list.entry(&(level, plan.title())),
            };
        }
        list.finish()
    }
}

/// As many characters of a text as there is room for.
pub(crate) fn shortened(mut text: String, chars: usize) -> String {
    if let Some((end, _)) = text.char_indices().nth(chars) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// Characters of an operator in an error that its length is the cause of.
const SHOWN_CHARS: usize = 60;

/// Levels below this one are not moved further to the right: lines would be longer than what they say.
const INDENTED_LEVELS: usize = 50;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expr::{Expr, col, lit};
    use crate::optimise::optimise;
    use crate::plan::{Exchange, SortKey};
    use crate::planner::plan_schema;

    fn range() -> LogicalPlan {
        LogicalPlan::Source(Source::Range { rows: 10, blocks: None })
    }

    /// A plan of `levels` operators of several kinds.
    fn deep_plan(levels: usize) -> LogicalPlan {
        (0..levels).fold(range(), |plan, level| match level % 4 {
            0 => plan.with_column("a", col("id") + lit(level as i64)),
            1 => plan.filter(col("a").gt(lit(level as i64))),
            2 => plan.limit(level as u64),
            _ => plan.exchange(Exchange::Sort { keys: vec![SortKey::ascending("id")] }),
        })
    }

    #[test]
    fn a_deep_plan_is_built_looked_at_planned_and_dropped() {
        let mut plan = deep_plan(MAX_LEVELS);
        plan.check_levels().unwrap();
        assert_eq!(plan, deep_plan(MAX_LEVELS));
        assert_ne!(plan, deep_plan(MAX_LEVELS - 1));
        assert_eq!(plan.sources().len(), 1);
        assert_eq!(plan.to_string().lines().count(), MAX_LEVELS + 1);
        assert!(format!("{plan:?}").contains("Range"));
        assert_eq!(plan_schema(&plan).unwrap().unwrap().fields().len(), 2);
        for only_count in [true, false] {
            assert!(optimise(&plan, only_count).unwrap().sources().len() == 1);
        }
        plan.each_files_mut(&mut |read| read.batch_rows = 1);
        let shared = plan.clone();
        drop(plan);
        assert_eq!(shared.to_string().lines().count(), MAX_LEVELS + 1);
    }

    /// What each of them gives is told by the columns below it.
    #[test]
    fn a_long_plan_of_drops_and_renames_is_planned() {
        let rename = |from: &str, to: &str| Operator::Rename { columns: vec![(from.into(), to.into())] };
        let steps = |plan: LogicalPlan, _: usize| {
            let made = plan.with_column("a", col("id")).then(rename("a", "b")).then(rename("b", "c"));
            made.then(Operator::Drop { columns: vec!["c".into()] })
        };
        let plan = (0..MAX_LEVELS / 4).fold(range(), steps);
        plan.check_levels().unwrap();
        for only_count in [true, false] {
            let better = optimise(&plan, only_count).unwrap();
            let schema = plan_schema(&better).unwrap().unwrap();
            assert!(schema.fields().iter().all(|field| field.name() == "id"), "{schema:?}");
            assert!(!better.to_string().contains("with_column"), "what is dropped is not computed");
        }
    }

    /// The left side is as deep as the right one.
    #[test]
    fn a_deep_tree_with_branches_is_dropped() {
        let side = || Arc::new(deep_plan(50_000));
        let zip = LogicalPlan::Zip { left: side(), right: side() };
        let union = LogicalPlan::Union { inputs: vec![Arc::new(zip), side()] };
        assert_eq!(union.sources().len(), 3);
    }

    #[test]
    fn what_is_too_deep_is_told_before_it_is_planned() {
        let error = deep_plan(MAX_LEVELS + 2).check_levels().unwrap_err();
        let expected = "a plan of 10002 operators, one on top of the other, where 10000 can be used";
        assert!(matches!(&error, DataError::InvalidPlan { cause, .. } if cause.starts_with(expected)), "{error}");
        let sum = (0..5_000).fold(col("id"), |sum, n| sum + lit(n));
        let plan = range().with_column("sum", sum).limit(3);
        assert!(plan.to_string().starts_with("limit 3\n  with_column sum = id + 0 + 1 + 2"));
        let error = plan.check_levels().unwrap_err().to_string();
        assert!(error.starts_with("with_column sum = id + 0 + 1"), "{error}");
        assert!(error.contains("…: an expression of 5001 levels, where 100 can be used"), "{error}");
        let all = (0..5_000).map(|n| col("id").gt(lit(n))).reduce(Expr::and).unwrap();
        range().filter(all).check_levels().unwrap();
    }

    #[test]
    fn debug_tells_plans_apart_that_print_alike() {
        let text = |value: Expr| format!("{:?}", range().with_column("a", value));
        assert_ne!(text(lit(2)), text(lit(2.0)));
        let union =
            |inputs: Vec<LogicalPlan>| LogicalPlan::Union { inputs: inputs.into_iter().map(Arc::new).collect() };
        let (flat, nested) = (union(vec![range(), range()]), union(vec![union(vec![range(), range()])]));
        assert_ne!(format!("{flat:?}"), format!("{nested:?}"));
        assert_ne!(flat, nested);
    }
}
