//! The client's half of a connection: greeting, requests, answers.

use std::{
    net::SocketAddr,
    ops::Range,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use quinn::{ConnectionError, ReadError, RecvStream, SendStream};
use tokio::time::timeout;

use super::PieceKey;
use crate::{
    error::Error,
    limits::{BLOCK_BYTES, Limits},
    peer::PeerAddr,
    range::Ranges,
    session::{FrameReader, GetReply, GetStep, check_hello, unexpected},
    verify::Block,
    wire::{
        ChainTag, CloseCode, CommpQuery, Get, HaveEntry, HaveQuery, Hello, PieceRef, Request,
        Response, VERSION, WireError,
    },
};

/// A session with one provider: greeted, greeted back. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Session {
    connection: quinn::Connection,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    peer: PeerAddr,
    info: Vec<u8>,
    request_timeout: Duration,
    stall_timeout: Duration,
}

impl Session {
    /// Handshake and greeting.
    pub(super) async fn open(
        peer: PeerAddr,
        connecting: quinn::Connecting,
        chain: ChainTag,
        limits: &Limits,
    ) -> Result<Self, Error> {
        let unreachable = |why: String| Error::Unreachable { peer, why };
        let connection = timeout(limits.handshake_timeout, connecting)
            .await
            .map_err(|_| {
                unreachable(format!(
                    "no handshake within {:?}",
                    limits.handshake_timeout
                ))
            })?
            .map_err(|error| handshake_error(peer, error))?;
        let hello = timeout(limits.request_timeout, greet(&connection, chain))
            .await
            .map_err(|_| unreachable(format!("no greeting within {:?}", limits.request_timeout)))?
            .map_err(|error| greeting_error(peer, &connection, error))?;
        let shared = Shared {
            peer,
            info: hello.info,
            request_timeout: limits.request_timeout,
            stall_timeout: limits.stall_timeout,
        };
        Ok(Self {
            connection,
            shared: Arc::new(shared),
        })
    }

    /// Who is at the other end.
    pub fn peer(&self) -> PeerAddr {
        self.shared.peer
    }

    /// The provider's own words from its Hello (its ask).
    pub fn info(&self) -> &[u8] {
        &self.shared.info
    }

    /// The path's smoothed round-trip time.
    pub fn rtt(&self) -> Duration {
        self.connection.rtt()
    }

    /// Where the peer's packets come from now.
    pub fn remote_addr(&self) -> SocketAddr {
        self.connection.remote_address()
    }

    /// Whether requests can still be made.
    pub fn is_open(&self) -> bool {
        self.connection.close_reason().is_none()
    }

    /// Ends the session; requests in flight fail.
    pub fn close(&self) {
        self.connection.close(CloseCode::Done.var_int(), b"");
    }

    /// Most bytes that the provider may have on their way to us unread.
    pub fn set_receive_window(&self, bytes: u64) {
        self.connection.set_receive_window(super::var_int(bytes));
    }

    /// Asks for up to [`MAX_HAVE`](crate::wire::MAX_HAVE) pieces at once. The answers are claims.
    pub async fn have(&self, pieces: &[PieceRef]) -> Result<Vec<HaveEntry>, Error> {
        let query = HaveQuery {
            pieces: pieces.to_vec(),
        };
        match self.ask(&Request::Have(query)).await? {
            Response::Have(have) if have.entries.len() == pieces.len() => Ok(have.entries),
            Response::Have(have) => Err(Error::Protocol(format!(
                "{} answers to {} questions",
                have.entries.len(),
                pieces.len()
            ))),
            other => Err(unexpected("have", &other)),
        }
    }

    /// Asks for ranges; the stream yields verified blocks in ascending order.
    pub async fn get(&self, piece: PieceKey, ranges: &Ranges) -> Result<GetStream, Error> {
        self.get_in_blocks(piece, ranges, BLOCK_BYTES).await
    }

    /// The same with another block size, a multiple of 16 KiB: each block is one allocation of this size.
    pub async fn get_in_blocks(
        &self,
        piece: PieceKey,
        ranges: &Ranges,
        block_bytes: usize,
    ) -> Result<GetStream, Error> {
        let reply = GetReply::new(piece, ranges, block_bytes)?;
        let get = Get {
            req_id: 0,
            root: piece.root,
            ranges: ranges.clone(),
            deadline_ms: 0,
        };
        let (_, recv) = self.send(&Request::Get(get)).await?;
        Ok(GetStream {
            recv,
            reply,
            stall_timeout: self.shared.stall_timeout,
            received: 0,
        })
    }

