//! Rows with equal keys are a group: aggregates make one row of each, a function whatever it likes.
//!
//! ```text
//! cargo run --example group_by
//! ```

use std::error::Error;

use arrow::array::{AsArray, RecordBatch, UInt32Array};
use arrow::compute::{max, take_record_batch};
use arrow::datatypes::Int64Type;
use arrow::error::ArrowError;
use mobula::aggregate::{count, max as greatest, mean, quantile, sum};
use mobula::{Config, SortKey, col, lit, range, remote};

/// Given all rows of a group at once: those with the most passengers.
#[remote]
fn fullest(group: RecordBatch) -> Result<RecordBatch, ArrowError> {
    let passengers = group.column(group.schema().index_of("passengers")?).as_primitive::<Int64Type>();
    let most = max(passengers);
    let rows = (0..).zip(passengers).filter(|(_, of_row)| *of_row == most).map(|(row, _)| row);
    take_record_batch(&group, &UInt32Array::from_iter_values(rows))
}

#[mobula::main]
fn main() -> Result<(), Box<dyn Error>> {
    let session = mobula::init(Config::from_env()?)?;

    // Ten thousand rides, made up by their numbers.
    let rides = range(10_000)
        .with_column("zone", (col("id") * lit(7)) % lit(5))
        .with_column("passengers", (col("id") * lit(31)) % lit(1_201) / lit(200))
        .with_column("fare", lit(3.0) + col("zone") * lit(1.5) + (col("id") % lit(97)) * lit(0.25));

    println!("fares by zone, the dearest first:");
    rides
        .clone()
        .group_by("zone")
        .aggregate([count().alias("rides"), mean("fare"), quantile("fare", 0.9), greatest("fare")])
        .sort(SortKey::descending("mean(fare)"))
        .show(10)?;

    println!("\nthe same for all rides together:");
    let all = rides.aggregate([count(), sum("passengers"), mean("fare")])?;
    mobula::from_batches([all]).show(1)?;

    println!("\nthe fullest rides of each zone:");
    let full = rides.group_by("zone").map_groups(fullest);
    full.clone().show(5)?;
    println!("\n{} of them, by this plan:\n{}", full.count()?, full.plan());

    session.shutdown();
    Ok(())
}
