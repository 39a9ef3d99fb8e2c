//! `apply`: one block over the state, pure and total.
//!
//! Given a snapshot, a context and checked transactions it returns the writes, the receipts and the events; the same on
//! every machine (`threat-model.md` V3). A transaction that may not run yields a receipt that says why; only a store that
//! cannot be read, a verifier without keys, or a context that does not continue the chain, stops the block.
//!
//! Order of a block at epoch `e` (`chain.md` §15, `beacon.md` §3): the validators move on by one height
//! ([`crate::governance`]); the beacon entries; `begin_epoch(e)`: 1 emission,
//! 2 deals not activated in time, then proofs and announcements that can no longer be disputed with,
//! 3 for each provider in id order expired pre-commitments and the deadline that closes;
//! then the transactions. Indexes by epoch make each step cost what is due, not what exists.
//!
//! A transaction (`consensus.md` §6): nonce, last height and fee are judged first ([`admit`]); who fails there is
//! *refused* and loses nothing. Then nonce and fee are spent, and its messages take effect all together or not at all.
//! Fees of a provider's own messages are a penalty of the provider (`chain.md` §13), so that a window PoSt never fails
//! for lack of loose money.
//!
//! Epochs: a block may come many epochs after its parent, and bring fewer beacon values than epochs have passed. The epochs
//! in between are begun one by one, dark ([`crate::lit`]); timers that have dark epochs inside are put off. Under the
//! logical clock (`DESIGN.md` §5) there is one block in every epoch with its value, and none of this happens.
//!
//! ```
//! use std::collections::BTreeMap;
//! use chain_lite::account::{Address, ChainId};
//! use chain_lite::execute::{BlockCtx, ProofError, ProofVerifier, apply, genesis_writes};
//! use chain_lite::message::{Message, TX_VERSION, Tx, sign};
//! use chain_lite::params::ChainParams;
//! use chain_lite::query;
//! use chain_lite::state::MemoryState;
//! use chain_lite::units::{Epoch, TokenAmount};
//! # use prover::verify::{PorepStatement, WindowPostStatement};
//! # struct NoProofs;
//! # impl ProofVerifier for NoProofs {
//! #     fn porep(&self, _: &PorepStatement, _: &[u8]) -> Result<(), ProofError> { Err(ProofError::Rejected("none".into())) }
//! #     fn window_post(&self, _: &WindowPostStatement, _: &[u8]) -> Result<(), ProofError> { Err(ProofError::Rejected("none".into())) }
//! # }
//! let key = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
//! let (sender, friend) = (Address::of(&key.verifying_key()), Address([9; 32]));
//! let mut state = MemoryState::default();
//! state.commit(&genesis_writes(&ChainParams::devnet(), &BTreeMap::from([(sender, TokenAmount(100))]))?);
//!
//! let chain_id = ChainId([1; 32]);
//! let msgs = vec![Message::Transfer { to: friend, amount: TokenAmount(30) }];
//! let (nonce, fee_limit, valid_until_height) = (0, TokenAmount(0), 10);
//! let tx = Tx { version: TX_VERSION, chain_id, sender, nonce, fee_limit, valid_until_height, msgs };
//! let tx = sign(tx, &key).check(&chain_id)?;
//!
//! let ctx = BlockCtx { chain_id, height: 1, round: 0, epoch: Epoch(1), beacons: vec![(Epoch(1), [0; 32])] };
//! let applied = apply(&state, &ctx, &[tx], &NoProofs)?;
//! assert!(applied.receipts[0].succeeded());
//! state.commit(&applied.writes);
//! assert_eq!(query::account(&state, &friend)?.free, TokenAmount(30));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::collections::BTreeMap;

use borsh::{BorshDeserialize, BorshSerialize};
use prover::SectorNumber;
use prover::verify::{PorepStatement, WindowPostStatement};
use serde::{Deserialize, Serialize};

use crate::account::{
    Account, Address, ChainId, ChannelId, DealId, DisputeDigest, ProviderId, TxId,
};
use crate::channel::{self, Channel};
use crate::datacap::{self, DataCap};
use crate::deal::{self, Deal};
use crate::error::{ChainError, Rule, Stop, StoreError, Subject};
use crate::events::{BurnReason, Event, EventRecord, PenaltyReason};
use crate::governance;
use crate::lit;
use crate::market::{self, Escrow};
use crate::message::{CheckedTx, Message};
use crate::moment::{Moment, What};
use crate::params::{ChainParams, MAX_SUPPLY, ParamsError};
use crate::proofs::Claim;
use crate::provider::{self, Provider};
use crate::reward::{self, Vesting};
use crate::sector::dispute::{PostId, StoredPost};
use crate::sector::{self, Deadline, Partition, Sector, SectorLeaf};
use crate::slash;
use crate::state::{KvRead, Network, Overlay, WriteSet, key, read, scan_range};
use crate::units::{Epoch, EpochCount, Overflow, TokenAmount};

/// Why a verifier did not accept a proof.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// The proof or its bytes are wrong: the sender's fault, and every node's verdict.
    #[error("the proof was rejected: {0}")]
    Rejected(String),
    /// This node cannot say (for example it lacks the circuit's key): its operator's fault, and it stops the block.
    #[error("this node cannot verify: {0}")]
    Unable(String),
}

/// Checks proofs. The real one is [`crate::audit`]'s over the verifying keys of genesis.
pub trait ProofVerifier: Send + Sync {
    /// A PoRep of one sector.
    fn porep(&self, statement: &PorepStatement, proof: &[u8]) -> Result<(), ProofError>;
    /// A window PoSt of one partition.
    fn window_post(&self, statement: &WindowPostStatement, proof: &[u8]) -> Result<(), ProofError>;
    /// Many at once, one verdict each: those that [`Self::porep`] and [`Self::window_post`] give.
    fn batch(&self, claims: &[Claim]) -> Vec<Result<(), ProofError>> {
        claims.iter().map(|claim| claim.judge(self)).collect()
    }
}

