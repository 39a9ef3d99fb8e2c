//! The provider's side: answers requests from a [`PieceStore`], within [`Limits`](crate::limits::Limits).
//!
//! Walk: the byte comes here from `push` and leaves to `fetch`; the store behind is `storage_node::provider::intake`.
//! In here: `gate` counts and caps, `connection` runs a session, `get` reads out, `put` takes in.
//! Spec: `network.md` §2.4. Threats C4 (both roots are recomputed here, before the store may acknowledge), N2, N4, R4.

mod connection;
pub(crate) mod gate;
mod get;
mod put;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use gate::{Admission, Gate, Place};
use prover::commitment::CommP;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    endpoint::Endpoint,
    error::Error,
    peer::PeerId,
    verify::ReadAt,
    wire::{Failure, FailureCode, PieceRef, PieceRoot, PieceState, PutHeader},
};

/// What a store knows of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PieceMeta {
    /// Bytes of the unpadded piece.
    pub size: u64,
    /// Its BLAKE3 root.
    pub root: PieceRoot,
    /// Its CommP.
    pub commp: CommP,
    /// Whether it can be read now.
    pub state: PieceState,
}

/// An open piece: its bytes and its outboard (pairs in pre-order, [`crate::verify::outboard_bytes`] long).
#[derive(Clone)]
pub struct OpenPiece {
    /// Bytes of the unpadded piece.
    pub size: u64,
    /// The piece.
    pub data: Arc<dyn ReadAt>,
    /// The outboard.
    pub outboard: Arc<dyn ReadAt>,
}

/// Why a store says no. Becomes a [`Failure`] on the wire.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such piece.
    #[error("no such piece")]
    NotFound,
    /// Sealed away.
    #[error("the piece is being unsealed, ready in about {eta_ms} ms")]
    Unsealing {
        /// Milliseconds until it is expected to be readable.
        eta_ms: u64,
    },
    /// Busy.
    #[error("busy, retry after {retry_after_ms} ms")]
    Busy {
        /// Milliseconds.
        retry_after_ms: u32,
    },
    /// Larger than what this store takes.
    #[error("too large: {0}")]
    TooLarge(String),
    /// Terms, room or policy; the text goes to the client.
    #[error("{0}")]
    Refused(String),
    /// The store failed. The text goes to the log; the client hears only that we failed.
    #[error("{0}")]
    Internal(String),
}

impl Refusal {
    /// What the client is told.
    pub fn to_failure(&self) -> Failure {
        let (code, retry_after_ms, detail) = match self {
            Self::NotFound => (FailureCode::NotFound, 0, String::new()),
            Self::Unsealing { eta_ms } => (
                FailureCode::Unsealing,
                u32::try_from(*eta_ms).unwrap_or(u32::MAX).max(1),
                String::new(),
            ),
            Self::Busy { retry_after_ms } => (
                FailureCode::RateLimited,
                (*retry_after_ms).max(1),
                String::new(),
            ),
            Self::TooLarge(detail) => (FailureCode::TooLarge, 0, detail.clone()),
            Self::Refused(detail) => (FailureCode::Refused, 0, detail.clone()),
            Self::Internal(_) => (FailureCode::Internal, 0, String::new()),
        };
        Failure::new(code, retry_after_ms, &detail)
    }
}

/// Proof by type that both roots were recomputed from the bytes that the sink was given: only this crate makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckedPiece {
    size: u64,
    root: PieceRoot,
    commp: CommP,
}

impl CheckedPiece {
    /// Bytes of the unpadded piece.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// BLAKE3 root of the bytes written.
    pub fn root(&self) -> PieceRoot {
        self.root
    }

    /// CommP of the bytes written, zero-filled to the next piece size.
    pub fn commp(&self) -> CommP {
        self.commp
    }
}

/// What a store does with an offered piece.
pub enum PutDecision {
    /// Send it.
    Receive(Box<dyn PutSink>),
    /// It is here already, under this very proposal: the acknowledgement again, so that a client which lost the first
    /// one can go on.
    AlreadyHere(Vec<u8>),
}

/// Takes one piece, in order. All calls come from one blocking thread. A sink that is dropped without `finish`
/// received an incomplete or wrong piece: it removes what it wrote.
pub trait PutSink: Send {
    /// The next verified bytes of the piece.
    fn write(&mut self, bytes: &[u8]) -> Result<(), Refusal>;
    /// The next pairs of the outboard; in the end [`crate::verify::outboard_bytes`] in all.
    fn write_outboard(&mut self, pairs: &[u8]) -> Result<(), Refusal>;
    /// All bytes came and both roots are right: make it durable, then return the signed acknowledgement, at most 4 KiB.
    fn finish(self: Box<Self>, piece: &CheckedPiece) -> Result<Vec<u8>, Refusal>;
}

/// A provider's pieces. Every method may block; each is called on a blocking thread.
pub trait PieceStore: Send + Sync + 'static {
    /// The provider's own words for [`Hello`](crate::wire::Hello) (its ask), at most 1 KiB.
    fn hello_info(&self, peer: &PeerId) -> Vec<u8>;
    /// What is known of a piece.
    fn have(&self, piece: &PieceRef) -> Option<PieceMeta>;
    /// Opens a readable piece.
    fn open(&self, root: &PieceRoot) -> Result<OpenPiece, Refusal>;
    /// Judges an offer before a byte of it is sent: terms, room, signature.
    fn accept(&self, peer: &PeerId, header: &PutHeader) -> Result<PutDecision, Refusal>;
    /// Leaves of the CommP tree with their paths, at most 60 KiB, for auditors.
    fn commp_proof(&self, commp: &CommP, first_leaf: u64, leaves: u32) -> Result<Vec<u8>, Refusal>;
    /// The stored bytes of a piece are not what they were: found while serving, not sent. Time to repair.
    fn damaged(&self, _root: &PieceRoot, _offset: u64) {}
}

