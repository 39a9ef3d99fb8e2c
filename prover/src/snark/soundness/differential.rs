//! The vanilla verifier and the circuit, side by side, on valid statements and on statements with one thing changed.
//!
//! The circuit's verdict is computed as a chain would see it: the witness made from the vanilla proof satisfies every row
//! of the pinned shape, and its inputs are those that the verifier derives from the statement alone. Groth16 stands between
//! the two in production and adds no rule. Fields of a PoRep's vanilla proof that the circuit recomputes instead of taking
//! are listed apart ([`RECOMPUTED`], [`UPDATE_RECOMPUTED`]): changing them is refused by the vanilla verifier and leaves the circuit's witness as it was.
//!
//! Cost: a window at 2 to 32 KiB takes 2-4 ms, a winning proof four times that, a PoRep or an update about a second.

use ark_bls12_381::Fr;
use ark_ff::{AdditiveGroup, Field};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::{Sector, alias, value_of};
use crate::commitment::CommR;
use crate::hash::poseidon::{fr_from_node, hash_update};
use crate::ids::{Node, PostRandomness};
use crate::merkle::path::PoseidonPath;
use crate::porep::challenge::interactive;
use crate::porep::graph::Graph;
use crate::porep::proof::{self as porep, VanillaProof};
use crate::post::challenge;
use crate::post::circuit::PostCircuit;
use crate::post::proof::{self as post, SectorProof};
use crate::snark::cs::{Circuit, ConstraintSystem, Term, Var};
use crate::snark::record::Counts;
use crate::snark::shape::pinned;
use crate::snark::testing::rng;
use crate::snark::{CircuitId, CircuitKind};
use crate::spec::SectorSize;
use crate::update::circuit::UpdateCircuit;
use crate::update::proof as update;
use crate::update::sector::tests::Case;
use crate::verify::{UpdateStatement, porep_partition_inputs, post_inputs, update_inputs};

const SHAPES: [SectorSize; 4] = [
    SectorSize::Kib2,
    SectorSize::Kib4,
    SectorSize::Kib16,
    SectorSize::Kib32,
];

/// Evaluates every row as it comes.
struct Judge {
    counts: Counts,
    inputs: Vec<Fr>,
    aux: Vec<Fr>,
    satisfied: bool,
}

impl Judge {
    /// Whether the circuit, with the witness it carries, accepts these inputs (the constant one left out).
    fn accepts(id: CircuitId, circuit: &impl Circuit, inputs: &[Fr]) -> bool {
        let mut judge = Judge {
            counts: Counts::EMPTY,
            inputs: vec![Fr::ONE],
            aux: Vec::with_capacity(pinned(id).counts.aux),
            satisfied: true,
        };
        circuit.synthesize(&mut judge);
        judge.satisfied && judge.counts == pinned(id).counts && judge.inputs[1..] == *inputs
    }
}

impl ConstraintSystem for Judge {
    fn aux(&mut self, value: Fr) -> Var {
        self.aux.push(value);
        self.counts.next_aux()
    }
    fn input(&mut self, value: Fr) -> Var {
        self.inputs.push(value);
        self.counts.next_input()
    }
    fn row(&mut self, a: &[Term], b: &[Term], c: &[Term]) {
        self.counts.constraints += 1;
        let [a, b, c] = [a, b, c].map(|side| value_of(side, &self.inputs, &self.aux));
        self.satisfied &= a * b == c;
    }
}

/// One bit of a node; the top bits make it no field element.
fn bend(node: &mut Node, rng: &mut ChaCha8Rng) {
    node[rng.gen_range(0..32)] ^= 1 << rng.gen_range(0..8);
}

fn pick<'a, T>(list: &'a mut [T], rng: &mut ChaCha8Rng) -> &'a mut T {
    let at = rng.gen_range(0..list.len());
    &mut list[at]
}

/// Changes one thing of an opening.
fn bend_path(path: &mut PoseidonPath, rng: &mut ChaCha8Rng) -> &'static str {
    match rng.gen_range(0..7) {
        0 => {
            bend(&mut path.leaf, rng);
            "leaf"
        }
        1 => {
            path.index ^= 1 << rng.gen_range(0..64);
            "index"
        }
        2 => {
            let level = pick(&mut path.levels, rng);
            bend(pick(level, rng), rng);
            "sibling"
        }
        3 => {
            pick(&mut path.levels, rng).rotate_left(1);
            "order of siblings"
        }
        4 => {
            path.levels.pop();
            "level missing"
        }
        5 => {
            let top = path.levels[0].clone();
            path.levels.push(top);
            "level too many"
        }
        _ => {
            path.levels.swap(0, 1);
            "order of levels"
        }
    }
}

