//! The index: state, tree nodes, block positions and receipts in one sled tree. Rebuilt from the log whenever in doubt.
//!
//! Walk: [`crate::ledger`] is its only writer; readers get a [`View`], a snapshot that stays what it was while blocks are
//! committed. sled is used as an index and never as truth: its `flush` is no fsync, and a damaged file may open with a
//! lost suffix (`tm_h2`), so everything here carries its own check.
//!
//! | first byte | rest of the key | value |
//! |---|---|---|
//! | `s` | state key | state value |
//! | `n` | jmt node key | jmt node |
//! | `x` | height u64be, jmt node key | (node replaced at that height, to be pruned) |
//! | `o` | height u64be | position and end of the block's log record, epoch |
//! | `t` | transaction id | height u64, position u32 |
//! | `r` | height u64be | check 8 ‖ borsh(receipts, events); absent when there are none |
//! | `v` | height u64be | validators from that height on (borsh); none before the first change |
//! | `c` | height u64be | check 8 ‖ borsh(certificate with more signatures than the logged one); usually absent, may be lost |
//! | `u` | | check 8 ‖ borsh([`Meta`] of the block before the tip, what the tip overwrote): the state before, also after a restart |
//! | `m` | | [`Meta`] with a check: the tip, and sums over all `s`, `n`, `x` and `v` entries |
//!
//! One block is one `apply_batch` on one tree, the unit that sled writes atomically. [`Meta::sum`] is the sum (mod 2^128) of the
//! hashes of all `s`/`n`/`x`/`v` entries; [`Store::open`] adds them up again and so notices any lost, old or altered entry.
//! Cost: one scan at open (about a million entries a second); memory: sled's cache of [`CACHE_BYTES`] and the last
//! [`crate::tree::KEPT_VERSIONS`] blocks' overwritten values.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use borsh::{BorshDeserialize, BorshSerialize};

use crate::account::{ChainId, TxId};
use crate::block::{BlockId, Outcomes};
use crate::certificate::{Certificate, Validator, ValidatorSet};
use crate::codec;
use crate::error::StoreError;
use crate::log::Mark;
use crate::merkle::{Hash, digest};
use crate::state::{self, Entry, KvRead, WriteSet};
use crate::tree::{KEPT_VERSIONS, NodeRead, TreeUpdate};
use crate::units::Epoch;

/// sled's page cache. Small: an idle node must stay below 150 MiB, and the operating system caches the file anyway.
pub const CACHE_BYTES: u64 = 24 << 20;
/// Changes with the layout above; an index of another version is rebuilt.
const LAYOUT: u32 = 1;

/// The newest block as the index knows it.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Meta {
    pub(crate) layout: u32,
    /// The chain.
    pub chain_id: ChainId,
    /// The log record of the tip.
    pub mark: Mark,
    /// The tip's id (genesis: the chain id).
    pub block_id: BlockId,
    /// State root after the tip.
    pub state_root: Hash,
    /// Root of the tip's receipts and events.
    pub receipt_root: Hash,
    /// Epoch of the tip.
    pub epoch: Epoch,
    /// Time in the tip's header.
    pub time_ms: u64,
    /// Sum over all `s`, `n`, `x` and `v` entries.
    pub sum: u128,
}

impl Meta {
    /// The tip's height.
    pub fn height(&self) -> u64 {
        self.mark.height
    }

    /// The meta record before the first entry is written.
    pub fn genesis(chain_id: ChainId, mark: Mark, time_ms: u64) -> Self {
        Self {
            layout: LAYOUT,
            chain_id,
            mark,
            block_id: BlockId(chain_id.0),
            state_root: [0; 32],
            receipt_root: Outcomes::default().root(),
            epoch: Epoch(0),
            time_ms,
            sum: 0,
        }
    }
}

/// Where a block stands in the log, and its epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct BlockRef {
    /// First byte of its record.
    pub offset: u64,
    /// Its epoch.
    pub epoch: Epoch,
}

