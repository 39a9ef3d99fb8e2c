//! Points, sums and pairings of BLS12-381 in blst's assembly: the arithmetic under verification.
//!
//! Walk: [`super::groth16`] decodes proofs and keys with it and checks one proof, [`super::input_sum`] and
//! [`super::batch`] sum points with it. Everywhere else the curve is arkworks', which is also the plain twin of
//! everything here (tests below); the two hold coordinates as the same Montgomery limbs and the identity as (0, 0), so
//! that going from one to the other is a copy.
//! Spec: proofs.md §4.5 (encodings), threat P12: the subgroup checks are blst's, which prove `φ(P) = −z²P` and
//! `ψ(P) = zP`; arkworks' verdicts are compared with them on every kind of bad encoding.
//! Cost on a busy core of a Zen 5: decoding a point of G1 60 µs, of G2 80 µs; preparing a point's lines 70 µs; a Miller
//! loop over lines 180 µs for one pair and 100 µs for each further; the final exponentiation 340 µs. Memory: 20 KiB for
//! the lines of a prepared point.
//!
//! All foreign calls of the verifier are in this file. They read and write values whose addresses the caller has, keep
//! no pointer, allocate nothing, and use at most some 150 KiB of stack.
#![allow(unsafe_code)]

use std::ops::Neg;

use ark_bls12_381::{Fq, Fq2, Fr, G1Affine, G2Affine};
use ark_ff::{BigInt, PrimeField};
use blst::{
    BLST_ERROR, blst_fp, blst_fp2, blst_fp6, blst_fp12, blst_p1, blst_p1_affine, blst_p2_affine,
};

/// Lines of a Miller loop: 63 doublings and 5 additions.
const LINES: usize = 68;
/// Doublings after each addition, as the ones of |z| = 0xd201000000010000 lie. One doubling comes before the first.
pub const DOUBLINGS: [usize; 5] = [2, 3, 9, 32, 16];
/// Bits of a window of [`multiples`].
const WINDOW_BITS: usize = 8;
/// Points per base in [`multiples`].
pub const MULTIPLES: usize = 1 << (WINDOW_BITS - 1);

/// A point of G1 as blst holds it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct G1(blst_p1_affine);

/// A sum of points of G1, in projective coordinates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct G1Sum(blst_p1);

/// A point of G2 as blst holds it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct G2(blst_p2_affine);

impl From<&G1Affine> for G1 {
    fn from(point: &G1Affine) -> Self {
        Self(blst_p1_affine {
            x: fp(&point.x),
            y: fp(&point.y),
        })
    }
}

impl From<G1> for G1Affine {
    fn from(point: G1) -> Self {
        G1Affine::new_unchecked(fq(&point.0.x), fq(&point.0.y))
    }
}

impl From<&G2Affine> for G2 {
    fn from(point: &G2Affine) -> Self {
        Self(blst_p2_affine {
            x: fp2(&point.x),
            y: fp2(&point.y),
        })
    }
}

impl From<G2> for G2Affine {
    fn from(point: G2) -> Self {
        let pair = |value: &blst_fp2| Fq2::new(fq(&value.fp[0]), fq(&value.fp[1]));
        G2Affine::new_unchecked(pair(&point.0.x), pair(&point.0.y))
    }
}

fn fp(value: &Fq) -> blst_fp {
    blst_fp { l: value.0.0 }
}

fn fp2(value: &Fq2) -> blst_fp2 {
    blst_fp2 {
        fp: [fp(&value.c0), fp(&value.c1)],
    }
}

fn fq(value: &blst_fp) -> Fq {
    Fq::new_unchecked(BigInt(value.l))
}

/// A scalar's 32 little-endian bytes, which is how sums take it.
pub fn scalar_bytes(scalar: &Fr) -> [u8; 32] {
    let mut out = [0; 32];
    for (bytes, limb) in out
        .as_chunks_mut::<8>()
        .0
        .iter_mut()
        .zip(scalar.into_bigint().0)
    {
        *bytes = limb.to_le_bytes();
    }
    out
}

