//! `#[remote] impl Aggregator for ..`.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Error, Ident, ItemImpl, Result};

use crate::function::{Attributes, full_name};

/// The `impl` block as it was, and the entries of its two functions in the registry.
pub(crate) fn expand(attributes: TokenStream, block: &ItemImpl, name: &Ident) -> Result<TokenStream> {
    if !attributes.is_empty() {
        return Err(Error::new_spanned(attributes, "an aggregate has no options: they are those of its dataset"));
    }
    let class = &block.self_ty;
    let conditions = Attributes::split(&block.attrs).conditions;
    let [whole, partial, merge] = ["", "::partial", "::merge"].map(|part| full_name(&format!("{name}{part}")));
    Ok(quote! {
        #block

        #(#conditions)*
        const _: () = {
            impl ::mobula::RemoteAggregator for #class {
                const NAME: &'static str = #whole;
                const PARTIAL: &'static str = #partial;
                const MERGE: &'static str = #merge;
            }

            ::mobula::__private::inventory::submit! {
                ::mobula::__private::BatchFunction { name: #partial, call: ::mobula::__private::partial::<#class> }
            }
            ::mobula::__private::inventory::submit! {
                ::mobula::__private::BatchFunction { name: #merge, call: ::mobula::__private::merge::<#class> }
            }
        };
    })
}
