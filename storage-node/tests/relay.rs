//! Rounds over HTTP: a relay of our own, drand's two forms of answer, relays that fail in every way, and a chain that lives on them.
//!
//! Everything is on loopback. drand's answers are written out as drand gives them, with quicknet's published rounds (`beacon.md` §1).

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use chain_lite::account::Address;
use chain_lite::audit::Groth16Verifier;
use chain_lite::beacon::{
    BeaconParams, BeaconSchedule, BeaconSource, DevnetSigner, Entry, QUICKNET_HASH, QUICKNET_PK,
};
use chain_lite::certificate::{Validator, ValidatorId};
use chain_lite::clock::ClockMode;
use chain_lite::engine::{EngineStatus, solo};
use chain_lite::genesis::{CircuitKey, GENESIS_VERSION, Genesis, NetworkKind};
use chain_lite::ledger::Ledger;
use chain_lite::mempool::Mempool;
use chain_lite::params::ChainParams;
use chain_lite::query;
use chain_lite::units::{Epoch, TokenAmount};
use prover::SectorSize;
use prover::snark::CircuitId;
use storage_node::relay::{Patience, RelayError, RelayHandle, Relays, Rounds, server};
use tokio::runtime::Runtime;

const LONG: Duration = Duration::from_secs(60);
const QUICKNET: [(u64, &str); 3] = [
    (
        1000,
        "b44679b9a59af2ec876b1a6b1ad52ea9b1615fc3982b19576350f93447cb1125e342b73a8dd2bacbe47e4b6b63ed5e39",
    ),
    (
        657_413,
        "b713718a38ae728dfd477991af2822e08d2f305e47718cef9f7848ce4050e7be41076862b98fad56e91a6b85b89cd97b",
    ),
    (
        30_663_002,
        "b9e7e1e3d7d9cf17a9f4703abfae4c137acfbef1fdb45715a98422c244a499ea381c7fd759851ed8eeb8a03d778959b3",
    ),
];

fn quick() -> Patience {
    Patience {
        answer: Duration::from_millis(500),
        late: Duration::from_millis(20),
        away: Duration::from_millis(50),
        lied: Duration::from_millis(50),
    }
}

fn sig(text: &str) -> [u8; 48] {
    let mut sig = [0; 48];
    hex::decode_to_slice(text, &mut sig).expect("hexadecimal");
    sig
}

/// quicknet with epoch e at round e, so that any published round can be asked for.
fn quicknet() -> BeaconParams {
    BeaconParams {
        rounds_per_epoch: 1,
        ..BeaconParams::quicknet(0, 0)
    }
}

fn schedule(params: &BeaconParams) -> BeaconSchedule {
    BeaconSchedule::new(std::slice::from_ref(params), None).expect("sound")
}

fn relays(urls: &[String], params: &BeaconParams) -> Relays {
    Relays::start_with(urls, schedule(params), quick()).expect("starts")
}

fn any_port() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

fn serve(runtime: &Runtime, params: &BeaconParams, rounds: impl Rounds) -> RelayHandle {
    serve_at(runtime, params, rounds, any_port())
}

fn serve_at(
    runtime: &Runtime,
    params: &BeaconParams,
    rounds: impl Rounds,
    addr: SocketAddr,
) -> RelayHandle {
    let served = server::serve(params.clone(), Arc::new(rounds), addr);
    runtime.block_on(served).expect("listens")
}

/// What a source has for an epoch, as soon as it has it.
fn wait_for(source: &mut dyn BeaconSource, epoch: u64, round: u64) -> Entry {
    let until = Instant::now() + LONG;
    loop {
        if let Some(entry) = source.round(Epoch(epoch), round) {
            return entry;
        }
        assert!(Instant::now() < until, "round {round} does not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A server of its own for each way to answer: what is written for a question's path. Counts the questions.
fn raw(answer: impl Fn(&str, &mut TcpStream) + Send + Sync + 'static) -> (String, Arc<AtomicU64>) {
    let listener = TcpListener::bind(any_port()).expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let asked = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&asked);
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let (answer, count) = (Arc::clone(&answer), Arc::clone(&count));
            std::thread::spawn(move || {
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") && head.len() < 4_096 {
                    match stream.read(&mut byte) {
                        Ok(1) => head.push(byte[0]),
                        _ => return,
                    }
                }
                count.fetch_add(1, Ordering::SeqCst);
                let head = String::from_utf8_lossy(&head).into_owned();
                answer(head.split(' ').nth(1).unwrap_or(""), &mut stream);
            });
        }
    });
    (url, asked)
}

