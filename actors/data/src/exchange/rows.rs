//! Many batches as one list of rows, in an order of one's own.
//!
//! Entry type: [`Gathered`]: batches that stay where they are, and the order in which their rows
//! are handed on. Rows are copied once, a batch at a time, when they are.

use arrow::array::{Array, ArrayRef};
use arrow::compute::interleave_record_batch;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use arrow::row::Rows;

use crate::error::DataError;
use crate::exchange::keys::{Keys, failed};
use crate::exchange::partition::{Chance, generator, shuffle};
use crate::plan::SortKey;

/// Batches of one schema, and an order of their rows.
pub struct Gathered<'a> {
    batches: Vec<RecordBatch>,
    order: Vec<(u32, u32)>,
    operator: &'a str,
    held_bytes: u64,
    most_bytes: u64,
}

impl<'a> Gathered<'a> {
    /// The rows of `batches` as they are; `operator` is named in errors.
    #[must_use]
    pub fn new(batches: Vec<RecordBatch>, operator: &'a str) -> Self {
        let rows = |(index, batch): (u32, &RecordBatch)| (0..batch.num_rows() as u32).map(move |row| (index, row));
        let order: Vec<(u32, u32)> = (0..).zip(&batches).flat_map(rows).collect();
        let held_bytes = batches.iter().map(values_bytes).sum::<u64>() + size_of_val(order.as_slice()) as u64;
        Self { batches, order, operator, held_bytes, most_bytes: held_bytes }
    }

    /// Bytes of the rows and of their order.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        self.held_bytes
    }

    /// The most bytes that it has held at once: the keys of a sort are as large as their columns.
    #[must_use]
    pub fn most_bytes(&self) -> u64 {
        self.most_bytes
    }

    /// Rows in the order of `keys`; those whose keys are equal keep theirs.
    pub fn sort(&mut self, keys: &[SortKey]) -> Result<(), DataError> {
        if keys.is_empty() || self.batches.is_empty() {
            return Ok(());
        }
        let rows = self.keys(keys)?;
        let key = |(batch, row): (u32, u32)| rows[batch as usize].row(row as usize);
        // The first bytes decide nearly always, and lie beside each other.
        let mut order: Vec<(u128, (u32, u32))> =
            self.order.iter().map(|place| (prefix(key(*place).as_ref()), *place)).collect();
        let keys_bytes = rows.iter().map(Rows::size).sum::<usize>() + size_of_val(order.as_slice());
        self.most_bytes = self.most_bytes.max(self.held_bytes + keys_bytes as u64);
        order.sort_unstable_by(|(a_prefix, a), (b_prefix, b)| {
            a_prefix.cmp(b_prefix).then_with(|| key(*a).cmp(&key(*b))).then(a.cmp(b))
        });
        self.order = order.into_iter().map(|(_, place)| place).collect();
        Ok(())
    }

    /// Rows in an order by chance, that of block `ordinal`.
    pub fn shuffle(&mut self, seed: u64, ordinal: u64) {
        shuffle(&mut self.order, &mut generator(seed ^ WITHIN_A_BLOCK, ordinal));
    }

    /// Rows in an order by this chance.
    pub fn shuffle_with(&mut self, chance: &mut Chance) {
        shuffle(&mut self.order, chance);
    }

    /// Sorts by `keys` and tells where in the order the rows of each key begin.
    pub fn group(&mut self, keys: &[SortKey]) -> Result<Vec<usize>, DataError> {
        self.sort(keys)?;
        if keys.is_empty() {
            return Ok((0..self.len().min(1)).collect());
        }
        let rows = self.keys(keys)?;
        let key = |(batch, row): (u32, u32)| rows[batch as usize].row(row as usize);
        let begins = |at: &usize| *at == 0 || key(self.order[*at - 1]) != key(self.order[*at]);
        Ok((0..self.order.len()).filter(begins).collect())
    }

    /// How many rows there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// The rows from `start` to `end` of the order.
    pub fn batch(&self, start: usize, end: usize) -> Result<RecordBatch, DataError> {
        let places: Vec<(usize, usize)> =
            self.order[start..end].iter().map(|(batch, row)| (*batch as usize, *row as usize)).collect();
        let batches: Vec<&RecordBatch> = self.batches.iter().collect();
        if let Some(first) = batches.first().filter(|first| first.num_columns() == 0) {
            return without_columns(first, places.len(), self.operator);
        }
        interleave_record_batch(&batches, &places).map_err(|e| failed(self.operator, &e))
    }

    fn keys(&self, keys: &[SortKey]) -> Result<Vec<Rows>, DataError> {
        let Some(first) = self.batches.first() else {
            return Ok(Vec::new());
        };
        let keys = Keys::sorted(keys, first.schema_ref(), self.operator)?;
        self.batches.iter().map(|batch| keys.rows(batch)).collect()
    }
}

