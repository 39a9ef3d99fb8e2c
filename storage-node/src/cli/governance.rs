//! `holdfast chain approve|set-validators`: who decides blocks from now on, approved by more than two thirds of who decides now.
//!
//! Arguments and words; the rules are [`chain_lite::governance`]'s. Every validator looks at the same list and approves it with its
//! own key, at its own machine; anybody then sends the change with the approvals that were gathered. A solo operator is a quorum of
//! one, so this is also how a chain moves from one machine to several.
//!
//! Both files have one JSON value on a line: cards as `chain card` prints them, approvals as `chain approve` does.

use std::path::{Path, PathBuf};

use chain_lite::account::{Address, ChainId};
use chain_lite::certificate::{MAX_VALIDATORS, Sig, Validator, ValidatorId};
use chain_lite::governance;
use chain_lite::message::{Message, Signature, verify_strict};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::account::{connect_proven, is_left, proven, send_and_tell, wallet_and_chain};
use super::args::{TrustArgs, WhoArgs};
use super::{Class, CliError, Context};
use crate::chain::proven::ProvenChain;
use crate::identity::Wallet;

/// Longest file of cards or approvals: a full set, with room for addresses.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Arguments of `chain approve`.
#[derive(Debug, clap::Args)]
pub struct ApproveArgs {
    /// File with the card of every validator of the new set, one per line
    #[arg(long, value_name = "FILE")]
    validators: PathBuf,
    /// This validator's key [default: validator.key of this home]
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    #[command(flatten)]
    trust: TrustArgs,
}

/// Arguments of `chain set-validators`.
#[derive(Debug, clap::Args)]
pub struct SetArgs {
    /// File with the card of every validator of the new set, one per line
    #[arg(long, value_name = "FILE")]
    validators: PathBuf,
    /// File with what `chain approve` printed at the validators, one per line
    #[arg(long, value_name = "FILE")]
    approvals: PathBuf,
    #[command(flatten)]
    who: WhoArgs,
}

/// What counts of a card.
#[derive(Debug, Deserialize)]
struct Member {
    id: ValidatorId,
    power: u64,
}

/// One validator's approval of one list.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Approval {
    chain_id: ChainId,
    /// How many changes there were before this one.
    number: u64,
    validator: ValidatorId,
    signature: Sig,
}

/// `chain approve`.
pub async fn approve(args: &ApproveArgs, context: &Context) -> Result<(), CliError> {
    let validators = members(&args.validators)?;
    let default = context.config.home.root().join("validator.key");
    let key = Wallet::open(args.key.as_ref().unwrap_or(&default), || None)?;
    let chain = connect_proven(context, &args.trust).await?;
    let (number, set) = state(&chain).await?;
    let chain_id = chain.node().chain_id();
    let (validator, signature) =
        governance::approve(&chain_id, number, &validators, key.signing_key());
    if set.iter().all(|known| known.id != validator) {
        return Err(CliError::new(
            Class::Refused,
            format!("{validator} is no validator of this chain: its approval would not count"),
        )
        .hint("name the validator's key with --key FILE"));
    }
    let approval = Approval {
        chain_id,
        number,
        validator,
        signature,
    };
    // One line, so that whoever sends the change can gather them in a file.
    context.out.result(&approval, |approval| {
        serde_json::to_string(approval).expect("plain fields serialise")
    })
}

#[derive(Debug, Serialize)]
struct Changed {
    number: u64,
    validators: usize,
    approved: u64,
    of: u64,
}

/// `chain set-validators`.
pub async fn set_validators(args: &SetArgs, context: &Context) -> Result<(), CliError> {
    let validators = members(&args.validators)?;
    let gathered: Vec<Approval> = lines(&args.approvals, "what `holdfast chain approve` prints")?;
    let (wallet, chain) = wallet_and_chain(context, &args.who).await?;
    let (next, set) = state(&chain).await?;
    let number = gathered.first().map_or(next, |approval| approval.number);
    let mut approvals: Vec<(ValidatorId, Sig)> = gathered
        .iter()
        .map(|approval| (approval.validator, approval.signature))
        .collect();
    approvals.sort_unstable_by_key(|(id, _)| *id);
    approvals.dedup_by_key(|(id, _)| *id);
    let power = |id: &ValidatorId| {
        let found = set.iter().find(|known| known.id == *id);
        u128::from(found.map_or(0, |known| known.power))
    };
    let approved: u128 = approvals.iter().map(|(id, _)| power(id)).sum();
    let total: u128 = set.iter().map(|known| u128::from(known.power)).sum();
    let count = validators.len();
    let message = Message::SetValidators {
        number,
        validators: validators.clone(),
        approvals,
    };
    // What an interrupted command has sent may be the change that makes these approvals old.
    if !is_left(context, &chain, &message)? {
        for approval in &gathered {
            check(approval, &chain.node().chain_id(), next, &validators)?;
        }
        if approved * 3 <= total * 2 {
            return Err(CliError::new(
                Class::Refused,
                format!("the approvals have {approved} of {total} votes, and more than two thirds are needed"),
            )
            .hint("every validator runs `holdfast chain approve` with the same list"));
        }
    }
    let changed = Changed {
        number,
        validators: count,
        approved: u64::try_from(approved).unwrap_or(u64::MAX),
        of: u64::try_from(total).unwrap_or(u64::MAX),
    };
    let what = async |_: &_| Ok(changed);
    send_and_tell(context, &chain, &wallet, message, what, |c, sent| {
        format!(
            "{}{} validators decide from the second block after this one (change {}, {} of {} votes)",
            sent.before(""),
            c.validators,
            c.number,
            c.approved,
            c.of
        )
    })
    .await
}

