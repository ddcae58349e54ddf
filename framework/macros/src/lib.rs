//! The attribute macros of Mobula.
