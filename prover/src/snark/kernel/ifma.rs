//! G1 additions eight lanes at a time in AVX-512 registers, 52-bit limbs.
//!
//! Plain twin: [`super::portable`]; both run the same tests. Form: a coordinate is eight limbs of 52
//! bits, little-endian, standing for `x·2^416 mod q`, and is kept below a multiple of `q` that grows
//! with the depth of the sum instead of below `q`. With `q < 2^380.8` there are 35 bits of room:
//!
//! * imported points are below `q`, negated ones at most `2q`;
//! * operands at level `l` are below `X_l·q` with `X_l = 2^(l+2) − 2`;
//! * a Montgomery product of `a·q` and `b·q` is below `(a·b/2^35 + 1)·q`, so below `2q` whenever
//!   `a·b ≤ 2^35`: all products here have `a ≤ 2·X_(l+1) ≤ 2^28` and `b ≤ 2`;
//! * the chord gives `x₃ = λ² − x₁ − x₂ + 2·X_l·q < (2·X_l + 2)·q = X_(l+1)·q` and
//!   `y₃ = λ·(x₁ − x₃) − y₁ + X_l·q < X_(l+1)·q`; added multiples of `q` keep differences positive.
//!
//! Cost: about 65 ns an addition on Zen 5 with the operands in cache, against 200 ns for the twin.
//!
//! `unsafe`: the functions here are compiled for AVX-512F and IFMA. [`Ifma`] is the evidence that
//! both exist; whoever enters them from ordinary code holds one.

#![allow(unsafe_code)]

use std::arch::x86_64::*;

use ark_bls12_381::{Fq, G1Affine, g1};
use ark_ff::{BigInt, BigInteger, Field, PrimeField};

use super::{EqualOperands, Kernel, MAX_LEVEL, NEGATED, Pair, operand};

const LIMBS: usize = 8;
const LANES: usize = 8;
const LIMB_BITS: usize = 52;
const LIMB_MASK: u64 = (1 << LIMB_BITS) - 1;
const ORDER: Limbs = split(Fq::MODULUS.0);
/// `−q^−1 mod 2^52`.
const NEGATED_INVERSE: u64 = negated_inverse(ORDER[0]);

/// `X_l·q` for every level and the one after the last.
const BOUNDS: [Limbs; MAX_LEVEL + 2] = bounds(1);
/// `2·X_l·q`.
const DOUBLE_BOUNDS: [Limbs; MAX_LEVEL + 2] = bounds(2);

// The products' bound of the front page: 2·X_(l+1)·2 ≤ 2^35, and all values fit 416 bits.
const _: () = assert!(MAX_LEVEL + 5 <= 35);

/// One coordinate.
type Limbs = [u64; LIMBS];
/// Eight coordinates, register `i` holding limb `i` of each.
type Lanes = [__m512i; LIMBS];

/// Evidence that this CPU has AVX-512F and IFMA.
#[derive(Clone, Copy, Debug)]
pub struct Ifma(());

/// A point, one cache line a coordinate.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Point {
    x: Limbs,
    y: Limbs,
}

/// Per group of eight pairs: differences of x, and the product of those of the groups before.
#[derive(Default)]
pub struct Scratch {
    groups: Vec<Group>,
}

#[derive(Clone, Copy)]
struct Group {
    difference: Lanes,
    before: Lanes,
}

impl Ifma {
    /// Asks the CPU; the answer is cached by the standard library.
    pub fn detect() -> Option<Self> {
        let found = std::arch::is_x86_feature_detected!("avx512f")
            && std::arch::is_x86_feature_detected!("avx512ifma");
        found.then_some(Self(()))
    }
}

impl Kernel for Ifma {
    type Curve = g1::Config;
    type Point = Point;
    type Scratch = Scratch;

    fn import(self, points: &[G1Affine]) -> Vec<Point> {
        // Montgomery form with 2^384 to the one with 2^416.
        let shift = Fq::from(1u64 << 32);
        let coordinate = |c: Fq| split((c * shift).0.0);
        points
            .iter()
            .map(|p| Point {
                x: coordinate(p.x),
                y: coordinate(p.y),
            })
            .collect()
    }

    fn export(self, points: &[Point]) -> Vec<G1Affine> {
        // SAFETY: `self` proves that the CPU has the features that `export` is compiled for.
        unsafe { export(points) }
    }

    fn decode(self, bytes: &[u8]) -> Option<Point> {
        let (x, y) = bytes.split_at_checked(48)?;
        let y: &[u8; 48] = y.try_into().ok()?;
        let x: &[u8; 48] = x.try_into().ok()?;
        // Any flag is a bit above the modulus, so the coordinate's check finds it. The identity is
        // flagged; x = y = 0 without a flag is no point of the curve.
        Some(Point {
            x: read_coordinate(x)?,
            y: read_coordinate(y)?,
        })
    }

