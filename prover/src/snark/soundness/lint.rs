//! Definedness: every variable is a declared hint or has a row that leaves it one value.
//!
//! The rows are walked in the order of synthesis and forgotten, but for those that wait for a sum's row (a few hundred).
//! A row may
//! * force one variable to 0 or 1;
//! * define the one new variable of side C, whose coefficient is not zero;
//! * define all bits of a decomposition of a known number that stands on side A, when each is forced to 0 or 1 and their weights
//!   are distinct powers of two below 2^254;
//! * define all new bits of a decomposition, when each is forced to 0 or 1, their weights are distinct powers of two, and
//!   the two sides, read as integers, are less than `r` apart, so that equality modulo `r` is equality;
//! * in a row of sums side by side (`MultiEq`), define bit `k` of side C as soon as everything on side A with a weight
//!   of at most 2^k is known, under the same conditions.
//!
//! Everything else is a finding and has to be on [`HINTS`], [`LOOSE`] or [`TIES`], by the source line that makes it.
//! A gate's output needs no bit row: that it is 0 or 1 is derived by trying all operands.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::panic::Location;

use ark_bls12_381::Fr;
use ark_ff::{BigInt, BigInteger, Field, PrimeField};
use rand::Rng;

use super::{Real, circuits};
use crate::snark::CircuitId;
use crate::snark::cs::{Circuit, ConstraintSystem, Term, Var};
use crate::snark::gadget::bits::{self, Bit};
use crate::snark::record::{Row, canonical};
use crate::snark::shape::Blank;
use crate::snark::testing::rng;
use crate::spec::SectorSize;

/// Rows that wait for a row of sums: some hundreds in a sound circuit. Beyond this many, they will wait for ever.
const MOST_WAITING: usize = 2_000;

