//! The options of an attribute: `#[remote(num_cpus = 0.5, spread)]`.
//!
//! An option is a call on the builder that `options()` returns, so a new builder method needs
//! only its name in a list here.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::{Attribute, Error, Expr, Ident, LitInt, LitStr, Result, Token, parenthesized, token};

/// Options of a task that take a value.
pub(crate) const TASK_VALUES: &[&str] =
    &["num_cpus", "num_gpus", "memory", "name", "max_retries", "retry_exceptions", "backpressure_num_objects"];
/// Options of an actor that take a value.
pub(crate) const ACTOR_VALUES: &[&str] =
    &["num_cpus", "num_gpus", "memory", "max_restarts", "max_task_retries", "max_concurrency", "max_pending_calls"];
/// Options of a method that take a value, besides `num_returns`.
const METHOD_VALUES: &[&str] = &["max_task_retries", "retry_exceptions", "backpressure_num_objects"];
/// Options of both that take none.
pub(crate) const FLAGS: &[&str] = &["spread", "process_worker"];

/// The option of an actor that takes a list.
const GROUPS: &str = "concurrency_groups";

/// What an attribute asks for.
#[derive(Default)]
pub(crate) struct Options {
    /// Calls on the builder.
    pub(crate) builder: TokenStream,
    /// How many references a call returns.
    pub(crate) num_returns: Option<(usize, Ident)>,
    /// Leave this method alone.
    pub(crate) skip: bool,
    /// The concurrency groups of an actor.
    groups: Vec<Ident>,
    /// The one of a method.
    pub(crate) group: Option<LitStr>,
    /// That datasets call it, and with what.
    pub(crate) over: Option<Over>,
}

/// What a dataset calls a function with, where its types do not say so.
pub(crate) enum Over {
    /// Batches.
    Batches(Ident),
    /// One row after the other.
    Rows(Ident),
}

impl Over {
    fn named(name: &Ident) -> Option<Self> {
        match name.to_string().as_str() {
            "batches" => Some(Self::Batches(name.clone())),
            "rows" => Some(Self::Rows(name.clone())),
            _ => None,
        }
    }

    /// The word in the attribute.
    pub(crate) fn name(&self) -> &Ident {
        let (Self::Batches(name) | Self::Rows(name)) = self;
        name
    }
}

/// One `name = value`, `name`, or `name(inner = value, ..)`.
struct Entry {
    name: Ident,
    value: Option<Expr>,
    list: Option<Punctuated<Group, Token![,]>>,
}

/// One concurrency group.
struct Group {
    name: Ident,
    limit: Expr,
}

impl Parse for Group {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let name = input.parse()?;
        input.parse::<Token![=]>()?;
        Ok(Self { name, limit: input.parse()? })
    }
}

impl Parse for Entry {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let name: Ident = input.parse()?;
        let (mut value, mut list) = (None, None);
        if name == GROUPS && input.peek(token::Paren) {
            let inner;
            parenthesized!(inner in input);
            list = Some(Punctuated::parse_terminated(&inner)?);
        } else if input.peek(Token![=]) {
            input.parse::<Token![=]>()?;
            value = Some(input.parse()?);
        }
        Ok(Self { name, value, list })
    }
}

impl Options {
    /// The options of `#[remote(..)]` on a function or an `impl` block.
    pub(crate) fn parse(attributes: TokenStream, values: &[&str], returns: bool) -> Result<Self> {
        let entries = syn::parse::Parser::parse2(Punctuated::<Entry, Token![,]>::parse_terminated, attributes)?;
        let mut options = Self::default();
        let of_actor = !returns;
        for Entry { name, value, list } in entries {
            let text = name.to_string();
            if let Some(list) = list.filter(|_| of_actor) {
                for group in list {
                    options.add_group(group)?;
                }
                continue;
            }
            match value {
                Some(value) if text == "num_returns" && returns => {
                    let number: LitInt = syn::parse2(quote!(#value))?;
                    options.num_returns = Some((number.base10_parse()?, name));
                }
                Some(value) if values.contains(&text.as_str()) => {
                    let call = quote_spanned!(name.span()=> .#name(#value));
                    options.builder.extend(call);
                }
                None if returns && Over::named(&name).is_some() => options.over = Over::named(&name),
                None if FLAGS.contains(&text.as_str()) => {
                    let call = quote_spanned!(name.span()=> .#name());
                    options.builder.extend(call);
                }
                _ => {
                    let more = match returns {
                        true => ", num_returns = .., rows, batches",
                        false => ", concurrency_groups(name = limit, ..)",
                    };
                    return Err(Error::new_spanned(
                        &name,
                        format!(
                            "unknown option: there are {} = ..{more}, {}",
                            values.join(" = .., "),
                            FLAGS.join(", ")
                        ),
                    ));
                }
            }
        }
        Ok(options)
    }

    fn add_group(&mut self, Group { name, limit }: Group) -> Result<()> {
        if self.groups.contains(&name) {
            return Err(Error::new_spanned(name, "there are two concurrency groups of this name"));
        }
        let text = name.to_string();
        self.builder.extend(quote_spanned!(name.span()=> .__concurrency_group(#text, #limit)));
        self.groups.push(name);
        Ok(())
    }

    /// Whether the actor has this concurrency group.
    pub(crate) fn check_group(&self, group: &LitStr) -> Result<()> {
        let names: Vec<String> = self.groups.iter().map(Ident::to_string).collect();
        if names.contains(&group.value()) {
            return Ok(());
        }
        let declared = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        let message = format!("no such concurrency group; #[remote(concurrency_groups(..))] declares: {declared}");
        Err(Error::new_spanned(group, message))
    }

    /// Takes `#[concurrency_group("..")]` and `#[remote(..)]` off a method and reads it: `skip`, or the options of its calls.
    pub(crate) fn take_from_method(attributes: &mut Vec<Attribute>) -> Result<Self> {
        let mut options = Self::default();
        let mut kept = Vec::with_capacity(attributes.len());
        for attribute in attributes.drain(..) {
            if attribute.path().is_ident("concurrency_group") {
                options.group = Some(attribute.parse_args()?);
                continue;
            }
            if attribute.path().segments.last().is_none_or(|segment| segment.ident != "remote") {
                kept.push(attribute);
                continue;
            }
            for Entry { name, value, .. } in
                attribute.parse_args_with(Punctuated::<Entry, Token![,]>::parse_terminated)?
            {
                match value {
                    None if name == "skip" => options.skip = true,
                    None if Over::named(&name).is_some() => options.over = Over::named(&name),
                    Some(value) if name == "num_returns" => {
                        let number: LitInt = syn::parse2(quote!(#value))?;
                        options.num_returns = Some((number.base10_parse()?, name));
                    }
                    Some(value) if METHOD_VALUES.contains(&name.to_string().as_str()) => {
                        let call = quote_spanned!(name.span()=> .#name(#value));
                        options.builder.extend(call);
                    }
                    _ => {
                        let values = METHOD_VALUES.join(" = .., ");
                        let message =
                            format!("a method's options are: skip, rows, batches, num_returns = .., {values} = ..");
                        return Err(Error::new_spanned(name, message));
                    }
                }
            }
        }
        *attributes = kept;
        Ok(options)
    }
}
