//! The small chain of Holdfast: deals, sectors, deadlines, pledge, rewards and slashing as one pure state machine,
//! and around it blocks, certificates, the beacon, the block log, the ledger, the engines and the offline auditor.
//!
//! Read it in this order; each name is a module and a step of a byte's way:
//!
//! 1. words: [`units`], [`account`], [`params`], [`codec`], [`error`], [`message`], [`randomness`];
//! 2. state: [`state`] (reading trait, overlay, every key);
//! 3. rules, `spec/chain.md`: [`market`], [`channel`], [`datacap`], [`deal`], [`provider`], [`sector`], [`reward`], [`slash`],
//!    [`lit`], [`governance`];
//! 4. one block: [`execute::apply`] runs the epoch's due work, then the transactions; [`events`] say what happened, and
//!    [`moment`]s what it followed from; [`proofs`] verifies those of a block together;
//! 5. checks and reads: [`invariants`], [`history`], [`query`];
//! 6. around it, on what the crate `holdfast-light` defines for clients too: [`block`], [`certificate`], [`genesis`],
//!    [`beacon`], [`clock`], [`merkle`], [`tree`], [`log`], [`store`], [`undecided`], [`vfs`], [`ledger`], [`snapshot`],
//!    [`mempool`], [`engine`], [`light`], [`audit`], [`explain`], [`reputation`], [`possession`], [`bundle`].
//!
//! Items 1–5 are pure: no clock, no I/O, no randomness, no floats, no `HashMap`, no `usize` in bytes. Given the same
//! state, context and transactions they return the same writes on every machine (`threat-model.md` V3).
#![forbid(unsafe_code)]

pub use holdfast_light::{certificate, codec, merkle};

pub mod account;
pub mod error;
pub mod message;
pub mod params;
pub mod randomness;
pub mod units;

pub mod state;

pub mod channel;
pub mod datacap;
pub mod deal;
pub mod governance;
pub mod lit;
pub mod market;
pub mod provider;
pub mod reward;
pub mod sector;
pub mod slash;

pub mod events;
pub mod execute;
pub mod explain;
pub mod history;
pub mod invariants;
pub mod moment;
pub mod proofs;
pub mod query;

pub mod audit;
pub mod beacon;
pub mod block;
pub mod bundle;
pub mod clock;
pub mod engine;
pub mod genesis;
pub mod ledger;
pub mod light;
pub mod log;
pub mod mempool;
pub mod possession;
pub mod reputation;
pub mod snapshot;
pub mod store;
pub mod tree;
pub mod undecided;
pub mod vfs;
