//! The plain twin: batched affine additions with arkworks' field, for G1 and G2 on any machine.

use std::marker::PhantomData;

use ark_bls12_381::Fr;
use ark_ec::AffineRepr;
use ark_ec::short_weierstrass::{Affine, SWCurveConfig};
use ark_ff::Field;
use ark_serialize::CanonicalDeserialize;

use super::{Bound, EqualOperands, Kernel, Left, Pair, operand};

/// arkworks' points and field.
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

/// Differences of x coordinates, and the products of those before each.
pub struct Scratch<F> {
    differences: Vec<F>,
    products: Vec<F>,
}

impl<F> Default for Scratch<F> {
    fn default() -> Self {
        Self {
            differences: Vec::new(),
            products: Vec::new(),
        }
    }
}

impl<C: SWCurveConfig<ScalarField = Fr>> Kernel for Portable<C> {
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
        let Scratch {
            differences,
            products,
        } = scratch;
        differences.clear();
        products.clear();
        let mut product = C::BaseField::ONE;
        for pair in pairs {
            let difference = right[operand(pair.b).0].x - left.or(out)[operand(pair.a).0].x;
            products.push(product);
            differences.push(difference);
            product *= difference;
        }
        let mut inverse = product.inverse().ok_or(EqualOperands)?;
        for (i, pair) in pairs.iter().enumerate().rev() {
            let (p, q) = (signed(left.or(out), pair.a), signed(right, pair.b));
            let slope = (q.y - p.y) * inverse * products[i];
            inverse *= differences[i];
            let x = slope.square() - p.x - q.x;
            let y = slope * (p.x - x) - p.y;
            out[pair.to as usize] = Affine::new_unchecked(x, y);
        }
        Ok(())
    }
}

fn signed<C: SWCurveConfig>(points: &[Affine<C>], index: u32) -> Affine<C> {
    let (index, negated) = operand(index);
    if negated {
        -points[index]
    } else {
        points[index]
    }
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
