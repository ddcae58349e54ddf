//! `#[remote] fn`.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Attribute, Error, FnArg, ItemFn, Result};

use crate::batch;
use crate::options::{Options, TASK_VALUES};
use crate::signature::Remote;

/// The item that stands for the function, its code and its entry in the registry.
pub(crate) fn expand(attributes: TokenStream, function: ItemFn) -> Result<TokenStream> {
    let options = Options::parse(attributes, TASK_VALUES, true)?;
    if let Some(receiver) = function.sig.receiver() {
        return Err(Error::new_spanned(receiver, "a method is made remote by #[remote] on its whole `impl` block"));
    }
    let remote = Remote::read(&function.sig, &options, None)?;
    let name = &function.sig.ident;
    for input in &function.sig.inputs {
        if let FnArg::Typed(input) = input
            && matches!(&*input.pat, syn::Pat::Ident(ident) if ident.ident == *name)
        {
            return Err(Error::new_spanned(
                &input.pat,
                "a parameter cannot have the name of its remote function, which is a constant here; rename one of them",
            ));
        }
    }

    let Attributes { docs, conditions, others } = Attributes::split(&function.attrs);
    let documentation = quote!(#(#docs)*);
    let visibility = &function.vis;
    let asyncness = &function.sig.asyncness;
    let inputs = &function.sig.inputs;
    let output = &function.sig.output;
    let block = &function.block;

    let text = &remote.text;
    let holders = remote.holders();
    let refs = &remote.returned.refs;
    let encode = &remote.returned.encode;
    let remote_inputs = remote.remote_inputs();
    let names = remote.names();
    let builder = &options.builder;
    let decode = remote.decode(&quote!(FUNCTION.name));
    let passed = remote.passed();
    let run = remote.run(quote!(#name.call(#(#passed),*)));
    let (kind, outlet, result) = if remote.returned.streams {
        (quote!(Stream(run)), outlet(), stream_result())
    } else {
        (quote!(Task(run)), TokenStream::new(), quote!(::mobula::__private::CallResult))
    };
    let registered = registered(&quote!(FUNCTION), &name.to_string(), text, "", &kind);
    let batch = batch::of_function(&remote, &options, name, visibility, &conditions)?;
    let signature = quote!(fn(#(#holders),*) -> #refs);

    Ok(quote! {
        #documentation
        #(#conditions)*
        #[allow(non_camel_case_types, missing_docs)]
        #[derive(::core::clone::Clone, ::core::marker::Copy, ::core::fmt::Debug)]
        #visibility struct #name;

        #(#conditions)*
        #[allow(dead_code, clippy::too_many_arguments, clippy::unused_unit, clippy::type_complexity)]
        impl #name {
            /// Runs the function here, like any other.
            #(#others)*
            #visibility #asyncness fn call(self, #inputs) #output #block

            /// Submits the function as a task and returns at once. Whatever goes wrong, the
            /// references that come back say it.
            #visibility fn remote(self, #remote_inputs) -> #refs {
                Self::__defaults().remote(#(#names),*)
            }

            /// A builder of the call's options.
            #visibility fn options(self) -> ::mobula::TaskOptions<#signature> {
                ::core::clone::Clone::clone(Self::__defaults())
            }
        }

        #(#conditions)*
        #[allow(clippy::type_complexity)]
        const _: () = {
            #registered

            fn run(__values: ::std::vec::Vec<::mobula::__private::Encoded> #outlet) -> #result {
                #decode
                let __result = #run;
                #encode
            }

            impl #name {
                #[doc(hidden)]
                fn __defaults() -> &'static ::mobula::TaskOptions<#signature> {
                    static DEFAULTS: ::std::sync::LazyLock<::mobula::TaskOptions<#signature>> =
                        ::std::sync::LazyLock::new(|| ::mobula::TaskOptions::new(&FUNCTION) #builder);
                    &DEFAULTS
                }
            }
        };

        #batch
    })
}

/// The last parameter of code that streams.
pub(crate) fn outlet() -> TokenStream {
    quote!(, __outlet: &mut ::mobula::__private::Outlet)
}

/// What code that streams returns.
pub(crate) fn stream_result() -> TokenStream {
    quote!(::core::result::Result<(), ::mobula::__private::CallError>)
}

/// The name a function is registered under.
pub(crate) fn full_name(path: &str) -> TokenStream {
    quote!(::core::concat!(
        ::core::env!("CARGO_PKG_NAME"),
        "@",
        ::core::env!("CARGO_PKG_VERSION"),
        "::",
        ::core::module_path!(),
        "::",
        #path
    ))
}

/// A static of the function and its entry in the registry.
pub(crate) fn registered(
    variable: &TokenStream,
    path: &str,
    signature: &str,
    group: &str,
    code: &TokenStream,
) -> TokenStream {
    let name = full_name(path);
    let function = quote! {
        ::mobula::__private::RemoteFunction {
            name: #name,
            signature: #signature,
            group: #group,
            code: ::mobula::__private::Code::#code,
        }
    };
    quote! {
        static #variable: ::mobula::__private::RemoteFunction = #function;
        ::mobula::__private::inventory::submit! { #function }
    }
}

/// A function's attributes, by where they belong.
pub(crate) struct Attributes<'a> {
    /// Its documentation and deprecation: to what stands for it.
    pub(crate) docs: Vec<&'a Attribute>,
    /// `cfg`: to everything generated.
    pub(crate) conditions: Vec<&'a Attribute>,
    /// The rest: to the function itself.
    pub(crate) others: Vec<&'a Attribute>,
}

impl<'a> Attributes<'a> {
    pub(crate) fn split(attributes: &'a [Attribute]) -> Self {
        let mut split = Self { docs: Vec::new(), conditions: Vec::new(), others: Vec::new() };
        for attribute in attributes {
            let path = attribute.path();
            if path.is_ident("doc") || path.is_ident("deprecated") {
                split.docs.push(attribute);
            } else if path.is_ident("cfg") {
                split.conditions.push(attribute);
            } else {
                split.others.push(attribute);
            }
        }
        split
    }
}
