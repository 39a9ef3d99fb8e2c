//! Measures the ledger on this machine: signed transfers applied per second, empty blocks, restart, rebuild, memory.
//!
//! `cargo run --release -p chain-lite --example ledger_speed [FOLDER]`. The folder should be on the disk that matters: every
//! block is fsynced. Verifying keys come from the golden vectors; no proof is made or needed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use chain_lite::account::{Address, ChainId};
use chain_lite::audit::Groth16Verifier;
use chain_lite::beacon::{BeaconParams, DevnetSigner};
use chain_lite::certificate::{Certificate, Validator, ValidatorId};
use chain_lite::clock::ClockMode;
use chain_lite::genesis::{CircuitKey, GENESIS_VERSION, Genesis, NetworkKind};
use chain_lite::ledger::{Ledger, Slot};
use chain_lite::mempool::Mempool;
use chain_lite::message::{Message, SignedTx, Tx, sign};
use chain_lite::params::ChainParams;
use chain_lite::units::TokenAmount;
use ed25519_dalek::SigningKey;
use prover::snark::CircuitId;
use prover::spec::SectorSize;
use sha2::{Digest, Sha256};

const USERS: u64 = 1_000;
const BLOCKS: u64 = 20;
const TXS_PER_BLOCK: u64 = 1_000;
const EMPTY_BLOCKS: u64 = 10_000;

fn key(n: u64) -> SigningKey {
    SigningKey::from_bytes(&Sha256::digest(n.to_le_bytes()).into())
}

fn address(n: u64) -> Address {
    Address::of(&key(n).verifying_key())
}

fn genesis(beacon: &DevnetSigner) -> Genesis {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../fixtures/vectors/filecoin.json"
    );
    let text = std::fs::read(path).expect("the golden vectors are in the tree");
    let vectors: serde_json::Value =
        serde_json::from_slice(&text).expect("the golden vectors are JSON");
    let size = SectorSize::Kib2;
    let vk = |circuit, name: &str| CircuitKey {
        circuit,
        insecure: true,
        vk: hex::decode(vectors["sectors"]["2KiB"][name].as_str().expect("hex")).expect("hex"),
    };
    Genesis {
        version: GENESIS_VERSION,
        chain_name: "ledger-speed".into(),
        kind: NetworkKind::Devnet,
        time_ms: 1,
        clock: ClockMode::Logical { epoch_ms: 1 },
        params: ChainParams {
            sector_sizes: vec![size],
            ..ChainParams::devnet()
        },
        accounts: (0..USERS)
            .map(|n| (address(n), TokenAmount(1 << 60)))
            .collect::<BTreeMap<_, _>>(),
        validators: vec![Validator {
            id: ValidatorId(key(u64::MAX).verifying_key().to_bytes()),
            power: 1,
        }],
        beacons: vec![BeaconParams::devnet(beacon, 1)],
        keys: vec![
            vk(CircuitId::porep(size), "porep_vk"),
            vk(CircuitId::window(size), "window_vk"),
        ],
    }
}

fn transfer(chain: ChainId, from: u64, nonce: u64) -> SignedTx {
    let msgs = vec![Message::Transfer {
        to: address((from + 7 * nonce + 1) % USERS),
        amount: TokenAmount(1),
    }];
    let tx = Tx {
        version: 1,
        chain_id: chain,
        sender: address(from),
        nonce,
        fee_limit: TokenAmount(0),
        valid_until_height: u64::MAX,
        msgs,
    };
    sign(tx, &key(from))
}

