//! Reputation: how well each provider has kept what it promised, counted from the chain itself (`chain.md` §18).
//!
//! Walk: `holdfast chain reputation` replays an export ([`crate::audit::replay`]) with a [`Reputation`] as its [`Visitor`].
//! It is no part of the chain's state: nobody votes on it, and whoever replays the same blocks gets the same numbers. Integers
//! only; shares are counted in 65,536ths ([`Share`]).
//!
//! ```text
//! a proving period ends:  u = proven · 65536 / due      uptime += (u - uptime) >> 4      (signed, arithmetic shift)
//! score = uptime · success rate >> 16      (the latter from clients' receipts)
//! ```
//! Receipts and what counts of them: [`receipt`]. What §18 leaves open besides, and how it is settled here:
//!
//! * **A close is due** when a deadline of the provider closes and any sector lives in it, one for each deadline and occurrence. It is
//!   **proven** when the proofs of its window cover every sector of it. A faulty sector must be proven too, declared or not: else a
//!   provider that lost everything would keep its name by declaring so. Who has lost a sector gets out by ending it.
//! * **The period** is the provider's own ([`crate::sector::deadline`]): the closes after its start up to its end. One that an outage
//!   moved counts where it came. A period without a due close leaves the uptime as it is; the one under way does not count yet.
//! * **The first uptime is 0**: names cost little, so who comes back under a new one must not stand better than before. Half is there
//!   after 11 proven periods, 95 % after 47; the shift never gets above 65,521, and does get down to 0.
//! * **A proof that a dispute finds wrong** (optimistic mode) takes its close back; where that period is over, from the one
//!   under way, and what that has too few of from the next.
//! * **Activated in time** is every activation, because the chain refuses late ones. **A fault episode** lasts from a sector's fault
//!   until it is proven again or ends; declarations and missed closes in between are the same episode.
//! * **Without receipts the success rate is 65536**, so the score is the uptime: nobody has said anything against the provider. A
//!   record shows whether there were any.
//!
//! Cost: beside the replay, one read of a deadline's partitions at each of its closes. Memory: a few hundred bytes for each
//! provider, 40 for each open deal, 8 for each faulty sector.

pub mod receipt;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use prover::SectorNumber;
use receipt::{Readings, Retrieval};
use serde::{Deserialize, Serialize};

use crate::account::{DealId, ProviderId};
use crate::audit::{BlockFacts, Replayed, Visitor};
use crate::error::StoreError;
use crate::events::Event;
use crate::moment::{Moment, What};
use crate::params::{ChainParams, VerificationMode};
use crate::provider::Provider;
use crate::query;
use crate::sector::deadline::Window;
use crate::sector::{Deadline, Occurrence, Partition, SectorState};
use crate::state::{KvRead, key, read};
use crate::units::Epoch;

/// How much of the distance to its newest period the uptime goes: a 2^4th.
const UPTIME_SHIFT: u32 = 4;

/// A share in 65,536ths (Q16): 0 is nothing, [`Share::ONE`] all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Share(u32);

impl Share {
    /// All.
    pub const ONE: Self = Self(1 << 16);

    /// `floor(part * 65536 / whole)`, at most [`Share::ONE`]; nothing of nothing.
    pub fn of(part: u64, whole: u64) -> Self {
        let scaled = (u128::from(part) << 16).checked_div(whole.into());
        let share = u32::try_from(scaled.unwrap_or(0)).unwrap_or(u32::MAX);
        Self(share).min(Self::ONE)
    }

    /// In 65,536ths.
    pub const fn q16(self) -> u32 {
        self.0
    }

    /// `self * other >> 16`.
    pub fn times(self, other: Self) -> Self {
        let product = (u64::from(self.0) * u64::from(other.0)) >> 16;
        // Both are at most 2^16, and so is this.
        Self(u32::try_from(product).unwrap_or(u32::MAX)).min(Self::ONE)
    }

