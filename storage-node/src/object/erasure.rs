//! Reed–Solomon k+m over GF(2^8), striped, systematic: n shards of which any k restore a segment.
//!
//! Walk: codes what [`super::cipher`] sealed; each shard becomes one piece and one deal. Both directions live here. Spec:
//! `DESIGN.md` §3, `threat-model.md` C6 and C8.
//!
//! ```text
//! segment (len bytes)      stripe 0                 stripe 1            last stripe (short blocks, zero padded)
//!                   | B | B | … k blocks … | B | B | … k blocks … | … | b | b | … k blocks … |
//! data shard j      | block j of stripe 0 | block j of stripe 1 | …       | block j of the last stripe |
//! parity shard      bytewise code over the k data shards, so every column of bytes stands alone
//! B = 16 KiB (one verified group of retrieval), b = ceil(rest / k), shard length = full stripes × B + b
//! ```
//!
//! A byte range of the segment lies in a few blocks of a few data shards, so ranges are small reads; while the k data
//! shards answer, nothing is decoded. Because columns are independent, a lost shard's range is restored from the *same* range
//! of any k others.
//!
//! `reconstruct` on a corrupt shard gives wrong bytes without an error, so only bytes verified against the manifest's roots may
//! enter it; the AEAD checks the result. Cost: about 15 GB/s of data at 4+2 on one core with `simd-accel`.

use std::ops::Range;

use reed_solomon_erasure::galois_8::ReedSolomon;

/// Most shards of one segment. The library takes 256; a u8 count takes 255, and the smaller bound is ours.
pub const MAX_SHARDS: usize = 255;
/// Bytes of one block, equal to the 16 KiB groups that retrieval verifies.
pub const BLOCK_BYTES: usize = 16 * 1024;

/// How many shards there are and how many are enough: `k` data, `m` parity, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Scheme {
    k: u8,
    m: u8,
}

/// Why a segment was not coded or restored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ErasureError {
    /// The numbers are outside what the code can do.
    #[error("{k}+{m} shards are not possible: k is at least 1 and k + m at most {MAX_SHARDS}")]
    BadScheme {
        /// Data shards asked for.
        k: usize,
        /// Parity shards asked for.
        m: usize,
    },
    /// A segment has at least one byte and at most what fits its shards.
    #[error("a segment of {len} bytes is not possible")]
    BadLength {
        /// The segment's length.
        len: u64,
    },
    /// Fewer than k shards are there.
    #[error("{present} shards are there and {k} are needed")]
    TooFew {
        /// Shards at hand.
        present: usize,
        /// Shards needed.
        k: usize,
    },
    /// Shards differ in length or number: the caller's mistake.
    #[error("the shards do not belong together")]
    Mismatch,
}

impl Scheme {
    /// `k` data and `m` parity shards.
    pub fn new(k: usize, m: usize) -> Result<Self, ErasureError> {
        let total = k.checked_add(m).filter(|n| k >= 1 && *n <= MAX_SHARDS);
        match total {
            Some(_) => Ok(Self {
                k: k as u8,
                m: m as u8,
            }),
            None => Err(ErasureError::BadScheme { k, m }),
        }
    }

    /// Shards that are enough.
    pub fn k(self) -> usize {
        self.k.into()
    }

    /// Shards that may be lost.
    pub fn m(self) -> usize {
        self.m.into()
    }

    /// All shards.
    pub fn n(self) -> usize {
        self.k() + self.m()
    }
}

impl std::fmt::Display for Scheme {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}+{}", self.k, self.m)
    }
}

/// Where a segment's bytes lie in its shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    k: u64,
    len: u64,
    full_stripes: u64,
    last_block: u64,
}

/// A run of segment bytes inside one block of one data shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Data shard.
    pub shard: usize,
    /// Offset in that shard.
    pub at: u64,
    /// Bytes.
    pub len: u64,
}

