//! Vanilla proofs of a sector update, the plain verifier of the same statement, and the Groth16 proof over them.
//!
//! Walk: after [`super::replica`] wrote the new replica and [`super::challenge`] has named the nodes; before [`crate::verify`].
//! Spec: proofs.md §6.1. Per partition: the TreeD nodes that cover its slice (apex leaves) with the path of their root; per
//! challenge the old and the new replica's node under their roots, and the data node under its apex leaf.
//! Cost: two Poseidon paths and a short SHA path a challenge to open or verify, milliseconds; proving is Groth16's cost.
//! Crash: nothing here is durable.
//!
//! [`verify`] is the plain twin of the circuit. The prover runs it on its own openings, so that a damaged file becomes a named
//! error instead of an invalid proof (threat P18).

use borsh::{BorshDeserialize, BorshSerialize};
use rayon::prelude::*;

use super::challenge;
use super::circuit::{ChallengeWitness, Siblings, UpdateCircuit, below_apex};
use super::replica::{Factors, encode};
use crate::commitment::{CommC, CommD, CommR, CommRLast};
use crate::hash::poseidon::fr_from_node;
use crate::hash::sha256;
use crate::ids::Node;
use crate::merkle::build::{self, TreeError};
use crate::merkle::path::{BinaryPath, PoseidonPath};
use crate::merkle::shape;
use crate::porep::proof::{Fault, Tree, check_opening};
use crate::porep::replica::comm_r;
use crate::progress::Progress;
use crate::sector_dir::ReplicaFiles;
use crate::sector_dir::disk::NodeFile;
use crate::snark::CircuitId;
use crate::snark::keys::{KeyError, ProvingKey};
use crate::snark::prove::{self, ProveError};
use crate::spec::{SectorSize, UpdateShape};
use crate::verify::{self, UpdateStatement, VerifyError, VerifyingKeys};

/// Everything that one challenge opens.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct ChallengeProof {
    /// The old replica's node in its TreeR.
    pub old: PoseidonPath,
    /// The data node in the subtree of TreeD below its apex leaf; the index counts within that subtree.
    pub data: BinaryPath,
    /// The new replica's node in its TreeR.
    pub new: PoseidonPath,
}

/// What one Groth16 proof is made of.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct PartitionProof {
    /// The TreeD nodes, all of one row, that cover the partition's slice.
    pub apex_leaves: Vec<Node>,
    /// Siblings from the root over the apex leaves to CommD.
    pub partition_path: Vec<Node>,
    /// One entry per challenge, in order.
    pub challenges: Vec<ChallengeProof>,
}

/// The vanilla proof of a whole update.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct VanillaProof {
    /// Size of the sector.
    pub size: SectorSize,
    /// What the chain kept of the sector.
    pub comm_r_old: CommR,
    /// Root of the new data.
    pub comm_d_new: CommD,
    /// `H_2(comm_c, comm_r_last_new)`.
    pub comm_r_new: CommR,
    /// Root of TreeC, the same before and after; private to the circuit.
    pub comm_c: CommC,
    /// Root of the old TreeR; private to the circuit.
    pub comm_r_last_old: CommRLast,
    /// Root of the new TreeR; private to the circuit.
    pub comm_r_last_new: CommRLast,
    /// One entry per Groth16 proof.
    pub partitions: Vec<PartitionProof>,
}

/// What is wrong with one challenge's openings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChallengeFault {
    /// The old replica's opening.
    #[error("in the old replica, {0}")]
    Old(Fault),
    /// The data's opening.
    #[error("in the new data, {0}")]
    Data(Fault),
    /// The new replica's opening.
    #[error("in the new replica, {0}")]
    New(Fault),
    /// The new node is not the old one plus data times factor.
    #[error("the new node is not the encoding of data and old node")]
    Encoding,
}

/// Why a vanilla proof is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VanillaError {
    /// The size has another number of partitions.
    #[error("{found} partitions instead of {expected}")]
    Partitions {
        /// The table's number.
        expected: usize,
        /// The proof's.
        found: usize,
    },
    /// A CommR does not bind the roots.
    #[error("the {0} CommR is not the hash of CommC and the root of its replica")]
    CommR(&'static str),
    /// The new CommD is no field element.
    #[error("the new CommD is not below the field order")]
    CommD,
    /// The nodes over the partition's slice are not as many as there should be, or lead elsewhere.
    #[error("partition {partition}: the nodes over its slice of TreeD do not lead to CommD")]
    Apex {
        /// Which partition.
        partition: usize,
    },
    /// The size has another number of challenges.
    #[error("partition {partition} has {found} challenges instead of {expected}")]
    Challenges {
        /// Which partition.
        partition: usize,
        /// The table's number.
        expected: usize,
        /// The proof's.
        found: usize,
    },
    /// One challenge is wrong.
    #[error("node {node}: {fault}")]
    Challenge {
        /// The node that is drawn.
        node: u64,
        /// What is wrong there.
        fault: ChallengeFault,
    },
}

