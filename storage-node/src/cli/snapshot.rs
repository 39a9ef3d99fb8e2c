//! `holdfast chain snapshot`: the whole state of a chain in one file, to join it without its history.
//!
//! `export` reads this home's stopped chain, or copies the newest snapshot that its running node has made; `import` fills an empty home, once the file's block is proven final and its leaves
//! give the root that this block certifies ([`chain_lite::snapshot`]). What is trusted comes from outside the file: the chain's id,
//! and either genesis with the trust period or a checkpoint.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use chain_lite::account::ChainId;
use chain_lite::audit::{self, Groth16Verifier};
use chain_lite::block::BlockId;
use chain_lite::ledger::{Ledger, LedgerError};
use chain_lite::light::LightError;
use chain_lite::snapshot::{self, Anchor, Report, SnapshotError};
use chain_lite::vfs::OsVfs;
use serde::Serialize;

use super::chain::{Target, audit_error, chain_file, check_target, file_len};
use super::output::Unit;
use super::{Class, CliError, Context};

/// Arguments of `chain snapshot`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Write the state of this home's chain into one file; from a running node, the newest snapshot that it made by itself
    Export(Export),
    /// Begin a chain in this home with a snapshot; it then goes on from there
    Import(Import),
}

#[derive(Debug, clap::Args)]
struct Export {
    /// File to write
    #[arg(value_name = "FILE")]
    to: PathBuf,
    /// Replace the file if it exists
    #[arg(long)]
    force: bool,
}

#[derive(Debug, clap::Args)]
struct Import {
    /// Snapshot to read
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The chain, from somebody you trust
    #[arg(long, value_name = "ID")]
    chain_id: ChainId,
    /// A block of the snapshot's height or the one after it, from somebody you trust [default: trust the genesis validators]
    #[arg(long, value_name = "HEIGHT:BLOCK_ID")]
    checkpoint: Option<Checkpoint>,
    /// Without a checkpoint: how old the chain's genesis may be, if less than light clients allow [default: 14 days; any age with a
    /// single validator]
    #[arg(long, value_name = "DAYS", conflicts_with = "checkpoint")]
    trust_days: Option<u32>,
}

/// A block that the caller trusts.
#[derive(Clone, Copy, Debug)]
struct Checkpoint {
    height: u64,
    id: BlockId,
}

impl FromStr for Checkpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || "write HEIGHT:BLOCK_ID, the id as 64 hexadecimal digits".to_owned();
        let (height, id) = text.split_once(':').ok_or_else(wrong)?;
        let height = height.parse().map_err(|_| wrong())?;
        let mut bytes = [0; 32];
        hex::decode_to_slice(id, &mut bytes).map_err(|_| wrong())?;
        let id = BlockId(bytes);
        Ok(Self { height, id })
    }
}

/// Runs the command.
pub fn run(args: Args, context: &Context) -> Result<(), CliError> {
    match args.action {
        Action::Export(args) => export(args, context),
        Action::Import(args) => import(args, context),
    }
}

#[derive(Debug, Serialize)]
struct Done {
    file: PathBuf,
    #[serde(flatten)]
    report: Report,
}

fn export(args: Export, context: &Context) -> Result<(), CliError> {
    check_target(&args.to, args.force)?;
    let log = chain_file(None, &context.config)?;
    let home = log.parent().unwrap_or(Path::new("."));
    let genesis = audit::genesis_of(&log).map_err(|e| audit_error(&log, e))?;
    let verifier = Arc::new(Groth16Verifier::new(genesis.keys().clone()));
    let ledger = match Ledger::open(home, genesis.genesis(), verifier) {
        Err(locked @ LedgerError::Locked { .. }) => {
            let failed = |e| snapshot_error(home, e);
            let made = snapshot::newest(home).map_err(failed)?;
            let (file, report) = made.ok_or_else(|| failed(locked.into()))?;
            return copy(&file, report, args.to, context);
        }
        opened => opened.map_err(|e| snapshot_error(home, e.into()))?,
    };
    let bar = context.out.bar("writing the state", 0, Unit::Bytes);
    let mut at = 0;
    let report = snapshot::export_file(&OsVfs, &args.to, &ledger, &mut |bytes| {
        bar.advance(bytes - at);
        at = bytes;
    });
    bar.finish();
    let report = report.map_err(|e| snapshot_error(&args.to, e))?;
    exported(report, args.to, context)
}