impl Geometry {
    /// The layout of a segment of `len` bytes, at least one.
    pub fn new(scheme: Scheme, len: u64) -> Result<Self, ErasureError> {
        // The bound keeps every sum below well inside u64.
        if len == 0 || len > 1 << 60 {
            return Err(ErasureError::BadLength { len });
        }
        let k = scheme.k() as u64;
        let stripe = k * BLOCK_BYTES as u64;
        let full_stripes = len / stripe;
        Ok(Self {
            k,
            len,
            full_stripes,
            last_block: (len % stripe).div_ceil(k),
        })
    }

    /// Bytes of the segment.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Never: a segment has at least one byte.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Bytes of each shard.
    pub fn shard_len(&self) -> u64 {
        self.full_stripes * BLOCK_BYTES as u64 + self.last_block
    }

    /// The longest segment whose shards have at most `shard_len` bytes.
    pub fn capacity(scheme: Scheme, shard_len: u64) -> u64 {
        shard_len.saturating_mul(scheme.k() as u64)
    }

    /// The block run that starts at segment byte `offset`, up to the end of its block, of the segment or of `limit`.
    fn extent_at(&self, offset: u64, limit: u64) -> Extent {
        let block = BLOCK_BYTES as u64;
        let full = self.full_stripes * self.k * block;
        let (stripe_at, in_stripe, block) = if offset < full {
            let stripe = offset / (self.k * block);
            (stripe * block, offset % (self.k * block), block)
        } else {
            (self.full_stripes * block, offset - full, self.last_block)
        };
        let in_block = in_stripe % block;
        Extent {
            shard: (in_stripe / block) as usize,
            at: stripe_at + in_block,
            len: (block - in_block).min(limit - offset),
        }
    }

    /// The block runs of the segment bytes `range`, in order. `range` lies inside the segment.
    pub fn extents(&self, range: Range<u64>) -> impl Iterator<Item = Extent> + use<> {
        let geometry = *self;
        let end = range.end.min(self.len);
        let mut offset = range.start;
        std::iter::from_fn(move || {
            (offset < end).then(|| {
                let extent = geometry.extent_at(offset, end);
                offset += extent.len;
                extent
            })
        })
    }

    /// For each data shard, the smallest range that holds its part of the segment bytes `range`; `None` where it has none.
    pub fn shard_ranges(&self, range: Range<u64>) -> Vec<Option<Range<u64>>> {
        let mut ranges: Vec<Option<Range<u64>>> = vec![None; self.k as usize];
        // The first two and the last two stripes touched decide the ends, so long ranges cost four stripes of work.
        let stripe = self.k * BLOCK_BYTES as u64;
        let end = range.end.min(self.len);
        let head_end = end.min((range.start / stripe + 2) * stripe);
        let tail_start = head_end.max((end.saturating_sub(1) / stripe).saturating_sub(1) * stripe);
        let head = self.extents(range.start..head_end);
        for extent in head.chain(self.extents(tail_start..end)) {
            let part = extent.at..extent.at + extent.len;
            let slot = &mut ranges[extent.shard];
            *slot = Some(match slot.take() {
                Some(known) => known.start.min(part.start)..known.end.max(part.end),
                None => part,
            });
        }
        ranges
    }

    /// Cuts the segment bytes that start at `start` into the k data shards, appending to each. `start` is a multiple of the
    /// stripe, and the bytes end at a stripe's end or at the segment's, where blocks are filled up with zeros.
    pub fn spread(
        &self,
        start: u64,
        bytes: &[u8],
        shards: &mut [Vec<u8>],
    ) -> Result<(), ErasureError> {
        let end = start + bytes.len() as u64;
        let stripe = self.k * BLOCK_BYTES as u64;
        let aligned =
            start.is_multiple_of(stripe) && (end == self.len || end.is_multiple_of(stripe));
        if !aligned || end > self.len || shards.len() < self.k as usize {
            return Err(ErasureError::Mismatch);
        }
        let mut rest = bytes;
        for extent in self.extents(start..end) {
            let (block, tail) = rest.split_at(extent.len as usize);
            shards[extent.shard].extend_from_slice(block);
            rest = tail;
        }
        if end == self.len {
            let column = shards[0].len();
            for shard in &mut shards[1..self.k as usize] {
                shard.resize(column, 0);
            }
        }
        Ok(())
    }

