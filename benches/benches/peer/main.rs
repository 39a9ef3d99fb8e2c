//! Our prover beside Filecoin's in the same run: the same sector, the same keys, the same threads.
//!
//! ```text
//! RUSTFLAGS="-C target-cpu=native" cargo bench -p benches --features filecoin --bench peer
//! ```
//! `HOLDFAST_PEER_SIZES=2KiB,8MiB` chooses sizes (8MiB alone by default), `HOLDFAST_PEER_THREADS` the threads of both sides
//! (all cores), `HOLDFAST_PEER_SAMPLES` takes so many samples of each side in turns instead of criterion's eleven,
//! `HOLDFAST_PEER_ROWS=winning_post,c2` takes only the rows of these names (criterion's own filter, `-- winning_post`, does
//! the same for its eleven samples), and `HOLDFAST_PEER_PORTABLE=1` lets our side run its portable twins alone. Both
//! sides run every stage the way their users do: files and self-checks included. At the end a table gives the medians and
//! their ratio.
//!
//! Cost at 8 MiB: the peer's C2 alone is about 45 s a sample on two cores, eleven samples; the whole takes about a quarter of
//! an hour; `-- verify` chooses the rows of verification, a minute. At 512MiB only PC1 and PC2 are compared, in few samples,
//! about a quarter of an hour too. Memory is the largest resident size of each side's process; ours holds the bench itself too.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use benches::peer::{Ask, Peer, PostJob, SealClaim, SectorJob};
use benches::{Keys, full_sector};
use criterion::{Criterion, SamplingMode, criterion_group, criterion_main};
use prover::machine::{Machine, Plan, peak_memory};
use prover::post::proof::{ReplicaRef, prove_window, prove_winning};
use prover::seal::{self, AnyStage, Challenged, Packed, Replicated, SealRequest, label_all};
use prover::snark::CircuitId;
use prover::snark::keys::ParamStore;
use prover::snark::measure::other_proofs;
use prover::verify::{self, PorepStatement, Statement, WindowPostStatement};
use prover::{NoProgress, PostRandomness, SectorNumber, SectorSize, Seed};

criterion_group!(benches, bench);
criterion_main!(benches);

/// Proofs that are verified together.
const BATCH: u32 = 64;
const SEED: Seed = Seed([0x43; 32]);

fn bench(c: &mut Criterion) {
    if std::env::var("HOLDFAST_PEER_PORTABLE").is_ok_and(|yes| yes == "1") {
        eprintln!("our side with its portable twins alone");
        prover::instructions::portable_only(true);
    }
    let sizes = std::env::var("HOLDFAST_PEER_SIZES").unwrap_or_else(|_| "8MiB".into());
    for size in sizes.split(',') {
        match size.parse().expect("2KiB, 8MiB or 512MiB") {
            SectorSize::Mib512 => compare_large(SectorSize::Mib512),
            size => compare(c, size),
        }
    }
}

/// Samples of each side where fewer are wanted than criterion takes; they are then taken in turns.
fn few_samples() -> Option<usize> {
    let text = std::env::var("HOLDFAST_PEER_SAMPLES").ok()?;
    Some(text.parse().expect("a number of samples"))
}

/// Whether a row is wanted: all are unless some are named.
fn wanted(row: &str) -> bool {
    std::env::var("HOLDFAST_PEER_ROWS").map_or(true, |rows| rows.split(',').any(|name| name == row))
}

/// Seconds of both sides, stage by stage.
#[derive(Default)]
struct Table(RefCell<Vec<(String, Vec<f64>, Vec<f64>)>>);

