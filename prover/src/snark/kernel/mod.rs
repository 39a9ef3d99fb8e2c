//! Adding many points in affine form, several at a time, one inversion for all.
//!
//! Walk: under [`super::msm`] (buckets) and [`super::fixed_base`] (tables). Adding two points through
//! their chord costs one inversion; a batch shares it (Montgomery's trick), which leaves about six
//! multiplications an addition against eleven in projective form, and results need no conversion.
//! [`portable`] does that on any machine with blst's products, [`ifma`] eight lanes at once where the
//! CPU has AVX-512 IFMA. The choice is made once per sum by the caller, with `Ifma::detect`.
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

/// How far a kernel's lazily reduced coordinates may have grown: a multiple of the field's order. Depends
/// only on how many points were summed. Kernels that reduce at once ignore it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound(u64);

impl Bound {
    /// Of a point from [`Kernel::import`] or [`Kernel::decode`], and of its negative.
    pub const FRESH: Bound = Bound(2);
    const LIMIT: u64 = 1 << 28;

    /// Of the sum of two points.
    pub const fn joined(self, other: Bound) -> Bound {
        Bound(self.0 + other.0 + 2)
    }

    /// Of a sum of so many fresh points, in any order of additions.
    pub const fn of_sum(points: usize) -> Bound {
        Bound(4 * points as u64)
    }

    /// The larger one.
    pub fn or(self, other: Bound) -> Bound {
        Bound(self.0.max(other.0))
    }

    /// Whether points like this may still be added to.
    pub const fn has_room(self) -> bool {
        self.0 <= Self::LIMIT
    }
}

/// Where the left operands of a batch are.
#[derive(Clone, Copy, Debug)]
pub enum Left<'a, P> {
    /// In a slice of their own.
    Of(&'a [P]),
    /// Where the results go; each is read before it is overwritten.
    Out,
}

impl<'a, P> Left<'a, P> {
    /// The operands, given the results' slice.
    #[inline]
    fn or<'b>(self, out: &'b [P]) -> &'b [P]
    where
        'a: 'b,
    {
        match self {
            Left::Of(points) => points,
            Left::Out => out,
        }
    }
}

/// Two operands of a batch have the same x coordinate; no result was written.
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
    /// Reads uncompressed encodings: canonical coordinates, not the identity. Neither curve nor
    /// group is checked; the caller trusts the bytes by their hash.
    fn decode(self, encodings: &[&[u8]]) -> Option<Vec<Self::Point>>;
    /// The negative of a point from [`Kernel::import`] or [`Kernel::decode`].
    fn negate(self, point: &Self::Point) -> Self::Point;
    /// Says that a point is going to be read soon.
    fn prefetch(self, _point: &Self::Point) {}
    /// Does all pairs. `bounds` are those of the operands on the left and on the right. With
    /// [`Left::Out`] each pair writes where it reads (`to = a`), and no place occurs twice.
    fn add(
        self,
        scratch: &mut Self::Scratch,
        bounds: [Bound; 2],
        left: Left<Self::Point>,
        right: &[Self::Point],
        pairs: &[Pair],
        out: &mut [Self::Point],
    ) -> Result<(), EqualOperands>;
}

/// Index and sign of an operand.
#[inline]
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
            let mut bound = Bound::FRESH;
            k.add(
                &mut scratch,
                [bound; 2],
                Left::Of(&ours),
                &ours,
                &pairs,
                &mut sums,
            )
            .expect("no equal operands");
            bound = bound.joined(bound);
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
            // In place, one point after the other; then doubled bounds as deep as they may go.
            for step in 1..=24u32 {
                let pairs: Vec<Pair> = (0..sums.len() as u32)
                    .map(|i| Pair {
                        a: i,
                        b: (i + step) % 64,
                        to: i,
                    })
                    .collect();
                k.add(
                    &mut scratch,
                    [bound, Bound::FRESH],
                    Left::Out,
                    &ours,
                    &pairs,
                    &mut sums,
                )
                .expect("no equal operands");
                bound = bound.joined(Bound::FRESH);
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
            while count > 2 && bound.has_room() {
                let pairs: Vec<Pair> = (0..sums.len() as u32)
                    .map(|i| Pair {
                        a: i,
                        b: (i + 1) % sums.len() as u32,
                        to: i,
                    })
                    .collect();
                let operands = sums.clone();
                k.add(
                    &mut scratch,
                    [bound; 2],
                    Left::Of(&operands),
                    &operands,
                    &pairs,
                    &mut sums,
                )
                .expect("no equal operands");
                bound = bound.joined(bound);
                let before = expected.clone();
                for (i, sum) in expected.iter_mut().enumerate() {
                    *sum += before[(i + 1) % before.len()];
                }
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
                    [Bound::FRESH; 2],
                    Left::Of(&ours),
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
        let ark = points::<K::Curve>(19, 3);
        let bytes = |p: &Affine<K::Curve>| {
            let mut bytes = Vec::new();
            p.serialize_uncompressed(&mut bytes).expect("memory");
            bytes
        };
        let encoded: Vec<Vec<u8>> = ark.iter().map(bytes).collect();
        let refs: Vec<&[u8]> = encoded.iter().map(Vec::as_slice).collect();
        let decoded = k.decode(&refs).expect("canonical");
        for count in 0..refs.len() {
            let some = k.decode(&refs[..count]).expect("canonical");
            assert_eq!(k.export(&some), ark[..count], "{count}");
        }
        let negated: Vec<K::Point> = decoded.iter().map(|p| k.negate(p)).collect();
        assert_eq!(
            k.export(&negated),
            ark.iter().map(|p| -*p).collect::<Vec<_>>()
        );
        assert!(k.decode(&[&bytes(&Affine::identity())]).is_none());
        let good = bytes(&ark[0]);
        assert!(k.decode(&[&good[..good.len() - 1]]).is_none());
        for flag in [0x80, 0x40, 0x20] {
            let mut bad = good.clone();
            bad[0] |= flag;
            assert!(k.decode(&[&good, &bad]).is_none(), "flag {flag:x}");
        }
        for half in (0..good.len()).step_by(48) {
            let mut bad = good.clone();
            bad[half..half + 4].copy_from_slice(&[0x1f, 0xff, 0xff, 0xff]);
            assert!(k.decode(&[&bad]).is_none());
        }
    }
}
