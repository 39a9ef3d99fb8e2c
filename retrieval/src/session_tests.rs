//! The rules, without a network.

use super::*;
use crate::{
    verify::{Encoder, outboard_of},
    wire::{DataHead, Failure, Get, HaveQuery, PieceRef, PieceRoot, VERSION},
};

const CHAIN: ChainTag = ChainTag([1, 2, 3, 4]);

fn hello(version: u16, chain: ChainTag) -> Request {
    Request::Hello(Hello {
        version,
        chain,
        features: u64::MAX,
        max_streams: 1,
        unix_ms: 0,
        info: vec![],
    })
}

fn have() -> Request {
    Request::Have(HaveQuery {
        pieces: vec![PieceRef::Root(PieceRoot([0; 32]))],
    })
}

#[test]
fn hello_comes_first_and_once() {
    let mut session = ServerSession::new(CHAIN);
    assert!(
        matches!(session.on_request(have()), Verdict::Close(_)),
        "before hello"
    );
    assert_eq!(session.on_request(hello(VERSION, CHAIN)), Verdict::Greet);
    assert_eq!(session.on_request(have()), Verdict::Serve(have()));
    assert!(
        matches!(session.on_request(hello(VERSION, CHAIN)), Verdict::Close(_)),
        "twice"
    );
}

#[test]
fn tm_n5_other_chain_or_version_is_not_greeted() {
    for request in [hello(VERSION + 1, CHAIN), hello(VERSION, ChainTag([9; 4]))] {
        let mut session = ServerSession::new(CHAIN);
        assert!(matches!(session.on_request(request), Verdict::Close(_)));
        assert!(
            matches!(session.on_request(have()), Verdict::Close(_)),
            "still closed"
        );
    }
}

#[test]
fn tm_n3_a_declared_4_gib_frame_allocates_nothing() {
    let mut reader = FrameReader::default();
    reader.space().copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(
        reader.advance(4),
        Err(WireError::TooLong {
            length: u32::MAX,
            limit: MAX_FRAME_BYTES
        })
    );
    assert_eq!(reader.body.capacity(), 0);
}

struct Answer {
    piece: PieceKey,
    ranges: Ranges,
    data: Vec<u8>,
    /// Head, body, foot.
    parts: [Vec<u8>; 3],
}

fn answer() -> Answer {
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
    })
    .encode()
    .expect("bounds");
    let foot = Response::End(End {
        bytes: body.len() as u64,
        service_us: 1,
    })
    .encode()
    .expect("bounds");
    Answer {
        piece,
        ranges,
        data,
        parts: [head, body, foot],
    }
}

/// Feeds bytes in cuts; returns the verified bytes and whether the answer was complete.
fn feed(answer: &Answer, bytes: &[u8], cut: usize) -> Result<(Vec<u8>, bool), Error> {
    let mut reply = GetReply::new(answer.piece, &answer.ranges, 32_768)?;
    let (mut rest, mut out) = (bytes, Vec::new());
    while !rest.is_empty() {
        let space = reply.space();
        if space.is_empty() {
            return Err(Error::Protocol("more bytes than the answer has".into()));
        }
        let n = space.len().min(cut).min(rest.len());
        space[..n].copy_from_slice(&rest[..n]);
        rest = &rest[n..];
        if let GetStep::Block(block) = reply.advance(n)? {
            out.extend_from_slice(&block.data);
        }
    }
    let done = reply.is_done();
    assert_eq!(reply.end().is_ok(), done);
    Ok((out, done))
}

#[test]
fn a_complete_answer_is_complete_only_at_its_last_byte() {
    let answer = answer();
    let bytes = answer.parts.concat();
    for cut in [1, 3, 64, 5_000, usize::MAX] {
        let (out, done) = feed(&answer, &bytes, cut).expect("honest");
        assert!(done && out == answer.data[..65_536]);
    }
    for end in [
        0,
        4,
        answer.parts[0].len(),
        bytes.len() - answer.parts[2].len(),
        bytes.len() - 1,
    ] {
        assert!(
            !feed(&answer, &bytes[..end], usize::MAX)
                .expect("honest so far")
                .1,
            "cut at {end}"
        );
    }
    assert!(feed(&answer, &[&bytes[..], &[0]].concat(), usize::MAX).is_err());
}

#[test]
fn lies_are_told_from_refusals() {
    let answer = answer();
    let head = |size| {
        Response::Data(DataHead {
            size,
            granularity: 16_384,
        })
        .encode()
        .expect("bounds")
    };
    let error = feed(&answer, &head(1), usize::MAX).expect_err("wrong size");
    assert!(matches!(error, Error::BadData(VerifyError::Size { got: 1, .. })) && error.is_lie());
    let no = Response::Failure(Failure::new(FailureCode::NotFound, 0, ""))
        .encode()
        .expect("bounds");
    let error = feed(&answer, &no, usize::MAX).expect_err("refused");
    assert!(matches!(error, Error::Refused(_)) && !error.is_lie());
    let error = feed(
        &answer,
        &Response::PutGo.encode().expect("bounds"),
        usize::MAX,
    )
    .expect_err("out of place");
    assert!(error.is_lie());
    let [head, body, _] = &answer.parts;
    let foot = Response::End(End {
        bytes: 1,
        service_us: 1,
    })
    .encode()
    .expect("bounds");
    assert!(
        feed(&answer, &[&head[..], body, &foot].concat(), usize::MAX)
            .expect_err("wrong count")
            .is_lie()
    );
}

#[test]
fn a_request_out_of_place_is_no_response() {
    let get = Request::Get(Get {
        req_id: 0,
        root: PieceRoot([0; 32]),
        ranges: answer().ranges,
        deadline_ms: 0,
    });
    let frame = get.encode().expect("bounds");
    assert!(
        feed(&answer(), &frame, usize::MAX)
            .expect_err("a request")
            .is_lie()
    );
}
