//! Engines: who decides that a block is final. All of them produce the same blocks, certificates and roots.
//!
//! * [`solo`] (default): one validator, one thread, finality at the fsync;
//! * `bft` (Malachite, crate `chain-lite-bft`) plugs in through the same [`crate::ledger::Ledger`] (`consensus.md` §10), with the
//!   same [`Control`] and [`EngineHandle`].

pub mod solo;

pub use solo::{Control, EngineHandle, EngineStatus};
