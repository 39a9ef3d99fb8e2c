//! The solo engine: one validator makes, signs and commits every block, in its own thread.
//!
//! Walk: [`start`] after [`Ledger::open`]; RPC and provider talk to the [`EngineHandle`] (clock leases, status, stop) and to
//! the ledger. Spec: `consensus.md` §10 `solo`; clock: [`crate::clock`].
//! One round: wait for the clock and for the beacon rounds that are due ([`clock::due`]) → select transactions → build → sign the precommit of
//! (height, round 0, id) → commit. The certificate has one signature and is verified by the same code as any other.
//!
//! Crash: the vote is written with the block in one fsynced record, and the folder lock keeps a second engine away, so the key
//! never signs two blocks of one height that could both become known (`tm_v2`): a signature that was not logged was never shown.
//! Failure: an error of the ledger ends the thread; [`EngineHandle::status`] says why. Nothing is retried on a failed disk.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ed25519_dalek::SigningKey;

use crate::account::ProviderId;
use crate::beacon::BeaconSource;
use crate::block::{MAX_BLOCK_PROOFS, MAX_BLOCK_TXS, MAX_BODY_BYTES};
use crate::certificate::{Certificate, ValidatorId};
use crate::clock::{self, ClockError, ClockMode, LogicalClock, Tick};
use crate::ledger::{BlockError, CommitOutcome, Front, Ledger, LedgerError, Slot};
use crate::mempool::Mempool;
use crate::units::Epoch;

/// What the one validator signs with.
pub struct Keys {
    /// Signs blocks; must hold more than two thirds of the power in genesis.
    pub validator: SigningKey,
    /// Gives beacon rounds: the devnet's own signer, or a client of drand's relays.
    pub beacon: Box<dyn BeaconSource>,
}

/// Why the engine does not start.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The key alone cannot finalise blocks.
    #[error(
        "key {key} holds {power} of the {total} voting power that decides block {height}, and the solo engine needs more than two thirds; several validators go on with `holdfast chain run`"
    )]
    NoQuorum {
        /// The key.
        key: ValidatorId,
        /// The next block.
        height: u64,
        /// Its power.
        power: u64,
        /// Everybody's power.
        total: u64,
    },
    /// The ledger refused or failed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The operating system refused a thread.
    #[error("starting the engine's thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// Whether the chain moves.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum EngineStatus {
    /// Blocks are being made.
    Running,
    /// Asked to stop, and stopped.
    Stopped,
    /// Stopped by an error; the node must be restarted.
    Failed {
        /// What happened.
        why: String,
    },
}

/// What an engine and its [`EngineHandle`] share: the clock's leases, the wish to stop, the status. For every engine.
pub struct Control {
    inner: Mutex<Inner>,
    wake: Condvar,
    started: Instant,
    logical: bool,
}

struct Inner {
    clock: LogicalClock,
    stop: bool,
    status: EngineStatus,
}

impl Control {
    /// For a chain with this clock; the next block is due one epoch from now.
    pub fn new(mode: ClockMode) -> Arc<Self> {
        let inner = Inner {
            clock: LogicalClock::new(mode.epoch_ms(), 0),
            stop: false,
            status: EngineStatus::Running,
        };
        Arc::new(Self {
            inner: Mutex::new(inner),
            wake: Condvar::new(),
            started: Instant::now(),
            logical: matches!(mode, ClockMode::Logical { .. }),
        })
    }

    /// Whether the handle was told to stop.
    pub fn is_stopping(&self) -> bool {
        self.lock().stop
    }

    /// What the logical clock says when the newest block has epoch `parent`; `None` under a beacon clock, which cannot be held.
    pub fn tick(&self, parent: Epoch) -> Option<Tick> {
        let now = self.now_ms();
        self.logical.then(|| self.lock().clock.tick(parent, now))
    }

    /// The next block is due an epoch from now.
    pub fn made_block(&self) {
        self.update(|inner, now| inner.clock.made_block(now));
    }

