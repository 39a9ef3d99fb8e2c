//! The ask: a provider's standing terms, sent as its own words in every QUIC Hello.
//!
//! Place in the walk: a client reads it before it signs a proposal ([`crate::client`]); [`super::intake`] judges proposals by
//! the same value, so what was asked is what is accepted. `retrieval` carries it as opaque bytes.
//! Spec: `chain.md` §11 (`earliest_start` is quoted from the sealing backlog).
//!
//! Bytes: borsh, version first; at most [`MAX_ASK_BYTES`] are read. It is said over a channel that proves the
//! provider's network key and binds nobody: the chain only knows the proposal that the client signs.

use borsh::{BorshDeserialize, BorshSerialize};
use chain_lite::account::{ChainId, ProviderId};
use chain_lite::codec::{self, CodecError};
use chain_lite::units::{Epoch, EpochCount, TokenAmount, mul_div};
use prover::{PaddedPieceSize, SectorSize};
use serde::{Deserialize, Serialize};

/// Longest ask that is read.
pub const MAX_ASK_BYTES: usize = 1024;
/// The version written here; others are refused.
const VERSION: u8 = 1;
const GIB: u128 = 1 << 30;

/// A provider's terms at one moment.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
pub struct Ask {
    version: u8,
    /// The chain on which it counts.
    pub chain_id: ChainId,
    /// Who asks.
    pub provider: ProviderId,
    /// Size of its sectors: the largest padded piece.
    pub sector_size: SectorSize,
    /// Smallest padded piece it takes.
    pub min_piece: PaddedPieceSize,
    /// Padded bytes it would still take.
    pub free_bytes: u64,
    /// Least price for one padded GiB for one epoch.
    pub price_per_gib: TokenAmount,
    /// Earliest start it can promise to seal for, given its backlog.
    pub earliest_start: Epoch,
    /// Shortest deal.
    pub min_duration: EpochCount,
    /// Longest deal.
    pub max_duration: EpochCount,
}

/// Why bytes are no ask.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// Not canonical, or too long.
    #[error("the provider's terms cannot be read: {0}")]
    Bytes(#[from] CodecError),
    /// Another version.
    #[error("the provider speaks version {0} of the terms; this program reads version {VERSION}")]
    Version(u8),
}

/// The fields that a provider fills in; see [`Ask`].
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Smallest padded piece.
    pub min_piece: PaddedPieceSize,
    /// Padded bytes still taken.
    pub free_bytes: u64,
    /// For one padded GiB and epoch.
    pub price_per_gib: TokenAmount,
    /// Earliest start.
    pub earliest_start: Epoch,
    /// Shortest deal.
    pub min_duration: EpochCount,
    /// Longest deal.
    pub max_duration: EpochCount,
}

impl Ask {
    /// An ask of this version.
    pub fn new(
        chain_id: ChainId,
        provider: ProviderId,
        sector_size: SectorSize,
        terms: Terms,
    ) -> Self {
        Self {
            version: VERSION,
            chain_id,
            provider,
            sector_size,
            min_piece: terms.min_piece,
            free_bytes: terms.free_bytes,
            price_per_gib: terms.price_per_gib,
            earliest_start: terms.earliest_start,
            min_duration: terms.min_duration,
            max_duration: terms.max_duration,
        }
    }

    /// The bytes for the Hello.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Reads what a provider said: bounded, canonical, this version.
    pub fn decode(bytes: &[u8]) -> Result<Self, AskError> {
        // The version first: a later one may have more fields.
        if let Some(version) = bytes.first().filter(|version| **version != VERSION) {
            return Err(AskError::Version(*version));
        }
        Ok(codec::decode(bytes, MAX_ASK_BYTES)?)
    }

    /// Least price per epoch for a piece of this size, rounded up so that a small piece is not free.
    pub fn price(&self, size: PaddedPieceSize) -> TokenAmount {
        let exact = mul_div(self.price_per_gib.0, u128::from(size.bytes()), GIB);
        // A price that does not fit 128 bits is one that nobody can pay.
        let floor = exact.unwrap_or(u128::MAX);
        let covers = mul_div(floor, GIB, u128::from(size.bytes()));
        let up = u128::from(covers.is_ok_and(|covered| covered < self.price_per_gib.0));
        TokenAmount(floor.saturating_add(up))
    }

    /// Whether it takes a piece of this padded size at all.
    pub fn takes(&self, size: PaddedPieceSize) -> bool {
        (self.min_piece.bytes()..=self.sector_size.bytes().min(self.free_bytes))
            .contains(&size.bytes())
    }
}

/// What a client does with any bytes of a Hello: an error, or an ask that encodes to the same bytes and names a price for
/// every size. Body of the fuzz target.
pub fn fuzz_ask(bytes: &[u8]) {
    if let Ok(ask) = Ask::decode(bytes) {
        assert_eq!(ask.encode(), bytes, "one encoding per value");
        for size in [PaddedPieceSize::MIN, PaddedPieceSize::MAX] {
            ask.price(size);
            ask.takes(size);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ask() -> Ask {
        Ask::new(
            ChainId([7; 32]),
            ProviderId(1000),
            SectorSize::Mib8,
            Terms {
                min_piece: PaddedPieceSize::MIN,
                free_bytes: 1 << 30,
                price_per_gib: TokenAmount(10),
                earliest_start: Epoch(100),
                min_duration: EpochCount(60),
                max_duration: EpochCount(1000),
            },
        )
    }

    #[test]
    fn the_format_is_pinned() {
        let bytes = ask().encode();
        assert_eq!(Ask::decode(&bytes), Ok(ask()));
        assert_eq!(
            blake3::hash(&bytes).to_hex().as_str(),
            "a504a32cd20cb104f36e8291cd3f81ea8e17d84d9b3432b7dcaa33ad260f9bf3",
            "a changed format needs a new version: {}",
            bytes.len()
        );
    }

    #[test]
    fn later_versions_leftovers_and_overlong_asks_are_refused() {
        let mut later = ask().encode();
        later[0] = 2;
        assert_eq!(Ask::decode(&later), Err(AskError::Version(2)));
        let mut longer = ask().encode();
        longer.push(0);
        assert!(matches!(Ask::decode(&longer), Err(AskError::Bytes(_))));
        assert!(matches!(
            Ask::decode(&[VERSION; 4096]),
            Err(AskError::Bytes(_))
        ));
        assert!(Ask::decode(&[]).is_err());
    }

    #[test]
    fn prices_round_up_and_sizes_are_bounded() {
        let size = |bytes| PaddedPieceSize::new(bytes).expect("a valid size");
        assert_eq!(ask().price(size(1 << 30)), TokenAmount(10));
        assert_eq!(ask().price(size(128)), TokenAmount(1));
        assert!(ask().takes(size(8 << 20)) && !ask().takes(size(16 << 20)));
        let full = Ask {
            free_bytes: 256,
            ..ask()
        };
        assert!(full.takes(size(256)) && !full.takes(size(512)));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(ask) = Ask::decode(&bytes) {
                prop_assert_eq!(ask.encode(), bytes);
                let _ = ask.price(PaddedPieceSize::MAX);
            }
        }
    }
}
