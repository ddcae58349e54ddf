//! The real trip records and golden numbers that lie beside the project.

use std::path::PathBuf;

use super::binaries::workspace;
use super::skip;

/// Names the folder when it lies elsewhere.
const VARIABLE: &str = "MOBULA_SHARED";

/// The folder `shared` beside the workspace, or beside a folder that holds it.
fn folder() -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os(VARIABLE) {
        return Some(folder.into());
    }
    workspace().ancestors().skip(1).map(|ancestor| ancestor.join("shared")).find(|folder| folder.join("data").is_dir())
}

/// A file of the shared data; `None` skips the test.
pub(crate) fn data(name: &str) -> Option<PathBuf> {
    let file = folder().map(|folder| folder.join("data").join(name)).filter(|file| file.is_file());
    if file.is_none() {
        skip(&format!("there is no ../shared/data/{name} (or set {VARIABLE} to the folder `shared`)"));
    }
    file
}

/// What other engines make of the shared data; `None` skips the test.
pub(crate) fn golden(name: &str) -> Option<serde_json::Value> {
    let file = folder().map(|folder| folder.join("golden").join(name)).filter(|file| file.is_file());
    let Some(file) = file else {
        skip(&format!("there is no ../shared/golden/{name} (or set {VARIABLE} to the folder `shared`)"));
        return None;
    };
    let text = std::fs::read_to_string(&file).expect("the golden file can be read");
    Some(serde_json::from_str(&text).expect("the golden file is JSON"))
}
