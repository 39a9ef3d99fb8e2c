//! Additions in G1 and G2 eight lanes at a time in AVX-512 registers, 52-bit limbs.
//!
//! Plain twin: [`super::portable`]; both run the same tests. The field's arithmetic is [`crate::snark::lanes::field`]'s. A
//! coordinate has one component in G1, two in
//! G2 (`c0 + c1·u`, `u² = −1`), and the code is written once over that number, `D`. Form: a component is
//! eight limbs of 52 bits, little-endian, standing for `x·2^416 mod q`, and is kept below a multiple of
//! `q`, its [`Bound`], instead of below `q`. With `q < 2^380.8` there are 35 bits of room:
//!
//! * imported points are below `2q`, negated ones at most `2q`: [`Bound::FRESH`];
//! * a Montgomery product of `a·q` and `b·q` is below `(a·b/2^35 + 1.25)·q`, see [`reduce`]. Over two components
//!   the real part `a₀b₀ − a₁b₁` lies within `a·b/2^35` of `0..1.25·q` on either side and gets one `q` more, the
//!   imaginary part is below `(2·a·b/2^35 + 1.25)·q`: all products here have `a ≤ 2^30` and `b ≤ 3`, so
//!   they are below `3q`;
//! * squares are taken of slopes, below `3q`, and are below `2q`;
//! * the chord gives `x₃ = λ² − x₁ − x₂ + (b₁ + b₂)·q < (b₁ + b₂ + 2)·q`, the bound of the sum, and
//!   `y₃ = λ·(x₁ − x₃) − y₁ + (b₁ + 1)·q` below the same; added multiples keep differences positive.
//!
//! A sum of `n` imported points is thus below `4n·q`, whatever the order of the additions.
//! Cost: see the benches `prover::snark::msm`.
//!
//! `unsafe`: the functions here are compiled for AVX-512F and IFMA. [`Ifma`] is the evidence that
//! both exist; whoever enters them from ordinary code holds one.

#![allow(unsafe_code)]

use std::arch::x86_64::*;
use std::marker::PhantomData;

use ark_bls12_381::{Fq, Fr, g1, g2};
use ark_ec::short_weierstrass::{Affine, SWCurveConfig};
use ark_ff::{BigInt, PrimeField};

use super::{Bound, EqualOperands, Kernel, Left, NEGATED, Pair, operand};
use crate::snark::lanes::field::{
    Components, Coordinates, LANES, LIMB_BITS, LIMB_MASK, LIMBS, Limbs, all, carry_signed,
    difference, entering, invert, multiple_of_order, multiply, one, product_of, product_reduced,
    reduce, register, rows, settle, split, spread, square, sum, transpose, words,
};

/// How many groups before their use operands are asked for.
const AHEAD: usize = 8;
/// Bytes of an encoded component.
const COMPONENT_BYTES: usize = 48;
const TWICE_ORDER: Limbs = multiple_of_order(2);
const THRICE_ORDER: Limbs = multiple_of_order(3);

// The products' bound of the front page.
const _: () = assert!(2 * Bound::LIMIT + 2 <= 1 << 30);
const _: () = assert!(Bound::FRESH.0 == 2);

/// Evidence that this CPU has AVX-512F and IFMA, for a curve over `D` components.
#[derive(Debug)]
pub struct Ifma<C, const D: usize>(PhantomData<C>);

/// In G1.
pub type IfmaG1 = Ifma<g1::Config, 1>;
/// In G2.
pub type IfmaG2 = Ifma<g2::Config, 2>;

impl<C, const D: usize> Clone for Ifma<C, D> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<C, const D: usize> Copy for Ifma<C, D> {}

/// A point, one cache line a component.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Point<const D: usize> {
    x: [Limbs; D],
    y: [Limbs; D],
}

impl<const D: usize> Point<D> {
    fn x(point: *const Self) -> *const [Limbs; D] {
        point.cast()
    }
    fn y(point: *const Self) -> *const [Limbs; D] {
        point.cast::<[Limbs; D]>().wrapping_add(1)
    }
}

