//! `hf-retr/1`: pieces pushed to providers and read back from them over QUIC, every byte checked on arrival.
//!
//! Goals: a reader gets the right bytes or an error, from the fastest k of n providers; a lie is found within 16 KiB; no
//! peer can make us hold more than a stated amount of memory ([`limits`]), panic or hang; an honest provider with a bad
//! disk is told apart from a liar.
//! Non-goals: finding providers (the chain does), confidentiality of content (the client encrypts before it comes here),
//! payment. **Retrieval is free of charge in this version**: [`voucher`] has what a payer signs and a payee checks, but no
//! session asks for one; the frame types of vouchers and receipts are reserved and refused.
//!
//! # The walk
//! | step | module |
//! |---|---|
//! | who | [`peer`]: a peer is its ed25519 key; [`endpoint`]: QUIC with raw public keys, the server's pinned |
//! | what | [`wire`]: frames and bounds; [`range`]: checked byte ranges; [`session`]: who may say what when |
//! | there | [`push`]: offer, send, get the signed acknowledgement |
//! | kept | [`serve`]: the provider's service over a [`serve::PieceStore`] |
//! | back | [`fetch`]: ranges from several providers at once; [`resume`]: what a crash does not lose |
//! | checked | [`verify`]: BLAKE3 trees over 16 KiB groups, both directions |
//! | paid | [`voucher`]: promises out of a payment channel of the chain; handed over by people so far |
//!
//! Beside the walk, [`endpoint::line`] carries frames one way between peers: `storage_node`'s transactions between chain nodes.
//!
//! [`fuzz`] has the bodies of the fuzz targets. Spec: `network.md` §2, encoding borsh (`DESIGN.md`). Pure: [`peer`], [`wire`], [`range`], [`session`], [`verify`],
//! [`voucher`], [`limits`], [`fetch::plan`], [`fetch::score`].

#![forbid(unsafe_code)]

pub mod endpoint;
pub mod error;
pub mod fetch;
pub mod fuzz;
pub mod limits;
pub mod peer;
pub mod push;
pub mod range;
pub mod resume;
pub mod serve;
pub mod session;
pub mod verify;
pub mod voucher;
pub mod wire;

pub use endpoint::{Endpoint, GetStream, PieceKey, Session};
pub use error::Error;
pub use fetch::{FetchError, FetchRequest, Fetcher, ShardSource};
pub use limits::{FetchLimits, Limits};
pub use peer::{NetSecret, PeerAddr, PeerId};
pub use range::Ranges;
pub use wire::{ChainTag, PieceRoot};
