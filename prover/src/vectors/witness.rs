//! Test: whole assignments of Filecoin's circuits over golden sectors, compared by digest with recorded ones.
//!
//! Rows say what a circuit demands; these digests say that our values, in our order, are the ones that Filecoin's prover
//! feeds to its own. A difference is named by its checkpoint, its segment and rows near it ([`super::assignment`]). Data: `fixtures/vectors/r1cs/witness-2kib.json` and `witness-8mib.json`; sectors: the golden cases.

use super::assignment::{self, difference};
use super::fields::Fields;
use super::seals::{self, Sealed};
use super::{Group, Options};
use crate::hash::poseidon::fr_from_node;
use crate::ids::{Node, PostRandomness};
use crate::merkle::build;
use crate::porep::challenge;
use crate::porep::circuit::PorepCircuit;
use crate::porep::proof::{ChallengeProof, ColumnProof, VanillaProof};
use crate::post::challenge as post;
use crate::post::circuit::{LeafOpening, PostCircuit, SectorWitness};
use crate::progress::NoProgress;
use crate::snark::cs::Circuit;
use crate::snark::record::{Assignment, Matrices};
use crate::spec::{ApiVersion, RegisteredSeal, SectorSize};
use ark_bls12_381::Fr;
use ark_ff::Field;
use serde_json::Value;

/// Seals the named golden cases of a size.
fn seal(size: SectorSize, names: &[&str]) -> Vec<Sealed> {
    let mut file = fixtures::json("vectors/filecoin.json");
    let sector = &mut file["sectors"][size.to_string()];
    let cases = sector["cases"].as_array_mut().expect("a list");
    cases.retain(|case| {
        case["name"]
            .as_str()
            .is_some_and(|name| names.contains(&name))
    });
    let fields = Fields::new(sector, size.to_string()).expect("an object");
    let options = Options {
        large: false,
        scratch: std::env::temp_dir(),
    };
    let mut group = Group::new("cases");
    let sealed = seals::run(&fields, size, &options, &NoProgress, &mut group);
    assert_eq!(
        (sealed.len(), group.failed),
        (names.len(), 0),
        "{:?}",
        group.failures
    );
    sealed
}

fn fr(node: &Node) -> Fr {
    fr_from_node(node).expect("roots and nodes of a golden sector are canonical")
}

fn porep_circuit(case: &Sealed) -> PorepCircuit {
    let column = |node: u64| ColumnProof {
        labels: case
            .layers
            .iter()
            .map(|layer| layer.node(node).expect("a layer's node"))
            .collect(),
        path: build::open_tree_c(&case.tree_c, case.size, node).expect("TreeC is complete"),
    };
    let open = |node: u64| ChallengeProof {
        challenge: node,
        data: build::open_tree_d(&case.tree_d, case.size, node).expect("TreeD is complete"),
        column: column(node),
        parents: case
            .graph
            .parents(node)
            .iter()
            .map(|&parent| column(u64::from(parent)))
            .collect(),
        replica: build::open_tree_r(&case.replica, &case.tree_r, case.size, node)
            .expect("TreeR is complete"),
    };
    let challenges = challenge::interactive(case.size, &case.replica_id, &case.seed, 0);
    let proof = VanillaProof {
        // The golden porep id is no registered one; the circuit takes only the openings from here.
        seal: RegisteredSeal::v1_1(case.size),
        replica_id: case.replica_id,
        seed: case.seed,
        comm_d: case.comm_d,
        comm_c: case.comm_c,
        comm_r_last: case.comm_r_last,
        comm_r: case.comm_r,
        partitions: vec![challenges.into_iter().map(open).collect()],
    };
    proof.circuit(0).expect("golden openings are canonical")
}

fn sector_witness(case: &Sealed, leaves: &[u64]) -> SectorWitness {
    let open = |&leaf: &u64| {
        let path = build::open_tree_r(&case.replica, &case.tree_r, case.size, leaf)
            .expect("TreeR is complete");
        LeafOpening {
            leaf: fr(&path.leaf),
            path: path.witness().expect("golden openings are canonical"),
        }
    };
    SectorWitness {
        comm_r: fr(&case.comm_r.0),
        comm_c: fr(&case.comm_c.0),
        comm_r_last: fr(&case.comm_r_last.0),
        leaves: leaves.iter().map(open).collect(),
    }
}

fn compare(recorded: &Value, circuit: &impl Circuit) -> Assignment {
    assignment::compare(recorded, circuit)
        .unwrap_or_else(|why| panic!("{}: {why}", recorded["circuit"]))
}

