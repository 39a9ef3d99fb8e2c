//! `holdfast chain`: exports and checks of a chain, and what it is doing.
//!
//! * `export` writes one file that an auditor can replay without a node: from this home's own log (a node may be
//!   running on it), from a named log, or block by block from a chain's JSON-RPC;
//! * `verify` checks what needs no execution: digests, headers, certificates. `holdfast audit chain` replays everything;
//! * `status` says where the chain is, and what its last epochs minted and burnt;
//! * `explain-reward` and `issuance` say where money comes from and goes to, epoch by epoch ([`super::explain`]);
//! * `reputation` says how well each provider has kept what it promised ([`super::reputation`]);
//! * `snapshot` carries the state without the blocks, see [`super::snapshot`].
//! * `approve` and `set-validators` change who decides blocks ([`super::governance`]);
//! * `card`, `init`, `join`, `run`, `relay`, `invite`, `validators` are [`super::validator`]'s, in binaries with feature `bft`.
//!
//! An export is written beside its name and renamed when it is complete and synced, so a half one is never mistaken for
//! a whole one.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use chain_lite::account::ChainId;
use chain_lite::audit::{self, AuditError};
use chain_lite::block::BlockId;
use chain_lite::explain::IssuanceRow;
use chain_lite::log::{ChainFile, ExportWriter, LogError};
use serde::Serialize;

#[cfg(feature = "bft")]
use super::args::TrustArgs;
use super::output::Unit;
use super::{Class, CliError, Context};
use crate::chain::{ChainClient, Head};
use crate::config::Config;

/// Arguments of `chain`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Write the whole chain into one file that anybody can replay and check offline
    Export(Export),
    /// Check an export or a copied block log without executing it: digests, headers, certificates
    Verify(Verify),
    /// Say which chain this is and where it stands
    Status,
    /// Explain an epoch's reward from the chain itself, each figure computed again
    ExplainReward(super::explain::Reward),
    /// List what each epoch minted and burnt, from the chain itself
    Issuance(super::explain::IssuanceArgs),
    /// List how well each provider has kept what it promised, from the chain itself and clients' receipts
    Reputation(super::reputation::Args),
    /// Carry a chain's state in one file, to join without its history
    Snapshot(super::snapshot::Args),
    /// With a validator's key: approve a new list of validators
    Approve(super::governance::ApproveArgs),
    /// Send a new list of validators that more than two thirds of the present votes approve
    SetValidators(super::governance::SetArgs),
    /// Make this validator's key and print its card, for the network's founder
    #[cfg(feature = "bft")]
    Card(super::validator::CardArgs),
    /// Found a network of several validators from their cards
    #[cfg(feature = "bft")]
    Init(super::validator::InitArgs),
    /// Make this home a node of a network
    #[cfg(feature = "bft")]
    Join(super::validator::JoinArgs),
    /// Run this home's node of the network it joined, until Ctrl-C
    #[cfg(feature = "bft")]
    Run(super::validator::RunArgs),
    /// Give out the beacon's rounds of a network with its own key, to nodes that do not have it, until Ctrl-C
    #[cfg(feature = "bft")]
    Relay(super::validator::RelayArgs),
    /// List who decides blocks, as the chain's newest provable state has it
    #[cfg(feature = "bft")]
    Validators {
        /// What is trusted of the chain.
        #[command(flatten)]
        trust: TrustArgs,
    },
    /// Write network.json of a running chain, for those who join it
    #[cfg(feature = "bft")]
    Invite(super::validator::InviteArgs),
}

#[derive(Debug, clap::Args)]
struct Export {
    /// File to write
    #[arg(value_name = "FILE")]
    to: PathBuf,
    /// Take the blocks from this block log, or folder with one, instead of this home's chain
    #[arg(long, value_name = "PATH", conflicts_with = "remote")]
    from: Option<PathBuf>,
    /// Take the blocks from the chain's JSON-RPC even if this home has a block log
    #[arg(long)]
    remote: bool,
    /// Replace the file if it exists
    #[arg(long)]
    force: bool,
}

