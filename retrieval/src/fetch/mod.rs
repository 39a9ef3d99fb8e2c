//! Ranges from several providers at once.

pub mod plan;
pub mod score;

use std::{fmt, ops::Range};

use bytes::Bytes;

use crate::{
    endpoint::{Endpoint, PieceKey},
    limits::FetchLimits,
    peer::PeerAddr,
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
    /// Bytes of the shards (the same in each) that are wanted, ascending; what a resume bitmap still misses, or the whole.
    pub ranges: Vec<Range<u64>>,
}

/// One work unit, complete: the same bytes of exactly k shards, verified.
#[derive(Clone, Debug)]
pub struct Unit {
    /// Which bytes of the shards.
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
            "only {} of the {} shards needed can be read",
            self.left, self.k
        )?;
        for (peer, shard, cause) in &self.causes {
            write!(f, "; shard {shard} at {peer}: {cause}")?;
        }
        Ok(())
    }
}

impl std::error::Error for FetchError {}

/// Reads from many providers; remembers how each did.
#[derive(Clone, Debug)]
pub struct Fetcher {}

impl Fetcher {
    /// A fetcher over this endpoint.
    pub fn new(endpoint: Endpoint, limits: FetchLimits) -> Self {
        let _ = (endpoint, limits);
        Self {}
    }

    /// Starts a fetch. Units come from [`Fetch::next`] in ascending order.
    pub fn fetch(&self, request: FetchRequest) -> Result<Fetch, FetchError> {
        let _ = request;
        Ok(Fetch {})
    }
}

/// A running fetch. Dropping it cancels everything in flight.
#[derive(Debug)]
pub struct Fetch {}

impl Fetch {
    /// The next unit; `None` when all ranges are done.
    pub async fn next(&mut self) -> Result<Option<Unit>, FetchError> {
        Ok(None)
    }

    /// How it went so far.
    pub fn report(&self) -> FetchReport {
        FetchReport::default()
    }
}

/// What a fetch cost and who did what.
#[derive(Clone, Debug, Default)]
pub struct FetchReport {
    /// Shard bytes delivered.
    pub bytes: u64,
    /// Shard bytes that were asked for twice (hedges) and thrown away.
    pub wasted_bytes: u64,
    /// Hedges started.
    pub hedges: u32,
    /// Per provider: shard bytes delivered, units, failures.
    pub providers: Vec<ProviderReport>,
}

/// One provider's part in a fetch.
#[derive(Clone, Debug)]
pub struct ProviderReport {
    /// Who.
    pub peer: PeerAddr,
    /// Units it completed first.
    pub units: u32,
    /// Shard bytes of them.
    pub bytes: u64,
    /// Failures, newest last.
    pub failures: Vec<String>,
    /// Proven to have sent wrong bytes or broken the protocol: the caller should avoid and report it.
    pub lied: bool,
}
