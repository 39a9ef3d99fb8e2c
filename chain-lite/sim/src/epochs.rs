//! The beacon's clock in a run: where rounds come from, and what must hold of epochs and stamps.
//!
//! Under the logical clock epochs are heights and a clock only stamps. Public networks follow the beacon's clock (`beacon.md` §3):
//! an epoch begins when its round is out, a validator goes on without the round after a quarter of an epoch, and epochs without a
//! block or a fresh round are dark. [`Relays`] give no round before its time by the world's true clock, each node's a little later,
//! and none while they are away. [`Epochs`] follows the chain and counts for itself, from headers and entries alone:
//!
//! * no block is stamped more than half an epoch, and what clocks may be off by, before it was first proposed in true time: its
//!   proposer would know the randomness of what it commits to;
//! * no block carries a round that was not out when the block was proposed, and its epoch is that of its time;
//! * the state has as many dark epochs as the chain had, and from one dark epoch to the next no timer fires: nobody is found
//!   faulty, slashed or ended for what could not be proven.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use chain_lite::beacon::{BeaconParams, BeaconSchedule, BeaconSource, DevnetSigner, Entry};
use chain_lite::block::BlockId;
use chain_lite::events::{Event, EventRecord};
use chain_lite::ledger::CommittedBlock;
use chain_lite::units::{Epoch, EpochCount};

/// Seconds between rounds, as drand's quicknet has them.
const PERIOD_S: u32 = 3;
/// Round of epoch 0.
const ROUND0: u64 = 1_000;
/// How long a node's fetcher takes at the least, and how much more it may.
const FETCH_MS: (u64, u64) = (150, 2_500);

/// A network's own beacon, whose epoch 1 begins at this Unix second.
pub fn network(key: &DevnetSigner, epoch_ms: u64, first_s: i64) -> BeaconParams {
    let rounds_per_epoch = epoch_ms / 1000 / u64::from(PERIOD_S);
    let before = (ROUND0 + rounds_per_epoch - 1) as i64 * i64::from(PERIOD_S);
    let mut params = BeaconParams {
        period: PERIOD_S,
        round0: ROUND0,
        rounds_per_epoch,
        ..BeaconParams::devnet(key, first_s - before)
    };
    params.chain_hash = params.compute_chain_hash();
    params
}

/// The relays of a run's beacon. They know the true time, whatever a node's clock says.
#[derive(Clone, Debug)]
pub struct Relays(Arc<State>);

#[derive(Debug)]
struct State {
    schedule: BeaconSchedule,
    /// How long before its time a round is out: never, unless a run must notice it.
    early_ms: u64,
    now_ms: AtomicU64,
    away: AtomicBool,
}

impl Relays {
    /// Of this beacon.
    pub fn new(schedule: BeaconSchedule, early_ms: u64) -> Self {
        Self(Arc::new(State {
            schedule,
            early_ms,
            now_ms: AtomicU64::new(0),
            away: AtomicBool::new(false),
        }))
    }

    /// It is this Unix millisecond.
    pub fn is_now(&self, ms: u64) {
        self.0.now_ms.store(ms, Ordering::Relaxed);
    }

    /// All of them go away, or are back.
    pub fn go(&self, away: bool) {
        self.0.away.store(away, Ordering::Relaxed);
    }

    /// Whether none of them answers.
    pub fn are_away(&self) -> bool {
        self.0.away.load(Ordering::Relaxed)
    }

    /// Whether a node that asked for the round of this epoch in time has it by now.
    fn give(&self, node: usize, epoch: Epoch) -> bool {
        let now = self.0.now_ms.load(Ordering::Relaxed) + self.0.early_ms;
        // Another one for each node and epoch, and the same in every run.
        let mixed = (epoch.0 * 64 + node as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let took = FETCH_MS.0 + mixed % FETCH_MS.1;
        let out = self.0.schedule.time_ms_of(epoch);
        !self.are_away() && out.is_some_and(|at| now >= at + took)
    }
}

/// A node's source of rounds. Each is signed once for all nodes and runs of the process: they have one key, and signing is what
/// costs.
pub struct Rounds {
    key: DevnetSigner,
    public: [u8; 96],
    node: usize,
    /// Without them every round is there at once.
    relays: Option<Relays>,
    /// Epochs whose round was fetched since the node started.
    fetched: BTreeSet<Epoch>,
}

impl Rounds {
    /// For a node.
    pub fn new(key: DevnetSigner, node: usize, relays: Option<Relays>) -> Self {
        Self {
            public: key.public_key(),
            key,
            node,
            relays,
            fetched: BTreeSet::new(),
        }
    }
}

impl BeaconSource for Rounds {
    fn round(&mut self, epoch: Epoch, round: u64) -> Option<Entry> {
        static SIGNED: Mutex<BTreeMap<([u8; 96], u64), Entry>> = Mutex::new(BTreeMap::new());
        if let Some(relays) = &self.relays
            && !self.fetched.contains(&epoch)
        {
            if !relays.give(self.node, epoch) {
                return None;
            }
            self.fetched.insert(epoch);
        }
        let mut signed = SIGNED.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = signed.entry((self.public, round));
        Some(entry.or_insert_with(|| self.key.sign(round)).clone())
    }

