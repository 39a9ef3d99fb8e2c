//! The scheduler: which shard of which unit is asked from whom, when to try somebody else, when to give up. Pure: time
//! and events go in, commands and the next wake-up come out.
//!
//! Walk: [`super::Fetch`] is the thin shell that moves bytes. Spec: `network.md` §2.4, "Parallel fetch" and "Hedging";
//! threats P23, R4.
//!
//! A *unit* is the same byte range of all shards; it is complete when any k shards of it are here. Rules, with reasons:
//! * A unit starts with exactly k sources, the cheapest by expected time. The spec's k + h for every unit would ask for
//!   half as much again at k = 2 and contradict its own cap of 10 % extra bytes; so over-asking is left to the hedges,
//!   which a small allowance in advance lets fire from the first unit on.
//! * Data shards are worth [`DATA_BONUS`]: they need no decoding. A data shard that is slower than that is not waited for.
//! * A provider has as many units outstanding as it delivers in [`WINDOW`], so that a slow one is not handed a long
//!   queue whose tail everybody waits for.
//! * A provider without progress for the hedge timer is *suspect*: its oldest unit is asked from another provider too (a
//!   hedge), its other units are taken from it and asked elsewhere, and new units avoid it. So n − k silent providers cost
//!   one timer, not one per unit, and few bytes are asked for twice.
//! * The first k shards win; the rest are cancelled.
//! * A lie ends a provider's part at once; a missing piece ends that source; anything else is a strike with growing pause. Requests that
//!   were under way side by side fail for one reason, which may be ours: they are one strike together.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    ops::Range,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    FetchError, FetchReport, FetchRequest, ProviderReport, Unit,
    score::{Score, Scores},
};
use crate::{
    endpoint::PieceKey,
    error::Error,
    limits::FetchLimits,
    peer::PeerAddr,
    range::{GROUP_BYTES, MAX_PIECE_BYTES},
    wire::FailureCode,
};

/// What decoding is worth avoiding.
const DATA_BONUS: Duration = Duration::from_millis(50);
/// How much of its own speed a provider has outstanding.
const WINDOW: Duration = Duration::from_millis(250);
/// Units outstanding at a provider whose speed is unknown.
const FIRST_WINDOW_UNITS: u64 = 4;
/// Units outstanding at any provider; also what [`crate::limits::Limits::max_serving_per_peer`] lets one peer have.
const MAX_WINDOW_UNITS: u64 = 16;
/// A suspect is left alone so long after its last lateness, then may try again.
const SUSPECT_FOR: Duration = Duration::from_secs(5);
/// First pause after a strike; doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// "Busy" answers in a row after which a provider has failed.
const MAX_BUSY: u32 = 20;
/// Longest that a "retry after" of a provider is believed.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(5);

/// One request in flight.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct AttemptId(u64);

/// What the shell should do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Ask `peer` for this range of this piece.
    Start {
        /// Name for later events.
        attempt: AttemptId,
        /// Whom.
        peer: PeerAddr,
        /// What.
        piece: PieceKey,
        /// Which bytes.
        range: Range<u64>,
    },
    /// Drop a request; its bytes are not needed any more.
    Cancel(AttemptId),
}

/// Bytes of one finished attempt and how long they took.
#[derive(Clone, Debug)]
pub struct Arrived {
    /// Exactly the range asked for.
    pub data: Bytes,
    /// From asking to the first byte.
    pub first_byte: Duration,
    /// From asking to the last one, however much later that is told here.
    pub took: Duration,
}

#[derive(Debug)]
struct Provider {
    peer: PeerAddr,
    score: Score,
    outstanding: u64,
    /// Bytes of all units it brought, in time or not.
    delivered: u64,
    strikes: u32,
    /// What was under way then is counted in it.
    last_strike: Option<Instant>,
    busy: u32,
    not_before: Option<Instant>,
    suspect_until: Option<Instant>,
    last_progress: Option<Instant>,
    /// When requests to it were under way.
    under_way: Spans,
    dead: bool,
    report: ProviderReport,
}

