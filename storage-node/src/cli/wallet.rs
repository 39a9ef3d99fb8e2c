//! `holdfast wallet`: keys, balance and transfers of this home's account.

use super::{CliError, Context};

/// Arguments of `wallet`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Print this home's address
    Address,
}

/// Runs the command.
pub async fn run(args: Args, context: &Context) -> Result<(), CliError> {
    match args.action {
        Action::Address => context
            .out
            .result(&serde_json::Value::Null, |_| String::new()),
    }
}
