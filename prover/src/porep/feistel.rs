//! The Feistel permutation behind the expander: three rounds of BLAKE2b over the smallest even-bit domain, walked until
//! the value falls inside `0..M`.
//!
//! Spec: proofs.md §2.5. Walk: [`super::graph`] calls it for `8·v + i`. Plain twin: [`crate::reference::feistel`].
//!
//! A round hashes half of the value under a fixed key, so a whole sector asks for no more than `3 · 2^half_bits` different
//! hashes: 6,144 at 8 MiB, 393,216 at 64 GiB, where its eight parents a node would hash 12 million and 50 billion times.
//! Whoever permutes that many values tabulates them first ([`Feistel::tabulate`]); single values are hashed as they come.
//!
//! Cost: a step is three look-ups, or three BLAKE2b compressions without tables; one step a value when the domain's bits are
//! even, two on average when they are odd. Memory: 12 bytes times `2^half_bits` once tabulated (24 KiB at 8 MiB, 1.5 MiB at
//! 64 GiB), shared by clones.
#![deny(clippy::as_conversions)]

use std::sync::{Arc, OnceLock};

use blake2::{Blake2b512, Digest};

/// Values walked together: enough to hide a look-up behind the others, few enough to stay in the first cache.
const GROUP: usize = 512;
/// Widest half that is tabulated: 12 MiB of tables, eight times what the largest sector needs.
const MAX_TABLE_BITS: u32 = 20;

/// A keyed permutation of `0..elements`.
#[derive(Clone, Debug)]
pub struct Feistel {
    elements: u64,
    half_bits: u32,
    mask: u64,
    keys: [u64; 3],
    rounds: Arc<OnceLock<[Vec<u32>; 3]>>,
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
            rounds: Arc::default(),
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

    /// Replaces each value by its image: by look-up once the rounds are tabulated, else by hashing.
    pub fn permute_all(&self, values: &mut [u64]) {
        match self.rounds.get() {
            Some([first, second, third]) => self.walk(values, |left, right| {
                let left = left ^ look_up(first, right);
                let right = right ^ look_up(second, left);
                (right, left ^ look_up(third, right))
            }),
            None => self.walk(values, |left, right| {
                let [first, second, third] = self.keys;
                let left = left ^ self.hash(right, first);
                let right = right ^ self.hash(left, second);
                (right, left ^ self.hash(right, third))
            }),
        }
    }

    /// Computes the hash of every half under every key, once for this permutation and its clones.
    pub fn tabulate(&self) {
        if self.half_bits > MAX_TABLE_BITS {
            return;
        }
        self.rounds.get_or_init(|| {
            self.keys.map(|key| {
                let hashes = (0..=self.mask).map(|half| self.hash(half, key));
                hashes
                    .map(|hash| u32::try_from(hash).expect("at most 20 bits"))
                    .collect()
            })
        });
    }

    /// Applies `rounds` to the halves of each value until the value is inside the domain.
    fn walk(&self, values: &mut [u64], rounds: impl Fn(u64, u64) -> (u64, u64)) {
        for values in values.chunks_mut(GROUP) {
            // Positions still outside. Kept without a branch: with odd bits every second one is outside again.
            let mut outside: [usize; GROUP] = std::array::from_fn(|at| at);
            let mut count = values.len();
            while count > 0 {
                let mut kept = 0;
                for i in 0..count {
                    let at = outside[i];
                    let (left, right) =
                        rounds(values[at] >> self.half_bits, values[at] & self.mask);
                    values[at] = left << self.half_bits | right;
                    outside[kept] = at;
                    kept += usize::from(values[at] >= self.elements);
                }
                count = kept;
            }
        }
    }

    /// The low bits of the first eight bytes, big-endian, of `BLAKE2b-512(BE64(half) ‖ BE64(key))`.
    fn hash(&self, half: u64, key: u64) -> u64 {
        let digest = Blake2b512::new()
            .chain_update(half.to_be_bytes())
            .chain_update(key.to_be_bytes())
            .finalize();
        let mut first = [0; 8];
        first.copy_from_slice(&digest[..8]);
        u64::from_be_bytes(first) & self.mask
    }
}

fn look_up(round: &[u32], half: u64) -> u64 {
    let half = usize::try_from(half).expect("a half has at most 20 bits");
    u64::from(round[half])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Even and odd bits, one group and several, hashed and looked up.
        #[test]
        fn is_a_permutation_and_equals_the_plain_twin(elements in 1u64..2000, keys: [u64; 4]) {
            let hashed = Feistel::new(elements, keys);
            let tabulated = Feistel::new(elements, keys);
            tabulated.tabulate();
            let mut seen = vec![false; usize::try_from(elements).expect("small")];
            let mut all: Vec<u64> = (0..elements).collect();
            tabulated.permute_all(&mut all);
            for (value, image) in (0..elements).zip(all) {
                prop_assert_eq!(image, tabulated.permute(value));
                prop_assert_eq!(image, hashed.permute(value));
                prop_assert_eq!(image, crate::reference::feistel(elements, keys, value));
                let slot = &mut seen[usize::try_from(image).expect("inside the domain")];
                prop_assert!(!*slot, "two values map to {}", image);
                *slot = true;
            }
        }
    }

    #[test]
    fn tables_of_the_largest_sector_give_the_same_images() {
        let hashed = Feistel::new(1 << 34, [1, 2, 3, 4]);
        let tabulated = Feistel::new(1 << 34, [1, 2, 3, 4]);
        tabulated.tabulate();
        let mut values: Vec<u64> = (0..1500)
            .map(|i| i * 0x9e37_79b9_7f4a % (1 << 34))
            .collect();
        values.extend([0, (1 << 34) - 1]);
        let mut images = values.clone();
        tabulated.permute_all(&mut images);
        hashed.permute_all(&mut values);
        assert_eq!(images, values);
    }

    #[test]
    fn a_wider_domain_is_hashed() {
        let feistel = Feistel::new(1 << 42, [5, 6, 7, 8]);
        feistel.tabulate();
        assert!(feistel.rounds.get().is_none());
        assert_eq!(
            feistel.permute(12345),
            crate::reference::feistel(1 << 42, [5, 6, 7, 8], 12345)
        );
    }
}
