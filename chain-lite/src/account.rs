//! Who acts and what is named: account addresses, provider ids, deal ids, transaction ids, the chain's own id.
//!
//! An address is an ed25519 public key; its text is bech32 with the prefix `hf` (`hf1…`), whose checksum catches typing
//! errors. Other 32-byte names are 64 lower-case hex digits. Bytes (borsh): the raw 32 bytes; a provider id is a `u64`.

use std::fmt;
use std::str::FromStr;

use bech32::{Bech32, Hrp};
use borsh::{BorshDeserialize, BorshSerialize};
use holdfast_light::serde_as_text;
use serde::{Deserialize, Serialize};

use crate::units::TokenAmount;

pub use holdfast_light::name::{
    Blake3Root, ChainId, DealId, DisputeDigest, NameError, NetKey, TxId,
};

/// Text prefix of addresses.
const ADDRESS_PREFIX: Hrp = Hrp::parse_unchecked("hf");

/// An account: an ed25519 public key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize)]
pub struct Address(pub [u8; 32]);

impl Address {
    /// The account that `key` signs for.
    pub fn of(key: &ed25519_dalek::VerifyingKey) -> Self {
        Self(key.to_bytes())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // 32 bytes are far below bech32's length limit, so encoding cannot fail for that reason.
        let text = bech32::encode::<Bech32>(ADDRESS_PREFIX, &self.0).map_err(|_| fmt::Error)?;
        f.pad(&text)
    }
}

impl FromStr for Address {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let bad = || NameError::new("address", text, "hf1… with a correct checksum");
        let parsed =
            bech32::primitives::decode::CheckedHrpstring::new::<Bech32>(text).map_err(|_| bad())?;
        if parsed.hrp() != ADDRESS_PREFIX {
            return Err(bad());
        }
        let bytes: Vec<u8> = parsed.byte_iter().collect();
        let address = Self(bytes.try_into().map_err(|_| bad())?);
        // Refuses upper case and non-zero padding bits: one text per address.
        if address.to_string() != text {
            Err(bad())
        } else {
            Ok(address)
        }
    }
}
serde_as_text!(Address);

/// A storage provider, numbered by the chain from [`ProviderId::FIRST`] in the order of registration.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    BorshSerialize,
    BorshDeserialize,
    Serialize,
    Deserialize,
)]
#[serde(transparent)]
pub struct ProviderId(pub u64);

impl ProviderId {
    /// The first provider of a chain. Filecoin starts its numbering of actors there too.
    pub const FIRST: Self = Self(1000);

    /// The form that enters replica ids and PoSt statements.
    pub fn prover_id(self) -> prover::ProverId {
        prover::ProverId::from_provider_id(self.0)
    }
}

impl fmt::Display for ProviderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl FromStr for ProviderId {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let bad = || NameError::new("provider id", text, "a decimal number");
        let id = Self(text.parse().map_err(|_| bad())?);
        if id.to_string() != text {
            Err(bad())
        } else {
            Ok(id)
        }
    }
}

/// A payment channel, numbered by the chain from 1 in the order of opening. Never used again.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    BorshSerialize,
    BorshDeserialize,
    Serialize,
    Deserialize,
)]
#[serde(transparent)]
pub struct ChannelId(pub u64);

impl fmt::Display for ChannelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// An account's leaf. An absent leaf is an account with nothing and nonce 0.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    BorshSerialize,
    BorshDeserialize,
    Serialize,
    Deserialize,
)]
pub struct Account {
    /// Money that its key may spend.
    pub free: TokenAmount,
    /// The nonce its next transaction must carry.
    pub nonce: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_one_text_and_its_checksum_counts() {
        let address = Address([7; 32]);
        let text = address.to_string();
        assert!(text.starts_with("hf1"));
        assert_eq!(text.parse::<Address>(), Ok(address));
        assert!(text.to_uppercase().parse::<Address>().is_err());
        for at in 3..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] = if bytes[at] == b'q' { b'p' } else { b'q' };
            assert!(
                String::from_utf8(bytes)
                    .expect("ASCII")
                    .parse::<Address>()
                    .is_err(),
                "digit {at}"
            );
        }
        let other = bech32::encode::<Bech32>(Hrp::parse_unchecked("bc"), &[7; 32]).expect("short");
        assert!(other.parse::<Address>().is_err());
        let short = bech32::encode::<Bech32>(ADDRESS_PREFIX, &[7; 31]).expect("short");
        assert!(short.parse::<Address>().is_err());
    }

    #[test]
    fn provider_ids_have_one_text() {
        assert!("01000".parse::<ProviderId>().is_err());
        assert_eq!("1000".parse::<ProviderId>(), Ok(ProviderId::FIRST));
    }
}
