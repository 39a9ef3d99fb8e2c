//! Poseidon as defined: dense matrix after every round, constants before every S-box.
//!
//! The plain twin of [`super::hash`], kept for tests and for readers who want the definition.
//! Spec: `proofs.md` §3.1. Cost: `(R_F + R_P)·t²` multiplications and the S-boxes.

use ark_bls12_381::Fr;
use ark_ff::Field;

use super::{Constants, FULL_ROUNDS};

/// Hashes `preimage` under `tag`; the result is element 1 of the last state.
pub fn hash(constants: &Constants, tag: Fr, preimage: &[Fr]) -> Fr {
    let width = constants.arity.width();
    let partial = FULL_ROUNDS / 2..FULL_ROUNDS / 2 + constants.arity.partial_rounds();
    let mut state = vec![tag];
    state.extend_from_slice(preimage);
    for (round, keys) in constants.round.chunks_exact(width).enumerate() {
        state.iter_mut().zip(keys).for_each(|(x, key)| *x += key);
        let boxes = if partial.contains(&round) { 1 } else { width };
        state[..boxes].iter_mut().for_each(|x| *x = x.pow([5]));
        state = constants
            .mds
            .iter()
            .map(|row| row.iter().zip(&state).map(|(m, x)| *m * x).sum())
            .collect();
    }
    state[1]
}
