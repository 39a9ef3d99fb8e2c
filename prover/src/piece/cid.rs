//! Text names of commitments: piece CID v1 and v2, unsealed and sealed sector CIDs.
//!
//! Spec: proofs.md §1.4 (multicodec table, FRC-0069). All are multibase `b` (RFC 4648 base32, lower case, no padding) of
//! binary CIDv1:
//!
//! | what | bytes |
//! |---|---|
//! | CommP, CommD | `01 81e203 9220 20 ‖ digest` |
//! | CommR | `01 82e203 81e802 20 ‖ digest` |
//! | piece v2 | `01 55 9120 ‖ uvarint(len) ‖ uvarint(padding) ‖ u8(height) ‖ root` |
//!
//! Reading accepts exactly one text per value: minimal varints, lower case, no leftover bytes or bits.

use crate::commitment::{CommD, CommP, CommR};
use crate::error::ParseError;
use crate::piece::PieceInfo;
use crate::piece::size::PaddedPieceSize;

const UNSEALED_PREFIX: [u8; 7] = [0x01, 0x81, 0xe2, 0x03, 0x92, 0x20, 0x20];
const SEALED_PREFIX: [u8; 8] = [0x01, 0x82, 0xe2, 0x03, 0x81, 0xe8, 0x02, 0x20];
const PIECE_V2_PREFIX: [u8; 4] = [0x01, 0x55, 0x91, 0x20];
/// Longest text we read: the v2 form has at most 4 + 1 + 9 + 1 + 32 bytes.
const MAX_TEXT: usize = 1 + 76;

/// A piece with the exact length of its payload: what CID v2 names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PieceWithPayload {
    /// Root and padded size.
    pub piece: PieceInfo,
    /// Bytes of raw data before zero-extension.
    pub payload_bytes: u64,
}

pub(crate) fn unsealed(digest: &[u8; 32]) -> String {
    encode(&[&UNSEALED_PREFIX, digest.as_slice()])
}

pub(crate) fn sealed(digest: &[u8; 32]) -> String {
    encode(&[&SEALED_PREFIX, digest.as_slice()])
}

/// Reads a piece CID v1.
pub fn parse_comm_p(text: &str) -> Result<CommP, ParseError> {
    parse_v1("piece CID", &UNSEALED_PREFIX, text).map(CommP)
}

/// Reads the CID of an unsealed sector.
pub fn parse_comm_d(text: &str) -> Result<CommD, ParseError> {
    parse_v1("unsealed sector CID", &UNSEALED_PREFIX, text).map(CommD)
}

/// Reads the CID of a sealed sector.
pub fn parse_comm_r(text: &str) -> Result<CommR, ParseError> {
    parse_v1("sealed sector CID", &SEALED_PREFIX, text).map(CommR)
}

/// Piece CID v2 (FRC-0069), which carries the payload's exact length.
///
/// Fails when `payload_bytes` is not a payload that this padded size would hold: larger, or so small that a smaller
/// piece would fit.
pub fn piece_v2(piece: &PieceInfo, payload_bytes: u64) -> Result<String, ParseError> {
    check_payload(piece.size, payload_bytes)?;
    let padding = piece.size.unpadded().bytes() - payload_bytes;
    let mut digest = Vec::with_capacity(42);
    put_uvarint(&mut digest, padding);
    digest.push(piece.size.height().to_le_bytes()[0]);
    digest.extend_from_slice(&piece.comm_p.0);
    let mut length = Vec::with_capacity(1);
    put_uvarint(
        &mut length,
        u64::try_from(digest.len()).expect("at most 42"),
    );
    Ok(encode(&[&PIECE_V2_PREFIX, &length, &digest]))
}

