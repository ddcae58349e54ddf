//! taxi-etl
fn main() {}
