//! Batches of proofs eight at a time: decoding, products with weights, Miller loops.
//!
//! Walk: [`super::groth16`] decodes and [`super::batch`] weighs and pairs with it where the CPU has AVX-512 IFMA; without it,
//! and for few proofs, [`super::pairing`] does the same one by one: the plain twin, which tests compare with every function
//! here. Spec: proofs.md §4.5; threats P12, V7.
//!
//! What is accepted here is proved here, exactly: each point's root squares to its curve equation, and its membership in the
//! group is decided by the same endomorphism test as blst's, alone and not in a random sum, which the curves' small
//! cofactors would defeat. What is not accepted may still be right (see [`curve`]), so [`Ifma::decode`] gives `None` and its
//! caller asks the twin: every refusal, and its reason, is the twin's.
//!
//! Cost on a Zen 5 core, a proof of a full group: decoding 60 µs, products with A and C 23 µs, the Miller loop 58 µs; blst
//! takes 210, 63 and 180. A group costs the same however many of its lanes are in use, so lanes are taken from [`LEAST`]
//! proofs on. Memory: 6 KiB a group of eight in a Miller loop.
//!
//! `unsafe`: `field` and the files beside it are compiled for AVX-512F and IFMA; [`Ifma`] is the evidence that both exist,
//! and its methods are the only entries.

pub mod curve;
pub mod field;
mod inverse;
mod miller;

use ark_bls12_381::{Bls12_381, Fq, Fq2, G1Affine, G2Affine};
use ark_ff::{AdditiveGroup, PrimeField};
use ark_groth16::Proof;

use self::curve::{in_g1, in_g2, y_in_g1, y_in_g2};
use self::field::{Fe, LANES};
use self::miller::Pairs;
use super::pairing::{G1, G2, Miller};
use crate::spec::GROTH16_PROOF_BYTES;

/// From so many items in a group on lanes are faster than the twin.
pub const LEAST: usize = 3;
/// Pairs that share a loop's squarings, at most.
pub const SHARED: usize = 8 * LANES;

/// Evidence that this CPU has AVX-512F and IFMA.
#[derive(Clone, Copy, Debug)]
pub struct Ifma(());

impl Ifma {
    /// Asks [`crate::instructions`].
    pub fn detect() -> Option<Self> {
        crate::instructions::ifma().then_some(Self(()))
    }

    /// Proofs whose points are canonical, of the group and not the identity; `None` where that was not found.
    pub fn decode(self, proofs: &[&[u8; GROTH16_PROOF_BYTES]]) -> Vec<Option<Proof<Bls12_381>>> {
        // SAFETY: `self` proves that the CPU has the features that `decode` is compiled for.
        let decoded = proofs.chunks(LANES).map(|some| unsafe { decode(some) });
        decoded.flatten().collect()
    }

    /// `(a + b·λ)·P` of each, for `λ` of [`super::pairing::G1::endomorphism`]; points are of the group. `None` when one of
    /// the results is the identity.
    pub fn weighted(self, items: &[(G1Affine, [u64; 2])]) -> Option<Vec<G1Affine>> {
        // SAFETY: `self` proves that the CPU has the features that `weighted` is compiled for.
        unsafe { weighted(items) }
    }

    /// `Π e(P, Q)` over points of the groups, none the identity.
    pub fn miller(self, pairs: &[(G1Affine, G2Affine)]) -> Miller {
        let few = match pairs.len() % LANES {
            few @ ..LEAST => few,
            _ => 0,
        };
        let (pairs, few) = pairs.split_at(pairs.len() - few);
        let few: Vec<_> = few
            .iter()
            .map(|(p, q)| (G1::from(p), G2::from(q)))
            .collect();
        let shared = pairs.chunks(SHARED).map(|pairs| {
            // SAFETY: `self` proves that the CPU has the features that `product` is compiled for.
            unsafe { product(pairs) }
        });
        shared.fold(Miller::of_points(&few), |all, some| all.times(&some))
    }
}

/// Item of a lane: the last one is repeated.
fn lane_of<T: Clone>(items: &[T], lane: usize) -> T {
    items[lane.min(items.len() - 1)].clone()
}

/// A compressed encoding read as integers: the components of `x`, `c0` first, and whether `y` is the larger root.
#[derive(Clone, Copy)]
struct Compressed<const D: usize> {
    x: [[u64; 6]; D],
    larger: bool,
}

