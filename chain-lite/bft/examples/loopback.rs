//! Measures four validators on loopback: block times, bytes and transfers per second.
//!
//! `cargo run --release -p chain-lite-bft --features net --example loopback -- [blocks] [transfers per block]`
//!
//! All four run in this process, each with its own ledger, runtime and sockets; no pacing (an epoch of 1 ms), signed
//! transfers, blocks synced to disk. A transfer is about 190 bytes: 5,600 make a block of 1 MiB.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use chain_lite::account::Address;
use chain_lite::certificate::Certificate;
use chain_lite::clock::ClockMode;
use chain_lite::engine::EngineHandle;
use chain_lite::ledger::Ledger;
use chain_lite::mempool::Mempool;
use chain_lite_bft::app::{Parts, Timing};
use chain_lite_bft::net::{self, Config};
use chain_lite_bft::signing::ChainSigner;

#[path = "../tests/common/mod.rs"]
mod common;
use common::{beacon, genesis, open_with, transfer_to, user, validator_key};

/// Senders of each validator: one sender's transactions are limited in the pool.
const SENDERS: usize = 8;

struct Validator {
    ledger: Arc<Ledger>,
    mempool: Arc<Mempool>,
    engine: EngineHandle,
    _home: tempfile::TempDir,
}

fn main() {
    let mut args = std::env::args().skip(1);
    let mut number = |default: u64| {
        args.next()
            .map_or(default, |a| a.parse().expect("a number"))
    };
    let (blocks, per_block) = (number(200), number(20));
    let free: Vec<TcpListener> = (0..4)
        .map(|_| TcpListener::bind("127.0.0.1:0").expect("a port"))
        .collect();
    let ports: Vec<u16> = free
        .iter()
        .map(|l| l.local_addr().expect("bound").port())
        .collect();
    drop(free);
    let mut genesis = genesis();
    genesis.clock = ClockMode::Logical { epoch_ms: 1 };
    let rich = *genesis
        .accounts
        .values()
        .next()
        .expect("somebody has money");
    let senders = (0..4 * SENDERS).map(|n| (Address::of(&user(n).verifying_key()), rich));
    genesis.accounts = senders.collect();
    let start = |n: usize| {
        let home = tempfile::tempdir().expect("a folder");
        let ledger = Arc::new(open_with(home.path(), &genesis));
        let mempool = Arc::new(Mempool::new(ledger.chain_id()));
        let peers = (0..4).filter(|p| *p != n).map(|p| {
            let id = net::peer_id(&validator_key(p).to_bytes()).expect("a key");
            format!("/ip4/127.0.0.1/tcp/{}/p2p/{id}", ports[p])
        });
        let config = Config {
            listen: format!("/ip4/127.0.0.1/tcp/{}", ports[n]),
            peers: peers.collect(),
            home: home.path().to_owned(),
            connections_per_ip: 64,
        };
        let parts = Parts {
            ledger: Arc::clone(&ledger),
            mempool: Arc::clone(&mempool),
            signer: ChainSigner::new(ledger.chain_id(), validator_key(n)),
            beacon: Box::new(beacon()),
            timing: Timing::default(),
        };
        let engine = net::start(config, parts, &validator_key(n).to_bytes()).expect("starts");
        Validator {
            ledger,
            mempool,
            engine,
            _home: home,
        }
    };
    let validators: Vec<Validator> = (0..4).map(start).collect();
    let stop = AtomicBool::new(false);
    let heard = validators[0].ledger.subscribe();
    let (mut times, mut txs, mut bytes, mut rounds) = (Vec::new(), 0, 0, 0);
    std::thread::scope(|scope| {
        for (n, validator) in validators.iter().enumerate() {
            let stop = &stop;
            scope.spawn(move || feed(n, validator, per_block as usize, stop));
        }
        // The first blocks pay for connections; they are not counted.
        for _ in 0..10 {
            heard
                .recv_timeout(Duration::from_secs(120))
                .expect("blocks come");
        }
        let begun = Instant::now();
        let mut before = begun;
        for _ in 0..blocks {
            let block = heard
                .recv_timeout(Duration::from_secs(120))
                .expect("blocks come");
            times.push(before.elapsed());
            before = Instant::now();
            txs += block.block.body.txs.len();
            bytes += chain_lite::codec::encode(&block.block).len();
            let Certificate::Ed25519V1 { round, .. } = block.certificate;
            rounds += round;
        }
        let seconds = begun.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        times.sort();
        let at =
            |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1000.0;
        println!(
            "{blocks} blocks in {seconds:.2} s: median {:.1} ms, p90 {:.1} ms, max {:.1} ms; {:.0} bytes a block, {:.0} transfers a second; {rounds} rounds lost",
            at(0.5),
            at(0.9),
            at(1.0),
            bytes as f64 / blocks as f64,
            txs as f64 / seconds,
        );
    });
    for validator in &validators {
        validator.engine.stop();
    }
}

/// Keeps `want` transfers waiting in a validator's pool.
fn feed(n: usize, validator: &Validator, want: usize, stop: &AtomicBool) {
    let chain = validator.ledger.chain_id();
    let mine = n * SENDERS..(n + 1) * SENDERS;
    let mut nonces = [0u64; SENDERS];
    while !stop.load(Ordering::Relaxed) {
        let missing = want.saturating_sub(validator.mempool.len());
        for i in 0..missing {
            let (k, view) = (i % SENDERS, validator.ledger.view());
            let from = mine.start + k;
            let tx = transfer_to(chain, from, nonces[k], mine.start);
            let tip = validator.ledger.tip().height;
            if validator.mempool.submit(tx, tip, &view).is_ok() {
                nonces[k] += 1;
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