impl Table {
    /// Samples a stage: `ours` and `theirs` do it once and say how long it took.
    fn stage(
        &self,
        c: &mut Criterion,
        size: SectorSize,
        name: &str,
        mut ours: impl FnMut() -> Duration,
        mut theirs: impl FnMut() -> Duration,
    ) {
        if !wanted(name) {
            return;
        }
        if let Some(samples) = few_samples() {
            let (mut a, mut b) = (Vec::new(), Vec::new());
            for _ in 0..samples {
                a.push(ours().as_secs_f64());
                b.push(theirs().as_secs_f64());
            }
            eprintln!("{name}: {:.4} s beside {:.4} s", median(&a), median(&b));
            return self.row(format!("{name}/{size}"), a, b);
        }
        let mut group = c.benchmark_group(format!("peer::{name}"));
        group
            .sample_size(10)
            .sampling_mode(SamplingMode::Flat)
            .warm_up_time(Duration::from_millis(1))
            .measurement_time(Duration::from_millis(1));
        let row = self.0.borrow().len();
        let title = format!("{name}/{size}");
        self.0.borrow_mut().push((title, Vec::new(), Vec::new()));
        group.bench_function(format!("holdfast/size={size}"), |b| {
            b.iter_custom(|rounds| {
                let times: Vec<Duration> = (0..rounds).map(|_| ours()).collect();
                let seconds = times.iter().map(Duration::as_secs_f64);
                self.0.borrow_mut()[row].1.extend(seconds);
                times.iter().sum()
            });
        });
        group.bench_function(format!("filecoin/size={size}"), |b| {
            b.iter_custom(|rounds| {
                let times: Vec<Duration> = (0..rounds).map(|_| theirs()).collect();
                let seconds = times.iter().map(Duration::as_secs_f64);
                self.0.borrow_mut()[row].2.extend(seconds);
                times.iter().sum()
            });
        });
        group.finish();
    }

    /// A row whose samples were taken elsewhere.
    fn row(&self, name: String, ours: Vec<f64>, theirs: Vec<f64>) {
        self.0.borrow_mut().push((name, ours, theirs));
    }

    /// A row that took minutes: said at once, so that a run cut short has told something.
    fn large(&self, name: String, ours: Vec<f64>, theirs: Vec<f64>) {
        let (a, b) = (median(&ours), median(&theirs));
        eprintln!("{name}: {a:.4} s beside {b:.4} s");
        self.row(name, ours, theirs);
    }

