//! Sums of multiples: `Σ s_i·P_i` over points that arrive in pieces.
//!
//! Walk: [`super::prove`] streams a key's points through here. Most scalars of a circuit are bits:
//! zeros are skipped, the points under a one are added without multiplication, and only the rest
//! reaches Pippenger's method. There each window sorts its points into buckets by their signed
//! digit and adds each bucket up as a binary tree, all buckets of a cache-sized chunk together, so
//! that one inversion serves thousands of additions ([`super::kernel`]).
//! Memory: one [`BATCH`] of points and two words a point and window in flight.
//! Plain twin: ark's `VariableBaseMSM`.

use ark_bls12_381::Fr;
use ark_ec::short_weierstrass::{Affine, Projective};
use ark_ff::{AdditiveGroup, Field, PrimeField, Zero};
use rayon::prelude::*;

use super::kernel::{EqualOperands, Kernel, MAX_LEVEL, NEGATED, Pair};

/// Points multiplied together: more share more, 2^19 take 64 MiB in G1.
const BATCH: usize = 1 << 19;
/// Points whose sums are worked on together: their intermediate results stay in the second cache.
const CHUNK: usize = 1 << 13;

// A batch that falls into one bucket is a tree of log2(BATCH) levels.
const _: () = assert!(BATCH.ilog2() as usize + 1 < MAX_LEVEL);

/// A sum in the making.
pub struct Msm<K: Kernel> {
    kernel: K,
    sum: Projective<K::Curve>,
    points: Vec<K::Point>,
    scalars: Vec<Fr>,
}

/// What a scalar asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Nothing: the point need not even be decoded.
    Zero,
    /// An addition.
    One,
    /// A multiplication.
    Many,
}

impl Class {
    /// Of a scalar.
    pub fn of(scalar: &Fr) -> Class {
        if *scalar == Fr::ZERO {
            Class::Zero
        } else if *scalar == Fr::ONE {
            Class::One
        } else {
            Class::Many
        }
    }
}

impl<K: Kernel> Msm<K> {
    /// An empty sum.
    pub fn new(kernel: K) -> Self {
        Self {
            kernel,
            sum: Projective::zero(),
            points: Vec::new(),
            scalars: Vec::new(),
        }
    }

    /// Adds the points whose scalar is one.
    pub fn add_ones(&mut self, points: &[K::Point]) {
        let kernel = self.kernel;
        let sums = points.par_chunks(CHUNK).map(|points| {
            let all: Vec<u32> = (0..).take(points.len()).collect();
            let segment = Segment {
                bucket: 0,
                start: 0,
                len: points.len(),
            };
            let mut sum = Projective::zero();
            Trees::new(kernel, points).add(&all, &[segment], |_, bucket| sum += bucket);
            sum
        });
        self.sum += sums.reduce(Projective::zero, |a, b| a + b);
    }

    /// Adds `scalar · point` for each pair.
    pub fn add_many(&mut self, points: &[K::Point], scalars: &[Fr]) {
        self.points.extend_from_slice(points);
        self.scalars.extend_from_slice(scalars);
        if self.points.len() >= BATCH {
            self.flush();
        }
    }

    /// The sum.
    pub fn finish(mut self) -> Projective<K::Curve> {
        self.flush();
        self.sum
    }

    fn flush(&mut self) {
        if self.points.is_empty() {
            return;
        }
        // Additions per window against two per bucket; measured best near n/64 buckets.
        let width = (self.points.len().ilog2() as usize)
            .saturating_sub(6)
            .clamp(3, 16);
        let digits = Digits::of(&self.scalars, width);
        let windows: Vec<Projective<K::Curve>> = (0..digits.windows())
            .into_par_iter()
            .map(|window| window_sum(self.kernel, &self.points, &digits, window))
            .collect();
        let mut sum = Projective::zero();
        for window in windows.iter().rev() {
            for _ in 0..width {
                sum.double_in_place();
            }
            sum += window;
        }
        self.sum += sum;
        self.points.clear();
        self.scalars.clear();
    }
}

/// Scalars cut into signed digits from `−2^(width−1)` to `2^(width−1) − 1`.
///
/// Adding `2^(width−1)` at every digit's place first makes the carries happen once, so that windows
/// can be read independently: the digit is what stands there, less `2^(width−1)`.
struct Digits {
    width: usize,
    biased: Vec<[u64; 5]>,
}

