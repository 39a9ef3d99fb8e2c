//! Is every witness variable pinned down? The tests that threat row P15 asks of each circuit, on gadgets.
//!
//! 1. *Definedness*: walking the rows in order, each may define one new variable (with a coefficient
//!    that cannot vanish) or one bit decomposition below 2^255. What is defined by no row must be on
//!    the list of free variables, the gadget's inputs.
//! 2. *Flip and repair*: change one variable that is not free, solve the later rows forward, and
//!    some row must be left unsatisfied. If none is, a second witness exists for the same inputs.

use std::collections::BTreeSet;

use ark_bls12_381::Fr;
use ark_ff::{Field, PrimeField};

use super::bits::{self, Bit, FR_BITS};
use super::insert::insert;
use super::merkle::{Level, NodeHash, path};
use super::poseidon::poseidon;
use super::sha256::sha256;
use super::uint32::{MultiEq, Word};
use crate::snark::cs::{Num, Term, Var};
use crate::snark::record::Matrices;

/// A set of auxiliary variables. Inputs belong to every set: nothing here is about them.
#[derive(Clone)]
struct Vars(Vec<bool>);

impl Vars {
    fn first(cs: &Matrices, count: usize) -> Vars {
        Vars((0..cs.assignment.aux.len()).map(|i| i < count).collect())
    }

    fn contains(&self, v: Var) -> bool {
        !v.is_aux() || self.0[v.index()]
    }

    fn insert(&mut self, v: Var) {
        if v.is_aux() {
            self.0[v.index()] = true;
        }
    }

    fn missing(&self) -> Vec<usize> {
        (0..self.0.len()).filter(|i| !self.0[*i]).collect()
    }
}

/// Variables forced to be 0 or 1 by a bit row.
fn booleans(cs: &Matrices) -> Vars {
    let mut found = Vars::first(cs, 0);
    for [a, b, c] in &cs.rows {
        if let ([(one, k), (v, m)], [(w, l)], []) = (&a[..], &b[..], &c[..])
            && (*one, *k, *m, *l) == (Var::ONE, Fr::ONE, -Fr::ONE, Fr::ONE)
            && v == w
        {
            found.insert(*v);
        }
    }
    found
}

/// Auxiliary variables that no row defines. A row defines
/// * the one new variable of side C, when A and B are known;
/// * all new bits of a weighted sum on side C, when A and B are known, the weights are distinct powers
///   of two below 2^255 and every bit has its own bit row (Filecoin's decompositions are loose above
///   `r`; see `bits::to_bits_le`);
/// * in a row of sums side by side (`MultiEq`), bit `k` of side C as soon as everything on side A with
///   a weight of at most 2^k is known: both sides are integers below `r`, so they agree modulo 2^(k+1).
fn undefined(cs: &Matrices, free: &Vars) -> Vec<usize> {
    let booleans = booleans(cs);
    let mut known = free.clone();
    // A sum's row stands after the rows that use its result, so go round until nothing is new; a row
    // that defined all it can is left out of later rounds.
    let mut rows: Vec<&[Vec<Term>; 3]> = cs.rows.iter().collect();
    loop {
        let before = rows.len();
        let mut progress = false;
        rows.retain(|row| {
            while define(row, &booleans, &mut known) {
                progress = true;
            }
            row.iter().flatten().any(|(v, _)| !known.contains(*v))
        });
        if !progress && rows.len() == before {
            return known.missing();
        }
    }
}

/// Whether the row defined something.
fn define([a, b, c]: &[Vec<Term>; 3], booleans: &Vars, known: &mut Vars) -> bool {
    let unknown = |side: &[Term]| -> Vec<Term> {
        side.iter()
            .filter(|(v, _)| !known.contains(*v))
            .copied()
            .collect()
    };
    let (new_a, new_b, mut new_c) = (unknown(a), unknown(b), unknown(c));
    if !new_b.is_empty() || new_c.is_empty() {
        return false;
    }
    if let ([], [(v, _)]) = (&new_a[..], &new_c[..]) {
        known.insert(*v);
        return true;
    }
    let weights: BTreeSet<u32> = new_c.iter().filter_map(|(_, k)| power_of_two(*k)).collect();
    if weights.len() != new_c.len() || !new_c.iter().all(|(v, _)| booleans.contains(*v)) {
        return false;
    }
    if !new_a.is_empty() {
        if b[..] != [(Var::ONE, Fr::ONE)] {
            return false;
        }
        let lowest = new_a
            .iter()
            .map(|(_, k)| weight_log2(*k))
            .min()
            .unwrap_or(0);
        new_c.retain(|(_, k)| weight_log2(*k) < lowest);
    }
    new_c.iter().for_each(|(v, _)| known.insert(*v));
    !new_c.is_empty()
}

