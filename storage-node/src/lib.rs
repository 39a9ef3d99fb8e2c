//! Holdfast's node: client, provider, auditor and devnet behind one library and one binary.
//!
//! Place in the walk: this crate is where the siblings meet. `prover` knows proofs, `chain-lite` knows money and
//! deadlines, `retrieval` knows QUIC; none of them knows the others, and this crate converts between them.
//!
//! | a byte's step | module |
//! |---|---|
//! | encrypt, code, describe | [`object`] |
//! | place, push, publish, read back | [`client`] |
//! | take in, pack, seal, prove | [`provider`] |
//! | speak with the chain | [`chain`] (client side), [`rpc`] (server side) |
//! | dispute what an optimistic chain took unverified | [`watch`] |
//! | ask for the beacon's rounds, give them out | [`relay`] |
//! | say which code proves here | [`kernels`] |
//! | commands, output, exit codes | [`cli`] |
//!
//! The world is read once: [`config`] resolves flags, environment and platform folders at the edge and passes values on;
//! [`identity`] is the only place that touches secret key files; [`telemetry`] is the only global.

#![forbid(unsafe_code)]

pub mod chain;
pub mod cli;
pub mod client;
pub mod config;
pub mod demo;
pub mod devnet;
pub mod fuzz;
pub mod identity;
pub mod kernels;
pub mod object;
pub mod provider;
pub mod relay;
pub mod rpc;
pub mod telemetry;
#[cfg(feature = "bft")]
pub mod validator;
pub mod watch;
