//! The two sizes of a piece: padded (what trees and sectors count) and unpadded (what a client counts).
//!
//! `padded = 128 · 2^k`, `unpadded = 127 · 2^k` (proofs.md §1.1, §1.3). Both are checked where they enter: text, JSON and
//! borsh refuse other numbers, so code behind them never meets a size that is not a power of two times its unit.
//! Bytes: `u64`, little-endian in borsh, a plain number in JSON.

use crate::error::ParseError;
use crate::spec::NODE_BYTES;

const PADDED_UNIT: u64 = 128;
const UNPADDED_UNIT: u64 = 127;
/// 64 GiB, the largest sector: no piece can be larger, and every sum of sizes stays far below 2^64.
const MAX_LOG2_UNITS: u32 = 29;

/// Padded bytes of a piece: a power of two from 128 bytes to 64 GiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, borsh::BorshSerialize)]
pub struct PaddedPieceSize(u64);

/// Bytes of a piece as its client wrote them: 127 times a power of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, borsh::BorshSerialize)]
pub struct UnpaddedPieceSize(u64);

impl PaddedPieceSize {
    /// The smallest piece: one block of 127 bytes.
    pub const MIN: Self = Self(PADDED_UNIT);
    /// The largest piece: a whole 64 GiB sector.
    pub const MAX: Self = Self(PADDED_UNIT << MAX_LOG2_UNITS);

    /// Accepts a power of two from 128 bytes to 64 GiB.
    pub fn new(bytes: u64) -> Result<Self, ParseError> {
        if bytes.is_power_of_two() && (Self::MIN.0..=Self::MAX.0).contains(&bytes) {
            Ok(Self(bytes))
        } else {
            let why = format!("{bytes} bytes; expected a power of two from 128 bytes to 64 GiB");
            Err(ParseError::new("padded piece size", why))
        }
    }

    /// The smallest padded size that holds `len` unpadded bytes; `None` above 64 GiB.
    pub fn fitting(len: u64) -> Option<Self> {
        let blocks = len
            .div_ceil(UNPADDED_UNIT)
            .max(1)
            .checked_next_power_of_two()?;
        Self::new(blocks.checked_mul(PADDED_UNIT)?).ok()
    }

    /// Padded bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// Leaves of 32 bytes.
    pub const fn nodes(self) -> u64 {
        self.0 / NODE_BYTES as u64
    }

    /// Height of the piece's tree: log2 of its leaves.
    pub const fn height(self) -> u32 {
        self.nodes().trailing_zeros()
    }

    /// Bytes of client data that fit.
    pub const fn unpadded(self) -> UnpaddedPieceSize {
        UnpaddedPieceSize(self.0 / PADDED_UNIT * UNPADDED_UNIT)
    }
}

impl UnpaddedPieceSize {
    /// Accepts 127 times a power of two, up to a 64 GiB sector's worth.
    pub fn new(bytes: u64) -> Result<Self, ParseError> {
        let blocks = bytes / UNPADDED_UNIT;
        if bytes.is_multiple_of(UNPADDED_UNIT)
            && blocks.is_power_of_two()
            && blocks.trailing_zeros() <= MAX_LOG2_UNITS
        {
            Ok(Self(bytes))
        } else {
            let why =
                format!("{bytes} bytes; expected 127 times a power of two, up to 64 GiB padded");
            Err(ParseError::new("unpadded piece size", why))
        }
    }

    /// Unpadded bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// The size after Fr32 padding.
    pub const fn padded(self) -> PaddedPieceSize {
        PaddedPieceSize(self.0 / UNPADDED_UNIT * PADDED_UNIT)
    }
}

macro_rules! checked_u64 {
    ($name:ident) => {
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{}", self.0)
            }
        }
        impl TryFrom<u64> for $name {
            type Error = ParseError;
            fn try_from(bytes: u64) -> Result<Self, ParseError> {
                Self::new(bytes)
            }
        }
        impl borsh::BorshDeserialize for $name {
            fn deserialize_reader<R: std::io::Read>(reader: &mut R) -> std::io::Result<Self> {
                Self::new(u64::deserialize_reader(reader)?).map_err(ParseError::into_io)
            }
        }
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_u64(self.0)
            }
        }
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                Self::new(<u64 as serde::Deserialize>::deserialize(d)?)
                    .map_err(serde::de::Error::custom)
            }
        }
    };
}
checked_u64!(PaddedPieceSize);
checked_u64!(UnpaddedPieceSize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_convert_and_refuse() {
        let one = PaddedPieceSize::new(128).expect("smallest size");
        assert_eq!(
            (one.nodes(), one.height(), one.unpadded().bytes()),
            (4, 2, 127)
        );
        assert_eq!(
            UnpaddedPieceSize::new(2032)
                .expect("127 * 16")
                .padded()
                .bytes(),
            2048
        );
        for bad in [0, 1, 64, 127, 129, 192, 1 << 37, u64::MAX] {
            assert!(PaddedPieceSize::new(bad).is_err(), "{bad}");
            assert!(UnpaddedPieceSize::new(bad).is_err() || bad == 127, "{bad}");
        }
        assert!(UnpaddedPieceSize::new(127 * 3).is_err());
        assert!(UnpaddedPieceSize::new(127 << 30).is_err());
    }

    #[test]
    fn fitting_is_the_smallest_that_holds() {
        for (len, padded) in [
            (0, 128),
            (1, 128),
            (127, 128),
            (128, 256),
            (254, 256),
            (255, 512),
            (127 << 29, 1 << 36),
        ] {
            assert_eq!(
                PaddedPieceSize::fitting(len).map(PaddedPieceSize::bytes),
                Some(padded),
                "{len}"
            );
        }
        assert_eq!(PaddedPieceSize::fitting((127 << 29) + 1), None);
        assert_eq!(PaddedPieceSize::fitting(u64::MAX), None);
    }

    #[test]
    fn decoders_check() {
        assert!(borsh::from_slice::<PaddedPieceSize>(&129u64.to_le_bytes()).is_err());
        assert!(serde_json::from_str::<PaddedPieceSize>("129").is_err());
        assert_eq!(
            serde_json::from_str::<PaddedPieceSize>("256")
                .expect("a power of two")
                .bytes(),
            256
        );
    }
}
