//! Bodies of the fuzz targets: plain functions from bytes to nothing that panic when a decoder breaks its promise.
//!
//! Everything that this crate reads from a peer, a chain or a disk and decodes itself. `fuzz/` beside this crate calls
//! them with libFuzzer; the bounded tests below and those beside each decoder call the same functions (threat P17).
//! What the lower crates decode has its bodies there.

use prover::verify::VerifyingKeys;

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
pub use crate::relay::client::fuzz_answer as fuzz_relay_answer;
#[cfg(feature = "bft")]
pub use crate::validator::{fuzz_card, fuzz_network};

use crate::cli::prover::file::ProofFile;
use crate::provider::control::ControlFile;
use crate::provider::enrol::ProviderSettings;

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

    const BODIES: [fn(&[u8]); 13] = [
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
    ];

    fn proof_file() -> Vec<u8> {
        let zeros = "00".repeat(32);
        let text = serde_json::json!({
            "kind": "window", "size": "2KiB", "prover": zeros, "randomness": zeros,
            "sectors": [{ "number": 3, "comm_r": zeros }, { "number": 9, "comm_r": zeros }], "proof": "00ff",
        });
        text.to_string().into_bytes()
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
            for sound in [proof_file(), control, relay_round(), governance_lines()] {
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
