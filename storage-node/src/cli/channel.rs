//! `holdfast channel`: payment channels — money set aside for one payee, spent by vouchers, settled on the chain at the end.
//!
//! Arguments and words. The rules are [`chain_lite::channel`]'s, vouchers [`retrieval::voucher`]'s; [`crate::client::promise`]
//! remembers what was given away, [`crate::client::outbox`] sends once. A channel takes no more money once it is open: the rules
//! have no message for it, so who needs more opens another one.
//!
//! | who | in order |
//! |---|---|
//! | payer | `open` → `voucher`* → `settle` → `collect` |
//! | payee | `redeem`*, until the channel closes |

use chain_lite::account::{Address, ChainId, ChannelId, ProviderId};
use chain_lite::channel::{Channel, Lane};
use chain_lite::execute::{Outcome, Output as TxOutput, Receipt};
use chain_lite::message::Message;
use chain_lite::query;
use chain_lite::units::{Epoch, TokenAmount};
use retrieval::voucher::SignedVoucher;
use serde::Serialize;

use super::account::{connect_proven, is_left, proven, send_and_tell, wallet_and_chain};
use super::args::{TrustArgs, WhoArgs};
use super::{Class, CliError, Context};
use crate::chain::proven::ProvenChain;
use crate::client::journal::WalletLock;
use crate::client::outbox::Sent;
use crate::client::promise::{PromiseError, Promises, on_chain, redeemed};
use crate::rpc::reads::{self, ReadError};

/// Channels that one `ls` looks at: each is a leaf with its proof.
const LISTED: u64 = 512;

/// Arguments of `channel`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Set free money aside for a payee; what it does not redeem comes back
    Open {
        /// Who redeems: an address (hf1…), or the number of a provider
        #[arg(value_name = "PAYEE")]
        payee: Payee,
        /// How much, in tokens
        #[arg(value_parser = TokenAmount::parse_tokens)]
        amount: TokenAmount,
        #[command(flatten)]
        who: WhoArgs,
    },
    /// Sign a voucher for the payee: so much is its own, in all; nothing is sent to the chain
    Voucher {
        /// The channel's number
        channel: u64,
        /// What the lane promises in all, in tokens; never less than before
        #[arg(value_parser = TokenAmount::parse_tokens)]
        total: TokenAmount,
        /// One for each session that pays by itself
        #[arg(long, default_value_t = 0, value_name = "N")]
        lane: u64,
        #[command(flatten)]
        who: WhoArgs,
    },
    /// As the payee: count a voucher on the chain; only the newest of each lane is needed
    Redeem {
        /// What `channel voucher` printed at the payer's
        voucher: SignedVoucher,
        #[command(flatten)]
        who: WhoArgs,
    },
    /// Ask for the end: the payee has a last span for its vouchers, then anybody may collect
    Settle {
        /// The channel's number
        channel: u64,
        #[command(flatten)]
        who: WhoArgs,
    },
    /// Pay a closed channel out: the redeemed part to the payee, the rest to the payer
    Collect {
        /// The channel's number
        channel: u64,
        #[command(flatten)]
        who: WhoArgs,
    },
    /// Show a channel: what it holds, what is redeemed, what this home has promised
    Show {
        /// The channel's number
        channel: u64,
        #[command(flatten)]
        trust: TrustArgs,
    },
    /// List this account's channels, newest first
    Ls {
        /// Begin below this number
        #[arg(long, value_name = "CHANNEL")]
        before: Option<u64>,
        #[command(flatten)]
        who: WhoArgs,
    },
}

/// Who is paid, as typed.
#[derive(Clone, Copy, Debug)]
enum Payee {
    Account(Address),
    Provider(ProviderId),
}

impl std::str::FromStr for Payee {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(provider) = text.parse() {
            return Ok(Self::Provider(provider));
        }
        let address = text.parse().map_err(|error| format!("{error}"))?;
        Ok(Self::Account(address))
    }
}

/// Runs the command.
pub async fn run(args: Args, context: &Context) -> Result<(), CliError> {
    match args.action {
        Action::Open { payee, amount, who } => open(context, &who, payee, amount).await,
        Action::Voucher {
            channel,
            total,
            lane,
            who,
        } => voucher(context, &who, ChannelId(channel), total, lane).await,
        Action::Redeem { voucher, who } => redeem(context, &who, &voucher).await,
        Action::Settle { channel, who } => settle(context, &who, ChannelId(channel)).await,
        Action::Collect { channel, who } => collect(context, &who, ChannelId(channel)).await,
        Action::Show { channel, trust } => show(context, &trust, ChannelId(channel)).await,
        Action::Ls { before, who } => ls(context, &who, before).await,
    }
}

