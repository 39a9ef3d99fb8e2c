//! Who may say what when: the protocol's rules as pure machines that bytes are fed to.
//!
//! Walk: `endpoint` and `fetch` drive [`GetReply`] with what a provider sends; `serve` asks [`ServerSession`] about each
//! request. No socket, no clock: the shell moves bytes and keeps deadlines, these types decide.
//! Spec: `network.md` §2.4. Threats N3 (limit before allocation: [`FrameReader`]), R2 (nothing unverified comes out).

use crate::{
    endpoint::PieceKey,
    error::Error,
    range::Ranges,
    verify::{Block, BlockReader, VerifyError},
    wire::{
        self, ChainTag, End, FailureCode, Hello, LENGTH_BYTES, MAX_FRAME_BYTES, Request, Response,
        WireError, frame_length,
    },
};

/// Assembles one frame from any cut of bytes. Holds no more than the frame, and allocates for it only after its
/// length passed the limit.
#[derive(Debug)]
pub struct FrameReader {
    prefix: [u8; LENGTH_BYTES],
    body: Vec<u8>,
    /// Bytes of prefix and body that are here.
    have: usize,
    limit: usize,
}

impl Default for FrameReader {
    fn default() -> Self {
        Self::within(MAX_FRAME_BYTES)
    }
}

impl FrameReader {
    /// A reader of frames of at most `limit` bytes.
    pub fn within(limit: usize) -> Self {
        Self {
            prefix: [0; LENGTH_BYTES],
            body: Vec::new(),
            have: 0,
            limit,
        }
    }

    /// Where the next bytes belong; never empty before the frame is out.
    pub fn space(&mut self) -> &mut [u8] {
        match self.have.checked_sub(LENGTH_BYTES) {
            None => &mut self.prefix[self.have..],
            Some(have) => &mut self.body[have..],
        }
    }

    /// `n` bytes were written to the front of [`FrameReader::space`]. Returns the frame, without its length, when whole;
    /// the reader is then ready for the next one.
    pub fn advance(&mut self, n: usize) -> Result<Option<Vec<u8>>, WireError> {
        self.have += n;
        if self.have == LENGTH_BYTES {
            self.body = vec![0; frame_length(self.prefix, self.limit)?];
        }
        if self.have < LENGTH_BYTES || self.have - LENGTH_BYTES < self.body.len() {
            return Ok(None);
        }
        self.have = 0;
        Ok(Some(std::mem::take(&mut self.body)))
    }

    /// Whether the stream may end here.
    pub fn is_at_boundary(&self) -> bool {
        self.have == 0
    }
}

/// What the provider should do about a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Answer the greeting; the session is open.
    Greet,
    /// Do it.
    Serve(Request),
    /// Close the connection: the peer broke the protocol.
    Close(String),
}

/// The provider's side of a session: Hello first, once, for this version and chain.
#[derive(Debug)]
pub struct ServerSession {
    chain: ChainTag,
    greeted: bool,
}

impl ServerSession {
    /// A session that was not greeted yet.
    pub fn new(chain: ChainTag) -> Self {
        Self {
            chain,
            greeted: false,
        }
    }

    /// Judges the next request.
    pub fn on_request(&mut self, request: Request) -> Verdict {
        match request {
            Request::Hello(_) if self.greeted => Verdict::Close("second hello".into()),
            Request::Hello(hello) => match check_hello(&hello, self.chain) {
                Ok(()) => {
                    self.greeted = true;
                    Verdict::Greet
                }
                Err(why) => Verdict::Close(why),
            },
            _ if !self.greeted => Verdict::Close("request before hello".into()),
            request => Verdict::Serve(request),
        }
    }
}

/// Both sides: same version, same chain (threat N5; the ALPN said so before, but the ALPN is no frame of ours).
pub fn check_hello(hello: &Hello, chain: ChainTag) -> Result<(), String> {
    if hello.version != wire::VERSION {
        return Err(format!(
            "version {} is not {}",
            hello.version,
            wire::VERSION
        ));
    }
    if hello.chain != chain {
        return Err(format!("chain {} is not {chain}", hello.chain));
    }
    Ok(())
}

/// What came out of the bytes of a get's answer.
#[derive(Debug)]
pub enum GetStep {
    /// Nothing yet.
    More,
    /// Verified bytes.
    Block(Block),
    /// All came; the stream must end now.
    Done(End),
}

