//! Flip and repair: change a value, solve the later rows forward, and some row must be left violated.
//!
//! A row is *repaired* by the one variable that it defines; a change spreads until it meets a row that has none left to
//! give. If no row is violated in the end, the changed assignment is a second witness of the same inputs: unsound.
//! Changes that are asked of every place: one value (a bit to its opposite, else plus one); the bits of a decomposition to
//! those of `value + r`; an index bit to 2; an input plus one, or plus the first power of two that its bits do not reach.
//! Cost: the rows of PoRep 2 KiB in 8 bytes a term, about 200 MiB; a flip walks until the first violated row, mostly a
//! few hundred rows.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ark_bls12_381::Fr;
use ark_ff::{AdditiveGroup, BigInteger, Field, PrimeField};
use rand::Rng;
use rayon::prelude::*;

use super::{Real, circuits, value_of};
use crate::porep::circuit::PorepCircuit;
use crate::snark::CircuitId;
use crate::snark::cs::{Circuit, ConstraintSystem, MINUS_ONE, TWO, Term, Var};
use crate::snark::gadget::bits::FR_BITS;
use crate::snark::gadget::merkle::Level;
use crate::snark::record::canonical;
use crate::snark::testing::rng;
use crate::spec::SectorSize;
use crate::update::circuit::{Siblings, UpdateCircuit};

/// A circuit's rows, packed, with an assignment.
struct Rows {
    inputs: Vec<Fr>,
    aux: Vec<Fr>,
    coefficients: Vec<Fr>,
    known: HashMap<Fr, u32>,
    terms: Vec<(Var, u32)>,
    /// Ends of the three sides of each row in `terms`.
    ends: Vec<[u32; 3]>,
    /// The variable that a row defines: the last of side C, if no row had it before.
    defines: Vec<Option<Var>>,
    /// Per auxiliary variable, the number of rows before it was allocated.
    born: Vec<u32>,
    /// Whether a row had it.
    seen: Vec<bool>,
    /// Whether a row forces it to 0 or 1.
    boolean: Vec<bool>,
    side: Vec<Term>,
}

fn narrow(index: usize) -> u32 {
    u32::try_from(index).expect("a test circuit fits 32 bits")
}

impl Rows {
    fn of(circuit: &impl Circuit) -> Rows {
        let mut rows = Rows {
            inputs: vec![Fr::ONE],
            aux: Vec::new(),
            coefficients: vec![Fr::ONE, MINUS_ONE, TWO],
            known: HashMap::new(),
            terms: Vec::new(),
            ends: Vec::new(),
            defines: Vec::new(),
            born: Vec::new(),
            seen: Vec::new(),
            boolean: Vec::new(),
            side: Vec::new(),
        };
        circuit.synthesize(&mut rows);
        assert!(
            (0..rows.ends.len()).all(|row| rows.holds(row, &rows.aux)),
            "the witness of a real sector satisfies every row"
        );
        rows
    }

    fn intern(&mut self, k: Fr) -> u32 {
        match k {
            k if k == Fr::ONE => 0,
            k if k == MINUS_ONE => 1,
            k if k == TWO => 2,
            k => *self.known.entry(k).or_insert_with(|| {
                self.coefficients.push(k);
                narrow(self.coefficients.len() - 1)
            }),
        }
    }

    fn side(&self, row: usize, side: usize) -> &[(Var, u32)] {
        let ends = self.ends[row];
        let start = match (side, row) {
            (0, 0) => 0,
            (0, _) => self.ends[row - 1][2],
            _ => ends[side - 1],
        };
        &self.terms[start as usize..ends[side] as usize]
    }

    fn row(&self, row: usize) -> &[(Var, u32)] {
        let start = if row == 0 { 0 } else { self.ends[row - 1][2] };
        &self.terms[start as usize..self.ends[row][2] as usize]
    }

