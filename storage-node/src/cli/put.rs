//! `holdfast put`: encrypt, code, place, push, publish, read back.

use super::{CliError, Context};

/// Arguments of `put`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub async fn run(_args: Args, _context: &Context) -> Result<(), CliError> {
    Ok(())
}
