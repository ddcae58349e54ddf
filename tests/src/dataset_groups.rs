//! Groups of rows: aggregates, nulls, NaNs, and functions over whole groups.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float64Array, RecordBatch};
use arrow::compute::sum as sum_of;
use arrow::datatypes::Float64Type;
use arrow::error::ArrowError;
use mobula::aggregate::{count, max, mean, min, std, sum};
use mobula::{SortKey, from_batches, range, remote};

use crate::gate::{Tally, count as tell};
use crate::tables::{all, cut, error, float_column, floats, in_blocks, int_column, ints, names, table, texts, whole};
use crate::{Scenario, everywhere};

pub(crate) const SCENARIOS: &[Scenario] = &[
    everywhere("groups have counts, sums, means, extremes, in the order of their keys", aggregates),
    everywhere("groups by two keys", two_keys),
    everywhere("nulls count only where they are told to", nulls),
    everywhere("all NaNs are one group", nans),
    everywhere("all rows are one group without a key", global),
    everywhere("no rows are no groups", none),
    everywhere("an unknown key is named with those that exist", unknown),
    everywhere("a standard deviation is that of a sample", deviation),
    everywhere("a function sees each group whole and once", groups_mapped),
    everywhere("many groups of many blocks", many),
];

/// A = x mod 3, B = x for x in 0..99 and one more.
fn hundred() -> RecordBatch {
    table([("A", ints((0..100).map(|x| x % 3))), ("B", ints(0..100))])
}

fn aggregates() {
    in_blocks(&hundred(), |rows| {
        let grouped = rows.group_by("A").aggregate([count(), sum("B"), mean("B"), max("B"), min("B")]);
        let grouped = all(&grouped);
        assert_eq!(names(&grouped), ["A", "count()", "sum(B)", "mean(B)", "max(B)", "min(B)"]);
        assert_eq!(whole(&grouped, "A"), [0, 1, 2]);
        assert_eq!(whole(&grouped, "count()"), [34, 33, 33]);
        assert_eq!(whole(&grouped, "sum(B)"), [1683, 1617, 1650]);
        assert_eq!(float_column(&grouped, "mean(B)"), [Some(49.5), Some(49.0), Some(50.0)]);
        assert_eq!(whole(&grouped, "max(B)"), [99, 97, 98]);
        assert_eq!(whole(&grouped, "min(B)"), [0, 1, 2]);
    });
    in_blocks(&hundred(), |rows| {
        let by = |name: &str, dataset| (name.to_owned(), whole(&all(&dataset), name));
        let grouped = || rows.clone().group_by("A");
        assert_eq!(by("count()", grouped().count()).1, [34, 33, 33]);
        assert_eq!(by("sum(B)", grouped().sum("B")).1, [1683, 1617, 1650]);
        assert_eq!(by("max(B)", grouped().max("B")).1, [99, 97, 98]);
        assert_eq!(by("min(B)", grouped().min("B")).1, [0, 1, 2]);
        assert_eq!(float_column(&all(&grouped().mean("B")), "mean(B)"), [Some(49.5), Some(49.0), Some(50.0)]);
        assert_eq!(whole(&all(&rows.clone().unique("A")), "A"), [0, 1, 2]);
        assert_eq!(grouped().count().count().expect("counted"), 3);
    });
}

fn two_keys() {
    let rows = table([("A", ints((0..100).map(|x| x % 2))), ("B", ints((0..100).map(|x| x % 3)))]);
    in_blocks(&rows, |rows| {
        let grouped = all(&rows.clone().group_by(["A", "B"]).count());
        assert_eq!(whole(&grouped, "A"), [0, 0, 0, 1, 1, 1]);
        assert_eq!(whole(&grouped, "B"), [0, 1, 2, 0, 1, 2]);
        assert_eq!(whole(&grouped, "count()"), [17, 16, 17, 17, 17, 16]);
        let turned = all(&rows.group_by(["B", "A"]).count());
        assert_eq!(whole(&turned, "B"), [0, 0, 1, 1, 2, 2]);
        assert_eq!(whole(&turned, "count()"), [17, 17, 16, 17, 17, 16]);
    });
}