impl Provider {
    /// Counts the time of a request, where requests side by side count once.
    fn count_time(&mut self, from: Instant, until: Instant) {
        self.under_way.add(from, until);
        self.report.asked_for = self.under_way.total();
    }
}

/// Stretches of time, apart from each other.
#[derive(Debug, Default)]
struct Spans(Vec<(Instant, Instant)>);

impl Spans {
    fn add(&mut self, mut from: Instant, mut until: Instant) {
        until = until.max(from);
        self.0.retain(|&(a, b)| {
            let is_apart = b < from || until < a;
            if !is_apart {
                (from, until) = (from.min(a), until.max(b));
            }
            is_apart
        });
        self.0.push((from, until));
    }

    fn total(&self) -> Duration {
        self.0.iter().map(|(from, until)| *until - *from).sum()
    }
}

#[derive(Debug)]
struct Shard {
    index: u16,
    piece: PieceKey,
    /// Providers that may still have it.
    sources: Vec<usize>,
}

#[derive(Debug)]
struct UnitState {
    range: Range<u64>,
    done: BTreeMap<u16, Bytes>,
}

#[derive(Debug)]
struct Attempt {
    unit: u64,
    shard: usize,
    provider: usize,
    started: Instant,
    received: u64,
    /// What its provider had brought when it began.
    delivered_before: u64,
    /// After this long it is slow, even with some progress.
    patience: Duration,
    /// Somebody else was asked too.
    hedged: bool,
}

/// The state of one fetch.
#[derive(Debug)]
pub struct Plan {
    k: usize,
    limits: FetchLimits,
    unit_bytes: u64,
    shards: Vec<Shard>,
    providers: Vec<Provider>,
    /// Ranges not yet cut into units.
    pending: VecDeque<Range<u64>>,
    /// Units under way, oldest first; the number of the first is `first_unit`.
    units: VecDeque<UnitState>,
    first_unit: u64,
    attempts: HashMap<AttemptId, Attempt>,
    next_attempt: u64,
    /// Bytes of attempts in flight and of shards that wait for their unit.
    held_bytes: u64,
    /// Bytes asked for on top of the k shards of each unit, while nothing had failed.
    extra_bytes: u64,
    delivered_bytes: u64,
    wasted_bytes: u64,
    hedges: u32,
    first_bytes: VecDeque<Duration>,
    causes: Vec<(PeerAddr, u16, String)>,
}

impl Plan {
    /// Checks a request and plans it. The error is the caller's mistake.
    pub fn new(request: FetchRequest, limits: FetchLimits, scores: &Scores) -> Result<Self, Error> {
        check(&request)?;
        let k = u64::from(request.k);
        let fitting =
            (limits.in_flight_bytes / (2 * k)).min(limits.unit_bytes) / GROUP_BYTES * GROUP_BYTES;
        let mut plan = Self {
            k: usize::from(request.k),
            unit_bytes: fitting.max(GROUP_BYTES),
            limits,
            shards: Vec::new(),
            providers: Vec::new(),
            pending: request.ranges.into(),
            units: VecDeque::new(),
            first_unit: 0,
            attempts: HashMap::new(),
            next_attempt: 0,
            held_bytes: 0,
            extra_bytes: 0,
            delivered_bytes: 0,
            wasted_bytes: 0,
            hedges: 0,
            first_bytes: VecDeque::new(),
            causes: Vec::new(),
        };
        for shard in request.shards {
            let sources = shard
                .providers
                .iter()
                .map(|peer| plan.provider(*peer, scores))
                .collect();
            plan.shards.push(Shard {
                index: shard.index,
                piece: shard.piece,
                sources,
            });
        }
        Ok(plan)
    }

