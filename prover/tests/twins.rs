//! Whole operations give the same bytes and the same verdicts with and without the CPU's wide instructions: sealing, an
//! update, keys, proofs, batches. A process of its own, because [`prover::instructions::portable_only`] is for all threads;
//! for the same reason one test runs at a time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ark_bls12_381::{Bls12_381, Fr};
use ark_ec::CurveGroup;
use ark_ff::Field;
use ark_groth16::Proof;
use ark_serialize::{CanonicalDeserialize, CanonicalSerialize};
use prover::hash::sha256;
use prover::machine::Plan;
use prover::piece::commp::commp_of;
use prover::post::proof::{ReplicaRef, prove_window};
use prover::seal::{self, CheckDepth, SealRequest, label_all, replica_check, unseal_range};
use prover::snark::keys::ParamStore;
use prover::snark::measure;
use prover::update::sector;
use prover::verify::{
    self, CircuitId, ProofBytesError, Statement, VerifyError, VerifyingKeys, WindowPostStatement,
    WinningPostStatement,
};
use prover::{
    CommR, NoProgress, PieceInfo, PostRandomness, ProverId, RegisteredSeal, SectorNumber,
    SectorSize, Seed, Ticket,
};
use serde_json::Value;

const SIZE: SectorSize = SectorSize::Kib2;

/// Held by each test while it runs.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The same work with and without wide instructions.
fn both<T>(_alone: &MutexGuard<'_, ()>, work: impl Fn(bool) -> T) -> [T; 2] {
    let results = [false, true].map(|portable| {
        prover::instructions::portable_only(portable);
        if portable {
            assert_eq!(sha256::kernels(), ["sha2 crate"; 2]);
            assert_eq!(measure::kernel(), "portable");
        }
        work(portable)
    });
    prover::instructions::portable_only(false);
    results
}

fn plan() -> Plan {
    Plan::with_limits(2, 1 << 30).expect("two threads start")
}

/// Data of no pattern but for a stretch of zeros and one of ones.
fn data(len: usize, number: u64) -> Vec<u8> {
    let mut data: Vec<u8> = (number..)
        .flat_map(|i| sha256::digest(&[&i.to_le_bytes()]))
        .take(len)
        .collect();
    data[len / 4..len / 2].fill(0);
    data[len / 2..len / 4 * 3].fill(0xff);
    data
}

fn piece(data: &[u8]) -> PieceInfo {
    let (comm_p, size) = commp_of(data);
    PieceInfo { comm_p, size }
}

/// A sector before it is labelled: full, or empty.
fn packed(dir: &Path, size: SectorSize, number: u64, full: bool) -> seal::Packed {
    let len = usize::try_from(size.unpadded_bytes()).expect("a small sector");
    let data = data(if full { len } else { 0 }, number);
    let request = SealRequest {
        seal: RegisteredSeal::v1_1(size),
        prover: ProverId([9; 32]),
        sector: SectorNumber(number),
        ticket: Ticket([1; 32]),
        pieces: if full { vec![piece(&data)] } else { Vec::new() },
    };
    let mut reader = data.as_slice();
    let mut sources: Vec<&mut dyn std::io::Read> = Vec::new();
    if full {
        sources.push(&mut reader);
    }
    seal::create(dir, request, &mut sources).expect("packs")
}

/// Every file of a folder, by its path within it.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let bytes = std::fs::read(&path).expect("readable");
            let name = path.strip_prefix(dir).expect("it lies within");
            found.insert(name.to_owned(), bytes);
        }
    }
    found
}

/// Names of the files that differ, or are on one side alone.
fn differing([one, other]: [&BTreeMap<PathBuf, Vec<u8>>; 2]) -> Vec<PathBuf> {
    let names = one.keys().chain(other.keys());
    let differ = names.filter(|name| one.get(*name) != other.get(*name));
    differ.cloned().collect()
}