/// Changes one thing of a sector's openings.
fn bend_sector(sector: &mut SectorProof, rng: &mut ChaCha8Rng) -> &'static str {
    match rng.gen_range(0..12) {
        0 => {
            bend(&mut sector.comm_c.0, rng);
            "comm_c"
        }
        1 => {
            bend(&mut sector.comm_r_last.0, rng);
            "comm_r_last"
        }
        2 => {
            bend(&mut sector.comm_r.0, rng);
            "comm_r"
        }
        3 => {
            std::mem::swap(&mut sector.comm_c.0, &mut sector.comm_r_last.0);
            "roots exchanged"
        }
        4 => {
            sector.openings.pop();
            "opening missing"
        }
        5 => {
            sector.openings.swap(0, 1);
            "order of openings"
        }
        _ => bend_path(pick(&mut sector.openings, rng), rng),
    }
}

/// One PoSt statement with its vanilla proof: per listed sector what the chain knows, and what the prover opens.
struct PostCase {
    id: CircuitId,
    chain: Vec<(CommR, Vec<u64>)>,
    proofs: Vec<SectorProof>,
}

impl PostCase {
    fn new(kind: CircuitKind, sectors: &[Sector], rng: &mut ChaCha8Rng) -> PostCase {
        let size = sectors[0].size;
        let randomness = PostRandomness::masked(rng.r#gen());
        let list = |sector: &Sector, leaves: &[u64]| {
            (
                (sector.porep.comm_r, leaves.to_vec()),
                sector.opened(leaves),
            )
        };
        let listed: Vec<_> = match kind {
            CircuitKind::WinningPost => {
                let sector = &sectors[rng.gen_range(0..sectors.len())];
                let leaves = challenge::winning(size, &randomness, sector.number);
                leaves.iter().map(|leaf| list(sector, &[*leaf])).collect()
            }
            _ => sectors
                .iter()
                .map(|sector| list(sector, &challenge::window(size, &randomness, sector.number)))
                .collect(),
        };
        let (chain, proofs) = listed.into_iter().unzip();
        PostCase {
            id: CircuitId { kind, size },
            chain,
            proofs,
        }
    }

    /// Changes one thing on either side, or nothing.
    fn bend(&mut self, rng: &mut ChaCha8Rng) -> &'static str {
        match rng.gen_range(0..16) {
            0 => "nothing",
            1 => {
                let (comm_r, _) = pick(&mut self.chain, rng);
                bend(&mut comm_r.0, rng);
                "the chain's comm_r"
            }
            2 => {
                let nodes = self.id.size.nodes();
                let (_, leaves) = pick(&mut self.chain, rng);
                *pick(leaves, rng) = rng.gen_range(0..nodes);
                "the drawn leaf"
            }
            3 => {
                self.proofs.swap(0, 1);
                "order of sectors"
            }
            _ => {
                // An opening of a one-leaf list has no neighbour to change places with.
                if self.id.kind == CircuitKind::WinningPost {
                    bend_path(&mut pick(&mut self.proofs, rng).openings[0], rng)
                } else {
                    bend_sector(pick(&mut self.proofs, rng), rng)
                }
            }
        }
    }

    fn vanilla(&self) -> bool {
        self.proofs
            .iter()
            .zip(&self.chain)
            .all(|(proof, (comm_r, leaves))| {
                proof.comm_r == *comm_r && post::verify(proof, self.id.size, leaves).is_ok()
            })
    }

    fn circuit(&self) -> bool {
        let sectors = self
            .proofs
            .iter()
            .map(|proof| proof.witness(0..proof.openings.len()));
        let inputs = post_inputs(self.chain.iter().map(|(comm_r, leaves)| (*comm_r, leaves)));
        let (Some(sectors), Ok(inputs)) = (sectors.collect(), inputs) else {
            return false;
        };
        Judge::accepts(self.id, &PostCircuit { sectors }, &inputs)
    }
}

