//! What a signature means: how each parameter is held and handed over, what comes back.

use proc_macro2::{TokenStream, TokenTree};
use quote::{format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{
    Error, FnArg, GenericArgument, Ident, Pat, PathArguments, Result, ReturnType, Signature, Type, TypeImplTrait,
    TypeParamBound,
};

use crate::options::Options;

/// Parameters a remote function can have; the framework writes its call builders out up to here.
pub(crate) const MAX_PARAMETERS: usize = 12;

/// The element types of `mobula::Array`.
const NUMBERS: &[&str] = &["u8", "i8", "u16", "i16", "u32", "i32", "u64", "i64", "f32", "f64"];

/// The forms in which a dataset hands over rows: Arrow's batches, `mobula::Rows` and
/// `mobula::NdColumns`.
const FORMATS: &[&str] = &["RecordBatch", "Rows", "NdColumns"];

/// One parameter.
pub(crate) struct Parameter {
    /// Its name, or `argumentN` for a pattern.
    pub(crate) name: Ident,
    /// The owned type that is decoded.
    pub(crate) holder: TokenStream,
    /// How the holder (a variable named [`Parameter::variable`]) is handed to the function.
    pub(crate) pass: TokenStream,
    /// The variable of the generated code that holds it.
    pub(crate) variable: Ident,
    /// The type as it is written, without a reference.
    pub(crate) owned: TokenStream,
    /// Whether it is borrowed.
    pub(crate) borrowed: bool,
    /// Whether it is a form that rows of a dataset have.
    pub(crate) format: bool,
}

/// What a call gives back.
pub(crate) struct Returned {
    /// The type of `.remote(..)`: one `ObjectRef`, or a tuple of them.
    pub(crate) refs: TokenStream,
    /// An expression of type `CallResult`, over a variable `result`.
    pub(crate) encode: TokenStream,
    /// Whether the result is written `Result<..>`.
    pub(crate) fallible: bool,
    /// The type of the (successful) result, where it is one and is written out.
    pub(crate) value: Option<Type>,
    /// Whether that is a form that rows of a dataset have.
    pub(crate) format: bool,
    /// Whether the result is an iterator: then the expression yields its items, and is of type
    /// `Result<(), CallError>`.
    pub(crate) streams: bool,
}

/// The parts of a signature that every remote function has.
pub(crate) struct Remote {
    pub(crate) parameters: Vec<Parameter>,
    pub(crate) returned: Returned,
    pub(crate) asynchronous: bool,
    /// The signature as text, for the registry's digest.
    pub(crate) text: String,
}

impl Remote {
    /// Reads a signature; `class` is what `Self` stands for.
    pub(crate) fn read(signature: &Signature, options: &Options, class: Option<&Type>) -> Result<Self> {
        refuse_generics(signature)?;
        let mut parameters = Vec::new();
        let mut text = Vec::new();
        for input in &signature.inputs {
            let FnArg::Typed(input) = input else { continue };
            let ty = without_self(&input.ty, class)?;
            text.push(compact(&ty));
            parameters.push(parameter(&input.pat, &ty, parameters.len())?);
        }
        if parameters.len() > MAX_PARAMETERS {
            return Err(Error::new_spanned(
                &signature.inputs,
                format!("a remote function has at most {MAX_PARAMETERS} parameters; put some into a struct"),
            ));
        }
        let output = match &signature.output {
            ReturnType::Default => syn::parse_quote!(()),
            ReturnType::Type(_, ty) => without_self(ty, class)?,
        };
        let text = format!("fn({}) -> {}", text.join(", "), compact(&output));
        let returned = returned(&output, options)?;
        if let Some(token) = signature.asyncness.filter(|_| returned.streams) {
            return Err(Error::new_spanned(
                token,
                "what streams is not async: its iterator is asked for one item after the other; remove the `async`",
            ));
        }
        Ok(Self { parameters, returned, asynchronous: signature.asyncness.is_some(), text })
    }

    /// The types the parameters are decoded to.
    pub(crate) fn holders(&self) -> Vec<&TokenStream> {
        self.parameters.iter().map(|parameter| &parameter.holder).collect()
    }

    /// `a: impl IntoArg<A>, ..`: the parameters of `.remote`.
    pub(crate) fn remote_inputs(&self) -> TokenStream {
        let inputs =
            self.parameters.iter().map(|Parameter { name, holder, .. }| quote!(#name: impl ::mobula::IntoArg<#holder>));
        quote!(#(#inputs),*)
    }

    /// The names of the parameters.
    pub(crate) fn names(&self) -> Vec<&Ident> {
        self.parameters.iter().map(|parameter| &parameter.name).collect()
    }

    /// Statements that decode `__values` into the parameters' variables.
    pub(crate) fn decode(&self, function: &TokenStream) -> TokenStream {
        let count = self.parameters.len();
        let takes = self.parameters.iter().map(|Parameter { name, holder, variable, .. }| {
            let name = name.to_string();
            quote!(let #variable: #holder = __arguments.take(#name)?;)
        });
        let mutable = (count > 0).then(|| quote!(mut));
        quote! {
            let #mutable __arguments = ::mobula::__private::Arguments::new(#function, __values, #count)?;
            #(#takes)*
            ::core::mem::drop(__arguments);
        }
    }

    /// The arguments of the call, after [`Remote::decode`].
    pub(crate) fn passed(&self) -> Vec<&TokenStream> {
        self.parameters.iter().map(|parameter| &parameter.pass).collect()
    }

    /// The call itself, run to its end where it is async.
    pub(crate) fn run(&self, call: TokenStream) -> TokenStream {
        if self.asynchronous { quote!(::mobula::__private::block_on(#call)?) } else { call }
    }
}

fn refuse_generics(signature: &Signature) -> Result<()> {
    if let Some(parameter) = signature.generics.params.first() {
        return Err(Error::new_spanned(
            parameter,
            "a remote function cannot be generic: a worker finds it by its name alone; write one function per type",
        ));
    }
    if let Some(clause) = &signature.generics.where_clause {
        return Err(Error::new_spanned(clause, "a remote function cannot have a where clause"));
    }
    if let Some(token) = &signature.unsafety {
        return Err(Error::new_spanned(token, "a remote function cannot be unsafe: nobody can vouch for the caller"));
    }
    if let Some(token) = &signature.constness {
        return Err(Error::new_spanned(token, "a remote function cannot be const"));
    }
    if let Some(abi) = &signature.abi {
        return Err(Error::new_spanned(abi, "a remote function has Rust's own ABI"));
    }
    if let Some(variadic) = &signature.variadic {
        return Err(Error::new_spanned(variadic, "a remote function has a fixed number of parameters"));
    }
    Ok(())
}

fn parameter(pattern: &Pat, ty: &Type, index: usize) -> Result<Parameter> {
    let name = match pattern {
        Pat::Ident(ident) if ident.subpat.is_none() => ident.ident.clone(),
        _ => format_ident!("argument{index}"),
    };
    let variable = format_ident!("__argument{index}");
    let written = match bare(ty) {
        Type::Reference(reference) => {
            if let Some(token) = &reference.mutability {
                return Err(Error::new_spanned(
                    token,
                    "a remote function cannot change its caller's value; take it by value and return it",
                ));
            }
            if let Some(lifetime) = &reference.lifetime
                && lifetime.ident != "_"
            {
                return Err(Error::new_spanned(
                    lifetime,
                    "the worker keeps an argument only while the function runs; leave the lifetime out, or take the owned type",
                ));
            }
            bare(&reference.elem)
        }
        ty => ty,
    };
    let borrowed = matches!(bare(ty), Type::Reference(_));
    let holder = if borrowed { borrowed_holder(written)? } else { owned_holder(written)? };
    let pass = match (borrowed, is_batch(written)) {
        (true, _) => quote!(&#variable),
        (false, true) => quote!(::mobula::Batch::into_inner(#variable)),
        (false, false) => quote!(#variable),
    };
    Ok(Parameter { name, holder, pass, variable, owned: quote!(#written), borrowed, format: is_format(written) })
}

/// What holds the value of a parameter `T`.
fn owned_holder(ty: &Type) -> Result<TokenStream> {
    if is_batch(ty) {
        return Ok(quote!(::mobula::Batch));
    }
    refuse_unsendable(ty)?;
    Ok(quote!(#ty))
}

/// What holds the value of a parameter `&T`.
fn borrowed_holder(inner: &Type) -> Result<TokenStream> {
    Ok(match inner {
        Type::Slice(slice) => {
            let element = &slice.elem;
            refuse_unsendable(element)?;
            match last_segment(element) {
                Some(ident) if NUMBERS.iter().any(|number| ident == number) => quote!(::mobula::Array<#element>),
                _ => quote!(::std::vec::Vec<#element>),
            }
        }
        Type::Path(_) if is_named(inner, "str") => quote!(::std::string::String),
        inner => owned_holder(inner)?,
    })
}

fn returned(output: &Type, options: &Options) -> Result<Returned> {
    let output = bare(output);
    if let Type::ImplTrait(result) = output
        && let Some(item) = item_of(result)
    {
        return streamed(&item, options);
    }
    let fallible = last_segment(output).is_some_and(|ident| ident == "Result");
    let value: Option<Type> = if fallible { first_argument(output) } else { Some(output.clone()) };
    // An alias such as `io::Result<()>` names its value, one such as `fmt::Result` does not.
    let Some(value) = value else {
        return Ok(Returned {
            refs: quote!(::mobula::ObjectRef<<#output as ::mobula::__private::Fallible>::Value>),
            encode: fallibly(quote!(::mobula::__private::returned(__value))),
            fallible,
            value: None,
            format: false,
            streams: false,
        });
    };
    if let Type::Reference(reference) = bare(&value) {
        return Err(Error::new_spanned(
            reference,
            "a result outlives the function that makes it; return the owned type",
        ));
    }
    let (refs, encode, is_one) = match &options.num_returns {
        None | Some((1, _)) => {
            let (ty, value) = one_value(&value, quote!(__value))?;
            (quote!(::mobula::ObjectRef<#ty>), quote!(::mobula::__private::returned(#value)), true)
        }
        Some((count, name)) => {
            let Type::Tuple(tuple) = bare(&value) else {
                return Err(Error::new_spanned(
                    name,
                    format!("num_returns = {count} needs a tuple of {count} as result"),
                ));
            };
            if tuple.elems.len() != *count {
                return Err(Error::new_spanned(
                    tuple,
                    format!("num_returns = {count}, but the result is a tuple of {}", tuple.elems.len()),
                ));
            }
            let mut types = Vec::new();
            let mut values = Vec::new();
            let variables: Vec<_> = (0..*count).map(|index| format_ident!("__value{index}")).collect();
            for (ty, variable) in tuple.elems.iter().zip(&variables) {
                let (ty, value) = one_value(ty, quote!(#variable))?;
                types.push(ty);
                values.push(value);
            }
            (
                quote!((#(::mobula::ObjectRef<#types>,)*)),
                quote!({
                    let (#(#variables,)*) = __value;
                    ::core::result::Result::Ok(::std::vec![#(::mobula::__private::encode(#values)?),*])
                }),
                false,
            )
        }
    };
    let encode = if fallible { fallibly(encode) } else { quote!({ let __value = __result; #encode }) };
    let value = Some(value).filter(|_| is_one);
    let format = value.as_ref().is_some_and(is_format);
    Ok(Returned { refs, encode, fallible, value, format, streams: false })
}

/// What an `impl Iterator<Item = ..>` gives back: its items, one after the other.
fn streamed(item: &Type, options: &Options) -> Result<Returned> {
    if let Some((_, name)) = &options.num_returns {
        return Err(Error::new_spanned(
            name,
            "an iterator is a stream of any number of results; leave num_returns out",
        ));
    }
    let item = bare(item);
    let fallible = last_segment(item).is_some_and(|ident| ident == "Result");
    let (ty, item) = match first_argument(item).filter(|_| fallible) {
        Some(value) => {
            let (ty, value) = one_value(&value, quote!(__value))?;
            let caught = caught();
            let item = quote!(match __item {
                ::core::result::Result::Ok(__value) => {
                    ::core::result::Result::Ok(::mobula::__private::encode(#value)?)
                }
                ::core::result::Result::Err(__error) => ::core::result::Result::Err(#caught),
            });
            (ty, item)
        }
        None if fallible => {
            return Err(Error::new_spanned(item, "write the items of a stream as `Result<T, E>`, not by an alias"));
        }
        None => {
            let (ty, value) = one_value(item, quote!(__item))?;
            (ty, quote!(::core::result::Result::Ok(::mobula::__private::encode(#value)?)))
        }
    };
    let encode = quote!(::mobula::__private::yield_all(__outlet, __result, |__item| #item));
    Ok(Returned {
        refs: quote!(::mobula::ObjectRefStream<#ty>),
        encode,
        fallible,
        value: None,
        format: false,
        streams: true,
    })
}

/// The type of an iterator's items, if that is what it is.
fn item_of(result: &TypeImplTrait) -> Option<Type> {
    result.bounds.iter().find_map(|bound| {
        let TypeParamBound::Trait(bound) = bound else { return None };
        let segment = bound.path.segments.last().filter(|segment| segment.ident == "Iterator")?;
        let PathArguments::AngleBracketed(arguments) = &segment.arguments else { return None };
        arguments.args.iter().find_map(|argument| match argument {
            GenericArgument::AssocType(assigned) if assigned.ident == "Item" => Some(assigned.ty.clone()),
            _ => None,
        })
    })
}

/// The type of one value that comes back and the expression that makes it.
fn one_value(ty: &Type, variable: TokenStream) -> Result<(TokenStream, TokenStream)> {
    if is_batch(ty) {
        return Ok((quote!(::mobula::Batch), quote!(::mobula::Batch::from(#variable))));
    }
    refuse_unsendable(ty)?;
    Ok((quote!(#ty), variable))
}

/// Encodes the value of an `Ok`; an `Err` is caught with its type, message and sources.
fn fallibly(encode: TokenStream) -> TokenStream {
    let caught = caught();
    quote!(match __result {
        ::core::result::Result::Ok(__value) => #encode,
        ::core::result::Result::Err(__error) => ::core::result::Result::Err(#caught),
    })
}

/// The `CallError` of the variable `__error`, by the best of the traits its type has.
pub(crate) fn caught() -> TokenStream {
    quote!({
        #[allow(unused_imports)]
        use ::mobula::__private::{CatchDisplay as _, CatchError as _, CatchErrorRef as _, CatchIntoBox as _};
        (&&&&::mobula::__private::Caught::new(__error)).catch()
    })
}

/// Refuses types that no value of the wire can have.
fn refuse_unsendable(ty: &Type) -> Result<()> {
    match bare(ty) {
        Type::ImplTrait(_) => {
            return Err(Error::new_spanned(
                ty,
                "driver and worker must agree on one type; name it instead of `impl Trait`",
            ));
        }
        Type::TraitObject(_) => {
            return Err(Error::new_spanned(ty, "a trait object cannot be sent; use an enum, or a boxed concrete type"));
        }
        Type::BareFn(_) | Type::Ptr(_) => {
            return Err(Error::new_spanned(ty, "a pointer means nothing in another process"));
        }
        Type::Never(_) => return Err(Error::new_spanned(ty, "a remote function must return")),
        Type::Infer(_) => return Err(Error::new_spanned(ty, "the type must be named")),
        _ => {}
    }
    if let Some(span) = find_reference(quote!(#ty)) {
        return Err(Error::new(
            span,
            "a reference inside a type cannot be decoded; use the owned type (`String` for `&str`, `Vec<T>` for `&[T]`)",
        ));
    }
    Ok(())
}

fn find_reference(tokens: TokenStream) -> Option<proc_macro2::Span> {
    tokens.into_iter().find_map(|token| match token {
        TokenTree::Punct(punct) if matches!(punct.as_char(), '&' | '\'') => Some(punct.span()),
        TokenTree::Group(group) => find_reference(group.stream()),
        _ => None,
    })
}

fn is_batch(ty: &Type) -> bool {
    is_named(ty, "RecordBatch")
}

/// Whether it is one of the forms in which a dataset hands over rows.
fn is_format(ty: &Type) -> bool {
    FORMATS.iter().any(|format| is_named(ty, format))
}

/// Whether this is the last segment of the type.
pub(crate) fn is_named(ty: &Type, name: &str) -> bool {
    last_segment(ty).is_some_and(|ident| ident == name)
}

fn last_segment(ty: &Type) -> Option<&Ident> {
    match bare(ty) {
        Type::Path(path) => path.path.segments.last().map(|segment| &segment.ident),
        _ => None,
    }
}

fn first_argument(ty: &Type) -> Option<Type> {
    let Type::Path(path) = bare(ty) else {
        return None;
    };
    let PathArguments::AngleBracketed(arguments) = &path.path.segments.last()?.arguments else {
        return None;
    };
    arguments.args.iter().find_map(|argument| match argument {
        GenericArgument::Type(ty) => Some(ty.clone()),
        _ => None,
    })
}

/// The type without parentheses and invisible groups.
fn bare(ty: &Type) -> &Type {
    match ty {
        Type::Paren(paren) => bare(&paren.elem),
        Type::Group(group) => bare(&group.elem),
        ty => ty,
    }
}

/// The type with `Self` spelled out: the generated code stands outside the `impl` block.
fn without_self(ty: &Type, class: Option<&Type>) -> Result<Type> {
    let Some(class) = class else {
        return Ok(ty.clone());
    };
    syn::parse2(replace_self(quote!(#ty), class))
}

fn replace_self(tokens: TokenStream, class: &Type) -> TokenStream {
    tokens
        .into_iter()
        .flat_map(|token| match token {
            TokenTree::Ident(ident) if ident == "Self" => quote_spanned!(ident.span()=> #class),
            TokenTree::Group(group) => {
                let mut replaced = proc_macro2::Group::new(group.delimiter(), replace_self(group.stream(), class));
                replaced.set_span(group.span());
                TokenTree::Group(replaced).into()
            }
            token => token.into(),
        })
        .collect()
}

/// A type as people write it: no spaces but those that matter.
fn compact(ty: &Type) -> String {
    let spaced = quote!(#ty).to_string();
    let mut text = String::with_capacity(spaced.len());
    let mut characters = spaced.chars().peekable();
    while let Some(character) = characters.next() {
        let after = characters.peek().copied();
        let word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        let keep = character != ' ' || (word(text.chars().last()) && word(after)) || text.ends_with([',', ';']);
        if keep {
            text.push(character);
        }
    }
    text
}

/// Where an error about the whole signature points.
pub(crate) fn span(signature: &Signature) -> proc_macro2::Span {
    signature.ident.span().join(signature.inputs.span()).unwrap_or_else(|| signature.ident.span())
}
