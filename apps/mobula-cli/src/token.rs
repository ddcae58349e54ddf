//! `mobula token`: another join token, from the head that runs.
//!
//! The head prints one when it starts; that one ends after a day. A new one takes the operator's
//! credentials, and leaves those that were given before as they are (of very many,
//! the latest 64).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use mobula_core::messages::NewToken;
use serde::Serialize;

use crate::cluster::{Cluster, ClusterArgs};
use crate::error::CliError;
use crate::output::{self, Format};
use crate::parse;

/// What `mobula token` is given.
#[derive(Args, Debug)]
pub(crate) struct TokenArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// How long nodes can join with it: 90s, 30m, 24h or 7d, to 30 days
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse::duration)]
    valid_for: Duration,
    /// What to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// A join token, as it is printed.
#[derive(Debug, Serialize)]
struct Token {
    address: String,
    token: String,
    valid_s: u64,
    expires_unix_s: u64,
}

/// Runs the command.
pub(crate) fn run(args: &TokenArgs) -> Result<(), CliError> {
    let cluster = Cluster::connect(&args.cluster)?;
    let valid_s = args.valid_for.as_secs();
    let token = cluster.ask_gcs(NewToken { valid_s })?.map_err(|refused| CliError::Usage(refused.to_string()))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let token = Token { address: cluster.address.clone(), token, valid_s, expires_unix_s: now.as_secs() + valid_s };
    match args.format {
        Format::Json => output::print_json(&token),
        Format::Human => output::print(&format!(
            "to join with another node within {}:\n  mobula start --address {} --token {}",
            output::duration(valid_s),
            token.address,
            token.token,
        )),
    }
}
