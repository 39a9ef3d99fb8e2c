//! Points eight at a time: decompression, the subgroup's checks, products with a batch's weights.
//!
//! Walk: [`super`] calls it with what it read. Plain twin: blst through [`crate::snark::pairing`].
//!
//! Points are in Jacobian coordinates, `(X/Z², Y/Z³)`. No curve here has a point of order 2, so that doubling is always
//! right. An addition gives `Z₃ = Z₁·Z₂·H` with `H = 0` where the operands' x are equal: a sum that the formula does not
//! cover, and every sum after it, has `Z = 0` whatever comes. So a result with `Z ≠ 0` is right, and [`times_z`] needs no
//! other care with points of small order; in the group itself its sums never meet.

use ark_bls12_381::{Fq, Fq2};
use ark_ff::{AdditiveGroup, Field, PrimeField};

use super::field::{Fe, LANES};
use crate::snark::pairing::{BETA, DOUBLINGS};

/// `1/(1 + u)^((q−1)/3) = C·u` and `1/(1 + u)^((q−1)/2)`: what `ψ` multiplies conjugated coordinates by.
const PSI_X: Fq = ark_ff::MontFp!(
    "4002409555221667392624310435006688643935503118305586438271171395842971157480381377015405980053539358417135540939437"
);
const PSI_Y: Fq2 = Fq2::new(
    ark_ff::MontFp!(
        "2973677408986561043442465346520108879172042883009249989176415018091420807192182638567116318576472649347015917690530"
    ),
    ark_ff::MontFp!(
        "1028732146235106349975324479215795277384839936929757896155643118032610843298655225875571310552543014690878354869257"
    ),
);

/// Eight points.
#[derive(Clone, Copy)]
pub struct Point<const D: usize> {
    pub x: Fe<D>,
    pub y: Fe<D>,
    pub z: Fe<D>,
}

/// Largest bound of a coordinate here: that of a difference in [`Point::doubled`].
pub const BOUND: u64 = 32;

impl<const D: usize> Point<D> {
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub fn affine(x: &Fe<D>, y: &Fe<D>) -> Self {
        Point {
            x: *x,
            y: *y,
            z: Fe::one(),
        }
    }

    #[target_feature(enable = "avx512f,avx512ifma")]
    fn identity() -> Self {
        Point {
            x: Fe::one(),
            y: Fe::one(),
            z: Fe::zero(),
        }
    }

    /// `2·self`.
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub fn doubled(&self) -> Self {
        self.tangent().0
    }

    /// `2·self`, by dbl-2009-l of the Explicit-Formulas Database, with `Y²` and `3X²`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub fn tangent(&self) -> (Self, Fe<D>, Fe<D>) {
        let b = self.y.squared();
        let d = self.x.times(&b).shifted::<2>();
        let e = self.x.squared().tripled();
        let x = e.squared().minus::<24>(&d.shifted::<1>());
        let c = b.squared().shifted::<3>();
        let y = e.times(&d.minus::<BOUND>(&x)).minus::<24>(&c);
        let z = self.y.times(&self.z).shifted::<1>();
        (Point { x, y, z }, b, e)
    }

    /// `self + other`, right where `Z ≠ 0` comes out.
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub fn plus(&self, other: &Self) -> Self {
        let (zz1, zz2) = (self.z.squared(), other.z.squared());
        let u1 = self.x.times(&zz2);
        let s1 = self.y.times(&zz2.times(&other.z));
        let h = other.x.times(&zz1).minus::<4>(&u1);
        let r = other.y.times(&zz1.times(&self.z)).minus::<4>(&s1);
        let hh = h.squared();
        let hhh = hh.times(&h);
        let v = u1.times(&hh);
        let x = r.squared().minus::<16>(&hhh.plus(&v.shifted::<1>()));
        let y = r.times(&v.minus::<BOUND>(&x)).minus::<4>(&s1.times(&hhh));
        let z = self.z.times(&other.z).times(&h);
        Point { x, y, z }
    }

    /// `other` in the lanes of the mask.
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn or(&self, mask: u8, other: &Self) -> Self {
        Point {
            x: self.x.or(mask, &other.x),
            y: self.y.or(mask, &other.y),
            z: self.z.or(mask, &other.z),
        }
    }

    /// The lanes in which this is `(x, y)`.
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn is(&self, x: &Fe<D>, y: &Fe<D>) -> u8 {
        let zz = self.z.squared();
        let same_x = self.x.minus::<4>(&x.times(&zz)).zeros();
        let same_y = self.y.minus::<4>(&y.times(&zz.times(&self.z))).zeros();
        same_x & same_y & !self.z.zeros()
    }

    #[target_feature(enable = "avx512f,avx512ifma")]
    fn negated(&self) -> Self {
        Point {
            y: Fe::zero().minus::<BOUND>(&self.y),
            ..*self
        }
    }
}

