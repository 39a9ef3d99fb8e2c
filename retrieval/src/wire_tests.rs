//! Codec: round trips, one encoding per value, bounds, pinned bytes, calm on anything.

use proptest::prelude::*;

use super::*;

fn hello(info: Vec<u8>) -> Hello {
    Hello {
        version: 1,
        chain: ChainTag([1, 2, 3, 4]),
        features: 5,
        max_streams: 6,
        unix_ms: 7,
        info,
    }
}

fn ranges() -> Ranges {
    Ranges::new([0..16_384, 40_000..40_001]).expect("canonical")
}

/// One of each.
fn requests() -> Vec<Request> {
    vec![
        Request::Hello(hello(b"hi".to_vec())),
        Request::Have(HaveQuery {
            pieces: vec![
                PieceRef::Root(PieceRoot([1; 32])),
                PieceRef::Commp(CommP([2; 32])),
            ],
        }),
        Request::Get(Get {
            req_id: 1,
            root: PieceRoot([3; 32]),
            ranges: ranges(),
            deadline_ms: 9,
        }),
        Request::Commp(CommpQuery {
            commp: CommP([4; 32]),
            first_leaf: 8,
            leaves: 2,
        }),
        Request::Put(PutHeader {
            size: 10,
            root: PieceRoot([5; 32]),
            commp: CommP([6; 32]),
            proposal: vec![7; 3],
        }),
    ]
}

fn responses() -> Vec<Response> {
    let entry = HaveEntry {
        size: 11,
        root: PieceRoot([1; 32]),
        commp: CommP([2; 32]),
        state: PieceState::Unsealing { eta_ms: 3 },
    };
    vec![
        Response::Hello(hello(vec![])),
        Response::Have(Have {
            entries: vec![entry, HaveEntry::GONE],
        }),
        Response::Data(DataHead {
            size: 12,
            granularity: 16_384,
        }),
        Response::End(End {
            bytes: 13,
            service_us: 14,
        }),
        Response::Commp(CommpProof {
            proof: vec![1, 2, 3],
        }),
        Response::PutGo,
        Response::PutAck(PutAck { ack: vec![4, 5] }),
        Response::Failure(Failure::new(FailureCode::RateLimited, 15, "later")),
    ]
}

#[test]
fn frames_round_trip() {
    for request in requests() {
        let bytes = request.encode().expect("within bounds");
        assert_eq!(
            frame_length(bytes[..4].try_into().expect("4 bytes"), MAX_FRAME_BYTES),
            Ok(bytes.len() - 4)
        );
        assert_eq!(Request::decode(&bytes[4..]), Ok(request));
    }
    for response in responses() {
        let bytes = response.encode().expect("within bounds");
        assert_eq!(
            frame_length(bytes[..4].try_into().expect("4 bytes"), MAX_FRAME_BYTES),
            Ok(bytes.len() - 4)
        );
        assert_eq!(Response::decode(&bytes[4..]), Ok(response));
    }
}

/// A change of any byte of the format must be a decision: it breaks old peers.
#[test]
fn the_formats_are_pinned() {
    let mut all = Vec::new();
    requests()
        .iter()
        .for_each(|r| all.extend(r.encode().expect("within bounds")));
    responses()
        .iter()
        .for_each(|r| all.extend(r.encode().expect("within bounds")));
    assert_eq!(
        blake3::hash(&all).to_hex().as_str(),
        "547105302b90d4a025e12db2010c55762ebfc749834fc158d08f6150b9ed2d9f"
    );
    assert_eq!(
        alpn(ChainTag([0xde, 0xad, 0xbe, 0xef])),
        b"hf-retr/1/deadbeef"
    );
}

/// The names of the frames are part of the protocol (`network.md` §2.4).
#[test]
fn type_bytes_are_the_specs() {
    let kinds: Vec<_> = requests()
        .iter()
        .map(|r| r.encode().expect("bounds")[4])
        .collect();
    assert_eq!(kinds, [1, 2, 4, 9, 11]);
    let kinds: Vec<_> = responses()
        .iter()
        .map(|r| r.encode().expect("bounds")[4])
        .collect();
    assert_eq!(kinds, [1, 3, 5, 7, 9, 13, 12, 6]);
}

