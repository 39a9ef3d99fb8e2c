//! Vanilla PoRep proofs: what the circuit's witness is made of, and the plain verifier of the same statement.
//!
//! Walk: after CommR and the seed are fixed ([`crate::porep::challenge`]); before
//! [`crate::porep::circuit`] turns the very same values into a Groth16 witness.
//! Spec: `proofs.md` §4.3. Per challenge: TreeD opening of the data, columns with TreeC openings of the
//! node and of its 14 parents in graph order, TreeR opening of the replica.
//! Cost: 16 Poseidon paths, one SHA path and `layers` labels a challenge to verify; milliseconds.
//! Nothing here is durable: a vanilla proof is recomputed from the sector's files in milliseconds.

use borsh::{BorshDeserialize, BorshSerialize};

use crate::commitment::{CommC, CommD, CommR, CommRLast};
use crate::ids::{Node, ReplicaId, Seed};
use crate::merkle::path::{BinaryPath, PoseidonPath};
use crate::spec::RegisteredSeal;

/// All labels of one node, and the opening of their hash in TreeC (`path.leaf` is the column hash,
/// `path.index` the node).
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct ColumnProof {
    /// Labels of layers 1 to L, in this order.
    pub labels: Vec<Node>,
    /// Opening of the column hash in TreeC.
    pub path: PoseidonPath,
}

/// Everything that one challenge opens.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct ChallengeProof {
    /// The challenged node.
    pub challenge: u64,
    /// The data node in TreeD.
    pub data: BinaryPath,
    /// The challenged node's own column.
    pub column: ColumnProof,
    /// Columns of the 6 base parents, then of the 8 expander parents, in graph order (repeats included).
    pub parents: Vec<ColumnProof>,
    /// The replica node in TreeR.
    pub replica: PoseidonPath,
}

/// The vanilla proof of a whole sector.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct VanillaProof {
    /// Proof type: size, graph.
    pub seal: RegisteredSeal,
    /// Key of the labels.
    pub replica_id: ReplicaId,
    /// Source of the challenges.
    pub seed: Seed,
    /// Root of TreeD.
    pub comm_d: CommD,
    /// Root of TreeC; private to the circuit.
    pub comm_c: CommC,
    /// Root of TreeR; private to the circuit.
    pub comm_r_last: CommRLast,
    /// `H_2(comm_c, comm_r_last)`.
    pub comm_r: CommR,
    /// One entry per Groth16 proof, each with its challenges in order.
    pub partitions: Vec<Vec<ChallengeProof>>,
}
