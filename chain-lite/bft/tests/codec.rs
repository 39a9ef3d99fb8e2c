//! What travels only between running engines comes back as it went, or is refused.
#![cfg(feature = "net")]

use bytes::Bytes;
use chain_lite::block::BlockId;
use chain_lite::certificate::ValidatorId;
use chain_lite::codec::CodecError;
use chain_lite_bft::codec::{Codec, MAX_RESPONSE_BYTES};
use chain_lite_bft::context::{Address, ChainContext, Height, Signature};
use chain_lite_bft::parts::Part;
use malachite_app_channel::app::streaming::{StreamContent, StreamId, StreamMessage};
use malachite_codec::{Codec as _, HasEncodedLen};
use malachite_core_types::{ExtendedCommitCertificate, ExtendedCommitSignature, Round};
use malachite_sync::{
    PeerId, RawDecidedValue, Request, Response, Status, ValueRequest, ValueResponse,
};

#[test]
fn answers_and_stream_messages_come_back_as_they_went() {
    let value = |n: u8, sigs: u8| {
        let sig = |s| {
            let id = ValidatorId([s; 32]);
            ExtendedCommitSignature::new(Address(id), Signature([s; 64]), None)
        };
        RawDecidedValue::new(
            vec![n; usize::from(n) * 9].into(),
            ExtendedCommitCertificate {
                height: Height(n.into()),
                round: if n == 2 { Round::Nil } else { Round::new(3) },
                value_id: BlockId([n; 32]),
                commit_signatures: (0..sigs).map(sig).collect(),
            },
        )
    };
    let values = vec![value(1, 4), value(2, 0), value(3, 3)];
    let response = Response::ValueResponse(ValueResponse::new(Height(1), values));
    let bytes = Codec.encode(&response).unwrap();
    assert_eq!(Codec.encoded_len(&response).unwrap(), bytes.len());
    assert_eq!(Codec.decode(bytes.clone()).ok(), Some(response));
    for cut in 0..bytes.len() {
        let got: Result<Response<ChainContext>, _> = Codec.decode(bytes.slice(..cut));
        assert!(got.is_err());
    }
    let part = Part::Data {
        last: true,
        bytes: vec![1; 9],
    };
    for content in [StreamContent::Data(part), StreamContent::Fin] {
        let message = StreamMessage::new(StreamId::new(vec![1, 2].into()), 7, content);
        let bytes = Codec.encode(&message).unwrap();
        assert_eq!(Codec.decode(bytes).ok(), Some(message));
    }
}

#[test]
fn standings_and_requests_come_back_as_they_went() {
    // A libp2p name: multihash "identity" of an ed25519 key's 36 bytes.
    let name = [&[0, 36, 8, 1, 18, 32][..], &[7; 32]].concat();
    let status = Status::<ChainContext> {
        peer_id: PeerId::from_bytes(&name).unwrap(),
        tip_height: Height(9),
        history_min_height: Height(1),
    };
    let bytes = Codec.encode(&status).unwrap();
    assert_eq!(Codec.decode(bytes.clone()).ok(), Some(status));
    let got: Result<Status<ChainContext>, _> = Codec.decode(bytes.slice(1..));
    assert!(got.is_err());
    let request = Request::<ChainContext>::ValueRequest(ValueRequest::new(Height(3)..=Height(7)));
    let bytes = Codec.encode(&request).unwrap();
    assert_eq!(Codec.decode(bytes).ok(), Some(request));
}

#[test]
fn tm_n3_oversize_answers_are_refused_unread() {
    let bytes = Bytes::from(vec![0; MAX_RESPONSE_BYTES + 1]);
    let got: Result<Response<ChainContext>, _> = Codec.decode(bytes);
    assert!(matches!(got, Err(CodecError::TooLong { .. })));
}
