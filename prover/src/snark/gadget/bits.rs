//! Booleans, their gates, and the way between numbers and bits.
//!
//! Spec: `vectors/r1cs/README.md` §4 (bits, packing) and §5 (gates). Plain twin: the boolean table
//! `fixtures/vectors/r1cs/boolean-table.json` lists every gate on every kind of operand.
//! A boolean is a constant, a variable or its negation; negation and constants cost nothing.

use ark_bls12_381::Fr;
use ark_ff::{AdditiveGroup, Field, PrimeField};

use crate::snark::cs::{ConstraintSystem, MINUS_ONE, Num, Sum, TWO, Term, Var, of_bit};

/// Bits in a field element's decomposition.
pub const FR_BITS: usize = 255;
/// Bits that always fit a field element: what `t254` keeps of a digest.
pub const CAPACITY_BITS: usize = 254;

/// A boolean with its value in this run.
#[derive(Clone, Copy, Debug)]
pub enum Bit {
    /// Known at synthesis; part of the circuit's shape.
    Const(bool),
    /// A variable that some row forces to 0 or 1, or its negation.
    Var {
        /// The underlying variable.
        var: Var,
        /// Whether the boolean is `1 − var`.
        negated: bool,
        /// Value of the boolean, that is, after the negation.
        value: bool,
    },
}

impl Bit {
    /// Allocates a bit: `v := new`, row `1 − v | v | 0`.
    pub fn alloc<CS: ConstraintSystem>(cs: &mut CS, value: bool) -> Bit {
        let var = cs.aux(of_bit(value));
        cs.row(
            &[(Var::ONE, Fr::ONE), (var, MINUS_ONE)],
            &[(var, Fr::ONE)],
            &[],
        );
        Bit::plain(var, value)
    }

    fn plain(var: Var, value: bool) -> Bit {
        Bit::Var {
            var,
            negated: false,
            value,
        }
    }

    /// A bit that a gate derives: a variable without a row of its own.
    fn derive<CS: ConstraintSystem>(cs: &mut CS, value: bool) -> (Var, Bit) {
        let var = cs.aux(of_bit(value));
        (var, Bit::plain(var, value))
    }

    /// Value in this run.
    pub fn value(self) -> bool {
        match self {
            Bit::Const(value) | Bit::Var { value, .. } => value,
        }
    }

    /// Whether the value is part of the circuit's shape.
    pub fn is_const(self) -> bool {
        matches!(self, Bit::Const(_))
    }

    /// The boolean as a sum: `v`, `1 − v`, `1` or nothing.
    pub fn sum(self) -> Sum {
        self.add_to(Sum::new(), Fr::ONE)
    }

    /// `sum + k·self`.
    fn add_to(self, sum: Sum, k: Fr) -> Sum {
        match self {
            Bit::Const(false) => sum,
            Bit::Const(true) => sum.with(Var::ONE, k),
            Bit::Var {
                var,
                negated: false,
                ..
            } => sum.with(var, k),
            Bit::Var {
                var, negated: true, ..
            } => sum.with(Var::ONE, k).with(var, -k),
        }
    }

    /// Appends `k·self` to a long sum, the share of the constant one apart.
    pub fn push_to(self, terms: &mut Vec<Term>, one: &mut Fr, k: Fr) {
        match self {
            Bit::Const(false) => {}
            Bit::Const(true) => *one += k,
            Bit::Var {
                var,
                negated: false,
                ..
            } => terms.push((var, k)),
            Bit::Var {
                var, negated: true, ..
            } => {
                *one += k;
                terms.push((var, -k));
            }
        }
    }
}

impl std::ops::Not for Bit {
    type Output = Bit;
    fn not(self) -> Bit {
        match self {
            Bit::Const(value) => Bit::Const(!value),
            Bit::Var {
                var,
                negated,
                value,
            } => Bit::Var {
                var,
                negated: !negated,
                value: !value,
            },
        }
    }
}

/// Exclusive or: row `2a | b | a + b − r` over the underlying variables.
pub fn xor<CS: ConstraintSystem>(cs: &mut CS, a: Bit, b: Bit) -> Bit {
    match (a, b) {
        (Bit::Const(k), x) | (x, Bit::Const(k)) => {
            if k {
                !x
            } else {
                x
            }
        }
        (
            Bit::Var {
                var: va,
                negated: na,
                value: xa,
            },
            Bit::Var {
                var: vb,
                negated: nb,
                value: xb,
            },
        ) => {
            // With one operand negated the plain one goes first and the result is negated.
            let (first, second) = if na && !nb { (vb, va) } else { (va, vb) };
            let value = (xa ^ na) ^ (xb ^ nb);
            let (r, bit) = Bit::derive(cs, value);
            cs.row(
                &[(first, TWO)],
                &[(second, Fr::ONE)],
                &[(first, Fr::ONE), (second, Fr::ONE), (r, MINUS_ONE)],
            );
            if na == nb { bit } else { !bit }
        }
    }
}

