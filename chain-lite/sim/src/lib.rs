//! A chain of several operators in one process on virtual time: real consensus cores, real ledgers, and a world that breaks.
//!
//! Spec: `consensus.md` §9. A seed decides everything: delays, losses, partitions, crashes, disk faults, who cheats. The
//! same seed gives the same trace and the same state roots; a failure names its seed ([`report::Failure`]).
//!
//! What is real: Malachite's cores of consensus and of value sync, [`chain_lite_bft::app`] with proposal parts and signatures, the
//! ledger with its block log and undecided blocks, mempool, rules and invariants. What is simulated, and why:
//! * the **disk** ([`disk`]): behind the chain's `Vfs`, so that a crash loses what was not synced and tears what was written, and
//!   so that sectors rot;
//! * the **network and clock** ([`run`]): an event queue. Messages are values, not bytes: codecs have tests and fuzz targets of their
//!   own. A request for blocks and its answer are messages like others, so each may be lost or doubled, where libp2p would break
//!   the connection;
//! * the **engine** around the cores, which is actors: the [`journal`] with the entries of Malachite's own, and what its sync actor does
//!   ([`sync`]): statuses and passes on timers, with the intervals and limits of `chain_lite_bft::net`, requests that time out, blocks
//!   that wait for their height, blame. A node answers a request at once, so what the engine has against a slow application and
//!   against more requests than it can answer never acts; nor does its cut of answers that are too large for a frame;
//! * of **value sync**, the draw among several peers that the core finds fit: it draws in the order of a hash map, by the answers' real
//!   times, so here the seed draws, by the core's own scores over virtual times ([`sync`] says how). And its limit of requests per
//!   time, which knows only the real clock, is out of reach;
//! * **Groth16** ([`stub`]): a keyed digest of the statement; it says no to everything else.
//!
//! Read it in this order: [`disk`], [`stub`], [`journal`], [`sync`], [`node`] one validator, [`actors`] providers and clients, [`replay`]
//! the auditor, [`foes`] what hostile validators say, [`scenario`], [`run`], [`report`].
#![forbid(unsafe_code)]

pub mod actors;
pub mod disk;
pub mod epochs;
pub mod foes;
pub mod journal;
pub mod node;
pub mod replay;
pub mod report;
pub mod run;
pub mod scenario;
pub mod stub;
pub mod sync;