/// Where a transaction stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct TxRef {
    /// Its block.
    pub height: u64,
    /// Its position in the block.
    pub index: u32,
}

/// Where the entries are.
enum Entries {
    /// In a sled tree; the database it belongs to flushes it.
    Sled(sled::Db, sled::Tree),
    /// In memory, for simulated nodes.
    Memory(MemoryIndex),
}

/// An index in memory, for simulated nodes. Clones are the same index: it outlives the ledger that has it open, as a folder
/// does. Its power can be cut between two batches; within one nothing is half, as sled has it.
#[derive(Clone, Debug, Default)]
pub struct MemoryIndex(Arc<RwLock<Memory>>);

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

#[derive(Debug, Default)]
struct Memory {
    map: Map,
    /// How many more batches are taken.
    left: Option<u64>,
}

impl MemoryIndex {
    fn read(&self) -> RwLockReadGuard<'_, Memory> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
    fn write(&self) -> RwLockWriteGuard<'_, Memory> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, make: impl FnOnce(&mut Map)) -> Result<(), StoreError> {
        let mut memory = self.write();
        match &mut memory.left {
            Some(0) => return Err(StoreError::Io("the power is off".into())),
            Some(left) => *left -= 1,
            None => {}
        }
        make(&mut memory.map);
        Ok(())
    }

    /// The power fails after so many more batches (emptying the index counts as one): the next ones are errors and leave nothing.
    pub fn cut_after(&self, batches: u64) {
        self.write().left = Some(batches);
    }

    /// The power is back; what is here stays.
    pub fn restart(&self) {
        self.write().left = None;
    }

    /// Whether both hold the same entries.
    pub fn is_same(&self, other: &Self) -> bool {
        self.read().map == other.read().map
    }
}

/// Where an index is kept.
#[derive(Clone, Copy, Debug)]
pub enum Place<'a> {
    /// In a folder of its own, by sled.
    Folder(&'a Path),
    /// In memory.
    Memory(&'a MemoryIndex),
}

/// What one batch sets, or with `None` removes.
type Changes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

impl Entries {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        match self {
            Self::Sled(_, tree) => Ok(tree.get(key).map_err(io)?.map(|v| v.to_vec())),
            Self::Memory(index) => {
                let memory = index.read();
                Ok(memory.map.get(key).cloned())
            }
        }
    }

    /// The first `limit` entries of a range.
    fn range(
        &self,
        range: std::ops::Range<Vec<u8>>,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Vec<u8>)>, StoreError> {
        match self {
            Self::Sled(_, tree) => tree
                .range(range)
                .take(limit)
                .map(|entry| entry.map(|(k, v)| (k.to_vec(), v.to_vec())).map_err(io))
                .collect(),
            Self::Memory(index) => {
                let memory = index.read();
                let entries = memory.map.range(range).take(limit);
                Ok(entries.map(|(k, v)| (k.clone(), v.clone())).collect())
            }
        }
    }

    /// Shows every entry, in order of keys.
    fn each(&self, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), StoreError> {
        match self {
            Self::Sled(_, tree) => {
                for entry in tree.iter() {
                    let (key, value) = entry.map_err(io)?;
                    visit(&key, &value);
                }
            }
            Self::Memory(index) => {
                let memory = index.read();
                let entries = memory.map.iter();
                entries.for_each(|(key, value)| visit(key, value));
            }
        }
        Ok(())
    }

    /// The last entry of a range.
    fn last_in(
        &self,
        range: std::ops::RangeInclusive<Vec<u8>>,
    ) -> Result<Option<(Vec<u8>, Vec<u8>)>, StoreError> {
        match self {
            Self::Sled(_, tree) => {
                let last = tree.range(range).next_back().transpose().map_err(io)?;
                Ok(last.map(|(k, v)| (k.to_vec(), v.to_vec())))
            }
            Self::Memory(index) => {
                let memory = index.read();
                let last = memory.map.range(range).next_back();
                Ok(last.map(|(k, v)| (k.clone(), v.clone())))
            }
        }
    }

    /// All of it becomes visible at once.
    fn apply(&self, changes: Changes) -> Result<(), StoreError> {
        match self {
            Self::Sled(_, tree) => {
                let mut batch = sled::Batch::default();
                for (key, value) in changes {
                    match value {
                        Some(value) => batch.insert(key, value),
                        None => batch.remove(key),
                    }
                }
                tree.apply_batch(batch).map_err(io)
            }
            Self::Memory(index) => index.change(|map| {
                for (key, value) in changes {
                    match value {
                        Some(value) => map.insert(key, value),
                        None => map.remove(&key),
                    };
                }
            }),
        }
    }
}

