//! The real client on a devnet whose four providers are processes of their own: prints one JSON object.
//!
//! `bench-client [SECTOR_SIZE] [PUT_BYTES] [GET_BYTES]` (8MiB, 100 MiB, 256 MiB) measures, each client command in a process of its
//! own so that its peak memory is its own:
//!
//! * `put` until *stored* of 10,000 bytes and of `PUT_BYTES`, k = 2 of n = 4: encrypted, coded, pushed, published, read back;
//! * `get` of an object of `GET_BYTES`: verified, decrypted and written to disk, best of three, beside raw quinn in the same run;
//! * resident memory of an idle provider and of the idle chain node;
//! * Reed-Solomon 4+2 and 10+4 on one core.
//!
//! **Sealing is kept out**: the bench holds the machine's proving slot (in a folder of its own with links to the cached keys), so
//! that providers take, publish and serve, and seal nothing; *stored* does not include sealing. Proving keys of the sector size are
//! made first where there are none (minutes for 8 MiB).

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use benches::{
    process::{Server, memory_mib, run},
    raw_quinn,
};
use prover::{NoProgress, SectorSize};
use retrieval::PeerAddr;
use serde_json::{Value, json};
use storage_node::{
    client::{
        get::{GetRequest, Target, get},
        live::{LiveClient, connect},
        put::{PutRequest, put},
    },
    config::{Config, Home},
    devnet::{Devnet, DevnetConfig},
    identity::Wallet,
    object::erasure::{Coder, Scheme},
    provider::slot::{SlotLine, SlotLook},
    provider::{self, ProviderConfig, prover::Workshop},
};

const MIB: u64 = 1 << 20;
const EPOCH_MS: u64 = 1000;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let at = |index: usize| args[index].as_str();
    match args.first().map(String::as_str) {
        Some("provider") => runtime.block_on(run_provider(at(1), at(2), at(3))),
        Some("serve-raw") => runtime.block_on(serve_raw()),
        Some("put") => println!("{}", runtime.block_on(put_file(at(1), at(2), at(3)))),
        Some("get") => println!(
            "{}",
            runtime.block_on(get_object(at(1), at(2), at(3), at(4)))
        ),
        size => {
            let size = size.map_or(SectorSize::Mib8, |size| {
                size.parse().expect("a sector size")
            });
            let bytes = |index: usize, otherwise: u64| {
                let given = args.get(index);
                given.map_or(otherwise, |bytes| bytes.parse().expect("a number of bytes"))
            };
            let (put, get) = (bytes(1, 100 * MIB), bytes(2, 256 * MIB));
            println!("{}", runtime.block_on(measure(size, put, get)));
        }
    }
}

async fn run_provider(home: &str, chain_url: &str, params: &str) {
    let config = ProviderConfig {
        home: Home::new(home),
        chain_url: chain_url.to_owned(),
        shop: Arc::new(Workshop::new(Path::new(params)).expect("the folder of keys")),
        progress: Arc::new(NoProgress),
    };
    let handle = provider::start(config).await.expect("the provider starts");
    println!("{}", handle.quic());
    handle.wait().await.expect("runs until it is stopped");
}

async fn serve_raw() {
    let (_endpoint, peer) = raw_quinn::server(([127, 0, 0, 1], 0).into());
    println!("{peer}");
    std::future::pending::<()>().await;
}

async fn client(home: &str, chain_url: &str) -> Arc<LiveClient> {
    let home = Home::new(home);
    let wallet = Wallet::open(&home.wallet_key(), || None).expect("the devnet's wallet");
    Arc::new(
        connect(chain_url, wallet, home)
            .await
            .expect("the chain answers"),
    )
}

async fn put_file(home: &str, chain_url: &str, file: &str) -> Value {
    let client = client(home, chain_url).await;
    let request = PutRequest {
        source: file.into(),
        name: None,
        scheme: Scheme::new(2, 2).expect("a scheme"),
        duration: None,
        max_price_per_gib: None,
        again: false,
        verified: false,
    };
    let begin = Instant::now();
    let stored = put(client, request, Arc::new(|_| ()))
        .await
        .expect("stored");
    json!({
        "bytes": stored.bytes,
        "segments": stored.segments,
        "seconds": rounded(begin.elapsed().as_secs_f64()),
        "client_peak_mib": memory_mib("self", "VmHWM").round(),
        "object": stored.object.to_string(),
    })
}

async fn get_object(home: &str, chain_url: &str, id: &str, out: &str) -> Value {
    let client = client(home, chain_url).await;
    let (mut best, mut bytes) = (f64::MAX, 0);
    for _ in 0..3 {
        let request = GetRequest {
            object: id.to_owned(),
            range: None,
        };
        let target = Target::File {
            path: PathBuf::from(out),
            force: true,
        };
        let begin = Instant::now();
        let got = get(Arc::clone(&client), request, target, Arc::new(|_| ())).await;
        let got = got.expect("restored");
        assert!(got.hash_checked, "the whole object was checked");
        best = best.min(begin.elapsed().as_secs_f64());
        bytes = got.bytes;
    }
    json!({
        "bytes": bytes,
        "seconds": rounded(best),
        "mib_s": (bytes as f64 / MIB as f64 / best).round(),
        "client_peak_mib": memory_mib("self", "VmHWM").round(),
    })
}

