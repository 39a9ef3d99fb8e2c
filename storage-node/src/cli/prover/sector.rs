//! `seal`, `unseal`, `check` and `repair`: one sector folder.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use prover::commitment::{CommD, CommR};
use prover::machine::Plan;
use prover::piece::commp::CommpHasher;
use prover::seal::{
    self, AnyStage, CheckDepth, SealError, SealRequest, Sealed, replica_check, unseal_range,
};
use prover::sector_dir::disk::RealDisk;
use prover::sector_dir::record::{Record, Stage};
use prover::sector_dir::{self, SectorDirError};
use prover::snark::CircuitId;
use prover::{PieceInfo, ProverId, RegisteredSeal, SectorNumber, SectorSize, Seed, Ticket};
use serde::Serialize;

use super::file::ProofFile;
use super::{BarProgress, key_error, require_folder, require_replica, seal_error, store};
use crate::cli::args::ByteRangeArg;
use crate::cli::output::human_bytes;
use crate::cli::{Class, CliError, Context};

/// Bytes hashed per read of a piece.
const READ_BYTES: usize = 1 << 20;

/// Arguments of `prover seal`.
#[derive(Debug, clap::Args)]
pub struct SealArgs {
    /// Sector folder; made when missing, gone on with when it holds a sector
    dir: PathBuf,
    /// Files to seal, one piece each, in this order; none to go on with a sector
    files: Vec<PathBuf>,
    /// 2KiB, 8MiB, 512MiB, 32GiB or 64GiB (4KiB, 16KiB and 32KiB are test shapes)
    #[arg(long, default_value = "8MiB", value_name = "SIZE")]
    sector_size: SectorSize,
    /// Provider's number on its chain
    #[arg(long, default_value_t = 1000, value_name = "N")]
    provider: u64,
    /// Number of the sector
    #[arg(long, default_value_t = SectorNumber(1), value_name = "N")]
    sector: SectorNumber,
    /// Chain randomness in the replica, 64 hex digits [default: a fixed value, for experiments]
    #[arg(long, value_name = "HEX")]
    ticket: Option<Ticket>,
    /// Chain randomness that draws the challenges, 64 hex digits [default: a fixed value, for experiments]
    #[arg(long, value_name = "HEX")]
    seed: Option<Seed>,
    /// Stop when this stage is reached
    #[arg(long, value_enum, default_value_t = Until::Sealed)]
    until: Until,
    /// Delete what only sealing needed, the unsealed data too
    #[arg(long)]
    trim: bool,
    /// Write statement and proof to this file
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
enum Until {
    Packed,
    Labeled,
    Replicated,
    Challenged,
    Sealed,
}

/// What `seal` reports.
#[derive(Debug, Serialize)]
struct SealReport {
    dir: PathBuf,
    stage: &'static str,
    seal: RegisteredSeal,
    prover: ProverId,
    sector: SectorNumber,
    ticket: Ticket,
    seed: Option<Seed>,
    pieces: Vec<PieceInfo>,
    comm_d: CommD,
    comm_r: Option<CommR>,
    proof_bytes: Option<usize>,
    seconds: Seconds,
}

/// Times of the steps that this run took.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Seconds {
    pack: Option<f64>,
    pc1: Option<f64>,
    pc2: Option<f64>,
    c1: Option<f64>,
    c2: Option<f64>,
}

/// Runs `prover seal`.
pub fn seal(args: SealArgs, plan: &Plan, context: &Context) -> Result<(), CliError> {
    let progress = BarProgress::new(&context.out);
    let mut seconds = Seconds::default();
    if args.dir.exists() {
        require_folder(&args.dir)?;
    }
    let mut stage = match seal::resume(&args.dir) {
        Ok(stage) if args.files.is_empty() => {
            context.out.say(format_args!(
                "Going on with the {} sector in {}.",
                stage.name(),
                args.dir.display()
            ));
            stage
        }
        Ok(_) => {
            let what = format!("{} already holds a sector", args.dir.display());
            return Err(CliError::new(Class::Input, what)
                .hint("leave out the files to go on with it, or name another folder"));
        }
        Err(SealError::Dir(SectorDirError::Empty(_))) => pack(&args, &mut seconds)?,
        Err(error) => return Err(seal_error(error)),
    };
    let seed = args.seed.unwrap_or(Seed(fixed(b"holdfast/prover/seed")));
    while position(&stage) < args.until {
        stage = step(stage, seed, plan, context, &progress, &mut seconds)?;
    }
    if let AnyStage::Sealed(sealed) = stage {
        stage = AnyStage::Sealed(deliver(sealed, &args)?);
    }
    report(&stage, seconds, context)
}

