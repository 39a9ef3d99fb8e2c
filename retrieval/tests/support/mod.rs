//! What the network tests share: a store in memory, rogue providers, a bad network.
#![allow(dead_code)]

pub mod relay;
pub mod rogue;

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use prover::{commitment::CommP, piece::commp::commp_of};
use retrieval::{
    ChainTag, Endpoint, FetchLimits, FetchRequest, Fetcher, Limits, NetSecret, PeerAddr, PeerId,
    PieceKey, PieceRoot, ShardSource,
    push::PutSource,
    serve::{
        self, CheckedPiece, OpenPiece, PieceMeta, PieceStore, PutDecision, PutSink, Refusal,
        ServeHandle,
    },
    verify::{ReadAt, outboard_of},
    wire::{PieceRef, PieceState, PutHeader},
};
use tokio_util::sync::CancellationToken;

pub const CHAIN: ChainTag = ChainTag([0xc0, 0xff, 0xee, 0x01]);

/// Bytes that look random and are the same every time.
pub fn sample(size: usize, seed: u64) -> Vec<u8> {
    let mut out = vec![0; size];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut out);
    out
}

#[derive(Clone)]
pub struct Piece {
    pub data: Bytes,
    pub outboard: Bytes,
    pub key: PieceKey,
    pub commp: CommP,
}

impl Piece {
    pub fn new(data: Vec<u8>) -> Self {
        let commp = commp_of(&data).0;
        Self::with_commp(data, commp)
    }

    /// Without the slow root, for tests that do not put.
    pub fn without_commp(data: Vec<u8>) -> Self {
        Self::with_commp(data, CommP([0; 32]))
    }

    fn with_commp(data: Vec<u8>, commp: CommP) -> Self {
        let (root, outboard) = outboard_of(&data).expect("a piece");
        let key = PieceKey {
            root,
            size: data.len() as u64,
        };
        Self {
            data: data.into(),
            outboard: outboard.into(),
            key,
            commp,
        }
    }

    pub fn header(&self) -> PutHeader {
        PutHeader {
            size: self.key.size,
            root: self.key.root,
            commp: self.commp,
            proposal: b"deal".to_vec(),
        }
    }

    pub fn source(&self) -> PutSource {
        PutSource {
            data: Arc::new(self.data.clone()),
            outboard: Arc::new(self.outboard.clone()),
        }
    }
}

/// Pieces in memory, with switches for what may go wrong on an honest provider.
#[derive(Default)]
pub struct MemStore {
    pub pieces: Mutex<HashMap<PieceRoot, Piece>>,
    pub damage_reports: Mutex<Vec<(PieceRoot, u64)>>,
    /// Each read takes so many milliseconds.
    pub read_ms: AtomicU64,
    /// Puts that were begun and not finished.
    pub dropped: Arc<AtomicU64>,
    pub panic_on_have: bool,
    pub refuse: Option<Refusal>,
}

impl MemStore {
    pub fn with(pieces: &[&Piece]) -> Arc<Self> {
        let store = Self::default();
        for piece in pieces {
            store.insert((*piece).clone());
        }
        Arc::new(store)
    }

    pub fn insert(&self, piece: Piece) {
        self.pieces.lock().unwrap().insert(piece.key.root, piece);
    }

    pub fn holds(&self, root: &PieceRoot) -> bool {
        self.pieces.lock().unwrap().contains_key(root)
    }
}

struct SlowRead(Bytes, u64);

impl ReadAt for SlowRead {
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        if self.1 > 0 {
            std::thread::sleep(Duration::from_millis(self.1));
        }
        self.0.read_exact_at(offset, buf)
    }
}

/// The store as the service sees it.
struct Shared(Arc<MemStore>);

impl std::ops::Deref for Shared {
    type Target = MemStore;

    fn deref(&self) -> &MemStore {
        &self.0
    }
}

impl PieceStore for Shared {
    fn hello_info(&self, _peer: &PeerId) -> Vec<u8> {
        b"ask".to_vec()
    }

    fn have(&self, piece: &PieceRef) -> Option<PieceMeta> {
        assert!(!self.panic_on_have, "a bug in the store");
        let pieces = self.pieces.lock().unwrap();
        let found = match piece {
            PieceRef::Root(root) => pieces.get(root),
            PieceRef::Commp(commp) => pieces.values().find(|piece| piece.commp == *commp),
        }?;
        let PieceKey { root, size } = found.key;
        Some(PieceMeta {
            size,
            root,
            commp: found.commp,
            state: PieceState::Hot,
        })
    }

    fn open(&self, root: &PieceRoot) -> Result<OpenPiece, Refusal> {
        let piece = self
            .pieces
            .lock()
            .unwrap()
            .get(root)
            .cloned()
            .ok_or(Refusal::NotFound)?;
        let data = Arc::new(SlowRead(piece.data, self.read_ms.load(Ordering::Relaxed)));
        Ok(OpenPiece {
            size: piece.key.size,
            data,
            outboard: Arc::new(piece.outboard),
        })
    }

