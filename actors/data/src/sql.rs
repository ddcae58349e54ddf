//! A query in SQL, as a plan.
//!
//! Entry point: [`sql`]. DataFusion parses the query and finds out what its names mean; the plan
//! it makes is then translated into ours, operator by operator, and runs like any other. Nothing
//! is optimised here and nothing is read: a table is a plan and the columns it will have.
//!
//! ```text
//! text --sqlparser--> syntax --names--> syntax --DataFusion--> its plan --relation--> our plan
//! ```
//!
//! What there is: `select` with expressions, `distinct`, `where`, `group by`, `having`,
//! `order by` and `limit`; `join` by equal keys, `union all`, queries in `from`, `with` and
//! `in (select ..)`. What there is not is refused by its name: window functions, correlated
//! queries, `offset`, and whatever [`DataError::InvalidPlan`] says.
//!
//! Names that are not quoted may be written in any case. A column is called what `as` says, or
//! like the column it is, or as its expression is written: `sum(fare)`. Nulls are sorted last unless
//! `nulls first` says otherwise. `timestamp` counts in microseconds.

use arrow::datatypes::SchemaRef;
use datafusion_common::{DataFusionError, SchemaError};
use datafusion_sql::planner::{NullOrdering, ParserOptions, SqlToRel};
use datafusion_sql::sqlparser::ast::{Query, Statement};
use datafusion_sql::sqlparser::dialect::{Dialect, GenericDialect};
use datafusion_sql::sqlparser::keywords::Keyword;
use datafusion_sql::sqlparser::parser::{Parser, ParserError};
use datafusion_sql::sqlparser::tokenizer::{Token, Tokenizer};

use crate::error::DataError;
use crate::expr::Kind;
use crate::plan::LogicalPlan;
use crate::storage::error_within;
use crate::words::plain;

mod aggregate;
mod careful;
mod context;
mod expr;
mod join;
mod names;
mod relation;
mod syntax;
#[cfg(test)]
mod tests;

use context::Context;
use relation::Converter;

/// The plan for `query` over `tables`: their names, where their rows come from, and the columns
/// those have.
///
/// # Errors
/// [`DataError::InvalidPlan`] with the operator `sql` where the query cannot be read (with line and
/// column) or asks for what there is not, and [`DataError::UnknownColumn`]. Types are checked when
/// the plan is.
///
/// ```
/// use std::sync::Arc;
/// use arrow::datatypes::{DataType, Field, Schema};
/// use mobula_data::plan::LogicalPlan;
/// let schema = Schema::new(vec![Field::new("PULocationID", DataType::Int64, true)]);
/// let trips = LogicalPlan::read_parquet(["trips/*.parquet"]);
/// let query = "select pulocationid as zone, count(*) as trips from trips group by 1";
/// let plan = mobula_data::sql::sql(query, &[("trips", trips, Arc::new(schema))]).unwrap();
/// let lines = [
///     "project zone = PULocationID, trips = `count(*)`",
///     "  group_by PULocationID: count() as count(*)",
///     "    read_parquet trips/*.parquet",
/// ];
/// assert_eq!(plan.to_string(), lines.join("\n"));
/// ```
pub fn sql(query: &str, tables: &[(&str, LogicalPlan, SchemaRef)]) -> Result<LogicalPlan, DataError> {
    plan(query, tables, &GenericDialect {})
}

/// Like [`sql`], with another way to write names and texts.
fn plan(
    query: &str,
    tables: &[(&str, LogicalPlan, SchemaRef)],
    dialect: &(dyn Dialect + Sync),
) -> Result<LogicalPlan, DataError> {
    // Parser and planner call themselves for every level of a query, and need more stack for it
    // than the threads have that call this.
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("sql".into()).stack_size(STACK_BYTES);
        let planned = thread.spawn_scoped(scope, || plan_here(query, tables, dialect));
        let planned = planned.map_err(|e| invalid(format!("no thread to read the query: {e}")))?;
        planned.join().unwrap_or_else(|_| Err(invalid("the query could not be understood: the planner failed")))
    })
}

fn plan_here(
    query: &str,
    tables: &[(&str, LogicalPlan, SchemaRef)],
    dialect: &dyn Dialect,
) -> Result<LogicalPlan, DataError> {
    let mut query = parse(query, dialect)?;
    names::settle(&mut query, tables)?;
    syntax::tidy(&mut query)?;
    let options = ParserOptions::new()
        .with_enable_ident_normalization(false)
        // Texts have one type here, and it is not this one.
        .with_map_string_types_to_utf8view(false)
        .with_default_null_ordering(NullOrdering::NullsLast);
    let planned = |context: &Context, query: Query| {
        SqlToRel::new_with_options(context, options).sql_statement_to_plan(Statement::Query(Box::new(query)))
    };
    let plan = planned(&Context::new(tables), query.clone()).map_err(|error| {
        // Where types do not fit, it is told with the names of what they are the types of.
        let careful = planned(&Context::careful(tables), careful::with_all_asked(query)).err();
        careful.and_then(|careful| error_within(&careful)).unwrap_or_else(|| planning_error(&error))
    })?;
    Converter::new(tables).query(&plan)
}

