//! Sums of whole numbers that do not wrap around.
//!
//! DataFusion adds 64-bit numbers with 64 bits, and passes over what does not fit, in the blocks and
//! behind the exchange. So they are added with 128 bits, which more numbers than there can be do not
//! fill, and the sum is looked at when it is done: it fits, or is an error. Sums that leave the 64
//! bits and come back are right, whatever the order.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, PrimitiveArray};
use arrow::datatypes::{DECIMAL128_MAX_PRECISION, DataType, Decimal128Type, Int64Type, UInt64Type};

/// The type in which whole numbers of this type are added; none for types that are added as they are.
pub(super) fn wide_type(numbers: &DataType) -> Option<DataType> {
    matches!(numbers, DataType::Int64 | DataType::UInt64).then_some(WIDE)
}

/// The same numbers with 128 bits. Other arrays stay as they are.
pub(super) fn to_wide(array: &ArrayRef) -> ArrayRef {
    let wide: PrimitiveArray<Decimal128Type> = match array.data_type() {
        DataType::Int64 => array.as_primitive::<Int64Type>().unary(i128::from),
        DataType::UInt64 => array.as_primitive::<UInt64Type>().unary(i128::from),
        _ => return Arc::clone(array),
    };
    Arc::new(wide.with_data_type(WIDE))
}

/// The same numbers as `numbers`; none if one does not fit. Other arrays stay as they are.
pub(super) fn from_wide(array: &ArrayRef, numbers: &DataType) -> Option<ArrayRef> {
    let Some(wide) = array.as_primitive_opt::<Decimal128Type>() else { return Some(Arc::clone(array)) };
    match numbers {
        DataType::Int64 => {
            let narrow: PrimitiveArray<Int64Type> = wide.try_unary(i64::try_from).ok()?;
            Some(Arc::new(narrow))
        }
        DataType::UInt64 => {
            let narrow: PrimitiveArray<UInt64Type> = wide.try_unary(u64::try_from).ok()?;
            Some(Arc::new(narrow))
        }
        _ => Some(Arc::clone(array)),
    }
}

/// The type in which 64-bit numbers are added. Nobody sees it.
const WIDE: DataType = DataType::Decimal128(DECIMAL128_MAX_PRECISION, 0);

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int64Array, UInt64Array};

    #[test]
    fn numbers_are_the_same_there_and_back() {
        let signed: ArrayRef = Arc::new(Int64Array::from(vec![Some(i64::MIN), None, Some(-1), Some(i64::MAX)]));
        let unsigned: ArrayRef = Arc::new(UInt64Array::from(vec![Some(0), None, Some(u64::MAX)]));
        for array in [signed, unsigned] {
            let wide = to_wide(&array);
            assert_eq!(Some(wide.data_type().clone()), wide_type(array.data_type()));
            assert_eq!(from_wide(&wide, array.data_type()), Some(array));
        }
    }

    #[test]
    fn what_does_not_fit_is_found() {
        let wide = |values: Vec<Option<i128>>| -> ArrayRef {
            Arc::new(PrimitiveArray::<Decimal128Type>::from(values).with_data_type(WIDE))
        };
        let most = i128::from(i64::MAX);
        assert!(from_wide(&wide(vec![Some(most), None]), &DataType::Int64).is_some());
        assert!(from_wide(&wide(vec![None, Some(most + 1)]), &DataType::Int64).is_none());
        assert!(from_wide(&wide(vec![Some(most + 1)]), &DataType::UInt64).is_some());
        assert!(from_wide(&wide(vec![Some(-1)]), &DataType::UInt64).is_none());
    }
}