/// The index of one chain.
pub struct Store {
    entries: Entries,
    meta: RwLock<Arc<Meta>>,
    /// The newest version; older ones hang from the views that need them.
    newest: Mutex<Arc<Version>>,
    /// Keeps the last few versions alive, so that values can be proven against the last header's root.
    recent: Mutex<std::collections::VecDeque<Arc<Version>>>,
}

/// One committed state in the chain of states: what the *next* block overwrote, once there is one.
struct Version {
    meta: Arc<Meta>,
    next: OnceLock<(BTreeMap<Vec<u8>, Option<Vec<u8>>>, Arc<Version>)>,
}

impl Drop for Version {
    /// Unlinks iteratively: a view held over many blocks would otherwise drop recursively.
    fn drop(&mut self) {
        let mut next = self.next.take();
        while let Some((_, version)) = next {
            next = match Arc::try_unwrap(version) {
                Ok(mut version) => version.next.take(),
                Err(_) => None,
            };
        }
    }
}

/// Everything that one block changes in the index.
pub struct Commit<'a> {
    /// The new tip, with the sum still that of the tip before.
    pub meta: Meta,
    /// State writes.
    pub writes: &'a WriteSet,
    /// Tree changes.
    pub tree: &'a TreeUpdate,
    /// Transactions of the block, in order.
    pub txs: &'a [TxId],
    /// Receipts and events.
    pub outcomes: &'a Outcomes,
}

impl Store {
    /// Opens the index if it is whole, for this chain and layout; `None` means: wipe it and rebuild.
    ///
    /// Calm on any content of a folder: sled's own panics on damaged files are caught and count as damage.
    pub fn open(place: Place<'_>, chain_id: ChainId) -> Result<Option<Self>, StoreError> {
        let attempt = catch_unwind(AssertUnwindSafe(|| Self::open_checked(place, chain_id)));
        match attempt {
            Ok(Ok(store)) => Ok(store),
            Ok(Err(e)) => {
                tracing::warn!(error = %e, "the index cannot be used and will be rebuilt from the block log");
                Ok(None)
            }
            Err(_) => {
                tracing::warn!("the index is damaged and will be rebuilt from the block log");
                Ok(None)
            }
        }
    }

    fn open_checked(place: Place<'_>, chain_id: ChainId) -> Result<Option<Self>, StoreError> {
        if matches!(place, Place::Folder(dir) if !dir.exists()) {
            return Ok(None);
        }
        let entries = open_entries(place)?;
        let found = entries.get(b"m")?;
        let Some(meta) = found.and_then(|bytes| unseal::<Meta>(&bytes)) else {
            return Ok(None);
        };
        if meta.layout != LAYOUT || meta.chain_id != chain_id {
            return Ok(None);
        }
        let mut sum = 0u128;
        let mut count = |key: &[u8], value: &[u8]| {
            if counted(key) {
                sum = sum.wrapping_add(weight(key, value));
            }
        };
        entries.each(&mut count)?;
        if sum != meta.sum {
            tracing::warn!(
                height = meta.height(),
                "entries of the index are missing or altered"
            );
            return Ok(None);
        }
        Ok(Some(Self::with(entries, meta)))
    }

