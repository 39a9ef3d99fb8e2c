//! The client's side of a put: offer, send, get the signed acknowledgement.
//!
//! Walk: after `object::erasure` and the signed proposal; the other half is [`crate::serve`].
//! Spec: `network.md` §2.4 (types 11 to 13). Bytes are sent only after the provider agreed to the proposal, so a refusal
//! costs one round trip. Memory: two blocks of 256 KiB.
//! Crash: repeating a put is safe. A provider that holds the piece under the same proposal acknowledges again without
//! taking a byte; one that received a part has dropped it.

use std::sync::Arc;

use bytes::Bytes;
use quinn::SendStream;
use tokio::time::timeout;

use crate::{
    endpoint::{PieceKey, Session},
    error::Error,
    limits::BLOCK_BYTES,
    range::{GROUP_BYTES, Ranges},
    session::unexpected,
    verify::{EncodeError, Encoder, ReadAt},
    wire::{CloseCode, PutAck, PutHeader, Request, Response},
};

/// The bytes of a piece and its outboard ([`crate::verify::OutboardBuilder`]).
#[derive(Clone)]
pub struct PutSource {
    /// The unpadded piece.
    pub data: Arc<dyn ReadAt>,
    /// Pairs in pre-order.
    pub outboard: Arc<dyn ReadAt>,
}

impl std::fmt::Debug for PutSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PutSource")
    }
}

/// Offers a piece, sends it when wanted, returns the provider's acknowledgement.
pub async fn put(session: &Session, header: PutHeader, source: PutSource) -> Result<PutAck, Error> {
    let piece = PieceKey {
        root: header.root,
        size: header.size,
    };
    let (mut send, mut recv) = session.begin(&Request::Put(header)).await?;
    match session.read_response(&mut recv).await? {
        Response::PutGo => {}
        Response::PutAck(ack) => return Ok(ack),
        other => return Err(unexpected("put go", &other)),
    }
    // The provider may object while we send: then its answer is the reason, and our failed write only a symptom.
    let sent = send_piece(&mut send, piece, source, session.stall_timeout()).await;
    match sent {
        Ok(()) => send
            .finish()
            .map_err(|error| Error::Closed(error.to_string()))?,
        Err(SendError::Source(error)) => {
            let _ = send.reset(CloseCode::Internal.var_int());
            return Err(error);
        }
        Err(SendError::Peer(_)) => {}
    }
    let answer = session.read_response(&mut recv).await;
    match (answer, sent) {
        (Ok(Response::PutAck(ack)), Ok(())) => Ok(ack),
        (Ok(other), _) => Err(unexpected("put ack", &other)),
        (Err(_), Err(SendError::Peer(error))) => Err(error),
        (Err(error), _) => Err(error),
    }
}

enum SendError {
    /// Our own file is at fault.
    Source(Error),
    /// The provider is.
    Peer(Error),
}

async fn send_piece(
    send: &mut SendStream,
    piece: PieceKey,
    source: PutSource,
    stall: std::time::Duration,
) -> Result<(), SendError> {
    let whole = Ranges::whole(piece.size).map_err(|error| SendError::Source(error.into()))?;
    let encoder = Encoder::new(piece.root, piece.size, &whole, source.data, source.outboard)
        .map_err(|error| SendError::Source(error.into()))?;
    let mut next = encode_block(encoder);
    loop {
        let (encoder, block, more) = next.await.map_err(SendError::Source)?;
        // The next block is read and checked while this one goes out.
        let upcoming = more.then(|| encode_block(encoder));
        let sent = timeout(stall, send.write_chunk(block)).await;
        sent.map_err(|_| SendError::Peer(Error::Stalled(stall)))?
            .map_err(|error| SendError::Peer(Error::Closed(error.to_string())))?;
        match upcoming {
            Some(upcoming) => next = upcoming,
            None => return Ok(()),
        }
    }
}

type SourceEncoder = Encoder<Arc<dyn ReadAt>, Arc<dyn ReadAt>>;

/// Encodes one block on a blocking thread, begun at once.
fn encode_block(
    mut encoder: SourceEncoder,
) -> impl Future<Output = Result<(SourceEncoder, Bytes, bool), Error>> {
    let task = tokio::task::spawn_blocking(move || {
        let mut block = Vec::with_capacity(BLOCK_BYTES + GROUP_BYTES as usize);
        let more = encoder.fill(&mut block, BLOCK_BYTES)?;
        Ok((encoder, Bytes::from(block), more))
    });
    async {
        match task.await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(EncodeError::Io { source, .. })) => {
                Err(Error::io("reading the piece to push")(source))
            }
            Ok(Err(EncodeError::Damaged(error))) => Err(Error::Invalid(format!(
                "the piece to push changed or has another root than announced: {error}"
            ))),
            Err(panicked) => Err(Error::Invalid(format!(
                "encoding the piece failed: {panicked}"
            ))),
        }
    }
}
