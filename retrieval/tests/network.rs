//! The protocol between real endpoints on loopback: what must work, and what must not hurt.

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use retrieval::{
    Endpoint, Error, FetchLimits, Fetcher, Limits, PeerAddr, PieceKey, PieceRoot, Ranges, push,
    resume::Bitmap,
    serve::Refusal,
    verify::Encoder,
    wire::{CommpQuery, DataHead, End, FailureCode, PieceRef, PieceState, Request, Response},
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

fn sources(pieces: &[Piece], providers: &[Provider]) -> Vec<(PieceKey, PeerAddr)> {
    pieces
        .iter()
        .zip(providers)
        .map(|(piece, provider)| (piece.key, provider.addr))
        .collect()
}

fn bytes_of(pieces: &[Piece]) -> Vec<Bytes> {
    pieces.iter().map(|piece| piece.data.clone()).collect()
}

/// Takes no provider for late, however busy this machine is.
fn unhurried() -> Fetcher {
    let limits = FetchLimits {
        hedge_after: PATIENCE,
        ..fetch_limits()
    };
    Fetcher::new(client(), limits)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_shards_are_asked_first_while_nothing_is_known_of_the_providers() {
    // One unit: later ones follow what was measured, which on a busy machine may speak for parity.
    let (pieces, providers) = four(1_000_001);
    let report = fetch_and_check(
        &unhurried(),
        request(2, &sources(&pieces, &providers)),
        &bytes_of(&pieces),
    )
    .await;
    assert_eq!(report.bytes, 2 * 1_000_001);
    let data: u64 = report.providers[..2].iter().map(|p| p.bytes).sum();
    assert!(data * 2 > report.bytes, "{report:?}");
}

/// What an honest provider would send for this get, in its three parts.
fn honest_answer(piece: &Piece, ranges: &Ranges) -> [Vec<u8>; 3] {
    let mut body = Vec::new();
    let (data, outboard) = (piece.data.clone(), piece.outboard.clone());
    let mut encoder =
        Encoder::new(piece.key.root, piece.key.size, ranges, data, outboard).expect("inside");
    encoder.fill(&mut body, usize::MAX).expect("in memory");
    let head = Response::Data(DataHead {
        size: piece.key.size,
        granularity: 16_384,
    })
    .encode()
    .expect("bounds");
    let foot = Response::End(End {
        bytes: body.len() as u64,
        service_us: 1,
    })
    .encode()
    .expect("bounds");
    [head, body, foot]
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    FlipLeaf,
    FlipParent,
    FlipSize,
    OtherSize,
    WrongCount,
    CloseEarly,
    Reset,
    NotAFrame,
    HugeFrame,
    ExtraBytes,
    Stall,
    Drip,
}

/// A provider of this piece with one fault.
fn faulty(piece: &Piece, fault: Fault) -> PeerAddr {
    let piece = piece.clone();
    rogue::start(rogue::script(move |request, mut send, _recv| {
        let piece = piece.clone();
        async move {
            let Request::Get(get) = request else { return };
            let [mut head, mut body, mut foot] = honest_answer(&piece, &get.ranges);
            match fault {
                Fault::FlipLeaf => *body.last_mut().expect("data") ^= 1,
                Fault::FlipParent => body[5] ^= 1,
                Fault::FlipSize => head[6] ^= 1,
                Fault::OtherSize => {
                    let lie = DataHead {
                        size: piece.key.size * 2,
                        granularity: 16_384,
                    };
                    head = Response::Data(lie).encode().expect("bounds");
                }
                Fault::WrongCount => {
                    foot = Response::End(End {
                        bytes: 1,
                        service_us: 0,
                    })
                    .encode()
                    .expect("bounds")
                }
                Fault::NotAFrame => head = vec![5, 0, 0, 0, 77, 1, 2, 3, 4],
                Fault::HugeFrame => head = vec![0xff; 4],
                Fault::ExtraBytes => foot.extend([0; 10]),
                Fault::CloseEarly => {
                    let _ = send
                        .write_all(&[head, body[..body.len() / 2].to_vec()].concat())
                        .await;
                    let _ = send.finish();
                    return;
                }
                Fault::Reset => {
                    let _ = send.write_all(&head).await;
                    let _ = send.reset(6u32.into());
                    return;
                }
                Fault::Stall => {
                    let _ = send.write_all(&[head, body[..100].to_vec()].concat()).await;
                    return std::future::pending::<()>().await;
                }
                Fault::Drip => {
                    for bytes in [head, body, foot].concat().chunks(2_000) {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        if send.write_all(bytes).await.is_err() {
                            return;
                        }
                    }
                    let _ = send.finish();
                    return;
                }
            }
            let _ = send.write_all(&[head, body, foot].concat()).await;
            let _ = send.finish();
        }
    }))
}

const LIES: [Fault; 8] = [
    Fault::FlipLeaf,
    Fault::FlipParent,
    Fault::FlipSize,
    Fault::OtherSize,
    Fault::WrongCount,
    Fault::NotAFrame,
    Fault::HugeFrame,
    Fault::ExtraBytes,
];
const FAILURES: [Fault; 3] = [Fault::CloseEarly, Fault::Reset, Fault::Stall];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tm_r2_each_lie_is_caught_and_called_a_lie() {
    let piece = Piece::without_commp(sample(200_000, 3));
    for fault in LIES {
        let session = client()
            .session(faulty(&piece, fault))
            .await
            .expect("greets well");
        let error = session
            .read(piece.key, 0..200_000)
            .await
            .expect_err("caught");
        assert!(error.is_lie(), "{fault:?}: {error}");
    }
    for fault in FAILURES {
        let limits = match fault {
            // The one that is waited for.
            Fault::Stall => Limits {
                stall_timeout: Duration::from_secs(3),
                ..patient()
            },
            _ => patient(),
        };
        let endpoint = Endpoint::client(CHAIN, limits).expect("a client");
        let session = endpoint
            .session(faulty(&piece, fault))
            .await
            .expect("greets well");
        let error = session
            .read(piece.key, 0..200_000)
            .await
            .expect_err("noticed");
        // Ending a stream in good order halfway is a lie about what it is; breaking off is not.
        assert_eq!(
            error.is_lie(),
            matches!(fault, Fault::CloseEarly),
            "{fault:?}: {error}"
        );
    }
}

/// The fetch's own timer: silent sessions are given up, although their streams would wait for longer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tm_p23_a_read_from_silent_providers_ends_with_what_each_did() {
    let (pieces, providers) = four(200_000);
    let mut shards = sources(&pieces, &providers);
    shards.truncate(2);
    for (shard, piece) in shards.iter_mut().zip(&pieces) {
        shard.1 = faulty(piece, Fault::Stall);
    }
    let limits = FetchLimits {
        stall_timeout: Duration::from_millis(300),
        ..fetch_limits()
    };
    let fetcher = Fetcher::new(client(), limits);
    let mut fetch = fetcher.fetch(request(2, &shards)).expect("sensible");
    let ended = tokio::time::timeout(PATIENCE, fetch.next()).await;
    let error = ended.expect("an end").expect_err("nobody serves");
    assert_eq!(error.left, 0);
    let causes = error.causes.iter().map(|(_, _, cause)| cause);
    assert!(
        causes
            .clone()
            .all(|cause| cause.contains("no progress for 300ms")),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tm_p23_a_read_completes_whatever_n_minus_k_providers_do() {
    for fault in LIES.into_iter().chain(FAILURES).chain([Fault::Drip]) {
        let (pieces, providers) = four(3_000_000);
        let mut shards = sources(&pieces, &providers);
        // The data shards themselves: the ones preferred.
        shards[0].1 = faulty(&pieces[0], fault);
        shards[1].1 = faulty(&pieces[1], fault);
        let lie = LIES.iter().any(|lie| *lie as u8 == fault as u8);
        // A lie that comes late is heard all the same: nobody else is asked before.
        let fetcher = match lie {
            true => unhurried(),
            false => Fetcher::new(client(), fetch_limits()),
        };
        let report = fetch_and_check(&fetcher, request(2, &shards), &bytes_of(&pieces)).await;
        let named = report.providers[..2].iter().all(|p| p.lied);
        assert!(!lie || named, "{fault:?}: {report:?}");
        assert!(
            report.providers[2..].iter().all(|p| !p.lied),
            "{fault:?}: {report:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tm_p23_dead_providers_are_survived_and_too_many_are_named() {
    let (pieces, mut providers) = four(3_000_000);
    let shards = sources(&pieces, &providers);
    for dead in providers.drain(..2) {
        dead.shut_down().await;
    }
    let fetcher = Fetcher::new(client(), fetch_limits());
    fetch_and_check(&fetcher, request(2, &shards), &bytes_of(&pieces)).await;
    let third = providers.remove(0);
    third.shut_down().await;
    // Whoever shakes no hands in time is dead; the last one has shaken them before, and nobody else is in a hurry.
    let limits = Limits {
        handshake_timeout: Duration::from_millis(500),
        ..patient()
    };
    let endpoint = Endpoint::client(CHAIN, limits).expect("a client");
    let begun = Instant::now();
    while let Err(error) = endpoint.session(shards[3].1).await {
        assert!(begun.elapsed() < PATIENCE, "{error}");
    }
    let fetcher = Fetcher::new(endpoint, fetch_limits());
    let mut fetch = fetcher
        .fetch(request(2, &shards))
        .expect("a sensible request");
    let error = loop {
        match fetch.next().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("one provider cannot be enough"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.left, 1);
    for (_, dead) in &shards[..3] {
        assert!(error.to_string().contains(&dead.to_string()), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_disk_is_an_honest_failure_and_is_reported() {
    let mut piece = Piece::without_commp(sample(2_000_000, 4));
    let mut damaged = piece.data.to_vec();
    damaged[1_500_000] ^= 1;
    piece.data = damaged.into();
    let provider = Provider::start(MemStore::with(&[&piece]));
    let session = client().session(provider.addr).await.expect("a session");
    let error = session
        .read(piece.key, 1_490_000..1_510_000)
        .await
        .expect_err("not served");
    assert!(
        matches!(&error, Error::Refused(f) if f.code == FailureCode::Internal),
        "{error}"
    );
    let error = session
        .read(piece.key, 0..2_000_000)
        .await
        .expect_err("not served to the end");
    assert!(!error.is_lie(), "{error}");
    session
        .read(piece.key, 0..1_000_000)
        .await
        .expect("the rest is fine");
    let reports = provider.store.damage_reports.lock().unwrap().clone();
    assert_eq!(
        reports,
        [(piece.key.root, 1_490_944), (piece.key.root, 1_490_944)]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tm_r3_ranges_behind_the_end_are_refused() {
    let piece = Piece::without_commp(sample(50_000, 5));
    let provider = Provider::start(MemStore::with(&[&piece]));
    let session = client().session(provider.addr).await.expect("a session");
    assert!(
        matches!(
            session.read(piece.key, 0..50_001).await,
            Err(Error::Range(_))
        ),
        "refused at home"
    );
    // A client that believes in a larger piece.
    let larger = PieceKey {
        size: 60_000,
        ..piece.key
    };
    let error = session
        .read(larger, 0..55_000)
        .await
        .expect_err("refused there");
    assert!(
        matches!(&error, Error::Refused(f) if f.code == FailureCode::TooLarge),
        "{error}"
    );
    let error = session
        .read(larger, 0..10_000)
        .await
        .expect_err("another size, another tree");
    assert!(matches!(error, Error::BadData(_)), "{error}");
    let unknown = PieceKey {
        root: PieceRoot([7; 32]),
        size: 5,
    };
    let error = session.read(unknown, 0..5).await.expect_err("not there");
    assert!(
        matches!(&error, Error::Refused(f) if f.code == FailureCode::NotFound),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_small_ranges() {
    let piece = Piece::without_commp(sample(5_000_000, 6));
    let provider = Provider::start(MemStore::with(&[&piece]));
    let session = client().session(provider.addr).await.expect("a session");
    let mut tasks = tokio::task::JoinSet::new();
    for worker in 0..8u64 {
        let (session, piece) = (session.clone(), piece.clone());
        tasks.spawn(async move {
            for i in 0..1_250u64 {
                let start = (worker * 1_250 + i).wrapping_mul(0x9e37_79b9_7f4a_7c15) % 4_999_000;
                let end = start + 1 + i % 900;
                let got = session.read(piece.key, start..end).await.expect("bytes");
                assert!(got == piece.data[start as usize..end as usize]);
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("all right");
    }
    assert_eq!(
        provider.handle.stats().requests.load(Ordering::SeqCst),
        10_000
    );
}

/// Delay, reorder and loss, in user space: every read is right, and finishes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_weather_changes_nothing_but_the_time() {
    let piece = Piece::new(sample(400_000, 7));
    let provider = Provider::start(MemStore::with(&[&piece]));
    let mut tasks = tokio::task::JoinSet::new();
    for (seed, delay_ms) in [2u64, 20, 100].into_iter().enumerate() {
        for (i, loss_permille) in [0u32, 1, 10].into_iter().enumerate() {
            let delay = Duration::from_millis(delay_ms);
            let weather = relay::Weather {
                delay,
                jitter: delay / 4,
                loss_permille,
            };
            let (piece, peer) = (piece.clone(), provider.addr.peer);
            let relay = relay::start(provider.addr.addr, weather, (seed * 3 + i) as u64 + 1).await;
            tasks.spawn(async move {
                let endpoint = client();
                let session = endpoint
                    .session(PeerAddr { peer, addr: relay })
                    .await
                    .expect("a session");
                let got = session.read(piece.key, 0..400_000).await.expect("bytes");
                assert!(got == piece.data, "{weather:?}");
                // The other direction.
                push::put(&session, piece.header(), piece.source())
                    .await
                    .expect("known already");
            });
        }
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("every weather");
    }
}

/// A client that dies at any unit and starts again asks only for what it has not got.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crashed_get_goes_on_where_it_stopped() {
    let (pieces, providers) = four(2_000_000);
    let shards = sources(&pieces, &providers);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let map_path = dir.path().join("get.resume");
    let limits = FetchLimits {
        unit_bytes: 128 * 1024,
        ..fetch_limits()
    };
    let mut shard_0 = vec![0u8; 2_000_000];
    let (mut asked, mut lives) = (0, 0);
    loop {
        let mut map = Bitmap::load(&map_path, [1; 32], 2_000_000).expect("our own file");
        if map.is_complete() {
            break;
        }
        let mut request = request(2, &shards);
        request.ranges = map.missing();
        let fetcher = Fetcher::new(client(), limits.clone());
        let mut fetch = fetcher.fetch(request).expect("a sensible request");
        // Dies after a few units, a different number each time, sometimes between data and mark.
        for life in 0..=(lives % 5) {
            let Some(unit) = fetch.next().await.expect("enough providers") else {
                break;
            };
            asked += unit.range.end - unit.range.start;
            let (_, bytes) = &unit.shards[0];
            shard_0[unit.range.start as usize..unit.range.end as usize].copy_from_slice(bytes);
            if life == 3 {
                break;
            }
            map.mark(unit.range);
            map.save(&map_path).expect("saved");
        }
        lives += 1;
    }
    assert!(lives > 4);
    assert!(shard_0 == pieces[0].data, "the data shard, whole");
    assert!(
        asked <= 2_000_000 + lives * 128 * 1024,
        "{asked} bytes in {lives} lives"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tm_r4_two_clients_share_a_provider() {
    let piece = Piece::without_commp(sample(24_000_000, 8));
    let provider = Provider::start(MemStore::with(&[&piece]));
    let whole = Ranges::whole(piece.key.size).expect("a range");
    let (modest, greedy) = (client(), client());
    let modest = modest.session(provider.addr).await.expect("a session");
    let greedy = greedy.session(provider.addr).await.expect("a session");
    // Eight streams at once, each the whole piece again and again, until the test is over.
    let taken = Arc::new(AtomicU64::new(0));
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (greedy, whole, taken, key) = (greedy.clone(), whole.clone(), taken.clone(), piece.key);
        readers.spawn(async move {
            loop {
                let mut stream = greedy.get(key, &whole).await.expect("a stream");
                while let Some(block) = stream.next().await.expect("blocks") {
                    taken.fetch_add(block.data.len() as u64, Ordering::SeqCst);
                }
            }
        });
    }
    let begun = Instant::now();
    while taken.load(Ordering::SeqCst) == 0 {
        assert!(begun.elapsed() < PATIENCE, "the greedy one gets nothing");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut stream = modest.get(piece.key, &whole).await.expect("a stream");
    let (mut got, mut before) = (0, None);
    while let Some(block) = stream.next().await.expect("blocks") {
        before.get_or_insert_with(|| taken.load(Ordering::SeqCst));
        got += block.data.len();
    }
    assert_eq!(got, 24_000_000);
    let meanwhile = taken.load(Ordering::SeqCst) - before.expect("a block");
    assert!(readers.try_join_next().is_none(), "the greedy one goes on");
    assert!(
        meanwhile < 5 * 24_000_000,
        "greedy had {meanwhile} bytes while modest took 24,000,000"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_and_panics_of_the_store_reach_the_client_in_order() {
    let piece = Piece::new(sample(100_000, 9));
    let store = MemStore {
        refuse: Some(Refusal::Refused("price too low".into())),
        panic_on_have: true,
        ..MemStore::default()
    };
    let provider = Provider::start(Arc::new(store));
    let session = client().session(provider.addr).await.expect("a session");
    let error = push::put(&session, piece.header(), piece.source())
        .await
        .expect_err("refused");
    assert!(
        matches!(&error, Error::Refused(f) if f.detail == "price too low"),
        "{error}"
    );
    // Threat N2: a panic in one task never kills the daemon.
    let error = session
        .have(&[PieceRef::Root(piece.key.root)])
        .await
        .expect_err("the store panics");
    assert!(
        matches!(&error, Error::Refused(f) if f.code == FailureCode::Internal && f.detail.is_empty()),
        "{error}"
    );
    let error = session
        .read(piece.key, 0..1)
        .await
        .expect_err("still alive");
    assert!(
        matches!(&error, Error::Refused(f) if f.code == FailureCode::NotFound),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_lets_a_transfer_finish_and_then_closes() {
    // Takes half a second, where five are granted.
    let piece = Piece::without_commp(sample(1_000_000, 12));
    let provider = Provider::start(MemStore::with(&[&piece]));
    provider.store.read_ms.store(8, Ordering::Relaxed);
    let session = client().session(provider.addr).await.expect("a session");
    let whole = Ranges::whole(piece.key.size).expect("a range");
    let mut stream = session.get(piece.key, &whole).await.expect("a stream");
    let mut got = stream
        .next()
        .await
        .expect("a block")
        .expect("the first")
        .data
        .len();
    let addr = provider.addr;
    let closing = tokio::spawn(provider.shut_down());
    while let Some(block) = stream.next().await.expect("blocks") {
        got += block.data.len();
    }
    assert_eq!(got, 1_000_000);
    closing.await.expect("closed");
    let limits = Limits {
        handshake_timeout: Duration::from_secs(3),
        ..patient()
    };
    let endpoint = Endpoint::client(CHAIN, limits).expect("a client");
    assert!(matches!(
        endpoint.connect(addr).await,
        Err(Error::Unreachable { .. })
    ));
}
