//! Whole witnesses, value for value, against the assignments recorded from Filecoin's own circuits.
//!
//! The sectors are the golden set's, sealed here in memory by the plain twins, so that neither files
//! nor fast kernels stand between the vectors and the circuits. Data: `fixtures/vectors/r1cs/`.

use ark_bls12_381::Fr;
use prover::hash::poseidon::{Arity, fr_from_node, hash_nodes};
use prover::hash::sha256;
use prover::ids::{Node, PorepId};
use prover::piece::fr32;
use prover::porep::circuit::{ChallengeWitness, ColumnOpening, PorepCircuit};
use prover::porep::graph::Graph;
use prover::porep::{challenge, replica, replica_id};
use prover::post;
use prover::post::circuit::{LeafOpening, PostCircuit, SectorWitness};
use prover::snark::cs::Circuit;
use prover::snark::gadget::merkle::Level;
use prover::spec::ApiVersion;
use prover::vectors::assignment::compare;
use prover::{
    CommD, PostRandomness, ProverId, ReplicaId, SectorNumber, SectorSize, Seed, Ticket, reference,
};
use serde_json::Value;
use sha2::{Digest, Sha256};

fn read(file: &str) -> Value {
    let path = format!("{}/../fixtures/vectors/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn list(value: &Value) -> &Vec<Value> {
    value.as_array().expect("a list")
}

fn number(value: &Value) -> u64 {
    value.as_u64().expect("a number")
}

fn bytes32(value: &Value) -> [u8; 32] {
    hex::decode(value.as_str().expect("hex"))
        .expect("hex")
        .try_into()
        .expect("32 bytes")
}

fn element(node: &Node) -> Fr {
    fr_from_node(node).expect("a canonical node")
}

fn at(index: u64) -> usize {
    usize::try_from(index).expect("a sector in memory")
}

/// A tree with all its rows, leaves first.
struct Tree {
    rows: Vec<Vec<Node>>,
    arities: Vec<usize>,
}

impl Tree {
    fn new(
        leaves: Vec<Node>,
        arities: &[usize],
        parents: impl Fn(usize, &[Node]) -> Vec<Node>,
    ) -> Tree {
        let mut rows = vec![leaves];
        for arity in arities {
            let row = parents(*arity, rows.last().expect("at least the leaves"));
            rows.push(row);
        }
        assert_eq!(rows.last().map(Vec::len), Some(1));
        Tree {
            rows,
            arities: arities.to_vec(),
        }
    }

    /// TreeD.
    fn binary(leaves: Vec<Node>) -> Tree {
        let levels = leaves.len().ilog2() as usize;
        Tree::new(leaves, &vec![2; levels], |_, row| {
            row.chunks_exact(2)
                .map(|pair| sha256::node(&pair[0], &pair[1]))
                .collect()
        })
    }

    /// TreeC or TreeR of a sector with one base tree.
    fn octal(leaves: Vec<Node>) -> Tree {
        let levels = leaves.len().ilog2() as usize / 3;
        Tree::new(leaves, &vec![8; levels], |_, row| {
            hash_all(Arity::Eight, row)
        })
    }

    fn root(&self) -> Node {
        self.rows[self.rows.len() - 1][0]
    }

    fn path(&self, leaf: u64) -> Vec<Level> {
        let mut index = at(leaf);
        self.arities
            .iter()
            .zip(&self.rows)
            .map(|(arity, row)| {
                let (group, position) = (index / arity, index % arity);
                index = group;
                let children = &row[group * arity..(group + 1) * arity];
                let others = children.iter().enumerate().filter(|(i, _)| *i != position);
                Level {
                    index: u8::try_from(position).expect("below eight"),
                    siblings: others.map(|(_, node)| element(node)).collect(),
                }
            })
            .collect()
    }
}

fn hash_all(arity: Arity, nodes: &[Node]) -> Vec<Node> {
    let mut out = vec![[0; 32]; nodes.len() / arity.len()];
    hash_nodes(arity, nodes, &mut out).expect("canonical nodes");
    out
}

/// A golden sector, sealed.
struct Sector {
    size: SectorSize,
    number: SectorNumber,
    replica_id: ReplicaId,
    seed: Seed,
    graph: Graph,
    layers: Vec<Vec<Node>>,
    data: Tree,
    columns: Tree,
    replica: Tree,
    comm_r: Node,
}

impl Sector {
    fn seal(size: SectorSize, case: &Value) -> Sector {
        let data = staged(size, case);
        let porep_id = PorepId(bytes32(&case["porep_id"]));
        let data = Tree::binary(data);
        let number = SectorNumber(number(&case["sector_id"]));
        let prover = ProverId(bytes32(&case["prover_id"]));
        let ticket = Ticket(bytes32(&case["ticket"]));
        let replica_id = replica_id(&prover, number, &ticket, &CommD(data.root()), &porep_id);
        assert_eq!(replica_id.0, bytes32(&case["replica_id"]));

        let label = |layer, previous: Option<&[Node]>| {
            reference::labels(
                layer,
                size.nodes(),
                &porep_id,
                ApiVersion::V1_1,
                &replica_id,
                previous,
            )
        };
        let first = label(1, None);
        let second = label(2, Some(&first));
        let columns: Vec<Node> = first
            .iter()
            .zip(&second)
            .flat_map(|(a, b)| [*a, *b])
            .collect();
        let columns = Tree::octal(hash_all(Arity::Two, &columns));
        let encoded = data.rows[0].iter().zip(&second);
        let encoded = encoded
            .map(|(data, key)| replica::encode(data, key).expect("canonical nodes"))
            .collect();
        let replica = Tree::octal(encoded);
        let comm_r = hash_all(Arity::Two, &[columns.root(), replica.root()])[0];
        assert_eq!(comm_r, bytes32(&case["comm_r"]));
        Sector {
            size,
            number,
            replica_id,
            seed: Seed(bytes32(&case["seed"])),
            graph: Graph::new(size, &porep_id, ApiVersion::V1_1),
            layers: vec![first, second],
            data,
            columns,
            replica,
            comm_r,
        }
    }

    fn column(&self, node: u64) -> ColumnOpening {
        ColumnOpening {
            labels: self
                .layers
                .iter()
                .map(|layer| element(&layer[at(node)]))
                .collect(),
            path: self.columns.path(node),
        }
    }

    fn porep(&self) -> PorepCircuit {
        let challenges = challenge::interactive(self.size, &self.replica_id, &self.seed, 0);
        let open = |node: u64| ChallengeWitness {
            node,
            data: element(&self.data.rows[0][at(node)]),
            data_path: self.data.path(node),
            parents: self
                .graph
                .parents(node)
                .iter()
                .map(|parent| self.column(u64::from(*parent)))
                .collect(),
            replica_path: self.replica.path(node),
            column_path: self.columns.path(node),
        };
        PorepCircuit {
            replica_id: element(&self.replica_id.0),
            comm_d: element(&self.data.root()),
            comm_r: element(&self.comm_r),
            comm_r_last: element(&self.replica.root()),
            comm_c: element(&self.columns.root()),
            challenges: challenges.into_iter().map(open).collect(),
        }
    }

    fn opened(&self, leaves: &[u64]) -> SectorWitness {
        let open = |leaf: &u64| LeafOpening {
            leaf: element(&self.replica.rows[0][at(*leaf)]),
            path: self.replica.path(*leaf),
        };
        SectorWitness {
            comm_r: element(&self.comm_r),
            comm_c: element(&self.columns.root()),
            comm_r_last: element(&self.replica.root()),
            leaves: leaves.iter().map(open).collect(),
        }
    }
}

/// The padded data: pieces by their rule at their places.
fn staged(size: SectorSize, case: &Value) -> Vec<Node> {
    let mut bytes = vec![0; at(size.bytes())];
    for piece in list(&case["pieces"]) {
        let (mult, add) = (
            number(&piece["rule"]["mult"]),
            number(&piece["rule"]["add"]),
        );
        let byte = |i: u64| (i * mult + add + (i >> 8) * 11 + (i >> 16) * 13).to_le_bytes()[0];
        let raw: Vec<u8> = (0..number(&piece["unpadded_len"])).map(byte).collect();
        let padded = fr32::pad(&raw);
        let start = at(number(&piece["padded_offset"]));
        bytes[start..start + padded.len()].copy_from_slice(&padded);
    }
    // The recorded file ends with its last piece; the sector goes on with zeros.
    let staged = &bytes[..at(number(&case["staged_file_bytes"]))];
    assert_eq!(hex::encode(Sha256::digest(staged)), case["staged_sha256"]);
    reference::nodes_of(&bytes)
}

fn assert_witness(recorded: &Value, circuit: &impl Circuit) {
    if let Err(why) = compare(recorded, circuit) {
        panic!("{}: {why}", recorded["circuit"]);
    }
}

fn witnesses_are_filecoins(size: SectorSize) {
    let golden = read("filecoin.json");
    let cases = list(&golden["sectors"][size.to_string()]["cases"]);
    let recorded = read(&format!(
        "r1cs/witness-{}.json",
        size.to_string().to_lowercase()
    ));
    let seal = |name: &Value| {
        let case = cases.iter().find(|case| case["name"] == *name);
        Sector::seal(size, case.expect("the golden set has the case"))
    };
    for recorded in list(&recorded["witnesses"]) {
        let circuit = recorded["circuit"].as_str().expect("a name");
        if circuit.starts_with("porep") {
            assert_witness(recorded, &seal(&recorded["case"]).porep());
            continue;
        }
        let randomness = PostRandomness::new(bytes32(&recorded["randomness"])).expect("canonical");
        let sectors: Vec<Sector> = list(&recorded["cases_in_sector_order"])
            .iter()
            .map(seal)
            .collect();
        let listed = if circuit.starts_with("winning") {
            let leaves = post::challenge::winning(size, &randomness, sectors[0].number);
            leaves
                .iter()
                .map(|leaf| sectors[0].opened(&[*leaf]))
                .collect()
        } else {
            let open = |(sector, position): (&Sector, u64)| {
                let leaves = post::challenge::window_at(
                    size,
                    ApiVersion::V1_1,
                    &randomness,
                    sector.number,
                    position,
                );
                sector.opened(&leaves)
            };
            sectors.iter().zip(0..).map(open).collect()
        };
        assert_witness(recorded, &PostCircuit { sectors: listed });
    }
}

#[test]
fn witnesses_are_filecoins_at_2_kib() {
    witnesses_are_filecoins(SectorSize::Kib2);
}

/// A minute by the plain twins; by the fast kernels `vectors::witness` compares the same digests always.
#[test]
#[ignore = "the plain twins label four sectors of 8 MiB; run by `cargo test -p prover -- --ignored`"]
fn witnesses_are_filecoins_at_8_mib_full() {
    witnesses_are_filecoins(SectorSize::Mib8);
}
