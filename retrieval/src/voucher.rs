//! Vouchers: what a reader signs to pay a provider out of a channel that it has opened on the chain.
//!
//! Walk: a channel is opened on chain; its payer signs vouchers, each saying how much of it is the payee's *in all* on one lane;
//! the payee keeps the newest of each lane and redeems it on chain. Losing an older one costs nobody anything. Serving and
//! fetching do not ask for vouchers in this version: reads are free, and frame type 8 stays refused ([`crate::wire`]).
//! Spec: `chain.md` §14, `network.md` §2.4. Pure.
//!
//! ```text
//! signed   "holdfast/voucher/v1" ‖ voucher
//! voucher  chain id 32 | channel u64 | lane u64 | nonce u64 | amount u128      72 bytes, little-endian
//! on paper voucher ‖ ed25519 signature 64                                      136 bytes, as text 272 hex digits
//! ```
//! This crate does not know the chain's, so both write these bytes for themselves; a test in `storage-node`, which knows both, holds
//! them together. One encoding for each voucher: the length is fixed and every bit pattern is a voucher.
//!
//! Threat R1: a voucher names chain, channel, lane and a nonce that only rises, so one that is shown twice, or elsewhere, is worth
//! nothing ([`Voucher::gain_over`]). Cost: one strict signature to check, 40 µs; nothing is allocated but the text.

use std::{fmt, str::FromStr};

use borsh::{BorshDeserialize, BorshSerialize};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};

/// What stands before a voucher's bytes when it is signed.
const DOMAIN: &[u8] = b"holdfast/voucher/v1";
/// Bytes of a voucher.
pub const VOUCHER_BYTES: usize = 32 + 8 + 8 + 8 + 16;
/// Bytes of a signed voucher.
pub const SIGNED_BYTES: usize = VOUCHER_BYTES + 64;

/// So much of the channel is the payee's on this lane, in all.
#[derive(Clone, Copy, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub struct Voucher {
    /// The chain on which it counts.
    pub chain_id: [u8; 32],
    /// The channel that it draws on.
    pub channel: u64,
    /// One for each parallel session; 0 unless there are several.
    pub lane: u64,
    /// Higher than that of the lane's voucher before; the first is 1.
    pub nonce: u64,
    /// All that the lane has promised so far, in the token's smallest units.
    pub amount: u128,
}

/// Why a voucher does not follow another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VoucherError {
    /// Of another chain, channel or lane.
    #[error("it is of another chain, channel or lane")]
    Elsewhere,
    /// Shown before, or older than one that was.
    #[error("its nonce is {nonce}, and {last} was used before")]
    Used {
        /// Its own.
        nonce: u64,
        /// The highest so far.
        last: u64,
    },
    /// Promises less than one before it.
    #[error("it promises {amount} units in all, and {before} were promised before")]
    Less {
        /// Its own.
        amount: u128,
        /// The most so far.
        before: u128,
    },
    /// No nonce is left on this lane.
    #[error("the lane has no nonce left; use another lane")]
    Exhausted,
}

impl Voucher {
    /// What a lane has before its first voucher: nonce 0, nothing promised.
    pub fn none(chain_id: [u8; 32], channel: u64, lane: u64) -> Self {
        Self {
            chain_id,
            channel,
            lane,
            nonce: 0,
            amount: 0,
        }
    }

    /// The lane's next voucher, for `amount` units in all: never less than before.
    pub fn next(&self, amount: u128) -> Result<Self, VoucherError> {
        if amount < self.amount {
            let before = self.amount;
            return Err(VoucherError::Less { amount, before });
        }
        let nonce = self.nonce.checked_add(1).ok_or(VoucherError::Exhausted)?;
        Ok(Self {
            nonce,
            amount,
            ..*self
        })
    }

    /// Units that this one promises beyond `last`, the newest that its payee has of the lane. The payee asks this before it
    /// gives anything for it.
    pub fn gain_over(&self, last: &Self) -> Result<u128, VoucherError> {
        let place = |voucher: &Self| (voucher.chain_id, voucher.channel, voucher.lane);
        if place(self) != place(last) {
            return Err(VoucherError::Elsewhere);
        }
        if self.nonce <= last.nonce {
            return Err(VoucherError::Used {
                nonce: self.nonce,
                last: last.nonce,
            });
        }
        self.amount
            .checked_sub(last.amount)
            .ok_or(VoucherError::Less {
                amount: self.amount,
                before: last.amount,
            })
    }

