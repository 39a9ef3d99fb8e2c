//! Shared by the client's commands: open this home's wallet, connect to its chain, send a transaction once.

use std::path::PathBuf;
use std::sync::Arc;

use chain_lite::message::Message;
use secrecy::SecretString;
use serde::Serialize;
use zeroize::Zeroizing;

use super::args::{KeyArgs, TrustArgs, WhoArgs};
use super::{Class, CliError, Context};
use crate::chain::ChainClient;
use crate::chain::proven::{ProvenChain, ProvenError};
use crate::client::ClientError;
use crate::client::live::{self, LiveClient};
use crate::client::outbox::{Outbox, Sent};
use crate::identity::Wallet;

/// Variable that names a file with the wallet's passphrase.
const PASSPHRASE_FILE_VARIABLE: &str = "HOLDFAST_PASSPHRASE_FILE";
/// Variable that holds the wallet's passphrase itself; a file is safer.
const PASSPHRASE_VARIABLE: &str = "HOLDFAST_PASSPHRASE";
/// Longest passphrase that is read from a file.
const MAX_PASSPHRASE_BYTES: u64 = 4096;

/// Opens this home's wallet; a passphrase is only looked for when the key file is protected.
pub fn open_wallet(context: &Context, keys: &KeyArgs) -> Result<Wallet, CliError> {
    let mut failed = None;
    let opened = Wallet::open(&context.config.home.wallet_key(), || {
        match passphrase(keys, "passphrase of the wallet: ") {
            Ok(found) => found,
            Err(error) => {
                failed = Some(error);
                None
            }
        }
    });
    match (failed, opened) {
        (Some(error), _) => Err(error),
        (None, opened) => Ok(opened?),
    }
}

/// The passphrase: from `--passphrase-file`, the environment, or asked for on the terminal; `None` if there is none of them.
pub fn passphrase(keys: &KeyArgs, prompt: &str) -> Result<Option<SecretString>, CliError> {
    let file = keys.passphrase_file.clone().or_else(|| {
        std::env::var_os(PASSPHRASE_FILE_VARIABLE)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    });
    if let Some(path) = file {
        return read_passphrase(&path).map(Some);
    }
    if let Ok(value) = std::env::var(PASSPHRASE_VARIABLE)
        && !value.is_empty()
    {
        return Ok(Some(value.into()));
    }
    let terminal = console::Term::stderr();
    if !terminal.is_term() {
        return Ok(None);
    }
    let typed = terminal
        .write_str(prompt)
        .and_then(|()| terminal.read_secure_line())
        .map_err(|error| {
            CliError::new(Class::Machine, format!("cannot read a passphrase: {error}"))
        })?;
    Ok((!typed.is_empty()).then(|| typed.into()))
}

fn read_passphrase(path: &std::path::Path) -> Result<SecretString, CliError> {
    let failed =
        |error: std::io::Error| CliError::io("cannot read the passphrase in", path, &error);
    let meta = path.metadata().map_err(failed)?;
    if !meta.is_file() || meta.len() > MAX_PASSPHRASE_BYTES {
        return Err(CliError::new(
            Class::Input,
            format!("{} is not a passphrase file", path.display()),
        )
        .hint("name a file whose first line is the passphrase"));
    }
    let text = Zeroizing::new(std::fs::read_to_string(path).map_err(failed)?);
    match text.lines().next().filter(|line| !line.is_empty()) {
        Some(line) => Ok(line.to_owned().into()),
        None => Err(
            CliError::new(Class::Input, format!("{} is empty", path.display()))
                .hint("write the passphrase into its first line"),
        ),
    }
}

/// Connects to the chain of this home, without a wallet.
pub async fn connect_chain(context: &Context) -> Result<ChainClient, CliError> {
    Ok(ChainClient::connect(&context.config.chain_url()?).await?)
}

/// Connects to the chain of this home, of which only proofs are believed.
pub async fn connect_proven(context: &Context, trust: &TrustArgs) -> Result<ProvenChain, CliError> {
    let url = context.config.chain_url()?;
    let chain = live::proven(&url, &context.config.home, &trust.anchor()).await?;
    say_first_use(context, &chain);
    Ok(chain)
}

