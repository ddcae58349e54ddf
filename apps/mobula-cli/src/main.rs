//! The `mobula` command: starts, shows and stops clusters, and measures them.
//!
//! ```text
//!  mobula start --head ......... start.rs           mobula status ........... status.rs
//!  mobula start --address ...... start.rs           mobula list KIND ........ list.rs
//!  mobula stop ................. stop.rs            mobula explain KIND ID .. explain.rs
//!  mobula token ................ token.rs
//!  mobula microbenchmark ....... microbenchmark/
//! ```
//!
//! Here is only the tree of commands; what a library's user would want too is in the floors
//! below. The program is also the worker binary of its own benchmark, hence `#[mobula::main]`.

mod cluster;
mod daemon;
mod error;
mod explain;
mod list;
mod microbenchmark;
mod output;
mod parse;
mod registry;
mod signals;
mod start;
mod status;
mod stop;
mod token;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use mobula_core::logging::OF_PROGRAMS;
use tracing_subscriber::EnvFilter;

use crate::error::CliError;
use crate::explain::ExplainArgs;
use crate::list::ListArgs;
use crate::microbenchmark::MicrobenchmarkArgs;
use crate::start::StartArgs;
use crate::status::StatusArgs;
use crate::stop::StopArgs;
use crate::token::TokenArgs;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Start, look at, measure and stop Mobula clusters.
#[derive(Parser, Debug)]
#[command(name = "mobula", version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Start a cluster's head, or a node that joins one
    Start(Box<StartArgs>),
    /// Show the nodes, what is used and free, and what waits and why
    Status(StatusArgs),
    /// List nodes, actors, tasks, objects, workers or placement groups
    List(ListArgs),
    /// Say why a task, actor or placement group waits, where it ran, why it failed
    Explain(ExplainArgs),
    /// Print a new token by which nodes join
    Token(TokenArgs),
    /// Stop the nodes that you started on this machine
    Stop(StopArgs),
    /// Run Ray's microbenchmark, case by case, beside what the hardware can do
    Microbenchmark(MicrobenchmarkArgs),
    /// The other end of the wire's floor
    #[command(name = microbenchmark::hardware::quic::ECHO_COMMAND, hide = true)]
    QuicEcho,
}

#[mobula::main]
fn main() -> ExitCode {
    let command = Cli::parse().command;
    log_to_stderr();
    match run(&command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mobula: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Command) -> Result<(), CliError> {
    match command {
        Command::Start(args) => start::run(args),
        Command::Status(args) => status::run(args),
        Command::List(args) => list::run(args),
        Command::Explain(args) => explain::run(args),
        Command::Token(args) => token::run(args),
        Command::Stop(args) => stop::run(args),
        Command::Microbenchmark(args) => microbenchmark::run(args),
        Command::QuicEcho => microbenchmark::hardware::quic::echo(),
    }
}

/// Warnings and errors of the actors, or what `MOBULA_LOG` asks for (`MOBULA_LOG=mobula_core=debug`).
fn log_to_stderr() {
    let filter = EnvFilter::try_from_env("MOBULA_LOG").unwrap_or_else(|_| EnvFilter::new(OF_PROGRAMS));
    let colours = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours);
    // Nobody may read it any more, or its disk be full: that is no reason to panic.
    log.log_internal_errors(false).init();
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_tree_of_commands_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_node_is_a_head_or_joins_one() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' ')).map_err(|error| error.to_string());
        assert!(parse("mobula start --head").is_ok());
        assert!(parse("mobula start --address h:1 --token t").is_ok());
        for wrong in ["mobula start --head --address h:1", "mobula start --address h:1"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