    fn print(&self, ours_memory: u64, peer_memory: u64) {
        println!("| stage | Holdfast, s | Filecoin, s | ratio | samples |\n|---|---|---|---|---|");
        for (name, ours, theirs) in self.0.borrow().iter() {
            if ours.is_empty() || theirs.is_empty() {
                continue;
            }
            let (a, b) = (median(ours), median(theirs));
            println!(
                "| {name} | {a:.4} | {b:.4} | {:.2} | {} + {} |",
                b / a,
                ours.len(),
                theirs.len()
            );
        }
        let mib = |bytes: u64| bytes >> 20;
        println!(
            "| largest resident memory, MiB | {} | {} | {:.2} | |",
            mib(ours_memory),
            mib(peer_memory),
            peer_memory as f64 / ours_memory.max(1) as f64
        );
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// The two sides of a run.
struct Sides {
    folder: tempfile::TempDir,
    plan: Plan,
    peer: Peer,
}

impl Sides {
    fn start() -> Self {
        let threads = std::env::var("HOLDFAST_PEER_THREADS").ok();
        let threads: usize = threads.map_or_else(
            || std::thread::available_parallelism().map_or(2, usize::from),
            |text| text.parse().expect("a number of threads"),
        );
        let folder = tempfile::tempdir().expect("a temporary folder");
        let peer = Peer::start(
            Path::new(env!("CARGO_BIN_EXE_filecoin-peer")),
            folder.path(),
            threads,
        );
        let plan = plan_of(threads, folder.path());
        Self { folder, plan, peer }
    }
}

/// A plan of so many threads whose parent lists lie in the run's folder.
fn plan_of(threads: usize, folder: &Path) -> Plan {
    let machine = Machine {
        cores: threads,
        ..Machine::detect()
    };
    Plan::new(&machine)
        .expect("threads")
        .with_parent_cache(&folder.join("our-parents"), u64::MAX)
}

/// Makes both sides forget the parents of every proof type.
fn forget_parents(folder: &Path) {
    for lists in ["parents", "our-parents"] {
        let Ok(files) = std::fs::read_dir(folder.join(lists)) else {
            continue;
        };
        for file in files {
            std::fs::remove_file(file.expect("an entry").path()).expect("removed");
        }
    }
}

/// PC1 of four sectors in step on one thread, per sector.
fn four_in_step(folder: &Path, pack: impl Fn(u64) -> Packed) -> Duration {
    let one = plan_of(1, folder);
    let sectors: Vec<Packed> = (1..=4).map(pack).collect();
    let time = timed(|| {
        for result in label_all(sectors, &one, &NoProgress) {
            result.expect("labelled");
        }
    });
    time / 4
}

/// PC1 and PC2 of large sectors, two samples of PC1 and one of all else: minutes each.
fn compare_large(size: SectorSize) {
    let Sides {
        folder,
        plan,
        mut peer,
    } = Sides::start();
    let (request, data) = full_sector(size, 7);
    let job = SectorJob::of(&request, SEED, &folder.path().join("theirs"), &data);
    let scratch = Scratch::new(folder.path());
    let pack = |sector: u64| {
        let request = SealRequest {
            sector: SectorNumber(sector),
            ..request.clone()
        };
        seal::create(&scratch.fresh(), request, &mut [&mut data.as_slice()]).expect("packed")
    };
    let table = Table::default();
    let mut theirs = || peer.ask(&Ask::Pc1(job.clone())).seconds;
    let ours = || {
        let packed = pack(7);
        let mut labeled = None;
        let time = timed(|| labeled = packed.label(&plan, &NoProgress).ok()).as_secs_f64();
        (time, labeled.expect("labelled"))
    };
    if wanted("pc1_first_use") {
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for _ in 0..few_samples().unwrap_or(1) {
            forget_parents(folder.path());
            a.push(ours().0);
            b.push(theirs());
            scratch.clear();
        }
        table.large(format!("pc1_first_use/{size}"), a, b);
    }
    if wanted("pc1") || wanted("pc1_of_four_on_one_thread") {
        // Both have their parent lists after a first run.
        if !wanted("pc1_first_use") {
            ours();
            theirs();
        }
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for _ in 0..few_samples().unwrap_or(2) {
            a.push(ours().0);
            b.push(theirs());
            scratch.clear();
        }
        table.large(format!("pc1/{size}"), a, b.clone());
        let four = four_in_step(folder.path(), pack).as_secs_f64();
        table.large(format!("pc1_of_four_on_one_thread/{size}"), vec![four], b);
        scratch.clear();
    }
    if wanted("pc2") {
        let (_, labeled) = ours();
        theirs();
        let mut comm_r = String::new();
        let pc2 = timed(|| {
            let replicated = labeled.replicate(&plan, &NoProgress).expect("replicated");
            comm_r = replicated.comm_r().to_string();
        });
        let answer = peer.ask(&Ask::Pc2(job.clone()));
        let theirs = answer.commitments.expect("commitments").1;
        assert_eq!(theirs, comm_r, "the same replica");
        table.large(
            format!("pc2/{size}"),
            vec![pc2.as_secs_f64()],
            vec![answer.seconds],
        );
    }
    table.print(peak_memory().unwrap_or(0), peer.memory());
}

fn compare(c: &mut Criterion, size: SectorSize) {
    let Sides {
        folder,
        plan,
        mut peer,
    } = Sides::start();
    let store = ParamStore::open(benches::params_dir()).expect("the cache folder");
    peer.link_keys(&store, size);
    let Keys {
        proving: keys,
        verifying,
    } = plan.run(|| Keys::of(&store, size));

    let (request, data) = full_sector(size, 7);
    let job = SectorJob::of(&request, SEED, &folder.path().join("theirs"), &data);
    let peer = RefCell::new(peer);
    let ask = |what: Ask| peer.borrow_mut().ask(&what);
    let time = |what: Ask| Duration::from_secs_f64(ask(what).seconds);
    let scratch = Scratch::new(folder.path());
    let table = Table::default();

    // PC1, and what the others start from.
    let pack = |dir: &Path| {
        seal::create(dir, request.clone(), &mut [&mut data.as_slice()]).expect("packed")
    };
    // The peer's first run makes its parent lists; both sides are measured after their first.
    ask(Ask::Pc1(job.clone()));
    let label = || {
        let packed = pack(&scratch.fresh());
        timed(|| drop(packed.label(&plan, &NoProgress).expect("labelled")))
    };
    table.stage(c, size, "pc1", label, || time(Ask::Pc1(job.clone())));
    let first = || {
        forget_parents(folder.path());
        label()
    };
    table.stage(c, size, "pc1_first_use", first, || {
        forget_parents(folder.path());
        time(Ask::Pc1(job.clone()))
    });
    let four = || {
        four_in_step(folder.path(), |sector| {
            let request = SealRequest {
                sector: SectorNumber(sector),
                ..request.clone()
            };
            seal::create(&scratch.fresh(), request, &mut [&mut data.as_slice()]).expect("packed")
        })
    };
    table.stage(c, size, "pc1_of_four_on_one_thread", four, || {
        time(Ask::Pc1(job.clone()))
    });
    let replicate = || {
        let labelled = pack(&scratch.fresh())
            .label(&plan, &NoProgress)
            .expect("labelled");
        timed(|| drop(labelled.replicate(&plan, &NoProgress).expect("replicated")))
    };
    table.stage(c, size, "pc2", replicate, || {
        ask(Ask::Pc1(job.clone()));
        time(Ask::Pc2(job.clone()))
    });

    ask(Ask::Pc1(job.clone()));
    let commitments = ask(Ask::Pc2(job.clone())).commitments.expect("commitments");
    let ready = scratch.fresh();
    let replicated = pack(&ready)
        .label(&plan, &NoProgress)
        .expect("labelled")
        .replicate(&plan, &NoProgress)
        .expect("replicated");
    assert_eq!(
        commitments.1,
        replicated.comm_r().to_string(),
        "the same replica"
    );
    let (comm_d, comm_r) = (replicated.comm_d(), replicated.comm_r());
    drop(replicated);
    let challenge = || {
        let replicated: Replicated = match scratch.copy(&ready, &plan) {
            AnyStage::Replicated(stage) => stage,
            _ => unreachable!("the original was left at this stage"),
        };
        timed(|| {
            drop(
                replicated
                    .challenge(SEED, &plan, &NoProgress)
                    .expect("challenged"),
            )
        })
    };
    table.stage(c, size, "c1", challenge, || time(Ask::C1(job.clone())));
    ask(Ask::C1(job.clone()));
    let challenged = scratch.fresh();
    let AnyStage::Replicated(stage) = scratch.copy_to(&ready, &challenged, &plan) else {
        unreachable!("the original was left at this stage")
    };
    drop(
        stage
            .challenge(SEED, &plan, &NoProgress)
            .expect("challenged"),
    );
    let proof = RefCell::new(None);
    let prove = || {
        let stage: Challenged = match scratch.copy(&challenged, &plan) {
            AnyStage::Challenged(stage) => stage,
            _ => unreachable!("the original was left at this stage"),
        };
        timed(|| {
            let sealed = stage.prove(&keys[0], &plan, &NoProgress).expect("proven");
            *proof.borrow_mut() = Some(sealed.proof().to_vec());
        })
    };
    table.stage(c, size, "c2", prove, || time(Ask::C2(job.clone())));

    let statement = PorepStatement {
        seal: request.seal,
        prover: request.prover,
        sector: request.sector,
        ticket: request.ticket,
        seed: SEED,
        comm_d,
        comm_r,
    };
    // A run that leaves proving out still needs a proof to verify.
    if proof.borrow().is_none() {
        prove();
    }
    let proof = proof.into_inner().expect("made above at the latest");
    let judged = |what: &Ask| {
        let answer = peer.borrow_mut().ask(what);
        assert_eq!(answer.valid, Some(true));
        Duration::from_secs_f64(answer.seconds)
    };
    let single = Ask::VerifySeal(SealClaim::new(&statement, &proof));
    table.stage(
        c,
        size,
        "verify_seal",
        || mean(|| timed(|| verify::porep(&verifying, &statement, &proof).expect("true"))),
        || mean(|| judged(&single)),
    );
    // Different proofs of one statement; neither side looks for what its items have in common.
    let many = other_proofs(&proof, BATCH).expect("a proof of ours");
    let items: Vec<(Statement, &[u8])> = many
        .iter()
        .map(|proof| (Statement::Porep(statement.clone()), proof.as_slice()))
        .collect();
    let claims = many.iter().map(|proof| SealClaim::new(&statement, proof));
    let together = Ask::VerifySeals {
        claims: claims.collect(),
    };
    let batch = || {
        let work = || {
            let verdicts = verify::batch(&verifying, &items);
            assert!(verdicts.iter().all(Result::is_ok));
        };
        mean(|| plan.run(|| timed(work)) / BATCH)
    };
    table.stage(c, size, "verify_seal_of_64_beside_its_batch", batch, || {
        mean(|| judged(&together) / BATCH)
    });
    table.stage(
        c,
        size,
        "verify_seal_of_64_beside_its_single",
        batch,
        || mean(|| judged(&single)),
    );

    let randomness = PostRandomness::masked([0x65; 32]);
    let replica = ReplicaRef {
        number: request.sector,
        comm_r,
        dir: &ready,
    };
    let there = [(request.sector, comm_r, job.dir.clone())];
    for winning in [false, true] {
        let name = if winning {
            "winning_post"
        } else {
            "window_post"
        };
        let ours = || {
            timed(|| {
                plan.run(|| {
                    let (size, prover) = (size, request.prover);
                    if winning {
                        prove_winning(&keys[2], size, prover, randomness, replica, &NoProgress)
                    } else {
                        prove_window(&keys[1], size, prover, randomness, &[replica], &NoProgress)
                    }
                })
                .expect("a PoSt");
            })
        };
        let job = PostJob::new(winning, size, request.prover, randomness, &there);
        table.stage(c, size, name, ours, || time(Ask::Post(job.clone())));
    }
    let statement = WindowPostStatement {
        size,
        prover: request.prover,
        randomness,
        sectors: vec![(request.sector, comm_r)],
    };
    let proof = plan
        .run(|| {
            let (prover, sectors) = (request.prover, [replica]);
            prove_window(&keys[1], size, prover, randomness, &sectors, &NoProgress)
        })
        .expect("a WindowPoSt");
    let theirs = Ask::VerifyPost {
        job: PostJob::of_window(&statement),
        proof: proof.to_vec(),
    };
    table.stage(
        c,
        size,
        "verify_window_post",
        || mean(|| timed(|| verify::window_post(&verifying, &statement, &proof).expect("true"))),
        || mean(|| judged(&theirs)),
    );
    // The smallest keys of all, whatever the run's size: the peer takes seconds for them and minutes for the others.
    for (name, winning, small) in [
        (
            "keys_of_window_post",
            false,
            CircuitId::window(SectorSize::Kib2),
        ),
        (
            "keys_of_winning_post",
            true,
            CircuitId::winning(SectorSize::Kib2),
        ),
    ] {
        let make = || {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let store = ParamStore::open(folder.path()).expect("a folder of keys");
            timed(|| {
                plan.run(|| store.load_or_generate(small, &NoProgress))
                    .expect("a key");
            })
        };
        let size = SectorSize::Kib2.bytes();
        table.stage(c, SectorSize::Kib2, name, make, || {
            let keep = false;
            time(Ask::MakePostKeys {
                size,
                winning,
                keep,
            })
        });
    }
    let peer_memory = peer.borrow_mut().memory();
    table.print(peak_memory().unwrap_or(0), peer_memory);
}

/// Of operations that take a millisecond: the mean of twenty.
fn mean(mut operation: impl FnMut() -> Duration) -> Duration {
    let total: Duration = (0..20).map(|_| operation()).sum();
    total / 20
}

fn timed(work: impl FnOnce()) -> Duration {
    let begun = Instant::now();
    work();
    begun.elapsed()
}

/// Folders for sectors of ours; the last one but the kept ones is removed when the next is asked for.
struct Scratch {
    root: PathBuf,
    next: std::cell::Cell<u64>,
    last_copy: RefCell<Option<PathBuf>>,
}

impl Scratch {
    fn new(root: &Path) -> Self {
        Self {
            root: root.join("ours"),
            next: std::cell::Cell::new(0),
            last_copy: RefCell::new(None),
        }
    }

    fn fresh(&self) -> PathBuf {
        std::fs::create_dir_all(&self.root).expect("a folder");
        self.next.set(self.next.get() + 1);
        self.root.join(self.next.get().to_string())
    }

    /// Removes everything.
    fn clear(&self) {
        std::fs::remove_dir_all(&self.root).expect("removed");
    }

    /// A copy of a sector, at its stage; the copy before it is removed.
    fn copy(&self, from: &Path, plan: &Plan) -> AnyStage {
        let to = self.fresh();
        if let Some(old) = self.last_copy.borrow_mut().replace(to.clone()) {
            std::fs::remove_dir_all(old).expect("removed");
        }
        self.copy_to(from, &to, plan)
    }

    fn copy_to(&self, from: &Path, to: &Path, plan: &Plan) -> AnyStage {
        std::fs::create_dir(to).expect("created");
        for entry in std::fs::read_dir(from).expect("a sector's folder") {
            let entry = entry.expect("an entry");
            std::fs::copy(entry.path(), to.join(entry.file_name())).expect("copied");
        }
        seal::resume(to, plan, &NoProgress).expect("a sealed copy")
    }
}
