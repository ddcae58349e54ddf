//! What the benchmarks beside other engines share: programs, their memory, and Python.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// The engines beside which ours is measured.
pub(crate) const PEERS: [&str; 2] = ["polars==2.1.0", "duckdb==2.0.0"];

/// Runs a program to its end; what it printed, and its peak memory in bytes.
pub(crate) fn run(command: &mut Command) -> Result<(String, u64), Box<dyn Error>> {
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let mut peak_bytes = 0;
    let status = loop {
        peak_bytes = peak_bytes.max(memory_bytes(child.id()));
        match child.try_wait()? {
            Some(status) => break status,
            None => std::thread::sleep(Duration::from_millis(100)),
        }
    };
    let mut printed = String::new();
    if let Some(mut out) = child.stdout.take() {
        std::io::Read::read_to_string(&mut out, &mut printed)?;
    }
    if !status.success() {
        return Err(format!("{command:?} ended with {status}").into());
    }
    Ok((printed, peak_bytes))
}

pub(crate) fn memory_bytes(process: u32) -> u64 {
    let rollup = std::fs::read_to_string(format!("/proc/{process}/smaps_rollup")).unwrap_or_default();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Python with Polars and DuckDB, in a virtual environment beside the build that is made once.
pub(crate) fn python() -> Result<PathBuf, Box<dyn Error>> {
    let program = Path::new(env!("CARGO_BIN_EXE_taxi-etl"));
    let folder = program.parent().ok_or("the program lies nowhere")?.join("peers-venv");
    let python = folder.join("bin/python");
    let has = |python: &Path| {
        let mut command = Command::new(python);
        command
            .args(["-c", "import polars, duckdb"])
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    if has(&python) {
        return Ok(python);
    }
    println!("making {} with {}", folder.display(), PEERS.join(" and "));
    let made = Command::new("python3").args(["-m", "venv"]).arg(&folder).status()?;
    let installed = Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(PEERS).status()?;
    if made.success() && installed.success() && has(&python) {
        return Ok(python);
    }
    Err("The other engines are not there: this needs python3 with its venv module and a package index".into())
}
