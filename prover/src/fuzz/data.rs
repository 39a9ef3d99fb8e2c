//! Decoders of texts and data: CIDs, hex ids, sizes, Fr32, leaf proofs, vector files.

use crate::commitment::{CommD, CommP, CommR};
use crate::ids::{PostRandomness, ProverId, ReplicaId, SectorNumber};
use crate::piece::fr32;
use crate::piece::inclusion::LeafProof;
use crate::piece::size::{PaddedPieceSize, UnpaddedPieceSize};
use crate::piece::{PieceInfo, cid};
use crate::spec::{RegisteredSeal, SectorSize};
use std::fmt::Display;
use std::str::FromStr;

/// Any text that reads as a CID of some kind is written back as that very text.
pub fn cid(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(comm_p) = cid::parse_comm_p(text) {
        assert_eq!(comm_p.to_cid(), text);
    }
    if let Ok(comm_d) = cid::parse_comm_d(text) {
        assert_eq!(comm_d.to_cid(), text);
    }
    if let Ok(comm_r) = cid::parse_comm_r(text) {
        assert_eq!(comm_r.to_cid(), text);
    }
    if let Ok(read) = cid::parse_piece_v2(text) {
        assert_eq!(
            cid::piece_v2(&read.piece, read.payload_bytes).as_deref(),
            Ok(text)
        );
    }
}

/// Any text that reads as an identifier, commitment, size or proof type is written back as that very text.
pub fn names(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    canonical::<ProverId>(text);
    canonical::<ReplicaId>(text);
    canonical::<PostRandomness>(text);
    canonical::<CommP>(text);
    canonical::<CommD>(text);
    canonical::<CommR>(text);
    canonical::<SectorNumber>(text);
    canonical::<SectorSize>(text);
    canonical::<RegisteredSeal>(text);
}

fn canonical<T: FromStr + Display>(text: &str) {
    if let Ok(value) = text.parse::<T>() {
        assert_eq!(value.to_string(), text);
    }
}

/// Any bytes that read as a stored value (borsh) are written back as those very bytes.
pub fn stored(bytes: &[u8]) {
    round_trip::<SectorSize>(bytes);
    round_trip::<RegisteredSeal>(bytes);
    round_trip::<PaddedPieceSize>(bytes);
    round_trip::<UnpaddedPieceSize>(bytes);
    round_trip::<PieceInfo>(bytes);
    round_trip::<PostRandomness>(bytes);
}

fn round_trip<T: borsh::BorshSerialize + borsh::BorshDeserialize>(bytes: &[u8]) {
    if let Ok(value) = borsh::from_slice::<T>(bytes) {
        assert_eq!(borsh::to_vec(&value).expect("writing to memory"), bytes);
    }
}

/// Padding is undone by unpadding; unpadding any bytes either fails or is undone by padding, but for a partial last node.
pub fn padding(bytes: &[u8]) {
    let padded = fr32::pad(bytes);
    let back = fr32::unpad(&padded).expect("what was padded");
    let common = back.len().min(bytes.len());
    assert_eq!(back[..common], bytes[..common]);
    let whole = &bytes[..bytes.len() / fr32::BLOCK_PADDED * fr32::BLOCK_PADDED];
    if let Ok(data) = fr32::unpad(whole) {
        assert_eq!(fr32::pad(&data), whole);
    }
}

/// Any bytes that read as a leaf proof are written back as those very bytes, and checking them is calm.
pub fn leaf_proof(bytes: &[u8]) {
    let Ok(proof) = LeafProof::decode(bytes) else {
        return;
    };
    assert_eq!(borsh::to_vec(&proof).expect("writing to memory"), bytes);
    let first = bytes.first().copied().map_or(0, u64::from);
    for size in [PaddedPieceSize::MIN, PaddedPieceSize::MAX] {
        let piece = PieceInfo {
            comm_p: CommP([0; 32]),
            size,
        };
        let end =
            first.saturating_add(u64::try_from(proof.leaves.len()).expect("bounded by decode"));
        assert!(
            proof.verify(&piece, first..end).is_err(),
            "nobody knows a preimage of zero"
        );
    }
}

/// Any bytes run as a vector file without panicking; nothing is sealed, because `sectors` is taken out.
#[cfg(feature = "prove")]
pub fn vector_file(bytes: &[u8]) {
    let Ok(mut file) = serde_json::from_slice::<serde_json::Value>(bytes) else {
        return;
    };
    if let Some(file) = file.as_object_mut() {
        file.remove("sectors");
    }
    let options = crate::vectors::Options {
        large: false,
        scratch: std::path::PathBuf::new(),
    };
    // A report or a refusal; both are fine, a panic is not.
    if let Ok(report) = crate::vectors::run(
        file.to_string().as_bytes(),
        &options,
        &crate::progress::NoProgress,
    ) {
        assert!(!report.to_string().is_empty());
    }
}
