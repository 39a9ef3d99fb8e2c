//! The protocol between real endpoints on loopback: what must work, and what must not hurt.

mod support;

use std::sync::atomic::Ordering;

use bytes::Bytes;
use retrieval::{
    Fetcher, PieceKey, PieceRoot, Ranges, push,
    wire::{CommpQuery, PieceRef, PieceState},
};
use support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_piece_is_put_found_and_read_back() {
    let piece = Piece::new(sample(1_000_003, 1));
    let provider = Provider::start(MemStore::with(&[]));
    let session = client().session(provider.addr).await.expect("a session");
    assert_eq!(session.info(), b"ask");
    let ack = push::put(&session, piece.header(), piece.source())
        .await
        .expect("stored");
    assert_eq!(ack.ack, b"stored");
    let stored = provider.store.pieces.lock().unwrap()[&piece.key.root].clone();
    assert!(
        stored.data == piece.data && stored.outboard == piece.outboard,
        "bytes and tree as sent"
    );

    let asked = [
        PieceRef::Root(piece.key.root),
        PieceRef::Commp(piece.commp),
        PieceRef::Root(PieceRoot([9; 32])),
    ];
    let have = session.have(&asked).await.expect("an answer");
    assert_eq!(
        have.iter().map(|h| h.state).collect::<Vec<_>>(),
        [PieceState::Hot, PieceState::Hot, PieceState::Gone]
    );
    assert_eq!(have[1].size, piece.key.size);

    for range in [
        0..1,
        16_383..16_385,
        999_999..1_000_003,
        0..1_000_003,
        70_000..400_000,
    ] {
        let got = session.read(piece.key, range.clone()).await.expect("bytes");
        assert!(
            got == piece.data[range.start as usize..range.end as usize],
            "{range:?}"
        );
    }
    let ranges = Ranges::new([5..6, 100_000..100_001, 900_000..1_000_003]).expect("ranges");
    let mut stream = session.get(piece.key, &ranges).await.expect("a stream");
    let mut offsets = Vec::new();
    while let Some(block) = stream.next().await.expect("blocks") {
        assert!(
            block.data
                == piece.data[block.offset as usize..block.offset as usize + block.data.len()]
        );
        offsets.push(block.offset);
    }
    assert_eq!(offsets, [0, 98_304, 884_736]);
    let proof = session
        .commp_proof(CommpQuery {
            commp: piece.commp,
            first_leaf: 3,
            leaves: 2,
        })
        .await;
    assert_eq!(proof.expect("a proof"), b"3+2");
    provider.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_put_is_acknowledged_without_a_byte() {
    let piece = Piece::new(sample(300_000, 2));
    let provider = Provider::start(MemStore::with(&[]));
    let session = client().session(provider.addr).await.expect("a session");
    push::put(&session, piece.header(), piece.source())
        .await
        .expect("stored");
    let again = push::put(&session, piece.header(), piece.source())
        .await
        .expect("known");
    assert_eq!(again.ack, b"stored before");
    assert_eq!(
        provider.handle.stats().bytes_in.load(Ordering::SeqCst),
        300_000
    );
}

/// Four shards that differ, at four honest providers.
fn four(size: usize) -> (Vec<Piece>, Vec<Provider>) {
    let pieces: Vec<_> = (0..4)
        .map(|i| Piece::without_commp(sample(size, 10 + i)))
        .collect();
    let providers = pieces
        .iter()
        .map(|piece| Provider::start(MemStore::with(&[piece])))
        .collect();
    (pieces, providers)
}

fn sources(pieces: &[Piece], providers: &[Provider]) -> Vec<(PieceKey, retrieval::PeerAddr)> {
    pieces
        .iter()
        .zip(providers)
        .map(|(piece, provider)| (piece.key, provider.addr))
        .collect()
}

fn bytes_of(pieces: &[Piece]) -> Vec<Bytes> {
    pieces.iter().map(|piece| piece.data.clone()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_shards_are_preferred_on_a_good_network() {
    let (pieces, providers) = four(10_000_001);
    let fetcher = Fetcher::new(client(), fetch_limits());
    let report = fetch_and_check(
        &fetcher,
        request(2, &sources(&pieces, &providers)),
        &bytes_of(&pieces),
    )
    .await;
    assert_eq!(report.bytes, 2 * 10_000_001);
    let data: u64 = report.providers[..2].iter().map(|p| p.bytes).sum();
    assert!(data * 2 > report.bytes, "{report:?}");
}
