//! From a store into a store: trips at `s3://…` are cleaned and written back, by tasks that read
//! and write the store themselves. The store is a server in this program, so nothing is needed but
//! this; leave `endpoint_url` and the key out for S3 itself.
//!
//! ```text
//! cargo run --example taxi_etl_s3
//!
//!   s3://trips/raw/part-*.parquet ──▶ tasks: read, filter, compute ──▶ s3://trips/clean/zone=…/
//!                                                  all of it visible when all of it is written ┘
//! ```

use std::error::Error;
use std::path::Path;

use hyper_util::rt::TokioIo;
use mobula::aggregate::{count, mean};
use mobula::{Config, StorageOptions, ValueType, WriteMode, WriteOptions, col, lit, range_in_blocks, read_parquet};
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

const TRIPS: u64 = 5_000;
const KEY: &str = "AKIAEXAMPLE";
const SECRET: &str = "only-for-this-example";

#[mobula::main]
fn main() -> Result<(), Box<dyn Error>> {
    let session = mobula::init(Config::from_env()?)?;
    let folder = std::env::temp_dir().join(format!("mobula-store-{}", std::process::id()));
    // A bucket is a folder there.
    std::fs::create_dir_all(folder.join("trips"))?;
    let (url, _server) = serve(&folder)?;
    let store = StorageOptions {
        endpoint_url: Some(url),
        access_key_id: Some(KEY.into()),
        secret_access_key: Some(SECRET.into()),
        ..StorageOptions::default()
    };

    // Made-up trips, with some that nobody took.
    let number = |name: &str| col(name).cast(ValueType::Float64);
    let made = range_in_blocks(TRIPS, 4)
        .with_column("zone", col("id") % lit(5))
        .with_column("distance", number("id") % lit(90.0) / lit(6.0))
        .with_column("fare", lit(3.0) + col("distance") * lit(2.5) - number("zone"))
        .storage(store.clone());
    let report = made.write_parquet("s3://trips/raw")?;
    println!("{} trips in {} objects", report.rows_out, report.files.len());

    let trips = read_parquet("s3://trips/raw/part-*.parquet").storage(store.clone());
    let cleaned = trips
        .filter(col("distance").gt(lit(0.0)))
        .filter(col("fare").gt_eq(lit(2.5)))
        .with_column("per_mile", col("fare") / col("distance"));
    println!("\nthe plan, in which there is no secret:\n{cleaned}\n");

    let options =
        WriteOptions { partition_by: vec!["zone".into()], mode: WriteMode::Overwrite, ..WriteOptions::default() };
    let report = cleaned.write("s3://trips/clean", options)?;
    for (rule, dropped) in report.dropped_by_filter() {
        println!("{dropped:>5} dropped by {rule}");
    }
    println!("{:>5} of {} kept, in {} objects", report.rows_out, report.rows_in, report.files.len());

    // The directories say which zone the trips in them are of.
    let clean = read_parquet("s3://trips/clean").storage(store);
    assert_eq!(clean.count()?, report.rows_out);
    clean.group_by("zone").aggregate([count(), mean("fare"), mean("per_mile")]).show(10)?;

    session.shutdown();
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}

/// A store of the buckets in `folder`, at a free port, which ends with the runtime.
fn serve(folder: &Path) -> Result<(String, Runtime), Box<dyn Error>> {
    let mut builder =
        S3ServiceBuilder::new(s3s_fs::FileSystem::new(folder).map_err(|error| format!("no store: {error:?}"))?);
    builder.set_auth(SimpleAuth::from_single(KEY, SECRET));
    let service = builder.build();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
    let url = format!("http://{}", listener.local_addr()?);
    runtime.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let http = hyper::server::conn::http1::Builder::new();
            // A client that goes away is no matter.
            tokio::spawn(http.serve_connection(TokioIo::new(stream), service.clone()));
        }
    });
    Ok((url, runtime))
}