/// Random statements, most of them with one thing changed; returns how many were accepted by both.
fn assert_post_agrees(kind: CircuitKind, size: SectorSize, statements: u64, seed: u64) -> u64 {
    let sectors: Vec<Sector> = (1..=size.window_sectors() as u64)
        .map(|number| Sector::seal(size, number))
        .collect();
    (0..statements)
        .into_par_iter()
        .map(|i| {
            let mut rng = rng(seed << 32 | i);
            let mut case = PostCase::new(kind, &sectors, &mut rng);
            let what = if i == 0 {
                "nothing"
            } else {
                case.bend(&mut rng)
            };
            let verdicts = (case.vanilla(), case.circuit());
            assert_eq!(
                verdicts.0, verdicts.1,
                "{}: {what} (statement {i}, seed {seed})",
                case.id
            );
            assert!(
                what != "nothing" || verdicts.0,
                "{}: a valid statement",
                case.id
            );
            u64::from(verdicts.0)
        })
        .sum()
}

fn assert_post_agrees_at_all_shapes(windows: u64, winnings: u64, seed: u64) {
    for size in SHAPES {
        for (kind, statements) in [
            (CircuitKind::WindowPost, windows),
            (CircuitKind::WinningPost, winnings),
        ] {
            let accepted = assert_post_agrees(kind, size, statements, seed);
            assert!(
                accepted >= 1 && accepted < statements,
                "{size}: {accepted} of {statements}"
            );
        }
    }
}

#[test]
fn tm_p15_the_vanilla_verifier_and_the_post_circuits_agree() {
    assert_post_agrees_at_all_shapes(120, 16, 20);
}

#[test]
#[ignore = "minutes; the bounded sample runs always, the full one by `cargo test -p prover -- --ignored`"]
fn tm_p15_the_vanilla_verifier_and_the_post_circuits_agree_full() {
    assert_post_agrees_at_all_shapes(2_600, 300, 21);
}

