//! What travels only between running engines comes back as it went, or is refused.
#![cfg(feature = "net")]

use bytes::Bytes;
use chain_lite::block::BlockId;
use chain_lite::certificate::ValidatorId;
use chain_lite::codec::CodecError;
use chain_lite_bft::codec::{Codec, MAX_RESPONSE_BYTES, fuzz_messages};
use chain_lite_bft::context::{Address, ChainContext, Height, Signature};
use chain_lite_bft::parts::Part;
use malachite_app_channel::app::streaming::{StreamContent, StreamId, StreamMessage};
use malachite_codec::{Codec as _, HasEncodedLen};
use malachite_core_types::{ExtendedCommitCertificate, ExtendedCommitSignature, Round};
use malachite_sync::{
    PeerId, RawDecidedValue, Request, Response, Status, ValueRequest, ValueResponse,
};
use rand::{RngCore, SeedableRng};

/// Three decided values as a peer sends them.
fn response() -> Response<ChainContext> {
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
    Response::ValueResponse(ValueResponse::new(Height(1), values))
}

fn status() -> Status<ChainContext> {
    // A libp2p name: multihash "identity" of an ed25519 key's 36 bytes.
    let name = [&[0, 36, 8, 1, 18, 32][..], &[7; 32]].concat();
    Status {
        peer_id: PeerId::from_bytes(&name).unwrap(),
        tip_height: Height(9),
        history_min_height: Height(1),
    }
}

fn streamed() -> [StreamMessage<Part>; 2] {
    let part = Part::Data {
        last: true,
        bytes: vec![1; 9],
    };
    let message = |content| StreamMessage::new(StreamId::new(vec![1, 2].into()), 7, content);
    [
        message(StreamContent::Data(part)),
        message(StreamContent::Fin),
    ]
}

/// Every message of the network with one byte changed, cut or longer, and noise that begins like one.
#[test]
fn tm_p17_messages_of_the_network_are_calm_on_noise_and_damage() {
    let [data, fin] = streamed();
    let messages: [Bytes; 4] = [
        Codec.encode(&response()).unwrap(),
        Codec.encode(&status()).unwrap(),
        Codec.encode(&data).unwrap(),
        Codec.encode(&fin).unwrap(),
    ];
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
    for message in &messages {
        for at in 0..message.len() {
            let mut bent = message.to_vec();
            bent[at] ^= 1 << (at % 8);
            fuzz_messages(&bent);
            fuzz_messages(&message[..at]);
            rng.fill_bytes(&mut bent[at..]);
            fuzz_messages(&bent);
        }
        fuzz_messages(&[message, &[0][..]].concat());
    }
}

#[test]
fn answers_and_stream_messages_come_back_as_they_went() {
    let response = response();
    let bytes = Codec.encode(&response).unwrap();
    assert_eq!(Codec.encoded_len(&response).unwrap(), bytes.len());
    assert_eq!(Codec.decode(bytes.clone()).ok(), Some(response));
    for cut in 0..bytes.len() {
        let got: Result<Response<ChainContext>, _> = Codec.decode(bytes.slice(..cut));
        assert!(got.is_err());
    }
    for message in streamed() {
        let bytes = Codec.encode(&message).unwrap();
        assert_eq!(Codec.decode(bytes).ok(), Some(message));
    }
}

#[test]
fn standings_and_requests_come_back_as_they_went() {
    let status = status();
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