/// `|z|·point` for the curve's `|z| = 0xd201000000010000`, right where `Z ≠ 0` comes out.
#[target_feature(enable = "avx512f,avx512ifma")]
fn times_z<const D: usize>(point: &Point<D>) -> Point<D> {
    let mut sum = point.doubled();
    for doublings in DOUBLINGS {
        sum = sum.plus(point);
        for _ in 0..doublings {
            sum = sum.doubled();
        }
    }
    sum
}

/// The lanes whose points of the curve are in G1: `−z²·P = β²·P`, where the curve's `β` takes `(x, y)` to `(βx, y)`
/// (M. Scott, eprint 2021/1130; blst's test too).
#[target_feature(enable = "avx512f,avx512ifma")]
pub fn in_g1(x: &Fe<1>, y: &Fe<1>) -> u8 {
    let point = Point::affine(x, y);
    let product = times_z(&times_z(&point)).negated();
    product.is(&x.times(&Fe::all(BETA * BETA)), y)
}

/// The lanes whose points of the twist are in G2: `z·P = ψ(P)`, and `z` is negative (the same paper).
#[target_feature(enable = "avx512f,avx512ifma")]
pub fn in_g2(x: &Fe<2>, y: &Fe<2>) -> u8 {
    let product = times_z(&Point::affine(x, y)).negated();
    // Conjugation negates c1.
    let [x0, x1] = x.halves();
    let psi_x = Fe::pair(&x1, &x0).scaled(&Fe::all(PSI_X));
    let [y0, y1] = y.halves();
    let conjugate = Fe::pair(&y0, &Fe::zero().minus::<BOUND>(&y1));
    product.is(&psi_x, &conjugate.times(&Fe::all(PSI_Y)))
}

/// A root of `x³ + 4` in each group, and the lanes that have one.
#[target_feature(enable = "avx512f,avx512ifma")]
pub fn y_in_g1<const N: usize>(x: &[Fe<1>; N]) -> [(Fe<1>, u8); N] {
    let four = Fe::all(Fq::from(4u64));
    let square = |x: &Fe<1>| x.squared().times(x).plus(&four);
    let mut squares = *x;
    squares.iter_mut().for_each(|x| *x = square(x));
    let roots = powers(&squares);
    std::array::from_fn(|i| {
        let y = roots[i].times(&squares[i]);
        (y, y.squared().minus::<4>(&squares[i]).zeros())
    })
}

/// A root of `x³ + 4(1 + u)`, and the lanes that have one and whose root is found here: where an intermediate value is
/// zero it may be missed.
///
/// With `a = a₀ + a₁u` and `n² = a₀² + a₁²`, one of `t = (a₀ ± n)/2` is a square, for their product is `−(a₁/2)²` and `−1`
/// is none. So with `s = t^((q−3)/4)` either `ts` is a root of `t` and `1/s`, or one of `−t` and `−1/s`: the root of `a` is
/// `ts + (a₁s/2)u` or `−a₁s/2 + (ts)u`.
#[target_feature(enable = "avx512f,avx512ifma")]
pub fn y_in_g2(x: &Fe<2>) -> (Fe<2>, u8) {
    let four = Fe::all(Fq2::new(Fq::from(4u64), Fq::from(4u64)));
    let a = x.squared().times(x).plus(&four);
    let [a0, a1] = a.halves();
    let half = Fe::all(Fq::from(2u64).inverse().unwrap_or(Fq::ZERO));
    let norm = a0.squared().plus(&a1.squared());
    let [root] = powers(&[norm]);
    let t = a0.plus(&root.times(&norm)).times(&half);
    let [s] = powers(&[t]);
    let ts = t.times(&s);
    let other = a1.times(&s).times(&half);
    let is_square = ts.times(&s).minus::<1>(&Fe::one()).zeros();
    let minus_other = Fe::zero().minus::<4>(&other);
    let y = Fe::pair(&minus_other, &ts).or(is_square, &Fe::pair(&ts, &other));
    (y, y.squared().minus::<4>(&a).zeros())
}

