//! Functions of users in datasets: with a state, with needs of their own, over rows and arrays.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, Float64Array, Int64Array, StringArray};
use arrow::datatypes::{DataType, Int64Type};
use mobula::ndarray::{Array2, array};
use mobula::{
    Concurrency, Config, DataError, Dataset, FormatError, MapOptions, NdColumns, RecordBatch, Rows, RunError, Session,
    from_batches, from_rows, range, remote,
};
use serde::{Deserialize, Serialize};

pub(crate) fn session() -> Session {
    Session::start(Config::default().num_cpus(2).resource("press", 1.0)).unwrap()
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Number {
    pub(crate) id: i64,
}

/// Which rows an object has seen when it sees one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Seen {
    id: i64,
    before: u64,
    object: u64,
}

struct Witness {
    object: u64,
    seen: u64,
}

static OBJECTS: AtomicUsize = AtomicUsize::new(0);

#[remote]
impl Witness {
    fn new(first: u64) -> Result<Self, String> {
        match first {
            u64::MAX => Err("nothing comes after the last number".to_owned()),
            13 => panic!("not this one"),
            _ => Ok(Self { object: OBJECTS.fetch_add(1, Ordering::Relaxed) as u64, seen: first }),
        }
    }

    fn call(&mut self, rows: Rows<Number>) -> Rows<Seen> {
        rows.map(|Number { id }| {
            self.seen += 1;
            Seen { id, before: self.seen - 1, object: self.object }
        })
    }
}

fn blocks(rows: u64, blocks: u64) -> Dataset {
    range(rows).repartition(blocks)
}

fn invalid(result: Result<u64, RunError>, part: &str) {
    match result {
        Err(RunError::Data(DataError::InvalidPlan { cause, .. })) if cause.contains(part) => {}
        other => panic!("expected an invalid plan that says {part:?}, not {other:?}"),
    }
}

#[test]
fn one_object_sees_every_block_in_order() {
    let session = session();
    let _entered = session.enter();
    let seen = blocks(100, 10).map_batches_with(Witness::with(5), MapOptions::default().concurrency(1));
    let seen: Vec<Seen> = seen.to_rows().unwrap();
    assert!(seen.iter().map(|seen| seen.id).eq(0..100), "in the order of the source");
    assert!(seen.iter().map(|seen| seen.before).eq(5..105), "by one object");
}

#[test]
fn rows_keep_their_order_however_many_actors_there_are() {
    let session = session();
    let _entered = session.enter();
    for options in [
        MapOptions::default(),
        MapOptions::default().concurrency(2),
        MapOptions::default().concurrency(1..=3),
        // There is no room for so many: those that there are do the work.
        MapOptions::default().concurrency(7),
        MapOptions::default().concurrency(1..=2).num_cpus(0.5).batch_size(3),
    ] {
        let seen = blocks(60, 12).map_batches_with(Witness::with(0), options.clone()).to_rows::<Seen>().unwrap();
        assert!(seen.iter().map(|seen| seen.id).eq(0..60), "{options:?}");
    }
    let taken = blocks(60, 12).map_batches(Witness::with(0)).take_rows::<Number>(7).unwrap();
    assert!(taken.iter().map(|number| number.id).eq(0..7));
    assert_eq!(blocks(60, 12).map_batches(Witness::with(0)).count().unwrap(), 60);
}

#[test]
fn what_a_constructor_says_is_the_error_of_the_run() {
    let session = session();
    let _entered = session.enter();
    let error = blocks(10, 2).map_batches(Witness::with(u64::MAX)).count().unwrap_err();
    let RunError::Block { error: cause, .. } = &error else { panic!("{error}") };
    assert!(matches!(&**cause, DataError::Function { function, .. } if function.ends_with("::Witness")), "{error}");
    assert!(error.to_string().contains("nothing comes after the last number"), "{error}");
    let error = blocks(10, 2).map_batches(Witness::with(13)).count().unwrap_err();
    assert!(error.to_string().contains("not this one"), "{error}");
}

