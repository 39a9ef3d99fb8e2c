//! The Feistel permutation behind the expander: three rounds of BLAKE2b over the smallest even-bit domain, walked until
//! the value falls inside `0..M`.
//!
//! Spec: proofs.md §2.5. Walk: [`super::graph`] calls it for `8·v + i`. Plain twin: [`crate::reference::feistel`].
//! Cost: 3 BLAKE2b compressions a step, one step a value when the domain's bits are even and two on average when they are
//! odd; eight values are hashed side by side with AVX-512, four with AVX2.
#![deny(clippy::as_conversions)]

/// Lanes hashed side by side.
const LANES: usize = 8;

/// A keyed permutation of `0..elements`.
#[derive(Clone, Debug)]
pub struct Feistel {
    elements: u64,
    half_bits: u32,
    mask: u64,
    keys: [u64; 3],
}

impl Feistel {
    /// The permutation of `0..elements` under the first three keys (three rounds: the fourth key is unused).
    ///
    /// # Panics
    /// When `elements` is zero or above 2^62, which no sector's graph has.
    pub fn new(elements: u64, keys: [u64; 4]) -> Self {
        assert!(
            (1..=1 << 62).contains(&elements),
            "the permutation needs a domain within 2^62"
        );
        let mut half_bits = 1;
        while 1 << (2 * half_bits) < elements {
            half_bits += 1;
        }
        let [k0, k1, k2, _unused] = keys;
        Self {
            elements,
            half_bits,
            mask: (1 << half_bits) - 1,
            keys: [k0, k1, k2],
        }
    }

    /// Bits of each half: the walk happens in a domain of `4^half_bits`.
    pub fn half_bits(&self) -> u32 {
        self.half_bits
    }

    /// Image of one value. A value outside the domain may have none.
    pub fn permute(&self, value: u64) -> u64 {
        let mut values = [value];
        self.permute_all(&mut values);
        values[0]
    }

    /// Replaces each value by its image.
    pub fn permute_all(&self, values: &mut [u64]) {
        // Positions still outside the domain; half of them leave it again when the bits are odd.
        let mut outside: Vec<usize> = (0..values.len()).collect();
        while !outside.is_empty() {
            for group in outside.chunks(LANES) {
                let mut lanes = [0; LANES];
                for (lane, &at) in lanes.iter_mut().zip(group) {
                    *lane = values[at];
                }
                self.encrypt(&mut lanes);
                for (lane, &at) in lanes.iter().zip(group) {
                    values[at] = *lane;
                }
            }
            outside.retain(|&at| values[at] >= self.elements);
        }
    }

    /// One application in the even-bit domain, without walking.
    fn encrypt(&self, values: &mut [u64; LANES]) {
        let mut left = values.map(|x| x >> self.half_bits);
        let mut right = values.map(|x| x & self.mask);
        for key in self.keys {
            let hashes = blake2b_first_words(&right, key);
            for lane in 0..LANES {
                let mixed = left[lane] ^ (hashes[lane] & self.mask);
                left[lane] = right[lane];
                right[lane] = mixed;
            }
        }
        for lane in 0..LANES {
            values[lane] = left[lane] << self.half_bits | right[lane];
        }
    }
}

/// First eight bytes, big-endian, of `BLAKE2b-512(BE64(right) ‖ BE64(key))` for each lane.
fn blake2b_first_words(right: &[u64; LANES], key: u64) -> [u64; LANES] {
    // Message words are little-endian in BLAKE2b, the operands big-endian: swap. So is the result.
    compress(&right.map(u64::swap_bytes), key.swap_bytes()).map(u64::swap_bytes)
}

const IV: [u64; 8] = [
    0x6a09_e667_f3bc_c908,
    0xbb67_ae85_84ca_a73b,
    0x3c6e_f372_fe94_f82b,
    0xa54f_f53a_5f1d_36f1,
    0x510e_527f_ade6_82d1,
    0x9b05_688c_2b3e_6c1f,
    0x1f83_d9ab_fb41_bd6b,
    0x5be0_cd19_137e_2179,
];

/// Message schedule of BLAKE2b (RFC 7693 §2.7); rounds 10 and 11 repeat 0 and 1.
const SIGMA: [[u8; 16]; 12] = [
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
    [14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3],
    [11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4],
    [7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8],
    [9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13],
    [2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9],
    [12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11],
    [13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10],
    [6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5],
    [10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0],
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
    [14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3],
];

/// Bytes of the message: two words.
const MESSAGE_BYTES: u64 = 16;
/// Parameter block of an unkeyed 64-byte digest.
const PARAMETERS: u64 = 0x0101_0040;

/// Some 64-bit words side by side: the one thing that kernels differ in.
trait Words: Copy {
    fn splat(word: u64) -> Self;
    fn add(self, other: Self) -> Self;
    fn xor(self, other: Self) -> Self;
    fn ror32(self) -> Self;
    fn ror24(self) -> Self;
    fn ror16(self) -> Self;
    fn ror63(self) -> Self;
}

