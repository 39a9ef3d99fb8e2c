//! Vanilla PoRep proofs: what the circuit's witness is made of, and the plain verifier of the same statement.
//!
//! Walk: after CommR and the seed are fixed ([`super::challenge`]); before [`super::circuit`] turns the very same values
//! into a Groth16 witness.
//! Spec: proofs.md §4.3. Per challenge: TreeD opening of the data, columns with TreeC openings of the node and of its 14
//! parents in graph order, TreeR opening of the replica.
//! Cost: 16 Poseidon paths, one SHA path and `layers` labels a challenge to verify; milliseconds.
//! Crash: nothing here is durable; a vanilla proof is recomputed from the sector's files in milliseconds.
//!
//! [`verify`] is the plain twin of the circuit. A prover runs it on its own openings, so that a damaged file becomes a
//! named error instead of an invalid proof (threat P18).

use borsh::{BorshDeserialize, BorshSerialize};
use rayon::prelude::*;

use super::challenge;
use super::circuit::{ChallengeWitness, ColumnOpening, PorepCircuit};
use super::graph::Graph;
use super::{column, replica};
use crate::commitment::{CommC, CommD, CommR, CommRLast};
use crate::hash::poseidon::fr_from_node;
use crate::hash::sha256;
use crate::ids::{Node, ReplicaId, Seed};
use crate::merkle::build::{self, TreeError};
use crate::merkle::path::{BinaryPath, PathError, PoseidonPath};
use crate::merkle::shape;
use crate::progress::{NoProgress, Progress};
use crate::sector_dir::disk::NodeFile;
use crate::spec::{BASE_DEGREE, DEGREE, LABEL_PARENTS, RegisteredSeal, SectorSize};

/// All labels of one node, and the opening of their hash in TreeC (`path.leaf` is the column hash, `path.index` the node).
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

/// One of the sector's three trees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tree {
    /// Data.
    D,
    /// Columns.
    C,
    /// Replica.
    R,
}

impl std::fmt::Display for Tree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Tree::D => "TreeD",
            Tree::C => "TreeC",
            Tree::R => "TreeR",
        })
    }
}

/// What is wrong with one challenge's openings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The seed draws another node in this place.
    #[error("the seed draws node {drawn} here")]
    NotDrawn {
        /// The right one.
        drawn: u64,
    },
    /// A node has 14 parents.
    #[error("{found} parents instead of {DEGREE}")]
    Parents {
        /// How many there are.
        found: usize,
    },
    /// A path has other levels than the sector's tree.
    #[error("a {0} path has the wrong shape")]
    Shape(Tree),
    /// A path opens another node than it should.
    #[error("a {tree} path opens node {found} instead of {expected}")]
    Index {
        /// Which tree.
        tree: Tree,
        /// Which node should be opened.
        expected: u64,
        /// Which one is.
        found: u64,
    },
    /// A path cannot be hashed.
    #[error("a {0} path has no root: {1}")]
    Path(Tree, PathError),
    /// A path leads to another root.
    #[error("node {node} does not open under the root of {tree}")]
    Root {
        /// Which tree.
        tree: Tree,
        /// The opened node.
        node: u64,
    },
    /// Labels do not hash to the leaf that TreeC opens.
    #[error("the labels of node {node} do not hash to its column hash")]
    Column {
        /// The node.
        node: u64,
    },
    /// A label is not the hash of its parents.
    #[error("the label in layer {layer} is not the hash of its parents")]
    Label {
        /// Layers count from 1.
        layer: usize,
    },
    /// The replica is not data plus key.
    #[error("the replica node is not the sum of data and key")]
    Encoding,
}

