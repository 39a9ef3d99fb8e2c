//! Elements of Fq and Fq2, eight at a time in AVX-512 registers, 52-bit limbs.
//!
//! Walk: under [`super`] (verification of batches) and `snark::kernel::ifma` (sums of points in proving), which works on
//! the lanes themselves. A value has one component in Fq, two in Fq2 (`c0 + c1·u`, `u² = −1`), and the code is written
//! once over that number, `D`. Form: a component is eight limbs of 52 bits, little-endian, standing for `x·2^416 mod q`, and
//! is kept below a multiple of `q`, its bound, instead of below `q`. With `q < 2^380.8` there are 35 bits of room: a
//! Montgomery product of `a·q` and `b·q` is below `(a·b/2^35 + 1.25)·q`, see [`reduce`].
//!
//! [`Fe`] carries its bound along where debug assertions are on, so in tests. Bounds follow from the order of operations
//! and not from the values, so that one run of each function checks them for all runs.
//!
//! `unsafe`: the functions here are compiled for AVX-512F and IFMA; whoever enters them from ordinary code holds evidence
//! that both exist. In this file only bits are taken for other bits.

use std::arch::x86_64::*;

use ark_bls12_381::{Fq, Fq2};
use ark_ff::{AdditiveGroup, BigInt, BigInteger, Field, PrimeField};

use super::inverse::inverse;

pub const LIMBS: usize = 8;
pub const LANES: usize = 8;
pub const LIMB_BITS: usize = 52;
pub const LIMB_MASK: u64 = (1 << LIMB_BITS) - 1;
pub const ORDER: Limbs = split(Fq::MODULUS.0);
/// `−q^−1 mod 2^52`.
const NEGATED_INVERSE: u64 = negated_inverse(ORDER[0]);
/// `(k·q + 1) / 2^52` for `k` = [`NEGATED_INVERSE`].
const FOLD: Limbs = fold();

// What reduction adds at most, see there.
const _: () = assert!(NEGATED_INVERSE < 1 << (LIMB_BITS - 2));

/// One component.
pub type Limbs = [u64; LIMBS];
/// Eight components, register `i` holding limb `i` of each.
pub type Lanes = [__m512i; LIMBS];
/// Eight coordinates.
pub type Coordinates<const D: usize> = [Lanes; D];

/// Largest bound of what is multiplied or squared.
const MOST: u64 = 1024;
const MOST_ORDERS: Limbs = multiple_of_order(MOST);

/// Eight elements of a field of `D` components, normalised, not negative.
#[derive(Clone, Copy)]
pub struct Fe<const D: usize> {
    lanes: Coordinates<D>,
    /// Each component is below so many times `q`.
    #[cfg(debug_assertions)]
    bound: u64,
}

impl<const D: usize> Fe<D> {
    #[inline]
    fn new(lanes: Coordinates<D>, _bound: u64) -> Self {
        Fe {
            lanes,
            #[cfg(debug_assertions)]
            bound: _bound,
        }
    }

    /// The bound, nothing where it is not kept.
    #[inline]
    fn bound(&self) -> u64 {
        #[cfg(debug_assertions)]
        return self.bound;
        #[cfg(not(debug_assertions))]
        0
    }

