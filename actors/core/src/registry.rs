//! The functions that tasks and actors run, by name.
//!
//! The `#[remote]` macro submits a [`RemoteFunction`] for every function, constructor and method;
//! linking collects them. Driver and worker compare [`Registry::digest`] when they meet, so a
//! stale binary is refused by name before it runs anything.

use std::any::Any;
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::OnceLock;

use crate::ids::FunctionId;
use crate::value::Value;
use crate::worker::Outlet;

/// An error that user code returned, before the worker adds where it ran.
#[derive(Debug, Clone)]
pub enum CallError {
    /// The function's own error.
    Application {
        /// The name of the error's type.
        type_name: String,
        /// Its message.
        message: String,
        /// The messages of its sources, outermost first.
        causes: Vec<String>,
    },
    /// An argument or the result could not be decoded or encoded, or a nested call failed.
    System(crate::error::Error),
}

impl From<crate::error::Error> for CallError {
    fn from(error: crate::error::Error) -> Self {
        Self::System(error)
    }
}

/// What a call gives back: one value per result, already encoded.
pub type CallResult = Result<Vec<Value>, CallError>;

/// A call of an async method. No user code runs before it is polled.
pub type CallFuture<'a> = Pin<Box<dyn Future<Output = CallResult> + Send + 'a>>;

/// The state of a user's actor.
pub type Instance = Box<dyn Any + Send + Sync>;

/// The code behind a registered name.
#[derive(Clone, Copy, Debug)]
pub enum Code {
    /// A plain function.
    Task(fn(Vec<Value>) -> CallResult),
    /// An actor's constructor.
    Constructor(fn(Vec<Value>) -> Result<Instance, CallError>),
    /// A method with `&mut self`: never runs beside another method of the same actor.
    MethodMut(fn(&mut (dyn Any + Send + Sync), Vec<Value>) -> CallResult),
    /// A method with `&self`: up to `max_concurrency` of them run at once.
    MethodRef(fn(&(dyn Any + Send + Sync), Vec<Value>) -> CallResult),
    /// Ends the actor, after all calls that arrived before it.
    Terminate,
    /// An async method with `&mut self`.
    AsyncMut(for<'a> fn(&'a mut (dyn Any + Send + Sync), Vec<Value>) -> CallFuture<'a>),
    /// An async method with `&self`.
    AsyncRef(for<'a> fn(&'a (dyn Any + Send + Sync), Vec<Value>) -> CallFuture<'a>),
    /// A plain function that yields its results one after the other.
    Stream(fn(Vec<Value>, &mut Outlet) -> Result<(), CallError>),
    /// A method with `&mut self` that does.
    StreamMut(fn(&mut (dyn Any + Send + Sync), Vec<Value>, &mut Outlet) -> Result<(), CallError>),
    /// A method with `&self` that does.
    StreamRef(fn(&(dyn Any + Send + Sync), Vec<Value>, &mut Outlet) -> Result<(), CallError>),
}

impl Code {
    /// Whether it yields its results one after the other.
    pub fn streams(&self) -> bool {
        matches!(self, Self::Stream(_) | Self::StreamMut(_) | Self::StreamRef(_))
    }
}

/// One registered function.
#[derive(Debug)]
pub struct RemoteFunction {
    /// `crate@version::path`, unique in the program.
    pub name: &'static str,
    /// The signature as text; part of the digest, so that a changed one is noticed.
    pub signature: &'static str,
    /// The concurrency group of a method; empty for the default one.
    pub group: &'static str,
    /// The code.
    pub code: Code,
}

impl RemoteFunction {
    /// Its name without the path: what people are shown, unless they gave the task a name.
    pub fn plain_name(&self) -> &'static str {
        self.name.rsplit("::").next().unwrap_or(self.name)
    }
}

inventory::collect!(RemoteFunction);

/// All registered functions of this program.
pub struct Registry {
    by_id: HashMap<FunctionId, &'static RemoteFunction>,
    digest: u64,
}

/// Two functions were registered under one name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("two remote functions are named {name}; give one of them another name or module")]
pub struct DuplicateFunction {
    /// The name.
    pub name: String,
}

impl Registry {
    /// The program's registry, collected once.
    ///
    /// # Errors
    /// [`DuplicateFunction`] when two functions share a name.
    pub fn global() -> Result<&'static Registry, DuplicateFunction> {
        static REGISTRY: OnceLock<Result<Registry, DuplicateFunction>> = OnceLock::new();
        REGISTRY
            .get_or_init(|| Registry::collect(inventory::iter::<RemoteFunction>.into_iter()))
            .as_ref()
            .map_err(Clone::clone)
    }

    fn collect(functions: impl Iterator<Item = &'static RemoteFunction>) -> Result<Self, DuplicateFunction> {
        let mut functions: Vec<_> = functions.collect();
        functions.sort_by_key(|function| function.name);
        let mut by_id = HashMap::with_capacity(functions.len());
        let mut text = String::new();
        for function in functions {
            if by_id.insert(FunctionId::of(function.name), function).is_some() {
                return Err(DuplicateFunction { name: function.name.to_owned() });
            }
            text.push_str(function.name);
            text.push('\0');
            text.push_str(function.signature);
            text.push('\0');
            text.push_str(function.group);
            text.push('\n');
        }
        Ok(Self { by_id, digest: xxhash_rust::xxh3::xxh3_64(text.as_bytes()) })
    }

    /// The function with this id.
    pub fn function(&self, id: FunctionId) -> Option<&'static RemoteFunction> {
        self.by_id.get(&id).copied()
    }

    /// A number that is equal exactly when names, signatures and groups are.
    pub fn digest(&self) -> u64 {
        self.digest
    }
}
