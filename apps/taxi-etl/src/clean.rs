//! Which trips are kept, and what is added to them.
//!
//! Entry type: [`clean`], the dataset of the cleaning: trips whose fare and distance are real, and
//! their duration. A null fare or distance is as bad as a small one, and counted with it.

use arrow::datatypes::Schema;
use mobula::{DataError, Dataset, Paths, col, lit, read_parquet};
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
    Ok(trips
        .filter(col("fare_amount").gt_eq(lit(limits.min_fare)))
        .filter(col("trip_distance").gt(lit(limits.distance_above)))
        .with_column(DURATION, col(dropoff).minutes_since(col(pickup))))
}

/// The column that cleaning adds: minutes from pickup to dropoff.
pub const DURATION: &str = "trip_duration_min";
