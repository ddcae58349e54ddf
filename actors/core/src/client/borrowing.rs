//! Borrowed references: the shell around [`super::borrows`], and what covers a reference on its way.
//!
//! An object must not be freed while a reference to it travels, or has only just arrived. So whoever
//! passes one on holds it until the receiver's own loan is acknowledged, or no longer needed:
//!
//! | the reference is in | it is held by | until |
//! |---|---|---|
//! | an argument | the submitter's pending work | the attempt's end is told; before that the worker has borrowed what it still has |
//! | a constructor's argument | the client that made the actor | the actor cannot be made again |
//! | a result | the worker that returned it | the submitter says that it has borrowed it |
//! | an object | the object's own entry | it is freed; who fetches it keeps it until it has borrowed what it read |
//! | bytes that the user wrote by himself | the session | it ends |
//!
//! A task that only uses the references in its arguments borrows nothing and sends nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use mobula_transport::{Address, MailboxId, Message, Payload, ProcessAddr, ProcessId};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::borrows::{Borrowed, LOANS_PER_MESSAGE, Lent, Loan};
use super::entry::{Entry, ObjectHandle, Outcome};
use super::{Client, Inner, scope};
use crate::delivery::{Fate, fate, insist};
use crate::error::Error;
use crate::ids::ObjectId;
use crate::messages::{BorrowObjects, ContainedRef, ResultKept, ReturnObjects, StillBorrowed, StillReturning};

/// How long one telling of a loan may take before it is told again.
const BORROW_DEADLINE: Duration = Duration::from_secs(10);
/// An owner that could not be reached for so long is taken for dead.
const OWNER_SILENCE: Duration = Duration::from_secs(60);
/// What is dropped within this time is given back together.
const RETURN_DELAY: Duration = Duration::from_millis(5);
/// How often a process that holds something for others asks whether they still need it.
const AUDIT_PERIOD: Duration = Duration::from_secs(5);
/// How long after a process died what it held is let go: what it has passed on is borrowed by then.
const DEATH_GRACE: Duration = Duration::from_secs(3);

/// An attempt of a task or call whose results hold references: whose, its number, which attempt.
type Attempt = (ProcessAddr, u64, u32);

/// What a client knows of references over processes.
#[derive(Default)]
pub(super) struct Borrowing {
    /// Owned objects of which a reference was written into a value.
    exported: Mutex<HashMap<ObjectId, Weak<Entry>>>,
    borrowed: Mutex<Borrowed<Weak<Entry>>>,
    lent: Mutex<Lent<ObjectHandle>>,
    /// Results with references that their submitters have not taken over yet.
    returned: Mutex<BTreeMap<Attempt, Vec<ObjectHandle>>>,
    /// Results with references that are just being taken over from these workers.
    taking: Mutex<BTreeSet<(ProcessId, u64, u32)>>,
    /// Owners whose connection broke.
    broken: Mutex<BTreeSet<ProcessId>>,
    /// What stays until the session ends.
    kept: Mutex<HashMap<ObjectId, ObjectHandle>>,
    returning: AtomicBool,
    auditing: AtomicBool,
}

/// Runs something when several answers are there; keeps the references until then.
struct Gate {
    remaining: AtomicUsize,
    then: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    _held: Vec<ObjectHandle>,
}

impl Gate {
    fn pass(&self) {
        if self.remaining.fetch_sub(1, Ordering::AcqRel) == 1 {
            let then = self.then.lock().take();
            if let Some(then) = then {
                then();
            }
        }
    }
}

// ---- the borrower ------------------------------------------------------------------------------

