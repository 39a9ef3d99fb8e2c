//! Malachite as an engine of chain-lite: several operators agree on the blocks that the solo engine would make alone.
//!
//! Spec: `consensus.md` §§1, 4, 10. Same ledger, blocks, certificates and state roots as `chain_lite::engine::solo`; nothing
//! above this crate sees a Malachite type, and nothing below it knows that an engine with rounds exists.
//!
//! Read it in this order:
//! 1. [`context`]: heights, validators, votes, proposals, and certificates in both directions;
//! 2. [`signing`]: what is signed, and the strict check of it;
//! 3. [`parts`]: a block's bytes on their way to the voters, bounded;
//! 4. [`codec`]: canonical bytes of all of them;
//! 5. [`said`]: what a restarted validator said before; [`app`]: what the engine asks of the chain, answered from the ledger;
//! 6. `net` (feature of that name): the engine, its network and the thread between them; `journal`: what its journal must be like.
//!
//! The first four have no socket, clock or disk, the fifth only the ledger's disk: a simulator drives
//! `malachite_core_consensus` with them. Default builds never compile the sixth.
#![forbid(unsafe_code)]

pub mod app;
pub mod codec;
pub mod context;
#[cfg(feature = "net")]
mod journal;
#[cfg(feature = "net")]
pub mod net;
pub mod parts;
pub mod said;
pub mod signing;

pub use malachite_core_consensus;
pub use malachite_core_types;
pub use malachite_signing;
