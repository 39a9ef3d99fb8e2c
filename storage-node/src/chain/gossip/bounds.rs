//! What bounds gossip: how fast a peer may talk, what was passed on already, what waits to be sent. No I/O, no clock of its own.
//!
//! Walk: [`super`] asks these before it reads, passes on or writes. Threats N4 and V8 (floods), V4 (a proof is not crowded out of
//! a queue). Times are durations since the node began.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use chain_lite::account::TxId;
use retrieval::PeerId;
use retrieval::peer::network_of;
use tokio_util::sync::CancellationToken;

use super::{MAX_STRANGERS, STRANGERS_PER_ADDRESS};

/// Ids that wait for one peer, in each of its queues.
pub(super) const QUEUE: usize = 8_192;
/// Transactions of this node's own clients that are sent again until a block carries them; of proofs as many again.
pub(super) const MAX_OWN: usize = 16_384;
/// Ids remembered as passed on, in each of two generations.
const MAX_RECENT: usize = 65_536;
/// How long a generation lasts: an id is passed on once in one to two of them.
const GENERATION: Duration = Duration::from_secs(15);
/// Sources with a meter; each is forgotten when it owes nothing.
const MAX_METERS: usize = 4_096;
/// How much of its rate a source may use at once.
const BURST: Duration = Duration::from_secs(2);

/// A stranger keeps its seat so long after it came or brought something new.
const SEAT_KEPT: Duration = Duration::from_secs(10);

/// Who is counted as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    /// A key from the network file, the command line or the validator set.
    Known(PeerId),
    /// Anybody else, by address: keys are free to make.
    Stranger(IpAddr),
}

impl Source {
    /// A stranger at this address; an IPv6 network of 64 bits is one source, as it has one owner.
    pub(super) fn stranger(ip: IpAddr) -> Self {
        Self::Stranger(network_of(ip))
    }

    fn rate(self) -> Rate {
        match self {
            Self::Known(_) => KNOWN,
            Self::Stranger(_) => STRANGER,
        }
    }
}

/// What a source may say in a second.
struct Rate {
    txs: u32,
    bytes: u32,
}

/// A validator passes on what its clients and other peers say.
const KNOWN: Rate = Rate {
    txs: 5_000,
    bytes: 8 << 20,
};
/// A follower passes on what its clients say.
const STRANGER: Rate = Rate {
    txs: 200,
    bytes: 512 << 10,
};

/// Until when what was said is paid for, at the source's rates.
#[derive(Clone, Copy, Debug, Default)]
struct Meter {
    txs: Duration,
    bytes: Duration,
}

/// Token buckets that may go into debt: what was heard costs afterwards, and the debt is waited for before the next word.
#[derive(Debug, Default)]
pub(super) struct Meters(BTreeMap<Source, Meter>);

impl Meters {
    /// How long `source` must not be read from. `None`: too many sources owe something, and this one is new.
    pub(super) fn wait(&mut self, source: Source, now: Duration) -> Option<Duration> {
        if self.0.len() >= MAX_METERS && !self.0.contains_key(&source) {
            self.0.retain(|_, m| m.txs.max(m.bytes) > now);
            if self.0.len() >= MAX_METERS {
                return None;
            }
        }
        let meter = self.0.get(&source).copied().unwrap_or_default();
        Some(meter.txs.max(meter.bytes).saturating_sub(now + BURST))
    }

    /// Counts what `source` said.
    pub(super) fn charge(&mut self, source: Source, now: Duration, txs: u32, bytes: usize) {
        let rate = source.rate();
        let meter = self.0.entry(source).or_default();
        let share = |part: u32, of: u32| Duration::from_secs(1) * part / of;
        meter.txs = meter.txs.max(now) + share(txs, rate.txs);
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        meter.bytes = meter.bytes.max(now) + share(bytes, rate.bytes);
    }
}

/// Who of the strangers may stay, so that neither one address nor many that bring nothing keep out one that does.
#[derive(Debug, Default)]
pub(super) struct Seats {
    next: u64,
    held: BTreeMap<u64, Sitting>,
}

#[derive(Debug)]
struct Sitting {
    source: Source,
    /// When it came, or brought something new.
    useful: Duration,
    given_away: CancellationToken,
}

