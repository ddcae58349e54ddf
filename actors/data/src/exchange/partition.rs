//! Cutting the rows of a block into parts.
//!
//! Entry types: [`Partitioning`], which travels with a stage, and [`Partitioner`], which cuts one
//! block by it. Which part a row goes to depends on the row and its place in its block, never on
//! who cuts it.

use std::sync::Arc;

use arrow::array::UInt32Array;
use arrow::compute::{cast, take_record_batch};
use arrow::datatypes::{Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::error::DataError;
use crate::exchange::keys::{Keys, failed, find, hash_part};
use crate::exchange::rows::without_columns;
use crate::plan::SortKey;
use crate::stage::WireSchema;

/// By what rows are told apart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Partitioning {
    /// Rows with equal keys go to one part.
    Hash {
        /// The columns of the key.
        keys: Vec<String>,
        /// The types to compare them in, if not their own: the two sides of a join may differ.
        types: Option<WireSchema>,
    },
    /// Every row goes to any part with the same chance.
    Random {
        /// Equal seeds give equal parts.
        seed: u64,
    },
    /// All rows of a part come before those of the next.
    Range {
        /// The order.
        keys: Vec<SortKey>,
        /// Where parts begin, all but the first, in order.
        bounds: Vec<Bound>,
    },
}

/// Where a part of a range partitioning begins.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Bound {
    /// The key of its first row, in arrow's row format.
    pub key: Bytes,
    /// Where a key has so many rows that they are cut, too: the block and the place in it of the
    /// first row.
    pub place: Option<(u64, u64)>,
}

/// Cuts the rows of one block.
pub struct Partitioner<'a> {
    by: &'a Partitioning,
    parts: u32,
    keys: Option<Keys>,
    ordinal: u64,
    next_row: u64,
    chance: StdRng,
    operator: &'a str,
}

impl<'a> Partitioner<'a> {
    /// Cuts block `ordinal` into `parts`.
    pub fn new(by: &'a Partitioning, parts: u32, ordinal: u64, operator: &'a str) -> Self {
        let seed = if let Partitioning::Random { seed } = by { *seed } else { 0 };
        Self { by, parts, keys: None, ordinal, next_row: 0, chance: generator(seed, ordinal), operator }
    }

    /// The rows of `batch` by their parts, in order; parts without rows are left out.
    pub fn split(&mut self, batch: &RecordBatch) -> Result<Vec<(usize, RecordBatch)>, DataError> {
        let first = self.next_row;
        self.next_row += batch.num_rows() as u64;
        if self.parts <= 1 {
            return Ok(vec![(0, batch.clone())]);
        }
        let parts = self.assign(batch, first)?;
        let mut ends = vec![0_u32; self.parts as usize + 1];
        for part in &parts {
            ends[*part as usize + 1] += 1;
        }
        for part in 1..ends.len() {
            ends[part] += ends[part - 1];
        }
        let starts = ends.clone();
        let mut order = vec![0_u32; parts.len()];
        for (row, part) in (0_u32..).zip(&parts) {
            let next = &mut ends[*part as usize];
            order[*next as usize] = row;
            *next += 1;
        }
        let sorted = match batch.num_columns() {
            0 => without_columns(batch, order.len(), self.operator)?,
            _ => take_record_batch(batch, &UInt32Array::from(order)).map_err(|e| failed(self.operator, &e))?,
        };
        let part = |part: usize| (starts[part] as usize, (starts[part + 1] - starts[part]) as usize);
        let filled = (0..self.parts as usize).map(|p| (p, part(p))).filter(|(_, (_, rows))| *rows > 0);
        Ok(filled.map(|(p, (start, rows))| (p, sorted.slice(start, rows))).collect())
    }

    /// The part of every row.
    fn assign(&mut self, batch: &RecordBatch, first: u64) -> Result<Vec<u32>, DataError> {
        let parts = u64::from(self.parts);
        match self.by {
            Partitioning::Random { .. } => {
                let chance = &mut self.chance;
                Ok((0..batch.num_rows()).map(|_| chance.random_range(0..self.parts)).collect())
            }
            Partitioning::Hash { keys, types } => {
                let operator = self.operator;
                let cast;
                let (keys, batch) = match types {
                    Some(WireSchema(types)) => {
                        cast = cast_keys(batch, keys, types, operator)?;
                        (types.fields().iter().map(|field| field.name().clone()).collect(), &cast)
                    }
                    None => (keys.clone(), batch),
                };
                let rows = keys_of(&mut self.keys, |s| Keys::grouped(&keys, s, operator), batch)?.rows(batch)?;
                Ok(rows.iter().map(|row| hash_part(row.as_ref(), parts) as u32).collect())
            }
            Partitioning::Range { keys, bounds } => {
                let (ordinal, operator) = (self.ordinal, self.operator);
                let rows = keys_of(&mut self.keys, |s| Keys::sorted(keys, s, operator), batch)?.rows(batch)?;
                let part = |(row, key): (u64, arrow::row::Row<'_>)| {
                    let place = (ordinal, row);
                    let begins_before = |bound: &Bound| match bound.key.as_ref().cmp(key.as_ref()) {
                        std::cmp::Ordering::Equal => bound.place.is_none_or(|begin| begin <= place),
                        order => order.is_lt(),
                    };
                    (bounds.partition_point(begins_before) as u32).min(self.parts - 1)
                };
                Ok((first..).zip(rows.iter()).map(part).collect())
            }
        }
    }
}

