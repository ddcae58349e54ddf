//! Cleaning the trip records of New York's taxis, and making some up.
//!
//! The library behind the program `taxi-etl`: what trip files look like ([`columns`]), which
//! trips are kept ([`clean`]), running that on a cluster ([`run`]), how trips are generated
//! ([`generate`]), how a run is ended ([`interrupt`]) and how results are told ([`report`]).

pub mod calendar;
pub mod clean;
pub mod columns;
pub mod generate;
pub mod interrupt;
pub mod report;
pub mod run;
pub mod s3;
mod trips;
mod zones;
