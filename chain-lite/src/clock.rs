//! Which epoch the next block belongs to, and when it may be made. Pure: milliseconds come in, a decision goes out.
//!
//! Walk: every engine asks [`due`] before every block. Two modes, fixed in genesis (`DESIGN.md` §5):
//! * **logical** (devnet, demo): one block per epoch, epoch = parent + 1, the next one `epoch_ms` later. It stands still
//!   while the node is down, and providers of the devnet hold it by short leases while a proof of theirs is
//!   unfinished, so that a slow laptop never turns slowness into a fault;
//! * **beacon** (public networks): epoch `e` begins at the time of drand's round R(e), `spec/beacon.md` §3.
//!
//! Crash: leases live in memory. After a restart the clock stands until the first block is due again, so a provider that
//! renews (every ttl/3, say) loses nothing.
//! Bounds: [`MAX_LEASES`] leases of at most [`MAX_LEASE_MS`] each; a lease that nobody renews runs out by itself.

use std::collections::BTreeMap;

use borsh::{BorshDeserialize, BorshSerialize};

use crate::account::ProviderId;
use crate::beacon::{BeaconSchedule, BeaconSource, Entry, MAX_ENTRIES};
use crate::units::Epoch;

/// Longest lease: 10 minutes (`DESIGN.md` §5). A longer proof renews it.
pub const MAX_LEASE_MS: u64 = 10 * 60 * 1000;
/// Most leases at once; a devnet has far fewer providers.
pub const MAX_LEASES: usize = 1024;

/// How a chain's epochs follow time; part of genesis.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    BorshSerialize,
    BorshDeserialize,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum ClockMode {
    /// One block per epoch, `epoch_ms` apart, standing still while the node is down.
    Logical {
        /// Milliseconds from one block to the next (unit: ms; the demo uses 100, a devnet 2,000).
        epoch_ms: u64,
    },
    /// Epoch `e` begins when drand publishes R(e).
    Beacon {
        /// Milliseconds of one epoch; must equal rounds per epoch × period.
        epoch_ms: u64,
    },
}

impl ClockMode {
    /// Milliseconds of one epoch.
    pub fn epoch_ms(&self) -> u64 {
        match self {
            Self::Logical { epoch_ms } | Self::Beacon { epoch_ms } => *epoch_ms,
        }
    }
}

/// Why a lease was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClockError {
    /// The lease is longer than allowed.
    #[error("a clock lease lasts at most {} minutes, {asked_ms} ms were asked for; renew it while the proof runs", MAX_LEASE_MS / 60_000)]
    TooLong {
        /// Milliseconds asked for.
        asked_ms: u64,
    },
    /// Too many leases.
    #[error("{MAX_LEASES} providers hold the clock already")]
    TooMany,
    /// Only a logical clock can be held.
    #[error("this network's clock follows drand and cannot be held")]
    NotLogical,
}

/// What the engine should do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tick {
    /// Make a block of this epoch.
    Due(Epoch),
    /// Nothing to do for this many milliseconds (sooner when a lease is released).
    Wait(u64),
    /// Due, but held by leases; look again after this many milliseconds or when a lease is released.
    Held(u64),
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    until_ms: u64,
    /// First epoch that must not begin while the lease lives.
    before: Epoch,
}

/// The logical clock's machine.
#[derive(Clone, Debug)]
pub struct LogicalClock {
    epoch_ms: u64,
    /// When the last block was made, on the caller's monotonic scale; the clock starts one epoch before the first.
    last_ms: u64,
    leases: BTreeMap<ProviderId, Lease>,
}

impl LogicalClock {
    /// A clock whose next block is due one epoch after `now_ms`.
    pub fn new(epoch_ms: u64, now_ms: u64) -> Self {
        Self {
            epoch_ms: epoch_ms.max(1),
            last_ms: now_ms,
            leases: BTreeMap::new(),
        }
    }

