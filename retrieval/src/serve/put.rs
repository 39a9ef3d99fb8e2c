//! Taking in: a put is judged, received, verified against both roots, made durable, acknowledged.
//!
//! Threat C4: BLAKE3 is checked group by group while the bytes come, CommP is recomputed over the same bytes, and only
//! then may the store sign. Memory: two blocks in the channel, one in the reader, one in the sink's thread, and the
//! connection's put window; `max_puts` of them.

use std::sync::Arc;

use prover::piece::commp::CommpHasher;
use quinn::{RecvStream, SendStream};
use tokio::{sync::mpsc, time::timeout};

use super::{CheckedPiece, PutDecision, PutSink, Refusal, ServeStats, connection::Peer};
use crate::{
    error::Error,
    limits::BLOCK_BYTES,
    verify::{BlockReader, VerifyError},
    wire::{CloseCode, Failure, FailureCode, PutAck, PutHeader, Response},
};

/// Answers a put.
pub(super) async fn receive(
    peer: &Arc<Peer>,
    header: PutHeader,
    send: &mut SendStream,
    recv: &mut RecvStream,
) -> Result<(), Error> {
    let patience = peer.service.endpoint.limits().stall_timeout / 2;
    let Some(_turn) = peer.visit.put_turn(patience).await else {
        return peer
            .refuse(
                send,
                &Refusal::Busy {
                    retry_after_ms: 2_000,
                },
            )
            .await;
    };
    let (id, offer) = (peer.visit.peer, header.clone());
    let decision = peer
        .blocking(move |store| store.accept(&id, &offer))
        .await
        .and_then(|decision| decision);
    let sink = match decision {
        Ok(PutDecision::Receive(sink)) => sink,
        Ok(PutDecision::AlreadyHere(ack)) => {
            return peer.answer(send, &Response::PutAck(PutAck { ack })).await;
        }
        Err(refusal) => return peer.refuse(send, &refusal).await,
    };
    let _wide = peer.widen();
    peer.say(send, &Response::PutGo).await?;
    match transfer(peer, &header, sink, recv).await {
        Ok(ack) => {
            ServeStats::add(&peer.service.stats.stored, 1);
            peer.answer(send, &Response::PutAck(PutAck { ack })).await
        }
        Err(fault) => {
            let code = if matches!(fault, Fault::Data(_)) {
                CloseCode::BadData
            } else {
                CloseCode::Cancelled
            };
            let _ = recv.stop(code.var_int());
            fault.tell(peer, send).await
        }
    }
}

/// Why a transfer did not end in an acknowledgement.
enum Fault {
    /// The bytes are not those announced.
    Data(String),
    /// The store says no.
    Store(Refusal),
    /// The stream ended or stalled.
    Stream(Error),
}

impl Fault {
    async fn tell(self, peer: &Peer, send: &mut SendStream) -> Result<(), Error> {
        match self {
            Self::Data(why) => {
                ServeStats::add(&peer.service.stats.failures, 1);
                let failure = Failure::new(FailureCode::BadData, 0, &why);
                peer.answer(send, &Response::Failure(failure)).await
            }
            Self::Store(refusal) => peer.refuse(send, &refusal).await,
            Self::Stream(error) => Err(error),
        }
    }
}

impl From<VerifyError> for Fault {
    fn from(error: VerifyError) -> Self {
        Self::Data(error.to_string())
    }
}

/// What the receiving task hands to the storing thread.
enum Chunk {
    Data(bytes::Bytes),
    Pairs(Vec<u8>),
    /// All came and BLAKE3 agrees.
    Complete,
}

async fn transfer(
    peer: &Arc<Peer>,
    header: &PutHeader,
    sink: Box<dyn PutSink>,
    recv: &mut RecvStream,
) -> Result<Vec<u8>, Fault> {
    let (chunks, stored) = mpsc::channel(2);
    let announced = header.clone();
    let storing = tokio::task::spawn_blocking(move || store(&announced, sink, stored));
    let received = receive_blocks(peer, header, recv, &chunks).await;
    drop(chunks);
    // The storing thread's word counts first: when it stopped early, that is why we could not go on.
    let stored = storing.await.unwrap_or_else(|error| {
        Err(Fault::Store(Refusal::Internal(format!(
            "the storing thread failed: {error}"
        ))))
    });
    match (stored, received) {
        (Ok(Some(ack)), Ok(())) => Ok(ack),
        (Err(fault), _) | (_, Err(fault)) => Err(fault),
        (Ok(None), Ok(())) => Err(Fault::Store(Refusal::Internal(
            "the storing thread ended early".into(),
        ))),
    }
}

async fn receive_blocks(
    peer: &Arc<Peer>,
    header: &PutHeader,
    recv: &mut RecvStream,
    chunks: &mpsc::Sender<Chunk>,
) -> Result<(), Fault> {
    let stall = peer.service.endpoint.limits().stall_timeout;
    let mut reader = BlockReader::whole_with_pairs(header.root, header.size, BLOCK_BYTES)
        .map_err(|error| Fault::Data(error.to_string()))?;
    let gone = |_| Fault::Stream(Error::Closed("the storing thread stopped".into()));
    while !reader.is_done() {
        let Some(n) = read(recv, reader.space(), stall).await? else {
            return Err(VerifyError::Truncated.into());
        };
        if let Some(block) = reader.advance(n)? {
            ServeStats::add(&peer.service.stats.bytes_in, block.data.len() as u64);
            chunks
                .send(Chunk::Pairs(reader.take_pairs()))
                .await
                .map_err(gone)?;
            chunks.send(Chunk::Data(block.data)).await.map_err(gone)?;
        }
    }
    if read(recv, &mut [0], stall).await?.is_some() {
        return Err(Fault::Data("more bytes than announced".into()));
    }
    chunks.send(Chunk::Complete).await.map_err(gone)
}

async fn read(
    recv: &mut RecvStream,
    space: &mut [u8],
    stall: std::time::Duration,
) -> Result<Option<usize>, Fault> {
    let read = timeout(stall, recv.read(space))
        .await
        .map_err(|_| Fault::Stream(Error::Stalled(stall)))?;
    read.map_err(|error| Fault::Stream(Error::Closed(error.to_string())))
}

/// The storing thread: CommP over every byte, then the sink. `None`: the sender gave up, the sink is dropped.
fn store(
    header: &PutHeader,
    mut sink: Box<dyn PutSink>,
    mut chunks: mpsc::Receiver<Chunk>,
) -> Result<Option<Vec<u8>>, Fault> {
    let mut hasher = CommpHasher::new();
    while let Some(chunk) = chunks.blocking_recv() {
        match chunk {
            Chunk::Data(bytes) => {
                hasher.update(&bytes);
                sink.write(&bytes).map_err(Fault::Store)?;
            }
            Chunk::Pairs(pairs) => sink.write_outboard(&pairs).map_err(Fault::Store)?,
            Chunk::Complete => {
                let (commp, _) = hasher.finish();
                if commp != header.commp {
                    return Err(Fault::Data(format!(
                        "CommP of the bytes is {commp}, announced was {}",
                        header.commp
                    )));
                }
                let piece = CheckedPiece {
                    size: header.size,
                    root: header.root,
                    commp,
                };
                return sink.finish(&piece).map(Some).map_err(Fault::Store);
            }
        }
    }
    Ok(None)
}