    /// Puts segment bytes `range` together from parts of the data shards. `part(shard)` gives the bytes at hand of a data
    /// shard and the offset of their first byte; they must cover [`Geometry::shard_ranges`].
    pub fn gather<'a>(
        &self,
        range: Range<u64>,
        part: impl Fn(usize) -> Option<(&'a [u8], u64)>,
        out: &mut Vec<u8>,
    ) -> Result<(), ErasureError> {
        for extent in self.extents(range) {
            let (bytes, first) = part(extent.shard).ok_or(ErasureError::Mismatch)?;
            let at = extent.at.checked_sub(first).ok_or(ErasureError::Mismatch)? as usize;
            let block = bytes
                .get(at..at + extent.len as usize)
                .ok_or(ErasureError::Mismatch)?;
            out.extend_from_slice(block);
        }
        Ok(())
    }
}

/// The code itself, for one scheme. Building it costs a small matrix inversion; keep it for a whole object.
pub struct Coder {
    scheme: Scheme,
    code: Option<ReedSolomon>,
}

impl std::fmt::Debug for Coder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Coder({})", self.scheme)
    }
}

impl Coder {
    /// The code of a scheme.
    pub fn new(scheme: Scheme) -> Self {
        let code = (scheme.m() > 0).then(|| {
            ReedSolomon::new(scheme.k(), scheme.m())
                .expect("a Scheme has 1 <= k and k + m <= 255, inside the library's limits")
        });
        Self { scheme, code }
    }

    /// Fills the m parity shards from the k data shards. All n have one length; only the last m are written.
    pub fn encode(&self, shards: &mut [Vec<u8>]) -> Result<(), ErasureError> {
        let (k, n) = (self.scheme.k(), self.scheme.n());
        if shards.len() != n {
            return Err(ErasureError::Mismatch);
        }
        let len = shards[0].len();
        let (data, parity) = shards.split_at_mut(k);
        for shard in parity.iter_mut() {
            shard.resize(len, 0);
        }
        match &self.code {
            Some(code) if len > 0 => code
                .encode_sep(data, parity)
                .map_err(|_| ErasureError::Mismatch),
            _ => Ok(()),
        }
    }

    /// Restores missing data shards from any k *verified* shards; all present ones hold the same columns. Parity is not restored.
    pub fn restore_data(&self, shards: &mut [Option<Vec<u8>>]) -> Result<(), ErasureError> {
        self.check(shards)?;
        match &self.code {
            Some(code) => code
                .reconstruct_data(shards)
                .map_err(|_| ErasureError::Mismatch),
            None => Ok(()),
        }
    }

    /// Restores every missing shard, parity too, from any k *verified* ones: what a repair needs.
    pub fn restore_all(&self, shards: &mut [Option<Vec<u8>>]) -> Result<(), ErasureError> {
        self.check(shards)?;
        match &self.code {
            Some(code) => code.reconstruct(shards).map_err(|_| ErasureError::Mismatch),
            None => Ok(()),
        }
    }

