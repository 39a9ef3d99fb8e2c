//! Bounded, canonical bytes: borsh in, borsh out, re-encoded and compared, limits before allocation.
