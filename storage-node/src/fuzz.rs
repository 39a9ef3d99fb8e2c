//! Bodies of the fuzz targets: plain functions from bytes to nothing that panic when a decoder breaks its promise.
//!
//! Everything that this crate reads from a peer, a chain or a disk and decodes itself. `fuzz/` beside this crate calls
//! them with libFuzzer; the bounded tests below and those beside each decoder call the same functions (threat P17).
//! What the lower crates decode has its bodies there.

use borsh::{BorshDeserialize, BorshSerialize};
use chain_lite::codec;
use chain_lite::datacap::DataCap;
use chain_lite::message::SignedProposal;
use chain_lite::params::ChainParams;
use chain_lite::units::Epoch;
use prover::SectorNumber;
use prover::verify::VerifyingKeys;
use retrieval::wire::MAX_PROPOSAL_BYTES;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use crate::chain::gossip::fuzz_stream as fuzz_gossip_stream;
pub use crate::chain::proven::fuzz_trust;
pub use crate::cli::governance::fuzz_lines as fuzz_governance_lines;
pub use crate::client::get::fuzz_safe_name;
pub use crate::client::record::fuzz_records;
pub use crate::identity::fuzz_key_text;
pub use crate::object::ack::fuzz_verify as fuzz_ack;
pub use crate::object::manifest::fuzz_decode as fuzz_manifest;
pub use crate::provider::ask::fuzz_ask;
pub use crate::provider::journal::fuzz_record as fuzz_journal_record;
pub use crate::provider::slot::fuzz_words as fuzz_slot_words;
pub use crate::relay::client::fuzz_answer as fuzz_relay_answer;
#[cfg(feature = "bft")]
pub use crate::validator::{fuzz_card, fuzz_network};

use crate::chain;
use crate::cli::prover::file::ProofFile;
use crate::devnet::{self, DevnetConfig, Endpoints};
use crate::provider::control::ControlFile;
use crate::provider::enrol::ProviderSettings;
use crate::provider::lifecycle::{DealRecord, SectorRecord};
use crate::provider::status::ProviderStatus;

/// Any bytes as a proof file: refused, or a value that is the same after being written and read; its verification is calm.
pub fn fuzz_proof_file(bytes: &[u8]) {
    let Ok(file) = serde_json::from_slice::<ProofFile>(bytes) else {
        return;
    };
    let written = serde_json::to_vec(&file).expect("plain fields serialise");
    assert_eq!(
        serde_json::from_slice::<ProofFile>(&written).ok().as_ref(),
        Some(&file)
    );
    let keys = VerifyingKeys::from_vk_bytes([]).expect("no key is a sound set of keys");
    assert!(
        file.verify(&keys).is_err(),
        "there is no key for {}",
        file.circuit()
    );
}

/// Any bytes as the file by which a running provider is found: refused, or written and read back the same.
pub fn fuzz_control_file(bytes: &[u8]) {
    if let Ok(file) = serde_json::from_slice::<ControlFile>(bytes) {
        let written = serde_json::to_vec(&file).expect("plain fields serialise");
        let again: ControlFile = serde_json::from_slice(&written).expect("just written");
        assert_eq!((again.pid, again.addr), (file.pid, file.addr));
    }
}

/// Any bytes as a provider's settings: refused, or written and read back the same.
pub fn fuzz_settings(bytes: &[u8]) {
    if let Ok(settings) = serde_json::from_slice::<ProviderSettings>(bytes) {
        let written = serde_json::to_vec(&settings).expect("plain fields serialise");
        assert_eq!(
            serde_json::from_slice::<ProviderSettings>(&written)
                .ok()
                .as_ref(),
            Some(&settings)
        );
    }
}

/// Any bytes as the files by which a devnet is found and started again: refused, or the same after being written and read; and
/// whether they can be used is told calmly.
pub fn fuzz_devnet_files(bytes: &[u8]) {
    json::<Endpoints>(bytes);
    if let Some(config) = json::<DevnetConfig>(bytes) {
        let _ = devnet::check(&config);
    }
}