/// What the first pass leaves to the second.
#[derive(Default)]
pub struct Scratch<const D: usize> {
    steps: Vec<Step<D>>,
}

/// Of two groups of eight pairs each: the differences of x, and their products over the steps before.
#[derive(Clone)]
struct Step<const D: usize> {
    before: [Coordinates<D>; 2],
    differences: [Coordinates<D>; 2],
}

impl<const D: usize> Step<D> {
    #[target_feature(enable = "avx512f")]
    fn zero() -> Self {
        let zero = [[[_mm512_setzero_si512(); LIMBS]; D]; 2];
        Step {
            before: zero,
            differences: zero,
        }
    }
}

impl<C, const D: usize> Ifma<C, D> {
    /// Asks [`crate::instructions`].
    pub fn detect() -> Option<Self> {
        crate::instructions::ifma().then_some(Self(PhantomData))
    }
}

impl<C, const D: usize> Kernel for Ifma<C, D>
where
    C: SWCurveConfig<ScalarField = Fr, BaseField: Components<D>>,
{
    type Curve = C;
    type Point = Point<D>;
    type Scratch = Scratch<D>;

    fn import(self, points: &[Affine<C>]) -> Vec<Point<D>> {
        // Montgomery form with 2^384 to the one with 2^416.
        let shift = Fq::from(1u64 << 32);
        let coordinate = |c: C::BaseField| c.apart().map(|c| split((c * shift).0.0));
        points
            .iter()
            .map(|p| Point {
                x: coordinate(p.x),
                y: coordinate(p.y),
            })
            .collect()
    }

    fn export(self, points: &[Point<D>]) -> Vec<Affine<C>> {
        // SAFETY: `self` proves that the CPU has the features that `export` is compiled for.
        unsafe { export(points) }
    }

    fn decode(self, encodings: &[&[u8]]) -> Option<Vec<Point<D>>> {
        // SAFETY: `self` proves that the CPU has the features that `decode` is compiled for.
        unsafe { decode(encodings) }
    }

    fn prefetch(self, point: &Point<D>) {
        let lines = std::ptr::from_ref(point).cast::<Limbs>();
        for line in 0..2 * D {
            // SAFETY: a point is 2·D lines, and asking for one reads nothing.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(lines.add(line).cast()) };
        }
    }

    fn negate(self, point: &Point<D>) -> Point<D> {
        // 2q − y, limb by limb with a signed borrow; y is at most 2q, so nothing is left over.
        let y = point.y.map(|y| {
            let (mut out, mut borrow) = ([0; LIMBS], 0i64);
            for i in 0..LIMBS {
                let limb = TWICE_ORDER[i].cast_signed() - y[i].cast_signed() + borrow;
                out[i] = limb.cast_unsigned() & LIMB_MASK;
                borrow = limb >> LIMB_BITS;
            }
            out
        });
        Point { x: point.x, y }
    }

    fn add(
        self,
        scratch: &mut Scratch<D>,
        bounds: [Bound; 2],
        left: Left<Point<D>>,
        right: &[Point<D>],
        pairs: &[Pair],
        out: &mut [Point<D>],
    ) -> Result<(), EqualOperands> {
        assert!(
            bounds.iter().all(|b| b.0 <= Bound::LIMIT),
            "deeper sums would outgrow their limbs"
        );
        if pairs.is_empty() {
            return Ok(());
        }
        // SAFETY: `self` proves that the CPU has the features that `add` is compiled for.
        unsafe { add::<C::BaseField, D>(scratch, bounds, left, right, pairs, out) }
    }
}

/// Pairs that are worked on together: two groups of eight, because a product waits for the one before longer than it
/// takes, and the other group's fills the gap.
const TWO_GROUPS: usize = 2 * LANES;

/// Operands' and results' places, all of them checked.
struct Places<'a, const D: usize> {
    left: *const Point<D>,
    right: &'a [Point<D>],
    /// Where `left` may point too, so that all access goes through pointers.
    out: *mut Point<D>,
    pairs: &'a [Pair],
    slices: PhantomData<(&'a [Point<D>], &'a mut [Point<D>])>,
}

