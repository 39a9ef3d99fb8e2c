//! `holdfast put`: encrypt, code, place, push, publish, read back — and only then say *stored*.
//!
//! Walk: the first row, forward: [`crate::client::put`] does it.
//!
//! Arguments and words; the work is [`crate::client::put`].

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use chain_lite::units::{EpochCount, TokenAmount};

use super::account::connect;
use super::args::{KeyArgs, TrustArgs};
use super::output::{Bar, Unit, human_bytes};
use super::{CliError, Context, Output};
use crate::client::put::{PutEvent, PutRequest, Stored, put};
use crate::object::erasure::Scheme;

/// Arguments of `put`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The file to store
    file: PathBuf,
    /// Providers that are enough to read it back
    #[arg(short, long, default_value_t = 2, value_name = "N")]
    k: usize,
    /// Further providers, any of which may be lost
    #[arg(short, long, default_value_t = 2, value_name = "N")]
    m: usize,
    /// Label, encrypted [default: the file's name]
    #[arg(long)]
    name: Option<String>,
    /// How long providers are paid to keep it [default: thirty proving periods]
    #[arg(long, value_name = "EPOCHS")]
    epochs: Option<u64>,
    /// Highest price accepted, in tokens per GiB and epoch
    #[arg(long, value_name = "TOKENS", value_parser = TokenAmount::parse_tokens)]
    max_price: Option<TokenAmount>,
    /// Store another copy even if this very file is stored already
    #[arg(long)]
    again: bool,
    /// Take the pieces' padded bytes from this account's DataCap: providers earn more for such deals
    #[arg(long)]
    verified: bool,
    #[command(flatten)]
    keys: KeyArgs,
    #[command(flatten)]
    trust: TrustArgs,
}

/// Runs the command.
pub async fn run(args: Args, context: &Context) -> Result<(), CliError> {
    let scheme = Scheme::new(args.k, args.m)
        .map_err(|error| CliError::new(super::Class::Usage, error).hint("try -k 2 -m 2"))?;
    // Looked at before anything is dialled: a typing error should not need a network to be told.
    let probe = crate::client::encode::Source::open(&args.file)?;
    let request = PutRequest {
        source: args.file,
        name: args.name,
        scheme,
        duration: args.epochs.map(EpochCount),
        max_price_per_gib: args.max_price,
        again: args.again,
        verified: args.verified,
    };
    drop(probe);
    let client = connect(context, &args.keys, &args.trust).await?;
    let words = Words::new(context.out.clone());
    let stored = put(
        Arc::clone(&client),
        request,
        Arc::new(move |event| words.hear(event)),
    )
    .await;
    client.network.close().await;
    context.out.result(&stored?, summary)
}

fn summary(stored: &Stored) -> String {
    let verb = match (stored.already, stored.resumed) {
        (true, _) => "already stored",
        (false, true) => "stored (resumed)",
        (false, false) => "stored",
    };
    format!(
        "{verb}: {} ({}) on {} providers; any {} of {} shards give it back\n\
         id    {}\n\
         cost  at most {} tokens for {} deals; only proven periods are paid\n\
         get   holdfast get {}",
        stored.name,
        human_bytes(stored.bytes),
        stored.providers.len(),
        stored.k,
        stored.k + stored.m,
        stored.object,
        stored.max_cost.in_tokens(),
        stored.deals,
        stored.object,
    )
}

/// Turns events into bars and sentences.
struct Words {
    out: Output,
    bars: Mutex<Option<Bars>>,
}

struct Bars {
    coded: Bar,
    sent: Bar,
    verified: Bar,
}

impl Words {
    fn new(out: Output) -> Self {
        Self {
            out,
            bars: Mutex::new(None),
        }
    }

    fn hear(&self, event: PutEvent) {
        match event {
            PutEvent::Resumed { stored } => self.out.say(format_args!(
                "an interrupted put of this file goes on; {stored} segments are stored already"
            )),
            PutEvent::Planned {
                bytes,
                segments,
                scheme,
                providers,
                cost,
            } => {
                self.out.say(format_args!(
                    "{} in {segments} segments of {scheme} shards; {providers} providers answer; \
                     at most {} tokens",
                    human_bytes(bytes),
                    cost.in_tokens()
                ));
                let shards = segments.saturating_mul(scheme.n() as u64);
                let mut bars = self.bars.lock().unwrap_or_else(PoisonError::into_inner);
                *bars = Some(Bars {
                    coded: self.out.bar("encrypted and coded", bytes, Unit::Bytes),
                    sent: self.out.bar("shards acknowledged", shards, Unit::Items),
                    verified: self.out.bar("shards read back", shards, Unit::Items),
                });
            }
            PutEvent::Funding(amount) => self.out.say(format_args!(
                "moving {} tokens to escrow; what is not earned comes back there",
                amount.in_tokens()
            )),
            PutEvent::Coded(bytes) => self.with(|bars| bars.coded.advance(bytes)),
            PutEvent::Acknowledged { .. } => self.with(|bars| bars.sent.advance(1)),
            PutEvent::ReadBack(_) => self.with(|bars| bars.verified.advance(1)),
            PutEvent::Published(provider) => {
                tracing::debug!(%provider, "deal published");
            }
            PutEvent::SegmentStored(segment) => tracing::info!(segment, "segment stored"),
            PutEvent::Replaced { from, to, reason } if from == to => self.out.say(format_args!(
                "provider {from} wants newer terms ({reason}); a new proposal is signed for it"
            )),
            PutEvent::Replaced { from, to, reason } => self.out.say(format_args!(
                "provider {to} takes the shard of provider {from}: {reason}"
            )),
            PutEvent::Again {
                provider,
                rounds_left,
                reason,
            } => self.out.say(format_args!(
                "provider {provider} did not take its shard ({reason}) and no other one is left; asking again after a pause, \
                 {rounds_left} more times if that fails too"
            )),
            PutEvent::Waiting {
                provider,
                until,
                reason,
            } => self.out.say(format_args!(
                "waiting for provider {provider} ({reason}); it may still publish what it got, so another one is \
                 asked only from epoch {until}. Ctrl-C is safe: the same command goes on here"
            )),
            PutEvent::Manifest { parts } => {
                let mut bars = self.bars.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(bars) = bars.take() {
                    bars.coded.finish();
                    bars.sent.finish();
                    bars.verified.finish();
                }
                tracing::info!(parts, "storing the manifest");
            }
        }
    }

    fn with(&self, act: impl FnOnce(&Bars)) {
        let bars = self.bars.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bars) = &*bars {
            act(bars);
        }
    }
}