/// Why a vanilla proof is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VanillaError {
    /// The proof type has another number of partitions.
    #[error("{found} partitions instead of {expected}")]
    Partitions {
        /// The table's number.
        expected: usize,
        /// The proof's.
        found: usize,
    },
    /// The proof type has another number of challenges.
    #[error("partition {partition} has {found} challenges instead of {expected}")]
    Challenges {
        /// Which partition.
        partition: usize,
        /// The table's number.
        expected: usize,
        /// The proof's.
        found: usize,
    },
    /// CommR does not bind the two roots.
    #[error("CommR is not the hash of CommC and CommRLast")]
    CommR,
    /// One challenge is wrong.
    #[error("challenge {challenge}: {fault}")]
    Challenge {
        /// The node that the proof says was challenged.
        challenge: u64,
        /// What is wrong there.
        fault: Fault,
    },
}

/// What a vanilla proof is about, before any file is opened.
#[derive(Clone, Copy, Debug)]
pub struct Statement {
    /// Proof type: size, graph.
    pub seal: RegisteredSeal,
    /// Key of the labels.
    pub replica_id: ReplicaId,
    /// Source of the challenges.
    pub seed: Seed,
    /// Root of TreeD.
    pub comm_d: CommD,
    /// Root of TreeC.
    pub comm_c: CommC,
    /// Root of TreeR.
    pub comm_r_last: CommRLast,
    /// `H_2(comm_c, comm_r_last)`.
    pub comm_r: CommR,
}

/// The files that a vanilla proof opens.
#[derive(Debug)]
pub struct Sources {
    /// TreeD.
    pub tree_d: NodeFile,
    /// All layers, first to last.
    pub layers: Vec<NodeFile>,
    /// TreeC, one file per base tree.
    pub tree_c: Vec<NodeFile>,
    /// The replica.
    pub replica: NodeFile,
    /// TreeR, one file per base tree.
    pub tree_r: Vec<NodeFile>,
}

/// Opens all challenges of all partitions, a unit of progress each. The result is as good as the files: [`verify`] tells.
pub fn prove(
    statement: &Statement,
    sources: &Sources,
    progress: &dyn Progress,
) -> Result<VanillaProof, TreeError> {
    let Statement {
        seal,
        replica_id,
        seed,
        comm_d,
        comm_c,
        comm_r_last,
        comm_r,
    } = *statement;
    let graph = Graph::new(seal.size, &seal.porep_id(), seal.api_version());
    let partitions = (0..seal.size.partitions())
        .map(|partition| {
            let challenges = challenge::interactive(seal.size, &replica_id, &seed, partition);
            challenges
                .into_par_iter()
                .map(|node| open(sources, seal.size, &graph, node))
                .inspect(|_| progress.advance(1))
                .collect()
        })
        .collect::<Result<_, TreeError>>()?;
    Ok(VanillaProof {
        seal,
        replica_id,
        seed,
        comm_d,
        comm_c,
        comm_r_last,
        comm_r,
        partitions,
    })
}

fn open(
    sources: &Sources,
    size: SectorSize,
    graph: &Graph,
    node: u64,
) -> Result<ChallengeProof, TreeError> {
    let parents = graph.parents(node);
    Ok(ChallengeProof {
        challenge: node,
        data: build::open_tree_d(&sources.tree_d, size, node)?,
        column: open_column(sources, size, node)?,
        parents: parents
            .iter()
            .map(|&p| open_column(sources, size, u64::from(p)))
            .collect::<Result<_, _>>()?,
        replica: build::open_tree_r(&sources.replica, &sources.tree_r, size, node)?,
    })
}

fn open_column(sources: &Sources, size: SectorSize, node: u64) -> Result<ColumnProof, TreeError> {
    let labels = sources
        .layers
        .iter()
        .map(|layer| layer.node(node))
        .collect::<Result<_, _>>()?;
    Ok(ColumnProof {
        labels,
        path: build::open_tree_c(&sources.tree_c, size, node)?,
    })
}

