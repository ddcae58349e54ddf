//! Whether a condition can be true of any of some rows, told from what is known of their values.
//!
//! Entry types: [`Pruner`], a condition made ready to be asked, and [`Bounds`], what is known of
//! a column's values in the rows in question: a row group's, a page's, or a whole file's. An
//! answer of *no* is certain; every doubt is answered with *yes*. What is compared, and as which
//! types, is what the expression itself would compare.
//!
//! Floats are told apart by equality only: statistics leave NaN out, and as rows are compared a
//! NaN lies beyond all numbers, on either side.

use std::cmp::Ordering;

use arrow::datatypes::{DataType, Schema};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion_common::ScalarValue;
use datafusion_expr::Operator;
use datafusion_expr::type_coercion::binary::BinaryTypeCoercer;

use crate::expr::{BinaryOp, BoundExpr, Expr};

/// What is known of a column's values in some rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Bounds {
    /// No value is less, NaN aside; none if it is not known.
    pub min: Option<ScalarValue>,
    /// No value is greater, NaN aside; none if it is not known.
    pub max: Option<ScalarValue>,
    /// Some may be null.
    pub nulls: bool,
    /// Some may not be null.
    pub values: bool,
    /// Some may be NaN.
    pub nans: bool,
}

impl Bounds {
    /// Nothing is known.
    pub const UNKNOWN: Bounds = Bounds { min: None, max: None, nulls: true, values: true, nans: true };
    /// All are null.
    pub const NULL: Bounds = Bounds { min: None, max: None, nulls: true, values: false, nans: false };

    /// All are this one.
    #[must_use]
    pub fn constant(value: ScalarValue) -> Bounds {
        if value.is_null() {
            return Bounds::NULL;
        }
        let nans = is_nan(&value);
        let bounds = Bounds { min: Some(value.clone()), max: Some(value), nulls: false, values: true, nans };
        bounds.with_both_zeros()
    }

    /// The same with bounds that hold the zeros of either sign if they hold one. Who writes
    /// statistics and who compares values need not agree on whether the two are equal.
    #[must_use]
    pub(crate) fn with_both_zeros(mut self) -> Bounds {
        match &mut self.min {
            Some(ScalarValue::Float64(Some(min))) if *min == 0.0 => *min = -0.0,
            Some(ScalarValue::Float32(Some(min))) if *min == 0.0 => *min = -0.0,
            Some(value) if is_nan(value) => self.min = None,
            _ => {}
        }
        match &mut self.max {
            Some(ScalarValue::Float64(Some(max))) if *max == 0.0 => *max = 0.0,
            Some(ScalarValue::Float32(Some(max))) if *max == 0.0 => *max = 0.0,
            Some(value) if is_nan(value) => self.max = None,
            _ => {}
        }
        self
    }

    /// The bounds of the same values as another type: nothing is known where that may change
    /// their order.
    #[must_use]
    pub(crate) fn cast(self, from: &DataType, to: &DataType) -> Bounds {
        if from == to {
            return self;
        }
        let as_type =
            |value: Option<ScalarValue>| value.and_then(|value| value.cast_to(to).ok()).filter(|v| !v.is_null());
        let kept = keeps_order(from, to);
        let (min, max) = (self.min.filter(|_| kept), self.max.filter(|_| kept));
        Bounds { min: as_type(min), max: as_type(max), ..self }.with_both_zeros()
    }
}

fn is_nan(value: &ScalarValue) -> bool {
    match value {
        ScalarValue::Float64(Some(value)) => value.is_nan(),
        ScalarValue::Float32(Some(value)) => value.is_nan(),
        ScalarValue::Float16(Some(value)) => value.is_nan(),
        _ => false,
    }
}

/// Whether values of `from` are in the same order as `to`, equal ones aside.
pub(crate) fn keeps_order(from: &DataType, to: &DataType) -> bool {
    use DataType::{Date32, Date64, Float32, Float64, LargeUtf8, Timestamp, Utf8, Utf8View};
    match (from, to) {
        (a, b) if a == b => true,
        (a, b) if a.is_integer() => b.is_integer() || matches!(b, Float32 | Float64),
        (Float32, Float64) => true,
        (Timestamp(_, one), Timestamp(_, other)) => one == other,
        (Date32 | Date64, Timestamp(_, None)) => true,
        (Utf8 | LargeUtf8 | Utf8View, Utf8 | LargeUtf8 | Utf8View) => true,
        _ => false,
    }
}

/// A condition made ready to be asked.
#[derive(Debug, Clone)]
pub struct Pruner {
    root: Node,
}

impl Pruner {
    /// Makes `condition` over the columns of `schema` ready. One that does not fit them prunes
    /// nothing; whoever evaluates it will say so.
    #[must_use]
    pub fn new(condition: &Expr, schema: &Schema) -> Pruner {
        Pruner { root: Node::of(condition, schema) }
    }

    /// Whether it may be true of a row, given the bounds of the columns by their position.
    #[must_use]
    pub fn may_keep(&self, bounds: &dyn Fn(usize) -> Bounds) -> bool {
        self.root.outcomes(bounds).yes
    }

