//! The parts of a Groth16 proof by themselves, for benches and for who wants to know what a machine can do.
//!
//! Walk: beside [`super::prove`], which runs the same code on a key's points. Each part takes the best
//! kernel this CPU has, [`kernel`] names it. Runs on the caller's rayon pool.

use ark_bls12_381::{Fr, G1Affine, G1Projective, G2Affine, G2Projective, g1, g2};
use ark_ec::short_weierstrass::{Affine, Projective};
use ark_ec::{AffineRepr, CurveGroup};
use ark_ff::Field;
use ark_groth16::Proof;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::fixed_base::FixedBase;
use super::groth16::{ProofBytesError, decode_canonical, encode};
use super::kernel::Kernel;
#[cfg(target_arch = "x86_64")]
use super::kernel::ifma::{IfmaG1, IfmaG2};
use super::kernel::portable::Portable;
use super::msm::Msm;
use super::ntt::Transform;
use super::pairing::{G1, scalar_bytes, weighted_sum};
use crate::spec::GROTH16_PROOF_BYTES;

/// Which instructions the sums and transforms use on this CPU.
pub fn kernel() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    if IfmaG1::detect().is_some() {
        return "avx512-ifma";
    }
    "portable"
}

/// So many scalars without a pattern, the same at every call.
pub fn scalars(count: usize) -> Vec<Fr> {
    use ark_ff::UniformRand;
    let mut rng = ChaCha8Rng::seed_from_u64(0x6d65_6173);
    (0..count).map(|_| Fr::rand(&mut rng)).collect()
}

/// So many points of G1 without a pattern, the same at every call.
pub fn points_g1(count: usize) -> Vec<G1Affine> {
    #[cfg(target_arch = "x86_64")]
    if let Some(ifma) = IfmaG1::detect() {
        return points(ifma, count);
    }
    points(Portable::<g1::Config>::default(), count)
}

/// The same in G2.
pub fn points_g2(count: usize) -> Vec<G2Affine> {
    #[cfg(target_arch = "x86_64")]
    if let Some(ifma) = IfmaG2::detect() {
        return points(ifma, count);
    }
    points(Portable::<g2::Config>::default(), count)
}

fn points<K: Kernel>(kernel: K, count: usize) -> Vec<Affine<K::Curve>> {
    FixedBase::new(kernel, Affine::generator(), count).multiply(&scalars(count))
}

/// `Σ scalar·point` in G1; no point is the identity.
pub fn sum_g1(points: &[G1Affine], scalars: &[Fr]) -> G1Projective {
    #[cfg(target_arch = "x86_64")]
    if let Some(ifma) = IfmaG1::detect() {
        return sum(ifma, points, scalars);
    }
    sum_g1_portable(points, scalars)
}

/// The same on the kernel for CPUs without wide multiplications.
pub fn sum_g1_portable(points: &[G1Affine], scalars: &[Fr]) -> G1Projective {
    sum(Portable::<g1::Config>::default(), points, scalars)
}

/// The same by blst's own method on the calling thread: what the portable kernel is measured against.
pub fn sum_g1_by_blst(points: &[G1Affine], scalars: &[Fr]) -> G1Affine {
    let points: Vec<G1> = points.iter().map(G1::from).collect();
    let scalars: Vec<u8> = scalars.iter().flat_map(scalar_bytes).collect();
    weighted_sum(&points, &scalars, 255).point().into()
}

/// The same in G2.
pub fn sum_g2(points: &[G2Affine], scalars: &[Fr]) -> G2Projective {
    #[cfg(target_arch = "x86_64")]
    if let Some(ifma) = IfmaG2::detect() {
        return sum(ifma, points, scalars);
    }
    sum_g2_portable(points, scalars)
}

/// The same on the kernel for CPUs without wide multiplications.
pub fn sum_g2_portable(points: &[G2Affine], scalars: &[Fr]) -> G2Projective {
    sum(Portable::<g2::Config>::default(), points, scalars)
}

fn sum<K: Kernel>(kernel: K, points: &[Affine<K::Curve>], scalars: &[Fr]) -> Projective<K::Curve> {
    let mut msm = Msm::new(kernel, points.len());
    msm.add_many(&kernel.import(points), scalars);
    msm.finish()
}

/// So many other proofs of the same statement, each partition's `A·k` and `B/k`: anybody can make them (threat P11).
pub fn other_proofs(proof: &[u8], count: u32) -> Result<Vec<Vec<u8>>, ProofBytesError> {
    let partitions = decode_canonical(proof, proof.len() / GROTH16_PROOF_BYTES)?;
    let other = |k: u32| {
        let k = Fr::from(k);
        let inverse = k.inverse().expect("small and not zero");
        let partitions = partitions.iter().flat_map(|proof| {
            encode(&Proof {
                a: (proof.a * k).into_affine(),
                b: (proof.b * inverse).into_affine(),
                c: proof.c,
            })
        });
        partitions.collect()
    };
    Ok((2..2 + count).map(other).collect())
}

/// Coefficients of the polynomial that takes these values on the domain of their number, a power of two, in the
/// kernel's own order.
pub fn interpolate(values: &mut [Fr]) {
    Transform::new(values.len()).interpolate(values);
}

#[cfg(test)]
mod tests {
    use super::*;
    use ark_ec::VariableBaseMSM;

    #[test]
    fn sums_and_points_are_arks() {
        let scalars = scalars(100);
        let (g1, g2) = (points_g1(100), points_g2(100));
        assert_eq!(g1[7], G1Affine::generator() * scalars[7]);
        let (in_g1, in_g2) = (
            G1Projective::msm_unchecked(&g1, &scalars),
            G2Projective::msm_unchecked(&g2, &scalars),
        );
        assert_eq!(sum_g1(&g1, &scalars), in_g1);
        assert_eq!(sum_g1_portable(&g1, &scalars), in_g1);
        assert_eq!(sum_g1_by_blst(&g1, &scalars), in_g1);
        assert_eq!(sum_g2(&g2, &scalars), in_g2);
        assert_eq!(sum_g2_portable(&g2, &scalars), in_g2);
    }
}
