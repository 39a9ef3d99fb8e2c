//! The plain twin: arkworks' transforms, coefficients in their natural order.

use ark_bls12_381::Fr;
use ark_ff::FftField;
use ark_poly::{EvaluationDomain, Radix2EvaluationDomain};

pub struct Plan {
    domain: Radix2EvaluationDomain<Fr>,
    coset: Radix2EvaluationDomain<Fr>,
}

impl Plan {
    pub fn new(n: usize) -> Plan {
        assert!(n.is_power_of_two());
        let domain =
            Radix2EvaluationDomain::<Fr>::new(n).expect("circuits are far below 2^32 rows");
        let coset = domain
            .get_coset(Fr::GENERATOR)
            .expect("the generator is not zero");
        Plan { domain, coset }
    }

    pub fn interpolate(&self, values: &mut [Fr]) {
        in_place(values, |values| self.domain.ifft_in_place(values));
    }

    pub fn interpolate_coset(&self, values: &mut [Fr]) {
        in_place(values, |values| self.coset.ifft_in_place(values));
    }

    pub fn evaluate_coset(&self, coefficients: &mut [Fr]) {
        in_place(coefficients, |values| self.coset.fft_in_place(values));
    }
}

/// arkworks wants a vector, which it leaves at its length.
fn in_place(values: &mut [Fr], transform: impl FnOnce(&mut Vec<Fr>)) {
    let mut owned = values.to_vec();
    transform(&mut owned);
    values.copy_from_slice(&owned);
}
