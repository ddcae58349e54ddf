//! How an expression prints: as SQL would have it, with the least parentheses that keep the
//! meaning.
//!
//! Texts stand in double quotes, names that are no plain words in back quotes (the spelling of
//! MySQL). A floating-point number without a fraction prints without a point, so one thing
//! is lost: whether `2` was a whole number.

use std::fmt;

use super::{BinaryOp, Expr};
use crate::stack::deep;

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        deep(|| match self {
            Expr::Column(name) => Name(name).fmt(f),
            Expr::Literal(value) => write!(f, "{value}"),
            Expr::Binary { left, op, right } => {
                let (at_least_left, at_least_right) = op.operands();
                operand(f, left, at_least_left)?;
                write!(f, " {} ", op.symbol())?;
                operand(f, right, at_least_right)
            }
            Expr::Not(e) => {
                f.write_str("not ")?;
                operand(f, e, NOT + 1)
            }
            Expr::Negative(e) => {
                f.write_str("-")?;
                operand(f, e, ATOM)
            }
            Expr::IsNull(e) => {
                operand(f, e, COMPARE + 1)?;
                f.write_str(" is null")
            }
            Expr::IsNotNull(e) => {
                operand(f, e, COMPARE + 1)?;
                f.write_str(" is not null")
            }
            Expr::Cast(e, to) => write!(f, "cast({e} as {to})"),
            Expr::TryCast(e, to) => write!(f, "try_cast({e} as {to})"),
            Expr::MinutesSince { end, start } => write!(f, "minutes({start} to {end})"),
            Expr::Function { name, args } => {
                write!(f, "{name}(")?;
                separated(f, args)?;
                f.write_str(")")
            }
            Expr::Case { branches, otherwise } => {
                f.write_str("case")?;
                branches.iter().try_for_each(|(condition, value)| write!(f, " when {condition} then {value}"))?;
                otherwise.iter().try_for_each(|value| write!(f, " else {value}"))?;
                f.write_str(" end")
            }
            Expr::InList { expr, list, negated } => {
                operand(f, expr, COMPARE + 1)?;
                f.write_str(if *negated { " not in (" } else { " in (" })?;
                separated(f, list)?;
                f.write_str(")")
            }
            Expr::Like { expr, pattern, negated, ignore_case } => {
                operand(f, expr, COMPARE + 1)?;
                f.write_str(if *negated { " not " } else { " " })?;
                f.write_str(if *ignore_case { "ilike " } else { "like " })?;
                operand(f, pattern, COMPARE + 1)
            }
        })
    }
}

/// An operand that holds less tightly together than what surrounds it goes into parentheses.
fn operand(f: &mut fmt::Formatter<'_>, expr: &Expr, at_least: u8) -> fmt::Result {
    if expr.precedence() < at_least { write!(f, "({expr})") } else { write!(f, "{expr}") }
}

fn separated(f: &mut fmt::Formatter<'_>, exprs: &[Expr]) -> fmt::Result {
    for (i, expr) in exprs.iter().enumerate() {
        f.write_str(if i == 0 { "" } else { ", " })?;
        write!(f, "{expr}")?;
    }
    Ok(())
}

/// The name of a column, in back quotes unless it is a plain word.
struct Name<'a>(&'a str);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let starts = self.0.starts_with(|c: char| c.is_alphabetic() || c == '_');
        let plain = starts && self.0.chars().all(|c| c.is_alphanumeric() || c == '_');
        if plain && !KEYWORDS.contains(&self.0.to_ascii_lowercase().as_str()) {
            return f.write_str(self.0);
        }
        write!(f, "`{}`", self.0.replace('`', "``"))
    }
}

impl Expr {
    /// How tightly the expression holds together when printed.
    fn precedence(&self) -> u8 {
        match self {
            Expr::Binary { op, .. } => op.precedence(),
            Expr::Not(_) => NOT,
            Expr::IsNull(_) | Expr::IsNotNull(_) | Expr::InList { .. } | Expr::Like { .. } => COMPARE,
            Expr::Negative(_) => SIGN,
            Expr::Literal(value) if value.is_negative() => SIGN,
            _ => ATOM,
        }
    }
}

