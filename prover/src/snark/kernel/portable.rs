//! Batched affine additions on any machine, for G1 and G2: arkworks' points, products in blst's assembly.
//!
//! An addition is six products of the coordinates' field, all else is small beside them; blst's are faster than arkworks'
//! by a sixth in G1 and more in G2, and its inversion by several times. It picks its instructions at run time and has plain
//! C where there is no assembly. Plain twin: arkworks' own additions (tests here and in [`super`]).
#![allow(unsafe_code)]

use std::marker::PhantomData;

use ark_bls12_381::{Fq, Fq2, Fr};
use ark_ec::AffineRepr;
use ark_ec::short_weierstrass::{Affine, SWCurveConfig};
use ark_ff::{AdditiveGroup, Field};
use ark_serialize::CanonicalDeserialize;

use blst::{blst_fp, blst_fp2};

use super::{Bound, EqualOperands, Kernel, Left, Pair, operand};

/// The field of a curve's coordinates, with blst's products.
pub trait Coordinate: Field {
    /// `self · other`.
    fn times(&self, other: &Self) -> Self;
    /// `self²`.
    fn squared(&self) -> Self;
    /// `1 / self`, none for zero.
    fn reciprocal(&self) -> Option<Self>;
}

/// The limbs of an element, which blst reads as its own: six of 64 bits, least first, in Montgomery form with 2^384.
fn limbs(value: &Fq) -> *const blst_fp {
    value.0.0.as_ptr().cast()
}

impl Coordinate for Fq {
    #[inline]
    fn times(&self, other: &Self) -> Self {
        let mut out = Fq::ZERO;
        let to = out.0.0.as_mut_ptr().cast();
        // SAFETY: `blst_fp` is six limbs in C's layout, which is what the three pointers lead to; blst writes a reduced
        // product, as arkworks wants it.
        unsafe { blst::blst_fp_mul(to, limbs(self), limbs(other)) };
        out
    }

    #[inline]
    fn squared(&self) -> Self {
        let mut out = Fq::ZERO;
        let to = out.0.0.as_mut_ptr().cast();
        // SAFETY: as above.
        unsafe { blst::blst_fp_sqr(to, limbs(self)) };
        out
    }

    fn reciprocal(&self) -> Option<Self> {
        let mut out = Fq::ZERO;
        let to = out.0.0.as_mut_ptr().cast();
        // SAFETY: as above; zero gives zero.
        unsafe { blst::blst_fp_eucl_inverse(to, limbs(self)) };
        (out != Fq::ZERO).then_some(out)
    }
}

/// A copy: arkworks does not promise the order of an element's halves in memory.
#[inline]
fn halves(value: &Fq2) -> blst_fp2 {
    blst_fp2 {
        fp: [&value.c0, &value.c1].map(|half| blst_fp { l: half.0.0 }),
    }
}

#[inline]
fn joined(value: &blst_fp2) -> Fq2 {
    let [c0, c1] = value.fp;
    let half = |half: blst_fp| Fq::new_unchecked(ark_ff::BigInt(half.l));
    Fq2::new(half(c0), half(c1))
}

impl Coordinate for Fq2 {
    #[inline]
    fn times(&self, other: &Self) -> Self {
        let mut out = blst_fp2::default();
        // SAFETY: reads two elements, writes one.
        unsafe { blst::blst_fp2_mul(&mut out, &halves(self), &halves(other)) };
        joined(&out)
    }

    #[inline]
    fn squared(&self) -> Self {
        let mut out = blst_fp2::default();
        // SAFETY: reads one element, writes one.
        unsafe { blst::blst_fp2_sqr(&mut out, &halves(self)) };
        joined(&out)
    }

    fn reciprocal(&self) -> Option<Self> {
        let mut out = blst_fp2::default();
        // SAFETY: reads one element, writes one; zero gives zero.
        unsafe { blst::blst_fp2_eucl_inverse(&mut out, &halves(self)) };
        let out = joined(&out);
        (out != Fq2::ZERO).then_some(out)
    }
}

/// arkworks' points.
#[derive(Debug)]
pub struct Portable<C>(PhantomData<C>);

impl<C> Clone for Portable<C> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<C> Copy for Portable<C> {}

impl<C> Default for Portable<C> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

/// Per pair the product of the differences of x of the pairs before, and its own difference.
pub struct Scratch<F> {
    differences: Vec<(F, F)>,
}

impl<F> Default for Scratch<F> {
    fn default() -> Self {
        Self {
            differences: Vec::new(),
        }
    }
}

impl<C: SWCurveConfig<ScalarField = Fr, BaseField: Coordinate>> Kernel for Portable<C> {
    type Curve = C;
    type Point = Affine<C>;
    type Scratch = Scratch<C::BaseField>;

    fn import(self, points: &[Affine<C>]) -> Vec<Affine<C>> {
        points.to_vec()
    }

