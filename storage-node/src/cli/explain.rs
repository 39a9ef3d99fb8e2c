//! Explanations from the exported chain: `holdfast audit explain-fault`, `holdfast chain explain-reward`, `holdfast chain issuance`.
//!
//! Each replays a chain file from genesis, verifying everything on the way as `audit chain` does, and prints a sentence per step;
//! a figure that cannot be reproduced makes the command fail with exit code 6. Nothing is asked of a node. The formulas are
//! [`chain_lite::explain`]'s.

use std::str::FromStr;

use chain_lite::account::ProviderId;
use chain_lite::audit::AuditReport;
use chain_lite::explain::{Explanation, FaultExplainer, Issuance, IssuanceRow, RewardExplainer};
use chain_lite::units::{Epoch, TokenAmount};
use prover::SectorNumber;
use serde::Serialize;

use super::audit::{Source, chain_line, judged, replayed};
use super::{Class, CliError, Context};

/// `PROVIDER/SECTOR` or `PROVIDER/SECTOR@EPOCH`.
#[derive(Clone, Copy, Debug)]
struct FaultId {
    provider: ProviderId,
    sector: SectorNumber,
    epoch: Option<Epoch>,
}

impl FromStr for FaultId {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bad =
            || format!("{text:?} is no fault: write PROVIDER/SECTOR or PROVIDER/SECTOR@EPOCH");
        let (name, epoch) = match text.split_once('@') {
            Some((name, epoch)) => (name, Some(Epoch(epoch.parse().map_err(|_| bad())?))),
            None => (text, None),
        };
        let (provider, sector) = name.split_once('/').ok_or_else(bad)?;
        Ok(Self {
            provider: provider.parse().map_err(|_| bad())?,
            sector: SectorNumber(sector.parse().map_err(|_| bad())?),
            epoch,
        })
    }
}

/// Arguments of `audit explain-fault`.
#[derive(Debug, clap::Args)]
pub struct Fault {
    /// PROVIDER/SECTOR for all faults of a sector, PROVIDER/SECTOR@EPOCH for what one epoch did
    id: FaultId,
    #[command(flatten)]
    source: Source,
}

/// Arguments of `chain explain-reward`.
#[derive(Debug, clap::Args)]
pub struct Reward {
    /// The epoch
    epoch: u64,
    #[command(flatten)]
    source: Source,
}

/// Arguments of `chain issuance`.
#[derive(Debug, clap::Args)]
pub struct IssuanceArgs {
    /// Print the last N epochs only
    #[arg(long, value_name = "N")]
    last: Option<usize>,
    #[command(flatten)]
    source: Source,
}

#[derive(Debug, Serialize)]
struct Explained<'a> {
    chain: &'a AuditReport,
    holds: bool,
    #[serde(flatten)]
    explanation: &'a Explanation,
}

/// Runs `audit explain-fault`.
pub fn fault(args: Fault, context: &Context) -> Result<(), CliError> {
    let FaultId {
        provider,
        sector,
        epoch,
    } = args.id;
    let mut explainer = FaultExplainer::new(provider, sector, epoch);
    let source = args.source;
    let (path, replay) = replayed(source.from, source.chain_id, context, &mut explainer)?;
    let explanation = explainer.finish();
    if explanation.steps.is_empty() && replay.report.ok() {
        let message =
            format!("sector {sector} of provider {provider} has no fault here to explain");
        return Err(CliError::new(Class::Input, message)
            .hint("`holdfast audit sector` lists what happened to a sector, with the epochs"));
    }
    print(context, &replay.report, &explanation)?;
    judged(&path, &replay.report)
}

/// Runs `chain explain-reward`.
pub fn reward(args: Reward, context: &Context) -> Result<(), CliError> {
    let mut explainer = RewardExplainer::new(Epoch(args.epoch));
    let source = args.source;
    let (path, replay) = replayed(source.from, source.chain_id, context, &mut explainer)?;
    let explanation = explainer.finish();
    if explanation.steps.is_empty() && replay.report.ok() {
        let message = format!(
            "the file ends at epoch {}, before epoch {}",
            replay.report.epoch, args.epoch
        );
        return Err(
            CliError::new(Class::Input, message).hint("name an earlier epoch, or export again")
        );
    }
    print(context, &replay.report, &explanation)?;
    judged(&path, &replay.report)
}

fn print(
    context: &Context,
    chain: &AuditReport,
    explanation: &Explanation,
) -> Result<(), CliError> {
    let holds = explanation.holds();
    let explained = Explained {
        chain,
        holds,
        explanation,
    };
    context.out.result(&explained, |e| {
        let line = |step: &chain_lite::explain::Step| {
            format!("{} {}\n", if step.holds { "ok " } else { "NOT" }, step.text)
        };
        let steps: String = e.explanation.steps.iter().map(line).collect();
        steps + &chain_line(e.chain)
    })?;
    if !holds {
        let why = match &explanation.failure {
            Some(failure) => failure.clone(),
            None => "a figure of the chain could not be reproduced".into(),
        };
        return Err(CliError::new(Class::BadData, why)
            .hint("the steps marked NOT differ; keep the file, it is your evidence"));
    }
    Ok(())
}

#[derive(Debug, Serialize)]
struct IssuanceReport<'a> {
    chain: &'a AuditReport,
    minted: TokenAmount,
    burnt: TokenAmount,
    epochs: &'a [IssuanceRow],
}

/// Runs `chain issuance`.
pub fn issuance(args: IssuanceArgs, context: &Context) -> Result<(), CliError> {
    let mut issuance = Issuance::default();
    let source = args.source;
    let (path, replay) = replayed(source.from, source.chain_id, context, &mut issuance)?;
    let skip = args
        .last
        .map_or(0, |last| issuance.rows.len().saturating_sub(last));
    let report = IssuanceReport {
        chain: &replay.report,
        minted: replay.report.totals.minted,
        burnt: replay.report.totals.burnt,
        epochs: issuance.rows.get(skip..).unwrap_or_default(),
    };
    context.out.result(&report, |r| {
        rows_text(r.epochs)
            + &format!(
                "in all     {} minted, {} burnt (tokens)\n",
                r.minted.in_tokens(),
                r.burnt.in_tokens()
            )
            + &chain_line(r.chain)
    })?;
    judged(&path, &replay.report)
}

/// A line for each epoch, in tokens.
pub(super) fn rows_text(rows: &[IssuanceRow]) -> String {
    let line = |row: &IssuanceRow| {
        format!(
            "epoch {:>8}  minted {}, burnt {}\n",
            row.epoch,
            row.minted.in_tokens(),
            row.burnt.in_tokens()
        )
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_named_by_its_sector_and_its_epoch() {
        let named = |text: &str| {
            let id: FaultId = text.parse().ok()?;
            Some((id.provider.0, id.sector.0, id.epoch.map(|epoch| epoch.0)))
        };
        assert_eq!(named("1000/7"), Some((1000, 7, None)));
        assert_eq!(named("1000/7@42"), Some((1000, 7, Some(42))));
        for bad in [
            "", "1000", "1000/", "/7", "1000/7@", "1000/7@x", "1000/7/8", "-1/7",
        ] {
            assert_eq!(named(bad), None, "{bad:?}");
        }
    }
}