fn nulls() {
    let keys = (0..100).map(|x| x % 3).chain([0]);
    let values = (0..100).map(Some).chain([None]);
    let rows = table([("A", ints(keys.clone())), ("B", ints(values))]);
    in_blocks(&rows, |rows| {
        let grouped = all(&rows.clone().group_by("A").aggregate([
            sum("B"),
            sum("B").ignore_nulls(false).alias("strict"),
            mean("B"),
            count(),
        ]));
        assert_eq!(whole(&grouped, "sum(B)"), [1683, 1617, 1650]);
        assert_eq!(int_column(&grouped, "strict"), [None, Some(1617), Some(1650)]);
        assert_eq!(float_column(&grouped, "mean(B)")[0], Some(49.5));
        assert_eq!(whole(&grouped, "count()"), [35, 33, 33]);
        let global = rows.aggregate([min("B"), min("B").ignore_nulls(false).alias("strict")]).expect("aggregated");
        assert_eq!((int_column(&global, "min(B)"), int_column(&global, "strict")), (vec![Some(0)], vec![None]));
    });
    let nothing = table([("A", ints(keys)), ("B", ints(std::iter::repeat_n(None, 101)))]);
    in_blocks(&nothing, |rows| {
        let grouped = all(&rows.clone().group_by("A").aggregate([sum("B"), mean("B"), max("B")]));
        assert_eq!(int_column(&grouped, "sum(B)"), [None; 3]);
        assert_eq!(float_column(&grouped, "mean(B)"), [None; 3]);
        assert_eq!(int_column(&grouped, "max(B)"), [None; 3]);
        // A null is a key as well, and comes last.
        let by_null = all(&rows.group_by("B").count());
        assert_eq!((int_column(&by_null, "B"), whole(&by_null, "count()")), (vec![None], vec![101]));
    });
}

fn nans() {
    let keys = (0..60).map(|x| match x % 4 {
        0 => Some(f64::NAN),
        1 => Some(-f64::NAN),
        2 => Some(1.0),
        _ => None,
    });
    in_blocks(&table([("A", floats(keys)), ("B", ints(0..60))]), |rows| {
        let grouped = all(&rows.group_by("A").aggregate([count(), sum("B")]));
        let keys = float_column(&grouped, "A");
        assert!(matches!(keys[..], [Some(1.0), Some(nan), None] if nan.is_nan()), "{keys:?}");
        assert_eq!(whole(&grouped, "count()"), [15, 30, 15]);
        assert_eq!(whole(&grouped, "sum(B)").iter().sum::<i64>(), 59 * 30);
    });
}

fn global() {
    for rows in [range(10), range(10).repartition(30), range(10).repartition(30).part_bytes(1)] {
        let row = rows.aggregate([min("id"), max("id"), sum("id"), count(), mean("id")]).expect("aggregated");
        assert_eq!(row.num_rows(), 1);
        assert_eq!((whole(&row, "min(id)"), whole(&row, "max(id)")), (vec![0], vec![9]));
        assert_eq!((whole(&row, "sum(id)"), whole(&row, "count()")), (vec![45], vec![10]));
        assert_eq!(float_column(&row, "mean(id)"), [Some(4.5)]);
        let no_keys: [&str; 0] = [];
        let one = rows.group_by(no_keys).aggregate([min("id"), max("id")]);
        assert_eq!(one.count().expect("counted"), 1);
        assert_eq!(whole(&all(&one.select("max(id)")), "max(id)"), [9]);
    }
}

fn none() {
    in_blocks(&hundred().slice(0, 0), |rows| {
        let grouped = rows.clone().group_by("A").aggregate([count(), sum("B")]);
        assert_eq!(grouped.count().expect("counted"), 0);
        let grouped = all(&grouped);
        assert_eq!((grouped.num_rows(), names(&grouped)), (0, vec!["A".into(), "count()".into(), "sum(B)".into()]));
        let global = rows.aggregate([count(), sum("B"), min("B")]).expect("aggregated");
        assert_eq!((whole(&global, "count()"), int_column(&global, "sum(B)")), (vec![0], vec![None]));
    });
}

fn unknown() {
    in_blocks(&hundred(), |rows| {
        for message in [
            error(rows.clone().group_by("Z").count().to_batches()),
            error(rows.clone().group_by("A").sum("Z").to_batches()),
            error(rows.clone().aggregate([sum("Z")])),
            error(rows.clone().sort("Z").to_batches()),
            error(rows.unique(["A", "Z"]).count()),
        ] {
            assert!(message.contains("no column Z; there are A, B"), "{message}");
        }
    });
}

