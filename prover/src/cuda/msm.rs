//! Sums of multiples of a key's points on the GPU.
//!
//! Walk: `snark::prove` streams a query's points and scalars through here as it does through [`crate::snark`]'s own `Msm`, in the
//! key's encoding. The method is the same, Pippenger's with signed digits and one inversion less to share: a bucket's points are
//! added up in one thread ([`kernels/msm.cu`](super)).
//!
//! A batch: points are decoded, scalars cut into digits and counted per bucket; the CPU turns the counts into places and into
//! *tasks*, stretches of one bucket of about equal length, the longest first so that the threads of a warp end together; the
//! GPU sorts, adds, and joins what tasks of one bucket found. Half of a circuit's scalars are ones: they meet in one bucket,
//! which is why long buckets are cut. Buckets stay on the GPU from the first batch to the last.
//! Memory on the GPU: about 600 bytes a point of a batch in G1, 900 in G2, and 192 or 384 a bucket.

use std::marker::PhantomData;

use ark_bls12_381::{Fq, Fr, g1, g2};
use ark_ec::short_weierstrass::{Projective, SWCurveConfig};
use ark_ff::{AdditiveGroup, Field, Zero};
use rayon::prelude::*;

use super::{Arg, Buffer, Gpu, GpuError, Queue};

/// Multiplications from which on a sum is worth the way to the GPU.
pub const WORTH_IT: usize = 1 << 14;
/// Points of a batch.
const BATCH: usize = 1 << 21;
/// Points that one thread adds at most.
const LONGEST: u32 = 128;
/// Sums that one thread joins at most.
const JOINED: u32 = 16;
/// Stretches into which a window's buckets are cut at the end.
const STRETCHES: usize = 512;
/// Bits of a scalar or its negative, whichever is smaller, and its sign.
const SCALAR_BITS: usize = 255;

/// What a sum came to: no sum, where a point that is needed is no point.
pub type Outcome<T> = Result<Option<T>, GpuError>;

/// A curve that the kernels know.
pub trait OnGpu: SWCurveConfig<ScalarField = Fr> {
    /// Names of its kernels: decode, add, join, gather, reduce.
    const KERNELS: [&'static str; 5];
    /// Coordinates in Fq of a point.
    const COORDINATES: usize;
    /// A coordinate from as many elements as it has.
    fn coordinate(elements: &[Fq]) -> Self::BaseField;
}

impl OnGpu for g1::Config {
    const KERNELS: [&'static str; 5] = [
        "msm_decode_g1",
        "msm_add_g1",
        "msm_join_g1",
        "msm_gather_g1",
        "msm_reduce_g1",
    ];
    const COORDINATES: usize = 2;
    fn coordinate(elements: &[Fq]) -> Fq {
        elements[0]
    }
}

impl OnGpu for g2::Config {
    const KERNELS: [&'static str; 5] = [
        "msm_decode_g2",
        "msm_add_g2",
        "msm_join_g2",
        "msm_gather_g2",
        "msm_reduce_g2",
    ];
    const COORDINATES: usize = 4;
    fn coordinate(elements: &[Fq]) -> ark_bls12_381::Fq2 {
        ark_bls12_381::Fq2::new(elements[0], elements[1])
    }
}

/// A sum in the making.
pub struct Msm<'a, C> {
    queue: Queue<'a>,
    width: usize,
    batch: usize,
    /// Of all windows, the lowest first.
    buckets: Buffer,
    /// Points as the key has them, and their scalars, of the batch so far.
    encoded: Buffer,
    scalars: Buffer,
    filled: usize,
    curve: PhantomData<C>,
}

/// A stretch of a list, and where its sum goes: `Task` in `msm.cu`.
type Task = [u32; 4];

impl<'a, C: OnGpu> Msm<'a, C> {
    /// An empty sum of so many points, of which `many` need multiplications.
    pub fn new(gpu: &'a Gpu, points: usize, many: usize) -> Result<Self, GpuError> {
        Self::in_batches(gpu, many, points.clamp(1, BATCH))
    }

