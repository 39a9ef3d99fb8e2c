//! `holdfast get`: read a file back from any k of n.

use super::{CliError, Context};

/// Arguments of `get`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub async fn run(_args: Args, _context: &Context) -> Result<(), CliError> {
    Ok(())
}
