//! A chain of several operators in one process on virtual time: real consensus cores, real ledgers, and a world that breaks.
//!
//! Spec: `consensus.md` §9. A seed decides everything: delays, losses, partitions, crashes, disk faults, who cheats. The
//! same seed gives the same trace and the same state roots; a failure names its seed ([`report::Failure`]).
//!
//! What is real: Malachite's consensus core, [`chain_lite_bft::app`] with proposal parts and signatures, the ledger with its
//! block log and undecided blocks, mempool, rules and invariants. What is simulated, and why:
//! * the **disk** ([`disk`]): behind the chain's `Vfs`, so that a crash loses what was not synced and tears what was written, and
//!   so that sectors rot;
//! * the **network and clock** ([`run`]): an event queue;
//! * the engine's **journal** ([`journal`]): Malachite's own needs its actors; the entries are the same;
//! * **value sync**, by which a node catches up. Malachite's sync core chooses among peers in the order of a hash map, weighs them by
//!   the answers' real times and limits requests by the real clock, so a seed would not decide the run. In its place a node tells its
//!   height every two seconds, and the first reachable one that is ahead, in an order of the seed, sends it blocks with
//!   certificates ([`run`]). From there on all is real: the consensus core verifies the certificate, the application judges
//!   and keeps the block, the core decides it. Not simulated are therefore the sync core's own choices: batches, retries, scores;
//! * **Groth16** ([`stub`]): a keyed digest of the statement; it says no to everything else.
//!
//! Read it in this order: [`disk`], [`stub`], [`journal`], [`node`] one validator, [`actors`] providers and clients, [`replay`] the
//! auditor, [`foes`] what hostile validators say, [`scenario`], [`run`], [`report`].
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