    /// The engine's last word.
    pub fn ended(&self, status: EngineStatus) {
        self.update(|inner, _| inner.status = status);
    }

    /// Records a failure if the thread that holds it unwinds.
    pub fn guard(&self) -> StatusGuard<'_> {
        StatusGuard(self)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// Sleeps a moment, or until somebody wants something.
    fn pause(&self) {
        const MOMENT: Duration = Duration::from_millis(50);
        drop(self.wake.wait_timeout(self.lock(), MOMENT));
    }
    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }
    fn update<T>(&self, change: impl FnOnce(&mut Inner, u64) -> T) -> T {
        let result = change(&mut self.lock(), self.now_ms());
        self.wake.notify_all();
        result
    }
}

/// A running engine. Dropping it stops the chain.
pub struct EngineHandle {
    shared: Arc<Control>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl EngineHandle {
    /// Of an engine that runs in `thread` and looks at `control`.
    pub fn new(control: Arc<Control>, thread: JoinHandle<()>) -> Self {
        Self {
            shared: control,
            thread: Mutex::new(Some(thread)),
        }
    }

    /// Keeps the logical clock from going on for `ttl` (at most 10 minutes), because a proof of `provider` is unfinished.
    /// Call again to renew.
    pub fn hold(&self, provider: ProviderId, ttl: Duration) -> Result<(), ClockError> {
        self.hold_before(provider, Epoch(0), ttl)
    }

    /// As [`Self::hold`], but lets the clock go on up to the epoch before `epoch`: enough for a deadline that closes there.
    pub fn hold_before(
        &self,
        provider: ProviderId,
        epoch: Epoch,
        ttl: Duration,
    ) -> Result<(), ClockError> {
        if !self.shared.logical {
            return Err(ClockError::NotLogical);
        }
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        self.shared
            .update(|inner, now| inner.clock.hold(provider, epoch, ttl_ms, now))
    }

    /// Gives the lease back.
    pub fn release(&self, provider: ProviderId) {
        self.shared.update(|inner, _| inner.clock.release(provider));
    }

    /// Leases alive now: provider, milliseconds left, first epoch held back.
    pub fn leases(&self) -> Vec<(ProviderId, u64, Epoch)> {
        self.shared.lock().clock.leases(self.shared.now_ms())
    }

    /// Whether the chain moves.
    pub fn status(&self) -> EngineStatus {
        self.shared.lock().status.clone()
    }

    /// Stops after the block in progress and waits for it.
    pub fn stop(&self) {
        self.shared.update(|inner, _| inner.stop = true);
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            // A panic was recorded in the status by the thread's guard.
            drop(thread.join());
        }
    }
}

impl Drop for EngineHandle {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Starts making blocks.
pub fn start(
    ledger: Arc<Ledger>,
    mempool: Arc<Mempool>,
    keys: Keys,
) -> Result<EngineHandle, EngineError> {
    let key = ValidatorId(keys.validator.verifying_key().to_bytes());
    check_quorum(&ledger.front(), key)?;
    let shared = Control::new(ledger.genesis().genesis().clock);
    let maker = Maker {
        ledger,
        mempool,
        keys,
        id: key,
        since_ms: unix_ms(),
    };
    let thread = std::thread::Builder::new()
        .name("solo-engine".into())
        .spawn({
            let shared = shared.clone();
            move || run(&shared, maker)
        })?;
    Ok(EngineHandle::new(shared, thread))
}

/// Whether `key` alone decides the next block.
fn check_quorum(front: &Front, key: ValidatorId) -> Result<(), EngineError> {
    let height = front.tip.height + 1;
    let total = front.validators.total_power();
    let power = front.validators.power_of(&key).unwrap_or(0);
    // Powers are at most 2^53.
    match power * 3 > total * 2 {
        true => Ok(()),
        false => Err(EngineError::NoQuorum {
            key,
            height,
            power,
            total,
        }),
    }
}

/// Records a failure even if the thread unwinds; see [`Control::guard`].
pub struct StatusGuard<'a>(&'a Control);

