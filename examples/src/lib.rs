//! The example gallery.
