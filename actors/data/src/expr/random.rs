//! Expressions and batches by chance, and a model of what the ones give on the others.
//!
//! Entry types: [`condition`], [`rows`] and [`Row::value`]. The model works row by row on Rust
//! values and knows nothing of Arrow; it is what the tests compare bound expressions with.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray};
use proptest::prelude::*;

use super::{BinaryOp, Expr, Scalar, ValueType, col, func, lit, when};

/// A row of the columns `i` (Int32), `j` (Int64), `x` (Float64), `s` (Utf8) and `b` (Boolean).
#[derive(Debug, Clone, Default)]
pub(crate) struct Row {
    pub(crate) i: Option<i32>,
    pub(crate) j: Option<i64>,
    pub(crate) x: Option<f64>,
    pub(crate) s: Option<String>,
    pub(crate) b: Option<bool>,
}

/// What an expression gives for a row.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
}

/// Some rows, possibly none.
pub(crate) fn rows() -> impl Strategy<Value = Vec<Row>> {
    let cell = (
        proptest::option::of(-3..4_i32),
        proptest::option::of(-3..4_i64),
        proptest::option::of(float()),
        proptest::option::of(text()),
        proptest::option::of(any::<bool>()),
    );
    proptest::collection::vec(cell.prop_map(|(i, j, x, s, b)| Row { i, j, x, s, b }), 0..8)
}

