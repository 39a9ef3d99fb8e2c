//! The published secrets of the developers' keys: insecure by construction, the same everywhere.
//!
//! Test sectors have no ceremony. Their keys come from a seed that anybody can compute, so that
//! every machine makes the same bytes and no file has to be fetched. Whoever knows the seed can
//! forge any proof under such a key (threat S1): public networks refuse them, and
//! [`is_dev_key`] recognises one by its `alpha`, whatever its file says about itself.

use ark_bls12_381::{Fr, G1Affine};
use ark_ec::{AffineRepr, CurveGroup};
use ark_ff::{AdditiveGroup, PrimeField};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::CircuitId;
use super::groth16::CheckedKey;
use crate::hash::sha256;
use crate::spec::SectorSize;

const DOMAIN: &[u8] = b"holdfast/insecure-dev-parameters/v1/";

/// What a ceremony would destroy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Secrets {
    /// The point at which the circuit's polynomials are evaluated.
    pub tau: Fr,
    /// Groth16's alpha.
    pub alpha: Fr,
    /// Groth16's beta.
    pub beta: Fr,
    /// Groth16's gamma, of the inputs.
    pub gamma: Fr,
    /// Groth16's delta, of the witness.
    pub delta: Fr,
}

impl Secrets {
    /// The published secrets of a circuit: ChaCha20 keyed by the hash of its name, 64 bytes for
    /// each element, reduced, zero and one skipped.
    pub fn published(circuit: CircuitId) -> Secrets {
        let seed = sha256::digest(&[DOMAIN, circuit.to_string().as_bytes()]);
        let mut rng = ChaCha20Rng::from_seed(seed);
        let mut next = || loop {
            let mut bytes = [0u8; 64];
            rng.fill_bytes(&mut bytes);
            let element = Fr::from_le_bytes_mod_order(&bytes);
            if element != Fr::ZERO && element != Fr::from(1u64) {
                return element;
            }
        };
        Secrets {
            tau: next(),
            alpha: next(),
            beta: next(),
            gamma: next(),
            delta: next(),
        }
    }
}

/// SHA-256 of the developers' verifying keys of the sizes that networks for tests use, lower-case hex: every machine
/// must make these bytes.
const VERIFYING_KEYS: [(CircuitId, &str); 7] = [
    (
        CircuitId::porep(SectorSize::Kib2),
        "6cc707fa39c4d29242f1b74ddbc883744a7cb8159126dfe40b00035099fec109",
    ),
    (
        CircuitId::window(SectorSize::Kib2),
        "a42c1192d86f903500964c3a77c2f2f5f5c6b48c0e34378f9f4bbc1521f917f2",
    ),
    (
        CircuitId::winning(SectorSize::Kib2),
        "6c1a51eff67c1dc48ecebe2c7987719160bad2c8776574a15c310222378d23df",
    ),
    (
        CircuitId::porep(SectorSize::Mib8),
        "219473f36e09ff2451c403b2673d3020a6cb4938c2d19b72472f203b624bb691",
    ),
    (
        CircuitId::window(SectorSize::Mib8),
        "6be47f2effd52bf0acfcbab7c124576f292c6251a286b9b8a26605685f4e505a",
    ),
    (
        CircuitId::winning(SectorSize::Mib8),
        "0f9e077d78444e869f9231a4afdee17202a1146811c010174dcc5a71b90e1d99",
    ),
    (
        CircuitId::update(SectorSize::Kib2),
        "210dd6e372e9782a35465e97d878fc9bfcfde2dde42c0fce3df53661a03329b4",
    ),
];

/// The pinned hash of a developers' verifying key, where one is pinned.
pub fn pinned_vk_sha256(circuit: CircuitId) -> Option<&'static str> {
    VERIFYING_KEYS
        .iter()
        .find(|(id, _)| *id == circuit)
        .map(|(_, hash)| *hash)
}

/// Whether this is the key that everybody knows the secrets of.
pub fn is_dev_key(circuit: CircuitId, key: &CheckedKey) -> bool {
    let alpha = G1Affine::generator() * Secrets::published(circuit).alpha;
    key.key().alpha_g1 == alpha.into_affine()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_the_same_on_every_machine() {
        // A change here changes every cached key and every devnet's genesis.
        let secrets = Secrets::published(CircuitId::porep(SectorSize::Kib2));
        let pinned = crate::hash::poseidon::node_from_fr(&secrets.tau);
        assert_eq!(
            hex::encode(pinned),
            "a993ccaa63d5661a10e5b4bfd443351309ba65bfd94fecfdb9a04c7fda059231"
        );
        assert_ne!(
            secrets,
            Secrets::published(CircuitId::porep(SectorSize::Mib8))
        );
    }
}
