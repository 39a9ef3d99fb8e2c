//! `unseal`, `check` and `repair`: one sector folder.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use prover::Seed;
use prover::machine::{Plan, peak_memory};
use prover::seal::{
    self, CheckDepth, SealError, challenge_memory, check_memory, replica_check, unseal_range,
};
use prover::sector_dir::disk::RealDisk;
use prover::sector_dir::record::{Record, Stage};
use prover::sector_dir::{self, SectorDirError};
use prover::update::{self, sector::recover};
use serde::Serialize;

use super::seal::{READ_BYTES, Seconds, Until, human, position, report, require_rest, step};
use super::{
    BarProgress, Room, make_file, require_folder, require_memory, require_replica, seal_error,
};
use crate::cli::args::ByteRangeArg;
use crate::cli::output::human_bytes;
use crate::cli::{Class, CliError, Context};

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
    /// Folder of the sector that an update was made over; without it, labels are computed again, at the price of sealing
    #[arg(long, value_name = "DIR")]
    over: Option<PathBuf>,
}

/// What `unseal` reports.
#[derive(Debug, Serialize)]
struct UnsealReport {
    out: PathBuf,
    bytes: u64,
    seconds: f64,
    /// Largest resident memory of the process so far, in bytes.
    peak_memory: Option<u64>,
}

/// Runs `prover unseal`. The output appears under its name only when it is complete.
pub fn unseal(args: UnsealArgs, plan: &Plan, context: &Context) -> Result<(), CliError> {
    require_folder(&args.dir)?;
    let record = record(&args.dir)?;
    require_replica(&args.dir, &record)?;
    if let Some(over) = &args.over {
        require_folder(over)?;
    }
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
    let progress = BarProgress::new(&context.out);
    let range = &range;
    make_file(&args.out, false, |file| {
        // What a killed command left has been removed by now.
        let mut room = Room::default();
        let folder = args.out.parent().unwrap_or(Path::new("."));
        // A range beyond the sector is refused by who reads it.
        let end = range.end.min(capacity);
        room.add("the output", folder, end.saturating_sub(range.start));
        if args.over.is_none() {
            room.add_parents(record.seal, plan);
        }
        let plan = &room.require(plan, context)?;
        let mut out = BufWriter::with_capacity(READ_BYTES, file);
        let written = match &args.over {
            Some(over) => recover(&args.dir, over, range.clone(), &mut out, plan, &progress),
            None => unseal_range(&args.dir, range.clone(), &mut out, plan, &progress),
        };
        written
            .and_then(|()| out.flush().map_err(SealError::Output))
            .map_err(|error| match error {
                SealError::Output(error) => CliError::io("cannot write", &args.out, &error),
                other => seal_error(other),
            })
    })?;
    let seconds = start.elapsed().as_secs_f64();
    let report = UnsealReport {
        out: args.out,
        bytes: range.end - range.start,
        seconds,
        peak_memory: peak_memory(),
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
    /// Largest resident memory of the process so far, in bytes.
    peak_memory: Option<u64>,
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
        Stage::Encoding(_) => (false, "encoding"),
        Stage::Updated(..) => (true, "updated"),
        Stage::UpdateProven(..) => (true, "updated and proven"),
    };
    let mut report = CheckReport {
        dir: args.dir.clone(),
        stage,
        nodes: 0,
        damage: Vec::new(),
        peak_memory: None,
    };
    let size = record.seal.size;
    let progress = BarProgress::new(&context.out);
    let mut needs = Vec::new();
    if has_replica {
        needs.push(("checking a replica", check_memory(size, plan)));
    }
    if matches!(record.stage, Stage::Challenged(..)) {
        // Its openings are made again, and verified.
        needs.push(("opening challenges", challenge_memory(size)));
    }
    require_memory(plan, needs)?;
    match seal::resume(&args.dir, plan, &progress) {
        // An update is no stage of sealing; its files were compared before that was noticed.
        Ok(_) | Err(SealError::Updated(_)) => {}
        Err(error @ SealError::Dir(SectorDirError::Damaged { .. })) => {
            report.damage.push(first_part(&error.to_string()))
        }
        Err(error) => return Err(seal_error(error)),
    }
    if has_replica {
        let comm_r = require_replica(&args.dir, &record)?;
        let found = replica_check(&args.dir, size, &comm_r, CheckDepth::Full, plan, &progress)
            .map_err(|error| seal_error(error.into()))?;
        report.nodes = found.nodes;
        report
            .damage
            .extend(found.damage.iter().map(ToString::to_string));
    }
    report.peak_memory = peak_memory();
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
    Err(
        CliError::new(Class::BadData, what).hint(match record.stage.is_update() {
            true => "run `holdfast prover repair DIR --over SECTOR` with the sector that it was made over",
            false => "run `holdfast prover repair` on it, or seal its data anew",
        }),
    )
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
    /// Folder of the sector that an update was made over; needed to repair an update
    #[arg(long, value_name = "DIR")]
    over: Option<PathBuf>,
}

/// Runs `prover repair`: afterwards the sector has its replica again, with the same CommR.
pub fn repair(args: RepairArgs, plan: &Plan, context: &Context) -> Result<(), CliError> {
    require_folder(&args.dir)?;
    let progress = BarProgress::new(&context.out);
    let record = record(&args.dir)?;
    match (&args.over, record.stage.is_update()) {
        (None, false) => {}
        (Some(over), true) => {
            require_folder(over)?;
            let updated =
                update::sector::repair(&args.dir, over, plan, &progress).map_err(seal_error)?;
            return super::update::show(&updated, context);
        }
        (None, true) => {
            let what = format!("{} holds an update", args.dir.display());
            return Err(CliError::new(Class::Usage, what)
                .hint("name the sector that it was made over with --over"));
        }
        (Some(_), false) => {
            let what = format!("{} holds no update", args.dir.display());
            return Err(CliError::new(Class::Usage, what).hint("leave out --over"));
        }
    }
    let mut seconds = Seconds::default();
    // It asks for what it will take to make a file again; of a sound sector, what is left.
    let mut stage = seal::repair(&args.dir, plan, &progress).map_err(seal_error)?;
    require_rest(stage.dir().record(), Until::Replicated, plan, context)?;
    while position(&stage) < Until::Replicated {
        stage = step(stage, Seed([0; 32]), plan, context, &progress, &mut seconds)?;
    }
    context.out.result(&report(&stage, seconds), human)
}

fn record(dir: &Path) -> Result<Record, CliError> {
    sector_dir::read_record(&RealDisk, dir).map_err(|error| seal_error(error.into()))
}
