//! `prove`: WindowPoSt and WinningPoSt of sealed sector folders.

use std::path::PathBuf;
use std::time::Instant;

use prover::machine::{Plan, peak_memory};
use prover::post::proof::{PostError, ReplicaRef, prove_window, prove_winning};
use prover::sector_dir::disk::RealDisk;
use prover::sector_dir::read_record;
use prover::sector_dir::record::Record;
use prover::snark::CircuitId;
use prover::{CommR, PostRandomness, ProverId, SectorSize};
use serde::Serialize;

use super::file::{PostFile, ProofFile, SectorEntry};
use super::{
    BarProgress, key, proof_needs, prove_error, require_folder, require_memory, require_replica,
    seal_error, store, with_next_step,
};
use crate::cli::{Class, CliError, Context};

/// Arguments of `prover prove`.
#[derive(Debug, clap::Args)]
pub struct ProveArgs {
    /// Folders of replicated or sealed sectors of one provider and one size
    #[arg(required = true)]
    dirs: Vec<PathBuf>,
    /// Chain randomness, 64 hex digits whose last byte is below 0x40 [default: a fixed value, for experiments]
    #[arg(long, value_name = "HEX")]
    randomness: Option<PostRandomness>,
    /// Prove one sector as a WinningPoSt does: 66 leaves
    #[arg(long)]
    winning: bool,
    /// Write statement and proof to this file
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// What `prove` reports.
#[derive(Debug, Serialize)]
struct ProveReport {
    #[serde(flatten)]
    proof: ProofFile,
    seconds: f64,
    /// Largest resident memory of the process so far, in bytes.
    peak_memory: Option<u64>,
}

struct Replica {
    dir: PathBuf,
    record: Record,
    comm_r: CommR,
}

/// Runs `prover prove`.
pub fn prove(args: ProveArgs, plan: &Plan, context: &Context) -> Result<(), CliError> {
    let mut replicas = args
        .dirs
        .into_iter()
        .map(load)
        .collect::<Result<Vec<Replica>, _>>()?;
    replicas.sort_by_key(|replica| replica.record.sector);
    let (size, prover) = common(&replicas)?;
    let refs: Vec<ReplicaRef<'_>> = replicas
        .iter()
        .map(|r| ReplicaRef {
            number: r.record.sector,
            comm_r: r.comm_r,
            dir: &r.dir,
        })
        .collect();
    if args.winning && refs.len() != 1 {
        let what = format!("a WinningPoSt proves one sector, {} were named", refs.len());
        return Err(
            CliError::new(Class::Usage, what).hint("name one folder, or leave out --winning")
        );
    }
    let fixed = PostRandomness::masked(prover::hash::sha256::digest(&[
        b"holdfast/prover/randomness",
    ]));
    let randomness = args.randomness.unwrap_or(fixed);

    let circuit = if args.winning {
        CircuitId::winning(size)
    } else {
        CircuitId::window(size)
    };
    let (store, progress) = (store(context)?, BarProgress::new(&context.out));
    require_memory(plan, proof_needs(&store, circuit)?)?;
    let key = key(&store, circuit, plan, &progress)?;
    let start = Instant::now();
    let proof = plan.run(|| match args.winning {
        true => prove_winning(&key, size, prover, randomness, refs[0], &progress),
        false => prove_window(&key, size, prover, randomness, &refs, &progress),
    });
    let proof = hex::encode(proof.map_err(post_error)?);
    let seconds = start.elapsed().as_secs_f64();

    let sectors = refs
        .iter()
        .map(|r| SectorEntry {
            number: r.number,
            comm_r: r.comm_r,
        })
        .collect();
    let post = PostFile {
        size,
        prover,
        randomness,
        sectors,
        proof,
    };
    let proof = if args.winning {
        ProofFile::Winning(post)
    } else {
        ProofFile::Window(post)
    };
    if let Some(out) = &args.out {
        proof.write(out)?;
    }
    let count = refs.len();
    let report = ProveReport {
        proof,
        seconds,
        peak_memory: peak_memory(),
    };
    context.out.result(&report, |report| {
        format!(
            "Proved {count} sector(s) in {:.2} s; the proof was verified.",
            report.seconds
        )
    })
}

fn load(dir: PathBuf) -> Result<Replica, CliError> {
    require_folder(&dir)?;
    let record = read_record(&RealDisk, &dir).map_err(|error| seal_error(error.into()))?;
    let comm_r = require_replica(&dir, &record)?;
    Ok(Replica {
        dir,
        record,
        comm_r,
    })
}

/// Size and provider, which all sectors of a proof share.
fn common(replicas: &[Replica]) -> Result<(SectorSize, ProverId), CliError> {
    let of = |replica: &Replica| (replica.record.seal.size, replica.record.prover);
    let first = of(&replicas[0]);
    match replicas.iter().find(|replica| of(replica) != first) {
        None => Ok(first),
        Some(other) => {
            let what = format!(
                "{} has another sector size or provider than the first folder",
                other.dir.display()
            );
            Err(CliError::new(Class::Input, what)
                .hint("prove sectors of one provider and one size together"))
        }
    }
}

pub(super) fn post_error(error: PostError) -> CliError {
    match error {
        PostError::Prove(error) => prove_error(error),
        PostError::Faulty(_) => with_next_step(Class::BadData, error),
        PostError::Count { .. } | PostError::Twice(_) => with_next_step(Class::Usage, error),
        PostError::SelfCheck(_) => with_next_step(Class::Machine, error),
    }
}
