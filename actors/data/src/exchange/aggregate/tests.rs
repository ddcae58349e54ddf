use super::*;
use crate::aggregate::{collect, count, count_distinct, first, last, max, mean, median, min, quantile, std, sum};
use arrow::array::{Array, Float64Array, Int32Array, Int64Array, StringArray, UInt64Array};
use arrow::util::display::array_value_to_string;

fn table(rows: std::ops::Range<i64>) -> RecordBatch {
    let keys = Int64Array::from_iter_values(rows.clone().map(|n| n % 3));
    let values = Int64Array::from_iter_values(rows);
    let columns = [("A", Arc::new(keys) as ArrayRef), ("B", Arc::new(values) as ArrayRef)];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(n, c)| (n, c, true))).unwrap()
}

fn run(keys: &[&str], aggregates: &[Aggregate], blocks: &[Vec<RecordBatch>]) -> Vec<Vec<String>> {
    let keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
    let plan = AggregatePlan::new(&keys, aggregates, "group_by", &blocks[0][0].schema()).unwrap();
    let mut end = Final::new(&plan).unwrap();
    for block in blocks {
        let mut partial = Partial::new(&plan).unwrap();
        for batch in block {
            for states in partial.push(batch).unwrap() {
                end.push(states).unwrap();
            }
        }
        while let Some(states) = partial.rest().unwrap() {
            end.push(states).unwrap();
        }
    }
    let schema = plan.schema().unwrap();
    let Some(result) = end.finish().unwrap() else {
        return Vec::new();
    };
    assert_eq!(result.schema(), schema);
    let text = |row: usize| result.columns().iter().map(|c| array_value_to_string(c, row).unwrap()).collect();
    (0..result.num_rows()).map(text).collect()
}

#[test]
fn groups_of_many_blocks_are_those_of_one() {
    let aggregates = [count(), sum("B"), mean("B"), max("B"), min("B"), median("B"), count_distinct("B")];
    let whole = run(&["A"], &aggregates, &[vec![table(0..100)]]);
    assert_eq!(whole[0], ["0", "34", "1683", "49.5", "99", "0", "49.5", "34"]);
    assert_eq!(whole[1], ["1", "33", "1617", "49.0", "97", "1", "49.0", "33"]);
    assert_eq!(whole[2], ["2", "33", "1650", "50.0", "98", "2", "50.0", "33"]);
    let blocks: Vec<_> = (0..30).map(|b| vec![table(b * 4..b * 4 + 4).slice(0, if b < 25 { 4 } else { 0 })]).collect();
    assert_eq!(run(&["A"], &aggregates, &blocks), whole);
}

#[test]
fn all_rows_are_one_group_without_keys() {
    let aggregates = [min("B"), max("B"), std("B"), quantile("B", 0.25), count()];
    let result = run(&[], &aggregates, &[vec![table(0..5)], vec![table(5..10)]]);
    assert_eq!(result, [["0", "9", "3.0276503540974917", "2.25", "10"]]);
    assert_eq!(run(&[], &[count(), sum("B")], &[vec![table(0..0)]]), [["0", ""]]);
    assert_eq!(run(&["A"], &[count()], &[vec![table(0..0)]]), Vec::<Vec<String>>::new());
}

#[test]
fn a_null_counts_only_where_it_is_told_to() {
    let values = Int64Array::from(vec![Some(1), None, Some(3)]);
    let keys = StringArray::from(vec!["a", "a", "b"]);
    let columns = [("k", Arc::new(keys) as ArrayRef), ("v", Arc::new(values) as ArrayRef)];
    let batch = RecordBatch::try_from_iter_with_nullable(columns.map(|(n, c)| (n, c, true))).unwrap();
    let aggregates = [sum("v"), sum("v").ignore_nulls(false).alias("strict"), collect("v"), last("v"), first("v")];
    let result = run(&["k"], &aggregates, &[vec![batch]]);
    assert_eq!(result, [["a", "1", "", "[1]", "1", "1"], ["b", "3", "3", "[3]", "3", "3"]]);
}

#[test]
fn nans_are_one_group_and_zeros_too() {
    let keys = Float64Array::from(vec![f64::NAN, -f64::NAN, 0.0, -0.0]);
    let batch = RecordBatch::try_from_iter([("k", Arc::new(keys) as ArrayRef)]).unwrap();
    let result = run(&["k"], &[count()], &[vec![batch.slice(0, 1), batch.slice(2, 1)], vec![batch.clone()]]);
    assert_eq!(result, [["0.0", "3"], ["NaN", "3"]]);
    assert_eq!(run(&[], &[count_distinct("k")], &[vec![batch.slice(0, 3)], vec![batch]]), [["2"]]);
}

