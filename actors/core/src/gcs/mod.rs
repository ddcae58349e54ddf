//! The head's global state: nodes, jobs, actors, names, key-value and health.
