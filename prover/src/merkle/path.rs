//! Merkle paths and their check.
