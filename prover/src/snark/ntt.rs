//! Transforms between values and coefficients, as the quotient needs them.
//!
//! Walk: [`super::prove`] turns the rows' values into the quotient's coefficients here. [`ifma`] works eight
//! columns or rows at a time where the CPU has AVX-512 IFMA; [`portable`] is its plain twin, arkworks'
//! transform, and serves other CPUs and tiny domains. Chosen once, in [`Transform::new`].
//!
//! Coefficients stand in an order of the transform's own: a transform in two steps leaves them scrambled, its
//! counterpart takes them like that, and only results are put in order, by [`Transform::in_order`].
//! Cost: 0.3 s of one core for 2^22 values with IFMA, 1.4 s without.

use ark_bls12_381::Fr;
use ark_ff::{FftField, Field};
use rayon::prelude::*;

#[cfg(target_arch = "x86_64")]
mod ifma;
mod portable;

/// Interpolation over a domain of a power of two, and evaluation over its coset by the field's
/// generator.
pub struct Transform {
    n: usize,
    way: Way,
}

enum Way {
    Portable(Box<portable::Plan>),
    #[cfg(target_arch = "x86_64")]
    Ifma(Box<ifma::Plan>),
}

impl Transform {
    /// For a domain of `n` values, on the best kernel this CPU has.
    ///
    /// # Panics
    /// Unless `n` is a power of two, at most 2^32.
    pub fn new(n: usize) -> Transform {
        #[cfg(target_arch = "x86_64")]
        if let Some(plan) = ifma::Plan::new(n) {
            return Transform {
                n,
                way: Way::Ifma(Box::new(plan)),
            };
        }
        Transform::portable(n)
    }

    /// The same on arkworks' transform.
    pub(crate) fn portable(n: usize) -> Transform {
        Transform {
            n,
            way: Way::Portable(Box::new(portable::Plan::new(n))),
        }
    }

    /// Coefficients of the polynomial that takes these values on the domain.
    pub fn interpolate(&self, values: &mut [Fr]) {
        assert_eq!(values.len(), self.n);
        match &self.way {
            Way::Portable(plan) => plan.interpolate(values),
            #[cfg(target_arch = "x86_64")]
            Way::Ifma(plan) => plan.interpolate(values),
        }
    }

    /// Coefficients of the polynomial that takes these values on the coset.
    pub fn interpolate_coset(&self, values: &mut [Fr]) {
        assert_eq!(values.len(), self.n);
        match &self.way {
            Way::Portable(plan) => plan.interpolate_coset(values),
            #[cfg(target_arch = "x86_64")]
            Way::Ifma(plan) => plan.interpolate_coset(values),
        }
    }

    /// Values on the coset of the polynomial with these coefficients.
    pub fn evaluate_coset(&self, coefficients: &mut [Fr]) {
        assert_eq!(coefficients.len(), self.n);
        match &self.way {
            Way::Portable(plan) => plan.evaluate_coset(coefficients),
            #[cfg(target_arch = "x86_64")]
            Way::Ifma(plan) => plan.evaluate_coset(coefficients),
        }
    }

    /// Coefficients in their natural order, each computed from the place where it stands.
    pub fn in_order(&self, coefficient: impl Fn(usize) -> Fr + Sync + Send) -> Vec<Fr> {
        match &self.way {
            Way::Portable(_) => (0..self.n).into_par_iter().map(coefficient).collect(),
            #[cfg(target_arch = "x86_64")]
            Way::Ifma(plan) => plan.in_order(coefficient),
        }
    }

    /// What `x^n − 1` is on the whole coset.
    pub fn vanishing(&self) -> Fr {
        Fr::GENERATOR.pow([self.n as u64]) - Fr::from(1u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ark_ff::UniformRand;

    /// Values around the order of the field, and random ones.
    fn values(n: usize, seed: u64) -> Vec<Fr> {
        let mut rng = crate::snark::testing::rng(seed);
        let edges = [
            Fr::from(0u64),
            Fr::from(1u64),
            -Fr::from(1u64),
            -Fr::from(2u64),
        ];
        match seed {
            0 => vec![-Fr::from(1u64); n],
            1 => (0..n).map(|i| edges[i % 4]).collect(),
            _ => (0..n).map(|_| Fr::rand(&mut rng)).collect(),
        }
    }

    #[test]
    fn transforms_equal_arks_in_every_size() {
        for log in 0..=13 {
            let n = 1 << log;
            let (fast, plain) = (Transform::new(n), Transform::portable(n));
            let ordered = |scrambled: &[Fr]| fast.in_order(|place| scrambled[place]);
            assert_eq!(fast.vanishing(), plain.vanishing());
            for seed in 0..3 {
                let given = values(n, seed);
                let (mut ours, mut theirs) = (given.clone(), given.clone());
                fast.interpolate(&mut ours);
                plain.interpolate(&mut theirs);
                assert!(
                    ordered(&ours) == theirs,
                    "from the domain, 2^{log}, seed {seed}"
                );
                fast.evaluate_coset(&mut ours);
                plain.evaluate_coset(&mut theirs);
                assert!(ours == theirs, "to the coset, 2^{log}, seed {seed}");
                let (mut ours, mut theirs) = (given.clone(), given);
                fast.interpolate_coset(&mut ours);
                plain.interpolate_coset(&mut theirs);
                assert!(
                    ordered(&ours) == theirs,
                    "from the coset, 2^{log}, seed {seed}"
                );
            }
        }
    }
}
