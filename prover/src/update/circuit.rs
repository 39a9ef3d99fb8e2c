//! The sector update circuit (EmptySectorUpdate): one partition, row for row Filecoin's.
//!
//! Walk: after [`super::proof`] opened the challenged nodes, before `snark::groth16`.
//! Spec: proofs.md §6.1, `vectors/r1cs/README.md` §9. Plain twin: the vanilla verifier.
//! Public inputs: partition and choice of high bits in one number, the old CommR, the new CommD, the new CommR.
//! Statement: knowledge of CommC and two roots with `H_2(CommC, root_old) = CommR_old`, `H_2(CommC, root_new) = CommR_new`;
//! of the nodes that cover this partition's slice of TreeD, under the new CommD; and, for each challenge drawn here from the
//! new CommR, of an old replica node and a data node at the challenged index, whose encoding opens in the new replica.
//! Cost: 1,705,039 rows at 2 KiB, 10,007,503 at 8 MiB, 81,049,499 at 32 GiB, a partition.
//!
//! Review list of values that stand in two places (threat section "Circuit" 5): the two roots, CommC, the apex leaves and phi
//! are one variable each for all challenges; a challenge's bits choose its factor, both replica paths, its apex leaf and
//! its data path; the partition's bits are the top bits of every challenge, the path of the slice in TreeD, and the number
//! that the digests count from; the data node is encoded and opened; the sum is the leaf of the new replica's path.

use ark_bls12_381::Fr;
use ark_ff::Field;

use super::challenge::Draw;
use crate::merkle::shape;
use crate::snark::cs::{Circuit, ConstraintSystem, Num, Term, Var};
use crate::snark::gadget::bits::{Bit, FR_BITS, canonical_spelling, pack_bits, split_bits};
use crate::snark::gadget::insert::select;
use crate::snark::gadget::merkle::{NodeHash, path_at};
use crate::snark::gadget::poseidon::{poseidon, poseidon_update};
use crate::snark::gadget::sha256::tree_d_node;
use crate::spec::{SectorSize, UpdateShape};

/// Siblings per level, leaf level first.
pub type Siblings = Vec<Vec<Fr>>;

/// Everything one challenge opens. Its index is no witness: the circuit draws it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChallengeWitness {
    /// The node of the old replica.
    pub old: Fr,
    /// From it to the old replica's root.
    pub old_path: Siblings,
    /// The node of the new data.
    pub data: Fr,
    /// From it to its apex leaf.
    pub data_path: Vec<Fr>,
    /// From the node of the new replica, which the circuit computes, to the new replica's root.
    pub new_path: Siblings,
}

/// The witness of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpdateCircuit {
    /// Size of the sector.
    pub size: SectorSize,
    /// First public input, see [`super::selector`].
    pub selector: Fr,
    /// What the chain kept of the sector.
    pub comm_r_old: Fr,
    /// Root of the new data.
    pub comm_d_new: Fr,
    /// What the chain keeps from now on.
    pub comm_r_new: Fr,
    /// Root of the columns, the same before and after.
    pub comm_c: Fr,
    /// Root of the old replica.
    pub root_old: Fr,
    /// Root of the new replica.
    pub root_new: Fr,
    /// TreeD nodes that cover the partition's slice, in order.
    pub apex_leaves: Vec<Fr>,
    /// From the root over the apex leaves to the new CommD.
    pub partition_path: Vec<Fr>,
    /// One per challenge of the partition.
    pub challenges: Vec<ChallengeWitness>,
}