    fn settled(&mut self, tip: Epoch) {
        self.fetched = self.fetched.split_off(&tip.next());
    }
}

/// What a chain's epochs were like, from its blocks alone.
#[derive(Debug)]
pub struct Epochs {
    schedule: BeaconSchedule,
    lookback: EpochCount,
    /// The most that a stamp may be older than its block.
    oldest_ms: u64,
    /// When each block was first proposed, by the true clock, and whether no round came then.
    proposed: BTreeMap<BlockId, (u64, bool)>,
    /// Heights of the blocks of lit epochs.
    lit: BTreeMap<u64, Epoch>,
    height: u64,
    epoch: Epoch,
    beacon_tip: Epoch,
    /// Dark epochs up to the newest block's.
    dark: u64,
    is_dark: bool,
    /// Blocks that were proposed while no round came.
    without_rounds: u64,
}

impl Epochs {
    /// Of a chain without blocks.
    pub fn new(schedule: BeaconSchedule, lookback: EpochCount, oldest_ms: u64) -> Self {
        Self {
            schedule,
            lookback,
            oldest_ms,
            proposed: BTreeMap::new(),
            lit: BTreeMap::new(),
            height: 0,
            epoch: Epoch(0),
            beacon_tip: Epoch(0),
            dark: 0,
            is_dark: false,
            without_rounds: 0,
        }
    }

    /// Newest block that was looked at.
    pub fn height(&self) -> u64 {
        self.height
    }

    /// The newest block's epoch, and the newest on chain whose round is.
    pub fn tips(&self) -> (Epoch, Epoch) {
        (self.epoch, self.beacon_tip)
    }

    /// Dark epochs up to the newest block's.
    pub fn dark(&self) -> u64 {
        self.dark
    }

    /// Blocks that were first proposed while no relay answered.
    pub fn without_rounds(&self) -> u64 {
        self.without_rounds
    }

    /// A block is proposed, not for the first time perhaps.
    pub fn proposed(&mut self, id: BlockId, now_ms: u64, without_rounds: bool) {
        self.proposed.entry(id).or_insert((now_ms, without_rounds));
    }

    /// The first height of the last so many lit epochs before this block, and its epoch.
    pub fn window_before(&self, height: u64, lit: EpochCount) -> Option<(u64, Epoch)> {
        let nth = usize::try_from(lit.0).ok()?.checked_sub(1)?;
        let first = self.lit.range(..height).rev().nth(nth);
        first.map(|(height, epoch)| (*height, *epoch))
    }

    /// The next final block.
    pub fn block(&mut self, block: &CommittedBlock) -> Result<(), String> {
        let (id, header) = (block.id, &block.block.header);
        let (height, time) = (header.height, header.time_ms);
        let (at, without) = *self
            .proposed
            .get(&id)
            .ok_or_else(|| format!("block {height} was never proposed"))?;
        if time + self.oldest_ms < at {
            return Err(format!(
                "block {height} is stamped {} ms before it was proposed",
                at - time
            ));
        }
        let begins = |epoch: Epoch| self.schedule.time_ms_of(epoch);
        if !(begins(header.epoch) <= Some(time) && Some(time) < begins(header.epoch.next())) {
            return Err(format!("block {height} is not of the epoch of its time"));
        }
        let carried = block.block.body.beacons.len() as u64;
        let tip = Epoch(self.beacon_tip.0 + carried);
        if carried > 0 && begins(tip) > Some(at) {
            return Err(format!(
                "block {height} carries the round of epoch {tip} before its time"
            ));
        }
        let is_dark = tip < header.epoch.before(self.lookback);
        if self.is_dark && is_dark {
            let hit = block.outcomes.events.iter().find(|e| is_timer(e));
            hit.map_or(Ok(()), |hit| {
                Err(format!("block {height} brings {:?} in the dark", hit.event))
            })?;
        }
        self.dark += header.epoch.since(self.epoch).0 - 1 + u64::from(is_dark);
        if !is_dark {
            self.lit.insert(height, header.epoch);
        }
        (self.height, self.epoch, self.beacon_tip) = (height, header.epoch, tip);
        self.is_dark = is_dark;
        self.without_rounds += u64::from(without);
        Ok(())
    }
}

/// What comes of a timer that has run out, as far as it costs somebody something.
fn is_timer(record: &EventRecord) -> bool {
    record.tx.is_none()
        && matches!(
            record.event,
            Event::PostMissed { .. }
                | Event::SectorFaulted { .. }
                | Event::FaultFee { .. }
                | Event::Penalty { .. }
                | Event::PreCommitExpired { .. }
                | Event::SectorTerminated { .. }
                | Event::SectorExpired { .. }
                | Event::DealSlashed { .. }
        )
}
