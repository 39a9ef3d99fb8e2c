//! Vanilla PoSt proofs: openings of a replica, and the plain verifier of the same statement.
//!
//! Walk: after [`crate::post::challenge`] has named the leaves; before [`crate::post::circuit`].
//! Spec: `proofs.md` §5.2, §5.3.

use borsh::{BorshDeserialize, BorshSerialize};

use crate::commitment::{CommC, CommR, CommRLast};
use crate::ids::SectorNumber;
use crate::merkle::path::PoseidonPath;

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
