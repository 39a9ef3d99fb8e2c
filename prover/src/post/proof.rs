//! Vanilla PoSt proofs: openings of a replica, and the plain verifier of the same statement.
//!
//! Walk: after [`super::challenge`] has named the leaves; before [`super::circuit`]. Spec: proofs.md §5.2, §5.3.
//! Bytes read per opening: the 512 replica leaves around it, whose tree rows are not stored, and one group of siblings per
//! stored row. Cost: milliseconds a sector; proving is Groth16's cost.
//! Crash: nothing here is durable.
//!
//! A sector whose own openings do not verify is named, and no proof is made for it (threat P18): the provider then declares
//! a fault instead of sending a proof that would be punished.

use std::path::Path;

use borsh::{BorshDeserialize, BorshSerialize};
use rayon::prelude::*;

use super::challenge;
use super::circuit::{LeafOpening, PostCircuit, SectorWitness};
use crate::commitment::{CommC, CommR, CommRLast};
use crate::hash::poseidon::fr_from_node;
use crate::ids::{PostRandomness, ProverId, SectorNumber};
use crate::merkle::build::{self, TreeError};
use crate::merkle::path::PoseidonPath;
use crate::merkle::shape;
use crate::porep::proof::{Fault, Tree, check_opening};
use crate::porep::replica;
use crate::progress::Progress;
use crate::sector_dir::ReplicaFiles;
use crate::sector_dir::disk::RealDisk;
use crate::snark::CircuitId;
use crate::snark::keys::{KeyError, ProvingKey};
use crate::snark::prove::{self, ProveError};
use crate::spec::{SectorSize, WINDOW_CHALLENGES, WINNING_CHALLENGES};
use crate::verify::{self, VerifyError, VerifyingKeys, WindowPostStatement, WinningPostStatement};

/// Openings of one sector's replica. A WindowPoSt opens ten leaves of each sector, a WinningPoSt 66 of one.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct SectorProof {
    /// Which sector.
    pub sector: SectorNumber,
    /// Root of TreeC; private to the circuit.
    pub comm_c: CommC,
    /// Root of TreeR; private to the circuit.
    pub comm_r_last: CommRLast,
    /// What the chain holds of this sector.
    pub comm_r: CommR,
    /// One TreeR opening per challenge, in challenge order.
    pub openings: Vec<PoseidonPath>,
}

/// Why a sector's openings are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SectorFault {
    /// The stored roots are not those under the chain's CommR.
    #[error("CommR is not the hash of the stored CommC and CommRLast")]
    CommR,
    /// Another number of openings than challenges.
    #[error("{found} openings instead of {expected}")]
    Openings {
        /// Challenges.
        expected: usize,
        /// Openings.
        found: usize,
    },
    /// One opening is wrong.
    #[error("leaf {leaf}: {fault}")]
    Opening {
        /// The challenged leaf.
        leaf: u64,
        /// What is wrong with it.
        fault: Fault,
    },
}

/// Opens the challenged leaves of one sector. The result is as good as the files: [`verify`] tells.
pub fn open(
    files: &ReplicaFiles,
    sector: SectorNumber,
    comm_r: CommR,
    leaves: &[u64],
) -> Result<SectorProof, TreeError> {
    let openings = leaves
        .iter()
        .map(|&leaf| build::open_tree_r(&files.replica, &files.tree_r, files.size, leaf))
        .collect::<Result<_, _>>()?;
    Ok(SectorProof {
        sector,
        comm_c: files.roots.comm_c,
        comm_r_last: files.roots.comm_r_last,
        comm_r,
        openings,
    })
}

/// Checks everything that the circuit checks of one sector. `leaves` are the challenges as drawn.
pub fn verify(proof: &SectorProof, size: SectorSize, leaves: &[u64]) -> Result<(), SectorFault> {
    if replica::comm_r(&proof.comm_c, &proof.comm_r_last) != Some(proof.comm_r) {
        return Err(SectorFault::CommR);
    }
    if proof.openings.len() != leaves.len() {
        return Err(SectorFault::Openings {
            expected: leaves.len(),
            found: proof.openings.len(),
        });
    }
    let arities = shape::path_arities(size);
    for (opening, &leaf) in proof.openings.iter().zip(leaves) {
        check_opening(Tree::R, opening, &arities, leaf, &proof.comm_r_last.0)
            .map_err(|fault| SectorFault::Opening { leaf, fault })?;
    }
    Ok(())
}

