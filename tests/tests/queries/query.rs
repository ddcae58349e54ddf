//! A query as a dataset and as SQL, built side by side.
//!
//! What the two engines do on purpose in different ways is not generated:
//!
//! - sums that leave their type (DuckDB adds whole numbers in 128 bits), and so no large values;
//! - `first`, `last`, `collect` and limits where the order of rows is not told: SQL has none;
//! - means, deviations and quantiles of NaNs, which DuckDB refuses;
//! - expressions over zeros with a sign and NaNs, which compare as IEEE says in SQL and by their
//!   bits here;
//! - keys, conditions and limits over rounded results, where neighbours may change places;
//! - whole numbers of 64 bits without a sign beside those with one: no type holds both here.

use mobula::aggregate::{self, Aggregate};
use mobula::{Dataset, Expr, SortKey, col, lit};
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};

use super::table::{Column, DataTypeOfInt, Kind, Table};

/// A dataset, and what it means in SQL.
#[derive(Debug, Clone)]
pub(super) struct Query {
    pub(super) dataset: Dataset,
    pub(super) sql: String,
    pub(super) columns: Vec<Column>,
    /// The order of the rows, where it is known.
    pub(super) order: Vec<Key>,
    /// No two rows are equal in it.
    total: bool,
    /// What was done, for people.
    pub(super) steps: Vec<String>,
}

/// A column of an order.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Key {
    pub(super) column: String,
    descending: bool,
    nulls_first: bool,
}

impl Key {
    fn ascending(column: impl Into<String>) -> Self {
        Self { column: column.into(), descending: false, nulls_first: false }
    }

    fn sql(&self) -> String {
        let direction = if self.descending { "DESC" } else { "ASC" };
        let nulls = if self.nulls_first { "FIRST" } else { "LAST" };
        format!("{} {direction} NULLS {nulls}", quoted(&self.column))
    }
}

pub(super) fn quoted(name: &str) -> String {
    format!("\"{name}\"")
}

fn quoted_all<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> String {
    names.into_iter().map(|name| quoted(name.as_ref())).collect::<Vec<_>>().join(", ")
}

impl Query {
    /// All rows of a table, which SQL knows as `name`.
    pub(super) fn of(table: &Table, dataset: Dataset, name: &str) -> Self {
        Self {
            dataset,
            sql: format!("SELECT * FROM {name}"),
            columns: table.columns.clone(),
            order: vec![Key::ascending("row")],
            total: true,
            steps: vec![name.to_owned()],
        }
    }

    /// The SQL whose rows have the order of the dataset.
    pub(super) fn sql_in_order(&self) -> String {
        match self.order_by() {
            Some(order) => format!("SELECT * FROM ({}) AS q ORDER BY {order}", self.sql),
            None => self.sql.clone(),
        }
    }

    fn order_by(&self) -> Option<String> {
        (!self.order.is_empty()).then(|| self.order.iter().map(Key::sql).collect::<Vec<_>>().join(", "))
    }

    pub(super) fn step(mut self, step: String, change: impl FnOnce(Dataset) -> Dataset, sql: String) -> Self {
        self.dataset = change(self.dataset);
        self.sql = sql;
        self.steps.push(step);
        self
    }

    /// `select` of what there is so far, with what follows it.
    fn over(&self, select: &str, then: &str) -> String {
        format!("SELECT {select} FROM ({}) AS q {then}", self.sql)
    }

    pub(super) fn pick(&self, rng: &mut StdRng, wanted: impl Fn(&Column) -> bool) -> Option<Column> {
        let fitting: Vec<&Column> = self.columns.iter().filter(|column| wanted(column)).collect();
        fitting.choose(rng).map(|column| (*column).clone())
    }

    pub(super) fn forget_order(mut self) -> Self {
        self.order.clear();
        self.total = false;
        self
    }

    /// Forgets the order where its columns are gone.
    fn keep_order(self) -> Self {
        let has = |key: &Key| self.columns.iter().any(|column| column.name == key.column);
        if self.order.iter().all(has) { self } else { self.forget_order() }
    }

