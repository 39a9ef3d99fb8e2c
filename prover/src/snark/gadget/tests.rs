//! Rows, variables and values against what Filecoin's own gadgets recorded.
//!
//! Spec and data: `fixtures/vectors/r1cs/`. A difference is named the way one looks for it
//! (`r1cs/README.md` §2): counts, first differing checkpoint, segment, row.

use ark_bls12_381::Fr;
use ark_ff::{AdditiveGroup, Field, PrimeField};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::bits::{self, Bit};
use super::insert::insert;
use super::merkle::{Level, NodeHash, path};
use super::poseidon::poseidon;
use super::sha256::{create_label, sha256, tree_d_node};
use super::uint32::{MultiEq, Word, constant, rotr, shr, xor3};
use crate::snark::cs::{ConstraintSystem, Num, Term, Var};
use crate::snark::record::{Counts, Matrices, Row, RowDigest};

/// One of the recorded files.
pub fn recorded(file: &str) -> Value {
    let path = format!(
        "{}/../fixtures/vectors/r1cs/{file}",
        env!("CARGO_MANIFEST_DIR")
    );
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn gadget(file: &str, name: &str) -> Value {
    let found = recorded(file)["gadgets"]
        .as_array()
        .and_then(|all| all.iter().find(|g| g["name"] == name).cloned());
    found.unwrap_or_else(|| panic!("{file} has no gadget {name}"))
}

fn number(value: &Value) -> usize {
    usize::try_from(value.as_u64().expect("a count")).expect("a count fits")
}

/// Compares a whole circuit's rows with `circuit-NAME.json`.
pub fn assert_circuit(name: &str, build: impl FnOnce(&mut RowDigest)) {
    let reference = recorded(&format!("circuit-{name}.json"));
    let mut cs = RowDigest::with_marks(mark_rows(&reference));
    build(&mut cs);
    compare(name, &cs, &reference);
}

/// Compares the first `rows` rows, a checkpoint, with `circuit-NAME.json`; what comes after them is not looked at.
pub fn assert_first_rows(name: &str, rows: usize, build: impl FnOnce(&mut RowDigest)) {
    let reference = recorded(&format!("circuit-{name}.json"));
    let mut cs = RowDigest::with_marks(mark_rows(&reference));
    build(&mut cs);
    assert!(cs.counts.constraints >= rows, "{name}: too few rows");
    assert_eq!(difference(&cs, &reference, rows), None, "{name}");
    let last = marks(&reference).into_iter().filter(|m| m.rows == rows);
    assert_ne!(last.count(), 0, "{name}: no checkpoint after {rows} rows");
}

/// A running digest that the reference gives.
struct Mark {
    rows: usize,
    digest: String,
    checkpoint: bool,
}

/// All marks, in order of rows.
fn marks(reference: &Value) -> Vec<Mark> {
    let list = |key: &str| reference[key].as_array().into_iter().flatten();
    let mark = |rows: &Value, digest: &Value, checkpoint: bool| Mark {
        rows: number(rows),
        digest: digest.as_str().expect("a digest").to_owned(),
        checkpoint,
    };
    let checkpoints = list("checkpoints").map(|c| mark(&c[0], &c[1], true));
    let segments = list("segments").map(|s| mark(&s[2], &s[7], false));
    let mut marks: Vec<Mark> = checkpoints.chain(segments).collect();
    // A segment without rows has no digest.
    marks.retain(|mark| mark.rows > 0 && !mark.digest.is_empty());
    marks.sort_by_key(|mark| mark.rows);
    marks
}

fn mark_rows(reference: &Value) -> Vec<usize> {
    marks(reference).iter().map(|mark| mark.rows).collect()
}

/// Where two circuits part.
#[derive(Debug, PartialEq, Eq)]
struct Difference {
    /// The first checkpoint that differs, by its rows.
    checkpoint: Option<usize>,
    /// Filecoin's name of the part, the innermost that the record lists.
    segment: String,
    /// The first different row is one of these: all before are equal, and with the last one they differ. As narrow as
    /// the record's marks; the gadgets' own records, with every row, say the rest.
    rows: std::ops::Range<usize>,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.checkpoint {
            Some(rows) => write!(f, "first checkpoint that differs: {rows} rows; ")?,
            None => f.write_str("no checkpoint differs; ")?,
        }
        let (first, last) = (self.rows.start, self.rows.end - 1);
        write!(f, "segment {}; first different row: ", self.segment)?;
        if first == last {
            write!(f, "{first}")
        } else {
            write!(f, "between {first} and {last}")
        }
    }
}