impl SectorProof {
    /// The sector as the circuit takes it, with the openings in `range`; `None` if a node is no field element.
    pub(crate) fn witness(&self, range: std::ops::Range<usize>) -> Option<SectorWitness> {
        let leaf = |opening: &PoseidonPath| {
            Some(LeafOpening {
                leaf: fr_from_node(&opening.leaf)?,
                path: opening.witness()?,
            })
        };
        Some(SectorWitness {
            comm_r: fr_from_node(&self.comm_r.0)?,
            comm_c: fr_from_node(&self.comm_c.0)?,
            comm_r_last: fr_from_node(&self.comm_r_last.0)?,
            leaves: self
                .openings
                .get(range)?
                .iter()
                .map(leaf)
                .collect::<Option<_>>()?,
        })
    }
}

/// A sealed sector on this machine, as the chain knows it.
#[derive(Clone, Copy, Debug)]
pub struct ReplicaRef<'a> {
    /// Its number.
    pub number: SectorNumber,
    /// What the chain holds of it.
    pub comm_r: CommR,
    /// Its folder.
    pub dir: &'a Path,
}

/// Why there is no PoSt.
#[derive(Debug, thiserror::Error)]
pub enum PostError {
    /// These sectors' own openings fail: declare them faulty and prove the others.
    #[error("sectors {} cannot be proven from the files on disk; declare them faulty, then repair or replace them", list(.0))]
    Faulty(Vec<SectorNumber>),
    /// A partition has no sectors, or too many.
    #[error("{found} sectors in one proof, a partition of {size} sectors has 1 to {most}")]
    Count {
        /// How many were asked for.
        found: usize,
        /// Size of the sectors.
        size: SectorSize,
        /// The most there can be.
        most: usize,
    },
    /// A sector is listed twice.
    #[error("sector {0} is listed twice; list each sector once")]
    Twice(SectorNumber),
    /// The Groth16 prover failed.
    #[error(transparent)]
    Prove(#[from] ProveError),
    /// The finished proof is not one that the chain would accept; it was thrown away (threat P18).
    #[error(
        "the PoSt made here would not be accepted ({0}); check memory and parameters of this machine"
    )]
    SelfCheck(VerifyError),
}