    /// One more step by chance; the same query where it does not fit.
    pub(super) fn random_step(self, rng: &mut StdRng, other: &Query) -> Self {
        match rng.random_range(0..15) {
            0..3 => self.filter(rng),
            3 | 4 => self.with_column(rng),
            5 | 6 => self.sort(rng),
            7 => self.limit(rng),
            8..11 => self.group_by(rng),
            11 => self.distinct(rng),
            12 | 13 => self.join(rng, other),
            _ => self.arrange(rng),
        }
    }

    fn filter(self, rng: &mut StdRng) -> Self {
        let Some((condition, sql)) = self.condition(rng, 2) else { return self };
        let sql = self.over("*", &format!("WHERE {sql}"));
        self.step(format!("filter {condition}"), |dataset| dataset.filter(condition), sql)
    }

    fn condition(&self, rng: &mut StdRng, depth: u32) -> Option<(Expr, String)> {
        if depth > 0 && rng.random_bool(0.4) {
            let (one, one_sql) = self.condition(rng, depth - 1)?;
            let (two, two_sql) = self.condition(rng, depth - 1)?;
            return Some(match rng.random_range(0..3) {
                0 => (one.and(two), format!("({one_sql} AND {two_sql})")),
                1 => (one.or(two), format!("({one_sql} OR {two_sql})")),
                _ => (!one, format!("(NOT {one_sql})")),
            });
        }
        let column = self.pick(rng, |column| !column.rounded && column.kind != Kind::List)?;
        let (name, sql) = (column.name.clone(), quoted(&column.name));
        if column.special || rng.random_bool(0.2) {
            return Some(match rng.random_bool(0.5) {
                true => (col(name).is_null(), format!("({sql} IS NULL)")),
                false => (col(name).is_not_null(), format!("({sql} IS NOT NULL)")),
            });
        }
        let (value, text) = match column.kind {
            Kind::Bool => return Some((col(name), sql)),
            Kind::Int(DataTypeOfInt::U8 | DataTypeOfInt::U16 | DataTypeOfInt::U32 | DataTypeOfInt::U64) => {
                let value = rng.random_range(0_i64..20);
                (lit(value), value.to_string())
            }
            Kind::Int(_) | Kind::Decimal => {
                let value = rng.random_range(-8_i64..20);
                (lit(value), value.to_string())
            }
            Kind::Float32 | Kind::Float64 => {
                let value = f64::from(rng.random_range(-8..60)) / 4.0;
                (lit(value), format!("CAST({value:?} AS DOUBLE)"))
            }
            Kind::Text => {
                let value = *["", "a", "aa", "é", "zebra", "m"].choose(rng)?;
                (lit(value), format!("'{value}'"))
            }
            kind => {
                let other = self.pick(rng, |column| column.kind == kind)?;
                (col(other.name.clone()), quoted(&other.name))
            }
        };
        Some(match rng.random_range(0..6) {
            0 => (col(name).eq(value), format!("({sql} = {text})")),
            1 => (col(name).not_eq(value), format!("({sql} <> {text})")),
            2 => (col(name).lt(value), format!("({sql} < {text})")),
            3 => (col(name).lt_eq(value), format!("({sql} <= {text})")),
            4 => (col(name).gt(value), format!("({sql} > {text})")),
            _ => (col(name).gt_eq(value), format!("({sql} >= {text})")),
        })
    }

