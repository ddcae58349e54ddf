//! `#[remote] impl`.

use proc_macro2::TokenStream;
use quote::{format_ident, quote, quote_spanned};
use syn::{Error, Ident, ImplItem, ImplItemFn, ItemImpl, LitStr, Result, ReturnType, Type};

use crate::function::{Attributes, full_name, outlet, registered, stream_result};
use crate::options::{ACTOR_VALUES, Options, Over};
use crate::signature::{Remote, caught, span};
use crate::{aggregator, batch};

/// The `impl` block as it was, the actor's handle, its code and its entries in the registry.
pub(crate) fn expand(attributes: TokenStream, mut block: ItemImpl) -> Result<TokenStream> {
    if let Some((_, path, _)) = &block.trait_ {
        if path.segments.last().is_some_and(|segment| segment.ident == "Aggregator") {
            return aggregator::expand(attributes, &block, &class_name(&block.self_ty)?);
        }
        return Err(Error::new_spanned(path, "an actor's methods are those of its own `impl` block, not of a trait"));
    }
    let mut options = Options::parse(attributes, ACTOR_VALUES, false)?;
    if !block.generics.params.is_empty() {
        return Err(Error::new_spanned(
            &block.generics,
            "an actor's type cannot be generic: a worker finds it by its name alone; write one type per case",
        ));
    }
    let class = (*block.self_ty).clone();
    let name = class_name(&class)?;

    let mut constructor = None;
    let mut methods = Vec::new();
    for item in &mut block.items {
        let ImplItem::Fn(function) = item else {
            continue;
        };
        let mut own = Options::take_from_method(&mut function.attrs)?;
        if let Some(group) = &own.group {
            options.check_group(group)?;
        }
        if own.skip {
            continue;
        }
        if function.sig.receiver().is_some() {
            methods.push(Method::read(function, &mut own, &class)?);
        } else if function.sig.ident == "new" {
            constructor = Some(Constructor::read(function, &class)?);
        }
    }
    let Some(constructor) = constructor else {
        return Err(Error::new_spanned(
            &block.self_ty,
            "an actor needs a constructor: `fn new(..) -> Self` or `fn new(..) -> Result<Self, E>`",
        ));
    };

    let shared = methods.iter().any(|method| !method.exclusive);
    let cell = if shared { quote!(Shared) } else { quote!(Exclusive) };
    if methods.iter().any(|method| method.remote.asynchronous) {
        let own = std::mem::take(&mut options.builder);
        options.builder = quote!(.max_concurrency(::mobula::__private::ASYNC_MAX_CONCURRENCY) #own);
    }
    let make = constructor.expand(&name, &class, &cell, &options);
    let handle = handle(&name, &methods);
    let batch = match methods.iter().find(|method| method.function.sig.ident == "call") {
        Some(method) => {
            let (visibility, made) = (&constructor.function.vis, &constructor.remote);
            let conditions = Attributes::split(&method.function.attrs).conditions;
            batch::of_class(&class, &name, made, visibility, (&method.remote, &method.over), &conditions)?
        }
        None => TokenStream::new(),
    };
    let methods = methods.iter().enumerate().map(|(index, method)| method.expand(index, &name, &class, &cell));

    Ok(quote! {
        #block
        #make
        #handle
        #batch
        const _: () = {
            #(#methods)*
        };
    })
}

/// The type's name, without its path.
fn class_name(class: &Type) -> Result<Ident> {
    let Type::Path(path) = class else {
        return Err(Error::new_spanned(class, "an actor is a struct or an enum"));
    };
    match path.path.segments.last() {
        Some(segment) if segment.arguments.is_none() => Ok(segment.ident.clone()),
        _ => Err(Error::new_spanned(class, "an actor's type cannot be generic: a worker finds it by its name alone")),
    }
}

/// `fn new`.
struct Constructor {
    function: ImplItemFn,
    remote: Remote,
}

impl Constructor {
    fn read(function: &ImplItemFn, class: &Type) -> Result<Self> {
        let mut signature = function.sig.clone();
        let fallible = match &signature.output {
            ReturnType::Type(_, ty) => is_result(ty),
            ReturnType::Default => {
                return Err(Error::new(span(&signature), "a constructor returns `Self` or `Result<Self, E>`"));
            }
        };
        // The state never crosses the wire, so the rules for results do not hold for it.
        signature.output = ReturnType::Default;
        let mut remote = Remote::read(&signature, &Options::default(), Some(class))?;
        remote.returned.fallible = fallible;
        Ok(Self { function: function.clone(), remote })
    }

    fn expand(&self, name: &Ident, class: &Type, cell: &TokenStream, options: &Options) -> TokenStream {
        let remote = &self.remote;
        let visibility = &self.function.vis;
        let conditions = Attributes::split(&self.function.attrs).conditions;
        let handle = handle_name(name);
        let class_text = name.to_string();
        let holders = remote.holders();
        let remote_inputs = remote.remote_inputs();
        let names = remote.names();
        let builder = &options.builder;
        let decode = remote.decode(&quote!(CONSTRUCTOR.name));
        let passed = remote.passed();
        let call = remote.run(quote!(<#class>::new(#(#passed),*)));
        let state = if remote.returned.fallible {
            let caught = caught();
            quote!(match #call {
                ::core::result::Result::Ok(__state) => __state,
                ::core::result::Result::Err(__error) => return ::core::result::Result::Err(#caught),
            })
        } else {
            call
        };
        let registered = registered(
            &quote!(CONSTRUCTOR),
            &format!("{name}::new"),
            &remote.text,
            "",
            &quote!(Constructor(construct)),
        );
        let class_name = full_name(&class_text);
        let signature = quote!(fn(#(#holders),*));
        quote! {
            #(#conditions)*
            #[allow(dead_code, clippy::too_many_arguments, clippy::type_complexity)]
            impl #class {
                /// Makes an actor of this type and returns its handle at once. Whatever goes
                /// wrong, the first call says it.
                #visibility fn remote(#remote_inputs) -> #handle {
                    Self::__defaults().remote(#(#names),*)
                }

                /// A builder of the actor's options.
                #visibility fn options() -> ::mobula::ActorOptions<#class, #signature> {
                    ::core::clone::Clone::clone(Self::__defaults())
                }
            }

            #(#conditions)*
            #[allow(clippy::type_complexity)]
            const _: () = {
                #registered

                fn construct(
                    __values: ::std::vec::Vec<::mobula::__private::Encoded>,
                ) -> ::core::result::Result<::mobula::__private::Instance, ::mobula::__private::CallError> {
                    #decode
                    let __state = #state;
                    ::core::result::Result::Ok(::std::boxed::Box::new(::mobula::__private::#cell::new(__state)))
                }

                impl #class {
                    #[doc(hidden)]
                    fn __defaults() -> &'static ::mobula::ActorOptions<#class, #signature> {
                        static DEFAULTS: ::std::sync::LazyLock<::mobula::ActorOptions<#class, #signature>> =
                            ::std::sync::LazyLock::new(|| ::mobula::ActorOptions::new(&CONSTRUCTOR) #builder);
                        &DEFAULTS
                    }
                }

                impl ::mobula::RemoteClass for #class {
                    type Handle = #handle;
                    const NAME: &'static str = #class_name;
                }
            };
        }
    }
}

/// A method with `&self` or `&mut self`.
struct Method {
    function: ImplItemFn,
    remote: Remote,
    /// `&mut self`: never beside another.
    exclusive: bool,
    /// Calls on the builder of its calls.
    builder: TokenStream,
    /// Its concurrency group; empty for the default one.
    group: String,
    /// That datasets call it, and with what.
    over: Option<Over>,
}

impl Method {
    fn read(function: &ImplItemFn, options: &mut Options, class: &Type) -> Result<Self> {
        let receiver = match function.sig.receiver() {
            Some(receiver) if receiver.reference.is_some() => receiver,
            _ => {
                return Err(Error::new(
                    span(&function.sig),
                    "an actor's method has `&self` or `&mut self`; mark it #[remote(skip)] to keep it local",
                ));
            }
        };
        let remote = Remote::read(&function.sig, options, Some(class))?;
        Ok(Self {
            exclusive: receiver.mutability.is_some(),
            builder: options.builder.clone(),
            group: options.group.as_ref().map(LitStr::value).unwrap_or_default(),
            function: function.clone(),
            over: options.over.take(),
            remote,
        })
    }

    /// Its code, its entry in the registry and its accessor on the handle.
    fn expand(&self, index: usize, name: &Ident, class: &Type, cell: &TokenStream) -> TokenStream {
        let remote = &self.remote;
        let Attributes { docs, conditions, .. } = Attributes::split(&self.function.attrs);
        let method = &self.function.sig.ident;
        let visibility = &self.function.vis;
        let handle = handle_name(name);
        let variable = format_ident!("METHOD_{index}");
        let run = format_ident!("run_{index}");
        let streams = remote.returned.streams;
        let kind = match (remote.asynchronous, self.exclusive) {
            (_, true) if streams => quote!(StreamMut(#run)),
            (_, false) if streams => quote!(StreamRef(#run)),
            (false, true) => quote!(MethodMut(#run)),
            (false, false) => quote!(MethodRef(#run)),
            (true, true) => quote!(AsyncMut(#run)),
            (true, false) => quote!(AsyncRef(#run)),
        };
        let any = quote!((dyn ::core::any::Any + ::core::marker::Send + ::core::marker::Sync));
        let (state, borrow) =
            if self.exclusive { (quote!(&mut #any), quote!(state_mut)) } else { (quote!(&#any), quote!(state_ref)) };
        let registered = registered(&quote!(#variable), &format!("{name}::{method}"), &remote.text, &self.group, &kind);
        let holders = remote.holders();
        let refs = &remote.returned.refs;
        let encode = &remote.returned.encode;
        let decode = remote.decode(&quote!(#variable.name));
        let passed = remote.passed();
        let call = quote!(<#class>::#method(__state, #(#passed),*));
        // An async method's arguments are decoded when its future first runs.
        let (result, body) = if remote.asynchronous {
            let future = quote! {
                ::std::boxed::Box::pin(async move {
                    let __state = ::mobula::__private::#cell::<#class>::#borrow(__state, #variable.name)?;
                    #decode
                    let __result = #call.await;
                    #encode
                })
            };
            (quote!(::mobula::__private::CallFuture<'_>), future)
        } else {
            let body = quote! {
                let __state = ::mobula::__private::#cell::<#class>::#borrow(__state, #variable.name)?;
                #decode
                let __result = #call;
                #encode
            };
            (if streams { stream_result() } else { quote!(::mobula::__private::CallResult) }, body)
        };
        let outlet = streams.then(outlet);
        let (span, builder) = (method.span(), &self.builder);
        let accessor = quote_spanned! {span=>
            #visibility fn #method(&self) -> ::mobula::Method<'_, fn(#(#holders),*) -> #refs> {
                ::mobula::Method::new(&self.actor, &#variable) #builder
            }
        };
        quote! {
            #(#conditions)*
            #[allow(clippy::type_complexity)]
            const _: () = {
                #registered

                fn #run(
                    __state: #state,
                    __values: ::std::vec::Vec<::mobula::__private::Encoded>
                    #outlet
                ) -> #result {
                    #body
                }

                #[allow(dead_code, private_interfaces, clippy::type_complexity)]
                impl #handle {
                    #(#docs)*
                    #[must_use = "`.remote(..)` makes the call"]
                    #accessor
                }
            };
        }
    }
}

fn handle_name(name: &Ident) -> Ident {
    format_ident!("{name}Handle")
}

fn handle(name: &Ident, methods: &[Method]) -> TokenStream {
    let handle = handle_name(name);
    let documentation = format!(
        "A handle to a [`{name}`] actor. Clones, and handles passed to tasks and other actors, are of the same actor."
    );
    let ready = (!methods.iter().any(|method| method.function.sig.ident == "ready")).then(|| {
        quote! {
            #[allow(dead_code)]
            impl #handle {
                /// Resolves when the constructor has returned, or to its error.
                pub fn ready(&self) -> ::mobula::ObjectRef<()> {
                    ::mobula::RemoteHandle::actor_ready(self)
                }
            }
        }
    });
    quote! {
        #[doc = #documentation]
        #[allow(unreachable_pub, private_interfaces)]
        #[derive(::core::clone::Clone, ::core::fmt::Debug)]
        pub struct #handle {
            actor: ::mobula::ActorRef,
        }

        #ready

        const _: () = {
            impl ::mobula::RemoteHandle for #handle {
                fn from_actor(actor: ::mobula::ActorRef) -> Self {
                    Self { actor }
                }
                fn actor(&self) -> &::mobula::ActorRef {
                    &self.actor
                }
            }

            impl ::mobula::__private::serde::Serialize for #handle {
                fn serialize<S: ::mobula::__private::serde::Serializer>(
                    &self,
                    serializer: S,
                ) -> ::core::result::Result<S::Ok, S::Error> {
                    ::mobula::__private::serde::Serialize::serialize(&self.actor, serializer)
                }
            }

            impl<'de> ::mobula::__private::serde::Deserialize<'de> for #handle {
                fn deserialize<D: ::mobula::__private::serde::Deserializer<'de>>(
                    deserializer: D,
                ) -> ::core::result::Result<Self, D::Error> {
                    ::core::result::Result::Ok(Self {
                        actor: ::mobula::__private::serde::Deserialize::deserialize(deserializer)?,
                    })
                }
            }
        };
    }
}

fn is_result(ty: &Type) -> bool {
    matches!(ty, Type::Path(path) if path.path.segments.last().is_some_and(|segment| segment.ident == "Result"))
}
