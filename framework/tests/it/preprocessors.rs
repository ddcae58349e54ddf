//! Preprocessors, against values worked out by hand as scikit-learn has them.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float32Array, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float32Type, Float64Type, Int64Type, UInt8Type};
use mobula::preprocessors::{
    Chain, Concatenator, Fill, Fitted, MinMaxScaler, OneHotEncoder, OrdinalEncoder, Preprocessor, Scalar,
    SimpleImputer, StandardScaler, Unknown,
};
use mobula::{Config, Dataset, Session, col, from_batches, lit, range, remote};

fn session() -> Session {
    Session::start(Config::default().num_cpus(2)).unwrap()
}

/// The first flowers of the iris data, and what they may lack.
fn flowers() -> RecordBatch {
    let numbers = |values: [Option<f64>; 6]| Arc::new(Float64Array::from(values.to_vec())) as ArrayRef;
    let length = numbers([Some(5.1), Some(4.9), Some(4.7), None, Some(4.6), Some(5.0)]);
    let same = numbers([Some(0.1), Some(0.1), Some(0.1), Some(0.1), None, Some(0.1)]);
    let spots: ArrayRef = Arc::new(Int64Array::from(vec![Some(3), Some(1), None, Some(1), Some(7), Some(2)]));
    let species = [Some("setosa"), Some("virginica"), Some("setosa"), None, Some("versicolor"), Some("virginica")];
    let species: ArrayRef = Arc::new(StringArray::from(species.to_vec()));
    let columns = [("length", length), ("same", same), ("spots", spots), ("species", species)];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap()
}

/// In blocks of one, two and three rows.
fn dataset() -> Dataset {
    let all = flowers();
    from_batches([all.slice(0, 1), all.slice(1, 2), all.slice(3, 3)])
}

fn numbers(batch: &RecordBatch, name: &str) -> Vec<Option<f64>> {
    let column = batch.column_by_name(name).unwrap_or_else(|| panic!("{name} in {}", batch.schema()));
    cast(column, &DataType::Float64).unwrap().as_primitive::<Float64Type>().iter().collect()
}

fn whole(batch: &RecordBatch, name: &str) -> Vec<Option<i64>> {
    let column = cast(batch.column_by_name(name).unwrap(), &DataType::Int64).unwrap();
    column.as_primitive::<Int64Type>().iter().collect()
}

fn names(batch: &RecordBatch) -> Vec<String> {
    batch.schema().fields().iter().map(|field| field.name().clone()).collect()
}

fn close(found: &[Option<f64>], expected: &[Option<f64>]) {
    let near = |pair: (&Option<f64>, &Option<f64>)| match pair {
        (Some(one), Some(other)) => (one - other).abs() < 1e-12,
        (one, other) => one == other,
    };
    assert!(found.len() == expected.len() && found.iter().zip(expected).all(near), "{found:?} is not {expected:?}");
}

/// The rows as a plan transforms them, having checked that a batch is transformed to the same.
fn transformed(fitted: &Fitted, dataset: &Dataset) -> RecordBatch {
    let rows = fitted.transform(dataset).unwrap().to_arrow().unwrap();
    let batch = fitted.transform_batch(&dataset.to_arrow().unwrap()).unwrap();
    assert_eq!(batch, rows);
    rows
}

#[test]
fn numbers_are_standardised_by_the_deviation_of_the_population() {
    let session = session();
    let _entered = session.enter();
    let fitted = StandardScaler::new(["length", "same", "spots"]).fit(&dataset()).unwrap();
    let Fitted::StandardScaler(columns) = &fitted else { panic!("{fitted:?}") };
    // The mean of five 0.1 is not 0.1 in floating point; that of equal numbers is.
    assert_eq!((columns[1].mean, columns[1].std), (0.1, 0.0));
    close(&[Some(columns[0].mean), Some(columns[0].std)], &[Some(4.86), Some(0.185_472_369_909_914_1)]);
    close(&[Some(columns[2].mean), Some(columns[2].std)], &[Some(2.8), Some(2.227_105_745_132_009)]);
    let rows = transformed(&fitted, &dataset());
    assert_eq!(names(&rows), ["length", "same", "spots", "species"]);
    let expected = [1.293_993_278_441_257_6, 0.215_665_546_406_877_05, -0.862_662_185_627_508_2];
    close(&numbers(&rows, "length")[..3], &expected.map(Some));
    assert_eq!(numbers(&rows, "length")[3], None);
    assert_eq!(numbers(&rows, "same"), [Some(0.0), Some(0.0), Some(0.0), Some(0.0), None, Some(0.0)]);
}

