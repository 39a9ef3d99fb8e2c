//! Transactions from node to node: each chain node pushes what its pool newly took to its validators and peers.
//!
//! Place in the walk: [`crate::rpc`] takes a client's transaction into the pool and [`Gossip::push`]es it; at the other nodes it
//! comes in here, goes through the same pool's checks, and is passed on. So any validator's next block can carry it, whoever was
//! told. Consensus runs on libp2p with a port of its own; this is our own QUIC ([`retrieval::endpoint::line`]). Spec: `consensus.md` §8.
//!
//! **Bytes.** ALPN `holdfast/tx/1/` and eight hex digits of the chain id (N5); one stream each way that anybody dials; frames of a
//! `u32` little-endian length and as many bytes of a [`SignedTx`], at most [`MAX_TX_BYTES`], judged before they are allocated (N3, V11).
//!
//! **Who.** A peer is its validator key: it is in the validators' cards, so the listener's is pinned, and a caller's is looked up
//! among the configured peers and the validator set. Anybody else is a stranger, such as a follower that brings its clients'
//! transactions: [`MAX_STRANGERS`] at once, few of one address, with a small share of the time. Nothing is pushed to strangers.
//! A stranger is judged when its handshake is done, so it holds no known peer's place, and goes if it says nothing. When all
//! seats are taken, who brought nothing new for longest gives its own to a newcomer.
//!
//! **Once.** What waits in the pool is not taken twice, and what was passed on lately is not passed on again, so nothing goes
//! round. An id counts as passed on only after the pool took the transaction: ids do not cover signatures, and a forged copy
//! must not shadow the honest one.
//!
//! **Bounds** (N4, V8): a token bucket of transactions and bytes for each source; what the pool refuses costs [`REFUSED_TXS`]
//! extra and is not passed on; what no state could accept costs [`FORGED_TXS`] and the line, for an honest peer's own pool refuses
//! it; who owes more than [`MAX_DEBT`] is refused until time has paid it. For each peer three queues of ids, [`bounds`]: providers' proofs go first (V4), then what our clients
//! brought, then what is passed on.
//! A peer that does not read stops its own line; one that is away is dialled again, after ever longer pauses.
//! Cost: a transaction is sent to each configured peer once by each node that has it as a peer, and checked once.
//! Crash: nothing is kept. Own transactions are pushed again every [`REPUBLISH`] until a block carries them.

mod bounds;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chain_lite::account::{ChainId, TxId};
use chain_lite::ledger::Ledger;
use chain_lite::mempool::{Mempool, SubmitError};
use chain_lite::message::{MAX_TX_BYTES, SignedTx};
use retrieval::endpoint::line::{LineConfig, LineIn, LineOut, Lines, Welcome};
use retrieval::wire::CloseCode;
use retrieval::{Error as LineError, Limits, NetSecret, PeerAddr, PeerId};
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};

use bounds::{Meters, Own, Queues, Rank, Recent, Seats, Source};

/// The protocol's name, without the chain.
pub const PROTOCOL: &str = "holdfast/tx/1";
/// Strangers that may be connected at once.
pub const MAX_STRANGERS: usize = 32;
/// Strangers of one address, or IPv6 network of 64 bits: followers may share a router.
pub const STRANGERS_PER_ADDRESS: usize = 4;
/// Extra transactions that one which the pool refuses counts as: an honest peer may be a block behind.
pub const REFUSED_TXS: u32 = 4;
/// Extra transactions that one counts as which no state could accept: forged, foreign or no transaction at all.
pub const FORGED_TXS: u32 = 1_024;
/// A source that owes more time than this is cut off: who has one line and says nothing forged never does.
pub const MAX_DEBT: Duration = Duration::from_secs(1);
/// How often own transactions that still wait are pushed again.
pub const REPUBLISH: Duration = Duration::from_secs(30);
/// A stranger that says nothing for so long loses its place.
const STRANGER_IDLE: Duration = Duration::from_secs(60);
/// The same for known peers, which hold nobody's place.
const KNOWN_IDLE: Duration = Duration::from_secs(3600);
/// Pauses before a peer is dialled again: the first, and the longest.
const PAUSES: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(15)];
/// A line that lasted so long was a good one: the pauses begin anew.
const GOOD_LINE: Duration = Duration::from_secs(10);
/// Longest host name.
const MAX_HOST_BYTES: usize = 253;