/// Sectors alone and five in step, in shapes with one base tree and with sixteen; one of them updated. Each side's files
/// pass the other side's checks and unseal there.
#[test]
fn sectors_are_the_same_file_for_file() {
    let alone = alone();
    for size in [SectorSize::Kib2, SectorSize::Kib32] {
        let folders = both(&alone, |_| {
            let dir = tempfile::tempdir().expect("a folder");
            let at = |number: u64| dir.path().join(number.to_string());
            let single = packed(&at(1), size, 1, true);
            let single = vec![single.label(&plan(), &NoProgress)];
            // The sixth is empty, to be updated.
            let together = (2..7).map(|number| packed(&at(number), size, number, number < 6));
            let together = label_all(together.collect(), &plan(), &NoProgress);
            let comm_rs: Vec<CommR> = single
                .into_iter()
                .chain(together)
                .map(|labeled| {
                    let labeled = labeled.expect("labels");
                    let replicated = labeled.replicate(&plan(), &NoProgress).expect("replicates");
                    let comm_r = replicated.comm_r();
                    // Opens the challenged nodes and verifies them.
                    replicated
                        .challenge(Seed([2; 32]), &plan(), &NoProgress)
                        .expect("opens");
                    comm_r
                })
                .collect();
            let data = data(1016, 100);
            let pieces = vec![piece(&data)];
            let (old, new) = (at(6), at(7));
            let updated = sector::create(
                &new,
                &old,
                pieces,
                &mut [&mut data.as_slice()],
                &plan(),
                &NoProgress,
            );
            let updated = updated.expect("updated").statement().clone();
            (dir, comm_rs, updated)
        });
        let [
            (fast, comm_rs, updated),
            (portable, portable_comm_rs, portable_updated),
        ] = &folders;
        assert_eq!(comm_rs, portable_comm_rs, "{size}");
        assert_eq!(updated, portable_updated, "{size}");
        let found = [fast, portable].map(|dir| files(dir.path()));
        assert!(found[0].len() > 7 * 8, "whole sectors");
        let none: [PathBuf; 0] = [];
        assert_eq!(differing(found.each_ref()), none, "{size}");

        both(&alone, |is_portable| {
            let path = folders[usize::from(!is_portable)].0.path().join("3");
            let (comm_r, depth) = (&comm_rs[2], CheckDepth::Full);
            let report = replica_check(&path, size, comm_r, depth, &plan(), &NoProgress);
            let report = report.expect("there is memory");
            assert!(report.is_sound(), "{report:?}");
            let mut out = Vec::new();
            let range = 0..size.unpadded_bytes();
            unseal_range(&path, range, &mut out, &plan(), &NoProgress).expect("unseals");
            assert!(out == data(out.len(), 3), "portable {is_portable}");
        });
    }
}

/// The key of the smallest circuit made both ways, and a proof made with each; every proof holds both ways, for its
/// statement alone.
#[test]
fn keys_are_the_same_and_each_sides_proofs_hold_on_the_other() {
    let alone = alone();
    let circuit = CircuitId::window(SIZE);
    let dir = tempfile::tempdir().expect("a folder");
    let sector = dir.path().join("sector");
    let labeled = packed(&sector, SIZE, 7, true).label(&plan(), &NoProgress);
    let replicated = labeled.expect("labels").replicate(&plan(), &NoProgress);
    let comm_r = replicated.expect("replicates").comm_r();
    let statement = WindowPostStatement {
        size: SIZE,
        prover: ProverId([9; 32]),
        randomness: PostRandomness::masked([0x65; 32]),
        sectors: vec![(SectorNumber(7), comm_r)],
    };
    let made = both(&alone, |portable| {
        let params = dir.path().join(format!("params-{portable}"));
        let store = ParamStore::open(&params).expect("a store");
        let key = plan().run(|| store.load_or_generate(circuit, &NoProgress));
        let key = key.expect("a key");
        let replica = ReplicaRef {
            number: SectorNumber(7),
            comm_r,
            dir: &sector,
        };
        let WindowPostStatement {
            prover, randomness, ..
        } = statement;
        let prove = || prove_window(&key, SIZE, prover, randomness, &[replica], &NoProgress);
        (plan().run(prove).expect("a proof"), files(&params))
    });
    let none: [PathBuf; 0] = [];
    assert_eq!(differing([&made[0].1, &made[1].1]), none);
    let vk = &made[0].1[Path::new(&format!("{circuit}.vk"))];
    let moved = WindowPostStatement {
        randomness: PostRandomness::masked([0x66; 32]),
        ..statement.clone()
    };
    both(&alone, |portable| {
        let keys = VerifyingKeys::from_vk_bytes([(circuit, vk.as_slice())]).expect("a key");
        for (by, (proof, _)) in ["fast", "portable"].into_iter().zip(&made) {
            let verdict = verify::window_post(&keys, &statement, proof);
            assert_eq!(verdict, Ok(()), "{by} proof, portable verifier {portable}");
            let verdict = verify::window_post(&keys, &moved, proof);
            assert_eq!(verdict, Err(VerifyError::Rejected), "{by}, {portable}");
        }
    });
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().expect("text")).expect("hex")
}

