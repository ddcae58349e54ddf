use super::*;
use proptest::prelude::*;

fn schema(columns: &[(&str, DataType)]) -> Schema {
    Schema::new(columns.iter().map(|(n, t)| Field::new(*n, t.clone(), true)).collect::<Vec<_>>())
}

fn unify_all(schemas: &[Schema], matching: &Matching) -> Result<Unified, DataError> {
    let paths: Vec<String> = (0..schemas.len()).map(|i| format!("f{i}")).collect();
    let files: Vec<_> =
        schemas.iter().zip(&paths).map(|(schema, path)| FileSchema { path, schema, hive: &[] }).collect();
    unify(&files, matching)
}

fn zoned(zone: &str) -> DataType {
    DataType::Timestamp(TimeUnit::Nanosecond, Some(zone.into()))
}

#[test]
fn a_zone_that_is_dropped_is_told() {
    let file = |at: DataType| schema(&[("id", DataType::Int64), ("at", at)]);
    let naive = DataType::Timestamp(TimeUnit::Millisecond, None);
    for (types, dropped) in [
        (vec![zoned("UTC"), naive.clone()], true),
        (vec![zoned("UTC"), zoned("UTC"), zoned("Asia/Tokyo")], true),
        (vec![zoned("UTC"), DataType::Null, zoned("UTC")], false),
        (vec![naive.clone(), DataType::Timestamp(TimeUnit::Second, None)], false),
    ] {
        let schemas: Vec<_> = types.into_iter().map(file).collect();
        let unified = unify_all(&schemas, &Matching::default()).unwrap();
        assert_eq!(unified.zones_dropped, if dropped { vec!["at".to_owned()] } else { vec![] }, "{schemas:?}");
    }
}

#[test]
fn two_months_that_differ_become_one_schema() {
    let january = schema(&[
        ("id", DataType::Int64),
        ("rate", DataType::Float64),
        ("fee", DataType::Null),
        ("flag", DataType::Utf8),
    ]);
    let february = schema(&[
        ("ID", DataType::Int32),
        ("Rate", DataType::Int64),
        ("fee", DataType::Float64),
        ("flag", DataType::LargeUtf8),
        ("extra", DataType::Int32),
    ]);
    let matching = Matching { ignore_case: true, ..Matching::default() };
    let unified = unify_all(&[january.clone(), february.clone()], &matching).unwrap();
    let expected = schema(&[
        ("id", DataType::Int64),
        ("rate", DataType::Float64),
        ("fee", DataType::Float64),
        ("flag", DataType::Utf8),
        ("extra", DataType::Int32),
    ]);
    assert_eq!(*unified.schema, expected);
    let [a, b, c, d] = [0, 1, 2, 3].map(ColumnSource::File);
    assert_eq!(unified.columns[0], [a, b, c, d, ColumnSource::Missing]);
    let strict = unify_all(&[january, february], &Matching::default()).unwrap();
    assert_eq!(strict.schema.fields().len(), 7);
}

#[test]
fn an_alias_stays_when_all_agree_and_goes_when_they_do_not() {
    let pickup = ColumnName {
        name: "pickup".into(),
        aliases: vec!["tpep_pickup".into(), "lpep_pickup".into()],
        default_type: None,
    };
    let matching = Matching { ignore_case: true, names: vec![pickup], ..Matching::default() };
    let yellow = schema(&[("fare", DataType::Float64), ("TPEP_pickup", DataType::Int64)]);
    let green = schema(&[("fare", DataType::Float64), ("lpep_pickup", DataType::Int64)]);
    let names = |u: Unified| u.schema.fields().iter().map(|f| f.name().clone()).collect::<Vec<_>>();
    assert_eq!(names(unify_all(&[yellow.clone(), yellow.clone()], &matching).unwrap()), ["tpep_pickup", "fare"]);
    assert_eq!(names(unify_all(&[yellow, green], &matching).unwrap()), ["pickup", "fare"]);
    let other = schema(&[("fare", DataType::Float64)]);
    assert_eq!(names(unify_all(&[other], &matching).unwrap()), ["fare"]);
}

#[test]
fn a_missing_required_column_names_the_file() {
    let matching = Matching { required: vec!["fare".into()], ignore_case: true, ..Matching::default() };
    let error = unify_all(&[schema(&[("Fare", DataType::Int64)]), schema(&[("x", DataType::Int64)])], &matching);
    assert_eq!(error.unwrap_err().to_string(), "f1 has no column fare; it has x");
}

#[test]
fn two_spellings_in_one_file_are_refused_unless_case_counts() {
    let file = schema(&[("Fee", DataType::Int64), ("fee", DataType::Int64)]);
    let matching = Matching { ignore_case: true, ..Matching::default() };
    assert!(matches!(unify_all(std::slice::from_ref(&file), &matching), Err(DataError::AmbiguousColumn { .. })));
    assert!(unify_all(&[file], &Matching::default()).is_ok());
}

#[test]
fn types_without_a_common_one_name_both_files() {
    let files = [schema(&[("x", DataType::Utf8)]), schema(&[("x", DataType::Int64)])];
    let text = unify_all(&files, &Matching::default()).unwrap_err().to_string();
    assert!(text.contains("Utf8 in f0") && text.contains("Int64 in f1"), "{text}");
}

#[test]
fn a_zone_stays_where_all_files_have_it() {
    let micro = |zone: Option<&str>| DataType::Timestamp(TimeUnit::Microsecond, zone.map(Into::into));
    let at = |t: DataType| schema(&[("at", t)]);
    let unified = |files: &[Schema], microseconds| {
        let matching = Matching { microseconds, ..Matching::default() };
        unify_all(files, &matching).unwrap().schema.field(0).data_type().clone()
    };
    assert_eq!(unified(&[at(zoned("UTC")), at(zoned("UTC"))], false), zoned("UTC"));
    assert_eq!(unified(&[at(zoned("UTC"))], true), micro(Some("UTC")));
    assert_eq!(unified(&[at(zoned("UTC")), at(micro(Some("UTC")))], false), micro(Some("UTC")));
    assert_eq!(unified(&[at(zoned("UTC")), at(zoned("America/New_York"))], false), micro(None));
    assert_eq!(unified(&[at(zoned("UTC")), at(micro(None))], true), micro(None));
}

#[test]
fn a_schema_survives_the_wire() {
    let schema = schema(&[("a", zoned("UTC")), ("b", DataType::Utf8), ("c", DataType::Null)]);
    assert_eq!(wire::from_bytes(&wire::to_bytes(&schema)).unwrap(), schema);
    assert!(wire::from_bytes(&[1, 2, 3]).is_err());
}

fn any_type() -> impl Strategy<Value = DataType> {
    use DataType::*;
    proptest::sample::select(vec![
        Null,
        Int8,
        Int16,
        Int32,
        Int64,
        UInt8,
        UInt16,
        UInt32,
        UInt64,
        Float32,
        Float64,
        Utf8,
        Boolean,
        Timestamp(TimeUnit::Nanosecond, None),
        local_timestamp(),
        zoned("UTC"),
        Date32,
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]
    #[test]
    fn common_types_do_not_depend_on_order(a in any_type(), b in any_type()) {
        prop_assert_eq!(common_type(&a, &b), common_type(&b, &a));
        if let Some(c) = common_type(&a, &b) {
            prop_assert_eq!(common_type(&a, &c), Some(c.clone()));
            prop_assert_eq!(common_type(&c, &b), Some(c));
        }
    }
}