/// The files that a vanilla proof opens.
#[derive(Clone, Copy, Debug)]
pub struct Sources<'a> {
    /// The sector as it was sealed.
    pub old: &'a ReplicaFiles,
    /// TreeD of the new data, all rows.
    pub tree_d: &'a NodeFile,
    /// The new replica. Its CommC is the old one's.
    pub new: &'a ReplicaFiles,
}

/// Opens all challenges of all partitions. The result is as good as the files: [`verify`] tells. `None` if the new CommR
/// is no field element, as nothing is then drawn. A unit of progress for each challenge.
pub fn open(
    statement: &UpdateStatement,
    sources: Sources<'_>,
    progress: &dyn Progress,
) -> Result<Option<VanillaProof>, TreeError> {
    let size = statement.size;
    let partitions = (0..size.update_shape().partitions)
        .map(|partition| {
            let Some(nodes) = challenge::partition(size, &statement.comm_r_new, partition) else {
                return Ok(None);
            };
            let challenges = nodes
                .into_par_iter()
                .map(|node| open_one(sources, size, node))
                .inspect(|_| progress.advance(1))
                .collect::<Result<_, _>>()?;
            let (apex_leaves, partition_path) = open_slice(sources.tree_d, size, partition)?;
            Ok(Some(PartitionProof {
                apex_leaves,
                partition_path,
                challenges,
            }))
        })
        .collect::<Result<Option<_>, TreeError>>()?;
    Ok(partitions.map(|partitions| VanillaProof {
        size,
        comm_r_old: statement.comm_r_old,
        comm_d_new: statement.comm_d_new,
        comm_r_new: statement.comm_r_new,
        comm_c: sources.old.roots.comm_c,
        comm_r_last_old: sources.old.roots.comm_r_last,
        comm_r_last_new: sources.new.roots.comm_r_last,
        partitions,
    }))
}

pub(super) fn open_one(
    sources: Sources<'_>,
    size: SectorSize,
    node: u64,
) -> Result<ChallengeProof, TreeError> {
    let Sources { old, tree_d, new } = sources;
    let mut data = build::open_tree_d(tree_d, size, node)?;
    data.siblings.truncate(below_apex(size));
    data.index = below(size, node);
    Ok(ChallengeProof {
        old: build::open_tree_r(&old.replica, &old.tree_r, size, node)?,
        data,
        new: build::open_tree_r(&new.replica, &new.tree_r, size, node)?,
    })
}

/// The apex leaves of a partition, and the siblings above their root.
fn open_slice(
    tree_d: &NodeFile,
    size: SectorSize,
    partition: usize,
) -> Result<(Vec<Node>, Vec<Node>), TreeError> {
    let shape = size.update_shape();
    let rows = shape::rows(size.nodes(), shape::BINARY);
    let row: u64 = rows[..below_apex(size)].iter().sum();
    let mut leaves = vec![[0u8; 32]; shape.apex_leaves];
    tree_d.read(row + (partition * shape.apex_leaves) as u64, &mut leaves)?;
    let first = slice_nodes(size) * partition as u64;
    let mut path = build::open_tree_d(tree_d, size, first)?.siblings;
    let above = path.split_off(below_apex(size) + shape.apex_bits() as usize);
    Ok((leaves, above))
}

/// Nodes of one partition's slice.
fn slice_nodes(size: SectorSize) -> u64 {
    size.nodes() >> size.update_shape().partition_bits()
}

/// A node's position below its apex leaf.
fn below(size: SectorSize, node: u64) -> u64 {
    node & ((1 << below_apex(size)) - 1)
}

/// The position of a node's apex leaf among its partition's.
fn apex(size: SectorSize, node: u64) -> usize {
    ((node % slice_nodes(size)) >> below_apex(size)) as usize
}

