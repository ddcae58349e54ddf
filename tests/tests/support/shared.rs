//! The real trip records and golden numbers that lie beside the project. Three test suites read
//! them and share this file.

use std::io::Write;
use std::path::{Path, PathBuf};

/// Names the folder when it lies elsewhere.
const VARIABLE: &str = "MOBULA_SHARED";

/// The folder `shared` beside the workspace, or beside a folder that holds it.
fn folder() -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os(VARIABLE) {
        return Some(folder.into());
    }
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.ancestors().skip(1).map(|ancestor| ancestor.join("shared")).find(|folder| folder.join("data").is_dir())
}

fn file(name: &str) -> Option<PathBuf> {
    let file = folder().map(|folder| folder.join(name)).filter(|file| file.is_file());
    if file.is_none() {
        skip(&format!("there is no ../shared/{name} (or set {VARIABLE} to the folder `shared`)"));
    }
    file
}

/// A file of the shared data; `None` skips the test.
pub(crate) fn data(name: &str) -> Option<PathBuf> {
    file(&format!("data/{name}"))
}

/// What other engines make of the shared data; `None` skips the test.
pub(crate) fn golden(name: &str) -> Option<serde_json::Value> {
    let text = std::fs::read_to_string(file(&format!("golden/{name}"))?).expect("the golden file can be read");
    Some(serde_json::from_str(&text).expect("the golden file is JSON"))
}

/// What a test needs is not on this machine: says so and lets the test pass, except in CI, where
/// it must be there.
pub(crate) fn skip(reason: &str) {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "in CI nothing may be skipped: {reason}");
    // Not eprintln!: the runner of tests swallows what a test prints that way when it passes.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {reason}");
}
