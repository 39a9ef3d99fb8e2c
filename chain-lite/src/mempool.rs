//! Transactions on their way into a block: checked before they are kept, bounded in every direction, in nonce order.
//!
//! Walk: RPC [`Mempool::submit`]s; the engine [`Mempool::select`]s for a block and reports what was committed. Spec: `consensus.md` §8.
//!
//! **The lane.** A window PoSt, a fault or a recovery that a provider's own key sends must reach its deadline whatever else is going
//! on (`threat-model.md` V4, V8). Such transactions have [`LANE_BYTES`] of the pool to themselves and come before everything else in a
//! block; a PoRep of a provider's own comes next. Whoever is no operator of the provider gets no place there by naming it. What a
//! sender has waiting in front of its proof goes with it, or its nonces would hold the proof back. When the lane is full, the
//! sender with most bytes in it gives way to one with fewer, so that no flood of one's own proofs displaces another's.
//!
//! **The rest.** In a block all senders have their first transaction before anybody has a second one, and of equal turns the
//! better offer per byte goes first, then the earlier. So a single rich sender delays nobody by more than one transaction.
//! When it is full, the last transaction of the sender that offers least goes, if the newcomer offers more. An offer counts
//! as far as its payer could pay it, and whatever waits for a missing nonce gives way to what could run: neither nonce gaps nor
//! fees that nobody will ever be charged push out a transaction that pays.
//!
//! Bounds (`tm_v8`): [`MAX_BYTES`] in all, [`MAX_TXS_PER_SENDER`] and [`MAX_BYTES_PER_SENDER`] per sender, nonces at most
//! [`MAX_NONCE_AHEAD`] ahead of the state, fees of all that wait within the sender's money. Cheap limits are judged before any
//! signature. Within a sender always by nonce.
//! Crash: nothing is kept. A client submits again: a transaction's id is known before it is signed, and it counts once.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::{Mutex, PoisonError};

use crate::account::{Account, Address, ChainId, TxId};
use crate::error::{ChainError, StoreError, Subject};
use crate::execute::{self, Charge};
use crate::message::{CheckedTx, Message, SignedTx, Tx, TxError};
use crate::state::{self, KvRead, key};
use crate::units::TokenAmount;

/// Most bytes of all transactions together.
pub const MAX_BYTES: u64 = 32 << 20;
/// The part of [`MAX_BYTES`] that only the lane may fill, and that it may not exceed: some ten thousand window PoSts.
pub const LANE_BYTES: u64 = 8 << 20;
/// Most transactions of one sender.
pub const MAX_TXS_PER_SENDER: usize = 4_096;
/// Most bytes of one sender's transactions.
pub const MAX_BYTES_PER_SENDER: u64 = 4 << 20;
/// Furthest nonce ahead of the sender's next one.
pub const MAX_NONCE_AHEAD: u64 = MAX_TXS_PER_SENDER as u64;
/// A replacement must offer this much more, in percent.
pub const REPLACE_PERCENT: u128 = 110;

/// Why a transaction is not taken.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// No state could make it acceptable.
    #[error(transparent)]
    Tx(#[from] TxError),
    /// Its nonce was used.
    #[error("nonce {got} was used already; the sender's next nonce is {next}")]
    Stale {
        /// The transaction's.
        got: u64,
        /// The sender's next one.
        next: u64,
    },
    /// Its nonce is too far ahead.
    #[error("nonce {got} is too far ahead of {next}; send the missing transactions first")]
    Gap {
        /// The transaction's.
        got: u64,
        /// The sender's next one.
        next: u64,
    },
    /// No later block may carry it.
    #[error(
        "the transaction was valid until block {until}, and the chain is at {tip}; sign it again with a later limit"
    )]
    Expired {
        /// Its last height.
        until: u64,
        /// The chain's.
        tip: u64,
    },
    /// Another transaction with the same nonce waits and offers as much.
    #[error(
        "a transaction with nonce {nonce} waits already; to replace it, offer a fee limit of at least {needed}"
    )]
    Underpriced {
        /// The nonce.
        nonce: u64,
        /// The least fee limit.
        needed: u128,
    },
    /// The sender has too much waiting.
    #[error("{0} has too many transactions waiting; wait for a block")]
    SenderFull(Address),
    /// The pool is full of better offers.
    #[error(
        "the pool is full and all that wait offer more per byte; try again later or raise the fee limit"
    )]
    Full,
    /// The chain would refuse it now: its fee limit is too low, or nobody could be charged.
    #[error(transparent)]
    Refused(ChainError),
    /// The state cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a transaction is to the order of things; a later one goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Ordinary,
    /// A provider's own PoRep: its deposit burns if it comes too late, in days.
    Porep,
    /// A provider's own window PoSt or declaration: due at a deadline's close, in minutes.
    Lane,
}

struct Waiting {
    tx: CheckedTx,
    class: Class,
    /// Offered units per KiB, as far as the payer could pay them.
    offer: u128,
    /// What the sender itself would be charged.
    owed: u128,
    arrival: u64,
}

impl Waiting {
    fn new(tx: CheckedTx, charge: &Charge) -> Self {
        let limit = tx.tx().fee_limit.0.min(charge.purse.0);
        let owed = match charge.provider {
            Some(_) => 0,
            None => charge.fee.0,
        };
        Self {
            class: class(&tx, charge.provider.is_some()),
            offer: limit.saturating_mul(1024) / u128::from(tx.len_bytes().max(1)),
            owed,
            tx,
            arrival: 0,
        }
    }

    fn in_lane(&self) -> bool {
        self.class == Class::Lane
    }
}

