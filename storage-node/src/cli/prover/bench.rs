//! `bench`: what this machine offers, which kernels it runs, what each stage takes, and what larger sectors would take.
//!
//! One sector is really sealed and proven in a temporary folder, then several are labelled together. The list of the proof type's
//! parents, and two small keys, are made there as on a machine's first day. Times of larger
//! sectors are counted from the cost of one hash and one row ([`prover::estimate`]); they are estimates and say so.

use std::io::{self, Read};
use std::path::PathBuf;
use std::time::Instant;

use prover::estimate::{Estimate, UnitCosts, key_bytes, keygen_memory, parents_bytes};
use prover::machine::{Machine, Plan, forget_peak_memory, peak_memory};
use prover::piece::commp::CommpHasher;
use prover::post::proof::{ReplicaRef, prove_window, prove_winning};
use prover::seal::{self, Packed, SealError, SealRequest, disk_bytes, label_all};
use prover::sector_dir::disk::DiskError;
use prover::snark::CircuitId;
use prover::snark::keys::ParamStore;
use prover::snark::measure::other_proofs;
use prover::verify::{self, PorepStatement, Statement, VerifyingKeys};
use prover::{
    PieceInfo, PostRandomness, ProverId, RegisteredSeal, SectorNumber, SectorSize, Seed, Ticket,
};
use serde::Serialize;

use super::post::post_error;
use super::seal::{READ_BYTES, Until, needs};
use super::{BarProgress, Room, key, key_error, proof_needs, require_memory, seal_error, store};
use crate::cli::output::human_bytes;
use crate::cli::{Class, CliError, Context};
use crate::kernels::Kernels;

/// Cores that the table of larger sectors shows, beside this machine's, where no GPU works.
const CORES: [usize; 2] = [8, 32];
/// Proofs verified to time one.
const VERIFIED: u32 = 20;
/// Proofs verified together.
const BATCH: u32 = 64;
/// Batches verified to time one.
const BATCHES: u32 = 4;
/// Keys that are made to time that: the smallest that every network of test sectors has.
const SMALL_KEYS: [CircuitId; 2] = [
    CircuitId::window(SectorSize::Kib2),
    CircuitId::winning(SectorSize::Kib2),
];

/// Arguments of `prover bench`.
#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    /// Size of the sectors that are sealed
    #[arg(long, default_value = "8MiB", value_name = "SIZE")]
    sector_size: SectorSize,
    /// Sectors labelled together
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    sectors: u8,
    /// Stop behind PC2: no keys, no proofs
    #[arg(long)]
    no_proofs: bool,
    /// Folder for the sectors, removed at the end [default: the system's temporary folder]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// What `bench` reports.
#[derive(Debug, Serialize)]
struct BenchReport {
    machine: MachineReport,
    kernels: Kernels,
    /// Nanoseconds of one core.
    unit_costs: UnitCosts,
    sector_size: SectorSize,
    stages: Stages,
    estimates: Vec<Estimate>,
    peak_memory: Option<u64>,
}

#[derive(Debug, Serialize)]
struct MachineReport {
    architecture: &'static str,
    os: &'static str,
    cores: usize,
    threads: usize,
    available_memory: u64,
    allowed_memory: u64,
    sha_extensions: bool,
    vector_multiply: bool,
}

/// Seconds.
#[derive(Debug, Default, Serialize)]
struct Stages {
    pack: f64,
    /// PC1 of the first sector of a proof type, whose parents are made and kept.
    pc1_first: f64,
    pc1: f64,
    /// PC1 of several sectors together: how many, and all of them.
    pc1_together: (u8, f64),
    pc2: f64,
    /// `None` with `--no-proofs`, as all below.
    proofs: Option<Proofs>,
}

#[derive(Debug, Serialize)]
struct Proofs {
    /// Opening the three keys, or making those that were not there.
    keys: f64,
    c1: f64,
    c2: f64,
    /// Largest resident memory while C2 was made, key included; `None` where the system does not tell it apart.
    c2_peak_memory: Option<u64>,
    /// Largest resident memory of what was before C2.
    #[serde(skip)]
    peak_before: Option<u64>,
    verify_seal: f64,
    /// One of 64 proofs that are verified together.
    verify_seal_of_64: f64,
    window_post: f64,
    winning_post: f64,
    /// Making the keys window-2KiB and winning-2KiB.
    key_window_2kib: f64,
    key_winning_2kib: f64,
}

