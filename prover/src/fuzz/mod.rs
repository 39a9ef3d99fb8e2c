//! Bodies of the fuzz targets: plain functions from bytes to nothing that panic when a decoder breaks its promise.
//!
//! `fuzz/` beside this crate calls them with libFuzzer; bounded tests on stable call the same functions (threat P17).

mod data;
#[cfg(feature = "prove")]
mod keys;
mod proofs;
#[cfg(feature = "prove")]
mod sector;

pub use data::*;
#[cfg(feature = "prove")]
pub use keys::*;
pub use proofs::*;
#[cfg(feature = "prove")]
pub use sector::*;
