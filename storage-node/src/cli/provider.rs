//! `holdfast provider`: a storage provider's life.

use super::{CliError, Context};

/// Arguments of `provider`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub async fn run(_args: Args, _context: &Context) -> Result<(), CliError> {
    Ok(())
}
