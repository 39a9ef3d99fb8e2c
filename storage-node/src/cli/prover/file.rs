//! Proof files: a statement and its proof as JSON, so that a proof can be carried to somebody who verifies it.
//!
//! ```json
//! { "kind": "porep", "seal": "StackedDrg2KiBV1_1", "prover": "e807…", "sector": 42, "ticket": "…", "seed": "…",
//!   "comm_d": "…", "comm_r": "…", "proof": "…" }
//! { "kind": "window", "size": "2KiB", "prover": "…", "randomness": "…", "sectors": [{"number": 42, "comm_r": "…"}], "proof": "…" }
//! { "kind": "winning", "size": "2KiB", "prover": "…", "randomness": "…", "sectors": [{"number": 42, "comm_r": "…"}], "proof": "…" }
//! { "kind": "update", "size": "2KiB", "comm_r_old": "…", "comm_d_new": "…", "comm_r_new": "…", "proof": "…" }
//! ```
//! Byte strings are lower-case hex. Unknown fields, other kinds and files above [`MAX_FILE_BYTES`] are refused.

use std::io::Write;
use std::path::Path;

use prover::snark::CircuitId;
use prover::verify::{
    self, PorepStatement, UpdateStatement, VerifyError, VerifyingKeys, WindowPostStatement,
    WinningPostStatement,
};
use prover::{
    CommD, CommR, PostRandomness, ProverId, RegisteredSeal, SectorNumber, SectorSize, Seed, Ticket,
};
use serde::{Deserialize, Serialize};

use crate::cli::{Class, CliError};

/// Largest proof file that is read: a 64 GiB WindowPoSt partition's 2,300 sectors take 300 KiB.
pub const MAX_FILE_BYTES: usize = 1 << 20;

/// A statement with its proof.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum ProofFile {
    /// A sector holds this data in a replica of this provider's own.
    Porep {
        /// Proof type.
        seal: RegisteredSeal,
        /// Whose sector.
        prover: ProverId,
        /// Which.
        sector: SectorNumber,
        /// Randomness in the replica.
        ticket: Ticket,
        /// Randomness of the challenges.
        seed: Seed,
        /// The data.
        comm_d: CommD,
        /// The replica.
        comm_r: CommR,
        /// Groth16 proofs, hex.
        proof: String,
    },
    /// These sectors are still held.
    Window(PostFile),
    /// This sector is held right now.
    Winning(PostFile),
    /// The replica under the new CommR holds this data and was made of the one under the old.
    Update {
        /// Size of the sector.
        size: SectorSize,
        /// The replica before.
        comm_r_old: CommR,
        /// The data.
        comm_d_new: CommD,
        /// The replica.
        comm_r_new: CommR,
        /// Groth16 proofs, hex.
        proof: String,
    },
}

/// What both PoSts say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostFile {
    /// Size of the sectors.
    pub size: SectorSize,
    /// Whose sectors.
    pub prover: ProverId,
    /// Randomness of the challenges.
    pub randomness: PostRandomness,
    /// The sectors, ascending.
    pub sectors: Vec<SectorEntry>,
    /// Groth16 proof, hex.
    pub proof: String,
}

/// One sector of a PoSt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SectorEntry {
    /// Its number.
    pub number: SectorNumber,
    /// What the chain holds of it.
    pub comm_r: CommR,
}

impl ProofFile {
    /// Reads a proof file.
    pub fn read(path: &Path) -> Result<Self, CliError> {
        let text = super::read_at_most(path, MAX_FILE_BYTES)?.ok_or_else(|| {
            let why = format!("it has more than the {MAX_FILE_BYTES} bytes of any proof file");
            not_a_proof(path, why)
        })?;
        serde_json::from_slice(&text).map_err(|error| not_a_proof(path, error.to_string()))
    }

    /// Writes a proof file; an existing one is replaced in one step.
    pub fn write(&self, path: &Path) -> Result<(), CliError> {
        let text = serde_json::to_vec_pretty(self).map_err(|error| {
            CliError::caused(Class::Bug, "cannot write the proof as JSON", &error)
        })?;
        super::make_file(path, true, |file| {
            file.write_all(&text)
                .map_err(|error| CliError::io("cannot write", path, &error))
        })
    }

    /// The circuit whose key verifies this proof.
    pub fn circuit(&self) -> CircuitId {
        match self {
            Self::Porep { seal, .. } => CircuitId::porep(seal.size),
            Self::Window(post) => CircuitId::window(post.size),
            Self::Winning(post) => CircuitId::winning(post.size),
            Self::Update { size, .. } => CircuitId::update(*size),
        }
    }

    /// Verifies the proof. `Err(None)` means that the file's proof is not hex, or a WinningPoSt names several sectors.
    pub fn verify(&self, keys: &VerifyingKeys) -> Result<(), Option<VerifyError>> {
        match self {
            Self::Porep {
                seal,
                prover,
                sector,
                ticket,
                seed,
                comm_d,
                comm_r,
                proof,
            } => {
                let statement = PorepStatement {
                    seal: *seal,
                    prover: *prover,
                    sector: *sector,
                    ticket: *ticket,
                    seed: *seed,
                    comm_d: *comm_d,
                    comm_r: *comm_r,
                };
                verify::porep(keys, &statement, &bytes(proof)?).map_err(Some)
            }
            Self::Window(PostFile {
                size,
                prover,
                randomness,
                sectors,
                proof,
            }) => {
                let statement = WindowPostStatement {
                    size: *size,
                    prover: *prover,
                    randomness: *randomness,
                    sectors: sectors
                        .iter()
                        .map(|sector| (sector.number, sector.comm_r))
                        .collect(),
                };
                verify::window_post(keys, &statement, &bytes(proof)?).map_err(Some)
            }
            Self::Winning(PostFile {
                size,
                prover,
                randomness,
                sectors,
                proof,
            }) => {
                let [sector] = sectors[..] else {
                    return Err(None);
                };
                let statement = WinningPostStatement {
                    size: *size,
                    prover: *prover,
                    randomness: *randomness,
                    sector: (sector.number, sector.comm_r),
                };
                verify::winning_post(keys, &statement, &bytes(proof)?).map_err(Some)
            }
            Self::Update {
                size,
                comm_r_old,
                comm_d_new,
                comm_r_new,
                proof,
            } => {
                let statement = UpdateStatement {
                    size: *size,
                    comm_r_old: *comm_r_old,
                    comm_d_new: *comm_d_new,
                    comm_r_new: *comm_r_new,
                };
                verify::update(keys, &statement, &bytes(proof)?).map_err(Some)
            }
        }
    }
}

fn bytes(hex: &str) -> Result<Vec<u8>, Option<VerifyError>> {
    hex::decode(hex).map_err(|_| None)
}

fn not_a_proof(path: &Path, why: String) -> CliError {
    CliError::new(
        Class::Input,
        format!("{} is no proof file: {why}", path.display()),
    )
    .hint("name a file that `holdfast prover seal`, `prove` or `update` wrote with --out")
}
