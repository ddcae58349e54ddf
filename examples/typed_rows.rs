//! Functions of a dataset may speak of rows as types of their own, or of columns as arrays.
//!
//! ```text
//! cargo run --example typed_rows
//! ```

use std::error::Error;

use mobula::{Config, FormatError, NdColumns, Rows, from_rows, remote};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Trip {
    zone: String,
    fare: f64,
    tip: Option<f64>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Paid {
    zone: String,
    total: f64,
}

/// Called with one row after the other. One that gives a `Vec` is for `flat_map`, one that says
/// `bool` for `filter_rows`.
#[remote(rows)]
fn paid(trip: Trip) -> Paid {
    Paid { total: trip.fare + trip.tip.unwrap_or(0.0), zone: trip.zone }
}

/// Called with the rows of a batch.
#[remote]
fn without_outliers(trips: Rows<Paid>, times_mean: f64) -> Rows<Paid> {
    let mean = trips.iter().map(|trip| trip.total).sum::<f64>() / trips.len() as f64;
    trips.filter(|trip| trip.total <= times_mean * mean)
}

/// Called with the columns of a batch, which it reads in place.
#[remote]
fn in_euros(mut trips: NdColumns, rate: f64) -> Result<NdColumns, FormatError> {
    let euros = &trips.view::<f64>("total")? * rate;
    trips.insert("euros", euros)?;
    Ok(trips)
}

#[mobula::main]
fn main() -> Result<(), Box<dyn Error>> {
    let session = mobula::init(Config::from_env()?)?;
    let trip = |zone: &str, fare, tip| Trip { zone: zone.to_owned(), fare, tip };
    let trips = from_rows([
        trip("JFK", 52.0, Some(8.0)),
        trip("EWR", 17.5, None),
        trip("JFK", 70.0, Some(10.0)),
        trip("LGA", 900.0, None),
    ]);

    let dear = trips.map(paid).map_batches(without_outliers.with(2.0));
    dear.clone().map_batches(in_euros.with(0.92)).show(10)?;
    let rows: Vec<Paid> = dear.to_rows()?;
    assert_eq!(rows[0], Paid { zone: "JFK".to_owned(), total: 60.0 });
    assert_eq!(rows.len(), 3);

    session.shutdown();
    Ok(())
}