fn position(stage: &AnyStage) -> Until {
    match stage {
        AnyStage::Packed(_) => Until::Packed,
        AnyStage::Labeled(_) => Until::Labeled,
        AnyStage::Replicated(_) => Until::Replicated,
        AnyStage::Challenged(_) => Until::Challenged,
        AnyStage::Sealed(_) => Until::Sealed,
    }
}

/// Hashes the files to CommP, then writes the unsealed sector.
fn pack(args: &SealArgs, seconds: &mut Seconds) -> Result<AnyStage, CliError> {
    if args.files.is_empty() {
        let what = format!(
            "{} holds no sector, and no files to seal were named",
            args.dir.display()
        );
        return Err(
            CliError::new(Class::Usage, what).hint("name the files to seal behind the folder")
        );
    }
    let start = Instant::now();
    let capacity = args.sector_size.unpadded_bytes();
    let pieces = args
        .files
        .iter()
        .map(|path| piece(path, capacity, args.sector_size))
        .collect::<Result<_, _>>()?;
    let request = SealRequest {
        seal: RegisteredSeal::v1_1(args.sector_size),
        prover: ProverId::from_provider_id(args.provider),
        sector: args.sector,
        ticket: args
            .ticket
            .unwrap_or(Ticket(fixed(b"holdfast/prover/ticket"))),
        pieces,
    };
    let mut readers = args
        .files
        .iter()
        .map(|path| open(path))
        .collect::<Result<Vec<_>, _>>()?;
    let mut sources: Vec<&mut dyn Read> = readers
        .iter_mut()
        .map(|reader| reader as &mut dyn Read)
        .collect();
    let packed = seal::create(&args.dir, request, &mut sources).map_err(seal_error)?;
    seconds.pack = Some(start.elapsed().as_secs_f64());
    Ok(AnyStage::Packed(packed))
}

fn piece(path: &Path, capacity: u64, size: SectorSize) -> Result<PieceInfo, CliError> {
    let mut reader = open(path)?;
    let bytes = reader
        .get_ref()
        .metadata()
        .map_err(|error| CliError::io("cannot read", path, &error))?
        .len();
    let refused = |what: String| CliError::new(Class::Input, format!("{} {what}", path.display()));
    if bytes == 0 {
        return Err(
            refused("is empty".into()).hint("a piece has at least one byte; leave the file out")
        );
    }
    let too_large = |bytes| {
        refused(format!(
            "has {bytes} bytes, a {size} sector holds {capacity}"
        ))
        .hint("choose a larger --sector-size, or seal fewer or smaller files")
    };
    let (mut hasher, mut buffer) = (CommpHasher::new(), vec![0; READ_BYTES]);
    loop {
        match reader
            .read(&mut buffer)
            .map_err(|error| CliError::io("cannot read", path, &error))?
        {
            0 => break,
            count if hasher.len() + count as u64 > capacity => return Err(too_large(bytes)),
            count => hasher.update(&buffer[..count]),
        }
    }
    let (comm_p, size) = hasher.finish();
    Ok(PieceInfo { comm_p, size })
}

fn open(path: &Path) -> Result<BufReader<File>, CliError> {
    let file = File::open(path).map_err(|error| CliError::io("cannot read", path, &error))?;
    Ok(BufReader::with_capacity(READ_BYTES, file))
}

/// Takes one step and its time.
fn step(
    stage: AnyStage,
    seed: Seed,
    plan: &Plan,
    context: &Context,
    progress: &BarProgress,
    seconds: &mut Seconds,
) -> Result<AnyStage, CliError> {
    let start = Instant::now();
    let elapsed = || Some(start.elapsed().as_secs_f64());
    Ok(match stage {
        AnyStage::Packed(packed) => {
            let labeled = packed.label(plan, progress).map_err(seal_error)?;
            seconds.pc1 = elapsed();
            AnyStage::Labeled(labeled)
        }
        AnyStage::Labeled(labeled) => {
            let replicated = labeled.replicate(plan, progress).map_err(seal_error)?;
            seconds.pc2 = elapsed();
            AnyStage::Replicated(replicated)
        }
        AnyStage::Replicated(replicated) => {
            let challenged = replicated.challenge(seed).map_err(seal_error)?;
            seconds.c1 = elapsed();
            AnyStage::Challenged(challenged)
        }
        AnyStage::Challenged(challenged) => {
            let circuit = CircuitId::porep(challenged.dir().size());
            let store = store(context)?;
            let key = plan
                .run(|| store.load_or_generate(circuit, progress))
                .map_err(key_error)?;
            let start = Instant::now();
            let sealed = challenged.prove(&key, plan, progress).map_err(seal_error)?;
            seconds.c2 = Some(start.elapsed().as_secs_f64());
            AnyStage::Sealed(sealed)
        }
        sealed @ AnyStage::Sealed(_) => sealed,
    })
}

