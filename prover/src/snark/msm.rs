//! Sums of multiples: `Σ s_i·P_i` over points that arrive in pieces.
//!
//! Walk: [`super::prove`] streams a key's points through here. Most scalars of a circuit are bits:
//! zeros are skipped, the points under a one are added without multiplication, and only the rest
//! reaches Pippenger's method. There each window keeps its buckets from the first point to the last:
//! a batch of points is sorted into them by signed digit, the points of each bucket are added up as a
//! binary tree, all trees of a cache-sized chunk together, and the results are added to the buckets,
//! so that one inversion serves thousands of additions ([`super::kernel`]). The buckets are summed once,
//! at the end, many stretches of them side by side.
//! Memory: one [`BATCH`] of points, [`MAX_BUCKET_BYTES`] of buckets.
//! Plain twin: ark's `VariableBaseMSM`.

use std::sync::{Mutex, PoisonError};

use ark_bls12_381::Fr;
use ark_ec::short_weierstrass::{Affine, Projective};
use ark_ec::{AffineRepr, CurveGroup, PrimeGroup};
use ark_ff::{AdditiveGroup, BigInteger, Field, PrimeField, Zero};
use rayon::prelude::*;

use super::kernel::{Bound, EqualOperands, Kernel, Left, NEGATED, Pair};

/// Points sorted together: more share more, 2^18 take 32 MiB in G1.
const BATCH: usize = 1 << 18;
/// Points that arrive together at most.
pub const READ: usize = 1 << 16;
/// Bytes of points whose trees are worked on together: their intermediate results stay in the caches.
const CHUNK_BYTES: usize = 1 << 20;
/// Parts of a window's buckets, each one thread's: there are more parts than threads, and they come out even.
const SHARES: usize = 2;
/// How many segments before it is copied a point is asked for.
const COPIES_AHEAD: usize = 16;
/// What all buckets may take.
const MAX_BUCKET_BYTES: usize = 128 << 20;
/// Scalars and their negatives, whichever is smaller, are below `2^SCALAR_BITS`: `r/2 < 0.91·2^254`.
const SCALAR_BITS: usize = 254;

/// A sum in the making.
pub struct Msm<K: Kernel> {
    kernel: K,
    width: usize,
    batch: usize,
    sum_of_ones: Projective<K::Curve>,
    ones: Vec<K::Point>,
    /// Of all windows, the lowest first.
    shares: Vec<Share<K>>,
    points: Vec<K::Point>,
    scalars: Vec<Fr>,
    /// Memory that the workers hand on to each other.
    spare: Mutex<Vec<Buffers<K>>>,
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
        // Word by word: comparing whole elements would be a call.
        let [a, b, c, d] = scalar.0.0;
        let [one_a, one_b, one_c, one_d] = Fr::ONE.0.0;
        if a | b | c | d == 0 {
            Class::Zero
        } else if (a ^ one_a) | (b ^ one_b) | (c ^ one_c) | (d ^ one_d) == 0 {
            Class::One
        } else {
            Class::Many
        }
    }
}

impl<K: Kernel> Msm<K> {
    /// An empty sum that is going to have about `many` multiplications.
    pub fn new(kernel: K, many: usize) -> Self {
        Self::in_batches(kernel, many, BATCH)
    }

    fn in_batches(kernel: K, many: usize, batch: usize) -> Self {
        let width = best_width(many, size_of::<K::Point>());
        Self {
            kernel,
            width,
            batch,
            sum_of_ones: Projective::zero(),
            ones: Vec::new(),
            shares: (0..SHARES * count_windows(width))
                .map(|_| Share::new())
                .collect(),
            points: Vec::with_capacity(many.min(batch)),
            scalars: Vec::with_capacity(many.min(batch)),
            spare: Mutex::default(),
        }
    }

    /// Adds the points whose scalar is one.
    pub fn add_ones(&mut self, points: &[K::Point]) {
        self.ones.extend_from_slice(points);
        if self.ones.len() >= READ {
            self.flush_ones();
        }
    }

    /// Adds `scalar · point` for each pair.
    pub fn add_many(&mut self, mut points: &[K::Point], mut scalars: &[Fr]) {
        while !points.is_empty() {
            let room = (self.batch - self.points.len()).min(points.len());
            let (now, later) = points.split_at(room);
            self.points.extend_from_slice(now);
            points = later;
            let (now, later) = scalars.split_at(room);
            self.scalars.extend_from_slice(now);
            scalars = later;
            if self.points.len() == self.batch {
                self.flush();
            }
        }
    }