    /// The columns it asks for.
    #[must_use]
    pub fn columns(&self) -> Vec<usize> {
        let mut columns = Vec::new();
        self.root.collect_columns(&mut columns);
        columns.sort_unstable();
        columns.dedup();
        columns
    }

    /// Conditions that together are this one, so that each may be asked of other rows.
    #[must_use]
    pub fn split(self) -> Vec<Pruner> {
        match self.root {
            Node::And(left, right) => [*left, *right].into_iter().flat_map(|root| Pruner { root }.split()).collect(),
            root => vec![Pruner { root }],
        }
    }
}

/// What a condition may be of some rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Outcomes {
    yes: bool,
    no: bool,
    null: bool,
}

impl Outcomes {
    const ANY: Outcomes = Outcomes { yes: true, no: true, null: true };
}

#[derive(Debug, Clone)]
enum Node {
    And(Box<Node>, Box<Node>),
    Or(Box<Node>, Box<Node>),
    Not(Box<Node>),
    Compare(Operand, Comparison, Operand),
    IsNull(Operand),
    /// A column or constant that is true or false itself.
    Truth(Operand),
    Unknown,
}

/// A side of a comparison, as the type both sides are compared as.
#[derive(Debug, Clone)]
enum Operand {
    Column {
        index: usize,
        casts: Vec<(DataType, DataType)>,
    },
    Constant(Bounds),
    /// Computed of rows: nothing is known.
    Computed,
}

#[derive(Debug, Clone, Copy)]
enum Comparison {
    Eq,
    Lt,
    LtEq,
}

impl Node {
    fn of(expr: &Expr, schema: &Schema) -> Node {
        let node = |e: &Expr| Box::new(Node::of(e, schema));
        match expr {
            Expr::Binary { left, op: BinaryOp::And, right } => Node::And(node(left), node(right)),
            Expr::Binary { left, op: BinaryOp::Or, right } => Node::Or(node(left), node(right)),
            Expr::Binary { left, op, right } => Node::comparison(left, *op, right, schema),
            Expr::Not(e) => Node::Not(node(e)),
            Expr::IsNull(e) => Node::IsNull(Operand::of(e, schema).0),
            Expr::IsNotNull(e) => Node::Not(Box::new(Node::IsNull(Operand::of(e, schema).0))),
            Expr::Column(_) | Expr::Literal(_) => Node::Truth(Operand::of(expr, schema).0),
            _ => Node::Unknown,
        }
    }

    fn comparison(left: &Expr, op: BinaryOp, right: &Expr, schema: &Schema) -> Node {
        let (left, left_type) = Operand::of(left, schema);
        let (right, right_type) = Operand::of(right, schema);
        let (Some(left_type), Some(right_type)) = (left_type, right_type) else {
            return Node::Unknown;
        };
        // All six coerce alike.
        let Ok((as_left, as_right)) = BinaryTypeCoercer::new(&left_type, &Operator::Lt, &right_type).get_input_types()
        else {
            return Node::Unknown;
        };
        if as_left != as_right {
            return Node::Unknown;
        }
        let (l, r) = (left.cast(left_type, as_left), right.cast(right_type, as_right));
        let not = |node: Node| Node::Not(Box::new(node));
        match op {
            BinaryOp::Eq => Node::Compare(l, Comparison::Eq, r),
            BinaryOp::NotEq => not(Node::Compare(l, Comparison::Eq, r)),
            BinaryOp::Lt => Node::Compare(l, Comparison::Lt, r),
            BinaryOp::LtEq => Node::Compare(l, Comparison::LtEq, r),
            BinaryOp::Gt => Node::Compare(r, Comparison::Lt, l),
            BinaryOp::GtEq => Node::Compare(r, Comparison::LtEq, l),
            _ => Node::Unknown,
        }
    }

    fn outcomes(&self, bounds: &dyn Fn(usize) -> Bounds) -> Outcomes {
        match self {
            Node::Unknown => Outcomes::ANY,
            Node::Not(node) => {
                let inner = node.outcomes(bounds);
                Outcomes { yes: inner.no, no: inner.yes, null: inner.null }
            }
            Node::And(left, right) => and(left.outcomes(bounds), right.outcomes(bounds)),
            Node::Or(left, right) => {
                let flip = |o: Outcomes| Outcomes { yes: o.no, no: o.yes, null: o.null };
                flip(and(flip(left.outcomes(bounds)), flip(right.outcomes(bounds))))
            }
            Node::IsNull(operand) => {
                let of = operand.bounds(bounds);
                Outcomes { yes: of.nulls, no: of.values, null: false }
            }
            Node::Truth(operand) => {
                let of = operand.bounds(bounds);
                let is = |bound: &Option<ScalarValue>, value| *bound == Some(ScalarValue::Boolean(Some(value)));
                Outcomes { yes: of.values && !is(&of.max, false), no: of.values && !is(&of.min, true), null: of.nulls }
            }
            Node::Compare(left, comparison, right) => compare(&left.bounds(bounds), *comparison, &right.bounds(bounds)),
        }
    }