    /// Wipes what is there and starts an index at genesis.
    pub fn create(
        place: Place<'_>,
        genesis: Meta,
        state: &WriteSet,
        tree: &TreeUpdate,
    ) -> Result<Self, StoreError> {
        clear(place)?;
        let entries = open_entries(place)?;
        let store = Self::with(
            entries,
            Meta {
                sum: 0,
                ..genesis.clone()
            },
        );
        store.commit(Commit {
            meta: genesis,
            writes: state,
            tree,
            txs: &[],
            outcomes: &Outcomes::default(),
        })?;
        Ok(store)
    }

    fn with(entries: Entries, meta: Meta) -> Self {
        let meta = Arc::new(meta);
        let version = Arc::new(Version {
            meta: meta.clone(),
            next: OnceLock::new(),
        });
        let store = Self {
            entries,
            meta: RwLock::new(meta),
            newest: Mutex::new(version.clone()),
            recent: Mutex::default(),
        };
        store.recall(version);
        store
    }

    /// Brings back the state before the newest, which headers speak of. A damaged or missing entry costs a proof until the next
    /// block, nothing more.
    fn recall(&self, newest: Arc<Version>) {
        type Before = (Meta, BTreeMap<Vec<u8>, Option<Vec<u8>>>);
        let found = self.entries.get(b"u").ok().flatten();
        let before = found.and_then(|bytes| unseal::<Before>(&bytes));
        let Some((meta, undo)) = before.filter(|b| b.0.height() + 1 == newest.meta.height()) else {
            return;
        };
        let version = Version {
            meta: Arc::new(meta),
            next: OnceLock::from((undo, newest)),
        };
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.push_back(Arc::new(version));
    }

    /// Wipes what is there and starts an index that is filled piece by piece; without its [`Store::finish`] it does not open.
    pub(crate) fn begin(place: Place<'_>, meta: Meta) -> Result<Self, StoreError> {
        clear(place)?;
        Ok(Self::with(open_entries(place)?, Meta { sum: 0, ..meta }))
    }

    /// Adds values and tree nodes to an index in the making, and takes out nodes that they replace.
    pub(crate) fn fill(&self, writes: &WriteSet, tree: &TreeUpdate) -> Result<(), StoreError> {
        let mut batch = self.batch();
        batch.update(writes, tree, |key| (prefixed(b'n', key), None))?;
        self.apply(batch)
    }

    /// Ends the making: the index is whole, of block `meta.height()`. `sets` are the validators of the two heights after it.
    pub(crate) fn finish(self, meta: Meta, sets: [&ValidatorSet; 2]) -> Result<Self, StoreError> {
        let mut batch = self.batch();
        for (from, set) in (meta.height().saturating_add(1)..).zip(sets) {
            let key = prefixed(b'v', &from.to_be_bytes());
            batch.replace(key, Some(&codec::encode(set)))?;
        }
        let sum = batch.sum;
        self.apply(batch)?;
        let meta = Meta { sum, ..meta };
        let sealed = seal(&meta);
        self.entries
            .apply(Changes::from([(b"m".to_vec(), Some(sealed))]))?;
        self.flush()?;
        Ok(Self::with(self.entries, meta))
    }

