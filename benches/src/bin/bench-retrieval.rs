//! Retrieval end to end between processes on loopback: prints one JSON object.
//!
//! `bench-retrieval [MIB]` starts four provider processes and one raw quinn process (itself, with other arguments), puts and
//! gets a file of so many MiB (256) with k = 2 of n = 4, and measures raw quinn in the same run. Each figure is the best of
//! three, because the machine may be busy. Decryption is not in it: that is `bench-client`, with the real client.

use std::{
    fs::File,
    io::Write,
    sync::Arc,
    time::{Duration, Instant},
};

use benches::{
    process::{Server, memory_mib, run},
    raw_quinn,
    store::FileStore,
};
use prover::piece::commp::commp_of;
use retrieval::{
    ChainTag, Endpoint, FetchLimits, FetchRequest, Fetcher, Limits, NetSecret, PeerAddr, PieceKey,
    Session, ShardSource,
    push::{self, PutSource},
    serve,
    verify::outboard_of,
    wire::PutHeader,
};
use tokio_util::sync::CancellationToken;

const CHAIN: ChainTag = ChainTag([0xbe, 0xac, 0x5e, 0x01]);
const MIB: u64 = 1 << 20;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    match args.first().map(String::as_str) {
        Some("serve") => runtime.block_on(serve_folder(&args[1])),
        Some("serve-raw") => runtime.block_on(serve_raw()),
        Some("put") => runtime.block_on(put_all(&args[1..])),
        size => runtime.block_on(measure(
            size.map_or(256, |mib| mib.parse().expect("a number of MiB")),
        )),
    }
}

async fn serve_folder(folder: &str) {
    let addr = ([127, 0, 0, 1], 0).into();
    let endpoint =
        Endpoint::bind(addr, NetSecret::generate(), CHAIN, Limits::loopback()).expect("bound");
    let store = Arc::new(FileStore(folder.into()));
    let handle = serve::spawn(&endpoint, store, CancellationToken::new()).expect("serving");
    println!("{}", endpoint.peer_addr());
    handle.join().await;
}

async fn serve_raw() {
    let (_endpoint, peer) = raw_quinn::server(([127, 0, 0, 1], 0).into());
    println!("{peer}");
    std::future::pending::<()>().await;
}

async fn measure(mib: u64) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let k = 2u64;
    let shard_bytes = mib * MIB / k;
    let providers: Vec<_> = (0..4)
        .map(|i| {
            let folder = dir.path().join(i.to_string());
            std::fs::create_dir(&folder).expect("a folder");
            Server::start(&["serve", folder.to_str().expect("utf-8")])
        })
        .collect();
    let peers: Vec<PeerAddr> = providers
        .iter()
        .map(|p| p.addr.parse().expect("an address"))
        .collect();
    let idle_mib = providers[0].memory_mib("VmRSS");

    let endpoint = Endpoint::client(CHAIN, Limits::loopback()).expect("a client");
    let (put_s, keys) = put_in_a_process(shard_bytes, &peers);

    let mut raw_1 = f64::MAX;
    let mut raw_4 = f64::MAX;
    let mut get = f64::MAX;
    let mut report = None;
    let raws: Vec<_> = (0..4).map(|_| Server::start(&["serve-raw"])).collect();
    let raw_addrs: Vec<PeerAddr> = raws
        .iter()
        .map(|raw| raw.addr.parse().expect("an address"))
        .collect();
    for round in 0..3 {
        raw_1 = raw_1.min(raw_quinn::measure(&raw_addrs[..1], mib * MIB).await);
        raw_4 = raw_4.min(raw_quinn::measure(&raw_addrs, mib * MIB).await);
        let out = dir.path().join(format!("out-{round}"));
        let (seconds, this) = get_all(&endpoint, &peers, &keys, &out).await;
        get = get.min(seconds);
        report = Some(this);
        std::fs::remove_file(out).expect("removed");
    }
    let session = endpoint.session(peers[0]).await.expect("a session");
    let [p50_us, p95_us, p99_us] = small_ranges(&session, keys[0]).await;
    let report = report.expect("three rounds");
    let speed = |seconds: f64| (mib as f64 / seconds).round();
    let json = serde_json::json!({
        "mib": mib, "k": 2, "n": 4,
        "raw_quinn_one_process_mib_s": speed(raw_1),
        "raw_quinn_four_processes_mib_s": speed(raw_4),
        "get_mib_s": speed(get),
        "get_of_raw": (raw_1.min(raw_4) / get * 100.0).round() / 100.0,
        "wasted_bytes": report.wasted_bytes, "hedges": report.hedges,
        "put_four_shards_s": (put_s * 1000.0).round() / 1000.0,
        "put_wire_mib_s": (mib as f64 * 2.0 / put_s).round(),
        "range_16k_p50_us": p50_us, "range_16k_p95_us": p95_us, "range_16k_p99_us": p99_us,
        "client_peak_mib": memory_mib("self", "VmHWM").round(),
        "provider_idle_mib": idle_mib.round(),
        "provider_peak_mib": providers[0].memory_mib("VmHWM").round(),
    });
    println!("{json}");
}