    fn accept(&self, _peer: &PeerId, header: &PutHeader) -> Result<PutDecision, Refusal> {
        if let Some(refusal) = &self.refuse {
            return Err(refusal.clone());
        }
        if self.holds(&header.root) {
            return Ok(PutDecision::AlreadyHere(b"stored before".to_vec()));
        }
        Ok(PutDecision::Receive(Box::new(MemSink {
            store: self.0.clone(),
            data: Vec::new(),
            outboard: Vec::new(),
            finished: false,
        })))
    }

    fn commp_proof(&self, commp: &CommP, first_leaf: u64, leaves: u32) -> Result<Vec<u8>, Refusal> {
        let known = self
            .pieces
            .lock()
            .unwrap()
            .values()
            .any(|piece| piece.commp == *commp);
        if known {
            Ok(format!("{first_leaf}+{leaves}").into_bytes())
        } else {
            Err(Refusal::NotFound)
        }
    }

    fn damaged(&self, root: &PieceRoot, offset: u64) {
        self.damage_reports.lock().unwrap().push((*root, offset));
    }
}

struct MemSink {
    store: Arc<MemStore>,
    data: Vec<u8>,
    outboard: Vec<u8>,
    finished: bool,
}

impl PutSink for MemSink {
    fn write(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        self.data.extend_from_slice(bytes);
        Ok(())
    }

    fn write_outboard(&mut self, pairs: &[u8]) -> Result<(), Refusal> {
        self.outboard.extend_from_slice(pairs);
        Ok(())
    }

    fn finish(mut self: Box<Self>, piece: &CheckedPiece) -> Result<Vec<u8>, Refusal> {
        self.finished = true;
        let key = PieceKey {
            root: piece.root(),
            size: piece.size(),
        };
        let (data, outboard) = (
            std::mem::take(&mut self.data),
            std::mem::take(&mut self.outboard),
        );
        self.store.insert(Piece {
            data: data.into(),
            outboard: outboard.into(),
            key,
            commp: piece.commp(),
        });
        Ok(b"stored".to_vec())
    }
}

impl Drop for MemSink {
    fn drop(&mut self) {
        if !self.finished {
            self.store.dropped.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// A provider on loopback.
pub struct Provider {
    pub store: Arc<MemStore>,
    pub addr: PeerAddr,
    pub endpoint: Endpoint,
    pub handle: ServeHandle,
    pub stop: CancellationToken,
}

impl Provider {
    pub fn start(store: Arc<MemStore>) -> Self {
        Self::with_limits(store, patient())
    }

    pub fn with_limits(store: Arc<MemStore>, limits: Limits) -> Self {
        let loopback = "127.0.0.1:0".parse().expect("an address");
        let endpoint =
            Endpoint::bind(loopback, NetSecret::generate(), CHAIN, limits).expect("bound");
        let stop = CancellationToken::new();
        let handle = serve::spawn(&endpoint, Arc::new(Shared(store.clone())), stop.clone())
            .expect("serving");
        Self {
            store,
            addr: endpoint.peer_addr(),
            endpoint,
            handle,
            stop,
        }
    }

    pub async fn shut_down(self) {
        self.stop.cancel();
        self.handle.join().await;
        self.endpoint.close().await;
    }
}

/// How long a test waits for what must come, on a machine that others use too.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Limits whose timers take nobody for late, however busy this machine is. A test that waits for one of them makes it short.
pub fn patient() -> Limits {
    Limits {
        stall_timeout: PATIENCE,
        request_timeout: PATIENCE,
        handshake_timeout: PATIENCE,
        ..Limits::loopback()
    }
}

pub fn client() -> Endpoint {
    Endpoint::client(CHAIN, patient()).expect("a client")
}

pub fn fetch_limits() -> FetchLimits {
    FetchLimits {
        stall_timeout: PATIENCE,
        hedge_after: Duration::from_millis(100),
        ..FetchLimits::default()
    }
}

/// Shards 0.. of these pieces, each at one provider.
pub fn request(k: u16, shards: &[(PieceKey, PeerAddr)]) -> FetchRequest {
    let size = shards[0].0.size;
    let source = |(index, (piece, peer)): (usize, &(PieceKey, PeerAddr))| ShardSource {
        index: index as u16,
        piece: *piece,
        providers: vec![*peer],
    };
    FetchRequest {
        k,
        shards: shards.iter().enumerate().map(source).collect(),
        ranges: std::iter::once(0..size).collect(),
    }
}

/// Fetches everything and checks every byte of every shard that came.
pub async fn fetch_and_check(
    fetcher: &Fetcher,
    request: FetchRequest,
    data: &[Bytes],
) -> retrieval::fetch::FetchReport {
    let k = usize::from(request.k);
    let wanted: u64 = request
        .ranges
        .iter()
        .map(|range| range.end - range.start)
        .sum();
    let mut fetch = fetcher.fetch(request).expect("a sensible request");
    let (mut got, mut last_end) = (0, 0);
    while let Some(unit) = fetch.next().await.expect("enough providers") {
        assert!(unit.range.start >= last_end, "units come in order");
        last_end = unit.range.end;
        assert_eq!(unit.shards.len(), k);
        for (index, bytes) in &unit.shards {
            let expected =
                &data[usize::from(*index)][unit.range.start as usize..unit.range.end as usize];
            assert!(bytes == expected, "shard {index} of {:?}", unit.range);
        }
        got += unit.range.end - unit.range.start;
    }
    assert_eq!(got, wanted);
    fetch.report()
}
