//! Who decides blocks, height by height: set changes by a quorum, and the loss of the right to vote.
//!
//! Walk: [`crate::execute::apply`] calls [`begin_block`] before anything else and the two messages here; the
//! [`crate::ledger`], the auditor and (through headers) the light client follow [`sets`]; `chain verify` runs the rules of this
//! module and no others ([`crate::audit::verify_file`]).
//! Spec: `consensus.md` §§4 (traps 4, 10, 12), 7, 10. A change decided in block `h` takes effect at `h + 2`, and header
//! `h + 1` announces it as `next_validators_hash`.
//!
//! * **Who may change the set**: validators with more than two thirds of the power of the newest decided set, each signing
//!   `borsh("holdfast/validators/v1", chain id, number of the change, validators)`. Genesis names the first quorum; every set
//!   names the next. So a chain needs no key that stands above it, a solo operator changes its set with its own key, and
//!   a chain made before this rule existed can still move to other validators, because its genesis names them.
//! * **Double votes and proposals** ([`DoubleVote`], [`DoubleProposal`]): two different votes of one validator for one height, round
//!   and step, or two different blocks proposed in one round. Anybody may report them; the validator is jailed: out of the set at `h + 2` until a set change brings it back. Once per offence, for who is
//!   jailed cannot be jailed again, and a set change that brings somebody back settles everything before it.
//! * **Missed proposals**: a header of round `r` says that the proposers of rounds `0..r` of that height brought nothing. The
//!   round is part of the block id, so all nodes count alike, where certificates may differ from node to node; and a
//!   block that was proposed in time and decided in a later round is not held against who proposed it. More than
//!   [`missed_proposals_max`](crate::params::ChainParams::missed_proposals_max) in a row jail too.
//! * The last validator of a set stays in it: without any there would be no chain to bring it back.
//!
//! Leaves: `validators` (set of the next height), `next validators` (set of the one after, while it differs), `governance`,
//! one record for each validator with something to remember. Cost: three reads a block.

use std::cell::OnceCell;

use borsh::{BorshDeserialize, BorshSerialize};
use ed25519_dalek::{Signer, SigningKey};
use serde::{Deserialize, Serialize};

use crate::account::{Address, ChainId};
use crate::certificate::{
    BlockId, CertError, Certificate, MAX_VALIDATORS, Sig, Validator, ValidatorId, ValidatorSet,
    proposal_bytes_of, vote_bytes_of,
};
use crate::codec;
use crate::error::{ChainError, Rule, StoreError, Subject};
use crate::events::Event;
use crate::execute::Work;
use crate::message::{Signature, verify_strict};
use crate::state::{KvRead, key, read};

/// Heights from a decision about the set to the first that it is in force.
pub(crate) const DELAY: u64 = 2;

const CHANGE_TAG: &str = "holdfast/validators/v1";

/// How often the set was changed by [`set_validators`]: the number that the next change must carry.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    BorshSerialize,
    BorshDeserialize,
    Serialize,
    Deserialize,
)]
pub struct Governance {
    /// Changes so far.
    pub changes: u64,
}

/// Why a validator lost its place.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum JailReason {
    /// It signed two different votes where one was due.
    DoubleVote,
    /// It did not propose when it was its turn, too often in a row.
    MissedProposals,
    /// It proposed two different blocks where one was due.
    DoubleProposal,
}

/// What is remembered of a validator; an absent leaf remembers nothing.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    BorshSerialize,
    BorshDeserialize,
    Serialize,
    Deserialize,
)]
pub struct Record {
    /// Its turns in a row without a proposal.
    pub missed: u32,
    /// Since which height it is jailed, and why.
    pub jailed: Option<(u64, JailReason)>,
    /// Votes below this height no longer count against it: a set change brought it back.
    pub since: u64,
}

/// The step of a round in which a vote is cast, and whether it is for a block. Its number is part of the signed bytes.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    BorshSerialize,
    BorshDeserialize,
    Serialize,
    Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum VoteKind {
    /// First step, for a block.
    Prevote,
    /// Second step, for a block: what certificates are made of.
    Precommit,
    /// First step, for no block.
    PrevoteNil,
    /// Second step, for no block.
    PrecommitNil,
}

impl VoteKind {
    /// As the vote's bytes have it.
    pub const fn number(self) -> u8 {
        match self {
            Self::Prevote => 1,
            Self::Precommit => 2,
            Self::PrevoteNil => 3,
            Self::PrecommitNil => 4,
        }
    }

    const fn is_nil(self) -> bool {
        matches!(self, Self::PrevoteNil | Self::PrecommitNil)
    }

    const fn is_prevote(self) -> bool {
        matches!(self, Self::Prevote | Self::PrevoteNil)
    }
}

/// One signed vote of a [`DoubleVote`].
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
pub struct CastVote {
    /// Step and kind.
    pub kind: VoteKind,
    /// The block; zeros for none.
    pub block: BlockId,
    /// The validator's signature over the vote's bytes.
    pub sig: Sig,
}

/// Two votes of one validator of which an honest one casts at most one.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
pub struct DoubleVote {
    /// Whose.
    pub validator: ValidatorId,
    /// The height of both.
    pub height: u64,
    /// The round of both.
    pub round: u32,
    /// The lesser by (kind, block), so that evidence has one encoding.
    pub first: CastVote,
    /// The other one.
    pub second: CastVote,
}

impl DoubleVote {
    /// Puts two votes in their order.
    pub fn new(
        validator: ValidatorId,
        height: u64,
        round: u32,
        one: CastVote,
        other: CastVote,
    ) -> Self {
        let (first, second) = in_order(one, other, |v| (v.kind, v.block));
        Self {
            validator,
            height,
            round,
            first,
            second,
        }
    }

    /// Whether both votes are this validator's and contradict each other. Two signature checks at most.
    pub fn holds(&self, chain_id: &ChainId) -> bool {
        let (a, b) = (&self.first, &self.second);
        let well_formed = |v: &CastVote| !v.kind.is_nil() || v.block == BlockId([0; 32]);
        let contradict = (a.kind, a.block) < (b.kind, b.block)
            && a.kind.is_prevote() == b.kind.is_prevote()
            && well_formed(a)
            && well_formed(b);
        let signed = |v: &CastVote| {
            let number = v.kind.number();
            let bytes = vote_bytes_of(
                chain_id,
                number,
                self.height,
                self.round,
                &v.block,
                &self.validator,
            );
            verify_strict(&Address(self.validator.0), &bytes, &Signature(v.sig.0))
        };
        contradict && signed(a) && signed(b)
    }