/// Any bytes as each answer that a node gives, and each question that it is asked, over JSON-RPC: refused, or the same after being
/// written and read.
pub fn fuzz_rpc(bytes: &[u8]) {
    json::<chain::Head>(bytes);
    json::<chain::ChainInfo>(bytes);
    json::<ChainParams>(bytes);
    json::<chain::AccountView>(bytes);
    json::<DataCap>(bytes);
    json::<chain::Page<chain::ProviderView>>(bytes);
    json::<chain::Page<chain::DealView>>(bytes);
    json::<chain::Page<chain::SectorView>>(bytes);
    json::<Vec<chain::PartitionView>>(bytes);
    json::<Option<chain::ProviderPicture>>(bytes);
    json::<Vec<chain::LeaseView>>(bytes);
    json::<Vec<chain::ValidatorView>>(bytes);
    json::<chain::NetworkView>(bytes);
    json::<Vec<Epoch>>(bytes);
    json::<chain::QuoteView>(bytes);
    json::<chain::Submitted>(bytes);
    json::<chain::TxStatus>(bytes);
    json::<chain::BlockEvents>(bytes);
    json::<chain::DealsOf>(bytes);
    json::<chain::PictureQuery>(bytes);
    json::<ProviderStatus>(bytes);
}

/// Any bytes as what a provider keeps of deals and sectors: refused, or the same after being written and read; and as the proposal
/// that a client sends with a piece: refused, or its one encoding, whose signature is judged calmly.
pub fn fuzz_provider_records(bytes: &[u8]) {
    stored::<SectorRecord>(bytes);
    stored::<DealRecord>(bytes);
    stored::<SectorNumber>(bytes);
    if let Ok(signed) = codec::decode::<SignedProposal>(bytes, MAX_PROPOSAL_BYTES) {
        assert_eq!(codec::encode(&signed), bytes, "two encodings of one value");
        let _ = signed.signature_holds();
    }
}

/// What bytes say as JSON; the same once it is written and read again.
fn json<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let value: T = serde_json::from_slice(bytes).ok()?;
    let written = serde_json::to_vec(&value).expect("plain fields serialise");
    let again: T = serde_json::from_slice(&written).expect("just written");
    let again = serde_json::to_vec(&again).expect("plain fields serialise");
    assert!(again == written, "JSON changes it");
    Some(value)
}

/// The same of bytes on a disk.
fn stored<T: BorshSerialize + BorshDeserialize>(bytes: &[u8]) {
    if let Ok(value) = T::try_from_slice(bytes) {
        let written = borsh::to_vec(&value).expect("in memory");
        let again = T::try_from_slice(&written).expect("just written");
        assert!(borsh::to_vec(&again).expect("in memory") == written);
    }
}

#[cfg(test)]
mod tests {
    use chain_lite::account::ChainId;
    use chain_lite::certificate::{Validator, ValidatorId, ValidatorSet};
    use chain_lite::light::Trusted;
    use chain_lite::units::TokenAmount;
    use proptest::prelude::*;

    use super::*;
    use crate::client::journal::Done;
    use crate::object::manifest::ObjectId;

    const BODIES: [fn(&[u8]); 17] = [
        fuzz_gossip_stream,
        fuzz_key_text,
        fuzz_ack,
        fuzz_manifest,
        fuzz_ask,
        fuzz_journal_record,
        fuzz_proof_file,
        fuzz_control_file,
        fuzz_settings,
        fuzz_trust,
        fuzz_records,
        fuzz_relay_answer,
        fuzz_governance_lines,
        fuzz_devnet_files,
        fuzz_rpc,
        fuzz_provider_records,
        fuzz_slot_words,
    ];

    fn proof_file() -> Vec<u8> {
        let zeros = "00".repeat(32);
        let text = serde_json::json!({
            "kind": "window", "size": "2KiB", "prover": zeros, "randomness": zeros,
            "sectors": [{ "number": 3, "comm_r": zeros }, { "number": 9, "comm_r": zeros }], "proof": "00ff",
        });
        text.to_string().into_bytes()
    }

    fn slot_words() -> Vec<u8> {
        format!("{} 4711\n", ChainId([5; 32])).into_bytes()
    }

    /// As a devnet of two validators writes it.
    fn endpoints() -> Vec<u8> {
        let id = "03".repeat(32);
        let text = serde_json::json!({
            "pid": 7, "chain_url": "ws://127.0.0.1:80", "config": DevnetConfig::default(),
            "providers": [{ "index": 0, "id": 1000, "quic": "x@127.0.0.1:81", "home": "/h", "running": true }],
            "fellows": [{ "number": 2, "pid": null, "id": id, "chain_url": "ws://127.0.0.1:82", "home": "/v" }],
            "kernels": null,
        });
        text.to_string().into_bytes()
    }