/// The exponent, if the coefficient is a power of two below 2^255.
fn power_of_two(k: Fr) -> Option<u32> {
    let words = k.into_bigint().0;
    (words.iter().map(|w| w.count_ones()).sum::<u32>() == 1).then(|| weight_log2(k))
}

/// The exponent of the largest power of two in a coefficient, read as a small integer of either sign.
fn weight_log2(k: Fr) -> u32 {
    let (k, negated) = (k.into_bigint(), (-k).into_bigint());
    let words = if k < negated || k.0.iter().map(|w| w.count_ones()).sum::<u32>() == 1 {
        k.0
    } else {
        negated.0
    };
    let zeros = words.iter().take_while(|w| **w == 0).count();
    64 * u32::try_from(zeros).expect("four words")
        + words.get(zeros).map_or(0, |w| w.trailing_zeros())
}

fn narrow(index: usize) -> u32 {
    u32::try_from(index).expect("small circuits")
}

/// Flips one variable and solves forward: every later row whose side C holds exactly one variable
/// not met yet gives that variable the value that satisfies the row. Returns the first row that is
/// violated in the end.
fn flip_and_repair(cs: &Matrices, flipped: usize, booleans: &Vars) -> Option<usize> {
    let mut values = cs.assignment.aux.clone();
    let boolean = booleans.contains(Var::aux(narrow(flipped)));
    values[flipped] = if boolean {
        Fr::ONE - values[flipped]
    } else {
        values[flipped] + Fr::ONE
    };
    let mut settled = Vars::first(cs, flipped + 1);
    let value = |values: &[Fr], v: Var| {
        if v.is_aux() {
            values[v.index()]
        } else {
            cs.assignment.inputs[v.index()]
        }
    };
    let eval = |values: &[Fr], side: &[Term]| -> Fr {
        side.iter().map(|(v, k)| value(values, *v) * k).sum()
    };
    for [a, b, c] in &cs.rows {
        let mut new = c.iter().filter(|(v, _)| !settled.contains(*v));
        let known = |side: &[Term]| side.iter().all(|(v, _)| settled.contains(*v));
        if let (Some((v, k)), None) = (new.next(), new.next())
            && known(a)
            && known(b)
        {
            let rest = eval(&values, c) - value(&values, *v) * k;
            let target = eval(&values, a) * eval(&values, b) - rest;
            values[v.index()] = if *k == Fr::ONE {
                target
            } else {
                target * k.inverse().expect("canonical rows have no zeros")
            };
        }
        a.iter()
            .chain(b)
            .chain(c)
            .for_each(|(v, _)| settled.insert(*v));
    }
    cs.rows
        .iter()
        .position(|[a, b, c]| eval(&values, a) * eval(&values, b) != eval(&values, c))
}

/// Both tests on a gadget whose first `free` auxiliary variables are its inputs; `flips` of the others
/// are flipped, spread evenly.
fn assert_sound(name: &str, free: usize, flips: usize, build: impl FnOnce(&mut Matrices)) {
    let mut cs = Matrices::default();
    build(&mut cs);
    assert_eq!(cs.first_unsatisfied(), None, "{name}");
    let missing = undefined(&cs, &Vars::first(&cs, free));
    assert!(
        missing.is_empty(),
        "{name}: no row defines aux {:?} …",
        &missing[..missing.len().min(8)]
    );
    let booleans = booleans(&cs);
    let derived = free..cs.assignment.aux.len();
    for i in derived
        .clone()
        .step_by(derived.len().div_ceil(flips).max(1))
    {
        assert!(
            flip_and_repair(&cs, i, &booleans).is_some(),
            "{name}: aux {i} can be changed unnoticed"
        );
    }
}

fn number(cs: &mut Matrices, value: u64) -> Num {
    Num::alloc(cs, Fr::from(value))
}

fn word(cs: &mut Matrices, value: u32) -> Word {
    std::array::from_fn(|i| Bit::alloc(cs, value >> i & 1 == 1))
}

