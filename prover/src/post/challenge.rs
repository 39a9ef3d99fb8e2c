//! PoSt challenges: which leaves of which replica must be opened.
//!
//! Walk: first step of a WindowPoSt or WinningPoSt; the verifier derives the same. Spec: proofs.md §5.1–5.3.
//! A leaf depends on the randomness, the sector's number and the challenge's index within the sector, and on nothing else:
//! neither order nor company of the sectors can be ground (threat P9). Only the retired index rule of versions 1.0 and
//! 1.1 counts positions; it stays for the vectors. Node 0 may be challenged.
#![deny(clippy::as_conversions)]

use crate::hash::sha256;
use crate::ids::{PostRandomness, ProverId, SectorNumber};
use crate::spec::{ApiVersion, SectorSize, WINDOW_CHALLENGES, WINNING_CHALLENGES};

/// Leaves of one sector in a WindowPoSt under the rule in force (1.2): indices count within the sector.
pub fn window(
    size: SectorSize,
    randomness: &PostRandomness,
    sector: SectorNumber,
) -> [u64; WINDOW_CHALLENGES] {
    window_at(size, ApiVersion::V1_2, randomness, sector, 0)
}

/// Leaves of the sector at `position` of the whole proof. From 1.2 on the position is ignored; before, it moved the indices.
pub fn window_at(
    size: SectorSize,
    api: ApiVersion,
    randomness: &PostRandomness,
    sector: SectorNumber,
    position: u64,
) -> [u64; WINDOW_CHALLENGES] {
    let first = match api {
        ApiVersion::V1_0 | ApiVersion::V1_1 => position * 10,
        ApiVersion::V1_2 => 0,
    };
    leaves(size, randomness, sector, first)
}

/// Leaves of the sector that a WinningPoSt opens. Winning types keep the 1.0 rule, which for one sector is the plain index.
pub fn winning(
    size: SectorSize,
    randomness: &PostRandomness,
    sector: SectorNumber,
) -> [u64; WINNING_CHALLENGES] {
    leaves(size, randomness, sector, 0)
}

/// Which of a provider's `eligible` sectors a WinningPoSt opens; `n` is 0 for its only sector.
///
/// # Panics
/// When `eligible` is zero: a provider without sectors wins nothing.
pub fn winning_sector(
    prover: &ProverId,
    randomness: &PostRandomness,
    n: u64,
    eligible: u64,
) -> u64 {
    assert!(
        eligible > 0,
        "a provider without eligible sectors wins nothing"
    );
    first_word(&sha256::digest(&[
        &prover.0,
        randomness.as_bytes(),
        &n.to_le_bytes(),
    ])) % eligible
}

/// One leaf (proofs.md §5.1). Here the sector number is little-endian.
pub fn leaf(nodes: u64, randomness: &PostRandomness, sector: SectorNumber, index: u64) -> u64 {
    let digest = sha256::digest(&[
        randomness.as_bytes(),
        &sector.0.to_le_bytes(),
        &index.to_le_bytes(),
    ]);
    first_word(&digest) % nodes
}

fn leaves<const C: usize>(
    size: SectorSize,
    randomness: &PostRandomness,
    sector: SectorNumber,
    first: u64,
) -> [u64; C] {
    let mut index = first;
    [(); C].map(|()| {
        let challenged = leaf(size.nodes(), randomness, sector, index);
        index += 1;
        challenged
    })
}

fn first_word(digest: &[u8; 32]) -> u64 {
    let [first, ..] = digest.as_chunks::<8>().0 else {
        unreachable!("32 bytes are four words")
    };
    u64::from_le_bytes(*first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn randomness() -> PostRandomness {
        PostRandomness::new([3; 32]).expect("far below the order")
    }

    /// proofs.md §9.4.
    #[test]
    fn published_leaves() {
        let window = |n| window(SectorSize::Gib32, &randomness(), SectorNumber(n));
        assert_eq!(
            window(7),
            [
                791887664, 937822264, 974533212, 825316506, 641628340, 450924663, 131928466,
                1023371168, 1052199358, 516638594
            ]
        );
        assert_eq!(
            window(8),
            [
                896428703, 923639717, 597714143, 571476288, 200513506, 812195664, 735267151,
                538617147, 897545534, 705568765
            ]
        );
        assert_eq!(
            winning_sector(&ProverId([5; 32]), &randomness(), 0, 1000),
            698
        );
    }

    /// Permuting, adding or skipping sectors moves nobody else's leaves: position is no input, and the derivation sees
    /// one sector at a time.
    #[test]
    fn tm_p9_position_and_company_do_not_matter() {
        let size = SectorSize::Gib32;
        for position in 0..50 {
            for sector in [0, 7, u64::MAX] {
                let here = window_at(
                    size,
                    ApiVersion::V1_2,
                    &randomness(),
                    SectorNumber(sector),
                    position,
                );
                assert_eq!(here, window(size, &randomness(), SectorNumber(sector)));
            }
        }
        // The retired rule did move, which shows that this test can fail.
        let old = |position| {
            window_at(
                size,
                ApiVersion::V1_1,
                &randomness(),
                SectorNumber(7),
                position,
            )
        };
        assert_ne!(old(0), old(1));
    }

    proptest! {
        #[test]
        fn tm_p8_every_input_bit_moves_every_leaf(bytes: [u8; 32], sector: u64, bit in 0usize..64) {
            let size = SectorSize::Gib64;
            let base = PostRandomness::masked(bytes);
            let mut moved = *base.as_bytes();
            moved[bit / 8] ^= 1 << (bit % 8);
            let before = winning(size, &base, SectorNumber(sector));
            let other = winning(size, &PostRandomness::masked(moved), SectorNumber(sector));
            let neighbour = winning(size, &base, SectorNumber(sector ^ 1 << bit));
            // Random coincidence of one of 66 leaves among 2^31 is expected once in 10^7 runs; of two, never.
            let same = |a: &[u64], b: &[u64]| a.iter().zip(b).filter(|(x, y)| x == y).count();
            prop_assert!(same(&before, &other) < 2);
            prop_assert!(same(&before, &neighbour) < 2);
            prop_assert!(before.iter().all(|&leaf| leaf < size.nodes()));
        }
    }
}
