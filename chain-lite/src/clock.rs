//! Which epoch the next block belongs to, and when it may be made. Pure: milliseconds come in, a decision goes out.
//!
//! Walk: [`crate::engine::solo`] asks before every block. Two modes, fixed in genesis (`DESIGN.md` §5):
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
use crate::beacon::BeaconSchedule;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::beacon::BeaconParams;

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
}
