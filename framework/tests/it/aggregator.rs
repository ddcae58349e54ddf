//! Aggregates of users.

use mobula::{Aggregator, Dataset, range, remote};
use serde::{Deserialize, Serialize};

use crate::udf::{Number, format_error, session};

/// The first and the last id of a group, and how many there are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Span {
    least: Option<i64>,
    most: Option<i64>,
    rows: u64,
}

#[derive(Serialize, Deserialize)]
struct SpanOf {
    from: i64,
}

#[remote]
impl Aggregator for SpanOf {
    type Row = Number;
    type State = Span;
    type Output = Span;

    fn start(&self) -> Span {
        Span { least: None, most: None, rows: 0 }
    }

    fn add(&self, state: &mut Span, row: Number) {
        if row.id >= self.from {
            self.merge(state, Span { least: Some(row.id), most: Some(row.id), rows: 1 });
        }
    }

    fn merge(&self, state: &mut Span, other: Span) {
        let (least, most) = (state.least.or(other.least), other.most.or(state.most));
        *state = Span { least, most, rows: state.rows + other.rows };
    }

    fn finish(&self, state: Span) -> Span {
        state
    }
}

#[derive(Debug, PartialEq, Deserialize)]
struct SpanBy {
    rest: i64,
    least: Option<i64>,
    most: Option<i64>,
    rows: u64,
}

#[test]
fn an_aggregate_of_the_users_own_is_made_of_states() {
    let session = session();
    let _entered = session.enter();
    let by_rest = |dataset: Dataset| dataset.with_column("rest", mobula::col("id") % mobula::lit(3)).group_by("rest");
    for blocks in [1, 7] {
        let spans = by_rest(range(100).repartition(blocks)).aggregate_with(SpanOf { from: 10 });
        assert!(spans.plan().to_string().contains("map_groups by rest: SpanOf"), "{:?}", spans.plan());
        let expected: Vec<SpanBy> = (0..3)
            .map(|rest| {
                let ids: Vec<i64> = (10..100).filter(|id| id % 3 == rest).collect();
                SpanBy { rest, least: ids.first().copied(), most: ids.last().copied(), rows: ids.len() as u64 }
            })
            .collect();
        assert_eq!(spans.to_rows::<SpanBy>().unwrap(), expected);
    }
    let none = by_rest(range(9)).aggregate_with(SpanOf { from: 10 }).to_rows::<SpanBy>().unwrap();
    assert!(none.iter().all(|span| span.rows == 0 && span.least.is_none()));
    assert_eq!(none.len(), 3);
    assert_eq!(by_rest(range(0)).aggregate_with(SpanOf { from: 0 }).count().unwrap(), 0);
    let missing = format_error(range(9).group_by("zone").aggregate_with(SpanOf { from: 0 }).count());
    assert_eq!(missing.column(), Some("zone"), "{missing}");
}
