//! Floats as whole numbers of the same order.
//!
//! DataFusion's least and greatest values of groups depend on where among the others a NaN comes;
//! those of whole numbers do not. Here a NaN is greater than every number, as it is where rows are
//! sorted.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, PrimitiveArray};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Float16Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type,
};

use super::keys::one_zero;

/// The type of the whole numbers that stand for floats of this type; none for other types.
pub(super) fn whole_type(floats: &DataType) -> Option<DataType> {
    match floats {
        DataType::Float16 => Some(DataType::Int16),
        DataType::Float32 => Some(DataType::Int32),
        DataType::Float64 => Some(DataType::Int64),
        _ => None,
    }
}

/// The whole numbers that stand for floats; zeros are one number whatever their sign, and so are
/// all NaNs. Other arrays stay as they are.
pub(super) fn to_whole(array: &ArrayRef) -> ArrayRef {
    let array = one_zero(array);
    match array.data_type() {
        DataType::Float16 => map::<Float16Type, Int16Type>(&array, |value| turn_16(value.to_bits() as i16)),
        DataType::Float32 => map::<Float32Type, Int32Type>(&array, |value| turn_32(value.to_bits() as i32)),
        DataType::Float64 => map::<Float64Type, Int64Type>(&array, |value| turn_64(value.to_bits() as i64)),
        _ => array,
    }
}

/// The floats for which whole numbers stand. Other arrays stay as they are.
pub(super) fn from_whole(array: &ArrayRef, floats: &DataType) -> ArrayRef {
    type Half = <Float16Type as ArrowPrimitiveType>::Native;
    match floats {
        DataType::Float16 => map::<Int16Type, Float16Type>(array, |value| Half::from_bits(turn_16(value) as u16)),
        DataType::Float32 => map::<Int32Type, Float32Type>(array, |value| f32::from_bits(turn_32(value) as u32)),
        DataType::Float64 => map::<Int64Type, Float64Type>(array, |value| f64::from_bits(turn_64(value) as u64)),
        _ => Arc::clone(array),
    }
}

fn map<A: ArrowPrimitiveType, B: ArrowPrimitiveType>(
    array: &ArrayRef,
    with: impl Fn(A::Native) -> B::Native,
) -> ArrayRef {
    let mapped: PrimitiveArray<B> = array.as_primitive::<A>().unary(with);
    Arc::new(mapped)
}

// Of negative floats all bits but the sign are turned over, since a larger one is less; doing it
// again takes it back.

fn turn_16(bits: i16) -> i16 {
    bits ^ ((((bits >> 15) as u16) >> 1) as i16)
}

fn turn_32(bits: i32) -> i32 {
    bits ^ ((((bits >> 31) as u32) >> 1) as i32)
}

fn turn_64(bits: i64) -> i64 {
    bits ^ ((((bits >> 63) as u64) >> 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Float32Array, Float64Array, Int64Array};
    use arrow::compute::cast;

    #[test]
    fn whole_numbers_have_the_order_of_floats_and_give_them_back() {
        let least = [f64::NEG_INFINITY, f64::MIN, -1.5, -f64::MIN_POSITIVE, 0.0];
        let values = [&least[..], &[5e-324, 0.1, 1.5, f64::MAX, f64::INFINITY, f64::NAN]].concat();
        let floats: ArrayRef = Arc::new(Float64Array::from(values.clone()));
        let whole = to_whole(&floats);
        assert!(whole.as_primitive::<Int64Type>().values().windows(2).all(|pair| pair[0] < pair[1]));
        let back = from_whole(&whole, &DataType::Float64);
        let bits = |array: &ArrayRef| -> Vec<u64> {
            array.as_primitive::<Float64Type>().values().iter().map(|value| value.to_bits()).collect()
        };
        assert_eq!(bits(&back), bits(&floats));
        for data_type in [DataType::Float32, DataType::Float16] {
            let narrow: ArrayRef = Arc::new(Float32Array::from(vec![Some(-2.5), None, Some(0.0), Some(7.0)]));
            let narrow = cast(&narrow, &data_type).unwrap();
            let whole = to_whole(&narrow);
            assert_eq!(Some(whole.data_type().clone()), whole_type(&data_type));
            assert_eq!(&from_whole(&whole, &data_type), &narrow);
        }
    }

    #[test]
    fn zeros_are_one_number_and_so_are_nans_and_others_stay() {
        let floats: ArrayRef = Arc::new(Float64Array::from(vec![0.0, -0.0, f64::NAN, -f64::NAN]));
        let whole = to_whole(&floats);
        let whole = whole.as_primitive::<Int64Type>();
        assert!(whole.value(0) == whole.value(1) && whole.value(2) == whole.value(3));
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![-1, 1]));
        assert_eq!((&to_whole(&numbers), &from_whole(&numbers, &DataType::Int64)), (&numbers, &numbers));
        assert_eq!(whole_type(&DataType::Int64), None);
    }
}
