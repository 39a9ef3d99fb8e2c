//! `holdfast provider`: a storage provider's life, as a process of its own.
//!
//! Arguments and words; the work is [`crate::provider`]. `init` makes keys and settings, `run` joins the chain and serves until
//! it is asked to stop; the other actions speak with the running process, or with the chain in the owner's name.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use chain_lite::account::{Address, ProviderId};
use chain_lite::message::Message;
use chain_lite::units::TokenAmount;
use prover::{SectorNumber, SectorSize};
use serde::Serialize;

use super::account::{proven, send_and_tell, send_wanted_and_tell, wallet_and_chain};
use super::args::{WhoArgs, parse_bytes};
use super::output::{BarProgress, human_bytes, human_time};
use super::{Class, CliError, Context};
use crate::chain::proven::ProvenChain;
use crate::chain::{ChainClient, ProviderView};
use crate::client::outbox::Sent;
use crate::client::{ChainFailure, ClientError};
use crate::identity::Wallet;
use crate::provider::control::{Control, ControlError};
use crate::provider::prover::{Workshop, WorkshopError};
use crate::provider::status::StageStatus;
use crate::provider::worker::WorkerError;
use crate::provider::{
    ProviderConfig, ProviderError, ProviderSettings, ProviderStatus, enrol, start,
};
use crate::rpc::reads;

/// How long `stop` waits for a proof at hand by default, in seconds.
const STOP_PATIENCE_S: u64 = 900;
/// Pause between looks at a stopping provider.
const LOOK: Duration = Duration::from_millis(200);

/// Arguments of `provider`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Make this home's keys and settings
    Init(InitArgs),
    /// Join the chain and serve until asked to stop
    Run,
    /// Show sectors, deals, money and what is due next
    Status,
    /// Put money of the owner's account up for pledges, or for deal collateral
    Deposit {
        /// How much, in tokens
        #[arg(value_parser = TokenAmount::parse_tokens)]
        amount: TokenAmount,
        /// Into the escrow that deal collateral comes from, instead of the balance
        #[arg(long)]
        escrow: bool,
        #[command(flatten)]
        who: WhoArgs,
    },
    /// Take available balance out, to the owner's account
    Withdraw {
        /// How much, in tokens; everything available if absent
        #[arg(value_parser = TokenAmount::parse_tokens)]
        amount: Option<TokenAmount>,
        #[command(flatten)]
        who: WhoArgs,
    },
    /// Say that a sector's replica is damaged: it is declared faulty in time, and resealed if its pieces are here
    DeclareFault {
        /// The sector's number
        sector: SectorNumber,
    },
    /// Stop the running provider; a proof at hand ends first
    Stop {
        /// Wait at most this many seconds
        #[arg(long, default_value_t = STOP_PATIENCE_S, value_name = "SECONDS")]
        wait: u64,
    },
}

#[derive(Debug, clap::Args)]
struct InitArgs {
    /// Size of all its sectors [default: the smallest that the chain allows]
    #[arg(long, value_name = "SIZE")]
    sector_size: Option<SectorSize>,
    /// UDP address that clients reach; port 0 takes a free one and keeps it
    #[arg(long, default_value = "127.0.0.1:0", value_name = "IP:PORT")]
    listen: SocketAddr,
    /// Price in tokens per GiB and epoch
    #[arg(long, value_name = "TOKENS", value_parser = TokenAmount::parse_tokens)]
    price: Option<TokenAmount>,
    /// Most bytes of pieces it holds, for example 10GiB
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    capacity: Option<u64>,
    /// Balance put up at registration, in tokens
    #[arg(long, value_name = "TOKENS", value_parser = TokenAmount::parse_tokens)]
    deposit: Option<TokenAmount>,
    /// Escrow put up for deal collateral, in tokens
    #[arg(long, value_name = "TOKENS", value_parser = TokenAmount::parse_tokens)]
    escrow: Option<TokenAmount>,
}

/// Runs the command.
pub async fn run(args: Args, context: &Context) -> Result<(), CliError> {
    let dir = context.config.home.provider_dir();
    match args.action {
        Action::Init(args) => init(args, context).await,
        Action::Run => serve(context).await,
        Action::Status => {
            let status = control(&dir)?.status().await?;
            context.out.result(&status, details)
        }
        Action::Deposit {
            amount,
            escrow,
            who,
        } => deposit(context, amount, escrow, &who).await,
        Action::Withdraw { amount, who } => withdraw(context, amount, &who).await,
        Action::DeclareFault { sector } => declare(context, &dir, sector).await,
        Action::Stop { wait } => stop(context, &dir, Duration::from_secs(wait)).await,
    }
}

