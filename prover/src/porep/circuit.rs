//! The PoRep circuit: one partition, row for row Filecoin's.
//!
//! Walk: after `super::proof` (vanilla proofs hold the values), before `snark::groth16`.
//! Spec: `vectors/r1cs/README.md` §9, proofs.md §4.4. Plain twin: the vanilla verifier.
//! Statement: knowledge of CommC and CommRLast with `H_2(CommC, CommRLast) = CommR` and, for each
//! challenge, of a data leaf, 14 parent columns and paths such that the label recomputed here from
//! the parents encodes the leaf to the replica's node. The challenged node's own labels are no
//! witnesses: they are the outputs of the hashes.
//! Cost: 1,343,675 rows a challenge at 2 KiB, 1,922,179 at 8 MiB, 571 once.
//!
//! Review list of values that stand in two places (threat section "Circuit" 5): comm_d, comm_c,
//! comm_r_last and the replica id's bits are one variable each for all challenges; a parent's label
//! is one variable in its column and in every label that hashes it, though its bits are derived
//! again for each layer; the sum of label and data is the leaf of the replica's path.

use ark_bls12_381::Fr;

use crate::snark::cs::{Circuit, ConstraintSystem, Num};
use crate::snark::gadget::bits::{Bit, challenge_input, hash_bits};
use crate::snark::gadget::merkle::{Level, NodeHash, path};
use crate::snark::gadget::poseidon::poseidon;
use crate::snark::gadget::sha256::create_label;
use crate::spec::{BASE_ARITY, BASE_DEGREE, DEGREE, SectorSize};

/// A column of labels and its path in TreeC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnOpening {
    /// Labels of the node, layer 1 first.
    pub labels: Vec<Fr>,
    /// From the column's hash to CommC.
    pub path: Vec<Level>,
}

/// Everything one challenge opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChallengeWitness {
    /// The challenged node.
    pub node: u64,
    /// Its data.
    pub data: Fr,
    /// From its data to CommD.
    pub data_path: Vec<Level>,
    /// Its 6 base and 8 expander parents, in the graph's order.
    pub parents: Vec<ColumnOpening>,
    /// From its replica node to CommRLast.
    pub replica_path: Vec<Level>,
    /// From its own column to CommC.
    pub column_path: Vec<Level>,
}

/// The witness of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PorepCircuit {
    /// Key of the labels.
    pub replica_id: Fr,
    /// Root of the data.
    pub comm_d: Fr,
    /// What the chain keeps.
    pub comm_r: Fr,
    /// Root of the replica.
    pub comm_r_last: Fr,
    /// Root of the columns.
    pub comm_c: Fr,
    /// One per challenge of the partition.
    pub challenges: Vec<ChallengeWitness>,
}

impl PorepCircuit {
    /// The circuit's shape with zeros everywhere: for keys, counts and digests.
    pub fn blank(size: SectorSize) -> PorepCircuit {
        let zero = Fr::from(0u64);
        let tree = blank_path(size);
        let opening = ColumnOpening {
            labels: vec![zero; size.layers()],
            path: tree.clone(),
        };
        let challenge = ChallengeWitness {
            node: 0,
            data: zero,
            data_path: (0..size.log2_nodes()).map(|_| Level::blank(2)).collect(),
            parents: vec![opening; DEGREE],
            replica_path: tree.clone(),
            column_path: tree,
        };
        PorepCircuit {
            replica_id: zero,
            comm_d: zero,
            comm_r: zero,
            comm_r_last: zero,
            comm_c: zero,
            challenges: vec![challenge; size.challenges_per_partition()],
        }
    }
}

impl Circuit for PorepCircuit {
    fn synthesize<CS: ConstraintSystem>(&self, cs: &mut CS) {
        let head = self.head(cs);
        cs.parts(&self.challenges, |cs, challenge| {
            challenge.synthesize(cs, &head);
        });
    }
}

impl PorepCircuit {
    fn head<CS: ConstraintSystem>(&self, cs: &mut CS) -> Head {
        let replica_id = Num::alloc(cs, self.replica_id);
        replica_id.inputize(cs);
        // Loose (P15): the bits may spell `id + r`. Then every label of the partition is keyed by that string, one
        // that no replica id has; but the columns these labels must meet were committed, keyed by some string, before
        // the seed was drawn, and the public input is the canonical id. Whoever committed labels keyed by the alias
        // sealed an honest replica under another key: as slow, as large, and as bound to this sector, since the alias
        // is a function of the id. Tests: snark::soundness::flip, tm_p15_…alias….
        let replica_id = hash_bits(cs, replica_id);
        let comm_d = Num::alloc(cs, self.comm_d);
        comm_d.inputize(cs);
        let comm_r = Num::alloc(cs, self.comm_r);
        comm_r.inputize(cs);
        // Allocated in this order, hashed in the other.
        let comm_r_last = Num::alloc(cs, self.comm_r_last);
        let comm_c = Num::alloc(cs, self.comm_c);
        let hash = poseidon(cs, &[comm_c, comm_r_last]);
        comm_r.enforce_equal(cs, hash);
        Head {
            replica_id,
            comm_d,
            comm_r_last,
            comm_c,
        }
    }
}