impl VanillaProof {
    /// The circuit of one partition with these openings as its witness; `None` if there is no such partition, a list has
    /// another length than the size asks for, or a node is no field element. Whether the witness satisfies the circuit is
    /// [`verify`]'s question.
    pub fn circuit(&self, partition: usize) -> Option<UpdateCircuit> {
        let shape = self.size.update_shape();
        let proof = self.partitions.get(partition)?;
        let lengths = [
            (proof.apex_leaves.len(), shape.apex_leaves),
            (proof.partition_path.len(), shape.partition_bits() as usize),
            (proof.challenges.len(), shape.challenges),
        ];
        if partition >= shape.partitions || lengths.iter().any(|(found, due)| found != due) {
            return None;
        }
        let arities = shape::path_arities(self.size);
        Some(UpdateCircuit {
            size: self.size,
            selector: super::selector(self.size, partition),
            comm_r_old: fr_from_node(&self.comm_r_old.0)?,
            comm_d_new: fr_from_node(&self.comm_d_new.0)?,
            comm_r_new: fr_from_node(&self.comm_r_new.0)?,
            comm_c: fr_from_node(&self.comm_c.0)?,
            root_old: fr_from_node(&self.comm_r_last_old.0)?,
            root_new: fr_from_node(&self.comm_r_last_new.0)?,
            apex_leaves: elements(&proof.apex_leaves)?,
            partition_path: elements(&proof.partition_path)?,
            challenges: proof
                .challenges
                .iter()
                .map(|challenge| challenge.witness(self.size, &arities))
                .collect::<Option<_>>()?,
        })
    }
}

fn elements(nodes: &[Node]) -> Option<Vec<ark_bls12_381::Fr>> {
    nodes.iter().map(fr_from_node).collect()
}

impl ChallengeProof {
    fn witness(&self, size: SectorSize, arities: &[usize]) -> Option<ChallengeWitness> {
        let path = |path: &PoseidonPath| -> Option<Siblings> {
            let levels = path.levels.iter().map(|level| elements(level));
            (path.arities() == arities).then(|| levels.collect())?
        };
        if self.data.siblings.len() != below_apex(size) {
            return None;
        }
        Some(ChallengeWitness {
            old: fr_from_node(&self.old.leaf)?,
            old_path: path(&self.old)?,
            data: fr_from_node(&self.data.leaf)?,
            data_path: elements(&self.data.siblings)?,
            new_path: path(&self.new)?,
        })
    }
}

/// Checks everything that the circuit checks, and that the openings are of the nodes that the new CommR draws.
/// Calm on any value, whatever the lengths of its vectors.
pub fn verify(proof: &VanillaProof) -> Result<(), VanillaError> {
    let size = proof.size;
    let shape = size.update_shape();
    if proof.partitions.len() != shape.partitions {
        return Err(VanillaError::Partitions {
            expected: shape.partitions,
            found: proof.partitions.len(),
        });
    }
    if comm_r(&proof.comm_c, &proof.comm_r_last_old) != Some(proof.comm_r_old) {
        return Err(VanillaError::CommR("old"));
    }
    if comm_r(&proof.comm_c, &proof.comm_r_last_new) != Some(proof.comm_r_new) {
        return Err(VanillaError::CommR("new"));
    }
    let factors = Factors::new(size, &proof.comm_d_new, &proof.comm_r_old);
    let checker = Checker {
        proof,
        shape,
        factors: factors.ok_or(VanillaError::CommD)?,
        arities: shape::path_arities(size),
    };
    let mut partitions = proof.partitions.iter().enumerate();
    partitions.try_for_each(|(partition, opened)| checker.partition(partition, opened))
}

struct Checker<'a> {
    proof: &'a VanillaProof,
    shape: UpdateShape,
    factors: Factors,
    arities: Vec<usize>,
}

