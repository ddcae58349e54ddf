//! What DataFusion asks about while it finds out what a query means.
//!
//! Entry type: [`Context`]: the tables there are, the functions and the types.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, FieldRef, SchemaRef};
use datafusion_common::config::ConfigOptions;
use datafusion_common::datatype::DataTypeExt;
use datafusion_common::{DataFusionError, Result, TableReference};
use datafusion_expr::logical_plan::builder::LogicalTableSource;
use datafusion_expr::planner::{ContextProvider, ExprPlanner, TypePlanner};
use datafusion_expr::{AggregateUDF, HigherOrderUDF, ScalarUDF, TableSource, WindowUDF};
use datafusion_functions::core::planner::CoreFunctionPlanner;
use datafusion_functions::datetime::planner::DatetimeFunctionPlanner;
use datafusion_functions::unicode::planner::UnicodeFunctionPlanner;
use datafusion_functions_aggregate::all_default_aggregate_functions;
use datafusion_functions_aggregate::planner::AggregateFunctionPlanner;
use datafusion_sql::sqlparser::ast::{DataType as SqlType, TimezoneInfo};

use super::careful::{self, Operands};
use crate::expr::{self, ValueType};
use crate::plan::LogicalPlan;
use crate::words::Known;

/// The tables, functions and types that a query may use.
pub(super) struct Context {
    tables: BTreeMap<String, Arc<dyn TableSource>>,
    planners: Vec<Arc<dyn ExprPlanner>>,
    options: ConfigOptions,
    /// Types are looked at before DataFusion does.
    careful: bool,
}

impl Context {
    /// The same, which says in our words which types do not fit.
    pub(super) fn careful(tables: &[(&str, LogicalPlan, SchemaRef)]) -> Self {
        let mut context = Self::new(tables);
        context.planners.insert(0, Arc::new(Operands::new()));
        context.careful = true;
        context
    }

    pub(super) fn new(tables: &[(&str, LogicalPlan, SchemaRef)]) -> Self {
        let source = |schema: &SchemaRef| Arc::new(LogicalTableSource::new(Arc::clone(schema))) as Arc<dyn TableSource>;
        Self {
            tables: tables.iter().map(|(name, _, schema)| ((*name).to_owned(), source(schema))).collect(),
            planners: vec![
                Arc::new(CoreFunctionPlanner::default()),
                Arc::new(DatetimeFunctionPlanner),
                Arc::new(UnicodeFunctionPlanner),
                Arc::new(AggregateFunctionPlanner),
            ],
            options: ConfigOptions::default(),
            careful: false,
        }
    }
}

impl ContextProvider for Context {
    fn get_table_source(&self, name: TableReference) -> Result<Arc<dyn TableSource>> {
        self.tables.get(&name.to_string()).cloned().ok_or_else(|| {
            let (name, known) = (name.to_string(), self.tables.keys().cloned().collect::<Vec<_>>());
            DataFusionError::Plan(format!("there is no table {name}{}", Known::there_are(&name, &known)))
        })
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        &self.planners
    }

    fn get_type_planner(&self) -> Option<Arc<dyn TypePlanner>> {
        Some(Arc::new(Types))
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        let found = expr::function_named(name);
        if self.careful { found.map(careful::function) } else { found }
    }

    fn get_higher_order_meta(&self, _name: &str) -> Option<Arc<HigherOrderUDF>> {
        None
    }

    fn get_aggregate_meta(&self, name: &str) -> Option<Arc<AggregateUDF>> {
        let found = AGGREGATES.get(&name.to_ascii_lowercase()).cloned();
        if self.careful { found.map(careful::aggregate) } else { found }
    }

    fn get_window_meta(&self, _name: &str) -> Option<Arc<WindowUDF>> {
        None
    }

    fn get_variable_type(&self, _variable_names: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        &self.options
    }

    fn udf_names(&self) -> Vec<String> {
        expr::all_functions().map(|(name, _)| name.to_owned()).collect()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn udaf_names(&self) -> Vec<String> {
        AGGREGATES.keys().cloned().collect()
    }

    fn udwf_names(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Whether a query may call a function of this name, in small letters.
pub(super) fn is_function(name: &str) -> bool {
    AGGREGATES.contains_key(name) || expr::function_named(name).is_some()
}

/// By name and by every other name, in lower case.
static AGGREGATES: LazyLock<BTreeMap<String, Arc<AggregateUDF>>> = LazyLock::new(|| {
    let mut aggregates = BTreeMap::new();
    for function in all_default_aggregate_functions() {
        for name in std::iter::once(function.name()).chain(function.aliases().iter().map(String::as_str)) {
            aggregates.insert(name.to_ascii_lowercase(), Arc::clone(&function));
        }
    }
    aggregates
});

/// The types that expressions name as they print, besides those of SQL.
#[derive(Debug)]
struct Types;

impl TypePlanner for Types {
    fn plan_type_field(&self, sql_type: &SqlType) -> Result<Option<FieldRef>> {
        let local = |zone: &TimezoneInfo| matches!(zone, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone);
        let found = match sql_type {
            // DataFusion counts in nanoseconds, which end in the year 2262.
            SqlType::Timestamp(None, zone) if local(zone) => Some(ValueType::TimestampUs),
            SqlType::Datetime(_) => Some(ValueType::TimestampUs),
            SqlType::Custom(..)
            | SqlType::Int16
            | SqlType::Int32
            | SqlType::Int64
            | SqlType::UInt8
            | SqlType::UInt16
            | SqlType::UInt32
            | SqlType::UInt64
            | SqlType::Float32
            | SqlType::Float64
            | SqlType::Binary(None) => sql_type.to_string().parse().ok(),
            _ => None,
        };
        Ok(found.map(|found| found.to_arrow().into_nullable_field_ref()))
    }
}