    fn collect_columns(&self, columns: &mut Vec<usize>) {
        match self {
            Node::Unknown => {}
            Node::Not(node) => node.collect_columns(columns),
            Node::And(left, right) | Node::Or(left, right) => {
                left.collect_columns(columns);
                right.collect_columns(columns);
            }
            Node::IsNull(operand) | Node::Truth(operand) => columns.extend(operand.column()),
            Node::Compare(left, _, right) => columns.extend(left.column().into_iter().chain(right.column())),
        }
    }
}

impl Operand {
    /// With its type, if it is known.
    fn of(expr: &Expr, schema: &Schema) -> (Operand, Option<DataType>) {
        if expr.columns().is_empty() {
            let constant = constant(expr);
            let data_type = constant.as_ref().map(ScalarValue::data_type);
            return (constant.map_or(Operand::Computed, |value| Operand::Constant(Bounds::constant(value))), data_type);
        }
        match expr {
            Expr::Column(name) => match schema.index_of(name) {
                Ok(index) => {
                    (Operand::Column { index, casts: Vec::new() }, Some(schema.field(index).data_type().clone()))
                }
                Err(_) => (Operand::Computed, None),
            },
            Expr::Cast(inner, to) => {
                let (operand, from) = Operand::of(inner, schema);
                let to = to.to_arrow();
                // A cast that fails ends the run, and one that gives null is none of these.
                (from.map_or(Operand::Computed, |from| operand.cast(from, to.clone())), Some(to))
            }
            _ => (Operand::Computed, None),
        }
    }

    fn cast(self, from: DataType, to: DataType) -> Operand {
        match self {
            Operand::Column { index, mut casts } => {
                if from != to {
                    casts.push((from, to));
                }
                Operand::Column { index, casts }
            }
            Operand::Constant(bounds) => match bounds.min.as_ref().map(|value| value.cast_to(&to)) {
                // A constant has no order that a cast might change.
                Some(Ok(value)) => Operand::Constant(Bounds::constant(value)),
                Some(Err(_)) => Operand::Computed,
                None => Operand::Constant(bounds),
            },
            Operand::Computed => Operand::Computed,
        }
    }

    fn bounds(&self, columns: &dyn Fn(usize) -> Bounds) -> Bounds {
        match self {
            Operand::Computed => Bounds::UNKNOWN,
            Operand::Constant(bounds) => bounds.clone(),
            Operand::Column { index, casts } => {
                casts.iter().fold(columns(*index), |bounds, (from, to)| bounds.cast(from, to))
            }
        }
    }

    fn column(&self) -> Option<usize> {
        match self {
            Operand::Column { index, .. } => Some(*index),
            _ => None,
        }
    }
}

/// The value of an expression without columns, if it has one.
fn constant(expr: &Expr) -> Option<ScalarValue> {
    let schema = Schema::empty();
    let options = RecordBatchOptions::new().with_row_count(Some(1));
    let row = RecordBatch::try_new_with_options(schema.clone().into(), Vec::new(), &options).ok()?;
    let array = BoundExpr::bind(expr, &schema, "prune").ok()?.evaluate(&row).ok()?;
    ScalarValue::try_from_array(&array, 0).ok()
}

fn and(left: Outcomes, right: Outcomes) -> Outcomes {
    let not_no = |o: Outcomes| o.yes || o.null;
    Outcomes {
        yes: left.yes && right.yes,
        no: left.no || right.no,
        null: (left.null && not_no(right)) || (right.null && not_no(left)),
    }
}

fn compare(left: &Bounds, comparison: Comparison, right: &Bounds) -> Outcomes {
    let null = left.nulls || right.nulls;
    if !left.values || !right.values {
        return Outcomes { yes: false, no: false, null };
    }
    let order = |a: &Option<ScalarValue>, b: &Option<ScalarValue>| a.as_ref()?.partial_cmp(b.as_ref()?);
    // How the least of the left is to the greatest of the right, and the other way round.
    let least = order(&left.min, &right.max);
    let greatest = order(&left.max, &right.min);
    let is = |found: Option<Ordering>, orders: &[Ordering]| found.is_some_and(|o| orders.contains(&o));
    use Ordering::{Equal, Greater, Less};
    let beyond_all = left.nans || right.nans;
    let (yes, no) = match comparison {
        Comparison::Eq => {
            let apart = is(least, &[Greater]) || is(greatest, &[Less]);
            let one = is(least, &[Equal]) && is(greatest, &[Equal]) && !beyond_all;
            (!apart || (left.nans && right.nans), !one)
        }
        _ if beyond_all => (true, true),
        Comparison::Lt => (!is(least, &[Greater, Equal]), !is(greatest, &[Less])),
        Comparison::LtEq => (!is(least, &[Greater]), !is(greatest, &[Less, Equal])),
    };
    Outcomes { yes, no, null }
}

#[cfg(test)]
mod tests;
