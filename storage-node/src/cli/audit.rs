//! `holdfast audit`: verification from public data.

use super::{CliError, Context};

/// Arguments of `audit`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub async fn run(_args: Args, _context: &Context) -> Result<(), CliError> {
    Ok(())
}