#[derive(Debug, clap::Args)]
struct Verify {
    /// Export or block log [default: this home's block log]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Refuse the file unless it is of this chain
    #[arg(long, value_name = "ID")]
    chain_id: Option<ChainId>,
}

/// Runs the command.
pub async fn run(args: Args, context: &Context) -> Result<(), CliError> {
    match args.action {
        Action::Export(args) => export(args, context).await,
        Action::Verify(args) => verify(args, context),
        Action::Status => status(context).await,
        Action::ExplainReward(args) => super::explain::reward(args, context),
        Action::Issuance(args) => super::explain::issuance(args, context),
        Action::Reputation(args) => super::reputation::run(args, context),
        Action::Snapshot(args) => super::snapshot::run(args, context),
        Action::Approve(args) => super::governance::approve(&args, context).await,
        Action::SetValidators(args) => super::governance::set_validators(&args, context).await,
        #[cfg(feature = "bft")]
        Action::Card(args) => super::validator::card(&args, context),
        #[cfg(feature = "bft")]
        Action::Init(args) => super::validator::init(args, context).await,
        #[cfg(feature = "bft")]
        Action::Join(args) => super::validator::join(&args, context),
        #[cfg(feature = "bft")]
        Action::Run(args) => super::validator::run(args, context).await,
        #[cfg(feature = "bft")]
        Action::Relay(args) => super::validator::relay(args, context).await,
        #[cfg(feature = "bft")]
        Action::Validators { trust } => super::validator::validators(&trust, context).await,
        #[cfg(feature = "bft")]
        Action::Invite(args) => super::validator::invite(args, context).await,
    }
}

#[derive(Debug, Serialize)]
struct Exported {
    file: PathBuf,
    chain_id: ChainId,
    height: u64,
    bytes: u64,
    from: String,
}

/// Whether an export may be written to `to`.
pub(super) fn check_target(to: &Path, force: bool) -> Result<(), CliError> {
    if to.exists() && !force {
        let message = format!("{} exists already", to.display());
        return Err(CliError::new(Class::Input, message).hint("name another file, or add --force"));
    }
    // Replacing a device or a pipe by a file would be a mishap.
    if to
        .symlink_metadata()
        .is_ok_and(|meta| !meta.is_file() && !meta.is_symlink())
    {
        let message = format!("{} is not a plain file", to.display());
        return Err(CliError::new(Class::Input, message).hint("name a file to write"));
    }
    Ok(())
}

async fn export(args: Export, context: &Context) -> Result<(), CliError> {
    check_target(&args.to, args.force)?;
    let local = match (args.from, args.remote) {
        (Some(path), _) => Some(log_at(&path)),
        (None, true) => None,
        (None, false) => own_log(&context.config),
    };
    let mut target = Target::create(&args.to)?;
    let (chain_id, height, from) = match local {
        Some(log) => export_log(&log, &mut target, context)?,
        None => export_remote(&mut target, context).await?,
    };
    let bytes = target.publish(&args.to)?;
    let done = Exported {
        file: args.to,
        chain_id,
        height,
        bytes,
        from,
    };
    context.out.result(&done, |d| {
        format!(
            "exported blocks 1 to {} of chain {} from {} into {} ({} bytes)\ncheck it anywhere: holdfast audit chain {}",
            d.height, d.chain_id, d.from, d.file.display(), d.bytes, d.file.display()
        )
    })
}

/// The file in the making: `FILE.part`, removed unless it is published.
pub(super) struct Target {
    part: PathBuf,
    file: Option<BufWriter<File>>,
}

impl Target {
    pub(super) fn create(to: &Path) -> Result<Self, CliError> {
        let mut name = to.file_name().unwrap_or_default().to_owned();
        name.push(".part");
        let part = to.with_file_name(name);
        let file = File::create(&part).map_err(|e| CliError::io("cannot write", &part, &e))?;
        Ok(Self {
            part,
            file: Some(BufWriter::with_capacity(1 << 20, file)),
        })
    }