    fn sum(&self, side: &[(Var, u32)], aux: &[Fr]) -> Fr {
        let mut sum = Fr::ZERO;
        for (v, k) in side {
            let value = if v.is_aux() {
                aux[v.index()]
            } else {
                self.inputs[v.index()]
            };
            if value == Fr::ONE {
                sum += self.coefficients[*k as usize];
            } else if value != Fr::ZERO {
                sum += value * self.coefficients[*k as usize];
            }
        }
        sum
    }

    fn holds(&self, row: usize, aux: &[Fr]) -> bool {
        let [a, b, c] = [0, 1, 2].map(|side| self.sum(self.side(row, side), aux));
        a * b == c
    }

    fn is_bit(&self, v: usize) -> bool {
        self.boolean[v]
    }
}

impl ConstraintSystem for Rows {
    fn aux(&mut self, value: Fr) -> Var {
        self.aux.push(value);
        self.born.push(narrow(self.ends.len()));
        self.seen.push(false);
        self.boolean.push(false);
        Var::aux(narrow(self.aux.len() - 1))
    }
    fn input(&mut self, value: Fr) -> Var {
        self.inputs.push(value);
        Var::input(narrow(self.inputs.len() - 1))
    }
    fn row(&mut self, a: &[Term], b: &[Term], c: &[Term]) {
        let start = self.terms.len();
        let mut side = std::mem::take(&mut self.side);
        let ends = [a, b, c].map(|terms| {
            canonical(terms, &mut side);
            for (v, k) in &side {
                let k = self.intern(*k);
                self.terms.push((*v, k));
            }
            narrow(self.terms.len())
        });
        self.side = side;
        self.ends.push(ends);
        let row = &self.terms[start..];
        let last = row[ends[1] as usize - start..].last().map(|(v, _)| *v);
        let before_c = &row[..ends[1] as usize - start];
        self.defines.push(last.filter(|v| {
            v.is_aux() && !self.seen[v.index()] && before_c.iter().all(|(w, _)| w != v)
        }));
        if let ([(Var::ONE, 0), (v, 1), (w, 0)], true) = (row, v_is_alone(ends, start))
            && v == w
        {
            self.boolean[v.index()] = true;
        }
        for (v, _) in row.iter().filter(|(v, _)| v.is_aux()) {
            self.seen[v.index()] = true;
        }
    }
}

/// Whether a row has two terms in A, one in B, none in C.
fn v_is_alone(ends: [u32; 3], start: usize) -> bool {
    ends.map(|end| end as usize - start) == [2, 3, 3]
}

/// A copy of the assignment that changes are tried on, and taken back.
struct Trial<'a> {
    rows: &'a Rows,
    aux: Vec<Fr>,
    changed: Vec<bool>,
    undo: Vec<u32>,
}

