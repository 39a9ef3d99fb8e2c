//! The bytes of `hf-retr/1`: application protocol name, frames, their bounds, error and close codes.
//!
//! Walk: `endpoint` offers the [`alpn`]; `session` speaks these frames; `serve`, `push` and `fetch` act on them.
//! Spec: `network.md` §2.4 with borsh bodies (`DESIGN.md`). Threat N3: a length is compared with its limit before a
//! byte is allocated, nothing is compressed, nothing nests.
//!
//! ```text
//! frame    u32 length (of type and body, 1 ..= 65536) | u8 type | body (borsh)
//!
//! stream 0            Hello ->                       <- Hello
//! have                HaveQuery -> FIN               <- Have FIN
//! get                 Get -> FIN                     <- Data, bao bytes, End FIN        or  Err FIN
//! commp proof         CommpQuery -> FIN              <- CommpProof FIN                  or  Err FIN
//! put                 Put ->                         <- PutGo                           or  PutAck, or Err FIN
//!                     bao bytes of the piece, FIN    <- PutAck FIN                      or  Err FIN
//! ```
//!
//! The bao bytes are the BLAKE3 tree of the rounded-out ranges in pre-order: 64-byte parents and leaves of up to
//! 16 KiB, without any header of their own; both sides know the size, so they know how many bytes come
//! ([`crate::verify`]).
//! Types 8 and 10 (vouchers, receipts) and error code 3 belong to paid retrieval and are refused until it exists; what a voucher
//! is stands in [`crate::voucher`].

use borsh::{BorshDeserialize, BorshSerialize};
use prover::commitment::CommP;

use crate::range::{GROUP_BYTES, MAX_PIECE_BYTES, Ranges};

/// Protocol version in [`Hello`].
pub const VERSION: u16 = 1;
/// Largest frame: type byte and body.
pub const MAX_FRAME_BYTES: usize = 64 * 1024;
/// Bytes in front of a frame's type.
pub const LENGTH_BYTES: usize = 4;
/// Most pieces in one [`HaveQuery`].
pub const MAX_HAVE: usize = 256;
/// Most bytes of the provider's own words in [`Hello`] (its ask).
pub const MAX_INFO_BYTES: usize = 1024;
/// Most bytes of a signed deal proposal in [`Put`].
pub const MAX_PROPOSAL_BYTES: usize = 4 * 1024;
/// Most bytes of the provider's answer in [`PutAck`].
pub const MAX_ACK_BYTES: usize = 4 * 1024;
/// Most bytes of text in [`Failure`].
pub const MAX_DETAIL_BYTES: usize = 256;
/// Most bytes of a CommP leaf-range proof.
pub const MAX_COMMP_PROOF_BYTES: usize = 60 * 1024;
/// Most leaves (32-byte nodes) in one [`CommpQuery`].
pub const MAX_COMMP_LEAVES: u32 = 1024;

const _: () = assert!(
    MAX_HAVE * HaveEntry::BYTES + 5 < MAX_FRAME_BYTES,
    "a full answer fits a frame"
);
const _: () = assert!(
    MAX_COMMP_PROOF_BYTES + 5 < MAX_FRAME_BYTES,
    "a proof fits a frame"
);
const _: () = assert!(
    MAX_PROPOSAL_BYTES + 512 < MAX_FRAME_BYTES,
    "a proposal fits a frame"
);

/// The first four bytes of the chain id: what tells two networks apart before a word is said (threat N5).
#[derive(Clone, Copy, PartialEq, Eq, Hash, BorshSerialize, BorshDeserialize)]
pub struct ChainTag(pub [u8; 4]);

impl std::fmt::Display for ChainTag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl std::fmt::Debug for ChainTag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ChainTag({self})")
    }
}

/// The ALPN name: `hf-retr/1/` and eight hex digits of the chain id.
pub fn alpn(tag: ChainTag) -> Vec<u8> {
    format!("hf-retr/{VERSION}/{tag}").into_bytes()
}

/// The BLAKE3 root of a piece: what retrieval verifies against.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize)]
pub struct PieceRoot(pub [u8; 32]);

impl std::fmt::Display for PieceRoot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl std::fmt::Debug for PieceRoot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PieceRoot({self})")
    }
}