impl UpdateCircuit {
    /// The circuit's shape with zeros everywhere: for keys, counts and digests.
    pub fn blank(size: SectorSize) -> UpdateCircuit {
        let zero = Fr::from(0u64);
        let shape = size.update_shape();
        let path: Siblings = shape::path_arities(size)
            .iter()
            .map(|arity| vec![zero; arity - 1])
            .collect();
        let challenge = ChallengeWitness {
            old: zero,
            old_path: path.clone(),
            data: zero,
            data_path: vec![zero; below_apex(size)],
            new_path: path,
        };
        UpdateCircuit {
            size,
            selector: zero,
            comm_r_old: zero,
            comm_d_new: zero,
            comm_r_new: zero,
            comm_c: zero,
            root_old: zero,
            root_new: zero,
            apex_leaves: vec![zero; shape.apex_leaves],
            partition_path: vec![zero; shape.partition_bits() as usize],
            challenges: vec![challenge; shape.challenges],
        }
    }
}

/// Levels of TreeD from the data to the apex leaves.
pub fn below_apex(size: SectorSize) -> usize {
    let shape = size.update_shape();
    (size.log2_nodes() - shape.partition_bits() - shape.apex_bits()) as usize
}

impl Circuit for UpdateCircuit {
    fn synthesize<CS: ConstraintSystem>(&self, cs: &mut CS) {
        self.synthesize_spelled(cs, canonical_spelling);
    }
}

impl UpdateCircuit {
    /// The circuit with its digests spelled in this way, which the rows leave open between two: see [`draw`].
    pub(crate) fn synthesize_spelled<CS: ConstraintSystem>(&self, cs: &mut CS, spell: Spelling) {
        let (head, drawn) = self.head(cs, spell);
        let challenges: Vec<_> = self.challenges.iter().zip(drawn).collect();
        cs.parts(&challenges, |cs, (challenge, bits)| {
            challenge.synthesize(cs, &head, bits);
        });
    }
}

/// From a number to bits that stand for it.
pub(crate) type Spelling = fn(Fr) -> [u64; 4];

/// Variables that all challenges share.
struct Head {
    size: SectorSize,
    shape: UpdateShape,
    partition: Vec<Bit>,
    choice: Vec<Bit>,
    phi: Num,
    root_old: Num,
    root_new: Num,
    apex_leaves: Vec<Num>,
}

impl UpdateCircuit {
    /// Everything before the challenges, and each challenge's random bits.
    fn head<CS: ConstraintSystem>(&self, cs: &mut CS, spell: Spelling) -> (Head, Vec<Vec<Bit>>) {
        let shape = self.size.update_shape();
        let selector = Num::alloc(cs, self.selector);
        selector.inputize(cs);
        let width = shape.partition_bits() as usize;
        let bits = canonical_spelling(selector.value);
        let mut partition = split_bits(cs, selector, bits, width + shape.high_bits.len());
        let choice = partition.split_off(width);
        let number = pack_bits(cs, &partition);

        let [comm_r_old, comm_d_new, comm_r_new] =
            [self.comm_r_old, self.comm_d_new, self.comm_r_new].map(|value| {
                let number = Num::alloc(cs, value);
                number.inputize(cs);
                number
            });
        let phi = poseidon_update(cs, [comm_d_new, comm_r_old]);

        let comm_c = Num::alloc(cs, self.comm_c);
        let root_old = Num::alloc(cs, self.root_old);
        let root_new = Num::alloc(cs, self.root_new);
        let apex_leaves = self.apex_leaves.iter();
        let apex_leaves: Vec<Num> = apex_leaves.map(|leaf| Num::alloc(cs, *leaf)).collect();
        let partition_path = self.partition_path.iter();
        let partition_path: Vec<Vec<Num>> = partition_path
            .map(|sibling| vec![Num::alloc(cs, *sibling)])
            .collect();

        let hash = poseidon(cs, &[comm_c, root_old]);
        hash.enforce_equal(cs, comm_r_old);
        let hash = poseidon(cs, &[comm_c, root_new]);
        hash.enforce_equal(cs, comm_r_new);

        let apex = apex_root(cs, &apex_leaves);
        path_at(
            cs,
            NodeHash::Sha256,
            apex,
            &partition,
            &partition_path,
            comm_d_new,
        );
        let drawn = draw(cs, self.size, comm_r_new, number, spell);
        let head = Head {
            size: self.size,
            shape,
            partition,
            choice,
            phi,
            root_old,
            root_new,
            apex_leaves,
        };
        (head, drawn)
    }
}

