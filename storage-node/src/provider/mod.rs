//! The provider: intake, packing, sealing, proving and serving.