    fn export(self, points: &[Affine<C>]) -> Vec<Affine<C>> {
        points.to_vec()
    }

    fn decode(self, encodings: &[&[u8]]) -> Option<Vec<Affine<C>>> {
        let decode = |bytes: &&[u8]| {
            let point = Affine::<C>::deserialize_uncompressed_unchecked(*bytes).ok()?;
            // Flags besides those of a plain uncompressed point are refused or masked there; what is
            // left of them is compared here.
            let plain = bytes.first().is_some_and(|byte| byte & 0xe0 == 0);
            (plain && !point.is_zero()).then_some(point)
        };
        encodings.iter().map(decode).collect()
    }

    fn negate(self, point: &Affine<C>) -> Affine<C> {
        -*point
    }

    fn add(
        self,
        scratch: &mut Self::Scratch,
        _bounds: [Bound; 2],
        left: Left<Affine<C>>,
        right: &[Affine<C>],
        pairs: &[Pair],
        out: &mut [Affine<C>],
    ) -> Result<(), EqualOperands> {
        let differences = &mut scratch.differences;
        differences.clear();
        let ask = |out: &[Affine<C>], pair: Option<&Pair>| {
            if let Some(pair) = pair {
                prefetch(&left.or(out)[operand(pair.a).0]);
                prefetch(&right[operand(pair.b).0]);
            }
        };
        let mut product = C::BaseField::ONE;
        for (i, pair) in pairs.iter().enumerate() {
            ask(out, pairs.get(i + AHEAD));
            let difference = right[operand(pair.b).0].x - left.or(out)[operand(pair.a).0].x;
            differences.push((product, difference));
            product = product.times(&difference);
        }
        let mut inverse = product.reciprocal().ok_or(EqualOperands)?;
        for (i, pair) in pairs.iter().enumerate().rev() {
            ask(out, i.checked_sub(AHEAD).map(|before| &pairs[before]));
            let (before, difference) = &differences[i];
            let (p, q) = (&left.or(out)[operand(pair.a).0], &right[operand(pair.b).0]);
            let (p_y, q_y) = (signed(&p.y, pair.a), signed(&q.y, pair.b));
            let slope = (q_y - p_y).times(&inverse.times(before));
            inverse = inverse.times(difference);
            let x = slope.squared() - p.x - q.x;
            let y = slope.times(&(p.x - x)) - p_y;
            out[pair.to as usize] = Affine::new_unchecked(x, y);
        }
        Ok(())
    }
}

/// How many pairs before their use operands are asked for.
const AHEAD: usize = 12;

/// Asks for a point's memory; points come in no order, and a miss costs as much as the addition.
#[inline]
fn prefetch<P>(point: &P) {
    #[cfg(target_arch = "x86_64")]
    for offset in (0..size_of::<P>()).step_by(64).chain([size_of::<P>() - 1]) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: the address lies in the point, and a hint has no effect but on speed.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(point).byte_add(offset).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = point;
}

#[inline]
fn signed<F: Field>(y: &F, index: u32) -> F {
    if operand(index).1 { -*y } else { *y }
}

#[cfg(test)]
mod tests {
    use super::super::tests;
    use super::*;
    use ark_bls12_381::{g1, g2};

    #[test]
    fn sums_equal_arkworks() {
        tests::equals_arkworks(Portable::<g1::Config>::default());
        tests::equals_arkworks(Portable::<g2::Config>::default());
    }

    /// Products and inverses are arkworks', at the edges of the field too.
    fn field_is_arks<F: Coordinate>(edges: &[F]) {
        let mut rng = crate::snark::testing::rng(11);
        let random = (0..50).map(|_| F::rand(&mut rng));
        let all: Vec<F> = edges.iter().copied().chain(random).collect();
        for a in &all {
            assert_eq!(a.squared(), a.square());
            assert_eq!(a.reciprocal(), a.inverse());
            for b in &all {
                assert_eq!(a.times(b), *a * b);
            }
        }
    }

    #[test]
    fn products_are_arks() {
        let edges = [0u64, 1, 2, u64::MAX].map(Fq::from);
        let edges: Vec<Fq> = edges.iter().flat_map(|e| [*e, -*e]).collect();
        field_is_arks(&edges);
        let pairs = edges
            .iter()
            .flat_map(|a| edges.iter().map(|b| Fq2::new(*a, *b)));
        field_is_arks(&pairs.collect::<Vec<_>>());
    }

    #[test]
    fn equal_operands_are_reported() {
        tests::equal_operands_are_reported(Portable::<g1::Config>::default());
        tests::equal_operands_are_reported(Portable::<g2::Config>::default());
    }

    #[test]
    fn decodes_canonical_only() {
        tests::decodes_canonical_only(Portable::<g1::Config>::default());
        tests::decodes_canonical_only(Portable::<g2::Config>::default());
    }
}
