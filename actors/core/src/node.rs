//! Puts the actors together: a head, a node, a worker process, or all of it in one process.