    fn in_batches(gpu: &'a Gpu, many: usize, batch: usize) -> Result<Self, GpuError> {
        let queue = gpu.queue()?;
        let width = best_width(many);
        let mut buckets = queue.allocate((windows(width) << (width - 1)) * Self::SUM_BYTES)?;
        queue.clear(&mut buckets)?;
        Ok(Msm {
            width,
            batch,
            buckets,
            encoded: queue.allocate(batch * Self::POINT_BYTES)?,
            scalars: queue.allocate(batch * size_of::<Fr>())?,
            filled: 0,
            queue,
            curve: PhantomData,
        })
    }

    const POINT_BYTES: usize = C::COORDINATES * size_of::<Fq>();
    const SUM_BYTES: usize = 2 * Self::POINT_BYTES;

    /// Adds `scalar · point` for each pair, the points in the key's encoding. `Ok(None)` if a point that is needed is no point.
    pub fn add(&mut self, mut encoded: &[u8], mut scalars: &[Fr]) -> Outcome<()> {
        while !scalars.is_empty() {
            let room = (self.batch - self.filled).min(scalars.len());
            let (now, later) = encoded.split_at(room * Self::POINT_BYTES);
            let at = self.filled * Self::POINT_BYTES;
            self.queue.write(&mut self.encoded, at, now)?;
            encoded = later;
            let (now, later) = scalars.split_at(room);
            let at = self.filled * size_of::<Fr>();
            self.queue.write(&mut self.scalars, at, now)?;
            scalars = later;
            self.filled += room;
            if self.filled == self.batch && self.flush()?.is_none() {
                return Ok(None);
            }
        }
        Ok(Some(()))
    }

    /// The sum.
    pub fn finish(mut self) -> Outcome<Projective<C>> {
        if self.flush()?.is_none() {
            return Ok(None);
        }
        let [.., reduce] = C::KERNELS;
        let (windows, per_window) = (windows(self.width), 1 << (self.width - 1));
        let stretches = STRETCHES.min(per_window);
        let threads = windows * stretches;
        let out = self.queue.allocate(threads * Self::SUM_BYTES)?;
        let args = [
            Arg::At(&self.buckets),
            Arg::Number(per_window as u64),
            Arg::Number((per_window / stretches) as u64),
            Arg::Number(threads as u64),
            Arg::At(&out),
        ];
        self.queue.launch(reduce, threads, &args)?;
        let mut sums = vec![Fq::ZERO; threads * Self::SUM_BYTES / size_of::<Fq>()];
        self.queue.read(&out, &mut sums)?;
        let each = Self::SUM_BYTES / size_of::<Fq>();
        let windows: Vec<Projective<C>> = sums
            .par_chunks(stretches * each)
            .map(|window| window.chunks_exact(each).map(Self::sum).sum())
            .collect();
        let mut sum = Projective::zero();
        for window in windows.iter().rev() {
            (0..self.width).for_each(|_| {
                sum.double_in_place();
            });
            sum += window;
        }
        Ok(Some(sum))
    }

    /// From `x/zz, y/zzz` to ark's `x/z², y/z³`: with `z = zzz` both are multiples of what is there.
    fn sum(elements: &[Fq]) -> Projective<C> {
        let mut coordinates = elements.chunks_exact(C::COORDINATES / 2).map(C::coordinate);
        let [x, y, zz, zzz] = [(); 4].map(|()| coordinates.next().expect("four to a sum"));
        if zz.is_zero() {
            return Projective::zero();
        }
        Projective::new_unchecked(x * zz.square(), y * zzz.square(), zzz)
    }

