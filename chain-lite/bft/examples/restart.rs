//! Measures how soon a validator of a long chain is ready again.
//!
//! `cargo run --release -p chain-lite-bft --features net --example restart -- [blocks]`
//!
//! Makes a chain of empty blocks with certificates of three of four, closes it, and times opening the ledger and starting the
//! engine until it listens.

use std::sync::Arc;
use std::time::Instant;

use chain_lite::certificate::Certificate;
use chain_lite::ledger::Slot;
use chain_lite::mempool::Mempool;
use chain_lite_bft::app::{Parts, Timing};
use chain_lite_bft::net::{self, Config};
use chain_lite_bft::signing::ChainSigner;

#[path = "../tests/common/mod.rs"]
mod common;
use common::{beacon, open, validator_key};

fn main() {
    let blocks: u64 = std::env::args()
        .nth(1)
        .map_or(100_000, |a| a.parse().expect("a number"));
    let home = tempfile::tempdir().expect("a folder");
    let ledger = open(home.path());
    let chain = ledger.chain_id();
    let begun = Instant::now();
    for height in 1..=blocks {
        let (slot, epoch) = (Slot { height, round: 0 }, ledger.tip().epoch.next());
        let entries = vec![beacon().sign(epoch.0)];
        let block = ledger
            .build(slot, epoch, 0, entries, vec![])
            .expect("builds");
        let one = |n| Certificate::single(&chain, height, 0, block.id(), &validator_key(n));
        let certificate = (0..3)
            .map(one)
            .reduce(|all, next| all.merged(next))
            .expect("three");
        ledger.commit(block, certificate).expect("commits");
    }
    println!(
        "{blocks} blocks made in {:.1} s",
        begun.elapsed().as_secs_f64()
    );
    drop(ledger);
    let begun = Instant::now();
    let ledger = Arc::new(open(home.path()));
    let opened = begun.elapsed();
    assert_eq!(ledger.tip().height, blocks);
    let config = Config {
        listen: "/ip4/127.0.0.1/tcp/0".into(),
        peers: vec![],
        home: home.path().to_owned(),
        connections_per_ip: 5,
    };
    let parts = Parts {
        mempool: Arc::new(Mempool::new(chain)),
        signer: ChainSigner::new(chain, validator_key(0)),
        beacon: Box::new(beacon()),
        timing: Timing::default(),
        ledger,
    };
    let engine = net::start(config, parts, &validator_key(0).to_bytes()).expect("starts");
    let ready = begun.elapsed();
    println!(
        "opened in {:.2} s, listening after {:.2} s",
        opened.as_secs_f64(),
        ready.as_secs_f64()
    );
    engine.stop();
}
