//! Where an assignment of ours parts from the one that was recorded of Filecoin's circuit.
//!
//! Place: behind the tests of whole witnesses, `vectors::witness` and `prover/tests/witness.rs`, which compare
//! `fixtures/vectors/r1cs/witness-*.json`, and `benches/tests/filecoin.rs`, for which Filecoin's crate makes the record there and then. Spec: `r1cs/README.md` §2, "Finding a difference".
//!
//! What a record holds, and what can be said from it:
//!
//! | in the record | says |
//! |---|---|
//! | `aux_checkpoints` `[n, d]`: digest of the first n variables, at powers of two and every 65,536 | which checkpoint is the first that differs |
//! | `aux_digest_at_segment_end` `[name, n, d]` | Filecoin's name of the part, and further marks between the checkpoints |
//! | `first_64_aux`: values | the variable itself, if it is one of them |
//! | `aux_sha256` | whether anything differs at all |
//!
//! So the first wrong variable lies between two marks, the last that agrees and the first that does not: at most 65,536
//! variables, mostly some hundred. It holds no rows. Those named here are our circuit's, which other tests
//! compare with Filecoin's row by row: the rows in which the variables of that range are met first, and the first row that our
//! own values leave unsatisfied. Where there is none, the values follow from each other, and what they began with is wrong.

use std::fmt;
use std::ops::Range;

use ark_bls12_381::Fr;
use ark_ff::{AdditiveGroup, Field, PrimeField};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::hash::poseidon::node_from_fr;
use crate::snark::cs::{Circuit, ConstraintSystem, Term, Var};
use crate::snark::record::{Assignment, Counts};

/// The first place where two assignments differ, as near as the record lets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Variables under the first checkpoint that differs; `None` if it lies behind the last one.
    pub checkpoint: Option<usize>,
    /// Filecoin's name of the part, the innermost that the record lists.
    pub segment: String,
    /// The first wrong auxiliary variable is one of these.
    pub variables: Range<usize>,
    /// Rows of our circuit in which these variables are met first.
    pub rows: Range<usize>,
    /// The first row that our values do not satisfy.
    pub unsatisfied: Option<usize>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.checkpoint {
            Some(variables) => write!(f, "first checkpoint that differs: {variables} variables; ")?,
            None => f.write_str("no checkpoint differs; ")?,
        }
        write!(f, "segment {}; first different variable: ", self.segment)?;
        one_of(f, &self.variables)?;
        f.write_str("; first met in row: ")?;
        one_of(f, &self.rows)?;
        match self.unsatisfied {
            Some(row) => write!(f, "; row {row} is not satisfied"),
            None => f.write_str("; all rows are satisfied, so the values began wrong"),
        }
    }
}

fn one_of(f: &mut fmt::Formatter<'_>, range: &Range<usize>) -> fmt::Result {
    match range.len() {
        0 => f.write_str("none"),
        1 => write!(f, "{}", range.start),
        _ => write!(f, "one of {} to {}", range.start, range.end - 1),
    }
}

/// A running digest that the record gives.
struct Mark {
    variables: usize,
    digest: String,
    is_checkpoint: bool,
}

/// All marks in order, the last of them at the end. A malformed record is a mistake of the test's.
fn marks(recorded: &Value) -> Vec<Mark> {
    let list = |key: &str| recorded[key].as_array().into_iter().flatten();
    let mark = |variables: &Value, digest: &Value, is_checkpoint| Mark {
        variables: number(variables),
        digest: digest.as_str().expect("a digest").to_owned(),
        is_checkpoint,
    };
    let checkpoints = list("aux_checkpoints").map(|c| mark(&c[0], &c[1], true));
    let segments = list("aux_digest_at_segment_end").map(|s| mark(&s[1], &s[2], false));
    let all = mark(&recorded["aux"], &recorded["aux_sha256"], false);
    let mut marks: Vec<Mark> = checkpoints.chain(segments).chain([all]).collect();
    marks.sort_by_key(|mark| mark.variables);
    marks
}

fn number(value: &Value) -> usize {
    usize::try_from(value.as_u64().expect("a count")).expect("a count fits")
}