impl<'a, const D: usize> Places<'a, D> {
    /// # Panics
    /// If an index is outside its slice.
    fn new(
        left: Left<'a, Point<D>>,
        right: &'a [Point<D>],
        pairs: &'a [Pair],
        out: &'a mut [Point<D>],
    ) -> Self {
        let highest = |index: fn(&Pair) -> u32| {
            let indexes = pairs.iter().map(|pair| operand(index(pair)).0);
            indexes.fold(0, usize::max)
        };
        let length = match left {
            Left::Of(points) => points.len(),
            Left::Out => out.len(),
        };
        assert!(highest(|pair| pair.a) < length && highest(|pair| pair.b) < right.len());
        assert!(pairs.iter().all(|pair| (pair.to as usize) < out.len()));
        let out = out.as_mut_ptr();
        let left = match left {
            Left::Of(points) => points.as_ptr(),
            Left::Out => out.cast_const(),
        };
        Places {
            left,
            right,
            out,
            pairs,
            slices: PhantomData,
        }
    }

    /// The eight pairs of a group. Lanes left over repeat the last pair.
    #[inline]
    fn group(&self, group: usize) -> [Pair; LANES] {
        let first = LANES * group;
        match self
            .pairs
            .get(first..)
            .and_then(|pairs| pairs.first_chunk())
        {
            Some(full) => *full,
            None => {
                let last = self.pairs.len() - 1;
                std::array::from_fn(|lane| self.pairs[(first + lane).min(last)])
            }
        }
    }

    #[inline]
    fn left(&self, pair: &Pair) -> *const Point<D> {
        // SAFETY: `new` compared every index with the length.
        unsafe { self.left.add(operand(pair.a).0) }
    }

    #[inline]
    fn right(&self, pair: &Pair) -> *const Point<D> {
        // SAFETY: as above.
        unsafe { self.right.as_ptr().add(operand(pair.b).0) }
    }

