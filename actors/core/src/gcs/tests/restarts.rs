//! What a head knows again after it was started again, and for what it waits.

use super::*;

#[test]
fn a_restarted_head_finds_its_actors_again() {
    let mut env = Env::new();
    env.join(1, 4.0);
    env.register_job(1);
    env.create(ActorSpec { name: Some("a".into()), ..spec(1) });
    made(&mut env);
    env.create(spec(2));
    let asker = env.asker();
    env.core.kv_put("ns".into(), "k".into(), ByteBuf::from(vec![1]), false, asker);
    env.absorb();
    env.restart();
    assert_eq!(env.state(1), "ALIVE", "its node reported it");
    assert_eq!(env.core.find_actor("a", "ns").map(|found| found.actor), Some(actor(1)));
    assert_eq!(env.core.kv_get("ns", "k"), Some(ByteBuf::from(vec![1])));
    assert_eq!(env.leases_asked.len(), 1, "the one that was not made yet is placed again");
    env.now += Duration::from_secs(20);
    env.core.tick(env.now);
    assert!(env.core.job_heartbeat(job(1), env.now), "its driver has time to find the new head");
}

#[test]
fn an_actor_that_ends_before_its_node_reports_stays_dead() {
    for (restarts, failed, expected) in [(0, true, "DEAD"), (1, false, "DEAD"), (1, true, "RESTARTING")] {
        let mut env = Env::new();
        env.join(1, 4.0);
        env.create(ActorSpec { name: Some("a".into()), max_restarts: restarts, ..spec(1) });
        made(&mut env);
        env.restart_alone();
        assert_eq!(env.state(1), "RESTARTING", "nobody has reported it");
        // Twice: its worker did not hear the first answer.
        env.exit(actor(1), 0, "panicked", failed);
        env.exit(actor(1), 0, "panicked", failed);
        env.come_back();
        assert_eq!(env.state(1), expected, "restarts {restarts}, failed {failed}");
        assert!(env.out.is_empty(), "its lease has come back");
        assert_eq!(env.core.find_actor("a", "ns").is_none(), expected == "DEAD");
        assert!(env.core.delayed.is_empty());
        if expected == "RESTARTING" {
            made(&mut env);
            assert_eq!((env.state(1).as_str(), env.core.actors[&actor(1)].restarts), ("ALIVE", 1));
        }
    }
}

#[test]
fn an_actor_killed_before_its_node_reports_is_stopped_then() {
    for no_restart in [true, false] {
        let mut env = Env::new();
        env.join(1, 4.0);
        env.create(ActorSpec { max_restarts: 1, ..spec(1) });
        made(&mut env);
        env.restart_alone();
        env.kill(1, no_restart);
        env.come_back();
        assert_eq!(env.stopped, [(actor(1), 0)]);
        assert!(env.out.is_empty());
        assert_eq!(env.state(1), if no_restart { "DEAD" } else { "RESTARTING" });
    }
}

#[test]
fn an_actor_whose_node_does_not_come_back_is_lost_with_it() {
    let mut env = Env::new();
    env.join(1, 4.0);
    env.create(spec(1));
    made(&mut env);
    env.alive_nodes.clear();
    env.restart();
    assert_eq!(env.state(1), "RESTARTING");
    let state = |env: &Env| env.core.view().nodes.first().map(|node| node.alive);
    env.pass(9_000);
    assert_eq!((env.state(1).as_str(), state(&env)), ("RESTARTING", None), "it has time to come back");
    env.pass(1_500);
    assert_eq!((env.state(1).as_str(), state(&env)), ("DEAD", Some(false)), "and is dead when it does not");
    env.restart();
    assert_eq!(state(&env), Some(false), "it stays dead when the head restarts");
    env.join(1, 4.0);
    assert_eq!(state(&env), Some(false), "and is not taken back");
}

#[test]
fn the_node_of_a_head_that_was_started_again_is_dead_at_once() {
    let mut env = Env::new();
    let head = |n: u128| RegisterNode {
        info: NodeInfo { head: true, ..info(n, 4.0) },
        actors: vec![],
        processes: vec![],
        bundles: vec![],
    };
    env.core.register_node(head(1), env.now).unwrap();
    env.absorb();
    env.join(2, 4.0);
    env.restart_alone();
    env.core.register_node(head(3), env.now).unwrap();
    env.absorb();
    let lives = |n: u128| env.core.view().nodes.iter().find(|known| known.node == node(n)).map(|known| known.alive);
    assert_eq!((lives(1), lives(3)), (Some(false), Some(true)));
    assert_eq!(lives(2), None, "another one may come back");
}