#[derive(Default)]
struct Queue {
    by_nonce: BTreeMap<u64, Waiting>,
    /// The sender's next nonce, when the state was last asked.
    next: u64,
    bytes: u64,
    lane_bytes: u64,
    owed: u128,
}

impl Queue {
    /// Whether nothing is missing before its last transaction.
    fn is_gapless(&self) -> bool {
        let last = self.by_nonce.last_key_value().map(|(nonce, _)| *nonce);
        last.is_none_or(|last| last.saturating_sub(self.next) < self.by_nonce.len() as u64)
    }

    /// How far each class reaches in what could run one after the other from `next`: everything up to there goes with it.
    fn reach(&self, next: u64) -> [Option<u64>; 2] {
        let (mut lane, mut porep, mut expected) = (None, None, next);
        for (nonce, waiting) in self.by_nonce.range(next..) {
            if *nonce != expected {
                break;
            }
            expected = expected.saturating_add(1);
            match waiting.class {
                Class::Lane => lane = Some(*nonce),
                Class::Porep => porep = Some(*nonce),
                Class::Ordinary => {}
            }
        }
        [lane, porep]
    }
}

/// The next transaction of a sender in a selection, best last.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    class: Class,
    /// How many of the sender were chosen before it.
    turn: Reverse<u64>,
    offer: u128,
    arrival: Reverse<u64>,
    sender: Address,
    nonce: u64,
    reach: [Option<u64>; 2],
}

impl Candidate {
    fn new(
        waiting: &Waiting,
        sender: Address,
        nonce: u64,
        turn: u64,
        reach: [Option<u64>; 2],
    ) -> Self {
        let goes_with = |last: Option<u64>| last.is_some_and(|last| nonce <= last);
        let class = match reach {
            [lane, _] if goes_with(lane) => Class::Lane,
            [_, porep] if goes_with(porep) => Class::Porep,
            _ => Class::Ordinary,
        };
        Self {
            class,
            turn: Reverse(turn),
            offer: waiting.offer,
            arrival: Reverse(waiting.arrival),
            sender,
            nonce,
            reach,
        }
    }
}

#[derive(Default)]
struct Pool {
    senders: BTreeMap<Address, Queue>,
    /// Where each one waits.
    ids: BTreeMap<TxId, (Address, u64)>,
    bytes: u64,
    lane_bytes: u64,
    arrivals: u64,
}

/// The pool of one node.
pub struct Mempool {
    chain_id: ChainId,
    pool: Mutex<Pool>,
}

impl Mempool {
    /// An empty pool.
    pub fn new(chain_id: ChainId) -> Self {
        Self {
            chain_id,
            pool: Mutex::default(),
        }
    }

    fn pool(&self) -> std::sync::MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a transaction, or says why not. Submitting the same one again is fine and changes nothing.
    ///
    /// `tip` and `state` are the newest block's.
    pub fn submit(&self, tx: SignedTx, tip: u64, state: &dyn KvRead) -> Result<TxId, SubmitError> {
        let id = tx.id();
        if self.contains(&id) {
            // The id does not cover the signature, so a stranger learns only that the transaction waits.
            return Ok(id);
        }
        let next = self.fits(&tx.tx, tip, state)?;
        // The expensive part, outside the lock.
        let tx = tx.check(&self.chain_id)?;
        self.take(tx, next, tip, state)?;
        Ok(id)
    }

    /// [`Mempool::submit`] of a transaction that was checked already: by a process that is many nodes, once for all of them.
    pub fn submit_checked(
        &self,
        tx: &CheckedTx,
        tip: u64,
        state: &dyn KvRead,
    ) -> Result<TxId, SubmitError> {
        let (id, got, here) = (tx.id(), tx.tx().chain_id, self.chain_id);
        if got != here {
            return Err(TxError::WrongChain { got, here }.into());
        }
        if !self.contains(&id) {
            let next = self.fits(tx.tx(), tip, state)?;
            self.take(tx.clone(), next, tip, state)?;
        }
        Ok(id)
    }

    /// The limits that are judged before any signature; gives the sender's next nonce.
    fn fits(&self, tx: &Tx, tip: u64, state: &dyn KvRead) -> Result<u64, SubmitError> {
        let (sender, nonce) = (tx.sender, tx.nonce);
        let next = next_nonce(state, &sender)?;
        if nonce < next {
            return Err(SubmitError::Stale { got: nonce, next });
        }
        if nonce - next > MAX_NONCE_AHEAD {
            return Err(SubmitError::Gap { got: nonce, next });
        }
        let until = tx.valid_until_height;
        if until <= tip {
            return Err(SubmitError::Expired { until, tip });
        }
        self.pool().room_for_sender(&sender, nonce)?;
        Ok(next)
    }

    fn take(
        &self,
        tx: CheckedTx,
        next: u64,
        tip: u64,
        state: &dyn KvRead,
    ) -> Result<(), SubmitError> {
        if tx.tx().nonce == next {
            execute::admit(state, tip + 1, &tx)?.map_err(SubmitError::Refused)?;
        }
        let charge = execute::charge(state, tip + 1, &tx)?.map_err(SubmitError::Refused)?;
        self.pool()
            .insert(Waiting::new(tx, &charge), next, charge.purse)
    }

