//! Proving periods, deadlines and when each one opens (`chain.md` §7), and where a new sector goes.
//!
//! A provider with offset `o` has deadline `d` open in `[o + d·W, o + (d+1)·W)` modulo the proving period. "Its deadline"
//! in a rule is the current occurrence while it is open, else the next. Pure arithmetic on epochs; no state but counts, and
//! what an outage left behind: a window lasts `W` lit epochs ([`crate::lit`]), and one that is still open when its next
//! occurrence opens absorbs it (`beacon.md` §3). The deadline's leaf then says which occurrence is pending.
//!
//! ```text
//!   open-cutoff      open-lookback   open                 close
//! ──────┼──────────────────┼──────────┼─────────────────────┼────
//!  last │ declarations     │ challenge│  proof accepted     │ unproven sectors
//!  epoch before             drawn                            become faulty
//! ```

use serde::{Deserialize, Serialize};

use super::Occurrence;
use crate::error::{ChainError, Rule, Subject};
use crate::lit::Runs;
use crate::params::ChainParams;
use crate::provider::Provider;
use crate::units::{Epoch, EpochCount};

/// One occurrence of a deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// First epoch of the window; its challenge is that of [`Window::challenge`].
    pub open: Epoch,
    /// First epoch after it, in which faults are counted.
    pub close: Epoch,
    /// Epoch whose randomness chooses the leaves.
    pub challenge: Epoch,
    /// First epoch in which faults and recoveries can no longer be declared for it.
    pub declare_until: Epoch,
}

/// A provider's deadlines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    offset: u64,
    period: u64,
    window: u64,
    count: u16,
    lookback: EpochCount,
    cutoff: EpochCount,
}

impl Schedule {
    /// The schedule of a provider with this offset.
    pub fn new(params: &ChainParams, offset: EpochCount) -> Self {
        let period = params.proving_period.0.max(1);
        Self {
            offset: offset.0 % period,
            period,
            window: params.window().0.max(1),
            count: params.deadlines,
            lookback: params.post_lookback,
            cutoff: params.fault_cutoff,
        }
    }

    /// The schedule of a provider.
    pub fn of(params: &ChainParams, provider: &Provider) -> Self {
        Self::new(params, provider.offset)
    }

    /// Epochs since deadline `d` last opened.
    fn phase(&self, now: Epoch, deadline: u16) -> u64 {
        let opens = (self.offset + u64::from(deadline) * self.window) % self.period;
        (now.0 % self.period + self.period - opens) % self.period
    }

    /// The current occurrence of a deadline while it is open, else the next.
    pub fn window(&self, now: Epoch, deadline: u16) -> Window {
        let phase = self.phase(now, deadline);
        let open = if phase < self.window {
            now.before(EpochCount(phase))
        } else {
            now.after(EpochCount(self.period - phase))
        };
        self.with_margins(Occurrence {
            open,
            close: open.after(EpochCount(self.window)),
        })
    }

    fn with_margins(&self, Occurrence { open, close }: Occurrence) -> Window {
        Window {
            open,
            close,
            challenge: open.before(self.lookback),
            declare_until: open.before(self.cutoff),
        }
    }

    /// The current occurrence of a deadline while it is open, else the next, outages taken into account.
    pub fn occurrence(&self, now: Epoch, index: u16, deadline: &super::Deadline) -> Window {
        match deadline.pending {
            Some(pending) => self.with_margins(pending),
            None => self.window(now, index),
        }
    }

    /// The occurrences of a deadline in which a proof at `now` may have been accepted, newest first: the scheduled one, and after an
    /// outage older ones whose windows had not had their lit epochs. For whoever knows the outages and not the deadline's leaf of
    /// then; at most one without an outage. `None` where the outages are not known far enough back.
    pub fn may_be_open(&self, now: Epoch, index: u16, outages: &Runs) -> Option<Vec<Window>> {
        let mut found = Vec::new();
        let mut open = now.0.checked_sub(self.phase(now, index)).map(Epoch);
        while let Some(at) = open {
            if outages.lit(at, now)? >= self.window {
                break;
            }
            let close = at.after(EpochCount(self.window));
            found.push(self.with_margins(Occurrence { open: at, close }));
            open = at.0.checked_sub(self.period).map(Epoch);
        }
        Some(found)
    }

    /// The newest epoch up to `now` at which an occurrence may have been open.
    pub fn last_open(&self, now: Epoch, index: u16, outages: &Runs) -> Option<Epoch> {
        let open = Epoch(now.0.checked_sub(self.phase(now, index))?);
        // Lit epochs only grow, so bisect for the last at which the window had too few.
        let (mut low, mut high) = (open.0, now.0.saturating_add(1));
        while low + 1 < high {
            let middle = low + (high - low) / 2;
            match outages.lit(open, Epoch(middle))? < self.window {
                true => low = middle,
                false => high = middle,
            }
        }
        Some(Epoch(low))
    }