    /// Asks for the lines that hold one coordinate of a group's points, some steps ahead.
    #[inline]
    fn prefetch(&self, group: usize, coordinate: impl Fn(*const Point<D>) -> *const [Limbs; D]) {
        let Some(pairs) = self.pairs.as_chunks::<LANES>().0.get(group) else {
            return;
        };
        for pair in pairs {
            for point in [self.left(pair), self.right(pair)] {
                let lines = coordinate(point).cast::<Limbs>();
                for line in 0..D {
                    // SAFETY: a coordinate is D lines.
                    unsafe { _mm_prefetch::<_MM_HINT_T0>(lines.add(line).cast()) };
                }
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512ifma")]
fn add<F: Components<D>, const D: usize>(
    scratch: &mut Scratch<D>,
    [b1, b2]: [Bound; 2],
    left: Left<Point<D>>,
    right: &[Point<D>],
    pairs: &[Pair],
    out: &mut [Point<D>],
) -> Result<(), EqualOperands> {
    let places = Places::new(left, right, pairs, out);
    let steps = pairs.len().div_ceil(TWO_GROUPS);
    let left_bound = multiple_of_order(b1.0);
    // The difference of x has b₁·q of its own.
    let chord_bound = multiple_of_order(2 * b1.0 + b2.0);
    let sum_bound = multiple_of_order(b1.joined(b2).0);
    let raised_bound = multiple_of_order(b1.0 + 1);

    let mut products = [one::<D>(); 2];
    if scratch.steps.len() < steps {
        scratch.steps.resize(steps, Step::zero());
    }
    let scratch = &mut scratch.steps[..steps];
    for (step, kept) in scratch.iter_mut().enumerate() {
        for (half, product) in products.iter_mut().enumerate() {
            let group = 2 * step + half;
            // The y are read in the second pass only, which has more time to wait for them.
            places.prefetch(group + AHEAD, Point::x);
            let pairs = places.group(group);
            let x1 = load(&pairs, |pair| places.left(pair), Point::x);
            let x2 = load(&pairs, |pair| places.right(pair), Point::x);
            kept.differences[half] = row_difference(&x2, &x1, &left_bound);
            kept.before[half] = *product;
            multiply(product, &kept.differences[half]);
        }
    }
    let [mut inverse, other] = products;
    multiply(&mut inverse, &other);
    let inverse = invert::<F, D>(&inverse).ok_or(EqualOperands)?;
    let mut inverses = [inverse; 2];
    multiply(&mut inverses[0], &products[1]);
    multiply(&mut inverses[1], &products[0]);
    let zero = [[[_mm512_setzero_si512(); LIMBS]; D]; 2];
    let (mut y1, mut x1, mut x3, mut y3) = (zero, zero, zero, zero);
    for (step, kept) in scratch.iter_mut().enumerate().rev() {
        let groups = [2 * step, 2 * step + 1];
        let pairs = groups.map(|group| places.group(group));
        let slopes = &mut kept.before;
        for half in 0..2 {
            // A few at a time: the cache waits for no more than that at once.
            let ahead = groups[half].wrapping_sub(AHEAD);
            places.prefetch(ahead, Point::x);
            multiply(&mut slopes[half], &inverses[half]);
            places.prefetch(ahead, Point::y);
            multiply(&mut inverses[half], &kept.differences[half]);
        }
        for half in 0..2 {
            let mut rise = [[_mm512_setzero_si512(); LIMBS]; D];
            places.rise(&pairs[half], &left_bound, &mut y1[half], &mut rise);
            multiply(&mut slopes[half], &rise);
        }
        for half in 0..2 {
            x1[half] = rows(&load(&pairs[half], |pair| places.left(pair), Point::x));
            let d = &kept.differences[half];
            x3[half] = chord_x(&slopes[half], &x1[half], d, &chord_bound);
        }
        for half in 0..2 {
            let run = subtract(&x1[half], &x3[half], &sum_bound);
            y3[half] = chord_y(&slopes[half], &run, &y1[half], &raised_bound);
        }
        for half in 0..2 {
            let (x3, y3) = (rows(&x3[half]), rows(&y3[half]));
            let used = pairs_of_group(places.pairs.len(), groups[half]);
            for (lane, pair) in pairs[half].iter().enumerate().take(used) {
                // SAFETY: `Places::new` compared every index with the length, and holds the slice exclusively.
                let to = unsafe { &mut *places.out.add(pair.to as usize) };
                for c in 0..D {
                    (to.x[c], to.y[c]) = (words(x3[c][lane]), words(y3[c][lane]));
                }
            }
        }
    }
    Ok(())
}

impl<const D: usize> Places<'_, D> {
    /// `y₁` and `y₂ − y₁`, signs included.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn rise(
        &self,
        pairs: &[Pair; LANES],
        bound: &Limbs,
        y1: &mut Coordinates<D>,
        rise: &mut Coordinates<D>,
    ) {
        *y1 = rows(&load(pairs, |pair| self.left(pair), Point::y));
        let mut y2 = rows(&load(pairs, |pair| self.right(pair), Point::y));
        negate_lanes(y1, pairs, |pair| pair.a);
        negate_lanes(&mut y2, pairs, |pair| pair.b);
        *rise = subtract(&y2, y1, bound);
    }
}

/// How many lanes of a group are not repetitions.
fn pairs_of_group(pairs: usize, group: usize) -> usize {
    pairs.saturating_sub(LANES * group).min(LANES)
}

/// One coordinate of eight points, a point to a register.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn load<const D: usize>(
    pairs: &[Pair; LANES],
    place: impl Fn(&Pair) -> *const Point<D>,
    coordinate: impl Fn(*const Point<D>) -> *const [Limbs; D],
) -> Coordinates<D> {
    let mut out = [[_mm512_setzero_si512(); LIMBS]; D];
    for (lane, pair) in pairs.iter().enumerate() {
        // SAFETY: `Places` gives places inside its slices, and nothing is written meanwhile.
        let components = unsafe { &*coordinate(place(pair)) };
        for c in 0..D {
            out[c][lane] = register(&components[c]);
        }
    }
    out
}

/// Replaces the y of flagged points by `2q − y`, whose limbs are not normalised.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn negate_lanes<const D: usize>(
    y: &mut Coordinates<D>,
    pairs: &[Pair; LANES],
    index: impl Fn(&Pair) -> u32,
) {
    let mut mask = 0u8;
    for (lane, pair) in pairs.iter().enumerate() {
        mask |= u8::from(index(pair) & NEGATED != 0) << lane;
    }
    if mask == 0 {
        return;
    }
    for component in y {
        for i in 0..LIMBS {
            let limb = component[i];
            component[i] = _mm512_mask_sub_epi64(limb, mask, all(TWICE_ORDER[i]), limb);
        }
    }
}