    pub(super) fn writer(&mut self) -> &mut BufWriter<File> {
        self.file
            .as_mut()
            .expect("taken only by `publish`, which consumes the target")
    }

    pub(super) fn publish(mut self, to: &Path) -> Result<u64, CliError> {
        let finish = |file: BufWriter<File>| -> std::io::Result<u64> {
            let file = file
                .into_inner()
                .map_err(std::io::IntoInnerError::into_error)?;
            file.sync_all()?;
            std::fs::rename(&self.part, to)?;
            Ok(file.metadata()?.len())
        };
        let file = self.file.take().expect("nobody else takes it");
        finish(file).map_err(|e| CliError::io("cannot finish", to, &e))
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // After `publish` the name is gone already; after a failure nobody wants the half file.
        let _ = std::fs::remove_file(&self.part);
    }
}

/// Copies a log that a node may be appending to; its unfinished last record, if any, is not part of the chain.
fn export_log(
    log: &Path,
    target: &mut Target,
    context: &Context,
) -> Result<(ChainId, u64, String), CliError> {
    let mut source = ChainFile::open(log).map_err(|e| log_error(log, e))?;
    let total = source.len_bytes().map_err(|e| log_error(log, e))?;
    let bar = context.out.bar("exporting the chain", total, Unit::Bytes);
    if source.begins_at_snapshot {
        let message = format!(
            "{} begins at a snapshot and does not hold the blocks before it",
            log.display()
        );
        return Err(CliError::new(Class::Input, message)
            .hint("export where the whole chain is, or take its blocks with --remote"));
    }
    let chain = source.chain_id;
    let mut writer = ExportWriter::begin(target.writer(), chain).map_err(|e| log_error(log, e))?;
    let (mut height, mut at) = (0, 0);
    while let Some((mark, payload)) = source
        .next_finished_record()
        .map_err(|e| log_error(log, e))?
    {
        writer.record(&payload).map_err(|e| log_error(log, e))?;
        bar.advance(mark.end - at);
        (height, at) = (mark.height, mark.end);
    }
    writer.finish().map_err(|e| log_error(log, e))?;
    bar.finish();
    Ok((ChainId(chain), height, log.display().to_string()))
}

async fn export_remote(
    target: &mut Target,
    context: &Context,
) -> Result<(ChainId, u64, String), CliError> {
    let url = context.config.chain_url()?;
    let client = ChainClient::connect(&url).await?;
    let head = client.head().await?;
    let bar = context.out.bar("fetching blocks", head.height, Unit::Items);
    let here = Path::new(&url);
    let chain = client.chain_id();
    let mut writer =
        ExportWriter::begin(target.writer(), chain.0).map_err(|e| log_error(here, e))?;
    writer
        .record(&client.genesis_bytes().await?)
        .map_err(|e| log_error(here, e))?;
    for height in 1..=head.height {
        let block = client.block_bytes(height).await?.ok_or_else(|| {
            CliError::new(
                Class::BadData,
                format!(
                    "{url} says it is at block {} and has no block {height}",
                    head.height
                ),
            )
        })?;
        writer.record(&block).map_err(|e| log_error(here, e))?;
        bar.advance(1);
    }
    writer.finish().map_err(|e| log_error(here, e))?;
    bar.finish();
    Ok((chain, head.height, url))
}

fn verify(args: Verify, context: &Context) -> Result<(), CliError> {
    let path = chain_file(args.file, &context.config)?;
    let bar = context.out.bar("checking", file_len(&path)?, Unit::Bytes);
    let mut at = 0;
    let report = audit::verify_file(&path, args.chain_id, &mut |end| {
        bar.advance(end - at);
        at = end;
    });
    bar.finish();
    let report = report.map_err(|e| audit_error(&path, e))?;
    context.out.result(&report, |r| {
        let mut text = format!(
            "{}: chain {} ({:?}), {} blocks up to epoch {}, {} transactions, {} bytes, {}",
            path.display(),
            r.chain_id,
            r.chain_name,
            r.blocks,
            r.epoch,
            r.txs,
            r.bytes,
            if r.complete {
                "with its end mark"
            } else {
                "without an end mark (a block log, or cut)"
            }
        );
        for failure in &r.failures {
            text.push_str(&format!("\nblock {}: {}", failure.height, failure.what));
        }
        text
    })?;
    match report.failures.first() {
        None => Ok(()),
        Some(failure) => Err(CliError::new(
            Class::BadData,
            format!(
                "{}: block {}: {}",
                path.display(),
                failure.height,
                failure.what
            ),
        )
        .hint("get another copy, and keep this one if you did not damage it yourself")),
    }
}

