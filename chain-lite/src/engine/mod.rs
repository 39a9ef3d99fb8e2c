//! Engines: who decides that a block is final. All of them produce the same blocks, certificates and roots.
//!
//! * [`solo`] (default): one validator, one thread, finality at the fsync;
//! * `bft` (Malachite) plugs in through the same [`crate::ledger::Ledger`] (`consensus.md` §10) and is not part of this version.

pub mod solo;

pub use solo::{EngineHandle, EngineStatus};
