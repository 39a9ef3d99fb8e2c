//! Canonical, bounded bytes of everything that the engine writes to its journal or sends to a peer.
//!
//! Walk: the engine hands values to [`Codec`]; every decoder refuses input above its limit before it looks at it, and
//! input that is not exactly what the encoder would write (`chain_lite::codec`, `threat-model.md` V11, N3).
//! Spec: `consensus.md` §4, trap 5: `ExtendedCommitCertificate` and `ValidatorProof` have no borsh form in 0.8.2, so what holds
//! them, and what else only catching up sends, is written through mirror types here.
//!
//! The formats belong to this engine's version, not to the chain: blocks, certificates and votes' signed bytes are chain-lite's.
//! The journal (WAL) of one height is discarded when the height is decided, so nothing here must be read by a later version,
//! except across a restart in the middle of a height.

use borsh::{BorshDeserialize, BorshSerialize};
use bytes::Bytes;
use chain_lite::certificate::MAX_VALIDATORS;
use chain_lite::codec::{self, CodecError};
use malachite_codec::Codec as Malachite;
use malachite_core_consensus::{LivenessMsg, ProposedValue, SignedConsensusMsg};
use malachite_core_types::{PolkaCertificate, ValidatorProof};

use crate::context::{ChainContext, Signature};
use crate::parts::{PART_BYTES, Part};

/// Largest vote, proposal, or proposed value: fixed fields of 32 and 64 bytes.
pub const MAX_MESSAGE_BYTES: usize = 512;
/// Largest certificate of votes on its way: a signature, an address and a block id for each validator.
pub const MAX_VOTES_BYTES: usize = MAX_VALIDATORS * 160 + MAX_MESSAGE_BYTES;
/// Largest part of a proposal.
pub const MAX_PART_BYTES: usize = PART_BYTES + MAX_MESSAGE_BYTES;

/// Encodes and decodes for the engine; has no state.
#[derive(Clone, Copy, Debug, Default)]
pub struct Codec;

fn bytes_of<T: BorshSerialize>(value: &T) -> Bytes {
    codec::encode(value).into()
}

macro_rules! plain {
    ($($type:ty, $max:expr;)*) => {$(
        impl Malachite<$type> for Codec {
            type Error = CodecError;

            fn decode(&self, bytes: Bytes) -> Result<$type, CodecError> {
                codec::decode(&bytes, $max)
            }
            fn encode(&self, value: &$type) -> Result<Bytes, CodecError> {
                Ok(bytes_of(value))
            }
        }
    )*};
}

plain! {
    SignedConsensusMsg<ChainContext>, MAX_MESSAGE_BYTES;
    ProposedValue<ChainContext>, MAX_MESSAGE_BYTES;
    PolkaCertificate<ChainContext>, MAX_VOTES_BYTES;
    LivenessMsg<ChainContext>, MAX_VOTES_BYTES;
    Part, MAX_PART_BYTES;
}

/// Mirror of [`ValidatorProof`].
#[derive(BorshSerialize, BorshDeserialize)]
struct Proof {
    public_key: Vec<u8>,
    peer_id: Vec<u8>,
    signature: Signature,
}

impl Malachite<ValidatorProof<ChainContext>> for Codec {
    type Error = CodecError;

    fn decode(&self, bytes: Bytes) -> Result<ValidatorProof<ChainContext>, CodecError> {
        let p: Proof = codec::decode(&bytes, MAX_MESSAGE_BYTES)?;
        Ok(ValidatorProof::new(p.public_key, p.peer_id, p.signature))
    }

    fn encode(&self, proof: &ValidatorProof<ChainContext>) -> Result<Bytes, CodecError> {
        Ok(bytes_of(&Proof {
            public_key: proof.public_key.clone(),
            peer_id: proof.peer_id.clone(),
            signature: proof.signature,
        }))
    }
}

/// What travels only between running engines.
#[cfg(feature = "net")]
mod net {
    use super::*;

    use malachite_app_channel::app::streaming::{StreamContent, StreamId, StreamMessage};
    use malachite_codec::HasEncodedLen;
    use malachite_core_types::{ExtendedCommitCertificate, ExtendedCommitSignature, Round};
    use malachite_sync::{
        PeerId, RawDecidedValue, Request, Response, Status, ValueRequest, ValueResponse,
    };

