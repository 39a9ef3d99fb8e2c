//! Bounded, canonical bytes: borsh in, borsh out, re-encoded and compared, limits before allocation.
//!
//! Everything hashed or signed goes through [`encode`] and comes back through [`decode`]. [`decode`] refuses input above
//! the caller's limit before it looks at it, refuses leftovers, and refuses any input that is not exactly what [`encode`]
//! would write for the value (`threat-model.md` V11). borsh itself reserves at most a few KiB ahead of the bytes it has
//! seen, so a lying length prefix costs nothing (N3). Text: lower-case hex.

use borsh::{BorshDeserialize, BorshSerialize};
use sha2::{Digest, Sha256};

/// Bytes that are not one canonical value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Longer than the format allows.
    #[error("{len} bytes, but at most {max} are allowed")]
    TooLong {
        /// Length found.
        len: u64,
        /// Limit of this format.
        max: u64,
    },
    /// Not a value of the expected type.
    #[error("malformed bytes: {0}")]
    Malformed(String),
    /// A value written in another way than the one way allowed.
    #[error("the bytes are not the canonical encoding of their value")]
    NotCanonical,
}

/// The canonical bytes of a value.
pub fn encode<T: BorshSerialize + ?Sized>(value: &T) -> Vec<u8> {
    borsh::to_vec(value).expect("borsh fails only when its writer does, and memory does not")
}

/// The one value that these bytes are the canonical encoding of, if they are at most `max` long.
pub fn decode<T: BorshDeserialize + BorshSerialize>(
    bytes: &[u8],
    max: usize,
) -> Result<T, CodecError> {
    if bytes.len() > max {
        return Err(CodecError::TooLong {
            len: bytes.len() as u64,
            max: max as u64,
        });
    }
    let value: T =
        borsh::from_slice(bytes).map_err(|error| CodecError::Malformed(error.to_string()))?;
    if encode(&value) != bytes {
        return Err(CodecError::NotCanonical);
    }
    Ok(value)
}

/// `SHA-256(tag ‖ parts…)`. Tags read `holdfast/<what>/v1` and end where a fixed-layout value begins, so no two
/// different things are ever hashed as the same bytes.
pub fn tagged_hash(tag: &str, parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(tag.as_bytes());
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().into()
}

/// Serde form of byte strings: lower-case hex text. Use with `#[serde(with = "holdfast_light::codec::hex_bytes")]`.
pub mod hex_bytes {
    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes hex.
    pub fn serialize<S: Serializer>(bytes: &[u8], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&hex::encode(bytes))
    }

    /// Reads hex.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
        hex::decode(<String as Deserialize>::deserialize(d)?).map_err(serde::de::Error::custom)
    }
}

/// serde for byte arrays as lower-case hexadecimal.
pub mod hex_array {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Writes hex.
    pub fn serialize<S: Serializer, const N: usize>(
        bytes: &[u8; N],
        s: S,
    ) -> Result<S::Ok, S::Error> {
        s.serialize_str(&hex::encode(bytes))
    }

    /// Reads exactly `N` bytes of hex.
    pub fn deserialize<'de, D: Deserializer<'de>, const N: usize>(
        d: D,
    ) -> Result<[u8; N], D::Error> {
        let text = String::deserialize(d)?;
        let mut bytes = [0; N];
        hex::decode_to_slice(&text, &mut bytes)
            .map_err(|e| D::Error::custom(format!("{N} bytes of hexadecimal: {e}")))?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn tm_v11_only_canonical_bytes_decode() {
        let set: BTreeSet<u8> = [3, 1, 2].into();
        let good = encode(&set);
        assert_eq!(decode::<BTreeSet<u8>>(&good, 64), Ok(set));
        // The same set in another order, and with an element twice.
        assert!(decode::<BTreeSet<u8>>(&[3, 0, 0, 0, 3, 1, 2], 64).is_err());
        assert!(decode::<BTreeSet<u8>>(&[4, 0, 0, 0, 1, 1, 2, 3], 64).is_err());
        let mut longer = good.clone();
        longer.push(0);
        assert!(matches!(
            decode::<BTreeSet<u8>>(&longer, 64),
            Err(CodecError::Malformed(_))
        ));
        assert_eq!(
            decode::<BTreeSet<u8>>(&good, 6),
            Err(CodecError::TooLong { len: 7, max: 6 })
        );
        assert!(
            decode::<Vec<u8>>(&[0xff, 0xff, 0xff, 0xff], 64).is_err(),
            "a length prefix that lies"
        );
    }
}
