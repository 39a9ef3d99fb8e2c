//! The prover: witness, quotient, five sums, one proof.
//!
//! Walk: [`crate::porep::circuit`] or [`crate::post::circuit`] gives the statement with its witness, [`super::keys`]
//! the key; the result goes to [`crate::verify`]. Spec: Groth16 with bellman's reduction (a row per
//! input appended, quotient by the vanishing polynomial of the rows' domain), `r1cs/README.md` §§2, 3.
//! Plain twin: ark-groth16; the same randomness gives the same 192 bytes (tests).
//!
//! The circuit is spelled once, its parts side by side. Each row is evaluated the moment it is spelled, and must hold: a
//! witness that does not satisfy the circuit is an error that names the row, never a proof.
//! Work runs on the rayon pool of the caller.
//! Memory: three vectors of the domain's size and one of the variables': 0.5 GiB for PoRep 8 MiB, 0.6 GiB with
//! what the sums need (`examples/groth16_stages` prints it).

use ark_bls12_381::{Bls12_381, Fr, G1Projective, g1, g2};
use ark_ec::CurveGroup;
use ark_ec::short_weierstrass::Projective;
use ark_ff::{AdditiveGroup, Field, UniformRand};
use ark_groth16::Proof;
use rayon::prelude::*;

use super::cs::{Circuit, ConstraintSystem, MINUS_ONE, Term, Var};
use super::groth16::encode;
use super::kernel::Kernel;
use super::kernel::portable::Portable;
use super::keys::{KeyError, ProvingKey, Query};
use super::msm::{Class, Msm, READ};
use super::ntt::Transform;
use super::record::Counts;
#[cfg(any(test, feature = "cuda"))]
use crate::cuda::{self, msm::OnGpu as Curve};
use crate::progress::{Progress, Share};
use crate::spec::GROTH16_PROOF_BYTES;
#[cfg(not(any(test, feature = "cuda")))]
use ark_ec::short_weierstrass::SWCurveConfig as Curve;

/// What a proof is called while it is made.
const STAGE: &str = "Groth16 proof";
/// Units of progress of one proof.
const WHOLE: u64 = 1 << 20;
/// The part of them that the witness takes, whose cost next to the other steps is not known before it is there.
const WITNESS: u64 = WHOLE / 10;

/// What the steps behind the witness cost next to each other, by the processor seconds of a PoRep and a WindowPoSt of 8 MiB sectors
/// (`examples/groth16_stages`).
mod cost {
    /// One value of a row in one transform.
    pub const TRANSFORM: u64 = 100;
    /// A point of G1 that is read, and perhaps added; and on top, one that is multiplied.
    pub const G1: u64 = 50;
    pub const G1_MANY: u64 = 1950;
    /// The same in G2.
    pub const G2: u64 = 140;
    pub const G2_MANY: u64 = 5300;
}
/// Passes over all rows in a quotient, most of them transforms.
const PASSES: u64 = 7;

/// Why there is no proof.
#[derive(Debug, thiserror::Error)]
pub enum ProveError {
    /// The witness does not satisfy the circuit: the data it was read from is not what was committed.
    #[error(
        "row {row} of {circuit} does not hold: the sector's files do not match its commitments"
    )]
    Unsatisfied {
        /// Of which circuit.
        circuit: String,
        /// The first row that fails.
        row: usize,
    },
    /// Circuit and key have different sizes.
    #[error("the key is for another circuit: it has {key:?}, the statement has {circuit:?}")]
    WrongKey {
        /// Sizes of the key's circuit.
        key: Counts,
        /// Sizes of the statement's.
        circuit: Counts,
    },
    /// The key could not be read.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The proof does not verify: memory or the key are damaged (threat P18).
    #[error(
        "the finished proof of {0} does not verify: the key file or this machine's memory is damaged; check the key with `holdfast prover params`"
    )]
    SelfCheck(String),
}

/// Proves, and verifies the proof before handing it out.
pub fn prove(
    key: &ProvingKey,
    circuit: &impl Circuit,
    progress: &dyn Progress,
) -> Result<[u8; GROTH16_PROOF_BYTES], ProveError> {
    let mut rng = rand::rngs::OsRng;
    let mut made = |progress| -> Result<Option<[u8; GROTH16_PROOF_BYTES]>, ProveError> {
        let (r, s) = (Fr::rand(&mut rng), Fr::rand(&mut rng));
        let (proof, inputs) = prove_with(key, circuit, r, s, progress)?;
        let accepted = key.verifying_key().accepts(&inputs[1..], &proof);
        Ok((accepted == Some(true)).then(|| encode(&proof)))
    };
    #[cfg(any(test, feature = "cuda"))]
    let gpu = cuda::device();
    if let Some(proof) = made(progress)? {
        return Ok(proof);
    }
    // The GPU is the likeliest to have been wrong.
    #[cfg(any(test, feature = "cuda"))]
    if let Some(gpu) = gpu {
        cuda::fall_back(gpu, "proof", &cuda::GpuError::Wrong("proof"));
        if let Some(proof) = made(&crate::progress::NoProgress)? {
            return Ok(proof);
        }
    }
    Err(ProveError::SelfCheck(key.name().to_owned()))
}

/// Proves one statement after another, all of them one stage of progress, and joins the proofs.
pub fn prove_all<C: Circuit>(
    key: &ProvingKey,
    circuits: impl ExactSizeIterator<Item = C>,
    progress: &dyn Progress,
) -> Result<Vec<u8>, ProveError> {
    progress.start(STAGE, WHOLE * circuits.len().max(1) as u64);
    let mut proofs = Vec::new();
    for circuit in circuits {
        proofs.extend(prove(key, &circuit, &Share::new(progress, WHOLE))?);
    }
    progress.finish();
    Ok(proofs)
}

