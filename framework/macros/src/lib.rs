//! The attribute macros of Mobula: [`macro@remote`] and [`macro@main`].
//!
//! Use them through the `mobula` crate, which re-exports them; what they expand to names its
//! hidden module `mobula::__private`.
//!
//! ```text
//!  #[remote] fn add(a: i64, b: i64) -> i64        #[remote] impl Counter { fn new(..); fn hit(&mut self) }
//!     │                                              │
//!     ├─ struct add  .remote .options .call          ├─ the impl block itself, unchanged
//!     ├─ decode, run, encode: Code::Task             ├─ Counter::remote, Counter::options
//!     └─ an entry of the registry                    ├─ struct CounterHandle  .hit() .ready()
//!                                                    └─ registry entries: Counter::new, Counter::hit
//! ```
//!
//! A macro sees how a type is written, not what it is. Six spellings therefore mean something:
//! a result written `Result<..>` is fallible, one written `impl Iterator<Item = ..>` streams, a type
//! whose last segment is `RecordBatch` is Arrow's, one that ends with `Rows` or `NdColumns` is
//! `mobula`'s, `&[f64]` (of any number) is read in place, and the trait `Aggregator` is `mobula`'s.

use proc_macro::TokenStream;
use syn::{Item, ItemFn};

mod aggregator;
mod batch;
mod class;
mod entry;
mod function;
mod options;
mod signature;

/// Makes a function a task, or an `impl` block the methods of an actor.
///
/// **On a function** it makes an item of the same name:
///
/// - `f.remote(a, b)` submits a task and returns an `ObjectRef` of its result at once; each
///   argument is a value or an `ObjectRef` of one;
/// - `f.options()` is a builder (`num_cpus`, `num_gpus`, `memory`, `resource`, `name`,
///   `max_retries`, `spread`, ...) with a `remote` of its own;
/// - `f.call(a, b)` runs it here, like any function;
/// - `f.with(params..)`, where the first parameter and the result are a `RecordBatch`, `Rows<T>` or
///   `NdColumns`, is what `Dataset::map_batches` takes; `#[remote(batches)]` says that they are
///   other types with `FromBatch` and `IntoBatch`, and `#[remote(rows)]` that they are single rows,
///   for `Dataset::map`, `flat_map` (where the result is a `Vec`) and `filter_rows` (where it is
///   `bool`).
///
/// Parameters may be `&T`, `&str` and `&[T]`: the worker keeps the value while the function runs.
/// A result written `Result<T, E>` gives an `ObjectRef<T>`, whose `get` fails with the error's
/// type, message and sources. An `async` function is run to its end by the worker, which lends its
/// CPU meanwhile; when it is cancelled, it is dropped where it waits.
///
/// A result written `impl Iterator<Item = T>`, or `impl Iterator<Item = Result<T, E>>`, streams: the
/// call returns an `ObjectRefStream<T>`, which gives a reference to each value as soon as the iterator
/// has; `backpressure_num_objects` says how far it may be ahead of whoever takes them. What streams is
/// not async, and the iterator lives on its worker alone.
///
/// Options of the attribute are the defaults of the calls:
/// `#[remote(num_cpus = 0.5, max_retries = 0)]`. With `#[remote(num_returns = 2)]` a result
/// `(A, B)` becomes two references.
///
/// The item is a constant of a type of its own, so (as with a `static`) no local variable in its
/// scope can have its name.
///
/// **On an `impl` block** `fn new` becomes the constructor (`Counter::remote(..)`,
/// `Counter::options()`), and every method with `&self` or `&mut self` a method of
/// `CounterHandle`: `handle.hit().remote(..)`. Methods may be `async`: up to `max_concurrency` of
/// those with `&self` (1,000 by default) are under way at once, without a thread each; their futures
/// are `Send`. Methods marked `#[remote(skip)]` and functions
/// without `self` stay as they are. Attribute options: `num_cpus`, `num_gpus`, `memory`,
/// `max_restarts`, `max_task_retries`, `max_concurrency`, `max_pending_calls`, `spread`,
/// `process_worker`, and `concurrency_groups(io = 2, compute = 4)`: methods marked
/// `#[concurrency_group("io")]` then have a limit and an order of their own, beside the calls of
/// other groups and of none; on a method: `num_returns`, `max_task_retries`, `retry_exceptions`,
/// `backpressure_num_objects`.
///
/// Where a method `call` takes nothing but a batch, in one of the forms above, and gives one,
/// `Scorer::with(params..)` with the parameters of `new` is what `Dataset::map_batches` takes: the
/// objects live on actors. `#[remote(rows)]` and `#[remote(batches)]` on that method mean the same
/// as on a function.
///
/// **On an `impl Aggregator`** it makes the type what `GroupedDataset::aggregate_with` takes.
#[proc_macro_attribute]
pub fn remote(attributes: TokenStream, item: TokenStream) -> TokenStream {
    let expanded = match syn::parse::<Item>(item) {
        Ok(Item::Fn(function)) => function::expand(attributes.into(), function),
        Ok(Item::Impl(block)) => class::expand(attributes.into(), block),
        Ok(other) => Err(syn::Error::new_spanned(
            other,
            "#[remote] goes on a function, or on the `impl` block of an actor's type",
        )),
        Err(error) => Err(error),
    };
    expanded.unwrap_or_else(syn::Error::into_compile_error).into()
}

/// The program's entry: a worker process, started from this binary, becomes a worker before any
/// of the program's own code runs.
///
/// Goes on `fn main` or `async fn main`; an async one runs on Mobula's own tokio runtime.
#[proc_macro_attribute]
pub fn main(attributes: TokenStream, item: TokenStream) -> TokenStream {
    let expanded = syn::parse::<ItemFn>(item).and_then(|function| entry::expand(attributes.into(), function));
    expanded.unwrap_or_else(syn::Error::into_compile_error).into()
}