    use crate::context::{Address, Height};
    use crate::parts::{MAX_BLOCK_BYTES, MAX_NAME_BYTES};
    use chain_lite::block::BlockId;

    /// Largest answer to a peer that catches up. The network's own frame limit is set to the same number.
    pub const MAX_RESPONSE_BYTES: usize = 10 << 20;
    /// Most blocks in an answer; a full block and its certificate always fit.
    pub const MAX_RESPONSE_VALUES: usize = 64;
    const _: () = assert!(MAX_BLOCK_BYTES + MAX_VOTES_BYTES < MAX_RESPONSE_BYTES);

    /// Mirror of [`Status`].
    #[derive(BorshSerialize, BorshDeserialize)]
    struct Standing {
        peer: Vec<u8>,
        tip: Height,
        first: Height,
    }

    impl Malachite<Status<ChainContext>> for Codec {
        type Error = CodecError;

        fn decode(&self, bytes: Bytes) -> Result<Status<ChainContext>, CodecError> {
            let s: Standing = codec::decode(&bytes, MAX_MESSAGE_BYTES)?;
            let peer = PeerId::from_bytes(&s.peer);
            Ok(Status {
                peer_id: peer.map_err(|e| CodecError::Malformed(e.to_string()))?,
                tip_height: s.tip,
                history_min_height: s.first,
            })
        }

        fn encode(&self, status: &Status<ChainContext>) -> Result<Bytes, CodecError> {
            Ok(bytes_of(&Standing {
                peer: status.peer_id.to_bytes(),
                tip: status.tip_height,
                first: status.history_min_height,
            }))
        }
    }

    impl Malachite<Request<ChainContext>> for Codec {
        type Error = CodecError;

        fn decode(&self, bytes: Bytes) -> Result<Request<ChainContext>, CodecError> {
            let (first, last): (Height, Height) = codec::decode(&bytes, MAX_MESSAGE_BYTES)?;
            Ok(Request::ValueRequest(ValueRequest::new(first..=last)))
        }

        fn encode(&self, request: &Request<ChainContext>) -> Result<Bytes, CodecError> {
            let Request::ValueRequest(wanted) = request;
            Ok(bytes_of(&(wanted.range.start(), wanted.range.end())))
        }
    }

    /// Mirror of [`StreamMessage`]. The engine's end-of-stream message is not used: the last data part says that it is.
    #[derive(BorshSerialize, BorshDeserialize)]
    struct Streamed {
        stream: Vec<u8>,
        sequence: u64,
        part: Option<Part>,
    }

    impl Malachite<StreamMessage<Part>> for Codec {
        type Error = CodecError;

        fn decode(&self, bytes: Bytes) -> Result<StreamMessage<Part>, CodecError> {
            let s: Streamed = codec::decode(&bytes, MAX_PART_BYTES + MAX_NAME_BYTES + 16)?;
            let content = s.part.map_or(StreamContent::Fin, StreamContent::Data);
            let id = StreamId::new(s.stream.into());
            Ok(StreamMessage::new(id, s.sequence, content))
        }

        fn encode(&self, message: &StreamMessage<Part>) -> Result<Bytes, CodecError> {
            Ok(bytes_of(&Streamed {
                stream: message.stream_id.to_bytes().to_vec(),
                sequence: message.sequence,
                part: message.content.as_data().cloned(),
            }))
        }
    }

    /// Mirror of [`RawDecidedValue`]: a block and who signed it.
    #[derive(BorshSerialize, BorshDeserialize)]
    struct Decided {
        block: Vec<u8>,
        height: Height,
        round: Round,
        id: BlockId,
        sigs: Vec<(Address, Signature)>,
    }

    /// Mirror of [`Response`].
    #[derive(BorshSerialize, BorshDeserialize)]
    struct Answer {
        start: Height,
        values: Vec<Decided>,
    }

    impl Malachite<Response<ChainContext>> for Codec {
        type Error = CodecError;

