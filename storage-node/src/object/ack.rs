//! The provider's acknowledgement of a piece: "I recomputed both roots from the bytes I hold, under this deal."
//!
//! Walk: the opaque answer of `retrieval::push`; made by `provider::intake` after the piece is durable, checked by
//! [`crate::client::put`] before anything is called received. Rung 1 of the proof ladder (`DESIGN.md` §3), threat C4.
//!
//! ```text
//! version u8 = 1 ‖ deal id 32 ‖ CommP 32 ‖ BLAKE3 root 32 ‖ unpadded bytes u64 ‖ signature 64     (borsh, 169 bytes)
//! signature = ed25519 by the provider's network key over "holdfast/piece-ack/v1" ‖ everything before it
//! ```
//!
//! The network key is the one that the client already pins in TLS from the chain's record, and the one that lives where the
//! bytes live. A client keeps acknowledgements in its journal; they are evidence, not money.

use borsh::{BorshDeserialize, BorshSerialize};
use chain_lite::account::{Address, Blake3Root, DealId, NetKey};
use chain_lite::codec;
use chain_lite::message::{Signature, verify_strict};
use ed25519_dalek::{Signer, SigningKey};
use prover::CommP;

/// Bytes of an encoded acknowledgement.
pub const ACK_BYTES: usize = 1 + 32 + 32 + 32 + 8 + 64;
const VERSION: u8 = 1;
const DOMAIN: &[u8] = b"holdfast/piece-ack/v1";

/// What a provider acknowledges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct PieceAck {
    /// The deal under which the piece is held.
    pub deal: DealId,
    /// Its piece commitment, recomputed by the provider.
    pub comm_p: CommP,
    /// Its BLAKE3 root, recomputed by the provider.
    pub blake3_root: Blake3Root,
    /// Bytes before padding.
    pub bytes: u64,
}

/// Why an acknowledgement does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AckError {
    /// Not the bytes of an acknowledgement.
    #[error("the acknowledgement is malformed")]
    Malformed,
    /// Not signed by the provider's network key.
    #[error("the acknowledgement is not signed by the provider's network key")]
    Signature,
    /// Signed, but for something else: the provider lies or mixes pieces up.
    #[error("the acknowledgement is for other bytes or another deal")]
    Different,
}

#[derive(BorshSerialize, BorshDeserialize)]
struct Signed {
    version: u8,
    ack: PieceAck,
    signature: Signature,
}

impl PieceAck {
    /// The signed bytes that travel; `key` is the provider's network key.
    pub fn sign(&self, key: &SigningKey) -> Vec<u8> {
        let signature = Signature(key.sign(&self.signing_bytes()).to_bytes());
        codec::encode(&Signed {
            version: VERSION,
            ack: *self,
            signature,
        })
    }

    /// Checks that `bytes` are this acknowledgement signed by `key`.
    pub fn verify(&self, bytes: &[u8], key: &NetKey) -> Result<(), AckError> {
        let signed: Signed = codec::decode(bytes, ACK_BYTES).map_err(|_| AckError::Malformed)?;
        if signed.version != VERSION {
            return Err(AckError::Malformed);
        }
        if !verify_strict(
            &Address(key.0),
            &signed.ack.signing_bytes(),
            &signed.signature,
        ) {
            return Err(AckError::Signature);
        }
        if signed.ack != *self {
            return Err(AckError::Different);
        }
        Ok(())
    }

    fn signing_bytes(&self) -> Vec<u8> {
        [DOMAIN, &[VERSION], &codec::encode(self)].concat()
    }
}

/// Any bytes are an error: nobody has the key. Body of the fuzz target.
pub fn fuzz_verify(bytes: &[u8]) {
    let expected = PieceAck {
        deal: DealId([0; 32]),
        comm_p: CommP([0; 32]),
        blake3_root: Blake3Root([0; 32]),
        bytes: 0,
    };
    // The network key of seed [7; 32]; a fuzzer that signs with it would have broken ed25519.
    let key = SigningKey::from_bytes(&[7; 32]).verifying_key().to_bytes();
    assert!(expected.verify(bytes, &NetKey(key)).is_err());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_refused_calmly(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            fuzz_verify(&bytes);
        }
    }

    fn ack() -> PieceAck {
        PieceAck {
            deal: DealId([1; 32]),
            comm_p: CommP::from([2; 32]),
            blake3_root: Blake3Root([3; 32]),
            bytes: 1000,
        }
    }

    #[test]
    fn tm_c4_only_this_ack_by_this_key_counts() {
        let key = SigningKey::from_bytes(&[7; 32]);
        let net_key = NetKey(key.verifying_key().to_bytes());
        let bytes = ack().sign(&key);
        assert_eq!(bytes.len(), ACK_BYTES);
        assert_eq!(ack().verify(&bytes, &net_key), Ok(()));

        let other = SigningKey::from_bytes(&[8; 32]);
        assert_eq!(
            ack().verify(&ack().sign(&other), &net_key),
            Err(AckError::Signature)
        );
        let another_piece = PieceAck {
            bytes: 1001,
            ..ack()
        };
        assert_eq!(
            ack().verify(&another_piece.sign(&key), &net_key),
            Err(AckError::Different)
        );
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(ack().verify(&bad, &net_key).is_err(), "byte {at}");
        }
        assert_eq!(
            ack().verify(&bytes[1..], &net_key),
            Err(AckError::Malformed)
        );
    }
}
