//! Many Groth16 proofs in one equation, weighted at random (threat V7).
//!
//! Walk: [`crate::verify`] asks it about the partitions of a proof and about batches of proofs; what fails here is
//! decided singly there. Spec: proofs.md §4.5; threat V7.
//!
//! ```text
//! Π e(w_i·A_i, B_i) = Π_keys e(α, β)^{Σ w_i} · e(Σ w_i·IC_i, γ) · e(Σ w_i·C_i, δ)
//! ```
//! A weight is `w = a + b·λ` with `a` and `b` of 64 bits from the operating system and `λ = z² − 1` of 128 bits, by which a
//! point of G1 is multiplied at the cost of one field multiplication. Different `(a, b)` are different weights, because
//! `2^64 + 2^64·λ` is below the group's order: 2^128 weights, so that a batch with a false proof passes with
//! probability 2^-128 whatever its sender does, as with plain 128-bit numbers, and products take half the doublings.
//!
//! Cost: two multiplications of 64 doublings and a Miller loop a proof, eight at a time in [`super::lanes`] where the CPU
//! has the instructions: in batches of 64 a sixth of what a proof costs alone, decoding included, and half without them;
//! three Miller loops a key and one final exponentiation. In parallel on the caller's rayon pool. Memory: about 1 KiB a
//! proof.

use ark_bls12_381::{Bls12_381, Fr, G1Affine};
use ark_ff::Zero;
use ark_groth16::Proof;
use rand::RngCore;
use rayon::prelude::*;

use super::groth16::CheckedKey;
#[cfg(target_arch = "x86_64")]
use super::lanes::{self, Ifma, LEAST, field::LANES};
use super::pairing::{self, G1, G1Sum, G2, Miller};

/// Proofs that share a Miller loop's squarings, at most.
const SHARED: usize = 8;

/// A proof, and what it must satisfy.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// The key.
    pub key: &'a CheckedKey,
    /// Public inputs, the constant one left out.
    pub inputs: &'a [Fr],
    /// The proof.
    pub proof: &'a Proof<Bls12_381>,
}

/// Whether all claims hold. No claim claims nothing false: an empty list holds. A claim whose number of inputs is not
/// its key's does not.
pub fn all_hold(claims: &[Claim<'_>]) -> bool {
    let weights: Vec<Weight> = claims.iter().map(|_| Weight::random()).collect();
    all_hold_weighted(claims, &weights)
}

/// The same with weights that the caller has drawn.
pub(crate) fn all_hold_weighted(claims: &[Claim<'_>], weights: &[Weight]) -> bool {
    let weighed = weigh(claims, weights);
    let mut by_key: Vec<Vec<Weighed<'_>>> = Vec::new();
    for item in &weighed {
        let same = |group: &&mut Vec<Weighed<'_>>| std::ptr::eq(group[0].claim.key, item.claim.key);
        match by_key.iter_mut().find(same) {
            Some(group) => group.push(*item),
            None => by_key.push(vec![*item]),
        }
    }
    let (left, right) = rayon::join(
        || {
            weighed
                .par_chunks(share(weighed.len()))
                .map(left_side)
                .reduce(Miller::one, |a, b| a.times(&b))
        },
        || {
            by_key
                .par_iter()
                .map(|group| minus_right_side(group))
                .reduce(|| Some(Miller::one()), |a, b| Some(a?.times(&b?)))
        },
    );
    right.is_some_and(|right| left.times(&right).finish().is_one())
}

/// A claim with its weight.
#[derive(Clone, Copy)]
struct Weighed<'a> {
    claim: Claim<'a>,
    weight: Weight,
    /// `weight·A` and `weight·C`, where lanes made them.
    products: Option<[G1Affine; 2]>,
}

/// Joins claims and weights, and multiplies in lanes where there are any.
fn weigh<'a>(claims: &[Claim<'a>], weights: &[Weight]) -> Vec<Weighed<'a>> {
    let mut weighed: Vec<Weighed<'a>> = std::iter::zip(claims, weights)
        .map(|(claim, weight)| Weighed {
            claim: *claim,
            weight: *weight,
            products: None,
        })
        .collect();
    #[cfg(target_arch = "x86_64")]
    if let Some(ifma) = Ifma::detect().filter(|_| weighed.len() >= LEAST) {
        let share = share(weighed.len());
        weighed.par_chunks_mut(share).for_each(|items| {
            let points = items.iter().flat_map(|item| {
                let Weight { a, b } = item.weight;
                [item.claim.proof.a, item.claim.proof.c].map(|point| (point, [a, b]))
            });
            let Some(products) = ifma.weighted(&points.collect::<Vec<_>>()) else {
                return;
            };
            for (item, products) in items.iter_mut().zip(products.as_chunks().0) {
                item.products = Some(*products);
            }
        });
    }
    weighed
}

/// How many proofs of so many one thread takes at a time: whole groups of lanes where there are any.
fn share(proofs: usize) -> usize {
    let share = proofs.div_ceil(rayon::current_num_threads());
    #[cfg(target_arch = "x86_64")]
    if Ifma::detect().is_some() {
        return share.next_multiple_of(LANES).clamp(LANES, lanes::SHARED);
    }
    share.clamp(1, SHARED)
}