type Change<P = VanillaProof> = (&'static str, fn(&mut P));

/// Every field of a PoRep's vanilla proof that the circuit takes, changed on its own.
const TAKEN: [Change; 20] = [
    ("replica id", |p| p.replica_id.0[3] ^= 1),
    ("comm_d", |p| p.comm_d.0[3] ^= 1),
    ("comm_c", |p| p.comm_c.0[3] ^= 1),
    ("comm_r_last", |p| p.comm_r_last.0[3] ^= 1),
    ("comm_r", |p| p.comm_r.0[3] ^= 1),
    ("challenge", |p| p.partitions[0][0].challenge ^= 1),
    ("order of challenges", |p| p.partitions[0].swap(0, 1)),
    ("a challenge twice", |p| {
        p.partitions[0][1] = p.partitions[0][0].clone()
    }),
    ("data leaf", |p| p.partitions[0][1].data.leaf[3] ^= 1),
    ("data index", |p| p.partitions[0][0].data.index ^= 1),
    ("data sibling", |p| {
        p.partitions[0][1].data.siblings[5][3] ^= 1
    }),
    ("own column index", |p| {
        p.partitions[0][0].column.path.index ^= 1
    }),
    ("own column sibling", |p| {
        p.partitions[0][1].column.path.levels[1][6][3] ^= 1
    }),
    ("base parent's label", |p| {
        p.partitions[0][0].parents[0].labels[1][3] ^= 1
    }),
    ("expander parent's label", |p| {
        p.partitions[0][1].parents[13].labels[0][3] ^= 1
    }),
    // Hashed into the column only: layer 2 of an expander parent feeds no label of a two-layer sector.
    ("expander parent's last label", |p| {
        p.partitions[0][0].parents[13].labels[1][3] ^= 1
    }),
    ("parent's index", |p| {
        p.partitions[0][0].parents[7].path.index ^= 1
    }),
    ("parent's sibling", |p| {
        p.partitions[0][1].parents[6].path.levels[0][2][3] ^= 1
    }),
    ("replica index", |p| p.partitions[0][1].replica.index ^= 1),
    ("replica sibling", |p| {
        p.partitions[0][0].replica.levels[1][0][3] ^= 1
    }),
];

/// Fields that the circuit computes again from the others.
const RECOMPUTED: [Change; 4] = [
    ("own label", |p| p.partitions[0][0].column.labels[0][3] ^= 1),
    ("own column hash", |p| {
        p.partitions[0][0].column.path.leaf[3] ^= 1
    }),
    ("parent's column hash", |p| {
        p.partitions[0][1].parents[9].path.leaf[3] ^= 1
    }),
    ("replica leaf", |p| p.partitions[0][1].replica.leaf[3] ^= 1),
];

/// The inputs that the verifier derives from a statement.
fn porep_inputs(statement: &VanillaProof) -> Option<Vec<Fr>> {
    let seal = statement.seal;
    let graph = Graph::new(seal.size, &seal.porep_id(), seal.api_version());
    let drawn = interactive(seal.size, &statement.replica_id, &statement.seed, 0);
    let VanillaProof {
        replica_id,
        comm_d,
        comm_r,
        ..
    } = statement;
    porep_partition_inputs(&graph, replica_id, comm_d, comm_r, &drawn).ok()
}

/// `sound` is what the chain knows: its ids, roots and seed make the inputs; `proof` is what the prover has.
fn porep_verdicts(sound: &VanillaProof, proof: &VanillaProof) -> (bool, bool) {
    let same_statement = proof.replica_id == sound.replica_id
        && proof.comm_d == sound.comm_d
        && proof.comm_r == sound.comm_r;
    let id = CircuitId::porep(sound.seal.size);
    let circuit = || {
        let inputs = porep_inputs(sound)?;
        Some(Judge::accepts(id, &proof.circuit(0)?, &inputs))
    };
    (
        same_statement && porep::verify(proof).is_ok(),
        circuit().unwrap_or(false),
    )
}

/// Each change of what the circuit takes is refused by both; each of what it computes again is refused by the vanilla verifier
/// and leaves the witness as it was.
fn assert_agrees<P: Clone + PartialEq + std::fmt::Debug + Sync, C: PartialEq + std::fmt::Debug>(
    size: SectorSize,
    sound: &P,
    [taken, recomputed]: [&[Change<P>]; 2],
    verdicts: impl Fn(&P, &P) -> (bool, bool) + Sync,
    vanilla: impl Fn(&P) -> bool,
    circuit: impl Fn(&P) -> C,
) {
    assert_eq!(
        verdicts(sound, sound),
        (true, true),
        "{size}: nothing changed"
    );
    let changed = |change: &fn(&mut P)| {
        let mut proof = sound.clone();
        change(&mut proof);
        assert_ne!(proof, *sound);
        proof
    };
    taken.par_iter().for_each(|(what, change)| {
        let both = verdicts(sound, &changed(change));
        assert_eq!(both, (false, false), "{size}: {what}");
    });
    for (what, change) in recomputed {
        let proof = changed(change);
        assert!(!vanilla(&proof), "{size}: {what}");
        assert_eq!(circuit(&proof), circuit(sound), "{size}: {what}");
    }
}

fn assert_porep_agrees(size: SectorSize, changes: &[Change]) {
    let sound = Sector::seal(size, 1).porep;
    let changes = [changes, &RECOMPUTED];
    let vanilla = |p: &VanillaProof| porep::verify(p).is_ok();
    assert_agrees(size, &sound, changes, porep_verdicts, vanilla, |p| {
        p.circuit(0)
    });
}

/// Every fourth field; the others and the other shapes are in the full run.
#[test]
fn tm_p15_the_vanilla_verifier_and_the_porep_circuit_agree() {
    let some: Vec<Change> = TAKEN.into_iter().step_by(4).collect();
    assert_porep_agrees(SectorSize::Kib2, &some);
}

#[test]
#[ignore = "minutes; the bounded sample runs always, the full one by `cargo test -p prover -- --ignored`"]
fn tm_p15_the_vanilla_verifier_and_the_porep_circuit_agree_full() {
    SHAPES
        .into_iter()
        .for_each(|size| assert_porep_agrees(size, &TAKEN));
}

/// Every field of an update's vanilla proof that the circuit takes, changed on its own.
const UPDATE_TAKEN: [Change<update::VanillaProof>; 18] = [
    ("old comm_r", |p| p.comm_r_old.0[3] ^= 1),
    ("new comm_d", |p| p.comm_d_new.0[3] ^= 1),
    ("new comm_r", |p| p.comm_r_new.0[3] ^= 1),
    ("comm_c", |p| p.comm_c.0[3] ^= 1),
    ("old root", |p| p.comm_r_last_old.0[3] ^= 1),
    ("new root", |p| p.comm_r_last_new.0[3] ^= 1),
    ("roots exchanged", |p| {
        std::mem::swap(&mut p.comm_r_last_old, &mut p.comm_r_last_new)
    }),
    ("an apex leaf", |p| p.partitions[0].apex_leaves[7][3] ^= 1),
    ("order of apex leaves", |p| {
        p.partitions[0].apex_leaves.swap(0, 1)
    }),
    ("order of challenges", |p| {
        p.partitions[0].challenges.swap(0, 1)
    }),
    ("a challenge twice", |p| {
        p.partitions[0].challenges[9] = p.partitions[0].challenges[8].clone()
    }),
    ("old leaf", |p| {
        p.partitions[0].challenges[0].old.leaf[3] ^= 1
    }),
    ("old sibling", |p| {
        p.partitions[0].challenges[9].old.levels[1][6][3] ^= 1
    }),
    ("data leaf", |p| {
        p.partitions[0].challenges[1].data.leaf[3] ^= 1
    }),
    // Above it the apex leaves stand in: 16 KiB has one level below them.
    ("data sibling", |p| {
        let siblings = &mut p.partitions[0].challenges[2].data.siblings;
        siblings.last_mut().expect("a level below the apex")[3] ^= 1
    }),
    ("new sibling", |p| {
        p.partitions[0].challenges[3].new.levels[0][0][3] ^= 1
    }),
    ("an apex leaf missing", |p| {
        p.partitions[0].apex_leaves.pop();
    }),
    ("a level missing", |p| {
        p.partitions[0].challenges[4].old.levels.pop();
    }),
];

/// Fields that the circuit computes again from the others.
const UPDATE_RECOMPUTED: [Change<update::VanillaProof>; 4] = [
    ("new leaf", |p| {
        p.partitions[0].challenges[0].new.leaf[3] ^= 1
    }),
    ("old index", |p| {
        p.partitions[0].challenges[1].old.index ^= 1
    }),
    ("data index", |p| {
        p.partitions[0].challenges[2].data.index ^= 1
    }),
    ("new index", |p| {
        p.partitions[0].challenges[3].new.index ^= 1
    }),
];

/// `sound` is what the chain knows: its commitments make the inputs; `proof` is what the prover has.
fn update_verdicts(sound: &update::VanillaProof, proof: &update::VanillaProof) -> (bool, bool) {
    let statement = |p: &update::VanillaProof| UpdateStatement {
        size: p.size,
        comm_r_old: p.comm_r_old,
        comm_d_new: p.comm_d_new,
        comm_r_new: p.comm_r_new,
    };
    let inputs = update_inputs(&statement(sound)).expect("a sound statement");
    let id = CircuitId::update(sound.size);
    let circuit = inputs.iter().enumerate().all(|(partition, inputs)| {
        let circuit = proof.circuit(partition);
        circuit.is_some_and(|circuit| Judge::accepts(id, &circuit, inputs))
    });
    (
        statement(proof) == statement(sound) && update::verify(proof).is_ok(),
        circuit,
    )
}

fn assert_update_agrees(size: SectorSize, changes: &[Change<update::VanillaProof>]) {
    let sound = Case::new(size, 1).vanilla();
    let changes = [changes, &UPDATE_RECOMPUTED];
    let vanilla = |p: &update::VanillaProof| update::verify(p).is_ok();
    assert_agrees(size, &sound, changes, update_verdicts, vanilla, |p| {
        p.circuit(0)
    });
}

/// Every third field; the others and the other shapes are in the full run.
#[test]
fn tm_p15_the_vanilla_verifier_and_the_update_circuit_agree() {
    let some: Vec<_> = UPDATE_TAKEN.into_iter().step_by(3).collect();
    assert_update_agrees(SectorSize::Kib2, &some);
}

#[test]
#[ignore = "minutes; the bounded sample runs always, the full one by `cargo test -p prover -- --ignored`"]
fn tm_p15_the_vanilla_verifier_and_the_update_circuit_agree_full() {
    SHAPES
        .into_iter()
        .for_each(|size| assert_update_agrees(size, &UPDATE_TAKEN));
}

/// The vanilla half of the full run, in the shapes that the sample above leaves out: there every change is one, and is refused.
#[test]
fn tm_p15_the_vanilla_verifier_refuses_every_change_of_an_update_in_larger_shapes() {
    for size in &SHAPES[1..] {
        let sound = Case::new(*size, 1).vanilla();
        assert_eq!(update::verify(&sound), Ok(()), "{size}");
        for (what, change) in UPDATE_TAKEN.iter().chain(&UPDATE_RECOMPUTED) {
            let mut proof = sound.clone();
            change(&mut proof);
            assert_ne!(proof, sound, "{size}: {what}");
            assert!(update::verify(&proof).is_err(), "{size}: {what}");
        }
    }
}

/// Partitions are told apart by the first input alone: a partition's circuit under another one's inputs fails.
#[test]
fn tm_p14_a_partition_of_an_update_does_not_stand_for_another() {
    let mut proof = Case::new(SectorSize::Kib16, 1).vanilla();
    let sound = proof.clone();
    assert_eq!(update::verify(&proof), Ok(()));
    proof.partitions.swap(0, 1);
    assert!(update::verify(&proof).is_err());
    let statement = UpdateStatement {
        size: sound.size,
        comm_r_old: sound.comm_r_old,
        comm_d_new: sound.comm_d_new,
        comm_r_new: sound.comm_r_new,
    };
    let inputs = update_inputs(&statement).expect("a sound statement");
    let circuit = sound.circuit(0).expect("canonical");
    let id = CircuitId::update(sound.size);
    assert!(Judge::accepts(id, &circuit, &inputs[0]));
    assert!(!Judge::accepts(id, &circuit, &inputs[1]));
    // With the first input's own number in the circuit, the openings are the wrong ones.
    let mut other = circuit;
    other.selector = inputs[1][0];
    assert!(!Judge::accepts(id, &other, &inputs[1]));
}

/// An update whose digests take their second spelling.
struct Aliased(UpdateCircuit);

impl Circuit for Aliased {
    fn synthesize<CS: ConstraintSystem>(&self, cs: &mut CS) {
        self.0
            .synthesize_spelled(cs, |digest| alias(digest).expect("this digest has one").0);
    }
}

/// The looseness that `update::circuit` argues at its digests, pinned: where a digest has a second spelling, a prover may answer
/// the nodes that this one draws instead: these and no others, as many as ever. The vanilla verifier, which spells a digest
/// once, refuses that.
#[test]
fn tm_p15_the_alias_of_a_digest_draws_other_nodes_and_takes_as_many_openings() {
    let size = SectorSize::Kib2;
    let (case, sound, spelled) = (1..)
        .find_map(|number| {
            let case = Case::new(size, number);
            let sound = case.vanilla();
            let comm_r_new = fr_from_node(&sound.comm_r_new.0)?;
            let spelled = alias(hash_update(&[comm_r_new, Fr::ZERO]))?;
            Some((case, sound, spelled.0))
        })
        .expect("a tenth of all digests has an alias");
    // One partition, and one digest of ten times six bits.
    let nodes: Vec<u64> = (0..10).map(|i| spelled[0] >> (6 * i) & 63).collect();
    let drawn = crate::update::challenge::partition(size, &sound.comm_r_new, 0).expect("canonical");
    assert_ne!(drawn, nodes);
    let mut other = sound.clone();
    other.partitions[0].challenges = case.open(&nodes);
    assert!(update::verify(&other).is_err());

    let inputs = update_inputs(case.updated.statement()).expect("a sound statement");
    let circuit = |proof: &update::VanillaProof| proof.circuit(0).expect("canonical");
    let accepts = |circuit: &Aliased| Judge::accepts(CircuitId::update(size), circuit, &inputs[0]);
    let plain = Judge::accepts(CircuitId::update(size), &circuit(&other), &inputs[0]);
    assert!(
        !plain,
        "openings of nodes that the first spelling does not draw"
    );
    assert!(
        !accepts(&Aliased(circuit(&sound))),
        "nor the other way round"
    );
    assert!(accepts(&Aliased(circuit(&other))), "as loose as Filecoin's");
    other.partitions[0].challenges[9] = case.open(&[nodes[9] ^ 1]).remove(0);
    assert!(!accepts(&Aliased(circuit(&other))), "each of them is asked");
}
