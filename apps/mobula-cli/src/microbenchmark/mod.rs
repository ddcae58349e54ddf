//! `mobula microbenchmark`: Ray's microbenchmark, case by case, beside the floors of the hardware.
//!
//! | flag | tasks and actors run |
//! |---|---|
//! | (none) | in this process |
//! | `--between-processes` | in worker processes of a head and a node started for the occasion |
//! | `--address HOST:PORT` | on a running cluster |

mod cases;
mod first;
pub(crate) mod hardware;
mod measure;
mod report;
mod throwaway;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use mobula::Config;

use self::cases::{Bound, CASES, Case};
use self::hardware::Floors;
use self::measure::{Measured, Pace, measure};
use self::throwaway::Throwaway;
use crate::error::CliError;
use crate::output::Format;
use crate::parse::seconds;

/// The case that is timed in processes of its own: from nothing to a task's result.
const INIT: &str = "init to first result";

/// What `mobula microbenchmark` is given.
#[derive(Args, Debug)]
pub(crate) struct MicrobenchmarkArgs {
    /// Run only the cases whose name contains this text; several texts separated by `|`
    pattern: Option<String>,
    /// Run on this cluster instead of in this process
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "between_processes")]
    address: Option<String>,
    /// The directory with the credentials for the cluster
    #[arg(long, value_name = "DIR", requires = "address")]
    credentials: Option<PathBuf>,
    /// Start a head and a node as processes of their own, and run there
    #[arg(long)]
    between_processes: bool,
    /// What to print: a table with ratios and floors, or a list of {name, per_second, sd}
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// How long a case is called before anything counts
    #[arg(long, value_name = "SECONDS", default_value_t = 0.5, value_parser = seconds)]
    warmup: f64,
    /// How long a case is timed, each time
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = seconds)]
    seconds: f64,
    /// How many times a case is timed
    #[arg(long, value_name = "TIMES", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeat: u32,
    /// Time one `init` and its first result, and print that
    #[arg(long, hide = true)]
    first_result: bool,
}

/// A case and what came out.
struct Line {
    name: &'static str,
    case: Option<&'static Case>,
    measured: Measured,
    /// Of the same moments.
    floors: Floors,
}

/// Where the work runs.
#[derive(Clone, Debug)]
struct Target {
    address: Option<String>,
    credentials: Option<PathBuf>,
    /// Where a store of this process would spill; gone with the cluster that was made for the occasion.
    spill_dir: Option<PathBuf>,
}

impl Target {
    fn config(&self) -> Config {
        let mut config = Config::default().name("mobula microbenchmark");
        if let Some(address) = &self.address {
            config = config.address(address);
        }
        if let Some(credentials) = &self.credentials {
            config = config.credentials(credentials);
        }
        if let Some(spill_dir) = &self.spill_dir {
            config = config.spill_dir(spill_dir);
        }
        config
    }

    fn in_this_process(&self) -> bool {
        self.address.is_none()
    }
}

/// Runs the command.
pub(crate) fn run(args: &MicrobenchmarkArgs) -> Result<(), CliError> {
    let mut target = Target { address: args.address.clone(), credentials: args.credentials.clone(), spill_dir: None };
    if args.first_result {
        return first::time_one(&target);
    }
    let chosen = choose(args.pattern.as_deref())?;
    let pace = Pace {
        warmup: Duration::from_secs_f64(args.warmup),
        window: Duration::from_secs_f64(args.seconds),
        windows: args.repeat,
    };

    // Ended, with its processes and files, when this function returns, or by a signal.
    let throwaway = if args.between_processes { Some(Throwaway::start()?) } else { None };
    if let Some(cluster) = &throwaway {
        target = cluster.target();
    }
    let mut lines = Vec::new();
    let mut idle_bytes = None;
    if chosen.contains(&Chosen::Init) {
        progress(INIT);
        let (measured, idle) = first::time(&target, pace.windows)?;
        idle_bytes = idle;
        lines.push(Line { name: INIT, case: None, measured, floors: Floors::default() });
    }
    if chosen.iter().any(|chosen| matches!(chosen, Chosen::Case(_))) {
        let session = mobula::init(target.config())?;
        for chosen in &chosen {
            if let Chosen::Case(place) = *chosen {
                let case = &CASES[place];
                // Before and after, since the machine may do other things too, and not evenly.
                let floors = || match args.format {
                    Format::Human => floors_under(case.bound, target.in_this_process()),
                    Format::Json => Ok(Floors::default()),
                };
                let before = floors()?;
                progress(case.name);
                let measured =
                    run_case(case, pace).map_err(|error| CliError::Case { name: case.name, why: Box::new(error) })?;
                let floors = Floors::mean(&[before, floors()?]);
                lines.push(Line { name: case.name, case: Some(case), measured, floors });
            }
        }
        session.shutdown();
    }
    progress("");
    drop(throwaway);
    match args.format {
        Format::Json => report::json(&lines),
        Format::Human => report::human(&lines, target.in_this_process(), idle_bytes),
    }
}