fn bytes32(value: &Value) -> [u8; 32] {
    bytes(value).try_into().expect("32 bytes")
}

fn encoded(proof: &Proof<Bls12_381>) -> Vec<u8> {
    let mut out = Vec::new();
    proof.serialize_compressed(&mut out).expect("memory");
    out
}

#[test]
fn tm_v7_batches_are_judged_alike_with_and_without_lanes() {
    let alone = alone();
    let file = fixtures::json("vectors/filecoin.json");
    let sectors = &file["sectors"][SIZE.to_string()];
    let key = bytes(&sectors["winning_vk"]);
    let keys = VerifyingKeys::from_vk_bytes([(CircuitId::winning(SIZE), key.as_slice())])
        .expect("Filecoin's key");
    // The retired rule of the other posts is no statement's.
    let posts = sectors["post"].as_array().expect("a list");
    let post = &posts
        .iter()
        .find(|post| post["winning"]["api_version"] == "V1_1_0")
        .expect("one under the rule in force")["winning"];
    let statement = WinningPostStatement {
        size: SIZE,
        prover: ProverId(bytes32(&post["prover_id"])),
        randomness: PostRandomness::new(bytes32(&post["randomness"])).expect("canonical"),
        sector: (
            SectorNumber(post["sector_id"].as_u64().expect("a number")),
            CommR(bytes32(&post["comm_r"])),
        ),
    };
    let good = bytes(&post["proof"]);
    let proof = Proof::<Bls12_381>::deserialize_compressed(&good[..]).expect("a real proof");

    let mut items: Vec<(Statement, Vec<u8>, Result<(), VerifyError>)> = Vec::new();
    let mut push = |proof: &Proof<Bls12_381>, verdict| {
        items.push((
            Statement::Winning(statement.clone()),
            encoded(proof),
            verdict,
        ));
    };
    for k in 1..=18u64 {
        let k = Fr::from(k);
        let other = Proof {
            a: (proof.a * k).into_affine(),
            b: (proof.b * k.inverse().expect("not zero")).into_affine(),
            c: proof.c,
        };
        push(&other, Ok(()));
    }
    let rejected = Err(VerifyError::Rejected);
    let moved = Proof {
        a: -proof.a,
        ..proof.clone()
    };
    push(&moved, rejected.clone());
    let swapped = Proof {
        c: proof.a,
        ..proof.clone()
    };
    push(&swapped, rejected.clone());
    let other_sector = WinningPostStatement {
        randomness: PostRandomness::masked([7; 32]),
        ..statement.clone()
    };
    items.push((Statement::Winning(other_sector), good.clone(), rejected));
    for (at, name) in [(0, "A"), (48, "B"), (144, "C")] {
        let mut flagged = good.clone();
        flagged[at] ^= 0x40;
        let error = VerifyError::Bytes(ProofBytesError::Point(name));
        items.push((Statement::Winning(statement.clone()), flagged, Err(error)));
    }
    let short = VerifyError::Bytes(ProofBytesError::Length {
        got: 191,
        expected: 192,
    });
    items.push((
        Statement::Winning(statement.clone()),
        good[..191].to_vec(),
        Err(short),
    ));

    both(&alone, |portable| {
        // All good ones; then batches that start at each item, so that the bad ones are everywhere.
        for from in 0..items.len() {
            for count in [1, 3, 8, 9, 17, 18] {
                let some: Vec<_> = items.iter().cycle().skip(from).take(count).collect();
                let asked: Vec<_> = some
                    .iter()
                    .map(|(statement, proof, _)| (statement.clone(), proof.as_slice()))
                    .collect();
                let expected: Vec<_> = some.iter().map(|(.., verdict)| verdict.clone()).collect();
                let found = verify::batch(&keys, &asked);
                assert_eq!(found, expected, "portable {portable}, {count} from {from}");
            }
        }
    });
}
