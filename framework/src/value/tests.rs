use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array as _, ArrayRef, DictionaryArray, Int32Array, Int64Array, ListArray, RecordBatch, StringArray,
};
use arrow::datatypes::{Int32Type, Schema};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use super::*;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Shape {
    Point,
    Circle { radius: f64 },
    Many(Vec<Shape>),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Everything {
    flag: bool,
    big: u128,
    small: i128,
    letter: char,
    text: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    absent: Option<String>,
    table: BTreeMap<String, (i8, Option<u64>)>,
    shapes: Vec<Shape>,
    numbers: Array<f32>,
    raw: Bytes,
}

fn round<T: Value>(value: T) -> T {
    decode(encode(value).unwrap()).unwrap()
}

#[test]
fn what_the_first_users_put() {
    assert_eq!(round(0), 0);
    assert_eq!(round(0.9), 0.9);
    assert_eq!(round(1_u64 << 62), 1 << 62);
    assert_eq!(round(String::new()), "");
    assert_eq!(round("été 日本 \u{1f980}".to_owned()), "été 日本 \u{1f980}");
    assert_eq!(round(None::<i64>), None);
    assert_eq!(round(Vec::<Vec<String>>::new()), Vec::<Vec<String>>::new());
    assert_eq!(round(BTreeMap::<String, i64>::new()), BTreeMap::new());
    round(());
    assert!(round(f64::NAN).is_nan());
}

#[test]
fn unit_is_also_read_from_nothing() {
    decode::<()>(Encoded::new(Encoding::RAW, Vec::new())).unwrap();
}

#[test]
fn bytes_and_numbers_are_not_copied() {
    let bytes = Bytes::from(vec![7; 1000]);
    let encoded = encode(bytes.clone()).unwrap();
    assert_eq!(encoded.encoding, Encoding::RAW);
    assert_eq!(encoded.data.as_ptr(), bytes.as_ptr());
    assert_eq!(decode::<Bytes>(encoded).unwrap().as_ptr(), bytes.as_ptr());

    let numbers = vec![1.5_f64; 1000];
    let address = numbers.as_ptr();
    let encoded = encode(numbers).unwrap();
    assert_eq!(encoded.encoding, Encoding(Encoding::NUMBERS.0 + 9));
    let array: Array<f64> = decode(encoded).unwrap();
    assert_eq!(array.as_ptr(), address);
}

#[test]
fn numbers_at_an_odd_address_are_copied_into_place() {
    let mut data = vec![0];
    data.extend([1.5_f64, -2.0].iter().flat_map(|number| number.to_le_bytes()));
    let data = Bytes::from(data).slice(1..);
    let encoding = Encoding(Encoding::NUMBERS.0 + 9);
    assert_eq!(*decode::<Array<f64>>(Encoded::new(encoding, data.clone())).unwrap(), [1.5, -2.0]);
    assert_eq!(decode::<Vec<f64>>(Encoded::new(encoding, data)).unwrap(), [1.5, -2.0]);
}

#[test]
fn the_wrong_type_is_an_error_that_names_both() {
    let error = decode::<Vec<f64>>(encode(vec![1_i32]).unwrap()).unwrap_err().to_string();
    assert!(error.contains("f64") && error.contains("array of i32"), "{error}");
    let error = decode::<String>(encode(vec![1_i32]).unwrap()).unwrap_err().to_string();
    assert!(error.contains("String") && error.contains("array of i32"), "{error}");
    let error = decode::<i64>(encode("x".to_owned()).unwrap()).unwrap_err().to_string();
    assert!(error.contains("i64"), "{error}");
    assert!(decode::<Batch>(encode(Bytes::new()).unwrap()).is_err());
    assert!(decode::<Batch>(Encoded::new(Encoding::ARROW, Vec::new())).is_err());
    let error = decode::<Vec<f64>>(Encoded::new(Encoding(25), vec![0; 7])).unwrap_err().to_string();
    assert!(error.contains("7 bytes"), "{error}");
}

#[test]
fn what_serde_refuses_is_an_error_that_names_the_type() {
    #[derive(Deserialize)]
    struct Stubborn;
    impl Serialize for Stubborn {
        fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom("never"))
        }
    }
    let error = encode(Stubborn).unwrap_err().to_string();
    assert!(error.contains("Stubborn") && error.contains("never") && error.contains("encoded"), "{error}");
}

fn columns() -> RecordBatch {
    let keys = Int32Array::from(vec![Some(0), None, Some(1), Some(0)]);
    let zones: ArrayRef = Arc::new(DictionaryArray::new(keys, Arc::new(StringArray::from(vec!["JFK", "EWR"]))));
    let lists = vec![Some(vec![Some(1), None]), None, Some(vec![]), Some(vec![Some(4)])];
    let lists: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(lists));
    let text: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None, Some(""), Some("日本")]));
    let ids: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3, 4]));
    RecordBatch::try_from_iter_with_nullable([
        ("zone", zones, true),
        ("list", lists, true),
        ("text", text, true),
        ("id", ids, false),
    ])
    .unwrap()
}