    /// The evidence in two certificates of one height and round for different blocks: everybody who signed both.
    pub fn between(one: &Certificate, other: &Certificate) -> Vec<Self> {
        let (Certificate::Ed25519V1 { sigs, .. }, Certificate::Ed25519V1 { sigs: others, .. }) =
            (one, other);
        let (height, round) = (one.height(), one.round());
        if (other.height(), other.round()) != (height, round) || one.block() == other.block() {
            return Vec::new();
        }
        let vote = |certificate: &Certificate, sig| CastVote {
            kind: VoteKind::Precommit,
            block: certificate.block(),
            sig,
        };
        let both = sigs.iter().filter_map(|(id, sig)| {
            let (_, twin) = others.iter().find(|(other, _)| other == id)?;
            let (a, b) = (vote(one, *sig), vote(other, *twin));
            Some(Self::new(*id, height, round, a, b))
        });
        both.collect()
    }
}

/// One signed proposal of a [`DoubleProposal`].
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
pub struct CastProposal {
    /// The block.
    pub block: BlockId,
    /// The earlier round in which two thirds prevoted for it, if it was proposed again.
    pub pol_round: Option<u32>,
    /// The validator's signature over the proposal's bytes.
    pub sig: Sig,
}

/// Two blocks that one validator proposed in one round. An honest one proposes the block that it kept before it first said so,
/// also after a restart. The same block with another `pol_round` is no offence: it splits nobody's votes.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
pub struct DoubleProposal {
    /// Whose.
    pub validator: ValidatorId,
    /// The height of both.
    pub height: u64,
    /// The round of both.
    pub round: u32,
    /// The one with the lesser block, so that evidence has one encoding.
    pub first: CastProposal,
    /// The other one.
    pub second: CastProposal,
}

impl DoubleProposal {
    /// Puts two proposals in their order.
    pub fn new(
        validator: ValidatorId,
        height: u64,
        round: u32,
        one: CastProposal,
        other: CastProposal,
    ) -> Self {
        let (first, second) = in_order(one, other, |p| p.block);
        Self {
            validator,
            height,
            round,
            first,
            second,
        }
    }

    /// Whether both proposals are this validator's and of different blocks. Two signature checks at most.
    pub fn holds(&self, chain_id: &ChainId) -> bool {
        let signed = |p: &CastProposal| {
            let bytes = proposal_bytes_of(
                chain_id,
                self.height,
                self.round,
                &p.block,
                p.pol_round,
                &self.validator,
            );
            verify_strict(&Address(self.validator.0), &bytes, &Signature(p.sig.0))
        };
        self.first.block < self.second.block && signed(&self.first) && signed(&self.second)
    }
}

/// A pair with the lesser one first, so that evidence has one encoding.
fn in_order<T, K: Ord>(one: T, other: T, place: impl Fn(&T) -> K) -> (T, T) {
    match place(&one) <= place(&other) {
        true => (one, other),
        false => (other, one),
    }
}

/// The bytes that approve a change of the set: `number` is [`Governance::changes`] before it.
pub fn approval_bytes(chain_id: &ChainId, number: u64, validators: &[Validator]) -> Vec<u8> {
    codec::encode(&(CHANGE_TAG, chain_id, number, validators))
}

/// One validator's approval of a change. `validators` in ascending order of key.
pub fn approve(
    chain_id: &ChainId,
    number: u64,
    validators: &[Validator],
    key: &SigningKey,
) -> (ValidatorId, Sig) {
    let sig = key.sign(&approval_bytes(chain_id, number, validators));
    let id = ValidatorId(key.verifying_key().to_bytes());
    (id, Sig(sig.to_bytes()))
}

/// The sets of the next height and of the one after it, as a state has them; `None` in a state without validators.
pub fn sets(state: &dyn KvRead) -> Result<Option<(ValidatorSet, ValidatorSet)>, StoreError> {
    let Some(now) = stored_set(state, key::validators())? else {
        return Ok(None);
    };
    let next = stored_set(state, key::next_validators())?;
    let next = next.unwrap_or_else(|| now.clone());
    Ok(Some((now, next)))
}

/// The number that the next change must carry.
pub fn changes(state: &dyn KvRead) -> Result<u64, StoreError> {
    let governance: Option<Governance> = read(state, &key::governance())?;
    Ok(governance.unwrap_or_default().changes)
}

/// What is remembered of a validator.
pub fn record(state: &dyn KvRead, id: &ValidatorId) -> Result<Record, StoreError> {
    Ok(read(state, &key::validator(id))?.unwrap_or_default())
}

pub(crate) fn stored_set(
    state: &dyn KvRead,
    key: Vec<u8>,
) -> Result<Option<ValidatorSet>, StoreError> {
    let Some(bytes) = state.get(&key)? else {
        return Ok(None);
    };
    let broken = |e: CertError| StoreError::corrupt(&key, e.to_string());
    let list: Vec<Validator> = crate::state::decode(&key, &bytes)?;
    ValidatorSet::checked_before(list).map(Some).map_err(broken)
}

/// What a header's round says of a height's turns.
struct Turns {
    /// Who proposed.
    proposer: ValidatorId,
    /// Whose turns passed before, once each.
    late: Vec<ValidatorId>,
}

/// Whose turns there were at `height` up to `round`.
fn turns(set: &ValidatorSet, height: u64, round: u32) -> Turns {
    let proposer = set.proposer(height, round);
    let mut late = Vec::new();
    // More rounds than validators say no more about any of them than one turn each: bounded work for any round.
    let turns = round.min(u32::try_from(2 * set.validators().len()).unwrap_or(u32::MAX));
    for missed in (round - turns)..round {
        let id = set.proposer(height, missed);
        if id != proposer && !late.contains(&id) {
            late.push(id);
        }
    }
    Turns { proposer, late }
}

/// Before the work of a block: counts missed turns, then moves the sets on by one height.
pub(crate) fn begin_block(work: &mut Work<'_>, round: u32) -> Rule<()> {
    let Some(now) = stored_set(work.kv(), key::validators())? else {
        return Ok(());
    };
    let height = work.height;
    // Who proposed has ended its row of missed turns.
    let Turns { proposer, late } = turns(&now, height, round);
    let mut kept = record(work.kv(), &proposer)?;
    if kept.missed > 0 {
        kept.missed = 0;
        save_record(work, &proposer, &kept);
    }
    if let Some(next) = stored_set(work.kv(), key::next_validators())? {
        work.put_leaf(key::validators(), &next);
        work.unindex(key::next_validators());
    }
    let max = work.params.missed_proposals_max;
    for id in late {
        let mut kept = record(work.kv(), &id)?;
        kept.missed = kept.missed.saturating_add(1);
        save_record(work, &id, &kept);
        if max > 0 && kept.missed > max {
            jail(work, &id, JailReason::MissedProposals)?;
        }
    }
    Ok(())
}

/// The newest decided set: of height `work.height + 2`.
fn newest(work: &Work<'_>) -> Rule<ValidatorSet> {
    let what = Subject::ValidatorSet;
    match stored_set(work.kv(), key::next_validators())? {
        Some(set) => Ok(set),
        None => stored_set(work.kv(), key::validators())?
            .ok_or_else(|| ChainError::NotFound { what }.into()),
    }
}