/// The client's side of a get: head, verified blocks, foot, end.
#[derive(Debug)]
pub struct GetReply {
    piece: PieceKey,
    state: GetState,
    frame: FrameReader,
    blocks: BlockReader,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum GetState {
    Head,
    Body,
    Foot,
    Done,
}

impl GetReply {
    /// The answer to a get of these ranges, in blocks of at most `block_bytes`.
    pub fn new(piece: PieceKey, ranges: &Ranges, block_bytes: usize) -> Result<Self, Error> {
        let blocks = BlockReader::new(piece.root, piece.size, ranges, block_bytes)?;
        Ok(Self {
            piece,
            state: GetState::Head,
            frame: FrameReader::default(),
            blocks,
        })
    }

    /// Where the next bytes of the stream belong; empty only when done.
    pub fn space(&mut self) -> &mut [u8] {
        match self.state {
            GetState::Head | GetState::Foot => self.frame.space(),
            GetState::Body => self.blocks.space(),
            GetState::Done => &mut [],
        }
    }

    /// `n` bytes were written to the front of [`GetReply::space`].
    pub fn advance(&mut self, n: usize) -> Result<GetStep, Error> {
        match self.state {
            GetState::Head => {
                if let Some(frame) = self.frame.advance(n)? {
                    self.on_head(Response::decode(&frame)?)?;
                }
                Ok(GetStep::More)
            }
            GetState::Body => {
                let block = self.blocks.advance(n)?;
                if self.blocks.is_done() {
                    self.state = GetState::Foot;
                }
                Ok(block.map_or(GetStep::More, GetStep::Block))
            }
            GetState::Foot => match self.frame.advance(n)? {
                None => Ok(GetStep::More),
                Some(frame) => self.on_foot(Response::decode(&frame)?),
            },
            GetState::Done => Err(Error::Protocol("bytes after the end of the answer".into())),
        }
    }

    /// The stream ended: right only after the foot.
    pub fn end(&self) -> Result<(), Error> {
        match self.state {
            GetState::Done => Ok(()),
            GetState::Body => Err(VerifyError::Truncated.into()),
            GetState::Head | GetState::Foot => Err(WireError::Truncated.into()),
        }
    }

    /// Whether the answer is complete.
    pub fn is_done(&self) -> bool {
        self.state == GetState::Done
    }

    fn on_head(&mut self, head: Response) -> Result<(), Error> {
        match head {
            Response::Data(head) if head.size == self.piece.size => {
                self.state = GetState::Body;
                Ok(())
            }
            Response::Data(head) => Err(VerifyError::Size {
                got: head.size,
                want: self.piece.size,
            }
            .into()),
            Response::Failure(failure) => Err(Error::Refused(failure)),
            other => Err(unexpected("data", &other)),
        }
    }

    fn on_foot(&mut self, foot: Response) -> Result<GetStep, Error> {
        match foot {
            Response::End(end) if end.bytes == self.blocks.stream_bytes() => {
                self.state = GetState::Done;
                Ok(GetStep::Done(end))
            }
            Response::End(end) => Err(Error::Protocol(format!(
                "end says {} bytes, {} came",
                end.bytes,
                self.blocks.stream_bytes()
            ))),
            other => Err(unexpected("end", &other)),
        }
    }
}

/// An answer of the wrong kind; a failure keeps its own words.
pub fn unexpected(wanted: &str, got: &Response) -> Error {
    match got {
        Response::Failure(failure) if failure.code == FailureCode::BadData => {
            Error::Protocol(format!(
                "the provider received other bytes than announced ({:?})",
                failure.detail
            ))
        }
        Response::Failure(failure) => Error::Refused(failure.clone()),
        other => Error::Protocol(format!("{wanted} expected, {} came", response_name(other))),
    }
}

fn response_name(response: &Response) -> &'static str {
    match response {
        Response::Hello(_) => "hello",
        Response::Have(_) => "have",
        Response::Data(_) => "data",
        Response::End(_) => "end",
        Response::Commp(_) => "commp proof",
        Response::PutGo => "put go",
        Response::PutAck(_) => "put ack",
        Response::Failure(_) => "failure",
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
