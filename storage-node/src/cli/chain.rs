//! `holdfast chain`: a full node and its block log.

use super::{CliError, Context};

/// Arguments of `chain`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub async fn run(_args: Args, _context: &Context) -> Result<(), CliError> {
    Ok(())
}