/// Proves with given randomness: for comparison with another prover. Returns the inputs too.
pub(crate) fn prove_with(
    key: &ProvingKey,
    circuit: &impl Circuit,
    r: Fr,
    s: Fr,
    progress: &dyn Progress,
) -> Result<(Proof<Bls12_381>, Vec<Fr>), ProveError> {
    progress.start(STAGE, WHOLE);
    let rows = witness(key, circuit, &Share::new(progress, WITNESS))?;
    #[cfg(target_arch = "x86_64")]
    {
        use super::kernel::ifma::{IfmaG1, IfmaG2};
        if let (Some(in_g1), Some(in_g2)) = (IfmaG1::detect(), IfmaG2::detect()) {
            return prove_on(in_g1, in_g2, Transform::new, key, rows, [r, s], progress);
        }
    }
    prove_portably(key, rows, [r, s], progress)
}

/// On the kernels of CPUs without IFMA.
fn prove_portably(
    key: &ProvingKey,
    rows: Rows,
    blinding: [Fr; 2],
    progress: &dyn Progress,
) -> Result<(Proof<Bls12_381>, Vec<Fr>), ProveError> {
    let in_g1 = Portable::<g1::Config>::default();
    let in_g2 = Portable::<g2::Config>::default();
    prove_on(
        in_g1,
        in_g2,
        Transform::portable,
        key,
        rows,
        blinding,
        progress,
    )
}

/// 1. Spells the circuit: values of all variables and of all rows.
fn witness(
    key: &ProvingKey,
    circuit: &impl Circuit,
    progress: &dyn Progress,
) -> Result<Rows, ProveError> {
    let counts = key.density().counts;
    let rows = span("witness", || Rows::of(counts, circuit, progress));
    tracing::debug!(side_by_side = rows.side_by_side, "parts spelled");
    if rows.counts != key.density().counts {
        return Err(ProveError::WrongKey {
            key: key.density().counts,
            circuit: rows.counts,
        });
    }
    match rows.unsatisfied {
        Some(row) => Err(ProveError::Unsatisfied {
            circuit: key.name().to_owned(),
            row,
        }),
        None => Ok(rows),
    }
}

/// The other steps, on the caller's choice of kernels.
fn prove_on(
    in_g1: impl Kernel<Curve = g1::Config>,
    in_g2: impl Kernel<Curve = g2::Config>,
    transform: fn(usize) -> Transform,
    key: &ProvingKey,
    rows: Rows,
    [r, s]: [Fr; 2],
    progress: &dyn Progress,
) -> Result<(Proof<Bls12_381>, Vec<Fr>), ProveError> {
    let Rows {
        inputs, aux, a, b, ..
    } = rows;

    let vk = key.verifying_key();
    let density = key.density();
    let of_a = Scalars([(&inputs, None), (&aux, Some(&density.in_a))]);
    let of_b = Scalars([
        (&inputs, Some(&density.inputs_in_b)),
        (&aux, Some(&density.in_b)),
    ]);
    let of_l = Scalars::all(&aux);
    // What is left, weighed by what this witness makes of it.
    let [l_many, a_many, b_many] = [of_l, of_a, of_b].map(Scalars::many);
    let weight = |query: Query, many: usize| {
        let (points, many) = (key.points(query) as u64, many as u64);
        match query {
            Query::BG2 => points * cost::G2 + many * cost::G2_MANY,
            _ => points * cost::G1 + many * cost::G1_MANY,
        }
    };
    let transforms = PASSES * a.len() as u64 * cost::TRANSFORM;
    let h_weight = weight(Query::H, key.points(Query::H));
    let others = [
        (Query::L, l_many),
        (Query::A, a_many),
        (Query::BG1, b_many),
        (Query::BG2, b_many),
    ];
    let others: u64 = others
        .iter()
        .map(|(query, many)| weight(*query, *many))
        .sum();
    let rest = Share::of(progress, WHOLE - WITNESS, transforms + h_weight + others);

    // 2. The quotient of A·B − C by the vanishing polynomial.
    let passes = Share::of(&rest, transforms, PASSES);
    let h = span("quotient", || quotient_anywhere(transform, a, b, &passes));

    // 3. Five sums over the key.
    let sum_g1 = |query, scalars: Scalars<'_>, many: usize| {
        let share = Share::of(&rest, weight(query, many), key.points(query) as u64);
        sum_anywhere(in_g1, key, query, scalars, many, &share)
    };
    let of_h = Scalars::all(&h);
    let h_sum = span("h", || sum_g1(Query::H, of_h, of_h.many()))?;
    drop(h);
    let l_sum = span("l", || sum_g1(Query::L, of_l, l_many))?;
    let a_sum = span("a", || sum_g1(Query::A, of_a, a_many))?;
    let b1_sum = span("b_g1", || sum_g1(Query::BG1, of_b, b_many))?;
    let points = key.points(Query::BG2) as u64;
    let share = Share::of(&rest, weight(Query::BG2, b_many), points);
    let b2_sum = span("b_g2", || {
        sum_anywhere(in_g2, key, Query::BG2, of_b, b_many, &share)
    })?;

    // 4. Blind and join.
    let (delta_g1, delta_g2) = (vk.delta_g1(), vk.key().delta_g2);
    let a = a_sum + vk.key().alpha_g1 + delta_g1 * r;
    let b1: G1Projective = b1_sum + vk.beta_g1() + delta_g1 * s;
    let b2 = b2_sum + vk.key().beta_g2 + delta_g2 * s;
    let c = a * s + b1 * r - delta_g1 * (r * s) + l_sum + h_sum;
    progress.finish();
    Ok((
        Proof {
            a: a.into_affine(),
            b: b2.into_affine(),
            c: c.into_affine(),
        },
        inputs,
    ))
}

