//! The constraint system: who listens while a circuit is spelled out.
//!
//! Walk: the circuits of [`crate::porep::circuit`] and [`crate::post::circuit`] call the gadgets of
//! [`super::gadget`], and each gadget speaks to one [`ConstraintSystem`]. What a listener does with
//! a row decides what the synthesis is for: [`super::record`] counts, digests or stores the rows,
//! [`super::keygen`] evaluates them at a secret point, [`super::groth16`] on a witness. No
//! listener keeps matrices, so a circuit of millions of rows costs its variables and no more.
//! Spec: `vectors/r1cs/README.md` §2 (variables, rows, canonical form).
//! Values travel with the variables in every mode: a circuit that is only counted is run on zeros.
//! That costs little beside the rows, and keeps one code path, so rows cannot depend on the mode.

use ark_bls12_381::Fr;
use ark_ff::{AdditiveGroup, Field, MontFp};

/// −1, the coefficient next to 1 in frequency.
pub const MINUS_ONE: Fr = MontFp!("-1");
/// 2, the coefficient of an exclusive or.
pub const TWO: Fr = MontFp!("2");

/// A variable: an input (index 0 is the constant one) or an auxiliary (witness) variable.
///
/// The order is the canonical one: inputs by index, then auxiliaries by index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Var(u32);

impl Var {
    /// The constant one, input 0 of every circuit.
    pub const ONE: Var = Var(0);
    const AUX: u32 = 1 << 31;

    /// Input number `index`.
    pub const fn input(index: u32) -> Var {
        assert!(index < Self::AUX, "variable indexes fit 31 bits");
        Var(index)
    }

    /// Auxiliary variable number `index`.
    pub const fn aux(index: u32) -> Var {
        assert!(index < Self::AUX, "variable indexes fit 31 bits");
        Var(index | Self::AUX)
    }

    /// Whether this is an auxiliary variable.
    pub const fn is_aux(self) -> bool {
        self.0 & Self::AUX != 0
    }

    /// Position among the inputs or among the auxiliaries.
    pub const fn index(self) -> usize {
        (self.0 & !Self::AUX) as usize
    }
}

/// A bit's value: a choice of two constants, where the conversion would cost a product.
pub const fn of_bit(value: bool) -> Fr {
    if value { Fr::ONE } else { Fr::ZERO }
}

/// A coefficient on a variable.
pub type Term = (Var, Fr);

/// Receives a circuit: variables in allocation order, rows `A·B = C` in order.
///
/// The terms of a side may name a variable more than once and may cancel; a listener that needs
/// the canonical form merges them itself.
pub trait ConstraintSystem {
    /// Whether rows are looked at. Gadgets skip building long sums when they are not.
    const ROWS: bool = true;

    /// Allocates the next auxiliary variable. The call site is known to the listener: the soundness
    /// lint ([`super`], tests) names variables and rows by the line that makes them.
    #[track_caller]
    fn aux(&mut self, value: Fr) -> Var;
    /// Allocates the next input.
    fn input(&mut self, value: Fr) -> Var;
    /// Adds the constraint `a · b = c`.
    #[track_caller]
    fn row(&mut self, a: &[Term], b: &[Term], c: &[Term]);

    /// Spells one part after the other, in order. Parts name variables of their own and those made before the first
    /// of them, not each other's; so a listener that knows how long a part is may spell them side by side.
    fn parts<T: Sync>(&mut self, parts: &[T], spell: impl Fn(&mut Self, &T) + Sync)
    where
        Self: Sized,
    {
        parts.iter().for_each(|part| spell(self, part));
    }
}

/// A statement with its witness, spelled the same way to every listener.
pub trait Circuit: Sync {
    /// Spells the circuit.
    fn synthesize<CS: ConstraintSystem>(&self, cs: &mut CS);
}

/// A sum of up to six terms on the stack: the sides of almost all rows.
#[derive(Clone, Copy, Debug)]
pub struct Sum {
    terms: [Term; 6],
    len: usize,
}

impl Sum {
    /// The empty sum.
    pub const fn new() -> Sum {
        Sum {
            terms: [(Var::ONE, Fr::ZERO); 6],
            len: 0,
        }
    }

    /// The sum with one more term.
    pub const fn with(mut self, var: Var, coefficient: Fr) -> Sum {
        self.terms[self.len] = (var, coefficient);
        self.len += 1;
        self
    }
}

impl Default for Sum {
    fn default() -> Self {
        Self::new()
    }
}

impl std::ops::Deref for Sum {
    type Target = [Term];
    fn deref(&self) -> &[Term] {
        &self.terms[..self.len]
    }
}

/// A field element held in a variable, together with its value.
#[derive(Clone, Copy, Debug)]
pub struct Num {
    /// Where it lives.
    pub var: Var,
    /// What it is in this run.
    pub value: Fr,
}

impl Num {
    /// Allocates an auxiliary variable; no row.
    #[track_caller]
    pub fn alloc<CS: ConstraintSystem>(cs: &mut CS, value: Fr) -> Num {
        Num {
            var: cs.aux(value),
            value,
        }
    }

    /// Copies the number into a new input: row `i | 1 | n`.
    pub fn inputize<CS: ConstraintSystem>(self, cs: &mut CS) {
        let input = cs.input(self.value);
        cs.row(&[(input, Fr::ONE)], &[(Var::ONE, Fr::ONE)], &[self.term()]);
    }

    /// Demands equality: row `a | 1 | b`.
    #[track_caller]
    pub fn enforce_equal<CS: ConstraintSystem>(self, cs: &mut CS, other: Num) {
        cs.row(&[self.term()], &[(Var::ONE, Fr::ONE)], &[other.term()]);
    }

    /// The sum as a new variable: row `a + b | 1 | s`. PoRep's encoding is `key.add(data)`.
    pub fn add<CS: ConstraintSystem>(self, cs: &mut CS, other: Num) -> Num {
        let sum = Num::alloc(cs, self.value + other.value);
        cs.row(
            &[self.term(), other.term()],
            &[(Var::ONE, Fr::ONE)],
            &[sum.term()],
        );
        sum
    }

    /// The product as a new variable: row `a | b | p`.
    pub fn mul<CS: ConstraintSystem>(self, cs: &mut CS, other: Num) -> Num {
        let product = Num::alloc(cs, self.value * other.value);
        cs.row(&[self.term()], &[other.term()], &[product.term()]);
        product
    }

    /// The term with coefficient one.
    pub fn term(self) -> Term {
        (self.var, Fr::ONE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_come_before_auxiliaries() {
        assert!(Var::ONE < Var::input(1));
        assert!(Var::input(u32::MAX >> 1) < Var::aux(0));
        assert!(Var::aux(0) < Var::aux(1));
        assert_eq!((Var::aux(7).index(), Var::aux(7).is_aux()), (7, true));
        assert_eq!((Var::input(7).index(), Var::input(7).is_aux()), (7, false));
    }

    #[test]
    fn constants_are_what_they_say() {
        assert_eq!(MINUS_ONE, -Fr::ONE);
        assert_eq!(TWO, Fr::ONE + Fr::ONE);
    }
}