    fn negate(self, point: &Point) -> Point {
        // 2q − y, limb by limb with a signed borrow; y is at most q, so nothing is left over.
        let mut y = [0; LIMBS];
        let mut borrow = 0i64;
        for i in 0..LIMBS {
            let limb = BOUNDS[0][i].cast_signed() - point.y[i].cast_signed() + borrow;
            y[i] = limb.cast_unsigned() & LIMB_MASK;
            borrow = limb >> LIMB_BITS;
        }
        Point { x: point.x, y }
    }

    fn add(
        self,
        scratch: &mut Scratch,
        level: usize,
        left: &[Point],
        right: &[Point],
        pairs: &[Pair],
        out: &mut [Point],
    ) -> Result<(), EqualOperands> {
        assert!(level <= MAX_LEVEL, "deeper sums would outgrow their limbs");
        if pairs.is_empty() {
            return Ok(());
        }
        // SAFETY: `self` proves that the CPU has the features that `add` is compiled for.
        unsafe { add(scratch, level, left, right, pairs, out) }
    }
}

/// The eight pairs of a group. The last group repeats its last pair in the lanes left over.
fn group(pairs: &[Pair], first: usize) -> [Pair; LANES] {
    std::array::from_fn(|lane| pairs[(first + lane).min(pairs.len() - 1)])
}

#[target_feature(enable = "avx512f,avx512ifma")]
fn add(
    scratch: &mut Scratch,
    level: usize,
    left: &[Point],
    right: &[Point],
    pairs: &[Pair],
    out: &mut [Point],
) -> Result<(), EqualOperands> {
    let groups = pairs.len().div_ceil(LANES);
    let mut product = spread(&one());
    scratch.groups.clear();
    for g in 0..groups {
        prefetch(left, right, pairs, LANES * (g + 4));
        let pairs = group(pairs, LANES * g);
        let x1 = gather(left, &pairs.map(|p| p.a), |p| &p.x);
        let x2 = gather(right, &pairs.map(|p| p.b), |p| &p.x);
        let difference = subtract(&x2, &x1, &BOUNDS[level]);
        scratch.groups.push(Group {
            difference,
            before: product,
        });
        product = multiply(&product, &difference);
    }
    let mut inverse = invert(&product).ok_or(EqualOperands)?;
    for g in (0..groups).rev() {
        let here = group(pairs, LANES * g);
        let (a, b) = (here.map(|p| p.a), here.map(|p| p.b));
        let (x1, x2) = (gather(left, &a, |p| &p.x), gather(right, &b, |p| &p.x));
        let (y1, y2) = (gather_signed(left, &a), gather_signed(right, &b));
        let Group { difference, before } = scratch.groups[g];
        let slope = multiply(&inverse, &before);
        inverse = multiply(&inverse, &difference);
        let slope = multiply(&subtract(&y2, &y1, &BOUNDS[level]), &slope);

        let x3 = chord_x(&slope, &x1, &x2, &DOUBLE_BOUNDS[level]);
        let y3 = chord_y(
            &slope,
            &subtract(&x1, &x3, &BOUNDS[level + 1]),
            &y1,
            &BOUNDS[level],
        );
        let (x3, y3) = (transpose(x3), transpose(y3));
        let used = LANES.min(pairs.len() - LANES * g);
        for ((pair, x), y) in here.iter().zip(x3).zip(y3).take(used) {
            let to = &mut out[pair.to as usize];
            // SAFETY: each coordinate has the 64 bytes of a register; these stores need no alignment.
            unsafe {
                _mm512_storeu_si512(to.x.as_mut_ptr().cast(), x);
                _mm512_storeu_si512(to.y.as_mut_ptr().cast(), y);
            }
        }
    }
    Ok(())
}

/// `λ² − x₁ − x₂ + bound`.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn chord_x(slope: &Lanes, x1: &Lanes, x2: &Lanes, bound: &Limbs) -> Lanes {
    let mut limbs = reduce(square(slope));
    for i in 0..LIMBS {
        let rest = _mm512_sub_epi64(_mm512_sub_epi64(limbs[i], x1[i]), x2[i]);
        limbs[i] = _mm512_add_epi64(rest, all(bound[i]));
    }
    carry_signed(limbs)
}

/// `λ·d − y₁ + bound`.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn chord_y(slope: &Lanes, d: &Lanes, y1: &Lanes, bound: &Limbs) -> Lanes {
    let mut limbs = reduce(product_of(slope, d));
    for i in 0..LIMBS {
        limbs[i] = _mm512_add_epi64(_mm512_sub_epi64(limbs[i], y1[i]), all(bound[i]));
    }
    carry_signed(limbs)
}