/// Root of the binary tree over the apex leaves.
fn apex_root<CS: ConstraintSystem>(cs: &mut CS, leaves: &[Num]) -> Num {
    let mut row = leaves.to_vec();
    while row.len() > 1 {
        row = row
            .chunks_exact(2)
            .map(|pair| tree_d_node(cs, pair[0], pair[1]))
            .collect();
    }
    row[0]
}

/// The random bits of all challenges of the partition with this number.
fn draw<CS: ConstraintSystem>(
    cs: &mut CS,
    size: SectorSize,
    comm_r_new: Num,
    partition: Num,
    spell: Spelling,
) -> Vec<Vec<Bit>> {
    let draw = Draw::of(size);
    let mut challenges = Vec::new();
    for j in 0..draw.digests {
        let (step, j) = (Fr::from(draw.digests as u64), Fr::from(j as u64));
        let number = Num::alloc(cs, partition.value * step + j);
        cs.row(
            &[(partition.var, step), (Var::ONE, j)],
            &[(Var::ONE, Fr::ONE)],
            &[number.term()],
        );
        let digest = poseidon_update(cs, [comm_r_new, number]);
        // Loose (P15): a tenth of all digests (2^255/r − 1) can also be spelled as themselves plus r, and then other nodes
        // of the same slice are challenged: as many, drawn by the same hash of the new CommR, and not the prover's choice
        // beyond one of two. Who would pick between two draws can draw anew at will, by changing any node of the new
        // replica; the second spelling spares him those few hashes, one bit per such digest, about 17 bits over the
        // 160 digests of a production sector. That is no more than grinding CommR gives, which 1,376 challenges are for.
        // The vanilla verifier takes the first spelling only. Test: snark::soundness::differential, tm_p15_…digest….
        let bits = split_bits(cs, digest, spell(digest.value), FR_BITS);
        let cut = bits.chunks_exact(draw.bits as usize).take(draw.per_digest);
        challenges.extend(cut.map(<[Bit]>::to_vec));
    }
    challenges.truncate(size.update_shape().challenges);
    challenges
}

impl ChallengeWitness {
    fn synthesize<CS: ConstraintSystem>(&self, cs: &mut CS, head: &Head, drawn: &[Bit]) {
        let index = [drawn, &head.partition].concat();
        let high = high_bits(cs, &index, &head.choice, &head.shape.high_bits);
        let rho = poseidon_update(cs, [head.phi, high]);

        let old = Num::alloc(cs, self.old);
        let data = Num::alloc(cs, self.data);
        let new = data.mul(cs, rho);
        let new = old.add(cs, new);

        let path = siblings(cs, &self.old_path);
        path_at(cs, NodeHash::Poseidon, old, &index, &path, head.root_old);
        let path = siblings(cs, &self.new_path);
        path_at(cs, NodeHash::Poseidon, new, &index, &path, head.root_new);

        let (below, above) = index.split_at(below_apex(head.size));
        let apex = &above[..head.shape.apex_bits() as usize];
        let apex = select(cs, &head.apex_leaves, apex);
        let path: Vec<Vec<Num>> = self
            .data_path
            .iter()
            .map(|sibling| vec![Num::alloc(cs, *sibling)])
            .collect();
        path_at(cs, NodeHash::Sha256, data, below, &path, apex);
    }
}

fn siblings<CS: ConstraintSystem>(cs: &mut CS, path: &Siblings) -> Vec<Vec<Num>> {
    path.iter()
        .map(|level| level.iter().map(|node| Num::alloc(cs, *node)).collect())
        .collect()
}

