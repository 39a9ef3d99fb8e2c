//! Challenges of a sector update: which nodes of a slice must be opened.
//!
//! Walk: after the new CommR is known ([`super::replica`]); [`super::proof`] opens them, and [`super::circuit`] draws them
//! again in its own rows, so the verifier derives none. Spec: proofs.md §6.1.
//!
//! Every input of the derivation, as threat P8 demands them written down: the new CommR, fixed before anything is drawn, and
//! the digest's number over all partitions. The new CommR binds the new replica; the old CommR and the new CommD are bound to
//! it by the statement's encoding, not by the challenges. Node 0 may be drawn, and a node twice.
#![deny(clippy::as_conversions)]

use ark_bls12_381::Fr;
use ark_ff::{BigInteger, PrimeField};

use crate::commitment::CommR;
use crate::hash::poseidon::{fr_from_node, hash_update};
use crate::spec::SectorSize;

/// Bits that a digest gives: those that every field element has.
const DIGEST_BITS: u32 = 254;

/// How a size's challenges are cut from digests. All of it follows from [`crate::spec::UpdateShape`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw {
    /// Random bits of one challenge; the partition's number stands above them.
    pub bits: u32,
    /// Challenges cut from one digest.
    pub per_digest: usize,
    /// Digests of one partition. The last one may have challenges left.
    pub digests: usize,
}

impl Draw {
    /// The rule of a size.
    pub fn of(size: SectorSize) -> Draw {
        let shape = size.update_shape();
        let bits = size.log2_nodes() - shape.partition_bits();
        let per_digest = usize::try_from(DIGEST_BITS / bits).expect("at most 254");
        Draw {
            bits,
            per_digest,
            digests: shape.challenges.div_ceil(per_digest),
        }
    }
}

/// The challenged nodes of a partition, in order; `None` if the new CommR is no field element.
pub fn partition(size: SectorSize, comm_r_new: &CommR, partition: usize) -> Option<Vec<u64>> {
    let comm_r_new = fr_from_node(&comm_r_new.0)?;
    let (draw, shape) = (Draw::of(size), size.update_shape());
    let wide = |small: usize| u64::try_from(small).expect("partitions and digests are few");
    let slice = wide(partition) << draw.bits;
    let digests = (0..draw.digests).map(|j| {
        let number = Fr::from(wide(partition * draw.digests + j));
        hash_update(&[comm_r_new, number]).into_bigint()
    });
    let nodes = digests.flat_map(|digest| {
        (0..draw.per_digest).map(move |i| {
            let width = usize::try_from(draw.bits).expect("at most 31");
            let node = (0..width).fold(0, |node, bit| {
                node | u64::from(digest.get_bit(i * width + bit)) << bit
            });
            slice | node
        })
    });
    Some(nodes.take(shape.challenges).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// proofs.md §6.1 and §0.
    #[test]
    fn digests_are_cut_as_the_spec_says() {
        let table = [
            (SectorSize::Kib2, 6, 42, 1),
            (SectorSize::Kib4, 7, 36, 1),
            (SectorSize::Mib8, 16, 15, 1),
            (SectorSize::Mib512, 20, 12, 8),
            (SectorSize::Gib32, 26, 9, 10),
            (SectorSize::Gib64, 27, 9, 10),
        ];
        for (size, bits, per_digest, digests) in table {
            let expected = Draw {
                bits,
                per_digest,
                digests,
            };
            assert_eq!(Draw::of(size), expected, "{size}");
        }
    }

    /// proofs.md §9.3: new CommR and the first five challenges of partition 0, recorded from Filecoin.
    #[test]
    fn published_challenges() {
        let table = [
            (
                SectorSize::Kib2,
                "4447672c0796d61e3c7ebc67104484bc0a6a8a43014db9ec478d26fa8775d457",
                [10, 19, 0, 48, 6],
            ),
            (
                SectorSize::Kib4,
                "d10cff8b067e5ee2402621eaa8d9a2c2fc6b7204988079c8cd8680a7b8707e5e",
                [25, 102, 82, 63, 38],
            ),
            (
                SectorSize::Kib16,
                "4341125cb1d250630dea64eb7b28784130d0ce51b1b61d9aa7b0020c2b3ffb3c",
                [241, 34, 240, 68, 167],
            ),
            (
                SectorSize::Kib32,
                "2bd4e545971c22f90f5a17af2e4aa1d5381da5ffa35d143448b467fae2a72626",
                [151, 424, 185, 284, 275],
            ),
            (
                SectorSize::Mib8,
                "bbd0e4e754ba3415dc2eb2a848fb369751c1b40d04ccfbceaf1c88747f041d2c",
                [34489, 62226, 46255, 21707, 37395],
            ),
        ];
        for (size, comm_r_new, first) in table {
            let comm_r_new: CommR = comm_r_new.parse().expect("hex");
            let nodes = partition(size, &comm_r_new, 0).expect("canonical");
            assert_eq!(nodes.len(), 10);
            assert_eq!(nodes[..5], first, "{size}");
        }
    }

    proptest! {
        /// Every partition draws from its own slice, and no bit of the new CommR is left out of any challenge's digest.
        #[test]
        fn tm_p8_partitions_draw_from_their_slices_and_every_bit_of_comm_r_counts(
            comm_r in any::<[u8; 32]>().prop_map(crate::hash::sha256::t254),
            at in 0usize..16,
            bit in 0usize..254,
        ) {
            for size in SectorSize::ALL {
                let shape = size.update_shape();
                let at = at % shape.partitions;
                let nodes = partition(size, &CommR(comm_r), at).expect("canonical");
                prop_assert_eq!(nodes.len(), shape.challenges);
                let slice = size.nodes() / u64::try_from(shape.partitions).expect("few");
                for node in &nodes {
                    prop_assert_eq!(node / slice, u64::try_from(at).expect("few"));
                }
                let mut other = comm_r;
                other[bit / 8] ^= 1 << (bit % 8);
                prop_assert_ne!(partition(size, &CommR(other), at).expect("canonical"), nodes);
            }
            prop_assert_eq!(partition(SectorSize::Kib2, &CommR([0xff; 32]), 0), None);
        }
    }
}
