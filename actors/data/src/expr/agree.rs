//! Which values may be put together at all.
//!
//! Entry types: [`Kind`], and [`put_together`], which refuses what DataFusion would quietly make
//! something of: a number compared with a text is compared as a number there, so that a query fails
//! on the first row that is none, or finds nothing. Whoever means that says so with a cast. Only a
//! constant text may stand for a date, a time or a span: `at > "2024-02-29"`. What DataFusion refuses,
//! too, is told here, since it does not know what the values are called.

use std::fmt;

use arrow::datatypes::DataType;
use datafusion_expr::type_coercion::binary::BinaryTypeCoercer;
use datafusion_expr::type_coercion::is_signed_numeric;

use crate::expr::{BinaryOp, Expr};
use crate::schema::plain_type;

/// What a value is, as far as putting it together with another one goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// No value; goes with everything.
    Null,
    Truth,
    Number,
    Text,
    Bytes,
    /// A date or a point in time.
    Instant,
    TimeOfDay,
    Span,
    /// Lists, structures and the like: DataFusion knows which of them go together.
    Nested,
}

impl Kind {
    pub(crate) fn of(data_type: &DataType) -> Self {
        match plain_type(data_type) {
            DataType::Null => Self::Null,
            DataType::Boolean => Self::Truth,
            DataType::Utf8 => Self::Text,
            DataType::Binary | DataType::FixedSizeBinary(_) => Self::Bytes,
            DataType::Date32 | DataType::Date64 | DataType::Timestamp(..) => Self::Instant,
            DataType::Time32(_) | DataType::Time64(_) => Self::TimeOfDay,
            DataType::Duration(_) | DataType::Interval(_) => Self::Span,
            other if other.is_numeric() => Self::Number,
            _ => Self::Nested,
        }
    }

    /// Whether values of both kinds have an order or a common type.
    fn agrees(self, other: Self) -> bool {
        self == other || self == Self::Null || other == Self::Null
    }

    /// Whether a constant text can be read as such a value.
    pub(crate) fn is_read_from_text(self) -> bool {
        matches!(self, Self::Instant | Self::TimeOfDay | Self::Span)
    }

    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Truth => "true or false",
            Self::Number => "a number",
            Self::Text => "a text",
            Self::Bytes => "bytes",
            Self::Instant => "a point in time",
            Self::TimeOfDay => "a time of day",
            Self::Span => "a span of time",
            Self::Nested => "a nested value",
        }
    }
}

/// An expression, and the type of its values.
pub(crate) type Operand<'a> = (&'a Expr, &'a DataType);

/// Refuses two values of kinds between which `op` cannot stand. `what` is the expression in which they
/// meet.
pub(crate) fn put_together(what: &Expr, op: BinaryOp, left: Operand<'_>, right: Operand<'_>) -> Result<(), String> {
    match op {
        BinaryOp::And | BinaryOp::Or => truth(left.0, left.1).and_then(|()| truth(right.0, right.1)),
        BinaryOp::Concat => Ok(()),
        op if op.is_arithmetic() => calculate(what, left).and_then(|()| calculate(what, right)),
        _ => compare(what, left, right),
    }
}

/// Refuses two values for which there is no type in which `op` is done. Constant texts have been read
/// as what they stand for.
pub(crate) fn meet(what: &Expr, op: BinaryOp, left: Operand<'_>, right: Operand<'_>) -> Result<(), String> {
    match BinaryTypeCoercer::new(left.1, &op.to_datafusion(), right.1).get_input_types() {
        Ok(_) => Ok(()),
        Err(_) => {
            Err(format!("{what}: {}, between which there is no {}; cast one of them", are(&[left, right]), op.symbol()))
        }
    }
}

/// Says of values what they are: `x is a number and y is a text`.
pub(crate) fn are<D: fmt::Display>(operands: &[(D, &DataType)]) -> String {
    let is: Vec<String> = operands
        .iter()
        .map(|(operand, data_type)| format!("{operand} is {}", Kind::of(data_type).describe()))
        .collect();
    match is.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
        None => String::new(),
    }
}

