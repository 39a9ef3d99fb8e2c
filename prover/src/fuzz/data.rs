//! Decoders of texts and data: CIDs, hex ids, sizes, Fr32, vector files.

use crate::piece::cid;

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