#[derive(Debug, Serialize)]
struct Made {
    owner: Address,
    home: std::path::PathBuf,
    sector_size: SectorSize,
    needs: TokenAmount,
    has: TokenAmount,
    faucet: bool,
}

async fn init(args: InitArgs, context: &Context) -> Result<(), CliError> {
    let home = &context.config.home;
    let chain = ChainClient::connect(&context.config.chain_url()?).await?;
    let allowed = &chain.params().sector_sizes;
    let smallest = allowed.iter().copied().min_by_key(|size| size.bytes());
    let size = args
        .sector_size
        .or(smallest)
        .ok_or_else(|| CliError::new(Class::Refused, "this chain allows no sector size at all"))?;
    if !allowed.contains(&size) {
        return Err(ProviderError::SectorSize(size).into());
    }
    let mut settings = ProviderSettings::devnet(size, 4);
    settings.listen = args.listen;
    settings.price_per_gib = args.price.unwrap_or(settings.price_per_gib);
    settings.capacity_bytes = args.capacity.unwrap_or(settings.capacity_bytes);
    settings.deposit = args.deposit.unwrap_or(settings.deposit);
    settings.escrow = args.escrow.unwrap_or(settings.escrow);
    let owner = enrol::init(home, &settings)?;
    // The chain this home belongs to, for every later command.
    std::fs::write(home.chain_url(), format!("{}\n", chain.url()))
        .map_err(|error| CliError::io("cannot write", &home.chain_url(), &error))?;
    let made = Made {
        owner,
        home: home.root().to_owned(),
        sector_size: size,
        needs: TokenAmount(settings.deposit.0.saturating_add(settings.escrow.0)),
        has: chain.account(&owner).await?.free,
        faucet: chain.info().faucet,
    };
    context.out.result(&made, |made| {
        let money = if made.has >= made.needs {
            "it has the money to register".to_owned()
        } else if made.faucet {
            format!("the devnet's faucet gives the {} tokens it needs", made.needs.in_tokens())
        } else {
            format!(
                "send it {} tokens before it can register",
                TokenAmount(made.needs.0.saturating_sub(made.has.0)).in_tokens()
            )
        };
        format!(
            "a provider with {} sectors in {}\nowner {}: {money}\nkeep copies of wallet.key and provider/worker.key\nnext: holdfast --home {} provider run",
            made.sector_size,
            made.home.display(),
            made.owner,
            made.home.display()
        )
    })
}

async fn serve(context: &Context) -> Result<(), CliError> {
    let shop = Workshop::new(&context.config.params_dir)
        .map_err(|error| CliError::from(ProviderError::from(error)))?;
    context.out.say(
        "joining the chain; the first start makes proving keys, and registration waits for a block",
    );
    let handle = start(ProviderConfig {
        home: context.config.home.clone(),
        chain_url: context.config.chain_url()?,
        shop: Arc::new(shop),
        progress: Arc::new(BarProgress::new(&context.out)),
    })
    .await?;
    context.out.say(format_args!(
        "provider {} serves clients on {}; Ctrl-C or `holdfast provider stop` ends it",
        handle.id(),
        handle.quic()
    ));
    let (id, quic) = (handle.id(), handle.quic().to_string());
    let status = handle.status_watch();
    let stopping = handle.stop_token();
    let mut ended = std::pin::pin!(handle.wait());
    let mut told = 0usize;
    let mut asked = false;
    let result = loop {
        tokio::select! {
            result = &mut ended => break result,
            _ = tokio::signal::ctrl_c(), if !asked => {
                asked = true;
                context.out.say("stopping; a proof at hand ends first");
                stopping.cancel();
            }
            () = tokio::time::sleep(Duration::from_millis(500)) => {
                told = tell_notes(context, &status, told);
            }
        }
    };
    tell_notes(context, &status, told);
    result?;
    context.out.result(&Ended { provider: id, quic }, |ended| {
        format!(
            "provider {} has stopped; everything it promised is on disk",
            ended.provider
        )
    })
}