    /// Answers and questions of JSON-RPC.
    fn rpc() -> [Vec<u8>; 5] {
        let deal = "02".repeat(32);
        let texts = [
            serde_json::json!({ "status": "pending" }),
            serde_json::json!({ "provider": 1000 }),
            serde_json::json!([{ "provider": 1000, "left_ms": 9, "before": 12 }]),
            serde_json::json!({ "deals": [deal], "sectors": [3] }),
            serde_json::json!(ChainParams::devnet()),
        ];
        texts.map(|text| text.to_string().into_bytes())
    }

    fn relay_round() -> Vec<u8> {
        let signature = "ab".repeat(48);
        let text = serde_json::json!({ "round": 7, "randomness": "cd", "signature": signature });
        text.to_string().into_bytes()
    }

    /// A card and an approval, as `chain card` and `chain approve` print them.
    fn governance_lines() -> Vec<u8> {
        let (id, signature) = ("01".repeat(32), "02".repeat(64));
        let card = serde_json::json!({
            "id": id, "power": 1, "address": "/ip4/10.0.0.1/tcp/26600/p2p/x", "gossip": "10.0.0.1:26601",
        });
        let approval = serde_json::json!({
            "chain_id": id, "number": 3, "validator": id, "signature": signature,
        });
        format!("{card}\n\n{approval}\n").into_bytes()
    }

    /// A put's end and a trusted block with each byte changed, and cut at each.
    #[test]
    fn tm_p17_records_are_calm_on_every_damage() {
        let done = Done::new(ObjectId([1; 32]), TokenAmount(1 << 70));
        let validator = Validator {
            id: ValidatorId([3; 32]),
            power: 1,
        };
        let set = ValidatorSet::new(vec![validator]).expect("one validator");
        let trusted = Trusted::genesis(ChainId([4; 32]), 5, set);
        for sound in [borsh::to_vec(&done), borsh::to_vec(&trusted)] {
            let sound = sound.expect("in memory");
            for at in 0..sound.len() {
                let mut bent = sound.clone();
                bent[at] ^= 1 << (at % 8);
                for bytes in [&bent[..], &sound[..at], &sound[..]] {
                    fuzz_records(bytes);
                    fuzz_trust(bytes);
                }
            }
        }
    }

    /// The damaged copies below are copies of something that reads.
    #[test]
    fn the_sound_texts_read() {
        let file: ProofFile = serde_json::from_slice(&proof_file()).expect("a proof file");
        assert_eq!(file.circuit().to_string(), "window-2KiB");
        let control = br#"{"pid": 7, "addr": "127.0.0.1:80", "token": "t"}"#;
        assert!(serde_json::from_slice::<ControlFile>(control).is_ok());
        assert!(json::<Endpoints>(&endpoints()).is_some());
        let config = serde_json::to_vec(&DevnetConfig::default()).expect("plain fields serialise");
        assert!(json::<DevnetConfig>(&config).is_some());
        let [status, of, leases, query, params] = rpc();
        assert!(json::<chain::TxStatus>(&status).is_some());
        assert!(json::<chain::DealsOf>(&of).is_some());
        assert!(json::<Vec<chain::LeaseView>>(&leases).is_some());
        assert!(json::<chain::PictureQuery>(&query).is_some());
        assert!(json::<ChainParams>(&params).is_some());
    }

    proptest! {
        #[test]
        fn tm_p17_every_body_holds_on_noise(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            BODIES.iter().for_each(|body| body(&bytes));
            if let Ok(text) = std::str::from_utf8(&bytes) {
                fuzz_safe_name(text);
            }
        }

        #[test]
        fn tm_p17_every_body_holds_on_damaged_json(at: prop::sample::Index, with: u8, cut: bool) {
            let control = br#"{"pid": 7, "addr": "127.0.0.1:80", "token": "t"}"#.to_vec();
            let texts = [proof_file(), control, relay_round(), governance_lines(), endpoints(), slot_words()];
            for sound in texts.into_iter().chain(rpc()) {
                let mut bytes = sound;
                let at = at.index(bytes.len());
                if cut {
                    bytes.truncate(at);
                } else {
                    bytes[at] = with;
                }
                BODIES.iter().for_each(|body| body(&bytes));
            }
        }
    }
}