fn list(sectors: &[SectorNumber]) -> String {
    sectors
        .iter()
        .map(SectorNumber::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

/// Proves one WindowPoSt partition: all `sectors`, which may come in any order. Runs on the caller's rayon pool, see
/// [`crate::machine::Plan::run`].
pub fn prove_window(
    key: &ProvingKey,
    size: SectorSize,
    prover: ProverId,
    randomness: PostRandomness,
    sectors: &[ReplicaRef<'_>],
    progress: &dyn Progress,
) -> Result<Vec<u8>, PostError> {
    let circuit = window_circuit(size, randomness, sectors, progress)?;
    let proof = prove::prove(key, &circuit, progress)?;

    let mut sectors: Vec<_> = sectors
        .iter()
        .map(|sector| (sector.number, sector.comm_r))
        .collect();
    sectors.sort_by_key(|(number, _)| *number);
    let statement = WindowPostStatement {
        size,
        prover,
        randomness,
        sectors,
    };
    let keys = front_door(CircuitId::window(size), key)?;
    verify::window_post(&keys, &statement, &proof).map_err(PostError::SelfCheck)?;
    Ok(proof.to_vec())
}

/// The circuit of one WindowPoSt partition with the openings of its sectors, verified, as its witness.
pub fn window_circuit(
    size: SectorSize,
    randomness: PostRandomness,
    sectors: &[ReplicaRef<'_>],
    progress: &dyn Progress,
) -> Result<PostCircuit, PostError> {
    let most = size.window_sectors();
    if sectors.is_empty() || sectors.len() > most {
        return Err(PostError::Count {
            found: sectors.len(),
            size,
            most,
        });
    }
    let mut sectors = sectors.to_vec();
    sectors.sort_by_key(|sector| sector.number);
    if let Some(pair) = sectors
        .windows(2)
        .find(|pair| pair[0].number == pair[1].number)
    {
        return Err(PostError::Twice(pair[0].number));
    }
    let leaves = |number| challenge::window(size, &randomness, number).to_vec();
    let proofs = open_sound(size, &sectors, leaves, progress)?;

    // A short partition repeats its last sector, as Filecoin fills it (proofs.md §5.3).
    let last = proofs.len() - 1;
    let listed = (0..most).map(|position| proofs[position.min(last)].witness(0..WINDOW_CHALLENGES));
    Ok(PostCircuit {
        sectors: listed
            .collect::<Option<_>>()
            .expect("the openings were verified"),
    })
}

/// Proves a WinningPoSt of one sector. Runs on the caller's rayon pool.
pub fn prove_winning(
    key: &ProvingKey,
    size: SectorSize,
    prover: ProverId,
    randomness: PostRandomness,
    sector: ReplicaRef<'_>,
    progress: &dyn Progress,
) -> Result<Vec<u8>, PostError> {
    let circuit = winning_circuit(size, randomness, sector, progress)?;
    let proof = prove::prove(key, &circuit, progress)?;

    let statement = WinningPostStatement {
        size,
        prover,
        randomness,
        sector: (sector.number, sector.comm_r),
    };
    let keys = front_door(CircuitId::winning(size), key)?;
    verify::winning_post(&keys, &statement, &proof).map_err(PostError::SelfCheck)?;
    Ok(proof.to_vec())
}

/// The circuit of a WinningPoSt with the openings of its sector, verified, as its witness.
pub fn winning_circuit(
    size: SectorSize,
    randomness: PostRandomness,
    sector: ReplicaRef<'_>,
    progress: &dyn Progress,
) -> Result<PostCircuit, PostError> {
    let leaves = |number| challenge::winning(size, &randomness, number).to_vec();
    let proofs = open_sound(size, &[sector], leaves, progress)?;
    // The circuit lists the sector once per leaf (proofs.md §5.2).
    let listed = (0..WINNING_CHALLENGES).map(|i| proofs[0].witness(i..i + 1));
    Ok(PostCircuit {
        sectors: listed
            .collect::<Option<_>>()
            .expect("the openings were verified"),
    })
}

/// Opens all sectors and verifies the openings; names every sector for which that fails.
fn open_sound(
    size: SectorSize,
    sectors: &[ReplicaRef<'_>],
    leaves: impl Fn(SectorNumber) -> Vec<u64> + Sync,
    progress: &dyn Progress,
) -> Result<Vec<SectorProof>, PostError> {
    progress.start("PoSt: openings", sectors.len().max(1) as u64);
    let opened: Vec<Result<SectorProof, SectorNumber>> = sectors
        .par_iter()
        .map(|sector| {
            open_one(size, sector, &leaves(sector.number)).map_err(|cause| {
                tracing::warn!(sector = sector.number.0, dir = %sector.dir.display(), cause, "sector cannot be proven");
                sector.number
            })
        })
        .inspect(|_| progress.advance(1))
        .collect();
    progress.finish();
    let faulty: Vec<SectorNumber> = opened
        .iter()
        .filter_map(|result| result.as_ref().err().copied())
        .collect();
    if faulty.is_empty() {
        Ok(opened.into_iter().flatten().collect())
    } else {
        Err(PostError::Faulty(faulty))
    }
}

fn open_one(
    size: SectorSize,
    sector: &ReplicaRef<'_>,
    leaves: &[u64],
) -> Result<SectorProof, String> {
    let files =
        ReplicaFiles::open(&RealDisk, sector.dir, size).map_err(|error| error.to_string())?;
    let proof =
        open(&files, sector.number, sector.comm_r, leaves).map_err(|error| error.to_string())?;
    verify(&proof, size, leaves).map_err(|fault| fault.to_string())?;
    Ok(proof)
}

fn front_door(circuit: CircuitId, key: &ProvingKey) -> Result<VerifyingKeys, PostError> {
    VerifyingKeys::from_vk_bytes([(circuit, key.verifying_key().bytes())])
        .map_err(|error| ProveError::from(KeyError::from(error)).into())
}

#[cfg(test)]
mod tests;
