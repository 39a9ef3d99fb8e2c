//! kill -9 at any moment of block making, again and again: every block that was announced is still there, the chain goes on,
//! and an auditor finds it sound (`threat-model.md` H1, promise 4).
//!
//! The test runs its own binary as the victim: `victim` does nothing unless the variable below names a folder.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use chain_lite::account::{Address, ChainId};
use chain_lite::audit::{self, Groth16Verifier, Replayed};
use chain_lite::beacon::{BeaconParams, DevnetSigner};
use chain_lite::certificate::{Validator, ValidatorId};
use chain_lite::clock::ClockMode;
use chain_lite::engine::solo::{self, Keys};
use chain_lite::genesis::{CircuitKey, GENESIS_VERSION, Genesis, NetworkKind};
use chain_lite::ledger::Ledger;
use chain_lite::mempool::Mempool;
use chain_lite::message::{Message, Tx, sign};
use chain_lite::params::ChainParams;
use chain_lite::units::TokenAmount;
use ed25519_dalek::SigningKey;
use prover::snark::CircuitId;
use prover::spec::SectorSize;

const HOME: &str = "HOLDFAST_TEST_CRASH_HOME";
const ROUNDS: u64 = 6;

fn key(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}

fn beacon() -> DevnetSigner {
    DevnetSigner::from_seed(&[9; 32])
}

fn genesis() -> Genesis {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../fixtures/vectors/filecoin.json"
    );
    let vectors: serde_json::Value =
        serde_json::from_slice(&std::fs::read(path).expect("vectors")).expect("JSON");
    let vk = |circuit, name: &str| {
        let text = vectors["sectors"]["2KiB"][name].as_str().expect("hex");
        CircuitKey {
            circuit,
            insecure: true,
            vk: hex::decode(text).expect("hex"),
        }
    };
    let size = SectorSize::Kib2;
    Genesis {
        version: GENESIS_VERSION,
        chain_name: "crash".into(),
        kind: NetworkKind::Devnet,
        time_ms: 1,
        clock: ClockMode::Logical { epoch_ms: 1 },
        params: ChainParams {
            sector_sizes: vec![size],
            ..ChainParams::devnet()
        },
        accounts: [(Address::of(&key(1).verifying_key()), TokenAmount(1_000_000))].into(),
        validators: vec![Validator {
            id: ValidatorId(key(2).verifying_key().to_bytes()),
            power: 1,
        }],
        beacons: vec![BeaconParams::devnet(&beacon(), 1)],
        keys: vec![
            vk(CircuitId::porep(size), "porep_vk"),
            vk(CircuitId::window(size), "window_vk"),
        ],
    }
}

fn open(home: &Path) -> Ledger {
    let genesis = genesis();
    let keys = genesis.clone().check().expect("genesis").keys().clone();
    Ledger::open(home, &genesis, Arc::new(Groth16Verifier::new(keys)))
        .expect("opens after any crash")
}

fn transfer(chain_id: ChainId, nonce: u64) -> chain_lite::message::SignedTx {
    let msgs = vec![Message::Transfer {
        to: Address([nonce as u8; 32]),
        amount: TokenAmount(1),
    }];
    let sender = Address::of(&key(1).verifying_key());
    let tx = Tx {
        version: 1,
        chain_id,
        sender,
        nonce,
        fee_limit: TokenAmount(0),
        valid_until_height: u64::MAX,
        msgs,
    };
    sign(tx, &key(1))
}

/// Makes blocks and announces each on stdout, until it is killed.
#[test]
fn victim() {
    let Some(home) = std::env::var_os(HOME) else {
        return;
    };
    let ledger = Arc::new(open(Path::new(&home)));
    let pool = Arc::new(Mempool::new(ledger.chain_id()));
    let blocks = ledger.subscribe();
    let keys = Keys {
        validator: key(2),
        beacon: Box::new(beacon()),
    };
    let _engine = solo::start(ledger.clone(), pool.clone(), keys).expect("starts");
    let mut nonce = pool
        .next_nonce(&ledger.view(), &Address::of(&key(1).verifying_key()))
        .expect("reads");
    while let Ok(block) = blocks.recv() {
        println!("\nheight {}", block.block.header.height);
        std::io::stdout().flush().expect("the parent reads");
        pool.submit(
            transfer(ledger.chain_id(), nonce),
            ledger.tip().height,
            &ledger.view(),
        )
        .expect("takes it");
        nonce += 1;
    }
}

/// Runs the victim until it announced `blocks` blocks and a little longer, kills it, returns the last height announced.
fn run_and_kill(home: &Path, blocks: u64, extra: Duration) -> u64 {
    let mut child = Command::new(std::env::current_exe().expect("this test's own binary"))
        .args(["--exact", "victim", "--nocapture", "--test-threads=1"])
        .env(HOME, home)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts itself");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut last = 0;
    let mut seen = 0;
    let parse = |line: &str| {
        line.strip_prefix("height ")
            .and_then(|h| h.parse::<u64>().ok())
    };
    while seen < blocks {
        let line = lines
            .next()
            .expect("the victim lives until it is killed")
            .expect("utf-8");
        if let Some(height) = parse(&line) {
            (last, seen) = (height, seen + 1);
        }
    }
    std::thread::sleep(extra);
    child.kill().expect("kill -9");
    // What was still in the pipe was announced too.
    for line in lines.map_while(Result::ok) {
        last = parse(&line).unwrap_or(last);
    }
    child.wait().expect("reaped");
    last
}

#[test]
fn tm_h1_kill_9_loses_no_announced_block() {
    let home = tempfile::tempdir().expect("a folder");
    let mut random = 7u64;
    let mut highest = 0;
    for round in 0..ROUNDS {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let announced = run_and_kill(
            home.path(),
            2 + random % 9,
            Duration::from_micros((random >> 32) % 20_000),
        );
        assert!(
            announced > highest,
            "round {round}: the chain went on after the crash before"
        );
        highest = announced;
        let ledger = open(home.path());
        assert!(
            ledger.tip().height >= announced,
            "round {round}: block {announced} was announced, the tip is {}",
            ledger.tip().height
        );
        let state_root = ledger.tip().state_root;
        drop(ledger);
        let report = audit::replay(
            &home.path().join("blocks.log"),
            None,
            &mut |_: &Replayed<'_>| (),
        )
        .expect("replays")
        .report;
        assert!(report.ok(), "round {round}: {:?}", report.failures);
        assert_eq!(report.state_root, state_root, "round {round}");
        assert!(report.txs > 0);
    }
}
