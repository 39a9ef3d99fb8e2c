//! Reading back: ranges of any k of n shards, from several providers at once, the slow ones replaced.
//!
//! Walk: `client::get` asks here and decodes what comes; [`plan`] decides, [`score`] remembers, this file moves bytes.
//! Spec: `network.md` §2.4. Threats P23 (n − k providers silent, slow or lying: the read completes), R2.
//! Memory: [`FetchLimits::in_flight_bytes`] of shards asked for or waiting to be taken, a quarter more while hedging, and
//! QUIC's windows, which hold no more than was asked for.
//! Crash: nothing is kept here; a caller that wants to go on where it stopped keeps a [`crate::resume::Bitmap`] and asks
//! for what is missing.
//!
//! ```no_run
//! # async fn example(endpoint: retrieval::Endpoint, request: retrieval::FetchRequest) -> Result<(), Box<dyn std::error::Error>> {
//! use retrieval::{FetchLimits, Fetcher};
//! let fetcher = Fetcher::new(endpoint, FetchLimits::default());
//! let mut fetch = fetcher.fetch(request)?;
//! while let Some(unit) = fetch.next().await? {
//!     // exactly k shards of unit.range, verified: decode, decrypt, write
//! }
//! # Ok(()) }
//! ```

pub mod plan;
pub mod score;

use std::{
    collections::HashMap,
    fmt,
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use plan::{Arrived, AttemptId, Command, Plan};
use score::Scores;
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
};

use crate::{
    endpoint::{Endpoint, PieceKey, Session, lock},
    error::Error,
    limits::FetchLimits,
    peer::PeerAddr,
    range::Ranges,
    session::GetStep,
};

/// Where one shard can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardSource {
    /// Its place in the code: 0..k are data, the rest parity.
    pub index: u16,
    /// Root and size; all shards of a request have one size.
    pub piece: PieceKey,
    /// Providers that hold it, best first if the caller knows.
    pub providers: Vec<PeerAddr>,
}

/// "Any k of these shards, for these bytes."
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchRequest {
    /// Shards needed for each byte.
    pub k: u16,
    /// The shards of one segment.
    pub shards: Vec<ShardSource>,
    /// Bytes of the shards (the same in each) that are wanted, ascending and disjoint: what a resume bitmap still misses,
    /// or the whole.
    pub ranges: Vec<Range<u64>>,
}

/// One work unit, complete: the same bytes of exactly k shards, verified.
#[derive(Clone, Debug)]
pub struct Unit {
    /// Which bytes of the shards. Units do not cross multiples of the unit size ([`Fetch::unit_bytes`]).
    pub range: Range<u64>,
    /// Exactly k shards in ascending order of index; each has `range.end - range.start` bytes.
    pub shards: Vec<(u16, Bytes)>,
}

/// Why a fetch could not finish: fewer than k shards are left, and this is what each provider did.
#[derive(Clone, Debug)]
pub struct FetchError {
    /// Shards needed.
    pub k: u16,
    /// Shards that can still be read.
    pub left: u16,
    /// Every provider that failed, with its shard and cause.
    pub causes: Vec<(PeerAddr, u16, String)>,
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "only {} shards of the {} needed can be read",
            self.left, self.k
        )?;
        for (peer, shard, cause) in &self.causes {
            write!(f, "; shard {shard} at {peer}: {cause}")?;
        }
        Ok(())
    }
}

impl std::error::Error for FetchError {}

/// What a fetch cost and who did what.
#[derive(Clone, Debug, Default)]
pub struct FetchReport {
    /// Shard bytes delivered.
    pub bytes: u64,
    /// Shard bytes that came in vain.
    pub wasted_bytes: u64,
    /// Requests made because another was late.
    pub hedges: u32,
    /// Each provider's part.
    pub providers: Vec<ProviderReport>,
}

