//! A node's resources, leases and worker processes.
