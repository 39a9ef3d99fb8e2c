//! Small circuits for tests, in our language and in arkworks'.

use ark_bls12_381::Fr;
use ark_relations::gr1cs::{
    ConstraintSynthesizer, ConstraintSystemRef, LinearCombination, SynthesisError, Variable,
};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::cs::{Circuit, ConstraintSystem, Num, Term, Var};
use super::gadget::bits::{Bit, and, pack_into_inputs, to_bits_le, xor};
use super::gadget::poseidon::poseidon;
use super::record::Matrices;

/// A seeded generator.
pub fn rng(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

/// Bits, gates and hashes in a row: some hundreds of rows, every class of scalar.
pub struct Chain {
    /// Where the chain starts.
    pub start: Fr,
    /// Hashes in the chain.
    pub length: usize,
}

impl Chain {
    /// The one most tests use.
    pub fn example() -> Chain {
        Chain {
            start: Fr::from(12_345u64),
            length: 3,
        }
    }
}

impl Circuit for Chain {
    fn synthesize<CS: ConstraintSystem>(&self, cs: &mut CS) {
        let mut number = Num::alloc(cs, self.start);
        number.inputize(cs);
        for _ in 0..self.length {
            let bits = to_bits_le(cs, number);
            let mixed: Vec<Bit> = bits.windows(2).map(|w| xor(cs, w[0], !w[1])).collect();
            let both = and(cs, mixed[0], mixed[1]);
            pack_into_inputs(cs, &[both, mixed[2]]);
            number = poseidon(cs, &[number, number]);
        }
        number.inputize(cs);
    }
}

/// The same rows over the same variables for arkworks.
pub struct ArkCircuit(Matrices);

impl ArkCircuit {
    /// Records a circuit.
    pub fn of(circuit: &impl Circuit) -> ArkCircuit {
        let mut matrices = Matrices::default();
        circuit.synthesize(&mut matrices);
        ArkCircuit(matrices)
    }

    /// A, B and C as arkworks stores them: inputs first, then auxiliaries.
    pub fn matrices(&self) -> [Vec<Vec<(Fr, usize)>>; 3] {
        let inputs = self.0.assignment.counts.inputs;
        let column = |var: Var| {
            if var.is_aux() {
                inputs + var.index()
            } else {
                var.index()
            }
        };
        std::array::from_fn(|side| {
            self.0
                .rows
                .iter()
                .map(|row| row[side].iter().map(|(v, k)| (*k, column(*v))).collect())
                .collect()
        })
    }

    /// Inputs, then auxiliaries.
    pub fn assignment(&self) -> Vec<Fr> {
        [&self.0.assignment.inputs[..], &self.0.assignment.aux].concat()
    }
}

impl ConstraintSynthesizer<Fr> for ArkCircuit {
    fn generate_constraints(self, cs: ConstraintSystemRef<Fr>) -> Result<(), SynthesisError> {
        for value in &self.0.assignment.inputs[1..] {
            let _ = cs.new_input_variable(|| Ok(*value))?;
        }
        for value in &self.0.assignment.aux {
            let _ = cs.new_witness_variable(|| Ok(*value))?;
        }
        let variable = |var: Var| match (var.is_aux(), var.index()) {
            (false, 0) => Variable::One,
            (false, i) => Variable::instance(i),
            (true, i) => Variable::witness(i),
        };
        let sum = |side: &[Term]| {
            side.iter()
                .fold(LinearCombination::zero(), |sum, (var, k)| {
                    sum + (*k, variable(*var))
                })
        };
        for [a, b, c] in &self.0.rows {
            cs.enforce_r1cs_constraint(|| sum(a), || sum(b), || sum(c))?;
        }
        Ok(())
    }
}