impl<'a> Trial<'a> {
    fn new(rows: &'a Rows) -> Trial<'a> {
        Trial {
            rows,
            aux: rows.aux.clone(),
            changed: vec![false; rows.aux.len()],
            undo: Vec::new(),
        }
    }

    fn set(&mut self, v: usize, value: Fr) {
        if !self.changed[v] {
            self.changed[v] = true;
            self.undo.push(narrow(v));
        }
        self.aux[v] = value;
    }

    /// Makes the changes, repairs forward, and returns up to `most` rows that are violated in the end.
    fn violated(&mut self, changes: &[(usize, Fr)], most: usize) -> Vec<usize> {
        let mut first = usize::MAX;
        for (v, value) in changes {
            self.set(*v, *value);
            first = first.min(self.rows.born[*v] as usize);
        }
        let fixed: Vec<usize> = changes.iter().map(|(v, _)| *v).collect();
        let mut violated = Vec::new();
        for row in first..self.rows.ends.len() {
            let touched = self
                .rows
                .row(row)
                .iter()
                .any(|(v, _)| v.is_aux() && self.changed[v.index()]);
            if !touched || self.repair(row, &fixed) {
                continue;
            }
            violated.push(row);
            if violated.len() == most {
                break;
            }
        }
        for v in self.undo.drain(..) {
            self.changed[v as usize] = false;
            self.aux[v as usize] = self.rows.aux[v as usize];
        }
        violated
    }

    /// Whether the row holds, after its own variable took what the others ask for.
    fn repair(&mut self, row: usize, fixed: &[usize]) -> bool {
        let rows = self.rows;
        let [a, b, c] = [0, 1, 2].map(|side| rows.sum(rows.side(row, side), &self.aux));
        let missing = a * b - c;
        if missing == Fr::ZERO {
            return true;
        }
        match rows.defines[row] {
            Some(v) if !fixed.contains(&v.index()) => {
                let (_, k) = rows.side(row, 2).last().expect("the defined variable");
                let k = rows.coefficients[*k as usize];
                let step = match k {
                    k if k == Fr::ONE => missing,
                    k if k == MINUS_ONE => -missing,
                    k => missing * k.inverse().expect("canonical rows have no zeros"),
                };
                self.set(v.index(), self.aux[v.index()] + step);
                true
            }
            _ => false,
        }
    }
}

fn flipped(rows: &Rows, v: usize) -> Fr {
    if rows.is_bit(v) {
        Fr::ONE - rows.aux[v]
    } else {
        rows.aux[v] + Fr::ONE
    }
}

/// Flips these variables one by one; every flip must leave a violated row.
fn assert_flips_are_noticed(circuit: CircuitId, rows: &Rows, variables: &[usize], seed: u64) {
    let chunk = variables.len().div_ceil(2).max(1);
    let unnoticed: Vec<usize> = variables
        .par_chunks(chunk)
        .flat_map_iter(|part| {
            let mut trial = Trial::new(rows);
            let mut unnoticed = Vec::new();
            for v in part {
                if trial.violated(&[(*v, flipped(rows, *v))], 1).is_empty() {
                    unnoticed.push(*v);
                }
            }
            unnoticed
        })
        .collect();
    assert!(
        unnoticed.is_empty(),
        "{circuit}: {} values can be changed unnoticed, first aux {:?} (seed {seed})",
        unnoticed.len(),
        unnoticed.iter().min()
    );
}

/// Variables of which another value is a hint: no row before gives them one.
fn hints(rows: &Rows) -> Vec<usize> {
    let mut defined = vec![false; rows.aux.len()];
    for v in rows.defines.iter().flatten() {
        defined[v.index()] = true;
    }
    (0..rows.aux.len())
        .filter(|v| !defined[*v] && !rows.is_bit(*v))
        .collect()
}

/// A random sample of all variables, and all hints of the PoSt circuits (fewer of PoRep's, whose changes run far).
#[test]
fn tm_p15_a_sample_of_flips_is_noticed_in_the_whole_circuits() {
    for (seed, circuit) in (10..).zip(circuits()) {
        let rows = Rows::of(&Real::new(circuit));
        let mut rng = rng(seed);
        let mut sample: Vec<usize> = (0..2_000)
            .map(|_| rng.gen_range(0..rows.aux.len()))
            .collect();
        let hints = hints(&rows);
        sample.extend((0..40).map(|_| hints[rng.gen_range(0..hints.len())]));
        assert_flips_are_noticed(circuit, &rows, &sample, seed);
    }
}

/// Every variable of the PoSt circuits, and of PoRep.
#[test]
#[ignore = "minutes; the bounded sample runs always, the full one by `cargo test -p prover -- --ignored`"]
fn tm_p15_every_flip_is_noticed_full() {
    for circuit in circuits() {
        let rows = Rows::of(&Real::new(circuit));
        let all: Vec<usize> = (0..rows.aux.len()).collect();
        // Interleaved, so that both halves have their share of far-running changes.
        let mixed: Vec<usize> = all
            .iter()
            .step_by(2)
            .chain(all.iter().skip(1).step_by(2))
            .copied()
            .collect();
        assert_flips_are_noticed(circuit, &rows, &mixed, 0);
    }
}

/// Rows that define nothing are the statement. Each is the only one that some change violates: none can be left out.
#[test]
fn tm_p15_every_tie_of_the_post_circuits_is_needed() {
    for circuit in &circuits()[..2] {
        // Each path's root, and each CommR.
        assert_ties_are_needed(*circuit, circuit.public_inputs());
    }
}

fn assert_ties_are_needed(circuit: CircuitId, expected: usize) {
    let rows = Rows::of(&Real::new(circuit));
    let mut trial = Trial::new(&rows);
    let mut alone: BTreeMap<usize, usize> = BTreeMap::new();
    for v in hints(&rows) {
        if let [row] = trial.violated(&[(v, flipped(&rows, v))], 2)[..] {
            alone.insert(row, v);
        }
    }
    let ties = ties(&rows);
    assert_eq!(ties.len(), expected, "{circuit}");
    for row in &ties {
        assert!(alone.contains_key(row), "{circuit}: row {row}");
    }
}

/// Rows that define nothing and say that one variable is another.
fn ties(rows: &Rows) -> BTreeSet<usize> {
    let ties = (0..rows.ends.len()).filter(|row| {
        let [a, b, c] = [0, 1, 2].map(|side| rows.side(*row, side));
        let single = a.len() == 1 && a[0].0.is_aux() && c.len() == 1 && c[0].0.is_aux();
        single && b == [(Var::ONE, 0)] && rows.defines[*row].is_none()
    });
    ties.collect()
}

/// Listens to a witness that need not satisfy the circuit, and keeps what the rows say that it violates.
#[derive(Default)]
struct Judge {
    inputs: Vec<Fr>,
    aux: Vec<Fr>,
    rows: usize,
    /// Row, and the product of its sides A and B.
    violated: Vec<(usize, Fr)>,
}

impl Judge {
    fn of(circuit: &impl Circuit) -> Judge {
        let mut judge = Judge {
            inputs: vec![Fr::ONE],
            ..Judge::default()
        };
        circuit.synthesize(&mut judge);
        judge
    }
}

impl ConstraintSystem for Judge {
    fn aux(&mut self, value: Fr) -> Var {
        self.aux.push(value);
        Var::aux(narrow(self.aux.len() - 1))
    }
    fn input(&mut self, value: Fr) -> Var {
        self.inputs.push(value);
        Var::input(narrow(self.inputs.len() - 1))
    }
    fn row(&mut self, a: &[Term], b: &[Term], c: &[Term]) {
        let [a, b, c] = [a, b, c].map(|side| value_of(side, &self.inputs, &self.aux));
        let product = a * b;
        if product != c {
            self.violated.push((self.rows, product));
        }
        self.rows += 1;
    }
}

/// A circuit with something else in its witness, everything behind it computed anew, so that SHA-256 stands in the way as
/// little as Poseidon: the one row that it violates, and the computed value that misses the given one there.
fn only_violation(circuit: &impl Circuit, what: &str) -> (usize, Fr) {
    match Judge::of(circuit).violated[..] {
        [violation] => violation,
        ref rows => panic!("{what}: rows {rows:?}"),
    }
}

fn bend(node: &mut Fr) {
    *node += Fr::ONE;
}

fn bend_top(path: &mut [Level]) {
    bend(&mut path.last_mut().expect("a tree has levels").siblings[0]);
}

/// A false CommR, and for each path a node that is not in its tree: only that tie minds, so none can be left out.
fn assert_porep_ties_are_needed(circuit: &PorepCircuit) {
    let mut bent: Vec<(String, PorepCircuit)> = Vec::new();
    let mut push = |what: String, change: &dyn Fn(&mut PorepCircuit)| {
        let mut other = circuit.clone();
        change(&mut other);
        bent.push((what, other));
    };
    push("CommR".into(), &|c| bend(&mut c.comm_r));
    for i in 0..circuit.challenges.len() {
        let path = |name: &str| format!("challenge {i}, {name}");
        push(path("data"), &|c| bend_top(&mut c.challenges[i].data_path));
        push(path("replica"), &|c| {
            bend_top(&mut c.challenges[i].replica_path);
        });
        push(path("column"), &|c| {
            bend_top(&mut c.challenges[i].column_path);
        });
        for j in 0..circuit.challenges[i].parents.len() {
            push(path(&format!("parent {j}")), &|c| {
                bend_top(&mut c.challenges[i].parents[j].path);
            });
        }
    }
    let needed = bent
        .par_iter()
        .map(|(what, bent)| only_violation(bent, what).0);
    assert_eq!(ties(&Rows::of(circuit)), needed.collect::<BTreeSet<_>>());
}

/// The same of an update of one challenge. Its CommR are inputs that challenges and factors are drawn from, so here it is
/// the roots that are false: each with a path that leads to it.
fn assert_update_ties_are_needed(circuit: &UpdateCircuit) {
    let mut needed = BTreeSet::new();
    let mut only = |what: &str, bent: &UpdateCircuit| {
        let (row, computed) = only_violation(bent, what);
        needed.insert(row);
        computed
    };
    let bent = |change: &dyn Fn(&mut UpdateCircuit)| {
        let mut other = circuit.clone();
        change(&mut other);
        other
    };
    let top = |path: &mut Siblings| bend(&mut path.last_mut().expect("levels")[0]);
    let mut old = bent(&|c| top(&mut c.challenges[0].old_path));
    old.root_old = only("old path", &old);
    only("old CommR", &old);
    let mut new = bent(&|c| top(&mut c.challenges[0].new_path));
    new.root_new = only("new path", &new);
    only("new CommR", &new);
    let data = bent(&|c| bend(c.challenges[0].data_path.last_mut().expect("levels")));
    let leaf = only("data path", &data);
    // With the apex leaf that this path leads to in its right place, only CommD is missed.
    let comm_d = (0..circuit.apex_leaves.len()).find_map(|at| {
        let mut data = data.clone();
        data.apex_leaves[at] = leaf;
        match Judge::of(&data).violated[..] {
            [(row, _)] => Some(row),
            _ => None,
        }
    });
    needed.insert(comm_d.expect("one apex leaf is over the challenged node"));
    assert_eq!(ties(&Rows::of(circuit)), needed);
}

/// Of one challenge each: the others are spelled by the same code.
#[test]
fn tm_p15_every_tie_of_a_porep_and_of_an_update_challenge_is_needed() {
    let size = SectorSize::Kib2;
    let (Real::Porep(mut porep), Real::Update(mut update)) = (
        Real::new(CircuitId::porep(size)),
        Real::new(CircuitId::update(size)),
    ) else {
        panic!("each kind has its circuit");
    };
    porep.challenges.truncate(1);
    assert_porep_ties_are_needed(&porep);
    update.challenges.truncate(1);
    assert_update_ties_are_needed(&update);
}

/// CommR, and 17 paths for each of the two challenges.
#[test]
#[ignore = "a minute; one challenge is asked always, all by `cargo test -p prover -- --ignored`"]
fn tm_p15_every_tie_of_the_porep_circuit_is_needed_full() {
    let Real::Porep(porep) = Real::new(CircuitId::porep(SectorSize::Kib2)) else {
        panic!("a PoRep");
    };
    assert_eq!(ties(&Rows::of(&porep)).len(), 1 + 2 * 17);
    assert_porep_ties_are_needed(&porep);
}

fn rows_of_comm_r(circuit: CircuitId) -> usize {
    let listed = [
        circuit.size.window_sectors(),
        crate::spec::WINNING_CHALLENGES,
    ];
    listed[usize::from(circuit == CircuitId::winning(circuit.size))]
}

/// Places where 255 bits spell a number: the bits' first index, and the number.
fn decompositions(rows: &Rows) -> Vec<(usize, usize)> {
    (0..rows.ends.len())
        .filter(|row| rows.side(*row, 0).is_empty() && rows.side(*row, 1).is_empty())
        .filter_map(|row| {
            let terms = rows.side(row, 2);
            let (number, bits): (Vec<(Var, u32)>, Vec<(Var, u32)>) =
                terms.iter().partition(|(_, k)| *k == 1);
            (bits.len() == FR_BITS).then(|| (bits[0].0.index(), number[0].0.index()))
        })
        .collect()
}

/// The bits of `value + r`, if 255 bits reach that far.
fn alias(value: Fr) -> Option<Vec<Fr>> {
    let alias = super::alias(value)?;
    Some((0..FR_BITS).map(|i| Fr::from(alias.get_bit(i))).collect())
}

/// Every decomposition of the PoRep and the update circuit that SHA-256 reads, spelled as `value + r` where 255 bits allow it. The decomposition's own row
/// takes it, as Filecoin's does; the rows of the hash behind it do not, with any value of the variables that they define.
/// That another hash is what they then ask for is the next test.
#[test]
fn tm_p15_the_alias_of_every_decomposition_passes_its_row_and_fails_in_the_hash() {
    for (circuit, expected) in [
        // The replica id; per challenge 2 children on each of 6 levels, 6 parents in layer 1 and 14 in layer 2.
        (CircuitId::porep(SectorSize::Kib2), 1 + 2 * (2 * 6 + 6 + 14)),
        // 2 children of each node over the 8 apex leaves; per challenge, 2 on each of the 3 levels below them.
        (CircuitId::update(SectorSize::Kib2), 2 * 7 + 10 * 2 * 3),
    ] {
        assert_aliases_fail_in_the_hash(circuit, expected);
    }
}

fn assert_aliases_fail_in_the_hash(circuit: CircuitId, expected: usize) {
    let rows = Rows::of(&Real::new(circuit));
    let places = decompositions(&rows);
    assert_eq!(places.len(), expected, "{circuit}");
    let mut trial = Trial::new(&rows);
    let mut tried = 0;
    for (first, number) in places {
        let Some(bits) = alias(rows.aux[number]) else {
            continue;
        };
        tried += 1;
        let changes: Vec<(usize, Fr)> = (first..).zip(bits).collect();
        let violated = trial.violated(&changes, 1);
        let [row] = violated[..] else {
            panic!("aux {number} has two spellings that nothing notices")
        };
        let own = rows.born[first] as usize + FR_BITS;
        assert!(row > own, "row {row}: the alias itself is refused");
    }
    // A tenth of all values has an alias, and zero has one.
    assert!(
        tried >= 4,
        "{tried} aliases in this sector: choose another seed"
    );
}

/// The 32 bytes that the bits of `node + r` spell, where there are such bits.
fn alias_bytes(node: &crate::ids::Node) -> Option<crate::ids::Node> {
    let bits = alias(crate::hash::poseidon::fr_from_node(node).expect("canonical"))?;
    let mut bytes = [0u8; 32];
    for (i, bit) in bits.iter().enumerate() {
        bytes[i / 8] |= u8::from(*bit == Fr::ONE) << (i % 8);
    }
    Some(bytes)
}

/// What the alias of each decomposition hashes to, by the plain hash: never the node or label that is committed.
#[test]
fn tm_p15_an_alias_hashes_to_another_node_or_label() {
    use crate::hash::sha256::node;
    use crate::porep::proof::label;
    use crate::spec::BASE_DEGREE;
    let mut tried = 0;
    for number in 1..8 {
        let proof = super::Sector::seal(SectorSize::Kib2, number).porep;
        for opened in &proof.partitions[0] {
            let (mut index, mut below) = (opened.data.index, opened.data.leaf);
            for sibling in &opened.data.siblings {
                let children = if index & 1 == 0 {
                    [below, *sibling]
                } else {
                    [*sibling, below]
                };
                below = node(&children[0], &children[1]);
                for side in 0..2 {
                    let mut bent = children;
                    if let Some(alias) = alias_bytes(&children[side]) {
                        bent[side] = alias;
                        tried += 1;
                        assert_ne!(node(&bent[0], &bent[1]), below);
                    }
                }
                index >>= 1;
            }
            assert_eq!(below, proof.comm_d.0);
            for layer in 1..=proof.seal.size.layers() {
                let (base, expander) = opened.parents.split_at(BASE_DEGREE);
                let mut parents: Vec<_> = base.iter().map(|p| p.labels[layer - 1]).collect();
                if layer > 1 {
                    parents.extend(expander.iter().map(|p| p.labels[layer - 2]));
                }
                let at = opened.challenge;
                let honest = label(&proof.replica_id, layer, at, &parents);
                assert_eq!(honest, opened.column.labels[layer - 1]);
                for i in 0..parents.len() {
                    let mut bent = parents.clone();
                    if let Some(alias) = alias_bytes(&parents[i]) {
                        bent[i] = alias;
                        tried += 1;
                        assert_ne!(label(&proof.replica_id, layer, at, &bent), honest);
                    }
                }
                if let Some(alias) = alias_bytes(&proof.replica_id.0) {
                    let id = crate::ids::ReplicaId(alias);
                    tried += 1;
                    assert_ne!(label(&id, layer, at, &parents), honest);
                }
            }
        }
    }
    assert!(tried > 40, "{tried} aliases");
}

/// The update's own decompositions: 255 bits of a digest and the bits of the first input. Row, bits, number.
fn splits(rows: &Rows) -> Vec<(usize, Vec<usize>, usize)> {
    (0..rows.ends.len())
        .filter_map(|row| {
            let [a, b, c] = [0, 1, 2].map(|side| rows.side(row, side));
            let ([(number, 0)], [(Var::ONE, 0)]) = (c, b) else {
                return None;
            };
            let bits: Vec<usize> = a.iter().map(|(v, _)| v.index()).collect();
            let splits = a.len() > 1
                && rows.defines[row].is_none()
                && number.is_aux()
                && a.iter().all(|(v, _)| v.is_aux() && rows.is_bit(v.index()));
            splits.then(|| (row, bits, number.index()))
        })
        .collect()
}

/// The bits of the first input, of digests and so of challenges: two is no bit, even where the sum comes out right.
#[test]
fn tm_p15_an_update_takes_bits_only() {
    let rows = Rows::of(&Real::new(CircuitId::update(SectorSize::Kib2)));
    let splits = splits(&rows);
    let widths: Vec<usize> = splits.iter().map(|(_, bits, _)| bits.len()).collect();
    // One partition has no bits of a number; six choose a width. One digest gives all ten challenges.
    assert_eq!(widths, [6, FR_BITS]);
    let mut trial = Trial::new(&rows);
    for (row, bits, _) in splits {
        for ((_, k), power) in rows.side(row, 0).iter().zip(0u64..) {
            assert_eq!(rows.coefficients[*k as usize], Fr::from(2u64).pow([power]));
        }
        for pair in bits.windows(2) {
            let (low, high) = (rows.aux[pair[0]] + TWO, rows.aux[pair[1]] - Fr::ONE);
            let violated = trial.violated(&[(pair[0], low), (pair[1], high)], 2);
            let own = |row: &usize| rows.side(*row, 2).is_empty();
            assert!(violated.iter().any(own), "bits {pair:?}: no bit row minds");
        }
    }
}

/// Rows that pack bits into an input: the input and the bits, least significant first.
fn packings(rows: &Rows) -> Vec<(usize, usize, Vec<usize>)> {
    (0..rows.ends.len())
        .filter_map(|row| {
            let [a, _, c] = [0, 1, 2].map(|side| rows.side(row, side));
            let input = c.first().filter(|(v, _)| c.len() == 1 && !v.is_aux())?.0;
            let bits: Vec<usize> = a.iter().map(|(v, _)| v.index()).collect();
            Some((row, input.index(), bits))
        })
        .collect()
}

/// Index and challenge bits: 2 is no bit even where the packed value comes out right, and an index with a bit that the
/// tree does not have is no input of any witness.
#[test]
fn tm_p15_indexes_take_bits_only_and_no_more_than_the_tree_has() {
    for circuit in &circuits()[..3] {
        let circuit = *circuit;
        let rows = Rows::of(&Real::new(circuit));
        let packings = packings(&rows);
        let packed = match circuit.kind {
            crate::snark::CircuitKind::Porep => 2 * (1 + 14 + 1 + 2),
            _ => circuit.public_inputs() - rows_of_comm_r(circuit),
        };
        assert_eq!(packings.len(), packed, "{circuit}");
        let mut trial = Trial::new(&rows);
        for (row, input, bits) in packings {
            assert!(bits.iter().all(|bit| rows.is_bit(*bit)));
            // Bits alone reach 2^width − 1: neither the next power of two nor a value plus r is among their sums.
            assert!(bits.len() <= 64, "far below r");
            for ((_, k), power) in rows.side(row, 0).iter().zip(0u64..) {
                assert_eq!(rows.coefficients[*k as usize], Fr::from(2u64).pow([power]));
            }
            let beyond = Fr::from(2u64).pow([bits.len() as u64]).into_bigint();
            assert!(rows.inputs[input].into_bigint() < beyond);
            for pair in bits.windows(2) {
                // Two and one less above: the same sum.
                let (low, high) = (rows.aux[pair[0]] + TWO, rows.aux[pair[1]] - Fr::ONE);
                let changes = [(pair[0], low), (pair[1], high)];
                let violated = trial.violated(&changes, 2);
                assert!(!violated.is_empty(), "{circuit}: bits {pair:?}");
                let own = |row: &usize| rows.side(*row, 2).is_empty();
                assert!(violated.iter().any(own), "{circuit}: refused by a bit row");
            }
        }
    }
}

/// An input plus one, with every value of the old witness or repaired forward: exactly the rows of that input fail.
#[test]
fn tm_p14_no_input_can_be_moved_under_the_old_witness() {
    for circuit in circuits() {
        let mut rows = Rows::of(&Real::new(circuit));
        assert_eq!(rows.inputs.len(), circuit.public_inputs() + 1);
        let mut holders: Vec<Vec<usize>> = vec![Vec::new(); rows.inputs.len()];
        for row in 0..rows.ends.len() {
            for (v, _) in rows
                .row(row)
                .iter()
                .filter(|(v, _)| !v.is_aux() && *v != Var::ONE)
            {
                holders[v.index()].push(row);
            }
        }
        for (input, holders) in holders.iter().enumerate().skip(1) {
            // One row each: a copy of a number, or a packing.
            let [row] = holders[..] else {
                panic!("{circuit}: input {input} stands in rows {holders:?}")
            };
            let old = rows.inputs[input];
            for step in [Fr::ONE, Fr::from(2u64).pow([64]), MINUS_ONE] {
                rows.inputs[input] = old + step;
                assert!(!rows.holds(row, &rows.aux), "{circuit}: input {input}");
            }
            rows.inputs[input] = old;
            assert!(rows.holds(row, &rows.aux));
        }
    }
}

/// The judge can fail: a gadget without its last row has a second witness, and without a bit row as well.
#[test]
fn tm_p15_flips_find_a_missing_row() {
    use crate::snark::cs::Num;
    use crate::snark::gadget::bits::to_bits_le;
    struct Decompose;
    impl Circuit for Decompose {
        fn synthesize<CS: ConstraintSystem>(&self, cs: &mut CS) {
            let n = Num::alloc(cs, Fr::from(5u64));
            n.inputize(cs);
            to_bits_le(cs, n);
        }
    }
    let mut rows = Rows::of(&Decompose);
    let all: Vec<usize> = (0..rows.aux.len()).collect();
    assert_flips_are_noticed(CircuitId::window(SectorSize::Kib2), &rows, &all, 0);
    rows.ends.pop();
    rows.defines.pop();
    let mut trial = Trial::new(&rows);
    assert!(trial.violated(&[(8, flipped(&rows, 8))], 1).is_empty());
}
