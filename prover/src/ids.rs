//! Identifiers and randomness of the proofs: one type per quantity, bytes exactly as hashed.
//!
//! All byte types are 32 bytes, shown and read as 64 lower-case hex digits, hashed and stored (borsh) as the raw bytes.
//! [`SectorNumber`] is a `u64`: **big-endian** inside the replica id, **little-endian** inside PoSt (proofs.md §8.1), which
//! is why its byte order is chosen at each place of use and never by this type.

use crate::error::{ParseError, parse_hex};

/// 32 bytes: a leaf or node of every tree, little-endian and canonical where it is read as a field element.
pub type Node = [u8; 32];

/// Order of the BLS12-381 scalar field as little-endian bytes.
const FR_MODULUS_LE: [u8; 32] = [
    0x01, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0xfe, 0x5b, 0xfe, 0xff, 0x02, 0xa4, 0xbd, 0x53,
    0x05, 0xd8, 0xa1, 0x09, 0x08, 0xd8, 0x39, 0x33, 0x48, 0x7d, 0x9d, 0x29, 0x53, 0xa7, 0xed, 0x73,
];

/// Whether 32 little-endian bytes are below the field order, so that they name one field element (proofs.md §0).
pub fn is_canonical_fr(bytes: &Node) -> bool {
    for (byte, limit) in bytes.iter().zip(&FR_MODULUS_LE).rev() {
        if byte != limit {
            return byte < limit;
        }
    }
    false
}

/// Declares a 32-byte newtype with hex text, raw borsh and hex serde.
macro_rules! bytes32 {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, borsh::BorshSerialize, borsh::BorshDeserialize)]
        pub struct $name(pub [u8; 32]);

        impl $name {
            /// The bytes as stored and hashed.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }
        $crate::ids::bytes32_text!($name, $what);
        impl std::str::FromStr for $name {
            type Err = $crate::error::ParseError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                $crate::error::parse_hex($what, text).map(Self)
            }
        }
        impl From<[u8; 32]> for $name {
            fn from(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }
        }
    };
}

/// Debug, Display and serde of a 32-byte newtype whose `FromStr` does the checking.
macro_rules! bytes32_text {
    ($name:ident, $what:literal) => {
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), hex::encode(self.0))
            }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }
        $crate::ids::serde_text!($name);
    };
}

/// Serde through a type's `Display` and `FromStr`: the text that people write is the text in JSON.
macro_rules! serde_text {
    ($name:ident) => {
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                $crate::ids::deserialize_text(d)
            }
        }
    };
}
pub(crate) use {bytes32, bytes32_text, serde_text};

/// Reads a value through its `FromStr` from a borrowed or owned string.
pub(crate) fn deserialize_text<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: std::str::FromStr<Err = ParseError>,
{
    let text = <std::borrow::Cow<'de, str> as serde::Deserialize>::deserialize(deserializer)?;
    text.parse().map_err(serde::de::Error::custom)
}

bytes32!(
    /// Who seals: payload of the provider's id address, zero-padded (proofs.md §2.2).
    ProverId, "prover id");
bytes32!(
    /// Enters the graph seeds and the replica id, so a change of proof type changes the whole replica (proofs.md §2.1).
    PorepId, "porep id");
bytes32!(
    /// Chain randomness bound into the replica id at sealing time; used unmasked (proofs.md §2.2).
    Ticket, "ticket");
bytes32!(
    /// Chain randomness that chooses the PoRep challenges after CommR is fixed; used unmasked (proofs.md §4.2).
    Seed, "PoRep seed");
bytes32!(
    /// Key of a sector's labels: hash of prover, sector number, ticket, CommD and porep id (proofs.md §2.2).
    ReplicaId, "replica id");

impl ProverId {
    /// Unsigned LEB128 of the provider's id, left-aligned and zero-padded (proofs.md §2.2, `DESIGN.md` §5).
    pub const fn from_provider_id(mut id: u64) -> Self {
        let mut bytes = [0u8; 32];
        let mut at = 0;
        while id >= 0x80 {
            // Low seven bits with the continuation flag: always fits a byte.
            bytes[at] = id.to_le_bytes()[0] | 0x80;
            id >>= 7;
            at += 1;
        }
        bytes[at] = id.to_le_bytes()[0];
        Self(bytes)
    }
}

