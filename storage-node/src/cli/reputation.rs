//! `holdfast chain reputation`: how well each provider has kept what it promised, from an exported chain.
//!
//! Place: beside [`super::explain`]; the numbers are [`chain_lite::reputation`]'s. The whole chain is replayed and verified on the
//! way, as `audit chain` does, and nothing is asked of a node: whoever has the same files gets the same numbers. Receipts of reads come
//! from files that clients hand over ([`chain_lite::reputation::receipt`]); those that do not count are counted and named.

use std::path::PathBuf;

use chain_lite::account::ProviderId;
use chain_lite::audit::{self, AuditReport};
use chain_lite::reputation::receipt::{MAX_FILE_BYTES, Readings, ReceiptFile, SignedReceipt};
use chain_lite::reputation::{Record, Reputation};
use serde::Serialize;

use super::audit::{Source, chain_line, judged, read_bounded, replayed};
use super::{Class, CliError, Context};

/// Most files of receipts: with each at its longest, 200 MiB.
const MAX_FILES: usize = 16;

/// Arguments of `chain reputation`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// This provider only
    #[arg(long, value_name = "ID")]
    provider: Option<ProviderId>,
    /// Receipts of reads, as `get` writes them to client/receipts in its home; may be given several times
    #[arg(long, value_name = "FILE")]
    receipts: Vec<PathBuf>,
    #[command(flatten)]
    source: Source,
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    chain: &'a AuditReport,
    /// Shares are in 65,536ths.
    providers: &'a [Record],
    receipts: &'a Receipts,
}

/// What became of the receipts.
#[derive(Debug, Default, Serialize)]
struct Receipts {
    files: Vec<FileOf>,
    #[serde(flatten)]
    readings: Readings,
}

/// One of their files.
#[derive(Debug, Serialize)]
struct FileOf {
    file: PathBuf,
    receipts: usize,
    /// Records that are no receipt.
    damaged: u64,
    /// Bytes behind the last whole record.
    torn_bytes: usize,
}

/// Runs `chain reputation`.
pub fn run(args: Args, context: &Context) -> Result<(), CliError> {
    // Before the replay, which may take long.
    let (files, given) = read(&args.receipts)?;
    let mut reputation = Reputation::default();
    let source = args.source;
    let (path, replay) = replayed(source.from, source.chain_id, context, &mut reputation)?;
    let unreadable = |why: String| {
        CliError::new(Class::BadData, format!("{}: {why}", path.display()))
            .hint("try another copy of the file")
    };
    let (chain, at) = (&replay.report.chain_id, replay.report.epoch);
    let deals = audit::deals(&replay.state).map_err(|error| unreadable(error.to_string()))?;
    let readings = Readings::judge(&given, chain, at, &deals);
    let records = reputation.finish(at, &readings).map_err(unreadable)?;
    let records = chosen(records, args.provider, &replay.report)?;
    let report = Report {
        chain: &replay.report,
        providers: &records,
        receipts: &Receipts { files, readings },
    };
    context.out.result(&report, text)?;
    judged(&path, &replay.report)
}

/// The receipts of all files.
fn read(paths: &[PathBuf]) -> Result<(Vec<FileOf>, Vec<SignedReceipt>), CliError> {
    if paths.len() > MAX_FILES {
        let message = format!(
            "{} files of receipts, and at most {MAX_FILES} are read",
            paths.len()
        );
        return Err(CliError::new(Class::Usage, message).hint("give those of fewer clients"));
    }
    let (mut files, mut all) = (Vec::new(), Vec::new());
    for path in paths {
        let bytes = read_bounded(path, MAX_FILE_BYTES as u64)?;
        let file = ReceiptFile::read(&bytes).map_err(|error| {
            CliError::new(Class::Input, format!("{}: {error}", path.display()))
                .hint("`get` writes such a file: client/receipts in its home folder")
        })?;
        files.push(FileOf {
            file: path.clone(),
            receipts: file.receipts.len(),
            damaged: file.damaged,
            torn_bytes: file.torn,
        });
        all.extend(file.receipts);
    }
    Ok((files, all))
}

