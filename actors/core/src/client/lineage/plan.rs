//! Pure: in which order things are made of which some parts have to be made first.

use std::collections::HashSet;
use std::hash::Hash;

/// The thing and the parts that have to be made for it, and theirs, each once and after its own
/// parts; the thing itself comes last. `parts` says what has to be made before a thing. Nothing is
/// made of itself. Chains may be long: nothing here recurses.
pub(super) fn parts_first<N: Clone, K: Hash + Eq, E>(
    thing: N,
    key: impl Fn(&N) -> K,
    mut parts: impl FnMut(&N) -> Result<Vec<N>, E>,
) -> Result<Vec<N>, E> {
    let mut order = Vec::new();
    let mut seen = HashSet::from([key(&thing)]);
    let first = parts(&thing)?;
    let mut open = vec![(thing, first)];
    while let Some((_, missing)) = open.last_mut() {
        match missing.pop() {
            Some(part) => {
                if seen.insert(key(&part)) {
                    let next = parts(&part)?;
                    open.push((part, next));
                }
            }
            None => order.extend(open.pop().map(|(done, _)| done)),
        }
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    fn order(of: usize, parts: &[Vec<usize>]) -> Vec<usize> {
        let known = |thing: &usize| Ok::<_, Infallible>(parts[*thing].clone());
        parts_first(of, |thing| *thing, known).unwrap_or_default()
    }

    /// What a thing needs, found the simple way.
    fn needed(of: usize, parts: &[Vec<usize>], all: &mut BTreeSet<usize>) {
        all.insert(of);
        for part in &parts[of] {
            needed(*part, parts, all);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn everything_is_made_once_and_after_its_parts(
            choices in prop::collection::vec(prop::collection::vec(0_usize..12, 0..4), 1..12),
        ) {
            // Made only of what stands before it.
            let parts: Vec<Vec<usize>> = choices
                .into_iter()
                .enumerate()
                .map(|(thing, parts)| parts.into_iter().filter(|part| *part < thing).collect())
                .collect();
            let last = parts.len() - 1;
            let order = order(last, &parts);
            let mut wanted = BTreeSet::new();
            needed(last, &parts, &mut wanted);
            prop_assert_eq!(order.len(), wanted.len());
            prop_assert_eq!(order.iter().copied().collect::<BTreeSet<_>>(), wanted);
            for (place, thing) in order.iter().enumerate() {
                for part in &parts[*thing] {
                    prop_assert!(order[..place].contains(part), "{} before its part {}", thing, part);
                }
            }
        }
    }

    #[test]
    fn a_long_chain_does_not_exhaust_the_stack() {
        let parts: Vec<Vec<usize>> =
            (0..100_000_usize).map(|thing| thing.checked_sub(1).into_iter().collect()).collect();
        assert_eq!(order(99_999, &parts), (0..100_000).collect::<Vec<_>>());
    }

    #[test]
    fn a_part_that_cannot_be_made_is_an_error() {
        let parts = |thing: &usize| if *thing == 0 { Err("the first is gone") } else { Ok(vec![thing - 1]) };
        assert_eq!(parts_first(3_usize, |thing| *thing, parts), Err("the first is gone"));
    }
}