/// A compressed point of G1: canonical, in the group, not the identity.
pub fn decode_g1(bytes: &[u8; 48]) -> Option<G1Affine> {
    let mut point = blst_p1_affine::default();
    // SAFETY: blst reads 48 bytes and writes one point, which the two references cover.
    let read = unsafe { blst::blst_p1_uncompress(&mut point, bytes.as_ptr()) };
    in_g1(read, point)
}

/// An uncompressed point of G1 by the same rule.
pub fn decode_g1_uncompressed(bytes: &[u8; 96]) -> Option<G1Affine> {
    if flagged(bytes[0]) {
        return None;
    }
    let mut point = blst_p1_affine::default();
    // SAFETY: blst reads 96 bytes and writes one point, which the two references cover.
    let read = unsafe { blst::blst_p1_deserialize(&mut point, bytes.as_ptr()) };
    in_g1(read, point)
}

/// A compressed point of G2: canonical, in the group, not the identity.
pub fn decode_g2(bytes: &[u8; 96]) -> Option<G2Affine> {
    let mut point = blst_p2_affine::default();
    // SAFETY: blst reads 96 bytes and writes one point, which the two references cover.
    let read = unsafe { blst::blst_p2_uncompress(&mut point, bytes.as_ptr()) };
    in_g2(read, point)
}

/// An uncompressed point of G2 by the same rule.
pub fn decode_g2_uncompressed(bytes: &[u8; 192]) -> Option<G2Affine> {
    if flagged(bytes[0]) {
        return None;
    }
    let mut point = blst_p2_affine::default();
    // SAFETY: blst reads 192 bytes and writes one point, which the two references cover.
    let read = unsafe { blst::blst_p2_deserialize(&mut point, bytes.as_ptr()) };
    in_g2(read, point)
}

/// Any of the three flag bits (compressed, identity, sign): blst's reader of uncompressed points would take the
/// compressed form as well.
fn flagged(first: u8) -> bool {
    first & 0xe0 != 0
}

fn in_g1(read: BLST_ERROR, point: blst_p1_affine) -> Option<G1Affine> {
    // SAFETY: each reads one point.
    let good = read == BLST_ERROR::BLST_SUCCESS
        && unsafe { !blst::blst_p1_affine_is_inf(&point) && blst::blst_p1_affine_in_g1(&point) };
    good.then(|| G1(point).into())
}

fn in_g2(read: BLST_ERROR, point: blst_p2_affine) -> Option<G2Affine> {
    // SAFETY: each reads one point.
    let good = read == BLST_ERROR::BLST_SUCCESS
        && unsafe { !blst::blst_p2_affine_is_inf(&point) && blst::blst_p2_affine_in_g2(&point) };
    good.then(|| G2(point).into())
}

impl G1 {
    /// Whether this is the identity.
    pub fn is_identity(&self) -> bool {
        *self == Self::default()
    }

    /// `λ·self` for the cube root of unity `λ = z² − 1` modulo the group's order, at the cost of one multiplication.
    pub fn endomorphism(&self) -> G1 {
        let mut out = *self;
        // SAFETY: multiplies one field element in place, as blst allows.
        unsafe { blst::blst_fp_mul(&mut out.0.x, &out.0.x, &fp(&BETA)) };
        out
    }

    /// `scalar·self`.
    pub fn times(&self, scalar: &Fr) -> G1Sum {
        let mut out = blst_p1::default();
        let bytes = scalar_bytes(scalar);
        // SAFETY: reads one point and 32 bytes of scalar, writes one point.
        unsafe {
            blst::blst_p1_from_affine(&mut out, &self.0);
            blst::blst_p1_mult(&mut out, &out, bytes.as_ptr(), 255);
        }
        G1Sum(out)
    }
}