fn span<T>(stage: &'static str, work: impl FnOnce() -> T) -> T {
    tracing::info_span!("prover.groth16.prove", stage).in_scope(|| {
        let start = std::time::Instant::now();
        let result = work();
        tracing::debug!(seconds = start.elapsed().as_secs_f64(), "done");
        result
    })
}

/// The scalars of a query: those that a mask names, or all, of two lists.
#[derive(Clone, Copy)]
struct Scalars<'a>([(&'a [Fr], Option<&'a [bool]>); 2]);

impl<'a> Scalars<'a> {
    fn all(values: &'a [Fr]) -> Self {
        Scalars([(values, None), (&[], None)])
    }

    fn iter(self) -> impl Iterator<Item = &'a Fr> + Send {
        self.0.into_iter().flat_map(|(values, mask)| {
            let mask = mask.into_iter().flatten().copied();
            let occurs = mask.chain(std::iter::repeat(true));
            let occurring = values.iter().zip(occurs).filter(|(_, occurs)| *occurs);
            occurring.map(|(value, _)| value)
        })
    }

    /// How many need multiplications.
    fn many(self) -> usize {
        let many = |(values, mask): (&[Fr], Option<&[bool]>)| {
            let values = values.par_iter().enumerate().with_min_len(1 << 12);
            let many = values.filter(|(i, value)| {
                mask.is_none_or(|mask| mask[*i]) && Class::of(value) == Class::Many
            });
            many.count()
        };
        self.0.into_iter().map(many).sum()
    }
}

/// A circuit's values: of its variables, and of A and B in every row, zeros up to the domain's size.
struct Rows {
    counts: Counts,
    inputs: Vec<Fr>,
    aux: Vec<Fr>,
    a: Vec<Fr>,
    b: Vec<Fr>,
    unsatisfied: Option<usize>,
    /// Parts that were spelled side by side; none when everything was spelled in order.
    side_by_side: usize,
}

impl Rows {
    /// Runs a circuit that should have the expected sizes, and appends the inputs' rows. With other sizes
    /// only the counts mean anything.
    ///
    /// The circuit's parts are spelled side by side when what the head leaves can be cut into equal parts; if a part turns
    /// out to be of another length, everything is spelled again in order.
    fn of(expected: Counts, circuit: &impl Circuit, progress: &dyn Progress) -> Rows {
        let mut rows = Rows::blank(expected);
        progress.start("witness", expected.constraints.max(1) as u64);
        if !rows.spell(expected, circuit, true, progress) {
            rows.spell(expected, circuit, false, progress);
        }
        progress.finish();
        let from = expected.constraints;
        rows.a[from..from + expected.inputs].copy_from_slice(&rows.inputs);
        rows
    }

    /// Zeros, as many as a circuit of these sizes has values.
    fn blank(expected: Counts) -> Rows {
        let zeros = |count: usize| -> Vec<Fr> {
            let zeros = (0..count).into_par_iter().with_min_len(1 << 14);
            zeros.map(|_| Fr::ZERO).collect()
        };
        let domain = expected.domain();
        Rows {
            counts: Counts::EMPTY,
            inputs: zeros(expected.inputs),
            aux: zeros(expected.aux),
            a: zeros(domain),
            b: zeros(domain),
            unsatisfied: None,
            side_by_side: 0,
        }
    }

    /// Runs the circuit, its parts side by side or in order; whether everything found its place.
    fn spell(
        &mut self,
        expected: Counts,
        circuit: &impl Circuit,
        in_parts: bool,
        progress: &dyn Progress,
    ) -> bool {
        let mut segment = Segment::first(self, expected, in_parts, progress);
        circuit.synthesize(&mut segment);
        let Segment {
            counts,
            fits,
            unsatisfied,
            side_by_side,
            ..
        } = segment;
        (self.counts, self.unsatisfied) = (counts, unsatisfied);
        self.side_by_side = side_by_side;
        fits
    }
}

/// Listens with a witness: a stretch of the variables and rows, or all of them.
struct Segment<'a> {
    /// Sizes of the whole circuit.
    expected: Counts,
    /// Inputs and auxiliaries of the head, which all parts may name.
    head: [&'a [Fr]; 2],
    /// Where the segment starts.
    start: Counts,
    /// What has been spelled up to here, the segments before it included.
    counts: Counts,
    inputs: &'a mut [Fr],
    aux: &'a mut [Fr],
    a: &'a mut [Fr],
    b: &'a mut [Fr],
    unsatisfied: Option<usize>,
    /// Parts that were cut off and spelled side by side.
    side_by_side: usize,
    /// Whether parts may be spelled side by side; not inside of parts.
    in_parts: bool,
    /// Whether everything has found its place.
    fits: bool,
    /// Told of the rows of each part.
    progress: &'a dyn Progress,
}

impl<'a> Segment<'a> {
    fn first(
        rows: &'a mut Rows,
        expected: Counts,
        in_parts: bool,
        progress: &'a dyn Progress,
    ) -> Self {
        rows.inputs[0] = Fr::ONE;
        Segment {
            expected,
            head: [&[], &[]],
            start: Counts {
                inputs: 0,
                aux: 0,
                constraints: 0,
            },
            counts: Counts::EMPTY,
            inputs: &mut rows.inputs,
            aux: &mut rows.aux,
            a: &mut rows.a[..expected.constraints],
            b: &mut rows.b[..expected.constraints],
            unsatisfied: None,
            side_by_side: 0,
            in_parts,
            fits: true,
            progress,
        }
    }