#[derive(Debug, Serialize)]
struct Status {
    chain_id: ChainId,
    name: String,
    running: bool,
    from: String,
    height: u64,
    block: Option<BlockId>,
    epoch: u64,
    epoch_ms: u64,
    clock_held_by: Vec<u64>,
    log_bytes: Option<u64>,
    /// What the last epochs minted and burnt; empty where no node runs (`chain issuance` reads a file).
    last_epochs: Vec<IssuanceRow>,
}

async fn status(context: &Context) -> Result<(), CliError> {
    let live = match context.config.chain_url() {
        Ok(url) => live_status(&url).await,
        Err(error) => Err(error.into()),
    };
    let own = own_log(&context.config);
    let status = match (live, own) {
        (Ok(mut status), own) => {
            status.log_bytes = own
                .and_then(|log| std::fs::metadata(log).ok())
                .map(|m| m.len());
            status
        }
        (Err(_), Some(log)) => stopped_status(&log)?,
        (Err(error), None) => return Err(error),
    };
    context.out.result(&status, |s| {
        let mut text = format!("chain      {} ({:?})\n", s.chain_id, s.name);
        text.push_str(&format!(
            "state      {} ({})\n",
            if s.running { "running" } else { "not running" },
            s.from
        ));
        text.push_str(&format!(
            "height     {}\nepoch      {}, every {} ms\n",
            s.height, s.epoch, s.epoch_ms
        ));
        if let Some(block) = s.block {
            // Not a checkpoint: nothing of it is proven, and a chain that is pinned by it would be this node's.
            text.push_str(&format!("block      {block}, as {} has it\n", s.from));
        }
        if !s.clock_held_by.is_empty() {
            text.push_str(&format!(
                "clock      held for unfinished proofs of {:?}\n",
                s.clock_held_by
            ));
        }
        if let Some(bytes) = s.log_bytes {
            text.push_str(&format!("log        {bytes} bytes\n"));
        }
        text.push_str(&super::explain::rows_text(&s.last_epochs));
        text
    })
}

async fn live_status(url: &str) -> Result<Status, CliError> {
    let client = ChainClient::connect(url).await?;
    let Head {
        height,
        epoch,
        block,
        ..
    } = client.head().await?;
    let info = client.info().clone();
    let leases = client.leases().await.unwrap_or_default();
    Ok(Status {
        chain_id: info.chain_id,
        name: info.name,
        running: true,
        from: url.to_owned(),
        height,
        block: (height > 0).then_some(block),
        epoch: epoch.0,
        epoch_ms: info.epoch_ms,
        clock_held_by: leases.iter().map(|l| l.provider.0).collect(),
        log_bytes: None,
        last_epochs: last_epochs(&client, height).await,
    })
}

/// Issuance and burn of the newest blocks, as far as the node tells in time.
async fn last_epochs(client: &ChainClient, height: u64) -> Vec<IssuanceRow> {
    const BLOCKS: u64 = 5;
    const PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);
    let from = height.saturating_sub(BLOCKS - 1).max(1);
    let mut blocks = client.subscribe_events(from);
    let mut rows = Vec::new();
    while from + (rows.len() as u64) <= height {
        let Ok(Some(block)) = tokio::time::timeout(PATIENCE, blocks.recv()).await else {
            break;
        };
        let Head { height, epoch, .. } = block.head;
        rows.push(IssuanceRow::of(height, epoch, &block.events));
    }
    rows
}

