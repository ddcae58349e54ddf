//! `#[mobula::main]`.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Error, ItemFn, Result};

/// The program's `main`, preceded by the look at whether this process is to be a worker.
pub(crate) fn expand(attributes: TokenStream, function: ItemFn) -> Result<TokenStream> {
    if !attributes.is_empty() {
        return Err(Error::new_spanned(attributes, "#[mobula::main] takes no options"));
    }
    let ItemFn { attrs, vis, sig, block } = function;
    if !sig.inputs.is_empty() || !sig.generics.params.is_empty() {
        return Err(Error::new_spanned(sig, "the program's entry takes no parameters"));
    }
    let name = &sig.ident;
    let output = &sig.output;
    let asyncness = &sig.asyncness;
    let run = match asyncness {
        Some(_) => quote!(::mobula::__private::block_on_main(__entry())),
        None => quote!(__entry()),
    };
    Ok(quote! {
        #(#attrs)*
        #vis fn #name() #output {
            #asyncness fn __entry() #output #block
            ::mobula::__private::run_worker_if_asked();
            let __session = ::mobula::__private::EndSession;
            #run
        }
    })
}