    fn evaluate(&self, side: &[Term]) -> Fr {
        let mut sum = Fr::ZERO;
        for (var, coefficient) in side {
            let value = self.value(*var);
            // Most values are bits and most coefficients ±1.
            if value == Fr::ZERO {
                continue;
            } else if value == Fr::ONE {
                sum += coefficient;
            } else if *coefficient == Fr::ONE {
                sum += value;
            } else if *coefficient == MINUS_ONE {
                sum -= value;
            } else {
                sum += value * coefficient;
            }
        }
        sum
    }

    /// A variable's value; zero for one that does not belong here, which the counts will tell.
    fn value(&self, var: Var) -> Fr {
        let (head, start, own) = if var.is_aux() {
            (self.head[1], self.start.aux, &*self.aux)
        } else {
            (self.head[0], self.start.inputs, &*self.inputs)
        };
        let index = var.index();
        let value = match index.checked_sub(start) {
            Some(index) => own.get(index),
            None => head.get(index),
        };
        value.copied().unwrap_or(Fr::ZERO)
    }

    /// Takes the rest of the segment apart; `None` if it cannot be cut into equal parts. Parts may be without inputs: those
    /// of an update are.
    fn cut(&mut self, parts: usize) -> Option<Vec<Segment<'a>>> {
        let each = self.expected.cut(self.counts, parts)?;
        if !self.in_parts || !self.fits {
            return None;
        }
        /// The first values of the rest, which keeps the others.
        fn take<'a>(rest: &mut &'a mut [Fr], count: usize) -> &'a mut [Fr] {
            let (first, others) = std::mem::take(rest).split_at_mut(count);
            *rest = others;
            first
        }
        let Counts {
            inputs,
            aux,
            constraints,
        } = self.counts;
        let head: [&'a [Fr]; 2] = [take(&mut self.inputs, inputs), take(&mut self.aux, aux)];
        take(&mut self.a, constraints);
        take(&mut self.b, constraints);
        let mut start = self.counts;
        let segments = (0..parts).map(|_| {
            let segment = Segment {
                expected: self.expected,
                head,
                start,
                counts: start,
                inputs: take(&mut self.inputs, each.inputs),
                aux: take(&mut self.aux, each.aux),
                a: take(&mut self.a, each.constraints),
                b: take(&mut self.b, each.constraints),
                unsatisfied: None,
                side_by_side: 0,
                in_parts: false,
                fits: true,
                progress: self.progress,
            };
            start.inputs += each.inputs;
            start.aux += each.aux;
            start.constraints += each.constraints;
            segment
        });
        Some(segments.collect())
    }
}

/// Puts a value in its place; whether there is one.
fn put(values: &mut [Fr], index: usize, value: Fr) -> bool {
    let place = values.get_mut(index);
    place.map(|place| *place = value).is_some()
}

impl ConstraintSystem for Segment<'_> {
    fn aux(&mut self, value: Fr) -> Var {
        self.fits &= put(self.aux, self.counts.aux - self.start.aux, value);
        self.counts.next_aux()
    }
    fn input(&mut self, value: Fr) -> Var {
        self.fits &= put(self.inputs, self.counts.inputs - self.start.inputs, value);
        self.counts.next_input()
    }
    fn row(&mut self, a: &[Term], b: &[Term], c: &[Term]) {
        let (a, b, c) = (self.evaluate(a), self.evaluate(b), self.evaluate(c));
        if a * b != c && self.unsatisfied.is_none() {
            self.unsatisfied = Some(self.counts.constraints);
        }
        let at = self.counts.constraints - self.start.constraints;
        self.fits &= put(self.a, at, a) && put(self.b, at, b);
        self.counts.constraints += 1;
    }

    fn parts<T: Sync>(&mut self, parts: &[T], spell: impl Fn(&mut Self, &T) + Sync) {
        let Some(mut segments) = self.cut(parts.len()) else {
            parts.iter().for_each(|part| spell(self, part));
            return;
        };
        let each = segments.par_iter_mut().zip(parts).with_max_len(1);
        let progress = self.progress;
        each.for_each(|(segment, part)| {
            spell(segment, part);
            let rows = segment.counts.constraints - segment.start.constraints;
            progress.advance(rows as u64);
        });
        self.side_by_side += parts.len();
        for segment in segments {
            // A segment that is too long did not fit; one that is too short leaves a gap.
            self.fits &= segment.fits && segment.start == self.counts;
            self.counts = segment.counts;
            self.unsatisfied = self.unsatisfied.or(segment.unsatisfied);
        }
    }
}

/// [`quotient`] on the GPU if there is one, else here.
fn quotient_anywhere(
    transform: fn(usize) -> Transform,
    a: Vec<Fr>,
    b: Vec<Fr>,
    progress: &dyn Progress,
) -> Vec<Fr> {
    #[cfg(any(test, feature = "cuda"))]
    if a.len() >= cuda::ntt::WORTH_IT
        && let Some(gpu) = cuda::device()
    {
        match cuda::ntt::quotient(gpu, &a, &b) {
            Ok(h) => {
                progress.advance(PASSES);
                return h;
            }
            Err(error) => cuda::fall_back(gpu, "quotient", &error),
        }
    }
    quotient(&transform(a.len()), a, b, progress)
}