impl std::str::FromStr for PieceRoot {
    type Err = hex::FromHexError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut root = [0; 32];
        hex::decode_to_slice(text, &mut root)?;
        Ok(Self(root))
    }
}

/// Application codes of closed connections, reset and stopped streams.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum CloseCode {
    /// Nothing wrong; the end.
    Done = 0,
    /// The receiver has the bytes from somebody else.
    Cancelled = 1,
    /// A group did not match the root.
    BadData = 2,
    /// The other side broke the protocol.
    Protocol = 3,
    /// A cap was reached; come back later.
    Limit = 4,
    /// The other side let a deadline pass.
    TooSlow = 5,
    /// We failed.
    Internal = 6,
    /// We are going down.
    Shutdown = 7,
}

impl CloseCode {
    /// For quinn.
    pub fn var_int(self) -> quinn::VarInt {
        quinn::VarInt::from_u32(self as u32)
    }

    /// The name of a code that came over the wire.
    pub fn from_wire(code: u64) -> Option<Self> {
        use CloseCode::*;
        [
            Done, Cancelled, BadData, Protocol, Limit, TooSlow, Internal, Shutdown,
        ]
        .into_iter()
        .find(|c| *c as u64 == code)
    }
}

/// Why bytes are no frame of this protocol. Always the sender's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A frame says it is longer than any may be.
    #[error("frame of {length} bytes announced; the limit is {limit}")]
    TooLong {
        /// What it says.
        length: u32,
        /// Most bytes of a frame here.
        limit: usize,
    },
    /// A frame without a type byte.
    #[error("empty frame")]
    EmptyFrame,
    /// A type this version does not know, or does not know in this place.
    #[error("frame type {0} is unknown here")]
    UnknownType(u8),
    /// The body is no canonical encoding of its type, or breaks a bound.
    #[error("{what} frame is malformed: {why}")]
    Malformed {
        /// The frame's name.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The stream ended inside a frame.
    #[error("stream ended inside a frame")]
    Truncated,
}

/// Checks a length prefix before anything is allocated for it: at most `limit` bytes, [`MAX_FRAME_BYTES`] in this protocol.
pub fn frame_length(prefix: [u8; LENGTH_BYTES], limit: usize) -> Result<usize, WireError> {
    match u32::from_le_bytes(prefix) {
        0 => Err(WireError::EmptyFrame),
        length if length as usize > limit => Err(WireError::TooLong { length, limit }),
        length => Ok(length as usize),
    }
}

/// First words of both sides.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub struct Hello {
    /// [`VERSION`].
    pub version: u16,
    /// Must equal the tag in the ALPN.
    pub chain: ChainTag,
    /// Optional abilities, one bit each; none is defined yet, unknown bits are ignored.
    pub features: u64,
    /// Streams the sender lets the other side keep open at once.
    pub max_streams: u16,
    /// Milliseconds since 1970 on the sender's clock: for diagnosis, never for a decision.
    pub unix_ms: u64,
    /// The provider's own words (its ask), at most [`MAX_INFO_BYTES`]; empty from clients.
    pub info: Vec<u8>,
}

/// One piece, named by what the asker knows of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, BorshSerialize, BorshDeserialize)]
pub enum PieceRef {
    /// By BLAKE3 root.
    Root(PieceRoot),
    /// By CommP.
    Commp(CommP),
}

/// "Which of these do you hold?"
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub struct HaveQuery {
    /// 1 to [`MAX_HAVE`] pieces.
    pub pieces: Vec<PieceRef>,
}

/// Whether a piece can be read now.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, BorshSerialize, BorshDeserialize)]
pub enum PieceState {
    /// Readable at once.
    Hot,
    /// Being taken out of a sector; ready in about this many milliseconds.
    Unsealing {
        /// Milliseconds until it is expected to be hot.
        eta_ms: u64,
    },
    /// Not here.
    Gone,
}

/// What a provider says about one piece. A claim: only verified bytes prove it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub struct HaveEntry {
    /// Bytes of the unpadded piece; 0 when gone.
    pub size: u64,
    /// Its BLAKE3 root; zeros when gone.
    pub root: PieceRoot,
    /// Its CommP; zeros when gone.
    pub commp: CommP,
    /// Whether it can be read now.
    pub state: PieceState,
}