/// The first difference within the first `limit` rows.
fn difference(cs: &RowDigest, reference: &Value, limit: usize) -> Option<Difference> {
    let differs = |mark: &&Mark| {
        let ours = cs.mark(mark.rows).map(hex::encode).unwrap_or_default();
        !ours.starts_with(&mark.digest)
    };
    let marks = marks(reference);
    let within = || marks.iter().filter(|mark| mark.rows <= limit);
    let end = within().find(differs)?.rows;
    let checkpoint = within().filter(|m| m.checkpoint).find(differs);
    let start = marks.iter().filter(|m| m.rows < end).map(|m| m.rows).max();
    let start = start.unwrap_or(0);
    let segments = reference["segments"].as_array().into_iter().flatten();
    let around = segments.filter(|s| number(&s[1]) <= start && start < number(&s[2]));
    let innermost = around.min_by_key(|s| number(&s[2]) - number(&s[1]));
    Some(Difference {
        checkpoint: checkpoint.map(|mark| mark.rows),
        segment: innermost
            .and_then(|s| s[0].as_str())
            .unwrap_or("outside all")
            .to_owned(),
        rows: start..end,
    })
}

fn compare(name: &str, cs: &RowDigest, reference: &Value) {
    if let Some(difference) = difference(cs, reference, usize::MAX) {
        panic!("{name}: {difference}");
    }
    assert_eq!(counts(reference), cs.counts, "{name}: counts differ");
    assert_eq!(
        hex::encode(cs.finish()),
        reference["rows_sha256"],
        "{name}: rows after the last mark differ"
    );
}

fn counts(reference: &Value) -> Counts {
    Counts {
        inputs: number(&reference["inputs"]),
        aux: number(&reference["aux"]),
        constraints: number(&reference["constraints"]),
    }
}

/// A circuit with one coefficient of one row changed.
struct OneRowOff {
    inner: RowDigest,
    row: usize,
}

impl ConstraintSystem for OneRowOff {
    fn aux(&mut self, value: Fr) -> Var {
        self.inner.aux(value)
    }
    fn input(&mut self, value: Fr) -> Var {
        self.inner.input(value)
    }
    fn row(&mut self, a: &[Term], b: &[Term], c: &[Term]) {
        if self.inner.counts.constraints == self.row {
            let more = [a, &[(Var::ONE, Fr::ONE)]].concat();
            return self.inner.row(&more, b, c);
        }
        self.inner.row(a, b, c);
    }
}

/// Whatever row is changed, the message names its checkpoint, its segment, and rows around it.
#[test]
fn a_changed_row_is_named() {
    use crate::snark::cs::Circuit;
    use crate::snark::{CircuitId, shape::Blank};
    use crate::spec::SectorSize;
    let reference = recorded("circuit-window-2kib.json");
    let blank = Blank::new(CircuitId::window(SectorSize::Kib2));
    let rows = number(&reference["constraints"]);
    for row in (0..rows).step_by(509).chain([1, 312, rows - 1]) {
        let mut cs = OneRowOff {
            inner: RowDigest::with_marks(mark_rows(&reference)),
            row,
        };
        blank.synthesize(&mut cs);
        let found = difference(&cs.inner, &reference, usize::MAX).expect("a difference");
        assert!(found.rows.contains(&row), "row {row}: {found}");
        let covers = (row + 1).next_power_of_two();
        let expected = (covers <= 16_384).then_some(covers);
        assert_eq!(found.checkpoint, expected, "row {row}: {found}");
        let segments = reference["segments"].as_array().expect("a list");
        let named = segments.iter().find(|s| s[0] == found.segment.as_str());
        let named = named.expect("a segment of the record");
        assert!((number(&named[1])..number(&named[2])).contains(&found.rows.start));
        assert!(found.to_string().contains("first different row"));
    }
}

