//! State: the reading trait, the overlay that collects writes, and the network's totals.
//!
//! Everything that [`crate::execute::apply`] reads comes through [`KvRead`], and everything it writes goes into an
//! [`Overlay`], so a block can be tried on any snapshot and dropped. Keys and values: [`key`]. Values are borsh.
//! Cost: one decode for each typed read; nothing is cached here, because the store below may.
//! Crash: nothing to do here; the ledger writes a block's [`WriteSet`] at once or not at all.

pub mod key;

use std::collections::BTreeMap;

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};

use crate::codec;
pub use crate::error::StoreError;
use crate::units::{Epoch, StoragePower, TokenAmount};

/// Key and value, as stored.
pub type Entry = (Vec<u8>, Vec<u8>);

/// What a block changes: new values, `None` where a key goes.
pub type WriteSet = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// A snapshot of the state.
pub trait KvRead {
    /// The value under a key.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// The first `limit` entries from `from` (inclusive) until `until` (exclusive), in key order.
    fn range(&self, from: &[u8], until: &[u8], limit: usize) -> Result<Vec<Entry>, StoreError>;
}

impl<K: KvRead + ?Sized> KvRead for &K {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        (**self).get(key)
    }
    fn range(&self, from: &[u8], until: &[u8], limit: usize) -> Result<Vec<Entry>, StoreError> {
        (**self).range(from, until, limit)
    }
}

/// A state in memory: replay, tests, and genesis before it is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryState(pub BTreeMap<Vec<u8>, Vec<u8>>);

impl MemoryState {
    /// Takes over what a block changed.
    pub fn commit(&mut self, writes: &WriteSet) {
        for (key, value) in writes {
            match value {
                Some(value) => drop(self.0.insert(key.clone(), value.clone())),
                None => drop(self.0.remove(key)),
            }
        }
    }
}

impl KvRead for MemoryState {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.0.get(key).cloned())
    }

    fn range(&self, from: &[u8], until: &[u8], limit: usize) -> Result<Vec<Entry>, StoreError> {
        if from >= until {
            return Ok(Vec::new());
        }
        let range = self.0.range::<[u8], _>((
            std::ops::Bound::Included(from),
            std::ops::Bound::Excluded(until),
        ));
        Ok(range
            .take(limit)
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect())
    }
}

/// The value under a key, decoded. A value that does not decode is a damaged state.
pub fn read<T: BorshDeserialize>(state: &dyn KvRead, key: &[u8]) -> Result<Option<T>, StoreError> {
    state.get(key)?.map(|bytes| decode(key, &bytes)).transpose()
}

/// Decodes a stored value.
pub fn decode<T: BorshDeserialize>(key: &[u8], bytes: &[u8]) -> Result<T, StoreError> {
    borsh::from_slice(bytes).map_err(|error| StoreError::corrupt(key, error.to_string()))
}

/// All entries under a prefix, in key order, fetched in pages. For due work and checks; queries page themselves.
pub fn scan(state: &dyn KvRead, prefix: &[u8]) -> Result<Vec<Entry>, StoreError> {
    let (from, until) = key::prefix_range(prefix);
    scan_range(state, from, &until)
}

/// All entries of a range, in key order, fetched in pages.
pub fn scan_range(
    state: &dyn KvRead,
    mut from: Vec<u8>,
    until: &[u8],
) -> Result<Vec<Entry>, StoreError> {
    const PAGE: usize = 1_024;
    let mut all = Vec::new();
    loop {
        let page = state.range(&from, until, PAGE)?;
        let full = page.len() == PAGE;
        all.extend(page);
        match all.last() {
            // The smallest key above the last one seen is that key with a zero byte behind it.
            Some((last, _)) if full => from = [last.as_slice(), &[0]].concat(),
            _ => return Ok(all),
        }
    }
}

/// A place in an overlay's history to go back to.
#[derive(Clone, Copy, Debug)]
#[must_use = "an overlay keeps its history until it is rolled back or settled"]
pub struct Mark(usize);

/// A written key and its earlier write: `None` if there was none, `Some(None)` if it was a removal.
type Replaced = (Vec<u8>, Option<Option<Vec<u8>>>);

/// Writes over a snapshot, with a way back.
pub struct Overlay<'a> {
    base: &'a dyn KvRead,
    writes: WriteSet,
    /// What each write since the last [`Overlay::settle`] replaced in `writes`, oldest first.
    undo: Vec<Replaced>,
}