/// The channel, proven, and the epoch of that state.
async fn existing(chain: &ProvenChain, id: ChannelId) -> Result<(Channel, Epoch), CliError> {
    let read = |state: &dyn chain_lite::state::KvRead| {
        Ok((query::channel(state, id)?, reads::network(state)?.epoch))
    };
    let (found, now) = chain.read(read).await.map_err(proven)?;
    let channel = found.ok_or_else(|| {
        CliError::new(
            Class::Input,
            format!("there is no channel {id}: it was never opened, or it was collected"),
        )
        .hint("`holdfast channel ls` lists this account's")
    })?;
    Ok((channel, now))
}

#[derive(Debug, Serialize)]
struct Opened {
    channel: ChannelId,
    payer: Address,
    payee: Address,
    amount: TokenAmount,
}

async fn open(
    context: &Context,
    who: &WhoArgs,
    payee: Payee,
    amount: TokenAmount,
) -> Result<(), CliError> {
    let (wallet, chain) = wallet_and_chain(context, who).await?;
    let payee = match payee {
        Payee::Account(address) => address,
        Payee::Provider(id) => {
            let found = chain.read(|state| reads::provider(state, id)).await;
            let found = found.map_err(proven)?.ok_or_else(|| {
                CliError::new(Class::Input, format!("there is no provider {id}"))
                    .hint("name its owner's address, or another provider")
            })?;
            found.provider.owner
        }
    };
    if payee == wallet.address() {
        return Err(
            CliError::new(Class::Refused, "a channel to oneself pays nobody")
                .hint("name another payee"),
        );
    }
    let message = Message::OpenChannel { payee, amount };
    let what = async |sent: &Sent| {
        Ok(Opened {
            channel: channel_of(&sent.receipt)?,
            payer: wallet.address(),
            payee,
            amount,
        })
    };
    send_and_tell(context, &chain, &wallet, message, what, |opened, sent| {
        format!(
            "{} {} holds {} tokens for {}\nnext: holdfast channel voucher {} TOTAL",
            match sent.resumed {
                true => "opened by the interrupted command before: channel",
                false => "channel",
            },
            opened.channel,
            opened.amount.in_tokens(),
            opened.payee,
            opened.channel
        )
    })
    .await
}

fn channel_of(receipt: &Receipt) -> Result<ChannelId, CliError> {
    let outputs = match &receipt.outcome {
        Outcome::Applied { outputs } => &outputs[..],
        Outcome::Failed { .. } | Outcome::Refused { .. } => &[],
    };
    match outputs {
        [TxOutput::ChannelOpened { channel }] => Ok(*channel),
        _ => Err(CliError::new(
            Class::Bug,
            "the receipt of a new channel does not name it",
        )),
    }
}

#[derive(Debug, Serialize)]
struct Given {
    channel: ChannelId,
    lane: u64,
    nonce: u64,
    total: TokenAmount,
    voucher: String,
}

async fn voucher(
    context: &Context,
    who: &WhoArgs,
    id: ChannelId,
    total: TokenAmount,
    lane: u64,
) -> Result<(), CliError> {
    let (wallet, chain) = wallet_and_chain(context, who).await?;
    let home = &context.config.home;
    let _lock = WalletLock::take(home)?;
    let (channel, _) = existing(&chain, id).await?;
    if channel.payer != wallet.address() {
        let text = format!(
            "channel {id} is paid by {}, not by this home",
            channel.payer
        );
        return Err(CliError::new(Class::Refused, text).hint("use the payer's --home"));
    }
    if let Some(closes) = channel.closes {
        context.out.say(format_args!(
            "channel {id} is being settled: the payee can redeem until epoch {closes}"
        ));
    }
    let mut promises = Promises::open(home, chain.node().chain_id(), id)?;
    let signed = promises.promise(&channel, lane, total, wallet.signing_key())?;
    let given = Given {
        channel: id,
        lane,
        nonce: signed.voucher.nonce,
        total,
        voucher: signed.to_string(),
    };
    context.out.result(&given, |given| given.voucher.clone())
}

impl From<PromiseError> for CliError {
    fn from(error: PromiseError) -> Self {
        let hint = match &error {
            PromiseError::Order(_) => "give the total that the lane promises, not what is added",
            PromiseError::Empty { .. } => {
                "open another channel: one takes no more money once it is open"
            }
            PromiseError::Lanes => "use a lane that was used before",
            PromiseError::File(_) => "",
        };
        match error {
            PromiseError::File(error) => error.into(),
            error => Self::new(Class::Refused, error).hint(hint),
        }
    }
}