impl Drop for StatusGuard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let why =
                "the engine's thread panicked; this is a fault of the program, please report it"
                    .into();
            self.0
                .update(|inner, _| inner.status = EngineStatus::Failed { why });
        }
    }
}

fn run(shared: &Control, mut maker: Maker) {
    let _guard = shared.guard();
    while let Some(epoch) = next_epoch(shared, &maker) {
        match maker.make_block() {
            Ok(true) => shared.made_block(),
            // A round that is not there yet, or a clock that stepped back: look again in a moment.
            Ok(false) => shared.pause(),
            Err(error) => {
                tracing::error!(%error, epoch = epoch.0, "the chain stops");
                let why = error.to_string();
                shared.ended(EngineStatus::Failed { why });
                return;
            }
        }
    }
    shared.ended(EngineStatus::Stopped);
}

/// Sleeps until a block is due; `None` when asked to stop.
fn next_epoch(shared: &Control, maker: &Maker) -> Option<Epoch> {
    let mut inner = shared.lock();
    loop {
        if inner.stop {
            return None;
        }
        let parent = maker.ledger.tip().epoch;
        let tick = match shared.logical {
            true => inner.clock.tick(parent, shared.now_ms()),
            false => clock::beacon_tick(maker.ledger.genesis().beacons(), parent, unix_ms()),
        };
        let wait = match tick {
            Tick::Due(epoch) => return Some(epoch),
            Tick::Wait(ms) | Tick::Held(ms) => Duration::from_millis(ms.max(1)),
        };
        inner = shared
            .wake
            .wait_timeout(inner, wait)
            .unwrap_or_else(PoisonError::into_inner)
            .0;
    }
}

struct Maker {
    ledger: Arc<Ledger>,
    mempool: Arc<Mempool>,
    keys: Keys,
    id: ValidatorId,
    /// When it began to ask for beacon rounds (Unix ms).
    since_ms: u64,
}

impl Maker {
    /// Whether a block was made: its beacon round may be worth waiting for.
    fn make_block(&mut self) -> Result<bool, EngineError> {
        let slot = self.slot()?;
        let (front, genesis, now) = (self.ledger.front(), self.ledger.genesis(), unix_ms());
        let tips = (front.tip.epoch, front.beacon_tip);
        let (mode, schedule) = (genesis.genesis().clock, genesis.beacons());
        let source = self.keys.beacon.as_mut();
        let due = clock::due(mode, schedule, source, tips, self.since_ms, now);
        let Some((epoch, beacons)) = due else {
            return Ok(false);
        };
        let view = self.ledger.view();
        let txs = self.mempool.select(
            &view,
            MAX_BLOCK_TXS,
            MAX_BODY_BYTES as u64,
            MAX_BLOCK_PROOFS,
        );
        let txs = txs.map_err(LedgerError::from)?;
        let block = self.ledger.build(slot, epoch, now, beacons, txs)?;
        let height = slot.height;
        let certificate = Certificate::single(
            &self.ledger.chain_id(),
            height,
            slot.round,
            block.id(),
            &self.keys.validator,
        );
        if let CommitOutcome::Committed(done) = self.ledger.commit(block, certificate)? {
            let ids: Vec<_> = done.outcomes.receipts.iter().map(|r| r.tx).collect();
            let forgotten = self.mempool.committed(height, &ids, &self.ledger.view());
            forgotten.map_err(LedgerError::from)?;
        }
        Ok(true)
    }

    /// This validator's first turn at the next height. Others who hold less than a third of the power together may be in the set;
    /// a solo engine passes their rounds over at once. When governance gave the power to others, it stops here: the same
    /// folder goes on under the bft engine (`consensus.md` §10).
    fn slot(&self) -> Result<Slot, EngineError> {
        let front = self.ledger.front();
        check_quorum(&front, self.id)?;
        let height = front.tip.height + 1;
        let mine = |round: &u32| front.validators.proposer(height, *round) == self.id;
        // With more than two thirds of the power every third turn at the latest is ours.
        let round = (0..8).find(mine).ok_or({
            let field = "proposer";
            LedgerError::Block(BlockError::Header { height, field })
        })?;
        Ok(Slot { height, round })
    }
}

