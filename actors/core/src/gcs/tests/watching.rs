//! Who watches an actor is told how it ends.

use super::*;

impl Env {
    fn watch(&mut self, n: u128, from: u128) -> Asker {
        let asker = self.asker();
        self.core.watch_actor(actor(n), process(from).id, asker);
        self.absorb();
        asker
    }

    #[track_caller]
    fn assert_ended(&self, asker: Asker, reason: EndReason, restarts: u32) {
        match self.answers.get(&asker) {
            Some(Reply::Ended(Some(end))) => assert_eq!((end.reason, end.restarts), (reason, restarts), "{end:?}"),
            other => panic!("expected an end, not {other:?}"),
        }
    }
}

fn alive(restarts: i32) -> Env {
    let mut env = Env::new();
    env.join(1, 4.0);
    env.create(ActorSpec { max_restarts: restarts, ..spec(1) });
    made(&mut env);
    env
}

#[test]
fn several_watchers_hear_of_a_kill_and_late_ones_too() {
    let mut env = alive(-1);
    let watchers = [env.watch(1, 60), env.watch(1, 61)];
    env.worker_dies(1);
    made(&mut env);
    assert!(watchers.iter().all(|asker| !env.answers.contains_key(asker)), "it was made again");
    env.kill(1, true);
    let late = env.watch(1, 62);
    for asker in watchers.into_iter().chain([late]) {
        env.assert_ended(asker, EndReason::Killed, 1);
    }
    let unknown = env.watch(9, 60);
    assert!(matches!(env.answers[&unknown], Reply::Ended(None)));
}

#[test]
fn each_end_has_its_reason() {
    let mut env = alive(0);
    let watch = env.watch(1, 60);
    env.worker_dies(1);
    env.assert_ended(watch, EndReason::Crashed, 0);

    let mut env = alive(1);
    let watch = env.watch(1, 60);
    env.worker_dies(1);
    made(&mut env);
    env.worker_dies(1);
    env.assert_ended(watch, EndReason::OutOfRestarts, 1);

    let mut env = alive(5);
    let watch = env.watch(1, 60);
    env.exit(actor(1), 0, "it has exited", false);
    env.assert_ended(watch, EndReason::Exited, 0);

    let mut env = alive(0);
    let watch = env.watch(1, 60);
    env.core.node_died(node(1), "unplugged", env.now);
    env.absorb();
    env.assert_ended(watch, EndReason::NodeDied, 0);
}

#[test]
fn a_process_watches_once_and_is_forgotten_when_it_dies() {
    let mut env = alive(0);
    let before = env.watch(1, 60);
    let again = env.watch(1, 60);
    assert!(!env.waiting.contains(&before), "its later question counts");
    env.core.process_gone(process(60).id, "gone", env.now);
    env.absorb();
    assert!(!env.waiting.contains(&again));
}