impl Seats {
    /// A seat's number, and what tells its holder to go. Where there is none, who brought nothing new for longest gives its own:
    /// of the newcomer's address if that has its share, or else of all. `None`: all are used.
    pub(super) fn take(
        &mut self,
        source: Source,
        now: Duration,
    ) -> Option<(u64, CancellationToken)> {
        let of_source = self.held.values().filter(|s| s.source == source).count();
        let full = of_source >= STRANGERS_PER_ADDRESS;
        if full || self.held.len() >= MAX_STRANGERS {
            let asked = self
                .held
                .iter()
                .filter(|(_, s)| !full || s.source == source);
            let (number, useful) = asked
                .map(|(number, s)| (*number, s.useful))
                .min_by_key(|(_, useful)| *useful)?;
            if now.saturating_sub(useful) < SEAT_KEPT {
                return None;
            }
            self.held.remove(&number)?.given_away.cancel();
        }
        let (number, given_away) = (self.next, CancellationToken::new());
        self.next += 1;
        let sitting = Sitting {
            source,
            useful: now,
            given_away: given_away.clone(),
        };
        self.held.insert(number, sitting);
        Some((number, given_away))
    }

    /// Its holder brought something new.
    pub(super) fn useful(&mut self, number: u64, now: Duration) {
        if let Some(sitting) = self.held.get_mut(&number) {
            sitting.useful = now;
        }
    }

    #[cfg(test)]
    pub(super) fn tokens(&self) -> Vec<CancellationToken> {
        let all = self.held.values();
        all.map(|sitting| sitting.given_away.clone()).collect()
    }

    /// Its holder is gone.
    pub(super) fn leave(&mut self, number: u64) {
        self.held.remove(&number);
    }
}

/// Ids that were passed on lately: so that none goes round for ever, even where pools take in and drop the same one again.
#[derive(Debug, Default)]
pub(super) struct Recent {
    since: Duration,
    now: BTreeSet<TxId>,
    before: BTreeSet<TxId>,
}

impl Recent {
    /// Remembers an id; false if it is remembered already.
    pub(super) fn insert(&mut self, id: TxId, now: Duration) -> bool {
        let age = now.saturating_sub(self.since);
        if age >= GENERATION || self.now.len() >= MAX_RECENT {
            self.before = std::mem::take(&mut self.now);
            self.since = now;
        }
        if age >= 2 * GENERATION {
            self.before.clear();
        }
        !self.before.contains(&id) && self.now.insert(id)
    }

    pub(super) fn contains(&self, id: &TxId) -> bool {
        self.now.contains(id) || self.before.contains(id)
    }
}

/// Before what a transaction goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    /// A provider's proof, whoever brought it: a deadline waits for it.
    Proof,
    /// Our clients'.
    Own,
    /// What we pass on.
    Passed,
}

/// What waits for one peer: ids only, the bytes stay in the pool, and what left the pool meanwhile is not sent.
#[derive(Debug, Default)]
pub(super) struct Queues {
    /// By rank.
    ids: [VecDeque<TxId>; 3],
    queued: BTreeSet<TxId>,
}

impl Queues {
    /// Queues an id once, behind others of its rank. False if there is no room: the newest is dropped, so that of one sender's the runnable ones remain.
    pub(super) fn push(&mut self, id: TxId, rank: Rank) -> bool {
        let queue = &mut self.ids[rank as usize];
        if queue.len() >= QUEUE {
            return self.queued.contains(&id);
        }
        if self.queued.insert(id) {
            queue.push_back(id);
        }
        true
    }

    pub(super) fn pop(&mut self) -> Option<TxId> {
        let id = self.ids.iter_mut().find_map(VecDeque::pop_front)?;
        self.queued.remove(&id);
        Some(id)
    }

    /// Gives back what [`Queues::pop`] gave and could not be sent.
    pub(super) fn put_back(&mut self, id: TxId) {
        if self.queued.insert(id) {
            self.ids[Rank::Proof as usize].push_front(id);
        }
    }

    /// Drops what comes before the next that is wanted; false if nothing is.
    pub(super) fn skip_to(&mut self, wanted: impl Fn(&TxId) -> bool) -> bool {
        for queue in &mut self.ids {
            while let Some(id) = queue.front() {
                if wanted(id) {
                    return true;
                }
                self.queued.remove(id);
                queue.pop_front();
            }
        }
        false
    }
}

/// This node's own clients' transactions, in the order in which they came; proofs have a list of their own.
#[derive(Debug, Default)]
pub(super) struct Own {
    proofs: VecDeque<TxId>,
    rest: VecDeque<TxId>,
    ids: BTreeSet<TxId>,
}

impl Own {
    /// Notes an id; false if it is noted already. Above [`MAX_OWN`] it is not noted: it is sent once.
    pub(super) fn insert(&mut self, id: TxId, rank: Rank) -> bool {
        if self.ids.contains(&id) {
            return false;
        }
        let list = match rank {
            Rank::Proof => &mut self.proofs,
            Rank::Own | Rank::Passed => &mut self.rest,
        };
        if list.len() < MAX_OWN {
            self.ids.insert(id);
            list.push_back(id);
        }
        true
    }