    /// The sum.
    pub fn finish(mut self) -> Projective<K::Curve> {
        self.flush_ones();
        self.flush();
        let kernel = self.kernel;
        (self.points, self.spare) = (Vec::new(), Mutex::default());
        let shares: Vec<Projective<K::Curve>> = self
            .shares
            .into_par_iter()
            .with_max_len(1)
            .enumerate()
            .map(|(i, share)| share.sum(kernel, i % SHARES))
            .collect();
        let mut sum = Projective::zero();
        for window in shares.chunks_exact(SHARES).rev() {
            for _ in 0..self.width {
                sum.double_in_place();
            }
            window.iter().for_each(|share| sum += share);
        }
        sum + self.sum_of_ones
    }

    fn flush_ones(&mut self) {
        let sums = self.ones.par_chunks(chunk::<K>()).map(|points| {
            let all: Vec<u32> = (0..).take(points.len()).collect();
            let segment = Segment {
                bucket: 0,
                start: 0,
                len: points.len(),
            };
            let mut trees = Trees::new(self.kernel, points, self.spare());
            let sum = match trees.reduce(&all, &[segment]) {
                Ok(()) => self.kernel.export(&trees.buffers.sums)[0].into_group(),
                Err(EqualOperands) => one_by_one(self.kernel, points, &all),
            };
            self.give_back(trees.buffers);
            sum
        });
        self.sum_of_ones += sums.reduce(Projective::zero, |a, b| a + b);
        self.ones.clear();
    }

    fn flush(&mut self) {
        if self.points.is_empty() {
            return;
        }
        let digits = Digits::of(&self.scalars, self.width);
        let mut shares = std::mem::take(&mut self.shares);
        // As many windows at a time as keep all threads busy; each takes its share of the sorted list's memory.
        let together = 2 * rayon::current_num_threads();
        for (i, shares) in shares.chunks_mut(SHARES * together).enumerate() {
            let windows = (i * together..).take(shares.len() / SHARES);
            let windows: Vec<usize> = windows.collect();
            let sorted: Vec<Sorted> = windows
                .into_par_iter()
                .with_max_len(1)
                .map(|window| Sorted::of(&digits, window))
                .collect();
            let shares = shares.par_iter_mut().with_max_len(1).enumerate();
            shares.for_each(|(i, share)| {
                let mut trees = Trees::new(self.kernel, &self.points, self.spare());
                share.add(&mut trees, &sorted[i / SHARES], i % SHARES);
                self.give_back(trees.buffers);
            });
        }
        self.shares = shares;
        self.points.clear();
        self.scalars.clear();
    }

    fn spare(&self) -> Buffers<K> {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        spare.pop().unwrap_or_default()
    }

    fn give_back(&self, buffers: Buffers<K>) {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        spare.push(buffers);
    }
}

/// Points whose trees are worked on together.
fn chunk<K: Kernel>() -> usize {
    CHUNK_BYTES / size_of::<K::Point>()
}

/// The width of least work: a window costs an addition a point and two a bucket, and those at the end
/// share their inversions less well.
fn best_width(many: usize, point_bytes: usize) -> usize {
    let affordable = |width: &usize| {
        *width == 4 || (count_windows(*width) << (width - 1)) * point_bytes <= MAX_BUCKET_BYTES
    };
    let cost = |width: &usize| count_windows(*width) * (many + (3 << (width - 1)));
    (4..=17)
        .filter(affordable)
        .min_by_key(cost)
        .expect("the narrowest is always affordable")
}

/// Windows that cover a scalar and its sign.
fn count_windows(width: usize) -> usize {
    (SCALAR_BITS + 1).div_ceil(width)
}

/// Scalars cut into signed digits from `−2^(width−1)` to `2^(width−1)`.
///
/// Of a scalar and its negative the smaller one is cut, which saves a bit. Adding `2^(width−1)` at
/// every digit's place but the last first makes the carries happen once, so that windows can be
/// read independently: the digit is what stands there, less `2^(width−1)`.
struct Digits {
    width: usize,
    /// Biased, word by word of all scalars: a window reads the words it needs and no others.
    words: [Vec<u64>; 4],
    /// [`NEGATED`] where the negative was cut.
    signs: Vec<u32>,
}