/// Randomness of a PoSt. Always canonical as a field element: Filecoin's verifier refuses other values, and the chain
/// clears the two top bits before it hands the value out (proofs.md §5.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, borsh::BorshSerialize)]
pub struct PostRandomness([u8; 32]);

impl PostRandomness {
    /// Accepts 32 bytes that are a canonical field element.
    pub fn new(bytes: [u8; 32]) -> Result<Self, ParseError> {
        if is_canonical_fr(&bytes) {
            Ok(Self(bytes))
        } else {
            Err(ParseError::new(
                "PoSt randomness",
                "not below the field order; clear the two top bits of byte 31 as the chain does",
            ))
        }
    }

    /// Clears the two top bits of the last byte, as the chain does with its randomness before a PoSt.
    pub const fn masked(mut bytes: [u8; 32]) -> Self {
        bytes[31] &= 0x3f;
        Self(bytes)
    }

    /// The bytes as hashed.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl borsh::BorshDeserialize for PostRandomness {
    fn deserialize_reader<R: std::io::Read>(reader: &mut R) -> std::io::Result<Self> {
        Self::new(<[u8; 32]>::deserialize_reader(reader)?).map_err(ParseError::into_io)
    }
}

impl std::str::FromStr for PostRandomness {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        Self::new(parse_hex("PoSt randomness", text)?)
    }
}
bytes32_text!(PostRandomness, "PoSt randomness");

/// Number of a sector within its provider; never reused.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    borsh::BorshSerialize,
    borsh::BorshDeserialize,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(transparent)]
pub struct SectorNumber(pub u64);

impl std::fmt::Display for SectorNumber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl std::str::FromStr for SectorNumber {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let number: u64 = text.parse().map_err(|_| {
            ParseError::new(
                "sector number",
                "expected decimal digits of a number below 2^64",
            )
        })?;
        // One text per value: no sign, no leading zeros.
        if number.to_string() != text {
            return Err(ParseError::new(
                "sector number",
                "write it in plain decimal without sign or leading zeros",
            ));
        }
        Ok(Self(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prover_id_is_padded_leb128() {
        let mut expected = [0u8; 32];
        assert_eq!(ProverId::from_provider_id(0).0, expected);
        expected[..2].copy_from_slice(&[0xe8, 0x07]); // 1000
        assert_eq!(ProverId::from_provider_id(1000).0, expected);
        let mut max = [0u8; 32];
        max[..9].fill(0xff);
        max[9] = 1;
        assert_eq!(ProverId::from_provider_id(u64::MAX).0, max);
    }

    #[test]
    fn canonical_below_the_order_only() {
        let mut order = FR_MODULUS_LE;
        assert!(!is_canonical_fr(&order));
        order[0] = 0;
        assert!(is_canonical_fr(&order));
        assert!(is_canonical_fr(&[0; 32]));
        assert!(!is_canonical_fr(&[0xff; 32]));
        assert!(PostRandomness::new(FR_MODULUS_LE).is_err());
        assert!(PostRandomness::new(*PostRandomness::masked([0xff; 32]).as_bytes()).is_ok());
    }

    #[test]
    fn randomness_read_from_borsh_and_json_is_checked() {
        assert!(borsh::from_slice::<PostRandomness>(&[0xff; 32]).is_err());
        assert!(borsh::from_slice::<PostRandomness>(&[0x11; 32]).is_ok());
        assert!(
            serde_json::from_str::<PostRandomness>(&format!("\"{}\"", "ff".repeat(32))).is_err()
        );
    }

    #[test]
    fn text_has_one_form_per_value() {
        let id = ProverId([0xab; 32]);
        assert_eq!(id.to_string().parse::<ProverId>(), Ok(id));
        assert!(id.to_string().to_uppercase().parse::<ProverId>().is_err());
        assert!("ab".parse::<ProverId>().is_err());
        assert!("+7".parse::<SectorNumber>().is_err());
        assert!("007".parse::<SectorNumber>().is_err());
        assert_eq!("7".parse::<SectorNumber>(), Ok(SectorNumber(7)));
        let json = serde_json::to_string(&id).expect("hex text always serialises");
        assert_eq!(
            serde_json::from_str::<ProverId>(&json).expect("what was written reads back"),
            id
        );
        assert_eq!(borsh::to_vec(&id).expect("writing to memory"), id.0);
    }
}
