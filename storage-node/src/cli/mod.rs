//! The command line: one file per command, arguments as typed, resolved once, errors with a hint and an exit code.
//!
//! [`run`] turns the parsed [`Cli`] into a [`Context`] (home, parameter cache, output) and calls the command's `run`.
//! With `--json`, stdout carries one JSON value and nothing else; people's lines, bars and logs go to stderr.
//!
//! | exit code | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | our own failure: please report it |
//! | 2 | the command line itself is wrong |
//! | 3 | bad input: a file, key, id or folder the caller named |
//! | 4 | refused: not enough funds, not enough providers, a rule of the chain |
//! | 5 | unreachable: the chain or the providers did not answer |
//! | 6 | bad data: something failed verification |
//! | 7 | this machine: disk full, permissions, a busy port |
//!
//! A command is registered in [`Command`] when it works; until then its file holds its arguments only.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::Config;

pub mod account;
pub mod args;
pub mod audit;
pub(crate) mod bundle;
pub mod chain;
pub mod channel;
pub mod datacap;
pub mod demo;
pub mod devnet;
pub mod dispute;
pub mod error;
pub mod explain;
pub mod get;
pub(crate) mod governance;
pub mod ls;
pub mod output;
pub mod prover;
pub mod provider;
pub mod put;
pub mod repair;
mod reputation;
mod snapshot;
pub mod status;
#[cfg(feature = "bft")]
pub mod validator;
pub mod wallet;

pub use args::GlobalArgs;
pub use error::{Class, CliError};
pub use output::Output;

/// Holdfast: store files with independent providers who prove, every day and in public, that they still hold them.
#[derive(Debug, Parser)]
#[command(name = "holdfast", version, about, disable_help_subcommand = true)]
pub struct Cli {
    /// Options of every command, accepted before and after the command's name.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Every command that works.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// The whole story on this machine: store, seal, prove, pay, read back, catch a cheat, audit
    Demo(demo::Args),
    /// Store a file: encrypted, coded, on k + m providers
    Put(put::Args),
    /// Read an object back, whole or a range of bytes
    Get(get::Args),
    /// List what this account stores
    Ls(ls::Args),
    /// Show an object's health, proofs and money
    Status(status::Args),
    /// Give shards whose deals are over to new providers
    Repair(repair::Args),
    /// Keys, balance and transfers of this home's account
    Wallet(wallet::Args),
    /// Payment channels: open, sign and redeem vouchers, settle, collect
    Channel(channel::Args),
    /// Bytes of verified deals: show, allow a notary, grant a client
    Datacap(datacap::Args),
    /// Verify what an optimistic chain took unverified, and dispute what is wrong: watch, check, send
    Dispute(dispute::Args),
    /// The prover alone, on files: seal, unseal, prove, verify
    Prover(prover::Args),
    /// A storage provider's life: init, run, status, withdraw, declare-fault, stop
    Provider(provider::Args),
    /// A whole network on this machine: up, status, down
    Devnet(devnet::Args),
    /// Verify proofs, sectors, files and the whole chain from public data, offline
    Audit(audit::Args),
    /// Export and check a chain, and say where it stands
    Chain(chain::Args),
}

/// What a command is given: resolved surroundings and a place to write.
#[derive(Debug)]
pub struct Context {
    /// Home, parameter cache, chain address.
    pub config: Config,
    /// Where results, sentences and progress go.
    pub out: Output,
}

/// Runs one command and reports its error, if any.
pub async fn run(cli: Cli) -> ExitCode {
    let out = Output::new(cli.global.json, cli.global.quiet);
    let config = match Config::resolve(cli.global.home, cli.global.chain, |name| {
        std::env::var_os(name)
    }) {
        Ok(config) => config,
        Err(error) => return out.report(&CliError::from(error)),
    };
    let context = Context { config, out };
    let result = match cli.command {
        Command::Demo(args) => demo::run(args, &context).await,
        Command::Put(args) => put::run(args, &context).await,
        Command::Get(args) => get::run(args, &context).await,
        Command::Ls(args) => ls::run(args, &context).await,
        Command::Status(args) => status::run(args, &context).await,
        Command::Repair(args) => repair::run(args, &context).await,
        Command::Wallet(args) => wallet::run(args, &context).await,
        Command::Channel(args) => channel::run(args, &context).await,
        Command::Datacap(args) => datacap::run(args, &context).await,
        Command::Dispute(args) => dispute::run(args, &context).await,
        Command::Prover(args) => prover::run(args, &context).await,
        Command::Provider(args) => provider::run(args, &context).await,
        Command::Devnet(args) => devnet::run(args, &context).await,
        Command::Audit(args) => audit::run(args, &context).await,
        Command::Chain(args) => chain::run(args, &context).await,
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => context.out.report(&error),
    }
}

/// Reports a failure from before any command could run.
pub fn report_start_failure(what: &str, error: &dyn std::error::Error) -> ExitCode {
    eprintln!("error: {what}: {error}");
    ExitCode::from(Class::Machine.code())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn home_is_accepted_before_and_after_the_command() {
        for line in [
            ["holdfast", "--home", "/h", "wallet", "address"],
            ["holdfast", "wallet", "--home", "/h", "address"],
            ["holdfast", "wallet", "address", "--home", "/h"],
        ] {
            let cli = Cli::try_parse_from(line).expect("parses");
            assert_eq!(cli.global.home.as_deref(), Some("/h".as_ref()));
        }
    }
}
