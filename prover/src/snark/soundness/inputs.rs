//! Public inputs: each is bound by a row, and each has its own point in the developers' keys.
//!
//! Spec: threat-model.md P13, P14. [`super::flip`] moves each input under the old witness; here a real proof is checked
//! against moved inputs under a real key, and the keys of all circuits at 2 KiB and 8 MiB that developers have are looked at.

use ark_bls12_381::{Bls12_381, Fr};
use ark_ec::AffineRepr;
use ark_ff::Field;
use ark_groth16::Proof;

use super::Real;
use crate::progress::NoProgress;
use crate::snark::CircuitId;
use crate::snark::cs::{Circuit, ConstraintSystem, Term, Var};
use crate::snark::groth16::{CheckedKey, decode_canonical};
use crate::snark::keys::ParamStore;
use crate::snark::prove;
use crate::snark::record::Assignment;
use crate::snark::shape::Blank;
use crate::spec::SectorSize;

/// How often each input occurs in a row.
struct Occurrences {
    aux: u32,
    inputs: Vec<usize>,
}

impl ConstraintSystem for Occurrences {
    fn aux(&mut self, _: Fr) -> Var {
        self.aux += 1;
        Var::aux(self.aux - 1)
    }
    fn input(&mut self, _: Fr) -> Var {
        self.inputs.push(0);
        Var::input(u32::try_from(self.inputs.len() - 1).expect("few inputs"))
    }
    fn row(&mut self, a: &[Term], b: &[Term], c: &[Term]) {
        let nonzero = [a, b, c]
            .into_iter()
            .flatten()
            .filter(|(_, k)| *k != Fr::from(0u64));
        for (v, _) in nonzero.filter(|(v, _)| !v.is_aux()) {
            self.inputs[v.index()] += 1;
        }
    }
}

fn every_circuit() -> impl Iterator<Item = CircuitId> {
    [SectorSize::Kib2, SectorSize::Mib8]
        .into_iter()
        .flat_map(|size| {
            [
                CircuitId::window(size),
                CircuitId::winning(size),
                CircuitId::porep(size),
            ]
        })
        // No developers' key of an update is larger: see snark::keys.
        .chain([CircuitId::update(SectorSize::Kib2)])
}

#[test]
fn tm_p14_every_input_occurs_in_a_row() {
    for circuit in every_circuit() {
        let mut cs = Occurrences {
            aux: 0,
            inputs: vec![0],
        };
        Blank::new(circuit).synthesize(&mut cs);
        assert_eq!(cs.inputs.len(), circuit.public_inputs() + 1, "{circuit}");
        let unbound = cs.inputs.iter().position(|occurs| *occurs == 0);
        assert_eq!(unbound, None, "{circuit}: this input stands in no row");
    }
}

/// No point of a key's input list is the identity, no two are equal or opposite: no input's weight can vanish or be
/// traded for another's. The keys are made here from the published secrets, and must be the pinned ones.
#[test]
fn tm_p14_every_input_has_its_own_point_in_the_developers_keys() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = ParamStore::open(folder.path()).expect("a temporary folder");
    for circuit in every_circuit() {
        let bytes = store
            .verifying_key_bytes(circuit, &NoProgress)
            .expect("the pinned key");
        let key = CheckedKey::read(circuit, &bytes).expect("a sound key");
        let points = &key.key().gamma_abc_g1;
        assert_eq!(points.len(), circuit.public_inputs() + 1, "{circuit}");
        let mut seen = std::collections::HashSet::new();
        for (j, point) in points.iter().enumerate() {
            assert!(!point.is_zero(), "{circuit}: input {j}");
            let abscissa = point.x().expect("not the identity");
            assert!(
                seen.insert(abscissa),
                "{circuit}: input {j} shares its point"
            );
        }
    }
}

/// A proof for `x` under a real key: fails for `x + e_j` for every `j`, and for every other number of inputs.
#[test]
fn tm_p14_tm_p13_a_real_proof_fails_for_every_moved_input() {
    let circuit = CircuitId::window(SectorSize::Kib2);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = ParamStore::open(folder.path()).expect("a temporary folder");
    let key = store
        .load_or_generate(circuit, &NoProgress)
        .expect("makes a key");
    let real = Real::new(circuit);
    let bytes = prove::prove(&key, &real, &NoProgress).expect("a proof");
    let [proof]: [Proof<Bls12_381>; 1] = decode_canonical(&bytes, 1)
        .expect("our own proof")
        .try_into()
        .expect("one proof");
    let inputs = Assignment::of(&real).inputs[1..].to_vec();
    let key = key.verifying_key();
    assert_eq!(inputs.len(), circuit.public_inputs());
    assert_eq!(key.accepts(&inputs, &proof), Some(true));
    for j in 0..inputs.len() {
        let mut moved = inputs.clone();
        moved[j] += Fr::ONE;
        assert_eq!(key.accepts(&moved, &proof), Some(false), "input {j}");
    }
    // P13: the last input 0 or one more 0 would pass where lists are zipped.
    assert_eq!(key.accepts(&inputs[..inputs.len() - 1], &proof), None);
    assert_eq!(
        key.accepts(&[&inputs[..], &[Fr::from(0u64)]].concat(), &proof),
        None
    );
}