    /// Zero in all lanes.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub fn zero() -> Self {
        Self::new([[_mm512_setzero_si512(); LIMBS]; D], 1)
    }

    /// One in all lanes.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub fn one() -> Self {
        Self::new(one(), 1)
    }

    /// The same element in all lanes.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub fn all<F: Components<D>>(value: F) -> Self {
        let shift = Fq::from(1u64 << 32);
        Self::new(
            value
                .apart()
                .map(|value| spread(&split((value * shift).0.0))),
            1,
        )
    }

    /// Takes elements over, a lane each.
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub fn enter<F: Components<D>>(values: &[F; LANES]) -> Self {
        let mut lanes = [[_mm512_setzero_si512(); LIMBS]; D];
        for (lane, value) in values.iter().enumerate() {
            for (component, value) in lanes.iter_mut().zip(value.apart()) {
                component[lane] = register(&split(value.0.0));
            }
        }
        // x·2^384 times 2^448, reduced by 2^416.
        Self::entered(lanes, rising())
    }

    /// Takes canonical integers over, the components of a value in the order of `c0, c1`.
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub fn enter_integers(values: &[[[u64; 6]; D]; LANES]) -> Self {
        let mut lanes = [[_mm512_setzero_si512(); LIMBS]; D];
        for (lane, value) in values.iter().enumerate() {
            for (component, value) in lanes.iter_mut().zip(value) {
                component[lane] = register(&split(*value));
            }
        }
        Self::entered(lanes, entering())
    }

    /// Rows of integers times a factor.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn entered(mut rows: Coordinates<D>, factor: &Limbs) -> Self {
        let factor = [spread(factor)];
        for component in &mut rows {
            let mut lanes = [transpose(*component)];
            multiply(&mut lanes, &factor);
            *component = lanes[0];
        }
        Self::new(rows, 2)
    }

    /// Gives the elements back, canonical.
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub fn leave<F: Components<D>>(&self) -> [F; LANES] {
        debug_assert!(self.bound() <= MOST);
        settle(&self.lanes)
    }

    /// `self + other`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub fn plus(&self, other: &Self) -> Self {
        let mut lanes = self.lanes;
        for (a, b) in lanes.iter_mut().zip(&other.lanes) {
            *a = sum(a, b);
        }
        Self::new(lanes, self.bound() + other.bound())
    }

    /// `self − other`, given that `other`'s bound is at most `K`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub fn minus<const K: u64>(&self, other: &Self) -> Self {
        debug_assert!(other.bound() <= K);
        let multiple = const { multiple_of_order(K) };
        let mut lanes = self.lanes;
        for (a, b) in lanes.iter_mut().zip(&other.lanes) {
            *a = difference(a, b, &multiple);
        }
        Self::new(lanes, self.bound() + K)
    }

    /// `self · 2^SHIFT`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub fn shifted<const SHIFT: u32>(&self) -> Self {
        const { assert!(SHIFT <= 4) };
        let mut lanes = self.lanes;
        for component in &mut lanes {
            for limb in component.iter_mut() {
                *limb = _mm512_slli_epi64::<SHIFT>(*limb);
            }
            *component = carry_signed(*component);
        }
        Self::new(lanes, self.bound() << SHIFT)
    }

    /// `3·self`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub fn tripled(&self) -> Self {
        let mut lanes = self.lanes;
        for component in &mut lanes {
            for limb in component.iter_mut() {
                *limb = _mm512_add_epi64(*limb, _mm512_add_epi64(*limb, *limb));
            }
            *component = carry_signed(*component);
        }
        Self::new(lanes, 3 * self.bound())
    }

    /// `self · other`; its bound is 3.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub fn times(&self, other: &Self) -> Self {
        debug_assert!(self.bound() <= MOST && other.bound() <= MOST);
        let mut lanes = self.lanes;
        multiply(&mut lanes, &other.lanes);
        Self::new(lanes, 3)
    }

    /// `self²`; its bound is 3.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub fn squared(&self) -> Self {
        debug_assert!(self.bound() <= MOST);
        let mut lanes = self.lanes;
        square_in_place(&mut lanes);
        Self::new(lanes, 3)
    }

    /// Each component times an element of Fq; its bound is 3.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub fn scaled(&self, by: &Fe<1>) -> Self {
        debug_assert!(self.bound() <= MOST && by.bound() <= MOST);
        let mut lanes = self.lanes;
        for component in &mut lanes {
            let mut one = [*component];
            multiply(&mut one, &by.lanes);
            *component = one[0];
        }
        Self::new(lanes, 3)
    }

    /// `1 / self`; `None` when a lane is zero. Lanes share one inversion.
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub fn inverted<F: Components<D>>(&self) -> Option<Self> {
        debug_assert!(self.bound() <= MOST);
        Some(Self::new(invert::<F, D>(&self.lanes)?, 1))
    }

    /// The lanes that hold zero.
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub fn zeros(&self) -> u8 {
        debug_assert!(self.bound() <= MOST);
        let mut zeros = 0xff;
        for component in &self.lanes {
            // Times one, reduced: below 2q, so zero is 0 or q.
            let mut reduced = [*component];
            multiply(&mut reduced, &one::<1>());
            let (mut zero, mut order) = (0xff, 0xff);
            for (limb, whole) in reduced[0].iter().zip(ORDER) {
                zero &= _mm512_cmpeq_epi64_mask(*limb, _mm512_setzero_si512());
                order &= _mm512_cmpeq_epi64_mask(*limb, all(whole));
            }
            zeros &= zero | order;
        }
        zeros
    }

    /// `other` in the lanes of the mask.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub fn or(&self, mask: u8, other: &Self) -> Self {
        let mut lanes = self.lanes;
        for (to, from) in lanes.iter_mut().zip(&other.lanes) {
            for (to, from) in to.iter_mut().zip(from) {
                *to = _mm512_mask_mov_epi64(*to, mask, *from);
            }
        }
        Self::new(lanes, self.bound().max(other.bound()))
    }
}