/// And: row `a | b | r`, a plain operand before a negated one.
pub fn and<CS: ConstraintSystem>(cs: &mut CS, a: Bit, b: Bit) -> Bit {
    match (a, b) {
        (Bit::Const(k), x) | (x, Bit::Const(k)) => {
            if k {
                x
            } else {
                Bit::Const(false)
            }
        }
        (Bit::Var { negated: na, .. }, Bit::Var { negated: nb, .. }) => {
            let (left, right) = if na && !nb { (b, a) } else { (a, b) };
            let (r, bit) = Bit::derive(cs, a.value() && b.value());
            cs.row(&left.sum(), &right.sum(), &[(r, Fr::ONE)]);
            bit
        }
    }
}

/// SHA-256's choice `a ? b : c`; the order of the cases is Filecoin's and decides the rows.
pub fn ch<CS: ConstraintSystem>(cs: &mut CS, a: Bit, b: Bit, c: Bit) -> Bit {
    let value = if a.value() { b.value() } else { c.value() };
    match (a, b, c) {
        (Bit::Const(_), Bit::Const(_), Bit::Const(_)) => Bit::Const(value),
        (Bit::Const(false), _, _) => c,
        (_, Bit::Const(false), _) => and(cs, !a, c),
        (_, _, Bit::Const(false)) => and(cs, a, b),
        (_, _, Bit::Const(true)) => !and(cs, a, !b),
        (_, Bit::Const(true), _) => !and(cs, !a, !c),
        _ => {
            let (r, bit) = Bit::derive(cs, value);
            let left = c.add_to(b.add_to(Sum::new(), Fr::ONE), MINUS_ONE);
            cs.row(
                &left,
                &a.sum(),
                &c.add_to(Sum::new().with(r, Fr::ONE), MINUS_ONE),
            );
            bit
        }
    }
}

/// SHA-256's majority; the order of the cases is Filecoin's, and the result is allocated before
/// the helper `b ∧ c`.
pub fn maj<CS: ConstraintSystem>(cs: &mut CS, a: Bit, b: Bit, c: Bit) -> Bit {
    let value = u8::from(a.value()) + u8::from(b.value()) + u8::from(c.value()) >= 2;
    match (a, b, c) {
        (Bit::Const(_), Bit::Const(_), Bit::Const(_)) => Bit::Const(value),
        (Bit::Const(false), _, _) => and(cs, b, c),
        (_, Bit::Const(false), _) => and(cs, a, c),
        (_, _, Bit::Const(false)) => and(cs, a, b),
        (_, _, Bit::Const(true)) => !and(cs, !a, !b),
        (_, Bit::Const(true), _) => !and(cs, !a, !c),
        (Bit::Const(true), _, _) => !and(cs, !b, !c),
        _ => {
            let (r, bit) = Bit::derive(cs, value);
            let both = and(cs, b, c);
            let left = c.add_to(b.add_to(both.add_to(Sum::new(), TWO), MINUS_ONE), MINUS_ONE);
            cs.row(&left, &a.sum(), &both.sum().with(r, MINUS_ONE));
            bit
        }
    }
}

/// The 255 bits of a number, least significant first: 255 bit rows, then `0 | 0 | Σ 2^i·b_i − n`.
///
/// Filecoin's gadget, **not** forced below `r`: a value `v < 2^255 − r` also decomposes as `v + r`.
/// What that allows, and why the circuits stay sound: the bits only feed SHA-256, as replica id,
/// TreeD children or parent labels. A prover who takes the alias hashes another 32-byte string, one
/// that stands for no canonical node, and must still meet a hash that was committed to or a label
/// recomputed by the same circuit; with the honest preimage fixed by the tree, that is a second
/// preimage of SHA-256. `tests` pins the looseness for this gadget, `snark::soundness` for every call in the whole
/// circuits, where each call carries its own argument (`Loose (P15)`).
#[track_caller]
pub fn to_bits_le<CS: ConstraintSystem>(cs: &mut CS, number: Num) -> Vec<Bit> {
    let bits = alloc_bits(cs, canonical_spelling(number.value), FR_BITS);
    unpacking_row(cs, &bits, number);
    bits
}

#[track_caller]
fn unpacking_row<CS: ConstraintSystem>(cs: &mut CS, bits: &[Bit], number: Num) {
    if CS::ROWS {
        let mut terms = weighted(bits);
        terms.push((number.var, MINUS_ONE));
        cs.row(&[], &[], &terms);
    } else {
        cs.row(&[], &[], &[]);
    }
}

