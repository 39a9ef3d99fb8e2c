//! `seal` and `seal-all`: from files to proven sectors, each step durable, run again to go on.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use prover::commitment::{CommD, CommR};
use prover::machine::{Plan, peak_memory};
use prover::piece::commp::CommpHasher;
use prover::piece::layout::comm_d;
use prover::progress::Share;
use prover::seal::{
    self, AnyStage, SealError, SealRequest, Sealed, disk_bytes, disk_left, label_all,
};
use prover::sector_dir::disk::RealDisk;
use prover::sector_dir::record::{Record, Stage};
use prover::sector_dir::{SectorDir, SectorDirError, read_record};
use prover::snark::CircuitId;
use prover::{
    PieceInfo, Progress, ProverId, RegisteredSeal, SectorNumber, SectorSize, Seed, Ticket,
};
use serde::Serialize;

use super::file::ProofFile;
use super::{
    BarProgress, Need, Room, key, proof_needs, require_folder, require_memory, seal_error, store,
};
use crate::cli::{Class, CliError, Context};

/// Bytes hashed per read of a piece.
pub(super) const READ_BYTES: usize = 1 << 20;

/// Arguments of `prover seal`.
#[derive(Debug, clap::Args)]
pub struct SealArgs {
    /// Sector folder; made when missing, gone on with when it holds a sector
    dir: PathBuf,
    /// Files to seal, one piece each, in this order; none, or the same, to go on with a sector
    files: Vec<PathBuf>,
    /// Seal a sector of zeros, which `update` can put files into later
    #[arg(long, conflicts_with = "files")]
    empty: bool,
    #[command(flatten)]
    how: How,
    /// Write statement and proof to this file
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Arguments of `prover seal-all`.
#[derive(Debug, clap::Args)]
pub struct SealAllArgs {
    /// Folder of sector folders, each named by its sector's number; sectors that are there and unfinished go on
    root: PathBuf,
    /// Files to seal, one sector each, numbered from --sector on; one whose sector is there goes on
    files: Vec<PathBuf>,
    #[command(flatten)]
    how: How,
    /// Write statement and proof of each sector to NUMBER.json in this folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// What `seal` and `seal-all` have in common. Defaults are a new sector's: one that goes on keeps what its record says, and a flag
/// that says otherwise is refused ([`How::require_same`], [`How::require_seed`]).
#[derive(Debug, clap::Args)]
struct How {
    /// 2KiB, 8MiB, 512MiB, 32GiB or 64GiB (4KiB, 16KiB and 32KiB are test shapes) [default: 8MiB]
    #[arg(long, value_name = "SIZE")]
    sector_size: Option<SectorSize>,
    /// Provider's number on its chain [default: 1000]
    #[arg(long, value_name = "N")]
    provider: Option<u64>,
    /// Number of the (first) sector [default: 1]
    #[arg(long, value_name = "N")]
    sector: Option<SectorNumber>,
    /// Chain randomness in the replica, 64 hex digits [default: a fixed value, for experiments]
    #[arg(long, value_name = "HEX")]
    ticket: Option<Ticket>,
    /// Chain randomness that draws the challenges, 64 hex digits; a sector that was challenged with another one and is not proven
    /// yet is challenged anew [default: a fixed value, for experiments]
    #[arg(long, value_name = "HEX")]
    seed: Option<Seed>,
    /// Stop when this stage is reached
    #[arg(long, value_enum, default_value_t = Until::Sealed)]
    until: Until,
    /// Delete what only sealing needed, the unsealed data too
    #[arg(long)]
    trim: bool,
}

impl How {
    fn size(&self) -> SectorSize {
        self.sector_size.unwrap_or(SectorSize::Mib8)
    }

    fn prover(&self) -> ProverId {
        ProverId::from_provider_id(self.provider.unwrap_or(1000))
    }

    fn sector(&self) -> SectorNumber {
        self.sector.unwrap_or(SectorNumber(1))
    }

    fn ticket(&self) -> Ticket {
        let usual = || Ticket(fixed(b"holdfast/prover/ticket"));
        self.ticket.unwrap_or_else(usual)
    }

    fn seed(&self) -> Seed {
        let usual = || Seed(fixed(b"holdfast/prover/seed"));
        self.seed.unwrap_or_else(usual)
    }