/// The keys of a batch as columns of these types.
fn cast_keys(
    batch: &RecordBatch,
    keys: &[String],
    types: &SchemaRef,
    operator: &str,
) -> Result<RecordBatch, DataError> {
    let mut columns = Vec::with_capacity(keys.len());
    for (key, field) in keys.iter().zip(types.fields()) {
        let column = batch.column(find(batch.schema_ref(), key, operator)?);
        columns.push(cast(column, field.data_type()).map_err(|e| failed(operator, &e))?);
    }
    RecordBatch::try_new(Arc::clone(types), columns).map_err(|e| failed(operator, &e))
}

fn keys_of<'k>(
    keys: &'k mut Option<Keys>,
    make: impl FnOnce(&Schema) -> Result<Keys, DataError>,
    batch: &RecordBatch,
) -> Result<&'k Keys, DataError> {
    match keys {
        Some(keys) => Ok(keys),
        None => Ok(keys.insert(make(batch.schema_ref())?)),
    }
}

/// A generator of chance for the block `ordinal` of a run with this seed.
pub fn generator(seed: u64, ordinal: u64) -> StdRng {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8..16].copy_from_slice(&ordinal.to_le_bytes());
    StdRng::from_seed(bytes)
}

/// Rows of a block, by chance, from which the bounds of parts are guessed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeySample {
    /// Keys and the places in the block of their rows.
    pub keys: Vec<(Bytes, u64)>,
    /// All rows of the block.
    pub rows: u64,
}

/// Takes a sample of the keys of one block: every row has the same chance to be in it.
pub struct Sampler<'a> {
    by: &'a [SortKey],
    keys: Option<Keys>,
    sample: KeySample,
    chance: StdRng,
    operator: &'a str,
}

impl<'a> Sampler<'a> {
    /// Of block `ordinal`.
    pub fn new(by: &'a [SortKey], ordinal: u64, operator: &'a str) -> Self {
        let sample = KeySample { keys: Vec::new(), rows: 0 };
        Self { by, keys: None, sample, chance: generator(SAMPLE_SEED, ordinal), operator }
    }

    /// Looks at the rows of a batch.
    pub fn add(&mut self, batch: &RecordBatch) -> Result<(), DataError> {
        let (by, operator) = (self.by, self.operator);
        let keys = keys_of(&mut self.keys, |schema| Keys::sorted(by, schema, operator), batch)?;
        // Which rows are taken is decided first: only their keys are made.
        let mut taken: Vec<(usize, u32)> = Vec::new();
        for row in 0..batch.num_rows() {
            let seen = self.sample.rows + row as u64;
            let slot = if seen < SAMPLE_ROWS as u64 { seen } else { self.chance.random_range(0..=seen) };
            if slot < SAMPLE_ROWS as u64 {
                taken.push((slot as usize, row as u32));
            }
        }
        let indices = UInt32Array::from_iter_values(taken.iter().map(|(_, row)| *row));
        let batch_taken = take_record_batch(batch, &indices).map_err(|e| failed(operator, &e))?;
        let rows = keys.rows(&batch_taken)?;
        for ((slot, row), key) in taken.into_iter().zip(rows.iter()) {
            let entry = (Bytes::copy_from_slice(key.as_ref()), self.sample.rows + u64::from(row));
            match self.sample.keys.get_mut(slot) {
                Some(old) => *old = entry,
                None => self.sample.keys.push(entry),
            }
        }
        self.sample.rows += batch.num_rows() as u64;
        Ok(())
    }

    /// The sample.
    #[must_use]
    pub fn finish(self) -> KeySample {
        self.sample
    }
}

/// Bounds of `parts` parts of about as many rows each, by samples of all blocks in order. With
/// `cut_keys`, rows of one key may go to several parts.
#[must_use]
pub fn bounds(samples: &[KeySample], parts: u64, cut_keys: bool) -> Vec<Bound> {
    let mut all: Vec<(&Bytes, (u64, u64), f64)> = Vec::new();
    for (ordinal, sample) in (0..).zip(samples) {
        let weight = sample.rows as f64 / sample.keys.len().max(1) as f64;
        all.extend(sample.keys.iter().map(|(key, row)| (key, (ordinal, *row), weight)));
    }
    all.sort_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)));
    let total: f64 = all.iter().map(|(_, _, weight)| weight).sum();
    let mut bounds: Vec<Bound> = Vec::new();
    let mut before = 0.0;
    for (key, place, weight) in all {
        let next = (bounds.len() + 1) as f64 * total / parts as f64;
        if before >= next && (bounds.len() as u64) < parts - 1 {
            let bound = Bound { key: key.clone(), place: cut_keys.then_some(place) };
            // A key that is not cut begins one part at most.
            if bounds.last() != Some(&bound) {
                bounds.push(bound);
            }
        }
        before += weight;
    }
    bounds
}

