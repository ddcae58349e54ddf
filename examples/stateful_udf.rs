//! A function of a dataset may keep a state that is costly to make: a model, a connection.
//!
//! ```text
//! cargo run --example stateful_udf
//! ```

use std::error::Error;

use mobula::{Config, MapOptions, Rows, col, range, remote};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Number {
    id: u64,
}

#[derive(Serialize, Deserialize)]
struct Judged {
    id: u64,
    prime: bool,
}

/// Stands for a model that takes long to load.
struct Sieve {
    composite: Vec<bool>,
}

#[remote]
impl Sieve {
    /// Runs once on each actor.
    fn new(up_to: usize) -> Self {
        let mut composite = vec![false; up_to];
        for number in 2..up_to {
            for multiple in (2 * number..up_to).step_by(number) {
                composite[multiple] = true;
            }
        }
        Self { composite }
    }

    /// What a dataset calls, again and again.
    fn call(&mut self, numbers: Rows<Number>) -> Rows<Judged> {
        numbers.map(|Number { id }| Judged { id, prime: id > 1 && !self.composite[id as usize] })
    }
}

#[mobula::main]
fn main() -> Result<(), Box<dyn Error>> {
    let session = mobula::init(Config::from_env()?)?;
    // One actor at first; a second one while blocks wait and there is room.
    let options = MapOptions::default().concurrency(1..=2).batch_size(1_000);
    let judged = range(20_000).repartition(8).map_batches_with(Sieve::with(20_000), options);
    println!("{judged}\n");
    let primes = judged.filter(col("prime")).count()?;
    println!("{primes} primes below 20000");
    assert_eq!(primes, 2262);
    session.shutdown();
    Ok(())
}