impl Neg for G1 {
    type Output = G1;
    fn neg(mut self) -> G1 {
        // SAFETY: negates one field element in place; zero stays zero.
        unsafe { blst::blst_fp_cneg(&mut self.0.y, &self.0.y, true) };
        self
    }
}

/// The cube root of unity in the base field with `(βx, y) = λ·(x, y)` for `λ = z² − 1`.
pub const BETA: Fq = ark_ff::MontFp!(
    "4002409555221667392624310435006688643935503118305586438271171395842971157480381377015405980053539358417135540939436"
);

impl G1Sum {
    /// Adds another sum.
    pub fn add(&mut self, other: &G1Sum) {
        // SAFETY: reads two points, writes one, in place as blst allows.
        unsafe { blst::blst_p1_add_or_double(&mut self.0, &self.0, &other.0) };
    }

    /// Doubles so many times.
    pub fn double(&mut self, times: usize) {
        for _ in 0..times {
            // SAFETY: one point in place, as blst allows.
            unsafe { blst::blst_p1_double(&mut self.0, &self.0) };
        }
    }

    /// The point, at the cost of an inversion.
    pub fn point(&self) -> G1 {
        let mut out = G1::default();
        // SAFETY: reads one point, writes one; the identity gives (0, 0).
        unsafe { blst::blst_p1_to_affine(&mut out.0, &self.0) };
        out
    }
}

/// Many sums as points, with one inversion.
pub fn points(sums: &[G1Sum]) -> Vec<G1> {
    let mut out = vec![G1::default(); sums.len()];
    if sums.is_empty() {
        return out;
    }
    let sums: Vec<*const blst_p1> = sums.iter().map(|sum| &raw const sum.0).collect();
    // SAFETY: reads `sums.len()` points through as many pointers, all live, and writes as many points; `G1` is
    // transparent over the point.
    unsafe { blst::blst_p1s_to_affine(out.as_mut_ptr().cast(), sums.as_ptr(), sums.len()) };
    out
}

/// The sum of points, any of them equal, opposite or the identity.
pub fn sum(points: &[G1]) -> G1Sum {
    let mut out = blst_p1::default();
    if points.is_empty() {
        return G1Sum(out);
    }
    let list = [points.as_ptr().cast(), std::ptr::null()];
    // SAFETY: a null in the list says that the points follow one another from the pointer before it; there are
    // `points.len()` of them, transparent over blst's.
    unsafe { blst::blst_p1s_add(&mut out, list.as_ptr(), points.len()) };
    G1Sum(out)
}

/// `Σ scalar·point` over scalars of `bits` bits, each in the `⌈bits/8⌉` little-endian bytes that follow the one before.
/// No point is the identity.
///
/// # Panics
/// When the bytes are not that many.
pub fn weighted_sum(points: &[G1], scalars: &[u8], bits: usize) -> G1Sum {
    assert_eq!(
        scalars.len(),
        points.len() * bits.div_ceil(8),
        "a scalar a point"
    );
    let mut out = blst_p1::default();
    if points.is_empty() || bits == 0 {
        return G1Sum(out);
    }
    // SAFETY: takes a number.
    let scratch = unsafe { blst::blst_p1s_mult_pippenger_scratch_sizeof(points.len()) };
    let mut scratch = vec![0u64; scratch.div_ceil(8)];
    let point_list = [points.as_ptr().cast(), std::ptr::null()];
    let scalar_list = [scalars.as_ptr(), std::ptr::null()];
    // SAFETY: both lists say by their null that the values follow one another: `points.len()` points, transparent over
    // blst's, and as many scalars of `⌈bits/8⌉` bytes, which was checked. The scratch has the size asked for and is
    // aligned for 64-bit limbs.
    unsafe {
        blst::blst_p1s_mult_pippenger(
            &mut out,
            point_list.as_ptr(),
            points.len(),
            scalar_list.as_ptr(),
            bits,
            scratch.as_mut_ptr(),
        );
    }
    G1Sum(out)
}

