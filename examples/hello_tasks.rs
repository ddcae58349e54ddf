//! Functions become tasks: `f.remote(..)` returns at once with a reference to the result.
//!
//! ```text
//! cargo run --example hello_tasks
//! ```

use mobula::{Config, Error, ObjectRef, get, remote};

#[remote]
fn square(number: u64) -> u64 {
    number * number
}

#[remote]
fn sum(numbers: Vec<ObjectRef<u64>>) -> Result<u64, Error> {
    // References inside a value stay references: this task fetches them itself.
    Ok(get(&numbers)?.into_iter().sum())
}

#[remote]
fn add(a: u64, b: u64) -> u64 {
    a + b
}

#[remote]
fn square_root(number: f64) -> Result<f64, String> {
    if number < 0.0 { Err(format!("{number} has no real root")) } else { Ok(number.sqrt()) }
}

#[mobula::main]
fn main() -> Result<(), Error> {
    // Without an address this is a cluster of one, inside this process.
    let session = mobula::init(Config::from_env()?)?;

    // Eight tasks, all under way before the first is asked for.
    let squares: Vec<ObjectRef<u64>> = (1..=8).map(|number| square.remote(number)).collect();
    println!("the squares:            {:?}", get(&squares)?);

    // A reference can be an argument; the task starts when its value is there.
    let total = sum.remote(squares);
    let more = add.options().num_cpus(0.5).name("a little more").remote(&total, 100);
    println!("their sum, and 100 more: {} and {}", get(&total)?, get(&more)?);

    // A chain of 100 tasks, each waiting for the one before.
    let mut number = add.remote(0, 0);
    for _ in 0..100 {
        number = add.remote(number, 1);
    }
    println!("a chain of 100:          {}", get(number)?);

    // An error keeps its message and says where it happened.
    match get(square_root.remote(-4.0)) {
        Ok(root) => println!("the root is {root}"),
        Err(error) => println!("an error comes back:     {error}"),
    }
    // The plain function is still there.
    println!("called like any other:   {}", square.call(12));

    session.shutdown();
    Ok(())
}
