//! Engines that drive the ledger.
pub mod solo;