    /// Refuses to go on with a sector that is another one than the command line says. What it does not say is not compared.
    fn require_same(&self, dir: &Path, record: &Record) -> Result<(), CliError> {
        let Record {
            seal,
            prover,
            ticket,
            ..
        } = record;
        let is_other_size = self.sector_size.is_some_and(|size| size != seal.size);
        let is_other_provider = self.provider.is_some() && self.prover() != *prover;
        let is_other_ticket = self.ticket.is_some_and(|said| said != *ticket);
        if is_other_size {
            return Err(contradicted(dir, "size", "--sector-size"));
        }
        if is_other_provider {
            return Err(contradicted(dir, "provider", "--provider"));
        }
        if is_other_ticket {
            return Err(contradicted(dir, "ticket", "--ticket"));
        }
        Ok(())
    }

    /// Refuses another seed than the one that a sector was proven for: its proof is not thrown away.
    fn require_seed(&self, dir: &Path, record: &Record) -> Result<(), CliError> {
        match (&record.stage, self.seed) {
            (Stage::Sealed(_, proven, _), Some(seed)) if *proven != seed => {
                let what = format!("the sector in {} is proven for another seed", dir.display());
                Err(CliError::new(Class::Input, what).hint(
                    "leave out --seed to keep its proof; for one of another seed, seal the data in another folder",
                ))
            }
            _ => Ok(()),
        }
    }