impl Digits {
    fn of(scalars: &[Fr], width: usize) -> Digits {
        let mut bias = ark_ff::BigInt([0u64; 4]);
        for window in 0..count_windows(width) - 1 {
            let bit = window * width + width - 1;
            bias.0[bit / 64] |= 1 << (bit % 64);
        }
        let mut words = [(); 4].map(|()| vec![0; scalars.len()]);
        let mut signs = vec![0; scalars.len()];
        let [first, second, third, fourth] = &mut words;
        (first, second, third, fourth, &mut signs, scalars)
            .into_par_iter()
            .with_min_len(1 << 10)
            .for_each(|(first, second, third, fourth, sign, scalar)| {
                let mut value = scalar.into_bigint();
                if value > Fr::MODULUS_MINUS_ONE_DIV_TWO {
                    let mut rest = Fr::MODULUS;
                    rest.sub_with_borrow(&value);
                    value = rest;
                    *sign = NEGATED;
                }
                // Below 2^255: 0.91·2^254 and, of the bias, little more than 2^253.
                value.add_with_carry(&bias);
                [*first, *second, *third, *fourth] = value.0;
            });
        Digits {
            width,
            words,
            signs,
        }
    }

    fn windows(&self) -> usize {
        count_windows(self.width)
    }

    fn buckets(&self) -> usize {
        1 << (self.width - 1)
    }

    /// The digits of one window, in the points' order: sizes, flagged with [`NEGATED`].
    fn window(&self, window: usize) -> impl Iterator<Item = u32> {
        let bit = window * self.width;
        let (word, shift) = (bit / 64, bit % 64);
        let (low, high) = (&self.words[word], &self.words[(word + 1).min(3)]);
        let last = window + 1 == self.windows();
        // The last window ends with the scalar, and has no bias.
        let bits = if last {
            SCALAR_BITS + 1 - bit
        } else {
            self.width
        };
        let (mask, half) = (
            (1u64 << bits) - 1,
            if last { 0 } else { 1i64 << (self.width - 1) },
        );
        low.iter()
            .zip(high)
            .zip(&self.signs)
            .map(move |((low, high), sign)| {
                let value = (low >> shift | high << 1 << (63 - shift)) & mask;
                let digit = value.cast_signed() - half;
                // Windows are at most 17 bits wide.
                let size = digit.unsigned_abs() as u32;
                if digit < 0 {
                    size | (NEGATED ^ sign)
                } else {
                    size | sign
                }
            })
    }
}

/// Longest walk over buckets at the end.
const MAX_STRETCH: usize = 64;
/// How far buckets may have grown before they are reduced: as far as sums of this many points.
const SETTLED: Bound = Bound::of_sum(1 << 14);

// One more batch, all in one bucket, fits; so does a walk, whose sums take up each bucket at most
// MAX_STRETCH times.
const _: () = assert!(SETTLED.joined(Bound::of_sum(2 * BATCH)).has_room());
const _: () = assert!(Bound::of_sum((1 << 14) * MAX_STRETCH * MAX_STRETCH).has_room());

/// What a walk over a stretch of buckets has come to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stretch {
    /// Nothing yet.
    Empty,
    /// The running sum and the sum of sums are the same point.
    Equal,
    /// They are not.
    Apart,
}

/// A share of a window's buckets: bucket `i` of share `s` is for digits of size `s·buckets + i + 1`.
struct Share<K: Kernel> {
    buckets: Vec<K::Point>,
    occupied: Vec<bool>,
    bound: Bound,
}

impl<K: Kernel> Share<K> {
    fn new() -> Self {
        Share {
            buckets: Vec::new(),
            occupied: Vec::new(),
            bound: Bound::FRESH,
        }
    }