    fn batch(&self) -> Batch<'_> {
        Batch {
            store: self,
            sum: self.meta().sum,
            changes: Changes::new(),
        }
    }

    fn apply(&self, batch: Batch<'_>) -> Result<(), StoreError> {
        self.entries.apply(batch.changes)?;
        let mut meta = self.meta.write().unwrap_or_else(PoisonError::into_inner);
        let sum = batch.sum;
        *meta = Arc::new(Meta {
            sum,
            ..(**meta).clone()
        });
        Ok(())
    }

    /// The newest block.
    pub fn meta(&self) -> Arc<Meta> {
        self.meta
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// A snapshot of the newest state.
    pub fn view(self: &Arc<Self>) -> View {
        let version = self
            .newest
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        View {
            store: self.clone(),
            version,
        }
    }

    /// A snapshot of the state after block `height`, if it is among the last [`KEPT_VERSIONS`].
    pub fn view_at(self: &Arc<Self>, height: u64) -> Option<View> {
        let newest = self.view();
        if newest.height() == height {
            return Some(newest);
        }
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        // The newest of that height: the empty store and the genesis both are of height 0.
        let mut newest_first = recent.iter().rev();
        let version = newest_first.find(|v| v.meta.height() == height)?.clone();
        Some(View {
            store: self.clone(),
            version,
        })
    }

    /// Writes one block; all of it becomes visible at once.
    pub fn commit(&self, commit: Commit<'_>) -> Result<(), StoreError> {
        let Commit {
            mut meta,
            writes,
            tree,
            txs,
            outcomes,
        } = commit;
        let height = meta.height();
        let mut batch = self.batch();
        // Replaced nodes stay for as long as a proof may ask for them.
        let undo = batch.update(writes, tree, |key| (stale_key(height, key), Some(&[])))?;
        if let Some(Some(set)) = writes.get(&state::key::next_validators()) {
            // Decided now, in force two heights later.
            let from = height.saturating_add(2).to_be_bytes();
            batch.replace(prefixed(b'v', &from), Some(set))?;
        }
        if let Some(expired) = height.checked_sub(KEPT_VERSIONS) {
            self.prune(expired, &mut batch)?;
        }
        let mut changes = batch.changes;
        meta.sum = batch.sum;
        let block = BlockRef {
            offset: meta.mark.offset,
            epoch: meta.epoch,
        };
        changes.insert(
            prefixed(b'o', &height.to_be_bytes()),
            Some(codec::encode(&block)),
        );
        for (index, tx) in (0u32..).zip(txs) {
            let place = codec::encode(&TxRef { height, index });
            changes.insert(prefixed(b't', &tx.0), Some(place));
        }
        if *outcomes != Outcomes::default() {
            changes.insert(prefixed(b'r', &height.to_be_bytes()), Some(seal(outcomes)));
        }
        if height > 0 {
            let before = seal(&(&*self.meta(), &undo));
            changes.insert(b"u".to_vec(), Some(before));
        }
        changes.insert(b"m".to_vec(), Some(seal(&meta)));
        self.publish(meta, undo, changes)
    }

    /// Deletes nodes that were replaced at `height` or before.
    fn prune(&self, height: u64, batch: &mut Batch<'_>) -> Result<(), StoreError> {
        let until = prefixed(b'x', &(height + 1).to_be_bytes());
        for (key, _) in self.entries.range(b"x".to_vec()..until, usize::MAX)? {
            batch.replace(prefixed(b'n', &key[9..]), None)?;
            batch.replace(key, None)?;
        }
        Ok(())
    }

    /// Readers look at the store first and at the undo list after it, so the list must be there before the batch.
    fn publish(
        &self,
        meta: Meta,
        undo: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
        changes: Changes,
    ) -> Result<(), StoreError> {
        let meta = Arc::new(meta);
        let version = Arc::new(Version {
            meta: meta.clone(),
            next: OnceLock::new(),
        });
        let old = self
            .newest
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        // Only the ledger's one writer gets here, so the link is still empty.
        let linked = old.next.set((undo, version.clone())).is_ok();
        debug_assert!(linked, "two writers on one index");
        self.entries.apply(changes)?;
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner) = version;
        *self.meta.write().unwrap_or_else(PoisonError::into_inner) = meta;
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.push_back(old);
        while recent.len() as u64 > KEPT_VERSIONS {
            recent.pop_front();
        }
        Ok(())
    }

    /// Where block `height` stands in the log.
    pub fn block_ref(&self, height: u64) -> Result<Option<BlockRef>, StoreError> {
        self.typed(&prefixed(b'o', &height.to_be_bytes()))
    }

    /// Where a transaction stands.
    pub fn tx_ref(&self, tx: &TxId) -> Result<Option<TxRef>, StoreError> {
        self.typed(&prefixed(b't', &tx.0))
    }

    /// Receipts and events of block `height` (empty if it had none).
    pub fn outcomes(&self, height: u64) -> Result<Outcomes, StoreError> {
        let key = prefixed(b'r', &height.to_be_bytes());
        match self.entries.get(&key)? {
            None => Ok(Outcomes::default()),
            Some(bytes) => unseal(&bytes)
                .ok_or_else(|| StoreError::corrupt(&key, "receipts do not match their check")),
        }
    }

    /// The validators of `height`, if they were ever changed up to it; else those of genesis count.
    pub fn validators_at(&self, height: u64) -> Result<Option<ValidatorSet>, StoreError> {
        let range = prefixed(b'v', &[])..=prefixed(b'v', &height.to_be_bytes());
        let Some((key, bytes)) = self.entries.last_in(range)? else {
            return Ok(None);
        };
        let list: Vec<Validator> = state::decode(&key, &bytes)?;
        ValidatorSet::checked_before(list)
            .map(Some)
            .map_err(|e| StoreError::corrupt(&key, e.to_string()))
    }

    /// The certificate of block `height` that gathered more signatures than the one in the log, if one was kept.
    pub fn grown_certificate(&self, height: u64) -> Result<Option<Certificate>, StoreError> {
        let key = prefixed(b'c', &height.to_be_bytes());
        // The log holds a certificate that suffices, so a damaged one here is no loss and no error.
        let kept = self.entries.get(&key)?;
        Ok(kept.and_then(|bytes| unseal(&bytes)))
    }

    /// Keeps it. Not synced: after a power cut the one in the log counts again.
    pub fn keep_certificate(&self, certificate: &Certificate) -> Result<(), StoreError> {
        let key = prefixed(b'c', &certificate.height().to_be_bytes());
        self.entries
            .apply(Changes::from([(key, Some(seal(certificate)))]))
    }

    /// Hands everything to the operating system; called when the node stops.
    pub fn flush(&self) -> Result<(), StoreError> {
        match &self.entries {
            Entries::Sled(db, _) => db.flush().map(drop).map_err(io),
            Entries::Memory(_) => Ok(()),
        }
    }

    fn typed<T: BorshDeserialize>(&self, key: &[u8]) -> Result<Option<T>, StoreError> {
        let bytes = self.entries.get(key)?;
        bytes
            .map(|b| borsh::from_slice(&b).map_err(|e| StoreError::corrupt(key, e.to_string())))
            .transpose()
    }
}

