//! The swarm: a node among nodes, and clients of them.
