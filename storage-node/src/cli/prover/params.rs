//! `params`: proving keys in the parameter folder.

use std::path::PathBuf;
use std::time::Instant;

use prover::SectorSize;
use prover::machine::{Plan, peak_memory};
use prover::snark::{CircuitId, CircuitKind};
use serde::Serialize;

use super::{BarProgress, key, key_error, store};
use crate::cli::output::human_bytes;
use crate::cli::{CliError, Context};

/// Arguments of `prover params`.
#[derive(Debug, clap::Args)]
pub struct ParamsArgs {
    /// Circuits to make or check, such as porep-8MiB, window-2KiB, winning-2KiB; none lists what is there
    circuits: Vec<CircuitId>,
    /// Read every point of the named keys and check it
    #[arg(long, requires = "circuits")]
    check: bool,
}

/// One key.
#[derive(Debug, Serialize)]
struct KeyReport {
    circuit: String,
    path: PathBuf,
    bytes: u64,
    seconds: f64,
    checked: bool,
}

/// What `params` reports.
#[derive(Debug, Serialize)]
struct ParamsReport {
    dir: PathBuf,
    keys: Vec<KeyReport>,
    /// Largest resident memory of the process so far, in bytes.
    peak_memory: Option<u64>,
}

/// Runs `prover params`.
pub fn params(args: ParamsArgs, plan: &Plan, context: &Context) -> Result<(), CliError> {
    let store = store(context)?;
    let progress = BarProgress::new(&context.out);
    let circuits = if args.circuits.is_empty() {
        all().filter(|&circuit| store.has(circuit)).collect()
    } else {
        args.circuits.clone()
    };
    let mut keys = Vec::new();
    for circuit in circuits {
        let start = Instant::now();
        if !args.circuits.is_empty() {
            let key = key(&store, circuit, plan, &progress)?;
            if args.check {
                plan.run(|| key.verify_points(&progress))
                    .map_err(key_error)?;
            }
        }
        let path = store.params_path(circuit);
        let bytes = std::fs::metadata(&path)
            .map_err(|error| CliError::io("cannot read", &path, &error))?
            .len();
        let seconds = start.elapsed().as_secs_f64();
        keys.push(KeyReport {
            circuit: circuit.to_string(),
            path,
            bytes,
            seconds,
            checked: args.check,
        });
    }
    let report = ParamsReport {
        dir: store.dir().to_owned(),
        keys,
        peak_memory: peak_memory(),
    };
    context.out.result(&report, human)
}

fn all() -> impl Iterator<Item = CircuitId> {
    SectorSize::ALL
        .into_iter()
        .flat_map(|size| CircuitKind::ALL.map(|kind| CircuitId { kind, size }))
}

fn human(report: &ParamsReport) -> String {
    if report.keys.is_empty() {
        return format!(
            "No keys in {} yet; they are made on first use.",
            report.dir.display()
        );
    }
    let lines = report
        .keys
        .iter()
        .map(|key| format!("  {:<16} {}", key.circuit, human_bytes(key.bytes)));
    let lines: Vec<String> = std::iter::once(format!("Keys in {}:", report.dir.display()))
        .chain(lines)
        .collect();
    lines.join("\n")
}
