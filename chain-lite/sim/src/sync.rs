//! How a node catches up: Malachite's own sync core, and around it what its engine does.
//!
//! Walk: [`Sync`] is told what its peers say and what consensus has come to, and leaves in [`Sync::wanted`] what its node is to do:
//! [`Do`]. A status names a tip; the core asks a peer that is ahead for a range; what comes is buffered until consensus is there,
//! which verifies the certificate; a fault is blamed on the request that brought it, and its range asked of another peer. The
//! steps are those of `arc-malachitebft-engine`'s `sync.rs`; ranges, batches, requests at once, read-ahead, retries and whom a
//! retry may not ask are the core's ([`malachite_sync::State`]).
//!
//! Deterministic, from the outside:
//! * **who is asked**: the core draws among the peers that it finds fit, in the order of a hash map, by their scores. Here the scores
//!   that it reads are powers of four along an order that the run's seed draws ([`Scores`]), and its dice always show the
//!   middle: it takes the first of that order among those that it finds fit, however they lie in its map;
//! * **scores** are the core's formula over virtual times, and weigh that order;
//! * the limit of requests from a peer per time knows only the real clock, so it is out of reach here;
//! * its metrics take real times, and nothing reads them.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chain_lite_bft::app::{ANSWER_WITHIN, STATUS_EVERY};
use chain_lite_bft::context::{ChainContext, Height};
use malachite_core_consensus::util::bounded_queue::BoundedQueue;
use malachite_core_types::ValueResponse as Taken;
use malachite_sync::scoring::ema::ExponentialMovingAverage;
use malachite_sync::scoring::{PeerScorer, Score, ScoringStrategy, SyncResult};
use malachite_sync::{
    Config, Effect, HeightStartType, InboundRequestId, Input, Metrics, OutboundFailureReason,
    OutboundRequestId, PeerId, RawDecidedValue, Request, Resumable as _, Resume, State, Status,
    ValueRequest, ValueResponse, process,
};
use rand::{Rng, RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::node::Message;

/// Machines of a run, at most.
const MACHINES: usize = 16;
/// A peer whose score has not changed for so long begins anew, as the engine's default has it.
const FORGOTTEN_MS: u64 = 60_000;
/// How long a node waits after a trouble of its own before it asks again: at first, and at most. The engine's.
const AGAIN_MS: [u64; 2] = [100, 1_000];

/// A name of the node as the cores want it: an identity multihash of its number.
pub fn peer(index: usize) -> PeerId {
    let bytes = [0x00, 0x01, u8::try_from(index).unwrap_or(u8::MAX)];
    PeerId::from_bytes(&bytes).expect("an identity multihash of one byte")
}

fn index(peer: &PeerId) -> usize {
    peer.to_bytes().last().copied().map_or(0, usize::from)
}

/// What a node wakes its sync core for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Timer {
    /// It tells its height.
    Status,
    /// It looks whether there is somebody to ask.
    Pass,
    /// A request that is not answered.
    Request(OutboundRequestId),
    /// The end of the wait after so many troubles of its own with this height.
    Again(Height, u32),
}

/// What the node does for its sync core.
#[derive(Debug)]
pub enum Do {
    /// Tell everybody the tip.
    TellTip(Height),
    /// Tell one node.
    Tell(usize, Message),
    /// Wake it.
    Wake(Timer, Duration),
    /// Look blocks up and answer with [`Sync::found`].
    LookUp(InboundRequestId, RangeInclusive<Height>),
    /// Hand a block to consensus, and blame what is wrong with it on this request.
    Judge(OutboundRequestId, Taken<ChainContext>),
}

/// What came of value sync, counted where the core says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests.
    pub asked: u64,
    /// Of those, to another peer than before, which failed.
    pub retried: u64,
    /// Answers with all that was asked for.
    pub whole: u64,
    /// Answers with the first of it.
    pub short: u64,
    /// Requests that nobody answered in time.
    pub timeouts: u64,
    /// Answers that were none, faults of blocks and certificates, and peers that could not be reached.
    pub failures: u64,
    /// Of those, faults that consensus or the application found, and that the peer is to blame for.
    pub faults: u64,
    /// Blocks that the node could not take just then.
    pub own_troubles: u64,
    /// Peers that went away.
    pub gone: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, more: Self) {
        self.asked += more.asked;
        self.retried += more.retried;
        self.whole += more.whole;
        self.short += more.short;
        self.timeouts += more.timeouts;
        self.failures += more.failures;
        self.faults += more.faults;
        self.own_troubles += more.own_troubles;
        self.gone += more.gone;
    }
}