#[test]
fn tm_p15_gadgets_define_every_variable_and_every_flip_is_noticed() {
    assert_sound("to_bits_le", 1, 400, |cs| {
        let n = number(cs, 0x1234_5678_9abc);
        bits::to_bits_le(cs, n);
    });
    assert_sound("gates", 3, 400, |cs| {
        let [a, b, c] = [true, false, true].map(|v| Bit::alloc(cs, v));
        let x = bits::xor(cs, a, !b);
        let y = bits::ch(cs, x, b, c);
        let z = bits::maj(cs, x, y, !c);
        bits::pack_bits(cs, &[x, y, !z]);
    });
    assert_sound("sums", 64, 400, |cs| {
        let operands = [word(cs, 0xffff_fffe), word(cs, 0x8000_0003)];
        let mut sums = MultiEq::default();
        let once = sums.add_many(cs, &operands);
        sums.add_many(cs, &[once, operands[0], operands[1]]);
        sums.flush(cs);
    });
    for arity in [2usize, 4, 8, 11] {
        assert_sound("poseidon", arity, 400, |cs| {
            let preimage: Vec<Num> = (0..arity as u64).map(|i| number(cs, i + 9)).collect();
            poseidon(cs, &preimage);
        });
    }
    for arity in [2usize, 4, 8] {
        let index_bits = arity.ilog2() as usize;
        assert_sound("insert", arity + index_bits, 400, |cs| {
            let x = number(cs, 77);
            let index: Vec<Bit> = (0..index_bits).map(|i| Bit::alloc(cs, i == 0)).collect();
            let siblings: Vec<Num> = (1..arity as u64).map(|i| number(cs, i)).collect();
            insert(cs, x, &index, &siblings);
        });
    }
}

#[test]
fn tm_p15_sha256_defines_every_variable_and_sampled_flips_are_noticed() {
    assert_sound("sha256 of 64 bits", 64, 24, |cs| {
        let message: Vec<Bit> = (0..64).map(|i| Bit::alloc(cs, i % 3 == 0)).collect();
        sha256(cs, &message);
    });
}

/// In a path the leaf, the siblings, the index bits and the root are free as far as the lint can see;
/// the root's equality and the packed index bind them, which flipping shows.
#[test]
fn tm_p15_a_path_binds_its_leaf_siblings_index_and_root() {
    let levels = [
        Level {
            index: 5,
            siblings: (1..8u64).map(Fr::from).collect(),
        },
        Level {
            index: 1,
            siblings: vec![Fr::from(9u64)],
        },
    ];
    let mut cs = Matrices::default();
    let leaf = number(&mut cs, 3);
    let root = {
        use crate::hash::poseidon::hash;
        let mut children: Vec<Fr> = levels[0].siblings.clone();
        children.insert(5, Fr::from(3u64));
        let node = hash::<8>(&children.try_into().expect("eight children"));
        hash::<2>(&[Fr::from(9u64), node])
    };
    let root = Num::alloc(&mut cs, root);
    path(&mut cs, NodeHash::Poseidon, leaf, &levels, root);
    assert_eq!(cs.first_unsatisfied(), None);
    let booleans = booleans(&cs);
    for i in (0..cs.assignment.aux.len()).step_by(3).chain(0..20) {
        assert!(
            flip_and_repair(&cs, i, &booleans).is_some(),
            "aux {i} can be changed unnoticed"
        );
    }
    // Non-boolean index bits: the bit row refuses them whatever else is done.
    let bits: Vec<usize> = (0..booleans.0.len()).filter(|i| booleans.0[*i]).collect();
    assert_eq!(bits.len(), 3 + 1);
    for bit in bits {
        let mut bent = cs.clone();
        bent.assignment.aux[bit] = Fr::from(2u64);
        assert!(bent.first_unsatisfied().is_some());
    }
}

/// The tests can fail: a gadget with a row left out is caught by both.
#[test]
fn a_missing_row_is_found() {
    let mut cs = Matrices::default();
    let n = number(&mut cs, 5);
    bits::to_bits_le(&mut cs, n);
    let free = Vars::first(&cs, 1);
    assert!(undefined(&cs, &free).is_empty());
    let mut without_packing = cs.clone();
    without_packing.rows.pop();
    assert_eq!(undefined(&without_packing, &free).len(), FR_BITS);
    assert_eq!(
        flip_and_repair(&without_packing, 7, &booleans(&without_packing)),
        None
    );
    // Without one bit row the decomposition is no decomposition any more.
    let mut without_bit = cs.clone();
    without_bit.rows.remove(3);
    assert!(!undefined(&without_bit, &free).is_empty());
    assert_eq!(n.value, Fr::from(5u64));
}