impl Digits {
    fn of(scalars: &[Fr], width: usize) -> Digits {
        let mut bias = [0u64; 5];
        for window in 0..count_windows(width) {
            let bit = window * width + width - 1;
            bias[bit / 64] |= 1 << (bit % 64);
        }
        let biased = scalars
            .par_iter()
            .map(|scalar| add_wide(scalar.into_bigint().0, &bias))
            .collect();
        Digits { width, biased }
    }

    fn windows(&self) -> usize {
        count_windows(self.width)
    }

    fn buckets(&self) -> usize {
        1 << (self.width - 1)
    }

    /// The digits of one window, in the points' order.
    fn window(&self, window: usize) -> impl Iterator<Item = i32> {
        let (bit, half) = (window * self.width, 1i32 << (self.width - 1));
        let (word, shift, mask) = (bit / 64, bit % 64, (1u64 << self.width) - 1);
        self.biased.iter().map(move |words| {
            let low = words[word] >> shift;
            let high = if shift == 0 || word == 4 {
                0
            } else {
                words[word + 1] << (64 - shift)
            };
            i32::try_from((low | high) & mask).expect("windows are at most 16 bits wide") - half
        })
    }
}

/// Windows that cover a scalar and the bias: 256 bits.
fn count_windows(width: usize) -> usize {
    256usize.div_ceil(width)
}

fn add_wide(scalar: [u64; 4], bias: &[u64; 5]) -> [u64; 5] {
    let mut carry = false;
    let mut out = [0; 5];
    for i in 0..5 {
        let (sum, over) = scalar.get(i).copied().unwrap_or(0).overflowing_add(bias[i]);
        let (sum, again) = sum.overflowing_add(u64::from(carry));
        out[i] = sum;
        carry = over || again;
    }
    out
}

/// `Σ digit·point` of one window.
fn window_sum<K: Kernel>(
    kernel: K,
    points: &[K::Point],
    digits: &Digits,
    window: usize,
) -> Projective<K::Curve> {
    let (sorted, starts) = sort_into_buckets(digits, window);
    let mut buckets = vec![Projective::zero(); digits.buckets()];
    let mut trees = Trees::new(kernel, points);
    let mut segments: Vec<Segment> = Vec::new();
    let mut total = 0;
    for bucket in 0..digits.buckets() {
        let (start, end) = (starts[bucket] as usize, starts[bucket + 1] as usize);
        if end > start {
            segments.push(Segment {
                bucket,
                start,
                len: end - start,
            });
            total += end - start;
        }
        if total >= CHUNK || bucket + 1 == digits.buckets() {
            trees.add(&sorted, &segments, |bucket, sum| buckets[bucket] = sum);
            segments.clear();
            total = 0;
        }
    }
    // Σ (i + 1)·bucket_i: every bucket is in the running sum as often as its digit says.
    let (mut running, mut sum) = (Projective::zero(), Projective::zero());
    for bucket in buckets.iter().rev() {
        running += bucket;
        sum += running;
    }
    sum
}

/// Indexes of the points, flagged where the digit is negative, ordered by the digit's size, and
/// where each bucket starts: bucket `i` holds digits of size `i + 1`. Digit zero is left out.
fn sort_into_buckets(digits: &Digits, window: usize) -> (Vec<u32>, Vec<u32>) {
    let mut starts = vec![0u32; digits.buckets() + 2];
    for digit in digits.window(window) {
        starts[digit.unsigned_abs() as usize + 1] += 1;
    }
    // starts[d + 1] counts digits of size d; forget the zeros, then add up.
    starts[1] = 0;
    for i in 1..starts.len() {
        starts[i] += starts[i - 1];
    }
    let mut next = starts.clone();
    let mut sorted = vec![0u32; starts[starts.len() - 1] as usize];
    for (index, digit) in (0u32..).zip(digits.window(window)) {
        if digit != 0 {
            let slot = &mut next[digit.unsigned_abs() as usize];
            sorted[*slot as usize] = if digit < 0 { index | NEGATED } else { index };
            *slot += 1;
        }
    }
    starts.remove(0);
    (sorted, starts)
}

/// Points of one bucket: a range of the sorted list, later of the level's results.
#[derive(Clone, Copy)]
struct Segment {
    bucket: usize,
    start: usize,
    len: usize,
}

