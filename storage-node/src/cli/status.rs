//! `holdfast status`: health of one stored object.

use super::{CliError, Context};

/// Arguments of `status`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub async fn run(_args: Args, _context: &Context) -> Result<(), CliError> {
    Ok(())
}