/// `λ² − x₁ − x₂ + bound`, given `d = x₂ − x₁` with a bound that `bound` takes back.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn chord_x<const D: usize>(
    slope: &Coordinates<D>,
    x1: &Coordinates<D>,
    d: &Coordinates<D>,
    bound: &Limbs,
) -> Coordinates<D> {
    let mut out = square_reduced(slope);
    for c in 0..D {
        for i in 0..LIMBS {
            let twice = _mm512_add_epi64(x1[c][i], x1[c][i]);
            let rest = _mm512_sub_epi64(_mm512_sub_epi64(out[c][i], twice), d[c][i]);
            out[c][i] = _mm512_add_epi64(rest, all(bound[i]));
        }
        out[c] = carry_signed(out[c]);
    }
    out
}

/// `λ·d − y₁ + bound`.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn chord_y<const D: usize>(
    slope: &Coordinates<D>,
    d: &Coordinates<D>,
    y1: &Coordinates<D>,
    bound: &Limbs,
) -> Coordinates<D> {
    let mut out = product_reduced(slope, d);
    for c in 0..D {
        for i in 0..LIMBS {
            out[c][i] = _mm512_add_epi64(_mm512_sub_epi64(out[c][i], y1[c][i]), all(bound[i]));
        }
        out[c] = carry_signed(out[c]);
    }
    out
}

/// Montgomery square of a value below `3q`, before the carries.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn square_reduced<const D: usize>(a: &Coordinates<D>) -> Coordinates<D> {
    let mut out = *a;
    if D == 1 {
        out[0] = reduce(square(&a[0]));
        return out;
    }
    // (a₀ + a₁)(a₀ − a₁) and 2·a₀·a₁.
    let (plus, minus) = (
        sum(&a[0], &a[D - 1]),
        difference(&a[0], &a[D - 1], &THRICE_ORDER),
    );
    out[0] = reduce(product_of(&plus, &minus));
    let mut cross = product_of(&a[0], &a[D - 1]);
    for limb in &mut cross {
        *limb = _mm512_add_epi64(*limb, *limb);
    }
    out[D - 1] = reduce(cross);
    out
}

/// One coordinate of eight points, a limb to a register.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn gather<const D: usize>(
    points: &[Point<D>],
    indexes: &[u32; LANES],
    coordinate: impl Fn(&Point<D>) -> &[Limbs; D],
) -> Coordinates<D> {
    rows(&gather_rows(points, indexes, coordinate))
}

/// `a − b + bound` of coordinates that are rows still, normalised: subtracting first saves a transposition.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn row_difference<const D: usize>(
    a: &Coordinates<D>,
    b: &Coordinates<D>,
    bound: &Limbs,
) -> Coordinates<D> {
    let (mut out, bound) = (*a, register(bound));
    for c in 0..D {
        for lane in 0..LANES {
            out[c][lane] = _mm512_add_epi64(_mm512_sub_epi64(a[c][lane], b[c][lane]), bound);
        }
    }
    let mut out = rows(&out);
    for component in &mut out {
        *component = carry_signed(*component);
    }
    out
}

/// One coordinate of eight points, a point to a register.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn gather_rows<const D: usize>(
    points: &[Point<D>],
    indexes: &[u32; LANES],
    coordinate: impl Fn(&Point<D>) -> &[Limbs; D],
) -> Coordinates<D> {
    let mut out = [[_mm512_setzero_si512(); LIMBS]; D];
    for (lane, index) in indexes.iter().enumerate() {
        let components = coordinate(&points[operand(*index).0]);
        for c in 0..D {
            out[c][lane] = register(&components[c]);
        }
    }
    out
}

