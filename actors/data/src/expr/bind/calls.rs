//! Binding what has more than two operands: functions, `case`, `in` and `like`.

use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, FieldRef};
use datafusion_common::config::ConfigOptions;
use datafusion_expr::ScalarUDF;
use datafusion_expr::type_coercion::functions::fields_with_udf;
use datafusion_expr::type_coercion::other::{get_coerce_type_for_case_expression, get_coerce_type_for_list};
use datafusion_physical_expr::expressions as physical;
use datafusion_physical_expr::{PhysicalExpr, ScalarFunctionExpr};

use super::coalesce::Coalesce;
use super::index_of::IndexOf;
use super::vector::{Vector, element_type};
use super::{Binder, Typed, zero};
use crate::error::DataError;
use crate::expr::{Expr, agree, functions, when};
use crate::schema::plain_type;
use crate::words::plain;

type Bound = Result<Arc<dyn PhysicalExpr>, DataError>;
/// A value, and those that it is compared with.
type Members = (Arc<dyn PhysicalExpr>, Vec<Arc<dyn PhysicalExpr>>);

impl Binder<'_> {
    pub(super) fn function(&self, whole: &Expr, name: &str, args: &[Expr]) -> Bound {
        let bound: Vec<Typed> = args.iter().map(|arg| self.typed(arg)).collect::<Result<_, _>>()?;
        let name = name.to_ascii_lowercase();
        if SAME_KIND.contains(&name.as_str()) {
            self.agree(whole, &args.iter().zip(bound.iter().map(|arg| &arg.data_type)).collect::<Vec<_>>())?;
        }
        match (name.as_str(), args) {
            ("coalesce" | "nvl" | "ifnull", [_, ..]) => self.coalesce(whole, bound),
            ("nvl2", [value, present, absent]) => {
                self.bind(&when(value.clone().is_not_null(), present.clone()).otherwise(absent.clone()))
            }
            ("clip", [value, low, high]) => {
                let below = when(value.clone().lt(low.clone()), low.clone());
                let clipped = below.when(value.clone().gt(high.clone()), high.clone()).otherwise(value.clone());
                match bound[0].data_type.is_floating() {
                    // NaN compares as greater than every number.
                    true => self.bind(&when(value.clone().is_nan(), value.clone()).otherwise(clipped)),
                    false => self.bind(&clipped),
                }
            }
            ("index_of" | "index_of_known", [_, ..]) => self.index_of(whole, args, bound, name == "index_of_known"),
            ("vector", [_, ..]) => self.vector(whole, args, bound),
            ("clip", _) => Err(self.refuse(format!("clip needs 3 arguments, not {}", args.len()))),
            (name, _) => {
                let function = functions::find(name).map_err(|cause| self.refuse(cause))?;
                self.call(whole, name, &function, args, bound)
            }
        }
    }

    fn coalesce(&self, whole: &Expr, values: Vec<Typed>) -> Bound {
        let mut values = self.alike(whole, values)?.into_iter();
        let first = values.next().ok_or_else(|| self.refuse(format!("{whole} needs an argument")))?;
        Ok(Arc::new(Coalesce::new(first, values.collect())))
    }

    /// Casts values to a type that holds all of them.
    fn alike(&self, whole: &Expr, values: Vec<Typed>) -> Result<Vec<Arc<dyn PhysicalExpr>>, DataError> {
        let types: Vec<DataType> = values.iter().map(|value| value.data_type.clone()).collect();
        let common = get_coerce_type_for_case_expression(&types, None)
            .ok_or_else(|| self.refuse(format!("{whole}: no type holds all values")))?;
        values.into_iter().map(|value| self.cast(value.expr, &common)).collect()
    }

    /// The place of the first value among the others, which are constants.
    fn index_of(&self, whole: &Expr, args: &[Expr], bound: Vec<Typed>, known: bool) -> Bound {
        let (value, list) = self.members(whole, args, bound)?;
        let data_type = self.type_of(&value)?;
        let constant = |expr: &Arc<dyn PhysicalExpr>| match expr.downcast_ref::<physical::Literal>() {
            Some(constant) => Ok(constant.value().clone()),
            None => Err(self.refuse(format!("{whole}: what is looked in must be constants"))),
        };
        let list = list.iter().map(constant).collect::<Result<_, _>>()?;
        Ok(Arc::new(IndexOf::new(value, list, &data_type, known).map_err(|e| self.error(&e))?))
    }

    fn vector(&self, whole: &Expr, args: &[Expr], bound: Vec<Typed>) -> Bound {
        for (arg, typed) in args.iter().zip(&bound) {
            agree::number(whole, arg, &typed.data_type).map_err(|cause| self.refuse(cause))?;
        }
        let types: Vec<DataType> = bound.iter().map(|value| value.data_type.clone()).collect();
        let element = element_type(&types);
        let values = bound.into_iter().map(|value| self.cast(value.expr, &element)).collect::<Result<_, _>>()?;
        Ok(Arc::new(Vector::new(values, &element)))
    }

    /// Calls `function`, the arguments cast to what it takes.
    fn call(&self, whole: &Expr, name: &str, function: &Arc<ScalarUDF>, args: &[Expr], bound: Vec<Typed>) -> Bound {
        let fail = |e: datafusion_common::DataFusionError| self.refuse(format!("{name}: {}", plain(&e)));
        let fields: Vec<FieldRef> =
            bound.iter().map(|arg| arg.expr.return_field(self.schema)).collect::<Result<_, _>>().map_err(fail)?;
        let fields = fields_with_udf(&fields, function.as_ref()).map_err(|_| {
            let operands: Vec<_> = args.iter().zip(bound.iter().map(|arg| &arg.data_type)).collect();
            self.refuse(agree::not_taken(whole, name, &agree::are(&operands)))
        })?;
        let args: Vec<_> = bound
            .into_iter()
            .zip(&fields)
            .map(|(arg, field)| self.cast(arg.expr, field.data_type()))
            .collect::<Result<_, _>>()?;
        let call = ScalarFunctionExpr::try_new(Arc::clone(function), args, self.schema, Arc::clone(&OPTIONS));
        let call: Arc<dyn PhysicalExpr> = Arc::new(call.map_err(fail)?);
        // Some functions give views of texts, which nothing behind here knows.
        let plain = plain_type(&self.type_of(&call)?);
        self.cast(call, &plain)
    }

    pub(super) fn case(&self, whole: &Expr, branches: &[(Expr, Expr)], otherwise: Option<&Expr>) -> Bound {
        let conditions: Vec<_> =
            branches.iter().map(|(condition, _)| self.condition(condition)).collect::<Result<_, _>>()?;
        let exprs: Vec<&Expr> = branches.iter().map(|(_, value)| value).chain(otherwise).collect();
        let values: Vec<Typed> = exprs.iter().map(|value| self.typed(value)).collect::<Result<_, _>>()?;
        self.agree(whole, &exprs.iter().copied().zip(values.iter().map(|v| &v.data_type)).collect::<Vec<_>>())?;
        let mut values = self.alike(whole, values)?.into_iter();
        let branches = conditions.into_iter().zip(values.by_ref()).collect();
        physical::case(None, branches, values.next()).map_err(|e| self.error(&e))
    }

    pub(super) fn in_list(&self, whole: &Expr, member: &Expr, list: &[Expr], negated: bool) -> Bound {
        let exprs: Vec<Expr> = std::iter::once(member).chain(list).cloned().collect();
        let bound = exprs.iter().map(|expr| self.typed(expr)).collect::<Result<_, _>>()?;
        let (value, others) = self.members(whole, &exprs, bound)?;
        physical::in_list(value, others, &negated, self.schema).map_err(|e| self.error(&e))
    }

    /// A value, and those that it is compared with, all of one type.
    fn members(&self, whole: &Expr, exprs: &[Expr], bound: Vec<Typed>) -> Result<Members, DataError> {
        let none = || self.refuse(format!("{whole}: there is no value"));
        let member = exprs.first().ok_or_else(none)?;
        let mut others = bound.into_iter();
        let value = others.next().ok_or_else(none)?;
        let mut others: Vec<Typed> = others.collect();
        for (other, expr) in others.iter_mut().zip(&exprs[1..]) {
            agree::compare(whole, (member, &value.data_type), (expr, &other.data_type))
                .map_err(|cause| self.refuse(cause))?;
            self.read_text(other, &value.data_type)?;
        }
        let types: Vec<DataType> = others.iter().map(|other| other.data_type.clone()).collect();
        let common = get_coerce_type_for_list(&value.data_type, &types)
            .ok_or_else(|| self.refuse(format!("{whole}: no type holds all values")))?;
        let plain = |value: Typed| zero::unsigned(self.cast(value.expr, &common)?, &common).map_err(|e| self.error(&e));
        Ok((plain(value)?, others.into_iter().map(plain).collect::<Result<_, _>>()?))
    }

    pub(super) fn like(&self, whole: &Expr) -> Bound {
        let Expr::Like { expr, pattern, negated, ignore_case } = whole else {
            return Err(self.refuse(format!("{whole} is no comparison with a pattern")));
        };
        let text = |e: &Expr| {
            let bound = self.typed(e)?;
            agree::text(whole, e, &bound.data_type).map_err(|cause| self.refuse(cause))?;
            self.cast(bound.expr, &DataType::Utf8)
        };
        physical::like(*negated, *ignore_case, text(expr)?, text(pattern)?, self.schema).map_err(|e| self.error(&e))
    }

    /// Refuses values of different kinds where all become values of one column.
    fn agree(&self, whole: &Expr, values: &[(&Expr, &DataType)]) -> Result<(), DataError> {
        let Some((first, others)) = values.split_first() else { return Ok(()) };
        let compare = |other: &(&Expr, &DataType)| agree::compare(whole, *first, *other);
        others.iter().try_for_each(compare).map_err(|cause| self.refuse(cause))
    }
}

/// Functions that give one of their arguments, or compare them.
const SAME_KIND: [&str; 7] = ["clip", "coalesce", "greatest", "ifnull", "least", "nullif", "nvl"];

/// What functions may ask for besides their arguments: all is as it is by default.
static OPTIONS: LazyLock<Arc<ConfigOptions>> = LazyLock::new(|| Arc::new(ConfigOptions::default()));