    /// Transactions for the next block: at most `max_txs`, each sender's in nonce order from its next one; the order is the front
    /// page's.
    pub fn select(
        &self,
        state: &dyn KvRead,
        max_txs: usize,
        max_bytes: u64,
        max_proofs: u64,
    ) -> Result<Vec<CheckedTx>, StoreError> {
        let pool = self.pool();
        let mut heads = BinaryHeap::new();
        for (sender, queue) in &pool.senders {
            let next = next_nonce(state, sender)?;
            if let Some(head) = queue.by_nonce.get(&next) {
                let reach = queue.reach(next);
                heads.push(Candidate::new(head, *sender, next, 0, reach));
            }
        }
        let (mut bytes, mut proofs) = (0, 0);
        let mut chosen = Vec::new();
        while let Some(candidate) = heads.pop() {
            let Candidate {
                sender,
                nonce,
                turn,
                reach,
                ..
            } = candidate;
            let Some(queue) = pool.senders.get(&sender) else {
                continue;
            };
            let Some(head) = queue.by_nonce.get(&nonce) else {
                continue;
            };
            if chosen.len() >= max_txs {
                break;
            }
            // What does not fit waits with everything that its sender has behind it.
            if bytes + head.tx.len_bytes() > max_bytes || proofs + head.tx.proofs() > max_proofs {
                continue;
            }
            bytes += head.tx.len_bytes();
            proofs += head.tx.proofs();
            chosen.push(head.tx.clone());
            if let Some(after) = queue.by_nonce.get(&(nonce + 1)) {
                heads.push(Candidate::new(after, sender, nonce + 1, turn.0 + 1, reach));
            }
        }
        Ok(chosen)
    }

    /// Forgets what block `height` carried (whatever became of it), what its nonces made stale, and what expired.
    pub fn committed<'a>(
        &self,
        height: u64,
        ids: impl IntoIterator<Item = &'a TxId>,
        state: &dyn KvRead,
    ) -> Result<(), StoreError> {
        let mut pool = self.pool();
        let carried: BTreeSet<&TxId> = ids.into_iter().collect();
        let senders: Vec<Address> = pool.senders.keys().copied().collect();
        for sender in senders {
            let next = next_nonce(state, &sender)?;
            let gone = |nonce: u64, w: &Waiting| {
                nonce < next
                    || carried.contains(&w.tx.id())
                    || w.tx.tx().valid_until_height <= height
            };
            let queue = pool
                .senders
                .get(&sender)
                .into_iter()
                .flat_map(|q| &q.by_nonce);
            let nonces: Vec<u64> = queue
                .filter(|(nonce, w)| gone(**nonce, w))
                .map(|(nonce, _)| *nonce)
                .collect();
            for nonce in nonces {
                pool.remove(&sender, nonce);
            }
            if let Some(queue) = pool.senders.get_mut(&sender) {
                queue.next = next;
            }
        }
        Ok(())
    }

    /// Transactions waiting.
    pub fn len(&self) -> usize {
        self.pool().ids.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes waiting.
    pub fn bytes(&self) -> u64 {
        self.pool().bytes
    }

    /// Whether a transaction waits here.
    pub fn contains(&self, id: &TxId) -> bool {
        self.pool().ids.contains_key(id)
    }

    /// A transaction that waits here.
    pub fn get(&self, id: &TxId) -> Option<CheckedTx> {
        let pool = self.pool();
        pool.waiting(id).map(|w| w.tx.clone())
    }

    /// The check of this very transaction, signature and all, if it waits here: who judges a block need not repeat it.
    pub fn checked(&self, tx: &SignedTx) -> Option<CheckedTx> {
        // Compared outside of the lock.
        self.get(&tx.id()).filter(|waiting| waiting.signed() == tx)
    }

    /// Whether a transaction waits in the lane of window PoSts and declarations.
    pub fn is_in_lane(&self, id: &TxId) -> bool {
        let pool = self.pool();
        pool.waiting(id).is_some_and(Waiting::in_lane)
    }

    /// The nonce after the sender's last waiting transaction without a gap: what a wallet should use next.
    pub fn next_nonce(&self, state: &dyn KvRead, sender: &Address) -> Result<u64, StoreError> {
        let mut next = next_nonce(state, sender)?;
        if let Some(queue) = self.pool().senders.get(sender) {
            while queue.by_nonce.contains_key(&next) {
                next += 1;
            }
        }
        Ok(next)
    }
}

impl Pool {
    fn waiting(&self, id: &TxId) -> Option<&Waiting> {
        let (sender, nonce) = self.ids.get(id)?;
        self.senders.get(sender)?.by_nonce.get(nonce)
    }

    fn room_for_sender(&self, sender: &Address, nonce: u64) -> Result<(), SubmitError> {
        match self.senders.get(sender) {
            Some(q)
                if !q.by_nonce.contains_key(&nonce) && q.by_nonce.len() >= MAX_TXS_PER_SENDER =>
            {
                Err(SubmitError::SenderFull(*sender))
            }
            _ => Ok(()),
        }
    }

    /// `next` is the sender's next nonce and `purse` what pays for the transaction, by the newest state.
    fn insert(
        &mut self,
        mut new: Waiting,
        next: u64,
        purse: TokenAmount,
    ) -> Result<(), SubmitError> {
        let (sender, nonce, len) = (new.tx.tx().sender, new.tx.tx().nonce, new.tx.len_bytes());
        if self.ids.contains_key(&new.tx.id()) {
            return Ok(());
        }
        self.room_for_sender(&sender, nonce)?;
        let queue = self.senders.get(&sender);
        let replaced = queue.and_then(|q| q.by_nonce.get(&nonce));
        if let Some(old) = replaced {
            // Rounded up, and at least one unit more: two free transactions do not replace each other for ever.
            let old = old.tx.tx().fee_limit.0;
            let needed = old
                .saturating_mul(REPLACE_PERCENT)
                .div_ceil(100)
                .max(old.saturating_add(1));
            if new.tx.tx().fee_limit.0 < needed {
                return Err(SubmitError::Underpriced { nonce, needed });
            }
        }
        let (freed, unowed) = replaced.map_or((0, 0), |w| (w.tx.len_bytes(), w.owed));
        let (held, owed) = queue.map_or((0, 0), |q| (q.bytes, q.owed));
        if held - freed + len > MAX_BYTES_PER_SENDER {
            return Err(SubmitError::SenderFull(sender));
        }
        // All that waits must be payable: the later ones are not judged by the state before their turn.
        let all = (owed - unowed).saturating_add(new.owed);
        if new.owed > 0 && all > purse.0 {
            return Err(SubmitError::Refused(ChainError::InsufficientFunds {
                purse: Subject::Account,
                need: TokenAmount(all),
                have: purse,
            }));
        }
        let freed = match replaced.is_some_and(Waiting::in_lane) {
            true => 0,
            false => freed,
        };
        self.make_room(&new, freed, next)?;
        self.remove(&sender, nonce);
        self.arrivals += 1;
        new.arrival = self.arrivals;
        self.put(next, new);
        Ok(())
    }