impl<const D: usize> Compressed<D> {
    /// `None` unless flagged as compressed and not as the identity, and canonical.
    fn read(bytes: &[u8]) -> Option<Self> {
        const COMPONENT_BYTES: usize = 48;
        let flags = bytes.first()? & 0xe0;
        if flags & 0xc0 != 0x80 {
            return None;
        }
        let mut x = [[0; 6]; D];
        // The highest component comes first, its words too.
        for (component, bytes) in x.iter_mut().rev().zip(bytes.chunks_exact(COMPONENT_BYTES)) {
            let words = bytes.as_chunks::<8>().0;
            for (to, word) in component.iter_mut().rev().zip(words) {
                *to = u64::from_be_bytes(*word);
            }
        }
        x[D - 1][5] &= u64::MAX >> 3;
        let canonical = x.iter().all(|x| ark_ff::BigInt(*x) < Fq::MODULUS);
        canonical.then_some(Self {
            x,
            larger: flags & 0x20 != 0,
        })
    }
}

#[target_feature(enable = "avx512f,avx512ifma")]
fn decode(proofs: &[&[u8; GROTH16_PROOF_BYTES]]) -> Vec<Option<Proof<Bls12_381>>> {
    let part = |from: usize, to: usize| proofs.iter().map(move |proof| &proof[from..to]);
    let a: Vec<_> = part(0, 48).map(Compressed::<1>::read).collect();
    let b: Vec<_> = part(48, 144).map(Compressed::<2>::read).collect();
    let c: Vec<_> = part(144, 192).map(Compressed::<1>::read).collect();
    let [a, c] = decode_g1([&a, &c]);
    let b = decode_g2(&b);
    let decoded = std::iter::zip(a, b).zip(c).take(proofs.len());
    decoded
        .map(|((a, b), c)| {
            Some(Proof {
                a: a?,
                b: b?,
                c: c?,
            })
        })
        .collect()
}

/// `x` of each lane. Lanes without one get zero; what comes of them is not used.
fn abscissas<const D: usize>(read: &[Option<Compressed<D>>]) -> [[[u64; 6]; D]; LANES] {
    std::array::from_fn(|lane| {
        read.get(lane)
            .and_then(|read| *read)
            .map_or([[0; 6]; D], |r| r.x)
    })
}

#[target_feature(enable = "avx512f,avx512ifma")]
fn decode_g1(read: [&[Option<Compressed<1>>]; 2]) -> [[Option<G1Affine>; LANES]; 2] {
    let mut x = [Fe::zero(); 2];
    for (x, read) in x.iter_mut().zip(read) {
        *x = Fe::enter_integers(&abscissas(read));
    }
    let roots = y_in_g1(&x);
    let mut out = [[None; LANES]; 2];
    for group in 0..2 {
        let (x, (y, on_curve)) = (&x[group], &roots[group]);
        let good = on_curve & in_g1(x, y);
        let (x, y): ([Fq; LANES], [Fq; LANES]) = (x.leave(), y.leave());
        for lane in 0..LANES {
            let Some(Some(read)) = read[group].get(lane) else {
                continue;
            };
            let y = if larger(&y[lane]) == read.larger {
                y[lane]
            } else {
                -y[lane]
            };
            if good >> lane & 1 == 1 {
                out[group][lane] = Some(G1Affine::new_unchecked(x[lane], y));
            }
        }
    }
    out
}

#[target_feature(enable = "avx512f,avx512ifma")]
fn decode_g2(read: &[Option<Compressed<2>>]) -> [Option<G2Affine>; LANES] {
    let x = Fe::enter_integers(&abscissas(read));
    let (y, on_curve) = y_in_g2(&x);
    let good = on_curve & in_g2(&x, &y);
    let (x, y): ([Fq2; LANES], [Fq2; LANES]) = (x.leave(), y.leave());
    std::array::from_fn(|lane| {
        let read = read.get(lane).and_then(|read| *read)?;
        let y = y[lane];
        // By c1, and by c0 where that is zero.
        let deciding = if y.c1 == Fq::ZERO { &y.c0 } else { &y.c1 };
        let y = if larger(deciding) == read.larger {
            y
        } else {
            -y
        };
        (good >> lane & 1 == 1).then(|| G2Affine::new_unchecked(x[lane], y))
    })
}

/// Whether an element is above its negative.
fn larger(value: &Fq) -> bool {
    value.into_bigint() > Fq::MODULUS_MINUS_ONE_DIV_TWO
}

