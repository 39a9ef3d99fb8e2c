//! Vanilla PoSt proofs: openings of a replica, and the plain verifier of the same statement.
//!
//! Walk: after [`super::challenge`] has named the leaves; before [`super::circuit`]. Spec: proofs.md §5.2, §5.3.
//! Bytes read per opening: the 512 replica leaves around it, whose tree rows are not stored, and one group of siblings per
//! stored row. Cost: milliseconds a sector; proving is Groth16's cost.
//! Crash: nothing here is durable.
//!
//! A sector whose own openings do not verify is named, and no proof is made for it (threat P18): the provider then declares
//! a fault instead of sending a proof that would be punished.

use borsh::{BorshDeserialize, BorshSerialize};

use crate::commitment::{CommC, CommR, CommRLast};
use crate::ids::SectorNumber;
use crate::merkle::build::{self, TreeError};
use crate::merkle::path::PoseidonPath;
use crate::merkle::shape;
use crate::porep::proof::{Fault, Tree, check_opening};
use crate::porep::replica;
use crate::sector_dir::ReplicaFiles;
use crate::spec::SectorSize;

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