/// The order in which peers come into question, and what they deserve.
struct Scores {
    rng: ChaCha8Rng,
    formula: ExponentialMovingAverage,
    /// Score and when it changed last.
    of: BTreeMap<usize, (Score, u64)>,
    /// Places of the machines, while an input is handled.
    places: Option<[i32; MACHINES]>,
    /// Whose score the core looked at last.
    last: usize,
    now_ms: u64,
    /// How long the answer at hand took.
    took: Duration,
    counts: Counts,
}

impl Scores {
    /// What the core is to read: each place counts more than all later ones together.
    fn weight(&mut self, machine: usize) -> Score {
        let (rng, of, formula) = (&mut self.rng, &self.of, &self.formula);
        let places = self.places.get_or_insert_with(|| draw(rng, of, formula));
        places
            .get(machine)
            .map_or(0.0, |place| 0.25f64.powi(*place))
    }
}

/// Machines drawn one after another, each by its score.
fn draw(
    rng: &mut ChaCha8Rng,
    of: &BTreeMap<usize, (Score, u64)>,
    formula: &ExponentialMovingAverage,
) -> [i32; MACHINES] {
    let score = |n: usize| of.get(&n).map_or(formula.initial_score(peer(n)), |s| s.0);
    let mut left: Vec<(usize, Score)> = (0..MACHINES).map(|n| (n, score(n))).collect();
    let mut places = [0; MACHINES];
    for place in 0..MACHINES as i32 {
        let sum: Score = left.iter().map(|(_, score)| score).sum();
        let mut at = rng.r#gen::<f64>() * sum;
        let beyond = |(_, score): &(usize, Score)| {
            at -= score;
            at < 0.0
        };
        let drawn = left.iter().position(beyond).unwrap_or(left.len() - 1);
        places[left.swap_remove(drawn).0] = place;
    }
    places
}

/// [`Scores`] as the core asks for them.
#[derive(Clone)]
struct Drawn(Arc<Mutex<Scores>>);

impl Drawn {
    fn lock(&self) -> MutexGuard<'_, Scores> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ScoringStrategy for Drawn {
    fn initial_score(&self, peer: PeerId) -> Score {
        let mut scores = self.lock();
        scores.last = index(&peer);
        let machine = scores.last;
        scores.weight(machine)
    }

    /// Of the peer that was looked at just before: the core's scorer is a new one for every input, so it does not know it yet.
    fn update_score(&mut self, weight: Score, result: SyncResult) -> Score {
        let mut scores = self.lock();
        let (took, now_ms, whose) = (scores.took, scores.now_ms, scores.last);
        let counts = &mut scores.counts;
        let result = match result {
            SyncResult::Success(_) => {
                counts.whole += 1;
                SyncResult::Success(took)
            }
            SyncResult::PartialSuccess {
                received,
                requested,
                ..
            } => {
                counts.short += 1;
                SyncResult::PartialSuccess {
                    received,
                    requested,
                    response_time: took,
                }
            }
            SyncResult::Timeout => {
                counts.timeouts += 1;
                result
            }
            SyncResult::Failure => {
                counts.failures += 1;
                result
            }
        };
        let mut formula = scores.formula;
        let first = formula.initial_score(peer(whose));
        let score = scores.of.get(&whose).map_or(first, |s| s.0);
        let next = formula.update_score(score, result);
        scores.of.insert(whose, (next, now_ms));
        weight
    }
}

/// Dice that always show the middle.
struct Middle;

impl RngCore for Middle {
    fn next_u32(&mut self) -> u32 {
        1 << 31
    }
    fn next_u64(&mut self) -> u64 {
        1 << 63
    }
    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        bytes.fill(0x80);
    }
    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), rand::Error> {
        self.fill_bytes(bytes);
        Ok(())
    }
}

struct Asked {
    peer: PeerId,
    request: Request<ChainContext>,
    at_ms: u64,
}

#[derive(Clone)]
struct Buffered {
    by: OutboundRequestId,
    value: Taken<ChainContext>,
}