impl BinaryOp {
    /// What stands between the operands.
    pub(crate) fn symbol(self) -> &'static str {
        match self {
            Self::Eq => "=",
            Self::NotEq => "!=",
            Self::Lt => "<",
            Self::LtEq => "<=",
            Self::Gt => ">",
            Self::GtEq => ">=",
            Self::IsDistinctFrom => "is distinct from",
            Self::IsNotDistinctFrom => "is not distinct from",
            Self::And => "and",
            Self::Or => "or",
            Self::Plus => "+",
            Self::Minus => "-",
            Self::Multiply => "*",
            Self::Divide => "/",
            Self::Modulo => "%",
            Self::Concat => "||",
        }
    }

    fn precedence(self) -> u8 {
        match self {
            Self::Or => 1,
            Self::And => 2,
            Self::Eq | Self::NotEq | Self::Lt | Self::LtEq | Self::Gt | Self::GtEq => COMPARE,
            Self::IsDistinctFrom | Self::IsNotDistinctFrom => COMPARE,
            Self::Plus | Self::Minus => 5,
            Self::Multiply | Self::Divide | Self::Modulo => 6,
            Self::Concat => 7,
        }
    }

    /// How tightly the left and the right operand must hold together to need no parentheses:
    /// `a - (b - c)` keeps its own, `a and (b and c)` has none, and comparisons do not chain.
    fn operands(self) -> (u8, u8) {
        let own = self.precedence();
        match self {
            Self::And | Self::Or | Self::Concat => (own, own),
            _ if own == COMPARE => (own + 1, own + 1),
            _ => (own, own + 1),
        }
    }
}

const NOT: u8 = 3;
const COMPARE: u8 = 4;
/// A sign binds more tightly than all that stands between two operands.
const SIGN: u8 = 8;
const ATOM: u8 = 9;

/// Words that would be taken for something else where a column may stand.
const KEYWORDS: [&str; 22] = [
    "and", "between", "case", "cast", "distinct", "else", "end", "false", "from", "ilike", "in", "interval", "is",
    "like", "not", "null", "or", "select", "then", "true", "try_cast", "when",
];

#[cfg(test)]
mod tests {
    use crate::expr::{ValueType, col, func, lit, when};

    #[test]
    fn printing_keeps_the_meaning() {
        let expr = (col("a") - (col("b") - lit(1))) * lit(2.5);
        assert_eq!(expr.to_string(), "(a - (b - 1)) * 2.5");
        let expr = !(col("a").gt(lit(1)).or(col("s").eq(lit("x")))).and(col("b").is_null());
        assert_eq!(expr.to_string(), "not ((a > 1 or s = \"x\") and b is null)");
        assert_eq!((-(col("a") + col("b"))).to_string(), "-(a + b)");
    }

    #[test]
    fn every_kind_of_expression_prints() {
        for (expr, expected) in [
            (col("a").eq(col("b")).eq(col("c")), "(a = b) = c"),
            (-(-col("a")), "-(-a)"),
            (-lit(-1), "-(-1)"),
            (col("a") - lit(-1), "a - -1"),
            (col("a") - lit(1) - lit(2), "a - 1 - 2"),
            (col("a").eq(lit(1)).is_null(), "(a = 1) is null"),
            (func("pi", []) + func("round", [col("a"), lit(2)]), "pi() + round(a, 2)"),
            (col("a").between(lit(1), lit(2)), "a >= 1 and a <= 2"),
            (col("a").is_in([1, 2]), "a in (1, 2)"),
            (!col("a").is_in(["x"]), "not a in (\"x\")"),
            (col("a").not_in([1]).and(col("b").like("x%")), "a not in (1) and b like \"x%\""),
            ((col("a").concat([col("b")])).ilike("x"), "a || b ilike \"x\""),
            (col("a").try_cast(ValueType::Decimal(10, 2)), "try_cast(a as decimal(10, 2))"),
            (when(col("a").gt(lit(1)), lit("x")).otherwise(lit("y")), "case when a > 1 then \"x\" else \"y\" end"),
            (when(col("a"), lit(1)).when(col("b"), lit(2)).end(), "case when a then 1 when b then 2 end"),
            (col("a b").is_distinct_from(col("case")), "`a b` is distinct from `case`"),
            (col("to").minutes_since(col("from")), "minutes(`from` to to)"),
        ] {
            assert_eq!(expr.to_string(), expected);
        }
    }
}