    /// The opening of the newest occurrence that is certainly over at `now`: whoever is active was proven since. That is the newest
    /// that had its lit epochs, unless an older one may have been open still when it opened, and absorbed it. `None` where the
    /// outages are not known far enough back, [`Epoch`] 0 where no occurrence was.
    pub fn last_over(&self, now: Epoch, index: u16, outages: &Runs) -> Option<Epoch> {
        let mut open = now.0.checked_sub(self.phase(now, index)).map(Epoch);
        while let Some(at) = open {
            let before = at.0.checked_sub(self.period).map(Epoch);
            let over = outages.lit(at, now)? >= self.window;
            let alone = match before {
                Some(before) => outages.lit(before, at)? >= self.window,
                None => true,
            };
            if over && alone {
                return Some(at);
            }
            open = before;
        }
        Some(Epoch(0))
    }

    /// The occurrence that closes at `now`.
    pub(crate) fn closing(&self, now: Epoch, deadline: &super::Deadline) -> Window {
        self.with_margins(deadline.pending.unwrap_or(Occurrence {
            open: now.before(EpochCount(self.window)),
            close: now,
        }))
    }

    /// After a close at `now`: the first occurrence that has not begun, and whether the schedule alone would say so.
    pub(crate) fn after_close(&self, now: Epoch, index: u16) -> (Occurrence, bool) {
        let Window { open, close, .. } = self.window(now, index);
        if open >= now {
            return (Occurrence { open, close }, true);
        }
        let period = EpochCount(self.period);
        let (open, close) = (open.after(period), close.after(period));
        (Occurrence { open, close }, false)
    }

    /// Length of a window in lit epochs.
    pub(crate) const fn window_span(&self) -> EpochCount {
        EpochCount(self.window)
    }

    /// The deadline that is open now.
    pub fn open_deadline(&self, now: Epoch) -> u16 {
        // The first `count` windows cover the period exactly (`ChainParams::check`).
        let index = self.phase(now, 0) / self.window;
        u16::try_from(index)
            .expect("the period is at most 2^16 windows long")
            .min(self.count.saturating_sub(1))
    }

    /// Whether a deadline is neither open nor next: its partitions may change (`chain.md` §7).
    pub fn is_mutable(&self, now: Epoch, index: u16, deadline: &super::Deadline) -> bool {
        let open = self.occurrence(now, index, deadline).open;
        now < open.before(EpochCount(self.window))
    }

    /// Refuses a change of a deadline's partitions while it is open or next.
    pub(crate) fn require_mutable(
        &self,
        now: Epoch,
        index: u16,
        deadline: &super::Deadline,
    ) -> Rule<()> {
        let window = self.occurrence(now, index, deadline);
        self.require_before(now, window, EpochCount(self.window))
    }

    /// Refuses a declaration after its cut-off; gives the occurrence it is for.
    pub(crate) fn require_declarable(
        &self,
        now: Epoch,
        index: u16,
        deadline: &super::Deadline,
    ) -> Rule<Window> {
        let window = self.occurrence(now, index, deadline);
        self.require_before(now, window, self.cutoff)?;
        Ok(window)
    }

    fn require_before(&self, now: Epoch, window: Window, margin: EpochCount) -> Rule<()> {
        if now < window.open.before(margin) {
            return Ok(());
        }
        let until = window.open.after(EpochCount(self.period)).before(margin);
        Err(ChainError::DeadlineClosed {
            from: window.close,
            until,
            now,
        }
        .into())
    }

    /// Refuses a proof outside its deadline's window; gives the window.
    pub(crate) fn require_open(
        &self,
        now: Epoch,
        index: u16,
        deadline: &super::Deadline,
    ) -> Rule<Window> {
        if index >= self.count {
            let max = u128::from(self.count.saturating_sub(1));
            return Err(ChainError::OutOfBounds {
                what: Subject::Deadline,
                value: index.into(),
                min: 0,
                max,
            }
            .into());
        }
        let window = self.occurrence(now, index, deadline);
        if now < window.open {
            return Err(ChainError::DeadlineClosed {
                from: window.open,
                until: window.close,
                now,
            }
            .into());
        }
        Ok(window)
    }
}

