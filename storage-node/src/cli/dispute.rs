//! `holdfast dispute`: verifies what an optimistic chain took unverified, and disputes what is wrong.
//!
//! Arguments and words; the work is [`crate::watch`]. A post is named as the chain's events name it:
//! `PROVIDER/DEADLINE/PARTITION@CLOSE`. On a chain that verifies at once (the default, and every public network) there is nothing to
//! dispute, and each action says so.

use chain_lite::params::VerificationMode;
use chain_lite::sector::dispute::PostId;
use chain_lite::units::TokenAmount;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::account::wallet_and_chain;
use super::args::WhoArgs;
use super::{Class, CliError, Context};
use crate::chain::proven::ProvenChain;
use crate::identity::Wallet;
use crate::watch::{Summary, Told, Until, WatchError, Watcher};

/// Arguments of `dispute`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Verify every window PoSt that the chain takes, and dispute those that are wrong, until Ctrl-C; use a home of its own
    Watch {
        #[command(flatten)]
        who: WhoArgs,
    },
    /// Verify one stored window PoSt; ends with code 6 if it is wrong
    Check {
        /// Which, PROVIDER/DEADLINE/PARTITION@CLOSE
        post: PostId,
        #[command(flatten)]
        who: WhoArgs,
    },
    /// Dispute one stored window PoSt, if it is wrong, and wait for the end
    Send {
        /// Which, PROVIDER/DEADLINE/PARTITION@CLOSE
        post: PostId,
        #[command(flatten)]
        who: WhoArgs,
    },
}

/// Runs the command.
pub async fn run(args: Args, context: &Context) -> Result<(), CliError> {
    match args.action {
        Action::Watch { who } => watch(context, &who).await,
        Action::Check { post, who } => check(context, &who, post).await,
        Action::Send { post, who } => send(context, &who, post).await,
    }
}

/// Wallet and chain, if the chain is one with something to dispute.
async fn optimistic(context: &Context, who: &WhoArgs) -> Result<(Wallet, ProvenChain), CliError> {
    let (wallet, chain) = wallet_and_chain(context, who).await?;
    match chain.params().verification {
        VerificationMode::Optimistic => Ok((wallet, chain)),
        VerificationMode::Eager => Err(CliError::new(
            Class::Refused,
            "this chain verifies every proof before it takes it: there is nothing to dispute",
        )
        .hint("`holdfast audit chain` verifies its history")),
    }
}

async fn watcher(context: &Context, who: &WhoArgs) -> Result<Watcher, CliError> {
    let (wallet, chain) = optimistic(context, who).await?;
    let key = wallet.signing_key().clone();
    Ok(Watcher::open(chain, key, &context.config.home).await?)
}

async fn watch(context: &Context, who: &WhoArgs) -> Result<(), CliError> {
    let watcher = watcher(context, who).await?;
    let stop = CancellationToken::new();
    let asked = stop.clone();
    let listening = tokio::spawn(async move {
        super::devnet::interrupted().await;
        asked.cancel();
    });
    let mut tell = |told: Told| say(context, &told);
    let summary = watcher.run(Until::Stopped, stop, &mut tell).await;
    listening.abort();
    context.out.result(&summary?, |s| {
        format!(
            "{} blocks with {} sound and {} wrong posts; {} disputes paid {} tokens; {} cases are open",
            s.blocks,
            s.sound,
            s.wrong,
            s.disputes,
            s.rewards.in_tokens(),
            s.open
        )
    })
}

fn say(context: &Context, told: &Told) {
    let out = &context.out;
    match told {
        Told::Watching(from) => out.say(format_args!(
            "watching from block {from} on; Ctrl-C ends it, and it goes on where it was"
        )),
        Told::Wrong { post, why } => out.say(format_args!("post {post} is wrong: {why}")),
        Told::Sent(what) => out.say(format_args!("sent {what}")),
        Told::Disputed {
            post,
            by,
            charged,
            reward,
        } => out.say(format_args!(
            "post {post} was disputed by {by}: {} tokens charged, {} of them to the disputer",
            charged.in_tokens(),
            reward.in_tokens()
        )),
        Told::Over(post) => out.say(format_args!("the case of post {post} is over")),
        Told::Problem(why) => out.say(format_args!("not yet: {why}")),
    }
}

