//! Key generation: one listening to the circuit at a secret point, then millions of fixed-base
//! multiples.
//!
//! Walk: [`super::keys`] calls [`write_params`] when a key is absent. Spec: `r1cs/README.md` §3 (what a
//! key holds), proofs.md §4.5 (layout). Plain twin: ark-groth16's generator, compared in the tests.
//! The circuit's rows are evaluated as they are spelled: row `i` weighs `L_i(tau)`, so each variable
//! ends as `a_j(tau), b_j(tau), c_j(tau)` and no matrix is ever stored. A row `input_j | 0 | 0` per
//! input is appended, as Filecoin's generator and arkworks' reduction do.
//!
//! Bytes: `.vk` layout, then for h, l, a, b_g1, b_g2: BE32 count and uncompressed points. Variables
//! that do not occur in A (B) have no point in a (b_g1, b_g2).
//! Cost: PoRep 8 MiB about 20 s on two cores, 726 MiB resident at most (876 MiB are asked of the plan before, by
//! [`crate::estimate::keygen_memory`]), 1.4 GB written once.

use std::io::Write;

use ark_bls12_381::{Bls12_381, Fr, G1Affine, G2Affine, g1, g2};
use ark_ec::{AffineRepr, CurveGroup};
use ark_ff::{AdditiveGroup, Field, Zero};
use ark_groth16::VerifyingKey;
use ark_poly::{EvaluationDomain, Radix2EvaluationDomain};
use ark_serialize::CanonicalSerialize;
use rayon::prelude::*;

use super::cs::{Circuit, ConstraintSystem, MINUS_ONE, Term, Var};
use super::dev::Secrets;
use super::fixed_base::FixedBase;
use super::groth16::{G1_BYTES, G2_BYTES, vk_bytes_len, write_vk};
use super::kernel::Kernel;
use super::kernel::portable::Portable;
use super::record::{Assignment, Counts};
use crate::progress::Progress;

/// A circuit's polynomials at tau.
pub struct Evaluated {
    counts: Counts,
    secrets: Secrets,
    vanishing: Fr,
    /// A, B and C per input.
    inputs: [Vec<Fr>; 3],
    /// A, B and C per auxiliary variable.
    aux: [Vec<Fr>; 3],
}

/// Listens and weighs.
struct AtTau<'a> {
    lagrange: &'a [Fr],
    counts: Counts,
    inputs: [Vec<Fr>; 3],
    aux: [Vec<Fr>; 3],
}

impl AtTau<'_> {
    fn add(&mut self, matrix: usize, weight: Fr, side: &[Term]) {
        for (var, coefficient) in side {
            let values = if var.is_aux() {
                &mut self.aux
            } else {
                &mut self.inputs
            };
            let value = &mut values[matrix][var.index()];
            // Nearly all coefficients are ±1.
            if *coefficient == Fr::ONE {
                *value += weight;
            } else if *coefficient == MINUS_ONE {
                *value -= weight;
            } else {
                *value += weight * coefficient;
            }
        }
    }
}

impl ConstraintSystem for AtTau<'_> {
    fn aux(&mut self, _: Fr) -> Var {
        self.aux.iter_mut().for_each(|values| values.push(Fr::ZERO));
        self.counts.next_aux()
    }
    fn input(&mut self, _: Fr) -> Var {
        self.inputs
            .iter_mut()
            .for_each(|values| values.push(Fr::ZERO));
        self.counts.next_input()
    }
    fn row(&mut self, a: &[Term], b: &[Term], c: &[Term]) {
        let weight = self.lagrange[self.counts.constraints];
        for (matrix, side) in [a, b, c].into_iter().enumerate() {
            self.add(matrix, weight, side);
        }
        self.counts.constraints += 1;
    }
}

impl Evaluated {
    /// Spells the circuit at the secret point.
    pub fn new(circuit: &impl Circuit, secrets: Secrets) -> Evaluated {
        let counts = Assignment::of(circuit).counts;
        let domain = Radix2EvaluationDomain::<Fr>::new(counts.domain())
            .expect("circuits are far below 2^32 rows");
        let lagrange = domain.evaluate_all_lagrange_coefficients(secrets.tau);
        let sides = |inputs: usize, capacity: usize| -> [Vec<Fr>; 3] {
            std::array::from_fn(|_| {
                let mut values = Vec::with_capacity(capacity);
                values.resize(inputs, Fr::ZERO);
                values
            })
        };
        let mut cs = AtTau {
            lagrange: &lagrange,
            counts: Counts::EMPTY,
            inputs: sides(1, counts.inputs),
            aux: sides(0, counts.aux),
        };
        circuit.synthesize(&mut cs);
        for (value, weight) in cs.inputs[0].iter_mut().zip(&lagrange[counts.constraints..]) {
            *value += weight;
        }
        let AtTau { inputs, aux, .. } = cs;
        let vanishing = domain.evaluate_vanishing_polynomial(secrets.tau);
        Evaluated {
            counts,
            secrets,
            vanishing,
            inputs,
            aux,
        }
    }