impl VanillaProof {
    /// The circuit of one partition with these openings as its witness; `None` if there is no such partition or a node is no
    /// field element. Whether the witness satisfies the circuit is [`verify`]'s question.
    pub fn circuit(&self, partition: usize) -> Option<PorepCircuit> {
        Some(PorepCircuit {
            replica_id: fr_from_node(&self.replica_id.0)?,
            comm_d: fr_from_node(&self.comm_d.0)?,
            comm_r: fr_from_node(&self.comm_r.0)?,
            comm_r_last: fr_from_node(&self.comm_r_last.0)?,
            comm_c: fr_from_node(&self.comm_c.0)?,
            challenges: self
                .partitions
                .get(partition)?
                .iter()
                .map(ChallengeProof::witness)
                .collect::<Option<_>>()?,
        })
    }
}

impl ChallengeProof {
    fn witness(&self) -> Option<ChallengeWitness> {
        Some(ChallengeWitness {
            node: self.challenge,
            data: fr_from_node(&self.data.leaf)?,
            data_path: self.data.witness()?,
            parents: self
                .parents
                .iter()
                .map(ColumnProof::witness)
                .collect::<Option<_>>()?,
            replica_path: self.replica.witness()?,
            column_path: self.column.path.witness()?,
        })
    }
}

impl ColumnProof {
    fn witness(&self) -> Option<ColumnOpening> {
        Some(ColumnOpening {
            labels: self
                .labels
                .iter()
                .map(fr_from_node)
                .collect::<Option<_>>()?,
            path: self.path.witness()?,
        })
    }
}

/// Checks everything that the circuit checks, and that the challenges are those that the seed draws.
/// Calm on any value, whatever the lengths of its vectors.
pub fn verify(proof: &VanillaProof) -> Result<(), VanillaError> {
    verify_watched(proof, &NoProgress)
}

/// [`verify`], a unit of progress for each challenge.
pub(crate) fn verify_watched(
    proof: &VanillaProof,
    progress: &dyn Progress,
) -> Result<(), VanillaError> {
    let size = proof.seal.size;
    if proof.partitions.len() != size.partitions() {
        return Err(VanillaError::Partitions {
            expected: size.partitions(),
            found: proof.partitions.len(),
        });
    }
    if replica::comm_r(&proof.comm_c, &proof.comm_r_last) != Some(proof.comm_r) {
        return Err(VanillaError::CommR);
    }
    let graph = Graph::new(size, &proof.seal.porep_id(), proof.seal.api_version());
    let arities = shape::path_arities(size);
    let checker = Checker {
        proof,
        graph,
        arities,
    };
    for (partition, challenges) in proof.partitions.iter().enumerate() {
        let drawn = challenge::interactive(size, &proof.replica_id, &proof.seed, partition);
        if challenges.len() != drawn.len() {
            let (expected, found) = (drawn.len(), challenges.len());
            return Err(VanillaError::Challenges {
                partition,
                expected,
                found,
            });
        }
        for (opened, drawn) in challenges.iter().zip(drawn) {
            let challenge = opened.challenge;
            checker
                .challenge(opened, drawn)
                .map_err(|fault| VanillaError::Challenge { challenge, fault })?;
            progress.advance(1);
        }
    }
    Ok(())
}

struct Checker<'a> {
    proof: &'a VanillaProof,
    graph: Graph,
    arities: Vec<usize>,
}

