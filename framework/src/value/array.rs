//! Arrays of numbers that are read where they lie.

use std::any::type_name;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use bytes::Bytes;
use mobula_core::error::Error;
use mobula_core::value::{Encoding, Value as Encoded};
use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::cannot;

#[cfg(target_endian = "big")]
compile_error!("numbers are shared as they lie in memory, little-endian: this machine is big-endian");

/// A number that an [`Array`] can hold: `u8` to `u64`, `i8` to `i64`, `f32` and `f64`.
///
/// # Safety
/// Every bit pattern of its size is a value of it, and it has no padding.
pub unsafe trait Number: sealed::Sealed + super::Value + Copy + Default + Sync + fmt::Debug + PartialEq {
    /// The number that marks the element type in an encoding.
    #[doc(hidden)]
    const CODE: u8;
}

mod sealed {
    #[doc(hidden)]
    pub trait Sealed {}
}

macro_rules! numbers {
    ($($number:ident = $code:literal)*) => {
        $(
            impl sealed::Sealed for $number {}
            // SAFETY: a primitive number has no padding and no invalid bit pattern.
            unsafe impl Number for $number {
                const CODE: u8 = $code;
            }
        )*

        /// The name of the element type with this encoding.
        pub(crate) fn number_name(encoding: u8) -> Option<&'static str> {
            match encoding.checked_sub(Encoding::NUMBERS.0)? {
                $($code => Some(stringify!($number)),)*
                _ => None,
            }
        }
    };
}

numbers!(u8 = 0 i8 = 1 u16 = 2 i16 = 3 u32 = 4 i32 = 5 u64 = 6 i64 = 7 f32 = 8 f64 = 9);

/// The encoding of an array of bytes, which [`Bytes`] can be read from too.
pub(crate) const BYTES: Encoding = Encoding(Encoding::NUMBERS.0);

/// Numbers in a row, read-only, that may lie in the node's shared memory.
///
/// It derefs to a slice. A result or an object of type `Vec<f64>` can be read as an `Array<f64>`
/// without a copy: [`ObjectRef::as_array`](crate::ObjectRef::as_array). Clones share the memory.
///
/// ```
/// use mobula::Array;
/// let numbers = Array::from(vec![1.0, 2.0, 3.5]);
/// assert_eq!(numbers.iter().sum::<f64>(), 6.5);
/// ```
#[derive(Clone)]
pub struct Array<N> {
    /// A whole number of `N`, at an address aligned for `N`.
    data: Bytes,
    element: PhantomData<fn() -> N>,
}

impl<N: Number> Array<N> {
    /// The numbers as a vector of their own.
    pub fn into_vec(self) -> Vec<N> {
        self.to_vec()
    }

    /// The numbers' bytes, little-endian.
    pub fn into_bytes(self) -> Bytes {
        self.data
    }

    pub(crate) fn into_encoded(self) -> Encoded {
        Encoded::new(Self::encoding(), self.data)
    }

    pub(crate) fn from_encoded(value: Encoded) -> Result<Self, Error> {
        Self::check(&value)?;
        Ok(Self::from_whole(value.data))
    }

    /// The numbers of an encoded value, copied once.
    pub(crate) fn vec_from_encoded(value: &Encoded) -> Result<Vec<N>, Error> {
        Self::check(value)?;
        Ok(copied(&value.data))
    }

    fn check(value: &Encoded) -> Result<(), Error> {
        if value.encoding == Self::encoding() || (N::CODE == u8::CODE && value.encoding == Encoding::RAW) {
            return Self::check_len(value.len());
        }
        Err(cannot::<Self>("decoded", format_args!("its bytes are {}", super::encoding_name(value.encoding))))
    }

    fn check_len(len: usize) -> Result<(), Error> {
        if len.is_multiple_of(size_of::<N>()) {
            return Ok(());
        }
        Err(cannot::<Self>("decoded", format_args!("{len} bytes are not a whole number of {}", type_name::<N>())))
    }