/// Coefficients of `(A·B − C) / (x^n − 1)`, all but the last, which is zero.
///
/// Six transforms instead of seven: write `A·B = L + x^n·H` with `L, H` below degree `n`. Then
/// `A·B − C = (x^n − 1)·H`, because C agrees with A·B on the domain, so `C = L + H`. Interpolating
/// the products over the domain gives `u = L + H`, over a coset with `g^n ≠ 1` it gives
/// `v = L + g^n·H`, and `H = (v − u) / (g^n − 1)`: C's own rows are never transformed.
pub(crate) fn quotient(
    transform: &Transform,
    mut a: Vec<Fr>,
    mut b: Vec<Fr>,
    progress: &dyn Progress,
) -> Vec<Fr> {
    let pass = |work: fn(&Transform, &mut [Fr]), values: &mut [Fr]| {
        work(transform, values);
        progress.advance(1);
    };
    let mut u: Vec<Fr> = a.par_iter().zip(&b).map(|(a, b)| *a * b).collect();
    pass(Transform::interpolate, &mut u);
    pass(Transform::interpolate, &mut a);
    pass(Transform::evaluate_coset, &mut a);
    pass(Transform::interpolate, &mut b);
    pass(Transform::evaluate_coset, &mut b);
    a.par_iter_mut().zip(&b).for_each(|(a, b)| *a *= b);
    drop(b);
    pass(Transform::interpolate_coset, &mut a);
    let scale = transform.vanishing().inverse();
    let scale = scale.expect("the generator lies outside the domain");
    let mut h = transform.in_order(|place| (a[place] - u[place]) * scale);
    h.truncate(a.len() - 1);
    progress.advance(1);
    h
}

/// `Σ scalar·point` over a whole query, `many` of whose scalars need multiplications: on the GPU if there is one, else here.
fn sum_anywhere<K: Kernel<Curve: Curve>>(
    kernel: K,
    key: &ProvingKey,
    query: Query,
    scalars: Scalars,
    many: usize,
    progress: &dyn Progress,
) -> Result<Projective<K::Curve>, KeyError> {
    #[cfg(any(test, feature = "cuda"))]
    if many >= cuda::msm::WORTH_IT
        && let Some(gpu) = cuda::device()
    {
        match sum_on_gpu(gpu, key, query, scalars, many, progress) {
            Ok(Some(sum)) => return Ok(sum),
            // A point is no point, it says: that verdict is the CPU's.
            Ok(None) => {}
            Err(OnGpuError::Key(error)) => return Err(error),
            Err(OnGpuError::Gpu(error)) => cuda::fall_back(gpu, "sum", &error),
        }
        // Its share of the progress has been told in part.
        return sum(
            kernel,
            key,
            query,
            scalars,
            many,
            &crate::progress::NoProgress,
        );
    }
    sum(kernel, key, query, scalars, many, progress)
}

/// [`sum`] on a kernel of the CPU's.
fn sum<K: Kernel>(
    kernel: K,
    key: &ProvingKey,
    query: Query,
    scalars: Scalars,
    many: usize,
    progress: &dyn Progress,
) -> Result<Projective<K::Curve>, KeyError> {
    let mut msm = Msm::new(kernel, many);
    in_pieces(key, query, scalars, progress, |piece| {
        let added = add_piece(kernel, &mut msm, &piece.points, &piece.scalars);
        added.ok_or_else(|| no_point(key, query))
    })?;
    Ok(msm.finish())
}