/// Where a peer listens: `host:port`, the host an IP address (an IPv6 one in brackets) or a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    host: String,
    port: u16,
}

impl HostPort {
    /// The address to listen at so that this one reaches it: itself, or every IPv4 interface if it is a name.
    pub fn bind_addr(&self) -> SocketAddr {
        let ip = self
            .host
            .parse()
            .unwrap_or(std::net::Ipv4Addr::UNSPECIFIED.into());
        SocketAddr::new(ip, self.port)
    }
}

impl From<SocketAddr> for HostPort {
    fn from(addr: SocketAddr) -> Self {
        Self {
            host: addr.ip().to_string(),
            port: addr.port(),
        }
    }
}

impl std::fmt::Display for HostPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl FromStr for HostPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || {
            let shown: String = text.chars().take(120).collect();
            format!(
                "{shown:?} is no address for transactions; write HOST:PORT, such as 10.0.0.1:26601"
            )
        };
        let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
        let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let sound = match bracketed {
            Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
            None => {
                let name = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-' || c == '_';
                (1..=MAX_HOST_BYTES).contains(&host.len()) && host.chars().all(name)
            }
        };
        let port: u16 = port.parse().map_err(|_| bad())?;
        match sound && port != 0 {
            true => Ok(Self {
                host: bracketed.unwrap_or(host).to_owned(),
                port,
            }),
            false => Err(bad()),
        }
    }
}

/// A node that is told of every transaction: `<64 hex digits of its key>@<host>:<port>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The key that the handshake must prove: a validator's own.
    pub key: PeerId,
    /// Where it listens.
    pub at: HostPort,
}

impl FromStr for Peer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, at) = text.split_once('@').ok_or("write KEY@HOST:PORT")?;
        let key = key.parse().map_err(|e| format!("{e}"))?;
        Ok(Self {
            key,
            at: at.parse()?,
        })
    }
}

/// How a node takes part.
#[derive(Debug)]
pub struct Config {
    /// Where it listens; `None`: nowhere, for a node that only brings its clients' transactions to others, as a follower.
    pub listen: Option<SocketAddr>,
    /// Its key: the validator's, which its card names.
    pub secret: NetSecret,
    /// Whom it pushes to.
    pub peers: Vec<Peer>,
}