    /// Adds a batch of points to their buckets.
    fn add(&mut self, trees: &mut Trees<K>, sorted: &Sorted, share: usize) {
        let (kernel, points) = (trees.kernel, trees.points);
        let buckets = sorted.buckets() / SHARES;
        if self.buckets.is_empty() {
            // Filled with anything: `occupied` says what counts.
            self.buckets = vec![points[0]; buckets];
            self.occupied = vec![false; buckets];
        }
        self.settle(kernel);
        let chunk = chunk::<K>();
        let mut segments: Vec<Segment> = Vec::new();
        let (mut total, mut bound) = (0, self.bound);
        let starts = &sorted.starts[share * buckets..=(share + 1) * buckets];
        for (bucket, ends) in starts.windows(2).enumerate() {
            let (start, end) = (ends[0] as usize, ends[1] as usize);
            if end > start {
                segments.push(Segment {
                    bucket,
                    start,
                    len: end - start,
                });
                total += end - start;
            }
            if total >= chunk || bucket + 1 == buckets {
                bound = bound.or(self.add_trees(trees, &sorted.indexes, &segments));
                segments.clear();
                total = 0;
            }
        }
        self.bound = bound;
    }

    /// Makes room for a batch and for the walk at the end, should many points have met in one bucket.
    fn settle(&mut self, kernel: K) {
        if self.bound.or(SETTLED) != SETTLED {
            self.buckets = kernel.import(&kernel.export(&self.buckets));
            self.bound = Bound::FRESH;
        }
    }

    /// Adds up the segments and adds each to its bucket; the bound of what was written.
    fn add_trees(&mut self, trees: &mut Trees<K>, sorted: &[u32], segments: &[Segment]) -> Bound {
        if trees.reduce(sorted, segments).is_ok() {
            let Buffers {
                scratch,
                pairs,
                buckets,
                sums,
                ..
            } = &mut trees.buffers;
            let occupied = (0..)
                .zip(&*buckets)
                .filter(|(_, bucket)| self.occupied[**bucket as usize]);
            pairs.clear();
            pairs.extend(occupied.map(|(i, bucket)| Pair {
                a: *bucket,
                b: i,
                to: *bucket,
            }));
            let bounds = [self.bound, trees.bound];
            let into = &mut self.buckets;
            let added = trees
                .kernel
                .add(scratch, bounds, Left::Out, sums, pairs, into);
            if added.is_ok() {
                for (sum, bucket) in sums.iter().zip(buckets) {
                    let at = *bucket as usize;
                    if !std::mem::replace(&mut self.occupied[at], true) {
                        self.buckets[at] = *sum;
                    }
                }
                return bounds[0].joined(bounds[1]);
            }
        }
        // Equal points in one bucket: rare, and no batch can add them.
        for segment in segments {
            let indexes = &sorted[segment.start..segment.start + segment.len];
            let mut sum = one_by_one(trees.kernel, trees.points, indexes);
            if self.occupied[segment.bucket] {
                let bucket = &self.buckets[segment.bucket..=segment.bucket];
                sum += trees.kernel.export(bucket)[0];
            }
            self.occupied[segment.bucket] = !sum.is_zero();
            if !sum.is_zero() {
                self.buckets[segment.bucket] = trees.kernel.import(&[sum.into_affine()])[0];
            }
        }
        Bound::FRESH
    }

    /// `Σ (share·buckets + i + 1)·bucket_i`.
    fn sum(mut self, kernel: K, share: usize) -> Projective<K::Curve> {
        self.settle(kernel);
        let [sum, all] = self.sums(kernel);
        sum + all.mul_bigint([(share * self.buckets.len()) as u64])
    }

    /// `Σ (i + 1)·bucket_i` and `Σ bucket_i`.
    fn sums(&self, kernel: K) -> [Projective<K::Curve>; 2] {
        self.sums_batched(kernel).unwrap_or_else(|EqualOperands| {
            let buckets = kernel.export(&self.buckets);
            let stretch = buckets.iter().zip(&self.occupied).rev();
            let (mut running, mut sum) = (Projective::<K::Curve>::zero(), Projective::zero());
            for (bucket, occupied) in stretch {
                if *occupied {
                    running += bucket;
                }
                sum += running;
            }
            [sum, running]
        })
    }

