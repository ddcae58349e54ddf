//! The code behind a registered name, called as a worker calls it.

use std::cell::Cell;
use std::fmt;

use arrow::array::{Float64Array, Int64Array, RecordBatch};
use mobula::__private::{BatchFunction, CallError, CallResult, Code, Encoded, Instance, encode, inventory};
use mobula::{Array, Batch, Bytes, Error, ObjectRef, Value, remote};
use mobula_core::registry::Registry;
use mobula_core::value::Encoding;
use serde::{Deserialize, Serialize};

// ---- what is made remote -----------------------------------------------------------------------

/// Adds.
#[remote]
fn add(a: i64, b: i64) -> i64 {
    a + b
}

#[remote]
pub fn nothing() {}

#[remote(num_cpus = 0.5, max_retries = 0, spread)]
async fn later((x, y): (i64, i64), text: &str) -> String {
    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    format!("{text}{x}{y}")
}

#[remote]
fn mean(numbers: &[f64]) -> Result<f64, std::num::ParseFloatError> {
    match numbers {
        [] => "nothing".parse(),
        numbers => Ok(numbers.iter().sum::<f64>() / numbers.len() as f64),
    }
}

#[remote]
fn longest(words: &[String], least: &Option<usize>) -> String {
    let least = least.unwrap_or_default();
    words.iter().filter(|word| word.len() >= least).max_by_key(|word| word.len()).cloned().unwrap_or_default()
}

#[remote(num_returns = 2)]
fn both(numbers: Vec<f64>) -> Result<(Vec<f64>, Bytes), String> {
    if numbers.is_empty() { Err("empty".to_owned()) } else { Ok((numbers, Bytes::from_static(b"raw"))) }
}

#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
struct Limits {
    least: i64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    most: Option<i64>,
}

#[remote]
fn clean(batch: RecordBatch, limits: Limits, factor: f64) -> Result<RecordBatch, arrow::error::ArrowError> {
    let _ = factor;
    let ids = batch.column(0).as_any().downcast_ref::<Int64Array>();
    let ids = ids.ok_or_else(|| arrow::error::ArrowError::SchemaError("id is not an integer".to_owned()))?;
    let keep = ids.iter().map(|id| id.map(|id| id >= limits.least)).collect();
    arrow::compute::filter_record_batch(&batch, &keep)
}

#[remote]
fn same(batch: &RecordBatch) -> RecordBatch {
    batch.clone()
}

#[derive(Debug)]
struct Outer(std::num::ParseIntError);

impl fmt::Display for Outer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a trip")
    }
}

impl std::error::Error for Outer {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

#[remote]
fn parse(text: String) -> Result<i64, Outer> {
    text.parse().map_err(Outer)
}

#[remote]
fn parse_boxed(text: String) -> Result<i64, Box<dyn std::error::Error>> {
    Ok(text.parse().map_err(Outer)?)
}

#[remote]
fn parse_boxed_sync(text: String) -> Result<i64, Box<dyn std::error::Error + Send + Sync>> {
    Ok(text.parse().map_err(Outer)?)
}

#[remote]
fn refuse(why: String) -> Result<(), String> {
    Err(why)
}

#[remote]
fn nested_failure() -> Result<(), Error> {
    Err(Error::NoSuchActor { name: "nobody".to_owned() })
}

#[remote]
fn io() -> std::io::Result<u8> {
    Err(std::io::Error::other("no disk"))
}

#[remote]
fn formatted() -> fmt::Result {
    Ok(())
}

/// Counts, in a cell that no two threads may share.
struct Counter {
    hits: Cell<i64>,
}

#[remote(num_cpus = 1, max_restarts = -1)]
impl Counter {
    /// A name that is no method.
    const STEP: i64 = 1;

    fn new(start: i64) -> Self {
        Self { hits: Cell::new(start) }
    }

    /// One more.
    fn increment(&mut self) -> i64 {
        self.add(Self::STEP)
    }

    pub async fn add_all(&mut self, numbers: &[i64], words: Vec<String>) -> Result<i64, String> {
        numbers.iter().for_each(|number| {
            self.add(*number);
        });
        if words.is_empty() { Ok(self.hits.get()) } else { Err(words.concat()) }
    }

    #[remote(num_returns = 2)]
    fn split(&mut self) -> (i64, String) {
        (self.hits.get(), self.hits.get().to_string())
    }