    /// Adds the batch to the buckets.
    fn flush(&mut self) -> Outcome<()> {
        let count = std::mem::take(&mut self.filled);
        if count == 0 {
            return Ok(Some(()));
        }
        let (queue, [decode, add, ..]) = (&self.queue, C::KERNELS);
        let (width, windows) = (self.width, windows(self.width));
        let buckets = windows << (width - 1);
        let words = |count: usize| queue.allocate(count * size_of::<u32>());
        let number = |n: usize| Arg::Number(n as u64);

        let points = queue.allocate(count * Self::POINT_BYTES)?;
        let bad = queue.upload(&[u64::MAX])?;
        let args = [
            Arg::At(&self.encoded),
            Arg::At(&self.scalars),
            number(count),
            Arg::At(&points),
            Arg::At(&bad),
        ];
        queue.launch(decode, count, &args)?;
        let digits = words(windows * count)?;
        let mut sizes = words(buckets)?;
        queue.clear(&mut sizes)?;
        let args = [
            Arg::At(&self.scalars),
            number(count),
            number(width),
            number(windows),
            Arg::At(&digits),
            Arg::At(&sizes),
        ];
        queue.launch("msm_digits", count, &args)?;
        let mut counts = vec![0u32; buckets];
        queue.read(&sizes, &mut counts)?;
        let mut first_bad = [0u64];
        queue.read(&bad, &mut first_bad)?;
        if first_bad[0] != u64::MAX {
            return Ok(None);
        }

        let starts = ends(&counts);
        let next = queue.upload(&starts[..buckets])?;
        let sorted = words(starts[buckets] as usize)?;
        let args = [
            Arg::At(&digits),
            number(count),
            number(width),
            number(windows),
            Arg::At(&next),
            Arg::At(&sorted),
        ];
        queue.launch("msm_sort", windows * count, &args)?;
        let (mut sums, mut first) = self.run(add, &starts, LONGEST, &[&points, &sorted])?;
        while first.windows(2).any(|ends| ends[1] - ends[0] > JOINED) {
            let [_, _, join, ..] = C::KERNELS;
            (sums, first) = self.run(join, &first, JOINED, &[&sums])?;
        }
        let [.., gather, _] = C::KERNELS;
        let first = queue.upload(&first)?;
        let args = [
            Arg::At(&sums),
            Arg::At(&first),
            number(buckets),
            Arg::At(&self.buckets),
        ];
        queue.launch(gather, buckets, &args)?;
        Ok(Some(()))
    }

    /// Cuts stretches of the last input into tasks of at most `longest` and runs them; their sums, and where each stretch's start.
    fn run(
        &self,
        kernel: &'static str,
        ends: &[u32],
        longest: u32,
        inputs: &[&Buffer],
    ) -> Result<(Buffer, Vec<u32>), GpuError> {
        let (tasks, first) = cut(ends, longest);
        let sums = self.queue.allocate(tasks.len() * Self::SUM_BYTES)?;
        let on_gpu = self.queue.upload(&tasks)?;
        let mut args: Vec<Arg> = inputs.iter().map(|input| Arg::At(input)).collect();
        let count = Arg::Number(tasks.len() as u64);
        args.extend([Arg::At(&on_gpu), count, Arg::At(&sums)]);
        self.queue.launch(kernel, tasks.len(), &args)?;
        Ok((sums, first))
    }
}

/// About sixteen points a bucket, and as many buckets as keep a GPU busy.
fn best_width(many: usize) -> usize {
    (many.max(1).ilog2() as usize)
        .saturating_sub(4)
        .clamp(6, 16)
}

/// Windows that cover a scalar and its sign.
fn windows(width: usize) -> usize {
    SCALAR_BITS.div_ceil(width)
}

/// Where each of these stretches starts, one behind the other, and the end.
fn ends(lengths: &[u32]) -> Vec<u32> {
    let mut end = 0;
    let mut ends = Vec::with_capacity(lengths.len() + 1);
    ends.push(0);
    ends.extend(lengths.iter().map(|length| {
        end += length;
        end
    }));
    ends
}