    /// Evicts until `new` fits its part of the pool, or says that it offers too little and leaves all as it was: what is refused pays
    /// no fee, and must not cost others their place. `freed` ordinary bytes of its sender's go anyway.
    fn make_room(&mut self, new: &Waiting, freed: u64, next: u64) -> Result<(), SubmitError> {
        let mut evicted = Vec::new();
        let made = self.evict_for(new, freed, next, &mut evicted);
        if made.is_err() {
            for (next, waiting) in evicted {
                self.put(next, waiting);
            }
        }
        made
    }

    fn evict_for(
        &mut self,
        new: &Waiting,
        freed: u64,
        next: u64,
        evicted: &mut Vec<(u64, Waiting)>,
    ) -> Result<(), SubmitError> {
        let (sender, len) = (new.tx.tx().sender, new.tx.len_bytes());
        if new.in_lane() {
            while self.lane_bytes + len > LANE_BYTES {
                evicted.extend(self.evict_in_lane(&sender, len)?);
            }
            return Ok(());
        }
        // Whether it could run once what its sender has in front of it did.
        let (nonce, queue) = (new.tx.tx().nonce, self.senders.get(&sender));
        let before = queue.map_or(0, |q| q.by_nonce.range(next..nonce).count() as u64);
        let worth = (nonce - next == before, new.class, new.offer);
        let above =
            |held: u64| (held.saturating_sub(freed) + len).saturating_sub(MAX_BYTES - LANE_BYTES);
        // Found out in one look, so that what cannot fit costs no more than that.
        let needed = above(self.bytes - self.lane_bytes);
        if needed > 0 && self.bytes_below(worth, &sender) < needed {
            return Err(SubmitError::Full);
        }
        while above(self.bytes - self.lane_bytes) > 0 {
            evicted.extend(self.evict_below(worth, &sender)?);
        }
        Ok(())
    }

    /// Drops the last lane transaction of the sender with most bytes there, if the newcomer's sender has fewer.
    fn evict_in_lane(
        &mut self,
        newcomer: &Address,
        len: u64,
    ) -> Result<Option<(u64, Waiting)>, SubmitError> {
        let ours = self.senders.get(newcomer).map_or(0, |q| q.lane_bytes) + len;
        let others = self.senders.iter().filter(|(s, _)| *s != newcomer);
        let most = others.max_by_key(|(s, q)| (q.lane_bytes, **s));
        let (sender, queue) = most
            .filter(|(_, q)| q.lane_bytes > ours)
            .ok_or(SubmitError::Full)?;
        let mut lane = queue.by_nonce.iter().filter(|(_, w)| w.in_lane());
        let last = lane.next_back().map(|(nonce, _)| (*sender, *nonce));
        let (sender, nonce) = last.ok_or(SubmitError::Full)?;
        Ok(self.remove(&sender, nonce))
    }

    /// Bytes of other senders' ordinary transactions that would give way to `worth`, or a little more.
    fn bytes_below(&self, worth: (bool, Class, u128), newcomer: &Address) -> u64 {
        let others = self.senders.iter().filter(|(s, _)| *s != newcomer);
        let of = others.map(|(_, q)| {
            let gapless = q.is_gapless();
            let lasts = q.by_nonce.values().rev().filter(|w| !w.in_lane());
            let below = lasts.take_while(|w| (gapless, w.class, w.offer) < worth);
            below.map(|w| w.tx.len_bytes()).sum::<u64>()
        });
        of.sum()
    }

    /// Drops the last ordinary transaction of the sender whose last one is worth least, if that is less than `worth`.
    fn evict_below(
        &mut self,
        worth: (bool, Class, u128),
        newcomer: &Address,
    ) -> Result<Option<(u64, Waiting)>, SubmitError> {
        let others = self.senders.iter().filter(|(s, _)| *s != newcomer);
        let lasts = others.filter_map(|(s, q)| {
            let mut rest = q.by_nonce.iter().filter(|(_, w)| !w.in_lane());
            let (nonce, w) = rest.next_back()?;
            let worth = (q.is_gapless(), w.class, w.offer);
            Some((worth, Reverse(w.arrival), *s, *nonce))
        });
        let (least, _, sender, nonce) = lasts.min().ok_or(SubmitError::Full)?;
        if least >= worth {
            return Err(SubmitError::Full);
        }
        Ok(self.remove(&sender, nonce))
    }

    /// Adds what fits; its sender's next nonce on the chain is `next`.
    fn put(&mut self, next: u64, new: Waiting) {
        let (sender, nonce, len) = (new.tx.tx().sender, new.tx.tx().nonce, new.tx.len_bytes());
        self.bytes += len;
        self.ids.insert(new.tx.id(), (sender, nonce));
        let queue = self.senders.entry(sender).or_default();
        queue.next = next;
        queue.bytes += len;
        queue.owed += new.owed;
        if new.in_lane() {
            queue.lane_bytes += len;
            self.lane_bytes += len;
        }
        queue.by_nonce.insert(nonce, new);
    }