    /// The buckets in stretches of equal length, each walked from its end: `running` is the sum of
    /// the buckets passed, `sums` the sum of all `running`, so each bucket counts as often as its place
    /// in its stretch says. What the stretch's own place adds follows at the end.
    fn sums_batched(&self, kernel: K) -> Result<[Projective<K::Curve>; 2], EqualOperands> {
        let Some(any) = self.buckets.first() else {
            return Ok([Projective::zero(); 2]);
        };
        let length = (self.buckets.len() / 256)
            .clamp(8, MAX_STRETCH)
            .min(self.buckets.len());
        let stretches = self.buckets.len() / length;
        let (mut running, mut sums) = (vec![*any; stretches], vec![*any; stretches]);
        let mut states = vec![Stretch::Empty; stretches];
        let (mut running_bound, mut sums_bound) = (self.bound, self.bound);
        let (mut scratch, mut walks, mut gains) = (K::Scratch::default(), Vec::new(), Vec::new());
        for step in (0..length).rev() {
            walks.clear();
            gains.clear();
            for (stretch, state) in states.iter_mut().enumerate() {
                let at = stretch * length + step;
                let to = narrow(stretch);
                let walk = Pair {
                    a: to,
                    b: narrow(at),
                    to,
                };
                let gain = Pair { a: to, b: to, to };
                match (*state, self.occupied[at]) {
                    (Stretch::Empty, false) => {}
                    (Stretch::Empty, true) => {
                        running[stretch] = self.buckets[at];
                        sums[stretch] = self.buckets[at];
                        *state = Stretch::Equal;
                    }
                    (Stretch::Equal, false) => {
                        // Twice the same point: rare, and no chord.
                        let one = kernel.export(&running[stretch..=stretch])[0];
                        sums[stretch] = kernel.import(&[(one + one).into_affine()])[0];
                        *state = Stretch::Apart;
                    }
                    (Stretch::Equal | Stretch::Apart, true) => {
                        walks.push(walk);
                        gains.push(gain);
                        *state = Stretch::Apart;
                    }
                    (Stretch::Apart, false) => gains.push(gain),
                }
            }
            let bounds = [running_bound, self.bound];
            kernel.add(
                &mut scratch,
                bounds,
                Left::Out,
                &self.buckets,
                &walks,
                &mut running,
            )?;
            running_bound = bounds[0].joined(bounds[1]);
            let bounds = [sums_bound, running_bound];
            kernel.add(&mut scratch, bounds, Left::Out, &running, &gains, &mut sums)?;
            sums_bound = bounds[0].joined(bounds[1]);
        }
        let (running, sums) = (kernel.export(&running), kernel.export(&sums));
        let zero = Projective::<K::Curve>::zero();
        let (mut total, mut above, mut places) = (zero, zero, zero);
        for stretch in (0..stretches).rev() {
            // Σ stretch·running, by the same walk.
            places += above;
            if states[stretch] != Stretch::Empty {
                above += running[stretch];
                total += sums[stretch];
            }
        }
        for _ in 0..length.ilog2() {
            places.double_in_place();
        }
        Ok([total + places, above])
    }
}

/// A batch in one window's order.
struct Sorted {
    /// Of the points, flagged where the digit is negative, ordered by the digit's size. Digit zero is left out.
    indexes: Vec<u32>,
    /// Where each bucket starts, and the last one ends: bucket `i` holds digits of size `i + 1`.
    starts: Vec<u32>,
}

impl Sorted {
    fn of(digits: &Digits, window: usize) -> Sorted {
        // Each bucket is counted two places further, so that its start then stands one place further, and moves
        // to the next bucket's start while the bucket fills.
        let mut starts = vec![0; digits.buckets() + 2];
        let all: Vec<u32> = digits.window(window).collect();
        for digit in &all {
            let size = digit & !NEGATED;
            starts[size as usize + 1] += u32::from(size != 0);
        }
        for i in 1..starts.len() {
            starts[i] += starts[i - 1];
        }
        let mut indexes = vec![0; all.len()];
        for (index, digit) in (0u32..).zip(all) {
            let size = digit & !NEGATED;
            if size != 0 {
                let slot = &mut starts[size as usize];
                indexes[*slot as usize] = index | (digit & NEGATED);
                *slot += 1;
            }
        }
        Sorted { indexes, starts }
    }

    fn buckets(&self) -> usize {
        self.starts.len() - 2
    }
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
    buffers: Buffers<K>,
    /// Of the buffers' sums.
    bound: Bound,
}

/// What trees work with; the memory is used again and again.
struct Buffers<K: Kernel> {
    scratch: K::Scratch,
    pairs: Vec<Pair>,
    /// Results of the level before, and of this one. They only grow; what is beyond a level's count is
    /// left from earlier.
    levels: [Vec<K::Point>; 2],
    open: [Vec<Segment>; 2],
    /// Which buckets' sums stand in `sums`, in the order in which they were finished.
    buckets: Vec<u32>,
    sums: Vec<K::Point>,
}

