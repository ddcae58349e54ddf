//! A query over two datasets: it becomes a plan like any other, and runs where they would.

use std::error::Error;

use mobula::{Config, col, lit, range, sql, when};

#[mobula::main]
fn main() -> Result<(), Box<dyn Error>> {
    let session = mobula::init(Config::from_env()?)?;
    let trips = range(10_000)
        .with_column("zone", col("id") % lit(5))
        .with_column("fare", (col("id") % lit(97)).cast(mobula::ValueType::Float64) / lit(2.0));
    let name = when(col("id").lt(lit(3)), lit("Queens")).otherwise(lit("Bronx"));
    let zones = range(5).with_column("borough", name);

    let query = "select borough, count(*) as trips, round(avg(fare), 2) as fare
                 from trips join zones on trips.zone = zones.id
                 where fare > 1 group by borough order by fare desc";
    let busiest = sql(query, &[("trips", &trips), ("zones", &zones)])?;
    println!("{}\n", busiest.explain()?);
    busiest.show(5)?;

    // What is wrong with a query is told before anything runs.
    if let Err(error) = trips.sql("select fair from ds") {
        println!("{error}");
    }
    session.shutdown();
    Ok(())
}
