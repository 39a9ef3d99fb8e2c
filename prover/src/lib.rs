//! Filecoin's storage proofs on arkworks, bit for bit: padding, sealing, PoRep, PoSt, Groth16.
//!
//! What this is: data in, commitments and proofs out. Nothing here knows a network, a chain or an async runtime.
//! A reader who knows Filecoin's words finds each step by guessing its path; modules stand in the order of the data:
//!
//! | step | module |
//! |---|---|
//! | sizes and constants, identifiers, commitments | [`spec`], [`ids`], [`commitment`] |
//! | bytes → padded nodes → CommP → CommD | [`piece`] |
//! | labels, columns, encoding, vanilla PoRep | [`porep`] |
//! | trees and hashes underneath | [`merkle`], [`hash`] |
//! | proofs of still holding the replica | [`post`] |
//! | data into a sealed sector, without sealing anew | [`update`] |
//! | circuits, keys, Groth16 | [`snark`] |
//! | the pipeline on disk, resumable, and what it takes | [`seal`], [`sector_dir`], [`machine`], [`estimate`] |
//! | checking, calm on any bytes | [`verify`] |
//! | plain twins, golden-vector runner | [`mod@reference`], [`vectors`] |
//!
//! Features: `cuda` gives the large pieces of proving and hashing to an NVIDIA GPU where there is one (`cuda`). `prove` (default) adds sealing, key generation and proving. Without it the crate is the verifier that the
//! chain, retrieval and auditors build: no files, and no threads but the caller's rayon pool, where batches spread.
//!
//! Spec: `spec/proofs.md` of the design documents, cited in this crate as "proofs.md §n". Where the prose of Filecoin's
//! specification and its code disagree, the code's bytes are reproduced.
//!
//! ```
//! use prover::piece::commp::commp_of;
//!
//! let (comm_p, size) = commp_of(b"any bytes at all");
//! assert_eq!(size.bytes(), 128);
//! assert!(comm_p.to_cid().starts_with("baga6ea4seaq"));
//! ```

pub mod commitment;
#[cfg(all(feature = "prove", any(test, feature = "cuda")))]
mod cuda;
pub mod error;
#[cfg(feature = "prove")]
pub mod estimate;
#[doc(hidden)]
pub mod fuzz;
pub mod hash;
pub mod ids;
pub mod instructions;
#[cfg(feature = "prove")]
pub mod machine;
pub mod merkle;
#[cfg(feature = "prove")]
mod pages;
pub mod piece;
pub mod porep;
pub mod post;
pub mod progress;
pub mod reference;
#[cfg(feature = "prove")]
pub mod seal;
#[cfg(feature = "prove")]
pub mod sector_dir;
pub mod snark;
pub mod spec;
pub mod update;
#[cfg(feature = "prove")]
pub mod vectors;
pub mod verify;

pub use commitment::{CommC, CommD, CommP, CommR, CommRLast};
pub use ids::{Node, PorepId, PostRandomness, ProverId, ReplicaId, SectorNumber, Seed, Ticket};
pub use piece::PieceInfo;
pub use piece::size::{PaddedPieceSize, UnpaddedPieceSize};
pub use progress::{NoProgress, Progress};
pub use spec::{ApiVersion, RegisteredSeal, SealVersion, SectorSize};