/// Stretches cut into tasks of at most `longest`, of about equal lengths; the longest come first. And the first task's number
/// of each stretch, and the end.
fn cut(ends: &[u32], longest: u32) -> (Vec<Task>, Vec<u32>) {
    let pieces = |length: u32| length.div_ceil(longest);
    let mut first = Vec::with_capacity(ends.len());
    first.push(0);
    let mut out = 0;
    // How many tasks there are of each length, then where the next of that length goes.
    let mut places = vec![0u32; longest as usize + 1];
    for ends in ends.windows(2) {
        let length = ends[1] - ends[0];
        out += pieces(length);
        first.push(out);
        for piece in 0..pieces(length) {
            places[share(length, pieces(length), piece).1 as usize] += 1;
        }
    }
    let mut before = 0;
    for place in places.iter_mut().rev() {
        before += std::mem::replace(place, before);
    }
    let mut tasks = vec![[0; 4]; out as usize];
    for (ends, first) in ends.windows(2).zip(&first) {
        let length = ends[1] - ends[0];
        for piece in 0..pieces(length) {
            let (from, length) = share(length, pieces(length), piece);
            let place = &mut places[length as usize];
            tasks[*place as usize] = [ends[0] + from, length, first + piece, 0];
            *place += 1;
        }
    }
    (tasks, first)
}