impl Client {
    /// The handle for a reference that has arrived from elsewhere.
    pub(super) fn handle_of(&self, object: ObjectId, owner: ProcessAddr) -> ObjectHandle {
        if owner.id == self.endpoint().process().id {
            return self.exported(&object).unwrap_or_else(|| {
                let entry = Entry::new(object, self);
                let why = "its owner does not know it any more".to_owned();
                entry.settle(Outcome::Failed(Box::new(Error::ObjectLost { object, why })));
                ObjectHandle(entry)
            });
        }
        let lender = Address { process: owner, mailbox: MailboxId::CLIENT };
        let mut borrowed = self.0.borrowing.borrowed.lock();
        if let Some(entry) = borrowed.get(&object).and_then(Weak::upgrade) {
            return ObjectHandle(entry);
        }
        let loan = borrowed.next_number();
        let entry = Entry::borrowed(object, lender, loan, self);
        borrowed.begin((object, loan), owner, Arc::downgrade(&entry));
        ObjectHandle(entry)
    }

    /// The handle for a reference that was read in a value.
    pub(super) fn handle_read(&self, object: ObjectId, owner: ProcessAddr) -> ObjectHandle {
        let handle = self.handle_of(object, owner);
        if handle.0.lender().is_some() && !scope::read(&handle.0) {
            self.secure(vec![handle.clone()], || {});
        }
        handle
    }

    /// Borrows these of their owners, as far as it has not been done; calls `then` when the owners
    /// have heard it (or are dead), at once if nothing is to be told.
    pub(crate) fn secure(&self, handles: Vec<ObjectHandle>, then: impl FnOnce() + Send + 'static) {
        let foreign = handles.iter().filter(|handle| handle.0.lender().is_some());
        let asked = self.0.borrowing.borrowed.lock().ask(foreign.map(ObjectHandle::id));
        if asked.is_empty() {
            return then();
        }
        self.tell_owners(asked, handles, Box::new(then));
    }

    fn tell_owners(
        &self,
        asked: BTreeMap<ProcessAddr, Vec<Loan>>,
        handles: Vec<ObjectHandle>,
        then: Box<dyn FnOnce() + Send>,
    ) {
        let messages: Vec<(ProcessAddr, Vec<Loan>)> = in_messages(asked);
        let remaining = messages.len().into();
        let gate = Arc::new(Gate { remaining, then: Mutex::new(Some(then)), _held: handles });
        for (owner, loans) in messages {
            self.tell_owner(owner, loans, gate.clone(), None);
        }
    }

    /// `silent_since`: when the owner was first found to be out of reach, if it was the last time.
    fn tell_owner(&self, owner: ProcessAddr, loans: Vec<Loan>, gate: Arc<Gate>, silent_since: Option<Instant>) {
        let client = self.clone();
        let question = BorrowObjects { loans: loans.clone() };
        self.ask_client(owner, question, move |answer| match answer {
            // What it does not have is lost; whoever wants it is told so.
            Ok(_unknown) => {
                client.0.borrowing.borrowed.lock().acknowledged(&loans);
                gate.pass();
            }
            Err(error)
                if matches!(fate(&error), Fate::Doubtful | Fate::Full)
                    && client.is_open()
                    && silent_since.is_none_or(|since| since.elapsed() < OWNER_SILENCE) =>
            {
                let (silent_since, again) = (silent_since.unwrap_or_else(Instant::now), client.clone());
                client.again_soon(move || again.tell_owner(owner, loans, gate, Some(silent_since)));
            }
            Err(error) => {
                tracing::debug!(%owner, %error, "an owner did not hear of a loan");
                gate.pass();
            }
        });
    }

    fn ask_client<M: Message>(
        &self,
        process: ProcessAddr,
        message: M,
        then: impl FnOnce(Result<M::Reply, mobula_transport::SendError>) + Send + 'static,
    ) {
        let to = Address { process, mailbox: MailboxId::CLIENT };
        let then = move |answer: Result<(M::Reply, Payload), _>| then(answer.map(|(reply, _)| reply));
        self.endpoint().request_from(Some(MailboxId::CLIENT), to, message, Payload::new(), BORROW_DEADLINE, then);
    }