/// Where a new sector goes: among the deadlines that may change, the one with fewest sectors (ties to the lowest
/// index); in it the first partition with a free slot, else a new one.
pub(crate) fn assign(
    schedule: &Schedule,
    now: Epoch,
    deadlines: &[super::Deadline],
    partition_size: u32,
    max_partitions: u32,
) -> Option<(u16, u32)> {
    let mut best: Option<(u64, u16, u32)> = None;
    for (index, deadline) in (0u16..).zip(deadlines) {
        if !schedule.is_mutable(now, index, deadline) {
            continue;
        }
        let free = deadline
            .partitions
            .iter()
            .position(|&count| count < partition_size);
        let Ok(slot) = u32::try_from(free.unwrap_or(deadline.partitions.len())) else {
            continue;
        };
        let candidate = (deadline.sectors(), index, slot);
        if slot < max_partitions && best.is_none_or(|best| candidate < best) {
            best = Some(candidate);
        }
    }
    best.map(|(_, deadline, partition)| (deadline, partition))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sector::Deadline;

    fn devnet(offset: u64) -> Schedule {
        Schedule::new(&ChainParams::devnet(), EpochCount(offset))
    }

    #[test]
    fn windows_of_the_devnet() {
        // Offset 5, W 20, PP 120: deadline 0 is open in [5, 25), deadline 5 in [105, 125).
        let schedule = devnet(5);
        let window = schedule.window(Epoch(10), 0);
        assert_eq!((window.open, window.close), (Epoch(5), Epoch(25)));
        assert_eq!(
            (window.challenge, window.declare_until),
            (Epoch(2), Epoch(0))
        );
        assert_eq!(schedule.window(Epoch(25), 0).open, Epoch(125));
        assert_eq!(schedule.window(Epoch(124), 5).open, Epoch(105));
        assert_eq!(schedule.open_deadline(Epoch(24)), 0);
        assert_eq!(schedule.open_deadline(Epoch(25)), 1);
        assert_eq!(schedule.open_deadline(Epoch(4)), 5);
    }

    proptest! {
        #[test]
        fn exactly_one_deadline_is_open(offset in 0u64..120, now in 1_000u64..10_000) {
            let schedule = devnet(offset);
            let now = Epoch(now);
            let open: Vec<u16> = (0..6).filter(|&d| {
                let window = schedule.window(now, d);
                window.open <= now && now < window.close
            }).collect();
            prop_assert_eq!(&open, &vec![schedule.open_deadline(now)]);
            for d in 0..6 {
                let window = schedule.window(now, d);
                // Current or next: closes after now, and within one period and one window.
                prop_assert!(window.close > now && window.close.0 <= now.0 + 140);
                prop_assert_eq!((window.open.0 + 120 - offset) % 120, u64::from(d) * 20);
                let mutable = (now.0 + 20) < window.open.0;
                let leaf = Deadline::default();
                prop_assert_eq!(schedule.is_mutable(now, d, &leaf), mutable);
                prop_assert_eq!(schedule.require_mutable(now, d, &leaf).is_ok(), mutable);
                prop_assert_eq!(schedule.require_declarable(now, d, &leaf).is_ok(), now.0 + 6 < window.open.0);
                prop_assert_eq!(schedule.require_open(now, d, &leaf).is_ok(), d == open[0]);
                // Without an outage the schedule and what follows a close say the same.
                prop_assert_eq!(schedule.closing(window.close, &leaf).open, window.open);
                let (next, regular) = schedule.after_close(window.close, d);
                prop_assert_eq!((next.close.0, regular), (window.close.0 + 120, true));
            }
            prop_assert!(schedule.require_open(now, 6, &Deadline::default()).is_err());
        }

        /// What a declaration's refusal says is true: it is possible from `from` on and until before `until`.
        #[test]
        fn refusals_name_the_next_chance(offset in 0u64..120, now in 1_000u64..10_000, d in 0u16..6) {
            let schedule = devnet(offset);
            if let Err(crate::error::Stop::Refused(ChainError::DeadlineClosed { from, until, .. })) =
                schedule.require_declarable(Epoch(now), d, &Deadline::default())
            {
                let allowed = |at| schedule.require_declarable(at, d, &Deadline::default()).is_ok();
                prop_assert!(from.0 > now && allowed(from));
                prop_assert!(allowed(Epoch(until.0 - 1)));
                prop_assert!(!allowed(until));
            }
        }
    }

    #[test]
    fn sectors_spread_over_the_deadlines_that_may_change() {
        let schedule = devnet(0);
        let now = Epoch(1_200); // deadline 0 open, 1 next
        let mut deadlines = vec![Deadline::default(); 6];
        assert_eq!(assign(&schedule, now, &deadlines, 2, 16), Some((2, 0)));
        deadlines[2].partitions = vec![1];
        assert_eq!(assign(&schedule, now, &deadlines, 2, 16), Some((3, 0)));
        for deadline in &mut deadlines[2..] {
            deadline.partitions = vec![2, 1];
        }
        assert_eq!(
            assign(&schedule, now, &deadlines, 2, 16),
            Some((2, 1)),
            "the first free slot"
        );
        deadlines[4].partitions = vec![2, 0];
        assert_eq!(
            assign(&schedule, now, &deadlines, 2, 16),
            Some((4, 1)),
            "the emptiest deadline"
        );
        for deadline in &mut deadlines[2..] {
            deadline.partitions = vec![2; 16];
        }
        assert_eq!(
            assign(&schedule, now, &deadlines, 2, 16),
            None,
            "all partitions are full"
        );
    }
}
