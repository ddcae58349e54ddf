//! Two tables become one by their keys.
//!
//! ```text
//! cargo run --example join
//! ```

use std::error::Error;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use mobula::aggregate::{count, mean};
use mobula::{Config, JoinKind, SortKey, col, from_batches, lit, range};

#[mobula::main]
fn main() -> Result<(), Box<dyn Error>> {
    let session = mobula::init(Config::from_env()?)?;

    let rides = range(10_000)
        .with_column("zone", col("id") % lit(6))
        .with_column("fare", lit(3.0) + col("zone") * lit(1.5) + (col("id") % lit(97)) * lit(0.25));
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![0, 1, 2, 3, 9]));
    let names: ArrayRef = Arc::new(StringArray::from(vec!["Harbour", "Old Town", "Airport", "Station", "Hills"]));
    let zones = from_batches([RecordBatch::try_from_iter([("zone", numbers), ("name", names)])?]);

    // The small side is given to every task whole; two large sides would be partitioned by their keys.
    let named = rides.clone().join(zones.clone(), JoinKind::Inner, "zone", "zone");
    println!("the plan:\n{}\n", named.plan());
    println!("fares by the name of the zone:");
    named
        .group_by("name")
        .aggregate([count().alias("rides"), mean("fare").alias("fare")])
        .sort(SortKey::descending("fare"))
        .show(10)?;

    let of_kind = |kind| rides.clone().join(zones.clone(), kind, "zone", "zone");
    println!("\nrides in zones without a name: {}", of_kind(JoinKind::Anti).count()?);
    println!("and with null for the name: {}", of_kind(JoinKind::Left).filter(col("name").is_null()).count()?);
    println!("zones without rides:");
    zones.join(rides, JoinKind::Anti, "zone", "zone").show(5)?;

    session.shutdown();
    Ok(())
}