fn say_first_use(context: &Context, chain: &ProvenChain) {
    if chain.is_first_use() {
        context.out.say(format_args!(
            "this home believes chain {} from now on, because the node says so; compare the id with a source you trust",
            chain.node().chain_id()
        ));
    }
}

/// This home's wallet, and its chain of which only proofs are believed.
pub async fn wallet_and_chain(
    context: &Context,
    who: &WhoArgs,
) -> Result<(Wallet, ProvenChain), CliError> {
    let wallet = open_wallet(context, &who.keys)?;
    let chain = connect_proven(context, &who.trust).await?;
    Ok((wallet, chain))
}

/// Why a fact of the chain is not known, as a person meets it.
pub fn proven(error: ProvenError) -> CliError {
    ClientError::from(live::disbelief(error)).into()
}

/// What a transaction did.
#[derive(Debug, Serialize)]
pub struct Done<T> {
    /// What it did.
    #[serde(flatten)]
    pub what: T,
    /// Its id.
    pub tx: String,
    /// Whether an earlier command had sent it and was interrupted.
    pub resumed: bool,
}

/// Sends one message of the wallet, once, waits for the proof that it took effect, and prints what it did. The outbox forgets it
/// then: a command that is killed before goes on when it is run again.
pub async fn send_and_tell<T: Serialize>(
    context: &Context,
    chain: &ProvenChain,
    wallet: &Wallet,
    message: Message,
    what: impl AsyncFnOnce(&Sent) -> Result<T, CliError>,
    words: impl FnOnce(&T, &Sent) -> String,
) -> Result<(), CliError> {
    let same = |left: &Message| *left == message;
    let fresh = async || Ok(message.clone());
    send_wanted_and_tell(context, chain, wallet, same, fresh, what, words).await
}

/// The same for a message that depends on the chain: what an interrupted command has sent is the answer if it is `wanted`, and
/// otherwise `fresh` gives the message when that has had its end.
pub async fn send_wanted_and_tell<T: Serialize>(
    context: &Context,
    chain: &ProvenChain,
    wallet: &Wallet,
    wanted: impl Fn(&Message) -> bool,
    fresh: impl AsyncFnOnce() -> Result<Message, CliError>,
    what: impl AsyncFnOnce(&Sent) -> Result<T, CliError>,
    words: impl FnOnce(&T, &Sent) -> String,
) -> Result<(), CliError> {
    let outbox = Outbox::open(&context.config.home, &chain.node().chain_id())?;
    let tell = |text: String| context.out.say(text);
    let wanted = |left: &[Message]| matches!(left, [left] if wanted(left));
    let fresh = async || Ok::<_, CliError>(vec![fresh().await?]);
    let sent = outbox.send(chain, wallet, wanted, fresh, tell).await?;
    let done = Done {
        what: what(&sent).await?,
        tx: sent.receipt.tx.to_string(),
        resumed: sent.resumed,
    };
    context.out.result(&done, |done| words(&done.what, &sent))?;
    Ok(outbox.told(&sent)?)
}

/// Whether an interrupted command has left this very message: what it changed is then no reason to refuse it.
pub fn is_left(
    context: &Context,
    chain: &ProvenChain,
    message: &Message,
) -> Result<bool, CliError> {
    let home = &context.config.home;
    Ok(Outbox::is_left(home, &chain.node().chain_id(), message)?)
}

/// Opens the wallet and connects to chain and providers. Of the chain, only proofs are believed.
pub async fn connect(
    context: &Context,
    keys: &KeyArgs,
    trust: &TrustArgs,
) -> Result<Arc<LiveClient>, CliError> {
    let wallet = open_wallet(context, keys)?;
    let url = context.config.chain_url()?;
    let home = context.config.home.clone();
    let client = live::connect_to(&url, wallet, home, &trust.anchor()).await?;
    say_first_use(context, &client.chain);
    Ok(Arc::new(client))
}