    /// The uptime after a period with this share of its closes proven.
    fn toward(self, period: Self) -> Self {
        let (old, new) = (i64::from(self.0), i64::from(period.0));
        let next = old + ((new - old) >> UPTIME_SHIFT);
        // Between the two, so it fits.
        Self(u32::try_from(next).unwrap_or(0))
    }
}

/// As a percentage with one digit, cut off: 65,521 is 99.9 %.
impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let permille = (u64::from(self.0) * 1_000) >> 16;
        f.pad(&format!("{}.{} %", permille / 10, permille % 10))
    }
}

/// What became of a provider's deals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DealCounts {
    /// Published.
    pub published: u64,
    /// In a proven sector in time.
    pub activated: u64,
    /// Kept to their end.
    pub completed: u64,
    /// Broken: not activated, or their sector ended before them.
    pub slashed: u64,
}

/// Deadlines that closed with sectors in them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closes {
    /// All.
    pub due: u64,
    /// Those with every sector proven.
    pub proven: u64,
}

/// One provider's reputation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Who.
    pub provider: ProviderId,
    /// Moving average of the proven share of its closes, in 65,536ths.
    pub uptime: Share,
    /// Periods in it: those that are over and had a due close.
    pub periods: u64,
    /// Closes of the period that is under way, not in the uptime yet.
    pub under_way: Closes,
    /// Its deals.
    pub deals: DealCounts,
    /// Faults of sectors, each counted once from its begin to its end.
    pub fault_episodes: u64,
    /// What clients' receipts say; nothing where none counts.
    pub retrieval: Option<Retrieval>,
    /// What a client that must choose should go by, in 65,536ths.
    pub score: Share,
}

/// Follows every provider through a replay: a [`Visitor`].
#[derive(Clone, Debug, Default)]
pub struct Reputation {
    rules: Option<Rules>,
    tracks: BTreeMap<ProviderId, Track>,
    /// Deals that are not over: their later events do not name the provider.
    deals: BTreeMap<DealId, ProviderId>,
    failure: Option<String>,
}

/// What of the chain's numbers is needed; they never change.
#[derive(Clone, Copy, Debug)]
struct Rules {
    /// Epochs of a proving period.
    period: u64,
    /// Proven closes of a deadline that a dispute may still take back. A dispute comes at most `(ND - 1) W` lit epochs after the
    /// close (`ChainParams::check`), and each later close of the deadline took `W` lit epochs.
    disputable: usize,
}

impl Rules {
    fn of(params: &ChainParams) -> Self {
        let disputable = match params.verification {
            VerificationMode::Optimistic => usize::from(params.deadlines),
            VerificationMode::Eager => 0,
        };
        Self {
            period: params.proving_period.0.max(1),
            disputable,
        }
    }

    /// Which period of a provider a close belongs to: the closes after its start up to and with its end.
    fn period_of(&self, close: Epoch, offset: u64) -> u64 {
        let offset = offset % self.period;
        close
            .0
            .saturating_add(self.period - 1)
            .saturating_sub(offset)
            / self.period
    }
}

/// What is known of one provider so far.
#[derive(Clone, Debug, Default)]
struct Track {
    /// Where its periods begin; known from its first close on.
    offset: u64,
    uptime: Share,
    periods: u64,
    /// The period that `under_way` is of.
    period: u64,
    under_way: Closes,
    /// Proven closes that turned out wrong and are still to be taken back.
    wrong: u64,
    /// By deadline, the newest proven closes, oldest first.
    proven: BTreeMap<u16, VecDeque<Occurrence>>,
    deals: DealCounts,
    fault_episodes: u64,
    faulty: BTreeSet<SectorNumber>,
}

impl Track {
    /// Ends the period under way, if `period` is a later one.
    fn roll_to(&mut self, period: u64) {
        if period <= self.period {
            return;
        }
        let Closes { due, proven } = std::mem::take(&mut self.under_way);
        let taken = self.wrong.min(proven);
        self.wrong -= taken;
        self.period = period;
        if due > 0 {
            self.uptime = self.uptime.toward(Share::of(proven - taken, due));
            self.periods += 1;
        }
    }