#[derive(Debug, Serialize)]
struct Ended {
    provider: ProviderId,
    quic: String,
}

/// Says the notes that were not said yet; gives how many were said in all.
fn tell_notes(
    context: &Context,
    status: &crate::provider::status::StatusWatch,
    told: usize,
) -> usize {
    let (total, fresh) = status.notes_after(told);
    for note in fresh {
        context
            .out
            .say(format_args!("epoch {}: {}", note.epoch, note.text));
    }
    total
}

/// The owner's wallet, the chain, and the provider that this owner has there, proven.
async fn owned(
    context: &Context,
    who: &WhoArgs,
) -> Result<(Wallet, ProvenChain, ProviderView), CliError> {
    let (owner, chain) = wallet_and_chain(context, who).await?;
    let view = chain.provider_of_owner(&owner.address()).await;
    let view = view.map_err(proven)?.ok_or_else(|| {
        CliError::new(
            Class::Input,
            format!("account {} owns no provider on this chain", owner.address()),
        )
        .hint("check --home and --chain, or register with `holdfast provider run`")
    })?;
    Ok((owner, chain, view))
}

#[derive(Debug, Serialize)]
struct Deposited {
    provider: ProviderId,
    owner: Address,
    amount: TokenAmount,
    escrow: bool,
}

async fn deposit(
    context: &Context,
    amount: TokenAmount,
    escrow: bool,
    who: &WhoArgs,
) -> Result<(), CliError> {
    let (owner, chain, view) = owned(context, who).await?;
    let (provider, to) = (view.provider.id, owner.address());
    let message = match escrow {
        true => Message::MarketDeposit { to, amount },
        false => Message::ProviderDeposit { provider, amount },
    };
    let deposited = Deposited {
        provider,
        owner: to,
        amount,
        escrow,
    };
    let what = async |_: &_| Ok(deposited);
    send_and_tell(context, &chain, &owner, message, what, |deposited, sent| {
        format!(
            "{}{} tokens of {} are now in provider {}'s {}",
            sent.before("to put up more"),
            deposited.amount.in_tokens(),
            deposited.owner,
            deposited.provider,
            if deposited.escrow {
                "escrow"
            } else {
                "balance"
            }
        )
    })
    .await
}

#[derive(Debug, Serialize)]
struct Withdrawn {
    provider: ProviderId,
    owner: Address,
    amount: TokenAmount,
}

async fn withdraw(
    context: &Context,
    amount: Option<TokenAmount>,
    who: &WhoArgs,
) -> Result<(), CliError> {
    let (owner, chain, view) = owned(context, who).await?;
    let provider = view.provider.id;
    // Everything: what an interrupted command takes out is that.
    let takes = |left: &Message| match left {
        Message::ProviderWithdraw {
            provider: of,
            amount: taken,
        } if *of == provider => amount
            .is_none_or(|amount| amount == *taken)
            .then_some(*taken),
        _ => None,
    };
    let fresh = async || {
        let amount = match amount {
            Some(amount) => amount,
            None => {
                let view = chain.read(|state| reads::provider(state, provider)).await;
                let view = view.map_err(proven)?;
                view.map_or(TokenAmount::ZERO, |view| view.available)
            }
        };
        if amount.is_zero() {
            return Err(CliError::new(Class::Refused, "no balance is available")
                .hint("`holdfast provider status` shows what sectors hold of it"));
        }
        Ok(Message::ProviderWithdraw { provider, amount })
    };
    let wanted = |left: &Message| takes(left).is_some();
    let what = async |sent: &Sent| {
        Ok(Withdrawn {
            provider,
            owner: owner.address(),
            amount: sent.msgs.iter().find_map(takes).unwrap_or_default(),
        })
    };
    let words = |withdrawn: &Withdrawn, sent: &Sent| {
        format!(
            "{}{} tokens of provider {} are now in {}",
            sent.before("to take out more"),
            withdrawn.amount.in_tokens(),
            withdrawn.provider,
            withdrawn.owner
        )
    };
    send_wanted_and_tell(context, &chain, &owner, wanted, fresh, what, words).await
}

#[derive(Debug, Serialize)]
struct Declared {
    sector: SectorNumber,
}

