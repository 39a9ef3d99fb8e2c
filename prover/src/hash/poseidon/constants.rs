//! Poseidon's constants, derived from the specification instead of being copied from a table.
//!
//! Walk: [`super::hash`] and the circuit gadget ask [`constants`] for their width.
//! Spec: `proofs.md` §3.1 for Grain, the Cauchy matrix and the round numbers;
//! `vectors/r1cs/README.md` §7 for the compressed form. Convention: states are row vectors, a mix
//! is `state · M`; `M` is symmetric, its factors are not.
//! Cost: at most some milliseconds per width, once per process.

use std::sync::OnceLock;

use ark_bls12_381::Fr;
use ark_ff::{AdditiveGroup, BigInt, Field, PrimeField};

/// Full rounds `R_F`, half of them before and half after the partial rounds.
pub const FULL_ROUNDS: usize = 8;

/// How many elements one hash absorbs. These are all that Filecoin's proofs use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arity {
    /// CommR, sub and top levels of arity 2, columns of two layers.
    Two,
    /// Sub levels of arity 4 (test shapes only).
    Four,
    /// Base levels of all Poseidon trees, and sub levels of arity 8.
    Eight,
    /// Columns of eleven layers.
    Eleven,
}

impl Arity {
    /// Every arity, ascending.
    pub const ALL: [Arity; 4] = [Arity::Two, Arity::Four, Arity::Eight, Arity::Eleven];

    /// The arity that absorbs `len` elements.
    pub const fn from_len(len: usize) -> Option<Arity> {
        match len {
            2 => Some(Arity::Two),
            4 => Some(Arity::Four),
            8 => Some(Arity::Eight),
            11 => Some(Arity::Eleven),
            _ => None,
        }
    }

    /// Elements absorbed.
    #[allow(clippy::len_without_is_empty, reason = "an arity is never empty")]
    pub const fn len(self) -> usize {
        match self {
            Arity::Two => 2,
            Arity::Four => 4,
            Arity::Eight => 8,
            Arity::Eleven => 11,
        }
    }

    /// State width `t`: the domain tag and the preimage.
    pub const fn width(self) -> usize {
        self.len() + 1
    }

    /// Partial rounds `R_P` for 128 bits of security with Filecoin's margin.
    pub const fn partial_rounds(self) -> usize {
        match self {
            Arity::Two => 55,
            Arity::Four => 56,
            Arity::Eight | Arity::Eleven => 57,
        }
    }

    /// The Merkle domain tag `2^arity − 1`.
    pub fn merkle_tag(self) -> Fr {
        Fr::from((1u64 << self.len()) - 1)
    }
}

/// One factor of the mix of a partial round: element 0 becomes `Σ column[i]·s[i]`, every other
/// element `j` becomes `s[j] + row[j − 1]·s[0]`.
#[derive(Clone, Debug)]
pub struct SparseMatrix {
    /// First column, `t` elements.
    pub column: Vec<Fr>,
    /// First row without its corner, `t − 1` elements.
    pub row: Vec<Fr>,
}

/// Everything one width needs, in the plain and in the compressed form.
#[derive(Clone, Debug)]
pub struct Constants {
    /// The arity these belong to.
    pub arity: Arity,
    /// Plain round constants, `(R_F + R_P)·t`, consumed round by round.
    pub round: Vec<Fr>,
    /// The Cauchy matrix, rows of `t`. Symmetric.
    pub mds: Vec<Vec<Fr>>,
    /// Constants of the optimised schedule, `t·R_F + R_P`, in the order of use: `t` before the
    /// first S-box, then those added behind the S-boxes (`4·t`, `R_P`, `3·t`).
    pub compressed: Vec<Fr>,
    /// The matrix of the last full round before the partial ones.
    pub pre_sparse: Vec<Vec<Fr>>,
    /// The mixes of the partial rounds, in order of use, `R_P` of them.
    pub sparse: Vec<SparseMatrix>,
}

/// The constants of an arity, derived at first use.
pub fn constants(arity: Arity) -> &'static Constants {
    static CELLS: [OnceLock<Constants>; 4] = [const { OnceLock::new() }; 4];
    let cell = match arity {
        Arity::Two => &CELLS[0],
        Arity::Four => &CELLS[1],
        Arity::Eight => &CELLS[2],
        Arity::Eleven => &CELLS[3],
    };
    cell.get_or_init(|| derive(arity))
}

fn derive(arity: Arity) -> Constants {
    let round = Grain::new(arity).round_constants(arity);
    let mds = cauchy(arity.width());
    let compressed = compress(arity, &round, &inverse(&mds));
    let (pre_sparse, sparse) = factorise(arity, &mds);
    Constants {
        arity,
        round,
        mds,
        compressed,
        pre_sparse,
        sparse,
    }
}