/// Adds up segments as binary trees, all of them level by level.
struct Trees<'a, K: Kernel> {
    kernel: K,
    points: &'a [K::Point],
    scratch: K::Scratch,
    pairs: Vec<Pair>,
    /// Results of the level before, and of this one.
    levels: [Vec<K::Point>; 2],
}

impl<'a, K: Kernel> Trees<'a, K> {
    fn new(kernel: K, points: &'a [K::Point]) -> Self {
        Self {
            kernel,
            points,
            scratch: K::Scratch::default(),
            pairs: Vec::new(),
            levels: [Vec::new(), Vec::new()],
        }
    }

    /// Gives each segment's sum to `done`.
    fn add(
        &mut self,
        sorted: &[u32],
        segments: &[Segment],
        mut done: impl FnMut(usize, Projective<K::Curve>),
    ) {
        match self.batched(sorted, segments) {
            Ok((buckets, sums)) => {
                let sums = self.kernel.export(&sums);
                buckets
                    .into_iter()
                    .zip(sums)
                    .for_each(|(bucket, sum)| done(bucket, sum.into()));
            }
            // Equal points in one bucket: rare, and no batch can add them.
            Err(EqualOperands) => {
                for segment in segments {
                    done(
                        segment.bucket,
                        self.one_by_one(&sorted[segment.start..segment.start + segment.len]),
                    );
                }
            }
        }
    }

    fn one_by_one(&self, indexes: &[u32]) -> Projective<K::Curve> {
        let take = |index: &u32| {
            let point = self.points[(index & !NEGATED) as usize];
            if index & NEGATED != 0 {
                self.kernel.negate(&point)
            } else {
                point
            }
        };
        let points: Vec<K::Point> = indexes.iter().map(take).collect();
        self.kernel
            .export(&points)
            .iter()
            .fold(Projective::zero(), |sum, point: &Affine<_>| sum + point)
    }

    /// Buckets and their sums, in the order in which they were finished.
    fn batched(
        &mut self,
        sorted: &[u32],
        segments: &[Segment],
    ) -> Result<(Vec<usize>, Vec<K::Point>), EqualOperands> {
        let (mut buckets, mut sums) = (
            Vec::with_capacity(segments.len()),
            Vec::with_capacity(segments.len()),
        );
        let mut segments = segments.to_vec();
        let mut level = 0;
        while !segments.is_empty() {
            self.pairs.clear();
            let [before, results] = &mut self.levels;
            results.clear();
            let mut next = Vec::with_capacity(segments.len());
            // Operand `i` of a segment: of the sorted list at level 0, of the results before above.
            let index = |i: usize| if level == 0 { sorted[i] } else { narrow(i) };
            let single = |i: u32| match (level, i & NEGATED != 0) {
                (0, true) => self.kernel.negate(&self.points[(i & !NEGATED) as usize]),
                (0, false) => self.points[i as usize],
                _ => before[i as usize],
            };
            for Segment { bucket, start, len } in segments {
                if len == 1 {
                    buckets.push(bucket);
                    sums.push(single(index(start)));
                    continue;
                }
                let first = results.len();
                for i in (start..start + len - 1).step_by(2) {
                    let (a, b) = (index(i), index(i + 1));
                    self.pairs.push(Pair {
                        a,
                        b,
                        to: narrow(results.len()),
                    });
                    // Overwritten by the addition.
                    results.push(single(a));
                }
                if len % 2 == 1 {
                    results.push(single(index(start + len - 1)));
                }
                next.push(Segment {
                    bucket,
                    start: first,
                    len: results.len() - first,
                });
            }
            let operands = if level == 0 { self.points } else { &before[..] };
            self.kernel.add(
                &mut self.scratch,
                level,
                operands,
                operands,
                &self.pairs,
                results,
            )?;
            self.levels.swap(0, 1);
            segments = next;
            level += 1;
        }
        Ok((buckets, sums))
    }
}