fn reply(stream: &mut TcpStream, status: &str, body: &str) {
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    // Whoever asked may be gone.
    let _ = stream.write_all(head.as_bytes());
    let _ = stream.write_all(body.as_bytes());
}

fn signature_of(path: &str) -> Option<(u64, &'static str)> {
    let round: u64 = path.rsplit('/').next()?.parse().ok()?;
    QUICKNET.into_iter().find(|(known, _)| *known == round)
}

/// drand's version 2, as `drand/http-relay` answers.
fn drand_v2() -> (String, Arc<AtomicU64>) {
    let base = format!("/v2/chains/{QUICKNET_HASH}");
    raw(move |path, stream| match path.strip_prefix(&base) {
        Some("/info") => reply(
            stream,
            "200 OK",
            &format!(
                r#"{{"public_key":"{QUICKNET_PK}","period":3,"genesis_time":1692803367,"genesis_seed":"f477d5c89f21a17c863a7f937c6a6d15859414d2be09cd448d4279af331c5d3e","chain_hash":"{QUICKNET_HASH}","scheme":"bls-unchained-g1-rfc9380","beacon_id":"quicknet"}}"#
            ),
        ),
        Some(rest) if rest.starts_with("/rounds/") => match signature_of(rest) {
            Some((round, sig)) => reply(
                stream,
                "200 OK",
                &format!(r#"{{"round":{round},"signature":"{sig}"}}"#),
            ),
            None => reply(stream, "425 Too Early", ""),
        },
        _ => reply(stream, "404 Not Found", ""),
    })
}

/// drand's version 1, which knows no other paths.
fn drand_v1() -> (String, Arc<AtomicU64>) {
    let base = format!("/{QUICKNET_HASH}");
    raw(move |path, stream| match path.strip_prefix(&base) {
        Some("/info") => reply(
            stream,
            "200 OK",
            &format!(
                r#"{{"public_key":"{QUICKNET_PK}","period":3,"genesis_time":1692803367,"hash":"{QUICKNET_HASH}","groupHash":"f477d5c89f21a17c863a7f937c6a6d15859414d2be09cd448d4279af331c5d3e","schemeID":"bls-unchained-g1-rfc9380","metadata":{{"beaconID":"quicknet"}}}}"#
            ),
        ),
        Some(rest) if rest.starts_with("/public/") => match signature_of(rest) {
            Some((round, text)) => {
                let value = hex::encode(chain_lite::beacon::randomness(&sig(text)));
                reply(
                    stream,
                    "200 OK",
                    &format!(r#"{{"round":{round},"randomness":"{value}","signature":"{text}"}}"#),
                );
            }
            None => reply(stream, "404 Not Found", ""),
        },
        _ => reply(stream, "404 Not Found", ""),
    })
}

#[test]
fn quicknets_published_rounds_come_over_both_versions_and_from_our_own_relay() {
    let runtime = Runtime::new().expect("a runtime");
    let params = quicknet();
    let map: BTreeMap<u64, [u8; 48]> = QUICKNET.iter().map(|(n, text)| (*n, sig(text))).collect();
    let own = serve(&runtime, &params, map);
    let (two, one) = (drand_v2().0, drand_v1().0);
    for url in [two, one, own.url(), format!("{}/", own.url())] {
        let mut source = relays(std::slice::from_ref(&url), &params);
        for (round, text) in QUICKNET {
            let entry = wait_for(&mut source, round, round);
            assert_eq!(entry.sig, sig(text), "round {round} from {url}");
        }
    }
}

/// One that signs with another key, counts, and can be made honest.
struct Counted {
    key: DevnetSigner,
    asked: Arc<AtomicU64>,
}

impl Rounds for Counted {
    fn signature(&self, round: u64) -> Option<[u8; 48]> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        Some(self.key.sign(round).sig)
    }
}

fn own_network(period: u32, begun_s: u64) -> (DevnetSigner, BeaconParams) {
    let key = DevnetSigner::from_seed(&[5; 32]);
    let mut params = BeaconParams::devnet(&key, i64::try_from(now_s() - begun_s).expect("now"));
    params.period = period;
    params.chain_hash = params.compute_chain_hash();
    (key, params)
}

fn now_s() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("after 1970").as_secs()
}