    #[remote(skip)]
    fn add(&mut self, n: i64) -> i64 {
        self.hits.set(self.hits.get() + n);
        self.hits.get()
    }
}

mod shared {
    use super::*;

    pub struct Table(pub(super) Vec<String>);

    #[remote]
    impl Table {
        pub async fn new(rows: Vec<String>) -> Result<Table, Outer> {
            for row in &rows {
                row.parse::<i64>().map_err(Outer)?;
            }
            Ok(Self(rows))
        }

        pub fn row(&self, index: usize) -> Option<String> {
            self.0.get(index).cloned()
        }

        pub fn push(&mut self, row: &str) {
            self.0.push(row.to_owned());
        }
    }
}

// ---- calling it --------------------------------------------------------------------------------

fn code(path: &str) -> Code {
    let name = format!("mobula@{}::it::expansion::{path}", env!("CARGO_PKG_VERSION"));
    let id = mobula_core::ids::FunctionId::of(&name);
    let function = Registry::global().unwrap().function(id).unwrap_or_else(|| panic!("{name} is not registered"));
    function.code
}

fn run(path: &str, arguments: Vec<Encoded>) -> CallResult {
    match code(path) {
        Code::Task(run) => run(arguments),
        _ => panic!("{path} is no task"),
    }
}

fn value<T: Value>(value: T) -> Encoded {
    encode(value).unwrap()
}

/// What a task of one argument and one result would decode.
fn read<T: Value>(encoded: Encoded) -> T {
    mobula::__private::Arguments::new("test", vec![encoded], 1).unwrap().take("it").unwrap()
}

fn one<T: Value>(result: CallResult) -> T {
    let mut values = result.unwrap();
    assert_eq!(values.len(), 1);
    read(values.remove(0))
}

fn application(result: Result<impl fmt::Debug, CallError>) -> (String, String, Vec<String>) {
    match result.unwrap_err() {
        CallError::Application { type_name, message, causes } => (type_name, message, causes),
        other => panic!("not the function's own error: {other:?}"),
    }
}

#[test]
fn tasks_decode_run_and_encode() {
    assert_eq!(one::<i64>(run("add", vec![value(1_i64), value(41_i64)])), 42);
    one::<()>(run("nothing", vec![]));
    let text = one::<String>(run("later", vec![value((4_i64, 2_i64)), value("x".to_owned())]));
    assert_eq!(text, "x42");
    let words: Vec<String> = ["a", "abc", "ab"].map(String::from).to_vec();
    assert_eq!(one::<String>(run("longest", vec![value(words), value(Some(1_usize))])), "abc");
}

#[test]
fn tasks_can_be_called_here() {
    assert_eq!(add.call(2, 3), 5);
    assert_eq!(mean.call(&[1.0, 2.0]).unwrap(), 1.5);
    assert_eq!(later.call((1, 2), "t").now_or_never_on_a_runtime(), "t12");
}

trait OnRuntime: Future + Sized {
    fn now_or_never_on_a_runtime(self) -> Self::Output {
        mobula::__private::block_on_main(self)
    }
}
impl<F: Future> OnRuntime for F {}

#[test]
fn slices_of_numbers_are_read_in_place_whatever_wrote_them() {
    for argument in [value(vec![1.0, 2.0, 6.0]), value(Array::from(vec![1.0, 2.0, 6.0]))] {
        assert_eq!(one::<f64>(run("mean", vec![argument])), 3.0);
    }
}

#[test]
fn several_results() {
    let values = run("both", vec![value(vec![0.5])]).unwrap();
    assert_eq!(values.len(), 2);
    assert_eq!(values[1].encoding, Encoding::RAW);
    assert_eq!(read::<Vec<f64>>(values[0].clone()), [0.5]);
    assert_eq!(application(run("both", vec![value(Vec::<f64>::new())])).1, "empty");
    let _typed: (ObjectRef<Vec<f64>>, ObjectRef<Bytes>) = both.remote([0.5]);
}

#[test]
fn errors_keep_type_message_and_sources() {
    for function in ["parse", "parse_boxed", "parse_boxed_sync"] {
        let (type_name, message, causes) = application(run(function, vec![value("1x".to_owned())]));
        assert_eq!(message, "not a trip", "{function}");
        assert_eq!(causes, ["invalid digit found in string"], "{function}");
        assert_eq!(type_name.contains("Outer"), function == "parse", "{function}: {type_name}");
        assert_eq!(one::<i64>(run(function, vec![value("7".to_owned())])), 7);
    }
    assert_eq!(application(run("refuse", vec![value("no".to_owned())])).1, "no");
    assert_eq!(application(run("io", vec![])).1, "no disk");
    assert!(application(run("mean", vec![value(Vec::<f64>::new())])).0.contains("ParseFloatError"));
    one::<()>(run("formatted", vec![]));
}

#[test]
fn a_mobula_error_passes_through_as_it_is() {
    match run("nested_failure", vec![]) {
        Err(CallError::System(Error::NoSuchActor { name })) => assert_eq!(name, "nobody"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_cannot_be_decoded_names_parameter_and_type() {
    let Err(CallError::System(error)) = run("add", vec![value(1_i64), value("two".to_owned())]) else {
        panic!("it ran");
    };
    let text = error.to_string();
    assert!(text.contains("argument b of mobula@") && text.contains("i64") && text.contains("decoded"), "{text}");
    let Err(CallError::System(error)) = run("add", vec![value(1_i64)]) else { panic!("it ran") };
    assert!(error.to_string().contains("there are 1, it has 2 parameters"), "{error}");
}

#[test]
fn an_actor_that_is_not_sync() {
    let Code::Constructor(construct) = code("Counter::new") else { panic!("no constructor") };
    let mut counter: Instance = construct(vec![value(5_i64)]).unwrap();
    let Code::MethodMut(increment) = code("Counter::increment") else { panic!("not exclusive") };
    assert_eq!(one::<i64>(increment(&mut *counter, vec![])), 6);
    let Code::AsyncMut(add_all) = code("Counter::add_all") else { panic!("not exclusive and async") };
    let numbers = value(vec![10_i64, 20]);
    let mut wait = |values| mobula_core::worker::block_on(add_all(&mut *counter, values)).unwrap();
    assert_eq!(one::<i64>(wait(vec![numbers.clone(), value(Vec::<String>::new())])), 36);
    assert_eq!(application(wait(vec![numbers, value(vec!["bad".to_owned()])])).1, "bad");
    let Code::MethodMut(split) = code("Counter::split") else { panic!("not exclusive") };
    assert_eq!(split(&mut *counter, vec![]).unwrap().len(), 2);
}

#[test]
fn remote_functions_can_be_local_to_a_function() {
    #[remote]
    fn inner(a: u8) -> u8 {
        a + 1
    }
    assert_eq!(one::<u8>(run("inner", vec![value(1_u8)])), 2);
    assert_eq!(inner.call(1), 2);
}

#[test]
fn skipped_methods_are_not_registered() {
    let id =
        mobula_core::ids::FunctionId::of(&format!("mobula@{}::it::expansion::Counter::add", env!("CARGO_PKG_VERSION")));
    assert!(Registry::global().unwrap().function(id).is_none());
}

#[test]
fn an_actor_with_shared_methods() {
    let Code::Constructor(construct) = code("shared::Table::new") else { panic!("no constructor") };
    let table = construct(vec![value(vec!["1".to_owned(), "2".to_owned()])]).unwrap();
    let Code::MethodRef(row) = code("shared::Table::row") else { panic!("exclusive") };
    std::thread::scope(|scope| {
        for index in 0..2_usize {
            let table = &*table;
            scope.spawn(move || {
                let row = one::<Option<String>>(row(table, vec![value(index)]));
                assert_eq!(row, Some((index + 1).to_string()));
            });
        }
    });
    let mut table = table;
    let Code::MethodMut(push) = code("shared::Table::push") else { panic!("shared") };
    one::<()>(push(&mut *table, vec![value("3".to_owned())]));
    assert_eq!(one::<Option<String>>(row(&*table, vec![value(2_usize)])), Some("3".to_owned()));

    let failed = construct(vec![value(vec!["x".to_owned()])]).map(|_| ());
    assert_eq!(application(failed).2, ["invalid digit found in string"]);
}

#[test]
fn a_method_of_another_type_is_refused() {
    let Code::Constructor(construct) = code("Counter::new") else { panic!("no constructor") };
    let counter = construct(vec![value(5_i64)]).unwrap();
    let Code::MethodRef(row) = code("shared::Table::row") else { panic!("exclusive") };
    let Err(CallError::System(error)) = row(&*counter, vec![value(0_usize)]) else { panic!("it ran") };
    assert!(error.to_string().contains("not a it::expansion::shared::Table"), "{error}");
}

fn trips() -> RecordBatch {
    RecordBatch::try_from_iter([
        ("id", std::sync::Arc::new(Int64Array::from(vec![1, 2, 3])) as _),
        ("fare", std::sync::Arc::new(Float64Array::from(vec![2.5, 0.0, 9.0])) as _),
    ])
    .unwrap()
}

#[test]
fn batches_as_arguments_and_results() {
    let limits = Limits { least: 2, most: None };
    let arguments = vec![value(Batch::from(trips())), value(limits), value(1.0)];
    let cleaned = one::<Batch>(run("clean", arguments));
    assert_eq!(*cleaned, trips().slice(1, 2));
    assert_eq!(*one::<Batch>(run("same", vec![value(Batch::from(trips()))])), trips());
}

#[test]
fn functions_over_batches_are_found_by_the_name_their_call_carries() {
    let limits = Limits { least: 3, most: Some(4) };
    let call = clean.with(limits, 1.0);
    let function = inventory::iter::<BatchFunction>.into_iter().find(|function| function.name == call.function());
    let cleaned = (function.unwrap().call)(trips(), call.parameters().unwrap()).unwrap();
    assert_eq!(cleaned, trips().slice(2, 1));

    let call = mobula::BatchCall::from(same);
    assert_eq!(call.function(), same.with().function());
    let function = inventory::iter::<BatchFunction>.into_iter().find(|function| function.name == call.function());
    assert_eq!((function.unwrap().call)(trips(), &[]).unwrap(), trips());
}

#[test]
fn signatures_are_part_of_the_digest() {
    let signatures: Vec<_> = inventory::iter::<mobula::__private::RemoteFunction>
        .into_iter()
        .filter(|function| function.name.contains("::it::expansion::"))
        .map(|function| (function.name.rsplit("expansion::").next().unwrap(), function.signature))
        .collect();
    let of = |name: &str| signatures.iter().find(|(path, _)| *path == name).unwrap().1;
    assert_eq!(of("add"), "fn(i64, i64) -> i64");
    assert_eq!(of("mean"), "fn(&[f64]) -> Result<f64, std::num::ParseFloatError>");
    assert_eq!(of("shared::Table::push"), "fn(&str) -> ()");
}

#[test]
fn without_a_session_every_reference_says_so() {
    let sum = add.options().num_cpus(0.5).name("sum").remote(1, add.remote(1, 2));
    assert!(matches!(mobula::get(&sum), Err(Error::NoSession { .. })));
    let counter = Counter::options().name("hits").remote(0);
    let hits = counter.increment().remote();
    assert!(matches!(mobula::get(&hits), Err(Error::NoSession { .. })));
    assert!(matches!(mobula::get(&counter.ready()), Err(Error::NoSession { .. })));
    let (ready, rest) = mobula::wait(&[sum.clone(), add.remote(1, 1)], 2, None).unwrap();
    assert_eq!((ready.len(), rest.len()), (2, 0));
    assert!(matches!(mobula::put(1), Err(Error::NoSession { .. })));
    // A failed reference stays one when it travels.
    let travelled = read::<Vec<ObjectRef<i64>>>(value(vec![sum]));
    assert!(matches!(mobula::get(&travelled), Err(Error::NoSession { .. })));
}

#[test]
fn options_that_make_no_sense_fail_the_call() {
    let sum = add.options().num_cpus(-1.0).remote(1, 2);
    let Err(error @ Error::Invalid { .. }) = mobula::get(&sum) else { panic!("it ran") };
    assert!(error.to_string().contains("CPU"), "{error}");
    let counter = Counter::options().num_gpus(f64::NAN).remote(0);
    assert!(matches!(mobula::get(&counter.increment().remote()), Err(Error::Invalid { .. })));
}

#[test]
fn waiting_checks_what_it_is_asked() {
    assert_eq!(mobula::wait::<i64>(&[], 1, None).unwrap().0.len(), 0);
    let objects = [add.remote(1, 2)];
    assert!(matches!(mobula::wait(&objects, 2, None), Err(Error::Invalid { .. })));
    assert!(matches!(mobula::wait(&objects, 0, None), Err(Error::Invalid { .. })));
}
