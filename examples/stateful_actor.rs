//! A struct becomes an actor: its state lives in one place, its methods are its messages.
//!
//! ```text
//! cargo run --example stateful_actor
//! ```

use std::collections::BTreeMap;

use mobula::{Config, Error, get, get_actor, kill, remote};

/// A bank with no overdraft.
struct Bank {
    accounts: BTreeMap<String, u64>,
}

#[remote]
impl Bank {
    fn new() -> Self {
        Self { accounts: BTreeMap::new() }
    }

    fn deposit(&mut self, owner: String, amount: u64) -> u64 {
        let balance = self.accounts.entry(owner).or_default();
        *balance += amount;
        *balance
    }

    fn withdraw(&mut self, owner: String, amount: u64) -> Result<u64, String> {
        let balance = self.accounts.entry(owner.clone()).or_default();
        match balance.checked_sub(amount) {
            Some(left) => {
                *balance = left;
                Ok(left)
            }
            None => Err(format!("{owner} has {balance}, not {amount}")),
        }
    }

    fn accounts(&self) -> BTreeMap<String, u64> {
        self.accounts.clone()
    }
}

/// A task that is handed the actor.
#[remote]
fn save_up(bank: BankHandle, owner: String, times: u64) -> Result<u64, Error> {
    let mut balance = 0;
    for _ in 0..times {
        balance = get(bank.deposit().remote(&owner, 10))?;
    }
    Ok(balance)
}

#[mobula::main]
fn main() -> Result<(), Error> {
    let session = mobula::init(Config::from_env()?)?;
    let bank = Bank::options().name("the bank").remote();

    // Calls of one caller arrive in the order they were made; nothing waits until `get`.
    bank.deposit().remote("Ada", 100);
    let left = bank.withdraw().remote("Ada", 30);
    println!("Ada has {} left", get(&left)?);

    // An error ends the call, not the actor.
    match get(bank.withdraw().remote("Ada", 500)) {
        Ok(left) => println!("Ada has {left} left"),
        Err(error) => println!("refused: {error}"),
    }

    // Many tasks may hold the same actor, and anyone may find it by its name.
    let savers = ["Ben", "Cleo", "Ada"].map(|owner| save_up.remote(bank.clone(), owner, 5));
    println!("after saving up: {:?}", get(&savers)?);
    let found = get_actor::<Bank>("the bank")?;
    println!("all accounts:    {:?}", get(found.accounts().remote())?);

    kill(&bank)?;
    while let Ok(accounts) = get(found.accounts().remote()) {
        println!("still open: {accounts:?}");
    }
    println!("the bank is closed, and calling it says so");

    session.shutdown();
    Ok(())
}