/// What a block's header says to the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockCtx {
    /// This chain.
    pub chain_id: ChainId,
    /// The block's height: the parent's plus one.
    pub height: u64,
    /// The round in its header: whose turns of this height passed without a proposal follows from it.
    pub round: u32,
    /// The block's epoch: after the parent's.
    pub epoch: Epoch,
    /// Randomness of verified beacon rounds, of the epochs after the last known one, ascending, none skipped, none after
    /// `epoch`; how many is the proposer's choice.
    pub beacons: Vec<(Epoch, [u8; 32])>,
}

/// What one proposal of a `PublishDeals` came to.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum ProposalOutcome {
    /// It is a deal now.
    Published {
        /// Its id.
        deal: DealId,
    },
    /// It was skipped.
    Refused {
        /// The id it would have had.
        deal: DealId,
        /// Why.
        error: ChainError,
    },
}

/// What a message returned.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Output {
    /// Nothing but its effect.
    Done,
    /// A new provider.
    Registered {
        /// Its id.
        provider: ProviderId,
    },
    /// One outcome for each proposal, in order.
    Deals {
        /// The outcomes.
        outcomes: Vec<ProposalOutcome>,
    },
    /// A new payment channel.
    ChannelOpened {
        /// Its id.
        channel: ChannelId,
    },
}

/// What became of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// All messages took effect.
    Applied {
        /// One output for each message.
        outputs: Vec<Output>,
    },
    /// A message failed and none took effect; nonce and fee are spent.
    Failed {
        /// Position of the message.
        message: u32,
        /// Why.
        error: ChainError,
    },
    /// The transaction may not run: nothing is spent, the nonce can be used again.
    Refused {
        /// Why.
        error: ChainError,
    },
}

/// The receipt of one transaction of a block, in the block's order.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct Receipt {
    /// Which transaction.
    pub tx: TxId,
    /// What was charged for it.
    pub fee: TokenAmount,
    /// What became of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

impl Receipt {
    /// Whether all its messages took effect.
    pub fn succeeded(&self) -> bool {
        matches!(self.outcome, Outcome::Applied { .. })
    }

    /// Why it did not succeed.
    pub fn error(&self) -> Option<&ChainError> {
        match &self.outcome {
            Outcome::Applied { .. } => None,
            Outcome::Failed { error, .. } | Outcome::Refused { error } => Some(error),
        }
    }
}

/// What a block does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// To the state.
    pub writes: WriteSet,
    /// To each transaction, in order.
    pub receipts: Vec<Receipt>,
    /// For whoever watches, in order.
    pub events: Vec<EventRecord>,
    /// How many events there were when each epoch since the parent's had begun; those of transactions come after the last.
    pub epoch_ends: Vec<usize>,
}

/// Why a block could not be applied at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// The state below cannot be read or is damaged.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The context does not continue the chain: the block is invalid.
    #[error("the block does not continue the chain: {0}")]
    Context(String),
    /// This node cannot verify a proof of the block.
    #[error("{0}; check the verifying keys of the genesis file")]
    Verifier(String),
}

/// Applies one block.
///
/// Errors mean that there is no such block (`Context`) or that this node is broken (`Store`, `Verifier`); nothing is
/// written in either case.
pub fn apply(
    state: &dyn KvRead,
    ctx: &BlockCtx,
    txs: &[CheckedTx],
    verifier: &dyn ProofVerifier,
) -> Result<Applied, ApplyError> {
    apply_in(Work::open(state, ctx, verifier)?, ctx, txs)
}

