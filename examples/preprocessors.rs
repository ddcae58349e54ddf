//! What is learned of a table once is done to its rows for training, and to each that is served.
//!
//! ```text
//! cargo run --example preprocessors
//! ```

use std::error::Error;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float64Array, RecordBatch, StringArray};
use arrow::error::ArrowError;
use mobula::preprocessors::{Chain, Concatenator, Fill, OneHotEncoder, Preprocessor, SimpleImputer, StandardScaler};
use mobula::{Config, DatasetShard, IterOptions, RunError, from_batches, remote};

/// Ages, incomes and cities; some did not tell their age.
fn people(from: u32) -> Result<RecordBatch, ArrowError> {
    let numbers = from..from + 500;
    let age = |n: u32| (n % 50 != 7).then(|| f64::from(18 + n * 7 % 60));
    let ages = numbers.clone().map(age).collect::<Float64Array>();
    let incomes = Float64Array::from_iter_values(numbers.clone().map(|n| f64::from(20_000 + n * 911 % 70_000)));
    let cities = numbers.map(|n| Some(["Berlin", "Lima", "Osaka"][n as usize % 3])).collect::<StringArray>();
    let columns: [(&str, ArrayRef); 3] =
        [("age", Arc::new(ages)), ("income", Arc::new(incomes)), ("city", Arc::new(cities))];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true)))
}

/// A worker that would train a model; this one looks at its rows.
struct Trainer {
    rows: DatasetShard,
}

#[remote]
impl Trainer {
    fn new(rows: DatasetShard) -> Self {
        Self { rows }
    }

    fn epoch(&mut self) -> Result<String, RunError> {
        let (mut batches, mut rows, mut width) = (0, 0, 0);
        for batch in self.rows.iter_batches(IterOptions { batch_size: 128, ..IterOptions::default() })? {
            let batch = batch?;
            width = batch.column(0).as_fixed_size_list().value_length();
            rows += batch.num_rows();
            batches += 1;
        }
        Ok(format!("{rows} rows of {width} features in {batches} batches"))
    }
}

#[mobula::main]
fn main() -> Result<(), Box<dyn Error>> {
    let session = mobula::init(Config::from_env()?)?;
    let people = from_batches([people(0)?, people(500)?]);
    println!("people:");
    people.show(3)?;

    let chain = Chain::new()
        .then(SimpleImputer::new("age", Fill::Median))
        .then(StandardScaler::new(["age", "income"]))
        .then(OneHotEncoder::new("city"));
    let (fitted, scaled) = chain.fit_transform(&people)?;
    println!("\nas the plan transforms them:\n{scaled}\n");
    scaled.show(3)?;

    // One list of numbers for each row, in shards for two actors: the same number of rows for each.
    let columns = ["age", "income", "city_Berlin", "city_Lima", "city_Osaka"];
    let (_, features) = Concatenator::new(columns, "features").float32().fit_transform(&scaled)?;
    let shards = features.streaming_split(2, true)?;
    let trainers: Vec<_> = shards.into_iter().map(Trainer::remote).collect();
    for epoch in mobula::get(&trainers.iter().map(|trainer| trainer.epoch().remote()).collect::<Vec<_>>())? {
        println!("a trainer saw {epoch}");
    }

    // What was learned is plain data, and goes where the model goes: there it needs no session.
    let served = mobula::get(&mobula::put(fitted)?)?;
    session.shutdown();
    let one = served.transform_batch(&one_person()?)?;
    println!("\none person as the model sees them:\n{:?}", one.columns());
    Ok(())
}

fn one_person() -> Result<RecordBatch, ArrowError> {
    Ok(people(7)?.slice(0, 1))
}
