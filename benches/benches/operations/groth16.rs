//! Proving and verifying at 2 KiB with the cached developers' keys, which are made first where there are none (a minute).

use std::path::Path;

use benches::{Keys, full_sector, params_dir};
use criterion::{BatchSize, Criterion, Throughput};
use prover::{
    NoProgress, PostRandomness, SectorSize, Seed,
    machine::{Machine, Plan},
    post::proof::{ReplicaRef, prove_window, prove_winning},
    seal::{self, AnyStage, Challenged},
    snark::{keys::ParamStore, measure::other_proofs},
    verify::{self, PorepStatement, Statement, WindowPostStatement},
};

use crate::support::slow;

const SIZE: SectorSize = SectorSize::Kib2;

pub fn bench(c: &mut Criterion) {
    let plan = Plan::new(&Machine::detect()).expect("a thread pool");
    let store = ParamStore::open(params_dir()).expect("the cache folder");
    let Keys {
        proving: keys,
        verifying,
    } = plan.run(|| Keys::of(&store, SIZE));

    let folder = tempfile::tempdir().expect("a temporary folder");
    let ready = folder.path().join("challenged");
    let (request, data) = full_sector(SIZE, 7);
    let packed =
        seal::create(&ready, request.clone(), &mut [&mut data.as_slice()]).expect("packed");
    let labeled = packed.label(&plan, &NoProgress).expect("labeled");
    let seed = Seed([0x43; 32]);
    labeled
        .replicate(&plan, &NoProgress)
        .expect("replicated")
        .challenge(seed, &plan, &NoProgress)
        .expect("challenged");

    let copies = std::cell::Cell::new(0);
    let copy = || {
        copies.set(copies.get() + 1);
        let to = folder.path().join(copies.get().to_string());
        challenged_copy(&ready, &to, &plan)
    };
    let mut group = slow(c, "prover::seal::prove", Throughput::Elements(1));
    group.bench_function("size=2KiB", |b| {
        b.iter_batched(
            copy,
            |challenged| {
                challenged
                    .prove(&keys[0], &plan, &NoProgress)
                    .expect("proven")
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();

    let sealed = copy().prove(&keys[0], &plan, &NoProgress).expect("proven");
    let randomness = PostRandomness::masked([0x65; 32]);
    let replica = ReplicaRef {
        number: request.sector,
        comm_r: sealed.comm_r(),
        dir: &ready,
    };
    let window = || {
        plan.run(|| {
            prove_window(
                &keys[1],
                SIZE,
                request.prover,
                randomness,
                &[replica],
                &NoProgress,
            )
        })
        .expect("a WindowPoSt")
    };
    let mut group = slow(c, "prover::post", Throughput::Elements(1));
    group.bench_function("prove_window/size=2KiB", |b| b.iter(window));
    group.bench_function("prove_winning/size=2KiB", |b| {
        b.iter(|| {
            plan.run(|| {
                prove_winning(
                    &keys[2],
                    SIZE,
                    request.prover,
                    randomness,
                    replica,
                    &NoProgress,
                )
            })
            .expect("a WinningPoSt")
        });
    });
    group.finish();

    let porep = PorepStatement {
        seal: request.seal,
        prover: request.prover,
        sector: request.sector,
        ticket: request.ticket,
        seed,
        comm_d: sealed.comm_d(),
        comm_r: sealed.comm_r(),
    };
    let posted = window();
    let statement = WindowPostStatement {
        size: SIZE,
        prover: request.prover,
        randomness,
        sectors: vec![(request.sector, sealed.comm_r())],
    };
    let mut group = slow(c, "prover::verify", Throughput::Elements(1));
    group.bench_function("porep/size=2KiB", |b| {
        b.iter(|| verify::porep(&verifying, &porep, sealed.proof()).expect("a true statement"));
    });
    group.bench_function("window_post/size=2KiB", |b| {
        b.iter(|| verify::window_post(&verifying, &statement, &posted).expect("a true statement"));
    });
    // Different proofs of one statement; nothing looks for what the items of a batch have in common.
    let many = other_proofs(sealed.proof(), 64).expect("a proof");
    let items: Vec<_> = many
        .iter()
        .map(|proof| (Statement::Porep(porep.clone()), proof.as_slice()))
        .collect();
    group.throughput(Throughput::Elements(64));
    let one = Plan::new(&Machine {
        cores: 1,
        ..Machine::detect()
    })
    .expect("a thread pool");
    let verdicts = || assert!(verify::batch(&verifying, &items).iter().all(Result::is_ok));
    group.bench_function("batch/poreps=64", |b| b.iter(|| plan.run(verdicts)));
    group.bench_function("batch/one_thread/poreps=64", |b| {
        b.iter(|| one.run(verdicts));
    });
    // What CPUs without AVX-512 IFMA get.
    prover::instructions::portable_only(true);
    group.bench_function("batch_portable/one_thread/poreps=64", |b| {
        b.iter(|| one.run(verdicts));
    });
    prover::instructions::portable_only(false);
}

/// The sector again, at the stage that proving consumes.
fn challenged_copy(from: &Path, to: &Path, plan: &Plan) -> Challenged {
    copy_folder(from, to);
    match seal::resume(to, plan, &NoProgress).expect("a sealed copy") {
        AnyStage::Challenged(challenged) => challenged,
        _ => unreachable!("the original was left at this stage"),
    }
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir(to).expect("created");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("copied");
        }
    }
}
