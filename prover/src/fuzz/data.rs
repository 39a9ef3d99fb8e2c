//! Decoders of texts and data: CIDs, hex ids, sizes, Fr32, vector files.

use crate::commitment::CommP;
use crate::piece::inclusion::LeafProof;
use crate::piece::size::PaddedPieceSize;
use crate::piece::{PieceInfo, cid};

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
