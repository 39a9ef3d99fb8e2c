//! 32-byte names: of the chain, its deals and transactions, network keys and pieces. Text: 64 lower-case hex digits.
//!
//! Walk: every statement and signature names its chain by [`ChainId`]; `chain_lite::account` adds addresses and provider numbers.
//! Bytes (borsh): the raw 32 bytes.

use std::fmt;
use std::str::FromStr;

use borsh::{BorshDeserialize, BorshSerialize};

/// A name that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no {what}: expected {expected}")]
pub struct NameError {
    what: &'static str,
    text: String,
    expected: &'static str,
}

impl NameError {
    /// `text` was read as `what`, which is written as `expected`.
    pub fn new(what: &'static str, text: &str, expected: &'static str) -> Self {
        Self {
            what,
            text: text.into(),
            expected,
        }
    }
}

/// Declares serde and `Debug` by the type's own text.
#[macro_export]
macro_rules! serde_as_text {
    ($name:ident) => {
        impl ::serde::Serialize for $name {
            fn serialize<S: ::serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl<'de> ::serde::Deserialize<'de> for $name {
            fn deserialize<D: ::serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                <String as ::serde::Deserialize>::deserialize(d)?
                    .parse()
                    .map_err(::serde::de::Error::custom)
            }
        }
        impl ::std::fmt::Debug for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}

/// Declares a 32-byte name whose text is hex.
macro_rules! hex_name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize)]
        pub struct $name(pub [u8; 32]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }
        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                let bad = || NameError::new($what, text, "64 lower-case hex digits");
                let mut bytes = [0u8; 32];
                hex::decode_to_slice(text, &mut bytes).map_err(|_| bad())?;
                // One text per value: upper-case digits would be a second one.
                if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
                    return Err(bad());
                }
                Ok(Self(bytes))
            }
        }
        serde_as_text!($name);
    };
}

hex_name!(
    /// A deal: SHA-256 over the tagged canonical bytes of its proposal. Never reused.
    DealId, "deal id");
hex_name!(
    /// A transaction: SHA-256 over the tagged canonical bytes that its sender signed.
    TxId, "transaction id");
hex_name!(
    /// The chain itself, fixed by genesis; every signature names it.
    ChainId, "chain id");
hex_name!(
    /// Public ed25519 key that a provider's QUIC endpoint proves; clients pin it.
    NetKey, "network key");
hex_name!(
    /// BLAKE3 root of a piece's unpadded bytes, with which ranges are verified on their way.
    Blake3Root, "BLAKE3 root");
hex_name!(
    /// What announces a dispute: SHA-256 over its tagged sender, post and salt.
    DisputeDigest, "dispute digest");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_names_have_one_text() {
        let id = DealId([0xab; 32]);
        assert_eq!(id.to_string().parse::<DealId>(), Ok(id));
        assert!(id.to_string().to_uppercase().parse::<DealId>().is_err());
        assert!("ab".parse::<DealId>().is_err());
    }
}