    /// Those that still wait, as `waits` says, proofs first; the others are forgotten.
    pub(super) fn waiting(&mut self, waits: impl Fn(&TxId) -> bool) -> Vec<TxId> {
        self.proofs.retain(&waits);
        self.rest.retain(&waits);
        let all: Vec<TxId> = self.proofs.iter().chain(&self.rest).copied().collect();
        self.ids = all.iter().copied().collect();
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u64) -> TxId {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&n.to_be_bytes());
        TxId(id)
    }

    const PEER: Source = Source::Known(PeerId([1; 32]));
    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn tm_n4_a_source_has_a_burst_and_then_its_rate_of_transactions() {
        let mut meters = Meters::default();
        meters.charge(PEER, s(10), 2 * KNOWN.txs, 0);
        assert_eq!(meters.wait(PEER, s(10)), Some(s(0)), "the burst");
        meters.charge(PEER, s(10), KNOWN.txs, 0);
        assert_eq!(meters.wait(PEER, s(10)), Some(s(1)));
        assert_eq!(meters.wait(PEER, s(11)), Some(s(0)));
        let other = Source::Known(PeerId([2; 32]));
        assert_eq!(meters.wait(other, s(10)), Some(s(0)), "each its own");
        // Silence saves up no more than the burst.
        meters.charge(PEER, s(100), 3 * KNOWN.txs, 0);
        assert_eq!(meters.wait(PEER, s(100)), Some(s(1)));
    }

    #[test]
    fn tm_n4_bytes_count_as_well_as_transactions() {
        let mut meters = Meters::default();
        for _ in 0..3 * 8 {
            meters.charge(PEER, s(0), 1, 1 << 20);
        }
        let wait = meters.wait(PEER, s(0)).unwrap();
        assert_eq!(wait, s(1));
    }

    #[test]
    fn tm_n4_a_strangers_source_is_its_network_and_it_has_less() {
        let at = |text: &str| Source::stranger(text.parse().unwrap());
        assert_eq!(at("2001:db8::1"), at("2001:db8::ffff:2"));
        assert_ne!(at("2001:db8::1"), at("2001:db8:0:1::1"));
        assert_ne!(at("10.0.0.1"), at("10.0.0.2"));
        assert_eq!(at("::ffff:10.0.0.1"), at("10.0.0.1"));
        let mut meters = Meters::default();
        meters.charge(at("10.0.0.1"), s(0), 3 * STRANGER.txs, 0);
        assert_eq!(meters.wait(at("10.0.0.1"), s(0)), Some(s(1)));
    }

    #[test]
    fn tm_n4_meters_are_few_and_are_forgotten_when_nothing_is_owed() {
        let mut meters = Meters::default();
        for n in 0..MAX_METERS as u32 {
            meters.charge(
                Source::stranger(IpAddr::from(n.to_be_bytes())),
                s(0),
                200,
                0,
            );
        }
        let new = Source::stranger([99, 0, 0, 1].into());
        assert_eq!(meters.wait(new, s(0)), None);
        let one_of_them = Source::stranger([0, 0, 0, 1].into());
        assert_eq!(meters.wait(one_of_them, s(0)), Some(s(0)), "it has its own");
        // A second's worth is paid for when the second is over.
        assert_eq!(meters.wait(new, s(1)), Some(s(0)));
        assert!(meters.0.is_empty());
    }

    #[test]
    fn an_id_is_passed_on_once_and_again_only_after_a_while() {
        let mut recent = Recent::default();
        assert!(recent.insert(id(1), s(0)) && !recent.insert(id(1), s(1)));
        assert!((2..9).all(|n| recent.insert(id(n), s(2)) && !recent.contains(&id(n + 1))));
        assert!((1..9).all(|n| !recent.insert(id(n), s(3))));
        assert!(!recent.insert(id(1), s(16)), "the generation before");
        assert!(recent.contains(&id(1)));
        assert!(recent.insert(id(1), s(50)));
        // By number as well as by time.
        for n in 0..3 * MAX_RECENT as u64 {
            recent.insert(id(n), s(50));
        }
        assert!(recent.now.len() + recent.before.len() <= 2 * MAX_RECENT);
    }

    #[test]
    fn tm_v4_proofs_go_before_a_flood_of_own_clients_and_that_before_what_is_passed_on() {
        let mut queues = Queues::default();
        for n in 0..2 * QUEUE as u64 {
            queues.push(id(n), Rank::Passed);
            queues.push(id((1 << 40) + n), Rank::Own);
        }
        assert!(queues.push(id(u64::MAX), Rank::Proof));
        assert_eq!(queues.pop(), Some(id(u64::MAX)));
        let rest: Vec<TxId> = std::iter::from_fn(|| queues.pop()).collect();
        assert_eq!(rest.len(), 2 * QUEUE);
        assert_eq!((rest[0], rest[QUEUE]), (id(1 << 40), id(0)));
        assert!(queues.queued.is_empty());
    }

    #[test]
    fn what_nobody_waits_for_any_more_is_skipped() {
        let mut queues = Queues::default();
        for n in 0..3 {
            queues.push(id(n), Rank::Own);
        }
        assert!(queues.skip_to(|i| *i == id(1)));
        assert!(queues.skip_to(|i| *i != id(0)));
        assert_eq!((queues.pop(), queues.pop()), (Some(id(1)), Some(id(2))));
        queues.push(id(3), Rank::Own);
        assert!(!queues.skip_to(|_| false));
        assert!(queues.push(id(3), Rank::Passed) && queues.pop() == Some(id(3)));
    }

    fn stranger(n: u8) -> Source {
        Source::stranger([10, 0, 0, n].into())
    }

    #[test]
    fn tm_n4_one_address_has_few_seats_and_who_brings_nothing_gives_way() {
        let mut seats = Seats::default();
        let share = STRANGERS_PER_ADDRESS;
        let (idle, mut gone): (Vec<u64>, Vec<_>) = (0..share)
            .map(|_| seats.take(stranger(1), s(0)).expect("its share"))
            .unzip();
        assert!(seats.take(stranger(1), s(9)).is_none(), "it has its share");
        let (_, stays) = seats.take(stranger(2), s(0)).expect("another address");
        // All but one brought something lately: that one goes, and nobody of another address.
        for number in &idle[1..] {
            seats.useful(*number, s(9));
        }
        assert!(seats.take(stranger(1), s(10)).is_some());
        assert!(gone.remove(0).is_cancelled() && !stays.is_cancelled());
        assert!(gone.iter().all(|token| !token.is_cancelled()));
        assert_eq!(seats.held.len(), share + 1);
    }

    #[test]
    fn tm_n4_many_addresses_that_bring_nothing_do_not_keep_out_one_that_does() {
        let mut seats = Seats::default();
        let all: Vec<_> = (0..MAX_STRANGERS as u8)
            .map(|n| seats.take(stranger(n), s(0)).expect("a seat"))
            .collect();
        assert!(seats.take(stranger(99), s(9)).is_none(), "too soon");
        seats.useful(all[0].0, s(9));
        let (honest, stays) = seats.take(stranger(99), s(10)).expect("the second's");
        assert!(all[1].1.is_cancelled() && !all[0].1.is_cancelled());
        seats.useful(honest, s(11));
        // They come back, each for another of them.
        for n in 0..MAX_STRANGERS as u8 - 2 {
            assert!(seats.take(stranger(100 + n), s(12)).is_some());
        }
        assert!(!stays.is_cancelled() && !all[0].1.is_cancelled());
        assert!(seats.take(stranger(200), s(12)).is_none());
        // Who left has no say any more, and its seat is there for the next.
        seats.leave(honest);
        seats.useful(honest, s(12));
        assert!(seats.take(stranger(200), s(12)).is_some());
        assert_eq!(seats.held.len(), MAX_STRANGERS);
    }

    #[test]
    fn an_id_is_queued_once() {
        let mut queues = Queues::default();
        for rank in [Rank::Own, Rank::Passed, Rank::Proof] {
            assert!(queues.push(id(1), rank));
        }
        queues.push(id(2), Rank::Own);
        assert_eq!(queues.pop(), Some(id(1)));
        queues.put_back(id(1));
        assert_eq!(queues.pop(), Some(id(1)), "what was not sent is next");
        assert_eq!((queues.pop(), queues.pop()), (Some(id(2)), None));
    }

    #[test]
    fn own_transactions_are_kept_in_order_until_they_are_gone_and_are_bounded() {
        let mut own = Own::default();
        let mine = Rank::Own;
        assert!(own.insert(id(2), mine) && own.insert(id(1), mine) && !own.insert(id(2), mine));
        assert_eq!(own.waiting(|_| true), [id(2), id(1)]);
        assert_eq!(own.waiting(|i| *i == id(1)), [id(1)]);
        assert!(own.insert(id(2), mine), "forgotten, so it is new");
        for n in 0..2 * MAX_OWN as u64 {
            own.insert(id(n), mine);
        }
        assert_eq!(own.waiting(|_| true).len(), MAX_OWN);
        // A flood leaves room for proofs, and they are sent again first (V4).
        assert!(own.insert(id(u64::MAX), Rank::Proof));
        assert_eq!(own.waiting(|_| true)[0], id(u64::MAX));
    }
}