    /// Bytes of a whole number of `N`; they are copied only where they are not aligned.
    fn from_whole(data: Bytes) -> Self {
        if data.as_ptr().cast::<N>().is_aligned() {
            Self { data, element: PhantomData }
        } else {
            Self::from(copied::<N>(&data))
        }
    }

    fn encoding() -> Encoding {
        Encoding(Encoding::NUMBERS.0 + N::CODE)
    }
}

impl<N: Number> Deref for Array<N> {
    type Target = [N];

    fn deref(&self) -> &[N] {
        // SAFETY: the constructors checked length and alignment, `Bytes` never moves or changes
        // what it holds, and any bytes are valid numbers.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr().cast::<N>(), self.data.len() / size_of::<N>()) }
    }
}

impl<N: Number> AsRef<[N]> for Array<N> {
    fn as_ref(&self) -> &[N] {
        self
    }
}

/// The numbers of bytes at any address; bytes beyond a whole number of them are left out.
fn copied<N: Number>(data: &[u8]) -> Vec<N> {
    let mut numbers = vec![N::default(); data.len() / size_of::<N>()];
    // SAFETY: both are at least `size_of_val` bytes long, they do not overlap (one was just
    // allocated), and any bytes are valid numbers.
    unsafe {
        let bytes = numbers.as_mut_ptr().cast::<u8>();
        std::ptr::copy_nonoverlapping(data.as_ptr(), bytes, size_of_val(numbers.as_slice()));
    }
    numbers
}

/// A vector as the owner of bytes.
struct Numbers<N>(Vec<N>);

impl<N: Number> AsRef<[u8]> for Numbers<N> {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the vector's numbers are initialised, have no padding, and any alignment will
        // do for bytes.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast::<u8>(), size_of_val(self.0.as_slice())) }
    }
}

impl<N: Number> From<Vec<N>> for Array<N> {
    fn from(numbers: Vec<N>) -> Self {
        Self { data: Bytes::from_owner(Numbers(numbers)), element: PhantomData }
    }
}

impl<N: Number> From<&[N]> for Array<N> {
    fn from(numbers: &[N]) -> Self {
        Self::from(numbers.to_vec())
    }
}

impl<N: Number> FromIterator<N> for Array<N> {
    fn from_iter<I: IntoIterator<Item = N>>(numbers: I) -> Self {
        Self::from(Vec::from_iter(numbers))
    }
}

impl<N: Number> Default for Array<N> {
    fn default() -> Self {
        Self::from(Vec::new())
    }
}

impl<N: Number> PartialEq for Array<N> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<N: Number + Eq> Eq for Array<N> {}

impl<N: Number> fmt::Debug for Array<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

/// As a part of a value: its bytes, or a sequence where people read it.
impl<N: Number> Serialize for Array<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_seq(self.iter())
        } else {
            serializer.serialize_bytes(&self.data)
        }
    }
}

impl<'de, N: Number> Deserialize<'de> for Array<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Numbers<N>(PhantomData<N>);

        impl<'de, N: Number> Visitor<'de> for Numbers<N> {
            type Value = Array<N>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "an array of {}", type_name::<N>())
            }

            fn visit_bytes<E: serde::de::Error>(self, data: &[u8]) -> Result<Self::Value, E> {
                Array::<N>::check_len(data.len()).map_err(E::custom)?;
                Ok(Array::from(copied::<N>(data)))
            }

            fn visit_byte_buf<E: serde::de::Error>(self, data: Vec<u8>) -> Result<Self::Value, E> {
                Array::<N>::check_len(data.len()).map_err(E::custom)?;
                Ok(Array::from_whole(Bytes::from(data)))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut numbers = Vec::with_capacity(seq.size_hint().unwrap_or(0).min(MAX_RESERVED));
                while let Some(number) = seq.next_element()? {
                    numbers.push(number);
                }
                Ok(Array::from(numbers))
            }
        }

        if deserializer.is_human_readable() {
            deserializer.deserialize_seq(Numbers(PhantomData))
        } else {
            deserializer.deserialize_byte_buf(Numbers(PhantomData)).map_err(D::Error::custom)
        }
    }
}

/// Numbers reserved ahead of a sequence that claims to be longer.
const MAX_RESERVED: usize = 4096;