/// Reads a piece CID v2.
pub fn parse_piece_v2(text: &str) -> Result<PieceWithPayload, ParseError> {
    let fail = |why: &str| ParseError::new("piece CID v2", why);
    let bytes = decode("piece CID v2", text)?;
    let rest = bytes.strip_prefix(&PIECE_V2_PREFIX).ok_or_else(|| {
        fail("not a raw CIDv1 with multihash fr32-sha256-trunc254-padbintree (starts bafkzcib)")
    })?;
    let (length, digest) =
        take_uvarint(rest).ok_or_else(|| fail("digest length is not a minimal varint"))?;
    if u64::try_from(digest.len()) != Ok(length) {
        return Err(fail("digest length does not match the bytes that follow"));
    }
    let (padding, tail) =
        take_uvarint(digest).ok_or_else(|| fail("padding is not a minimal varint"))?;
    let (&height, root) = tail
        .split_first()
        .ok_or_else(|| fail("tree height is missing"))?;
    let comm_p = CommP(root.try_into().map_err(|_| fail("root is not 32 bytes"))?);
    let size = 32u64
        .checked_shl(u32::from(height))
        .and_then(|bytes| PaddedPieceSize::new(bytes).ok())
        .ok_or_else(|| fail("tree height outside 2 to 31"))?;
    let payload_bytes = size
        .unpadded()
        .bytes()
        .checked_sub(padding)
        .ok_or_else(|| fail("more padding than the piece has bytes"))?;
    check_payload(size, payload_bytes)?;
    Ok(PieceWithPayload {
        piece: PieceInfo { comm_p, size },
        payload_bytes,
    })
}

/// One padded size per payload: the smallest that holds it.
fn check_payload(size: PaddedPieceSize, payload_bytes: u64) -> Result<(), ParseError> {
    if PaddedPieceSize::fitting(payload_bytes) == Some(size) {
        return Ok(());
    }
    let why =
        format!("a payload of {payload_bytes} bytes does not make a piece of {size} padded bytes");
    Err(ParseError::new("piece CID v2", why))
}

fn parse_v1(what: &'static str, prefix: &[u8], text: &str) -> Result<[u8; 32], ParseError> {
    let bytes = decode(what, text)?;
    bytes
        .strip_prefix(prefix)
        .and_then(|digest| digest.try_into().ok())
        .ok_or_else(|| {
            ParseError::new(what, "a CID of another kind (codec, hash or length differ)")
        })
}

fn encode(parts: &[&[u8]]) -> String {
    let mut text = String::from("b");
    let (mut held, mut bits) = (0u32, 0u32);
    for &byte in parts.iter().copied().flatten() {
        held = held << 8 | u32::from(byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            text.push(digit(held >> bits));
        }
    }
    if bits > 0 {
        text.push(digit(held << (5 - bits)));
    }
    text
}

fn digit(value: u32) -> char {
    const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    char::from(DIGITS[usize::try_from(value & 31).expect("below 32")])
}

fn decode(what: &'static str, text: &str) -> Result<Vec<u8>, ParseError> {
    let fail = |why: &str| ParseError::new(what, why);
    if text.len() > MAX_TEXT {
        return Err(fail("longer than any such CID"));
    }
    let digits = text
        .strip_prefix('b')
        .ok_or_else(|| fail("expected base32 text that begins with b"))?;
    let mut bytes = Vec::with_capacity(digits.len() * 5 / 8);
    let (mut held, mut bits) = (0u32, 0u32);
    for c in digits.bytes() {
        let value = match c {
            b'a'..=b'z' => c - b'a',
            b'2'..=b'7' => c - b'2' + 26,
            _ => return Err(fail("a character that is not lower-case base32 (a-z, 2-7)")),
        };
        held = held << 5 | u32::from(value);
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits).to_le_bytes()[0]);
        }
        held &= (1 << bits) - 1;
    }
    // Leftover bits are padding of the last digit: fewer than one digit, and zero, or two texts would name one value.
    if bits >= 5 || held != 0 {
        return Err(fail("stray bits after the last byte"));
    }
    Ok(bytes)
}

fn put_uvarint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

