//! Principle 7, closed by default: who has no certificate of the cluster gets no message read,
//! and the node goes on serving.

use std::net::UdpSocket;

use crate::support::binaries::binary;
use crate::support::cluster::{Cluster, free_port};
use crate::support::process::Program;

#[test]
fn garbage_on_the_port_changes_nothing() {
    let cluster = Cluster::start(0, 1);
    let stranger = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let mut seed = 1_u32;
    for round in 0..2_000_u32 {
        let mut datagram = vec![0_u8; 1 + (round as usize * 37) % 1_400];
        for byte in &mut datagram {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = (seed >> 24) as u8;
        }
        // Some of them look like the beginning of a QUIC handshake.
        if round.is_multiple_of(3) {
            datagram[0] = 0xc0 | (datagram[0] & 0x0f);
        }
        stranger.send_to(&datagram, cluster.address()).expect("sent");
    }
    assert_eq!(cluster.node_list().len(), 1);
}

/// The operator of one cluster is a stranger to another one.
#[test]
fn another_clusters_credentials_are_refused() {
    let mut cluster = Cluster::start(0, 1);
    let other = Cluster::start(0, 1);
    let status_of_a_stranger = || {
        let mut command = other.family().command(binary("mobula"));
        command.args(["status", "--address", cluster.address()]);
        let finished = Program::run("a stranger's status", command).expect_failure("a stranger's status");
        assert!(finished.stdout.is_empty(), "something was told: {}", finished.stdout);
    };
    // It does not trust this cluster, and says so when it leaves.
    status_of_a_stranger();
    // Let it trust this cluster: it still has no certificate of it.
    std::fs::copy(authority_of(&cluster), authority_of(&other)).expect("the authority's certificate is copied");
    status_of_a_stranger();
    // The node says so, counts it, and goes on.
    cluster.head().wait_for_output("a word about the stranger", |output| output.contains("refused").then_some(()));
    let nodes = cluster.node_list();
    assert_eq!(nodes.len(), 1);
    let refused = &nodes[0]["refused"];
    assert!(refused["without_certificate"].as_u64() >= Some(1), "{refused}");
    assert!(refused["last"]["peer"].is_string() && refused["last"]["why"].is_string(), "{refused}");
    let told = cluster.run(&["status"]).stdout;
    assert!(told.contains("head refused ") && told.contains("\n  last: 127.0.0.1:"), "{told}");
    drop(other);
}

/// The certificate that the cluster's operator trusts.
fn authority_of(cluster: &Cluster) -> std::path::PathBuf {
    cluster.family().path("config").join("mobula").join("ca.pem")
}

#[test]
fn a_wrong_token_does_not_join() {
    let cluster = Cluster::start(0, 1);
    let other = Cluster::start(0, 1);
    let family = crate::support::process::Family::new();
    let mut command = family.command(binary("mobula"));
    command.args(["start", "--address", cluster.address(), "--token", other.token(), "--num-cpus", "1", "--dir"]);
    command.arg(family.path("node"));
    Program::run("a node with another cluster's token", command).expect_failure("another cluster's token");
    let address = format!("127.0.0.1:{}", free_port());
    let mut command = family.command(binary("mobula"));
    command.args(["start", "--address", &address, "--token", cluster.token(), "--dir"]).arg(family.path("lost"));
    let finished = Program::run("a node without a head", command).expect_failure("nobody at the address");
    assert!(finished.stderr.contains(&address), "the address is not named: {}", finished.stderr);
    assert_eq!(cluster.node_list().len(), 1);
}