#[test]
fn columns_may_change_places() {
    let session = session();
    let _entered = session.enter();
    let both = range(3).with_column("double", col("id") * lit(10));
    let fitted = MinMaxScaler::new(["id", "double"]).output_columns(["double", "id"]).fit(&both).unwrap();
    let rows = transformed(&fitted, &both);
    assert_eq!(names(&rows), ["id", "double"]);
    assert_eq!(numbers(&rows, "id"), [Some(0.0), Some(0.5), Some(1.0)]);
    let swapped = both.with_columns([("id", col("double")), ("double", col("id"))]).to_arrow().unwrap();
    assert_eq!((whole(&swapped, "id")[2], whole(&swapped, "double")[2]), (Some(20), Some(2)));
}

#[test]
fn a_value_for_every_column_and_many_of_them() {
    let session = session();
    let _entered = session.enter();
    let many = range(2_000).repartition(3);
    let fitted = OneHotEncoder::new("id").fit(&many).unwrap();
    let rows = fitted.transform(&many).unwrap().to_arrow().unwrap();
    assert_eq!((rows.num_rows(), rows.num_columns()), (2_000, 2_000));
    assert!((0..2_000).step_by(399).all(|id| rows.column(id).as_primitive::<UInt8Type>().value(id) == 1));
    assert_eq!(rows.schema().field(1_999).name(), "id_1999");
}

#[test]
fn one_row_is_a_population_without_deviation() {
    let session = session();
    let _entered = session.enter();
    let one = from_batches([flowers().slice(0, 1)]);
    let (_, scaled) = StandardScaler::new("length").fit_transform(&one).unwrap();
    assert_eq!(numbers(&scaled.to_arrow().unwrap(), "length"), [Some(0.0)]);
}

#[test]
fn numbers_are_put_between_0_and_1() {
    let session = session();
    let _entered = session.enter();
    let scaler = MinMaxScaler::new(["length", "spots", "same"]).output_columns(["l", "spots", "s"]);
    let (fitted, scaled) = scaler.fit_transform(&dataset()).unwrap();
    assert_eq!(transformed(&fitted, &dataset()), scaled.to_arrow().unwrap());
    let rows = scaled.to_arrow().unwrap();
    assert_eq!(names(&rows), ["length", "same", "spots", "species", "l", "s"]);
    close(&numbers(&rows, "l"), &[Some(1.0), Some(0.6), Some(0.2), None, Some(0.0), Some(0.8)]);
    let spots = [Some(2.0 / 6.0), Some(0.0), None, Some(0.0), Some(1.0), Some(1.0 / 6.0)];
    close(&numbers(&rows, "spots"), &spots);
    assert_eq!(numbers(&rows, "s")[..2], [Some(0.0), Some(0.0)]);
    let plan = scaled.plan().to_string();
    assert!(plan.contains("with_columns l = ") && plan.contains(", spots = (spots - 1) / 6, s = same - 0.1"), "{plan}");
}