    fn provider(&mut self, peer: PeerAddr, scores: &Scores) -> usize {
        if let Some(known) = self
            .providers
            .iter()
            .position(|provider| provider.peer == peer)
        {
            return known;
        }
        self.providers.push(Provider {
            peer,
            score: scores.get(&peer),
            outstanding: 0,
            delivered: 0,
            strikes: 0,
            last_strike: None,
            busy: 0,
            not_before: None,
            suspect_until: None,
            last_progress: None,
            under_way: Spans::default(),
            dead: false,
            report: ProviderReport {
                peer,
                units: 0,
                bytes: 0,
                first_byte: None,
                asked_for: Duration::ZERO,
                late: 0,
                failures: Vec::new(),
                lost: false,
                lied: false,
            },
        });
        self.providers.len() - 1
    }

    /// The size of a full unit, in bytes of one shard.
    pub fn unit_bytes(&self) -> u64 {
        self.unit_bytes
    }

    /// All providers, for the shell to greet in advance.
    pub fn peers(&self) -> impl Iterator<Item = PeerAddr> + '_ {
        self.providers.iter().map(|provider| provider.peer)
    }

    /// Whether every unit was taken.
    pub fn is_finished(&self) -> bool {
        self.pending.is_empty() && self.units.is_empty()
    }

    /// The oldest unit, if it is complete.
    pub fn take_ready(&mut self) -> Option<Unit> {
        if self.units.front()?.done.len() < self.k {
            return None;
        }
        let unit = self.units.pop_front()?;
        self.first_unit += 1;
        let bytes: u64 = unit.done.values().map(|data| data.len() as u64).sum();
        self.held_bytes -= bytes;
        self.delivered_bytes += bytes;
        Some(Unit {
            range: unit.range,
            shards: unit.done.into_iter().collect(),
        })
    }

    /// Time passed or something happened: looks for late and stalled attempts, and starts what can be started.
    pub fn poll(&mut self, now: Instant) -> Result<Vec<Command>, FetchError> {
        let mut commands = Vec::new();
        self.drop_stalled(now, &mut commands);
        self.hedge_late(now, &mut commands);
        for position in 0..self.units.len() {
            self.fill_unit(self.first_unit + position as u64, now, &mut commands);
        }
        self.start_units(now, &mut commands);
        match self.hopeless() {
            Some(error) => Err(error),
            None => Ok(commands),
        }
    }

    /// When to call [`Plan::poll`] again if nothing happens before.
    pub fn next_wakeup(&self, now: Instant) -> Instant {
        let mut next = now + self.hedge_after() / 4;
        for paused in self
            .providers
            .iter()
            .filter_map(|p| p.not_before)
            .filter(|paused| *paused > now)
        {
            next = next.min(paused);
        }
        next
    }

    /// An attempt has received so many bytes of its stream.
    pub fn on_progress(&mut self, attempt: AttemptId, received: u64, now: Instant) {
        if let Some(attempt) = self.attempts.get_mut(&attempt)
            && received > attempt.received
        {
            attempt.received = received;
            self.providers[attempt.provider].last_progress = Some(now);
        }
    }

    /// An attempt brought its bytes.
    pub fn on_arrived(&mut self, id: AttemptId, arrived: Arrived, now: Instant) -> Vec<Command> {
        // Unknown when it was cancelled while its answer was on the way to us.
        let Some(attempt) = self.end_attempt(id) else {
            return Vec::new();
        };
        let bytes = arrived.data.len() as u64;
        self.remember_first_byte(arrived.first_byte);
        let provider = &mut self.providers[attempt.provider];
        let seconds = now.duration_since(attempt.started).as_secs_f64().max(1e-6);
        // All that came from this provider in that time: its speed, not this unit's share of it.
        provider.count_time(attempt.started, attempt.started + arrived.took);
        provider.delivered += bytes;
        let rate = (provider.delivered - attempt.delivered_before) as f64 / seconds;
        provider.score.on_unit(arrived.first_byte, rate);
        provider.strikes = 0;
        provider.busy = 0;
        provider.last_progress = Some(now);
        if !attempt.hedged {
            provider.suspect_until = None;
        }
        let shard = self.shards[attempt.shard].index;
        let k = self.k;
        let Some(unit) = self.unit_mut(attempt.unit) else {
            return Vec::new();
        };
        if unit.done.len() >= k || unit.done.contains_key(&shard) {
            self.wasted_bytes += bytes;
            return Vec::new();
        }
        unit.done.insert(shard, arrived.data);
        let complete = unit.done.len() >= k;
        self.held_bytes += bytes;
        let report = &mut self.providers[attempt.provider].report;
        report.units += 1;
        report.bytes += bytes;
        report.first_byte.get_or_insert(arrived.first_byte);
        if complete {
            self.cancel_rest(attempt.unit, now)
        } else {
            Vec::new()
        }
    }

    /// An attempt failed.
    pub fn on_failed(&mut self, id: AttemptId, error: &Error, now: Instant) {
        let Some(attempt) = self.end_attempt(id) else {
            return;
        };
        self.fail(&attempt, error, now);
    }

    /// How it went so far.
    pub fn report(&self) -> FetchReport {
        FetchReport {
            bytes: self.delivered_bytes,
            wasted_bytes: self.wasted_bytes,
            hedges: self.hedges,
            providers: self
                .providers
                .iter()
                .map(|provider| provider.report.clone())
                .collect(),
        }
    }

    /// What was learned about the providers.
    pub fn scores(&self) -> impl Iterator<Item = (PeerAddr, Score)> + '_ {
        self.providers
            .iter()
            .map(|provider| (provider.peer, provider.score))
    }

    // ---- choosing ----

    fn start_units(&mut self, now: Instant, commands: &mut Vec<Command>) {
        while let Some(range) = self.next_range() {
            let length = range.end - range.start;
            let room = self.held_bytes + self.k as u64 * length <= self.limits.in_flight_bytes;
            let idle = self.attempts.is_empty() && self.units.is_empty();
            if !(room || idle) {
                return;
            }
            let unit = self.first_unit + self.units.len() as u64;
            let sources = self.choose(self.k, &[], length, true, now);
            // A unit with fewer than k sources would only hold memory, unless it is all that can be done.
            if sources.len() < self.k && !idle {
                return;
            }
            if sources.is_empty() {
                return;
            }
            self.take_range(range.end);
            self.units.push_back(UnitState {
                range,
                done: BTreeMap::new(),
            });
            for (shard, provider) in sources {
                self.start(unit, shard, provider, now, commands);
            }
        }
    }

    fn next_range(&self) -> Option<Range<u64>> {
        let range = self.pending.front()?;
        let grid_end = (range.start / self.unit_bytes + 1) * self.unit_bytes;
        Some(range.start..range.end.min(grid_end))
    }

    fn take_range(&mut self, end: u64) {
        if let Some(range) = self.pending.front_mut() {
            range.start = end;
            if range.start >= range.end {
                self.pending.pop_front();
            }
        }
    }

    /// Gives a unit new sources for those that failed.
    fn fill_unit(&mut self, unit: u64, now: Instant, commands: &mut Vec<Command>) {
        let Some(state) = self.unit(unit) else { return };
        let (done, length) = (state.done.len(), state.range.end - state.range.start);
        let busy = self.busy_shards(unit);
        // A hedged attempt does not count: its hedge does, and is replaced here when it fails.
        let running = self
            .attempts
            .values()
            .filter(|attempt| attempt.unit == unit && !attempt.hedged)
            .count();
        let missing = self.k.saturating_sub(done + running);
        for (shard, provider) in self.choose(missing, &busy, length, true, now) {
            self.start(unit, shard, provider, now, commands);
        }
    }

    /// Shards of a unit that are here or asked for.
    fn busy_shards(&self, unit: u64) -> Vec<usize> {
        let done = self.unit(unit).map(|state| &state.done);
        (0..self.shards.len())
            .filter(|&shard| {
                done.is_some_and(|done| done.contains_key(&self.shards[shard].index))
                    || self
                        .attempts
                        .values()
                        .any(|attempt| attempt.unit == unit && attempt.shard == shard)
            })
            .collect()
    }

    /// Up to `count` sources of different shards, cheapest first, suspects last or not at all.
    fn choose(
        &self,
        count: usize,
        without: &[usize],
        length: u64,
        suspects: bool,
        now: Instant,
    ) -> Vec<(usize, usize)> {
        if count == 0 {
            return Vec::new();
        }
        let mut options: Vec<_> = (0..self.shards.len())
            .filter(|shard| !without.contains(shard))
            .filter_map(|shard| {
                let sources = self.shards[shard].sources.iter();
                let costs =
                    sources.filter_map(|&p| Some((self.cost(shard, p, length, now)?, shard, p)));
                costs.min()
            })
            .filter(|((suspect, _), ..)| suspects || !suspect)
            .collect();
        options.sort();
        options.truncate(count);
        options
            .into_iter()
            .map(|(_, shard, provider)| (shard, provider))
            .collect()
    }

    /// Whether the source is suspect, and the time that the unit would take there; `None` when it cannot be asked now.
    fn cost(
        &self,
        shard: usize,
        provider: usize,
        length: u64,
        now: Instant,
    ) -> Option<(bool, Duration)> {
        let p = &self.providers[provider];
        let paused = p.not_before.is_some_and(|until| until > now);
        if p.dead || paused || p.outstanding + length > self.window(p).max(length) {
            return None;
        }
        let suspect = p.suspect_until.is_some_and(|until| until > now);
        let parity = usize::from(self.shards[shard].index) >= self.k;
        let bonus = if parity { DATA_BONUS } else { Duration::ZERO };
        Some((suspect, p.score.expected(p.outstanding + length) + bonus))
    }

    fn window(&self, provider: &Provider) -> u64 {
        let units = match provider.score.rate() {
            None => FIRST_WINDOW_UNITS,
            Some(rate) => (rate * WINDOW.as_secs_f64()) as u64 / self.unit_bytes,
        };
        units.clamp(2, MAX_WINDOW_UNITS) * self.unit_bytes
    }

    fn start(
        &mut self,
        unit: u64,
        shard: usize,
        provider: usize,
        now: Instant,
        commands: &mut Vec<Command>,
    ) {
        let Some(range) = self.unit(unit).map(|state| state.range.clone()) else {
            return;
        };
        let id = AttemptId(self.next_attempt);
        self.next_attempt += 1;
        let length = range.end - range.start;
        let hedge_after = self.hedge_after();
        let p = &mut self.providers[provider];
        p.outstanding += length;
        let patience = match p.score.rate() {
            None => Duration::MAX,
            Some(_) => hedge_after.saturating_add(3 * p.score.expected(p.outstanding)),
        };
        self.held_bytes += length;
        let delivered_before = p.delivered;
        let attempt = Attempt {
            unit,
            shard,
            provider,
            started: now,
            received: 0,
            delivered_before,
            patience,
            hedged: false,
        };
        self.attempts.insert(id, attempt);
        commands.push(Command::Start {
            attempt: id,
            peer: p.peer,
            piece: self.shards[shard].piece,
            range,
        });
    }

    // ---- lateness ----

    /// `max(floor, 2 × median, p95)` of the first-byte times seen, so that a far network is not taken for a slow one.
    fn hedge_after(&self) -> Duration {
        let mut sorted: Vec<_> = self.first_bytes.iter().copied().collect();
        sorted.sort();
        let at = |percent: usize| {
            sorted
                .get(sorted.len() * percent / 100)
                .copied()
                .unwrap_or_default()
        };
        self.limits.hedge_after.max(2 * at(50)).max(at(95))
    }

    fn remember_first_byte(&mut self, first_byte: Duration) {
        if self.first_bytes.len() == 64 {
            self.first_bytes.pop_front();
        }
        self.first_bytes.push_back(first_byte);
    }

    /// Since when the attempt waits: its provider sends units one after another, so progress of any of them counts.
    fn waiting_since(&self, attempt: &Attempt) -> Instant {
        let progress = self.providers[attempt.provider].last_progress;
        progress.map_or(attempt.started, |progress| progress.max(attempt.started))
    }

    fn hedge_late(&mut self, now: Instant, commands: &mut Vec<Command>) {
        let hedge_after = self.hedge_after();
        let mut late: Vec<_> = self
            .attempts
            .iter()
            .filter(|(_, attempt)| !attempt.hedged)
            .filter(|(_, attempt)| {
                now.duration_since(self.waiting_since(attempt)) > hedge_after
                    || now.duration_since(attempt.started) > attempt.patience
            })
            .map(|(id, attempt)| (attempt.unit, *id))
            .collect();
        // Oldest unit first: its bytes are waited for.
        late.sort();
        for (_, id) in &late {
            self.providers[self.attempts[id].provider].suspect_until = Some(now + SUSPECT_FOR);
        }
        let mut probed = Vec::new();
        for (unit, id) in late {
            let provider = self.attempts[&id].provider;
            if probed.contains(&provider)
                || self
                    .attempts
                    .values()
                    .any(|a| a.provider == provider && a.hedged)
            {
                self.move_away(unit, id, now, commands);
            } else {
                probed.push(provider);
                self.hedge(unit, id, now, commands);
            }
        }
    }

    /// Takes a unit's shard from a late provider, if somebody else can be asked; `fill_unit` then does. One attempt
    /// stays with the provider and shows when it is back; moving the others asks for no byte twice.
    fn move_away(&mut self, unit: u64, late: AttemptId, now: Instant, commands: &mut Vec<Command>) {
        let Some(length) = self
            .unit(unit)
            .map(|state| state.range.end - state.range.start)
        else {
            return;
        };
        if self
            .choose(1, &self.busy_shards(unit), length, false, now)
            .is_empty()
        {
            return;
        }
        if let Some(attempt) = self.end_attempt(late) {
            self.wasted_bytes += attempt.received;
            let provider = &mut self.providers[attempt.provider];
            provider.score.on_failure();
            provider.report.late += 1;
            provider.count_time(attempt.started, now);
            commands.push(Command::Cancel(late));
        }
        self.fill_unit(unit, now, commands);
    }

    fn hedge(&mut self, unit: u64, late: AttemptId, now: Instant, commands: &mut Vec<Command>) {
        let Some(length) = self
            .unit(unit)
            .map(|state| state.range.end - state.range.start)
        else {
            return;
        };
        let allowance = 2 * self.k as u64 * self.unit_bytes;
        let allowed = allowance + self.delivered_bytes / 100 * u64::from(self.limits.hedge_percent);
        let memory = self.limits.in_flight_bytes + self.limits.in_flight_bytes / 4;
        if self.extra_bytes + length > allowed || self.held_bytes + length > memory {
            return;
        }
        let late_provider = self.attempts[&late].provider;
        let busy = self.busy_shards(unit);
        let mut sources = self.choose(1, &busy, length, false, now);
        if sources.is_empty() {
            sources = self.same_shard_elsewhere(&late, length, now);
        }
        let Some(&(shard, provider)) = sources.first() else {
            return;
        };
        if provider == late_provider {
            return;
        }
        if let Some(attempt) = self.attempts.get_mut(&late) {
            attempt.hedged = true;
            let (started, provider) = (attempt.started, &mut self.providers[late_provider]);
            provider.report.late += 1;
            provider.count_time(started, now);
        }
        self.extra_bytes += length;
        self.hedges += 1;
        self.start(unit, shard, provider, now, commands);
    }

    /// When every other shard is taken: the same shard from another of its providers.
    fn same_shard_elsewhere(
        &self,
        late: &AttemptId,
        length: u64,
        now: Instant,
    ) -> Vec<(usize, usize)> {
        let attempt = &self.attempts[late];
        let asked = |p: usize| {
            self.attempts
                .values()
                .any(|a| a.unit == attempt.unit && a.shard == attempt.shard && a.provider == p)
        };
        let sources = self.shards[attempt.shard]
            .sources
            .iter()
            .filter(|&&p| !asked(p));
        let costs = sources.filter_map(|&p| Some((self.cost(attempt.shard, p, length, now)?, p)));
        let best = costs.filter(|((suspect, _), _)| !suspect).min();
        best.map(|(_, provider)| (attempt.shard, provider))
            .into_iter()
            .collect()
    }

    fn drop_stalled(&mut self, now: Instant, commands: &mut Vec<Command>) {
        let stalled: Vec<_> = self
            .attempts
            .iter()
            .filter(|(_, attempt)| {
                now.duration_since(self.waiting_since(attempt)) > self.limits.stall_timeout
            })
            .map(|(id, _)| *id)
            .collect();
        for id in stalled {
            commands.push(Command::Cancel(id));
            if let Some(attempt) = self.end_attempt(id) {
                self.fail(&attempt, &Error::Stalled(self.limits.stall_timeout), now);
            }
        }
    }

    // ---- endings ----

    fn cancel_rest(&mut self, unit: u64, now: Instant) -> Vec<Command> {
        let rest: Vec<_> = self
            .attempts
            .iter()
            .filter(|(_, a)| a.unit == unit)
            .map(|(id, _)| *id)
            .collect();
        for id in &rest {
            if let Some(attempt) = self.end_attempt(*id) {
                self.wasted_bytes += attempt.received;
                let provider = &mut self.providers[attempt.provider];
                provider.count_time(attempt.started, now);
                if attempt.hedged {
                    provider.score.on_failure();
                }
            }
        }
        rest.into_iter().map(Command::Cancel).collect()
    }

    fn end_attempt(&mut self, id: AttemptId) -> Option<Attempt> {
        let attempt = self.attempts.remove(&id)?;
        let length = self
            .unit(attempt.unit)
            .map_or(0, |state| state.range.end - state.range.start);
        self.providers[attempt.provider].outstanding -= length;
        self.held_bytes -= length;
        Some(attempt)
    }

    fn fail(&mut self, attempt: &Attempt, error: &Error, now: Instant) {
        let (index, max_strikes) = (self.shards[attempt.shard].index, self.limits.max_strikes);
        self.wasted_bytes += attempt.received;
        let p = &mut self.providers[attempt.provider];
        p.count_time(attempt.started, now);
        let blame = blame(error);
        // A silence or a line that broke, when this process was stopped for a while, say: all that waited in it were hit by it.
        let was_counted = p.last_strike.is_some_and(|at| attempt.started <= at);
        if was_counted && matches!(blame, Blame::Strike) {
            return;
        }
        p.score.on_failure();
        if p.report.failures.len() < 16 {
            p.report.failures.push(error.to_string());
        }
        match blame {
            Blame::Lie => {
                p.dead = true;
                p.report.lied = true;
            }
            Blame::Wrong => p.dead = true,
            Blame::Gone => {
                self.shards[attempt.shard]
                    .sources
                    .retain(|&source| source != attempt.provider);
                p.report.lost = true;
                self.causes.push((p.peer, index, error.to_string()));
                return;
            }
            Blame::Busy(pause) => {
                p.busy += 1;
                p.not_before = Some(now + pause);
                p.dead = p.busy >= MAX_BUSY;
            }
            Blame::Strike => {
                p.strikes += 1;
                p.last_strike = Some(now);
                p.not_before = Some(now + FIRST_PAUSE * (1 << p.strikes.min(6)));
                p.dead = p.strikes >= max_strikes;
            }
        }
        if p.dead {
            p.report.lost = true;
            let peer = p.peer;
            let cause = error.to_string();
            for shard in self
                .shards
                .iter_mut()
                .filter(|shard| shard.sources.contains(&attempt.provider))
            {
                shard.sources.retain(|&source| source != attempt.provider);
                self.causes.push((peer, shard.index, cause.clone()));
            }
        }
    }

    /// Whether some unit can no longer get k shards.
    fn hopeless(&self) -> Option<FetchError> {
        let alive = |shard: &&Shard| !shard.sources.is_empty();
        let left = self.shards.iter().filter(alive).count();
        if left >= self.k {
            return None;
        }
        let stuck = |unit: &UnitState| {
            let others = self
                .shards
                .iter()
                .filter(alive)
                .filter(|shard| !unit.done.contains_key(&shard.index))
                .count();
            unit.done.len() + others < self.k
        };
        // What is complete is still handed out first.
        let complete_first = self
            .units
            .front()
            .is_some_and(|unit| unit.done.len() >= self.k);
        let needed = !self.pending.is_empty() || self.units.iter().any(stuck);
        if complete_first || !needed {
            return None;
        }
        Some(FetchError {
            k: self.k as u16,
            left: left as u16,
            causes: self.causes.clone(),
        })
    }

    fn unit(&self, unit: u64) -> Option<&UnitState> {
        self.units
            .get(usize::try_from(unit.checked_sub(self.first_unit)?).ok()?)
    }

    fn unit_mut(&mut self, unit: u64) -> Option<&mut UnitState> {
        self.units
            .get_mut(usize::try_from(unit.checked_sub(self.first_unit)?).ok()?)
    }
}