async fn measure(sector_size: SectorSize, put_bytes: u64, get_bytes: u64) -> Value {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let params = dir.path().join("params");
    let cache = Config::resolve(None, None, |name| std::env::var_os(name)).expect("a platform");
    let shop = Arc::new(Workshop::new(&cache.params_dir).expect("the folder of keys"));
    let making = tokio::task::spawn_blocking(move || shop.prepare(sector_size, &NoProgress));
    making.await.expect("ran").expect("proving keys");
    link_keys(&cache.params_dir, &params);

    let home = Home::new(dir.path().join("net"));
    let config = DevnetConfig {
        providers: 4,
        sector_size,
        epoch_ms: EPOCH_MS,
        rpc_port: 0,
        auto_repair: false,
        ..DevnetConfig::default()
    };
    let mut devnet = Devnet::start(&home, config, &params, Arc::new(NoProgress))
        .await
        .expect("a devnet");
    // Held for this very chain, so that providers wait without holding its clock.
    let chain = devnet.chain().chain_id();
    let mut line = SlotLine::enter(devnet.workshop(), chain);
    let SlotLook::Granted(slot) = line.look().expect("a lock file") else {
        panic!("nobody seals in a folder of our own");
    };
    let url = devnet.chain_url();
    let endpoints = devnet.providers();
    for endpoint in &endpoints {
        devnet.stop_provider(endpoint.index).await.expect("stops");
    }
    let text = |path: &Path| path.to_str().expect("utf-8").to_owned();
    let keys = text(&params);
    let providers: Vec<Server> = endpoints
        .iter()
        .map(|endpoint| Server::start(&["provider", &text(&endpoint.home), &url, &keys]))
        .collect();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let provider_idle_mib = providers[0].memory_mib("VmRSS");
    let chain_idle_mib = memory_mib("self", "VmRSS");

    let root = text(home.root());
    let store = |name: &str, bytes: u64| -> Value {
        let file = dir.path().join(name);
        write_sample(&file, bytes);
        let printed = run(&["put", &root, &url, &text(&file)]);
        std::fs::remove_file(file).expect("removed");
        serde_json::from_str(&printed).expect("JSON")
    };
    let small = store("small", 10_000);
    let large = store("large", put_bytes);
    let source = if put_bytes == get_bytes {
        large.clone()
    } else {
        store("source", get_bytes)
    };
    let raws: Vec<_> = (0..4).map(|_| Server::start(&["serve-raw"])).collect();
    let raws: Vec<(PeerAddr, Server)> = raws
        .into_iter()
        .map(|raw| (raw.addr.parse().expect("an address"), raw))
        .collect();
    let peers: Vec<PeerAddr> = raws.iter().map(|(peer, _)| *peer).collect();
    let mut raw = f64::MAX;
    for _ in 0..3 {
        raw = raw.min(raw_quinn::measure(&peers[..1], get_bytes).await);
        raw = raw.min(raw_quinn::measure(&peers, get_bytes).await);
    }
    let id = source["object"].as_str().expect("an id");
    let out = text(&dir.path().join("out"));
    let got: Value = serde_json::from_str(&run(&["get", &root, &url, id, &out])).expect("JSON");
    let of_raw = raw / got["seconds"].as_f64().expect("a number");

    let report = json!({
        "sector_size": sector_size.to_string(), "k": 2, "n": 4, "epoch_ms": EPOCH_MS,
        "sealing": "kept out: the bench holds the proving slot",
        "put_small": small,
        "put_large": large,
        "get": got,
        "raw_quinn_mib_s": (get_bytes as f64 / MIB as f64 / raw).round(),
        "get_of_raw": rounded(of_raw),
        "provider_idle_mib": provider_idle_mib.round(),
        "provider_peak_mib": providers[0].memory_mib("VmHWM").round(),
        "chain_node_idle_mib": chain_idle_mib.round(),
        "reed_solomon_gb_s": {"4+2": reed_solomon(4, 2), "10+4": reed_solomon(10, 4)},
    });
    drop(providers);
    drop(slot);
    devnet.shutdown().await.expect("stops in order");
    report
}

/// A folder of keys with locks of its own: the cached files under their names.
fn link_keys(cache: &Path, to: &Path) {
    std::fs::create_dir(to).expect("a folder");
    for entry in std::fs::read_dir(cache).expect("the cache") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name");
        let is_key = matches!(
            path.extension().and_then(|extension| extension.to_str()),
            Some("params" | "vk" | "json")
        );
        if is_key {
            link(&path, &to.join(name));
        }
    }
}

#[cfg(unix)]
fn link(from: &Path, to: &Path) {
    std::os::unix::fs::symlink(from, to).expect("a link");
}

#[cfg(not(unix))]
fn link(from: &Path, to: &Path) {
    std::fs::copy(from, to).expect("a copy");
}

/// Bytes that no compression and no cache of ours shortens.
fn write_sample(path: &Path, bytes: u64) {
    let mut stream = blake3::Hasher::new()
        .update(b"bench-client")
        .update(&bytes.to_le_bytes())
        .finalize_xof();
    let mut file = File::create(path).expect("created");
    let mut left = bytes;
    let mut block = vec![0; MIB as usize];
    while left > 0 {
        let part = left.min(MIB) as usize;
        stream.fill(&mut block[..part]);
        file.write_all(&block[..part]).expect("written");
        left -= part as u64;
    }
}

/// Data bytes coded per second on one core, in 10^9, shards of 64 KiB as in a put.
fn reed_solomon(k: usize, m: usize) -> f64 {
    const SHARD: usize = 64 * 1024;
    let coder = Coder::new(Scheme::new(k, m).expect("a scheme"));
    let mut shards: Vec<Vec<u8>> = (0..k + m).map(|i| vec![i as u8; SHARD]).collect();
    let (begin, mut rounds) = (Instant::now(), 0u64);
    while begin.elapsed() < Duration::from_millis(500) {
        coder.encode(&mut shards).expect("equal shards");
        rounds += 1;
    }
    rounded(rounds as f64 * (k * SHARD) as f64 / begin.elapsed().as_secs_f64() / 1e9)
}

fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
