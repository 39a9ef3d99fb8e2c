//! Adding many points in affine form, several at a time, one inversion for all.
//!
//! Walk: under [`super::msm`] (buckets) and [`super::fixed_base`] (tables). Adding two points through
//! their chord costs one inversion; a batch shares it (Montgomery's trick), which leaves about six
//! multiplications an addition against eleven in projective form, and results need no conversion.
//! [`portable`] does that with arkworks' field on any machine, [`ifma`] eight lanes at once where the
//! CPU has AVX-512 IFMA. The choice is made once per sum by the caller, [`ifma::Ifma::detect`].
//!
//! The hazard of a shared inversion: one pair with equal x coordinates makes the common product
//! zero, and without a check the whole batch is garbage. [`Kernel::add`] reports it, and its callers
//! do that batch again in projective form, which has no exceptions.

use ark_bls12_381::Fr;
use ark_ec::short_weierstrass::{Affine, SWCurveConfig};

#[cfg(target_arch = "x86_64")]
pub mod ifma;
pub mod portable;

/// One addition: `out[to] = left[a] + right[b]`.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    /// Index on the left, with [`NEGATED`] set to take the point's negative.
    pub a: u32,
    /// Index on the right, likewise.
    pub b: u32,
    /// Index of the result.
    pub to: u32,
}

/// Flag on an index: the negative of that point. Only for points that came from
/// [`Kernel::import`] or [`Kernel::decode`], not for sums.
pub const NEGATED: u32 = 1 << 31;

/// How many additions deep a chain or tree of sums may be.
pub const MAX_LEVEL: usize = 24;

/// Two operands of a batch have the same x coordinate; no result of the batch is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EqualOperands;

/// A way to hold points other than the identity and to add them.
pub trait Kernel: Copy + Send + Sync {
    /// The curve.
    type Curve: SWCurveConfig<ScalarField = Fr>;
    /// A point as this kernel holds it.
    type Point: Copy + Send + Sync;
    /// Memory that batches reuse.
    type Scratch: Default + Send;

    /// Takes points over. None may be the identity.
    fn import(self, points: &[Affine<Self::Curve>]) -> Vec<Self::Point>;
    /// Gives points back.
    fn export(self, points: &[Self::Point]) -> Vec<Affine<Self::Curve>>;
    /// Reads an uncompressed encoding: canonical coordinates, not the identity. Neither curve nor
    /// group is checked; the caller trusts the bytes by their hash.
    fn decode(self, bytes: &[u8]) -> Option<Self::Point>;
    /// The negative of a point from [`Kernel::import`] or [`Kernel::decode`].
    fn negate(self, point: &Self::Point) -> Self::Point;
    /// Does all pairs. `level` is one more than the largest level whose results are among the
    /// operands, 0 for imported points; at most [`MAX_LEVEL`].
    fn add(
        self,
        scratch: &mut Self::Scratch,
        level: usize,
        left: &[Self::Point],
        right: &[Self::Point],
        pairs: &[Pair],
        out: &mut [Self::Point],
    ) -> Result<(), EqualOperands>;
}

