//! Runs tasks as short-lived actors in its slots, and hosts user actors.
