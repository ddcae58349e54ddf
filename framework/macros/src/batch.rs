//! What makes functions and classes usable by datasets: an entry of the registry that takes a whole
//! batch, and `with(..)`, which names it together with its other arguments.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Attribute, Error, Ident, Result, Type, Visibility};

use crate::function::full_name;
use crate::options::{Options, Over};
use crate::signature::{Parameter, Remote, caught, is_named};

/// How a function meets the rows of a batch.
#[derive(Clone, Copy)]
enum Shape {
    /// All at once.
    Batch,
    /// One by one; each gives one.
    Map,
    /// One by one; each gives any number.
    FlatMap,
    /// One by one; each is kept or not.
    Filter,
}

impl Shape {
    /// The shape of a function, if datasets can call it: its types say so, or its attribute.
    fn of(remote: &Remote, over: Option<&Over>) -> Result<Option<Self>> {
        let value = remote.returned.value.as_ref();
        let Some(over) = over else {
            let formats = remote.parameters.first().is_some_and(|first| first.format) && remote.returned.format;
            return Ok(formats.then_some(Self::Batch));
        };
        if remote.parameters.is_empty() || value.is_none() {
            let message = "the first parameter is what it is called with; the result is written out";
            return Err(Error::new_spanned(over.name(), message));
        }
        Ok(Some(match over {
            Over::Batches(_) => Self::Batch,
            Over::Rows(_) if value.is_some_and(|ty| is_named(ty, "bool")) => Self::Filter,
            Over::Rows(_) if value.is_some_and(|ty| is_named(ty, "Vec")) => Self::FlatMap,
            Over::Rows(_) => Self::Map,
        }))
    }

    /// The type of a call.
    fn call(self) -> TokenStream {
        match self {
            Self::Batch => quote!(::mobula::BatchCall),
            Self::Map => quote!(::mobula::MapCall),
            Self::FlatMap => quote!(::mobula::FlatMapCall),
            Self::Filter => quote!(::mobula::FilterCall),
        }
    }

