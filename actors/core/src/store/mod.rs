//! A node's objects in shared memory, and pulling them from other nodes.
