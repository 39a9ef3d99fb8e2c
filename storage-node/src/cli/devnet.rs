//! `holdfast devnet`: a network on loopback that stays up.

use super::{CliError, Context};

/// Arguments of `devnet`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub async fn run(_args: Args, _context: &Context) -> Result<(), CliError> {
    Ok(())
}