    fn with_column(self, rng: &mut StdRng) -> Self {
        let usable =
            |column: &Column| !column.special && !column.rounded && (column.kind.is_signed() || column.kind.is_float());
        let (value, sql, kind) = match (self.pick(rng, usable), rng.random_range(0..4)) {
            (None, _) | (_, 0) => match self.condition(rng, 1) {
                Some((condition, sql)) => (condition, sql, Kind::Bool),
                None => return self,
            },
            (Some(column), which) => {
                let name = col(column.name.clone());
                let (factor, operator) = (rng.random_range(1_i64..5), ["+", "-", "*"][which - 1]);
                let (number, as_type, kind) = match column.kind.is_float() {
                    true => (lit(factor as f64), "DOUBLE", Kind::Float64),
                    false => (lit(factor), "BIGINT", Kind::Int(DataTypeOfInt::I64)),
                };
                let value = match operator {
                    "+" => name + number,
                    "-" => name - number,
                    _ => name * number,
                };
                let sql = format!("(CAST({} AS {as_type}) {operator} {factor})", quoted(&column.name));
                (value, sql, kind)
            }
        };
        let name = format!("n{}", self.steps.len());
        let sql = self.over(&format!("*, {sql} AS {}", quoted(&name)), "");
        let step = format!("with_column {name} = {value}");
        let mut query = self.step(step, |dataset| dataset.with_column(&name, value), sql);
        query.columns.push(Column { name, kind, special: false, rounded: false });
        query
    }

    fn sort(self, rng: &mut StdRng) -> Self {
        let mut fitting: Vec<Column> =
            self.columns.iter().filter(|column| column.kind != Kind::List).cloned().collect();
        fitting.shuffle(rng);
        fitting.truncate(rng.random_range(1..4));
        let is_total = fitting.iter().any(|column| column.name == "row") && self.unique_rows();
        let mut order: Vec<Key> = Vec::new();
        for column in &fitting {
            let (descending, nulls_first) = (rng.random_bool(0.5), rng.random_bool(0.3));
            order.push(Key { column: column.name.clone(), descending, nulls_first });
        }
        let key = |key: &Key| SortKey {
            column: key.column.clone(),
            descending: key.descending,
            nulls_first: key.nulls_first,
        };
        let keys: Vec<SortKey> = order.iter().map(key).collect();
        let step = format!("sort {}", order.iter().map(Key::sql).collect::<Vec<_>>().join(", "));
        // Rows with equal keys keep the order that they had.
        let had = if self.total { self.order.clone() } else { Vec::new() };
        let total = self.total || is_total;
        let sql = self.sql.clone();
        let mut query = self.step(step, |dataset| dataset.sort(keys), sql);
        order.extend(had.into_iter().filter(|key| fitting.iter().all(|column| column.name != key.column)));
        query.order = order;
        query.total = total;
        query
    }

    /// Whether `row` tells all rows apart: nothing has multiplied them.
    fn unique_rows(&self) -> bool {
        !self.steps.iter().any(|step| step.contains("join") || step.starts_with("union"))
    }

    fn limit(self, rng: &mut StdRng) -> Self {
        let is_exact = |key: &Key| self.columns.iter().any(|column| column.name == key.column && !column.rounded);
        let (true, Some(order)) = (self.total && self.order.iter().all(is_exact), self.order_by()) else {
            return self;
        };
        let rows = *[0, 1, 5, 20, 1000].choose(rng).unwrap_or(&5);
        let sql = self.over("*", &format!("ORDER BY {order} LIMIT {rows}"));
        self.step(format!("limit {rows}"), |dataset| dataset.limit(rows), sql)
    }

    fn keys(&self, rng: &mut StdRng) -> Vec<Column> {
        let is_key = |column: &&Column| !column.rounded && column.kind != Kind::List;
        let mut keys: Vec<Column> = self.columns.iter().filter(is_key).cloned().collect();
        // Groups of one row each are the least interesting.
        if rng.random_bool(0.8) {
            keys.retain(|column| column.name.starts_with('k'));
        }
        keys.shuffle(rng);
        keys.truncate(rng.random_range(0..4));
        keys
    }