#[test]
fn values_become_their_number_in_order() {
    let session = session();
    let _entered = session.enter();
    let encoder = OrdinalEncoder::new(["species", "spots"]).output_columns(["species", "spots_number"]);
    let fitted = encoder.clone().fit(&dataset()).unwrap();
    let Fitted::OrdinalEncoder { columns, .. } = &fitted else { panic!("{fitted:?}") };
    assert_eq!(columns[0].values, ["setosa", "versicolor", "virginica"].map(Scalar::from));
    assert_eq!(columns[1].values, [1, 2, 3, 7].map(Scalar::from));
    let rows = transformed(&fitted, &dataset());
    assert_eq!(whole(&rows, "species"), [Some(0), Some(2), Some(0), None, Some(1), Some(2)]);
    assert_eq!(whole(&rows, "spots_number"), [Some(2), Some(0), None, Some(0), Some(3), Some(1)]);

    // The second block has a value that the first does not.
    let first = from_batches([flowers().slice(0, 3)]);
    let rows = transformed(&encoder.fit(&first).unwrap(), &dataset());
    assert_eq!(whole(&rows, "species"), [Some(0), Some(1), Some(0), None, None, Some(1)]);
    let strict = encoder.unknown(Unknown::Error).fit(&first).unwrap();
    let error = strict.transform(&dataset()).unwrap().to_arrow().unwrap_err().to_string();
    assert!(error.contains("species") && error.contains("\"versicolor\" is none of"), "{error}");
    assert!(strict.transform_batch(&flowers()).unwrap_err().to_string().contains("versicolor"));
}

#[test]
fn values_become_columns_of_their_own() {
    let session = session();
    let _entered = session.enter();
    let fitted = OneHotEncoder::new(["species", "spots"]).max_categories("spots", 2).fit(&dataset()).unwrap();
    let rows = transformed(&fitted, &dataset());
    let expected =
        ["length", "same", "species_setosa", "species_versicolor", "species_virginica", "spots_1", "spots_2"];
    assert_eq!(names(&rows), expected);
    assert_eq!(rows.column_by_name("spots_1").unwrap().data_type(), &DataType::UInt8);
    assert_eq!(whole(&rows, "species_virginica"), [Some(0), Some(1), Some(0), None, Some(0), Some(1)]);
    assert_eq!(whole(&rows, "spots_1"), [Some(0), Some(1), None, Some(1), Some(0), Some(0)]);
    assert_eq!(whole(&rows, "spots_2"), [Some(0), Some(0), None, Some(0), Some(0), Some(1)]);

    let unknown = dataset().with_column("species", lit("rosa"));
    let rows = OneHotEncoder::new("species").fit(&dataset()).unwrap().transform(&unknown).unwrap().to_arrow().unwrap();
    assert_eq!(whole(&rows, "species_setosa"), [Some(0); 6]);
}

#[test]
fn nulls_are_filled() {
    let session = session();
    let _entered = session.enter();
    let filled = |column: &str, fill: Fill| {
        let fitted = SimpleImputer::new(column, fill).fit(&dataset()).unwrap();
        transformed(&fitted, &dataset())
    };
    close(&numbers(&filled("spots", Fill::Mean), "spots")[2..3], &[Some(2.8)]);
    close(&numbers(&filled("spots", Fill::Median), "spots")[2..3], &[Some(2.0)]);
    let frequent = filled("spots", Fill::MostFrequent);
    assert_eq!(frequent.column_by_name("spots").unwrap().data_type(), &DataType::Int64);
    assert_eq!(whole(&frequent, "spots"), [3, 1, 1, 1, 7, 2].map(Some));
    // As frequent as another, and less.
    let species = filled("species", Fill::MostFrequent);
    assert_eq!(species.column_by_name("species").unwrap().as_string::<i32>().value(3), "setosa");
    let species = filled("species", Fill::constant("none"));
    assert_eq!(species.column_by_name("species").unwrap().as_string::<i32>().value(3), "none");
    assert_eq!(numbers(&filled("same", Fill::constant(0)), "same")[4], Some(0.0));
}