/// Every way to fail, each alone: it is asked again, and nothing it says is believed or waited for.
#[test]
fn tm_n3_relays_that_lie_hang_or_flood_give_nothing_and_cost_their_turn() {
    let runtime = Runtime::new().expect("a runtime");
    let (key, params) = own_network(2, 1_000);
    let other = DevnetSigner::from_seed(&[6; 32]);
    let lies = Arc::new(AtomicU64::new(0));
    let liar = serve(
        &runtime,
        &params,
        Counted {
            key: other.clone(),
            asked: Arc::clone(&lies),
        },
    );
    let elsewhere = serve(&runtime, &BeaconParams::devnet(&other, 0), other.clone());
    let honest = serve(&runtime, &params, key.clone());
    let to_honest = honest.url();
    let named = params.clone();
    let mut hostile: Vec<(String, Arc<AtomicU64>)> = vec![
        (liar.url(), lies),
        raw(|_, stream| drop(stream.read(&mut [0]))),
        raw(|_, stream| drop(stream.write_all(&[0xff; 300]))),
        raw(|_, stream| {
            drop(stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9999999999999999\r\n\r\n"))
        }),
        raw(|_, stream| {
            let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
            let mut open = stream.write_all(head).is_ok();
            while open {
                open = stream.write_all(b"3e8\r\n").is_ok()
                    && stream.write_all(&[b' '; 1_000]).is_ok()
                    && stream.write_all(b"\r\n").is_ok();
            }
        }),
        raw(|_, stream| {
            let mut open = stream.write_all(b"HTTP/1.1 200 OK\r\n").is_ok();
            while open {
                open = stream
                    .write_all(b"x: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n")
                    .is_ok();
            }
        }),
        raw(|_, stream| {
            let drip = |byte: &u8| {
                std::thread::sleep(Duration::from_millis(100));
                stream.write_all(&[*byte])
            };
            drop(
                b"HTTP/1.1 200 OK\r\ncontent-length: 90\r\n\r\n"
                    .iter()
                    .try_for_each(drip),
            );
        }),
        raw(move |path, stream| {
            let head = format!(
                "HTTP/1.1 302 Found\r\nlocation: {to_honest}{path}\r\ncontent-length: 0\r\n\r\n"
            );
            drop(stream.write_all(head.as_bytes()));
        }),
        raw(|_, stream| reply(stream, "200 OK", "[1, 2")),
        raw(|_, stream| reply(stream, "500 Internal Server Error", "{}")),
        // It describes the network well, and then answers another round than was asked for.
        raw(move |path, stream| match path.ends_with("/info") {
            true => reply(
                stream,
                "200 OK",
                &format!(
                    r#"{{"public_key":"{}","period":{},"genesis_time":{},"chain_hash":"{}"}}"#,
                    hex::encode(named.pk),
                    named.period,
                    named.genesis_time,
                    hex::encode(named.chain_hash)
                ),
            ),
            false => reply(
                stream,
                "200 OK",
                &format!(
                    r#"{{"round":7,"signature":"{}"}}"#,
                    hex::encode(key.sign(7).sig)
                ),
            ),
        }),
    ];
    for (url, asked) in &hostile {
        let mut source = relays(std::slice::from_ref(url), &params);
        let until = Instant::now() + LONG;
        let before = asked.load(Ordering::SeqCst);
        while asked.load(Ordering::SeqCst) < before + 3 {
            assert_eq!(source.round(Epoch(20), 20), None, "{url}");
            assert!(Instant::now() < until, "{url} is not asked again");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(source.round(Epoch(20), 20), None, "{url}");
    }
    // And all together, with one that does not know the network, one that is away, and one that is honest.
    let gone = TcpListener::bind(any_port()).expect("a port");
    let gone_at = gone.local_addr().expect("bound");
    drop(gone);
    let mut urls: Vec<String> = hostile.drain(..).map(|(url, _)| url).collect();
    urls.extend([elsewhere.url(), format!("http://{gone_at}"), honest.url()]);
    let mut source = relays(&urls, &params);
    for epoch in 1..=60 {
        assert_eq!(source.round(Epoch(epoch), epoch), None);
    }
    let signer = DevnetSigner::from_seed(&[5; 32]);
    for epoch in 1..=60 {
        assert_eq!(wait_for(&mut source, epoch, epoch), signer.sign(epoch));
    }
}

/// Signs no round whose time has not come.
struct Punctual(DevnetSigner, BeaconParams);

impl Rounds for Punctual {
    fn signature(&self, round: u64) -> Option<[u8; 48]> {
        let due = self.1.time_of_round(round).expect("a time");
        assert!(
            now_s() >= u64::try_from(due).expect("after 1970"),
            "round {round}"
        );
        Some(self.0.sign(round).sig)
    }
}

/// What our relay answers, by its own words: status and body.
fn ask(addr: SocketAddr, method: &str, path: &str) -> (u16, serde_json::Value) {
    let mut stream = TcpStream::connect(addr).expect("listens");
    let head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).expect("takes a question");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("answers");
    let status = text.split(' ').nth(1).and_then(|s| s.parse().ok());
    let body = text.split("\r\n\r\n").nth(1).unwrap_or_default();
    let body = serde_json::from_str(body).expect("JSON");
    (status.expect("a status"), body)
}

#[test]
fn tm_v5_our_relay_speaks_drands_language_and_signs_nothing_before_its_time() {
    let runtime = Runtime::new().expect("a runtime");
    let (key, params) = own_network(1, 100);
    let relay = serve(&runtime, &params, Punctual(key.clone(), params.clone()));
    let get = |path: &str| ask(relay.addr(), "GET", path);
    let hash = hex::encode(params.chain_hash);
    let (by_hash, by_id) = (format!("/v2/chains/{hash}"), "/v2/beacons/holdfast-devnet");
    assert_eq!(get("/v2/chains"), (200, serde_json::json!([hash])));
    assert_eq!(get("/chains"), (200, serde_json::json!([hash])));
    assert_eq!(
        get("/v2/beacons"),
        (200, serde_json::json!(["holdfast-devnet"]))
    );
    for base in [&by_hash, by_id] {
        let (status, info) = get(&format!("{base}/info"));
        assert_eq!(
            (status, info["chain_hash"].as_str()),
            (200, Some(hash.as_str()))
        );
        assert_eq!(info["public_key"], hex::encode(params.pk));
        assert_eq!(info["beacon_id"], "holdfast-devnet");
        let round = get(&format!("{base}/rounds/7")).1;
        assert_eq!(round["round"], 7);
        assert_eq!(round["signature"], hex::encode(key.sign(7).sig));
    }
    let (_, one) = get(&format!("/{hash}/public/7"));
    assert_eq!(one["randomness"], hex::encode(key.sign(7).randomness()));
    assert_eq!(get(&format!("/{hash}/info")).1["schemeID"], params.scheme);
    let newest = || params.round_at(i64::try_from(now_s()).expect("now"));
    for path in ["rounds/latest", "rounds/0"] {
        let before = newest();
        let found = get(&format!("{by_hash}/{path}")).1["round"]
            .as_u64()
            .expect("a round");
        assert!((before..=newest()).contains(&found), "{path}");
    }
    assert!(get(&format!("{by_hash}/health")).1["current"].as_u64() >= Some(100));
    // The next one is held until it is due; `Punctual` fails the test if it were signed before.
    let before = newest();
    let (status, next) = get(&format!("{by_hash}/rounds/next"));
    assert!(status == 200 && next["round"].as_u64() > Some(before));
    assert!(next["round"].as_u64() <= Some(newest()));
    for (path, status) in [
        (format!("{by_hash}/rounds/{}", newest() + 10), 425),
        (format!("/{hash}/public/{}", u64::MAX), 425),
        (format!("{by_hash}/rounds/-1"), 400),
        (format!("{by_hash}/rounds/x"), 400),
        (format!("/v2/chains/{QUICKNET_HASH}/rounds/1"), 400),
        (format!("/{QUICKNET_HASH}/public/1"), 400),
        ("/v2/beacons/quicknet/info".to_owned(), 400),
        ("/".to_owned(), 404),
        (format!("{by_hash}/rounds/1/2"), 404),
        (format!("/{hash}/public/next"), 400),
    ] {
        assert_eq!(get(&path).0, status, "{path}");
    }
    assert_eq!(ask(relay.addr(), "POST", &by_hash).0, 405);
    runtime.block_on(relay.stop());
}

fn genesis(params: BeaconParams, validator: &ed25519_dalek::SigningKey) -> Genesis {
    let vectors = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../fixtures/vectors/filecoin.json"
    );
    let vectors = std::fs::read(vectors).expect("the golden vectors are in the tree");
    let vectors: serde_json::Value = serde_json::from_slice(&vectors).expect("JSON");
    let vk = |circuit, name: &str| CircuitKey {
        circuit,
        insecure: true,
        vk: hex::decode(vectors["sectors"]["2KiB"][name].as_str().expect("hex")).expect("hex"),
    };
    let size = SectorSize::Kib2;
    Genesis {
        version: GENESIS_VERSION,
        chain_name: "relayed".into(),
        kind: NetworkKind::Devnet,
        time_ms: u64::try_from(params.genesis_time).expect("after 1970") * 1_000,
        clock: ClockMode::Beacon {
            epoch_ms: u64::from(params.period) * 1_000,
        },
        params: ChainParams {
            sector_sizes: vec![size],
            ..ChainParams::devnet()
        },
        accounts: [(Address([1; 32]), TokenAmount(7))].into(),
        validators: vec![Validator {
            id: ValidatorId(validator.verifying_key().to_bytes()),
            power: 1,
        }],
        beacons: vec![params],
        keys: vec![
            vk(CircuitId::porep(size), "porep_vk"),
            vk(CircuitId::window(size), "window_vk"),
        ],
    }
}

