//! Several actors share a list of work: each takes the next piece as soon as it is free.
//!
//! ```text
//! cargo run --example actor_pool
//! ```

use mobula::{ActorPool, Config, Error, remote};

/// Something that is costly to make and used again and again.
struct Sieve {
    primes: Vec<u64>,
}

#[remote]
impl Sieve {
    fn new(up_to: u64) -> Self {
        let mut primes: Vec<u64> = Vec::new();
        for number in 2..=up_to {
            if primes.iter().all(|prime| number % prime != 0) {
                primes.push(number);
            }
        }
        Self { primes }
    }

    /// The prime factors of a number, as far as they are in the sieve.
    fn factors(&self, mut number: u64) -> Vec<u64> {
        let mut factors = Vec::new();
        for prime in &self.primes {
            while number.is_multiple_of(*prime) {
                factors.push(*prime);
                number /= prime;
            }
        }
        factors
    }
}

#[mobula::main]
fn main() -> Result<(), Error> {
    let session = mobula::init(Config::from_env()?)?;
    let mut pool = ActorPool::new((0..3).map(|_| Sieve::remote(1_000)));

    // Results come in the order of the numbers, whoever found them.
    let numbers = 360_360..360_370;
    for (number, factors) in numbers.clone().zip(pool.map(|sieve, n| sieve.factors().remote(n), numbers)) {
        println!("{number} = {:?}", factors?);
    }

    // Or one by one: what is ready first.
    for number in [997, 1_001, 999_000] {
        pool.submit(move |sieve| sieve.factors().remote(number));
    }
    while let Some(factors) = pool.get_next_unordered()? {
        println!("the factors of one of them: {factors:?}");
    }

    session.shutdown();
    Ok(())
}
