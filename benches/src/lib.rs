//! Benches of every operation, one file each, and the parts they share.
//!
//! ```text
//! cargo bench -p benches                          everything (keys at 2 KiB are made first where there are none)
//! cargo bench -p benches -- --quick               the same in about a minute
//! cargo bench -p benches -- porep::label          what has this in its name
//! cargo run --release -p benches --bin bench-retrieval [MIB]      four provider processes against raw quinn, as JSON
//! cargo run --release -p benches --bin bench-client               put and get of the real client on a devnet of four processes
//! RUSTFLAGS="-C target-cpu=native" cargo bench -p benches --features filecoin --bench peer     beside Filecoin's prover
//! cargo run --release -p chain-lite --example ledger_speed        transfers, empty blocks, restart, rebuild
//! ```
//!
//! Names read like `prover::porep::label/size=8MiB`. Operations that one thread does are measured on one thread, stages that
//! use the whole machine (`prover::seal`, Groth16) on all of it. Criterion compares with the run before in
//! `target/criterion`; a baseline that is kept states the date and the machine.

#[cfg(feature = "filecoin")]
pub mod peer;
pub mod process;
pub mod raw_quinn;
pub mod store;

/// Where the binary keeps its parameters too, so that keys are made once.
///
/// # Panics
/// On a platform without a home folder, unless `HOLDFAST_PARAMS` names one.
pub fn params_dir() -> std::path::PathBuf {
    let cached = || {
        Some(
            directories::ProjectDirs::from("", "", "holdfast")?
                .cache_dir()
                .join("params"),
        )
    };
    let dir = std::env::var_os("HOLDFAST_PARAMS")
        .map(std::path::PathBuf::from)
        .or_else(cached);
    dir.expect("a home folder, or HOLDFAST_PARAMS")
}
