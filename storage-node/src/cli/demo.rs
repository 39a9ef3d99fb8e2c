//! `holdfast demo`: the whole story on this machine, with real proofs and a report.
//!
//! Arguments and words; the steps are [`crate::demo::story`].
//!
//! Without `--home` a run has a folder of its own under the platform's data folder and removes it when the story held;
//! after a failure, and with `--home`, the folder stays for a look. Proving keys are cached apart from it.

use std::path::PathBuf;

use prover::SectorSize;

use super::{Class, CliError, Context};
use crate::demo::{DemoConfig, DemoError, story};
use crate::object::erasure::Scheme;

/// Arguments of `demo`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The file to store [default: a built-in sample]
    file: Option<PathBuf>,
    /// Providers that are enough to read it back [default: 2; 4 with several validators]
    #[arg(short, long, value_name = "N")]
    k: Option<usize>,
    /// Further providers, any of which may be lost
    #[arg(short, long, default_value_t = 2, value_name = "N")]
    m: usize,
    /// Size of the sectors: 2KiB or 8MiB (Filecoin's test proof types)
    #[arg(long, default_value = "8MiB", value_name = "SIZE")]
    sector_size: SectorSize,
    /// How many providers [default: k + m, at least 4; at least 6 with several validators]
    #[arg(long, value_name = "N")]
    providers: Option<usize>,
    /// How many validators, each a process; 1, or at least 4 so that one may be killed. More than 1 needs a binary with feature `bft`
    #[arg(long, default_value_t = 1, value_name = "N")]
    validators: u16,
    /// Length of an epoch of the demo's chain, in milliseconds
    #[arg(long, default_value_t = 100, value_name = "MS", value_parser = clap::value_parser!(u64).range(20..=60_000))]
    epoch_ms: u64,
    /// Tell it with money that pays for storage and that nobody can pass on
    #[arg(long)]
    closed_credit: bool,
    /// Keep the run's folder although the story held
    #[arg(long)]
    keep: bool,
}

/// Runs the command.
pub async fn run(args: Args, context: &Context) -> Result<(), CliError> {
    let config = resolve(&args, context)?;
    let home = config.home.clone();
    let report = story::tell(config, context.out.clone()).await;
    match report {
        Ok(report) => {
            if args.keep {
                context
                    .out
                    .say(format_args!("Everything is in {}", home.display()));
            } else if let Err(error) = std::fs::remove_dir_all(&home) {
                context
                    .out
                    .say(format_args!("cannot remove {}: {error}", home.display()));
            }
            context.out.result(&report, |report| report.human())
        }
        Err(error) => Err(failed(error, &home)),
    }
}

fn resolve(args: &Args, context: &Context) -> Result<DemoConfig, CliError> {
    crate::devnet::check_validators(args.validators)?;
    if (2..4).contains(&args.validators) {
        return Err(CliError::new(
            Class::Usage,
            format!(
                "a chain of {} validators stands still when one is lost",
                args.validators
            ),
        )
        .hint("choose --validators 1, or at least 4"));
    }
    let (k, least) = match args.validators {
        1 => (2, 4),
        _ => (4, 6),
    };
    let scheme = Scheme::new(args.k.unwrap_or(k), args.m)
        .map_err(|error| CliError::new(Class::Usage, error).hint("try -k 2 -m 2"))?;
    let providers = args.providers.unwrap_or(scheme.n().max(least));
    if providers < scheme.n() {
        return Err(CliError::new(
            Class::Usage,
            format!(
                "{scheme} needs {} providers on distinct owners, not {providers}",
                scheme.n()
            ),
        )
        .hint("leave --providers out, or name at least k + m"));
    }
    let most = usize::from(crate::devnet::MAX_PROVIDERS);
    if providers > most {
        return Err(CliError::new(
            Class::Usage,
            format!("{providers} providers are too many for one machine; at most {most}"),
        )
        .hint("choose smaller -k and -m"));
    }
    if args.sector_size != SectorSize::Kib2 && args.sector_size != SectorSize::Mib8 {
        return Err(CliError::new(
            Class::Usage,
            format!("the demo does not seal {} sectors", args.sector_size),
        )
        .hint("choose --sector-size 8MiB or --sector-size 2KiB"));
    }
    Ok(DemoConfig {
        file: args.file.clone(),
        scheme,
        sector_size: args.sector_size,
        providers,
        validators: args.validators,
        epoch_ms: args.epoch_ms,
        closed_credit: args.closed_credit,
        // The process id keeps two demos apart, and a demo apart from a devnet of the same home.
        home: context
            .config
            .home
            .root()
            .join(format!("demo-{}", std::process::id())),
        params_dir: context.config.params_dir.clone(),
    })
}

fn failed(error: DemoError, home: &std::path::Path) -> CliError {
    let class = match &error {
        DemoError::Input(_) => Class::Input,
        DemoError::TooLong { .. } => Class::Refused,
        DemoError::Failed { .. } => Class::Machine,
        DemoError::DoesNotHold { .. } => Class::BadData,
    };
    let hint = match &error {
        DemoError::Input(_) => "name another file, or none for the built-in sample".to_owned(),
        DemoError::TooLong { .. } => "name a smaller file, or a smaller -k and -m".to_owned(),
        _ => format!("the run's folder is kept: {}; -v says more", home.display()),
    };
    CliError::new(class, error).hint(hint)
}