/// Asks for the lines that a group some steps ahead will read.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn prefetch(left: &[Point], right: &[Point], pairs: &[Pair], first: usize) {
    if first + LANES > pairs.len() {
        return;
    }
    for pair in &pairs[first..first + LANES] {
        for point in [&left[operand(pair.a).0], &right[operand(pair.b).0]] {
            _mm_prefetch::<_MM_HINT_T0>(point.x.as_ptr().cast());
            _mm_prefetch::<_MM_HINT_T0>(point.y.as_ptr().cast());
        }
    }
}

/// One coordinate of eight points, a limb to a register.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn gather(
    points: &[Point],
    indexes: &[u32; LANES],
    coordinate: impl Fn(&Point) -> &Limbs,
) -> Lanes {
    let mut rows = [_mm512_setzero_si512(); LANES];
    for (row, index) in rows.iter_mut().zip(indexes) {
        let limbs = coordinate(&points[operand(*index).0]);
        // SAFETY: a coordinate has the 64 bytes of a register; this load needs no alignment.
        *row = unsafe { _mm512_loadu_si512(limbs.as_ptr().cast()) };
    }
    transpose(rows)
}

/// The y coordinates, those flagged replaced by `2q − y`.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn gather_signed(points: &[Point], indexes: &[u32; LANES]) -> Lanes {
    let mut y = gather(points, indexes, |p| &p.y);
    let mask = indexes.iter().enumerate().fold(0u8, |mask, (lane, i)| {
        mask | u8::from(i & NEGATED != 0) << lane
    });
    if mask == 0 {
        return y;
    }
    for i in 0..LIMBS {
        y[i] = _mm512_mask_sub_epi64(y[i], mask, all(BOUNDS[0][i]), y[i]);
    }
    carry_signed(y)
}

/// Rows to columns: eight registers of eight words.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn transpose(r: [__m512i; 8]) -> [__m512i; 8] {
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

/// `a − b + bound`, where `bound` is a multiple of `q` not below `b`.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn subtract(a: &Lanes, b: &Lanes, bound: &Limbs) -> Lanes {
    let mut limbs = *a;
    for i in 0..LIMBS {
        limbs[i] = _mm512_add_epi64(_mm512_sub_epi64(a[i], b[i]), all(bound[i]));
    }
    carry_signed(limbs)
}

/// Montgomery product.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn multiply(a: &Lanes, b: &Lanes) -> Lanes {
    carry_signed(reduce(product_of(a, b)))
}

#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn product_of(a: &Lanes, b: &Lanes) -> [__m512i; 2 * LIMBS] {
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
fn square(a: &Lanes) -> [__m512i; 2 * LIMBS] {
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

/// Montgomery reduction; the limbs of the result are not normalised (below 2^58).
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn reduce(mut limbs: [__m512i; 2 * LIMBS]) -> Lanes {
    let inverse = all(NEGATED_INVERSE);
    for i in 0..LIMBS {
        let factor = _mm512_madd52lo_epu64(_mm512_setzero_si512(), limbs[i], inverse);
        // The low 52 bits become zero; what is above them moves on.
        limbs[i] = _mm512_madd52lo_epu64(limbs[i], factor, all(ORDER[0]));
        let up = _mm512_srli_epi64::<{ LIMB_BITS as u32 }>(limbs[i]);
        limbs[i + 1] = _mm512_add_epi64(limbs[i + 1], up);
        limbs[i + 1] = _mm512_madd52hi_epu64(limbs[i + 1], factor, all(ORDER[0]));
        for j in 1..LIMBS {
            limbs[i + j] = _mm512_madd52lo_epu64(limbs[i + j], factor, all(ORDER[j]));
            limbs[i + j + 1] = _mm512_madd52hi_epu64(limbs[i + j + 1], factor, all(ORDER[j]));
        }
    }
    let mut high = [_mm512_setzero_si512(); LIMBS];
    high.copy_from_slice(&limbs[LIMBS..]);
    high
}

/// Normalises limbs that may be negative; the value is not.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn carry_signed(mut limbs: Lanes) -> Lanes {
    for i in 0..LIMBS - 1 {
        let up = _mm512_srai_epi64::<{ LIMB_BITS as u32 }>(limbs[i]);
        limbs[i + 1] = _mm512_add_epi64(limbs[i + 1], up);
        limbs[i] = _mm512_and_si512(limbs[i], all(LIMB_MASK));
    }
    limbs
}

#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn all(value: u64) -> __m512i {
    _mm512_set1_epi64(value.cast_signed())
}

/// The same coordinate in all lanes.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn spread(value: &Limbs) -> Lanes {
    let mut lanes = [_mm512_setzero_si512(); LIMBS];
    for (lane, limb) in lanes.iter_mut().zip(value) {
        *lane = all(*limb);
    }
    lanes
}

