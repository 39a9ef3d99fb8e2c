//! The ledger: the only writer of a chain's folder. Judges blocks, executes them, makes them durable, serves views.
//!
//! Walk: an engine asks [`Ledger::build`] (or [`Ledger::validate`]s a stranger's block), an engine with rounds
//! [`Ledger::save_undecided`]s it before it votes, and then [`Ledger::commit`]s it with its
//! certificate; RPC, provider and auditor read [`Ledger::view`]s and [`Ledger::subscribe`] to commits.
//! Spec: `consensus.md` §10. A block goes: execute → invariants → **log append and fsync** → index → watchers. Before the fsync
//! nothing happened; after it the block is final, and everything else can be rebuilt.
//!
//! Crash: [`Ledger::open`] cuts a torn tail, checks the index against its own sums and against the log, replays what the
//! index lacks, or rebuilds it from genesis. A failed log write or index write stops the ledger ([`LedgerError::Halted`]) until it is
//! reopened. A second process on the same folder is refused by the lock file (`tm_v2`).
//! Folder: `lock`, `blocks.log` (the truth), `index/` (sled; may be deleted at any time while the node is down),
//! `undecided/` ([`crate::undecided`]: proposals that this validator may have voted for), `base.hfs` where the folder began
//! with a snapshot ([`crate::snapshot`]).

use std::collections::BTreeSet;
use std::fs::{File, TryLockError};
use std::io::Write;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::account::{ChainId, TxId};
use crate::beacon::{BeaconError, BeaconSchedule, Entry};
use crate::block::{
    BLOCK_VERSION, Block, BlockId, Body, FinalBlock, Header, MAX_BLOCK_PROOFS, MAX_BLOCK_TXS,
    MAX_BODY_BYTES, Outcomes,
};
use crate::certificate::{CertError, Certificate, Sig, ValidatorSet};
use crate::clock::{self, ClockMode};
use crate::codec;
use crate::error::StoreError;
use crate::execute::{self, Applied, ApplyError, BlockCtx, ProofVerifier, Receipt};
use crate::genesis::{CheckedGenesis, Genesis, GenesisError};
use crate::governance;
use crate::log::{BlockLog, LogError, LogReader, Mark, OpenReport};
use crate::merkle::Hash;
use crate::message::{CheckedTx, SignedTx, TxError};
use crate::moment::Moment;
use crate::proofs;
use crate::snapshot::{self, Base};
use crate::state::{self, KvRead, Network, key};
use crate::store::{self, Commit, MemoryIndex, Meta, Place, Store, View};
use crate::tree;
use crate::undecided::{Heard, MAX_AHEAD, Saved, Turn, Undecided};
use crate::units::Epoch;
use crate::vfs::{OsVfs, Vfs};

/// A proposal may be this far ahead of the clock of who judges it, in milliseconds: clocks differ, and a header's time must
/// not run away, because every later one is larger.
pub const MAX_TIME_AHEAD_MS: u64 = 5_000;

/// Logs up to this size are checked from end to end at every start; larger ones from the index's tip on.
const FULL_CHECK_BYTES: u64 = 256 << 20;
/// Blocks a watcher may lag behind before it is dropped; it then reads the missed ones from the ledger.
pub const SUBSCRIPTION_BLOCKS: usize = 1024;

/// Why the ledger cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The folder cannot be used.
    #[error("{what} {path}: {source}")]
    Home {
        /// What was being done.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Another process has the folder open.
    #[error(
        "{path} is in use by another node; stop it first (two nodes on one folder could sign two different blocks)"
    )]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// The genesis is refused.
    #[error(transparent)]
    Genesis(#[from] GenesisError),
    /// The block log is damaged or the disk refused.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The index failed; it can be rebuilt.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A block in the log does not follow these rules.
    #[error(
        "block {height} of the log cannot be replayed: {why}; the log was made by other rules, or this program has a fault"
    )]
    Replay {
        /// Which block.
        height: u64,
        /// What differs.
        why: String,
    },
    /// A block was decided that this node voted for and no longer has.
    #[error(
        "block {height} was decided as {id} and its body is not here: the disk has lost what was kept under `undecided`. Move this folder away and follow the chain in a new one (`holdfast chain join`); give that the validator's key only when the chain is past block {height}"
    )]
    BodyLost {
        /// Its height.
        height: u64,
        /// Its id.
        id: BlockId,
    },
    /// The block is invalid or cannot be executed here.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// A proposed block that this node does not keep.
    #[error(
        "block {height} of round {round} is not kept: it is decided, more than {MAX_AHEAD} blocks ahead of block {tip}, larger than any block, or there are too many nearer ones"
    )]
    NotKept {
        /// Its height.
        height: u64,
        /// Its round.
        round: u32,
        /// Our newest.
        tip: u64,
    },
    /// Another block is final at this height: a fork.
    #[error(
        "block {height} is final as {ours}, not as {theirs}: stop and keep both certificates, they are evidence"
    )]
    Conflict {
        /// The height.
        height: u64,
        /// Our final block.
        ours: BlockId,
        /// The other one.
        theirs: BlockId,
    },
    /// The state after a block breaks an invariant; the block was not written.
    #[error(
        "block {height} would break an invariant: {why}; the chain stops before it, please report this"
    )]
    Invariant {
        /// Which block.
        height: u64,
        /// What does not hold.
        why: String,
    },
    /// A block that this node never had.
    #[error(
        "block {height} is not here: this node began with a snapshot of block {base}; ask one that has the whole chain"
    )]
    BeforeSnapshot {
        /// Asked for.
        height: u64,
        /// The snapshot's height.
        base: u64,
    },
    /// The snapshot with which this chain's folder began.
    #[error("the chain's folder began with a snapshot, and it is needed again: {0}")]
    Snapshot(String),
    /// An earlier failure stopped this ledger.
    #[error("the ledger stopped: {0}; restart the node, nothing acknowledged is lost")]
    Halted(String),
    /// There is no such block.
    #[error("there is no block {height}; the newest is {tip}")]
    NoBlock {
        /// Asked for.
        height: u64,
        /// Newest.
        tip: u64,
    },
}

/// Why a block is invalid.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// The parent is not the tip: later, earlier, or another chain of blocks.
    #[error("block {height} on parent {parent} does not continue the tip (block {tip})")]
    NotNext {
        /// Height it claims.
        height: u64,
        /// Parent it names.
        parent: BlockId,
        /// Our tip's height.
        tip: u64,
    },
    /// A header field that does not follow from the chain.
    #[error("block {height}: {field} is wrong")]
    Header {
        /// Height.
        height: u64,
        /// Which field.
        field: &'static str,
    },
    /// Larger than a block may be.
    #[error("the block has {found} {what}, more than {limit}")]
    TooLarge {
        /// Bytes, transactions or proofs.
        what: &'static str,
        /// Found.
        found: u64,
        /// Limit.
        limit: u64,
    },
    /// A beacon entry.
    #[error(transparent)]
    Beacon(#[from] BeaconError),
    /// A transaction that no block may carry.
    #[error("transaction {index}: {source}")]
    Tx {
        /// Position.
        index: usize,
        /// Why.
        source: TxError,
    },
    /// The certificate.
    #[error(transparent)]
    Certificate(#[from] CertError),
    /// Execution could not run at all.
    #[error(transparent)]
    Apply(#[from] ApplyError),
}

/// The newest final block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tip {
    /// 0 at genesis.
    pub height: u64,
    /// Its id; at genesis the chain id.
    pub id: BlockId,
    /// Its epoch.
    pub epoch: Epoch,
    /// Time in its header.
    pub time_ms: u64,
    /// State root after it (its successor's header carries it).
    pub state_root: Hash,
    /// Root of its receipts and events.
    pub receipt_root: Hash,
}

impl Tip {
    fn of(meta: &Meta) -> Self {
        Self {
            height: meta.height(),
            id: meta.block_id,
            epoch: meta.epoch,
            time_ms: meta.time_ms,
            state_root: meta.state_root,
            receipt_root: meta.receipt_root,
        }
    }
}

/// The newest final block and who decides the next ones, of one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Front {
    /// The newest final block.
    pub tip: Tip,
    /// Validators of height `tip + 1`.
    pub validators: Arc<ValidatorSet>,
    /// Validators of height `tip + 2`, which the next header announces.
    pub next_validators: Arc<ValidatorSet>,
    /// Last epoch whose beacon is on chain.
    pub beacon_tip: Epoch,
}

/// One try at one height.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot {
    /// The height.
    pub height: u64,
    /// The round, from 0.
    pub round: u32,
}

impl Slot {
    /// In which a certificate's block was decided.
    pub fn of(certificate: &Certificate) -> Self {
        Self {
            height: certificate.height(),
            round: certificate.round(),
        }
    }
}

/// What [`Ledger::validate`] says of a proposed block.
#[derive(Debug)]
pub enum Verdict {
    /// It may be voted for and committed.
    Valid(Box<ValidBlock>),
    /// No node at this height may vote for it.
    Invalid(BlockError),
    /// Its parent is not final here yet: keep it and ask again.
    NotYet {
        /// Our newest height.
        tip: u64,
    },
}

/// A final block with what it did.
#[derive(Clone, Debug)]
pub struct CommittedBlock {
    /// The block.
    pub block: Block,
    /// Its id.
    pub id: BlockId,
    /// Why it is final.
    pub certificate: Certificate,
    /// Receipts and events.
    pub outcomes: Outcomes,
    /// State root after it.
    pub state_root: Hash,
}

/// A block that follows every rule that can be checked without executing it.
#[derive(Clone, Debug)]
pub struct ValidBlock {
    block: Block,
    id: BlockId,
    txs: Vec<CheckedTx>,
    beacons: Vec<(Epoch, [u8; 32])>,
}

impl ValidBlock {
    /// The block.
    pub fn block(&self) -> &Block {
        &self.block
    }
    /// Its id: what validators sign.
    pub fn id(&self) -> BlockId {
        self.id
    }
}

/// What [`Ledger::commit`] did.
#[derive(Clone, Debug)]
pub enum CommitOutcome {
    /// The block is final and durable now.
    Committed(Arc<CommittedBlock>),
    /// It was final before; nothing changed.
    Already,
}

/// What [`Ledger::open`] found and did.
#[derive(Clone, Debug, Default)]
pub struct OpenSummary {
    /// What the log reported.
    pub log: OpenReport,
    /// Whether the index was made anew from genesis.
    pub rebuilt_index: bool,
    /// Blocks executed again to bring the index up to the log.
    pub replayed: u64,
}

/// One chain's folder, open for writing.
pub struct Ledger {
    home: PathBuf,
    genesis: CheckedGenesis,
    verifier: Arc<dyn ProofVerifier>,
    store: Arc<Store>,
    writer: Mutex<Writer>,
    reader: LogReader,
    /// Height of the snapshot with which the log begins; 0 where it begins with block 1.
    base: u64,
    front: Mutex<Front>,
    undecided: Mutex<Undecided>,
    moved: Condvar,
    watchers: Mutex<Vec<SyncSender<Arc<CommittedBlock>>>>,
    summary: OpenSummary,
    // Held for as long as the ledger lives; the operating system gives it back if the process dies. None on a `Vfs` that is
    // no file system: nobody else can open that.
    _lock: Option<File>,
}

struct Writer {
    log: BlockLog,
    halted: Option<String>,
}