fn check(size: SectorSize, file: &str, cases: &[&str]) {
    let recorded = fixtures::json(file);
    let sealed = seal(size, cases);
    let witnesses = recorded["witnesses"].as_array().expect("a list");
    assert_eq!(witnesses.len(), 3, "PoRep, WinningPoSt and WindowPoSt");
    for recorded in witnesses {
        let circuit = recorded["circuit"].as_str().expect("a name");
        let randomness = || {
            recorded["randomness"]
                .as_str()
                .expect("hex")
                .parse()
                .expect("canonical")
        };
        match circuit.split('-').next() {
            Some("porep") => compare(recorded, &porep_circuit(&sealed[0])),
            Some("winning") => {
                let leaves = post::winning(size, &randomness(), sealed[0].sector);
                let sectors = leaves.map(|leaf| sector_witness(&sealed[0], &[leaf]));
                compare(
                    recorded,
                    &PostCircuit {
                        sectors: sectors.into(),
                    },
                )
            }
            Some("window") => compare(recorded, &window_circuit(size, &randomness(), &sealed)),
            _ => panic!("a circuit that this test does not know: {circuit}"),
        };
    }
}

/// Recorded under the retired rule, whose indices count positions.
fn window_circuit(size: SectorSize, randomness: &PostRandomness, sealed: &[Sealed]) -> PostCircuit {
    let leaves = |position, case: &Sealed| {
        post::window_at(size, ApiVersion::V1_1, randomness, case.sector, position)
    };
    let sectors = (0..).zip(sealed);
    let sectors = sectors.map(|(i, case)| sector_witness(case, &leaves(i, case)));
    PostCircuit {
        sectors: sectors.collect(),
    }
}

/// Whatever variable is changed, the message names its checkpoint, its segment, itself or variables around it, and rows near it.
#[test]
fn a_changed_variable_is_named() {
    let size = SectorSize::Kib2;
    let recorded = fixtures::json("vectors/r1cs/witness-2kib.json");
    let witnesses = recorded["witnesses"].as_array().expect("a list");
    let recorded = &witnesses[2];
    assert_eq!(recorded["circuit"], "window-2kib");
    let randomness = recorded["randomness"].as_str().expect("hex").parse();
    let sealed = seal(size, &["golden-2048-0", "golden-2048-1"]);
    let circuit = window_circuit(size, &randomness.expect("canonical"), &sealed);
    let sound = compare(recorded, &circuit);
    let mut matrices = Matrices::default();
    circuit.synthesize(&mut matrices);
    let has = |row: usize, variable: usize| {
        let mut terms = matrices.rows[row].iter().flatten();
        terms.any(|(var, _)| var.is_aux() && var.index() == variable)
    };
    let marks: Vec<usize> = [("aux_checkpoints", 0), ("aux_digest_at_segment_end", 1)]
        .iter()
        .flat_map(|&(list, at)| {
            let list = recorded[list].as_array().expect("a list").iter();
            list.map(move |mark| mark[at].as_u64().expect("a count") as usize)
        })
        .collect();
    let (last, mut wider) = (sound.aux.len() - 1, 0);
    for variable in (0..last).step_by(997).chain([1, 63, 64, 313, 314, last]) {
        let mut found = sound.clone();
        found.aux[variable] += Fr::ONE;
        let difference = difference(recorded, &circuit, &found).expect("a difference");
        let what = format!("variable {variable}: {difference}");
        // Checkpoints stand at powers of two, the last at 16,384.
        let covers = (variable + 1).next_power_of_two();
        let checkpoint = (covers <= 16_384).then_some(covers);
        assert_eq!(difference.checkpoint, checkpoint, "{what}");
        let after = marks.iter().copied().filter(|&mark| mark > variable).min();
        let before = marks.iter().copied().filter(|&mark| mark <= variable).max();
        let narrowest = match variable < 64 {
            true => variable..variable + 1,
            false => before.unwrap_or(0)..after.expect("the whole is recorded"),
        };
        assert_eq!(difference.variables, narrowest, "{what}");
        // Its end is recorded, and so is that of the part before it.
        let ends = recorded["aux_digest_at_segment_end"].as_array();
        let ends = ends.expect("a list").iter();
        let end_of = |segment: &Value| segment[1].as_u64().expect("a count") as usize;
        let around = ends.clone().map(end_of).filter(|&end| end > variable).min();
        let named = ends.clone().find(|s| s[0] == difference.segment.as_str());
        assert_eq!(named.map(end_of), around, "{what}");
        let met = (0..matrices.rows.len()).find(|&row| has(row, variable));
        let met = met.expect("every variable is in a row");
        assert!(difference.rows.contains(&met), "{what}; met in {met}");
        let unsatisfied = difference
            .unsatisfied
            .expect("one value alone cannot change");
        assert!(has(unsatisfied, variable), "{what}");
        wider += usize::from(difference.rows.len() > 1);
    }
    assert!(wider > 0, "beyond the first 64 a range is named");
    assert_eq!(difference(recorded, &circuit, &sound), None);
}

#[test]
fn assignments_at_2_kib_are_filecoins() {
    check(
        SectorSize::Kib2,
        "vectors/r1cs/witness-2kib.json",
        &["golden-2048-0", "golden-2048-1"],
    );
}

#[test]
fn assignments_at_8_mib_are_filecoins() {
    check(
        SectorSize::Mib8,
        "vectors/r1cs/witness-8mib.json",
        &["golden-8388608-0", "golden-8388608-1"],
    );
}
