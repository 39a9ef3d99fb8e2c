//! Bounded runs of the fuzz targets' bodies on stable (threat P17). `prover/fuzz` runs the same functions with libFuzzer.
//!
//! Pure random bytes rarely get past the first check, so each target is also fed damaged copies of valid input.

#![cfg(feature = "prove")]

use proptest::prelude::*;
use prover::fuzz;
use prover::piece::PieceInfo;
use prover::piece::cid::piece_v2;
use prover::piece::commp::commp_of;
use prover::piece::inclusion::LeafProof;
use prover::verify::{CircuitId, VerifyingKeys};
use prover::{CommR, ProverId, RegisteredSeal, SectorSize};

/// One change to a valid input: replace, insert or remove a byte.
fn damage(bytes: &[u8], at: usize, kind: u8, byte: u8) -> Vec<u8> {
    let mut changed = bytes.to_vec();
    let at = at % (changed.len() + 1);
    match kind % 3 {
        0 if at < changed.len() => changed[at] = byte,
        1 if at < changed.len() => drop(changed.remove(at)),
        _ => changed.insert(at, byte),
    }
    changed
}

fn piece() -> (Vec<u8>, PieceInfo) {
    let data: Vec<u8> = (0..1000u32).map(|i| (i * 7).to_le_bytes()[0]).collect();
    let (comm_p, size) = commp_of(&data);
    (data, PieceInfo { comm_p, size })
}

proptest! {
    #[test]
    fn tm_p17_random_bytes(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        fuzz::cid(&bytes);
        fuzz::names(&bytes);
        fuzz::stored(&bytes);
        fuzz::padding(&bytes);
        fuzz::leaf_proof(&bytes);
        fuzz::vector_file(&bytes);
        fuzz::proof_bytes(&bytes);
        fuzz::verifying_key(&bytes);
        fuzz::circuit_name(&bytes);
        fuzz::proving_key(&bytes);
        fuzz::key_record(&bytes);
        fuzz::front_door_without_keys(&bytes);
    }

    #[test]
    fn tm_p17_damaged_texts(at: usize, kind: u8, byte in prop::sample::select(b"abcdefz01234567890KMGiBV_-+ ".to_vec())) {
        let (_, piece) = piece();
        let texts = [
            piece.comm_p.to_cid(),
            CommR([7; 32]).to_cid(),
            piece_v2(&piece, 1000).expect("its payload"),
            ProverId([0xab; 32]).to_string(),
            SectorSize::Mib8.to_string(),
            RegisteredSeal::v1_1(SectorSize::Gib32).to_string(),
            "18446744073709551615".to_owned(),
        ];
        for text in texts {
            let changed = damage(text.as_bytes(), at, kind, byte);
            fuzz::cid(&changed);
            fuzz::names(&changed);
        }
    }

    #[test]
    fn tm_p17_damaged_bytes(at: usize, kind: u8, byte: u8) {
        let (data, piece) = piece();
        let proof = LeafProof::of(&piece, 3..9, &data[..]).expect("an honest proof");
        fuzz::leaf_proof(&damage(&borsh::to_vec(&proof).expect("writing to memory"), at, kind, byte));
        fuzz::stored(&damage(&borsh::to_vec(&piece).expect("writing to memory"), at, kind, byte));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// One byte anywhere in the small groups of the real file.
    #[test]
    fn tm_p17_damaged_vector_files(group in 0usize..14, at: usize, kind: u8, byte in prop::sample::select(b"0123456789abf\"[]{},:-.eE ".to_vec())) {
        let file = fixtures::json("vectors/filecoin.json");
        let groups = file["small_vectors"].as_object().expect("an object");
        let (name, list) = groups.iter().nth(group % groups.len()).expect("a group of that number");
        let one = serde_json::json!({ "small_vectors": { name: [list[0]] } });
        fuzz::vector_file(&damage(one.to_string().as_bytes(), at, kind, byte));
    }
}

/// Filecoin's own keys and proofs from the golden set: the real thing to damage.
fn golden() -> (CircuitId, Vec<u8>, Vec<u8>) {
    let file = fixtures::json("vectors/filecoin.json");
    let sector = &file["sectors"]["2KiB"];
    let bytes = |value: &serde_json::Value| hex::decode(value.as_str().expect("hex")).expect("hex");
    let key = bytes(&sector["window_vk"]);
    let proof = bytes(&sector["post"][0]["window"]["proof"]);
    (CircuitId::window(SectorSize::Kib2), key, proof)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// One byte anywhere in a real key and a real proof; and the front door with that real key.
    #[test]
    fn tm_p17_damaged_proofs_and_keys(at: usize, kind: u8, byte: u8, statement: [u8; 32]) {
        let (circuit, key, proof) = golden();
        fuzz::proof_bytes(&damage(&proof, at, kind, byte));
        fuzz::verifying_key(&damage(&key, at, kind, byte));
        fuzz::circuit_name(&damage(circuit.to_string().as_bytes(), at, kind, byte));
        let keys = VerifyingKeys::from_vk_bytes([(circuit, &key[..])]).expect("Filecoin's key");
        let mut bytes = [statement; 5].concat();
        // A window of one sector at 2 KiB, whose commitment is canonical.
        bytes[..3].copy_from_slice(&[1, 0, 1]);
        bytes[127] &= 0x3f;
        bytes.extend(&proof);
        fuzz::front_door(&keys, &bytes);
        fuzz::front_door(&keys, &damage(&bytes, 160 + at % 192, kind, byte));
    }
}

#[test]
fn the_sound_key_files_read() {
    fuzz::sound_key_files_read();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    /// One byte of a sound `.params` file or of a record changed, and either cut.
    #[test]
    fn tm_p17_tm_s3_damaged_key_files(at: usize, kind: u8, byte: u8, cut: bool) {
        for (sound, body) in [
            (fuzz::small_params(), fuzz::proving_key as fn(&[u8])),
            (&fuzz::fitting_record()[..], fuzz::key_record as fn(&[u8])),
        ] {
            body(sound);
            body(&damage(sound, at, kind, byte));
            if cut {
                body(&sound[..at % sound.len()]);
            }
        }
    }

    /// A byte of a record that stays text, so that more of them are read as JSON.
    #[test]
    fn tm_p17_damaged_key_records(at: usize, kind: u8, byte in prop::sample::select(b"0123456789abf\"{},:-.eE ".to_vec())) {
        fuzz::key_record(&damage(&fuzz::fitting_record(), at, kind, byte));
    }
}