    /// A challenged sector forgets its seed where it is to have another. Only the new challenges replace it on disk.
    fn reseed(&self, stage: AnyStage) -> Result<AnyStage, CliError> {
        match (stage, self.seed) {
            (AnyStage::Challenged(challenged), Some(seed))
                if challenged.vanilla().seed != seed && self.until >= Until::Challenged =>
            {
                let replicated = challenged.forget_seed().map_err(seal_error)?;
                Ok(AnyStage::Replicated(replicated))
            }
            (stage, _) => Ok(stage),
        }
    }
}

fn contradicted(dir: &Path, what: &str, flag: &str) -> CliError {
    let what = format!(
        "the sector in {} has another {what} than {flag} says",
        dir.display()
    );
    CliError::new(Class::Input, what).hint(format!(
        "leave out {flag} to go on with it, or name another folder"
    ))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(super) enum Until {
    Packed,
    Labeled,
    Replicated,
    Challenged,
    Sealed,
}

/// What `seal` reports.
#[derive(Debug, Serialize)]
pub(super) struct SealReport {
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
    /// Largest resident memory of the process so far, in bytes.
    peak_memory: Option<u64>,
}

/// Times of the steps that this run took.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Seconds {
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
    let admit = |record: &Record| {
        args.how.require_same(&args.dir, record)?;
        if args
            .how
            .sector
            .is_some_and(|number| number != record.sector)
        {
            return Err(contradicted(&args.dir, "number", "--sector"));
        }
        args.how.require_seed(&args.dir, record)?;
        if !args.files.is_empty() {
            require_pieces(&args.dir, record, &args.files, &progress)?;
        }
        require_rest(record, args.how.until, plan, context)
    };
    let room = |left: u64, from: Until, seal: RegisteredSeal| {
        let mut room = Room::default();
        room.add("the sector", &args.dir, left);
        add_rest(&mut room, from, args.how.until, seal, plan, context)?;
        room.add_out(args.out.as_deref());
        room.require(plan, context)
    };
    let (mut stage, plan) = match resume(&args.dir, plan, &progress, admit)? {
        Ok(stage) if args.empty && !holds_nothing(&stage) => {
            let what = format!("{} holds a sector with data", args.dir.display());
            return Err(CliError::new(Class::Input, what)
                .hint("name another folder, or leave out --empty to go on with this sector"));
        }
        Ok(stage) => {
            context.out.say(format_args!(
                "Going on with the {} sector in {}.",
                stage.name(),
                args.dir.display()
            ));
            let record = stage.dir().record();
            let plan = room(disk_left(record), position(&stage), record.seal)?;
            (args.how.reseed(stage)?, plan)
        }
        Err(SealError::Dir(SectorDirError::Empty(_))) => {
            if args.files.is_empty() && !args.empty {
                let what = format!(
                    "{} holds no sector, and no files to seal were named",
                    args.dir.display()
                );
                return Err(CliError::new(Class::Usage, what)
                    .hint("name the files to seal behind the folder, or --empty for none"));
            }
            let size = args.how.size();
            let needs = needs(size, Until::Packed, args.how.until, plan, context)?;
            require_memory(plan, needs)?;
            let left = disk_bytes(size).saturating_sub(left_over(&args.dir));
            let plan = room(left, Until::Packed, RegisteredSeal::v1_1(size))?;
            let pieces = pieces(&args.files, size, &progress)?;
            let packed = pack(
                &args.dir,
                &args.files,
                pieces,
                args.how.sector(),
                &args.how,
                &mut seconds,
                &progress,
            )?;
            (packed, plan)
        }
        Err(error) => return Err(seal_error(error)),
    };
    while position(&stage) < args.how.until {
        stage = step(
            stage,
            args.how.seed(),
            &plan,
            context,
            &progress,
            &mut seconds,
        )?;
    }
    if let AnyStage::Sealed(sealed) = stage {
        stage = AnyStage::Sealed(deliver(sealed, args.out.as_deref(), args.how.trim)?);
    }
    let report = report(&stage, seconds);
    context.out.result(&report, human)
}

/// Opens a sector that `admit` lets pass, which sees its record before its files are read.
fn resume(
    dir: &Path,
    plan: &Plan,
    progress: &dyn Progress,
    admit: impl FnOnce(&Record) -> Result<(), CliError>,
) -> Result<Result<AnyStage, SealError>, CliError> {
    Ok(match open_sector(dir, admit)? {
        Ok(dir) => seal::resume_in(dir, plan, progress),
        Err(error) => Err(error.into()),
    })
}

/// Locks the folder of a sector that `admit` lets pass.
fn open_sector(
    dir: &Path,
    admit: impl FnOnce(&Record) -> Result<(), CliError>,
) -> Result<Result<SectorDir, SectorDirError>, CliError> {
    let opened = SectorDir::open(Arc::new(RealDisk), dir);
    if let Ok(dir) = &opened {
        admit(dir.record())?;
    }
    Ok(opened)
}

/// What the steps between two stages of a sector need, in memory.
pub(super) fn needs(
    size: SectorSize,
    from: Until,
    until: Until,
    plan: &Plan,
    context: &Context,
) -> Result<Vec<Need>, CliError> {
    let steps = [
        (Until::Labeled, "labelling", seal::label_memory(size)),
        (
            Until::Replicated,
            "replicating",
            seal::replicate_memory(size, plan),
        ),
        (
            Until::Challenged,
            "opening challenges",
            seal::challenge_memory(size),
        ),
    ];
    let mut needs: Vec<Need> = steps
        .into_iter()
        .filter(|(step, ..)| from < *step && *step <= until)
        .map(|(_, name, bytes)| (name, bytes))
        .collect();
    if from < Until::Sealed && until == Until::Sealed {
        needs.extend(proof_needs(&store(context)?, CircuitId::porep(size))?);
    }
    Ok(needs)
}

/// Counts what the steps between two stages write outside of the sector's folder: the list of parents, and a key.
fn add_rest(
    room: &mut Room,
    from: Until,
    until: Until,
    seal: RegisteredSeal,
    plan: &Plan,
    context: &Context,
) -> Result<(), CliError> {
    if from < Until::Labeled && until >= Until::Labeled {
        room.add_parents(seal, plan);
    }
    if from < Until::Sealed && until == Until::Sealed {
        room.add_key(&store(context)?, CircuitId::porep(seal.size));
    }
    Ok(())
}

/// Bytes that a killed command left in a sector's folder: they are written over or swept, so they count as free.
pub(super) fn left_over(dir: &Path) -> u64 {
    let has_record = dir.join("record").exists();
    let Ok(entries) = std::fs::read_dir(dir) else {
        return 0;
    };
    let is_left_over = |name: &str| match name.ends_with(".tmp") {
        false => !has_record && ["unsealed", "sc-02-data-tree-d.dat"].contains(&name),
        true => true,
    };
    let bytes = entries.flatten().filter_map(|entry| {
        let is_one = entry.file_name().to_str().is_some_and(is_left_over);
        Some(occupied_bytes(&entry.metadata().ok().filter(|_| is_one)?))
    });
    bytes.fold(0, u64::saturating_add)
}

/// What a file takes of its disk; a hole takes nothing.
fn occupied_bytes(meta: &std::fs::Metadata) -> u64 {
    #[cfg(unix)]
    return std::os::unix::fs::MetadataExt::blocks(meta).saturating_mul(512);
    #[cfg(not(unix))]
    meta.len()
}

/// How far a sector is by its record; an update is not on the way.
fn until_of(record: &Record) -> Option<Until> {
    Some(match record.stage {
        Stage::Packed => Until::Packed,
        Stage::Labeled => Until::Labeled,
        Stage::Replicated(_) => Until::Replicated,
        Stage::Challenged(..) => Until::Challenged,
        Stage::Sealed(..) => Until::Sealed,
        Stage::Encoding(_) | Stage::Updated(..) | Stage::UpdateProven(..) => return None,
    })
}

/// Refuses to go on with a sector when a step that is left needs more memory than allowed. An update has no such steps.
pub(super) fn require_rest(
    record: &Record,
    until: Until,
    plan: &Plan,
    context: &Context,
) -> Result<(), CliError> {
    let size = record.seal.size;
    let Some(from) = until_of(record) else {
        return Ok(());
    };
    let mut needs = needs(size, from, until, plan, context)?;
    if from == Until::Challenged {
        // Its openings are made again.
        needs.push(("opening challenges", seal::challenge_memory(size)));
    }
    require_memory(plan, needs)
}

/// Whether the sector is one of zeros, which `update` takes.
fn holds_nothing(stage: &AnyStage) -> bool {
    let record = stage.dir().record();
    comm_d(&[], record.seal.size).is_ok_and(|zeros| zeros == record.comm_d)
}

/// Refuses to go on with a sector that holds other data than these files.
pub(super) fn require_pieces(
    dir: &Path,
    record: &Record,
    files: &[PathBuf],
    progress: &dyn Progress,
) -> Result<(), CliError> {
    if pieces(files, record.seal.size, progress)? == record.pieces {
        return Ok(());
    }
    let what = format!("{} already holds a sector of other data", dir.display());
    Err(CliError::new(Class::Input, what)
        .hint("leave out the files to go on with it, or name another folder"))
}

/// What `seal-all` reports.
#[derive(Debug, Serialize)]
struct SealAllReport {
    sectors: Vec<SealReport>,
    /// Sectors that did not get as far as asked, and why.
    failed: Vec<Failure>,
    /// PC1 of all sectors, which are labelled together.
    pc1_seconds: f64,
    seconds: f64,
    /// Largest resident memory of the process so far, in bytes.
    peak_memory: Option<u64>,
}

/// A sector that stopped.
#[derive(Debug, Serialize)]
struct Failure {
    dir: PathBuf,
    error: String,
}

/// One sector of a run over many.
struct Sector {
    dir: PathBuf,
    seconds: Seconds,
    /// `None` while a step has it.
    stage: Option<Result<Turn, CliError>>,
}

/// A sector that waits for its turn.
#[allow(
    clippy::large_enum_variant,
    reason = "there are as many as sectors, and nearly all of them are of the larger kind"
)]
enum Turn {
    /// Opened; nothing of it is in memory.
    Open(AnyStage),
    /// Challenged: its files are compared and its openings made when it is its turn, since the openings of many sectors together
    /// pass any budget. Locked until then.
    Challenged(SectorDir),
}