impl<K: Kernel> Default for Buffers<K> {
    fn default() -> Self {
        Self {
            scratch: K::Scratch::default(),
            pairs: Vec::new(),
            levels: Default::default(),
            open: Default::default(),
            buckets: Vec::new(),
            sums: Vec::new(),
        }
    }
}

impl<'a, K: Kernel> Trees<'a, K> {
    fn new(kernel: K, points: &'a [K::Point], buffers: Buffers<K>) -> Self {
        Self {
            kernel,
            points,
            buffers,
            bound: Bound::FRESH,
        }
    }

    /// Leaves each segment's sum in `sums`.
    fn reduce(&mut self, sorted: &[u32], segments: &[Segment]) -> Result<(), EqualOperands> {
        let Buffers {
            scratch,
            pairs: operands,
            levels,
            open,
            buckets,
            sums,
            ..
        } = &mut self.buffers;
        buckets.clear();
        sums.clear();
        operands.clear();
        self.bound = Bound::FRESH;
        let [open, next] = open;
        next.clear();
        // Level 0 takes the points themselves.
        let take = |index: u32| {
            let point = &self.points[(index & !NEGATED) as usize];
            if index & NEGATED != 0 {
                self.kernel.negate(point)
            } else {
                *point
            }
        };
        let results = &mut levels[0];
        let mut count = 0;
        for (i, Segment { bucket, start, len }) in segments.iter().enumerate() {
            let indexes = &sorted[*start..*start + *len];
            // The last point of an odd number is copied, from anywhere in memory.
            if let Some(ahead) = segments.get(i + COPIES_AHEAD)
                && ahead.len % 2 == 1
            {
                let index = sorted[ahead.start + ahead.len - 1];
                let point = &self.points[(index & !NEGATED) as usize];
                self.kernel.prefetch(point);
            }
            if let [index] = indexes {
                buckets.push(narrow(*bucket));
                sums.push(take(*index));
                continue;
            }
            let first = count;
            let (pairs, odd) = indexes.as_chunks::<2>();
            for [a, b] in pairs {
                operands.push(Pair {
                    a: *a,
                    b: *b,
                    to: narrow(count),
                });
                count += 1;
            }
            reserve(results, count + 1, &self.points[0]);
            if let [index] = odd {
                results[count] = take(*index);
                count += 1;
            }
            next.push(Segment {
                bucket: *bucket,
                start: first,
                len: count - first,
            });
        }
        let mut bounds = [self.bound; 2];
        let left = Left::Of(self.points);
        self.kernel
            .add(scratch, bounds, left, self.points, operands, results)?;
        while !next.is_empty() {
            self.bound = bounds[0].joined(bounds[1]);
            bounds = [self.bound; 2];
            std::mem::swap(open, next);
            next.clear();
            operands.clear();
            let [before, results] = &mut *levels;
            let mut count = 0;
            for Segment { bucket, start, len } in open.iter() {
                if *len == 1 {
                    buckets.push(narrow(*bucket));
                    sums.push(before[*start]);
                    continue;
                }
                let first = count;
                for i in (*start..start + len - 1).step_by(2) {
                    operands.push(Pair {
                        a: narrow(i),
                        b: narrow(i + 1),
                        to: narrow(count),
                    });
                    count += 1;
                }
                reserve(results, count + 1, &self.points[0]);
                if len % 2 == 1 {
                    results[count] = before[start + len - 1];
                    count += 1;
                }
                next.push(Segment {
                    bucket: *bucket,
                    start: first,
                    len: count - first,
                });
            }
            let before = &before[..];
            self.kernel
                .add(scratch, bounds, Left::Of(before), before, operands, results)?;
            levels.swap(0, 1);
        }
        Ok(())
    }
}

/// Lengthens a list of results to at least `len`.
fn reserve<P: Copy>(results: &mut Vec<P>, len: usize, filler: &P) {
    if results.len() < len {
        results.resize(len.next_power_of_two(), *filler);
    }
}