/// The highest bits of an index as a number, as many as the choice says: each width's number times its bit of the choice,
/// and the sum of these. That one bit of the choice is set and no other, the verifier sees to: it is a public input.
fn high_bits<CS: ConstraintSystem>(
    cs: &mut CS,
    index: &[Bit],
    choice: &[Bit],
    widths: &[u32],
) -> Num {
    let one = [(Var::ONE, Fr::ONE)];
    let candidates: Vec<Num> = widths
        .iter()
        .zip(choice)
        .map(|(width, chosen)| {
            let high = pack_bits(cs, &index[index.len() - *width as usize..]);
            let value = if chosen.value() {
                high.value
            } else {
                Fr::from(0u64)
            };
            let candidate = Num::alloc(cs, value);
            cs.row(&[high.term()], &chosen.sum(), &[candidate.term()]);
            candidate
        })
        .collect();
    let sum = Num::alloc(cs, candidates.iter().map(|num| num.value).sum());
    let terms: Vec<Term> = candidates.iter().map(|num| num.term()).collect();
    cs.row(&terms, &one, &[sum.term()]);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snark::CircuitId;
    use crate::snark::gadget::tests::{assert_circuit, assert_first_rows};
    use crate::snark::record::RowDigest;
    use crate::snark::shape::pinned;

    #[test]
    fn rows_are_filecoins_at_2_kib() {
        assert_circuit("update-2kib", |cs| {
            UpdateCircuit::blank(SectorSize::Kib2).synthesize(cs)
        });
    }

    #[test]
    fn rows_are_filecoins_at_8_mib() {
        assert_circuit("update-8mib", |cs| {
            UpdateCircuit::blank(SectorSize::Mib8).synthesize(cs)
        });
    }

    /// Rows of sizes whose digests were not recorded: the counts that storage-proofs-update's own tests have. The smallest of
    /// them runs always, it has two levels in TreeR's shape.
    #[test]
    fn counts_are_filecoins_at_4_kib() {
        assert_pinned(SectorSize::Kib4, 2_165_109);
    }

    #[test]
    #[ignore = "some seconds; run by `cargo test -p prover -- --ignored`"]
    fn counts_are_filecoins_in_the_other_small_shapes_full() {
        assert_pinned(SectorSize::Kib16, 6_300_021);
        assert_pinned(SectorSize::Kib32, 6_760_091);
    }

    /// proofs.md §6.1: 85 million rows.
    #[test]
    #[ignore = "a minute or two; run by `cargo test -p prover -- --ignored`"]
    fn counts_are_filecoins_at_64_gib_full() {
        assert_pinned(SectorSize::Gib64, 85_006_101);
    }

    fn assert_pinned(size: SectorSize, constraints: usize) {
        let pinned = pinned(CircuitId::update(size));
        assert_eq!(pinned.counts.constraints, constraints, "{size}");
        let mut cs = RowDigest::with_marks(Vec::new());
        UpdateCircuit::blank(size).synthesize(&mut cs);
        assert_eq!(
            (cs.counts, &*hex::encode(cs.finish())),
            (pinned.counts, pinned.rows_sha256),
            "{size}"
        );
    }

    /// 57 million rows: `cargo test -p prover -- --ignored`.
    #[test]
    #[ignore = "a minute; run by `cargo test -p prover -- --ignored`"]
    fn rows_are_filecoins_at_512_mib_full() {
        assert_circuit("update-512mib", |cs| {
            UpdateCircuit::blank(SectorSize::Mib512).synthesize(cs)
        });
    }

    /// The head and more than two challenges of the production circuit: `cargo test -p prover -- --ignored`.
    #[test]
    #[ignore = "some seconds; run by `cargo test -p prover -- --ignored`"]
    fn the_first_rows_are_filecoins_at_32_gib_full() {
        let mut circuit = UpdateCircuit::blank(SectorSize::Gib32);
        // Five challenges reach beyond the recorded rows, and later ones do not change the first.
        circuit.challenges.truncate(5);
        assert_first_rows("update-32gib", 8_388_608, |cs| circuit.synthesize(cs));
    }
}
