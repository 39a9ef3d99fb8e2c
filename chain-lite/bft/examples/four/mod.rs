//! Four validators on loopback in this process, each with its own ledger, runtime and sockets, for the measurements.

use std::net::TcpListener;
use std::sync::Arc;

use chain_lite::account::Address;
use chain_lite::engine::EngineHandle;
use chain_lite::genesis::Genesis;
use chain_lite::ledger::Ledger;
use chain_lite::mempool::Mempool;
use chain_lite::message::{Message, SignedTx, Tx, sign};
use chain_lite::units::TokenAmount;
use chain_lite_bft::app::{Parts, Timing};
use chain_lite_bft::net::{self, Config};
use chain_lite_bft::signing::ChainSigner;

use crate::common::{beacon, open_with, user, validator_key};

/// One of the four; its folder goes with it.
pub struct Validator {
    pub ledger: Arc<Ledger>,
    pub mempool: Arc<Mempool>,
    pub engine: EngineHandle,
    _home: tempfile::TempDir,
}

pub fn start_four(genesis: &Genesis) -> Vec<Validator> {
    let free: Vec<TcpListener> = (0..4)
        .map(|_| TcpListener::bind("127.0.0.1:0").expect("a port"))
        .collect();
    let ports: Vec<u16> = free
        .iter()
        .map(|l| l.local_addr().expect("bound").port())
        .collect();
    drop(free);
    (0..4).map(|n| start(genesis, n, &ports)).collect()
}

fn start(genesis: &Genesis, n: usize, ports: &[u16]) -> Validator {
    let home = tempfile::tempdir().expect("a folder");
    let ledger = Arc::new(open_with(home.path(), genesis));
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
}

pub fn address(n: usize) -> Address {
    Address::of(&user(n).verifying_key())
}

pub fn signed(validator: &Validator, sender: usize, nonce: u64, msgs: Vec<Message>) -> SignedTx {
    let tx = Tx {
        version: 1,
        chain_id: validator.ledger.chain_id(),
        sender: address(sender),
        nonce,
        fee_limit: TokenAmount(0),
        valid_until_height: u64::MAX,
        msgs,
    };
    sign(tx, &user(sender))
}
