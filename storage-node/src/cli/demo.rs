//! `holdfast demo`: the whole story on this machine, with real proofs and a report.

use super::{CliError, Context};

/// Arguments of `demo`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub async fn run(_args: Args, _context: &Context) -> Result<(), CliError> {
    Ok(())
}