impl Checker<'_> {
    fn partition(&self, partition: usize, opened: &PartitionProof) -> Result<(), VanillaError> {
        if self.slice_root(partition, opened) != Some(self.proof.comm_d_new.0) {
            return Err(VanillaError::Apex { partition });
        }
        let drawn = challenge::partition(self.proof.size, &self.proof.comm_r_new, partition)
            .expect("it is a hash, as was checked");
        if opened.challenges.len() != drawn.len() {
            let (expected, found) = (drawn.len(), opened.challenges.len());
            return Err(VanillaError::Challenges {
                partition,
                expected,
                found,
            });
        }
        let mut challenges = opened.challenges.iter().zip(drawn);
        challenges.try_for_each(|(challenge, node)| {
            self.challenge(challenge, node, &opened.apex_leaves)
                .map_err(|fault| VanillaError::Challenge { node, fault })
        })
    }

    /// Where the apex leaves and the partition's path lead; `None` if they are too few or too many.
    fn slice_root(&self, partition: usize, opened: &PartitionProof) -> Option<Node> {
        let enough = opened.apex_leaves.len() == self.shape.apex_leaves
            && opened.partition_path.len() == self.shape.partition_bits() as usize;
        // The circuit has no other nodes than field elements.
        let mut nodes = opened.apex_leaves.iter().chain(&opened.partition_path);
        if !enough || nodes.any(|node| fr_from_node(node).is_none()) {
            return None;
        }
        let mut row = opened.apex_leaves.clone();
        while row.len() > 1 {
            let pairs = row.chunks_exact(2);
            row = pairs.map(|pair| sha256::node(&pair[0], &pair[1])).collect();
        }
        let path = BinaryPath {
            leaf: row[0],
            index: partition as u64,
            siblings: opened.partition_path.clone(),
        };
        path.root().ok()
    }

    fn challenge(
        &self,
        opened: &ChallengeProof,
        node: u64,
        apex_leaves: &[Node],
    ) -> Result<(), ChallengeFault> {
        let VanillaProof {
            comm_r_last_old,
            comm_r_last_new,
            ..
        } = self.proof;
        check_opening(
            Tree::R,
            &opened.old,
            &self.arities,
            node,
            &comm_r_last_old.0,
        )
        .map_err(ChallengeFault::Old)?;
        self.data(&opened.data, node, apex_leaves)
            .map_err(ChallengeFault::Data)?;
        check_opening(
            Tree::R,
            &opened.new,
            &self.arities,
            node,
            &comm_r_last_new.0,
        )
        .map_err(ChallengeFault::New)?;
        match encode(&opened.old.leaf, &opened.data.leaf, &self.factors.of(node)) {
            Some(new) if new == opened.new.leaf => Ok(()),
            _ => Err(ChallengeFault::Encoding),
        }
    }

    fn data(&self, path: &BinaryPath, node: u64, apex_leaves: &[Node]) -> Result<(), Fault> {
        let size = self.proof.size;
        // The circuit has no other nodes than field elements; the leaf is looked at when it is encoded.
        let canonical = |node: &Node| fr_from_node(node).is_some();
        if path.siblings.len() != below_apex(size) || !path.siblings.iter().all(canonical) {
            return Err(Fault::Shape(Tree::D));
        }
        let expected = below(size, node);
        if path.index != expected {
            return Err(Fault::Index {
                tree: Tree::D,
                expected,
                found: path.index,
            });
        }
        match path.root() {
            Err(error) => Err(Fault::Path(Tree::D, error)),
            Ok(root) if root == apex_leaves[apex(size, node)] => Ok(()),
            Ok(_) => Err(Fault::Root {
                tree: Tree::D,
                node,
            }),
        }
    }
}

/// Why there is no proof of an update.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// The openings do not verify: a file is damaged, or belongs to another sector.
    #[error("the update does not verify ({0}): a file is damaged; update the sector anew")]
    Inconsistent(#[from] VanillaError),
    /// The Groth16 prover failed.
    #[error(transparent)]
    Prove(#[from] ProveError),
    /// The finished proof is not one that the chain would accept; it was thrown away (threat P18).
    #[error(
        "the proof made here would not be accepted ({0}); check memory and parameters of this machine"
    )]
    SelfCheck(VerifyError),
}

/// Proves all partitions, one after another. Runs on the caller's rayon pool, see [`crate::machine::Plan::run`].
pub fn prove(
    key: &ProvingKey,
    vanilla: &VanillaProof,
    progress: &dyn Progress,
) -> Result<Vec<u8>, UpdateError> {
    verify(vanilla)?;
    let circuits = (0..vanilla.size.update_shape().partitions).map(|partition| {
        let circuit = vanilla.circuit(partition);
        circuit.expect("the openings were verified")
    });
    let proof = prove::prove_all(key, circuits, progress)?;
    let statement = UpdateStatement {
        size: vanilla.size,
        comm_r_old: vanilla.comm_r_old,
        comm_d_new: vanilla.comm_d_new,
        comm_r_new: vanilla.comm_r_new,
    };
    let circuit = CircuitId::update(vanilla.size);
    let keys = VerifyingKeys::from_vk_bytes([(circuit, key.verifying_key().bytes())])
        .map_err(|error| ProveError::from(KeyError::from(error)))?;
    verify::update(&keys, &statement, &proof).map_err(UpdateError::SelfCheck)?;
    Ok(proof)
}