    fn close(&mut self, rules: &Rules, deadline: u16, window: Window, proven: bool) {
        self.roll_to(rules.period_of(window.close, self.offset));
        self.under_way.due += 1;
        if !proven {
            return;
        }
        self.under_way.proven += 1;
        if rules.disputable > 0 {
            let Window { open, close, .. } = window;
            let newest = self.proven.entry(deadline).or_default();
            newest.push_back(Occurrence { open, close });
            while newest.len() > rules.disputable {
                newest.pop_front();
            }
        }
    }

    /// A stored proof of this deadline is wrong. Two of one close count once, and one of a close that was not proven anyway, or is
    /// still to come, not at all. `close` is what the proof took for its close, which an outage may have moved since.
    fn disputed(&mut self, deadline: u16, close: Epoch) {
        let Some(newest) = self.proven.get_mut(&deadline) else {
            return;
        };
        let is_its = |o: &Occurrence| o.open < close && close <= o.close;
        if let Some(at) = newest.iter().position(is_its) {
            newest.remove(at);
            self.wrong += 1;
        }
    }

    fn record(
        mut self,
        provider: ProviderId,
        rules: Option<&Rules>,
        at: Epoch,
        retrieval: Option<Retrieval>,
    ) -> Record {
        let success = retrieval.map_or(Share::ONE, |said| said.success_rate);
        if let Some(rules) = rules {
            // All closes up to `at` have come, so a period is over when the next close would be of a later one.
            self.roll_to(rules.period_of(at.next(), self.offset));
        }
        let Closes { due, proven } = self.under_way;
        Record {
            provider,
            uptime: self.uptime,
            periods: self.periods,
            under_way: Closes {
                due,
                proven: proven.saturating_sub(self.wrong),
            },
            deals: self.deals,
            fault_episodes: self.fault_episodes,
            retrieval,
            score: self.uptime.times(success),
        }
    }
}

impl Reputation {
    /// Every provider's, after the epoch `at` of the last block, in order of their ids; or why the state could not be read.
    pub fn finish(self, at: Epoch, readings: &Readings) -> Result<Vec<Record>, String> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        let rules = self.rules;
        let record = |(provider, track): (ProviderId, Track)| {
            track.record(provider, rules.as_ref(), at, readings.of(provider))
        };
        Ok(self.tracks.into_iter().map(record).collect())
    }

    fn see(&mut self, moment: &Moment<'_>) -> Result<(), StoreError> {
        let What::Close {
            provider,
            deadline,
            window,
        } = moment.what
        else {
            return Ok(());
        };
        let rules = match self.rules {
            Some(rules) => rules,
            None => Rules::of(&query::params(moment.state)?),
        };
        self.rules = Some(rules);
        let Some(proven) = all_proven(moment.state, provider, deadline)? else {
            return Ok(());
        };
        let track = self.tracks.entry(provider.id).or_default();
        track.offset = provider.offset.0;
        track.close(&rules, deadline, window, proven);
        Ok(())
    }

    fn tell(&mut self, event: &Event) {
        match *event {
            Event::ProviderRegistered { provider, .. } => {
                self.track(provider);
            }
            Event::DealPublished { deal, provider, .. } => {
                self.deals.insert(deal, provider);
                self.track(provider).deals.published += 1;
            }
            Event::DealActivated { deal, .. } => {
                if let Some(&provider) = self.deals.get(&deal) {
                    self.track(provider).deals.activated += 1;
                }
            }
            Event::DealCompleted { deal } => {
                if let Some(provider) = self.deals.remove(&deal) {
                    self.track(provider).deals.completed += 1;
                }
            }
            Event::DealSlashed { deal, .. } => {
                if let Some(provider) = self.deals.remove(&deal) {
                    self.track(provider).deals.slashed += 1;
                }
            }
            Event::SectorFaulted {
                provider, sector, ..
            } => {
                let track = self.track(provider);
                track.fault_episodes += u64::from(track.faulty.insert(sector));
            }
            Event::SectorRecovered { provider, sector }
            | Event::SectorExpired { provider, sector }
            | Event::SectorTerminated {
                provider, sector, ..
            } => {
                self.track(provider).faulty.remove(&sector);
            }
            Event::PostDisputed {
                provider,
                deadline,
                close,
                ..
            } => self.track(provider).disputed(deadline, close),
            _ => {}
        }
    }

    fn track(&mut self, provider: ProviderId) -> &mut Track {
        self.tracks.entry(provider).or_default()
    }
}

