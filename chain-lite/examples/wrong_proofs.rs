//! Measures what the worst block costs: as many proofs as a block may have, and none of them holds (`threat-model.md` V6).
//!
//! `cargo run --release -p chain-lite --example wrong_proofs`. The proofs are PoReps that decode: a Filecoin proof of another
//! statement, over the verifying keys of the golden vectors. Beside it blocks with one proof and with none, and the case in which a
//! batch is of no use: all proofs are for one sector, so that only the first is asked for until it turns out wrong.

use std::collections::BTreeMap;
use std::time::Instant;

use chain_lite::account::{Address, ChainId, NetKey, ProviderId};
use chain_lite::audit::Groth16Verifier;
use chain_lite::block::MAX_BLOCK_PROOFS;
use chain_lite::execute::{Applied, BlockCtx, ProofVerifier, apply, genesis_writes};
use chain_lite::message::{CheckedTx, Message, TX_VERSION, Tx, sign};
use chain_lite::params::ChainParams;
use chain_lite::proofs::apply_together;
use chain_lite::query;
use chain_lite::state::MemoryState;
use chain_lite::units::{Epoch, EpochCount, TokenAmount};
use ed25519_dalek::SigningKey;
use prover::piece::layout;
use prover::snark::CircuitId;
use prover::verify::VerifyingKeys;
use prover::{CommR, SectorNumber, SectorSize};
use sha2::{Digest, Sha256};

const SIZE: SectorSize = SectorSize::Kib2;
const CHAIN: ChainId = ChainId([7; 32]);
/// So many that the sectors of each fit into its partitions if all proofs are taken.
const PROVIDERS: u64 = 32;
const SECTORS: u64 = MAX_BLOCK_PROOFS / PROVIDERS;
const RICH: TokenAmount = TokenAmount::from_tokens(50_000_000);

fn key(n: u64) -> SigningKey {
    SigningKey::from_bytes(&Sha256::digest(n.to_le_bytes()).into())
}

/// The `n`th proof of the points of these: it decodes, and proves nothing.
fn mixed(proofs: &[Vec<u8>], n: usize) -> Vec<u8> {
    let many = proofs.len();
    let [a, b, c] = [n, n / many, n / many / many].map(|n| &proofs[n % many]);
    let mut proof = [&a[..48], &b[48..144], &c[144..]].concat();
    // The sign of the first point.
    proof[0] ^= 0x20 * u8::from(n / many / many / many % 2 == 1);
    proof
}

struct World {
    state: MemoryState,
    epoch: Epoch,
}

impl World {
    fn context(&self) -> BlockCtx {
        let epoch = self.epoch.next();
        BlockCtx {
            chain_id: CHAIN,
            height: epoch.0,
            round: 0,
            epoch,
            beacons: vec![(epoch, Sha256::digest(epoch.0.to_le_bytes()).into())],
        }
    }

    fn tx(&self, from: u64, ahead: u64, msg: Message) -> CheckedTx {
        let sender = Address::of(&key(from).verifying_key());
        let account = query::account(&self.state, &sender).expect("memory");
        let tx = Tx {
            version: TX_VERSION,
            chain_id: CHAIN,
            sender,
            nonce: account.nonce + ahead,
            fee_limit: TokenAmount(u128::MAX),
            valid_until_height: u64::MAX,
            msgs: vec![msg],
        };
        sign(tx, &key(from)).check(&CHAIN).expect("well made")
    }

    fn block(&mut self, txs: &[CheckedTx], verifier: &dyn ProofVerifier) {
        let ctx = self.context();
        let applied = apply(&self.state, &ctx, txs, verifier).expect("continues the chain");
        let failed = applied.receipts.iter().find(|r| !r.succeeded());
        assert!(failed.is_none(), "{failed:?}");
        self.state.commit(&applied.writes);
        self.epoch = ctx.epoch;
    }
}