impl Words for u64 {
    #[inline(always)]
    fn splat(word: u64) -> Self {
        word
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.wrapping_add(other)
    }
    #[inline(always)]
    fn xor(self, other: Self) -> Self {
        self ^ other
    }
    #[inline(always)]
    fn ror32(self) -> Self {
        self.rotate_right(32)
    }
    #[inline(always)]
    fn ror24(self) -> Self {
        self.rotate_right(24)
    }
    #[inline(always)]
    fn ror16(self) -> Self {
        self.rotate_right(16)
    }
    #[inline(always)]
    fn ror63(self) -> Self {
        self.rotate_right(63)
    }
}

/// First state word after the only block of a 16-byte message. Words 2 to 15 of the block are zero.
#[inline(always)]
fn first_word<W: Words>(first: W, second: W) -> W {
    let zero = W::splat(0);
    let mut m = [zero; 16];
    m[0] = first;
    m[1] = second;
    let mut v = [zero; 16];
    for i in 0..8 {
        v[i] = W::splat(IV[i]);
        v[i + 8] = W::splat(IV[i]);
    }
    v[0] = W::splat(IV[0] ^ PARAMETERS);
    v[12] = W::splat(IV[4] ^ MESSAGE_BYTES);
    v[14] = W::splat(!IV[6]);
    for sigma in &SIGMA {
        let word = |i: usize| m[usize::from(sigma[i])];
        // Columns, then diagonals. Written out: with constant indices the state stays in registers.
        mix::<W, 0, 4, 8, 12>(&mut v, word(0), word(1));
        mix::<W, 1, 5, 9, 13>(&mut v, word(2), word(3));
        mix::<W, 2, 6, 10, 14>(&mut v, word(4), word(5));
        mix::<W, 3, 7, 11, 15>(&mut v, word(6), word(7));
        mix::<W, 0, 5, 10, 15>(&mut v, word(8), word(9));
        mix::<W, 1, 6, 11, 12>(&mut v, word(10), word(11));
        mix::<W, 2, 7, 8, 13>(&mut v, word(12), word(13));
        mix::<W, 3, 4, 9, 14>(&mut v, word(14), word(15));
    }
    W::splat(IV[0] ^ PARAMETERS).xor(v[0]).xor(v[8])
}

/// BLAKE2b's G.
#[inline(always)]
fn mix<W: Words, const A: usize, const B: usize, const C: usize, const D: usize>(
    v: &mut [W; 16],
    x: W,
    y: W,
) {
    v[A] = v[A].add(v[B]).add(x);
    v[D] = v[D].xor(v[A]).ror32();
    v[C] = v[C].add(v[D]);
    v[B] = v[B].xor(v[C]).ror24();
    v[A] = v[A].add(v[B]).add(y);
    v[D] = v[D].xor(v[A]).ror16();
    v[C] = v[C].add(v[D]);
    v[B] = v[B].xor(v[C]).ror63();
}

