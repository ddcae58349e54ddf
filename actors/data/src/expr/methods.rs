//! The functions that are used most, as methods.
//!
//! They follow pandas and Ray in their names. Each is a call of one of DataFusion's functions;
//! [`func`] calls any other by name. Unless it says otherwise, a null gives null.

use super::{BinaryOp, Expr, func, lit};

/// Functions of points in time. One with a zone is read on the clocks of its zone.
impl Expr {
    /// The year.
    #[must_use]
    pub fn year(self) -> Expr {
        self.date_part("year")
    }

    /// The month, 1 to 12.
    #[must_use]
    pub fn month(self) -> Expr {
        self.date_part("month")
    }

    /// The day of the month, 1 to 31.
    #[must_use]
    pub fn day(self) -> Expr {
        self.date_part("day")
    }

    /// The day of the week: Monday is 0, Sunday 6.
    #[must_use]
    pub fn day_of_week(self) -> Expr {
        self.date_part("isodow") - lit(1)
    }

    /// The day of the year, from 1.
    #[must_use]
    pub fn day_of_year(self) -> Expr {
        self.date_part("doy")
    }

    /// The hour, 0 to 23.
    #[must_use]
    pub fn hour(self) -> Expr {
        self.date_part("hour")
    }

    /// The minute, 0 to 59.
    #[must_use]
    pub fn minute(self) -> Expr {
        self.date_part("minute")
    }

    /// The second, 0 to 59.
    #[must_use]
    pub fn second(self) -> Expr {
        self.date_part("second")
    }

    /// The beginning of the `unit` that the time is in: `year`, `quarter`, `month`, `week` (from
    /// Monday), `day`, `hour`, `minute`, `second`, `millisecond` or `microsecond`.
    #[must_use]
    pub fn date_trunc(self, unit: &str) -> Expr {
        func("date_trunc", [lit(unit), self])
    }

    fn date_part(self, part: &str) -> Expr {
        func("date_part", [lit(part), self])
    }
}

/// Functions of numbers.
impl Expr {
    /// Without its sign.
    #[must_use]
    pub fn abs(self) -> Expr {
        func("abs", [self])
    }

    /// Rounded to so many digits behind the point, halves away from zero; a negative number of
    /// digits rounds to tens, hundreds and so on.
    #[must_use]
    pub fn round(self, digits: i32) -> Expr {
        func("round", [self, lit(digits)])
    }

    /// The greatest whole number that is not greater.
    #[must_use]
    pub fn floor(self) -> Expr {
        func("floor", [self])
    }

    /// The least whole number that is not less.
    #[must_use]
    pub fn ceil(self) -> Expr {
        func("ceil", [self])
    }

    /// The square root; NaN for a number below zero.
    #[must_use]
    pub fn sqrt(self) -> Expr {
        func("sqrt", [self])
    }

    /// The natural logarithm.
    #[must_use]
    pub fn ln(self) -> Expr {
        func("ln", [self])
    }

    /// Euler's number to this power.
    #[must_use]
    pub fn exp(self) -> Expr {
        func("exp", [self])
    }

    /// To the power of `exponent`.
    #[must_use]
    pub fn power(self, exponent: impl Into<Expr>) -> Expr {
        func("power", [self, exponent.into()])
    }

    /// Whether it is not a number.
    #[must_use]
    pub fn is_nan(self) -> Expr {
        func("isnan", [self])
    }

    /// Not less than `low` and not greater than `high`: what is beyond becomes the one or the other.
    /// Null stays null and NaN stays NaN.
    #[must_use]
    pub fn clip(self, low: impl Into<Expr>, high: impl Into<Expr>) -> Expr {
        func("clip", [self, low.into(), high.into()])
    }
}

/// Functions of texts. Positions and lengths are counted in characters.
impl Expr {
    /// In small letters.
    #[must_use]
    pub fn lower(self) -> Expr {
        func("lower", [self])
    }

    /// In capital letters.
    #[must_use]
    pub fn upper(self) -> Expr {
        func("upper", [self])
    }

    /// Without spaces at either end.
    #[must_use]
    pub fn trim(self) -> Expr {
        func("trim", [self])
    }

    /// How many characters.
    #[must_use]
    pub fn length(self) -> Expr {
        func("length", [self])
    }

    /// Whether `text` is in it.
    #[must_use]
    pub fn contains(self, text: impl Into<Expr>) -> Expr {
        func("contains", [self, text.into()])
    }

    /// Whether it begins with `text`.
    #[must_use]
    pub fn starts_with(self, text: impl Into<Expr>) -> Expr {
        func("starts_with", [self, text.into()])
    }