/// A chain whose genesis names a group key that its node does not have: rounds come from a relay. While it is away blocks go on,
/// their epochs are dark, so that no timer runs and nobody is slashed (`chain-lite/tests/economy/outages.rs` says what that
/// means for each of them); when it is back the missing rounds are carried and epochs are lit again.
#[test]
fn tm_v5_a_chain_lives_on_a_relay_waits_while_it_is_away_and_goes_on() {
    let runtime = Runtime::new().expect("a runtime");
    let home = tempfile::tempdir().expect("a folder");
    let (key, params) = own_network(1, 3);
    let validator = ed25519_dalek::SigningKey::from_bytes(&[2; 32]);
    let genesis = genesis(params.clone(), &validator);
    let keys = genesis.clone().check().expect("a genesis").keys().clone();
    let verifier = Arc::new(Groth16Verifier::new(keys));
    let ledger = Arc::new(Ledger::open(home.path(), &genesis, verifier).expect("opens"));
    let mempool = Arc::new(Mempool::new(ledger.chain_id()));
    // At an address where no other test asks for a port while this one is let go.
    let host = match cfg!(target_os = "linux") {
        true => Ipv4Addr::new(127, 0, 0, 2),
        false => Ipv4Addr::LOCALHOST,
    };
    let relay = serve_at(&runtime, &params, key.clone(), (host, 0).into());
    let addr = relay.addr();
    let source = relays(&[relay.url()], &params);
    let beacon = Box::new(source);
    let engine = solo::start(
        Arc::clone(&ledger),
        mempool,
        solo::Keys { validator, beacon },
    )
    .expect("starts");
    let totals = || query::totals(&ledger.view()).expect("readable");
    let lookback = genesis.params.post_lookback.0;
    let wait_until = |what: &str, holds: &dyn Fn() -> bool| {
        let until = Instant::now() + LONG;
        while !holds() {
            assert!(
                Instant::now() < until,
                "{what}: {:?} {:?}",
                ledger.tip(),
                engine.status()
            );
            ledger.wait_beyond(ledger.tip().height, Duration::from_millis(200));
        }
    };
    wait_until("rounds are carried", &|| totals().beacon_tip.0 >= 5);

    runtime.block_on(relay.stop());
    let behind = || {
        let now = totals();
        now.epoch.0 - now.beacon_tip.0
    };
    wait_until("blocks go on without", &|| behind() > lookback + 2);
    assert_eq!(engine.status(), EngineStatus::Running);
    assert!(totals().dark > 0, "and count for nobody");

    let back = serve_at(&runtime, &params, key.clone(), addr);
    wait_until("the missing rounds come", &|| behind() == 0);
    let before = totals();
    // An epoch without a block of its own would be dark; on a busy machine that happens, but not to all of them.
    wait_until("an epoch is lit", &|| {
        let now = totals();
        now.dark - before.dark < now.epoch.0 - before.epoch.0
    });
    engine.stop();
    let after = totals();
    for epoch in 1..=after.beacon_tip.0 {
        let value = query::beacon(&ledger.view(), Epoch(epoch)).expect("readable");
        assert_eq!(value, Some(key.sign(epoch).randomness()));
    }
    runtime.block_on(back.stop());
}