/// Compares a gadget's rows, variables and values with its record.
fn assert_gadget(file: &str, name: &str, build: impl FnOnce(&mut Matrices)) {
    let reference = gadget(file, name);
    let mut cs = Matrices::default();
    build(&mut cs);
    compare_rows(name, &cs, &reference);

    let mut digest = RowDigest::with_marks(mark_rows(&reference));
    for _ in 1..cs.assignment.counts.inputs {
        digest.input(Fr::ZERO);
    }
    for _ in 0..cs.assignment.counts.aux {
        digest.aux(Fr::ZERO);
    }
    for [a, b, c] in &cs.rows {
        digest.row(a, b, c);
    }
    compare(name, &digest, &reference);

    assert_eq!(
        values_digest(&cs.assignment.inputs),
        reference["witness"]["input_sha256"],
        "{name}: inputs"
    );
    assert_eq!(
        values_digest(&cs.assignment.aux),
        reference["witness"]["aux_sha256"],
        "{name}: witness"
    );
    assert_eq!(
        cs.first_unsatisfied(),
        None,
        "{name}: a row is not satisfied"
    );
}

/// Names the first differing row where the record has rows.
fn compare_rows(name: &str, cs: &Matrices, reference: &Value) {
    let Some(rows) = reference["rows"].as_array() else {
        return;
    };
    let first = number(&reference["first_row"]);
    for (i, row) in rows.iter().enumerate() {
        assert_eq!(
            cs.rows.get(first + i),
            Some(&read_row(row)),
            "{name}: row {}",
            first + i
        );
    }
}

/// SHA-256 over the values, 32 bytes little-endian each.
pub fn values_digest(values: &[Fr]) -> String {
    let mut hasher = Sha256::new();
    values
        .iter()
        .for_each(|v| hasher.update(crate::hash::poseidon::node_from_fr(v)));
    hex::encode(hasher.finalize())
}

fn read_row(row: &Value) -> Row {
    std::array::from_fn(|side| {
        let flat = row[side].as_array().expect("a row has three sides");
        let mut terms: Vec<Term> = flat
            .chunks_exact(2)
            .map(|t| (read_var(&t[0]), read_value(&t[1])))
            .collect();
        terms.sort_by_key(|(var, _)| *var);
        terms
    })
}

fn read_var(value: &Value) -> Var {
    let index = value.as_i64().expect("a variable");
    let narrow = |i: i64| u32::try_from(i).expect("an index");
    if index >= 0 {
        Var::aux(narrow(index))
    } else {
        Var::input(narrow(-index - 1))
    }
}

fn read_value(value: &Value) -> Fr {
    if let Some(small) = value.as_i64() {
        return if small < 0 {
            -Fr::from(small.unsigned_abs())
        } else {
            Fr::from(small.unsigned_abs())
        };
    }
    let text = value.as_str().expect("an integer or a string");
    let power = |k: &str| Fr::from(2u64).pow([k.parse::<u64>().expect("an exponent")]);
    match (text.strip_prefix("-^"), text.strip_prefix('^')) {
        (Some(k), _) => -power(k),
        (None, Some(k)) => power(k),
        (None, None) => {
            let bytes = hex::decode(format!("{text:0>64}")).expect("hex");
            Fr::from_be_bytes_mod_order(&bytes)
        }
    }
}

/// Test number k of the records: bytes `i·(2k+3) + 5k+1`, top bits cleared, little-endian.
fn test_number(k: usize) -> Fr {
    let mut bytes: [u8; 32] =
        std::array::from_fn(|i| (i * (2 * k + 3) + 5 * k + 1).to_le_bytes()[0]);
    bytes[31] &= 0x3f;
    Fr::from_le_bytes_mod_order(&bytes)
}

fn test_num(cs: &mut Matrices, k: usize) -> Num {
    Num::alloc(cs, test_number(k))
}

fn test_nums(cs: &mut Matrices, from: usize, count: usize) -> Vec<Num> {
    (from..from + count).map(|k| test_num(cs, k)).collect()
}

/// Test bits: byte i is `7i + 3`, most significant bit first.
fn test_bits(cs: &mut Matrices, count: usize) -> Vec<Bit> {
    (0..count)
        .map(|i| {
            Bit::alloc(
                cs,
                (7 * (i / 8) + 3).to_le_bytes()[0] >> (7 - i % 8) & 1 == 1,
            )
        })
        .collect()
}

fn word(cs: &mut Matrices, value: u32) -> Word {
    std::array::from_fn(|i| Bit::alloc(cs, value >> i & 1 == 1))
}

const X: u32 = 0x9e37_79b9;