impl NodeRead for Store {
    fn node(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.entries.get(&prefixed(b'n', key))
    }
}

/// A batch that keeps the sum right.
struct Batch<'a> {
    store: &'a Store,
    sum: u128,
    changes: Changes,
}

impl Batch<'_> {
    /// Values and tree nodes. `stale` says what becomes of the key of a replaced node. Returns what the values replaced.
    fn update(
        &mut self,
        writes: &WriteSet,
        tree: &TreeUpdate,
        stale: impl Fn(&[u8]) -> (Vec<u8>, Option<&'static [u8]>),
    ) -> Result<WriteSet, StoreError> {
        let mut undo = WriteSet::new();
        for (key, value) in writes {
            let old = self.replace(prefixed(b's', key), value.as_deref())?;
            undo.insert(key.clone(), old);
        }
        for (key, node) in &tree.nodes {
            self.replace(prefixed(b'n', key), Some(node))?;
        }
        for (key, value) in tree.stale.iter().map(|key| stale(key)) {
            self.replace(key, value)?;
        }
        Ok(undo)
    }

    /// Sets or removes a counted entry and returns what was there before the block.
    fn replace(
        &mut self,
        key: Vec<u8>,
        value: Option<&[u8]>,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let old = self.store.entries.get(&key)?;
        if let Some(old) = &old {
            self.sum = self.sum.wrapping_sub(weight(&key, old));
        }
        match value {
            Some(value) => {
                self.sum = self.sum.wrapping_add(weight(&key, value));
                self.changes.insert(key, Some(value.to_vec()));
            }
            None => {
                self.changes.insert(key, None);
            }
        }
        Ok(old)
    }
}

