//! The whole way at 2 KiB with real proofs: seal, PoRep, WindowPoSt, WinningPoSt, update, and what must not verify.
//!
//! Keys come from the cache that the binary uses as well (`HOLDFAST_PARAMS`, else the platform's
//! cache folder), so that one run of the tests makes them once: about two minutes on two idle cores.
//! This is the one place in the crate that proves at full size.

use std::path::PathBuf;
use std::sync::Arc;

use prover::hash::poseidon::fr_from_node;
use prover::machine::{Machine, Plan};
use prover::piece::commp::commp_of;
use prover::post::proof::{PostError, ReplicaRef, prove_window, prove_winning};
use prover::seal::{self, SealRequest, Sealed};
use prover::snark::keys::{KeyError, ParamStore, ProvingKey};
use prover::update::{sector, selector};
use prover::verify::{
    self, CircuitId, PorepStatement, Statement, UpdateStatement, VerifyError, VerifyingKeys,
    WindowPostStatement, WinningPostStatement,
};
use prover::{
    CommD, CommR, NoProgress, PieceInfo, PostRandomness, ProverId, RegisteredSeal, SectorNumber,
    SectorSize, Seed, Ticket,
};

const SIZE: SectorSize = SectorSize::Kib2;
const PROVER: ProverId = ProverId::from_provider_id(1000);
const SECTOR: SectorNumber = SectorNumber(7);
const TICKET: Ticket = Ticket([0x21; 32]);
const SEED: Seed = Seed([0x43; 32]);

fn params() -> ParamStore {
    let dir = std::env::var_os("HOLDFAST_PARAMS")
        .map(PathBuf::from)
        .or_else(|| {
            let dirs = directories::ProjectDirs::from("", "", "holdfast")?;
            Some(dirs.cache_dir().join("params"))
        });
    ParamStore::open(dir.expect("a home folder, or HOLDFAST_PARAMS"))
        .expect("the cache folder can be made")
}

fn sealed(dir: &std::path::Path, plan: &Plan, key: &ProvingKey) -> Sealed {
    let data: Vec<u8> = (0..1016u32).map(|i| (i * 7 + 3).to_le_bytes()[0]).collect();
    let (comm_p, size) = commp_of(&data);
    let request = SealRequest {
        seal: RegisteredSeal::v1_1(SIZE),
        prover: PROVER,
        sector: SECTOR,
        ticket: TICKET,
        pieces: vec![PieceInfo { comm_p, size }],
    };
    let packed = seal::create(dir, request, &mut [&mut data.as_slice()]).expect("packed");
    let labeled = packed.label(plan, &NoProgress).expect("labeled");
    let replicated = labeled.replicate(plan, &NoProgress).expect("replicated");
    let challenged = replicated
        .challenge(SEED, plan, &NoProgress)
        .expect("challenged");
    challenged.prove(key, plan, &NoProgress).expect("proven")
}