    /// The last handle of a borrowed object is gone.
    pub(super) fn borrowed_dropped(&self, object: ObjectId, loan: u64) {
        let some = self.0.borrowing.borrowed.lock().dropped(object, loan);
        if !some || !self.is_open() || self.0.borrowing.returning.swap(true, Ordering::AcqRel) {
            return;
        }
        let weak = Arc::downgrade(&self.0);
        self.endpoint().spawn_task(async move {
            tokio::time::sleep(RETURN_DELAY).await;
            let Some(client) = weak.upgrade().map(Client) else { return };
            client.0.borrowing.returning.store(false, Ordering::Release);
            let back = client.0.borrowing.borrowed.lock().take_back();
            for (owner, loans) in in_messages(back) {
                let to = Address { process: owner, mailbox: MailboxId::CLIENT };
                insist(client.endpoint(), MailboxId::CLIENT, to, ReturnObjects { loans });
            }
        });
    }

    /// The connection to a process broke: when it is up again, it is told what is borrowed of it.
    pub(super) fn borrowing_interrupted(&self, process: ProcessId) {
        self.0.borrowing.broken.lock().insert(process);
    }

    /// The connection to a process is up.
    pub(super) fn borrowing_connected(&self, process: ProcessId) {
        if !self.0.borrowing.broken.lock().remove(&process) {
            return;
        }
        let loans = self.0.borrowing.borrowed.lock().ask_again(process);
        if let Some(owner) = loans.first().map(|(object, _)| *object).and_then(|object| self.owner_of(&object)) {
            self.tell_owners(BTreeMap::from([(owner, loans)]), Vec::new(), Box::new(|| {}));
        }
    }

    fn owner_of(&self, object: &ObjectId) -> Option<ProcessAddr> {
        let entry = self.0.borrowing.borrowed.lock().get(object).and_then(Weak::upgrade)?;
        entry.lender().map(|lender| lender.process)
    }

    /// An owner asks about loans.
    pub(super) fn not_borrowed(&self, loans: Vec<Loan>) -> Vec<Loan> {
        self.0.borrowing.borrowed.lock().not_held(loans)
    }
}

/// So that no message grows without bound.
fn in_messages(loans: BTreeMap<ProcessAddr, Vec<Loan>>) -> Vec<(ProcessAddr, Vec<Loan>)> {
    let mut messages = Vec::new();
    for (process, loans) in loans {
        messages.extend(loans.chunks(LOANS_PER_MESSAGE).map(|loans| (process, loans.to_vec())));
    }
    messages
}

// ---- the owner ---------------------------------------------------------------------------------

impl Client {
    /// A reference is written into a value.
    pub(super) fn export(&self, handle: &ObjectHandle) {
        if handle.0.lender().is_none() && !handle.0.exported.swap(true, Ordering::AcqRel) {
            self.0.borrowing.exported.lock().insert(handle.id(), Arc::downgrade(&handle.0));
        }
        if !scope::written(handle) {
            self.keep(handle);
        }
    }

    /// Keeps an object until the session ends.
    pub(crate) fn keep(&self, handle: &ObjectHandle) {
        if self.is_open() {
            let before = self.0.borrowing.kept.lock().insert(handle.id(), handle.clone());
            drop(before);
        }
    }

    /// An owned object of which a reference was written into a value, while it lives.
    pub(super) fn exported(&self, object: &ObjectId) -> Option<ObjectHandle> {
        self.0.borrowing.exported.lock().get(object).and_then(Weak::upgrade).map(ObjectHandle)
    }

    /// An exported object is gone.
    pub(super) fn exported_dropped(&self, object: &ObjectId) {
        self.0.borrowing.exported.lock().remove(object);
    }

    /// A process borrows objects. Returns those that are not here.
    pub(super) fn lend_to(&self, borrower: ProcessAddr, loans: Vec<Loan>) -> Vec<ObjectId> {
        let mut unknown = Vec::new();
        for loan in loans {
            match self.exported(&loan.0) {
                Some(handle) => {
                    let spare = self.0.borrowing.lent.lock().lend(borrower, loan, handle);
                    drop(spare);
                }
                None => unknown.push(loan.0),
            }
        }
        self.arm_audit();
        unknown
    }