/// File below `src/`, the line that makes the variable or row, and why the finding is none.
type Allowed = (&'static str, &'static str, &'static str);

/// Variables that no row defines: the witness that the statement says the prover knows.
const HINTS: [Allowed; 16] = [
    (
        "porep/circuit.rs",
        "let comm_r_last = Num::alloc(cs, self.comm_r_last);",
        "A preimage of CommR, the input: another one is a collision of Poseidon.
         One variable for all challenges, so no path can lead to another root.",
    ),
    (
        "porep/circuit.rs",
        "let comm_c = Num::alloc(cs, self.comm_c);",
        "The other half of the same preimage.
         One variable for all columns of all challenges.",
    ),
    (
        "porep/circuit.rs",
        "let data = Num::alloc(cs, self.data);",
        "Opened under CommD, an input, at the index of the challenge, an input.
         Another value is a collision of SHA-256 on the path.",
    ),
    (
        "porep/circuit.rs",
        ".map(|label| Num::alloc(cs, *label))",
        "Hashed by Poseidon to a column that opens under CommC at its parent's index.
         Another value is a collision in the column or on its path.",
    ),
    (
        "post/circuit.rs",
        "let comm_r_last = Num::alloc(cs, self.comm_r_last);",
        "A preimage of CommR, the input: another one is a collision of Poseidon.
         One variable for all leaves of the sector.",
    ),
    (
        "post/circuit.rs",
        "let comm_c = Num::alloc(cs, self.comm_c);",
        "The other half of the same preimage.
         A PoSt uses it nowhere else.",
    ),
    (
        "post/circuit.rs",
        "let leaf = Num::alloc(cs, opening.leaf);",
        "Opened under CommRLast at the index of the challenge, an input.
         Another value is a collision of Poseidon on the path.",
    ),
    (
        "update/circuit.rs",
        "let comm_c = Num::alloc(cs, self.comm_c);",
        "Half of the preimages of both CommR, inputs: another one is a collision of Poseidon.
         One variable for both, so the columns stay what they were.",
    ),
    (
        "update/circuit.rs",
        "let root_old = Num::alloc(cs, self.root_old);",
        "The other half of the old CommR's preimage.
         One variable for all challenges, so no path can lead to another root.",
    ),
    (
        "update/circuit.rs",
        "let root_new = Num::alloc(cs, self.root_new);",
        "The other half of the new CommR's preimage.
         One variable for all challenges.",
    ),
    (
        "update/circuit.rs",
        "let apex_leaves: Vec<Num> = apex_leaves.map(|leaf| Num::alloc(cs, *leaf)).collect();",
        "Hashed together and along the partition's path up to the new CommD, an input.
         Others with the same root are a collision of SHA-256.",
    ),
    (
        "update/circuit.rs",
        ".map(|sibling| vec![Num::alloc(cs, *sibling)])",
        "Siblings in TreeD, above and below the apex leaves: hashed up to a node that is tied.
         Others with the same root are a collision.",
    ),
    (
        "update/circuit.rs",
        "let old = Num::alloc(cs, self.old);",
        "Opened under the old root at the index that the new CommR draws.
         Another value is a collision of Poseidon on the path.",
    ),
    (
        "update/circuit.rs",
        "let data = Num::alloc(cs, self.data);",
        "Opened under its apex leaf at the same index.
         Another value is a collision of SHA-256 on the path.",
    ),
    (
        "update/circuit.rs",
        ".map(|level| level.iter().map(|node| Num::alloc(cs, *node)).collect())",
        "Siblings in both replicas, hashed up to roots that are tied.
         Others with the same root are a collision.",
    ),
    (
        "snark/gadget/merkle.rs",
        ".map(|value| Num::alloc(cs, *value))",
        "Siblings hash, together with the path's own node, up to a root that is tied.
         Other siblings with the same root are a collision.",
    ),
];

/// Decompositions whose bits can stand for the value plus `r`. The arguments stand at these lines of the circuits.
const LOOSE: [Allowed; 6] = [
    (
        "porep/circuit.rs",
        "let replica_id = hash_bits(cs, replica_id);",
        "The alias keys every label of the challenge by another string; the labels then miss the columns.
         Columns are committed before the seed is drawn.",
    ),
    (
        "porep/circuit.rs",
        ".map(|labels| hash_bits(cs, labels[layer]))",
        "The alias of a parent's label gives the challenged node another label, which misses its column and replica.
         Both are committed before the seed is drawn.",
    ),
    (
        "porep/circuit.rs",
        "let hashed = expander.map(|labels| hash_bits(cs, labels[layer - 1]));",
        "As above, for the expander parents in the layer below.
         The label is an output of SHA-256 either way, so the prover cannot choose it.",
    ),
    (
        "update/circuit.rs",
        "let bits = split_bits(cs, digest, spell(digest.value), FR_BITS);",
        "The alias of a digest draws other nodes of the same slice, as many; one digest in ten has one.
         A choice of two draws, where changing the replica gives any number of them.",
    ),
    (
        "snark/gadget/sha256.rs",
        "let mut message = hash_bits(cs, left);",
        "CommD is computed by the chain from pieces, of canonical nodes only; a path through an alias
         is a second preimage of one of its SHA-256 nodes.",
    ),
    (
        "snark/gadget/sha256.rs",
        "message.extend(hash_bits(cs, right));",
        "As above, for the right child.
         The two sides share no variable.",
    ),
];

/// Rows that define nothing and tie two known values: the statement itself. That none can be left out is shown one by one:
/// snark::soundness::flip, tm_p15_every_tie….
const TIES: [Allowed; 5] = [
    (
        "porep/circuit.rs",
        "comm_r.enforce_equal(cs, hash);",
        "CommR, the input, is the hash of the two roots that all paths lead to.
         Without the row the roots would be free.",
    ),
    (
        "post/circuit.rs",
        "comm_r.enforce_equal(cs, hash);",
        "CommR, the input, is the hash of the two roots.
         Without the row the replica's root would be free.",
    ),
    (
        "update/circuit.rs",
        "hash.enforce_equal(cs, comm_r_old);",
        "The old CommR, the input, is the hash of CommC and the old root.
         Without the row the old replica would be free.",
    ),
    (
        "update/circuit.rs",
        "hash.enforce_equal(cs, comm_r_new);",
        "The new CommR, the input, is the hash of CommC and the new root.
         Without the row the new replica would be free.",
    ),
    (
        "snark/gadget/merkle.rs",
        "node.enforce_equal(cs, root);",
        "The root computed along the path is the committed one.
         Without the row the leaf would be free.",
    ),
];

/// A source line that made a variable or a row: `porep/circuit.rs`, the line's text.
fn source_line(site: &Location<'_>) -> (String, String) {
    thread_local! {
        static FILES: std::cell::RefCell<HashMap<String, Vec<String>>> = Default::default();
    }
    let file = site.file().replace('\\', "/");
    let short = file
        .rsplit_once("src/")
        .map_or(&*file, |(_, f)| f)
        .to_owned();
    FILES.with_borrow_mut(|files| {
        let lines = files.entry(short.clone()).or_insert_with(|| {
            let path = format!("{}/src/{short}", env!("CARGO_MANIFEST_DIR"));
            let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
            text.lines().map(|line| line.trim().to_owned()).collect()
        });
        (short, lines[site.line() as usize - 1].clone())
    })
}

fn matches(site: &Location<'_>, allowed: &[Allowed]) -> bool {
    let (file, text) = source_line(site);
    allowed.iter().any(|(f, t, _)| *f == file && *t == text)
}

/// What the walk knows of one auxiliary variable.
#[derive(Clone, Copy, Default)]
struct Known {
    /// Whether the inputs and hints leave it one value.
    defined: bool,
    /// Whether it is 0 or 1 in every solution of the rows so far.
    boolean: bool,
}

/// Bits that the inputs define: indexes and challenges, packed into an input after their last use. A first walk finds
/// them, so that the second need not keep a whole path's rows until its index is packed.
#[derive(Default)]
struct FromInputs {
    inputs: u32,
    boolean: Vec<bool>,
    defined: Vec<bool>,
    skip: Option<usize>,
    rows: usize,
}

impl ConstraintSystem for FromInputs {
    fn aux(&mut self, _: Fr) -> Var {
        self.boolean.push(false);
        self.defined.push(false);
        Var::aux(narrow(self.defined.len() - 1))
    }
    fn input(&mut self, _: Fr) -> Var {
        self.inputs += 1;
        Var::input(self.inputs)
    }
    fn row(&mut self, a: &[Term], b: &[Term], c: &[Term]) {
        self.rows += 1;
        if self.skip == Some(self.rows - 1) {
            return;
        }
        if let Some(bit) = bit_row(a, b, c) {
            self.boolean[bit.index()] = true;
        }
        let ([(input, k)], true) = (c, is_one(b)) else {
            return;
        };
        if input.is_aux() || *k != Fr::ONE {
            return;
        }
        let mut side = Vec::new();
        canonical(a, &mut side);
        if let Some(bits) = clean_bits(&side, |v| v.is_aux() && self.boolean[v.index()]) {
            bits.into_iter()
                .for_each(|v| self.defined[v.index()] = true);
        }
    }
}

/// The variables of a sum, if all are bits with distinct powers of two whose total is below `r`.
fn clean_bits(side: &[Term], is_bit: impl Fn(Var) -> bool) -> Option<Vec<Var>> {
    let weights: BTreeSet<u32> = side.iter().filter_map(|(_, k)| power_of_two(*k)).collect();
    // The largest total of distinct powers up to 2^253 is 2^254 − 1, which is below r.
    let below = weights.last().is_none_or(|top| *top <= 253);
    (below && weights.len() == side.len() && side.iter().all(|(v, _)| is_bit(*v)))
        .then(|| side.iter().map(|(v, _)| *v).collect())
}

fn narrow(index: usize) -> u32 {
    u32::try_from(index).expect("variable indexes fit 31 bits")
}

fn is_one(side: &[Term]) -> bool {
    side == [(Var::ONE, Fr::ONE)]
}

/// The variable of a row `1 − v | v | 0`.
fn bit_row(a: &[Term], b: &[Term], c: &[Term]) -> Option<Var> {
    match (a, b, c) {
        ([(Var::ONE, k), (v, m)], [(w, l)], [])
            if v == w && v.is_aux() && (*k, *m, *l) == (Fr::ONE, -Fr::ONE, Fr::ONE) =>
        {
            Some(*v)
        }
        _ => None,
    }
}

/// The exponent, if the coefficient is a power of two.
fn power_of_two(k: Fr) -> Option<u32> {
    let words = k.into_bigint().0;
    (words.iter().map(|w| w.count_ones()).sum::<u32>() == 1).then(|| trailing_zeros(&words))
}

fn trailing_zeros(words: &[u64; 4]) -> u32 {
    let zeros = words.iter().take_while(|w| **w == 0).count();
    64 * narrow(zeros) + words.get(zeros).map_or(0, |w| w.trailing_zeros())
}

/// A coefficient as an integer of either sign, nearer to zero.
fn signed(k: Fr) -> (bool, BigInt<4>) {
    let (k, negated) = (k.into_bigint(), (-k).into_bigint());
    if k <= negated {
        (false, k)
    } else {
        (true, negated)
    }
}

fn small(k: Fr) -> Option<i64> {
    let (negative, k) = signed(k);
    let k = (k.0[1..] == [0; 3] && k.0[0] < 1 << 20).then(|| k.0[0].cast_signed())?;
    Some(if negative { -k } else { k })
}

/// Whether the sides of `A = C` differ by less than `r` for all values of their bits: then equality modulo `r` is equality.
fn is_integer_equality(a: &[Term], c: &[Term]) -> bool {
    let (mut above, mut below) = (BigInt::<4>::zero(), BigInt::<4>::zero());
    let mut overflow = false;
    for (side, flip) in [(a, false), (c, true)] {
        for (_, k) in side {
            let (negative, k) = signed(*k);
            let sum = if negative == flip {
                &mut above
            } else {
                &mut below
            };
            overflow |= sum.add_with_carry(&k);
        }
    }
    !overflow && above < Fr::MODULUS && below < Fr::MODULUS
}

/// What is left to complain about, and how it went.
#[derive(Default)]
struct Findings {
    /// Allowed hints, decompositions and ties that occurred, and how often.
    used: BTreeMap<(String, String), usize>,
    /// Everything that is not allowed.
    complaints: Vec<String>,
    /// The most rows that waited at one time.
    most_waiting: usize,
}

struct Lint {
    inputs: u32,
    known: Vec<Known>,
    from_inputs: Vec<bool>,
    hints: &'static [Allowed],
    loose: &'static [Allowed],
    ties: &'static [Allowed],
    /// Verdicts on source lines met so far, by address.
    sites: HashMap<(usize, *const u8, u32, u32), bool>,
    waiting: Vec<(Row, &'static Location<'static>)>,
    previous: Row,
    rows: usize,
    skip: Option<usize>,
    findings: Findings,
}

/// Walks a circuit, all rows but `skip`.
fn lint(circuit: &impl Circuit, skip: Option<usize>) -> Findings {
    lint_with(circuit, skip, &HINTS, &LOOSE, &TIES)
}

fn lint_with(
    circuit: &impl Circuit,
    skip: Option<usize>,
    hints: &'static [Allowed],
    loose: &'static [Allowed],
    ties: &'static [Allowed],
) -> Findings {
    let mut first = FromInputs {
        skip,
        ..FromInputs::default()
    };
    circuit.synthesize(&mut first);
    let mut walk = Lint {
        inputs: 0,
        known: Vec::with_capacity(first.defined.len()),
        from_inputs: first.defined,
        hints,
        loose,
        ties,
        sites: HashMap::new(),
        waiting: Vec::new(),
        previous: Row::default(),
        rows: 0,
        skip,
        findings: Findings::default(),
    };
    circuit.synthesize(&mut walk);
    walk.finish()
}

impl ConstraintSystem for Lint {
    #[track_caller]
    fn aux(&mut self, _: Fr) -> Var {
        let index = self.known.len();
        let hint = self.allowed(Location::caller(), 0);
        self.known.push(Known {
            defined: hint || self.from_inputs[index],
            boolean: false,
        });
        Var::aux(narrow(index))
    }

    fn input(&mut self, _: Fr) -> Var {
        self.inputs += 1;
        Var::input(self.inputs)
    }

    #[track_caller]
    fn row(&mut self, a: &[Term], b: &[Term], c: &[Term]) {
        let site = Location::caller();
        self.rows += 1;
        if self.skip == Some(self.rows - 1) {
            return;
        }
        if let Some(bit) = bit_row(a, b, c) {
            self.known[bit.index()].boolean = true;
            return;
        }
        let row = [a, b, c].map(|side| {
            let mut out = Vec::with_capacity(side.len());
            canonical(side, &mut out);
            out
        });
        self.derive_boolean(&row);
        self.previous.clone_from(&row);
        if !self.has_unknown(&row) {
            self.tie(&row, site);
            return;
        }
        let is_sums = row[2].len() > 4;
        if !self.define(&row, site) {
            self.waiting.push((row, site));
            self.findings.most_waiting = self.findings.most_waiting.max(self.waiting.len());
        }
        // Only a row of sums defines what earlier rows wait for.
        if is_sums && self.waiting.len() < MOST_WAITING {
            self.settle_waiting();
        }
    }
}

impl Lint {
    /// Whether a line is on list 0, 1 or 2; counts it.
    fn allowed(&mut self, site: &'static Location<'static>, list: usize) -> bool {
        let key = (list, site.file().as_ptr(), site.line(), site.column());
        let lists = [self.hints, self.loose, self.ties];
        let allowed = *self
            .sites
            .entry(key)
            .or_insert_with(|| matches(site, lists[list]));
        if allowed {
            *self.findings.used.entry(source_line(site)).or_default() += 1;
        }
        allowed
    }

    fn is_unknown(&self, v: Var) -> bool {
        v.is_aux() && !self.known[v.index()].defined
    }

    fn has_unknown(&self, row: &Row) -> bool {
        row.iter().flatten().any(|(v, _)| self.is_unknown(*v))
    }

    /// A row over known values: an equality on the list, or the packing of an index that the first walk used.
    fn tie(&mut self, [a, _, c]: &Row, site: &'static Location<'static>) {
        let packs = matches!(&c[..], [(input, _)] if !input.is_aux())
            && a.iter()
                .all(|(v, _)| v.is_aux() && self.from_inputs[v.index()]);
        if !packs && !self.allowed(site, 2) {
            let line = source_line(site);
            let what = format!("row {} defines nothing: {line:?}", self.rows - 1);
            self.findings.complaints.push(what);
        }
    }

    /// Whether the row defined all that it holds.
    fn define(&mut self, row: &Row, site: &'static Location<'static>) -> bool {
        let [a, b, c] = row;
        if b.iter().any(|(v, _)| self.is_unknown(*v)) {
            return false;
        }
        let unknown: Vec<Term> = c
            .iter()
            .filter(|(v, _)| self.is_unknown(*v))
            .copied()
            .collect();
        let a_known = !a.iter().any(|(v, _)| self.is_unknown(*v));
        if let (true, [(v, _)]) = (a_known, &unknown[..]) {
            self.known[v.index()].defined = true;
            return true;
        }
        if unknown.is_empty() && is_one(b) {
            return self.define_split(a, site);
        }
        let bits = unknown.iter().all(|(v, _)| self.known[v.index()].boolean);
        let weights: BTreeSet<u32> = unknown
            .iter()
            .filter_map(|(_, k)| power_of_two(*k))
            .collect();
        if unknown.is_empty() || !bits || weights.len() != unknown.len() {
            return false;
        }
        if a_known && a.is_empty() && b.is_empty() {
            // The number on the other side is known, and 255 bits reach beyond r.
            if self.allowed(site, 1) {
                unknown
                    .iter()
                    .for_each(|(v, _)| self.known[v.index()].defined = true);
            }
            return !self.has_unknown(row);
        }
        let all_bits = |side: &[Term]| {
            side.iter()
                .all(|(v, _)| *v == Var::ONE || v.is_aux() && self.known[v.index()].boolean)
        };
        // 2^254 is nearer to r than to zero: it would count as negative below.
        let small = weights.last().is_none_or(|top| *top <= 253);
        if !small || !is_one(b) || !all_bits(a) || !all_bits(c) || !is_integer_equality(a, c) {
            return false;
        }
        let lowest_unknown = a
            .iter()
            .filter(|(v, _)| self.is_unknown(*v))
            .map(|(_, k)| trailing_zeros(&signed(*k).1.0))
            .min();
        for (v, k) in unknown {
            if lowest_unknown.is_none_or(|lowest| trailing_zeros(&k.into_bigint().0) < lowest) {
                self.known[v.index()].defined = true;
            }
        }
        !self.has_unknown(row)
    }

    /// The update's decompositions, `Σ 2^i·b_i | 1 | n` with the number known: the bits, if their sum stays below r or the line
    /// is on the list of loose ones.
    fn define_split(&mut self, a: &[Term], site: &'static Location<'static>) -> bool {
        let is_bit = |v: Var| v.is_aux() && self.known[v.index()].boolean;
        let distinct: BTreeSet<u32> = a.iter().filter_map(|(_, k)| power_of_two(*k)).collect();
        let spells = distinct.len() == a.len() && a.iter().all(|(v, _)| is_bit(*v));
        let sound = spells && (clean_bits(a, is_bit).is_some() || self.allowed(site, 1));
        if sound {
            a.iter()
                .for_each(|(v, _)| self.known[v.index()].defined = true);
        }
        sound
    }

    /// Goes round the waiting rows until nothing new is defined.
    fn settle_waiting(&mut self) {
        let mut progress = true;
        while progress {
            let unknown = |lint: &Lint, row: &Row| {
                row.iter()
                    .flatten()
                    .filter(|(v, _)| lint.is_unknown(*v))
                    .count()
            };
            progress = false;
            for (row, site) in std::mem::take(&mut self.waiting) {
                let before = unknown(self, &row);
                if before == 0 {
                    // Another row defined what this one waited for.
                    self.tie(&row, site);
                } else if self.define(&row, site) {
                    progress = true;
                } else {
                    progress |= unknown(self, &row) < before;
                    self.waiting.push((row, site));
                }
            }
        }
    }

    /// Derives that a gate's output is 0 or 1, by trying every value of its operands. The row before counts as well: the
    /// majority's helper is the conjunction of two of its operands.
    fn derive_boolean(&mut self, row: &Row) {
        let mut vars: Vec<Var> = row
            .iter()
            .flatten()
            .map(|(v, _)| *v)
            .filter(|v| v.is_aux())
            .collect();
        vars.sort_unstable();
        vars.dedup();
        let mut open = vars
            .iter()
            .copied()
            .filter(|v| !self.known[v.index()].boolean);
        let (Some(result), None) = (open.next(), open.next()) else {
            return;
        };
        if vars.len() > 5 || row[..2].iter().flatten().any(|(v, _)| *v == result) {
            return;
        }
        let operands: Vec<Var> = vars.iter().copied().filter(|v| *v != result).collect();
        let Some(row) = Gate::of(row, &vars) else {
            return;
        };
        let inside = |(v, _): &Term| *v == Var::ONE || operands.contains(v);
        let context = self.previous.iter().flatten().all(inside);
        let context = context.then(|| Gate::of(&self.previous, &vars)).flatten();
        let at = vars.iter().position(|v| *v == result).expect("one of them");
        let boolean = (0..1u32 << operands.len()).all(|choice| {
            let mut values: Vec<i64> = (0..operands.len())
                .map(|i| i64::from(choice >> i & 1))
                .collect();
            values.insert(at, 0);
            if context.as_ref().is_some_and(|c| c.excess(&values) != 0) {
                return true;
            }
            // The row is linear in the result, whose coefficient is ±1 here.
            let k = row.sides[2]
                .iter()
                .find(|(v, _)| *v == at + 1)
                .map_or(0, |t| t.1);
            k.abs() == 1 && [0, 1].contains(&(row.excess(&values) * k))
        });
        self.known[result.index()].boolean = boolean;
    }

    fn finish(mut self) -> Findings {
        if self.waiting.len() < MOST_WAITING {
            self.settle_waiting();
        }
        for (row, site) in std::mem::take(&mut self.waiting) {
            let line = source_line(site);
            let open = row
                .iter()
                .flatten()
                .filter(|(v, _)| self.is_unknown(*v))
                .count();
            if open == 0 {
                self.tie(&row, site);
            } else {
                let what = format!("a row leaves {open} variables open: {line:?}");
                self.findings.complaints.push(what);
            }
        }
        let open = self.known.iter().filter(|known| !known.defined).count();
        if let Some(first) = self.known.iter().position(|known| !known.defined) {
            let what = format!("{open} variables have no defining row, first aux {first}");
            self.findings.complaints.push(what);
        }
        self.findings
    }
}

/// A row with small coefficients over a few variables: position 0 is the constant one.
struct Gate {
    sides: [Vec<(usize, i64)>; 3],
}

impl Gate {
    fn of(row: &Row, vars: &[Var]) -> Option<Gate> {
        let position = |v: Var| {
            let at = vars.iter().position(|x| *x == v).map(|i| i + 1);
            if v == Var::ONE { Some(0) } else { at }
        };
        let side = |terms: &Vec<Term>| -> Option<Vec<(usize, i64)>> {
            terms
                .iter()
                .map(|(v, k)| Some((position(*v)?, small(*k)?)))
                .collect()
        };
        let [a, b, c] = row;
        Some(Gate {
            sides: [side(a)?, side(b)?, side(c)?],
        })
    }

    /// `A·B − C`.
    fn excess(&self, values: &[i64]) -> i64 {
        let value = |at: usize| if at == 0 { 1 } else { values[at - 1] };
        let [a, b, c] = self
            .sides
            .each_ref()
            .map(|side| -> i64 { side.iter().map(|(at, k)| value(*at) * k).sum() });
        a * b - c
    }
}

fn assert_clean(name: &str, findings: &Findings) {
    assert!(
        findings.complaints.is_empty(),
        "{name}: {} findings: {:#?}",
        findings.complaints.len(),
        &findings.complaints[..findings.complaints.len().min(8)]
    );
}

/// Every row of the four circuits. The allow-lists are exactly what they use: a stale entry fails as well.
#[test]
fn tm_p15_every_variable_of_the_whole_circuits_is_defined() {
    let mut used = BTreeSet::new();
    for circuit in circuits() {
        let findings = lint(&Blank::new(circuit), None);
        assert_clean(&circuit.to_string(), &findings);
        assert!(
            findings.most_waiting < MOST_WAITING,
            "{circuit}: {}",
            findings.most_waiting
        );
        used.extend(findings.used.into_keys());
    }
    let listed: BTreeSet<(String, String)> = [&HINTS[..], &LOOSE, &TIES]
        .concat()
        .iter()
        .map(|(file, text, _)| ((*file).to_owned(), (*text).to_owned()))
        .collect();
    assert_eq!(used, listed);
}

/// The same rows with a witness: rows must not depend on values.
#[test]
fn tm_p15_findings_do_not_depend_on_the_witness() {
    for circuit in &circuits()[..2] {
        let (blank, real) = (Blank::new(*circuit), Real::new(*circuit));
        assert_eq!(lint(&blank, None).used, lint(&real, None).used, "{circuit}");
    }
}

/// The argument why a loose decomposition is harmless stands beside it in the circuit.
#[test]
fn tm_p15_loose_decompositions_are_argued_where_they_stand() {
    for (file, text, _) in LOOSE {
        let path = format!("{}/src/{file}", env!("CARGO_MANIFEST_DIR"));
        let source = std::fs::read_to_string(&path).expect("our own source");
        let lines: Vec<&str> = source.lines().map(str::trim).collect();
        let at = lines
            .iter()
            .position(|line| *line == text)
            .expect("the call site");
        let above = &lines[at.saturating_sub(8)..at];
        assert!(
            above.iter().any(|line| line.starts_with("// Loose (P15):")),
            "{file}:{}: no argument above",
            at + 1
        );
    }
}

/// A circuit with each of some rows left out in turn: the walk notices all but ties, which [`super::flip`] answers for.
fn assert_deletions_are_flagged(circuit: CircuitId, deletions: usize, seed: u64) {
    let blank = Blank::new(circuit);
    let rows = crate::snark::shape::pinned(circuit).counts.constraints;
    let ties = TieRows::of(&blank);
    let mut rng = rng(seed);
    for _ in 0..deletions {
        let row = rng.gen_range(0..rows);
        if ties.contains(&row) {
            continue;
        }
        let findings = lint(&blank, Some(row));
        assert!(
            !findings.complaints.is_empty(),
            "{circuit}: row {row} can go unnoticed (seed {seed})"
        );
    }
}

/// Rows made by a line of [`TIES`].
#[derive(Default)]
struct TieRows {
    counts: [usize; 3],
    rows: BTreeSet<usize>,
}

impl TieRows {
    fn of(circuit: &impl Circuit) -> BTreeSet<usize> {
        let mut cs = TieRows::default();
        circuit.synthesize(&mut cs);
        cs.rows
    }
}

impl ConstraintSystem for TieRows {
    fn aux(&mut self, _: Fr) -> Var {
        self.counts[0] += 1;
        Var::aux(narrow(self.counts[0] - 1))
    }
    fn input(&mut self, _: Fr) -> Var {
        self.counts[1] += 1;
        Var::input(narrow(self.counts[1]))
    }
    #[track_caller]
    fn row(&mut self, a: &[Term], b: &[Term], c: &[Term]) {
        if matches!((a, c), ([_], [_])) && is_one(b) && matches(Location::caller(), &TIES) {
            self.rows.insert(self.counts[2]);
        }
        self.counts[2] += 1;
    }
}

#[test]
fn tm_p15_a_deleted_row_is_flagged() {
    assert_deletions_are_flagged(CircuitId::window(SectorSize::Kib2), 60, 1);
    assert_deletions_are_flagged(CircuitId::winning(SectorSize::Kib2), 10, 2);
}

/// `cargo test -p prover -- --ignored`
#[test]
#[ignore = "minutes; the bounded sample runs always, the full one by `cargo test -p prover -- --ignored`"]
fn tm_p15_a_deleted_row_is_flagged_full() {
    assert_deletions_are_flagged(CircuitId::window(SectorSize::Kib2), 3_000, 3);
    assert_deletions_are_flagged(CircuitId::winning(SectorSize::Kib2), 300, 4);
    assert_deletions_are_flagged(CircuitId::porep(SectorSize::Kib2), 24, 5);
    assert_deletions_are_flagged(CircuitId::update(SectorSize::Kib2), 24, 6);
}

/// A circuit made of a closure over a few variables.
struct Small<F>(F);

impl<F: Fn(&mut dyn Listener) + Sync> Circuit for Small<F> {
    fn synthesize<CS: ConstraintSystem>(&self, cs: &mut CS) {
        (self.0)(&mut Dyn(cs));
    }
}

/// [`ConstraintSystem`] behind a reference, for closures. Hints are the variables of `hint`.
trait Listener {
    fn hint(&mut self) -> Var;
    fn derived(&mut self) -> Var;
    fn bit(&mut self) -> Var;
    fn enforce(&mut self, a: &[Term], b: &[Term], c: &[Term]);
}

struct Dyn<'a, CS>(&'a mut CS);