    fn check(&self, shards: &[Option<Vec<u8>>]) -> Result<(), ErasureError> {
        let k = self.scheme.k();
        if shards.len() != self.scheme.n() {
            return Err(ErasureError::Mismatch);
        }
        let present = shards.iter().flatten().count();
        if present < k {
            return Err(ErasureError::TooFew { present, k });
        }
        let mut lengths = shards.iter().flatten().map(Vec::len);
        let first = lengths.next().unwrap_or(0);
        if first == 0 || lengths.any(|len| len != first) {
            return Err(ErasureError::Mismatch);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::{RngCore, SeedableRng};
    use sha2::{Digest, Sha256};

    fn sample(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        rand_chacha::ChaCha8Rng::seed_from_u64(len as u64).fill_bytes(&mut bytes);
        bytes
    }

    fn scheme(k: usize, m: usize) -> Scheme {
        Scheme::new(k, m).expect("a legal scheme")
    }

    fn encode(scheme: Scheme, bytes: &[u8]) -> (Geometry, Vec<Vec<u8>>) {
        let geometry = Geometry::new(scheme, bytes.len() as u64).expect("not empty");
        let mut shards = vec![Vec::new(); scheme.n()];
        geometry.spread(0, bytes, &mut shards).expect("whole");
        Coder::new(scheme).encode(&mut shards).expect("encodes");
        (geometry, shards)
    }

    fn restore(scheme: Scheme, geometry: &Geometry, mut shards: Vec<Option<Vec<u8>>>) -> Vec<u8> {
        Coder::new(scheme)
            .restore_data(&mut shards)
            .expect("k shards are there");
        let mut out = Vec::new();
        geometry
            .gather(
                0..geometry.len(),
                |i| shards[i].as_deref().map(|bytes| (bytes, 0)),
                &mut out,
            )
            .expect("complete");
        out
    }

    #[test]
    fn every_subset_of_k_shards_restores_the_segment() {
        for (k, m) in [(1, 0), (1, 3), (2, 2), (3, 2), (4, 3)] {
            let scheme = scheme(k, m);
            for len in [1, k, k * BLOCK_BYTES, k * BLOCK_BYTES * 2 + 777] {
                let bytes = sample(len);
                let (geometry, shards) = encode(scheme, &bytes);
                for subset in 0u32..1 << scheme.n() {
                    if subset.count_ones() as usize != k {
                        continue;
                    }
                    let kept = shards.iter().enumerate();
                    let kept = kept.map(|(i, s)| (subset >> i & 1 == 1).then(|| s.clone()));
                    let got = restore(scheme, &geometry, kept.collect());
                    assert_eq!(got, bytes, "{scheme} len {len} subset {subset:b}");
                }
            }
        }
    }

    #[test]
    fn shards_have_the_stated_length_and_fill_a_capacity_exactly() {
        for (k, m) in [(1, 1), (2, 2), (3, 1), (10, 4), (254, 1)] {
            let scheme = scheme(k, m);
            for payload in [127u64, 1016, 2032, 16 * 1024, 16 * 1024 + 1, 100_000] {
                let capacity = Geometry::capacity(scheme, payload);
                let full = Geometry::new(scheme, capacity).expect("not empty");
                assert_eq!(full.shard_len(), payload, "{scheme} {payload}");
                let more = Geometry::new(scheme, capacity + 1).expect("not empty");
                assert!(more.shard_len() > payload);
            }
        }
    }

    #[test]
    fn batches_of_stripes_equal_one_pass() {
        let scheme = scheme(3, 2);
        let stripe = 3 * BLOCK_BYTES;
        let bytes = sample(stripe * 4 + 1234);
        let (geometry, whole) = encode(scheme, &bytes);
        let mut shards = vec![Vec::new(); 5];
        let mut at = 0;
        for batch in bytes.chunks(stripe) {
            let mut part = vec![Vec::new(); 5];
            geometry.spread(at, batch, &mut part).expect("aligned");
            Coder::new(scheme).encode(&mut part).expect("encodes");
            for (shard, part) in shards.iter_mut().zip(part) {
                shard.extend(part);
            }
            at += batch.len() as u64;
        }
        assert_eq!(shards, whole);
        assert_eq!(
            geometry.spread(1, &bytes[1..], &mut vec![Vec::new(); 5]),
            Err(ErasureError::Mismatch),
            "unaligned"
        );
    }

    #[test]
    fn the_layout_is_pinned() {
        let (_, shards) = encode(scheme(3, 2), &sample(150_000));
        assert_eq!(
            hex::encode(Sha256::digest(shards.concat())),
            "265b28e95f6eab2f70674c38025cf40ca5f98bfdd4e7d3b26c2b561e7a28e95d"
        );
    }

    #[test]
    fn tm_c8_absurd_schemes_are_refused_before_the_library_sees_them() {
        for (k, m) in [
            (0, 2),
            (usize::MAX, 2),
            (2, usize::MAX),
            (255, 1),
            (1, 255),
            (0, 0),
        ] {
            assert!(Scheme::new(k, m).is_err(), "{k}+{m}");
        }
        assert!(Scheme::new(254, 1).is_ok() && Scheme::new(1, 0).is_ok());
        for len in [0, u64::MAX] {
            assert!(Geometry::new(scheme(2, 2), len).is_err());
        }
    }

    #[test]
    fn tm_c6_a_corrupt_shard_decodes_without_an_error_which_is_why_roots_are_checked_first() {
        let scheme = scheme(2, 2);
        let bytes = sample(1000);
        let (geometry, shards) = encode(scheme, &bytes);
        let mut kept: Vec<_> = shards.into_iter().map(Some).collect();
        kept[0] = None;
        if let Some(parity) = &mut kept[2] {
            parity[5] ^= 1;
        }
        kept[3] = None;
        assert_ne!(restore(scheme, &geometry, kept), bytes);
    }

    #[test]
    fn too_few_or_unequal_shards_are_errors() {
        let coder = Coder::new(scheme(2, 1));
        let mut few = vec![Some(vec![1]), None, None];
        assert_eq!(
            coder.restore_data(&mut few),
            Err(ErasureError::TooFew { present: 1, k: 2 })
        );
        let mut unequal = vec![Some(vec![1]), Some(vec![1, 2]), None];
        assert_eq!(
            coder.restore_data(&mut unequal),
            Err(ErasureError::Mismatch)
        );
        let mut wrong_count = vec![Some(vec![1]), Some(vec![1])];
        assert_eq!(
            coder.restore_all(&mut wrong_count),
            Err(ErasureError::Mismatch)
        );
    }

    proptest! {
        #[test]
        fn a_range_needs_only_its_shard_ranges(
            k in 1usize..6, len in 1u64..400_000, a in 0.0f64..1.0, b in 0.0f64..1.0,
        ) {
            let scheme = scheme(k, 1);
            let bytes = sample(len as usize);
            let (geometry, shards) = encode(scheme, &bytes);
            let (mut start, mut end) = ((a * len as f64) as u64, (b * len as f64) as u64);
            if start > end { std::mem::swap(&mut start, &mut end); }
            let ranges = geometry.shard_ranges(start..end);
            let mut out = Vec::new();
            geometry.gather(start..end, |i| {
                let range = ranges[i].clone()?;
                Some((&shards[i][range.start as usize..range.end as usize], range.start))
            }, &mut out).expect("the stated ranges suffice");
            prop_assert_eq!(&out[..], &bytes[start as usize..end as usize]);
            let read: u64 = ranges.iter().flatten().map(|r| r.end - r.start).sum();
            prop_assert!(read <= (end - start) + 2 * (k * BLOCK_BYTES) as u64);
        }

        #[test]
        fn columns_stand_alone(k in 1usize..5, m in 1usize..4, lo in 0usize..20_000, width in 1usize..5000) {
            let scheme = scheme(k, m);
            let (_, shards) = encode(scheme, &sample(k * 30_000));
            let hi = (lo + width).min(shards[0].len());
            let mut part: Vec<_> = shards.iter().map(|s| Some(s[lo..hi].to_vec())).collect();
            part[0] = None;
            Coder::new(scheme).restore_all(&mut part).expect("restores");
            prop_assert_eq!(part[0].as_deref(), Some(&shards[0][lo..hi]));
        }
    }
}
