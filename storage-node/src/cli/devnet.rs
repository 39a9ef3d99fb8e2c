//! `holdfast devnet`: a whole network on loopback that stays up: chain, providers, faucet.
//!
//! Arguments and words; the work is [`crate::devnet`]. `up --detach` starts this same binary once more, in the background,
//! with its log in the devnet's folder, and returns when everything serves.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Command as Process, Stdio};
use std::sync::Arc;
use std::time::Duration;

use chain_lite::units::Epoch;
use prover::SectorSize;
use serde::Serialize;

use super::output::BarProgress;
use super::{Class, CliError, Context};
use crate::chain::{ChainClient, NetworkView};
use crate::config::Home;
use crate::devnet::{self, Devnet, DevnetConfig, DevnetError, Endpoints};
use crate::provider::ProviderStatus;
use crate::provider::control::Control;

/// How long a detached devnet may take to start when its proving keys are there.
const DETACH_PATIENCE: Duration = Duration::from_secs(3600);
/// How long a devnet whose chain has stopped still answers.
const LAST_ANSWERS: Duration = Duration::from_secs(5);
/// Pause between looks at a starting devnet.
const LOOK: Duration = Duration::from_millis(200);

/// Arguments of `devnet`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Start it, making it first if there is none; runs until Ctrl-C or `devnet down`
    Up(UpArgs),
    /// Show where everything is and how it does
    Status,
    /// Stop it; its state stays
    Down {
        /// Wait at most this many seconds for proofs at hand to end
        #[arg(long, default_value_t = 900, value_name = "SECONDS")]
        wait: u64,
    },
}

#[derive(Debug, clap::Args)]
struct UpArgs {
    /// Run in the background and return when everything serves
    #[arg(long)]
    detach: bool,
    /// How many providers [default: 4, or as many as the devnet was made with]
    #[arg(long, value_name = "N")]
    providers: Option<u16>,
    /// Size of their sectors: 2KiB, 8MiB or 512MiB [default: 8MiB, or what the devnet was made with]
    #[arg(long, value_name = "SIZE")]
    sector_size: Option<SectorSize>,
    /// Milliseconds between blocks [default: 1000, or what the devnet was made with]
    #[arg(long, value_name = "MS")]
    epoch_ms: Option<u64>,
    /// How many validators; more than one needs a binary with feature `bft` [default: 1, or as many as it was made with]
    #[arg(long, value_name = "N")]
    validators: Option<u16>,
    /// Let the chain take window PoSts unverified where it may: `holdfast dispute watch` is then what finds wrong ones
    #[arg(long)]
    optimistic: bool,
    /// Close the money: it pays for storage and secures it, and nobody can pass it on or take it out; there is no faucet
    #[arg(long)]
    closed_credit: bool,
    /// Port of the chain's JSON-RPC [default: a free one, kept]
    #[arg(long, value_name = "PORT")]
    rpc_port: Option<u16>,
}

/// Runs the command.
pub async fn run(args: Args, context: &Context) -> Result<(), CliError> {
    match args.action {
        Action::Up(args) if args.detach => up_detached(args, context).await,
        Action::Up(args) => up(args, context).await,
        Action::Status => status(context).await,
        Action::Down { wait } => down(context, Duration::from_secs(wait)).await,
    }
}

fn config_of(args: &UpArgs, home: &Home) -> Result<DevnetConfig, CliError> {
    let mut config = devnet::written_config(home)?.unwrap_or_default();
    if let Some(providers) = args.providers {
        config.providers = providers;
    }
    if let Some(size) = args.sector_size {
        config.sector_size = size;
    }
    if let Some(epoch_ms) = args.epoch_ms {
        config.epoch_ms = epoch_ms;
    }
    if let Some(port) = args.rpc_port {
        config.rpc_port = port;
    }
    if let Some(validators) = args.validators {
        config.validators = validators;
    }
    config.optimistic |= args.optimistic;
    config.closed_credit |= args.closed_credit;
    Ok(config)
}

async fn up(args: UpArgs, context: &Context) -> Result<(), CliError> {
    let home = &context.config.home;
    let config = config_of(&args, home)?;
    context.out.say(format_args!(
        "starting a chain and {} providers with {} sectors in {}",
        config.providers,
        config.sector_size,
        home.devnet_dir().display()
    ));
    let progress = Arc::new(BarProgress::new(&context.out));
    let devnet = Devnet::start(home, config, &context.config.params_dir, progress).await?;
    let endpoints = devnet::endpoints(home)?;
    context
        .out
        .result(&endpoints, |endpoints| lines(endpoints, home))?;
    context
        .out
        .say("Ctrl-C or `holdfast devnet down` stops it; its state stays.");
    tokio::select! {
        () = devnet.stop_requested() => {}
        _ = interrupted() => {}
    }
    if let chain_lite::engine::EngineStatus::Failed { why } = devnet.engine_status() {
        // Who sent what the last block holds, such as other validators, still hears of it.
        tokio::time::sleep(LAST_ANSWERS).await;
        let _ = devnet.shutdown().await;
        return Err(CliError::new(Class::Machine, format!("the chain stopped: {why}"))
            .hint("free space or repair the disk, then start it again: it recovers from its block log"));
    }
    context.out.say("stopping; a proof at hand ends first");
    Ok(devnet.shutdown().await?)
}