/// The self-shrinking Grain LFSR of 80 bits; bit 0 of the word is the oldest.
struct Grain(u128);

impl Grain {
    /// Bits 62, 51, 38, 23, 13 and 0 feed back.
    const TAPS: u128 = 1 << 62 | 1 << 51 | 1 << 38 | 1 << 23 | 1 << 13 | 1;

    fn new(arity: Arity) -> Self {
        // (value, bits), most significant bit first: prime field, x^5 S-box, field size, t, rounds.
        let fields = [
            (1, 2),
            (1, 4),
            (255, 12),
            (arity.width(), 12),
            (FULL_ROUNDS, 10),
            (arity.partial_rounds(), 10),
            ((1 << 30) - 1, 30),
        ];
        let bits = fields
            .iter()
            .flat_map(|&(value, len)| (0..len).rev().map(move |i| value >> i & 1));
        let state = bits
            .enumerate()
            .fold(0u128, |state, (i, bit)| state | (bit as u128) << i);
        let mut grain = Grain(state);
        for _ in 0..160 {
            grain.step();
        }
        grain
    }

    fn step(&mut self) -> bool {
        let bit = (self.0 & Self::TAPS).count_ones() & 1;
        self.0 = self.0 >> 1 | u128::from(bit) << 79;
        bit == 1
    }

    /// Self-shrinking: of each pair the first bit decides whether the second is used.
    fn bit(&mut self) -> bool {
        loop {
            let (used, bit) = (self.step(), self.step());
            if used {
                return bit;
            }
        }
    }

    fn element(&mut self) -> Fr {
        loop {
            let mut limbs = [0u64; 4];
            for i in (0..255).rev() {
                limbs[i / 64] |= u64::from(self.bit()) << (i % 64);
            }
            // Integers at or above the modulus are discarded, not reduced.
            if let Some(element) = Fr::from_bigint(BigInt(limbs)) {
                return element;
            }
        }
    }

    fn round_constants(mut self, arity: Arity) -> Vec<Fr> {
        let count = (FULL_ROUNDS + arity.partial_rounds()) * arity.width();
        (0..count).map(|_| self.element()).collect()
    }
}

fn cauchy(t: usize) -> Vec<Vec<Fr>> {
    let entry = |i: usize, j: usize| {
        Fr::from((i + t + j) as u64)
            .inverse()
            .expect("a small positive integer is invertible")
    };
    (0..t)
        .map(|i| (0..t).map(|j| entry(i, j)).collect())
        .collect()
}

/// Moves the round constants behind the S-boxes; in the partial rounds all but element 0 fold back
/// through the linear layer.
fn compress(arity: Arity, round: &[Fr], inverse: &[Vec<Fr>]) -> Vec<Fr> {
    let (t, half, partial) = (arity.width(), FULL_ROUNDS / 2, arity.partial_rounds());
    let key = |r: usize| &round[r * t..(r + 1) * t];
    let mut out = key(0).to_vec();
    for r in 1..half {
        out.extend(row_times(key(r), inverse));
    }
    let mut folded = key(half + partial).to_vec();
    let mut singles = Vec::with_capacity(partial);
    for r in (half..half + partial).rev() {
        let mut moved = row_times(&folded, inverse);
        singles.push(std::mem::replace(&mut moved[0], Fr::ZERO));
        folded = key(r).iter().zip(&moved).map(|(a, b)| *a + b).collect();
    }
    out.extend(row_times(&folded, inverse));
    out.extend(singles.into_iter().rev());
    for r in half + partial + 1..FULL_ROUNDS + partial {
        out.extend(row_times(key(r), inverse));
    }
    out
}

/// Splits `M` for each partial round into a sparse factor and one that is pushed into the round
/// before it; the last one left over is the pre-sparse matrix.
fn factorise(arity: Arity, mds: &[Vec<Fr>]) -> (Vec<Vec<Fr>>, Vec<SparseMatrix>) {
    let mut current = mds.to_vec();
    let mut sparse = Vec::with_capacity(arity.partial_rounds());
    for _ in 0..arity.partial_rounds() {
        let below: Vec<Fr> = current[1..].iter().map(|row| row[0]).collect();
        let inner: Vec<Vec<Fr>> = current[1..].iter().map(|row| row[1..].to_vec()).collect();
        let mut column = vec![current[0][0]];
        column.extend(row_times(&below, &inverse(&inner)));
        sparse.push(SparseMatrix {
            column,
            row: current[0][1..].to_vec(),
        });
        current = product(mds, &with_unit_border(&current));
    }
    sparse.reverse();
    (current, sparse)
}

fn with_unit_border(matrix: &[Vec<Fr>]) -> Vec<Vec<Fr>> {
    let mut bordered = matrix.to_vec();
    bordered[0].fill(Fr::ZERO);
    for row in &mut bordered {
        row[0] = Fr::ZERO;
    }
    bordered[0][0] = Fr::ONE;
    bordered
}

