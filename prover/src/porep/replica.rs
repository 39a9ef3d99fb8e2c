//! Encoding and decoding of the replica.