#[test]
fn numbers_and_bits() {
    assert_gadget("gadgets.json", "alloc_bit", |cs| {
        Bit::alloc(cs, true);
    });
    assert_gadget("gadgets.json", "alloc_num", |cs| {
        test_num(cs, 0);
    });
    assert_gadget("gadgets.json", "inputize", |cs| {
        test_num(cs, 0).inputize(cs)
    });
    assert_gadget("gadgets.json", "constraint_equal", |cs| {
        let (a, b) = (test_num(cs, 0), test_num(cs, 0));
        a.enforce_equal(cs, b);
    });
    assert_gadget("gadgets.json", "constraint_add", |cs| {
        let (a, b) = (test_num(cs, 0), test_num(cs, 1));
        a.add(cs, b);
    });
    assert_gadget("gadgets.json", "to_bits_le", |cs| {
        let n = test_num(cs, 0);
        bits::to_bits_le(cs, n);
    });
}

#[test]
fn packing() {
    assert_gadget("gadgets.json", "pack_bits_254", |cs| {
        let all = test_bits(cs, 256);
        bits::pack_bits(cs, &all);
    });
    assert_gadget("gadgets.json", "pack_bits_mixed", |cs| {
        let (a, b) = (Bit::alloc(cs, true), Bit::alloc(cs, false));
        bits::pack_bits(cs, &[a, !b, Bit::Const(true), Bit::Const(false), !a, a]);
    });
    for (name, count) in [("pack_into_inputs_6", 6), ("pack_into_inputs_300", 300)] {
        assert_gadget("gadgets.json", name, |cs| {
            let all = test_bits(cs, count);
            bits::pack_into_inputs(cs, &all);
        });
    }
    let challenge = gadget("gadgets.json", "uint64_challenge")["witness"]["input"][1].clone();
    let challenge = read_value(&challenge).into_bigint().0[0];
    assert_gadget("gadgets.json", "uint64_challenge", |cs| {
        bits::challenge_input(cs, challenge);
    });
}

#[test]
fn words_and_sums() {
    assert_gadget("gadgets.json", "uint32_addmany_2", |cs| {
        let operands = [word(cs, X), word(cs, X.wrapping_mul(2))];
        let mut sums = MultiEq::default();
        sums.add_many(cs, &operands);
        sums.flush(cs);
    });
    assert_gadget("gadgets.json", "uint32_addmany_const", |cs| {
        let x = word(cs, X);
        let mut sums = MultiEq::default();
        let constants = [constant(0x428a_2f98), constant(0x6a09_e667)];
        sums.add_many(cs, &[x, constants[0], constants[1]]);
        sums.add_many(cs, &constants);
        sums.flush(cs);
    });
    assert_gadget("gadgets.json", "multieq_flush", |cs| {
        let (mut x, y) = (word(cs, X), word(cs, X.wrapping_mul(2)));
        let mut sums = MultiEq::default();
        for _ in 0..16 {
            x = sums.add_many(cs, &[x, y]);
        }
        sums.flush(cs);
    });
    assert_gadget("gadgets.json", "uint32_xor_shifts", |cs| {
        let w = word(cs, X);
        xor3(cs, &rotr(&w, 7), &rotr(&w, 18), &shr(&w, 3));
        let (b, c) = (rotr(&w, 1), rotr(&w, 2));
        for i in 0..32 {
            bits::ch(cs, w[i], b[i], c[i]);
        }
        for i in 0..32 {
            bits::maj(cs, w[i], b[i], c[i]);
        }
    });
}

#[test]
fn boolean_table() {
    let table = recorded("boolean-table.json")["table"]
        .as_array()
        .expect("a table")
        .clone();
    assert_eq!(table.len(), 160);
    for entry in &table {
        let (op, kinds) = (
            entry[0].as_str().expect("an operation"),
            entry[1].as_str().expect("operands"),
        );
        // Every assignment of the operands: the rows are the same, the values follow the function.
        for assignment in 0..1u32 << kinds.len() {
            let mut cs = Matrices::default();
            let operands: Vec<Bit> = kinds
                .chars()
                .enumerate()
                .map(|(i, kind)| operand(&mut cs, kind, assignment >> i & 1 == 1))
                .collect();
            let result = gate(&mut cs, op, &operands);
            assert_eq!(describe(result), entry[2], "{op} {kinds}");
            assert_eq!(cs.assignment.counts.aux, number(&entry[3]), "{op} {kinds}");
            let rows: Vec<Row> = entry[4]
                .as_array()
                .expect("rows")
                .iter()
                .map(read_row)
                .collect();
            assert_eq!(cs.rows, rows, "{op} {kinds}");
            assert_eq!(result.value(), truth(op, &operands), "{op} {kinds}");
            assert_eq!(cs.first_unsatisfied(), None, "{op} {kinds}");
        }
    }
}

