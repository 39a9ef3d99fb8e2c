//! QUIC with raw public keys.

use std::{net::SocketAddr, time::Duration};

use crate::{
    error::Error,
    limits::Limits,
    peer::{NetSecret, PeerAddr, PeerId},
    range::Ranges,
    verify::Block,
    wire::{ChainTag, CommpQuery, HaveEntry, PieceRef, PieceRoot},
};

/// A piece as a reader must know it: root and size, both from the signed deal.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PieceKey {
    /// BLAKE3 root.
    pub root: PieceRoot,
    /// Bytes of the unpadded piece.
    pub size: u64,
}

/// One UDP socket, both sides of the protocol.
#[derive(Clone, Debug)]
pub struct Endpoint {}

impl Endpoint {
    /// Binds a socket that can serve and connect.
    pub fn bind(
        addr: SocketAddr,
        secret: NetSecret,
        chain: ChainTag,
        limits: Limits,
    ) -> Result<Self, Error> {
        let _ = (addr, secret, chain, limits);
        Err(Error::Invalid("landing".into()))
    }

    /// A socket that only connects: any free port, a throw-away key.
    pub fn client(chain: ChainTag, limits: Limits) -> Result<Self, Error> {
        let _ = (chain, limits);
        Err(Error::Invalid("landing".into()))
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    /// Its own identity.
    pub fn peer_id(&self) -> PeerId {
        PeerId([0; 32])
    }

    /// An open session with this peer: the kept-warm one, or a new one.
    pub async fn session(&self, to: PeerAddr) -> Result<Session, Error> {
        let _ = to;
        Err(Error::Invalid("landing".into()))
    }

    /// Says goodbye to all peers and waits until they heard it, a second at most.
    pub async fn close(&self) {}
}

/// A session with one provider: greeted, greeted back. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Session {}

impl Session {
    /// Who is at the other end.
    pub fn peer(&self) -> PeerAddr {
        PeerAddr {
            peer: PeerId([0; 32]),
            addr: SocketAddr::from(([127, 0, 0, 1], 0)),
        }
    }

    /// The provider's own words from its Hello (its ask).
    pub fn info(&self) -> &[u8] {
        &[]
    }

    /// The path's smoothed round-trip time.
    pub fn rtt(&self) -> Duration {
        Duration::ZERO
    }

    /// Asks for up to 256 pieces at once.
    pub async fn have(&self, pieces: &[PieceRef]) -> Result<Vec<HaveEntry>, Error> {
        let _ = pieces;
        Err(Error::Invalid("landing".into()))
    }

    /// Asks for ranges; the stream yields verified blocks in ascending order.
    pub async fn get(&self, piece: PieceKey, ranges: &Ranges) -> Result<GetStream, Error> {
        let _ = (piece, ranges);
        Err(Error::Invalid("landing".into()))
    }

    /// Exactly these bytes of the piece, verified: for small ranges, such as the read-back after a put.
    pub async fn read(
        &self,
        piece: PieceKey,
        range: std::ops::Range<u64>,
    ) -> Result<Vec<u8>, Error> {
        let _ = (piece, range);
        Err(Error::Invalid("landing".into()))
    }

    /// Leaves of a CommP tree with their paths, unverified here: `prover::piece::inclusion` checks them.
    pub async fn commp_proof(&self, query: CommpQuery) -> Result<Vec<u8>, Error> {
        let _ = query;
        Err(Error::Invalid("landing".into()))
    }
}

/// Verified blocks of one get. Dropping it tells the provider to stop.
#[derive(Debug)]
pub struct GetStream {}

impl GetStream {
    /// The next block; `None` after the last one.
    pub async fn next(&mut self) -> Result<Option<Block>, Error> {
        Ok(None)
    }
}