#[test]
fn a_nan_is_the_greatest_value_wherever_it_comes() {
    let nan = f64::NAN;
    for values in [[nan, 2.5, -1.0], [2.5, nan, -1.0], [-1.0, 2.5, -nan], [2.5, -1.0, nan]] {
        let keys: ArrayRef = Arc::new(Int64Array::from(vec![1, 1, 1]));
        let values: ArrayRef = Arc::new(Float64Array::from(values.to_vec()));
        let batch = RecordBatch::try_from_iter([("k", keys), ("v", values)]).unwrap();
        let cut: Vec<_> = (0..3).map(|row| vec![batch.slice(row, 1)]).collect();
        for blocks in [vec![vec![batch]], cut] {
            assert_eq!(run(&["k"], &[min("v"), max("v")], &blocks), [["1", "-1.0", "NaN"]]);
            assert_eq!(run(&[], &[min("v"), max("v")], &blocks), [["-1.0", "NaN"]]);
        }
    }
}

#[test]
fn what_cannot_be_computed_is_told_before() {
    let texts = StringArray::from(vec!["a"]);
    let numbers = Int32Array::from(vec![1]);
    let columns = [("t", Arc::new(texts) as ArrayRef), ("n", Arc::new(numbers) as ArrayRef)];
    let schema = RecordBatch::try_from_iter(columns).unwrap().schema();
    let error = |aggregates: &[Aggregate]| {
        AggregatePlan::new(&["n".into()], aggregates, "group_by n", &schema).unwrap_err().to_string()
    };
    assert_eq!(error(&[sum("t")]), "group_by n: sum(t): t is a text, not a number; cast it to one");
    assert_eq!(error(&[std("t")]), "group_by n: std(t): t is a text, not a number; cast it to one");
    assert_eq!(error(&[sum("x")]), "group_by n: there is no column x; there are t, n");
    assert_eq!(error(&[quantile("n", 2.0)]), "group_by n: quantile(n, 2): the fraction must be from 0 to 1");
    let twice = "group_by n: two columns would be called sum(n): give one another alias";
    assert_eq!(error(&[sum("n"), sum("n")]), twice);
}

/// The sum of each block's numbers, over all blocks.
fn summed(blocks: &[ArrayRef], keys: &[&str]) -> Result<Vec<String>, DataError> {
    let rows = |values: &ArrayRef| {
        let keys: ArrayRef = Arc::new(Int64Array::from(vec![7; values.len()]));
        RecordBatch::try_from_iter_with_nullable([("k", keys, true), ("v", Arc::clone(values), true)]).unwrap()
    };
    let batches: Vec<RecordBatch> = blocks.iter().map(rows).collect();
    let keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
    let plan = AggregatePlan::new(&keys, &[sum("v").alias("s")], "group_by", &batches[0].schema())?;
    let mut end = Final::new(&plan)?;
    for batch in &batches {
        let mut partial = Partial::new(&plan)?;
        for states in partial.push(batch)? {
            end.push(states)?;
        }
        while let Some(states) = partial.rest()? {
            end.push(states)?;
        }
    }
    let result = end.finish()?.unwrap();
    assert_eq!(result.schema(), plan.schema()?);
    let sums = result.column(result.num_columns() - 1);
    assert_eq!(*sums.data_type(), plan.argument(&sum("v"))?.unwrap().1);
    Ok((0..sums.len()).map(|row| array_value_to_string(sums, row).unwrap()).collect())
}

#[test]
fn a_sum_of_whole_numbers_fits_or_is_an_error() {
    let signed = |values: &[i64]| Arc::new(Int64Array::from(values.to_vec())) as ArrayRef;
    let unsigned = |values: &[u64]| Arc::new(UInt64Array::from(values.to_vec())) as ArrayRef;
    let narrow: ArrayRef = Arc::new(Int32Array::from(vec![i32::MAX, i32::MAX]));
    let told = "group_by failed: sum(v) overflows 64 bits: cast v to float64 or a decimal first";
    for keys in [&["k"][..], &[]] {
        let sum = |blocks: &[ArrayRef]| summed(blocks, keys).map_err(|error| error.to_string());
        assert_eq!(sum(&[signed(&[i64::MAX]), signed(&[0])]).unwrap(), [i64::MAX.to_string()]);
        assert_eq!(sum(&[signed(&[i64::MAX, 1])]).unwrap_err(), told);
        assert_eq!(sum(&[signed(&[i64::MAX]), signed(&[1])]).unwrap_err(), told);
        assert_eq!(sum(&[signed(&[i64::MIN, -1])]).unwrap_err(), told);
        // What leaves the 64 bits may come back.
        assert_eq!(sum(&[signed(&[i64::MAX, 1]), signed(&[-2])]).unwrap(), [(i64::MAX - 1).to_string()]);
        assert_eq!(sum(&[unsigned(&[u64::MAX, 0])]).unwrap(), [u64::MAX.to_string()]);
        assert_eq!(sum(&[unsigned(&[u64::MAX]), unsigned(&[1])]).unwrap_err(), told);
        assert_eq!(sum(std::slice::from_ref(&narrow)).unwrap(), [(2 * i64::from(i32::MAX)).to_string()]);
    }
}
