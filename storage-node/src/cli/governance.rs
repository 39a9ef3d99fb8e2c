//! `holdfast chain approve|set-validators|invite`: who decides blocks from now on, changed by those who decide them today.
//!
//! The operators agree on a file of cards (`chain card`): all validators from then on. Each of today's approves it with its own
//! key; the lines are gathered, and any account sends them once they are of more than two thirds of the votes. A chain of one operator, whichever engine
//! made it, becomes a chain of several this way in the folder where it is. Rules: [`chain_lite::governance`];
//! exact commands: `deploy/README.md`. Nothing here is a secret but the key that signs.

use std::path::{Path, PathBuf};

use chain_lite::account::{Address, ChainId};
use chain_lite::certificate::{Sig, Validator, ValidatorId, ValidatorSet};
use chain_lite::governance::{self, approval_bytes};
use chain_lite::message::{Message, Signature, verify_strict};
use serde::{Deserialize, Serialize};

use super::account::{connect_chain, connect_proven, open_wallet};
use super::args::{KeyArgs, TrustArgs};
use super::validator::read_cards;
use super::{Class, CliError, Context};
use crate::chain::TxStatus;
use crate::client::ClientError;
use crate::client::journal::WalletLock;
use crate::client::live::disbelief;
use crate::validator::{self, Card};

/// Longest file of approvals that is read, in bytes: a full set approved by each of a full set would be larger, and fits no block.
const MAX_APPROVAL_BYTES: u64 = 16 << 20;

/// Arguments of `chain approve`.
#[derive(Debug, clap::Args)]
pub struct ApproveArgs {
    /// File with the cards of all validators from then on, one per line
    #[arg(value_name = "CARDS")]
    cards: PathBuf,
    #[command(flatten)]
    trust: TrustArgs,
}

/// Arguments of `chain set-validators`.
#[derive(Debug, clap::Args)]
pub struct SetArgs {
    /// File with the approvals that `chain approve` printed, one per line
    #[arg(value_name = "APPROVALS")]
    approvals: PathBuf,
    #[command(flatten)]
    keys: KeyArgs,
}

/// Arguments of `chain invite`.
#[derive(Debug, clap::Args)]
pub struct InviteArgs {
    /// File with every validator's card, one per line
    #[arg(value_name = "CARDS")]
    cards: PathBuf,
    /// Folder for network.json
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    trust: TrustArgs,
}

/// One validator's word for a change of the set.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Approval {
    /// The chain.
    chain_id: ChainId,
    /// How many changes there were before it.
    number: u64,
    /// All validators from then on, ascending by key.
    validators: Vec<Validator>,
    /// Who approves.
    approves: ValidatorId,
    /// Over [`approval_bytes`].
    signature: Signature,
}

/// The set that cards describe.
fn set_of(cards: &[Card]) -> Result<Vec<Validator>, CliError> {
    let one = |card: &Card| Validator {
        id: card.id,
        power: card.power,
    };
    let set = ValidatorSet::new(cards.iter().map(one).collect());
    let set = set.map_err(|e| CliError::caused(Class::Input, "these cards make no set", &e))?;
    Ok(set.validators().to_vec())
}

/// `chain approve`.
pub async fn approve(args: ApproveArgs, context: &Context) -> Result<(), CliError> {
    let validators = set_of(&read_cards(&args.cards)?)?;
    let key = validator::existing_key(&context.config.home)?;
    let chain = connect_proven(context, &args.trust).await?;
    let chain_id = chain.node().chain_id();
    let found = chain.read(|s| Ok((governance::changes(s)?, governance::sets(s)?)));
    let (number, sets) = found.await.map_err(|e| ClientError::from(disbelief(e)))?;
    let (approves, Sig(sig)) =
        governance::approve(&chain_id, number, &validators, key.signing_key());
    let newest = sets.map(|(_, next)| next);
    if newest.is_none_or(|set| set.power_of(&approves).is_none()) {
        let text = format!("{approves}, the key of this home, has no vote on this chain");
        return Err(CliError::new(Class::Refused, text).hint(
            "`holdfast chain validators` lists who has; run this in the home of one of them",
        ));
    }
    let approval = Approval {
        chain_id,
        number,
        validators,
        approves,
        signature: Signature(sig),
    };
    // One line, so that they can be gathered in a file.
    context.out.result(&approval, |approval| {
        serde_json::to_string(approval).expect("plain fields serialise")
    })
}

#[derive(Debug, Serialize)]
struct Changed {
    height: u64,
    from_height: u64,
    validators: usize,
    tx: String,
}

/// `chain set-validators`.
pub async fn set_validators(args: SetArgs, context: &Context) -> Result<(), CliError> {
    let ((chain_id, number), validators, approvals) = gather(&args.approvals)?;
    let wallet = open_wallet(context, &args.keys)?;
    // Two commands of one wallet at a time would take the same nonce.
    let _lock = WalletLock::take(&context.config.home)?;
    let chain = connect_chain(context).await?;
    if chain.chain_id() != chain_id {
        let text = format!("the approvals are for chain {chain_id}");
        return Err(CliError::new(Class::Input, text).hint("name that chain's node with --chain"));
    }
    let count = validators.len();
    let change = Message::SetValidators {
        number,
        validators,
        approvals,
    };
    let receipt = chain.execute(wallet.signing_key(), vec![change]).await?;
    let status = chain.tx_status(&receipt.tx).await?;
    let TxStatus::Included { height, .. } = status else {
        let text = format!("the node has forgotten transaction {}", receipt.tx);
        return Err(CliError::new(Class::BadData, text).hint("look at `holdfast chain validators`"));
    };
    let changed = Changed {
        height,
        from_height: height + 2,
        validators: count,
        tx: receipt.tx.to_string(),
    };
    context.out.result(&changed, |c| {
        format!(
            "block {} changes the validators: from block {} on {} decide (transaction {})\n\
             a node with the embedded engine goes no further; all of them go on with `holdfast chain run`",
            c.height, c.from_height, c.validators, c.tx
        )
    })
}

