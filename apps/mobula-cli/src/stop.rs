//! `mobula stop`: ends the nodes that this user has started on this machine.
//!
//! Nodes first and heads after them, so that every node can still say goodbye to its head.

use std::time::{Duration, Instant};

use clap::Args;
use rustix::process::Signal;

use crate::error::CliError;
use crate::output;
use crate::registry::{Registry, RunningNode};

/// How often it is looked whether a node has ended.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long a killed process may take to go.
const KILLED_WITHIN: Duration = Duration::from_secs(10);

/// What `mobula stop` is given.
#[derive(Args, Debug)]
pub(crate) struct StopArgs {
    /// Kill the nodes instead of letting them finish what runs
    #[arg(long)]
    force: bool,
    /// Stop only nodes of the cluster at this address
    #[arg(long, value_name = "HOST:PORT")]
    address: Option<String>,
    /// Stop only the node of this name
    #[arg(long)]
    name: Option<String>,
    /// How long to wait for a node to end
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    timeout: u64,
}

/// Runs the command.
pub(crate) fn run(args: &StopArgs) -> Result<(), CliError> {
    let running = Registry::of_user().running()?;
    if running.is_empty() {
        return output::print("no node of this user runs on this machine");
    }
    let all: Vec<_> = running.iter().map(|node| format!("{} at {}", node.name, node.address)).collect();
    let (nodes, heads): (Vec<_>, Vec<_>) =
        running.into_iter().filter(|node| is_meant(args, node)).partition(|node| !node.head);
    if nodes.is_empty() && heads.is_empty() {
        return Err(CliError::Usage(format!("no such node runs on this machine; there are: {}", all.join(", "))));
    }
    let mut left = Vec::new();
    for group in [nodes, heads] {
        left.extend(end(args, group)?);
    }
    if left.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = left.iter().map(|node| format!("{} (pid {})", node.name, node.pid)).collect();
    Err(CliError::Usage(format!(
        "still running after {} s: {}; `mobula stop --force` kills them",
        args.timeout,
        names.join(", ")
    )))
}

fn is_meant(args: &StopArgs, node: &RunningNode) -> bool {
    let address = args.address.as_deref().map(|address| address.strip_prefix("mobula://").unwrap_or(address));
    address.is_none_or(|address| node.address == address) && args.name.as_ref().is_none_or(|name| node.name == *name)
}

/// Ends these and returns those that would not go.
fn end(args: &StopArgs, mut nodes: Vec<RunningNode>) -> Result<Vec<RunningNode>, CliError> {
    let (signal, within) = match args.force {
        true => (Signal::KILL, KILLED_WITHIN),
        false => (Signal::TERM, Duration::from_secs(args.timeout)),
    };
    for node in &nodes {
        node.signal(signal)?;
    }
    let start = Instant::now();
    loop {
        for node in nodes.extract_if(.., |node| !node.is_running()) {
            output::print(&format!("{} {} (pid {}) has ended", kind(&node), node.name, node.pid))?;
        }
        if nodes.is_empty() || start.elapsed() >= within {
            return Ok(nodes);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

fn kind(node: &RunningNode) -> &'static str {
    if node.head { "head" } else { "node" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_and_a_name_narrow_it_down() {
        let node = RunningNode {
            pid: 1,
            started_ticks: 1,
            name: "a".to_owned(),
            head: false,
            address: "127.0.0.1:6380".to_owned(),
            dir: "/".into(),
        };
        let args = |address: Option<&str>, name: Option<&str>| StopArgs {
            force: false,
            address: address.map(str::to_owned),
            name: name.map(str::to_owned),
            timeout: 1,
        };
        assert!(is_meant(&args(None, None), &node));
        assert!(is_meant(&args(Some("mobula://127.0.0.1:6380"), Some("a")), &node));
        assert!(!is_meant(&args(Some("127.0.0.1:1"), None), &node));
        assert!(!is_meant(&args(None, Some("b")), &node));
    }
}