impl<'a> Overlay<'a> {
    /// An overlay without writes.
    pub fn new(base: &'a dyn KvRead) -> Self {
        Self {
            base,
            writes: WriteSet::new(),
            undo: Vec::new(),
        }
    }

    /// An overlay with what a block has written.
    pub fn with(base: &'a dyn KvRead, writes: WriteSet) -> Self {
        Self {
            writes,
            ..Self::new(base)
        }
    }

    /// Writes a value.
    pub fn put<T: BorshSerialize + ?Sized>(&mut self, key: Vec<u8>, value: &T) {
        self.write(key, Some(codec::encode(value)));
    }

    /// Writes an index entry, which says all in its key.
    pub fn put_index(&mut self, key: Vec<u8>) {
        self.write(key, Some(Vec::new()));
    }

    /// Removes a key.
    pub fn delete(&mut self, key: Vec<u8>) {
        self.write(key, None);
    }

    /// Takes back a write to a key that the snapshot does not have. Does what [`Overlay::delete`] does, and leaves nothing
    /// behind that a later range would have to step over.
    pub fn take_back(&mut self, key: &[u8]) {
        if let Some(before) = self.writes.remove(key) {
            self.undo.push((key.to_vec(), Some(before)));
        }
    }

    fn write(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        let before = self.writes.insert(key.clone(), value);
        self.undo.push((key, before));
    }

    /// The present place, for [`Overlay::rollback`].
    pub fn mark(&self) -> Mark {
        Mark(self.undo.len())
    }

    /// Takes back everything since `mark`.
    pub fn rollback(&mut self, mark: Mark) {
        while self.undo.len() > mark.0 {
            let Some((key, before)) = self.undo.pop() else {
                return;
            };
            match before {
                Some(value) => drop(self.writes.insert(key, value)),
                None => drop(self.writes.remove(&key)),
            }
        }
    }

    /// Forgets the way back: earlier marks become useless.
    pub fn settle(&mut self) {
        self.undo.clear();
    }

    /// The writes, without those that leave a value as it was: each write that remains costs the state tree a path.
    pub fn into_writes(self) -> Result<WriteSet, StoreError> {
        let mut changed = WriteSet::new();
        for (key, value) in self.writes {
            if self.base.get(&key)? != value {
                changed.insert(key, value);
            }
        }
        Ok(changed)
    }
}

impl KvRead for Overlay<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        match self.writes.get(key) {
            Some(value) => Ok(value.clone()),
            None => self.base.get(key),
        }
    }

    fn range(&self, from: &[u8], until: &[u8], limit: usize) -> Result<Vec<Entry>, StoreError> {
        if from >= until {
            return Ok(Vec::new());
        }
        let bounds = (
            std::ops::Bound::Included(from),
            std::ops::Bound::Excluded(until),
        );
        let mut written = self.writes.range::<[u8], _>(bounds).peekable();
        // Each of our writes can hide at most one entry of the base, so this many of the base suffice.
        let hidden = self.writes.range::<[u8], _>(bounds).count();
        let mut base = self
            .base
            .range(from, until, limit.saturating_add(hidden))?
            .into_iter()
            .peekable();
        let mut merged = Vec::new();
        while merged.len() < limit {
            let take_written = match (written.peek(), base.peek()) {
                (None, None) => break,
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (Some((key, _)), Some((below, _))) => {
                    if *key == below {
                        base.next();
                    }
                    // After `next` the peeked key is stale, but the written one wins in both cases of `<=`.
                    base.peek().is_none_or(|(below, _)| *key <= below)
                }
            };
            if take_written {
                if let Some((key, Some(value))) = written.next() {
                    merged.push((key.clone(), value.clone()));
                }
            } else if let Some(entry) = base.next() {
                merged.push(entry);
            }
        }
        Ok(merged)
    }
}