    /// A process has given loans back.
    pub(super) fn given_back(&self, borrower: ProcessId, loans: &[Loan]) {
        let handles = self.0.borrowing.lent.lock().given_back(borrower, loans);
        drop(handles);
    }

    /// A process is dead: what was held for it is let go, a moment later.
    pub(super) fn borrower_gone(&self, process: ProcessId) {
        self.0.borrowing.broken.lock().remove(&process);
        if self.0.borrowing.lent.lock().is_empty() && self.0.borrowing.returned.lock().is_empty() {
            return;
        }
        let weak = Arc::downgrade(&self.0);
        self.endpoint().spawn_task(async move {
            tokio::time::sleep(DEATH_GRACE).await;
            if let Some(client) = weak.upgrade().map(Client) {
                let handles = client.0.borrowing.lent.lock().died(process);
                drop(handles);
                client.returned_let_go(|(submitter, ..)| submitter.id == process);
            }
        });
    }
}

// ---- results with references -------------------------------------------------------------------

impl Client {
    /// Holds what the results of an attempt refer to, until its submitter has taken it over.
    pub(crate) fn hold_returned(&self, submitter: ProcessAddr, seq: u64, attempt: u32, handles: Vec<ObjectHandle>) {
        if self.is_open() {
            let before = self.0.borrowing.returned.lock().insert((submitter, seq, attempt), handles);
            drop(before);
            self.arm_audit();
        }
    }

    /// A submitter holds what these results refer to, or does not want it.
    pub(super) fn result_kept(&self, submitter: ProcessId, attempts: &[(u64, u32)]) {
        self.returned_let_go(|(of, seq, attempt)| of.id == submitter && attempts.contains(&(*seq, *attempt)));
    }

    fn returned_let_go(&self, of: impl Fn(&Attempt) -> bool) {
        let gone: Vec<_> = self.0.borrowing.returned.lock().extract_if(.., |attempt, _| of(attempt)).collect();
        drop(gone);
    }

    /// The references inside the results of an attempt, one list per result. When they are borrowed,
    /// the worker hears of it.
    pub(super) fn take_over(&self, worker: ProcessAddr, seq: u64, attempt: u32, refs: &[ContainedRef]) -> Contained {
        let mut contained = Contained(BTreeMap::new());
        if refs.is_empty() {
            return contained;
        }
        let mut all = Vec::with_capacity(refs.len());
        for ContainedRef { result, object, owner } in refs {
            let handle = self.handle_of(*object, *owner);
            all.push(handle.clone());
            contained.0.entry(*result).or_default().push(handle);
        }
        let client = self.clone();
        self.secure(all, move || client.let_go(worker, seq, attempt));
        contained
    }

    /// Results with references have come: until [`Self::let_go`] the worker is to hold them.
    pub(super) fn begin_taking(&self, worker: ProcessId, seq: u64, attempt: u32) {
        self.0.borrowing.taking.lock().insert((worker, seq, attempt));
    }

    /// Tells a worker that it need not hold what the results of an attempt refer to.
    pub(super) fn let_go(&self, worker: ProcessAddr, seq: u64, attempt: u32) {
        self.0.borrowing.taking.lock().remove(&(worker.id, seq, attempt));
        let to = Address { process: worker, mailbox: MailboxId::CLIENT };
        insist(self.endpoint(), MailboxId::CLIENT, to, ResultKept { attempts: vec![(seq, attempt)] });
    }

