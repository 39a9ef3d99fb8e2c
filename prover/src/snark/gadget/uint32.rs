//! 32-bit words and their sums, several sums to a row.
//!
//! Spec: `vectors/r1cs/README.md` §6. A word is 32 booleans, least significant first; rotations
//! and shifts only rearrange them. A sum of words is not constrained at once: [`MultiEq`] collects
//! the equations `Σ operands = Σ 2^i·result_i` of several sums side by side in one field element
//! and writes a row when the next one would not fit.

use ark_bls12_381::Fr;
use ark_ff::{AdditiveGroup, Field};

use super::bits::{Bit, powers_of_two, xor};
use crate::snark::cs::{ConstraintSystem, Term, Var};

/// A word, least significant bit first.
pub type Word = [Bit; 32];

/// A constant word.
pub fn constant(value: u32) -> Word {
    std::array::from_fn(|i| Bit::Const(value >> i & 1 == 1))
}

/// Rotates right.
pub fn rotr(word: &Word, by: usize) -> Word {
    std::array::from_fn(|i| word[(i + by) % 32])
}

/// Shifts right, constant zeros from above.
pub fn shr(word: &Word, by: usize) -> Word {
    std::array::from_fn(|i| {
        if i + by < 32 {
            word[i + by]
        } else {
            Bit::Const(false)
        }
    })
}

/// `(a xor b) xor c`: one pass over all bits of `a xor b`, then one over the rest.
pub fn xor3<CS: ConstraintSystem>(cs: &mut CS, a: &Word, b: &Word, c: &Word) -> Word {
    let ab: Word = std::array::from_fn(|i| xor(cs, a[i], b[i]));
    std::array::from_fn(|i| xor(cs, ab[i], c[i]))
}

/// Value of a word in this run.
pub fn value(word: &Word) -> u32 {
    word.iter()
        .enumerate()
        .fold(0, |sum, (i, bit)| sum | u32::from(bit.value()) << i)
}

/// One side of the equation being collected.
#[derive(Default)]
struct Side {
    terms: Vec<Term>,
    one: Fr,
}

impl Side {
    fn take(&mut self) -> Vec<Term> {
        let mut terms = std::mem::take(&mut self.terms);
        if self.one != Fr::ZERO {
            terms.push((Var::ONE, std::mem::replace(&mut self.one, Fr::ZERO)));
        }
        terms
    }
}

/// Equations waiting for their common row. One lives through each compression.
#[derive(Default)]
pub struct MultiEq {
    left: Side,
    right: Side,
    used: usize,
}

impl MultiEq {
    /// Writes the pending row, if any: `left | 1 | right`.
    pub fn flush<CS: ConstraintSystem>(&mut self, cs: &mut CS) {
        if self.used > 0 {
            let (left, right) = (self.left.take(), self.right.take());
            cs.row(&left, &[(Var::ONE, Fr::ONE)], &right);
            self.used = 0;
        }
    }

    /// The sum of 2 to 10 words, modulo 2^32. All-constant operands fold into a constant; otherwise
    /// as many result bits are allocated as the greatest sum has, and the low 32 are kept.
    pub fn add_many<CS: ConstraintSystem>(&mut self, cs: &mut CS, operands: &[Word]) -> Word {
        let total: u64 = operands.iter().map(|word| u64::from(value(word))).sum();
        if operands.iter().flatten().all(|bit| bit.is_const()) {
            #[allow(
                clippy::cast_possible_truncation,
                reason = "addition modulo 2^32 is the point"
            )]
            return constant(total as u32);
        }
        let width = 64 - (operands.len() as u64 * u64::from(u32::MAX)).leading_zeros() as usize;
        let result: Vec<Bit> = (0..width)
            .map(|i| Bit::alloc(cs, total >> i & 1 == 1))
            .collect();
        self.enforce(cs, operands, &result);
        std::array::from_fn(|i| result[i])
    }

    /// Appends `Σ operands = result` at the current offset, after making room for it.
    fn enforce<CS: ConstraintSystem>(&mut self, cs: &mut CS, operands: &[Word], result: &[Bit]) {
        if self.used + result.len() >= super::bits::CAPACITY_BITS {
            self.flush(cs);
        }
        if CS::ROWS {
            let weights = &powers_of_two()[self.used..];
            for (bit, weight) in operands.iter().flat_map(|word| word.iter().zip(weights)) {
                bit.push_to(&mut self.left.terms, &mut self.left.one, *weight);
            }
            for (bit, weight) in result.iter().zip(weights) {
                bit.push_to(&mut self.right.terms, &mut self.right.one, *weight);
            }
        }
        self.used += result.len();
    }
}