/// Unix milliseconds by this machine's clock; a clock before 1970 counts as 1970.
fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::beacon::Entry;
    use crate::genesis::Genesis;
    use crate::ledger::tests::{beacon, genesis, open, transfer, user, validator};

    const LONG: Duration = Duration::from_secs(30);

    fn keys() -> Keys {
        Keys {
            validator: validator(),
            beacon: Box::new(beacon()),
        }
    }

    fn started(
        home: &std::path::Path,
        genesis: &Genesis,
    ) -> (Arc<Ledger>, Arc<Mempool>, EngineHandle) {
        let ledger = Arc::new(open(home, genesis).unwrap());
        let pool = Arc::new(Mempool::new(ledger.chain_id()));
        let engine = start(ledger.clone(), pool.clone(), keys()).unwrap();
        (ledger, pool, engine)
    }

    #[test]
    fn makes_blocks_takes_transactions_stops_and_goes_on() {
        let home = tempfile::tempdir().unwrap();
        let genesis = genesis(2);
        let (ledger, pool, engine) = started(home.path(), &genesis);
        let id = pool
            .submit(transfer(ledger.chain_id(), 0, 0, 1), 0, &ledger.view())
            .unwrap();
        let mut height = 0;
        while ledger.receipt(&id).unwrap().is_none() {
            let tip = ledger.wait_beyond(height, LONG);
            assert!(
                tip.height > height,
                "the chain stands: {:?}",
                engine.status()
            );
            height = tip.height;
        }
        assert!(ledger.receipt(&id).unwrap().unwrap().2.succeeded());
        // The receipt is readable a moment before the pool hears of the block; a stopped engine has told it.
        engine.stop();
        assert_eq!(engine.status(), EngineStatus::Stopped);
        assert!(pool.is_empty());
        let tip = ledger.tip();
        assert_eq!(
            ledger.wait_beyond(tip.height, Duration::from_millis(30)),
            tip,
            "stopped is stopped"
        );
        assert_eq!(tip.epoch.0, tip.height, "one block per epoch");
        drop((engine, ledger, pool));
        let (ledger, _pool, engine) = started(home.path(), &genesis);
        assert_eq!(ledger.summary().replayed, 0);
        assert!(ledger.wait_beyond(tip.height, LONG).height > tip.height);
        drop(engine);
    }

    #[test]
    fn a_lease_stands_the_clock_still_until_released() {
        let home = tempfile::tempdir().unwrap();
        let (ledger, _pool, engine) = started(home.path(), &genesis(1));
        ledger.wait_beyond(2, LONG);
        engine
            .hold(ProviderId(1000), Duration::from_secs(600))
            .unwrap();
        assert_eq!(engine.leases().len(), 1);
        // The block in progress, if any, may still come, late on a busy machine; after it the clock stands.
        let last = ledger.tip().height + 1;
        assert!(ledger.wait_beyond(last, Duration::from_millis(200)).height <= last);
        assert!(
            engine
                .hold(ProviderId(1000), Duration::from_secs(601))
                .is_err()
        );
        // Before the other is released: the clock must not run past it meanwhile.
        let until = Epoch(ledger.tip().epoch.0 + 40);
        engine
            .hold_before(ProviderId(1001), until, Duration::from_secs(600))
            .unwrap();
        engine.release(ProviderId(1000));
        assert!(ledger.wait_beyond(last, LONG).height > last);
        assert!(ledger.wait_beyond(until.0 - 2, LONG).epoch < until);
        std::thread::sleep(Duration::from_millis(100));
        assert!(
            ledger.tip().epoch < until,
            "goes on up to the named epoch and no further"
        );
        engine.stop();
    }

    #[test]
    fn a_key_without_quorum_does_not_start() {
        let home = tempfile::tempdir().unwrap();
        let ledger = Arc::new(open(home.path(), &genesis(1)).unwrap());
        let pool = Arc::new(Mempool::new(ledger.chain_id()));
        let stranger = Keys {
            validator: user(3),
            ..keys()
        };
        assert!(matches!(
            start(ledger, pool, stranger),
            Err(EngineError::NoQuorum { power: 0, .. })
        ));
    }

    /// A source that never knows a round.
    struct Silent;
    impl BeaconSource for Silent {
        fn round(&mut self, _: Epoch, _: u64) -> Option<Entry> {
            None
        }
    }

    /// A source that answers wrongly for a while: another round's signature, then another round.
    struct Liar(u32);
    impl BeaconSource for Liar {
        fn round(&mut self, _: Epoch, round: u64) -> Option<Entry> {
            self.0 += 1;
            let other = beacon().sign(round + 1);
            Some(match self.0 {
                1..=2 => Entry { round, ..other },
                3..=4 => other,
                _ => beacon().sign(round),
            })
        }
    }

    #[test]
    fn tm_v5_a_source_that_lies_delays_the_chain_and_does_not_end_it() {
        let home = tempfile::tempdir().unwrap();
        let ledger = Arc::new(open(home.path(), &genesis(1)).unwrap());
        let pool = Arc::new(Mempool::new(ledger.chain_id()));
        let liar = Keys {
            beacon: Box::new(Liar(0)),
            ..keys()
        };
        let engine = start(ledger.clone(), pool, liar).unwrap();
        assert!(
            ledger.wait_beyond(2, LONG).height > 2,
            "{:?}",
            engine.status()
        );
        assert_eq!(engine.status(), EngineStatus::Running);
        engine.stop();
    }

    /// Under the beacon's clock the engine begins at the present epoch, however long ago genesis was, and carries the rounds.
    #[test]
    fn the_beacon_clock_jumps_to_the_present_and_brings_its_rounds() {
        let home = tempfile::tempdir().unwrap();
        let mut genesis = genesis(1);
        let ago = unix_ms() / 1_000 - 100;
        let params = &mut genesis.beacons[0];
        (params.period, params.genesis_time) = (1, i64::try_from(ago).unwrap());
        params.chain_hash = params.compute_chain_hash();
        genesis.clock = ClockMode::Beacon { epoch_ms: 1_000 };
        genesis.time_ms = ago * 1_000;
        let (ledger, _pool, engine) = started(home.path(), &genesis);
        let first = ledger.wait_beyond(0, LONG);
        assert!(
            first.epoch >= Epoch(100),
            "{:?} {:?}",
            first,
            engine.status()
        );
        // Signing a hundred rounds may take it into the next epoch; the next block brings the rest.
        assert!(ledger.beacon_tip().unwrap() >= Epoch(100));
        let second = ledger.wait_beyond(first.height, LONG);
        assert!(second.epoch > first.epoch, "{:?}", engine.status());
        engine.stop();
        assert!(ledger.beacon_tip().unwrap() > first.epoch);
    }

    #[test]
    fn a_missing_round_delays_and_faults_nobody() {
        let home = tempfile::tempdir().unwrap();
        let genesis = genesis(1);
        let ledger = Arc::new(open(home.path(), &genesis).unwrap());
        let pool = Arc::new(Mempool::new(ledger.chain_id()));
        let silent = Keys {
            beacon: Box::new(Silent),
            ..keys()
        };
        let engine = start(ledger.clone(), pool.clone(), silent).unwrap();
        assert_eq!(ledger.wait_beyond(0, Duration::from_millis(300)).height, 0);
        assert_eq!(engine.status(), EngineStatus::Running);
        engine.stop();
        let engine = start(ledger.clone(), pool, keys()).unwrap();
        assert!(ledger.wait_beyond(2, LONG).height > 2);
        engine.stop();
        assert_eq!(ledger.beacon_tip().unwrap(), ledger.tip().epoch);
    }
}