impl Fe<2> {
    /// `c0 + c1·u`.
    #[inline]
    pub fn pair(c0: &Fe<1>, c1: &Fe<1>) -> Self {
        Self::new([c0.lanes[0], c1.lanes[0]], c0.bound().max(c1.bound()))
    }

    /// `c0` and `c1`.
    #[inline]
    pub fn halves(&self) -> [Fe<1>; 2] {
        self.lanes.map(|lanes| Fe::new([lanes], self.bound()))
    }

    /// `self · other` before its reduction, in the place of `out`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub fn wide(&self, other: &Self, out: &mut Wide) {
        debug_assert!(self.bound() <= MOST && other.bound() <= MOST);
        wide_product(&mut out.lanes, &self.lanes, &other.lanes);
        #[cfg(debug_assertions)]
        {
            // (a₀ + a₁)(b₀ + b₁) less two products; each has limbs that are sums of 16 of 52 bits.
            (out.value, out.limb) = (6 * self.bound * other.bound, 32);
        }
    }
}

/// Sums of products in Fq2 before their reduction: limbs of either sign that are not normalised.
#[derive(Clone, Copy)]
pub struct Wide {
    lanes: [[__m512i; 2 * LIMBS]; 2],
    /// Each component is within so many times `q²` of zero.
    #[cfg(debug_assertions)]
    value: u64,
    /// Each limb is within so many times 2^52 of zero.
    #[cfg(debug_assertions)]
    limb: u64,
}

impl Wide {
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub fn zero() -> Self {
        Wide {
            lanes: [[_mm512_setzero_si512(); 2 * LIMBS]; 2],
            #[cfg(debug_assertions)]
            value: 0,
            #[cfg(debug_assertions)]
            limb: 0,
        }
    }

    #[inline]
    fn grow(&mut self, _value: u64, _limb: u64) {
        #[cfg(debug_assertions)]
        {
            self.value += _value;
            self.limb += _limb;
        }
    }

    /// How far from zero values and limbs may be, nothing where it is not kept.
    #[inline]
    fn reach(&self) -> (u64, u64) {
        #[cfg(debug_assertions)]
        return (self.value, self.limb);
        #[cfg(not(debug_assertions))]
        (0, 0)
    }

    /// Adds another sum.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub fn add(&mut self, other: &Self) {
        for (to, from) in self.lanes.iter_mut().zip(&other.lanes) {
            for (to, from) in to.iter_mut().zip(from) {
                *to = _mm512_add_epi64(*to, *from);
            }
        }
        let (value, limb) = other.reach();
        self.grow(value, limb);
    }

    /// Subtracts another sum.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub fn subtract(&mut self, other: &Self) {
        for (to, from) in self.lanes.iter_mut().zip(&other.lanes) {
            for (to, from) in to.iter_mut().zip(from) {
                *to = _mm512_sub_epi64(*to, *from);
            }
        }
        let (value, limb) = other.reach();
        self.grow(value, limb);
    }

    /// Multiplies by `1 + u`, by which the tower's next step is no cube.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub fn twist(&mut self) {
        let [c0, c1] = &mut self.lanes;
        for (c0, c1) in c0.iter_mut().zip(c1) {
            (*c0, *c1) = (_mm512_sub_epi64(*c0, *c1), _mm512_add_epi64(*c0, *c1));
        }
        let (value, limb) = self.reach();
        self.grow(value, limb);
    }

    /// The element; its bound is 3.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub fn reduced(&self) -> Fe<2> {
        // 2^33·q² is a quarter of 2^416·q: from −q/4 to 1.5·q, and one q more.
        debug_assert!(self.reach().0 <= 1 << 33 && self.reach().1 <= 1 << 10);
        let mut out = Fe::zero();
        reduce_wide(&mut out.lanes, &self.lanes);
        Fe::new(out.lanes, 3)
    }
}

#[inline(never)]
#[target_feature(enable = "avx512f,avx512ifma")]
fn reduce_wide(out: &mut Coordinates<2>, wide: &[[__m512i; 2 * LIMBS]; 2]) {
    for (to, from) in out.iter_mut().zip(wide) {
        *to = reduce(*from);
        for (limb, order) in to.iter_mut().zip(ORDER) {
            *limb = _mm512_add_epi64(*limb, all(order));
        }
        *to = carry_signed(*to);
    }
}