/// As [`apply`], and shows each [`Moment`] to `watch`, which cannot change what comes of it.
pub fn apply_watched(
    state: &dyn KvRead,
    ctx: &BlockCtx,
    txs: &[CheckedTx],
    verifier: &dyn ProofVerifier,
    watch: &mut dyn FnMut(&Moment<'_>),
) -> Result<Applied, ApplyError> {
    let mut work = Work::open(state, ctx, verifier)?;
    work.watch = Some(watch);
    apply_in(work, ctx, txs)
}

fn apply_in(mut work: Work<'_>, ctx: &BlockCtx, txs: &[CheckedTx]) -> Result<Applied, ApplyError> {
    governance::begin_block(&mut work, ctx.round).map_err(unexpected)?;
    work.take_beacons(ctx)?;
    work.begin_epochs(ctx.epoch).map_err(unexpected)?;
    work.forget_beacons(ctx.beacons.len() + 1)
        .map_err(unexpected)?;
    let mut receipts = Vec::with_capacity(txs.len());
    for (index, tx) in (0u32..).zip(txs) {
        work.tx = Some(index);
        receipts.push(work.run(tx).map_err(unexpected)?);
    }
    work.finish(receipts)
}

/// A rule's stop where no sender is to blame: begin_epoch and the money of a fee were checked before.
fn unexpected(stop: Stop) -> ApplyError {
    match stop {
        Stop::Broken(error) => error.into(),
        Stop::Unable(why) => ApplyError::Verifier(why),
        Stop::Refused(error) => {
            StoreError::corrupt(&[], format!("a rule without a sender was refused: {error}")).into()
        }
    }
}

/// The state before the first block: parameters, accounts, and the rate at which rewards are first expected.
pub fn genesis_writes(
    params: &ChainParams,
    accounts: &BTreeMap<Address, TokenAmount>,
) -> Result<WriteSet, GenesisError> {
    params.check()?;
    let total = accounts
        .values()
        .try_fold(0u128, |sum, amount| sum.checked_add(amount.0));
    let total = total
        .filter(|&total| total <= MAX_SUPPLY)
        .ok_or(GenesisError::Supply)?;
    let net = Network {
        genesis: TokenAmount(total),
        free: TokenAmount(total),
        rpp: reward::genesis_rate(params),
        next_provider: ProviderId::FIRST.0,
        next_channel: 1,
        ..Network::default()
    };
    let mut writes = WriteSet::new();
    writes.insert(key::params(), Some(crate::codec::encode(params)));
    writes.insert(key::network(), Some(crate::codec::encode(&net)));
    for (address, &free) in accounts {
        writes.insert(
            key::account(address),
            Some(crate::codec::encode(&Account { free, nonce: 0 })),
        );
    }
    Ok(writes)
}

/// A genesis that the rules cannot start from.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GenesisError {
    /// Unusable constants.
    #[error(transparent)]
    Params(#[from] ParamsError),
    /// More money than the arithmetic has room for.
    #[error("the genesis accounts hold more than 2^100 units together")]
    Supply,
}

/// What a transaction costs (`chain.md` §13).
pub fn fee(params: &ChainParams, tx: &CheckedTx) -> Result<TokenAmount, Overflow> {
    let bytes = params.fee_byte.mul_div(tx.len_bytes().into(), 1)?;
    let proofs = params.fee_verify.mul_div(tx.proofs().into(), 1)?;
    params.fee_base.plus(bytes)?.plus(proofs)
}

/// Whether the next block, at `height`, would run this transaction now: its nonce is next, it is not too old, its fee is
/// within its limit and can be charged. For the mempool; `apply` asks the same.
pub fn admit(
    state: &dyn KvRead,
    height: u64,
    tx: &CheckedTx,
) -> Result<Result<TokenAmount, ChainError>, StoreError> {
    let work = Work::reader(state, height)?;
    match work.judge(tx) {
        Ok((fee, _)) => Ok(Ok(fee)),
        Err(Stop::Refused(error)) => Ok(Err(error)),
        Err(Stop::Broken(error)) => Err(error),
        Err(Stop::Unable(why)) => Err(StoreError::Io(why)),
    }
}

/// What a transaction would cost by this state, and out of which purse. Nonce and age are not asked: it may have to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Charge {
    /// What would be charged.
    pub fee: TokenAmount,
    /// The provider that pays, if the transaction acts only for one and comes from one of its keys; else the sender pays.
    pub provider: Option<ProviderId>,
    /// What the payer has for it.
    pub purse: TokenAmount,
}

/// For the mempool: see [`Charge`].
pub fn charge(
    state: &dyn KvRead,
    height: u64,
    tx: &CheckedTx,
) -> Result<Result<Charge, ChainError>, StoreError> {
    let work = Work::reader(state, height)?;
    let judge = || -> Rule<Charge> {
        let fee = fee(&work.params, tx)?;
        let (provider, purse) = match work.payer(tx)? {
            Payer::Sender => (None, work.account(&tx.tx().sender)?.free),
            Payer::Provider(id) => (Some(id), work.provider_credit(tx, id)?),
        };
        Ok(Charge {
            fee,
            provider,
            purse,
        })
    };
    match judge() {
        Ok(charge) => Ok(Ok(charge)),
        Err(Stop::Refused(error)) => Ok(Err(error)),
        Err(Stop::Broken(error)) => Err(error),
        Err(Stop::Unable(why)) => Err(StoreError::Io(why)),
    }
}

/// Who is charged for a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Payer {
    Sender,
    Provider(ProviderId),
}

/// One block's work: the overlay, the totals, and what is said about them. Rules take it as their only access to state.
pub(crate) struct Work<'a> {
    kv: Overlay<'a>,
    pub(crate) params: ChainParams,
    pub(crate) net: Network,
    pub(crate) now: Epoch,
    pub(crate) height: u64,
    pub(crate) chain_id: ChainId,
    /// The last epoch that this block has begun.
    begun: Option<Epoch>,
    verifier: Option<&'a dyn ProofVerifier>,
    watch: Option<&'a mut dyn FnMut(&Moment<'_>)>,
    events: Vec<EventRecord>,
    epoch_ends: Vec<usize>,
    tx: Option<u32>,
}

// The block.
impl<'a> Work<'a> {
    fn reader(state: &'a dyn KvRead, height: u64) -> Result<Self, StoreError> {
        let missing = |key: Vec<u8>| {
            StoreError::corrupt(&key, "missing: the state was not made from a genesis")
        };
        let params = read(state, &key::params())?.ok_or_else(|| missing(key::params()))?;
        let net: Network = read(state, &key::network())?.ok_or_else(|| missing(key::network()))?;
        Ok(Self {
            kv: Overlay::new(state),
            params,
            now: net.epoch.next(),
            net,
            height,
            chain_id: ChainId::default(),
            begun: None,
            verifier: None,
            watch: None,
            events: Vec::new(),
            epoch_ends: Vec::new(),
            tx: None,
        })
    }

    fn open(
        state: &'a dyn KvRead,
        ctx: &BlockCtx,
        verifier: &'a dyn ProofVerifier,
    ) -> Result<Self, ApplyError> {
        let mut work = Self::reader(state, ctx.height)?;
        let (height, epoch) = (work.net.height, work.net.epoch);
        if Some(ctx.height) != height.checked_add(1) {
            return Err(ApplyError::Context(format!(
                "height {} after {height}",
                ctx.height
            )));
        }
        if ctx.epoch <= epoch {
            return Err(ApplyError::Context(format!(
                "epoch {} after {epoch}",
                ctx.epoch
            )));
        }
        work.net.epoch = ctx.epoch;
        work.net.height = ctx.height;
        work.chain_id = ctx.chain_id;
        work.verifier = Some(verifier);
        Ok(work)
    }