impl Turn {
    fn record(&self) -> &Record {
        match self {
            Self::Open(stage) => stage.dir().record(),
            Self::Challenged(dir) => dir.record(),
        }
    }
}

/// Runs `prover seal-all`: PC1 of all sectors together, everything behind it one sector after another. A sector that fails
/// does not hold up the others; the command's error is the first one's.
pub fn seal_all(args: SealAllArgs, plan: &Plan, context: &Context) -> Result<(), CliError> {
    let start = Instant::now();
    let progress = BarProgress::new(&context.out);
    if args.root.exists() {
        require_folder(&args.root)?;
    }
    let size = args.how.size();
    let (mut there, mut new) = (Vec::new(), Vec::new());
    for (number, file) in numbers(args.how.sector(), args.files.len())?.zip(&args.files) {
        let (number, dir) = (SectorNumber(number), args.root.join(number.to_string()));
        let files = std::slice::from_ref(file);
        match read_record(&RealDisk, &dir) {
            Ok(record) => there.push((number, files, dir, record)),
            Err(SectorDirError::Empty(_)) => new.push((number, files, dir)),
            // It is among those that are found, and its error is told there.
            Err(_) => {}
        }
    }
    if !new.is_empty() {
        let needs = needs(size, Until::Packed, args.how.until, plan, context)?;
        require_memory(plan, needs)?;
    }
    for (number, files, dir, record) in there {
        require_number(&dir, &record, number)?;
        args.how.require_same(&dir, &record)?;
        args.how.require_seed(&dir, &record)?;
        require_pieces(&dir, &record, files, &progress)?;
    }
    let admit = |dir: &Path, record: &Record| {
        // Without files there is nothing else that the flags could be about.
        if args.files.is_empty() && !record.stage.is_update() {
            args.how.require_same(dir, record)?;
        }
        require_rest(record, args.how.until, plan, context)
    };
    let mut sectors = found(&args.root, plan, &progress, admit)?;
    let begun = sectors
        .iter()
        .filter_map(|sector| Some(sector.stage.as_ref()?.as_ref().ok()?.record()));
    let mut seals: BTreeMap<RegisteredSeal, Until> = BTreeMap::new();
    let mut left = 0u64;
    for record in begun {
        left = left.saturating_add(disk_left(record));
        if let Some(from) = until_of(record) {
            let first = seals.entry(record.seal).or_insert(from);
            *first = from.min(*first);
        }
    }
    for (_, _, dir) in &new {
        // What a killed packing left there is removed before room is measured for all of them: the others shall have it. Where
        // that fails, such as while another process has the folder, packing says so in its turn.
        let _ = SectorDir::sweep_unbegun(Arc::new(RealDisk), dir);
        let bytes = disk_bytes(size).saturating_sub(left_over(dir));
        left = left.saturating_add(bytes);
        seals.insert(RegisteredSeal::v1_1(size), Until::Packed);
    }
    let mut room = Room::default();
    room.add("the sectors", &args.root, left);
    for (seal, from) in seals {
        add_rest(&mut room, from, args.how.until, seal, plan, context)?;
    }
    room.add_out(args.out.as_ref().map(|out| out.join("1.json")).as_deref());
    let plan = &room.require(plan, context)?;
    // Every file is read before the first sector is made.
    let pieces = pieces(new.iter().flat_map(|(_, files, _)| *files), size, &progress)?;
    // Each sector has one file.
    for ((number, files, dir), piece) in new.into_iter().zip(pieces) {
        let mut seconds = Seconds::default();
        let packed = pack(
            &dir,
            files,
            vec![piece],
            number,
            &args.how,
            &mut seconds,
            &progress,
        );
        sectors.push(Sector {
            dir,
            seconds,
            stage: Some(packed.map(Turn::Open)),
        });
    }
    if sectors.is_empty() {
        let what = format!(
            "{} holds no sectors to seal, and no files were named",
            args.root.display()
        );
        return Err(
            CliError::new(Class::Usage, what).hint("name the files to seal behind the folder")
        );
    }
    if let Some(out) = &args.out {
        std::fs::create_dir_all(out).map_err(|error| CliError::io("cannot make", out, &error))?;
    }

    let labelling = Instant::now();
    if args.how.until > Until::Packed {
        label_together(&mut sectors, plan, &progress);
    }
    let pc1_seconds = labelling.elapsed().as_secs_f64();
    let (mut reports, mut failed, mut first_error) = (Vec::new(), Vec::new(), None);
    for mut sector in sectors {
        let stage = sector.stage.take().expect("labelling gives each one back");
        let finished = stage
            .and_then(|turn| finish(turn, &args, plan, context, &progress, &mut sector.seconds));
        match finished {
            Ok(stage) => reports.push(report(&stage, sector.seconds)),
            Err(error) => {
                context
                    .out
                    .say(format_args!("{}: {error}", sector.dir.display()));
                failed.push(Failure {
                    dir: sector.dir,
                    error: error.to_string(),
                });
                first_error.get_or_insert(error);
            }
        }
    }
    let report = SealAllReport {
        sectors: reports,
        failed,
        pc1_seconds,
        seconds: start.elapsed().as_secs_f64(),
        peak_memory: peak_memory(),
    };
    match first_error {
        Some(error) => Err(error.hint(format!(
            "{} of {} sectors are as far as asked; cure the cause and run the same command again, it goes on",
            report.sectors.len(),
            report.sectors.len() + report.failed.len()
        ))),
        None => context.out.result(&report, human_all),
    }
}