/// Lanes as eight arkworks elements, whatever multiple of `q` they carry.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn settle(lanes: &Lanes) -> [Fq; LANES] {
    // x·2^416 times 2^384, reduced by 2^416: arkworks' Montgomery form, below 2q.
    let settled = multiply(lanes, &spread(&split(Fq::ONE.0.0)));
    let rows = transpose(settled);
    rows.map(|row| {
        let mut limbs = [0u64; LIMBS];
        // SAFETY: the array has the 64 bytes of a register; this store needs no alignment.
        unsafe { _mm512_storeu_si512(limbs.as_mut_ptr().cast(), row) };
        let mut value = BigInt(join(limbs));
        if value >= Fq::MODULUS {
            value.sub_with_borrow(&Fq::MODULUS);
        }
        Fq::new_unchecked(value)
    })
}

#[target_feature(enable = "avx512f,avx512ifma")]
fn export(points: &[Point]) -> Vec<G1Affine> {
    let mut out = Vec::with_capacity(points.len());
    for chunk in points.chunks(LANES) {
        let indexes: [u32; LANES] = std::array::from_fn(|lane| lane.min(chunk.len() - 1) as u32);
        let x = settle(&gather(chunk, &indexes, |p| &p.x));
        let y = settle(&gather(chunk, &indexes, |p| &p.y));
        out.extend(
            x.into_iter()
                .zip(y)
                .take(chunk.len())
                .map(|(x, y)| G1Affine::new_unchecked(x, y)),
        );
    }
    out
}

/// Inverts eight lanes with one inversion; `None` when one of them is zero.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn invert(lanes: &Lanes) -> Option<Lanes> {
    let values = settle(lanes);
    let mut before = [Fq::ONE; LANES];
    let mut product = Fq::ONE;
    for (value, before) in values.iter().zip(&mut before) {
        *before = product;
        product *= value;
    }
    let mut inverse = product.inverse()?;
    let shift = Fq::from(1u64 << 32);
    let mut rows = [_mm512_setzero_si512(); LANES];
    for lane in (0..LANES).rev() {
        let limbs = split((inverse * before[lane] * shift).0.0);
        // SAFETY: the array has the 64 bytes of a register; this load needs no alignment.
        rows[lane] = unsafe { _mm512_loadu_si512(limbs.as_ptr().cast()) };
        inverse *= values[lane];
    }
    Some(transpose(rows))
}

/// One in the kernel's form.
fn one() -> Limbs {
    split(Fq::from(1u64 << 32).0.0)
}

/// A canonical big-endian coordinate, times 2^416.
fn read_coordinate(bytes: &[u8; 48]) -> Option<Limbs> {
    let mut words = [0u64; 6];
    for (word, bytes) in words.iter_mut().rev().zip(bytes.chunks_exact(8)) {
        *word = u64::from_be_bytes(bytes.try_into().expect("chunks of eight bytes"));
    }
    let value = BigInt(words);
    // Read as arkworks' Montgomery form this is x·2^−384; one product brings it to x·2^416.
    (value < Fq::MODULUS).then(|| split((Fq::new_unchecked(value) * *shift_800()).0.0))
}

/// The element whose Montgomery form is `2^800 mod q`, which is `2^416`.
fn shift_800() -> &'static Fq {
    static SHIFT: std::sync::OnceLock<Fq> = std::sync::OnceLock::new();
    SHIFT.get_or_init(|| Fq::from(2u64).pow([416]))
}

/// Six 64-bit words as eight 52-bit limbs.
const fn split(words: [u64; 6]) -> Limbs {
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
fn join(limbs: Limbs) -> [u64; 6] {
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

const fn bounds(factor: u64) -> [Limbs; MAX_LEVEL + 2] {
    let mut table = [[0; LIMBS]; MAX_LEVEL + 2];
    let mut level = 0;
    while level < table.len() {
        table[level] = multiple_of_order(factor * ((1 << (level + 2)) - 2));
        level += 1;
    }
    table
}

const fn multiple_of_order(factor: u64) -> Limbs {
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
    use super::super::tests;
    use super::*;

    /// On a CPU without the instructions there is nothing to compare.
    fn with_kernel(test: impl FnOnce(Ifma)) {
        if let Some(kernel) = Ifma::detect() {
            test(kernel);
        }
    }

    #[test]
    fn sums_equal_arkworks() {
        with_kernel(tests::equals_arkworks);
    }

    #[test]
    fn equal_operands_are_reported() {
        with_kernel(tests::equal_operands_are_reported);
    }

    #[test]
    fn decodes_canonical_only() {
        with_kernel(tests::decodes_canonical_only);
    }

    #[test]
    fn limbs_split_and_join() {
        for words in [[0; 6], [u64::MAX; 6], Fq::MODULUS.0, [1, 2, 3, 4, 5, 6]] {
            assert_eq!(join(split(words)), words);
        }
    }
}