/// Reads a minimal unsigned varint of at most nine bytes, as multiformats demands.
fn take_uvarint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0u64;
    for (i, &byte) in bytes.iter().take(9).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            // A zero last byte after others would be a longer form of the same number.
            return if byte == 0 && i > 0 {
                None
            } else {
                Some((value, &bytes[i + 1..]))
            };
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::piece::commp::commp_of;
    use proptest::prelude::*;

    /// proofs.md §9.5, vectors of FRC-0069.
    #[test]
    fn frc_0069_vectors() {
        let mut data: Vec<u8> = (0..4u8).flat_map(|b| [b; 127]).collect();
        let (comm_p, size) = commp_of(&data);
        assert_eq!(
            comm_p.to_cid(),
            "baga6ea4seaqes3nobte6ezpp4wqan2age2s5yxcatzotcvobhgcmv5wi2xh5mbi"
        );
        let piece = PieceInfo { comm_p, size };
        let v2 = piece_v2(&piece, 508).expect("508 bytes are this piece's payload");
        assert_eq!(
            v2,
            "bafkzcibcaaces3nobte6ezpp4wqan2age2s5yxcatzotcvobhgcmv5wi2xh5mbi"
        );
        assert_eq!(
            parse_piece_v2(&v2),
            Ok(PieceWithPayload {
                piece,
                payload_bytes: 508
            })
        );

        let (comm_p, size) = commp_of(&[]);
        let v2 = piece_v2(&PieceInfo { comm_p, size }, 0).expect("the empty payload");
        assert_eq!(
            v2,
            "bafkzcibcp4bdomn3tgwgrh3g532zopskstnbrd2n3sxfqbze7rxt7vqn7veigmy"
        );

        data.extend_from_slice(&[0; 4]);
        let (comm_p, size) = commp_of(&data);
        let v2 = piece_v2(&PieceInfo { comm_p, size }, 512).expect("512 bytes make a 1 KiB piece");
        assert_eq!(
            v2,
            "bafkzcibd7abqlxticxolgseegik2stpfgkkuwyf6kufex3doorkvmzpjuxwe4dz4"
        );
    }

    #[test]
    fn kinds_do_not_mix() {
        let digest = [7u8; 32];
        assert_eq!(parse_comm_p(&CommP(digest).to_cid()), Ok(CommP(digest)));
        assert_eq!(parse_comm_d(&CommD(digest).to_cid()), Ok(CommD(digest)));
        assert_eq!(parse_comm_r(&CommR(digest).to_cid()), Ok(CommR(digest)));
        assert!(parse_comm_r(&CommP(digest).to_cid()).is_err());
        assert!(parse_comm_p(&CommR(digest).to_cid()).is_err());
        assert!(parse_piece_v2(&CommP(digest).to_cid()).is_err());
    }

    #[test]
    fn second_texts_for_one_value_are_refused() {
        let text = CommP([7; 32]).to_cid();
        let (head, last) = text.split_at(text.len() - 1);
        for c in "abcdefghijklmnopqrstuvwxyz234567"
            .chars()
            .filter(|c| !last.starts_with(*c))
        {
            let other = format!("{head}{c}");
            assert_ne!(parse_comm_p(&other), Ok(CommP([7; 32])), "{other}");
        }
        for bad in [
            text.to_uppercase(),
            format!("{text}a"),
            text[1..].to_owned(),
            String::new(),
            "b".repeat(100),
        ] {
            assert!(parse_comm_p(&bad).is_err(), "{bad}");
        }
        // Padding 0 written as a two-byte varint.
        let mut bytes = PIECE_V2_PREFIX.to_vec();
        bytes.extend_from_slice(&[35, 0x80, 0x00, 2]);
        bytes.extend_from_slice(&[0; 32]);
        assert!(parse_piece_v2(&encode(&[&bytes])).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_reads_back(text in "b?[a-z2-7]{0,80}") {
            crate::fuzz::cid(text.as_bytes());
        }

        #[test]
        fn v2_round_trips(root: [u8; 32], payload in 0u64..(1 << 36)) {
            let size = PaddedPieceSize::fitting(payload);
            prop_assume!(size.is_some());
            let piece = PieceInfo { comm_p: CommP(root), size: size.expect("assumed") };
            let text = piece_v2(&piece, payload).expect("the fitting size");
            prop_assert_eq!(parse_piece_v2(&text), Ok(PieceWithPayload { piece, payload_bytes: payload }));
        }
    }
}