/// Why gossip does not start.
#[derive(Debug, thiserror::Error)]
#[error("transactions from other nodes: {0}")]
pub struct GossipError(#[from] LineError);

/// What a node did so far. All counters only grow.
#[derive(Debug, Default)]
pub struct GossipStats {
    /// Transactions written to peers.
    pub sent: AtomicU64,
    /// Transactions from peers that the pool newly took.
    pub taken: AtomicU64,
    /// Transactions from peers that were here already.
    pub known: AtomicU64,
    /// Transactions from peers that the pool refused.
    pub refused: AtomicU64,
    /// Frames from peers that were no transaction at all.
    pub garbage: AtomicU64,
    /// Ids that found no room in a peer's queue.
    pub dropped: AtomicU64,
    /// Lines that were refused or cut off because of a limit.
    pub cut_off: AtomicU64,
}

/// A node's part in gossip. Cheap to clone; ends with the last clone, or in order with [`Gossip::stop`].
#[derive(Clone)]
pub struct Gossip(Arc<Running>);

struct Running {
    shared: Arc<Shared>,
    listens: bool,
    shutdown: CancellationToken,
    _ends_with_us: DropGuard,
}

struct Shared {
    ledger: Arc<Ledger>,
    mempool: Arc<Mempool>,
    lines: Lines,
    peers: Vec<(Peer, Outbox)>,
    own: Mutex<Own>,
    recent: Mutex<Recent>,
    meters: Mutex<Meters>,
    seats: Mutex<Seats>,
    stats: GossipStats,
    begun: Instant,
}

/// What waits for one peer, and who waits for it.
#[derive(Default)]
struct Outbox {
    queues: Mutex<Queues>,
    filled: Notify,
}

impl Outbox {
    /// Waits until something is queued that is still wanted: nobody is dialled for less.
    async fn filled(&self, wanted: impl Fn(&TxId) -> bool) {
        while !lock(&self.queues).skip_to(&wanted) {
            self.filled.notified().await;
        }
    }

    async fn next(&self) -> TxId {
        loop {
            if let Some(id) = lock(&self.queues).pop() {
                return id;
            }
            self.filled.notified().await;
        }
    }
}

/// A peer that is heard.
struct Guest {
    source: Source,
    /// A stranger's.
    seat: Option<Seat>,
}

/// A stranger's seat, free again when this is dropped.
struct Seat {
    shared: Arc<Shared>,
    number: u64,
    given_away: CancellationToken,
}

impl Drop for Seat {
    fn drop(&mut self) {
        lock(&self.shared.seats).leave(self.number);
    }
}

/// What became of a frame.
enum Heard {
    Taken,
    Known,
    Refused,
    Forged,
    Garbage,
}

impl Heard {
    /// As how many transactions it counts.
    fn cost_txs(&self) -> u32 {
        match self {
            Self::Taken | Self::Known => 1,
            Self::Refused => 1 + REFUSED_TXS,
            Self::Forged | Self::Garbage => 1 + FORGED_TXS,
        }
    }
}

impl GossipStats {
    fn count(&self, heard: &Heard) {
        let counter = match heard {
            Heard::Taken => &self.taken,
            Heard::Known => &self.known,
            Heard::Refused | Heard::Forged => &self.refused,
            Heard::Garbage => &self.garbage,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// A poisoned lock only means that another task panicked between two plain assignments.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn limits() -> Limits {
    Limits {
        max_connections: 256,
        max_connections_per_ip: 128,
        max_connections_per_peer: 4,
        // Who has one is known within `handshake_timeout`; what comes then is bounded by key and by seat.
        max_handshakes: 256,
        max_handshakes_per_ip: 16,
        request_timeout: Duration::from_secs(10),
        idle_window_bytes: 256 << 10,
        stream_window_bytes: 256 << 10,
        send_window_bytes: 512 << 10,
        ..Limits::default()
    }
}

fn protocol(chain: &ChainId) -> Vec<u8> {
    format!("{PROTOCOL}/{}", hex::encode(&chain.0[..4])).into_bytes()
}

impl Gossip {
    /// Binds the port and starts. Must be called inside a tokio runtime.
    pub fn start(
        config: Config,
        ledger: Arc<Ledger>,
        mempool: Arc<Mempool>,
    ) -> Result<Self, GossipError> {
        let lines = LineConfig {
            protocol: protocol(&ledger.chain_id()),
            max_frame_bytes: MAX_TX_BYTES,
            limits: limits(),
        };
        let listens = config.listen.is_some();
        let lines = Lines::bind(config.listen, config.secret, lines)?;
        let peers = config
            .peers
            .into_iter()
            .filter(|p| p.key != lines.peer_id());
        let shared = Arc::new(Shared {
            peers: peers.map(|peer| (peer, Outbox::default())).collect(),
            ledger,
            mempool,
            lines,
            own: Mutex::default(),
            recent: Mutex::default(),
            meters: Mutex::default(),
            seats: Mutex::default(),
            stats: GossipStats::default(),
            begun: Instant::now(),
        });
        let shutdown = CancellationToken::new();
        if listens {
            let (door, hearing) = (Arc::clone(&shared), Arc::clone(&shared));
            let welcome = move |peer, ip| door.welcome(peer, ip);
            shared
                .lines
                .listen(shutdown.clone(), welcome, move |line, guest| {
                    let shared = Arc::clone(&hearing);
                    async move { shared.hear(line, guest).await }
                })?;
        }
        for index in 0..shared.peers.len() {
            let shared = Arc::clone(&shared);
            let work = async move { shared.push_to(index).await };
            tokio::spawn(shutdown.clone().run_until_cancelled_owned(work));
        }
        let again = Arc::clone(&shared);
        let work = async move {
            loop {
                tokio::time::sleep(REPUBLISH).await;
                again.republish();
            }
        };
        tokio::spawn(shutdown.clone().run_until_cancelled_owned(work));
        Ok(Self(Arc::new(Running {
            shared,
            listens,
            _ends_with_us: shutdown.clone().drop_guard(),
            shutdown,
        })))
    }

    /// Where it listens, if it does, and its key.
    pub fn peer_addr(&self) -> Option<PeerAddr> {
        let lines = &self.0.shared.lines;
        self.0.listens.then(|| PeerAddr {
            peer: lines.peer_id(),
            addr: lines.local_addr(),
        })
    }

    /// What it did so far.
    pub fn stats(&self) -> &GossipStats {
        &self.0.shared.stats
    }

    /// Tells the peers of a transaction that our pool took from a client, now and until a block carries it. Does not wait.
    pub fn push(&self, id: TxId) {
        let shared = &self.0.shared;
        let rank = shared.rank(&id, Rank::Own);
        if lock(&shared.own).insert(id, rank) {
            lock(&shared.recent).insert(id, shared.now());
            shared.queue(id, rank, None);
        }
    }

    /// Ends all lines.
    pub async fn stop(&self) {
        self.0.shutdown.cancel();
        self.0.shared.lines.close().await;
    }
}

impl std::fmt::Debug for Gossip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gossip({:?})", self.0.shared.lines)
    }
}

impl Shared {
    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Queues an id for all peers but the one that it came from.
    fn queue(&self, id: TxId, rank: Rank, from: Option<PeerId>) {
        for (peer, outbox) in &self.peers {
            if Some(peer.key) == from {
                continue;
            }
            if lock(&outbox.queues).push(id, rank) {
                outbox.filled.notify_one();
            } else {
                self.stats.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn republish(&self) {
        let waiting = lock(&self.own).waiting(|id| self.mempool.contains(id));
        for id in waiting {
            self.queue(id, self.rank(&id, Rank::Own), None);
        }
    }

    /// A proof's, or else `other`.
    fn rank(&self, id: &TxId, other: Rank) -> Rank {
        match self.mempool.is_in_lane(id) {
            true => Rank::Proof,
            false => other,
        }
    }

    /// Serves one peer's outbox for ever. It is dialled when there is something to say.
    async fn push_to(&self, index: usize) {
        let (peer, outbox) = &self.peers[index];
        let [first, longest] = PAUSES;
        let mut pause = first;
        loop {
            outbox.filled(|id| self.mempool.contains(id)).await;
            let begun = Instant::now();
            let why = match self.dial(peer).await {
                Ok(line) => self.push_over(line, outbox).await,
                Err(error) => error,
            };
            tracing::debug!(peer = %peer.key.short(), at = %peer.at, %why, "a line for transactions ended");
            pause = match begun.elapsed() >= GOOD_LINE {
                true => first,
                false => (pause * 2).min(longest),
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Tries each address of the peer's name.
    async fn dial(&self, peer: &Peer) -> Result<LineOut, LineError> {
        let invalid = |why: String| LineError::Invalid(format!("{}: {why}", peer.at));
        let found = tokio::net::lookup_host((peer.at.host.as_str(), peer.at.port)).await;
        let addresses = found.map_err(|error| invalid(error.to_string()))?;
        let mut last = invalid("it has no address".to_owned());
        for addr in addresses {
            let to = PeerAddr {
                peer: peer.key,
                addr,
            };
            match self.lines.dial(to).await {
                Ok(line) => return Ok(line),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Writes what is queued, until the line ends.
    async fn push_over(&self, mut line: LineOut, outbox: &Outbox) -> LineError {
        loop {
            let id = tokio::select! {
                biased;
                error = line.closed() => return error,
                id = outbox.next() => id,
            };
            // In a block meanwhile, replaced or displaced: nobody needs it.
            let Some(tx) = self.mempool.get(&id) else {
                continue;
            };
            if let Err(error) = line.send(&tx.signed().to_bytes()).await {
                lock(&outbox.queues).put_back(id);
                return error;
            }
            self.stats.sent.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Says who a peer is, and gives a stranger its seat, if there is one.
    fn welcome(self: &Arc<Self>, peer: PeerId, ip: IpAddr) -> Welcome<Guest> {
        let source = self.source(peer, ip);
        if matches!(source, Source::Known(_)) {
            return Welcome::Known(Guest { source, seat: None });
        }
        let taken = lock(&self.seats).take(source, self.now());
        let Some((number, given_away)) = taken else {
            self.cut_off(peer, "too many strangers");
            return Welcome::Full;
        };
        let seat = Seat {
            shared: Arc::clone(self),
            number,
            given_away,
        };
        Welcome::Stranger(Guest {
            source,
            seat: Some(seat),
        })
    }

    /// Hears one peer until it ends, breaks the protocol, owes too much or has to give away its seat.
    async fn hear(&self, line: LineIn, guest: Guest) -> CloseCode {
        let peer = line.peer();
        let Some(seat) = &guest.seat else {
            return self.hear_all(line, &guest, KNOWN_IDLE).await;
        };
        tokio::select! {
            code = self.hear_all(line, &guest, STRANGER_IDLE) => code,
            () = seat.given_away.cancelled() => self.cut_off(peer, "it brings nothing new and another stranger came"),
        }
    }

    async fn hear_all(&self, mut line: LineIn, guest: &Guest, idle: Duration) -> CloseCode {
        let (peer, source) = (line.peer(), guest.source);
        loop {
            let wait = lock(&self.meters).wait(source, self.now());
            match wait.filter(|wait| *wait <= MAX_DEBT) {
                Some(wait) => tokio::time::sleep(wait).await,
                None => return self.cut_off(peer, "it owes too much"),
            }
            let frame = match line.next(idle).await {
                Ok(Some(frame)) => frame,
                Ok(None) | Err(LineError::Closed(_)) => return CloseCode::Done,
                Err(LineError::Stalled(_)) => return CloseCode::TooSlow,
                Err(error) => {
                    tracing::debug!(peer = %peer.short(), %error, "a line for transactions broke the protocol");
                    lock(&self.meters).charge(source, self.now(), FORGED_TXS, 0);
                    return CloseCode::Protocol;
                }
            };
            let bytes = frame.len();
            let heard = self.judge(frame, peer).await;
            lock(&self.meters).charge(source, self.now(), heard.cost_txs(), bytes);
            self.stats.count(&heard);
            if let (Heard::Taken, Some(seat)) = (&heard, &guest.seat) {
                lock(&self.seats).useful(seat.number, self.now());
            }
            if matches!(heard, Heard::Forged | Heard::Garbage) {
                return CloseCode::Protocol;
            }
        }
    }

    fn source(&self, peer: PeerId, ip: IpAddr) -> Source {
        let set = self.ledger.validators();
        let known = self.peers.iter().any(|(p, _)| p.key == peer)
            || set.validators().iter().any(|v| v.id.0 == peer.0);
        match known {
            true => Source::Known(peer),
            false => Source::stranger(ip),
        }
    }

    fn cut_off(&self, peer: PeerId, why: &str) -> CloseCode {
        tracing::debug!(peer = %peer.short(), why, "a line for transactions is cut off");
        self.stats.cut_off.fetch_add(1, Ordering::Relaxed);
        CloseCode::Limit
    }

    /// Puts a peer's transaction through the pool's checks, and passes it on if the pool newly took it.
    async fn judge(&self, frame: Vec<u8>, from: PeerId) -> Heard {
        let Ok(tx) = SignedTx::from_bytes(&frame) else {
            return Heard::Garbage;
        };
        let id = tx.id();
        if self.mempool.contains(&id) {
            return Heard::Known;
        }
        let (ledger, mempool) = (Arc::clone(&self.ledger), Arc::clone(&self.mempool));
        let submit = move || {
            let view = ledger.view();
            mempool.submit(tx, view.height(), &view)
        };
        match tokio::task::spawn_blocking(submit).await {
            Ok(Ok(_)) => {}
            // It was here and is in a block by now; the peer could not know.
            Ok(Err(_)) if lock(&self.recent).contains(&id) => return Heard::Known,
            Ok(Err(SubmitError::Tx(_))) => return Heard::Forged,
            Ok(Err(SubmitError::Store(error))) => {
                tracing::error!(%error, "a transaction from a peer cannot be judged");
                return Heard::Known;
            }
            Ok(Err(_)) => return Heard::Refused,
            Err(error) => {
                tracing::error!(%error, "judging a transaction from a peer ended abnormally");
                return Heard::Known;
            }
        }
        // Two lines brought it at once, or the pool dropped it lately and took it again: it was passed on.
        if !lock(&self.recent).insert(id, self.now()) {
            return Heard::Known;
        }
        self.queue(id, self.rank(&id, Rank::Passed), Some(from));
        Heard::Taken
    }
}

/// Any bytes as a stream of frames from a peer, cut anyhow: never more than a frame is held, and a frame is refused or the one
/// encoding of a transaction. Body of the fuzz target.
pub fn fuzz_stream(bytes: &[u8]) {
    retrieval::fuzz::frame_stream_within(bytes, MAX_TX_BYTES, &mut |frame| {
        if let Ok(tx) = SignedTx::from_bytes(frame) {
            assert_eq!(tx.to_bytes(), frame, "two encodings of one transaction");
        }
    });
}
