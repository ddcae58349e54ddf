//! Functions with a state: objects that are made once and called with batch after batch.
//!
//! Entry types: [`BatchClass`], which the `#[remote]` macro submits for an `impl` block whose
//! `call` takes a batch, and [`Objects`], the objects of one actor: it stands before the plain
//! functions of the program where a block runs on an actor.

use std::collections::HashMap;
use std::sync::OnceLock;

use arrow::record_batch::RecordBatch;
use mobula_core::value::Value;
use parking_lot::Mutex;

use crate::error::DataError;
use crate::execute::BatchFunctions;
use crate::function::{BatchError, Parameter, RegisteredFunctions, values};
use crate::plan::MapBatches;

/// An object that is called with batches.
pub type BatchObject = Box<dyn FnMut(RecordBatch) -> Result<RecordBatch, BatchError> + Send>;

/// A class whose objects are called with batches.
pub struct BatchClass {
    /// `crate@version::path`, unique in the program.
    pub name: &'static str,
    /// Makes an object, from the encoded arguments of its constructor.
    pub new: fn(&[Value]) -> Result<BatchObject, BatchError>,
}

inventory::collect!(BatchClass);

/// The objects of an actor, and all plain functions.
#[derive(Default)]
pub struct Objects(Vec<Object>);

struct Object {
    class: String,
    params: Vec<Parameter>,
    object: Mutex<BatchObject>,
}

impl Objects {
    /// Makes an object for each of these operators that keeps a state.
    ///
    /// # Errors
    /// [`DataError::UnknownFunction`]; [`DataError::Function`], when a constructor fails.
    pub fn make<'a>(operators: impl IntoIterator<Item = &'a MapBatches>) -> Result<Self, DataError> {
        let mut objects = Self::default();
        for map in operators {
            if map.compute.is_actors() && objects.find(&map.function, &map.params).is_none() {
                let object = find(&map.function)?;
                let object = (object.new)(&values(&map.params)).map_err(|error| error.of(&map.function))?;
                let (class, params) = (map.function.clone(), map.params.clone());
                objects.0.push(Object { class, params, object: Mutex::new(object) });
            }
        }
        Ok(objects)
    }

    fn find(&self, class: &str, params: &[Parameter]) -> Option<&Object> {
        self.0.iter().find(|object| object.class == class && object.params == params)
    }
}

impl BatchFunctions for Objects {
    fn call(&self, function: &str, params: &[Parameter], batch: RecordBatch) -> Result<RecordBatch, DataError> {
        match self.find(function, params) {
            Some(object) => (object.object.lock())(batch).map_err(|error| error.of(function)),
            None => RegisteredFunctions.call(function, params, batch),
        }
    }
}

fn find(name: &str) -> Result<&'static BatchClass, DataError> {
    static BY_NAME: OnceLock<HashMap<&'static str, &'static BatchClass>> = OnceLock::new();
    let all = || inventory::iter::<BatchClass>().map(|class| (class.name, class));
    let found = BY_NAME.get_or_init(|| all().collect()).get(name).copied();
    found.ok_or_else(|| DataError::UnknownFunction { function: name.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Compute;
    use arrow::array::{ArrayRef, Int64Array};
    use mobula_core::registry::CallError;
    use mobula_core::value::Encoding;
    use std::sync::Arc;

    inventory::submit! {
        BatchClass {
            name: "test@1::Running",
            new: |params| {
                let start = i64::from(params[0].data[0]);
                if start == 0 {
                    let (type_name, message) = ("Zero".into(), "zero is no start".into());
                    return Err(CallError::Application { type_name, message, causes: Vec::new() }.into());
                }
                let mut rows = start;
                Ok(Box::new(move |batch| {
                    rows += batch.num_rows() as i64;
                    let rows: ArrayRef = Arc::new(Int64Array::from(vec![rows]));
                    Ok(RecordBatch::try_from_iter([("rows", rows)]).unwrap())
                }))
            },
        }
    }

    fn running(start: u8) -> MapBatches {
        MapBatches {
            function: "test@1::Running".into(),
            params: vec![Parameter { encoding: Encoding::RAW, data: vec![start].into() }],
            batch_rows: None,
            name: "Running".into(),
            compute: Compute::Actors { min: 1, max: 1 },
            resources: Vec::new(),
        }
    }

    #[test]
    fn an_object_keeps_its_state_from_call_to_call() {
        let (one, seven) = (running(1), running(7));
        let objects = Objects::make([&one, &seven, &one]).unwrap();
        assert_eq!(objects.0.len(), 2, "equal operators share an object");
        let two: ArrayRef = Arc::new(Int64Array::from(vec![0, 0]));
        let two = RecordBatch::try_from_iter([("n", two)]).unwrap();
        let call = |map: &MapBatches| {
            let rows = objects.call(&map.function, &map.params, two.clone()).unwrap();
            rows.column(0).as_any().downcast_ref::<Int64Array>().unwrap().value(0)
        };
        assert_eq!([call(&one), call(&seven), call(&one), call(&one)], [3, 9, 5, 7]);
    }

    #[test]
    fn what_a_constructor_says_is_told() {
        let error = Objects::make([&running(0)]).err().unwrap();
        assert_eq!(error.to_string(), "function test@1::Running failed: zero is no start");
        let nobody = MapBatches { function: "test@1::Nobody".into(), ..running(1) };
        assert!(matches!(Objects::make([&nobody]), Err(DataError::UnknownFunction { .. })));
    }
}
