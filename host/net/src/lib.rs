//! Peers: finding them, hearing their status, asking them, streaming to them.