#[inline(never)]
#[target_feature(enable = "avx512f,avx512ifma")]
fn wide_product(out: &mut [[__m512i; 2 * LIMBS]; 2], a: &Coordinates<2>, b: &Coordinates<2>) {
    let real = product_of(&a[0], &b[0]);
    let imaginary = product_of(&a[1], &b[1]);
    let cross = product_of(&sum(&a[0], &a[1]), &sum(&b[0], &b[1]));
    for i in 0..2 * LIMBS {
        out[0][i] = _mm512_sub_epi64(real[i], imaginary[i]);
        out[1][i] = _mm512_sub_epi64(_mm512_sub_epi64(cross[i], real[i]), imaginary[i]);
    }
}

/// Squares in place a value below [`MOST`] times `q`: normalised, below `3q`.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512ifma")]
fn square_in_place<const D: usize>(a: &mut Coordinates<D>) {
    if D == 1 {
        a[0] = carry_signed(reduce(square(&a[0])));
        return;
    }
    let plus = sum(&a[0], &a[D - 1]);
    let minus = difference(&a[0], &a[D - 1], &MOST_ORDERS);
    let twice = sum(&a[0], &a[0]);
    let cross = product_of(&twice, &a[D - 1]);
    a[0] = carry_signed(reduce(product_of(&plus, &minus)));
    a[D - 1] = carry_signed(reduce(cross));
}

/// `2^448 mod q`.
fn rising() -> &'static Limbs {
    static FACTOR: std::sync::OnceLock<Limbs> = std::sync::OnceLock::new();
    FACTOR.get_or_init(|| split(Fq::from(2u64).pow([448]).into_bigint().0))
}

/// A field of arkworks as `D` components, in the order of `c0, c1`.
pub trait Components<const D: usize>: Field {
    /// Takes it apart.
    fn apart(self) -> [Fq; D];
    /// Puts it together.
    fn together(components: [Fq; D]) -> Self;
    /// Its inverse; zero has none.
    fn inverted(self) -> Option<Self>;
}

impl Components<1> for Fq {
    fn apart(self) -> [Fq; 1] {
        [self]
    }
    fn together([value]: [Fq; 1]) -> Self {
        value
    }
    fn inverted(self) -> Option<Self> {
        inverse(self)
    }
}

impl Components<2> for Fq2 {
    fn apart(self) -> [Fq; 2] {
        [self.c0, self.c1]
    }
    fn together([c0, c1]: [Fq; 2]) -> Self {
        Fq2 { c0, c1 }
    }
    fn inverted(self) -> Option<Self> {
        let norm = inverse(self.c0.square() + self.c1.square())?;
        Some(Fq2 {
            c0: self.c0 * norm,
            c1: -self.c1 * norm,
        })
    }
}

/// Coordinates as rows, a lane to a register.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
pub fn rows<const D: usize>(coordinates: &Coordinates<D>) -> Coordinates<D> {
    let mut out = *coordinates;
    for component in &mut out {
        *component = transpose(*component);
    }
    out
}

/// Rows to columns: eight registers of eight words.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
pub fn transpose(r: [__m512i; 8]) -> [__m512i; 8] {
    let mut pairs = r;
    for i in 0..4 {
        pairs[2 * i] = _mm512_unpacklo_epi64(r[2 * i], r[2 * i + 1]);
        pairs[2 * i + 1] = _mm512_unpackhi_epi64(r[2 * i], r[2 * i + 1]);
    }
    let mut quads = pairs;
    for half in [0, 4] {
        for i in [0, 1] {
            let (low, high) = (pairs[half + i], pairs[half + 2 + i]);
            quads[half + i] = _mm512_shuffle_i64x2::<0x88>(low, high);
            quads[half + 2 + i] = _mm512_shuffle_i64x2::<0xdd>(low, high);
        }
    }
    let mut columns = quads;
    for i in [0, 1] {
        columns[i] = _mm512_shuffle_i64x2::<0x88>(quads[i], quads[4 + i]);
        columns[4 + i] = _mm512_shuffle_i64x2::<0xdd>(quads[i], quads[4 + i]);
        columns[2 + i] = _mm512_shuffle_i64x2::<0x88>(quads[2 + i], quads[6 + i]);
        columns[6 + i] = _mm512_shuffle_i64x2::<0xdd>(quads[2 + i], quads[6 + i]);
    }
    columns
}

#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
pub fn difference(a: &Lanes, b: &Lanes, bound: &Limbs) -> Lanes {
    let mut limbs = *a;
    for i in 0..LIMBS {
        limbs[i] = _mm512_add_epi64(_mm512_sub_epi64(a[i], b[i]), all(bound[i]));
    }
    carry_signed(limbs)
}