fn operand(cs: &mut Matrices, kind: char, value: bool) -> Bit {
    // The table allocates a number for each operand, constant ones too, and no bit row.
    let var = cs.aux(Fr::from(value));
    match kind {
        'I' => Bit::Var {
            var,
            negated: false,
            value,
        },
        'N' => Bit::Var {
            var,
            negated: true,
            value: !value,
        },
        '0' => Bit::Const(false),
        _ => Bit::Const(true),
    }
}

fn gate(cs: &mut Matrices, op: &str, operands: &[Bit]) -> Bit {
    match (op, operands) {
        ("xor", &[a, b]) => bits::xor(cs, a, b),
        ("and", &[a, b]) => bits::and(cs, a, b),
        ("ch", &[a, b, c]) => bits::ch(cs, a, b, c),
        ("maj", &[a, b, c]) => bits::maj(cs, a, b, c),
        _ => panic!("the table has no {op} of {} operands", operands.len()),
    }
}

fn truth(op: &str, operands: &[Bit]) -> bool {
    let v: Vec<bool> = operands.iter().map(|bit| bit.value()).collect();
    match op {
        "xor" => v[0] ^ v[1],
        "and" => v[0] && v[1],
        "ch" => {
            if v[0] {
                v[1]
            } else {
                v[2]
            }
        }
        _ => v.iter().filter(|bit| **bit).count() >= 2,
    }
}

fn describe(bit: Bit) -> String {
    match bit {
        Bit::Const(value) => format!("const {value}"),
        Bit::Var { var, negated, .. } => {
            format!("{}aux {}", if negated { "not " } else { "" }, var.index())
        }
    }
}

#[test]
fn insertion() {
    for (name, arity) in [("insert_2", 2), ("insert_4", 4), ("insert_8", 8)] {
        let witness = gadget("gadgets.json", name)["witness"]["aux"].clone();
        assert_gadget("gadgets.json", name, |cs| {
            let x = test_num(cs, 0);
            let index: Vec<Bit> = (0..usize::ilog2(arity) as usize)
                .map(|i| Bit::alloc(cs, witness[1 + i] == 1))
                .collect();
            let siblings = test_nums(cs, 1, arity - 1);
            insert(cs, x, &index, &siblings);
        });
    }
}

#[test]
fn insertion_places_the_node_at_its_index() {
    for arity in [2usize, 4, 8] {
        for at in 0..arity {
            let mut cs = Matrices::default();
            let x = test_num(&mut cs, 99);
            let index: Vec<Bit> = (0..arity.ilog2())
                .map(|i| Bit::alloc(&mut cs, at >> i & 1 == 1))
                .collect();
            let siblings = test_nums(&mut cs, 0, arity - 1);
            let children: Vec<Fr> = insert(&mut cs, x, &index, &siblings)
                .iter()
                .map(|n| n.value)
                .collect();
            let mut expected: Vec<Fr> = siblings.iter().map(|n| n.value).collect();
            expected.insert(at, x.value);
            assert_eq!(children, expected);
            assert_eq!(cs.first_unsatisfied(), None);
        }
    }
}

#[test]
fn poseidon_rows_and_values() {
    for arity in [2usize, 4, 8, 11] {
        assert_gadget("poseidon.json", &format!("poseidon_{arity}"), |cs| {
            let preimage = test_nums(cs, 0, arity);
            let hash = poseidon(cs, &preimage);
            let values: Vec<Fr> = preimage.iter().map(|n| n.value).collect();
            let arity = crate::hash::poseidon::Arity::from_len(arity).expect("a known arity");
            assert_eq!(
                hash.value,
                crate::hash::poseidon::hash_slice(arity, &values)
            );
        });
    }
}

#[test]
fn sha256_rows_and_values() {
    assert_gadget("sha256.json", "sha256_64_bytes_segments", |cs| {
        let message = test_bits(cs, 512);
        let digest = sha256(cs, &message);
        let bytes: Vec<u8> = (0..64usize).map(|i| (7 * i + 3).to_le_bytes()[0]).collect();
        let expected = Sha256::digest(&bytes);
        let ours: Vec<u8> = digest
            .chunks_exact(8)
            .map(|byte| {
                byte.iter()
                    .fold(0, |sum, bit| sum << 1 | u8::from(bit.value()))
            })
            .collect();
        assert_eq!(ours, expected[..]);
    });
    assert_gadget("sha256.json", "sha256_tree_node", |cs| {
        let (left, right) = (test_num(cs, 0), test_num(cs, 1));
        tree_d_node(cs, left, right);
    });
}