/// Why there is no sum from a GPU.
#[cfg(any(test, feature = "cuda"))]
#[derive(Debug, thiserror::Error)]
enum OnGpuError {
    /// The key's fault.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The GPU's.
    #[error(transparent)]
    Gpu(#[from] cuda::GpuError),
}

/// [`sum`] on a GPU; none if a point that is needed is no point.
#[cfg(any(test, feature = "cuda"))]
fn sum_on_gpu<C: Curve>(
    gpu: &cuda::Gpu,
    key: &ProvingKey,
    query: Query,
    scalars: Scalars,
    many: usize,
    progress: &dyn Progress,
) -> Result<Option<Projective<C>>, OnGpuError> {
    let mut msm = cuda::msm::Msm::<C>::new(gpu, key.points(query), many)?;
    let mut points = true;
    in_pieces::<OnGpuError>(key, query, scalars, progress, |piece| {
        points = points && msm.add(&piece.points, &piece.scalars)?.is_some();
        Ok(())
    })?;
    Ok(if points { msm.finish()? } else { None })
}

fn no_point(key: &ProvingKey, query: Query) -> KeyError {
    key.damaged(format!("a point of {query:?} is no point"))
}

/// Reads a query in pieces with their scalars; the next one is read while one is added.
fn in_pieces<E: From<KeyError> + Send>(
    key: &ProvingKey,
    query: Query,
    scalars: Scalars,
    progress: &dyn Progress,
    mut add: impl FnMut(&Piece) -> Result<(), E> + Send,
) -> Result<(), E> {
    let total = key.points(query);
    let (mut here, mut next) = (Piece::default(), Piece::default());
    let mut scalars = scalars.iter();
    let mut read = |from: usize, piece: &mut Piece| {
        let count = READ.min(total - from);
        piece.scalars.clear();
        piece.scalars.extend(scalars.by_ref().take(count));
        key.read(query, from, count, &mut piece.points)
    };
    read(0, &mut here)?;
    for from in (0..total).step_by(READ) {
        let count = here.scalars.len();
        let (read, added) = rayon::join(|| read(from + count, &mut next), || add(&here));
        read?;
        added?;
        std::mem::swap(&mut here, &mut next);
        progress.advance(count as u64);
    }
    Ok(())
}

/// Points of a query as the key's file has them, and their scalars.
#[derive(Default)]
struct Piece {
    points: Vec<u8>,
    scalars: Vec<Fr>,
}

/// Adds a piece of a query; `None` if a point that is needed is no point.
///
/// The file's hash was checked when it was opened: coordinates must be canonical here, the group is
/// not checked again.
fn add_piece<K: Kernel>(kernel: K, msm: &mut Msm<K>, bytes: &[u8], scalars: &[Fr]) -> Option<()> {
    /// Points decoded by one thread at a time.
    const DECODED: usize = 1 << 11;
    let size = bytes.len() / scalars.len();
    let decode = |class: Class| -> Option<Vec<(Vec<K::Point>, Vec<Fr>)>> {
        let pieces = bytes
            .par_chunks(DECODED * size)
            .zip(scalars.par_chunks(DECODED));
        pieces
            .map(|(bytes, scalars)| {
                let (encodings, scalars): (Vec<&[u8]>, Vec<Fr>) = bytes
                    .chunks_exact(size)
                    .zip(scalars)
                    .filter(|(_, scalar)| Class::of(scalar) == class)
                    .unzip();
                Some((kernel.decode(&encodings)?, scalars))
            })
            .collect()
    };
    for (points, _) in decode(Class::One)? {
        msm.add_ones(&points);
    }
    for (points, scalars) in decode(Class::Many)? {
        msm.add_many(&points, &scalars);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::NoProgress;
    use crate::progress::testing::{Heard, Listener};
    use crate::snark::CircuitId;
    use crate::snark::cs::Num;
    use crate::snark::dev::Secrets;
    use crate::snark::keygen::Evaluated;
    use crate::snark::record::{Assignment, Density, Matrices};
    use crate::snark::shape::pinned;
    use crate::snark::soundness::{Real, circuits};
    use crate::snark::testing::{ArkCircuit, Chain, rng};
    use crate::spec::SectorSize;
    use ark_ec::AffineRepr;
    use ark_ec::short_weierstrass::{Affine, SWCurveConfig};
    use ark_groth16::{Groth16, ProvingKey as ArkKey, r1cs_to_qap::LibsnarkReduction};
    use ark_serialize::CanonicalDeserialize;

    /// Parts after a head, of equal length or not, with or without something after them.
    struct Parted {
        parts: Vec<(u64, usize)>,
        /// Whether each part has an input of its own.
        public: bool,
        tail: bool,
        wrong: Option<u64>,
    }

    impl Circuit for Parted {
        fn synthesize<CS: ConstraintSystem>(&self, cs: &mut CS) {
            let head = Num::alloc(cs, Fr::from(7u64));
            head.inputize(cs);
            cs.parts(&self.parts, |cs, (value, length)| {
                let mut number = Num::alloc(cs, Fr::from(*value));
                if self.public {
                    number.inputize(cs);
                }
                for _ in 0..*length {
                    number = number.add(cs, head);
                }
                if self.wrong == Some(*value) {
                    number.enforce_equal(cs, head);
                } else {
                    number.enforce_equal(cs, number);
                }
            });
            if self.tail {
                head.add(cs, head).inputize(cs);
            }
        }
    }

    /// Values, rows and the first row that fails are those of spelling in order.
    #[test]
    fn parts_side_by_side_are_parts_in_order() {
        let lengths: [&[usize]; 5] = [&[], &[3], &[4, 4, 4], &[4, 5, 3], &[0, 0]];
        for (lengths, tail) in lengths.iter().flat_map(|l| [(l, false), (l, true)]) {
            let wrong = [None, Some(0), Some(1), Some(2)].into_iter();
            for (wrong, public) in wrong.flat_map(|w| [(w, true), (w, false)]) {
                let circuit = Parted {
                    parts: (0u64..).zip(lengths.iter().copied()).collect(),
                    public,
                    tail,
                    wrong,
                };
                let mut in_order = Matrices::default();
                circuit.synthesize(&mut in_order);
                let counts = in_order.assignment.counts;
                let rows = Rows::of(counts, &circuit, &NoProgress);
                assert_eq!(rows.counts, counts);
                assert_eq!(rows.inputs, in_order.assignment.inputs);
                assert_eq!(rows.aux, in_order.assignment.aux);
                assert_eq!(rows.unsatisfied, in_order.first_unsatisfied());
                // Without a tail and with parts of one length nothing is spelled a second time.
                let even = !tail && lengths.windows(2).all(|pair| pair[0] == pair[1]);
                let side_by_side = if even { lengths.len() } else { 0 };
                assert_eq!(rows.side_by_side, side_by_side, "{lengths:?} {tail}");
                let mut sides = [Vec::new(), Vec::new()];
                for row in &in_order.rows {
                    for (side, values) in row.iter().zip(&mut sides) {
                        let terms = side.iter().map(|(var, k)| in_order.value(*var) * k);
                        values.push(terms.sum());
                    }
                }
                sides[0].extend(&rows.inputs);
                for side in &mut sides {
                    side.resize(counts.domain(), Fr::ZERO);
                }
                assert_eq!([rows.a, rows.b], sides, "{lengths:?} {tail} {wrong:?}");
                // Sizes that the circuit does not have: told, whichever way.
                let other = Counts {
                    aux: counts.aux + lengths.len().max(1),
                    ..counts
                };
                assert_eq!(Rows::of(other, &circuit, &NoProgress).counts, counts);
                let other = Counts {
                    constraints: 1,
                    ..counts
                };
                assert_eq!(Rows::of(other, &circuit, &NoProgress).counts, counts);
            }
        }
    }

    /// The circuits that are really proven are cut as they stand, and need no second run: values and rows are those in order.
    #[test]
    fn real_circuits_are_spelled_in_parts_at_once() {
        // Sectors of a window and of a WinningPoSt, challenges of a PoRep and of an update.
        for (circuit, parts) in circuits().into_iter().zip([2, 66, 2, 10]) {
            let real = Real::new(circuit);
            let counts = pinned(circuit).counts;
            let rows = Rows::of(counts, &real, &NoProgress);
            assert_eq!(rows.side_by_side, parts, "{circuit}");
            assert_eq!((rows.counts, rows.unsatisfied), (counts, None), "{circuit}");
            let values = Assignment::of(&real);
            assert!(rows.inputs == values.inputs, "{circuit}: other inputs");
            assert!(rows.aux == values.aux, "{circuit}: another witness");
            let mut in_order = Rows::blank(counts);
            assert!(
                in_order.spell(counts, &real, false, &NoProgress),
                "{circuit}"
            );
            assert_eq!(in_order.side_by_side, 0);
            let own = ..counts.constraints;
            assert!(rows.a[own] == in_order.a[own], "{circuit}: other A");
            assert!(rows.b[own] == in_order.b[own], "{circuit}: other B");
        }
    }

    fn key_of(circuit: &impl Circuit, dir: &std::path::Path) -> ProvingKey {
        let secrets = Secrets {
            tau: Fr::from(1_234_567u64),
            alpha: Fr::from(3u64),
            beta: Fr::from(5u64),
            gamma: Fr::from(7u64),
            delta: Fr::from(11u64),
        };
        let path = dir.join("chain.params");
        let mut file = std::fs::File::create(&path).expect("a file");
        Evaluated::new(circuit, secrets)
            .write_params(&mut file, &NoProgress)
            .expect("a written key");
        ProvingKey::open("chain".into(), &path, Density::of(circuit)).expect("a key that fits")
    }

    /// Our key in arkworks' form: identities back in place.
    fn ark_key(key: &ProvingKey) -> ArkKey<Bls12_381> {
        fn all<P: SWCurveConfig>(key: &ProvingKey, query: Query) -> Vec<Affine<P>> {
            let mut bytes = Vec::new();
            key.read(query, 0, key.points(query), &mut bytes)
                .expect("the file is there");
            bytes
                .chunks_exact(bytes.len() / key.points(query))
                .map(|b| Affine::deserialize_uncompressed(b).expect("a point"))
                .collect()
        }
        fn spread<P: SWCurveConfig>(points: Vec<Affine<P>>, masks: [&[bool]; 2]) -> Vec<Affine<P>> {
            let mut points = points.into_iter();
            let mask = masks.into_iter().flatten();
            mask.map(|o| {
                if *o {
                    points.next().expect("one per variable")
                } else {
                    Affine::zero()
                }
            })
            .collect()
        }
        let d = key.density();
        let inputs_in_a = vec![true; d.counts.inputs];
        ArkKey {
            vk: key.verifying_key().key().clone(),
            beta_g1: key.verifying_key().beta_g1(),
            delta_g1: key.verifying_key().delta_g1(),
            a_query: spread(all(key, Query::A), [&inputs_in_a, &d.in_a]),
            b_g1_query: spread(all(key, Query::BG1), [&d.inputs_in_b, &d.in_b]),
            b_g2_query: spread(all(key, Query::BG2), [&d.inputs_in_b, &d.in_b]),
            h_query: all(key, Query::H),
            l_query: all(key, Query::L),
        }
    }

    #[test]
    fn proofs_equal_arks_byte_for_byte() {
        let dir = tempfile::tempdir().expect("a folder");
        let circuit = Chain::example();
        let key = key_of(&circuit, dir.path());
        let ark = ArkCircuit::of(&circuit);
        let (matrices, assignment) = (ark.matrices(), ark.assignment());
        let counts = key.density().counts;
        let mut rng = rng(3);
        for (r, s) in [
            (Fr::rand(&mut rng), Fr::rand(&mut rng)),
            (Fr::ONE, Fr::ZERO),
        ] {
            let theirs =
                Groth16::<Bls12_381, LibsnarkReduction>::create_proof_with_reduction_and_matrices(
                    &ark_key(&key),
                    r,
                    s,
                    &matrices,
                    counts.inputs,
                    counts.constraints,
                    &assignment,
                )
                .expect("a satisfied circuit");
            for (ours, inputs) in on_both(&key, &circuit, [r, s]) {
                assert_eq!(encode(&ours), encode(&theirs));
                assert_eq!(key.verifying_key().accepts(&inputs[1..], &ours), Some(true));
            }
        }
    }

    /// Proof and inputs on the kernels chosen here, and on the portable ones.
    fn on_both(
        key: &ProvingKey,
        circuit: &impl Circuit,
        [r, s]: [Fr; 2],
    ) -> [(Proof<Bls12_381>, Vec<Fr>); 2] {
        let rows = witness(key, circuit, &NoProgress).expect("a satisfied circuit");
        [
            prove_with(key, circuit, r, s, &NoProgress).expect("a satisfied circuit"),
            prove_portably(key, rows, [r, s], &NoProgress).expect("the key is there"),
        ]
    }

    /// Witness, quotient and sums of one proof are one stage, whose every unit is told; so are several proofs.
    #[test]
    fn progress_is_told_of_every_step_and_of_all_proofs_together() {
        let dir = tempfile::tempdir().expect("a folder");
        let circuit = Real::new(CircuitId::window(SectorSize::Kib2));
        let key = key_of(&circuit, dir.path());
        let heard = Listener::default();
        prove_with(&key, &circuit, Fr::from(8u64), Fr::from(9u64), &heard).expect("proven");
        let stages = heard.take();
        assert_eq!(stages.len(), 1, "{stages:?}");
        let Heard {
            total,
            done,
            finished,
            steps,
            ..
        } = &stages[0];
        assert_eq!((*total, *done, *finished), (WHOLE, WHOLE, true));
        // Two parts of the witness, seven passes, five sums, of which the last and dearest is in G2 and still has its share.
        assert_eq!(steps.len(), 2 + 7 + 5, "{steps:?}");
        assert_eq!(steps[..2].iter().sum::<u64>(), WITNESS);
        assert!(steps[13] > 2 * steps[12], "{steps:?}");

        struct Both<'a>(&'a Real);
        impl Circuit for Both<'_> {
            fn synthesize<CS: ConstraintSystem>(&self, cs: &mut CS) {
                self.0.synthesize(cs);
            }
        }
        let two = [Both(&circuit), Both(&circuit)].into_iter();
        let proofs = prove_all(&key, two, &heard).expect("proven");
        assert_eq!(proofs.len(), 2 * GROTH16_PROOF_BYTES);
        let stages = heard.take();
        assert_eq!(stages.len(), 1, "{stages:?}");
        assert_eq!((stages[0].total, stages[0].done), (2 * WHOLE, 2 * WHOLE));
    }