#[derive(Debug, Serialize)]
struct Redeemed {
    channel: ChannelId,
    lane: u64,
    gained: TokenAmount,
    due: TokenAmount,
}

async fn redeem(context: &Context, who: &WhoArgs, signed: &SignedVoucher) -> Result<(), CliError> {
    let (wallet, chain) = wallet_and_chain(context, who).await?;
    let voucher = &signed.voucher;
    let here = chain.node().chain_id();
    if ChainId(voucher.chain_id) != here {
        let text = format!(
            "the voucher is of chain {}, and this is chain {here}",
            ChainId(voucher.chain_id)
        );
        return Err(CliError::new(Class::Input, text).hint("check --chain and --home"));
    }
    let id = ChannelId(voucher.channel);
    let (channel, _) = existing(&chain, id).await?;
    let refused = |text: String, hint: &str| Err(CliError::new(Class::Refused, text).hint(hint));
    if channel.payee != wallet.address() {
        return refused(
            format!(
                "only the payee redeems, and that of channel {id} is {}",
                channel.payee
            ),
            "use the payee's --home",
        );
    }
    if !signed.is_from(&channel.payer.0) {
        let text = format!(
            "the voucher's signature is not of the channel's payer {}",
            channel.payer
        );
        return Err(CliError::new(Class::BadData, text).hint("ask the payer for it again"));
    }
    let message = Message::RedeemVoucher {
        voucher: on_chain(signed),
    };
    // An interrupted command may have redeemed it already: then it is no gain any more, and the outbox knows.
    let gained = match voucher.gain_over(&redeemed(here, id, &channel, voucher.lane)) {
        Ok(gained) => gained,
        Err(_) if is_left(context, &chain, &message)? => 0,
        Err(error) => {
            return refused(
                format!("the voucher is worth nothing here: {error}"),
                "redeem the newest voucher of a lane; older ones are part of it",
            );
        }
    };
    let what = async |_: &_| {
        Ok(Redeemed {
            channel: id,
            lane: voucher.lane,
            gained: TokenAmount(gained),
            due: existing(&chain, id).await?.0.due,
        })
    };
    send_and_tell(context, &chain, &wallet, message, what, |r, sent| {
        format!(
            "{}{} tokens more of channel {} are yours: {} in all, paid out when it is collected",
            sent.before(""),
            r.gained.in_tokens(),
            r.channel,
            r.due.in_tokens()
        )
    })
    .await
}

#[derive(Debug, Serialize)]
struct Settling {
    channel: ChannelId,
    closes: Option<Epoch>,
}

async fn settle(context: &Context, who: &WhoArgs, id: ChannelId) -> Result<(), CliError> {
    let (wallet, chain) = wallet_and_chain(context, who).await?;
    let (channel, _) = existing(&chain, id).await?;
    if ![channel.payer, channel.payee].contains(&wallet.address()) {
        let text = format!(
            "channel {id} is between {} and {}",
            channel.payer, channel.payee
        );
        return Err(CliError::new(Class::Refused, text).hint("only they settle it"));
    }
    let message = Message::SettleChannel { channel: id };
    if let Some(closes) = channel.closes
        && !is_left(context, &chain, &message)?
    {
        let text = format!("channel {id} is being settled already; it closes at epoch {closes}");
        return Err(CliError::new(Class::Refused, text)
            .hint(format_args!("then: holdfast channel collect {id}")));
    }
    let what = async |_: &_| {
        Ok(Settling {
            channel: id,
            closes: existing(&chain, id).await?.0.closes,
        })
    };
    send_and_tell(context, &chain, &wallet, message, what, |s, sent| {
        let closes = s.closes.map_or_else(String::new, |at| format!(" at epoch {at}"));
        format!(
            "{}channel {} closes{closes}; until then the payee redeems, then: holdfast channel collect {}",
            sent.before(""),
            s.channel, s.channel
        )
    })
    .await
}

#[derive(Debug, Serialize)]
struct Collected {
    channel: ChannelId,
    payee: Address,
    to_payee: TokenAmount,
    payer: Address,
    to_payer: TokenAmount,
}

