//! Many multiples of one point: tables of a generator's multiples, added in affine form.
//!
//! Walk: [`super::keygen`] turns millions of scalars into points with it. A scalar is cut into
//! signed digits; each digit selects a precomputed multiple, and a chunk of scalars adds its next
//! multiples together ([`super::kernel`]), without conversion from projective form at the end.
//! Plain twin: ark's scalar multiplication. Cost: 16 additions a scalar for large runs, about 1 µs
//! in G1 with IFMA, 3–4 µs without; tables up to 64 MiB (G1) or 100 MiB (G2).

use ark_bls12_381::Fr;
use ark_ec::short_weierstrass::{Affine, Projective};
use ark_ec::{AdditiveGroup, AffineRepr, CurveGroup};
use ark_ff::{PrimeField, Zero};
use rayon::prelude::*;

use super::kernel::{Bound, EqualOperands, Kernel, Left, NEGATED, Pair};

/// Scalars are below 2^255; one bit more takes the carry of the signed digits.
const DIGIT_BITS: usize = 256;
/// Narrowest and widest window; the narrowest decides how long a chain of additions gets.
const WIDTHS: std::ops::RangeInclusive<usize> = 11..=16;

const _: () = assert!(Bound::of_sum(DIGIT_BITS.div_ceil(*WIDTHS.start())).has_room());

/// Multiples of one point.
pub struct FixedBase<K: Kernel> {
    kernel: K,
    base: Affine<K::Curve>,
    width: usize,
    /// Per window `w` the points `d·2^(width·w)·base`, `d` from 1 to `2^(width−1)`.
    windows: Vec<Vec<K::Point>>,
}

impl<K: Kernel> FixedBase<K> {
    /// Tables sized for about `expected` scalars.
    pub fn new(kernel: K, base: Affine<K::Curve>, expected: usize) -> Self {
        // A window of width b costs 2^(b−1) additions to fill and saves a share of those per scalar.
        let width = (expected.max(2).ilog2() as usize)
            .saturating_sub(6)
            .clamp(*WIDTHS.start(), *WIDTHS.end());
        let mut bases = Vec::new();
        let mut power = base.into_group();
        for _ in 0..DIGIT_BITS.div_ceil(width) {
            bases.push(power);
            for _ in 0..width {
                power.double_in_place();
            }
        }
        let table = |base: Projective<K::Curve>| kernel.import(&multiples(base, 1 << (width - 1)));
        let windows = bases.into_par_iter().map(table).collect();
        Self {
            kernel,
            base,
            width,
            windows,
        }
    }

    /// `scalar · base` for each scalar, in parallel.
    pub fn multiply(&self, scalars: &[Fr]) -> Vec<Affine<K::Curve>> {
        // Large enough to share an inversion well, small enough to stay in cache.
        const CHUNK: usize = 2048;
        scalars
            .par_chunks(CHUNK)
            .flat_map_iter(|chunk| self.chunk(chunk))
            .collect()
    }

    fn chunk(&self, scalars: &[Fr]) -> Vec<Affine<K::Curve>> {
        // Sums of the tables' distinct multiples never meet their own negatives, so this is a
        // safeguard: only crafted scalars could reach it, and nobody chooses scalars here.
        self.batched(scalars).unwrap_or_else(|EqualOperands| {
            scalars
                .iter()
                .map(|scalar| (self.base * scalar).into_affine())
                .collect()
        })
    }

