//! `holdfast wallet`: the account of this home — its key, its money.
//!
//! Money has two places: *free* (spendable) and *escrow* (set aside for deals; the locked part belongs to open deals, the rest can
//! be released). `put` moves to escrow what its deals can cost at most; what providers do not earn comes back there.

use chain_lite::account::Address;
use chain_lite::message::Message;
use chain_lite::units::TokenAmount;
use serde::Serialize;

use super::account::{
    Done, connect_chain, connect_proven, open_wallet, passphrase, send_wanted_and_tell,
};
use super::args::{KeyArgs, TrustArgs};
use super::{Class, CliError, Context};
use crate::chain::proven::ProvenChain;
use crate::client::outbox::Sent;
use crate::client::{Chain, ClientError};
use crate::identity::Wallet;

/// Arguments of `wallet`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    keys: KeyArgs,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Make this home's key; an existing one is never overwritten
    New {
        /// Protect the key file with a passphrase (from --passphrase-file, the environment, or typed)
        #[arg(long)]
        protect: bool,
    },
    /// Print this home's address
    Address,
    /// Print free money and escrow
    Balance {
        /// Another account than this home's
        #[arg(value_name = "ADDRESS")]
        of: Option<Address>,
        #[command(flatten)]
        trust: TrustArgs,
    },
    /// Send free money to another account
    Transfer {
        /// Who gets it (hf1…)
        to: Address,
        /// How much, in tokens, for example 1.5
        #[arg(value_parser = tokens)]
        amount: TokenAmount,
        #[command(flatten)]
        trust: TrustArgs,
    },
    /// Move escrow that no deal holds back to free money
    Release {
        /// How much, in tokens; everything that is unlocked if absent
        #[arg(value_parser = tokens)]
        amount: Option<TokenAmount>,
        #[command(flatten)]
        trust: TrustArgs,
    },
    /// Ask a devnet's faucet for test money
    Faucet {
        /// How much, in tokens
        #[arg(value_parser = tokens, default_value = "1000")]
        amount: TokenAmount,
    },
}

fn tokens(text: &str) -> Result<TokenAmount, String> {
    TokenAmount::parse_tokens(text)
}

/// Money of an account.
#[derive(Debug, Serialize)]
struct Balance {
    address: Address,
    free: TokenAmount,
    escrow: TokenAmount,
    escrow_locked: TokenAmount,
    nonce: u64,
}

/// A key.
#[derive(Debug, Serialize)]
struct Key {
    address: Address,
    path: std::path::PathBuf,
    protected: bool,
}

/// Money that moved.
#[derive(Debug, Serialize)]
struct Moved {
    address: Address,
    to: Address,
    amount: TokenAmount,
}

/// Runs the command.
pub async fn run(args: Args, context: &Context) -> Result<(), CliError> {
    match args.action {
        Action::New { protect } => new(context, &args.keys, protect),
        Action::Address => {
            let wallet = open_wallet(context, &args.keys)?;
            print_key(context, &wallet, false)
        }
        Action::Balance { of, trust } => {
            let address = match of {
                Some(address) => address,
                None => open_wallet(context, &args.keys)?.address(),
            };
            balance(context, address, &trust).await
        }
        Action::Transfer { to, amount, trust } => {
            let wallet = open_wallet(context, &args.keys)?;
            let chain = connect_proven(context, &trust).await?;
            let transfer = Message::Transfer { to, amount };
            let same = |left: &Message| (*left == transfer).then_some(amount);
            let fresh = async || Ok(transfer.clone());
            send(context, &chain, &wallet, to, same, fresh).await
        }
        Action::Release { amount, trust } => {
            let wallet = open_wallet(context, &args.keys)?;
            let chain = connect_proven(context, &trust).await?;
            // Everything: what an interrupted command takes out is that.
            let same = |left: &Message| match left {
                Message::MarketWithdraw { amount: taken } => amount
                    .is_none_or(|amount| amount == *taken)
                    .then_some(*taken),
                _ => None,
            };
            let fresh = async || {
                let amount = match amount {
                    Some(amount) => amount,
                    None => unlocked(&chain, &wallet).await?,
                };
                Ok(Message::MarketWithdraw { amount })
            };
            send(context, &chain, &wallet, wallet.address(), same, fresh).await
        }
        Action::Faucet { amount } => {
            let address = open_wallet(context, &args.keys)?.address();
            faucet(context, address, amount).await
        }
    }
}