    /// Sizes of the circuit.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The verifying key, in Filecoin's layout.
    pub fn vk_bytes(&self) -> Vec<u8> {
        let (g1, g2) = (G1Affine::generator(), G2Affine::generator());
        let Secrets {
            alpha,
            beta,
            gamma,
            delta,
            ..
        } = self.secrets;
        let ic = self.combined(&self.inputs, gamma);
        let vk = VerifyingKey::<Bls12_381> {
            alpha_g1: (g1 * alpha).into_affine(),
            beta_g2: (g2 * beta).into_affine(),
            gamma_g2: (g2 * gamma).into_affine(),
            delta_g2: (g2 * delta).into_affine(),
            gamma_abc_g1: ic
                .par_iter()
                .map(|scalar| (g1 * scalar).into_affine())
                .collect(),
        };
        write_vk(&vk, (g1 * beta).into_affine(), (g1 * delta).into_affine())
    }

    /// `(β·a + α·b + c) / divisor` per variable.
    fn combined(&self, [a, b, c]: &[Vec<Fr>; 3], divisor: Fr) -> Vec<Fr> {
        let Secrets { alpha, beta, .. } = self.secrets;
        let inverse = divisor
            .inverse()
            .expect("the published secrets are not zero");
        (a, b, c)
            .into_par_iter()
            .map(|(a, b, c)| (beta * a + alpha * b + c) * inverse)
            .collect()
    }

    /// `tau^i·Z(tau)/delta` for every coefficient of the quotient.
    fn h_scalars(&self) -> Vec<Fr> {
        const CHUNK: usize = 1 << 12;
        let Secrets { tau, delta, .. } = self.secrets;
        let scale = self.vanishing * delta.inverse().expect("the published secrets are not zero");
        let mut scalars = vec![Fr::ZERO; self.counts.domain() - 1];
        scalars
            .par_chunks_mut(CHUNK)
            .enumerate()
            .for_each(|(chunk, scalars)| {
                let mut power = scale * tau.pow([(chunk * CHUNK) as u64]);
                for scalar in scalars {
                    *scalar = power;
                    power *= tau;
                }
            });
        scalars
    }

    /// Values of one matrix at the variables that occur in it: inputs, then auxiliaries.
    fn occurring(&self, matrix: usize) -> Vec<Fr> {
        let both = self.inputs[matrix].iter().chain(&self.aux[matrix]);
        both.copied().filter(|value| !value.is_zero()).collect()
    }

    /// Bytes that [`Evaluated::write_params`] writes.
    pub fn params_bytes(&self) -> u64 {
        let occurring = |matrix: usize| {
            let both = self.inputs[matrix].iter().chain(&self.aux[matrix]);
            both.filter(|value| !value.is_zero()).count()
        };
        let (a, b) = (occurring(0), occurring(1));
        let in_g1 = self.counts.domain() - 1 + self.counts.aux + a + b;
        (vk_bytes_len(self.counts.inputs) + 5 * 4 + in_g1 * G1_BYTES + b * G2_BYTES) as u64
    }

    /// Writes a whole key: the verifying key, then h, l, a, b_g1, b_g2. Runs on the caller's pool, on
    /// the best kernel this CPU has.
    pub fn write_params(
        &self,
        out: &mut impl Write,
        progress: &dyn Progress,
    ) -> std::io::Result<()> {
        #[cfg(target_arch = "x86_64")]
        {
            use super::kernel::ifma::{IfmaG1, IfmaG2};
            if let (Some(in_g1), Some(in_g2)) = (IfmaG1::detect(), IfmaG2::detect()) {
                return self.write_params_on(in_g1, in_g2, out, progress);
            }
        }
        self.write_params_on(
            Portable::<g1::Config>::default(),
            Portable::<g2::Config>::default(),
            out,
            progress,
        )
    }

