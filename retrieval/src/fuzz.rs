//! Bodies of the fuzz targets: plain functions from bytes to nothing that panic when a decoder breaks its promise.
//!
//! `fuzz/` beside this crate calls them with libFuzzer; bounded tests on stable call the same functions (threats N2, N3,
//! R2, R3).

use std::sync::OnceLock;

use crate::{
    endpoint::PieceKey,
    peer::{PeerAddr, PeerId},
    range::Ranges,
    resume::Bitmap,
    session::{FrameReader, GetReply, GetStep, ServerSession, Verdict},
    verify::{BlockReader, Encoder, outboard_of},
    voucher::SignedVoucher,
    wire::{ChainTag, DataHead, End, LENGTH_BYTES, MAX_FRAME_BYTES, PieceRoot, Request, Response},
};

/// Any bytes that decode as a frame encode to those very bytes.
pub fn frame(bytes: &[u8]) {
    if let Ok(request) = Request::decode(bytes) {
        let again = request.encode().expect("decoded, so within bounds");
        assert_eq!(&again[LENGTH_BYTES..], bytes);
    }
    if let Ok(response) = Response::decode(bytes) {
        let again = response.encode().expect("decoded, so within bounds");
        assert_eq!(&again[LENGTH_BYTES..], bytes);
    }
}

/// A stream of frames in any cut never holds more than a frame, whatever the protocol's limit is.
pub fn frame_stream(bytes: &[u8]) {
    frame_stream_within(bytes, MAX_FRAME_BYTES, &mut |_| {});
}

/// The same for frames of at most `limit` bytes, each handed to `take`. The first byte says how the stream is cut.
pub fn frame_stream_within(bytes: &[u8], limit: usize, take: &mut dyn FnMut(&[u8])) {
    let (cut, mut rest) = match bytes.split_first() {
        Some((cut, rest)) => (usize::from(*cut) + 1, rest),
        None => return,
    };
    let mut reader = FrameReader::within(limit);
    while !rest.is_empty() {
        let space = reader.space();
        assert!(!space.is_empty() && space.len() <= limit.max(LENGTH_BYTES));
        let n = space.len().min(cut).min(rest.len());
        space[..n].copy_from_slice(&rest[..n]);
        rest = &rest[n..];
        match reader.advance(n) {
            Ok(Some(frame)) => {
                assert!((1..=limit).contains(&frame.len()));
                take(&frame);
            }
            Ok(None) => {}
            Err(_) => return,
        }
    }
}

/// Any bytes that decode as ranges are canonical, ordered, and round out inside the piece.
pub fn ranges(bytes: &[u8]) {
    let Ok(ranges) = borsh::from_slice::<Ranges>(bytes) else {
        return;
    };
    assert_eq!(borsh::to_vec(&ranges).expect("memory"), bytes);
    let size = ranges.end();
    let groups = ranges.to_groups(size).expect("inside");
    assert!(groups.bytes() >= ranges.bytes() && groups.end() == size);
    assert!(ranges.within(size - 1).is_err());
}

/// The chain of the sessions below.
const CHAIN: ChainTag = ChainTag([7; 4]);

/// Whatever a peer asks on a connection, in any cut: nothing is served before a hello of this chain, and there is one hello.
pub fn requests(bytes: &[u8]) {
    let mut session = ServerSession::new(CHAIN);
    let mut greeted = false;
    frame_stream_within(bytes, MAX_FRAME_BYTES, &mut |frame| {
        let Ok(request) = Request::decode(frame) else {
            return;
        };
        let hello = match &request {
            Request::Hello(hello) => Some(hello.chain == CHAIN),
            _ => None,
        };
        match session.on_request(request) {
            Verdict::Greet => {
                assert!(!greeted && hello == Some(true));
                greeted = true;
            }
            Verdict::Serve(_) => assert!(greeted && hello.is_none()),
            Verdict::Close(_) => {}
        }
    });
}

/// A piece, an honest answer to a get of a part of it, and what is right.
struct Example {
    piece: PieceKey,
    ranges: Ranges,
    data: Vec<u8>,
    body: Vec<u8>,
    /// Head, body and foot.
    answer: Vec<u8>,
}

fn example() -> &'static Example {
    static EXAMPLE: OnceLock<Example> = OnceLock::new();
    EXAMPLE.get_or_init(|| {
        let data: Vec<u8> = (0..70_000u32).map(|i| ((i * 7) >> 3) as u8).collect();
        let (root, outboard) = outboard_of(&data).expect("a piece");
        let piece = PieceKey {
            root,
            size: data.len() as u64,
        };
        let ranges = Ranges::single(1_000..60_000).expect("a range");
        let mut body = Vec::new();
        let mut encoder =
            Encoder::new(root, piece.size, &ranges, data.clone(), outboard).expect("inside");
        encoder.fill(&mut body, usize::MAX).expect("in memory");
        let head = Response::Data(DataHead {
            size: piece.size,
            granularity: 16_384,
        });
        let foot = Response::End(End {
            bytes: body.len() as u64,
            service_us: 1,
        });
        let answer = [
            head.encode().expect("bounds"),
            body.clone(),
            foot.encode().expect("bounds"),
        ]
        .concat();
        Example {
            piece,
            ranges,
            data,
            body,
            answer,
        }
    })
}