fn narrow(index: usize) -> u32 {
    u32::try_from(index).expect("batches are far below 2^31 points")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snark::kernel::portable::Portable;
    use crate::snark::kernel::tests::points;
    use ark_bls12_381::{g1, g2};
    use ark_ec::{AffineRepr, CurveGroup, VariableBaseMSM};
    use ark_ff::UniformRand;

    fn sum<K: Kernel>(
        kernel: K,
        points: &[Affine<K::Curve>],
        scalars: &[Fr],
    ) -> Projective<K::Curve> {
        let mut msm = Msm::new(kernel);
        let imported = kernel.import(points);
        let (one, many): (Vec<_>, Vec<_>) = imported
            .iter()
            .zip(scalars)
            .filter(|(_, s)| Class::of(s) != Class::Zero)
            .partition(|(_, s)| Class::of(s) == Class::One);
        msm.add_ones(&one.iter().map(|(p, _)| **p).collect::<Vec<_>>());
        let (points, scalars): (Vec<_>, Vec<_>) = many.into_iter().map(|(p, s)| (*p, *s)).unzip();
        msm.add_many(&points, &scalars);
        msm.finish()
    }

    fn equals_ark<K: Kernel>(kernel: K) {
        let mut rng = crate::snark::testing::rng(5);
        let all = points::<K::Curve>(700, 4);
        for count in [0usize, 1, 2, 3, 9, 64, 129, 700] {
            let random: Vec<Fr> = (0..count).map(|_| Fr::rand(&mut rng)).collect();
            let bits: Vec<Fr> = (0..count).map(|i| Fr::from(i as u64 % 3 % 2)).collect();
            let edges = [
                Fr::ZERO,
                Fr::ONE,
                -Fr::ONE,
                Fr::from(2u64),
                Fr::from(u64::MAX),
                -Fr::from(2u64),
            ];
            let mixed: Vec<Fr> = (0..count).map(|i| edges[i % edges.len()]).collect();
            let same: Vec<Fr> = vec![Fr::from(0x1234_5678u64); count];
            for scalars in [random, bits, mixed, same] {
                let points = &all[..count];
                let expected = Projective::<K::Curve>::msm_unchecked(points, &scalars);
                assert_eq!(sum(kernel, points, &scalars), expected, "{count}");
            }
        }
    }

    /// Repeated and opposite points meet in buckets: no batch can add them, the sum is right.
    fn structured_points_do_not_spoil_the_sum<K: Kernel>(kernel: K) {
        let g = Affine::<K::Curve>::generator();
        let mut all: Vec<Affine<K::Curve>> = vec![g; 50];
        all.extend([-g, -g, (g + g).into_affine()]);
        let mut step = g.into_group();
        all.extend((0..200).map(|_| {
            step += g;
            step.into_affine()
        }));
        let mut rng = crate::snark::testing::rng(6);
        let random: Vec<Fr> = all.iter().map(|_| Fr::rand(&mut rng)).collect();
        for scalars in [
            random,
            vec![Fr::ONE; all.len()],
            vec![Fr::from(9u64); all.len()],
        ] {
            assert_eq!(
                sum(kernel, &all, &scalars),
                Projective::<K::Curve>::msm_unchecked(&all, &scalars)
            );
        }
    }

    #[test]
    fn sums_equal_arks() {
        equals_ark(Portable::<g1::Config>::default());
        equals_ark(Portable::<g2::Config>::default());
        #[cfg(target_arch = "x86_64")]
        if let Some(kernel) = crate::snark::kernel::ifma::Ifma::detect() {
            equals_ark(kernel);
        }
    }

    #[test]
    fn structured_points() {
        structured_points_do_not_spoil_the_sum(Portable::<g1::Config>::default());
        structured_points_do_not_spoil_the_sum(Portable::<g2::Config>::default());
        #[cfg(target_arch = "x86_64")]
        if let Some(kernel) = crate::snark::kernel::ifma::Ifma::detect() {
            structured_points_do_not_spoil_the_sum(kernel);
        }
    }

    #[test]
    fn digits_add_up_to_their_scalar() {
        let mut rng = crate::snark::testing::rng(7);
        for width in 3..=16 {
            let scalars = [Fr::ZERO, Fr::ONE, -Fr::ONE, Fr::rand(&mut rng)];
            let digits = Digits::of(&scalars, width);
            for (i, scalar) in scalars.iter().enumerate() {
                let mut sum = Fr::ZERO;
                for window in (0..digits.windows()).rev() {
                    let digit = digits.window(window).nth(i).expect("one per scalar");
                    sum *= Fr::from(1u64 << width);
                    let size = Fr::from(digit.unsigned_abs());
                    sum += if digit < 0 { -size } else { size };
                }
                assert_eq!(sum, *scalar);
            }
        }
    }
}