fn deviation() {
    in_blocks(&hundred(), |rows| {
        let grouped = all(&rows.group_by("A").aggregate([std("B")]));
        let found = float_column(&grouped, "std(B)");
        for (key, found) in (0..3).zip(found) {
            let values: Vec<f64> = (0..100).filter(|x| x % 3 == key).map(f64::from).collect();
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
            let expected = (squares / (values.len() - 1) as f64).sqrt();
            assert!((found.expect("a number") - expected).abs() < 1e-9, "{found:?} is not {expected}");
        }
    });
    let one = all(&from_batches([table([("A", ints([1])), ("B", ints([5]))])]).group_by("A").std("B"));
    assert_eq!(float_column(&one, "std(B)"), [None]);
}

/// Every value divided by the sum of its column. There is no group without rows.
#[remote]
fn normalise(batch: RecordBatch, tally: &str) -> Result<RecordBatch, ArrowError> {
    tell(tally);
    if batch.num_rows() == 0 {
        return Err(ArrowError::ComputeError("no rows".to_owned()));
    }
    let shares = |column: &ArrayRef| -> ArrayRef {
        let Some(values) = column.as_primitive_opt::<Float64Type>() else { return Arc::clone(column) };
        let total = sum_of(values).unwrap_or_default();
        Arc::new(values.unary::<_, Float64Type>(|value| value / total)) as ArrayRef
    };
    RecordBatch::try_new(batch.schema(), batch.columns().iter().map(shares).collect())
}

fn groups_mapped() {
    let small = table([("A", texts(["a", "a", "b"])), ("B", floats([1.0, 1.0, 3.0])), ("C", floats([4.0, 6.0, 5.0]))]);
    in_blocks(&small, |rows| {
        let tally = Tally::new();
        let mapped = rows.group_by("A").map_groups(normalise.with(tally.path())).sort(["A", "C"]);
        let mapped = all(&mapped);
        assert_eq!(float_column(&mapped, "B"), [Some(0.5), Some(0.5), Some(1.0)]);
        assert_eq!(float_column(&mapped, "C"), [Some(0.4), Some(0.6), Some(1.0)]);
        assert_eq!(tally.get(), 2, "a call for each group");
    });
    // Groups whose rows lie in all blocks.
    let wide = table([("A", ints((0..100).map(|x| x % 7))), ("B", floats((0..100).map(|_| 1.0)))]);
    in_blocks(&wide, |rows| {
        let tally = Tally::new();
        let mapped = rows.group_by("A").map_groups(normalise.with(tally.path()));
        let sums = all(&mapped.group_by("A").sum("B"));
        let sums: Vec<f64> = float_column(&sums, "sum(B)").into_iter().flatten().collect();
        assert!(sums.len() == 7 && sums.iter().all(|sum| (sum - 1.0).abs() < 1e-9), "{sums:?}");
        assert_eq!(tally.get(), 7);
    });
}

fn many() {
    const KEYS: i64 = 5_000;
    let keys = (0..3 * KEYS).map(|x| x * 7919 % KEYS);
    let rows = table([("A", ints(keys)), ("B", floats((0..3 * KEYS).map(|x| x as f64)))]);
    for blocks in [1, 30] {
        for part_bytes in [None, Some(100_000)] {
            let dataset = from_batches(cut(&rows, blocks));
            let dataset = part_bytes.map_or(dataset.clone(), |bytes| dataset.part_bytes(bytes));
            let grouped = dataset.group_by("A").aggregate([count(), sum("B")]);
            let rows = all(&grouped);
            assert!(whole(&rows, "A").into_iter().eq(0..KEYS), "the keys are in order");
            assert!(whole(&rows, "count()").into_iter().all(|count| count == 3));
            let total: f64 = rows["sum(B)"].as_primitive::<Float64Type>().iter().flatten().sum();
            assert!((total - (3 * KEYS * (3 * KEYS - 1) / 2) as f64).abs() < 1.0);
            let top = all(&grouped.sort([SortKey::descending("sum(B)"), SortKey::ascending("A")]).limit(1));
            assert_eq!(rows["sum(B)"].as_primitive::<Float64Type>().iter().flatten().fold(0.0, f64::max), {
                let sums: &Float64Array = top["sum(B)"].as_primitive();
                sums.value(0)
            });
        }
    }
}