/// Decides the set of height `work.height + 2`.
fn decide(work: &mut Work<'_>, set: &ValidatorSet) -> Rule<()> {
    let now = stored_set(work.kv(), key::validators())?;
    if now.as_ref() == Some(set) {
        work.unindex(key::next_validators());
    } else {
        work.put_leaf(key::next_validators(), set);
    }
    Ok(())
}

/// Replaces the set, approved by more than two thirds of the newest one. `verdict` is asked for the approval at an index, with the
/// check of its signature: who runs this many times may remember.
pub(crate) fn set_validators(
    work: &mut Work<'_>,
    number: u64,
    validators: &[Validator],
    approvals: &[(ValidatorId, Sig)],
    verdict: impl Fn(usize, &dyn Fn() -> bool) -> bool,
) -> Rule<()> {
    let expected = changes(work.kv())?;
    if number != expected {
        return Err(ChainError::OutOfBounds {
            what: Subject::ChangeNumber,
            value: number.into(),
            min: expected.into(),
            max: expected.into(),
        }
        .into());
    }
    // Approval first: what nobody approved must not cost the check of a thousand keys.
    let before = newest(work)?;
    approved(work, &before, number, validators, approvals, verdict)?;
    let what = Subject::ValidatorSet;
    let set = ValidatorSet::new(validators.to_vec()).ok();
    // Listed in their order, so that everybody approves the same bytes.
    let set = set.filter(|set| set.validators() == validators);
    // Not more than a deadline has turns for: a third of them must not be able to keep a proof out (V4).
    let set = set.filter(|_| work.params.spans_proposers(validators.len()));
    let set = set.ok_or(ChainError::NotAllowed { what })?;
    // Whoever is in the set now is in it with a clean record; what came before is settled.
    let since = work.height.saturating_add(DELAY);
    for validator in validators {
        let kept = record(work.kv(), &validator.id)?;
        let since = match kept.jailed {
            Some(_) => since,
            None => kept.since,
        };
        let clean = Record {
            since,
            ..Record::default()
        };
        if clean != kept {
            save_record(work, &validator.id, &clean);
        }
    }
    decide(work, &set)?;
    let changes = expected.checked_add(1).ok_or(crate::units::Overflow)?;
    work.put_leaf(key::governance(), &Governance { changes });
    work.emit(Event::ValidatorsChanged {
        effective: since,
        validators: u32::try_from(validators.len()).unwrap_or(u32::MAX),
        power: set.total_power(),
    });
    Ok(())
}

fn approved(
    work: &Work<'_>,
    before: &ValidatorSet,
    number: u64,
    validators: &[Validator],
    approvals: &[(ValidatorId, Sig)],
    verdict: impl Fn(usize, &dyn Fn() -> bool) -> bool,
) -> Rule<()> {
    let what = Subject::Approvals;
    if approvals.len() > MAX_VALIDATORS || approvals.windows(2).any(|w| w[0].0 >= w[1].0) {
        return Err(ChainError::NotAllowed { what }.into());
    }
    // Strangers and the jailed have no say; their signatures are not even looked at.
    let members = approvals
        .iter()
        .enumerate()
        .filter_map(|(at, (id, sig))| Some((at, before.power_of(id)?, id, sig)));
    let members: Vec<_> = members.collect();
    let (signed, total) = (
        members.iter().map(|(_, power, ..)| power).sum::<u64>(),
        before.total_power(),
    );
    // Both below 2^55: powers are capped.
    if signed * 3 <= total * 2 {
        return Err(ChainError::OutOfBounds {
            what,
            value: signed.into(),
            min: (total * 2 / 3 + 1).into(),
            max: total.into(),
        }
        .into());
    }
    let bytes = OnceCell::new();
    let holds = |(at, _, id, sig): &(usize, u64, &ValidatorId, &Sig)| {
        verdict(*at, &|| {
            let bytes = bytes.get_or_init(|| approval_bytes(&work.chain_id, number, validators));
            verify_strict(&Address(id.0), bytes, &Signature(sig.0))
        })
    };
    match members.iter().all(holds) {
        true => Ok(()),
        false => Err(ChainError::BadSignature { what }.into()),
    }
}

/// Jails who voted twice.
pub(crate) fn report_double_vote(work: &mut Work<'_>, evidence: &DoubleVote) -> Rule<()> {
    let of = (evidence.validator, evidence.height);
    punish(work, of, JailReason::DoubleVote, |chain| {
        evidence.holds(chain)
    })
}

/// Jails who proposed twice.
pub(crate) fn report_double_proposal(work: &mut Work<'_>, evidence: &DoubleProposal) -> Rule<()> {
    let of = (evidence.validator, evidence.height);
    punish(work, of, JailReason::DoubleProposal, |chain| {
        evidence.holds(chain)
    })
}

/// Jails a validator for an offence at a height, if it `holds`.
pub(crate) fn punish(
    work: &mut Work<'_>,
    (validator, height): (ValidatorId, u64),
    reason: JailReason,
    holds: impl FnOnce(&ChainId) -> bool,
) -> Rule<()> {
    let what = Subject::Evidence;
    if height > work.height {
        return Err(ChainError::OutOfBounds {
            what,
            value: height.into(),
            min: 0,
            max: work.height.into(),
        }
        .into());
    }
    // What costs no signature comes first: each offence is judged once.
    let kept = record(work.kv(), &validator)?;
    if kept.jailed.is_some() || height < kept.since {
        return Err(ChainError::Duplicate { what }.into());
    }
    let set = newest(work)?;
    if set.power_of(&validator).is_none() {
        let what = Subject::Validator;
        return Err(ChainError::NotFound { what }.into());
    }
    if !holds(&work.chain_id) {
        return Err(ChainError::BadSignature { what }.into());
    }
    match jail(work, &validator, reason)? {
        true => Ok(()),
        false => Err(ChainError::NotAllowed {
            what: Subject::LastValidator,
        }
        .into()),
    }
}

/// Takes a validator out of the newest set; says whether it did. The last one stays.
fn jail(work: &mut Work<'_>, id: &ValidatorId, reason: JailReason) -> Rule<bool> {
    let set = newest(work)?;
    let rest = set.validators().iter().filter(|v| v.id != *id).copied();
    let rest: Vec<Validator> = rest.collect();
    if rest.is_empty() || rest.len() == set.validators().len() {
        return Ok(false);
    }
    let broken = |e: CertError| StoreError::corrupt(&key::validators(), e.to_string());
    decide(work, &ValidatorSet::checked_before(rest).map_err(broken)?)?;
    let mut kept = record(work.kv(), id)?;
    kept.jailed = Some((work.height, reason));
    kept.missed = 0;
    save_record(work, id, &kept);
    work.emit(Event::ValidatorJailed {
        validator: *id,
        reason,
        effective: work.height.saturating_add(DELAY),
    });
    Ok(true)
}