/// The numbers of so many sectors from `first` on.
fn numbers(first: SectorNumber, count: usize) -> Result<RangeInclusive<u64>, CliError> {
    let further = u64::try_from(count.saturating_sub(1)).unwrap_or(u64::MAX);
    let last = first.0.checked_add(further).ok_or_else(|| {
        let what = format!("{count} sectors numbered from {first} on pass the largest number");
        CliError::new(Class::Usage, what).hint("choose a smaller --sector")
    })?;
    Ok(first.0..=last)
}

/// Refuses a folder that is named like a file's sector and holds another one.
fn require_number(dir: &Path, record: &Record, number: SectorNumber) -> Result<(), CliError> {
    // An update is not sealed.
    let holds = match record.stage.is_update() {
        false if record.sector == number => return Ok(()),
        false => "a sector",
        true => "an update",
    };
    let what = format!(
        "{} holds {holds} of number {}",
        dir.display(),
        record.sector
    );
    Err(CliError::new(Class::Input, what)
        .hint("number the files otherwise with --sector, or name another folder"))
}

/// The sectors under `root`, in the order of their numbers; damaged ones, and those that `admit` refuses, with their error.
/// Updates are not for sealing.
fn found(
    root: &Path,
    plan: &Plan,
    progress: &dyn Progress,
    admit: impl Fn(&Path, &Record) -> Result<(), CliError>,
) -> Result<Vec<Sector>, CliError> {
    let mut numbers: Vec<u64> = match std::fs::read_dir(root) {
        Ok(entries) => entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(CliError::io("cannot list", root, &error)),
    };
    numbers.sort_unstable();
    let sectors = numbers.into_iter().filter_map(|number| {
        let dir = root.join(number.to_string());
        let stage = match open_sector(&dir, |record| admit(&dir, record)) {
            Ok(Ok(opened)) if matches!(opened.record().stage, Stage::Challenged(..)) => {
                Ok(Turn::Challenged(opened))
            }
            Ok(opened) => {
                let opened = opened.map_err(SealError::from);
                match opened.and_then(|dir| seal::resume_in(dir, plan, progress)) {
                    Err(SealError::Dir(SectorDirError::Empty(_)) | SealError::Updated(_)) => {
                        return None;
                    }
                    other => other.map(Turn::Open).map_err(seal_error),
                }
            }
            Err(refused) => Err(refused),
        };
        Some(Sector {
            dir,
            seconds: Seconds::default(),
            stage: Some(stage),
        })
    });
    Ok(sectors.collect())
}