#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
pub fn sum(a: &Lanes, b: &Lanes) -> Lanes {
    let mut limbs = *a;
    for i in 0..LIMBS {
        limbs[i] = _mm512_add_epi64(a[i], b[i]);
    }
    carry_signed(limbs)
}

/// Multiplies in place: Montgomery product, normalised, below `3q`.
///
/// A call, for inlined products would outgrow the cache of instructions.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512ifma")]
pub fn multiply<const D: usize>(a: &mut Coordinates<D>, b: &Coordinates<D>) {
    let mut out = product_reduced(a, b);
    if D == 2 {
        for i in 0..LIMBS {
            out[0][i] = _mm512_add_epi64(out[0][i], all(ORDER[i]));
        }
    }
    for c in 0..D {
        a[c] = carry_signed(out[c]);
    }
}

/// Montgomery product before the carries; the real part of two components may be negative, above `−q`.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
pub fn product_reduced<const D: usize>(a: &Coordinates<D>, b: &Coordinates<D>) -> Coordinates<D> {
    let mut out = *a;
    if D == 1 {
        out[0] = reduce(product_of(&a[0], &b[0]));
        return out;
    }
    // Karatsuba: three products, two reductions.
    let real = product_of(&a[0], &b[0]);
    let imaginary = product_of(&a[D - 1], &b[D - 1]);
    let mut cross = product_of(&sum(&a[0], &a[D - 1]), &sum(&b[0], &b[D - 1]));
    let mut norm = real;
    for i in 0..2 * LIMBS {
        norm[i] = _mm512_sub_epi64(real[i], imaginary[i]);
        cross[i] = _mm512_sub_epi64(_mm512_sub_epi64(cross[i], real[i]), imaginary[i]);
    }
    out[0] = reduce(norm);
    out[D - 1] = reduce(cross);
    out
}

#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
pub fn product_of(a: &Lanes, b: &Lanes) -> [__m512i; 2 * LIMBS] {
    let mut wide = [_mm512_setzero_si512(); 2 * LIMBS];
    for i in 0..LIMBS {
        for j in 0..LIMBS {
            wide[i + j] = _mm512_madd52lo_epu64(wide[i + j], a[i], b[j]);
            wide[i + j + 1] = _mm512_madd52hi_epu64(wide[i + j + 1], a[i], b[j]);
        }
    }
    wide
}

#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
pub fn square(a: &Lanes) -> [__m512i; 2 * LIMBS] {
    let mut wide = [_mm512_setzero_si512(); 2 * LIMBS];
    for i in 0..LIMBS {
        for j in i + 1..LIMBS {
            wide[i + j] = _mm512_madd52lo_epu64(wide[i + j], a[i], a[j]);
            wide[i + j + 1] = _mm512_madd52hi_epu64(wide[i + j + 1], a[i], a[j]);
        }
    }
    for limb in &mut wide {
        *limb = _mm512_add_epi64(*limb, *limb);
    }
    for i in 0..LIMBS {
        wide[2 * i] = _mm512_madd52lo_epu64(wide[2 * i], a[i], a[i]);
        wide[2 * i + 1] = _mm512_madd52hi_epu64(wide[2 * i + 1], a[i], a[i]);
    }
    wide
}

/// Montgomery reduction of limbs that may be negative, within 2^62 of zero; those of the result are not normalised and
/// within 2^63. Adds less than `1.25·q` to the quotient by 2^416.
///
/// Seven steps add `limb·(k·q)` with `k·q ≡ −1 (mod 2^52)`, which takes the limb away and leaves
/// `limb·`[`FOLD`] a place higher: no factor has to be computed first, so a step waits for one product only. Together
/// they add less than `k·q/2^52 < q/4`. The last step adds a multiple of `q` itself, less than `q`; another step of the
/// first kind would add up to `k·q`.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
pub fn reduce(mut limbs: [__m512i; 2 * LIMBS]) -> Lanes {
    const LAST: usize = LIMBS - 1;
    for i in 0..LAST {
        // Products see the low 52 bits; what is above them moves on.
        let up = _mm512_srai_epi64::<{ LIMB_BITS as u32 }>(limbs[i]);
        limbs[i + 1] = _mm512_add_epi64(limbs[i + 1], up);
        for j in 0..LIMBS {
            limbs[i + j + 1] = _mm512_madd52lo_epu64(limbs[i + j + 1], limbs[i], all(FOLD[j]));
            limbs[i + j + 2] = _mm512_madd52hi_epu64(limbs[i + j + 2], limbs[i], all(FOLD[j]));
        }
    }
    let inverse = all(NEGATED_INVERSE);
    let factor = _mm512_madd52lo_epu64(_mm512_setzero_si512(), limbs[LAST], inverse);
    // The low 52 bits and those of `factor·q` add up to zero: to 2^52, unless there are none.
    let rounded = _mm512_add_epi64(limbs[LAST], all(LIMB_MASK));
    let up = _mm512_srai_epi64::<{ LIMB_BITS as u32 }>(rounded);
    limbs[LIMBS] = _mm512_add_epi64(limbs[LIMBS], up);
    limbs[LIMBS] = _mm512_madd52hi_epu64(limbs[LIMBS], factor, all(ORDER[0]));
    for j in 1..LIMBS {
        limbs[LAST + j] = _mm512_madd52lo_epu64(limbs[LAST + j], factor, all(ORDER[j]));
        limbs[LIMBS + j] = _mm512_madd52hi_epu64(limbs[LIMBS + j], factor, all(ORDER[j]));
    }
    let mut high = [_mm512_setzero_si512(); LIMBS];
    high.copy_from_slice(&limbs[LIMBS..]);
    high
}

