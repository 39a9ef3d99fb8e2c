//! A stored object: encryption, erasure coding, the manifest that describes it, and where its shards go.
//!
//! Pure: bytes and randomness come in, values go out. Order of the walk: [`cipher`] → [`erasure`] → [`manifest`],
//! with [`placement`] choosing a provider for each shard.

pub mod ack;
pub mod cipher;
pub mod erasure;
pub mod manifest;
pub mod placement;