fn label_together(sectors: &mut [Sector], plan: &Plan, progress: &BarProgress) {
    let (mut waiting, mut packed) = (Vec::new(), Vec::new());
    for sector in sectors {
        match sector.stage.take() {
            Some(Ok(Turn::Open(AnyStage::Packed(stage)))) => {
                waiting.push(sector);
                packed.push(stage);
            }
            other => sector.stage = other,
        }
    }
    if packed.is_empty() {
        return;
    }
    for (sector, result) in waiting.into_iter().zip(label_all(packed, plan, progress)) {
        let labeled = result.map(|stage| Turn::Open(AnyStage::Labeled(stage)));
        sector.stage = Some(labeled.map_err(seal_error));
    }
}

fn finish(
    turn: Turn,
    args: &SealAllArgs,
    plan: &Plan,
    context: &Context,
    progress: &BarProgress,
    seconds: &mut Seconds,
) -> Result<AnyStage, CliError> {
    let stage = match turn {
        Turn::Open(stage) => stage,
        Turn::Challenged(dir) => seal::resume_in(dir, plan, progress).map_err(seal_error)?,
    };
    let mut stage = args.how.reseed(stage)?;
    while position(&stage) < args.how.until {
        stage = step(stage, args.how.seed(), plan, context, progress, seconds)?;
    }
    let AnyStage::Sealed(sealed) = stage else {
        return Ok(stage);
    };
    let number = sealed.dir().record().sector;
    let out = args
        .out
        .as_ref()
        .map(|out| out.join(format!("{number}.json")));
    deliver(sealed, out.as_deref(), args.how.trim).map(AnyStage::Sealed)
}

fn human_all(report: &SealAllReport) -> String {
    let mut lines: Vec<String> = report.sectors.iter().map(human).collect();
    lines.push(format!(
        "{} sectors in {:.1} s, of which PC1 of all of them together {:.2} s.",
        report.sectors.len(),
        report.seconds,
        report.pc1_seconds
    ));
    lines.join("\n")
}

pub(super) fn position(stage: &AnyStage) -> Until {
    match stage {
        AnyStage::Packed(_) => Until::Packed,
        AnyStage::Labeled(_) => Until::Labeled,
        AnyStage::Replicated(_) => Until::Replicated,
        AnyStage::Challenged(_) => Until::Challenged,
        AnyStage::Sealed(_) => Until::Sealed,
    }
}

