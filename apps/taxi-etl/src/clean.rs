//! Which trips are kept, and what is added to them.
//!
//! Entry types: [`clean`], the dataset of the cleaning: trips whose fare and distance are real,
//! and their duration; and [`prepare_for_model`], the features of a model of their fares. A null
//! fare or distance is as bad as a small one, and counted with it.

use arrow::datatypes::Schema;
use mobula::{DataError, Dataset, Expr, Paths, ValueType, col, lit, read_parquet};
use serde::{Deserialize, Serialize};

use crate::columns;

/// What a trip must have to be kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// The least fare, in dollars; the meter starts above it.
    pub min_fare: f64,
    /// The distance, in miles, must be greater.
    pub distance_above: f64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { min_fare: 2.5, distance_above: 0.0 }
    }
}

/// The trips of these files, unified.
pub fn read(paths: impl Paths) -> Dataset {
    read_parquet(paths).matching(columns::matching())
}

/// Cleans `trips`, whose columns are `schema`.
pub fn clean(trips: Dataset, schema: &Schema, limits: &Limits) -> Result<Dataset, DataError> {
    let Some((pickup, dropoff)) = columns::times(schema) else {
        return Err(DataError::UnknownColumn {
            operator: "clean".into(),
            column: "pickup_datetime or dropoff_datetime".into(),
            available: schema.fields().iter().map(|f| f.name().clone()).collect(),
        });
    };
    let kept = rules(limits).into_iter().fold(trips, Dataset::filter);
    Ok(kept.with_column(DURATION, col(dropoff).minutes_since(col(pickup))))
}

/// What [`clean`] asks of a trip, in this order.
#[must_use]
pub fn rules(limits: &Limits) -> Vec<Expr> {
    vec![col("fare_amount").gt_eq(lit(limits.min_fare)), col("trip_distance").gt(lit(limits.distance_above))]
}

/// What [`prepare_for_model`] asks of a trip after that.
#[must_use]
pub fn model_rules() -> Vec<Expr> {
    vec![col("fare_amount").lt_eq(lit(MAX_FARE)), col("trip_distance").lt_eq(lit(MAX_DISTANCE))]
}

/// The features of a model of fares, and the fare itself: eight columns and the target, of the
/// trips of `clean` that are no outliers. Times are those on the wall; weeks begin with Monday,
/// which is 0. What is null in the input stays null.
pub fn prepare_for_model(trips: Dataset, schema: &Schema, limits: &Limits) -> Result<Dataset, DataError> {
    let pickup = columns::times(schema).map(|(pickup, _)| pickup).unwrap_or_default();
    let cleaned = clean(trips, schema, limits)?;
    let mut prepared = model_rules()
        .into_iter()
        .fold(cleaned, Dataset::filter)
        .with_column("pickup_hour", col(pickup).hour())
        .with_column("pickup_dow", col(pickup).day_of_week())
        .select(FEATURES.into_iter().chain([TARGET]).collect::<Vec<_>>());
    for whole in ["RatecodeID", "PULocationID", "DOLocationID", "pickup_hour", "pickup_dow", "passenger_count"] {
        prepared = prepared.cast(whole, ValueType::Int64);
    }
    Ok(prepared)
}

/// What a model of fares is told of a trip.
pub const FEATURES: [&str; 8] = [
    "trip_distance",
    DURATION,
    "RatecodeID",
    "PULocationID",
    "DOLocationID",
    "pickup_hour",
    "pickup_dow",
    "passenger_count",
];
/// What it predicts, in dollars.
pub const TARGET: &str = "fare_amount";
/// A fare above this, in dollars, is an outlier.
const MAX_FARE: f64 = 300.0;
/// A distance above this, in miles, is an outlier.
const MAX_DISTANCE: f64 = 60.0;

/// The column that cleaning adds: minutes from pickup to dropoff.
pub const DURATION: &str = "trip_duration_min";