/// For each base its multiples by 1 to [`MULTIPLES`], one base after the other. No base is the identity.
pub fn multiples(bases: &[G1]) -> Vec<G1> {
    let mut out = vec![G1::default(); bases.len() * MULTIPLES];
    if bases.is_empty() {
        return out;
    }
    let list = [bases.as_ptr().cast(), std::ptr::null()];
    // SAFETY: a null in the list says that the bases follow one another; blst writes 2^(WINDOW_BITS − 1) points for
    // each of them, which is the length of `out`; `G1` is transparent over the point.
    unsafe {
        blst::blst_p1s_mult_wbits_precompute(
            out.as_mut_ptr().cast(),
            WINDOW_BITS,
            list.as_ptr(),
            bases.len(),
        );
    }
    out
}

/// A point of G2 as the lines that a Miller loop draws through its multiples.
#[derive(Clone, Debug)]
pub struct Lines(Box<[blst_fp6; LINES]>);

impl Lines {
    /// Draws them; `point` is not the identity.
    pub fn new(point: &G2Affine) -> Self {
        let mut lines = Box::new([blst_fp6::default(); LINES]);
        // SAFETY: reads one point and writes the 68 lines of this curve's loop.
        unsafe { blst::blst_precompute_lines(lines.as_mut_ptr(), &G2::from(point).0) };
        Self(lines)
    }
}

/// A product of pairings before its final exponentiation.
#[derive(Clone, Copy, Debug)]
pub struct Miller(blst_fp12);

/// A product of pairings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gt(blst_fp12);

impl Miller {
    /// The empty product.
    pub fn one() -> Self {
        // SAFETY: blst gives the address of a constant of its own.
        Self(unsafe { *blst::blst_fp12_one() })
    }

    /// `Π e(P, Q)` over prepared points, which share the loop's squarings. A pair with the identity counts one.
    pub fn of_lines(pairs: &[(G1, &Lines)]) -> Self {
        let pairs: Vec<_> = pairs
            .iter()
            .filter(|(point, _)| !point.is_identity())
            .map(|(point, lines)| (doubled(point), &lines.0))
            .collect();
        let Some(((first, lines), others)) = pairs.split_first() else {
            return Self::one();
        };
        // The square of one times the first line is that line.
        let line = at(&lines[0], first);
        let mut product = blst_fp12::default();
        product.fp6[0].fp2[..2].copy_from_slice(&line.fp2[..2]);
        product.fp6[1].fp2[1] = line.fp2[2];
        for (point, lines) in others {
            multiply(&mut product, &at(&lines[0], point));
        }
        let mut step = 1;
        let mut take_lines = |product: &mut blst_fp12| {
            for (point, lines) in &pairs {
                multiply(product, &at(&lines[step], point));
            }
            step += 1;
        };
        for doublings in DOUBLINGS {
            take_lines(&mut product);
            for _ in 0..doublings {
                // SAFETY: squares one element in place, as blst allows.
                unsafe { blst::blst_fp12_sqr(&mut product, &product) };
                take_lines(&mut product);
            }
        }
        // z is negative.
        // SAFETY: one element in place.
        unsafe { blst::blst_fp12_conjugate(&mut product) };
        Self(product)
    }

    /// `Π e(P, Q)` over points that are used once; none is the identity.
    pub fn of_points(pairs: &[(G1, G2)]) -> Self {
        if pairs.is_empty() {
            return Self::one();
        }
        let left: Vec<*const blst_p1_affine> =
            pairs.iter().map(|pair| &raw const pair.0.0).collect();
        let right: Vec<*const blst_p2_affine> =
            pairs.iter().map(|pair| &raw const pair.1.0).collect();
        let mut product = blst_fp12::default();
        // SAFETY: reads `pairs.len()` points through each list of as many live pointers, writes one element.
        unsafe {
            blst::blst_miller_loop_n(&mut product, right.as_ptr(), left.as_ptr(), pairs.len());
        }
        Self(product)
    }