#[test]
fn a_sector_is_sealed_proven_and_kept() {
    let store = params();
    let plan = Plan::new(&Machine::detect()).expect("a thread pool");
    let key = |circuit| -> Arc<ProvingKey> {
        plan.run(|| store.load_or_generate(circuit, &NoProgress))
            .expect("a proving key")
    };
    let circuits = [
        CircuitId::porep(SIZE),
        CircuitId::window(SIZE),
        CircuitId::winning(SIZE),
    ];
    let vks = circuits.map(|id| {
        store
            .verifying_key_bytes(id, &NoProgress)
            .expect("a verifying key")
    });
    let keys =
        VerifyingKeys::from_vk_bytes(circuits.into_iter().zip(vks.iter().map(Vec::as_slice)));
    let keys = keys.expect("developers' keys pass the checks");

    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().join("sector");
    let sealed = sealed(&dir, &plan, &key(circuits[0]));
    let comm_r = sealed.comm_r();
    let porep = PorepStatement {
        seal: RegisteredSeal::v1_1(SIZE),
        prover: PROVER,
        sector: SECTOR,
        ticket: TICKET,
        seed: SEED,
        comm_d: sealed.comm_d(),
        comm_r,
    };
    assert_eq!(verify::porep(&keys, &porep, sealed.proof()), Ok(()));
    tm_p10_no_other_porep_statement(&keys, &porep, sealed.proof());

    let randomness = PostRandomness::masked([0x65; 32]);
    let replica = ReplicaRef {
        number: SECTOR,
        comm_r,
        dir: &dir,
    };
    let (window_key, winning_key) = (key(circuits[1]), key(circuits[2]));
    let prove = || {
        prove_window(
            &window_key,
            SIZE,
            PROVER,
            randomness,
            &[replica],
            &NoProgress,
        )
    };
    let window_proof = plan.run(prove).expect("a WindowPoSt");
    let window = WindowPostStatement {
        size: SIZE,
        prover: PROVER,
        randomness,
        sectors: vec![(SECTOR, comm_r)],
    };
    assert_eq!(verify::window_post(&keys, &window, &window_proof), Ok(()));

    let prove = || prove_winning(&winning_key, SIZE, PROVER, randomness, replica, &NoProgress);
    let winning_proof = plan.run(prove).expect("a WinningPoSt");
    let winning = WinningPostStatement {
        size: SIZE,
        prover: PROVER,
        randomness,
        sector: (SECTOR, comm_r),
    };
    assert_eq!(
        verify::winning_post(&keys, &winning, &winning_proof),
        Ok(())
    );

    tm_v7_batches_equal_single_checks(
        &keys,
        &[
            (Statement::Porep(porep), sealed.proof()),
            (Statement::Window(window.clone()), &window_proof),
            (Statement::Winning(winning), &winning_proof),
        ],
    );
    tm_p10_no_other_window(&keys, &window, &window_proof);
    tm_p18_damage_is_named_and_not_proven(&dir, || {
        plan.run(|| {
            prove_window(
                &window_key,
                SIZE,
                PROVER,
                randomness,
                &[replica],
                &NoProgress,
            )
        })
    });
}