/// A certificate that signed nothing: what a machine with CA certificates has.
const ROOT: &str = "\
-----BEGIN CERTIFICATE-----\n\
MIIBbzCCARWgAwIBAgIUFMJ3F+Z4sSgZQOTFvPOEavfGpVUwCgYIKoZIzj0EAwIw\n\
DDEKMAgGA1UEAwwBdDAgFw0yNjExMjYxMTE2MDJaGA8yMTI2MTEwMjExMTYwMlow\n\
DDEKMAgGA1UEAwwBdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABKSo1TW8fGpg\n\
uylipituh5wZup2GdklxouDipczbQwY8XH9L7px6iAKXvhkwfSU0QdT/gl1L6pSW\n\
UaUyxGzi+HOjUzBRMB0GA1UdDgQWBBQT5U9xVWZPb0lRz+hnkKT+O+ANvzAfBgNV\n\
HSMEGDAWgBQT5U9xVWZPb0lRz+hnkKT+O+ANvzAPBgNVHRMBAf8EBTADAQH/MAoG\n\
CCqGSM49BAMCA0gAMEUCIDI9XkwtXlzUt0bC3tBGxfums3/oYhscxutAycsZrJMF\n\
AiEA6V6cNeANnAlToHgJn1TpiysDTe7jo7dO+2GI+6k5INE=\n\
-----END CERTIFICATE-----\n";

