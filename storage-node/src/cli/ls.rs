//! `holdfast ls`: what this account stores.

use super::{CliError, Context};

/// Arguments of `ls`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub async fn run(_args: Args, _context: &Context) -> Result<(), CliError> {
    Ok(())
}