/// An empty sector takes data, proven for real: the proof says this and nothing else, and it is kept.
#[test]
fn tm_p10_tm_p13_an_update_is_proven_and_its_proof_binds_the_whole_statement() {
    let store = params();
    let plan = Plan::new(&Machine::detect()).expect("a thread pool");
    let circuit = CircuitId::update(SIZE);
    let key = plan.run(|| store.load_or_generate(circuit, &NoProgress));
    let key = key.expect("a proving key");
    let keys = VerifyingKeys::from_vk_bytes([(circuit, key.verifying_key().bytes())])
        .expect("a developers' key passes the checks");

    let folder = tempfile::tempdir().expect("a folder");
    let (old, new) = (folder.path().join("old"), folder.path().join("new"));
    let request = SealRequest {
        seal: RegisteredSeal::v1_1(SIZE),
        prover: PROVER,
        sector: SECTOR,
        ticket: TICKET,
        pieces: Vec::new(),
    };
    let packed = seal::create(&old, request, &mut []).expect("packed");
    let labeled = packed.label(&plan, &NoProgress).expect("labeled");
    drop(labeled.replicate(&plan, &NoProgress).expect("replicated"));
    let data: Vec<u8> = (0..1016u32).map(|i| (i * 7 + 3).to_le_bytes()[0]).collect();
    let (comm_p, size) = commp_of(&data);
    let updated = sector::create(
        &new,
        &old,
        vec![PieceInfo { comm_p, size }],
        &mut [&mut data.as_slice()],
        &plan,
        &NoProgress,
    );
    let updated = updated.expect("updated");
    let updated = updated.prove(&old, &key, &plan, &NoProgress);
    let updated = updated.expect("proven");
    let good = updated.statement().clone();
    let proof = updated.proof().expect("proven").to_vec();
    drop(updated);
    let again = sector::resume(&new, &old, &plan, &NoProgress).expect("kept");
    assert_eq!(again.proof(), Some(&proof[..]));

    assert_eq!(verify::update(&keys, &good, &proof), Ok(()));
    let item = (Statement::Update(good.clone()), &proof[..]);
    assert_eq!(verify::batch(&keys, &[item]), [Ok(())]);
    let others = [
        UpdateStatement {
            comm_r_old: good.comm_r_new,
            ..good.clone()
        },
        UpdateStatement {
            comm_d_new: CommD(good.comm_r_old.0),
            ..good.clone()
        },
        UpdateStatement {
            comm_r_new: good.comm_r_old,
            ..good.clone()
        },
        UpdateStatement {
            comm_r_old: good.comm_r_new,
            comm_r_new: good.comm_r_old,
            ..good.clone()
        },
    ];
    for other in others {
        let verdict = verify::update(&keys, &other, &proof);
        assert_eq!(verdict, Err(VerifyError::Rejected), "{other:?}");
    }
    let other = UpdateStatement {
        size: SectorSize::Kib4,
        ..good.clone()
    };
    let verdict = verify::update(&keys, &other, &proof);
    assert!(matches!(verdict, Err(VerifyError::NoKey(_))), "{verdict:?}");

    // Another number of inputs or of partitions is no shorter statement.
    let element = |node| fr_from_node(node).expect("canonical");
    let inputs = vec![
        selector(SIZE, 0),
        element(&good.comm_r_old.0),
        element(&good.comm_d_new.0),
        element(&good.comm_r_new.0),
    ];
    let check = |inputs: &[_]| verify::check(&keys, circuit, inputs, &proof);
    assert_eq!(check(std::slice::from_ref(&inputs)), Ok(()));
    let longer = [&inputs[..], &[element(&[0; 32])]].concat();
    for wrong in [
        &[inputs[..3].to_vec()][..],
        &[longer],
        &[],
        &[inputs.clone(), inputs],
    ] {
        assert!(check(wrong).is_err(), "{wrong:?}");
    }
}

/// A key of its own, one byte in every 4 KiB of its files changed: refused by name, whichever it is.
#[test]
#[ignore = "a minute; every 64th block is changed always, all by `cargo test -p prover -- --ignored`"]
fn tm_s3_a_change_in_any_block_of_a_key_is_refused_full() {
    use std::io::{Seek, SeekFrom, Write};
    const BLOCK: usize = 4096;
    let circuit = CircuitId::window(SIZE);
    let dir = tempfile::tempdir().expect("a folder");
    let store = ParamStore::open(dir.path()).expect("a store");
    store
        .load_or_generate(circuit, &NoProgress)
        .expect("a small key");
    let mut changed = 0;
    for path in [store.params_path(circuit), store.vk_path(circuit)] {
        let good = std::fs::read(&path).expect("the file");
        let file = std::fs::File::options().write(true).open(&path);
        let mut file = file.expect("writable");
        // Opened anew: what was read once is kept in memory.
        let read = || {
            let store = ParamStore::open(dir.path()).expect("a store");
            if path == store.vk_path(circuit) {
                store.verifying_key_bytes(circuit, &NoProgress).map(drop)
            } else {
                store.load_or_generate(circuit, &NoProgress).map(drop)
            }
        };
        for (block, bytes) in good.chunks(BLOCK).enumerate() {
            // Another place in each block.
            let at = block * 1021 % bytes.len();
            let offset = (block * BLOCK + at) as u64;
            let mut put = |byte: u8| {
                file.seek(SeekFrom::Start(offset)).expect("within the file");
                file.write_all(&[byte]).expect("written");
            };
            put(bytes[at] ^ 1);
            let error = read().expect_err("a changed byte");
            let named = matches!(&error, KeyError::Damaged { path: named, .. } if *named == path);
            assert!(named, "byte {offset}: {error}");
            put(bytes[at]);
            changed += 1;
        }
        read().expect("the good file again");
    }
    println!("{changed} blocks");
}

