//! Reading out: have, get, CommP proofs.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use quinn::SendStream;
use tokio::{task::JoinHandle, time::timeout};

use super::{OpenPiece, Refusal, ServeStats, connection::Peer};
use crate::{
    error::Error,
    limits::BLOCK_BYTES,
    range::GROUP_BYTES,
    verify::{EncodeError, Encoder, ReadAt},
    wire::{
        CloseCode, CommpProof, CommpQuery, DataHead, End, Get, Have, HaveEntry, HaveQuery,
        MAX_COMMP_PROOF_BYTES, Response,
    },
};

/// Answers a have query.
pub(super) async fn have(
    peer: &Arc<Peer>,
    query: HaveQuery,
    send: &mut SendStream,
) -> Result<(), Error> {
    let Some(_turn) = peer.visit.serving_turn(patience(peer)).await else {
        return peer.refuse(send, &busy()).await;
    };
    let entries = peer.blocking(move |store| {
        let entry = |piece| {
            let found = store.have(piece);
            found.map_or(HaveEntry::GONE, |m| HaveEntry {
                size: m.size,
                root: m.root,
                commp: m.commp,
                state: m.state,
            })
        };
        query.pieces.iter().map(entry).collect()
    });
    match entries.await {
        Ok(entries) => peer.answer(send, &Response::Have(Have { entries })).await,
        Err(refusal) => peer.refuse(send, &refusal).await,
    }
}

/// Answers an auditor.
pub(super) async fn commp_proof(
    peer: &Arc<Peer>,
    query: CommpQuery,
    send: &mut SendStream,
) -> Result<(), Error> {
    let Some(_turn) = peer.visit.serving_turn(patience(peer)).await else {
        return peer.refuse(send, &busy()).await;
    };
    let proof = peer
        .blocking(move |store| store.commp_proof(&query.commp, query.first_leaf, query.leaves))
        .await;
    match proof.and_then(|proof| proof) {
        Ok(proof) if proof.len() <= MAX_COMMP_PROOF_BYTES => {
            peer.answer(send, &Response::Commp(CommpProof { proof }))
                .await
        }
        Ok(proof) => {
            let why = format!("a proof has {} bytes, more than a frame holds", proof.len());
            peer.refuse(send, &Refusal::TooLarge(why)).await
        }
        Err(refusal) => peer.refuse(send, &refusal).await,
    }
}

/// Answers a get: head, verified stream, foot.
pub(super) async fn get(peer: &Arc<Peer>, get: Get, send: &mut SendStream) -> Result<(), Error> {
    let begin = Instant::now();
    let Some(_turn) = peer.visit.serving_turn(patience(peer)).await else {
        return peer.refuse(send, &busy()).await;
    };
    let deadline = match get.deadline_ms {
        0 => Duration::MAX,
        ms => Duration::from_millis(ms.into()),
    };
    match timeout(deadline, stream(peer, get, send, begin)).await {
        Ok(done) => done,
        Err(_) => {
            let _ = send.reset(CloseCode::TooSlow.var_int());
            Err(Error::Stalled(deadline))
        }
    }
}

async fn stream(
    peer: &Arc<Peer>,
    get: Get,
    send: &mut SendStream,
    begin: Instant,
) -> Result<(), Error> {
    let root = get.root;
    let opened = peer
        .blocking(move |store| open(store, get))
        .await
        .and_then(|opened| opened);
    let (size, encoder) = match opened {
        Ok(opened) => opened,
        Err(refusal) => return peer.refuse(send, &refusal).await,
    };
    let stall = peer.service.endpoint.limits().stall_timeout;
    let (mut next, mut sent) = (encode(encoder), 0u64);
    loop {
        let (encoder, block, more) = match encoded(next).await {
            Ok(encoded) => encoded,
            Err(error) => return failed(peer, &root, error, sent, send).await,
        };
        if sent == 0 {
            // Only now: a piece that is damaged at once is an honest "internal error".
            let head = DataHead {
                size,
                granularity: GROUP_BYTES as u32,
            };
            peer.say(send, &Response::Data(head)).await?;
        }
        // The next block is read and checked while this one goes out.
        let upcoming = more.then(|| encode(encoder));
        let bytes = block.len();
        peer.visit.pace(bytes).await;
        // A whole block per stall timeout is also the least speed at which a reader may hold its turn.
        let written = timeout(stall, send.write_chunk(block))
            .await
            .map_err(|_| Error::Stalled(stall))?;
        written.map_err(|error| Error::Closed(error.to_string()))?;
        sent += bytes as u64;
        ServeStats::add(&peer.service.stats.bytes_out, bytes as u64);
        match upcoming {
            Some(upcoming) => next = upcoming,
            None => break,
        }
    }
    let service_us = u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX);
    peer.answer(
        send,
        &Response::End(End {
            bytes: sent,
            service_us,
        }),
    )
    .await
}

type PieceEncoder = Encoder<Arc<dyn ReadAt>, Arc<dyn ReadAt>>;

/// Refuses ranges behind the end before anything is read (threat R3).
fn open(store: &dyn super::PieceStore, get: Get) -> Result<(u64, PieceEncoder), Refusal> {
    let OpenPiece {
        size,
        data,
        outboard,
    } = store.open(&get.root)?;
    get.ranges
        .within(size)
        .map_err(|error| Refusal::TooLarge(error.to_string()))?;
    let encoder = Encoder::new(get.root, size, &get.ranges, data, outboard)
        .map_err(|error| Refusal::TooLarge(error.to_string()))?;
    Ok((size, encoder))
}

type Encoded = Result<(PieceEncoder, Bytes, bool), EncodeError>;

fn encode(mut encoder: PieceEncoder) -> JoinHandle<Encoded> {
    tokio::task::spawn_blocking(move || {
        let mut block = Vec::new();
        let more = encoder.fill(&mut block, BLOCK_BYTES)?;
        Ok((encoder, Bytes::from(block), more))
    })
}

async fn encoded(
    task: JoinHandle<Encoded>,
) -> Result<(PieceEncoder, Bytes, bool), Option<EncodeError>> {
    match task.await {
        Ok(encoded) => encoded.map_err(Some),
        Err(_panicked) => Err(None),
    }
}

/// Our disk failed: say so, in a frame when none of the data is out, else by a reset.
async fn failed(
    peer: &Arc<Peer>,
    root: &crate::wire::PieceRoot,
    error: Option<EncodeError>,
    sent: u64,
    send: &mut SendStream,
) -> Result<(), Error> {
    let why = error
        .as_ref()
        .map_or_else(|| "encoding panicked".to_owned(), ToString::to_string);
    if let Some(EncodeError::Damaged(damage)) = error {
        ServeStats::add(&peer.service.stats.damaged, 1);
        let (root, offset) = (*root, damage.offset());
        // The store learns of it; whether it could note it changes nothing for this reader.
        let _ = peer
            .blocking(move |store| store.damaged(&root, offset))
            .await;
    }
    if sent == 0 {
        return peer.refuse(send, &Refusal::Internal(why)).await;
    }
    tracing::warn!(piece = %root, why, "a piece could not be served to the end");
    ServeStats::add(&peer.service.stats.failures, 1);
    let _ = send.reset(CloseCode::Internal.var_int());
    Ok(())
}

fn patience(peer: &Peer) -> Duration {
    peer.service.endpoint.limits().stall_timeout / 2
}

fn busy() -> Refusal {
    Refusal::Busy {
        retry_after_ms: 1_000,
    }
}