    fn batched(&self, scalars: &[Fr]) -> Result<Vec<Affine<K::Curve>>, EqualOperands> {
        let digits: Vec<Vec<i32>> = scalars.iter().map(|scalar| self.digits(scalar)).collect();
        let (mut scratch, mut pairs) = (K::Scratch::default(), Vec::new());
        // Identities until a scalar's first digit that is not zero; then a sum.
        let mut started = vec![false; scalars.len()];
        let mut sums = vec![self.windows[0][0]; scalars.len()];
        let mut bound = Bound::FRESH;
        for (window, table) in self.windows.iter().enumerate() {
            pairs.clear();
            for (i, digits) in digits.iter().enumerate() {
                let size = digits[window].unsigned_abs();
                match (size, digits[window] < 0) {
                    (0, _) => {}
                    (_, negative) if !started[i] => {
                        let multiple = table[size as usize - 1];
                        sums[i] = if negative {
                            self.kernel.negate(&multiple)
                        } else {
                            multiple
                        };
                        started[i] = true;
                    }
                    (_, negative) => {
                        let i = u32::try_from(i).expect("a chunk is small");
                        pairs.push(Pair {
                            a: i,
                            b: (size - 1) | if negative { NEGATED } else { 0 },
                            to: i,
                        });
                    }
                }
            }
            let bounds = [bound, Bound::FRESH];
            self.kernel
                .add(&mut scratch, bounds, Left::Out, table, &pairs, &mut sums)?;
            bound = bound.joined(Bound::FRESH);
        }
        let mut points = self.kernel.export(&sums);
        points
            .iter_mut()
            .zip(started)
            .filter(|(_, started)| !started)
            .for_each(|(p, _)| *p = Affine::identity());
        Ok(points)
    }

    /// Digits from `−2^(width−1)` to `2^(width−1)`, least significant first.
    fn digits(&self, scalar: &Fr) -> Vec<i32> {
        let limbs = scalar.into_bigint().0;
        let half = 1i64 << (self.width - 1);
        let mut carry = 0i64;
        (0..self.windows.len())
            .map(|w| {
                let raw = bits(&limbs, w * self.width, self.width).cast_signed() + carry;
                carry = i64::from(raw > half);
                i32::try_from(raw - (carry << self.width))
                    .expect("a digit has at most sixteen bits")
            })
            .collect()
    }
}

/// `count` bits of a number from bit `from`; at most 32.
fn bits(limbs: &[u64; 4], from: usize, count: usize) -> u64 {
    let (limb, shift) = (from / 64, from % 64);
    let low = limbs.get(limb).map_or(0, |l| l >> shift);
    let high = if shift == 0 {
        0
    } else {
        limbs.get(limb + 1).map_or(0, |l| l << (64 - shift))
    };
    (low | high) & ((1 << count) - 1)
}

/// `base, 2·base, …, count·base`.
fn multiples<C: ark_ec::short_weierstrass::SWCurveConfig>(
    base: Projective<C>,
    count: usize,
) -> Vec<Affine<C>> {
    let mut sum = Projective::zero();
    let all: Vec<Projective<C>> = (0..count)
        .map(|_| {
            sum += base;
            sum
        })
        .collect();
    Projective::normalize_batch(&all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snark::kernel::portable::Portable;
    use ark_bls12_381::{g1, g2};
    use ark_ff::{Field, UniformRand};

    fn scalars() -> Vec<Fr> {
        let mut rng = crate::snark::testing::rng(1);
        let edges = [
            0u64,
            1,
            2,
            3,
            7,
            8,
            9,
            15,
            16,
            17,
            0x7fff,
            0x8000,
            0x8001,
            0xffff,
            0x1_0000,
            u64::MAX,
        ];
        let mut all: Vec<Fr> = edges
            .iter()
            .flat_map(|e| [Fr::from(*e), -Fr::from(*e)])
            .collect();
        all.extend((0..64).map(|i| Fr::from(2u64).pow([4 * i])));
        all.extend((0..30).map(|_| Fr::rand(&mut rng)));
        all
    }

    fn equals_ark<K: Kernel>(kernel: K) {
        let (base, scalars) = (Affine::<K::Curve>::generator(), scalars());
        for expected in [1, 1 << 19] {
            let points = FixedBase::new(kernel, base, expected).multiply(&scalars);
            for (scalar, point) in scalars.iter().zip(&points) {
                assert_eq!(
                    *point,
                    (base * scalar).into_affine(),
                    "{scalar} with tables for {expected}"
                );
            }
        }
    }

    #[test]
    fn multiples_equal_arks() {
        equals_ark(Portable::<g1::Config>::default());
        equals_ark(Portable::<g2::Config>::default());
        #[cfg(target_arch = "x86_64")]
        if let Some(kernel) = crate::snark::kernel::ifma::IfmaG1::detect() {
            equals_ark(kernel);
        }
        #[cfg(target_arch = "x86_64")]
        if let Some(kernel) = crate::snark::kernel::ifma::IfmaG2::detect() {
            equals_ark(kernel);
        }
    }
}