/// One valid proof, each field of its statement changed: none verifies.
fn tm_p10_no_other_porep_statement(keys: &VerifyingKeys, good: &PorepStatement, proof: &[u8]) {
    let others = [
        PorepStatement {
            prover: ProverId::from_provider_id(1001),
            ..good.clone()
        },
        PorepStatement {
            sector: SectorNumber(8),
            ..good.clone()
        },
        PorepStatement {
            ticket: Ticket([0x22; 32]),
            ..good.clone()
        },
        PorepStatement {
            seed: Seed([0x44; 32]),
            ..good.clone()
        },
        PorepStatement {
            comm_d: CommD(good.comm_r.0),
            ..good.clone()
        },
        PorepStatement {
            comm_r: CommR(good.comm_d.0),
            ..good.clone()
        },
    ];
    for other in others {
        assert_eq!(
            verify::porep(keys, &other, proof),
            Err(VerifyError::Rejected),
            "{other:?}"
        );
    }
    let other = PorepStatement {
        seal: RegisteredSeal::v1_1(SectorSize::Mib8),
        ..good.clone()
    };
    assert!(matches!(
        verify::porep(keys, &other, proof),
        Err(VerifyError::NoKey(_))
    ));
}

fn tm_p10_no_other_window(keys: &VerifyingKeys, good: &WindowPostStatement, proof: &[u8]) {
    let (number, comm_r) = good.sectors[0];
    let others = [
        WindowPostStatement {
            randomness: PostRandomness::masked([0x66; 32]),
            ..good.clone()
        },
        WindowPostStatement {
            sectors: vec![(SectorNumber(number.0 + 1), comm_r)],
            ..good.clone()
        },
        WindowPostStatement {
            sectors: vec![(number, comm_r), (SectorNumber(number.0 + 1), comm_r)],
            ..good.clone()
        },
    ];
    for other in others {
        assert_eq!(
            verify::window_post(keys, &other, proof),
            Err(VerifyError::Rejected),
            "{other:?}"
        );
    }
}

fn tm_v7_batches_equal_single_checks(keys: &VerifyingKeys, items: &[(Statement, &[u8])]) {
    assert_eq!(verify::batch(keys, items), vec![Ok(()); items.len()]);
    assert_eq!(verify::batch(keys, &[]), vec![]);
    // Proofs exchanged between statements: exactly those two fail, the third still passes.
    let mut exchanged = items.to_vec();
    (exchanged[1].1, exchanged[2].1) = (items[2].1, items[1].1);
    let rejected = Err(VerifyError::Rejected);
    assert_eq!(
        verify::batch(keys, &exchanged),
        vec![Ok(()), rejected.clone(), rejected]
    );
    // A malformed one costs the others nothing.
    let mut cut = items.to_vec();
    cut[0].1 = &items[0].1[..191];
    let verdicts = verify::batch(keys, &cut);
    assert!(matches!(verdicts[0], Err(VerifyError::Bytes(_))));
    assert_eq!(verdicts[1..], [Ok(()), Ok(())]);
}

/// Every node of the replica is challenged over enough rounds; here all of it is damaged at once.
fn tm_p18_damage_is_named_and_not_proven(
    dir: &std::path::Path,
    prove: impl Fn() -> Result<Vec<u8>, PostError>,
) {
    let replica = std::fs::read_dir(dir)
        .expect("the sector's folder")
        .map(|entry| entry.expect("an entry").path())
        .find(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().contains("sealed"))
        })
        .expect("the replica file");
    let mut bytes = std::fs::read(&replica).expect("the replica");
    bytes.chunks_exact_mut(32).for_each(|node| node[0] ^= 1);
    std::fs::write(&replica, &bytes).expect("written");
    match prove() {
        Err(PostError::Faulty(sectors)) => assert_eq!(sectors, [SECTOR]),
        other => panic!("a damaged replica must be named, got {other:?}"),
    }
}