fn row_times(row: &[Fr], matrix: &[Vec<Fr>]) -> Vec<Fr> {
    (0..row.len())
        .map(|j| row.iter().zip(matrix).map(|(x, m)| *x * m[j]).sum())
        .collect()
}

fn product(left: &[Vec<Fr>], right: &[Vec<Fr>]) -> Vec<Vec<Fr>> {
    left.iter().map(|row| row_times(row, right)).collect()
}

/// Gauss-Jordan elimination. The matrices here are blocks of products of Cauchy matrices and
/// invertible for the four widths in use, which the tests exercise completely.
fn inverse(matrix: &[Vec<Fr>]) -> Vec<Vec<Fr>> {
    let n = matrix.len();
    let unit = |i: usize| (0..n).map(move |j| if i == j { Fr::ONE } else { Fr::ZERO });
    let mut rows: Vec<Vec<Fr>> = matrix
        .iter()
        .enumerate()
        .map(|(i, row)| row.iter().copied().chain(unit(i)).collect())
        .collect();
    for column in 0..n {
        let pivot = (column..n)
            .find(|&r| rows[r][column] != Fr::ZERO)
            .expect("the matrices of the four widths are invertible");
        rows.swap(column, pivot);
        let scale = rows[column][column]
            .inverse()
            .expect("the pivot is not zero");
        rows[column].iter_mut().for_each(|x| *x *= scale);
        let base = rows[column].clone();
        for (_, row) in rows.iter_mut().enumerate().filter(|(r, _)| *r != column) {
            let factor = row[column];
            row.iter_mut()
                .zip(&base)
                .for_each(|(x, b)| *x -= factor * b);
        }
    }
    rows.into_iter().map(|row| row[n..].to_vec()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};

    fn digest(values: &[Fr]) -> String {
        let mut hasher = Sha256::new();
        values
            .iter()
            .for_each(|v| hasher.update(super::super::node_from_fr(v)));
        hex::encode(hasher.finalize())
    }

    /// Recorded from neptune (`vectors/filecoin.json`, `small_vectors.poseidon`): round constants,
    /// MDS row-major, compressed round constants.
    const DIGESTS: [(Arity, &str, &str, &str); 4] = [
        (
            Arity::Two,
            "cf4dfb7448132022e22b32e3dce6b125cb06329448f9e8d8fe53a71c73cbe6d4",
            "b55e71db69c416c830c28ca9871f933b6c27220eae309801c981ee3b0885ee51",
            "b768b730ce5198394d948d76421ab53b08cc16ec1ac082cf503f370192253e16",
        ),
        (
            Arity::Four,
            "91e463d6553415b3901b9f26b2ad53e6298ac3e5ab0ef260d397bafe8bdde98e",
            "42a9ccbf22e42dc598fbe106f6b5019b46d545a725eb7538ba6bcf3765b350ab",
            "3e4ec19ded2c86a89f3d6bddc13d9571a0cc5473e7207cfbaf6a8169a69f5709",
        ),
        (
            Arity::Eight,
            "9a4a743575f0eaf285c93d73f8adaf4e7ef4042c2445b42bddaf1a64e5face72",
            "82d366586a4b49ae74f4c5bbc94bbed0a0eb064584097367d926ae1f11e30894",
            "f5a94aea73a583d080abdf7d71259fab9107f5523a4a1eddc41468f94564dd16",
        ),
        (
            Arity::Eleven,
            "479dc0d71d694cd50d853dec0c94aeb37df2a69929eaa23b545a52b1226aec06",
            "7ef350e5db367cae7828071ca354fefd25c59fe77e31261d27fb2ce8f14ff956",
            "2d7c0e4e9b98eda82102b69f1a964ae59ccf98b0008b6d3d632d86f4fea79d1d",
        ),
    ];

    #[test]
    fn constants_match_filecoin() {
        for (arity, round, mds, compressed) in DIGESTS {
            let c = constants(arity);
            assert_eq!(digest(&c.round), round, "{arity:?}");
            assert_eq!(digest(&c.mds.concat()), mds, "{arity:?}");
            assert_eq!(
                c.compressed.len(),
                FULL_ROUNDS * arity.width() + arity.partial_rounds()
            );
            assert_eq!(digest(&c.compressed), compressed, "{arity:?}");
            assert_eq!(c.sparse.len(), arity.partial_rounds());
        }
    }

    #[test]
    fn inverse_is_inverse() {
        for arity in Arity::ALL {
            let mds = cauchy(arity.width());
            let unit = product(&mds, &inverse(&mds));
            for (i, row) in unit.iter().enumerate() {
                for (j, x) in row.iter().enumerate() {
                    assert_eq!(*x, Fr::from(u64::from(i == j)));
                }
            }
        }
    }
}
