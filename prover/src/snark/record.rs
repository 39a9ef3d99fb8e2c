//! Listeners that record a circuit: its counts, its canonical digest, which variables occur, its
//! matrices.
//!
//! Spec: `vectors/r1cs/README.md` §2. The digest is what "constraint for constraint Filecoin's"
//! means: SHA-256 over every row in canonical form. [`super::keys`] stores it with each key (threat
//! S4); the tests compare it, and its checkpoints, with the digests recorded from Filecoin.
//! Cost: the digest of PoRep 8 MiB (3.8 million rows) takes about two seconds.

use ark_bls12_381::Fr;
use ark_ff::{AdditiveGroup, PrimeField};
use sha2::{Digest, Sha256};

use super::cs::{Circuit, ConstraintSystem, Term, Var};

/// How large a circuit is. Inputs include the constant one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Counts {
    /// Inputs, the constant one among them.
    pub inputs: usize,
    /// Auxiliary variables.
    pub aux: usize,
    /// Rows of the circuit itself.
    pub constraints: usize,
}

impl Counts {
    /// No rows and the constant one.
    pub const EMPTY: Counts = Counts {
        inputs: 1,
        aux: 0,
        constraints: 0,
    };

    /// Size of the evaluation domain: the rows and one more per input (`r1cs/README.md` §2),
    /// rounded up to a power of two.
    pub fn domain(&self) -> usize {
        (self.constraints + self.inputs).next_power_of_two()
    }

    /// Sizes of what comes after `before`, in `parts` equal parts: of each part. `None` if there is no such cut.
    pub(super) fn cut(&self, before: Counts, parts: usize) -> Option<Counts> {
        let each = |all: usize, before: usize| -> Option<usize> {
            let rest = all.checked_sub(before)?;
            (parts > 0 && rest % parts == 0).then(|| rest / parts)
        };
        Some(Counts {
            inputs: each(self.inputs, before.inputs)?,
            aux: each(self.aux, before.aux)?,
            constraints: each(self.constraints, before.constraints)?,
        })
    }

    pub(crate) fn next_aux(&mut self) -> Var {
        let var = Var::aux(u32::try_from(self.aux).expect("variable indexes fit 31 bits"));
        self.aux += 1;
        var
    }

    pub(crate) fn next_input(&mut self) -> Var {
        let var = Var::input(u32::try_from(self.inputs).expect("variable indexes fit 31 bits"));
        self.inputs += 1;
        var
    }
}

/// Counts, and the values of the run.
#[derive(Clone, Debug)]
pub struct Assignment {
    /// Sizes so far.
    pub counts: Counts,
    /// Input values; the constant one first.
    pub inputs: Vec<Fr>,
    /// Auxiliary values.
    pub aux: Vec<Fr>,
}

impl Default for Assignment {
    fn default() -> Self {
        Assignment {
            counts: Counts::EMPTY,
            inputs: vec![Fr::from(1u64)],
            aux: Vec::new(),
        }
    }
}

impl Assignment {
    /// Runs a circuit for its values.
    pub fn of(circuit: &impl Circuit) -> Assignment {
        let mut cs = Assignment::default();
        circuit.synthesize(&mut cs);
        cs
    }
}

impl ConstraintSystem for Assignment {
    const ROWS: bool = false;
    fn aux(&mut self, value: Fr) -> Var {
        self.aux.push(value);
        self.counts.next_aux()
    }
    fn input(&mut self, value: Fr) -> Var {
        self.inputs.push(value);
        self.counts.next_input()
    }
    fn row(&mut self, _: &[Term], _: &[Term], _: &[Term]) {
        self.counts.constraints += 1;
    }
}

/// Digests the rows, and keeps the running digest at chosen rows.
pub struct RowDigest {
    /// Sizes so far.
    pub counts: Counts,
    hasher: Sha256,
    marks: std::collections::BTreeMap<usize, [u8; 32]>,
    wanted: Vec<usize>,
    side: Vec<Term>,
    bytes: Vec<u8>,
}

impl RowDigest {
    /// Also keeps the digests of the first `n` rows for every `n` in `marks`.
    pub fn with_marks(mut marks: Vec<usize>) -> RowDigest {
        marks.sort_unstable_by(|a, b| b.cmp(a));
        marks.dedup();
        marks.retain(|rows| *rows > 0);
        RowDigest {
            counts: Counts::EMPTY,
            hasher: Sha256::new(),
            marks: Default::default(),
            wanted: marks,
            side: Vec::new(),
            bytes: Vec::new(),
        }
    }

    /// The digest of all rows.
    pub fn finish(&self) -> [u8; 32] {
        self.hasher.clone().finalize().into()
    }

    /// The running digest after `rows` rows, if that row was marked and reached.
    pub fn mark(&self, rows: usize) -> Option<[u8; 32]> {
        self.marks.get(&rows).copied()
    }