    /// For [`governance`] alone: its rules need no more of `state` than parameters, totals and what they keep there themselves.
    pub(crate) fn of_governance(
        state: &'a dyn KvRead,
        height: u64,
        chain_id: ChainId,
    ) -> Result<Self, StoreError> {
        let reader = Self::reader(state, height)?;
        Ok(Self { chain_id, ..reader })
    }

    /// What was written so far.
    pub(crate) fn into_writes(self) -> Result<WriteSet, StoreError> {
        self.kv.into_writes()
    }

    /// Stores the block's beacon values.
    fn take_beacons(&mut self, ctx: &BlockCtx) -> Result<(), ApplyError> {
        for (epoch, value) in &ctx.beacons {
            if *epoch != self.net.beacon_tip.next() || *epoch > ctx.epoch {
                return Err(ApplyError::Context(format!(
                    "a beacon value of epoch {epoch} in epoch {}, after that of {}",
                    ctx.epoch, self.net.beacon_tip
                )));
            }
            self.kv.put(key::beacon(*epoch), value);
            self.net.beacon_tip = *epoch;
        }
        Ok(())
    }

    /// Begins every epoch after the parent's up to the block's own: those without a block are dark, and the block's own is if
    /// its newest beacon value is too old to prove a deadline with.
    fn begin_epochs(&mut self, epoch: Epoch) -> Rule<()> {
        loop {
            let fresh = self.net.beacon_tip >= self.now.before(self.params.post_lookback);
            if self.now < epoch || !fresh {
                let (gone, key, run) = lit::record_dark(&self.kv, &mut self.net, self.now)?;
                match gone {
                    // Written by this block one epoch ago: no state below has it.
                    Some(gone) if self.begun.is_some() => self.kv.take_back(&gone),
                    Some(gone) => self.kv.delete(gone),
                    None => {}
                }
                self.kv.put(key, &run);
            }
            self.begin_epoch()?;
            self.begun = Some(self.now);
            self.epoch_ends.push(self.events.len());
            if self.now >= epoch {
                break;
            }
            self.now = self.now.next();
        }
        Ok(())
    }

    /// Forgets up to `most` of the beacon values that nothing may name any more: one more than the block brought, so that they
    /// do not pile up. Kept times count lit epochs, as the timers do.
    fn forget_beacons(&mut self, most: usize) -> Rule<()> {
        let (from, until) = key::prefix_range(&key::beacons());
        for (key, _) in self.kv.range(&from, &until, most)? {
            let epoch = key::parse_beacon(&key)
                .ok_or_else(|| StoreError::corrupt(&key, "not a key of a beacon value"))?;
            if self.lit_since(epoch)? <= self.params.randomness_kept() {
                break;
            }
            self.kv.delete(key);
        }
        Ok(())
    }

    /// Lit epochs after `since`, up to now.
    pub(crate) fn lit_since(&self, since: Epoch) -> Rule<EpochCount> {
        Ok(lit::passed(&self.kv, &self.net, since, self.now)?)
    }

    /// Lit epochs from `open` until before now.
    pub(crate) fn lit_from(&self, open: Epoch) -> Rule<EpochCount> {
        let all = self.now.since(open).0;
        let dark = lit::dark_before(&self.kv, &self.net, self.now)?
            - lit::dark_before(&self.kv, &self.net, open)?;
        Ok(EpochCount(all.saturating_sub(dark)))
    }

    /// Where a timer of `span` lit epochs since `since` stands in its index, while it runs.
    pub(crate) fn due_at(&self, since: Epoch, span: EpochCount) -> Rule<Epoch> {
        Ok(lit::due_at(&self.kv, &self.net, (since, span), self.now)?)
    }

    /// Puts a timer that fell due off, if it lacks lit epochs: `entry` makes its index key. Says whether it did.
    pub(crate) fn put_off(
        &mut self,
        since: Epoch,
        span: EpochCount,
        entry: impl FnOnce(Epoch) -> Vec<u8>,
    ) -> Rule<bool> {
        let left = lit::lacking(&self.kv, &self.net, (since, span), self.now)?;
        if left.0 > 0 {
            self.index(entry(self.now.after(left)));
        }
        Ok(left.0 > 0)
    }

    /// `chain.md` §15, steps 1 to 3.
    fn begin_epoch(&mut self) -> Rule<()> {
        self.show(What::Emission);
        let minted = reward::emit(&self.params, &mut self.net, self.now)?;
        if !minted.is_zero() {
            self.emit(Event::Mint {
                amount: minted,
                theta: self.net.theta,
            });
        }
        for id in self.due(key::deals_due_until(self.now), |key| {
            key::parse_deal_due(key).map(|(_, id)| id)
        })? {
            deal::settle::not_activated(self, &id)?;
        }
        for post in self.due(key::disputes_due_until(self.now), key::parse_dispute_due)? {
            sector::dispute::forget(self, &post)?;
        }
        let announced = key::announcements_due_until(self.now);
        for (sender, digest) in self.due(announced, key::parse_announcement_due)? {
            self.kv.delete(key::announcement(&sender, &digest));
        }
        let expired = self.due(key::precommits_due_until(self.now), |key| {
            key::parse_precommit_due(key).map(|(_, id, number)| (id, Due::PreCommit(number)))
        })?;
        let closing = self.due(key::closes_until(self.now), |key| {
            key::parse_close(key).map(|(_, id, deadline)| (id, Due::Close(deadline)))
        })?;
        let mut due: Vec<(ProviderId, Due)> = expired.into_iter().chain(closing).collect();
        due.sort();
        for (id, what) in due {
            match what {
                Due::PreCommit(number) => sector::precommit::expire(self, id, number)?,
                Due::Close(deadline) => sector::fault::close_deadline(self, id, deadline)?,
            }
        }
        self.kv.settle();
        Ok(())
    }