fn one_by_one<K: Kernel>(kernel: K, points: &[K::Point], indexes: &[u32]) -> Projective<K::Curve> {
    let take = |index: &u32| {
        let point = points[(index & !NEGATED) as usize];
        if index & NEGATED != 0 {
            kernel.negate(&point)
        } else {
            point
        }
    };
    let points: Vec<K::Point> = indexes.iter().map(take).collect();
    kernel
        .export(&points)
        .iter()
        .fold(Projective::zero(), |sum, point: &Affine<_>| sum + point)
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
        sum_as(Msm::new(kernel, scalars.len()), points, scalars)
    }

    fn sum_as<K: Kernel>(
        mut msm: Msm<K>,
        points: &[Affine<K::Curve>],
        scalars: &[Fr],
    ) -> Projective<K::Curve> {
        let imported = msm.kernel.import(points);
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
                for batch in [1, 100, 699] {
                    let msm = Msm::in_batches(kernel, count, batch);
                    assert_eq!(
                        sum_as(msm, points, &scalars),
                        expected,
                        "{count} in batches of {batch}"
                    );
                }
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

    /// Buckets mostly empty, and buckets that so many points meet in that they are settled on the way.
    fn sparse_and_crowded_buckets<K: Kernel>(kernel: K, expected: usize) {
        let mut rng = crate::snark::testing::rng(8);
        let count = 5 << 13;
        let random: Vec<Fr> = (0..count).map(|_| Fr::rand(&mut rng)).collect();
        let generator = Affine::<K::Curve>::generator();
        let points =
            crate::snark::fixed_base::FixedBase::new(kernel, generator, count).multiply(&random);
        let few = &points[..5];
        assert_eq!(
            sum_as(Msm::new(kernel, expected), few, &random[7..12]),
            Projective::<K::Curve>::msm_unchecked(few, &random[7..12])
        );
        let same = vec![-Fr::from(3u64); count];
        let total: Fr = random.iter().sum();
        assert_eq!(
            sum_as(Msm::in_batches(kernel, expected, 1 << 14), &points, &same),
            -(generator * (total * Fr::from(3u64)))
        );
    }

    #[test]
    fn sums_do_not_depend_on_how_full_buckets_are() {
        sparse_and_crowded_buckets(Portable::<g1::Config>::default(), 1 << 12);
        sparse_and_crowded_buckets(Portable::<g2::Config>::default(), 1 << 12);
        #[cfg(target_arch = "x86_64")]
        if let Some(kernel) = crate::snark::kernel::ifma::IfmaG1::detect() {
            sparse_and_crowded_buckets(kernel, 1 << 22);
        }
        #[cfg(target_arch = "x86_64")]
        if let Some(kernel) = crate::snark::kernel::ifma::IfmaG2::detect() {
            sparse_and_crowded_buckets(kernel, 1 << 14);
        }
    }

    #[test]
    fn sums_equal_arks() {
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

    #[test]
    fn structured_points() {
        structured_points_do_not_spoil_the_sum(Portable::<g1::Config>::default());
        structured_points_do_not_spoil_the_sum(Portable::<g2::Config>::default());
        #[cfg(target_arch = "x86_64")]
        if let Some(kernel) = crate::snark::kernel::ifma::IfmaG1::detect() {
            structured_points_do_not_spoil_the_sum(kernel);
        }
        #[cfg(target_arch = "x86_64")]
        if let Some(kernel) = crate::snark::kernel::ifma::IfmaG2::detect() {
            structured_points_do_not_spoil_the_sum(kernel);
        }
    }

    #[test]
    fn digits_add_up_to_their_scalar() {
        let mut rng = crate::snark::testing::rng(7);
        for width in 4..=17 {
            let half = Fr::from_bigint(Fr::MODULUS_MINUS_ONE_DIV_TWO).expect("below the modulus");
            let scalars = [Fr::ZERO, Fr::ONE, -Fr::ONE, half, -half, Fr::rand(&mut rng)];
            let digits = Digits::of(&scalars, width);
            for (i, scalar) in scalars.iter().enumerate() {
                let mut sum = Fr::ZERO;
                for window in (0..digits.windows()).rev() {
                    let digit = digits.window(window).nth(i).expect("one per scalar");
                    sum *= Fr::from(1u64 << width);
                    let size = digit & !NEGATED;
                    assert!(size as usize <= digits.buckets());
                    let size = Fr::from(size);
                    sum += if digit & NEGATED != 0 { -size } else { size };
                }
                assert_eq!(sum, *scalar);
            }
        }
    }
}
