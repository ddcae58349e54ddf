//! `mobula explain`: why a task, actor or placement group waits, where it ran, why it failed.

use std::fmt::Display;

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::cluster::{Cluster, ClusterArgs};
use crate::error::CliError;
use crate::output::{self, Format};

/// What `mobula explain` is given.
#[derive(Args, Debug)]
pub(crate) struct ExplainArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    /// A task or call, by its id (1f3a2b4c-17) or that of its result (1f3a2b4c-17.0)
    Task(One),
    /// An actor, by the beginning of its id
    Actor(One),
    /// A placement group, by the beginning of its id
    PlacementGroup(One),
}

#[derive(Args, Debug)]
struct One {
    /// As `mobula list tasks`, `list actors` and `list placement-groups` show it
    id: String,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// What to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Runs the command.
pub(crate) fn run(args: &ExplainArgs) -> Result<(), CliError> {
    match &args.what {
        What::Task(one) => {
            // What is no id is refused before anybody is asked.
            let name = one.id.parse()?;
            show(one.format, &Cluster::connect(&one.cluster)?.explainer().task(&name)?)
        }
        What::Actor(one) => show(one.format, &Cluster::connect(&one.cluster)?.explainer().actor(&one.id)?),
        What::PlacementGroup(one) => {
            show(one.format, &Cluster::connect(&one.cluster)?.explainer().placement_group(&one.id)?)
        }
    }
}

fn show<E: Display + Serialize>(format: Format, explanation: &E) -> Result<(), CliError> {
    match format {
        Format::Json => output::print_json(explanation),
        Format::Human => output::print(&explanation.to_string()),
    }
}
