//! The Feistel permutation behind the expander: three rounds of BLAKE2b over the smallest even-bit domain, walked until
//! the value falls inside `0..M`.
//!
//! Spec: proofs.md §2.5. Walk: [`super::graph`] calls it for `8·v + i`. Cost: about 1.5 to 4 permutations of three
//! BLAKE2b compressions per value, so eight values are hashed side by side; the lanes are plain arrays that the compiler
//! turns into AVX-512 or AVX2 where the CPU has them. The plain twin is in [`crate::reference`].

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

    /// Image of one value.
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
    let message = [right.map(u64::swap_bytes), [key.swap_bytes(); LANES]];
    compress(&message).map(u64::swap_bytes)
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
const SIGMA: [[u8; 16]; 10] = [
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
];

/// Columns, then diagonals: the eight quadruples that one round mixes.
const MIXED: [[usize; 4]; 8] = [
    [0, 4, 8, 12],
    [1, 5, 9, 13],
    [2, 6, 10, 14],
    [3, 7, 11, 15],
    [0, 5, 10, 15],
    [1, 6, 11, 12],
    [2, 7, 8, 13],
    [3, 4, 9, 14],
];

/// Bytes of the message: two words.
const MESSAGE_BYTES: u64 = 16;
/// Parameter block of an unkeyed 64-byte digest.
const PARAMETERS: u64 = 0x0101_0040;

/// First state word after the only block of a 16-byte message, in every lane. Words 2 to 15 of the block are zero.
#[inline(always)]
fn compress_lanes(message: &[[u64; LANES]; 2]) -> [u64; LANES] {
    let mut v = [[0u64; LANES]; 16];
    for i in 0..8 {
        v[i] = [IV[i]; LANES];
        v[i + 8] = [IV[i]; LANES];
    }
    v[0] = [IV[0] ^ PARAMETERS; LANES];
    v[12] = [IV[4] ^ MESSAGE_BYTES; LANES];
    v[14] = [!IV[6]; LANES];
    for round in 0..12 {
        let sigma = &SIGMA[round % 10];
        for (i, &at) in MIXED.iter().enumerate() {
            mix(
                &mut v,
                at,
                [word(message, sigma[2 * i]), word(message, sigma[2 * i + 1])],
            );
        }
    }
    let mut first = [0; LANES];
    for lane in 0..LANES {
        first[lane] = IV[0] ^ PARAMETERS ^ v[0][lane] ^ v[8][lane];
    }
    first
}

#[inline(always)]
fn word(message: &[[u64; LANES]; 2], index: u8) -> Option<&[u64; LANES]> {
    match index {
        0 => Some(&message[0]),
        1 => Some(&message[1]),
        _ => None,
    }
}

/// BLAKE2b's G on four rows of the state; absent message words are zero.
#[inline(always)]
fn mix(v: &mut [[u64; LANES]; 16], [a, b, c, d]: [usize; 4], words: [Option<&[u64; LANES]>; 2]) {
    for (word, turns) in words.into_iter().zip([[32, 24], [16, 63]]) {
        for lane in 0..LANES {
            let added = word.map_or(0, |word| word[lane]);
            v[a][lane] = v[a][lane].wrapping_add(v[b][lane]).wrapping_add(added);
            v[d][lane] = (v[d][lane] ^ v[a][lane]).rotate_right(turns[0]);
            v[c][lane] = v[c][lane].wrapping_add(v[d][lane]);
            v[b][lane] = (v[b][lane] ^ v[c][lane]).rotate_right(turns[1]);
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod x86 {
    use super::{LANES, compress_lanes};

    #[target_feature(enable = "avx512f,avx512vl,avx512dq")]
    fn compress_avx512(message: &[[u64; LANES]; 2]) -> [u64; LANES] {
        compress_lanes(message)
    }

    #[target_feature(enable = "avx2")]
    fn compress_avx2(message: &[[u64; LANES]; 2]) -> [u64; LANES] {
        compress_lanes(message)
    }

    /// The widest version this CPU runs.
    pub(super) fn compress(message: &[[u64; LANES]; 2]) -> [u64; LANES] {
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
        {
            // SAFETY: the three features that the function is compiled for were just detected.
            unsafe { compress_avx512(message) }
        } else if is_x86_feature_detected!("avx2") {
            // SAFETY: AVX2 was just detected.
            unsafe { compress_avx2(message) }
        } else {
            compress_lanes(message)
        }
    }
}

#[cfg(target_arch = "x86_64")]
use x86::compress;

#[cfg(not(target_arch = "x86_64"))]
use compress_lanes as compress;

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
            let message = [right.map(u64::swap_bytes), [key.swap_bytes(); LANES]];
            prop_assert_eq!(compress_lanes(&message).map(u64::swap_bytes), expected);
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