enum Blame {
    /// Proven wrong bytes or broken protocol.
    Lie,
    /// Not the peer we mean; asking again cannot help.
    Wrong,
    /// This source has not got the piece.
    Gone,
    /// Come back later.
    Busy(Duration),
    /// Unreachable, broke off, stalled, failed inside.
    Strike,
}

fn blame(error: &Error) -> Blame {
    match error {
        Error::WrongPeer { .. } => Blame::Wrong,
        error if error.is_lie() => Blame::Lie,
        Error::Refused(failure) => match failure.code {
            FailureCode::RateLimited => {
                let asked = Duration::from_millis(failure.retry_after_ms.into());
                Blame::Busy(asked.clamp(FIRST_PAUSE, MAX_RETRY_AFTER))
            }
            FailureCode::Internal => Blame::Strike,
            _ => Blame::Gone,
        },
        _ => Blame::Strike,
    }
}

/// A request that makes sense.
fn check(request: &FetchRequest) -> Result<(), Error> {
    let invalid = |why: String| Err(Error::Invalid(why));
    if request.k == 0 || request.shards.len() < usize::from(request.k) {
        return invalid(format!(
            "{} shards given, k is {}",
            request.shards.len(),
            request.k
        ));
    }
    let size = request.shards[0].piece.size;
    if size == 0 || size > MAX_PIECE_BYTES {
        return invalid(format!("shards of {size} bytes"));
    }
    let mut seen = BTreeSet::new();
    for shard in &request.shards {
        if shard.piece.size != size || !seen.insert(shard.index) {
            return invalid(format!(
                "shard {} appears twice or differs in size",
                shard.index
            ));
        }
    }
    let mut end = 0;
    for range in &request.ranges {
        if range.start >= range.end || range.start < end || range.end > size {
            return invalid(format!(
                "range {}..{} of a shard of {size} bytes",
                range.start, range.end
            ));
        }
        end = range.end;
    }
    Ok(())
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
