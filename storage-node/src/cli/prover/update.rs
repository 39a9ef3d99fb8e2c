//! `update`: files into a sector that was sealed empty, proven; run again to go on.
//!
//! Whether the proof can be made, its key and memory, is asked before anything is encoded: keys of updates are made up to 32 KiB,
//! larger sectors are encoded and left at that.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Instant;

use prover::commitment::{CommD, CommR};
use prover::machine::{Plan, peak_memory};
use prover::sector_dir::disk::RealDisk;
use prover::sector_dir::record::Stage;
use prover::sector_dir::{SectorDirError, read_record};
use prover::snark::CircuitId;
use prover::snark::keys::require_dev;
use prover::update::sector::{self, Updated};
use prover::{PieceInfo, SectorNumber, SectorSize};
use serde::Serialize;

use super::file::ProofFile;
use super::seal::{left_over, open, pieces, require_pieces};
use super::{
    BarProgress, Room, key, key_error, proof_needs, require_folder, require_memory, seal_error,
    store,
};
use crate::cli::{Class, CliError, Context};

/// Arguments of `prover update`.
#[derive(Debug, clap::Args)]
pub struct UpdateArgs {
    /// Folder of the sector to update, sealed with `seal --empty`; it is only read
    sector: PathBuf,
    /// Folder for the updated sector; made when missing, gone on with when it holds an update
    dir: PathBuf,
    /// Files to put into it, one piece each, in this order; none, or the same, to go on with an update
    files: Vec<PathBuf>,
    /// Stop when this step is done; keys for the proof are made for sectors of up to 32KiB, larger ones stop at `encoded`
    #[arg(long, value_enum, default_value_t = Until::Proven)]
    until: Until,
    /// Write statement and proof to this file
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Until {
    /// The new replica is written: its CommR is fixed, and PoSts can be made of it
    Encoded,
    /// The update is proven
    Proven,
}

/// What `update` reports.
#[derive(Debug, Serialize)]
struct UpdateReport {
    dir: PathBuf,
    stage: &'static str,
    size: SectorSize,
    sector: SectorNumber,
    pieces: Vec<PieceInfo>,
    comm_r_old: CommR,
    comm_d_new: CommD,
    comm_r_new: CommR,
    proof_bytes: Option<usize>,
    seconds: Seconds,
    /// Largest resident memory of the process so far, in bytes.
    peak_memory: Option<u64>,
}

/// Times of the steps that this run took.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Seconds {
    encode: Option<f64>,
    prove: Option<f64>,
}

/// Runs `prover update`.
pub fn update(args: UpdateArgs, plan: &Plan, context: &Context) -> Result<(), CliError> {
    if args.out.is_some() && args.until == Until::Encoded {
        let what = "an update that is not proven has no proof to write";
        return Err(CliError::new(Class::Usage, what).hint("leave out --out, or --until encoded"));
    }
    require_folder(&args.sector)?;
    if args.dir.exists() {
        require_folder(&args.dir)?;
    }
    if args.until == Until::Proven {
        require_provable(&args, plan, context)?;
    }
    require_room(&args, plan, context)?;
    let progress = BarProgress::new(&context.out);
    let mut seconds = Seconds::default();
    let start = Instant::now();
    let (mut updated, made_now) = encoded(&args, plan, &progress)?;
    if made_now {
        seconds.encode = Some(start.elapsed().as_secs_f64());
    }
    if args.until == Until::Proven && updated.proof().is_none() {
        let circuit = CircuitId::update(updated.statement().size);
        let key = key(&store(context)?, circuit, plan, &progress)?;
        let start = Instant::now();
        updated = updated
            .prove(&args.sector, &key, plan, &progress)
            .map_err(seal_error)?;
        seconds.prove = Some(start.elapsed().as_secs_f64());
    }
    if let Some(out) = &args.out {
        write_proof(&updated, out)?;
    }
    context.out.result(&report(&updated, seconds), human)
}

/// Refuses what could be encoded and then not be proven.
fn require_provable(args: &UpdateArgs, plan: &Plan, context: &Context) -> Result<(), CliError> {
    let record = |dir| read_record(&RealDisk, dir);
    if record(&args.dir).is_ok_and(|record| matches!(record.stage, Stage::UpdateProven(..))) {
        return Ok(());
    }
    let old = record(&args.sector).map_err(|error| seal_error(error.into()))?;
    let circuit = CircuitId::update(old.seal.size);
    let store = store(context)?;
    if !store.has(circuit) {
        require_dev(circuit).map_err(|error| {
            key_error(error).hint(
                "add --until encoded to put the files in without a proof, or update a sector of at most 32KiB",
            )
        })?;
    }
    require_memory(plan, proof_needs(&store, circuit)?)
}

