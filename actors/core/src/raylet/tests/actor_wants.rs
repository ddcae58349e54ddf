//! Workers for actors.

use super::*;

#[test]
fn an_actor_without_room_is_sent_back_after_its_turn() {
    let mut env = Env::new(cpus(1.0));
    env.want(1, &shape_of(cpus(1.0)), 1);
    env.lease_actor(7, shape_of(cpus(1.0)), cpus(1.0));
    env.pass(500);
    assert!(env.refused.is_empty());
    env.pass(600);
    assert!(matches!(env.refused[..], [LeaseActorError::NoRoom { .. }]));
    env.lease_actor(8, shape_of(Resources::new()), cpus(1.0));
    env.give_back(*env.held.keys().next().unwrap());
    assert_eq!(env.actor_leases.len(), 1);
    assert_eq!(env.core.available(), &cpus(1.0), "it holds nothing while it lives");
}

#[test]
fn an_actor_in_a_removed_group_is_reported_until_the_head_has_seen_to_its_end() {
    let mut env = Env::new(cpus(2.0));
    let group = crate::ids::PlacementGroupId(Uuid::from_u128(1));
    let prepare = PrepareBundles { group, round: 1, bundles: vec![(0, cpus(1.0))] };
    env.core.prepare_bundles(&prepare, env.now).unwrap();
    env.core.commit_bundles(&CommitBundles { group, round: 1 }, env.now);
    let inside = crate::resources::group::inside(group, Some(0), &cpus(0.5));
    env.lease_actor(7, shape_of(inside.clone()), inside);
    assert_eq!(env.actor_leases.len(), 1);
    env.core.return_bundles(&ReturnBundles { group, round: None }, env.now);
    env.absorb();
    // A head that has restarted meanwhile hears of it, and has its worker end it.
    assert_eq!(env.core.hosted_actors().len(), 1);
    env.give_back(env.actor_leases[0].lease);
    assert_eq!((env.core.available(), env.core.total()), (&cpus(2.0), &cpus(2.0)));
}

#[test]
fn what_an_earlier_head_has_asked_for_and_was_not_given_is_nobodys() {
    let mut env = Env::empty(cpus(2.0), false);
    env.lease_actor(7, shape_of(cpus(1.0)), cpus(1.0));
    env.lease_actor(8, shape_of(cpus(2.0)), cpus(2.0));
    assert!(env.actor_leases.is_empty(), "the worker of one starts, and the other waits for room");
    env.core.forget_actor_wants(env.now);
    env.absorb();
    env.all_workers_ready();
    assert!(env.askers.is_empty() && env.actor_leases.is_empty(), "one is not given what the other was to have");
    assert!(matches!(env.refused[..], [LeaseActorError::NoRoom { .. }, LeaseActorError::NoRoom { .. }]));
    assert_eq!(env.core.available(), &cpus(2.0));
    // What was given is reported, and stays.
    env.lease_actor(9, shape_of(cpus(1.0)), cpus(1.0));
    env.all_workers_ready();
    env.core.forget_actor_wants(env.now);
    env.absorb();
    assert_eq!((env.core.hosted_actors().len(), env.core.available()), (1, &cpus(1.0)));
}