/// The first difference between the recorded auxiliary values and those found, which `circuit` gave; `None` if there is none.
/// One pass over the values; the circuit is walked once more only where they differ.
///
/// # Panics
/// If the record is malformed, or counts other variables: counts are compared first.
pub fn difference(
    recorded: &Value,
    circuit: &impl Circuit,
    found: &Assignment,
) -> Option<Difference> {
    let marks = marks(recorded);
    let (mut hasher, mut done) = (Sha256::new(), 0);
    let mut differs = |mark: &&Mark| {
        let more = &found.aux[done..mark.variables];
        more.iter()
            .for_each(|value| hasher.update(node_from_fr(value)));
        done = mark.variables;
        !hex::encode(hasher.clone().finalize()).starts_with(&mark.digest)
    };
    let first = marks.iter().position(|mark| differs(&mark))?;
    let end = marks[first].variables;
    let before = marks.iter().map(|mark| mark.variables);
    let start = before.filter(|&variables| variables < end).max();
    let start = start.unwrap_or(0);
    let checkpoint = marks[first..].iter().find(|mark| mark.is_checkpoint);
    let variables = exactly(recorded, found, start..end).map_or(start..end, |at| at..at + 1);

    let mut met = Met {
        counts: Counts::EMPTY,
        found,
        variables: variables.clone(),
        first: vec![None; variables.len()],
        unsatisfied: None,
    };
    circuit.synthesize(&mut met);
    let rows = || met.first.iter().flatten().copied();
    let rows = rows().min().unwrap_or(0)..rows().max().map_or(0, |last| last + 1);
    Some(Difference {
        checkpoint: checkpoint.map(|mark| mark.variables),
        segment: segment_of(recorded, variables.start),
        variables,
        rows,
        unsatisfied: met.unsatisfied,
    })
}

/// The assignment that `circuit` gives, if its counts, inputs and auxiliary values are the recorded ones; or what differs.
///
/// # Panics
/// If the record is malformed.
pub fn compare(recorded: &Value, circuit: &impl Circuit) -> Result<Assignment, String> {
    let found = Assignment::of(circuit);
    let counts = [
        ("inputs", found.inputs.len()),
        ("aux", found.aux.len()),
        ("constraints", found.counts.constraints),
    ];
    for (what, count) in counts {
        let wanted = number(&recorded[what]);
        if count != wanted {
            return Err(format!("{what}: {count}, recorded are {wanted}"));
        }
    }
    // First, because it says where: an input mostly differs with auxiliary values.
    if let Some(difference) = difference(recorded, circuit, &found) {
        return Err(difference.to_string());
    }
    let mut hasher = Sha256::new();
    for value in &found.inputs {
        hasher.update(node_from_fr(value));
    }
    match hex::encode(hasher.finalize()) == recorded["input_sha256"] {
        true => Ok(found),
        false => Err("a public input differs".to_owned()),
    }
}

/// The first of `variables` that differs, where the record holds the values themselves.
fn exactly(recorded: &Value, found: &Assignment, variables: Range<usize>) -> Option<usize> {
    let values = recorded["first_64_aux"].as_array()?;
    let differs = |at: &usize| values.get(*at).is_some_and(|v| value(v) != found.aux[*at]);
    variables.into_iter().find(differs)
}

/// A small number, or big-endian hex without leading zeros.
fn value(value: &Value) -> Fr {
    if let Some(small) = value.as_u64() {
        return Fr::from(small);
    }
    let text = format!("{:0>64}", value.as_str().expect("a number or hex"));
    Fr::from_be_bytes_mod_order(&hex::decode(text).expect("hex"))
}

/// The innermost listed segment around a variable: that which ends first behind it; of nested ones that end together, the one
/// with the longest name.
fn segment_of(recorded: &Value, variable: usize) -> String {
    let segments = recorded["aux_digest_at_segment_end"].as_array();
    let ends = segments.into_iter().flatten().filter_map(|segment| {
        let (name, end) = (segment[0].as_str()?, number(&segment[1]));
        (end > variable).then_some((end, std::cmp::Reverse(name.len()), name))
    });
    ends.min()
        .map_or("outside all", |(.., name)| name)
        .to_owned()
}

/// Walks the rows with values that are given, not the circuit's own.
struct Met<'a> {
    counts: Counts,
    found: &'a Assignment,
    variables: Range<usize>,
    /// Of each of the variables, the first row that has it.
    first: Vec<Option<usize>>,
    unsatisfied: Option<usize>,
}

impl Met<'_> {
    fn sum(&self, side: &[Term]) -> Fr {
        let of = |var: Var| match var.is_aux() {
            true => self.found.aux[var.index()],
            false => self.found.inputs[var.index()],
        };
        let terms = side.iter().map(|(var, factor)| (of(*var), factor));
        terms.fold(Fr::ZERO, |sum, (value, factor)| match *factor == Fr::ONE {
            true => sum + value,
            false => sum + value * factor,
        })
    }
}

impl ConstraintSystem for Met<'_> {
    fn aux(&mut self, _: Fr) -> Var {
        self.counts.next_aux()
    }
    fn input(&mut self, _: Fr) -> Var {
        self.counts.next_input()
    }
    fn row(&mut self, a: &[Term], b: &[Term], c: &[Term]) {
        let row = self.counts.constraints;
        self.counts.constraints += 1;
        for (var, _) in [a, b, c].into_iter().flatten() {
            if var.is_aux() && self.variables.contains(&var.index()) {
                self.first[var.index() - self.variables.start].get_or_insert(row);
            }
        }
        if self.unsatisfied.is_none() && self.sum(a) * self.sum(b) != self.sum(c) {
            self.unsatisfied = Some(row);
        }
    }
}