/// Normalises limbs that may be negative; the value is not.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
pub fn carry_signed(mut limbs: Lanes) -> Lanes {
    for i in 0..LIMBS - 1 {
        let up = _mm512_srai_epi64::<{ LIMB_BITS as u32 }>(limbs[i]);
        limbs[i + 1] = _mm512_add_epi64(limbs[i + 1], up);
        limbs[i] = _mm512_and_si512(limbs[i], all(LIMB_MASK));
    }
    limbs
}

#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
pub fn all(value: u64) -> __m512i {
    _mm512_set1_epi64(value.cast_signed())
}

/// Eight words as a register.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
pub fn register(words: &Limbs) -> __m512i {
    // SAFETY: both are 64 bytes, and any bits are a value of either.
    unsafe { std::mem::transmute::<Limbs, __m512i>(*words) }
}

/// A register as eight words.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
pub fn words(register: __m512i) -> Limbs {
    // SAFETY: both are 64 bytes, and any bits are a value of either.
    unsafe { std::mem::transmute::<__m512i, Limbs>(register) }
}

/// The same coordinate in all lanes.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
pub fn spread(value: &Limbs) -> Lanes {
    let mut lanes = [_mm512_setzero_si512(); LIMBS];
    for (lane, limb) in lanes.iter_mut().zip(value) {
        *lane = all(*limb);
    }
    lanes
}

/// Lanes as eight arkworks elements, whatever multiple of `q` they carry.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
pub fn settle<F: Components<D>, const D: usize>(coordinates: &Coordinates<D>) -> [F; LANES] {
    // x·2^416 times 2^384, reduced by 2^416: arkworks' Montgomery form, below 2q.
    let factor = spread(&split(Fq::ONE.0.0));
    let mut components = [[Fq::ZERO; D]; LANES];
    for (c, component) in coordinates.iter().enumerate() {
        let settled = transpose(carry_signed(reduce(product_of(component, &factor))));
        for (lane, row) in settled.into_iter().enumerate() {
            let mut value = BigInt(join(words(row)));
            if value >= Fq::MODULUS {
                value.sub_with_borrow(&Fq::MODULUS);
            }
            components[lane][c] = Fq::new_unchecked(value);
        }
    }
    components.map(F::together)
}

/// Eight arkworks elements as lanes, below `q`.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
pub fn unsettle<F: Components<D>, const D: usize>(values: &[F; LANES]) -> Coordinates<D> {
    let shift = Fq::from(1u64 << 32);
    let mut out = [[_mm512_setzero_si512(); LIMBS]; D];
    for (lane, value) in values.iter().enumerate() {
        for (c, component) in value.apart().into_iter().enumerate() {
            out[c][lane] = register(&split((component * shift).0.0));
        }
    }
    rows(&out)
}

/// Inverts eight lanes with one inversion; `None` when one of them is zero.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
pub fn invert<F: Components<D>, const D: usize>(lanes: &Coordinates<D>) -> Option<Coordinates<D>> {
    let mut values: [F; LANES] = settle(lanes);
    let mut before = [F::ONE; LANES];
    let mut product = F::ONE;
    for (value, before) in values.iter().zip(&mut before) {
        *before = product;
        product *= value;
    }
    let mut inverse = product.inverted()?;
    for (value, before) in values.iter_mut().zip(before).rev() {
        let next = inverse * *value;
        *value = inverse * before;
        inverse = next;
    }
    Some(unsettle(&values))
}

