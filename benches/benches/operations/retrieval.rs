//! Retrieval in one process: verified gets beside raw quinn, the outboard, the codec of a request, a 16 KiB range.
//!
//! Between processes, with four providers: `cargo run --release -p benches --bin bench-retrieval`.

use std::sync::Arc;

use benches::{raw_quinn, store::FileStore};
use criterion::{Criterion, Throughput};
use retrieval::{
    ChainTag, Endpoint, Limits, NetSecret, PieceKey, PieceRoot, Ranges, serve,
    verify::outboard_of,
    wire::{Get, Request},
};
use tokio_util::sync::CancellationToken;

use benches::sample;

use crate::support::slow;

const CHAIN: ChainTag = ChainTag([0xbe, 0xac, 0x5e, 0x02]);
const BYTES: usize = 64 << 20;

pub fn bench(c: &mut Criterion) {
    let data = sample(BYTES);
    let bytes = Throughput::Bytes(BYTES as u64);
    slow(c, "retrieval::verify", bytes.clone()).bench_function("outboard/size=64MiB", |b| {
        b.iter(|| outboard_of(&data).expect("a piece"))
    });
    let (root, outboard) = outboard_of(&data).expect("a piece");
    let piece = PieceKey {
        root,
        size: BYTES as u64,
    };
    codec(c, root);

    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join(format!("{root}.piece")), &data).expect("written");
    std::fs::write(folder.path().join(format!("{root}.outboard")), &outboard).expect("written");
    drop(data);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let _inside = runtime.enter();
    let loopback = ([127, 0, 0, 1], 0).into();
    let provider =
        Endpoint::bind(loopback, NetSecret::generate(), CHAIN, Limits::loopback()).expect("bound");
    let store = Arc::new(FileStore(folder.path().to_owned()));
    let _serving = serve::spawn(&provider, store, CancellationToken::new()).expect("serving");
    let client = Endpoint::client(CHAIN, Limits::loopback()).expect("a client");
    let session = || client.session(provider.peer_addr());

    let mut group = slow(c, "retrieval::session", bytes.clone());
    group.bench_function("get/size=64MiB", |b| {
        let whole = Ranges::whole(piece.size).expect("a range");
        b.iter(|| {
            runtime.block_on(async {
                let mut stream = session()
                    .await
                    .expect("a session")
                    .get(piece, &whole)
                    .await
                    .expect("a stream");
                let mut got = 0;
                while let Some(block) = stream.next().await.expect("blocks") {
                    got += block.data.len();
                }
                assert_eq!(got, BYTES);
            });
        });
    });
    group.throughput(Throughput::Bytes(16_384));
    group.bench_function("read/size=16KiB", |b| {
        let mut at = 0u64;
        b.iter(|| {
            at = at.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let start = at % (piece.size / 16_384) * 16_384;
            let read = async {
                session()
                    .await
                    .expect("a session")
                    .read(piece, start..start + 16_384)
                    .await
            };
            runtime.block_on(read).expect("bytes")
        });
    });
    group.finish();

    let (_raw, raw_server) = raw_quinn::server(loopback);
    let raw_client = raw_quinn::client();
    let connection = runtime.block_on(raw_quinn::connect(&raw_client, raw_server));
    slow(c, "raw_quinn", bytes).bench_function("get/size=64MiB", |b| {
        b.iter(|| runtime.block_on(raw_quinn::download(&connection, BYTES as u64)));
    });
    runtime.block_on(provider.close());
}

fn codec(c: &mut Criterion, root: PieceRoot) {
    let ranges = Ranges::new((0..64u64).map(|i| i * 100_000..i * 100_000 + 5_000)).expect("ranges");
    let request = Request::Get(Get {
        req_id: 1,
        root,
        ranges,
        deadline_ms: 0,
    });
    let mut group = slow(c, "retrieval::wire", Throughput::Elements(1));
    group.bench_function("get_with_64_ranges", |b| {
        b.iter(|| {
            Request::decode(&request.encode().expect("within bounds")[4..]).expect("canonical")
        });
    });
}