/// Lane by lane: the portable twin.
fn compress_scalar(first: &[u64; LANES], second: u64) -> [u64; LANES] {
    first.map(|first| first_word(first, second))
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod x86 {
    use super::{LANES, Words, compress_scalar, first_word};
    use core::arch::x86_64::*;

    /// Eight words in one register. Values exist only inside [`compress_avx512`].
    #[derive(Clone, Copy)]
    struct Wide(__m512i);

    // SAFETY (all methods): called through `first_word` from a function compiled for AVX-512F, which its caller detected.
    impl Words for Wide {
        #[inline(always)]
        fn splat(word: u64) -> Self {
            Self(unsafe { _mm512_set1_epi64(word.cast_signed()) })
        }
        #[inline(always)]
        fn add(self, other: Self) -> Self {
            Self(unsafe { _mm512_add_epi64(self.0, other.0) })
        }
        #[inline(always)]
        fn xor(self, other: Self) -> Self {
            Self(unsafe { _mm512_xor_si512(self.0, other.0) })
        }
        #[inline(always)]
        fn ror32(self) -> Self {
            Self(unsafe { _mm512_ror_epi64::<32>(self.0) })
        }
        #[inline(always)]
        fn ror24(self) -> Self {
            Self(unsafe { _mm512_ror_epi64::<24>(self.0) })
        }
        #[inline(always)]
        fn ror16(self) -> Self {
            Self(unsafe { _mm512_ror_epi64::<16>(self.0) })
        }
        #[inline(always)]
        fn ror63(self) -> Self {
            Self(unsafe { _mm512_ror_epi64::<63>(self.0) })
        }
    }

    /// Four words in one register. Values exist only inside [`compress_avx2`].
    #[derive(Clone, Copy)]
    struct Half(__m256i);

    // SAFETY (all methods): called through `first_word` from a function compiled for AVX2, which its caller detected.
    impl Words for Half {
        #[inline(always)]
        fn splat(word: u64) -> Self {
            Self(unsafe { _mm256_set1_epi64x(word.cast_signed()) })
        }
        #[inline(always)]
        fn add(self, other: Self) -> Self {
            Self(unsafe { _mm256_add_epi64(self.0, other.0) })
        }
        #[inline(always)]
        fn xor(self, other: Self) -> Self {
            Self(unsafe { _mm256_xor_si256(self.0, other.0) })
        }
        #[inline(always)]
        fn ror32(self) -> Self {
            Self(unsafe { _mm256_shuffle_epi32::<0xB1>(self.0) })
        }
        #[inline(always)]
        fn ror24(self) -> Self {
            Self(unsafe {
                _mm256_or_si256(
                    _mm256_srli_epi64::<24>(self.0),
                    _mm256_slli_epi64::<40>(self.0),
                )
            })
        }
        #[inline(always)]
        fn ror16(self) -> Self {
            Self(unsafe {
                _mm256_or_si256(
                    _mm256_srli_epi64::<16>(self.0),
                    _mm256_slli_epi64::<48>(self.0),
                )
            })
        }
        #[inline(always)]
        fn ror63(self) -> Self {
            Self(unsafe {
                _mm256_or_si256(
                    _mm256_srli_epi64::<63>(self.0),
                    _mm256_add_epi64(self.0, self.0),
                )
            })
        }
    }

    #[target_feature(enable = "avx512f")]
    fn compress_avx512(first: &[u64; LANES], second: u64) -> [u64; LANES] {
        let mut out = [0; LANES];
        // SAFETY: both arrays are 64 bytes; load and store are unaligned.
        let first = Wide(unsafe { _mm512_loadu_si512(first.as_ptr().cast()) });
        let word = first_word(first, Wide::splat(second));
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), word.0) };
        out
    }

    #[target_feature(enable = "avx2")]
    fn compress_avx2(first: &[u64; LANES], second: u64) -> [u64; LANES] {
        let mut out = [0; LANES];
        for half in 0..2 {
            // SAFETY: four words start at index 4 * half of eight; load and store are unaligned.
            let first = Half(unsafe { _mm256_loadu_si256(first.as_ptr().add(4 * half).cast()) });
            let word = first_word(first, Half::splat(second));
            unsafe { _mm256_storeu_si256(out.as_mut_ptr().add(4 * half).cast(), word.0) };
        }
        out
    }

    type Compress = fn(&[u64; LANES], u64) -> [u64; LANES];

    fn checked_avx512(first: &[u64; LANES], second: u64) -> [u64; LANES] {
        // SAFETY: `available` hands this function out only where AVX-512F was detected.
        unsafe { compress_avx512(first, second) }
    }

    fn checked_avx2(first: &[u64; LANES], second: u64) -> [u64; LANES] {
        // SAFETY: `available` hands this function out only where AVX2 was detected.
        unsafe { compress_avx2(first, second) }
    }

    /// Every version that this CPU runs, slowest first.
    pub(super) fn available() -> impl Iterator<Item = Compress> {
        let avx2 = is_x86_feature_detected!("avx2").then_some::<Compress>(checked_avx2);
        let avx512 = is_x86_feature_detected!("avx512f").then_some::<Compress>(checked_avx512);
        [Some::<Compress>(compress_scalar), avx2, avx512]
            .into_iter()
            .flatten()
    }

    /// The fastest version; the standard library caches the detection.
    pub(super) fn compress(first: &[u64; LANES], second: u64) -> [u64; LANES] {
        available().last().unwrap_or(compress_scalar)(first, second)
    }
}

#[cfg(target_arch = "x86_64")]
use x86::compress;

#[cfg(not(target_arch = "x86_64"))]
use compress_scalar as compress;

#[cfg(test)]
mod tests {
    use super::*;
    use blake2::{Blake2b512, Digest};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn lanes_equal_the_blake2_crate(right: [u64; LANES], key: u64) {
            let expected = right.map(|right| {
                let digest = Blake2b512::new().chain_update(right.to_be_bytes()).chain_update(key.to_be_bytes()).finalize();
                u64::from_be_bytes(digest[..8].try_into().expect("eight bytes"))
            });
            prop_assert_eq!(blake2b_first_words(&right, key), expected);
            #[cfg(target_arch = "x86_64")]
            for compress in x86::available() {
                let words = compress(&right.map(u64::swap_bytes), key.swap_bytes());
                prop_assert_eq!(words.map(u64::swap_bytes), expected);
            }
        }

        #[test]
        fn is_a_permutation_and_equals_the_plain_twin(elements in 1u64..700, keys: [u64; 4]) {
            let feistel = Feistel::new(elements, keys);
            let mut seen = vec![false; usize::try_from(elements).expect("small")];
            let mut all: Vec<u64> = (0..elements).collect();
            feistel.permute_all(&mut all);
            for (value, image) in (0..elements).zip(all) {
                prop_assert_eq!(image, feistel.permute(value));
                prop_assert_eq!(image, crate::reference::feistel(elements, keys, value));
                let slot = &mut seen[usize::try_from(image).expect("inside the domain")];
                prop_assert!(!*slot, "two values map to {}", image);
                *slot = true;
            }
        }
    }
}