#[target_feature(enable = "avx512f,avx512ifma")]
fn weighted(items: &[(G1Affine, [u64; 2])]) -> Option<Vec<G1Affine>> {
    let mut sums = Vec::with_capacity(items.len().div_ceil(LANES));
    // Products of all z before.
    let mut before = Vec::with_capacity(sums.capacity());
    let mut product = Fe::one();
    for group in items.chunks(LANES) {
        let lanes: [_; LANES] = std::array::from_fn(|lane| lane_of(group, lane));
        let (x, y) = (
            lanes.map(|(point, _)| point.x),
            lanes.map(|(point, _)| point.y),
        );
        let sum = curve::weighted(
            &Fe::enter(&x),
            &Fe::enter(&y),
            &lanes.map(|(_, weight)| weight),
        );
        before.push(product);
        product = product.times(&sum.z);
        sums.push(sum);
    }
    let mut inverse = product.inverted::<Fq>()?;
    let mut out = vec![G1Affine::identity(); items.len()];
    let groups = out.chunks_mut(LANES).zip(sums.iter().zip(&before));
    for (group, (sum, before)) in groups.rev() {
        let over_z = inverse.times(before);
        inverse = inverse.times(&sum.z);
        let over_zz = over_z.squared();
        let x: [Fq; LANES] = sum.x.times(&over_zz).leave();
        let y: [Fq; LANES] = sum.y.times(&over_zz.times(&over_z)).leave();
        for (lane, point) in group.iter_mut().enumerate() {
            *point = G1Affine::new_unchecked(x[lane], y[lane]);
        }
    }
    Some(out)
}

/// At least one pair, at most [`SHARED`].
#[target_feature(enable = "avx512f,avx512ifma")]
fn product(pairs: &[(G1Affine, G2Affine)]) -> Miller {
    let mut groups = Vec::with_capacity(pairs.len().div_ceil(LANES));
    for group in pairs.chunks(LANES) {
        let lanes: [_; LANES] = std::array::from_fn(|lane| lane_of(group, lane));
        let p = (
            Fe::enter(&lanes.map(|(p, _)| p.x)),
            Fe::enter(&lanes.map(|(p, _)| p.y)),
        );
        let q = (
            Fe::enter(&lanes.map(|(_, q)| q.x)),
            Fe::enter(&lanes.map(|(_, q)| q.y)),
        );
        groups.push(Pairs::new(p, q, 0xff >> (LANES - group.len())));
    }
    let product = miller::miller(&mut groups);
    let mut coefficients = [[Fq2::ZERO; LANES]; 6];
    for (to, from) in coefficients.iter_mut().zip(&product) {
        *to = from.leave();
    }
    (0..LANES).fold(Miller::one(), |all, lane| {
        let one = Miller::of_coefficients(&coefficients.map(|lanes| lanes[lane]));
        all.times(&one)
    })
}

#[cfg(test)]
mod tests {
    use super::super::groth16::{ProofBytesError, decode_all, decode_one, encode};
    use super::super::pairing::Lines;
    use super::*;
    use ark_bls12_381::{Fr, g1, g2};
    use ark_ec::short_weierstrass::{Affine, Projective, SWCurveConfig};
    use ark_ec::{AffineRepr, CurveGroup};
    use ark_ff::{BigInteger, FftField, Field, UniformRand, Zero};
    use ark_serialize::CanonicalSerialize;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    type Bytes = [u8; GROTH16_PROOF_BYTES];