/// Hashes the files to CommP: one stage of progress, counted in bytes.
pub(super) fn pieces<'a>(
    files: impl IntoIterator<Item = &'a PathBuf>,
    size: SectorSize,
    progress: &dyn Progress,
) -> Result<Vec<PieceInfo>, CliError> {
    let files: Vec<&PathBuf> = files.into_iter().collect();
    // One that cannot be looked at is refused when it is its turn.
    let bytes = |path: &&PathBuf| std::fs::metadata(path).map_or(0, |meta| meta.len());
    let total = files.iter().map(bytes).fold(0, u64::saturating_add);
    if total == 0 {
        // Without a byte there is no stage.
        let refused = files.iter().map(|path| piece(path, size, progress));
        return refused.collect();
    }
    progress.start("hashing the pieces", total);
    // A file that grows meanwhile takes no more of the stage than there is.
    let whole = Share::of(progress, total, total);
    let hashed = files.iter().map(|path| piece(path, size, &whole));
    let hashed = hashed.collect::<Result<Vec<_>, _>>()?;
    whole.finish();
    progress.finish();
    Ok(hashed)
}

/// Writes the unsealed sector; each file must still hash to its CommP.
fn pack(
    dir: &Path,
    files: &[PathBuf],
    pieces: Vec<PieceInfo>,
    sector: SectorNumber,
    how: &How,
    seconds: &mut Seconds,
    progress: &BarProgress,
) -> Result<AnyStage, CliError> {
    let start = Instant::now();
    let request = SealRequest {
        seal: RegisteredSeal::v1_1(how.size()),
        prover: how.prover(),
        sector,
        ticket: how.ticket(),
        pieces,
    };
    let mut readers = files
        .iter()
        .map(|path| open(path))
        .collect::<Result<Vec<_>, _>>()?;
    let mut sources: Vec<&mut dyn Read> = readers
        .iter_mut()
        .map(|reader| reader as &mut dyn Read)
        .collect();
    let packed = seal::create_watched(dir, request, &mut sources, progress).map_err(seal_error)?;
    seconds.pack = Some(start.elapsed().as_secs_f64());
    Ok(AnyStage::Packed(packed))
}

/// Hashes a file that goes into a sector of this size. Progress is its bytes.
fn piece(path: &Path, size: SectorSize, progress: &dyn Progress) -> Result<PieceInfo, CliError> {
    let capacity = size.unpadded_bytes();
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
            count => {
                hasher.update(&buffer[..count]);
                progress.advance(count as u64);
            }
        }
    }
    let (comm_p, size) = hasher.finish();
    Ok(PieceInfo { comm_p, size })
}

pub(super) fn open(path: &Path) -> Result<BufReader<File>, CliError> {
    let file = File::open(path).map_err(|error| CliError::io("cannot read", path, &error))?;
    Ok(BufReader::with_capacity(READ_BYTES, file))
}

/// Takes one step and its time.
pub(super) fn step(
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
            let challenged = replicated
                .challenge(seed, plan, progress)
                .map_err(seal_error)?;
            seconds.c1 = elapsed();
            AnyStage::Challenged(challenged)
        }
        AnyStage::Challenged(challenged) => {
            let circuit = CircuitId::porep(challenged.dir().size());
            let store = store(context)?;
            require_memory(plan, proof_needs(&store, circuit)?)?;
            let key = key(&store, circuit, plan, progress)?;
            let start = Instant::now();
            let sealed = challenged.prove(&key, plan, progress).map_err(seal_error)?;
            seconds.c2 = Some(start.elapsed().as_secs_f64());
            AnyStage::Sealed(sealed)
        }
        sealed @ AnyStage::Sealed(_) => sealed,
    })
}

