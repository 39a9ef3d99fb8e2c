//! Poseidon of eight preimages at once, on AVX-512 IFMA.
//!
//! Walk: [`super::hash_nodes`] uses it for whole groups of eight when the CPU has the instructions; single hashes and
//! remainders take [`super::optimised`], its plain twin, and tests compare the two. Same schedule, same constants.
//! Spec: proofs.md §3.1. Cost: about a tenth of the portable schedule per hash.
//! Bounds: comments give each value's bound in units of the field order `r`, as [`super::lanes`] explains.

use std::sync::OnceLock;

use ark_bls12_381::Fr;
use ark_ff::Field;

use super::lanes::{Constant, Ifma, LANES, Lanes, constant};
use super::{Arity, Constants, FULL_ROUNDS, constants, fr_from_node};
use crate::ids::Node;

/// Partial rounds after which the lazily grown elements are reduced again: `1.8 + 19·1.07 < 22.2` stays below the 35 that
/// five limbs hold.
const NORMALISE_EVERY: usize = 19;

/// A width's constants in the kernel's form, in the order of use.
struct Table {
    arity: Arity,
    tag: Constant,
    compressed: Vec<Constant>,
    mds: Vec<Constant>,
    pre_sparse: Vec<Constant>,
    /// Per partial round: `t` of the column, `t − 1` of the row.
    sparse: Vec<Constant>,
    /// `2^260`: brings a plain integer into Montgomery form.
    scale: Constant,
    /// One: multiplying by it reduces.
    one: Constant,
}

/// Hashes as many preimages as fill whole groups of eight, under the Merkle tag, and returns how many; 0 without the
/// instructions. An error is the position of the first node that is no field element.
pub(super) fn hash_nodes(arity: Arity, nodes: &[Node], out: &mut [Node]) -> Result<usize, usize> {
    let Some(ifma) = Ifma::detect() else {
        return Ok(0);
    };
    let table = table(arity);
    let group = LANES * arity.len();
    for (i, (nodes, out)) in nodes
        .chunks_exact(group)
        .zip(out.chunks_exact_mut(LANES))
        .enumerate()
    {
        if let Some(bad) = nodes.iter().position(|node| fr_from_node(node).is_none()) {
            return Err(i * group + bad);
        }
        // SAFETY: `ifma` proves that the CPU has the features that these functions are compiled for.
        unsafe {
            match arity {
                Arity::Two => hash_group::<3>(ifma, table, nodes, out),
                Arity::Four => hash_group::<5>(ifma, table, nodes, out),
                Arity::Eight => hash_group::<9>(ifma, table, nodes, out),
                Arity::Eleven => hash_group::<12>(ifma, table, nodes, out),
            }
        }
    }
    Ok(out.len() / LANES * LANES)
}

/// Whether this CPU has the instructions.
pub(super) fn available() -> bool {
    Ifma::detect().is_some()
}

fn table(arity: Arity) -> &'static Table {
    static CELLS: [OnceLock<Table>; 4] = [const { OnceLock::new() }; 4];
    let cell = match arity {
        Arity::Two => &CELLS[0],
        Arity::Four => &CELLS[1],
        Arity::Eight => &CELLS[2],
        Arity::Eleven => &CELLS[3],
    };
    cell.get_or_init(|| Table::new(constants(arity)))
}

impl Table {
    fn new(plain: &Constants) -> Self {
        let all = |values: &[Fr]| {
            values
                .iter()
                .map(|&value| constant(value))
                .collect::<Vec<_>>()
        };
        let sparse: Vec<Fr> = plain
            .sparse
            .iter()
            .flat_map(|m| m.column.iter().chain(&m.row))
            .copied()
            .collect();
        Self {
            arity: plain.arity,
            tag: constant(plain.arity.merkle_tag()),
            compressed: all(&plain.compressed),
            mds: all(&plain.mds.concat()),
            pre_sparse: all(&plain.pre_sparse.concat()),
            sparse: all(&sparse),
            scale: constant(Fr::from(2u64).pow([260])),
            one: constant(Fr::from(1u64)),
        }
    }
}