const SMALL_HINTS: [Allowed; 1] = [("snark/soundness/lint.rs", "self.0.aux(Fr::ONE) // hint", "")];

impl<CS: ConstraintSystem> Listener for Dyn<'_, CS> {
    fn hint(&mut self) -> Var {
        self.0.aux(Fr::ONE) // hint
    }
    fn derived(&mut self) -> Var {
        self.0.aux(Fr::ONE)
    }
    fn bit(&mut self) -> Var {
        let Bit::Var { var, .. } = Bit::alloc(self.0, true) else {
            unreachable!("bits are variables")
        };
        var
    }
    fn enforce(&mut self, a: &[Term], b: &[Term], c: &[Term]) {
        self.0.row(a, b, c);
    }
}

fn complaints(circuit: impl Fn(&mut dyn Listener) + Sync) -> usize {
    lint_with(&Small(circuit), None, &SMALL_HINTS, &[], &[])
        .complaints
        .len()
}

/// Bugs of the kinds that were found elsewhere, each beside its sound twin: the walk tells them apart.
#[test]
fn tm_p15_known_kinds_of_bugs_are_flagged() {
    let (one, minus) = (Fr::ONE, -Fr::ONE);
    let power = |i: u32| bits::powers_of_two()[i as usize];
    let unit = [(Var::ONE, one)];
    // A product, and a product whose row is missing.
    assert_eq!(
        complaints(|cs| {
            let (x, y) = (cs.hint(), cs.derived());
            cs.enforce(&[(x, one)], &[(x, one)], &[(y, one)]);
        }),
        0
    );
    assert!(complaints(|cs| _ = (cs.hint(), cs.derived())) > 0);
    // A quotient: the factor may be zero, and then the result is free (arkworks' mul_by_inverse).
    assert!(
        complaints(|cs| {
            let (x, d, q) = (cs.hint(), cs.hint(), cs.derived());
            cs.enforce(&[(q, one)], &[(d, one)], &[(x, one)]);
        }) > 0
    );
    // A decomposition into `width` bits on side C, of which `bare` lack their bit row.
    let decompose = |width: u32, bare: u32, top: u32| {
        complaints(move |cs| {
            let x = [cs.bit(), cs.bit()];
            for bit in x {
                // Known: each equals a hint.
                let hint = cs.hint();
                cs.enforce(&[(hint, one)], &[(Var::ONE, one)], &[(bit, one)]);
            }
            let out: Vec<Term> = (0..width)
                .map(|i| {
                    let bit = if i < bare { cs.derived() } else { cs.bit() };
                    (bit, power(if i + 1 == width { top } else { i }))
                })
                .collect();
            cs.enforce(&[(x[0], one), (x[1], one)], &[(Var::ONE, one)], &out);
        })
    };
    assert_eq!(decompose(2, 0, 1), 0);
    assert_eq!(decompose(3, 0, 253), 0);
    assert!(decompose(2, 2, 1) > 0, "no bit rows");
    assert!(decompose(2, 0, 0) > 0, "two bits of one weight");
    let full: Vec<u32> = (0..255).collect();
    assert!(
        complaints(move |cs| {
            let bit = cs.bit();
            let hint = cs.hint();
            cs.enforce(&[(hint, one)], &[(Var::ONE, one)], &[(bit, one)]);
            let out: Vec<Term> = full.iter().map(|i| (cs.bit(), power(*i))).collect();
            cs.enforce(&[(bit, one)], &[(Var::ONE, one)], &out);
        }) > 0,
        "255 bits reach beyond r"
    );
    // The same on side A, of a known number.
    let split = |width: u32, bare: u32| {
        complaints(move |cs| {
            let x = cs.hint();
            let out: Vec<Term> = (0..width)
                .map(|i| {
                    let bit = if i < bare { cs.derived() } else { cs.bit() };
                    (bit, power(i))
                })
                .collect();
            cs.enforce(&out, &unit, &[(x, one)]);
        })
    };
    assert_eq!(split(254, 0), 0);
    assert!(split(2, 1) > 0, "a bit without its row");
    assert!(split(255, 0) > 0, "255 bits reach beyond r");
    // An exclusive or of bits is a bit; of a hint that is none, it is not, and cannot be decomposed with.
    let xor = |boolean: bool| {
        complaints(move |cs| {
            let hints = [cs.hint(), cs.hint()];
            let x = hints.map(|hint| {
                let x = if boolean { cs.bit() } else { cs.derived() };
                cs.enforce(&[(hint, one)], &[(Var::ONE, one)], &[(x, one)]);
                x
            });
            let r = cs.derived();
            let c = [(x[0], one), (x[1], one), (r, minus)];
            cs.enforce(&[(x[0], one + one)], &[(x[1], one)], &c);
            let out = [(cs.bit(), one), (cs.bit(), one + one)];
            cs.enforce(&[(r, one), (x[0], one)], &unit, &out);
        })
    };
    assert_eq!(xor(true), 0);
    assert!(xor(false) > 0);
}
