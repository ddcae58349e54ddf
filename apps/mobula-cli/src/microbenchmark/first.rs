//! From nothing to a task's result, each time in a process of its own: nothing is warm but the
//! files.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::Target;
use super::measure::{Measured, mean_and_sd};
use crate::error::CliError;

/// How long after the first result the process counts as idle.
const SETTLE: Duration = Duration::from_millis(300);

/// What one process measured.
#[derive(Serialize, Deserialize)]
struct First {
    /// From before `init` to the result.
    seconds: f64,
    /// The process's memory afterwards, shared pages in proportion; none where the system does
    /// not tell.
    idle_bytes: Option<u64>,
}

/// Times as many processes as there are windows; also says what the last one held when idle.
pub(super) fn time(target: &Target, times: u32) -> Result<(Measured, Option<u64>), CliError> {
    let mut seconds = Vec::new();
    let mut idle_bytes = None;
    for _ in 0..times {
        let first = in_a_process(target)?;
        idle_bytes = first.idle_bytes;
        seconds.push(first.seconds);
    }
    let rates: Vec<f64> = seconds.iter().map(|seconds| 1.0 / seconds).collect();
    let (per_second, sd) = mean_and_sd(&rates);
    let first_call = Duration::from_secs_f64(seconds[0]);
    Ok((Measured { per_second, sd, first_call }, idle_bytes))
}

fn in_a_process(target: &Target) -> Result<First, CliError> {
    let binary = std::env::current_exe().map_err(CliError::system("the program's own path is not known"))?;
    let mut command = Command::new(binary);
    command.args(["microbenchmark", "--first-result"]);
    if let Some(address) = &target.address {
        command.arg("--address").arg(address);
    }
    if let Some(credentials) = &target.credentials {
        command.arg("--credentials").arg(credentials);
    }
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(CliError::system("the measuring process cannot be started"))?;
    if !output.status.success() {
        let what = "the process that times its first result".to_owned();
        return Err(CliError::Child { what, why: output.status.to_string() });
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// What such a process does.
pub(super) fn time_one(target: &Target) -> Result<(), CliError> {
    let start = Instant::now();
    let session = mobula::init(target.config())?;
    super::cases::first_result()?;
    let seconds = start.elapsed().as_secs_f64();
    std::thread::sleep(SETTLE);
    let idle_bytes = own_memory_bytes();
    session.shutdown();
    crate::output::print_json(&First { seconds, idle_bytes })
}

fn own_memory_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_process_knows_its_memory() {
        assert!(super::own_memory_bytes().unwrap() > 100_000);
    }
}