/// All, or the one that was asked for. A chain that does not hold says that first.
fn chosen(
    mut records: Vec<Record>,
    only: Option<ProviderId>,
    chain: &AuditReport,
) -> Result<Vec<Record>, CliError> {
    let Some(only) = only else {
        return Ok(records);
    };
    records.retain(|record| record.provider == only);
    if records.is_empty() && chain.ok() {
        let message = format!(
            "this chain has no provider {only} up to epoch {}",
            chain.epoch
        );
        return Err(CliError::new(Class::Input, message)
            .hint("without --provider the command lists all of them"));
    }
    Ok(records)
}

fn text(report: &Report<'_>) -> String {
    let mut text = String::from(
        "provider     uptime  periods  closes now  published  in time  completed  slashed  faults    score\n",
    );
    for record in report.providers {
        let (closes, deals) = (record.under_way, record.deals);
        text.push_str(&format!(
            "{:<9}  {:>8}  {:>7}  {:>10}  {:>9}  {:>7}  {:>9}  {:>7}  {:>6}  {:>7}\n",
            record.provider.0,
            record.uptime,
            record.periods,
            format!("{}/{}", closes.proven, closes.due),
            deals.published,
            deals.activated,
            deals.completed,
            deals.slashed,
            record.fault_episodes,
            record.score,
        ));
    }
    if report.providers.is_empty() {
        text.push_str("none       no provider has registered on this chain yet\n");
    }
    if report.providers.iter().any(|record| record.periods == 0) {
        text.push_str("note       an uptime begins at 0 and moves when a proving period with a due close is over\n");
    }
    text + &reads_text(report) + &chain_line(report.chain)
}

/// What the receipts say, and what became of them.
fn reads_text(report: &Report<'_>) -> String {
    let Receipts { files, readings } = report.receipts;
    if files.is_empty() {
        return "reads      no receipts were given (--receipts FILE), so the score is the uptime alone\n".into();
    }
    let mut text = String::from(
        "provider   receipts  clients   success  ttfb p50, ms  ttfb p95, ms  MiB/s p50\n",
    );
    for record in report.providers {
        let Some(said) = record.retrieval else {
            text.push_str(&format!("{:<9}  none\n", record.provider.0));
            continue;
        };
        text.push_str(&format!(
            "{:<9}  {:>8}  {:>7}  {:>8}  {:>12}  {:>12}  {:>9}\n",
            record.provider.0,
            said.receipts,
            said.clients,
            said.success_rate,
            tenths(said.ttfb_p50_us, 1_000),
            tenths(said.ttfb_p95_us, 1_000),
            tenths(said.kib_per_s_p50, 1_024),
        ));
    }
    if report
        .providers
        .iter()
        .any(|record| record.retrieval.is_none())
    {
        text.push_str("note       where no receipt counts the score is the uptime alone\n");
    }
    let given: usize = files.iter().map(|file| file.receipts).sum();
    text.push_str(&format!(
        "receipts   {} of {given} count\n",
        readings.counted
    ));
    for (why, count) in &readings.refused {
        text.push_str(&format!("           not {count} {why}\n"));
    }
    for file in files.iter().filter(|f| f.damaged > 0 || f.torn_bytes > 0) {
        text.push_str(&format!(
            "note       {}: {} records are damaged, and {} bytes at its end are no whole one; both are ignored\n",
            file.file.display(),
            file.damaged,
            file.torn_bytes,
        ));
    }
    text
}

/// In units of so many, with one digit cut off.
fn tenths(value: Option<u64>, unit: u64) -> String {
    let Some(value) = value else {
        return "-".into();
    };
    format!("{}.{}", value / unit, value % unit * 10 / unit)
}
