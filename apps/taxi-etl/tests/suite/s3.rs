//! Cleaning trips from a store into a store.

#[allow(dead_code)]
#[path = "../../../../actors/data/tests/storage/server.rs"]
mod server;

use std::path::PathBuf;

use bytes::Bytes;
use indicatif::ProgressBar;
use mobula::{Config, DataError, Session, StorageOptions, read_parquet};
use mobula_data::storage::put_small;
use taxi_etl::calendar::Month;
use taxi_etl::clean::Limits;
use taxi_etl::generate::{Generate, generate};
use taxi_etl::interrupt::Interrupt;
use taxi_etl::run::Run;
use taxi_etl::s3::S3Args;

use server::Server;

fn run(inputs: Vec<PathBuf>, output: PathBuf, storage: StorageOptions) -> Run {
    Run {
        inputs,
        output,
        storage,
        limits: Limits::default(),
        concurrency: None,
        block_bytes: None,
        batch_rows: None,
        for_model: false,
        sql: None,
        resume: false,
    }
}

#[test]
fn trips_of_a_store_are_cleaned_as_those_of_a_directory() {
    let session = Session::start(Config::default().num_cpus(2)).unwrap();
    let _entered = session.enter();
    let (server, dir) = (Server::s3(), tempfile::tempdir().unwrap());
    let (bar, interrupt) = (ProgressBar::hidden(), Interrupt::default());
    let made = Generate {
        rows: 20_000,
        months: Month::parse_range("2023-01..2023-02").unwrap(),
        seed: 7,
        output: dir.path().join("trips"),
        threads: 2,
        overwrite: false,
    };
    let files = generate(&made, &|_| std::ops::ControlFlow::Continue(())).unwrap();
    for file in &files {
        let path = format!("s3://bucket/trips/{}", file.path.file_name().unwrap().to_str().unwrap());
        put_small(&path, Bytes::from(std::fs::read(&file.path).unwrap()), &server.options()).unwrap();
    }

    let (input, output) = (PathBuf::from("s3://bucket/trips"), PathBuf::from("s3://bucket/clean"));
    let in_store = run(vec![input], output.clone(), server.options()).run(&bar, &interrupt).unwrap();
    let here = dir.path().join("clean");
    let beside = run(files.into_iter().map(|file| file.path).collect(), here.clone(), StorageOptions::default());
    let beside = beside.run(&bar, &interrupt).unwrap();
    assert_eq!(in_store.rows_read, 20_000);
    assert_eq!(in_store.dropped_by_rule, beside.dropped_by_rule);
    assert!(in_store.files.iter().all(|file| file.starts_with("s3://bucket/clean/part-")), "{:?}", in_store.files);
    let cleaned = read_parquet(&output).storage(server.options()).to_arrow().unwrap();
    assert_eq!(cleaned, read_parquet(&here).to_arrow().unwrap());
    session.shutdown();
}

#[test]
fn who_may_not_is_told_before_anything_is_done() {
    let server = Server::s3();
    let arguments = S3Args { anonymous: true, endpoint_url: Some(server.url()), ..S3Args::default() };
    let error = arguments.checked(["trips/", "s3://bucket/trips"]).unwrap_err();
    assert!(matches!(&error, DataError::AccessDenied { tried, .. } if tried == &["none (anonymous)"]), "{error}");
    assert_eq!(arguments.checked(["trips/", "here"]).unwrap(), arguments.options());
}
