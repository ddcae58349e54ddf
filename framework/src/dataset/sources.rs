//! Where datasets come from.

use std::path::Path;
use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use mobula_data::DataError;
use mobula_data::executor::RunError;
use mobula_data::plan::LogicalPlan;
use mobula_data::source::{FileFormat, ReadFiles, Source};
use mobula_data::text::{CsvOptions, JsonOptions};

use super::{Dataset, Paths, text_of};

/// The rows of Parquet files, one file or many: each path is a file, a directory or a pattern
/// such as `trips/*.parquet`, here, at `s3://bucket/…` or at `https://…`. Nothing is read yet.
///
/// Files whose columns differ are unified by name. A file that two paths name is read once. The
/// names of directories such as `year=2023` become columns.
///
/// ```
/// use mobula::read_parquet;
/// let month = read_parquet("trips/2023-01.parquet");
/// let year = read_parquet(["trips/2022-12.parquet", "trips/2023-*.parquet"]);
/// ```
pub fn read_parquet(paths: impl Paths) -> Dataset {
    read_files(paths, FileFormat::Parquet)
}

/// The rows of CSV files with a header, their types told by the first rows; [`read_files`] takes
/// options.
///
/// ```
/// let zones = mobula::read_csv("taxi_zone_lookup.csv");
/// ```
pub fn read_csv(paths: impl Paths) -> Dataset {
    read_files(paths, FileFormat::Csv(CsvOptions::default()))
}

/// The rows of files with one JSON object in each line.
pub fn read_json(paths: impl Paths) -> Dataset {
    read_files(paths, FileFormat::Json(JsonOptions::default()))
}

/// The rows of files of any format, as [`read_parquet`] reads those of Parquet.
pub fn read_files(paths: impl Paths, format: FileFormat) -> Dataset {
    let mut texts = Vec::new();
    let mut problem = None;
    for path in paths.into_paths() {
        match text_of(Path::new(&path)) {
            Ok(text) => texts.push(text),
            // Building a plan fails nowhere; the sink says what was wrong with it.
            Err(error) => {
                problem.get_or_insert(error);
            }
        }
    }
    let read = ReadFiles { format, ..ReadFiles::parquet(texts) };
    Dataset { problem, ..Dataset::of(LogicalPlan::Source(Source::Files(read))) }
}

/// The rows of batches, in order; each becomes a block. All must have the same columns.
///
/// ```
/// # use std::sync::Arc;
/// # use mobula::arrow::array::{ArrayRef, Int64Array, RecordBatch};
/// let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
/// let batch = RecordBatch::try_from_iter([("n", numbers)])?;
/// let ds = mobula::from_batches([batch]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn from_batches(batches: impl IntoIterator<Item = RecordBatch>) -> Dataset {
    let batches: Vec<RecordBatch> = batches.into_iter().collect();
    let invalid = |cause: String| {
        let error = DataError::InvalidPlan { operator: "from_batches".to_owned(), cause };
        Dataset { problem: Some(RunError::Data(error)), ..range(0) }
    };
    let Some(schema) = batches.first().map(RecordBatch::schema) else {
        return invalid("no batch was given: a batch without rows tells the columns".to_owned());
    };
    let columns = |batch: &RecordBatch| -> Vec<_> {
        batch.schema_ref().fields().iter().map(|f| (f.name().clone(), f.data_type().clone())).collect()
    };
    if let Some(other) = batches.iter().find(|batch| columns(batch) != columns(&batches[0])) {
        return invalid(format!("batches have different columns: {schema} and {}", other.schema_ref()));
    }
    let schema = mobula_data::exchange::keys::nullable(&schema);
    Dataset::of(LogicalPlan::Source(Source::Batches { schema, batches: Arc::new(batches) }))
}

/// A column `id` of the whole numbers from 0 to `rows` - 1.
///
/// ```
/// let ds = mobula::range(1000);
/// assert_eq!(ds.plan().to_string(), "range 1000");
/// ```
pub fn range(rows: u64) -> Dataset {
    Dataset::of(LogicalPlan::Source(Source::Range { rows, blocks: None }))
}

/// As [`range`], in so many blocks.
pub fn range_in_blocks(rows: u64, blocks: u64) -> Dataset {
    Dataset::of(LogicalPlan::Source(Source::Range { rows, blocks: Some(blocks) }))
}

/// The rows of a query over datasets, each under a name of its own. It runs as any other dataset
/// does.
///
/// ```no_run
/// # fn main() -> Result<(), mobula::RunError> {
/// let (trips, zones) = (mobula::read_parquet("trips/"), mobula::read_csv("taxi_zone_lookup.csv"));
/// let busiest = mobula::sql(
///     "select Zone, count(*) as trips from trips join zones on PULocationID = LocationID
///      group by Zone order by trips desc limit 5",
///     &[("trips", &trips), ("zones", &zones)],
/// )?;
/// busiest.show(5)?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`RunError`]: what is wrong with the query, or that it asks for what there is not. Nothing but
/// the columns of the datasets is looked up.
pub fn sql(query: &str, tables: &[(&str, &Dataset)]) -> Result<Dataset, RunError> {
    let mut planned = Vec::new();
    for (name, dataset) in tables {
        dataset.check()?;
        let schema = dataset.schema()?;
        planned.push((*name, dataset.plan().clone(), schema));
    }
    let plan = mobula_data::sql::sql(query, &planned)?;
    Ok(match tables.first() {
        Some((_, first)) => Dataset { plan, ..(*first).clone() },
        None => Dataset::of(plan),
    })
}