/// The rows as a batch.
pub(crate) fn batch(rows: &[Row]) -> RecordBatch {
    let columns: [(&str, ArrayRef); 5] = [
        ("i", Arc::new(rows.iter().map(|r| r.i).collect::<Int32Array>())),
        ("j", Arc::new(rows.iter().map(|r| r.j).collect::<Int64Array>())),
        ("x", Arc::new(rows.iter().map(|r| r.x).collect::<Float64Array>())),
        ("s", Arc::new(rows.iter().map(|r| r.s.clone()).collect::<StringArray>())),
        ("b", Arc::new(rows.iter().map(|r| r.b).collect::<BooleanArray>())),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap()
}

/// Quarters, so that sums are exact, and none whole, so that printing keeps the type.
fn float() -> impl Strategy<Value = f64> {
    proptest::sample::select(vec![-2.25, -0.5, 0.25, 0.75, 1.5, 3.75])
}

fn text() -> impl Strategy<Value = String> {
    proptest::sample::select(vec!["", "a", "b", "ab", "aB", "a%", "it's", "\"q\"", "ä"]).prop_map(String::from)
}

/// A condition.
pub(crate) fn condition() -> impl Strategy<Value = Expr> {
    condition_of(3)
}

fn condition_of(depth: u32) -> BoxedStrategy<Expr> {
    let leaf = prop_oneof![Just(col("b")), any::<bool>().prop_map(lit)];
    if depth == 0 {
        return leaf.boxed();
    }
    let below = || condition_of(depth - 1);
    let (number, string) = (|| number_of(depth - 1), || text_of(depth - 1));
    let comparison = || {
        use BinaryOp::*;
        proptest::sample::select(vec![Eq, NotEq, Lt, LtEq, Gt, GtEq, IsDistinctFrom, IsNotDistinctFrom])
    };
    prop_oneof![
        1 => leaf,
        3 => (number(), comparison(), number()).prop_map(|(a, op, b)| a.binary(op, b)),
        2 => (string(), comparison(), string()).prop_map(|(a, op, b)| a.binary(op, b)),
        2 => (below(), below()).prop_map(|(a, b)| a.and(b)),
        2 => (below(), below()).prop_map(|(a, b)| a.or(b)),
        1 => below().prop_map(|a| !a),
        1 => number().prop_map(Expr::is_null),
        1 => string().prop_map(Expr::is_not_null),
        1 => (number(), number(), number()).prop_map(|(a, b, c)| a.between(b, c)),
        1 => (number(), proptest::collection::vec(constant(), 1..4), any::<bool>())
            .prop_map(|(a, list, negated)| a.member(list, negated)),
        1 => (string(), proptest::sample::select(vec!["a%", "%b", "_", "%", "a"]), any::<bool>())
            .prop_map(|(a, pattern, no)| if no { negated(a.like(pattern)) } else { a.ilike(pattern) }),
        1 => (string(), text()).prop_map(|(a, b)| a.starts_with(b)),
        1 => (below(), below(), below()).prop_map(|(a, b, c)| when(a, b).otherwise(c)),
    ]
    .boxed()
}

fn negated(mut like: Expr) -> Expr {
    let Expr::Like { negated, .. } = &mut like else { unreachable!("made by like") };
    *negated = true;
    like
}

/// Numbers in a list: null among them.
fn constant() -> impl Strategy<Value = Expr> {
    prop_oneof![4 => (-2..3_i64).prop_map(lit), 1 => Just(lit(Scalar::Null))]
}

/// Small whole numbers and quarters: nothing that is computed of them overflows or rounds.
fn number_of(depth: u32) -> BoxedStrategy<Expr> {
    let leaf = prop_oneof![
        proptest::sample::select(vec![col("i"), col("j"), col("x")]),
        (-3..4_i64).prop_map(lit),
        float().prop_map(lit),
    ];
    if depth == 0 {
        return leaf.boxed();
    }
    let below = || number_of(depth - 1);
    prop_oneof![
        2 => leaf,
        1 => (below(), below()).prop_map(|(a, b)| a + b),
        1 => (below(), below()).prop_map(|(a, b)| a - b),
        1 => (below(), below()).prop_map(|(a, b)| a * b),
        1 => below().prop_map(|a| -a),
        1 => below().prop_map(Expr::abs),
        1 => below().prop_map(|a| a.cast(ValueType::Float64)),
        1 => text_of(depth - 1).prop_map(Expr::length),
        1 => (below(), below()).prop_map(|(a, b)| a.coalesce([b])),
        1 => (below(), below(), below()).prop_map(|(a, b, c)| func("greatest", [a, b, c])),
        1 => (below(), -2..1_i64, 1..3_i64).prop_map(|(a, low, high)| a.clip(low, high)),
        1 => (condition_of(depth - 1), below(), condition_of(depth - 1), below())
            .prop_map(|(a, x, b, y)| when(a, x).when(b, y).end()),
    ]
    .boxed()
}

fn text_of(depth: u32) -> BoxedStrategy<Expr> {
    let leaf = prop_oneof![Just(col("s")), text().prop_map(lit)];
    if depth == 0 {
        return leaf.boxed();
    }
    let below = || text_of(depth - 1);
    prop_oneof![
        2 => leaf,
        1 => (below(), below()).prop_map(|(a, b)| a.concat([b])),
        1 => below().prop_map(Expr::upper),
        1 => (below(), 1..3_i64).prop_map(|(a, n)| a.substr(n, 1)),
        1 => (below(), text()).prop_map(|(a, b)| a.fill_null(b)),
    ]
    .boxed()
}

impl Row {
    /// What `expr` gives for this row.
    pub(crate) fn value(&self, expr: &Expr) -> Value {
        match expr {
            Expr::Column(name) => match name.as_str() {
                "i" => self.i.map_or(Value::Null, |v| Value::Int(v.into())),
                "j" => self.j.map_or(Value::Null, Value::Int),
                "x" => self.x.map_or(Value::Null, Value::Float),
                "s" => self.s.clone().map_or(Value::Null, Value::Text),
                _ => self.b.map_or(Value::Null, Value::Bool),
            },
            Expr::Literal(scalar) => match scalar {
                Scalar::Bool(v) => Value::Bool(*v),
                Scalar::Int64(v) => Value::Int(*v),
                Scalar::Float64(v) => Value::Float(*v),
                Scalar::String(v) => Value::Text(v.clone()),
                _ => Value::Null,
            },
            Expr::Binary { left, op, right } => binary(self.value(left), *op, self.value(right)),
            Expr::Not(e) => truth(self.value(e)).map_or(Value::Null, |v| Value::Bool(!v)),
            Expr::Negative(e) => binary(Value::Int(0), BinaryOp::Minus, self.value(e)),
            Expr::IsNull(e) => Value::Bool(self.value(e) == Value::Null),
            Expr::IsNotNull(e) => Value::Bool(self.value(e) != Value::Null),
            Expr::Cast(e, _) => self.value(e).number().map_or(Value::Null, Value::Float),
            Expr::Function { name, args } => call(name, args.iter().map(|arg| self.value(arg)).collect()),
            Expr::Case { branches, otherwise } => {
                let found = branches.iter().find(|(condition, _)| self.value(condition) == Value::Bool(true));
                found.map(|(_, value)| value).or(otherwise.as_deref()).map_or(Value::Null, |value| self.value(value))
            }
            Expr::InList { expr, list, negated } => {
                let value = self.value(expr);
                let any = list.iter().fold(Value::Bool(false), |any, other| {
                    binary(any, BinaryOp::Or, binary(value.clone(), BinaryOp::Eq, self.value(other)))
                });
                truth(any).map_or(Value::Null, |v| Value::Bool(v != *negated))
            }
            Expr::Like { expr, pattern, negated, ignore_case } => match (self.value(expr), self.value(pattern)) {
                (Value::Text(text), Value::Text(pattern)) => {
                    let fold = |s: String| if *ignore_case { s.to_lowercase() } else { s };
                    Value::Bool(like(&fold(text), &fold(pattern)) != *negated)
                }
                _ => Value::Null,
            },
            other => unreachable!("{other} is not made here"),
        }
    }
}

impl Value {
    fn number(&self) -> Option<f64> {
        match self {
            Value::Int(v) => Some(*v as f64),
            Value::Float(v) => Some(*v),
            _ => None,
        }
    }

    /// Equal as SQL has it: a whole number may equal a fraction.
    pub(crate) fn same(&self, other: &Value) -> bool {
        match (self.number(), other.number()) {
            (Some(a), Some(b)) => a == b,
            _ => self == other,
        }
    }
}

fn truth(value: Value) -> Option<bool> {
    if let Value::Bool(v) = value { Some(v) } else { None }
}

fn binary(left: Value, op: BinaryOp, right: Value) -> Value {
    match op {
        BinaryOp::And => match (truth(left), truth(right)) {
            (Some(false), _) | (_, Some(false)) => Value::Bool(false),
            (Some(true), Some(true)) => Value::Bool(true),
            _ => Value::Null,
        },
        BinaryOp::Or => match (truth(left), truth(right)) {
            (Some(true), _) | (_, Some(true)) => Value::Bool(true),
            (Some(false), Some(false)) => Value::Bool(false),
            _ => Value::Null,
        },
        BinaryOp::IsDistinctFrom => Value::Bool(!left.same(&right)),
        BinaryOp::IsNotDistinctFrom => Value::Bool(left.same(&right)),
        _ if left == Value::Null || right == Value::Null => Value::Null,
        BinaryOp::Concat => match (left, right) {
            (Value::Text(a), Value::Text(b)) => Value::Text(a + &b),
            _ => Value::Null,
        },
        BinaryOp::Plus | BinaryOp::Minus | BinaryOp::Multiply => arithmetic(&left, op, &right),
        _ => {
            let order = match (&left, &right) {
                (Value::Text(a), Value::Text(b)) => a.cmp(b),
                (a, b) => a.number().partial_cmp(&b.number()).unwrap(),
            };
            Value::Bool(match op {
                BinaryOp::Eq => order == Ordering::Equal,
                BinaryOp::NotEq => order != Ordering::Equal,
                BinaryOp::Lt => order == Ordering::Less,
                BinaryOp::LtEq => order != Ordering::Greater,
                BinaryOp::Gt => order == Ordering::Greater,
                _ => order != Ordering::Less,
            })
        }
    }
}

fn arithmetic(left: &Value, op: BinaryOp, right: &Value) -> Value {
    let compute = |a: f64, b: f64| match op {
        BinaryOp::Plus => a + b,
        BinaryOp::Minus => a - b,
        _ => a * b,
    };
    match (left, right, left.number(), right.number()) {
        (Value::Int(_), Value::Int(_), Some(a), Some(b)) => Value::Int(compute(a, b) as i64),
        (_, _, Some(a), Some(b)) => Value::Float(compute(a, b)),
        _ => Value::Null,
    }
}

fn call(name: &str, mut args: Vec<Value>) -> Value {
    let first = args[0].clone();
    match (name, first) {
        ("coalesce", _) => args.into_iter().find(|v| *v != Value::Null).unwrap_or(Value::Null),
        ("greatest", _) => {
            let greater = |a: Value, b: Value| if a.number() >= b.number() { a } else { b };
            args.into_iter().reduce(greater).unwrap()
        }
        (_, Value::Null) => Value::Null,
        ("clip", value) => {
            let (low, high) = (args[1].number().unwrap(), args[2].number().unwrap());
            Value::Float(value.number().unwrap().clamp(low, high))
        }
        ("abs", Value::Int(v)) => Value::Int(v.abs()),
        ("abs", Value::Float(v)) => Value::Float(v.abs()),
        ("length", Value::Text(v)) => Value::Int(v.chars().count() as i64),
        ("upper", Value::Text(v)) => Value::Text(v.to_uppercase()),
        ("substr", Value::Text(v)) => {
            let start = args[1].number().unwrap() as usize;
            Value::Text(v.chars().skip(start - 1).take(1).collect())
        }
        ("starts_with", Value::Text(v)) => match args.remove(1) {
            Value::Text(prefix) => Value::Bool(v.starts_with(&prefix)),
            _ => Value::Null,
        },
        (name, value) => unreachable!("{name} of {value:?} is not made here"),
    }
}

/// Whether `text` matches `pattern`, character by character.
fn like(text: &str, pattern: &str) -> bool {
    let (mut text_rest, mut pattern_rest) = (text.chars(), pattern.chars());
    match pattern_rest.next() {
        None => text.is_empty(),
        Some('%') => {
            let rest = pattern_rest.as_str();
            std::iter::successors(Some(text), |t| {
                t.char_indices().nth(1).map(|(i, _)| &t[i..]).or(if t.is_empty() { None } else { Some("") })
            })
            .any(|t| like(t, rest))
        }
        Some(wanted) => {
            text_rest.next().is_some_and(|c| wanted == '_' || c == wanted)
                && like(text_rest.as_str(), pattern_rest.as_str())
        }
    }
}
