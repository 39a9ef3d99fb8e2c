//! `vectors`: runs a file of golden vectors.

use std::path::PathBuf;

use prover::machine::Plan;
use prover::vectors::{Options, VectorError, memory, run_file};

use super::{BarProgress, require_memory};
use crate::cli::{Class, CliError, Context};

/// Failures that the error names.
const LISTED: usize = 10;

/// Arguments of `prover vectors`.
#[derive(Debug, clap::Args)]
pub struct VectorsArgs {
    /// File in the format of fixtures/vectors/filecoin.json
    file: PathBuf,
    /// Seal the 512 MiB cases too: minutes, and some GiB of disk
    #[arg(long)]
    large: bool,
    /// Folder for sector files [default: the platform's temporary folder]
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
}

/// Runs `prover vectors`. A comparison that fails is an error of class bad-data.
pub fn vectors(args: VectorsArgs, plan: &Plan, context: &Context) -> Result<(), CliError> {
    let options = Options {
        large: args.large,
        scratch: args.scratch.unwrap_or_else(std::env::temp_dir),
    };
    require_memory(plan, [("sealing the vectors' sectors", memory(&options))])?;
    let progress = BarProgress::new(&context.out);
    let report = plan
        .run(|| run_file(&args.file, &options, &progress))
        .map_err(|error| match &error {
            VectorError::Read { path, source } => CliError::io("cannot read", path, source),
            _ => CliError::new(Class::Input, &error)
                .hint("name a vector file such as fixtures/vectors/filecoin.json"),
        })?;
    let ok = report.ok();
    // With --json stdout carries one value: the report, or else the error with the first failures.
    if ok || !context.out.is_json() {
        context.out.result(&report, ToString::to_string)?;
    }
    if ok {
        return Ok(());
    }
    if report.failed() == 0 {
        let what = format!("nothing in {} could be checked", args.file.display());
        return Err(CliError::new(Class::Input, what)
            .hint("name a vector file such as fixtures/vectors/filecoin.json"));
    }
    let failures = report.groups.iter().flat_map(|group| &group.failures);
    let first: Vec<String> = failures
        .take(LISTED)
        .map(|failure| format!("{}: {}", failure.at, failure.what))
        .collect();
    let what = format!(
        "{} comparisons failed, first {}",
        report.failed(),
        first.join(" | ")
    );
    Err(CliError::new(Class::BadData, what).hint("run it without --json for the whole list"))
}