impl Checker<'_> {
    /// The checks of proofs.md §4.3, in its order.
    fn challenge(&self, opened: &ChallengeProof, drawn: u64) -> Result<(), Fault> {
        if opened.challenge != drawn {
            return Err(Fault::NotDrawn { drawn });
        }
        if opened.parents.len() != DEGREE {
            return Err(Fault::Parents {
                found: opened.parents.len(),
            });
        }
        self.data(&opened.data, drawn)?;
        self.column(&opened.column, drawn)?;
        for (parent, node) in opened.parents.iter().zip(self.graph.parents(drawn)) {
            self.column(parent, u64::from(node))?;
        }
        self.poseidon(Tree::R, &opened.replica, drawn, &self.proof.comm_r_last.0)?;
        self.labels(opened)?;
        let key = opened
            .column
            .labels
            .last()
            .expect("its length was checked with the column");
        match replica::encode(&opened.data.leaf, key) {
            Some(sum) if sum == opened.replica.leaf => Ok(()),
            _ => Err(Fault::Encoding),
        }
    }

    fn data(&self, path: &BinaryPath, node: u64) -> Result<(), Fault> {
        if path.siblings.len() != self.proof.seal.size.log2_nodes() as usize {
            return Err(Fault::Shape(Tree::D));
        }
        require_index(Tree::D, node, path.index)?;
        match path.root() {
            Err(error) => Err(Fault::Path(Tree::D, error)),
            Ok(root) if root == self.proof.comm_d.0 => Ok(()),
            Ok(_) => Err(Fault::Root {
                tree: Tree::D,
                node,
            }),
        }
    }

    fn column(&self, column: &ColumnProof, node: u64) -> Result<(), Fault> {
        let complete = column.labels.len() == self.proof.seal.size.layers();
        if !complete || column::column_hash(&column.labels) != Some(column.path.leaf) {
            return Err(Fault::Column { node });
        }
        self.poseidon(Tree::C, &column.path, node, &self.proof.comm_c.0)
    }

    fn poseidon(
        &self,
        tree: Tree,
        path: &PoseidonPath,
        node: u64,
        root: &Node,
    ) -> Result<(), Fault> {
        check_opening(tree, path, &self.arities, node, root)
    }

    /// Recomputes every layer's label from the parents' columns.
    fn labels(&self, opened: &ChallengeProof) -> Result<(), Fault> {
        let (base, expander) = opened.parents.split_at(BASE_DEGREE);
        for layer in 1..=self.proof.seal.size.layers() {
            let mut parents: Vec<Node> =
                base.iter().map(|parent| parent.labels[layer - 1]).collect();
            if layer > 1 {
                parents.extend(expander.iter().map(|parent| parent.labels[layer - 2]));
            }
            if label(&self.proof.replica_id, layer, opened.challenge, &parents)
                != opened.column.labels[layer - 1]
            {
                return Err(Fault::Label { layer });
            }
        }
        Ok(())
    }
}

/// Checks shape, index and root of an opening in a Poseidon tree.
pub(crate) fn check_opening(
    tree: Tree,
    path: &PoseidonPath,
    arities: &[usize],
    node: u64,
    root: &Node,
) -> Result<(), Fault> {
    if path.arities() != arities {
        return Err(Fault::Shape(tree));
    }
    require_index(tree, node, path.index)?;
    match path.root() {
        Err(error) => Err(Fault::Path(tree, error)),
        Ok(found) if found == *root => Ok(()),
        Ok(_) => Err(Fault::Root { tree, node }),
    }
}

fn require_index(tree: Tree, expected: u64, found: u64) -> Result<(), Fault> {
    if expected == found {
        Ok(())
    } else {
        Err(Fault::Index {
            tree,
            expected,
            found,
        })
    }
}

/// One label by its definition (proofs.md §2.6), for a node other than 0: challenges never draw node 0.
pub(crate) fn label(replica_id: &ReplicaId, layer: usize, node: u64, parents: &[Node]) -> Node {
    let mut prefix = [0u8; 64];
    prefix[..32].copy_from_slice(&replica_id.0);
    prefix[32..36].copy_from_slice(&(layer as u32).to_be_bytes());
    prefix[36..44].copy_from_slice(&node.to_be_bytes());
    let slots: Vec<Node> = parents
        .iter()
        .cycle()
        .take(LABEL_PARENTS)
        .copied()
        .collect();
    sha256::t254(sha256::digest(&[&prefix, slots.as_flattened()]))
}