fn block(ledger: &Ledger, beacon: &DevnetSigner, pool: &Mempool) {
    let epoch = ledger.tip().epoch.next();
    let txs = pool
        .select(&ledger.view(), 16_384, 4 << 20, 256)
        .expect("select");
    let (height, round) = (ledger.tip().height + 1, 0);
    let valid = ledger
        .build(
            Slot { height, round },
            epoch,
            0,
            vec![beacon.sign(epoch.0)],
            txs,
        )
        .expect("build");
    let certificate = Certificate::solo(&ledger.chain_id(), height, valid.id(), &key(u64::MAX));
    let ids: Vec<_> = valid.block().body.txs.iter().map(SignedTx::id).collect();
    ledger.commit(valid, certificate).expect("commit");
    pool.committed(height, &ids, &ledger.view())
        .expect("forget");
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find(|l| l.starts_with("VmRSS:"))
        .unwrap_or("VmRSS: 0");
    line.split_whitespace()
        .nth(1)
        .and_then(|kb| kb.parse::<u64>().ok())
        .unwrap_or(0)
        / 1024
}

fn disk_mib(dir: &Path) -> f64 {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return 0.0;
    };
    let size = |e: std::fs::DirEntry| match e.path() {
        path if path.is_dir() => disk_mib(&path),
        _ => e.metadata().map_or(0.0, |m| m.len() as f64 / 1048576.0),
    };
    entries.flatten().map(size).sum()
}

fn main() {
    let home = std::env::args()
        .nth(1)
        .map_or_else(|| std::env::temp_dir().join("ledger-speed"), PathBuf::from);
    let _ = std::fs::remove_dir_all(&home);
    let beacon = DevnetSigner::from_seed(&[1; 32]);
    let genesis = genesis(&beacon);
    let verifier = Arc::new(Groth16Verifier::new(
        genesis.clone().check().expect("genesis").keys().clone(),
    ));
    let open = || Ledger::open(&home, &genesis, verifier.clone()).expect("open");
    let ledger = open();
    let pool = Mempool::new(ledger.chain_id());
    let mut spent = std::time::Duration::ZERO;
    for round in 0..BLOCKS {
        let txs: Vec<SignedTx> = (0..TXS_PER_BLOCK)
            .map(|i| {
                transfer(
                    ledger.chain_id(),
                    i % USERS,
                    round * TXS_PER_BLOCK / USERS + i / USERS,
                )
            })
            .collect();
        let start = Instant::now();
        // What a node does: check each signature once, on the way into the pool; then build, execute, log, index.
        std::thread::scope(|scope| {
            for part in txs.chunks(txs.len().div_ceil(2)) {
                let (pool, ledger) = (&pool, &ledger);
                scope.spawn(move || {
                    for tx in part {
                        pool.submit(tx.clone(), ledger.tip().height, &ledger.view())
                            .expect("submit");
                    }
                });
            }
        });
        block(&ledger, &beacon, &pool);
        spent += start.elapsed();
    }
    let txs = BLOCKS * TXS_PER_BLOCK;
    println!(
        "transfers: {txs} in {spent:.2?}: {:.0} per second, {:.1} ms a block of {TXS_PER_BLOCK}",
        txs as f64 / spent.as_secs_f64(),
        spent.as_secs_f64() * 1000.0 / BLOCKS as f64
    );
    let start = Instant::now();
    for _ in 0..EMPTY_BLOCKS {
        block(&ledger, &beacon, &pool);
    }
    println!(
        "empty blocks: {:.2} ms each",
        start.elapsed().as_secs_f64() * 1000.0 / EMPTY_BLOCKS as f64
    );
    println!(
        "resident {} MiB, index {:.1} MiB, log {:.1} MiB",
        resident_mib(),
        disk_mib(&home.join("index")),
        disk_mib(&home) - disk_mib(&home.join("index"))
    );
    drop(ledger);
    let start = Instant::now();
    let ledger = open();
    println!(
        "restart at height {}: {:.2?} (replayed {})",
        ledger.tip().height,
        start.elapsed(),
        ledger.summary().replayed
    );
    drop(ledger);
    std::fs::remove_dir_all(home.join("index")).expect("the index can be removed");
    let start = Instant::now();
    let ledger = open();
    println!(
        "rebuild of the index: {:.2?} (replayed {}), resident {} MiB",
        start.elapsed(),
        ledger.summary().replayed,
        resident_mib()
    );
    drop(ledger);
    let _ = std::fs::remove_dir_all(&home);
}
