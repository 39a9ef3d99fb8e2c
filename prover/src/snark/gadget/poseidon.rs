//! Poseidon as Filecoin's circuits spell it: neptune's *legacy* circuit.
//!
//! Spec: `vectors/r1cs/README.md` §7. Plain twin: [`crate::hash::poseidon`]. Rows and variables:
//! `3(t−1) + 28t + 4R_P + 1`, that is 311, 377, 505, 598 for arity 2, 4, 8, 11.
//! Between S-boxes the state stays a set of sums over the variables that the last S-boxes made.
//! Their coefficients depend on the arity alone, so [`Sums`] works them out once a process and a
//! run only pairs them with its variables.

use std::sync::OnceLock;

use ark_bls12_381::Fr;
use ark_ff::{AdditiveGroup, Field};

use crate::hash::poseidon::{Arity, Constants, FULL_ROUNDS, constants, update_tag};
use crate::snark::cs::{ConstraintSystem, Num, Term, Var};

/// Full rounds before the partial ones, and after them.
const HALF: usize = FULL_ROUNDS / 2;

/// Hashes 2, 4, 8 or 11 numbers under the Merkle tag.
///
/// # Panics
/// On another count: arities come from the const table of [`crate::spec`].
pub fn poseidon<CS: ConstraintSystem>(cs: &mut CS, preimage: &[Num]) -> Num {
    let arity = Arity::from_len(preimage.len()).expect("arities come from the table of sizes");
    hash(cs, arity, Tag::Merkle, preimage)
}

/// Hashes two numbers under the tag of sector updates (proofs.md §6.1). The rows of [`poseidon`] but for one constant.
pub fn poseidon_update<CS: ConstraintSystem>(cs: &mut CS, preimage: [Num; 2]) -> Num {
    hash(cs, Arity::Two, Tag::Update, &preimage)
}

/// What stands in element 0 of the state before the first round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tag {
    /// Trees, columns, CommR.
    Merkle,
    /// Sector updates, of arity two alone.
    Update,
}

fn hash<CS: ConstraintSystem>(cs: &mut CS, arity: Arity, tag: Tag, preimage: &[Num]) -> Num {
    let (k, sums) = (constants(arity), sums(arity, tag));
    let mut keys = k.compressed.chunks_exact(arity.width());
    let mut next_keys = || {
        keys.next()
            .expect("compressed constants hold t for each of these rounds")
    };

    let (first, post) = (next_keys(), next_keys());
    let mut state = State::opening(cs, sums.opening_constant, preimage, first, post);
    state.mix(&k.mds);
    for round in 1..HALF {
        state.full_round(cs, sums.dense(round), Some(next_keys()));
        state.mix(if round == HALF - 1 {
            &k.pre_sparse
        } else {
            &k.mds
        });
    }
    let partial_keys = &k.compressed[5 * arity.width()..][..arity.partial_rounds()];
    state.partial_rounds(cs, k, sums, partial_keys);

    let tail = &k.compressed[5 * arity.width() + arity.partial_rounds()..];
    let mut tail = tail.chunks_exact(arity.width());
    for round in 0..HALF {
        let columns = if round == 0 {
            &sums.closing
        } else {
            &sums.mixed
        };
        state.full_round(cs, columns, tail.next());
        state.mix(&k.mds);
    }
    let result = Num::alloc(cs, state.values[1]);
    cs.row(
        &state.terms::<CS>(&sums.mixed[1]),
        &[(Var::ONE, Fr::ONE)],
        &[result.term()],
    );
    result
}

/// Coefficients of the state's sums, one list per S-box input, over the variables of [`State`].
struct Sums {
    /// What the domain tag has become after round 0: a constant, without variable or row.
    opening_constant: Fr,
    /// After a mix by the Cauchy matrix: element `j` is `Σ M[i][j]·v_i`.
    mixed: Vec<Vec<Fr>>,
    /// The same in round 1, where element 0 of the state before was a constant on ONE.
    opening: Vec<Vec<Fr>>,
    /// Element 0 in each partial round: `t + round` coefficients.
    partial: Vec<Vec<Fr>>,
    /// All elements after the partial rounds: `t + R_P` coefficients.
    closing: Vec<Vec<Fr>>,
}

fn sums(arity: Arity, tag: Tag) -> &'static Sums {
    static MERKLE: [OnceLock<Sums>; 4] = [const { OnceLock::new() }; 4];
    static UPDATE: OnceLock<Sums> = OnceLock::new();
    let cell = Arity::ALL
        .iter()
        .position(|a| *a == arity)
        .expect("ALL names every arity");
    match tag {
        Tag::Merkle => {
            MERKLE[cell].get_or_init(|| Sums::derive(constants(arity), arity.merkle_tag()))
        }
        Tag::Update => UPDATE.get_or_init(|| Sums::derive(constants(Arity::Two), update_tag())),
    }
}