#[test]
fn tm_n3_a_lying_length_is_refused_before_allocation() {
    assert_eq!(
        frame_length(u32::MAX.to_le_bytes(), MAX_FRAME_BYTES),
        Err(WireError::TooLong {
            length: u32::MAX,
            limit: MAX_FRAME_BYTES
        })
    );
    assert_eq!(
        frame_length(65_537u32.to_le_bytes(), MAX_FRAME_BYTES),
        Err(WireError::TooLong {
            length: 65_537,
            limit: MAX_FRAME_BYTES
        })
    );
    assert_eq!(
        frame_length([0; 4], MAX_FRAME_BYTES),
        Err(WireError::EmptyFrame)
    );
    assert_eq!(
        frame_length(65_536u32.to_le_bytes(), MAX_FRAME_BYTES),
        Ok(65_536)
    );
}

/// Element counts that promise gigabytes inside a small frame.
#[test]
fn tm_n3_a_lying_count_is_refused() {
    for kind in [2u8, 3, 4, 9, 11, 12] {
        let mut frame = vec![kind];
        frame.extend([0xff; 4]);
        frame.extend([0; 60]);
        assert!(
            Request::decode(&frame).is_err() && Response::decode(&frame).is_err(),
            "type {kind}"
        );
    }
}

#[test]
fn bounds_hold_for_the_sender_too() {
    let too_many = vec![PieceRef::Root(PieceRoot([0; 32])); MAX_HAVE + 1];
    assert!(
        Request::Have(HaveQuery { pieces: too_many })
            .encode()
            .is_err()
    );
    assert!(
        Request::Have(HaveQuery { pieces: vec![] })
            .encode()
            .is_err()
    );
    assert!(
        Request::Hello(hello(vec![0; MAX_INFO_BYTES + 1]))
            .encode()
            .is_err()
    );
    let put = |size, proposal| {
        Request::Put(PutHeader {
            size,
            root: PieceRoot([0; 32]),
            commp: CommP([0; 32]),
            proposal,
        })
        .encode()
    };
    assert!(
        put(1, vec![0; MAX_PROPOSAL_BYTES]).is_ok()
            && put(1, vec![0; MAX_PROPOSAL_BYTES + 1]).is_err()
    );
    assert!(put(0, vec![]).is_err() && put(MAX_PIECE_BYTES + 1, vec![]).is_err());
    let commp = |first_leaf, leaves| {
        Request::Commp(CommpQuery {
            commp: CommP([0; 32]),
            first_leaf,
            leaves,
        })
        .encode()
    };
    assert!(
        commp(0, 0).is_err()
            && commp(u64::MAX, 1).is_err()
            && commp(0, MAX_COMMP_LEAVES + 1).is_err()
    );
    assert!(
        Response::PutAck(PutAck {
            ack: vec![0; MAX_ACK_BYTES + 1]
        })
        .encode()
        .is_err()
    );
    assert!(
        Response::Data(DataHead {
            size: 1,
            granularity: 1024
        })
        .encode()
        .is_err()
    );
}

#[test]
fn reserved_types_are_refused() {
    for kind in [0u8, 8, 10, 14, 255] {
        assert_eq!(Request::decode(&[kind]), Err(WireError::UnknownType(kind)));
        assert_eq!(Response::decode(&[kind]), Err(WireError::UnknownType(kind)));
    }
    let payment = [&[6u8, 3][..], &[0; 8]].concat();
    assert!(
        Response::decode(&payment).is_err(),
        "error code 3 is not spoken yet"
    );
}

#[test]
fn a_peers_words_cannot_paint_on_a_terminal() {
    let failure = Failure::new(FailureCode::Refused, 0, "\u{1b}[2Jgone");
    assert!(!failure.to_string().contains('\u{1b}'));
    assert!(
        Failure::new(FailureCode::Refused, 0, &"ä".repeat(500))
            .detail
            .len()
            <= MAX_DETAIL_BYTES
    );
}

proptest! {
    #[test]
    fn any_bytes_decode_or_fail(frame in prop::collection::vec(any::<u8>(), 0..300)) {
        crate::fuzz::frame(&frame);
    }

    #[test]
    fn changed_frames_decode_canonically(pick in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
        let mut frames: Vec<_> = requests().iter().map(|r| r.encode().expect("bounds")).collect();
        frames.extend(responses().iter().map(|r| r.encode().expect("bounds")));
        let mut frame = pick.get(&frames)[LENGTH_BYTES..].to_vec();
        let at = at.index(frame.len());
        frame[at] = byte;
        if cut {
            frame.truncate(at);
        }
        crate::fuzz::frame(&frame);
        frame.push(byte);
        crate::fuzz::frame(&frame);
    }
}
