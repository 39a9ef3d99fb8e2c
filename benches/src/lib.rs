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

use std::sync::Arc;

use prover::piece::commp::commp_of;
use prover::seal::SealRequest;
use prover::snark::CircuitId;
use prover::snark::keys::{ParamStore, ProvingKey};
use prover::verify::VerifyingKeys;
use prover::{NoProgress, PieceInfo, ProverId, RegisteredSeal, SectorNumber, SectorSize, Ticket};

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

/// Bytes that look random and are the same every time.
pub fn sample(bytes: usize) -> Vec<u8> {
    let mut out = vec![0; bytes];
    blake3::Hasher::new()
        .update(b"holdfast benches")
        .finalize_xof()
        .fill(&mut out);
    out
}

/// A sector full of one piece: the request and the piece's bytes.
pub fn full_sector(size: SectorSize, number: u64) -> (SealRequest, Vec<u8>) {
    let data = sample(usize::try_from(size.unpadded_bytes()).expect("test sizes fit in memory"));
    let (comm_p, padded) = commp_of(&data);
    let request = SealRequest {
        seal: RegisteredSeal::v1_1(size),
        prover: ProverId::from_provider_id(1000),
        sector: SectorNumber(number),
        ticket: Ticket([0x21; 32]),
        pieces: vec![PieceInfo {
            comm_p,
            size: padded,
        }],
    };
    (request, data)
}

/// The developers' keys of a size: PoRep, window, winning.
pub struct Keys {
    /// For proving.
    pub proving: [Arc<ProvingKey>; 3],
    /// For verifying.
    pub verifying: VerifyingKeys,
}

impl Keys {
    /// Opens them; makes them first where there are none.
    pub fn of(store: &ParamStore, size: SectorSize) -> Self {
        let circuits = [
            CircuitId::porep(size),
            CircuitId::window(size),
            CircuitId::winning(size),
        ];
        let proving = circuits.map(|id| store.load_or_generate(id, &NoProgress).expect("a key"));
        let bytes = circuits.map(|id| store.verifying_key_bytes(id, &NoProgress).expect("a key"));
        let pairs = circuits.into_iter().zip(bytes.iter().map(Vec::as_slice));
        let verifying = VerifyingKeys::from_vk_bytes(pairs).expect("checked keys");
        Self { proving, verifying }
    }
}
