//! `holdfast status ID`: k-of-n health, the rung of each piece, what is proven next, where the money is.

use super::account::connect;
use super::args::KeyArgs;
use super::{CliError, Context};
use crate::client::catalog;
use crate::client::health::{Health, PieceHealth, Rung, State, health};

/// Arguments of `status`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The object's id, or its first digits
    id: String,
    #[command(flatten)]
    keys: KeyArgs,
}

/// Runs the command.
pub async fn run(args: Args, context: &Context) -> Result<(), CliError> {
    let client = connect(context, &args.keys).await?;
    let entry = catalog::find(&client, &args.id).await?;
    let segments = match catalog::manifest(&client, &entry).await {
        Ok(manifest) => Some(manifest.segments()),
        Err(error) => {
            tracing::warn!(%error, "the manifest is not readable now; segments are counted from deals");
            None
        }
    };
    let health = health(&client.chain, &entry, segments).await?;
    client.network.close().await;
    context.out.result(&health, text)
}

fn text(health: &Health) -> String {
    let state = match health.state {
        State::Healthy => "healthy: every shard is held",
        State::Degraded => "degraded: some shards are gone, more than enough are left",
        State::Critical => "critical: one more loss is final",
        State::Lost => "lost: too few shards are held under open deals",
    };
    let epoch = |epoch: Option<chain_lite::units::Epoch>| {
        epoch.map_or("-".to_owned(), |epoch| epoch.to_string())
    };
    let mut text = format!(
        "object  {}\nstate   {state}\nshards  at least {} of {} in each of {} segments, {} needed; manifest {} copies\n\
         next    window closes at epoch {}; paid until epoch {}\n\
         money   locked {}  paid {}  refunded {} tokens\n\n{:<10} {:>5} {:>9}  {:<9} {:>7} {:>9} {:>9}\n",
        health.object,
        health.weakest,
        health.n,
        health.segments,
        health.k,
        health.manifest_copies,
        epoch(health.next_deadline),
        epoch(health.expires),
        health.locked.in_tokens(),
        health.paid.in_tokens(),
        health.refunded.in_tokens(),
        "PIECE",
        "SHARD",
        "PROVIDER",
        "RUNG",
        "SECTOR",
        "WINDOW",
        "UNTIL",
    );
    for piece in &health.pieces {
        text.push_str(&row(piece));
    }
    text
}

fn row(piece: &PieceHealth) -> String {
    let rung = match piece.rung {
        Rung::Lost => "lost",
        Rung::Faulty => "faulty",
        Rung::Received => "received",
        Rung::Sealed => "sealed",
    };
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    format!(
        "{:<10} {:>5} {:>9}  {:<9} {:>7} {:>9} {:>9}\n",
        format!("{}/{}", piece.kind, piece.group),
        piece.index,
        piece.provider.to_string(),
        rung,
        or_dash(piece.sector.map(|sector| sector.to_string())),
        or_dash(piece.next_deadline.map(|epoch| epoch.to_string())),
        piece.end.to_string(),
    )
}
