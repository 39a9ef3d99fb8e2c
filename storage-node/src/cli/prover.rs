//! `holdfast prover`: the prover alone, on files.

use super::{CliError, Context};

/// Arguments of `prover`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub async fn run(_args: Args, _context: &Context) -> Result<(), CliError> {
    Ok(())
}