        fn decode(&self, bytes: Bytes) -> Result<Response<ChainContext>, CodecError> {
            let answer: Answer = codec::decode(&bytes, MAX_RESPONSE_BYTES)?;
            let values = answer.values.into_iter().map(|d| {
                let sig = |(address, sig)| ExtendedCommitSignature::new(address, sig, None);
                RawDecidedValue::new(
                    d.block.into(),
                    ExtendedCommitCertificate {
                        height: d.height,
                        round: d.round,
                        value_id: d.id,
                        commit_signatures: d.sigs.into_iter().map(sig).collect(),
                    },
                )
            });
            Ok(Response::ValueResponse(ValueResponse::new(
                answer.start,
                values.collect(),
            )))
        }

        fn encode(&self, response: &Response<ChainContext>) -> Result<Bytes, CodecError> {
            let Response::ValueResponse(answer) = response;
            let values = answer.values.iter().map(|v| Decided {
                block: v.value_bytes.to_vec(),
                height: v.certificate.height,
                round: v.certificate.round,
                id: v.certificate.value_id,
                sigs: v
                    .certificate
                    .commit_signatures
                    .iter()
                    .map(|s| (s.address, s.signature))
                    .collect(),
            });
            Ok(bytes_of(&Answer {
                start: answer.start_height,
                values: values.collect(),
            }))
        }
    }

    impl HasEncodedLen<Response<ChainContext>> for Codec {
        fn encoded_len(&self, response: &Response<ChainContext>) -> Result<usize, CodecError> {
            let Response::ValueResponse(answer) = response;
            let len = |v: &RawDecidedValue<ChainContext>| {
                let round = if v.certificate.round.is_nil() { 1 } else { 5 };
                let sigs = v.certificate.commit_signatures.len() * (32 + 64);
                4 + v.value_bytes.len() + 8 + round + 32 + 4 + sigs
            };
            Ok(8 + 4 + answer.values.iter().map(len).sum::<usize>())
        }
    }
}

#[cfg(feature = "net")]
pub use net::{MAX_RESPONSE_BYTES, MAX_RESPONSE_VALUES};

