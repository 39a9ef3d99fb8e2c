//! `holdfast ls`: the objects of this account, from the chain alone.
//!
//! States rest on the chain and on recorded challenges; `status` makes new ones. Names are encrypted in manifests; one that cannot be read shows as `?` and costs no error.

use serde::Serialize;

use super::account::connect;
use super::args::{KeyArgs, TrustArgs};
use super::output::human_bytes;
use super::{CliError, Context};
use crate::client::health::{Health, Picture, State};
use crate::client::{catalog, possession};
use crate::object::manifest::ObjectId;

/// Arguments of `ls`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    keys: KeyArgs,
    #[command(flatten)]
    trust: TrustArgs,
}

/// One line.
#[derive(Debug, Serialize)]
struct Line {
    object: ObjectId,
    name: Option<String>,
    bytes: Option<u64>,
    state: State,
    k: usize,
    n: usize,
    weakest: usize,
    segments: u64,
    expires: Option<chain_lite::units::Epoch>,
    paid: chain_lite::units::TokenAmount,
    locked: chain_lite::units::TokenAmount,
}

/// Runs the command.
pub async fn run(args: Args, context: &Context) -> Result<(), CliError> {
    let client = connect(context, &args.keys, &args.trust).await?;
    let entries = catalog::list(&client.chain, &client.wallet.address()).await?;
    let picture = Picture::take(&client.chain, &entries).await?;
    let mut lines = Vec::with_capacity(entries.len());
    for entry in entries {
        let manifest = match catalog::manifest(&client, &entry).await {
            Ok(manifest) => Some(manifest),
            Err(error) => {
                tracing::warn!(object = %entry.object, %error, "manifest not readable now");
                None
            }
        };
        let segments = manifest.as_ref().map(|manifest| manifest.segments());
        let shown = possession::recorded(&client.home, &entry);
        let health = picture.judge(&entry, segments, &shown);
        lines.push(line(health, manifest.map(|m| (m.name, m.plain_len))));
    }
    client.network.close().await;
    context.out.result(&lines, |lines| table(lines))
}

fn line(health: Health, label: Option<(String, u64)>) -> Line {
    let (name, bytes) = label.unzip();
    Line {
        object: health.object,
        name,
        bytes,
        state: health.state,
        k: health.k,
        n: health.n,
        weakest: health.weakest,
        segments: health.segments,
        expires: health.expires,
        paid: health.paid,
        locked: health.locked,
    }
}

fn table(lines: &[Line]) -> String {
    if lines.is_empty() {
        return "nothing is stored under this account yet; `holdfast put FILE` stores something"
            .into();
    }
    let mut text = format!(
        "{:<16}  {:>10}  {:<10}  {:>7}  {:>9}  NAME\n",
        "ID", "SIZE", "STATE", "SHARDS", "EXPIRES"
    );
    for line in lines {
        let state = match line.state {
            State::Healthy => "healthy",
            State::Degraded => "degraded",
            State::Critical => "critical",
            State::Unverified => "unverified",
            State::Lost => "lost",
        };
        // A label may hold anything its author typed; escapes keep it from steering the terminal.
        let name = line
            .name
            .as_deref()
            .map_or("?".to_owned(), |name| name.escape_debug().to_string());
        text.push_str(&format!(
            "{:<16}  {:>10}  {:<10}  {:>7}  {:>9}  {}\n",
            &line.object.to_string()[..16],
            line.bytes.map_or("?".to_owned(), human_bytes),
            state,
            format!("{}/{}", line.weakest, line.n),
            line.expires
                .map_or("-".to_owned(), |epoch| epoch.to_string()),
            name,
        ));
    }
    if lines.iter().any(|line| line.state == State::Unverified) {
        text.push_str(
            "unverified: no evidence young enough was recorded; `holdfast status ID` challenges the holders now\n",
        );
    }
    text
}