    /// Lane counts around the groups' edges.
    const COUNTS: [usize; 13] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 17, 64];

    fn random_proof(rng: &mut ChaCha8Rng) -> Proof<Bls12_381> {
        let scalar = |rng: &mut ChaCha8Rng| Fr::rand(rng);
        Proof {
            a: (G1Affine::generator() * scalar(rng)).into_affine(),
            b: (G2Affine::generator() * scalar(rng)).into_affine(),
            c: (G1Affine::generator() * scalar(rng)).into_affine(),
        }
    }

    fn random_bytes(count: usize, seed: u64) -> Vec<Bytes> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        (0..count)
            .map(|_| encode(&random_proof(&mut rng)))
            .collect()
    }

    /// By doubling and adding: right outside the group too.
    fn times<C: SWCurveConfig>(point: Affine<C>, by: &[u64]) -> Projective<C> {
        let bits = ark_ff::BitIteratorBE::without_leading_zeros(by);
        bits.fold(Projective::zero(), |sum, bit| {
            sum + sum
                + if bit {
                    point.into()
                } else {
                    Projective::<C>::zero()
                }
        })
    }

    /// Points of the curve outside the group: any; of the cofactor's order and of exactly these small orders, primes of
    /// the cofactor; and those moved by a point of the group.
    fn outside<C: SWCurveConfig<ScalarField = Fr>>(
        x: impl Fn(u64) -> C::BaseField,
        primes: &[u64],
    ) -> Vec<Affine<C>> {
        let mut out = Vec::new();
        let some = (1..).filter_map(|i| Affine::<C>::get_point_from_x_unchecked(x(i), i % 2 == 0));
        let some: Vec<Affine<C>> = some.take(6).collect();
        let torsion = |point: &Affine<C>| times(*point, Fr::MODULUS.as_ref()).into_affine();
        for prime in primes {
            let rest = without(C::COFACTOR, *prime);
            let found = some.iter().map(|point| times(torsion(point), &rest));
            let mut found = found.filter(|point| !point.is_zero());
            let mut point = found
                .next()
                .expect("some point has such a part")
                .into_affine();
            loop {
                let next = times(point, &[*prime]).into_affine();
                if next.is_zero() {
                    break;
                }
                point = next;
            }
            out.push(point);
        }
        out.extend(some.iter().map(torsion));
        out.extend(some.clone());
        let moved = out
            .iter()
            .map(|point| (*point + Affine::<C>::generator()).into_affine());
        out.iter().copied().chain(moved).collect()
    }

    /// A number without a prime factor.
    fn without(number: &[u64], prime: u64) -> Vec<u64> {
        let mut out = number.to_vec();
        while let (quotient, 0) = divided(&out, prime) {
            out = quotient;
        }
        out
    }

    /// Quotient and rest.
    fn divided(number: &[u64], by: u64) -> (Vec<u64>, u128) {
        let mut quotient = number.to_vec();
        let mut rest = 0u128;
        for word in quotient.iter_mut().rev() {
            rest = rest << 64 | u128::from(*word);
            *word = u64::try_from(rest / u128::from(by)).expect("below the divisor");
            rest %= u128::from(by);
        }
        (quotient, rest)
    }

    /// `q = 10` modulo 27, so that a power is a cube root up to a ninth root of one.
    fn sixth_root(value: Fq) -> Option<Fq> {
        let root = value.sqrt()?;
        let mut power = Fq::MODULUS;
        power.mul2();
        power.add_with_carry(&7u64.into());
        let near = root.pow(divided(power.as_ref(), 27).0);
        let ninth = Fq::GENERATOR.pow(divided(Fq::MODULUS.as_ref(), 9).0);
        let mut candidates = (0..9u64).map(|k| near * ninth.pow([k]));
        candidates.find(|candidate| candidate.pow([3]) == root)
    }

    /// `(u²x, u³y)` lies on `y² = x³ + 4u⁶`, where the test of the group is as good as on the curve itself. `u` is chosen
    /// so that `u³y` is what comes out in the root's place where `(u²x)³ + 4` has none.
    #[test]
    fn tm_p12_points_of_another_curve_are_refused() {
        let good = random_bytes(9, 5);
        let proofs: Vec<&Bytes> = good.iter().collect();
        let multiples = (1..).map(|k| (G1Affine::generator() * Fr::from(k)).into_affine());
        let elsewhere = multiples.filter_map(|point: G1Affine| {
            let four = Fq::from(4u64);
            let u = sixth_root(-four / (four + point.x.pow([3]) * Fq::from(2u64)))?;
            Some(u.square() * point.x)
        });
        for (i, x) in elsewhere.take(4).enumerate() {
            assert_eq!(G1Affine::get_ys_from_x_unchecked(x), None);
            let mut bad = x.into_bigint().to_bytes_be();
            bad[0] |= 0x80;
            for from in [0, 144] {
                let mut proof = good[2 * i];
                proof[from..from + 48].copy_from_slice(&bad);
                let mut proofs = proofs.clone();
                proofs[2 * i] = &proof;
                let name = if from == 0 { "A" } else { "C" };
                let decoded = decode_all(&proofs);
                assert_eq!(decoded[2 * i], Err(ProofBytesError::Point(name)));
                assert_eq!(decoded.iter().filter(|proof| proof.is_err()).count(), 1);
            }
        }
    }

    /// Good points with a component's second encoding, its residue plus `q`.
    fn doubly_encoded(g2: bool) -> Vec<Vec<u8>> {
        let multiples = (1..60u64).map(|k| match g2 {
            true => compressed(&(G2Affine::generator() * Fr::from(k)).into_affine()),
            false => compressed(&(G1Affine::generator() * Fr::from(k)).into_affine()),
        });
        let second = multiples.flat_map(|bytes| {
            (0..bytes.len()).step_by(48).filter_map(move |at| {
                let mut other = bytes.clone();
                let flags = if at == 0 { other[0] & 0xe0 } else { 0 };
                other[at] ^= flags;
                let mut carry = 0;
                let component = other[at..at + 48].iter_mut().rev();
                for (byte, order) in component.zip(Fq::MODULUS.to_bytes_le()) {
                    carry += u16::from(*byte) + u16::from(order);
                    *byte = carry.to_le_bytes()[0];
                    carry >>= 8;
                }
                // Above the place of the flags there is none.
                (at > 0 || other[0] & 0xe0 == 0).then(|| {
                    other[at] |= flags;
                    other
                })
            })
        });
        second.collect()
    }

    fn compressed(point: &impl CanonicalSerialize) -> Vec<u8> {
        let mut bytes = Vec::new();
        point.serialize_compressed(&mut bytes).expect("memory");
        bytes
    }

    /// What may stand in a proof's places instead of a good point, G1 or G2.
    fn bad_points(g2: bool, good: &[u8]) -> Vec<Vec<u8>> {
        let mut rng = ChaCha8Rng::seed_from_u64(12);
        let length = good.len();
        let mut out = match g2 {
            // 13²·23²·2713·11953·262069 and a large prime.
            true => outside::<g2::Config>(
                |i| Fq2::new(Fq::from(i), Fq::from(i / 3)),
                &[13, 23, 2713, 11_953, 262_069],
            )
            .iter()
            .map(compressed)
            .collect::<Vec<_>>(),
            // 3·11²·10177²·859267²·52437899².
            false => outside::<g1::Config>(Fq::from, &[3, 11, 10_177, 859_267, 52_437_899])
                .iter()
                .map(compressed)
                .collect(),
        };
        let second = doubly_encoded(g2);
        assert!(second.len() > 5);
        out.extend(second);
        for flags in 0..8u8 {
            let mut flagged = good.to_vec();
            flagged[0] = flagged[0] & 0x1f | flags << 5;
            out.push(flagged);
            for last in [0, 1, 4] {
                let mut small = vec![0; length];
                (small[0], small[length - 1]) = (flags << 5, last);
                out.push(small);
            }
            for at in (0..length).step_by(48) {
                let mut order = good.to_vec();
                order[at..at + 48].copy_from_slice(&Fq::MODULUS.to_bytes_be());
                order[0] = order[0] & 0x1f | flags << 5;
                out.push(order.clone());
                order[at + 47] += 1;
                out.push(order);
            }
        }
        for _ in 0..60 {
            let mut flipped = good.to_vec();
            let bit = rng.gen_range(0..8 * length);
            flipped[bit / 8] ^= 1 << (bit % 8);
            out.push(flipped);
        }
        out.push(vec![0xff; length]);
        out
    }

    #[test]
    fn tm_p12_lanes_decode_what_the_twin_decodes() {
        let good = random_bytes(64, 1);
        let mut refused = 0;
        for (from, to) in [(0, 48), (48, 144), (144, 192)] {
            for (i, point) in bad_points(to - from == 96, &good[0][from..to])
                .into_iter()
                .enumerate()
            {
                // At each place of groups of each size.
                let count = COUNTS[3 + i % 10];
                let at = i % count.min(9);
                let mut proofs = good[..count].to_vec();
                proofs[at][from..to].copy_from_slice(&point);
                let proofs: Vec<&Bytes> = proofs.iter().collect();
                let twin: Vec<_> = proofs.iter().map(|bytes| decode_one(bytes)).collect();
                assert_eq!(decode_all(&proofs), twin, "{from} {}", hex::encode(&point));
                refused += usize::from(twin[at].is_err());
                if let Some(ifma) = Ifma::detect() {
                    let found: Vec<_> = twin.into_iter().map(Result::ok).collect();
                    assert_eq!(
                        ifma.decode(&proofs),
                        found,
                        "{from} {}",
                        hex::encode(&point)
                    );
                }
            }
        }
        assert!(refused > 400, "{refused}");
    }

    #[test]
    fn lanes_decode_good_proofs_by_themselves() {
        let Some(ifma) = Ifma::detect() else { return };
        let good = random_bytes(64, 2);
        for count in COUNTS {
            let proofs: Vec<&Bytes> = good[..count].iter().collect();
            let twin: Vec<_> = proofs.iter().map(|bytes| decode_one(bytes).ok()).collect();
            assert!(twin.iter().all(Option::is_some));
            assert_eq!(ifma.decode(&proofs), twin, "{count}");
        }
    }

    /// Roots of the curve of G2 whose square lies in Fq, where the formula divides by nothing or takes the other branch.
    #[test]
    fn roots_are_squares_roots() {
        let Some(ifma) = Ifma::detect() else { return };
        for i in 0..40u64 {
            let x: [Fq2; LANES] = std::array::from_fn(|lane| {
                let k = Fq::from(8 * i + lane as u64);
                Fq2::new(k, -k)
            });
            // SAFETY: `ifma` proves that the CPU has the features.
            let (y, found) = unsafe { roots(ifma, &x) };
            for lane in 0..LANES {
                let point = G2Affine::get_point_from_x_unchecked(x[lane], false);
                if found >> lane & 1 == 1 {
                    let y = [y[lane], -y[lane]];
                    assert!(point.is_some_and(|point| y.contains(&point.y)));
                } else if let Some(point) = point {
                    assert!(point.y.c0.is_zero() || point.y.c1.is_zero());
                }
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512ifma")]
    fn roots(_: Ifma, x: &[Fq2; LANES]) -> ([Fq2; LANES], u8) {
        let (y, found) = y_in_g2(&Fe::enter(x));
        (y.leave(), found)
    }

    #[test]
    fn tm_v7_products_with_weights_are_arkworks_products() {
        let Some(ifma) = Ifma::detect() else { return };
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let lambda = Fr::from(0xd201_0000_0001_0000u64).square() - Fr::from(1u64);
        let edge = [0, 1, 2, 3, 4, 5, 1 << 63, u64::MAX];
        for count in COUNTS {
            let mut items: Vec<(G1Affine, [u64; 2])> = (0..count)
                .map(|_| (G1Affine::rand(&mut rng), rng.r#gen()))
                .collect();
            for round in 0..8 {
                for (i, (_, weight)) in items.iter_mut().enumerate().skip(round % 3) {
                    *weight = [edge[(i + round) % 8], edge[(i / 8 + 3 * round + 1) % 8]];
                    if *weight == [0, 0] {
                        *weight = [0, 7];
                    }
                }
                let product = |(point, [a, b]): &(G1Affine, [u64; 2])| {
                    (*point * (Fr::from(*a) + Fr::from(*b) * lambda)).into_affine()
                };
                let expected: Vec<_> = items.iter().map(product).collect();
                assert_eq!(ifma.weighted(&items), Some(expected), "{count}");
            }
            if let Some((_, weight)) = items.last_mut() {
                *weight = [0, 0];
                assert_eq!(ifma.weighted(&items), None, "the identity");
            }
        }
    }

    #[test]
    fn tm_v7_miller_loops_are_the_twins() {
        let Some(ifma) = Ifma::detect() else { return };
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        let pairs: Vec<(G1Affine, G2Affine)> = (0..81)
            .map(|_| random_proof(&mut rng))
            .map(|proof| (proof.a, proof.b))
            .collect();
        for count in COUNTS.into_iter().chain([65, 72, 81]) {
            let twin: Vec<_> = pairs[..count]
                .iter()
                .map(|(p, q)| (G1::from(p), G2::from(q)))
                .collect();
            let product = ifma.miller(&pairs[..count]);
            assert_eq!(
                product.finish(),
                Miller::of_points(&twin).finish(),
                "{count}"
            );
            // A relation that holds, and one that does not.
            let k = Fr::rand(&mut rng);
            let Some((p, q)) = pairs.get(count) else {
                continue;
            };
            let mut with = pairs[..count].to_vec();
            with.push(((*p * k).into_affine(), *q));
            let opposite = Lines::new(&(*q * k).into_affine());
            let closed = ifma
                .miller(&with)
                .times(&Miller::of_lines(&[(-G1::from(p), &opposite)]));
            assert_eq!(closed.finish(), product.finish(), "{count}");
            let open = ifma
                .miller(&with)
                .times(&Miller::of_lines(&[(G1::from(p), &opposite)]));
            assert_ne!(open.finish(), product.finish(), "{count}");
        }
    }
}