impl HaveEntry {
    /// Longest encoding.
    const BYTES: usize = 8 + 32 + 32 + 9;

    /// The entry for a piece that is not here.
    pub const GONE: Self = Self {
        size: 0,
        root: PieceRoot([0; 32]),
        commp: CommP([0; 32]),
        state: PieceState::Gone,
    };
}

/// Answers, in the order of the question.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub struct Have {
    /// As many entries as pieces were asked for.
    pub entries: Vec<HaveEntry>,
}

/// "Send me these bytes of this piece."
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub struct Get {
    /// The client's own number, for logs on both sides.
    pub req_id: u64,
    /// Which piece.
    pub root: PieceRoot,
    /// Which bytes, ascending.
    pub ranges: Ranges,
    /// After this many milliseconds the client will no longer want the answer; 0: no deadline.
    pub deadline_ms: u32,
}

/// Head of a stream of verified bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub struct DataHead {
    /// The piece's size in bytes: must be what the client expects.
    pub size: u64,
    /// [`GROUP_BYTES`].
    pub granularity: u32,
}

/// Foot of a stream of verified bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub struct End {
    /// Bao bytes sent.
    pub bytes: u64,
    /// Microseconds from request to last byte, on the provider's clock.
    pub service_us: u64,
}

/// Whose fault, and when to try again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub enum FailureCode {
    /// No such piece here.
    NotFound = 1,
    /// The piece is sealed away; see `retry_after_ms`.
    Unsealing = 2,
    // 3 is PaymentRequired, reserved.
    /// Too much at once; see `retry_after_ms`.
    RateLimited = 4,
    /// The request is larger than the piece or than the provider accepts.
    TooLarge = 5,
    /// The provider failed; its fault, not the client's.
    Internal = 6,
    /// The provider does not want this (terms, room, policy); `detail` says why.
    Refused = 7,
    /// The bytes received do not have the roots that were announced.
    BadData = 8,
}

/// A request that was not fulfilled.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub struct Failure {
    /// Kind.
    pub code: FailureCode,
    /// Wait this long before asking again; 0: asking again will not help by itself.
    pub retry_after_ms: u32,
    /// For humans, at most [`MAX_DETAIL_BYTES`] of UTF-8.
    pub detail: String,
}

impl Failure {
    /// A failure whose detail is cut to what fits the frame.
    pub fn new(code: FailureCode, retry_after_ms: u32, detail: &str) -> Self {
        let mut end = detail.len().min(MAX_DETAIL_BYTES);
        while !detail.is_char_boundary(end) {
            end -= 1;
        }
        Self {
            code,
            retry_after_ms,
            detail: detail[..end].to_owned(),
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.code)?;
        if !self.detail.is_empty() {
            // A peer's words: shown as a quoted string so that they cannot paint on a terminal.
            write!(f, " ({:?})", self.detail)?;
        }
        if self.retry_after_ms > 0 {
            write!(f, ", retry after {} ms", self.retry_after_ms)?;
        }
        Ok(())
    }
}

/// An auditor's question: leaves of the CommP tree with their paths.
#[derive(Clone, Copy, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub struct CommpQuery {
    /// Which piece.
    pub commp: CommP,
    /// First 32-byte leaf of the padded piece.
    pub first_leaf: u64,
    /// 1 to [`MAX_COMMP_LEAVES`] leaves.
    pub leaves: u32,
}

/// The answer, in the format of `prover::piece::inclusion`.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub struct CommpProof {
    /// At most [`MAX_COMMP_PROOF_BYTES`].
    pub proof: Vec<u8>,
}

/// "Please store this piece under this deal."
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub struct PutHeader {
    /// Bytes of the unpadded piece, at least 1.
    pub size: u64,
    /// BLAKE3 root of those bytes.
    pub root: PieceRoot,
    /// CommP of those bytes, zero-filled to the next piece size.
    pub commp: CommP,
    /// The signed deal proposal, opaque here.
    pub proposal: Vec<u8>,
}