    /// From the coefficients of `Σ_{i<3} c[i]·v^i + w·Σ_{i<3} c[3 + i]·v^i` that a loop over `|z|` ends with; `z` is negative.
    #[cfg(target_arch = "x86_64")]
    pub fn of_coefficients(coefficients: &[Fq2; 6]) -> Self {
        let mut product = blst_fp12::default();
        for (i, value) in coefficients.iter().enumerate() {
            product.fp6[i / 3].fp2[i % 3] = fp2(value);
        }
        // SAFETY: one element in place.
        unsafe { blst::blst_fp12_conjugate(&mut product) };
        Self(product)
    }

    /// The product of both.
    pub fn times(mut self, other: &Miller) -> Self {
        // SAFETY: multiplies in place, as blst allows.
        unsafe { blst::blst_fp12_mul(&mut self.0, &self.0, &other.0) };
        self
    }

    /// The final exponentiation.
    pub fn finish(&self) -> Gt {
        let mut out = blst_fp12::default();
        // SAFETY: reads one element, writes one.
        unsafe { blst::blst_final_exp(&mut out, &self.0) };
        Gt(out)
    }
}

impl Gt {
    /// Whether the product is one.
    pub fn is_one(&self) -> bool {
        // SAFETY: reads one element.
        unsafe { blst::blst_fp12_is_one(&self.0) }
    }
}

/// `(−2x, 2y)`: a line is evaluated at that, so that its doubling formula needs no halves (blst, pairing.c).
fn doubled(point: &G1) -> blst_p1_affine {
    let mut out = blst_p1_affine::default();
    // SAFETY: additions and a negation of live field elements, in place where blst allows it.
    unsafe {
        blst::blst_fp_add(&mut out.x, &point.0.x, &point.0.x);
        blst::blst_fp_cneg(&mut out.x, &out.x, true);
        blst::blst_fp_add(&mut out.y, &point.0.y, &point.0.y);
    }
    out
}

/// A line evaluated at a [`doubled`] point.
fn at(line: &blst_fp6, point: &blst_p1_affine) -> blst_fp6 {
    let mut out = *line;
    for (coefficient, by) in [(1, &point.x), (2, &point.y)] {
        for half in &mut out.fp2[coefficient].fp {
            // SAFETY: multiplies one field element in place, as blst allows.
            unsafe { blst::blst_fp_mul(half, half, by) };
        }
    }
    out
}