#[test]
fn several_functions_with_a_state_follow_each_other() {
    let session = session();
    let _entered = session.enter();
    let one = || MapOptions::default().concurrency(1);
    let twice = blocks(20, 4)
        .map_batches_with(Witness::with(0), one())
        .map_batches_with(Witness::with(100), one())
        .union([blocks(20, 4).map_batches_with(Witness::with(200), one())]);
    let before: Vec<u64> = twice.to_rows::<Seen>().unwrap().iter().map(|seen| seen.before).collect();
    assert!(before.into_iter().eq((100..120).chain(200..220)));
}

#[test]
fn actors_without_room_are_told_of_and_end_with_the_run() {
    let session = session();
    let _entered = session.enter();
    let (flag, said) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(String::new())));
    let (raised, heard) = (Arc::clone(&flag), Arc::clone(&said));
    let waits = blocks(10, 2)
        .map_batches_with(Witness::with(0), MapOptions::default().num_gpus(1))
        .cancel_when(Arc::clone(&flag))
        .on_waiting(move |why| {
            why.clone_into(&mut heard.lock().unwrap());
            raised.store(true, Ordering::Relaxed);
        });
    assert_eq!(waits.count().unwrap_err(), RunError::Data(DataError::Cancelled));
    assert!(said.lock().unwrap().contains("GPU"), "{said:?}");
    // What they would have held is there for others.
    assert_eq!(blocks(10, 2).map_batches(Witness::with(0)).count().unwrap(), 10);
}

#[remote]
impl Largest {
    fn new() -> Self {
        Self(i64::MIN)
    }

    fn call(&mut self, rows: Rows<Number>) -> Rows<Number> {
        self.0 = rows.iter().map(|row| row.id).fold(self.0, i64::max);
        Rows::from(vec![Number { id: self.0 }])
    }
}

struct Largest(i64);

#[test]
fn groups_are_handed_to_objects_too() {
    let session = session();
    let _entered = session.enter();
    let groups = blocks(30, 3).with_column("odd", mobula::col("id") % mobula::lit(2)).group_by("odd");
    let largest = groups.map_groups_with(Largest::with(), MapOptions::default().concurrency(1));
    let mut largest: Vec<i64> = largest.to_rows::<Number>().unwrap().iter().map(|row| row.id).collect();
    largest.sort_unstable();
    assert_eq!(largest.last(), Some(&29));
    assert_eq!(largest.len(), 2);
}

static AT_ONCE: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