    /// Takes the due entries out of an index. What an earlier epoch of this block took out is not walked again, so that an outage
    /// costs what its epochs have to do and not their square.
    fn due<T>(
        &mut self,
        (mut from, until): (Vec<u8>, Vec<u8>),
        parse: fn(&[u8]) -> Option<T>,
    ) -> Rule<Vec<T>> {
        if let Some(begun) = self.begun {
            from.extend(begun.0.to_be_bytes());
        }
        let mut due = Vec::new();
        for (key, _) in scan_range(&self.kv, from, &until)? {
            due.push(
                parse(&key).ok_or_else(|| StoreError::corrupt(&key, "not a key of this index"))?,
            );
            self.kv.delete(key);
        }
        Ok(due)
    }

    fn finish(mut self, receipts: Vec<Receipt>) -> Result<Applied, ApplyError> {
        // Cheap enough for every block, and a chain must not grow on top of money from nowhere.
        if !self.net.supply_holds() {
            return Err(StoreError::corrupt(
                &key::network(),
                "the supply identity I1 does not hold",
            )
            .into());
        }
        let net = self.net;
        self.kv.put(key::network(), &net);
        Ok(Applied {
            writes: self.kv.into_writes()?,
            receipts,
            events: self.events,
            epoch_ends: self.epoch_ends,
        })
    }
}

/// Work of a provider that an epoch begins with; pre-commitments come before the close.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    PreCommit(SectorNumber),
    Close(u16),
}