    /// The result of a call with `__batch`, of type `Result<RecordBatch, BatchError>`.
    fn body(self, remote: &Remote, first: &Parameter, call: impl Fn(TokenStream) -> TokenStream) -> TokenStream {
        let helper = match self {
            Self::Batch => quote!(call_batch),
            Self::Map => quote!(map_rows),
            Self::FlatMap => quote!(flat_map_rows),
            Self::Filter => quote!(filter_rows),
        };
        let given = &first.owned;
        let call = remote.run(call(if first.borrowed { quote!(&__given) } else { quote!(__given) }));
        let error = quote!(::mobula::__private::BatchError);
        let result = if remote.returned.fallible {
            let caught = caught();
            quote!(match #call {
                ::core::result::Result::Ok(__value) => ::core::result::Result::Ok(__value),
                ::core::result::Result::Err(__error) => {
                    ::core::result::Result::Err(match ::mobula::__private::as_format_error(__error) {
                        ::core::result::Result::Ok(__error) => #error::Format(__error),
                        ::core::result::Result::Err(__error) => #error::from(#caught),
                    })
                }
            })
        } else {
            quote!(::core::result::Result::<_, #error>::Ok(#call))
        };
        quote!(::mobula::__private::#helper(__batch, |__given: #given| #result))
    }
}

/// What makes a function usable by a dataset, if it can be.
pub(crate) fn of_function(
    remote: &Remote,
    options: &Options,
    name: &Ident,
    visibility: &Visibility,
    conditions: &[&Attribute],
) -> Result<TokenStream> {
    let Some(shape) = Shape::of(remote, options.over.as_ref())? else { return Ok(TokenStream::new()) };
    let Some((first, rest)) = remote.parameters.split_first() else { return Ok(TokenStream::new()) };
    let (count, call_type, full_name) = (rest.len(), shape.call(), full_name(&name.to_string()));
    let takes = rest.iter().map(|Parameter { name, holder, variable, .. }| {
        let name = name.to_string();
        quote!(let #variable: #holder = __arguments.take(#name)?;)
    });
    // It is called again and again where it meets rows one by one.
    let owned = rest.iter().filter(|parameter| !parameter.borrowed && !matches!(shape, Shape::Batch));
    let clones =
        owned.map(|Parameter { variable, .. }| quote!(let #variable = ::core::clone::Clone::clone(&#variable);));
    let (clones, passed): (Vec<_>, Vec<_>) = (clones.collect(), rest.iter().map(|parameter| &parameter.pass).collect());
    let body = shape.body(remote, first, |given| quote!({ #(#clones)* #name.call(#given, #(#passed),*) }));
    let mutable = (count > 0).then(|| quote!(mut));
    let made_by = quote!(::mobula::__private::CalledAs::Function(#full_name));
    let with = with(visibility, &quote!(self,), rest, &call_type, &made_by);
    let without_parameters = (count == 0).then(|| {
        quote! {
            impl ::core::convert::From<#name> for #call_type {
                fn from(function: #name) -> Self {
                    function.with()
                }
            }
        }
    });
    Ok(quote! {
        #(#conditions)*
        #[allow(dead_code, clippy::too_many_arguments)]
        impl #name {
            /// The function with its other arguments, for a dataset to call.
            #with
        }

        #(#conditions)*
        const _: () = {
            #without_parameters

            ::mobula::__private::inventory::submit! {
                ::mobula::__private::BatchFunction { name: #full_name, call: run }
            }

            fn run(
                __batch: ::mobula::__private::RecordBatch,
                __values: &[::mobula::__private::Encoded],
            ) -> ::core::result::Result<::mobula::__private::RecordBatch, ::mobula::__private::BatchError> {
                let #mutable __arguments =
                    ::mobula::__private::Arguments::new(#full_name, __values.to_vec(), #count)?;
                #(#takes)*
                #body
            }
        };
    })
}

/// What makes a class usable by a dataset, if its method `call` can be.
pub(crate) fn of_class(
    class: &Type,
    name: &Ident,
    constructor: &Remote,
    visibility: &Visibility,
    method: (&Remote, &Option<Over>),
    conditions: &[&Attribute],
) -> Result<TokenStream> {
    let (call, over) = method;
    let Some(shape) = Shape::of(call, over.as_ref())? else { return Ok(TokenStream::new()) };
    let [first] = call.parameters.as_slice() else {
        return match over {
            None => Ok(TokenStream::new()),
            Some(over) => Err(Error::new_spanned(over.name(), "what is constant goes to the constructor")),
        };
    };
    let (call_type, full_name) = (shape.call(), full_name(&name.to_string()));
    let made_by = quote!(::mobula::__private::CalledAs::Class(#full_name));
    let with = with(visibility, &TokenStream::new(), &constructor.parameters, &call_type, &made_by);
    let decode = constructor.decode(&full_name);
    let passed = constructor.passed();
    let new = constructor.run(quote!(<#class>::new(#(#passed),*)));
    let state = if constructor.returned.fallible {
        let caught = caught();
        quote!(match #new {
            ::core::result::Result::Ok(__state) => __state,
            ::core::result::Result::Err(__error) => return ::core::result::Result::Err(#caught.into()),
        })
    } else {
        new
    };
    let body = shape.body(call, first, |given| quote!(<#class>::call(&mut __state, #given)));
    Ok(quote! {
        #(#conditions)*
        #[allow(dead_code, clippy::too_many_arguments)]
        impl #class {
            /// The method `call` of objects made with these arguments, for a dataset to call. Each
            /// of the actors that do makes an object, and keeps it.
            #with
        }

        #(#conditions)*
        const _: () = {
            ::mobula::__private::inventory::submit! {
                ::mobula::__private::BatchClass { name: #full_name, new: make }
            }

            fn make(
                __values: &[::mobula::__private::Encoded],
            ) -> ::core::result::Result<::mobula::__private::BatchObject, ::mobula::__private::BatchError> {
                let __values = __values.to_vec();
                #decode
                let mut __state = #state;
                ::core::result::Result::Ok(::std::boxed::Box::new(move |__batch| #body))
            }
        };
    })
}

/// The function `with`, which takes these arguments.
fn with(
    visibility: &Visibility,
    receiver: &TokenStream,
    parameters: &[Parameter],
    call_type: &TokenStream,
    made_by: &TokenStream,
) -> TokenStream {
    let inputs = parameters.iter().map(|Parameter { name, holder, .. }| quote!(#name: #holder));
    let encodes = parameters.iter().map(|Parameter { name, .. }| quote!(::mobula::__private::encode(#name)?));
    quote! {
        #visibility fn with(#receiver #(#inputs),*) -> #call_type {
            #call_type::__of(#made_by, || ::core::result::Result::Ok(::std::vec![#(#encodes),*]))
        }
    }
}