    /// What the payer signs.
    pub fn signing_bytes(&self) -> Vec<u8> {
        let mut bytes = DOMAIN.to_vec();
        bytes.extend(borsh::to_vec(self).expect("memory does not fail to be written"));
        bytes
    }

    /// With its payer's signature.
    pub fn sign(self, payer: &SigningKey) -> SignedVoucher {
        SignedVoucher {
            voucher: self,
            signature: payer.sign(&self.signing_bytes()).to_bytes(),
        }
    }
}

/// A voucher with a signature that has not been checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub struct SignedVoucher {
    /// What is promised.
    pub voucher: Voucher,
    /// The payer's, over [`Voucher::signing_bytes`].
    pub signature: [u8; 64],
}

/// Text or bytes that are no voucher.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a voucher is {} hex digits, as `channel voucher` prints them", 2 * SIGNED_BYTES)]
pub struct ParseVoucherError;

impl SignedVoucher {
    /// Whether the account with the ed25519 key `payer` signed it, by the strict rules that the chain applies.
    pub fn is_from(&self, payer: &[u8; 32]) -> bool {
        let signature = Signature::from_bytes(&self.signature);
        VerifyingKey::from_bytes(payer).is_ok_and(|key| {
            key.verify_strict(&self.voucher.signing_bytes(), &signature)
                .is_ok()
        })
    }

    /// The bytes that are handed over.
    pub fn to_bytes(&self) -> Vec<u8> {
        borsh::to_vec(self).expect("memory does not fail to be written")
    }

    /// Reads [`SignedVoucher::to_bytes`]: exactly [`SIGNED_BYTES`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ParseVoucherError> {
        borsh::from_slice(bytes).map_err(|_| ParseVoucherError)
    }
}

impl fmt::Display for SignedVoucher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.to_bytes()))
    }
}

impl FromStr for SignedVoucher {
    type Err = ParseVoucherError;

    fn from_str(text: &str) -> Result<Self, ParseVoucherError> {
        let mut bytes = [0; SIGNED_BYTES];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| ParseVoucherError)?;
        Self::from_bytes(&bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> SigningKey {
        SigningKey::from_bytes(&[7; 32])
    }

    fn first() -> Voucher {
        Voucher::none([1; 32], 2, 3).next(50).expect("more")
    }

    #[test]
    fn a_voucher_has_one_text_and_one_length_and_every_bit_is_signed() {
        let signed = first().sign(&key());
        let payer = key().verifying_key().to_bytes();
        assert!(signed.is_from(&payer) && !signed.is_from(&[7; 32]));
        assert_eq!(signed.to_bytes().len(), SIGNED_BYTES);
        assert_eq!(signed.to_string().parse(), Ok(signed));
        for at in 0..SIGNED_BYTES {
            let mut bytes = signed.to_bytes();
            bytes[at] ^= 1;
            let other = SignedVoucher::from_bytes(&bytes).expect("as long");
            assert!(!other.is_from(&payer), "byte {at} is not signed");
        }
        let bytes = signed.to_bytes();
        for bad in [&bytes[1..], &[&bytes[..], &[0]].concat()[..], &[]] {
            assert!(SignedVoucher::from_bytes(bad).is_err());
            assert!(hex::encode(bad).parse::<SignedVoucher>().is_err());
        }
    }

    #[test]
    fn a_voucher_that_was_shown_before_or_is_of_elsewhere_is_worth_nothing() {
        let first = first();
        let second = first.next(80).expect("more");
        assert_eq!(second.nonce, 2);
        assert_eq!(second.gain_over(&first), Ok(30));
        assert_eq!(
            first.gain_over(&first),
            Err(VoucherError::Used { nonce: 1, last: 1 })
        );
        assert!(matches!(
            first.gain_over(&second),
            Err(VoucherError::Used { .. })
        ));
        let less = Voucher {
            amount: 10,
            ..second
        };
        assert!(matches!(
            less.gain_over(&first),
            Err(VoucherError::Less { .. })
        ));
        assert!(matches!(first.next(49), Err(VoucherError::Less { .. })));
        let elsewhere = [
            Voucher {
                chain_id: [9; 32],
                ..second
            },
            Voucher {
                channel: 9,
                ..second
            },
            Voucher { lane: 9, ..second },
        ];
        for voucher in elsewhere {
            assert_eq!(voucher.gain_over(&first), Err(VoucherError::Elsewhere));
        }
        let last = Voucher {
            nonce: u64::MAX,
            ..first
        };
        assert_eq!(last.next(60), Err(VoucherError::Exhausted));
    }
}