fn multiply(product: &mut blst_fp12, line: &blst_fp6) {
    // SAFETY: one element in place, as blst does itself, by one line.
    unsafe { blst::blst_fp12_mul_by_xy00z0(product, product, line) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use ark_bls12_381::{Bls12_381, G1Projective};
    use ark_ec::AffineRepr;
    use ark_ec::pairing::Pairing;
    use ark_ec::{CurveGroup, VariableBaseMSM};
    use ark_ff::{Field, UniformRand, Zero};
    use ark_serialize::{CanonicalSerialize, Compress, Validate};
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    fn rng(seed: u64) -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(seed)
    }

    fn g1(count: usize, seed: u64) -> Vec<G1Affine> {
        let mut rng = rng(seed);
        (0..count).map(|_| G1Affine::rand(&mut rng)).collect()
    }

    /// The rule in arkworks' terms: it decodes, is not the identity, and encodes to the same bytes.
    fn ark<P: AffineRepr>(bytes: &[u8], compress: Compress) -> Option<P> {
        let point = P::deserialize_with_mode(bytes, compress, Validate::Yes).ok()?;
        let mut again = Vec::new();
        point.serialize_with_mode(&mut again, compress).ok()?;
        (!point.is_zero() && again == bytes).then_some(point)
    }

    /// Both verdicts on one encoding; says whether it was accepted.
    fn same_verdict(bytes: &[u8], g2: bool, compress: Compress) -> bool {
        let what = || format!("g2 {g2}: {}", hex::encode(bytes));
        let full = compress == Compress::No;
        let exact = "the right length";
        if g2 {
            let ours = match full {
                true => decode_g2_uncompressed(bytes.try_into().expect(exact)),
                false => decode_g2(bytes.try_into().expect(exact)),
            };
            assert_eq!(ours, ark::<G2Affine>(bytes, compress), "{}", what());
            ours.is_some()
        } else {
            let ours = match full {
                true => decode_g1_uncompressed(bytes.try_into().expect(exact)),
                false => decode_g1(bytes.try_into().expect(exact)),
            };
            assert_eq!(ours, ark::<G1Affine>(bytes, compress), "{}", what());
            ours.is_some()
        }
    }

    fn encoded(point: &impl CanonicalSerialize, compress: Compress) -> Vec<u8> {
        let mut out = Vec::new();
        point
            .serialize_with_mode(&mut out, compress)
            .expect("memory");
        out
    }

    /// A point of the curve from an x, in the group only by luck; both signs occur.
    fn on_curve(x: u64, g2: bool, compress: Compress) -> Option<Vec<u8>> {
        let larger = x.is_multiple_of(3);
        if g2 {
            let x = Fq2::new(Fq::from(x), Fq::from(x / 7));
            let point = G2Affine::get_point_from_x_unchecked(x, larger)?;
            Some(encoded(&point, compress))
        } else {
            let point = G1Affine::get_point_from_x_unchecked(Fq::from(x), larger)?;
            Some(encoded(&point, compress))
        }
    }

    #[test]
    fn tm_p12_decoders_accept_what_arkworks_accepts() {
        let mut rng = rng(12);
        for compress in [Compress::Yes, Compress::No] {
            for g2 in [false, true] {
                let good: Vec<Vec<u8>> = (0..6)
                    .map(|_| match g2 {
                        true => encoded(&G2Affine::rand(&mut rng), compress),
                        false => encoded(&G1Affine::rand(&mut rng), compress),
                    })
                    .collect();
                let len = good[0].len();
                for bytes in &good {
                    assert!(same_verdict(bytes, g2, compress));
                    // Every flag, in every combination: the other sign is another point, the rest is refused.
                    for flags in 0..8u8 {
                        let mut other = bytes.clone();
                        other[0] = other[0] & 0x1f | flags << 5;
                        same_verdict(&other, g2, compress);
                    }
                    for _ in 0..40 {
                        let mut other = bytes.clone();
                        let bit = rng.gen_range(0..8 * len);
                        other[bit / 8] ^= 1 << (bit % 8);
                        same_verdict(&other, g2, compress);
                    }
                    // Each coordinate once more plus the field's order: the same residue, a second encoding.
                    for at in (0..len).step_by(48) {
                        let mut other = bytes.clone();
                        add_order(&mut other[at..at + 48]);
                        assert!(!same_verdict(&other, g2, compress));
                    }
                }
                for first in [0u8, 0x20, 0x40, 0x60, 0x80, 0xa0, 0xc0, 0xe0] {
                    let mut zero = vec![0; len];
                    zero[0] = first;
                    assert!(!same_verdict(&zero, g2, compress), "the identity");
                    zero[len - 1] = 1;
                    same_verdict(&zero, g2, compress);
                    zero[len - 1] = 4;
                    same_verdict(&zero, g2, compress);
                    let noise: Vec<u8> = (0..len).map(|_| rng.r#gen()).collect();
                    same_verdict(&noise, g2, compress);
                    let mut order = vec![0; len];
                    add_order(&mut order[..48]);
                    order[0] |= first;
                    assert!(!same_verdict(&order, g2, compress), "x = p");
                }
                // Almost no point of the curve is in the group.
                let outside = (0..60).filter_map(|x| on_curve(x, g2, compress));
                let refused = outside.map(|bytes| assert!(!same_verdict(&bytes, g2, compress)));
                assert!(refused.count() > 20);
                // Off the curve: x of one point with y of another.
                if compress == Compress::No {
                    let mixed = [&good[0][..len / 2], &good[1][len / 2..]].concat();
                    assert!(!same_verdict(&mixed, g2, compress));
                }
            }
        }
    }

    /// Points whose order divides the cofactor, and their sums with points of the group: what a sloppy subgroup check
    /// lets through.
    #[test]
    fn tm_p12_points_of_small_order_are_refused() {
        // The cofactor of G1 is 3·11²·10177²·859267²·52437899²; multiplying by r clears the group's part.
        let order = Fr::MODULUS;
        let cofactor_part = (1..40u64)
            .filter_map(|x| G1Affine::get_point_from_x_unchecked(Fq::from(x), x % 2 == 0))
            .map(|point| times(point.into(), order.as_ref()));
        let mut seen = 0;
        for point in cofactor_part.filter(|point| !point.is_zero()) {
            for factor in [1u64, 3, 11, 33, 10177, 859_267] {
                let small = times(point, &[factor]);
                for shift in [G1Projective::zero(), G1Affine::generator().into()] {
                    let sum = (small + shift).into_affine();
                    if !sum.is_zero() && !small.is_zero() {
                        assert!(!same_verdict(
                            &encoded(&sum, Compress::Yes),
                            false,
                            Compress::Yes
                        ));
                        seen += 1;
                    }
                }
            }
        }
        assert!(seen > 100);
    }

    /// By doubling and adding: right outside the group too, unlike products that use the endomorphism.
    fn times(point: G1Projective, by: &[u64]) -> G1Projective {
        let bits = ark_ff::BitIteratorBE::without_leading_zeros(by);
        bits.fold(G1Projective::zero(), |sum, bit| {
            sum + sum + if bit { point } else { G1Projective::zero() }
        })
    }

    fn add_order(coordinate: &mut [u8]) {
        let order = ark_ff::BigInteger::to_bytes_be(&Fq::MODULUS);
        let mut carry = 0;
        for (byte, add) in coordinate.iter_mut().zip(order).rev() {
            let sum = u16::from(*byte) + u16::from(add) + carry;
            *byte = sum.to_le_bytes()[0];
            carry = sum >> 8;
        }
    }

    #[test]
    fn sums_are_arkworks_sums() {
        let ark = g1(70, 1);
        let ours: Vec<G1> = ark.iter().map(G1::from).collect();
        let back = |sum: G1Sum| G1Affine::from(sum.point());
        for count in [0, 1, 2, 15, 16, 17, 31, 32, 33, 70] {
            let expected: G1Projective = ark[..count].iter().sum();
            assert_eq!(back(sum(&ours[..count])), expected, "{count}");
            let mut rng = rng(9);
            let scalars: Vec<Fr> = (0..count).map(|_| Fr::rand(&mut rng)).collect();
            for bits in [1usize, 8, 31, 64, 255] {
                let bytes: Vec<[u8; 32]> = scalars
                    .iter()
                    .map(|scalar| {
                        let mut bytes = scalar_bytes(scalar);
                        bytes[bits.div_ceil(8)..].fill(0);
                        bytes[(bits - 1) / 8] &= 0xff >> (7 - (bits - 1) % 8);
                        bytes
                    })
                    .collect();
                let cut: Vec<Fr> = bytes
                    .iter()
                    .map(|b| Fr::from_le_bytes_mod_order(b))
                    .collect();
                let packed: Vec<u8> = bytes
                    .iter()
                    .flat_map(|b| &b[..bits.div_ceil(8)])
                    .copied()
                    .collect();
                let expected = G1Projective::msm_unchecked(&ark[..count], &cut);
                assert_eq!(back(weighted_sum(&ours[..count], &packed, bits)), expected);
            }
        }
        // Equal and opposite points and the identity, at every place of a batch.
        let special = [ours[0], -ours[0], G1::default(), ours[1]];
        for round in 0..200u64 {
            let mut rng = rng(round);
            let picks: Vec<usize> = (0..40).map(|_| rng.gen_range(0..4)).collect();
            let points: Vec<G1> = picks.iter().map(|pick| special[*pick]).collect();
            let expected: G1Projective = points.iter().map(|p| G1Affine::from(*p)).sum();
            assert_eq!(back(sum(&points)), expected);
        }
        let k = Fr::rand(&mut rng(5));
        assert_eq!(back(ours[3].times(&k)), ark[3] * k);
        assert_eq!(back(ours[3].times(&Fr::zero())), G1Affine::zero());
        let mut doubled = ours[3].times(&k);
        doubled.double(5);
        doubled.add(&ours[4].times(&k));
        assert_eq!(back(doubled), ark[3] * (k * Fr::from(32u64)) + ark[4] * k);
        let many = [doubled, G1Sum::default(), ours[3].times(&k)];
        assert_eq!(points(&many), many.map(|sum| sum.point()));
        assert_eq!(points(&[]), []);
    }

    #[test]
    fn multiples_and_the_endomorphism_are_products() {
        let ark = g1(3, 2);
        let ours: Vec<G1> = ark.iter().map(G1::from).collect();
        let table = multiples(&ours);
        for (base, row) in ark.iter().zip(table.chunks(MULTIPLES)) {
            for (i, point) in (1u64..).zip(row) {
                assert_eq!(G1Affine::from(*point), *base * Fr::from(i));
            }
        }
        let z = Fr::from(0xd201_0000_0001_0000u64);
        for point in &ark {
            let image = G1Affine::from(G1::from(point).endomorphism());
            assert_eq!(image, *point * (z.square() - Fr::from(1u64)));
        }
    }

    #[test]
    fn pairings_agree_with_each_other_and_with_arkworks() {
        let mut rng = rng(3);
        let left = g1(5, 3);
        let right: Vec<G2Affine> = (0..5).map(|_| G2Affine::rand(&mut rng)).collect();
        let lines: Vec<Lines> = right.iter().map(Lines::new).collect();
        for count in 0..=5 {
            let points: Vec<(G1, G2)> = (0..count)
                .map(|i| (G1::from(&left[i]), G2::from(&right[i])))
                .collect();
            let prepared: Vec<(G1, &Lines)> = (0..count)
                .map(|i| (G1::from(&left[i]), &lines[i]))
                .collect();
            let product = Miller::of_points(&points).finish();
            assert_eq!(product, Miller::of_lines(&prepared).finish(), "{count}");
            let ark = Bls12_381::multi_pairing(&left[..count], &right[..count]);
            assert_eq!(product.is_one(), ark.is_zero());
            // blst's pairing is a fixed power of arkworks', so compare what pairings are for: relations.
            let k = Fr::rand(&mut rng);
            let mut moved = prepared.clone();
            if count > 0 {
                moved.push((G1::from(&(left[0] * -k).into_affine()), &lines[0]));
                let shifted = (right[0] * k).into_affine();
                let opposite = Lines::new(&shifted);
                moved.push((G1::from(&left[0]), &opposite));
                assert_eq!(product, Miller::of_lines(&moved).finish());
                moved.pop();
                assert_ne!(product, Miller::of_lines(&moved).finish());
            }
        }
        let identity = (G1::default(), &lines[0]);
        assert!(Miller::of_lines(&[identity]).finish().is_one());
        let one = Miller::of_lines(&[(G1::from(&left[0]), &lines[0])]);
        let with = Miller::of_lines(&[identity, (G1::from(&left[0]), &lines[0]), identity]);
        assert_eq!(one.finish(), with.finish());
        assert_eq!(one.times(&Miller::one()).finish(), one.finish());
        assert_ne!(one.times(&one).finish(), one.finish());
        for point in &right {
            assert_eq!(G2Affine::from(G2::from(point)), *point);
        }
    }
}
