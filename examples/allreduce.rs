//! Actors that train one model together, each on rows of its own: a line through noisy points.
//!
//! ```text
//! cargo run --example allreduce
//!
//!   Fitter 0   rows 0, 4, 8 ..  ─▶ its gradient ─┐
//!   Fitter 1   rows 1, 5, 9 ..  ─▶ its gradient ─┤ allreduce ─▶ the sum, at all of them
//!   ...                                          │             ─▶ the same step
//! ```
//! No actor ever sees another one's rows, and all of them end with the same model, bit for bit.

use mobula::collective::{Group, GroupConfig, GroupError, ReduceOp};
use mobula::{Config, Error, get, remote};

const FITTERS: u32 = 4;
const ROWS: u32 = 10_000;
const ROUNDS: u32 = 60;

/// One of the actors: its rows and its copy of the model.
struct Fitter {
    group: Group,
    rows: Vec<(f64, f64)>,
    slope: f64,
    offset: f64,
}

#[remote]
impl Fitter {
    fn new(rank: u32) -> Result<Self, GroupError> {
        // Blocks until all of them have come.
        let group = Group::join(GroupConfig::new("fitters", FITTERS, rank))?;
        let rows = (rank..ROWS).step_by(FITTERS as usize).map(row).collect();
        Ok(Self { group, rows, slope: 0.0, offset: 0.0 })
    }

    /// Follows the gradient downhill; returns the model and the mean squared error before the last step.
    fn fit(&mut self, rounds: u32) -> Result<(f64, f64, f64), GroupError> {
        let mut error = f64::NAN;
        for _ in 0..rounds {
            // What is summed over all rows: how many, the gradient, the squared error.
            let mut sums = [self.rows.len() as f64, 0.0, 0.0, 0.0];
            for (x, y) in &self.rows {
                let off = self.slope * x + self.offset - y;
                sums[1] += off * x;
                sums[2] += off;
                sums[3] += off * off;
            }
            self.group.allreduce(&mut sums, ReduceOp::Sum)?;
            let [rows, by_slope, by_offset, squares] = sums;
            self.slope -= by_slope / rows;
            self.offset -= by_offset / rows;
            error = squares / rows;
        }
        Ok((self.slope, self.offset, error))
    }
}

/// A point near y = 3x - 1, with noise that depends on its number alone.
fn row(number: u32) -> (f64, f64) {
    let random = |salt: u32| f64::from((number ^ salt).wrapping_mul(2_654_435_761) >> 8) / f64::from(1 << 24);
    let x = 2.0 * random(0) - 1.0;
    (x, 3.0 * x - 1.0 + (random(0x9e37) - 0.5) / 5.0)
}

#[mobula::main]
fn main() -> Result<(), Error> {
    let session = mobula::init(Config::default().num_cpus(f64::from(FITTERS)))?;
    let fitters: Vec<_> = (0..FITTERS).map(Fitter::remote).collect();
    for round in 1..=3 {
        let models = get(&fitters.iter().map(|fitter| fitter.fit().remote(ROUNDS / 3)).collect::<Vec<_>>())?;
        let (slope, offset, error) = models[0];
        println!("after {:>2} rounds: y = {slope:.4} x {offset:+.4}, squared error {error:.5}", round * ROUNDS / 3);
        let same =
            models.iter().all(|model| model.0.to_bits() == slope.to_bits() && model.1.to_bits() == offset.to_bits());
        assert!(same, "all have the same model");
    }
    println!("{FITTERS} actors hold the same model, bit for bit");
    session.shutdown();
    Ok(())
}
