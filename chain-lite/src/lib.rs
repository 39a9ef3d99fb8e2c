//! chain-lite