/// Bits of a window of [`powers`].
const POWER_WINDOW: usize = 5;

/// `x^((q−3)/4)` of several groups, whose products fill each other's waits: `x` times that is a root of `x` where there
/// is one.
#[target_feature(enable = "avx512f,avx512ifma")]
fn powers<const N: usize>(x: &[Fe<1>; N]) -> [Fe<1>; N] {
    // q = 4k + 3, so k is q without its two lowest bits.
    const BITS: usize = Fq::MODULUS_BIT_SIZE as usize - 2;
    let bit = |at: usize| Fq::MODULUS.0[(at + 2) / 64] >> ((at + 2) % 64) & 1 == 1;
    // x, x³, x⁵, …
    let mut odd = [*x; 1 << (POWER_WINDOW - 1)];
    let mut squares = *x;
    for square in &mut squares {
        *square = square.squared();
    }
    for i in 1..odd.len() {
        for group in 0..N {
            odd[i][group] = odd[i - 1][group].times(&squares[group]);
        }
    }
    let mut out: Option<[Fe<1>; N]> = None;
    let square = |out: &mut Option<[Fe<1>; N]>, times: usize| {
        for value in out.iter_mut() {
            for _ in 0..times {
                for group in value.iter_mut() {
                    *group = group.squared();
                }
            }
        }
    };
    let mut left = BITS;
    while left > 0 {
        if !bit(left - 1) {
            square(&mut out, 1);
            left -= 1;
            continue;
        }
        let least = left.saturating_sub(POWER_WINDOW);
        let low = (least..left).find(|at| bit(*at)).unwrap_or(left - 1);
        let window = (low..left)
            .rev()
            .fold(0, |w, at| 2 * w + usize::from(bit(at)));
        square(&mut out, left - low);
        let factor = &odd[window / 2];
        match &mut out {
            None => out = Some(*factor),
            Some(out) => {
                for (group, factor) in out.iter_mut().zip(factor) {
                    *group = group.times(factor);
                }
            }
        }
        left = low;
    }
    out.unwrap_or(*x)
}

/// `(a + b·λ)·P` for points of G1, none the identity, `λ` being [`crate::snark::pairing::G1::endomorphism`]'s.
///
/// Two bits of `a` and `b` at a time, from a table of `iP + jλP`. The sum so far is `(4a' + 4b'λ)P` with halves below
/// 2^64 and so meets no entry or its opposite, as long as it is not the identity itself; those lanes are kept apart.
#[target_feature(enable = "avx512f,avx512ifma")]
pub fn weighted(x: &Fe<1>, y: &Fe<1>, weights: &[[u64; 2]; LANES]) -> Point<1> {
    const DIGITS: usize = 4;
    let beta = Fe::all(BETA);
    let turned = |point: &Point<1>| Point {
        x: point.x.times(&beta),
        ..*point
    };
    let point = Point::affine(x, y);
    let two = point.doubled();
    let mut table = [Point::identity(); DIGITS * DIGITS];
    table[1] = point;
    table[2] = two;
    table[3] = two.plus(&point);
    for j in 1..DIGITS {
        table[DIGITS * j] = turned(&table[j]);
        for i in 1..DIGITS {
            table[DIGITS * j + i] = table[DIGITS * j].plus(&table[i]);
        }
    }
    let mut sum = Point::identity();
    let mut empty = 0xff;
    for shift in (0..64).step_by(2).rev() {
        let digits = weights.map(|[a, b]| (a >> shift & 3) | (b >> shift & 3) << 2);
        let lanes_of = |digit: usize| {
            let at = |mask: u8, lane: usize| {
                mask | u8::from(usize::try_from(digits[lane]) == Ok(digit)) << lane
            };
            (0..LANES).fold(0u8, at)
        };
        let mut entry = table[0];
        for (digit, candidate) in table.iter().enumerate().skip(1) {
            let mask = lanes_of(digit);
            if mask != 0 {
                entry = entry.or(mask, candidate);
            }
        }
        sum = sum.doubled().doubled();
        let none = lanes_of(0);
        sum = sum.plus(&entry).or(none, &sum).or(empty & !none, &entry);
        empty &= none;
    }
    sum
}
