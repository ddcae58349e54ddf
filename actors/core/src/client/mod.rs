//! The untyped client: submits work, owns its results, fetches values.
