//! The provider: intake, packing, sealing, proving and serving.

pub mod journal;
pub mod pack;