/// Bytes of the values of a batch: not of what else lies in the buffers that it is a part of.
pub(crate) fn values_bytes(batch: &RecordBatch) -> u64 {
    let bytes = |column: &ArrayRef| column.to_data().get_slice_memory_size().unwrap_or_default() as u64;
    batch.columns().iter().map(bytes).sum()
}

/// As many rows of no column: arrow's kernels do not know how many there are.
pub(super) fn without_columns(of: &RecordBatch, rows: usize, operator: &str) -> Result<RecordBatch, DataError> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(of.schema(), Vec::new(), &options).map_err(|e| failed(operator, &e))
}

/// The first bytes of a key as a number of the same order.
fn prefix(key: &[u8]) -> u128 {
    let mut bytes = [0; 16];
    let len = key.len().min(16);
    bytes[..len].copy_from_slice(&key[..len]);
    u128::from_be_bytes(bytes)
}

/// The order inside a block has other chances than the choice of the block.
const WITHIN_A_BLOCK: u64 = 0x5851_f42d_4c95_7f2d;

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use arrow::array::{ArrayRef, AsArray, Int64Array, StringArray};
    use arrow::datatypes::Int64Type;
    use proptest::prelude::*;

    fn batch(rows: &[(i64, String, i64)]) -> RecordBatch {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.0)));
        let texts: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|r| r.1.as_str())));
        let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.2)));
        RecordBatch::try_from_iter([("n", numbers), ("t", texts), ("id", ids)]).unwrap()
    }

    fn ids(batch: &RecordBatch) -> Vec<i64> {
        batch.column(2).as_primitive::<Int64Type>().values().to_vec()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]
        #[test]
        fn sorting_is_that_of_the_standard_library(
            rows in proptest::collection::vec((-3_i64..3, "[ab]{0,20}"), 1..60),
            cut in 1_usize..20,
        ) {
            let rows: Vec<(i64, String, i64)> = (0..).zip(rows).map(|(id, (n, t))| (n, t, id)).collect();
            let batches: Vec<RecordBatch> = rows.chunks(cut).map(batch).collect();
            let mut gathered = Gathered::new(batches, "sort");
            let keys = [SortKey::descending("t"), SortKey::ascending("n")];
            gathered.sort(&keys).unwrap();
            let mut expected = rows.clone();
            expected.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
            let expected: Vec<i64> = expected.iter().map(|row| row.2).collect();
            prop_assert_eq!(ids(&gathered.batch(0, rows.len()).unwrap()), expected);

            let mut groups: Vec<(&String, i64)> = rows.iter().map(|row| (&row.1, row.0)).collect();
            groups.sort_unstable();
            groups.dedup();
            prop_assert_eq!(gathered.group(&keys).unwrap().len(), groups.len());
        }
    }

    #[test]
    fn a_shuffle_is_an_order_of_the_same_rows_that_the_seed_decides() {
        let rows: Vec<_> = (0..100).map(|id| (0, String::new(), id)).collect();
        let shuffled = |seed, ordinal| {
            let mut gathered = Gathered::new(rows.chunks(9).map(batch).collect(), "shuffle");
            gathered.shuffle(seed, ordinal);
            ids(&gathered.batch(0, 100).unwrap())
        };
        assert_eq!(shuffled(1, 0), shuffled(1, 0));
        assert_ne!(shuffled(1, 0), shuffled(2, 0));
        assert_ne!(shuffled(1, 0), shuffled(1, 1));
        let mut ids = shuffled(1, 0);
        ids.sort_unstable();
        assert_eq!(ids, (0..100).collect::<Vec<_>>());
    }
}