fn run_case(case: &Case, pace: Pace) -> Result<Measured, CliError> {
    let mut prepared = (case.prepare)()?;
    measure(pace, prepared.units, || Ok((prepared.call)()?))
}

fn floors_under(bound: Bound, in_this_process: bool) -> Result<Floors, CliError> {
    let mut floors = Floors::default();
    if bound == Bound::None {
        return Ok(floors);
    }
    progress("what the hardware can do");
    if bound == Bound::RoundTrip {
        floors.wake_up = Some(hardware::wake_up()?);
        if !in_this_process {
            floors.quic_round_trip = Some(hardware::quic::round_trip()?);
        }
    }
    if bound == Bound::Copy {
        floors.copy = Some(hardware::copying()?);
    }
    Ok(floors)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chosen {
    Init,
    Case(usize),
}

fn choose(pattern: Option<&str>) -> Result<Vec<Chosen>, CliError> {
    let wanted = |name: &str| match pattern {
        None => true,
        Some(pattern) => {
            let name = name.to_lowercase();
            pattern.split('|').map(|part| part.trim().to_lowercase()).any(|part| name.contains(&part))
        }
    };
    let init = wanted(INIT).then_some(Chosen::Init);
    let cases = CASES.iter().enumerate().filter(|(_, case)| wanted(case.name)).map(|(place, _)| Chosen::Case(place));
    let chosen: Vec<_> = init.into_iter().chain(cases).collect();
    if chosen.is_empty() {
        let names: Vec<_> = std::iter::once(INIT).chain(CASES.iter().map(|case| case.name)).collect();
        let pattern = pattern.unwrap_or_default();
        return Err(CliError::Usage(format!(
            "no case has {pattern:?} in its name; there are:\n  {}",
            names.join("\n  ")
        )));
    }
    Ok(chosen)
}

/// Says on a terminal what is being measured; an empty text takes that away.
fn progress(what: &str) {
    let mut stderr = std::io::stderr();
    if stderr.is_terminal() {
        // A terminal that cannot be written to misses nothing that matters.
        let _ = write!(stderr, "\r\x1b[K{what}");
        let _ = stderr.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_chooses_by_parts_of_names() {
        assert_eq!(choose(None).unwrap().len(), 1 + CASES.len());
        let sync = choose(Some("TASKS SYNC | 1:1 actor calls sync")).unwrap();
        let names: Vec<_> = sync
            .iter()
            .map(|chosen| match chosen {
                Chosen::Init => INIT,
                Chosen::Case(place) => CASES[*place].name,
            })
            .collect();
        assert_eq!(names, ["single client tasks sync", "1:1 actor calls sync"]);
        assert_eq!(choose(Some("init")).unwrap(), [Chosen::Init]);
        let error = choose(Some("gpu")).unwrap_err().to_string();
        assert!(error.contains("\"gpu\"") && error.contains("n:n actor calls async"), "{error}");
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = CASES.iter().map(|case| case.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), CASES.len());
    }
}