fn stopped_status(log: &Path) -> Result<Status, CliError> {
    let genesis = audit::genesis_of(log).map_err(|e| audit_error(log, e))?;
    let mut file = ChainFile::open(log).map_err(|e| log_error(log, e))?;
    let (mut height, mut newest, mut base) = (0, None, None);
    while let Some((mark, payload)) = file.next_finished_record().map_err(|e| log_error(log, e))? {
        if file.begins_at_snapshot && base.is_none() && mark.height > 0 {
            base = chain_lite::snapshot::base_header(&payload);
            height = mark.height;
            continue;
        }
        (height, newest) = (mark.height, Some(payload));
    }
    let first = base.as_ref().map_or(0, |header| header.height);
    let last = newest
        .filter(|_| height > first)
        .map(|p| chain_lite::block::FinalBlock::from_bytes(&p));
    let (epoch, block) = match last {
        Some(Ok(last)) => (last.block.header.epoch.0, Some(last.block.id())),
        Some(Err(error)) => {
            return Err(CliError::caused(
                Class::BadData,
                format!("block {height} of {}", log.display()),
                &error,
            ));
        }
        None => (base.map_or(0, |header| header.epoch.0), None),
    };
    Ok(Status {
        chain_id: genesis.chain_id(),
        name: genesis.genesis().chain_name.clone(),
        running: false,
        from: log.display().to_string(),
        height,
        block,
        epoch,
        epoch_ms: genesis.genesis().clock.epoch_ms(),
        clock_held_by: vec![],
        log_bytes: Some(file_len(log)?),
        last_epochs: vec![],
    })
}

/// The block log of this home's chain or devnet, if there is one.
pub(super) fn own_log(config: &Config) -> Option<PathBuf> {
    let folders = [
        config.home.chain_dir(),
        config.home.devnet_dir().join("chain"),
    ];
    folders
        .iter()
        .map(|dir| dir.join("blocks.log"))
        .find(|log| log.is_file())
}

/// A chain file as named, or this home's own log.
pub(super) fn chain_file(named: Option<PathBuf>, config: &Config) -> Result<PathBuf, CliError> {
    match named {
        Some(path) => Ok(log_at(&path)),
        None => own_log(config).ok_or_else(|| {
            let message = format!(
                "no chain file was named, and {} has no block log",
                config.home.root().display()
            );
            CliError::new(Class::Input, message)
                .hint("make one with `holdfast chain export FILE` where the chain runs")
        }),
    }
}

fn log_at(path: &Path) -> PathBuf {
    if path.is_dir() {
        path.join("blocks.log")
    } else {
        path.to_owned()
    }
}

pub(super) fn file_len(path: &Path) -> Result<u64, CliError> {
    Ok(std::fs::metadata(path)
        .map_err(|e| CliError::io("cannot read", path, &e))?
        .len())
}

/// A log's error in the command line's words.
pub(super) fn log_error(path: &Path, error: LogError) -> CliError {
    match error {
        LogError::Io { op, source } => CliError::io(op, path, &source),
        LogError::NotALog(_) | LogError::WrongChain { .. } => CliError::new(Class::Input, error)
            .hint("name a file made by `holdfast chain export`, or a node's blocks.log"),
        LogError::Damaged { .. } | LogError::Truncated { .. } => {
            CliError::new(Class::BadData, format!("{}: {error}", path.display()))
                .hint("get another copy of the file")
        }
        LogError::Stopped | LogError::Caller(_) => CliError::new(Class::Bug, error),
    }
}

/// An audit's error in the command line's words.
pub(super) fn audit_error(path: &Path, error: AuditError) -> CliError {
    match error {
        AuditError::File(error) => log_error(path, error),
        AuditError::WrongChain { .. } => {
            CliError::new(Class::Input, format!("{}: {error}", path.display()))
                .hint("check the chain id, or ask for an export of the right network")
        }
        AuditError::Genesis(_) | AuditError::NoGenesis => {
            CliError::new(Class::BadData, format!("{}: {error}", path.display()))
                .hint("get another copy of the file")
        }
    }
}
