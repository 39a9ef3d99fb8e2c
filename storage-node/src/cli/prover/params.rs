//! `params`: proving keys in the parameter folder, and files of others that become such keys.

use std::path::{Path, PathBuf};
use std::time::Instant;

use prover::SectorSize;
use prover::estimate::{key_memory, keygen_memory};
use prover::machine::{Plan, peak_memory};
use prover::snark::keys::{ParamStore, require_dev};
use prover::snark::origin::Origin;
use prover::snark::{CircuitId, CircuitKind};
use serde::Serialize;

use super::{BarProgress, Need, key, key_error, require_memory, store};
use crate::cli::output::human_bytes;
use crate::cli::{Class, CliError, Context};

/// Arguments of `prover params`.
#[derive(Debug, clap::Args)]
pub struct ParamsArgs {
    /// Circuits to make or check, such as porep-8MiB, window-2KiB, winning-2KiB; none lists what is there
    circuits: Vec<CircuitId>,
    /// Read every point of the named keys and check it
    #[arg(long, requires = "circuits")]
    check: bool,
    /// Take this file in Filecoin's .params layout as the key of the one circuit named, after a check of its every point; the
    /// file stays as it is. Minutes to hours for production sizes
    #[arg(
        long,
        value_name = "FILE",
        requires = "circuits",
        conflicts_with = "check"
    )]
    import: Option<PathBuf>,
}

/// One key.
#[derive(Debug, Serialize)]
struct KeyReport {
    circuit: String,
    path: PathBuf,
    bytes: u64,
    seconds: f64,
    checked: bool,
    /// Who stands for a key that was imported.
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<Origin>,
}

/// What an import reports.
#[derive(Debug, Serialize)]
struct ImportReport {
    #[serde(flatten)]
    key: KeyReport,
    /// Largest resident memory of the process so far, in bytes.
    peak_memory: Option<u64>,
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
    if let Some(file) = &args.import {
        let key = import(&store, file, &args.circuits, plan, &progress)?;
        let report = ImportReport {
            key,
            peak_memory: peak_memory(),
        };
        return context.out.result(&report, human_import);
    }
    let circuits = if args.circuits.is_empty() {
        all().filter(|&circuit| store.has(circuit)).collect()
    } else {
        args.circuits.clone()
    };
    if !args.circuits.is_empty() {
        require_memory(plan, needs(&store, &circuits)?)?;
    }
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
        keys.push(report_of(&store, circuit, start, args.check, None)?);
    }
    let report = ParamsReport {
        dir: store.dir().to_owned(),
        keys,
        peak_memory: peak_memory(),
    };
    context.out.result(&report, human)
}

/// What opening these keys needs, and making those that are not there.
fn needs(store: &ParamStore, circuits: &[CircuitId]) -> Result<Vec<Need>, CliError> {
    let need = |&circuit: &CircuitId| match store.has(circuit) {
        true => Ok(("opening a key", key_memory(circuit))),
        false => require_dev(circuit).map(|()| ("making a key", keygen_memory(circuit))),
    };
    let needs = circuits.iter().map(need).collect::<Result<_, _>>();
    needs.map_err(key_error)
}

/// Takes the caller's file as a key.
fn import(
    store: &ParamStore,
    file: &Path,
    circuits: &[CircuitId],
    plan: &Plan,
    progress: &BarProgress,
) -> Result<KeyReport, CliError> {
    let &[circuit] = circuits else {
        let what = format!(
            "a file holds one key, {} circuits were named",
            circuits.len()
        );
        return Err(CliError::new(Class::Usage, what).hint("name the circuit it was made for"));
    };
    require_memory(plan, [("importing a key", key_memory(circuit))])?;
    // A name that was mistyped is no fault of the store's.
    std::fs::metadata(file).map_err(|error| CliError::io("cannot read", file, &error))?;
    let start = Instant::now();
    let origin = plan
        .run(|| store.import(circuit, file, progress))
        .map_err(key_error)?;
    report_of(store, circuit, start, true, Some(origin))
}

fn report_of(
    store: &ParamStore,
    circuit: CircuitId,
    start: Instant,
    checked: bool,
    origin: Option<Origin>,
) -> Result<KeyReport, CliError> {
    let path = store.params_path(circuit);
    let bytes = std::fs::metadata(&path)
        .map_err(|error| CliError::io("cannot read", &path, &error))?
        .len();
    Ok(KeyReport {
        circuit: circuit.to_string(),
        path,
        bytes,
        seconds: start.elapsed().as_secs_f64(),
        checked,
        origin,
    })
}

fn human_import(ImportReport { key, .. }: &ImportReport) -> String {
    let origin = match key.origin {
        Some(Origin::Developers) => {
            "the developers' key: made from a published seed, good for tests alone"
        }
        Some(Origin::Filecoin) => "the key that Filecoin published",
        Some(Origin::Named) | None => "a key that nobody published",
    };
    format!(
        "Imported {} ({}) in {:.1} s, every point checked: {origin}.",
        key.circuit,
        human_bytes(key.bytes),
        key.seconds
    )
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