    /// Whether it ends with `text`.
    #[must_use]
    pub fn ends_with(self, text: impl Into<Expr>) -> Expr {
        func("ends_with", [self, text.into()])
    }

    /// `length` characters from the `start`th on; the first is 1, as in SQL.
    #[must_use]
    pub fn substr(self, start: impl Into<Expr>, length: impl Into<Expr>) -> Expr {
        func("substr", [self, start.into(), length.into()])
    }

    /// Followed by the other texts; null if any of them is. (`func("concat", ..)` leaves nulls out.)
    #[must_use]
    pub fn concat(self, others: impl IntoIterator<Item = impl Into<Expr>>) -> Expr {
        others.into_iter().fold(self, |left, right| left.binary(BinaryOp::Concat, right.into()))
    }

    /// Whether it matches an SQL pattern: `%` stands for any characters, `_` for one, and a
    /// backslash before either for itself.
    #[must_use]
    pub fn like(self, pattern: impl Into<Expr>) -> Expr {
        self.matches(pattern.into(), false)
    }

    /// Like [`like`](Self::like), where capital and small letters are the same.
    #[must_use]
    pub fn ilike(self, pattern: impl Into<Expr>) -> Expr {
        self.matches(pattern.into(), true)
    }

    fn matches(self, pattern: Expr, ignore_case: bool) -> Expr {
        Expr::Like { expr: Box::new(self), pattern: Box::new(pattern), negated: false, ignore_case }
    }
}

/// Functions of values of any type.
impl Expr {
    /// Whether it is from `low` to `high`, both included.
    #[must_use]
    pub fn between(self, low: impl Into<Expr>, high: impl Into<Expr>) -> Expr {
        self.clone().gt_eq(low.into()).and(self.lt_eq(high.into()))
    }

    /// Whether it is one of `list`.
    ///
    /// ```
    /// use mobula_data::col;
    /// assert_eq!(col("flag").is_in(["Y", "N"]).to_string(), "flag in (\"Y\", \"N\")");
    /// ```
    #[must_use]
    pub fn is_in(self, list: impl IntoIterator<Item = impl Into<Expr>>) -> Expr {
        self.member(list.into_iter().map(Into::into).collect(), false)
    }

    /// Whether it is none of `list`; null if a null is in the list, as in SQL.
    #[must_use]
    pub fn not_in(self, list: impl IntoIterator<Item = impl Into<Expr>>) -> Expr {
        self.member(list.into_iter().map(Into::into).collect(), true)
    }

    /// The place of it in `list`, from 0; null where it is none of them. However long the list of
    /// constants is, every value is looked up once.
    ///
    /// ```
    /// use mobula_data::col;
    /// assert_eq!(col("size").index_of(["S", "M"]).to_string(), "index_of(size, \"S\", \"M\")");
    /// ```
    #[must_use]
    pub fn index_of(self, list: impl IntoIterator<Item = impl Into<Expr>>) -> Expr {
        self.first_of("index_of", list)
    }

    /// As [`index_of`](Self::index_of), where a value that is none of `list` is an error when the
    /// plan runs. Null stays null.
    #[must_use]
    pub fn index_of_known(self, list: impl IntoIterator<Item = impl Into<Expr>>) -> Expr {
        self.first_of("index_of_known", list)
    }

    pub(crate) fn member(self, list: Vec<Expr>, negated: bool) -> Expr {
        Expr::InList { expr: Box::new(self), list, negated }
    }

    /// `value` where it is null. NaN is a number here, and stays.
    #[must_use]
    pub fn fill_null(self, value: impl Into<Expr>) -> Expr {
        self.coalesce([value])
    }

    /// The first of it and `others` that is not null.
    #[must_use]
    pub fn coalesce(self, others: impl IntoIterator<Item = impl Into<Expr>>) -> Expr {
        self.first_of("coalesce", others)
    }

    /// The greatest of it and `others`; nulls do not count unless all are.
    #[must_use]
    pub fn greatest(self, others: impl IntoIterator<Item = impl Into<Expr>>) -> Expr {
        self.first_of("greatest", others)
    }

    /// The least of it and `others`; nulls do not count unless all are.
    #[must_use]
    pub fn least(self, others: impl IntoIterator<Item = impl Into<Expr>>) -> Expr {
        self.first_of("least", others)
    }

    fn first_of(self, name: &str, others: impl IntoIterator<Item = impl Into<Expr>>) -> Expr {
        func(name, std::iter::once(self).chain(others.into_iter().map(Into::into)))
    }
}
