//! How the head hears and tells of dead processes.

use super::*;

#[test]
fn late_word_of_a_start_does_not_bring_an_ended_process_back() {
    let mut env = Env::new();
    env.join(1, 4.0);
    let (why, culprit) = ("signal 9".to_owned(), crate::culprit::Culprit::Unknown);
    env.core.process_down(&ProcessDown { node: node(1), process: process(70), why, culprit }, env.now);
    env.core.process_up(node(1), process(70), 7);
    env.absorb();
    assert_eq!(env.core.dead_among(&[process(70).id]), [process(70).id]);
}

#[test]
fn the_death_of_a_process_is_told_by_a_head_that_did_not_know_it() {
    let mut env = Env::new();
    env.register_job(1);
    env.join(1, 4.0);
    env.restart_alone();
    let asks = [process(1_001).id, process(50).id];
    assert!(env.core.dead_among(&asks).is_empty(), "nodes have time to come back");
    env.published.clear();
    let (why, culprit) = ("signal 9".to_owned(), crate::culprit::Culprit::Unknown);
    env.core.process_down(&ProcessDown { node: node(1), process: process(1_001), why, culprit }, env.now);
    env.absorb();
    assert!(matches!(env.published[..], [ClusterEvent::ProcessDied { process: dead, .. }] if dead == process(1_001)));
    env.join(2, 4.0);
    for _ in 0..40 {
        env.pass(1_000);
    }
    // Who has missed the news can ask. The driver lives.
    assert_eq!(env.core.dead_among(&asks), [process(1_001).id]);
    assert!(env.core.dead_among(&[process(2).id, process(1_002).id]).is_empty());
}