/// Runs `prover bench`.
pub fn bench(args: BenchArgs, plan: &Plan, context: &Context) -> Result<(), CliError> {
    let machine = Machine::detect();
    let size = args.sector_size;
    if !args.no_proofs && size.is_production() {
        let what = format!("there are no developers' keys for {size} sectors");
        return Err(CliError::new(Class::Usage, what).hint("add --no-proofs"));
    }
    let until = match args.no_proofs {
        true => Until::Replicated,
        false => Until::Sealed,
    };
    let mut all = needs(size, Until::Packed, until, plan, context)?;
    if !args.no_proofs {
        for circuit in circuits(size) {
            all.extend(proof_needs(&store(context)?, circuit)?);
        }
        all.extend(SMALL_KEYS.map(|circuit| ("making a key", keygen_memory(circuit))));
    }
    require_memory(plan, all)?;
    let folder = match &args.dir {
        Some(dir) => tempfile::tempdir_in(dir),
        None => tempfile::tempdir(),
    }
    .map_err(|error| {
        let at = args.dir.clone().unwrap_or_else(std::env::temp_dir);
        CliError::io("cannot make a folder in", &at, &error)
    })?;
    // Its own list of parents, if the caller has one of this size kept at all.
    let parents = parents_bytes(size);
    let kept = plan.parent_cache(parents).map_or(0, |_| parents);
    let plan = &plan
        .clone()
        .with_parent_cache(&folder.path().join("parents"), kept);
    let disk = u64::from(args.sectors).saturating_mul(disk_bytes(size));
    let disk = disk.saturating_add(kept);
    let mut room = Room::default();
    room.add("the sectors", folder.path(), disk);
    if !args.no_proofs {
        let store = store(context)?;
        for circuit in circuits(size) {
            room.add_key(&store, circuit);
        }
        let small = SMALL_KEYS.map(key_bytes).into_iter().max().unwrap_or(0);
        room.add("a small key", folder.path(), small);
    }
    room.require(plan, context)?;
    let progress = BarProgress::new(&context.out);
    context.out.say("Measuring one hash of each kind.");
    let mut unit_costs = UnitCosts::measure(plan);
    let bench = Bench {
        size,
        dir: folder.path().to_owned(),
        piece: Pattern::of(size).piece(),
        plan,
        progress: &progress,
    };
    let stages = bench.stages(&args, context, &mut unit_costs)?;
    // C2's is measured by itself, for which what was before it is forgotten.
    let forgotten = stages.proofs.as_ref().and_then(|proofs| proofs.peak_before);

    let kernels = Kernels::chosen();
    // A GPU is no faster beside more cores, so nothing is said of other numbers of them.
    let others: &[usize] = match kernels.gpu {
        Some(_) => &[],
        None => &CORES,
    };
    let estimates = [SectorSize::Mib512, SectorSize::Gib32]
        .into_iter()
        .flat_map(|size| {
            std::iter::once(plan.threads())
                .chain(others.iter().copied())
                .map(move |cores| Estimate::of(size, cores, &unit_costs))
        })
        .collect();
    let report = BenchReport {
        machine: MachineReport {
            architecture: std::env::consts::ARCH,
            os: std::env::consts::OS,
            cores: machine.cores,
            threads: plan.threads(),
            available_memory: machine.available_memory,
            allowed_memory: plan.memory(),
            sha_extensions: machine.sha_extensions,
            vector_multiply: machine.vector_multiply,
        },
        kernels,
        unit_costs,
        sector_size: size,
        stages,
        estimates,
        peak_memory: peak_memory().max(forgotten),
    };
    context.out.result(&report, human)
}

struct Bench<'a> {
    size: SectorSize,
    dir: PathBuf,
    /// What each sector holds: one [`Pattern`] that fills it.
    piece: PieceInfo,
    plan: &'a Plan,
    progress: &'a BarProgress,
}

