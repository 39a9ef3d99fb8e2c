//! The PoSt circuit, row for row Filecoin's: WindowPoSt and WinningPoSt are two shapes of it.
//!
//! Walk: after `super::proof` opened the challenged leaves, before `snark::groth16`.
//! Spec: `vectors/r1cs/README.md` §9, proofs.md §§5.2, 5.3. Window: the partition's sectors with 10
//! leaves each. Winning: one sector listed 66 times with one leaf each.
//! Statement, per sector: `H_2(CommC, CommRLast) = CommR`, and each leaf opens in CommRLast.
//! The replica is the whole witness: no labels, no data.

use ark_bls12_381::Fr;

use crate::porep::circuit::blank_path;
use crate::snark::CircuitKind;
use crate::snark::cs::{Circuit, ConstraintSystem, Num};
use crate::snark::gadget::merkle::{Level, NodeHash, path};
use crate::snark::gadget::poseidon::poseidon;
use crate::spec::{SectorSize, WINDOW_CHALLENGES, WINNING_CHALLENGES};

/// A replica's node and its path in TreeR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeafOpening {
    /// The node.
    pub leaf: Fr,
    /// From the node to CommRLast.
    pub path: Vec<Level>,
}

/// What one listed sector opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SectorWitness {
    /// What the chain keeps.
    pub comm_r: Fr,
    /// Root of the columns.
    pub comm_c: Fr,
    /// Root of the replica.
    pub comm_r_last: Fr,
    /// The challenged leaves.
    pub leaves: Vec<LeafOpening>,
}

/// The witness of a whole PoSt proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostCircuit {
    /// The listed sectors, in order.
    pub sectors: Vec<SectorWitness>,
}

impl PostCircuit {
    /// The circuit's shape with zeros everywhere: for keys, counts and digests.
    ///
    /// # Panics
    /// For the other kinds, which are other circuits.
    pub fn blank(kind: CircuitKind, size: SectorSize) -> PostCircuit {
        let (sectors, challenges) = match kind {
            CircuitKind::WindowPost => (size.window_sectors(), WINDOW_CHALLENGES),
            CircuitKind::WinningPost => (WINNING_CHALLENGES, 1),
            CircuitKind::Porep | CircuitKind::Update => {
                unreachable!("porep::circuit and update::circuit spell these")
            }
        };
        let zero = Fr::from(0u64);
        let leaf = LeafOpening {
            leaf: zero,
            path: blank_path(size),
        };
        let sector = SectorWitness {
            comm_r: zero,
            comm_c: zero,
            comm_r_last: zero,
            leaves: vec![leaf; challenges],
        };
        PostCircuit {
            sectors: vec![sector; sectors],
        }
    }
}

impl Circuit for PostCircuit {
    fn synthesize<CS: ConstraintSystem>(&self, cs: &mut CS) {
        cs.parts(&self.sectors, |cs, sector| sector.synthesize(cs));
    }
}

impl SectorWitness {
    fn synthesize<CS: ConstraintSystem>(&self, cs: &mut CS) {
        let comm_r_last = Num::alloc(cs, self.comm_r_last);
        let comm_c = Num::alloc(cs, self.comm_c);
        let comm_r = Num::alloc(cs, self.comm_r);
        comm_r.inputize(cs);
        let hash = poseidon(cs, &[comm_c, comm_r_last]);
        comm_r.enforce_equal(cs, hash);
        for opening in &self.leaves {
            let leaf = Num::alloc(cs, opening.leaf);
            path(cs, NodeHash::Poseidon, leaf, &opening.path, comm_r_last);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snark::gadget::tests::{assert_circuit, assert_first_rows};

    const SIZES: [(&str, SectorSize); 6] = [
        ("2kib", SectorSize::Kib2),
        ("4kib", SectorSize::Kib4),
        ("16kib", SectorSize::Kib16),
        ("32kib", SectorSize::Kib32),
        ("8mib", SectorSize::Mib8),
        ("512mib", SectorSize::Mib512),
    ];

    #[test]
    fn window_rows_are_filecoins() {
        for (name, size) in SIZES {
            assert_circuit(&format!("window-{name}"), |cs| {
                PostCircuit::blank(CircuitKind::WindowPost, size).synthesize(cs);
            });
        }
    }

    /// As many rows as are compared of the other production circuits; here that is 157 of the partition's 2349 sectors.
    #[test]
    #[ignore = "some seconds; run by `cargo test -p prover -- --ignored`"]
    fn the_first_window_rows_are_filecoins_at_32_gib_full() {
        let mut circuit = PostCircuit::blank(CircuitKind::WindowPost, SectorSize::Gib32);
        // 158 sectors of 53,333 rows reach beyond the recorded rows, and later ones do not change the first.
        circuit.sectors.truncate(158);
        assert_first_rows("window-32gib", 8_388_608, |cs| circuit.synthesize(cs));
    }

    #[test]
    fn winning_rows_are_filecoins() {
        for (name, size) in SIZES
            .into_iter()
            .chain([("32gib", SectorSize::Gib32), ("64gib", SectorSize::Gib64)])
        {
            assert_circuit(&format!("winning-{name}"), |cs| {
                PostCircuit::blank(CircuitKind::WinningPost, size).synthesize(cs);
            });
        }
    }
}