impl Ledger {
    /// Opens or creates the chain of `genesis` in `home`.
    pub fn open(
        home: &Path,
        genesis: &Genesis,
        verifier: Arc<dyn ProofVerifier>,
    ) -> Result<Self, LedgerError> {
        let genesis = genesis.clone().check()?;
        std::fs::create_dir_all(home).map_err(home_error("creating", home))?;
        let lock = lock(home)?;
        let index = store::index_dir(home);
        Self::open_on(
            Arc::new(OsVfs),
            home,
            Place::Folder(&index),
            genesis,
            verifier,
            Some(lock),
        )
    }

    /// [`Ledger::open`] on another file system, with the index in memory: for simulators, where one process is many nodes.
    pub fn open_simulated(
        vfs: Arc<dyn Vfs>,
        index: &MemoryIndex,
        home: &Path,
        genesis: CheckedGenesis,
        verifier: Arc<dyn ProofVerifier>,
    ) -> Result<Self, LedgerError> {
        vfs.create_dir(home).map_err(home_error("creating", home))?;
        Self::open_on(vfs, home, Place::Memory(index), genesis, verifier, None)
    }

    fn open_on(
        vfs: Arc<dyn Vfs>,
        home: &Path,
        index: Place<'_>,
        genesis: CheckedGenesis,
        verifier: Arc<dyn ProofVerifier>,
        lock: Option<File>,
    ) -> Result<Self, LedgerError> {
        let path = home.join("blocks.log");
        let disk = vfs.open(&path).map_err(home_error("opening", &path))?;
        let chain_id = genesis.chain_id();
        let found = Store::open(index, chain_id)?;
        let known = found.as_ref().map(|s| s.meta().mark);
        let size = disk.len().map_err(home_error("reading", home))?;
        let check_all = size <= FULL_CHECK_BYTES || found.is_none();
        let mut summary = OpenSummary::default();
        let mut first = None;
        let (log, report) = BlockLog::open(
            disk,
            chain_id.0,
            genesis.bytes(),
            known,
            check_all,
            &mut |mark, _| {
                first.get_or_insert(mark);
            },
        )?;
        summary.log = report;
        let reader = log.reader();
        let base = reader.base(chain_id.0)?;
        let (base, mark_of_base) = match base {
            Some((mark, payload)) => {
                let base = Base::from_bytes(&payload);
                let base = base.map_err(|e| LedgerError::Snapshot(e.to_string()))?;
                (Some(base), mark)
            }
            None => (None, log.tip()),
        };
        let store = match (found, &base) {
            (Some(store), _) => store,
            (None, Some(base)) => {
                summary.rebuilt_index = true;
                snapshot::rebuild(&*vfs, index, home, base, chain_id, mark_of_base)
                    .map_err(|e| LedgerError::Snapshot(e.to_string()))?
            }
            (None, None) => {
                summary.rebuilt_index = log.tip().height > 0;
                let mark = first.unwrap_or(log.tip());
                create_index(index, &genesis, mark)?
            }
        };
        let store = Arc::new(store);
        let front = front_of(&genesis, &store)?;
        let dir = home.join("undecided");
        let undecided = Undecided::open(vfs, &dir, log.tip().height);
        let mut ledger = Self {
            home: home.to_owned(),
            genesis,
            verifier,
            store,
            reader,
            base: base.map_or(0, |base| base.header().height),
            front: Mutex::new(front),
            undecided: Mutex::new(undecided.map_err(home_error("opening", &dir))?),
            moved: Condvar::new(),
            watchers: Mutex::default(),
            writer: Mutex::new(Writer { log, halted: None }),
            summary,
            _lock: lock,
        };
        ledger.summary.replayed = ledger.catch_up()?;
        ledger.report_open();
        Ok(ledger)
    }

    fn report_open(&self) {
        let s = &self.summary;
        if let Some(height) = s.log.cut_height {
            tracing::warn!(
                bytes = s.log.cut_bytes,
                height,
                "the node stopped while writing a block that was never acknowledged; its traces were cut"
            );
        }
        if s.rebuilt_index {
            tracing::warn!(
                blocks = s.replayed,
                "the index was missing or damaged and was rebuilt from the block log"
            );
        } else if s.replayed > 0 {
            tracing::info!(
                blocks = s.replayed,
                "the index was brought up to the block log"
            );
        }
    }

    /// Executes the log's blocks that the index lacks.
    fn catch_up(&self) -> Result<u64, LedgerError> {
        let mut replayed = 0;
        for record in self
            .reader
            .records(self.chain_id().0, Some(self.store.meta().mark))?
        {
            let (mark, payload) = record?;
            let wrong = |why: String| LedgerError::Replay {
                height: mark.height,
                why,
            };
            let last = FinalBlock::from_bytes(&payload).map_err(|e| wrong(e.to_string()))?;
            let tip = self.tip();
            let header = &last.block.header;
            if header.parent_id != tip.id
                || header.prev_state_root != tip.state_root
                || header.prev_receipt_root != tip.receipt_root
            {
                return Err(wrong("its header names another parent, state or receipts than the blocks before it give".into()));
            }
            // Beacons and certificates were verified before the block was logged, and the log's digests hold; signatures
            // are checked again because `apply` takes checked transactions only.
            let beacons = self
                .genesis
                .beacons()
                .values_unverified(self.front().beacon_tip, &last.block.body.beacons);
            let txs = check_all(last.block.body.txs.clone(), &self.chain_id())
                .map_err(|e| wrong(e.to_string()))?;
            let valid = ValidBlock {
                id: last.block.id(),
                block: last.block,
                txs,
                beacons,
            };
            let step = self.execute(&valid)?;
            self.index(&valid, &step, mark)?;
            self.move_front()?;
            replayed += 1;
            if replayed % 1000 == 0 {
                tracing::info!(height = mark.height, "replaying the block log");
            }
        }
        if replayed > 0 {
            self.store.flush()?;
        }
        Ok(replayed)
    }

    /// What opening found.
    pub fn summary(&self) -> &OpenSummary {
        &self.summary
    }
    /// The folder.
    pub fn home(&self) -> &Path {
        &self.home
    }
    /// The chain's genesis.
    pub fn genesis(&self) -> &CheckedGenesis {
        &self.genesis
    }
    /// The chain's id.
    pub fn chain_id(&self) -> ChainId {
        self.genesis.chain_id()
    }
    /// Validators of the next block.
    pub fn validators(&self) -> Arc<ValidatorSet> {
        self.front().validators
    }
    /// Validators of block `height`, up to the one after the next.
    pub fn validators_at(&self, height: u64) -> Result<Arc<ValidatorSet>, LedgerError> {
        let front = self.front();
        let tip = front.tip.height;
        match height.checked_sub(tip) {
            Some(0) | None if height > 0 => {
                self.held(height)?;
                let changed = self.store.validators_at(height)?;
                let set = changed.unwrap_or_else(|| self.genesis.validators().clone());
                Ok(Arc::new(set))
            }
            Some(1) => Ok(front.validators),
            Some(2) => Ok(front.next_validators),
            _ => Err(LedgerError::NoBlock { height, tip }),
        }
    }
    /// Height of the snapshot with which this node began: it has the blocks after it. 0 where it has all.
    pub fn base_height(&self) -> u64 {
        self.base
    }

    fn held(&self, height: u64) -> Result<(), LedgerError> {
        let base = self.base;
        match (1..=base).contains(&height) {
            true => Err(LedgerError::BeforeSnapshot { height, base }),
            false => Ok(()),
        }
    }

    /// The verifier that judges proofs here.
    pub fn verifier(&self) -> &Arc<dyn ProofVerifier> {
        &self.verifier
    }
    /// The newest final block.
    pub fn tip(&self) -> Tip {
        self.lock_front().tip
    }
    /// The newest final block with the validators after it.
    pub fn front(&self) -> Front {
        self.lock_front().clone()
    }

