//! Poseidon with compressed constants and sparse partial rounds: the portable fast path.
//!
//! Equal to [`super::naive`] by construction (`proofs.md` §3.1, last paragraph) and by test.
//! The state lives in a fixed array per width, so that loops unroll and nothing is allocated.

use ark_bls12_381::Fr;
use ark_ff::{AdditiveGroup, Field};

use super::{Arity, Constants, FULL_ROUNDS, SparseMatrix, fr_from_node, node_from_fr};
use crate::ids::Node;

/// Hashes `preimage` (of the constants' arity) under `tag`.
pub(super) fn hash(constants: &Constants, tag: Fr, preimage: &[Fr]) -> Fr {
    match constants.arity {
        Arity::Two => permute::<3>(constants, tag, preimage),
        Arity::Four => permute::<5>(constants, tag, preimage),
        Arity::Eight => permute::<9>(constants, tag, preimage),
        Arity::Eleven => permute::<12>(constants, tag, preimage),
    }
}

/// Hashes preimages laid end to end; an error is the position of the first node that is no field element.
pub(super) fn hash_nodes(
    constants: &Constants,
    tag: Fr,
    nodes: &[Node],
    out: &mut [Node],
) -> Result<(), usize> {
    let arity = constants.arity.len();
    let mut preimage = [Fr::ZERO; Arity::Eleven.len()];
    for (i, (group, parent)) in nodes.chunks_exact(arity).zip(out).enumerate() {
        for (j, (element, node)) in preimage.iter_mut().zip(group).enumerate() {
            *element = fr_from_node(node).ok_or(i * arity + j)?;
        }
        *parent = node_from_fr(&hash(constants, tag, &preimage[..arity]));
    }
    Ok(())
}

fn permute<const T: usize>(constants: &Constants, tag: Fr, preimage: &[Fr]) -> Fr {
    let mut state = [tag; T];
    state[1..].copy_from_slice(preimage);
    let (first, keys) = constants.compressed.split_at(T);
    let (opening, keys) = keys.split_at(T * FULL_ROUNDS / 2);
    let (singles, closing) = keys.split_at(constants.arity.partial_rounds());

    state.iter_mut().zip(first).for_each(|(x, key)| *x += key);
    for (round, keys) in opening.chunks_exact(T).enumerate() {
        full_sbox(&mut state, keys);
        let last = round + 1 == FULL_ROUNDS / 2;
        state = mix(
            &state,
            if last {
                &constants.pre_sparse
            } else {
                &constants.mds
            },
        );
    }
    for (key, matrix) in singles.iter().zip(&constants.sparse) {
        state[0] = fifth_power(state[0]) + key;
        mix_sparse(&mut state, matrix);
    }
    for keys in closing.chunks_exact(T) {
        full_sbox(&mut state, keys);
        state = mix(&state, &constants.mds);
    }
    // The last round has no key behind its S-box, and only element 1 of its mix is the result.
    state.iter_mut().for_each(|x| *x = fifth_power(*x));
    state
        .iter()
        .zip(&constants.mds)
        .map(|(x, row)| *x * row[1])
        .sum()
}

#[inline]
fn fifth_power(x: Fr) -> Fr {
    x.square().square() * x
}

#[inline]
fn full_sbox<const T: usize>(state: &mut [Fr; T], keys: &[Fr]) {
    state
        .iter_mut()
        .zip(keys)
        .for_each(|(x, key)| *x = fifth_power(*x) + key);
}

/// `state · matrix`, the state as a row vector.
#[inline]
fn mix<const T: usize>(state: &[Fr; T], matrix: &[Vec<Fr>]) -> [Fr; T] {
    let mut out = [Fr::ZERO; T];
    for (x, row) in state.iter().zip(matrix) {
        out.iter_mut().zip(row).for_each(|(sum, m)| *sum += *x * m);
    }
    out
}

#[inline]
fn mix_sparse<const T: usize>(state: &mut [Fr; T], matrix: &SparseMatrix) {
    let corner = state.iter().zip(&matrix.column).map(|(x, m)| *x * m).sum();
    let first = state[0];
    state[1..]
        .iter_mut()
        .zip(&matrix.row)
        .for_each(|(x, m)| *x += first * m);
    state[0] = corner;
}