/// What the service did since it began. All counters only grow.
#[derive(Debug, Default)]
pub struct ServeStats {
    /// Sessions greeted.
    pub sessions: AtomicU64,
    /// Connections turned away by a cap.
    pub turned_away: AtomicU64,
    /// First packets answered with Retry.
    pub retries: AtomicU64,
    /// Requests begun.
    pub requests: AtomicU64,
    /// Requests answered with a failure.
    pub failures: AtomicU64,
    /// Stream bytes served, hashes included.
    pub bytes_out: AtomicU64,
    /// Verified bytes received in puts.
    pub bytes_in: AtomicU64,
    /// Pieces stored.
    pub stored: AtomicU64,
    /// Pieces found damaged while serving.
    pub damaged: AtomicU64,
}

impl ServeStats {
    fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }
}

/// The running service. Dropping the handle does not stop it; its token does.
#[derive(Debug)]
pub struct ServeHandle {
    task: tokio::task::JoinHandle<()>,
    stats: Arc<ServeStats>,
}

impl ServeHandle {
    /// Waits until the service has ended after its token was cancelled.
    pub async fn join(self) {
        // The accept loop neither panics nor is aborted by anybody else.
        let _ = self.task.await;
    }

    /// What it did so far.
    pub fn stats(&self) -> &Arc<ServeStats> {
        &self.stats
    }
}

/// Serves the store on the endpoint until the token is cancelled: then new connections are refused, requests in flight
/// get [`DRAIN`], and all are closed.
pub fn spawn(
    endpoint: &Endpoint,
    store: Arc<dyn PieceStore>,
    shutdown: CancellationToken,
) -> Result<ServeHandle, Error> {
    let quinn = endpoint.listen()?;
    let configs = ServerConfigs {
        loopback: Arc::new(endpoint.server_config(true)?),
        network: Arc::new(endpoint.server_config(false)?),
    };
    let stats = Arc::new(ServeStats::default());
    let gate = Gate::new(endpoint.limits().clone());
    let service = Arc::new(Service {
        endpoint: endpoint.clone(),
        store,
        gate: gate.clone(),
        stats: stats.clone(),
    });
    let door = Door {
        quinn,
        gate,
        configs,
        stats: stats.clone(),
    };
    let ending = shutdown.clone();
    let run = move |connecting, place| {
        connection::run(connecting, place, service.clone(), ending.clone())
    };
    let task = tokio::spawn(accept_loop(door, shutdown, run));
    Ok(ServeHandle { task, stats })
}

/// How long requests in flight may go on after a shutdown began.
pub const DRAIN: Duration = Duration::from_secs(5);
/// How often counters of peers that went away are forgotten.
const SWEEP: Duration = Duration::from_secs(30);

/// What every connection shares.
struct Service {
    endpoint: Endpoint,
    store: Arc<dyn PieceStore>,
    gate: Arc<Gate>,
    stats: Arc<ServeStats>,
}

pub(crate) struct ServerConfigs {
    pub(crate) loopback: Arc<quinn::ServerConfig>,
    pub(crate) network: Arc<quinn::ServerConfig>,
}

/// Where connections come in.
pub(crate) struct Door {
    pub(crate) quinn: quinn::Endpoint,
    pub(crate) gate: Arc<Gate>,
    pub(crate) configs: ServerConfigs,
    pub(crate) stats: Arc<ServeStats>,
}

/// Runs each admitted connection in a task of its own, until the token is cancelled.
pub(crate) async fn accept_loop<F>(
    door: Door,
    shutdown: CancellationToken,
    run: impl Fn(quinn::Connecting, Place) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    let mut sweep = tokio::time::interval(SWEEP);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            _ = sweep.tick() => door.gate.forget_idle_peers(),
            Some(ended) = connections.join_next() => log_panic(ended),
            incoming = door.quinn.accept() => match incoming {
                Some(incoming) => {
                    if let Some((connecting, place)) = admit(incoming, &door) {
                        connections.spawn(run(connecting, place));
                    }
                }
                None => break,
            },
        }
    }
    // No new connections.
    door.quinn.set_server_config(None);
    let drain = async {
        while let Some(ended) = connections.join_next().await {
            log_panic(ended)
        }
    };
    // Whoever is not done by then is cut off: the set aborts its tasks when it is dropped.
    let _ = tokio::time::timeout(DRAIN, drain).await;
}

/// Decides about a first packet at once, so that nothing piles up before the decision (threats N1, N4).
fn admit(incoming: quinn::Incoming, door: &Door) -> Option<(quinn::Connecting, Place)> {
    let ip = incoming.remote_address().ip().to_canonical();
    match door.gate.admit(ip, incoming.remote_address_validated()) {
        Admission::Handshake(place) => {
            let config = if ip.is_loopback() {
                &door.configs.loopback
            } else {
                &door.configs.network
            };
            let connecting = incoming.accept_with(config.clone()).ok()?;
            return Some((connecting, place));
        }
        Admission::ProveAddress => {
            ServeStats::add(&door.stats.retries, 1);
            // Fails only for validated addresses, which are never asked to prove themselves.
            let _ = incoming.retry();
        }
        Admission::Drop => {
            ServeStats::add(&door.stats.turned_away, 1);
            incoming.ignore();
        }
        Admission::Refuse => {
            ServeStats::add(&door.stats.turned_away, 1);
            incoming.refuse();
        }
    }
    None
}

/// A panic in one task is a bug of ours and the end of that task only (threat N2).
fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a serving task panicked; the service goes on");
    }
}