type Gathered = ((ChainId, u64), Vec<Validator>, Vec<(ValidatorId, Sig)>);

/// The one change that all approvals of a file speak of, and its signatures, each checked.
fn gather(path: &Path) -> Result<Gathered, CliError> {
    let unread = |e| CliError::io("cannot read", path, &e);
    if std::fs::metadata(path).map_err(unread)?.len() > MAX_APPROVAL_BYTES {
        let text = format!("{} is too large for approvals", path.display());
        return Err(CliError::new(Class::Input, text).hint("gather what `chain approve` printed"));
    }
    let text = std::fs::read_to_string(path).map_err(unread)?;
    let mut change: Option<((ChainId, u64), Vec<Validator>)> = None;
    let mut approvals = vec![];
    let lines = text.lines().enumerate();
    for (index, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = |why: &dyn std::fmt::Display| {
            let text = format!("{}, line {}: {why}", path.display(), index + 1);
            CliError::new(Class::Input, text)
                .hint("gather the lines that `holdfast chain approve CARDS` printed at each validator, all for the same cards")
        };
        let one: Approval = serde_json::from_str(line).map_err(|e| wrong(&e))?;
        let bytes = approval_bytes(&one.chain_id, one.number, &one.validators);
        if !verify_strict(&Address(one.approves.0), &bytes, &one.signature) {
            return Err(wrong(&"the signature is not of this approval"));
        }
        let what = ((one.chain_id, one.number), one.validators);
        match &change {
            Some(first) if *first != what => {
                return Err(wrong(&"it approves another change than the first line"));
            }
            _ => change = Some(what),
        }
        approvals.push((one.approves, Sig(one.signature.0)));
    }
    approvals.sort_by_key(|(id, _)| *id);
    approvals.dedup_by_key(|(id, _)| *id);
    let (number, validators) = change.ok_or_else(|| {
        CliError::new(Class::Input, format!("{} is empty", path.display()))
            .hint("gather the lines that `holdfast chain approve CARDS` printed at each validator")
    })?;
    Ok((number, validators, approvals))
}

#[derive(Debug, Serialize)]
struct Invited {
    chain_id: ChainId,
    network: PathBuf,
}

/// `chain invite`.
pub async fn invite(args: InviteArgs, context: &Context) -> Result<(), CliError> {
    let cards = read_cards(&args.cards)?;
    let chain = connect_proven(context, &args.trust).await?;
    let node = chain.node();
    // Its id is the hash of its bytes, and `connect_proven` has settled which chain this is.
    let genesis = node.genesis().await?;
    let failed = |error: std::io::Error| CliError::io("cannot create", &args.out, &error);
    crate::identity::create_private_dir(&args.out).map_err(failed)?;
    let network = validator::invite(&args.out, cards, genesis)?;
    let invited = Invited {
        chain_id: network.genesis.chain_id(),
        network: args.out.join("network.json"),
    };
    context.out.result(&invited, |i| {
        format!(
            "wrote {} of chain {}\ngive it to every operator; validators also need the network's beacon.key, over a private way",
            i.network.display(),
            i.chain_id
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::SigningKey;

    fn line(chain: u8, number: u64, set: &[Validator], key: &SigningKey) -> String {
        let chain_id = ChainId([chain; 32]);
        let (approves, Sig(sig)) = governance::approve(&chain_id, number, set, key);
        let approval = Approval {
            chain_id,
            number,
            validators: set.to_vec(),
            approves,
            signature: Signature(sig),
        };
        serde_json::to_string(&approval).expect("plain")
    }

    #[test]
    fn approvals_of_one_change_are_gathered_and_all_others_refused() {
        let keys: Vec<SigningKey> = (1..=3u8)
            .map(|n| SigningKey::from_bytes(&[n; 32]))
            .collect();
        let id = |key: &SigningKey| ValidatorId(key.verifying_key().to_bytes());
        let of = |key: &SigningKey| Validator {
            id: id(key),
            power: 1,
        };
        let set = ValidatorSet::new(keys.iter().map(of).collect()).expect("a set");
        let set = set.validators();
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("approvals");
        let read = |lines: &[String]| {
            std::fs::write(&file, lines.join("\n")).expect("writes");
            gather(&file)
        };
        let good: Vec<String> = keys.iter().rev().map(|k| line(7, 2, set, k)).collect();
        let twice = [&good[..], &good[..1], &[String::new()]].concat();
        let (number, validators, approvals) = read(&twice).expect("good");
        assert_eq!(number, (ChainId([7; 32]), 2));
        assert_eq!(validators, set);
        assert!(approvals.windows(2).all(|w| w[0].0 < w[1].0));
        assert_eq!(approvals.len(), 3);
        for (other, says) in [
            (line(8, 2, set, &keys[1]), "another change"),
            (line(7, 3, set, &keys[1]), "another change"),
            (line(7, 2, &set[1..], &keys[1]), "another change"),
            (good[1].replace("\"number\":2", "\"number\":3"), "signature"),
            ("{}".into(), "missing field"),
        ] {
            let error = read(&[good[0].clone(), other]).expect_err("refused");
            let text = error.to_string();
            assert!(text.contains(says) && text.contains("line 2"), "{text}");
        }
        assert!(read(&[]).is_err());
    }
}
