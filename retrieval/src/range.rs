//! Byte ranges of a piece, checked once: ascending, disjoint, non-empty, few.
//!
//! Walk: a client turns "these stripes" into [`Ranges`]; the wire carries them; `verify` rounds them out to groups.
//! Threat R3: offset overflow, empty, unaligned and past-the-end ranges are refused here and nowhere else, so the code
//! behind may add and subtract without thought.
//! Bytes (borsh): `u32 count || count × (u64 start, u64 end)`, little-endian; one encoding per set of bytes, because
//! touching ranges must be merged.

use std::{fmt, ops::Range};

use borsh::{BorshDeserialize, BorshSerialize};

/// The group that BLAKE3 verification works in: 16 chunks of 1 KiB.
pub const GROUP_BYTES: u64 = 16 * 1024;
/// Most ranges in one request (`network.md` §2.4).
pub const MAX_RANGES: usize = 64;
/// The largest piece that can be named: the largest sector, far from any overflow.
pub const MAX_PIECE_BYTES: u64 = 64 << 30;

/// Why a list of ranges is not acceptable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// No range at all.
    #[error("a request names at least one byte range")]
    None,
    /// More than [`MAX_RANGES`].
    #[error("{0} ranges in one request; at most {MAX_RANGES} are allowed, split the request")]
    TooMany(usize),
    /// `start >= end`.
    #[error("range {start}..{end} is empty or backwards")]
    Empty {
        /// First byte.
        start: u64,
        /// One past the last byte.
        end: u64,
    },
    /// Not strictly ascending with a gap: overlapping or touching ranges have a shorter spelling.
    #[error("range starting at {start} does not lie clear behind the one ending at {previous_end}")]
    Order {
        /// End of the range before.
        previous_end: u64,
        /// Start of the offending range.
        start: u64,
    },
    /// Ends behind the piece, or behind any piece there can be.
    #[error("range ends at byte {end}, but the piece has {size} bytes")]
    PastEnd {
        /// One past the last byte asked for.
        end: u64,
        /// The piece's size in bytes.
        size: u64,
    },
}

/// A checked, canonical list of byte ranges.
#[derive(Clone, PartialEq, Eq, Hash, BorshSerialize)]
pub struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    /// Checks a list that is already canonical.
    pub fn new(list: impl IntoIterator<Item = Range<u64>>) -> Result<Self, RangeError> {
        let list: Vec<_> = list
            .into_iter()
            .take(MAX_RANGES + 1)
            .map(|r| (r.start, r.end))
            .collect();
        Self::check(list)
    }

    /// One range.
    pub fn single(range: Range<u64>) -> Result<Self, RangeError> {
        Self::check(vec![(range.start, range.end)])
    }

    /// All bytes of a piece.
    pub fn whole(size: u64) -> Result<Self, RangeError> {
        Self::single(0..size)
    }

    fn check(list: Vec<(u64, u64)>) -> Result<Self, RangeError> {
        if list.is_empty() {
            return Err(RangeError::None);
        }
        if list.len() > MAX_RANGES {
            return Err(RangeError::TooMany(list.len()));
        }
        let mut previous_end = None;
        for &(start, end) in &list {
            if start >= end {
                return Err(RangeError::Empty { start, end });
            }
            if end > MAX_PIECE_BYTES {
                return Err(RangeError::PastEnd {
                    end,
                    size: MAX_PIECE_BYTES,
                });
            }
            if let Some(previous_end) = previous_end.filter(|&previous_end| start <= previous_end) {
                return Err(RangeError::Order {
                    previous_end,
                    start,
                });
            }
            previous_end = Some(end);
        }
        Ok(Self(list))
    }

    /// Refuses ranges that leave a piece of `size` bytes.
    pub fn within(&self, size: u64) -> Result<(), RangeError> {
        let end = self.end();
        if end > size {
            Err(RangeError::PastEnd { end, size })
        } else {
            Ok(())
        }
    }

    /// The ranges in ascending order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Range<u64>> + '_ {
        self.0.iter().map(|&(start, end)| start..end)
    }

    /// One past the last byte of the last range.
    pub fn end(&self) -> u64 {
        self.0.last().map_or(0, |&(_, end)| end)
    }

    /// Bytes asked for, before rounding to groups.
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|&(start, end)| end - start).sum()
    }

    /// The same bytes rounded out to whole groups of a piece of `size` bytes; ranges that then touch are merged.
    pub fn to_groups(&self, size: u64) -> Result<Self, RangeError> {
        self.within(size)?;
        let mut list: Vec<(u64, u64)> = Vec::with_capacity(self.0.len());
        for &(start, end) in &self.0 {
            let start = start / GROUP_BYTES * GROUP_BYTES;
            let end = end.next_multiple_of(GROUP_BYTES).min(size);
            match list.last_mut() {
                Some(last) if start <= last.1 => last.1 = last.1.max(end),
                _ => list.push((start, end)),
            }
        }
        Self::check(list)
    }
}