    fn group_by(self, rng: &mut StdRng) -> Self {
        let keys = self.keys(rng);
        let mut aggregates: Vec<(Aggregate, String, Column)> = Vec::new();
        for place in 0..rng.random_range(1..6) {
            aggregates.extend(self.aggregate(rng, place));
        }
        if aggregates.is_empty() && keys.is_empty() {
            return self;
        }
        let names: Vec<String> = keys.iter().map(|key| key.name.clone()).collect();
        let computed = aggregates.iter().map(|(_, sql, column)| format!("{sql} AS {}", quoted(&column.name)));
        let select: Vec<String> = names.iter().map(|name| quoted(name)).chain(computed).collect();
        let group = if keys.is_empty() { String::new() } else { format!("GROUP BY {}", quoted_all(&names)) };
        let sql = self.over(&select.join(", "), &group);
        let calls: Vec<String> = aggregates.iter().map(|(aggregate, ..)| aggregate.to_string()).collect();
        let step = format!("group_by {}: {}", names.join(", "), calls.join(", "));
        let of_aggregates: Vec<Column> = aggregates.iter().map(|(.., column)| column.clone()).collect();
        let aggregates: Vec<Aggregate> = aggregates.into_iter().map(|(aggregate, ..)| aggregate).collect();
        let by = names.clone();
        let mut query = self.step(step, |dataset| dataset.group_by(by).aggregate(aggregates), sql);
        query.columns = keys.into_iter().chain(of_aggregates).collect();
        query.order = names.into_iter().map(Key::ascending).collect();
        query.total = true;
        query
    }

    fn aggregate(&self, rng: &mut StdRng, place: usize) -> Option<(Aggregate, String, Column)> {
        let named = |kind: Kind, rounded: bool, special: bool| Column {
            name: format!("a{}_{place}", self.steps.len()),
            kind,
            special,
            rounded,
        };
        let whole = Kind::Int(DataTypeOfInt::I64);
        let column = self.pick(rng, |column| column.kind != Kind::List)?;
        let (name, sql) = (column.name.clone(), quoted(&column.name));
        let is_number = column.kind.is_number() && !column.special;
        let double = format!("CAST({sql} AS DOUBLE)");
        let order = self.order_by().filter(|_| self.total);
        let strict = rng.random_bool(0.2);
        let (aggregate, call, out) = match rng.random_range(0..14) {
            0 => {
                let column = named(whole, false, false);
                return Some((aggregate::count().alias(&column.name), "count(*)".to_owned(), column));
            }
            1 => (aggregate::count_of(name), format!("count({sql})"), named(whole, false, false)),
            2 => (aggregate::count_distinct(name), format!("count(DISTINCT {sql})"), named(whole, false, false)),
            3 => (aggregate::min(name), format!("min({sql})"), named(column.kind, column.rounded, column.special)),
            4 => (aggregate::max(name), format!("max({sql})"), named(column.kind, column.rounded, column.special)),
            5 if is_number => {
                let (kind, sql) = match column.kind {
                    Kind::Float32 => (Kind::Float64, format!("sum({double})")),
                    Kind::Int(_) if column.kind.is_signed() => (whole, format!("sum({sql})")),
                    Kind::Int(_) => (Kind::Int(DataTypeOfInt::U64), format!("sum({sql})")),
                    kind => (kind, format!("sum({sql})")),
                };
                (aggregate::sum(name), sql, named(kind, kind.is_float(), false))
            }
            6 if is_number => (aggregate::mean(name), format!("avg({double})"), named(Kind::Float64, true, false)),
            7 if is_number => {
                (aggregate::std(name), format!("stddev_samp({double})"), named(Kind::Float64, true, false))
            }
            8 if is_number => {
                (aggregate::variance(name), format!("var_samp({double})"), named(Kind::Float64, true, false))
            }
            9 if is_number => (aggregate::median(name), format!("median({double})"), named(Kind::Float64, true, false)),
            10 if is_number => {
                let q = *[0.0, 0.1, 0.25, 0.5, 0.9, 1.0].choose(rng)?;
                let sql = format!("quantile_cont({double}, {q:?})");
                (aggregate::quantile(name, q), sql, named(Kind::Float64, true, false))
            }
            which @ 11..13 => {
                let order = order?;
                let out = named(column.kind, column.rounded, column.special);
                let filter = if strict { String::new() } else { format!(" FILTER ({sql} IS NOT NULL)") };
                let aggregate = if which == 11 { aggregate::first(name) } else { aggregate::last(name) };
                let function = if which == 11 { "first" } else { "last" };
                let call = format!("{function}({sql} ORDER BY {order}){filter}");
                return Some((aggregate.ignore_nulls(!strict).alias(&out.name), call, out));
            }
            13 => {
                let order = order?;
                let out = named(Kind::List, column.rounded, true);
                let filter = if strict { String::new() } else { format!(" FILTER ({sql} IS NOT NULL)") };
                let call = format!("list({sql} ORDER BY {order}){filter}");
                return Some((aggregate::collect(name).ignore_nulls(!strict).alias(&out.name), call, out));
            }
            _ => return None,
        };
        // One null makes the result null; a count without them counts all the same.
        let counts = matches!(aggregate.function, aggregate::AggregateFunction::Count);
        let call = if strict && !counts { format!("CASE WHEN count(*) = count({sql}) THEN {call} END") } else { call };
        Some((aggregate.ignore_nulls(!strict).alias(&out.name), call, out))
    }

