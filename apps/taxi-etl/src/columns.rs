//! What the TLC calls its columns.
//!
//! Yellow and green files of different months differ in the case of names, in types, and in
//! the prefix of the two times. [`matching`] tells the reader how to make one schema of them:
//!
//! - names have the TLC's canonical case, in the order of the yellow files, followed by what
//!   only green files have;
//! - runs over one kind keep its names (`tpep_pickup_datetime` or `lpep_pickup_datetime`); in
//!   runs over both kinds the columns are `pickup_datetime` and `dropoff_datetime`;
//! - times are wall-clock times in microseconds without a zone;
//! - a column that only some files have is null for the others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use mobula_data::expr::ValueType;
use mobula_data::schema::{ColumnName, ColumnSource, Matching};
use mobula_data::source::OpenedFiles;

/// The names of the pickup and the dropoff time, in runs over both kinds and in either kind.
const PICKUP: [&str; 3] = ["pickup_datetime", "tpep_pickup_datetime", "lpep_pickup_datetime"];
const DROPOFF: [&str; 3] = ["dropoff_datetime", "tpep_dropoff_datetime", "lpep_dropoff_datetime"];

/// How columns of trip files are matched.
#[must_use]
pub fn matching() -> Matching {
    let yellow = YELLOW.iter().map(|(name, kind)| match *name {
        "tpep_pickup_datetime" => column(&PICKUP, *kind),
        "tpep_dropoff_datetime" => column(&DROPOFF, *kind),
        name => column(&[name], *kind),
    });
    let green = GREEN_ONLY.iter().map(|(name, kind)| column(&[name], *kind));
    Matching {
        ignore_case: true,
        names: yellow.chain(green).collect(),
        required: ["fare_amount", "trip_distance", PICKUP[0], DROPOFF[0]].map(str::to_owned).to_vec(),
        microseconds: true,
    }
}

/// What the two times are called in `schema`.
#[must_use]
pub fn times(schema: &Schema) -> Option<(&'static str, &'static str)> {
    let find = |names: [&'static str; 3]| names.into_iter().find(|name| schema.index_of(name).is_ok());
    Some((find(PICKUP)?, find(DROPOFF)?))
}

/// Columns that have another name than in some file, case aside, with their names there.
#[must_use]
pub fn renamed(opened: &OpenedFiles) -> BTreeMap<String, BTreeSet<String>> {
    let mut renamed: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (file, places) in opened.files.iter().zip(&opened.unified.columns) {
        for (field, place) in opened.unified.schema.fields().iter().zip(places) {
            let ColumnSource::File(index) = place else { continue };
            let Some(found) = file.schema.fields().get(*index as usize) else { continue };
            if !found.name().eq_ignore_ascii_case(field.name()) {
                renamed.entry(field.name().clone()).or_default().insert(found.name().clone());
            }
        }
    }
    renamed
}

/// The schema of a yellow file as the TLC published it in January 2023.
#[must_use]
pub fn yellow_schema() -> SchemaRef {
    let field = |(name, kind): &(&str, ValueType)| {
        let data_type = match kind {
            ValueType::Float64 => DataType::Float64,
            ValueType::String => DataType::Utf8,
            ValueType::TimestampUs => DataType::Timestamp(TimeUnit::Microsecond, None),
            _ => DataType::Int64,
        };
        Field::new(*name, data_type, true)
    };
    Arc::new(Schema::new(YELLOW.iter().map(field).collect::<Vec<_>>()))
}

fn column(names: &[&str], kind: ValueType) -> ColumnName {
    ColumnName {
        name: names[0].into(),
        aliases: names[1..].iter().map(|name| (*name).into()).collect(),
        default_type: Some(kind),
    }
}

const YELLOW: [(&str, ValueType); 19] = [
    ("VendorID", ValueType::Int64),
    ("tpep_pickup_datetime", ValueType::TimestampUs),
    ("tpep_dropoff_datetime", ValueType::TimestampUs),
    ("passenger_count", ValueType::Float64),
    ("trip_distance", ValueType::Float64),
    ("RatecodeID", ValueType::Float64),
    ("store_and_fwd_flag", ValueType::String),
    ("PULocationID", ValueType::Int64),
    ("DOLocationID", ValueType::Int64),
    ("payment_type", ValueType::Int64),
    ("fare_amount", ValueType::Float64),
    ("extra", ValueType::Float64),
    ("mta_tax", ValueType::Float64),
    ("tip_amount", ValueType::Float64),
    ("tolls_amount", ValueType::Float64),
    ("improvement_surcharge", ValueType::Float64),
    ("total_amount", ValueType::Float64),
    ("congestion_surcharge", ValueType::Float64),
    ("airport_fee", ValueType::Float64),
];

const GREEN_ONLY: [(&str, ValueType); 2] = [("ehail_fee", ValueType::Float64), ("trip_type", ValueType::Int64)];