/// Copies what a running node wrote. It was read whole just now; an import judges every byte again.
fn copy(from: &Path, report: Report, to: PathBuf, context: &Context) -> Result<(), CliError> {
    let failed = |e: std::io::Error| CliError::io("cannot copy", from, &e);
    let mut source = std::fs::File::open(from).map_err(failed)?;
    let mut target = Target::create(&to)?;
    let copied = std::io::copy(&mut source, target.writer()).map_err(failed)?;
    if copied != report.bytes {
        let text = format!("{} changed while it was copied", from.display());
        return Err(CliError::new(Class::BadData, text).hint("try again"));
    }
    target.publish(&to)?;
    exported(report, to, context)
}

fn exported(report: Report, file: PathBuf, context: &Context) -> Result<(), CliError> {
    let done = Done { file, report };
    context.out.result(&done, |d| {
        let r = &d.report;
        format!(
            "wrote the state after block {} of chain {}: {} leaves, {} bytes, into {}\ntake it in elsewhere: holdfast --home NEW chain snapshot import {} --chain-id {} --checkpoint {}:{}",
            r.height, r.chain_id, r.leaves, r.bytes, d.file.display(), d.file.display(), r.chain_id, r.height, r.id
        )
    })
}

fn import(args: Import, context: &Context) -> Result<(), CliError> {
    let home = context.config.home.chain_dir();
    let anchor = match args.checkpoint {
        Some(Checkpoint { height, id }) => Anchor::Checkpoint { height, id },
        None => Anchor::Genesis {
            trust_period_ms: args
                .trust_days
                .map_or(u64::MAX, |days| u64::from(days) * 24 * 3_600_000),
        },
    };
    let bar = context
        .out
        .bar("copying the snapshot", file_len(&args.file)?, Unit::Bytes);
    let mut at = 0;
    let report = snapshot::import(
        &home,
        &args.file,
        args.chain_id,
        anchor,
        now_ms(),
        &mut |bytes| {
            bar.advance(bytes - at);
            at = bytes;
        },
    );
    bar.finish();
    let report = report.map_err(|e| snapshot_error(&args.file, e))?;
    let done = Done {
        file: args.file,
        report,
    };
    context.out.result(&done, |d| {
        let r = &d.report;
        format!(
            "chain {} begins in {} after block {} ({}), with {} leaves of state\nblocks up to {} are not here; the next ones come from the chain's other nodes",
            r.chain_id, home.display(), r.height, r.id, r.leaves, r.height
        )
    })
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

/// A snapshot's error in the command line's words.
fn snapshot_error(path: &Path, error: SnapshotError) -> CliError {
    let said = |class| CliError::new(class, format!("{}: {error}", path.display()));
    match &error {
        SnapshotError::Io { what, path, source } => CliError::io(what, path, source),
        SnapshotError::Ledger(LedgerError::Locked { .. }) => said(Class::Input)
            .hint("the node that runs here has made no snapshot yet (`chain run --snapshot-every`): wait for one, or stop the node"),
        SnapshotError::Occupied(_) => {
            said(Class::Input).hint("choose another --home for the new node")
        }
        SnapshotError::WrongChain { .. } | SnapshotError::OtherHeight { .. } => {
            said(Class::Input).hint("check the id and the height with somebody you trust")
        }
        SnapshotError::Untrusted(LightError::Expired) => said(Class::Refused)
            .hint("the genesis is too old to vouch for it; name a block from somebody you trust with --checkpoint"),
        SnapshotError::Stopped => said(Class::Refused).hint("ask for it again"),
        SnapshotError::NotYet(_) => said(Class::Refused).hint("let the chain make a block more"),
        SnapshotError::Ledger(_) | SnapshotError::Log(_) | SnapshotError::Store(_) => {
            said(Class::Machine).hint("see the message; nothing was changed in the chain")
        }
        SnapshotError::File(_)
        | SnapshotError::Genesis(_)
        | SnapshotError::Untrusted(_)
        | SnapshotError::Root => said(Class::BadData).hint(
            "get another copy, or a checkpoint from somebody you trust; nothing was taken in",
        ),
    }
}