/// The provider's signed word that it holds the piece.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub struct PutAck {
    /// Opaque here, at most [`MAX_ACK_BYTES`].
    pub ack: Vec<u8>,
}

/// Every frame that may open a stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// First stream only.
    Hello(Hello),
    /// See [`HaveQuery`].
    Have(HaveQuery),
    /// See [`Get`].
    Get(Get),
    /// See [`CommpQuery`].
    Commp(CommpQuery),
    /// See [`PutHeader`].
    Put(PutHeader),
}

/// Every frame that may answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Response {
    /// To Hello.
    Hello(Hello),
    /// To HaveQuery.
    Have(Have),
    /// To Get: bao bytes follow.
    Data(DataHead),
    /// After the bao bytes.
    End(End),
    /// To CommpQuery.
    Commp(CommpProof),
    /// To Put: send the bytes.
    PutGo,
    /// To Put: stored.
    PutAck(PutAck),
    /// Instead of any of the above.
    Failure(Failure),
}

mod kind {
    pub const HELLO: u8 = 1;
    pub const HAVE_QUERY: u8 = 2;
    pub const HAVE: u8 = 3;
    pub const GET: u8 = 4;
    pub const DATA: u8 = 5;
    pub const FAILURE: u8 = 6;
    pub const END: u8 = 7;
    pub const COMMP: u8 = 9;
    pub const PUT: u8 = 11;
    pub const PUT_ACK: u8 = 12;
    pub const PUT_GO: u8 = 13;
}

impl Request {
    /// The frame, length prefix included.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        match self {
            Self::Hello(body) => frame(kind::HELLO, body, check_hello),
            Self::Have(body) => frame(kind::HAVE_QUERY, body, check_have_query),
            Self::Get(body) => frame(kind::GET, body, no_check),
            Self::Commp(body) => frame(kind::COMMP, body, check_commp_query),
            Self::Put(body) => frame(kind::PUT, body, check_put),
        }
    }

    /// A frame without its length prefix. Total: any bytes give a value or an error.
    pub fn decode(frame: &[u8]) -> Result<Self, WireError> {
        let (&kind, body) = frame.split_first().ok_or(WireError::EmptyFrame)?;
        match kind {
            kind::HELLO => parse("hello", body, check_hello).map(Self::Hello),
            kind::HAVE_QUERY => parse("have query", body, check_have_query).map(Self::Have),
            kind::GET => parse("get", body, no_check).map(Self::Get),
            kind::COMMP => parse("commp query", body, check_commp_query).map(Self::Commp),
            kind::PUT => parse("put", body, check_put).map(Self::Put),
            unknown => Err(WireError::UnknownType(unknown)),
        }
    }
}

impl Response {
    /// The frame, length prefix included.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        match self {
            Self::Hello(body) => frame(kind::HELLO, body, check_hello),
            Self::Have(body) => frame(kind::HAVE, body, check_have),
            Self::Data(body) => frame(kind::DATA, body, check_data),
            Self::End(body) => frame(kind::END, body, no_check),
            Self::Commp(body) => frame(kind::COMMP, body, check_commp_proof),
            Self::PutGo => frame(kind::PUT_GO, &(), no_check),
            Self::PutAck(body) => frame(kind::PUT_ACK, body, check_ack),
            Self::Failure(body) => frame(kind::FAILURE, body, check_failure),
        }
    }

    /// A frame without its length prefix. Total: any bytes give a value or an error.
    pub fn decode(frame: &[u8]) -> Result<Self, WireError> {
        let (&kind, body) = frame.split_first().ok_or(WireError::EmptyFrame)?;
        match kind {
            kind::HELLO => parse("hello", body, check_hello).map(Self::Hello),
            kind::HAVE => parse("have", body, check_have).map(Self::Have),
            kind::DATA => parse("data", body, check_data).map(Self::Data),
            kind::END => parse("end", body, no_check).map(Self::End),
            kind::COMMP => parse("commp proof", body, check_commp_proof).map(Self::Commp),
            kind::PUT_GO => parse::<()>("put go", body, no_check).map(|()| Self::PutGo),
            kind::PUT_ACK => parse("put ack", body, check_ack).map(Self::PutAck),
            kind::FAILURE => parse("failure", body, check_failure).map(Self::Failure),
            unknown => Err(WireError::UnknownType(unknown)),
        }
    }
}