fn new(context: &Context, keys: &KeyArgs, protect: bool) -> Result<(), CliError> {
    let path = context.config.home.wallet_key();
    let secret = if protect || keys.passphrase_file.is_some() {
        let given = passphrase(keys, "new passphrase for the wallet: ")?;
        Some(given.ok_or_else(|| {
            CliError::new(Class::Input, "a protected key needs a passphrase")
                .hint("name a file with --passphrase-file FILE, or run this on a terminal")
        })?)
    } else {
        None
    };
    let wallet = Wallet::create(&path, secret.as_ref())?;
    context.out.say(format_args!(
        "new key in {}; keep a copy of that file: it is the account, and it restores every object",
        path.display()
    ));
    print_key(context, &wallet, secret.is_some())
}

fn print_key(context: &Context, wallet: &Wallet, protected: bool) -> Result<(), CliError> {
    let key = Key {
        address: wallet.address(),
        path: context.config.home.wallet_key(),
        protected,
    };
    context.out.result(&key, |key| key.address.to_string())
}

async fn balance(context: &Context, address: Address, trust: &TrustArgs) -> Result<(), CliError> {
    let chain = connect_proven(context, trust).await?;
    let money = chain.money(&address).await.map_err(ClientError::from)?;
    let balance = Balance {
        address,
        free: money.free,
        escrow: money.escrow,
        escrow_locked: money.locked,
        nonce: money.nonce,
    };
    context.out.result(&balance, |balance| {
        format!(
            "free    {} tokens\nescrow  {} tokens, of which deals hold {}",
            balance.free.in_tokens(),
            balance.escrow.in_tokens(),
            balance.escrow_locked.in_tokens()
        )
    })
}

async fn unlocked(chain: &ProvenChain, wallet: &Wallet) -> Result<TokenAmount, CliError> {
    let money = chain.money(&wallet.address()).await;
    let amount = money.map_err(ClientError::from)?.unlocked();
    if amount.is_zero() {
        return Err(CliError::new(Class::Refused, "no escrow is unlocked")
            .hint("`holdfast ls` shows which deals hold it and until when"));
    }
    Ok(amount)
}

/// `moves` is how much a message moves, if it is the wanted one.
async fn send(
    context: &Context,
    chain: &ProvenChain,
    wallet: &Wallet,
    to: Address,
    moves: impl Fn(&Message) -> Option<TokenAmount>,
    fresh: impl AsyncFnOnce() -> Result<Message, CliError>,
) -> Result<(), CliError> {
    let wanted = |left: &Message| moves(left).is_some();
    let what = async |sent: &Sent| {
        Ok(Moved {
            address: wallet.address(),
            to,
            amount: sent.msgs.iter().find_map(&moves).unwrap_or_default(),
        })
    };
    let words = |moved: &Moved, sent: &Sent| {
        format!(
            "{}{} tokens moved to {} (transaction {})",
            sent.before("to move more"),
            moved.amount.in_tokens(),
            moved.to,
            sent.receipt.tx
        )
    };
    send_wanted_and_tell(context, chain, wallet, wanted, fresh, what, words).await
}

async fn faucet(context: &Context, to: Address, amount: TokenAmount) -> Result<(), CliError> {
    let chain = connect_chain(context).await?;
    if !chain.info().faucet {
        return Err(CliError::new(Class::Refused, "this chain has no faucet")
            .hint("ask somebody with money for a transfer to `holdfast wallet address`"));
    }
    let tx = chain.faucet(&to, amount).await?;
    let what = Moved {
        address: to,
        to,
        amount,
    };
    let done = Done {
        what,
        tx: tx.to_string(),
        resumed: false,
    };
    context.out.result(&done, |done| {
        format!("{} tokens from the faucet", done.what.amount.in_tokens())
    })
}