/// What the engine keeps around the core.
struct Engine {
    now_ms: u64,
    /// Numbers of requests: of this start of the node, and of all that came.
    next: u64,
    came: u64,
    inflight: BTreeMap<OutboundRequestId, Asked>,
    inbound: BTreeMap<InboundRequestId, (usize, u64)>,
    queue: BoundedQueue<Height, Buffered>,
    troubles: BTreeMap<Height, u32>,
    consensus: Height,
    /// Requests of the input at hand.
    sent: Vec<OutboundRequestId>,
    out: std::collections::VecDeque<Do>,
}

/// A node's value sync.
pub struct Sync {
    core: State<ChainContext>,
    metrics: Metrics,
    engine: Engine,
    scores: Drawn,
    status_every: Duration,
    pass_every: Duration,
}

impl Sync {
    /// A node's that starts; `boots` counts its starts, so that no answer to an earlier one is taken for one to this. Asks for `batch`
    /// blocks at once, and serves no more.
    pub fn new(seed: u64, boots: u64, batch: usize) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed ^ boots << 32);
        let config = Config::new(true)
            .with_request_timeout(ANSWER_WITHIN)
            .with_batch_size(batch)
            // The real clock's.
            .with_max_inbound_requests_per_window(1_000_000_000)
            .with_inactive_threshold(None);
        // The engine's tickers are off by up to a hundredth, each by its own.
        let mut about = |every: Duration| every.mul_f64(rng.gen_range(0.99..1.01));
        let (status_every, pass_every) = (about(STATUS_EVERY), about(ANSWER_WITHIN));
        let room = 2 * config.read_ahead_window();
        let scores = Drawn(Arc::new(Mutex::new(Scores {
            rng,
            formula: ExponentialMovingAverage::default(),
            of: BTreeMap::new(),
            places: None,
            last: 0,
            now_ms: 0,
            took: Duration::ZERO,
            counts: Counts::default(),
        })));
        let mut sync = Self {
            core: State::new(Box::new(Middle), config),
            metrics: Metrics::default(),
            engine: Engine {
                now_ms: 0,
                next: boots << 32,
                came: 0,
                inflight: BTreeMap::new(),
                inbound: BTreeMap::new(),
                queue: BoundedQueue::new(room, room),
                troubles: BTreeMap::new(),
                consensus: Height(0),
                sent: Vec::new(),
                out: Default::default(),
            },
            scores,
            status_every,
            pass_every,
        };
        sync.wake(Timer::Status, status_every);
        sync.wake(Timer::Pass, pass_every);
        sync
    }

    /// What is to be done next.
    pub fn wanted(&mut self) -> Option<Do> {
        self.engine.out.pop_front()
    }

    /// The time that passes evenly, whatever the node's clock says.
    pub fn is_now(&mut self, now_ms: u64) {
        self.engine.now_ms = now_ms;
    }

    /// The first height that it serves; never less than it said before.
    pub fn serves_from(&mut self, first: Height) {
        self.core.history_min_height = self.core.history_min_height.max(first);
    }

    /// What came of it since this was asked last.
    pub fn counts(&mut self) -> Counts {
        std::mem::take(&mut self.scores.lock().counts)
    }

    /// Consensus began a height.
    pub fn started(&mut self, height: Height) {
        self.handle(Input::StartedHeight(height, HeightStartType::Start));
        let buffered: Vec<Buffered> = self.engine.queue.shift_and_take(&height).collect();
        let judged = buffered.into_iter().map(|b| Do::Judge(b.by, b.value));
        self.engine.out.extend(judged);
    }

    /// A block is final and durable.
    pub fn decided(&mut self, height: Height) {
        self.handle(Input::Decided(height));
        self.engine.troubles = self.engine.troubles.split_off(&Height(height.0 + 1));
    }

    /// The peer is to blame for a block of this height.
    pub fn fault(&mut self, peer: PeerId, height: Height, by: OutboundRequestId) {
        self.scores.lock().counts.faults += 1;
        self.engine.queue.retain(|_, buffered| buffered.by != by);
        self.handle(Input::PeerFault(peer, height, by));
    }

    /// Nobody is: the node cannot take the block now.
    pub fn own_trouble(&mut self, height: Height) {
        self.scores.lock().counts.own_troubles += 1;
        let nth = self.engine.troubles.entry(height).or_default();
        *nth += 1;
        let nth = *nth;
        let after = (AGAIN_MS[0] << (nth - 1).min(16)).min(AGAIN_MS[1]);
        self.wake(Timer::Again(height, nth), Duration::from_millis(after));
    }

    /// A peer tells its tip, and the first height that it serves.
    pub fn status(&mut self, from: usize, tip: Height, first: Height) {
        self.handle(Input::Status(Status {
            peer_id: peer(from),
            tip_height: tip,
            history_min_height: first,
        }));
    }

    /// A peer asks for blocks.
    pub fn requested(&mut self, from: usize, request: u64, range: RangeInclusive<Height>) {
        self.engine.came += 1;
        let id = InboundRequestId::new(self.engine.came);
        self.engine.inbound.insert(id.clone(), (from, request));
        let request = ValueRequest::new(range);
        self.handle(Input::ValueRequest(id, peer(from), request));
    }

    /// The blocks that it asked for, as far as they are here.
    pub fn found(
        &mut self,
        id: InboundRequestId,
        range: RangeInclusive<Height>,
        values: Vec<RawDecidedValue<ChainContext>>,
    ) {
        self.handle(Input::GotDecidedValues(id, range, values));
    }

    /// A peer answers, if only with what is no answer.
    pub fn answered(
        &mut self,
        from: usize,
        request: u64,
        answer: Option<ValueResponse<ChainContext>>,
    ) {
        let id = name(request);
        // One that was given up meanwhile, or answered.
        if let Some(asked) = self.engine.inflight.remove(&id) {
            let took = self.engine.now_ms.saturating_sub(asked.at_ms);
            self.scores.lock().took = Duration::from_millis(took);
            self.handle(Input::ValueResponse(id, peer(from), answer));
        }
    }

    /// Nobody is there whom this request could reach.
    pub fn refused(&mut self, request: u64) {
        let id = name(request);
        if let Some(asked) = self.engine.inflight.remove(&id) {
            let reason = OutboundFailureReason::DialFailure;
            self.handle(Input::SyncRequestFailed(
                id,
                asked.peer,
                asked.request,
                reason,
            ));
        }
    }

    /// A peer is connected, so it is told where this node is.
    pub fn connected(&mut self) {
        self.handle(Input::SendStatusUpdate);
    }

    /// A peer's connection broke.
    pub fn disconnected(&mut self, from: usize) {
        let whose = peer(from);
        self.scores.lock().counts.gone += u64::from(self.core.peers.contains_key(&whose));
        self.engine.inflight.retain(|_, asked| asked.peer != whose);
        self.handle(Input::PeerDisconnected(whose));
    }

    /// A timer that was asked for. One that was called off since does nothing.
    pub fn timer(&mut self, timer: Timer) {
        match timer {
            Timer::Status => {
                let now_ms = self.engine.now_ms;
                let fresh = |at: u64| now_ms < at + FORGOTTEN_MS;
                self.scores.lock().of.retain(|_, (_, at)| fresh(*at));
                self.handle(Input::SendStatusUpdate);
                self.wake(Timer::Status, self.status_every);
            }
            Timer::Pass => {
                self.handle(Input::TryRequestValues);
                self.wake(Timer::Pass, self.pass_every);
            }
            Timer::Request(id) => {
                if let Some(asked) = self.engine.inflight.remove(&id) {
                    self.handle(Input::SyncRequestTimedOut(id, asked.peer, asked.request));
                }
            }
            Timer::Again(height, nth) => {
                if self.engine.troubles.get(&height) == Some(&nth) {
                    self.handle(Input::LocalTransientError(height));
                }
            }
        }
    }

    fn wake(&mut self, timer: Timer, after: Duration) {
        self.engine.out.push_back(Do::Wake(timer, after));
    }

    fn handle(&mut self, input: Input<ChainContext>) {
        let mut scores = self.scores.lock();
        (scores.places, scores.now_ms) = (None, self.engine.now_ms);
        drop(scores);
        self.core.peer_scorer = PeerScorer::new(self.scores.clone());
        self.engine.consensus = self.core.consensus_height;
        let done = step(&mut self.core, &self.metrics, &mut self.engine, input);
        done.expect("every effect is answered as it wants to be");
        let pending = &self.core.pending_requests;
        let again = |id: &OutboundRequestId| {
            let entry = pending.get(id);
            entry.is_some_and(|entry| !entry.excluded_peers.is_empty())
        };
        let counts = &mut self.scores.lock().counts;
        for id in std::mem::take(&mut self.engine.sent) {
            counts.asked += 1;
            counts.retried += u64::from(again(&id));
        }
    }
}