async fn declare(context: &Context, dir: &Path, sector: SectorNumber) -> Result<(), CliError> {
    control(dir)?.declare_fault(sector).await?;
    context.out.result(&Declared { sector }, |declared| {
        format!(
            "sector {} counts as damaged: it is declared before its deadline or skipped in it, and resealed if its pieces are here",
            declared.sector
        )
    })
}

#[derive(Debug, Serialize)]
struct Stopped {
    pid: u32,
}

async fn stop(context: &Context, dir: &Path, patience: Duration) -> Result<(), CliError> {
    let control = control(dir)?;
    control.stop().await?;
    let until = tokio::time::Instant::now() + patience;
    while crate::provider::control::is_running(dir) {
        if tokio::time::Instant::now() >= until {
            return Err(CliError::new(
                Class::Unreachable,
                format!(
                    "the provider (process {}) has not stopped yet",
                    control.pid()
                ),
            )
            .hint("a proof at hand ends first; run the same command again in a minute"));
        }
        tokio::time::sleep(LOOK).await;
    }
    context
        .out
        .result(&Stopped { pid: control.pid() }, |stopped| {
            format!("the provider (process {}) has stopped", stopped.pid)
        })
}

fn control(dir: &Path) -> Result<Control, CliError> {
    Ok(Control::open(dir)?)
}

/// One provider in a few lines.
pub fn summary(status: &ProviderStatus) -> String {
    let active = status
        .sectors
        .iter()
        .filter(|s| s.state.as_deref() == Some("active"))
        .count();
    let mut text = format!(
        "provider {}  {}  {} sectors ({active} active), {} deals, {} held, balance {} (available {})\n",
        status.provider,
        status.quic,
        status.sectors.len(),
        status.deals.len(),
        human_bytes(status.held_bytes),
        status.money.balance.in_tokens(),
        status.money.available.in_tokens()
    );
    if let Some(work) = &status.working_on {
        text.push_str(&format!("  now: {work}{}\n", stage(&status.sealing_stage)));
    }
    if status.posting_stage.is_some() {
        text.push_str(&format!(
            "  now: window proof{}\n",
            stage(&status.posting_stage)
        ));
    }
    if let Some(reason) = &status.closed {
        text.push_str(&format!(
            "  closed: takes no more pieces until its next start: {reason}\n"
        ));
    }
    if let Some(problem) = &status.treasury.problem {
        text.push_str(&format!("  money: {problem}\n"));
    }
    for sector in status.sectors.iter().filter(|sector| sector.damaged) {
        text.push_str(&format!("  sector {} is damaged\n", sector.number));
    }
    if !status.chain_reachable {
        text.push_str("  the chain does not answer\n");
    }
    text
}

fn stage(stage: &Option<StageStatus>) -> String {
    match stage {
        None => String::new(),
        Some(stage) => {
            let left = stage.seconds_left.map(Duration::from_secs).map(human_time);
            let left = left.map_or_else(String::new, |left| format!(", {left} left"));
            format!(": {} {} %{left}", stage.stage, stage.percent)
        }
    }
}

fn details(status: &ProviderStatus) -> String {
    let mut text = summary(status);
    let money = &status.money;
    text.push_str(&format!(
        "money     pledge {}, deposits {}, vesting {}, debt {}, escrow {} (locked {})\n",
        money.pledge.in_tokens(),
        money.deposits.in_tokens(),
        money.vesting.in_tokens(),
        money.fee_debt.in_tokens(),
        money.escrow.in_tokens(),
        money.escrow_locked.in_tokens()
    ));
    let treasury = &status.treasury;
    text.push_str(&format!(
        "kept      next pledge {}, next collateral {}, promised {}; {} (owner has {})\n",
        treasury.pledge.in_tokens(),
        treasury.collateral.in_tokens(),
        treasury.promised.in_tokens(),
        match (
            treasury.top_up,
            treasury.missing_balance.is_zero() && treasury.missing_escrow.is_zero()
        ) {
            (false, _) => "not filled by itself: `holdfast provider deposit`".to_owned(),
            (true, true) => format!(
                "filled so far {} and {}",
                treasury.filled_balance.in_tokens(),
                treasury.filled_escrow.in_tokens()
            ),
            (true, false) => format!(
                "filling {} and {}",
                treasury.missing_balance.in_tokens(),
                treasury.missing_escrow.in_tokens()
            ),
        },
        treasury.owner_free.in_tokens()
    ));
    for sector in &status.sectors {
        text.push_str(&format!(
            "sector {:<4} {:<14} {} deals{}\n",
            sector.number,
            sector.state.as_deref().unwrap_or(&sector.stage),
            sector.deals.len(),
            if sector.damaged { ", damaged" } else { "" }
        ));
    }
    for window in status.due.iter().take(6) {
        text.push_str(&format!(
            "due       deadline {} partition {}: epochs {} to {}{}\n",
            window.deadline,
            window.partition,
            window.open,
            window.close,
            if window.posted { ", posted" } else { "" }
        ));
    }
    for note in status.notes.iter().rev().take(8).rev() {
        text.push_str(&format!("epoch {:<6} {}\n", note.epoch, note.text));
    }
    text
}

