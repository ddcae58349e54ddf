//! The numbers that collectives work on, and what is done with two of them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What becomes of two numbers.
///
/// Sums of integers wrap around. Of floats, `Min` and `Max` prefer a number to a NaN, and of two
/// that are equal (0.0 and -0.0) take the one that came round the ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ReduceOp {
    /// Their sum.
    Sum,
    /// The smaller one.
    Min,
    /// The larger one.
    Max,
}

impl fmt::Display for ReduceOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sum => "sum",
            Self::Min => "minimum",
            Self::Max => "maximum",
        })
    }
}

/// A number that collectives work on: `f32`, `f64`, `i32`, `i64`, `u64`.
pub trait Element: Arithmetic {}

/// Numbers as they travel: in the byte order of the machine, wherever they begin.
#[doc(hidden)]
pub trait Arithmetic: Copy + Default + Send + Sync + fmt::Debug + 'static {
    /// Its name.
    const NAME: &'static str;

    /// What members compare.
    const CODE: u8;

    /// `out = incoming ∘ own`, number by number.
    fn combine(op: ReduceOp, incoming: &[u8], own: &[Self], out: &mut [u8]);

    /// `own = incoming ∘ own`, number by number.
    fn combine_into_own(op: ReduceOp, incoming: &[u8], own: &mut [Self]);
}

/// The name of the type with this code.
pub(super) fn type_name(code: u8) -> &'static str {
    NAMES.get(usize::from(code)).copied().unwrap_or("numbers of an unknown type")
}

const NAMES: [&str; 5] = [f32::NAME, f64::NAME, i32::NAME, i64::NAME, u64::NAME];

/// The numbers as bytes.
pub(super) fn bytes_of<T: Element>(numbers: &[T]) -> &[u8] {
    // SAFETY: only the primitive numbers below are elements; all their bytes are initialised, and
    // a byte needs no alignment.
    unsafe { std::slice::from_raw_parts(numbers.as_ptr().cast(), size_of_val(numbers)) }
}

/// The numbers as bytes, to be written.
pub(super) fn bytes_of_mut<T: Element>(numbers: &mut [T]) -> &mut [u8] {
    // SAFETY: as in `bytes_of`; and whatever the bytes, they are a number of these types.
    unsafe { std::slice::from_raw_parts_mut(numbers.as_mut_ptr().cast(), size_of_val(numbers)) }
}

/// `$out = f(incoming, own)` for all numbers; a loop of its own for every `f`, so that it becomes
/// vector instructions.
macro_rules! for_all {
    ($T:ty, $incoming:ident, $own:ident, $out:ident, $f:expr) => {{
        let f = $f;
        let (incoming, _) = $incoming.as_chunks::<{ size_of::<$T>() }>();
        let (out, _) = $out.as_chunks_mut::<{ size_of::<$T>() }>();
        for ((out, incoming), own) in out.iter_mut().zip(incoming).zip($own) {
            *out = f(<$T>::from_ne_bytes(*incoming), *own).to_ne_bytes();
        }
    }};
    ($T:ty, $incoming:ident, $own:ident, $f:expr) => {{
        let f = $f;
        let (incoming, _) = $incoming.as_chunks::<{ size_of::<$T>() }>();
        for (own, incoming) in $own.iter_mut().zip(incoming) {
            *own = f(<$T>::from_ne_bytes(*incoming), *own);
        }
    }};
}

macro_rules! element {
    ($T:ty, $code:literal, $sum:expr, $min:expr, $max:expr) => {
        impl Element for $T {}

        impl Arithmetic for $T {
            const NAME: &'static str = stringify!($T);
            const CODE: u8 = $code;

            fn combine(op: ReduceOp, incoming: &[u8], own: &[Self], out: &mut [u8]) {
                match op {
                    ReduceOp::Sum => for_all!($T, incoming, own, out, $sum),
                    ReduceOp::Min => for_all!($T, incoming, own, out, $min),
                    ReduceOp::Max => for_all!($T, incoming, own, out, $max),
                }
            }

            fn combine_into_own(op: ReduceOp, incoming: &[u8], own: &mut [Self]) {
                match op {
                    ReduceOp::Sum => for_all!($T, incoming, own, $sum),
                    ReduceOp::Min => for_all!($T, incoming, own, $min),
                    ReduceOp::Max => for_all!($T, incoming, own, $max),
                }
            }
        }
    };
}

macro_rules! integer {
    ($T:ty, $code:literal) => {
        element!($T, $code, <$T>::wrapping_add, <$T>::min, <$T>::max);
    };
}

// Not `f32::min`: which of two zeros that takes is the compiler's choice.
macro_rules! float {
    ($T:ty, $code:literal) => {
        element!(
            $T,
            $code,
            |a: $T, b: $T| a + b,
            |a: $T, b: $T| if b < a || a.is_nan() { b } else { a },
            |a: $T, b: $T| if b > a || a.is_nan() { b } else { a }
        );
    };
}

float!(f32, 0);
float!(f64, 1);
integer!(i32, 2);
integer!(i64, 3);
integer!(u64, 4);