/// One provider's part in a fetch.
#[derive(Clone, Debug)]
pub struct ProviderReport {
    /// Who.
    pub peer: PeerAddr,
    /// Units it completed in time.
    pub units: u32,
    /// Shard bytes of them.
    pub bytes: u64,
    /// From asking for its first unit that came to that one's first byte, the handshake included.
    pub first_byte: Option<Duration>,
    /// How long at least one request to it was under way: what its slowness is measured by, whatever the caller does meanwhile.
    pub asked_for: Duration,
    /// Requests that somebody else was asked too, or instead, because it was late.
    pub late: u32,
    /// Failures, oldest first, the first 16; "busy" is one.
    pub failures: Vec<String>,
    /// It failed so that it was not asked again.
    pub lost: bool,
    /// Proven to have sent wrong bytes or broken the protocol: the caller should avoid and report it.
    pub lied: bool,
}

/// Reads from many providers; remembers how each did. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Fetcher {
    endpoint: Endpoint,
    limits: FetchLimits,
    scores: Arc<Mutex<Scores>>,
}

impl Fetcher {
    /// A fetcher over this endpoint.
    pub fn new(endpoint: Endpoint, limits: FetchLimits) -> Self {
        Self {
            endpoint,
            limits,
            scores: Arc::default(),
        }
    }

    /// Starts a fetch; an error means that the request makes no sense. Units come from [`Fetch::next`] in ascending
    /// order. Must be called inside a tokio runtime.
    pub fn fetch(&self, request: FetchRequest) -> Result<Fetch, Error> {
        let plan = Plan::new(request, self.limits.clone(), &lock(&self.scores))?;
        let peers: Vec<_> = plan.peers().collect();
        let window = (2 * self.limits.in_flight_bytes / peers.len().max(1) as u64)
            .min(self.endpoint.limits().client_window_bytes)
            .max(2 * plan.unit_bytes());
        let (events, arrivals) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            endpoint: self.endpoint.clone(),
            window,
            events,
        });
        let mut tasks = JoinSet::new();
        for peer in peers {
            // Warm all of them at once, so that the first hedge does not wait for a handshake.
            let shared = shared.clone();
            tasks.spawn(async move { drop(shared.session(peer).await) });
        }
        let running = HashMap::new();
        Ok(Fetch {
            plan,
            shared,
            arrivals,
            tasks,
            running,
            scores: self.scores.clone(),
        })
    }

    /// What is known of the providers met so far.
    pub fn scores(&self) -> Scores {
        lock(&self.scores).clone()
    }
}

struct Shared {
    endpoint: Endpoint,
    window: u64,
    /// Not bounded by itself: each running attempt sends one event, and the plan bounds the attempts.
    events: mpsc::UnboundedSender<Event>,
}

impl Shared {
    async fn session(&self, peer: PeerAddr) -> Result<Session, Error> {
        let session = self.endpoint.session(peer).await?;
        session.set_receive_window(self.window);
        Ok(session)
    }
}

struct Event {
    attempt: AttemptId,
    outcome: Result<Arrived, Error>,
}

struct Running {
    task: AbortHandle,
    received: Arc<AtomicU64>,
}

/// A running fetch. Dropping it cancels everything in flight.
pub struct Fetch {
    plan: Plan,
    shared: Arc<Shared>,
    arrivals: mpsc::UnboundedReceiver<Event>,
    tasks: JoinSet<()>,
    running: HashMap<AttemptId, Running>,
    scores: Arc<Mutex<Scores>>,
}

impl Fetch {
    /// The next unit; `None` when all ranges are done. Requests go out and are replaced only while this is being
    /// awaited; what is in flight goes on arriving meanwhile. Safe to cancel and call again.
    pub async fn next(&mut self) -> Result<Option<Unit>, FetchError> {
        loop {
            let now = Instant::now();
            self.note_progress(now);
            while let Ok(event) = self.arrivals.try_recv() {
                self.on_event(event, now);
            }
            let commands = self.plan.poll(now)?;
            self.obey(commands);
            if let Some(unit) = self.plan.take_ready() {
                return Ok(Some(unit));
            }
            if self.plan.is_finished() {
                return Ok(None);
            }
            tokio::select! {
                event = self.arrivals.recv() => {
                    let event = event.expect("the fetch itself holds a sender");
                    self.on_event(event, Instant::now());
                }
                () = tokio::time::sleep_until(self.plan.next_wakeup(now).into()) => {}
            }
            while self.tasks.try_join_next().is_some() {}
        }
    }