#[derive(Debug, Serialize)]
struct Checked {
    post: String,
    sound: bool,
}

async fn check(context: &Context, who: &WhoArgs, post: PostId) -> Result<(), CliError> {
    let watcher = watcher(context, who).await?;
    require_wrong_or_sound(&watcher, post).await?.map_or_else(
        || {
            let checked = Checked {
                post: post.to_string(),
                sound: true,
            };
            context
                .out
                .result(&checked, |c| format!("post {} verifies", c.post))
        },
        |why| {
            let text = format!("the proof of post {post} is wrong: {why}");
            Err(CliError::new(Class::BadData, text).hint(format_args!(
                "its finder is paid: holdfast dispute send {post}"
            )))
        },
    )
}

/// What is wrong with a post, if anything is; no such post is an error.
async fn require_wrong_or_sound(
    watcher: &Watcher,
    post: PostId,
) -> Result<Option<String>, CliError> {
    match watcher.judge(post).await? {
        Some(verdict) => Ok(verdict.err()),
        None => Err(CliError::new(
            Class::Input,
            format!("the chain has no stored post {post}: it was verified at once, disputed, or its window is over"),
        )
        .hint("`holdfast dispute watch` finds wrong posts by itself")),
    }
}

#[derive(Debug, Serialize)]
struct Sent {
    post: String,
    /// By whom it was disputed; nobody if its window was over before.
    by: Option<String>,
    charged: TokenAmount,
    reward: TokenAmount,
    #[serde(flatten)]
    summary: Summary,
}

async fn send(context: &Context, who: &WhoArgs, post: PostId) -> Result<(), CliError> {
    let mut watcher = watcher(context, who).await?;
    if require_wrong_or_sound(&watcher, post).await?.is_none() {
        let text =
            format!("post {post} verifies: disputing it would cost the fee and change nothing");
        return Err(CliError::new(Class::Refused, text).hint("leave it"));
    }
    watcher.pursue(post)?;
    let mut end = None;
    let mut tell = |told: Told| {
        say(context, &told);
        if let Told::Disputed {
            post: which,
            by,
            charged,
            reward,
        } = told
            && which == post
        {
            end = Some((by, charged, reward));
        }
    };
    let summary = watcher
        .run(Until::Settled, CancellationToken::new(), &mut tell)
        .await?;
    let (charged, reward) =
        end.map_or_else(Default::default, |(_, charged, reward)| (charged, reward));
    let sent = Sent {
        post: post.to_string(),
        by: end.map(|(by, ..)| by.to_string()),
        charged,
        reward,
        summary,
    };
    context.out.result(&sent, |sent| match &sent.by {
        Some(by) => format!(
            "post {}: {} tokens charged, {} of them to {by}",
            sent.post,
            sent.charged.in_tokens(),
            sent.reward.in_tokens()
        ),
        None => format!(
            "the window of post {} was over before the dispute came",
            sent.post
        ),
    })
}

impl From<WatchError> for CliError {
    fn from(error: WatchError) -> Self {
        match error {
            WatchError::Proven(error) => super::account::proven(error),
            WatchError::Chain(error) => error.into(),
            WatchError::File(error) => error.into(),
            WatchError::Unable(_) => Self::new(Class::Machine, error)
                .hint("use the program that the chain was founded with"),
            WatchError::Ended => Self::new(Class::Unreachable, error)
                .hint("run the same command again; it goes on where it was"),
            WatchError::Task(_) => Self::new(Class::Bug, error).hint("-v says more"),
        }
    }
}
