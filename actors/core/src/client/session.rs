//! Which client a thread works with: the one of the task it runs, else the process's.

use std::cell::RefCell;
use std::marker::PhantomData;

use parking_lot::Mutex;

use super::Client;

thread_local! {
    static ENTERED: RefCell<Vec<Client>> = const { RefCell::new(Vec::new()) };
}

static PROCESS: Mutex<Option<Client>> = Mutex::new(None);

/// While it lives, the thread works with the client that made it.
pub struct Entered(PhantomData<*const ()>);

impl Drop for Entered {
    fn drop(&mut self) {
        ENTERED.with_borrow_mut(|entered| entered.pop());
    }
}

impl Client {
    /// The thread's client: that of the task it runs or the session it entered, else the
    /// process's.
    pub fn current() -> Option<Client> {
        let entered = ENTERED.with_borrow(|entered| entered.last().cloned());
        entered.or_else(|| PROCESS.lock().clone())
    }

    /// Makes this the thread's client until the guard is dropped. Guards nest.
    pub fn enter(&self) -> Entered {
        ENTERED.with_borrow_mut(|entered| entered.push(self.clone()));
        Entered(PhantomData)
    }

    /// Makes this the process's client, for threads that have none of their own; `None` clears it.
    /// Returns the one before.
    pub fn set_process(client: Option<Client>) -> Option<Client> {
        std::mem::replace(&mut PROCESS.lock(), client)
    }
}