/// One in the kernel's form, in all lanes.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
pub fn one<const D: usize>() -> Coordinates<D> {
    let mut out = [[_mm512_setzero_si512(); LIMBS]; D];
    out[0] = spread(&split(Fq::from(1u64 << 32).0.0));
    out
}

/// `2^832 mod q`.
pub fn entering() -> &'static Limbs {
    static FACTOR: std::sync::OnceLock<Limbs> = std::sync::OnceLock::new();
    FACTOR.get_or_init(|| split(Fq::from(2u64).pow([832]).into_bigint().0))
}

/// Six 64-bit words as eight 52-bit limbs.
#[inline]
pub const fn split(words: [u64; 6]) -> Limbs {
    let mut limbs = [0; LIMBS];
    let mut i = 0;
    while i < LIMBS {
        let (word, shift) = (i * LIMB_BITS / 64, i * LIMB_BITS % 64);
        let mut value = words[word] >> shift;
        if shift > 64 - LIMB_BITS && word + 1 < 6 {
            value |= words[word + 1] << (64 - shift);
        }
        limbs[i] = value & LIMB_MASK;
        i += 1;
    }
    limbs
}

/// Eight 52-bit limbs of a value below 2^384 as six words.
#[inline]
pub fn join(limbs: Limbs) -> [u64; 6] {
    let mut words = [0; 6];
    for (i, limb) in limbs.into_iter().enumerate() {
        let (word, shift) = (i * LIMB_BITS / 64, i * LIMB_BITS % 64);
        words[word] |= limb << shift;
        if shift > 64 - LIMB_BITS && word + 1 < 6 {
            words[word + 1] |= limb >> (64 - shift);
        }
    }
    words
}

const fn negated_inverse(low: u64) -> u64 {
    // Newton's iteration doubles the number of right bits: 1, 2, 4, …, 64.
    let mut inverse = 1u64;
    let mut i = 0;
    while i < 6 {
        inverse = inverse.wrapping_mul(2u64.wrapping_sub(low.wrapping_mul(inverse)));
        i += 1;
    }
    inverse.wrapping_neg() & LIMB_MASK
}

const fn fold() -> Limbs {
    let mut limbs = [0; LIMBS];
    let mut carry = 1u128;
    let mut i = 0;
    while i < LIMBS {
        carry += ORDER[i] as u128 * NEGATED_INVERSE as u128;
        if i > 0 {
            limbs[i - 1] = (carry as u64) & LIMB_MASK;
        } else {
            assert!(carry as u64 & LIMB_MASK == 0);
        }
        carry >>= LIMB_BITS;
        i += 1;
    }
    limbs[LIMBS - 1] = carry as u64;
    limbs
}

pub const fn multiple_of_order(factor: u64) -> Limbs {
    let mut limbs = [0; LIMBS];
    let mut carry = 0u128;
    let mut i = 0;
    while i < LIMBS {
        carry += ORDER[i] as u128 * factor as u128;
        limbs[i] = (carry as u64) & LIMB_MASK;
        carry >>= LIMB_BITS;
        i += 1;
    }
    assert!(carry == 0);
    limbs
}

#[cfg(test)]
mod tests {
    use super::super::Ifma;
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn limbs_split_and_join() {
        for words in [[0; 6], [u64::MAX; 6], Fq::MODULUS.0, [1, 2, 3, 4, 5, 6]] {
            assert_eq!(join(split(words)), words);
        }
    }

