//! The provider: intake, packing, sealing, proving and serving.

pub mod ask;
pub mod journal;
pub mod lifecycle;
pub mod pack;
