//! What is wrong with the types in a query, in our words.
//!
//! Entry types: [`Operands`], which looks at the operands of an operator before DataFusion does (those
//! of a sign, too, in a query that [`with_all_asked`] has changed), and [`function`] and [`aggregate`],
//! which do the same with the arguments of a call. DataFusion agrees types while it plans, and where it
//! cannot it does not say of which columns; so a query that it refuses is planned once more with these
//! in the way.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::datatypes::{DataType, FieldRef};
use datafusion_common::{DFSchema, DataFusionError, Result};
use datafusion_expr::function::AccumulatorArgs;
use datafusion_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion_expr::type_coercion::functions::fields_with_udf;
use datafusion_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, ColumnarValue, Expr as Theirs, ExprSchemable, ReturnFieldArgs,
    ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion_sql::sqlparser::ast::{
    BinaryOperator, Expr as Written, Query, UnaryOperator, Value, ValueWithSpan, visit_expressions_mut,
};

use super::OPERATOR;
use super::expr::Scope;
use crate::error::DataError;
use crate::expr::{BinaryOp, Expr, Kind, Scalar, agree};

/// Looks at what stands on both sides of an operator.
#[derive(Debug)]
pub(super) struct Operands {
    /// How many operators are looked at yet: a type is found by looking at all that is below.
    left: AtomicUsize,
}

impl Operands {
    pub(super) fn new() -> Self {
        Self { left: AtomicUsize::new(OPERATORS_LOOKED_AT) }
    }
}

impl ExprPlanner for Operands {
    fn plan_binary_op(&self, expr: RawBinaryExpr, schema: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        let left = self.left.load(Ordering::Relaxed);
        if left > 0 {
            self.left.store(left - 1, Ordering::Relaxed);
            if let Some(cause) = unfit(&expr, schema) {
                return Err(refused(cause));
            }
        }
        Ok(match unary_op(&expr.op) {
            Some(UnaryOperator::Minus) => PlannerResult::Planned(Theirs::Negative(Box::new(expr.right))),
            Some(UnaryOperator::Not) => PlannerResult::Planned(Theirs::Not(Box::new(expr.right))),
            Some(_) => PlannerResult::Planned(expr.right),
            None => PlannerResult::Original(expr),
        })
    }
}

/// The same query, in which signs and `not` stand between nothing and their operands: DataFusion lets
/// nobody look at an operator that stands before its only one.
pub(super) fn with_all_asked(mut query: Query) -> Query {
    let nothing = || Written::Value(Value::Null.with_empty_span());
    let _: ControlFlow<()> = visit_expressions_mut(&mut query, |expr| {
        if let Written::UnaryOp { op, expr: operand } = expr
            && ASKED.contains(op)
            && !is_signed_constant(operand)
        {
            let op = BinaryOperator::Custom(op.to_string());
            let right = std::mem::replace(operand, Box::new(nothing()));
            *expr = Written::BinaryOp { left: Box::new(nothing()), op, right };
        }
        ControlFlow::Continue(())
    });
    query
}

/// Whether a sign before it is a part of the constant, which DataFusion reads together.
fn is_signed_constant(operand: &Written) -> bool {
    matches!(operand, Written::Value(ValueWithSpan { value: Value::Number(..), .. }) | Written::Interval(_))
}

/// The sign, or the `not`, that an operator is in a query [`with_all_asked`].
fn unary_op(op: &BinaryOperator) -> Option<UnaryOperator> {
    let BinaryOperator::Custom(name) = op else { return None };
    ASKED.into_iter().find(|asked| asked.to_string() == *name)
}

/// Why an operator cannot stand between its operands, or before its only one; nothing where that is not
/// for us to say.
fn unfit(raw: &RawBinaryExpr, schema: &DFSchema) -> Option<String> {
    let columns: Vec<String> = schema.fields().iter().map(|field| field.name().clone()).collect();
    let scope = Scope { schema, columns: &columns };
    let (left_type, right_type) = (raw.left.get_type(schema).ok()?, raw.right.get_type(schema).ok()?);
    // An aggregate is no expression of ours: it goes by what it is called.
    let shown = |expr: &Theirs| scope.expr(expr).unwrap_or_else(|_| Expr::Column(expr.to_string()));
    if let Some(op) = unary_op(&raw.op) {
        let operand = shown(&raw.right);
        let fits = match op {
            UnaryOperator::Not => agree::truth(&operand, &right_type),
            UnaryOperator::Minus => agree::negate(&-operand.clone(), (&operand, &right_type)),
            _ => agree::calculate(&operand, (&operand, &right_type)),
        };
        return fits.err();
    }
    let op = binary_op(&raw.op)?;
    let (left, right) = (shown(&raw.left), shown(&raw.right));
    let whole = left.clone().binary(op, right.clone());
    let (left, right) = ((&left, &left_type), (&right, &right_type));
    let fits = agree::put_together(&whole, op, left, right).and_then(|()| agree::meet(&whole, op, left, right));
    fits.err()
}