#[target_feature(enable = "avx512f,avx512ifma")]
fn hash_group<const T: usize>(ifma: Ifma, table: &Table, nodes: &[Node], out: &mut [Node]) {
    let arity = T - 1;
    let mut state = [ifma.spread(&table.tag); T];
    for (i, element) in state[1..].iter_mut().enumerate() {
        let plain = ifma.load(&std::array::from_fn(|lane| words(&nodes[lane * arity + i])));
        // Canonical times canonical: below 1.03.
        *element = ifma.reduce(ifma.add_multiple(ifma.empty(), &plain, &table.scale));
    }
    permute(ifma, table, &mut state);
    // Below 1 + 1/32: within what `store` brings below the order.
    let plain = ifma.store(&ifma.reduce(ifma.widened(&state[1])));
    for (node, words) in out.iter_mut().zip(plain) {
        for (bytes, word) in node.as_chunks_mut::<8>().0.iter_mut().zip(words) {
            *bytes = word.to_le_bytes();
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn permute<const T: usize>(ifma: Ifma, table: &Table, state: &mut [Lanes; T]) {
    let (first, keys) = table.compressed.split_at(T);
    let (opening, keys) = keys.split_at(T * FULL_ROUNDS / 2);
    let (singles, closing) = keys.split_at(table.arity.partial_rounds());

    for (x, key) in state.iter_mut().zip(first) {
        // Below 2.03.
        *x = ifma.add_constant(x, key);
    }
    for (round, keys) in opening.chunks_exact(T).enumerate() {
        for (x, key) in state.iter_mut().zip(keys) {
            *x = sbox(ifma, x, Some(key));
        }
        let last = round + 1 == FULL_ROUNDS / 2;
        *state = mix(
            ifma,
            state,
            if last { &table.pre_sparse } else { &table.mds },
        );
    }
    for (round, (key, matrix)) in singles
        .iter()
        .zip(table.sparse.chunks_exact(2 * T - 1))
        .enumerate()
    {
        state[0] = sbox(ifma, &state[0], Some(key));
        mix_sparse(ifma, state, matrix);
        if round % NORMALISE_EVERY == NORMALISE_EVERY - 1 {
            for x in &mut state[1..] {
                // 0.0283 · 22.2 + 1: below 1.7.
                *x = ifma.reduce(ifma.add_multiple(ifma.empty(), x, &table.one));
            }
        }
    }
    for keys in closing.chunks_exact(T) {
        for (x, key) in state.iter_mut().zip(keys) {
            *x = sbox(ifma, x, Some(key));
        }
        *state = mix(ifma, state, &table.mds);
    }
    for x in state.iter_mut() {
        *x = sbox(ifma, x, None);
    }
    *state = mix(ifma, state, &table.mds);
}

/// `x^5 + key`. For `x` up to 22.2: `x²` below 15, `x⁴` below 7.4, the result below 6.7. For `x` up to 8 the same way below
/// 2.3, for `x` up to 2.1 below 2.1.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn sbox(ifma: Ifma, x: &Lanes, key: Option<&Constant>) -> Lanes {
    let square = ifma.reduce(ifma.square(x));
    let fourth = ifma.reduce(ifma.square(&square));
    let fifth = ifma.add_product(ifma.empty(), &fourth, x);
    match key {
        Some(key) => ifma.reduce(ifma.add_shifted(fifth, key)),
        None => ifma.reduce(fifth),
    }
}

/// `state · matrix`. Twelve elements up to 6.7 give less than 3.3, up to 2.1 less than 1.8.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn mix<const T: usize>(ifma: Ifma, state: &[Lanes; T], matrix: &[Constant]) -> [Lanes; T] {
    let mut out = *state;
    for (j, out) in out.iter_mut().enumerate() {
        let mut sum = ifma.empty();
        for (x, row) in state.iter().zip(matrix.chunks_exact(T)) {
            sum = ifma.add_multiple(sum, x, &row[j]);
        }
        *out = ifma.reduce(sum);
    }
    out
}

/// Element 0 comes from the S-box of a value up to 8, so it is below 2.3. It becomes the sum, `0.0283·(2.3 + 11·22.2) + 1`,
/// below 8 again; the others grow by `0.0283·2.3 + 1`, below 1.07.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn mix_sparse<const T: usize>(ifma: Ifma, state: &mut [Lanes; T], matrix: &[Constant]) {
    let (column, row) = matrix.split_at(T);
    let mut corner = ifma.empty();
    for (x, factor) in state.iter().zip(column) {
        corner = ifma.add_multiple(corner, x, factor);
    }
    let first = state[0];
    for (x, factor) in state[1..].iter_mut().zip(row) {
        *x = ifma.reduce(ifma.add_multiple(ifma.shifted(x), &first, factor));
    }
    state[0] = ifma.reduce(corner);
}

fn words(node: &Node) -> [u64; 4] {
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(node.as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        /// Every length around the group size, on random nodes and on the largest ones.
        #[test]
        fn equals_the_portable_schedule(seed: [u8; 32], count in 0usize..20, largest: bool) {
            for arity in Arity::ALL {
                let nodes: Vec<Node> = (0..count * arity.len())
                    .map(|i| match largest {
                        true => super::super::node_from_fr(&-Fr::from(i as u64 + 1)),
                        false => crate::hash::sha256::t254(crate::hash::sha256::digest(&[&seed, &i.to_le_bytes()])),
                    })
                    .collect();
                let mut portable = vec![[0u8; 32]; count];
                let plain = constants(arity);
                super::super::optimised::hash_nodes(plain, arity.merkle_tag(), &nodes, &mut portable).expect("canonical");
                let mut found = vec![[0u8; 32]; count];
                super::super::hash_nodes(arity, &nodes, &mut found).expect("canonical");
                prop_assert_eq!(&found, &portable);
                let mut lanes = vec![[0u8; 32]; count];
                let done = hash_nodes(arity, &nodes, &mut lanes).expect("canonical");
                prop_assert_eq!(&lanes[..done], &portable[..done]);
            }
        }
    }

    #[test]
    fn names_the_first_node_that_is_no_field_element() {
        for count in [1usize, 8, 17] {
            let mut nodes = vec![[1u8; 32]; count * 8];
            let mut out = vec![[0u8; 32]; count];
            assert_eq!(
                super::super::hash_nodes(Arity::Eight, &nodes, &mut out),
                Ok(())
            );
            for at in [0, count * 8 - 1] {
                nodes[at] = [0xff; 32];
                assert_eq!(
                    super::super::hash_nodes(Arity::Eight, &nodes, &mut out),
                    Err(at)
                );
                nodes[at] = [1; 32];
            }
        }
    }
}
