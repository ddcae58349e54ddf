//! A dataset is a lazy plan over Parquet files; a sink runs it, one task per block.
//!
//! ```text
//! cargo run --example dataset_iris
//! ```

use std::error::Error;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, StringArray};
use arrow::compute::kernels::numeric::mul;
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use mobula::{Config, col, lit, read_parquet, remote};
use parquet::arrow::ArrowWriter;

/// Some of Fisher's measurements: sepal length and width, petal length and width, in cm.
const IRIS: [(f64, f64, f64, f64, &str); 15] = [
    (5.1, 3.5, 1.4, 0.2, "setosa"),
    (4.9, 3.0, 1.4, 0.2, "setosa"),
    (4.6, 3.1, 1.5, 0.2, "setosa"),
    (5.4, 3.9, 1.7, 0.4, "setosa"),
    (5.8, 4.0, 1.2, 0.2, "setosa"),
    (7.0, 3.2, 4.7, 1.4, "versicolor"),
    (5.2, 2.7, 3.9, 1.4, "versicolor"),
    (5.4, 3.0, 4.5, 1.5, "versicolor"),
    (5.0, 2.0, 3.5, 1.0, "versicolor"),
    (5.9, 3.0, 4.2, 1.5, "versicolor"),
    (6.3, 3.3, 6.0, 2.5, "virginica"),
    (5.8, 2.7, 5.1, 1.9, "virginica"),
    (4.9, 2.5, 4.5, 1.7, "virginica"),
    (7.3, 2.9, 6.3, 1.8, "virginica"),
    (6.2, 3.4, 5.4, 2.3, "virginica"),
];

/// Any function over batches can be part of a plan; it runs inside the task that reads them.
#[remote]
fn petal_area(batch: RecordBatch, shape: f64) -> Result<RecordBatch, ArrowError> {
    let column = |name: &str| {
        batch.column_by_name(name).cloned().ok_or_else(|| ArrowError::SchemaError(format!("there is no column {name}")))
    };
    let area = mul(&column("petal_length")?, &column("petal_width")?)?;
    let area = mul(&area, &Float64Array::new_scalar(shape))?;
    let schema = batch.schema();
    let fields = schema.fields().iter().map(|field| field.name().clone());
    let names = fields.chain(["petal_area".to_owned()]);
    let columns = batch.columns().iter().cloned().chain([area]);
    RecordBatch::try_from_iter(names.zip(columns))
}

#[mobula::main]
fn main() -> Result<(), Box<dyn Error>> {
    let session = mobula::init(Config::from_env()?)?;
    let folder = std::env::temp_dir().join(format!("mobula-iris-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    write_iris(&folder.join("iris.parquet"))?;

    // Building the plan reads nothing.
    let iris = read_parquet([&folder.join("iris.parquet")]);
    let found = iris
        .clone()
        .filter(col("sepal_length").lt(lit(5.5)).and(col("petal_length").gt(lit(3.5))))
        .with_column("petal_ratio", col("petal_length") / col("petal_width"))
        .map_batches(petal_area.with(0.8));
    println!("the plan:\n{found}\n");
    println!("the columns:");
    for field in found.schema()?.fields() {
        println!("  {}: {}", field.name(), field.data_type());
    }

    println!("\n{} of {} flowers have small sepals and long petals:", found.count()?, iris.count()?);
    found.show(10)?;

    // The directory appears in one step, when all its files are written.
    let report = found.write_parquet(folder.join("found"))?;
    println!("\n{} rows read, {} written to {:?}", report.rows_in, report.rows_out, report.files);
    assert_eq!(read_parquet([folder.join("found")]).count()?, 3);

    std::fs::remove_dir_all(&folder)?;
    session.shutdown();
    Ok(())
}

fn write_iris(path: &Path) -> Result<(), Box<dyn Error>> {
    let numbers = |of: fn(&(f64, f64, f64, f64, &str)) -> f64| -> ArrayRef {
        Arc::new(IRIS.iter().map(of).collect::<Float64Array>())
    };
    let species: ArrayRef = Arc::new(IRIS.iter().map(|row| Some(row.4)).collect::<StringArray>());
    let batch = RecordBatch::try_from_iter([
        ("sepal_length", numbers(|row| row.0)),
        ("sepal_width", numbers(|row| row.1)),
        ("petal_length", numbers(|row| row.2)),
        ("petal_width", numbers(|row| row.3)),
        ("species", species),
    ])?;
    let mut writer = ArrowWriter::try_new(File::create(path)?, batch.schema(), None)?;
    writer.write(&batch)?;
    writer.close()?;
    Ok(())
}
