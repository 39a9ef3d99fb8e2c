//! Light client of the Holdfast chain: follow headers, believe proofs, trust no node.
//!
//! What a verifier needs and nothing else: no node, no state machine, no clock, no sockets, no files, no threads; it builds for
//! wasm32. `chain-lite` stands on it and re-exports it, so a node and its auditors read the same bytes with the same code.
//! Spec: `consensus.md` §7.
//!
//! Read it in this order:
//!
//! 1. words: [`name`], [`epoch`], [`codec`];
//! 2. what is checked: [`header`], [`certificate`], [`leaf`] (state proofs), [`merkle`] (transactions and receipts);
//! 3. the client, in three parts that know nothing of each other: [`verify`] says what may be believed after what is believed
//!    already (pure); [`follow`] walks there, with light blocks from a [`follow::Provider`] and its trusted state in a
//!    [`follow::Store`].
#![forbid(unsafe_code)]

pub mod codec;
pub mod epoch;
pub mod name;

pub mod certificate;
pub mod header;
pub mod leaf;
pub mod merkle;

pub mod follow;
pub mod verify;