    fn write_side(&mut self, side: &[Term]) {
        canonical(side, &mut self.side);
        // A row has at most as many terms as the circuit has variables, which fit 31 bits.
        self.bytes.extend((self.side.len() as u32).to_le_bytes());
        for (var, coefficient) in &self.side {
            self.bytes.push(u8::from(var.is_aux()));
            self.bytes.extend((var.index() as u32).to_le_bytes());
            for limb in coefficient.into_bigint().0 {
                self.bytes.extend(limb.to_le_bytes());
            }
        }
    }
}

impl ConstraintSystem for RowDigest {
    fn aux(&mut self, _: Fr) -> Var {
        self.counts.next_aux()
    }
    fn input(&mut self, _: Fr) -> Var {
        self.counts.next_input()
    }
    fn row(&mut self, a: &[Term], b: &[Term], c: &[Term]) {
        self.bytes.clear();
        for side in [a, b, c] {
            self.write_side(side);
        }
        self.hasher.update(&self.bytes);
        self.counts.constraints += 1;
        if self.wanted.last() == Some(&self.counts.constraints) {
            self.wanted.pop();
            self.marks.insert(self.counts.constraints, self.finish());
        }
    }
}

/// Equal variables merged, zeros dropped, inputs before auxiliaries, each by index.
pub fn canonical(side: &[Term], out: &mut Vec<Term>) {
    out.clear();
    out.extend_from_slice(side);
    out.sort_by_key(|(var, _)| *var);
    out.dedup_by(|next, kept| {
        let same = next.0 == kept.0;
        if same {
            kept.1 += next.1;
        }
        same
    });
    out.retain(|(_, coefficient)| *coefficient != Fr::ZERO);
}

/// Which auxiliary variables occur in A and in B: the points that a key holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Density {
    /// Sizes of the circuit.
    pub counts: Counts,
    /// Per auxiliary variable, whether it occurs in an A side.
    pub in_a: Vec<bool>,
    /// Per auxiliary variable, whether it occurs in a B side.
    pub in_b: Vec<bool>,
    /// Per input, whether it occurs in a B side. (All occur in A, by the appended rows.)
    pub inputs_in_b: Vec<bool>,
}

impl Default for Density {
    fn default() -> Self {
        Density {
            counts: Counts::EMPTY,
            in_a: Vec::new(),
            in_b: Vec::new(),
            inputs_in_b: vec![false],
        }
    }
}

impl Density {
    /// Listens to a circuit once.
    pub fn of(circuit: &impl Circuit) -> Density {
        let mut cs = Density::default();
        circuit.synthesize(&mut cs);
        cs
    }
}

impl ConstraintSystem for Density {
    fn aux(&mut self, _: Fr) -> Var {
        self.in_a.push(false);
        self.in_b.push(false);
        self.counts.next_aux()
    }
    fn input(&mut self, _: Fr) -> Var {
        self.inputs_in_b.push(false);
        self.counts.next_input()
    }
    fn row(&mut self, a: &[Term], b: &[Term], _: &[Term]) {
        self.counts.constraints += 1;
        let present = |terms: &[Term]| -> Vec<Var> {
            terms
                .iter()
                .filter(|(_, k)| *k != Fr::ZERO)
                .map(|(var, _)| *var)
                .collect()
        };
        for var in present(a).into_iter().filter(|var| var.is_aux()) {
            self.in_a[var.index()] = true;
        }
        for var in present(b) {
            let mask = if var.is_aux() {
                &mut self.in_b
            } else {
                &mut self.inputs_in_b
            };
            mask[var.index()] = true;
        }
    }
}

/// A row in canonical form: its A, B and C sides.
pub type Row = [Vec<Term>; 3];

/// All rows in canonical form, with the assignment: for small circuits and tests.
#[derive(Clone, Debug, Default)]
pub struct Matrices {
    /// The run's values and the counts.
    pub assignment: Assignment,
    /// The rows.
    pub rows: Vec<Row>,
}

impl Matrices {
    /// Value of a variable in this run.
    pub fn value(&self, var: Var) -> Fr {
        let values = if var.is_aux() {
            &self.assignment.aux
        } else {
            &self.assignment.inputs
        };
        values[var.index()]
    }

    /// The first row that the assignment does not satisfy.
    pub fn first_unsatisfied(&self) -> Option<usize> {
        let eval = |side: &[Term]| -> Fr { side.iter().map(|(var, k)| self.value(*var) * k).sum() };
        self.rows
            .iter()
            .position(|[a, b, c]| eval(a) * eval(b) != eval(c))
    }
}

impl ConstraintSystem for Matrices {
    fn aux(&mut self, value: Fr) -> Var {
        self.assignment.aux(value)
    }
    fn input(&mut self, value: Fr) -> Var {
        self.assignment.input(value)
    }
    fn row(&mut self, a: &[Term], b: &[Term], c: &[Term]) {
        self.assignment.row(a, b, c);
        self.rows.push([a, b, c].map(|side| {
            let mut out = Vec::new();
            canonical(side, &mut out);
            out
        }));
    }
}
