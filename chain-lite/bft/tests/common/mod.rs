//! A chain of four equal validators with money for four users, for this crate's tests.

// Each of the programs that share this uses its own part.
#![allow(dead_code)]

use std::path::Path;
use std::sync::Arc;

use chain_lite::account::{Address, ChainId};
use chain_lite::audit::Groth16Verifier;
use chain_lite::beacon::{BeaconParams, DevnetSigner};
use chain_lite::certificate::{Validator, ValidatorId};
use chain_lite::clock::ClockMode;
use chain_lite::genesis::{CircuitKey, GENESIS_VERSION, Genesis, NetworkKind};
use chain_lite::ledger::Ledger;
use chain_lite::message::{Message, SignedTx, Tx, sign};
use chain_lite::params::ChainParams;
use chain_lite::units::TokenAmount;
use ed25519_dalek::SigningKey;
use prover::snark::CircuitId;
use prover::spec::SectorSize;

/// Milliseconds between blocks.
const EPOCH_MS: u64 = 50;

pub fn validator_key(n: usize) -> SigningKey {
    SigningKey::from_bytes(&[100 + n as u8; 32])
}
pub fn user(n: usize) -> SigningKey {
    let mut seed = [200; 32];
    seed[..8].copy_from_slice(&(n as u64).to_le_bytes());
    SigningKey::from_bytes(&seed)
}
pub fn beacon() -> DevnetSigner {
    DevnetSigner::from_seed(&[9; 32])
}

pub fn genesis() -> Genesis {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../fixtures/vectors/filecoin.json"
    );
    let text = std::fs::read(path).expect("vectors");
    let vectors: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    let vk = |circuit, name: &str| CircuitKey {
        circuit,
        insecure: true,
        vk: hex::decode(vectors["sectors"]["2KiB"][name].as_str().expect("hex")).expect("hex"),
    };
    let size = SectorSize::Kib2;
    let mut validators: Vec<Validator> = (0..4)
        .map(|n| Validator {
            id: ValidatorId(validator_key(n).verifying_key().to_bytes()),
            power: 1,
        })
        .collect();
    validators.sort_by_key(|v| v.id);
    let money = |n| {
        (
            Address::of(&user(n).verifying_key()),
            TokenAmount(1_000_000),
        )
    };
    Genesis {
        version: GENESIS_VERSION,
        chain_name: "four".into(),
        kind: NetworkKind::Devnet,
        time_ms: 1,
        clock: ClockMode::Logical { epoch_ms: EPOCH_MS },
        params: ChainParams {
            sector_sizes: vec![size],
            ..ChainParams::devnet()
        },
        accounts: (0..4).map(money).collect(),
        validators,
        beacons: vec![BeaconParams::devnet(&beacon(), 1)],
        keys: vec![
            vk(CircuitId::porep(size), "porep_vk"),
            vk(CircuitId::window(size), "window_vk"),
        ],
    }
}

pub fn open(home: &Path) -> Ledger {
    open_with(home, &genesis())
}

pub fn open_with(home: &Path, genesis: &Genesis) -> Ledger {
    let keys = genesis.clone().check().expect("genesis").keys().clone();
    let verifier = Arc::new(Groth16Verifier::new(keys));
    Ledger::open(home, genesis, verifier).expect("opens after any crash")
}

pub fn transfer(chain_id: ChainId, from: usize, nonce: u64) -> SignedTx {
    transfer_to(chain_id, from, nonce, (from + 1) % 4)
}

pub fn transfer_to(chain_id: ChainId, from: usize, nonce: u64, to: usize) -> SignedTx {
    let msgs = vec![Message::Transfer {
        to: Address::of(&user(to).verifying_key()),
        amount: TokenAmount(1),
    }];
    let tx = Tx {
        version: 1,
        chain_id,
        sender: Address::of(&user(from).verifying_key()),
        nonce,
        fee_limit: TokenAmount(0),
        valid_until_height: u64::MAX,
        msgs,
    };
    sign(tx, &user(from))
}
