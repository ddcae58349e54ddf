//! References inside values, seen while a value is written or read: which went in, which came out.
//!
//! A type's own code writes and reads its references, somewhere inside serde, and knows of no
//! client. So the thread notes them. [`capture`] wraps the writing: what it notes becomes the
//! value's [`Refs`]. [`ObjectHandle::decode`] wraps the reading of an object that was fetched, and an
//! attempt of a task or call is a scope by itself: what they note is to be borrowed before the
//! object's handle goes, or the attempt's end is told (see [`super::borrowing`]).

use std::cell::RefCell;
use std::sync::{Arc, Weak};

use super::entry::{Entry, ObjectHandle};

/// References that are inside a value's bytes, held as long as the value is.
#[derive(Clone, Default)]
pub struct Refs(Option<Arc<Vec<ObjectHandle>>>);

impl Refs {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The references.
    pub fn iter(&self) -> impl Iterator<Item = &ObjectHandle> {
        self.0.iter().flat_map(|held| held.iter())
    }

    /// Keeps what they refer to until the session ends: for bytes that go where nobody can hold
    /// references for them.
    pub fn keep_for_session(&self) {
        for handle in self.iter() {
            handle.client().keep(handle);
        }
    }
}

impl From<Vec<ObjectHandle>> for Refs {
    fn from(handles: Vec<ObjectHandle>) -> Self {
        Self((!handles.is_empty()).then(|| Arc::new(handles)))
    }
}

impl std::fmt::Debug for Refs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl Drop for Refs {
    fn drop(&mut self) {
        if let Some(held) = self.0.take()
            && let Some(handles) = Arc::into_inner(held)
        {
            drop_in_turn(handles);
        }
    }
}

thread_local! {
    /// What was written by the value that is being written; `None` while none is.
    static WRITTEN: RefCell<Option<Vec<ObjectHandle>>> = const { RefCell::new(None) };
    /// What was read from the object that is being read; `None` while none is.
    static READ: RefCell<Option<Vec<Weak<Entry>>>> = const { RefCell::new(None) };
    /// What was read since the attempt began; `None` outside of one.
    static ATTEMPT: RefCell<Option<Vec<Weak<Entry>>>> = const { RefCell::new(None) };
    /// What is to be dropped when the present one has been.
    static DROPPED: RefCell<Option<Vec<ObjectHandle>>> = const { RefCell::new(None) };
}

/// Drops the handles one after the other, and what they are the last to hold after them: a list of
/// values, each with a reference to the next, may be longer than a thread's stack allows.
fn drop_in_turn(handles: Vec<ObjectHandle>) {
    let mut handles = Some(handles);
    let begun = DROPPED.try_with(|dropped| {
        let mut dropped = dropped.borrow_mut();
        let more = handles.take().unwrap_or_default();
        match &mut *dropped {
            Some(waiting) => {
                waiting.extend(more);
                false
            }
            None => {
                *dropped = Some(more);
                true
            }
        }
    });
    // A thread that ends has no locals any more: what is left in `handles` is dropped as it is.
    if begun != Ok(true) {
        return;
    }
    loop {
        let next = DROPPED.with_borrow_mut(|dropped| match dropped.as_mut().and_then(Vec::pop) {
            Some(next) => Some(next),
            None => {
                *dropped = None;
                None
            }
        });
        match next {
            Some(handle) => drop(handle),
            None => return,
        }
    }
}

/// Puts back what was noted before, also when user code panics.
struct Restore<T: 'static>(&'static std::thread::LocalKey<RefCell<Option<Vec<T>>>>, Option<Vec<T>>);

impl<T> Restore<T> {
    fn begin(local: &'static std::thread::LocalKey<RefCell<Option<Vec<T>>>>) -> Self {
        Self(local, local.replace(Some(Vec::new())))
    }

    fn noted(&self) -> Vec<T> {
        self.0.take().unwrap_or_default()
    }
}

impl<T> Drop for Restore<T> {
    fn drop(&mut self) {
        self.0.set(self.1.take());
    }
}

/// Runs `write`, which writes a value; returns with its result the references that it wrote.
/// References that are written outside of this keep their objects until the session ends.
pub fn capture<R>(write: impl FnOnce() -> R) -> (R, Refs) {
    let scope = Restore::begin(&WRITTEN);
    let result = write();
    let written = scope.noted();
    (result, Refs::from(written))
}

impl ObjectHandle {
    /// Runs `read`, which reads this object's value: as long as the references that it reads need
    /// this object to live, it does.
    pub fn decode<R>(&self, read: impl FnOnce() -> R) -> R {
        let scope = Restore::begin(&READ);
        let result = read();
        let read = scope.noted();
        drop(scope);
        if !read.is_empty() {
            let cover = self.clone();
            self.client().secure(alive(read), move || drop(cover));
        }
        result
    }
}

/// A reference is written. False if nothing that could hold it is being written.
pub(super) fn written(handle: &ObjectHandle) -> bool {
    WRITTEN.with_borrow_mut(|written| match written {
        Some(written) => {
            written.push(handle.clone());
            true
        }
        None => false,
    })
}

/// A borrowed reference was read. False if it was read outside of any scope.
pub(super) fn read(entry: &Arc<Entry>) -> bool {
    let note = |noted: &mut Option<Vec<Weak<Entry>>>| match noted {
        Some(noted) => {
            noted.push(Arc::downgrade(entry));
            true
        }
        None => false,
    };
    READ.with_borrow_mut(note) || ATTEMPT.with_borrow_mut(note)
}

/// While it lives, the thread runs an attempt whose submitter holds its arguments.
pub(crate) struct AttemptScope(Restore<Weak<Entry>>);

impl AttemptScope {
    pub(crate) fn begin() -> Self {
        Self(Restore::begin(&ATTEMPT))
    }

    /// What the attempt has read and somebody still has. For the end of the attempt.
    pub(crate) fn still_held(self) -> Vec<ObjectHandle> {
        alive(self.0.noted())
    }
}

/// What an attempt has read that does not run at the moment: a future between two polls.
#[derive(Default)]
pub(crate) struct Suspended(Vec<Weak<Entry>>);

impl Suspended {
    /// The thread goes on with the attempt.
    pub(crate) fn resume(&mut self) -> AttemptScope {
        AttemptScope(Restore(&ATTEMPT, ATTEMPT.replace(Some(std::mem::take(&mut self.0)))))
    }

    /// The thread leaves it again.
    pub(crate) fn suspend(&mut self, scope: AttemptScope) {
        self.0 = scope.0.noted();
    }

    /// What the attempt has read and somebody still has. For the end of the attempt.
    pub(crate) fn still_held(self) -> Vec<ObjectHandle> {
        alive(self.0)
    }
}

fn alive(entries: Vec<Weak<Entry>>) -> Vec<ObjectHandle> {
    entries.into_iter().filter_map(|entry| entry.upgrade()).map(ObjectHandle).collect()
}