impl fmt::Debug for Ranges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl BorshDeserialize for Ranges {
    fn deserialize_reader<R: std::io::Read>(reader: &mut R) -> std::io::Result<Self> {
        let invalid =
            |error: RangeError| std::io::Error::new(std::io::ErrorKind::InvalidData, error);
        let count = u32::deserialize_reader(reader)? as usize;
        if count > MAX_RANGES {
            return Err(invalid(RangeError::TooMany(count)));
        }
        let mut list = Vec::with_capacity(count);
        for _ in 0..count {
            list.push(<(u64, u64)>::deserialize_reader(reader)?);
        }
        Self::check(list).map_err(invalid)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tm_r3_each_range_trick_is_refused_by_name() {
        assert_eq!(Ranges::new([]), Err(RangeError::None));
        assert_eq!(
            Ranges::single(5..5),
            Err(RangeError::Empty { start: 5, end: 5 })
        );
        assert_eq!(
            Ranges::new([0..4, 4..8]),
            Err(RangeError::Order {
                previous_end: 4,
                start: 4
            })
        );
        assert_eq!(
            Ranges::new([8..9, 0..4]),
            Err(RangeError::Order {
                previous_end: 9,
                start: 0
            })
        );
        assert!(matches!(
            Ranges::single(0..u64::MAX),
            Err(RangeError::PastEnd { .. })
        ));
        assert!(matches!(
            Ranges::single(u64::MAX - 1..u64::MAX),
            Err(RangeError::PastEnd { .. })
        ));
        assert_eq!(
            Ranges::new((0..65).map(|i| i * 10..i * 10 + 1)),
            Err(RangeError::TooMany(65))
        );
        assert!(Ranges::single(0..11).expect("a range").within(10).is_err());
        assert!(Ranges::single(0..10).expect("a range").within(10).is_ok());
    }

    #[test]
    fn tm_r3_a_declared_count_allocates_nothing() {
        let mut bytes = u32::MAX.to_le_bytes().to_vec();
        bytes.extend([0; 16]);
        assert!(borsh::from_slice::<Ranges>(&bytes).is_err());
    }

    /// Any list of pairs: mostly small, sometimes at the edges of `u64`.
    fn any_pairs() -> impl Strategy<Value = Vec<(u64, u64)>> {
        let edge = prop_oneof![8 => 0u64..200_000, 1 => Just(u64::MAX), 1 => Just(MAX_PIECE_BYTES), 1 => any::<u64>()];
        prop::collection::vec((edge.clone(), edge), 0..70)
    }

    proptest! {
        /// The constructor against the plain reading of the rules, and the wire against the constructor.
        #[test]
        fn tm_r3_checked_ranges_match_a_plain_model(pairs in any_pairs()) {
            let model_ok = !pairs.is_empty()
                && pairs.len() <= MAX_RANGES
                && pairs.iter().all(|&(s, e)| s < e && e <= MAX_PIECE_BYTES)
                && pairs.windows(2).all(|w| w[0].1 < w[1].0);
            let got = Ranges::new(pairs.iter().map(|&(s, e)| s..e));
            prop_assert_eq!(got.is_ok(), model_ok);
            let wire = borsh::to_vec(&pairs).expect("memory");
            prop_assert_eq!(borsh::from_slice::<Ranges>(&wire).is_ok(), model_ok);
        }

        /// Rounding to groups covers exactly the groups that hold a wanted byte, against an in-memory slice.
        #[test]
        fn tm_r3_group_rounding_matches_a_slice(size in 1u64..400_000, cuts in prop::collection::btree_set(0u64..400_000, 2..20)) {
            let cuts: Vec<u64> = cuts.into_iter().map(|c| c.min(size)).collect();
            let list: Vec<_> = cuts.chunks_exact(2).filter(|c| c[0] < c[1]).map(|c| c[0]..c[1]).collect();
            prop_assume!(!list.is_empty());
            let Ok(ranges) = Ranges::new(list.clone()) else { return Ok(()) };
            let mut wanted = vec![false; size as usize];
            for range in &list {
                wanted[range.start as usize..range.end as usize].fill(true);
            }
            for group in wanted.chunks_mut(GROUP_BYTES as usize) {
                let any = group.contains(&true);
                group.fill(any);
            }
            let mut got = vec![false; size as usize];
            for range in ranges.to_groups(size).expect("inside the piece").iter() {
                got[range.start as usize..range.end as usize].fill(true);
            }
            prop_assert!(wanted == got);
        }
    }
}
