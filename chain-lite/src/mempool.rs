//! Transactions on their way into a block: checked before they are kept, bounded in every direction, in nonce order.
//!
//! Walk: RPC [`Mempool::submit`]s; the engine [`Mempool::select`]s for a block and reports what was committed. Spec: `consensus.md` §8.
//! Bounds (`tm_v8`): [`MAX_BYTES`] in all, [`MAX_TXS_PER_SENDER`] and [`MAX_BYTES_PER_SENDER`] per sender, nonces at most
//! [`MAX_NONCE_AHEAD`] ahead of the state. Cheap limits are judged before any signature. When the pool is full, the last
//! transaction of the sender that offers least per byte goes, if the newcomer offers more.
//! Order: proofs and fault declarations first (a deadline must not be lost to a flood of transfers), then the offered fee
//! per byte, then arrival; within a sender always by nonce.
//! Crash: nothing is kept. A client submits again: a transaction's id is known before it is signed, and it counts once.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::{Mutex, PoisonError};

use crate::account::{Account, Address, ChainId, TxId};
use crate::error::{ChainError, StoreError};
use crate::execute;
use crate::message::{CheckedTx, Message, SignedTx, TxError};
use crate::state::{self, KvRead, key};

/// Most bytes of all transactions together.
pub const MAX_BYTES: u64 = 32 << 20;
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

struct Waiting {
    tx: CheckedTx,
    arrival: u64,
}

impl Waiting {
    fn rank(&self) -> (bool, u128, Reverse<u64>) {
        (is_urgent(&self.tx), rate(&self.tx), Reverse(self.arrival))
    }
}

#[derive(Default)]
struct Queue {
    by_nonce: BTreeMap<u64, Waiting>,
    bytes: u64,
}

#[derive(Default)]
struct Pool {
    senders: BTreeMap<Address, Queue>,
    ids: BTreeSet<TxId>,
    bytes: u64,
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
        let (sender, nonce) = (tx.tx.sender, tx.tx.nonce);
        if self.pool().ids.contains(&id) {
            // The id does not cover the signature, so a stranger learns only that the transaction waits.
            return Ok(id);
        }
        let next = next_nonce(state, &sender)?;
        if nonce < next {
            return Err(SubmitError::Stale { got: nonce, next });
        }
        if nonce - next > MAX_NONCE_AHEAD {
            return Err(SubmitError::Gap { got: nonce, next });
        }
        if tx.tx.valid_until_height <= tip {
            return Err(SubmitError::Expired {
                until: tx.tx.valid_until_height,
                tip,
            });
        }
        self.pool().room_for_sender(&sender, nonce)?;
        // The expensive part, outside the lock.
        let tx = tx.check(&self.chain_id)?;
        if nonce == next {
            execute::admit(state, tip + 1, &tx)?.map_err(SubmitError::Refused)?;
        }
        self.pool().insert(tx)?;
        Ok(id)
    }

    /// Transactions for the next block: at most `max_txs`, each sender's in nonce order from its next one, best offers first.
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
                heads.push((head.rank(), *sender, next));
            }
        }
        let (mut bytes, mut proofs) = (0, 0);
        let mut chosen = Vec::new();
        while let Some((_, sender, nonce)) = heads.pop() {
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
                heads.push((after.rank(), sender, nonce + 1));
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
        self.pool().ids.contains(id)
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

    fn insert(&mut self, tx: CheckedTx) -> Result<(), SubmitError> {
        let (sender, nonce, len) = (tx.tx().sender, tx.tx().nonce, tx.len_bytes());
        if self.ids.contains(&tx.id()) {
            return Ok(());
        }
        self.room_for_sender(&sender, nonce)?;
        let replaced = self
            .senders
            .get(&sender)
            .and_then(|q| q.by_nonce.get(&nonce));
        let freed = replaced.map_or(0, |w| w.tx.len_bytes());
        if let Some(old) = replaced {
            // Rounded up, and at least one unit more: two free transactions do not replace each other for ever.
            let old = old.tx.tx().fee_limit.0;
            let needed = old
                .saturating_mul(REPLACE_PERCENT)
                .div_ceil(100)
                .max(old.saturating_add(1));
            if tx.tx().fee_limit.0 < needed {
                return Err(SubmitError::Underpriced { nonce, needed });
            }
        }
        let held = self.senders.get(&sender).map_or(0, |q| q.bytes);
        if held - freed + len > MAX_BYTES_PER_SENDER {
            return Err(SubmitError::SenderFull(sender));
        }
        while self.bytes - freed + len > MAX_BYTES {
            self.evict_below(&tx, &sender)?;
        }
        self.remove(&sender, nonce);
        self.arrivals += 1;
        self.bytes += len;
        self.ids.insert(tx.id());
        let queue = self.senders.entry(sender).or_default();
        queue.bytes += len;
        queue.by_nonce.insert(
            nonce,
            Waiting {
                tx,
                arrival: self.arrivals,
            },
        );
        Ok(())
    }

    /// Drops the last transaction of the sender whose last one offers least, if that is less than `tx` offers.
    fn evict_below(&mut self, tx: &CheckedTx, newcomer: &Address) -> Result<(), SubmitError> {
        let lasts = self.senders.iter().filter(|(s, _)| *s != newcomer);
        let lasts = lasts.filter_map(|(s, q)| {
            q.by_nonce
                .last_key_value()
                .map(|(nonce, w)| (w.rank(), *s, *nonce))
        });
        let (rank, sender, nonce) = lasts.min().ok_or(SubmitError::Full)?;
        if (rank.0, rank.1) >= (is_urgent(tx), rate(tx)) {
            return Err(SubmitError::Full);
        }
        self.remove(&sender, nonce);
        Ok(())
    }

    fn remove(&mut self, sender: &Address, nonce: u64) {
        let Some(queue) = self.senders.get_mut(sender) else {
            return;
        };
        if let Some(old) = queue.by_nonce.remove(&nonce) {
            queue.bytes -= old.tx.len_bytes();
            self.bytes -= old.tx.len_bytes();
            self.ids.remove(&old.tx.id());
        }
        if queue.by_nonce.is_empty() {
            self.senders.remove(sender);
        }
    }
}

/// Proofs and declarations have a deadline; nothing else does.
fn is_urgent(tx: &CheckedTx) -> bool {
    let urgent = |m: &Message| {
        matches!(
            m,
            Message::SubmitPost { .. }
                | Message::ProveCommit { .. }
                | Message::DeclareFaults { .. }
                | Message::DeclareRecovered { .. }
        )
    };
    tx.tx().msgs.iter().any(urgent)
}

/// Offered units per KiB.
fn rate(tx: &CheckedTx) -> u128 {
    tx.tx().fee_limit.0.saturating_mul(1024) / u128::from(tx.len_bytes().max(1))
}

fn next_nonce(state: &dyn KvRead, sender: &Address) -> Result<u64, StoreError> {
    let account: Option<Account> = state::read(state, &key::account(sender))?;
    Ok(account.unwrap_or_default().nonce)
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;

    use super::*;
    use crate::codec;
    use crate::message::{Tx, sign};
    use crate::params::ChainParams;
    use crate::state::MemoryState;
    use crate::units::TokenAmount;

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
        // Fill the rest through the inner door, as many senders would, without signing a hundred thousand times.
        let one = tx(2, 0, 1, 64).check(&CHAIN).unwrap();
        let mut n = 0u64;
        while pool.bytes() + one.len_bytes() <= MAX_BYTES {
            n += 1;
            pool.pool()
                .insert(tx(1000 + n, 0, 1, 64).check(&CHAIN).unwrap())
                .unwrap();
        }
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
}