/// Says that a function does not take its arguments, of which `are` says what they are.
pub(crate) fn not_taken(what: &dyn fmt::Display, function: &str, are: &str) -> String {
    match are {
        "" => format!("{what}: {function} needs an argument"),
        are => {
            format!("{what}: {are}, which {function} does not take; cast what is wrong, or give it as many as it needs")
        }
    }
}

/// Refuses two values that cannot be compared, or be values of one column. `what` is the
/// expression in which they meet.
pub(crate) fn compare(what: &Expr, left: Operand<'_>, right: Operand<'_>) -> Result<(), String> {
    let (one, other) = (Kind::of(left.1), Kind::of(right.1));
    let reads = |text: &Expr, kind: Kind, other: Kind| {
        matches!(text, Expr::Literal(_)) && kind == Kind::Text && other.is_read_from_text()
    };
    if one.agrees(other) || reads(left.0, one, other) || reads(right.0, other, one) {
        return Ok(());
    }
    Err(format!("{what}: {}; cast one of them", are(&[left, right])))
}

/// Refuses a value that nothing can be computed of.
pub(crate) fn calculate(what: &Expr, (operand, data_type): Operand<'_>) -> Result<(), String> {
    let kind = Kind::of(data_type);
    if matches!(kind, Kind::Text | Kind::Truth | Kind::Bytes) {
        return Err(format!(
            "{what}: {operand} is {}, and only numbers and times can be computed with; cast it to a number",
            kind.describe()
        ));
    }
    Ok(())
}

/// Refuses a value of which there is no negative.
pub(crate) fn negate(what: &Expr, (operand, data_type): Operand<'_>) -> Result<(), String> {
    calculate(what, (operand, data_type))?;
    match (Kind::of(data_type), plain_type(data_type)) {
        (Kind::Null, _) | (Kind::Span, DataType::Interval(_)) => Ok(()),
        (Kind::Number, plain) if is_signed_numeric(&plain) => Ok(()),
        (Kind::Number, plain) => {
            Err(format!("{what}: {operand} is {plain}, which has no negative numbers; cast it to int64"))
        }
        (Kind::Span, plain) => {
            Err(format!("{what}: {operand} is {plain}, of which there is no negative; subtract the other way round"))
        }
        (kind, _) => Err(format!("{what}: {operand} is {}, of which there is no negative", kind.describe())),
    }
}

/// Refuses what is not a number where one is needed.
pub(crate) fn number(what: &Expr, operand: &Expr, data_type: &DataType) -> Result<(), String> {
    match Kind::of(data_type) {
        Kind::Number | Kind::Null => Ok(()),
        _ => Err(no_number(what, operand, data_type)),
    }
}

/// Says that a value is not a number where one is needed, or not one that is known there.
pub(crate) fn no_number(what: &dyn fmt::Display, operand: &dyn fmt::Display, data_type: &DataType) -> String {
    match Kind::of(data_type) {
        Kind::Number => format!("{what}: {operand} is {data_type}, which cannot be used here; cast it to float64"),
        other => format!("{what}: {operand} is {}, not a number; cast it to one", other.describe()),
    }
}

/// Refuses what is not a truth value where one is needed.
pub(crate) fn truth(condition: &Expr, data_type: &DataType) -> Result<(), String> {
    match Kind::of(data_type) {
        Kind::Truth | Kind::Null => Ok(()),
        other => Err(format!("{condition} is {} where true or false is needed", other.describe())),
    }
}

/// Refuses what is not a text where one is needed.
pub(crate) fn text(what: &Expr, operand: &Expr, data_type: &DataType) -> Result<(), String> {
    match Kind::of(data_type) {
        Kind::Text | Kind::Null => Ok(()),
        other => Err(format!("{what}: {operand} is {}, not a text; cast it to string", other.describe())),
    }
}
