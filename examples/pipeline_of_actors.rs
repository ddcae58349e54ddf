//! Actors that pass work on: a splitter, two counters and a ledger, all at work at once.
//!
//! ```text
//! cargo run --example pipeline_of_actors
//!
//!   lines ─▶ Splitter ─▶ Counter (a..l) ─▶ Ledger
//!                   └──▶ Counter (m..z) ─▶
//! ```

use std::collections::BTreeMap;

use mobula::{Config, Error, ObjectRef, get, remote};

const TEXT: &str = "\
Rays are flat fishes related to sharks\n\
Mobula rays swim in groups and some groups of rays are very large\n\
Large groups of mobula rays leap out of the sea\n\
Nobody knows why rays leap and the rays do not say";

/// The last stage: keeps the totals.
struct Ledger {
    words: BTreeMap<String, u64>,
}

#[remote]
impl Ledger {
    fn new() -> Self {
        Self { words: BTreeMap::new() }
    }

    fn book(&mut self, counts: BTreeMap<String, u64>) {
        for (word, count) in counts {
            *self.words.entry(word).or_default() += count;
        }
    }

    fn top(&self, how_many: u64) -> Vec<(String, u64)> {
        let mut words: Vec<_> = self.words.clone().into_iter().collect();
        words.sort_by(|(a, m), (b, n)| n.cmp(m).then(a.cmp(b)));
        words.truncate(how_many as usize);
        words
    }
}

/// The middle: counts the words of a line.
struct Counter {
    ledger: LedgerHandle,
    words: u64,
}

#[remote]
impl Counter {
    fn new(ledger: LedgerHandle) -> Self {
        Self { ledger, words: 0 }
    }

    fn count(&mut self, words: Vec<String>) -> ObjectRef<()> {
        self.words += words.len() as u64;
        let mut counts = BTreeMap::<String, u64>::new();
        for word in words {
            *counts.entry(word).or_default() += 1;
        }
        // Passed on, not waited for: the next line can come while the ledger writes.
        self.ledger.book().remote(counts)
    }

    fn words(&self) -> u64 {
        self.words
    }
}

/// The first stage: splits lines into words and deals them out by their first letter.
struct Splitter {
    counters: Vec<CounterHandle>,
}

#[remote]
impl Splitter {
    fn new(counters: Vec<CounterHandle>) -> Self {
        Self { counters }
    }

    fn split(&mut self, line: String) -> Vec<ObjectRef<ObjectRef<()>>> {
        let mut piles = vec![Vec::new(); self.counters.len()];
        for word in line.split_whitespace().map(str::to_lowercase) {
            let pile = usize::from(word.as_str() >= "m").min(piles.len() - 1);
            piles[pile].push(word);
        }
        self.counters.iter().zip(piles).map(|(counter, words)| counter.count().remote(words)).collect()
    }
}

#[mobula::main]
fn main() -> Result<(), Error> {
    let session = mobula::init(Config::from_env()?)?;

    let ledger = Ledger::remote();
    let counters = vec![Counter::remote(ledger.clone()), Counter::remote(ledger.clone())];
    let splitter = Splitter::remote(counters.clone());

    // All lines go in at once; the stages work on different lines at the same time. What comes
    // back is a chain of references, one link per stage, down to the ledger's receipt.
    let lines: Vec<_> = TEXT.lines().map(|line| splitter.split().remote(line)).collect();
    println!("{} lines are on their way", lines.len());
    let booked = get(&get(&lines)?.concat())?;
    get(&booked)?;

    for (name, counter) in ["a to l", "m to z"].into_iter().zip(&counters) {
        println!("the counter for {name} saw {} words", get(counter.words().remote())?);
    }
    for (word, count) in get(ledger.top().remote(5))? {
        println!("{count:>3} x {word}");
    }
    session.shutdown();
    Ok(())
}
