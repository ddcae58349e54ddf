//! What the workers of these tests run.

use std::time::Duration;

use mobula_core::client::Client;
use mobula_core::messages::{Strategy, WorkerKind};
use mobula_core::registry::{CallResult, Code, Registry, RemoteFunction};
use mobula_core::value::{Encoding, Value};
use smallvec::smallvec;

use crate::{WITHIN, options};

fn number(n: u64) -> CallResult {
    Ok(vec![Value::new(Encoding::RAW, n.to_le_bytes().to_vec())])
}

fn pid(_: Vec<Value>) -> CallResult {
    number(std::process::id().into())
}

fn slow_pid(_: Vec<Value>) -> CallResult {
    std::thread::sleep(Duration::from_millis(50));
    number(std::process::id().into())
}

fn speak(_: Vec<Value>) -> CallResult {
    println!("good morning");
    eprintln!("good night");
    number(0)
}

fn log(_: Vec<Value>) -> CallResult {
    tracing::info!(trips = 3, "counted");
    println!("printed");
    number(0)
}

fn greet(_: &mut (dyn std::any::Any + Send + Sync), args: Vec<Value>) -> CallResult {
    speak(args)
}

/// Waits for another task between two lines; meanwhile its process may run the next one.
fn speak_and_wait(_: Vec<Value>) -> CallResult {
    println!("before");
    let client = Client::current().unwrap();
    let nested = client.submit(function(SLOW_PID), smallvec![], &options(WorkerKind::Shared, Strategy::Default));
    client.get(&nested, Some(WITHIN)).unwrap();
    println!("after");
    number(0)
}

/// Dies the first time it runs: the file named by its argument says whether it has.
fn die_once(args: Vec<Value>) -> CallResult {
    let marker = String::from_utf8_lossy(&args[0].data).into_owned();
    if !std::path::Path::new(&marker).exists() {
        std::fs::write(&marker, "died").unwrap();
        std::process::abort();
    }
    number(7)
}

fn large(_: Vec<Value>) -> CallResult {
    Ok(vec![Value::new(Encoding::RAW, vec![9_u8; 3 << 20])])
}

fn length(args: Vec<Value>) -> CallResult {
    number(args[0].data.len() as u64)
}

fn count(state: &mut (dyn std::any::Any + Send + Sync), _: Vec<Value>) -> CallResult {
    let count = state.downcast_mut::<u64>().unwrap();
    *count += 1;
    number(*count)
}

macro_rules! functions {
    ($($name:ident = $text:literal, $code:expr;)*) => {
        $(
            pub(crate) const $name: &str = $text;
            inventory::submit! { RemoteFunction { name: $text, signature: "", group: "", code: $code } }
        )*
    };
}

functions! {
    PID = "pid", Code::Task(pid);
    SLOW_PID = "slow_pid", Code::Task(slow_pid);
    SPEAK = "speak", Code::Task(speak);
    LOG = "crate@1::log", Code::Task(log);
    SPEAK_AND_WAIT = "speak_and_wait", Code::Task(speak_and_wait);
    GREET = "Counter::greet", Code::MethodMut(greet);
    DIE_ONCE = "die_once", Code::Task(die_once);
    LARGE = "large", Code::Task(large);
    LENGTH = "length", Code::Task(length);
    COUNTER = "counter", Code::Constructor(|_| Ok(Box::new(0_u64)));
    COUNT = "count", Code::MethodMut(count);
    WHERE = "where", Code::MethodMut(|_, args| pid(args));
}

pub(crate) fn function(name: &str) -> &'static RemoteFunction {
    Registry::global().unwrap().function(mobula_core::ids::FunctionId::of(name)).unwrap()
}