    /// Random elements and the edges of the field, each with each.
    fn operands<F: Field>(seed: u64, edge: impl Fn(Fq, Fq) -> F) -> Vec<F> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let small = [0u64, 1, 2].map(Fq::from);
        let edges: Vec<Fq> = small.into_iter().chain(small.map(|x| -x)).collect();
        let mut out: Vec<F> = Vec::new();
        for a in &edges {
            out.extend(edges.iter().map(|b| edge(*a, *b)));
        }
        out.extend((0..100).map(|_| F::rand(&mut rng)));
        out
    }

    fn check<F: Components<D>, const D: usize>(values: &[F]) {
        let Some(ifma) = Ifma::detect() else { return };
        for round in 0..values.len() {
            let a: [F; LANES] = std::array::from_fn(|lane| values[(round + lane) % values.len()]);
            let b: [F; LANES] =
                std::array::from_fn(|lane| values[(7 * round + 5 * lane) % values.len()]);
            // SAFETY: `ifma` proves that the CPU has the features.
            unsafe { compare(ifma, &a, &b) };
        }
    }

    #[target_feature(enable = "avx512f,avx512ifma")]
    fn compare<F: Components<D>, const D: usize>(_: Ifma, a: &[F; LANES], b: &[F; LANES]) {
        let (x, y) = (Fe::enter(a), Fe::enter(b));
        let lanes =
            |f: &dyn Fn(F, F) -> F| -> [F; LANES] { std::array::from_fn(|i| f(a[i], b[i])) };
        assert_eq!(x.leave::<F>(), *a);
        assert_eq!(x.plus(&y).leave::<F>(), lanes(&|a, b| a + b));
        assert_eq!(x.minus::<2>(&y).leave::<F>(), lanes(&|a, b| a - b));
        assert_eq!(x.minus::<1000>(&y).leave::<F>(), lanes(&|a, b| a - b));
        assert_eq!(x.times(&y).leave::<F>(), lanes(&|a, b| a * b));
        assert_eq!(x.squared().leave::<F>(), lanes(&|a, _| a.square()));
        assert_eq!(x.tripled().leave::<F>(), lanes(&|a, _| a + a + a));
        assert_eq!(
            x.shifted::<4>().leave::<F>(),
            lanes(&|a, _| a * F::from(16u64))
        );
        // Loose operands, near the largest bound.
        let (loose, other) = (x.minus::<1000>(&y), y.minus::<1000>(&x));
        assert_eq!(
            loose.times(&other).leave::<F>(),
            lanes(&|a, b| (a - b) * (b - a))
        );
        assert_eq!(
            loose.squared().leave::<F>(),
            lanes(&|a, b| (a - b).square())
        );
        let zeros = |f: &dyn Fn(usize) -> F| {
            (0..LANES).fold(0, |mask, i| mask | u8::from(f(i).is_zero()) << i)
        };
        assert_eq!(x.zeros(), zeros(&|i| a[i]));
        assert_eq!(loose.zeros(), zeros(&|i| a[i] - b[i]));
        assert_eq!(x.minus::<2>(&x).zeros(), 0xff);
        assert_eq!(
            x.or(0b1010_0001, &y).leave::<F>(),
            std::array::from_fn(|i| if 0b1010_0001 >> i & 1 == 1 {
                b[i]
            } else {
                a[i]
            })
        );
        let inverses: Option<Vec<F>> = a.iter().map(F::inverse).collect();
        assert_eq!(x.inverted::<F>().map(|x| x.leave::<F>().to_vec()), inverses);
    }

    #[test]
    fn elements_are_arkworks() {
        check(&operands::<Fq>(1, |a, b| a - b));
        check(&operands::<Fq2>(2, Fq2::new));
    }

    #[test]
    fn sums_of_wide_products_are_arkworks() {
        let Some(ifma) = Ifma::detect() else { return };
        let values = operands::<Fq2>(3, Fq2::new);
        for round in 0..values.len() {
            let pick = |step: usize| {
                std::array::from_fn(|lane| values[(step * round + 3 * lane) % values.len()])
            };
            // SAFETY: `ifma` proves that the CPU has the features.
            unsafe { compare_wide(ifma, &pick(1), &pick(5), &pick(11)) };
        }
    }

    #[target_feature(enable = "avx512f,avx512ifma")]
    fn compare_wide(_: Ifma, a: &[Fq2; LANES], b: &[Fq2; LANES], c: &[Fq2; LANES]) {
        let (x, y, z) = (Fe::enter(a), Fe::enter(b), Fe::enter(c));
        let mut found = Wide::zero();
        let mut next = Wide::zero();
        x.wide(&y, &mut found);
        y.wide(&z, &mut next);
        found.subtract(&next);
        found.twist();
        x.wide(&z, &mut next);
        found.subtract(&next);
        z.wide(&z, &mut next);
        found.add(&next);
        let twist = Fq2::new(Fq::ONE, Fq::ONE);
        let expected = std::array::from_fn(|i| {
            (a[i] * b[i] - b[i] * c[i]) * twist - a[i] * c[i] + c[i].square()
        });
        assert_eq!(found.reduced().leave::<Fq2>(), expected);
        let [x0, x1] = x.halves();
        assert_eq!(
            Fe::pair(&x1, &x0).leave::<Fq2>(),
            a.map(|a| Fq2::new(a.c1, a.c0))
        );
        let by: [Fq; LANES] = b.map(|b| b.c0);
        let scaled: [Fq2; LANES] =
            std::array::from_fn(|i| Fq2::new(a[i].c0 * by[i], a[i].c1 * by[i]));
        assert_eq!(x.scaled(&Fe::enter(&by)).leave::<Fq2>(), scaled);
    }
}