/// Roots are found by the environment, which is a process's own: this runs itself twice.
#[cfg(target_os = "linux")]
#[test]
fn https_relays_are_refused_at_the_start_where_no_certificate_can_be_judged() {
    const CHILD: &str = "HOLDFAST_TEST_ROOTS";
    let start = |url: &str| {
        let urls = [url.to_owned()];
        Relays::start_with(&urls, schedule(&quicknet()), quick()).map(drop)
    };
    let (https, http) = ("HTTPS://127.0.0.1:1", "http://127.0.0.1:1");
    match std::env::var(CHILD).as_deref() {
        Ok("none") => {
            assert!(matches!(start(https), Err(RelayError::Roots { .. })));
            start(http).expect("needs no certificate");
        }
        Ok(_) => start(https).expect("has one to judge by"),
        Err(_) => {
            let dir = tempfile::tempdir().expect("a folder");
            for (roots, text) in [("none", ""), ("one", ROOT)] {
                let file = dir.path().join(roots);
                std::fs::write(&file, text).expect("writes");
                let name =
                    "https_relays_are_refused_at_the_start_where_no_certificate_can_be_judged";
                let output = std::process::Command::new(std::env::current_exe().expect("a test"))
                    .args([name, "--exact"])
                    .env(CHILD, roots)
                    .env("SSL_CERT_FILE", file)
                    .env_remove("SSL_CERT_DIR")
                    .output()
                    .expect("starts");
                let said = String::from_utf8_lossy(&output.stdout);
                assert!(
                    output.status.success() && said.contains("1 passed"),
                    "{roots}: {said}"
                );
            }
        }
    }
}