fn parse(query: &str, dialect: &dyn Dialect) -> Result<Query, DataError> {
    let tokens = Tokenizer::new(dialect, query).tokenize_with_location().map_err(|e| invalid(e.to_string()))?;
    let operators = tokens.iter().filter(|token| chains(&token.token)).count();
    if operators > OPERATORS {
        return Err(invalid(format!(
            "{operators} operators, where {OPERATORS} can be used: write in (..) for a chain of or, or join with a table"
        )));
    }
    let mut statements = Parser::new(dialect)
        .with_recursion_limit(NESTING)
        .with_tokens_with_locations(tokens)
        .parse_statements()
        .map_err(|e| invalid(parse_error(e)))?;
    match (statements.pop(), statements.is_empty()) {
        (Some(Statement::Query(query)), true) => Ok(*query),
        (Some(_), true) => Err(invalid("only a query (select ..) can be run")),
        (Some(_), false) => Err(invalid("there is more than one statement: run one query at a time")),
        (None, _) => Err(invalid("there is no query")),
    }
}

/// Whether a token makes an expression or a query deeper without any parentheses.
fn chains(token: &Token) -> bool {
    match token {
        Token::Word(word) => {
            matches!(word.keyword, Keyword::AND | Keyword::OR | Keyword::NOT | Keyword::UNION | Keyword::JOIN)
        }
        Token::Plus | Token::Minus | Token::Mul | Token::Div | Token::Mod | Token::StringConcat => true,
        Token::DoubleColon => true,
        _ => false,
    }
}

fn parse_error(error: ParserError) -> String {
    match error {
        ParserError::TokenizerError(cause) | ParserError::ParserError(cause) => match cause.strip_suffix("EOF") {
            Some(expected) => format!("{expected}the end of the query"),
            None => cause,
        },
        ParserError::RecursionLimitExceeded => format!("expressions nested more than {NESTING} deep"),
    }
}

/// What DataFusion says of a query, in our terms.
fn planning_error(error: &DataFusionError) -> DataError {
    if let DataFusionError::SchemaError(error, _) = error.find_root() {
        match error.as_ref() {
            SchemaError::FieldNotFound { field, valid_fields } => {
                // The table is told where there is another one, or was named.
                let one_table = valid_fields.windows(2).all(|pair| pair[0].relation == pair[1].relation);
                let short = field.relation.is_none() && one_table;
                return DataError::UnknownColumn {
                    operator: OPERATOR.into(),
                    column: qualified(field),
                    available: valid_fields.iter().map(|c| if short { c.name.clone() } else { qualified(c) }).collect(),
                };
            }
            SchemaError::AmbiguousReference { field } => {
                return invalid(format!(
                    "column {0} is in more than one table: write table.{0}, with the table that is meant",
                    field.name
                ));
            }
            _ => {}
        }
    }
    let text = plain(error.find_root());
    invalid(no_condition(&text).unwrap_or(text))
}

/// What DataFusion says of a condition that is not true or false, in our words.
fn no_condition(text: &str) -> Option<String> {
    let (condition, data_type) = text.strip_prefix(NO_CONDITION)?.rsplit_once("' returning ")?;
    let kind = Kind::of(&data_type.parse().ok()?);
    Some(format!("{condition} is {} where true or false is needed", kind.describe()))
}

/// A column as a query may name it.
fn qualified(column: &datafusion_common::Column) -> String {
    match &column.relation {
        Some(table) => format!("{table}.{}", column.name),
        None => column.name.clone(),
    }
}

/// A query that cannot be a plan.
fn invalid(cause: impl Into<String>) -> DataError {
    DataError::InvalidPlan { operator: OPERATOR.into(), cause: cause.into() }
}

/// What is not there, and what would do instead.
fn unsupported(what: &str, instead: &str) -> DataError {
    let dot = if instead.is_empty() { "" } else { ": " };
    invalid(format!("{what} cannot be used{dot}{instead}"))
}

/// The operator that errors name.
const OPERATOR: &str = "sql";

/// How deep expressions and queries may be nested by parentheses.
const NESTING: usize = 100;

/// How many operators a query may have that can follow on one another without an end.
const OPERATORS: usize = 2000;

/// Enough for a query with as many levels as there may be, in a build without optimisation. Only
/// what is used is taken.
const STACK_BYTES: usize = 256 << 20;

/// How DataFusion begins to say that a condition is none.
const NO_CONDITION: &str = "Cannot create filter with non-boolean predicate '";
