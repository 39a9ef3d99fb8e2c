//! A real chain behind a real socket: bad input, limits, event replay, restarts of the server.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Instant;

use chain_lite::account::ChainId;
use chain_lite::beacon::{BeaconParams, DevnetSigner};
use chain_lite::certificate::{Validator, ValidatorId};
use chain_lite::engine::solo;
use chain_lite::execute::{ProofError, ProofVerifier};
use chain_lite::genesis::{CircuitKey, GENESIS_VERSION, Genesis, NetworkKind};
use chain_lite::params::ChainParams;
use chain_lite::units::EpochCount;
use jsonrpsee::core::client::ClientT;
use jsonrpsee::rpc_params;
use jsonrpsee::ws_client::WsClientBuilder;
use prover::SectorSize;
use prover::snark::CircuitId;
use prover::snark::keys::ParamStore;
use prover::verify::{PorepStatement, WindowPostStatement};

use super::*;
use crate::chain::{ChainClient, ChainError};

struct NoProofs;

impl ProofVerifier for NoProofs {
    fn porep(&self, _: &PorepStatement, _: &[u8]) -> Result<(), ProofError> {
        Err(ProofError::Rejected("no proofs in this test".to_owned()))
    }
    fn window_post(&self, _: &WindowPostStatement, _: &[u8]) -> Result<(), ProofError> {
        Err(ProofError::Rejected("no proofs in this test".to_owned()))
    }
}

/// A chain without proofs, for tests of whoever speaks with one.
pub(crate) struct Bed {
    _dir: tempfile::TempDir,
    ledger: Arc<Ledger>,
    pub(crate) mempool: Arc<Mempool>,
    engine: Arc<EngineHandle>,
}

pub(crate) fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

pub(crate) fn address(seed: u8) -> Address {
    Address::of(&key(seed).verifying_key())
}

pub(crate) fn bed() -> Bed {
    bed_named("rpc test")
}

/// A chain of 20 ms blocks in which account 1 is rich.
fn genesis_named(name: &str) -> Genesis {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let params = ParamStore::open(dir.path().join("params")).expect("opens");
    let size = SectorSize::Kib2;
    let mut keys: Vec<CircuitKey> = [CircuitId::porep(size), CircuitId::window(size)]
        .into_iter()
        .map(|circuit| CircuitKey {
            circuit,
            insecure: true,
            vk: params
                .verifying_key_bytes(circuit, &prover::NoProgress)
                .expect("a small key is made in seconds"),
        })
        .collect();
    keys.sort_by_key(|key| key.circuit);
    Genesis {
        version: GENESIS_VERSION,
        chain_name: name.to_owned(),
        kind: NetworkKind::Devnet,
        time_ms: 1_700_000_000_000,
        clock: ClockMode::Logical { epoch_ms: 20 },
        params: ChainParams {
            sector_sizes: vec![size],
            ..ChainParams::devnet()
        },
        accounts: [(address(1), TokenAmount::from_tokens(100_000_000))].into(),
        validators: vec![Validator {
            id: ValidatorId(key(200).verifying_key().to_bytes()),
            power: 1,
        }],
        beacons: vec![BeaconParams::devnet(&beacon(), 1_700_000_000)],
        keys,
    }
}

fn beacon() -> DevnetSigner {
    DevnetSigner::from_seed(&[9; 32])
}

fn open(genesis: &Genesis) -> (tempfile::TempDir, Arc<Ledger>, Arc<Mempool>) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let ledger = Ledger::open(&dir.path().join("chain"), genesis, Arc::new(NoProofs));
    let ledger = Arc::new(ledger.expect("opens"));
    let mempool = Arc::new(Mempool::new(ledger.chain_id()));
    (dir, ledger, mempool)
}

/// Nodes of one chain that make no blocks, so that what their pools take stays there.
pub(crate) fn still_nodes(count: usize) -> Vec<(tempfile::TempDir, Arc<Ledger>, Arc<Mempool>)> {
    let genesis = genesis_named("still");
    (0..count).map(|_| open(&genesis)).collect()
}

/// A chain that makes blocks.
pub(crate) fn bed_named(name: &str) -> Bed {
    bed_of(&genesis_named(name))
}

/// One whose account 1 has so many tokens, and that keeps its beacons for as long as any test runs.
pub(crate) fn bed_with_tokens(tokens: u64) -> Bed {
    let mut genesis = genesis_named("rich");
    genesis.accounts = [(address(1), TokenAmount::from_tokens(tokens))].into();
    genesis.params.ticket_max_age = EpochCount(100_000);
    bed_of(&genesis)
}

/// One of 200 ms blocks, for transactions that live for few of them.
pub(crate) fn bed_of_slow_blocks() -> Bed {
    let mut genesis = genesis_named("slow");
    genesis.clock = ClockMode::Logical { epoch_ms: 200 };
    bed_of(&genesis)
}