/// Writes the proof file and frees space, as asked.
fn deliver(sealed: Sealed, args: &SealArgs) -> Result<Sealed, CliError> {
    if let Some(out) = &args.out {
        let record = sealed.dir().record();
        let file = ProofFile::Porep {
            seal: record.seal,
            prover: record.prover,
            sector: record.sector,
            ticket: record.ticket,
            seed: sealed.seed(),
            comm_d: sealed.comm_d(),
            comm_r: sealed.comm_r(),
            proof: hex::encode(sealed.proof()),
        };
        file.write(out)?;
    }
    if args.trim {
        sealed.trim(false).map_err(seal_error)
    } else {
        Ok(sealed)
    }
}

fn report(stage: &AnyStage, seconds: Seconds, context: &Context) -> Result<(), CliError> {
    let Record {
        seal,
        prover,
        sector,
        ticket,
        pieces,
        comm_d,
        stage: reached,
        ..
    } = stage.dir().record().clone();
    let (seed, proof_bytes) = match reached {
        Stage::Sealed(_, seed, proof) => (Some(seed), Some(proof.len())),
        Stage::Challenged(_, seed) => (Some(seed), None),
        Stage::Packed | Stage::Labeled | Stage::Replicated(_) => (None, None),
    };
    let comm_r = match stage {
        AnyStage::Packed(_) | AnyStage::Labeled(_) => None,
        AnyStage::Replicated(stage) => Some(stage.comm_r()),
        AnyStage::Challenged(stage) => Some(stage.vanilla().comm_r),
        AnyStage::Sealed(stage) => Some(stage.comm_r()),
    };
    let dir = stage.dir().path().to_owned();
    let stage = stage.name();
    let report = SealReport {
        dir,
        stage,
        seal,
        prover,
        sector,
        ticket,
        seed,
        pieces,
        comm_d,
        comm_r,
        proof_bytes,
        seconds,
    };
    context.out.result(&report, human)
}

fn human(report: &SealReport) -> String {
    let mut lines = vec![
        format!(
            "Sector {} in {} is {}.",
            report.sector,
            report.dir.display(),
            report.stage
        ),
        format!("  CommD {}", report.comm_d.to_cid()),
    ];
    if let Some(comm_r) = report.comm_r {
        lines.push(format!("  CommR {}", comm_r.to_cid()));
    }
    if let Some(bytes) = report.proof_bytes {
        lines.push(format!("  proof of {bytes} bytes, verified"));
    }
    let Seconds {
        pack,
        pc1,
        pc2,
        c1,
        c2,
    } = report.seconds;
    let times = [
        ("pack", pack),
        ("PC1", pc1),
        ("PC2", pc2),
        ("C1", c1),
        ("C2", c2),
    ];
    let times: Vec<String> = times
        .iter()
        .filter_map(|(name, time)| time.map(|time| format!("{name} {time:.2} s")))
        .collect();
    if !times.is_empty() {
        lines.push(format!("  {}", times.join(", ")));
    }
    lines.join("\n")
}

fn fixed(domain: &[u8]) -> [u8; 32] {
    prover::hash::sha256::digest(&[domain])
}

/// Arguments of `prover unseal`.
#[derive(Debug, clap::Args)]
pub struct UnsealArgs {
    /// Sector folder
    dir: PathBuf,
    /// Bytes of the sector's data, FIRST..END [default: all of it]
    #[arg(long, value_name = "RANGE")]
    range: Option<ByteRangeArg>,
    /// File to write; must not exist
    #[arg(short, long, value_name = "FILE")]
    out: PathBuf,
}

/// What `unseal` reports.
#[derive(Debug, Serialize)]
struct UnsealReport {
    out: PathBuf,
    bytes: u64,
    seconds: f64,
}