#[test]
fn columns_are_put_together() {
    let session = session();
    let _entered = session.enter();
    let fitted = Concatenator::new(["length", "spots"], "features").fit(&dataset()).unwrap();
    let rows = transformed(&fitted, &dataset());
    assert_eq!(names(&rows), ["same", "species", "features"]);
    let features = rows.column_by_name("features").unwrap().as_fixed_size_list();
    assert_eq!((features.value_length(), features.len()), (2, 6));
    let values: Vec<_> = features.values().as_primitive::<Float64Type>().iter().collect();
    assert_eq!(values[..8], [Some(5.1), Some(3.0), Some(4.9), Some(1.0), Some(4.7), None, None, Some(1.0)]);

    let narrow = Concatenator::new(["length", "spots"], "features").float32().fit(&dataset()).unwrap();
    let rows = transformed(&narrow, &dataset());
    let features = rows.column_by_name("features").unwrap().as_fixed_size_list();
    assert_eq!(features.values().as_primitive::<Float32Type>().value(0), 5.1_f32);
    let halves: ArrayRef = Arc::new(Float32Array::from(vec![0.5]));
    let batch = RecordBatch::try_from_iter([("length", halves.clone()), ("spots", halves)]).unwrap();
    let types = |fitted: &Fitted| {
        let batch = fitted.transform_batch(&batch).unwrap();
        batch.column(0).as_fixed_size_list().value_type()
    };
    assert_eq!(types(&fitted), DataType::Float32);
    let wide = Concatenator::new(["length", "spots"], "features").float64().fit(&dataset()).unwrap();
    assert_eq!(types(&wide), DataType::Float64);
}

fn chain() -> Chain {
    Chain::new()
        .then(SimpleImputer::new(["length", "spots"], Fill::Mean))
        .then(StandardScaler::new(["length", "spots"]))
        .then(OneHotEncoder::new("species"))
        .then(Concatenator::new(["length", "spots"], "features"))
}

#[test]
fn a_chain_learns_step_by_step_and_survives_being_saved() {
    let session = session();
    let _entered = session.enter();
    let (fitted, train) = chain().fit_transform(&dataset()).unwrap();
    let rows = transformed(&fitted, &dataset());
    assert_eq!(train.to_arrow().unwrap(), rows);
    assert_eq!(names(&rows), ["same", "species_setosa", "species_versicolor", "species_virginica", "features"]);
    let features = rows.column_by_name("features").unwrap().as_fixed_size_list();
    let values: Vec<_> = features.values().as_primitive::<Float64Type>().iter().collect();
    // Filled with the mean, which is 0 when scaled; the deviation of six is less than that of five.
    let (length, spots) = (0.24 / 0.169_312_334_656_003_93, 0.2 / 2.033_060_090_930_254_3);
    let close_enough = |one: Option<f64>, other: f64| assert!((one.unwrap() - other).abs() < 1e-9, "{one:?} {other}");
    for (place, expected) in [(0, length), (1, spots), (5, 0.0), (6, 0.0)] {
        close_enough(values[place], expected);
    }

    let json = mobula_json(&fitted);
    let put = mobula::put(fitted.clone()).unwrap();
    assert_eq!(mobula::get(&put).unwrap(), fitted);
    assert_eq!(json, fitted);
}

