//! Random queries over random tables: the same rows as DuckDB gives.
//!
//! Each seed makes two tables and a query of a few steps, as a dataset and as SQL ([`query`]). All
//! queries run in a session of this process, then one Python process answers all of them in
//! DuckDB, and the rows are compared by what they mean ([`compare`]). A failure names its seed;
//! `MOBULA_ORACLE_SEED=7 cargo test -p mobula-tests queries` runs that one alone, and
//! `MOBULA_ORACLE_QUERIES=5000` more of them.

mod compare;
mod query;
mod sides;
mod table;

use std::fs::File;
use std::path::Path;

use arrow::array::RecordBatch;
use arrow::ipc::reader::FileReader;
use mobula::{Config, Session};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::support::{oracle, setting};
use query::Query;
use table::Table;

/// Answers the queries of a file, see `answer.py`.
const ANSWER: &str = include_str!("answer.py");

/// How many queries are asked unless `MOBULA_ORACLE_QUERIES` says otherwise.
const QUERIES: u64 = 300;

/// Failures that are shown: the first ones tell enough.
const SHOWN: usize = 8;

/// A query and what Mobula makes of it.
struct Asked {
    seed: u64,
    query: Query,
    found: Result<Vec<RecordBatch>, String>,
    counted: Result<u64, String>,
    names: Vec<String>,
    /// For the oracle: the files of the tables and of the answer, and the SQL.
    case: serde_json::Value,
}

#[test]
fn queries_give_what_duckdb_gives() {
    let folder = tempfile::tempdir().expect("a folder");
    let first = setting("MOBULA_ORACLE_SEED", u64::MAX);
    let seeds = if first == u64::MAX { 0..setting("MOBULA_ORACLE_QUERIES", QUERIES) } else { first..first + 1 };
    let session = Session::start(Config::default().num_cpus(2)).expect("a session");
    let entered = session.enter();
    let asked: Vec<Asked> = seeds.map(|seed| ask(seed, folder.path())).collect();
    drop(entered);
    session.shutdown();

    let cases: Vec<_> = asked.iter().map(|asked| asked.case.clone()).collect();
    let file = folder.path().join("cases.json");
    std::fs::write(&file, serde_json::to_string(&cases).expect("JSON")).expect("written");
    let Some(errors) = oracle::run_script(ANSWER, &file) else { return };
    let errors: Vec<Option<String>> = serde_json::from_value(errors).expect("an error or none for each");
    assert_eq!(errors.len(), asked.len(), "the oracle left some out");
    let wrong: Vec<String> =
        asked.iter().zip(errors).filter_map(|(asked, error)| complaint(asked, error.as_deref())).collect();
    let shown = wrong.iter().take(SHOWN).cloned().collect::<Vec<_>>().join("\n\n");
    assert!(wrong.is_empty(), "{} of {} queries differ:\n\n{shown}", wrong.len(), asked.len());
}

/// Makes the query of a seed and runs it.
fn ask(seed: u64, folder: &Path) -> Asked {
    let mut rng = StdRng::seed_from_u64(seed);
    let dir = folder.join(seed.to_string());
    std::fs::create_dir(&dir).expect("a folder");
    let tables = [Table::random(&mut rng), Table::random(&mut rng)];
    let mut sources = ["t0", "t1"].into_iter().zip(&tables).map(|(name, table)| {
        let dataset = table.dataset(&mut rng, &dir.join(name).join("files"));
        Query::of(table, dataset, name)
    });
    let (Some(mut query), Some(other)) = (sources.next(), sources.next()) else { unreachable!("two tables") };
    drop(sources);
    for _ in 0..rng.random_range(1..5) {
        query = query.random_step(&mut rng, &other);
    }
    let path = |name: &str| dir.join(format!("{name}.arrow"));
    let paths = ["t0", "t1"].map(path);
    for (table, path) in tables.iter().zip(&paths) {
        table.write(path.clone());
    }
    let case = serde_json::json!({
        "tables": {"t0": paths[0], "t1": paths[1]},
        "sql": query.sql_in_order(),
        "answer": path("answer"),
    });
    let found = query.dataset.to_batches().map_err(|error| error.to_string());
    let counted = query.dataset.count().map_err(|error| error.to_string());
    let names = query.columns.iter().map(|column| column.name.clone()).collect();
    Asked { seed, query, found, counted, names, case }
}

/// What is wrong with the answers to a query, if something is.
fn complaint(asked: &Asked, error: Option<&str>) -> Option<String> {
    let wrong = match (&asked.found, &asked.counted, error) {
        (_, _, Some(error)) => Some(format!("DuckDB refuses it: {error}")),
        (Err(error), _, _) => Some(format!("it fails: {error}")),
        (_, Err(error), _) => Some(format!("it cannot be counted: {error}")),
        (Ok(found), Ok(counted), None) => difference(asked, found, *counted),
    };
    let steps = asked.query.steps.join("\n    ");
    wrong.map(|wrong| {
        format!(
            "seed {}: {wrong}\n    {steps}\n  {}\n  MOBULA_ORACLE_SEED={} cargo test -p mobula-tests queries",
            asked.seed, asked.case["sql"], asked.seed
        )
    })
}

fn difference(asked: &Asked, found: &[RecordBatch], counted: u64) -> Option<String> {
    let file = File::open(asked.case["answer"].as_str()?).expect("the oracle's answer");
    let expected: Vec<RecordBatch> =
        FileReader::try_new(file, None).expect("an Arrow file").map(|batch| batch.expect("a batch")).collect();
    let names: Vec<String> = found[0].schema().fields().iter().map(|field| field.name().clone()).collect();
    if names != asked.names {
        return Some(format!("the columns are {names:?} where {:?} are expected", asked.names));
    }
    let place = |name: &String| names.iter().position(|column| column == name);
    let ordered: Vec<usize> = asked.query.order.iter().filter_map(|key| place(&key.column)).collect();
    let rows = compare::rows_of(found);
    if rows.len() as u64 != counted {
        return Some(format!("{} rows, counted as {counted}", rows.len()));
    }
    compare::difference(&rows, &compare::rows_of(&expected), &ordered)
}
