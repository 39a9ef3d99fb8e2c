//! `holdfast status ID`: k-of-n health, the rung of each piece, what is proven next, where the money is.
//!
//! Every holder is challenged first ([`crate::client::possession`]): a health that nobody looked at would be none, and it costs a
//! second. `--recorded` shows what earlier challenges left, with its age, and asks no provider.

use super::account::connect;
use super::args::{KeyArgs, TrustArgs};
use super::{CliError, Context};
use crate::client::health::{Health, PieceHealth, Rung, State, health};
use crate::client::{catalog, possession};

/// Arguments of `status`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The object's id, or its first digits
    id: String,
    /// Challenge nobody now; show what earlier challenges showed, with its age
    #[arg(long)]
    recorded: bool,
    #[command(flatten)]
    keys: KeyArgs,
    #[command(flatten)]
    trust: TrustArgs,
}

/// Runs the command.
pub async fn run(args: Args, context: &Context) -> Result<(), CliError> {
    let client = connect(context, &args.keys, &args.trust).await?;
    let entry = catalog::find(&client, &args.id).await?;
    let segments = match catalog::manifest(&client, &entry).await {
        Ok(manifest) => Some(manifest.segments()),
        Err(error) => {
            tracing::warn!(%error, "the manifest is not readable now; segments are counted from deals");
            None
        }
    };
    let shown = match args.recorded {
        true => possession::recorded(&client.home, &entry),
        false => possession::check(&client, &entry).await?,
    };
    let health = health(&client.chain, &entry, segments, &shown).await?;
    client.network.close().await;
    context.out.result(&health, text)
}

fn text(health: &Health) -> String {
    let state = match health.state {
        State::Healthy => {
            "healthy: every shard is held by a holder of its own, with young evidence for each"
        }
        State::Degraded => {
            "degraded: some shards are gone, unseen or in one hand with others, more than enough are left"
        }
        State::Critical => {
            "critical: one more loss, of a holder or of several that count as one, is final"
        }
        State::Unverified => {
            "unverified: its deals are open, and too few pieces have evidence that is young enough"
        }
        State::Lost => "lost: too few shards are held under open deals",
    };
    let epoch = |epoch: Option<chain_lite::units::Epoch>| {
        epoch.map_or("-".to_owned(), |epoch| epoch.to_string())
    };
    let mut text = format!(
        "object  {}\nstate   {state}\nshards  at least {} of {} seen in each of {} segments, {} needed, {} owed; manifest {} copies\n\
         holders at least {} of {} that share no owner and no network\n\
         drawn   by the beacon of {}\n\
         next    window closes at epoch {}; paid until epoch {}; it is epoch {} now\n\
         money   locked {}  paid {}  refunded {} tokens\n\n{:<10} {:>5} {:>9}  {:<10} {:>8} {:>7} {:>9} {:>9}\n",
        health.object,
        health.weakest,
        health.n,
        health.segments,
        health.k,
        health.owed,
        health.manifest_copies,
        health.independent,
        health.n,
        drawn(&health.drawn),
        epoch(health.next_deadline),
        epoch(health.expires),
        health.now,
        health.locked.in_tokens(),
        health.paid.in_tokens(),
        health.refunded.in_tokens(),
        "PIECE",
        "SHARD",
        "PROVIDER",
        "RUNG",
        "EVIDENCE",
        "SECTOR",
        "WINDOW",
        "UNTIL",
    );
    for piece in &health.pieces {
        text.push_str(&row(piece));
    }
    text.push_str(&format!(
        "\nEVIDENCE is its age in epochs; older than {} it counts no more, a sector's counts until its window closes",
        health.evidence_limit.0
    ));
    text
}

/// Of which epochs' beacons the holders are draws.
fn drawn(epochs: &std::collections::BTreeSet<chain_lite::units::Epoch>) -> String {
    let all: Vec<String> = epochs.iter().map(|epoch| epoch.to_string()).collect();
    match all.is_empty() {
        true => "an epoch that its deals do not name".to_owned(),
        false => format!("epoch {}", all.join(", ")),
    }
}

fn row(piece: &PieceHealth) -> String {
    let rung = match piece.rung {
        Rung::Lost => "lost",
        Rung::Faulty => "faulty",
        Rung::Claimed => "claimed",
        Rung::Received => "received",
        Rung::Possession => "possession",
        Rung::Sealed => "sealed",
    };
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let clumped = match piece.counts_with {
        None => String::new(),
        Some(other) if other == piece.provider => {
            "           counts as one with another piece of its own\n".to_owned()
        }
        Some(other) => {
            format!("           counts as one with {other}: the same owner or network\n")
        }
    };
    // What a provider said is quoted, so that it cannot steer the terminal.
    let failed = piece.challenge_failed.as_ref();
    let failed = failed.map_or(String::new(), |reason| {
        format!(
            "           failed its newest challenge: {}\n",
            reason.escape_debug()
        )
    });
    format!(
        "{:<10} {:>5} {:>9}  {:<10} {:>8} {:>7} {:>9} {:>9}\n{clumped}{failed}",
        format!("{}/{}", piece.kind, piece.group),
        piece.index,
        piece.provider.to_string(),
        rung,
        or_dash(piece.evidence_age.map(|age| age.0.to_string())),
        or_dash(piece.sector.map(|sector| sector.to_string())),
        or_dash(piece.next_deadline.map(|epoch| epoch.to_string())),
        piece.end.to_string(),
    )
}
