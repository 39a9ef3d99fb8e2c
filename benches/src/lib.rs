//! Benches of every operation, one file each, and the parts they share.
//!
//! ```text
//! cargo bench -p benches                          everything (keys at 2 KiB are made first where there are none)
//! cargo bench -p benches -- --quick               the same in about a minute
//! cargo bench -p benches -- porep::label          what has this in its name
//! cargo run --release -p benches --bin bench-retrieval [MIB]      four provider processes against raw quinn, as JSON
//! cargo run --release -p benches --bin bench-client               put and get of the real client on a devnet of four processes
//! cargo run --release -p chain-lite --example ledger_speed        transfers, empty blocks, restart, rebuild
//! ```
//!
//! Names read like `prover::porep::label/size=8MiB`. Operations that one thread does are measured on one thread, stages that
//! use the whole machine (`prover::seal`, Groth16) on all of it. Criterion compares with the run before in
//! `target/criterion`; a baseline that is kept states the date and the machine.

pub mod process;
pub mod raw_quinn;
pub mod store;