fn name(request: u64) -> OutboundRequestId {
    // As long as any, so that names are in the order of their numbers.
    OutboundRequestId::new(format!("{request:020}"))
}

fn step(
    core: &mut State<ChainContext>,
    metrics: &Metrics,
    engine: &mut Engine,
    input: Input<ChainContext>,
) -> Result<(), malachite_sync::Error<ChainContext>> {
    process!(
        input: input,
        state: core,
        metrics: metrics,
        with: effect => engine.effect(effect)
    )
}

impl Engine {
    fn effect(
        &mut self,
        effect: Effect<ChainContext>,
    ) -> Result<Resume<ChainContext>, std::convert::Infallible> {
        Ok(match effect {
            Effect::BroadcastStatus(tip, r) => {
                self.out.push_back(Do::TellTip(tip));
                r.resume_with(())
            }
            Effect::SendValueRequest(peer, request, r) => {
                self.next += 1;
                let id = name(self.next);
                let (request_id, range) = (self.next, request.range.clone());
                let message = Message::Request {
                    id: request_id,
                    range,
                };
                self.out.push_back(Do::Tell(index(&peer), message));
                let timer = Timer::Request(id.clone());
                self.out.push_back(Do::Wake(timer, ANSWER_WITHIN));
                let (request, at_ms) = (Request::ValueRequest(request), self.now_ms);
                let asked = Asked {
                    peer,
                    request,
                    at_ms,
                };
                self.inflight.insert(id.clone(), asked);
                self.sent.push(id.clone());
                r.resume_with(Some(id))
            }
            Effect::SendValueResponse(id, answer, r) => {
                if let Some((to, id)) = self.inbound.remove(&id) {
                    let answer = Some(answer);
                    let message = Message::Response { id, answer };
                    self.out.push_back(Do::Tell(to, message));
                }
                r.resume_with(())
            }
            Effect::GetDecidedValues(id, range, r) => {
                self.out.push_back(Do::LookUp(id, range));
                r.resume_with(())
            }
            Effect::ProcessValueResponse(peer, by, answer, r) => {
                for raw in answer.values {
                    let (height, by) = (raw.height(), by.clone());
                    let value = raw.to_core(peer);
                    if height == self.consensus {
                        self.out.push_back(Do::Judge(by, value));
                    } else if height > self.consensus {
                        // What finds no room is asked for again.
                        self.queue.push(height, Buffered { by, value });
                    }
                }
                r.resume_with(())
            }
            Effect::CancelValueRequest(id, r) => {
                self.inflight.remove(&id);
                r.resume_with(())
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use chain_lite::block::BlockId;
    use malachite_core_types::{ExtendedCommitCertificate, Round};

    const BATCH: usize = 4;

    fn value(height: u64) -> RawDecidedValue<ChainContext> {
        let certificate = ExtendedCommitCertificate {
            height: Height(height),
            round: Round::new(0),
            value_id: BlockId([0; 32]),
            commit_signatures: Vec::new(),
        };
        RawDecidedValue::new(Default::default(), certificate)
    }

    fn answer(heights: RangeInclusive<u64>) -> Option<ValueResponse<ChainContext>> {
        let start = Height(*heights.start());
        Some(ValueResponse::new(start, heights.map(value).collect()))
    }

    /// Whom the node asked for which heights, by which request, and what it is to judge.
    #[derive(Debug, Default, PartialEq, Eq)]
    struct Wants {
        asks: Vec<(usize, RangeInclusive<u64>, u64)>,
        judges: Vec<(OutboundRequestId, u64)>,
    }

    fn wants(sync: &mut Sync) -> Wants {
        let mut wants = Wants::default();
        while let Some(next) = sync.wanted() {
            match next {
                Do::Tell(to, Message::Request { id, range }) => {
                    wants.asks.push((to, range.start().0..=range.end().0, id));
                }
                Do::Judge(by, value) => wants.judges.push((by, value.certificate.height.0)),
                _ => {}
            }
        }
        wants
    }

    /// At height 1, while these peers have [`BATCH`] blocks.
    fn behind(seed: u64, peers: &[usize]) -> Sync {
        let mut sync = Sync::new(seed, 1, BATCH);
        peers
            .iter()
            .for_each(|n| sync.status(*n, Height(4), Height(1)));
        sync.started(Height(1));
        sync
    }

    /// Answers that are none, and faults that consensus finds later: the whole range is asked of the other peer, and what else came with
    /// it is not judged any more.
    #[test]
    fn tm_v12_who_serves_what_is_no_block_is_not_asked_again_while_another_is_there() {
        let none = [
            None,
            answer(2..=4),
            answer(1..=5),
            Some(ValueResponse::new(Height(1), vec![])),
            Some(ValueResponse::new(Height(1), vec![value(1), value(3)])),
        ];
        for (seed, bad) in (0..20).zip(none.iter().cycle()) {
            let mut sync = behind(seed, &[2, 5]);
            let first = wants(&mut sync).asks;
            let [(liar, range, id)] = &first[..] else {
                panic!("{first:?}")
            };
            assert_eq!(*range, 1..=4);
            sync.answered(*liar, *id, bad.clone());
            let next = wants(&mut sync);
            let [(other, again, id)] = &next.asks[..] else {
                panic!("{next:?} after {bad:?}")
            };
            assert_eq!((*other, again), (7 - liar, range));
            assert_eq!(next.judges, []);
            let counts = sync.counts();
            assert_eq!((counts.asked, counts.retried), (2, 1));
            assert_eq!((counts.failures, counts.faults), (1, 0));

            // Its blocks look like some, the first is given to consensus, and is none.
            sync.answered(*other, *id, answer(1..=4));
            let by = name(*id);
            assert_eq!(wants(&mut sync).judges, [(by.clone(), 1)]);
            sync.fault(peer(*other), Height(1), by);
            // Now both are out of the question for these heights; whoever says that it is there begins anew.
            assert_eq!(wants(&mut sync), Wants::default());
            let counts = sync.counts();
            assert_eq!((counts.whole, counts.failures, counts.faults), (1, 1, 1));
            sync.status(7, Height(4), Height(1));
            let next = wants(&mut sync).asks;
            assert_eq!(next.len(), 1, "{next:?}");
            sync.decided(Height(1));
            sync.started(Height(2));
            assert_eq!(wants(&mut sync).judges, [], "faulty with the first");
        }
    }

    #[test]
    fn who_does_not_answer_in_time_or_is_away_gives_way_and_may_say_nothing_more() {
        for seed in 0..20 {
            for timeout in [true, false] {
                let mut sync = behind(seed, &[2, 5]);
                let (slow, range, id) = wants(&mut sync).asks.remove(0);
                match timeout {
                    true => sync.timer(Timer::Request(name(id))),
                    false => sync.refused(id),
                }
                let (other, again, next) = wants(&mut sync).asks.remove(0);
                assert_eq!((other, &again), (7 - slow, &range));
                sync.answered(slow, id, answer(1..=4));
                assert_eq!(wants(&mut sync), Wants::default());
                sync.disconnected(other);
                let third = wants(&mut sync);
                assert_eq!(third, Wants::default(), "nobody is left");
                sync.timer(Timer::Request(name(next)));
                sync.answered(other, next, answer(1..=4));
                assert_eq!(wants(&mut sync), Wants::default());
                let counts = sync.counts();
                let timeouts = u64::from(timeout);
                assert_eq!((counts.timeouts, counts.failures), (timeouts, 1 - timeouts));
                assert_eq!((counts.retried, counts.gone), (1, 1));
            }
        }
    }

    /// What comes early waits, what is short is asked for further on, and several requests are under way at once.
    #[test]
    fn blocks_come_to_consensus_in_their_order() {
        let mut sync = Sync::new(1, 1, BATCH);
        sync.status(3, Height(50), Height(1));
        sync.started(Height(1));
        let asks = wants(&mut sync).asks;
        let ranges: Vec<_> = asks.iter().map(|(_, range, _)| range.clone()).collect();
        assert_eq!(ranges, [1..=4, 5..=8, 9..=12, 13..=16, 17..=20]);
        sync.answered(3, asks[1].2, answer(5..=8));
        assert_eq!(wants(&mut sync).judges, []);
        sync.answered(3, asks[0].2, answer(1..=3));
        let next = wants(&mut sync);
        assert_eq!(next.judges, [(name(asks[0].2), 1)]);
        assert!(next.asks.iter().any(|(_, range, _)| *range == (4..=4)));
        for height in 1..3 {
            sync.decided(Height(height));
            sync.started(Height(height + 1));
            let next = wants(&mut sync);
            assert_eq!(next.judges, [(name(asks[0].2), height + 1)]);
        }
    }

    #[test]
    fn a_trouble_of_its_own_is_tried_again_later_and_later_and_nobodys_fault() {
        let mut sync = behind(1, &[2]);
        let (_, _, id) = wants(&mut sync).asks.remove(0);
        sync.answered(2, id, answer(1..=4));
        wants(&mut sync);
        let mut waits = Vec::new();
        for _ in 0..6 {
            sync.own_trouble(Height(1));
            let Some(Do::Wake(timer, after)) = sync.wanted() else {
                panic!("no wait")
            };
            waits.push(after.as_millis());
            sync.timer(timer);
            let asks = wants(&mut sync).asks;
            assert_eq!(asks.len(), 1, "{asks:?}");
            sync.answered(2, asks[0].2, answer(1..=4));
            wants(&mut sync);
        }
        assert_eq!(waits, [100, 200, 400, 800, 1_000, 1_000]);
        let counts = sync.counts();
        assert_eq!((counts.own_troubles, counts.failures), (6, 0));
        // Once the height is over, what was to be tried again is not.
        sync.own_trouble(Height(1));
        sync.decided(Height(1));
        wants(&mut sync);
        sync.timer(Timer::Again(Height(1), 7));
        assert_eq!(wants(&mut sync), Wants::default());
    }

    /// Every core has hash maps of its own order; the seed decides all the same, and lets every peer have its turn.
    #[test]
    fn tm_v3_whom_the_core_asks_is_the_seeds_choice() {
        let peers = [0, 1, 2, 3, 4, 5];
        let chosen = |seed| {
            let mut sync = behind(seed, &peers);
            let mut chosen = Vec::new();
            // Who did not answer is not asked again, until nobody is left.
            while let Some((whom, _, id)) = wants(&mut sync).asks.pop() {
                chosen.push(whom);
                sync.timer(Timer::Request(name(id)));
            }
            chosen
        };
        let all: Vec<Vec<usize>> = (0..100).map(chosen).collect();
        let again: Vec<Vec<usize>> = (0..100).map(chosen).collect();
        assert_eq!(all, again);
        for mut order in all.clone() {
            order.sort_unstable();
            assert_eq!(order, peers);
        }
        let first = |n: usize| all.iter().filter(|order| order[0] == n).count();
        assert!(peers.iter().all(|n| first(*n) > 5), "{all:?}");
    }

    /// One answers with nothing, the other well: the first one is asked seldom, until the core forgets.
    #[test]
    fn who_fails_often_is_asked_seldom_for_a_while() {
        let mut sync = Sync::new(1, 1, 1);
        sync.status(0, Height(10_000), Height(1));
        sync.status(1, Height(10_000), Height(1));
        let through = |sync: &mut Sync, heights: RangeInclusive<u64>| {
            let (mut first, mut seen) = ([0; 2], std::collections::BTreeSet::new());
            for height in heights {
                sync.started(Height(height));
                loop {
                    let asks = wants(sync).asks;
                    if asks.is_empty() {
                        break;
                    }
                    for (whom, range, id) in asks {
                        first[whom] += usize::from(seen.insert(*range.start()));
                        sync.answered(whom, id, answer(range).filter(|_| whom == 1));
                    }
                }
                sync.decided(Height(height));
            }
            first
        };
        let [bad, good] = through(&mut sync, 1..=300);
        assert!(bad > 0 && good > 10 * bad, "{bad} and {good} times");
        let [seldom, _] = through(&mut sync, 301..=340);
        sync.is_now(FORGOTTEN_MS);
        sync.timer(Timer::Status);
        let [often, _] = through(&mut sync, 341..=380);
        assert!(seldom < 3 && often > 3, "{seldom}, then {often} times");
    }
}