    fn lock_front(&self) -> MutexGuard<'_, Front> {
        self.front.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the tip is above `height` or `timeout` is over, and returns the tip.
    pub fn wait_beyond(&self, height: u64, timeout: Duration) -> Tip {
        let until = Instant::now() + timeout;
        let mut front = self.lock_front();
        while front.tip.height <= height {
            let Some(left) = until
                .checked_duration_since(Instant::now())
                .filter(|d| !d.is_zero())
            else {
                break;
            };
            front = self
                .moved
                .wait_timeout(front, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        front.tip
    }

    /// The newest state, unchanged by later blocks. For one answer; see [`View`].
    pub fn view(&self) -> View {
        self.store.view()
    }

    /// The state after block `height`, for the last few blocks.
    pub fn view_at(&self, height: u64) -> Option<View> {
        self.store.view_at(height)
    }

    /// Last epoch whose beacon is on chain.
    pub fn beacon_tip(&self) -> Result<Epoch, StoreError> {
        Ok(self.lock_front().beacon_tip)
    }

    /// A final block, with the certificate of most signatures that this node has seen.
    pub fn block(&self, height: u64) -> Result<FinalBlock, LedgerError> {
        let tip = self.tip().height;
        self.held(height)?;
        let at = self
            .store
            .block_ref(height)?
            .filter(|_| height > 0)
            .ok_or(LedgerError::NoBlock { height, tip })?;
        let payload = self.reader.read(height, at.offset)?;
        let mut last = FinalBlock::from_bytes(&payload).map_err(|e| LedgerError::Replay {
            height,
            why: e.to_string(),
        })?;
        let grown = self.store.grown_certificate(height)?;
        if let Some(grown) = grown.filter(|c| c.block() == last.certificate.block()) {
            last.certificate = grown;
        }
        Ok(last)
    }

    /// Final blocks of a range, for a node that catches up: from its beginning, as many as are here and fit `max_bytes`, but at
    /// least one if there is any, so that who asks always gets on.
    pub fn decided(
        &self,
        range: RangeInclusive<u64>,
        max_bytes: u64,
    ) -> Result<Vec<FinalBlock>, LedgerError> {
        let last = self.tip().height.min(*range.end());
        self.held((*range.start()).max(1))?;
        let (mut blocks, mut bytes) = (Vec::new(), 0u64);
        for height in (*range.start()).max(1)..=last {
            let block = self.block(height)?;
            bytes = bytes.saturating_add(block.to_bytes().len() as u64);
            if bytes > max_bytes && !blocks.is_empty() {
                break;
            }
            blocks.push(block);
        }
        Ok(blocks)
    }

    /// A final block with its receipts and events. Its state root is known while a successor or the tip names it.
    pub fn committed(&self, height: u64) -> Result<CommittedBlock, LedgerError> {
        let tip = self.tip();
        let FinalBlock { block, certificate } = self.block(height)?;
        let outcomes = self.store.outcomes(height)?;
        let state_root = match height == tip.height {
            true => tip.state_root,
            false => self.block(height + 1)?.block.header.prev_state_root,
        };
        Ok(CommittedBlock {
            id: block.id(),
            block,
            certificate,
            outcomes,
            state_root,
        })
    }

    /// Receipts and events of block `height`.
    pub fn outcomes(&self, height: u64) -> Result<Outcomes, LedgerError> {
        self.held(height)?;
        Ok(self.store.outcomes(height)?)
    }

    /// The receipt of a transaction, with its height and position.
    pub fn receipt(&self, tx: &TxId) -> Result<Option<(u64, u32, Receipt)>, LedgerError> {
        let Some(at) = self.store.tx_ref(tx)? else {
            return Ok(None);
        };
        let outcomes = self.store.outcomes(at.height)?;
        Ok(outcomes
            .receipts
            .get(at.index as usize)
            .map(|r| (at.height, at.index, r.clone())))
    }

    /// Blocks committed from now on. A watcher that lags [`SUBSCRIPTION_BLOCKS`] behind is disconnected and reads the
    /// missed blocks with [`Ledger::committed`].
    pub fn subscribe(&self) -> Receiver<Arc<CommittedBlock>> {
        let (sender, receiver) = sync_channel(SUBSCRIPTION_BLOCKS);
        self.watchers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(sender);
        receiver
    }

    /// Writes everything up to the tip as an export; returns the exported height and bytes.
    pub fn export(
        &self,
        out: &mut dyn Write,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(u64, u64), LedgerError> {
        let tip = self
            .writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .log
            .tip();
        let bytes = self.reader.export(self.chain_id().0, tip, out, progress)?;
        Ok((tip.height, bytes))
    }

    /// Proposes a block in `slot`, which must be of the next height. Transactions come checked (from the mempool); those
    /// beyond the limits are left out. The header names the slot's proposer; only that validator's proposal counts.
    pub fn build(
        &self,
        slot: Slot,
        epoch: Epoch,
        now_ms: u64,
        beacons: Vec<Entry>,
        txs: Vec<CheckedTx>,
    ) -> Result<ValidBlock, LedgerError> {
        let front = self.front();
        let tip = &front.tip;
        let values = self
            .genesis
            .beacons()
            .check_entries(front.beacon_tip, epoch, &beacons)
            .map_err(BlockError::from)?;
        let txs = within_limits(txs);
        let body = Body {
            beacons,
            txs: txs.iter().map(|t| t.signed().clone()).collect(),
        };
        let header = Header {
            version: BLOCK_VERSION,
            chain_id: self.chain_id(),
            height: slot.height,
            epoch,
            time_ms: now_ms.max(tip.time_ms + 1),
            parent_id: tip.id,
            prev_state_root: tip.state_root,
            tx_root: body.root(),
            prev_receipt_root: tip.receipt_root,
            validators_hash: front.validators.hash(),
            next_validators_hash: front.next_validators.hash(),
            proposer: front.validators.proposer(slot.height, slot.round),
            round: slot.round,
        };
        let block = Block { header, body };
        follows(&self.genesis, &front, &block, slot)?;
        Ok(ValidBlock {
            id: block.id(),
            block,
            txs,
            beacons: values,
        })
    }

    /// Judges a block that somebody else proposed, cheap checks first, signatures last and in parallel (`tm_v6`).
    ///
    /// `slot` is where it is proposed, or where it was decided ([`Slot::of`] its certificate): a block may be proposed again in a
    /// later round than its header's, never in an earlier one. `now_ms` is this node's clock for a block that is being
    /// voted on ([`MAX_TIME_AHEAD_MS`]); `None` for one that is decided, whose time is no longer anybody's to dispute.
    pub fn validate(
        &self,
        block: Block,
        slot: Slot,
        now_ms: Option<u64>,
    ) -> Result<Verdict, LedgerError> {
        self.validate_knowing(block, slot, now_ms, &|_| None)
    }

    /// [`Ledger::validate`] by a node that has checked most of the transactions before, when they came to its mempool: `known` gives
    /// what it has of each. Only the very same one, signature and all, is taken for it; every other is checked here.
    pub fn validate_knowing(
        &self,
        block: Block,
        slot: Slot,
        now_ms: Option<u64>,
        known: Known<'_>,
    ) -> Result<Verdict, LedgerError> {
        let front = self.front();
        let tip = front.tip.height;
        if block.header.height > tip + 1 {
            return Ok(Verdict::NotYet { tip });
        }
        match self.judge(block, slot, now_ms, &front, known) {
            Ok(valid) => Ok(Verdict::Valid(Box::new(valid))),
            Err(LedgerError::Block(why)) => Ok(Verdict::Invalid(why)),
            Err(error) => Err(error),
        }
    }

    fn judge(
        &self,
        block: Block,
        slot: Slot,
        now_ms: Option<u64>,
        front: &Front,
        known: Known<'_>,
    ) -> Result<ValidBlock, LedgerError> {
        follows(&self.genesis, front, &block, slot)?;
        let height = block.header.height;
        let wrong = |field| Err(BlockError::Header { height, field }.into());
        if now_ms.is_some_and(|now| block.header.time_ms > now.saturating_add(MAX_TIME_AHEAD_MS)) {
            return wrong("time_ms");
        }
        // A block stamped into the past would know the seeds of its own commitments (`beacon.md` §3). One that is taken up from
        // an earlier round is older, and was judged when it was new by whoever heard it then. To all others it is new until more
        // than a third of the power has let its turn pass: its proposer and its announcer may lie for one another, but not as
        // many. After that it is taken, or who came late would keep the others from what they are bound to.
        if now_ms.is_some_and(|now| !self.is_in_time(&block.header, now))
            && !self.is_taken_up(&block, slot, &front.validators)?
        {
            return wrong("time_ms");
        }
        let beacons = check_body(&self.genesis, front, &block, BeaconSchedule::check_entries)?;
        let txs = check_all_but(block.body.txs.clone(), &self.chain_id(), known)?;
        Ok(ValidBlock {
            id: block.id(),
            block,
            txs,
            beacons,
        })
    }

    /// Whether a block that is new at `now_ms` is stamped no further back than blocks may be: half an epoch under the beacon's
    /// clock; under the logical one a stamp decides nothing.
    pub fn is_in_time(&self, header: &Header, now_ms: u64) -> bool {
        match self.genesis.genesis().clock {
            ClockMode::Beacon { epoch_ms } => header.time_ms.saturating_add(epoch_ms / 2) >= now_ms,
            ClockMode::Logical { .. } => true,
        }
    }

    /// Whether a block of an earlier round is one that was heard in time, or that more than a third of the power has let pass.
    fn is_taken_up(
        &self,
        block: &Block,
        slot: Slot,
        set: &ValidatorSet,
    ) -> Result<bool, LedgerError> {
        let Header { height, round, .. } = block.header;
        let (mut passed, mut power) = (BTreeSet::new(), 0u128);
        let total = u128::from(set.total_power());
        for round in round..slot.round {
            let id = set.proposer(height, round);
            if passed.insert(id) {
                power += u128::from(set.power_of(&id).unwrap_or(0));
            }
            if 3 * power > total {
                return Ok(true);
            }
        }
        let heard = round < slot.round
            && self
                .kept(&block.id())?
                .is_some_and(|(_, heard)| heard.in_time);
        Ok(heard)
    }

    /// Keeps a proposed block on disk before this validator votes for it; returns once it survives a power cut.
    ///
    /// For blocks of the next heights, judged or not: one whose parent is not final here yet is judged when it is. Read back by
    /// [`Ledger::undecided`] also after a restart; gone once its height is decided. Bounds: [`crate::undecided`]. `heard` says
    /// how it came, with the signature of the header's proposer where the engine has one ([`Ledger::announcement`]).
    pub fn save_undecided(&self, block: &Block, heard: Heard) -> Result<(), LedgerError> {
        self.keep_undecided(block, heard, Turn::default())
    }

    /// [`Ledger::save_undecided`] of a block that may be proposed in a later round than its header's, by a node that is bound to
    /// another: where there is no more room, that decides who gives way.
    pub fn keep_undecided(
        &self,
        block: &Block,
        heard: Heard,
        turn: Turn,
    ) -> Result<(), LedgerError> {
        let tip = self.tip().height;
        let dir = self.home.join("undecided");
        let saved = self.lock_undecided().save(block, heard, turn, tip);
        match saved.map_err(home_error("writing to", &dir))? {
            Saved::Kept => Ok(()),
            Saved::OutOfReach | Saved::TooLarge => Err(LedgerError::NotKept {
                height: block.header.height,
                round: block.header.round,
                tip,
            }),
        }
    }

    /// A kept block is proposed in `round`, or the journal tells of a vote for it there: it gives way later.
    pub fn name_undecided(&self, id: &BlockId, round: u32) {
        self.lock_undecided().name(id, round);
    }

    /// Kept blocks that were first proposed in `round` of `height`, in order of id.
    pub fn undecided(&self, height: u64, round: u32) -> Result<Vec<Block>, LedgerError> {
        let dir = self.home.join("undecided");
        let found = self.lock_undecided().of_round(height, round);
        found.map_err(home_error("reading", &dir))
    }

    /// The kept block with this id: a block that was proposed again in a later round keeps its header's.
    pub fn undecided_block(&self, id: &BlockId) -> Result<Option<Block>, LedgerError> {
        Ok(self.kept(id)?.map(|(block, _)| block))
    }

    /// The signature that a kept block was saved with: by it an engine shows that the block's own proposer announced it.
    pub fn announcement(&self, id: &BlockId) -> Result<Option<Sig>, LedgerError> {
        Ok(self.kept(id)?.and_then(|(_, heard)| heard.announced))
    }

    fn kept(&self, id: &BlockId) -> Result<Option<(Block, Heard)>, LedgerError> {
        let dir = self.home.join("undecided");
        let found = self.lock_undecided().by_id(id);
        found.map_err(home_error("reading", &dir))
    }

    fn lock_undecided(&self) -> MutexGuard<'_, Undecided> {
        self.undecided
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Judges and commits a decided block: one that was kept, or one that a peer sent with its certificate. Idempotent per height.
    pub fn commit_decided(
        &self,
        block: Block,
        certificate: Certificate,
    ) -> Result<CommitOutcome, LedgerError> {
        let id = block.id();
        if let Some(outcome) = self.already(block.header.height, id)? {
            return Ok(outcome);
        }
        // Before the transactions: who sends a block that nobody decided must not cost us its signatures.
        certificate
            .verify(
                &self.chain_id(),
                block.header.height,
                &id,
                &self.validators(),
            )
            .map_err(BlockError::from)?;
        let slot = Slot::of(&certificate);
        let valid = self.judge(block, slot, None, &self.front(), &|_| None)?;
        self.commit(valid, certificate)
    }

    /// What committing `id` at a height that is final comes to; `None` above the tip.
    fn already(&self, height: u64, id: BlockId) -> Result<Option<CommitOutcome>, LedgerError> {
        let tip = self.tip();
        if height > tip.height {
            return Ok(None);
        }
        let ours = match height == tip.height {
            true => tip.id,
            false => self.block(height)?.block.id(),
        };
        match ours == id {
            true => Ok(Some(CommitOutcome::Already)),
            false => Err(LedgerError::Conflict {
                height,
                ours,
                theirs: id,
            }),
        }
    }

    /// Takes over signatures of block `height` that came after it was committed; never gives up any. Returns whether the
    /// certificate has more of them now. Not part of the block (`consensus.md` §4, trap 10): nodes may differ here.
    pub fn upgrade_certificate(
        &self,
        height: u64,
        certificate: Certificate,
    ) -> Result<bool, LedgerError> {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let last = self.block(height)?;
        let (ours, theirs) = (last.block.id(), certificate.block());
        // What is kept was verified before it was kept: one that adds nothing to it costs no signature.
        let same = (certificate.height(), theirs) == (height, ours);
        if same && last.certificate.merged(certificate.clone()) == last.certificate {
            return Ok(false);
        }
        let (chain_id, set) = (self.chain_id(), self.validators_at(height)?);
        certificate
            .verify(&chain_id, height, &theirs, &set)
            .map_err(BlockError::from)?;
        if theirs != ours {
            return Err(LedgerError::Conflict {
                height,
                ours,
                theirs,
            });
        }
        let grown = last.certificate.merged(certificate);
        let more = grown.named_power(&set) > last.certificate.named_power(&set);
        if more {
            self.store.keep_certificate(&grown)?;
        }
        Ok(more)
    }

    /// Makes a block final: executes it, logs it durably, indexes it, tells watchers. Idempotent per height.
    pub fn commit(
        &self,
        valid: ValidBlock,
        certificate: Certificate,
    ) -> Result<CommitOutcome, LedgerError> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(why) = &writer.halted {
            return Err(LedgerError::Halted(why.clone()));
        }
        let tip = self.tip();
        let height = valid.block.header.height;
        if let Some(outcome) = self.already(height, valid.id)? {
            return Ok(outcome);
        }
        if height != tip.height + 1 || valid.block.header.parent_id != tip.id {
            return Err(BlockError::NotNext {
                height,
                parent: valid.block.header.parent_id,
                tip: tip.height,
            }
            .into());
        }
        certificate
            .verify(&self.chain_id(), height, &valid.id, &self.validators())
            .map_err(BlockError::from)?;
        if certificate.round() < valid.block.header.round {
            let field = "round";
            return Err(BlockError::Header { height, field }.into());
        }
        let step = self.execute(&valid)?;
        let last = FinalBlock {
            block: valid.block.clone(),
            certificate,
        };
        let written = writer.log.append(height, &last.to_bytes());
        let mark = written.inspect_err(|e| writer.halted = Some(e.to_string()))?;
        // The block is final from here on; an index that fails is rebuilt at the next start.
        self.index(&valid, &step, mark)
            .inspect_err(|e| writer.halted = Some(e.to_string()))?;
        let FinalBlock { block, certificate } = last;
        let done = CommittedBlock {
            block,
            id: valid.id,
            certificate,
            outcomes: step.outcomes,
            state_root: step.tree.root,
        };
        let done = Arc::new(done);
        self.move_front()
            .inspect_err(|e| writer.halted = Some(e.to_string()))?;
        self.lock_undecided().decided(height);
        self.tell_watchers(&done);
        Ok(CommitOutcome::Committed(done))
    }

    fn execute(&self, valid: &ValidBlock) -> Result<Step, LedgerError> {
        let header = &valid.block.header;
        let context = context_of(header, valid.beacons.clone());
        let applied = apply_checked(&self.view(), &context, &valid.txs, &*self.verifier)?;
        let tree = tree::update(&*self.store, header.height, &applied.writes)?;
        let outcomes = Outcomes {
            receipts: applied.receipts,
            events: applied.events,
        };
        Ok(Step {
            writes: applied.writes,
            tree,
            outcomes,
        })
    }

    fn index(&self, valid: &ValidBlock, step: &Step, mark: Mark) -> Result<(), StoreError> {
        let meta = Meta {
            mark,
            block_id: valid.id,
            state_root: step.tree.root,
            receipt_root: step.outcomes.root(),
            epoch: valid.block.header.epoch,
            time_ms: valid.block.header.time_ms,
            ..(*self.store.meta()).clone()
        };
        let txs: Vec<TxId> = valid.txs.iter().map(CheckedTx::id).collect();
        self.store.commit(Commit {
            meta,
            writes: &step.writes,
            tree: &step.tree,
            txs: &txs,
            outcomes: &step.outcomes,
        })
    }

    fn move_front(&self) -> Result<(), StoreError> {
        let front = front_of(&self.genesis, &self.store)?;
        *self.lock_front() = front;
        self.moved.notify_all();
        Ok(())
    }

    fn tell_watchers(&self, block: &Arc<CommittedBlock>) {
        let mut watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        watchers.retain(|w| match w.try_send(block.clone()) {
            Ok(()) => true,
            // Full: it lags too far behind; dropping the sender tells it to read from the ledger.
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        });
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        if let Err(error) = self.store.flush() {
            tracing::warn!(%error, "the index could not be flushed; it is checked at the next start");
        }
    }
}

/// What executing a block gave.
struct Step {
    writes: state::WriteSet,
    tree: tree::TreeUpdate,
    outcomes: Outcomes,
}

/// Whether a block's header follows from the chain up to `front`; `slot` is where it is proposed, or where it was decided.
///
/// This, [`check_body`] and [`apply_checked`] are all that is asked of a block besides its certificate, its transactions'
/// signatures and a voter's clock. The ledger and the auditor's replay both ask here: neither can lack a rule of the other.
pub(crate) fn follows(
    genesis: &CheckedGenesis,
    front: &Front,
    block: &Block,
    slot: Slot,
) -> Result<(), BlockError> {
    let (h, tip) = (&block.header, &front.tip);
    if h.height != tip.height + 1 || h.parent_id != tip.id {
        return Err(BlockError::NotNext {
            height: h.height,
            parent: h.parent_id,
            tip: tip.height,
        });
    }
    let (mode, beacons) = (genesis.genesis().clock, genesis.beacons());
    let epoch_follows = clock::follows(mode, beacons, tip.epoch, h.epoch, h.time_ms);
    let fields = [
        ("version", h.version == BLOCK_VERSION),
        ("chain_id", h.chain_id == genesis.chain_id()),
        ("prev_state_root", h.prev_state_root == tip.state_root),
        ("prev_receipt_root", h.prev_receipt_root == tip.receipt_root),
        ("epoch", epoch_follows),
        ("time_ms", h.time_ms > tip.time_ms),
        (
            "validators_hash",
            h.validators_hash == front.validators.hash(),
        ),
        (
            "next_validators_hash",
            h.next_validators_hash == front.next_validators.hash(),
        ),
        // A later round than the one at hand would blame validators whose turn has not come.
        ("round", slot.height == h.height && h.round <= slot.round),
        (
            "proposer",
            h.proposer == front.validators.proposer(h.height, h.round),
        ),
    ];
    match fields.iter().find(|(_, holds)| !holds) {
        Some((field, _)) => Err(BlockError::Header {
            height: h.height,
            field,
        }),
        None => Ok(()),
    }
}

/// Values of beacon entries with their epochs.
type Values = Vec<(Epoch, [u8; 32])>;

/// Whether a block's body is within its limits, the one that its header commits to, and brings the beacon values that it may;
/// returns those. `entries` judges them, with their signatures or, where these are verified in batches, without.
pub(crate) fn check_body(
    genesis: &CheckedGenesis,
    front: &Front,
    block: &Block,
    entries: fn(&BeaconSchedule, Epoch, Epoch, &[Entry]) -> Result<Values, BeaconError>,
) -> Result<Values, BlockError> {
    let (header, body) = (&block.header, &block.body);
    let height = header.height;
    let wrong = |field| Err(BlockError::Header { height, field });
    check_limits(body)?;
    if body.root() != header.tx_root {
        return wrong("tx_root");
    }
    let values = entries(
        genesis.beacons(),
        front.beacon_tip,
        header.epoch,
        &body.beacons,
    )?;
    // Whoever makes blocks under a logical clock has the epoch's value at hand. `apply` would take a block without it, as a
    // dark epoch: a proposer could make the chain's deadlines stand still.
    let logical = matches!(genesis.genesis().clock, ClockMode::Logical { .. });
    match logical && (values.len() != 1 || values[0].0 != header.epoch) {
        true => wrong("beacons"),
        false => Ok(values),
    }
}

/// Whether a body has no more bytes, transactions and proofs than a block may.
pub(crate) fn check_limits(body: &Body) -> Result<(), BlockError> {
    let bytes = codec::encode(body).len() as u64;
    limit("bytes", bytes, MAX_BODY_BYTES as u64)?;
    limit("transactions", body.txs.len() as u64, MAX_BLOCK_TXS as u64)?;
    let proofs = body.txs.iter().map(|signed| signed.tx.proofs());
    let proofs = proofs.fold(0, u64::saturating_add);
    limit("proofs", proofs, MAX_BLOCK_PROOFS)
}

/// What a block's header, with the values of its beacon entries, says to the rules.
pub(crate) fn context_of(header: &Header, beacons: Values) -> BlockCtx {
    BlockCtx {
        chain_id: header.chain_id,
        height: header.height,
        round: header.round,
        epoch: header.epoch,
        beacons,
    }
}

/// Executes a judged block and checks the invariants that cost two reads.
pub(crate) fn apply_checked(
    state: &dyn KvRead,
    context: &BlockCtx,
    txs: &[CheckedTx],
    verifier: &dyn ProofVerifier,
) -> Result<Applied, LedgerError> {
    let applied = proofs::apply_together(state, context, txs, verifier);
    checked(state, context, applied)
}

/// As [`apply_checked`], for who explains what the block does.
pub(crate) fn apply_watched(
    state: &dyn KvRead,
    context: &BlockCtx,
    txs: &[CheckedTx],
    verifier: &dyn ProofVerifier,
    watch: &mut dyn FnMut(&Moment<'_>),
) -> Result<Applied, LedgerError> {
    let applied = execute::apply_watched(state, context, txs, verifier, watch);
    checked(state, context, applied)
}

fn checked(
    state: &dyn KvRead,
    context: &BlockCtx,
    applied: Result<Applied, ApplyError>,
) -> Result<Applied, LedgerError> {
    let applied = applied.map_err(BlockError::from)?;
    let after = written_network(&applied.writes)?;
    let height = context.height;
    check_cheap(&network(state)?, &after, context)
        .map_err(|why| LedgerError::Invariant { height, why })?;
    Ok(applied)
}

/// The invariants that cost two reads, in production after every block: the supply identity (I1) and that totals only
/// move the way they may (I2). All of them are recomputed by tests and by the auditor.
fn check_cheap(before: &Network, after: &Network, context: &BlockCtx) -> Result<(), String> {
    let rules = [
        (
            "I1: the places where money is do not add up to genesis + minted",
            after.supply_holds(),
        ),
        (
            "I1: the money of genesis changed",
            after.genesis == before.genesis,
        ),
        ("I2: minted money shrank", after.minted >= before.minted),
        ("I2: network time went back", after.theta >= before.theta),
        ("burnt money came back", after.burnt >= before.burnt),
        (
            "the state is of another height or epoch",
            after.height == context.height && after.epoch == context.epoch,
        ),
    ];
    match rules.iter().find(|(_, holds)| !holds) {
        Some((rule, _)) => Err(format!("{rule}: {before:?} became {after:?}")),
        None => Ok(()),
    }
}

/// The totals that a block's writes leave behind; every block writes them.
fn written_network(writes: &state::WriteSet) -> Result<Network, StoreError> {
    let key = key::network();
    let bytes = writes.get(&key).and_then(Option::as_deref);
    let bytes = bytes
        .ok_or_else(|| StoreError::corrupt(&key, "the block did not write the network leaf"))?;
    state::decode(&key, bytes)
}

/// The network's totals.
fn network(state: &dyn KvRead) -> Result<Network, StoreError> {
    let key = key::network();
    state::read(state, &key)?
        .ok_or_else(|| StoreError::corrupt(&key, "the network leaf is missing"))
}

/// The front that the index's newest state gives.
fn front_of(genesis: &CheckedGenesis, store: &Arc<Store>) -> Result<Front, StoreError> {
    let view = store.view();
    let same = || (genesis.validators().clone(), genesis.validators().clone());
    let (validators, next_validators) = governance::sets(&view)?.unwrap_or_else(same);
    Ok(Front {
        tip: Tip::of(view.meta()),
        validators: Arc::new(validators),
        next_validators: Arc::new(next_validators),
        beacon_tip: network(&view)?.beacon_tip,
    })
}

fn create_index(
    place: Place<'_>,
    genesis: &CheckedGenesis,
    mark: Mark,
) -> Result<Store, StoreError> {
    let writes = genesis.writes();
    let tree = tree::update(&tree::MemoryTree::default(), 0, &writes)?;
    let meta = Meta {
        state_root: tree.root,
        ..Meta::genesis(genesis.chain_id(), mark, genesis.genesis().time_ms)
    };
    Store::create(place, meta, &writes, &tree)
}

/// Checks signatures and limits on all cores; a block's verdict does not depend on how many there are.
pub(crate) fn check_all(
    txs: Vec<SignedTx>,
    chain_id: &ChainId,
) -> Result<Vec<CheckedTx>, BlockError> {
    check_all_but(txs, chain_id, &|_| None)
}

/// What a node has checked before of a transaction; `None` for one that is new to it.
type Known<'a> = &'a (dyn Fn(&SignedTx) -> Option<CheckedTx> + Sync);

/// [`check_all`], except for those that are `known`: the same transaction under the same signature, on this chain.
fn check_all_but(
    txs: Vec<SignedTx>,
    chain_id: &ChainId,
    known: Known<'_>,
) -> Result<Vec<CheckedTx>, BlockError> {
    const PARALLEL_FROM: usize = 32;
    let check = |(index, tx): (usize, SignedTx)| {
        let before = known(&tx).filter(|c| *c.signed() == tx && c.tx().chain_id == *chain_id);
        before
            .map_or_else(|| tx.check(chain_id), Ok)
            .map_err(|source| BlockError::Tx { index, source })
    };
    // How many cores there are is read from files of the system, for many transactions only.
    let workers = match txs.len() < PARALLEL_FROM {
        true => 1,
        false => std::thread::available_parallelism().map_or(1, usize::from),
    };
    let workers = workers.min(16);
    if workers == 1 {
        return txs.into_iter().enumerate().map(check).collect();
    }
    let share = txs.len().div_ceil(workers);
    let mut rest = txs.into_iter().enumerate();
    std::thread::scope(|scope| {
        let parts: Vec<Vec<_>> = (0..workers)
            .map(|_| rest.by_ref().take(share).collect())
            .collect();
        let check = &check;
        let run = |part: Vec<(usize, SignedTx)>| {
            scope.spawn(move || part.into_iter().map(check).collect::<Result<Vec<_>, _>>())
        };
        let handles: Vec<_> = parts.into_iter().map(run).collect();
        let mut all = Vec::new();
        for handle in handles {
            // A panic in a check is a fault of this program; it must not look like a verdict.
            all.extend(
                handle
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?,
            );
        }
        Ok(all)
    })
}

/// The first transactions that together fit a block.
fn within_limits(txs: Vec<CheckedTx>) -> Vec<CheckedTx> {
    // Beacon entries and vector lengths: 256 × 56 bytes and a little.
    let mut bytes = 16 << 10;
    let mut proofs = 0;
    let fits = |tx: &CheckedTx| {
        bytes += tx.len_bytes();
        proofs += tx.proofs();
        bytes <= MAX_BODY_BYTES as u64 && proofs <= MAX_BLOCK_PROOFS
    };
    txs.into_iter()
        .take(MAX_BLOCK_TXS)
        .take_while({
            let mut fits = fits;
            move |tx| fits(tx)
        })
        .collect()
}

fn limit(what: &'static str, found: u64, limit: u64) -> Result<(), BlockError> {
    if found > limit {
        Err(BlockError::TooLarge { what, found, limit })
    } else {
        Ok(())
    }
}

fn home_error<'a>(
    what: &'static str,
    path: &'a Path,
) -> impl FnOnce(std::io::Error) -> LedgerError + 'a {
    move |source| LedgerError::Home {
        what,
        path: path.to_owned(),
        source,
    }
}

/// Takes the folder's lock, or says who has it.
pub(crate) fn lock(home: &Path) -> Result<File, LedgerError> {
    let path = home.join("lock");
    let file = File::options()
        .create(true)
        .write(true)
        .truncate(false)
        .open(&path)
        .map_err(home_error("opening", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(LedgerError::Locked { path }),
        Err(TryLockError::Error(source)) => Err(LedgerError::Home {
            what: "locking",
            path,
            source,
        }),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use ed25519_dalek::SigningKey;

    use super::*;
    use crate::account::{Account, Address};
    use crate::beacon::{BeaconParams, DevnetSigner};
    use crate::certificate::{Validator, ValidatorId};
    use crate::clock::ClockMode;
    use crate::execute::ProofError;
    use crate::genesis::{GENESIS_VERSION, NetworkKind};
    use crate::log::testing::MemDisk;
    use crate::message::{Message, Tx, sign};
    use crate::params::ChainParams;
    use crate::units::TokenAmount;
    use crate::vfs::Readers;
    use prover::verify::{PorepStatement, WindowPostStatement};

    /// Money moves only in these tests; a proof would be a mistake of the test.
    pub struct NoProofs;
    impl ProofVerifier for NoProofs {
        fn porep(&self, _: &PorepStatement, _: &[u8]) -> Result<(), ProofError> {
            Err(ProofError::Rejected("no proofs here".into()))
        }
        fn window_post(&self, _: &WindowPostStatement, _: &[u8]) -> Result<(), ProofError> {
            Err(ProofError::Rejected("no proofs here".into()))
        }
    }

    pub fn validator() -> SigningKey {
        SigningKey::from_bytes(&[42; 32])
    }
    pub fn beacon() -> DevnetSigner {
        DevnetSigner::from_seed(&[1; 32])
    }
    pub fn user(n: u64) -> SigningKey {
        SigningKey::from_bytes(&crate::merkle::digest(&[&n.to_le_bytes()]))
    }
    pub fn address(n: u64) -> Address {
        Address::of(&user(n).verifying_key())
    }

    /// A devnet without sector sizes of its own keys: `check` is bypassed by giving it no sizes to prove.
    pub fn genesis(users: u64) -> Genesis {
        Genesis {
            version: GENESIS_VERSION,
            chain_name: "test".into(),
            kind: NetworkKind::Devnet,
            time_ms: 1_700_000_000_000,
            clock: ClockMode::Logical { epoch_ms: 1 },
            params: ChainParams {
                sector_sizes: vec![prover::spec::SectorSize::Kib2],
                ..ChainParams::devnet()
            },
            accounts: (0..users)
                .map(|n| (address(n), TokenAmount(1_000_000)))
                .collect::<BTreeMap<_, _>>(),
            validators: vec![Validator {
                id: ValidatorId(validator().verifying_key().to_bytes()),
                power: 1,
            }],
            beacons: vec![BeaconParams::devnet(&beacon(), 1_700_000_000)],
            keys: crate::genesis::tests::kib2_keys(),
        }
    }

    pub fn open(home: &Path, genesis: &Genesis) -> Result<Ledger, LedgerError> {
        Ledger::open(home, genesis, Arc::new(NoProofs))
    }

    pub fn transfer(chain: ChainId, from: u64, nonce: u64, to: u64) -> SignedTx {
        let msgs = vec![Message::Transfer {
            to: address(to),
            amount: TokenAmount(1),
        }];
        let tx = Tx {
            version: 1,
            chain_id: chain,
            sender: address(from),
            nonce,
            fee_limit: TokenAmount(0),
            valid_until_height: u64::MAX,
            msgs,
        };
        sign(tx, &user(from))
    }

    pub fn next_block(ledger: &Ledger, txs: Vec<SignedTx>) -> (ValidBlock, Certificate) {
        let epoch = ledger.tip().epoch.next();
        let checked = txs
            .into_iter()
            .map(|t| t.check(&ledger.chain_id()).unwrap())
            .collect();
        let height = ledger.tip().height + 1;
        let slot = Slot { height, round: 0 };
        let block = ledger
            .build(slot, epoch, 0, vec![beacon().sign(epoch.0)], checked)
            .unwrap();
        let certificate = Certificate::solo(&ledger.chain_id(), height, block.id(), &validator());
        (block, certificate)
    }

    /// The verdict on a block in the round of its own header.
    pub fn judged(ledger: &Ledger, block: Block) -> Result<ValidBlock, LedgerError> {
        let Header { height, round, .. } = block.header;
        match ledger.validate(block, Slot { height, round }, None)? {
            Verdict::Valid(valid) => Ok(*valid),
            Verdict::Invalid(why) => Err(why.into()),
            Verdict::NotYet { tip } => Err(LedgerError::NoBlock { height, tip }),
        }
    }

    pub fn advance(ledger: &Ledger, blocks: u64) {
        for _ in 0..blocks {
            let height = ledger.tip().height;
            let txs = (0..3)
                .map(|from| transfer(ledger.chain_id(), from, height, (height + from) % 7))
                .collect();
            let (block, certificate) = next_block(ledger, txs);
            ledger.commit(block, certificate).unwrap();
        }
    }

    /// Somebody says that a block is an earlier round's, and its stamp is older than half an epoch. Who heard it in time takes it up;
    /// everybody else when more than a third of the power has let it pass.
    #[test]
    fn tm_v5_tm_p7_a_block_of_an_earlier_round_is_new_to_who_did_not_hear_it() {
        let home = tempfile::tempdir().unwrap();
        let mut genesis = genesis(1);
        genesis.clock = ClockMode::Beacon { epoch_ms: 2_000 };
        genesis.validators.extend((1..4).map(|n| Validator {
            id: ValidatorId(user(n).verifying_key().to_bytes()),
            power: 1,
        }));
        genesis.validators.sort_by_key(|v| v.id);
        let ledger = open(home.path(), &genesis).unwrap();
        let at = |round| Slot { height: 1, round };
        let now = 1_700_000_000_700;
        let made = |time: u64| {
            let entries = vec![beacon().sign(1)];
            let made = ledger.build(at(0), Epoch(1), time, entries, vec![]);
            made.unwrap().block().clone()
        };
        let [unheard, late, heard] = [now, now + 1, now + 2].map(made);
        let in_time = |in_time| Heard {
            announced: None,
            in_time,
        };
        ledger.save_undecided(&late, in_time(false)).unwrap();
        ledger.save_undecided(&heard, in_time(true)).unwrap();
        drop(ledger);
        let ledger = open(home.path(), &genesis).unwrap();
        let takes = |block: &Block, round: u32, now: u64| {
            let verdict = ledger.validate(block.clone(), at(round), Some(now));
            match verdict.unwrap() {
                Verdict::Valid(_) => true,
                Verdict::Invalid(BlockError::Header { field, .. }) => {
                    assert_eq!(field, "time_ms");
                    false
                }
                other => panic!("{other:?}"),
            }
        };
        let set = ledger.validators();
        // Four of equal power: two different ones are more than a third.
        let turns = |round| {
            let ids = (0..round).map(|round| set.proposer(1, round));
            ids.collect::<BTreeSet<_>>().len()
        };
        for block in [&unheard, &late, &heard] {
            let edge = block.header.time_ms + 1_000;
            let ours = std::ptr::eq(block, &heard);
            for round in 0..6 {
                assert!(takes(block, round, edge));
                let stands = turns(round) > 1 || (ours && round > 0);
                assert_eq!(takes(block, round, edge + 1), stands, "{round}");
                assert_eq!(takes(block, round, edge + 3_600_000), stands, "{round}");
            }
        }
        assert!(turns(1) == 1 && turns(6) > 1);
    }

    /// The beacon's clock: a block's epoch is that of its time, whatever its proposer would like. After an hour without a chain
    /// the next block is of the present epoch, and the rounds in between come when they come.
    #[test]
    fn tm_v5_a_block_stamped_into_another_epoch_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let mut genesis = genesis(1);
        genesis.clock = ClockMode::Beacon { epoch_ms: 2_000 };
        let ledger = open(home.path(), &genesis).unwrap();
        let start = |epoch: u64| 1_700_000_000_000 + (epoch - 1) * 2_000;
        let build = |epoch: u64, now_ms: u64, first: u64, count: u64| {
            let entries = (first..first + count)
                .map(|round| beacon().sign(round))
                .collect();
            let slot = Slot {
                height: ledger.tip().height + 1,
                round: 0,
            };
            ledger.build(slot, Epoch(epoch), now_ms, entries, vec![])
        };
        let commit = |block: ValidBlock| {
            let height = block.block().header.height;
            let id = block.id();
            let certificate = Certificate::single(&ledger.chain_id(), height, 0, id, &validator());
            ledger.commit(block, certificate).unwrap();
        };
        commit(build(1, start(1), 1, 1).unwrap());
        let now = start(1_801) + 700;
        for (epoch, time) in [
            (2, now),
            (1_800, now),
            (1_802, now),
            (1_801, start(2)),
            (1, now),
        ] {
            let refused = build(epoch, time, 2, 0).unwrap_err();
            assert!(
                matches!(
                    refused,
                    LedgerError::Block(BlockError::Header { field: "epoch", .. })
                ),
                "{epoch} {refused}"
            );
        }
        // Nor may it be older than half an epoch by the clock of who votes for it, unless it is decided already.
        let slot = Slot {
            height: ledger.tip().height + 1,
            round: 0,
        };
        let late = build(1_801, now, 2, 0).unwrap();
        let verdict = |by: Option<u64>| ledger.validate(late.block().clone(), slot, by).unwrap();
        assert!(matches!(verdict(Some(now + 1_000)), Verdict::Valid(_)));
        assert!(matches!(
            verdict(Some(now + 1_001)),
            Verdict::Invalid(BlockError::Header {
                field: "time_ms",
                ..
            })
        ));
        assert!(matches!(verdict(None), Verdict::Valid(_)));
        // None of the due rounds, then some, then the rest: 256 a block.
        commit(build(1_801, now, 2, 0).unwrap());
        let mut next = 2;
        for epoch in 1_802..=1_810u64 {
            let count = (epoch + 1 - next).min(256);
            commit(build(epoch, start(epoch), next, count).unwrap());
            next += count;
        }
        assert_eq!(ledger.beacon_tip().unwrap(), Epoch(1_810));
        let network = network(&ledger.view()).unwrap();
        assert!((1_800..=1_808).contains(&network.dark), "{}", network.dark);

        // An auditor who replays the export agrees.
        let path = home.path().join("chain.hfx");
        let mut file = File::create(&path).unwrap();
        ledger.export(&mut file, &mut |_| ()).unwrap();
        let silent = &mut |_: &crate::audit::Replayed<'_>| ();
        let report = crate::audit::replay(&path, None, silent).unwrap().report;
        assert!(report.ok(), "{:?}", report.failures);
        assert_eq!(report.epoch, Epoch(1_810));
    }

    fn balance(ledger: &Ledger, n: u64) -> u128 {
        let account: Option<Account> =
            state::read(&ledger.view(), &key::account(&address(n))).unwrap();
        account.unwrap_or_default().free.0
    }

    #[test]
    fn blocks_are_final_readable_and_survive_a_restart() {
        let home = tempfile::tempdir().unwrap();
        let genesis = genesis(3);
        let ledger = open(home.path(), &genesis).unwrap();
        let watcher = ledger.subscribe();
        advance(&ledger, 5);
        let tip = ledger.tip();
        assert_eq!((tip.height, tip.epoch), (5, Epoch(5)));
        let heard: Vec<u64> = watcher.try_iter().map(|b| b.block.header.height).collect();
        assert_eq!(heard, [1, 2, 3, 4, 5]);
        let third = ledger.committed(3).unwrap();
        assert_eq!(third.outcomes.receipts.len(), 3);
        assert_eq!(
            ledger.block(4).unwrap().block.header.prev_receipt_root,
            third.outcomes.root()
        );
        assert_eq!(
            ledger.block(4).unwrap().block.header.prev_state_root,
            third.state_root
        );
        let (height, index, receipt) = ledger
            .receipt(&third.outcomes.receipts[1].tx)
            .unwrap()
            .unwrap();
        assert_eq!((height, index, receipt.succeeded()), (3, 1, true));
        assert!(matches!(
            ledger.block(6),
            Err(LedgerError::NoBlock { height: 6, tip: 5 })
        ));
        assert!(matches!(ledger.block(0), Err(LedgerError::NoBlock { .. })));
        drop(ledger);
        let again = open(home.path(), &genesis).unwrap();
        assert_eq!(again.tip(), tip);
        assert_eq!(
            (again.summary().replayed, again.summary().rebuilt_index),
            (0, false)
        );
        advance(&again, 1);
    }

    #[test]
    fn commit_is_idempotent_and_forks_are_named() {
        let home = tempfile::tempdir().unwrap();
        let ledger = open(home.path(), &genesis(3)).unwrap();
        let (block, cert) = next_block(&ledger, vec![transfer(ledger.chain_id(), 0, 0, 1)]);
        let (other, other_cert) = next_block(&ledger, vec![]);
        assert!(matches!(
            ledger.commit(block.clone(), cert.clone()).unwrap(),
            CommitOutcome::Committed(_)
        ));
        assert!(matches!(
            ledger.commit(block.clone(), cert.clone()).unwrap(),
            CommitOutcome::Already
        ));
        advance(&ledger, 1);
        assert!(matches!(
            ledger.commit(block, cert).unwrap(),
            CommitOutcome::Already
        ));
        assert!(matches!(
            ledger.commit(other, other_cert),
            Err(LedgerError::Conflict { height: 1, .. })
        ));
    }

    #[test]
    fn invalid_blocks_change_nothing() {
        let home = tempfile::tempdir().unwrap();
        let ledger = open(home.path(), &genesis(3)).unwrap();
        advance(&ledger, 1);
        let (good, cert) = next_block(&ledger, vec![transfer(ledger.chain_id(), 0, 1, 1)]);
        let changes: Vec<(&str, fn(&mut Block))> = vec![
            ("height", |b| b.header.height += 1),
            ("parent", |b| b.header.parent_id.0[0] ^= 1),
            ("version", |b| b.header.version += 1),
            ("chain", |b| b.header.chain_id.0[0] ^= 1),
            ("state root", |b| b.header.prev_state_root[0] ^= 1),
            ("receipt root", |b| b.header.prev_receipt_root[0] ^= 1),
            ("epoch", |b| b.header.epoch.0 += 1),
            ("time", |b| b.header.time_ms = 0),
            ("validators", |b| b.header.validators_hash[0] ^= 1),
            ("next validators", |b| b.header.next_validators_hash[0] ^= 1),
            ("proposer", |b| b.header.proposer.0[0] ^= 1),
            ("tx root", |b| b.header.tx_root[0] ^= 1),
            ("body", |b| drop(b.body.txs.pop())),
            ("beacon gap", |b| b.body.beacons[0].round += 1),
            ("no beacon", |b| b.body.beacons.clear()),
            ("two beacons", |b| b.body.beacons.push(beacon().sign(3))),
            ("beacon signature", |b| {
                b.body.beacons[0].sig = beacon().sign(9).sig
            }),
            ("signature", |b| b.body.txs[0].signature.0[0] ^= 1),
        ];
        let tip = ledger.tip();
        for (name, change) in changes {
            let mut block = good.block().clone();
            change(&mut block);
            if !["tx root", "body"].contains(&name) {
                block.header.tx_root = block.body.root();
            }
            assert!(
                judged(&ledger, block.clone()).is_err() || block == *good.block(),
                "{name}"
            );
        }
        let valid = judged(&ledger, good.block().clone()).unwrap();
        let stranger = Certificate::solo(&ledger.chain_id(), 2, valid.id(), &user(5));
        assert!(matches!(
            ledger.commit(valid.clone(), stranger),
            Err(LedgerError::Block(BlockError::Certificate(_)))
        ));
        assert_eq!(ledger.tip(), tip);
        ledger.commit(valid, cert).unwrap();
    }

    #[test]
    fn tm_v6_oversize_blocks_are_refused_before_signatures() {
        let home = tempfile::tempdir().unwrap();
        let ledger = open(home.path(), &genesis(3)).unwrap();
        let (good, _) = next_block(&ledger, vec![transfer(ledger.chain_id(), 0, 0, 1)]);
        let mut block = good.block().clone();
        // Unsigned rubbish: if signatures were looked at first, the error would be about them.
        block.body.txs = vec![block.body.txs[0].clone(); MAX_BLOCK_TXS + 1];
        block.body.txs[0].signature.0 = [0; 64];
        block.header.tx_root = block.body.root();
        assert!(matches!(
            judged(&ledger, block.clone()),
            Err(LedgerError::Block(BlockError::TooLarge {
                what: "transactions",
                ..
            }))
        ));
        let proof = Message::ProveCommit {
            provider: crate::account::ProviderId(1000),
            sector: prover::SectorNumber(1),
            proof: vec![0; 192],
        };
        block.body.txs.truncate(5);
        for tx in &mut block.body.txs {
            tx.tx.msgs = vec![proof.clone(); 64];
        }
        block.header.tx_root = block.body.root();
        assert!(matches!(
            judged(&ledger, block),
            Err(LedgerError::Block(BlockError::TooLarge {
                what: "proofs",
                ..
            }))
        ));
    }

    #[test]
    fn tm_v2_a_second_node_on_the_same_folder_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let ledger = open(home.path(), &genesis(1)).unwrap();
        assert!(matches!(
            open(home.path(), &genesis(1)),
            Err(LedgerError::Locked { .. })
        ));
        drop(ledger);
        assert!(open(home.path(), &genesis(1)).is_ok());
    }

    #[test]
    fn another_genesis_is_refused() {
        let home = tempfile::tempdir().unwrap();
        drop(open(home.path(), &genesis(1)).unwrap());
        assert!(matches!(
            open(home.path(), &genesis(2)),
            Err(LedgerError::Log(LogError::WrongChain { .. }))
        ));
    }

    /// What must come back after any accident to the index.
    fn assert_recovers(home: &Path, genesis: &Genesis, tip: Tip, what: &str) {
        let ledger = open(home, genesis).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(ledger.tip(), tip, "{what}");
        assert_eq!(
            tree::root(&*ledger.store, tip.height).unwrap(),
            Some(tip.state_root),
            "{what}"
        );
        let total: u128 = (0..7).map(|n| balance(&ledger, n)).sum();
        assert_eq!(total, 3_000_000, "{what}");
        assert_eq!(
            ledger.outcomes(tip.height).unwrap().root(),
            tip.receipt_root,
            "{what}"
        );
    }

    fn index_files(home: &Path) -> Vec<PathBuf> {
        let mut found = vec![];
        let mut dirs = vec![store::index_dir(home)];
        while let Some(dir) = dirs.pop() {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    dirs.push(path)
                } else {
                    found.push(path)
                }
            }
        }
        found.sort();
        found
    }

    fn copy_home(from: &Path) -> tempfile::TempDir {
        let to = tempfile::tempdir().unwrap();
        std::fs::copy(from.join("blocks.log"), to.path().join("blocks.log")).unwrap();
        for file in index_files(from) {
            let target = to.path().join(file.strip_prefix(from).unwrap());
            std::fs::create_dir_all(target.parent().unwrap()).unwrap();
            std::fs::copy(&file, target).unwrap();
        }
        to
    }

    #[test]
    fn tm_h2_deleted_truncated_and_flipped_index_files_give_the_same_state() {
        let home = tempfile::tempdir().unwrap();
        let genesis = genesis(3);
        let ledger = open(home.path(), &genesis).unwrap();
        advance(&ledger, 30);
        let tip = ledger.tip();
        drop(ledger);
        let gone = copy_home(home.path());
        std::fs::remove_dir_all(store::index_dir(gone.path())).unwrap();
        assert_recovers(gone.path(), &genesis, tip, "index folder deleted");
        let files = index_files(home.path());
        assert!(!files.is_empty());
        let mut random = 12345u64;
        for file in files {
            let name = file.strip_prefix(home.path()).unwrap();
            let len = std::fs::metadata(&file).unwrap().len();
            let damage = |change: &mut dyn FnMut(&mut Vec<u8>)| {
                let copy = copy_home(home.path());
                let path = copy.path().join(name);
                let mut bytes = std::fs::read(&path).unwrap();
                change(&mut bytes);
                std::fs::write(&path, bytes).unwrap();
                copy
            };
            let copy = copy_home(home.path());
            std::fs::remove_file(copy.path().join(name)).unwrap();
            assert_recovers(
                copy.path(),
                &genesis,
                tip,
                &format!("{} deleted", name.display()),
            );
            for part in [0, len / 3, len / 2, len.saturating_sub(1)] {
                let copy = damage(&mut |b| b.truncate(part as usize));
                assert_recovers(
                    copy.path(),
                    &genesis,
                    tip,
                    &format!("{} cut to {part}", name.display()),
                );
            }
            for _ in 0..8 {
                random = random
                    .wrapping_mul(6364136223846793005)
                    .wrapping_add(1442695040888963407);
                let at = (random >> 16) % len.clamp(1, 60_000);
                let copy = damage(&mut |b| {
                    if let Some(byte) = b.get_mut(at as usize) {
                        *byte ^= 0x04;
                    }
                });
                assert_recovers(
                    copy.path(),
                    &genesis,
                    tip,
                    &format!("{} flipped at {at}", name.display()),
                );
            }
        }
    }

    #[test]
    fn tm_h1_a_log_cut_anywhere_in_its_last_block_gives_the_chain_before_or_names_the_loss() {
        let home = tempfile::tempdir().unwrap();
        let genesis = genesis(3);
        let ledger = open(home.path(), &genesis).unwrap();
        advance(&ledger, 3);
        let before = ledger.tip();
        let index_before = copy_home(home.path());
        let (block, cert) = next_block(&ledger, vec![]);
        ledger.commit(block.clone(), cert.clone()).unwrap();
        let after = ledger.tip();
        drop(ledger);
        let whole = std::fs::read(home.path().join("blocks.log")).unwrap();
        let short = std::fs::read(index_before.path().join("blocks.log")).unwrap();
        assert_eq!(whole[..short.len()], short[..]);
        for len in (short.len()..=whole.len())
            .step_by(7)
            .chain([whole.len() - 1, whole.len()])
        {
            // The index of the moment before: a crash between log and index.
            let copy = copy_home(index_before.path());
            std::fs::write(copy.path().join("blocks.log"), &whole[..len]).unwrap();
            let expected = if len == whole.len() { after } else { before };
            assert_recovers(copy.path(), &genesis, expected, &format!("cut at {len}"));
            let ledger = open(copy.path(), &genesis).unwrap();
            // The same block can be committed (again) and gives the same tip.
            let valid = match expected == before {
                true => judged(&ledger, block.block().clone()).unwrap(),
                false => block.clone(),
            };
            ledger.commit(valid, cert.clone()).unwrap();
            assert_eq!(ledger.tip(), after);
        }
        // If the index saw the block, its loss from the log is no torn tail.
        let copy = copy_home(home.path());
        std::fs::write(copy.path().join("blocks.log"), &whole[..whole.len() - 1]).unwrap();
        assert!(matches!(
            open(copy.path(), &genesis),
            Err(LedgerError::Log(LogError::Damaged { height: 4, .. }))
        ));
    }

    #[test]
    fn tm_h3_a_flipped_bit_in_the_log_names_its_block() {
        let home = tempfile::tempdir().unwrap();
        let genesis = genesis(3);
        let ledger = open(home.path(), &genesis).unwrap();
        advance(&ledger, 4);
        let second = ledger.store.block_ref(2).unwrap().unwrap().offset as usize;
        drop(ledger);
        let path = home.path().join("blocks.log");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[second + 60] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let error = open(home.path(), &genesis).err().unwrap();
        assert!(error.to_string().contains("height 2"), "{error}");
    }

    fn open_on(home: &Path, disk: Arc<MemDisk>) -> Result<Ledger, LedgerError> {
        std::fs::create_dir_all(home).unwrap();
        let index = store::index_dir(home);
        Ledger::open_on(
            Arc::new(LogOn(disk)),
            home,
            Place::Folder(&index),
            genesis(3).check().unwrap(),
            Arc::new(NoProofs),
            Some(lock(home).unwrap()),
        )
    }

    /// The operating system's files, with the block log on this disk.
    #[derive(Debug)]
    struct LogOn(Arc<MemDisk>);

    impl Vfs for LogOn {
        fn open(&self, _: &Path) -> std::io::Result<Arc<dyn crate::log::Disk>> {
            Ok(self.0.clone())
        }
        fn create_dir(&self, dir: &Path) -> std::io::Result<()> {
            OsVfs.create_dir(dir)
        }
        fn list(&self, dir: &Path) -> std::io::Result<Vec<(String, u64)>> {
            OsVfs.list(dir)
        }
        fn len(&self, path: &Path) -> std::io::Result<u64> {
            OsVfs.len(path)
        }
        fn read(&self, path: &Path) -> std::io::Result<Vec<u8>> {
            OsVfs.read(path)
        }
        fn write_synced(
            &self,
            path: &Path,
            readers: Readers,
            pieces: &[&[u8]],
        ) -> std::io::Result<()> {
            OsVfs.write_synced(path, readers, pieces)
        }
        fn rename(&self, from: &Path, to: &Path) -> std::io::Result<()> {
            OsVfs.rename(from, to)
        }
        fn remove(&self, path: &Path) -> std::io::Result<()> {
            OsVfs.remove(path)
        }
        fn sync_names(&self, path: &Path) -> std::io::Result<()> {
            OsVfs.sync_names(path)
        }
    }

    #[test]
    fn tm_h4_tm_h5_a_failing_disk_stops_the_ledger_and_loses_nothing() {
        for fail_sync in [false, true] {
            let home = tempfile::tempdir().unwrap();
            let disk = MemDisk::with(vec![]);
            let ledger = open_on(home.path(), disk.clone()).unwrap();
            advance(&ledger, 2);
            let tip = ledger.tip();
            match fail_sync {
                true => *disk.syncs.lock().unwrap() = Some(0),
                false => *disk.space.lock().unwrap() = Some(100),
            }
            let (block, cert) = next_block(&ledger, vec![]);
            assert!(matches!(
                ledger.commit(block.clone(), cert.clone()),
                Err(LedgerError::Log(LogError::Io { .. }))
            ));
            assert_eq!(ledger.tip(), tip, "not acknowledged");
            *disk.syncs.lock().unwrap() = None;
            *disk.space.lock().unwrap() = None;
            assert!(matches!(
                ledger.commit(block.clone(), cert.clone()),
                Err(LedgerError::Halted(_))
            ));
            drop(ledger);
            let again = open_on(home.path(), disk).unwrap();
            // After a failed sync the block may or may not have reached the disk; both are the same chain.
            assert!(again.tip() == tip || (fail_sync && again.tip().id == block.id()));
            assert!(matches!(
                judged(&again, block.block().clone()).map(|b| again.commit(b, cert)),
                Ok(Ok(_)) | Err(_)
            ));
            assert_eq!(again.tip().id, block.id());
        }
    }

    #[test]
    fn cheap_invariants_notice_each_kind_of_wrong_total() {
        let before = Network {
            genesis: TokenAmount(10),
            minted: TokenAmount(5),
            free: TokenAmount(13),
            burnt: TokenAmount(2),
            theta: 4,
            ..Network::default()
        };
        let mut header = crate::block::tests::header();
        (header.height, header.epoch) = (1, Epoch(1));
        let context = context_of(&header, vec![]);
        let good = Network {
            height: 1,
            epoch: Epoch(1),
            ..before
        };
        assert_eq!(check_cheap(&before, &good, &context), Ok(()));
        let wrong: [fn(&mut Network); 6] = [
            |n| n.free.0 += 1,
            |n| (n.genesis.0, n.free.0) = (11, 14),
            |n| (n.minted.0, n.free.0) = (4, 12),
            |n| n.theta = 3,
            |n| (n.burnt.0, n.free.0) = (1, 14),
            |n| n.height = 2,
        ];
        for (i, change) in wrong.iter().enumerate() {
            let mut after = good;
            change(&mut after);
            assert!(check_cheap(&before, &after, &context).is_err(), "case {i}");
        }
    }

    #[test]
    fn views_stay_what_they_were() {
        let home = tempfile::tempdir().unwrap();
        let ledger = open(home.path(), &genesis(3)).unwrap();
        let all = |view: &View| {
            let (from, until) = key::prefix_range(&key::accounts());
            let whole = view.range(&from, &until, usize::MAX).unwrap();
            let mut paged = vec![];
            let mut at = from;
            loop {
                let page = view.range(&at, &until, 2).unwrap();
                paged.extend(page.clone());
                match page.last() {
                    Some((k, _)) if page.len() == 2 => at = [k.as_slice(), &[0]].concat(),
                    _ => break,
                }
            }
            assert_eq!(whole, paged);
            for (k, v) in &whole {
                assert_eq!(view.get(k).unwrap().as_ref(), Some(v));
            }
            whole
        };
        let mut kept = vec![(ledger.view(), all(&ledger.view()))];
        for _ in 0..25 {
            advance(&ledger, 1);
            kept.push((ledger.view(), all(&ledger.view())));
        }
        for (view, was) in &kept {
            assert_eq!(&all(view), was, "view of height {}", view.height());
        }
        assert!(kept[0].1 != kept[25].1);
        assert!(ledger.view_at(25 - 5).is_some() && ledger.view_at(2).is_none());
    }

    #[test]
    fn tm_v3_replay_gives_the_same_roots_with_any_history_of_restarts() {
        let genesis = genesis(3);
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let one = open(a.path(), &genesis).unwrap();
        advance(&one, 12);
        for height in 1..=12 {
            let two = open(b.path(), &genesis).unwrap();
            let last = one.block(height).unwrap();
            two.commit_decided(last.block, last.certificate).unwrap();
            if height % 3 == 0 {
                std::fs::remove_dir_all(store::index_dir(b.path())).unwrap();
            }
        }
        assert_eq!(open(b.path(), &genesis).unwrap().tip(), one.tip());
    }

    /// Four validators of power 1, and their keys.
    pub fn four() -> (Genesis, Vec<SigningKey>) {
        let keys: Vec<SigningKey> = (100..104).map(user).collect();
        let of = |key: &SigningKey| Validator {
            id: ValidatorId(key.verifying_key().to_bytes()),
            power: 1,
        };
        let mut validators: Vec<Validator> = keys.iter().map(of).collect();
        validators.sort_by_key(|v| v.id);
        let genesis = Genesis {
            validators,
            ..genesis(3)
        };
        (genesis, keys)
    }

    /// The precommits of some keys.
    pub fn signed(chain: &ChainId, slot: Slot, block: BlockId, keys: &[SigningKey]) -> Certificate {
        let one = |key| Certificate::single(chain, slot.height, slot.round, block, key);
        let parts = keys.iter().map(one);
        parts.reduce(|all, next| all.merged(next)).unwrap()
    }

    /// A block of the next height proposed in `round`.
    pub fn proposed(ledger: &Ledger, round: u32, txs: Vec<SignedTx>) -> (ValidBlock, Slot) {
        let (epoch, height) = (ledger.tip().epoch.next(), ledger.tip().height + 1);
        let slot = Slot { height, round };
        let txs = txs
            .into_iter()
            .map(|t| t.check(&ledger.chain_id()).unwrap());
        let beacons = vec![beacon().sign(epoch.0)];
        let block = ledger.build(slot, epoch, 0, beacons, txs.collect());
        (block.unwrap(), slot)
    }

    #[test]
    fn a_certificate_of_several_commits_and_grows_but_never_shrinks() {
        let (genesis, keys) = four();
        let home = tempfile::tempdir().unwrap();
        let ledger = open(home.path(), &genesis).unwrap();
        let chain = ledger.chain_id();
        let (block, slot) = proposed(&ledger, 0, vec![transfer(chain, 0, 0, 1)]);
        let id = block.id();
        let two = signed(&chain, slot, id, &keys[..2]);
        assert!(matches!(
            ledger.commit(block.clone(), two),
            Err(LedgerError::Block(BlockError::Certificate(
                CertError::NoQuorum {
                    signed: 2,
                    total: 4
                }
            )))
        ));
        let three = signed(&chain, slot, id, &keys[..3]);
        ledger.commit(block.clone(), three.clone()).unwrap();
        assert_eq!(ledger.block(1).unwrap().certificate, three);
        assert!(!ledger.upgrade_certificate(1, three.clone()).unwrap());
        let others = signed(&chain, slot, id, &keys[1..]);
        assert!(ledger.upgrade_certificate(1, others).unwrap());
        let all = signed(&chain, slot, id, &keys);
        assert_eq!(ledger.block(1).unwrap().certificate, all);
        assert!(
            !ledger.upgrade_certificate(1, three.clone()).unwrap(),
            "never fewer"
        );
        assert_eq!(ledger.block(1).unwrap().certificate, all);
        // A new signature that does not hold is no growth.
        let fresh = tempfile::tempdir().unwrap();
        let fresh = open(fresh.path(), &genesis).unwrap();
        fresh.commit(block, three.clone()).unwrap();
        let mut forged = all.clone();
        let Certificate::Ed25519V1 { sigs, .. } = &mut forged;
        let new = sigs
            .iter_mut()
            .find(|(id, _)| id.0 == keys[3].verifying_key().to_bytes());
        new.unwrap().1.0[0] ^= 1;
        assert!(matches!(
            fresh.upgrade_certificate(1, forged),
            Err(LedgerError::Block(BlockError::Certificate(
                CertError::BadSignature(_)
            )))
        ));
        assert_eq!(fresh.block(1).unwrap().certificate, three);
        // Another block's certificate at this height is evidence; too few signatures are nothing.
        let twin = BlockId([9; 32]);
        assert!(matches!(
            ledger.upgrade_certificate(1, signed(&chain, slot, twin, &keys[1..])),
            Err(LedgerError::Conflict { height: 1, .. })
        ));
        assert!(matches!(
            ledger.upgrade_certificate(1, signed(&chain, slot, twin, &keys[2..])),
            Err(LedgerError::Block(_))
        ));
        drop(ledger);
        let again = open(home.path(), &genesis).unwrap();
        assert_eq!(again.block(1).unwrap().certificate, all, "after a restart");
        drop(again);
        std::fs::remove_dir_all(store::index_dir(home.path())).unwrap();
        let again = open(home.path(), &genesis).unwrap();
        assert_eq!(
            again.block(1).unwrap().certificate,
            three,
            "the log's own suffices"
        );
    }

    #[test]
    fn tm_c3_what_was_checked_before_is_taken_for_itself_alone() {
        let (genesis, _) = four();
        let home = tempfile::tempdir().unwrap();
        let ledger = open(home.path(), &genesis).unwrap();
        let chain = ledger.chain_id();
        let right = transfer(chain, 0, 0, 1);
        let (block, slot) = proposed(&ledger, 0, vec![right.clone()]);
        let known = right.check(&chain).unwrap();
        let verdict = |block: Block| {
            let known = |_: &SignedTx| Some(known.clone());
            ledger.validate_knowing(block, slot, None, &known).unwrap()
        };
        let Verdict::Valid(valid) = verdict(block.block().clone()) else {
            panic!("a sound block");
        };
        assert_eq!(valid.txs, std::slice::from_ref(&known));
        // The same transaction under a signature that does not hold.
        let mut forged = block.block().clone();
        forged.body.txs[0].signature.0[0] ^= 1;
        forged.header.tx_root = forged.body.root();
        assert!(matches!(
            verdict(forged),
            Verdict::Invalid(BlockError::Tx {
                index: 0,
                source: TxError::Signature(_)
            })
        ));
    }

    #[test]
    fn the_rounds_proposer_is_asked_for_and_nobody_elses_turn_is_used() {
        let (genesis, keys) = four();
        let home = tempfile::tempdir().unwrap();
        let ledger = open(home.path(), &genesis).unwrap();
        let (block, slot) = proposed(&ledger, 2, vec![]);
        let header = &block.block().header;
        assert_eq!(header.proposer, ledger.validators().proposer(1, 2));
        let verdict = |round, change: fn(&mut Block)| {
            let mut block = block.block().clone();
            change(&mut block);
            ledger
                .validate(block, Slot { height: 1, round }, None)
                .unwrap()
        };
        assert!(matches!(verdict(2, |_| ()), Verdict::Valid(_)));
        assert!(
            matches!(verdict(5, |_| ()), Verdict::Valid(_)),
            "proposed again later"
        );
        for (round, change) in [
            (1, (|_| ()) as fn(&mut Block)),
            (2, |b| b.header.round = 1),
            (2, |b| b.header.round = 3),
            (2, |b| b.header.proposer.0[0] ^= 1),
        ] {
            assert!(matches!(
                verdict(round, change),
                Verdict::Invalid(BlockError::Header { .. })
            ));
        }
        assert!(matches!(
            verdict(2, |b| b.header.height = 2),
            Verdict::NotYet { tip: 0 }
        ));
        assert!(matches!(
            verdict(2, |b| b.header.height = 0),
            Verdict::Invalid(BlockError::NotNext { .. })
        ));
        // A certificate of an earlier round than the header's cannot be of this block.
        let early = Slot {
            height: 1,
            round: 1,
        };
        let cert = signed(&ledger.chain_id(), early, block.id(), &keys);
        assert!(ledger.commit(block.clone(), cert.clone()).is_err());
        assert!(ledger.commit_decided(block.block().clone(), cert).is_err());
        let later = Slot {
            height: 1,
            round: 4,
        };
        let cert = signed(&ledger.chain_id(), later, block.id(), &keys);
        ledger.commit_decided(block.block().clone(), cert).unwrap();
        assert_eq!(
            slot,
            Slot {
                height: 1,
                round: 2
            }
        );
    }

    #[test]
    fn tm_h6_a_proposal_from_the_future_gets_no_vote_and_a_decided_one_is_taken() {
        let home = tempfile::tempdir().unwrap();
        let ledger = open(home.path(), &genesis(1)).unwrap();
        let (block, slot) = proposed(&ledger, 0, vec![]);
        let time = block.block().header.time_ms;
        let at = |now| ledger.validate(block.block().clone(), slot, now).unwrap();
        assert!(matches!(
            at(Some(time - MAX_TIME_AHEAD_MS)),
            Verdict::Valid(_)
        ));
        let early = at(Some(time - MAX_TIME_AHEAD_MS - 1));
        assert!(matches!(
            early,
            Verdict::Invalid(BlockError::Header {
                field: "time_ms",
                ..
            })
        ));
        assert!(matches!(at(None), Verdict::Valid(_)));
    }

    #[test]
    fn tm_v2_undecided_blocks_survive_a_restart_and_go_with_their_height() {
        let (genesis, keys) = four();
        let home = tempfile::tempdir().unwrap();
        let ledger = open(home.path(), &genesis).unwrap();
        let chain = ledger.chain_id();
        let (first, slot) = proposed(&ledger, 0, vec![transfer(chain, 0, 0, 1)]);
        let (second, _) = proposed(&ledger, 1, vec![]);
        for block in [&first, &second] {
            ledger
                .save_undecided(block.block(), Heard::default())
                .unwrap();
        }
        let mut ahead = first.block().clone();
        ahead.header.height = 2;
        ledger.save_undecided(&ahead, Heard::default()).unwrap();
        drop(ledger);
        let ledger = open(home.path(), &genesis).unwrap();
        assert_eq!(ledger.undecided(1, 0).unwrap(), [first.block().clone()]);
        assert_eq!(
            ledger.undecided_block(&second.id()).unwrap().as_ref(),
            Some(second.block())
        );
        let decided = ledger.undecided_block(&first.id()).unwrap().unwrap();
        let cert = signed(&chain, slot, first.id(), &keys[1..]);
        assert!(matches!(
            ledger
                .commit_decided(decided.clone(), cert.clone())
                .unwrap(),
            CommitOutcome::Committed(_)
        ));
        assert!(matches!(
            ledger.commit_decided(decided, cert).unwrap(),
            CommitOutcome::Already
        ));
        assert_eq!(ledger.undecided(1, 0).unwrap(), []);
        assert_eq!(ledger.undecided_block(&second.id()).unwrap(), None);
        assert_eq!(ledger.undecided(2, 0).unwrap(), [ahead]);
        assert!(matches!(
            ledger.save_undecided(second.block(), Heard::default()),
            Err(LedgerError::NotKept {
                height: 1,
                round: 1,
                tip: 1
            })
        ));
    }

    #[test]
    fn decided_blocks_come_in_order_within_the_bytes_and_at_least_one() {
        let home = tempfile::tempdir().unwrap();
        let ledger = open(home.path(), &genesis(3)).unwrap();
        advance(&ledger, 6);
        let heights = |range, bytes| -> Vec<u64> {
            let blocks = ledger.decided(range, bytes).unwrap();
            blocks.iter().map(|b| b.block.header.height).collect()
        };
        assert_eq!(heights(2..=4, u64::MAX), [2, 3, 4]);
        assert_eq!(heights(0..=u64::MAX, u64::MAX), [1, 2, 3, 4, 5, 6]);
        assert_eq!(heights(2..=6, 0), [2]);
        let one = ledger.block(2).unwrap().to_bytes().len() as u64;
        assert_eq!(heights(2..=6, 2 * one + 1), [2, 3]);
        assert!(heights(7..=9, u64::MAX).is_empty());
    }
}
