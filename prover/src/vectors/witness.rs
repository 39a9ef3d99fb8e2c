//! Test: whole assignments of Filecoin's circuits over golden sectors, compared by digest with recorded ones.
//!
//! Rows say what a circuit demands; these digests say that our values, in our order, are the ones that Filecoin's prover
//! feeds to its own. Data: `fixtures/vectors/r1cs/witness-2kib.json` and `witness-8mib.json`; sectors: the golden cases.

use super::fields::Fields;
use super::seals::{self, Sealed};
use super::{Group, Options};
use crate::hash::poseidon::{fr_from_node, node_from_fr};
use crate::ids::Node;
use crate::merkle::build;
use crate::porep::challenge;
use crate::porep::circuit::PorepCircuit;
use crate::porep::proof::{ChallengeProof, ColumnProof, VanillaProof};
use crate::post::challenge as post;
use crate::post::circuit::{LeafOpening, PostCircuit, SectorWitness};
use crate::progress::NoProgress;
use crate::snark::record::Assignment;
use crate::spec::{ApiVersion, RegisteredSeal, SectorSize};
use ark_bls12_381::Fr;
use serde_json::Value;
use sha2::{Digest, Sha256};

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

/// SHA-256 over values of 32 little-endian bytes.
fn digest(values: &[Fr]) -> String {
    let mut hasher = Sha256::new();
    for value in values {
        hasher.update(node_from_fr(value));
    }
    hex::encode(hasher.finalize())
}

fn compare(recorded: &Value, found: &Assignment) {
    let name = &recorded["circuit"];
    let count =
        |key: &str| usize::try_from(recorded[key].as_u64().expect("a count")).expect("small");
    let inputs = &found.inputs;
    assert_eq!(inputs.len(), count("inputs"), "{name}: public inputs");
    assert_eq!(
        digest(inputs),
        recorded["input_sha256"],
        "{name}: public inputs"
    );
    assert_eq!(found.aux.len(), count("aux"), "{name}: auxiliary values");
    assert_eq!(
        found.counts.constraints,
        count("constraints"),
        "{name}: rows"
    );
    if digest(&found.aux) != recorded["aux_sha256"] {
        panic!(
            "{name}: values differ, first in segment {:?}",
            first_different(recorded, &found.aux)
        );
    }
}

/// Name of the first recorded segment up to whose end the values differ: where to look.
fn first_different<'a>(recorded: &'a Value, aux: &[Fr]) -> Option<&'a str> {
    let mut segments: Vec<(usize, &str, &str)> = recorded["aux_digest_at_segment_end"]
        .as_array()?
        .iter()
        .map(|segment| {
            let end = usize::try_from(segment[1].as_u64()?).ok()?;
            Some((end, segment[0].as_str()?, segment[2].as_str()?))
        })
        .collect::<Option<_>>()?;
    segments.sort_unstable();
    let differs = |&(end, _, start): &(usize, &str, &str)| !digest(&aux[..end]).starts_with(start);
    segments.into_iter().find(differs).map(|(_, name, _)| name)
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
        let assignment = match circuit.split('-').next() {
            Some("porep") => Assignment::of(&porep_circuit(&sealed[0])),
            Some("winning") => {
                let leaves = post::winning(size, &randomness(), sealed[0].sector);
                Assignment::of(&PostCircuit {
                    sectors: leaves
                        .map(|leaf| sector_witness(&sealed[0], &[leaf]))
                        .into(),
                })
            }
            Some("window") => {
                // Recorded under the retired rule, whose indices count positions.
                let leaves = |position, case: &Sealed| {
                    post::window_at(size, ApiVersion::V1_1, &randomness(), case.sector, position)
                };
                let sectors = (0..).zip(&sealed);
                let sectors = sectors
                    .map(|(i, case)| sector_witness(case, &leaves(i, case)))
                    .collect();
                Assignment::of(&PostCircuit { sectors })
            }
            _ => panic!("a circuit that this test does not know: {circuit}"),
        };
        compare(recorded, &assignment);
    }
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