/// Ctrl-C, or the system's polite request to end.
pub(super) async fn interrupted() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    // Without signals nobody asks; `devnet down` still does.
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn up_detached(args: UpArgs, context: &Context) -> Result<(), CliError> {
    let home = &context.config.home;
    if devnet::is_running(home) {
        return Err(DevnetError::Running(home.devnet_dir()).into());
    }
    // Judged here, so that a mistake is told at once and not in a log.
    let config = config_of(&args, home)?;
    let dir = home.devnet_dir();
    crate::identity::create_private_dir(&dir)
        .map_err(|error| CliError::io("cannot create", &dir, &error))?;
    let log_path = dir.join("devnet.log");
    let open = || File::options().create(true).append(true).open(&log_path);
    let failed = |error: std::io::Error| CliError::io("cannot write", &log_path, &error);
    let (log, errors) = (open().map_err(failed)?, open().map_err(failed)?);
    let binary = std::env::current_exe()
        .map_err(|error| CliError::caused(Class::Machine, "cannot find this program", &error))?;
    let mut process = Process::new(binary);
    process
        .arg("--home")
        .arg(home.root())
        .args(["-v", "devnet", "up"])
        .args(["--providers", &config.providers.to_string()])
        .args(["--sector-size", &config.sector_size.to_string()])
        .args(["--epoch-ms", &config.epoch_ms.to_string()])
        .args(["--rpc-port", &config.rpc_port.to_string()])
        .args(["--validators", &config.validators.to_string()])
        .args(config.optimistic.then_some("--optimistic"))
        .args(config.closed_credit.then_some("--closed-credit"))
        .env(crate::config::PARAMS_VARIABLE, &context.config.params_dir)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors);
    #[cfg(unix)]
    {
        use std::os::unix::process::CommandExt;
        // Out of our terminal's process group: Ctrl-C here is not for it.
        process.process_group(0);
    }
    let mut child = process.spawn().map_err(|error| {
        CliError::caused(Class::Machine, "cannot start the devnet's process", &error)
    })?;
    context.out.say(format_args!(
        "the devnet starts as process {}; the first start makes proving keys, which takes minutes. Log: {}",
        child.id(),
        log_path.display()
    ));
    let endpoints = wait_until_up(&mut child, home, &log_path).await?;
    context
        .out
        .result(&endpoints, |endpoints| lines(endpoints, home))
}