/// Refuses what does not fit on its disk: the folder, the key where it is to be made, and the proof.
fn require_room(args: &UpdateArgs, plan: &Plan, context: &Context) -> Result<(), CliError> {
    let record = |dir| read_record(&RealDisk, dir);
    let (begun, old) = (record(&args.dir).ok(), record(&args.sector));
    let Ok(size) = old.map(|old| old.seal.size) else {
        // Whatever is wrong with it is told by the step that reads it.
        return Ok(());
    };
    let mut room = Room::default();
    let left = match &begun {
        Some(record) if !matches!(record.stage, Stage::Encoding(_)) => 0,
        Some(record) => {
            let finished = record.files.iter().map(|entry| entry.bytes);
            sector::disk_bytes(size).saturating_sub(finished.fold(0, u64::saturating_add))
        }
        None if args.files.is_empty() => 0,
        None => sector::disk_bytes(size),
    };
    let left = left.saturating_sub(left_over(&args.dir));
    room.add("the updated sector", &args.dir, left);
    let is_proven = begun.is_some_and(|record| matches!(record.stage, Stage::UpdateProven(..)));
    if args.until == Until::Proven && !is_proven {
        room.add_key(&store(context)?, CircuitId::update(size));
    }
    room.add_out(args.out.as_deref());
    room.require(plan, context).map(drop)
}

/// The update in the folder, gone on with, or a new one of the files; and whether it is new.
fn encoded(
    args: &UpdateArgs,
    plan: &Plan,
    progress: &BarProgress,
) -> Result<(Updated, bool), CliError> {
    match (read_record(&RealDisk, &args.dir), args.files.is_empty()) {
        (Ok(record), no_files) => {
            // The same command again finds what it has made; a sector that is no update is refused by who opens it.
            if !no_files && record.stage.is_update() {
                require_pieces(&args.dir, &record, &args.files, progress)?;
            }
            let resumed = sector::resume(&args.dir, &args.sector, plan, progress);
            Ok((resumed.map_err(seal_error)?, false))
        }
        (Err(SectorDirError::Empty(_)), true) => {
            let what = format!(
                "{} holds no update, and no files were named",
                args.dir.display()
            );
            Err(CliError::new(Class::Usage, what).hint("name the files behind the two folders"))
        }
        (Err(SectorDirError::Empty(_)), false) => Ok((create(args, plan, progress)?, true)),
        (Err(error), _) => Err(seal_error(error.into())),
    }
}

fn create(args: &UpdateArgs, plan: &Plan, progress: &BarProgress) -> Result<Updated, CliError> {
    let old = read_record(&RealDisk, &args.sector).map_err(|error| seal_error(error.into()))?;
    let size = old.seal.size;
    let pieces = pieces(&args.files, size, progress)?;
    let files = args.files.iter().map(|path| open(path));
    let mut readers = files.collect::<Result<Vec<_>, _>>()?;
    let mut sources: Vec<&mut dyn Read> = readers
        .iter_mut()
        .map(|reader| reader as &mut dyn Read)
        .collect();
    sector::create(
        &args.dir,
        &args.sector,
        pieces,
        &mut sources,
        plan,
        progress,
    )
    .map_err(seal_error)
}

fn write_proof(updated: &Updated, out: &Path) -> Result<(), CliError> {
    let statement = updated.statement();
    let proof = updated.proof().expect("--out goes with --until proven");
    let file = ProofFile::Update {
        size: statement.size,
        comm_r_old: statement.comm_r_old,
        comm_d_new: statement.comm_d_new,
        comm_r_new: statement.comm_r_new,
        proof: hex::encode(proof),
    };
    file.write(out)
}

/// Reports an update that took no step of this command's.
pub(super) fn show(updated: &Updated, context: &Context) -> Result<(), CliError> {
    let report = report(updated, Seconds::default());
    context.out.result(&report, human)
}

fn report(updated: &Updated, seconds: Seconds) -> UpdateReport {
    let (record, statement) = (updated.dir().record(), updated.statement());
    UpdateReport {
        dir: updated.dir().path().to_owned(),
        stage: match updated.proof() {
            Some(_) => "proven",
            None => "encoded",
        },
        size: statement.size,
        sector: record.sector,
        pieces: record.pieces.clone(),
        comm_r_old: statement.comm_r_old,
        comm_d_new: statement.comm_d_new,
        comm_r_new: statement.comm_r_new,
        proof_bytes: updated.proof().map(<[u8]>::len),
        seconds,
        peak_memory: peak_memory(),
    }
}

fn human(report: &UpdateReport) -> String {
    let mut lines = vec![
        format!(
            "The update of sector {} in {} is {}.",
            report.sector,
            report.dir.display(),
            report.stage
        ),
        format!("  CommD {}", report.comm_d_new.to_cid()),
        format!(
            "  CommR {}, before {}",
            report.comm_r_new.to_cid(),
            report.comm_r_old.to_cid()
        ),
    ];
    if let Some(bytes) = report.proof_bytes {
        lines.push(format!("  proof of {bytes} bytes, verified"));
    }
    let Seconds { encode, prove } = report.seconds;
    let times = [("encode", encode), ("prove", prove)];
    let times: Vec<String> = times
        .iter()
        .filter_map(|(name, time)| time.map(|time| format!("{name} {time:.2} s")))
        .collect();
    if !times.is_empty() {
        lines.push(format!("  {}", times.join(", ")));
    }
    lines.join("\n")
}