    /// Keeps epoch `before` and all later ones from beginning until `ttl_ms` from now, or until [`Self::release`].
    ///
    /// Holding again renews: the later end and the earlier epoch count. `Epoch(0)` stops the clock at once; naming the
    /// deadline's close lets everybody else go on until then.
    pub fn hold(
        &mut self,
        provider: ProviderId,
        before: Epoch,
        ttl_ms: u64,
        now_ms: u64,
    ) -> Result<(), ClockError> {
        if ttl_ms > MAX_LEASE_MS {
            return Err(ClockError::TooLong { asked_ms: ttl_ms });
        }
        self.expire(now_ms);
        if self.leases.len() >= MAX_LEASES && !self.leases.contains_key(&provider) {
            return Err(ClockError::TooMany);
        }
        let new = Lease {
            until_ms: now_ms.saturating_add(ttl_ms),
            before,
        };
        let lease = self.leases.entry(provider).or_insert(new);
        *lease = Lease {
            until_ms: lease.until_ms.max(new.until_ms),
            before: lease.before.min(new.before),
        };
        Ok(())
    }

    /// Gives the lease back; unknown providers are fine.
    pub fn release(&mut self, provider: ProviderId) {
        self.leases.remove(&provider);
    }

    /// Leases alive at `now_ms`: provider, milliseconds left, first epoch held back.
    pub fn leases(&self, now_ms: u64) -> Vec<(ProviderId, u64, Epoch)> {
        let alive = self.leases.iter().filter(|(_, l)| l.until_ms > now_ms);
        alive
            .map(|(p, l)| (*p, l.until_ms - now_ms, l.before))
            .collect()
    }

    /// What to do now, when the newest block has epoch `parent`.
    pub fn tick(&mut self, parent: Epoch, now_ms: u64) -> Tick {
        self.expire(now_ms);
        let due = self.last_ms.saturating_add(self.epoch_ms);
        if now_ms < due {
            return Tick::Wait(due - now_ms);
        }
        let next = parent.next();
        match self
            .leases
            .values()
            .filter(|l| l.before <= next)
            .map(|l| l.until_ms)
            .max()
        {
            Some(until) => Tick::Held(until - now_ms),
            None => Tick::Due(next),
        }
    }

    /// Notes that a block was made: the next one is due a full epoch later. Time lost while held is not caught up.
    pub fn made_block(&mut self, now_ms: u64) {
        self.last_ms = now_ms;
    }

    fn expire(&mut self, now_ms: u64) {
        self.leases.retain(|_, lease| lease.until_ms > now_ms);
    }
}

/// The beacon clock: the epoch at Unix time `unix_ms`, or `None` before epoch 1 begins.
pub fn beacon_epoch(schedule: &BeaconSchedule, unix_ms: u64) -> Option<Epoch> {
    let begun = |e: u64| schedule.time_ms_of(Epoch(e)).is_some_and(|t| t <= unix_ms);
    if !begun(1) {
        return None;
    }
    // Starts of epochs ascend (genesis checks that), so bisect; 64 steps at most.
    let (mut low, mut high) = (1u64, u64::MAX);
    while low + 1 < high {
        let mid = low + (high - low) / 2;
        if begun(mid) { low = mid } else { high = mid }
    }
    Some(Epoch(low))
}

/// Whether a block of `epoch`, stamped `time_ms`, may follow one of `parent`: the next epoch under the logical clock, the epoch
/// of its time under the beacon's. A block stamped into the past would know its own seeds, and one whose stamp and epoch
/// disagree could have any epoch.
pub fn follows(
    mode: ClockMode,
    schedule: &BeaconSchedule,
    parent: Epoch,
    epoch: Epoch,
    time_ms: u64,
) -> bool {
    match mode {
        ClockMode::Logical { .. } => epoch == parent.next(),
        ClockMode::Beacon { .. } => {
            epoch > parent && beacon_epoch(schedule, time_ms) == Some(epoch)
        }
    }
}

/// The beacon clock's decision when the newest block has epoch `parent`: jump to the present epoch, never stamp a block
/// into the past (its maker would know its seeds).
pub fn beacon_tick(schedule: &BeaconSchedule, parent: Epoch, unix_ms: u64) -> Tick {
    match beacon_epoch(schedule, unix_ms) {
        Some(now) if now > parent => Tick::Due(now),
        now => {
            let next = now.map_or(Epoch(1), |e| e.max(parent).next());
            let wait = schedule
                .time_ms_of(next)
                .map_or(1000, |t| t.saturating_sub(unix_ms));
            // A clock that stands wrong is corrected at last after a minute.
            Tick::Wait(wait.clamp(1, 60_000))
        }
    }
}