/// Rows of a block in its sample at most.
const SAMPLE_ROWS: usize = 1000;
/// Samples are not the shuffle's business.
const SAMPLE_SEED: u64 = 0x7361_6d70_6c65;

/// The generator of chance for tasks, as one type.
pub type Chance = StdRng;

/// Puts `items` into an order by chance.
pub fn shuffle<T>(items: &mut [T], chance: &mut impl Rng) {
    for last in (1..items.len()).rev() {
        items.swap(last, chance.random_range(0..=last));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, AsArray, Int64Array};
    use arrow::datatypes::Int64Type;
    use proptest::prelude::*;

    fn batch(values: &[i64]) -> RecordBatch {
        let values: ArrayRef = Arc::new(Int64Array::from(values.to_vec()));
        RecordBatch::try_from_iter([("n", values)]).unwrap()
    }

    fn values(batch: &RecordBatch) -> Vec<i64> {
        batch.column(0).as_primitive::<Int64Type>().values().to_vec()
    }

    /// All parts of all blocks, in order of blocks.
    fn cut(by: &Partitioning, parts: u32, blocks: &[Vec<i64>]) -> Vec<Vec<i64>> {
        let mut cut = vec![Vec::new(); parts as usize];
        for (ordinal, block) in (0..).zip(blocks) {
            let mut partitioner = Partitioner::new(by, parts, ordinal, "test");
            for chunk in block.chunks(7) {
                for (part, rows) in partitioner.split(&batch(chunk)).unwrap() {
                    cut[part].extend(values(&rows));
                }
            }
        }
        cut
    }

    fn sorted(mut values: Vec<i64>) -> Vec<i64> {
        values.sort_unstable();
        values
    }

    fn range(blocks: &[Vec<i64>], parts: u64, cut_keys: bool) -> Partitioning {
        let keys = vec![SortKey::ascending("n")];
        let sample = |(ordinal, block): (u64, &Vec<i64>)| {
            let mut sampler = Sampler::new(&keys, ordinal, "sort");
            for chunk in block.chunks(5) {
                sampler.add(&batch(chunk)).unwrap();
            }
            sampler.finish()
        };
        let samples: Vec<KeySample> = (0..).zip(blocks).map(sample).collect();
        Partitioning::Range { bounds: bounds(&samples, parts, cut_keys), keys }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]
        #[test]
        fn no_row_is_lost_and_every_part_has_what_it_is_for(
            blocks in proptest::collection::vec(proptest::collection::vec(-9_i64..9, 0..40), 1..6),
            parts in 1_u32..9,
            cut_keys: bool,
        ) {
            let all = sorted(blocks.concat());
            let hashed = cut(&Partitioning::Hash { keys: vec!["n".into()], types: None }, parts, &blocks);
            prop_assert_eq!(sorted(hashed.concat()), all.clone());
            for key in -9..9 {
                prop_assert!(hashed.iter().filter(|part| part.contains(&key)).count() <= 1);
            }
            let by = Partitioning::Random { seed: 3 };
            prop_assert_eq!(sorted(cut(&by, parts, &blocks).concat()), all.clone());
            prop_assert_eq!(cut(&by, parts, &blocks), cut(&by, parts, &blocks));

            let ranged = cut(&range(&blocks, u64::from(parts), cut_keys), parts, &blocks);
            let in_order: Vec<i64> = ranged.iter().flat_map(|part| sorted(part.clone())).collect();
            prop_assert_eq!(in_order, all.clone());
            if !cut_keys {
                for key in -9..9 {
                    prop_assert!(ranged.iter().filter(|part| part.contains(&key)).count() <= 1);
                }
            }
        }
    }

    #[test]
    fn one_key_with_all_rows_is_cut_where_it_may_be() {
        let blocks = vec![vec![5; 4000]; 4];
        let sizes = |cut_keys| {
            let parts = cut(&range(&blocks, 8, cut_keys), 8, &blocks);
            parts.iter().map(Vec::len).max().unwrap()
        };
        assert!(sizes(true) < 3000);
        assert_eq!(sizes(false), 16_000);
    }

    #[test]
    fn chance_spreads_rows_evenly() {
        let sizes: Vec<usize> =
            cut(&Partitioning::Random { seed: 1 }, 4, &[vec![1; 4000]]).iter().map(Vec::len).collect();
        assert!(sizes.iter().all(|size| (800..1200).contains(size)), "{sizes:?}");
    }
}
