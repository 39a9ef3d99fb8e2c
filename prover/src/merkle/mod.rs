//! Poseidon trees of a sector: their shape, building and paths.

pub mod build;
pub mod path;
pub mod shape;