/// Start and length of one of so many pieces of a stretch.
fn share(length: u32, pieces: u32, piece: u32) -> (u32, u32) {
    let at = |piece: u32| (u64::from(length) * u64::from(piece) / u64::from(pieces)) as u32;
    (at(piece), at(piece + 1) - at(piece))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::{all, device, emulated};
    use crate::snark::testing::rng;
    use ark_bls12_381::{G1Projective, G2Projective};
    use ark_ec::{CurveGroup, PrimeGroup, VariableBaseMSM};
    use ark_ff::{BigInteger, PrimeField, UniformRand};

    /// A coordinate as keys have it.
    fn encode(element: &Fq) -> Vec<u8> {
        element.into_bigint().to_bytes_be()
    }

    trait Encoded: OnGpu {
        fn encode(point: &Projective<Self>) -> Vec<u8>;
    }
    impl Encoded for g1::Config {
        fn encode(point: &G1Projective) -> Vec<u8> {
            let point = point.into_affine();
            [encode(&point.x), encode(&point.y)].concat()
        }
    }
    impl Encoded for g2::Config {
        fn encode(point: &G2Projective) -> Vec<u8> {
            let point = point.into_affine();
            let elements = [point.x.c1, point.x.c0, point.y.c1, point.y.c0];
            elements.iter().flat_map(encode).collect()
        }
    }

    fn sum<C: Encoded>(
        gpu: &Gpu,
        points: &[Projective<C>],
        scalars: &[Fr],
        many: usize,
        batch: usize,
    ) -> Option<Projective<C>> {
        let encoded: Vec<u8> = points.iter().flat_map(C::encode).collect();
        let mut msm = Msm::<C>::in_batches(gpu, many, batch).expect("always there");
        // In two pieces that do not end with a batch.
        let cut = scalars.len() / 3;
        let (first, second) = scalars.split_at(cut);
        let (points, rest) = encoded.split_at(cut * Msm::<C>::POINT_BYTES);
        msm.add(points, first).expect("always there")?;
        msm.add(rest, second).expect("always there")?;
        msm.finish().expect("always there")
    }

    /// Scalars as witnesses have them: zeros, ones, small and large ones, around the half and the end of the order.
    fn scalars(count: usize, seed: u64) -> Vec<Fr> {
        let mut rng = rng(seed);
        let half = Fr::from(Fr::MODULUS_MINUS_ONE_DIV_TWO);
        let edges = [
            Fr::ZERO,
            Fr::ONE,
            -Fr::ONE,
            half,
            half + Fr::ONE,
            Fr::from(1u64 << 15),
            Fr::from(0x8000_8001_u64),
        ];
        let value = |i: usize| match i % 3 {
            0 => edges[i / 3 % edges.len()],
            1 => Fr::from((i % 2) as u64),
            _ => Fr::rand(&mut rng),
        };
        (0..count).map(value).collect()
    }

    fn compare<C: Encoded>(gpu: &Gpu, count: usize, seed: u64, many: usize, batch: usize) {
        let mut rng = rng(seed + 100);
        let [mut point, step] = [(); 2].map(|()| Projective::<C>::rand(&mut rng));
        let next = |_| {
            point += step;
            point
        };
        let mut points: Vec<Projective<C>> = (0..count).map(next).collect();
        // Equal points, and opposite ones, meet in buckets.
        for i in (5..count).step_by(5) {
            points[i] = if i % 2 == 0 {
                points[i - 5]
            } else {
                -points[i - 5]
            };
        }
        let mut scalars = scalars(count, seed);
        for i in (5..count).step_by(10) {
            scalars[i] = scalars[i - 5];
        }
        let affine = Projective::normalize_batch(&points);
        let plain = Projective::<C>::msm(&affine, &scalars).expect("as many of both");
        let ours = sum(gpu, &points, &scalars, many, batch).expect("all of them are points");
        assert_eq!(
            ours.into_affine(),
            plain.into_affine(),
            "{count} {many} {batch}"
        );
    }

    #[test]
    fn sums_are_the_cpus() {
        for gpu in all() {
            for (count, many, batch) in [(1, 1, 1), (2, 2, 8), (300, 300, 128), (300, 1 << 14, 300)]
            {
                compare::<g1::Config>(gpu, count, 1, many, batch);
                compare::<g2::Config>(gpu, count, 2, many, batch);
            }
        }
        // Warps of tasks, and the widest windows, are for a real one.
        if let Some(gpu) = device() {
            compare::<g1::Config>(gpu, 50_000, 3, 1 << 21, 20_000);
            compare::<g2::Config>(gpu, 50_000, 4, 1 << 18, 20_000);
        }
    }

    #[test]
    fn buckets_that_many_share_are_joined_in_levels() {
        // Ones, of a few points over and over: equal points, opposite points and nothing at all meet in one bucket.
        let count = 2 * (LONGEST * JOINED) as usize + 77;
        let g = G1Projective::generator();
        let few = [g, g, -g, g + g, g];
        let points: Vec<_> = (0..count).map(|i| few[i % few.len()]).collect();
        let scalars = vec![Fr::ONE; count];
        let plain: G1Projective = points.iter().sum();
        for gpu in all() {
            let ours = sum(gpu, &points, &scalars, 1, count).expect("all of them are points");
            assert_eq!(ours, plain);
        }
    }

    #[test]
    fn what_is_no_point_is_told_where_it_is_needed() {
        let points = vec![G1Projective::generator(); 4];
        let mut encoded: Vec<u8> = points.iter().flat_map(g1::Config::encode).collect();
        // Point 2: the point at infinity's flag, which no coordinate below the order has.
        encoded[2 * 96] |= 0x40;
        for (scalar, told) in [(Fr::ZERO, false), (Fr::ONE, true), (Fr::from(7u64), true)] {
            let scalars = [Fr::ONE, Fr::ZERO, scalar, Fr::from(9u64)];
            let mut msm = Msm::<g1::Config>::in_batches(emulated::gpu(), 4, 4).expect("there");
            let added = msm.add(&encoded, &scalars).expect("always there");
            assert_eq!(added.is_none(), told, "{scalar}");
        }
    }

    #[test]
    fn tasks_cover_their_stretches_longest_first() {
        let lengths = [0, 1, 128, 129, 0, 1000, 3];
        let ends = ends(&lengths);
        let (tasks, first) = cut(&ends, LONGEST);
        assert!(tasks.windows(2).all(|pair| pair[0][1] >= pair[1][1]));
        for (i, ends) in ends.windows(2).enumerate() {
            let mut own: Vec<&Task> = tasks
                .iter()
                .filter(|task| (first[i]..first[i + 1]).contains(&task[2]))
                .collect();
            own.sort_by_key(|task| task[2]);
            let mut at = ends[0];
            for task in own {
                assert!(task[0] == at && task[1] > 0 && task[1] <= LONGEST);
                at += task[1];
            }
            assert_eq!(at, ends[1], "stretch {i}");
        }
    }
}
