//! Results that come one after the other, each as soon as it is made: a function that returns an
//! iterator. It never gets far ahead of whoever takes what it yields.
//!
//! ```text
//! cargo run --example streaming_results
//! ```

use mobula::{Config, Error, remote};

/// The primes from a number on, one after the other, without end.
#[remote(backpressure_num_objects = 4)]
fn primes(from: u64) -> impl Iterator<Item = u64> {
    (from.max(2)..).filter(|n| (2..).take_while(|d| d * d <= *n).all(|d| n % d != 0))
}

/// Fails on the way.
#[remote]
fn parse(text: String) -> impl Iterator<Item = Result<f64, std::num::ParseFloatError>> {
    text.split_whitespace().map(str::parse).collect::<Vec<_>>().into_iter()
}

#[mobula::main]
fn main() -> Result<(), Error> {
    let session = mobula::init(Config::from_env()?)?;

    // The stream is an iterator of references; each can be fetched, or passed on to other tasks.
    for prime in primes.remote(1_000_000).take(5) {
        println!("a prime: {}", mobula::get(&prime)?);
    }
    // Here the stream was dropped: the task has been told that nobody wants more, and ends.

    // An error is the last thing that comes.
    for number in parse.remote("0.5 1.5 many 3.5") {
        match mobula::get(&number) {
            Ok(number) => println!("a number: {number}"),
            Err(error) => println!("and then: {error}"),
        }
    }

    session.shutdown();
    Ok(())
}
