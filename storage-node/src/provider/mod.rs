//! The provider: intake, packing, sealing, proving and serving.

pub mod ask;
pub mod intake;
pub mod journal;
pub mod lifecycle;
pub mod pack;
pub mod prover;
pub mod tx;
