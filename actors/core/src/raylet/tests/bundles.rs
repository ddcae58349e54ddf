//! The bundles that a node sets aside, their leases and their devices.

use super::*;
use crate::ids::PlacementGroupId;
use crate::resources::GPU;
use crate::resources::group::inside;

#[test]
fn a_round_that_is_set_aside_again_has_nothing_of_the_leases_before() {
    let mut env = Env::new(cpus(2.0).with(GPU, 1.0).unwrap());
    let group = PlacementGroupId(Uuid::from_u128(1));
    let of_one = || cpus(1.0).with(GPU, 1.0).unwrap();
    let set_aside = |env: &mut Env| {
        let bundles = vec![(0, of_one())];
        env.core.prepare_bundles(&PrepareBundles { group, round: 1, bundles }, env.now).unwrap();
        assert!(env.core.commit_bundles(&CommitBundles { group, round: 1 }, env.now));
        env.absorb();
    };
    let work = shape_of(inside(group, Some(0), &of_one()));
    set_aside(&mut env);
    env.want(1, &work, 1);
    env.all_workers_ready();
    let before = *env.held.keys().next().expect("there was room in the bundle");
    env.core.return_bundles(&ReturnBundles { group, round: Some(1) }, env.now);
    env.absorb();
    set_aside(&mut env);
    env.want(2, &work, 1);
    env.give_back(before);
    env.all_workers_ready();
    env.pass(1_000);
    assert_eq!(env.held.len(), 1, "the bundle serves the next");
    assert_eq!(env.core.bundles[&(group, 0)].gpus.taken(), env.core.gpus.taken());
}