fn save_record(work: &mut Work<'_>, id: &ValidatorId, record: &Record) {
    if *record == Record::default() {
        work.unindex(key::validator(id));
    } else {
        work.put_leaf(key::validator(id), record);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit;
    use crate::block::Block;
    use crate::engine::EngineStatus;
    use crate::engine::solo;
    use crate::execute::Outcome;
    use crate::genesis::Genesis;
    use crate::ledger::tests::{beacon, four, genesis, open, proposed, signed, transfer, user};
    use crate::ledger::{BlockError, Ledger, LedgerError, Slot};
    use crate::light::{self, LightClient, LightError};
    use crate::mempool::Mempool;
    use crate::message::{Message, SignedTx, Tx, sign};
    use crate::state::key as at;
    use crate::store;
    use crate::units::TokenAmount;
    use std::sync::Arc;
    use std::time::Duration;

    const DAY_MS: u64 = 86_400_000;

    fn id(key: &SigningKey) -> ValidatorId {
        ValidatorId(key.verifying_key().to_bytes())
    }
    fn list(keys: &[SigningKey]) -> Vec<Validator> {
        let of = |key| Validator {
            id: id(key),
            power: 1,
        };
        let mut all: Vec<_> = keys.iter().map(of).collect();
        all.sort_by_key(|v| v.id);
        all
    }
    fn set(keys: &[SigningKey]) -> ValidatorSet {
        ValidatorSet::new(list(keys)).unwrap()
    }

    /// A chain whose validators' keys we all hold.
    struct Net {
        home: tempfile::TempDir,
        genesis: Genesis,
        keys: Vec<SigningKey>,
        ledger: Ledger,
        nonce: std::cell::Cell<u64>,
    }

    impl Net {
        /// Four validators out of eight keys.
        fn new(change: impl FnOnce(&mut Genesis)) -> Self {
            let (mut genesis, _) = four();
            change(&mut genesis);
            let home = tempfile::tempdir().unwrap();
            let ledger = open(home.path(), &genesis).unwrap();
            let keys = (100..108).map(user).collect();
            Self {
                home,
                genesis,
                keys,
                ledger,
                nonce: Default::default(),
            }
        }

        fn tx(&self, msgs: Vec<Message>) -> SignedTx {
            let nonce = self.nonce.replace(self.nonce.get() + 1);
            let tx = Tx {
                version: 1,
                chain_id: self.ledger.chain_id(),
                sender: Address::of(&user(0).verifying_key()),
                nonce,
                fee_limit: TokenAmount(0),
                valid_until_height: u64::MAX,
                msgs,
            };
            sign(tx, &user(0))
        }

        /// A transaction that governance would accept and that fails all the same: nobody has that much money.
        fn void(&self, msg: Message) -> SignedTx {
            let beyond = Message::Transfer {
                to: Address::of(&user(1).verifying_key()),
                amount: TokenAmount(u128::MAX),
            };
            self.tx(vec![msg, beyond])
        }

        fn signers(&self) -> Vec<SigningKey> {
            let set = self.ledger.validators();
            let in_set = |key: &&SigningKey| set.power_of(&id(key)).is_some();
            self.keys.iter().filter(in_set).cloned().collect()
        }

        /// One block in `round`, signed by all validators of its height; what became of its transaction, if it had one.
        fn block(&self, round: u32, msg: Option<Message>) -> Option<Result<(), ChainError>> {
            self.block_of(round, msg).pop()
        }

        /// As [`Net::block`], with a transaction for each message.
        fn block_of(
            &self,
            round: u32,
            msgs: impl IntoIterator<Item = Message>,
        ) -> Vec<Result<(), ChainError>> {
            let txs = msgs.into_iter().map(|msg| self.tx(vec![msg])).collect();
            self.block_with(round, txs)
        }

        fn block_with(&self, round: u32, txs: Vec<SignedTx>) -> Vec<Result<(), ChainError>> {
            let (block, slot) = proposed(&self.ledger, round, txs);
            let chain = self.ledger.chain_id();
            let certificate = signed(&chain, slot, block.id(), &self.signers());
            let height = slot.height;
            self.ledger.commit(block, certificate).unwrap();
            let receipts = self.ledger.outcomes(height).unwrap().receipts;
            let told = receipts.iter().map(|receipt| match &receipt.outcome {
                Outcome::Applied { .. } => Ok(()),
                _ => Err(receipt.error().unwrap().clone()),
            });
            told.collect()
        }

        fn change(&self, to: &[SigningKey], by: &[SigningKey]) -> Message {
            let number = changes(&self.ledger.view()).unwrap();
            self.change_of(number, list(to), by)
        }

        fn change_of(&self, number: u64, to: Vec<Validator>, by: &[SigningKey]) -> Message {
            let chain = self.ledger.chain_id();
            let one = |key| approve(&chain, number, &to, key);
            let mut approvals: Vec<_> = by.iter().map(one).collect();
            approvals.sort_by_key(|a| a.0);
            Message::SetValidators {
                number,
                validators: to,
                approvals,
            }
        }

        /// Two precommits of one key for height 1.
        fn evidence(&self, key: &SigningKey, height: u64) -> DoubleVote {
            double(&self.ledger.chain_id(), key, height, 0)
        }

        fn replays(&self) {
            let log = self.home.path().join("blocks.log");
            let chain = Some(self.ledger.chain_id());
            let report = audit::replay(&log, chain, &mut |_: &audit::Replayed<'_>| ()).unwrap();
            assert_eq!(report.report.failures, []);
            assert_eq!(report.report.state_root, self.ledger.tip().state_root);
            let quick = audit::verify_file(&log, chain, &mut |_| ()).unwrap();
            assert_eq!(quick.failures, []);
            assert_eq!(quick.blocks, self.ledger.tip().height);
        }
    }

    fn vote(chain: &ChainId, key: &SigningKey, kind: VoteKind, slot: Slot, block: u8) -> CastVote {
        let block = BlockId([block; 32]);
        let (height, round) = (slot.height, slot.round);
        let bytes = vote_bytes_of(chain, kind.number(), height, round, &block, &id(key));
        let sig = Sig(key.sign(&bytes).to_bytes());
        CastVote { kind, block, sig }
    }

    fn double(chain: &ChainId, key: &SigningKey, height: u64, round: u32) -> DoubleVote {
        let slot = Slot { height, round };
        let cast = |block| vote(chain, key, VoteKind::Precommit, slot, block);
        DoubleVote::new(id(key), height, round, cast(1), cast(2))
    }

    #[test]
    fn a_change_is_announced_one_block_later_and_in_force_after_two() {
        let net = Net::new(|_| ());
        let (old, new) = (&net.keys[..4], &net.keys[1..5]);
        let change = net.change(new, &old[..3]);
        assert_eq!(net.block(0, Some(change)), Some(Ok(())));
        let front = net.ledger.front();
        assert_eq!((*front.validators).clone(), set(old));
        assert_eq!((*front.next_validators).clone(), set(new));
        net.block(0, None);
        let second = net.ledger.block(2).unwrap().block.header;
        assert_eq!(second.validators_hash, set(old).hash());
        assert_eq!(second.next_validators_hash, set(new).hash());
        // Three of the old set are in the new one too, but the one who left does not count any more.
        let (third, slot) = proposed(&net.ledger, 0, vec![]);
        let chain = net.ledger.chain_id();
        let stale = signed(&chain, slot, third.id(), &old[..3]);
        assert!(matches!(
            net.ledger.commit(third, stale),
            Err(LedgerError::Block(BlockError::Certificate(
                CertError::Unknown(_)
            )))
        ));
        net.block(0, None);
        net.block(0, None);
        let third = net.ledger.block(3).unwrap();
        assert_eq!(third.block.header.validators_hash, set(new).hash());
        let check = |ledger: &Ledger| {
            for (height, keys) in [(1, old), (2, old), (3, new), (4, new), (5, new), (6, new)] {
                assert_eq!(
                    *ledger.validators_at(height).unwrap(),
                    set(keys),
                    "{height}"
                );
            }
            assert!(ledger.validators_at(7).is_err() && ledger.validators_at(0).is_err());
        };
        check(&net.ledger);
        net.replays();
        let Net {
            home,
            genesis,
            ledger,
            ..
        } = net;
        let tip = ledger.tip();
        drop(ledger);
        check(&open(home.path(), &genesis).unwrap());
        std::fs::remove_dir_all(store::index_dir(home.path())).unwrap();
        let again = open(home.path(), &genesis).unwrap();
        check(&again);
        assert_eq!(again.tip(), tip);
    }

    #[test]
    fn tm_v12_light_clients_follow_a_change_step_by_step_and_skip_only_with_a_third() {
        let net = Net::new(|_| ());
        // Set 1: keys 0–3. Set 2 from block 4: keys 2–5. Set 3 from block 7: keys 4–7, nobody of set 1.
        net.block(0, None);
        net.block(0, Some(net.change(&net.keys[2..6], &net.keys[..4])));
        net.block(0, None);
        net.block(0, None);
        net.block(0, Some(net.change(&net.keys[4..8], &net.keys[2..6])));
        for _ in 0..3 {
            net.block(0, None);
        }
        let now = net.ledger.tip().time_ms;
        let at = |height| light::light_block(&net.ledger, height).unwrap();
        let fresh = LightClient::new(net.ledger.genesis().trusted(), DAY_MS);
        let mut adjacent = fresh.clone();
        for height in 1..=8 {
            adjacent.advance(&at(height), now).unwrap();
        }
        assert_eq!(adjacent.id(), net.ledger.tip().id);
        let mut skipping = fresh.clone();
        skipping.advance(&at(4), now).unwrap();
        skipping.advance(&at(8), now).unwrap();
        assert_eq!(
            fresh.clone().advance(&at(8), now),
            Err(LightError::TooFar {
                signed: 0,
                total: 4
            })
        );
        net.replays();
    }

    #[test]
    fn tm_v1_only_a_quorum_of_the_newest_set_changes_it_and_only_once() {
        let net = Net::new(|_| ());
        let (old, new) = (&net.keys[..4], &net.keys[2..6]);
        let refused = |msg: Message, code: u16, why: &str| {
            let error = net.block(0, Some(msg)).unwrap().unwrap_err();
            assert_eq!(error.number(), code, "{why}: {error}");
            assert_eq!(*net.ledger.front().next_validators, set(old), "{why}");
        };
        refused(net.change(new, &old[..2]), 11, "half of the power");
        refused(net.change(new, &net.keys[4..8]), 11, "strangers");
        refused(net.change_of(1, list(new), old), 11, "number");
        refused(net.change(&[], old), 13, "empty");
        let mut backwards = list(new);
        backwards.reverse();
        refused(net.change_of(0, backwards, old), 13, "order");
        let mut twice = list(new);
        twice[1] = twice[0];
        refused(net.change_of(0, twice, old), 13, "twice");
        let mut huge = list(new);
        huge[0].power = crate::certificate::MAX_TOTAL_POWER;
        refused(net.change_of(0, huge, old), 13, "power above 2^53");
        let mut weak = list(new);
        weak[0].id = ValidatorId([0; 32]);
        refused(net.change_of(0, weak, old), 13, "small-order key");
        // A deadline of this chain has 20 turns: enough for 18 validators (V4).
        let crowd: Vec<SigningKey> = (30..49).map(user).collect();
        refused(
            net.change_of(0, list(&crowd), old),
            13,
            "more than a deadline has turns for",
        );
        let mut doubled = net.change(new, old);
        if let Message::SetValidators { approvals, .. } = &mut doubled {
            approvals[1] = approvals[0];
        }
        refused(doubled, 13, "an approval twice");
        let mut other = net.change(new, old);
        if let Message::SetValidators { validators, .. } = &mut other {
            validators[0].power = 2;
        }
        refused(other, 3, "approved for other powers");
        let foreign = ChainId([9; 32]);
        let mut elsewhere = net.change(new, old);
        if let Message::SetValidators { approvals, .. } = &mut elsewhere {
            *approvals = old
                .iter()
                .map(|key| approve(&foreign, 0, &list(new), key))
                .collect();
            approvals.sort_by_key(|a| a.0);
        }
        refused(elsewhere, 3, "approved for another chain");
        let good = net.change(new, &old[1..]);
        assert_eq!(net.block(0, Some(good.clone())), Some(Ok(())));
        assert_eq!(*net.ledger.front().next_validators, set(new));
        let again = net.block(0, Some(good)).unwrap();
        assert_eq!(again.unwrap_err().number(), 11, "a change counts once");
        // The newest decided set approves the next change, whether or not it is in force yet.
        assert_eq!(net.block(0, Some(net.change(old, &new[1..]))), Some(Ok(())));
        net.block(0, None);
        assert_eq!(*net.ledger.front().next_validators, set(old));
        net.replays();
    }

    #[test]
    fn solo_hands_the_chain_over_and_it_goes_on_in_the_same_folder() {
        let home = tempfile::tempdir().unwrap();
        let genesis = genesis(3);
        let ledger = Arc::new(open(home.path(), &genesis).unwrap());
        let pool = Arc::new(Mempool::new(ledger.chain_id()));
        let alone = crate::ledger::tests::validator();
        let keys = || solo::Keys {
            validator: alone.clone(),
            beacon: Box::new(beacon()),
        };
        let engine = solo::start(ledger.clone(), pool.clone(), keys()).unwrap();
        ledger.wait_beyond(2, Duration::from_secs(30));
        let four: Vec<SigningKey> = (100..104).map(user).collect();
        let chain = ledger.chain_id();
        let tx = Tx {
            version: 1,
            chain_id: chain,
            sender: Address::of(&user(0).verifying_key()),
            nonce: 0,
            fee_limit: TokenAmount(0),
            valid_until_height: u64::MAX,
            msgs: vec![Message::SetValidators {
                number: 0,
                validators: list(&four),
                approvals: vec![approve(&chain, 0, &list(&four), &alone)],
            }],
        };
        let tx = pool.submit(sign(tx, &user(0)), 0, &ledger.view()).unwrap();
        let mut tip = ledger.tip();
        while engine.status() == EngineStatus::Running {
            assert!(tip.height < 100_000, "the engine goes on without its power");
            tip = ledger.wait_beyond(tip.height, Duration::from_millis(20));
        }
        let EngineStatus::Failed { why } = engine.status() else {
            panic!("{:?}", engine.status())
        };
        assert!(why.contains("holdfast chain run"), "{why}");
        drop(engine);
        let (decided, _, receipt) = ledger.receipt(&tx).unwrap().unwrap();
        assert!(receipt.succeeded());
        assert_eq!(
            ledger.tip().height,
            decided + 1,
            "block H+1 was still solo's"
        );
        assert!(matches!(
            solo::start(ledger.clone(), pool.clone(), keys()),
            Err(solo::EngineError::NoQuorum {
                power: 0,
                total: 4,
                ..
            })
        ));
        drop((ledger, pool));
        // The same folder under other certificates; what `bft` does without its network.
        let ledger = open(home.path(), &genesis).unwrap();
        for n in 0..5 {
            let (block, slot) = proposed(&ledger, 0, vec![transfer(chain, 1, n, 2)]);
            let certificate = signed(&chain, slot, block.id(), &four[1..]);
            let whole: Block = block.block().clone();
            ledger.save_undecided(&whole, Default::default()).unwrap();
            ledger.commit_decided(whole, certificate).unwrap();
        }
        let tip = ledger.tip();
        let now = tip.time_ms;
        let mut client = LightClient::new(ledger.genesis().trusted(), u64::MAX);
        for height in 1..=tip.height {
            let step = light::light_block(&ledger, height).unwrap();
            client.advance(&step, now).unwrap();
        }
        drop(ledger);
        assert_eq!(open(home.path(), &genesis).unwrap().tip(), tip);
        let log = home.path().join("blocks.log");
        let found = audit::replay(&log, Some(chain), &mut |_: &audit::Replayed<'_>| ()).unwrap();
        assert!(found.report.ok(), "{:?}", found.report.failures);
        assert_eq!(found.report.state_root, tip.state_root);
        let quick = audit::verify_file(&log, Some(chain), &mut |_| ()).unwrap();
        assert!(quick.ok(), "{:?}", quick.failures);
    }

    #[test]
    fn tm_v1_a_double_vote_jails_once_and_a_set_change_settles_it() {
        let net = Net::new(|_| ());
        let (all, bad) = (&net.keys[..4], &net.keys[1]);
        let rest: Vec<_> = all.iter().filter(|k| id(k) != id(bad)).cloned().collect();
        net.block(0, None);
        let report = |evidence| Some(Message::ReportDoubleVote { evidence });
        assert_eq!(net.block(0, report(net.evidence(bad, 1))), Some(Ok(())));
        assert_eq!(*net.ledger.validators(), set(all));
        assert_eq!(*net.ledger.front().next_validators, set(&rest));
        let kept = record(&net.ledger.view(), &id(bad)).unwrap();
        assert_eq!(kept.jailed, Some((2, JailReason::DoubleVote)));
        // Once for this offence, and once for any other while it is out.
        for height in [1, 2] {
            let again = net.block(0, report(net.evidence(bad, height))).unwrap();
            assert_eq!(again.unwrap_err().number(), 10);
        }
        assert_eq!(*net.ledger.validators(), set(&rest));
        // Three of three bring it back; the old votes are settled, new ones are not.
        assert_eq!(net.block(0, Some(net.change(all, &rest))), Some(Ok(())));
        assert_eq!(*net.ledger.front().next_validators, set(all));
        let since = net.ledger.tip().height + 2;
        let old = net.block(0, report(net.evidence(bad, 2))).unwrap();
        assert_eq!(old.unwrap_err().number(), 10);
        net.block(0, None);
        assert_eq!(net.block(0, report(net.evidence(bad, since))), Some(Ok(())));
        assert_eq!(*net.ledger.front().next_validators, set(&rest));
        net.replays();
    }

    #[test]
    fn tm_v1_made_up_evidence_jails_nobody() {
        let net = Net::new(|_| ());
        let chain = net.ledger.chain_id();
        let (key, other) = (&net.keys[0], &net.keys[1]);
        let slot = Slot {
            height: 1,
            round: 0,
        };
        let cast = |kind, block| vote(&chain, key, kind, slot, block);
        let pair = |a, b| DoubleVote::new(id(key), 1, 0, a, b);
        use VoteKind::{Precommit, PrecommitNil, Prevote, PrevoteNil};
        let good = pair(cast(Precommit, 1), cast(Precommit, 2));
        assert!(good.holds(&chain));
        assert!(pair(cast(Prevote, 3), cast(PrevoteNil, 0)).holds(&chain));
        let mut swapped = good;
        std::mem::swap(&mut swapped.first, &mut swapped.second);
        let forged = [
            (
                "one vote twice",
                pair(cast(Precommit, 1), cast(Precommit, 1)),
            ),
            ("two steps", pair(cast(Prevote, 1), cast(Precommit, 2))),
            (
                "two steps, one of nil",
                pair(cast(PrevoteNil, 0), cast(Precommit, 2)),
            ),
            (
                "nil that names a block",
                pair(cast(PrecommitNil, 1), cast(Precommit, 2)),
            ),
            ("out of order", swapped),
            ("another round", DoubleVote { round: 1, ..good }),
            ("another height", DoubleVote { height: 0, ..good }),
            (
                "another validator",
                DoubleVote {
                    validator: id(other),
                    ..good
                },
            ),
            ("another chain", double(&ChainId([9; 32]), key, 1, 0)),
            (
                "another's second vote",
                pair(cast(Precommit, 1), vote(&chain, other, Precommit, slot, 2)),
            ),
        ];
        for (why, evidence) in forged {
            assert!(!evidence.holds(&chain), "{why}");
            let said = net.block(0, Some(Message::ReportDoubleVote { evidence }));
            assert_eq!(said.unwrap().unwrap_err().number(), 3, "{why}");
        }
        let future = net.evidence(key, 1_000);
        let said = net.block(0, Some(Message::ReportDoubleVote { evidence: future }));
        assert_eq!(said.unwrap().unwrap_err().number(), 11);
        let stranger = net.evidence(&net.keys[7], 1);
        let said = net.block(0, Some(Message::ReportDoubleVote { evidence: stranger }));
        assert_eq!(said.unwrap().unwrap_err().number(), 5);
        assert_eq!(*net.ledger.front().next_validators, set(&net.keys[..4]));
    }

    #[test]
    fn tm_v1_a_double_proposal_jails_and_made_up_ones_do_not() {
        let net = Net::new(|_| ());
        let chain = net.ledger.chain_id();
        let bad = &net.keys[1];
        let cast = |key: &SigningKey, round: u32, block: u8, pol_round| {
            let block = BlockId([block; 32]);
            let bytes = proposal_bytes_of(&chain, 1, round, &block, pol_round, &id(key));
            let sig = Sig(key.sign(&bytes).to_bytes());
            CastProposal {
                block,
                pol_round,
                sig,
            }
        };
        let of = |one, other| DoubleProposal::new(id(bad), 1, 3, one, other);
        let good = of(cast(bad, 3, 2, None), cast(bad, 3, 1, Some(2)));
        assert!(good.holds(&chain) && good.first.block < good.second.block);
        net.block(0, None);
        let swapped = DoubleProposal {
            first: good.second,
            second: good.first,
            ..good
        };
        let said_otherwise = CastProposal {
            pol_round: Some(1),
            ..good.first
        };
        let forged = [
            (
                "one block twice",
                of(cast(bad, 3, 1, None), cast(bad, 3, 1, Some(2))),
            ),
            ("out of order", swapped),
            (
                "two rounds",
                of(cast(bad, 3, 1, None), cast(bad, 4, 2, None)),
            ),
            ("another height", DoubleProposal { height: 0, ..good }),
            (
                "another's",
                of(cast(bad, 3, 1, None), cast(&net.keys[2], 3, 2, None)),
            ),
            ("another round of votes", of(said_otherwise, good.second)),
            (
                "another validator",
                DoubleProposal {
                    validator: id(&net.keys[2]),
                    ..good
                },
            ),
        ];
        let report = |evidence| net.block(0, Some(Message::ReportDoubleProposal { evidence }));
        for (why, evidence) in forged {
            assert_eq!(report(evidence).unwrap().unwrap_err().number(), 3, "{why}");
        }
        assert_eq!(report(good), Some(Ok(())));
        let kept = record(&net.ledger.view(), &id(bad)).unwrap();
        let height = net.ledger.tip().height;
        assert_eq!(kept.jailed, Some((height, JailReason::DoubleProposal)));
        assert_eq!(report(good).unwrap().unwrap_err().number(), 10, "once");
        assert_eq!(net.ledger.validators().power_of(&id(bad)), None);
        net.replays();
    }

    #[test]
    fn tm_v2_two_daemons_with_one_key_leave_evidence_in_their_certificates() {
        let net = Net::new(|_| ());
        let chain = net.ledger.chain_id();
        let slot = Slot {
            height: 1,
            round: 3,
        };
        let one = signed(&chain, slot, BlockId([1; 32]), &net.keys[..3]);
        let two = signed(&chain, slot, BlockId([2; 32]), &net.keys[2..4]);
        let found = DoubleVote::between(&one, &two);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].validator, id(&net.keys[2]));
        assert!(found[0].holds(&chain));
        assert_eq!(DoubleVote::between(&two, &one), found);
        assert_eq!(DoubleVote::between(&one, &one), []);
        let later = Slot {
            height: 1,
            round: 4,
        };
        let other_round = signed(&chain, later, BlockId([2; 32]), &net.keys[2..4]);
        assert_eq!(DoubleVote::between(&one, &other_round), []);
        net.block(0, None);
        let evidence = found[0];
        let said = net.block(0, Some(Message::ReportDoubleVote { evidence }));
        assert_eq!(said, Some(Ok(())));
    }

    #[test]
    fn the_last_validator_stays() {
        let net = Net::new(|g| g.validators = list(&[user(100)]));
        let evidence = net.evidence(&net.keys[0], 1);
        let said = net.block(0, Some(Message::ReportDoubleVote { evidence }));
        assert_eq!(said.unwrap().unwrap_err().number(), 13);
        assert_eq!(net.ledger.front().next_validators.validators().len(), 1);
        net.block(0, None);
    }

    #[test]
    fn missed_turns_in_a_row_jail_and_a_proposal_begins_anew() {
        let net = Net::new(|g| g.params.missed_proposals_max = 2);
        let silent = id(&net.keys[2]);
        let kept = || record(&net.ledger.view(), &silent).unwrap();
        let passed_over = |silent: bool, turns: u32| {
            let mut passed = 0;
            while passed < turns {
                let front = net.ledger.front();
                let height = front.tip.height + 1;
                let its_turn = front.validators.proposer(height, 0) == id(&net.keys[2]);
                passed += u32::from(its_turn);
                net.block(u32::from(its_turn && silent), None);
            }
        };
        passed_over(true, 2);
        assert_eq!((kept().missed, kept().jailed), (2, None));
        passed_over(false, 1);
        assert_eq!(kept(), Record::default(), "it was there again");
        passed_over(true, 3);
        let height = net.ledger.tip().height;
        assert_eq!(kept().jailed, Some((height, JailReason::MissedProposals)));
        let rest = [0, 1, 3].map(|n| net.keys[n].clone());
        assert_eq!(*net.ledger.front().next_validators, set(&rest));
        net.block(0, None);
        // Nobody else is blamed, however many rounds a block took.
        net.block(40, None);
        assert_eq!(*net.ledger.front().next_validators, set(&rest));
        let (from, until) = at::prefix_range(&at::validator_records());
        let records = net.ledger.view().range(&from, &until, 9).unwrap();
        assert_eq!(
            records.len(),
            3,
            "two others missed a turn in the last block"
        );
        net.replays();
        let never = Net::new(|g| g.params.missed_proposals_max = 0);
        for _ in 0..8 {
            never.block(7, None);
        }
        assert_eq!(never.ledger.validators().validators().len(), 4);
    }

    /// Anybody can fill a block with messages that come to nothing. `chain verify`, which executes none of them, must still see
    /// what was decided.
    #[test]
    fn tm_v1_void_messages_do_not_hide_a_change_from_who_executes_nothing() {
        let net = Net::new(|_| ());
        let (all, bad) = (&net.keys[..4], &net.keys[1]);
        // Eight sets that one stranger approves, then the real one.
        let void = |n: usize| net.change(&net.keys[..=n], &net.keys[7..]);
        let mut msgs: Vec<Message> = (0..8).map(void).collect();
        msgs.push(net.change(&net.keys[2..6], all));
        let told = net.block_of(0, msgs);
        assert!(told[..8].iter().all(Result::is_err) && told[8].is_ok());
        net.block(0, None);
        net.replays();
        // Eight reports without evidence, whoever they name, then a real one.
        let forged = |n: usize| Message::ReportDoubleVote {
            evidence: DoubleVote {
                validator: id(&net.keys[n]),
                ..net.evidence(bad, 1)
            },
        };
        let guilty = net.evidence(&net.keys[3], 3);
        let mut msgs: Vec<Message> = (0..8).map(forged).collect();
        msgs.push(Message::ReportDoubleVote { evidence: guilty });
        let told = net.block_of(0, msgs);
        assert!(told[..8].iter().all(Result::is_err) && told[8].is_ok());
        net.block(0, None);
        assert_eq!(net.ledger.front().next_validators.validators().len(), 3);
        net.replays();
    }

    fn report(evidence: DoubleVote) -> Message {
        Message::ReportDoubleVote { evidence }
    }

    /// Who was jailed and came back is not jailed for the old votes again: such evidence is no doubt for who executes nothing.
    #[test]
    fn tm_v1_settled_evidence_does_not_hide_a_jailing_from_who_executes_nothing() {
        let everybody: Vec<SigningKey> = (100..108).map(user).collect();
        let net = Net::new(|g| g.validators = list(&everybody));
        net.block(0, None);
        let old = |key| report(net.evidence(key, 1));
        let told = net.block_of(0, everybody[..7].iter().map(old));
        assert!(told.iter().all(Result::is_ok), "{told:?}");
        let back = net.change(&everybody, &everybody[7..]);
        assert_eq!(net.block(0, Some(back)), Some(Ok(())));
        net.block(0, None);
        // The old evidence of all seven, and another's double vote.
        let mut msgs: Vec<Message> = everybody[..7].iter().map(old).collect();
        msgs.push(report(net.evidence(&everybody[7], 5)));
        let told = net.block_of(0, msgs);
        assert!(told[..7].iter().all(Result::is_err) && told[7].is_ok());
        net.block(0, None);
        assert_eq!(*net.ledger.front().next_validators, set(&everybody[..7]));
        net.replays();
    }

    /// Good evidence in transactions that fail, of more validators than every choice could be tried of, beside real evidence.
    #[test]
    fn tm_v1_failed_transactions_do_not_hide_a_jailing_from_who_executes_nothing() {
        let everybody: Vec<SigningKey> = (100..120).map(user).collect();
        let mut net = Net::new(|g| {
            g.validators = list(&everybody);
            // A deadline with turns for so many.
            g.params.deadlines = 5;
        });
        net.keys.clone_from(&everybody);
        net.block(0, None);
        let void = |key| net.void(report(net.evidence(key, 1)));
        let mut txs: Vec<SignedTx> = everybody[1..].iter().map(void).collect();
        txs.push(net.tx(vec![report(net.evidence(&everybody[0], 1))]));
        let told = net.block_with(0, txs);
        assert!(told[..19].iter().all(Result::is_err) && told[19].is_ok());
        net.block(0, None);
        assert_eq!(*net.ledger.front().next_validators, set(&everybody[1..]));
        // The other way round: one of many does not take effect.
        let failed = net.void(report(net.evidence(&everybody[1], 1)));
        let good = |key| net.tx(vec![report(net.evidence(key, 1))]);
        let mut txs = vec![failed];
        txs.extend(everybody[2..12].iter().map(good));
        let told = net.block_with(0, txs);
        assert!(told[0].is_err() && told[1..].iter().all(Result::is_ok));
        net.block(0, None);
        assert_eq!(net.ledger.front().next_validators.validators().len(), 9);
        net.replays();
    }

    /// A change to the same validators leaves no trace in any header, but it forgets the turns that they missed.
    #[test]
    fn missed_turns_that_a_change_settled_jail_nobody_in_a_file_either() {
        let everybody: Vec<SigningKey> = (100..112).map(user).collect();
        let mut net = Net::new(|g| {
            g.validators = list(&everybody);
            g.params.missed_proposals_max = 1;
        });
        net.keys.clone_from(&everybody);
        net.block(40, None);
        let same = net.change(&everybody, &everybody);
        assert_eq!(net.block(0, Some(same)), Some(Ok(())));
        // Everybody else misses a turn again, and one votes twice.
        let evidence = net.evidence(&everybody[3], 1);
        assert_eq!(net.block(40, Some(report(evidence))), Some(Ok(())));
        net.block(0, None);
        assert_eq!(net.ledger.front().next_validators.validators().len(), 11);
        net.replays();
    }

    /// As many as are dead may reach their last missed turn in one block.
    #[test]
    fn a_row_of_dead_validators_is_jailed_at_once_and_verifies() {
        let everybody: Vec<SigningKey> = (100..108).map(user).collect();
        let net = Net::new(|g| {
            g.validators = list(&everybody);
            g.params.missed_proposals_max = 1;
        });
        // The same one proposes twice, after everybody else's turn.
        net.block(40, None);
        net.block(39, None);
        net.block(0, None);
        let left = net.ledger.front().next_validators.validators().len();
        assert_eq!(left, 1, "of eight");
        net.block(0, None);
        net.replays();
    }

    #[test]
    fn tm_v11_messages_of_governance_have_one_encoding() {
        let (chain, key) = (ChainId([1; 32]), SigningKey::from_bytes(&[3; 32]));
        let to = list(std::slice::from_ref(&key));
        let msgs = [
            Message::SetValidators {
                number: 7,
                approvals: vec![approve(&chain, 7, &to, &key)],
                validators: to,
            },
            Message::ReportDoubleVote {
                evidence: double(&chain, &key, 5, 6),
            },
        ];
        // A change of these bytes is a fork.
        let pin = |msg| hex::encode(codec::tagged_hash("pin", &[&codec::encode(msg)[1..]]));
        assert_eq!(
            msgs.each_ref().map(pin),
            [
                "fbd798248d3f64dff6d0af3648c672a458341fd9a5e5858c1495085cb9a2adc9",
                "10f56fb96484f0fd4f1355a253e90c8e9c20708c781f751c71e688dc0ff8e294"
            ]
        );
        for msg in &msgs {
            let bytes = codec::encode(msg);
            assert_eq!(codec::decode::<Message>(&bytes, 1 << 12).as_ref(), Ok(msg));
            let json = serde_json::to_vec(msg).unwrap();
            assert_eq!(serde_json::from_slice::<Message>(&json).unwrap(), *msg);
            let mut tx = transfer(chain, 0, 0, 1);
            tx.tx.msgs = vec![msg.clone()];
            crate::message::fuzz_signed_tx(&tx.to_bytes());
        }
    }
}