    /// Takes one out, with its sender's next nonce, as [`Pool::put`] adds it.
    fn remove(&mut self, sender: &Address, nonce: u64) -> Option<(u64, Waiting)> {
        let queue = self.senders.get_mut(sender)?;
        let next = queue.next;
        let old = queue.by_nonce.remove(&nonce);
        if let Some(old) = &old {
            queue.bytes -= old.tx.len_bytes();
            queue.owed -= old.owed;
            self.bytes -= old.tx.len_bytes();
            self.ids.remove(&old.tx.id());
            if old.in_lane() {
                queue.lane_bytes -= old.tx.len_bytes();
                self.lane_bytes -= old.tx.len_bytes();
            }
        }
        if queue.by_nonce.is_empty() {
            self.senders.remove(sender);
        }
        Some((next, old?))
    }
}

/// `by_operator`: the transaction acts only for one provider, and one of that provider's keys sent it.
fn class(tx: &CheckedTx, by_operator: bool) -> Class {
    let all = |wanted: fn(&Message) -> bool| tx.tx().msgs.iter().all(wanted);
    let duty = |m: &Message| {
        matches!(
            m,
            Message::SubmitPost { .. }
                | Message::DeclareFaults { .. }
                | Message::DeclareRecovered { .. }
        )
    };
    match by_operator {
        true if all(duty) => Class::Lane,
        true if all(|m| matches!(m, Message::ProveCommit { .. })) => Class::Porep,
        _ => Class::Ordinary,
    }
}