    /// A domain and sums that take every part of the kernels, which the small example does not.
    #[test]
    fn a_real_proof_is_the_same_on_both_kernels() {
        let dir = tempfile::tempdir().expect("a folder");
        let circuit = Real::new(CircuitId::window(SectorSize::Kib2));
        let key = key_of(&circuit, dir.path());
        let [fast, portable] = on_both(&key, &circuit, [Fr::from(8u64), Fr::from(9u64)]);
        assert_eq!(encode(&fast.0), encode(&portable.0));
        assert_eq!(fast.1, portable.1);
        let verdict = key.verifying_key().accepts(&fast.1[1..], &fast.0);
        assert_eq!(verdict, Some(true));
    }

    #[test]
    fn tm_p18_a_witness_that_does_not_satisfy_is_an_error_and_no_proof() {
        struct Bent(usize);
        impl Circuit for Bent {
            fn synthesize<CS: ConstraintSystem>(&self, cs: &mut CS) {
                // A bit row over a value that is no bit, behind `self.0` good ones.
                for value in std::iter::repeat_n(Fr::ONE, self.0).chain([Fr::from(2u64)]) {
                    let v = cs.aux(value);
                    cs.row(&[(Var::ONE, Fr::ONE), (v, MINUS_ONE)], &[(v, Fr::ONE)], &[]);
                }
                let _ = cs.input(Fr::ONE);
            }
        }
        let dir = tempfile::tempdir().expect("a folder");
        let key = key_of(&Bent(5), dir.path());
        let error = prove(&key, &Bent(5), &NoProgress).expect_err("not satisfied");
        assert!(
            matches!(error, ProveError::Unsatisfied { row: 5, .. }),
            "{error}"
        );
        let error = prove(&key, &Bent(6), &NoProgress).expect_err("another size");
        assert!(matches!(error, ProveError::WrongKey { .. }), "{error}");
    }