/// Variables that all challenges share.
struct Head {
    replica_id: Vec<Bit>,
    comm_d: Num,
    comm_r_last: Num,
    comm_c: Num,
}

impl ChallengeWitness {
    fn synthesize<CS: ConstraintSystem>(&self, cs: &mut CS, head: &Head) {
        let data = Num::alloc(cs, self.data);
        path(cs, NodeHash::Sha256, data, &self.data_path, head.comm_d);

        let parents: Vec<Vec<Num>> = self
            .parents
            .iter()
            .map(|parent| parent.synthesize(cs, head.comm_c))
            .collect();
        let node = challenge_input(cs, self.node);
        let layers = parents[0].len();
        let labels: Vec<Num> = (0..layers)
            .map(|layer| label(cs, &head.replica_id, layer, &node, &parents))
            .collect();

        let key = *labels.last().expect("every size has at least two layers");
        let replica = key.add(cs, data);
        path(
            cs,
            NodeHash::Poseidon,
            replica,
            &self.replica_path,
            head.comm_r_last,
        );
        let column = poseidon(cs, &labels);
        path(
            cs,
            NodeHash::Poseidon,
            column,
            &self.column_path,
            head.comm_c,
        );
    }
}

impl ColumnOpening {
    fn synthesize<CS: ConstraintSystem>(&self, cs: &mut CS, comm_c: Num) -> Vec<Num> {
        let labels: Vec<Num> = self
            .labels
            .iter()
            .map(|label| Num::alloc(cs, *label))
            .collect();
        let column = poseidon(cs, &labels);
        path(cs, NodeHash::Poseidon, column, &self.path, comm_c);
        labels
    }
}

/// The label of the challenged node in layer `layer + 1`: base parents from the same layer and,
/// above the first, expander parents from the layer below. Their bits are derived again each time.
fn label<CS: ConstraintSystem>(
    cs: &mut CS,
    replica_id: &[Bit],
    layer: usize,
    node: &[Bit],
    parents: &[Vec<Num>],
) -> Num {
    let base = parents[..BASE_DEGREE].iter();
    let mut bits: Vec<Vec<Bit>> = base
        // Loose (P15): the bits may spell `label + r`. The label computed here then differs and misses its column and
        // the replica, committed before the challenge was known, unless it was made from the alias in the first place:
        // the same work from the same parent, since the alias is a function of the label. SHA-256 leaves no choice of
        // the result either way.
        .map(|labels| hash_bits(cs, labels[layer]))
        .collect();
    if layer > 0 {
        let expander = parents[BASE_DEGREE..].iter();
        // Loose (P15): as above; a parent hashed in two layers may even take two spellings.
        let hashed = expander.map(|labels| hash_bits(cs, labels[layer - 1]));
        bits.extend(hashed);
    }
    let number = u32::try_from(layer + 1).expect("at most eleven layers");
    create_label(cs, replica_id, number, node, &bits)
}

/// A path of TreeC or TreeR with zeros: base levels, then the sub and the top level.
pub fn blank_path(size: SectorSize) -> Vec<Level> {
    let shape = size.shape();
    let base_levels = size.base_tree_leaves().trailing_zeros() / BASE_ARITY.trailing_zeros();
    let above = [shape.sub, shape.top]
        .into_iter()
        .filter(|arity| *arity > 0);
    (0..base_levels)
        .map(|_| BASE_ARITY)
        .chain(above)
        .map(Level::blank)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snark::gadget::tests::{assert_circuit, assert_first_rows};

    #[test]
    fn rows_are_filecoins_at_2_kib() {
        assert_circuit("porep-2kib", |cs| {
            PorepCircuit::blank(SectorSize::Kib2).synthesize(cs)
        });
    }

    #[test]
    fn rows_are_filecoins_at_8_mib() {
        assert_circuit("porep-8mib", |cs| {
            PorepCircuit::blank(SectorSize::Mib8).synthesize(cs)
        });
    }

    #[test]
    fn rows_are_filecoins_in_the_other_shapes() {
        for (name, size) in [
            ("porep-4kib", SectorSize::Kib4),
            ("porep-16kib", SectorSize::Kib16),
            ("porep-32kib", SectorSize::Kib32),
        ] {
            assert_circuit(name, |cs| PorepCircuit::blank(size).synthesize(cs));
        }
    }

    /// The whole of the largest circuit that is not a named command's: some seconds.
    #[test]
    fn rows_are_filecoins_at_512_mib() {
        assert_circuit("porep-512mib", |cs| {
            PorepCircuit::blank(SectorSize::Mib512).synthesize(cs)
        });
    }

    /// More than one challenge of the production circuit, 11 layers: `cargo test -p prover -- --ignored`.
    #[test]
    #[ignore = "some seconds; run by `cargo test -p prover -- --ignored`"]
    fn the_first_rows_are_filecoins_at_32_gib_full() {
        let mut circuit = PorepCircuit::blank(SectorSize::Gib32);
        // Two challenges reach beyond the recorded rows, and later ones do not change the first.
        circuit.challenges.truncate(2);
        assert_first_rows("porep-32gib", 8_388_608, |cs| circuit.synthesize(cs));
    }
}