/// The bytes that are sealed: 0 to 250, again and again; made as they are read, since a sector may be larger than the memory.
struct Pattern {
    at: u64,
    end: u64,
}

impl Pattern {
    fn of(size: SectorSize) -> Self {
        Self {
            at: 0,
            end: size.unpadded_bytes(),
        }
    }

    fn piece(mut self) -> PieceInfo {
        let (mut hasher, mut buffer) = (CommpHasher::new(), vec![0; READ_BYTES]);
        while self.at < self.end {
            let count = self.fill(&mut buffer);
            hasher.update(&buffer[..count]);
        }
        let (comm_p, size) = hasher.finish();
        PieceInfo { comm_p, size }
    }

    fn fill(&mut self, buffer: &mut [u8]) -> usize {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let count = buffer.len().min(left);
        for (at, byte) in (self.at..).zip(&mut buffer[..count]) {
            *byte = (at % 251) as u8;
        }
        self.at += count as u64;
        count
    }
}

impl Read for Pattern {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(self.fill(buffer))
    }
}

impl Bench<'_> {
    fn request(&self, number: u64) -> SealRequest {
        SealRequest {
            seal: RegisteredSeal::v1_1(self.size),
            prover: ProverId::from_provider_id(1000),
            sector: SectorNumber(number),
            ticket: Ticket([0x21; 32]),
            pieces: vec![self.piece],
        }
    }

    fn pack(&self, request: SealRequest) -> Result<Packed, CliError> {
        let dir = self.dir.join(request.sector.to_string());
        seal::create(&dir, request, &mut [&mut Pattern::of(self.size)]).map_err(seal_error)
    }

    fn stages(
        &self,
        args: &BenchArgs,
        context: &Context,
        costs: &mut UnitCosts,
    ) -> Result<Stages, CliError> {
        let (plan, progress) = (self.plan, self.progress);
        let mut stages = Stages::default();
        // The proof type's parent list is made once, as in a provider's life.
        let first = self.pack(self.request(0))?;
        let (first, seconds) = timed(|| first.label(plan, progress).map_err(seal_error))?;
        stages.pc1_first = seconds;
        drop(first);
        self.remove(0)?;

        let request = self.request(1);
        let (packed, seconds) = timed(|| self.pack(request.clone()))?;
        stages.pack = seconds;
        let (labeled, seconds) = timed(|| packed.label(plan, progress).map_err(seal_error))?;
        stages.pc1 = seconds;
        let (replicated, seconds) =
            timed(|| labeled.replicate(plan, progress).map_err(seal_error))?;
        stages.pc2 = seconds;
        if args.no_proofs {
            drop(replicated);
        } else {
            stages.proofs = Some(self.proofs(replicated, &request, context, costs)?);
        }
        self.remove(1)?;

        let numbers = 1..=u64::from(args.sectors);
        let sectors = numbers
            .clone()
            .map(|number| self.pack(self.request(number)))
            .collect::<Result<Vec<_>, _>>()?;
        let (_, seconds) = timed(|| {
            label_all(sectors, plan, progress)
                .into_iter()
                .try_for_each(|result| result.map(drop).map_err(seal_error))
        })?;
        stages.pc1_together = (args.sectors, seconds);
        numbers
            .into_iter()
            .try_for_each(|number| self.remove(number))?;
        Ok(stages)
    }

    /// Seconds that making one of the small keys takes.
    fn make_key(&self, circuit: CircuitId) -> Result<f64, CliError> {
        let dir = self.dir.join("keys");
        let store = ParamStore::open(&dir).map_err(key_error)?;
        let (_, seconds) = timed(|| key(&store, circuit, self.plan, self.progress))?;
        store.remove(circuit).map_err(key_error)?;
        Ok(seconds)
    }

    fn proofs(
        &self,
        replicated: seal::Replicated,
        request: &SealRequest,
        context: &Context,
        costs: &mut UnitCosts,
    ) -> Result<Proofs, CliError> {
        let (plan, progress, size) = (self.plan, self.progress, self.size);
        let circuits = circuits(size);
        let store = store(context)?;
        let key = |circuit| key(&store, circuit, plan, progress);
        let (keys, keys_seconds) =
            timed(|| circuits.map(key).into_iter().collect::<Result<Vec<_>, _>>())?;
        let pairs = circuits
            .iter()
            .zip(&keys)
            .map(|(circuit, key)| (*circuit, key.verifying_key().bytes()));
        let verifying = VerifyingKeys::from_vk_bytes(pairs).map_err(|e| key_error(e.into()))?;

        let seed = Seed([0x43; 32]);
        let (comm_d, comm_r) = (replicated.comm_d(), replicated.comm_r());
        let dir = replicated.dir().path().to_owned();
        let (challenged, c1) = timed(|| {
            replicated
                .challenge(seed, plan, progress)
                .map_err(seal_error)
        })?;
        let peak_before = peak_memory();
        let apart = forget_peak_memory();
        let (sealed, c2) = timed(|| {
            challenged
                .prove(&keys[0], plan, progress)
                .map_err(seal_error)
        })?;
        let c2_peak_memory = apart.then(peak_memory).flatten();
        let statement = PorepStatement {
            seal: request.seal,
            prover: request.prover,
            sector: request.sector,
            ticket: request.ticket,
            seed,
            comm_d,
            comm_r,
        };
        let (_, all_verified) = timed(|| {
            (0..VERIFIED).try_for_each(|_| {
                verify::porep(&verifying, &statement, sealed.proof())
                    .map_err(|error| CliError::new(Class::Bug, error.to_string()))
            })
        })?;

        let others = other_proofs(sealed.proof(), BATCH)
            .map_err(|error| CliError::new(Class::Bug, error.to_string()))?;
        let items: Vec<(Statement, &[u8])> = others
            .iter()
            .map(|proof| (Statement::Porep(statement.clone()), proof.as_slice()))
            .collect();
        let (_, batches) = timed(|| {
            (0..BATCHES).try_for_each(|_| {
                let verdicts = plan.run(|| verify::batch(&verifying, &items));
                let all = verdicts.into_iter().collect::<Result<(), _>>();
                all.map_err(|error| CliError::new(Class::Bug, error.to_string()))
            })
        })?;

        let randomness = PostRandomness::masked([0x65; 32]);
        let replica = ReplicaRef {
            number: request.sector,
            comm_r,
            dir: &dir,
        };
        let prover = request.prover;
        let (_, window_post) = timed(|| {
            plan.run(|| prove_window(&keys[1], size, prover, randomness, &[replica], progress))
                .map_err(post_error)
        })?;
        let (_, winning_post) = timed(|| {
            plan.run(|| prove_winning(&keys[2], size, prover, randomness, replica, progress))
                .map_err(post_error)
        })?;
        let [key_window_2kib, key_winning_2kib] = SMALL_KEYS.map(|circuit| self.make_key(circuit));
        costs.porep_row = UnitCosts::row_of(circuits[0], c2, plan.threads());
        costs.post_row = UnitCosts::row_of(circuits[2], winning_post, plan.threads());
        Ok(Proofs {
            keys: keys_seconds,
            c1,
            c2,
            c2_peak_memory,
            peak_before,
            verify_seal: all_verified / f64::from(VERIFIED),
            verify_seal_of_64: batches / f64::from(BATCHES * BATCH),
            window_post,
            winning_post,
            key_window_2kib: key_window_2kib?,
            key_winning_2kib: key_winning_2kib?,
        })
    }

    fn remove(&self, number: u64) -> Result<(), CliError> {
        let dir = self.dir.join(number.to_string());
        std::fs::remove_dir_all(&dir)
            .map_err(DiskError::at("removing", &dir))
            .map_err(|error| seal_error(SealError::from(error)))
    }
}