    fn distinct(self, rng: &mut StdRng) -> Self {
        let keys = self.keys(rng);
        if keys.is_empty() {
            return self;
        }
        let names: Vec<String> = keys.iter().map(|key| key.name.clone()).collect();
        let sql = self.over(&format!("DISTINCT {}", quoted_all(&names)), "");
        // DuckDB takes zeros of both signs for one value as well; which one it shows is its own.
        let by = names.clone();
        let mut query = self.step(format!("unique {}", names.join(", ")), |dataset| dataset.unique(by), sql);
        query.columns = keys;
        query.order = names.into_iter().map(Key::ascending).collect();
        query.total = true;
        query
    }

    /// What changes no row: names, columns, blocks, order; and a union with some of the same rows.
    fn arrange(mut self, rng: &mut StdRng) -> Self {
        match rng.random_range(0..6) {
            0 => {
                self.columns.shuffle(rng);
                self.columns.truncate(rng.random_range(1..=self.columns.len()));
                let names: Vec<String> = self.columns.iter().map(|column| column.name.clone()).collect();
                let sql = self.over(&quoted_all(&names), "");
                self.step(format!("select {}", names.join(", ")), |dataset| dataset.select(names), sql).keep_order()
            }
            1 if self.columns.len() > 1 => {
                let place = rng.random_range(0..self.columns.len());
                let gone = self.columns.remove(place).name;
                let names: Vec<String> = self.columns.iter().map(|column| column.name.clone()).collect();
                let sql = self.over(&quoted_all(&names), "");
                self.step(format!("drop {gone}"), |dataset| dataset.drop_columns(gone), sql).keep_order()
            }
            2 => {
                let blocks = rng.random_range(1..9);
                let sql = self.sql.clone();
                self.step(format!("repartition {blocks}"), |dataset| dataset.repartition(blocks), sql)
            }
            3 => {
                let (seed, sql) = (rng.random::<u64>(), self.sql.clone());
                self.step(format!("shuffle {seed}"), |dataset| dataset.random_shuffle(seed), sql).forget_order()
            }
            4 if self.columns.len() > 1 => {
                // Two columns change names.
                let (one, two) = (self.columns[0].name.clone(), self.columns[1].name.clone());
                let was: Vec<String> = self.columns.iter().map(|column| column.name.clone()).collect();
                (self.columns[0].name, self.columns[1].name) = (two.clone(), one.clone());
                let renamed = was
                    .iter()
                    .zip(&self.columns)
                    .map(|(was, column)| format!("{} AS {}", quoted(was), quoted(&column.name)));
                let sql = self.over(&renamed.collect::<Vec<_>>().join(", "), "");
                let names = [(one.clone(), two.clone()), (two, one)];
                // "row" may be another column now.
                self.step("union of names (swapped)".to_owned(), |dataset| dataset.rename(names), sql).forget_order()
            }
            _ => {
                let some = self.clone().filter(rng);
                let (sql, other) = (format!("({}) UNION ALL ({})", self.sql, some.sql), some.dataset);
                self.step(format!("union with {:?}", some.steps), |dataset| dataset.union([other]), sql).forget_order()
            }
        }
    }
}