    /// Exactly these bytes of the piece, verified: for small ranges, such as the read-back after a put.
    pub async fn read(&self, piece: PieceKey, range: Range<u64>) -> Result<Vec<u8>, Error> {
        let ranges = Ranges::single(range.clone())?;
        let mut stream = self.get(piece, &ranges).await?;
        let mut bytes = Vec::new();
        while let Some(block) = stream.next().await? {
            let skip = range.start.saturating_sub(block.offset) as usize;
            let end = (range.end - block.offset).min(block.data.len() as u64) as usize;
            bytes.extend_from_slice(&block.data[skip..end]);
        }
        Ok(bytes)
    }

    /// Leaves of a CommP tree with their paths, unverified here: `prover::piece::inclusion` checks them.
    pub async fn commp_proof(&self, query: CommpQuery) -> Result<Vec<u8>, Error> {
        match self.ask(&Request::Commp(query)).await? {
            Response::Commp(proof) => Ok(proof.proof),
            other => Err(unexpected("commp proof", &other)),
        }
    }

    /// One request, one answering frame, end of stream.
    async fn ask(&self, request: &Request) -> Result<Response, Error> {
        let (_, mut recv) = self.send(request).await?;
        let response = self.read_response(&mut recv).await?;
        expect_end(&mut recv, self.shared.stall_timeout).await?;
        Ok(response)
    }

    /// Opens a stream, sends a request and closes our side.
    async fn send(&self, request: &Request) -> Result<(SendStream, RecvStream), Error> {
        let (mut send, recv) = self.begin(request).await?;
        send.finish()
            .map_err(|error| Error::Closed(error.to_string()))?;
        Ok((send, recv))
    }

    /// Opens a stream and sends a request; our side stays open.
    pub(crate) async fn begin(&self, request: &Request) -> Result<(SendStream, RecvStream), Error> {
        let frame = request.encode()?;
        let open = timeout(self.shared.stall_timeout, self.connection.open_bi()).await;
        let (mut send, recv) = open
            .map_err(|_| Error::Stalled(self.shared.stall_timeout))?
            .map_err(|error| closed(&error))?;
        write_all(&mut send, &frame, self.shared.request_timeout).await?;
        Ok((send, recv))
    }

    /// The next answering frame.
    pub(crate) async fn read_response(&self, recv: &mut RecvStream) -> Result<Response, Error> {
        let frame = read_frame(recv, self.shared.stall_timeout).await?;
        Ok(Response::decode(&frame)?)
    }

    pub(crate) fn stall_timeout(&self) -> Duration {
        self.shared.stall_timeout
    }
}

/// Verified blocks of one get. Dropping it tells the provider to stop.
#[derive(Debug)]
pub struct GetStream {
    recv: RecvStream,
    reply: GetReply,
    stall_timeout: Duration,
    received: u64,
}

impl GetStream {
    /// The next block; `None` after the last one, when the provider has said so too.
    pub async fn next(&mut self) -> Result<Option<Block>, Error> {
        if self.reply.is_done() {
            return Ok(None);
        }
        loop {
            match self.step().await? {
                GetStep::More => {}
                GetStep::Block(block) => return Ok(Some(block)),
                GetStep::Done(_) => return Ok(None),
            }
        }
    }

    /// One read of the stream: lets a caller see progress between blocks.
    pub async fn step(&mut self) -> Result<GetStep, Error> {
        let read = timeout(self.stall_timeout, self.recv.read(self.reply.space())).await;
        match read
            .map_err(|_| Error::Stalled(self.stall_timeout))?
            .map_err(read_error)?
        {
            None => {
                self.reply.end()?;
                Err(Error::Protocol("read after the end".into()))
            }
            Some(n) => {
                self.received += n as u64;
                match self.reply.advance(n)? {
                    GetStep::Done(end) => {
                        expect_end(&mut self.recv, self.stall_timeout).await?;
                        Ok(GetStep::Done(end))
                    }
                    step => Ok(step),
                }
            }
        }
    }

    /// Stream bytes received so far, hashes and frames included.
    pub fn received(&self) -> u64 {
        self.received
    }
}

impl Drop for GetStream {
    fn drop(&mut self) {
        if !self.reply.is_done() {
            // Fails only when the stream is over already.
            let _ = self.recv.stop(CloseCode::Cancelled.var_int());
        }
    }
}