async fn collect(context: &Context, who: &WhoArgs, id: ChannelId) -> Result<(), CliError> {
    let (wallet, chain) = wallet_and_chain(context, who).await?;
    let message = Message::CollectChannel { channel: id };
    let (channel, now) = match existing(&chain, id).await {
        Err(_) if is_left(context, &chain, &message)? => {
            // Gone by the interrupted command, and with it what it held.
            let what = async |_: &_| Ok(serde_json::json!({ "channel": id }));
            return send_and_tell(context, &chain, &wallet, message, what, |_, _| {
                format!("channel {id} was collected by the interrupted command before")
            })
            .await;
        }
        found => found?,
    };
    let refused = |text: String, hint: String| Err(CliError::new(Class::Refused, text).hint(hint));
    match channel.closes {
        None => {
            return refused(
                format!("channel {id} is open"),
                format!("its payer or payee settles it first: holdfast channel settle {id}"),
            );
        }
        Some(closes) if now < closes => {
            return refused(
                format!("channel {id} closes at epoch {closes}, and this is epoch {now}"),
                "wait; an outage of the chain puts it off".to_owned(),
            );
        }
        Some(_) => {}
    }
    let collected = Collected {
        channel: id,
        payee: channel.payee,
        to_payee: channel.due,
        payer: channel.payer,
        to_payer: channel.balance.minus_or_zero(channel.due),
    };
    let what = async |_: &_| Ok(collected);
    send_and_tell(context, &chain, &wallet, message, what, |c, sent| {
        format!(
            "{}channel {} is gone: {} tokens to {}, {} back to {}",
            sent.before(""),
            c.channel,
            c.to_payee.in_tokens(),
            c.payee,
            c.to_payer.in_tokens(),
            c.payer
        )
    })
    .await
}

#[derive(Debug, Serialize)]
struct Shown {
    channel: ChannelId,
    payer: Address,
    payee: Address,
    balance: TokenAmount,
    due: TokenAmount,
    closes: Option<Epoch>,
    lanes: Vec<Lane>,
    /// By this home's own vouchers and what is redeemed, the larger of each lane.
    promised: TokenAmount,
}

impl Shown {
    fn new(
        context: &Context,
        chain: ChainId,
        id: ChannelId,
        channel: Channel,
    ) -> Result<Self, CliError> {
        let promises = Promises::open(&context.config.home, chain, id)?;
        let lanes = promises.by_lane(&channel);
        let promised = lanes.values().fold(0u128, |sum, v| sum.saturating_add(*v));
        Ok(Self {
            channel: id,
            payer: channel.payer,
            payee: channel.payee,
            balance: channel.balance,
            due: channel.due,
            closes: channel.closes,
            lanes: channel.lanes,
            promised: TokenAmount(promised),
        })
    }

    fn line(&self) -> String {
        let state = self
            .closes
            .map_or("open".to_owned(), |at| format!("closes at epoch {at}"));
        format!(
            "{}  {} of {} tokens redeemed, {} promised  {} → {}  {state}",
            self.channel,
            self.due.in_tokens(),
            self.balance.in_tokens(),
            self.promised.in_tokens(),
            self.payer,
            self.payee
        )
    }
}

async fn show(context: &Context, trust: &TrustArgs, id: ChannelId) -> Result<(), CliError> {
    let chain = connect_proven(context, trust).await?;
    let (channel, _) = existing(&chain, id).await?;
    let shown = Shown::new(context, chain.node().chain_id(), id, channel)?;
    context.out.result(&shown, Shown::line)
}

async fn ls(context: &Context, who: &WhoArgs, before: Option<u64>) -> Result<(), CliError> {
    let (wallet, chain) = wallet_and_chain(context, who).await?;
    let read = |state: &dyn chain_lite::state::KvRead| {
        let next = reads::network(state)?.next_channel;
        let end = before.map_or(next, |before| before.min(next)).max(1);
        let first = end.saturating_sub(LISTED).max(1);
        // All are asked for at once: one that is not fetched yet is no error before.
        let found: Vec<_> = (first..end)
            .rev()
            .map(|id| (ChannelId(id), query::channel(state, ChannelId(id))))
            .collect();
        let found = found
            .into_iter()
            .map(|(id, channel)| Ok((id, channel?)))
            .collect::<Result<Vec<_>, ReadError>>()?;
        Ok((first, found))
    };
    let (first, found) = chain.read(read).await.map_err(proven)?;
    let mut mine = Vec::new();
    for (id, channel) in found {
        let Some(channel) = channel else { continue };
        if [channel.payer, channel.payee].contains(&wallet.address()) {
            mine.push(Shown::new(context, chain.node().chain_id(), id, channel)?);
        }
    }
    if first > 1 {
        context.out.say(format_args!(
            "older channels: holdfast channel ls --before {first}"
        ));
    }
    context.out.result(&mine, |mine| match mine.is_empty() {
        true => "no channels of this account".to_owned(),
        false => mine.iter().map(Shown::line).collect::<Vec<_>>().join("\n"),
    })
}