/// `a − b + bound`, where `bound` is a multiple of `q` not below `b`.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn subtract<const D: usize>(
    a: &Coordinates<D>,
    b: &Coordinates<D>,
    bound: &Limbs,
) -> Coordinates<D> {
    let mut out = *a;
    for c in 0..D {
        out[c] = difference(&a[c], &b[c], bound);
    }
    out
}

#[target_feature(enable = "avx512f,avx512ifma")]
fn export<C, const D: usize>(points: &[Point<D>]) -> Vec<Affine<C>>
where
    C: SWCurveConfig<BaseField: Components<D>>,
{
    let mut out = Vec::with_capacity(points.len());
    for chunk in points.chunks(LANES) {
        let indexes: [u32; LANES] = std::array::from_fn(|lane| lane.min(chunk.len() - 1) as u32);
        let x = settle(&gather(chunk, &indexes, |p| &p.x));
        let y = settle(&gather(chunk, &indexes, |p| &p.y));
        out.extend(
            x.into_iter()
                .zip(y)
                .take(chunk.len())
                .map(|(x, y)| Affine::new_unchecked(x, y)),
        );
    }
    out
}

#[target_feature(enable = "avx512f,avx512ifma")]
fn decode<const D: usize>(encodings: &[&[u8]]) -> Option<Vec<Point<D>>> {
    let mut points = Vec::with_capacity(encodings.len());
    for encoding in encodings {
        if encoding.len() != 2 * D * COMPONENT_BYTES {
            return None;
        }
        let mut components = encoding.chunks_exact(COMPONENT_BYTES).map(read_component);
        // The highest component comes first.
        let mut coordinate = || -> Option<[Limbs; D]> {
            let mut out = [[0; LIMBS]; D];
            for component in out.iter_mut().rev() {
                *component = components.next()??;
            }
            Some(out)
        };
        points.push(Point {
            x: coordinate()?,
            y: coordinate()?,
        });
    }
    // From plain integers to x·2^416: times 2^832, reduced by 2^416. Below 2q.
    let factor = spread(entering());
    for chunk in points.chunks_mut(LANES) {
        let indexes: [u32; LANES] = std::array::from_fn(|lane| lane.min(chunk.len() - 1) as u32);
        let (mut x, mut y) = (
            gather(chunk, &indexes, |p| &p.x),
            gather(chunk, &indexes, |p| &p.y),
        );
        for component in x.iter_mut().chain(&mut y) {
            *component = transpose(carry_signed(reduce(product_of(component, &factor))));
        }
        for (lane, point) in chunk.iter_mut().enumerate() {
            for c in 0..D {
                (point.x[c], point.y[c]) = (words(x[c][lane]), words(y[c][lane]));
            }
        }
    }
    Some(points)
}

/// A canonical big-endian integer. Any flag of an encoding is a bit above the modulus, so this check
/// finds it. The identity is flagged; x = y = 0 without a flag is no point of the curve.
fn read_component(bytes: &[u8]) -> Option<Limbs> {
    let (words, _) = bytes.as_chunks::<8>();
    let value: [u64; 6] = std::array::from_fn(|i| u64::from_be_bytes(words[5 - i]));
    (BigInt(value) < Fq::MODULUS).then(|| split(value))
}

#[cfg(test)]
mod tests {
    use super::super::tests;
    use super::*;

    /// On a CPU without the instructions there is nothing to compare.
    fn with_kernels(g1: impl FnOnce(IfmaG1), g2: impl FnOnce(IfmaG2)) {
        if let (Some(in_g1), Some(in_g2)) = (IfmaG1::detect(), IfmaG2::detect()) {
            g1(in_g1);
            g2(in_g2);
        }
    }

    #[test]
    fn sums_equal_arkworks() {
        with_kernels(tests::equals_arkworks, tests::equals_arkworks);
    }

    #[test]
    fn equal_operands_are_reported() {
        with_kernels(
            tests::equal_operands_are_reported,
            tests::equal_operands_are_reported,
        );
    }

    #[test]
    fn decodes_canonical_only() {
        with_kernels(tests::decodes_canonical_only, tests::decodes_canonical_only);
    }
}
