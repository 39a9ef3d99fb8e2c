//! `holdfast repair ID`: gives shards whose deals are over to new providers, from any k that are left.

use std::sync::Arc;

use chain_lite::units::EpochCount;

use super::account::connect;
use super::args::{KeyArgs, TrustArgs};
use super::{CliError, Context};
use crate::client::put::PutEvent;
use crate::client::put::repair::{Repaired, repair};

/// Arguments of `repair`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The object's id, or its first digits
    id: String,
    /// How long the new providers are paid to keep it [default: thirty proving periods]
    #[arg(long, value_name = "EPOCHS")]
    epochs: Option<u64>,
    #[command(flatten)]
    keys: KeyArgs,
    #[command(flatten)]
    trust: TrustArgs,
}

/// Runs the command.
pub async fn run(args: Args, context: &Context) -> Result<(), CliError> {
    let client = connect(context, &args.keys, &args.trust).await?;
    let out = context.out.clone();
    let hear = move |event| match event {
        PutEvent::Replaced { from, to, reason } => out.say(format_args!(
            "provider {to} takes the shard of provider {from}: {reason}"
        )),
        PutEvent::Waiting {
            provider, reason, ..
        } => out.say(format_args!("waiting for provider {provider}: {reason}")),
        PutEvent::ReadBack(provider) => out.say(format_args!(
            "provider {provider} holds a restored shard and serves it"
        )),
        _ => {}
    };
    let epochs = args.epochs.map(EpochCount);
    let repaired = repair(Arc::clone(&client), &args.id, epochs, Arc::new(hear)).await;
    client.network.close().await;
    context.out.result(&repaired?, summary)
}

fn summary(repaired: &Repaired) -> String {
    if repaired.moved.is_empty() {
        return "every shard is under an open deal; nothing to repair".into();
    }
    format!(
        "{} pieces restored and stored again, at most {} tokens; the id is unchanged",
        repaired.moved.len(),
        repaired.max_cost.in_tokens()
    )
}