    #[test]
    fn tm_s3_a_changed_key_is_refused_or_its_proof_is() {
        let dir = tempfile::tempdir().expect("a folder");
        let circuit = Chain::example();
        let key = key_of(&circuit, dir.path());
        let path = dir.path().join("chain.params");
        let good = std::fs::read(&path).expect("the key");
        let open = || ProvingKey::open("chain".into(), &path, Density::of(&circuit));
        // Cut, lengthened: structure does not fit.
        for length in [0, 100, 1000, good.len() - 1] {
            std::fs::write(&path, &good[..length]).expect("written");
            assert!(matches!(open(), Err(KeyError::Damaged { .. })), "{length}");
        }
        std::fs::write(&path, [&good[..], &[0]].concat()).expect("written");
        assert!(matches!(open(), Err(KeyError::Damaged { .. })));
        // A bit anywhere in the points: found by the full check, and by the proof's own.
        for at in (2_000..good.len()).step_by(good.len() / 16) {
            let mut bad = good.clone();
            bad[at] ^= 1;
            std::fs::write(&path, &bad).expect("written");
            if let Ok(key) = open() {
                assert!(key.verify_points(&NoProgress).is_err(), "byte {at}");
            }
        }
        drop(key);
        // Points of one query swapped: each is good, their order is not.
        let mut bad = good.clone();
        let (offset, _) = {
            std::fs::write(&path, &good).expect("written");
            open().expect("good").queries[Query::L as usize]
        };
        let offset = usize::try_from(offset).expect("small");
        let (first, second) = (
            bad[offset..offset + 96].to_vec(),
            bad[offset + 96..offset + 192].to_vec(),
        );
        bad[offset..offset + 96].copy_from_slice(&second);
        bad[offset + 96..offset + 192].copy_from_slice(&first);
        std::fs::write(&path, &bad).expect("written");
        let key = open().expect("structure fits");
        assert!(key.verify_points(&NoProgress).is_ok());
        assert!(matches!(
            prove(&key, &circuit, &NoProgress),
            Err(ProveError::SelfCheck(_))
        ));
    }
}