#[remote]
fn alone(batch: RecordBatch) -> RecordBatch {
    MOST.fetch_max(AT_ONCE.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
    std::thread::sleep(Duration::from_millis(5));
    AT_ONCE.fetch_sub(1, Ordering::SeqCst);
    batch
}

#[test]
fn no_more_tasks_run_at_once_than_were_asked_for() {
    let session = session();
    let _entered = session.enter();
    let options = MapOptions::default().concurrency(1);
    assert_eq!(blocks(20, 10).map_batches_with(alone, options).count().unwrap(), 20);
    assert_eq!(MOST.load(Ordering::SeqCst), 1);
}

#[remote]
fn press(batch: &RecordBatch) -> RecordBatch {
    batch.clone()
}

#[test]
fn what_needs_something_else_runs_in_tasks_of_its_own() {
    let session = session();
    let _entered = session.enter();
    let stages = |dataset: Dataset| -> Vec<String> {
        dataset.stats().unwrap().report.stages.into_iter().map(|stage| stage.name).collect()
    };
    let on_press = || MapOptions::default().resource("press", 1);
    let filtered = || range(100).filter(mobula::col("id").gt(mobula::lit(3)));
    assert_eq!(stages(filtered().map_batches(press)), ["read>filter>map_batches"]);
    let own = filtered().map_batches_with(press, on_press()).map_batches_with(press, on_press()).map_batches(press);
    assert_eq!(stages(own), ["read>filter", "read>map_batches>map_batches", "read>map_batches"]);
}

static PRESSED: AtomicBool = AtomicBool::new(false);

#[remote]
fn pressed(batch: RecordBatch) -> RecordBatch {
    PRESSED.store(true, Ordering::SeqCst);
    batch
}

/// Gives the last row away only when the function behind it has seen others.
#[remote]
fn last_waits(rows: Rows<Number>) -> Result<Rows<Number>, String> {
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while rows.iter().any(|row| row.id == 19) && !PRESSED.load(Ordering::SeqCst) {
        if std::time::Instant::now() > deadline {
            return Err("the second function waits for the end of the first".to_owned());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(rows)
}

#[test]
fn what_needs_something_else_takes_blocks_as_soon_as_they_are_there() {
    let session = session();
    let _entered = session.enter();
    let waits = || blocks(20, 10).map_batches(last_waits);
    let two_legs = waits().map_batches_with(pressed, MapOptions::default().resource("press", 1));
    let ids = |rows: Vec<Number>| rows.into_iter().map(|row| row.id).collect::<Vec<_>>();
    assert_eq!(ids(two_legs.to_rows().unwrap()), (0..20).collect::<Vec<_>>());
    assert_eq!(ids(two_legs.limit(5).to_rows().unwrap()), (0..5).collect::<Vec<_>>());
    // A single object sees the rows in their order, however they come.
    let one = MapOptions::default().concurrency(1).resource("press", 1);
    let seen: Vec<Seen> = waits().map_batches_with(Witness::with(0), one.clone()).to_rows().unwrap();
    assert!(seen.iter().enumerate().all(|(place, seen)| seen.id == place as i64 && seen.before == place as u64));
    // What comes after the second leg is told apart from what is before it.
    let sorted = waits().map_batches_with(Witness::with(0), one).sort(mobula::SortKey::descending("before"));
    let sorted: Vec<Seen> = sorted.map_batches(press).to_rows().unwrap();
    assert!(sorted.iter().rev().enumerate().all(|(place, seen)| seen.before == place as u64));
    // A union of one is that one, with both its legs.
    let filtered = waits().filter(mobula::col("id").lt(mobula::lit(7)));
    let united = filtered.map_batches_with(pressed, MapOptions::default().resource("press", 1)).union([]);
    assert_eq!(ids(united.to_rows().unwrap()), (0..7).collect::<Vec<_>>());
    // Without a row there are columns all the same.
    let none = waits().filter(mobula::col("id").lt(mobula::lit(0)));
    let none = none.map_batches_with(pressed, MapOptions::default().resource("press", 1)).map_batches(press);
    assert_eq!(none.schema().unwrap().field(0).name(), "id");
    assert_eq!(none.count().unwrap(), 0);
}

#[test]
fn options_that_make_no_sense_are_errors_of_the_sink() {
    let session = session();
    let _entered = session.enter();
    let count = |options: MapOptions| range(3).map_batches_with(press, options).count();
    invalid(count(MapOptions::default().concurrency(0)), "concurrency");
    invalid(count(MapOptions::default().concurrency(Concurrency { min: 4, max: 2 })), "from 4 to 2");
    invalid(count(MapOptions::default().batch_size(0)), "batch size");
    invalid(count(MapOptions::default().num_gpus(-1)), "GPU");
    invalid(count(MapOptions::default().resource("press_group_1", 1)), "_group_");
    let actors = MapOptions::default().concurrency(1..=1_000_000);
    invalid(range(3).map_batches_with(Witness::with(0), actors).count(), "4096");
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Trip {
    zone: String,
    fare: f64,
    tip: Option<f64>,
    stops: Vec<i32>,
}

fn trips() -> Vec<Trip> {
    let trip = |zone: &str, fare, tip, stops: &[i32]| Trip { zone: zone.to_owned(), fare, tip, stops: stops.to_vec() };
    vec![trip("JFK", 52.0, Some(8.0), &[1, 2]), trip("EWR", 17.5, None, &[]), trip("JFK", 3.0, Some(0.0), &[7])]
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Tipped {
    zone: String,
    share: Option<f64>,
}

#[remote]
fn tipped(trips: &Rows<Trip>, least: f64) -> Rows<Tipped> {
    let dear = trips.iter().filter(|trip| trip.fare >= least);
    dear.map(|trip| Tipped { zone: trip.zone.clone(), share: trip.tip.map(|tip| tip / trip.fare) }).collect()
}

#[remote(rows)]
fn tip_at(trip: Trip, rate: f64) -> Tipped {
    Tipped { zone: trip.zone, share: trip.tip.map(|_| rate) }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Stop {
    zone: String,
    stop: i32,
}

#[remote(rows)]
fn each_stop(trip: Trip) -> Vec<Stop> {
    trip.stops.iter().map(|stop| Stop { zone: trip.zone.clone(), stop: *stop }).collect()
}

#[remote(rows)]
fn generous(trip: &Tipped, zone: String) -> Result<bool, std::num::ParseFloatError> {
    Ok(trip.zone == zone && trip.share.is_some_and(|share| share > 0.0))
}

#[test]
fn functions_over_typed_rows() {
    let session = session();
    let _entered = session.enter();
    let all = from_rows(trips());
    assert_eq!(all.to_rows::<Trip>().unwrap(), trips());
    assert_eq!(all.take_rows::<Trip>(2).unwrap(), trips()[..2]);

    let shares = all.clone().map_batches(tipped.with(10.0));
    let expected = vec![
        Tipped { zone: "JFK".to_owned(), share: Some(8.0 / 52.0) },
        Tipped { zone: "EWR".to_owned(), share: None },
    ];
    assert_eq!(shares.to_rows::<Tipped>().unwrap(), expected);
    let schema = shares.schema().unwrap();
    let types: Vec<_> = schema.fields().iter().map(|field| field.data_type().clone()).collect();
    assert_eq!(types, [DataType::Utf8, DataType::Float64]);

    let kept = all.clone().map(tip_at.with(0.5)).filter_rows(generous.with("JFK".to_owned()));
    assert_eq!(kept.to_rows::<Tipped>().unwrap(), vec![Tipped { zone: "JFK".to_owned(), share: Some(0.5) }; 2]);
    let stops: Vec<Stop> = all.flat_map(each_stop).to_rows().unwrap();
    assert_eq!(stops.iter().map(|stop| stop.stop).collect::<Vec<_>>(), [1, 2, 7]);
}

#[test]
fn a_function_over_rows_is_a_task_too() {
    let session = session();
    let _entered = session.enter();
    let shares = tipped.remote(Rows::from(trips()), 20.0);
    assert_eq!(mobula::get(&shares).unwrap().len(), 1);
    assert_eq!(mobula::get(&tip_at.remote(trips()[0].clone(), 0.1)).unwrap().share, Some(0.1));
}

#[test]
fn columns_that_only_rows_tell_need_one() {
    #[derive(Serialize)]
    struct Odd {
        number: i64,
        nothing: Option<i64>,
    }
    let session = session();
    let _entered = session.enter();
    let odd = from_rows([Odd { number: 1, nothing: None }]);
    assert_eq!(odd.count().unwrap(), 1);
    assert_eq!(odd.schema().unwrap().field(1).data_type(), &DataType::Null);
    let none = from_rows(Vec::<Odd>::new()).count().unwrap_err();
    assert!(none.to_string().contains("Odd"), "{none}");
}

fn columns() -> RecordBatch {
    let zones: ArrayRef = Arc::new(StringArray::from(vec!["JFK", "EWR"]));
    let fares: ArrayRef = Arc::new(Float64Array::from(vec![Some(1.0), None]));
    let stops: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
    RecordBatch::try_from_iter([("zone", zones), ("fare", fares), ("stop", stops)]).unwrap()
}

#[track_caller]
pub(crate) fn format_error<T: std::fmt::Debug>(result: Result<T, RunError>) -> FormatError {
    match result {
        Err(RunError::Block { error, .. }) => match *error {
            DataError::Format { error, .. } => error,
            other => panic!("{other}"),
        },
        Err(RunError::Data(DataError::Format { error, .. })) => error,
        other => panic!("{other:?}"),
    }
}

#[remote(rows)]
fn same(trip: Trip) -> Trip {
    trip
}

#[test]
fn rows_that_do_not_fit_name_the_column() {
    #[derive(Debug, Deserialize)]
    #[allow(dead_code)]
    struct Fare {
        fare: f64,
    }
    #[derive(Debug, Deserialize)]
    #[allow(dead_code)]
    struct Zone {
        zone: i64,
    }
    let session = session();
    let _entered = session.enter();
    let all = || from_batches([columns()]);
    let missing = format_error(all().drop_columns("fare").map(same).count());
    assert!(matches!(&missing, FormatError::MissingColumn { column, .. } if column == "fare"), "{missing:?}");
    let null = format_error(all().to_rows::<Fare>());
    assert_eq!(null.column(), Some("fare"), "{null:?}");
    let wrong = format_error(all().to_rows::<Zone>());
    assert_eq!(wrong.column(), Some("zone"), "{wrong:?}");
}

#[remote]
fn halve(mut columns: NdColumns) -> Result<NdColumns, FormatError> {
    let half = columns.filled::<f64>("fare", 0.0)? / 2.0;
    columns.insert("half", half)?;
    columns.remove("fare")?;
    Ok(columns)
}

#[remote]
fn embed(columns: NdColumns) -> Result<NdColumns, FormatError> {
    let stops = columns.view::<i64>("stop")?;
    let mut both = NdColumns::default();
    both.insert("vector", Array2::from_shape_fn((stops.len(), 3), |(row, place)| stops[row] as f32 * place as f32))?;
    both.insert_bools("large", &stops.mapv(|stop| stop > 1))?;
    Ok(both)
}

#[remote]
fn square_norms(columns: NdColumns) -> Result<NdColumns, FormatError> {
    let vectors = columns.tensor::<f32>("vector")?;
    let mut norms = NdColumns::default();
    norms
        .insert("norm", vectors.rows().into_iter().map(|row| row.dot(&row)).collect::<mobula::ndarray::Array1<_>>())?;
    norms.insert_bools("large", &columns.bools("large")?)?;
    Ok(norms)
}

#[test]
fn functions_over_arrays() {
    let session = session();
    let _entered = session.enter();
    let all = || from_batches([columns()]);
    let halved = all().map_batches(halve).to_arrow().unwrap();
    let names: Vec<_> = halved.schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names, ["zone", "stop", "half"]);
    let norms = all().map_batches(embed).repartition(2).map_batches(square_norms).to_arrow().unwrap();
    let norms = mobula::FromBatch::from_batch(norms).map(|norms: NdColumns| norms).unwrap();
    assert_eq!(norms.view::<f32>("norm").unwrap(), array![5.0, 20.0]);
    assert_eq!(norms.bools("large").unwrap(), array![false, true]);
    let wrong = format_error(all().rename([("stop", "fare_"), ("fare", "stop")]).map_batches(embed).count());
    assert!(matches!(&wrong, FormatError::WrongType { column, .. } if column == "stop"), "{wrong}");
}

/// Ids, as a type of the user's own.
#[derive(Serialize, Deserialize)]
struct Ids(Vec<i64>);

impl mobula::FromBatch for Ids {
    fn from_batch(batch: RecordBatch) -> Result<Self, FormatError> {
        Ok(Self(batch.column(0).as_primitive::<Int64Type>().values().to_vec()))
    }
}

impl mobula::IntoBatch for Ids {
    fn into_batch(self) -> Result<RecordBatch, FormatError> {
        let ids: ArrayRef = Arc::new(Int64Array::from(self.0));
        Ok(RecordBatch::try_from_iter([("id", ids)]).unwrap())
    }
}

#[remote(batches)]
async fn backwards(ids: Ids) -> Ids {
    Ids(ids.0.into_iter().rev().collect())
}

#[test]
fn a_form_of_the_users_own() {
    let session = session();
    let _entered = session.enter();
    let numbers: Vec<Number> = range(3).map_batches(backwards).to_rows().unwrap();
    assert_eq!(numbers, [2, 1, 0].map(|id| Number { id }));
}