    fn write_params_on(
        &self,
        in_g1: impl Kernel<Curve = g1::Config>,
        in_g2: impl Kernel<Curve = g2::Config>,
        out: &mut impl Write,
        progress: &dyn Progress,
    ) -> std::io::Result<()> {
        out.write_all(&self.vk_bytes())?;
        let (a, b) = (self.occurring(0), self.occurring(1));
        let points_in_g1 = self.counts.domain() - 1 + self.counts.aux + a.len() + b.len();
        progress.start("proving key", (points_in_g1 + G2_WEIGHT * b.len()) as u64);
        let base = FixedBase::new(in_g1, G1Affine::generator(), points_in_g1);
        write_points(out, &base, &self.h_scalars(), G1_BYTES, 1, progress)?;
        write_points(
            out,
            &base,
            &self.combined(&self.aux, self.secrets.delta),
            G1_BYTES,
            1,
            progress,
        )?;
        write_points(out, &base, &a, G1_BYTES, 1, progress)?;
        drop(a);
        write_points(out, &base, &b, G1_BYTES, 1, progress)?;
        drop(base);
        let base = FixedBase::new(in_g2, G2Affine::generator(), b.len());
        write_points(out, &base, &b, G2_BYTES, G2_WEIGHT, progress)?;
        progress.finish();
        Ok(())
    }
}

/// What a multiple in G2 costs beside one in G1, for the progress.
const G2_WEIGHT: usize = 8;

/// BE32 count, then `scalar · base` for each scalar, uncompressed.
fn write_points<K: Kernel>(
    out: &mut impl Write,
    base: &FixedBase<K>,
    scalars: &[Fr],
    point_bytes: usize,
    weight: usize,
    progress: &dyn Progress,
) -> std::io::Result<()> {
    // 6 MiB of G1 points at a time: memory does not grow with the circuit.
    const CHUNK: usize = 1 << 16;
    let count = u32::try_from(scalars.len()).expect("a circuit has less than 2^31 variables");
    out.write_all(&count.to_be_bytes())?;
    let mut bytes = Vec::new();
    for chunk in scalars.chunks(CHUNK) {
        let points = base.multiply(chunk);
        bytes.resize(points.len() * point_bytes, 0);
        bytes
            .par_chunks_exact_mut(point_bytes)
            .zip(&points)
            .for_each(|(bytes, point)| {
                point
                    .serialize_uncompressed(bytes)
                    .expect("an uncompressed point has this length");
            });
        out.write_all(&bytes)?;
        progress.advance((chunk.len() * weight) as u64);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::NoProgress;
    use crate::snark::testing::{ArkCircuit, Chain};
    use ark_groth16::Groth16;
    use ark_serialize::CanonicalDeserialize;

    /// The same secrets and generators in both generators give the same key, point for point, on the kernels chosen here
    /// and on the portable ones.
    #[test]
    fn keys_equal_arks() {
        let circuit = Chain::example();
        let secrets = Secrets {
            tau: Fr::from(0u64),
            alpha: Fr::from(3u64),
            beta: Fr::from(5u64),
            gamma: Fr::from(7u64),
            delta: Fr::from(11u64),
        };
        let mut rng = crate::snark::testing::rng(9);
        let theirs = Groth16::<Bls12_381>::generate_parameters_with_qap(
            ArkCircuit::of(&circuit),
            secrets.alpha,
            secrets.beta,
            secrets.gamma,
            secrets.delta,
            G1Affine::generator().into_group(),
            G2Affine::generator().into_group(),
            &mut rng,
        )
        .expect("a small circuit");
        // ark draws tau from the generator: draw the same.
        let domain = Radix2EvaluationDomain::<Fr>::new(Assignment::of(&circuit).counts.domain())
            .expect("small");
        let tau = domain.sample_element_outside_domain(&mut crate::snark::testing::rng(9));
        let ours = Evaluated::new(&circuit, Secrets { tau, ..secrets });

        let mut expected = write_vk(&theirs.vk, theirs.beta_g1, theirs.delta_g1);
        push(&mut expected, &theirs.h_query, false);
        push(&mut expected, &theirs.l_query, false);
        push(&mut expected, &theirs.a_query, true);
        push(&mut expected, &theirs.b_g1_query, true);
        push(&mut expected, &theirs.b_g2_query, true);
        let mut bytes = Vec::new();
        ours.write_params(&mut bytes, &NoProgress).expect("memory");
        assert!(bytes == expected, "our key differs from ark's");
        bytes.clear();
        ours.write_params_on(
            Portable::<g1::Config>::default(),
            Portable::<g2::Config>::default(),
            &mut bytes,
            &NoProgress,
        )
        .expect("memory");
        assert!(bytes == expected, "the portable kernels' key differs");
        assert!(
            theirs.b_g1_query.iter().any(|p| p.is_zero()),
            "the example has a variable outside B"
        );
    }

    fn push<P: AffineRepr + CanonicalDeserialize>(
        out: &mut Vec<u8>,
        points: &[P],
        drop_zeros: bool,
    ) {
        let kept: Vec<&P> = points
            .iter()
            .filter(|p| !drop_zeros || !p.is_zero())
            .collect();
        out.extend(u32::try_from(kept.len()).expect("few").to_be_bytes());
        kept.iter()
            .for_each(|p| p.serialize_uncompressed(&mut *out).expect("memory"));
    }
}