impl Visitor for Reputation {
    /// Closes, as they come: no event tells of one in which nothing was missed.
    fn moment(&mut self, moment: &Moment<'_>) {
        if let Err(error) = self.see(moment) {
            self.failure.get_or_insert(error.to_string());
        }
    }
    /// Events, once the block is through: those of messages that failed are gone by then. Disputes come by message, so after all
    /// closes of their block.
    fn before(&mut self, facts: &BlockFacts<'_>) {
        for record in facts.events {
            self.tell(&record.event);
        }
    }
    fn block(&mut self, _: &Replayed<'_>) {}
}

/// Whether the proofs of a deadline that closes cover every sector in it; nothing where none lives.
fn all_proven(
    state: &dyn KvRead,
    provider: &Provider,
    index: u16,
) -> Result<Option<bool>, StoreError> {
    let deadline: Option<Deadline> = read(state, &key::deadline(provider.id, index))?;
    let (mut any, mut all) = (false, true);
    for (partition, &sectors) in (0u32..).zip(&deadline.unwrap_or_default().partitions) {
        if sectors == 0 {
            continue;
        }
        let key = key::partition(provider.id, index, partition);
        let Partition { posted, slots } = read(state, &key)?.unwrap_or_default();
        any |= !slots.is_empty();
        // A post makes all that it covers active, and nothing else is active after it.
        all &= slots
            .iter()
            .all(|slot| posted && slot.state == SectorState::Active);
    }
    Ok(any.then_some(all))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules {
        period: 120,
        disputable: 6,
    };

    fn window(open: u64, close: u64) -> Window {
        Window {
            open: Epoch(open),
            close: Epoch(close),
            challenge: Epoch(open.saturating_sub(3)),
            declare_until: Epoch(open.saturating_sub(6)),
        }
    }

    fn after(uptime: u32, proven: u64, due: u64) -> u32 {
        Share(uptime).toward(Share::of(proven, due)).0
    }

    #[test]
    fn the_average_is_what_a_hand_computes() {
        // (65536 - 0) / 16; (65536 - 4096) / 16 more; two thirds of the closes: 43690 - 7936 = 35754, / 16 = 2234.6.
        assert_eq!(after(0, 6, 6), 4_096);
        assert_eq!(after(4_096, 6, 6), 7_936);
        assert_eq!(after(7_936, 2, 3), 10_170);
        // Down: (0 - 10170) / 16 = -635.6, floored to -636.
        assert_eq!(after(10_170, 0, 6), 9_534);
        assert_eq!(Share::of(2, 3).q16(), 43_690);
        assert_eq!(Share::of(1, 0), Share(0));
        // It ends at 65521 upwards and at 0 downwards.
        let (mut up, mut down) = (0, Share::ONE.q16());
        for _ in 0..400 {
            (up, down) = (after(up, 1, 1), after(down, 0, 1));
        }
        assert_eq!((up, down), (65_521, 0));
        // As the front page says: half after 11 periods, 95 % after 47.
        let mut reached = Vec::new();
        let mut uptime = 0;
        for period in 1..100 {
            let before = uptime;
            uptime = after(uptime, 1, 1);
            reached.extend(
                [32_768, 62_259]
                    .into_iter()
                    .filter_map(|mark| (before < mark && mark <= uptime).then_some(period)),
            );
        }
        assert_eq!(reached, [11, 47]);
    }

    #[test]
    fn shares_multiply_and_print() {
        assert_eq!(Share::ONE.times(Share(7)), Share(7));
        assert_eq!(Share(32_768).times(Share(32_768)), Share(16_384));
        assert_eq!(Share(65_521).times(Share(65_521)), Share(65_506));
        let texts = [Share(0), Share(65_521), Share::ONE].map(|share| share.to_string());
        assert_eq!(texts, ["0.0 %", "99.9 %", "100.0 %"]);
        assert_eq!(format!("{:>8}", Share(32_768)), "  50.0 %");
    }

    #[test]
    fn a_period_has_the_closes_after_its_start_up_to_its_end() {
        // Offset 5: periods are (5, 125], (125, 245], …, and what comes before.
        let of = |close| RULES.period_of(Epoch(close), 5);
        assert_eq!((of(1), of(5)), (0, 0));
        assert_eq!((of(6), of(25), of(125)), (1, 1, 1));
        assert_eq!((of(126), of(245), of(246)), (2, 2, 3));
    }

    #[test]
    fn periods_without_a_due_close_count_nothing() {
        let mut track = Track::default();
        track.close(&RULES, 0, window(0, 20), true);
        track.close(&RULES, 1, window(20, 40), false);
        let record = track
            .clone()
            .record(ProviderId(1), Some(&RULES), Epoch(119), None);
        assert_eq!((record.uptime.q16(), record.periods), (0, 0));
        assert_eq!((record.under_way.due, record.under_way.proven), (2, 1));
        // The period's last close comes at 120, and with it its end: 32768 / 16.
        for at in [120, 10_000] {
            let record = track
                .clone()
                .record(ProviderId(1), Some(&RULES), Epoch(at), None);
            assert_eq!((record.uptime.q16(), record.periods), (2_048, 1), "{at}");
            assert_eq!(record.under_way, Closes::default());
        }
        // Nine periods later another one: (65536 - 2048) / 16 more, in one step.
        track.close(&RULES, 0, window(1_200, 1_220), true);
        let record = track.record(ProviderId(1), Some(&RULES), Epoch(1_320), None);
        assert_eq!((record.uptime.q16(), record.periods), (6_016, 2));
    }

    #[test]
    fn a_disputed_proof_takes_its_close_back_once() {
        let mut track = Track::default();
        track.close(&RULES, 5, window(100, 120), true);
        track.close(&RULES, 0, window(120, 140), true);
        track.close(&RULES, 1, window(140, 160), true);
        // Of deadline 5's close, in the next period; two partitions of it are one close.
        track.disputed(5, Epoch(120));
        track.disputed(5, Epoch(120));
        // Of a close that is to come, of one that was not proven, of another deadline.
        track.disputed(5, Epoch(240));
        track.disputed(0, Epoch(120));
        track.disputed(3, Epoch(200));
        let record = track
            .clone()
            .record(ProviderId(1), Some(&RULES), Epoch(160), None);
        assert_eq!((record.under_way.due, record.under_way.proven), (2, 1));
        let record = track.record(ProviderId(1), Some(&RULES), Epoch(240), None);
        // 4096, then half of a period: 4096 + (32768 - 4096) / 16.
        assert_eq!((record.uptime.q16(), record.periods), (5_888, 2));
    }

    #[test]
    fn what_is_taken_back_waits_for_a_proven_close() {
        let mut track = Track::default();
        track.close(&RULES, 5, window(100, 130), true);
        track.close(&RULES, 0, window(240, 260), false);
        assert_eq!(track.uptime.q16(), 4_096);
        // The proof took 120 for the end of its window; an outage moved that.
        track.disputed(5, Epoch(120));
        track.roll_to(4);
        assert_eq!((track.wrong, track.uptime.q16()), (1, 3_840));
        track.close(&RULES, 0, window(480, 500), true);
        track.close(&RULES, 1, window(500, 520), true);
        track.roll_to(6);
        // Half of the period: (32768 - 3840) / 16 more.
        assert_eq!((track.wrong, track.uptime.q16()), (0, 5_648));
    }
}