impl Sums {
    fn derive(k: &Constants, tag: Fr) -> Sums {
        let t = k.arity.width();
        let columns = |m: &[Vec<Fr>]| -> Vec<Vec<Fr>> {
            (0..t)
                .map(|j| m.iter().map(|row| row[j]).collect())
                .collect()
        };
        let mixed = columns(&k.mds);
        let constant = (tag + k.compressed[0]).pow([5]) + k.compressed[t];
        let opening = mixed
            .iter()
            .map(|column| {
                std::iter::once(column[0] * constant)
                    .chain(column[1..].iter().copied())
                    .collect()
            })
            .collect();

        let mut elements = columns(&k.pre_sparse);
        let mut partial = Vec::with_capacity(k.sparse.len());
        for matrix in &k.sparse {
            partial.push(std::mem::take(&mut elements[0]));
            // The S-box turns element 0 into a new variable, the last of the list.
            let len = partial.last().map_or(0, Vec::len);
            let mut first = vec![Fr::ZERO; len + 1];
            for (element, weight) in elements[1..].iter().zip(&matrix.column[1..]) {
                first
                    .iter_mut()
                    .zip(element)
                    .for_each(|(sum, x)| *sum += *x * weight);
            }
            first[len] = matrix.column[0];
            elements[0] = first;
            for (element, weight) in elements[1..].iter_mut().zip(&matrix.row) {
                element.push(*weight);
            }
        }
        Sums {
            opening_constant: constant,
            mixed,
            opening,
            partial,
            closing: elements,
        }
    }

    /// The sums before full round `round` of the first half.
    fn dense(&self, round: usize) -> &[Vec<Fr>] {
        if round == 1 {
            &self.opening
        } else {
            &self.mixed
        }
    }
}

/// The state between rounds: its values, and the variables its sums are over.
struct State {
    values: Vec<Fr>,
    vars: Vec<Var>,
}

impl State {
    /// Round 0: three rows for each preimage variable, none for the tag.
    fn opening<CS: ConstraintSystem>(
        cs: &mut CS,
        tag: Fr,
        preimage: &[Num],
        first: &[Fr],
        post: &[Fr],
    ) -> State {
        let mut values = vec![tag];
        // The tag's constant sits on ONE, with its value inside the coefficient.
        let mut vars = vec![Var::ONE];
        for ((x, before), after) in preimage.iter().zip(&first[1..]).zip(&post[1..]) {
            let sum = [x.term(), (Var::ONE, *before)];
            let input = x.value + before;
            let a = Num::alloc(cs, input.square());
            cs.row(&sum, &sum, &[a.term()]);
            let b = Num::alloc(cs, a.value.square());
            cs.row(&[a.term()], &[a.term()], &[b.term()]);
            let c = Num::alloc(cs, input * b.value + after);
            cs.row(&sum, &[b.term()], &[c.term(), (Var::ONE, -*after)]);
            values.push(c.value);
            vars.push(c.var);
        }
        State { values, vars }
    }

    /// An S-box on every element; its variables replace the list.
    fn full_round<CS: ConstraintSystem>(
        &mut self,
        cs: &mut CS,
        sums: &[Vec<Fr>],
        keys: Option<&[Fr]>,
    ) {
        let mut vars = Vec::with_capacity(self.values.len());
        for (i, coefficients) in sums.iter().enumerate() {
            let key = keys.map_or(Fr::ZERO, |keys| keys[i]);
            let out = sbox(cs, &self.terms::<CS>(coefficients), self.values[i], key);
            self.values[i] = out.value;
            vars.push(out.var);
        }
        self.vars = vars;
    }

    /// An S-box on element 0 and a sparse mix, `R_P` times; each adds a variable to the list.
    fn partial_rounds<CS: ConstraintSystem>(
        &mut self,
        cs: &mut CS,
        k: &Constants,
        sums: &Sums,
        keys: &[Fr],
    ) {
        for ((matrix, coefficients), key) in k.sparse.iter().zip(&sums.partial).zip(keys) {
            let out = sbox(cs, &self.terms::<CS>(coefficients), self.values[0], *key);
            self.vars.push(out.var);
            self.values[0] = out.value;
            let first = self
                .values
                .iter()
                .zip(&matrix.column)
                .map(|(x, w)| *x * w)
                .sum();
            for (x, weight) in self.values[1..].iter_mut().zip(&matrix.row) {
                *x += out.value * weight;
            }
            self.values[0] = first;
        }
    }

    /// Mixes the values; the sums follow in [`Sums`].
    fn mix(&mut self, matrix: &[Vec<Fr>]) {
        self.values = (0..self.values.len())
            .map(|j| {
                self.values
                    .iter()
                    .zip(matrix)
                    .map(|(x, row)| *x * row[j])
                    .sum()
            })
            .collect();
    }

    /// Pairs a sum's coefficients with the variables.
    fn terms<CS: ConstraintSystem>(&self, coefficients: &[Fr]) -> Vec<Term> {
        if !CS::ROWS {
            return Vec::new();
        }
        self.vars
            .iter()
            .copied()
            .zip(coefficients.iter().copied())
            .collect()
    }
}

/// `x^5 + key` in four rows: the sum as a variable of its own, its square, its fourth power, and
/// the product with the key moved to the C side.
fn sbox<CS: ConstraintSystem>(cs: &mut CS, sum: &[Term], value: Fr, key: Fr) -> Num {
    let s = Num::alloc(cs, value);
    cs.row(sum, &[(Var::ONE, Fr::ONE)], &[s.term()]);
    let a = Num::alloc(cs, value.square());
    cs.row(&[s.term()], &[s.term()], &[a.term()]);
    let b = Num::alloc(cs, a.value.square());
    cs.row(&[a.term()], &[a.term()], &[b.term()]);
    let c = Num::alloc(cs, value * b.value + key);
    cs.row(&[s.term()], &[b.term()], &[c.term(), (Var::ONE, -key)]);
    c
}