/// Any bytes as each kind of message that a peer may send: refused, or exactly what it would be written as. Body of the
/// fuzz target.
pub fn fuzz_messages(bytes: &[u8]) {
    fn same<T>(bytes: &[u8])
    where
        Codec: Malachite<T>,
    {
        if let Ok(value) = Codec.decode(Bytes::copy_from_slice(bytes)) {
            let again = Codec.encode(&value).ok();
            assert_eq!(again.as_deref(), Some(bytes), "one encoding per value");
        }
    }
    same::<SignedConsensusMsg<ChainContext>>(bytes);
    same::<ProposedValue<ChainContext>>(bytes);
    same::<PolkaCertificate<ChainContext>>(bytes);
    same::<LivenessMsg<ChainContext>>(bytes);
    same::<Part>(bytes);
    same::<ValidatorProof<ChainContext>>(bytes);
    #[cfg(feature = "net")]
    {
        same::<malachite_sync::Status<ChainContext>>(bytes);
        same::<malachite_sync::Request<ChainContext>>(bytes);
        same::<malachite_sync::Response<ChainContext>>(bytes);
        same::<malachite_app_channel::app::streaming::StreamMessage<Part>>(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use chain_lite::account::ChainId;
    use chain_lite::block::BlockId;
    use chain_lite::certificate::{self, Certificate, ValidatorId};
    use ed25519_dalek::SigningKey;
    use futures::executor::block_on;
    use malachite_core_types::{
        CommitCertificate, Context, NilOrVal, Round, RoundCertificate, RoundCertificateType,
        SignedVote, ThresholdParams, Validity, VoteType,
    };
    use malachite_signing::{Signer, Verifier, VerifierExt};

    use crate::context::{
        Address, Height, Proposal, ValidatorSet, Value, Vote, from_certificate, to_certificate,
    };
    use crate::parts::Init;
    use crate::signing::{ChainSigner, ChainVerifier, vote_bytes};

    const CHAIN: ChainId = ChainId([9; 32]);
    const BLOCK: BlockId = BlockId([5; 32]);

    fn signer(n: u8) -> ChainSigner {
        ChainSigner::new(CHAIN, SigningKey::from_bytes(&[n; 32]))
    }

    fn set(powers: &[u64]) -> certificate::ValidatorSet {
        let of = |(n, power): (u8, &u64)| certificate::Validator {
            id: signer(n).address().0,
            power: *power,
        };
        certificate::ValidatorSet::new((1..).zip(powers).map(of).collect()).unwrap()
    }

    fn vote(n: u8, kind: VoteType, value: NilOrVal<BlockId>) -> SignedVote<ChainContext> {
        let vote = Vote {
            kind,
            height: Height(7),
            round: Round::new(2),
            value,
            validator: signer(n).address(),
        };
        signer(n).vote(vote).unwrap()
    }

    fn precommits(signers: &[u8]) -> CommitCertificate<ChainContext> {
        let votes = signers
            .iter()
            .map(|n| vote(*n, VoteType::Precommit, NilOrVal::Val(BLOCK)));
        CommitCertificate::new(Height(7), Round::new(2), BLOCK, votes.collect())
    }

    fn come_back<T: PartialEq + std::fmt::Debug>(value: T)
    where
        Codec: Malachite<T, Error = CodecError>,
    {
        let bytes = Codec.encode(&value).unwrap();
        assert_eq!(Codec.decode(bytes.clone()).as_ref(), Ok(&value));
        for cut in 0..bytes.len() {
            assert!(Malachite::<T>::decode(&Codec, bytes.slice(..cut)).is_err());
        }
        let longer = [&bytes[..], &[0]].concat();
        assert!(Malachite::<T>::decode(&Codec, longer.into()).is_err());
    }

    #[test]
    fn every_message_comes_back_as_it_went() {
        let nil = vote(1, VoteType::Prevote, NilOrVal::Nil);
        let for_block = vote(2, VoteType::Precommit, NilOrVal::Val(BLOCK));
        let proposal = Proposal {
            height: Height(7),
            round: Round::new(2),
            value: Value(BLOCK),
            pol_round: Round::Nil,
            proposer: signer(1).address(),
        };
        let proposal = signer(1).proposal(proposal).unwrap();
        come_back(SignedConsensusMsg::<ChainContext>::Vote(nil.clone()));
        come_back(SignedConsensusMsg::<ChainContext>::Vote(for_block.clone()));
        come_back(SignedConsensusMsg::<ChainContext>::Proposal(proposal));
        come_back(LivenessMsg::<ChainContext>::Vote(nil.clone()));
        let skip = RoundCertificateType::Skip;
        let round =
            RoundCertificate::new_from_votes(Height(7), Round::new(2), skip, vec![nil, for_block]);
        come_back(LivenessMsg::<ChainContext>::SkipRoundCertificate(round));
        let prevotes = [1, 2, 3].map(|n| vote(n, VoteType::Prevote, NilOrVal::Val(BLOCK)));
        let polka = PolkaCertificate::new(Height(7), Round::new(2), BLOCK, prevotes.to_vec());
        come_back(polka.clone());
        come_back(LivenessMsg::<ChainContext>::PolkaCertificate(polka));
        for validity in [Validity::Valid, Validity::Invalid] {
            come_back(ProposedValue::<ChainContext> {
                height: Height(7),
                round: Round::new(2),
                valid_round: Round::Nil,
                proposer: signer(1).address(),
                value: Value(BLOCK),
                validity,
            });
        }
        let init = Init {
            height: Height(7),
            round: 2,
            proposer: signer(1).address(),
            block: BLOCK,
            bytes: 6,
            digest: [1; 32],
            first: None,
        };
        let signature = signer(1).parts(&init);
        come_back(Part::Init { init, signature });
        let first = Some(signature);
        let init = Init { first, ..init };
        come_back(Part::Init { init, signature });
        let bytes = vec![1, 2, 3];
        come_back(Part::Data { last: false, bytes });
        let third = signer(3);
        let proof = third.sign_validator_proof(third.address().0.0.to_vec(), vec![1, 2]);
        come_back(block_on(proof).unwrap());
    }

    #[test]
    fn tm_n3_tm_v11_limits_hold_before_allocation_and_for_the_largest_set() {
        let lying = Bytes::from_static(&[0xff; 600]);
        assert!(
            Malachite::<SignedConsensusMsg<ChainContext>>::decode(&Codec, lying.clone()).is_err()
        );
        assert!(Malachite::<Part>::decode(&Codec, lying).is_err());
        let one = vote(1, VoteType::Prevote, NilOrVal::Val(BLOCK));
        let all = vec![one; MAX_VALIDATORS];
        let skip = RoundCertificateType::Skip;
        let round = RoundCertificate::new_from_votes(Height(7), Round::new(2), skip, all);
        come_back_once(LivenessMsg::<ChainContext>::SkipRoundCertificate(round));
        let full = Part::Data {
            last: false,
            bytes: vec![7; PART_BYTES],
        };
        come_back_once(full);
        let mut state = 1u64;
        let mut random = move || {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 56) as u8
        };
        for _ in 0..2_000 {
            let len = usize::from(random());
            let bytes: Vec<u8> = (0..len)
                .map(|i| if i < 3 { random() & 3 } else { random() })
                .collect();
            fuzz_messages(&bytes);
        }
    }

    fn come_back_once<T: PartialEq + std::fmt::Debug>(value: T)
    where
        Codec: Malachite<T, Error = CodecError>,
    {
        let bytes = Codec.encode(&value).unwrap();
        assert_eq!(Codec.decode(bytes).as_ref(), Ok(&value));
    }

    #[test]
    fn three_of_four_precommits_are_a_certificate_of_the_chain() {
        let validators = set(&[1, 1, 1, 1]);
        let decided = precommits(&[4, 1, 3]);
        let ours = to_certificate(&decided).unwrap();
        ours.verify(&CHAIN, 7, &BLOCK, &validators).unwrap();
        let engine = ValidatorSet::from(std::sync::Arc::new(validators.clone()));
        let verifier = ChainVerifier::new(CHAIN);
        let check = |c: &CommitCertificate<ChainContext>| {
            let thresholds = ThresholdParams::default();
            let verdict = verifier.verify_commit_certificate(&ChainContext, c, &engine, thresholds);
            block_on(verdict).is_ok()
        };
        assert!(check(&decided));
        // The chain's certificate goes back to a peer and is accepted there.
        assert!(check(&from_certificate(&ours).trim_vote_extensions()));
        // Both refuse two of four, another chain, and a signature put under another name.
        let two = precommits(&[1, 2]);
        assert!(!check(&two));
        let two = to_certificate(&two).unwrap();
        assert!(two.verify(&CHAIN, 7, &BLOCK, &validators).is_err());
        assert!(
            ours.verify(&ChainId([8; 32]), 7, &BLOCK, &validators)
                .is_err()
        );
        let mut forged = precommits(&[1, 2, 3]);
        forged.commit_signatures[0].address = signer(4).address();
        assert!(!check(&forged));
        let forged = to_certificate(&forged).unwrap();
        assert!(forged.verify(&CHAIN, 7, &BLOCK, &validators).is_err());
        // By power, not by heads: 3 of 4 with half the power are no quorum.
        let weighted = set(&[1, 1, 1, 3]);
        assert!(
            to_certificate(&precommits(&[1, 2, 3]))
                .unwrap()
                .verify(&CHAIN, 7, &BLOCK, &weighted)
                .is_err()
        );
        let heavy = to_certificate(&precommits(&[1, 2, 4])).unwrap();
        heavy.verify(&CHAIN, 7, &BLOCK, &weighted).unwrap();
    }

    #[test]
    fn a_certificate_may_grow_and_names_each_signer_once() {
        let (three, four) = (precommits(&[1, 2, 3]), precommits(&[1, 2, 3, 4, 4]));
        let (three, four) = (
            to_certificate(&three).unwrap(),
            to_certificate(&four).unwrap(),
        );
        let Certificate::Ed25519V1 { sigs, .. } = &four;
        assert_eq!(sigs.len(), 4);
        assert!(sigs.windows(2).all(|w| w[0].0 < w[1].0));
        assert_ne!(three, four);
        four.verify(&CHAIN, 7, &BLOCK, &set(&[1, 1, 1, 1])).unwrap();
        let mut no_round = precommits(&[1, 2, 3]);
        no_round.round = Round::Nil;
        assert_eq!(to_certificate(&no_round), None);
    }

    #[test]
    fn tm_v11_votes_sign_different_bytes_for_every_kind_round_height_and_chain() {
        let mut seen = std::collections::BTreeSet::new();
        let mut count = 0;
        for chain in [CHAIN, ChainId([8; 32])] {
            for kind in [VoteType::Prevote, VoteType::Precommit] {
                for value in [
                    NilOrVal::Nil,
                    NilOrVal::Val(BLOCK),
                    NilOrVal::Val(BlockId([0; 32])),
                ] {
                    for (height, round) in [(7, 0), (7, 1), (8, 0)] {
                        for n in [1, 2] {
                            let vote = Vote {
                                kind,
                                height: Height(height),
                                round: Round::new(round),
                                value,
                                validator: signer(n).address(),
                            };
                            count += 1;
                            seen.insert(vote_bytes(&chain, &vote).unwrap());
                        }
                    }
                }
            }
        }
        assert_eq!(seen.len(), count);
        let mut vote = vote(1, VoteType::Precommit, NilOrVal::Val(BLOCK)).message;
        // A precommit for a block is the chain's own vote, so one verifier serves both engines.
        let ours = certificate::vote_bytes(&CHAIN, 7, 2, &BLOCK, &signer(1).address().0);
        assert_eq!(vote_bytes(&CHAIN, &vote), Some(ours));
        vote.round = Round::Nil;
        assert!(signer(1).vote(vote.clone()).is_err());
        let stray = Signature([0; 64]);
        assert!(!ChainVerifier::new(CHAIN).vote(&vote, &stray, &signer(1).address().0));
    }

    #[test]
    fn tm_c3_only_strict_signatures_count() {
        let signed = vote(1, VoteType::Prevote, NilOrVal::Nil);
        let verifier = ChainVerifier::new(CHAIN);
        let key = signer(1).address().0;
        assert!(verifier.vote(&signed.message, &signed.signature, &key));
        assert!(!verifier.vote(&signed.message, &signed.signature, &signer(2).address().0));
        // The neutral point as a key and as R, s = 0: the lax equation accepts this for any message.
        let mut neutral = [0; 32];
        neutral[0] = 1;
        let mut forged = [0; 64];
        forged[0] = 1;
        assert!(!verifier.vote(&signed.message, &Signature(forged), &ValidatorId(neutral)));
        let first = signer(1);
        let proof = first.sign_validator_proof(key.0.to_vec(), vec![4; 38]);
        let mut proof = block_on(proof).unwrap();
        assert!(
            block_on(verifier.verify_validator_proof(&proof))
                .unwrap()
                .is_valid()
        );
        proof.peer_id[0] ^= 1;
        assert!(
            block_on(verifier.verify_validator_proof(&proof))
                .unwrap()
                .is_invalid()
        );
        proof.public_key.pop();
        assert!(
            block_on(verifier.verify_validator_proof(&proof))
                .unwrap()
                .is_invalid()
        );
    }

    #[test]
    fn heights_saturate_and_proposers_follow_the_set() {
        use malachite_core_types::{Height as _, Validator as _, ValidatorSet as _};
        assert_eq!(Height(u64::MAX).increment(), Height(u64::MAX));
        assert_eq!(Height(0).decrement(), None);
        let set = ValidatorSet::from(std::sync::Arc::new(set(&[1, 2, 3])));
        assert_eq!((set.count(), set.total_voting_power()), (3, 6));
        for n in 0..3 {
            let v = set.get_by_index(n).unwrap();
            assert_eq!(set.get_by_address(v.address()), Some(v));
        }
        assert_eq!(set.get_by_address(&Address(ValidatorId([0; 32]))), None);
        let turn = |h, r| {
            *ChainContext
                .select_proposer(&set, Height(h), Round::new(r))
                .address()
        };
        assert_eq!(turn(7, 3), turn(9, 1));
        let all: std::collections::BTreeSet<_> = (0..20).map(|r| turn(u64::MAX - 3, r)).collect();
        assert_eq!(all.len(), 3);
    }
}
