//! What does not compile, and must not. Only documentation tests; each fails for the reason its
//! text names, which `compile_fail` itself cannot check, so the working half stands beside it.
//!
//! The working half of all of them:
//! ```
//! use mobula::{ObjectRef, remote};
//! #[remote(num_cpus = 0.5)]
//! fn add(a: i64, b: i64) -> i64 { a + b }
//! fn sum(numbers: &ObjectRef<i64>) -> ObjectRef<i64> { add.remote(numbers, 2) }
//! struct Counter(i64);
//! #[remote(max_concurrency = 2)]
//! impl Counter {
//!     fn new(start: i64) -> Self { Self(start) }
//!     fn hit(&mut self, by: i64) -> i64 { self.0 += by; self.0 }
//! }
//! fn hits(counter: &CounterHandle) -> ObjectRef<i64> { counter.hit().remote(1) }
//! ```
//!
//! Too few arguments, too many, of the wrong type, a reference to the wrong type:
//! ```compile_fail,E0061
//! # use mobula::remote;
//! #[remote]
//! fn add(a: i64, b: i64) -> i64 { a + b }
//! add.remote(1);
//! ```
//! ```compile_fail,E0061
//! # use mobula::remote;
//! #[remote]
//! fn add(a: i64, b: i64) -> i64 { a + b }
//! add.options().remote(1, 2, 3);
//! ```
//! ```compile_fail,E0277
//! # use mobula::remote;
//! #[remote]
//! fn add(a: i64, b: i64) -> i64 { a + b }
//! add.remote(1, "two");
//! ```
//! ```compile_fail,E0277
//! # use mobula::{ObjectRef, remote};
//! #[remote]
//! fn add(a: i64, b: i64) -> i64 { a + b }
//! fn wrong(text: ObjectRef<String>) { add.remote(1, text); }
//! ```
//!
//! A stream that is async, that has a number of results, or whose items are no values; an option of
//! streams for what does not stream. The first one is right:
//! ```
//! # use mobula::{ObjectRefStream, remote};
//! #[remote(backpressure_num_objects = 2)]
//! fn count(to: u64) -> impl Iterator<Item = u64> { 0..to }
//! fn counts() -> ObjectRefStream<u64> { count.options().backpressure_num_objects(4).remote(3) }
//! ```
//! ```compile_fail
//! # use mobula::remote;
//! #[remote]
//! async fn count(to: u64) -> impl Iterator<Item = u64> { 0..to }
//! ```
//! ```compile_fail
//! # use mobula::remote;
//! #[remote(num_returns = 2)]
//! fn count(to: u64) -> impl Iterator<Item = u64> { 0..to }
//! ```
//! ```compile_fail
//! # use mobula::remote;
//! #[remote]
//! fn texts(to: u64) -> impl Iterator<Item = &'static str> { (0..to).map(|_| "text") }
//! ```
//! ```compile_fail
//! # use mobula::remote;
//! #[remote(backpressure_num_objects = 2)]
//! fn double(x: u64) -> u64 { 2 * x }
//! ```
//!
//! A method in a concurrency group that its actor does not have; the first half has it:
//! ```
//! # use mobula::remote;
//! struct Reader;
//! #[remote(concurrency_groups(io = 2))]
//! impl Reader {
//!     fn new() -> Self { Self }
//!     #[concurrency_group("io")]
//!     fn read(&self) {}
//! }
//! ```
//! ```compile_fail
//! # use mobula::remote;
//! struct Reader;
//! #[remote(concurrency_groups(io = 2))]
//! impl Reader {
//!     fn new() -> Self { Self }
//!     #[concurrency_group("oi")]
//!     fn read(&self) {}
//! }
//! ```
//!
//! The same for methods and constructors:
//! ```compile_fail,E0061
//! # use mobula::remote;
//! struct Counter(i64);
//! #[remote]
//! impl Counter {
//!     fn new(start: i64) -> Self { Self(start) }
//!     fn hit(&mut self, by: i64) -> i64 { self.0 += by; self.0 }
//! }
//! fn wrong(counter: CounterHandle) { counter.hit().remote(); }
//! ```
//! ```compile_fail,E0061
//! # use mobula::remote;
//! struct Counter(i64);
//! #[remote]
//! impl Counter {
//!     fn new(start: i64) -> Self { Self(start) }
//!     fn hit(&mut self, by: i64) -> i64 { self.0 += by; self.0 }
//! }
//! fn wrong(counter: CounterHandle) { counter.hit().remote(1, 2); }
//! ```
//! ```compile_fail,E0277
//! # use mobula::remote;
//! struct Counter(i64);
//! #[remote]
//! impl Counter {
//!     fn new(start: i64) -> Self { Self(start) }
//!     fn hit(&mut self, by: i64) -> i64 { self.0 += by; self.0 }
//! }
//! fn wrong(counter: CounterHandle) { counter.hit().remote("one"); }
//! ```
//! ```compile_fail,E0061
//! # use mobula::remote;
//! struct Counter(i64);
//! #[remote]
//! impl Counter {
//!     fn new(start: i64) -> Self { Self(start) }
//! }
//! Counter::remote();
//! ```
//! ```compile_fail,E0061
//! # use mobula::remote;
//! struct Counter(i64);
//! #[remote]
//! impl Counter {
//!     fn new(start: i64) -> Self { Self(start) }
//! }
//! Counter::options().remote(1, 2);
//! ```
//! ```compile_fail,E0277
//! # use mobula::remote;
//! struct Counter(i64);
//! #[remote]
//! impl Counter {
//!     fn new(start: i64) -> Self { Self(start) }
//! }
//! Counter::options().remote("zero");
//! ```
//!
//! Generic functions and types:
//! ```compile_fail
//! # use mobula::remote;
//! #[remote]
//! fn same<T>(value: T) -> T { value }
//! ```
//! ```compile_fail
//! # use mobula::remote;
//! struct Cell<T>(T);
//! #[remote]
//! impl<T> Cell<T> { fn new(value: T) -> Self { Self(value) } }
//! ```
//!
//! What cannot travel: `&mut`, references in types and results, `impl Trait`, types without serde:
//! ```compile_fail
//! # use mobula::remote;
//! #[remote]
//! fn push(list: &mut Vec<i64>) { list.push(1) }
//! ```
//! ```compile_fail
//! # use mobula::remote;
//! #[remote]
//! fn first(words: Vec<&str>) -> usize { words.len() }
//! ```
//! ```compile_fail
//! # use mobula::remote;
//! #[remote]
//! fn trim(text: &str) -> &str { text.trim() }
//! ```
//! ```compile_fail
//! # use mobula::remote;
//! #[remote]
//! fn count(items: impl Iterator<Item = i64>) -> usize { items.count() }
//! ```
//! ```compile_fail,E0277
//! # use mobula::remote;
//! struct Local;
//! #[remote]
//! fn make() -> Local { Local }
//! ```
//!
//! Actors without a constructor, whose methods take `self`, or whose shared state is not `Sync`:
//! ```compile_fail
//! # use mobula::remote;
//! struct Counter(i64);
//! #[remote]
//! impl Counter { fn hit(&mut self) -> i64 { self.0 } }
//! ```
//! ```compile_fail
//! # use mobula::remote;
//! struct Counter(i64);
//! #[remote]
//! impl Counter {
//!     fn new() -> Self { Self(0) }
//!     fn end(self) -> i64 { self.0 }
//! }
//! ```
//! ```compile_fail,E0277
//! # use mobula::remote;
//! struct Counter(std::cell::Cell<i64>);
//! #[remote]
//! impl Counter {
//!     fn new() -> Self { Self(Default::default()) }
//!     fn hits(&self) -> i64 { self.0.get() }
//! }
//! ```
//!
//! Options that do not exist, and results that do not match:
//! ```compile_fail
//! # use mobula::remote;
//! #[remote(cpus = 2)]
//! fn nothing() {}
//! ```
//! ```compile_fail
//! # use mobula::remote;
//! #[remote(num_returns = 3)]
//! fn two() -> (i64, i64) { (1, 2) }
//! ```
