//! Poseidon over the scalar field of BLS12-381: Filecoin's instance, bit for bit.
//!
//! Walk: every Poseidon node of [`crate::merkle`], every column of [`crate::porep::column`], and
//! CommR itself pass through here; the circuit gadget (`snark::gadget`) reads [`Constants`].
//! Spec: `proofs.md` §3.1 (instance, constants, schedule); `vectors/r1cs/README.md` §7 for the
//! order in which the compressed constants and the sparse matrices are consumed.
//! Plain twin: [`naive`], the definition with dense matrices. [`hash`] runs the equal but cheaper
//! schedule of [`optimised`], and rows of nodes go eight at a time through [`ifma`] where the CPU has the instructions;
//! tests compare all three with each other and with Filecoin's own vectors.
//! Bytes: a node is 32 bytes, little-endian, canonical (`< r`); see [`fr_from_node`].
//! Cost: `t²·R_F + (2t−1)·R_P + 3·(t·R_F + R_P)` field multiplications a hash, 2,004 for arity 8.
//! Constants are derived once per width at first use (a few milliseconds) and kept for ever.
//!
//! ```
//! use ark_bls12_381::Fr;
//! let zero = Fr::from(0u64);
//! let node = prover::hash::poseidon::hash(&[zero, zero]);
//! assert_ne!(node, zero);
//! ```

mod constants;
#[cfg(target_arch = "x86_64")]
#[allow(
    unsafe_code,
    reason = "vector instructions; each block argues its safety"
)]
mod ifma;
#[cfg(target_arch = "x86_64")]
#[allow(
    unsafe_code,
    reason = "vector instructions; each block argues its safety"
)]
pub(crate) mod lanes;
pub mod naive;
mod optimised;

pub use constants::{Arity, Constants, FULL_ROUNDS, SparseMatrix, constants};

use ark_bls12_381::Fr;
use ark_ff::{BigInt, PrimeField};

#[cfg(all(feature = "prove", any(test, feature = "cuda")))]
use crate::cuda::poseidon as cuda;
use crate::ids::Node;

/// Hashes `A` field elements under the Merkle domain tag `2^A − 1` (`proofs.md` §3.1).
///
/// `A` is 2, 4, 8 or 11; another arity does not compile.
pub fn hash<const A: usize>(preimage: &[Fr; A]) -> Fr {
    let arity = const { Arity::from_len(A).expect("Poseidon arity is 2, 4, 8 or 11") };
    optimised::hash(constants(arity), arity.merkle_tag(), preimage)
}

/// Hashes a preimage whose length is known only at run time.
///
/// # Panics
/// If `preimage.len() != arity.len()`: the lengths come from const tables, never from a peer.
pub fn hash_slice(arity: Arity, preimage: &[Fr]) -> Fr {
    hash_with_tag(arity, arity.merkle_tag(), preimage)
}

/// The domain tag of sector updates, `2^40`: neptune's custom hash type number one (`proofs.md` §6.1).
pub fn update_tag() -> Fr {
    Fr::from(1u64 << 40)
}

/// Hashes two elements under [`update_tag`].
pub fn hash_update(preimage: &[Fr; 2]) -> Fr {
    hash_with_tag(Arity::Two, update_tag(), preimage)
}

/// Hashes under a tag of the caller's.
///
/// # Panics
/// If `preimage.len() != arity.len()`.
pub fn hash_with_tag(arity: Arity, tag: Fr, preimage: &[Fr]) -> Fr {
    assert_eq!(preimage.len(), arity.len(), "preimage length is the arity");
    optimised::hash(constants(arity), tag, preimage)
}

/// Hashes `out.len()` preimages that stand one after another: `out[i] = H(nodes[i·arity ..][..arity])`.
///
/// The form that rows of trees and columns take; it picks the fastest kernel of this machine. An error is the position of
/// the first node that is no field element; `out` is then unspecified.
///
/// # Panics
/// If `nodes.len() != out.len() · arity.len()`.
pub fn hash_nodes(arity: Arity, nodes: &[Node], out: &mut [Node]) -> Result<(), usize> {
    assert_eq!(
        nodes.len(),
        out.len() * arity.len(),
        "one preimage per output"
    );
    #[cfg(all(feature = "prove", any(test, feature = "cuda")))]
    if out.len() >= cuda::WORTH_IT
        && let Some(gpu) = crate::cuda::device()
    {
        match cuda::hash_nodes(gpu, arity, nodes, out) {
            Ok(done) => return done,
            Err(error) => crate::cuda::fall_back(gpu, "Poseidon", &error),
        }
    }
    #[cfg(target_arch = "x86_64")]
    let done = ifma::hash_nodes(arity, nodes, out)?;
    #[cfg(not(target_arch = "x86_64"))]
    let done = 0;
    let first = done * arity.len();
    optimised::hash_nodes(
        constants(arity),
        arity.merkle_tag(),
        &nodes[first..],
        &mut out[done..],
    )
    .map_err(|bad| first + bad)
}