/// Writes the proof file and frees space, as asked.
fn deliver(sealed: Sealed, out: Option<&Path>, trim: bool) -> Result<Sealed, CliError> {
    if let Some(out) = out {
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
    if trim {
        sealed.trim(false).map_err(seal_error)
    } else {
        Ok(sealed)
    }
}

pub(super) fn report(stage: &AnyStage, seconds: Seconds) -> SealReport {
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
        Stage::Packed
        | Stage::Labeled
        | Stage::Replicated(_)
        | Stage::Encoding(_)
        | Stage::Updated(..)
        | Stage::UpdateProven(..) => (None, None),
    };
    let comm_r = match stage {
        AnyStage::Packed(_) | AnyStage::Labeled(_) => None,
        AnyStage::Replicated(stage) => Some(stage.comm_r()),
        AnyStage::Challenged(stage) => Some(stage.vanilla().comm_r),
        AnyStage::Sealed(stage) => Some(stage.comm_r()),
    };
    let dir = stage.dir().path().to_owned();
    let stage = stage.name();
    SealReport {
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
        peak_memory: peak_memory(),
    }
}

pub(super) fn human(report: &SealReport) -> String {
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

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Stages that were begun.
    #[derive(Default)]
    struct Begun(Mutex<Vec<&'static str>>);

    /// Stages with their units, and the units that each was told of; a finished one.
    #[derive(Default)]
    struct Told(Mutex<Vec<(&'static str, u64, u64, bool)>>);

    impl Progress for Told {
        fn start(&self, stage: &'static str, total: u64) {
            let mut told = self.0.lock().expect("no panic");
            told.push((stage, total, 0, false));
        }
        fn advance(&self, n: u64) {
            let mut told = self.0.lock().expect("no panic");
            told.last_mut().expect("a stage was started").2 += n;
        }
        fn finish(&self) {
            let mut told = self.0.lock().expect("no panic");
            told.last_mut().expect("a stage was started").3 = true;
        }
    }

    /// 32 GiB take a minute and more: the bytes of all files are one stage, from which a bar reckons the time that is left.
    #[test]
    fn hashing_pieces_tells_how_far_it_is() {
        let dir = tempfile::tempdir().expect("a folder");
        let files = [3 << 20, 1000].map(|bytes: usize| {
            let path = dir.path().join(bytes.to_string());
            std::fs::write(&path, vec![7; bytes]).expect("writes");
            path
        });
        let told = Told::default();
        let hashed = pieces(&files, SectorSize::Mib8, &told).expect("two pieces");
        assert_eq!(hashed.len(), 2);
        let bytes = (3 << 20) + 1000;
        let whole = ("hashing the pieces", bytes, bytes, true);
        assert_eq!(told.0.into_inner().expect("no panic"), [whole]);
        // None, and one without a byte.
        let told = Told::default();
        assert!(
            pieces([], SectorSize::Mib8, &told)
                .expect("none")
                .is_empty()
        );
        std::fs::write(&files[0], []).expect("writes");
        assert!(pieces(&files[..1], SectorSize::Mib8, &told).is_err());
        assert_eq!(told.0.into_inner().expect("no panic"), []);
    }

    impl Progress for Begun {
        fn start(&self, stage: &'static str, _total: u64) {
            self.0.lock().expect("no panic").push(stage);
        }
        fn advance(&self, _n: u64) {}
        fn finish(&self) {}
    }

    /// Of 32 GiB, the openings of one sector take 17 MiB.
    #[test]
    fn tm_h9_openings_of_challenged_sectors_are_not_made_before_their_turn() {
        let root = tempfile::tempdir().expect("a folder");
        let plan = Plan::with_limits(1, 64 << 20).expect("a thread starts");
        for number in [3, 4] {
            let request = SealRequest {
                seal: RegisteredSeal::v1_1(SectorSize::Kib2),
                prover: ProverId::from_provider_id(1000),
                sector: SectorNumber(number),
                ticket: Ticket([1; 32]),
                pieces: Vec::new(),
            };
            let dir = root.path().join(number.to_string());
            let packed = seal::create(&dir, request, &mut []).expect("packs");
            let labeled = packed.label(&plan, &prover::NoProgress).expect("labels");
            let replicated = labeled.replicate(&plan, &prover::NoProgress).expect("PC2");
            let seed = Seed([2; 32]);
            let challenged = replicated.challenge(seed, &plan, &prover::NoProgress);
            drop(challenged.expect("C1"));
        }
        let begun = Begun::default();
        let sectors = found(root.path(), &plan, &begun, |_, _| Ok(())).expect("lists");
        assert_eq!(sectors.len(), 2);
        for sector in sectors {
            let turn = sector.stage.expect("no step has it").expect("sound");
            assert!(matches!(turn, Turn::Challenged(_)));
        }
        let begun = begun.0.into_inner().expect("no panic");
        assert_eq!(begun, [""; 0], "nothing is done before its turn");
    }
}