#[test]
fn labels() {
    for (name, layer, parents) in [
        ("create_label_layer_1", 1, 6),
        ("create_label_layer_2", 2, 14),
    ] {
        assert_gadget("sha256.json", name, |cs| {
            let replica_id = test_num(cs, 0);
            let replica_id = bits::hash_bits(cs, replica_id);
            let node: Vec<Bit> = (0..64)
                .map(|i| Bit::alloc(cs, 45u64 >> i & 1 == 1))
                .collect();
            let parents = test_nums(cs, 1, parents);
            let parents: Vec<Vec<Bit>> = parents
                .into_iter()
                .map(|parent| bits::hash_bits(cs, parent))
                .collect();
            create_label(cs, &replica_id, layer, &node, &parents);
        });
    }
}

#[test]
fn merkle_paths() {
    let shapes: [(&str, Vec<usize>); 8] = [
        ("por_8_0_0_2kib", vec![8; 2]),
        ("por_8_0_0_8mib", vec![8; 6]),
        ("por_8_0_0_512mib", vec![8; 8]),
        ("por_8_2_0_4kib", vec![8, 8, 2]),
        ("por_8_8_0_16kib", vec![8; 3]),
        ("por_8_8_2_32kib", vec![8, 8, 8, 2]),
        ("por_8_8_0_32gib", vec![8; 10]),
        ("por_8_8_2_64gib", [vec![8; 10], vec![2]].concat()),
    ];
    for (name, arities) in shapes {
        assert_path(name, NodeHash::Poseidon, &arities);
    }
    assert_path("por_sha_2_depth_6", NodeHash::Sha256, &[2; 6]);
}

fn assert_path(name: &str, hash: NodeHash, arities: &[usize]) {
    let levels = test_levels(arities);
    let root = root_of(hash, test_number(0), &levels);
    assert_gadget("merkle.json", name, |cs| {
        let (leaf, root) = (test_num(cs, 0), Num::alloc(cs, root));
        path(cs, hash, leaf, &levels, root);
    });
}

/// The records' path: siblings are test numbers from 11 on, index at level l is 3l+1 mod arity.
fn test_levels(arities: &[usize]) -> Vec<Level> {
    let mut next = 11;
    let level = |(l, arity): (usize, &usize)| {
        let siblings = (next..next + arity - 1).map(test_number).collect();
        next += arity - 1;
        Level {
            index: u8::try_from((3 * l + 1) % arity).expect("below eight"),
            siblings,
        }
    };
    arities.iter().enumerate().map(level).collect()
}

/// Root of a path, by the crate's own hashes.
fn root_of(hash: NodeHash, leaf: Fr, levels: &[Level]) -> Fr {
    use crate::hash::poseidon::{Arity, hash_slice, node_from_fr};
    levels.iter().fold(leaf, |node, level| {
        let mut children = level.siblings.clone();
        children.insert(usize::from(level.index), node);
        match hash {
            NodeHash::Poseidon => hash_slice(
                Arity::from_len(children.len()).expect("a known arity"),
                &children,
            ),
            NodeHash::Sha256 => {
                let preimage: Vec<u8> = children.iter().flat_map(node_from_fr).collect();
                let mut digest = Sha256::digest(&preimage);
                digest[31] &= 0x3f;
                Fr::from_le_bytes_mod_order(&digest)
            }
        }
    })
}

/// The looseness that [`bits::to_bits_le`] documents, pinned: `v + r` decomposes too, and nothing
/// but the hash behind it notices.
#[test]
fn tm_p15_alias_decomposition_is_accepted_as_in_filecoin() {
    let value = Fr::from(5u64);
    let mut cs = Matrices::default();
    let n = Num::alloc(&mut cs, value);
    bits::to_bits_le(&mut cs, n);
    let mut alias = Fr::MODULUS;
    ark_ff::BigInteger::add_with_carry(&mut alias, &value.into_bigint());
    for i in 0..bits::FR_BITS {
        cs.assignment.aux[1 + i] = Fr::from(alias.0[i / 64] >> (i % 64) & 1);
    }
    assert_eq!(cs.first_unsatisfied(), None);
    // Not every value has an alias: one above 2^255 − r has only its own bits.
    cs.assignment.aux[0] = -Fr::ONE;
    assert_eq!(cs.first_unsatisfied(), Some(bits::FR_BITS));
}
