//! The ledger: a block of a thousand signed transfers and an empty block, as a node takes them: signatures checked on the way
//! into the pool, executed, state root, log fsynced, index updated.

use std::{
    cell::Cell,
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use chain_lite::{
    account::Address,
    audit::Groth16Verifier,
    beacon::{BeaconParams, DevnetSigner},
    certificate::{Certificate, Validator, ValidatorId},
    clock::ClockMode,
    genesis::{CircuitKey, GENESIS_VERSION, Genesis, NetworkKind},
    ledger::{Ledger, Slot},
    mempool::Mempool,
    message::{Message, SignedTx, Tx, sign},
    params::ChainParams,
    units::TokenAmount,
};
use criterion::{Criterion, Throughput};
use ed25519_dalek::SigningKey;
use prover::{SectorSize, verify::CircuitId};
use sha2::{Digest, Sha256};

use crate::support::slow;

const USERS: u64 = 1_000;
const TXS: u64 = 1_000;

struct Chain {
    ledger: Ledger,
    pool: Mempool,
    beacon: DevnetSigner,
    nonce: Cell<u64>,
    _home: tempfile::TempDir,
}

fn key(n: u64) -> SigningKey {
    SigningKey::from_bytes(&Sha256::digest(n.to_le_bytes()).into())
}

fn address(n: u64) -> Address {
    Address::of(&key(n).verifying_key())
}

fn validator() -> ValidatorId {
    ValidatorId(key(u64::MAX).verifying_key().to_bytes())
}

/// Verifying keys from the golden vectors: no proof is made or needed here.
fn circuit_keys() -> Vec<CircuitKey> {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../fixtures/vectors/filecoin.json"
    );
    let text = std::fs::read(path).expect("the golden vectors are in the tree");
    let vectors: serde_json::Value =
        serde_json::from_slice(&text).expect("the golden vectors are JSON");
    let vk = |circuit, name: &str| {
        let text = vectors["sectors"]["2KiB"][name].as_str().expect("a key");
        CircuitKey {
            circuit,
            insecure: true,
            vk: hex::decode(text).expect("hex"),
        }
    };
    let size = SectorSize::Kib2;
    vec![
        vk(CircuitId::porep(size), "porep_vk"),
        vk(CircuitId::window(size), "window_vk"),
    ]
}

impl Chain {
    fn new() -> Self {
        let beacon = DevnetSigner::from_seed(&[1; 32]);
        let genesis = Genesis {
            version: GENESIS_VERSION,
            chain_name: "benches".into(),
            kind: NetworkKind::Devnet,
            time_ms: 1,
            clock: ClockMode::Logical { epoch_ms: 1 },
            params: ChainParams {
                sector_sizes: vec![SectorSize::Kib2],
                ..ChainParams::devnet()
            },
            accounts: (0..USERS)
                .map(|n| (address(n), TokenAmount(1 << 60)))
                .collect::<BTreeMap<_, _>>(),
            validators: vec![Validator {
                id: validator(),
                power: 1,
            }],
            beacons: vec![BeaconParams::devnet(&beacon, 1)],
            keys: circuit_keys(),
        };
        let home = tempfile::tempdir().expect("a temporary folder");
        let keys = genesis.clone().check().expect("a genesis").keys().clone();
        let ledger = Ledger::open(home.path(), &genesis, Arc::new(Groth16Verifier::new(keys)))
            .expect("opened");
        Self {
            pool: Mempool::new(ledger.chain_id()),
            ledger,
            beacon,
            nonce: Cell::new(0),
            _home: home,
        }
    }

    fn transfers(&self) -> Vec<SignedTx> {
        let nonce = self.nonce.replace(self.nonce.get() + 1);
        let transfer = |from: u64| {
            let to = address((from + 7 * nonce + 1) % USERS);
            let tx = Tx {
                version: 1,
                chain_id: self.ledger.chain_id(),
                sender: address(from),
                nonce,
                fee_limit: TokenAmount(0),
                valid_until_height: u64::MAX,
                msgs: vec![Message::Transfer {
                    to,
                    amount: TokenAmount(1),
                }],
            };
            sign(tx, &key(from))
        };
        (0..TXS).map(|n| transfer(n % USERS)).collect()
    }

    fn submit(&self, txs: &[SignedTx]) {
        let (pool, ledger) = (&self.pool, &self.ledger);
        std::thread::scope(|scope| {
            for part in txs.chunks(txs.len().div_ceil(2)) {
                scope.spawn(move || {
                    for tx in part {
                        let (height, view) = (ledger.tip().height, ledger.view());
                        pool.submit(tx.clone(), height, &view).expect("accepted");
                    }
                });
            }
        });
    }

    fn block(&self) {
        let epoch = self.ledger.tip().epoch.next();
        let txs = self
            .pool
            .select(&self.ledger.view(), 16_384, 4 << 20, 256)
            .expect("selected");
        let beacons = vec![self.beacon.sign(epoch.0)];
        let (height, round) = (self.ledger.tip().height + 1, 0);
        let valid = self
            .ledger
            .build(Slot { height, round }, epoch, 0, beacons, txs)
            .expect("built");
        let certificate =
            Certificate::solo(&self.ledger.chain_id(), height, valid.id(), &key(u64::MAX));
        let ids: Vec<_> = valid.block().body.txs.iter().map(SignedTx::id).collect();
        self.ledger.commit(valid, certificate).expect("committed");
        self.pool
            .committed(height, &ids, &self.ledger.view())
            .expect("forgotten");
    }
}

pub fn bench(c: &mut Criterion) {
    let chain = Chain::new();
    let mut group = slow(c, "chain_lite::ledger", Throughput::Elements(TXS));
    group.bench_function("block/transfers=1000", |b| {
        b.iter_custom(|rounds| {
            let mut total = Duration::ZERO;
            for _ in 0..rounds {
                let txs = chain.transfers();
                let begin = Instant::now();
                chain.submit(&txs);
                chain.block();
                total += begin.elapsed();
            }
            total
        });
    });
    group.throughput(Throughput::Elements(1));
    group.bench_function("block/empty", |b| b.iter(|| chain.block()));
}