    /// Bytes of one shard in a full unit.
    pub fn unit_bytes(&self) -> u64 {
        self.plan.unit_bytes()
    }

    /// How it went so far.
    pub fn report(&self) -> FetchReport {
        self.plan.report()
    }

    fn note_progress(&mut self, now: Instant) {
        for (id, running) in &self.running {
            self.plan
                .on_progress(*id, running.received.load(Ordering::Relaxed), now);
        }
    }

    fn on_event(&mut self, event: Event, now: Instant) {
        self.running.remove(&event.attempt);
        let commands = match event.outcome {
            Ok(arrived) => self.plan.on_arrived(event.attempt, arrived, now),
            Err(error) => {
                tracing::debug!(%error, "a provider failed");
                self.plan.on_failed(event.attempt, &error, now);
                Vec::new()
            }
        };
        self.obey(commands);
    }

    fn obey(&mut self, commands: Vec<Command>) {
        for command in commands {
            match command {
                Command::Start {
                    attempt,
                    peer,
                    piece,
                    range,
                } => {
                    let received = Arc::new(AtomicU64::new(0));
                    let work = run(
                        self.shared.clone(),
                        attempt,
                        peer,
                        piece,
                        range,
                        received.clone(),
                    );
                    let task = self.tasks.spawn(work);
                    self.running.insert(attempt, Running { task, received });
                }
                Command::Cancel(attempt) => {
                    if let Some(running) = self.running.remove(&attempt) {
                        running.task.abort();
                    }
                }
            }
        }
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        let mut scores = lock(&self.scores);
        for (peer, score) in self.plan.scores() {
            scores.set(peer, score);
        }
    }
}

impl fmt::Debug for Fetch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetch")
            .field("running", &self.running.len())
            .finish_non_exhaustive()
    }
}

/// One attempt, from session to verified bytes. Being aborted drops the stream, which tells the provider to stop.
async fn run(
    shared: Arc<Shared>,
    attempt: AttemptId,
    peer: PeerAddr,
    piece: PieceKey,
    range: Range<u64>,
    received: Arc<AtomicU64>,
) {
    let outcome = read_range(&shared, peer, piece, range, &received).await;
    // The fetch may be gone; then nobody wants to know.
    let _ = shared.events.send(Event { attempt, outcome });
}

async fn read_range(
    shared: &Shared,
    peer: PeerAddr,
    piece: PieceKey,
    range: Range<u64>,
    received: &AtomicU64,
) -> Result<Arrived, Error> {
    let begin = Instant::now();
    let session = shared.session(peer).await?;
    let ranges = Ranges::single(range.clone())?;
    // One block for the whole unit: its bytes are copied once, to where the caller decodes them.
    let block_bytes = ranges
        .to_groups(piece.size)?
        .bytes()
        .next_multiple_of(crate::range::GROUP_BYTES);
    let block_bytes =
        usize::try_from(block_bytes).map_err(|_| Error::Invalid("unit too large".into()))?;
    let mut stream = session.get_in_blocks(piece, &ranges, block_bytes).await?;
    let (mut first_byte, mut data) = (None, None);
    loop {
        let step = stream.step().await?;
        first_byte.get_or_insert_with(|| begin.elapsed());
        received.store(stream.received(), Ordering::Relaxed);
        match step {
            GetStep::More => {}
            GetStep::Block(block) => {
                let skip = (range.start - block.offset) as usize;
                data = Some(
                    block
                        .data
                        .slice(skip..skip + (range.end - range.start) as usize),
                );
            }
            GetStep::Done(_) => break,
        }
    }
    let data = data.ok_or_else(|| Error::Protocol("no block".into()))?;
    Ok(Arrived {
        data,
        first_byte: first_byte.unwrap_or_default(),
        took: begin.elapsed(),
    })
}