/// Runs `prover unseal`. The output appears under its name only when it is complete.
pub fn unseal(args: UnsealArgs, plan: &Plan, context: &Context) -> Result<(), CliError> {
    require_folder(&args.dir)?;
    let record = record(&args.dir)?;
    require_replica(&args.dir, &record)?;
    let capacity = record.seal.size.unpadded_bytes();
    let range = args.range.map_or(0..capacity, |range| {
        range.start..range.end.unwrap_or(capacity)
    });
    if args.out.exists() {
        let what = format!("{} exists already", args.out.display());
        return Err(
            CliError::new(Class::Input, what).hint("name a new file; nothing is overwritten")
        );
    }
    let start = Instant::now();
    let folder = args
        .out
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let at = |error: std::io::Error| CliError::io("cannot write", &args.out, &error);
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(at)?;
    let mut out = BufWriter::with_capacity(READ_BYTES, file.as_file_mut());
    let progress = BarProgress::new(&context.out);
    unseal_range(&args.dir, range.clone(), &mut out, plan, &progress).map_err(seal_error)?;
    out.flush().map_err(at)?;
    drop(out);
    file.as_file().sync_all().map_err(at)?;
    file.persist_noclobber(&args.out)
        .map_err(|error| at(error.error))?;
    let seconds = start.elapsed().as_secs_f64();
    let report = UnsealReport {
        out: args.out,
        bytes: range.end - range.start,
        seconds,
    };
    context.out.result(&report, |r| {
        format!(
            "Wrote {} to {} in {:.1} s.",
            human_bytes(r.bytes),
            r.out.display(),
            r.seconds
        )
    })
}

/// Arguments of `prover check`.
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// Sector folder
    dir: PathBuf,
}

/// What `check` reports of a sound sector; damage is an error that lists it.
#[derive(Debug, Serialize)]
struct CheckReport {
    dir: PathBuf,
    stage: &'static str,
    nodes: u64,
    damage: Vec<String>,
}

/// Runs `prover check`: every recorded file against its hash, and the replica against CommR.
pub fn check(args: CheckArgs, plan: &Plan, context: &Context) -> Result<(), CliError> {
    require_folder(&args.dir)?;
    let record = record(&args.dir)?;
    let (has_replica, stage) = match &record.stage {
        Stage::Packed => (false, "packed"),
        Stage::Labeled => (false, "labeled"),
        Stage::Replicated(_) => (true, "replicated"),
        Stage::Challenged(..) => (true, "challenged"),
        Stage::Sealed(..) => (true, "sealed"),
    };
    let mut report = CheckReport {
        dir: args.dir.clone(),
        stage,
        nodes: 0,
        damage: Vec::new(),
    };
    match seal::resume(&args.dir) {
        Ok(_) => {}
        Err(error @ SealError::Dir(SectorDirError::Damaged { .. })) => {
            report.damage.push(first_part(&error.to_string()))
        }
        Err(error) => return Err(seal_error(error)),
    }
    if has_replica {
        let comm_r = require_replica(&args.dir, &record)?;
        let progress = BarProgress::new(&context.out);
        let found = replica_check(
            &args.dir,
            record.seal.size,
            &comm_r,
            CheckDepth::Full,
            plan,
            &progress,
        );
        report.nodes = found.nodes;
        report
            .damage
            .extend(found.damage.iter().map(ToString::to_string));
    }
    if report.damage.is_empty() {
        return context.out.result(&report, |report| {
            format!(
                "The {} sector in {} is sound.",
                report.stage,
                report.dir.display()
            )
        });
    }
    let what = format!(
        "the {} sector in {} is damaged: {}",
        report.stage,
        report.dir.display(),
        report.damage.join(", ")
    );
    Err(CliError::new(Class::BadData, what)
        .hint("run `holdfast prover repair` on it, or seal its data anew"))
}

/// What happened, without the next step that the library's messages add.
fn first_part(message: &str) -> String {
    message.split("; ").next().unwrap_or(message).to_owned()
}

/// Arguments of `prover repair`.
#[derive(Debug, clap::Args)]
pub struct RepairArgs {
    /// Sector folder
    dir: PathBuf,
}

/// Runs `prover repair`: afterwards the sector has its replica again, with the same CommR.
pub fn repair(args: RepairArgs, plan: &Plan, context: &Context) -> Result<(), CliError> {
    require_folder(&args.dir)?;
    let progress = BarProgress::new(&context.out);
    let mut seconds = Seconds::default();
    let mut stage = seal::repair(&args.dir).map_err(seal_error)?;
    while position(&stage) < Until::Replicated {
        stage = step(stage, Seed([0; 32]), plan, context, &progress, &mut seconds)?;
    }
    report(&stage, seconds, context)
}

fn record(dir: &Path) -> Result<Record, CliError> {
    sector_dir::read_record(&RealDisk, dir).map_err(|error| seal_error(error.into()))
}