async fn wait_until_up(
    child: &mut std::process::Child,
    home: &Home,
    log: &std::path::Path,
) -> Result<Endpoints, CliError> {
    let until = tokio::time::Instant::now() + DETACH_PATIENCE;
    loop {
        if let Ok(Some(ended)) = child.try_wait() {
            return Err(CliError::new(
                Class::Machine,
                format!("the devnet did not start ({ended})"),
            )
            .hint(format!("the reason is at the end of {}", log.display())));
        }
        if let Ok(endpoints) = devnet::endpoints(home)
            && endpoints.pid == child.id()
        {
            return Ok(endpoints);
        }
        if tokio::time::Instant::now() >= until {
            return Err(
                CliError::new(Class::Machine, "the devnet is still starting").hint(format!(
                    "look at {} and `holdfast devnet status`",
                    log.display()
                )),
            );
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn lines(endpoints: &Endpoints, home: &Home) -> String {
    let mut text = format!("chain      {}\n", endpoints.chain_url);
    for provider in &endpoints.providers {
        text.push_str(&format!("provider {}  {}\n", provider.id, provider.quic));
    }
    for fellow in &endpoints.fellows {
        text.push_str(&format!(
            "validator {}  {}\n",
            fellow.number, fellow.chain_url
        ));
    }
    if let Some(kernels) = &endpoints.kernels {
        text.push_str(&format!("kernels    {kernels}\n"));
    }
    let home = home.root().display();
    text.push_str(&format!(
        "\nTry it, in another terminal:\n\
         \x20 holdfast --home {home} wallet balance\n\
         \x20 holdfast --home {home} put FILE\n\
         \x20 holdfast --home {home} ls\n\
         \x20 holdfast --home {home} devnet status\n"
    ));
    if endpoints.config.closed_credit {
        text.push_str(
            "Money is closed credit here: this home's wallet and these providers have all there is, and cannot pass it on.\n",
        );
    } else {
        let url = &endpoints.chain_url;
        text.push_str(&format!(
            "A client of its own: holdfast --home DIR --chain {url} wallet new\n\
             Another provider:    holdfast --home DIR --chain {url} provider init && holdfast --home DIR provider run\n"
        ));
    }
    text.push_str(
        "This network is for trying out: its keys and randomness are known to this machine.",
    );
    text
}

/// What `devnet status` shows.
#[derive(Debug, Serialize)]
struct Status {
    endpoints: Endpoints,
    height: u64,
    epoch: Epoch,
    network: NetworkView,
    clock_held_by: Vec<crate::chain::LeaseView>,
    providers: Vec<ProviderStatus>,
}

async fn status(context: &Context) -> Result<(), CliError> {
    let home = &context.config.home;
    let endpoints = devnet::endpoints(home)?;
    let chain = ChainClient::connect(&endpoints.chain_url).await?;
    let head = chain.head().await?;
    let mut providers = Vec::new();
    for provider in &endpoints.providers {
        let dir = Home::new(provider.home.clone()).provider_dir();
        // A stopped one is listed under its endpoint alone.
        if let Ok(control) = Control::open(&dir)
            && let Ok(status) = control.status().await
        {
            providers.push(status);
        }
    }
    let status = Status {
        height: head.height,
        epoch: head.epoch,
        network: chain.network().await?,
        clock_held_by: chain.leases().await?,
        endpoints,
        providers,
    };
    context.out.result(&status, status_lines)
}

fn status_lines(status: &Status) -> String {
    let mut text = format!(
        "chain {} at epoch {} (block {}), {} bytes proven\n",
        status.endpoints.chain_url, status.epoch, status.height, status.network.raw_power
    );
    if let Some(kernels) = &status.endpoints.kernels {
        text.push_str(&format!("kernels {kernels}\n"));
    }
    for lease in &status.clock_held_by {
        text.push_str(&format!(
            "the clock waits at epoch {} for a proof of provider {}\n",
            lease.before, lease.provider
        ));
    }
    for endpoint in &status.endpoints.providers {
        let shown = status.providers.iter().find(|p| p.provider == endpoint.id);
        match shown {
            Some(provider) => text.push_str(&super::provider::summary(provider)),
            None => text.push_str(&format!(
                "provider {}  stopped, home {}\n",
                endpoint.id,
                endpoint.home.display()
            )),
        }
    }
    text
}

#[derive(Debug, Serialize)]
struct Stopped {
    stopped: PathBuf,
}

async fn down(context: &Context, wait: Duration) -> Result<(), CliError> {
    let home = &context.config.home;
    context
        .out
        .say("asking the devnet to stop; a proof at hand ends first");
    devnet::stop(home, wait).await?;
    let stopped = Stopped {
        stopped: home.devnet_dir(),
    };
    context.out.result(&stopped, |stopped| {
        format!("stopped; the state stays in {}", stopped.stopped.display())
    })
}

impl From<DevnetError> for CliError {
    fn from(error: DevnetError) -> Self {
        let class = match &error {
            DevnetError::Config(_) => Class::Usage,
            DevnetError::Running(_) | DevnetError::NotRunning(_) => Class::Input,
            DevnetError::StillRunning(_) => Class::Unreachable,
            DevnetError::Content { .. } => Class::BadData,
            DevnetError::Task(_) | DevnetError::NoProvider(_) | DevnetError::NoValidator(_) => {
                Class::Bug
            }
            DevnetError::Provider { source, .. } => return provider_failure(&error, source),
            DevnetError::Key(_)
            | DevnetError::File { .. }
            | DevnetError::Journal(_)
            | DevnetError::ProvingKey(_)
            | DevnetError::Workshop(_)
            | DevnetError::Ledger(_)
            | DevnetError::Engine(_)
            | DevnetError::Rpc(_)
            | DevnetError::Chain(_)
            | DevnetError::Clock(_)
            | DevnetError::Validator(_) => Class::Machine,
        };
        CliError::caused(class, "the devnet", &error)
            .hint("`holdfast devnet status` shows whether one runs; -v says more")
    }
}

fn provider_failure(error: &DevnetError, source: &crate::provider::ProviderError) -> CliError {
    let inner = super::provider::class_of(source);
    CliError::new(inner, error).hint("its home is below the devnet's folder; -v says more")
}