// A transaction.
impl Work<'_> {
    fn run(&mut self, tx: &CheckedTx) -> Rule<Receipt> {
        let refused = |error| Receipt {
            tx: tx.id(),
            fee: TokenAmount::ZERO,
            outcome: Outcome::Refused { error },
        };
        let (fee, payer) = match self.judge(tx) {
            Ok(judged) => judged,
            Err(Stop::Refused(error)) => return Ok(refused(error)),
            Err(stop) => return Err(stop),
        };
        self.charge(tx, fee, payer)?;
        self.kv.settle();
        let outcome = self.run_messages(tx)?;
        self.kv.settle();
        Ok(Receipt {
            tx: tx.id(),
            fee,
            outcome,
        })
    }

    /// What must hold before anything is spent.
    fn judge(&self, tx: &CheckedTx) -> Rule<(TokenAmount, Payer)> {
        let body = tx.tx();
        if self.verifier.is_some() && body.chain_id != self.chain_id {
            return Err(ChainError::NotAllowed {
                what: Subject::Transaction,
            }
            .into());
        }
        if self.height > body.valid_until_height {
            let max = body.valid_until_height.into();
            return Err(ChainError::OutOfBounds {
                what: Subject::ValidUntil,
                value: self.height.into(),
                min: 0,
                max,
            }
            .into());
        }
        let account = self.account(&body.sender)?;
        if body.nonce != account.nonce {
            return Err(ChainError::BadNonce {
                expected: account.nonce,
                got: body.nonce,
            }
            .into());
        }
        account.nonce.checked_add(1).ok_or(Overflow)?;
        let fee = fee(&self.params, tx)?;
        if fee > body.fee_limit {
            let (what, value) = (Subject::FeeLimit, body.fee_limit.0);
            return Err(ChainError::OutOfBounds {
                what,
                value,
                min: fee.0,
                max: u128::MAX,
            }
            .into());
        }
        let payer = self.payer(tx)?;
        self.can_pay(tx, fee, payer, account)?;
        Ok((fee, payer))
    }

    /// The provider pays for a transaction that acts only in its name and comes from one of its keys.
    fn payer(&self, tx: &CheckedTx) -> Rule<Payer> {
        let body = tx.tx();
        let Some(id) = body.msgs.first().and_then(Message::acts_for) else {
            return Ok(Payer::Sender);
        };
        if body.msgs.iter().any(|msg| msg.acts_for() != Some(id)) {
            return Ok(Payer::Sender);
        }
        let provider: Option<Provider> = read(&self.kv, &key::provider(id))?;
        let ours = provider
            .is_some_and(|provider| provider::is_operator(&provider, self.now, &body.sender));
        Ok(if ours {
            Payer::Provider(id)
        } else {
            Payer::Sender
        })
    }

    fn can_pay(
        &self,
        tx: &CheckedTx,
        fee: TokenAmount,
        payer: Payer,
        account: Account,
    ) -> Rule<()> {
        let (purse, have) = match payer {
            Payer::Sender => (Subject::Account, account.free),
            Payer::Provider(id) => (Subject::ProviderAvailable, self.provider_credit(tx, id)?),
        };
        if have < fee {
            return Err(ChainError::InsufficientFunds {
                purse,
                need: fee,
                have,
            }
            .into());
        }
        Ok(())
    }

    /// What a provider may spend on a fee. Its duties, a window PoSt and the declaration of a fault, may go into debt, as
    /// far as what is locked secures the debt.
    fn provider_credit(&self, tx: &CheckedTx, id: ProviderId) -> Rule<TokenAmount> {
        let provider = self.provider(id)?;
        let duty = |msg: &Message| {
            matches!(
                msg,
                Message::SubmitPost { .. } | Message::DeclareFaults { .. }
            )
        };
        let secured = if tx.tx().msgs.iter().all(duty) {
            provider.pledge.plus(provider.vesting)?
        } else {
            TokenAmount::ZERO
        };
        Ok(provider
            .unlocked()
            .plus(secured)?
            .minus_or_zero(provider.fee_debt))
    }

    fn charge(&mut self, tx: &CheckedTx, fee: TokenAmount, payer: Payer) -> Rule<()> {
        let sender = tx.tx().sender;
        let mut account = self.account(&sender)?;
        // `judge` saw that there is a next nonce.
        account.nonce += 1;
        self.kv.put(key::account(&sender), &account);
        match payer {
            Payer::Sender if fee.is_zero() => Ok(()),
            Payer::Sender => {
                self.debit(&sender, fee)?;
                self.burn(BurnReason::Fee, fee)
            }
            Payer::Provider(id) => {
                let mut provider = self.provider(id)?;
                slash::penalize(self, &mut provider, PenaltyReason::Fee, fee)?;
                self.save_provider(&provider)
            }
        }
    }

    fn run_messages(&mut self, tx: &CheckedTx) -> Rule<Outcome> {
        let (mark, net, events) = (self.kv.mark(), self.net, self.events.len());
        let mut outputs = Vec::with_capacity(tx.tx().msgs.len());
        for index in 0..tx.tx().msgs.len() {
            match self.message(tx, index) {
                Ok(output) => outputs.push(output),
                Err(Stop::Refused(error)) => {
                    self.kv.rollback(mark);
                    self.net = net;
                    self.events.truncate(events);
                    let message = u32::try_from(index).map_err(|_| Overflow)?;
                    return Ok(Outcome::Failed { message, error });
                }
                Err(stop) => return Err(stop),
            }
        }
        Ok(Outcome::Applied { outputs })
    }

    /// One message: the table of contents of the rules.
    fn message(&mut self, tx: &CheckedTx, index: usize) -> Rule<Output> {
        let sender = &tx.tx().sender;
        market::require_open(self, sender, &tx.tx().msgs[index])?;
        let done = |()| Output::Done;
        match &tx.tx().msgs[index] {
            Message::Transfer { to, amount } => {
                market::transfer(self, sender, to, *amount).map(done)
            }
            Message::MarketDeposit { to, amount } => {
                market::deposit(self, sender, to, *amount).map(done)
            }
            Message::MarketWithdraw { amount } => market::withdraw(self, sender, *amount).map(done),
            Message::RegisterProvider {
                worker,
                net_key,
                addrs,
                sector_size,
                deposit,
            } => {
                let new = provider::Registration {
                    worker,
                    net_key,
                    addrs,
                    sector_size: *sector_size,
                    deposit: *deposit,
                };
                provider::register(self, sender, new)
                    .map(|provider| Output::Registered { provider })
            }
            Message::ProviderDeposit { provider, amount } => {
                provider::deposit(self, sender, *provider, *amount).map(done)
            }
            Message::ProviderWithdraw { provider, amount } => {
                provider::withdraw(self, sender, *provider, *amount).map(done)
            }
            Message::ChangeKeys {
                provider,
                worker,
                net_key,
            } => provider::change_keys(self, sender, *provider, worker, net_key).map(done),
            Message::SetAddrs { provider, addrs } => {
                provider::set_addrs(self, sender, *provider, addrs).map(done)
            }
            Message::PublishDeals {
                provider,
                proposals,
            } => deal::publish::publish(self, sender, *provider, proposals, tx.proposals(index)),
            Message::PreCommit {
                provider,
                sector,
                comm_r,
                comm_d,
                ticket_epoch,
                expiration,
                deals,
            } => {
                let new = sector::precommit::Offer {
                    number: *sector,
                    comm_r: *comm_r,
                    comm_d: *comm_d,
                    ticket_epoch: *ticket_epoch,
                    expiration: *expiration,
                    deals,
                };
                sector::precommit::precommit(self, sender, *provider, new).map(done)
            }
            Message::ProveCommit {
                provider,
                sector,
                proof,
            } => sector::commit::prove(self, sender, *provider, *sector, proof).map(done),
            Message::SubmitPost {
                provider,
                deadline,
                partition,
                skipped,
                proof,
            } => {
                let post = sector::window_post::Post {
                    deadline: *deadline,
                    partition: *partition,
                    skipped,
                    proof,
                };
                sector::window_post::submit(self, sender, *provider, post).map(done)
            }
            Message::DeclareFaults { provider, sectors } => {
                sector::fault::declare_faults(self, sender, *provider, sectors).map(done)
            }
            Message::DeclareRecovered { provider, sectors } => {
                sector::fault::declare_recovered(self, sender, *provider, sectors).map(done)
            }
            Message::Terminate { provider, sector } => {
                sector::fault::terminate(self, sender, *provider, *sector).map(done)
            }
            Message::SetValidators {
                number,
                validators,
                approvals,
            } => {
                let verdict = |_, holds: &dyn Fn() -> bool| holds();
                governance::set_validators(self, *number, validators, approvals, verdict).map(done)
            }
            Message::ReportDoubleVote { evidence } => {
                governance::report_double_vote(self, evidence).map(done)
            }
            Message::OpenChannel { payee, amount } => channel::open(self, sender, payee, *amount)
                .map(|channel| Output::ChannelOpened { channel }),
            Message::RedeemVoucher { voucher } => channel::redeem(self, sender, voucher).map(done),
            Message::SettleChannel { channel } => channel::settle(self, sender, *channel).map(done),
            Message::CollectChannel { channel } => channel::collect(self, *channel).map(done),
            Message::AllowDataCap { notary, bytes } => {
                datacap::allow(self, sender, notary, *bytes).map(done)
            }
            Message::GrantDataCap { client, bytes } => {
                datacap::grant(self, sender, client, *bytes).map(done)
            }
            Message::AnnounceDispute { digest } => {
                sector::dispute::announce(self, sender, digest).map(done)
            }
            Message::Dispute { post, salt } => {
                sector::dispute::dispute(self, sender, post, salt).map(done)
            }
            Message::ReportDoubleProposal { evidence } => {
                governance::report_double_proposal(self, evidence).map(done)
            }
        }
    }
}

