//! `holdfast datacap`: bytes of verified deals — shown, granted to notaries by the root key, and by notaries to clients.
//!
//! Arguments and words; the rules are [`chain_lite::datacap`]'s. `holdfast put --verified` spends what a client holds: providers
//! earn more for such deals (`chain.md` §8, §12). The root key is named in genesis; on a devnet it is the home's own wallet.

use chain_lite::account::Address;
use chain_lite::message::Message;
use chain_lite::units::StoragePower;
use serde::Serialize;

use super::account::{
    connect_proven, is_left, open_wallet, proven, send_and_tell, wallet_and_chain,
};
use super::args::{WhoArgs, parse_bytes};
use super::output::human_bytes;
use super::{Class, CliError, Context};
use crate::chain::proven::ProvenChain;
use crate::identity::Wallet;
use crate::rpc::reads;

/// Arguments of `datacap`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Show what an account may grant and may store as verified deals
    Show {
        /// Another account than this home's
        #[arg(value_name = "ADDRESS")]
        of: Option<Address>,
        #[command(flatten)]
        who: WhoArgs,
    },
    /// With the root key: let a notary grant more
    Allow {
        /// The notary (hf1…)
        notary: Address,
        /// How much, for example 10GiB, of pieces as they are padded
        #[arg(value_parser = parse_bytes)]
        bytes: u64,
        #[command(flatten)]
        who: WhoArgs,
    },
    /// As a notary: let a client publish verified deals
    Grant {
        /// The client (hf1…)
        client: Address,
        /// How much, for example 1GiB, of pieces as they are padded
        #[arg(value_parser = parse_bytes)]
        bytes: u64,
        #[command(flatten)]
        who: WhoArgs,
    },
}

/// Runs the command.
pub async fn run(args: Args, context: &Context) -> Result<(), CliError> {
    match args.action {
        Action::Show { of, who } => show(context, &who, of).await,
        Action::Allow { notary, bytes, who } => {
            let bytes = StoragePower(bytes.into());
            let (wallet, chain) = wallet_and_chain(context, &who).await?;
            require_root(&chain, &wallet)?;
            let message = Message::AllowDataCap { notary, bytes };
            send(context, &chain, &wallet, notary, bytes, message).await
        }
        Action::Grant { client, bytes, who } => {
            let bytes = StoragePower(bytes.into());
            let (wallet, chain) = wallet_and_chain(context, &who).await?;
            let message = Message::GrantDataCap { client, bytes };
            if !is_left(context, &chain, &message)? {
                require_allowance(&chain, &wallet, bytes).await?;
            }
            send(context, &chain, &wallet, client, bytes, message).await
        }
    }
}

fn require_root(chain: &ProvenChain, wallet: &Wallet) -> Result<(), CliError> {
    let text = match chain.params().datacap_root {
        Some(root) if root == wallet.address() => return Ok(()),
        Some(root) => {
            format!("only the root key allows notaries, and that of this chain is {root}")
        }
        None => "this chain has no DataCap: its genesis names no root key".to_owned(),
    };
    Err(CliError::new(Class::Refused, text).hint("use the home that has the root key"))
}

async fn require_allowance(
    chain: &ProvenChain,
    wallet: &Wallet,
    bytes: StoragePower,
) -> Result<(), CliError> {
    let address = wallet.address();
    let own = chain.read(|state| reads::datacap(state, &address)).await;
    let own = own.map_err(proven)?.allowance;
    if bytes <= own {
        return Ok(());
    }
    let text = format!(
        "this account may grant {} of DataCap, not {}",
        power(own),
        power(bytes)
    );
    Err(CliError::new(Class::Refused, text)
        .hint("the root key lets notaries grant more: `holdfast datacap allow`"))
}

#[derive(Debug, Serialize)]
struct Shown {
    address: Address,
    /// As a notary.
    may_grant: StoragePower,
    /// As a client.
    may_store: StoragePower,
    root: Option<Address>,
}

async fn show(context: &Context, who: &WhoArgs, of: Option<Address>) -> Result<(), CliError> {
    let address = match of {
        Some(address) => address,
        None => open_wallet(context, &who.keys)?.address(),
    };
    let chain = connect_proven(context, &who.trust).await?;
    let cap = chain
        .read(|state| reads::datacap(state, &address))
        .await
        .map_err(proven)?;
    let shown = Shown {
        address,
        may_grant: cap.allowance,
        may_store: cap.held,
        root: chain.params().datacap_root,
    };
    context.out.result(&shown, |shown| {
        let root = match shown.root {
            Some(root) if root == shown.address => "\nthis is the chain's root key".to_owned(),
            Some(_) => String::new(),
            None => "\nthis chain has no DataCap".to_owned(),
        };
        format!(
            "verified deals  {}\nmay grant       {}{root}",
            power(shown.may_store),
            power(shown.may_grant)
        )
    })
}

fn power(bytes: StoragePower) -> String {
    u64::try_from(bytes.0).map_or_else(|_| format!("{} bytes", bytes.0), human_bytes)
}

#[derive(Debug, Serialize)]
struct Granted {
    from: Address,
    to: Address,
    bytes: StoragePower,
}

async fn send(
    context: &Context,
    chain: &ProvenChain,
    wallet: &Wallet,
    to: Address,
    bytes: StoragePower,
    message: Message,
) -> Result<(), CliError> {
    let granted = Granted {
        from: wallet.address(),
        to,
        bytes,
    };
    let what = async |_: &_| Ok(granted);
    send_and_tell(context, chain, wallet, message, what, |g, sent| {
        format!(
            "{}{} more for {} (transaction {})",
            sent.before("to grant as much again"),
            power(g.bytes),
            g.to,
            sent.receipt.tx
        )
    })
    .await
}