fn next_nonce(state: &dyn KvRead, sender: &Address) -> Result<u64, StoreError> {
    let account: Option<Account> = state::read(state, &key::account(sender))?;
    Ok(account.unwrap_or_default().nonce)
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;

    use super::*;
    use crate::account::{NetKey, ProviderId};
    use crate::codec;
    use crate::message::sign;
    use crate::params::ChainParams;
    use crate::provider::Provider;
    use crate::state::MemoryState;
    use crate::units::TokenAmount;
    use crate::units::{Epoch, EpochCount, StoragePower};

    const CHAIN: ChainId = ChainId([1; 32]);

    fn signer(n: u64) -> SigningKey {
        SigningKey::from_bytes(&crate::merkle::digest(&[&n.to_le_bytes()]))
    }
    fn of(n: u64) -> Address {
        Address::of(&signer(n).verifying_key())
    }
    fn tx(n: u64, nonce: u64, fee: u128, msgs: usize) -> SignedTx {
        let msgs = vec![
            Message::Transfer {
                to: of(99),
                amount: TokenAmount(1)
            };
            msgs
        ];
        let tx = Tx {
            version: 1,
            chain_id: CHAIN,
            sender: of(n),
            nonce,
            fee_limit: TokenAmount(fee),
            valid_until_height: 100,
            msgs,
        };
        sign(tx, &signer(n))
    }
    fn state(nonces: &[(u64, u64)]) -> MemoryState {
        let money = [(of(98), TokenAmount(5))].into();
        let mut state = MemoryState::default();
        state.commit(&execute::genesis_writes(&ChainParams::devnet(), &money).unwrap());
        for (n, nonce) in nonces {
            let leaf = Account {
                free: TokenAmount(5),
                nonce: *nonce,
            };
            state.0.insert(key::account(&of(*n)), codec::encode(&leaf));
        }
        state
    }
    fn insert(
        pool: &Mempool,
        tx: SignedTx,
        provider: bool,
        purse: u128,
    ) -> Result<(), SubmitError> {
        let charge = Charge {
            fee: TokenAmount(0),
            provider: provider.then_some(ProviderId(1000)),
            purse: TokenAmount(purse),
        };
        let waiting = Waiting::new(tx.check(&CHAIN).unwrap(), &charge);
        pool.pool().insert(waiting, 0, charge.purse)
    }

    /// Fills the ordinary part through the inner door, as many senders would.
    fn fill(pool: &Mempool, nonce: u64, purse: u128) {
        let mut n = 1_000;
        // Large ones first, then small ones, so that nothing fits any more.
        for msgs in [64, 1] {
            let one = tx(2, nonce, 1, msgs).check(&CHAIN).unwrap().len_bytes();
            while pool.bytes() + one <= MAX_BYTES - LANE_BYTES {
                n += 1;
                insert(pool, tx(n, nonce, 1 << 100, msgs), false, purse).unwrap();
            }
        }
    }

    fn post(n: u64, nonce: u64, skipped: usize) -> SignedTx {
        let mut tx = tx(n, nonce, 0, 1);
        tx.tx.msgs = vec![Message::SubmitPost {
            provider: ProviderId(1000),
            deadline: 0,
            partition: 0,
            skipped: (0..skipped as u64).map(prover::SectorNumber).collect(),
            proof: vec![0; 192],
        }];
        sign(tx.tx, &signer(n))
    }

    /// A state in which signer `n` owns provider 1000.
    fn with_provider(n: u64) -> MemoryState {
        let mut s = state(&[(n, 0)]);
        let id = ProviderId(1000);
        let provider = Provider {
            id,
            owner: of(n),
            worker: of(n),
            net_key: NetKey([1; 32]),
            addrs: vec![],
            next_keys: None,
            sector_size: prover::SectorSize::Kib2,
            registered: Epoch(0),
            offset: EpochCount(0),
            balance: TokenAmount(0),
            deposits: TokenAmount(0),
            pledge: TokenAmount(0),
            vesting: TokenAmount(0),
            fee_debt: TokenAmount(0),
            at_stake: TokenAmount(0),
            raw_power: StoragePower(0),
            power: StoragePower(0),
            acc_claimed: 0,
        };
        s.0.insert(key::provider(id), codec::encode(&provider));
        s
    }

    fn chosen(pool: &Mempool, state: &MemoryState) -> Vec<(Address, u64)> {
        let all = pool.select(state, 100, MAX_BYTES, 100).unwrap();
        all.iter().map(|t| (t.tx().sender, t.tx().nonce)).collect()
    }

    #[test]
    fn nonces_come_in_order_and_gaps_wait() {
        let pool = Mempool::new(CHAIN);
        let s = state(&[(1, 5)]);
        for nonce in [7, 5, 9, 6] {
            pool.submit(tx(1, nonce, 0, 1), 0, &s).unwrap();
        }
        assert_eq!(chosen(&pool, &s), vec![(of(1), 5), (of(1), 6), (of(1), 7)]);
        assert_eq!(pool.next_nonce(&s, &of(1)).unwrap(), 8);
        assert!(matches!(
            pool.submit(tx(1, 4, 0, 1), 0, &s),
            Err(SubmitError::Stale { got: 4, next: 5 })
        ));
        let far = 6 + MAX_NONCE_AHEAD;
        assert!(matches!(
            pool.submit(tx(1, far, 0, 1), 0, &s),
            Err(SubmitError::Gap { .. })
        ));
        assert!(matches!(
            pool.submit(tx(2, 0, 0, 1), 100, &s),
            Err(SubmitError::Expired { .. })
        ));
    }

    #[test]
    fn submitting_twice_is_once_and_replacing_costs_more() {
        let pool = Mempool::new(CHAIN);
        let s = state(&[]);
        let first = tx(1, 0, 100, 1);
        assert_eq!(
            pool.submit(first.clone(), 0, &s).unwrap(),
            pool.submit(first, 0, &s).unwrap()
        );
        assert_eq!(pool.len(), 1);
        assert!(matches!(
            pool.submit(tx(1, 0, 109, 1), 0, &s),
            Err(SubmitError::Underpriced { needed: 110, .. })
        ));
        pool.submit(tx(1, 0, 110, 1), 0, &s).unwrap();
        assert_eq!(
            (
                pool.len(),
                pool.select(&s, 9, MAX_BYTES, 9).unwrap()[0]
                    .tx()
                    .fee_limit
                    .0
            ),
            (1, 110)
        );
        pool.submit(tx(2, 0, 0, 1), 0, &s).unwrap();
        assert!(
            pool.submit(tx(2, 0, 0, 2), 0, &s).is_err(),
            "free transactions do not replace each other"
        );
    }

    #[test]
    fn what_waits_is_found_by_its_id_and_what_was_replaced_is_not() {
        let pool = Mempool::new(CHAIN);
        let s = with_provider(1);
        let (first, proof) = (tx(2, 0, 100, 1), post(1, 0, 0));
        let id = pool.submit(first.clone(), 0, &s).unwrap();
        let urgent = pool.submit(proof.clone(), 0, &s).unwrap();
        let waits = |id| pool.get(id).map(|waiting| waiting.signed().clone());
        assert_eq!(waits(&id), Some(first));
        assert_eq!(waits(&urgent), Some(proof));
        assert!(pool.is_in_lane(&urgent) && !pool.is_in_lane(&id));
        let better = tx(2, 0, 110, 1);
        let other = pool.submit(better.clone(), 0, &s).unwrap();
        assert_eq!((waits(&id), waits(&other)), (None, Some(better)));
    }

    /// Whoever copied a transaction under the lock, up to half a block of them, would hold up everybody who submits.
    #[test]
    fn tm_v8_the_pool_hands_out_what_it_has_and_no_copies() {
        let pool = Mempool::new(CHAIN);
        let s = state(&[]);
        let ours = tx(1, 0, 0, 64);
        let id = pool.submit(ours.clone(), 0, &s).unwrap();
        let waits = pool.get(&id).unwrap();
        let known = pool.checked(&ours).unwrap();
        let chosen = pool.select(&s, 1, MAX_BYTES, 1).unwrap().remove(0);
        for other in [&known, &chosen] {
            assert!(std::ptr::eq(waits.signed(), other.signed()));
        }
    }

    #[test]
    fn tm_c3_only_the_very_same_transaction_was_checked_before() {
        let pool = Mempool::new(CHAIN);
        let s = state(&[]);
        let ours = tx(1, 0, 0, 1);
        assert_eq!(pool.checked(&ours), None);
        pool.submit_checked(&ours.clone().check(&CHAIN).unwrap(), 0, &s)
            .unwrap();
        assert_eq!(pool.checked(&ours).map(|c| c.id()), Some(ours.id()));
        // The same id under another signature.
        let mut forged = ours.clone();
        forged.signature.0[0] ^= 1;
        assert_eq!((forged.id(), pool.checked(&forged)), (ours.id(), None));
        // Checked for another chain.
        let here = ours.check(&CHAIN).unwrap();
        let other = Mempool::new(ChainId([2; 32])).submit_checked(&here, 0, &s);
        assert!(matches!(
            other,
            Err(SubmitError::Tx(TxError::WrongChain { .. }))
        ));
    }

    #[test]
    fn what_a_block_carried_is_forgotten_even_if_refused() {
        let pool = Mempool::new(CHAIN);
        let s = state(&[]);
        let ids: Vec<TxId> = (0..3)
            .map(|n| pool.submit(tx(1, n, 0, 1), 0, &s).unwrap())
            .collect();
        pool.submit(tx(2, 0, 0, 1), 0, &s).unwrap();
        // Nonce 0 and 1 took effect, 2 was refused by the chain but carried by the block.
        pool.committed(1, [&ids[2]], &state(&[(1, 2)])).unwrap();
        assert_eq!(pool.len(), 1);
        pool.committed(100, [], &s).unwrap();
        assert!(pool.is_empty() && pool.bytes() == 0, "expired ones go");
    }

    #[test]
    fn forged_and_foreign_transactions_are_refused() {
        let pool = Mempool::new(CHAIN);
        let mut forged = tx(1, 0, 0, 1);
        forged.tx.nonce = 1;
        assert!(matches!(
            pool.submit(forged, 0, &state(&[])),
            Err(SubmitError::Tx(_))
        ));
        assert!(matches!(
            Mempool::new(ChainId([2; 32])).submit(tx(1, 0, 0, 1), 0, &state(&[])),
            Err(SubmitError::Tx(_))
        ));
        assert!(pool.is_empty());
    }

    #[test]
    fn tm_v8_a_flood_stays_bounded_and_an_honest_offer_gets_in() {
        let pool = Mempool::new(CHAIN);
        let s = state(&[]);
        // 64 messages make about 3 KB; one sender reaches its own limit first.
        let mut refused = 0;
        for nonce in 0..MAX_TXS_PER_SENDER as u64 + 1 {
            refused += u64::from(pool.submit(tx(1, nonce, 1, 64), 0, &s).is_err());
            if refused > 3 {
                break;
            }
        }
        assert!(refused > 0 && pool.bytes() <= MAX_BYTES_PER_SENDER);
        let s = state(&[(4, 0)]);
        fill(&pool, 0, 0);
        assert!(matches!(
            pool.submit(tx(3, 0, 1, 64), 0, &s),
            Err(SubmitError::Full)
        ));
        pool.submit(tx(4, 0, 1_000_000, 1), 0, &s).unwrap();
        assert!(pool.bytes() <= MAX_BYTES);
        assert_eq!(
            chosen(&pool, &s)[0],
            (of(4), 0),
            "the better offer is in the next block"
        );
    }

    /// Better than the worst, worse than the rest, and larger than the worst together: it is refused, and they stay.
    #[test]
    fn tm_v8_what_is_refused_has_pushed_nobody_out() {
        let pool = Mempool::new(CHAIN);
        for n in 10..13 {
            insert(&pool, tx(n, 0, 1, 1), false, 1).unwrap();
        }
        fill(&pool, 0, u128::MAX);
        let before = pool.bytes();
        let waiting = pool.pool().ids.len();
        let large = insert(&pool, tx(3, 0, 1_000, 64), false, 1_000);
        assert!(matches!(large, Err(SubmitError::Full)));
        assert_eq!((pool.bytes(), pool.pool().ids.len()), (before, waiting));
        for n in 10..13 {
            assert!(pool.pool().senders.contains_key(&of(n)));
        }
        // A smaller one of the same offer takes the place of one of them.
        insert(&pool, tx(3, 0, 1_000, 1), false, 1_000).unwrap();
        assert_eq!((pool.bytes(), pool.pool().ids.len()), (before, waiting));
    }

    #[test]
    fn what_the_chain_would_refuse_now_does_not_wait() {
        let pool = Mempool::new(CHAIN);
        let mut s = state(&[(1, 0)]);
        let params = ChainParams {
            fee_base: TokenAmount(3),
            ..ChainParams::devnet()
        };
        s.0.insert(key::params(), codec::encode(&params));
        assert!(
            matches!(
                pool.submit(tx(1, 0, 2, 1), 0, &s),
                Err(SubmitError::Refused(_))
            ),
            "below the fee"
        );
        assert!(
            matches!(
                pool.submit(tx(2, 0, 9, 1), 0, &s),
                Err(SubmitError::Refused(_))
            ),
            "cannot pay"
        );
        pool.submit(tx(1, 0, 3, 1), 0, &s).unwrap();
    }

    #[test]
    fn limits_of_a_block_are_kept() {
        let pool = Mempool::new(CHAIN);
        let s = state(&[]);
        for n in 0..10 {
            pool.submit(tx(n, 0, 0, 1), 0, &s).unwrap();
        }
        let len = tx(1, 0, 0, 1).check(&CHAIN).unwrap().len_bytes();
        assert_eq!(pool.select(&s, 4, MAX_BYTES, 9).unwrap().len(), 4);
        assert_eq!(pool.select(&s, 100, 3 * len, 9).unwrap().len(), 3);
    }

    #[test]
    fn tm_v4_a_window_post_has_its_lane_whatever_the_flood() {
        let s = with_provider(1);
        let pool = Mempool::new(CHAIN);
        // The pool is full of the best offers there can be; the proof offers nothing and still gets in, and out first.
        fill(&pool, 0, u128::MAX);
        assert!(matches!(
            pool.submit(tx(7, 0, 9, 1), 0, &s),
            Err(SubmitError::Full)
        ));
        pool.submit(post(1, 0, 0), 0, &s).unwrap();
        assert_eq!(chosen(&pool, &s)[0], (of(1), 0));
        // Who names a provider that is not its own is in no lane.
        assert!(matches!(
            pool.submit(post(7, 0, 0), 0, &s),
            Err(SubmitError::Full)
        ));
        // Nor does anything else travel in a proof's company.
        let mut mixed = post(1, 1, 0).tx;
        mixed.msgs.push(Message::ChangeKeys {
            provider: ProviderId(1000),
            worker: of(1),
            net_key: NetKey([1; 32]),
        });
        let mixed = pool.submit(sign(mixed, &signer(1)), 0, &s);
        assert!(matches!(mixed, Err(SubmitError::Full)));
    }

    #[test]
    fn tm_v4_other_peoples_proofs_do_not_fill_a_block_before_ones_own() {
        let pool = Mempool::new(CHAIN);
        let s = state(&[]);
        // Many proofs of one provider, many well-paid ones of a stranger; one of another provider, the last to come.
        for nonce in 0..20 {
            insert(&pool, post(1, nonce, 0), true, 0).unwrap();
            insert(&pool, post(3, nonce, 0), false, u128::MAX).unwrap();
        }
        insert(&pool, post(2, 0, 0), true, 0).unwrap();
        let first = pool.select(&s, 100, MAX_BYTES, 3).unwrap();
        let senders: Vec<_> = first.iter().map(|t| t.tx().sender).collect();
        assert_eq!(senders, [of(1), of(2), of(1)]);
    }

    #[test]
    fn tm_v8_what_waits_before_a_proof_goes_with_it_and_what_waits_after_does_not() {
        let pool = Mempool::new(CHAIN);
        let s = state(&[]);
        for n in 10..20 {
            insert(&pool, tx(n, 0, 1_000, 1), false, 1_000).unwrap();
        }
        insert(&pool, tx(1, 0, 0, 1), false, 0).unwrap();
        insert(&pool, post(1, 1, 0), true, 0).unwrap();
        insert(&pool, tx(1, 2, 0, 1), false, 0).unwrap();
        let order = chosen(&pool, &s);
        assert_eq!(order[..2], [(of(1), 0), (of(1), 1)]);
        assert_eq!(order.last(), Some(&(of(1), 2)));
        // Behind a gap there is no proof to carry.
        let gap = Mempool::new(CHAIN);
        insert(&gap, tx(1, 0, 0, 1), false, 0).unwrap();
        insert(&gap, post(1, 2, 0), true, 0).unwrap();
        insert(&gap, tx(10, 0, 1_000, 1), false, 1_000).unwrap();
        assert_eq!(chosen(&gap, &s), [(of(10), 0), (of(1), 0)]);
    }

    #[test]
    fn tm_v8_a_full_lane_takes_from_who_has_most() {
        let pool = Mempool::new(CHAIN);
        let skipped = crate::message::MAX_LISTED_SECTORS;
        let len = post(1, 0, skipped).check(&CHAIN).unwrap().len_bytes();
        // Three floods share the lane.
        let mut nonce = 0;
        while pool.bytes() + 3 * len <= LANE_BYTES {
            for n in 1..=3 {
                insert(&pool, post(n, nonce, skipped), true, 0).unwrap();
            }
            nonce += 1;
        }
        // Equals take nothing from each other.
        let took = |n: u64| insert(&pool, post(n, nonce, skipped), true, 0).is_ok();
        let took = [1, 2, 3].map(took);
        assert!(!took[2] && pool.bytes() + len > LANE_BYTES);
        for n in 50..60 {
            insert(&pool, post(n, 0, skipped), true, 0).unwrap();
        }
        assert!(pool.bytes() <= LANE_BYTES);
        let s = state(&[]);
        let order = chosen(&pool, &s);
        assert!((50..60).all(|n| order[..13].contains(&(of(n), 0))));
        // The lane leaves the rest of the pool alone.
        insert(&pool, tx(99, 0, 0, 64), false, 0).unwrap();
    }

    #[test]
    fn tm_v8_gaps_and_empty_promises_give_way_to_what_could_run() {
        let s = state(&[(4, 0)]);
        // Nonce 1 of accounts whose nonce 0 never comes, with the highest fee limits.
        let gaps = Mempool::new(CHAIN);
        fill(&gaps, 1, u128::MAX);
        assert!(
            matches!(gaps.submit(tx(5, 1, 0, 1), 0, &s), Err(SubmitError::Full)),
            "a gap more displaces nothing"
        );
        gaps.submit(tx(4, 0, 0, 1), 0, &s).unwrap();
        assert_eq!(chosen(&gaps, &s), [(of(4), 0)]);
        // Nonce 0 of accounts without money: an offer counts as far as it can be paid.
        let empty = Mempool::new(CHAIN);
        fill(&empty, 0, 0);
        empty.submit(tx(4, 0, 5, 1), 0, &s).unwrap();
        assert_eq!(chosen(&empty, &s)[0], (of(4), 0));
    }

    #[test]
    fn tm_v8_nobody_waits_for_anothers_second_transaction() {
        let pool = Mempool::new(CHAIN);
        let s = state(&[]);
        for nonce in 0..50 {
            insert(&pool, tx(1, nonce, 1_000_000, 1), false, u128::MAX).unwrap();
        }
        insert(&pool, tx(2, 0, 0, 1), false, 0).unwrap();
        assert_eq!(chosen(&pool, &s)[..2], [(of(1), 0), (of(2), 0)]);
    }

    #[test]
    fn tm_v8_all_that_waits_must_be_payable() {
        let pool = Mempool::new(CHAIN);
        let mut s = state(&[(1, 0)]);
        let params = ChainParams {
            fee_base: TokenAmount(2),
            ..ChainParams::devnet()
        };
        s.0.insert(key::params(), codec::encode(&params));
        pool.submit(tx(1, 0, 9, 1), 0, &s).unwrap();
        pool.submit(tx(1, 1, 9, 1), 0, &s).unwrap();
        assert!(matches!(
            pool.submit(tx(1, 2, 9, 1), 0, &s),
            Err(SubmitError::Refused(ChainError::InsufficientFunds { .. }))
        ));
        pool.submit(tx(1, 1, 10, 1), 0, &s).unwrap();
        assert_eq!(pool.len(), 2, "a replacement owes once");
    }
}