/// The state after one block, unchanged by later ones.
///
/// Each later block costs the view its list of overwritten values, so a view is for one answer, not to be kept.
#[derive(Clone)]
pub struct View {
    store: Arc<Store>,
    version: Arc<Version>,
}

impl View {
    /// The block after which this is the state.
    pub fn meta(&self) -> &Meta {
        &self.version.meta
    }

    /// Its height.
    pub fn height(&self) -> u64 {
        self.version.meta.height()
    }

    /// Proves `key` under this view's state root.
    pub fn prove(&self, key: &[u8]) -> Result<crate::tree::LeafProof, StoreError> {
        crate::tree::prove(&*self.store, self.height(), key)
    }

    /// Calls `visit` with the values overwritten by each later block, oldest first, until it says it has enough.
    fn later(&self, mut visit: impl FnMut(&BTreeMap<Vec<u8>, Option<Vec<u8>>>) -> bool) {
        let mut version = &self.version;
        while let Some((undo, next)) = version.next.get() {
            if visit(undo) {
                return;
            }
            version = next;
        }
    }
}

impl KvRead for View {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        // Store first, undo lists second: see `Store::publish`.
        let mut value = self.store.entries.get(&prefixed(b's', key))?;
        self.later(|undo| match undo.get(key) {
            Some(old) => {
                value = old.clone();
                true
            }
            None => false,
        });
        Ok(value)
    }

    fn range(&self, from: &[u8], until: &[u8], limit: usize) -> Result<Vec<Entry>, StoreError> {
        if from >= until {
            return Ok(Vec::new());
        }
        // What later blocks overwrote in the range decides how much of the store must be read to have `limit` left.
        let bounds = (
            std::ops::Bound::Included(from),
            std::ops::Bound::Excluded(until),
        );
        loop {
            let mut patched = 0;
            self.later(|undo| {
                patched += undo.range::<[u8], _>(bounds).count();
                false
            });
            let want = limit.saturating_add(patched);
            let mut entries = BTreeMap::new();
            let mut complete = true;
            let range = prefixed(b's', from)..prefixed(b's', until);
            for (key, value) in self.store.entries.range(range, want.saturating_add(1))? {
                if entries.len() == want {
                    complete = false;
                    break;
                }
                entries.insert(key[1..].to_vec(), value);
            }
            let last_read = entries.keys().next_back().cloned();
            let mut seen = BTreeMap::new();
            let mut now = 0;
            self.later(|undo| {
                for (key, old) in undo.range::<[u8], _>(bounds) {
                    now += 1;
                    seen.entry(key.clone()).or_insert_with(|| old.clone());
                }
                false
            });
            // A block committed in between may have hidden more entries than were allowed for: read again.
            if now > patched && !complete {
                continue;
            }
            for (key, old) in seen {
                // Beyond what was read the store's entries are unknown, so patches there must not jump the queue.
                if !complete && last_read.as_ref().is_some_and(|last| key > *last) {
                    continue;
                }
                match old {
                    Some(value) => drop(entries.insert(key, value)),
                    None => drop(entries.remove(&key)),
                }
            }
            return Ok(entries.into_iter().take(limit).collect());
        }
    }
}

/// Removes an index.
pub(crate) fn clear(place: Place<'_>) -> Result<(), StoreError> {
    match place {
        Place::Folder(dir) => wipe(dir),
        Place::Memory(index) => index.change(Map::clear),
    }
}