type Check<T> = fn(&T) -> Result<(), String>;

/// Encodes within the same bounds that the other side will apply, so that a too large value fails at its author.
fn frame<T: BorshSerialize>(kind: u8, body: &T, check: Check<T>) -> Result<Vec<u8>, WireError> {
    let malformed = |why| WireError::Malformed {
        what: "outgoing",
        why,
    };
    check(body).map_err(malformed)?;
    let mut out = vec![0, 0, 0, 0, kind];
    body.serialize(&mut out)
        .map_err(|error| malformed(error.to_string()))?;
    let length = out.len() - LENGTH_BYTES;
    if length > MAX_FRAME_BYTES {
        return Err(WireError::TooLong {
            length: u32::try_from(length).unwrap_or(u32::MAX),
            limit: MAX_FRAME_BYTES,
        });
    }
    let prefix = u32::try_from(length)
        .expect("checked against the frame limit")
        .to_le_bytes();
    out[..LENGTH_BYTES].copy_from_slice(&prefix);
    Ok(out)
}

/// `from_slice` refuses leftovers; the slice is bounded by the frame limit, and borsh allocates no more than the bytes
/// that are there, so a lying element count costs nothing.
fn parse<T: BorshDeserialize>(
    what: &'static str,
    body: &[u8],
    check: Check<T>,
) -> Result<T, WireError> {
    let malformed = |why| WireError::Malformed { what, why };
    let value: T = borsh::from_slice(body).map_err(|error| malformed(error.to_string()))?;
    check(&value).map_err(malformed)?;
    Ok(value)
}

fn no_check<T>(_: &T) -> Result<(), String> {
    Ok(())
}

fn at_most(what: &str, length: usize, limit: usize) -> Result<(), String> {
    if length > limit {
        Err(format!(
            "{what} has {length} bytes or entries, at most {limit} are allowed"
        ))
    } else {
        Ok(())
    }
}

fn check_hello(hello: &Hello) -> Result<(), String> {
    at_most("info", hello.info.len(), MAX_INFO_BYTES)
}

fn check_have_query(query: &HaveQuery) -> Result<(), String> {
    if query.pieces.is_empty() {
        return Err("asks for no piece".into());
    }
    at_most("piece list", query.pieces.len(), MAX_HAVE)
}

fn check_have(have: &Have) -> Result<(), String> {
    at_most("entry list", have.entries.len(), MAX_HAVE)
}

fn check_data(head: &DataHead) -> Result<(), String> {
    if u64::from(head.granularity) != GROUP_BYTES {
        return Err(format!(
            "granularity {} is not {GROUP_BYTES}",
            head.granularity
        ));
    }
    check_size(head.size)
}

fn check_size(size: u64) -> Result<(), String> {
    if size == 0 || size > MAX_PIECE_BYTES {
        Err(format!("piece size {size} is impossible"))
    } else {
        Ok(())
    }
}

fn check_commp_query(query: &CommpQuery) -> Result<(), String> {
    if query.leaves == 0 || query.leaves > MAX_COMMP_LEAVES {
        return Err(format!(
            "{} leaves; 1 to {MAX_COMMP_LEAVES} are allowed",
            query.leaves
        ));
    }
    query
        .first_leaf
        .checked_add(u64::from(query.leaves))
        .map(|_| ())
        .ok_or_else(|| "leaf index overflows".into())
}

fn check_commp_proof(proof: &CommpProof) -> Result<(), String> {
    at_most("proof", proof.proof.len(), MAX_COMMP_PROOF_BYTES)
}

fn check_put(header: &PutHeader) -> Result<(), String> {
    check_size(header.size)?;
    at_most("proposal", header.proposal.len(), MAX_PROPOSAL_BYTES)
}

fn check_ack(ack: &PutAck) -> Result<(), String> {
    at_most("ack", ack.ack.len(), MAX_ACK_BYTES)
}

fn check_failure(failure: &Failure) -> Result<(), String> {
    at_most("detail", failure.detail.len(), MAX_DETAIL_BYTES)
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