/// The network's totals: the one leaf that every block changes. With them `circulating` and the supply identity cost
/// nothing; [`crate::invariants`] recomputes them from all other leaves.
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
pub struct Network {
    /// Epoch of the last block.
    pub epoch: Epoch,
    /// Its height.
    pub height: u64,
    /// Last epoch whose beacon value is on chain.
    pub beacon_tip: Epoch,
    /// Money that genesis gave out.
    pub genesis: TokenAmount,
    /// Money minted since.
    pub minted: TokenAmount,
    /// Money that is gone.
    pub burnt: TokenAmount,
    /// Minted and not yet claimed.
    pub reward_pool: TokenAmount,
    /// Network time, 2^-32 epochs.
    #[serde(with = "crate::events::decimal")]
    pub theta: u128,
    /// Reward of one byte of power since genesis, 2^-32 units.
    #[serde(with = "crate::events::decimal")]
    pub acc: u128,
    /// Smoothed reward of one byte of power in one epoch, 2^-32 units.
    #[serde(with = "crate::events::decimal")]
    pub rpp: u128,
    /// Bytes of active sectors.
    pub raw_power: StoragePower,
    /// Their quality-adjusted power.
    pub power: StoragePower,
    /// Sum of all accounts' free money.
    pub free: TokenAmount,
    /// Sum of all escrow, locked or not.
    pub escrow: TokenAmount,
    /// Sum of the locked part.
    pub escrow_locked: TokenAmount,
    /// Sum of all providers' balances.
    pub provider_balance: TokenAmount,
    /// Sum of their deposits, pledges and vesting rewards.
    pub provider_locked: TokenAmount,
    /// The next provider's id.
    pub next_provider: u64,
    /// Sum of all payment channels' balances.
    pub channels: TokenAmount,
    /// The next channel's id.
    pub next_channel: u64,
    /// Bytes of DataCap that notaries granted to clients.
    pub datacap_granted: StoragePower,
    /// The part that verified deals took and did not give back.
    pub datacap_consumed: StoragePower,
    /// Epochs without a block or without a fresh beacon: timers do not count them ([`crate::lit`]).
    pub dark: u64,
}

impl Network {
    /// `chain.md` §3: money that is neither locked nor waiting in the pool.
    pub fn circulating(&self) -> TokenAmount {
        let all = self.genesis.0.saturating_add(self.minted.0);
        let held = [
            self.burnt,
            self.reward_pool,
            self.provider_locked,
            self.escrow_locked,
        ];
        TokenAmount(
            held.iter()
                .fold(all, |rest, part| rest.saturating_sub(part.0)),
        )
    }

    /// I1 of `chain.md` §16, from the running sums: every unit is somewhere, and only once.
    pub fn supply_holds(&self) -> bool {
        let places = [
            self.free,
            self.escrow,
            self.provider_balance,
            self.reward_pool,
            self.burnt,
            self.channels,
        ];
        let placed = places
            .iter()
            .try_fold(0u128, |sum, part| sum.checked_add(part.0));
        placed.is_some() && placed == self.genesis.0.checked_add(self.minted.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn state(entries: &[(u8, u8)]) -> MemoryState {
        MemoryState(
            entries
                .iter()
                .map(|&(key, value)| (vec![key], vec![value]))
                .collect(),
        )
    }

    proptest! {
        /// The overlay answers like a map that took the writes.
        #[test]
        fn overlay_equals_a_map(
            base in proptest::collection::vec((0u8..20, any::<u8>()), 0..20),
            writes in proptest::collection::vec((0u8..20, any::<Option<u8>>()), 0..30),
            undone in proptest::collection::vec((0u8..20, any::<Option<u8>>()), 0..10),
            from in 0u8..20, until in 0u8..22, limit in 0usize..25,
        ) {
            let base = state(&base);
            let mut overlay = Overlay::new(&base);
            let mut model = base.clone();
            for (key, value) in &writes {
                match value {
                    Some(value) => overlay.put(vec![*key], value),
                    None => overlay.delete(vec![*key]),
                }
                model.commit(&[(vec![*key], value.map(|value| vec![value]))].into());
            }
            let mark = overlay.mark();
            for (key, value) in &undone {
                match value {
                    Some(value) => overlay.put(vec![*key], value),
                    None => overlay.delete(vec![*key]),
                }
            }
            overlay.rollback(mark);
            prop_assert_eq!(overlay.range(&[from], &[until], limit), model.range(&[from], &[until], limit));
            for key in 0..20 {
                prop_assert_eq!(overlay.get(&[key]), model.get(&[key]));
            }
            let changed = overlay.into_writes().expect("memory does not fail");
            for (key, value) in &changed {
                prop_assert_ne!(&base.get(key).expect("memory"), value);
            }
            let mut result = base.clone();
            result.commit(&changed);
            prop_assert_eq!(result, model);
        }
    }

    #[test]
    fn a_long_scan_pages_through() {
        let all: BTreeMap<Vec<u8>, Vec<u8>> = (0..3_000u32)
            .map(|i| ([&[7], &i.to_be_bytes()[..]].concat(), vec![]))
            .collect();
        let state = MemoryState(all.clone());
        let found = scan(&state, &[7]).expect("memory does not fail");
        assert!(found.into_iter().eq(all));
    }
}