fn open_entries(place: Place<'_>) -> Result<Entries, StoreError> {
    match place {
        Place::Folder(dir) => open_sled(dir),
        Place::Memory(index) => Ok(Entries::Memory(index.clone())),
    }
}

fn wipe(dir: &Path) -> Result<(), StoreError> {
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(StoreError::Io(format!("removing the old index: {e}")))
        }
        _ => Ok(()),
    }
}

fn open_sled(dir: &Path) -> Result<Entries, StoreError> {
    let config = sled::Config::new()
        .path(dir)
        .cache_capacity(CACHE_BYTES)
        .mode(sled::Mode::LowSpace)
        .flush_every_ms(Some(5_000))
        .print_profile_on_drop(false);
    // An index of this process that was just dropped may hold sled's own lock for a moment longer, in a thread of sled's; other
    // processes are kept out by the ledger's lock. Without patience a whole index would be rebuilt from the log.
    let mut tries = 0;
    let db = loop {
        match config.open() {
            Err(e) if tries < 1000 && e.to_string().contains("acquire lock") => {
                tries += 1;
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            result => break result.map_err(io)?,
        }
    };
    let tree = db.open_tree(b"index").map_err(io)?;
    Ok(Entries::Sled(db, tree))
}

fn io(error: sled::Error) -> StoreError {
    StoreError::Io(error.to_string())
}

fn prefixed(tag: u8, key: &[u8]) -> Vec<u8> {
    let mut full = Vec::with_capacity(1 + key.len());
    full.push(tag);
    full.extend_from_slice(key);
    full
}

fn stale_key(height: u64, node: &[u8]) -> Vec<u8> {
    [b"x".as_slice(), &height.to_be_bytes(), node].concat()
}

fn counted(key: &[u8]) -> bool {
    matches!(key.first(), Some(b's' | b'n' | b'x' | b'v'))
}

fn weight(key: &[u8], value: &[u8]) -> u128 {
    let hash = digest(&[&(key.len() as u32).to_le_bytes(), key, value]);
    u128::from_le_bytes(
        hash[..16]
            .try_into()
            .expect("a digest has at least 16 bytes"),
    )
}

/// Bytes with a check in front.
fn seal<T: BorshSerialize>(value: &T) -> Vec<u8> {
    let bytes = codec::encode(value);
    [&digest(&[b"holdfast/store/v1", &bytes])[..8], &bytes].concat()
}

fn unseal<T: BorshDeserialize>(bytes: &[u8]) -> Option<T> {
    let (check, body) = bytes.split_at_checked(8)?;
    let right = digest(&[b"holdfast/store/v1", body])[..8] == *check;
    right.then(|| borsh::from_slice(body).ok())?
}

/// Where the index of a chain in `home` lives.
pub fn index_dir(home: &Path) -> PathBuf {
    home.join("index")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{self, MemoryTree};

    #[test]
    fn an_index_that_is_just_being_let_go_is_waited_for_and_not_rebuilt() {
        let home = tempfile::tempdir().unwrap();
        let genesis = crate::ledger::tests::genesis(1).check().unwrap();
        let (writes, chain_id) = (genesis.writes(), genesis.chain_id());
        let tree = tree::update(&MemoryTree::default(), 0, &writes).unwrap();
        let mark = Mark {
            height: 0,
            offset: 0,
            end: 0,
            digest: [0; 32],
        };
        let meta = Meta {
            state_root: tree.root,
            ..Meta::genesis(chain_id, mark, 0)
        };
        let store = Store::create(Place::Folder(home.path()), meta, &writes, &tree).unwrap();
        let holder = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(200));
            drop(store);
        });
        assert!(
            Store::open(Place::Folder(home.path()), chain_id)
                .unwrap()
                .is_some()
        );
        holder.join().unwrap();
    }
}