fn main() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../fixtures/vectors/filecoin.json"
    );
    let text = std::fs::read(path).expect("the golden vectors are in the tree");
    let vectors: serde_json::Value = serde_json::from_slice(&text).expect("they are JSON");
    let sector = &vectors["sectors"]["2KiB"];
    let bytes = |name: &str| hex::decode(sector[name].as_str().expect("hex")).expect("hex");
    let keys = [(CircuitId::porep(SIZE), bytes("porep_vk"))];
    let keys = VerifyingKeys::from_vk_bytes(keys.iter().map(|(c, k)| (*c, &k[..]))).expect("a key");
    let verifier = Groth16Verifier::new(keys);
    let proofs: Vec<Vec<u8>> = ["2KiB", "8MiB"]
        .iter()
        .flat_map(|size| {
            vectors["sectors"][size]["commit"]
                .as_array()
                .expect("a list")
        })
        .map(|case| hex::decode(case["c2_proof"].as_str().expect("hex")).expect("hex"))
        .collect();
    let proof = mixed(&proofs, 0);

    let owners = (0..PROVIDERS).map(|n| Address::of(&key(n).verifying_key()));
    let accounts: BTreeMap<_, _> = owners.map(|owner| (owner, RICH)).collect();
    let params = ChainParams::devnet();
    let mut state = MemoryState::default();
    state.commit(&genesis_writes(&params, &accounts).expect("a sound genesis"));
    let mut world = World {
        state,
        epoch: Epoch(0),
    };

    let register = |n| Message::RegisterProvider {
        worker: Address::of(&key(n).verifying_key()),
        net_key: NetKey([1; 32]),
        addrs: vec!["127.0.0.1:4001".into()],
        sector_size: SIZE,
        deposit: TokenAmount::from_tokens(40_000_000),
    };
    let txs: Vec<_> = (0..PROVIDERS)
        .map(|n| world.tx(n, 0, register(n)))
        .collect();
    world.block(&txs, &verifier);
    let all = query::providers(&world.state, None, PROVIDERS as usize).expect("memory");
    let ids: BTreeMap<Address, ProviderId> = all.into_iter().map(|p| (p.owner, p.id)).collect();
    let id = |n| ids[&Address::of(&key(n).verifying_key())];
    let now = world.epoch.next();
    let least = now
        .after(params.precommit_max)
        .after(params.min_sector_life);
    let precommit = |n: u64, sector: u64| {
        let mut comm_r: [u8; 32] =
            Sha256::digest([n.to_le_bytes(), sector.to_le_bytes()].concat()).into();
        comm_r[31] &= 0x3f;
        Message::PreCommit {
            provider: id(n),
            sector: SectorNumber(sector),
            comm_r: CommR(comm_r),
            comm_d: layout::comm_d(&[], SIZE).expect("an empty sector"),
            ticket_epoch: now.before(EpochCount(1)),
            expiration: least.after(EpochCount(600)),
            deals: vec![],
        }
    };
    let each = || (0..PROVIDERS).flat_map(|n| (0..SECTORS).map(move |sector| (n, sector)));
    let txs: Vec<_> = each()
        .map(|(n, sector)| world.tx(n, sector, precommit(n, sector)))
        .collect();
    world.block(&txs, &verifier);
    for _ in 0..params.seed_delay.0 {
        world.block(&[], &verifier);
    }
    let of_one: Vec<CheckedTx> = (0..MAX_BLOCK_PROOFS)
        .map(|ahead| {
            let msg = Message::ProveCommit {
                provider: id(0),
                sector: SectorNumber(0),
                proof: mixed(&proofs, ahead as usize),
            };
            world.tx(0, ahead, msg)
        })
        .collect();
    let claim = |(n, sector): (u64, u64)| {
        let msg = Message::ProveCommit {
            provider: id(n),
            sector: SectorNumber(sector),
            proof: proof.clone(),
        };
        world.tx(n, sector, msg)
    };
    let all: Vec<CheckedTx> = each().map(claim).collect();
    let ctx = world.context();
    for (what, txs) in [
        ("of nobody", &all[..0]),
        ("of one sector", &all[..1]),
        ("of as many sectors", &all[..]),
        ("of one sector", &of_one[..]),
    ] {
        let begun = Instant::now();
        let together: Applied =
            apply_together(&world.state, &ctx, txs, &verifier).expect("applies");
        let batch = begun.elapsed();
        let begun = Instant::now();
        let singly = apply(&world.state, &ctx, txs, &verifier).expect("applies");
        let alone = begun.elapsed();
        assert_eq!(together, singly, "one block, one outcome");
        let refused = together.receipts.iter().filter(|r| !r.succeeded()).count();
        assert_eq!(refused, txs.len(), "no proof holds");
        println!(
            "{} wrong proofs {what}: {:.1} ms as the ledger applies them, {:.1} ms one by one",
            txs.len(),
            batch.as_secs_f64() * 1e3,
            alone.as_secs_f64() * 1e3,
        );
    }
}