/// The first byte says how much of the honest bytes comes before the fuzzer's.
fn spliced(honest: &[u8], bytes: &[u8]) -> Vec<u8> {
    let keep = honest.len() * usize::from(bytes.first().copied().unwrap_or(0)) / 255;
    [&honest[..keep], bytes.get(1..).unwrap_or_default()].concat()
}

/// Whatever a provider answers to a get, only right bytes come out.
pub fn answer(bytes: &[u8]) {
    let example = example();
    let stream = spliced(&example.answer, bytes);
    let mut reply = GetReply::new(example.piece, &example.ranges, 32_768).expect("inside");
    let mut rest = &stream[..];
    while !rest.is_empty() && !reply.is_done() {
        let space = reply.space();
        let n = space.len().min(9_000).min(rest.len());
        space[..n].copy_from_slice(&rest[..n]);
        rest = &rest[n..];
        match reply.advance(n) {
            Ok(GetStep::Block(block)) => {
                let at = block.offset as usize;
                assert!(block.data == example.data[at..at + block.data.len()]);
            }
            Ok(_) => {}
            Err(_) => return,
        }
    }
    assert_eq!(reply.end().is_ok(), reply.is_done());
}

/// Whatever comes as a piece's bao stream, only right bytes come out.
pub fn piece_stream(bytes: &[u8]) {
    let example = example();
    let stream = spliced(&example.body, bytes);
    let PieceKey { root, size } = example.piece;
    let mut reader = BlockReader::new(root, size, &example.ranges, 32_768).expect("inside");
    let mut rest = &stream[..];
    while !rest.is_empty() && !reader.is_done() {
        let space = reader.space();
        let n = space.len().min(rest.len());
        space[..n].copy_from_slice(&rest[..n]);
        rest = &rest[n..];
        match reader.advance(n) {
            Ok(Some(block)) => {
                let at = block.offset as usize;
                assert!(block.data == example.data[at..at + block.data.len()]);
            }
            Ok(None) => {}
            Err(_) => return,
        }
    }
}

/// Any bytes that decode as a resume bitmap encode to those very bytes.
pub fn bitmap(bytes: &[u8]) {
    if let Ok(map) = Bitmap::decode(bytes) {
        assert_eq!(map.encode(), bytes);
        let missing: u64 = map
            .missing()
            .iter()
            .map(|range| range.end - range.start)
            .sum();
        assert_eq!(missing == 0, map.is_complete());
    }
}

/// Any bytes that decode as a voucher encode to those very bytes; whoever's it is, checking it is calm.
pub fn voucher(bytes: &[u8]) {
    if let Ok(signed) = SignedVoucher::from_bytes(bytes) {
        assert_eq!(signed.to_bytes(), bytes);
        let _ = signed.is_from(&signed.voucher.chain_id);
    }
}

/// Any text that reads as a peer, a peer's address or a root is written as text that reads the same.
pub fn names(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(peer) = text.parse::<PeerId>() {
        assert_eq!(peer.to_string().parse(), Ok(peer));
    }
    if let Ok(addr) = text.parse::<PeerAddr>() {
        assert_eq!(addr.to_string().parse(), Ok(addr));
    }
    if let Ok(root) = text.parse::<PieceRoot>() {
        assert_eq!(root.to_string().parse(), Ok(root));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::voucher::SIGNED_BYTES;
    use crate::wire::{HaveQuery, Hello, PieceRef, VERSION};

    #[test]
    fn honest_examples_pass_whole() {
        answer(&[255]);
        piece_stream(&[255]);
        let map = Bitmap::new([3; 32], 1 << 20);
        bitmap(&map.encode());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn tm_n3_every_fuzz_body_holds_on_stable(bytes in prop::collection::vec(any::<u8>(), 0..2_000)) {
            frame(&bytes);
            frame_stream(&bytes);
            requests(&bytes);
            ranges(&bytes);
            answer(&bytes);
            piece_stream(&bytes);
            bitmap(&bytes);
            names(&bytes);
            let long = bytes.iter().copied().cycle().take(SIGNED_BYTES);
            voucher(&long.collect::<Vec<u8>>());
            voucher(&bytes);
        }

        /// Greetings and questions in any order, with one byte changed.
        #[test]
        fn tm_n3_requests_near_valid(which in prop::collection::vec(0usize..4, 0..6), at: prop::sample::Index, with: u8) {
            let hello = |version, chain| Request::Hello(Hello {
                version,
                chain,
                features: 0,
                max_streams: 4,
                unix_ms: 1,
                info: Vec::new(),
            });
            let all = [
                hello(VERSION, CHAIN),
                hello(VERSION, ChainTag([9; 4])),
                hello(VERSION + 1, CHAIN),
                Request::Have(HaveQuery { pieces: vec![PieceRef::Root(PieceRoot([0; 32]))] }),
            ];
            let frames = which.iter().map(|i| all[*i].encode().expect("bounds"));
            let mut bytes = [&[40][..], &frames.collect::<Vec<_>>().concat()].concat();
            requests(&bytes);
            let at = at.index(bytes.len());
            bytes[at] = with;
            requests(&bytes);
        }

        /// Small numbers and valid heads get deeper than random bytes.
        #[test]
        fn tm_r3_ranges_near_valid(pairs in prop::collection::vec((0u64..100, 0u64..100), 1..6), extra in prop::option::of(any::<u8>())) {
            let mut bytes = borsh::to_vec(&pairs).expect("memory");
            bytes.extend(extra);
            ranges(&bytes);
        }
    }
}
