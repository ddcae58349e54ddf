//! Queries of two tables: joins.

use mobula::JoinKind;
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::query::{Query, quoted};
use super::table::{Column, DataTypeOfInt, Kind};

impl Query {
    /// Joined with another query, by keys that may be compared; the same query where none may.
    pub(super) fn join(self, rng: &mut StdRng, other: &Query) -> Self {
        let is_fresh = self.columns.iter().all(|column| !column.name.ends_with("_right"));
        let count = rng.random_range(1..3);
        let mut pairs: Vec<(Column, Column)> = Vec::new();
        for _ in 0..count {
            let Some(left) = self.pick(rng, |c| !c.rounded && c.kind != Kind::List && c.name != "row") else { break };
            let right = other.pick(rng, |c| may_meet(left.kind, c.kind) && c.name != "row");
            let is_new =
                |one: &Column, two: &Column| pairs.iter().all(|(l, r)| l.name != one.name && r.name != two.name);
            if let Some(right) = right.filter(|right| is_new(&left, right)) {
                pairs.push((left, right));
            }
        }
        if pairs.is_empty() || !is_fresh {
            return self;
        }
        let kinds = [JoinKind::Inner, JoinKind::Left, JoinKind::Right, JoinKind::Full, JoinKind::Semi, JoinKind::Anti];
        let kind = *kinds.choose(rng).unwrap_or(&JoinKind::Inner);
        let (sql, columns) = self.join_sql(other, kind, &pairs);
        let (left_on, right_on): (Vec<String>, Vec<String>) =
            pairs.iter().map(|(left, right)| (left.name.clone(), right.name.clone())).unzip();
        let step = format!("{kind:?} join on {left_on:?} = {right_on:?}");
        let right = other.dataset.clone();
        let mut query = self.step(step, |dataset| dataset.join(right, kind, left_on, right_on), sql);
        query.columns = columns;
        query.forget_order()
    }

    fn join_sql(&self, other: &Query, kind: JoinKind, pairs: &[(Column, Column)]) -> (String, Vec<Column>) {
        let on: Vec<String> =
            pairs.iter().map(|(l, r)| format!("l.{} = r.{}", quoted(&l.name), quoted(&r.name))).collect();
        let (left, right, on) = (&self.sql, &other.sql, on.join(" AND "));
        if let JoinKind::Semi | JoinKind::Anti = kind {
            let not = if kind == JoinKind::Anti { "NOT " } else { "" };
            let exists = format!("{not}EXISTS (SELECT 1 FROM ({right}) AS r WHERE {on})");
            return (format!("SELECT l.* FROM ({left}) AS l WHERE {exists}"), self.columns.clone());
        }
        let keeps_right = matches!(kind, JoinKind::Right | JoinKind::Full);
        let mut select = Vec::new();
        let mut columns = self.columns.clone();
        for column in &mut columns {
            let name = quoted(&column.name);
            let key = pairs.iter().find(|(left, _)| left.name == column.name).filter(|_| keeps_right);
            select.push(match key {
                Some((_, right)) => {
                    column.special |= right.special;
                    if column.kind != right.kind {
                        column.kind = if right.kind.is_float() || column.kind.is_float() {
                            Kind::Float64
                        } else {
                            Kind::Int(DataTypeOfInt::I64)
                        };
                    }
                    format!("coalesce(l.{name}, r.{}) AS {name}", quoted(&right.name))
                }
                None => format!("l.{name}"),
            });
        }
        for column in &other.columns {
            if pairs.iter().any(|(_, right)| right.name == column.name) {
                continue;
            }
            let taken = self.columns.iter().any(|left| left.name == column.name);
            let name = if taken { format!("{}_right", column.name) } else { column.name.clone() };
            select.push(format!("r.{} AS {}", quoted(&column.name), quoted(&name)));
            columns.push(Column { name, ..column.clone() });
        }
        let how = format!("{kind:?}").to_uppercase();
        let sql = format!("SELECT {} FROM ({left}) AS l {how} JOIN ({right}) AS r ON {on}", select.join(", "));
        (sql, columns)
    }
}

/// Whether columns of these types may be compared as keys of a join.
fn may_meet(one: Kind, two: Kind) -> bool {
    let is_u64 = |kind: Kind| kind == Kind::Int(DataTypeOfInt::U64);
    one == two
        || one.is_int() && two.is_int() && !is_u64(one) && !is_u64(two)
        || one.is_float() && (two.is_float() || two.is_int())
        || two.is_float() && one.is_int()
}