async fn greet(connection: &quinn::Connection, chain: ChainTag) -> Result<Hello, Error> {
    let (mut send, mut recv) = connection.open_bi().await.map_err(|error| closed(&error))?;
    let hello = Hello {
        version: VERSION,
        chain,
        features: 0,
        max_streams: 0,
        unix_ms: unix_ms(),
        info: Vec::new(),
    };
    send.write_all(&Request::Hello(hello).encode()?)
        .await
        .map_err(|error| Error::Closed(error.to_string()))?;
    send.finish()
        .map_err(|error| Error::Closed(error.to_string()))?;
    let frame = read_frame(&mut recv, Duration::MAX).await?;
    match Response::decode(&frame)? {
        Response::Hello(hello) => {
            check_hello(&hello, chain).map_err(Error::Protocol)?;
            Ok(hello)
        }
        other => Err(unexpected("hello", &other)),
    }
}

/// One frame, bounded in size and time.
pub(crate) async fn read_frame(recv: &mut RecvStream, stall: Duration) -> Result<Vec<u8>, Error> {
    let mut reader = FrameReader::default();
    loop {
        let read = timeout(stall, recv.read(reader.space()))
            .await
            .map_err(|_| Error::Stalled(stall))?;
        let Some(n) = read.map_err(read_error)? else {
            return Err(WireError::Truncated.into());
        };
        if let Some(frame) = reader.advance(n)? {
            return Ok(frame);
        }
    }
}

/// Writes all, or fails when the peer takes nothing for too long.
pub(crate) async fn write_all(
    send: &mut SendStream,
    bytes: &[u8],
    stall: Duration,
) -> Result<(), Error> {
    let written = timeout(stall, send.write_all(bytes))
        .await
        .map_err(|_| Error::Stalled(stall))?;
    written.map_err(|error| Error::Closed(error.to_string()))
}

async fn expect_end(recv: &mut RecvStream, stall: Duration) -> Result<(), Error> {
    let mut extra = [0; 1];
    match timeout(stall, recv.read(&mut extra))
        .await
        .map_err(|_| Error::Stalled(stall))?
        .map_err(read_error)?
    {
        None => Ok(()),
        Some(_) => Err(Error::Protocol("bytes after the end of the answer".into())),
    }
}

fn read_error(error: ReadError) -> Error {
    match error {
        ReadError::Reset(code) => Error::Closed(match CloseCode::from_wire(code.into_inner()) {
            Some(code) => format!("stream reset: {code:?}"),
            None => format!("stream reset: code {code}"),
        }),
        ReadError::ConnectionLost(error) => closed(&error),
        other => Error::Closed(other.to_string()),
    }
}

fn closed(error: &ConnectionError) -> Error {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            let code = CloseCode::from_wire(close.error_code.into_inner());
            let name =
                code.map_or_else(|| close.error_code.to_string(), |code| format!("{code:?}"));
            // A peer's words: quoted and cut.
            let reason: String = String::from_utf8_lossy(&close.reason)
                .chars()
                .take(120)
                .collect();
            Error::Closed(format!("connection closed: {name} {reason:?}"))
        }
        other => Error::Closed(other.to_string()),
    }
}

/// TLS alerts come as transport errors 0x100 to 0x1ff (RFC 9001 §4.8): the peer is another one, or on another chain.
pub(super) fn handshake_error(peer: PeerAddr, error: ConnectionError) -> Error {
    let code = match &error {
        ConnectionError::TransportError(error) => Some(u64::from(error.code)),
        ConnectionError::ConnectionClosed(close) => Some(u64::from(close.error_code)),
        _ => None,
    };
    match code {
        Some(0x178) => Error::WrongPeer {
            peer,
            why: "it serves another chain or protocol version".into(),
        },
        Some(0x100..=0x1ff) => Error::WrongPeer {
            peer,
            why: format!("the handshake failed ({error})"),
        },
        _ => Error::Unreachable {
            peer,
            why: error.to_string(),
        },
    }
}

/// A connection that ends during the greeting may have ended for a reason of the handshake: the client is the first to
/// finish it, and the server's objection to our key comes after.
fn greeting_error(peer: PeerAddr, connection: &quinn::Connection, error: Error) -> Error {
    match (connection.close_reason(), error) {
        (Some(reason), Error::Closed(_)) => handshake_error(peer, reason),
        (_, Error::Closed(why)) => Error::Unreachable { peer, why },
        (_, error) => error,
    }
}

/// Milliseconds since 1970; 0 on a clock before that.
pub(crate) fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}
