//! The `mobula` command: starts, shows and stops clusters, and measures them.
//!
//! ```text
//!  mobula start --head ......... start.rs           mobula status ........... status.rs
//!  mobula start --address ...... start.rs           mobula list KIND ........ list.rs
//!  mobula stop ................. stop.rs            mobula microbenchmark ... microbenchmark/
//! ```
//!
//! Here is only the tree of commands; what a library's user would want too is in the floors
//! below. The program is also the worker binary of its own benchmark, hence `#[mobula::main]`.

mod error;
mod microbenchmark;
mod output;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::CliError;
use crate::microbenchmark::MicrobenchmarkArgs;

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
    /// Run Ray's microbenchmark, case by case, beside what the hardware can do
    Microbenchmark(MicrobenchmarkArgs),
    /// The other end of the wire's floor
    #[command(name = microbenchmark::hardware::quic::ECHO_COMMAND, hide = true)]
    QuicEcho,
}

#[mobula::main]
fn main() -> ExitCode {
    let command = Cli::parse().command;
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
        Command::Microbenchmark(args) => microbenchmark::run(args),
        Command::QuicEcho => microbenchmark::hardware::quic::echo(),
    }
}