/// Epoch and beacon entries of the block that a proposer makes at `unix_ms`, for every engine; `None` while it has to wait.
///
/// `tips` are the epochs of the newest block and of the newest beacon on chain. A logical epoch waits for its own round, because
/// its rules need the value. Under the beacon's clock a proposer waits for R(e) until a quarter of the epoch is over, then goes on
/// with what is there (`beacon.md` §3): a missing round delays, it stops nobody. `first_look_ms` is when this process asked for the
/// first time: a source that has to fetch began no earlier, so that a restart within an epoch gives it its quarter too, unless half
/// of the epoch was over; else the first block after a restart would make its epoch dark. Nothing else depends on what the
/// clock said before, so one that steps back only delays, by half an epoch at most for the first look.
pub fn due(
    mode: ClockMode,
    schedule: &BeaconSchedule,
    source: &mut dyn BeaconSource,
    tips: (Epoch, Epoch),
    first_look_ms: u64,
    unix_ms: u64,
) -> Option<(Epoch, Vec<Entry>)> {
    let (parent, beacon_tip) = tips;
    let epoch = match mode {
        ClockMode::Logical { .. } => parent.next(),
        ClockMode::Beacon { .. } => match beacon_tick(schedule, parent, unix_ms) {
            Tick::Due(epoch) => epoch,
            Tick::Wait(_) | Tick::Held(_) => return None,
        },
    };
    let entries = schedule.gather(source, beacon_tip, epoch);
    let complete = beacon_tip.0 + entries.len() as u64 >= epoch.0;
    let ready = match mode {
        ClockMode::Logical { .. } => complete,
        ClockMode::Beacon { epoch_ms } => {
            let patience = schedule.time_ms_of(epoch).map_or(0, |start| {
                let from = first_look_ms.clamp(start, start.saturating_add(epoch_ms / 2));
                from.saturating_add(epoch_ms / 4)
            });
            complete || entries.len() == MAX_ENTRIES || unix_ms >= patience
        }
    };
    ready.then_some((epoch, entries))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::beacon::{BeaconParams, DevnetSigner};

    fn p(id: u64) -> ProviderId {
        ProviderId(id)
    }

    #[test]
    fn one_block_per_epoch_and_lost_time_is_not_caught_up() {
        let mut clock = LogicalClock::new(100, 1000);
        assert_eq!(clock.tick(Epoch(0), 1000), Tick::Wait(100));
        assert_eq!(clock.tick(Epoch(0), 1099), Tick::Wait(1));
        assert_eq!(clock.tick(Epoch(0), 1100), Tick::Due(Epoch(1)));
        assert_eq!(
            clock.tick(Epoch(0), 900_000),
            Tick::Due(Epoch(1)),
            "an hour of sleep is still one epoch"
        );
        clock.made_block(900_000);
        assert_eq!(clock.tick(Epoch(1), 900_050), Tick::Wait(50));
        assert_eq!(clock.tick(Epoch(1), 900_100), Tick::Due(Epoch(2)));
    }

    #[test]
    fn leases_hold_the_clock_are_renewed_and_run_out() {
        let mut clock = LogicalClock::new(100, 0);
        clock.hold(p(1), Epoch(0), 5_000, 50).unwrap();
        clock.hold(p(2), Epoch(0), 1_000, 50).unwrap();
        assert_eq!(clock.tick(Epoch(0), 100), Tick::Held(4_950));
        clock.release(p(1));
        assert_eq!(clock.tick(Epoch(0), 100), Tick::Held(950));
        clock.hold(p(2), Epoch(0), 1_000, 900).unwrap();
        assert_eq!(clock.tick(Epoch(0), 1_899), Tick::Held(1), "renewed");
        assert_eq!(
            clock.tick(Epoch(0), 1_900),
            Tick::Due(Epoch(1)),
            "and run out: a dead prover stops nobody"
        );
        assert_eq!(clock.leases(1_900), vec![]);
        clock.hold(p(3), Epoch(0), 1_000, 2_000).unwrap();
        clock.hold(p(3), Epoch(0), 10, 2_001).unwrap();
        assert_eq!(
            clock.leases(2_001),
            vec![(p(3), 999, Epoch(0))],
            "a shorter renewal does not shorten"
        );
        clock.release(p(9));
    }

    #[test]
    fn a_lease_may_name_the_epoch_that_must_not_begin() {
        let mut clock = LogicalClock::new(100, 0);
        clock.hold(p(1), Epoch(7), 60_000, 0).unwrap();
        assert_eq!(clock.tick(Epoch(5), 100), Tick::Due(Epoch(6)));
        assert_eq!(clock.tick(Epoch(6), 200), Tick::Held(59_800));
        clock.release(p(1));
        assert_eq!(clock.tick(Epoch(6), 200), Tick::Due(Epoch(7)));
    }

    #[test]
    fn leases_are_bounded() {
        let mut clock = LogicalClock::new(100, 0);
        assert_eq!(
            clock.hold(p(1), Epoch(0), MAX_LEASE_MS + 1, 0),
            Err(ClockError::TooLong {
                asked_ms: MAX_LEASE_MS + 1
            })
        );
        for i in 0..MAX_LEASES as u64 {
            clock.hold(p(i), Epoch(0), MAX_LEASE_MS, 0).unwrap();
        }
        assert_eq!(
            clock.hold(p(5000), Epoch(0), 1, 1),
            Err(ClockError::TooMany)
        );
        assert!(
            clock.hold(p(5), Epoch(0), MAX_LEASE_MS, 1).is_ok(),
            "a holder may always renew"
        );
        assert!(
            clock.hold(p(5000), Epoch(0), 1, MAX_LEASE_MS + 1).is_ok(),
            "old ones ran out"
        );
    }

    #[test]
    fn tm_h6_the_beacon_clock_follows_the_rounds_and_jumps_over_downtime() {
        let params = BeaconParams::quicknet(0, 1000);
        let start = |e: u64| params.time_of_round(1000 + 10 * e).unwrap() as u64 * 1000;
        let schedule = BeaconSchedule::new(std::slice::from_ref(&params), Some(30_000)).unwrap();
        assert_eq!(beacon_epoch(&schedule, 0), None);
        assert_eq!(beacon_epoch(&schedule, start(1) - 1), None);
        assert_eq!(beacon_epoch(&schedule, start(1)), Some(Epoch(1)));
        assert_eq!(
            beacon_epoch(&schedule, start(121) + 29_999),
            Some(Epoch(121))
        );
        assert_eq!(
            beacon_tick(&schedule, Epoch(1), start(121)),
            Tick::Due(Epoch(121))
        );
        assert_eq!(
            beacon_tick(&schedule, Epoch(121), start(121)),
            Tick::Wait(30_000)
        );
        assert_eq!(
            beacon_tick(&schedule, Epoch(121), start(122) - 5),
            Tick::Wait(5)
        );
        // A clock set back by an hour only delays.
        assert!(matches!(
            beacon_tick(&schedule, Epoch(121), start(1)),
            Tick::Wait(_)
        ));
    }

    /// Knows rounds up to one; answers another with a wrong signature; remembers what it was asked.
    struct Source {
        key: DevnetSigner,
        newest: u64,
        wrong: Option<u64>,
        asked: Vec<u64>,
        settled: Epoch,
    }

    impl BeaconSource for Source {
        fn round(&mut self, epoch: Epoch, round: u64) -> Option<Entry> {
            assert_eq!(epoch.0, round, "of a devnet");
            self.asked.push(round);
            let mut entry = self.key.sign(round);
            if self.wrong == Some(round) {
                entry.sig = self.key.sign(round + 1).sig;
            }
            (round <= self.newest).then_some(entry)
        }
        fn settled(&mut self, tip: Epoch) {
            self.settled = tip;
        }
    }

    /// A schedule with epochs of 2 s, the first beginning at 1,000 s, and its source.
    fn devnet() -> (BeaconSchedule, Source) {
        let key = DevnetSigner::from_seed(&[3; 32]);
        let schedule = BeaconSchedule::new(&[BeaconParams::devnet(&key, 1_000)], None).unwrap();
        let source = Source {
            key,
            newest: u64::MAX,
            wrong: None,
            asked: vec![],
            settled: Epoch(0),
        };
        (schedule, source)
    }

    const BEACON: ClockMode = ClockMode::Beacon { epoch_ms: 2_000 };
    const LOGICAL: ClockMode = ClockMode::Logical { epoch_ms: 2_000 };

    fn rounds(due: Option<(Epoch, Vec<Entry>)>) -> Option<(u64, Vec<u64>)> {
        due.map(|(epoch, entries)| (epoch.0, entries.iter().map(|e| e.round).collect()))
    }

    #[test]
    fn a_proposer_waits_a_quarter_of_an_epoch_for_its_round_and_a_logical_one_for_ever() {
        let (schedule, mut source) = devnet();
        let start = |epoch: u64| 1_000_000 + (epoch - 1) * 2_000;
        let at = |source: &mut Source, mode, ms| {
            rounds(due(mode, &schedule, source, (Epoch(4), Epoch(3)), 0, ms))
        };
        // Round 5 is late.
        source.newest = 4;
        assert_eq!(at(&mut source, BEACON, start(5) - 1), None, "not due");
        assert_eq!(at(&mut source, BEACON, start(5)), None);
        assert_eq!(at(&mut source, BEACON, start(5) + 499), None);
        assert_eq!(at(&mut source, BEACON, start(5) + 500), Some((5, vec![4])));
        assert_eq!(at(&mut source, LOGICAL, start(9)), None);
        assert_eq!(source.settled, Epoch(3));
        // It comes in time.
        source.newest = 5;
        assert_eq!(at(&mut source, BEACON, start(5) + 1), Some((5, vec![4, 5])));
        assert_eq!(at(&mut source, LOGICAL, 0), Some((5, vec![4, 5])));
    }

    /// A source that asks relays knows nothing yet when its process starts.
    #[test]
    fn after_a_restart_within_an_epoch_a_proposer_waits_a_quarter_for_its_round_too() {
        let (schedule, mut source) = devnet();
        let start = 1_008_000;
        let mut ready = |first_look, at| {
            source.newest = 4;
            let tips = (Epoch(4), Epoch(3));
            due(BEACON, &schedule, &mut source, tips, first_look, at).is_some()
        };
        // Started when nobody who ran on would wait any more.
        assert!(!ready(start + 900, start + 900));
        assert!(!ready(start + 900, start + 1_399));
        assert!(ready(start + 900, start + 1_400));
        // In its second half the epoch is not waited for beyond three quarters.
        assert!(!ready(start + 1_300, start + 1_300));
        assert!(!ready(start + 1_300, start + 1_499));
        assert!(ready(start + 1_300, start + 1_500));
        assert!(ready(start + 1_900, start + 1_900));
        // A first look before the epoch gives nothing, and one that a clock put into the future costs half an epoch.
        assert!(ready(start - 1_000_000, start + 500));
        assert!(!ready(u64::MAX, start + 1_499) && ready(u64::MAX, start + 1_500));
    }

    #[test]
    fn tm_h6_a_clock_that_steps_back_between_two_looks_only_delays() {
        let (schedule, mut source) = devnet();
        let mut at = |ms| {
            rounds(due(
                BEACON,
                &schedule,
                &mut source,
                (Epoch(4), Epoch(4)),
                0,
                ms,
            ))
        };
        assert_eq!(at(1_010_000), Some((6, vec![5, 6])));
        assert_eq!(at(1_008_000), Some((5, vec![5])));
        assert_eq!(at(1_007_999), None);
        assert_eq!(at(0), None);
    }

    #[test]
    fn tm_v5_a_source_that_lies_counts_as_one_that_does_not_know() {
        let (schedule, mut source) = devnet();
        let at = |source: &mut Source, ms| {
            rounds(due(BEACON, &schedule, source, (Epoch(4), Epoch(2)), 0, ms))
        };
        source.wrong = Some(4);
        assert_eq!(at(&mut source, 1_008_000), None, "it may come yet");
        assert_eq!(source.asked, [3, 4, 5], "behind the gap too");
        assert_eq!(at(&mut source, 1_008_500), Some((5, vec![3])));
        source.wrong = None;
        assert_eq!(at(&mut source, 1_008_500), Some((5, vec![3, 4, 5])));
    }

    #[test]
    fn after_a_long_outage_a_block_carries_as_many_rounds_as_it_may() {
        let (schedule, mut source) = devnet();
        let at = 1_000_000 + 2_000 * 999;
        let (epoch, entries) =
            due(BEACON, &schedule, &mut source, (Epoch(1), Epoch(1)), 0, at).unwrap();
        assert_eq!((epoch, entries.len()), (Epoch(1_000), MAX_ENTRIES));
        assert_eq!(source.asked.len(), MAX_ENTRIES, "and asks for no more");
    }
}
