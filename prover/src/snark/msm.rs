//! Sums of multiples: `Σ s_i·P_i` over points that arrive in pieces.
//!
//! Walk: [`super::prove`] streams a key's points through here. Most scalars of a circuit
//! are bits: zeros are skipped, the points under a one are added without multiplication, and only
//! the rest reaches Pippenger's method. Memory: one [`BATCH`] of points, whatever the key's size.
//! Plain twin: ark's `VariableBaseMSM` over everything.

use ark_bls12_381::Fr;
use ark_ec::VariableBaseMSM;
use ark_ec::short_weierstrass::{Affine, Projective, SWCurveConfig};
use ark_ff::{BigInt, Field, PrimeField, Zero};
use rayon::prelude::*;

/// Points multiplied together; larger batches share more, 2^19 keeps G1 at 64 MiB.
const BATCH: usize = 1 << 19;

/// A sum in the making.
pub struct Msm<P: SWCurveConfig> {
    sum: Projective<P>,
    points: Vec<Affine<P>>,
    scalars: Vec<BigInt<4>>,
}

impl<P: SWCurveConfig<ScalarField = Fr>> Default for Msm<P> {
    fn default() -> Self {
        Self {
            sum: Projective::zero(),
            points: Vec::new(),
            scalars: Vec::new(),
        }
    }
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
        if scalar.is_zero() {
            Class::Zero
        } else if *scalar == Fr::ONE {
            Class::One
        } else {
            Class::Many
        }
    }
}

impl<P: SWCurveConfig<ScalarField = Fr>> Msm<P> {
    /// Adds the points whose scalar is one.
    pub fn add_ones(&mut self, points: &[Affine<P>]) {
        let chunk = points
            .len()
            .div_ceil(rayon::current_num_threads() * 4)
            .max(64);
        let sums = points.par_chunks(chunk).map(|points| {
            points
                .iter()
                .fold(Projective::<P>::zero(), |sum, point| sum + point)
        });
        self.sum += sums.reduce(Projective::zero, |a, b| a + b);
    }

    /// Adds `scalar · point` for each pair.
    pub fn add_many(&mut self, points: &[Affine<P>], scalars: &[Fr]) {
        self.points.extend_from_slice(points);
        self.scalars
            .par_extend(scalars.par_iter().map(|scalar| scalar.into_bigint()));
        if self.points.len() >= BATCH {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if !self.points.is_empty() {
            self.sum += Projective::<P>::msm_bigint(&self.points, &self.scalars);
            self.points.clear();
            self.scalars.clear();
        }
    }

    /// The sum.
    pub fn finish(mut self) -> Projective<P> {
        self.flush();
        self.sum
    }
}