/// Index and sign of an operand.
fn operand(index: u32) -> (usize, bool) {
    ((index & !NEGATED) as usize, index & NEGATED != 0)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use ark_ec::{AffineRepr, CurveGroup};
    use ark_ff::UniformRand;

    /// Points of no pattern.
    pub fn points<C: SWCurveConfig<ScalarField = Fr>>(count: usize, seed: u64) -> Vec<Affine<C>> {
        let mut rng = crate::snark::testing::rng(seed);
        (0..count)
            .map(|_| (Affine::<C>::generator() * Fr::rand(&mut rng)).into_affine())
            .collect()
    }

    /// Chains of sums of every length around the lane count, signs included, equal arkworks'.
    pub fn equals_arkworks<K: Kernel>(k: K) {
        let ark = points::<K::Curve>(64, 1);
        let ours = k.import(&ark);
        assert_eq!(k.export(&ours), ark);
        for count in [0usize, 1, 2, 7, 8, 9, 15, 16, 17, 31, 32] {
            let pairs: Vec<Pair> = (0..count)
                .map(|i| {
                    let i = u32::try_from(i).expect("small");
                    let sign = |bit: u32| if i >> bit & 1 == 1 { NEGATED } else { 0 };
                    Pair {
                        a: i | sign(0),
                        b: (63 - i) | sign(1),
                        to: i,
                    }
                })
                .collect();
            let mut scratch = K::Scratch::default();
            let mut sums = ours[..count].to_vec();
            k.add(&mut scratch, 0, &ours, &ours, &pairs, &mut sums)
                .expect("no equal operands");
            let signed = |i: u32| {
                if i & NEGATED != 0 {
                    -ark[operand(i).0]
                } else {
                    ark[operand(i).0]
                }
            };
            let mut expected: Vec<_> = pairs.iter().map(|p| signed(p.a) + signed(p.b)).collect();
            assert_eq!(
                k.export(&sums),
                expected.iter().map(|p| p.into_affine()).collect::<Vec<_>>(),
                "{count}"
            );
            // As deep as it may go.
            for level in 1..=MAX_LEVEL {
                let shift = |i: u32| (i + u32::try_from(level).expect("small")) % 64;
                let pairs: Vec<Pair> = (0..sums.len() as u32)
                    .map(|i| Pair {
                        a: i,
                        b: shift(i),
                        to: i,
                    })
                    .collect();
                let mut next = sums.clone();
                k.add(&mut scratch, level, &sums, &ours, &pairs, &mut next)
                    .expect("no equal operands");
                sums = next;
                expected
                    .iter_mut()
                    .zip(&pairs)
                    .for_each(|(sum, p)| *sum += ark[p.b as usize]);
            }
            assert_eq!(
                k.export(&sums),
                expected.iter().map(|p| p.into_affine()).collect::<Vec<_>>(),
                "{count}"
            );
        }
    }

    /// One pair of equal or opposite points anywhere in a batch is reported.
    pub fn equal_operands_are_reported<K: Kernel>(k: K) {
        let mut ark = points::<K::Curve>(32, 2);
        ark[16] = ark[0];
        let ours = k.import(&ark);
        for at in 0..16u32 {
            for sign in [0, NEGATED] {
                let pair = |i: u32| Pair {
                    a: i,
                    b: if i == at { 0 } else { 16 + (i + 5) % 15 + 1 },
                    to: i,
                };
                let mut pairs: Vec<Pair> = (0..16).map(pair).collect();
                pairs[at as usize].a = 16 | sign;
                let mut out = ours[..16].to_vec();
                let result = k.add(
                    &mut K::Scratch::default(),
                    0,
                    &ours,
                    &ours,
                    &pairs,
                    &mut out,
                );
                assert_eq!(result, Err(EqualOperands), "{at}");
            }
        }
    }

    /// Encodings read back; identity, flags and values above the modulus do not.
    pub fn decodes_canonical_only<K: Kernel>(k: K) {
        use ark_serialize::CanonicalSerialize;
        let ark = points::<K::Curve>(8, 3);
        let bytes = |p: &Affine<K::Curve>| {
            let mut bytes = Vec::new();
            p.serialize_uncompressed(&mut bytes).expect("memory");
            bytes
        };
        let decoded: Vec<K::Point> = ark
            .iter()
            .map(|p| k.decode(&bytes(p)).expect("canonical"))
            .collect();
        assert_eq!(k.export(&decoded), ark);
        let negated: Vec<K::Point> = decoded.iter().map(|p| k.negate(p)).collect();
        assert_eq!(
            k.export(&negated),
            ark.iter().map(|p| -*p).collect::<Vec<_>>()
        );
        assert!(k.decode(&bytes(&Affine::identity())).is_none());
        let good = bytes(&ark[0]);
        assert!(k.decode(&good[..good.len() - 1]).is_none());
        for flag in [0x80, 0x40, 0x20] {
            let mut bad = good.clone();
            bad[0] |= flag;
            assert!(k.decode(&bad).is_none(), "flag {flag:x}");
        }
        for half in [0, good.len() / 2] {
            let mut bad = good.clone();
            bad[half..half + 4].copy_from_slice(&[0x1f, 0xff, 0xff, 0xff]);
            assert!(k.decode(&bad).is_none());
        }
    }
}
