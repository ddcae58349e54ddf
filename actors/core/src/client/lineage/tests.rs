//! What is remembered, and forgetting it.

use super::*;
use crate::registry::Code;

static NOTHING: RemoteFunction =
    RemoteFunction { name: "lineage tests: nothing", signature: "", group: "", code: Code::Task(|_| Ok(Vec::new())) };

fn made_from(lineages: &Lineages, of: Option<Arc<Lineage>>, cost_bytes: usize) -> Arc<Lineage> {
    let object = ObjectId { owner: mobula_transport::ProcessId::random(), seq: 1, index: 0 };
    let args = of.map(|of| Ingredient::Result { of, object, entry: Weak::new() }).into_iter().collect();
    let recipe = Recipe {
        seq: 1,
        function: &NOTHING,
        options: Arc::new(TaskOptions::default()),
        args,
        returns: SmallVec::new(),
        cost_bytes,
        lineages: lineages.counts.clone(),
    };
    lineages.counts.bytes.fetch_add(cost_bytes, Ordering::Relaxed);
    lineages.counts.recipes.fetch_add(1, Ordering::Relaxed);
    let state = State { recipe: Some(Arc::new(recipe)), attempts: Attempts::default(), running: 0, runs: 0 };
    Arc::new(Lineage(Mutex::new(state)))
}

fn remembered(lineages: &Lineages) -> (usize, usize) {
    (lineages.counts.recipes.load(Ordering::Relaxed), lineages.counts.bytes.load(Ordering::Relaxed))
}

#[test]
fn a_long_chain_goes_without_exhausting_the_stack() {
    let lineages = Lineages::default();
    let mut last = None;
    for _ in 0..100_000 {
        last = Some(made_from(&lineages, last.take(), 1));
    }
    assert_eq!(remembered(&lineages), (100_000, 100_000));
    drop(last);
    assert_eq!(remembered(&lineages), (0, 0));
}

#[test]
fn beyond_the_bound_the_oldest_is_forgotten() {
    let lineages = Lineages::default();
    let all: Vec<_> = (0..5)
        .map(|_| {
            let lineage = made_from(&lineages, None, 10);
            lineages.remember(&lineage, 30);
            lineage
        })
        .collect();
    let kept: Vec<bool> = all.iter().map(|lineage| lineage.0.lock().recipe.is_some()).collect();
    assert_eq!(kept, [false, false, true, true, true]);
    assert_eq!(remembered(&lineages), (3, 30));
}

#[test]
fn what_nobody_has_any_more_is_not_listed_for_ever() {
    let lineages = Lineages::default();
    for _ in 0..1_000 {
        let lineage = made_from(&lineages, None, 1);
        lineages.remember(&lineage, usize::MAX / 2);
    }
    assert!(lineages.oldest_first.lock().len() <= 70);
}

#[test]
fn a_run_that_is_over_lets_the_next_one_begin() {
    let lineages = Lineages::default();
    let lineage = made_from(&lineages, None, 1);
    let run = |number| {
        let mut state = lineage.0.lock();
        (state.running, state.runs) = (number, number);
        Rerun { lineage: lineage.clone(), run: number }
    };
    let first = run(1);
    first.ended(Attempts::default());
    assert_eq!(lineage.0.lock().running, 0);
    let second = run(2);
    // What is left of the first does not end the second.
    drop(first);
    assert_eq!(lineage.0.lock().running, 2);
    drop(second);
    assert_eq!(lineage.0.lock().running, 0);
}