/// Written as text and read again.
fn mobula_json(fitted: &Fitted) -> Fitted {
    let text = serde_json::to_string(fitted).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[remote]
fn unchanged(batch: RecordBatch) -> RecordBatch {
    batch
}

#[test]
fn what_comes_after_a_function_is_preprocessed_too() {
    let session = session();
    let _entered = session.enter();
    let mapped = dataset().map_batches(unchanged);
    let (_, rows) = chain().fit_transform(&mapped).unwrap();
    let (_, expected) = chain().fit_transform(&dataset()).unwrap();
    assert_eq!(rows.to_arrow().unwrap(), expected.to_arrow().unwrap());
    let fitted = chain().fit(&dataset()).unwrap();
    let none = fitted.transform_batch(&flowers().slice(0, 0)).unwrap();
    assert_eq!(names(&none), names(&expected.to_arrow().unwrap()));
}

#[test]
fn errors_name_preprocessor_and_column() {
    let session = session();
    let _entered = session.enter();
    let error = |preprocessor: &dyn Preprocessor| preprocessor.fit(&dataset()).unwrap_err().to_string();
    let there_are = "there are length, same, spots, species";
    assert_eq!(error(&StandardScaler::new("width")), format!("StandardScaler: there is no column width; {there_are}"));
    assert_eq!(error(&OneHotEncoder::new("kind")), format!("OneHotEncoder: there is no column kind; {there_are}"));
    let twice = "OneHotEncoder: two columns would be called a_b_c: rename one of those encoded";
    let names = dataset().with_columns([("a", lit("b_c")), ("a_b", lit("c"))]);
    assert_eq!(OneHotEncoder::new(["a", "a_b"]).fit(&names).unwrap_err().to_string(), twice);
    let encoded = "OneHotEncoder: a_b is one of the columns that are encoded, and would be one of values: rename it";
    let names = dataset().with_columns([("a", lit("b")), ("a_b", lit("c"))]);
    assert_eq!(OneHotEncoder::new(["a", "a_b"]).fit(&names).unwrap_err().to_string(), encoded);
    let no_number = "mean(species): species is a text, not a number; cast it to one";
    assert_eq!(error(&StandardScaler::new("species")), format!("StandardScaler: {no_number}"));
    assert_eq!(error(&SimpleImputer::new("species", Fill::Mean)), format!("SimpleImputer: {no_number}"));
    let no_number = "MinMaxScaler: column species is Utf8, which is no number";
    assert_eq!(error(&MinMaxScaler::new("species")), no_number);
    let taken = "Concatenator: same is one of the columns that are put together: name another output";
    assert_eq!(error(&Concatenator::new(["length", "same"], "same")), taken);
    let limit = "OneHotEncoder: column spots, whose values are limited, is not encoded";
    assert_eq!(error(&OneHotEncoder::new("species").max_categories("spots", 1)), limit);

    let none = dataset().filter(col("length").gt(lit(100)));
    let nothing = "has no value to learn of: all are null, or there are no rows";
    let error = |preprocessor: &dyn Preprocessor| preprocessor.fit(&none).unwrap_err().to_string();
    assert_eq!(error(&StandardScaler::new("length")), format!("StandardScaler: column length {nothing}"));
    assert_eq!(error(&OrdinalEncoder::new("species")), format!("OrdinalEncoder: column species {nothing}"));
    let nan = dataset().with_column("length", lit(f64::NAN));
    let error = MinMaxScaler::new("length").fit(&nan).unwrap_err().to_string();
    assert!(error.starts_with("MinMaxScaler: column length has values that are infinite, or NaN"), "{error}");
}

#[test]
fn what_does_not_fit_is_told_before_anything_runs() {
    let session = session();
    let _entered = session.enter();
    let fitted = chain().fit(&dataset()).unwrap();
    let other = dataset().drop_columns("spots");
    let expected = "SimpleImputer: there is no column spots; there are length, same, species";
    assert_eq!(fitted.transform(&other).unwrap_err().to_string(), expected);
    assert_eq!(fitted.transform_batch(&other.to_arrow().unwrap()).unwrap_err().to_string(), expected);
    let text = dataset().with_column("length", lit("long"));
    let error = StandardScaler::new("length").fit(&dataset()).unwrap().transform(&text).unwrap_err().to_string();
    assert!(error.starts_with("StandardScaler: length - 4.86: length is a text"), "{error}");
    let own = Fitted::Expressions { name: "Own".to_owned(), columns: vec![("x".to_owned(), col("y"))] };
    assert!(own.transform(&dataset()).unwrap_err().to_string().starts_with("Own: there is no column y"));
}

#[test]
fn columns_of_values_replace_no_other() {
    let session = session();
    let _entered = session.enter();
    let fitted = OneHotEncoder::new("species").fit(&dataset()).unwrap();
    let expected = "OneHotEncoder: there is a column species_setosa already: rename it, or the one encoded";
    let taken = dataset().with_column("species_setosa", lit(1));
    assert_eq!(fitted.transform(&taken).unwrap_err().to_string(), expected);
    assert_eq!(fitted.transform_batch(&taken.to_arrow().unwrap()).unwrap_err().to_string(), expected);
    // One that another step makes.
    let columns = vec![("species_setosa".to_owned(), col("length"))];
    let chain = Fitted::Chain(vec![Fitted::Expressions { name: "Own".to_owned(), columns }, fitted]);
    assert_eq!(chain.transform(&dataset()).unwrap_err().to_string(), expected);
    assert_eq!(chain.transform_batch(&flowers()).unwrap_err().to_string(), expected);
}