    /// A worker asks for which results it need not hold references any more: those that have come and
    /// are taken over, and those that will be thrown away when they come.
    pub(super) fn not_returning(&self, worker: ProcessId, mut attempts: Vec<(u64, u32)>) -> Vec<(u64, u32)> {
        attempts.retain(|(seq, attempt)| {
            let expected = self.0.pending.with(*seq, |pending| pending.attempts.number()) == Some(*attempt);
            !expected && !self.0.borrowing.taking.lock().contains(&(worker, *seq, *attempt))
        });
        attempts
    }
}

impl ObjectHandle {
    /// The reference, as it is told of beside the result that it is in.
    pub(crate) fn contained_in(&self, result: u32) -> ContainedRef {
        let owner = self.0.lender().unwrap_or_else(|| self.client().address()).process;
        ContainedRef { result, object: self.id(), owner }
    }
}

/// The references inside the results of an attempt, by result.
pub(super) struct Contained(BTreeMap<u32, Vec<ObjectHandle>>);

impl Contained {
    /// Those inside one result.
    pub(super) fn of(&mut self, result: usize) -> scope::Refs {
        match u32::try_from(result).ok().and_then(|result| self.0.remove(&result)) {
            Some(handles) => scope::Refs::from(handles),
            None => scope::Refs::default(),
        }
    }
}

// ---- asking whether it is still needed ---------------------------------------------------------

impl Client {
    /// Asks others every [`AUDIT_PERIOD`] whether they still need what is held for them, while
    /// something is.
    fn arm_audit(&self) {
        let auditing = &self.0.borrowing.auditing;
        if auditing.load(Ordering::Relaxed) || auditing.swap(true, Ordering::AcqRel) {
            return;
        }
        let weak: Weak<Inner> = Arc::downgrade(&self.0);
        self.endpoint().spawn_task(async move {
            loop {
                tokio::time::sleep(AUDIT_PERIOD).await;
                let Some(client) = weak.upgrade().map(Client) else { return };
                let borrowing = &client.0.borrowing;
                borrowing.auditing.store(false, Ordering::Release);
                let more = client.audit();
                // Someone may have armed a new one meanwhile; then this one ends.
                if !more || borrowing.auditing.swap(true, Ordering::AcqRel) {
                    return;
                }
            }
        });
    }

    fn audit(&self) -> bool {
        if !self.is_open() {
            return false;
        }
        let questions = self.0.borrowing.lent.lock().questions();
        let mut returned: BTreeMap<ProcessAddr, Vec<(u64, u32)>> = BTreeMap::new();
        for (submitter, seq, attempt) in self.0.borrowing.returned.lock().keys() {
            returned.entry(*submitter).or_default().push((*seq, *attempt));
        }
        let more = !(questions.is_empty() && returned.is_empty());
        for (borrower, loans) in questions {
            let client = self.clone();
            self.ask_client(borrower, StillBorrowed { loans }, move |answer| {
                let lent = &client.0.borrowing.lent;
                let handles = match answer {
                    Ok(over) => {
                        lent.lock().heard_of(borrower.id);
                        lent.lock().given_back(borrower.id, &over)
                    }
                    Err(error) if fate(&error) == Fate::Dead => return client.borrower_gone(borrower.id),
                    Err(_) => lent.lock().silent(borrower.id, client.now_us()),
                };
                drop(handles);
            });
        }
        for (submitter, attempts) in returned {
            let client = self.clone();
            self.ask_client(submitter, StillReturning { attempts }, move |answer| match answer {
                Ok(over) => client.result_kept(submitter.id, &over),
                Err(error) if fate(&error) == Fate::Dead => client.borrower_gone(submitter.id),
                // It is asked again, or heard to be dead.
                Err(_) => {}
            });
        }
        more
    }

    /// The session is over: nothing is held for anybody.
    pub(super) fn end_borrowing(&self) {
        let borrowing = &self.0.borrowing;
        let lent = borrowing.lent.lock().drain();
        let returned = std::mem::take(&mut *borrowing.returned.lock());
        let kept = std::mem::take(&mut *borrowing.kept.lock());
        drop((lent, returned, kept));
    }
}