/// `Π e(w_i·A_i, B_i)`.
fn left_side(items: &[Weighed<'_>]) -> Miller {
    #[cfg(target_arch = "x86_64")]
    if let Some(ifma) = Ifma::detect() {
        let pairs = items
            .iter()
            .map(|item| Some((item.products?[0], item.claim.proof.b)));
        if let Some(pairs) = pairs.collect::<Option<Vec<_>>>() {
            return ifma.miller(&pairs);
        }
    }
    let products: Vec<G1Sum> = items
        .iter()
        .map(|item| weighted_sum([(G1::from(&item.claim.proof.a), item.weight)]))
        .collect();
    let pairs: Vec<(G1, G2)> = pairing::points(&products)
        .into_iter()
        .zip(items.iter().map(|item| G2::from(&item.claim.proof.b)))
        .collect();
    Miller::of_points(&pairs)
}

/// One key's part of the right side, negated; `None` when a claim has a wrong number of inputs.
fn minus_right_side(items: &[Weighed<'_>]) -> Option<Miller> {
    let key = items.first()?.claim.key;
    let (ic, c) = rayon::join(
        || {
            let mut constant = Fr::zero();
            let mut inputs = vec![Fr::zero(); key.inputs()];
            for Weighed { claim, weight, .. } in items {
                if claim.inputs.len() != inputs.len() {
                    return None;
                }
                let weight = weight.scalar();
                constant += weight;
                for (sum, input) in inputs.iter_mut().zip(claim.inputs) {
                    *sum += weight * input;
                }
            }
            let sum = key.input_sum().of(Some(&constant), &inputs)?;
            Some((constant, sum))
        },
        || weighted_c(items),
    );
    let (constant, ic) = ic?;
    Some(key.minus_right_side(&constant, &ic, &c))
}

/// `Σ w_i·C_i`.
fn weighted_c(items: &[Weighed<'_>]) -> G1Sum {
    let ready: Vec<G1> = items
        .iter()
        .filter_map(|item| item.products.map(|[_, c]| G1::from(&c)))
        .collect();
    let mut total = pairing::sum(&ready);
    let others = items.iter().filter(|item| item.products.is_none());
    total.add(&weighted_sum(
        others.map(|item| (G1::from(&item.claim.proof.c), item.weight)),
    ));
    total
}

/// `a + b·λ`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weight {
    pub(crate) a: u64,
    pub(crate) b: u64,
}

impl Weight {
    /// From the operating system; never zero, which would leave a proof out.
    fn random() -> Self {
        loop {
            let [a, b] = std::array::from_fn(|_| rand::rngs::OsRng.next_u64());
            if (a, b) != (0, 0) {
                return Self { a, b };
            }
        }
    }

    fn scalar(self) -> Fr {
        Fr::from(self.a) + Fr::from(self.b) * LAMBDA
    }
}

/// `z² − 1` for the curve's `|z| = 0xd201000000010000`: what [`G1::endomorphism`] multiplies by.
const LAMBDA: Fr = ark_ff::MontFp!("228988810152649578064853576960394133503");

/// `Σ w·P`; no point is the identity.
fn weighted_sum(items: impl IntoIterator<Item = (G1, Weight)>) -> G1Sum {
    let (mut points, mut scalars) = (Vec::new(), Vec::new());
    for (point, weight) in items {
        points.extend([point, point.endomorphism()]);
        scalars.extend(weight.a.to_le_bytes());
        scalars.extend(weight.b.to_le_bytes());
    }
    pairing::weighted_sum(&points, &scalars, 64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ark_ff::{BigInteger, Field, PrimeField, UniformRand};
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn tm_v7_weights_are_many_and_different() {
        let z = Fr::from(0xd201_0000_0001_0000u64);
        assert_eq!(LAMBDA, z.square() - Fr::from(1u64));
        // a + b·λ never wraps at the order, and a < λ: so the map from (a, b) is one to one.
        assert!(LAMBDA.into_bigint().num_bits() > 64);
        assert!(LAMBDA.into_bigint().num_bits() + 64 + 1 < Fr::MODULUS_BIT_SIZE);
        let drawn: Vec<Weight> = (0..1000).map(|_| Weight::random()).collect();
        let mut scalars: Vec<_> = drawn.iter().map(|w| w.scalar().into_bigint()).collect();
        scalars.sort();
        scalars.dedup();
        assert_eq!(scalars.len(), drawn.len());
        // Every bit of both halves is drawn.
        let union = |half: fn(&Weight) -> u64| drawn.iter().fold(0, |all, w| all | half(w));
        assert_eq!((union(|w| w.a), union(|w| w.b)), (u64::MAX, u64::MAX));
    }

    #[test]
    fn weighted_sums_are_arkworks_products() {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let edge = [0, 1, u64::MAX].map(|a| [0, 1, u64::MAX].map(|b| Weight { a, b }));
        let edge = edge.into_iter().flatten();
        for weight in edge.chain((0..20).map(|_| Weight::random())) {
            let point = G1Affine::rand(&mut rng);
            let sum = weighted_sum([(G1::from(&point), weight)]).point();
            assert_eq!(G1Affine::from(sum), point * weight.scalar());
        }
        let many: Vec<_> = (0..50)
            .map(|_| (G1Affine::rand(&mut rng), Weight::random()))
            .collect();
        let expected: ark_bls12_381::G1Projective = many.iter().map(|(p, w)| *p * w.scalar()).sum();
        let sum = weighted_sum(many.iter().map(|(p, w)| (G1::from(p), *w)));
        assert_eq!(G1Affine::from(sum.point()), expected);
    }
}
