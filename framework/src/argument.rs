//! What can stand for a parameter: a value, a reference to one, and a few that are nearly one.

use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use mobula_core::client::Arg;
use mobula_core::error::Error;

use crate::object::ObjectRef;
use crate::value::{Array, Batch, Number, Value, encode};

/// An encoded argument, or why it could not be encoded.
#[doc(hidden)]
pub struct Argument(pub(crate) Result<Arg, Arc<Error>>);

/// What can be passed for a parameter of type `A`: an `A`, an [`ObjectRef`] of one (by value or
/// by reference; it is resolved before the function runs), and the usual stand-ins: `&str` for a
/// `String`, slices and vectors for an [`Array`], a `RecordBatch` for a [`Batch`].
///
/// ```compile_fail,E0277
/// # use mobula::remote;
/// #[remote]
/// fn double(x: i64) -> i64 { 2 * x }
/// double.remote("four");
/// ```
///
/// ```compile_fail,E0061
/// # use mobula::remote;
/// #[remote]
/// fn double(x: i64) -> i64 { 2 * x }
/// double.remote(4, 2);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be passed for a parameter of type `{A}`",
    label = "expected `{A}` or an `ObjectRef<{A}>`",
    note = "a value of the parameter's own type can be passed, or an `ObjectRef` of it (also by reference)"
)]
pub trait IntoArg<A> {
    #[doc(hidden)]
    fn into_argument(self) -> Argument;
}

impl<A: Value> IntoArg<A> for A {
    fn into_argument(self) -> Argument {
        Argument(encode(self).map(Arg::Value).map_err(Arc::new))
    }
}

impl<A: Value> IntoArg<A> for ObjectRef<A> {
    fn into_argument(self) -> Argument {
        Argument(self.into_handle().map(Arg::Object))
    }
}

impl<A: Value> IntoArg<A> for &ObjectRef<A> {
    fn into_argument(self) -> Argument {
        IntoArg::<A>::into_argument(self.clone())
    }
}

/// Forwards to an argument of a type with the same encoding.
macro_rules! stands_for {
    ($([$($generic:tt)*] $from:ty => $to:ty, as $via:ty: |$value:ident| $convert:expr;)*) => {$(
        impl<$($generic)*> IntoArg<$to> for $from {
            fn into_argument(self) -> Argument {
                let $value = self;
                IntoArg::<$via>::into_argument($convert)
            }
        }
    )*};
}

stands_for! {
    [] &str => String, as String: |text| String::from(text);
    [] &String => String, as String: |text| text.clone();
    [N: Number] &[N] => Vec<N>, as Vec<N>: |numbers| numbers.to_vec();
    [N: Number] &Vec<N> => Vec<N>, as Vec<N>: |numbers| numbers.clone();
    [N: Number, const LEN: usize] [N; LEN] => Vec<N>, as Vec<N>: |numbers| Vec::from(numbers);
    [N: Number, const LEN: usize] &[N; LEN] => Vec<N>, as Vec<N>: |numbers| numbers.to_vec();
    [N: Number] Array<N> => Vec<N>, as Array<N>: |numbers| numbers;
    [N: Number] &Array<N> => Vec<N>, as Array<N>: |numbers| numbers.clone();
    [N: Number] ObjectRef<Array<N>> => Vec<N>, as Array<N>: |numbers| numbers;
    [N: Number] &ObjectRef<Array<N>> => Vec<N>, as Array<N>: |numbers| numbers;
    [N: Number] &[N] => Array<N>, as Array<N>: |numbers| Array::from(numbers);
    [N: Number] Vec<N> => Array<N>, as Vec<N>: |numbers| numbers;
    [N: Number] &Vec<N> => Array<N>, as Vec<N>: |numbers| numbers;
    [N: Number, const LEN: usize] [N; LEN] => Array<N>, as Vec<N>: |numbers| numbers;
    [N: Number, const LEN: usize] &[N; LEN] => Array<N>, as Vec<N>: |numbers| numbers;
    [N: Number] &Array<N> => Array<N>, as Array<N>: |numbers| numbers.clone();
    [N: Number] ObjectRef<Vec<N>> => Array<N>, as Vec<N>: |numbers| numbers;
    [N: Number] &ObjectRef<Vec<N>> => Array<N>, as Vec<N>: |numbers| numbers;
    [] RecordBatch => Batch, as Batch: |batch| Batch::from(batch);
    [] &RecordBatch => Batch, as Batch: |batch| Batch::from(batch.clone());
    [] &Batch => Batch, as Batch: |batch| batch.clone();
}
