//! Quantiles of the collected values of groups.
//!
//! DataFusion's own cut the way between two neighbours into millionths and round down: the 0.9
//! quantile of 0 to 23 would be 20.699999. The values of a group have to be together in both cases.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float64Array};
use arrow::datatypes::Float64Type;

/// The value at the fraction `q` of each list of floats, interpolated between its neighbours; null
/// where a list has none.
pub(super) fn quantiles(lists: &ArrayRef, q: f64) -> ArrayRef {
    let of = |list: Option<ArrayRef>| {
        let list = list?;
        let mut values: Vec<f64> = list.as_primitive::<Float64Type>().iter().flatten().collect();
        quantile(&mut values, q)
    };
    Arc::new(lists.as_list::<i32>().iter().map(of).collect::<Float64Array>())
}

/// Puts the values into another order.
fn quantile(values: &mut [f64], q: f64) -> Option<f64> {
    let place = q * values.len().checked_sub(1)? as f64;
    let below = place.floor();
    let (_, low, above) = values.select_nth_unstable_by(below as usize, f64::total_cmp);
    let (low, way) = (*low, place - below);
    if way == 0.0 {
        return Some(low);
    }
    let high = above.iter().copied().min_by(f64::total_cmp).unwrap_or(low);
    // Equal neighbours are their own middle, also where they are infinite.
    Some(if low == high { low } else { low + (high - low) * way })
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::ListArray;

    #[test]
    fn quantiles_are_interpolated_as_far_as_floats_go() {
        let mut values: Vec<f64> = (0..24).rev().map(f64::from).collect();
        assert_eq!(quantile(&mut values, 0.0), Some(0.0));
        assert_eq!(quantile(&mut values, 0.9), Some(20.7));
        assert_eq!(quantile(&mut values, 0.5), Some(11.5));
        assert_eq!(quantile(&mut values, 1.0), Some(23.0));
        assert_eq!(quantile(&mut [7.0], 0.3), Some(7.0));
        assert_eq!(quantile(&mut [], 0.3), None);
        assert_eq!(quantile(&mut [f64::INFINITY, f64::INFINITY], 0.3), Some(f64::INFINITY));
        assert!(quantile(&mut [f64::NAN, 1.0], 1.0).is_some_and(f64::is_nan));
    }

    #[test]
    fn a_list_without_values_has_none() {
        let lists = [Some(vec![Some(1.0), None, Some(2.0)]), None, Some(vec![]), Some(vec![None])];
        let lists: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Float64Type, _, _>(lists));
        let found = quantiles(&lists, 0.5);
        assert_eq!(found.as_primitive::<Float64Type>().iter().collect::<Vec<_>>(), [Some(1.5), None, None, None]);
    }
}
