//! Python as an oracle: pyarrow and DuckDB read what Mobula wrote.
//!
//! The packages go into a virtual environment under `target/`, made once and used again. Without
//! python3 or a package index the tests that need it are skipped (in CI they fail).

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::binaries::target;
use super::skip;

/// The packages, pinned so that an answer does not change under a test.
const PACKAGES: [&str; 2] = ["pyarrow==26.0.1", "duckdb==2.0.0"];

/// Describes a directory of Parquet files, see `describe.py`.
const DESCRIBE: &str = include_str!("describe.py");

/// What pyarrow and DuckDB say about the Parquet files of a directory; `None` skips the test.
pub(crate) fn describe(directory: &Path) -> Option<serde_json::Value> {
    run_script(DESCRIBE, directory)
}

/// What a script of Python says about a file or directory, in JSON; `None` skips the test.
pub(crate) fn run_script(script: &str, path: &Path) -> Option<serde_json::Value> {
    let python = python()?;
    let mut command = Command::new(python);
    command.arg("-c").arg(script).arg(path);
    let output = command.output().expect("python starts");
    assert!(
        output.status.success(),
        "the oracle cannot read {}:\n{}",
        path.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    Some(serde_json::from_slice(&output.stdout).expect("the oracle answers in JSON"))
}

fn python() -> Option<PathBuf> {
    static ENVIRONMENT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match ENVIRONMENT.get_or_init(environment) {
        Ok(python) => Some(python.clone()),
        Err(reason) => {
            skip(reason);
            None
        }
    }
}

fn environment() -> Result<PathBuf, String> {
    let folder = target().join("oracle-venv");
    let python = folder.join("bin").join("python");
    let ready = folder.join("ready");
    let packages = PACKAGES.join(" ");

    // Several test processes may come here at once; the first one makes it.
    let lock =
        File::create(target().join("oracle-venv.lock")).map_err(|error| format!("no lock for the oracle: {error}"))?;
    lock.lock().map_err(|error| format!("no lock for the oracle: {error}"))?;
    if fs::read_to_string(&ready).is_ok_and(|made_of| made_of == packages) {
        return Ok(python);
    }
    let _ = fs::remove_dir_all(&folder);
    eprintln!("making {} with {packages}", folder.display());
    run(Command::new("python3").args(["-m", "venv"]).arg(&folder), "python3 with its venv module")?;
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]).args(PACKAGES);
    run(&mut pip, "a package index")?;
    fs::write(&ready, packages).map_err(|error| format!("{}: {error}", ready.display()))?;
    Ok(python)
}

fn run(command: &mut Command, needed: &str) -> Result<(), String> {
    match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("the oracle needs {needed}: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Err(format!("the oracle needs {needed}: {error}")),
    }
}