/// One of such blocks that does not take the transactions of who cannot pay for them.
pub(crate) fn bed_with_fees(epoch_ms: u64) -> Bed {
    let mut genesis = genesis_named("fees");
    genesis.clock = ClockMode::Logical { epoch_ms };
    genesis.params.fee_base = TokenAmount(1);
    bed_of(&genesis)
}

/// One that verifies with these keys.
pub(crate) fn bed_with_keys(keys: Vec<(CircuitId, Vec<u8>)>) -> Bed {
    let mut genesis = genesis_named("keys");
    let key = |(circuit, vk)| CircuitKey {
        circuit,
        insecure: true,
        vk,
    };
    genesis.keys = keys.into_iter().map(key).collect();
    genesis.keys.sort_by_key(|key| key.circuit);
    bed_of(&genesis)
}

fn bed_of(genesis: &Genesis) -> Bed {
    let (dir, ledger, mempool) = open(genesis);
    let keys = solo::Keys {
        validator: key(200),
        beacon: Box::new(beacon()),
    };
    let engine = solo::start(Arc::clone(&ledger), Arc::clone(&mempool), keys).expect("starts");
    Bed {
        _dir: dir,
        ledger,
        mempool,
        engine: Arc::new(engine),
    }
}

impl Bed {
    pub(crate) async fn serve(&self, port: u16, faucet: Option<SigningKey>) -> RpcHandle {
        let addr = SocketAddr::from(([127, 0, 0, 1], port));
        self.serve_at(addr, faucet).await
    }

    /// At [`own_host`], for a server that stops and is started again.
    pub(crate) async fn serve_at(&self, addr: SocketAddr, faucet: Option<SigningKey>) -> RpcHandle {
        let node = Node {
            ledger: Arc::clone(&self.ledger),
            mempool: Arc::clone(&self.mempool),
            engine: Arc::clone(&self.engine),
            faucet,
            fellows: fellows::Fellows::default(),
            gossip: None,
        };
        serve(node, addr).await.expect("serves")
    }
}

/// An address of this machine that no other test of this process uses, where the system has more than one, and any port there: once
/// let go it is nobody's who asks for any port of 127.0.0.1.
pub(crate) fn own_host() -> SocketAddr {
    static HOSTS: AtomicU8 = AtomicU8::new(0);
    let nth = HOSTS.fetch_add(1, Ordering::Relaxed);
    let host = match cfg!(target_os = "linux") {
        true => [127, 7, nth, 1],
        false => [127, 0, 0, 1],
    };
    SocketAddr::from((host, 0))
}