/// Whether an approval is for this very change.
fn check(
    approval: &Approval,
    chain: &ChainId,
    next: u64,
    validators: &[Validator],
) -> Result<(), CliError> {
    let refused = |why: String| {
        let text = format!("the approval of {} {why}", approval.validator);
        Err(CliError::new(Class::Refused, text)
            .hint("ask for it again: holdfast chain approve --validators FILE, with the same list"))
    };
    if approval.chain_id != *chain {
        return refused(format!("is for chain {}", approval.chain_id));
    }
    if approval.number != next {
        return refused(format!(
            "is for change {}, and the next one is {next}",
            approval.number
        ));
    }
    let bytes = governance::approval_bytes(chain, next, validators);
    let signature = Signature(approval.signature.0);
    match verify_strict(&Address(approval.validator.0), &bytes, &signature) {
        true => Ok(()),
        false => refused("is not for this list".to_owned()),
    }
}

/// The number of the next change, and who approves it, proven.
async fn state(chain: &ProvenChain) -> Result<(u64, Vec<Validator>), CliError> {
    let read = |state: &dyn chain_lite::state::KvRead| {
        let number = governance::changes(state)?;
        let sets = governance::sets(state)?;
        // The newest decided set approves.
        let newest = sets.map_or_else(Vec::new, |(_, next)| next.validators().to_vec());
        Ok((number, newest))
    };
    chain.read(read).await.map_err(proven)
}

/// The validators of a list, in the order in which everybody approves them.
fn members(path: &Path) -> Result<Vec<Validator>, CliError> {
    let cards: Vec<Member> = lines(path, "the cards that `holdfast chain card` prints")?;
    let mut validators: Vec<Validator> = cards
        .into_iter()
        .map(|Member { id, power }| Validator { id, power })
        .collect();
    validators.sort_unstable_by_key(|validator| validator.id);
    let refused = |text: String| {
        Err(
            CliError::new(Class::Input, format!("{}: {text}", path.display()))
                .hint("one card a line, each validator once"),
        )
    };
    if validators.is_empty() || validators.len() > MAX_VALIDATORS {
        return refused(format!(
            "1 to {MAX_VALIDATORS} validators, not {}",
            validators.len()
        ));
    }
    if let Some(twice) = validators.windows(2).find(|pair| pair[0].id == pair[1].id) {
        return refused(format!("{} is there twice", twice[0].id));
    }
    Ok(validators)
}

/// One JSON value on each line that is not empty.
pub(super) fn lines<T: DeserializeOwned>(path: &Path, what: &str) -> Result<Vec<T>, CliError> {
    let failed = |error: std::io::Error| CliError::io("cannot read", path, &error);
    let bad = |why: String| {
        CliError::new(Class::Input, format!("{}: {why}", path.display()))
            .hint(format_args!("it has {what}, one per line"))
    };
    if std::fs::metadata(path).map_err(failed)?.len() > MAX_FILE_BYTES {
        return Err(bad("it is too long".to_owned()));
    }
    let text = std::fs::read_to_string(path).map_err(failed)?;
    values(&text).map_err(|error| bad(error.to_string()))
}

fn values<T: DeserializeOwned>(text: &str) -> serde_json::Result<Vec<T>> {
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    lines.map(serde_json::from_str).collect()
}

/// Any bytes as the lines of both kinds of files: refused, or approvals that are the same after being written and read. Body of the
/// fuzz target.
pub fn fuzz_lines(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    for line in text.lines() {
        let _ = values::<Member>(line);
        for approval in values::<Approval>(line).unwrap_or_default() {
            let line = serde_json::to_string(&approval).expect("plain fields serialise");
            assert_eq!(values::<Approval>(&line).expect("just written"), [approval]);
        }
    }
}