/// How many hashes a caller should bring together for each thread of its own: what fits the caches, or what keeps a GPU busy.
#[cfg(feature = "prove")]
pub(crate) fn together() -> u64 {
    #[cfg(any(test, feature = "cuda"))]
    if crate::cuda::present() {
        return cuda::TOGETHER;
    }
    1 << 10
}

/// Builds something large out of hashes, and if a GPU was found to hash wrongly meanwhile, once more without it.
#[cfg(feature = "prove")]
pub(crate) fn checked<T>(build: impl Fn() -> T) -> T {
    #[cfg(any(test, feature = "cuda"))]
    return crate::cuda::checked(build);
    #[cfg(not(any(test, feature = "cuda")))]
    build()
}

/// Whether [`hash_nodes`] runs on this machine's vector units instead of the portable schedule.
pub fn vectorised() -> bool {
    #[cfg(target_arch = "x86_64")]
    return ifma::available();
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

/// Reads a stored node as a field element; `None` when the integer is not below the modulus.
pub fn fr_from_node(node: &Node) -> Option<Fr> {
    let mut limbs = [0u64; 4];
    for (limb, bytes) in limbs.iter_mut().zip(node.chunks_exact(8)) {
        *limb = u64::from_le_bytes(bytes.try_into().expect("chunks of eight bytes"));
    }
    Fr::from_bigint(BigInt(limbs))
}

/// Writes a field element as a stored node.
pub fn node_from_fr(value: &Fr) -> Node {
    let mut node = [0u8; 32];
    for (bytes, limb) in node.chunks_exact_mut(8).zip(value.into_bigint().0) {
        bytes.copy_from_slice(&limb.to_le_bytes());
    }
    node
}

#[cfg(test)]
mod tests {
    use super::*;
    use ark_ff::UniformRand;
    use rand::SeedableRng;

    /// `proofs.md` §9.1: preimage (0, 1, …, arity − 1).
    const COUNTING: [(Arity, &str); 4] = [
        (
            Arity::Two,
            "ffe7029a363c202e9da6059d33a9fba661e1ef02d90f9e736ba5765ed7086539",
        ),
        (
            Arity::Four,
            "5d076266ff149801ec2713bf05466bfb99932279653cdb008a84e5a9104ba558",
        ),
        (
            Arity::Eight,
            "e6a5386df534992ad9aec49c9d2e684b777067114200011255dea5a31d619423",
        ),
        (
            Arity::Eleven,
            "6331692bc3bbe3cec18fb0ccd8dcf3097ae8eb32e237a56c287f22e5b2c10f0c",
        ),
    ];

    #[test]
    fn counting_preimages_match_filecoin() {
        for (arity, expected) in COUNTING {
            let preimage: Vec<Fr> = (0..arity.len() as u64).map(Fr::from).collect();
            assert_eq!(
                hex::encode(node_from_fr(&hash_slice(arity, &preimage))),
                expected
            );
        }
        let snap = hash_update(&[Fr::from(0u64), Fr::from(1u64)]);
        assert_eq!(
            hex::encode(node_from_fr(&snap)),
            "587707bcc44ea7e5c7677339ea0b58e325fea03481c51fad4e92f0e7c4354a31"
        );
    }

    #[test]
    fn optimised_schedule_equals_the_definition() {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        for arity in Arity::ALL {
            for _ in 0..64 {
                let preimage: Vec<Fr> = (0..arity.len()).map(|_| Fr::rand(&mut rng)).collect();
                let plain = naive::hash(constants(arity), arity.merkle_tag(), &preimage);
                assert_eq!(
                    hash_slice(arity, &preimage),
                    plain,
                    "{arity:?} {preimage:?}"
                );
            }
        }
    }

    #[test]
    fn fixed_and_sliced_hashes_agree() {
        let two = [Fr::from(5u64), Fr::from(9u64)];
        assert_eq!(hash(&two), hash_slice(Arity::Two, &two));
        assert_ne!(hash(&two), hash(&[two[1], two[0]]));
    }

    #[test]
    fn nodes_are_canonical() {
        let modulus = "01000000fffffffffe5bfeff02a4bd5305d8a10908d83933487d9d2953a7ed73";
        let mut node = [0u8; 32];
        hex::decode_to_slice(modulus, &mut node).expect("hex literal of 32 bytes");
        assert_eq!(fr_from_node(&node), None);
        node[0] = 0;
        let largest = fr_from_node(&node).expect("r - 1 is canonical");
        assert_eq!(node_from_fr(&largest), node);
        assert_eq!(largest, -Fr::from(1u64));
    }
}