#[tokio::test(flavor = "multi_thread")]
async fn money_moves_and_every_block_is_told_once_even_across_a_restart_of_the_server() {
    let bed = bed();
    let server = bed.serve_at(own_host(), Some(key(1))).await;
    let addr = server.addr();
    let client = ChainClient::connect(&server.url()).await.expect("connects");
    assert_eq!(
        client.genesis().await.expect("reads").chain_id(),
        client.chain_id()
    );

    let mut events = client.subscribe_events(1);
    client
        .faucet(&address(2), TokenAmount(1_000))
        .await
        .expect("given");
    let transfer = Message::Transfer {
        to: address(3),
        amount: TokenAmount(10),
    };
    let begun = Instant::now();
    let receipt = loop {
        // Account 2 has money once the faucet's block is there.
        if client.account(&address(2)).await.expect("reads").free == TokenAmount(1_000) {
            break client
                .execute(&key(2), vec![transfer.clone()])
                .await
                .expect("succeeds");
        }
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "the faucet's transfer never came"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(receipt.succeeded());
    assert_eq!(
        client.account(&address(3)).await.expect("reads").free,
        TokenAmount(10)
    );

    server.stop().await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let server = bed.serve_at(addr, None).await;
    assert!(client.head().await.expect("reconnects").height > 0);

    let mut next = 1;
    let mut transfers = 0;
    let end = client.head().await.expect("reads").height;
    while next <= end {
        let block = events.recv().await.expect("the stream goes on");
        assert_eq!(block.head.height, next, "each block once, in order");
        transfers += block.receipts.len();
        next += 1;
    }
    assert!(transfers >= 2, "both transfers were told");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_transaction_names_the_rule_and_a_lost_one_is_sent_again() {
    let bed = bed();
    let server = bed.serve(0, None).await;
    let client = ChainClient::connect(&server.url()).await.expect("connects");
    let too_much = Message::Transfer {
        to: address(3),
        amount: TokenAmount(u128::MAX),
    };
    let error = client
        .execute(&key(1), vec![too_much])
        .await
        .expect_err("not that rich");
    assert!(matches!(error, ChainError::Failed { .. }), "{error}");

    // Signed and never submitted: waiting for it submits it.
    let head = client.head().await.expect("reads");
    let nonce = client.account(&address(1)).await.expect("reads").next_nonce;
    let message = Message::Transfer {
        to: address(4),
        amount: TokenAmount(5),
    };
    let tx = sign(
        client.tx(address(1), nonce, head.height, vec![message]),
        &key(1),
    );
    assert!(client.wait_tx(&tx).await.expect("included").succeeded());
    // And again: it is one transaction.
    client.submit(&tx).await.expect("harmless");
    assert_eq!(
        client.account(&address(4)).await.expect("reads").free,
        TokenAmount(5)
    );

    let mut expired = client.tx(address(1), nonce + 1, 0, vec![]);
    expired.valid_until_height = 1;
    expired.msgs = vec![Message::MarketWithdraw {
        amount: TokenAmount(1),
    }];
    let error = client
        .wait_tx(&sign(expired, &key(1)))
        .await
        .expect_err("too late");
    assert!(matches!(error, ChainError::Expired(_)), "{error}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_refused_in_words_and_the_server_goes_on() {
    let bed = bed();
    let server = bed.serve(0, None).await;
    let raw = WsClientBuilder::new()
        .max_request_size(8 << 20)
        .build(server.url())
        .await
        .expect("connects");
    let refused = async |method: &str, params: serde_json::Value| {
        let list: Vec<serde_json::Value> = params.as_array().expect("a list").clone();
        let mut builder = jsonrpsee::core::params::ArrayParams::new();
        for item in list {
            builder.insert(item).expect("serialises");
        }
        let answer: Result<serde_json::Value, _> = raw.request(method, builder).await;
        answer.expect_err(method).to_string()
    };
    use serde_json::json;
    for (method, params, word) in [
        ("hf_nothing", json!([]), "not found"),
        ("hf_account", json!(["hf1nonsense"]), "Invalid params"),
        ("hf_account", json!([]), "Invalid params"),
        ("hf_deal", json!(["00"]), "Invalid params"),
        ("hf_providers", json!([null, -1]), "Invalid params"),
        ("hf_submit", json!(["zz"]), "hex"),
        ("hf_submit", json!(["00"]), "bytes"),
        ("hf_submit", json!(["ff".repeat(1000)]), "transaction"),
        ("hf_randomness", json!([9, 1, 1000]), "tags are 1 to 4"),
        (
            "hf_randomness",
            json!([1, 1_000_000_000u64, 1000]),
            "beacon",
        ),
        ("hf_holdClock", json!([4242, 0, 1000]), "no provider"),
        ("hf_deadlines", json!([4242]), "no provider"),
        ("hf_faucet", json!([address(2), "5"]), "no faucet"),
        ("light_block", json!(["x"]), "Invalid params"),
        ("light_state", json!([null, ["zz"]]), "hex"),
        (
            "light_state",
            json!([null, vec!["01"; light::MAX_BATCH_LEAVES + 1]]),
            "at most",
        ),
        ("light_receipt", json!(["00"]), "Invalid params"),
    ] {
        let answer = refused(method, params).await;
        assert!(
            answer.contains(word),
            "{method}: expected {word:?} in {answer:?}"
        );
    }
    let numbers: Vec<u64> = (0..=crate::chain::MAX_PICTURE_ENTRIES as u64).collect();
    let answer = refused(
        "hf_providerPicture",
        json!([1000, { "deals": [], "sectors": numbers }]),
    )
    .await;
    assert!(answer.contains("at most"), "{answer}");

    // Far beyond the longest request: refused without being read into memory, and others are served on.
    let long = "00".repeat(3 << 20);
    let answer: Result<serde_json::Value, _> = raw.request("hf_submit", rpc_params![long]).await;
    assert!(answer.is_err());
    let client = ChainClient::connect(&server.url())
        .await
        .expect("still serves");
    assert_eq!(client.providers().await.expect("reads").len(), 0);
    assert_eq!(client.deal(&DealId([1; 32])).await.expect("reads"), None);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_notices_that_nobody_or_another_chain_is_there() {
    let (bed, other_bed) = (bed(), bed_named("another"));
    let server = bed.serve_at(own_host(), None).await;
    let addr = server.addr();
    let client = ChainClient::connect(&server.url()).await.expect("connects");
    server.stop().await;
    let error = client.head().await.expect_err("nobody answers");
    assert!(error.is_transient(), "{error}");

    let other = other_bed.serve_at(addr, None).await;
    let error = client.head().await.expect_err("another chain");
    assert!(matches!(error, ChainError::OtherChain { .. }), "{error}");
    assert_ne!(client.chain_id(), ChainId::default());
    other.stop().await;
}
