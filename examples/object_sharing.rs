//! One large object, written once and read in place by many tasks.
//!
//! ```text
//! cargo run --example object_sharing
//! ```

use std::time::Instant;

use mobula::{Array, Config, Error, get, put, remote};

/// 64 MiB of numbers.
const LENGTH: usize = 8 << 20;

/// A slice parameter borrows from the object store: this task copies nothing.
#[remote]
fn sum_of_part(numbers: &[f64], part: u64, parts: u64) -> f64 {
    let length = numbers.len() / parts as usize;
    numbers[part as usize * length..][..length].iter().sum()
}

/// Where the numbers lie in the memory of the process that runs the task.
#[remote]
fn where_it_lies(numbers: &[f64]) -> u64 {
    numbers.as_ptr() as u64
}

#[mobula::main]
fn main() -> Result<(), Error> {
    let session = mobula::init(Config::from_env()?)?;
    let numbers: Vec<f64> = (0..LENGTH).map(|i| (i % 1000) as f64).collect();
    let expected: f64 = numbers.iter().sum();

    let started = Instant::now();
    let object = put(numbers)?;
    println!("put {} MiB in {:.1?}", (LENGTH * 8) >> 20, started.elapsed());

    // The object is passed by reference to eight tasks; none of them has a copy of its own.
    let parts: Vec<_> = (0..8).map(|part| sum_of_part.remote(&object, part, 8)).collect();
    let sum: f64 = get(&parts)?.into_iter().sum();
    assert_eq!(sum, expected);
    println!("eight tasks summed it up: {sum}");

    // In one process even the addresses agree: the driver and the tasks read the same memory.
    let started = Instant::now();
    let here: Array<f64> = get(object.as_array())?;
    println!("got it in {:.1?}, without a copy", started.elapsed());
    let there = get(&[where_it_lies.remote(&object), where_it_lies.remote(&object)])?;
    println!("the driver reads it at {:#x}, two tasks at {:#x} and {:#x}", here.as_ptr() as u64, there[0], there[1]);
    assert!(there.iter().all(|address| *address == here.as_ptr() as u64));

    // A vector of its own is a copy, and costs one.
    let started = Instant::now();
    let copy: Vec<f64> = get(&object)?;
    println!("a copy of the {} numbers took {:.1?}", copy.len(), started.elapsed());

    session.shutdown();
    Ok(())
}
