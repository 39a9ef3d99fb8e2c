//! Sector update (SnapDeals, Filecoin's EmptySectorUpdate, FIP-0019): data into a sealed sector, without sealing anew.
//!
//! Walk: beside [`crate::porep`]. A sector sealed over zeros is a replica of nothing but labels. An update adds data to it, node
//! by node, each multiplied by a factor that nobody can choose: `new = old + data · rho`. In order:
//!
//! | step | module |
//! |---|---|
//! | the folder: data packed, encoded, proven, and back | `sector` |
//! | phi and rho, encoding and its two inverses | `replica` |
//! | which nodes are opened: drawn from the new CommR | [`challenge`] |
//! | openings, the plain verifier, the proof | `proof` |
//! | the same in R1CS, row for row Filecoin's | `circuit` |
//!
//! Afterwards [`crate::verify::update`] accepts the proof, and [`crate::post`] proves the new replica like any other.
//! Spec: proofs.md §6.1 (where FIP-0019's prose and Filecoin's code disagree, the code). Threats P8, P14, P15, P18.
//! Bytes: proof 192 a partition: 1 up to 4 KiB, 2 up to 32 KiB, 4 at 8 MiB, 16 from 512 MiB on. CommC stays what it was.
//! Cost: one pass over the sector with TreeD (SHA-256) and TreeR (Poseidon), and the partitions' Groth16 proofs; no labels.
//! Memory and crash: see `sector`.
//!
//! What the proof does not say: that the old sector held nothing. A chain knows that from the old CommD; `sector` refuses others.
//! Keys: developers' keys are made up to 32 KiB; larger sizes have circuits of 10 million rows and more, and Filecoin's own
//! parameters (`CircuitId::filecoin_name` says which).

pub mod challenge;
#[cfg(feature = "prove")]
pub mod circuit;
#[cfg(feature = "prove")]
pub mod proof;
#[cfg(feature = "prove")]
pub mod replica;
#[cfg(feature = "prove")]
pub mod sector;

use ark_bls12_381::Fr;

use crate::spec::SectorSize;

/// The first public input of a partition's proof: the partition's number, and above it a one at the position of the chosen
/// number of high bits (proofs.md §6.1).
///
/// # Panics
/// If the size has no such partition.
pub fn selector(size: SectorSize, partition: usize) -> Fr {
    let shape = size.update_shape();
    assert!(partition < shape.partitions, "one of the size's partitions");
    Fr::from(partition as u64 | 1 << (shape.partition_bits() as usize + shape.chosen))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// proofs.md §6.1: at 32 GiB the first input is `k + 128`; test sizes up to 32 KiB choose the first of six equal widths.
    #[test]
    fn the_first_input_is_the_specs() {
        for k in 0..16 {
            assert_eq!(selector(SectorSize::Gib32, k), Fr::from(k as u64 + 128));
            assert_eq!(selector(SectorSize::Mib512, k), Fr::from(k as u64 + 128));
        }
        assert_eq!(selector(SectorSize::Kib2, 0), Fr::from(1u64));
        assert_eq!(selector(SectorSize::Kib32, 1), Fr::from(3u64));
        assert_eq!(selector(SectorSize::Mib8, 3), Fr::from(3u64 + 32));
    }
}
