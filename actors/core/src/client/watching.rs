//! Watching actors: being told how they end.
//!
//! The GCS is asked once for each actor that this process watches, until it has answered; so a head
//! that restarts is told again. What is told is an object like any other, or the argument of a call.

use std::collections::BTreeMap;
use std::sync::Arc;

use mobula_transport::SendError;
use smallvec::smallvec;

use super::entry::{Entry, Outcome};
use super::options::CallOptions;
use super::pending::Arg;
use super::{ActorHandle, Client, ObjectHandle, no_session};
use crate::error::Error;
use crate::ids::ActorId;
use crate::messages::{ActorEnd, EndReason, WatchActor};
use crate::registry::RemoteFunction;
use crate::value::{Encoding, Value};

/// Those that wait for the end of an actor, by the actor.
pub(super) type Watched = BTreeMap<ActorId, Vec<Arc<Entry>>>;

impl Client {
    /// Resolves to an [`ActorEnd`], in MessagePack, when the actor has ended for good. Does not keep
    /// it alive.
    pub fn watch(&self, actor: &ActorHandle) -> ObjectHandle {
        let entry = Entry::new(self.next_object(), self);
        let (client, id, watcher) = (self.clone(), actor.id(), entry.clone());
        // The GCS may not know of it before it was made.
        let made = self.ready(actor).0;
        let outcome = made.clone();
        made.on_settled(move || {
            let failed = match outcome.outcome() {
                Some(Outcome::Failed(error)) => Some(error),
                _ => None,
            };
            client.add_watcher(id, watcher, failed);
        });
        ObjectHandle(entry)
    }

    /// Calls this method of `actor` with how `watched` has ended, when it has. Nothing else waits for
    /// that call, and nobody hears of its end.
    pub fn call_at_end(
        &self,
        watched: &ActorHandle,
        actor: &ActorHandle,
        method: &'static RemoteFunction,
        returns: u32,
        options: Option<Arc<CallOptions>>,
    ) {
        let (client, id, class, rules) = (self.clone(), actor.id(), actor.class().to_owned(), actor.rules());
        let end = self.watch(watched).0;
        let told = end.clone();
        // The handle is made anew: one that is held here would keep an actor alive for its watching.
        end.on_settled(move || {
            if let Some(Outcome::Inline(value)) = told.outcome() {
                let actor = client.actor(id, &class, rules);
                drop(client.call_with(&actor, method, smallvec![Arg::Value(value)], returns, options));
            }
        });
    }

    fn add_watcher(&self, actor: ActorId, watcher: Arc<Entry>, failed: Option<Box<Error>>) {
        if !self.is_open() {
            return watcher.settle(Outcome::Failed(Box::new(no_session())));
        }
        let first = {
            let mut watched = self.0.watched.lock();
            let watchers = watched.entry(actor).or_default();
            watchers.push(watcher);
            watchers.len() == 1
        };
        if first {
            self.ask_end(actor, failed);
        }
    }

    /// Asks until it is answered, or nobody in this process wants to know any more.
    fn ask_end(&self, actor: ActorId, failed: Option<Box<Error>>) {
        let client = self.clone();
        self.ask_gcs(WatchActor { actor }, move |answer| match answer {
            Ok(Some(end)) => client.ended(&end),
            Ok(None) => {
                // It was never made, or that was long ago.
                let reason = if failed.is_some() { EndReason::Crashed } else { EndReason::Unknown };
                let why = failed.map_or_else(|| "the head does not know it".to_owned(), |error| error.to_string());
                client.ended(&ActorEnd { actor, reason, why, restarts: 0 });
            }
            Err(SendError::Closed) => client.stop_watching(),
            Err(_) if !client.is_open() => client.stop_watching(),
            Err(error) => {
                tracing::debug!(%actor, %error, "asking the GCS for the actor's end again");
                if client.is_watched(actor) {
                    client.clone().again_soon(move || client.ask_end(actor, failed));
                }
            }
        });
    }

    /// Forgets watchers of whom nobody would hear.
    fn is_watched(&self, actor: ActorId) -> bool {
        let mut watched = self.0.watched.lock();
        let Some(watchers) = watched.get_mut(&actor) else { return false };
        let forgotten: Vec<_> = watchers.extract_if(.., |entry| Arc::strong_count(entry) == 1).collect();
        let some = !watchers.is_empty();
        if !some {
            watched.remove(&actor);
        }
        drop(watched);
        drop(forgotten);
        some
    }

    fn ended(&self, end: &ActorEnd) {
        let outcome = match rmp_serde::to_vec_named(end) {
            Ok(bytes) => Outcome::Inline(Value::new(Encoding::MSGPACK, bytes)),
            Err(error) => Outcome::Failed(Box::new(Error::Codec {
                what: "an actor's end".to_owned(),
                doing: "encoded".to_owned(),
                why: error.to_string(),
            })),
        };
        let watchers = self.0.watched.lock().remove(&end.actor).unwrap_or_default();
        for watcher in watchers {
            watcher.settle(outcome.clone());
        }
    }

    /// The session is over: nobody is told anything.
    pub(super) fn stop_watching(&self) {
        let watched = std::mem::take(&mut *self.0.watched.lock());
        for watcher in watched.into_values().flatten() {
            watcher.settle(Outcome::Failed(Box::new(no_session())));
        }
    }
}