fn shard(bytes: usize, seed: u64) -> (PutHeader, PutSource) {
    let mut data = vec![0; bytes];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut data);
    let (root, outboard) = outboard_of(&data).expect("a piece");
    let header = PutHeader {
        size: bytes as u64,
        root,
        commp: commp_of(&data).0,
        proposal: Vec::new(),
    };
    (
        header,
        PutSource {
            data: Arc::new(data),
            outboard: Arc::new(outboard),
        },
    )
}

/// Makes four shards, puts each to its peer, prints seconds and roots. A process of its own, so that the shards it holds do
/// not count as memory of the reader.
async fn put_all(args: &[String]) {
    let bytes: usize = args[0].parse().expect("a number");
    let endpoint = Endpoint::client(CHAIN, Limits::loopback()).expect("a client");
    let shards: Vec<_> = (0..4).map(|i| shard(bytes, i)).collect();
    let begin = Instant::now();
    let mut puts = tokio::task::JoinSet::new();
    for (peer, (header, source)) in args[1..].iter().zip(&shards) {
        let peer: PeerAddr = peer.parse().expect("an address");
        let (endpoint, header, source) = (endpoint.clone(), header.clone(), source.clone());
        puts.spawn(async move {
            let session = endpoint.session(peer).await.expect("a session");
            push::put(&session, header, source).await.expect("stored");
        });
    }
    while let Some(put) = puts.join_next().await {
        put.expect("put");
    }
    println!("{}", begin.elapsed().as_secs_f64());
    shards
        .iter()
        .for_each(|(header, _)| println!("{}", header.root));
}

fn put_in_a_process(shard_bytes: u64, peers: &[PeerAddr]) -> (f64, Vec<PieceKey>) {
    let bytes = shard_bytes.to_string();
    let peers: Vec<String> = peers.iter().map(ToString::to_string).collect();
    let args = ["put", &bytes].into_iter();
    let args: Vec<&str> = args.chain(peers.iter().map(String::as_str)).collect();
    let text = run(&args);
    let mut lines = text.lines();
    let seconds = lines.next().expect("seconds").parse().expect("a number");
    let key = |line: &str| PieceKey {
        root: line.parse().expect("a root"),
        size: shard_bytes,
    };
    (seconds, lines.map(key).collect())
}

async fn get_all(
    endpoint: &Endpoint,
    peers: &[PeerAddr],
    keys: &[PieceKey],
    out: &std::path::Path,
) -> (f64, retrieval::fetch::FetchReport) {
    let mut file = File::create(out).expect("created");
    let begin = Instant::now();
    let fetcher = Fetcher::new(endpoint.clone(), FetchLimits::default());
    let shards = keys.iter().zip(peers).enumerate();
    let shards = shards.map(|(index, (piece, peer))| ShardSource {
        index: index as u16,
        piece: *piece,
        providers: vec![*peer],
    });
    let request = FetchRequest {
        k: 2,
        shards: shards.collect(),
        ranges: std::iter::once(0..keys[0].size).collect(),
    };
    let mut fetch = fetcher.fetch(request).expect("a sensible request");
    while let Some(unit) = fetch.next().await.expect("enough providers") {
        for (_, bytes) in &unit.shards {
            file.write_all(bytes).expect("written");
        }
    }
    (begin.elapsed().as_secs_f64(), fetch.report())
}

async fn small_ranges(session: &Session, piece: PieceKey) -> [u64; 3] {
    let mut times = Vec::new();
    for i in 0..2_000u64 {
        let start = i.wrapping_mul(0x9e37_79b9_7f4a_7c15) % (piece.size / 16_384) * 16_384;
        let begin = Instant::now();
        session
            .read(piece, start..start + 16_384)
            .await
            .expect("bytes");
        times.push(begin.elapsed());
    }
    times.sort();
    [50, 95, 99].map(|percent| Duration::as_micros(&times[times.len() * percent / 100]) as u64)
}