#[test]
fn batches_round() {
    let batch = columns();
    assert_eq!(*round(Batch::from(batch.clone())), batch);
    let part = batch.slice(1, 2);
    assert_eq!(*round(Batch::from(part.clone())), part);
    let empty = batch.slice(0, 0);
    assert_eq!(*round(Batch::from(empty.clone())), empty);
    let no_columns = RecordBatch::new_empty(Arc::new(Schema::empty()));
    assert_eq!(*round(Batch::from(no_columns.clone())), no_columns);
}

#[test]
fn a_batch_borrows_the_bytes_it_is_read_from() {
    let numbers = Int64Array::from_iter_values(0..1000);
    let batch = RecordBatch::try_from_iter([("n", Arc::new(numbers) as ArrayRef)]).unwrap();
    let encoded = encode(Batch::from(batch)).unwrap();
    // The store's memory is aligned to pages; a vector's only to what it holds.
    let aligned = aligned_to_64(&encoded.data);
    let range = aligned.as_ptr_range();
    let read: Batch = decode(Encoded::new(encoded.encoding, aligned)).unwrap();
    let data = read.column(0).to_data();
    let buffer = &data.buffers()[0];
    assert!(range.contains(&buffer.as_ptr()), "it was copied");
    assert_eq!(buffer.as_ptr().align_offset(64), 0);
}

fn aligned_to_64(data: &[u8]) -> Bytes {
    let mut memory = vec![0; data.len() + 64];
    let offset = memory.as_ptr().align_offset(64);
    memory[offset..offset + data.len()].copy_from_slice(data);
    Bytes::from(memory).slice(offset..offset + data.len())
}

#[test]
fn the_pieces_of_a_batch_are_its_own_buffers() {
    let numbers = Int64Array::from_iter_values(0..1000);
    let address = numbers.values().as_ptr().cast::<u8>();
    let batch = RecordBatch::try_from_iter([("n", Arc::new(numbers) as ArrayRef)]).unwrap();
    let Parts::Pieces(_, pieces) = encode_parts(Batch::from(batch)).unwrap() else { panic!("in one piece") };
    assert!(pieces.iter().any(|piece| piece.as_ptr() == address), "it was copied");
}

#[test]
fn corrupt_batches_are_errors() {
    let encoded = encode(Batch::from(columns())).unwrap();
    for len in (0..encoded.len()).step_by(7) {
        let cut = Encoded::new(Encoding::ARROW, encoded.data.slice(..len));
        if let Ok(batch) = decode::<Batch>(cut) {
            // Only the end-of-stream marker may be missing.
            assert_eq!(*batch, columns());
        }
    }
}

fn everything() -> impl Strategy<Value = Everything> {
    let shape = prop_oneof![Just(Shape::Point), any::<f64>().prop_map(|radius| Shape::Circle { radius })];
    let shape = shape.prop_recursive(3, 16, 4, |inner| prop::collection::vec(inner, 0..4).prop_map(Shape::Many));
    (
        (any::<bool>(), any::<u128>(), any::<i128>(), any::<char>(), ".*"),
        prop::option::of(".*"),
        prop::collection::btree_map(".*", (any::<i8>(), any::<Option<u64>>()), 0..4),
        prop::collection::vec(shape, 0..4),
        prop::collection::vec(any::<f32>(), 0..9),
        prop::collection::vec(any::<u8>(), 0..300),
    )
        .prop_map(|((flag, big, small, letter, text), absent, table, shapes, numbers, raw)| Everything {
            flag,
            big,
            small,
            letter,
            text,
            absent,
            table,
            shapes,
            numbers: Array::from(numbers),
            raw: Bytes::from(raw),
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn serde_values_round(value in everything()) {
        prop_assert_eq!(round(value.clone()), value);
    }

    #[test]
    fn numbers_round(bytes in prop::collection::vec(any::<u8>(), 0..200), floats in prop::collection::vec(any::<f64>(), 0..50)) {
        prop_assert_eq!(&round(bytes.clone()), &bytes);
        prop_assert_eq!(&*round(Array::from(bytes.clone())), &bytes[..]);
        prop_assert_eq!(round(floats.clone()), floats.clone());
        let words: Vec<i16> = floats.iter().map(|float| *float as i16).collect();
        prop_assert_eq!(round(words.clone()), words);
    }

    #[test]
    fn no_bytes_panic(encoding in 0_u8..30, data in prop::collection::vec(any::<u8>(), 0..200)) {
        let value = || Encoded::new(Encoding(encoding), data.clone());
        let _ = decode::<Everything>(value());
        let _ = decode::<Vec<f64>>(value());
        let _ = decode::<Array<u16>>(value());
        let _ = decode::<Bytes>(value());
        let _ = decode::<Vec<Array<u32>>>(value());
        let _ = decode::<Option<Batch>>(value());
        let _ = decode::<()>(value());
    }
}
