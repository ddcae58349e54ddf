//! Supervision: being told how actors end.

use mobula_core::error::Error;
use mobula_core::messages::ActorEnd;

use crate::actor::RemoteHandle;
use crate::call::{Method, Results};
use crate::object::{ObjectRef, unshared};

/// How an actor ends: resolves when it has, or at once if it has already. That it is made anew
/// (`max_restarts`) is no end.
///
/// Anyone who has a handle may watch, also several at once, from programs, tasks and actors. To watch
/// does not keep an actor alive.
///
/// ```
/// use mobula::{Config, EndReason, remote};
///
/// struct Child;
///
/// #[remote]
/// impl Child {
///     fn new() -> Self { Self }
/// }
///
/// #[mobula::main]
/// fn main() -> Result<(), mobula::Error> {
///     mobula::init(Config::default())?;
///     let child = Child::remote();
///     let end = mobula::watch(&child);
///     mobula::kill(&child)?;
///     assert_eq!(mobula::get(&end)?.reason, EndReason::Killed);
///     Ok(())
/// }
/// ```
pub fn watch<H: RemoteHandle>(actor: &H) -> ObjectRef<ActorEnd> {
    match actor.actor().handle() {
        Ok(actor) => ObjectRef::new(actor.client().watch(actor)),
        Err(error) => ObjectRef::failed(error),
    }
}

/// Calls `method` with the [`ActorEnd`] of `watched`, when it has ended: how an actor is told, by one
/// of its own methods, of those it looks after. Its other calls do not wait for that one.
///
/// The call is made by the process that watches; if that ends, so does the watching. Its result is
/// dropped.
///
/// ```
/// use mobula::{ActorEnd, Config, Error, current_actor, kill, on_end, remote};
///
/// struct Child;
///
/// #[remote]
/// impl Child {
///     fn new() -> Self { Self }
/// }
///
/// struct Parent { children: Vec<ChildHandle>, ended: u32 }
///
/// #[remote]
/// impl Parent {
///     fn new() -> Result<Self, Error> {
///         let children: Vec<_> = (0..3).map(|_| Child::remote()).collect();
///         let me = current_actor::<Self>()?;
///         for child in &children {
///             on_end(child, me.child_ended())?;
///         }
///         Ok(Self { children, ended: 0 })
///     }
///
///     fn child_ended(&mut self, end: ActorEnd) {
///         println!("child {} has ended: {}", end.actor, end.why);
///         self.ended += 1;
///     }
///
///     fn lose_one(&mut self) -> Result<(), Error> {
///         self.children.pop().map_or(Ok(()), |child| kill(&child))
///     }
///
///     fn ended(&self) -> u32 { self.ended }
/// }
///
/// #[mobula::main]
/// fn main() -> Result<(), Error> {
///     mobula::init(Config::default())?;
///     let parent = Parent::remote();
///     mobula::get(parent.lose_one().remote())?;
///     while mobula::get(parent.ended().remote())? == 0 {}
///     Ok(())
/// }
/// ```
///
/// # Errors
/// When one of the two could not be made at all, and [`Error::Invalid`] for a method that streams.
pub fn on_end<H: RemoteHandle, R: Results>(watched: &H, method: Method<'_, fn(ActorEnd) -> R>) -> Result<(), Error> {
    let watched = watched.actor().handle().map_err(unshared)?;
    let (actor, function, options) = method.into_parts();
    let actor = actor.handle().map_err(unshared)?;
    if function.code.streams() {
        let what = format!("{} streams, and nobody would take what it yields", function.name);
        return Err(Error::Invalid { what });
    }
    watched.client().call_at_end(watched, actor, function, R::COUNT, options);
    Ok(())
}