// Typed access to the state. Savers of records with money keep the network's sums in step.
impl Work<'_> {
    pub(crate) fn kv(&self) -> &dyn KvRead {
        &self.kv
    }

    /// Shows the present moment to whoever watches.
    pub(crate) fn show(&mut self, what: What<'_>) {
        if let Some(watch) = &mut self.watch {
            watch(&Moment {
                state: &self.kv,
                net: &self.net,
                now: self.now,
                at: self.events.len(),
                what,
            });
        }
    }

    pub(crate) fn emit(&mut self, event: Event) {
        self.show(What::Event(&event));
        self.events.push(EventRecord { tx: self.tx, event });
    }

    pub(crate) fn verifier(&self) -> Rule<&dyn ProofVerifier> {
        self.verifier
            .ok_or_else(|| Stop::Unable("no verifier was given".into()))
    }

    /// Takes money out of the world.
    pub(crate) fn burn(&mut self, reason: BurnReason, amount: TokenAmount) -> Rule<()> {
        if !amount.is_zero() {
            self.net.burnt = self.net.burnt.plus(amount)?;
            self.emit(Event::Burn { reason, amount });
        }
        Ok(())
    }

    pub(crate) fn account(&self, address: &Address) -> Rule<Account> {
        Ok(read(&self.kv, &key::account(address))?.unwrap_or_default())
    }

    pub(crate) fn credit(&mut self, address: &Address, amount: TokenAmount) -> Rule<()> {
        let mut account = self.account(address)?;
        account.free = account.free.plus(amount)?;
        self.net.free = self.net.free.plus(amount)?;
        self.kv.put(key::account(address), &account);
        Ok(())
    }

    pub(crate) fn debit(&mut self, address: &Address, amount: TokenAmount) -> Rule<()> {
        let mut account = self.account(address)?;
        if account.free < amount {
            let (purse, have) = (Subject::Account, account.free);
            return Err(ChainError::InsufficientFunds {
                purse,
                need: amount,
                have,
            }
            .into());
        }
        account.free = account.free.minus(amount)?;
        self.net.free = self.net.free.minus(amount)?;
        self.kv.put(key::account(address), &account);
        Ok(())
    }

    pub(crate) fn escrow(&self, address: &Address) -> Rule<Escrow> {
        Ok(read(&self.kv, &key::market(address))?.unwrap_or_default())
    }

    pub(crate) fn save_escrow(&mut self, address: &Address, escrow: &Escrow) -> Rule<()> {
        let before = self.escrow(address)?;
        self.net.escrow = self.net.escrow.minus(before.escrow)?.plus(escrow.escrow)?;
        self.net.escrow_locked = self
            .net
            .escrow_locked
            .minus(before.locked)?
            .plus(escrow.locked)?;
        if *escrow == Escrow::default() {
            self.kv.delete(key::market(address));
        } else {
            self.kv.put(key::market(address), escrow);
        }
        Ok(())
    }

    pub(crate) fn provider(&self, id: ProviderId) -> Rule<Provider> {
        let found = read(&self.kv, &key::provider(id))?;
        found.ok_or_else(|| {
            ChainError::NotFound {
                what: Subject::Provider,
            }
            .into()
        })
    }

    pub(crate) fn save_provider(&mut self, provider: &Provider) -> Rule<()> {
        let key = key::provider(provider.id);
        let net = &mut self.net;
        if let Some(before) = read::<Provider>(&self.kv, &key)? {
            net.provider_balance = net.provider_balance.minus(before.balance)?;
            net.provider_locked = net.provider_locked.minus(before.locked()?)?;
            net.raw_power = net.raw_power.minus(before.raw_power)?;
            net.power = net.power.minus(before.power)?;
        }
        net.provider_balance = net.provider_balance.plus(provider.balance)?;
        net.provider_locked = net.provider_locked.plus(provider.locked()?)?;
        net.raw_power = net.raw_power.plus(provider.raw_power)?;
        net.power = net.power.plus(provider.power)?;
        self.kv.put(key, provider);
        Ok(())
    }

    pub(crate) fn channel(&self, id: ChannelId) -> Rule<Channel> {
        let found = read(&self.kv, &key::channel(id))?;
        found.ok_or_else(|| {
            ChainError::NotFound {
                what: Subject::Channel,
            }
            .into()
        })
    }

    pub(crate) fn save_channel(&mut self, id: ChannelId, channel: &Channel) -> Rule<()> {
        let key = key::channel(id);
        let before = read::<Channel>(&self.kv, &key)?.map_or(TokenAmount::ZERO, |c| c.balance);
        self.net.channels = self.net.channels.minus(before)?.plus(channel.balance)?;
        self.kv.put(key, channel);
        Ok(())
    }

    pub(crate) fn remove_channel(&mut self, id: ChannelId, channel: &Channel) -> Rule<()> {
        self.net.channels = self.net.channels.minus(channel.balance)?;
        self.kv.delete(key::channel(id));
        Ok(())
    }

    pub(crate) fn datacap(&self, address: &Address) -> Rule<DataCap> {
        Ok(read(&self.kv, &key::datacap(address))?.unwrap_or_default())
    }

    pub(crate) fn save_datacap(&mut self, address: &Address, cap: &DataCap) {
        if *cap == DataCap::default() {
            self.kv.delete(key::datacap(address));
        } else {
            self.kv.put(key::datacap(address), cap);
        }
    }

    /// A stored window PoSt, while it may be disputed.
    pub(crate) fn post(&self, id: &PostId) -> Rule<StoredPost> {
        let found = read(&self.kv, &key::post(id))?;
        found.ok_or_else(|| {
            ChainError::NotFound {
                what: Subject::StoredPost,
            }
            .into()
        })
    }

    pub(crate) fn save_post(&mut self, id: &PostId, post: &StoredPost) {
        self.kv.put(key::post(id), post);
    }

    pub(crate) fn remove_post(&mut self, id: &PostId) {
        self.kv.delete(key::post(id));
    }

    /// When `sender` announced a dispute by this digest.
    pub(crate) fn announced(
        &self,
        sender: &Address,
        digest: &DisputeDigest,
    ) -> Rule<Option<Epoch>> {
        Ok(read(&self.kv, &key::announcement(sender, digest))?)
    }

    /// Remembers an announcement for one dispute window.
    pub(crate) fn announce(&mut self, sender: &Address, digest: &DisputeDigest) {
        let until = self.now.after(self.params.dispute_window);
        self.kv.put(key::announcement(sender, digest), &self.now);
        self.index(key::announcement_due(until, sender, digest));
    }

    pub(crate) fn forget_announcement(
        &mut self,
        sender: &Address,
        digest: &DisputeDigest,
        announced: Epoch,
    ) {
        let until = announced.after(self.params.dispute_window);
        self.kv.delete(key::announcement(sender, digest));
        self.unindex(key::announcement_due(until, sender, digest));
    }

    pub(crate) fn vesting(&self, id: ProviderId) -> Rule<Vesting> {
        Ok(read(&self.kv, &key::vesting(id))?.unwrap_or_default())
    }

    pub(crate) fn save_vesting(&mut self, id: ProviderId, queue: &Vesting) {
        if queue.entries.is_empty() {
            self.kv.delete(key::vesting(id));
        } else {
            self.kv.put(key::vesting(id), queue);
        }
    }

    pub(crate) fn deal(&self, id: &DealId) -> Rule<Deal> {
        let found = read(&self.kv, &key::deal(id))?;
        found.ok_or_else(|| {
            ChainError::NotFound {
                what: Subject::Deal,
            }
            .into()
        })
    }

    pub(crate) fn save_deal(&mut self, id: &DealId, deal: &Deal) {
        self.kv.put(key::deal(id), deal);
    }

    pub(crate) fn sector_leaf(
        &self,
        id: ProviderId,
        number: SectorNumber,
    ) -> Rule<Option<SectorLeaf>> {
        Ok(read(&self.kv, &key::sector(id, number))?)
    }

    /// A sector that was proven and has not ended.
    pub(crate) fn sector(&self, id: ProviderId, number: SectorNumber) -> Rule<Sector> {
        match self.sector_leaf(id, number)? {
            Some(SectorLeaf::Committed(sector)) => Ok(sector),
            Some(_) => Err(ChainError::WrongState {
                what: Subject::Sector,
            }
            .into()),
            None => Err(ChainError::NotFound {
                what: Subject::Sector,
            }
            .into()),
        }
    }

    pub(crate) fn save_sector(&mut self, id: ProviderId, number: SectorNumber, leaf: &SectorLeaf) {
        self.kv.put(key::sector(id, number), leaf);
    }

    pub(crate) fn deadline(&self, id: ProviderId, deadline: u16) -> Rule<Deadline> {
        Ok(read(&self.kv, &key::deadline(id, deadline))?.unwrap_or_default())
    }

    pub(crate) fn save_deadline(&mut self, id: ProviderId, index: u16, deadline: &Deadline) {
        self.kv.put(key::deadline(id, index), deadline);
    }

    /// A partition; empty where there is none.
    pub(crate) fn partition(
        &self,
        id: ProviderId,
        deadline: u16,
        partition: u32,
    ) -> Rule<Partition> {
        Ok(read(&self.kv, &key::partition(id, deadline, partition))?.unwrap_or_default())
    }

    pub(crate) fn save_partition(
        &mut self,
        id: ProviderId,
        deadline: u16,
        index: u32,
        partition: &Partition,
    ) {
        let key = key::partition(id, deadline, index);
        if partition.slots.is_empty() {
            self.kv.delete(key);
        } else {
            self.kv.put(key, partition);
        }
    }

    /// Writes a leaf that no other saver knows.
    pub(crate) fn put_leaf<T: BorshSerialize>(&mut self, key: Vec<u8>, value: &T) {
        self.kv.put(key, value);
    }

    pub(crate) fn index(&mut self, key: Vec<u8>) {
        self.kv.put_index(key);
    }

    pub(crate) fn unindex(&mut self, key: Vec<u8>) {
        self.kv.delete(key);
    }

    /// Remembers which deal used up a client's nonce, for ever.
    pub(crate) fn index_client_nonce(&mut self, client: &Address, nonce: u64, deal: &DealId) {
        self.kv.put(key::client_nonce(client, nonce), deal);
    }

    /// Remembers which live sector holds a CommR.
    pub(crate) fn index_comm_r(
        &mut self,
        comm_r: &prover::CommR,
        id: ProviderId,
        number: SectorNumber,
    ) {
        self.kv.put(key::comm_r(comm_r), &(id, number));
    }
}

/// Refuses an amount of zero: it would only create empty leaves.
pub(crate) fn require_some(amount: TokenAmount) -> Rule<()> {
    if amount.is_zero() {
        let what = Subject::Amount;
        return Err(ChainError::OutOfBounds {
            what,
            value: 0,
            min: 1,
            max: u128::MAX,
        }
        .into());
    }
    Ok(())
}