/// Who has to act on a provider's failure.
pub fn class_of(error: &ProviderError) -> Class {
    match error {
        ProviderError::NotInitialised(_)
        | ProviderError::Settings { .. }
        | ProviderError::WrongChain { .. }
        | ProviderError::OtherIdentity { .. }
        | ProviderError::SectorSize(_)
        | ProviderError::DepositTooSmall { .. }
        | ProviderError::Workshop(
            WorkshopError::ForeignKey { .. } | WorkshopError::NoProvingKey { .. },
        )
        | ProviderError::Key(_) => Class::Input,
        ProviderError::Wallet(ClientError::File { .. } | ClientError::Journal { .. }) => {
            Class::Machine
        }
        ProviderError::Wallet(ClientError::Chain(ChainFailure::Unreachable(_))) => {
            Class::Unreachable
        }
        ProviderError::Wallet(_) => Class::Refused,
        ProviderError::Funds { .. } => Class::Refused,
        ProviderError::Chain(error) if error.is_transient() => Class::Unreachable,
        ProviderError::Chain(_) => Class::Refused,
        ProviderError::Control(ControlError::Running(_) | ControlError::NotRunning(_)) => {
            Class::Input
        }
        ProviderError::NotRegistered
        | ProviderError::Task(_)
        | ProviderError::Worker(WorkerError::Task(_)) => Class::Bug,
        ProviderError::Worker(WorkerError::Chain(_)) => Class::Refused,
        ProviderError::Folder { .. }
        | ProviderError::Journal(_)
        | ProviderError::Store(_)
        | ProviderError::Workshop(_)
        | ProviderError::Control(_)
        | ProviderError::Quic { .. }
        | ProviderError::Worker(WorkerError::Journal(_)) => Class::Machine,
    }
}

impl From<ProviderError> for CliError {
    fn from(error: ProviderError) -> Self {
        match error {
            ProviderError::Key(error) => error.into(),
            ProviderError::Chain(error) => error.into(),
            ProviderError::Wallet(error) => error.into(),
            ProviderError::Control(error) => error.into(),
            other => CliError::new(class_of(&other), super::error::chain_of(&other)),
        }
    }
}

impl From<ControlError> for CliError {
    fn from(error: ControlError) -> Self {
        let class = match &error {
            ControlError::NotRunning(_) | ControlError::Running(_) => Class::Input,
            ControlError::Refused(_) => Class::Refused,
            ControlError::Silent(_) => Class::Unreachable,
            ControlError::File { .. } | ControlError::Journal(_) | ControlError::Listen(_) => {
                Class::Machine
            }
        };
        CliError::new(class, super::error::chain_of(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::status::tests::fresh;

    /// H5: whoever looks days later reads why no piece comes in any more, as a person and as a program.
    #[test]
    fn tm_h5_the_status_says_that_and_why_a_provider_is_closed() {
        let open = fresh();
        assert!(!details(&open).contains("closed"), "{}", details(&open));
        let json = serde_json::to_value(&open).expect("plain data");
        assert_eq!(json.get("closed"), Some(&serde_json::Value::Null));
        let reason = "the disk failed to keep /disk/a.bin (EIO); replace the disk";
        let closed = ProviderStatus {
            closed: Some(reason.to_owned()),
            ..fresh()
        };
        for text in [summary(&closed), details(&closed)] {
            assert!(text.contains("takes no more pieces"), "{text}");
            assert!(text.contains(reason), "{text}");
        }
        let json = serde_json::to_value(&closed).expect("plain data");
        assert_eq!(json["closed"], reason);
    }
}