/// Whose keys the proofs need.
fn circuits(size: SectorSize) -> [CircuitId; 3] {
    [
        CircuitId::porep(size),
        CircuitId::window(size),
        CircuitId::winning(size),
    ]
}

fn timed<T>(work: impl FnOnce() -> Result<T, CliError>) -> Result<(T, f64), CliError> {
    let begun = Instant::now();
    let result = work()?;
    Ok((result, begun.elapsed().as_secs_f64()))
}

fn human(report: &BenchReport) -> String {
    let BenchReport {
        machine,
        kernels,
        unit_costs,
        sector_size,
        stages,
        estimates,
        peak_memory,
    } = report;
    let yes = |yes: bool| if yes { "yes" } else { "no" };
    let mut lines = vec![
        format!(
            "{} {}, {} cores, {} threads used, {} of memory free, {} allowed; SHA-NI {}, AVX-512 IFMA {}",
            machine.architecture,
            machine.os,
            machine.cores,
            machine.threads,
            human_bytes(machine.available_memory),
            human_bytes(machine.allowed_memory),
            yes(machine.sha_extensions),
            yes(machine.vector_multiply),
        ),
        format!("Kernels: {kernels}"),
        format!(
            "One core: label {:.0} ns (four sectors in step: {:.0} ns each), parents {:.0} ns, column {:.0} ns (11 layers: {:.0} ns), tree node {:.0} ns, TreeD node {:.1} ns",
            unit_costs.label,
            unit_costs.label_of_four,
            unit_costs.parents,
            unit_costs.column_of_two,
            unit_costs.column_of_eleven,
            unit_costs.tree_node,
            unit_costs.tree_d_node,
        ),
        String::new(),
        format!("A {sector_size} sector:"),
        format!("  pack {:.3} s", stages.pack),
        format!(
            "  PC1  {:.3} s; first use of its proof type, parents made: {:.3} s",
            stages.pc1, stages.pc1_first
        ),
        format!(
            "  PC1 of {} sectors together {:.3} s, {:.3} s each",
            stages.pc1_together.0,
            stages.pc1_together.1,
            stages.pc1_together.1 / f64::from(stages.pc1_together.0)
        ),
        format!("  PC2  {:.3} s", stages.pc2),
    ];
    if let Some(proofs) = &stages.proofs {
        lines.extend([
            format!("  C1   {:.4} s", proofs.c1),
            match proofs.c2_peak_memory {
                Some(peak) => format!("  C2   {:.2} s, {} resident", proofs.c2, human_bytes(peak)),
                None => format!("  C2   {:.2} s", proofs.c2),
            },
            format!(
                "  verify {:.2} ms, of 64 together {:.2} ms each",
                proofs.verify_seal * 1e3,
                proofs.verify_seal_of_64 * 1e3
            ),
            format!("  WindowPoSt {:.2} s", proofs.window_post),
            format!("  WinningPoSt {:.2} s", proofs.winning_post),
            format!("  keys opened or made in {:.1} s", proofs.keys),
            format!(
                "  making the key of window-2KiB {:.2} s, of winning-2KiB {:.2} s",
                proofs.key_window_2kib, proofs.key_winning_2kib
            ),
        ]);
    }
    if let Some(bytes) = peak_memory {
        lines.push(format!("  largest resident memory {}", human_bytes(*bytes)));
    }
    lines.push(String::new());
    lines.push("Larger sectors, estimated from these costs (disks left out):".into());
    lines.extend(estimates.iter().map(estimate_line));
    lines.join("\n")
}

fn estimate_line(estimate: &Estimate) -> String {
    let time = |seconds: f64| match seconds {
        s if s < 10.0 => format!("{s:.1} s"),
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    };
    let proof = |seconds: Option<f64>| seconds.map_or("not measured".into(), time);
    format!(
        "  {} on {} cores: PC1 {} ({} per sector in batches), PC2 {}, C2 {}, WindowPoSt {}; memory {} / {} / {}, disk {}, parents {}",
        estimate.size,
        estimate.cores,
        time(estimate.pc1_seconds),
        time(estimate.pc1_batch_seconds),
        time(estimate.pc2_seconds),
        proof(estimate.c2_seconds),
        proof(estimate.window_post_seconds),
        human_bytes(estimate.pc1_memory),
        human_bytes(estimate.c2_memory),
        human_bytes(estimate.window_post_memory),
        human_bytes(estimate.disk),
        human_bytes(estimate.parents_disk),
    )
}