/// The lowest `width` bits of a number, least significant first: `width` bit rows, then `Σ 2^i·b_i | 1 | n`, which demands
/// that there are no further ones. The sector update's own gadget; with 255 bits it is as loose as [`to_bits_le`], and
/// `spelling` says which of the two spellings the witness takes.
///
/// # Panics
/// For more than 255 bits.
#[track_caller]
pub fn split_bits<CS: ConstraintSystem>(
    cs: &mut CS,
    number: Num,
    spelling: [u64; 4],
    width: usize,
) -> Vec<Bit> {
    assert!(width <= FR_BITS, "a number has 255 bits");
    let bits = alloc_bits(cs, spelling, width);
    packing_row(cs, &bits, number.var);
    bits
}

/// The bits of a number below the field's order.
pub fn canonical_spelling(number: Fr) -> [u64; 4] {
    number.into_bigint().0
}

fn alloc_bits<CS: ConstraintSystem>(cs: &mut CS, limbs: [u64; 4], width: usize) -> Vec<Bit> {
    (0..width)
        .map(|i| Bit::alloc(cs, limbs[i / 64] >> (i % 64) & 1 == 1))
        .collect()
}

/// Packs at most the first 254 bits, least significant first: `n := new`, row `Σ 2^i·b_i | 1 | n`.
pub fn pack_bits<CS: ConstraintSystem>(cs: &mut CS, bits: &[Bit]) -> Num {
    let bits = &bits[..bits.len().min(CAPACITY_BITS)];
    let packed = Num::alloc(cs, packed_value(bits));
    packing_row(cs, bits, packed.var);
    packed
}

/// Packs bits into inputs, 254 at a time: one input and one row `Σ 2^i·b_i | 1 | i` each.
#[track_caller]
pub fn pack_into_inputs<CS: ConstraintSystem>(cs: &mut CS, bits: &[Bit]) {
    for chunk in bits.chunks(CAPACITY_BITS) {
        let input = cs.input(packed_value(chunk));
        packing_row(cs, chunk, input);
    }
}

/// The 64 bits of a challenge as a private value, packed into an input.
#[track_caller]
pub fn challenge_input<CS: ConstraintSystem>(cs: &mut CS, value: u64) -> Vec<Bit> {
    let bits: Vec<Bit> = (0..64)
        .map(|i| Bit::alloc(cs, value >> i & 1 == 1))
        .collect();
    pack_into_inputs(cs, &bits);
    bits
}

#[track_caller]
fn packing_row<CS: ConstraintSystem>(cs: &mut CS, bits: &[Bit], target: Var) {
    let terms = if CS::ROWS { weighted(bits) } else { Vec::new() };
    cs.row(&terms, &[(Var::ONE, Fr::ONE)], &[(target, Fr::ONE)]);
}

/// `Σ 2^i·b_i` as terms.
fn weighted(bits: &[Bit]) -> Vec<Term> {
    let mut terms = Vec::with_capacity(bits.len() + 2);
    let mut one = Fr::ZERO;
    for (bit, weight) in bits.iter().zip(powers_of_two()) {
        bit.push_to(&mut terms, &mut one, *weight);
    }
    if one != Fr::ZERO {
        terms.push((Var::ONE, one));
    }
    terms
}

fn packed_value(bits: &[Bit]) -> Fr {
    let mut limbs = [0u64; 4];
    for (i, bit) in bits.iter().enumerate() {
        limbs[i / 64] |= u64::from(bit.value()) << (i % 64);
    }
    Fr::from_bigint(ark_ff::BigInt(limbs)).expect("at most 254 bits are below the modulus")
}

/// `2^0 … 2^254`.
pub fn powers_of_two() -> &'static [Fr; FR_BITS] {
    static POWERS: std::sync::OnceLock<[Fr; FR_BITS]> = std::sync::OnceLock::new();
    POWERS.get_or_init(|| {
        let mut powers = [Fr::ONE; FR_BITS];
        for i in 1..FR_BITS {
            powers[i] = powers[i - 1] + powers[i - 1];
        }
        powers
    })
}

/// Reverses the bits inside each byte, padding with constant zeros to whole bytes: between a
/// number's order (least significant first) and SHA-256's (most significant first). Free.
pub fn reverse_bytes(bits: &[Bit]) -> Vec<Bit> {
    let mut out = bits.to_vec();
    out.resize(bits.len().next_multiple_of(8), Bit::Const(false));
    out.chunks_exact_mut(8).for_each(<[Bit]>::reverse);
    out
}

/// The 256 bits under which a number enters SHA-256: 255 bits and a constant zero, byte-reversed.
#[track_caller]
pub fn hash_bits<CS: ConstraintSystem>(cs: &mut CS, number: Num) -> Vec<Bit> {
    reverse_bytes(&to_bits_le(cs, number))
}
