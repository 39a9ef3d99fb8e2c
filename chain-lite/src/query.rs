//! Typed reads over a state snapshot, as the RPC serves them.