fn binary_op(op: &BinaryOperator) -> Option<BinaryOp> {
    Some(match op {
        BinaryOperator::Plus => BinaryOp::Plus,
        BinaryOperator::Minus => BinaryOp::Minus,
        BinaryOperator::Multiply => BinaryOp::Multiply,
        BinaryOperator::Divide => BinaryOp::Divide,
        BinaryOperator::Modulo => BinaryOp::Modulo,
        BinaryOperator::StringConcat => BinaryOp::Concat,
        BinaryOperator::Eq => BinaryOp::Eq,
        BinaryOperator::NotEq => BinaryOp::NotEq,
        BinaryOperator::Lt => BinaryOp::Lt,
        BinaryOperator::LtEq => BinaryOp::LtEq,
        BinaryOperator::Gt => BinaryOp::Gt,
        BinaryOperator::GtEq => BinaryOp::GtEq,
        BinaryOperator::And => BinaryOp::And,
        BinaryOperator::Or => BinaryOp::Or,
        _ => return None,
    })
}

/// The same function, which says of which values it cannot be computed.
pub(super) fn function(function: Arc<ScalarUDF>) -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::from(Function { function, signature: anything() }))
}

/// The same aggregate, which says of which values it cannot be computed.
pub(super) fn aggregate(function: Arc<AggregateUDF>) -> Arc<AggregateUDF> {
    Arc::new(AggregateUDF::from(Aggregate { function, signature: anything() }))
}

/// Arguments of any types, as they are.
fn anything() -> Signature {
    Signature::user_defined(Volatility::Immutable)
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Function {
    function: Arc<ScalarUDF>,
    signature: Signature,
}

impl ScalarUDFImpl for Function {
    fn name(&self) -> &str {
        self.function.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        Ok(arguments.to_vec())
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Err(only_looked_at())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let taken = fields_with_udf(args.arg_fields, self.function.as_ref()).map_err(|_| {
            let constant = |place: usize| Scalar::from_datafusion(args.scalar_arguments.get(place).copied().flatten()?);
            let named = |(place, field): (usize, &FieldRef)| match constant(place) {
                Some(constant) => constant.to_string(),
                None => field.name().clone(),
            };
            let names: Vec<String> = args.arg_fields.iter().enumerate().map(named).collect();
            not_taken(self.name(), names, args.arg_fields)
        })?;
        let args = ReturnFieldArgs { arg_fields: &taken, scalar_arguments: args.scalar_arguments };
        self.function.return_field_from_args(args)
    }

    fn invoke_with_args(&self, _args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        Err(only_looked_at())
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Aggregate {
    function: Arc<AggregateUDF>,
    signature: Signature,
}

impl AggregateUDFImpl for Aggregate {
    fn name(&self) -> &str {
        self.function.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        Ok(arguments.to_vec())
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Err(only_looked_at())
    }

    fn return_field(&self, arguments: &[FieldRef]) -> Result<FieldRef> {
        let names = || arguments.iter().map(|field| field.name().clone()).collect();
        let taken = fields_with_udf(arguments, self.function.as_ref());
        self.function.return_field(&taken.map_err(|_| not_taken(self.name(), names(), arguments))?)
    }

    fn accumulator(&self, _args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        Err(only_looked_at())
    }

    fn supports_within_group_clause(&self) -> bool {
        self.function.supports_within_group_clause()
    }

    fn supports_null_handling_clause(&self) -> bool {
        self.function.supports_null_handling_clause()
    }
}

/// Says that a function or an aggregate does not take its arguments, which are called `names`.
fn not_taken(function: &str, names: Vec<String>, arguments: &[FieldRef]) -> DataFusionError {
    let whole = format!("{function}({})", names.join(", "));
    if let ([name], [argument]) = (names.as_slice(), arguments)
        && OF_NUMBERS.contains(&function)
        && Kind::of(argument.data_type()) != Kind::Number
    {
        return refused(agree::no_number(&whole, name, argument.data_type()));
    }
    let operands: Vec<(&dyn fmt::Display, &DataType)> =
        names.iter().zip(arguments).map(|(name, argument)| (name as &dyn fmt::Display, argument.data_type())).collect();
    refused(agree::not_taken(&whole, function, &agree::are(&operands)))
}

fn refused(cause: String) -> DataFusionError {
    DataFusionError::External(Box::new(DataError::Expression { operator: OPERATOR.into(), cause }))
}

fn only_looked_at() -> DataFusionError {
    DataFusionError::Internal("a query that is refused is not run".into())
}

/// The operators before an only operand that are looked at.
const ASKED: [UnaryOperator; 3] = [UnaryOperator::Minus, UnaryOperator::Plus, UnaryOperator::Not];

/// Aggregates that are computed of numbers alone.
const OF_NUMBERS: [&str; 5] = ["avg", "median", "stddev", "sum", "var"];

/// How many operators are looked at: of more, DataFusion's words have to do.
const OPERATORS_LOOKED_AT: usize = 300;
